//! Table of convolutions for tests and benches.

use super::{Conv3d, Geometry};
use crate::shape::Window;

/// One convolution, and why it is in the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Short name, for benches and failures.
    pub name: &'static str,
    /// Input `n t h w c`.
    pub x: [usize; 5],
    /// Output channels.
    pub k: usize,
    /// Filter extents `kt kh kw`.
    pub kernel: [usize; 3],
    /// Stride, padding, dilation, groups.
    pub geometry: Geometry,
    /// What only this row covers.
    pub why: &'static str,
}

impl Case {
    /// The extents.
    ///
    /// # Panics
    /// When the row contradicts itself; a test builds every row.
    pub fn problem(&self) -> Conv3d {
        let [kt, kh, kw] = self.kernel;
        let w = [self.k, kt, kh, kw, self.x[4] / self.geometry.groups];
        Conv3d::new("conv3d", self.x.into(), w.into(), &self.geometry).expect("a row of the table is valid")
    }
}

const fn case(
    name: &'static str,
    x: [usize; 5],
    k: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
    why: &'static str,
) -> Case {
    Case { name, x, k, kernel, geometry: Geometry::new(Window::same(kernel).strided(stride)), why }
}

const fn custom(
    name: &'static str,
    x: [usize; 5],
    k: usize,
    kernel: [usize; 3],
    [stride, pad, dilation]: [[usize; 3]; 3],
    groups: usize,
    why: &'static str,
) -> Case {
    let window = Window { stride, pad, dilation };
    Case { name, x, k, kernel, geometry: Geometry { groups, ..Geometry::new(window) }, why }
}

/// Small rows, for tests: every code path and every edge case, in well under a second.
pub const SMALL: &[Case] = &[
    case("one", [1, 1, 1, 1, 1], 1, [1, 1, 1], [1, 1, 1], "a single product"),
    case("tiny", [1, 2, 3, 4, 2], 3, [3, 3, 3], [1, 1, 1], "padding on every side of everything"),
    case("ragged", [2, 3, 5, 7, 5], 7, [3, 3, 3], [1, 1, 1], "no extent divides a tile"),
    case("pointwise", [2, 2, 5, 5, 19], 33, [1, 1, 1], [1, 1, 1], "a matrix product, one channel past two vectors"),
    case("pointwise-strided", [1, 4, 6, 6, 8], 16, [1, 1, 1], [2, 2, 2], "projection shortcuts: most of dx is 0"),
    case("stem-49", [1, 3, 17, 19, 3], 45, [1, 7, 7], [1, 2, 2], "R(2+1)D stem: three channels, 45 filters"),
    case("stem-5", [1, 6, 15, 15, 3], 8, [5, 7, 7], [2, 2, 2], "MaCLR's visual stem"),
    case("stem-27", [2, 4, 9, 16, 3], 16, [3, 3, 3], [1, 1, 1], "stem of the small networks"),
    case("gray", [1, 3, 9, 9, 1], 4, [3, 3, 3], [1, 1, 1], "one channel (motion maps)"),
    case("spatial", [1, 3, 14, 14, 16], 36, [1, 3, 3], [1, 1, 1], "R(2+1)D in space; the middle width is odd"),
    case("temporal", [1, 6, 7, 7, 36], 16, [3, 1, 1], [1, 1, 1], "R(2+1)D in time"),
    case("temporal-strided", [1, 7, 5, 5, 23], 16, [3, 1, 1], [2, 1, 1], "residue classes in time, odd extent"),
    case("spatial-strided", [1, 2, 13, 12, 16], 40, [1, 3, 3], [1, 2, 2], "residue classes in space, odd and even"),
    case("dense-strided", [2, 5, 9, 8, 9], 10, [3, 3, 3], [2, 2, 2], "eight residue classes"),
    case("wide", [1, 1, 4, 4, 70], 65, [1, 3, 3], [1, 1, 1], "several blocks of channels on both sides"),
    case("deep", [1, 1, 3, 3, 300], 16, [3, 3, 3], [1, 1, 1], "the reduction is cut"),
    custom(
        "dilated",
        [1, 5, 9, 9, 6],
        5,
        [3, 3, 3],
        [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        1,
        "taps apart, padding to match",
    ),
    custom(
        "dilated-strided",
        [1, 7, 11, 10, 6],
        5,
        [2, 3, 3],
        [[2, 2, 3], [1, 2, 0], [2, 3, 2]],
        1,
        "dilation and stride share a factor on one axis and not on others",
    ),
    custom(
        "skipping",
        [1, 5, 7, 7, 4],
        6,
        [1, 2, 2],
        [[2, 3, 3], [0, 0, 0], [1, 1, 1]],
        1,
        "some inputs are never read",
    ),
    custom("grouped", [2, 3, 6, 6, 12], 18, [1, 3, 3], [[1, 1, 1], [0, 1, 1], [1, 1, 1]], 3, "three groups"),
    custom("depthwise", [1, 3, 6, 6, 17], 17, [3, 3, 3], [[1, 1, 1], [1, 1, 1], [1, 1, 1]], 17, "a group per channel"),
    custom(
        "even",
        [1, 4, 6, 6, 5],
        6,
        [2, 2, 4],
        [[1, 1, 1], [1, 0, 3], [1, 1, 1]],
        1,
        "even filters, unequal padding",
    ),
    custom("far", [1, 2, 3, 3, 4], 4, [1, 3, 3], [[1, 1, 1], [1, 4, 4], [1, 1, 1]], 1, "outputs that see only padding"),
    custom(
        "patches",
        [1, 9, 11, 13, 3],
        10,
        [4, 7, 7],
        [[4, 2, 2], [0, 3, 3], [1, 1, 1]],
        1,
        "MCL's stem: an even kernel steps over frames, and the last frame is left over",
    ),
];

/// Real layers, for benches.
pub const LAYERS: &[Case] = &[
    case("r21d-stem", [1, 16, 112, 112, 3], 45, [1, 7, 7], [1, 2, 2], "R(2+1)D-18 stem in space"),
    case("r21d-stem-t", [1, 16, 56, 56, 45], 64, [3, 1, 1], [1, 1, 1], "R(2+1)D-18 stem in time"),
    case("r21d-1s", [1, 16, 56, 56, 64], 144, [1, 3, 3], [1, 1, 1], "R(2+1)D-18 stage 1 in space"),
    case("r21d-1t", [1, 16, 56, 56, 144], 64, [3, 1, 1], [1, 1, 1], "R(2+1)D-18 stage 1 in time"),
    case("r21d-2s-down", [1, 16, 56, 56, 64], 230, [1, 3, 3], [1, 2, 2], "R(2+1)D-18 stage 2, strided in space"),
    case("r21d-2t-down", [1, 16, 28, 28, 230], 128, [3, 1, 1], [2, 1, 1], "R(2+1)D-18 stage 2, strided in time"),
    case("r21d-2s", [1, 8, 28, 28, 128], 288, [1, 3, 3], [1, 1, 1], "R(2+1)D-18 stage 2 in space"),
    case("r21d-2t", [1, 8, 28, 28, 288], 128, [3, 1, 1], [1, 1, 1], "R(2+1)D-18 stage 2 in time"),
    case("r21d-3s", [1, 4, 14, 14, 256], 576, [1, 3, 3], [1, 1, 1], "R(2+1)D-18 stage 3 in space"),
    case("r21d-3t", [1, 4, 14, 14, 576], 256, [3, 1, 1], [1, 1, 1], "R(2+1)D-18 stage 3 in time"),
    case("r21d-4s", [2, 2, 7, 7, 512], 1152, [1, 3, 3], [1, 1, 1], "R(2+1)D-18 stage 4 in space: all weights"),
    case("r21d-4t", [2, 2, 7, 7, 1152], 512, [3, 1, 1], [1, 1, 1], "R(2+1)D-18 stage 4 in time"),
    case("slow-stem", [1, 8, 224, 224, 3], 64, [1, 7, 7], [1, 2, 2], "SlowOnly-R50 stem"),
    case("slow-2a", [1, 8, 56, 56, 256], 64, [1, 1, 1], [1, 1, 1], "SlowOnly-R50 stage 2, reduce"),
    case("slow-2b", [1, 8, 56, 56, 64], 64, [1, 3, 3], [1, 1, 1], "SlowOnly-R50 stage 2, middle"),
    case("slow-2c", [1, 8, 56, 56, 64], 256, [1, 1, 1], [1, 1, 1], "SlowOnly-R50 stage 2, expand"),
    case("slow-3-down", [1, 8, 56, 56, 256], 512, [1, 1, 1], [1, 2, 2], "SlowOnly-R50 stage 3, shortcut"),
    case("slow-3b-down", [1, 8, 56, 56, 128], 128, [1, 3, 3], [1, 2, 2], "SlowOnly-R50 stage 3, strided middle"),
    case("slow-4a", [1, 8, 14, 14, 1024], 256, [3, 1, 1], [1, 1, 1], "SlowOnly-R50 stage 4, reduce over time"),
    case("slow-4b", [1, 8, 14, 14, 256], 256, [1, 3, 3], [1, 1, 1], "SlowOnly-R50 stage 4, middle"),
    case("slow-5a", [1, 8, 7, 7, 2048], 512, [3, 1, 1], [1, 1, 1], "SlowOnly-R50 stage 5, reduce over time"),
    case("slow-5b", [1, 8, 7, 7, 512], 512, [1, 3, 3], [1, 1, 1], "SlowOnly-R50 stage 5, middle"),
    case("slow-5c", [1, 8, 7, 7, 512], 2048, [1, 1, 1], [1, 1, 1], "SlowOnly-R50 stage 5, expand"),
    custom(
        "p3d-stem",
        [1, 16, 224, 224, 3],
        64,
        [4, 7, 7],
        [[4, 2, 2], [0, 3, 3], [1, 1, 1]],
        1,
        "P3D-A stem: four frames to one",
    ),
    case("p3d-2t", [1, 4, 56, 56, 64], 64, [3, 1, 1], [1, 1, 1], "P3D-A stage 2 in time, as many channels as before"),
    case("p3d-5t", [1, 4, 7, 7, 512], 512, [3, 1, 1], [1, 1, 1], "P3D-A stage 5 in time"),
    case("small-stem", [8, 8, 64, 64, 3], 16, [3, 3, 3], [1, 1, 1], "small R3D stem"),
    case("small-1", [8, 8, 64, 64, 16], 16, [3, 3, 3], [1, 1, 1], "small R3D, 16 channels"),
    case("small-2-down", [8, 8, 64, 64, 16], 32, [3, 3, 3], [2, 2, 2], "small R3D, 16 to 32 channels"),
    case("small-2", [8, 4, 32, 32, 32], 32, [3, 3, 3], [1, 1, 1], "small R3D, 32 channels"),
    case("small-3", [8, 2, 16, 16, 64], 64, [3, 3, 3], [1, 1, 1], "small R3D, 64 channels"),
    case("small-4", [8, 1, 8, 8, 128], 128, [3, 3, 3], [1, 1, 1], "small R3D, 128 channels"),
    case("r3d-64", [1, 16, 56, 56, 64], 64, [3, 3, 3], [1, 1, 1], "R3D-18 stage 1"),
];
