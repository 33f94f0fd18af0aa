//! The random parameters of augmentation: their distributions, and one draw.

use crate::error::{Error, Result};
use rand::{Rng, RngExt};

/// The form of a Gaussian blur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum BlurForm {
    /// A kernel of 3x3, whatever the standard deviation; borders are reflected. MaCLR's release.
    ThreeByThree,
    /// PIL's `GaussianBlur`, whose radius is the standard deviation: three boxes across and three down, which together have
    /// this variance (Gwosdek et al. 2011); each repeats the border. PIL rounds to 8 bits after each box; here nothing is
    /// rounded. MCL's release.
    Boxes,
}

/// Probabilities and ranges of the augmentation. The defaults are those of MaCLR's pre-training.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct AugmentSpec {
    /// Area of a crop as a share of the frame, minimum and maximum. Default 0.3 to 1.
    pub area: [f32; 2],
    /// Aspect ratio of a crop (width over height), minimum and maximum, log-uniform. Default 0.5 to 2.
    pub aspect: [f32; 2],
    /// Probability of a horizontal flip. Default 0.5; use 0 if the direction of motion carries meaning.
    pub flip: f32,
    /// Probability of colour jitter. Default 0.8 (MoCo v2; not published for MaCLR).
    pub jitter: f32,
    /// Strength of brightness: its factor is `1 + U(-s, s)`. Default 0.4.
    pub brightness: f32,
    /// Strength of contrast, as for brightness. Default 0.4.
    pub contrast: f32,
    /// Strength of saturation, as for brightness. Default 0.4.
    pub saturation: f32,
    /// Largest hue rotation, in turns of the colour circle (0 to 0.5). Default 0: MaCLR does not change hue.
    pub hue: f32,
    /// Probability of greyscale. Default 0.2 (MoCo v2; not published for MaCLR).
    pub grey: f32,
    /// Probability of a Gaussian blur. Default 0.5 (MoCo v2; not published for MaCLR).
    pub blur: f32,
    /// Standard deviation of the blur in pixels of the result, minimum and maximum. Default 0.1 to 2.
    pub blur_sigma: [f32; 2],
    /// How it is blurred. Default 3x3.
    pub blur_form: BlurForm,
    /// Mean subtracted from each channel (R G B) of values in 0..1. Default 0.45.
    pub mean: [f32; 3],
    /// Divisor of each channel after that. Default 0.225.
    pub std: [f32; 3],
}

impl BlurForm {
    /// The largest standard deviation of [`BlurForm::Boxes`], whose boxes then reach two pixels to each side.
    pub const MOST: f32 = 2.4;
    pub(super) const RULE: &str = "a blur by boxes has a standard deviation above 0 and at most 2.4";
}

impl Default for AugmentSpec {
    fn default() -> Self {
        AugmentSpec {
            area: [0.3, 1.0],
            aspect: [0.5, 2.0],
            flip: 0.5,
            jitter: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.0,
            grey: 0.2,
            blur: 0.5,
            blur_sigma: [0.1, 2.0],
            blur_form: BlurForm::ThreeByThree,
            mean: [0.45; 3],
            std: [0.225; 3],
        }
    }
}

impl AugmentSpec {
    /// Checks every field once, before a run.
    ///
    /// # Errors
    /// `Param` naming the first field out of its range.
    pub fn check(&self) -> Result<()> {
        let rule = |ok: bool, name: &'static str, value: String, rule: &'static str| {
            if ok { Ok(()) } else { Err(Error::param("augment", name, value, rule)) }
        };
        let show = |range: [f32; 2]| format!("{} to {}", range[0], range[1]);
        let ordered = |[least, most]: [f32; 2]| least > 0.0 && least <= most && most.is_finite();
        rule(
            ordered(self.area) && self.area[1] <= 1.0,
            "area",
            show(self.area),
            "it must be a share above 0 and at most 1",
        )?;
        rule(ordered(self.aspect), "aspect", show(self.aspect), "it must be an ascending range above 0")?;
        rule(ordered(self.blur_sigma), "blur_sigma", show(self.blur_sigma), "it must be an ascending range above 0")?;
        let reaches = self.blur_form == BlurForm::ThreeByThree || self.blur_sigma[1] <= BlurForm::MOST;
        rule(reaches, "blur_sigma", show(self.blur_sigma), BlurForm::RULE)?;
        for (name, p) in [("flip", self.flip), ("jitter", self.jitter), ("grey", self.grey), ("blur", self.blur)] {
            rule((0.0..=1.0).contains(&p), name, p.to_string(), "a probability is from 0 to 1")?;
        }
        let strengths = [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)];
        for (name, s) in strengths {
            rule((0.0..=1.0).contains(&s), name, s.to_string(), "a strength is from 0 to 1")?;
        }
        rule((0.0..=0.5).contains(&self.hue), "hue", self.hue.to_string(), "a shift of hue is from 0 to 0.5")?;
        rule(self.mean.iter().all(|m| m.is_finite()), "mean", format!("{:?}", self.mean), "it must be finite")?;
        // The reciprocal must be finite, otherwise a value equal to the mean would give NaN.
        let divides = |s: &f32| *s >= f32::MIN_POSITIVE && s.is_finite();
        rule(self.std.iter().all(divides), "std", format!("{:?}", self.std), "it must be finite and at least 1.2e-38")
    }
}

/// A box of whole pixels: `h w` from the corner `y x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// First row.
    pub y: usize,
    /// First column.
    pub x: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
}

/// One operation of the colour jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjust {
    /// `factor · x`
    Brightness,
    /// `factor · x + (1 - factor) · mean grey of the frame`
    Contrast,
    /// `factor · x + (1 - factor) · grey of the pixel`
    Saturation,
    /// Hue rotation in the HSV hexagon.
    Hue,
}

/// The colour operations of a clip, their order and factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter {
    /// The order in which they are applied.
    pub order: [Adjust; 4],
    /// Factor of brightness (1 changes nothing).
    pub brightness: f32,
    /// Factor of contrast (1 changes nothing).
    pub contrast: f32,
    /// Factor of saturation (1 changes nothing, 0 is grey).
    pub saturation: f32,
    /// Hue rotation in turns (0 changes nothing).
    pub hue: f32,
}

/// All random parameters of one clip's augmentation.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// Extents `h w` of the frames the draw was made for.
    pub frame: [usize; 2],
    /// The part of the frame that is kept.
    pub crop: Crop,
    /// Whether the clip is flipped horizontally.
    pub flip: bool,
    /// Colour jitter, if the clip has it.
    pub jitter: Option<Jitter>,
    /// Whether the clip is converted to greyscale.
    pub grey: bool,
    /// Standard deviation of the blur, if the clip has it.
    pub blur: Option<f32>,
    /// How it is blurred.
    pub blur_form: BlurForm,
    /// Mean subtracted from each channel.
    pub mean: [f32; 3],
    /// Divisor of each channel.
    pub std: [f32; 3],
}

impl Draw {
    /// Draws parameters for a clip of `h w` frames. Setting a probability to 0 does not change the other draws.
    pub fn sample(rng: &mut impl Rng, spec: &AugmentSpec, h: usize, w: usize) -> Draw {
        // Every number is drawn whether it is used or not; the crop, with a variable number of attempts, comes last.
        let mut uniform = |[least, most]: [f32; 2]| least + (most - least) * rng.random::<f32>();
        let mut chance = |p: f32| uniform([0.0, 1.0]) < p;
        let flip = chance(spec.flip);
        let jittered = chance(spec.jitter);
        let grey = chance(spec.grey);
        let blurred = chance(spec.blur);
        let sigma = uniform(spec.blur_sigma);
        let mut factor = |strength: f32| 1.0 + uniform([-strength, strength]);
        let brightness = factor(spec.brightness);
        let contrast = factor(spec.contrast);
        let saturation = factor(spec.saturation);
        let hue = uniform([-spec.hue, spec.hue]);
        let mut order = [Adjust::Brightness, Adjust::Contrast, Adjust::Saturation, Adjust::Hue];
        for last in (1..order.len()).rev() {
            order.swap(last, rng.random_range(0..=last));
        }
        Draw {
            jitter: jittered.then_some(Jitter { order, brightness, contrast, saturation, hue }),
            blur: blurred.then_some(sigma),
            crop: Crop::sample(rng, spec, h, w),
            flip,
            grey,
            ..Draw::centre(spec, h, w)
        }
    }

    /// Parameters for evaluation: the largest centred square of the frame, nothing else changed.
    #[must_use]
    pub fn centre(spec: &AugmentSpec, h: usize, w: usize) -> Draw {
        Self::along(spec, h, w, [0, 1])
    }

    /// The same with square `i` of `n` along the longer side, for `[i, n]`: of three the left, the middle and the right
    /// one, or the upper, the middle and the lower one. A single one is in the middle.
    #[must_use]
    pub fn along(spec: &AugmentSpec, h: usize, w: usize, [i, n]: [usize; 2]) -> Draw {
        let side = h.min(w);
        let at = |room: usize| if n > 1 { room * i.min(n - 1) / (n - 1) } else { room / 2 };
        let crop = Crop { y: at(h - side), x: at(w - side), h: side, w: side };
        let AugmentSpec { blur_form, mean, std, .. } = *spec;
        Draw { frame: [h, w], crop, flip: false, jitter: None, grey: false, blur: None, blur_form, mean, std }
    }

    /// Whether the clip is blurred by boxes, of which standard deviation.
    pub(super) fn boxes(&self) -> Option<f32> {
        self.blur.filter(|_| self.blur_form == BlurForm::Boxes)
    }

    /// The crop as `y x h w` in frames of other extents, `h w`.
    pub(super) fn crop_in(&self, h: usize, w: usize) -> [f64; 4] {
        let (down, across) = (h as f64 / self.frame[0] as f64, w as f64 / self.frame[1] as f64);
        let Crop { y, x, h, w } = self.crop;
        [y as f64 * down, x as f64 * across, h as f64 * down, w as f64 * across]
    }
}

impl Crop {
    /// Height and width of a box of random area and aspect ratio, if it fits in a frame `h w`.
    pub(super) fn size(rng: &mut impl Rng, spec: &AugmentSpec, h: usize, w: usize) -> Option<[usize; 2]> {
        let [narrow, wide] = spec.aspect;
        let area = (h * w) as f32 * (spec.area[0] + (spec.area[1] - spec.area[0]) * rng.random::<f32>());
        let aspect = (narrow.ln() + (wide.ln() - narrow.ln()) * rng.random::<f32>()).exp();
        let (height, width) = ((area / aspect).sqrt().round() as usize, (area * aspect).sqrt().round() as usize);
        ((1..=h).contains(&height) && (1..=w).contains(&width)).then_some([height, width])
    }

    /// Ten attempts at a box of random area and aspect ratio; if none fits, the largest centred box of an allowed
    /// aspect ratio.
    fn sample(rng: &mut impl Rng, spec: &AugmentSpec, h: usize, w: usize) -> Crop {
        let [narrow, wide] = spec.aspect;
        for _ in 0..10 {
            if let Some([height, width]) = Crop::size(rng, spec, h, w) {
                let (y, x) = (rng.random_range(0..=h - height), rng.random_range(0..=w - width));
                return Crop { y, x, h: height, w: width };
            }
        }
        let aspect = w as f32 / h as f32;
        let height = if aspect < narrow { (w as f32 / narrow).round() as usize } else { h }.clamp(1, h.max(1));
        let width = if aspect > wide { (h as f32 * wide).round() as usize } else { w }.clamp(1, w.max(1));
        Crop { y: h.saturating_sub(height) / 2, x: w.saturating_sub(width) / 2, h: height, w: width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_along_the_longer_side_touch_both_ends_and_the_middle_one_is_the_centre() {
        let spec = AugmentSpec::default();
        let of = |h, w, i, n| {
            let Crop { y, x, h, w } = Draw::along(&spec, h, w, [i, n]).crop;
            [y, x, h, w]
        };
        assert_eq!([0, 1, 2].map(|i| of(80, 107, i, 3)), [[0, 0, 80, 80], [0, 13, 80, 80], [0, 27, 80, 80]]);
        assert_eq!([0, 1, 2].map(|i| of(107, 80, i, 3)), [[0, 0, 80, 80], [13, 0, 80, 80], [27, 0, 80, 80]]);
        assert_eq!([0, 1, 2].map(|i| of(64, 64, i, 3)), [[0, 0, 64, 64]; 3]);
        for (h, w) in [(80, 107), (107, 80), (81, 107)] {
            assert_eq!(Draw::along(&spec, h, w, [1, 3]), Draw::centre(&spec, h, w));
        }
    }
}
