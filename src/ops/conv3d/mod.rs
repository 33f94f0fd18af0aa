//! 3D convolution (cross-correlation, as in every network library) and its two gradients.
//!
//! Activations `x` are `n t h w c`, filters `w` are `k kt kh kw c/groups`, the result `y` is `n to ho wo k`:
//!
//! `y[n, o, k] = Σ over taps a and channels c of  x[n, o·stride + a·dilation - pad, c] · w[k, a, c]`
//!
//! where `o` and `a` stand for three coordinates each, and `x` is 0 outside its extents. The map is linear in `x` and
//! in `w`; [`fprop`] applies it, [`dgrad`] and [`wgrad`] are its adjoints in each argument, so that `⟨fprop(x, w), dy⟩
//! = ⟨x, dgrad(dy, w)⟩ = ⟨w, wgrad(x, dy)⟩`. See `docs/math/conv3d.md`.
//!
//! ```
//! use tubelet::{ops::conv3d, shape::Window, tensor::{Device, Tensor}};
//! let (device, _) = Device::auto(); // the first GPU, or the CPU
//! let clip = Tensor::full([1, 4, 8, 8, 3], 1.0).to(&device)?;
//! let filters = Tensor::full([16, 3, 3, 3, 3], 0.5).to(&device)?;
//! let y = conv3d::fprop(&clip, &filters, &Window::same([3, 3, 3]).strided([1, 2, 2]).into())?;
//! assert_eq!(y.dims(), [1, 4, 4, 4, 16]);
//! assert_eq!(y.load()?[16 * 4 * 5 + 16], 0.5 * 3.0 * 27.0); // inside, every tap sees the clip
//! # Ok::<(), tubelet::error::Error>(())
//! ```
//!
//! [`raw`] works on device memory that you allocate. [`fusion`] adds the operations that surround convolutions in
//! networks.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod chosen;
mod cpu;
pub(super) mod cuda;
pub mod fusion;
mod grad;
pub mod raw;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

#[cfg(any(test, feature = "testing"))]
pub use chosen::{dgrad_with, formed_apart, fprop_with, on_tile, on_tile_between, on_tile_normed, tiles, wgrad_with};
#[cfg(not(any(test, feature = "testing")))]
use chosen::{dgrad_with, fprop_with, wgrad_with};
#[cfg(any(test, feature = "testing"))]
pub use cuda::{
    Launched,
    rows::{Begins, FORMS, ask as operands_begin},
};
pub use grad::conv3d;
pub(in crate::ops) use grad::dgrad_formed;
pub(in crate::ops) use grad::{dgrad_recorded, recorded, wgrad_recorded};

use crate::cpu::Isa;
use crate::error::{Error, Result};
use crate::shape::{Shape, Window};
use crate::tensor::Tensor;

/// What is computed of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `y` from `x` and `w`.
    Fprop,
    /// `dx` from `dy` and `w`.
    Dgrad,
    /// `dw` from `x` and `dy`.
    Wgrad,
}

/// Window, groups and arithmetic of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Stride, padding and dilation.
    pub window: Window,
    /// Number of groups into which the channels are divided, each convolved separately; 1 is the usual case, `c` is
    /// depthwise.
    pub groups: usize,
    /// How products of f32 numbers are computed.
    pub products: Products,
}

impl Geometry {
    /// One group, f32 products.
    #[must_use]
    pub const fn new(window: Window) -> Self {
        Geometry { window, groups: 1, products: Products::F32 }
    }

    /// The same geometry with other products.
    #[must_use]
    pub const fn with(self, products: Products) -> Self {
        Geometry { products, ..self }
    }
}

/// How products of f32 numbers are computed. A number `x` can be split into a sum of bf16 terms `x0 + x1 + x2`, each
/// the rounded remainder of those before it, with 8 bits of significand each. AMX tiles multiply bf16 many times faster
/// than vectors multiply f32, and accumulate in f32, so a few products of bf16 terms replace a product of f32.
///
/// This is a preference: on a machine without AMX, and on a GPU, products are computed in f32. It has no effect on bf16
/// tensors. Splitting an infinite number gives NaN.
///
/// **Range.** AMX, and AVX-512's products of bf16, treat terms and sums below [`f32::MIN_POSITIVE`], 2⁻¹²⁶, as 0. For numbers from
/// [`Products::EXACT_FROM`] on, this loses nothing that three terms would have kept; a smaller number has an error of
/// up to 2⁻¹²⁶ (6·10⁻⁴ of a number of 10⁻³⁵), and one below 2⁻¹²⁶ becomes 0, in bf16 tensors too. Products and their
/// sums lose at most their own part below 2⁻¹²⁶, term by term. [`Products::Fma`] has the full range of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Products {
    /// As exact as f32 for numbers from [`Products::EXACT_FROM`] on, by the fastest method: multiply-adds, as
    /// [`Products::Bf16x6`] where that is faster, or on a CPU with fewer products for 3x3 windows (F(2x2, 3x3), `docs/math/conv3d.md`),
    /// whose errors are relative to the magnitudes in a tile of 4x4 inputs.
    #[default]
    F32,
    /// By f32 multiply-adds on every machine, one for each product.
    Fma,
    /// `x0·y0 + x0·y1 + x1·y0`: the omitted terms are of the order of 2⁻¹⁶ of a product.
    Bf16x3,
    /// The same plus `x1·y1 + x0·y2 + x2·y0`: as exact as f32 for numbers from [`Products::EXACT_FROM`] on.
    Bf16x6,
}

impl Products {
    /// The smallest magnitude, 2⁻¹⁰² or 2·10⁻³¹, at which three bf16 terms on AMX tiles keep as much as f32 does: the
    /// lost part, below 2⁻¹²⁶, is less than 2⁻²⁴ of the number, half of its last place.
    pub const EXACT_FROM: f32 = 1.0 / ((1u64 << 51) as f32 * (1u64 << 51) as f32);
}

impl From<Window> for Geometry {
    fn from(window: Window) -> Self {
        Geometry::new(window)
    }
}

/// All extents of one convolution, checked, so that indices computed from them are within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv3d {
    /// Samples.
    n: usize,
    /// Input extents `t h w`.
    input: [usize; 3],
    /// Input channels.
    c: usize,
    /// Output channels.
    k: usize,
    /// Filter extents `kt kh kw`.
    kernel: [usize; 3],
    /// Output extents `to ho wo`.
    out: [usize; 3],
    /// Stride, padding, dilation, groups.
    geometry: Geometry,
}

impl Conv3d {
    /// The convolution of an input of shape `x` (`n t h w c`) with filters of shape `w` (`k kt kh kw c/groups`).
    ///
    /// # Errors
    /// `Shape` when a rank is not 5, the channels do not fit together, or one of the three arrays would exceed the
    /// maximum size of a tensor; `Param` when the number of groups does not divide both channel counts, the filter
    /// exceeds the padded input, or a number of the window is out of range ([`Window::out`]).
    pub fn new(op: &'static str, x: Shape, w: Shape, geometry: &Geometry) -> Result<Self> {
        let [n, t, h, width, c] = x.check(op, "x")?.nthwc(op, "x")?;
        if w.check(op, "w")?.rank() != 5 {
            return Err(Error::shape(op, "w", "k kt kh kw c", w));
        }
        let &[k, kt, kh, kw, wc] = w.dims() else { unreachable!("the rank is 5") };
        let groups = geometry.groups;
        if groups == 0 || !c.is_multiple_of(groups) || !k.is_multiple_of(groups) {
            let rule = format!("it must divide the {c} input and the {k} output channels");
            return Err(Error::param(op, "groups", groups, rule));
        }
        if wc.checked_mul(groups) != Some(c) {
            let hint =
                if wc.checked_mul(groups) == Some(t) { " (is the input n c t h w? It must be n t h w c)" } else { "" };
            let want = format!("k kt kh kw {} for an input {x} in {groups} groups{hint}", c / groups);
            return Err(Error::shape(op, "w", want, w));
        }
        let (input, kernel) = ([t, h, width], [kt, kh, kw]);
        let out = geometry.window.out(op, input, kernel)?;
        let p = Conv3d { n, input, c, k, kernel, out, geometry: *geometry };
        p.y_shape().check(op, "y")?;
        Ok(p)
    }

    /// Samples.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input extents `t h w`.
    #[must_use]
    pub fn input(&self) -> [usize; 3] {
        self.input
    }

    /// Input channels.
    #[must_use]
    pub fn c(&self) -> usize {
        self.c
    }

    /// Output channels.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Filter extents `kt kh kw`.
    #[must_use]
    pub fn kernel(&self) -> [usize; 3] {
        self.kernel
    }

    /// Output extents `to ho wo`.
    #[must_use]
    pub fn out(&self) -> [usize; 3] {
        self.out
    }

    /// Stride, padding, dilation, groups.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// `n t h w c`.
    #[must_use]
    pub fn x_shape(&self) -> Shape {
        let [t, h, w] = self.input;
        [self.n, t, h, w, self.c].into()
    }

    /// `k kt kh kw c/groups`.
    #[must_use]
    pub fn w_shape(&self) -> Shape {
        let [kt, kh, kw] = self.kernel;
        [self.k, kt, kh, kw, self.c_group()].into()
    }

    /// `n to ho wo k`.
    #[must_use]
    pub fn y_shape(&self) -> Shape {
        let [t, h, w] = self.out;
        [self.n, t, h, w, self.k].into()
    }

    /// Whether one of the three arrays has no elements. The others are then 0, and there is nothing to plan.
    fn is_empty(&self) -> bool {
        [self.x_shape(), self.w_shape(), self.y_shape()].iter().any(Shape::is_empty)
    }

    /// Input channels per group.
    #[must_use]
    pub fn c_group(&self) -> usize {
        self.c / self.geometry.groups
    }

    /// Output channels per group.
    #[must_use]
    pub fn k_group(&self) -> usize {
        self.k / self.geometry.groups
    }

    /// Taps per filter.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Floating-point operations of one pass, two per product with a tap (including taps on the padding).
    #[must_use]
    pub fn flops(&self) -> u64 {
        [self.y_shape().len(), self.taps(), self.c_group()].into_iter().fold(2, |n: u64, v| n.saturating_mul(v as u64))
    }

    /// Bytes of the three arrays in f32.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        4 * (self.x_shape().len() + self.w_shape().len() + self.y_shape().len()) as u64
    }
}

/// `y`, in the data type of `x`.
///
/// # Errors
/// As [`Conv3d::new`]; `Device` when `x` and `w` are on different devices; on a GPU also errors of its driver.
pub fn fprop(x: &Tensor, w: &Tensor, g: &Geometry) -> Result<Tensor> {
    fprop_with(Isa::best(), x, w, g)
}

/// The gradient by `x` given that by `y`, in the data type of `dy`.
///
/// # Errors
/// As [`Conv3d::new`], and `Shape` when `dy` does not have the shape of `y`.
pub fn dgrad(dy: &Tensor, w: &Tensor, x_shape: Shape, g: &Geometry) -> Result<Tensor> {
    dgrad_with(Isa::best(), dy, w, x_shape, g)
}

/// The gradient by `w` given that by `y`, always f32.
///
/// # Errors
/// As [`dgrad`].
pub fn wgrad(x: &Tensor, dy: &Tensor, w_shape: Shape, g: &Geometry) -> Result<Tensor> {
    wgrad_with(Isa::best(), x, dy, w_shape, g)
}

fn check_dy(op: &'static str, p: &Conv3d, dy: &Tensor) -> Result<()> {
    if dy.shape() == p.y_shape() { Ok(()) } else { Err(Error::shape(op, "dy", p.y_shape(), dy.shape())) }
}
