//! Decoded frames of a video on a GPU.

use crate::driver::{Gpu, In, Memory};
use crate::error::{Error, Result};
use crate::shape::Shape;
use std::sync::Arc;

/// RGB frames `[count h w 3]` of bytes in a GPU's memory: the input of augmentation and frame differences on a GPU.
#[derive(Clone, Debug)]
pub struct Frames {
    memory: Arc<Memory>,
    count: usize,
    h: usize,
    w: usize,
}

impl Frames {
    /// Copies frames of `h w 3` bytes each to `gpu`, contiguously.
    ///
    /// # Errors
    /// `Shape` when there are no frames, or one has another length; on a GPU `OutOfMemory` and `Driver`.
    pub fn upload(gpu: &Gpu, frames: &[&[u8]], h: usize, w: usize) -> Result<Frames> {
        let bytes = Shape::from([frames.len(), h, w, 3]).checked_len().map_or(0, |_| h * w * 3);
        if frames.is_empty() || bytes == 0 {
            let got = format!("{} frames of {h}x{w}", frames.len());
            return Err(Error::shape("frames", "frames", "at least one frame with pixels that memory can hold", got));
        }
        if let Some(frame) = frames.iter().find(|f| f.len() != bytes) {
            return Err(Error::shape("frames", "frames", format!("h·w·3 = {bytes} bytes"), frame.len()));
        }
        let memory = gpu.alloc(frames.len() * bytes)?;
        for (i, frame) in frames.iter().enumerate() {
            gpu.driver().upload(memory.ptr() + (i * bytes) as u64, frame)?;
        }
        Ok(Frames { memory: Arc::new(memory), count: frames.len(), h, w })
    }

    /// The GPU whose memory holds them.
    #[must_use]
    pub fn gpu(&self) -> &Gpu {
        self.memory.gpu()
    }

    /// Their number and extents: `count h w`.
    #[must_use]
    pub fn dims(&self) -> [usize; 3] {
        [self.count, self.h, self.w]
    }

    /// The device address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.memory.ptr()
    }

    /// The bytes as a kernel's input.
    pub(crate) fn input(&self) -> In {
        In(self.memory.ptr(), self.memory.bytes())
    }
}
