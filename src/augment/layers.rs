//! RGB clips that are made of several on a GPU: one over the background of another, or with patches that move over it.

use super::clips::{Batch, RawClip};
use super::cuda::copy;
use super::over::{BackgroundLayout, BackgroundPointers, PatchLayout, PatchPointers, PatchesOf};
use super::over::{launch_background, launch_patches};
use super::synthetic::{Patch, Tubelet};
use crate::driver::Gpu;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// An RGB clip before its augmentation, with what else it shows.
#[derive(Clone, Debug)]
pub struct LayeredClip {
    /// The clip itself.
    pub clip: RawClip,
    /// What is behind it.
    pub background: Option<Background>,
    /// Patches over both; a later one covers those before it.
    pub patches: Vec<MovingPatch>,
}

/// Another clip behind a clip ([`super::background`]).
#[derive(Clone, Debug)]
pub struct Background {
    /// The other clip, of as many frames.
    pub clip: RawClip,
    /// Which pixels of the augmented clip are kept, `s s`, in all of its frames.
    pub kept: Vec<bool>,
}

/// A patch over a clip ([`super::synthetic`]).
#[derive(Clone, Debug)]
pub struct MovingPatch {
    /// What the patch is cut from, once it is augmented: one frame.
    pub image: RawClip,
    /// The patch, with a place for each frame of the clip.
    pub tubelet: Tubelet,
}

impl From<RawClip> for LayeredClip {
    /// A clip alone.
    fn from(clip: RawClip) -> Self {
        LayeredClip { clip, background: None, patches: Vec::new() }
    }
}

/// Makes clips on `gpu`, where all bytes they are made of are copied first: `[n t s s 3]` in `dtype`. Each is augmented as
/// [`super::apply_rgb_clips`] does, then put over its background, then covered by its patches, which are augmented too. On the
/// CPU that is [`super::apply_rgb`], [`super::background::put_over`] and [`Tubelet::put_over`], up to rounding: the same pixels
/// are replaced. A clip has the same bits in any batch. Clips without background and patches take no launch more.
///
/// # Errors
/// As [`super::apply_rgb_clips`], and `Shape` when a background has another number of frames than the clips or a mask of other
/// extents, a patch is cut from more than one frame, or has not a place for each frame; `Param` as [`Tubelet::patches`].
pub fn apply_rgb_layers(gpu: &Gpu, clips: &[&LayeredClip], side: usize, dtype: DType) -> Result<Tensor> {
    let own: Vec<&RawClip> = clips.iter().map(|clip| &clip.clip).collect();
    let own = Batch::new(&own, side, dtype)?;
    // Everything is checked before anything is launched.
    let behind = Behind::new(clips, own.frames(), side)?;
    let over = Over::new(clips, own.frames(), side)?;
    let mut out = own.make(gpu)?;
    if let Some(behind) = behind {
        behind.put(gpu, &mut out)?;
    }
    if let Some(over) = over {
        over.put(gpu, &mut out)?;
    }
    Ok(out)
}

/// The backgrounds of a batch.
struct Behind<'a> {
    others: Batch<'a>,
    kept: Vec<&'a [u8]>,
    places: Vec<u32>,
}

impl<'a> Behind<'a> {
    /// Those of `clips`, each of `t` frames of `side`; `None` if there are none.
    fn new(clips: &[&'a LayeredClip], t: usize, side: usize) -> Result<Option<Behind<'a>>> {
        let with = |(i, clip): (usize, &&'a LayeredClip)| clip.background.as_ref().map(|behind| (i as u32, behind));
        let mut all: Vec<(u32, &Background)> = clips.iter().enumerate().filter_map(with).collect();
        if all.is_empty() {
            return Ok(None);
        }
        if let Some((_, behind)) = all.iter().find(|(_, behind)| behind.kept.len() != side * side) {
            let want = format!("a mask of {side} x {side} pixels");
            return Err(Error::shape("augment", "kept", want, format!("{} pixels", behind.kept.len())));
        }
        // Clips of one size are one launch.
        all.sort_by_key(|(_, behind)| behind.clip.size);
        let others: Vec<&RawClip> = all.iter().map(|(_, behind)| &behind.clip).collect();
        // Rounded once, when they are put behind the clips.
        let others = Batch::new(&others, side, DType::F32)?;
        if others.frames() != t {
            return Err(Error::shape("augment", "background", format!("{t} frames, as the clip has"), others.frames()));
        }
        let kept = all.iter().map(|(_, behind)| bytemuck::cast_slice(&behind.kept)).collect();
        Ok(Some(Behind { others, kept, places: all.iter().map(|(i, _)| *i).collect() }))
    }

    /// Puts the clips of `out` over them.
    fn put(&self, gpu: &Gpu, out: &mut Tensor) -> Result<()> {
        let &[clips, t, side, ..] = out.dims() else { unreachable!("clips have five extents") };
        let others = self.others.make(gpu)?;
        let (kept, places) =
            (gpu.alloc(self.kept.len() * side * side)?, copy(gpu, bytemuck::cast_slice(&self.places))?);
        gpu.driver().upload_all(kept.ptr(), &self.kept)?;
        let layout = BackgroundLayout { clips, others: self.places.len(), t, side, dtype: out.dtype() };
        let (others, out) = (others.input().0, out.in_out()?.0);
        let at = BackgroundPointers { others, kept: kept.ptr(), places: places.ptr(), out };
        // SAFETY: the memory has the layout's extents and is kept until the work has been executed; places are of clips in `out`.
        unsafe { launch_background(gpu, &layout, &at) }
    }
}

/// The patches of a batch.
struct Over<'a> {
    images: Batch<'a>,
    patches: Vec<Patch>,
    covered: Vec<PatchesOf>,
}

impl<'a> Over<'a> {
    /// Those of `clips`, each of `t` frames of `side`; `None` if there are none.
    fn new(clips: &[&'a LayeredClip], t: usize, side: usize) -> Result<Option<Over<'a>>> {
        let all: Vec<&MovingPatch> = clips.iter().flat_map(|clip| &clip.patches).collect();
        if all.is_empty() {
            return Ok(None);
        }
        // Images of one size are one launch, so patches are numbered in another order than these.
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|&i| all[i].image.size);
        let images: Vec<&RawClip> = order.iter().map(|&i| &all[i].image).collect();
        let images = Batch::new(&images, side, DType::F32)?;
        if images.frames() != 1 {
            return Err(Error::shape("augment", "patches", "one frame to be cut from", images.frames()));
        }
        let mut image_of = vec![0; all.len()];
        order.iter().enumerate().for_each(|(image, &i)| image_of[i] = image as u32);
        let mut patches = Vec::with_capacity(all.len() * t);
        for (patch, image) in all.iter().zip(image_of) {
            if patch.tubelet.places.len() != t {
                let (want, got) = (format!("{t} places, one for each frame"), patch.tubelet.places.len());
                return Err(Error::shape("augment", "places", want, got));
            }
            patches.extend(patch.tubelet.patches(side, image)?);
        }
        let (mut covered, mut first) = (Vec::new(), 0);
        for (i, clip) in clips.iter().enumerate().filter(|(_, clip)| !clip.patches.is_empty()) {
            let count = clip.patches.len() as u32;
            covered.push(PatchesOf { clip: i as u32, first, count });
            first += count;
        }
        Ok(Some(Over { images, patches, covered }))
    }

    /// Puts them over the clips of `out`.
    fn put(&self, gpu: &Gpu, out: &mut Tensor) -> Result<()> {
        let &[clips, t, side, ..] = out.dims() else { unreachable!("clips have five extents") };
        let images = self.images.make(gpu)?;
        let (covered, patches) = (bytemuck::cast_slice(&self.covered), bytemuck::cast_slice(&self.patches));
        let (covered, patches) = (copy(gpu, covered)?, copy(gpu, patches)?);
        let all = self.patches.len() / t;
        let covers = self.covered.len();
        let layout = PatchLayout { clips, covered: covers, patches: all, images: all, t, side, dtype: out.dtype() };
        let (images, out) = (images.input().0, out.in_out()?.0);
        let at = PatchPointers { images, patches: patches.ptr(), covered: covered.ptr(), out };
        // SAFETY: the memory has the layout's extents and is kept until the work has been executed; patches are of images that there
        // are, and lie over clips in `out`.
        unsafe { launch_patches(gpu, &layout, &at) }
    }
}

/// The plain definition, for tests.
#[cfg(any(test, feature = "testing"))]
pub mod reference {
    use super::{LayeredClip, RawClip, Result};
    use crate::augment::{apply_rgb, background, product};

    /// [`super::apply_rgb_layers`] of one clip, on the CPU.
    ///
    /// # Errors
    /// As the functions that it is composed of.
    pub fn apply_rgb_layers(clip: &LayeredClip, side: usize) -> Result<Vec<f32>> {
        let made = |raw: &RawClip| {
            let [h, w] = raw.size;
            let frames: Vec<&[u8]> = raw.frames.chunks_exact(product(&[h, w, 3])).collect();
            let mut out = vec![0.0; frames.len() * side * side * 3];
            apply_rgb(&frames, h, w, &raw.draw, side, &mut out).map(|()| out)
        };
        let mut out = made(&clip.clip)?;
        if let Some(behind) = &clip.background {
            background::put_over(&mut out, &made(&behind.clip)?, &behind.kept, 3)?;
        }
        for patch in &clip.patches {
            patch.tubelet.put_over(&mut out, &made(&patch.image)?, side, 3)?;
        }
        Ok(out)
    }
}
