//! Small videos that are painted, and loaders of them.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use tubelet::error::Result;
use tubelet::flow::{Flow, Gray};
use tubelet::train::focus::Focus;
use tubelet::train::views::{Loader, ViewSpec};
use tubelet::video::cache::Builder;
use tubelet::video::{Cache, Dataset, Ffmpeg};

/// A stop flag that is never set.
pub static GO_ON: AtomicBool = AtomicBool::new(false);

/// Not flow, but cheap: nothing where nothing changes, and mirrored where the frames are.
pub fn difference(a: &Gray, b: &Gray) -> Result<Flow> {
    let of = |f: fn(f32, f32) -> f32| a.data().iter().zip(b.data()).map(|(x, y)| f(*x, *y)).collect();
    Flow::new(a.h(), a.w(), of(|x, y| (y - x) / 16.0), of(|x, y| (y - x) * x / 4096.0))
}

/// What computes the flow of a pair, as the cache takes it.
pub fn of_pairs(flow: fn(&Gray, &Gray) -> Result<Flow>) -> impl Fn(&[(&Gray, &Gray)]) -> Result<Vec<Flow>> + Sync {
    move |pairs| pairs.iter().map(|(a, b)| flow(a, b)).collect()
}

/// A loader of videos that are painted: `value(video, frame, row, column)`.
pub fn loader(dir: &Path, views: &ViewSpec, lengths: &[usize], value: impl Fn(usize, usize, u32, u32) -> u8) -> Loader {
    for (video, &length) in lengths.iter().enumerate() {
        let folder = dir.join(format!("data/{}/{video}", ["a", "b"][video % 2]));
        std::fs::create_dir_all(&folder).unwrap();
        for t in 0..length {
            let pixel = |x: u32, y: u32| image::Rgb([value(video, t, y, x), 30, 60]);
            image::RgbImage::from_fn(32, 32, pixel).save(folder.join(format!("{t}.png"))).unwrap();
        }
    }
    let list: String = (0..lengths.len()).map(|v| format!("data/{}/{v},{}\n", ["a", "b"][v % 2], v % 2)).collect();
    cached(dir, views, &list, difference, false)
}

/// The videos of the list `text` in the folder `dir`, cached in it, with the motion network's clips where `motion` says so.
pub fn cached(
    dir: &Path,
    views: &ViewSpec,
    text: &str,
    flow: fn(&Gray, &Gray) -> Result<Flow>,
    motion: bool,
) -> Loader {
    let list = dir.join("list.csv");
    std::fs::write(&list, text).unwrap();
    let data = Dataset::open(&list).unwrap();
    let flow = of_pairs(flow);
    let with = Builder {
        ffmpeg: Ffmpeg::default(),
        flow: Some(&flow),
        pairs: 3,
        threads: 2,
        verify: true,
        stop: &GO_ON,
        progress: &|_| {},
    };
    let (cache, report) = Cache::build(&dir.join("cache"), &data, &views.cache(motion), &with).unwrap();
    assert_eq!(report.failed.len(), 0, "{report:?}");
    Loader { videos: cache.usable(), cache, spec: views.clone(), seed: 7, motion, on_gpu: false }
}

/// Small clips of frames of 32 pixels.
pub fn views(focus: Focus) -> ViewSpec {
    ViewSpec { frames: 4, stride: 2, side: 16, cache_side: 32, flow_every: 1, focus, ..ViewSpec::small() }
}

/// A square that wanders down and to the right over a slope.
pub fn square(_: usize, t: usize, y: u32, x: u32) -> u8 {
    let at = 3 + (t as u32 * 3) / 2 % 20;
    let inside = (at..at + 7).contains(&x) && (4..11).contains(&y);
    if inside { 220 } else { (20 + 3 * x + y) as u8 }
}
