//! RGB clips of videos of different sizes, augmented on a GPU.

use super::cuda::{Clip, Layout, Pointers, copy, launch_rgb};
use super::{Draw, product};
use crate::driver::Gpu;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// An RGB clip before its augmentation.
#[derive(Clone, Debug)]
pub struct RawClip {
    /// Its frames, `t h w 3`.
    pub frames: Vec<u8>,
    /// Rows and columns of a frame.
    pub size: [usize; 2],
    /// Crop, flip and colours.
    pub draw: Draw,
}

impl RawClip {
    /// The number of frames.
    fn len(&self) -> Result<usize> {
        let ([h, w], bytes) = (self.size, self.frames.len());
        let each = product(&[h, w, 3]);
        if bytes == 0 || each == 0 || !bytes.is_multiple_of(each) {
            let rule = format!("whole frames of {h} x {w} x 3 bytes, at least one");
            return Err(Error::shape("augment", "frames", rule, format!("{bytes} bytes")));
        }
        Ok(bytes / each)
    }
}

/// Applies to each of the clips its own draw, on `gpu`, where their bytes are copied first: `[n t s s 3]` in `dtype`. Clips may
/// differ in the size of their frames. Like [`super::apply_rgb`] on the CPU, up to rounding; a clip has the same bits in any batch.
///
/// # Errors
/// `Shape` when there are no clips, or one has no frames, broken ones, or another number than the first; `Param` as
/// [`super::apply_rgb_batch`]; `OutOfMemory`; `Driver`.
pub fn apply_rgb_clips(gpu: &Gpu, clips: &[&RawClip], side: usize, dtype: DType) -> Result<Tensor> {
    Batch::new(clips, side, dtype)?.make(gpu)
}

/// Clips that were checked, in the form that is launched.
pub(super) struct Batch<'a> {
    frames: Vec<&'a [u8]>,
    described: Vec<Clip>,
    /// Of consecutive clips of one size.
    runs: Vec<Layout>,
}

impl<'a> Batch<'a> {
    /// A batch of [`apply_rgb_clips`], with its errors that are of no device.
    pub fn new(clips: &[&'a RawClip], side: usize, dtype: DType) -> Result<Batch<'a>> {
        let Some(first) = clips.first() else {
            return Err(Error::shape("augment", "clips", "at least one clip", "none"));
        };
        let t = first.len()?;
        let mut described = Vec::with_capacity(clips.len());
        for clip in clips {
            let len = clip.len()?;
            if len != t {
                return Err(Error::shape("augment", "clips", format!("{t} frames, as the first one has"), len));
            }
            described.push(Clip::new(&clip.draw, clip.size[0], clip.size[1], side)?);
        }
        let of_run = |run: &[&RawClip]| {
            let ([h, w], any) = (run[0].size, |what: fn(&Draw) -> bool| run.iter().any(|clip| what(&clip.draw)));
            let (jitter, boxes) = (any(|draw| draw.jitter.is_some()), any(|draw| draw.boxes().is_some()));
            Layout { clips: run.len(), t, h, w, side, dtype, jitter, boxes }
        };
        let runs: Vec<Layout> = clips.chunk_by(|a, b| a.size == b.size).map(of_run).collect();
        runs.iter().try_for_each(Layout::check)?;
        Ok(Batch { frames: clips.iter().map(|clip| &clip.frames[..]).collect(), described, runs })
    }

    /// Frames of each clip.
    pub fn frames(&self) -> usize {
        self.runs[0].t
    }

    /// The augmented clips `[n t s s 3]`.
    pub fn make(&self, gpu: &Gpu) -> Result<Tensor> {
        let Layout { t, side, dtype, .. } = self.runs[0];
        let frames = gpu.alloc(self.frames.iter().map(|part| part.len()).sum())?;
        gpu.driver().upload_all(frames.ptr(), &self.frames)?;
        let described = copy(gpu, bytemuck::cast_slice(&self.described))?;
        let work = gpu.alloc(self.runs.iter().map(Layout::workspace).max().unwrap_or(0))?;
        let mut out = Tensor::on_gpu(gpu, dtype, [self.described.len(), t, side, side, 3])?;
        let (clips, to) = (described.ptr(), out.output().0);
        let mut at = Pointers { frames: frames.ptr(), clips, out: to, workspace: work.ptr() };
        for run in &self.runs {
            // SAFETY: the memory has the extents of all runs and is kept until the work has been executed; they take turns with the
            // working space.
            unsafe { launch_rgb(gpu, run, &at)? };
            at.frames += (run.clips * t * run.h * run.w * 3) as u64;
            at.clips += (run.clips * size_of::<Clip>()) as u64;
            at.out += (run.clips * t * side * side * 3 * dtype.size()) as u64;
        }
        Ok(out)
    }
}
