//! Video files through `ffmpeg`: real ones, odd ones, broken ones, and an `ffmpeg` that misbehaves.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tubelet::error::{ErrorKind, Result};
use tubelet::video::{Clip, Decode, Ffmpeg};

use crate::support::videos::{ANSWER, encode, ffmpeg, put, script, shared_data};

fn small(side: usize) -> Decode {
    Decode { short_side: Some(side), ..Default::default() }
}

fn why(result: Result<Clip>) -> String {
    result.expect_err("should have been refused").to_string()
}

#[test]
fn real_files_of_every_codec_decode() {
    let (Some(ffmpeg), Some(data)) = (ffmpeg(), shared_data()) else { return };
    // Name, frames, rate, height and width as shown.
    let files = [
        ("v_ApplyEyeMakeup_g01_c01.avi", 164, 25.0, 240, 320),
        ("v_BaseballPitch_g01_c01.avi", 107, 30000.0 / 1001.0, 240, 320),
        ("v_BaseballPitch_g01_c01.webm", 107, 30000.0 / 1001.0, 240, 320),
        ("arm_wrestling.mp4", 280, 28.0, 256, 340),
        ("rotated_90.mov", 3, 30.0, 568, 320),
    ];
    for (name, t, fps, h, w) in files {
        let path = data.join("videos").join(name);
        let probe = ffmpeg.probe(&path).unwrap();
        assert_eq!((probe.h, probe.w, probe.fps), (h, w, Some(fps)), "{name}");
        let clip = ffmpeg.decode(&path, &small(64)).unwrap();
        assert_eq!((clip.t, clip.h.min(clip.w), clip.fps), (t, 64, fps), "{name}");
        assert_eq!(clip.h > clip.w, h > w, "{name}");
        let half = Decode { fps: Some(fps / 2.0), max_frames: Some(20), ..small(64) };
        let half = ffmpeg.decode(&path, &half).unwrap();
        assert_eq!(half.t, t.div_ceil(2).min(20), "{name}");
    }
    // The same recording in two codecs, frame by frame.
    let [a, b] = ["avi", "webm"]
        .map(|e| ffmpeg.decode(&data.join(format!("videos/v_BaseballPitch_g01_c01.{e}")), &small(64)).unwrap());
    let difference = |i: usize, j: usize| -> f64 {
        a.frame(i).iter().zip(b.frame(j)).map(|(x, y)| f64::from(x.abs_diff(*y))).sum::<f64>() / a.frame(i).len() as f64
    };
    for i in [0, 53, 106] {
        assert!(difference(i, i) < 4.0, "frame {i} differs by {}", difference(i, i));
    }
    assert!(difference(53, 53) < difference(53, 56), "frames are not shifted");
}

#[test]
fn odd_sizes_rotation_and_variable_rate() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let source = "-f lavfi -i testsrc=size=101x67:rate=20:duration=1 -pix_fmt yuv420p";
    if let Some(odd) = encode(dir, "odd - 'name' %d [x].avi", &format!("{source} -c:v mpeg4")) {
        let clip = ffmpeg.decode(&odd, &Decode::default()).unwrap();
        assert_eq!((clip.t, clip.h, clip.w, clip.fps), (20, 67, 101, 20.0));
        let clip = ffmpeg.decode(&odd, &small(33)).unwrap();
        assert_eq!((clip.h, clip.w), (33, 50));
        let how = Decode { max_bytes: 101 * 67 * 3 * 19, ..Default::default() };
        assert!(why(ffmpeg.decode(&odd, &how)).contains("exceed"));
        let how = Decode { max_bytes: 101 * 67 * 3 * 19, max_frames: Some(19), ..Default::default() };
        assert_eq!(ffmpeg.decode(&odd, &how).unwrap().t, 19);
        let how = Decode { max_bytes: 10, ..Default::default() };
        assert!(why(ffmpeg.decode(&odd, &how)).contains("exceed"));
    }
    // White begins at 1 s of 2 s, after 20 frames, and lasts 5 frames: about half of the time is white all the same
    // (how long the last frame lasts, the container does not say).
    let variable = "-f lavfi -i color=black:size=64x48:rate=20:duration=1 -f lavfi -i color=white:size=64x48:rate=5:duration=1 \
                    -filter_complex [0][1]concat=n=2,settb=1/1000 -fps_mode vfr -c:v mpeg4";
    if let Some(variable) = encode(dir, "variable.mkv", variable) {
        let probe = ffmpeg.probe(&variable).unwrap();
        let clip = ffmpeg.decode(&variable, &Decode { fps: Some(10.0), ..Default::default() }).unwrap();
        let white = (0..clip.t).filter(|&i| clip.frame(i)[0] > 128).count();
        assert!((8..=11).contains(&white) && (18..=21).contains(&clip.t), "{white} of {} white, {probe:?}", clip.t);
    }
    if let Some(upright) = encode(dir, "upright.mp4", &format!("{source} -vf crop=96:64 -c:v mpeg4")) {
        let turned = encode(dir, "turned.mp4", &format!("-display_rotation 90 -i {} -c copy", upright.display()))
            .or_else(|| {
                encode(dir, "turned.mp4", &format!("-i {} -c copy -metadata:s:v rotate=90", upright.display()))
            });
        if let Some(turned) = turned {
            let clip = ffmpeg.decode(&turned, &small(32)).unwrap();
            let probe = ffmpeg.probe(&turned).unwrap();
            assert_eq!((clip.h > clip.w, clip.t), (probe.h > probe.w, 20));
        }
    }
}

#[test]
fn broken_files_are_refused_by_name() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let refused = |path: &Path, part: &str| {
        let error = ffmpeg.decode(path, &Decode::default()).unwrap_err();
        let text = error.to_string();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(text.contains(&name) && text.contains(part), "{name}: {text}");
        assert!(matches!(error.kind(), ErrorKind::Data { .. } | ErrorKind::Io { .. }), "{error:?}");
    };
    refused(&put(dir, "empty.mp4", ""), "the file is empty");
    refused(&put(dir, "text.mp4", &"This is no video at all.\n".repeat(40)), "no video");
    refused(&dir.join("absent.mp4"), "cannot read");
    refused(dir, "this is a folder");
    if let Some(sound) = encode(dir, "sound.m4a", "-f lavfi -i sine=duration=1") {
        refused(&sound, "sound but no moving picture");
    }
    let source = "-f lavfi -i testsrc2=size=128x96:rate=25:duration=4 -c:v mpeg4 -g 10";
    for (name, keep) in [("cut.mp4", 0.5), ("cut.avi", 0.5), ("stub.avi", 0.02)] {
        let Some(whole) = encode(dir, name, source) else { continue };
        assert_eq!(ffmpeg.decode(&whole, &Decode::default()).unwrap().t, 100);
        let bytes = fs::read(&whole).unwrap();
        fs::write(&whole, &bytes[..(bytes.len() as f64 * keep) as usize]).unwrap();
        refused(&whole, "");
    }
}

#[test]
fn programs_that_misbehave_are_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let file = put(dir, "video.mp4", "never read");
    let probe = script(dir, "probe", &format!("echo '{ANSWER}'"));
    let mark = dir.join("child");
    let with = |program: &str| Ffmpeg {
        program: script(dir, "ffmpeg", program),
        probe: probe.clone(),
        timeout: Duration::from_secs(60),
        ..Ffmpeg::programs()
    };
    let hurried = |program: &str| Ffmpeg { timeout: Duration::from_millis(1500), ..with(program) };
    let how = Decode { max_frames: Some(4), ..Default::default() };
    let began = Instant::now();
    // Its child, which holds the pipes, must go with it.
    let hang = hurried(&format!("(sleep 4; touch {}) & printf 'some bytes'; wait", mark.display()));
    let error = hang.decode(&file, &how).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Program { .. }));
    assert!(error.to_string().contains("wrote nothing for 1.5 s while reading"), "{error}");
    // Talking on standard error is no sign of life, and costs no memory.
    let text = why(hurried("while :; do echo complaint >&2; done").decode(&file, &how));
    assert!(text.contains("wrote nothing for"), "{text}");
    let text = why(with("exec cat /dev/zero").decode(&file, &how));
    assert!(text.contains("wrote more than the 768 bytes"), "{text}");
    let text = why(with("echo '[x @ 0x55aa] the disk ate it' >&2; exit 3").decode(&file, &how));
    assert!(text.contains("video.mp4") && text.contains(": the disk ate it"), "{text}");
    let text = why(with("head -c 200 /dev/zero; exit 1").decode(&file, &how));
    assert!(text.contains("decoding stopped after 1 frames"), "{text}");
    let text = why(hurried("head -c 200 /dev/zero; exec sleep 60 >&- 2>&-").decode(&file, &how));
    assert!(text.contains("wrote nothing for"), "{text}");
    let times = "for t in 0 0.04 0.08 0.12; do echo \"[Parsed_showinfo_1 @ 0x55] [info] n: 0 pts: 0 pts_time:$t pos: 1\" >&2; done";
    assert_eq!(with(&format!("{times}; head -c 768 /dev/zero")).decode(&file, &how).unwrap().t, 4);
    // Where the header tells no rate, the times do.
    let silent = script(dir, "silent", &format!("echo '{}'", ANSWER.replace("25/1", "0/0")));
    let clip =
        Ffmpeg { probe: silent, ..with(&format!("{times}; head -c 768 /dev/zero")) }.decode(&file, &how).unwrap();
    assert_eq!((clip.t, (100.0 * clip.fps).round()), (4, 2500.0));
    let text = why(with("head -c 768 /dev/zero").decode(&file, &how));
    assert!(text.contains("does not tell the times"), "{text}");
    // What versions before 5.1 say to an option they do not know.
    let old = format!(
        "case \"$*\" in *fps_mode*) echo \"Unrecognized option 'fps_mode'.\" >&2; exit 1;; esac; {times}; head -c 768 /dev/zero"
    );
    assert_eq!(with(&old).decode(&file, &how).unwrap().t, 4);
    std::thread::sleep(Duration::from_millis(5000).saturating_sub(began.elapsed()));
    assert!(!mark.exists(), "the child of a stopped program lived on");

    // Killed by another, as for want of memory, says nothing of the video; a crash may.
    for (signal, of_the_machine) in [("KILL", true), ("SEGV", false)] {
        let error = with(&format!("head -c 200 /dev/zero; kill -{signal} $$")).decode(&file, &how).unwrap_err();
        assert_eq!(error.is_of_the_machine(), of_the_machine, "{error}");
    }

    let absent = Ffmpeg { program: dir.join("no-such-program"), probe: dir.join("nor-this"), ..Ffmpeg::programs() };
    for text in [why(absent.decode(&file, &how)), absent.version().unwrap_err().to_string()] {
        assert!(text.contains("apt-get install ffmpeg"), "{text}");
    }
    for (answer, part) in [
        ("nonsense", "not understood"),
        ("{}", "no video stream"),
        (r#"{"streams":[{"codec_type":"video","width":-1,"height":8,"avg_frame_rate":"25/1"}]}"#, "-1 x 8"),
        (r#"{"streams":[{"codec_type":"video","width":99999999,"height":8,"avg_frame_rate":"25/1"}]}"#, "99999999 x 8"),
        (
            r#"{"streams":[{"codec_type":"video","width":8,"height":8,"avg_frame_rate":"0/0"}]}"#,
            "frame rate is unknown",
        ),
    ] {
        let one = "echo '[Parsed_showinfo_1 @ 0x55] [info] n: 0 pts: 0 pts_time:0 pos: 1' >&2; head -c 192 /dev/zero";
        let odd = Ffmpeg { probe: script(dir, "odd", &format!("echo '{answer}'")), ..with(one) };
        let text = why(odd.decode(&file, &how));
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_hanging_program_is_given_up_when_the_flag_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let file = put(dir, "video.mp4", "never read");
    let probe = script(dir, "probe", &format!("echo '{ANSWER}'"));
    let started = dir.join("started");
    let hang = script(dir, "hang", &format!("touch {}; exec sleep 3600", started.display()));
    // The one that hangs may be either of the two.
    for (program, probe) in [(&hang, &probe), (&probe, &hang)] {
        let with = Ffmpeg {
            program: program.clone(),
            probe: probe.clone(),
            timeout: Duration::from_secs(3600),
            ..Ffmpeg::programs()
        };
        let stop = AtomicBool::new(false);
        let _ = fs::remove_file(&started);
        let error = std::thread::scope(|s| {
            let decoding = s.spawn(|| with.decode_until(&file, None, &Decode::default(), &stop).unwrap_err());
            while !started.exists() {
                std::thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, Ordering::Relaxed);
            decoding.join().unwrap()
        });
        assert!(matches!(error.kind(), ErrorKind::Stopped { .. }), "{error}");
    }
}

const WAIT_DIR: &str = "TUBELET_TEST_WAIT_DIR";

/// Not a test: what [`a_suspended_process_does_not_blame_the_program`] runs in a process of its own and suspends.
#[test]
#[ignore = "run by a_suspended_process_does_not_blame_the_program"]
fn decode_what_is_written_late() {
    let Some(dir) = std::env::var_os(WAIT_DIR) else { return };
    let dir = Path::new(&dir);
    let with = Ffmpeg {
        program: dir.join("late"),
        probe: dir.join("probe"),
        timeout: Duration::from_secs(4),
        ..Ffmpeg::programs()
    };
    let how = Decode { max_frames: Some(1), ..Default::default() };
    assert_eq!(with.decode(&dir.join("video.mp4"), &how).unwrap().t, 1);
}

/// The time limit of a program does not count the time for which this process did not run.
#[test]
fn a_suspended_process_does_not_blame_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, "video.mp4", "never read");
    script(dir, "probe", &format!("echo '{ANSWER}'"));
    let [started, go] = ["started", "go"].map(|name| dir.join(name));
    let frame = "echo '[Parsed_showinfo_1 @ 0x55] [info] n: 0 pts: 0 pts_time:0 pos: 1' >&2; head -c 192 /dev/zero";
    let wait = format!("touch {}; until [ -e {} ]; do sleep 0.05; done", started.display(), go.display());
    script(dir, "late", &format!("{wait}; {frame}"));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "video::ffmpeg::decode_what_is_written_late", "--ignored"])
        .env(WAIT_DIR, dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !started.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the program was started");
        std::thread::sleep(Duration::from_millis(10));
    }
    let signal = |signal: &str| {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    };
    signal("-STOP");
    std::thread::sleep(Duration::from_secs(5));
    signal("-CONT");
    // It looks at the program again before there is something to read.
    std::thread::sleep(Duration::from_millis(500));
    put(dir, "go", "");
    assert!(child.wait().unwrap().success());
}

const HANG_DIR: &str = "TUBELET_TEST_HANG_DIR";

/// Not a test: what [`a_program_does_not_outlive_a_process_that_is_killed`] runs in a process of its own and kills.
#[test]
#[ignore = "run by a_program_does_not_outlive_a_process_that_is_killed"]
fn decode_until_killed() {
    let Some(dir) = std::env::var_os(HANG_DIR) else { return };
    let dir = Path::new(&dir);
    let with = Ffmpeg {
        program: dir.join("hang"),
        probe: dir.join("probe"),
        timeout: Duration::from_secs(3600),
        ..Ffmpeg::programs()
    };
    let _ = with.decode(&dir.join("video.mp4"), &Decode::default());
}

#[test]
#[cfg(target_os = "linux")]
fn a_program_does_not_outlive_a_process_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, "video.mp4", "never read");
    script(dir, "probe", &format!("echo '{ANSWER}'"));
    let pid = dir.join("pid");
    script(dir, "hang", &format!("echo $$ > {0}.part; mv {0}.part {0}; exec sleep 3600", pid.display()));
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "video::ffmpeg::decode_until_killed", "--ignored"])
        .env(HANG_DIR, dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !pid.exists() {
        assert!(parent.try_wait().unwrap().is_none(), "it ended before the program was started");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    // Gone, or dead and not yet waited for.
    let alive = || {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    let waits = (0..1000).take_while(|_| alive()).map(|_| std::thread::sleep(Duration::from_millis(10))).count();
    assert!(waits < 1000, "process {pid} lives on");
}
