//! Flow computed elsewhere: for each video a folder of `.flo` files, or of images of its two components.
//!
//! The folder is found below a root by the video's name, with or without extension, and holds one of these, in natural
//! order:
//!
//! - `.flo` files (Middlebury's); displacements marked as unknown count as 0;
//! - 8-bit images `x_00001.jpg` and `y_00001.jpg`, or `flow_x_…` and `flow_y_…` (also `.png`);
//! - two folders `x` and `y`, `u` and `v`, or `flow_x` and `flow_y` of such images.
//!
//! In an image, 128 is no motion and one pixel is 6.375 levels, so that the range is 20 pixels (`docs/papers/mcl.md`
//! section 1.2; `denseflow -b 20` writes the same).

use std::fs;
use std::path::{Component, Path, PathBuf};

use image::ImageDecoder;

use super::{Source, folder};
use crate::error::{Error, Result};
use crate::flow::{Flow, flo};

/// Image levels per pixel of displacement: 127.5 / 20.
const LEVELS: f32 = 6.375;
/// The level of no motion.
const ZERO: f32 = 128.0;

/// Bytes of a `.flo` file before its pixels, which have eight bytes each.
const FLO_HEADER: u64 = 12;

/// Names of the two components: folder names and, with `_`, prefixes of file names.
const NAMES: [[&str; 2]; 3] = [["x", "y"], ["flow_x", "flow_y"], ["u", "v"]];

/// The files of one video's flow, in order.
pub(super) enum Files {
    Flo(Vec<PathBuf>),
    Pictures([Vec<PathBuf>; 2]),
}

/// The folder below `root` with the flow of the video called `name`.
pub(super) fn find(root: &Path, name: &str) -> Result<PathBuf> {
    let parts: Vec<_> =
        Path::new(name).components().filter(|c| matches!(c, Component::Normal(_))).map(|c| c.as_os_str()).collect();
    let whole: PathBuf = parts.iter().collect();
    let last_two: PathBuf = parts[parts.len().saturating_sub(2)..].iter().collect();
    let candidates = [whole.clone(), whole.with_extension(""), last_two.clone(), last_two.with_extension("")];
    let found = candidates.into_iter().map(|c| root.join(c)).find(|p| p.is_dir() && p != root);
    found.ok_or_else(|| {
        let what = "there is no folder of this name, with or without extension, that holds the video's flow; `extract_flow` names \
                    folders so when it is given the same folder or lists as --data";
        Error::data(root.join(whole), what)
    })
}

impl Files {
    /// Lists the flow in `dir`.
    pub(super) fn list(dir: &Path) -> Result<Files> {
        let mut flo = Vec::new();
        for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
            let path = entry.map_err(Error::io("read", dir))?.path();
            if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("flo")) && !folder::is_hidden(&path) {
                flo.push(path);
            }
        }
        if !flo.is_empty() {
            folder::sort(&mut flo);
            return Ok(Files::Flo(flo));
        }
        for names in NAMES {
            if names.iter().all(|n| dir.join(n).is_dir()) {
                let [x, y] = names.map(|n| folder::pictures(&dir.join(n)));
                return Files::pair(dir, [x?, y?], ["", ""]);
            }
        }
        let pictures = folder::pictures(dir)?;
        for names in NAMES {
            let prefixes = names.map(|n| format!("{n}_"));
            let with = |prefix: &str| -> Vec<PathBuf> {
                pictures.iter().filter(|p| name_of(p).starts_with(prefix)).cloned().collect()
            };
            let [x, y] = [with(&prefixes[0]), with(&prefixes[1])];
            if !(x.is_empty() && y.is_empty()) {
                return Files::pair(dir, [x, y], [&prefixes[0], &prefixes[1]]);
            }
        }
        let what = "there is no flow in this folder: neither .flo files nor pictures x_* and y_* or flow_x_* and flow_y_*, \
                    nor folders x and y of pictures";
        Err(Error::data(dir, what))
    }

    /// Images of both components, whose names must be equal after the prefixes.
    fn pair(dir: &Path, [x, y]: [Vec<PathBuf>; 2], prefixes: [&str; 2]) -> Result<Files> {
        if x.len() != y.len() {
            let what =
                format!("it holds {} pictures of the flow to the right and {} of that downwards", x.len(), y.len());
            return Err(Error::data(dir, what));
        }
        let bare = |p: &Path, prefix: &str| name_of(p)[prefix.len()..].to_owned();
        let odd = x.iter().zip(&y).find(|(a, b)| {
            let [a, b] = [bare(a, prefixes[0]), bare(b, prefixes[1])];
            Path::new(&a).with_extension("") != Path::new(&b).with_extension("")
        });
        match odd {
            Some((a, b)) => Err(Error::data(dir, format!("{} and {} have different numbers", name_of(a), name_of(b)))),
            None => Ok(Files::Pictures([x, y])),
        }
    }

    /// All files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        match self {
            Files::Flo(files) => files.iter().chain(&[]),
            Files::Pictures([x, y]) => x.iter().chain(y),
        }
    }

    /// The files of field `i`; none if there is no such field.
    pub(super) fn field(&self, i: usize) -> impl Iterator<Item = &PathBuf> {
        let parts = match self {
            Files::Flo(files) => [files.get(i), None],
            Files::Pictures(parts) => parts.each_ref().map(|files| files.get(i)),
        };
        parts.into_iter().flatten()
    }

    /// Number of fields.
    pub(super) fn len(&self) -> usize {
        match self {
            Files::Flo(files) => files.len(),
            Files::Pictures([x, _]) => x.len(),
        }
    }

    /// Checks that there is a field for each of `frames` frames except the last; one more repeats the last. `cut` says
    /// that the video continues after them.
    pub(super) fn expect(&self, dir: &Path, frames: usize, cut: bool) -> Result<()> {
        let n = self.len();
        if n + 1 == frames || n == frames || (cut && n > frames) {
            return Ok(());
        }
        let what = format!(
            "it holds {n} flow fields, and the video has {frames} frames: there must be {}, or {frames} with the last one \
             repeated",
            frames.saturating_sub(1)
        );
        Err(Error::data(dir, what))
    }

    /// Field `i`, with the extents `h w` of one of `sizes`, resized to the last of them, displacements included.
    pub(super) fn read(&self, i: usize, sizes: [[usize; 2]; 2]) -> Result<Flow> {
        let flow = match self {
            Files::Flo(files) => {
                expect_length(&files[i], sizes)?;
                let mut flow = flo::read(&files[i])?;
                expect_size(&files[i], [flow.h(), flow.w()], sizes)?;
                for at in 0..flow.u().len() {
                    if !flow.is_known(at) {
                        flow.planes_mut().into_iter().for_each(|plane| plane[at] = 0.0);
                    }
                }
                flow
            }
            Files::Pictures([x, y]) => {
                let ([h, w], u) = picture(&x[i], sizes)?;
                let (other, v) = picture(&y[i], [[h, w]; 2])?;
                debug_assert_eq!(other, [h, w]);
                Flow::new(h, w, u, v)?
            }
        };
        resized(flow, sizes[1])
    }
}

fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// One component as displacements, with its extents `h w`, which are checked before its pixels are read.
fn picture(file: &Path, sizes: [[usize; 2]; 2]) -> Result<([usize; 2], Vec<f32>)> {
    let decoder = folder::reader(file)?;
    let (w, h) = decoder.dimensions();
    let size = [h as usize, w as usize];
    expect_size(file, size, sizes)?;
    let colour = decoder.color_type();
    if colour.bytes_per_pixel() != colour.channel_count() {
        return Err(Error::data(file, format!("a picture of flow has 8 bits a channel, this one is {colour:?}")));
    }
    let picture = image::DynamicImage::from_decoder(decoder).map_err(|e| folder::not_a_frame(file, e))?.into_luma8();
    Ok((size, picture.into_raw().into_iter().map(|v| (f32::from(v) - ZERO) / LEVELS).collect()))
}

/// Refuses a `.flo` file that is longer than a field of any of `sizes`, before its pixels are read.
fn expect_length(file: &Path, sizes: [[usize; 2]; 2]) -> Result<()> {
    let length = fs::metadata(file).map_err(Error::io("read", file))?.len();
    let most = sizes.map(|[h, w]| FLO_HEADER + 8 * (h * w) as u64).into_iter().fold(0, u64::max);
    if length <= most {
        return Ok(());
    }
    let [h, w] = sizes[0];
    let what = format!("this flow file has {length} bytes, and that of a video of {w} x {h} pixels at most {most}");
    Err(Error::data(file, what))
}

fn expect_size(file: &Path, [h, w]: [usize; 2], sizes: [[usize; 2]; 2]) -> Result<()> {
    if sizes.contains(&[h, w]) {
        return Ok(());
    }
    let [native, kept] = sizes.map(|[h, w]| format!("{w} x {h}"));
    let or = if native == kept { String::new() } else { format!(" (or {kept}, as it is kept)") };
    Err(Error::data(file, format!("this flow has {w} x {h} pixels, and its video {native}{or}")))
}

/// `flow` at `h w`, with the triangle filter used for frames, displacements in pixels of the new size.
fn resized(flow: Flow, [h, w]: [usize; 2]) -> Result<Flow> {
    if [flow.h(), flow.w()] == [h, w] {
        return Ok(flow);
    }
    let (down, across) = (weights(flow.h(), h), weights(flow.w(), w));
    let plane = |data: &[f32], scale: f32| -> Vec<f32> {
        let mut out = Vec::with_capacity(h * w);
        for (first, rows) in &down {
            let column = |x: usize| -> f32 {
                rows.iter().enumerate().map(|(i, weight)| weight * data[(first + i) * flow.w() + x]).sum()
            };
            let line: Vec<f32> = (0..flow.w()).map(column).collect();
            let cell = |(first, columns): &(usize, Vec<f32>)| -> f32 {
                columns.iter().zip(&line[*first..]).map(|(weight, v)| weight * v).sum()
            };
            out.extend(across.iter().map(|taps| scale * cell(taps)));
        }
        out
    };
    let (u, v) = (plane(flow.u(), w as f32 / flow.w() as f32), plane(flow.v(), h as f32 / flow.h() as f32));
    Flow::new(h, w, u, v)
}

/// For each of `to` pixels the first contributing pixel of `from`, and the weights, which sum to 1.
fn weights(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let taps = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - reach).floor().max(0.0) as usize;
        let last = ((centre + reach).ceil() as usize).min(from);
        let weight = |j: usize| (1.0 - (j as f64 + 0.5 - centre).abs() / reach).max(0.0);
        let sum: f64 = (first..last).map(weight).sum();
        (first, (first..last).map(|j| (weight(j) / sum) as f32).collect())
    };
    (0..to).map(taps).collect()
}

/// Refuses flow in `dir` that says it is of another video than `source`, or of it before it changed. Flow that does not say
/// it is believed.
pub(super) fn check_source(dir: &Path, source: &Source) -> Result<()> {
    let Ok(of) = fs::read_to_string(dir.join(Source::FINGERPRINT_FILE)) else { return Ok(()) };
    if of.trim() == format!("{:016x}", source.fingerprint()?) {
        return Ok(());
    }
    Err(Error::data(dir, "this is the flow of another video, or of this one before it changed"))
}
