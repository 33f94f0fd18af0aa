//! How many bytes a step of several ranks sends: the formula of `docs/ranks.md`.

use crate::dist::sum::{self, Wire};

/// What determines the bytes of a step.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Ranks.
    pub ranks: usize,
    /// Videos of each rank.
    pub videos: usize,
    /// The length of each code that the key networks compute for a video.
    pub codes: Vec<usize>,
    /// Numbers in each parameter that is trained.
    pub trained: Vec<usize>,
    /// How gradients travel.
    pub wire: Wire,
    /// Numbers of a bucket of gradients.
    pub bucket: usize,
    /// Numbers in the report of a step, the loss among them.
    pub reported: usize,
    /// Channels of the batch norms that are run forward, and backward, with the statistics of all ranks.
    pub normalised: [usize; 2],
}

/// Bytes that a rank sends in a step, by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Keys.
    pub keys: u64,
    /// Gradients, and the loss.
    pub gradients: u64,
    /// The report, if each step's is shared.
    pub report: u64,
    /// Statistics of batch norms.
    pub statistics: u64,
}

impl Sent {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.keys + self.gradients + self.report + self.statistics
    }
}

impl Traffic {
    /// Bytes that a rank sends. If there are several buckets, up to a row of padding in each: which gradients are together is
    /// known when they are computed.
    #[must_use]
    pub fn sent(&self) -> Sent {
        let to_others = |numbers: usize| (4 * (self.ranks - 1) * numbers) as u64;
        let [forward, backward] = self.normalised;
        let tensors: Vec<usize> = [1].into_iter().chain(self.trained.iter().copied()).collect();
        Sent {
            keys: to_others(self.videos * self.codes.iter().sum::<usize>()),
            gradients: sum::bytes(self.ranks, &tensors, self.wire, self.bucket),
            // Beside the numbers a byte that says whether the rank was asked to stop, and seconds.
            report: to_others(1 + self.reported) + self.ranks as u64 - 1,
            // Forward a shift and two sums, backward two sums.
            statistics: to_others(3 * forward + 2 * backward),
        }
    }
}
