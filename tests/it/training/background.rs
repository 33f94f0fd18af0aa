//! Another video's background: what is kept of a clip, what is not, and where the choice comes from.

use rand::RngExt;
use tubelet::augment::background::{larger_half, put_over, reference};
use tubelet::augment::layers::reference::apply_rgb_layers;
use tubelet::flow::motion::MotionInput;
use tubelet::rng::{Purpose, stream};
use tubelet::train::Clips;
use tubelet::train::views::{Loader, Part, ViewSpec};

use crate::support::moving_square::{LENGTH, exact, loader, mask, views, write_frames};
use crate::support::programs::{started, summary};

#[test]
fn half_of_the_pixels_is_kept_as_the_definition_says() {
    let mut rng = stream(3, 0, 0, Purpose::Test);
    for n in [0usize, 1, 2, 3, 16, 255, 1600] {
        for levels in [2u32, 5, 1 << 20] {
            let mut value = |_| match rng.random_range(0..40u32) {
                0 => f32::NAN,
                1 => f32::NEG_INFINITY,
                _ => rng.random_range(0..levels) as f32,
            };
            let map: Vec<f32> = (0..n).map(&mut value).collect();
            let kept = larger_half(&map);
            assert_eq!(kept, reference::larger_half(&map), "{n} of {levels} levels");
            assert_eq!(kept.iter().filter(|k| **k).count(), n / 2);
        }
    }
    for (frames, pixels, channels) in [(1, 1, 1), (3, 7, 2), (2, 16, 3)] {
        let n = frames * pixels * channels;
        let mut numbers = || (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<f32>>();
        let (clip, other) = (numbers(), numbers());
        let kept: Vec<bool> = (0..pixels).map(|i| i % 3 == 0).collect();
        let mut got = clip.clone();
        put_over(&mut got, &other, &kept, channels).unwrap();
        assert_eq!(got, reference::put_over(&clip, &other, &kept, channels));
        assert!(put_over(&mut got, &other[1..], &kept, channels).is_err());
        assert!(put_over(&mut got, &other, &[], channels).is_err());
    }
}

/// The pixels that differ in any frame.
fn changed(a: &Part, b: &Part) -> Vec<bool> {
    let [_, h, w, c] = a.dims;
    let differs =
        |p: usize| (0..a.data.len()).step_by(h * w * c).any(|f| a.data[f + p * c..][..c] != b.data[f + p * c..][..c]);
    (0..h * w).map(differs).collect()
}

/// One square followed through: it is kept in every frame, whole, and about half of the clip is of the other video.
#[test]
fn what_moves_stays_and_what_rests_is_of_another_video() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let plain = loader(dir.path(), &views(MotionInput::Flow), "", exact);
    let with = |background_swap| ViewSpec { background_swap, ..views(MotionInput::Flow) };
    let over = Loader { spec: with(1.0), ..plain.clone() };
    let mut seen = 0;
    for epoch in 0..12 {
        for video in 0..2 {
            let (a, b) = (plain.pair(epoch, video).unwrap(), over.pair(epoch, video).unwrap());
            assert_eq!(a.starts, b.starts);
            let ([m, n], [o, p]) = (a.motion.unwrap(), b.motion.unwrap());
            assert!(m.data == o.data && n.data == p.data, "motion clips are as they were");
            let quads = (plain.quad(epoch, video).unwrap(), over.quad(epoch, video).unwrap());
            let starts = plain.chosen(epoch, video).unwrap().starts;
            let of_quad =
                [(&quads.0.query, &quads.1.query, starts[0]), (&quads.0.keys[2], &quads.1.keys[2], starts[3])];
            let of_pair = [0, 1].map(|i| (&a.rgb[i], &b.rgb[i], a.starts[i]));
            for (a, b, start) in of_pair.into_iter().chain(of_quad) {
                let [t, h, w, _] = a.dims;
                let masks: Vec<Vec<bool>> = (0..t).map(|t| mask(a, t)).collect();
                let square: Vec<bool> = (0..h * w).map(|p| masks.iter().any(|mask| mask[p])).collect();
                let (changed, covered) = (changed(a, b), square.iter().filter(|s| **s).count());
                assert!(changed.iter().filter(|c| **c).count() <= h * w / 2, "half is kept");
                // Where the square passes through more than a third of the crop, its rim may be among what is left. The last
                // frame of a video has no flow of its own.
                if covered > 0 && covered < h * w / 3 && start + 6.0 < LENGTH as f64 - 1.0 {
                    seen += 1;
                    assert!(!(0..h * w).any(|p| square[p] && changed[p]), "epoch {epoch}, video {video}");
                    assert!(changed.iter().filter(|c| **c).count() > h * w / 3, "the rest is of another clip");
                }
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn the_choice_depends_on_seed_epoch_video_and_clip_alone() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let plain = loader(dir.path(), &views(MotionInput::Flow), "", exact);
    let with = |background_swap| ViewSpec { background_swap, ..views(MotionInput::Flow) };
    let half = Loader { spec: with(0.5), ..plain.clone() };
    let (mut swapped, mut apart) = (0, 0);
    for epoch in 0..40 {
        let (a, b) = (plain.pair(epoch, 0).unwrap(), half.pair(epoch, 0).unwrap());
        let of = [0, 1].map(|i| a.rgb[i].data != b.rgb[i].data);
        swapped += of.iter().filter(|is| **is).count();
        apart += usize::from(of[0] != of[1]);
        // One clip alone, or in a loader without motion clips, is the same.
        let one = half.pair_of(epoch, 0, Clips::of([1])).unwrap();
        let rgb_only = Loader { motion: false, ..half.clone() };
        let pair = rgb_only.pair(epoch, 0).unwrap();
        assert!(one.rgb[1].data == b.rgb[1].data && pair.rgb[1].data == b.rgb[1].data, "epoch {epoch}");
        // So is what is left to a GPU.
        let left = Loader { on_gpu: true, ..rgb_only }.pair(epoch, 0).unwrap();
        let clip = left.rgb[1].raw.as_ref().unwrap();
        assert_eq!(clip.background.is_some(), of[1], "epoch {epoch}");
        assert!(apply_rgb_layers(clip, plain.spec.side).unwrap() == b.rgb[1].data, "epoch {epoch}");
    }
    // Of 80 clips half, with a standard deviation of 4.5; clips of a sample are drawn one by one.
    assert!((20..=60).contains(&swapped) && apart > 5, "{swapped} {apart}");
    let alone = Loader { videos: vec![plain.videos[0]], spec: with(1.0), ..plain.clone() };
    let (a, b) = (plain.pair(0, 0).unwrap(), alone.pair(0, 0).unwrap());
    assert!(a.rgb[0].data == b.rgb[0].data, "with a single video there is no other background");
    assert!(with(0.5).cache(false).motion.is_some() && with(0.0).cache(false).motion.is_none(), "it needs flow");
}

#[test]
fn every_method_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["--background-swap", "0.5", "--frames", "2", "--side", "16", "--probe-clips", "1"];
    let rgb = ["--w-mm", "0", "--w-vm", "0", "--w-mv", "0"];
    let runs = [
        ("pretrain_maclr", "maclr", &["--motion-frames", "2"][..]),
        ("pretrain_maclr", "rgb", &rgb),
        ("pretrain_mcl", "mcl", &["--w-align", "0"]),
    ];
    for (program, out, more) in runs {
        let Some(done) = started(program, dir.path(), &[&small, &["--out", out][..], more].concat()) else { return };
        summary(&done);
        let text = std::fs::read_to_string(dir.path().join(out).join("settings.json")).unwrap();
        assert!(text.contains("\"--background-swap\": 0.5"), "{text}");
    }
}
