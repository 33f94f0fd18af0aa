//! Pooling over `t h w`: the maximum of a window, its mean, and the global mean.
//!
//! Activations are `n t h w c`; a [`Window`] gives stride, padding and dilation of the kernel `kt kh kw`. A maximum
//! ignores padding; a mean counts padding as zeros (PyTorch's `count_include_pad=True`). Every pass has its adjoint
//! here, and the two of each pair are each other's gradients: [`max_backward`] and [`gather`], [`avg_forward`] and [`avg_backward`],
//! [`global_forward`] and [`global_backward`].
//!
//! ```
//! use tubelet::{Tensor, ops::pool3d, shape::Window};
//! let x = Tensor::from_f32([1, 1, 1, 4, 1], &[1.0, 3.0, 2.0, 0.0])?;
//! let window = Window { stride: [1, 1, 2], ..Window::UNIT };
//! let (y, choice) = pool3d::max_forward(&x, [1, 1, 2], &window)?;
//! assert_eq!(y.load()?[..], [3.0, 2.0]);
//! assert_eq!(pool3d::max_backward(&y, &choice)?.load()?[..], [0.0, 3.0, 2.0, 0.0]);
//! assert_eq!(pool3d::global_forward(&x)?.load()?[..], [1.5]);
//! # Ok::<(), tubelet::Error>(())
//! ```
//!
//! [`raw`] works on device memory that you allocate.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
pub mod raw;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use grad::{avg_pool, global_avg_pool, max_pool};

use crate::cpu::traffic::{self, Work};
use crate::driver::{Gpu, Memory};
use crate::error::{Error, Result};
use crate::shape::{Shape, Window};
use crate::tensor::{Buffer, DType, Device, Element, Place, Tensor};
use half::bf16;
use std::borrow::Cow;
use std::sync::Arc;

/// All extents of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Samples.
    pub n: usize,
    /// Input extents `t h w`.
    pub input: [usize; 3],
    /// Output extents `t h w`.
    pub out: [usize; 3],
    /// Channels.
    pub c: usize,
    /// Kernel `kt kh kw`.
    pub kernel: [usize; 3],
    /// Stride, padding and dilation.
    pub window: Window,
}

impl Pool {
    /// The extents of pooling `x` (`n t h w c`).
    ///
    /// # Errors
    /// `Shape` when `x` is not `n t h w c`, or it or the result exceeds the maximum size of a tensor; `Param` when the
    /// kernel does not fit (see [`Window::out`]), when some window covers only padding, or when `t·h·w` exceeds 2³².
    pub fn new(op: &'static str, x: Shape, kernel: [usize; 3], window: &Window) -> Result<Self> {
        let [n, t, h, w, c] = x.check(op, "x")?.nthwc(op, "x")?;
        let out = window.out(op, [t, h, w], kernel)?;
        if t * h * w > u32::MAX as usize {
            return Err(Error::param(op, "x", x, "t·h·w must be below 2³²"));
        }
        if Shape::from(kernel).checked_len().is_none() {
            return Err(Error::param(op, "kernel", format!("{kernel:?}"), "it has more taps than memory has places"));
        }
        let pool = Pool { n, input: [t, h, w], out, c, kernel, window: *window };
        pool.out_shape().check(op, "the result")?;
        if (0..3).any(|axis| (0..out[axis]).any(|o| pool.taps(axis, o).is_empty())) {
            let pad = format!("{:?}", window.pad);
            return Err(Error::param(op, "pad", pad, format!("every window of {kernel:?} must touch the input")));
        }
        Ok(pool)
    }

    /// The shape of the input.
    #[must_use]
    pub fn in_shape(&self) -> Shape {
        let [t, h, w] = self.input;
        Shape::from([self.n, t, h, w, self.c])
    }

    /// The shape of the result.
    #[must_use]
    pub fn out_shape(&self) -> Shape {
        let [t, h, w] = self.out;
        Shape::from([self.n, t, h, w, self.c])
    }

    /// A pass from an array of one shape to one of another; it reads and writes so many arrays of positions of maxima.
    fn pass(&self, kind: &'static str, dtype: DType, [from, to]: [Shape; 2], places: [usize; 2]) -> traffic::Pass {
        traffic::pass(kind, || {
            let [read, wrote] = places.map(|n| 4 * n * self.out_shape().len());
            let row: usize = to.dims()[3..].iter().product();
            let tasks = (to.len() / row.max(1)).div_ceil(cpu::rows_per_task(row));
            Work::moves(dtype.size() * from.len() + read, dtype.size() * to.len() + wrote, tasks)
        })
    }

    fn expect(&self, op: &'static str, arg: &'static str, want: Shape, got: &Tensor) -> Result<()> {
        if got.shape() == want { Ok(()) } else { Err(Error::shape(op, arg, want, got.shape())) }
    }
}

/// The positions of the maxima.
#[derive(Clone, Debug)]
pub struct Choice {
    pool: Pool,
    at: Positions,
}

/// The position of the maximum for each element of the result.
#[derive(Clone)]
enum Positions {
    /// `(t·H + h)·W + w` in its sample.
    Cpu(Arc<Buffer<u32>>),
    /// The index of the tap, 16 bits.
    Gpu(Arc<Memory>),
}

impl std::fmt::Debug for Positions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Positions::Cpu(_) => "on the CPU",
            Positions::Gpu(_) => "on a GPU",
        })
    }
}

impl Choice {
    /// The pool whose positions these are.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The position `(t·H + h)·W + w` in its sample, for each element of the result; synchronises with a GPU.
    ///
    /// # Errors
    /// `Driver` when the copy from a GPU, or earlier work, failed.
    pub fn positions(&self) -> Result<Cow<'_, [u32]>> {
        match &self.at {
            Positions::Cpu(at) => Ok(Cow::Borrowed(at.as_slice())),
            Positions::Gpu(memory) => cuda::positions(&self.pool, memory).map(Cow::Owned),
        }
    }

    /// The device and the positions for an operation on `x`, which must be on the device of the positions.
    fn place<'a>(&'a self, op: &'static str, arg: &'static str, x: &'a Tensor) -> Result<At<'a>> {
        match (x.place(op, &[])?, &self.at) {
            (Place::Cpu, Positions::Cpu(at)) => Ok(At::Cpu(at.as_slice())),
            (Place::Gpu(gpu), Positions::Gpu(at)) if at.gpu() == gpu => Ok(At::Gpu(gpu, at)),
            (_, Positions::Cpu(_)) => Err(Error::device(op, arg, Device::Cpu, x.device())),
            (_, Positions::Gpu(at)) => Err(Error::device(op, arg, Device::Cuda(at.gpu().clone()), x.device())),
        }
    }
}

/// The device on which an operation runs, with the positions there.
enum At<'a> {
    Cpu(&'a [u32]),
    Gpu(&'a Gpu, &'a Memory),
}

/// The maxima and their positions. Of equal values the first is chosen, and NaN wins over every number, as in PyTorch.
///
/// # Errors
/// As [`Pool::new`].
pub fn max_forward(x: &Tensor, kernel: [usize; 3], window: &Window) -> Result<(Tensor, Choice)> {
    let pool = Pool::new("max_pool", x.shape(), kernel, window)?;
    let (y, at) = match x.place("max_pool", &[])? {
        Place::Cpu => {
            let _pass = pool.pass("max_pool", x.dtype(), [pool.in_shape(), pool.out_shape()], [0, 1]);
            let mut at = Buffer::<u32>::arbitrary(pool.out_shape().len())?;
            let y = match x.dtype() {
                DType::F32 => Tensor::build(pool.out_shape(), |y| cpu::max(&pool, f32::of(x), y, at.as_mut_slice())),
                DType::BF16 => {
                    Tensor::build_bf16(pool.out_shape(), |y| cpu::max(&pool, bf16::of(x), y, at.as_mut_slice()))
                }
            }?;
            (y, Positions::Cpu(Arc::new(at)))
        }
        Place::Gpu(gpu) => {
            let (y, at) = cuda::max(gpu, &pool, x)?;
            (y, Positions::Gpu(Arc::new(at)))
        }
    };
    Ok((y, Choice { pool, at }))
}

/// Adds each element of `dy` at the position of its maximum: the gradient of a maximum pool.
///
/// # Errors
/// `Shape` when `dy` does not have the shape of the pool's result.
pub fn max_backward(dy: &Tensor, choice: &Choice) -> Result<Tensor> {
    let p = &choice.pool;
    p.expect("max_backward", "dy", p.out_shape(), dy)?;
    match choice.place("max_backward", "dy", dy)? {
        At::Cpu(at) => {
            let _pass = p.pass("max_pool backward", dy.dtype(), [p.out_shape(), p.in_shape()], [1, 0]);
            match dy.dtype() {
                DType::F32 => Tensor::build(p.in_shape(), |dx| cpu::unpool(p, f32::of(dy), at, dx)),
                DType::BF16 => Tensor::build_bf16(p.in_shape(), |dx| cpu::unpool(p, bf16::of(dy), at, dx)),
            }
        }
        At::Gpu(gpu, at) => cuda::unpool(gpu, p, dy, at),
    }
}

/// The elements of `x` at the chosen positions: the adjoint of [`max_backward`].
///
/// # Errors
/// `Shape` when `x` does not have the shape of the pool's input.
pub fn gather(x: &Tensor, choice: &Choice) -> Result<Tensor> {
    let p = &choice.pool;
    p.expect("gather", "x", p.in_shape(), x)?;
    match choice.place("gather", "x", x)? {
        At::Cpu(at) => {
            let _pass = p.pass("max_pool gather", x.dtype(), [p.out_shape(), p.out_shape()], [1, 0]);
            match x.dtype() {
                DType::F32 => Tensor::build(p.out_shape(), |y| cpu::gather(p, f32::of(x), at, y)),
                DType::BF16 => Tensor::build_bf16(p.out_shape(), |y| cpu::gather(p, bf16::of(x), at, y)),
            }
        }
        At::Gpu(gpu, at) => cuda::gather(gpu, p, x, at),
    }
}

/// The means of the windows, padding counted as zeros.
///
/// # Errors
/// As [`Pool::new`].
pub fn avg_forward(x: &Tensor, kernel: [usize; 3], window: &Window) -> Result<Tensor> {
    let pool = Pool::new("avg_pool", x.shape(), kernel, window)?;
    match x.place("avg_pool", &[])? {
        Place::Cpu => {
            let _pass = pool.pass("avg_pool", x.dtype(), [pool.in_shape(), pool.out_shape()], [0, 0]);
            match x.dtype() {
                DType::F32 => Tensor::build(pool.out_shape(), |y| cpu::avg(&pool, f32::of(x), y)),
                DType::BF16 => Tensor::build_bf16(pool.out_shape(), |y| cpu::avg(&pool, bf16::of(x), y)),
            }
        }
        Place::Gpu(gpu) => cuda::avg(gpu, &pool, x),
    }
}

/// The adjoint of [`avg_forward`]: each element of `dy`, divided by the kernel's size, is added to every position of its
/// window.
///
/// # Errors
/// As [`Pool::new`], and `Shape` when `dy` does not have the shape of the pool's result.
pub fn avg_backward(dy: &Tensor, x_shape: Shape, kernel: [usize; 3], window: &Window) -> Result<Tensor> {
    let pool = Pool::new("avg_pool", x_shape, kernel, window)?;
    pool.expect("avg_pool", "dy", pool.out_shape(), dy)?;
    match dy.place("avg_pool", &[])? {
        Place::Cpu => {
            let _pass = pool.pass("avg_pool backward", dy.dtype(), [pool.out_shape(), pool.in_shape()], [0, 0]);
            match dy.dtype() {
                DType::F32 => Tensor::build(x_shape, |dx| cpu::avg_back(&pool, f32::of(dy), dx)),
                DType::BF16 => Tensor::build_bf16(x_shape, |dx| cpu::avg_back(&pool, bf16::of(dy), dx)),
            }
        }
        Place::Gpu(gpu) => cuda::avg_back(gpu, &pool, dy),
    }
}

/// The means over `t h w`: `n t h w c` to `n c`.
///
/// # Errors
/// `Shape` when `x` is not `n t h w c`, or one of `t h w` is 0.
pub fn global_forward(x: &Tensor) -> Result<Tensor> {
    let [n, t, h, w, c] = x.shape().nthwc("global_avg_pool", "x")?;
    if [t, h, w].contains(&0) {
        return Err(Error::shape("global_avg_pool", "x", "n t h w c with something to average", x.shape()));
    }
    match x.place("global_avg_pool", &[])? {
        Place::Cpu => {
            let _pass = traffic::pass("global_avg_pool", || Work::moves(x.bytes(), x.dtype().size() * n * c, n));
            match x.dtype() {
                DType::F32 => Tensor::build([n, c], |y| cpu::global(f32::of(x), t * h * w, c, y)),
                DType::BF16 => Tensor::build_bf16([n, c].into(), |y| cpu::global(bf16::of(x), t * h * w, c, y)),
            }
        }
        Place::Gpu(gpu) => cuda::global(gpu, x, [n, t * h * w, c]),
    }
}

/// The adjoint of [`global_forward`]: `dy[n c] / (t h w)` broadcast over `t h w`.
///
/// # Errors
/// `Shape` when `x_shape` is not `n t h w c`, or `dy` not `n c`.
pub fn global_backward(dy: &Tensor, x_shape: Shape) -> Result<Tensor> {
    let [n, t, h, w, c] = x_shape.check("global_avg_pool", "x")?.nthwc("global_avg_pool", "x")?;
    if dy.dims() != [n, c] {
        return Err(Error::shape("global_avg_pool", "dy", Shape::from([n, c]), dy.shape()));
    }
    match dy.place("global_avg_pool", &[])? {
        Place::Cpu => {
            let tasks = || (n * t * h * w).div_ceil(cpu::rows_per_task(c));
            let _pass = traffic::pass("global_avg_pool backward", || {
                Work::moves(dy.bytes(), dy.dtype().size() * x_shape.len(), tasks())
            });
            match dy.dtype() {
                DType::F32 => Tensor::build(x_shape, |dx| cpu::global_back(f32::of(dy), t * h * w, c, dx)),
                DType::BF16 => Tensor::build_bf16(x_shape, |dx| cpu::global_back(bf16::of(dy), t * h * w, c, dx)),
            }
        }
        Place::Gpu(gpu) => cuda::global_back(gpu, dy, x_shape, t * h * w),
    }
}
