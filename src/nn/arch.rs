//! The networks that have a name of their own.

use super::conv::ConvSpec;
use super::nets::{Naming, Net};
use super::p3d::P3d;
use std::fmt;

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Naming::Torchvision => f.write_str("torchvision's video models"),
            Naming::PytorchVideo => f.write_str("pytorchvideo"),
            Naming::SlowFast { pathway } => write!(f, "SlowFast, pathway {pathway}"),
            Naming::Image => f.write_str("torchvision's image ResNets"),
        }
    }
}

/// A network by its name.
#[derive(Clone, Copy, Debug)]
pub struct Arch {
    /// The name, as options take it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    net: fn() -> Net,
}

impl Arch {
    /// The one called `name`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Arch> {
        ARCHES.iter().find(|arch| arch.name == name)
    }

    /// The one with this table.
    #[must_use]
    pub fn of(net: &Net) -> Option<&'static Arch> {
        ARCHES.iter().find(|arch| arch.net() == *net)
    }

    /// Its table.
    #[must_use]
    pub fn net(&self) -> Net {
        (self.net)()
    }
}

/// All networks that have a name.
pub const ARCHES: &[Arch] = &[
    Arch { name: "cvrl_r3d50", about: "MaCLR's visual network, CVRL's R3D-50", net: Net::cvrl_r3d50 },
    Arch {
        name: "motion_r2d50",
        about: "MaCLR's motion network: 2D kernels, an eighth of the width",
        net: motion_r2d50,
    },
    Arch {
        name: "motion_r2d50_stem5",
        about: "the same with a stem of temporal extent 5, as the code of MaCLR's release builds it",
        net: motion_r2d50_stem5,
    },
    Arch { name: "motion_r3d50", about: "its 3D variant", net: motion_r3d50 },
    Arch { name: "slow_r50", about: "the Slow network of SlowFast, pytorchvideo's slow_r50", net: Net::slow_r50 },
    Arch { name: "r3d_18", about: "torchvision's r3d_18", net: Net::r3d_18 },
    Arch { name: "r2plus1d_18", about: "torchvision's r2plus1d_18", net: Net::r2plus1d_18 },
    Arch { name: "p3d_a50", about: "MCL's network, P3D-A of 50 layers", net: Net::p3d_a50 },
    Arch { name: "p3d_a18", about: "P3D-A of 18 layers", net: Net::p3d_a18 },
    Arch { name: "r2d50", about: "torchvision's image network resnet50, frame by frame", net: r2d50 },
];

const VALID: &str = "the published numbers are valid; a test builds it";

fn motion_r2d50() -> Net {
    Net::motion_r2d50(8).expect(VALID)
}

fn motion_r2d50_stem5() -> Net {
    let net = motion_r2d50();
    let stem = net.stem.iter().map(|spec| ConvSpec { kernel: [5, 7, 7], ..*spec }).collect();
    Net { stem, ..net }
}

fn motion_r3d50() -> Net {
    Net::motion_r3d50(8).expect(VALID)
}

fn r2d50() -> Net {
    P3d::default().image().expect(VALID)
}
