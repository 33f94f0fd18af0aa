//! The allowed ranges of a run's settings: one table, against which command lines and recipes check their numbers.
//!
//! ```
//! use tubelet::train::limits;
//! assert_eq!(limits::BATCH.parse::<usize>("64")?, 64);
//! let e = limits::LR.parse::<f32>("nan").unwrap_err().to_string();
//! assert_eq!(e, "settings: --lr = nan, but it must be a number above 0 and at most 1000");
//! # Ok::<(), tubelet::error::Error>(())
//! ```

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The allowed range of one setting. It is displayed as its rule: "a whole number of videos from 2 to 65536".
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The option of the examples that sets it, such as `--lr`.
    pub option: &'static str,
    /// The minimum.
    pub least: f64,
    /// Whether the minimum itself is excluded.
    pub above: bool,
    /// The maximum.
    pub most: f64,
    /// Whether it must be an integer.
    pub whole: bool,
    /// Its unit; empty for a plain number.
    pub unit: &'static str,
}

const fn whole(option: &'static str, unit: &'static str, least: u64, most: u64) -> Limit {
    Limit { option, least: least as f64, above: false, most: most as f64, whole: true, unit }
}

const fn real(option: &'static str, unit: &'static str, least: f64, most: f64) -> Limit {
    Limit { option, least, above: false, most, whole: false, unit }
}

const fn above(option: &'static str, unit: &'static str, least: f64, most: f64) -> Limit {
    Limit { above: true, ..real(option, unit, least, most) }
}

/// Seed of all random numbers.
pub const SEED: Limit = whole("--seed", "", 0, u64::MAX);
/// The number of one of the official splits of a data set.
pub const SPLIT: Limit = whole("--split", "", 1, 99);
/// Threads; 0 for the number of the machine's cores.
pub const THREADS: Limit = whole("--threads", "threads", 0, 1024);
/// Passes over the videos.
pub const EPOCHS: Limit = whole("--epochs", "epochs", 1, 1_000_000_000);
/// Videos per step. With one video, batch norm has no variance and there are no other videos to contrast it with.
pub const BATCH: Limit = whole("--batch", "videos", 2, 65_536);
/// Learning rate.
pub const LR: Limit = above("--lr", "", 0.0, 1000.0);
/// Linear warm-up.
pub const WARMUP_EPOCHS: Limit = real("--warmup-epochs", "epochs", 0.0, 1e9);
/// Weight decay.
pub const WEIGHT_DECAY: Limit = real("--weight-decay", "", 0.0, 1.0);
/// Temperature of the losses: dot products of unit vectors divided by it stay well within the range of f32.
pub const TEMPERATURE: Limit = real("--temperature", "", 0.001, 1000.0);
/// Keys in a queue.
pub const QUEUE: Limit = whole("--queue", "keys", 1, 1 << 24);
/// Momentum of the key networks.
pub const EMA: Limit = real("--ema", "", 0.0, 1.0);
/// Micro-batches of a step ([`super::recipe::Training::accumulate`]).
pub const ACCUMULATE: Limit = whole("--accumulate", "micro-batches", 1, 32_768);
/// Parts of the batch with statistics of their own.
pub const BN_GROUPS: Limit = whole("--bn-groups", "parts", 1, 32_768);
/// Frames of an RGB clip.
pub const FRAMES: Limit = whole("--frames", "frames", 1, 1024);
/// Distance between consecutive frames of a clip.
pub const STRIDE: Limit = whole("--stride", "frames", 1, 1000);
/// Frames that a training video has at least; 0 for any number.
pub const MIN_FRAMES: Limit = whole("--min-frames", "frames", 0, 1_000_000_000);
/// Side of the clips.
pub const SIDE: Limit = whole("--side", "pixels", 8, 2048);
/// Probability of another video's background.
pub const BACKGROUND_SWAP: Limit = real("--background-swap", "", 0.0, 1.0);
/// Clips per video for the probe.
pub const PROBE_CLIPS: Limit = whole("--probe-clips", "clips", 1, 256);
/// Clips per video of an evaluation.
pub const CLIPS: Limit = whole("--clips", "clips", 1, 256);
/// Queries of the benchmark of motion similarity.
pub const QUERIES: Limit = whole("--queries", "queries", 1, 10_000);
/// Videos that pass through a network at once when it is trained with labels.
pub const MICRO_BATCH: Limit = whole("--micro-batch", "videos", 1, 65_536);
/// Share of the features that are dropped.
pub const DROPOUT: Limit = real("--dropout", "", 0.0, 0.99);
/// Largest norm of the gradient.
pub const CLIP_NORM: Limit = above("--clip-norm", "", 0.0, 1e9);
/// Batches of which running statistics are computed anew.
pub const PRECISE_BN: Limit = whole("--precise-bn", "batches", 0, 1_000_000);
/// Share of the training videos that keep their labels.
pub const LABELS: Limit = above("--labels", "", 0.0, 1.0);
/// Weight of the penalty of a logistic regression.
pub const L2: Limit = above("--l2", "", 0.0, 1e6);
/// Penalty of errors of a support vector machine.
pub const C: Limit = above("--c", "", 0.0, 1e6);
/// Epochs between probes; 0 for none.
pub const PROBE_EVERY: Limit = whole("--probe-every", "epochs", 0, 1_000_000_000);
/// Weight of the visual-visual term.
pub const W_VV: Limit = weight("--w-vv");
/// Weight of the motion-motion term.
pub const W_MM: Limit = weight("--w-mm");
/// Weight of the term of visual queries against motion keys.
pub const W_VM: Limit = weight("--w-vm");
/// Weight of the term of motion queries against visual keys.
pub const W_MV: Limit = weight("--w-mv");
/// Weight of the terms between time steps.
pub const W_STEPS: Limit = weight("--w-steps");
/// Weight of MCL's inter loss.
pub const W_INTER: Limit = weight("--w-inter");
/// Weight of MCL's intra loss.
pub const W_INTRA: Limit = weight("--w-intra");
/// Weight of MCL's order loss.
pub const W_ORDER: Limit = weight("--w-order");
/// Weight of the alignment loss.
pub const W_ALIGN: Limit = weight("--w-align");
/// The same during the warm-up.
pub const W_ALIGN_WARMUP: Limit = weight("--w-align-warmup");
/// The same in the last epoch.
pub const W_ALIGN_END: Limit = weight("--w-align-end");
/// Synthetic tubelets of a sample.
pub const TUBELETS: Limit = whole("--tubelets", "tubelets", 0, 64);
/// Epochs in which the two clips of a video drift apart; 0 for none.
pub const DRIFT: Limit = whole("--drift", "epochs", 0, 1_000_000_000);
/// Magnitude of motion at which the motion input reaches 1.
pub const MOTION_CLAMP: Limit = real("--motion-clamp", "pixels", 0.001, 10_000.0);
/// Frames of a motion clip.
pub const MOTION_FRAMES: Limit = whole("--motion-frames", "frames", 1, 1024);

/// Weights of losses are not negative, and sums of them stay well within the range of f32.
const fn weight(option: &'static str) -> Limit {
    real(option, "", 0.0, 1e6)
}

/// All limits.
pub const ALL: [Limit; 44] = [
    SEED,
    SPLIT,
    THREADS,
    EPOCHS,
    BATCH,
    ACCUMULATE,
    LR,
    WARMUP_EPOCHS,
    WEIGHT_DECAY,
    TEMPERATURE,
    QUEUE,
    EMA,
    BN_GROUPS,
    FRAMES,
    STRIDE,
    MIN_FRAMES,
    SIDE,
    BACKGROUND_SWAP,
    PROBE_CLIPS,
    CLIPS,
    QUERIES,
    MICRO_BATCH,
    DROPOUT,
    CLIP_NORM,
    PRECISE_BN,
    LABELS,
    L2,
    C,
    PROBE_EVERY,
    W_VV,
    W_MM,
    W_VM,
    W_MV,
    W_STEPS,
    W_INTER,
    W_INTRA,
    W_ORDER,
    W_ALIGN,
    W_ALIGN_WARMUP,
    W_ALIGN_END,
    TUBELETS,
    DRIFT,
    MOTION_CLAMP,
    MOTION_FRAMES,
];

/// Types of number that a [`Limit`] can check.
pub trait Number: Copy + FromStr + fmt::Display {
    /// The number in f64; integers above 2^53 are rounded.
    fn real(self) -> f64;
    /// The number of this type nearest to a bound.
    fn nearest(bound: f64) -> f64;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn real(self) -> f64 {
                self as f64
            }

            fn nearest(bound: f64) -> f64 {
                bound as $t as f64
            }
        }
    )*};
}
numbers!(u64, usize, f32, f64);

impl Limit {
    /// Whether `value` is allowed.
    pub fn allows<T: Number>(&self, value: T) -> bool {
        let (v, [least, most]) = (value.real(), [self.least, self.most].map(T::nearest));
        (v > least || !self.above && v == least) && v <= most && (!self.whole || v.trunc() == v)
    }

    /// Checks that `value` is allowed.
    ///
    /// # Errors
    /// `Param` with the option, the value and the rule if it is not.
    pub fn check(&self, value: impl Number) -> Result<()> {
        if self.allows(value) { Ok(()) } else { Err(self.refused(value)) }
    }

    /// Parses `text`.
    ///
    /// # Errors
    /// As [`Limit::check`], also for a text that is not a number.
    pub fn parse<T: Number>(&self, text: &str) -> Result<T> {
        let value: T = text.trim().parse().map_err(|_| self.refused(text))?;
        self.check(value).map_err(|_| self.refused(text))?;
        Ok(value)
    }

    fn refused(&self, value: impl fmt::Display) -> Error {
        Error::param("settings", self.option, value, format!("it must be {self}"))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { least, most, .. } = *self;
        let of = if self.unit.is_empty() { String::new() } else { format!(" of {}", self.unit) };
        match (self.whole, self.above) {
            // The cast saturates: the largest u64 is not exact in f64.
            (true, _) => write!(f, "a whole number{of} from {least} to {}", most as u64),
            (false, true) => write!(f, "a number{of} above {least} and at most {most}"),
            (false, false) => write!(f, "a number{of} from {least} to {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    #[test]
    fn a_number_is_allowed_between_the_bounds_and_nowhere_else() {
        let mut rng = stream(0, 0, 0, Purpose::Test);
        for limit in ALL {
            for near in -2..=2 {
                let step = f64::from(near) * if limit.whole { 1.0 } else { 1e-4 };
                for v in [f64::from_bits(rng.random()), limit.least + step, limit.most + step] {
                    let inside = v >= limit.least && v <= limit.most && !(limit.above && v == limit.least);
                    assert_eq!(limit.allows(v), inside && (!limit.whole || v.fract() == 0.0), "{} {v}", limit.option);
                }
            }
        }
    }

    #[test]
    fn a_value_is_judged_in_the_type_it_is_kept_in() {
        assert!(LR.parse::<f64>("1e-300").is_ok());
        let e = LR.parse::<f32>("1e-300").unwrap_err().to_string(); // 0 in f32
        assert!(e.contains("--lr = 1e-300") && e.contains("above 0 and at most 1000"), "{e}");
        assert_eq!(DROPOUT.parse::<f32>("0.99").unwrap(), 0.99, "a bound is allowed, though it is above that of f64");
        assert!(DROPOUT.parse::<f32>("0.9900002").is_err());
        assert_eq!(SEED.parse::<u64>("18446744073709551615").unwrap(), u64::MAX);
        let e = SEED.parse::<u64>("18446744073709551616").unwrap_err().to_string();
        assert!(e.contains("a whole number from 0 to 18446744073709551615"), "{e}");
        for text in ["nan", "inf", "-0.5", "", "1_000", "0x10"] {
            assert!(W_VV.parse::<f32>(text).is_err() && BATCH.parse::<usize>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_option_stands_in_the_table_once() {
        let mut names: Vec<_> = ALL.iter().map(|l| l.option).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|l| l.least < l.most && l.option.starts_with("--")));
    }
}
