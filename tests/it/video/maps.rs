//! Maps beside the cache, and flow that was computed elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::f16;
use tubelet::error::{ErrorKind, Result};
use tubelet::flow::maps::MapSpec;
use tubelet::flow::{Flow, flo};
use tubelet::train::focus::Focus;
use tubelet::train::views::Loader;
use tubelet::video::cache::{Builder, Report};
use tubelet::video::{Cache, CacheSpec, Dataset, Decode, Ffmpeg, FlowSource, MotionSpec};

use super::cache::{self, builder, videos};
use crate::support::painted_videos::{GO_ON, difference, loader, of_pairs, square, views};
use crate::support::videos::{ffmpeg, shared_data};

/// Builds without ffmpeg; `computed` says whether flow may be.
fn build(dir: &Path, data: &Dataset, spec: &CacheSpec, computed: bool) -> Result<(Cache, Report)> {
    build_on(dir, data, spec, computed, 2)
}

fn build_on(dir: &Path, data: &Dataset, spec: &CacheSpec, computed: bool, threads: usize) -> Result<(Cache, Report)> {
    let ffmpeg = Ffmpeg { program: "no-such-program".into(), probe: "nor-this".into(), ..Ffmpeg::programs() };
    let flow = of_pairs(difference);
    let with = Builder { ffmpeg, flow: computed.then_some(&flow), threads, ..builder(&|_| {}) };
    Cache::build(dir, data, spec, &with)
}

fn spec(maps: Option<MapSpec>) -> CacheSpec {
    CacheSpec { maps, ..cache::spec() }
}

/// The cache's files of one kind.
fn files(dir: &Path, extension: &str) -> BTreeMap<String, Vec<u8>> {
    cache::files(dir).into_iter().filter(|(name, _)| name.ends_with(&format!(".{extension}"))).collect()
}

#[test]
fn maps_are_added_to_a_cache_that_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let data = videos(4, 25);
    let counts = |spec: &CacheSpec| {
        let (cache, report) = build(dir.path(), &data, spec, true).unwrap();
        assert_eq!(report.failed.len(), 0);
        (cache, [report.built, report.reused])
    };
    let (bare, count) = counts(&spec(None));
    assert_eq!(count, [4, 0]);
    assert_eq!(bare.maps(0).unwrap(), None);
    let packed = files(dir.path(), "tbv");

    let with = |window: usize| MapSpec { window, ..MapSpec::new(8.0, None) };
    let (cache, count) = counts(&spec(Some(with(8))));
    assert_eq!(count, [4, 0]);
    assert_eq!((files(dir.path(), "tbm").len(), &files(dir.path(), "tbv")), (4, &packed));
    for i in 0..4 {
        let maps = cache.maps(i).unwrap().unwrap();
        assert_eq!(maps, cache.get(i).unwrap().maps(&with(8)).unwrap());
        assert_eq!(
            (maps.grid(), maps.every(), maps.summed(), maps.maps().len(), maps.scores().len()),
            ([7, 7], 2, 4, 12 * 49, 9)
        );
    }
    assert_eq!(counts(&spec(Some(with(8)))).1, [0, 4]);
    let again = tempfile::tempdir().unwrap();
    build_on(again.path(), &data, &spec(Some(with(8))), true, 1).unwrap();
    assert_eq!(files(dir.path(), "tbm"), files(again.path(), "tbm"), "the same for any number of threads");
    // Other settings are other files; the flow stays.
    assert_eq!(counts(&spec(Some(with(4)))).1, [4, 0]);
    assert_eq!((files(dir.path(), "tbm").len(), &files(dir.path(), "tbv")), (8, &packed));
    assert_eq!(counts(&spec(None)).1, [0, 4]);
}

#[test]
fn samples_are_the_same_with_maps_from_the_cache_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let kept = loader(dir.path(), &views(Focus::mcl([2, 4, 4])), &[40, 33], square);
    let mut spec = kept.spec.cache(false);
    assert!(spec.maps.take().is_some());
    let data = Dataset::open(&dir.path().join("list.csv")).unwrap();
    let (cache, _) = build(&dir.path().join("cache"), &data, &spec, true).unwrap();
    let made = Loader { cache, ..kept.clone() };
    for video in 0..2 {
        assert_eq!(kept.chosen(3, video).unwrap(), made.chosen(3, video).unwrap());
    }
}

/// Three videos of six frames of 32 x 32 in folders `a/0`, `b/1`, `a/2`.
fn frames(dir: &Path) -> Dataset {
    let l = loader(dir, &views(Focus::default()), &[6, 6, 6], square);
    assert_eq!(l.videos.len(), 3);
    Dataset::open(&dir.join("list.csv")).unwrap()
}

/// A field of 32 x 32, or `h w`: eighths, the first field the slowest.
fn field(t: usize, [h, w]: [usize; 2]) -> Flow {
    let at = |i: usize| ((i * 5 + t * 3) % 64) as f32 / 8.0 - 4.0;
    Flow::new(h, w, (0..h * w).map(at).collect(), (0..h * w).map(|i| -0.5 * at(i + 7)).collect()).unwrap()
}

fn levels(plane: &[f32], h: usize, w: usize) -> image::GrayImage {
    let level = |v: &f32| (v * 6.375 + 128.0).round().clamp(0.0, 255.0) as u8;
    image::GrayImage::from_raw(w as u32, h as u32, plane.iter().map(level).collect()).unwrap()
}

fn put(path: &Path) -> &Path {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

fn from_folder(root: &Path, short_side: usize) -> CacheSpec {
    let source = FlowSource::Folder(root.to_owned());
    CacheSpec {
        decode: Decode { short_side: Some(short_side), ..Default::default() },
        motion: Some(MotionSpec { settings: "unused".into(), source, every: 2, gap: 1 }),
        maps: Some(MapSpec::new(4.0, None)),
    }
}

#[test]
fn flow_is_taken_from_folders_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let (data, root) = (frames(dir.path()), dir.path().join("flow"));
    let size = [32, 32];
    // Names are those of the list, `data/a/0`, or their last two parts. Fields: one less than frames, and as many.
    for t in 0..5 {
        flo::write(put(&root.join(format!("data/a/0/f{t}.flo"))), &field(t, size)).unwrap();
    }
    for t in 0..6 {
        let flow = field(t, size);
        for (name, plane) in [("flow_x", flow.u()), ("flow_y", flow.v())] {
            levels(plane, 32, 32).save(put(&root.join(format!("b/1/{name}_{:05}.png", t + 8)))).unwrap();
        }
        for (name, plane) in [("x", flow.u()), ("y", flow.v())] {
            levels(plane, 32, 32).save(put(&root.join(format!("a/2/{name}/{t}.png")))).unwrap();
        }
    }
    let store = dir.path().join("store");
    let (cache, report) = build(&store, &data, &from_folder(&root, 32), false).unwrap();
    assert_eq!((report.built, report.failed.len()), (3, 0));
    for video in 0..3 {
        let view = cache.get(video).unwrap();
        assert_eq!((view.fields(), view.flow_size()), (3, (32, 32)));
        for m in 0..3 {
            let want = field(2 * m, size);
            for (got, want) in <[&[f16]; 2]>::from(view.flow(m)).into_iter().zip([want.u(), want.v()]) {
                // Half a level, and the rounding of f16.
                let off = if video == 0 { 0.0 } else { 0.5 / 6.375 + 1e-2 };
                let apart = got.iter().zip(want).map(|(a, b)| (a.to_f32() - b).abs()).fold(0.0, f32::max);
                assert!(apart <= off, "video {video}, field {m}: {apart} pixels apart");
            }
        }
        assert!(cache.maps(video).unwrap().unwrap().maps().iter().any(|v| *v > 0.0));
    }
    // At half the size displacements are half as long, and fields of that size are taken as they are.
    let pan = Flow::new(32, 32, vec![3.0; 1024], vec![-1.0; 1024]).unwrap();
    (0..5).for_each(|t| flo::write(root.join(format!("data/a/0/f{t}.flo")), &pan).unwrap());
    let mut lost = pan.clone();
    let [u, v] = lost.planes_mut();
    (u[40], v[41]) = (2e9, f32::NAN);
    flo::write(root.join("data/a/0/f4.flo"), &lost).unwrap();
    let (cache, report) = build(&store, &data, &from_folder(&root, 16), false).unwrap();
    assert_eq!(report.built, 3);
    let flow = cache.get(0).unwrap().flow_field(1);
    assert_eq!((flow.h(), flow.w()), (16, 16));
    assert!(flow.u().iter().all(|u| *u == 1.5) && flow.v().iter().all(|v| *v == -0.5));
    assert!(cache.get(0).unwrap().flow_field(2).u().iter().all(|u| (0.0..1.51).contains(u)));
    (0..5).for_each(|t| flo::write(root.join(format!("data/a/0/f{t}.flo")), &field(t, [16, 16])).unwrap());
    let (cache, report) = build(&store, &data, &from_folder(&root, 16), false).unwrap();
    assert_eq!((report.built, report.reused), (1, 2), "flow that changed is read anew");
    assert_eq!(cache.get(0).unwrap().flow_field(1), field(2, [16, 16]));
}

#[test]
fn flow_that_does_not_fit_its_video_is_named_with_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let data = frames(dir.path());
    let write = |root: &Path, video: &str, count: usize, size: [usize; 2]| {
        (0..count).for_each(|t| flo::write(put(&root.join(format!("{video}/{t}.flo"))), &field(t, size)).unwrap());
    };
    let gray = |path: &Path| image::GrayImage::new(32, 32).save(put(path)).unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let of_another = |root: &Path| {
        write(root, "b/1", 5, [32, 32]);
        fs::write(root.join("b/1/source"), "0123456789abcdef\n").unwrap();
    };
    let cases: [(&str, Make, &[&str]); 9] = [
        ("stale", &of_another, &["b/1", "the flow of another video, or of this one before it changed"]),
        ("few", &|r| write(r, "b/1", 4, [32, 32]), &["4 flow fields", "6 frames", "5, or 6"]),
        ("many", &|r| write(r, "b/1", 7, [32, 32]), &["7 flow fields", "6 frames"]),
        ("size", &|r| write(r, "b/1", 5, [24, 40]), &["40 x 24", "32 x 32", "16 x 16"]),
        ("absent", &|_| (), &["no folder of this name", "b/1"]),
        ("empty", &|r| fs::create_dir_all(r.join("b/1")).unwrap(), &["no flow in this folder"]),
        (
            "odd",
            &|r| {
                (0..5).for_each(|t| gray(&r.join(format!("b/1/x_{t}.png"))));
                (0..4).for_each(|t| gray(&r.join(format!("b/1/y_{t}.png"))));
            },
            &["5 pictures", "and 4"],
        ),
        (
            "numbers",
            &|r| {
                (0..5).for_each(|t| gray(&r.join(format!("b/1/x_{t}.png"))));
                (1..6).for_each(|t| gray(&r.join(format!("b/1/y_{t}.png"))));
            },
            &["x_0.png and y_1.png"],
        ),
        (
            "depth",
            &|r| {
                for name in ["x", "y"] {
                    let deep = image::ImageBuffer::<image::Luma<u16>, _>::new(32, 32);
                    (0..5).for_each(|t| deep.save(put(&r.join(format!("b/1/{name}/{t}.png")))).unwrap());
                }
            },
            &["8 bits", "L16"],
        ),
    ];
    for (name, make, words) in cases {
        let root = dir.path().join(name);
        write(&root, "data/a/0", 5, [32, 32]);
        write(&root, "a/2", 6, [32, 32]);
        make(&root);
        let (cache, report) = build(&root.join("store"), &data, &from_folder(&root, 16), false).unwrap();
        assert_eq!((report.built, report.failed.len(), cache.usable()), (2, 1, vec![0, 2]), "{name}");
        let (_, video, why) = &report.failed[0];
        assert!(video.ends_with("b/1") && words.iter().all(|w| why.contains(w)), "{name}: {why}");
    }
    // A broken picture, and settings that cannot be.
    let root = dir.path().join("broken");
    for name in ["x", "y"] {
        (0..5).for_each(|t| fs::write(put(&root.join(format!("b/1/{name}/{t}.jpg"))), "no picture").unwrap());
    }
    let error = build(&root.join("store"), &data, &from_folder(&root, 16), false).unwrap_err().to_string();
    assert!(error.contains("none of the 3 videos"), "{error}");
    let mut far = from_folder(&root, 16);
    far.motion.as_mut().unwrap().gap = 2;
    assert!(matches!(build(&root, &data, &far, false).unwrap_err().kind(), ErrorKind::Param { name: "flow", .. }));
    assert!(build(&root, &data, &spec(None), false).unwrap_err().to_string().contains("nothing computes it"));
}

/// A video file of 320 x 240, of which five frames are kept at an eighth of the size: its flow is as large as the video, and
/// may go on after them.
#[test]
fn flow_of_a_video_file_is_as_large_as_the_video() {
    let (Some(_), Some(shared)) = (ffmpeg(), shared_data()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let name = "v_BaseballPitch_g01_c01";
    fs::copy(shared.join(format!("videos/{name}.avi")), put(&dir.path().join(format!("x/{name}.avi")))).unwrap();
    fs::write(dir.path().join("list.csv"), format!("x/{name}.avi,0\n")).unwrap();
    let list = dir.path().join("list.csv");
    let data = Dataset::open(&list).unwrap();
    let pan = |w: usize| Flow::new(240, w, vec![8.0; 240 * w], vec![-4.0; 240 * w]).unwrap();
    let root = dir.path().join("flow");
    let mut spec = from_folder(&root, 30);
    spec.decode.max_frames = Some(5);
    let build = || {
        let with = Builder {
            ffmpeg: Ffmpeg::default(),
            flow: None,
            pairs: 1,
            threads: 1,
            verify: true,
            stop: &GO_ON,
            progress: &|_| {},
        };
        Cache::build(&dir.path().join("store"), &data, &spec, &with)
    };
    for count in [4, 9] {
        (0..count).for_each(|t| flo::write(put(&root.join(format!("x/{name}/{t}.flo"))), &pan(320)).unwrap());
        let (cache, report) = build().unwrap();
        assert_eq!(report.built, 1, "{count}");
        let (view, flow) = (cache.get(0).unwrap(), cache.get(0).unwrap().flow_field(1));
        assert_eq!((view.len(), view.fields(), view.size(), view.flow_size()), (5, 2, (30, 40), (30, 40)));
        assert!(flow.u().iter().all(|u| *u == 1.0) && flow.v().iter().all(|v| *v == -0.5));
        assert!(cache.maps(0).unwrap().unwrap().maps().iter().all(|v| *v == 0.0));
    }
    flo::write(root.join(format!("x/{name}/2.flo")), &pan(300)).unwrap();
    let error = build().unwrap_err().to_string();
    assert!(error.contains("300 x 240") && error.contains("its video 320 x 240 (or 40 x 30"), "{error}");
}
