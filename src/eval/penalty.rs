//! The penalty of a linear probe, chosen on training samples alone: each source (an actor, a recording) is left out in turn.

use super::probe::probe_while;
use super::scores::Scores;
use super::{Features, GoOn};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// A penalty and what it reaches on samples of sources that were left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    /// The penalty.
    pub l2: f64,
    /// The mean over classes of each class's accuracy.
    pub mean_class: f64,
}

/// Trains a [probe](super::probe) with each of `penalties` on all sources but one, scores it on that one, and goes on to the
/// next: what each penalty reaches, over the samples of all sources together. `sources [n]` says which sample is of which
/// source. Samples of a class that no other source has are left out, for every penalty alike. `done` is called after each source of
/// each penalty, by several threads.
///
/// # Errors
/// `Shape` unless there is a source for each sample; `Param` when there are fewer than two sources, no penalty, or nothing is
/// left to be scored; as [`probe`](super::probe::probe); that of `go_on`.
pub fn try_penalties(
    train: &Features,
    sources: &[usize],
    penalties: &[f64],
    go_on: GoOn,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Tried>> {
    if sources.len() != train.len() {
        let got = format!("{} sources", sources.len());
        return Err(Error::shape("penalty", "sources", format!("one for each of {} samples", train.len()), got));
    }
    let mut names = sources.to_vec();
    names.sort_unstable();
    names.dedup();
    if names.len() < 2 {
        return Err(Error::param(
            "penalty",
            "sources",
            names.len(),
            "two are needed, of which one is left out in turn",
        ));
    }
    if penalties.is_empty() {
        return Err(Error::param("penalty", "penalties", 0, "at least one is to be tried"));
    }
    let all = super::own_classes(train);
    let place = |label: usize| all.binary_search(&label).unwrap_or(0);
    let try_one = |&l2: &f64| -> Result<Tried> {
        let (mut labels, mut right) = (Vec::new(), Vec::new());
        for name in &names {
            let rest = some(train, |i| sources[i] != *name)?;
            let known = super::own_classes(&rest);
            let own = |i: usize| sources[i] == *name && known.binary_search(&train.labels()[i]).is_ok();
            if known.len() < 2 || !(0..train.len()).any(own) {
                done();
                continue;
            }
            let held = some(train, own)?;
            let found = probe_while(&rest, &held, l2, go_on)?;
            for (label, at) in held.labels().iter().zip(found.scores.predicted()) {
                labels.push(place(*label));
                right.push(place(found.classes[*at]));
            }
            done();
        }
        if labels.is_empty() {
            let rule = "no class is of two sources, so nothing can be told of a source that is left out";
            return Err(Error::param("penalty", "sources", names.len(), rule));
        }
        let one = |predicted: &usize| (0..all.len()).map(|i| f64::from(u8::from(i == *predicted))).collect::<Vec<_>>();
        let scores = Scores::new(&right.iter().flat_map(one).collect::<Vec<_>>(), &labels, all.len())?;
        Ok(Tried { l2, mean_class: scores.mean_class() })
    };
    penalties.par_iter().map(try_one).collect()
}

/// The best of them: of equal ones the largest penalty.
#[must_use]
pub fn best(tried: &[Tried]) -> Option<Tried> {
    tried
        .iter()
        .copied()
        .max_by(|a, b| (a.mean_class, a.l2).partial_cmp(&(b.mean_class, b.l2)).unwrap_or(std::cmp::Ordering::Equal))
}

/// The samples for which `is` holds.
fn some(all: &Features, is: impl Fn(usize) -> bool) -> Result<Features> {
    let kept: Vec<usize> = (0..all.len()).filter(|&i| is(i)).collect();
    let values = kept.iter().flat_map(|&i| &all.values()[i * all.d()..][..all.d()]).copied().collect();
    Features::new(all.d(), values, kept.iter().map(|&i| all.labels()[i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    /// Two classes in the first of twenty features, noise in the others, and in each source a shift of its own.
    fn samples(seed: u64) -> (Features, Vec<usize>) {
        let mut rng = stream(seed, 0, 0, Purpose::Test);
        let mut noise = |scale: f32| scale * rng.random_range(-1.0f32..1.0);
        let shifts: Vec<Vec<f32>> = (0..4).map(|_| (0..20).map(|_| noise(3.0)).collect()).collect();
        let (mut values, mut labels, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..48 {
            let (label, source) = (i % 2, i / 2 % 4);
            let row = (0..20).map(|d| if d == 0 { label as f32 * 2.0 - 1.0 } else { shifts[source][d] } + noise(0.5));
            values.extend(row);
            labels.push(label);
            sources.push(source);
        }
        (Features::new(20, values, labels).unwrap(), sources)
    }

    #[test]
    fn a_penalty_is_judged_on_sources_that_it_was_not_trained_on() {
        let (train, sources) = samples(1);
        let grid = [1e-4, 0.03, 1e3];
        let tried = try_penalties(&train, &sources, &grid, &|| Ok(()), &|| {}).unwrap();
        assert_eq!(tried.iter().map(|t| t.l2).collect::<Vec<_>>(), grid);
        // By hand: leave one source out, count.
        for one in &tried {
            let mut right = [0usize; 2];
            for name in 0..4 {
                let rest = some(&train, |i| sources[i] != name).unwrap();
                let held = some(&train, |i| sources[i] == name).unwrap();
                let found = probe_while(&rest, &held, one.l2, &|| Ok(())).unwrap();
                for (label, at) in held.labels().iter().zip(found.scores.predicted()) {
                    right[*label] += usize::from(label == at);
                }
            }
            assert_eq!(one.mean_class, (right[0] as f64 / 24.0 + right[1] as f64 / 24.0) / 2.0);
        }
        // The order of samples does not matter, and of equal penalties the largest wins.
        let turned: Vec<usize> = (0..48).map(|i| (i + 17) % 48).collect();
        let values = turned.iter().flat_map(|&i| train.values()[i * 20..][..20].to_vec()).collect();
        let other = Features::new(20, values, turned.iter().map(|&i| train.labels()[i]).collect()).unwrap();
        let others: Vec<usize> = turned.iter().map(|&i| sources[i]).collect();
        assert_eq!(try_penalties(&other, &others, &grid, &|| Ok(()), &|| {}).unwrap(), tried);
        let of = |l2, mean_class| Tried { l2, mean_class };
        assert_eq!(best(&[of(0.1, 0.5), of(0.3, 0.7), of(1.0, 0.7), of(3.0, 0.2)]), Some(of(1.0, 0.7)));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn what_cannot_be_left_out_is_refused() {
        let (train, sources) = samples(2);
        let refused = |sources: &[usize], grid: &[f64]| {
            try_penalties(&train, sources, grid, &|| Ok(()), &|| {}).unwrap_err().to_string()
        };
        assert!(refused(&sources[1..], &[1.0]).contains("one for each of 48 samples"));
        assert!(refused(&[3; 48], &[1.0]).contains("two are needed"));
        assert!(refused(&sources, &[]).contains("at least one"));
        assert!(refused(&sources, &[0.0]).contains("above 0"));
        let apart: Vec<usize> = (0..48).map(|i| i % 2).collect();
        assert!(refused(&apart, &[1.0]).contains("no class is of two sources"));
    }
}
