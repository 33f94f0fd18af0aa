//! Video files whose clock is not simple: gaps, late starts, sound that goes on, sizes that change, odd rates.
//!
//! Frame `n` of a test video has the grey level `20 + 2 n`, so that a clip says itself which frames it shows.

use std::path::{Path, PathBuf};

use tubelet::video::{Clip, Decode, Ffmpeg};

use crate::support::videos::{encode, ffmpeg, shared_data};

const SMALL: Decode =
    Decode { short_side: Some(16), fps: None, max_frames: None, folder_fps: 25.0, max_bytes: 2 << 30 };

/// Numbers of the frames that a clip shows, by the grey of their middle.
fn shown(clip: &Clip) -> Vec<usize> {
    let middle = (clip.h / 2 * clip.w + clip.w / 2) * 3;
    (0..clip.t).map(|i| ((f64::from(clip.frame(i)[middle + 1]) - 20.0) / 2.0).round() as usize).collect()
}

/// Frames of grey levels by their numbers, `expr` applied to the frame number `N` of the source.
fn grey(frames: usize, rate: &str) -> String {
    format!(
        "-f lavfi -i color=black:size=64x48:rate={rate},trim=end_frame={frames},format=gray,geq=lum=20+2*N,format=yuvj420p"
    )
}

fn fault(name: &str) -> Option<(Ffmpeg, PathBuf)> {
    let (ffmpeg, data) = (ffmpeg()?, shared_data()?);
    Some((ffmpeg, data.join("faults").join(name)))
}

fn near(got: &[usize], want: &[usize], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: {got:?}");
    // A lossy codec may be off by a level or two.
    let off = got.iter().zip(want).position(|(g, w)| g.abs_diff(*w) > 1);
    assert_eq!(off, None, "{what}: {got:?}, not {want:?}");
}

#[test]
fn a_video_with_gaps_keeps_its_clock() {
    let Some((ffmpeg, few)) = fault("few.mkv") else { return };
    let clip = ffmpeg.decode(&few, &SMALL).unwrap();
    assert_eq!((clip.t, clip.fps), (100, 25.0));
    // One frame in thirteen is absent: its place shows the one before.
    let want: Vec<usize> = (0..100).map(|i| if i % 13 == 6 { i - 1 } else { i }).collect();
    near(&shown(&clip), &want, "few.mkv");
    assert!((0..100).filter(|i| i % 13 == 6).all(|i| clip.frame(i) == clip.frame(i - 1)));
    // At half the rate: the same clock.
    let half = ffmpeg.decode(&few, &Decode { fps: Some(12.5), ..SMALL }).unwrap();
    assert_eq!(half.t, 50);
    assert!((0..50).all(|i| half.frame(i) == clip.frame(2 * i)));
}

#[test]
fn null_frames_of_an_avi_show_the_frame_before() {
    let Some((ffmpeg, null)) = fault("null.avi") else { return };
    let clip = ffmpeg.decode(&null, &SMALL).unwrap();
    assert_eq!((clip.t, clip.fps), (100, 25.0));
    near(&shown(&clip), &(0..100).map(|i| if (20..80).contains(&i) { 19 } else { i }).collect::<Vec<_>>(), "null.avi");
    let part = ffmpeg.decode(&null, &Decode { max_frames: Some(30), ..SMALL }).unwrap();
    assert_eq!(part.rgb, clip.rgb[..part.rgb.len()]);
    assert_eq!(part.t, 30);
}

#[test]
fn sound_may_outlast_the_picture() {
    let Some((ffmpeg, long)) = fault("longsound.mkv") else { return };
    let clip = ffmpeg.decode(&long, &SMALL).unwrap();
    near(&shown(&clip), &(0..100).collect::<Vec<_>>(), "longsound.mkv");
    let dir = tempfile::tempdir().unwrap();
    let sound = "-f lavfi -i sine=duration=8 -map 0:v -map 1:a";
    for (name, codecs) in [
        ("sound.webm", "-c:v libvpx -deadline realtime -c:a libvorbis"),
        ("sound.wmv", "-c:v wmv2 -q:v 2 -c:a wmav2"),
        ("sound.flv", "-c:v flv -q:v 2 -ar 44100"),
        ("sound.avi", "-c:v mpeg4 -q:v 2"),
        ("sound.mp4", "-c:v mpeg4 -q:v 2"),
    ] {
        let Some(path) = encode(dir.path(), name, &format!("{} {sound} {codecs}", grey(100, "25"))) else { continue };
        let clip = ffmpeg.decode(&path, &SMALL).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((clip.t, clip.fps), (100, 25.0), "{name}");
        // Cut in the middle of it all, the same files are refused where they promise more.
        if !["sound.wmv", "sound.avi"].contains(&name) {
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
            assert!(ffmpeg.decode(&path, &SMALL).is_err(), "{name}");
        }
    }
}

#[test]
fn a_picture_that_starts_late_is_not_padded() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let Some(plain) = encode(dir, "plain.mp4", &format!("{} -c:v mpeg2video -q:v 2", grey(50, "25"))) else { return };
    let late = format!("-f lavfi -i sine=duration=5 -itsoffset 1 -i {} -map 0:a -map 1:v -c:v copy", plain.display());
    for name in ["late.mkv", "late.mp4", "late.mov", "late.ts"] {
        let Some(path) = encode(dir, name, &late) else { continue };
        near(&shown(&ffmpeg.decode(&path, &SMALL).unwrap()), &(0..50).collect::<Vec<_>>(), name);
        let slow = ffmpeg.decode(&path, &Decode { fps: Some(10.0), ..SMALL }).unwrap();
        near(&shown(&slow), &(0..20).map(|i| i * 5 / 2).collect::<Vec<_>>(), name);
    }
}

#[test]
fn cuts_between_key_frames_are_whole_videos() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let Some(whole) = encode(dir, "whole.mp4", &format!("{} -c:v libx264 -g 40 -bf 3 -qp 4", grey(100, "25"))) else {
        return;
    };
    for name in ["cut.mp4", "cut.mov", "cut.mkv", "cut.flv", "cut.ts"] {
        let cut = format!("-ss 1.2 -i {} -t 2 -c copy", whole.display());
        let Some(path) = encode(dir, name, &cut) else { continue };
        let shows = shown(&ffmpeg.decode(&path, &SMALL).unwrap());
        // An edit list begins at the frame asked for, other containers at the key frame before.
        let edited = name.ends_with("mp4") || name.ends_with("mov");
        assert!(if edited { shows[0].abs_diff(30) <= 1 } else { shows[0] <= 1 }, "{name}: {shows:?}");
        // The last frames may lack what they are predicted from.
        let sure = &shows[..shows.len() - 5];
        near(sure, &(shows[0]..shows[0] + sure.len()).collect::<Vec<_>>(), name);
        assert!(shows.len() >= 49, "{name}: {shows:?}");
    }
}

/// The picture begins long after the file, or the file long after zero: headers count from there.
#[test]
fn a_late_start_is_no_missing_end() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let source =
        format!("{} -f lavfi -i sine=duration=4 -map 0:v -map 1:a -c:v libx264 -g 40 -bf 0 -qp 4", grey(100, "25"));
    let Some(whole) = encode(dir, "whole.mp4", &source) else { return };
    for name in ["late.mkv", "late.mp4", "late.flv", "late.wmv"] {
        // Sound from 0.4 s, the picture from its next key frame, at 1.6 s.
        let cut = format!("-i {} -ss 0.4 -t 2 -c copy", whole.display());
        let Some(path) = encode(dir, name, &cut) else { continue };
        let shows = shown(&ffmpeg.decode(&path, &SMALL).unwrap_or_else(|e| panic!("{e}")));
        near(&shows, &(40..40 + shows.len()).collect::<Vec<_>>(), name);
        assert!((19..=25).contains(&shows.len()), "{name}: {shows:?}");
        let Some(path) = encode(dir, name, &format!("-i {} -c copy -output_ts_offset 5", whole.display())) else {
            continue;
        };
        near(&shown(&ffmpeg.decode(&path, &SMALL).unwrap()), &(0..100).collect::<Vec<_>>(), name);
    }
}

#[test]
fn a_stream_that_changes_its_size_is_read_to_the_end() {
    let Some((ffmpeg, adapt)) = fault("adapt.ts") else { return };
    for how in [SMALL, Decode { short_side: None, ..SMALL }, Decode { fps: Some(25.0), ..SMALL }] {
        let clip = ffmpeg.decode(&adapt, &how).unwrap();
        assert_eq!((clip.h, clip.w), if how.short_side.is_some() { (16, 21) } else { (48, 64) });
        near(&shown(&clip), &(0..100).collect::<Vec<_>>(), "adapt.ts");
    }
}

/// What flow from elsewhere relies on: one frame of the clip for each of the file, whatever the container made of its times.
#[test]
fn constant_rates_come_frame_by_frame_in_every_container() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tiny = Decode { short_side: Some(2), ..SMALL };
    for (rate, fps) in [
        ("24000/1001", 24000.0 / 1001.0),
        ("30000/1001", 30000.0 / 1001.0),
        ("60000/1001", 60000.0 / 1001.0),
        ("25", 25.0),
        ("30", 30.0),
    ] {
        let source = format!("-f lavfi -i color=gray:size=32x32:rate={rate},trim=end_frame=1500");
        for (name, codec) in [
            ("long.mkv", "mpeg4"),
            ("long.webm", "libvpx -deadline realtime -cpu-used 8"),
            ("long.mp4", "mpeg4"),
            ("long.avi", "mpeg4"),
            ("long.flv", "flv"),
            ("long.wmv", "wmv2"),
            ("long.ts", "mpeg2video"),
        ] {
            if name.ends_with("webm") && rate != "60000/1001" {
                continue;
            }
            let Some(path) = encode(dir.path(), name, &format!("{source} -c:v {codec}")) else { continue };
            let clip = ffmpeg.decode(&path, &tiny).unwrap_or_else(|e| panic!("{rate}: {e}"));
            assert_eq!(clip.t, 1500, "{name} at {rate}");
            assert_eq!(f64::round(100.0 * clip.fps), f64::round(100.0 * fps), "{name} at {rate}: {}", clip.fps);
        }
    }
}

#[test]
fn a_phone_and_a_gif_of_variable_rate_keep_their_clock() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // 30 frames of 30 a second, a gap of one second, 30 frames more.
    let gap = "-vf setpts=(N+30*gte(N\\,30))/30/TB -fps_mode passthrough -enc_time_base 1/600";
    for (name, codec) in [("phone.mp4", "-c:v mpeg4 -q:v 2"), ("phone.mkv", "-c:v mpeg4 -q:v 2"), ("anim.gif", "")] {
        let source = if name.ends_with("gif") { grey(60, "25") } else { grey(60, "30") };
        let gap = if name.ends_with("gif") {
            gap.replace("/30/TB", "/25/TB").replace("1/600", "1/100")
        } else {
            gap.to_owned()
        };
        let Some(path) = encode(dir, name, &format!("{source} {gap} {codec}")) else { continue };
        let clip = ffmpeg.decode(&path, &SMALL).unwrap();
        let gif = name.ends_with("gif");
        assert!((clip.fps - if gif { 25.0 } else { 30.0 }).abs() < 0.1, "{name}: {}", clip.fps);
        let shows = shown(&clip);
        // The last frame before the gap is on view in it. (The writer of `.gif` moves that frame, and has few greys.)
        let want = |i: usize| if i < 30 { i } else { 29.max((60 + i).saturating_sub(shows.len())) };
        let off = (0..shows.len()).filter(|&i| shows[i].abs_diff(want(i)) > if gif { 2 } else { 1 }).count();
        assert!(shows.len().abs_diff(90) <= if gif { 2 } else { 0 } && off == 0, "{name}: {shows:?}");
    }
}

#[test]
fn a_gap_of_an_hour_is_refused_with_its_length() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let gap = "-vf setpts=(N+90000*gte(N\\,5))/25/TB -fps_mode passthrough -enc_time_base 1/1000 -c:v ffv1";
    let Some(path) = encode(dir.path(), "hour.mkv", &format!("{} {gap}", grey(10, "25"))) else { return };
    let how = Decode { max_bytes: 10_000 * 16 * 21 * 3, ..SMALL };
    let text = ffmpeg.decode(&path, &how).unwrap_err().to_string();
    assert!(text.contains("time stamps span 3600 s, 90010 frames"), "{text}");
    let text = ffmpeg.decode(&path, &Decode { fps: Some(25.0), ..how.clone() }).unwrap_err().to_string();
    assert!(text.contains("exceed"), "{text}");
    assert_eq!(ffmpeg.decode(&path, &Decode { max_frames: Some(8), ..how }).unwrap().t, 8);
}

#[test]
fn one_frame_several_streams_and_covers_are_read() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let one = encode(dir, "one.mp4", &format!("{} -c:v mpeg4", grey(1, "25")));
    for how in [SMALL, Decode { fps: Some(10.0), ..SMALL }] {
        assert!(one.as_ref().is_none_or(|one| ffmpeg.decode(one, &how).unwrap().t == 1), "{how:?}");
    }
    let two = format!("{} {} -map 0:v -map 1:v -c:v mpeg4 -q:v 2", grey(50, "25"), grey(20, "10"));
    if let Some(two) = encode(dir, "two.mkv", &two) {
        near(&shown(&ffmpeg.decode(&two, &SMALL).unwrap()), &(0..50).collect::<Vec<_>>(), "the first of two streams");
    }
    let cover = picture(dir);
    let with = format!(
        "{} -i {} -map 1 -map 0 -c:v:0 png -disposition:v:0 attached_pic -c:v:1 mpeg4 -q:v:1 2",
        grey(50, "25"),
        cover.display()
    );
    if let Some(with) = encode(dir, "cover.mp4", &with) {
        near(&shown(&ffmpeg.decode(&with, &SMALL).unwrap()), &(0..50).collect::<Vec<_>>(), "beside its cover");
    }
}

fn picture(dir: &Path) -> PathBuf {
    let path = dir.join("cover.png");
    image::RgbImage::from_pixel(32, 32, image::Rgb([9, 9, 9])).save(&path).unwrap();
    path
}

/// Broadcast streams: a clock that wraps at 2^33, and one that starts again in the middle.
#[test]
fn transport_streams_that_wrap_or_start_again_go_on() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let stream = format!("{} -c:v mpeg2video -q:v 2", grey(100, "25"));
    // 2^33 / 90 000 s is 95443.7 s.
    let wraps = encode(dir, "wraps.ts", &format!("{stream} -output_ts_offset 95440.7"));
    if let Some(wraps) = wraps {
        near(&shown(&ffmpeg.decode(&wraps, &SMALL).unwrap()), &(0..100).collect::<Vec<_>>(), "wraps.ts");
    }
    let Some(part) = encode(dir, "part.ts", &stream) else { return };
    let bytes = std::fs::read(part).unwrap();
    let twice = dir.join("twice.ts");
    std::fs::write(&twice, [bytes.clone(), bytes].concat()).unwrap();
    let shows = shown(&ffmpeg.decode(&twice, &SMALL).unwrap());
    assert!(shows.len().abs_diff(200) <= 2, "{} frames", shows.len());
    assert!(shows[99].abs_diff(99) <= 1 && shows[199.min(shows.len() - 1)].abs_diff(99) <= 2, "{shows:?}");
}

#[test]
fn a_thin_picture_is_not_scaled_to_an_enormous_one() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let thin = "-f lavfi -i color=gray:size=4000x2:rate=25:duration=0.2 -c:v ffv1";
    let Some(path) = encode(dir.path(), "thin.mkv", thin) else { return };
    let text = ffmpeg.decode(&path, &Decode { short_side: Some(80), ..SMALL }).unwrap_err().to_string();
    assert!(text.contains("thin.mkv") && text.contains("would become 160000 x 80"), "{text}");
    assert_eq!(ffmpeg.decode(&path, &Decode { short_side: None, ..SMALL }).unwrap().w, 4000);
}
