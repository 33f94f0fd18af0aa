//! Motion-focused clip starts (`docs/papers/mcl.md` section 1.4): a query before or after two keys, and pairs, among
//! the starts with more motion than the others of their video.
//!
//! Starts are frames of the video, counted from 0 (the release counts from 1). The span of a clip, `L`, is in frames of
//! the video too, so that the rules hold at any rate.

use rand::{Rng, RngExt};

use super::{ClipSpec, Gap};

/// Starts of the clips of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Triple {
    /// First frame of the query.
    pub query: usize,
    /// First frames of the two other clips, ascending; they may be the same.
    pub keys: [usize; 2],
    /// Whether the query starts no later than both keys; otherwise it starts no earlier than both.
    pub query_first: bool,
    /// Whether the starts were chosen by motion.
    pub focused: bool,
}

/// How starts are chosen.
pub struct Favour<'a> {
    /// Probability of choosing by motion.
    pub probability: f64,
    /// Motion score of the clip that starts at a frame.
    pub score: &'a dyn Fn(usize) -> f32,
    /// Of starts that tie for the last places, keep the earliest, as in the released code, and not all.
    pub legacy: bool,
}

/// Number of pairs drawn before the best of them is taken.
const PAIRS: usize = 40;

/// First and last frame.
type Range = [usize; 2];

impl ClipSpec {
    /// Frames of a video that the clip spans, including the distance after the last frame: 32 for 16 frames 2 apart.
    #[must_use]
    pub fn span(&self, video_fps: f64) -> usize {
        ((self.frames as f64 * self.step(video_fps)).round() as usize).max(1)
    }

    /// A query and two keys from a video of `len` frames. The order is random with equal probability. With `D` frames,
    /// a span of `L`, and starts counted from 0:
    ///
    /// - early clips start in `0 ..= D/2 - L`, late ones in `D/2 - 1 ..= D - L - 1`, uniformly;
    /// - if motion decides, both ranges end one frame earlier, and in each range the best `⌊n/2⌋ + 1` of its `n` starts
    ///   are kept, with all that tie with the last of them. If one of these ranges is empty (`2L` or `2L + 1` frames)
    ///   the plain ranges are used; the release uses starts 0 and `L - 1`, which are in them;
    /// - a video shorter than `2L` gives three sorted starts in `0 ..= D - L - 1`, and one no longer than a span gives
    ///   0 three times.
    ///
    /// The query is early and both keys are late, or vice versa.
    pub fn triple(&self, len: usize, video_fps: f64, favour: &Favour<'_>, rng: &mut impl Rng) -> Triple {
        let span = self.span(video_fps);
        // Every number is drawn whether it is used or not, so that options do not shift the random stream.
        let query_first = rng.random::<f64>() < 0.5;
        let mut focused = rng.random::<f64>() < favour.probability;
        let draws: [f64; 3] = [(); 3].map(|()| rng.random());
        if len < 2 * span {
            let last = len.saturating_sub(span + 1);
            let mut starts = draws.map(|u| at(u, last + 1));
            starts.sort_unstable();
            let [a, b, c] = starts;
            let (query, keys) = if query_first { (a, [b, c]) } else { (c, [a, b]) };
            return Triple { query, keys, query_first, focused: false };
        }
        let plain: [Range; 2] = [[0, len / 2 - span], [(len / 2).saturating_sub(1), len - span - 1]];
        let ranges =
            plain.map(|[first, last]| last.checked_sub(1).filter(|last| first <= *last).map(|last| [first, last]));
        let halves: [Vec<usize>; 2] = match ranges {
            [Some(early), Some(late)] if focused => [favour.keep(early), favour.keep(late)],
            _ => {
                let alone = focused && favour.legacy;
                focused = false;
                if alone { [vec![0], vec![span - 1]] } else { plain.map(|[first, last]| (first..=last).collect()) }
            }
        };
        let [mine, theirs] = if query_first { [&halves[0], &halves[1]] } else { [&halves[1], &halves[0]] };
        let mut keys = [draws[1], draws[2]].map(|u| theirs[at(u, theirs.len())]);
        keys.sort_unstable();
        Triple { query: mine[at(draws[0], mine.len())], keys, query_first, focused }
    }

    /// Two starts as drawn by [`ClipSpec::pair`], and whether motion chose them: with [`Favour::probability`], the
    /// first of forty such pairs in which both starts are in the better half of the video's ([`ClipSpec::triple`]'s
    /// rule for one range), or, if there is none, the one whose lower score is largest.
    pub fn favoured_pair(
        &self,
        len: usize,
        video_fps: f64,
        gap: Gap,
        favour: &Favour<'_>,
        rng: &mut impl Rng,
    ) -> ([f64; 2], bool) {
        if rng.random::<f64>() >= favour.probability {
            return (self.pair(len, video_fps, gap, rng), false);
        }
        let kept = favour.keep([0, self.last_start(len, video_fps) as usize]);
        let least = kept.iter().map(|&s| (favour.score)(s)).fold(f32::INFINITY, f32::min);
        let (mut best, mut most) = ([0.0; 2], f32::NEG_INFINITY);
        for _ in 0..PAIRS {
            let pair = self.pair(len, video_fps, gap, rng);
            let lesser = pair.map(|s| (favour.score)(s.round() as usize)).into_iter().fold(f32::INFINITY, f32::min);
            if lesser > most {
                (best, most) = (pair, lesser);
            }
            if most >= least {
                break;
            }
        }
        (best, true)
    }
}

impl Favour<'_> {
    /// The better half of the starts of a range: the first `⌊n/2⌋ + 1` by score, and all that tie with the last of
    /// them.
    fn keep(&self, [first, last]: Range) -> Vec<usize> {
        let mut starts: Vec<(usize, f32)> = (first..=last).map(|s| (s, (self.score)(s))).collect();
        starts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let count = (starts.len() / 2 + 1).min(starts.len());
        let least = starts[count - 1].1;
        let ties = if self.legacy { 0 } else { starts[count..].iter().take_while(|s| s.1 >= least).count() };
        starts[..count + ties].iter().map(|s| s.0).collect()
    }
}

/// Entry of a list of `n` for `u` in 0..1.
fn at(u: f64, n: usize) -> usize {
    ((u * n as f64) as usize).min(n - 1)
}
