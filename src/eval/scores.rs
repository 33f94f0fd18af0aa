//! Figures of a classification: accuracies, confusion, and how sure they are.
//!
//! ```
//! use tubelet::eval::scores::Scores;
//! // Three videos of classes 0, 1, 1 and their scores for two classes.
//! let scores = Scores::new(&[0.9, 0.1, 0.2, 0.8, 0.7, 0.3], &[0, 1, 1], 2)?;
//! assert_eq!((scores.top(1), scores.mean_class()), (2.0 / 3.0, 0.75));
//! assert_eq!(scores.confusion(), [1, 0, 1, 1]);
//! # Ok::<(), tubelet::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::rng::{self, Purpose};
use rand::RngExt;

/// Draws of a bootstrap.
const DRAWS: u64 = 2000;
/// The share of draws below and above an interval.
const TAIL: f64 = 0.025;

/// The scores of test samples for each class, reduced to what figures need.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    classes: usize,
    labels: Vec<usize>,
    predicted: Vec<usize>,
    /// The number of classes before the true one in each sample's order.
    ranks: Vec<usize>,
}

impl Scores {
    /// `scores [n c]`, row after row, of samples with `labels [n]`, each below `classes`. Classes with equal scores are
    /// in the order of their numbers.
    ///
    /// # Errors
    /// `Shape` when there are no samples or not `classes` scores for each; `Param` when a label is no class, or a score
    /// is NaN.
    pub fn new(scores: &[f64], labels: &[usize], classes: usize) -> Result<Scores> {
        if labels.is_empty() || labels.len().checked_mul(classes) != Some(scores.len()) {
            let want = format!("{classes} scores for each of {} samples", labels.len());
            return Err(Error::shape("scores", "scores", want, format!("{} scores", scores.len())));
        }
        if let Some(label) = labels.iter().find(|&&l| l >= classes) {
            return Err(Error::param("scores", "label", label, format!("there are {classes} classes, from 0")));
        }
        if let Some(at) = scores.iter().position(|s| s.is_nan()) {
            let rule = format!("a score is a number; it is sample {}'s for class {}", at / classes, at % classes);
            return Err(Error::param("scores", "score", scores[at], rule));
        }
        let before = |row: &[f64], class: usize| {
            let ahead = |(i, s): (usize, &f64)| *s > row[class] || (*s == row[class] && i < class);
            row.iter().enumerate().filter(|&entry| ahead(entry)).count()
        };
        let rows = scores.chunks_exact(classes);
        let first = |row: &[f64]| (0..classes).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        Ok(Scores {
            classes,
            labels: labels.to_vec(),
            predicted: rows.clone().map(first).collect(),
            ranks: rows.zip(labels).map(|(row, &label)| before(row, label)).collect(),
        })
    }

    /// The class with the highest score of each sample.
    #[must_use]
    pub fn predicted(&self) -> &[usize] {
        &self.predicted
    }

    /// The share of samples whose class is among the `k` with the highest scores.
    #[must_use]
    pub fn top(&self, k: usize) -> f64 {
        self.ranks.iter().filter(|&&rank| rank < k).count() as f64 / self.ranks.len() as f64
    }

    /// Samples by true and predicted class, `[c c]`.
    #[must_use]
    pub fn confusion(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes * self.classes];
        for (label, predicted) in self.labels.iter().zip(&self.predicted) {
            counts[label * self.classes + predicted] += 1;
        }
        counts
    }

    /// For each class the number of samples and of those predicted rightly.
    #[must_use]
    pub fn per_class(&self) -> Vec<(usize, usize)> {
        let confusion = self.confusion();
        confusion.chunks_exact(self.classes).enumerate().map(|(i, row)| (row.iter().sum(), row[i])).collect()
    }

    /// The mean over classes of each class's accuracy, which is called balanced accuracy too. Classes without samples
    /// are left out.
    #[must_use]
    pub fn mean_class(&self) -> f64 {
        let shares: Vec<f64> =
            self.per_class().into_iter().filter(|(n, _)| *n > 0).map(|(n, right)| right as f64 / n as f64).collect();
        shares.iter().sum::<f64>() / shares.len() as f64
    }

    /// The 95 % interval of [`Scores::top`]`(k)` by the bootstrap: of 2,000 draws of as many groups as there are, with
    /// replacement, each with all its samples. `groups [n]` are the samples' sources (a recording, an actor): samples of
    /// one source are not independent, and an interval that takes them as such is too narrow. `None`: every sample is
    /// its own.
    ///
    /// # Errors
    /// `Shape` unless there is a group for each sample.
    pub fn interval(&self, k: usize, groups: Option<&[usize]>) -> Result<[f64; 2]> {
        let n = self.ranks.len();
        let own: Vec<usize> = (0..n).collect();
        let groups = groups.unwrap_or(&own);
        if groups.len() != n {
            let got = format!("{} groups", groups.len());
            return Err(Error::shape("scores", "groups", format!("a group for each of {n} samples"), got));
        }
        let mut names = groups.to_vec();
        names.sort_unstable();
        names.dedup();
        let mut counts = vec![(0usize, 0usize); names.len()];
        for (group, rank) in groups.iter().zip(&self.ranks) {
            let Ok(at) = names.binary_search(group) else { unreachable!("the names are of these groups") };
            counts[at].0 += 1;
            counts[at].1 += usize::from(*rank < k);
        }
        let mut shares: Vec<f64> = (0..DRAWS)
            .map(|draw| {
                let mut rng = rng::stream(0, draw, k as u64, Purpose::Bootstrap);
                let drawn = (0..counts.len()).map(|_| counts[rng.random_range(0..counts.len())]);
                let (all, right) = drawn.fold((0, 0), |(a, r), (n, m)| (a + n, r + m));
                right as f64 / all as f64
            })
            .collect();
        shares.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| shares[(share * (shares.len() - 1) as f64).round() as usize];
        Ok([at(TAIL), at(1.0 - TAIL)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_worked_example() {
        // Five samples, three classes; the second ties for its own class, and the smaller number goes first.
        let rows = [[3.0, 2.0, 1.0], [1.0, 1.0, 0.0], [0.0, 5.0, 6.0], [9.0, 8.0, 7.0], [0.0, 0.0, 1.0]];
        let scores = Scores::new(&rows.concat(), &[0, 1, 1, 2, 2], 3).unwrap();
        assert_eq!(scores.predicted(), [0, 0, 2, 0, 2]);
        assert_eq!([1, 2, 3, 5].map(|k| scores.top(k)), [0.4, 0.8, 1.0, 1.0]);
        assert_eq!(scores.confusion(), [1, 0, 0, 1, 0, 1, 1, 0, 1]);
        assert_eq!(scores.per_class(), [(1, 1), (2, 0), (2, 1)]);
        assert_eq!(scores.mean_class(), 0.5);
    }

    #[test]
    fn what_is_no_classification_is_refused() {
        let refused = |scores: &[f64], labels: &[usize]| Scores::new(scores, labels, 2).unwrap_err().to_string();
        assert!(refused(&[], &[]).contains("2 scores for each of 0 samples"));
        assert!(refused(&[1.0], &[0]).contains("1 scores"));
        assert!(refused(&[1.0, 2.0], &[2]).contains("there are 2 classes"));
        assert!(refused(&[1.0, f64::NAN], &[0]).contains("sample 0's for class 1"));
        let scores = Scores::new(&[1.0, 0.0], &[0], 2).unwrap();
        assert!(scores.interval(1, Some(&[0, 1])).unwrap_err().to_string().contains("a group for each"));
    }

    /// Half of 100 samples are right. Each on its own, the share's standard deviation is sqrt(1/4/100) = 0.05, and the
    /// interval is 0.5 ± 1.96 · 0.05. As ten sources that are right or wrong as a whole, it is sqrt(1/4/10) = 0.158.
    #[test]
    fn samples_of_one_source_widen_the_interval() {
        let labels = vec![0; 100];
        let rows: Vec<f64> = (0..100).flat_map(|i| if i / 10 % 2 == 0 { [1.0, 0.0] } else { [0.0, 1.0] }).collect();
        let scores = Scores::new(&rows, &labels, 2).unwrap();
        let sources: Vec<usize> = (0..100).map(|i| i / 10 * 7).collect();
        let half = |[low, high]: [f64; 2]| (high - low) / 2.0;
        // The ends are order statistics of 2,000 draws: about 0.1 standard deviations to each side.
        let (own, by_source) = (scores.interval(1, None).unwrap(), scores.interval(1, Some(&sources)).unwrap());
        assert!((half(own) - 0.098).abs() < 0.012, "{own:?}");
        assert!((half(by_source) - 0.31).abs() < 0.05, "{by_source:?}");
        assert_eq!(scores.interval(1, None).unwrap(), own, "the draws are fixed");
        let sure = Scores::new(&[1.0, 0.0, 1.0, 0.0], &[0, 0], 2).unwrap();
        assert_eq!(sure.interval(1, None).unwrap(), [1.0, 1.0]);
    }
}
