//! FFmpeg's libraries within this process give what its programs give: the same clips to the bit, and the same refusals.

use std::fs;
use std::mem::discriminant;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tubelet::error::ErrorKind;
use tubelet::video::ffmpeg::Decoder;
use tubelet::video::{Clip, Decode, Ffmpeg};

use crate::support::videos::{encode, ffmpeg, put, shared_data};

const HOW: Decode = Decode { short_side: Some(40), fps: None, max_frames: None, folder_fps: 25.0, max_bytes: 1 << 28 };

/// What both give of a file; `None` when they refuse it, for the same reason.
fn both(path: &Path, part: Option<[u64; 2]>, how: &Decode) -> Option<Clip> {
    let stop = AtomicBool::new(false);
    assert_eq!(Ffmpeg::default().decoder, Decoder::Libraries);
    let [programs, within] =
        [Ffmpeg::programs(), Ffmpeg::default()].map(|with| with.decode_until(path, part, how, &stop));
    let name = path.file_name().unwrap().to_string_lossy();
    match (programs, within) {
        (Ok(a), Ok(b)) => {
            let shape = |c: &Clip| (c.t, c.h, c.w, c.fps);
            let first = (0..a.t).find(|&i| a.frame(i) == b.frame(0));
            assert_eq!(
                shape(&b),
                shape(&a),
                "{name} {part:?} {how:?}: the first frame is that at {first:?} of the programs"
            );
            let differs = (0..a.t).find(|&i| a.frame(i) != b.frame(i));
            assert_eq!(differs, None, "the first frame that differs; {name} {part:?} {how:?}");
            Some(a)
        }
        (Err(a), Err(b)) => {
            // The programs' times have six digits.
            let told = |e: &tubelet::error::Error| {
                let text = e.to_string();
                text.split_once("time stamps span").map_or(text.clone(), |(before, _)| before.to_owned())
            };
            assert_eq!(told(&b), told(&a), "{name} {part:?} {how:?}");
            assert_eq!(discriminant(b.kind()), discriminant(a.kind()), "{name}: {a}");
            None
        }
        (a, b) => panic!("{name} {part:?} {how:?}: {:?} by the programs, {:?} within", a.map(|c| c.t), b.map(|c| c.t)),
    }
}

/// In every way of asking for it.
fn in_every_way(path: &Path) {
    let with = |fps, max_frames, short_side| Decode { fps, max_frames, short_side, ..HOW };
    let [probed, within] = [Ffmpeg::programs(), Ffmpeg::default()].map(|with| with.probe(path));
    assert_eq!(within.ok(), probed.ok(), "{}", path.display());
    for how in [HOW, with(None, None, None), with(Some(10.0), None, Some(24)), with(None, Some(7), Some(33))] {
        both(path, None, &how);
    }
    both(path, None, &Decode { max_bytes: 40 * 40 * 3 * 9, ..HOW });
    both(path, None, &Decode { fps: Some(60.0), max_frames: Some(25), ..HOW });
    // Behind the end of a transport stream the programs may give its last frame.
    let parts = [[0, 400], [700, 1500], [1000, 900_000], [900_000, 900_100]];
    let parts = if path.extension().is_some_and(|e| e == "ts") { &parts[..3] } else { &parts };
    for &part in parts {
        both(path, Some(part), &HOW);
        both(path, Some(part), &with(Some(7.0), None, Some(24)));
    }
}

#[test]
fn real_files_and_those_with_odd_clocks_are_the_same() {
    let (Some(_), Some(data)) = (ffmpeg(), shared_data()) else { return };
    for folder in ["videos", "faults"] {
        for entry in fs::read_dir(data.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e != "md") {
                in_every_way(&path);
            }
        }
    }
}

#[test]
fn made_files_are_the_same() {
    let Some(_) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let source = "-f lavfi -i testsrc2=size=101x67:rate=30:duration=2";
    let sound = format!("{source} -f lavfi -i sine=duration=3 -map 0:v -map 1:a");
    let gap = "-vf setpts=(N+30*gte(N\\,30))/30/TB -fps_mode passthrough";
    for (name, arguments) in [
        ("b.mp4", format!("{source} -c:v libx264 -g 12 -bf 3 -pix_fmt yuv420p")),
        ("full.mkv", format!("{source} -c:v libx264 -pix_fmt yuvj444p")),
        ("ten.mkv", format!("{source} -c:v libx264 -pix_fmt yuv422p10le")),
        ("interlaced.ts", format!("{source} -c:v mpeg2video -flags +ildct+ilme -pix_fmt yuv420p")),
        ("sound.mkv", format!("{sound} -c:v mpeg4")),
        ("sound.avi", format!("{sound} -c:v mpeg4")),
        ("sound.wmv", format!("{sound} -c:v wmv2")),
        ("sound.flv", format!("{sound} -c:v flv -ar 44100")),
        ("vp9.webm", format!("{source} -c:v libvpx-vp9 -deadline realtime -cpu-used 8")),
        ("rgb.mkv", format!("{source} -c:v ffv1 -pix_fmt bgr0")),
        ("gap.mkv", format!("{source} {gap} -enc_time_base 1/600 -c:v mpeg4")),
        ("gap.mp4", format!("{source} {gap} -enc_time_base 1/600 -c:v mpeg4")),
        ("few.gif", source.to_owned()),
        ("wide.mkv", format!("{source} -vf setsar=4/3 -c:v mpeg4")),
        ("wraps.ts", format!("{source} -c:v mpeg2video -output_ts_offset 95442.7")),
        ("one.mp4", format!("{source} -frames:v 1 -c:v mpeg4")),
        ("two.mkv", format!("{source} -f lavfi -i testsrc=rate=10:duration=1 -map 1:v -map 0:v -c:v mpeg4")),
        ("sound.m4a", "-f lavfi -i sine=duration=1".to_owned()),
    ] {
        if let Some(path) = encode(dir, name, &arguments) {
            in_every_way(&path);
        }
    }
    // Cut between key frames; and a transport stream that starts again in its middle.
    if let Some(whole) = encode(dir, "whole.mp4", &format!("{source} -c:v libx264 -g 20 -bf 3")) {
        for name in ["cut.mp4", "cut.mkv", "cut.ts", "cut.flv"] {
            let cut = format!("-ss 0.8 -i {} -t 1 -c copy", whole.display());
            encode(dir, name, &cut).iter().for_each(|path| in_every_way(path));
        }
    }
    if let Some(part) = encode(dir, "part.ts", &format!("{source} -c:v mpeg2video -q:v 2")) {
        let bytes = fs::read(part).unwrap();
        let twice = dir.join("twice.ts");
        fs::write(&twice, [bytes.clone(), bytes].concat()).unwrap();
        both(&twice, None, &HOW);
        both(&twice, None, &Decode { fps: Some(10.0), ..HOW });
    }
    // Turned in every way, with a size of which each side is told from the other.
    if let Some(upright) = encode(dir, "upright.mp4", &format!("{source} -vf crop=96:64 -c:v mpeg4")) {
        for degrees in ["90", "180", "270", "45"] {
            let (name, input) = (format!("turned{degrees}.mp4"), upright.display());
            let turned = encode(dir, &name, &format!("-display_rotation {degrees} -i {input} -c copy"))
                .or_else(|| encode(dir, &name, &format!("-i {input} -c copy -metadata:s:v rotate={degrees}")));
            turned.iter().for_each(|path| in_every_way(path));
        }
    }
}

#[test]
fn broken_files_are_refused_in_the_same_words() {
    let Some(_) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, text) in [("empty.mp4", String::new()), ("text.mp4", "This is no video at all.\n".repeat(40))] {
        assert!(both(&put(dir, name, &text), None, &HOW).is_none());
    }
    assert!(both(&dir.join("absent.mp4"), None, &HOW).is_none());
    assert!(both(dir, None, &HOW).is_none());
    let source = "-f lavfi -i testsrc2=size=128x96:rate=25:duration=4 -g 10";
    let mut refused = 0;
    for (name, codec) in [
        ("x.mp4", "libx264"),
        ("x.avi", "mpeg4"),
        ("x.mkv", "libx264"),
        ("x.webm", "libvpx"),
        ("x.ts", "mpeg2video"),
        ("x.flv", "flv"),
    ] {
        let Some(path) = encode(dir, name, &format!("{source} -c:v {codec}")) else { continue };
        let whole = fs::read(&path).unwrap();
        let mut random = 1u64;
        for kept in [0.02, 0.3, 0.5, 0.8, 0.97] {
            fs::write(&path, &whole[..(whole.len() as f64 * kept) as usize]).unwrap();
            refused += usize::from(both(&path, None, &HOW).is_none());
        }
        // Bytes that were changed, more and more of them. (Where most are changed, the format may be taken for another, and a
        // clock that jumps at random is not corrected in the same way.)
        for damaged in [1usize, 10, 100, 1000] {
            let mut bytes = whole.clone();
            for _ in 0..damaged {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (random >> 20) as usize % bytes.len();
                bytes[at] = (random >> 56) as u8;
            }
            fs::write(&path, &bytes).unwrap();
            refused += usize::from(both(&path, None, &HOW).is_none());
        }
    }
    assert!(refused > 10, "{refused} were refused");
}

#[test]
fn the_stop_flag_and_the_time_limit_end_it() {
    let Some(_) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=size=640x480:rate=25:duration=40 -c:v mpeg4";
    let Some(long) = encode(dir.path(), "long.mp4", source) else { return };
    let (stop, began) = (AtomicBool::new(true), Instant::now());
    let error = Ffmpeg::default().decode_until(&long, None, &HOW, &stop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Stopped { .. }), "{error}");
    stop.store(false, Ordering::Relaxed);
    let error = std::thread::scope(|s| {
        let decoding = s.spawn(|| Ffmpeg::default().decode_until(&long, None, &Decode::default(), &stop));
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        decoding.join().unwrap().unwrap_err()
    });
    assert!(matches!(error.kind(), ErrorKind::Stopped { .. }) && began.elapsed().as_secs() < 5, "{error}");
    let hurried = Ffmpeg { timeout: Duration::ZERO, ..Ffmpeg::default() };
    let error = hurried.decode(&long, &HOW).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Program { .. }) && error.to_string().contains("for 0 s"), "{error}");
    assert!(Ffmpeg::default().version().unwrap().contains("libraries"));
}

/// Many threads decode at once, and each hears of its own file alone.
#[test]
fn threads_do_not_hear_of_the_files_of_others() {
    let Some(_) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let Some(good) = encode(dir, "good.mp4", "-f lavfi -i testsrc2=size=64x48:duration=1 -c:v mpeg4") else { return };
    let bad = put(dir, "bad.mp4", &"No video.\n".repeat(500));
    let want = Ffmpeg::programs().decode(&good, &HOW).unwrap();
    let refused = Ffmpeg::programs().decode(&bad, &HOW).unwrap_err().to_string();
    std::thread::scope(|s| {
        for thread in 0..4 {
            let (good, bad, want, refused) = (&good, &bad, &want, &refused);
            s.spawn(move || {
                for round in 0..8 {
                    if (thread + round) % 2 == 0 {
                        assert!(Ffmpeg::default().decode(good, &HOW).unwrap() == *want);
                    } else {
                        assert_eq!(Ffmpeg::default().decode(bad, &HOW).unwrap_err().to_string(), *refused);
                    }
                }
            });
        }
    });
}
