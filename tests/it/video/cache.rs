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
use tubelet::flow::maps::MapSpec;
use tubelet::flow::{Flow, Gray};
use tubelet::video::cache::{Builder, FlowFn, Kind, Progress, Report};
use tubelet::video::{
    Cache, CacheSpec, ClipSpec, Dataset, Decode, Ffmpeg, FlowSource, MotionSpec, ProceduralSpec, Source, Splits,
};

use crate::support::videos::{ffmpeg, put, shared_data};

/// Not flow, but cheap and different for every pair of images.
pub fn difference_and_shade(a: &Gray, b: &Gray) -> Result<Flow> {
    let u = a.data().iter().zip(b.data()).map(|(x, y)| (y - x) / 8.0).collect();
    Flow::new(a.h(), a.w(), u, a.data().iter().map(|x| x / 64.0).collect())
}

pub fn spec() -> CacheSpec {
    CacheSpec {
        decode: Decode { short_side: Some(16), ..Default::default() },
        motion: Some(MotionSpec { settings: "difference".into(), source: FlowSource::TvL1, every: 2, gap: 1 }),
        maps: None,
    }
}

/// `n` procedural videos of so many frames.
pub fn videos(n: usize, frames: usize) -> Dataset {
    let spec = ProceduralSpec { classes: 2, videos_per_class: n / 2, frames, side: 32, ..Default::default() };
    Splits::procedural(&spec).unwrap().train
}

pub static GO_ON: AtomicBool = AtomicBool::new(false);

fn build_with(
    dir: &Path,
    data: &Dataset,
    spec: &CacheSpec,
    change: impl FnOnce(&mut Builder),
) -> Result<(Cache, Report)> {
    let mut builder = builder(&|_| {});
    change(&mut builder);
    Cache::build(dir, data, spec, &builder)
}

fn of_all(pairs: &[(&Gray, &Gray)]) -> Result<Vec<Flow>> {
    pairs.iter().map(|(a, b)| difference_and_shade(a, b)).collect()
}

pub fn builder<'a>(progress: &'a (dyn Fn(Progress) + Sync)) -> Builder<'a> {
    let (ffmpeg, flow): (_, Option<&FlowFn>) = (Ffmpeg::default(), Some(&of_all));
    Builder { ffmpeg, flow, pairs: 2, threads: 2, verify: true, stop: &GO_ON, progress }
}

pub fn build(dir: &Path, data: &Dataset, spec: &CacheSpec) -> Result<(Cache, Report)> {
    build_with(dir, data, spec, |_| {})
}

/// Names and contents of the cache's files.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let packed = paths.filter(|p| p.extension().is_some_and(|e| e != "lock"));
    packed.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&p).unwrap())).collect()
}

#[test]
fn gives_back_frames_and_flow() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(6, 9), spec());
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
        let want = difference_and_shade(&gray(6), &gray(7)).unwrap();
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
    build_with(one.path(), &videos(6, 9), &spec(), |b| b.threads = 1).unwrap();
    build_with(three.path(), &videos(6, 9), &spec(), |b| b.threads = 3).unwrap();
    assert_eq!(files(one.path()), files(three.path()));
}

#[test]
fn is_reused_and_rebuilt_when_anything_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(4, 9), spec());
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

/// Frames, flow and maps.
pub fn all_kinds() -> CacheSpec {
    CacheSpec { maps: Some(MapSpec::new(4.0, None)), ..spec() }
}

#[test]
fn one_cache_serves_every_need_and_decodes_once() {
    let (data, all) = (videos(4, 9), all_kinds());
    let flow = CacheSpec { maps: None, ..all.clone() };
    let rgb = CacheSpec { motion: None, ..flow.clone() };
    let count = |dir: &Path| Kind::ALL.map(|kind| files(dir).keys().filter(|n| n.ends_with(kind.extension())).count());
    // Each need after the others: what is made, and what is there then.
    let orders = [
        [(&rgb, [4, 0, 0], [4, 0, 0]), (&flow, [0, 4, 0], [4, 4, 0]), (&all, [0, 0, 4], [4, 4, 4])],
        [(&all, [4, 4, 4], [4, 4, 4]), (&rgb, [0, 0, 0], [4, 4, 4]), (&flow, [0, 0, 0], [4, 4, 4])],
        [(&flow, [4, 4, 0], [4, 4, 0]), (&all, [0, 0, 4], [4, 4, 4]), (&rgb, [0, 0, 0], [4, 4, 4])],
    ];
    let mut first = None;
    for order in orders {
        let dir = tempfile::tempdir().unwrap();
        for (need, made, there) in order {
            let (cache, report) = build(dir.path(), &data, need).unwrap();
            assert_eq!([report.decoded, report.flowed, report.mapped], made);
            assert_eq!((report.built + report.reused, report.built > 0), (4, made != [0; 3]));
            assert_eq!(count(dir.path()), there);
            assert_eq!(cache.get(3).unwrap().fields(), if need.motion.is_some() { 4 } else { 0 });
            assert_eq!(cache.maps(3).unwrap().is_some(), need.maps.is_some());
        }
        let files = files(dir.path());
        assert!(*first.get_or_insert_with(|| files.clone()) == files, "the bytes depend on the order of the needs");
        // Other flow is added beside the same frames.
        let mut other = flow.clone();
        other.motion.as_mut().unwrap().every = 3;
        let report = build(dir.path(), &data, &other).unwrap().1;
        assert_eq!(([report.decoded, report.flowed], count(dir.path())), ([0, 4], [4, 8, 4]));
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = videos(4, 9);
    data.items[1].source = Source::Folder(dir.path().join("gone"));
    data.items[1].name = "x/gone".into();
    let store = dir.path().join("cache");
    let last = Mutex::new(Progress::default());
    let keep = |p: Progress| *last.lock().unwrap() = p;
    let (cache, report) = Cache::build(&store, &data, &spec(), &builder(&keep)).unwrap();
    assert_eq!((report.built, report.failed.len()), (3, 1));
    assert_eq!((report.failed[0].0, report.failed[0].1.as_str()), (1, "x/gone"));
    assert_eq!(*last.lock().unwrap(), Progress { done: 3, failed: 1, total: 4, ..Progress::default() });
    assert_eq!(cache.usable(), [0, 2, 3]);
    assert!(cache.get(1).unwrap_err().to_string().contains("3 of 4 videos"));
    // Too short for flow, and then nothing is left.
    let mut far = spec();
    far.motion.as_mut().unwrap().gap = 9;
    let text = build(&store, &data, &far).unwrap_err().to_string();
    assert!(text.contains("none of the 4 videos") && text.contains("too few frames (9)"), "{text}");
    for bad in [
        CacheSpec { motion: Some(MotionSpec { every: 0, ..spec().motion.unwrap() }), ..spec() },
        CacheSpec { motion: Some(MotionSpec { gap: 0, ..spec().motion.unwrap() }), ..spec() },
        CacheSpec { decode: Decode { short_side: Some(0), ..Default::default() }, motion: None, maps: None },
        CacheSpec { motion: None, ..all_kinds() },
        CacheSpec { maps: Some(MapSpec { window: 0, ..MapSpec::new(4.0, None) }), ..spec() },
    ] {
        assert!(matches!(build(&store, &data, &bad).unwrap_err().kind(), ErrorKind::Param { .. }));
    }
    assert!(build_with(&store, &data, &spec(), |b| b.flow = None).is_err());
    assert!(build_with(&store, &data, &spec(), |b| b.threads = 0).is_err());
}

#[test]
fn a_file_that_cannot_be_written_is_one_error_and_leaves_nothing_partial() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(2, 9), spec());
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
    let (data, spec) = (videos(8, 9), spec());
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let progress = |p: Progress| {
        count.store(p.done, Ordering::Relaxed);
        stop.store(p.done >= 3, Ordering::Relaxed);
    };
    let builder = Builder { threads: 1, stop: &stop, ..builder(&progress) };
    let error = Cache::build(dir.path(), &data, &spec, &builder).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Stopped { .. }));
    assert_eq!(count.load(Ordering::Relaxed), 3);
    put(dir.path(), "0123456789abcdef.5.tmp", "half a file");
    let report = build(dir.path(), &data, &spec).unwrap().1;
    assert_eq!((report.built, report.reused), (5, 3));
    assert!(files(dir.path()).keys().all(|name| name.ends_with(".tbv") || name.ends_with(".tbf")));
}

#[test]
fn two_builders_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(12, 9), spec());
    let reports = std::thread::scope(|s| {
        let both = [0, 1].map(|_| s.spawn(|| build(dir.path(), &data, &spec).unwrap().1));
        both.map(|b| b.join().unwrap())
    });
    assert_eq!(reports[0].built + reports[1].built, 12);
    assert!(reports.iter().all(|r| r.built + r.reused == 12));
}

#[test]
fn who_writes_into_the_cache_is_said_to_those_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(4, 9), spec());
    let lock = fs::File::create(dir.path().join(".lock")).unwrap();
    lock.lock().unwrap();
    // What the holder wrote, what a holder of the first version did not, and what nobody should print.
    for (text, want) in [
        ("4711 some_program\n", "process 4711 (some_program)"),
        ("4711", "process 4711"),
        ("", "another process"),
        ("4711 bad\u{1b}[2J name\n", "process 4711"),
        ("\0\0\0", "another process"),
    ] {
        fs::write(dir.path().join(".lock"), text).unwrap();
        let (stop, told) = (AtomicBool::new(false), Mutex::new(None));
        let progress = |p: Progress| {
            if let Some(holder) = p.waiting {
                *told.lock().unwrap() = Some(holder.to_string());
                stop.store(true, Ordering::Relaxed);
            }
        };
        let with = Builder { stop: &stop, ..builder(&progress) };
        let e = Cache::build(dir.path(), &data, &spec, &with).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Stopped { .. }), "stopping works while it waits: {e}");
        assert_eq!(told.lock().unwrap().as_deref(), Some(want));
    }
    lock.unlock().unwrap();

    // One that builds writes who it is, and takes it back when it is done.
    let waits = AtomicBool::new(false);
    let slow = |pairs: &[(&Gray, &Gray)]| {
        while !waits.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        of_all(pairs)
    };
    let told = Mutex::new(None);
    let progress = |p: Progress| {
        if let Some(holder) = p.waiting.filter(|holder| holder.pid.is_some()) {
            *told.lock().unwrap() = Some(holder);
            waits.store(true, Ordering::Relaxed);
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| Cache::build(dir.path(), &data, &spec, &Builder { flow: Some(&slow), ..builder(&|_| {}) }).unwrap());
        while files(dir.path()).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let report = Cache::build(dir.path(), &data, &spec, &builder(&progress)).unwrap().1;
        assert_eq!((report.built, report.reused), (0, 4));
    });
    let holder = told.lock().unwrap().take().unwrap();
    assert_eq!(holder.pid, Some(std::process::id()));
    let own = std::env::current_exe().unwrap();
    assert_eq!(holder.program.as_deref(), own.file_name().and_then(|n| n.to_str()));
    assert_eq!(fs::read_to_string(dir.path().join(".lock")).unwrap(), "");
}

const KILL_DIR: &str = "TUBELET_TEST_CACHE_DIR";

/// Not a test: what [`survives_being_killed`] runs in a process of its own and kills.
#[test]
#[ignore = "run by survives_being_killed"]
fn build_until_killed() {
    let Some(dir) = std::env::var_os(KILL_DIR) else { return };
    build(Path::new(&dir), &videos(60, 9), &spec()).unwrap();
}

#[test]
fn survives_being_killed() {
    let (dir, undisturbed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (data, spec) = (videos(60, 9), spec());
    build(undisturbed.path(), &data, &spec).unwrap();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "video::cache::build_until_killed", "--ignored"])
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
    // Frames that were decoded for another need get their flow without ffmpeg.
    let (bare, rgb) = (dir.path().join("bare"), CacheSpec { motion: None, ..spec.clone() });
    let report = build(&bare, &data, &rgb).unwrap().1;
    assert_eq!([report.decoded, report.flowed], [3, 0]);
    // Once made, it needs no ffmpeg; before, its absence is one error.
    let absent = Ffmpeg { program: "no-such-program".into(), probe: "nor-this".into(), ..Ffmpeg::programs() };
    fs::remove_file(dir.path().join("x/empty.avi")).unwrap();
    let (_, report) = build_with(&store, &data, &spec, |b| b.ffmpeg = absent.clone()).unwrap();
    assert_eq!((report.reused, report.failed.len()), (3, 1));
    let report = build_with(&bare, &data, &spec, |b| b.ffmpeg = absent.clone()).unwrap().1;
    assert_eq!([report.decoded, report.flowed], [0, 3]);
    assert_eq!(files(&bare), files(&store));
    let error = build_with(&dir.path().join("new"), &data, &spec, |b| b.ffmpeg = absent).unwrap_err();
    assert!(error.to_string().contains("apt-get install ffmpeg"), "{error}");
}
