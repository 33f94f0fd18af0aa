//! RandAugment of clips: a few operations of one magnitude, drawn once per clip and applied to the bytes of all frames.
//!
//! It belongs to supervised fine-tuning, after the random crop and before flip and normalisation: MCL's release uses 1
//! operation of magnitude 23 for UCF101 and 3 of magnitude 17 for HMDB51.
//!
//! Operations and constants are those of that release (`utils/clip_augmentations.py` of its fine-tuning), which adapts
//! `ildoonet/pytorch-randaugment`. They are written anew; no code is taken. Each value `v` is the share `m / 30` of the
//! largest one. The sign is either one with equal chances, and the same operation may be drawn twice.
//!
//! | operation | largest value | sign | |
//! |---|---|---|---|
//! | `AutoContrast`, `Equalize`, `Invert` | | | the magnitude has no effect |
//! | `Rotate` | 30 degrees | yes | about the centre |
//! | `Posterize` | 4 | | keeps `4 - ⌊v⌋` bits, none at magnitude 30 |
//! | `Solarize` | 256 | | inverts bytes from `256 - v` on |
//! | `SolarizeAdd` | 110 | | added to bytes below 128 |
//! | `Color`, `Contrast`, `Brightness`, `Sharpness` | 0.9 | yes | factor `1 - v` |
//! | `ShearX`, `ShearY` | 0.3 | yes | along the upper or the left edge |
//! | `Cutout` | 0.3571 of the width | | a box of colour 125 123 114 at a random place |
//! | `TranslateX`, `TranslateY` | 0.4464 of the width, of the height | yes | |
//!
//! `pytorch-randaugment` itself differs: there the four factors go from 0.1 at magnitude 0 to 1.9 at 30 without a sign,
//! translations and cutouts are in pixels, `Posterize` and `Solarize` grow weaker with the magnitude, and `SolarizeAdd`
//! solarizes after the sum.
//!
//! Every operation gives the bytes that Pillow gives in the release (`tests/it/kernels/rand_augment.rs`): what has no
//! source is black, positions are the nearest ones in 16.16 fixed point. Where Pillow changed, the version of the
//! release's time is followed: keeping 0 bits gives black, which Pillow 13 refuses.

mod ops;

use super::{expect_len, product};
use crate::error::{Error, Result};
use rand::{Rng, RngExt};

/// Number of operations and their magnitude of at most 30.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RandAugment {
    /// Operations per clip, 1 to 16. MCL: 1 for UCF101, 3 for HMDB51.
    pub count: usize,
    /// Their magnitude, 0 to 30. MCL: 23 for UCF101, 17 for HMDB51.
    pub magnitude: f32,
}

impl RandAugment {
    /// Checks both fields once, before a run.
    ///
    /// # Errors
    /// `Param` naming the field out of its range.
    pub fn check(&self) -> Result<()> {
        if !(1..=Operation::COUNT).contains(&self.count) {
            return Err(Error::param("rand_augment", "count", self.count, "it must be from 1 to 16"));
        }
        if !(0.0..=LARGEST).contains(&self.magnitude) {
            return Err(Error::param("rand_augment", "magnitude", self.magnitude, "it must be from 0 to 30"));
        }
        Ok(())
    }

    /// Draws the operations of a clip of `h w` frames, in the order in which [`apply`] takes them.
    ///
    /// The centre of a cutout is uniform between 1 and the extents, as in the release, not between 0 and the extents.
    pub fn sample(&self, rng: &mut impl Rng, h: usize, w: usize) -> Vec<Operation> {
        // Every number is drawn whether it is used or not.
        let mut one = || {
            let index = rng.random_range(0..Operation::COUNT);
            let negative = rng.random::<bool>();
            let centre = [h, w].map(|extent| extent as f64 + (1.0 - extent as f64) * rng.random::<f64>());
            Operation::all(self.magnitude, negative, centre, h, w)[index].clone()
        };
        (0..self.count).map(|_| one()).collect()
    }
}

/// The magnitude at which every operation has its largest value.
const LARGEST: f32 = 30.0;

/// One drawn operation with its value and sign. Lengths are in pixels of the frames it was drawn for.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation(Kind);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    AutoContrast,
    Equalize,
    Invert,
    /// Degrees, anticlockwise.
    Rotate(f64),
    /// Bits that are kept.
    Posterize(u32),
    /// The first byte that is inverted.
    Solarize(f64),
    /// What is added.
    SolarizeAdd(f64),
    /// A factor, as the three that follow.
    Color(f32),
    Contrast(f32),
    Brightness(f32),
    Sharpness(f32),
    /// Columns per row.
    ShearX(f64),
    /// Rows per column.
    ShearY(f64),
    /// First and last row, first and last column.
    Cutout([[usize; 2]; 2]),
    /// Columns.
    TranslateX(f64),
    /// Rows.
    TranslateY(f64),
}

impl Operation {
    /// How many there are.
    pub const COUNT: usize = 16;

    /// All operations in the order of the module's table, for frames of `h w`: with a magnitude from 0 to 30 (others
    /// count as the nearest), the negative sign or the positive one, and row and column of the cutout's centre.
    #[must_use]
    pub fn all(magnitude: f32, negative: bool, centre: [f64; 2], h: usize, w: usize) -> [Operation; Self::COUNT] {
        let share = f64::from(magnitude.clamp(0.0, LARGEST)) / f64::from(LARGEST);
        let plain = |largest: f64| share * largest;
        let signed = |largest: f64| if negative { -plain(largest) } else { plain(largest) };
        let factor = (1.0 - signed(0.9)) as f32;
        let side = plain(0.3571) * w as f64;
        let span = |centre: f64, extent: usize| {
            let first = (centre - side / 2.0).max(0.0).trunc();
            [first as usize, (first + side).min(extent as f64) as usize]
        };
        [
            Kind::AutoContrast,
            Kind::Equalize,
            Kind::Invert,
            Kind::Rotate(signed(30.0)),
            Kind::Posterize(4 - plain(4.0) as u32),
            Kind::Solarize(256.0 - plain(256.0)),
            Kind::SolarizeAdd(plain(110.0)),
            Kind::Color(factor),
            Kind::Contrast(factor),
            Kind::Brightness(factor),
            Kind::Sharpness(factor),
            Kind::ShearX(signed(0.3)),
            Kind::ShearY(signed(0.3)),
            Kind::Cutout([span(centre[0], h), span(centre[1], w)]),
            Kind::TranslateX(signed(0.4464) * w as f64),
            Kind::TranslateY(signed(0.4464) * h as f64),
        ]
        .map(Operation)
    }

    fn apply(&self, frame: &mut [[u8; 3]], h: usize, w: usize) {
        match self.0 {
            Kind::AutoContrast => ops::auto_contrast(frame),
            Kind::Equalize => ops::equalize(frame),
            Kind::Invert => ops::map(frame, |v| 255 - v),
            Kind::Rotate(degrees) => ops::rotate(frame, h, w, degrees),
            Kind::Posterize(bits) => ops::map(frame, |v| v & !(255 >> bits)),
            Kind::Solarize(first) => ops::map(frame, |v| if f64::from(v) < first { v } else { 255 - v }),
            // The conversion truncates and saturates.
            Kind::SolarizeAdd(add) => ops::map(frame, |v| if v < 128 { (f64::from(v) + add) as u8 } else { v }),
            Kind::Color(factor) => ops::color(frame, factor),
            Kind::Contrast(factor) => ops::contrast(frame, factor),
            Kind::Brightness(factor) => ops::map(frame, |v| ops::blend(0, v, factor)),
            Kind::Sharpness(factor) => ops::sharpness(frame, h, w, factor),
            Kind::ShearX(v) => ops::affine(frame, h, w, [1.0, v, 0.0, 0.0, 1.0, 0.0]),
            Kind::ShearY(v) => ops::affine(frame, h, w, [1.0, 0.0, 0.0, v, 1.0, 0.0]),
            Kind::Cutout([rows, columns]) => ops::fill(frame, w, rows, columns, [125, 123, 114]),
            Kind::TranslateX(v) => ops::translate(frame, h, w, [0.0, v]),
            Kind::TranslateY(v) => ops::translate(frame, h, w, [v, 0.0]),
        }
    }
}

/// Applies `operations` one after another to one frame of `h w 3` bytes in place.
///
/// # Errors
/// `Shape` when the frame has not `h·w·3` bytes; `Param` when `h` or `w` is 0.
pub fn apply(operations: &[Operation], frame: &mut [u8], h: usize, w: usize) -> Result<()> {
    if h == 0 || w == 0 {
        let extents = format!("{h} x {w}");
        return Err(Error::param("rand_augment", "extents", extents, "every extent must be at least 1"));
    }
    expect_len("frame", "h·w·3", product(&[h, w, 3]), frame.len())?;
    let (pixels, _) = frame.as_chunks_mut();
    for operation in operations {
        operation.apply(pixels, h, w);
    }
    Ok(())
}
