//! A folder of `.jpg` or `.png` frames as a video. EXIF orientation is applied, like the rotation of a video.

use std::cmp::Ordering;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::probe::MAX_SIDE;
use super::{Clip, Decode, jpeg, list, series};
use crate::error::{Error, Result};
use crate::files;

/// Limit on the memory for decoding a frame.
const MAX_FRAME_BYTES: u64 = 1 << 30;

/// The frames of a folder in natural order (`2.jpg` before `10.jpg`).
///
/// A folder may hold other images beside them: flow (`flow_x_…`, or `x_…` and `y_…`), masks, depth, thumbnails. The
/// frames are the images whose names differ only in their numbers. If several such series remain that are not known to
/// be something else, one counts only if it has ten times as many images as the others. Hidden files are ignored.
///
/// # Errors
/// `Io` when the folder cannot be read, `Data` when it contains no frame, or when it is ambiguous which series the
/// frames are.
pub fn frames(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = series::frames(dir, pictures(dir)?)?;
    sort(&mut found);
    Ok(found)
}

/// All pictures of a folder, in natural order.
pub(super) fn pictures(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if list::is_frame(&path) && !is_hidden(&path) && path.is_file() {
            found.push(path);
        }
    }
    sort(&mut found);
    Ok(found)
}

/// Whether a file name starts with a dot, like those macOS creates beside others (`._0001.jpg`).
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Sorts files in natural order.
pub(super) fn sort(files: &mut [PathBuf]) {
    files.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
}

/// Reads a folder of frames that were recorded at [`Decode::folder_fps`].
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
    let (h, w) = how.size(dir, h0, w0)?;
    let frame = h * w * 3;
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

/// Reads one image in full size, as it is shown: a clip of one frame, at one a second.
///
/// # Errors
/// `Io` when it cannot be read, `Data` when it is cut short or cannot be decoded.
pub fn image(file: &Path) -> Result<Clip> {
    let (h, w) = dimensions(file)?;
    Clip::new(1, h, w, decode(file, [h, w], [h, w])?, 1.0)
}

/// An image decoder, with the complete file in memory.
pub(super) fn reader(file: &Path) -> Result<impl ImageDecoder> {
    let bytes = files::read_bounded(file, MAX_FRAME_BYTES, "a frame")?;
    // The JPEG decoder would fill in missing data.
    if image::guess_format(&bytes).is_ok_and(|format| format == ImageFormat::Jpeg) && !jpeg::is_whole(&bytes) {
        return Err(not_a_frame(file, "it is cut short: there is no end of the picture in it"));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(Error::io("read", file))?;
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

/// Height and width of a frame as it is shown, from its header.
pub(super) fn dimensions(file: &Path) -> Result<(usize, usize)> {
    upright(file, &mut reader(file)?).map(|([h, w], _)| (h, w))
}

/// Height and width of an image as displayed, and the orientation from its EXIF data.
fn upright(file: &Path, decoder: &mut impl ImageDecoder) -> Result<([usize; 2], Orientation)> {
    let (w, h) = decoder.dimensions();
    let orientation = decoder.orientation().map_err(|e| not_a_frame(file, e))?;
    let turned = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    let (h, w) = if turned { (w, h) } else { (h, w) };
    Ok(([h as usize, w as usize], orientation))
}

/// One frame of size `from` (checked before its pixels are read), resized `to`.
fn decode(file: &Path, from: [usize; 2], to: [usize; 2]) -> Result<Vec<u8>> {
    let mut decoder = reader(file)?;
    let ([h, w], orientation) = upright(file, &mut decoder)?;
    if [h, w] != from {
        let what = format!("this frame has {w} x {h} pixels, the first one has {} x {}", from[1], from[0]);
        return Err(Error::data(file, what));
    }
    let mut picture = image::DynamicImage::from_decoder(decoder).map_err(|e| not_a_frame(file, e))?;
    picture.apply_orientation(orientation);
    Ok(resized(picture.into_rgb8(), to).into_raw())
}

/// `picture` at `h w`, with area averaging.
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
