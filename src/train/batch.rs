//! Samples side by side.

use super::views::Part;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// The clips of a batch as one tensor `n t h w c`; `None` where a sample lacks its clip, or there is no sample. It is all
/// that the step does of the loader's work, so every thread copies some samples.
pub(super) fn stack<'a>(parts: impl Iterator<Item = Option<&'a Part>>) -> Result<Option<Tensor>> {
    let parts: Option<Vec<&Part>> = parts.collect();
    let Some(parts) = parts.filter(|p| !p.is_empty()) else { return Ok(None) };
    let [t, h, w, c] = parts[0].dims;
    let each = t * h * w * c;
    if let Some(other) = parts.iter().find(|p| p.data.len() != each) {
        return Err(Error::shape("batch", "clip", format!("{t}x{h}x{w}x{c} numbers"), other.data.len()));
    }
    let shape = [parts.len(), t, h, w, c];
    Tensor::build(shape, |out| {
        let clips = out.par_chunks_exact_mut(each.max(1)).zip(&parts);
        clips.for_each(|(clip, part)| clip.copy_from_slice(&part.data));
    })
    .map(Some)
}

/// The one-channel maps of a batch as one tensor `n t h w`; `None` where a sample lacks its map.
pub(super) fn stack_maps<'a>(parts: impl Iterator<Item = Option<&'a Part>>) -> Result<Option<Tensor>> {
    let Some(maps) = stack(parts)? else { return Ok(None) };
    let [n, t, h, w, _] = maps.shape().nthwc("maps", "x")?;
    maps.reshape([n, t, h, w]).map(Some)
}
