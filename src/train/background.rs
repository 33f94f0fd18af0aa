//! RGB clips of samples over the background of another video.
//!
//! A video's own background is the same in all of its clips, and telling videos apart by it is easier than by what moves. With
//! probability [`ViewSpec::background_swap`](super::views::ViewSpec::background_swap) a clip keeps the half of its pixels that
//! moves most, apart from the camera, and the others are those of a clip of another training video. Which one, and which
//! clip of it, depends on seed, epoch, video and the clip's number alone, so neither batches nor ranks matter.

use super::part::Part;
use super::views::Loader;
use crate::augment::Draw;
use crate::augment::background::{larger_half, put_over};
use crate::augment::layers::Background;
use crate::error::Result;
use crate::flow::maps::speed;
use crate::rng::{self, Purpose};
use crate::video::View;
use half::f16;
use rand::RngExt;

/// More than a sample has clips.
const CLIPS: u64 = 8;

impl Loader {
    /// RGB clip `number` of the sample of `video` in `epoch`, which starts at frame `start`; over another video's background, if
    /// it is drawn so.
    pub(super) fn rgb_over(
        &self,
        [epoch, video, number]: [u64; 3],
        view: &View,
        start: f64,
        draw: &Draw,
    ) -> Result<Part> {
        let mut part = self.rgb(view, start, draw)?;
        if self.spec.background_swap == 0.0 {
            return Ok(part);
        }
        let mut rng = rng::stream(self.seed, epoch, video * CLIPS + number, Purpose::Background);
        if !rng.random_bool(f64::from(self.spec.background_swap)) || self.videos.len() < 2 {
            return Ok(part);
        }
        let other = self.another(&mut rng, video)?;
        let other_start = self.spec.clip(other.fps()).start(other.len(), other.fps(), &mut rng);
        let (h, w) = other.size();
        let behind = self.rgb(&other, other_start, &Draw::sample(&mut rng, &self.spec.augment, h, w))?;
        let kept = self.moving_half(view, start, draw)?;
        match (&mut part.raw, behind.raw) {
            (Some(raw), Some(behind)) => raw.background = Some(Background { clip: behind.clip, kept }),
            _ => put_over(&mut part.data, &behind.data, &kept, 3)?,
        }
        Ok(part)
    }

    /// The half of the pixels of the clip that starts at frame `start`, cropped by `draw`, whose flow differs most from the frame's
    /// median.
    fn moving_half(&self, view: &View, start: f64, draw: &Draw) -> Result<Vec<bool>> {
        self.expect_flow(view)?;
        let frames = self.spec.clip(view.fps()).indices(start, view.len(), view.fps(), self.spec.short)?;
        let planes: Vec<[&[f16]; 2]> = frames.iter().map(|&f| view.flow(view.field_of(f)).into()).collect();
        let flow = self.cropped_flow(planes.as_flattened(), view.flow_size().into(), draw)?;
        let side = self.spec.side;
        Ok(larger_half(&speed(&flow, [frames.len(), side], [1, side, side])?))
    }
}
