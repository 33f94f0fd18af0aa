//! The order in which a run takes its videos.

use crate::rng::{self, Purpose};
use crate::video::Permutation;
use rand::seq::SliceRandom;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The order of the videos over a run. An epoch is shuffled when one of its samples is first requested, and
/// [`Order::KEPT`] epochs are kept in memory: those that the loader's threads are working on. Of more than [`Order::LISTED`]
/// videos there is no list: places are [permuted](Permutation) one by one.
pub(super) struct Order {
    seed: u64,
    videos: usize,
    /// Samples per epoch; the remaining videos are not used in it.
    used: u64,
    epochs: Mutex<VecDeque<(u64, Arc<[usize]>)>>,
}

impl Order {
    const KEPT: usize = 2;

    /// Its lists take 16 MB. More videos than in any data set that the presets are for, whose runs keep their order.
    const LISTED: usize = 1 << 20;

    /// The order for epochs of `per_epoch` steps of `batch` videos.
    pub(super) fn new(seed: u64, videos: usize, per_epoch: u64, batch: usize) -> Order {
        Order { seed, videos, used: per_epoch * batch as u64, epochs: Mutex::default() }
    }

    /// Epoch and video of sample `i`, counted over the whole run.
    pub(super) fn at(&self, i: u64) -> (u64, usize) {
        let (epoch, i) = (i / self.used, i % self.used);
        if self.videos > Self::LISTED {
            return (epoch, Permutation::new(self.videos as u64, self.seed, epoch).at(i) as usize);
        }
        (epoch, self.epoch(epoch)[i as usize])
    }

    fn epoch(&self, epoch: u64) -> Arc<[usize]> {
        // No code that can panic runs under the lock.
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = epochs.iter().find(|(e, _)| *e == epoch) {
            return order.clone();
        }
        let mut order: Vec<usize> = (0..self.videos).collect();
        order.shuffle(&mut rng::stream(self.seed, epoch, 0, Purpose::Order));
        if epochs.len() == Self::KEPT {
            epochs.pop_front();
        }
        epochs.push_back((epoch, order.into()));
        epochs[epochs.len() - 1].1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of a complete run by its definition: each epoch shuffled by its own stream, with the remaining videos
    /// left out.
    fn whole(seed: u64, videos: usize, used: usize, epochs: u64) -> Vec<(u64, usize)> {
        (0..epochs)
            .flat_map(|epoch| {
                let mut order: Vec<usize> = (0..videos).collect();
                order.shuffle(&mut rng::stream(seed, epoch, 0, Purpose::Order));
                order.into_iter().take(used).map(move |video| (epoch, video))
            })
            .collect()
    }

    #[test]
    fn an_epoch_at_a_time_is_the_order_of_the_whole_run() {
        for (videos, batch) in [(1, 1), (7, 2), (12, 4), (5, 5)] {
            let per_epoch = (videos / batch) as u64;
            let order = Order::new(3, videos, per_epoch, batch);
            let want = whole(3, videos, per_epoch as usize * batch, 6);
            let got: Vec<_> = (0..want.len() as u64).map(|i| order.at(i)).collect();
            assert_eq!(got, want, "{videos} videos, batches of {batch}");
            // Threads request samples out of order, and a run may be resumed in the middle.
            for (i, want) in want.iter().enumerate().rev() {
                assert_eq!(order.at(i as u64), *want);
            }
        }
    }

    #[test]
    fn an_epoch_of_very_many_videos_is_no_list() {
        let (videos, batch) = (Order::LISTED + 1, 1 << 10);
        let per_epoch = (videos / batch) as u64;
        let order = Order::new(3, videos, per_epoch, batch);
        for epoch in [0, 5] {
            let first = epoch * per_epoch * batch as u64;
            let all: std::collections::BTreeSet<_> = (0..5000).map(|i| order.at(first + i)).collect();
            assert!(all.len() == 5000 && all.iter().all(|&(of, video)| of == epoch && video < videos));
        }
        assert!(order.epochs.lock().unwrap().is_empty());
    }

    #[test]
    fn a_run_of_any_length_holds_two_epochs() {
        let (videos, epochs) = (10, 1_000_000_000_000);
        let order = Order::new(0, videos, 5, 2);
        for i in [0, 9, 10 * epochs / 2, 10 * epochs - 1] {
            assert_eq!(order.at(i).0, i / 10);
            assert!(order.epochs.lock().unwrap().len() <= Order::KEPT);
        }
    }
}
