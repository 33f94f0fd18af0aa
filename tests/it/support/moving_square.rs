//! A red square with a texture that moves over a blue ground: painted, cached, and found again in what comes out.

use std::path::Path;

use tubelet::augment::AugmentSpec;
use tubelet::error::Result;
use tubelet::flow::motion::MotionInput;
use tubelet::flow::{Flow, Gray};
use tubelet::train::views::{Loader, Part, ViewSpec};
use tubelet::video::Gap;

use crate::support::painted_videos::cached;

/// Rows and columns of the frames: they differ, so that one cannot pass for the other.
pub const SIZE: [usize; 2] = [48, 64];
pub const LENGTH: usize = 22;
/// Rows and columns of the square.
pub const SQUARE: usize = 12;
/// Both videos: where the square begins, and pixels to the right and down that it moves a frame.
pub const VIDEOS: [([i32; 2], [i32; 2]); 2] = [([2, 28], [2, -1]), ([50, 3], [-2, 1])];

/// Left and upper end of the square in frame `t`.
pub fn corner(video: usize, t: usize) -> [i32; 2] {
    let (from, by) = VIDEOS[video];
    std::array::from_fn(|i| from[i] + by[i] * t as i32)
}

/// The square has a texture of its own and the ground another: what moves can be seen to move.
pub fn picture(video: usize, t: usize) -> image::RgbImage {
    let [left, top] = corner(video, t);
    image::RgbImage::from_fn(SIZE[1] as u32, SIZE[0] as u32, |x, y| {
        let (dx, dy) = (x as i32 - left, y as i32 - top);
        let inside = |d: i32| (0..SQUARE as i32).contains(&d);
        match inside(dx) && inside(dy) {
            true => image::Rgb([215 + ((dx * 5 + dy * 3) % 7 * 6) as u8, 120, 10]),
            false => image::Rgb([10, 20 + ((x * 7 + y * 11) % 13) as u8, 160]),
        }
    })
}

/// Whether a grey pixel belongs to the square: it is lighter than the ground, and than half of both.
pub fn bright(grey: &f32) -> bool {
    *grey > 90.0
}

/// Middle `x y` of the pixels that `weigh` says something of, in `h w`.
pub fn middle(weigh: impl Iterator<Item = f32>, w: usize) -> Option<[f32; 2]> {
    let (mut sum, mut at) = (0.0, [0.0; 2]);
    for (i, v) in weigh.enumerate() {
        sum += v;
        at[0] += v * ((i % w) as f32 + 0.5);
        at[1] += v * ((i / w) as f32 + 0.5);
    }
    (sum > 0.0).then(|| at.map(|a| a / sum))
}

/// The flow from `a` to `b`, known exactly: the square moves as its middle does, the ground rests.
pub fn exact(a: &Gray, b: &Gray) -> Result<Flow> {
    let middle = |g: &Gray| middle(g.data().iter().map(|v| f32::from(bright(v) as u8)), g.w());
    let by = middle(a).zip(middle(b)).map_or([0.0; 2], |(a, b)| [b[0] - a[0], b[1] - a[1]]);
    let plane = |by: f32| a.data().iter().map(|v| if bright(v) { by } else { 0.0 }).collect();
    Flow::new(a.h(), a.w(), plane(by[0]), plane(by[1]))
}

/// Crops and flips of every kind, no colours: the square stays red.
pub fn views(motion: MotionInput) -> ViewSpec {
    ViewSpec {
        frames: 4,
        stride: 2,
        side: 40,
        gap: Gap { min: 0.0, max: 10.0 },
        augment: AugmentSpec { jitter: 0.0, grey: 0.0, blur: 0.0, ..AugmentSpec::default() },
        motion,
        motion_clamp: 8.0,
        // As many as frames of RGB: each belongs to one of them.
        motion_frames: 4,
        cache_side: SIZE[0],
        flow_every: 1,
        ..ViewSpec::small()
    }
}

pub fn write_frames(dir: &Path) {
    for video in 0..2 {
        let folder = dir.join(format!("data/{}/{video}", ["a", "b"][video]));
        std::fs::create_dir_all(&folder).unwrap();
        (0..LENGTH).for_each(|t| picture(video, t).save(folder.join(format!("{t}.png"))).unwrap());
    }
}

/// The videos `data/a/0` and `data/b/1` of `dir` with `suffix`, cached.
pub fn loader(dir: &Path, views: &ViewSpec, suffix: &str, flow: fn(&Gray, &Gray) -> Result<Flow>) -> Loader {
    let loader = cached(dir, views, &format!("data/a/0{suffix},0\ndata/b/1{suffix},1\n"), flow, true);
    Loader { seed: 11, ..loader }
}

/// Frame `t` of a clip, channel `c`, `h w`.
pub fn plane(part: &Part, t: usize, c: usize) -> Vec<f32> {
    let [_, h, w, channels] = part.dims;
    part.data[t * h * w * channels..][..h * w * channels].iter().skip(c).step_by(channels).copied().collect()
}

/// Which pixels of frame `t` of an RGB clip are of the square: red above blue.
pub fn mask(rgb: &Part, t: usize) -> Vec<bool> {
    plane(rgb, t, 0).iter().zip(plane(rgb, t, 2)).map(|(r, b)| *r > b).collect()
}

pub fn weights(mask: &[bool]) -> impl Iterator<Item = f32> {
    mask.iter().map(|&m| f32::from(m as u8))
}

/// Whether the square stands wholly within: no pixel of the rim is its.
pub fn whole(mask: &[bool], w: usize) -> bool {
    let rim = |i: usize| i < w || i >= mask.len() - w || i.is_multiple_of(w) || i % w == w - 1;
    mask.contains(&true) && !(0..mask.len()).any(|i| mask[i] && rim(i))
}

/// Pixels that have only pixels of `mask` within `by` of them.
pub fn inner(mask: &[bool], w: usize, by: usize) -> Vec<bool> {
    let h = mask.len() / w;
    let all = |i: usize| {
        let (y, x) = (i / w, i % w);
        let fits = y >= by && x >= by && y + by < h && x + by < w;
        fits && (y - by..=y + by).all(|y| (x - by..=x + by).all(|x| mask[y * w + x]))
    };
    (0..mask.len()).map(all).collect()
}
