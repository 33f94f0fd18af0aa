//! Samples side by side.

use super::views::Part;
use crate::error::Result;
use crate::tensor::Tensor;

/// The clips of a batch as one tensor `n t h w c`; `None` where a sample lacks its clip, or there is no sample.
pub(super) fn stack<'a>(parts: impl Iterator<Item = Option<&'a Part>>) -> Result<Option<Tensor>> {
    let parts: Option<Vec<&Part>> = parts.collect();
    let Some(parts) = parts.filter(|p| !p.is_empty()) else { return Ok(None) };
    let [t, h, w, c] = parts[0].dims;
    let data: Vec<f32> = parts.iter().flat_map(|p| p.data.iter().copied()).collect();
    Tensor::from_f32([parts.len(), t, h, w, c], &data).map(Some)
}

/// The one-channel maps of a batch as one tensor `n t h w`; `None` where a sample lacks its map.
pub(super) fn stack_maps<'a>(parts: impl Iterator<Item = Option<&'a Part>>) -> Result<Option<Tensor>> {
    let Some(maps) = stack(parts)? else { return Ok(None) };
    let [n, t, h, w, _] = maps.shape().nthwc("maps", "x")?;
    maps.reshape([n, t, h, w]).map(Some)
}
