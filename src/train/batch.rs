//! Collating samples into batches.

use super::views::Part;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// The clips of a batch as one tensor `n t h w c`; `None` if a sample lacks its clip, or there is no sample. This copy
/// is the only part of loading that runs in the training step, so it is done by all threads.
pub(super) fn stack<'a>(parts: impl Iterator<Item = Option<&'a Part>>) -> Result<Option<Tensor>> {
    let parts: Option<Vec<&Part>> = parts.collect();
    let Some(parts) = parts.filter(|p| !p.is_empty()) else { return Ok(None) };
    let [t, h, w, c] = parts[0].dims;
    let each = t * h * w * c;
    if let Some(other) = parts.iter().find(|p| p.dims != parts[0].dims || p.data.len() != each) {
        let got = format!("{:?} with {} numbers", other.dims, other.data.len());
        return Err(Error::shape("batch", "clip", format!("[{t}, {h}, {w}, {c}], as the first one is"), got));
    }
    let shape = [parts.len(), t, h, w, c];
    Tensor::build(shape, |out| {
        let clips = out.par_chunks_exact_mut(each.max(1)).zip(&parts);
        clips.for_each(|(clip, part)| clip.copy_from_slice(&part.data));
    })
    .map(Some)
}

/// The one-channel maps of a batch as one tensor `n t h w`; `None` if a sample lacks its map.
pub(super) fn stack_maps<'a>(parts: impl Iterator<Item = Option<&'a Part>>) -> Result<Option<Tensor>> {
    let Some(maps) = stack(parts)? else { return Ok(None) };
    match maps.shape().nthwc("maps", "x")? {
        [n, t, h, w, 1] => maps.reshape([n, t, h, w]).map(Some),
        _ => Err(Error::shape("batch", "maps", "n t h w 1", maps.shape())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_one_behind_the_other_with_their_axes() {
        let part = |first: usize| Part { dims: [2, 3, 1, 2], data: (0..12).map(|i| (first + i) as f32).collect() };
        let (a, b) = (part(0), part(100));
        let both = stack([Some(&a), Some(&b)].into_iter()).unwrap().unwrap();
        assert_eq!(both.dims(), [2, 2, 3, 1, 2]);
        assert_eq!(*both.load().unwrap(), [&a.data[..], &b.data].concat());
        assert!(stack([Some(&a), None].into_iter()).unwrap().is_none());
        let other = Part { dims: [2, 3, 1, 1], data: vec![0.0; 6] };
        assert!(stack([Some(&a), Some(&other)].into_iter()).is_err());
        // As many numbers with other extents do not fit this batch.
        let turned = Part { dims: [2, 1, 3, 2], ..part(0) };
        assert!(stack([Some(&a), Some(&turned)].into_iter()).is_err());
        let map = Part { dims: [2, 3, 2, 1], data: vec![0.5; 12] };
        assert_eq!(stack_maps([Some(&map)].into_iter()).unwrap().unwrap().dims(), [1, 2, 3, 2]);
        assert!(stack_maps([Some(&a)].into_iter()).is_err(), "two channels are no map");
    }
}
