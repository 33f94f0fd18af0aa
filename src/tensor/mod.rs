//! Tensors: a shape, a data type, and shared contiguous memory.
//!
//! Activations are `n t h w c`, filters `k kt kh kw c`. Cloning a tensor is cheap (the memory is shared); it is written
//! in place only if it is not shared ([`Tensor::f32_mut`] copies otherwise).

mod arena;
mod buffer;
mod cuda;
mod element;
mod frames;
mod gpu;
mod integers;
pub mod memory;
mod ring;

pub(crate) use buffer::Buffer;
pub(crate) use cuda::kernels;
pub(crate) use element::Element;
pub use frames::Frames;
pub(crate) use gpu::{Place, WIDE, aligned};
pub use integers::Integers;
pub(crate) use ring::Ring;

use crate::cpu::traffic;
use crate::driver::{Gpu, Memory};
use crate::error::{Error, ErrorKind, Result};
use crate::shape::Shape;
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Data type of stored elements. Sums, statistics and losses are always computed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16: f32's range with 8 bits of significand.
    BF16,
}

impl DType {
    /// `f32` or `bf16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
        }
    }

    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::BF16 => 2,
        }
    }

    /// Its index in a kernel's list of entries: f32 first, then bf16.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Unit roundoff: the largest relative error of rounding to this type.
    #[must_use]
    pub fn unit_roundoff(self) -> f64 {
        match self {
            DType::F32 => 2f64.powi(-24),
            DType::BF16 => 2f64.powi(-8),
        }
    }
}

/// The device of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// Main memory; operations run on all cores.
    Cpu,
    /// A GPU's memory; operations run on that GPU.
    Cuda(Gpu),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("the CPU"),
            Device::Cuda(gpu) => write!(f, "{gpu:?}"),
        }
    }
}

#[derive(Clone)]
enum Storage {
    F32(Arc<Buffer<f32>>),
    BF16(Arc<Buffer<bf16>>),
    Gpu(DType, Arc<Memory>),
}

/// Elements as `f32`: borrowed, or converted into a recycled block like a tensor's.
pub(crate) enum Host<'a> {
    There(&'a [f32]),
    Widened(Buffer<f32>),
}

impl Deref for Host<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Host::There(all) => all,
            Host::Widened(all) => all.as_slice(),
        }
    }
}

/// A contiguous array of numbers with a shape.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    storage: Storage,
}

impl Tensor {
    /// A tensor with the elements `data`.
    ///
    /// # Errors
    /// `Shape` when `data` does not have exactly `shape.len()` elements, or the shape exceeds the limits of tensors
    /// ([`Shape::check`]); `OutOfMemory`.
    pub fn from_f32(shape: impl Into<Shape>, data: &[f32]) -> Result<Self> {
        let shape = shape.into().check("tensor", "shape")?;
        if shape.len() != data.len() {
            let want = format!("{} elements for shape {shape}", shape.len());
            return Err(Error::shape("tensor", "data", want, data.len()));
        }
        Ok(Tensor { shape, storage: Storage::F32(Arc::new(Buffer::from_slice(data)?)) })
    }

    /// `f32` zeros.
    ///
    /// # Panics
    /// When main memory has no space for them, like a `Vec`; [`Tensor::zeros_on`] returns an error instead.
    pub fn zeros(shape: impl Into<Shape>) -> Self {
        Self::full(shape, 0.0)
    }

    /// `f32` copies of one value.
    ///
    /// # Panics
    /// As [`Tensor::zeros`]; [`Tensor::full_on`] returns an error instead.
    pub fn full(shape: impl Into<Shape>, value: f32) -> Self {
        Self::full_on(&Device::Cpu, shape, value).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A tensor of rank 0 with one value.
    #[must_use]
    pub fn scalar(value: f32) -> Self {
        Self::full([], value)
    }

    /// An `f32` tensor whose elements, initially arbitrary, are all written by `fill`.
    ///
    /// # Errors
    /// `Shape` when the shape exceeds the limits of tensors; `OutOfMemory`.
    pub(crate) fn build(shape: impl Into<Shape>, fill: impl FnOnce(&mut [f32])) -> Result<Self> {
        let shape = shape.into().check("tensor", "shape")?;
        let mut buffer = Buffer::arbitrary(shape.len())?;
        traffic::allocated(4 * shape.len());
        fill(buffer.as_mut_slice());
        Ok(Tensor { shape, storage: Storage::F32(Arc::new(buffer)) })
    }

    /// Like [`Tensor::build`], where `fill` allocates working space, which may fail.
    pub(crate) fn try_build(shape: Shape, fill: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<Self> {
        let mut filled = Ok(());
        let built = Self::build(shape, |out| filled = fill(out))?;
        filled.map(|()| built)
    }

    /// Like [`Tensor::build`], with the result rounded to `dtype`, so that operations return the type they were given.
    pub(crate) fn build_as(dtype: DType, shape: impl Into<Shape>, fill: impl FnOnce(&mut [f32])) -> Result<Self> {
        let wide = Self::build(shape, fill)?;
        match (&wide.storage, dtype) {
            (Storage::F32(b), DType::BF16) => element::narrowed(wide.shape, b.as_slice()),
            _ => Ok(wide),
        }
    }

    /// Like [`Tensor::build`], of `bf16`.
    pub(crate) fn build_bf16(shape: Shape, fill: impl FnOnce(&mut [bf16])) -> Result<Self> {
        let mut buffer = Buffer::arbitrary(shape.check("tensor", "shape")?.len())?;
        traffic::allocated(2 * shape.len());
        fill(buffer.as_mut_slice());
        Ok(Tensor { shape, storage: Storage::BF16(Arc::new(buffer)) })
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The extents of the shape.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The data type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self.storage {
            Storage::F32(_) => DType::F32,
            Storage::BF16(_) => DType::BF16,
            Storage::Gpu(dtype, _) => dtype,
        }
    }

    /// Bytes of its elements.
    pub(crate) fn bytes(&self) -> usize {
        self.dtype().size() * self.shape.len()
    }

    /// The device of its memory.
    #[must_use]
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::F32(_) | Storage::BF16(_) => Device::Cpu,
            Storage::Gpu(_, memory) => Device::Cuda(memory.gpu().clone()),
        }
    }

    /// The elements, when they are `f32` in main memory.
    ///
    /// # Errors
    /// `DType` or `Device` otherwise.
    pub fn f32(&self) -> Result<&[f32]> {
        match &self.storage {
            Storage::F32(b) => Ok(b.as_slice()),
            Storage::BF16(_) => Err(self.wrong("f32")),
            Storage::Gpu(..) => Err(self.elsewhere()),
        }
    }

    /// The elements, when they are `bf16` in main memory.
    ///
    /// # Errors
    /// `DType` or `Device` otherwise.
    pub fn bf16(&self) -> Result<&[bf16]> {
        match &self.storage {
            Storage::BF16(b) => Ok(b.as_slice()),
            Storage::F32(_) => Err(self.wrong("bf16")),
            Storage::Gpu(..) => Err(self.elsewhere()),
        }
    }

    fn elsewhere(&self) -> Error {
        Error::device("tensor", "self", Device::Cpu, self.device())
    }

    /// Checks the data type.
    pub(crate) fn expect(&self, op: &'static str, arg: &'static str, dtype: DType) -> Result<()> {
        if self.dtype() == dtype {
            return Ok(());
        }
        Err(ErrorKind::DType { op, arg, expected: dtype.name(), got: self.dtype().name() }.into())
    }

    fn wrong(&self, expected: &'static str) -> Error {
        ErrorKind::DType { op: "tensor", arg: "self", expected, got: self.dtype().name() }.into()
    }

    /// The elements as `f32`: borrowed if they are `f32`, converted from `bf16`, or copied from a GPU, with which this
    /// synchronises.
    ///
    /// # Errors
    /// `Driver` when the copy, or earlier work, failed.
    pub fn load(&self) -> Result<Cow<'_, [f32]>> {
        match &self.storage {
            Storage::F32(b) => Ok(Cow::Borrowed(b.as_slice())),
            Storage::BF16(_) => Ok(Cow::Owned(self.host()?.to_vec())),
            Storage::Gpu(..) => match self.to_cpu()?.storage {
                Storage::F32(b) => Ok(Cow::Owned(b.as_slice().to_vec())),
                storage => Ok(Cow::Owned(Tensor { shape: self.shape, storage }.host()?.to_vec())),
            },
        }
    }

    /// The elements as `f32`, for CPU kernels: only after [`Tensor::place`] returned the CPU. Error: `OutOfMemory`.
    pub(crate) fn host(&self) -> Result<Host<'_>> {
        match &self.storage {
            Storage::F32(b) => Ok(Host::There(b.as_slice())),
            Storage::BF16(b) => element::widened_buffer(b.as_slice()).map(Host::Widened),
            Storage::Gpu(..) => unreachable!("an operation of the CPU was given a tensor on {}", self.device()),
        }
    }

    /// The elements for writing; they are copied first if other tensors share them.
    ///
    /// # Errors
    /// `DType` when they are not `f32`; `Device` when they are not in main memory; `OutOfMemory`.
    pub fn f32_mut(&mut self) -> Result<&mut [f32]> {
        self.f32()?;
        match &mut self.storage {
            Storage::F32(b) => Ok(sole(b)?.as_mut_slice()),
            _ => unreachable!("refused above"),
        }
    }

    /// As [`Tensor::f32_mut`], of a `bf16` tensor in main memory.
    pub(crate) fn bf16_mut(&mut self) -> Result<&mut [bf16]> {
        match &mut self.storage {
            Storage::BF16(b) => Ok(sole(b)?.as_mut_slice()),
            _ => unreachable!("the caller matched on the type"),
        }
    }

    /// The only element of a tensor with one element; synchronises with a GPU.
    ///
    /// # Errors
    /// `Shape` when there is not exactly one; as [`Tensor::load`].
    pub fn item(&self) -> Result<f32> {
        match *self.load()? {
            [v] => Ok(v),
            _ => Err(Error::shape("item", "self", "one element", self.shape)),
        }
    }

    /// The same memory in another shape.
    ///
    /// # Errors
    /// `Shape` when the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into().check("reshape", "shape")?;
        if shape.len() != self.shape.len() {
            let want = format!("{} elements", self.shape.len());
            return Err(Error::shape("reshape", "shape", want, shape));
        }
        Ok(Tensor { shape, storage: self.storage.clone() })
    }

    /// The rows `index` along the outermost axis, in that order.
    ///
    /// # Errors
    /// `Param` when an index is out of range; `Shape` for rank 0; on a GPU errors of its driver.
    pub fn rows(&self, index: &[usize]) -> Result<Self> {
        let Some((&n, rest)) = self.dims().split_first() else {
            return Err(Error::shape("rows", "self", "at least one extent", self.shape));
        };
        if let Some(bad) = index.iter().find(|&&i| i >= n) {
            return Err(Error::param("rows", "index", bad, format!("there are {n} rows")));
        }
        let row: usize = rest.iter().product();
        let mut dims = self.shape.dims().to_vec();
        dims[0] = index.len();
        let shape = Shape::new(&dims).check("rows", "index")?;
        fn gather<T: bytemuck::Pod + Send + Sync>(from: &[T], row: usize, index: &[usize]) -> Result<Arc<Buffer<T>>> {
            let _pass = buffer::copying::<T>(index.len() * row);
            let mut out = Buffer::arbitrary(index.len() * row)?;
            // Short rows are not worth a task of their own.
            let some = (1 << 14) / row.max(1) + 1;
            let rows = out.as_mut_slice().par_chunks_exact_mut(row.max(1)).with_min_len(some).zip(index);
            rows.for_each(|(to, &i)| to.copy_from_slice(&from[i * row..(i + 1) * row]));
            Ok(Arc::new(out))
        }
        let storage = match &self.storage {
            Storage::F32(b) => Storage::F32(gather(b.as_slice(), row, index)?),
            Storage::BF16(b) => Storage::BF16(gather(b.as_slice(), row, index)?),
            Storage::Gpu(..) => return cuda::rows(self, index),
        };
        Ok(Tensor { shape, storage })
    }

    /// The elements from number `at` on, as many as `shape` has, copied.
    ///
    /// # Errors
    /// `Param` when there are not as many; `OutOfMemory`; on a GPU also `Driver`.
    pub fn part(&self, at: usize, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into().check("part", "shape")?;
        let Some(end) = at.checked_add(shape.len()).filter(|end| *end <= self.shape.len()) else {
            let rule = format!("there are {} elements, and {} are wanted from there on", self.shape.len(), shape.len());
            return Err(Error::param("part", "at", at, rule));
        };
        let storage = match &self.storage {
            Storage::F32(b) => Storage::F32(Arc::new(Buffer::from_slice(&b.as_slice()[at..end])?)),
            Storage::BF16(b) => Storage::BF16(Arc::new(Buffer::from_slice(&b.as_slice()[at..end])?)),
            Storage::Gpu(..) => return self.part_there(at, shape),
        };
        Ok(Tensor { shape, storage })
    }

    /// As [`Tensor::rows`] for a permutation (which needs no check); nothing is uploaded if both are on the same GPU.
    pub(crate) fn rows_by(&self, index: &Integers) -> Result<Self> {
        match (&self.storage, index.input()) {
            (Storage::Gpu(..), Some(order)) => cuda::rows_by(self, order, index.len()),
            _ => self.rows(&index.values().iter().map(|&i| i as usize).collect::<Vec<_>>()),
        }
    }

    /// The same values in another data type, rounded to nearest even. Free if that is the type already.
    ///
    /// # Errors
    /// `OutOfMemory`; on a GPU also `Driver`.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        match (&self.storage, dtype) {
            (Storage::F32(b), DType::BF16) => element::narrowed(self.shape, b.as_slice()),
            (Storage::BF16(b), DType::F32) => element::widened(self.shape, b.as_slice()),
            (Storage::Gpu(from, _), _) if *from != dtype => cuda::cast(self, dtype),
            _ => Ok(self.clone()),
        }
    }
}

/// The memory, copied first if other tensors share it.
fn sole<T: bytemuck::Pod>(b: &mut Arc<Buffer<T>>) -> Result<&mut Buffer<T>> {
    if Arc::get_mut(b).is_none() {
        *b = Arc::new(Buffer::from_slice(b.as_slice())?);
    }
    Ok(Arc::get_mut(b).expect("nobody else holds what was just made"))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<f32> = match &self.storage {
            Storage::F32(b) => b.as_slice().iter().take(8).copied().collect(),
            Storage::BF16(b) => b.as_slice().iter().take(8).map(|v| v.to_f32()).collect(),
            Storage::Gpu(..) => {
                return write!(f, "Tensor {} {} on {}", self.dtype().name(), self.shape, self.device());
            }
        };
        write!(f, "Tensor {} {} {head:?}", self.dtype().name(), self.shape)?;
        if self.shape.len() > head.len() { f.write_str("…") } else { Ok(()) }
    }
}
