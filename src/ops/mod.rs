//! The operations, one folder each: `mod.rs` (parameters, checks, eager functions), `reference.rs` (the definition:
//! plain loops in f32 and f64), `cpu.rs`, `cuda.rs`, `grad.rs` (recording on the tape), `cases.rs` (the table of
//! problems for tests and benches).

mod addresses;
mod divisor;
mod lanes;
mod launch;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
#[cfg(any(test, feature = "testing"))]
pub mod sizes;
mod vector;
#[cfg(target_arch = "x86_64")]
mod ymm;
#[cfg(target_arch = "x86_64")]
mod zmm;

// Primitives, of which second-order gradients are composed.
pub mod arith;
pub mod convert;
pub mod matmul;
pub mod reduce;
pub mod unary;

// Layers.
pub mod batch_norm;
pub mod conv3d;
pub mod conv_norm;
pub mod l2_norm;
pub mod linear;
pub mod pool3d;
pub mod relu;

// Losses.
pub mod alignment;
pub mod cross_entropy;
pub mod infonce;

// Updates of weights.
pub mod ema;
pub mod sgd;

// Motion.
pub mod motion_map;
pub mod tvl1;

/// Every kernel that this library may launch, as declared, for comparison with the PTX in a test.
#[must_use]
pub fn kernels() -> Vec<crate::driver::Declared> {
    [
        crate::tensor::kernels(),
        alignment::cuda::kernels(),
        arith::cuda::kernels(),
        batch_norm::cuda::kernels(),
        conv3d::cuda::kernels(),
        cross_entropy::cuda::kernels(),
        ema::cuda::kernels(),
        infonce::cuda::kernels(),
        l2_norm::cuda::kernels(),
        matmul::cuda::kernels(),
        motion_map::cuda::kernels(),
        pool3d::cuda::kernels(),
        reduce::cuda::kernels(),
        relu::cuda::kernels(),
        sgd::cuda::kernels(),
        tvl1::cuda::kernels(),
        unary::cuda::kernels(),
    ]
    .concat()
}

pub use addresses::Workspace;
pub use alignment::{channel_map, map_alignment};
pub use arith::{add, div, mul, scale, sub};
pub use batch_norm::batch_norm;
pub use conv_norm::{Activation, conv_norm};
pub use conv3d::conv3d;
pub use convert::{cast, reshape};
pub use cross_entropy::{cross_entropy, softmax};
pub use infonce::{infonce, infonce_masked, infonce_terms};
pub use l2_norm::l2_norm;
pub use linear::linear;
pub use matmul::matmul;
pub use pool3d::{avg_pool, global_avg_pool, max_pool};
pub use reduce::{broadcast_to, mean, sum, sum_to};
pub use relu::relu;
pub use unary::{exp, ln, recip, sqrt};
