//! Samples with synthetic tubelets, and clips that drift apart.

use tubelet::augment::layers::reference::apply_rgb_layers;
use tubelet::flow::motion::MotionInput;
use tubelet::ssl::maclr::Maclr;
use tubelet::tensor::DType;
use tubelet::train::Clips;
use tubelet::train::maclr::Recipe;
use tubelet::train::views::{Focus, Loader, Part, ViewSpec};

use super::maclr::{method, recipe};
use crate::support::close::{assert_within, gamma};
use crate::support::moving_square::{LENGTH, exact, loader, views, write_frames};
use crate::support::programs::{example, summary};
use std::process::Command;

/// The pixels of each frame that are equal in both.
fn equal(a: &Part, b: &Part) -> Vec<bool> {
    a.data.chunks_exact(3).zip(b.data.chunks_exact(3)).map(|(a, b)| a == b).collect()
}

/// One sample followed through: both clips show the same patches at the same places, of one video where the first is of another
/// and the second of a third, and nothing else of the first clip is changed.
#[test]
fn two_videos_share_nothing_but_the_tubelets() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let plain = loader(dir.path(), &views(MotionInput::Flow), "", exact);
    let with = |tubelets| ViewSpec { tubelets, ..views(MotionInput::Flow) };
    let tubelets = |n| Loader { spec: with(n), motion: false, ..plain.clone() };
    let (one, three) = (tubelets(1), tubelets(3));
    let (mut moved, mut shares) = (0, [0usize; 2]);
    for epoch in 0..20 {
        for video in 0..2 {
            let (bare, own) = (plain.pair(epoch, video).unwrap(), one.pair(epoch, video).unwrap());
            assert!(own.motion.is_none() && own.starts[0] == bare.starts[0]);
            // Where the first clip differs from the one without tubelets, there is a patch; the second has the same there.
            let patch: Vec<bool> = equal(&bare.rgb[0], &own.rgb[0]).into_iter().map(|same| !same).collect();
            let both = equal(&own.rgb[0], &own.rgb[1]);
            assert!(patch.iter().zip(&both).all(|(patch, same)| !patch || *same), "epoch {epoch}, video {video}");
            let [t, h, w, _] = own.rgb[0].dims;
            let covered = |t: usize| -> Vec<usize> { (0..h * w).filter(|p| patch[t * h * w + p]).collect() };
            let counts: Vec<usize> = (0..t).map(|t| covered(t).len()).collect();
            assert!(counts.iter().all(|n| *n <= h * w / 2), "{counts:?}");
            moved += usize::from(covered(0) != covered(t - 1));
            shares[0] += both.iter().filter(|same| **same).count();
            shares[1] += patch.iter().filter(|is| **is).count();
            // More of them cover more, and what is asked for alone is the same.
            let more = three.pair(epoch, video).unwrap();
            let of_three = equal(&bare.rgb[0], &more.rgb[0]).iter().filter(|same| !**same).count();
            assert!(of_three + h * w * t / 10 >= counts.iter().sum(), "{of_three} {counts:?}");
            let second = one.pair_of(epoch, video, Clips::of([1])).unwrap();
            let left = Loader { on_gpu: true, ..one.clone() }.pair(epoch, video).unwrap();
            let of_gpu = left.rgb[0].raw.as_ref().unwrap();
            assert!(second.rgb[1].data == own.rgb[1].data && of_gpu.patches.len() == 1);
            assert!(apply_rgb_layers(of_gpu, h).unwrap() == own.rgb[0].data);
        }
    }
    // Textures of the two videos hardly ever agree by chance: nearly all that is equal is of patches.
    assert!(moved > 30 && shares[1] > 20_000 && shares[0] < shares[1] * 12 / 10, "{moved} {shares:?}");
    // With a single video both clips are of it.
    let alone = Loader { videos: vec![plain.videos[0]], ..one };
    assert!(alone.pair(0, 0).is_ok());
}

/// In the first epoch both clips begin together, and then they drift apart to the distances that they have otherwise.
#[test]
fn clips_drift_apart() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let plain = loader(dir.path(), &views(MotionInput::Flow), "", exact);
    let drifting = Loader { spec: ViewSpec { drift: 8, ..plain.spec.clone() }, ..plain.clone() };
    let room = (LENGTH - 4 * 2) as f64;
    let mut farthest = [0.0f64; 12];
    for epoch in 0..12 {
        for seed in 0..30 {
            let of = |loader: &Loader| Loader { seed, motion: false, ..loader.clone() }.pair(epoch, 0).unwrap().starts;
            let (starts, free) = (of(&drifting), of(&plain));
            let apart = (starts[0] - starts[1]).abs();
            assert!(starts.iter().all(|start| (0.0..=room).contains(start)));
            // A start is the end of some operations on numbers up to `room`, here in f64.
            let most = room * ((epoch as f64 / 8.0).min(1.0) + gamma(8, DType::F32));
            assert!(apart <= most, "epoch {epoch}: {apart}");
            assert!(epoch < 8 || starts == free, "epoch {epoch}: as without");
            farthest[epoch as usize] = farthest[epoch as usize].max(apart);
        }
    }
    assert_within("the first epoch", &[farthest[0] as f32], &[0.0], &[room * gamma(8, DType::F32)]);
    assert!(farthest[4] > room / 4.0 && farthest[8] > room / 2.0, "{farthest:?}");
}

#[test]
fn tubelets_are_refused_where_the_motion_of_the_video_is_used() {
    let rgb = Maclr { w_mm: 0.0, w_vm: 0.0, w_mv: 0.0, ..method() };
    let of = |method: &Maclr, change: &dyn Fn(&mut ViewSpec)| {
        let mut recipe = Recipe { method: method.clone(), ..recipe() };
        recipe.training.views.tubelets = 2;
        change(&mut recipe.training.views);
        recipe.check().map_err(|e| e.to_string())
    };
    assert_eq!(of(&rgb, &|_| {}), Ok(()));
    let refused = [
        (of(&method(), &|_| {}), "--w-mm 0 --w-vm 0 --w-mv 0"),
        (of(&rgb, &|v| v.focus = Focus { crop: true, ..Focus::default() }), "--motion-crop off"),
        (of(&rgb, &|v| v.background_swap = 0.5), "--background-swap 0"),
        (of(&rgb, &|v| v.drift = 3), "--drift 0"),
        (of(&rgb, &|v| v.tubelets = 65), "--tubelets"),
    ];
    for (found, word) in refused {
        let error = found.unwrap_err();
        assert!(error.contains("--tubelets") && error.contains(word), "{error}");
    }
}

#[test]
fn the_program_takes_both() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["--frames", "2", "--side", "16", "--probe-clips", "1"];
    let runs = [
        ("rgb", &["--tubelets", "2", "--w-mm", "0", "--w-vm", "0", "--w-mv", "0"][..]),
        ("maclr", &["--drift", "2", "--motion-frames", "2", "--w-align", "5", "--w-align-end", "0"]),
    ];
    for (out, more) in runs {
        let Some(program) = example("pretrain_maclr") else { return };
        let options = [&small, &["--epochs", "3", "--threads", "2", "--out", out][..], more].concat();
        let done = Command::new(program).current_dir(dir.path()).args(options).output().unwrap();
        summary(&done);
        assert!(image::open(dir.path().join(out).join("sheet.png")).unwrap().width() > 100);
        let text = std::fs::read_to_string(dir.path().join(out).join("settings.json")).unwrap();
        assert_eq!(text.contains("\"--tubelets\": 2"), out == "rgb", "{text}");
        assert_eq!(
            text.contains("\"--w-align-end\": 0.0") && text.contains("\"--drift\": 2"),
            out == "maclr",
            "{text}"
        );
    }
}
