//! Motion maps, `.flo` files and flow pictures.

use crate::support::close::assert_bounded;
use crate::support::numbers::wide;
use proptest::prelude::*;
use tubelet::error::ErrorKind;
use tubelet::flow::motion::{MotionInput, MotionMap};
use tubelet::flow::{Flow, Gray, color, flo};
use tubelet::ops::motion_map::{self, cases, reference};
use tubelet::tensor::DType;

/// A flow of small multiples of 1/8, on which Sobel's sums are exact.
fn eighths(h: usize, w: usize, seed: u64) -> Flow {
    let field = |salt: u64| {
        let number = |i: u64| ((i + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as f32 / 8.0 - 2.0;
        (0..(h * w) as u64).map(number).collect()
    };
    Flow::new(h, w, field(seed), field(seed + 7777)).unwrap()
}

#[test]
fn edges_follow_the_definition() {
    for case in &cases::CASES {
        let flow = eighths(case.h, case.w, 1);
        for clamp in [10.0, 3.0] {
            let want = reference::flow_edges(&wide(flow.u()), &wide(flow.v()), case.h, case.w, f64::from(clamp));
            assert_bounded(case.name, &motion_map::flow_edges(&flow, clamp), &want, DType::F32);
        }
    }
}

/// Every number of 16 bits, small ones and infinite ones too.
#[test]
fn stored_flow_is_widened_exactly() {
    let all: Vec<half::f16> = (0..=u16::MAX).map(half::f16::from_bits).collect();
    for (wide, h) in motion_map::widened(&all).iter().zip(&all) {
        let same = wide.to_bits() == h.to_f32().to_bits() || (wide.is_nan() && h.is_nan());
        assert!(same, "{:04x} is {wide}", h.to_bits());
    }
}

#[test]
fn a_step_answers_four_times_its_height() {
    let mut flow = Flow::zeros(5, 6);
    for y in 0..5 {
        flow.planes_mut()[0][y * 6 + 3..(y + 1) * 6].fill(0.5);
    }
    let edges = motion_map::flow_edges(&flow, 10.0);
    assert_eq!(edges[12..18], [0.0, 0.0, 0.2, 0.2, 0.0, 0.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn edges_ignore_a_pan_and_follow_a_mirror(h in 1usize..20, w in 1usize..20, seed in 0u64..1000, pan in -16i8..16) {
        let flow = eighths(h, w, seed);
        let edges = motion_map::flow_edges(&flow, 10.0);
        prop_assert!(edges.iter().all(|e| (0.0..=1.0).contains(e)));
        let panned = Flow::new(h, w, flow.u().iter().map(|u| u + f32::from(pan)).collect(), flow.v().to_vec()).unwrap();
        prop_assert_eq!(&motion_map::flow_edges(&panned, 10.0), &edges);
        let mirror = |x: &[f32], sign: f32| -> Vec<f32> {
            x.chunks_exact(w).flat_map(|row| row.iter().rev().map(|v| sign * v).collect::<Vec<_>>()).collect()
        };
        let mirrored = Flow::new(h, w, mirror(flow.u(), -1.0), mirror(flow.v(), 1.0)).unwrap();
        prop_assert_eq!(motion_map::flow_edges(&mirrored, 10.0), mirror(&edges, 1.0));
        let pan = Flow::new(h, w, vec![f32::from(pan); h * w], vec![1.0; h * w]).unwrap();
        prop_assert_eq!(motion_map::flow_edges(&pan, 10.0), vec![0.0; h * w]);
    }

    #[test]
    fn frame_difference_follows_the_definition(pixels in prop::collection::vec(any::<[u8; 6]>(), 1..50)) {
        let (a, b): (Vec<[u8; 3]>, Vec<[u8; 3]>) =
            pixels.iter().map(|p| ([p[0], p[1], p[2]], [p[3], p[4], p[5]])).unzip();
        let (a, b) = (a.as_flattened(), b.as_flattened());
        let got = motion_map::frame_difference(a, b);
        assert_bounded("frame difference", &got, &reference::frame_difference(a, b), DType::F32);
        prop_assert_eq!(&motion_map::frame_difference(b, a), &got);
        prop_assert_eq!(motion_map::frame_difference(a, a), vec![0.0; pixels.len()]);
    }

    #[test]
    fn flo_files_come_back_as_they_went(h in 1usize..9, w in 1usize..9, seed in 0u64..1000) {
        let flow = eighths(h, w, seed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.flo");
        flo::write(&path, &flow).unwrap();
        prop_assert_eq!(flo::read(&path).unwrap(), flow);
    }
}

#[test]
fn inputs_are_chosen_by_name() {
    let flow = eighths(4, 5, 3);
    for input in MotionInput::ALL {
        assert_eq!(input.to_string().parse::<MotionInput>().unwrap(), input);
        let map = MotionMap::of_flow(input, &flow, 10.0);
        assert_eq!(map.is_some(), input.needs_flow());
        if let Some(map) = map {
            assert_eq!((map.size(), map.planes().count()), ([4, 5], input.channels()));
            assert!(map.planes().all(|plane| plane.len() == 20));
        }
    }
    // One plane after the other, `u` first: not by turns.
    let map = MotionMap::of_flow(MotionInput::Flow, &flow, 1.0).unwrap();
    for (plane, field) in map.planes().zip([flow.u(), flow.v()]) {
        assert!(plane.iter().zip(field).all(|(p, f)| *p == f.clamp(-1.0, 1.0)));
    }
    let e = MotionMap::of_frames(&[0; 12], &[0; 11], [2, 2]).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Shape { .. }), "{e}");
    let error = "optical-flow".parse::<MotionInput>().unwrap_err().to_string();
    assert!(error.contains("flow-edges"), "{error}");
}

#[test]
fn hostile_flo_files_are_refused_before_anything_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.flo");
    let header = |w: i32, h: i32| [&b"PIEH"[..], &w.to_le_bytes(), &h.to_le_bytes()].concat();
    let whole = [header(1, 1), vec![0; 8]].concat();
    for (what, bytes) in [
        ("empty", vec![]),
        ("a cut header", whole[..11].to_vec()),
        ("a cut body", whole[..19].to_vec()),
        ("more than its header says", [&whole[..], &[0]].concat()),
        ("another format", [&b"PNG!"[..], &whole[4..]].concat()),
        ("no columns", header(0, 4)),
        ("negative rows", [header(4, -1), vec![0; 8]].concat()),
        ("eight exabytes", [header(i32::MAX, i32::MAX), vec![0; 8]].concat()),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = flo::read(&path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Format { .. }), "{what}: {error}");
    }
    let error = flo::read(dir.path().join("absent.flo")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
}

#[test]
fn pictures_show_rest_as_white_direction_as_hue_and_the_unknown_as_black() {
    let flow = Flow::new(1, 5, vec![0.0, 2.0, -2.0, 0.0, 1e10], vec![0.0, 0.0, 0.0, 2.0, 0.0]).unwrap();
    assert_eq!(color::radius(&flow), 2.0);
    let picture = color::image(&flow, color::radius(&flow));
    let pixel: Vec<&[u8]> = picture.chunks_exact(3).collect();
    assert_eq!(pixel[0], [255, 255, 255]);
    assert_eq!(pixel[1], [255, 0, 0], "to the right: red");
    assert!(pixel[2][0] < 64 && pixel[2][2] > 128, "to the left: between cyan and blue, {:?}", pixel[2]);
    assert!(pixel[3][1] > 128 && pixel[3][2] < 64, "down: between yellow and green, {:?}", pixel[3]);
    assert_eq!(pixel[4], [0, 0, 0]);
    // Where nothing moves the largest motion is none, and everything is white; beside that radius all that moves is dark.
    assert_eq!(color::radius(&Flow::zeros(2, 2)), 0.0);
    assert_eq!(color::image(&Flow::zeros(2, 2), 0.0), [255; 12]);
    assert_eq!(color::image(&Flow::new(1, 2, vec![1e-3, 0.0], vec![0.0; 2]).unwrap(), 0.0), [191, 0, 0, 255, 255, 255]);
}

#[test]
fn luma_weighs_red_green_and_blue() {
    let gray = Gray::from_rgb(&[255, 255, 255, 0, 255, 0], 1, 2).unwrap();
    assert_eq!(gray.data().iter().map(|v| v.round()).collect::<Vec<_>>(), [255.0, 150.0]);
    assert!(Gray::from_rgb(&[0; 5], 1, 2).is_err());
    assert!(Gray::from_rgb(&[0; 6], usize::MAX, 2).is_err());
}
