//! 3-D convolution (cross-correlation, as every network library means it) and its two gradients.
//!
//! Activations `x` are `n t h w c`, filters `w` are `k kt kh kw c/groups`, the result `y` is `n to ho wo k`:
//!
//! `y[n, o, k] = Σ over taps a and channels c of  x[n, o·stride + a·dilation - pad, c] · w[k, a, c]`
//!
//! with `o` and `a` standing for three coordinates each, and `x` read as 0 outside of its extents. The map is linear
//! in `x` and in `w`; [`fprop`] applies it, [`dgrad`] and [`wgrad`] are its adjoints in each argument, so that
//! `⟨fprop(x, w), dy⟩ = ⟨x, dgrad(dy, w)⟩ = ⟨w, wgrad(x, dy)⟩`. See `docs/math/conv3d.md`.
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
//! On memory of your own: [`raw`]. With what networks put before and after the products: [`fusion`].

pub mod cases;
mod cpu;
pub(super) mod cuda;
pub mod fusion;
mod grad;
pub mod raw;
pub mod reference;

pub use cuda::plan::Pass;
pub(in crate::ops) use grad::recorded;
pub use grad::{conv3d, dgrad_recorded, wgrad_recorded};

use crate::cpu::Isa;
use crate::error::{Error, Result};
use crate::shape::{Shape, Window};
use crate::tensor::{Place, Tensor};
use fusion::{Epilogue, Prologue};

/// How the filters move over the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Stride, padding and dilation.
    pub window: Window,
    /// Channels fall into this many groups, each convolved by itself; 1 is the usual case, `c` is depthwise.
    pub groups: usize,
    /// How products of f32 numbers are formed.
    pub products: Products,
}

impl Geometry {
    /// One group, products in f32.
    pub const fn new(window: Window) -> Self {
        Geometry { window, groups: 1, products: Products::F32 }
    }

    /// The same with other products.
    pub const fn with(self, products: Products) -> Self {
        Geometry { products, ..self }
    }
}

/// How products of f32 numbers are formed. A number `x` is the sum of parts `x0 + x1 + x2` in bf16, each the rounding of
/// what those before it left: 8 bits of significand each. Tiles multiply bf16 many times faster than vectors multiply f32,
/// and add in f32, so a few products of parts make a product of f32.
///
/// This is a wish: where a machine has no tiles (and on a GPU) products are f32's own. Tensors of bf16 have no parts; for
/// them it means nothing. Parts are no match for an infinite number, which gives NaN.
///
/// **Range.** Tiles take a part below [`f32::MIN_POSITIVE`], 2⁻¹²⁶, for 0, and so they do a sum. Of a number from
/// [`Products::EXACT_FROM`] on nothing is lost that three parts would have kept; a smaller one is taken with an error of up to
/// 2⁻¹²⁶ (6·10⁻⁴ of a number of 10⁻³⁵), and one below 2⁻¹²⁶ as 0, in tensors of bf16 too. Of products and their sums no more
/// than their own part below 2⁻¹²⁶ is lost, term by term. [`Products::Fma`] has the whole range of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Products {
    /// As exact as f32 for numbers from [`Products::EXACT_FROM`] on, and as fast as can be: by multiply-adds, or like
    /// [`Products::Bf16x6`] where that is faster.
    #[default]
    F32,
    /// By multiply-adds of f32 on every machine.
    Fma,
    /// `x0·y0 + x0·y1 + x1·y0`: what is left out is of the order 2⁻¹⁶ of a product.
    Bf16x3,
    /// Those and `x1·y1 + x0·y2 + x2·y0`: as exact as f32 for numbers from [`Products::EXACT_FROM`] on.
    Bf16x6,
}

impl Products {
    /// The least size of a number, 2⁻¹⁰² or 2·10⁻³¹, of which three parts in tiles keep as much as f32 does: what is below
    /// 2⁻¹²⁶ of it, and lost, is less than 2⁻²⁴ of the number, half of its last place.
    pub const EXACT_FROM: f32 = 1.0 / ((1u64 << 51) as f32 * (1u64 << 51) as f32);
}

impl From<Window> for Geometry {
    fn from(window: Window) -> Self {
        Geometry::new(window)
    }
}

/// All extents of one convolution, checked: whoever holds one may index without looking.
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
    /// `Shape` when a rank is not 5, the channels do not fit together, or one of the three arrays would be larger than any
    /// tensor; `Param` when the number of groups does not divide both channel counts, the filter exceeds the padded input, or
    /// a number of the window is out of range ([`Window::out`]).
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
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input extents `t h w`.
    pub fn input(&self) -> [usize; 3] {
        self.input
    }

    /// Input channels.
    pub fn c(&self) -> usize {
        self.c
    }

    /// Output channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Filter extents `kt kh kw`.
    pub fn kernel(&self) -> [usize; 3] {
        self.kernel
    }

    /// Output extents `to ho wo`.
    pub fn out(&self) -> [usize; 3] {
        self.out
    }

    /// Stride, padding, dilation, groups.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// `n t h w c`.
    pub fn x_shape(&self) -> Shape {
        let [t, h, w] = self.input;
        [self.n, t, h, w, self.c].into()
    }

    /// `k kt kh kw c/groups`.
    pub fn w_shape(&self) -> Shape {
        let [kt, kh, kw] = self.kernel;
        [self.k, kt, kh, kw, self.c_group()].into()
    }

    /// `n to ho wo k`.
    pub fn y_shape(&self) -> Shape {
        let [t, h, w] = self.out;
        [self.n, t, h, w, self.k].into()
    }

    /// Whether one of the three arrays has no elements, so that the others are 0 and nothing has to be planned.
    fn is_empty(&self) -> bool {
        [self.x_shape(), self.w_shape(), self.y_shape()].iter().any(Shape::is_empty)
    }

    /// Input channels of one group.
    pub fn c_group(&self) -> usize {
        self.c / self.geometry.groups
    }

    /// Output channels of one group.
    pub fn k_group(&self) -> usize {
        self.k / self.geometry.groups
    }

    /// Taps of one filter.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Floating-point operations of one pass, two for each product with a tap (taps over the padding included).
    pub fn flops(&self) -> u64 {
        [self.y_shape().len(), self.taps(), self.c_group()].into_iter().fold(2, |n: u64, v| n.saturating_mul(v as u64))
    }

    /// Bytes of the three arrays in f32, each touched once.
    pub fn bytes(&self) -> u64 {
        4 * (self.x_shape().len() + self.w_shape().len() + self.y_shape().len()) as u64
    }
}

/// `y`, in the number type of `x`.
///
/// # Errors
/// As [`Conv3d::new`]; `Device` when `w` lives elsewhere than `x`; of a GPU what its driver says.
pub fn fprop(x: &Tensor, w: &Tensor, g: &Geometry) -> Result<Tensor> {
    fprop_with(Isa::best(), x, w, g)
}

/// The gradient for `x` given that for `y`, in the number type of `dy`.
///
/// # Errors
/// As [`Conv3d::new`], and `Shape` when `dy` has not the shape of `y`.
pub fn dgrad(dy: &Tensor, w: &Tensor, x_shape: Shape, g: &Geometry) -> Result<Tensor> {
    dgrad_with(Isa::best(), dy, w, x_shape, g)
}

/// The gradient for `w` given that for `y`, always f32.
///
/// # Errors
/// As [`dgrad`].
pub fn wgrad(x: &Tensor, dy: &Tensor, w_shape: Shape, g: &Geometry) -> Result<Tensor> {
    wgrad_with(Isa::best(), x, dy, w_shape, g)
}

/// [`fprop`] with chosen instructions, so that a test can run each form its machine has.
#[doc(hidden)]
pub fn fprop_with(isa: Isa, x: &Tensor, w: &Tensor, g: &Geometry) -> Result<Tensor> {
    let p = Conv3d::new("conv3d", x.shape(), w.shape(), g)?;
    match x.place("conv3d", &[("w", w)])? {
        Place::Cpu => Ok(cpu::fprop(isa, &p, [x, w], Prologue::None, Epilogue::None)?.0),
        Place::Gpu(gpu) => cuda::fprop(gpu, &p, x, w, None),
    }
}

/// [`dgrad`] with chosen instructions.
#[doc(hidden)]
pub fn dgrad_with(isa: Isa, dy: &Tensor, w: &Tensor, x_shape: Shape, g: &Geometry) -> Result<Tensor> {
    let p = Conv3d::new("conv3d dgrad", x_shape, w.shape(), g)?;
    check_dy("conv3d dgrad", &p, dy)?;
    match dy.place("conv3d dgrad", &[("w", w)])? {
        Place::Cpu => cpu::dgrad(isa, &p, [dy, w]),
        Place::Gpu(gpu) => cuda::dgrad(gpu, &p, dy, w),
    }
}

/// [`wgrad`] with chosen instructions.
#[doc(hidden)]
pub fn wgrad_with(isa: Isa, x: &Tensor, dy: &Tensor, w_shape: Shape, g: &Geometry) -> Result<Tensor> {
    let p = Conv3d::new("conv3d wgrad", x.shape(), w_shape, g)?;
    check_dy("conv3d wgrad", &p, dy)?;
    match x.place("conv3d wgrad", &[("dy", dy)])? {
        Place::Cpu => cpu::wgrad(isa, &p, x, Prologue::None, dy),
        Place::Gpu(gpu) => cuda::wgrad(gpu, &p, x, dy),
    }
}

/// A pass of `p` on a GPU with a chosen tile, so that a test can run each on problems too small to be given it. `None`
/// where there is no such tile, and on the CPU. `inputs` are those of the pass, of one number type.
#[doc(hidden)]
pub fn on_tile(p: &Conv3d, pass: Pass, tile: usize, inputs: [&Tensor; 2]) -> Result<Option<Tensor>> {
    let shapes = match pass {
        Pass::Fprop => [p.x_shape(), p.w_shape()],
        Pass::Dgrad => [p.y_shape(), p.w_shape()],
        Pass::Wgrad => [p.x_shape(), p.y_shape()],
    };
    for (input, shape) in inputs.iter().zip(shapes) {
        input.expect("conv3d", "inputs", inputs[0].dtype())?;
        if input.shape() != shape {
            return Err(Error::shape("conv3d", "inputs", shape, input.shape()));
        }
    }
    match inputs[0].place("conv3d", &[("inputs", inputs[1])])? {
        Place::Cpu => Ok(None),
        Place::Gpu(gpu) => cuda::on_tile(gpu, p, pass, tile, inputs),
    }
}

fn check_dy(op: &'static str, p: &Conv3d, dy: &Tensor) -> Result<()> {
    if dy.shape() == p.y_shape() { Ok(()) } else { Err(Error::shape(op, "dy", p.y_shape(), dy.shape())) }
}
