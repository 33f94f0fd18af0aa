//! Time stamps of frames to a clip of constant frame rate: which frame is shown at which output position.

/// Containers round time stamps to about a millisecond: a frame late by this many seconds is still on time.
const ROUNDING: f64 = 1.5e-3;
/// Time stamps that jump back by more seconds than this start a new recording, which follows the old one.
const SPLICE: f64 = 1.0;

/// Frames this many seconds apart or less say nothing about the rate.
const SHORTEST: f64 = 0.9e-3;
/// Time stamps of this many seconds or more are invalid.
const NO_TIME: f64 = 1e12;

/// Time stamps of a stream's frames in decoding order, in seconds since the first one. They never decrease.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// The first time stamp, unmodified.
    first: Option<f64>,
    /// Offset added to time stamps, so that a spliced recording continues where the one before it ended.
    offset: f64,
    times: Vec<f64>,
}

impl Stamps {
    /// Adds the time stamp of the next frame, in seconds, if it has one. Returns its time.
    pub(super) fn push(&mut self, stamp: Option<f64>) -> f64 {
        let stamp = stamp.filter(|s| s.abs() < NO_TIME);
        let Some(&last) = self.times.last() else {
            self.first = Some(stamp.unwrap_or(0.0));
            self.times.push(0.0);
            return 0.0;
        };
        let next = last + usual_gap(&self.times[self.times.len().saturating_sub(16)..]).unwrap_or(0.0);
        let mut time = stamp.map_or(next, |s| s - self.first.unwrap_or(0.0) + self.offset);
        if time < last - SPLICE {
            self.offset += next - time;
            time = next;
        }
        let time = time.max(last);
        self.times.push(time);
        time
    }

    /// Seconds since the first frame, one per frame.
    pub(super) fn times(&self) -> &[f64] {
        &self.times
    }

    /// Time of the first frame in the container's clock.
    pub(super) fn first(&self) -> f64 {
        self.first.unwrap_or(0.0)
    }

    /// When the last frame has been shown for the usual duration. A single frame is shown for one period of `rate`.
    pub(super) fn end(&self, rate: Option<f64>) -> f64 {
        let gap = usual_gap(&self.times).or(rate.map(|r| 1.0 / r)).unwrap_or(0.0);
        self.times.last().map_or(0.0, |t| t + gap)
    }
}

/// Usual duration of a frame: the mean of the distances close to their median. `None` if time does not advance.
fn usual_gap(times: &[f64]) -> Option<f64> {
    let mut gaps: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).filter(|gap| *gap >= SHORTEST).collect();
    if gaps.is_empty() {
        return None;
    }
    let middle = (gaps.len() - 1) / 2;
    let median = *gaps.select_nth_unstable_by(middle, f64::total_cmp).1;
    let near = (median / 4.0).max(ROUNDING);
    gaps.retain(|gap| (gap - median).abs() <= near);
    Some(gaps.iter().sum::<f64>() / gaps.len() as f64)
}

/// The first output position of a clip of `fps` frames per second at which a frame of `time` seconds can be shown;
/// positions are at 0, 1/fps, 2/fps, and so on.
pub(super) fn place(time: f64, fps: f64) -> usize {
    let late = ROUNDING.min(0.25 / fps);
    ((time - late) * fps).ceil().max(0.0) as usize
}

/// Mapping of a stream's frames to a clip of constant rate.
#[derive(Debug, PartialEq)]
pub(super) struct Timing {
    /// Frames per second.
    pub fps: f64,
    /// First output position of each frame, and at the end that of a frame after the last. `None` if each frame has
    /// exactly one position.
    pub places: Option<Vec<usize>>,
}

/// The timing of a whole stream at its own rate. `claimed` are the rates in its header, the more likely first; they are
/// used if time stamps agree with them. `None` if nothing determines the rate.
///
/// A stream in which each frame is within half a period of its position is taken frame by frame. Otherwise frames are
/// repeated and dropped, so that each position shows the last frame whose time has come.
///
/// In an `.avi` with sound the first frame may be one period early (its writer inserts an empty frame after it, to
/// compensate for the delay of the sound). With `early_first` such a stream is taken frame by frame too.
pub(super) fn native(stamps: &Stamps, claimed: &[f64], early_first: bool) -> Option<Timing> {
    let times = stamps.times();
    let Some(gap) = usual_gap(times) else {
        return claimed.first().map(|&fps| Timing { fps, places: None });
    };
    // The header's rate nearest to the usual frame rate, if it is near.
    let distance = |rate: f64| (rate * gap - 1.0).abs();
    let steps = (times.len() - 1) as f64;
    let near = |rate: &f64| distance(*rate) <= 0.02 + ROUNDING * rate / steps;
    let base = claimed.iter().copied().filter(near).min_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let mean = steps / times[times.len() - 1];
    // Whether all frames are near their positions, those after the first shifted by `late` positions.
    let lie = |fps: f64, late: f64| {
        times.iter().enumerate().skip(late as usize).all(|(k, t)| (t * fps - late - k as f64).abs() < 0.5)
    };
    let regular = |fps: f64| lie(fps, 0.0) || (early_first && times.len() > 2 && lie(fps, 1.0));
    let gaps_only = |fps: f64| times.iter().all(|t| (t * fps - (t * fps).round()).abs() <= 0.25);
    let by_frame = |fps: f64| Some(Timing { fps, places: None });
    match base {
        Some(base) if regular(base) => return by_frame(base),
        Some(base) if gaps_only(base) => {}
        _ if mean * SHORTEST <= 1.0 && regular(mean) => return by_frame(mean),
        _ => {}
    }
    let fps = base.unwrap_or(1.0 / gap);
    let end = stamps.end(None);
    Some(Timing { fps, places: Some(times.iter().chain([&end]).map(|t| place(*t, fps)).collect()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    const RATES: [f64; 6] = [15.0, 24_000.0 / 1001.0, 25.0, 30_000.0 / 1001.0, 50.0, 60_000.0 / 1001.0];

    fn stamps(stamps: impl IntoIterator<Item = f64>) -> Stamps {
        let mut all = Stamps::default();
        stamps.into_iter().for_each(|s| {
            all.push(Some(s));
        });
        all
    }

    #[test]
    fn frames_stamped_to_the_millisecond_have_one_place_each() {
        for case in 0..256 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let rate = RATES[rng.random_range(0..RATES.len())];
            let (n, start, cut) = (rng.random_range(1..3000), rng.random_range(0.0..9.0), case.is_multiple_of(2));
            let round = |s: f64| if cut { (s * 1e3).floor() / 1e3 } else { (s * 1e3).round() / 1e3 };
            let stamps = stamps((0..n).map(|k| round(start + k as f64 / rate)));
            assert_eq!(native(&stamps, &[rate, 2.0 * rate], false), Some(Timing { fps: rate, places: None }));
            // A wrong or missing rate in the header does not matter.
            if n > 1 {
                let measured = native(&stamps, &[90.0], false).unwrap();
                assert!(measured.places.is_none() && (measured.fps / rate - 1.0).abs() * (n as f64) < 0.5);
            }
            // Requesting exactly this rate gives the same.
            let places: Vec<usize> = stamps.times().iter().map(|t| place(*t, rate)).collect();
            assert_eq!(places, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn each_place_shows_the_last_frame_whose_time_has_come() {
        for case in 0..256 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let (rate, mut at) = (RATES[rng.random_range(0..RATES.len())], vec![0]);
            for _ in 0..rng.random_range(8..90) {
                // Every seventh frame is followed by a gap.
                let step = if rng.random_range(0..7) == 0 { rng.random_range(2..9) } else { 1 };
                at.push(at[at.len() - 1] + step);
            }
            let stamps = stamps(at.iter().map(|k| (*k as f64 / rate * 1e3).round() / 1e3));
            let timing = native(&stamps, &[rate], false).unwrap();
            assert_eq!(timing.fps, rate);
            let want: Vec<usize> = at.iter().copied().chain([at[at.len() - 1] + 1]).collect();
            assert_eq!(timing.places.unwrap_or_else(|| (0..want.len()).collect()), want);
        }
    }

    #[test]
    fn stamps_of_any_kind_give_times_that_never_decrease() {
        for case in 0..256 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let mut stamps = Stamps::default();
            let n = rng.random_range(1..60);
            for _ in 0..n {
                // Numbers of any size and sign, infinite and none; seconds; and none at all.
                stamps.push(match rng.random_range(0..4) {
                    0 => None,
                    1 => Some(rng.random_range(-10.0..1e5)),
                    _ => Some(f64::from_bits(rng.random())),
                });
            }
            assert!(stamps.times().windows(2).all(|w| w[0] <= w[1] && w[1].is_finite()));
            let timing = native(&stamps, &[rng.random_range(0.01..1000.0)], true).unwrap();
            assert!(timing.fps > 0.0 && timing.fps.is_finite());
            assert!(timing.places.is_none_or(|p| p[0] == 0 && p.len() == n + 1 && p.is_sorted()));
        }
    }

    #[test]
    fn what_was_spliced_in_goes_on_where_the_other_ended() {
        let stamps = stamps((0..50).chain(0..50).map(|k| f64::from(k) / 25.0));
        assert_eq!(native(&stamps, &[25.0], false), Some(Timing { fps: 25.0, places: None }));
        assert!((stamps.end(None) - 4.0).abs() < 1e-9);
    }

    /// Film on video (telecine): frames are shown for two and three fields alternately, and all are kept.
    #[test]
    fn telecined_film_comes_frame_by_frame() {
        let stamps = stamps((0..101).map(|k| f64::from(k * 5 / 2) / 60.0));
        let timing = native(&stamps, &[30.0], false).unwrap();
        assert!(timing.places.is_none() && (timing.fps - 24.0).abs() < 0.1, "{timing:?}");
    }

    #[test]
    fn a_first_picture_that_is_early_counts_once_where_writers_do_that() {
        let stamps = stamps((0..50).map(|k| f64::from(k + i32::from(k > 0)) / 25.0));
        assert_eq!(native(&stamps, &[25.0], true).unwrap().places, None);
        assert_eq!(native(&stamps, &[25.0], false).unwrap().places.unwrap()[..3], [0, 2, 3]);
    }
}
