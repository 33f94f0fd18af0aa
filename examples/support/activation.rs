//! Where a network looks: its class-agnostic activation maps on some clips, before and after training, and how much of
//! them lies where the clips move.

use super::heat::{self, HOT, heated, outlined};
use super::pretrain::Run;
use super::sheet::{self, Key, Legend, Sample, Strip};
use super::stop::go_on;
use super::{animation, summary::Summary};
use anyhow::{Context, Result};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use tubelet::eval::saliency::{self, Share};
use tubelet::nn::{Grid, Params, Trunk};
use tubelet::train::pretrain::{steps_done, steps_per_epoch};
use tubelet::train::views::Loader;
use tubelet::video::Dataset;

/// The files that are written: a still sheet, and one that moves.
const FILES: [&str; 2] = ["saliency.png", "saliency.apng"];
/// Videos of which the share is the mean, at most.
const VIDEOS: usize = 32;
/// Clips per pass.
const BATCH: usize = 16;
const MOVING: [u8; 3] = [255; 3];

/// The clips that are looked at: one of each of some videos, from its middle, as a probe sees it.
pub struct Scene<'a> {
    loader: &'a Loader,
    data: &'a Dataset,
    /// The block whose output is mapped.
    block: Grid,
    clips: Vec<Clip>,
}

/// A clip, of which the frames are loaded when they are needed.
struct Clip {
    video: usize,
    /// Where it moves, and which cells count as moving.
    motion: Vec<f32>,
    moves: Vec<bool>,
    before: Vec<f32>,
}

impl<'a> Scene<'a> {
    /// Test videos, or training videos where there are none, as the network sees them before training. `None` if the
    /// run is finished and nothing is missing.
    pub fn before(run: &'a Run, (trunk, params): (&Trunk, &Params)) -> Result<Option<Scene<'a>>> {
        let there = |name: &&str| run.out.join(name).exists();
        let steps = steps_per_epoch(run.videos(), run.training.batch)?.saturating_mul(run.training.epochs);
        if steps_done(&run.out)? == steps && FILES.iter().chain(&["summary.json"]).all(there) {
            return Ok(None);
        }
        let test = !run.test.videos.is_empty();
        let (loader, data) = if test { (&run.test, &run.splits.test) } else { (&run.train, &run.splits.train) };
        let [[t, h, w, _], _] = loader.spec.dims();
        let block = saliency::block(trunk, params, [t, h, w])?;
        let labels: Vec<Option<usize>> = loader.videos.iter().map(|&i| data.items[i].label).collect();
        let clip = |video: usize| -> Result<Clip> {
            let (motion, moves) = loader.view_motion(video, MIDDLE, SQUARE, block.extents)?;
            Ok(Clip { video, motion, moves, before: Vec::new() })
        };
        let clips = sheet::spread(&labels, VIDEOS).into_iter().map(clip).collect::<Result<_>>()?;
        let mut scene = Scene { loader, data, block, clips };
        let maps = scene.maps((trunk, params))?;
        scene.clips.iter_mut().zip(maps).for_each(|(clip, map)| clip.before = map);
        Ok(Some(scene))
    }

    /// The map of each clip, `t h w`, each frame of it [scaled](saliency::scaled).
    fn maps(&self, (trunk, params): (&Trunk, &Params)) -> Result<Vec<Vec<f32>>> {
        let ([dims, _], mut maps) = (self.loader.spec.dims(), Vec::new());
        for batch in self.clips.chunks(BATCH) {
            let load = |clip: &Clip| Ok(self.loader.view(clip.video, MIDDLE, SQUARE)?.data);
            let clips = batch.iter().map(load).collect::<Result<Vec<_>>>()?;
            let all = saliency::maps(trunk, params, &self.block.module, &clips, dims)?;
            let [_, rows, cols] = self.block.extents;
            let scaled = saliency::scaled(&all, rows * cols);
            maps.extend(scaled.chunks_exact(all.len() / clips.len()).map(<[f32]>::to_vec));
        }
        Ok(maps)
    }

    /// Looks again with the trained network: draws both, and adds the shares to the summary.
    pub fn after(&self, run: &Run, network: (&Trunk, &Params), summary: &mut Summary) -> Result<()> {
        let after = self.maps(network)?;
        let share = |maps: &mut dyn Iterator<Item = &Vec<f32>>| -> Result<Option<Share>> {
            let each = maps.zip(&self.clips).map(|(map, clip)| Share::of(map, &clip.moves));
            Ok(Share::mean(&each.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?))
        };
        let shares = [share(&mut self.clips.iter().map(|clip| &clip.before))?, share(&mut after.iter())?];
        let inside = shares.map(|share| share.map(|share| share.inside));
        summary
            .set(&run.before("saliency_inside"), inside[0])
            .set("saliency_inside", inside[1])
            .set("saliency_area", shares[1].map(|share| share.area));
        self.draw(run, &after, shares)
    }

    /// Draws the sheet and the animation.
    fn draw(&self, run: &Run, after: &[Vec<f32>], shares: [Option<Share>; 2]) -> Result<()> {
        let labels: Vec<_> =
            self.clips.iter().map(|clip| self.data.items[self.loader.videos[clip.video]].label).collect();
        let shown: Vec<Film> = sheet::spread(&labels, sheet::ROWS)
            .into_iter()
            .map(|i| self.film(&self.clips[i], &after[i]))
            .collect::<Result<_>>()?;
        let legend = self.legend(shown.len(), shares);
        let sample = |film: &Film| -> Result<Sample> {
            let strips = film.rows.iter().map(|(label, frames)| Strip::pictures(label, frames.clone()));
            Ok(Sample { title: film.name.clone(), strips: strips.collect::<Result<_>>()? })
        };
        let samples = shown.iter().map(sample).collect::<Result<Vec<_>>>()?;
        sheet::draw(&run.out.join(FILES[0]), &legend, &samples)?;
        // All videos side by side, at one moment after the other.
        let moment = |t: usize| -> Result<Vec<Sample>> {
            let row = |r: usize| {
                let frames = shown.iter().map(|film| film.rows[r].1[t].clone()).collect();
                Strip::pictures(shown[0].rows[r].0, frames)
            };
            let strips = (0..shown[0].rows.len()).map(row).collect::<Result<_>>()?;
            Ok(vec![Sample { title: format!("frame {} of {}", t + 1, self.loader.spec.frames), strips }])
        };
        let moments = (0..self.loader.spec.frames).map(moment).collect::<Result<Vec<_>>>()?;
        let go_on = go_on(run.stop.clone(), &run.out, "the network is trained; the same command draws what is missing");
        animation::draw(&run.out.join(FILES[1]), &legend, &moments, &go_on)
    }

    fn legend(&self, shown: usize, shares: [Option<Share>; 2]) -> Legend {
        let [t, h, w] = self.block.extents;
        let (kind, module) = (self.data.split.name(), &self.block.module);
        let text = vec![
            format!(
                "One clip of {shown} of {} {kind} videos. The network's map is the mean over channels of the output of \
                 {module}, {t} frames of {h} x {w}, each from its least value (transparent) to its largest (red).",
                self.loader.videos.len()
            ),
            match shares {
                [Some(Share { inside: before, .. }), Some(Share { inside: after, area })] => format!(
                    "Inside of the moving cells, {:.1} % of the area, lie {:.1} % of the maps before training and \
                     {:.1} % after: means over {} clips.",
                    100.0 * area,
                    100.0 * before,
                    100.0 * after,
                    self.clips.len()
                ),
                _ => "No clip has moving cells.".to_owned(),
            },
        ];
        let of = |colour, outline, meaning| Key { colour, outline, meaning };
        let key = vec![
            of(HOT, false, "the network's map, or motion: red where it is most"),
            of(MOVING, true, "cells that move; others are darkened"),
        ];
        Legend { text, wheel: false, key }
    }

    /// The pictures of a clip, frame by frame.
    fn film(&self, clip: &Clip, after: &[f32]) -> Result<Film> {
        let part = self.loader.view(clip.video, MIDDLE, SQUARE)?;
        let [frames, side, ..] = part.dims;
        let bytes = sheet::bytes(&part, &self.loader.spec.augment);
        let clips = bytes.chunks_exact(side * side * 3).map(|frame| {
            let picture = RgbImage::from_raw(side as u32, side as u32, frame.to_vec());
            Ok(resize(
                &picture.context("a frame has not the size it says")?,
                sheet::SIDE,
                sheet::SIDE,
                FilterType::CatmullRom,
            ))
        });
        let clips = clips.collect::<Result<Vec<_>>>()?;
        let extents @ [maps, rows, cols] = self.block.extents;
        let over = |map: &[f32]| -> Vec<RgbImage> {
            let most = map.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
            let frame = |(t, picture): (usize, &RgbImage)| {
                let when = (t as f32 + 0.5) / frames as f32;
                let picture = heated(picture.clone(), |[y, x]| heat::at(map, extents, [when, y, x]) / most);
                let moves = &clip.moves[t * maps / frames * rows * cols..][..rows * cols];
                outlined(picture, moves, [rows, cols], 1, MOVING)
            };
            clips.iter().enumerate().map(frame).collect()
        };
        let rows = vec![
            ("motion", over(&clip.motion)),
            ("before training", over(&clip.before)),
            ("after training", over(after)),
        ];
        let name = self.data.items[self.loader.videos[clip.video]].name.clone();
        Ok(Film { name, rows: [vec![("clip", clips)], rows].concat() })
    }
}

/// The middle clip of a video, and the square in the middle of its frames.
const MIDDLE: [usize; 2] = [0, 1];
const SQUARE: [usize; 2] = [0, 1];

/// A clip and its maps, one below the other, frame by frame.
struct Film {
    name: String,
    rows: Vec<(&'static str, Vec<RgbImage>)>,
}
