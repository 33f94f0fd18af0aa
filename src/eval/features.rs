//! Features of videos from a frozen trunk, for the linear probe and nearest neighbours.

use super::Features;
use crate::error::Result;
use crate::nn::{Mode, Params, Pass, Trunk};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Clips per forward pass.
const BATCH: usize = 32;

/// One row of features per video: the trunk's features, with running statistics, averaged over the clips returned by
/// `clips(video)` (each `t h w c` numbers of extents `dims`).
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
    let d = trunk.features_dim();
    let device = params.device();
    let (mut sums, mut counts) = (vec![0.0f64; labels.len() * d], vec![0usize; labels.len()]);
    let mut params = params.clone();
    let mut waiting: Vec<(usize, Vec<f32>)> = Vec::new();
    let mut flush = |waiting: &mut Vec<(usize, Vec<f32>)>| -> Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let [t, h, w, c] = dims;
        let data: Vec<f32> = waiting.iter().flat_map(|(_, clip)| clip.iter().copied()).collect();
        let x = Var::constant(Tensor::from_f32([waiting.len(), t, h, w, c], &data)?.to(&device)?);
        let tape = Tape::no_grad();
        let y = trunk.forward(&mut Pass::new(&tape, &mut params, Mode::Eval), &x)?;
        for ((video, _), row) in waiting.iter().zip(y.value().load()?.chunks_exact(d)) {
            counts[*video] += 1;
            sums[video * d..(video + 1) * d].iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        waiting.clear();
        Ok(())
    };
    for video in 0..labels.len() {
        // One video at a time: a video may have more clips than one pass should hold.
        for clip in clips(video)? {
            waiting.push((video, clip));
            if waiting.len() == BATCH {
                flush(&mut waiting)?;
            }
        }
    }
    flush(&mut waiting)?;
    let rows = sums.chunks_exact(d).zip(&counts);
    let mean = rows.flat_map(|(row, &n)| row.iter().map(move |s| (s / n.max(1) as f64) as f32)).collect();
    Features::new(d, mean, labels.to_vec())
}
