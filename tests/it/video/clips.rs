//! Video in: procedural clips, sampling, files, folders of frames.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::videos::put;
use proptest::prelude::*;
use tubelet::rng::{Purpose, stream};
use tubelet::video::sample::gather;
use tubelet::video::{
    self, Clip, ClipSpec, Decode, Ffmpeg, Gap, Prefetch, ProceduralSpec, Short, Source, Splits, folder,
};

#[test]
fn procedural_clips_depend_on_seed_and_number_alone() {
    let spec = ProceduralSpec { classes: 12, frames: 6, side: 48, ..Default::default() };
    let clip = spec.clip(17).unwrap();
    assert_eq!((clip.t, clip.h, clip.w, clip.rgb.len()), (6, 48, 48, 6 * 48 * 48 * 3));
    assert_eq!(clip, spec.clip(17).unwrap());
    assert_ne!(clip.rgb, spec.clip(29).unwrap().rgb, "another video of the same class");
    assert_ne!(clip.rgb, ProceduralSpec { seed: 1, ..spec.clone() }.clip(17).unwrap().rgb);
    assert_ne!(clip.frame(0), clip.frame(5), "it moves");
    assert!(ProceduralSpec { classes: 13, ..spec.clone() }.clip(0).is_err());
    assert!(ProceduralSpec { side: 0, ..spec.clone() }.clip(0).is_err());
    assert!(ProceduralSpec { fps: f64::NAN, ..spec }.clip(0).is_err());
}

/// The look is drawn without regard to the class: with the motion exchanged, the first frame stays the same for all
/// motions that start at the centre of their path.
#[test]
fn the_class_decides_nothing_about_the_look() {
    let few = ProceduralSpec { classes: 2, frames: 9, side: 32, ..Default::default() };
    let more = ProceduralSpec { classes: 3, ..few.clone() };
    // Number 3 is class 1 (right) of two and class 0 (left) of three.
    let (right, left) = (few.clip(3).unwrap(), more.clip(3).unwrap());
    assert_eq!(right.frame(0), left.frame(0));
    assert_ne!(right.frame(8), left.frame(8));
}

#[test]
fn procedural_splits_share_no_video() {
    let spec = ProceduralSpec { classes: 4, videos_per_class: 3, test_per_class: 2, ..Default::default() };
    let splits = Splits::procedural(&spec).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (12, 8));
    assert_eq!(splits.test.items[0].source, Source::Procedural(12));
    assert!((0..4).all(|c| splits.test.labels().unwrap().iter().filter(|&&l| l == c).count() == 2));
    assert_eq!(splits.train.procedural, Some(spec));
}

/// The motion that a class is named after is the one that a pixel-wise search finds: the picture less the drift of its
/// background has moved to the side it should.
#[test]
fn things_move_the_way_their_class_says() {
    let spec = ProceduralSpec { classes: 12, frames: 3, side: 64, ..Default::default() };
    // (class, sign of the mean displacement in x and y) for the four straight motions.
    for (class, dx, dy) in [(0, -1, 0), (1, 1, 0), (2, 0, -1), (3, 0, 1)] {
        let mut right = 0;
        for video in 0..8 {
            let clip = spec.clip(class + 12 * video).unwrap();
            // Where frames differ most is the thing's rim: its centre moves with it.
            let error = |sx: i64, sy: i64| -> u64 {
                let at = |f: usize, x: i64, y: i64| {
                    let (x, y) = (x.rem_euclid(64) as usize, y.rem_euclid(64) as usize);
                    i64::from(clip.frame(f)[(y * 64 + x) * 3 + 1])
                };
                let moved = |x: i64, y: i64| (at(0, x, y) - at(2, x, y)).abs() > 24;
                let pixels = (0..64).flat_map(|y| (0..64).map(move |x| (x, y)));
                pixels.filter(|&(x, y)| moved(x, y)).map(|(x, y)| at(2, x, y).abs_diff(at(0, x - sx, y - sy))).sum()
            };
            right += usize::from(error(2 * dx, 2 * dy) < error(-2 * dx, -2 * dy));
        }
        assert!(right >= 7, "class {class}: {right} of 8");
    }
}

fn rng(sample: u64) -> impl rand::Rng {
    stream(1, 0, sample, Purpose::Test)
}

#[test]
fn clips_lie_where_they_should() {
    // 8 frames, every 8th of 30 a second, in a video of 25 a second.
    let spec = ClipSpec { frames: 8, stride: 8.0, fps: 30.0 };
    assert_eq!(spec.indices(2.0, 100, 25.0, Short::Refuse).unwrap(), [2, 9, 15, 22, 29, 35, 42, 49]);
    let motion = spec.with_frames(16);
    assert_eq!((motion.stride, motion.seconds()), (4.0, spec.seconds()));
    assert_eq!(motion.indices(0.0, 61, 30.0, Short::Refuse).unwrap(), (0..16).map(|i| 4 * i).collect::<Vec<_>>());
    assert_eq!(spec.uniform(3, 124, 30.0), [0.0, 30.0, 60.0]);
    assert_eq!(spec.uniform(1, 124, 30.0), [30.0]);
    // Shorter than the clip: refused, or begun again.
    let text = spec.indices(0.0, 20, 30.0, Short::Refuse).unwrap_err().to_string();
    assert!(text.contains("2.133") && text.contains("20 frames"), "{text}");
    assert_eq!(spec.indices(0.0, 20, 30.0, Short::Repeat).unwrap(), [0, 8, 16, 4, 12, 0, 8, 16]);
    assert!(spec.exceeds(56, 30.0) && !spec.exceeds(57, 30.0));
    assert!(spec.indices(0.0, 0, 30.0, Short::Repeat).is_err());
    assert!(ClipSpec { stride: f64::NAN, ..spec }.check().is_err());
    assert!(ClipSpec { frames: 0, ..spec }.check().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn pairs_keep_their_distance(len in 1usize..400, fps in 5.0f64..60.0, frames in 1usize..20, stride in 0.5f64..9.0, at in 0u64..1000) {
        let spec = ClipSpec { frames, stride, fps: 30.0 };
        let gap = Gap { min: 0.5, max: 2.0 };
        let [a, b] = spec.pair(len, fps, gap, &mut rng(at));
        prop_assert_eq!([a, b], spec.pair(len, fps, gap, &mut rng(at)));
        let room = spec.last_start(len, fps);
        prop_assert!(a >= 0.0 && b >= 0.0 && a <= room + 1e-9 && b <= room + 1e-9);
        let distance = (a - b).abs();
        prop_assert!(distance <= 2.0 * fps + 1e-6);
        prop_assert!(distance >= (0.5 * fps).min(room) - 1e-6, "distance {} room {}", distance, room);
        for start in [a, b, spec.start(len, fps, &mut rng(at))] {
            let indices = spec.indices(start, len, fps, Short::Repeat).unwrap();
            prop_assert!(indices.len() == frames && indices.iter().all(|&i| i < len));
        }
    }
}

/// Distances of pairs are spread as pairs drawn and rejected would be.
#[test]
fn pairs_are_uniform() {
    let spec = ClipSpec { frames: 1, stride: 1.0, fps: 10.0 };
    let (n, mut distances, mut first_earlier) = (4000, 0.0, 0);
    let gap = Gap { min: 0.5, max: 10.0 };
    for i in 0..n {
        let [a, b] = spec.pair(101, 10.0, gap, &mut rng(i));
        distances += (a - b).abs();
        first_earlier += usize::from(a < b);
    }
    // Density (100 - d) on [5, 100]: the mean is 5 + 95/3.
    let mean = distances / n as f64;
    assert!((mean - 36.67).abs() < 1.5, "mean distance {mean}");
    assert!((1800..2200).contains(&first_earlier), "{first_earlier}");
}

fn picture(w: u32, h: u32, shade: u8) -> image::RgbImage {
    image::RgbImage::from_fn(w, h, |x, y| image::Rgb([shade, (x * 7) as u8, (y * 5) as u8]))
}

#[test]
fn folders_of_frames_are_videos() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for i in [0u8, 1, 2, 9, 10, 11] {
        picture(40, 20, 10 * i).save(dir.join(format!("frame{i}.png"))).unwrap();
    }
    put(dir, "notes.txt", "no frame");
    let clip = folder::read(dir, &Decode::default()).unwrap();
    assert_eq!((clip.t, clip.h, clip.w, clip.fps), (6, 20, 40, 25.0));
    let shades: Vec<u8> = (0..6).map(|i| clip.frame(i)[0]).collect();
    assert_eq!(shades, [0, 10, 20, 90, 100, 110], "natural order");
    let how = Decode { short_side: Some(10), fps: Some(50.0), max_frames: Some(5), ..Default::default() };
    let clip = folder::read(dir, &how).unwrap();
    assert_eq!((clip.t, clip.h, clip.w, clip.fps), (5, 10, 20, 50.0));
    assert_eq!((0..5).map(|i| clip.frame(i)[0]).collect::<Vec<_>>(), [0, 0, 10, 10, 20]);

    let how = Decode { max_bytes: 40 * 20 * 3 * 5, ..Default::default() };
    assert!(folder::read(dir, &how).unwrap_err().to_string().contains("exceed 12000 bytes"));
    picture(41, 20, 0).save(dir.join("frame3.png")).unwrap();
    let text = folder::read(dir, &Decode::default()).unwrap_err().to_string();
    assert!(text.contains("frame3.png") && text.contains("41 x 20") && text.contains("40 x 20"), "{text}");
    // A header that promises 60000 x 60000 pixels, and one that ends early.
    let mut png = fs::read(dir.join("frame0.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    for bytes in [png.clone(), png[..20].to_vec(), b"\x89PNG\r\n\x1a\n".to_vec(), Vec::new()] {
        fs::write(dir.join("frame0.png"), &bytes).unwrap();
        let text = folder::read(dir, &Decode::default()).unwrap_err().to_string();
        assert!(text.contains("frame0.png") && text.contains("cannot be decoded"), "{text}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(folder::read(empty.path(), &Decode::default()).unwrap_err().to_string().contains("no .jpg or .png"));
    assert!(folder::read(Path::new("/nowhere/at/all"), &Decode::default()).is_err());
    for bad in [
        Decode { short_side: Some(0), ..Default::default() },
        Decode { fps: Some(-1.0), ..Default::default() },
        Decode { max_frames: Some(0), ..Default::default() },
        Decode { folder_fps: f64::INFINITY, ..Default::default() },
    ] {
        assert!(folder::read(dir, &bad).is_err(), "{bad:?}");
    }
}

#[test]
fn procedural_videos_are_resized_and_resampled() {
    let spec = ProceduralSpec { frames: 10, side: 32, fps: 10.0, ..Default::default() };
    let how = Decode { short_side: Some(16), fps: Some(5.0), ..Default::default() };
    let clip = video::read(&Source::Procedural(0), Some(&spec), &how, &Ffmpeg::default()).unwrap();
    assert_eq!((clip.t, clip.h, clip.w, clip.fps), (5, 16, 16, 5.0));
    assert!(video::read(&Source::Procedural(0), None, &how, &Ffmpeg::default()).is_err());
    let part = gather(&clip, &[4, 0, 0], 2.0).unwrap();
    assert_eq!((part.t, part.frame(0), part.frame(2)), (3, clip.frame(4), clip.frame(0)));
    assert!(gather(&clip, &[5], 2.0).is_err());
}

#[test]
fn prefetch_keeps_order_whatever_the_threads() {
    for threads in [1, 2, 3, 8] {
        let items = Prefetch::new(threads, 4, 50, |i| {
            std::thread::sleep(std::time::Duration::from_micros(((i * 37) % 11) as u64 * 50));
            if i % 10 == 3 { Err(Clip::new(0, 1, 1, Vec::new(), 25.0).unwrap_err()) } else { Ok(i * i) }
        });
        let got: Vec<Option<usize>> = items.map(Result::ok).collect();
        let want: Vec<Option<usize>> = (0..50).map(|i| (i % 10 != 3).then_some(i * i)).collect();
        assert_eq!(got, want, "{threads} threads");
    }
    assert_eq!(Prefetch::new(0, 0, 0, Ok).count(), 0);
    assert_eq!(Prefetch::new(0, 0, 3, Ok).map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn prefetch_is_bounded_and_ends_when_dropped() {
    let started = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&started);
    let mut items = Prefetch::new(3, 5, 1000, move |i| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(i)
    });
    assert_eq!(items.next().unwrap().unwrap(), 0);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(started.load(Ordering::SeqCst) <= 6);
    drop(items); // returns, having joined its threads, which hold the other reference
    assert_eq!(Arc::strong_count(&started), 1);
    let panics = std::panic::catch_unwind(|| {
        Prefetch::new(2, 2, 2, |i| if i == 1 { panic!("one") } else { Ok(i) }).map(Result::unwrap).count()
    });
    assert!(panics.is_err(), "a worker's panic reaches the consumer");
}
