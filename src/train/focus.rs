//! Sampling that follows motion, as in MCL (`docs/papers/mcl.md` sections 1.4 to 1.7): starts of clips, crop boxes,
//! alignment targets.
//!
//! All random choices of a sample are a plain value, [`Chosen`], which [`Loader::quad`] then applies to the video.

pub use super::part::Quad;
use super::part::wanted;
use super::share::Clips;
pub use super::views::Focus;
use super::views::{Loader, Part};
use crate::augment::{Draw, MotionKind, Region, apply_motion};
use crate::error::{Error, Result};
use crate::flow::maps::{Maps, moving, speed, target};
use crate::flow::{Flow, Gray};
use crate::ops::tvl1;
use crate::rng::{self, Purpose};
use crate::video::{Favour, View};
use half::f16;
use rand::RngExt;
use rayon::prelude::*;

/// Grey levels per pixel of displacement in the flow of the released code.
const LEVELS: f32 = 6.375;

/// All random choices of a [`Quad`], and what they were based on. The four views are the query, the key of the same
/// clip, and the two other keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// First frame of each view's clip.
    pub starts: [f64; 4],
    /// The frames of each view's clip.
    pub frames: [Vec<usize>; 4],
    /// Crop, flip and colours of each view.
    pub draws: [Draw; 4],
    /// The region of each view's clip that moves most, if its crop was chosen by it.
    pub regions: [Option<Region>; 4],
    /// Whether the query begins before the two other clips, or after them.
    pub order: bool,
    /// Whether the starts were chosen by motion.
    pub focused: bool,
    /// The video's maps and scores, if sampling or crops follow the motion.
    pub maps: Option<Maps>,
}

impl Loader {
    /// MCL's sample of `video` in `epoch`, according to [`Loader::chosen`].
    ///
    /// # Errors
    /// As [`Loader::chosen`].
    pub fn quad(&self, epoch: u64, video: usize) -> Result<Quad> {
        self.quad_of(epoch, video, Clips::ALL)
    }

    /// The same, of which only `clips` are made, by the numbers in [`Quad`].
    ///
    /// # Errors
    /// As [`Loader::chosen`].
    pub fn quad_of(&self, epoch: u64, video: usize, clips: Clips) -> Result<Quad> {
        let view = self.cache.get(self.videos[video])?;
        let chosen = self.choose(&view, epoch, video)?;
        let part = |i: usize| {
            wanted(clips, i, || {
                self.rgb_over([epoch, video as u64, i as u64], &view, chosen.starts[i], &chosen.draws[i])
            })
        };
        let [start, ..] = chosen.starts;
        let target = || self.targets(epoch, video, &view, [start], &[chosen.draws[0].clone()]);
        let target = clips.has(Quad::TARGET).then(target).transpose()?.flatten();
        Ok(Quad {
            video: video as u32,
            query: part(Quad::QUERY)?,
            keys: [part(Quad::KEYS[0])?, part(Quad::KEYS[1])?, part(Quad::KEYS[2])?],
            target: target.map(|[target]| target),
            order: chosen.order,
        })
    }

    /// The random choices for the sample of `video` in `epoch`.
    ///
    /// # Errors
    /// `Param` when [`ViewSpec::focus`](super::views::ViewSpec::focus) is out of range, the video is shorter than a clip and short videos are refused,
    /// or flow is needed and the cache has none; `Io`, `Format` for the cache.
    pub fn chosen(&self, epoch: u64, video: usize) -> Result<Chosen> {
        self.choose(&self.cache.get(self.videos[video])?, epoch, video)
    }

    fn choose(&self, view: &View, epoch: u64, video: usize) -> Result<Chosen> {
        let focus = &self.spec.focus;
        focus.check()?;
        let (clip, maps) = (self.spec.clip(view.fps()), self.maps(view, video)?);
        let triple = self.favour(maps.as_ref(), |favour| {
            let mut rng = rng::stream(self.seed, epoch, video as u64, Purpose::ClipSampling);
            clip.triple(view.len(), view.fps(), favour, &mut rng)
        });
        let [query, second, third] = [triple.query, triple.keys[0], triple.keys[1]].map(|s| s as f64);
        let starts = [query, query, second, third];
        let mut rng = rng::stream(self.seed, epoch, video as u64, Purpose::Augment);
        let (h, w) = view.size();
        let mut draws = [(); 4].map(|()| Draw::sample(&mut rng, &self.spec.augment, h, w));
        let regions = self.crop(maps.as_ref(), epoch, video, view, starts, &mut draws)?;
        let frames = |i: usize| clip.indices(starts[i], view.len(), view.fps(), self.spec.short);
        let frames = [frames(0)?, frames(1)?, frames(2)?, frames(3)?];
        Ok(Chosen { starts, frames, draws, regions, order: triple.query_first, focused: triple.focused, maps })
    }

    /// The maps of a video, if they are needed: from the cache, or computed now if it was built without them.
    pub(super) fn maps(&self, view: &View, video: usize) -> Result<Option<Maps>> {
        if !self.spec.focus.needs_maps() {
            return Ok(None);
        }
        self.expect_flow(view)?;
        match self.cache.maps(self.videos[video])? {
            Some(maps) => Ok(Some(maps)),
            None => view.maps(&self.spec.maps()).map(Some),
        }
    }

    /// Calls `with` with the rule by which starts are chosen.
    pub(super) fn favour<R>(&self, maps: Option<&Maps>, with: impl FnOnce(&Favour<'_>) -> R) -> R {
        let score = |start: usize| maps.map_or(0.0, |maps| maps.score(start));
        let focus = &self.spec.focus;
        let probability = if maps.is_some() { focus.sampling } else { 0.0 };
        with(&Favour { probability, score: &score, legacy: focus.legacy })
    }

    /// Replaces the crops in the draws of clips at `starts` by crops that contain what moves. Everything else about the
    /// draws is unchanged, and so are the crops of motionless clips.
    pub(super) fn crop<const N: usize>(
        &self,
        maps: Option<&Maps>,
        epoch: u64,
        video: usize,
        view: &View,
        starts: [f64; N],
        draws: &mut [Draw; N],
    ) -> Result<[Option<Region>; N]> {
        let (focus, clip) = (&self.spec.focus, self.spec.clip(view.fps()));
        let mut regions = [None; N];
        let Some(maps) = maps.filter(|_| focus.crop) else { return Ok(regions) };
        let mut rng = rng::stream(self.seed, epoch, video as u64, Purpose::Tubelet);
        let still = focus.still * maps.summed() as f32;
        for i in 0..N {
            let frames = clip.indices(starts[i], view.len(), view.fps(), self.spec.short)?;
            regions[i] = Region::of(&maps.mean(&frames), maps.grid(), still, focus.legacy);
            if let Some(region) = &regions[i] {
                draws[i].crop = region.crop(&mut rng, &self.spec.augment, view.size().into(), focus.legacy);
            }
        }
        Ok(regions)
    }

    /// The alignment targets of clips at `starts`, cropped and flipped like their frames, if the method needs them.
    pub(super) fn targets<const N: usize>(
        &self,
        epoch: u64,
        video: usize,
        view: &View,
        starts: [f64; N],
        draws: &[Draw; N],
    ) -> Result<Option<[Part; N]>> {
        let (focus, side, clip) = (&self.spec.focus, self.spec.side, self.spec.clip(view.fps()));
        let Some([t, h, w]) = focus.target else { return Ok(None) };
        self.expect_flow(view)?;
        let mut rng = rng::stream(self.seed, epoch, video as u64, Purpose::LegacyFlip);
        let mut parts = [(); N].map(|()| Part::new([t, h, w, 1], Vec::new()));
        for i in 0..N {
            let frames = clip.indices(starts[i], view.len(), view.fps(), self.spec.short)?;
            let planes: Vec<[&[f16]; 2]> = frames.iter().map(|&f| view.flow(view.field_of(f)).into()).collect();
            let (size, n) = (view.flow_size().into(), frames.len());
            let flow = if focus.legacy {
                let mut flow = vec![0.0; n * side * side * 2];
                let mut plane = vec![0.0; n * side * side];
                for c in 0..2 {
                    let draw = Draw { flip: draws[i].flip && rng.random(), ..draws[i].clone() };
                    let planes: Vec<&[f16]> = planes.iter().map(|field| field[c]).collect();
                    apply_motion(&planes, 1, MotionKind::Map, size, &draw, side, &mut plane)?;
                    flow.chunks_exact_mut(2).zip(&plane).for_each(|(to, v)| to[c] = v * LEVELS);
                }
                flow
            } else {
                self.cropped_flow(planes.as_flattened(), size, &draws[i])?
            };
            parts[i].data = target(&flow, [n, side], [t, h, w])?;
        }
        Ok(Some(parts))
    }

    /// The flow of a clip, `n s s 2`: `planes` are `u` and `v` of its frames by turns, each of `size`.
    pub(super) fn cropped_flow<T: Copy + Into<f32>>(
        &self,
        planes: &[&[T]],
        size: [usize; 2],
        draw: &Draw,
    ) -> Result<Vec<f32>> {
        let side = self.spec.side;
        let mut flow = vec![0.0; planes.len() * side * side];
        apply_motion(planes, 2, MotionKind::Flow, size, draw, side, &mut flow)?;
        Ok(flow)
    }

    /// Where the clip of [`Loader::view`] moves: the [`speed`] in each cell of `grid`, `t h w`, and whether it
    /// [moves](moving). The flow is that of the cache, or is computed for this clip alone if there is none.
    ///
    /// # Errors
    /// As [`Loader::view`] and [`speed`].
    pub fn view_motion(
        &self,
        video: usize,
        clip: [usize; 2],
        crop: [usize; 2],
        grid: [usize; 3],
    ) -> Result<(Vec<f32>, Vec<bool>)> {
        let (view, start, draw) = self.place(video, clip, crop)?;
        let frames = self.spec.clip(view.fps()).indices(start, view.len(), view.fps(), self.spec.short)?;
        let n = frames.len();
        let fields: Vec<Flow> = if view.fields() > 0 {
            frames.into_iter().map(|t| view.flow_field(view.field_of(t))).collect()
        } else {
            frames.into_par_iter().map(|t| self.flow_from(&view, t)).collect::<Result<_>>()?
        };
        let planes: Vec<&[f32]> = fields.iter().flat_map(|field| [field.u(), field.v()]).collect();
        let size = fields.first().map_or([0; 2], |field| [field.h(), field.w()]);
        let map = speed(&self.cropped_flow(&planes, size, &draw)?, [n, self.spec.side], grid)?;
        let moves = moving(&map, self.spec.focus.still);
        Ok((map, moves))
    }

    /// The flow from frame `t` to the next one; for the last frame, that of the frame before it.
    fn flow_from(&self, view: &View, t: usize) -> Result<Flow> {
        let (h, w) = view.size();
        let from = t.min(view.len().saturating_sub(2));
        let grey = |t: usize| Gray::from_rgb(view.frame(t), h, w);
        tvl1::flow(&grey(from)?, &grey((from + 1).min(view.len() - 1))?, &self.spec.flow)
    }

    pub(super) fn expect_flow(&self, view: &View) -> Result<()> {
        match view.fields() {
            0 => {
                let rule = "motion inputs of flow, and sampling, crops and targets by motion, need a cache with flow";
                Err(Error::param("cache", "fields", 0, rule))
            }
            _ => Ok(()),
        }
    }
}
