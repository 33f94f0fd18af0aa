//! Augmentation: against PyTorch's arithmetic, and the laws a draw obeys.

use crate::support::close::{assert_norm, assert_within};
use crate::support::goldens::Goldens;
use crate::support::numbers::wide;
use proptest::prelude::*;
use tubelet::augment::{Adjust, AugmentSpec, BlurForm, Crop, Draw, Jitter, MotionKind, apply_motion, apply_rgb};
use tubelet::error::ErrorKind;
use tubelet::rng::{Purpose, stream};

const ORDER: [Adjust; 4] = [Adjust::Saturation, Adjust::Contrast, Adjust::Brightness, Adjust::Hue];
const NEUTRAL: Jitter = Jitter { order: ORDER, brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0 };

/// A draw that keeps the whole frame and the values in 0..1.
fn whole(h: usize, w: usize) -> Draw {
    Draw {
        crop: Crop { y: 0, x: 0, h, w },
        mean: [0.0; 3],
        std: [1.0; 3],
        ..Draw::centre(&AugmentSpec::default(), h, w)
    }
}

fn rgb(frames: &[u8], h: usize, w: usize, draw: &Draw, side: usize) -> Vec<f32> {
    let frames: Vec<&[u8]> = frames.chunks_exact(h * w * 3).collect();
    let mut out = vec![f32::NAN; frames.len() * side * side * 3];
    apply_rgb(&frames, h, w, draw, side, &mut out).unwrap();
    out
}

#[test]
fn agrees_with_pytorch() {
    let goldens = Goldens::open("augment");
    let golden = |name: &str| goldens.get(name);
    let (frames, maps) = (goldens.bytes("frames"), golden("maps"));
    let (h, w, side) = (21, 26, 12);
    let crop = Crop { y: 3, x: 5, h: 17, w: 19 };
    let plain = Draw { crop, ..Draw::centre(&AugmentSpec::default(), h, w) };
    let jittered = |jitter| Draw { jitter: Some(jitter), ..plain.clone() };
    let cases = [
        ("crop", plain.clone()),
        ("flip", Draw { flip: true, ..plain.clone() }),
        ("brightness", jittered(Jitter { brightness: 1.3, ..NEUTRAL })),
        ("contrast", jittered(Jitter { contrast: 0.65, ..NEUTRAL })),
        ("saturation", jittered(Jitter { saturation: 1.35, ..NEUTRAL })),
        ("hue", jittered(Jitter { hue: -0.2, ..NEUTRAL })),
        ("grey", Draw { grey: true, ..plain.clone() }),
        ("blur", Draw { blur: Some(0.8), ..plain.clone() }),
        (
            "all",
            Draw {
                flip: true,
                grey: true,
                blur: Some(1.7),
                ..jittered(Jitter { saturation: 0.7, contrast: 1.4, brightness: 0.8, ..NEUTRAL })
            },
        ),
    ];
    for (name, draw) in cases {
        assert_norm(name, &rgb(frames, h, w, &draw, side), &golden(name), 5e-6);
    }
    let planes: Vec<&[f32]> = maps.chunks_exact(h * w).collect();
    let mut out = vec![f32::NAN; 2 * side * side * 2];
    apply_motion(&planes, 2, MotionKind::Map, [h, w], &plain, side, &mut out).unwrap();
    assert_norm("motion", &out, &golden("motion"), 1e-6);
    let flipped = Draw { flip: true, ..plain };
    apply_motion(&planes, 2, MotionKind::Flow, [h, w], &flipped, side, &mut out).unwrap();
    assert_norm("flow", &out, &golden("flow"), 1e-6);
}

/// PIL rounds to 8 bits after each of the six boxes, by half a level at most, and its weights have 24 bits.
#[test]
fn a_blur_by_boxes_is_that_of_pil() {
    let (goldens, side) = (Goldens::open("augment_pil"), 24);
    let off = (6.0 * 0.5 + 6.0 * 5.0 * 255.0 * 2f64.powi(-24)) / 255.0;
    for radius in ["0.1", "0.7", "1.3", "1.5", "2.0"] {
        let draw = Draw { blur: radius.parse().ok(), blur_form: BlurForm::Boxes, ..whole(side, side) };
        let (got, want) =
            (rgb(goldens.bytes("frame"), side, side, &draw, side), goldens.get(&format!("radius {radius}")));
        assert_within(radius, &got, &wide(&want), &vec![off; want.len()]);
    }
}

#[test]
fn the_whole_frame_comes_back_as_it_is() {
    let (side, frames) = (7, (0..2 * 7 * 7 * 3).map(|i| (i * 37 % 256) as u8).collect::<Vec<_>>());
    let want: Vec<f32> = frames.iter().map(|&v| f32::from(v) * (1.0 / 255.0)).collect();
    assert_eq!(rgb(&frames, side, side, &whole(side, side), side), want);

    let flipped = rgb(&frames, side, side, &Draw { flip: true, ..whole(side, side) }, side);
    let pixel = |v: &[f32], at: usize| v[at * 3..at * 3 + 3].to_vec();
    for at in 0..2 * side * side {
        let mirror = at - at % side + side - 1 - at % side;
        assert_eq!(pixel(&flipped, at), pixel(&want, mirror), "pixel {at}");
    }
}

#[test]
fn two_flips_of_flow_are_none() {
    let (h, w) = (5, 5);
    let planes: Vec<Vec<f32>> = (0..4).map(|p| (0..h * w).map(|i| (p * 100 + i) as f32 - 90.0).collect()).collect();
    let flip = Draw { flip: true, ..whole(h, w) };
    let mut clip = planes.clone();
    for _ in 0..2 {
        let views: Vec<&[f32]> = clip.iter().map(Vec::as_slice).collect();
        let mut out = vec![0.0; 4 * h * w];
        apply_motion(&views, 2, MotionKind::Flow, [h, w], &flip, h, &mut out).unwrap();
        let plane = |t: usize, c: usize| (0..h * w).map(|i| out[(t * h * w + i) * 2 + c]).collect();
        clip = vec![plane(0, 0), plane(0, 1), plane(1, 0), plane(1, 1)];
    }
    assert_eq!(clip, planes);
}

#[test]
fn a_map_at_half_size_follows_the_scaled_crop() {
    // A ramp of 2x + 2y at full size is x + y at half size (plus a constant from the pixel centres).
    let (h, w, side) = (32, 48, 8);
    let ramp = |h: usize, w: usize, step: f32| -> Vec<f32> {
        (0..h * w).map(|i| step * (((i / w) as f32 + 0.5) + ((i % w) as f32 + 0.5))).collect()
    };
    let draw = Draw { crop: Crop { y: 4, x: 10, h: 16, w: 24 }, flip: true, ..whole(h, w) };
    let (full, half) = (ramp(h, w, 1.0), ramp(h / 2, w / 2, 2.0));
    let (mut a, mut b) = (vec![0.0; side * side], vec![0.0; side * side]);
    apply_motion(&[&full], 1, MotionKind::Map, [h, w], &draw, side, &mut a).unwrap();
    apply_motion(&[&half], 1, MotionKind::Map, [h / 2, w / 2], &draw, side, &mut b).unwrap();
    assert_norm("half size", &b, &a, 1e-6);
}

#[test]
fn probabilities_and_ranges_are_kept() {
    let spec = AugmentSpec { hue: 0.1, ..AugmentSpec::default() };
    let (n, h, w) = (4000, 96, 128);
    let mut rng = stream(1, 0, 0, Purpose::Test);
    let draws: Vec<Draw> = (0..n).map(|_| Draw::sample(&mut rng, &spec, h, w)).collect();
    let share = |f: &dyn Fn(&Draw) -> bool| draws.iter().filter(|d| f(d)).count() as f64 / n as f64;
    for (name, got, p) in [
        ("flip", share(&|d| d.flip), 0.5),
        ("jitter", share(&|d| d.jitter.is_some()), 0.8),
        ("grey", share(&|d| d.grey), 0.2),
        ("blur", share(&|d| d.blur.is_some()), 0.5),
        ("first brightness", share(&|d| d.jitter.is_some_and(|j| j.order[0] == Adjust::Brightness)), 0.2),
        ("last contrast", share(&|d| d.jitter.is_some_and(|j| j.order[3] == Adjust::Contrast)), 0.2),
    ] {
        // Five standard deviations of a share of n.
        let bound = 5.0 * (p * (1.0 - p) / f64::from(n)).sqrt();
        assert!((p - bound..=p + bound).contains(&got), "{name}: {got} of {n}, expected {p}");
    }
    for draw in &draws {
        let Crop { y, x, h: ch, w: cw } = draw.crop;
        assert!(y + ch <= h && x + cw <= w, "{:?}", draw.crop);
        let area = (ch * cw) as f64 / (h * w) as f64;
        assert!((0.28..=1.0).contains(&area), "area {area}");
        assert!((0.48..=2.08).contains(&(cw as f64 / ch as f64)), "{:?}", draw.crop);
        if let Some(j) = draw.jitter {
            assert!([j.brightness, j.contrast, j.saturation].iter().all(|f| (0.6..=1.4).contains(f)), "{j:?}");
            assert!(j.hue.abs() <= 0.1);
        }
        assert!(draw.blur.is_none_or(|s| (0.1..=2.0).contains(&s)));
    }
}

#[test]
fn the_same_key_draws_the_same_and_a_switch_touches_nothing_else() {
    let draw = |flip| {
        let spec = AugmentSpec { flip, ..AugmentSpec::default() };
        Draw::sample(&mut stream(3, 1, 4, Purpose::Augment), &spec, 64, 80)
    };
    assert_eq!(draw(0.5), draw(0.5));
    assert!(!draw(0.0).flip && draw(1.0).flip);
    assert_eq!(Draw { flip: false, ..draw(1.0) }, draw(0.0));
}

#[test]
fn mistakes_are_named() {
    let mut out = vec![0.0; 4 * 4 * 3];
    let frame = vec![0u8; 5 * 5 * 3];
    let mut kind =
        |frame: &[u8], draw: &Draw, side: usize| apply_rgb(&[frame], 5, 5, draw, side, &mut out).unwrap_err();
    assert!(matches!(kind(&frame[1..], &whole(5, 5), 4).kind(), ErrorKind::Shape { arg: "frames", .. }));
    assert!(matches!(kind(&frame, &whole(5, 5), 5).kind(), ErrorKind::Shape { arg: "out", .. }));
    let outside = Draw { crop: Crop { y: 2, x: 0, h: 4, w: 5 }, ..whole(5, 5) };
    assert!(matches!(kind(&frame, &outside, 4).kind(), ErrorKind::Param { name: "crop", .. }));
    let wide = Draw { blur: Some(2.5), blur_form: BlurForm::Boxes, ..whole(5, 5) };
    assert!(matches!(kind(&frame, &wide, 4).kind(), ErrorKind::Param { name: "blur", .. }));
    let empty = apply_rgb(&[], 0, 0, &whole(5, 5), 4, &mut []).unwrap_err();
    assert!(matches!(empty.kind(), ErrorKind::Param { name: "extents", .. }));

    let plane = [0.0f32; 25];
    let flow = apply_motion(&[&plane], 1, MotionKind::Flow, [5, 5], &whole(5, 5), 2, &mut [0.0; 4]).unwrap_err();
    assert!(matches!(flow.kind(), ErrorKind::Param { name: "channels", .. }));
    for (name, bad) in [
        ("area", AugmentSpec { area: [0.5, 1.5], ..Default::default() }),
        ("aspect", AugmentSpec { aspect: [0.0, 2.0], ..Default::default() }),
        ("flip", AugmentSpec { flip: f32::NAN, ..Default::default() }),
        ("std", AugmentSpec { std: [0.0; 3], ..Default::default() }),
        ("blur_sigma", AugmentSpec { blur_form: BlurForm::Boxes, blur_sigma: [0.1, 2.5], ..Default::default() }),
    ] {
        let error = bad.check().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Param { name: got, .. } if *got == name), "{error}");
    }
    AugmentSpec::default().check().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rgb_and_motion_see_the_same_box(h in 1usize..40, w in 1usize..40, side in 1usize..20, seed: u64) {
        let spec = AugmentSpec { jitter: 0.0, grey: 0.0, blur: 0.0, mean: [0.0; 3], std: [1.0; 3], ..Default::default() };
        let draw = Draw::sample(&mut stream(seed, 0, 0, Purpose::Test), &spec, h, w);
        let frame: Vec<u8> = (0..h * w * 3).map(|i| (i / 3 * 7 + i / 3 / w * 11) as u8).collect();
        let plane: Vec<f32> = frame.iter().step_by(3).map(|&v| f32::from(v) * (1.0 / 255.0)).collect();
        let seen = rgb(&frame, h, w, &draw, side);
        let mut maps = vec![f32::NAN; side * side * 3];
        apply_motion(&[&plane, &plane, &plane], 3, MotionKind::Map, [h, w], &draw, side, &mut maps).unwrap();
        assert_norm("the same box", &maps, &seen, 1e-6);
    }

    #[test]
    fn a_constant_frame_stays_constant(level: [u8; 3], h in 1usize..20, w in 1usize..20, side in 1usize..12, seed: u64) {
        let spec = AugmentSpec { jitter: 1.0, blur: 1.0, grey: 0.0, hue: 0.5, mean: [0.0; 3], std: [1.0; 3], ..Default::default() };
        let draw = Draw::sample(&mut stream(seed, 0, 0, Purpose::Test), &spec, h, w);
        let frame: Vec<u8> = level.iter().copied().cycle().take(h * w * 3).collect();
        let seen = rgb(&frame, h, w, &draw, side);
        prop_assert!(seen.iter().all(|v| (0.0..=1.00001).contains(v)));
        let middle: Vec<f32> = seen[..3].iter().copied().cycle().take(seen.len()).collect();
        prop_assert!(seen.iter().zip(&middle).all(|(a, b)| a.to_bits().abs_diff(b.to_bits()) <= 8), "{seen:?}");
    }
}
