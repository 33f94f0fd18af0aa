//! The five networks of the comparison.

use tubelet::nn::Net;

/// Their names and the size `t h w` of the clips they are trained on.
pub fn nets() -> [(&'static str, Net, [usize; 3]); 5] {
    [
        ("r2plus1d_18", Net::r2plus1d_18(), [16, 112, 112]),
        ("slow_r50", Net::slow_r50(), [8, 224, 224]),
        ("cvrl_r3d50", Net::cvrl_r3d50(), [8, 224, 224]),
        ("p3d_a50", Net::p3d_a50(), [16, 224, 224]),
        ("r3d_18", Net::r3d_18(), [16, 112, 112]),
    ]
}
