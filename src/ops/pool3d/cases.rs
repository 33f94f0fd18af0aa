//! The pools of the networks, and edge cases of the index arithmetic.

use crate::shape::Window;

/// One pool.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in benchmarks.
    pub name: &'static str,
    /// `n t h w c`.
    pub x: [usize; 5],
    /// `kt kh kw`.
    pub kernel: [usize; 3],
    /// Stride, padding and dilation.
    pub window: Window,
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Elements of the result.
    fn outputs(&self) -> usize {
        let [n, t, h, w, c] = self.x;
        let out = self.window.out("pool3d", [t, h, w], self.kernel).expect("a case is valid");
        n * c * out.iter().product::<usize>()
    }

    /// Additions or comparisons of the forward pass.
    pub fn flops(&self) -> usize {
        self.outputs() * self.kernel.iter().product::<usize>()
    }

    /// Minimum memory traffic of the forward pass in bytes, f32 (for a maximum, without the positions).
    pub fn bytes(&self) -> usize {
        4 * (self.x.iter().product::<usize>() + self.outputs())
    }
}

const fn case(
    name: &'static str,
    x: [usize; 5],
    kernel: [usize; 3],
    stride: [usize; 3],
    pad: [usize; 3],
    why: &'static str,
) -> Case {
    Case { name, x, kernel, window: Window { stride, pad, dilation: [1; 3] }, why }
}

/// Small shapes, ragged shapes, and the pools of the networks.
pub const CASES: &[Case] = &[
    case("one", [1, 1, 1, 1, 1], [1; 3], [1; 3], [0; 3], "the smallest"),
    case("overlap", [2, 5, 7, 6, 3], [3; 3], [2; 3], [1; 3], "windows overlap and hang over every edge"),
    case("gaps", [1, 7, 8, 9, 5], [2, 1, 2], [3, 2, 3], [0; 3], "some inputs belong to no window"),
    case("unit_stride", [1, 4, 5, 5, 17], [3, 3, 2], [1; 3], [1, 0, 1], "each input belongs to many windows"),
    Case {
        name: "dilated",
        x: [1, 6, 7, 8, 4],
        kernel: [2, 3, 2],
        window: Window { stride: [1, 2, 1], pad: [0, 1, 1], dilation: [3, 2, 2] },
        why: "taps apart",
    },
    case("stem", [2, 8, 56, 56, 64], [1, 3, 3], [1, 2, 2], [0, 1, 1], "after the first convolution of a 50-layer net"),
    case("temporal", [2, 8, 28, 28, 256], [2, 1, 1], [2, 1, 1], [0; 3], "halves the frames"),
];
