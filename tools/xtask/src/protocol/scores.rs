//! Figures of predictions: shares that are right, an interval over seeds, and one over actors and their tracks.

use super::set::{actor, track};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// Draws of the bootstrap.
const DRAWS: usize = 2000;
/// Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom.
const STUDENT: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
/// The most seeds for which there is a quantile.
pub const SEEDS: u64 = STUDENT.len() as u64 + 1;

/// Of each video its class and whether it was classified rightly; with several seeds, how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions(BTreeMap<String, (String, f64)>);

impl Predictions {
    /// Those in the text of a `predictions.csv`.
    ///
    /// # Errors
    /// When it has other columns.
    pub fn parse(text: &str) -> Result<Predictions> {
        let mut lines = text.lines();
        ensure!(
            lines.next().is_some_and(|head| head.starts_with("file,class,predicted,right")),
            "the first line is not that of predictions.csv"
        );
        let row = |line: &str| {
            let all = fields(line);
            let [file, class, _, right, ..] = &all[..] else { anyhow::bail!("{line}: a line has five fields") };
            let right = right.parse::<f64>().with_context(|| format!("{line}: `right` is 0 or 1"))?;
            Ok((file.clone(), (class.clone(), right)))
        };
        Ok(Predictions(lines.map(row).collect::<Result<_>>()?))
    }

    /// Number of videos.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The mean of several seeds' on the same videos.
    ///
    /// # Errors
    /// When there are none, or they are of different videos.
    pub fn mean(all: &[Predictions]) -> Result<Predictions> {
        let first = all.first().context("there are no predictions")?;
        let mut sum = first.clone();
        for other in &all[1..] {
            ensure!(other.0.keys().eq(first.0.keys()), "the predictions of two seeds are of different videos");
            for ((_, share), (_, more)) in sum.0.values_mut().zip(other.0.values()) {
                *share += more;
            }
        }
        sum.0.values_mut().for_each(|(_, share)| *share /= all.len() as f64);
        Ok(sum)
    }

    /// Those of different videos together.
    #[must_use]
    pub fn together(all: impl IntoIterator<Item = Predictions>) -> Predictions {
        Predictions(all.into_iter().flat_map(|one| one.0).collect())
    }

    /// The share that is right, and the mean of the shares of classes (balanced accuracy).
    #[must_use]
    pub fn accuracy(&self) -> [f64; 2] {
        accuracy(self.0.values().map(|(class, right)| (class.as_str(), *right)))
    }

    /// The share that is right of each actor's videos.
    ///
    /// # Errors
    /// When a name tells no actor.
    pub fn by_actor(&self) -> Result<BTreeMap<String, f64>> {
        let mut sums: BTreeMap<String, [f64; 2]> = BTreeMap::new();
        for (file, (_, right)) in &self.0 {
            let sum = sums.entry(actor(file)?.to_owned()).or_default();
            *sum = [sum[0] + right, sum[1] + 1.0];
        }
        Ok(sums.into_iter().map(|(name, [right, n])| (name, right / n)).collect())
    }

    /// The 95 % intervals of both accuracies, and of what they are above those of `other` on the same videos: actors are
    /// drawn with replacement, and of each drawn actor as many of his or her tracks, each with all its videos.
    ///
    /// # Errors
    /// When a name tells no actor, or `other` is of other videos.
    pub fn bootstrap(&self, other: Option<&Predictions>) -> Result<Intervals> {
        ensure!(
            other.is_none_or(|other| other.0.keys().eq(self.0.keys())),
            "the predictions that are compared are of different videos"
        );
        type Row<'a> = (&'a str, f64, f64);
        let mut actors: BTreeMap<&str, BTreeMap<&str, Vec<Row>>> = BTreeMap::new();
        for (file, (class, right)) in &self.0 {
            let others = other.and_then(|other| other.0.get(file)).map_or(0.0, |(_, right)| *right);
            actors.entry(actor(file)?).or_default().entry(track(file)).or_default().push((class, *right, others));
        }
        let actors: Vec<Vec<Vec<Row>>> = actors.into_values().map(|tracks| tracks.into_values().collect()).collect();
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut below = |n: usize| {
            // Xorshift, with a fixed seed: the same predictions have the same intervals.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 33) as usize * n) >> 31
        };
        let mut draws: [Vec<f64>; 4] = Default::default();
        for _ in 0..DRAWS {
            let mut rows: Vec<Row> = Vec::new();
            for _ in 0..actors.len() {
                let tracks = &actors[below(actors.len())];
                for _ in 0..tracks.len() {
                    rows.extend_from_slice(&tracks[below(tracks.len())]);
                }
            }
            let own = accuracy(rows.iter().map(|(class, right, _)| (*class, *right)));
            let others = accuracy(rows.iter().map(|(class, _, right)| (*class, *right)));
            let values = [own[0], own[1], own[0] - others[0], own[1] - others[1]];
            draws.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
        }
        let [top1, mean_class, top1_above, mean_class_above] = draws.map(|mut all| {
            all.sort_unstable_by(f64::total_cmp);
            [0.025, 0.975].map(|share| all[(share * (DRAWS - 1) as f64).round() as usize])
        });
        Ok(Intervals { top1, mean_class, top1_above, mean_class_above })
    }
}

/// Lower and upper ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intervals {
    /// Of the share that is right.
    pub top1: [f64; 2],
    /// Of the mean over classes.
    pub mean_class: [f64; 2],
    /// Of what the first is above that of another network.
    pub top1_above: [f64; 2],
    /// Of what the second is above it.
    pub mean_class_above: [f64; 2],
}

fn accuracy<'a>(rows: impl Iterator<Item = (&'a str, f64)>) -> [f64; 2] {
    let mut classes: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for (class, right) in rows {
        let sum = classes.entry(class).or_default();
        *sum = [sum[0] + right, sum[1] + 1.0];
    }
    let total = classes.values().fold([0.0; 2], |all, one| [all[0] + one[0], all[1] + one[1]]);
    [total[0] / total[1], classes.values().map(|[right, n]| right / n).sum::<f64>() / classes.len() as f64]
}

/// Mean of some seeds' values, and its 95 % interval by Student's t; none with one seed.
#[must_use]
pub fn over_seeds(values: &[f64]) -> (f64, Option<[f64; 2]>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let Some(t) = values.len().checked_sub(2).and_then(|i| STUDENT.get(i)) else { return (mean, None) };
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let half = t * deviation / n.sqrt();
    (mean, Some([mean - half, mean + half]))
}

/// The fields of a line by the rules of CSV.
fn fields(line: &str) -> Vec<String> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            // Of a doubled quote the second opens again what the first has closed.
            '"' => {
                if !quoted && !field.is_empty() {
                    field.push('"');
                }
                quoted = !quoted;
            }
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    all.push(field);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(rows: &[(&str, &str, u8)]) -> Predictions {
        let lines: String = rows.iter().map(|(file, class, right)| format!("{file},{class},x,{right},\n")).collect();
        Predictions::parse(&format!("file,class,predicted,right,group\n{lines}")).unwrap()
    }

    #[test]
    fn figures_of_a_worked_example() {
        let one = predictions(&[
            ("v_a_S1_c0.mp4", "a", 1),
            ("v_a_S1_c1.mp4", "a", 1),
            ("v_a_S2_c0.mp4", "a", 0),
            ("v_b_S2_c0.mp4", "b", 0),
        ]);
        assert_eq!((one.accuracy(), one.len()), ([0.5, 1.0 / 3.0], 4));
        assert_eq!(
            one.by_actor().unwrap().into_iter().collect::<Vec<_>>(),
            [("S1".to_owned(), 1.0), ("S2".to_owned(), 0.0)]
        );
        let all = predictions(&[
            ("v_a_S1_c0.mp4", "a", 1),
            ("v_a_S1_c1.mp4", "a", 1),
            ("v_a_S2_c0.mp4", "a", 1),
            ("v_b_S2_c0.mp4", "b", 1),
        ]);
        assert_eq!(Predictions::mean(&[one.clone(), all.clone()]).unwrap().accuracy()[0], 0.75);
        // Two actors, one right and one wrong: a draw has both, or one of them twice.
        let found = one.bootstrap(Some(&all)).unwrap();
        assert_eq!((found.top1, found.top1_above), ([0.0, 1.0], [-1.0, 0.0]));
        assert_eq!(all.bootstrap(None).unwrap().mean_class, [1.0; 2]);
        assert_eq!(one.bootstrap(Some(&all)).unwrap(), found, "the draws are fixed");
        assert!(one.bootstrap(Some(&predictions(&[("v_a_S1_c0.mp4", "a", 1)]))).is_err());
        assert!(Predictions::parse("file,label\n").is_err());
        assert_eq!(fields("\"a, \"\"b\"\"\",c,"), ["a, \"b\"", "c", ""]);
    }

    /// A hundred tracks of ten actors, of which each is right with probability 1/2: the standard deviation over tracks alone is
    /// 0.05, and if actors are right or wrong as a whole it is 0.158 (and more with both stages, which draw tracks as well).
    #[test]
    fn actors_that_differ_widen_the_interval() {
        let rows = |right: &dyn Fn(usize) -> u8| {
            let names: Vec<String> = (0..100).map(|i| format!("v_a{}_S{}_c0", i / 10, i % 10)).collect();
            let rows: Vec<(&str, &str, u8)> =
                names.iter().enumerate().map(|(i, name)| (name.as_str(), "a", right(i))).collect();
            let [low, high] = predictions(&rows).bootstrap(None).unwrap().top1;
            high - low
        };
        let (mixed, apart) = (rows(&|i| (i / 10 % 2) as u8), rows(&|i| (i % 10 % 2) as u8));
        assert!(apart > 2.0 * mixed, "{mixed} {apart}");
    }

    #[test]
    fn the_interval_over_seeds_is_students() {
        let (mean, interval) = over_seeds(&[0.5, 0.6, 0.7]);
        let [low, high] = interval.unwrap();
        // The deviation is 0.1, so half of it is 4.303 · 0.1 / √3.
        assert!(((mean - 0.6).abs()) < 1e-12 && (high - low - 2.0 * 4.303 * 0.1 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(over_seeds(&[0.5]), (0.5, None));
    }
}
