//! Where a network looks, held against where a painted square moves: from the pictures on the disk to the share in the
//! summary of a run.

use crate::support::moving_square::{SIZE, exact, loader, mask, views, whole, write_frames};
use crate::support::painted_videos::cached;
use tubelet::eval::saliency::Share;
use tubelet::flow::maps::{moving, speed};
use tubelet::flow::motion::MotionInput;
use tubelet::flow::{Flow, Gray};
use tubelet::ops::tvl1;
use tubelet::train::views::{Loader, Part, ViewSpec};

/// Cells of a map of clips of 4 frames of 40 pixels.
const GRID: [usize; 3] = [2, 10, 10];

/// The map with its energy on the square of an RGB clip: for each cell the part of its pixels that are the square's.
/// `None` unless the square stands wholly in each frame.
fn on_the_square(rgb: &Part) -> Option<Vec<f32>> {
    let ([t, rows, cols], [frames, side, ..]) = (GRID, rgb.dims);
    let mut map = vec![0.0; t * rows * cols];
    for frame in 0..frames {
        let mask = mask(rgb, frame);
        if !whole(&mask, side) {
            return None;
        }
        for (i, _) in mask.iter().enumerate().filter(|(_, square)| **square) {
            map[(frame * t / frames * rows + i / side * rows / side) * cols + i % side * cols / side] += 1.0;
        }
    }
    Some(map)
}

/// A map with all its energy where the square is not: in cells that neither hold it nor touch one that does.
fn elsewhere(square: &[f32]) -> Vec<f32> {
    let [_, rows, cols] = GRID;
    let far = |i: usize| {
        let (frame, y, x) = (i / (rows * cols), i / cols % rows, i % cols);
        let near = |j: usize| (j / cols % rows).abs_diff(y) <= 1 && (j % cols).abs_diff(x) <= 1;
        let cells = frame * rows * cols..(frame + 1) * rows * cols;
        cells.filter(|&j| near(j)).all(|j| square[j] == 0.0)
    };
    (0..square.len()).map(|i| f32::from(far(i) as u8)).collect()
}

/// The shares inside of what moves of a map on the square and of one elsewhere, and the area of what moves, for each
/// clip and crop of both videos that shows the whole square.
fn shares(l: &Loader) -> Vec<[Share; 2]> {
    let mut found = Vec::new();
    for (video, clip) in (0..2).flat_map(|video| (0..3).map(move |i| (video, [i, 3]))) {
        // The middle square of the frames, and those at their left and right end.
        for crop in [[0, 1], [0, 3], [2, 3]] {
            let Some(map) = on_the_square(&l.view(video, clip, crop).unwrap()) else { continue };
            let (motion, moves) = l.view_motion(video, clip, crop, GRID).unwrap();
            assert_eq!([motion.len(), moves.len()], [map.len(); 2]);
            found.push([&map, &elsewhere(&map)].map(|map| Share::of(map, &moves).unwrap().unwrap()));
        }
    }
    assert!(found.len() >= 6, "only {} clips show the whole square", found.len());
    found
}

#[test]
fn a_map_on_the_moving_square_lies_inside_and_one_elsewhere_does_not_whatever_the_crop() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    for every in [1, 2] {
        let spec = ViewSpec { flow_every: every, ..views(MotionInput::Flow) };
        for [on, off] in shares(&loader(dir.path(), &spec, "", exact)) {
            // This flow ends sharply at the rim, and cells that the square covers by less than a quarter do not count.
            assert!(on.inside > 0.75 && off.inside < 0.05, "{on:?}, {off:?}");
            assert!(on.area == off.area && (0.05..0.2).contains(&on.area), "{on:?}");
        }
    }
}

/// As for test videos of a run, whose flow is not kept: it is computed for the clips that are looked at.
#[test]
fn without_flow_in_the_cache_the_same_square_moves() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let none = |_: &Gray, _: &Gray| -> tubelet::error::Result<Flow> { unreachable!("no flow is kept") };
    let l = cached(dir.path(), &views(MotionInput::Flow), "data/a/0,0\ndata/b/1,1\n", none, false);
    assert_eq!(l.cache.get(0).unwrap().fields(), 0);
    for [on, off] in shares(&l) {
        assert!(on.inside > 0.95 && off.inside < 0.15 && on.area < 0.3, "{on:?}, {off:?}");
    }
    // To the bit what a cache with the same flow says.
    let flow = |a: &Gray, b: &Gray| tvl1::flow(a, b, &ViewSpec::small().flow);
    let kept = loader(dir.path(), &views(MotionInput::Flow), "", flow);
    let of = |l: &Loader| l.view_motion(0, [1, 3], [0, 1], GRID).unwrap();
    assert_eq!(of(&l).1, of(&kept).1, "{SIZE:?}");
}

#[test]
fn what_rests_has_no_moving_cell() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let rest = |a: &Gray, _: &Gray| Ok(Flow::zeros(a.h(), a.w()));
    let l = loader(dir.path(), &views(MotionInput::Flow), "", rest);
    let (motion, moves) = l.view_motion(0, [0, 1], [0, 1], GRID).unwrap();
    assert!(motion.iter().all(|v| *v == 0.0) && !moves.contains(&true));
    assert_eq!(Share::of(&vec![1.0; moves.len()], &moves).unwrap(), None);
    assert!(l.view_motion(0, [1, 1], [0, 1], GRID).unwrap_err().to_string().contains("there are 1 clips"));
}

/// A disc over a panning ground: the ground has no speed, and all of the disc has, also its inside.
#[test]
fn all_of_what_moves_counts_and_a_pan_does_not() {
    let (side, n, grid) = (40, 4, [2, 5, 5]);
    let inside = |i: usize| (((i / side) as f32 - 19.5).hypot((i % side) as f32 - 19.5) < 13.0) as u8;
    let at = |i: usize| [-3.0 + 2.0 * f32::from(inside(i % (side * side))), 0.5];
    let flow: Vec<f32> = (0..n * side * side).flat_map(at).collect();
    let map = speed(&flow, [n, side], grid).unwrap();
    assert_eq!((map[0], map[12]), (0.0, 2.0));
    let moves = moving(&map, 0.01);
    assert!(moves[12] && moves[25 + 12] && moves.iter().filter(|m| **m).count() == 18, "{moves:?}");
    assert!(speed(&flow[1..], [n, side], grid).unwrap_err().to_string().contains("4 x 40 x 40 x 2"));
}
