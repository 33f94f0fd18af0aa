//! Convolution: the CPU path against the definition, the definition against differences and PyTorch.

use crate::support::close::{assert_bounded, assert_gradient, assert_norm};
use crate::support::goldens::Goldens;
use crate::support::numbers::{Draw, dot, drawn, integer, real, seeded, wide};
use proptest::prelude::*;
use tubelet::cpu::Isa;
use tubelet::error::ErrorKind;
use tubelet::ops;
use tubelet::ops::conv3d::cases::{Case, SMALL};
use tubelet::ops::conv3d::{Conv3d, Geometry, dgrad, dgrad_with, fprop, fprop_with, reference, wgrad, wgrad_with};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Tensor};

/// Inputs of one problem.
struct Data {
    x: Tensor,
    w: Tensor,
    dy: Tensor,
}

fn operands(p: &Conv3d, seed: u64, draw: Draw) -> Data {
    let mut r = seeded(seed);
    let mut make = |shape: Shape| drawn(&mut r, shape, draw);
    Data { x: make(p.x_shape()), w: make(p.w_shape()), dy: make(p.y_shape()) }
}

/// The three passes with chosen instructions.
fn passes(isa: Isa, p: &Conv3d, d: &Data) -> [Tensor; 3] {
    let g = p.geometry();
    [
        fprop_with(isa, &d.x, &d.w, g).unwrap(),
        dgrad_with(isa, &d.dy, &d.w, p.x_shape(), g).unwrap(),
        wgrad_with(isa, &d.x, &d.dy, p.w_shape(), g).unwrap(),
    ]
}

fn check_exact(name: &str, p: &Conv3d) {
    let d = operands(p, 1, integer);
    let (x, w, dy) = (d.x.f32().unwrap(), d.w.f32().unwrap(), d.dy.f32().unwrap());
    let want = [reference::fprop(p, x, w), reference::dgrad(p, dy, w), reference::wgrad(p, x, dy)];
    for &isa in Isa::available() {
        for ((got, want), pass) in passes(isa, p, &d).iter().zip(&want).zip(["fprop", "dgrad", "wgrad"]) {
            let got = got.f32().unwrap();
            let wrong = got.iter().zip(&want.value).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{name} {pass} {isa:?}: {:?}", wrong.map(|i| (got[i], want.value[i])));
        }
    }
}

#[test]
fn exact_on_integers() {
    for c in SMALL {
        check_exact(c.name, &c.problem());
    }
}

/// What the small table does not reach in wgrad: several sets of positions, several chunks of a set, stretches of a chunk,
/// operands copied and not, and each orientation of the tiles. `n t h w c`, `k`, the kernel's last two extents.
const MANY_POSITIONS: [([usize; 5], usize, [usize; 2]); 4] = [
    ([1, 2, 48, 48, 33], 70, [1, 3]), // both operands copied, the last chunk and the last block ragged
    ([1, 2, 48, 48, 5], 40, [3, 3]),  // channels of the gradient in vectors
    ([1, 2, 48, 48, 20], 18, [3, 3]), // taps of a sliding row merged
    ([3, 2, 9, 10, 70], 300, [3, 1]), // many tiles: parts of them are tasks
];

#[test]
fn wgrad_over_many_positions() {
    for (x, k, [kh, kw]) in MANY_POSITIONS {
        let g = Geometry::new(Window::same([1, kh, kw]));
        let p = Conv3d::new("conv3d", x.into(), [k, 1, kh, kw, x[4]].into(), &g).unwrap();
        let d = operands(&p, 8, integer);
        let want = reference::wgrad(&p, d.x.f32().unwrap(), d.dy.f32().unwrap());
        for &isa in Isa::available() {
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| wgrad_with(isa, &d.x, &d.dy, p.w_shape(), &g).unwrap())
            };
            for threads in [1, 3] {
                assert!(run(threads).f32().unwrap() == want.value, "{x:?} {isa:?} {threads} threads");
            }
        }
    }
}

fn check_bounded(name: &str, p: &Conv3d) {
    let d = operands(p, 2, real);
    let (x, w, dy) = (wide(d.x.f32().unwrap()), wide(d.w.f32().unwrap()), wide(d.dy.f32().unwrap()));
    let want = [reference::fprop(p, &x, &w), reference::dgrad(p, &dy, &w), reference::wgrad(p, &x, &dy)];
    for &isa in Isa::available() {
        for ((got, want), pass) in passes(isa, p, &d).iter().zip(&want).zip(["fprop", "dgrad", "wgrad"]) {
            assert_bounded(&format!("{name} {pass} {isa:?}"), got.f32().unwrap(), want, DType::F32);
        }
    }
}

#[test]
fn bounded_on_reals() {
    for c in SMALL {
        check_bounded(c.name, &c.problem());
    }
}

/// Without channels, and with more positions than a sum in f32 has a bound for.
#[test]
fn a_convolution_of_nothing_but_padding_gives_nothing() {
    let g = Geometry::new(Window { pad: [1, 1, Window::MAX], ..Window::UNIT });
    let p = Conv3d::new("conv3d", [1, 0, 0, 0, 0].into(), [0, 1, 1, 1, 0].into(), &g).unwrap();
    assert_eq!(p.y_shape(), [1, 2, 2, 2 * Window::MAX, 0].into());
    check_bounded("nothing", &p);
}

#[test]
fn bf16_in_bf16_out() {
    let p = SMALL.iter().find(|c| c.name == "ragged").unwrap().problem();
    let d = operands(&p, 3, real);
    let (x, w, dy) = (d.x.cast(DType::BF16).unwrap(), d.w.cast(DType::BF16).unwrap(), d.dy.cast(DType::BF16).unwrap());
    let (xs, ws, dys) = (wide(&x), wide(&w), wide(&dy));
    let y = fprop(&x, &w, p.geometry()).unwrap();
    let dx = dgrad(&dy, &w, p.x_shape(), p.geometry()).unwrap();
    let dw = wgrad(&x, &dy, p.w_shape(), p.geometry()).unwrap();
    assert_eq!((y.dtype(), dx.dtype(), dw.dtype()), (DType::BF16, DType::BF16, DType::F32));
    assert_bounded("fprop", &y.load().unwrap(), &reference::fprop(&p, &xs, &ws), DType::BF16);
    assert_bounded("dgrad", &dx.load().unwrap(), &reference::dgrad(&p, &dys, &ws), DType::BF16);
    assert_bounded("wgrad", &dw.load().unwrap(), &reference::wgrad(&p, &xs, &dys), DType::F32);
}

fn check_adjoint(p: &Conv3d) {
    let d = operands(p, 4, integer);
    let [y, dx, dw] = passes(Isa::best(), p, &d);
    assert_eq!(dot(&y, &d.dy), dot(&d.x, &dx), "fprop and dgrad of {p:?}");
    assert_eq!(dot(&y, &d.dy), dot(&d.w, &dw), "fprop and wgrad of {p:?}");
}

#[test]
fn adjoints() {
    for c in SMALL {
        check_adjoint(&c.problem());
    }
}

/// Any convolution that is small enough.
fn any_problem() -> impl Strategy<Value = Conv3d> {
    let axis = || (1usize..=9, 1usize..=3, 1usize..=3, 0usize..=3, 1usize..=2);
    (1usize..=2, 1usize..=3, 1usize..=18, 1usize..=36, axis(), axis(), axis()).prop_filter_map(
        "the filter fits",
        |(n, groups, cg, kg, t, h, w)| {
            let (c, k) = if groups == 1 { (cg, kg) } else { (cg.min(6) * groups, kg.min(6) * groups) };
            let window = Window { stride: [t.2, h.2, w.2], pad: [t.3, h.3, w.3], dilation: [t.4, h.4, w.4] };
            let geometry = Geometry { groups, ..Geometry::new(window) };
            let (x, f) = ([n, t.0, h.0, w.0, c], [k, t.1, h.1, w.1, c / groups]);
            Conv3d::new("conv3d", x.into(), f.into(), &geometry).ok()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_shape_is_exact(p in any_problem()) {
        check_exact("any", &p);
        check_adjoint(&p);
    }
}

#[test]
fn reference_gradients_are_difference_quotients() {
    for name in ["tiny", "dilated-strided", "grouped"] {
        let case = SMALL.iter().find(|c| c.name == name).unwrap();
        let [_, rest @ ..] = case.x;
        let p = Case { x: [1, rest[0], rest[1], rest[2], rest[3]], ..*case }.problem();
        let d = operands(&p, 5, real);
        let (x, w, dy) = (wide(d.x.f32().unwrap()), wide(d.w.f32().unwrap()), wide(d.dy.f32().unwrap()));
        let value = |y: Vec<f64>| y.iter().zip(&dy).map(|(a, b)| a * b).sum::<f64>();
        assert_gradient(
            "dx",
            &x,
            &reference::dgrad(&p, &dy, &w).value,
            1e-6,
            |_| false,
            |x| value(reference::fprop(&p, x, &w).value),
        );
        assert_gradient(
            "dw",
            &w,
            &reference::wgrad(&p, &x, &dy).value,
            1e-6,
            |_| false,
            |w| value(reference::fprop(&p, &x, w).value),
        );
    }
}

/// `s = Σ y² r` for `y = conv(x, w)`; its first gradients, dotted with `x` and `w`, are differentiated again and held
/// against what bilinearity says: along a ray `s` is homogeneous of degree 2 in `x` and in `w`.
#[test]
fn second_order() {
    let p = SMALL.iter().find(|c| c.name == "dense-strided").unwrap().problem();
    let d = operands(&p, 6, integer);
    let t = Tape::new();
    let (x, w, r) = (t.leaf(d.x.clone()), t.leaf(d.w.clone()), Var::constant(d.dy.clone()));
    let y = ops::conv3d(&t, &x, &w, p.geometry()).unwrap();
    let y2 = ops::mul(&t, &y, &y).unwrap();
    let sum = |v: &Var| ops::sum_to(&t, v, Shape::from([1; 5])).unwrap();
    let s = sum(&ops::mul(&t, &y2, &r).unwrap());
    let first = t.grad(&s, &[&x, &w], Mode::Keep).unwrap();
    let (dx, dw) = (first[0].clone().unwrap(), first[1].clone().unwrap());
    let value = f64::from(s.value().item().unwrap());
    // Euler: ⟨x, ∂s/∂x⟩ = 2s = ⟨w, ∂s/∂w⟩; the numbers are integers, so equality is exact until f32 runs out of them.
    let near = |a: f64, b: f64| assert_norm("homogeneity", &[a as f32], &[b as f32], 1e-4);
    near(dot(dx.value(), &d.x), 2.0 * value);
    near(dot(dw.value(), &d.w), 2.0 * value);
    // ⟨x, ∂s/∂x⟩ as a function of x is 2s again, so its gradient dotted with x is 4s; likewise for w, and mixed.
    let along_x = sum(&ops::mul(&t, &dx, &x).unwrap());
    let along_w = sum(&ops::mul(&t, &dw, &w).unwrap());
    for along in [along_x, along_w] {
        let second = t.grad(&along, &[&x, &w], Mode::Keep).unwrap();
        near(dot(second[0].as_ref().unwrap().value(), &d.x), 4.0 * value);
        near(dot(second[1].as_ref().unwrap().value(), &d.w), 4.0 * value);
    }
}

#[test]
fn same_bits_for_any_thread_count() {
    for name in ["ragged", "stem-49", "spatial-strided", "wide", "deep"] {
        let p = SMALL.iter().find(|c| c.name == name).unwrap().problem();
        let d = operands(&p, 7, real);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| passes(Isa::best(), &p, &d).map(|t| t.f32().unwrap().to_vec()))
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{name}");
    }
}

/// Three passes of PyTorch, formed in double precision and rounded once.
#[test]
fn pytorch() {
    let goldens = Goldens::open("conv3d");
    for case in ["dense", "strided", "stem", "dilated", "grouped"] {
        let get = |key: &str| goldens.tensor(&format!("{case}/{key}"));
        let (x, w, dy) = (get("x"), get("w"), get("dy"));
        let numbers: Vec<usize> = get("geometry").f32().unwrap().iter().map(|&v| v as usize).collect();
        let three = |i: usize| [numbers[i], numbers[i + 1], numbers[i + 2]];
        let window = Window { stride: three(0), pad: three(3), dilation: three(6) };
        let g = Geometry { groups: numbers[9], ..Geometry::new(window) };
        let same = |what: &str, got: Tensor, want: Tensor| {
            assert_eq!(got.shape(), want.shape(), "{case} {what}");
            assert_norm(&format!("{case} {what}"), got.f32().unwrap(), want.f32().unwrap(), 1e-6);
        };
        same("y", fprop(&x, &w, &g).unwrap(), get("y"));
        same("dx", dgrad(&dy, &w, x.shape(), &g).unwrap(), get("dx"));
        same("dw", wgrad(&x, &dy, w.shape(), &g).unwrap(), get("dw"));
    }
}

#[test]
fn bad_arguments_name_their_values() {
    let g = Geometry::new(Window::same([3, 3, 3]));
    let (x, w) = (Tensor::zeros([1, 4, 8, 8, 6]), Tensor::zeros([5, 3, 3, 3, 6]));
    let message = |r: Result<Tensor, tubelet::error::Error>| r.unwrap_err().to_string();
    assert_eq!(
        message(fprop(&x.reshape([4, 8, 8, 6]).unwrap(), &w, &g)),
        "conv3d: `x` must be n t h w c, but it is [4 8 8 6]"
    );
    assert_eq!(
        message(fprop(&x, &Tensor::zeros([5, 3, 3, 3, 7]), &g)),
        "conv3d: `w` must be k kt kh kw 6 for an input [1 4 8 8 6] in 1 groups, but it is [5 3 3 3 7]"
    );
    let channels_first = x.reshape([1, 6, 4, 8, 8]).unwrap();
    assert_eq!(
        message(fprop(&channels_first, &w, &g)),
        "conv3d: `w` must be k kt kh kw 8 for an input [1 6 4 8 8] in 1 groups (is the input n c t h w? It must be n t h w c), \
         but it is [5 3 3 3 6]"
    );
    assert_eq!(
        message(fprop(&x, &w, &Geometry { groups: 4, ..g })),
        "conv3d: groups = 4, but it must divide the 6 input and the 5 output channels"
    );
    assert_eq!(
        message(dgrad(&Tensor::zeros([1, 4, 8, 7, 5]), &w, x.shape(), &g)),
        "conv3d dgrad: `dy` must be [1 4 8 8 5], but it is [1 4 8 7 5]"
    );
    assert_eq!(
        message(wgrad(&x, &Tensor::zeros([1, 4, 8, 8, 6]), w.shape(), &g)),
        "conv3d wgrad: `dy` must be [1 4 8 8 5], but it is [1 4 8 8 6]"
    );
    let big = Tensor::zeros([5, 9, 3, 3, 6]);
    assert!(matches!(fprop(&x, &big, &g).unwrap_err().kind(), ErrorKind::Param { name: "kernel", .. }));
    for window in [g.window.strided([1, 0, 1]), Window { dilation: [0, 1, 1], ..g.window }] {
        assert!(matches!(fprop(&x, &w, &window.into()).unwrap_err().kind(), ErrorKind::Param { .. }));
    }
}
