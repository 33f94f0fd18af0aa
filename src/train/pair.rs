//! MaCLR's samples: two clips of a video, RGB and motion.

use super::part::{ClipPair, wanted};
use super::share::Clips;
use super::views::Loader;
use crate::augment::Draw;
use crate::error::Result;
use crate::rng::{self, Purpose};

impl Loader {
    /// The two clips of `video` in `epoch`, at distances within [`ViewSpec::gap`](super::views::ViewSpec::gap), or a share of it
    /// while they [drift apart](super::views::ViewSpec::drift). With [`ViewSpec::focus`](super::views::ViewSpec::focus) their starts
    /// and crops follow the motion; a motion clip follows the crop of its RGB clip. With synthetic tubelets the second clip is of
    /// another video.
    ///
    /// # Errors
    /// `Param` when the video is shorter than a clip and short videos are refused; `Io`, `Format` for the cache.
    pub fn pair(&self, epoch: u64, video: usize) -> Result<ClipPair> {
        self.pair_of(epoch, video, Clips::ALL)
    }

    /// The same, of which only `clips` are made, by the numbers in [`ClipPair`].
    ///
    /// # Errors
    /// As [`Loader::pair`].
    pub fn pair_of(&self, epoch: u64, video: usize, clips: Clips) -> Result<ClipPair> {
        let view = self.cache.get(self.videos[video])?;
        let clip = self.spec.clip(view.fps());
        let (focus, maps) = (&self.spec.focus, self.maps(&view, video)?);
        let mut rng = rng::stream(self.seed, epoch, video as u64, Purpose::ClipSampling);
        let (len, fps) = (view.len(), view.fps());
        let gap = self.spec.gap_in(epoch, len, fps);
        let mut starts = if focus.sampling > 0.0 {
            self.favour(maps.as_ref(), |favour| clip.favoured_pair(len, fps, gap, favour, &mut rng)).0
        } else {
            clip.pair(len, fps, gap, &mut rng)
        };
        let mut rng = rng::stream(self.seed, epoch, video as u64, Purpose::Augment);
        let (h, w) = view.size();
        let mut draws = [(); 2].map(|()| Draw::sample(&mut rng, &self.spec.augment, h, w));
        self.crop(maps.as_ref(), epoch, video, &view, starts, &mut draws)?;
        let at = |i: usize| [epoch, video as u64, i as u64];
        let rgb_of = |i: usize| self.rgb_over(at(i), &view, starts[i], &draws[i]);
        let rgb = match self.spec.tubelets {
            0 => [0, 1].map(|i| wanted(clips, ClipPair::RGB[i], || rgb_of(i))),
            _ => {
                let (rgb, second) =
                    self.over_two_videos([epoch, video as u64], (&view, starts[0], &draws[0]), clips)?;
                starts[1] = second;
                rgb
            }
        };
        let other = usize::from(!self.spec.tied_crops);
        let motion_of = |i: usize| self.motion(&view, starts[i], &draws[i ^ other]);
        let motion = |i: usize| wanted(clips, ClipPair::MOTION[i], || motion_of(i));
        let motion = [0, 1].map(|i| self.motion.then(|| motion(i)).transpose());
        let target = clips.has(ClipPair::TARGET).then(|| self.targets(epoch, video, &view, starts, &draws));
        let target = target.transpose()?.flatten();
        let ([a, b], [c, d]) = (rgb, motion);
        Ok(ClipPair { video: video as u32, starts, rgb: [a?, b?], motion: c?.zip(d?).map(|(c, d)| [c, d]), target })
    }
}
