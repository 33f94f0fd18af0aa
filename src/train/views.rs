//! From the cache to a network's input: two clips of a video, RGB and motion, cropped and with changed colours.

pub use super::part::{ClipPair, Part};
use crate::augment::{AugmentSpec, Draw, MotionKind, apply_motion, apply_rgb};
use crate::error::{Error, Result};
use crate::flow::maps::MapSpec;
use crate::flow::motion::{MotionInput, MotionMap};
use crate::ops::tvl1::Tvl1;
use crate::video::{Cache, CacheSpec, ClipSpec, Decode, FlowSource, Gap, MotionSpec, Short, View};
use crate::weights::InputSpec;
use serde::Serialize;

/// Which clips are sampled from a video, and how they are augmented.
#[derive(Clone, Debug, Serialize)]
pub struct ViewSpec {
    /// Frames of an RGB clip.
    pub frames: usize,
    /// Distance between consecutive frames of an RGB clip, in frames of the video at [`ViewSpec::fps`].
    pub stride: usize,
    /// Frame rate in which strides are counted; `None` for the video's own.
    pub fps: Option<f64>,
    /// Seconds between the starts of a video's two clips.
    pub gap: Gap,
    /// Epochs in which these grow from 0 to [`ViewSpec::gap`], so that the two clips drift apart; 0: from the start.
    #[serde(skip_serializing_if = "is_default")]
    pub drift: u64,
    /// What to do with a video that is shorter than a clip.
    pub short: Short,
    /// Whether a clip is spread over the whole video, with one frame from each of as many equal segments, instead of
    /// frames at a distance (uniform sampling of segments). Of pre-training, no method does so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub segments: bool,
    /// Side of the clips in pixels.
    pub side: usize,
    /// Crop, flip and colour.
    pub augment: AugmentSpec,
    /// Probability that an RGB clip of a sample keeps the half of its pixels that moves most, over the background of another
    /// training video. It needs flow.
    #[serde(skip_serializing_if = "is_default")]
    pub background_swap: f32,
    /// Number of synthetic tubelets of a sample, whose two RGB clips are then of different videos; 0: both are of one.
    #[serde(skip_serializing_if = "is_default")]
    pub tubelets: usize,
    /// Whether a motion clip shares crop and flip with the RGB clip of the same time (`docs/papers/maclr.md` section
    /// 3.2), or uses those of the video's other clip. With different crops, videos can be told apart by little else
    /// than what moves in them.
    pub tied_crops: bool,
    /// The input of the motion network.
    pub motion: MotionInput,
    /// Magnitude of motion at which the motion input reaches 1, in pixels per frame of the cache (edges: of Sobel's
    /// sums).
    pub motion_clamp: f32,
    /// Whether the motion network gets a map of one channel three times over, as three channels, which is what MaCLR's
    /// release has; flow keeps its two.
    pub motion_thrice: bool,
    /// Frames of a motion clip, over the same time span as the RGB clip.
    pub motion_frames: usize,
    /// Short side of the cached frames, in pixels.
    pub cache_side: usize,
    /// A flow field is kept for every so many frames.
    pub flow_every: usize,
    /// Parameters of the optical flow.
    pub flow: Tvl1,
    /// Whether flow is computed, or read from existing files.
    #[serde(skip)] // a path, which may not be valid Unicode
    pub flow_source: FlowSource,
    /// Whether clips and crops follow the motion, and whether there is an alignment target.
    pub focus: Focus,
}

impl ViewSpec {
    /// Small clips for CPUs: 8 RGB frames at a stride of 4 and 16 motion frames over the same span, from frames of 80
    /// pixels with flow between every other pair.
    ///
    /// The flow is TV-L1 with fewer iterations than OpenCV's default: at this size edges look the same, and the flow of
    /// a data set takes a fraction of the time. Edges of flow between frames of 80 pixels rarely exceed a few pixels,
    /// so they are clamped at 1 instead of the 10 for full-size frames.
    #[must_use]
    pub fn small() -> ViewSpec {
        ViewSpec {
            frames: 8,
            stride: 4,
            fps: None,
            gap: Gap::default(),
            drift: 0,
            short: Short::Repeat,
            segments: false,
            side: 48,
            augment: AugmentSpec {
                brightness: 0.6,
                contrast: 0.6,
                saturation: 0.6,
                grey: 0.4,
                ..AugmentSpec::default()
            },
            background_swap: 0.0,
            tubelets: 0,
            tied_crops: true,
            motion: MotionInput::FlowEdges,
            motion_clamp: 1.0,
            motion_thrice: false,
            motion_frames: 16,
            cache_side: 80,
            flow_every: 2,
            flow: Tvl1 { scales: 4, warps: 2, outer_iterations: 2, inner_iterations: 10, ..Tvl1::default() },
            flow_source: FlowSource::TvL1,
            focus: Focus::default(),
        }
    }

    /// The paper's views (`docs/papers/maclr.md` sections 2.4, 3.1, 3.2): 8 frames at a stride of 8 at 30 per second,
    /// 224 pixels, 16 motion frames, edges of TV-L1 flow clamped at 10, three times over.
    #[must_use]
    pub fn paper() -> ViewSpec {
        ViewSpec {
            frames: 8,
            stride: 8,
            fps: Some(30.0),
            gap: Gap::default(),
            drift: 0,
            short: Short::Repeat,
            segments: false,
            side: 224,
            augment: AugmentSpec::default(),
            background_swap: 0.0,
            tubelets: 0,
            tied_crops: true,
            motion: MotionInput::FlowEdges,
            motion_clamp: 10.0,
            motion_thrice: true,
            motion_frames: 16,
            cache_side: 256,
            flow_every: 2,
            flow: Tvl1::default(),
            flow_source: FlowSource::TvL1,
            focus: Focus::default(),
        }
    }

    /// What the cache must contain for these views; without `motion`, only what [`ViewSpec::focus`] needs.
    #[must_use]
    pub fn cache(&self, motion: bool) -> CacheSpec {
        let flow = motion && self.motion.needs_flow() || self.focus.needs_flow() || self.background_swap > 0.0;
        CacheSpec {
            decode: Decode { short_side: Some(self.cache_side), ..Decode::default() },
            motion: flow.then(|| MotionSpec {
                settings: format!("{:?}", self.flow),
                source: self.flow_source.clone(),
                every: self.flow_every,
                gap: 1,
            }),
            maps: self.focus.needs_maps().then(|| self.maps()),
        }
    }

    /// How often the motion network gets each plane of a map.
    fn times(&self) -> usize {
        if self.motion_thrice && self.motion.channels() == 1 { 3 } else { 1 }
    }

    /// Channels of a motion clip.
    #[must_use]
    pub fn motion_channels(&self) -> usize {
        self.times() * self.motion.channels()
    }

    /// Extents `t h w c` of an RGB clip and of a motion clip.
    #[must_use]
    pub fn dims(&self) -> [[usize; 4]; 2] {
        let motion = [self.motion_frames, self.side, self.side, self.motion_channels()];
        [[self.frames, self.side, self.side, 3], motion]
    }

    /// An RGB clip and a motion clip, described for other programs.
    #[must_use]
    pub fn inputs(&self) -> [InputSpec; 2] {
        let input = |kind: &str, frames, mean: &[f32], std: &[f32]| InputSpec {
            kind: kind.to_owned(),
            frames,
            stride: (self.frames * self.stride) as f64 / frames as f64,
            fps: self.fps,
            side: self.side,
            short_side: Some(self.cache_side),
            mean: mean.to_vec(),
            std: std.to_vec(),
            layout: InputSpec::LAYOUT.to_owned(),
        };
        let (channels, augment) = (self.motion_channels(), &self.augment);
        let motion = input(self.motion.name(), self.motion_frames, &vec![0.0; channels], &vec![1.0; channels]);
        [input(InputSpec::RGB, self.frames, &augment.mean, &augment.std), motion]
    }

    /// For a video of `frames` frames at `fps` per second: whether it is shorter than an RGB clip, and whether it is
    /// only shorter than a motion clip, which ends later if it has more frames.
    #[must_use]
    pub fn short(&self, frames: usize, fps: f64) -> [bool; 2] {
        let clip = self.clip(fps);
        let rgb = clip.exceeds(frames, fps);
        [rgb, !rgb && clip.with_frames(self.motion_frames).exceeds(frames, fps)]
    }

    /// Checks that no option of MaCLR's pairs is set, for `samples` that have none.
    pub(super) fn check_no_pair_options(&self, samples: &str) -> Result<()> {
        let set = [("--tubelets", self.tubelets > 0), ("--drift", self.drift > 0)];
        match set.into_iter().find(|(_, is)| *is) {
            Some((option, _)) => Err(Error::param("settings", option, "above 0", format!("{samples} do not take it"))),
            None => Ok(()),
        }
    }

    /// Seconds between the two clips in `epoch` of a video of `len` frames.
    pub(super) fn gap_in(&self, epoch: u64, len: usize, fps: f64) -> Gap {
        if epoch >= self.drift {
            return self.gap;
        }
        let room = self.clip(fps).last_start(len, fps) / fps;
        self.gap.reaching(epoch as f64 / self.drift as f64, room)
    }

    pub(super) fn clip(&self, fps: f64) -> ClipSpec {
        ClipSpec { frames: self.frames, stride: self.stride as f64, fps: self.fps.unwrap_or(fps) }
    }

    /// The maps and scores that [`ViewSpec::focus`] is made by.
    #[must_use]
    pub fn maps(&self) -> MapSpec {
        self.focus.maps((self.frames * self.stride) as f64, self.fps)
    }
}

/// Whether a setting has the value that runs had before there was such a setting.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// MCL's options for the choice of clips. By default all are off.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Focus {
    /// Probability of choosing starts by motion; 0.7 in the release, 0 for never.
    pub sampling: f64,
    /// Whether crops must contain what moves.
    pub crop: bool,
    /// The released code's behaviour where it differs. A clip without motion still constrains the crop to a box, at the
    /// lower right; of starts with equal scores the earliest are kept; if none of forty random positions of a crop
    /// covers the box, the best of them is used. In the target, flow is not rescaled when it is resized, and is in
    /// levels of 6.375 per pixel; in mirrored clips `u` and `v` are each mirrored with probability one half
    /// (`docs/papers/mcl.md` section 8). The effect of storing maps and flow in 8 bits is not reproduced.
    pub legacy: bool,
    /// Grid `t h w` of the alignment target, if the method needs one.
    pub target: Option<[usize; 3]>,
    /// Number of frames whose flow is combined into the map of a frame ([`MapSpec::window`]).
    pub window: usize,
    /// Cells of a map, vertically and horizontally.
    pub grid: [usize; 2],
    /// Fraction of each side at the border that is treated as motionless ([`MapSpec::border`]).
    pub border: f64,
    /// A clip whose map has no cell above this threshold counts as motionless, and its crops are ordinary ones. In
    /// pixels of the cached flow, per field that is summed. Not used with [`Focus::legacy`].
    pub still: f32,
}

impl Default for Focus {
    fn default() -> Self {
        let MapSpec { window, grid, border, .. } = MapSpec::new(1.0, None);
        Focus { sampling: 0.0, crop: false, legacy: false, target: None, window, grid, border, still: 0.01 }
    }
}

impl Focus {
    /// All options: sampling with probability 0.7, crops, and a target on the grid `t h w`.
    #[must_use]
    pub fn mcl(target: [usize; 3]) -> Focus {
        Focus { sampling: 0.7, crop: true, target: Some(target), ..Focus::default() }
    }

    /// Whether a video's maps and scores are needed.
    #[must_use]
    pub fn needs_maps(&self) -> bool {
        self.sampling > 0.0 || self.crop
    }

    /// Whether the flow is needed.
    #[must_use]
    pub fn needs_flow(&self) -> bool {
        self.needs_maps() || self.target.is_some()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// `Param` naming the field that is out of range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.sampling) {
            return Err(Error::param("focus", "sampling", self.sampling, "a probability is from 0 to 1"));
        }
        if !(self.still >= 0.0 && self.still.is_finite()) {
            return Err(Error::param("focus", "still", self.still, "it must be at least 0"));
        }
        if let Some([t, h, w]) = self.target.filter(|grid| grid.contains(&0)) {
            let rule = "every extent of the target's grid must be at least 1";
            return Err(Error::param("focus", "target", format!("{t} x {h} x {w}"), rule));
        }
        self.maps(1.0, None).check()
    }

    fn maps(&self, span: f64, fps: Option<f64>) -> MapSpec {
        MapSpec { window: self.window, grid: self.grid, border: self.border, span, fps }
    }
}

/// Samples clips from cached videos.
#[derive(Clone, Debug)]
pub struct Loader {
    /// The videos.
    pub cache: Cache,
    /// Indices in the cache of the videos that belong to this split.
    pub videos: Vec<usize>,
    /// Which clips.
    pub spec: ViewSpec,
    /// Seed of all random choices.
    pub seed: u64,
    /// Whether motion clips are needed.
    pub motion: bool,
    /// Whether the RGB clips of samples are left to the GPU of the networks, as [`Part::raw`]. It rounds otherwise than the CPU.
    pub on_gpu: bool,
}

impl Loader {
    /// Number of frames and frame rate of each of the videos.
    ///
    /// # Errors
    /// `Io`, `Format` for the cache.
    pub fn lengths(&self) -> Result<Vec<(usize, f64)>> {
        self.videos.iter().map(|&i| self.cache.length(i)).collect()
    }

    /// `n` clips of `video`, evenly spaced, cropped to the largest square in the middle of the frames
    /// ([`Draw::centre`]), without augmentation: the input of a probe.
    ///
    /// # Errors
    /// As [`Loader::pair`].
    pub fn uniform(&self, video: usize, n: usize) -> Result<Vec<Part>> {
        (0..n).map(|i| self.view(video, [i, n], [0, 1])).collect()
    }

    /// Clip `i` of `n` evenly spaced ones of `video`, for `[i, n]`, cropped to one of the largest squares along the
    /// longer side of the frames ([`Draw::along`]), without augmentation.
    ///
    /// # Errors
    /// As [`Loader::pair`].
    pub fn view(&self, video: usize, [i, n]: [usize; 2], crop: [usize; 2]) -> Result<Part> {
        let (view, start, draw) = self.place(video, [i, n], crop)?;
        if self.spec.segments {
            return self.rgb_of(&view, &segments(view.len(), self.spec.frames, |from, to| (from + to) / 2), &draw);
        }
        let clip = self.spec.clip(view.fps());
        self.rgb_of(&view, &clip.indices(start, view.len(), view.fps(), self.spec.short)?, &draw)
    }

    /// The video of such a clip, its first frame and its crop.
    pub(super) fn place(&self, video: usize, [i, n]: [usize; 2], crop: [usize; 2]) -> Result<(View, f64, Draw)> {
        let view = self.cache.get(self.videos[video])?;
        let (h, w) = view.size();
        let draw = Draw::along(&self.spec.augment, h, w, crop);
        let starts = self.spec.clip(view.fps()).uniform(n, view.len(), view.fps());
        let Some(&start) = starts.get(i) else {
            return Err(Error::param("views", "clip", i, format!("there are {n} clips, from 0")));
        };
        Ok((view, start, draw))
    }

    /// The RGB clip of a sample that starts at frame `start`.
    pub(super) fn rgb(&self, view: &View, start: f64, draw: &Draw) -> Result<Part> {
        let clip = self.spec.clip(view.fps());
        let frames = clip.indices(start, view.len(), view.fps(), self.spec.short)?;
        if self.on_gpu {
            return Ok(Part::of_frames(self.spec.dims()[0], view, &frames, draw));
        }
        self.rgb_of(view, &frames, draw)
    }

    /// An RGB clip of these frames.
    pub(super) fn rgb_of(&self, view: &View, frames: &[usize], draw: &Draw) -> Result<Part> {
        let (h, w) = view.size();
        let frames: Vec<&[u8]> = frames.iter().map(|&i| view.frame(i)).collect();
        let [dims, _] = self.spec.dims();
        let mut data = vec![0.0; dims.iter().product()];
        apply_rgb(&frames, h, w, draw, self.spec.side, &mut data)?;
        Ok(Part::new(dims, data))
    }

    /// The frames of a motion clip over the span of the RGB clip that starts at frame `start`.
    ///
    /// # Errors
    /// `Param` when the video is shorter than the clip and short videos are refused.
    pub fn motion_frames(&self, view: &View, start: f64) -> Result<Vec<usize>> {
        let clip = self.spec.clip(view.fps()).with_frames(self.spec.motion_frames);
        clip.indices(start, view.len(), view.fps(), self.spec.short)
    }

    /// The motion clip over that span.
    pub(super) fn motion(&self, view: &View, start: f64, draw: &Draw) -> Result<Part> {
        let spec = &self.spec;
        let frames = self.motion_frames(view, start)?;
        let maps = frames.into_iter().map(|i| self.motion_map(view, i)).collect::<Result<Vec<_>>>()?;
        let kind = if spec.motion.has_direction() { MotionKind::Flow } else { MotionKind::Map };
        let planes: Vec<&[f32]> = maps.iter().flat_map(|map| (0..spec.times()).flat_map(|_| map.planes())).collect();
        let size = maps.first().map_or([0; 2], MotionMap::size);
        let [_, dims] = spec.dims();
        let mut data = vec![0.0; dims.iter().product()];
        apply_motion(&planes, dims[3], kind, size, draw, spec.side, &mut data)?;
        Ok(Part::new(dims, data))
    }

    /// The motion input at frame `i`: from the flow field that starts nearest to it, or from the frame and its
    /// successor.
    fn motion_map(&self, view: &View, i: usize) -> Result<MotionMap> {
        let spec = &self.spec;
        if !spec.motion.needs_flow() {
            let this = i.min(view.len().saturating_sub(2));
            let next = (this + 1).min(view.len() - 1);
            return MotionMap::of_frames(view.frame(this), view.frame(next), view.size().into());
        }
        self.expect_flow(view)?;
        let flow = view.flow_field(view.field_of(i));
        MotionMap::of_flow(spec.motion, &flow, spec.motion_clamp)
            .ok_or_else(|| Error::param("motion", "input", spec.motion, "this input is not made of flow"))
    }
}

/// One frame from each of `n` equal segments of a video of `len` frames: `choose(first, last)` says which.
pub(super) fn segments(len: usize, n: usize, mut choose: impl FnMut(usize, usize) -> usize) -> Vec<usize> {
    let last = len.saturating_sub(1);
    let edge = |i: usize| (last as f64 * i as f64 / n as f64).round() as usize;
    (0..n).map(|i| choose(edge(i), edge(i + 1))).collect()
}
