//! Augmentation of clips: all random parameters are drawn once per clip, as a [`Draw`], and applied to all its frames.
//!
//! The order is that of MaCLR's released code (`docs/papers/maclr.md` section 2.5): crop of random area and aspect
//! ratio, resized to a square, horizontal flip, colour jitter, greyscale, blur, normalisation. A motion clip of the
//! same time span uses the same [`Draw`]: it is cropped and flipped with its RGB clip ([`apply_motion`]), without
//! colour operations.
//!
//! On a GPU ([`apply_rgb_batch`], [`apply_rgb_clips`], [`apply_motion_batch`]) everything from bytes to the normalised result is one pass,
//! except the mean grey needed for contrast: if a clip has jitter, a launch before it samples the frame too and writes
//! sums of tiles, which are added in order. Clips that are blurred by boxes, as in MCL's release ([`BlurForm`]), take a
//! second pass. Another video's background and synthetic tubelets ([`layers`]) are one launch more each, over the clips that have
//! them. Positions are computed in `f64` on both devices, so the same pixels are
//! read; values differ only by rounding (`tests/it/device/augment.rs` derives the bound).
//!
//! Sources of the constants: crop, flip, jitter strengths, blur and normalisation are those of the released MaCLR code.
//! The probabilities of jitter, greyscale and blur are not published for pre-training, so those of MoCo v2 are used.

pub mod background;
mod clips;
mod color;
mod cuda;
mod draw;
pub mod layers;
mod over;
pub mod rand_augment;
mod resize;
pub mod synthetic;
mod tubelet;

pub use clips::{RawClip, apply_rgb_clips};
pub use cuda::{
    Clip, Layout, MotionLayout, MotionPointers, Pointers, apply_motion_batch, apply_rgb_batch, launch_motion,
    launch_rgb,
};
pub use draw::{Adjust, AugmentSpec, BlurForm, Crop, Draw, Jitter};
pub use over::{
    BackgroundLayout, BackgroundPointers, PatchLayout, PatchPointers, PatchesOf, launch_background, launch_patches,
};
pub use tubelet::Region;

use crate::cpu::widest::widest;
use crate::driver::Declared;
use crate::error::{Error, Result};
use resize::{Axis, resize};

/// The kernel declarations of augmentation, which a test compares with the PTX.
#[must_use]
pub fn kernels() -> Vec<Declared> {
    cuda::kernels().into_iter().chain(over::kernels()).collect()
}

/// Content of the planes of a motion clip, which determines the effect of a crop and a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MotionKind {
    /// Unsigned maps without direction (flow edges, frame difference), any number of channels: values are unchanged.
    Map,
    /// Optical flow in pixels per frame: a flip negates channel 0, `u`, and `u` and channel 1, `v`, scale with the resize (`u`
    /// by `out_side / crop width`, `v` by `out_side / crop height`), so that they are in pixels of the result. Further
    /// channels are maps.
    Flow,
}

impl MotionKind {
    /// The factors on channels 0 and 1 of a clip of `h w` that is augmented by `draw`. For flow they bring displacements to
    /// pixels of the result. Those of other channels are 1.
    #[must_use]
    pub fn gains(self, draw: &Draw, h: usize, w: usize, out_side: usize) -> [f32; 2] {
        [0, 1].map(|channel| self.gain(channel, draw.crop_in(h, w), out_side, draw.flip))
    }

    /// The factor on channel `channel` when `crop` is resized to a square of `side`, flipped or not.
    fn gain(self, channel: usize, crop: [f64; 4], side: usize, flip: bool) -> f32 {
        let [_, _, height, width] = crop;
        match (self, channel) {
            (MotionKind::Map, _) => 1.0,
            (MotionKind::Flow, 0) => (side as f64 / width) as f32 * if flip { -1.0 } else { 1.0 },
            (MotionKind::Flow, 1) => (side as f64 / height) as f32,
            (MotionKind::Flow, _) => 1.0,
        }
    }
}

/// Applies `draw` to an RGB clip: `t` frames of `h w 3` bytes become `out`, `t s s 3` with `s = out_side`, normalised.
///
/// Crop and resize are bilinear as in PyTorch with `align_corners = false`, without anti-aliasing (like the released
/// code); nothing outside the crop is read. Values are clamped to 0..1 after each colour operation. Contrast blends
/// with the mean grey of each frame.
///
/// # Errors
/// `Shape` when a frame has not `h·w·3` bytes or `out` not `t·s·s·3` numbers; `Param` when `h`, `w` or `out_side` is 0,
/// the crop leaves the frame, or a blur by boxes is wider than [`BlurForm::MOST`].
pub fn apply_rgb(frames: &[&[u8]], h: usize, w: usize, draw: &Draw, out_side: usize, out: &mut [f32]) -> Result<()> {
    let pixels = out_side.saturating_mul(out_side);
    for frame in frames {
        expect_len("frames", "h·w·3", product(&[h, w, 3]), frame.len())?;
    }
    expect_len("out", "t·s·s·3", product(&[frames.len(), pixels, 3]), out.len())?;
    let (rows, cols) = axes(draw, h, w, out_side)?;

    let mut planes = vec![0.0; 3 * pixels];
    let mut scratch = vec![0.0; pixels];
    widest(
        #[inline(always)]
        || {
            for (frame, out) in frames.iter().zip(out.chunks_exact_mut(3 * pixels)) {
                resize::<u8, 3>(frame, w, &rows, &cols, 1.0 / 255.0, &mut planes, [pixels, 1]);
                if let Some(jitter) = &draw.jitter {
                    for adjust in jitter.order {
                        color::adjust(&mut planes, adjust, jitter);
                    }
                }
                if draw.grey {
                    color::grey(&mut planes);
                }
                if let Some(sigma) = draw.blur {
                    for plane in planes.chunks_exact_mut(pixels) {
                        match draw.blur_form {
                            BlurForm::ThreeByThree => color::blur(plane, out_side, sigma, &mut scratch),
                            BlurForm::Boxes => color::blur_by_boxes(plane, out_side, sigma, &mut scratch),
                        }
                    }
                }
                let (red, rest) = planes.split_at(pixels);
                let (green, blue) = rest.split_at(pixels);
                let inverse = draw.std.map(|s| 1.0 / s);
                for (((y, r), g), b) in out.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
                    y[0] = (r - draw.mean[0]) * inverse[0];
                    y[1] = (g - draw.mean[1]) * inverse[1];
                    y[2] = (b - draw.mean[2]) * inverse[2];
                }
            }
        },
    );
    Ok(())
}

/// Applies crop and flip of `draw` to a motion clip: `planes` are its `t·c` planes of `h w` (frame by frame, channels
/// inside), `out` is `t s s c` with `s = out_side`. For a network with three channels, pass the same plane three times.
///
/// The extents may differ from those of the draw (for example motion stored at half size); the crop is scaled.
///
/// # Errors
/// `Shape` when `planes` are not a multiple of `channels`, a plane has not `h·w` values or `out` not `t·s·s·c`;
/// `Param` when an extent is 0, the crop leaves the frame, or flow comes with a single channel.
pub fn apply_motion<T: Copy + Into<f32>>(
    planes: &[&[T]],
    channels: usize,
    kind: MotionKind,
    [h, w]: [usize; 2],
    draw: &Draw,
    out_side: usize,
    out: &mut [f32],
) -> Result<()> {
    if channels == 0 || (kind == MotionKind::Flow && channels < 2) {
        let rule = "a motion clip has at least one channel, and flow at least two (u, v)";
        return Err(Error::param("augment", "channels", channels, rule));
    }
    if !planes.len().is_multiple_of(channels) {
        let rule = format!("a multiple of {channels} planes");
        return Err(Error::shape("augment", "planes", rule, format!("{} planes", planes.len())));
    }
    for plane in planes {
        expect_len("planes", "h·w", product(&[h, w]), plane.len())?;
    }
    let pixels = out_side.saturating_mul(out_side);
    expect_len("out", "t·s·s·c", product(&[planes.len(), pixels]), out.len())?;
    let (rows, cols) = axes(draw, h, w, out_side)?;
    let crop = draw.crop_in(h, w);
    widest(
        #[inline(always)]
        || {
            for (planes, out) in planes.chunks_exact(channels).zip(out.chunks_exact_mut(channels * pixels)) {
                for (channel, plane) in planes.iter().enumerate() {
                    let gain = kind.gain(channel, crop, out_side, draw.flip);
                    resize::<T, 1>(plane, w, &rows, &cols, gain, &mut out[channel..], [0, channels]);
                }
            }
        },
    );
    Ok(())
}

/// The sampling positions of `draw` in frames of `h w`, with the flip applied to the columns.
fn axes(draw: &Draw, h: usize, w: usize, side: usize) -> Result<(Axis, Axis)> {
    check(draw, h, w, side)?;
    let [top, left, height, width] = draw.crop_in(h, w);
    Ok((Axis::new(top, height, h, side, false), Axis::new(left, width, w, side, draw.flip)))
}

/// Refuses extents of 0 and crops that leave the frame.
fn check(draw: &Draw, h: usize, w: usize, side: usize) -> Result<()> {
    if h == 0 || w == 0 || side == 0 {
        let extents = format!("{h} x {w} to {side} x {side}");
        return Err(Error::param("augment", "extents", extents, "every extent must be at least 1"));
    }
    let Crop { y, x, h: height, w: width } = draw.crop;
    let [frame_h, frame_w] = draw.frame;
    let inside = |from: usize, len: usize, all: usize| len > 0 && from.checked_add(len).is_some_and(|end| end <= all);
    if !inside(y, height, frame_h) || !inside(x, width, frame_w) {
        let rule = format!("it must be a box of at least one pixel inside the frame of {frame_h} x {frame_w}");
        return Err(Error::param("augment", "crop", format!("{:?}", draw.crop), rule));
    }
    if let Some(sigma) = draw.boxes().filter(|sigma| !(*sigma > 0.0 && *sigma <= BlurForm::MOST)) {
        return Err(Error::param("augment", "blur", sigma, BlurForm::RULE));
    }
    Ok(())
}

/// The product, saturating: no slice is that long.
fn product(extents: &[usize]) -> usize {
    extents.iter().fold(1, |n: usize, &d| n.saturating_mul(d))
}

fn expect_len(arg: &'static str, letters: &str, want: usize, got: usize) -> Result<()> {
    if want != got {
        return Err(Error::shape("augment", arg, format!("{letters} = {want} values"), format!("{got} values")));
    }
    Ok(())
}
