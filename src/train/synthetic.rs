//! Samples whose two RGB clips are of different videos, with the same synthetic tubelets over both
//! ([`crate::augment::synthetic`]).
//!
//! The second clip, the tubelets and the frames that they are cut from depend on seed, epoch and video alone. A patch has the
//! colours of the clip that it is in: it is augmented by that clip's draw.

use super::part::{ClipPair, Part, wanted};
use super::share::Clips;
use super::views::Loader;
use crate::augment::layers::MovingPatch;
use crate::augment::synthetic::Tubelet;
use crate::augment::{Draw, RawClip, apply_rgb};
use crate::error::Result;
use crate::rng::{self, Purpose};
use crate::video::View;
use rand::RngExt;

impl Loader {
    /// The RGB clips of the sample of `video` in `epoch`, of which the first begins at frame `start` and has this draw, and the first
    /// frame of the second.
    pub(super) fn over_two_videos(
        &self,
        [epoch, video]: [u64; 2],
        (view, start, draw): (&View, f64, &Draw),
        clips: Clips,
    ) -> Result<([Result<Part>; 2], f64)> {
        let (spec, side) = (&self.spec, self.spec.side);
        let mut rng = rng::stream(self.seed, epoch, video, Purpose::Synthetic);
        let other = self.another(&mut rng, video)?;
        let clip = spec.clip(other.fps());
        let other_start = clip.start(other.len(), other.fps(), &mut rng);
        let [h, w]: [usize; 2] = other.size().into();
        let other_draw = Draw::sample(&mut rng, &spec.augment, h, w);
        let mut tubelets = Vec::with_capacity(spec.tubelets);
        for _ in 0..spec.tubelets {
            let from = self.another(&mut rng, video)?;
            let frame = rng.random_range(0..from.len());
            let [h, w]: [usize; 2] = from.size().into();
            let draw = Draw::sample(&mut rng, &spec.augment, h, w);
            tubelets.push((from, frame, draw, Tubelet::sample(&mut rng, spec.frames, side)));
        }
        let made = |number: usize, view: &View, start: f64, draw: &Draw| -> Result<Part> {
            wanted(clips, ClipPair::RGB[number], || {
                let mut part = self.rgb(view, start, draw)?;
                for (from, frame, place, tubelet) in &tubelets {
                    let (frame, size): (_, [usize; 2]) = (from.frame(*frame), from.size().into());
                    let draw = Draw { frame: place.frame, crop: place.crop, flip: place.flip, ..draw.clone() };
                    if let Some(raw) = &mut part.raw {
                        let image = RawClip { frames: frame.to_vec(), size, draw };
                        raw.patches.push(MovingPatch { image, tubelet: tubelet.clone() });
                    } else {
                        let mut patch = vec![0.0; side * side * 3];
                        apply_rgb(&[frame], size[0], size[1], &draw, side, &mut patch)?;
                        tubelet.put_over(&mut part.data, &patch, side, 3)?;
                    }
                }
                Ok(part)
            })
        };
        Ok(([made(0, view, start, draw), made(1, &other, other_start, &other_draw)], other_start))
    }

    /// Another training video than `video`, or this one if it is the only one.
    pub(super) fn another(&self, rng: &mut impl rand::Rng, video: u64) -> Result<View> {
        let others = self.videos.len().saturating_sub(1);
        if others == 0 {
            return self.cache.get(self.videos[video as usize]);
        }
        let place = rng.random_range(0..others);
        self.cache.get(self.videos[place + usize::from(place >= video as usize)])
    }
}
