//! Channel maps and the losses that align them with motion: definitions, gradients of both orders, laws.

use crate::support::close::{assert_bounded, assert_gradient, assert_near, assert_norm};
use crate::support::grad::{assert_adjoint, assert_keep_is_free, assert_same_on_any_threads, assert_second_order};
use crate::support::numbers::data;
use crate::support::numbers::{noise, wide};
use proptest::prelude::*;
use tubelet::error::Result;
use tubelet::ops;
use tubelet::ops::alignment::cases::{BATCH, CASES};
use tubelet::ops::alignment::{self, Cosines, TargetNorm, Terms, reference};
use tubelet::ops::reference::Bounded;
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Tensor};

/// What the definition calls `rows area c`.
pub fn rows([n, t, h, w, c]: [usize; 5]) -> [usize; 3] {
    [n * t, h * w, c]
}

/// A map that is 0 in places, as after a rectifier, and a target as motion is: sparse, of very different strength in the
/// frames, in one sample not there at all (of two or more).
pub fn maps(seed: u64, [n, t, h, w]: [usize; 4]) -> (Tensor, Tensor) {
    let p = data(&noise(seed, &[n, t, h, w])).iter().map(|v| 1e-6 * v.max(0.0)).collect::<Vec<_>>();
    let frame = |i: usize| (i / (h * w)) % t;
    let sample = |i: usize| i / (t * h * w);
    let still = |i: usize| n > 1 && sample(i) == n - 1;
    let y = data(&noise(seed + 1, &[n, t, h, w]));
    let y = y.iter().enumerate().map(|(i, v)| if still(i) { 0.0 } else { v.max(0.0) * (3 + frame(i)) as f32 });
    let shape = [n, t, h, w];
    (Tensor::from_f32(shape, &p).unwrap(), Tensor::from_f32(shape, &y.collect::<Vec<_>>()).unwrap())
}

/// Every switch.
pub fn ways() -> Vec<Cosines> {
    let terms = |a, b, c| Terms { spatio_temporal: a, spatial: b, temporal: c };
    let weights = [terms(1.0, 1.0, 1.0), terms(1.0, 0.0, 0.0), terms(0.0, 0.5, 0.0), terms(0.0, 0.0, 2.0)];
    let norms = [TargetNorm::Mean, TargetNorm::Raw];
    let all = weights.into_iter().flat_map(|terms| norms.map(|target_norm| (terms, target_norm)));
    all.flat_map(|(terms, target_norm)| [false, true].map(|centred| Cosines { terms, target_norm, centred })).collect()
}

/// The two operations against their definitions.
fn check_map(what: &str, x: [usize; 5], seed: u64) {
    let (g, f, d) = (noise(seed, &x), noise(seed + 1, &x), noise(seed + 2, &x[..4]));
    let [gw, fw, dw] = [&g, &f, &d].map(wide);
    let m = alignment::map_forward(&g, &f).unwrap();
    assert_eq!(m.dims(), &x[..4]);
    assert_bounded(what, &data(&m), &reference::map(rows(x), &gw, &fw), DType::F32);
    let df = alignment::map_backward_f(&g, &d).unwrap();
    assert_bounded(what, &data(&df), &reference::map_backward_f(rows(x), &gw, &dw), DType::F32);
    let dg = alignment::map_backward_g(&d, &f).unwrap();
    assert_bounded(what, &data(&dg), &reference::map_backward_g(rows(x), &dw, &fw), DType::F32);
}

fn check_cosines(what: &str, dims: [usize; 4], seed: u64, how: &Cosines) {
    let [n, t, h, w] = dims;
    let grid = [n, t, h * w];
    let ((p, y), u) = (maps(seed, dims), noise(seed + 2, &dims));
    let (pw, yw) = (wide(&p), wide(&y));
    let (loss, stats) = alignment::forward(&p, &y, how).unwrap();
    let got = [data(&loss), data(&stats)].concat();
    assert_bounded(what, &got, &reference::align(grid, &pw, &yw, how), DType::F32);
    let dy = Tensor::scalar(0.7);
    let dp = alignment::backward(&p, &y, how, &dy).unwrap();
    assert_bounded(what, &data(&dp), &reference::align_grad(grid, &pw, &yw, how, 0.7f32.into()), DType::F32);
    let hu = alignment::double_backward(&p, &y, how, &dy, &u).unwrap();
    let want = reference::align_hvp(grid, &pw, &yw, how, 0.7f32.into(), &wide(&u));
    assert_bounded(what, &data(&hu), &want, DType::F32);
}

#[test]
fn cases_meet_the_definition() {
    for case in CASES {
        // Of the largest, what the definition gets through in a moment.
        let x = if case.flops() > 1_000_000 { [1, 2, case.x[2], case.x[3], 96] } else { case.x };
        check_map(case.name, x, 1);
        for how in ways() {
            check_cosines(case.name, case.map(), 1, &how);
        }
    }
}

/// The largest, where sums of products are long: some cells against their definition.
#[test]
fn a_batch_meets_the_definition() {
    for case in [&BATCH].into_iter().chain(CASES.iter().filter(|c| c.flops() > 1_000_000)) {
        let [_, area, c] = rows(case.x);
        let (g, f, d) = (noise(1, &case.x), noise(2, &case.x), noise(3, &case.map()));
        let [m, df, dg] = [
            alignment::map_forward(&g, &f).unwrap(),
            alignment::map_backward_f(&g, &d).unwrap(),
            alignment::map_backward_g(&d, &f).unwrap(),
        ]
        .map(|v| data(&v));
        let [g, f, d] = [&g, &f, &d].map(wide);
        for row in [0, g.len() / (area * c) - 1] {
            let whole = row * area * c..(row + 1) * area * c;
            let cells = row * area..(row + 1) * area;
            let [g, f, d] = [&g[whole.clone()], &f[whole.clone()], &d[cells.clone()]];
            // A definition of a frame and eight of its channels, and of the map of one cell.
            let few = |x: &[f64]| x.chunks_exact(c).flat_map(|x| x[..8].to_vec()).collect::<Vec<_>>();
            let few32 = |x: &[f32]| x.chunks_exact(c).flat_map(|x| x[..8].to_vec()).collect::<Vec<_>>();
            let want = reference::map_backward_f([1, area, 8], &few(g), d);
            assert_bounded(case.name, &few32(&df[whole.clone()]), &want, DType::F32);
            let want = reference::map_backward_g([1, area, 8], d, &few(f));
            assert_bounded(case.name, &few32(&dg[whole]), &want, DType::F32);
            let mean: Vec<f64> = (0..c).map(|k| (0..area).map(|q| g[q * c + k]).sum::<f64>() / area as f64).collect();
            let size: Vec<f64> =
                (0..c).map(|k| (0..area).map(|q| g[q * c + k].abs()).sum::<f64>() / area as f64).collect();
            let value = f.chunks_exact(c).map(|f| f.iter().zip(&mean).map(|(f, w)| f * w).sum()).collect();
            let magnitude = f.chunks_exact(c).map(|f| f.iter().zip(&size).map(|(f, w)| f.abs() * w).sum()).collect();
            let want = Bounded { value, magnitude, terms: area + c + 3 };
            assert_bounded(case.name, &m[cells], &want, DType::F32);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_map(n in 1usize..4, t in 1usize..5, h in 1usize..6, w in 1usize..6, c in 1usize..40, seed in 0u64..1000) {
        check_map("any", [n, t, h, w, c], seed);
    }

    #[test]
    fn any_cosines(n in 1usize..4, t in 1usize..6, h in 1usize..9, w in 1usize..9, seed in 0u64..1000, way in 0usize..16) {
        check_cosines("any", [n, t, h, w], seed, &ways()[way]);
    }
}

/// Every pass is linear in each argument, and the three are each other's adjoints.
#[test]
fn the_three_passes_are_adjoint() {
    // Areas that are powers of two, so that means of integers are exact.
    let (x, m) = ([2, 3, 4, 2, 5], [2, 3, 4, 2]);
    let other = crate::support::numbers::integers(7, &x);
    let cells = crate::support::numbers::integers(8, &m);
    let op = alignment::map_forward;
    assert_adjoint("in f", &x, &m, |f| op(&other, f), |d| alignment::map_backward_f(&other, d));
    assert_adjoint("in g", &x, &m, |g| op(g, &other), |d| alignment::map_backward_g(d, &other));
    let (f, g) = (alignment::map_backward_f, alignment::map_backward_g);
    assert_adjoint("the second, in g", &x, &x, |v| f(v, &cells), |u| g(&cells, u));
    assert_adjoint("the third, in f", &x, &x, |v| g(&cells, v), |u| f(u, &cells));
}

#[test]
fn maps_have_gradients_of_any_order() {
    let x = [2, 2, 3, 2, 3];
    let map = |t: &Tape, v: &[Var]| ops::channel_map(t, &v[0], &v[1]);
    let inputs = [noise(1, &x), noise(2, &x)];
    assert_keep_is_free("map", &inputs, 0.0, map);
    let gradient = |v: &[Vec<f64>], d: &[f64]| {
        vec![reference::map_backward_g(rows(x), d, &v[1]).value, reference::map_backward_f(rows(x), &v[0], d).value]
    };
    assert_second_order("map", &inputs, map, gradient);
    // The release's: the map of a gradient with itself.
    let square = |t: &Tape, v: &[Var]| ops::channel_map(t, &v[0], &v[0]);
    let gradient = |v: &[Vec<f64>], d: &[f64]| {
        let [a, b] =
            [reference::map_backward_g(rows(x), d, &v[0]).value, reference::map_backward_f(rows(x), &v[0], d).value];
        vec![a.iter().zip(b).map(|(a, b)| a + b).collect()]
    };
    assert_second_order("square", &inputs[..1], square, gradient);
    // Of a third order: Σ u·(∂/∂g)(Σ v·(∂/∂f)(m·d)) is linear in each of u, v, d, which gives each of them back.
    let t = Tape::new();
    let [g, f] = [0, 1].map(|i| t.leaf(inputs[i].clone()));
    let [d, v, u] = [t.leaf(noise(3, &x[..4])), t.leaf(noise(4, &x)), Var::constant(noise(5, &x))];
    let m = ops::channel_map(&t, &g, &f).unwrap();
    let df = t.grad_from(&m, d.clone(), &[&f], Mode::Keep).unwrap().remove(0).unwrap();
    let dg = t.grad_from(&df, v.clone(), &[&g], Mode::Keep).unwrap().remove(0).unwrap();
    let third = t.grad_from(&dg, u.clone(), &[&d, &v], Mode::Free).unwrap();
    let [uw, vw] = [u.value(), v.value()].map(wide);
    let dw = wide(d.value());
    let want = reference::map(rows(x), &uw, &vw);
    assert_bounded("third order, in d", &data(third[0].as_ref().unwrap().value()), &want, DType::F32);
    let want = reference::map_backward_f(rows(x), &uw, &dw);
    assert_bounded("third order, in v", &data(third[1].as_ref().unwrap().value()), &want, DType::F32);
}

/// The definition's gradient and its derivative, by differences, in f64.
#[test]
fn cosines_have_gradients() {
    for dims in [[2, 3, 2, 3], [1, 1, 3, 3], [2, 4, 1, 1], [1, 1, 1, 1]] {
        let [n, t, h, w] = dims;
        let grid = [n, t, h * w];
        let p: Vec<f64> = wide(&noise(1, &dims)).iter().map(|v| v.abs() + 0.1).collect();
        let (y, u) = (wide(&maps(3, dims).1), wide(&noise(5, &dims)));
        for how in ways() {
            let what = format!("{dims:?} {how:?}");
            let loss = |p: &[f64]| reference::align(grid, p, &y, &how).value[0];
            let gradient = |p: &[f64]| reference::align_grad(grid, p, &y, &how, 1.0).value;
            assert_gradient(&what, &p, &gradient(&p), 1e-6, |_| false, loss);
            let second = reference::align_hvp(grid, &p, &y, &how, 1.0, &u).value;
            let along = |p: &[f64]| gradient(p).iter().zip(&u).map(|(g, u)| g * u).sum::<f64>();
            assert_gradient(&what, &p, &second, 1e-6, |_| false, along);
        }
    }
}

#[test]
fn cosines_have_gradients_of_gradients_on_the_tape() {
    let dims = [2, 3, 2, 3];
    let [n, t, h, w] = dims;
    let p: Vec<f32> = data(&noise(1, &dims)).iter().map(|v| v.abs() + 0.2).collect();
    let p = Tensor::from_f32(dims, &p).unwrap();
    let y = maps(3, dims).1;
    for how in ways() {
        let what = format!("{how:?}");
        let loss = |t: &Tape, v: &[Var]| -> Result<Var> { Ok(ops::map_alignment(t, &v[0], &y, &how)?.loss) };
        assert_keep_is_free(&what, std::slice::from_ref(&p), 0.0, loss);
        let gradient = |v: &[Vec<f64>], dy: &[f64]| {
            vec![reference::align_grad([n, t, h * w], &v[0], &wide(&y), &how, dy[0]).value]
        };
        assert_second_order(&what, std::slice::from_ref(&p), loss, gradient);
        // The fused second derivative is that of the loss in primitives, which is what a third order is made of.
        let second = |mode: Mode| {
            let t = Tape::new();
            let (x, dy) = (t.leaf(p.clone()), t.leaf(Tensor::scalar(0.7)));
            let loss = ops::map_alignment(&t, &x, &y, &how).unwrap().loss;
            let first = t.grad_from(&loss, dy.clone(), &[&x], Mode::Keep).unwrap().remove(0).unwrap();
            let u = t.leaf(noise(9, &dims));
            let both = t.grad_from(&first, u.clone(), &[&x, &dy], mode).unwrap();
            let [hu, change] = [0, 1].map(|i| both[i].clone().unwrap());
            let third = (mode == Mode::Keep)
                .then(|| t.grad_from(&hu, Var::constant(noise(10, &dims)), &[&u], Mode::Free).unwrap().remove(0));
            (data(hu.value()), data(change.value()), third)
        };
        let (fused, composed) = (second(Mode::Free), second(Mode::Keep));
        if fused.0.iter().any(|v| *v != 0.0) {
            assert_norm(&format!("{what}: fused and composed"), &composed.0, &fused.0, 1e-5);
        }
        assert_near(&format!("{what}: for dy"), composed.1[0].into(), fused.1[0].into(), 1e-6);
        // A Hessian is symmetric, so what a third order gives for u is the Hessian along the other.
        let [v, dy] = [noise(10, &dims), Tensor::scalar(0.7)];
        let want = alignment::double_backward(&p, &y, &how, &dy, &v).unwrap();
        if let Some(third) = composed.2.flatten() {
            assert_norm(&format!("{what}: third order"), &data(third.value()), &data(&want), 2e-5);
        }
    }
}

#[test]
fn all_is_the_same_on_any_number_of_threads() {
    let case = CASES.iter().find(|c| c.name == "ragged").unwrap();
    let ((p, y), d) = (maps(1, case.map()), noise(5, &case.map()));
    let (g, f, dy) = (noise(3, &case.x), noise(4, &case.x), Tensor::scalar(2.0));
    assert_same_on_any_threads("alignment", || {
        let (loss, stats) = alignment::forward(&p, &y, &Cosines::default()).unwrap();
        vec![
            alignment::map_forward(&g, &f).unwrap(),
            alignment::map_backward_f(&g, &d).unwrap(),
            alignment::map_backward_g(&d, &f).unwrap(),
            loss,
            stats,
            alignment::backward(&p, &y, &Cosines::default(), &dy).unwrap(),
            alignment::double_backward(&p, &y, &Cosines::default(), &dy, &d).unwrap(),
        ]
    });
}

fn figures(p: &Tensor, y: &Tensor, how: &Cosines) -> [f64; 5] {
    let (loss, stats) = alignment::forward(p, y, how).unwrap();
    let all: Vec<f64> = [wide(&loss), wide(&stats)].concat();
    all.try_into().unwrap()
}

fn scaled(x: &Tensor, by: impl Fn(usize) -> f32) -> Tensor {
    let x32: Vec<f32> = data(x).iter().enumerate().map(|(i, v)| v * by(i)).collect();
    Tensor::from_f32(x.shape(), &x32).unwrap()
}

/// Motion everywhere, so that no cosine is of nothing.
fn motion(dims: [usize; 4]) -> Tensor {
    let y: Vec<f32> = data(&noise(3, &dims)).iter().map(|v| v.abs() + 0.1).collect();
    Tensor::from_f32(dims, &y).unwrap()
}

#[test]
fn a_map_in_proportion_to_its_target_loses_nothing() {
    let dims = [3, 4, 3, 5];
    let y = motion(dims);
    for how in ways() {
        let got = figures(&scaled(&y, |i| [1e-7, 1.0, 300.0][i / 60]), &y, &how);
        for (i, v) in got[..4].iter().enumerate() {
            assert_near(&format!("figure {i} of {how:?}"), *v, 0.0, 1e-6);
        }
        assert_near("the plain cosine", got[4], 1.0, 1e-6);
    }
    // A factor of its own for every frame: each frame still points the right way, which is all the first term asks.
    let each = scaled(&y, |i| 1.0 + ((i / 15) % 4) as f32);
    let [_, frames, spatial, temporal, _] = figures(&each, &y, &Cosines::default());
    assert_near("frames", frames, 0.0, 1e-6);
    assert!(spatial.min(temporal) > 1000.0 * frames.abs(), "the others notice: {spatial}, {temporal}");
}

#[test]
fn an_empty_map_loses_all() {
    let dims = [2, 4, 3, 3];
    let y = motion(dims);
    for how in ways() {
        let Terms { spatio_temporal, spatial, temporal } = how.terms;
        let got = figures(&Tensor::zeros(dims), &y, &how);
        assert_near(&format!("{how:?}"), got[0], (spatio_temporal + spatial + temporal).into(), 1e-6);
        assert_eq!(got[1..], [1.0, 1.0, 1.0, 0.0]);
    }
    assert_eq!(figures(&Tensor::zeros(dims), &y, &Cosines::default())[0], 3.0);
}

#[test]
fn a_target_without_motion_loses_all_and_pulls_nowhere() {
    let dims = [2, 4, 3, 3];
    let (p, still) = (motion(dims), Tensor::zeros(dims));
    for how in ways() {
        assert_eq!(figures(&p, &still, &how)[1..], [1.0, 1.0, 1.0, 0.0]);
        let zero = vec![0.0; p.shape().len()];
        let dy = Tensor::scalar(1.0);
        assert_eq!(data(&alignment::backward(&p, &still, &how, &dy).unwrap()), zero);
        assert_eq!(data(&alignment::double_backward(&p, &still, &how, &dy, &p).unwrap()), zero);
        // Nor in a batch with others: only the still sample is left alone.
        let half = scaled(&motion(dims), |i| f32::from(i >= 36));
        let dp = data(&alignment::backward(&maps(1, dims).0, &half, &how, &dy).unwrap());
        assert!(dp[..36].iter().all(|v| *v == 0.0) && dp[36..].iter().any(|v| *v != 0.0));
    }
}

#[test]
fn lengths_do_not_matter() {
    let dims = [2, 3, 4, 3];
    let (p, y) = (maps(1, dims).0, motion(dims));
    for how in ways() {
        let want = figures(&p, &y, &how);
        for factor in [1e-3, 7.0, 1e12] {
            let got = figures(&scaled(&p, |_| factor), &y, &how);
            got.iter().zip(want).for_each(|(g, w)| assert_near(&format!("{factor} {how:?}"), *g, w, 1e-6));
            if how.target_norm == TargetNorm::Mean {
                let got = figures(&p, &scaled(&y, |_| factor), &how);
                got.iter().zip(want).for_each(|(g, w)| assert_near(&format!("target {factor} {how:?}"), *g, w, 2e-6));
            }
        }
        // What a map cannot gain by growing, its gradient does not ask for: it is at right angles to the map.
        let dp = alignment::backward(&p, &y, &how, &Tensor::scalar(1.0)).unwrap();
        for (p, dp) in wide(&p).chunks_exact(36).zip(wide(&dp).chunks_exact(36)) {
            let along: f64 = p.iter().zip(dp).map(|(p, d)| p * d).sum();
            let size: f64 = p.iter().zip(dp).map(|(p, d)| (p * d).abs()).sum();
            assert_near(&format!("{how:?}: part along the map"), along / size.max(f64::MIN_POSITIVE), 0.0, 1e-6);
        }
    }
}

/// A centred flat map earns nothing and is pulled nowhere, though its rounding points somewhere.
#[test]
fn a_flat_map_earns_nothing_where_centred() {
    let dims = [1, 4, 3, 3];
    let y = motion(dims);
    let rounded = scaled(&Tensor::full(dims, 0.3), |i| 1.0 + (i % 3) as f32 * 0.5f32.powi(22));
    for how in ways().into_iter().filter(|h| h.centred) {
        assert_eq!(figures(&rounded, &y, &how)[1..4], [1.0; 3]);
        let dp = alignment::backward(&rounded, &y, &how, &Tensor::scalar(1.0)).unwrap();
        assert!(data(&dp).iter().all(|v| *v == 0.0));
        // Any constant may be added to a map that is not.
        let p = scaled(&y, |i| 1.0 + (i % 5) as f32);
        let more: Vec<f32> = data(&p).iter().map(|v| v + 2.0).collect();
        let (a, b) = (figures(&p, &y, &how), figures(&Tensor::from_f32(dims, &more).unwrap(), &y, &how));
        a[..4].iter().zip(&b[..4]).for_each(|(a, b)| assert_near("shifted", *a, *b, 1e-6));
    }
    // Where it is not centred it earns as much as its target is flat.
    assert!(figures(&rounded, &y, &Cosines::default())[1] < 0.5);
}

/// Sums of targets are in the hundreds: the raw ones single one frame out.
#[test]
fn raw_sums_saturate() {
    let dims = [1, 4, 1, 1];
    let sums = Tensor::from_f32(dims, &[300.0, 310.0, 320.0, 305.0]).unwrap();
    let p = Tensor::from_f32(dims, &[1.0, 0.0, 1.0, 1.0]).unwrap(); // nothing in the second frame
    let one = |target_norm| figures(&p, &sums, &Cosines { target_norm, ..Cosines::default() })[1];
    assert_near("raw", one(TargetNorm::Raw), 4.54e-5, 1e-7); // e^-10 of nearly all
    assert_near("over the mean", one(TargetNorm::Mean), 0.25, 2e-2);
}

#[test]
fn nothing_finite_makes_a_nan() {
    let dims = [2, 3, 2, 2];
    let noise = |seed| data(&noise(seed, &dims));
    let sparse = |v: f32, i: usize| if i.is_multiple_of(5) { v } else { 0.0 };
    for size in [0.0, f32::MIN_POSITIVE, 1e-30, 1e-12, 1.0, 1e30, f32::MAX / 4.0] {
        for target in [0.0, 1e-38, 1.0, 1e36] {
            let p: Vec<f32> = noise(1).iter().enumerate().map(|(i, v)| sparse(size * v.abs(), i)).collect();
            let y: Vec<f32> = noise(2).iter().enumerate().map(|(i, v)| sparse(target * v.abs(), i / 2)).collect();
            let [p, y] = [p, y].map(|v| Tensor::from_f32(dims, &v).unwrap());
            for how in ways() {
                let dy = Tensor::scalar(1.0);
                let all = [
                    data(&alignment::forward(&p, &y, &how).unwrap().0),
                    data(&alignment::backward(&p, &y, &how, &dy).unwrap()),
                    data(&alignment::double_backward(&p, &y, &how, &dy, &p).unwrap()),
                ];
                assert!(all.iter().flatten().all(|v| v.is_finite()), "{size} {target} {how:?}: {all:?}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let message = |r: Result<Tensor>| r.err().unwrap().to_string();
    let (g, m) = (noise(1, &[2, 1, 3, 3, 4]), noise(2, &[2, 1, 3, 3]));
    let other = noise(1, &[2, 1, 3, 3, 5]);
    assert_eq!(
        message(alignment::map_forward(&g, &other)),
        "channel_map: `f` must be [2 1 3 3 4], but it is [2 1 3 3 5]"
    );
    assert_eq!(message(alignment::map_backward_f(&g, &g)), "channel_map: `d` must be [2 1 3 3], but it is [2 1 3 3 4]");
    let half = g.cast(DType::BF16).unwrap();
    assert_eq!(message(alignment::map_forward(&half, &half)), "channel_map: `g` must be of type f32, but it is bf16");
    let none = Tensor::zeros([2, 1, 0, 3, 4]);
    assert!(message(alignment::map_forward(&none, &none)).contains("n t h w c with elements"));
    let align = |p: &Tensor, y: &Tensor, how: &Cosines| message(alignment::forward(p, y, how).map(|l| l.0));
    let how = Cosines::default();
    let e = align(&m, &noise(1, &[2, 1, 7, 7]), &how);
    assert_eq!(e, "map_alignment: `y` must be [2 1 3 3], but it is [2 1 7 7]");
    assert_eq!(align(&g, &g, &how), "map_alignment: `p` must be n t h w, but it is [2 1 3 3 4]");
    let wrong = Cosines { terms: Terms { spatial: -1.0, ..Terms::default() }, ..how };
    let e = align(&m, &m, &wrong);
    assert_eq!(e, "map_alignment: spatial = -1, but a weight is at least 0 and at most 1e9");
    let two = Tensor::zeros([2]);
    let e = message(alignment::backward(&m, &m, &how, &two));
    assert_eq!(e, "map_alignment: `dy` must be one number, but it is [2]");
}
