//! Parser for the standard error of `ffmpeg`: time stamps of frames, and error messages.

/// Parses messages of `ffmpeg -v repeat+level+info` incrementally.
#[derive(Default)]
pub(super) struct Messages {
    /// The beginning of an incomplete line.
    line: Vec<u8>,
    /// The first error message, without memory addresses.
    complaint: Option<String>,
    /// The unit of time stamps, a fraction of a second.
    unit: Option<(f64, f64)>,
    /// The first line that is neither a known kind of message nor a time stamp.
    other: Option<String>,
}

/// Longer lines are truncated.
const LINE: usize = 1024;
/// Prefix of the lines of the filter that prints times.
const TIMES: &[u8] = b"[Parsed_showinfo_";

impl Messages {
    /// Adds output, and passes the time of each frame, if it has one, to `time`.
    pub(super) fn take(&mut self, bytes: &[u8], mut time: impl FnMut(Option<f64>)) {
        for part in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            let (text, ended) = match part.split_last() {
                Some((b'\n' | b'\r', text)) => (text, true),
                _ => (part, false),
            };
            let room = LINE.saturating_sub(self.line.len()).min(text.len());
            self.line.extend_from_slice(&text[..room]);
            if ended {
                self.end_line(&mut time);
            }
        }
    }

    fn end_line(&mut self, time: &mut impl FnMut(Option<f64>)) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        if line.starts_with(TIMES) {
            let number = |name: &str| text.split_once(name)?.1.split([' ', ',']).find(|word| !word.is_empty());
            if let Some((num, den)) = number("config in time_base:").and_then(|unit| unit.split_once('/')) {
                self.unit = num.parse().ok().zip(den.parse().ok().filter(|den: &f64| *den > 0.0));
            } else if let Some(stamp) = number(" pts_time:") {
                // Seconds are printed with six digits; a count of units is exact.
                let exact = number(" pts:").and_then(|pts| pts.parse::<i64>().ok()).zip(self.unit);
                let exact = exact.map(|(pts, (num, den))| pts as f64 * num / den);
                time(exact.or_else(|| stamp.parse().ok()));
            }
            return;
        }
        // The last step only reports non-monotonic time stamps, which do not matter here.
        if text.trim().is_empty() || text.starts_with("[rawvideo @") || text.contains("[info]") {
            return;
        }
        let kept = if ["[error]", "[fatal]", "[panic]"].iter().any(|level| text.contains(level)) {
            &mut self.complaint
        } else {
            &mut self.other
        };
        if kept.is_none() {
            *kept = Some(text.into_owned());
        }
    }

    /// Whether the decoder reported an error in the file.
    pub(super) fn complained(&self) -> bool {
        self.complaint.is_some()
    }

    /// The lines that may contain the reason of a failure, the most likely first.
    pub(super) fn text(&self) -> String {
        let unended = String::from_utf8_lossy(&self.line);
        [self.complaint.as_deref(), self.other.as_deref(), Some(&unended)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("\n")
    }
}
