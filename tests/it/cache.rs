//! The cache: what it gives back, what it refuses, and that nothing is lost when it is stopped or killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use half::f16;
use tubelet::error::{ErrorKind, Result};
use tubelet::flow::{Flow, Gray};
use tubelet::video::cache::{Builder, Progress, Report};
use tubelet::video::{
    Cache, CacheSpec, ClipSpec, Dataset, Decode, Ffmpeg, FlowSource, MotionSpec, ProceduralSpec, Source, Splits,
};

use crate::ffmpeg::ffmpeg;
use crate::video::{put, shared_data};

/// Not flow, but cheap and different for every pair of images.
fn difference(a: &Gray, b: &Gray) -> Result<Flow> {
    let u = a.data().iter().zip(b.data()).map(|(x, y)| (y - x) / 8.0).collect();
    Flow::new(a.h(), a.w(), u, a.data().iter().map(|x| x / 64.0).collect())
}

fn spec() -> CacheSpec {
    CacheSpec {
        decode: Decode { short_side: Some(16), ..Default::default() },
        motion: Some(MotionSpec { settings: "difference".into(), source: FlowSource::TvL1, every: 2, gap: 1 }),
        maps: None,
    }
}

fn videos(n: usize) -> Dataset {
    let spec = ProceduralSpec { classes: 2, videos_per_class: n / 2, frames: 9, side: 32, ..Default::default() };
    Splits::procedural(&spec).unwrap().train
}

static GO_ON: AtomicBool = AtomicBool::new(false);

fn build_with(
    dir: &Path,
    data: &Dataset,
    spec: &CacheSpec,
    change: impl FnOnce(&mut Builder),
) -> Result<(Cache, Report)> {
    let mut builder = Builder {
        ffmpeg: Ffmpeg::default(),
        flow: Some(&difference),
        threads: 2,
        verify: true,
        stop: &GO_ON,
        progress: &|_| {},
    };
    change(&mut builder);
    Cache::build(dir, data, spec, &builder)
}

fn build(dir: &Path, data: &Dataset, spec: &CacheSpec) -> Result<(Cache, Report)> {
    build_with(dir, data, spec, |_| {})
}

/// Names and contents of the cache's files.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let packed = paths.filter(|p| p.extension().is_some_and(|e| e != "lock"));
    packed.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&p).unwrap())).collect()
}

#[test]
fn gives_back_frames_and_flow() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(6), spec());
    let (cache, report) = build_with(&dir.path().join("new/folder"), &data, &spec, |b| {
        b.progress = &|p: Progress| assert!(p.done + p.failed <= p.total && p.total == 6);
    })
    .unwrap();
    assert_eq!((report.built, report.reused, report.failed.len(), cache.len()), (6, 0, 0, 6));
    for i in cache.usable() {
        let view = cache.get(i).unwrap();
        let clip =
            tubelet::video::read(&data.items[i].source, data.procedural.as_ref(), &spec.decode, &Ffmpeg::default());
        let clip = clip.unwrap();
        assert_eq!((view.len(), view.size(), view.fps()), (clip.t, (clip.h, clip.w), clip.fps));
        assert_eq!(view.clip(&(0..9).collect::<Vec<_>>(), clip.fps).unwrap(), clip);
        // Fields 0->1, 2->3, 4->5, 6->7.
        assert_eq!((view.fields(), view.flow_size()), (4, (16, 16)));
        assert_eq!([0, 1, 2, 3, 7, 8].map(|t| view.field_of(t)), [0, 1, 1, 2, 3, 3]);
        assert_eq!(view.field_frames(3), (6, 7));
        let gray = |t: usize| Gray::from_rgb(clip.frame(t), clip.h, clip.w).unwrap();
        let want = difference(&gray(6), &gray(7)).unwrap();
        let (u, v) = view.flow(3);
        assert!(u.iter().zip(want.u()).all(|(a, b)| *a == f16::from_f32(*b)));
        assert!(v.iter().zip(want.v()).all(|(a, b)| *a == f16::from_f32(*b)));
        assert_eq!(view.flow_field(3).u()[17], u[17].to_f32());
        assert!(view.clip(&[9], 25.0).is_err());
    }
    assert!(cache.get(6).is_err());
    let clip = |frames: usize| ClipSpec { frames, stride: 1.0, fps: 25.0 };
    assert!(cache.shorter_than(&clip(9)).unwrap().is_empty());
    assert_eq!(cache.shorter_than(&clip(10)).unwrap(), cache.usable());
    // Without flow.
    let (cache, _) = build(dir.path(), &data, &CacheSpec { motion: None, ..spec }).unwrap();
    assert_eq!((cache.get(0).unwrap().fields(), cache.get(0).unwrap().flow_size()), (0, (0, 0)));
}

#[test]
fn contents_do_not_depend_on_threads() {
    let (one, three) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build_with(one.path(), &videos(6), &spec(), |b| b.threads = 1).unwrap();
    build_with(three.path(), &videos(6), &spec(), |b| b.threads = 3).unwrap();
    assert_eq!(files(one.path()), files(three.path()));
}

#[test]
fn is_reused_and_rebuilt_when_anything_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(4), spec());
    let counts = |data: &Dataset, spec: &CacheSpec| {
        let report = build(dir.path(), data, spec).unwrap().1;
        (report.built, report.reused)
    };
    assert_eq!(counts(&data, &spec), (4, 0));
    assert_eq!(counts(&data, &spec), (0, 4));
    let mut other = spec.clone();
    other.decode.short_side = Some(17);
    assert_eq!(counts(&data, &other), (4, 0));
    let mut other = spec.clone();
    other.motion.as_mut().unwrap().settings = "another".into();
    assert_eq!(counts(&data, &other), (4, 0));
    let mut seeded = data.clone();
    seeded.procedural.as_mut().unwrap().seed = 9;
    assert_eq!(counts(&seeded, &spec), (4, 0));
    assert_eq!(counts(&data, &spec), (0, 4));

    // A frame that is written anew counts as changed, whatever its size.
    let frames = tempfile::tempdir().unwrap();
    let picture = |shade: u8| image::RgbImage::from_pixel(20, 16, image::Rgb([shade; 3]));
    for (name, shade) in [("x/a/1.png", 1), ("x/a/2.png", 2), ("y/b/1.png", 3), ("y/b/2.png", 4)] {
        put(frames.path(), name, "");
        picture(shade).save(frames.path().join(name)).unwrap();
    }
    let data = Splits::open(frames.path(), None).unwrap().train;
    assert_eq!(counts(&data, &spec), (2, 0));
    assert_eq!(counts(&data, &spec), (0, 2));
    std::thread::sleep(Duration::from_millis(20));
    picture(9).save(frames.path().join("x/a/2.png")).unwrap();
    assert_eq!(counts(&data, &spec), (1, 1));
    let (cache, _) = build(dir.path(), &data, &spec).unwrap();
    assert_eq!(cache.get(0).unwrap().frame(1)[0], 9);
}

#[test]
fn damaged_files_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(2), spec());
    build(dir.path(), &data, &spec).unwrap();
    let whole = files(dir.path());
    let (name, bytes) = whole.iter().next().unwrap();
    let path = dir.path().join(name);
    let changed = |at: usize, to: &[u8]| {
        let mut copy = bytes.clone();
        copy[at..at + to.len()].copy_from_slice(to);
        copy
    };
    let huge = u32::MAX.to_le_bytes();
    let damages = [
        Vec::new(),
        bytes[..50].to_vec(),
        bytes[..bytes.len() - 1].to_vec(),
        [bytes.as_slice(), &[0]].concat(),
        changed(0, b"X"),
        changed(8, &2u32.to_le_bytes()),
        changed(12, &huge),
        changed(16, &huge),
        changed(24, &huge),
        changed(28, &huge),
        changed(88, &huge),
        changed(40, &f64::NAN.to_le_bytes()),
        changed(100, b"?"),
        changed(bytes.len() - 2000, &[bytes[bytes.len() - 2000] ^ 1]),
        changed(400, &[bytes[400] ^ 128]),
    ];
    for (i, damage) in damages.iter().enumerate() {
        fs::write(&path, damage).unwrap();
        let report = build(dir.path(), &data, &spec).unwrap().1;
        assert_eq!((report.built, report.reused), (1, 1), "damage {i}");
        assert_eq!(files(dir.path()), whole, "damage {i}");
    }
    // Found when it is read, where the header or the length is at fault.
    let (cache, _) = build(dir.path(), &data, &spec).unwrap();
    for damage in &damages[..13] {
        fs::write(&path, damage).unwrap();
        let errors: Vec<_> = (0..2).filter_map(|i| cache.get(i).err()).collect();
        assert_eq!(errors.len(), 1);
        assert!(matches!(errors[0].kind(), ErrorKind::Format { .. } | ErrorKind::Io { .. }), "{}", errors[0]);
        assert!(errors[0].to_string().contains(name.as_str()));
    }
}

/// A hostile header that is consistent with its own checksum still has to fit the file.
#[test]
fn sizes_are_checked_before_they_are_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(2), spec());
    let (cache, _) = build(dir.path(), &data, &spec).unwrap();
    for (name, bytes) in files(dir.path()) {
        // The length of the key no longer fits the header's: everything else stays as it was.
        for (at, value) in [(12, 64u32), (12, 0), (88, 0), (88, 1 << 20)] {
            let mut copy = bytes.clone();
            copy[at..at + 4].copy_from_slice(&value.to_le_bytes());
            fs::write(dir.path().join(&name), copy).unwrap();
            let found = (0..2).filter(|&i| cache.get(i).is_err()).count();
            assert_eq!(found, 1);
        }
        fs::write(dir.path().join(&name), bytes).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = videos(4);
    data.items[1].source = Source::Folder(dir.path().join("gone"));
    data.items[1].name = "x/gone".into();
    let store = dir.path().join("cache");
    let last = Mutex::new(Progress::default());
    let keep = |p: Progress| *last.lock().unwrap() = p;
    let (cache, report) = {
        let builder = Builder {
            ffmpeg: Ffmpeg::default(),
            flow: Some(&difference),
            threads: 2,
            verify: true,
            stop: &GO_ON,
            progress: &keep,
        };
        Cache::build(&store, &data, &spec(), &builder).unwrap()
    };
    assert_eq!((report.built, report.failed.len()), (3, 1));
    assert_eq!((report.failed[0].0, report.failed[0].1.as_str()), (1, "x/gone"));
    assert_eq!(*last.lock().unwrap(), Progress { done: 3, reused: 0, failed: 1, total: 4, waiting: false });
    assert_eq!(cache.usable(), [0, 2, 3]);
    assert!(cache.get(1).unwrap_err().to_string().contains("3 of 4 videos"));
    // Too short for flow, and then nothing is left.
    let mut far = spec();
    far.motion.as_mut().unwrap().gap = 9;
    let text = build(&store, &data, &far).unwrap_err().to_string();
    assert!(text.contains("none of the 4 videos") && text.contains("9 frames are too few"), "{text}");
    for bad in [
        CacheSpec { motion: Some(MotionSpec { every: 0, ..spec().motion.unwrap() }), ..spec() },
        CacheSpec { motion: Some(MotionSpec { gap: 0, ..spec().motion.unwrap() }), ..spec() },
        CacheSpec { decode: Decode { short_side: Some(0), ..Default::default() }, motion: None, maps: None },
    ] {
        assert!(matches!(build(&store, &data, &bad).unwrap_err().kind(), ErrorKind::Param { .. }));
    }
    assert!(build_with(&store, &data, &spec(), |b| b.flow = None).is_err());
    assert!(build_with(&store, &data, &spec(), |b| b.threads = 0).is_err());
}

#[test]
fn a_file_that_cannot_be_written_is_one_error_and_leaves_nothing_partial() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(2), spec());
    build(dir.path(), &data, &spec).unwrap();
    let names: Vec<String> = files(dir.path()).into_keys().collect();
    // A folder where the file should be: what is written cannot get its name.
    fs::remove_file(dir.path().join(&names[0])).unwrap();
    put(&dir.path().join(&names[0]), "in the way", "");
    let error = build(dir.path(), &data, &spec).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io { .. }) && error.to_string().contains(&names[0]), "{error}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.iter().all(|p| p.extension().is_none_or(|e| e != "tmp")), "{left:?}");
    // Nor can a folder be made below a file.
    let file = put(dir.path(), "file", "");
    assert!(matches!(build(&file.join("cache"), &data, &spec).unwrap_err().kind(), ErrorKind::Io { .. }));
}

#[test]
fn stops_when_asked_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(8), spec());
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let progress = |p: Progress| {
        count.store(p.done, Ordering::Relaxed);
        stop.store(p.done >= 3, Ordering::Relaxed);
    };
    let builder = Builder {
        ffmpeg: Ffmpeg::default(),
        flow: Some(&difference),
        threads: 1,
        verify: true,
        stop: &stop,
        progress: &progress,
    };
    let error = Cache::build(dir.path(), &data, &spec, &builder).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Stopped { .. }));
    assert_eq!(count.load(Ordering::Relaxed), 3);
    put(dir.path(), "0123456789abcdef.5.tmp", "half a file");
    let report = build(dir.path(), &data, &spec).unwrap().1;
    assert_eq!((report.built, report.reused), (5, 3));
    assert!(files(dir.path()).keys().all(|name| name.ends_with(".tbv")));
}

#[test]
fn two_builders_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(12), spec());
    let reports = std::thread::scope(|s| {
        let both = [0, 1].map(|_| s.spawn(|| build(dir.path(), &data, &spec).unwrap().1));
        both.map(|b| b.join().unwrap())
    });
    assert_eq!(reports[0].built + reports[1].built, 12);
    assert!(reports.iter().all(|r| r.built + r.reused == 12));
}

const KILL_DIR: &str = "TUBELET_TEST_CACHE_DIR";

/// Not a test: what [`survives_being_killed`] runs in a process of its own and kills.
#[test]
#[ignore = "run by survives_being_killed"]
fn build_until_killed() {
    let Some(dir) = std::env::var_os(KILL_DIR) else { return };
    build(Path::new(&dir), &videos(60), &spec()).unwrap();
}

#[test]
fn survives_being_killed() {
    let (dir, undisturbed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (data, spec) = (videos(60), spec());
    build(undisturbed.path(), &data, &spec).unwrap();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache::build_until_killed", "--ignored"])
            .env(KILL_DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(5 + 12 * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let report = build(dir.path(), &data, &spec).unwrap().1;
    assert_eq!(report.built + report.reused, 60);
    assert_eq!(files(dir.path()), files(undisturbed.path()));
}

#[test]
fn real_videos_are_cached_and_broken_ones_named() {
    let (Some(_), Some(shared)) = (ffmpeg(), shared_data()) else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["x/v_BaseballPitch_g01_c01.avi", "y/rotated_90.mov", "y/arm_wrestling.mp4"] {
        put(dir.path(), name, "");
        fs::copy(shared.join("videos").join(name.rsplit('/').next().unwrap()), dir.path().join(name)).unwrap();
    }
    put(dir.path(), "x/empty.avi", "");
    put(
        dir.path(),
        "list.csv",
        "x/v_BaseballPitch_g01_c01.avi,0\nx/empty.avi,0\ny/rotated_90.mov,1\ny/arm_wrestling.mp4,1\n",
    );
    let list = dir.path().join("list.csv");
    let data = Dataset::open(&list).unwrap();
    let spec = CacheSpec {
        decode: Decode { short_side: Some(32), fps: Some(15.0), max_frames: Some(50), ..Default::default() },
        ..spec()
    };
    let store = dir.path().join("cache");
    let (cache, report) = build(&store, &data, &spec).unwrap();
    assert_eq!((report.built, report.failed.len()), (3, 1));
    assert!(report.failed[0].2.contains("empty.avi: the file is empty"));
    let view = cache.get(0).unwrap();
    assert_eq!((view.len(), view.size(), view.fps(), view.fields()), (50, (32, 43), 15.0, 25));
    // Once made, it needs no ffmpeg; before, its absence is one error.
    let absent = Ffmpeg { program: "no-such-program".into(), probe: "nor-this".into(), ..Default::default() };
    fs::remove_file(dir.path().join("x/empty.avi")).unwrap();
    let (_, report) = build_with(&store, &data, &spec, |b| b.ffmpeg = absent.clone()).unwrap();
    assert_eq!((report.reused, report.failed.len()), (3, 1));
    let error = build_with(&dir.path().join("new"), &data, &spec, |b| b.ffmpeg = absent).unwrap_err();
    assert!(error.to_string().contains("apt-get install ffmpeg"), "{error}");
}
