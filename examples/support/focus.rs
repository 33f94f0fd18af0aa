//! Images of what MCL's sampling chose: boxes over frames and motion maps, and the positions of clips in the video.

use super::heat::{HOT, heated};
use super::sheet::{self, Key, Legend, Sample, Strip};
use anyhow::{Context, Result};
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};
use std::path::Path;
use tubelet::augment::Crop;
use tubelet::train::focus::Chosen;
use tubelet::train::views::Loader;
use tubelet::video::{Dataset, View};

/// Height of the images with boxes, in pixels.
const SIDE: u32 = 192;
/// Line width of a box.
const LINE: u32 = 3;
/// Query, its key, the two other keys.
const COLOURS: [[u8; 3]; 4] = [[235, 60, 50], [250, 170, 40], [60, 130, 250], [40, 200, 150]];
const NAMES: [&str; 4] = ["query", "its key", "second key", "third key"];
const REGION: [u8; 3] = [255; 3];
const SCORE: [u8; 3] = [150, 156, 168];
const HALF: [u8; 3] = [225, 228, 234];

/// The meaning of the colours.
fn key() -> Vec<Key> {
    let of = |colour, outline, meaning| Key { colour, outline, meaning };
    let [query, its_key, second, third] = COLOURS;
    vec![
        of(query, true, "crop of the query; its span on the time line"),
        of(its_key, true, "crop of its key, another view of the same clip"),
        of(second, true, "crop of the second key, another clip of the video"),
        of(third, true, "crop of the third key, another clip"),
        of(REGION, true, "most motion: crops must cover it"),
        of(HOT, false, "motion, yellow to red where it is more"),
        of(SCORE, false, "time line: how much a clip moves that begins there"),
        of(HALF, false, "time line: the middle of the video"),
    ]
}

/// Draws the first epoch's samples of some videos into the PNG `out`, from [`Loader::chosen`]: the query's frames and
/// motion maps with the boxes of both of its views (white: the region of most motion, which the crop should cover), the
/// two other keys with theirs, and a time line with the score of each start in grey and the span of each clip as a bar.
pub fn draw_focus(out: &Path, loader: &Loader, data: &Dataset) -> Result<()> {
    let mut samples = Vec::new();
    for video in sheet::shown(loader, data) {
        let (view, chosen) = (loader.cache.get(loader.videos[video])?, loader.chosen(0, video)?);
        let how = if chosen.focused { "starts by motion" } else { "uniform starts" };
        let order = if chosen.order { "query first" } else { "query last" };
        let title = format!("{} ({order}, {how})", data.items[loader.videos[video]].name);
        samples.push(Sample { title, strips: strips(loader, &view, &chosen)? });
    }
    let clips = format!(
        "{} of {} training videos in their first epoch. Frames are shown as they are; the boxes are cropped from them.",
        samples.len(),
        loader.videos.len()
    );
    sheet::draw(out, &Legend { text: vec![clips], key: key(), ..Legend::default() }, &samples)
}

fn strips(loader: &Loader, view: &View, chosen: &Chosen) -> Result<Vec<Strip>> {
    let (h, w) = view.size();
    let frame = |t: usize| -> Result<RgbImage> {
        let picture = RgbImage::from_raw(w as u32, h as u32, view.frame(t).to_vec());
        let picture = picture.context("a frame has not the size it says")?;
        Ok(resize(&picture, (w as u32 * SIDE) / h as u32, SIDE, FilterType::Triangle))
    };
    let boxed = |mut picture: RgbImage, views: &[usize]| {
        for &i in views {
            outline(&mut picture, &chosen.draws[i].crop, [h, w], COLOURS[i]);
        }
        picture
    };
    let clip = |label: &str, of: usize, views: &[usize]| -> Result<Strip> {
        let frames = chosen.frames[of].iter().map(|&t| Ok(boxed(frame(t)?, views))).collect::<Result<_>>()?;
        Strip::pictures(label, frames)
    };
    let mut strips = vec![clip("query, its key", 0, &[0, 1])?];
    if let Some(maps) = &chosen.maps {
        let peak = chosen.frames[0].iter().flat_map(|&t| maps.map(t)).fold(f32::MIN_POSITIVE, |m, &v| m.max(v));
        let heat = |t: usize| -> Result<RgbImage> {
            let (map, [rows, cols]) = (maps.map(t), maps.grid());
            let mut picture =
                heated(frame(t)?, |[y, x]| map[(y * rows as f32) as usize * cols + (x * cols as f32) as usize] / peak);
            if let Some(region) = &chosen.regions[0] {
                outline(&mut picture, &region.cells, region.grid, REGION);
            }
            Ok(boxed(picture, &[0, 1]))
        };
        let frames = chosen.frames[0].iter().map(|&t| heat(t)).collect::<Result<_>>()?;
        strips.push(Strip::pictures("motion map", frames)?);
    }
    for i in [2, 3] {
        strips.push(clip(NAMES[i], i, &[i])?);
    }
    let shown = chosen.frames[0].len().min(sheet::SHOWN) as u32;
    let width = shown * (w as u32 * SIDE / h as u32);
    let span =
        loader.spec.frames as f64 * loader.spec.stride as f64 * view.fps() / loader.spec.fps.unwrap_or(view.fps());
    strips.push(Strip::pictures("time line", vec![time_line(chosen, view.len(), span, width)])?);
    Ok(strips)
}

/// Scores of the starts as grey columns, a lighter line between the halves, and the span of each clip as a bar.
fn time_line(chosen: &Chosen, frames: usize, span: f64, width: u32) -> RgbImage {
    let mut picture = RgbImage::from_pixel(width, SIDE, Rgb([255; 3]));
    let at = |frame: f64| ((frame / frames as f64 * f64::from(width)) as u32).min(width);
    let mut fill = |x: [u32; 2], y: [u32; 2], colour: [u8; 3]| {
        for (y, x) in (y[0]..y[1].min(SIDE)).flat_map(|y| (x[0]..x[1].min(width)).map(move |x| (y, x))) {
            picture.put_pixel(x, y, Rgb(colour));
        }
    };
    // Scores at the top, one row per clip below.
    let (room, row) = (SIDE / 2, SIDE / 8);
    fill([0, width], [room, room + 1], SCORE);
    if let Some(maps) = &chosen.maps {
        let peak = maps.scores().iter().fold(f32::MIN_POSITIVE, |m, &v| m.max(v));
        for (i, score) in maps.scores().iter().enumerate() {
            let x = [i * maps.every(), (i + 1) * maps.every()].map(|t| at(t as f64));
            fill(x, [room - (score / peak * room as f32) as u32, room], SCORE);
        }
    }
    let half = at(frames as f64 / 2.0);
    fill([half, half + 2], [0, SIDE], HALF);
    for (i, &start) in chosen.starts.iter().enumerate() {
        let top = room + i as u32 * row;
        fill([at(start), at(start + span).max(at(start) + 1)], [top + 4, top + row - 2], COLOURS[i]);
        fill([at(start), at(start) + LINE], [0, top + 4], COLOURS[i]);
    }
    picture
}

/// The outline of a box in a frame of `h w`, pixels or cells.
fn outline(picture: &mut RgbImage, crop: &Crop, [h, w]: [usize; 2], colour: [u8; 3]) {
    let (width, height) = picture.dimensions();
    let [top, bottom] = [crop.y, crop.y + crop.h].map(|y| (y as u32 * height / h as u32).min(height));
    let [left, right] = [crop.x, crop.x + crop.w].map(|x| (x as u32 * width / w as u32).min(width));
    for y in top..bottom {
        for x in left..right {
            let inside = |v: u32, from: u32, to: u32| v >= from + LINE && v + LINE < to;
            if !(inside(y, top, bottom) && inside(x, left, right)) {
                picture.put_pixel(x, y, Rgb(colour));
            }
        }
    }
}
