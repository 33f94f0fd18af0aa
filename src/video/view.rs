//! A video in the cache: its frames and, if present, its flow.

use std::path::{Path, PathBuf};

use half::f16;

use super::Clip;
use super::packed::{Kind, Mapped};
use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::flow::maps::{Fields, MapSpec, Maps};
use crate::ops::motion_map::widened;

/// A memory-mapped video of the cache. Pixels and flow are slices of the mapping: nothing is copied, and no file stays
/// open.
#[derive(Debug)]
pub struct View {
    frames: Mapped,
    flow: Option<Mapped>,
}

impl View {
    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.head.extents[0]
    }

    /// Always false: a video has at least one frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Height and width of the frames.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let [_, h, w, ..] = self.frames.head.extents;
        (h, w)
    }

    /// Frames per second.
    #[must_use]
    pub fn fps(&self) -> f64 {
        self.frames.head.fps
    }

    /// Pixels of frame `t`, `h w 3`, 8-bit RGB. Panics where `t >= len()`, as slices do.
    #[must_use]
    pub fn frame(&self, t: usize) -> &[u8] {
        let [frames, h, w, ..] = self.frames.head.extents;
        assert!(t < frames, "frame {t} of {frames}");
        &self.frames.numbers()[t * h * w * 3..][..h * w * 3]
    }

    /// The frames `indices` as a clip of `fps`.
    ///
    /// # Errors
    /// `Param` when an index is out of range; those of [`Clip::new`].
    pub fn clip(&self, indices: &[usize], fps: f64) -> Result<Clip> {
        if let Some(&i) = indices.iter().find(|&&i| i >= self.len()) {
            return Err(Error::param("view", "indices", i, format!("the video has {} frames", self.len())));
        }
        let (h, w) = self.size();
        let mut rgb = Vec::with_capacity(indices.len() * h * w * 3);
        indices.iter().for_each(|&i| rgb.extend_from_slice(self.frame(i)));
        Clip::new(indices.len(), h, w, rgb, fps)
    }

    /// Fields, their height and width, frames between fields, and frames each field spans: zeros without flow.
    fn motion(&self) -> [usize; 5] {
        self.flow.as_ref().map_or([0; 5], |flow| {
            let [fields, h, w, every, gap, _] = flow.head.extents;
            [fields, h, w, every, gap]
        })
    }

    /// Number of flow fields; 0 in a cache without flow.
    #[must_use]
    pub fn fields(&self) -> usize {
        self.motion()[0]
    }

    /// Height and width of the flow fields; zeros without flow.
    #[must_use]
    pub fn flow_size(&self) -> (usize, usize) {
        let [_, h, w, ..] = self.motion();
        (h, w)
    }

    /// The field that starts nearest to frame `t`. There must be one.
    #[must_use]
    pub fn field_of(&self, t: usize) -> usize {
        let [fields, _, _, every, _] = self.motion();
        ((t + every / 2) / every.max(1)).min(fields.saturating_sub(1))
    }

    /// The two frames between which field `m` is the flow.
    #[must_use]
    pub fn field_frames(&self, m: usize) -> (usize, usize) {
        let [_, _, _, every, gap] = self.motion();
        (m * every, m * every + gap)
    }

    /// Displacements u and v of field `m`, each `h w`, in pixels. Panics where `m >= fields()`.
    pub fn flow(&self, m: usize) -> (&[f16], &[f16]) {
        let [fields, h, w, ..] = self.motion();
        let numbers = self.flow.as_ref().map_or(&[][..], Mapped::numbers);
        assert!(m < fields, "flow field {m} of {fields}");
        // Aligned: the mapping starts at a page and the data at a multiple of 64.
        let field: &[f16] = bytemuck::cast_slice(&numbers[m * h * w * 4..][..h * w * 4]);
        field.split_at(h * w)
    }

    /// Field `m` in f32.
    #[must_use]
    pub fn flow_field(&self, m: usize) -> Flow {
        let ((h, w), (u, v)) = (self.flow_size(), self.flow(m));
        Flow::new(h, w, widened(u), widened(v)).expect("planes of h w")
    }

    /// Maps and scores, made of the flow.
    ///
    /// # Errors
    /// Those of [`Maps::new`]: there must be flow.
    pub fn maps(&self, spec: &MapSpec) -> Result<Maps> {
        let field = |m: usize| <[&[f16]; 2]>::from(self.flow(m));
        let [count, h, w, every, _] = self.motion();
        Maps::new(spec, &Fields { count, size: [h, w], every, fps: self.fps(), field: &field })
    }

    /// Maps the file of frames at `frames`, and that of flow at `flow`, without verifying their data. Each comes with
    /// the hash of its key.
    pub(super) fn open(frames: (PathBuf, u64), flow: Option<(PathBuf, u64)>) -> Result<View> {
        let open = |(path, hash): (PathBuf, u64), kind| {
            let mapped = Mapped::open(&path, kind, false)?;
            if mapped.head.key_hash != hash {
                return Err(Error::format(&path, 56, "this cache file was made of something else"));
            }
            Ok((mapped, path))
        };
        let mut view = View::new(open(frames, Kind::Frames)?.0);
        if let Some(flow) = flow {
            let (flow, path) = open(flow, Kind::Flow)?;
            view.set_flow(flow, &path)?;
        }
        Ok(view)
    }

    /// Frames only.
    pub(super) fn new(frames: Mapped) -> View {
        View { frames, flow: None }
    }

    /// Adds the flow in the file at `path`.
    pub(super) fn set_flow(&mut self, flow: Mapped, path: &Path) -> Result<()> {
        if flow.head.made_of != self.frames.head.sum {
            return Err(Error::format(path, 52, "the frames this flow was made of have changed"));
        }
        self.flow = Some(flow);
        Ok(())
    }
}
