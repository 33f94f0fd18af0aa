//! How a video is seen by an evaluation.

use crate::error::{Error, Result};

/// How a video is seen: `clips` evenly spaced clips, each cropped to `crops` squares along the longer side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Views {
    /// Number of clips, the first at the start of the video and the last at its end; a single one is in the middle.
    pub clips: usize,
    /// 1, the square in the middle, or 3, that at either end as well.
    pub crops: usize,
}

impl Views {
    /// Checks both numbers.
    ///
    /// # Errors
    /// `Param` when there is no clip, or another number of crops than 1 or 3.
    pub fn check(&self) -> Result<()> {
        if self.clips == 0 {
            return Err(Error::param("views", "clips", 0, "a video is seen as at least one clip"));
        }
        if ![1, 3].contains(&self.crops) {
            return Err(Error::param("views", "crops", self.crops, "a clip is cropped to 1 or 3 squares"));
        }
        Ok(())
    }

    /// Number of views of a video.
    #[must_use]
    pub fn count(&self) -> usize {
        self.clips * self.crops
    }

    /// Number `view` of them: which clip of how many, and which crop of how many, both from 0. The crops of a clip
    /// follow each other.
    #[must_use]
    pub fn place(&self, view: usize) -> [[usize; 2]; 2] {
        [[view / self.crops, self.clips], [view % self.crops, self.crops]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_clips_with_their_crops() {
        let views = Views { clips: 2, crops: 3 };
        assert_eq!((views.count(), views.place(0), views.place(5)), (6, [[0, 2], [0, 3]], [[1, 2], [2, 3]]));
        assert!(views.check().is_ok() && Views { clips: 0, crops: 1 }.check().is_err());
        assert!(Views { clips: 1, crops: 2 }.check().unwrap_err().to_string().contains("1 or 3"));
    }
}
