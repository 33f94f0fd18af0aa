//! Which clips of a step's samples a rank loads.
//!
//! Every rank knows the order of the videos and the permutations of the keys from the seed, so it loads the clips of its own
//! part of a batch and those that its key networks are given, and no clips travel.

use super::order::Order;
use crate::rng::{self, Purpose};
use crate::ssl::pathway::permutation;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Some of the clips of a sample, by their numbers: which of them are to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clips(u8);

impl Clips {
    /// All of them.
    pub const ALL: Clips = Clips(u8::MAX);

    /// Those with these numbers, which are below 8.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = usize>) -> Clips {
        Clips(numbers.into_iter().fold(0, |all, i| all | 1 << i))
    }

    /// Whether clip `i` is among them.
    #[must_use]
    pub fn has(self, i: usize) -> bool {
        self.0 >> i & 1 == 1
    }
}

/// The clips that a rank loads for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Those of each sample in its part of the batch.
    pub own: Clips,
    /// With several ranks and permuted keys: for each pass of a key network the number of its clip, which is loaded of the samples
    /// that the pass's permutation puts in this rank's part. Otherwise empty.
    pub keys: Vec<usize>,
}

impl Default for Share {
    /// All clips of the samples in its part of the batch.
    fn default() -> Self {
        Share { own: Clips::ALL, keys: Vec::new() }
    }
}

impl Share {
    /// The samples of a step, in the order in which they are loaded: those of this rank's part of the batch, then those of each
    /// pass of a key network with the number of its clip.
    pub fn split<'a, S>(&'a self, samples: &'a [S]) -> (&'a [S], impl Iterator<Item = (usize, &'a [S])> + 'a) {
        let (own, rest) = samples.split_at(samples.len() / (1 + self.keys.len()));
        (own, self.keys.iter().copied().zip(rest.chunks(own.len().max(1))))
    }
}

/// The random numbers that permute the keys of a step.
pub(super) fn key_rng(seed: u64, epoch: u64, step: u64) -> impl rand::Rng {
    rng::stream(seed, epoch, step, Purpose::KeyShuffle)
}

/// The samples that one of `size` ranks loads over a whole run, in their order.
pub(super) struct Samples {
    pub order: Order,
    pub share: Share,
    pub seed: u64,
    /// Videos of a step, of all ranks.
    pub batch: usize,
    pub per_epoch: u64,
    pub rank: usize,
    pub size: usize,
    /// Of the last steps that were asked for: places in the batch, with the clips that are wanted.
    pub steps: Mutex<VecDeque<(u64, Wanted)>>,
}

pub(super) type Wanted = Arc<[(usize, Clips)]>;

impl Samples {
    /// Steps of which the list is kept: those that the loader's threads are working on.
    const KEPT: usize = 4;

    /// Samples of a step.
    pub fn per_step(&self) -> usize {
        self.batch / self.size * (1 + self.share.keys.len())
    }

    /// Epoch, video and clips of sample `i`, counted over the whole run.
    pub fn at(&self, i: u64) -> (u64, usize, Clips) {
        let per_step = self.per_step() as u64;
        let step = i / per_step;
        let (place, clips) = self.step(step)[(i % per_step) as usize];
        let (epoch, video) = self.order.at(step * self.batch as u64 + place as u64);
        (epoch, video, clips)
    }

    fn step(&self, step: u64) -> Wanted {
        // No code that can panic runs under the lock.
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, wanted)) = steps.iter().find(|(s, _)| *s == step) {
            return wanted.clone();
        }
        let n = self.batch / self.size;
        let own = self.rank * n..(self.rank + 1) * n;
        let mut wanted: Vec<(usize, Clips)> = own.clone().map(|place| (place, self.share.own)).collect();
        let mut rng = key_rng(self.seed, step / self.per_epoch, step);
        for &clip in &self.share.keys {
            let there = permutation(self.batch, &mut rng);
            wanted.extend(there[own.clone()].iter().map(|&place| (place as usize, Clips::of([clip]))));
        }
        if steps.len() == Self::KEPT {
            steps.pop_front();
        }
        let wanted: Wanted = wanted.into();
        steps.push_back((step, wanted.clone()));
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rank: usize, size: usize, share: Share) -> Samples {
        let (seed, batch, per_epoch) = (3, 6, 2);
        let order = Order::new(seed, 13, per_epoch, batch);
        Samples { order, share, seed, batch, per_epoch, rank, size, steps: Mutex::default() }
    }

    #[test]
    fn parts_of_all_ranks_are_the_batch_and_each_key_is_loaded_once() {
        let share = Share { own: Clips::of([0, 2]), keys: vec![1, 3] };
        let alone = samples(0, 1, Share::default());
        for step in 0..6 {
            let batch: Vec<_> = (0..6).map(|i| alone.at(step * 6 + i)).collect();
            for size in [2, 3] {
                let each = 6 / size as u64;
                let of_part = |part: u64| -> Vec<_> {
                    let at = |rank| {
                        let samples = samples(rank, size, share.clone());
                        (0..each).map(|i| samples.at((3 * step + part) * each + i)).collect::<Vec<_>>()
                    };
                    (0..size).flat_map(at).collect()
                };
                let videos = |all: &[(u64, usize, Clips)]| all.iter().map(|(e, v, _)| (*e, *v)).collect::<Vec<_>>();
                assert_eq!(videos(&of_part(0)), videos(&batch));
                assert!(of_part(0).iter().all(|(.., clips)| *clips == share.own));
                let mut rng = key_rng(3, step / 2, step);
                for (part, clip) in [(1, 1), (2, 3)] {
                    let there = permutation(6, &mut rng);
                    let want: Vec<_> =
                        there.iter().map(|&i| (batch[i as usize].0, batch[i as usize].1, Clips::of([clip]))).collect();
                    assert_eq!(of_part(part), want, "step {step}, {size} ranks, part {part}");
                }
            }
        }
    }

    #[test]
    fn samples_are_split_as_they_were_loaded() {
        let share = Share { own: Clips::ALL, keys: vec![1, 3] };
        let (own, keys) = share.split(&[0, 1, 2, 3, 4, 5]);
        assert_eq!((own, keys.collect::<Vec<_>>()), (&[0, 1][..], vec![(1, &[2, 3][..]), (3, &[4, 5][..])]));
        assert_eq!(Share::default().split(&[0, 1]).0, [0, 1]);
        assert!(Clips::of([1]).has(1) && !Clips::of([1]).has(0) && Clips::ALL.has(7));
    }
}
