//! Pools: against their definitions, PyTorch and differences.

use crate::support::close::{assert_bounded, assert_gradient, assert_norm};
use crate::support::goldens::Goldens;
use crate::support::grad::{assert_adjoint, assert_keep_is_free, assert_same_on_any_threads, assert_second_order};
use crate::support::numbers::{data, integers, noise, wide};
use crate::support::sim::on_gpu;
use proptest::prelude::*;
use tubelet::error::ErrorKind;
use tubelet::ops;
use tubelet::ops::pool3d::{self, Pool, cases::CASES, reference};
use tubelet::ops::reference::Bounded;
use tubelet::shape::{Shape, Window};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Device, Tensor};

fn check(device: &Device, what: &str, x: &[usize; 5], kernel: [usize; 3], window: &Window) {
    let there = |x: &Tensor| x.to(device).unwrap();
    let p = Pool::new("pool", Shape::from(*x), kernel, window).unwrap();
    let out = p.out_shape();
    for dtype in [DType::F32, DType::BF16] {
        // Coarse numbers, so that maxima tie.
        let (v, dy) = (integers(1, x).cast(dtype).unwrap(), noise(2, out.dims()).cast(dtype).unwrap());
        let (y, choice) = pool3d::max_forward(&there(&v), kernel, window).unwrap();
        let (want, at) = reference::max(&p, &wide(&v));
        assert_eq!((wide(&y), &choice.positions().unwrap()[..]), (want, &at[..]), "{what}: maxima");
        let dx = pool3d::max_backward(&there(&dy), &choice).unwrap();
        assert_bounded(what, &data(&dx), &reference::unpool(&p, &wide(&dy), &at), dtype);
        let back = pool3d::gather(&there(&v), &choice).unwrap();
        assert_eq!(wide(&back), reference::gather(&p, &wide(&v), &at), "{what}: gathered");

        let v = noise(3, x).cast(dtype).unwrap();
        let y = pool3d::avg_forward(&there(&v), kernel, window).unwrap();
        assert_bounded(what, &data(&y), &reference::avg(&p, &wide(&v)), dtype);
        let dx = pool3d::avg_backward(&there(&dy), v.shape(), kernel, window).unwrap();
        assert_bounded(what, &data(&dx), &reference::avg_back(&p, &wide(&dy)), dtype);

        let [n, t, h, w, c] = *x;
        let y = pool3d::global_forward(&there(&v)).unwrap();
        assert_bounded(what, &data(&y), &reference::global(n, t * h * w, c, &wide(&v)), dtype);
        let dy = noise(4, &[n, c]).cast(dtype).unwrap();
        let back = reference::global_back(t * h * w, c, &wide(&dy));
        let back = Bounded { magnitude: back.iter().map(|v| v.abs()).collect(), value: back, terms: 1 };
        let dx = pool3d::global_backward(&there(&dy), v.shape()).unwrap();
        assert_bounded(what, &data(&dx), &back, dtype);
    }
    let (_, choice) = pool3d::max_forward(&there(&integers(1, x)), kernel, window).unwrap();
    let unpool = |y: &Tensor| pool3d::max_backward(&there(y), &choice);
    assert_adjoint(what, x, out.dims(), |x| pool3d::gather(&there(x), &choice), unpool);
}

#[test]
fn cases_meet_the_definition() {
    for c in CASES.iter().filter(|c| c.flops() < 1_000_000) {
        check(&Device::Cpu, c.name, &c.x, c.kernel, &c.window);
    }
}

#[test]
pub fn cases_meet_the_definition_on_a_device() {
    on_gpu(|device| {
        for c in CASES.iter().filter(|c| c.flops() < 100_000) {
            check(device, c.name, &c.x, c.kernel, &c.window);
        }
        // Channels that are whole vectors, as the networks' are.
        let window = Window { stride: [1, 2, 2], pad: [0, 1, 1], dilation: [1; 3] };
        check(device, "stem, small", &[2, 3, 9, 10, 16], [1, 3, 3], &window);
        check(device, "dilated, wide", &[1, 6, 7, 8, 8], CASES[4].kernel, &CASES[4].window);
        let odd = Tensor::from_f32([1, 1, 1, 3, 1], &[1.0, f32::NAN, 3.0]).unwrap().to(device).unwrap();
        let (y, choice) = pool3d::max_forward(&odd, [1, 1, 3], &Window::UNIT).unwrap();
        assert!(data(&y)[0].is_nan() && choice.positions().unwrap()[..] == [1], "a NaN wins once and then stays");
        let e = pool3d::max_backward(&noise(1, &[1; 5]), &choice).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Device { op: "max_backward", .. }), "{e}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn ragged_shapes_meet_the_definition(
        x in [1usize..3, 1usize..7, 1usize..9, 1usize..9, 1usize..20],
        kernel in [1usize..4, 1usize..4, 1usize..4],
        stride in [1usize..4, 1usize..4, 1usize..4],
        pad in [0usize..2, 0usize..2, 0usize..2],
        dilation in [1usize..3, 1usize..3, 1usize..3],
    ) {
        let window = Window { stride, pad, dilation };
        prop_assume!(Pool::new("pool", Shape::from(x), kernel, &window).is_ok());
        check(&Device::Cpu, "ragged", &x, kernel, &window);
    }
}

#[test]
fn means_are_adjoint_to_their_gradients() {
    // Kernels of 8 taps: dividing by them is exact.
    let (x, kernel) = ([2, 4, 6, 6, 3], [2, 2, 2]);
    let window = Window { stride: [1, 2, 2], pad: [1, 0, 1], dilation: [1; 3] };
    let out = Pool::new("pool", Shape::from(x), kernel, &window).unwrap().out_shape();
    let back = |y: &Tensor| pool3d::avg_backward(y, Shape::from(x), kernel, &window);
    assert_adjoint("avg", &x, out.dims(), |x| pool3d::avg_forward(x, kernel, &window), back);
    let x = [3, 2, 4, 4, 5];
    assert_adjoint("global", &x, &[3, 5], pool3d::global_forward, |y| pool3d::global_backward(y, Shape::from(x)));
}

#[test]
fn gradients_are_those_of_differences() {
    let (shape, kernel) = ([1, 3, 4, 5, 2], [2, 3, 2]);
    let window = Window { stride: [1, 2, 1], pad: [1, 1, 0], dilation: [1; 3] };
    let p = Pool::new("pool", Shape::from(shape), kernel, &window).unwrap();
    let (x, dy) = (wide(&noise(1, &shape)), wide(&noise(2, p.out_shape().dims())));
    let loss = |y: &[f64]| y.iter().zip(&dy).map(|(y, d)| y * d).sum::<f64>();
    let max = reference::unpool(&p, &dy, &reference::max(&p, &x).1);
    assert_gradient("max", &x, &max.value, 1e-6, |_| false, |x| loss(&reference::max(&p, x).0));
    let avg = reference::avg_back(&p, &dy);
    assert_gradient("avg", &x, &avg.value, 1e-6, |_| false, |x| loss(&reference::avg(&p, x).value));
}

#[test]
fn gradients_have_gradients() {
    let (shape, kernel) = ([1, 3, 4, 4, 2], [2, 3, 2]);
    let window = Window { stride: [1, 2, 1], pad: [1, 1, 0], dilation: [1; 3] };
    let p = Pool::new("pool", Shape::from(shape), kernel, &window).unwrap();
    let inputs = [noise(1, &shape)];
    // Squares first: a pool alone is linear, and its second order nothing.
    let squared = |x: &[f64]| x.iter().map(|v| v * v).collect::<Vec<f64>>();
    let chain = |x: &[f64], d: Vec<f64>| vec![x.iter().zip(d).map(|(x, d)| 2.0 * x * d).collect()];
    let max = |t: &Tape, v: &[Var]| ops::max_pool(t, &ops::mul(t, &v[0], &v[0])?, kernel, &window);
    assert_second_order("max", &inputs, max, |v, dy| {
        chain(&v[0], reference::unpool(&p, dy, &reference::max(&p, &squared(&v[0])).1).value)
    });
    let avg = |t: &Tape, v: &[Var]| ops::avg_pool(t, &ops::mul(t, &v[0], &v[0])?, kernel, &window);
    assert_second_order("avg", &inputs, avg, |v, dy| chain(&v[0], reference::avg_back(&p, dy).value));
    let global = |t: &Tape, v: &[Var]| ops::global_avg_pool(t, &ops::mul(t, &v[0], &v[0])?);
    assert_second_order("global", &inputs, global, |v, dy| chain(&v[0], reference::global_back(3 * 4 * 4, 2, dy)));
    assert_keep_is_free("max", &inputs, 1e-6, max);
}

#[test]
fn agrees_with_pytorch() {
    let goldens = Goldens::open("pool3d");
    let get = |name: &str| goldens.tensor(name);
    let t = Tape::new();
    let x = t.leaf(get("x"));
    let window = |stride, pad, dilation| Window { stride, pad, dilation };
    let results = [
        ("max_333_s2_p1", ops::max_pool(&t, &x, [3; 3], &window([2; 3], [1; 3], [1; 3]))),
        ("max_133_s122_p011", ops::max_pool(&t, &x, [1, 3, 3], &window([1, 2, 2], [0, 1, 1], [1; 3]))),
        ("max_dilated", ops::max_pool(&t, &x, [2, 2, 3], &window([1, 2, 1], [1; 3], [2, 3, 2]))),
        ("avg_333_s2_p1", ops::avg_pool(&t, &x, [3; 3], &window([2; 3], [1; 3], [1; 3]))),
        ("avg_211_s211", ops::avg_pool(&t, &x, [2, 1, 1], &window([2, 1, 1], [0; 3], [1; 3]))),
        ("global", ops::global_avg_pool(&t, &x)),
    ];
    for (name, y) in results {
        let y = y.unwrap();
        assert_norm(name, &data(y.value()), &data(&get(&format!("{name}.y"))), 1e-6);
        let dy = get(&format!("{name}.dy")).reshape(y.shape()).unwrap();
        let dx = t.grad_from(&y, Var::constant(dy), &[&x], Mode::Free).unwrap();
        assert_norm(name, &data(dx[0].as_ref().unwrap().value()), &data(&get(&format!("{name}.dx"))), 1e-6);
    }
}

#[test]
fn a_nan_wins_a_maximum() {
    let x = Tensor::from_f32([1, 1, 1, 4, 1], &[1.0, f32::NAN, 3.0, 2.0]).unwrap();
    let (y, choice) = pool3d::max_forward(&x, [1, 1, 4], &Window::UNIT).unwrap();
    assert!(y.item().unwrap().is_nan());
    assert_eq!(choice.positions().unwrap()[..], [1]);
}

#[test]
fn thread_count_changes_no_bit() {
    let (x, kernel) = (noise(1, &[2, 5, 19, 18, 24]), [3; 3]);
    let window = Window { stride: [1, 2, 2], pad: [1; 3], dilation: [1; 3] };
    assert_same_on_any_threads("pools", || {
        let (y, choice) = pool3d::max_forward(&x, kernel, &window).unwrap();
        let dx = pool3d::max_backward(&y, &choice).unwrap();
        let mean = pool3d::avg_forward(&x, kernel, &window).unwrap();
        let back = pool3d::avg_backward(&mean, x.shape(), kernel, &window).unwrap();
        vec![y, dx, mean, back, pool3d::global_forward(&x).unwrap()]
    });
}

#[test]
fn mistakes_are_errors() {
    let x = noise(1, &[1, 4, 4, 4, 2]);
    let said = |x: &Tensor, kernel, window| pool3d::avg_forward(x, kernel, &window).unwrap_err().to_string();
    let padded = Window { pad: [3, 0, 0], ..Window::UNIT };
    assert_eq!(
        said(&x, [2, 1, 1], padded),
        "avg_pool: pad = [3, 0, 0], but every window of [2, 1, 1] must touch the input"
    );
    assert!(said(&x, [5, 1, 1], Window::UNIT).starts_with("avg_pool: kernel = [5, 1, 1]"));
    assert_eq!(said(&noise(1, &[4, 2]), [1; 3], Window::UNIT), "avg_pool: `x` must be n t h w c, but it is [4 2]");
    let (_, choice) = pool3d::max_forward(&x, [2; 3], &Window::UNIT).unwrap();
    let e = pool3d::max_backward(&x, &choice).unwrap_err();
    assert_eq!(e.to_string(), "max_backward: `dy` must be [1 3 3 3 2], but it is [1 4 4 4 2]");
    let e = pool3d::global_backward(&x, x.shape()).unwrap_err();
    assert_eq!(e.to_string(), "global_avg_pool: `dy` must be [1 2], but it is [1 4 4 4 2]");
}
