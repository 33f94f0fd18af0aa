//! Gradient maps of a network on held-out clips, beside the motion maps.

use super::sheet::{self, Legend, Sample, Strip};
use anyhow::{Context, Result};
use std::path::Path;
use tubelet::ssl::alignment::overlap;
use tubelet::train::focus::Quad;
use tubelet::train::mcl::MclRun;
use tubelet::train::views::Loader;
use tubelet::video::Dataset;

/// Clips per pass.
const BATCH: usize = 16;

/// Measurements on the clips of a split.
pub struct Look {
    /// Mean over the clips of the cosine of gradient map and motion map.
    pub cosine: f64,
    /// Mean correlation of the same: 0 for an uninformative map, where the cosine of a flat map is large.
    pub correlation: f64,
    shown: Vec<Shown>,
}

/// A clip for the contact sheet.
struct Shown {
    video: usize,
    quad: Quad,
    map: Vec<f32>,
}

/// Measures one clip of each video of the split; `None` if the run has no alignment, or the split no
/// video, as without labels.
pub fn look(run: &MclRun, loader: &Loader, data: &Dataset) -> Result<Option<Look>> {
    if loader.spec.focus.target.is_none() || loader.videos.is_empty() {
        return Ok(None);
    }
    let videos = loader.videos.len();
    let (mut sums, mut shown) = ([0.0; 2], Vec::new());
    let chosen = sheet::shown(loader, data);
    for first in (0..videos).step_by(BATCH) {
        let batch = (first..videos.min(first + BATCH)).map(|v| loader.quad(0, v)).collect::<Result<Vec<_>, _>>()?;
        let maps = run.saliency(&batch)?;
        let maps = maps.load()?;
        let cells = maps.len() / batch.len();
        for (i, (quad, map)) in batch.into_iter().zip(maps.chunks_exact(cells)).enumerate() {
            let target = quad.target.as_ref().context("the loader gave no target")?;
            for (sum, x) in sums.iter_mut().zip(overlap(map, &target.data)) {
                *sum += x / videos as f64;
            }
            if chosen.contains(&(first + i)) {
                shown.push(Shown { video: first + i, quad, map: map.to_vec() });
            }
        }
    }
    let [cosine, correlation] = sums;
    Ok(Some(Look { cosine, correlation, shown }))
}

/// Draws clip, motion, and the gradient map before and after training, one above the other, for the same clips.
pub fn draw(out: &Path, before: &Look, after: &Look, loader: &Loader, data: &Dataset) -> Result<()> {
    let mut samples = Vec::new();
    for (before, after) in before.shown.iter().zip(&after.shown) {
        let quad = &after.quad;
        let Some(target) = &quad.target else { continue };
        let [t, h, w, _] = target.dims;
        let [frames, side, ..] = quad.query.dims;
        let bytes = sheet::bytes(&quad.query, &loader.spec.augment);
        let clip: Vec<&[u8]> = bytes.chunks_exact(side * side * 3).collect();
        // The middle frame of each group that corresponds to one map.
        let middle: Vec<&[u8]> = (0..t).map(|i| clip[(2 * i + 1) * frames / (2 * t)]).collect();
        let strip = |label: &str, map: &[f32]| {
            let most = map.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
            let scaled: Vec<f32> = map.iter().map(|v| v / most).collect();
            let maps: Vec<&[f32]> = scaled.chunks_exact(h * w).collect();
            Strip::map(label, &maps, h, w)
        };
        let item = &data.items[loader.videos[after.video]];
        samples.push(Sample {
            title: item.name.clone(),
            strips: vec![
                Strip::rgb("clip", &middle, side, side)?,
                strip("motion", &target.data)?,
                strip("gradient, before", &before.map)?,
                strip("gradient, after", &after.map)?,
            ],
        });
    }
    let clips = format!(
        "One clip of {} of {} test videos, {}.",
        samples.len(),
        loader.videos.len(),
        sheet::augmented(&loader.spec.augment)
    );
    let maps = "Motion: the target of the alignment loss. Gradient: the network's map, before and after training. In each row of \
                maps white is the largest value of the row.";
    sheet::draw(out, &Legend { text: vec![clips, maps.into()], ..Legend::default() }, &samples)
}
