//! RandAugment: the bytes of Pillow, and what holds for frames of any size.

use crate::support::goldens::Goldens;
use proptest::prelude::*;
use tubelet::augment::rand_augment::{Operation, RandAugment, apply};
use tubelet::error::ErrorKind;
use tubelet::rng::{Purpose, stream};

/// Places of the operations in the list.
const POSTERIZE: usize = 4;
const CUTOUT: usize = 13;

fn applied(operations: &[Operation], frame: &[u8], h: usize, w: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    apply(operations, &mut frame, h, w).unwrap();
    frame
}

/// A frame without a pattern.
fn noise(seed: u64, h: usize, w: usize) -> Vec<u8> {
    let mut frame = vec![0; h * w * 3];
    rand::Rng::fill_bytes(&mut stream(seed, 0, 0, Purpose::Test), &mut frame);
    frame
}

#[test]
fn every_operation_gives_the_bytes_of_pillow() {
    let goldens = Goldens::open("rand_augment");
    for (image, h, w) in [("noise", 27, 19), ("gradient", 12, 8)] {
        let frame = goldens.bytes(image);
        for magnitude in [5, 17, 23] {
            for (sign, negative, [down, across]) in [("+", false, [0.4, 0.3]), ("-", true, [0.9, 0.95])] {
                let centre = [down * h as f64, across * w as f64];
                let operations = Operation::all(magnitude as f32, negative, centre, h, w);
                let want = goldens.bytes(&format!("{image}/{magnitude}/{sign}"));
                assert_eq!(want.len(), operations.len() * frame.len());
                for (operation, want) in operations.into_iter().zip(want.chunks_exact(frame.len())) {
                    let got = applied(std::slice::from_ref(&operation), frame, h, w);
                    let different = got.iter().zip(want).filter(|(got, want)| got != want).count();
                    assert_eq!(different, 0, "{image}, magnitude {magnitude}, {operation:?}");
                }
            }
        }
    }
}

#[test]
fn at_magnitude_0_only_what_ignores_it_or_draws_a_pixel_changes_a_frame_of_few_bits() {
    let (h, w) = (9, 14);
    let frame: Vec<u8> = noise(3, h, w).iter().map(|v| v & 0xF0).collect(); // `Posterize` keeps 4 bits
    let all = Operation::all(0.0, true, [4.0, 4.0], h, w);
    for (i, operation) in all.into_iter().enumerate().skip(3) {
        let got = applied(&[operation], &frame, h, w);
        let changed = got.iter().zip(&frame).filter(|(got, want)| got != want).count();
        assert!(changed <= if i == CUTOUT { 3 } else { 0 }, "operation {i} changed {changed} bytes");
    }
}

#[test]
fn posterize_keeps_no_bit_at_magnitude_30() {
    let all = Operation::all(30.0, false, [1.0; 2], 2, 3);
    assert_eq!(applied(&all[POSTERIZE..=POSTERIZE], &[255; 18], 2, 3), [0; 18]);
}

#[test]
fn a_draw_depends_on_its_stream_alone_and_finds_every_operation_in_both_signs() {
    let draw = |seed| RandAugment { count: 16, magnitude: 17.0 }.sample(&mut stream(seed, 0, 0, Purpose::Test), 20, 30);
    assert_eq!(draw(5), draw(5));
    assert_ne!(draw(5), draw(6));
    let drawn: Vec<Operation> = (0..40).flat_map(draw).collect();
    for negative in [false, true] {
        for (i, operation) in Operation::all(17.0, negative, [1.0; 2], 20, 30).iter().enumerate() {
            assert!(i == CUTOUT || drawn.contains(operation), "{operation:?} was never drawn");
        }
    }
    // A cutout has a place of its own: what is drawn and not in the list is one.
    let listed = [false, true].map(|negative| Operation::all(17.0, negative, [1.0; 2], 20, 30)).concat();
    assert!(drawn.iter().any(|operation| !listed.contains(operation)));
}

#[test]
fn what_is_out_of_range_is_refused_by_name() {
    let refused = |count, magnitude| match (RandAugment { count, magnitude }).check().unwrap_err().kind() {
        ErrorKind::Param { name, .. } => *name,
        other => panic!("{other:?}"),
    };
    assert_eq!([refused(0, 5.0), refused(17, 5.0)], ["count"; 2]);
    assert_eq!([refused(1, -0.5), refused(1, 30.5), refused(1, f32::NAN)], ["magnitude"; 3]);
    for (count, magnitude) in [(1, 23.0), (3, 17.0), (16, 30.0), (1, 0.0)] {
        RandAugment { count, magnitude }.check().unwrap();
    }
    let invert = &Operation::all(5.0, false, [1.0; 2], 4, 5)[2..3];
    for (len, h, w) in [(59, 4, 5), (61, 4, 5), (0, 4, 5), (60, usize::MAX, usize::MAX)] {
        let e = apply(invert, &mut vec![0; len], h, w).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Shape { arg: "frame", .. }), "{e}");
    }
    for (h, w) in [(0, 5), (4, 0), (0, 0)] {
        let e = apply(invert, &mut [], h, w).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Param { name: "extents", .. }), "{e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Frames of one row or column, cutouts anywhere, a frame of another size than the draw's.
    #[test]
    fn every_operation_takes_frames_of_any_size(
        drawn in [1usize..24, 1usize..24],
        extents in prop_oneof![Just([1, 1]), [1usize..2, 1..24], [1usize..24, 1..2], [1usize..24, 1..24]],
        centre in [0.0..30.0, 0.0..30.0],
        magnitude in 0f32..=30.0,
        negative: bool,
        seed: u64,
    ) {
        let [h, w] = extents;
        let frame = noise(seed, h, w);
        for [drawn_h, drawn_w] in [extents, drawn] {
            let all = Operation::all(magnitude, negative, centre, drawn_h, drawn_w);
            let mut steps = frame.clone();
            for operation in &all {
                steps = applied(std::slice::from_ref(operation), &steps, h, w);
            }
            prop_assert_eq!(applied(&all, &frame, h, w), steps);
        }
    }

    /// Operations that move pixels give the frame's own pixels and black.
    #[test]
    fn a_moved_frame_has_pixels_of_the_frame_and_black_ones(
        h in 1usize..24, w in 1usize..24, magnitude in 0f32..=30.0, negative: bool, seed: u64,
    ) {
        let frame = noise(seed, h, w);
        let all = Operation::all(magnitude, negative, [1.0; 2], h, w);
        for i in [3, 11, 12, 14, 15] {
            for pixel in applied(&all[i..=i], &frame, h, w).chunks_exact(3) {
                prop_assert!(pixel == [0; 3] || frame.chunks_exact(3).any(|own| own == pixel), "{:?}", all[i]);
            }
        }
    }
}
