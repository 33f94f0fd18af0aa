//! Features of videos from a frozen trunk, for the linear probe and nearest neighbours.

use super::Features;
use super::views::Frozen;
use crate::error::Result;
use crate::nn::{Params, Precision, Trunk};

/// Clips per forward pass.
const BATCH: usize = 32;

/// One row of features per video: the trunk's features, with running statistics, averaged over the clips returned by
/// `clips(video)` (each `t h w c` numbers of extents `dims`). [`super::views`] does the same for videos of many clips, with the
/// memory of a batch.
///
/// # Errors
/// What `clips` and the network return; as [`Features::new`].
pub fn extract(
    trunk: &Trunk,
    params: &Params,
    labels: &[usize],
    dims: [usize; 4],
    clips: &mut dyn FnMut(usize) -> Result<Vec<Vec<f32>>>,
) -> Result<Features> {
    let mut network = Frozen::new(trunk, params, Precision::F32);
    let d = network.features();
    let (mut sums, mut counts) = (vec![0.0f64; labels.len() * d], vec![0usize; labels.len()]);
    let (mut videos, mut waiting) = (Vec::new(), Vec::new());
    let mut flush = |videos: &mut Vec<usize>, waiting: &mut Vec<Vec<f32>>| -> Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        for (video, row) in videos.iter().zip(network.rows(waiting, dims)?.chunks_exact(d)) {
            counts[*video] += 1;
            sums[video * d..(video + 1) * d].iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        videos.clear();
        waiting.clear();
        Ok(())
    };
    for video in 0..labels.len() {
        // One video at a time: a video may have more clips than one pass should hold.
        for clip in clips(video)? {
            videos.push(video);
            waiting.push(clip);
            if waiting.len() == BATCH {
                flush(&mut videos, &mut waiting)?;
            }
        }
    }
    flush(&mut videos, &mut waiting)?;
    let rows = sums.chunks_exact(d).zip(&counts);
    let mean = rows.flat_map(|(row, &n)| row.iter().map(move |s| (s / n.max(1) as f64) as f32)).collect();
    Features::new(d, mean, labels.to_vec())
}
