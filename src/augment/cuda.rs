//! Augmentation on a GPU: RGB clips from bytes to network input in one pass, preceded by one pass for the mean grey of
//! each frame if a clip's colours are jittered, and followed by one pass if a clip is blurred by boxes; motion clips in
//! one pass.

use super::color::{Boxes, blur_weights};
use super::{Adjust, Draw, MotionKind, check};
use crate::driver::{Declared, Gpu, In, Kernel, Memory, Module, Out, Pod, Scratch, Spread};
use crate::error::{Error, Result};
use crate::tensor::{DType, Frames, Place, Tensor, aligned};

static MODULE: Module = Module::new("augment", include_str!("../../ptx/augment.sm_80.ptx"));

static MODULE_BOXES: Module = Module::new("augment_boxes", include_str!("../../ptx/augment_boxes.sm_80.ptx"));

static MEAN: Kernel<(In, In, Scratch, Pod<Extents>)> = Kernel::new(&MODULE, &["augment_mean_u8"]);
/// Indexed by the data type of the result.
static RGB: Kernel<(In, In, In, Out, Pod<Extents>)> = Kernel::new(&MODULE, &["augment_rgb_f32", "augment_rgb_bf16"]);
/// As [`RGB`].
static BOXES: Kernel<(In, In, Out, Pod<Extents>)> =
    Kernel::new(&MODULE_BOXES, &["augment_boxes_f32", "augment_boxes_bf16"]);
static MOTION: Kernel<(In, In, In, Out, Pod<Extents>, u32)> =
    Kernel::new(&MODULE, &["augment_motion_f32", "augment_motion_bf16"]);

pub(super) fn kernels() -> [Declared; 4] {
    [MEAN.declared(), RGB.declared(), BOXES.declared(), MOTION.declared()]
}

/// Threads per block.
const BLOCK: u32 = 256;
/// Side of a tile in the pass for the mean, in pixels.
const MEAN_TILE: usize = 32;
/// Tile of the result, width and height in pixels.
const TILE: [usize; 2] = [32, 16];

/// A clip's augmentation in the form the kernels take: the values of [`Draw`] for frames of known extents. Plain data,
/// to be copied to a device.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Clip {
    crop: [f64; 4],
    /// Brightness, contrast, saturation, hue.
    factors: [f32; 4],
    blur: [f32; 2],
    mean: [f32; 3],
    inverse_std: [f32; 3],
    order: u32,
    flags: u32,
}

impl Clip {
    /// The description of `draw` for frames of `h w` and a result of `side`.
    ///
    /// # Errors
    /// `Param` when an extent is 0, the crop leaves the frame, the blur is too wide, or the jitter has an operation twice.
    pub fn new(draw: &Draw, h: usize, w: usize, side: usize) -> Result<Clip> {
        check(draw, h, w, side)?;
        let (mut flags, mut order, mut factors) = (u32::from(draw.flip), 0, [1.0, 1.0, 1.0, 0.0]);
        if let Some(j) = &draw.jitter {
            for (i, adjust) in j.order.iter().enumerate() {
                if j.order[..i].contains(adjust) {
                    let rule = "each of the four operations comes once";
                    return Err(Error::param("augment", "order", format!("{:?}", j.order), rule));
                }
                let number = match adjust {
                    Adjust::Brightness => 0,
                    Adjust::Contrast => 1,
                    Adjust::Saturation => 2,
                    Adjust::Hue => 3,
                };
                order |= number << (4 * i);
            }
            factors = [j.brightness, j.contrast, j.saturation, j.hue];
            flags |= 2;
        }
        flags |= 4 * u32::from(draw.grey);
        let blur = match (draw.blur, draw.boxes()) {
            (_, Some(sigma)) => {
                let boxes = Boxes::new(sigma);
                flags |= 16 + 32 * u32::from(boxes.reach == 2);
                boxes.weights
            }
            (Some(sigma), None) => {
                flags |= 8;
                blur_weights(sigma)
            }
            (None, None) => [0.0, 1.0],
        };
        Ok(Clip {
            crop: draw.crop_in(h, w),
            factors,
            blur: [blur[1], blur[0]],
            mean: draw.mean,
            inverse_std: draw.std.map(|s| 1.0 / s),
            order,
            flags,
        })
    }
}

/// The extents in the form the kernels take.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Extents {
    t: u32,
    h: u32,
    w: u32,
    side: u32,
    chunks: u32,
}

/// Extents of a batch of clips and of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of clips.
    pub clips: usize,
    /// Frames per clip.
    pub t: usize,
    /// Rows of a frame.
    pub h: usize,
    /// Columns of a frame.
    pub w: usize,
    /// Side of the result.
    pub side: usize,
    /// Data type of the result.
    pub dtype: DType,
    /// Whether there is a clip whose colours are jittered, which takes a pass for the mean greys.
    pub jitter: bool,
    /// Whether there is a clip that is blurred by boxes ([`super::BlurForm::Boxes`]), which takes a pass more.
    pub boxes: bool,
}

impl Layout {
    fn chunks(&self) -> usize {
        self.side.div_ceil(MEAN_TILE).pow(2)
    }

    /// Bytes of working memory that [`launch_rgb`] needs.
    #[must_use]
    pub fn workspace(&self) -> usize {
        self.sums() + if self.boxes { 4 * self.numbers() } else { 0 }
    }

    /// Bytes of the sums for the mean greys.
    fn sums(&self) -> usize {
        if self.jitter { 4 * self.clips * self.t * self.chunks() } else { 0 }
    }

    /// Numbers in the result.
    fn numbers(&self) -> usize {
        self.clips * self.t * self.side * self.side * 3
    }

    fn extents(&self) -> Pod<Extents> {
        let [t, h, w, side, chunks] = [self.t, self.h, self.w, self.side, self.chunks()].map(|x| x as u32);
        Pod(Extents { t, h, w, side, chunks })
    }

    pub(super) fn check(&self) -> Result<()> {
        let frames = self.clips.saturating_mul(self.t);
        if frames == 0
            || frames > 65535
            || self.h.saturating_mul(self.w) > 1 << 28
            || !(1..=1 << 14).contains(&self.side)
        {
            let rule = "1 to 65535 frames of at most 2^28 pixels, and a side of at most 16384";
            return Err(Error::param("augment", "layout", format!("{self:?}"), rule));
        }
        Ok(())
    }

    /// Grid over the tiles of all frames.
    fn tiles(&self) -> Spread {
        let [across, down] = TILE.map(|tile| self.side.div_ceil(tile) as u32);
        Spread { grid: [across, down, (self.clips * self.t) as u32], ..Spread::line(1, BLOCK) }
    }
}

/// Device addresses of the arguments of [`launch_rgb`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointers {
    /// RGB frames `[clips t h w 3]` of bytes, at any address.
    pub frames: u64,
    /// A [`Clip`] for each clip, aligned to 8 bytes.
    pub clips: u64,
    /// Result `[clips t side side 3]`, aligned to 4 bytes (to 2 in bf16 with an odd side), overwritten.
    pub out: u64,
    /// [`Layout::workspace`] bytes, aligned to 4.
    pub workspace: u64,
}

/// Submits the augmentation of RGB clips to `gpu`: the bits of [`apply_rgb_batch`].
///
/// # Safety
/// The addresses are valid on `gpu`'s device for the layout's extents until the work is done, and the descriptions at `clips`
/// were made for these extents.
///
/// # Errors
/// `Param` when there is nothing to do, or too much for one launch, or an address is null or not aligned as [`Pointers`] says;
/// `Driver`.
pub unsafe fn launch_rgb(gpu: &Gpu, layout: &Layout, at: &Pointers) -> Result<()> {
    layout.check()?;
    // Of even sides the kernel stores two numbers at a time.
    let of_out = if layout.side.is_multiple_of(2) { 4 } else { layout.dtype.size() as u64 };
    check_addresses(&[("frames", at.frames, 1), ("clips", at.clips, 8), ("out", at.out, of_out)])?;
    if layout.workspace() > 0 {
        check_addresses(&[("workspace", at.workspace, 4)])?;
    }
    let frames = layout.clips * layout.t;
    let input = In(at.frames, frames * layout.h * layout.w * 3);
    let clips = In(at.clips, layout.clips * size_of::<Clip>());
    let bytes = layout.sums();
    if layout.jitter {
        let mean = Spread { grid: [layout.chunks() as u32, frames as u32, 1], ..Spread::line(1, BLOCK) };
        MEAN.launch(gpu, 0, mean, (input, clips, Scratch(at.workspace, bytes), layout.extents()))?;
    }
    // Normalisation is the same for all pixels, so that a blur may come after it.
    let dtype = if layout.boxes { DType::F32 } else { layout.dtype };
    let to = if layout.boxes { at.workspace + bytes as u64 } else { at.out };
    let out = Out(to, layout.numbers() * dtype.size());
    RGB.launch(gpu, dtype.index(), layout.tiles(), (input, clips, In(at.workspace, bytes), out, layout.extents()))?;
    if layout.boxes {
        let out = Out(at.out, layout.numbers() * layout.dtype.size());
        let args = (In(to, layout.numbers() * 4), clips, out, layout.extents());
        BOXES.launch(gpu, layout.dtype.index(), layout.tiles(), args)?;
    }
    Ok(())
}

/// Extents of a batch of motion clips and of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MotionLayout {
    /// Number of clips.
    pub clips: usize,
    /// Frames per clip.
    pub t: usize,
    /// Rows of a map.
    pub h: usize,
    /// Columns of a map.
    pub w: usize,
    /// Channels of a map.
    pub channels: usize,
    /// Side of the result.
    pub side: usize,
    /// Data type of the result.
    pub dtype: DType,
}

impl MotionLayout {
    /// That of the frames alone.
    fn frames(&self) -> Layout {
        let MotionLayout { clips, t, h, w, side, dtype, .. } = *self;
        Layout { clips, t, h, w, side, dtype, jitter: false, boxes: false }
    }

    fn check(&self) -> Result<()> {
        self.frames().check()?;
        let [from, to] = [self.h * self.w, self.side * self.side].map(|pixels| pixels.saturating_mul(self.channels));
        // The kernel counts the numbers of a frame in 31 bits.
        if self.channels == 0 || from > 1 << 30 || to > 1 << 30 {
            let rule = "at least one channel, and at most 2^30 numbers in a frame";
            return Err(Error::param("augment", "layout", format!("{self:?}"), rule));
        }
        Ok(())
    }
}

/// Device addresses of the arguments of [`launch_motion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MotionPointers {
    /// Maps `[clips t h w channels]`, f32, aligned to 4 bytes.
    pub maps: u64,
    /// A [`Clip`] for each clip, made for maps of these extents, aligned to 8 bytes.
    pub clips: u64,
    /// Factors on the channels, `[clips 2]`, f32, as [`MotionKind::gains`] returns them, aligned to 8 bytes.
    pub gains: u64,
    /// Result `[clips t side side channels]`, aligned to 4 bytes, overwritten.
    pub out: u64,
}

/// Submits crop, resize and flip of motion clips to `gpu`: the bits of [`apply_motion_batch`]. It needs no working memory.
///
/// # Safety
/// The addresses are valid on `gpu`'s device for the layout's extents until the work is done, and the descriptions at `clips`
/// were made for these extents.
///
/// # Errors
/// `Param` when there is nothing to do, or too much for one launch, or an address is null or not aligned as [`MotionPointers`]
/// says; `Driver`.
pub unsafe fn launch_motion(gpu: &Gpu, layout: &MotionLayout, at: &MotionPointers) -> Result<()> {
    layout.check()?;
    check_addresses(&[("maps", at.maps, 4), ("clips", at.clips, 8), ("gains", at.gains, 8), ("out", at.out, 4)])?;
    let MotionLayout { clips, t, h, w, channels, side, dtype } = *layout;
    let (frames, numbers) = (clips * t, side * side * channels);
    let grid = [numbers.div_ceil(BLOCK as usize) as u32, frames as u32, 1];
    let maps = In(at.maps, frames * h * w * channels * 4);
    let (clips, gains) = (In(at.clips, clips * size_of::<Clip>()), In(at.gains, clips * 8));
    let out = Out(at.out, frames * numbers * dtype.size());
    let args = (maps, clips, gains, out, layout.frames().extents(), channels as u32);
    MOTION.launch(gpu, dtype.index(), Spread { grid, ..Spread::line(1, BLOCK) }, args)
}

/// Refuses addresses that are null or no multiple of the number beside them.
pub(super) fn check_addresses(all: &[(&'static str, u64, u64)]) -> Result<()> {
    all.iter().try_for_each(|(arg, at, multiple)| aligned("augment", arg, *at, *multiple))
}

/// Applies one draw to each of the clips concatenated in `frames`, on their GPU: `[n t s s 3]` in `dtype`, with `n` the
/// number of draws. Like [`super::apply_rgb`] on the CPU, up to rounding.
///
/// # Errors
/// `Shape` when the frames do not divide into so many clips; `Param` as [`super::apply_rgb`], when the jitter of a draw has an
/// operation twice, or there is too much for one launch; `OutOfMemory`; `Driver`.
pub fn apply_rgb_batch(frames: &Frames, draws: &[Draw], side: usize, dtype: DType) -> Result<Tensor> {
    let [count, h, w] = frames.dims();
    if draws.is_empty() || !count.is_multiple_of(draws.len()) {
        let rule = format!("a multiple of {} clips", draws.len());
        return Err(Error::shape("augment", "frames", rule, format!("{count} frames")));
    }
    let boxes = draws.iter().any(|draw| draw.boxes().is_some());
    let jitter = draws.iter().any(|draw| draw.jitter.is_some());
    let layout = Layout { clips: draws.len(), t: count / draws.len(), h, w, side, dtype, jitter, boxes };
    layout.check()?;
    let gpu = frames.gpu();
    let clips = upload(gpu, draws, [h, w], side)?;
    let work = gpu.alloc(layout.workspace())?;
    let mut out = Tensor::on_gpu(gpu, dtype, [draws.len(), layout.t, side, side, 3])?;
    let at = Pointers { frames: frames.address(), clips: clips.ptr(), out: out.output().0, workspace: work.ptr() };
    // SAFETY: the memory has the layout's extents and is kept until the work has been executed.
    unsafe { launch_rgb(gpu, &layout, &at)? };
    Ok(out)
}

/// Crops and flips motion clips `[n t h w c]` (f32, on a GPU) by the draws of their RGB clips: `[n t s s c]` in
/// `dtype`. Like [`super::apply_motion`] on the CPU, up to rounding.
///
/// # Errors
/// `Shape` when `maps` has not five extents, of `n` as many as draws; `DType` when it is not f32; `Device` when it is on no
/// GPU; `Param` as [`super::apply_motion`] or when there is too much for one launch; `OutOfMemory`; `Driver`.
pub fn apply_motion_batch(
    maps: &Tensor,
    kind: MotionKind,
    draws: &[Draw],
    side: usize,
    dtype: DType,
) -> Result<Tensor> {
    let &[n, t, h, w, c] = maps.dims() else {
        return Err(Error::shape("augment", "maps", "[n t h w c]", maps.shape()));
    };
    if n != draws.len() {
        return Err(Error::shape("augment", "maps", format!("{} clips", draws.len()), maps.shape()));
    }
    if c == 0 || (kind == MotionKind::Flow && c < 2) {
        let rule = "a motion clip has at least one channel, and flow at least two (u, v)";
        return Err(Error::param("augment", "channels", c, rule));
    }
    maps.expect("augment", "maps", DType::F32)?;
    let Place::Gpu(gpu) = maps.place("augment", &[])? else {
        return Err(Error::device("augment", "maps", "a GPU", maps.device()));
    };
    let layout = MotionLayout { clips: n, t, h, w, channels: c, side, dtype };
    layout.check()?;
    let clips = upload(gpu, draws, [h, w], side)?;
    let gains: Vec<[f32; 2]> = draws.iter().map(|draw| kind.gains(draw, h, w, side)).collect();
    let gains = copy(gpu, bytemuck::cast_slice(&gains))?;
    let mut out = Tensor::on_gpu(gpu, dtype, [n, t, side, side, c])?;
    let (maps, out_at) = (maps.input().0, out.output().0);
    let at = MotionPointers { maps, clips: clips.ptr(), gains: gains.ptr(), out: out_at };
    // SAFETY: the memory has the layout's extents and is kept until the work has been executed.
    unsafe { launch_motion(gpu, &layout, &at)? };
    Ok(out)
}

fn upload(gpu: &Gpu, draws: &[Draw], [h, w]: [usize; 2], side: usize) -> Result<Memory> {
    let clips = draws.iter().map(|draw| Clip::new(draw, h, w, side)).collect::<Result<Vec<Clip>>>()?;
    copy(gpu, bytemuck::cast_slice(&clips))
}

pub(super) fn copy(gpu: &Gpu, bytes: &[u8]) -> Result<Memory> {
    let memory = gpu.alloc(bytes.len())?;
    gpu.driver().upload(memory.ptr(), bytes)?;
    Ok(memory)
}
