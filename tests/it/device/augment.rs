//! Augmentation's device code in the simulator, against the CPU's.

use crate::support::close::{assert_within, gamma};
use crate::support::numbers::{data, reals, wide};
use crate::support::sim::{Sim, on_gpu};
use ptxsim::Order;
use tubelet::augment::{
    Adjust, AugmentSpec, BlurForm, Crop, Draw, Jitter, MotionKind, apply_motion, apply_motion_batch, apply_rgb,
    apply_rgb_batch,
};
use tubelet::error::ErrorKind;
use tubelet::rng::{Purpose, stream};
use tubelet::tensor::{DType, Device, Frames, Tensor};

pub(super) fn frames(count: usize, h: usize, w: usize) -> Vec<Vec<u8>> {
    let waves = |t: usize, i: usize| {
        let (y, x, c) = ((i / 3 / w) as f64, (i / 3 % w) as f64, (i % 3) as f64);
        127.5 + 60.0 * (0.4 * x + c).sin() + 60.0 * (0.3 * y + 0.5 * t as f64 - c).cos()
    };
    let noise = reals(count * h * w * 3, 5);
    let pixel = |t: usize, i: usize| (waves(t, i) + 7.0 * f64::from(noise[t * h * w * 3 + i])) as u8;
    (0..count).map(|t| (0..h * w * 3).map(|i| pixel(t, i)).collect()).collect()
}

fn upload(device: &Device, frames: &[Vec<u8>], h: usize, w: usize) -> Frames {
    let Device::Cuda(gpu) = device else { unreachable!() };
    Frames::upload(gpu, &frames.iter().map(Vec::as_slice).collect::<Vec<_>>(), h, w).unwrap()
}

/// How far two computations of a draw in f32 may be apart before normalisation, for values from 0 to 1.
///
/// Each is off by `e`, which starts with the 9 roundings of the resampling and passes through the operations: an affine one with
/// factor f multiplies it by at most f, takes |1 - f| times the error of what it blends towards (a grey: 5 roundings more; a mean
/// of greys: as many roundings as pixels, besides) and rounds 4 times numbers up to 1 + 2f. Hue: the place on the circle times the
/// chroma is off by at most 4e (two differences, and the chroma itself twice), 8 roundings of numbers up to 8, and twice the
/// error of the largest value. A blur averages: 6 roundings, and by boxes 6 for each of the six, which come after the
/// normalisation on a GPU.
pub(super) fn off(draw: &Draw, pixels: usize) -> f64 {
    let u = DType::F32.unit_roundoff();
    let mut e = 9.0 * u;
    if let Some(j) = &draw.jitter {
        for adjust in j.order {
            let affine = |e: f64, f: f32, towards: f64| {
                let f = f64::from(f);
                f * e + (1.0 - f).abs() * towards + 4.0 * u * (1.0 + 2.0 * f)
            };
            e = match adjust {
                Adjust::Brightness => affine(e, j.brightness, 0.0),
                Adjust::Contrast => affine(e, j.contrast, e + 5.0 * u + gamma(pixels, DType::F32)),
                Adjust::Saturation => affine(e, j.saturation, e + 5.0 * u),
                Adjust::Hue if j.hue != 0.0 => 6.0 * e + 64.0 * u,
                Adjust::Hue => e,
            };
        }
    }
    if draw.grey {
        e += 5.0 * u;
    }
    if draw.blur.is_some() {
        e += if draw.blur_form == BlurForm::Boxes { 36.0 * u } else { 6.0 * u };
    }
    2.0 * e
}

fn check(what: &str, draws: &[Draw], t: usize, h: usize, w: usize, side: usize) {
    let all = frames(draws.len() * t, h, w);
    let mut want = vec![0.0; draws.len() * t * side * side * 3];
    let mut bounds = Vec::new();
    let size = t * side * side * 3;
    for ((draw, clip), out) in draws.iter().zip(all.chunks_exact(t)).zip(want.chunks_exact_mut(size)) {
        let clip: Vec<&[u8]> = clip.iter().map(Vec::as_slice).collect();
        apply_rgb(&clip, h, w, draw, side, out).unwrap();
        let (e, u) = (off(draw, side * side), DType::F32.unit_roundoff());
        let of_channel = |c: usize| (e + 4.0 * u * (1.0 + f64::from(draw.mean[c]))) / f64::from(draw.std[c]);
        bounds.extend((0..size).map(|i| of_channel(i % 3)));
    }
    let want = wide(&want);
    for dtype in [DType::F32, DType::BF16] {
        let got = on_gpu(|device| {
            let out = apply_rgb_batch(&upload(device, &all, h, w), draws, side, dtype).unwrap();
            assert_eq!((out.dims(), out.dtype()), (&[draws.len(), t, side, side, 3][..], dtype));
            data(&out)
        });
        let stored = if dtype == DType::BF16 { 1.01 * dtype.unit_roundoff() } else { 0.0 };
        let bounds: Vec<f64> = bounds.iter().zip(&want).map(|(b, v)| b + stored * v.abs()).collect();
        assert_within(&format!("{what}, {}", dtype.name()), &got, &want, &bounds);
    }
}

pub(super) fn plain(h: usize, w: usize) -> Draw {
    Draw { crop: Crop { y: 1, x: 2, h: h - 3, w: w - 4 }, ..Draw::centre(&AugmentSpec::default(), h, w) }
}

pub(super) fn jitter(order: [Adjust; 4]) -> Jitter {
    Jitter { order, brightness: 1.3, contrast: 0.65, saturation: 1.35, hue: -0.2 }
}

const ORDER: [Adjust; 4] = [Adjust::Saturation, Adjust::Contrast, Adjust::Brightness, Adjust::Hue];

/// Each operation alone and all together, sides that divide nothing and a single pixel, in one batch of clips that differ.
#[test]
pub fn clips_on_a_gpu_are_those_of_the_cpu() {
    let (h, w) = (21, 26);
    let draws = [
        plain(h, w),
        Draw { flip: true, ..plain(h, w) },
        Draw { jitter: Some(jitter(ORDER)), ..plain(h, w) },
        Draw { grey: true, ..plain(h, w) },
        Draw { blur: Some(0.8), ..plain(h, w) },
        Draw { flip: true, blur: Some(1.7), jitter: Some(jitter(ORDER)), ..plain(h, w) },
    ];
    let boxes = |sigma, draw: &Draw| Draw { blur: Some(sigma), blur_form: BlurForm::Boxes, ..draw.clone() };
    let boxed = [boxes(0.9, &draws[0]), draws[4].clone(), boxes(2.0, &draws[5]), draws[1].clone()];
    for side in [1, 2, 13, 40] {
        check(&format!("side {side}"), &draws, 2, h, w, side);
        check(&format!("boxes, side {side}"), &boxed, 2, h, w, side);
    }
}

/// Contrast after any of the others, and as the first and the last.
#[test]
fn every_order_of_jitter() {
    use Adjust::{Brightness as B, Contrast as C, Hue as H, Saturation as S};
    let draws: Vec<Draw> = [[C, B, S, H], [B, C, H, S], [H, S, C, B], [S, H, B, C], [B, H, S, C]]
        .into_iter()
        .map(|order| Draw { jitter: Some(jitter(order)), ..plain(17, 19) })
        .collect();
    check("orders", &draws, 1, 17, 19, 36);
}

#[test]
fn random_draws() {
    let spec = AugmentSpec { hue: 0.3, ..AugmentSpec::default() };
    let mut rng = stream(7, 0, 0, Purpose::Test);
    let draws: Vec<Draw> = (0..6).map(|_| Draw::sample(&mut rng, &spec, 32, 44)).collect();
    check("random", &draws, 2, 32, 44, 24);
}

#[test]
pub fn motion_follows_its_clip_on_a_gpu() {
    let (n, t, h, w, side) = (2, 3, 14, 18, 11);
    let draws = [plain(28, 36), Draw { flip: true, ..plain(28, 36) }];
    for (kind, c) in [(MotionKind::Map, 1), (MotionKind::Map, 3), (MotionKind::Flow, 2), (MotionKind::Flow, 3)] {
        let maps = reals(n * t * h * w * c, 9);
        let mut want = vec![0.0; n * t * side * side * c];
        for (i, out) in want.chunks_exact_mut(t * side * side * c).enumerate() {
            let plane = |j: usize| -> Vec<f32> {
                let frame = &maps[(i * t + j / c) * h * w * c..][..h * w * c];
                frame.iter().skip(j % c).step_by(c).copied().collect()
            };
            let planes: Vec<Vec<f32>> = (0..t * c).map(plane).collect();
            let planes: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
            apply_motion(&planes, c, kind, [h, w], &draws[i], side, out).unwrap();
        }
        // Nine roundings of numbers up to 1, times a gain below 2, in either computation.
        let u = DType::F32.unit_roundoff();
        for dtype in [DType::F32, DType::BF16] {
            let got = on_gpu(|device| {
                let maps = Tensor::from_f32([n, t, h, w, c], &maps).unwrap().to(device).unwrap();
                data(&apply_motion_batch(&maps, kind, &draws, side, dtype).unwrap())
            });
            let stored = if dtype == DType::BF16 { 1.01 * dtype.unit_roundoff() } else { 0.0 };
            let want = wide(&want);
            let bounds: Vec<f64> = want.iter().map(|v| 36.0 * u + stored * v.abs()).collect();
            assert_within(&format!("{kind:?} of {c}"), &got, &want, &bounds);
        }
    }
}

#[test]
fn a_gpu_refuses_clips_as_the_cpu_does() {
    let sim = Sim::new(Order::Forward);
    let frames = upload(&sim.device(), &frames(3, 8, 8), 8, 8);
    let refused = |draws: &[Draw], side: usize| apply_rgb_batch(&frames, draws, side, DType::F32).unwrap_err();
    let plain = plain(8, 8);
    let e = refused(&[plain.clone(), plain.clone()], 4);
    assert!(matches!(e.kind(), ErrorKind::Shape { arg: "frames", .. }), "{e}");
    let e = refused(&[Draw { crop: Crop { y: 4, x: 4, h: 5, w: 1 }, ..plain.clone() }], 4);
    assert!(matches!(e.kind(), ErrorKind::Param { name: "crop", .. }), "{e}");
    let twice = jitter([Adjust::Hue, Adjust::Contrast, Adjust::Contrast, Adjust::Brightness]);
    let e = refused(&[Draw { jitter: Some(twice), ..plain.clone() }], 4);
    assert!(matches!(e.kind(), ErrorKind::Param { name: "order", .. }), "{e}");
    let e = refused(std::slice::from_ref(&plain), 0);
    assert!(matches!(e.kind(), ErrorKind::Param { .. }), "{e}");
    let maps = Tensor::zeros([1, 1, 4, 4, 1]);
    let e = apply_motion_batch(&maps, MotionKind::Map, &[plain], 2, DType::F32).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Device { .. }), "{e}");
}

/// The result is written once, in whole sectors where rows of it are; shared memory is met without conflicts.
#[test]
fn augmentation_writes_its_result_once() {
    let (h, w, side, t) = (80, 100, 64, 2);
    let sim = Sim::new(Order::Forward);
    let frames = upload(&sim.device(), &frames(t, h, w), h, w);
    let draw = Draw { blur: Some(1.0), jitter: Some(jitter(ORDER)), ..plain(h, w) };
    apply_rgb_batch(&frames, &[draw], side, DType::BF16).unwrap();
    let totals = sim.machine.totals();
    let c = &totals["augment_rgb_bf16"];
    println!("{c:?}");
    assert_eq!(c.global_bytes_stored, (t * side * side * 3 * 2) as u64);
    assert_eq!(c.global_sectors_stored * 32, c.global_bytes_stored);
}

/// Only contrast needs the mean greys, and only boxes a pass after the others.
#[test]
fn clips_take_no_pass_more_than_their_draws_need() {
    let (h, w) = (21, 26);
    let jittered = Draw { jitter: Some(jitter(ORDER)), ..plain(h, w) };
    let boxed = Draw { blur: Some(0.9), blur_form: BlurForm::Boxes, ..plain(h, w) };
    for (draws, passes) in [
        ([plain(h, w), Draw { blur: Some(0.8), ..plain(h, w) }], 1),
        ([plain(h, w), jittered.clone()], 2),
        ([boxed.clone(), plain(h, w)], 2),
        ([boxed, jittered], 3),
    ] {
        let sim = Sim::new(Order::Forward);
        let frames = upload(&sim.device(), &frames(2, h, w), h, w);
        apply_rgb_batch(&frames, &draws, 13, DType::F32).unwrap();
        assert_eq!(sim.machine.totals().values().map(|c| c.launches).sum::<u64>(), passes);
    }
}
