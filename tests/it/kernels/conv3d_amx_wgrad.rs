//! wgrad in tiles of bf16, and in f32 split into parts, against the definition.

use crate::support::close::{assert_bounded, assert_norm, assert_within, gamma};
use crate::support::numbers::{Draw, drawn, integer, real, seeded, wide};
use crate::support::skip::absent;
use proptest::prelude::*;
use tubelet::cpu::Isa;
use tubelet::ops::conv3d::cases::{LAYERS, SMALL};
use tubelet::ops::conv3d::{Conv3d, Geometry, Products, reference, wgrad_with};
use tubelet::shape::Window;
use tubelet::tensor::{DType, Tensor};

/// What tiles take: tensors of bf16, or of f32 in so many parts.
const FORMS: [(DType, Products); 3] =
    [(DType::BF16, Products::F32), (DType::F32, Products::Bf16x3), (DType::F32, Products::Bf16x6)];

fn no_tiles() -> bool {
    let none = !Isa::available().contains(&Isa::Amx);
    if none {
        absent("tiles of this processor (AMX)", "wgrad on them");
    }
    none
}

fn operands(p: &Conv3d, seed: u64, draw: Draw) -> [Tensor; 2] {
    let mut r = seeded(seed);
    [drawn(&mut r, p.x_shape(), draw), drawn(&mut r, p.y_shape(), draw)]
}

fn run(p: &Conv3d, [x, dy]: &[Tensor; 2], (dtype, products): (DType, Products)) -> Tensor {
    let (x, dy) = (x.cast(dtype).unwrap(), dy.cast(dtype).unwrap());
    wgrad_with(Isa::Amx, &x, &dy, p.w_shape(), &p.geometry().with(products)).unwrap()
}

fn check_exact(name: &str, p: &Conv3d) {
    let data = operands(p, 1, integer);
    let want = reference::wgrad(p, data[0].f32().unwrap(), data[1].f32().unwrap()).value;
    for form in FORMS {
        let got = run(p, &data, form);
        assert_eq!(got.dtype(), DType::F32);
        let got = got.f32().unwrap();
        let wrong = got.iter().zip(&want).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "{name} {form:?} {p:?}: {:?}", wrong.map(|i| (got[i], want[i])));
    }
}

fn small(name: &str) -> Conv3d {
    SMALL.iter().find(|c| c.name == name).unwrap().problem()
}

#[test]
fn exact_on_integers() {
    if no_tiles() {
        return;
    }
    SMALL.iter().for_each(|c| check_exact(c.name, &c.problem()));
}

/// Bands, stretches, sets and parts of real layers, which small problems have one of; fewer channels for the reference's sake.
#[test]
fn exact_where_work_is_cut() {
    if no_tiles() {
        return;
    }
    for (name, x, k, kernel, stride) in [
        ("several sets and bands", [1, 3, 56, 56, 7], 19, [1, 3, 3], [1, 1, 1]),
        ("sets that begin within a clip", [2, 9, 28, 29, 9], 5, [3, 1, 1], [1, 1, 1]),
        ("strided in time, ring of three", [1, 9, 30, 30, 6], 8, [3, 3, 3], [2, 2, 2]),
        ("a shortcut, strided", [1, 16, 30, 29, 20], 24, [1, 1, 1], [2, 2, 2]),
        ("rows that no tap reads", [1, 4, 20, 21, 6], 8, [3, 1, 3], [2, 3, 2]),
        ("many filters", [1, 2, 7, 7, 20], 300, [3, 1, 1], [1, 1, 1]),
        ("many channels", [1, 2, 7, 7, 300], 40, [1, 3, 3], [1, 1, 1]),
        ("small frames, many samples", [9, 2, 6, 7, 17], 33, [3, 3, 3], [1, 1, 1]),
    ] {
        let [kt, kh, kw] = kernel;
        let window = Window::same(kernel).strided(stride);
        let p = Conv3d::new("conv3d", x.into(), [k, kt, kh, kw, x[4]].into(), &window.into()).unwrap();
        check_exact(name, &p);
    }
}

/// Any convolution that is small enough, with one group.
fn any_problem() -> impl Strategy<Value = Conv3d> {
    let axis = || (1usize..=9, 1usize..=3, 1usize..=3, 0usize..=3, 1usize..=2);
    (1usize..=2, 1usize..=40, 1usize..=50, axis(), axis(), axis()).prop_filter_map(
        "the filter fits",
        |(n, c, k, t, h, w)| {
            let window = Window { stride: [t.2, h.2, w.2], pad: [t.3, h.3, w.3], dilation: [t.4, h.4, w.4] };
            let (x, f) = ([n, t.0, h.0, w.0, c], [k, t.1, h.1, w.1, c]);
            Conv3d::new("conv3d", x.into(), f.into(), &Geometry::new(window)).ok()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_shape_is_exact(p in any_problem()) {
        if !no_tiles() {
            check_exact("any", &p);
        }
    }
}

/// Products of bf16 are exact in f32, so what is stored as bf16 is off by the roundings of the sums alone.
#[test]
fn bf16_is_bounded_on_reals() {
    if no_tiles() {
        return;
    }
    for c in SMALL.iter().filter(|c| c.geometry.groups == 1) {
        let p = c.problem();
        let data = operands(&p, 2, real).map(|t| t.cast(DType::BF16).unwrap());
        let want = reference::wgrad(&p, &wide(&data[0]), &wide(&data[1]));
        assert_bounded(c.name, run(&p, &data, FORMS[0]).f32().unwrap(), &want, DType::F32);
    }
}

/// Rounding to bf16 leaves at most u = 2⁻⁸ of a number, and rounding what is left as much of that. Of a product, two parts
/// leave out x1·y1 and what either number leaves after two, u² each; three leave out four of u³. Sums of three and six times as many
/// terms are rounded on top.
#[test]
fn split_is_bounded_on_reals() {
    if no_tiles() {
        return;
    }
    let u = DType::BF16.unit_roundoff();
    for c in SMALL.iter().filter(|c| c.geometry.groups == 1) {
        let p = c.problem();
        let data = operands(&p, 3, real);
        let want = reference::wgrad(&p, &wide(&data[0]), &wide(&data[1]));
        for (form, products, left) in [(FORMS[1], 3, 3.1 * u * u), (FORMS[2], 6, 4.1 * u * u * u)] {
            let off = left + 1.1 * gamma(products * want.terms.max(1), DType::F32);
            let off: Vec<f64> = want.magnitude.iter().map(|m| off * m).collect();
            assert_within(&format!("{} {form:?}", c.name), run(&p, &data, form).f32().unwrap(), &want.value, &off);
        }
    }
}

/// The promise of three products: 1e-5 of the result, and of six: as exact as f32.
#[test]
fn split_is_near_f64() {
    if no_tiles() {
        return;
    }
    for name in ["spatial", "wide", "dense-strided"] {
        let p = small(name);
        let data = operands(&p, 4, real);
        let want = reference::wgrad(&p, &wide(&data[0]), &wide(&data[1])).value;
        let want: Vec<f32> = want.iter().map(|&v| v as f32).collect();
        assert_norm(&format!("{name} x3"), run(&p, &data, FORMS[1]).f32().unwrap(), &want, 1e-5);
        assert_norm(&format!("{name} x6"), run(&p, &data, FORMS[2]).f32().unwrap(), &want, 5e-7);
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    if no_tiles() {
        return;
    }
    let layers = LAYERS.iter().filter(|c| ["small-3", "r21d-3t", "small-4"].contains(&c.name));
    for p in layers.map(|c| c.problem()).chain([small("ragged"), small("stem-5")]) {
        let data = operands(&p, 5, real);
        for form in FORMS {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| run(&p, &data, form).load().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            };
            let one = on(1);
            assert!(one == on(2) && one == on(3), "{p:?} {form:?}");
        }
    }
}

/// An input that is no number spoils what the definition says, and at most its channel under other taps; a gradient that
/// is none its filter: both meet zeros that stand for padding.
#[test]
fn no_numbers_stay_where_they_belong() {
    if no_tiles() {
        return;
    }
    for name in ["ragged", "spatial-strided", "dilated", "stem-5", "skipping", "deep"] {
        let p = small(name);
        let [x, dy] = operands(&p, 6, real);
        for i in [0, p.c() + 1, x.shape().len() / 2, x.shape().len() - 1] {
            let mut bad = x.clone();
            bad.f32_mut().unwrap()[i] = f32::NAN;
            let want = reference::wgrad(&p, bad.f32().unwrap(), dy.f32().unwrap()).value;
            for form in FORMS {
                let got = run(&p, &[bad.clone(), dy.clone()], form);
                for (j, (got, want)) in got.f32().unwrap().iter().zip(&want).enumerate() {
                    assert!(!got.is_nan() || j % p.c() == i % p.c(), "{name} {form:?}: x[{i}] spreads to {j}");
                    assert!(got.is_nan() || !want.is_nan(), "{name} {form:?}: x[{i}] is lost at {j}");
                }
            }
        }
        for i in [0, dy.shape().len() / 2, dy.shape().len() - 1] {
            let mut bad = dy.clone();
            bad.f32_mut().unwrap()[i] = f32::INFINITY;
            let want = reference::wgrad(&p, x.f32().unwrap(), bad.f32().unwrap()).value;
            let filter = p.taps() * p.c();
            for form in FORMS {
                let got = run(&p, &[x.clone(), bad.clone()], form);
                for (j, (got, want)) in got.f32().unwrap().iter().zip(&want).enumerate() {
                    let own = j / filter == i % p.k();
                    assert!(got.is_finite() || own, "{name} {form:?}: dy[{i}] spreads to {j}");
                    assert!(!got.is_finite() || want.is_finite(), "{name} {form:?}: dy[{i}] is lost at {j}");
                }
            }
        }
    }
}

/// Memory is used again without being cleared: what it held must not be seen.
#[test]
fn nothing_of_an_earlier_call_is_seen() {
    if no_tiles() {
        return;
    }
    for c in SMALL.iter().filter(|c| c.geometry.groups == 1) {
        let p = c.problem();
        let no_numbers = [Tensor::full(p.x_shape(), f32::NAN), Tensor::full(p.y_shape(), f32::NAN)];
        let data = operands(&p, 7, real);
        for form in FORMS {
            run(&p, &no_numbers, form);
            assert!(run(&p, &data, form).f32().unwrap().iter().all(|v| v.is_finite()), "{} {form:?}", c.name);
        }
    }
}
