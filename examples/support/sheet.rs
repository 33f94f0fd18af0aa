//! Contact sheets: clips as strips of frames from left to right, with the inputs computed from them below.

use super::{FONT, paint};
use anyhow::{Result, ensure};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use plotters::prelude::*;
use std::path::Path;
use tubelet::augment::AugmentSpec;
use tubelet::flow::{Flow, color};
use tubelet::train::views::Part;

/// Maximum number of frames per strip; longer strips are subsampled.
pub const SHOWN: usize = 8;
/// Height of a frame on the sheet, in pixels.
const SIDE: u32 = 96;
const GAP: u32 = 4;
const MARGIN: u32 = 16;
/// Width of the column with the names of the strips.
const NAMES: u32 = 124;
const TITLE: u32 = 26;
/// Width of a colour in the key, and of a letter beside it (an upper bound).
const SWATCH: u32 = 22;
const LETTER: u32 = 7;
const INK: RGBColor = RGBColor(40, 44, 52);

/// One clip and its strips.
pub struct Sample {
    /// Title above the strips, such as the class and the name of the video.
    pub title: String,
    /// From top to bottom.
    pub strips: Vec<Strip>,
}

/// Images of equal size over the time span of the clip.
pub struct Strip {
    label: String,
    frames: Vec<RgbImage>,
}

impl Strip {
    /// Frames of `h w 3` bytes.
    pub fn rgb(label: &str, frames: &[&[u8]], h: usize, w: usize) -> Result<Strip> {
        Strip::build(label, frames.iter().map(|f| f.to_vec()), h, w)
    }

    /// The complete input of the motion network, `t h w c`: for flow both channels in Middlebury's colours, saturated
    /// where they reach 1 and darker beyond; for one channel its values in grey.
    pub fn motion(label: &str, clip: &Part) -> Result<Strip> {
        let [_, h, w, c] = clip.dims;
        let frames = clip.data.chunks_exact(h * w * c);
        if c == 1 {
            return Strip::map(label, &frames.collect::<Vec<_>>(), h, w);
        }
        let plane = |frame: &[f32], c: usize| frame.iter().skip(c).step_by(2).copied().collect();
        let flows = frames.map(|f| Flow::new(h, w, plane(f, 0), plane(f, 1))).collect::<Result<Vec<_>, _>>()?;
        Strip::build(label, flows.iter().map(|f| color::image(f, 1.0)), h, w)
    }

    /// Flow in Middlebury's colours; the largest displacement of the clip has full saturation.
    pub fn flow(label: &str, flows: &[Flow]) -> Result<Strip> {
        let fastest = flows.iter().map(color::radius).fold(0.0, f32::max);
        let (h, w) = flows.first().map_or((0, 0), |f| (f.h(), f.w()));
        Strip::build(label, flows.iter().map(|f| color::image(f, fastest)), h, w)
    }

    /// Maps of `h w` values in 0..1, as grey.
    pub fn map(label: &str, maps: &[&[f32]], h: usize, w: usize) -> Result<Strip> {
        let grey = |map: &&[f32]| map.iter().flat_map(|v| [(v.clamp(0.0, 1.0) * 255.0).round() as u8; 3]).collect();
        Strip::build(label, maps.iter().map(grey), h, w)
    }

    /// Images of equal size.
    pub fn pictures(label: &str, frames: Vec<RgbImage>) -> Result<Strip> {
        let size = frames.first().map(RgbImage::dimensions);
        ensure!(
            size.is_some() && frames.iter().all(|f| Some(f.dimensions()) == size && !f.is_empty()),
            "strip `{label}` has no frames, or of several sizes"
        );
        Ok(Strip { label: label.to_owned(), frames })
    }

    fn build(label: &str, frames: impl Iterator<Item = Vec<u8>>, h: usize, w: usize) -> Result<Strip> {
        let picture = |bytes| RgbImage::from_raw(w as u32, h as u32, bytes);
        let frames: Option<Vec<RgbImage>> = frames.map(picture).collect();
        let frames = frames.filter(|f| !f.is_empty() && h > 0 && w > 0);
        let frames = frames.ok_or_else(|| anyhow::anyhow!("strip `{label}` has no frames of {h} x {w} to draw"))?;
        Ok(Strip { label: label.to_owned(), frames })
    }

    /// The frames on the sheet: at most [`SHOWN`], spread evenly over the strip, [`SIDE`] high.
    fn shown(&self) -> impl Iterator<Item = RgbImage> {
        let (count, width) = (self.frames.len().min(SHOWN), self.width());
        (0..count).map(move |i| {
            let frame = &self.frames[(2 * i + 1) * self.frames.len() / (2 * count)];
            let filter = if frame.height() < SIDE { FilterType::CatmullRom } else { FilterType::Triangle };
            resize(frame, width, SIDE, filter)
        })
    }

    /// Width of a frame on the sheet.
    fn width(&self) -> u32 {
        let frame = &self.frames[0];
        (frame.width() * SIDE).div_ceil(frame.height()).max(1)
    }

    fn total_width(&self) -> u32 {
        self.frames.len().min(SHOWN) as u32 * (self.width() + GAP)
    }
}

/// Which of `videos` are shown: at most six, spread evenly, and of different classes if classes alternate.
pub fn shown(videos: usize) -> impl Iterator<Item = usize> {
    const ROWS: usize = 6;
    let even = (videos / ROWS).max(1);
    let every = if (ROWS - 1) * (even + 1) < videos { even + 1 } else { even };
    (0..videos).step_by(every).take(ROWS)
}

/// The bytes `t h w 3` from which a normalised clip was made.
pub fn bytes(clip: &Part, augment: &AugmentSpec) -> Vec<u8> {
    let byte = |(i, v): (usize, &f32)| {
        ((v * augment.std[i % 3] + augment.mean[i % 3]) * 255.0).round().clamp(0.0, 255.0) as u8
    };
    clip.data.iter().enumerate().map(byte).collect()
}

/// A colour on the sheet and its meaning.
pub struct Key {
    /// Red, green, blue.
    pub colour: [u8; 3],
    /// Whether it is the colour of the outline of a box.
    pub outline: bool,
    /// What it means.
    pub meaning: &'static str,
}

/// Positions of the entries of a key: line and left edge. Columns are as wide as the longest entry, in `width` pixels
/// in all.
fn arranged(key: &[Key], width: u32) -> Vec<(u32, u32)> {
    let letters = key.iter().map(|entry| entry.meaning.chars().count()).max().unwrap_or(0) as u32;
    let column = SWATCH + GAP + LETTER * letters + MARGIN;
    let columns = (width.saturating_sub(MARGIN) / column).max(1);
    (0..key.len() as u32).map(|i| (i / columns, MARGIN + i % columns * column)).collect()
}

/// Draws the samples one below the other into the PNG `out`, below a `key` of colours if there is one.
pub fn draw(out: &Path, key: &[Key], samples: &[Sample]) -> Result<()> {
    ensure!(!samples.is_empty(), "a sheet needs at least one clip");
    let strips = || samples.iter().flat_map(|s| &s.strips);
    let width = 2 * MARGIN + NAMES + strips().map(Strip::total_width).max().unwrap_or(0);
    let places = arranged(key, width);
    let above = places.last().map_or(0, |(line, _)| (line + 1) * TITLE);
    let height = 2 * MARGIN + above + samples.len() as u32 * (TITLE + GAP) + strips().count() as u32 * (SIDE + GAP);
    let text = |size: i32| (FONT, size).into_font().color(&INK);
    paint(out, (width, height), |picture| {
        picture.fill(&WHITE)?;
        let ground = RGBColor(60, 64, 72);
        for (entry, (line, x)) in key.iter().zip(&places) {
            let (x, y) = (*x as i32, (MARGIN + line * TITLE) as i32);
            let [r, g, b] = entry.colour;
            let swatch = [(x, y + 1), (x + SWATCH as i32, y + 17)];
            let inner = [(x + 4, y + 4), (x + SWATCH as i32 - 4, y + 14)];
            if entry.outline {
                picture.draw(&Rectangle::new(swatch, ground.filled()))?;
                picture.draw(&Rectangle::new(inner, RGBColor(r, g, b).stroke_width(2)))?;
            } else {
                picture.draw(&Rectangle::new(swatch, RGBColor(r, g, b).filled()))?;
            }
            picture.draw(&Text::new(entry.meaning, (x + (SWATCH + GAP) as i32, y + 2), text(13)))?;
        }
        let mut y = MARGIN + above;
        for sample in samples {
            picture.draw(&Text::new(sample.title.as_str(), (MARGIN as i32, y as i32 + 4), text(16)))?;
            y += TITLE;
            for strip in &sample.strips {
                let middle = (y + SIDE / 2 - 7) as i32;
                picture.draw(&Text::new(strip.label.as_str(), (MARGIN as i32, middle), text(13)))?;
                let mut x = MARGIN + NAMES;
                for frame in strip.shown() {
                    let (size, at) = (frame.dimensions(), (x as i32, y as i32));
                    let element: Option<BitMapElement<(i32, i32)>> =
                        BitMapElement::with_owned_buffer(at, size, frame.into_raw());
                    picture.draw(&element.ok_or("a frame has not the size it says")?)?;
                    x += size.0 + GAP;
                }
                y += SIDE + GAP;
            }
            y += GAP;
        }
        Ok(())
    })
}
