//! Long videos as data sets: a file cut into parts that count as videos.

use super::{Dataset, Ffmpeg, Item, Source};
use crate::error::{Error, Result};

/// A file is cut into at most so many parts.
const MOST: f64 = 1e6;

impl Dataset {
    /// The same data set with each video file in parts of equal length, at least `seconds` long ([`Source::Part`]); a
    /// shorter file stays whole. Headers are read, and nothing is decoded.
    ///
    /// # Errors
    /// `Param` unless `seconds` is a positive number; `Data` when a file does not state its length; those of
    /// [`Ffmpeg::probe`].
    pub fn in_parts(self, seconds: f64, ffmpeg: &Ffmpeg) -> Result<Dataset> {
        if !(seconds.is_finite() && seconds > 0.0) {
            return Err(Error::param("parts", "seconds", seconds, "it must be a positive number"));
        }
        let mut items = Vec::new();
        for item in self.items {
            let Source::File(path) = &item.source else {
                items.push(item);
                continue;
            };
            let probe = ffmpeg.probe(path)?;
            let Some(whole) = probe.seconds else {
                return Err(Error::data(path, "it does not state its length, by which it would be cut into parts"));
            };
            let count = (whole / seconds).floor().clamp(1.0, MOST);
            if count < 2.0 {
                items.push(item);
                continue;
            }
            let at = |part: f64| (1e3 * whole * part / count).round() as u64;
            for part in 0..count as usize {
                let [from, to] = [part, part + 1].map(|part| at(part as f64));
                let name = format!("{} from {:.3} to {:.3} s", item.name, from as f64 / 1e3, to as f64 / 1e3);
                items.push(Item { source: Source::Part(path.clone(), [from, to]), name, label: item.label });
            }
        }
        Ok(Dataset { items, ..self })
    }
}
