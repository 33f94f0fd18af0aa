//! Random numbers keyed by what they are for: `(seed, epoch, sample, purpose)`.
//!
//! There is no global state. The same key gives the same numbers whatever the number of threads, the order of loading,
//! or where a run was interrupted.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What a stream of random numbers is used for. Each purpose has its own stream, so that adding a draw to one
/// never changes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights.
    Init = 1,
    /// Order of the samples of an epoch.
    Order = 2,
    /// Where in a video clips are sampled.
    ClipSampling = 3,
    /// Crop, flip, colour.
    Augment = 4,
    /// Permutation of the key batch.
    KeyShuffle = 5,
    /// Initial queue.
    Queue = 6,
    /// Procedural videos.
    Procedural = 7,
    /// Classifier of the probe.
    Probe = 8,
    /// Crops that follow the motion.
    Tubelet = 10,
    /// Flips of the flow alone, as in the released code of MCL.
    LegacyFlip = 11,
    /// Draws of a bootstrap.
    Bootstrap = 12,
    /// Features that dropout sets to 0.
    Dropout = 13,
    /// Which training videos keep their labels.
    Labels = 14,
    /// Procedural videos of the benchmark of motion similarity.
    Similarity = 15,
    /// Which clips get another video's background, and whose.
    Background = 16,
    /// Synthetic tubelets, and the videos that share them.
    Synthetic = 17,
    /// Tests and benches.
    Test = 9,
}

/// The generator for one key.
#[must_use]
pub fn stream(seed: u64, epoch: u64, sample: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[0..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..24].copy_from_slice(&sample.to_le_bytes());
    key[24..28].copy_from_slice(&(purpose as u32).to_le_bytes());
    ChaCha8Rng::from_seed(key)
}
