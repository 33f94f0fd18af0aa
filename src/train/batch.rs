//! Collating samples into batches, in main memory or in that of a GPU.

use super::views::Part;
use crate::augment::layers::{LayeredClip, apply_rgb_layers};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor};

/// Where the clips of a batch go: to main memory for networks on the CPU, and for those on a GPU to its memory, by a stream of
/// its own, so that the clips of the next step arrive while the kernels of this one run.
pub(super) struct Feed(Device);

impl Feed {
    /// To networks on `device`.
    pub fn new(device: &Device) -> Feed {
        Feed(match device {
            // A driver with a single stream copies there.
            Device::Cuda(gpu) => Device::Cuda(gpu.fork().unwrap_or_else(|_| gpu.clone())),
            Device::Cpu => Device::Cpu,
        })
    }

    /// Whether copies go on by themselves.
    pub fn is_asynchronous(&self) -> bool {
        self.0 != Device::Cpu
    }

    /// The clips of a batch as one tensor `n t h w c`; `None` if a sample lacks its clip, or there is no sample. Clips that were
    /// left to the GPU are made there. This copy is the only part of loading that runs in the training loop's thread, so several do
    /// it.
    pub fn stack<'a>(&self, parts: impl Iterator<Item = Option<&'a Part>>) -> Result<Option<Tensor>> {
        let parts: Option<Vec<&Part>> = parts.collect();
        let Some(parts) = parts.filter(|p| !p.is_empty()) else { return Ok(None) };
        let [t, h, w, c] = parts[0].dims;
        let is_raw = parts[0].raw.is_some();
        let each = if is_raw { 0 } else { t * h * w * c };
        let alike = |p: &Part| p.dims == parts[0].dims && p.data.len() == each && p.raw.is_some() == is_raw;
        if let Some(other) = parts.iter().find(|p| !alike(p)) {
            let got = format!("{:?} with {} numbers", other.dims, other.data.len());
            return Err(Error::shape("batch", "clip", format!("[{t}, {h}, {w}, {c}], as the first one is"), got));
        }
        let raw: Vec<&LayeredClip> = parts.iter().filter_map(|part| part.raw.as_deref()).collect();
        if is_raw {
            let Device::Cuda(gpu) = &self.0 else {
                return Err(Error::device("batch", "clip", "a GPU, since it is to be made there", Device::Cpu));
            };
            let clips = apply_rgb_layers(gpu, &raw, h, DType::F32)?;
            return clips.reshape([parts.len(), t, h, w, c]).map(Some);
        }
        let clips: Vec<&[f32]> = parts.iter().map(|part| &part.data[..]).collect();
        Tensor::stack(&self.0, [parts.len(), t, h, w, c], &clips).map(Some)
    }

    /// The one-channel maps of a batch as one tensor `n t h w`; `None` if a sample lacks its map.
    pub fn stack_maps<'a>(&self, parts: impl Iterator<Item = Option<&'a Part>>) -> Result<Option<Tensor>> {
        let Some(maps) = self.stack(parts)? else { return Ok(None) };
        match maps.shape().nthwc("maps", "x")? {
            [n, t, h, w, 1] => maps.reshape([n, t, h, w]).map(Some),
            _ => Err(Error::shape("batch", "maps", "n t h w 1", maps.shape())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_one_behind_the_other_with_their_axes() {
        let part = |first: usize| Part::new([2, 3, 1, 2], (0..12).map(|i| (first + i) as f32).collect());
        let (a, b) = (part(0), part(100));
        let feed = Feed::new(&Device::Cpu);
        let both = feed.stack([Some(&a), Some(&b)].into_iter()).unwrap().unwrap();
        assert_eq!(both.dims(), [2, 2, 3, 1, 2]);
        assert_eq!(*both.load().unwrap(), [&a.data[..], &b.data].concat());
        assert!(feed.stack([Some(&a), None].into_iter()).unwrap().is_none());
        let other = Part::new([2, 3, 1, 1], vec![0.0; 6]);
        assert!(feed.stack([Some(&a), Some(&other)].into_iter()).is_err());
        // As many numbers with other extents do not fit this batch.
        let turned = Part { dims: [2, 1, 3, 2], ..part(0) };
        assert!(feed.stack([Some(&a), Some(&turned)].into_iter()).is_err());
        let map = Part::new([2, 3, 2, 1], vec![0.5; 12]);
        assert_eq!(feed.stack_maps([Some(&map)].into_iter()).unwrap().unwrap().dims(), [1, 2, 3, 2]);
        assert!(feed.stack_maps([Some(&a)].into_iter()).is_err(), "two channels are no map");
    }
}
