//! MCL's samples: clips, boxes, flips and targets that belong together.

use tubelet::augment::AugmentSpec;
use tubelet::train::focus::{Focus, Quad};
use tubelet::train::views::{Loader, Part, ViewSpec};

use crate::support::close::{assert_norm, is_norm};
use crate::support::painted_videos::{loader, square, views};

fn mirrored(part: &Part) -> Vec<f32> {
    let [t, h, w, c] = part.dims;
    let at = |i: usize| (i / (w * c) * w + w - 1 - i / c % w) * c + i % c;
    (0..t * h * w * c).map(|i| part.data[at(i)]).collect()
}

#[test]
fn samples_are_whole_and_the_same_for_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let l = loader(dir.path(), &views(Focus::mcl([2, 3, 5])), &[40, 40], square);
    for (epoch, video) in [(0, 0), (0, 1), (5, 0)] {
        let (quad, chosen) = (l.quad(epoch, video).unwrap(), l.chosen(epoch, video).unwrap());
        assert_eq!((quad.video as usize, quad.order), (video, chosen.order));
        assert!([&quad.query, &quad.keys[0], &quad.keys[2]].iter().all(|p| p.dims == [4, 16, 16, 3]));
        let target = quad.target.as_ref().unwrap();
        assert_eq!((target.dims, target.data.len()), ([2, 3, 5, 1], 30));
        assert!(target.data.iter().all(|v| v.is_finite() && *v >= 0.0) && target.data.iter().any(|v| *v > 0.0));
        assert_eq!(chosen.starts[0], chosen.starts[1]);
        assert_ne!(chosen.draws[0], chosen.draws[1]);
        for (region, draw) in chosen.regions.iter().zip(&chosen.draws) {
            assert!(region.is_none_or(|r| r.covered(&draw.crop, 32, 32) > 0.0));
        }
        let again = l.quad(epoch, video).unwrap();
        assert_eq!((again.query.data, again.target.unwrap().data), (quad.query.data, target.data.clone()));
    }
    assert!((0..20).any(|e| l.chosen(e, 0).unwrap().regions[0].is_some()));
    assert!((0..20).any(|e| l.chosen(e, 0).unwrap().focused));
    assert_ne!(l.chosen(0, 0).unwrap(), l.chosen(1, 0).unwrap());
    // A pair for MaCLR's losses, with the targets of both clips.
    let pair = l.pair(0, 0).unwrap();
    assert!(pair.target.unwrap().iter().all(|t| t.dims == [2, 3, 5, 1]));
}

#[test]
fn crops_alone_change_when_crops_follow_the_motion() {
    let dir = tempfile::tempdir().unwrap();
    let on = loader(dir.path(), &views(Focus { crop: true, ..Focus::default() }), &[40, 40], square);
    let off = Loader { spec: views(Focus::default()), ..on.clone() };
    let mut changed = 0;
    for epoch in 0..8 {
        let (a, b) = (on.chosen(epoch, 0).unwrap(), off.chosen(epoch, 0).unwrap());
        assert_eq!((a.starts, b.maps), (b.starts, None));
        for ((a, b), region) in a.draws.iter().zip(&b.draws).zip(&a.regions) {
            changed += usize::from(a.crop != b.crop);
            assert_eq!(*a == *b, a.crop == b.crop);
            assert!(region.is_some() || a == b);
        }
        assert_eq!(b.regions, [None; 4]);
    }
    assert!(changed > 10, "{changed}");
}

/// A flip mirrors the query and its target together, and a mirrored video has the mirrored target.
#[test]
fn targets_are_mirrored_with_their_clips() {
    let whole = |flip: f32| ViewSpec {
        augment: AugmentSpec {
            area: [1.0; 2],
            aspect: [1.0; 2],
            flip,
            jitter: 0.0,
            blur: 0.0,
            ..AugmentSpec::default()
        },
        ..views(Focus { target: Some([2, 4, 4]), ..Focus::default() })
    };
    let dir = tempfile::tempdir().unwrap();
    let plain = loader(dir.path(), &whole(0.0), &[40, 40], |_, t, y, x| square(0, t, y, x));
    let flipped = Loader { spec: whole(1.0), ..plain.clone() };
    let other = tempfile::tempdir().unwrap();
    let mirror = loader(other.path(), &whole(0.0), &[40, 40], |_, t, y, x| square(0, t, y, 31 - x));
    for epoch in 0..4 {
        let [a, b, c] = [&plain, &flipped, &mirror].map(|l| l.quad(epoch, 0).unwrap());
        let target = |q: &Quad| q.target.clone().unwrap();
        assert_ne!(target(&a).data, mirrored(&target(&a)), "the clip is not symmetric");
        for q in [&b, &c] {
            assert_norm("query", &q.query.data, &mirrored(&a.query), 1e-5);
            assert_norm("target", &target(q).data, &mirrored(&target(&a)), 1e-5);
        }
    }
}

/// The released code flips `u` and `v` of a mirrored clip by coins of their own, and keeps their numbers, in levels.
#[test]
fn legacy_targets_lose_their_clips_flip() {
    let views = |flip: f32, legacy: bool| ViewSpec {
        augment: AugmentSpec { area: [1.0; 2], aspect: [1.0; 2], flip, ..AugmentSpec::default() },
        ..views(Focus { target: Some([1, 4, 4]), legacy, ..Focus::default() })
    };
    let dir = tempfile::tempdir().unwrap();
    let plain = loader(dir.path(), &views(0.0, false), &[40, 40], square);
    let [still, flipped] = [0.0, 1.0].map(|flip| Loader { spec: views(flip, true), ..plain.clone() });
    let mut seen = [0; 3];
    for epoch in 0..32 {
        let [a, b, c] = [&plain, &still, &flipped].map(|l| l.quad(epoch, 0).unwrap().target.unwrap());
        // Frames of 32 pixels became 16: displacements halve, unless they are left alone.
        let levels = |v: &f32| 2.0 * 6.375 * v;
        assert_norm("levels", &b.data, &a.data.iter().map(levels).collect::<Vec<_>>(), 1e-5);
        let near = |x: &[f32]| is_norm(&c.data, x, 1e-5);
        seen[if near(&b.data) {
            0
        } else if near(&mirrored(&b)) {
            1
        } else {
            2
        }] += 1;
    }
    // A quarter, a quarter and a half of 32.
    assert!(seen[0] >= 2 && seen[1] >= 2 && seen[2] >= 6, "{seen:?}");
}

#[test]
fn still_and_short_videos_are_ordinary() {
    let dir = tempfile::tempdir().unwrap();
    // At rest; shorter than two clips of 8 frames; shorter than one; two frames.
    let l = loader(dir.path(), &views(Focus::mcl([4, 4, 4])), &[40, 11, 5, 2], |video, t, y, x| {
        square(0, if video == 0 { 0 } else { t }, 8 + y / 8, x)
    });
    let plain = Loader { spec: views(Focus { target: Some([4, 4, 4]), ..Focus::default() }), ..l.clone() };
    let legacy = Loader { spec: views(Focus { legacy: true, ..Focus::mcl([4, 4, 4]) }), ..l.clone() };
    for epoch in 0..10 {
        for video in 0..4 {
            let quad = l.quad(epoch, video).unwrap();
            let parts = [&quad.query, &quad.keys[0], &quad.keys[1], &quad.keys[2], quad.target.as_ref().unwrap()];
            assert!(parts.iter().all(|p| p.data.iter().all(|v| v.is_finite())), "{video}");
        }
        let (still, ordinary) = (l.chosen(epoch, 0).unwrap(), plain.chosen(epoch, 0).unwrap());
        assert_eq!((&still.draws, still.regions), (&ordinary.draws, [None; 4]));
        assert!(legacy.chosen(epoch, 0).unwrap().regions.iter().all(|r| r.is_some()));
    }
    let starts: Vec<f64> = (0..60).flat_map(|e| l.chosen(e, 0).unwrap().starts).collect();
    // Late starts from 19 to 31, all of them.
    let late = |s: f64| starts.contains(&s);
    assert!((19..=30).all(|s| late(f64::from(s))));
    let frames = Loader { spec: views(Focus { crop: true, ..Focus::default() }), ..l.clone() };
    assert!(frames.quad(0, 0).unwrap().target.is_none());
}
