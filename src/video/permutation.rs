//! The order of the videos of an epoch, without a list of them: a permutation whose values are computed one by one.
//!
//! A Feistel network permutes the numbers below the next power of four from `n` on. A value that is not below `n` is permuted again
//! until it is (cycle walking), so the numbers below `n` are permuted among themselves. That takes less than four steps on average.

use rand::Rng;

use crate::rng::{self, Purpose};

/// Four rounds of independent random functions make a permutation that cannot be told from a random one by few of its values
/// (Luby and Rackoff, 1988). Our functions are not random, and a small `n` has few bits in each half: twice as many.
const ROUNDS: usize = 8;

/// A permutation of the numbers below `n`.
///
/// ```
/// use tubelet::video::Permutation;
/// let order = Permutation::new(10_000_000, 0, 3);
/// assert!(order.at(1_234_567) < 10_000_000);
/// let mut small: Vec<u64> = (0..5).map(|i| Permutation::new(5, 0, 3).at(i)).collect();
/// small.sort();
/// assert_eq!(small, [0, 1, 2, 3, 4]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    n: u64,
    /// Bits of each half of a number.
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of this seed and epoch.
    #[must_use]
    pub fn new(n: u64, seed: u64, epoch: u64) -> Permutation {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let mut rng = rng::stream(seed, epoch, 1, Purpose::Order);
        Permutation { n, half: bits.div_ceil(2), keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Value `i`. Panics where `i >= len()`, as slices do.
    #[must_use]
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "value {i} of {}", self.n);
        let mut x = self.network(i);
        while x >= self.n {
            x = self.network(x);
        }
        x
    }

    fn network(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half & mask, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mixed(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// Each bit of the result depends on each bit of `x`: multiplications by odd constants carry bits upwards, shifts carry them
/// downwards.
fn mixed(mut x: u64) -> u64 {
    for factor in [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93] {
        x = (x ^ (x >> 32)).wrapping_mul(factor);
    }
    x ^ (x >> 32)
}
