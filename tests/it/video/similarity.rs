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

/// What moves in a field, apart from the camera: the mean displacement, and the medians of divergence and of rotation, in
/// pixels at a distance of 8 pixels.
fn described(flow: &Flow) -> [f32; 4] {
    let (h, w) = (flow.h(), flow.w());
    let camera = [flow.u(), flow.v()].map(|plane| median(plane.to_vec()));
    let at = |x: usize, y: usize| [flow.u()[y * w + x] - camera[0], flow.v()[y * w + x] - camera[1]];
    let (mut sum, mut turns, mut grows) = ([0.0; 2], vec![0.0], vec![0.0]);
    let places = (2..h - 2).flat_map(|y| (2..w - 2).map(move |x| (x, y)));
    let moving: Vec<(usize, usize)> = places.filter(|&(x, y)| at(x, y)[0].hypot(at(x, y)[1]) > 0.2).collect();
    for &(x, y) in &moving {
        let [right, left, below, above] = [at(x + 2, y), at(x - 2, y), at(x, y + 2), at(x, y - 2)];
        grows.push((right[0] - left[0] + below[1] - above[1]) / 8.0 * 8.0);
        turns.push((right[1] - left[1] - below[0] + above[0]) / 8.0 * 8.0);
        [0, 1].into_iter().for_each(|axis| sum[axis] += at(x, y)[axis] / moving.len() as f32);
    }
    [sum[0], sum[1], median(grows), median(turns)]
}

/// How far two series of descriptions are apart: root of the mean square, in pixels.
fn apart(a: &[[f32; 4]], b: &[[f32; 4]]) -> f32 {
    let squares = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).powi(2));
    (squares.sum::<f32>() / a.len() as f32).sqrt()
}

/// One thing followed through, from a query's frames to the flow of its matches and distractors: what moves in a match
/// moves as in the query (seen by the match's camera), and what moves in a distractor does not.
#[test]
fn flow_is_that_of_the_query_in_matches_and_another_in_distractors() {
    let nearest: Vec<(usize, &str, f32, f32)> = (0..24)
        .into_par_iter()
        .flat_map_iter(|query| {
            let asked: Vec<[f32; 4]> = flows(&video(query, Role::Query)).iter().map(described).collect();
            let distractors: Vec<Vec<[f32; 4]>> = (0..SimilaritySpec::DISTRACTORS)
                .map(|i| flows(&video(query, Role::Distractor(i))).iter().map(described).collect())
                .collect();
            Change::ALL.into_iter().map(move |change| {
                let matching = video(query, Role::Match(change));
                let still = matching.seen([0.0; 2]);
                let seen = |[u, v, grows, turns]: &[f32; 4]| {
                    let [x, y] = matching.seen([*u, *v]);
                    [x - still[0], y - still[1], *grows, *turns]
                };
                let want: Vec<[f32; 4]> = asked.iter().map(seen).collect();
                let got: Vec<[f32; 4]> = flows(&matching).iter().map(described).collect();
                let others = distractors.iter().map(|other| apart(&want, other));
                (query, change.name(), apart(&want, &got), others.fold(f32::INFINITY, f32::min))
            })
        })
        .collect();
    for (query, change, same, other) in &nearest {
        println!("{query} {change} {same:.3} {other:.3}");
    }
    let wrong: Vec<_> = nearest.iter().filter(|(.., same, other)| same >= other).collect();
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), nearest.len());
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
