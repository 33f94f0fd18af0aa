//! Other pixels over augmented clips on a GPU: another clip behind what a mask keeps, and patches that move. One launch for all
//! clips of a batch that have the one, and one for those that have the other.

use super::cuda::check_addresses;
use super::synthetic::Patch;
use crate::driver::{Declared, Gpu, In, InOut, Kernel, Module, Spread};
use crate::error::{Error, Result};
use crate::tensor::DType;
use std::fmt::Debug;

static MODULE: Module = Module::new("augment_over", include_str!("../../ptx/augment_over.sm_80.ptx"));

/// Indexed by the data type of the clips.
static BACKGROUND: Kernel<(In, In, In, InOut, u32, u32)> =
    Kernel::new(&MODULE, &["augment_background_f32", "augment_background_bf16"]);
/// As [`BACKGROUND`].
static PATCHES: Kernel<(In, In, In, InOut, u32, u32)> =
    Kernel::new(&MODULE, &["augment_patches_f32", "augment_patches_bf16"]);

pub(super) fn kernels() -> [Declared; 2] {
    [BACKGROUND.declared(), PATCHES.declared()]
}

/// Threads per block.
const BLOCK: u32 = 256;
/// Tile of a frame that a block puts patches over, width and height in pixels.
const TILE: [usize; 2] = [32, 8];

/// Extents of a batch of clips of which some are put over others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackgroundLayout {
    /// Number of clips in the batch.
    pub clips: usize,
    /// Number of other clips, each for one of the batch.
    pub others: usize,
    /// Frames per clip.
    pub t: usize,
    /// Side of a frame.
    pub side: usize,
    /// Data type of the batch.
    pub dtype: DType,
}

/// Device addresses of the arguments of [`launch_background`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackgroundPointers {
    /// The other clips `[others t side side 3]` in f32, aligned to 4 bytes.
    pub others: u64,
    /// A byte for each pixel, `[others side side]`: 0 where the clip is replaced, in all of its frames.
    pub kept: u64,
    /// `u32 [others]`: for each other clip the number of its clip in the batch, which no two share.
    pub places: u64,
    /// The batch `[clips t side side 3]`, aligned to its numbers, updated.
    pub out: u64,
}

/// Submits to `gpu` that clips of a batch are put over others: [`super::background::put_over`] of each, whose bits it has where the
/// clips are f32; in bf16 a pixel of another clip is rounded once.
///
/// # Safety
/// The addresses are valid on `gpu`'s device for the layout's extents until the work is done, and every number at `places` is
/// below `clips`.
///
/// # Errors
/// `Param` when there is nothing to do, or too much for one launch, or an address is null or not aligned as
/// [`BackgroundPointers`] says; `Driver`.
pub unsafe fn launch_background(gpu: &Gpu, layout: &BackgroundLayout, at: &BackgroundPointers) -> Result<()> {
    let BackgroundLayout { clips, others, t, side, dtype } = *layout;
    check(layout, [clips, others, t, side])?;
    let of_out = dtype.size() as u64;
    check_addresses(&[
        ("others", at.others, 4),
        ("kept", at.kept, 1),
        ("places", at.places, 4),
        ("out", at.out, of_out),
    ])?;
    let (frames, numbers) = (others * t, side * side * 3);
    let grid = [numbers.div_ceil(BLOCK as usize) as u32, frames as u32, 1];
    let kept = In(at.kept, others * side * side);
    let out = InOut(at.out, clips * t * numbers * dtype.size());
    let args = (In(at.others, frames * numbers * 4), kept, In(at.places, others * 4), out, t as u32, side as u32);
    BACKGROUND.launch(gpu, dtype.index(), Spread { grid, ..Spread::line(1, BLOCK) }, args)
}

/// Extents of a batch of clips of which some have patches over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchLayout {
    /// Number of clips in the batch.
    pub clips: usize,
    /// Number of those with patches.
    pub covered: usize,
    /// Number of patches of all of them.
    pub patches: usize,
    /// Number of images that the patches are cut from.
    pub images: usize,
    /// Frames per clip.
    pub t: usize,
    /// Side of a frame and of an image.
    pub side: usize,
    /// Data type of the batch.
    pub dtype: DType,
}

/// The patches of one clip. Plain data, to be copied to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PatchesOf {
    /// Number of the clip in the batch, which no two share.
    pub clip: u32,
    /// The first of its patches among all.
    pub first: u32,
    /// How many they are; a later one covers those before it.
    pub count: u32,
}

/// Device addresses of the arguments of [`launch_patches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchPointers {
    /// The images `[images side side 3]` in f32, aligned to 4 bytes.
    pub images: u64,
    /// A [`Patch`] for each patch and frame, `[patches t]`, aligned to 8 bytes.
    pub patches: u64,
    /// [`PatchesOf`] for each clip with patches, aligned to 4 bytes.
    pub covered: u64,
    /// The batch `[clips t side side 3]`, aligned to its numbers, updated.
    pub out: u64,
}

/// Submits to `gpu` that patches are put over clips of a batch: [`super::synthetic::Tubelet::put_over`] of each, one after the
/// other, whose bits it has where the clips are f32; in bf16 a covered pixel is rounded once.
///
/// # Safety
/// The addresses are valid on `gpu`'s device for the layout's extents until the work is done, the descriptions at `patches` were
/// made for this side and for images below `images`, and those at `covered` are of clips and patches that there are.
///
/// # Errors
/// `Param` when there is nothing to do, or too much for one launch, or an address is null or not aligned as [`PatchPointers`]
/// says; `Driver`.
pub unsafe fn launch_patches(gpu: &Gpu, layout: &PatchLayout, at: &PatchPointers) -> Result<()> {
    let PatchLayout { clips, covered, patches, images, t, side, dtype } = *layout;
    check(layout, [clips, covered, t, side])?;
    check(layout, [patches, images, t, side])?;
    let of_out = dtype.size() as u64;
    check_addresses(&[
        ("images", at.images, 4),
        ("patches", at.patches, 8),
        ("covered", at.covered, 4),
        ("out", at.out, of_out),
    ])?;
    let [across, down] = TILE.map(|tile| side.div_ceil(tile) as u32);
    let (grid, numbers) = ([across, down, (covered * t) as u32], side * side * 3);
    let described = In(at.patches, patches * t * size_of::<Patch>());
    let each = In(at.covered, covered * size_of::<PatchesOf>());
    let out = InOut(at.out, clips * t * numbers * dtype.size());
    let args = (In(at.images, images * numbers * 4), described, each, out, t as u32, side as u32);
    PATCHES.launch(gpu, dtype.index(), Spread { grid, ..Spread::line(1, BLOCK) }, args)
}

/// Refuses a layout with nothing of something, or with more of `all` than can be counted, `some` than a grid has, or pixels than
/// a frame may have.
fn check(layout: &impl Debug, [all, some, t, side]: [usize; 4]) -> Result<()> {
    let most = |n: usize, most: usize| (1..=most).contains(&n.saturating_mul(t));
    if !most(all, 1 << 24) || !most(some, 65535) || !(1..=1 << 14).contains(&side) {
        let rule = "at least one clip of at least one frame, at most 2^24 frames in the batch and 65535 of them to put something \
                    over, and a side of at most 16384";
        return Err(Error::param("augment", "layout", format!("{layout:?}"), rule));
    }
    Ok(())
}
