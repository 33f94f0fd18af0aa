//! A folder of frames, `.jpg` or `.png`, as a video.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use image::{ImageDecoder, ImageReader, RgbImage};

use super::ffmpeg::MAX_SIDE;
use super::{Clip, Decode, list};
use crate::error::{Error, Result};

/// A frame may take this much memory while it is decoded.
const MAX_FRAME_BYTES: u64 = 1 << 30;

/// The frames of a folder in natural order (`2.jpg` before `10.jpg`). Other files are left alone.
///
/// # Errors
/// `Io` when the folder cannot be read, `Data` when there is no frame in it.
pub fn frames(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if list::is_frame(&path) && path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(Error::data(dir, "there is no .jpg or .png frame in this folder"));
    }
    sort(&mut found);
    Ok(found)
}

/// Sorts files in natural order.
pub(super) fn sort(files: &mut [PathBuf]) {
    files.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
}

/// Reads a folder of frames that were taken [`Decode::folder_fps`] times a second.
///
/// # Errors
/// Those of [`frames`]; `Data` naming the frame that cannot be decoded, or whose size differs from the first one's, or
/// when the clip would exceed [`Decode::max_bytes`]. Sizes are checked before anything of that size is allocated.
pub fn read(dir: &Path, how: &Decode) -> Result<Clip> {
    how.check()?;
    let files = frames(dir)?;
    let fps = how.fps.unwrap_or(how.folder_fps);
    let picked = how.pick(files.len(), how.folder_fps);
    let (h0, w0) = dimensions(&files[picked[0]])?;
    let (h, w) = how.size(h0, w0);
    let frame = how.frame_bytes(dir, h, w)?;
    if picked.len() > how.max_bytes / frame {
        return Err(how.too_large(dir, h, w));
    }
    let mut rgb: Vec<u8> = Vec::with_capacity(picked.len() * frame);
    let mut last = None;
    for i in picked.iter().copied() {
        if last == Some(i) {
            rgb.extend_from_within(rgb.len() - frame..);
            continue;
        }
        rgb.extend_from_slice(&decode(&files[i], [h0, w0], [h, w])?);
        last = Some(i);
    }
    Clip::new(picked.len(), h, w, rgb, fps)
}

pub(super) fn reader(file: &Path) -> Result<impl ImageDecoder> {
    let mut reader =
        ImageReader::open(file).and_then(ImageReader::with_guessed_format).map_err(Error::io("read", file))?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(MAX_FRAME_BYTES);
    reader.limits(limits);
    reader.into_decoder().map_err(|e| not_a_frame(file, e))
}

pub(super) fn not_a_frame(file: &Path, why: impl std::fmt::Display) -> Error {
    Error::data(file, format!("this frame cannot be decoded: {why}"))
}

/// Height and width of a frame, from its header.
pub(super) fn dimensions(file: &Path) -> Result<(usize, usize)> {
    let (w, h) = reader(file)?.dimensions();
    Ok((h as usize, w as usize))
}

/// One frame of size `from` (checked before its pixels are read), resized `to`.
fn decode(file: &Path, from: [usize; 2], to: [usize; 2]) -> Result<Vec<u8>> {
    let decoder = reader(file)?;
    let (w, h) = decoder.dimensions();
    if [h as usize, w as usize] != from {
        let what = format!("this frame has {w} x {h} pixels, the first one has {} x {}", from[1], from[0]);
        return Err(Error::data(file, what));
    }
    let picture = image::DynamicImage::from_decoder(decoder).map_err(|e| not_a_frame(file, e))?.into_rgb8();
    Ok(resized(picture, to).into_raw())
}

/// `picture` at `h w`, averaging over what a pixel covers.
pub(super) fn resized(picture: RgbImage, [h, w]: [usize; 2]) -> RgbImage {
    if (picture.height() as usize, picture.width() as usize) == (h, w) {
        return picture;
    }
    image::imageops::resize(&picture, w as u32, h as u32, image::imageops::FilterType::Triangle)
}

/// Order of names in which runs of digits compare by value.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let (Some(p), Some(q)) = (x.chars().next(), y.chars().next()) else {
            return x.len().cmp(&y.len()).then_with(|| a.cmp(b));
        };
        if p.is_ascii_digit() && q.is_ascii_digit() {
            let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
            let (m, n) = (digits(x), digits(y));
            let (u, v) = (x[..m].trim_start_matches('0'), y[..n].trim_start_matches('0'));
            match u.len().cmp(&v.len()).then_with(|| u.cmp(v)) {
                Ordering::Equal => (x, y) = (&x[m..], &y[n..]),
                unequal => return unequal,
            }
        } else if p == q {
            (x, y) = (&x[p.len_utf8()..], &y[q.len_utf8()..]);
        } else {
            return p.cmp(&q);
        }
    }
}
