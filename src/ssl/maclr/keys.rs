//! The keys of a step.

use crate::error::Result;
use crate::ssl::pathway::ClipCodes;
use std::ops::Range;

/// Keys of one direction.
pub(super) struct Keys {
    /// Of the visual network.
    pub visual: ClipCodes,
    /// Of the motion network, if a term uses it.
    pub motion: Option<ClipCodes>,
}

impl Keys {
    /// Those of some rows.
    pub fn rows(&self, rows: Range<usize>) -> Result<Keys> {
        let motion = self.motion.as_ref().map(|k| k.rows(rows.clone())).transpose()?;
        Ok(Keys { visual: self.visual.rows(rows)?, motion })
    }
}
