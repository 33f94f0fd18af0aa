//! How the codes of a video, one for each time step of each of its clips, become one row of features.
//!
//! The mean over time is what MaCLR and MCL are evaluated with. It says nothing about the order of what happens: a hand that
//! rises and falls has nearly the mean of one that falls and rises. The other two forms keep some of it.

use crate::error::{Error, Result};

/// How codes over time become one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Pool {
    /// The mean: `c` numbers.
    #[default]
    Mean,
    /// All codes one after the other, in the order of clips and of the steps within them: `s·c` numbers for `s` steps of all
    /// clips.
    Steps,
    /// Temporal moments (SemanticMoments, 2026): mean, standard deviation and skewness of each channel over all steps, `3·c`
    /// numbers. The skewness of a channel that hardly changes is 0.
    Moments,
}

/// Below this share of the largest value of a channel its deviation is rounding, and its skewness is 0.
const STILL: f64 = 1e-5;

impl Pool {
    /// All forms.
    pub const ALL: [Pool; 3] = [Pool::Mean, Pool::Steps, Pool::Moments];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Pool::Mean => "mean",
            Pool::Steps => "steps",
            Pool::Moments => "moments",
        }
    }

    /// Length of the row of `steps` codes of `c` numbers.
    #[must_use]
    pub fn len(self, steps: usize, c: usize) -> usize {
        match self {
            Pool::Mean => c,
            Pool::Steps => steps * c,
            Pool::Moments => 3 * c,
        }
    }

    /// The row of `codes [s c]`, in the order of time.
    ///
    /// # Errors
    /// `Shape` unless there is at least one code and all have `c` numbers.
    pub fn row(self, codes: &[f32], c: usize) -> Result<Vec<f32>> {
        if c == 0 || codes.is_empty() || !codes.len().is_multiple_of(c) {
            let got = format!("{} numbers", codes.len());
            return Err(Error::shape("pool", "codes", format!("at least one code of {c} numbers"), got));
        }
        let n = (codes.len() / c) as f64;
        let sum = |of: &dyn Fn(usize, f64) -> f64| {
            let mut sums = vec![0.0f64; c];
            for code in codes.chunks_exact(c) {
                sums.iter_mut().zip(code).enumerate().for_each(|(i, (sum, v))| *sum += of(i, f64::from(*v)));
            }
            sums.into_iter().map(|sum| sum / n).collect::<Vec<f64>>()
        };
        let mean = || sum(&|_, v| v);
        let row = match self {
            Pool::Mean => mean(),
            Pool::Steps => return Ok(codes.to_vec()),
            Pool::Moments => {
                let mean = mean();
                let deviation: Vec<f64> = sum(&|i, v| (v - mean[i]).powi(2)).into_iter().map(f64::sqrt).collect();
                let third = sum(&|i, v| (v - mean[i]).powi(3));
                let largest = |i: usize| codes.iter().skip(i).step_by(c).fold(0.0f32, |top, v| top.max(v.abs()));
                let skew = third.iter().zip(&deviation).enumerate().map(|(i, (third, deviation))| {
                    if *deviation > STILL * f64::from(largest(i)) { third / deviation.powi(3) } else { 0.0 }
                });
                let skew: Vec<f64> = skew.collect();
                [mean, deviation, skew].concat()
            }
        };
        Ok(row.into_iter().map(|v| v as f32).collect())
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four codes of three channels: one that rises once, one that falls once, one that stays.
    const CODES: [f32; 12] = [0.0, 4.0, 7.0, 0.0, 4.0, 7.0, 0.0, 4.0, 7.0, 4.0, 0.0, 7.0];

    #[test]
    fn moments_are_those_of_the_textbook() {
        let row = Pool::Moments.row(&CODES, 3).unwrap();
        // Mean 1 with deviations (-1 three times, 3): variance 12 / 4, third moment 24 / 4.
        let (deviation, skew) = (3.0f32.sqrt(), 6.0 / 3.0f32.powf(1.5));
        let want = [1.0, 3.0, 7.0, deviation, deviation, 0.0, skew, -skew, 0.0];
        assert!(row.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?}");
        assert_eq!(Pool::Mean.row(&CODES, 3).unwrap(), [1.0, 3.0, 7.0]);
        assert_eq!(Pool::Steps.row(&CODES, 3).unwrap(), CODES);
        for pool in Pool::ALL {
            assert_eq!(pool.row(&CODES, 3).unwrap().len(), pool.len(4, 3));
        }
    }

    /// The mean and the moments do not depend on the order of the codes, the steps do; a single code has no deviation.
    #[test]
    fn only_steps_keep_the_order() {
        let turned: Vec<f32> = CODES.chunks_exact(3).rev().flatten().copied().collect();
        for pool in Pool::ALL {
            let same = pool.row(&CODES, 3).unwrap() == pool.row(&turned, 3).unwrap();
            assert_eq!(same, pool != Pool::Steps, "{}", pool.name());
        }
        assert_eq!(Pool::Moments.row(&CODES[..3], 3).unwrap(), [0.0, 4.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(Pool::Mean.row(&[], 3).is_err() && Pool::Steps.row(&CODES[..4], 3).is_err());
    }

    /// A channel that is constant up to rounding has no skewness of its own.
    #[test]
    fn rounding_has_no_skewness() {
        let codes = [1.0f32, 1.0, 1.0, 1.0 + f32::EPSILON];
        assert_eq!(Pool::Moments.row(&codes, 1).unwrap()[2], 0.0);
    }
}
