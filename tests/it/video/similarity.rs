//! Videos of the benchmark of motion similarity: what is the same in a query, its matches and its distractors.

use rayon::prelude::*;
use tubelet::flow::{Flow, Gray};
use tubelet::ops::tvl1::{Tvl1, flow_pairs};
use tubelet::video::procedural::{Change, Role, SimilarVideo, SimilaritySpec};

const SPEC: SimilaritySpec = SimilaritySpec { frames: 40, side: 64, fps: 25.0, seed: 5 };
/// Pairs of frames whose flow is described.
const PAIRS: usize = 9;

fn video(query: usize, role: Role) -> SimilarVideo {
    SPEC.video(query, role).unwrap()
}

/// The flow between some frames and their successors.
fn flows(video: &SimilarVideo) -> Vec<Flow> {
    let grey = |i: usize| Gray::from_rgb(&video.frame(i), SPEC.side, SPEC.side).unwrap();
    let pairs: Vec<[Gray; 2]> = (0..PAIRS).map(|i| [grey(2 + 4 * i), grey(3 + 4 * i)]).collect();
    let pairs: Vec<(&Gray, &Gray)> = pairs.iter().map(|[a, b]| (a, b)).collect();
    flow_pairs(&pairs, &Tvl1::default()).unwrap()
}

fn median(mut values: Vec<f32>) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// What moves in a video of a still camera, on average over some of its frames: the displacement, and the median of rotation.
fn described(video: &SimilarVideo) -> [f32; 3] {
    let mut sum = [0.0; 3];
    for flow in flows(video) {
        let (h, w) = (flow.h(), flow.w());
        let at = |x: usize, y: usize| [flow.u()[y * w + x], flow.v()[y * w + x]];
        let places = (2..h - 2).flat_map(|y| (2..w - 2).map(move |x| (x, y)));
        let moving: Vec<(usize, usize)> = places.filter(|&(x, y)| at(x, y)[0].hypot(at(x, y)[1]) > 0.2).collect();
        let n = moving.len().max(1) as f32;
        let mut turns = vec![0.0];
        for (x, y) in moving {
            let [right, left, below, above] = [at(x + 2, y), at(x - 2, y), at(x, y + 2), at(x, y - 2)];
            turns.push(right[1] - left[1] - below[0] + above[0]);
            [0, 1].into_iter().for_each(|axis| sum[axis] += at(x, y)[axis] / n);
        }
        sum[2] += median(turns);
    }
    sum.map(|v| v / PAIRS as f32)
}

/// The distractor of `query` that moves so.
fn distractor(query: usize, motion: &str) -> SimilarVideo {
    let all = (0..SimilaritySpec::DISTRACTORS).map(|i| video(query, Role::Distractor(i)));
    all.into_iter().find(|video| video.motion() == motion).unwrap()
}

/// Things followed through, from a query's frames to the flow of its matches and distractors: what goes to one side, seen by
/// the match's camera, goes there in the match, and elsewhere in the distractors; what turns does so in the match, and the other
/// way round in the distractor. (Growth is too slow for the flow between two frames, and a tilted view nearly hides a turn.)
#[test]
fn flow_is_that_of_the_query_in_matches_and_another_in_distractors() {
    let straight = ["move_left", "move_right", "move_up", "move_down"];
    let turning = ["rotate_clockwise", "rotate_counter_clockwise"];
    let wrong: Vec<String> = (0..72)
        .into_par_iter()
        .filter(|query| !SimilaritySpec::pans(*query))
        .flat_map_iter(|query| {
            let asked = video(query, Role::Query);
            let (motion, want) = (asked.motion(), described(&asked));
            let matches = Change::ALL.map(|change| (change, video(query, Role::Match(change))));
            let mut wrong = Vec::new();
            if straight.contains(&motion) {
                let length = want[0].hypot(want[1]);
                let apart = |a: [f32; 2], b: [f32; 3]| (a[0] - b[0]).hypot(a[1] - b[1]);
                for (change, matching) in &matches {
                    let far = apart(matching.seen([want[0], want[1]]), described(matching)) / length;
                    wrong.extend((far >= 0.5).then(|| format!("{query} {motion} {}: {far}", change.name())));
                }
                for other in straight.into_iter().filter(|other| *other != motion) {
                    let far = apart([want[0], want[1]], described(&distractor(query, other))) / length;
                    wrong.extend((far <= 0.5).then(|| format!("{query} {motion} {other}: {far}")));
                }
            }
            if turning.contains(&motion) {
                for (change, matching) in matches.iter().filter(|(change, _)| *change != Change::View) {
                    let same = described(matching)[2] * want[2];
                    wrong.extend((same <= 0.0).then(|| format!("{query} {motion} {}: {same}", change.name())));
                }
                let other = turning[usize::from(motion == turning[0])];
                let same = described(&distractor(query, other))[2] * want[2];
                wrong.extend((same >= 0.0).then(|| format!("{query} {motion} {other}: {same}")));
            }
            wrong
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A match has the query's motion, a distractor another one; only a changed view changes how displacements are seen.
#[test]
fn looks_and_motions_are_kept_or_changed_as_the_role_says() {
    let spread = |video: &SimilarVideo| -> [f64; 3] {
        let frame = video.frame(0);
        let mut darkest = [255u8; 3];
        frame.as_chunks::<3>().0.iter().for_each(|p| (0..3).for_each(|c| darkest[c] = darkest[c].min(p[c])));
        darkest.map(f64::from)
    };
    for query in [0, 7, 13] {
        let asked = video(query, Role::Query);
        let motions: Vec<&str> =
            (0..SimilaritySpec::DISTRACTORS).map(|i| video(query, Role::Distractor(i)).motion()).collect();
        assert!(!motions.contains(&asked.motion()), "{motions:?}");
        let mut several = motions.clone();
        several.sort_unstable();
        several.dedup();
        assert_eq!(several.len(), motions.len(), "each distractor moves in a way of its own");
        for change in Change::ALL {
            let matching = video(query, Role::Match(change));
            assert_eq!(matching.motion(), asked.motion());
            let panned = matching.seen([0.0; 2]);
            if !SimilaritySpec::pans(query) {
                assert_eq!(matching.seen([1.0, 0.0]) == [1.0, 0.0], change != Change::View, "{change:?}");
            }
            assert_eq!(panned != [0.0; 2], SimilaritySpec::pans(query));
            // The darkest pixels are the background's, which objects are brighter than.
            if matches!(change, Change::Background | Change::Style) {
                assert_ne!(spread(&matching), spread(&asked), "{change:?}");
            }
        }
    }
}

#[test]
fn a_video_depends_on_seed_query_and_role_alone() {
    for role in SimilaritySpec::roles() {
        let (one, again) = (video(3, role), video(3, role));
        assert_eq!(one.frame(11), again.frame(11));
        assert_eq!(one.clip().unwrap().frame(11), one.frame(11));
        let other = SimilaritySpec { seed: 6, ..SPEC }.video(3, role).unwrap();
        assert_ne!(one.frame(0), other.frame(0), "{role:?}: another seed");
        assert_ne!(one.frame(0), video(15, role).frame(0), "{role:?}: another query of the same motion");
        assert_ne!(one.frame(0), one.frame(6), "{role:?}: it moves");
    }
    let roles = SimilaritySpec::roles();
    for (i, a) in roles.iter().enumerate() {
        for b in &roles[i + 1..] {
            assert_ne!(video(3, *a).frame(0), video(3, *b).frame(0), "{a:?} and {b:?}");
        }
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let refused = |spec: SimilaritySpec, role| spec.video(0, role).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused(SimilaritySpec { frames: 1, ..SPEC }, Role::Query).contains("frames"));
    assert!(refused(SimilaritySpec { side: 8, ..SPEC }, Role::Query).contains("side"));
    assert!(refused(SPEC, Role::Distractor(11)).contains("distractor"));
    assert!(SimilaritySpec { fps: 0.0, ..SPEC }.video(0, Role::Query).unwrap().clip().is_err());
}
