//! `extract_flow` on many videos: what it writes is what `--flow-dir` takes, whole or not at all.
//!
//! `cargo test` builds the example; `cargo test --test it` alone does not, and these tests then say that they did nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tubelet::flow::{Gray, flo};
use tubelet::ops::tvl1::{self, Tvl1};
use tubelet::video::cache::Builder;
use tubelet::video::{Cache, CacheSpec, Decode, Ffmpeg, FlowSource, MotionSpec, Splits};

use crate::support::painted_videos::GO_ON;
use crate::support::programs::example;

const SIDE: u32 = 40;

/// A folder of frames: a textured square that moves `step` pixels a frame.
fn video(folder: &Path, frames: u32, side: u32, step: [u32; 2]) {
    fs::create_dir_all(folder).unwrap();
    for t in 0..frames {
        let pixel = |x: u32, y: u32| {
            let [left, top] = step.map(|s| 6 + s * t);
            let inside = (left..left + 14).contains(&x) && (top..top + 14).contains(&y);
            // Wrapping: outside of the square it is not used.
            let within = x.wrapping_sub(left).wrapping_mul(37) ^ y.wrapping_sub(top).wrapping_mul(23);
            if inside { [130 + (within % 120) as u8, 200, 90] } else { [(30 + x + y % 7) as u8; 3] }
        };
        image::RgbImage::from_fn(side, side, |x, y| image::Rgb(pixel(x, y)))
            .save(folder.join(format!("{t}.png")))
            .unwrap();
    }
}

/// Two classes of two videos.
fn videos(dir: &Path) {
    for (class, step) in [("right", [1, 0]), ("down", [0, 1])] {
        for v in 0..2 {
            video(&dir.join(format!("data/{class}/v_{class}_g{v}_c0")), 4 + v, SIDE, step);
        }
    }
}

/// The example with `args` in `dir`; `None` where it was not built.
fn command(dir: &Path, args: &[&str]) -> Option<Command> {
    let mut command = Command::new(example("extract_flow")?);
    command.current_dir(dir).args(["--out", "flow", "--device", "cpu"]).args(args).stdin(Stdio::null());
    Some(command)
}

fn run(dir: &Path, args: &[&str]) -> Option<Output> {
    Some(command(dir, args)?.output().unwrap())
}

fn summary(out: &Output) -> serde_json::Value {
    let errors = String::from_utf8_lossy(&out.stderr);
    serde_json::from_str(String::from_utf8_lossy(&out.stdout).lines().last().expect(&errors)).expect(&errors)
}

fn error(out: &Output) -> String {
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && !errors.contains("panicked"), "{errors}");
    errors.lines().rfind(|line| line.starts_with("error: ")).expect(&errors).to_owned()
}

/// Every `.flo` file below a folder, by its path there.
fn fields(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|e| e == "flo") {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// The settings that `OPTIONS` say.
fn settings() -> Tvl1 {
    Tvl1 { scales: 3, warps: 2, outer_iterations: 2, inner_iterations: 10, ..Tvl1::default() }
}

const OPTIONS: [&str; 8] = ["--scales", "3", "--warps", "2", "--outer", "2", "--inner", "10"];

/// One square from its frames through the files to the cache: where it is, where it goes, and to the last bit what a run
/// computes itself.
#[test]
fn flow_made_beforehand_is_the_flow_a_run_computes() {
    let dir = tempfile::tempdir().unwrap();
    videos(dir.path());
    let side = ["--short-side", "32"];
    let Some(out) = run(dir.path(), &[&["data"][..], &OPTIONS, &side].concat()) else { return };
    let line = summary(&out);
    assert_eq!(
        (line["videos"].as_u64(), line["videos_written"].as_u64(), line["pairs"].as_u64()),
        (Some(4), Some(4), Some(14))
    );
    assert!(dir.path().join("flow/right/v_right_g1_c0/flow_00003.flo").is_file());
    assert!(dir.path().join("flow/summary.json").is_file() && !dir.path().join("flow/.writing").exists());

    let splits = Splits::open(&dir.path().join("data"), None).unwrap();
    let tvl1 = settings();
    let computed = |pairs: &[(&Gray, &Gray)]| tvl1::flow_pairs(pairs, &tvl1);
    let cache = |data, name: &str, source: FlowSource, every: usize| {
        let with = Builder {
            ffmpeg: Ffmpeg::default(),
            flow: (source == FlowSource::TvL1).then_some(&computed),
            pairs: 1,
            threads: 2,
            verify: true,
            stop: &GO_ON,
            progress: &|_| {},
        };
        let motion = MotionSpec { settings: format!("{tvl1:?}"), source, every, gap: 1 };
        let decode = Decode { short_side: Some(32), ..Decode::default() };
        let spec = CacheSpec { decode, motion: Some(motion), maps: None };
        let (cache, report) = Cache::build(&dir.path().join(name), data, &spec, &with).unwrap();
        assert_eq!(report.failed, []);
        cache
    };
    for every in [1, 2] {
        for data in [&splits.train, &splits.test] {
            let own = cache(data, "own", FlowSource::TvL1, every);
            let given = cache(data, "given", FlowSource::Folder(dir.path().join("flow")), every);
            for (i, item) in data.items.iter().enumerate() {
                let (own, given) = (own.get(i).unwrap(), given.get(i).unwrap());
                assert_eq!((own.fields(), own.flow_size()), (given.fields(), given.flow_size()));
                for m in 0..own.fields() {
                    assert!(own.flow(m) == given.flow(m), "field {m} of {}", item.name);
                }
                // In the middle of the square: its way, in pixels of the size kept.
                let (first, to_the_right) = (given.flow_field(0), item.name.contains("right"));
                let at = 10 * 32 + 10;
                let (along, across) = if to_the_right { (first.u(), first.v()) } else { (first.v(), first.u()) };
                assert!((0.4..1.2).contains(&along[at]) && across[at].abs() < 0.3, "{} {}", along[at], across[at]);
                assert!(along[30 * 32 + 30].abs() < 0.3, "the ground stands");
            }
        }
    }
}

#[test]
fn threads_and_jobs_change_nothing_and_an_interrupted_extraction_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    videos(d);
    let Some(out) = run(d, &[&["data", "--threads", "2"][..], &OPTIONS].concat()) else { return };
    assert!(out.status.success(), "{}", error(&out));
    let whole = fields(&d.join("flow"));
    assert_eq!(whole.len(), 14);

    fs::rename(d.join("flow"), d.join("first")).unwrap();
    // A killed run had come to half of its second field.
    fs::create_dir_all(d.join("flow/.writing/0")).unwrap();
    fs::write(d.join("flow/.writing/0/flow_00001.flo"), &whole.values().next().unwrap()[..100]).unwrap();
    let jobs = [&["data", "--jobs", "3", "--threads", "1"][..], &OPTIONS].concat();
    assert!(run(d, &jobs).unwrap().status.success());
    assert!(fields(&d.join("flow")) == whole);
    // What is whole stays; what is not there is made.
    fs::remove_dir_all(d.join("flow/down/v_down_g0_c0")).unwrap();
    let line = summary(&run(d, &jobs).unwrap());
    assert_eq!((line["videos_there"].as_u64(), line["videos_written"].as_u64()), (Some(3), Some(1)));
    assert!(fields(&d.join("flow")) == whole);
    // Flow by other settings does not go into the same folder.
    let e = error(&run(d, &[&jobs[..], &["--tau", "0.2"]].concat()).unwrap());
    assert!(e.contains("--tau") && e.contains("0.2") && e.contains("--out"), "{e}");
}

/// No file may become longer than 4 KiB, as on a disk that is full: writing fails in the middle of a field.
#[test]
fn a_full_disk_leaves_no_part_of_a_video() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    videos(d);
    let Some(whole) = command(d, &[&["data"][..], &OPTIONS].concat()) else { return };
    let mut limited = Command::new("bash");
    limited.current_dir(d).args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\""]);
    limited.arg(whole.get_program()).args(whole.get_args());
    let e = error(&limited.output().unwrap());
    assert!(e.contains("v_down_g0_c0") && e.contains("flow_00000.flo") && e.contains("File too large"), "{e}");
    assert_eq!(fields(&d.join("flow")).len(), 0);
    assert!(!d.join("flow/.writing").exists() && !d.join("flow/summary.json").exists());
    assert!(run(d, &[&["data"][..], &OPTIONS].concat()).unwrap().status.success());
    assert_eq!(fields(&d.join("flow")).len(), 14);
}

#[test]
fn a_video_that_fails_is_named_and_the_others_have_their_flow() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    videos(d);
    video(&d.join("data/right/single"), 1, SIDE, [0, 0]);
    fs::write(d.join("data/right/broken.avi"), b"no video").unwrap();
    let Some(out) = run(d, &[&["data"][..], &OPTIONS].concat()) else { return };
    let e = error(&out);
    assert!(e.contains("2 of 6 videos have no flow"), "{e}");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        text.contains("no flow of right/broken: ") && text.contains("no flow of right/single: too few frames (1)"),
        "{text}"
    );
    assert_eq!((summary(&out)["videos_failed"].as_u64(), fields(&d.join("flow")).len()), (Some(2), 14));
}

#[test]
fn a_signal_stops_it_and_leaves_whole_videos_only() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    // So long that it is not done before the signal comes, also where this process has to wait for its turn.
    video(&d.join("data/a/long"), 150, 200, [1, 1]);
    let Some(mut command) = command(d, &["data", "--threads", "1"]) else { return };
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !d.join("flow/.writing/0").exists() {
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    let e = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{e}");
    assert!(e.lines().last().is_some_and(|last| last.starts_with("stopped as asked: ")), "{e}");
    assert!(!d.join("flow/.writing").exists() && !d.join("flow/a").exists() && !d.join("flow/summary.json").exists());
}

#[test]
fn videos_have_the_names_that_flow_dir_looks_for() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for name in ["data/a/x", "data/b/x", "more/data/b/x", "alone"] {
        video(&d.join(name), 2, 16, [1, 0]);
    }
    fs::write(d.join("paths.txt"), "data/a/x\n\ndata/b/x\n").unwrap();
    fs::write(d.join("labels.csv"), "path,label\ndata/a/x,0\ndata/b/x,1\n").unwrap();
    for (input, names) in [
        (&["data"][..], &["a/x", "b/x"][..]),
        (&["paths.txt"], &["a/x", "b/x"]),
        (&["labels.csv"], &["a/x", "b/x"]),
        (&["data/a/x", "data/b/x", "data/b"], &["a/x", "b/x"]),
        (&["alone"], &["alone"]),
        // Where the last two parts are the same, all of them.
        (&["data/b/x", "more/data/b/x"], &["data/b/x", "more/data/b/x"]),
    ] {
        let _ = fs::remove_dir_all(d.join("flow"));
        let Some(out) = run(d, input) else { return };
        assert!(out.status.success(), "{input:?}: {}", error(&out));
        let found: Vec<PathBuf> = fields(&d.join("flow")).into_keys().collect();
        let expected: Vec<PathBuf> = names.iter().map(|n| Path::new(n).join("flow_00000.flo")).collect();
        assert_eq!(found, expected, "{input:?}");
    }
    let e = error(&run(d, &["labels.txt"]).unwrap());
    assert!(e.contains("labels.txt") && e.contains("No such file"), "{e}");
    fs::create_dir(d.join("empty")).unwrap();
    let e = error(&run(d, &["empty"]).unwrap());
    assert!(e.contains("empty has no videos"), "{e}");
}

#[test]
fn pictures_are_drawn_when_asked_for_and_a_pair_of_images_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    video(&d.join("a"), 3, SIDE, [1, 0]);
    let Some(out) = run(d, &["a", "--pictures"]) else { return };
    let line = summary(&out);
    assert_eq!((line["frames"].as_u64(), line["width"].as_u64()), (Some(3), Some(40)));
    assert_eq!(image::open(d.join("flow/a/flow_00001.png")).unwrap().width(), SIDE);
    let pair = ["a/0.png", "a/1.png", "--out", "pair", "--epe", "flow/a/flow_00000.flo"];
    let mut command = Command::new(example("extract_flow").unwrap());
    let line = summary(&command.current_dir(d).args(pair).args(["--device", "cpu"]).output().unwrap());
    assert_eq!(line["epe"].as_f64(), Some(0.0));
    assert_eq!(flo::read(d.join("pair/flow.flo")).unwrap(), flo::read(d.join("flow/a/flow_00000.flo")).unwrap());
    assert!(image::open(d.join("pair/flow.png")).unwrap().width() == SIDE);
}

#[test]
fn pictures_asked_for_later_are_drawn_without_computing_the_flow_again() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    video(&d.join("a"), 3, SIDE, [1, 0]);
    let Some(out) = run(d, &["a"]) else { return };
    summary(&out);
    let before = fields(d);
    let line = summary(&run(d, &["a", "--pictures"]).unwrap());
    assert_eq!((line["videos_there"].as_u64(), line["videos_written"].as_u64()), (Some(1), Some(0)), "{line}");
    assert!(image::open(d.join("flow/a/flow_00001.png")).unwrap().width() == SIDE && fields(d) == before);
}

/// The flow of a video that changed, or of another with its name, looked as if it was of this one.
#[test]
fn flow_of_another_video_is_not_taken_for_this_ones() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    video(&d.join("one/a/v"), 3, SIDE, [1, 0]);
    video(&d.join("two/a/v"), 4, SIDE, [0, 1]);
    let Some(out) = run(d, &["one"]) else { return };
    summary(&out);
    let before = fields(d);
    let e = error(&run(d, &["two"]).unwrap());
    assert!(e.contains("flow/a/v has the flow of another video") && fields(d) == before, "{e}");
    video(&d.join("one/a/v"), 3, SIDE, [0, 2]);
    let e = error(&run(d, &["one"]).unwrap());
    assert!(e.contains("before it changed: remove it"), "{e}");
    fs::remove_dir_all(d.join("flow/a/v")).unwrap();
    assert_eq!(summary(&run(d, &["one"]).unwrap())["videos_written"].as_u64(), Some(1));
}

#[test]
fn a_picture_cut_short_has_no_flow() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let picture = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * y) as u8, (x * 7) as u8, (y * 5) as u8]));
    for name in ["a.jpg", "b.jpg"] {
        picture.save(d.join(name)).unwrap();
    }
    let bytes = fs::read(d.join("b.jpg")).unwrap();
    fs::write(d.join("b.jpg"), &bytes[..bytes.len() * 2 / 3]).unwrap();
    let Some(out) = run(d, &["a.jpg", "b.jpg"]) else { return };
    let e = error(&out);
    assert!(e.contains("b.jpg") && e.contains("cut short") && !d.join("flow").exists(), "{e}");
}

/// The flow of two pictures went into any folder, and replaced the summary of the run in it.
#[test]
fn flow_of_two_pictures_does_not_go_into_another_programs_folder() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    video(&d.join("a"), 2, SIDE, [1, 0]);
    fs::create_dir(d.join("flow")).unwrap();
    fs::write(d.join("flow/settings.json"), r#"{"program": "pretrain_maclr"}"#).unwrap();
    fs::write(d.join("flow/summary.json"), "mine").unwrap();
    let Some(out) = run(d, &["a/0.png", "a/1.png"]) else { return };
    let e = error(&out);
    assert!(e.contains("--out") && e.contains("pretrain_maclr began this run"), "{e}");
    assert_eq!(fs::read_to_string(d.join("flow/summary.json")).unwrap(), "mine");
    // Its own folder takes the next pair.
    for pair in [["a/0.png", "a/1.png"], ["a/1.png", "a/0.png"]] {
        let mut command = Command::new(example("extract_flow").unwrap());
        summary(&command.current_dir(d).args(pair).args(["--out", "pair", "--device", "cpu"]).output().unwrap());
    }
}

#[test]
fn an_absent_path_of_a_list_is_named_with_its_line_and_a_byte_order_mark_is_no_part_of_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    ["data/a/x", "data/b/x"].iter().for_each(|name| video(&d.join(name), 2, 16, [1, 0]));
    fs::write(d.join("marked.txt"), "\u{feff}data/a/x\r\ndata/b/x\r\n").unwrap();
    let Some(out) = run(d, &["marked.txt"]) else { return };
    assert_eq!(summary(&out)["videos_written"].as_u64(), Some(2));
    for (text, said) in [
        ("data/a/x\n# more\n\nnone/y\ndata/b/x\n", "none/y in line 4 is not there"),
        ("none/y\ndata/a/x\nnone/z\n", "none/y in line 1 is not there; so it is with 1 more"),
        ("none/y.mp4\n", "none/y.mp4 in line 1 is not there"),
    ] {
        fs::write(d.join("paths.txt"), text).unwrap();
        let e = error(&run(d, &["paths.txt"]).unwrap());
        assert!(e.contains(&format!("paths.txt is a list of paths, and {said}")), "{e}");
    }
}

/// It ended the drawing of all pictures, and was not noticed without them.
#[test]
fn a_field_cut_short_is_named_and_the_other_videos_are_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    ["data/c/p", "data/c/q"].iter().for_each(|name| video(&d.join(name), 3, SIDE, [1, 0]));
    let Some(out) = run(d, &["data"]) else { return };
    summary(&out);
    let (field, partial) = (d.join("flow/c/p/flow_00001.flo"), d.join("flow/c/q/flow_00001.png.1.tmp"));
    let whole = fs::read(&field).unwrap();
    fs::write(&field, &whole[..whole.len() / 2]).unwrap();
    fs::write(&partial, "of a killed process").unwrap();
    for more in [&[][..], &["--pictures"]] {
        let e = error(&run(d, &[&["data"][..], more].concat()).unwrap());
        let words =
            ["1 of 2 videos", "c/p: ", "flow_00001.flo is cut short", "remove flow/c/p, and it is computed again"];
        assert!(words.iter().all(|word| e.contains(word)), "{e}");
    }
    assert!(d.join("flow/c/q/flow_00001.png").is_file() && !partial.exists());
    // As long as the others, and no flow.
    fs::write(&field, vec![0; whole.len()]).unwrap();
    let e = error(&run(d, &["data", "--pictures"]).unwrap());
    assert!(e.contains("c/p: ") && e.contains("this is not a .flo file") && e.contains("remove flow/c/p"), "{e}");
}

#[test]
fn a_run_that_computes_nothing_keeps_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    video(&d.join("a"), 3, SIDE, [1, 0]);
    let Some(out) = run(d, &["a", "--threads", "2"]) else { return };
    let first = summary(&out);
    let names = ["pairs", "seconds", "pairs_per_second", "largest_motion", "frames", "width", "threads"];
    let again = summary(&run(d, &["a", "--threads", "1"]).unwrap());
    assert_eq!((again["videos_there"].as_u64(), again["videos_written"].as_u64()), (Some(1), Some(0)));
    assert!(first["pairs"] == 2 && names.iter().all(|name| first[*name] == again[*name]), "{first} {again}");
    // Where nobody has measured, there is nothing.
    fs::remove_file(d.join("flow/summary.json")).unwrap();
    let without = summary(&run(d, &["a"]).unwrap());
    assert!(names[..4].iter().all(|name| without[*name].is_null()), "{without}");
}
