//! From the time stamps of frames to a clip of constant rate: which frame is shown at which place.

/// Containers round time stamps to a millisecond or so: a frame this many seconds late is still in time.
const ROUNDING: f64 = 1.5e-3;
/// Time stamps that go back by more seconds than this begin a new recording, which follows the old one.
const SPLICE: f64 = 1.0;

/// Frames this many seconds apart and less tell nothing of the rate.
const SHORTEST: f64 = 0.9e-3;
/// Stamps of so many seconds are none.
const NO_TIME: f64 = 1e12;

/// The time stamps of a stream's frames in the order they are decoded, as seconds since the first one. They never decrease.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// The first stamp as it was.
    first: Option<f64>,
    /// Added to stamps, so that a recording that was spliced in goes on where the one before it ended.
    offset: f64,
    times: Vec<f64>,
}

impl Stamps {
    /// Takes the stamp of the next frame, in seconds, where it has one. Its time.
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

    /// Seconds since the first frame, one a frame.
    pub(super) fn times(&self) -> &[f64] {
        &self.times
    }

    /// The time of the first frame as its container has it.
    pub(super) fn first(&self) -> f64 {
        self.first.unwrap_or(0.0)
    }

    /// When the last frame has been shown as long as most are. A lone frame is shown for one period of `rate`.
    pub(super) fn end(&self, rate: Option<f64>) -> f64 {
        let gap = usual_gap(&self.times).or(rate.map(|r| 1.0 / r)).unwrap_or(0.0);
        self.times.last().map_or(0.0, |t| t + gap)
    }
}

/// How long most frames are shown: the mean of the distances close to their median. `None` where time stands still.
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

/// The first place of a clip of `fps` frames a second at which a frame of `time` seconds can be shown: the places are
/// at 0, 1/fps, 2/fps, and so on.
pub(super) fn place(time: f64, fps: f64) -> usize {
    let late = ROUNDING.min(0.25 / fps);
    ((time - late) * fps).ceil().max(0.0) as usize
}

/// How the frames of a stream become a clip of constant rate.
#[derive(Debug, PartialEq)]
pub(super) struct Timing {
    /// Frames a second.
    pub fps: f64,
    /// The place at which each frame is shown first, and at the end that of a frame after the last. `None` when each
    /// frame has one place.
    pub places: Option<Vec<usize>>,
}

/// The timing of a whole stream at its own rate. `claimed` are the rates that its header gives, the more likely first;
/// they are believed where time stamps agree. `None` when nothing tells the rate.
///
/// A stream each of whose frames lies within half a period of its place is taken frame by frame. The frames of any other are
/// repeated and left out, so that each place shows the last frame whose time has come.
///
/// In an `.avi` with sound the first picture may be a period early (its writer puts an empty frame behind it, to make up for
/// the delay of the sound). With `early_first` such a stream is taken frame by frame too.
pub(super) fn native(stamps: &Stamps, claimed: &[f64], early_first: bool) -> Option<Timing> {
    let times = stamps.times();
    let Some(gap) = usual_gap(times) else {
        return claimed.first().map(|&fps| Timing { fps, places: None });
    };
    // Of the header's rates the one nearest to what most frames have, where it is near.
    let distance = |rate: f64| (rate * gap - 1.0).abs();
    let steps = (times.len() - 1) as f64;
    let near = |rate: &f64| distance(*rate) <= 0.02 + ROUNDING * rate / steps;
    let base = claimed.iter().copied().filter(near).min_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let mean = steps / times[times.len() - 1];
    // Whether all frames lie near their places, those after the first moved by `late` places.
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
