//! A classifier behind a frozen trunk: the scores of a clip, at one place or at every place of its feature map.

use crate::error::{Error, Result};
use crate::nn::{Classifier, Pass};
use crate::tape::Var;
use crate::tensor::Tensor;

/// A classifier behind the trunk.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub classifier: Classifier,
    pub classes: usize,
    pub score: Score,
    pub window: Option<[usize; 2]>,
}

/// What a classifier says of a view, to be averaged over the views of a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Its logits.
    Logit,
    /// The softmax of its logits.
    Probability,
}

impl Head {
    /// The scores `[n classes]` of the clips `x`.
    pub fn rows(&self, pass: &mut Pass, x: &Var) -> Result<Vec<f32>> {
        let map = self.classifier.trunk.forward_map(pass, x)?;
        let [n, _, grid @ .., _] = map.shape().nthwc("views", "map")?;
        let logits = match self.window.filter(|window| grid != *window) {
            None => self.classifier.logits_of_map(pass, &map)?,
            Some(window) => {
                let rows = windows(map.value(), window)?.to(&pass.params().device())?;
                self.classifier.logits(pass, &Var::constant(rows))?
            }
        };
        let mut scores = logits.value().load()?.to_vec();
        if self.score == Score::Probability {
            scores.chunks_exact_mut(self.classes).for_each(softmax);
        }
        Ok(scores.chunks_exact(scores.len() / n.max(1)).flat_map(|places| average(places, self.classes)).collect())
    }
}

/// The averages of a feature map `[n t h w c]` over all times and each window of `h w` at a distance of 1, in rows `[n·k c]`.
fn windows(map: &Tensor, [wh, ww]: [usize; 2]) -> Result<Tensor> {
    let [n, t, h, w, c] = map.shape().nthwc("views", "map")?;
    if wh == 0 || ww == 0 || wh > h || ww > w {
        return Err(Error::shape(
            "views",
            "window",
            format!("at least 1 and at most {h} x {w}"),
            format!("{wh} x {ww}"),
        ));
    }
    let all = map.load()?;
    let mut rows = Vec::new();
    for clip in all.chunks_exact(t * h * w * c).take(n) {
        for (top, left) in (0..=h - wh).flat_map(|y| (0..=w - ww).map(move |x| (y, x))) {
            let mut sums = vec![0.0f64; c];
            for (frame, y) in (0..t).flat_map(|f| (top..top + wh).map(move |y| (f, y))) {
                for pixel in clip[((frame * h + y) * w + left) * c..][..ww * c].chunks_exact(c) {
                    sums.iter_mut().zip(pixel).for_each(|(s, v)| *s += f64::from(*v));
                }
            }
            rows.extend(sums.into_iter().map(|s| (s / (t * wh * ww) as f64) as f32));
        }
    }
    Tensor::from_f32([rows.len() / c, c], &rows)?.cast(map.dtype())
}

/// Scores to probabilities.
fn softmax(row: &mut [f32]) {
    let top = row.iter().fold(f32::NEG_INFINITY, |t, &v| t.max(v));
    row.iter_mut().for_each(|v| *v = (*v - top).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

/// The average of rows of length `d`.
fn average(rows: &[f32], d: usize) -> Vec<f32> {
    let n = (rows.len() / d) as f64;
    let mut sums = vec![0.0f64; d];
    for row in rows.chunks_exact(d) {
        sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
    }
    sums.into_iter().map(|s| (s / n) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_average_all_times_and_their_own_place() {
        // Two times, two rows and three columns of one channel: 1 to 6, and ten times that.
        let data: Vec<f32> = (1..=6).map(|v| v as f32).chain((1..=6).map(|v| 10.0 * v as f32)).collect();
        let map = Tensor::from_f32([1, 2, 2, 3, 1], &data).unwrap();
        let all = windows(&map, [2, 2]).unwrap();
        let mean = |cells: [f32; 4]| 11.0 * cells.iter().sum::<f32>() / 8.0;
        assert_eq!(all.load().unwrap()[..], [mean([1.0, 2.0, 4.0, 5.0]), mean([2.0, 3.0, 5.0, 6.0])]);
        assert_eq!(windows(&map, [2, 3]).unwrap().load().unwrap()[..], [11.0 * 3.5 / 2.0]);
        assert!(windows(&map, [3, 1]).is_err() && windows(&map, [0, 1]).is_err());
    }
}
