//! Clips as a network was trained with them, described for other programs and for an evaluation.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Debug, Display, Formatter};
use std::ops::RangeInclusive;

/// The allowed values, those of the options `--frames`, `--stride` and `--side`.
const FRAMES: RangeInclusive<usize> = 1..=1024;
const STRIDES: RangeInclusive<f64> = 1.0..=1000.0;
const SIDES: RangeInclusive<usize> = 8..=2048;

/// Clips as a network was trained with them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputSpec {
    /// What the clips show: `rgb`, or the name of the motion input.
    pub kind: String,
    /// Number of frames.
    pub frames: usize,
    /// Distance between consecutive frames, in frames of a video at `fps`.
    pub stride: f64,
    /// Frame rate in which the stride is counted; `None` for the video's own.
    pub fps: Option<f64>,
    /// Side in pixels.
    pub side: usize,
    /// Short side of the frames from which clips are cropped, if it is known.
    #[serde(default)]
    pub short_side: Option<usize>,
    /// Subtracted from each channel of values in 0..1.
    pub mean: Vec<f32>,
    /// Divisor of each channel after that.
    pub std: Vec<f32>,
    /// Order of the axes in `model.py`.
    pub layout: String,
}

/// RGB clips of a published network.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are those of `InputSpec`")]
pub struct RgbInput {
    pub frames: usize,
    pub stride: usize,
    pub fps: Option<f64>,
    pub side: usize,
    pub short_side: usize,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl From<RgbInput> for InputSpec {
    fn from(rgb: RgbInput) -> InputSpec {
        InputSpec {
            kind: InputSpec::RGB.to_owned(),
            frames: rgb.frames,
            stride: rgb.stride as f64,
            fps: rgb.fps,
            side: rgb.side,
            short_side: Some(rgb.short_side),
            mean: rgb.mean.to_vec(),
            std: rgb.std.to_vec(),
            layout: InputSpec::LAYOUT.to_owned(),
        }
    }
}

impl InputSpec {
    /// The kind of clips of colours.
    pub const RGB: &'static str = "rgb";
    /// The kinds of clips of motion.
    pub const MOTION: [&'static str; 4] = ["frame-diff", "flow", "flow-edges", "flow+edges"];
    /// The order of the axes in PyTorch.
    pub const LAYOUT: &'static str = "n c t h w";

    /// Checks it as the input of a network with these channels; the error names the field, its value and the rule.
    pub(super) fn check(&self, channels: usize) -> Result<(), String> {
        let rule = |fine: bool, field: &str, value: &dyn Debug, rule: &dyn Display| match fine {
            true => Ok(()),
            false => Err(format!("its `input.{field}` is {value:?}, and must be {rule}")),
        };
        let within =
            |range: &RangeInclusive<usize>| format!("a whole number from {} to {}", range.start(), range.end());
        let rgb = self.kind == InputSpec::RGB;
        let known = if rgb { channels == 3 } else { InputSpec::MOTION.contains(&&*self.kind) };
        let kinds = format!("rgb, of 3 channels, or one of {}", InputSpec::MOTION.join(", "));
        rule(known, "kind", &self.kind, &kinds)?;
        rule(FRAMES.contains(&self.frames), "frames", &self.frames, &within(&FRAMES))?;
        match rgb {
            true => {
                let fine = STRIDES.contains(&self.stride) && self.stride.fract() == 0.0;
                rule(fine, "stride", &self.stride, &"a whole number from 1 to 1000")?;
            }
            // A motion clip spans as much time as an RGB clip, with another number of frames.
            false => {
                let most = STRIDES.end() * *FRAMES.end() as f64;
                let fine = self.stride > 0.0 && self.stride <= most;
                rule(fine, "stride", &self.stride, &format!("a number above 0 and at most {most}"))?;
            }
        }
        let fps = self.fps.unwrap_or(1.0);
        rule(fps > 0.0 && fps <= 1000.0, "fps", &fps, &"null, or a number above 0 and at most 1000")?;
        rule(SIDES.contains(&self.side), "side", &self.side, &within(&SIDES))?;
        let short = self.short_side.unwrap_or(self.side);
        let fine = SIDES.contains(&short) && short >= self.side;
        rule(fine, "short_side", &short, &format!("null, or {} and not below `input.side`", within(&SIDES)))?;
        let each = |values: &[f32], fine: fn(f32) -> bool| values.len() == channels && values.iter().all(|v| fine(*v));
        let numbers = |least: &str| format!("{channels} numbers from {least} to 1e6, one for each channel");
        rule(each(&self.mean, |v| v.abs() <= 1e6), "mean", &self.mean, &numbers("-1e6"))?;
        rule(each(&self.std, |v| (1e-6..=1e6).contains(&v)), "std", &self.std, &numbers("1e-6"))
    }
}

impl Display for InputSpec {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let InputSpec { kind, frames, stride, side, mean, std, .. } = self;
        write!(f, "{frames} frames ({kind}) {stride} apart in ")?;
        match self.fps {
            Some(fps) => write!(f, "a video at {fps} frames per second")?,
            None => f.write_str("the video")?,
        }
        write!(f, ", {side} x {side} pixels")?;
        if let Some(short) = self.short_side {
            write!(f, " of a frame whose short side has {short}")?;
        }
        write!(f, ", values in 0..1 minus {mean:?} divided by {std:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_described_in_words_and_checked_for_a_networks_channels() {
        let (mean, std) = ([0.45; 3], [0.225; 3]);
        let rgb = RgbInput { frames: 8, stride: 8, fps: Some(30.0), side: 224, short_side: 256, mean, std };
        let rgb = InputSpec::from(rgb);
        assert_eq!(
            rgb.to_string(),
            "8 frames (rgb) 8 apart in a video at 30 frames per second, 224 x 224 pixels of a frame whose short side \
             has 256, values in 0..1 minus [0.45, 0.45, 0.45] divided by [0.225, 0.225, 0.225]"
        );
        assert_eq!(rgb.check(3), Ok(()));
        assert!(rgb.check(1).unwrap_err().contains("its `input.kind` is \"rgb\""));
        let motion = InputSpec { kind: "flow".into(), stride: 4.5, mean: vec![0.0; 2], std: vec![1.0; 2], ..rgb };
        assert_eq!(motion.check(2), Ok(()));
        assert!(motion.check(3).unwrap_err().starts_with("its `input.mean` is [0.0, 0.0], and must be 3 numbers"));
    }
}
