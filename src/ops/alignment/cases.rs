//! The problem table.

/// /// Feature maps to test and measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tests and benches.
    pub name: &'static str,
    /// `n t h w c` of the features; maps and targets are `n t h w`.
    pub x: [usize; 5],
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// `n t h w` of the maps.
    pub const fn map(&self) -> [usize; 4] {
        let [n, t, h, w, _] = self.x;
        [n, t, h, w]
    }

    /// /// Arithmetic operations of the forward channel map: a sum for the weights, a product and a sum for the map.
    pub fn flops(&self) -> u64 {
        3 * self.x.iter().product::<usize>() as u64
    }

    /// /// Minimum memory traffic of the forward channel map of one gradient (the released form): read it, write the
    /// map.
    pub fn bytes(&self) -> u64 {
        4 * (self.x.iter().product::<usize>() + self.map().iter().product::<usize>()) as u64
    }
}

const fn case(name: &'static str, x: [usize; 5], why: &'static str) -> Case {
    Case { name, x, why }
}

/// /// Small shapes, ragged shapes, and those of MCL.
pub const CASES: &[Case] = &[
    case("tiny", [1, 2, 1, 2, 3], "readable by eye"),
    case("one", [1, 1, 1, 1, 1], "the smallest"),
    case("ragged", [3, 3, 5, 2, 37], "no extent divides a vector, a warp or a block"),
    case("still", [2, 1, 4, 3, 8], "one frame: nothing to weigh over time"),
    case("point", [2, 5, 1, 1, 20], "one cell: nothing to weigh over space"),
    case("wide", [1, 2, 9, 11, 132], "more cells than a warp has lanes, channels of sixteen bytes but no tile"),
    case("p3d-18", [4, 4, 4, 4, 512], "MCL's 18-layer form at 112 pixels"),
    case("frames-32", [2, 8, 7, 7, 512], "clips of 32 frames"),
    case("p3d-50", [2, 4, 7, 7, 2048], "mcl.md 2.1: layer4 of P3D-A ResNet-50, two clips"),
];

/// /// A training batch of the paper on one GPU (`docs/papers/mcl.md` section 4).
pub const BATCH: Case = case("p3d-50-batch", [8, 4, 7, 7, 2048], "mcl.md 4: eight clips");
