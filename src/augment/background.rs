//! What moves in a clip over the background of another one (Ding et al., *Motion-aware Contrastive Video Representation
//! Learning via Foreground-background Merging*, CVPR 2022). There the pixels that move most are found by differences of frames
//! and colour; here they are given.

use crate::error::{Error, Result};

/// The half of the pixels with the largest values, `n/2` of `n`. Of equal values the earlier ones are taken; NaN is the
/// smallest.
#[must_use]
pub fn larger_half(map: &[f32]) -> Vec<bool> {
    let value = |i: u32| Some(map[i as usize]).filter(|v| !v.is_nan()).unwrap_or(f32::NEG_INFINITY);
    let mut order: Vec<u32> = (0..map.len() as u32).collect();
    let half = map.len() / 2;
    let mut taken = vec![false; map.len()];
    if half > 0 {
        order.select_nth_unstable_by(half - 1, |a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
        order[..half].iter().for_each(|&i| taken[i as usize] = true);
    }
    taken
}

/// Replaces the pixels of `clip`, `t·s·s·c` numbers, that are not among `kept`, `s·s`, by those of `other`, of the same extents.
///
/// # Errors
/// `Shape` when the lengths do not fit.
pub fn put_over(clip: &mut [f32], other: &[f32], kept: &[bool], channels: usize) -> Result<()> {
    let pixels = kept.len().saturating_mul(channels);
    if clip.len() != other.len() || pixels == 0 || !clip.len().is_multiple_of(pixels) {
        let want = format!("two clips of whole frames of {} pixels with {channels} channels", kept.len());
        return Err(Error::shape("background", "clips", want, format!("{} and {} numbers", clip.len(), other.len())));
    }
    for (frame, other) in clip.chunks_exact_mut(pixels).zip(other.chunks_exact(pixels)) {
        let places = frame.chunks_exact_mut(channels).zip(other.chunks_exact(channels)).zip(kept);
        places.filter(|(_, kept)| !**kept).for_each(|((to, from), _)| to.copy_from_slice(from));
    }
    Ok(())
}

/// Plain definitions of these functions, for tests.
#[cfg(any(test, feature = "testing"))]
pub mod reference {
    /// [`super::larger_half`]: a pixel is taken if fewer than half of them come before it.
    #[must_use]
    pub fn larger_half(map: &[f32]) -> Vec<bool> {
        let before = |a: usize, b: usize| match (map[a].is_nan(), map[b].is_nan()) {
            (false, false) if map[a] != map[b] => map[a] > map[b],
            (false, true) if map[a] != f32::NEG_INFINITY => true,
            (true, false) if map[b] != f32::NEG_INFINITY => false,
            _ => a < b,
        };
        (0..map.len()).map(|i| (0..map.len()).filter(|&j| j != i && before(j, i)).count() < map.len() / 2).collect()
    }

    /// [`super::put_over`], number by number.
    #[must_use]
    pub fn put_over(clip: &[f32], other: &[f32], kept: &[bool], channels: usize) -> Vec<f32> {
        (0..clip.len()).map(|i| if kept[i / channels % kept.len()] { clip[i] } else { other[i] }).collect()
    }
}
