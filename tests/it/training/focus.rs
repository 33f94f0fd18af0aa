//! Where and when a video moves, and what is chosen by it: maps, starts, crops.

use crate::support::goldens::Goldens;
use crate::support::numbers::wide;
use proptest::prelude::*;
use rand::RngExt;
use tubelet::augment::{AugmentSpec, Crop, Region};
use tubelet::flow::Flow;
use tubelet::flow::maps::{Fields, MapSpec, Maps, target};
use tubelet::ops::motion_map::{cases, motion_boundary, reference};
use tubelet::rng::{Purpose, stream};
use tubelet::tensor::DType;
use tubelet::train::focus::Focus;
use tubelet::video::{ClipSpec, Favour, Gap};

use crate::support::close::{assert_bounded, assert_norm};

fn random_flow(h: usize, w: usize, seed: u64) -> Flow {
    let mut rng = stream(seed, 0, 0, Purpose::Test);
    let mut field = || (0..h * w).map(|_| rng.random_range(-4.0..4.0f32)).collect();
    Flow::new(h, w, field(), field()).unwrap()
}

/// Maps of `flows` at every frame, 25 a second.
fn maps(spec: &MapSpec, flows: &[Flow], every: usize) -> Maps {
    let field = |m: usize| [flows[m].u(), flows[m].v()];
    let size = [flows[0].h(), flows[0].w()];
    Maps::new(spec, &Fields { count: flows.len(), size, every, fps: 25.0, field: &field }).unwrap()
}

#[test]
fn the_boundary_follows_the_definition() {
    for case in &cases::CASES {
        let flow = random_flow(case.h, case.w, 1);
        let got = motion_boundary(&flow);
        for (got, plane) in got.iter().zip([flow.u(), flow.v()]) {
            assert_bounded(case.name, got, &reference::motion_boundary(&wide(plane), case.h, case.w), DType::F32);
        }
    }
    let step = Flow::new(1, 4, vec![0.0, 0.0, 2.0, 2.0], vec![0.0; 4]).unwrap();
    assert_eq!(motion_boundary(&step), [vec![0.0, 6.0, 6.0, 0.0], vec![0.0; 4]]);
}

#[test]
fn a_pan_has_no_map_and_no_score() {
    let pan = |t: usize| Flow::new(30, 40, vec![0.1 * t as f32; 1200], vec![-3.3; 1200]).unwrap();
    let maps = maps(&MapSpec::new(8.0, None), &(0..20).map(pan).collect::<Vec<_>>(), 1);
    assert!(maps.maps().iter().chain(maps.scores()).all(|&v| v == 0.0));
    assert_eq!((maps.maps().len(), maps.scores().len()), (20 * 49, 13));
}

#[test]
fn a_disc_peaks_at_its_rim() {
    // Radius 17 around (35, 35): rim cells are those at distance 1 to 2 of the cell in the middle.
    let (n, radius) = (70, 17.0f32);
    let inside = |i: usize| (((i / n) as f32 - 34.5).hypot((i % n) as f32 - 34.5) < radius) as u8;
    let disc = Flow::new(n, n, (0..n * n).map(|i| 2.0 * f32::from(inside(i))).collect(), vec![0.0; n * n]).unwrap();
    let map = maps(&MapSpec::new(1.0, None), &[disc], 1).maps().to_vec();
    let ring = |i: usize| (i / 7).abs_diff(3).max((i % 7).abs_diff(3));
    let mean = |r: usize| {
        let of: Vec<f32> = (0..49).filter(|&i| ring(i) == r).map(|i| map[i]).collect();
        of.iter().sum::<f32>() / of.len() as f32
    };
    assert_eq!((mean(0), mean(3)), (0.0, 0.0));
    assert!(mean(1) > 0.0 && mean(2) > 0.0);
    let peak = (0..49).max_by(|&a, &b| map[a].total_cmp(&map[b])).unwrap();
    assert!((1..=2).contains(&ring(peak)), "{map:?}");
}

#[test]
fn windows_hold_as_many_fields_whatever_the_frame_and_sums_do_not_drift() {
    let flows: Vec<Flow> = (0..11).map(|i| random_flow(9, 12, i)).collect();
    let sum = |from: usize, count: usize| {
        let mut sum = Flow::zeros(9, 12);
        for flow in &flows[from..from + count] {
            for (sum, plane) in sum.planes_mut().into_iter().zip([flow.u(), flow.v()]) {
                sum.iter_mut().zip(plane).for_each(|(a, b)| *a += b);
            }
        }
        sum
    };
    let spec = MapSpec { window: 8, grid: [3, 4], border: 0.0, ..MapSpec::new(10.0, None) };
    let two = maps(&spec, &flows, 2);
    // Windows of 8 frames are 4 fields, spans of 10 are 5.
    assert_eq!((two.summed(), two.maps().len(), two.scores().len()), (4, 11 * 12, 7));
    for (field, first) in [(0, 0), (1, 0), (2, 1), (6, 5), (8, 7), (10, 7)] {
        let [u, v] = motion_boundary(&sum(first, 4));
        let block = |r: usize, c: usize| {
            let cells = (0..9).map(|i| (3 * r + i / 3) * 12 + 3 * c + i % 3);
            cells.map(|i| 0.5 * (u[i] + v[i])).sum::<f32>() / 9.0
        };
        let want: Vec<f32> = (0..12).map(|i| block(i / 4, i % 4)).collect();
        assert_norm("map", two.map(2 * field), &want, 1e-5);
    }
    for start in 0..7 {
        let [u, v] = motion_boundary(&sum(start, 5));
        let want = u.iter().chain(&v).sum::<f32>() / 216.0;
        assert_norm("score", &[two.score(2 * start)], &[want], 1e-5);
    }
    assert_eq!([two.score(3), two.score(40)], [two.scores()[2], two.scores()[6]]);
    // At half the rate, a span of 10 frames is 20 of the video.
    let slow = maps(&MapSpec { fps: Some(12.5), ..spec.clone() }, &flows, 2);
    assert_eq!(slow.scores().len(), 2);
    // A video shorter than a window is one window.
    let short = maps(&spec, &flows[..2], 1);
    assert_eq!((short.maps().len(), short.scores().len()), (24, 1));
    let borders = maps(&MapSpec { border: 0.25, ..spec }, &flows, 1);
    assert!((0..12).all(|i| (borders.maps()[i] == 0.0) == (i % 4 == 0 || i % 4 == 3)), "{:?}", &borders.maps()[..12]);
}

#[test]
fn agrees_with_scipy_and_opencv() {
    let goldens = Goldens::open("motion_map");
    let golden = |name: &str| goldens.get(name);
    let (h, w, all) = (42, 28, golden("flow"));
    let flows: Vec<Flow> = all
        .chunks_exact(2 * h * w)
        .map(|f| Flow::new(h, w, f[..h * w].to_vec(), f[h * w..].to_vec()).unwrap())
        .collect();
    let sum = |plane: fn(&Flow) -> &[f32]| -> Vec<f32> {
        (0..h * w).map(|i| flows[2..5].iter().map(|f| plane(f)[i]).sum()).collect()
    };
    let three = Flow::new(h, w, sum(|f| f.u()), sum(|f| f.v())).unwrap();
    assert_norm("boundary", &motion_boundary(&three).concat(), &golden("boundary"), 1e-5);
    let maps = maps(&MapSpec { window: 4, ..MapSpec::new(6.0, None) }, &flows, 1);
    assert_norm("maps", maps.maps(), &golden("maps"), 1e-5);
    assert_norm("scores", maps.scores(), &golden("scores"), 1e-5);
    // The first eight fields' upper square, u and v by turns.
    let square = |f: &Flow| (0..28 * 28).flat_map(|i| [f.u()[i], f.v()[i]]).collect::<Vec<_>>();
    let clip: Vec<f32> = flows[..8].iter().flat_map(square).collect();
    assert_norm("target", &target(&clip, [8, 28], [4, 7, 7]).unwrap(), &golden("target"), 1e-5);
    // Groups that overlap count alike: twice the fields of a pan of 1 in eight, whatever the grid in time.
    let edge = |i: usize| if i % 28 < 14 { 0.0 } else { 1.0 };
    let step: Vec<f32> = (0..8 * 28 * 28).flat_map(|i| [edge(i), 0.0]).collect();
    for t in [1, 3, 5, 8] {
        let map = target(&step, [8, 28], [t, 1, 1]).unwrap();
        assert_norm("groups", &map, &vec![8.0 / t as f32 * 3.0 * 2.0 / 28.0; t], 1e-5);
    }
    assert!(target(&step[1..], [8, 28], [4, 7, 7]).unwrap_err().to_string().contains("8 x 28 x 28 x 2"));
    assert!(target(&step, [8, 28], [4, 0, 7]).unwrap_err().to_string().contains("4 x 0 x 7"));
}

#[test]
fn map_settings_are_checked() {
    let fine = MapSpec::new(32.0, Some(25.0));
    assert!(fine.check().is_ok());
    for (name, bad) in [
        ("window", MapSpec { window: 0, ..fine.clone() }),
        ("grid", MapSpec { grid: [0, 7], ..fine.clone() }),
        ("border", MapSpec { border: 0.5, ..fine.clone() }),
        ("span", MapSpec { span: f64::NAN, ..fine.clone() }),
        ("fps", MapSpec { fps: Some(0.0), ..fine.clone() }),
    ] {
        assert!(bad.check().unwrap_err().to_string().contains(name));
    }
    assert!(Focus { sampling: 1.1, ..Focus::default() }.check().unwrap_err().to_string().contains("1.1"));
    assert!(Focus { still: -1.0, ..Focus::default() }.check().is_err());
    assert!(
        Focus { target: Some([4, 0, 7]), ..Focus::default() }.check().unwrap_err().to_string().contains("4 x 0 x 7")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The query lies before both keys or after both, as the label says, and every clip is inside of its video where that is
    /// long enough.
    #[test]
    fn the_order_label_always_matches(
        len in 1usize..200, frames in 1usize..17, stride in 1usize..4, rate in 0usize..3, probability in 0usize..3,
        legacy: bool, seed: u64,
    ) {
        let clip = ClipSpec { frames, stride: stride as f64, fps: [12.5, 25.0, 50.0][rate] };
        let score = |s: usize| ((s * 7919 + seed as usize % 1000) % 13) as f32;
        let favour = Favour { probability: [0.0, 0.7, 1.0][probability], score: &score, legacy };
        let mut rng = stream(seed, 0, 0, Purpose::Test);
        let span = clip.span(25.0);
        for _ in 0..8 {
            let t = clip.triple(len, 25.0, &favour, &mut rng);
            let [a, b] = t.keys;
            prop_assert!(a <= b && if t.query_first { t.query <= a } else { t.query >= b }, "{:?}", t);
            prop_assert!(t.query.max(b) + span <= len.max(span), "{:?} of {}", t, len);
            if len >= 2 * span {
                let early = [len / 2 - span, 0][usize::from(!t.query_first)];
                prop_assert!(if t.query_first { t.query <= early } else { b <= len / 2 - span }, "{:?}", t);
                prop_assert!(if t.query_first { a + 1 >= len / 2 } else { t.query + 1 >= len / 2 }, "{:?}", t);
            }
        }
    }

    /// A crop covers what is asked for, or as much as its size can; always inside of the frame.
    #[test]
    fn crops_cover_what_moves_where_their_size_can(
        h in 16usize..120, w in 16usize..120, cell in 0usize..49, seed: u64, least in 0.05f32..0.9,
    ) {
        let mut rng = stream(seed, 0, 0, Purpose::Test);
        let mut map: Vec<f32> = (0..49).map(|_| rng.random_range(0.0..0.5)).collect();
        // A blob of about four cells.
        for (i, v) in map.iter_mut().enumerate() {
            let apart = (i / 7).abs_diff(cell / 7) + (i % 7).abs_diff(cell % 7);
            *v += 4.0 / (1 + apart * apart) as f32;
        }
        let spec = AugmentSpec { area: [least, 1.0], aspect: [0.75, 4.0 / 3.0], ..AugmentSpec::default() };
        let Some(region) = Region::of(&map, [7, 7], 0.0, false) else { panic!("{map:?}") };
        let Crop { y, x, h: rows, w: cols } = region.cells;
        prop_assert!((y..y + rows).contains(&(cell / 7)) && (x..x + cols).contains(&(cell % 7)));
        for _ in 0..4 {
            let crop = region.crop(&mut rng, &spec, [h, w], false);
            prop_assert!(crop.h > 0 && crop.w > 0 && crop.y + crop.h <= h && crop.x + crop.w <= w, "{:?}", crop);
            let anywhere = (0..=h - crop.h).flat_map(|y| (0..=w - crop.w).map(move |x| Crop { y, x, ..crop }));
            let most = anywhere.map(|c| region.covered(&c, h, w)).fold(0.0, f64::max);
            let covered = region.covered(&crop, h, w);
            prop_assert!(covered >= region.coverage.min(most) - 1e-9, "{covered} of {most}: {crop:?} for {region:?}");
            let loose = region.crop(&mut rng, &spec, [h, w], true);
            prop_assert!(loose.h > 0 && loose.w > 0 && loose.y + loose.h <= h && loose.x + loose.w <= w, "{:?}", loose);
        }
    }

    /// Mirrored maps have mirrored regions, ties or not.
    #[test]
    fn regions_follow_a_mirror(map in prop::collection::vec(0u8..6, 49)) {
        let map: Vec<f32> = map.into_iter().map(f32::from).collect();
        let mirrored: Vec<f32> = (0..49).map(|i| map[i / 7 * 7 + 6 - i % 7]).collect();
        let (a, b) = (Region::of(&map, [7, 7], 0.0, false), Region::of(&mirrored, [7, 7], 0.0, false));
        let flip = |r: Region| Region { cells: Crop { x: 7 - r.cells.x - r.cells.w, ..r.cells }, ..r };
        prop_assert_eq!(a.map(flip), b);
    }
}

#[test]
fn a_map_that_says_nothing_forces_no_box() {
    let of = |map: &[f32], legacy| Region::of(map, [7, 7], 0.01, legacy);
    for nothing in [vec![0.0; 49], vec![3.0; 49], vec![0.009; 49], vec![f32::NAN; 49]] {
        assert_eq!(of(&nothing, false), None);
    }
    // The release: four cells at the lower right.
    let forced = of(&[0.0; 49], true).unwrap();
    assert_eq!((forced.cells, forced.coverage), (Crop { y: 6, x: 3, h: 1, w: 4 }, 0.9));
    // Two cells that move in corners apart: a box too large to ask for.
    let mut map = vec![0.0; 49];
    (map[0], map[48]) = (1.0, 1.0);
    assert_eq!(of(&map, false), None);
    // Two neighbours, the rest tied at rest.
    (map[48], map[1]) = (0.0, 2.0);
    assert_eq!(of(&map, false).unwrap().cells, Crop { y: 0, x: 0, h: 1, w: 2 });
    for (side, coverage) in [(2, Some(0.9)), (3, Some(0.7)), (4, None)] {
        let mut map: Vec<f32> = (0..49).map(|i| i as f32 * 1e-3).collect();
        (map[0], map[side - 1], map[(side - 1) * 7], map[(side - 1) * 8]) = (1.0, 2.0, 3.0, 4.0);
        assert_eq!(of(&map, false).map(|r| r.coverage), coverage, "{side}");
    }
}

#[test]
fn motion_keeps_the_better_half_of_each_half() {
    let clip = ClipSpec { frames: 4, stride: 1.0, fps: 25.0 };
    // 40 frames: early starts 0..=15, late ones 19..=34.
    let score = |s: usize| s as f32;
    let draw = |legacy: bool, score: &dyn Fn(usize) -> f32, len: usize| {
        let favour = Favour { probability: 1.0, score, legacy };
        let mut rng = stream(3, 0, 0, Purpose::Test);
        let mut seen: Vec<usize> = Vec::new();
        for _ in 0..400 {
            let t = clip.triple(len, 25.0, &favour, &mut rng);
            seen.extend([t.query, t.keys[0], t.keys[1]]);
        }
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    let late = |from: usize| (from..=34).collect::<Vec<_>>();
    assert_eq!(draw(false, &score, 40), [(7..=15).collect(), late(26)].concat());
    assert_eq!(draw(true, &score, 40), draw(false, &score, 40));
    // Nothing moves: every start, or the earliest half.
    assert_eq!(draw(false, &|_| 0.0, 40), [(0..=15).collect(), late(19)].concat());
    assert_eq!(draw(true, &|_| 0.0, 40), [(0..=8).collect(), (19..=27).collect::<Vec<_>>()].concat());
    // Twice the span, and one frame more.
    assert_eq!([draw(false, &score, 8), draw(true, &score, 8)], [[0, 3], [0, 3]]);
    assert_eq!([draw(false, &score, 9), draw(true, &score, 9)], [vec![0, 3, 4], vec![0, 3]]);
    // Shorter than two clips, and than one.
    assert_eq!(
        [draw(false, &score, 7), draw(false, &score, 4), draw(false, &score, 1)],
        [vec![0, 1, 2], vec![0], vec![0]]
    );
}

#[test]
fn pairs_are_favoured_within_their_gap() {
    let clip = ClipSpec { frames: 4, stride: 1.0, fps: 25.0 };
    let gap = Gap { min: 0.4, max: 0.8 };
    let score = |s: usize| if (30..50).contains(&s) { 1.0 } else { 0.0 };
    let pairs = |probability: f64| -> (usize, usize) {
        let favour = Favour { probability, score: &score, legacy: false };
        let mut rng = stream(3, 0, 0, Purpose::Test);
        let drawn: Vec<_> = (0..200).map(|_| clip.favoured_pair(100, 25.0, gap, &favour, &mut rng)).collect();
        assert!(drawn.iter().all(|([a, b], _)| (9.99..=20.01).contains(&(a - b).abs())));
        let moves = |([a, b], _): &&([f64; 2], bool)| score(a.round() as usize) + score(b.round() as usize) == 2.0;
        (drawn.iter().filter(|d| d.1).count(), drawn.iter().filter(moves).count())
    };
    // The better half of 97 starts holds ties at rest: all of it.
    assert_eq!(pairs(0.0).0, 0);
    let (chosen, moving) = pairs(1.0);
    assert_eq!(chosen, 200);
    assert!(moving < 60, "{moving}");
    let half = |s: usize| if (20..70).contains(&s) { s as f32 } else { 0.0 };
    let favour = Favour { probability: 1.0, score: &half, legacy: false };
    let mut rng = stream(3, 0, 0, Purpose::Test);
    let pairs: Vec<_> = (0..200).map(|_| clip.favoured_pair(100, 25.0, gap, &favour, &mut rng).0).collect();
    assert!(pairs.iter().flatten().all(|s| (20.5..=70.5).contains(s)), "{pairs:?}");
}
