//! Contact sheets: clips as strips of frames from left to right, with the inputs computed from them below.

use super::{FONT, painted, save_png};
use anyhow::{Context, Result, ensure};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use tubelet::augment::AugmentSpec;
use tubelet::flow::{Flow, color};
use tubelet::train::views::{Loader, Part};
use tubelet::video::Dataset;

/// Maximum number of frames per strip; longer strips are subsampled.
pub const SHOWN: usize = 8;
/// Height of a frame on the sheet, in pixels.
pub const SIDE: u32 = 96;
const GAP: u32 = 4;
const MARGIN: u32 = 16;
/// Width of the column with the names of the strips.
const NAMES: u32 = 124;
const TITLE: u32 = 26;
/// Height of the text below a frame.
const CAPTION: u32 = 18;
/// Minimum width of a sheet, so that its legend can be read.
const WIDTH: u32 = 640;
/// Maximum number of clips.
pub const ROWS: usize = 8;
/// Height of a line of the legend, and diameter of the colour wheel in it.
const LINE: u32 = 19;
const WHEEL: u32 = 72;
/// Width of a colour in the key, and of a letter beside it (an upper bound).
const SWATCH: u32 = 22;
const LETTER: u32 = 7;
/// The same of the text below a frame.
const SMALL_LETTER: u32 = 6;
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
    /// The text below each frame; empty for none.
    captions: Vec<String>,
}

impl Strip {
    /// Frames of `h w 3` bytes.
    pub fn rgb(label: &str, frames: &[&[u8]], h: usize, w: usize) -> Result<Strip> {
        Strip::build(label, frames.iter().map(|f| f.to_vec()), h, w)
    }

    /// The complete input of the motion network, `t h w c`: for flow both channels in Middlebury's colours, saturated
    /// where they reach 1 and darker beyond; for one channel, or the same one three times, its values in grey.
    pub fn motion(label: &str, clip: &Part) -> Result<Strip> {
        let [_, h, w, c] = clip.dims;
        let frames = clip.data.chunks_exact(h * w * c);
        let plane = |frame: &[f32], at: usize| -> Vec<f32> { frame.iter().skip(at).step_by(c).copied().collect() };
        if c != 2 {
            let maps: Vec<_> = frames.map(|f| plane(f, 0)).collect();
            return Strip::map(label, &maps.iter().map(Vec::as_slice).collect::<Vec<_>>(), h, w);
        }
        let flows = frames.map(|f| Flow::new(h, w, plane(f, 0), plane(f, 1))).collect::<Result<Vec<_>, _>>()?;
        Strip::build(label, flows.iter().map(|f| color::image(f, 1.0)), h, w)
    }

    /// Flow in Middlebury's colours; a displacement of `radius` has full saturation.
    pub fn flow(label: &str, flows: &[Flow], radius: f32) -> Result<Strip> {
        let (h, w) = flows.first().map_or((0, 0), |f| (f.h(), f.w()));
        Strip::build(label, flows.iter().map(|f| color::image(f, radius)), h, w)
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
        Ok(Strip { label: label.to_owned(), frames, captions: Vec::new() })
    }

    /// The same with a text below each frame, cut where it is wider. Frames with texts are at most [`SHOWN`].
    pub fn captioned(self, captions: Vec<String>) -> Result<Strip> {
        let (n, texts) = (self.frames.len(), captions.len());
        ensure!(n <= SHOWN && texts == n, "strip `{}` has {texts} texts for {n} frames", self.label);
        let most = ((self.width() + GAP) / SMALL_LETTER) as usize;
        let cut = |text: String| match text.chars().count() > most {
            true => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
            false => text,
        };
        Ok(Strip { captions: captions.into_iter().map(cut).collect(), ..self })
    }

    /// Height on the sheet with its texts.
    fn height(&self) -> u32 {
        SIDE + GAP + if self.captions.is_empty() { 0 } else { CAPTION }
    }

    fn build(label: &str, frames: impl Iterator<Item = Vec<u8>>, h: usize, w: usize) -> Result<Strip> {
        let picture = |bytes| RgbImage::from_raw(w as u32, h as u32, bytes);
        let frames: Option<Vec<RgbImage>> = frames.map(picture).collect();
        let frames = frames.filter(|f| !f.is_empty() && h > 0 && w > 0);
        let frames = frames.ok_or_else(|| anyhow::anyhow!("strip `{label}` has no frames of {h} x {w} to draw"))?;
        Ok(Strip { label: label.to_owned(), frames, captions: Vec::new() })
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

/// Which of a loader's videos are shown: at most [`ROWS`].
pub fn shown(loader: &Loader, data: &Dataset) -> Vec<usize> {
    let labels: Vec<Option<usize>> = loader.videos.iter().map(|&i| data.items[i].label).collect();
    spread(&labels, ROWS)
}

/// The positions of at most `most` of `labels`, ascending: of as many classes as possible, spread evenly over them.
pub fn spread<L: Ord + Copy>(labels: &[L], most: usize) -> Vec<usize> {
    let mut of_class = BTreeMap::new();
    let round = |(at, label): (usize, &L)| {
        let before = of_class.entry(*label).or_insert(0);
        *before += 1;
        (*before, at)
    };
    let mut order: Vec<(usize, usize)> = labels.iter().enumerate().map(round).collect();
    order.sort_unstable();
    let classes = order.iter().filter(|(round, _)| *round == 1).count();
    let pick = |row: usize| order[if classes > most { row * classes / most } else { row }].1;
    let mut picked: Vec<usize> = (0..labels.len().min(most)).map(pick).collect();
    picked.sort_unstable();
    picked
}

/// The bytes `t h w 3` from which a normalised clip was made.
pub fn bytes(clip: &Part, augment: &AugmentSpec) -> Vec<u8> {
    let byte = |(i, v): (usize, &f32)| {
        ((v * augment.std[i % 3] + augment.mean[i % 3]) * 255.0).round().clamp(0.0, 255.0) as u8
    };
    clip.data.iter().enumerate().map(byte).collect()
}

/// A colour on the sheet and its meaning.
#[derive(Clone)]
pub struct Key {
    /// Red, green, blue.
    pub colour: [u8; 3],
    /// Whether it is the colour of the outline of a box.
    pub outline: bool,
    /// What it means.
    pub meaning: &'static str,
}

/// What stands above the clips.
#[derive(Clone, Default)]
pub struct Legend {
    /// Paragraphs.
    pub text: Vec<String>,
    /// Whether the colour wheel of flow is drawn.
    pub wheel: bool,
    /// Colours and their meanings, below the text.
    pub key: Vec<Key>,
}

impl Legend {
    /// The text in lines that fit into `width` pixels.
    fn lines(&self, width: u32) -> Vec<String> {
        let mut lines = Vec::new();
        for paragraph in &self.text {
            let mut line = String::new();
            for word in paragraph.split(' ') {
                if !line.is_empty() && (line.len() + 1 + word.len()) as u32 * LETTER > width {
                    lines.push(std::mem::take(&mut line));
                }
                line += if line.is_empty() { "" } else { " " };
                line += word;
            }
            lines.push(line);
        }
        lines
    }
}

/// What happens to a clip before a network sees it, for a [`Legend`].
pub fn augmented(spec: &AugmentSpec) -> String {
    let done = [(true, "cropped"), (spec.flip > 0.0, "mirrored"), (spec.jitter > 0.0, "changed in colour")];
    let at_random = [(spec.grey > 0.0, "made grey"), (spec.blur > 0.0, "blurred")];
    let names: Vec<&str> = done.iter().chain(&at_random).filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    format!("augmented as in training (at random {})", names.join(", "))
}

/// Middlebury's colours of all displacements up to that of full saturation.
fn wheel() -> Result<Vec<u8>> {
    let at = |i: u32| 2.0 * (i as f32 + 0.5) / WHEEL as f32 - 1.0;
    let inside = |v: f32, other: f32| if v.hypot(other) <= 1.0 { v } else { 0.0 };
    let places = || (0..WHEEL).flat_map(|y| (0..WHEEL).map(move |x| (at(x), at(y))));
    let (u, v) = (places().map(|(x, y)| inside(x, y)).collect(), places().map(|(x, y)| inside(y, x)).collect());
    Ok(color::image(&Flow::new(WHEEL as usize, WHEEL as usize, u, v)?, 1.0))
}

/// Positions of the entries of a key: line and left edge. Columns are as wide as the longest entry, in `width` pixels
/// in all.
fn arranged(key: &[Key], width: u32) -> Vec<(u32, u32)> {
    let letters = key.iter().map(|entry| entry.meaning.chars().count()).max().unwrap_or(0) as u32;
    let column = SWATCH + GAP + LETTER * letters + MARGIN;
    let columns = (width.saturating_sub(MARGIN) / column).max(1);
    (0..key.len() as u32).map(|i| (i / columns, MARGIN + i % columns * column)).collect()
}

/// Draws the samples one below the other into the PNG `out`, below a legend.
pub fn draw(out: &Path, legend: &Legend, samples: &[Sample]) -> Result<()> {
    let (rgb, size) = drawn(legend, samples).with_context(|| format!("cannot draw {}", out.display()))?;
    save_png(out, &rgb, size)
}

/// The RGB pixels of such a sheet, its width and its height.
pub fn drawn(legend: &Legend, samples: &[Sample]) -> Result<(Vec<u8>, (u32, u32))> {
    ensure!(!samples.is_empty(), "a sheet needs at least one clip");
    let strips = || samples.iter().flat_map(|s| &s.strips);
    let width = (2 * MARGIN + NAMES + strips().map(Strip::total_width).max().unwrap_or(0)).max(WIDTH);
    let beside = if legend.wheel { WHEEL + MARGIN } else { 0 };
    let (lines, wheel) = (legend.lines(width - 2 * MARGIN - beside), wheel()?);
    let written = lines.len() as u32 * LINE;
    let written = if legend.wheel { written.max(WHEEL) } else { written };
    let head = if written > 0 { written + MARGIN } else { 0 };
    let (key, places) = (&legend.key, arranged(&legend.key, width));
    let above = head + places.last().map_or(0, |(line, _)| (line + 1) * TITLE);
    let height = 2 * MARGIN + above + samples.len() as u32 * (TITLE + GAP) + strips().map(Strip::height).sum::<u32>();
    let text = |size: i32| (FONT, size).into_font().color(&INK);
    let rgb = painted((width, height), |picture| {
        picture.fill(&WHITE)?;
        if legend.wheel {
            let element = BitMapElement::with_owned_buffer((MARGIN as i32, MARGIN as i32), (WHEEL, WHEEL), wheel);
            let element: BitMapElement<(i32, i32)> = element.ok_or("the wheel has not the size it says")?;
            picture.draw(&element)?;
        }
        for (line, y) in lines.iter().zip((MARGIN..).step_by(LINE as usize)) {
            picture.draw(&Text::new(line.as_str(), ((MARGIN + beside) as i32, y as i32 + 2), text(13)))?;
        }
        let ground = RGBColor(60, 64, 72);
        for (entry, (line, x)) in key.iter().zip(&places) {
            let (x, y) = (*x as i32, (MARGIN + head + line * TITLE) as i32);
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
                for (i, frame) in strip.shown().enumerate() {
                    let (size, at) = (frame.dimensions(), (x as i32, y as i32));
                    if let Some(caption) = strip.captions.get(i) {
                        let below = (x as i32, (y + SIDE) as i32 + 3);
                        picture.draw(&Text::new(caption.as_str(), below, text(11)))?;
                    }
                    let element: Option<BitMapElement<(i32, i32)>> =
                        BitMapElement::with_owned_buffer(at, size, frame.into_raw());
                    picture.draw(&element.ok_or("a frame has not the size it says")?)?;
                    x += size.0 + GAP;
                }
                y += strip.height();
            }
            y += GAP;
        }
        Ok(())
    })?;
    Ok((rgb, (width, height)))
}
