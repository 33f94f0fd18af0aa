//! Tensors in a GPU's memory: creating, copying and passing them to kernels.

use super::{Buffer, DType, Device, Storage, Tensor, cuda, sole};
use crate::cpu::traffic::{self, Work};
use crate::driver::{Gpu, In, InOut, Memory, Out};
use crate::error::{Error, Result};
use crate::shape::Shape;
use rayon::prelude::*;
use std::sync::Arc;

/// Where an operation runs, for it to `match` on.
pub(crate) enum Place<'a> {
    Cpu,
    Gpu(&'a Gpu),
}

impl Device {
    /// Device number `ordinal` of the CUDA driver, with a stream of its own.
    ///
    /// # Errors
    /// `NoDriver` when there is no driver, no device, or none of that number, and in builds without the feature `cuda`;
    /// `Driver`.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        #[cfg(feature = "cuda")]
        return Gpu::cuda(ordinal).map(Device::Cuda);
        #[cfg(not(feature = "cuda"))]
        {
            let what = format!("tubelet was built without its feature `cuda`, which cuda:{ordinal} needs");
            Err(crate::error::ErrorKind::NoDriver { what }.into())
        }
    }

    /// The first GPU if there is one, else the CPU with the reason.
    #[must_use]
    pub fn auto() -> (Device, Option<Error>) {
        match Device::cuda(0) {
            Ok(gpu) => (gpu, None),
            Err(reason) => (Device::Cpu, Some(reason)),
        }
    }

    /// Waits until all work given to this device is done.
    ///
    /// # Errors
    /// `Driver` for work that failed.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(gpu) => gpu.synchronize(),
        }
    }
}

/// Bytes that most kernels access at a time: the alignment of their arrays.
pub(crate) const WIDE: u64 = 16;

/// Refuses a device address that is null or no multiple of `multiple`: a kernel would answer with an error that ends the context.
pub(crate) fn aligned(op: &'static str, arg: &'static str, at: u64, multiple: u64) -> Result<()> {
    if at == 0 || !at.is_multiple_of(multiple) {
        let rule = format!("an address on a GPU must be a multiple of {multiple} and not null");
        return Err(Error::param(op, arg, format!("{at:#x}"), rule));
    }
    Ok(())
}

impl Tensor {
    /// Where an operation on this tensor runs. All of `others` (with names for the error message) must be there too.
    pub(crate) fn place(&self, op: &'static str, others: &[(&'static str, &Tensor)]) -> Result<Place<'_>> {
        for (arg, other) in others {
            if self.gpu() != other.gpu() {
                return Err(Error::device(op, arg, self.device(), other.device()));
            }
        }
        Ok(self.gpu().map_or(Place::Cpu, Place::Gpu))
    }

    /// The GPU it is on.
    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        match &self.storage {
            Storage::F32(_) | Storage::BF16(_) => None,
            Storage::Gpu(_, memory) => Some(memory.gpu()),
        }
    }

    /// A tensor of arbitrary content, for a kernel that writes every element.
    pub(crate) fn on_gpu(gpu: &Gpu, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into().check("tensor", "shape")?;
        // Kernels count elements in 32 bits.
        if shape.len() > 1 << 31 {
            return Err(Error::shape("tensor", "shape", "of at most 2³¹ elements on a GPU", shape));
        }
        let memory = gpu.alloc(shape.len() * dtype.size())?;
        Ok(Tensor { shape, storage: Storage::Gpu(dtype, Arc::new(memory)) })
    }

    /// A tensor over the caller's memory: `shape` numbers of type `dtype` from device address `ptr` on, without a copy.
    ///
    /// # Safety
    /// The memory is that long, on `gpu`'s device, stays valid for as long as this tensor and its clones exist, and is not
    /// used in any way that is not ordered with `gpu`'s stream.
    ///
    /// # Errors
    /// `Shape` when there are more than 2³¹ elements; `Param` when `ptr` is null or not aligned to 16 bytes, which a kernel
    /// would answer with an error that ends the context.
    pub unsafe fn borrow_gpu(gpu: &Gpu, ptr: u64, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into().check("borrow_gpu", "shape")?;
        if shape.len() > 1 << 31 {
            return Err(Error::shape("borrow_gpu", "shape", "of at most 2³¹ elements on a GPU", shape));
        }
        if !shape.is_empty() {
            aligned("borrow_gpu", "ptr", ptr, WIDE)?;
        }
        let memory = gpu.borrow(ptr, shape.len() * dtype.size(), None);
        Ok(Tensor { shape, storage: Storage::Gpu(dtype, Arc::new(memory)) })
    }

    /// A tensor over memory that `owner` owns.
    #[cfg(feature = "cuda")]
    pub(crate) fn keeping<T: Send + Sync + 'static>(
        gpu: &Gpu,
        ptr: u64,
        dtype: DType,
        shape: Shape,
        owner: Arc<T>,
    ) -> Tensor {
        let memory = gpu.borrow(ptr, shape.len() * dtype.size(), Some(owner));
        Tensor { shape, storage: Storage::Gpu(dtype, Arc::new(memory)) }
    }

    /// This tensor on `device`: shared if it is there already, also between streams of one GPU ([`Tensor::share`]), otherwise
    /// copied. A copy to the CPU synchronises.
    ///
    /// # Errors
    /// `OutOfMemory` and `Driver` of the GPUs involved.
    pub fn to(&self, device: &Device) -> Result<Tensor> {
        match device {
            Device::Cpu => self.to_cpu(),
            Device::Cuda(gpu) => self.to_gpu(gpu),
        }
    }

    /// This tensor on another stream of its GPU ([`Gpu::fork`]), without a copy: `gpu` waits for the work that the tensor's own
    /// stream was given so far. As between clones, a tensor that is written in place is copied first. When the result and its
    /// clones are dropped, the tensor's own stream waits for the work that `gpu` was given until then, so do not drop the last
    /// of them while a graph is recorded: its memory would be lost.
    ///
    /// # Errors
    /// `Device` when this tensor is on no GPU, or on another one; `Driver`, also while a graph is being recorded.
    pub fn share(&self, gpu: &Gpu) -> Result<Tensor> {
        let Storage::Gpu(dtype, memory) = &self.storage else {
            return Err(Error::device("share", "self", "a GPU", self.device()));
        };
        let own = memory.gpu();
        if own == gpu {
            return Ok(self.clone());
        }
        if !own.is_beside(gpu) {
            return Err(Error::device("share", "gpu", "a stream of the tensor's GPU", gpu.name()));
        }
        gpu.join(own)?;
        Ok(Tensor { shape: self.shape, storage: Storage::Gpu(*dtype, Arc::new(gpu.lent(memory))) })
    }

    /// This tensor in main memory.
    ///
    /// # Errors
    /// As [`Tensor::to`].
    pub fn to_cpu(&self) -> Result<Tensor> {
        let Storage::Gpu(dtype, memory) = &self.storage else { return Ok(self.clone()) };
        let mut result = Ok(());
        let mut fetch = |bytes: &mut [u8]| {
            if !bytes.is_empty() {
                result = memory.gpu().driver().download(memory.ptr(), bytes);
            }
        };
        let storage = match dtype {
            DType::F32 => {
                let mut b = Buffer::arbitrary(self.shape.len())?;
                fetch(bytemuck::cast_slice_mut(b.as_mut_slice()));
                Storage::F32(Arc::new(b))
            }
            DType::BF16 => {
                let mut b = Buffer::arbitrary(self.shape.len())?;
                fetch(bytemuck::cast_slice_mut(b.as_mut_slice()));
                Storage::BF16(Arc::new(b))
            }
        };
        result.map(|()| Tensor { shape: self.shape, storage })
    }

    fn to_gpu(&self, gpu: &Gpu) -> Result<Tensor> {
        let bytes: &[u8] = match &self.storage {
            Storage::F32(b) => bytemuck::cast_slice(b.as_slice()),
            Storage::BF16(b) => bytemuck::cast_slice(b.as_slice()),
            Storage::Gpu(_, memory) if memory.gpu().is_beside(gpu) => return self.share(gpu),
            Storage::Gpu(..) => return self.to_cpu()?.to_gpu(gpu),
        };
        let to = Tensor::on_gpu(gpu, self.dtype(), self.shape)?;
        if !bytes.is_empty() {
            gpu.driver().upload(to.memory().ptr(), bytes)?;
        }
        Ok(to)
    }

    /// An f32 tensor on `device` of the numbers of `parts`, one after another. On a GPU the copies may go on when it returns;
    /// the parts may be dropped.
    pub(crate) fn stack(device: &Device, shape: impl Into<Shape>, parts: &[&[f32]]) -> Result<Tensor> {
        let shape = shape.into().check("tensor", "shape")?;
        if parts.iter().map(|part| part.len()).sum::<usize>() != shape.len() {
            return Err(Error::shape("tensor", "parts", shape, format!("{} parts", parts.len())));
        }
        match device {
            Device::Cpu => {
                let _pass = traffic::pass("copy", || Work::wide(shape.len(), shape.len()));
                Tensor::build(shape, |mut out| {
                    let mut spans = Vec::with_capacity(parts.len());
                    for part in parts {
                        let (to, rest) = std::mem::take(&mut out).split_at_mut(part.len());
                        spans.push((to, *part));
                        out = rest;
                    }
                    spans.into_par_iter().for_each(|(to, part)| to.copy_from_slice(part));
                })
            }
            Device::Cuda(gpu) => {
                let to = Tensor::on_gpu(gpu, DType::F32, shape)?;
                let bytes: Vec<&[u8]> = parts.iter().map(|part| bytemuck::cast_slice(part)).collect();
                gpu.driver().upload_all(to.memory().ptr(), &bytes)?;
                Ok(to)
            }
        }
    }

    /// `f32` zeros on `device`.
    ///
    /// # Errors
    /// As [`Tensor::to`].
    pub fn zeros_on(device: &Device, shape: impl Into<Shape>) -> Result<Tensor> {
        let Device::Cuda(gpu) = device else { return Self::full_on(device, shape, 0.0) };
        let to = Tensor::on_gpu(gpu, DType::F32, shape)?;
        if to.memory().bytes() > 0 {
            gpu.driver().clear(to.memory().ptr(), to.memory().bytes())?;
        }
        Ok(to)
    }

    /// `f32` copies of one value on `device`.
    ///
    /// # Errors
    /// As [`Tensor::to`].
    pub fn full_on(device: &Device, shape: impl Into<Shape>, value: f32) -> Result<Tensor> {
        let shape = shape.into();
        let Device::Cuda(gpu) = device else {
            let _pass = traffic::pass("fill", || Work::moves(0, 4 * shape.len(), 1));
            return Tensor::build(shape, |out| out.fill(value));
        };
        let mut to = Tensor::on_gpu(gpu, DType::F32, shape)?;
        cuda::fill(&mut to, value)?;
        Ok(to)
    }

    /// The elements of `parts`, all f32 and on one device, concatenated: one download for many small results.
    ///
    /// # Errors
    /// `DType`, `Device`; on a GPU `OutOfMemory` and `Driver`.
    pub fn collect(parts: &[&Tensor]) -> Result<Tensor> {
        let Some(first) = parts.first() else { return Ok(Tensor::zeros([0])) };
        for part in parts {
            part.expect("collect", "parts", DType::F32)?;
            first.place("collect", &[("parts", part)])?;
        }
        match first.place("collect", &[])? {
            Place::Gpu(gpu) => cuda::collect(gpu, parts),
            Place::Cpu => {
                let total = parts.iter().fold(0usize, |n, p| n.saturating_add(p.shape().len()));
                let hosts = parts.iter().map(|p| p.host()).collect::<Result<Vec<_>>>()?;
                let _pass = traffic::pass("copy", || Work::wide(total, total));
                Tensor::build([total], |mut out| {
                    for part in &hosts {
                        let (to, rest) = std::mem::take(&mut out).split_at_mut(part.len());
                        to.copy_from_slice(part);
                        out = rest;
                    }
                })
            }
        }
    }

    /// [`Tensor::part`] on a GPU; the elements are there.
    pub(super) fn part_there(&self, at: usize, shape: Shape) -> Result<Tensor> {
        let (from, size) = (self.memory(), self.dtype().size());
        let mut part = Tensor::on_gpu(from.gpu(), self.dtype(), shape)?;
        let Out(to, bytes) = part.output();
        if bytes > 0 {
            from.gpu().driver().copy(to, from.ptr() + (at * size) as u64, bytes)?;
        }
        Ok(part)
    }

    /// This tensor in memory that is not shared.
    pub(crate) fn apart(&self) -> Result<Tensor> {
        let mut copy = self.clone(); // shared for now, so the next line copies
        match &mut copy.storage {
            Storage::F32(b) => _ = sole(b)?,
            Storage::BF16(b) => _ = sole(b)?,
            Storage::Gpu(..) => _ = copy.in_out()?,
        }
        Ok(copy)
    }

    /// Overwrites the elements with those of `from` in place, also for tensors that share them: how a recorded graph
    /// gets new inputs.
    pub(crate) fn overwrite(&self, from: &Tensor) -> Result<()> {
        if from.shape() != self.shape {
            return Err(Error::shape("overwrite", "from", self.shape, from.shape()));
        }
        from.expect("overwrite", "from", self.dtype())?;
        let (to, gpu) = (self.memory(), self.memory().gpu());
        match &from.storage {
            _ if to.bytes() == 0 => Ok(()),
            Storage::F32(b) => gpu.driver().upload(to.ptr(), bytemuck::cast_slice(b.as_slice())),
            Storage::BF16(b) => gpu.driver().upload(to.ptr(), bytemuck::cast_slice(b.as_slice())),
            Storage::Gpu(_, memory) if memory.gpu() == gpu => gpu.driver().copy(to.ptr(), memory.ptr(), to.bytes()),
            Storage::Gpu(_, memory) if memory.gpu().is_beside(gpu) => self.overwrite(&from.share(gpu)?),
            Storage::Gpu(..) => self.overwrite(&from.to_cpu()?),
        }
    }

    pub(crate) fn memory(&self) -> &Memory {
        match &self.storage {
            Storage::Gpu(_, memory) => memory,
            _ => unreachable!("an operation of a GPU was given a tensor on the CPU"),
        }
    }

    /// The device address of the first element, for raw launches; `None` on the CPU.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        self.gpu().map(|_| self.memory().ptr())
    }

    /// The elements as a kernel's input.
    pub(crate) fn input(&self) -> In {
        In(self.memory().ptr(), self.memory().bytes())
    }

    /// The elements as a kernel's output, all of which it writes. Only for a tensor that is not shared.
    pub(crate) fn output(&mut self) -> Out {
        debug_assert!(self.is_sole());
        Out(self.memory().ptr(), self.memory().bytes())
    }

    /// The elements as a kernel's input and output; they are copied first if other tensors share them.
    pub(crate) fn in_out(&mut self) -> Result<InOut> {
        if !self.is_sole() {
            let copy = Tensor::on_gpu(self.memory().gpu(), self.dtype(), self.shape)?;
            let (to, from) = (copy.memory(), self.memory());
            if from.bytes() > 0 {
                from.gpu().driver().copy(to.ptr(), from.ptr(), from.bytes())?;
            }
            *self = copy;
        }
        Ok(InOut(self.memory().ptr(), self.memory().bytes()))
    }

    fn is_sole(&self) -> bool {
        match &self.storage {
            Storage::Gpu(_, memory) => Arc::strong_count(memory) == 1 && !memory.is_lent(),
            _ => true,
        }
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_gpus_names_the_missing_feature() {
        let (device, reason) = Device::auto();
        let reason = reason.map(|e| e.to_string()).unwrap_or_default();
        assert!(device == Device::Cpu && reason.contains("built without its feature `cuda`"), "{reason}");
    }
}
