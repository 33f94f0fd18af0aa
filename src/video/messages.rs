//! What `ffmpeg` says on its standard error: the times of frames, and complaints.

/// Reads messages of `ffmpeg -v repeat+level+info` as they come.
#[derive(Default)]
pub(super) struct Messages {
    /// The beginning of a line that has not ended.
    line: Vec<u8>,
    /// The first complaint, without addresses in memory.
    complaint: Option<String>,
    /// The first line that is neither a message of a known kind nor a time.
    other: Option<String>,
}

/// Of a longer line the rest is left out.
const LINE: usize = 1024;
/// How lines of the filter that tells times begin.
const TIMES: &[u8] = b"[Parsed_showinfo_";

impl Messages {
    /// Takes what was written, and hands the time of each frame, where it has one, to `time`.
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
            if let Some((_, stamp)) = text.split_once(" pts_time:") {
                time(stamp.split_whitespace().next().and_then(|s| s.parse().ok()));
            }
            return;
        }
        // The last step only complains that times do not increase, which are not what it is given frames for.
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

    /// Whether the decoder complained of the file.
    pub(super) fn complained(&self) -> bool {
        self.complaint.is_some()
    }

    /// The lines to look for a reason in, the likeliest first.
    pub(super) fn text(&self) -> String {
        let unended = String::from_utf8_lossy(&self.line);
        [self.complaint.as_deref(), self.other.as_deref(), Some(&unended)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("\n")
    }
}
