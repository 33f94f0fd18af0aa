//! Convolutions on tiles: bf16 tensors, and f32 ones whose products are formed from bf16 parts. Machines without tiles
//! compute the same results otherwise, within the same bounds.

use crate::support::close::{assert_bounded, assert_norm, assert_within, gamma};
use crate::support::numbers::{Draw, drawn, integer, real, seeded, wide};
use crate::support::skip::absent;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tubelet::cpu::Isa;
use tubelet::ops::conv3d::cases::SMALL;
use tubelet::ops::conv3d::{Conv3d, Geometry, Products, dgrad, dgrad_with, fprop, fprop_with, reference, wgrad_with};
use tubelet::ops::reference::Bounded;
use tubelet::shape::{Shape, Window};
use tubelet::tensor::{DType, Tensor};

/// `x`, `w` and `dy` of a problem.
fn operands(p: &Conv3d, draw: Draw) -> [Tensor; 3] {
    [
        drawn(&mut seeded(1), p.x_shape(), draw),
        drawn(&mut seeded(2), p.w_shape(), draw),
        drawn(&mut seeded(3), p.y_shape(), draw),
    ]
}

/// fprop and dgrad of the definition.
fn definition(p: &Conv3d, [x, w, dy]: &[Tensor; 3]) -> [Bounded<f64>; 2] {
    let (x, w, dy) = (wide(x), wide(w), wide(dy));
    [reference::fprop(p, &x, &w), reference::dgrad(p, &dy, &w)]
}

/// fprop and dgrad on tiles.
fn passes(p: &Conv3d, [x, w, dy]: &[Tensor; 3], products: Products) -> [Tensor; 2] {
    let g = p.geometry().with(products);
    [fprop_with(Isa::Amx, x, w, &g).unwrap(), dgrad_with(Isa::Amx, dy, w, p.x_shape(), &g).unwrap()]
}

const PASSES: [&str; 2] = ["fprop", "dgrad"];

/// Sums of products of small integers are the same in any order, also of parts.
fn check_exact(name: &str, p: &Conv3d) {
    let d = operands(p, integer);
    let want = definition(p, &d);
    let rounded = d.clone().map(|t| t.cast(DType::BF16).unwrap());
    for (got, want) in passes(p, &rounded, Products::F32).iter().zip(&want) {
        let value: Vec<f32> = want.value.iter().map(|&v| v as f32).collect();
        let want = Tensor::from_f32(got.shape(), &value).unwrap().cast(DType::BF16).unwrap();
        assert!(got.bf16().unwrap() == want.bf16().unwrap(), "{name}: bf16");
    }
    for products in [Products::Bf16x3, Products::Bf16x6] {
        for ((got, want), pass) in passes(p, &d, products).iter().zip(&want).zip(PASSES) {
            let same = got.f32().unwrap().iter().zip(&want.value).all(|(&a, &b)| f64::from(a) == b);
            assert!(same, "{name} {pass}: {products:?}");
        }
    }
}

/// bf16 tensors within the bound of f32 sums rounded once; f32 tensors within that of the parts left out.
fn check_bounded(name: &str, p: &Conv3d) {
    let d = operands(p, real);
    let rounded = d.clone().map(|t| t.cast(DType::BF16).unwrap());
    let want = definition(p, &rounded);
    for ((got, want), pass) in passes(p, &rounded, Products::F32).iter().zip(&want).zip(PASSES) {
        assert_bounded(&format!("{name} {pass} bf16"), &got.load().unwrap(), want, DType::BF16);
    }
    // A part in bf16 leaves 2⁻⁸ of what it rounds. Of a product, two parts leave 3·2⁻¹⁶ (one of each number, and the
    // product of the second parts), three leave 2·2⁻²⁴ and twice 2⁻²⁴; the second order of these is less than a tenth.
    let want = definition(p, &d);
    for (products, left, sums) in
        [(Products::Bf16x3, 3.3 * 0.5f64.powi(16), 3), (Products::Bf16x6, 4.4 * 0.5f64.powi(24), 6)]
    {
        for ((got, want), pass) in passes(p, &d, products).iter().zip(&want).zip(PASSES) {
            let rel = left + 2.0 * gamma(sums * want.terms.max(1), DType::F32);
            let off: Vec<f64> = want.magnitude.iter().map(|m| rel * m).collect();
            assert_within(&format!("{name} {pass} {products:?}"), got.f32().unwrap(), &want.value, &off);
        }
    }
}

#[test]
fn exact_on_integers() {
    for c in SMALL {
        check_exact(c.name, &c.problem());
    }
}

#[test]
fn bounded_on_reals() {
    for c in SMALL {
        check_bounded(c.name, &c.problem());
    }
}

/// Any convolution that is small enough, with a few channels or with several blocks of them.
fn any_problem() -> impl Strategy<Value = Conv3d> {
    let axis = || (1usize..=9, 1usize..=3, 1usize..=3, 0usize..=3, 1usize..=2);
    let channels = || prop_oneof![1usize..=8, 9usize..=40, 41usize..=150];
    let all = (1usize..=2, channels(), channels(), axis(), axis(), axis());
    all.prop_filter_map("the filter fits", |(n, c, k, t, h, w)| {
        let window = Window { stride: [t.2, h.2, w.2], pad: [t.3, h.3, w.3], dilation: [t.4, h.4, w.4] };
        let (x, f) = ([n, t.0, h.0, w.0, c], [k, t.1, h.1, w.1, c]);
        let p = Conv3d::new("conv3d", x.into(), f.into(), &Geometry::new(window)).ok()?;
        (p.flops() < 1 << 24).then_some(p)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_shape_is_exact(p in any_problem()) {
        check_exact("any", &p);
    }
}

/// A table row with another number of channels.
fn resized(name: &str, x: [usize; 5], k: usize) -> Conv3d {
    let mut case = *SMALL.iter().find(|c| c.name == name).unwrap();
    (case.x, case.k) = (x, k);
    case.problem()
}

/// Problems large enough for several tasks, blocks and segments of channels, in each layout.
fn larger() -> Vec<(&'static str, Conv3d)> {
    vec![
        ("slab, one segment", resized("spatial", [1, 2, 14, 14, 64], 80)),
        ("slab, several segments", resized("spatial", [1, 1, 7, 7, 576], 96)),
        ("slab, odd channels merged", resized("spatial", [1, 2, 9, 20, 45], 33)),
        ("strided rows", resized("spatial-strided", [2, 2, 13, 12, 96], 64)),
        ("the input itself", resized("temporal", [2, 5, 7, 7, 144], 64)),
        ("the input itself, odd channels", resized("temporal", [1, 5, 6, 7, 45], 64)),
        ("aliased rows", resized("pointwise", [2, 2, 7, 7, 1024], 64)),
        ("steps in time", resized("temporal-strided", [1, 7, 5, 5, 230], 128)),
        ("shortcut", resized("pointwise-strided", [1, 4, 9, 10, 64], 160)),
    ]
}

#[test]
fn larger_problems() {
    for (name, p) in larger() {
        check_exact(name, &p);
    }
}

#[test]
fn same_bits_for_any_thread_count() {
    for (name, p) in larger() {
        let d = operands(&p, real);
        let rounded = d.clone().map(|t| t.cast(DType::BF16).unwrap());
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let split = passes(&p, &d, Products::Bf16x3);
                passes(&p, &rounded, Products::F32)
                    .into_iter()
                    .chain(split)
                    .map(|t| t.load().unwrap().into_owned())
                    .collect::<Vec<_>>()
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{name}");
    }
}

/// One number that is none spoils what sees it and nothing else: neither a neighbour's channels, nor what lies behind
/// the end of a row or a frame, is multiplied even with 0.
#[test]
fn what_is_not_finite_stays_where_it_is_seen() {
    let mut problems = larger();
    problems.push(("stem", resized("stem-49", [1, 3, 17, 19, 3], 45)));
    problems.push(("gray", resized("gray", [1, 3, 9, 9, 1], 4)));
    problems.push(("few channels", resized("stem-27", [1, 3, 9, 9, 5], 7)));
    for (name, p) in problems {
        let [x, w, dy] = operands(&p, integer);
        for bad in [f32::NAN, f32::INFINITY] {
            let spoil = |t: &Tensor| {
                let mut data = t.f32().unwrap().to_vec();
                let middle = data.len() / 2;
                data[middle] = bad;
                Tensor::from_f32(t.shape(), &data).unwrap()
            };
            let d = [spoil(&x), w.clone(), spoil(&dy)];
            let want = definition(&p, &d);
            let seen = |v: f64| !v.is_finite();
            for (dtype, products) in [(DType::BF16, Products::F32), (DType::F32, Products::Bf16x3)] {
                let d = d.clone().map(|t| t.cast(dtype).unwrap());
                for ((got, want), pass) in passes(&p, &d, products).iter().zip(&want).zip(PASSES) {
                    let same = wide(got).iter().zip(&want.value).all(|(&a, &b)| seen(a) == seen(b));
                    assert!(same, "{name} {pass} {products:?} with {bad}");
                }
            }
        }
    }
}

/// f32 is by multiply-adds, by fewer of them or by six products of parts, as [`Products::F32`] says: whole passes one way, and here,
/// where it is known which is fastest, that one. Fewer products are no way that can be asked for: `None`.
#[test]
fn f32_goes_the_fastest_way() {
    let bits = |t: &Tensor| t.f32().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for (name, shape, filters, fastest) in [
        ("spatial", [2, 4, 28, 28, 96], 96, None),
        ("temporal", [2, 8, 28, 28, 64], 64, Some(Products::Bf16x6)),
        ("spatial", [1, 2, 7, 7, 64], 64, Some(Products::Fma)),
    ] {
        let p = resized(name, shape, filters);
        let d = operands(&p, real);
        let [x, _, dy] = &d;
        let all = |products| {
            let [y, dx] = passes(&p, &d, products);
            let dw = wgrad_with(Isa::Amx, x, dy, p.w_shape(), &p.geometry().with(products)).unwrap();
            [y, dx, dw].map(|t| bits(&t))
        };
        let chosen = all(Products::F32);
        // Without tiles the parts are computed in f32 too, in the way that is fastest there.
        let tiles = Isa::available().contains(&Isa::Amx);
        for products in [Products::Fma, Products::Bf16x6] {
            let same = match fastest {
                None => !tiles && products == Products::Bf16x6,
                Some(fastest) => !tiles || products == fastest,
            };
            for ((pass, chosen), other) in ["fprop", "dgrad", "wgrad"].iter().zip(&chosen).zip(&all(products)) {
                assert_eq!(chosen == other, same, "{pass} of {shape:?} and {products:?}");
            }
        }
    }
}

/// What is promised of the ways to form products of f32.
#[test]
fn parts_are_as_exact_as_promised() {
    let p = resized("spatial", [1, 2, 14, 14, 64], 64);
    let d = operands(&p, real);
    let want = definition(&p, &d);
    for (products, rel) in [(Products::Bf16x3, 1e-5), (Products::Bf16x6, 5e-7), (Products::Fma, 5e-7)] {
        let g = p.geometry().with(products);
        let got = [fprop(&d[0], &d[1], &g).unwrap(), dgrad(&d[2], &d[1], p.x_shape(), &g).unwrap()];
        for ((got, want), pass) in got.iter().zip(&want).zip(PASSES) {
            let want: Vec<f32> = want.value.iter().map(|&v| v as f32).collect();
            assert_norm(&format!("{pass} {products:?}"), got.f32().unwrap(), &want, rel);
        }
    }
}

/// Numbers of a size from `least` to twice that, of both signs.
fn sized(seed: u64, shape: Shape, least: f32) -> Tensor {
    let mut r = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || least * r.random_range(1.0f32..2.0) * if r.random_bool(0.5) { 1.0 } else { -1.0 };
    Tensor::from_f32(shape, &(0..shape.len()).map(|_| draw()).collect::<Vec<_>>()).unwrap()
}

/// The range that the ways to form products of f32 state: where machines have tiles the bound is theirs.
#[test]
fn numbers_of_the_stated_range_are_as_exact_as_f32() {
    let p = resized("spatial", [1, 2, 14, 14, 64], 64);
    let least = Products::EXACT_FROM;
    assert_eq!(least, 2f32.powi(-102));
    let [x, w, dy] = [sized(1, p.x_shape(), least), sized(2, p.w_shape(), 1.0), sized(3, p.y_shape(), least)];
    let d = [x, w, dy];
    let want = definition(&p, &d);
    let dy = sized(4, p.y_shape(), 1.0);
    let want_dw = reference::wgrad(&p, &wide(&d[0]), &wide(&dy));
    let scaled = |v: &[f64]| v.iter().map(|v| (v / f64::from(least)) as f32).collect::<Vec<f32>>();
    for products in [Products::F32, Products::Bf16x6, Products::Fma] {
        let dw = wgrad_with(Isa::Amx, &d[0], &dy, p.w_shape(), &p.geometry().with(products)).unwrap();
        let [y, dx] = passes(&p, &d, products);
        for (pass, got, want) in [("fprop", y, &want[0]), ("dgrad", dx, &want[1]), ("wgrad", dw, &want_dw)] {
            assert_norm(&format!("{pass} {products:?}"), &scaled(&wide(&got)), &scaled(&want.value), 5e-7);
        }
    }
}

/// Below that range a number, a product and a sum lose no more than 2⁻¹²⁶ each.
#[test]
fn smaller_numbers_lose_what_is_stated() {
    if !Isa::available().contains(&Isa::Amx) {
        absent("tiles of this processor (AMX)", "what they lose");
    }
    let p = resized("spatial", [1, 2, 14, 14, 64], 64);
    for least in [1e-33, 1e-35, 1e-37, 1e-38, 1e-40] {
        for (dtype, products) in
            [(DType::F32, Products::F32), (DType::F32, Products::Bf16x6), (DType::BF16, Products::F32)]
        {
            let d = [sized(1, p.x_shape(), least), sized(2, p.w_shape(), 1.0), sized(3, p.y_shape(), least)];
            let d = d.map(|t| t.cast(dtype).unwrap());
            for ((got, want), pass) in passes(&p, &d, products).iter().zip(&definition(&p, &d)).zip(PASSES) {
                let lost = 2f64.powi(-126) * (1.0 + 2f64.powi(-8)) * (2.0 + 6.0) * (want.terms + 1) as f64;
                let (sums, result) = (2.0 * gamma(want.terms, DType::F32), 2.0 * dtype.unit_roundoff());
                let off = |(v, m): (&f64, &f64)| m * sums + v.abs() * result + lost;
                let off: Vec<f64> = want.value.iter().zip(&want.magnitude).map(off).collect();
                let what = format!("{pass} of {least:e} in {dtype:?} by {products:?}");
                assert_within(&what, &got.load().unwrap(), &want.value, &off);
            }
        }
    }
}
