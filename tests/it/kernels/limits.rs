//! Numbers from outside, however large: shapes, windows and sizes are refused by an error or give the right result. Nothing
//! here may end the process.

use crate::support::close::assert_bounded;
use crate::support::numbers::wide;
use proptest::prelude::*;
use std::panic::catch_unwind;
use tubelet::error::{Error, ErrorKind};
use tubelet::flow::maps::{self, Fields, MapSpec, Maps};
use tubelet::flow::{Flow, Gray};
use tubelet::ops::arith::{self, Arith};
use tubelet::ops::conv3d::{self, Conv3d, Geometry};
use tubelet::ops::infonce;
use tubelet::ops::pool3d::{self, Pool};
use tubelet::ops::tvl1::{self, Tvl1};
use tubelet::ops::{batch_norm, cross_entropy, ema, linear, matmul, reduce, sgd};
use tubelet::shape::{Shape, Window};
use tubelet::tensor::{DType, Device, Tensor};

/// Whether it is one of the errors that an impossible size may give.
fn refused<T>(what: &str, result: Result<T, Error>) {
    let Err(e) = result else { panic!("{what} was accepted") };
    let fits = matches!(e.kind(), ErrorKind::Shape { .. } | ErrorKind::Param { .. } | ErrorKind::OutOfMemory { .. });
    assert!(fits, "{what}: {e}");
}

/// A tensor of some of the integers around 0; of no elements where an extent is 0, however large the others.
fn numbers(shape: Shape, seed: usize) -> Tensor {
    let data: Vec<f32> = (0..shape.len()).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect();
    Tensor::from_f32(shape, &data).unwrap()
}

/// Numbers at which something else happens: 32 and 64 bits end, floats lose ones, the limits of windows and shapes.
const EDGES: [usize; 16] = [
    Window::MAX - 1,
    Window::MAX,
    Window::MAX + 1,
    2 * Window::MAX,
    2 * Window::MAX + 1,
    1 << 30,
    1 << 31,
    u32::MAX as usize,
    1 << 32,
    Shape::MAX_LEN,
    Shape::MAX_LEN + 1,
    1 << 61,
    (1 << 62) - 16,
    1 << 63,
    usize::MAX - 1,
    usize::MAX,
];

fn edge() -> impl Strategy<Value = usize> {
    prop::sample::select(EDGES.to_vec())
}

/// Mostly small, so that a problem is often one that can be computed.
fn extent(least: usize) -> impl Strategy<Value = usize> {
    prop_oneof![9 => least..=4usize, 1 => edge()]
}

fn three(least: usize) -> impl Strategy<Value = [usize; 3]> {
    [extent(least), extent(least), extent(least)]
}

fn window() -> impl Strategy<Value = Window> {
    (three(1), three(0), three(1)).prop_map(|(stride, pad, dilation)| Window { stride, pad, dilation })
}

/// What is computed: more is left to the checks.
const SMALL: usize = 1 << 16;

/// The product of three extents, or more than anything.
fn product(of: [usize; 3]) -> usize {
    of.iter().fold(1, |n, &d| n.saturating_mul(d))
}

fn small(shapes: &[Shape]) -> bool {
    shapes.iter().all(|s| s.checked_len().is_some_and(|n| n <= SMALL))
}

#[test]
fn a_shape_has_as_many_elements_as_memory_can_have_or_none_at_all() {
    let most = Shape::from([Shape::MAX_LEN]);
    assert_eq!((most.checked_len(), most.len()), (Some(Shape::MAX_LEN), Shape::MAX_LEN));
    for dims in [vec![Shape::MAX_LEN + 1], vec![2, 1 << 63], vec![1 << 62, 4], vec![usize::MAX; 5], vec![0, 1 << 63, 2]]
    {
        let shape = Shape::new(&dims);
        assert_eq!((shape.checked_len(), shape.len(), shape.is_empty()), (None, usize::MAX, dims.contains(&0)));
        assert_eq!(
            shape.check("op", "x").unwrap_err().to_string(),
            format!("op: `x` must be of at most {} elements, but it is {shape}", Shape::MAX_LEN)
        );
    }
    let none = Shape::from([0, 1 << 40, 3]);
    assert_eq!((none.checked_len(), none.len(), none.is_empty()), (Some(0), 0, true));
}

#[test]
fn tensors_that_no_memory_holds_are_errors() {
    for shape in [vec![(1usize << 62) - 16], vec![2, 1 << 63], vec![1 << 62, 4], vec![1 << 47], vec![0, 1 << 63, 2]] {
        let shape = Shape::new(&shape);
        refused(&format!("zeros of {shape}"), Tensor::zeros_on(&Device::Cpu, shape));
        refused(&format!("ones of {shape}"), Tensor::full_on(&Device::Cpu, shape, 1.0));
        refused(&format!("no numbers as {shape}"), Tensor::from_f32(shape, &[]));
        refused(&format!("nothing as {shape}"), Tensor::zeros([0]).reshape(shape));
        let said = catch_unwind(|| Tensor::zeros(shape)).unwrap_err();
        let said = said.downcast_ref::<String>().expect("a panic with a sentence");
        assert!(said.contains("elements") || said.contains("bytes left"), "{said}");
    }
    let e = Tensor::zeros_on(&Device::Cpu, [1 << 46]).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::OutOfMemory { asked, .. } if *asked == 1 << 48), "{e}");
    // As many rows as there is no memory for, of a tensor that has some.
    let long = Tensor::zeros([1, 1 << 22]);
    refused("rows", Tensor::zeros([1, 0, 1 << 47]).rows(&[0; 4]));
    assert_eq!(long.rows(&[0, 0]).unwrap().dims(), [2, 1 << 22]);
}

#[test]
fn products_larger_than_any_tensor_are_errors() {
    // Nothing to read, and 2^48 or more numbers to write.
    let [a, b] = [numbers([1 << 30, 0].into(), 0), numbers([1 << 30, 0].into(), 0)];
    refused("matmul", matmul::forward(&a, &b, false, true));
    refused("linear", linear::forward(&a, &b, None));
    let [a, b] = [[1 << 23, 0], [1 << 23, 0]].map(|s| numbers(s.into(), 0));
    let e = linear::forward(&a, &b, None).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::OutOfMemory { .. }), "{e}");
    refused("linear of [2 2^63]", Tensor::from_f32([2, 1 << 63], &[]).and_then(|x| linear::forward(&x, &x, None)));
    let [column, row] = [numbers([1 << 23, 1, 1].into(), 0), numbers([1, 1 << 23, 1].into(), 0)];
    refused(
        "add",
        arith::forward(Arith::Add, &column, &numbers([1, 1 << 23, 0].into(), 0)).and_then(|_| {
            // Of no numbers there is room for any; of numbers there is not.
            arith::forward(Arith::Add, &column, &row)
        }),
    );
    refused("broadcast_to", reduce::broadcast_to_forward(&numbers([1, 1].into(), 0), [1 << 31, 1 << 31].into()));
    refused("sum_to", reduce::sum_to_forward(&numbers([1, 1].into(), 0), [1 << 63, 1 << 63].into()));
}

#[test]
fn windows_out_of_range_are_errors() {
    let (x, w) = (numbers([1, 3, 3, 3, 2].into(), 0), numbers([2, 1, 1, 1, 2].into(), 0));
    for big in [Window::MAX + 1, 1 << 30, 1 << 31, 1 << 32, 1 << 62, 1 << 63, usize::MAX] {
        for axis in 0..3 {
            let mut windows = [Window::UNIT; 3];
            (windows[0].stride[axis], windows[1].pad[axis], windows[2].dilation[axis]) = (big, big, big);
            for window in windows {
                let (g, what) = (Geometry::new(window), format!("{window:?}"));
                refused(&what, conv3d::fprop(&x, &w, &g));
                refused(&what, conv3d::dgrad(&x, &w, x.shape(), &g));
                refused(&what, conv3d::wgrad(&x, &x, w.shape(), &g));
                refused(&what, pool3d::max_forward(&x, [1; 3], &window));
                refused(&what, pool3d::avg_forward(&x, [1; 3], &window));
                refused(&what, pool3d::avg_backward(&x, x.shape(), [1; 3], &window));
            }
            let mut kernel = [1; 3];
            kernel[axis] = big;
            refused("kernel", pool3d::max_forward(&x, kernel, &Window::same(kernel)));
        }
        let wide = [1, big, big, 1, 2];
        refused("x_shape", conv3d::dgrad(&x, &w, wide.into(), &Geometry::new(Window::UNIT)));
        refused("w_shape", conv3d::wgrad(&x, &x, wide.into(), &Geometry::new(Window::UNIT)));
        refused("groups", conv3d::fprop(&x, &w, &Geometry { groups: big, ..Geometry::new(Window::UNIT) }));
        refused("pooled", pool3d::global_backward(&numbers([1, 2].into(), 0), wide.into()));
    }
    // Padding within range, and a result that no memory holds.
    let g = Geometry::new(Window { pad: [Window::MAX; 3], ..Window::UNIT });
    refused("y", conv3d::fprop(&x, &w, &g));
    // A window of padding alone has no maximum.
    refused("pad", pool3d::max_forward(&x, [1; 3], &Window { pad: [0, 0, Window::MAX], ..Window::UNIT }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_convolution_is_right_or_refused(
        (n, t, h, w) in (0..3usize, extent(0), extent(0), extent(0)),
        (c, k, groups) in (extent(0), extent(0), prop_oneof![9 => 1..3usize, 1 => edge()]),
        kernel in three(0),
        window in window(),
        bf16: bool,
    ) {
        let g = Geometry { groups, ..Geometry::new(window) };
        let x = Shape::from([n, t, h, w, c.saturating_mul(groups)]);
        let f = Shape::from([k.saturating_mul(groups), kernel[0], kernel[1], kernel[2], c]);
        let Ok(p) = Conv3d::new("conv3d", x, f, &g) else { return Ok(()) };
        prop_assert!(p.flops() > 0 || x.is_empty() || f.is_empty() || p.y_shape().is_empty());
        let numbers = |shape: Shape, seed| numbers(shape, seed).cast(if bf16 { DType::BF16 } else { DType::F32 }).unwrap();
        let terms = p.y_shape().len().saturating_mul(product(p.kernel()));
        if !small(&[x, f, p.y_shape()]) || terms > 16 * SMALL {
            return Ok(());
        }
        let [xs, fs, dys] = [numbers(x, 1), numbers(f, 2), numbers(p.y_shape(), 3)];
        let dtype = xs.dtype();
        let y = conv3d::fprop(&xs, &fs, &g).unwrap();
        assert_bounded("y", &y.load().unwrap(), &conv3d::reference::fprop(&p, &wide(&xs), &wide(&fs)), dtype);
        let dx = conv3d::dgrad(&dys, &fs, x, &g).unwrap();
        assert_bounded("dx", &dx.load().unwrap(), &conv3d::reference::dgrad(&p, &wide(&dys), &wide(&fs)), dtype);
        let dw = conv3d::wgrad(&xs, &dys, f, &g).unwrap();
        assert_bounded("dw", &dw.load().unwrap(), &conv3d::reference::wgrad(&p, &wide(&xs), &wide(&dys)), DType::F32);
    }

    #[test]
    fn a_pool_is_right_or_refused(
        (n, t, h, w, c) in (0..3usize, extent(0), extent(0), extent(0), extent(0)),
        kernel in three(0),
        window in window(),
    ) {
        let shape = Shape::from([n, t, h, w, c]);
        let Ok(p) = Pool::new("pool", shape, kernel, &window) else { return Ok(()) };
        let terms = p.out_shape().len().saturating_mul(product(kernel));
        if !small(&[shape, p.out_shape()]) || terms > 16 * SMALL {
            return Ok(());
        }
        let (x, dy) = (numbers(shape, 1), numbers(p.out_shape(), 2));
        let (y, choice) = pool3d::max_forward(&x, kernel, &window).unwrap();
        let (want, at) = pool3d::reference::max(&p, &wide(&x));
        prop_assert_eq!(wide(&y), want);
        prop_assert_eq!(&choice.positions().unwrap()[..], &at[..]);
        let dx = pool3d::max_backward(&dy, &choice).unwrap();
        assert_bounded("unpool", &dx.load().unwrap(), &pool3d::reference::unpool(&p, &wide(&dy), &at), DType::F32);
        let mean = pool3d::avg_forward(&x, kernel, &window).unwrap();
        assert_bounded("avg", &mean.load().unwrap(), &pool3d::reference::avg(&p, &wide(&x)), DType::F32);
        let dx = pool3d::avg_backward(&dy, shape, kernel, &window).unwrap();
        assert_bounded("avg back", &dx.load().unwrap(), &pool3d::reference::avg_back(&p, &wide(&dy)), DType::F32);
    }

    #[test]
    fn what_takes_shapes_makes_a_tensor_or_an_error(
        from in prop::collection::vec(extent(0), 0..=5),
        to in prop::collection::vec(extent(0), 0..=5),
        index in prop::collection::vec(extent(0), 0..4),
    ) {
        let [from, to] = [Shape::new(&from), Shape::new(&to)];
        if !small(&[from]) {
            return Ok(());
        }
        let x = numbers(from, 0);
        let same = x.reshape(to);
        prop_assert_eq!(same.is_ok(), to.checked_len() == Some(from.len()));
        if let Ok(rows) = x.rows(&index) {
            prop_assert_eq!(rows.dims()[0], index.len());
        }
        if to.checked_len().is_none_or(|n| n <= SMALL) {
            for result in [reduce::broadcast_to_forward(&x, to), reduce::sum_to_forward(&x, to)] {
                prop_assert!(result.is_err() || result.unwrap().shape() == to);
            }
        }
        for (groups, bf16) in [(1, false), (index.first().copied().unwrap_or(0), true)] {
            let x = x.cast(if bf16 { DType::BF16 } else { DType::F32 }).unwrap();
            if !small(&[[from.last()].into()]) {
                continue;
            }
            let c = Tensor::full([from.last()], 1.0);
            let stats = batch_norm::Stats::Batch { parts: groups };
            if let Ok((y, ..)) = batch_norm::forward(&x, &c, &c, stats, 1e-5, None, true) {
                prop_assert!(y.load().unwrap().iter().all(|v| v.is_finite()));
            }
        }
        _ = cross_entropy::forward(&x, &index);
    }

    #[test]
    fn a_product_is_right_or_refused(m in extent(0), k in extent(0), n in extent(0), ta: bool, tb: bool) {
        let [a, b] = [if ta { [k, m] } else { [m, k] }, if tb { [n, k] } else { [k, n] }].map(Shape::from);
        if !small(&[a, b]) {
            return Ok(());
        }
        let out = Shape::from([m, n]);
        let (a, b) = (numbers(a, 1), numbers(b, 2));
        match out.checked_len() {
            None => refused("product", matmul::forward(&a, &b, ta, tb)),
            Some(n) if n > SMALL => {}
            // Sums of any length, and none of them: there is no bound to speak of.
            Some(0) => prop_assert!(matmul::forward(&a, &b, ta, tb).unwrap().f32().unwrap().is_empty()),
            Some(_) => {
                let want = matmul::reference::apply([m, k, n], &wide(&a), ta, &wide(&b), tb);
                assert_bounded("product", matmul::forward(&a, &b, ta, tb).unwrap().f32().unwrap(), &want, DType::F32);
            }
        }
    }

    #[test]
    fn flow_is_finite_or_refused(
        (h, w) in (0..24usize, 0..24usize),
        (tau, lambda, theta) in (real(), real(), real()),
        (step, epsilon) in (real(), real()),
        (scales, warps, iterations, median) in (extent(0), extent(0), extent(0), extent(0)),
    ) {
        let image = |shift: usize| {
            Gray::new(h, w, (0..h * w).map(|i| ((i % w.max(1) + shift) * 40 % 256) as f32).collect()).unwrap()
        };
        let p = Tvl1 {
            tau,
            lambda,
            theta,
            scales,
            scale_step: step,
            warps,
            epsilon,
            inner_iterations: iterations,
            outer_iterations: iterations,
            median,
        };
        if let Ok(flow) = tvl1::flow(&image(0), &image(1), &p) {
            prop_assert!(flow.u().iter().chain(flow.v()).all(|v| v.is_finite()), "{p:?}");
        }
    }
}

/// Real numbers of every kind, and often one that is in range.
fn real() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => 0.01f64..1.0,
        1 => prop::sample::select(vec![0.0, -1.0, 1e-300, 1e-40, 1e-10, 1e3, 1e40, 1e300, f64::INFINITY, f64::NAN]),
    ]
}

#[test]
fn fields_and_images_have_the_numbers_they_say() {
    let rule = "flow: `v` must be one number for each of 2x3 pixels, but it is 5 numbers";
    assert_eq!(Flow::new(2, 3, vec![0.0; 6], vec![0.0; 5]).unwrap_err().to_string(), rule);
    refused("u", Flow::new(1 << 32, 1 << 32, vec![], vec![]));
    refused("gray", Gray::new(1 << 63, 2, vec![]));
    refused("gray", Gray::new(3, 3, vec![0.0; 8]));
    let flow = Flow::new(1, 2, vec![1.0, 2.0], vec![3.0, 4.0]).unwrap();
    assert_eq!((flow.h(), flow.w(), flow.u(), flow.v()), (1, 2, &[1.0, 2.0][..], &[3.0, 4.0][..]));
    assert!(flow.is_known(1) && !flow.is_known(2));
    // A side on which positions are not exact in f32.
    let long = |n: usize| Gray::new(3, n, vec![0.0; 3 * n]).unwrap();
    let long = long((1 << 22) + 1);
    refused("a side of 2^22 + 1", tvl1::flow(&long, &long, &Tvl1::default()));
}

#[test]
fn maps_have_the_numbers_they_say() {
    let of = |grid, every, summed, maps: usize, scores: usize| {
        Maps::from_parts(grid, every, summed, vec![0.5; maps], vec![1.0; scores])
    };
    for (grid, every, summed, maps, scores) in [
        ([2, 3], 0, 1, 6, 1),
        ([2, 3], 1, 0, 6, 1),
        ([2, 3], 1, 1, 7, 1),
        ([2, 3], 1, 1, 0, 1),
        ([2, 3], 1, 1, 6, 0),
        ([0, 3], 1, 1, 6, 1),
        ([1 << 33, 1 << 33], 1, 1, 6, 1),
    ] {
        refused(&format!("{grid:?} {every} {summed} {maps} {scores}"), of(grid, every, summed, maps, scores));
    }
    let maps = of([2, 3], 4, 1, 12, 2).unwrap();
    assert_eq!((maps.map(usize::MAX).len(), maps.score(usize::MAX)), (6, 1.0));
    // A field that is shorter than was said.
    let short = [0.0f32; 5];
    let field = |_: usize| [&short[..], &short[..]];
    let fields = |size| Fields { count: 3, size, every: 1, fps: 25.0, field: &field };
    refused("fields", Maps::new(&MapSpec::new(2.0, None), &fields([2, 3])));
    refused("fields", Maps::new(&MapSpec::new(2.0, None), &fields([1 << 33, 1 << 33])));
    for [n, side] in [[1, 3], [1 << 63, 2], [usize::MAX, usize::MAX], [0, 3], [2, 1 << 32]] {
        refused("target", maps::target(&[0.0; 10], [n, side], [1, 1, 1]));
    }
    refused("target", maps::target(&[0.0; 8], [1, 2], [1 << 62, 4, 4]));
    refused("target", maps::target(&[0.0; 8], [1, 2], [1, 1 << 63, 2]));
}

#[test]
fn infonce_is_finite_at_every_temperature_that_it_takes() {
    let [a, b] = [[0.6f32, 0.8], [-0.6, -0.8]];
    let q = Tensor::from_f32([2, 2], &[a, b].concat()).unwrap();
    let queue = Tensor::from_f32([2, 2], &[b, a].concat()).unwrap();
    for tau in [f32::MIN_POSITIVE, 1e-40, 1e-45, 0.0, -0.1, f32::NAN, f32::INFINITY, 2e-19] {
        let e = infonce::forward_backward(&q, &q, &queue, tau).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Param { name: "tau", .. }), "{tau:e}: {e}");
    }
    for tau in [0.5f32.powi(62), 1e-15, 1e-6, 0.07, 1.0, 1e6, f32::MAX] {
        // The positive is nearest, and is farthest.
        let opposite = Tensor::from_f32([2, 2], &[b, a].concat()).unwrap();
        for k in [&q, &opposite] {
            let (scores, dq) = infonce::forward_backward(&q, k, &queue, tau).unwrap();
            let finite = scores.loss.is_finite() && dq.f32().unwrap().iter().all(|v| v.is_finite());
            assert!(finite && (0.0..=1.0).contains(&scores.positive), "{tau:e}: {scores:?} {dq:?}");
        }
    }
}

#[test]
fn updates_refuse_numbers_that_spoil_the_weights() {
    let grad = Tensor::full([2], 1.0);
    let step = |p: &sgd::Sgd, lr: f32| {
        let (mut w, mut v) = (Tensor::full([2], 1.0), Tensor::zeros([2]));
        let rate = Tensor::scalar(lr);
        let one = |rate: sgd::Rate, w: &mut Tensor, v: &mut Tensor| {
            let w = sgd::Weights::Trained(w);
            let mut steps = [sgd::Update { w, update: Some((&grad, v, true)), key: None, half: None, key_half: None }];
            sgd::update_all(p, rate, 0.5, None, &mut steps)
        };
        for result in [one(sgd::Rate::Value(lr), &mut w, &mut v), one(sgd::Rate::In(&rate), &mut w, &mut v)] {
            refused(&format!("{p:?} at {lr}"), result);
        }
        assert!(w.f32().unwrap() == [1.0; 2] && v.f32().unwrap() == [0.0; 2], "nothing is written");
    };
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        step(&sgd::Sgd::default(), bad);
        step(&sgd::Sgd { momentum: bad, ..sgd::Sgd::default() }, 0.1);
        step(&sgd::Sgd { weight_decay: bad, ..sgd::Sgd::default() }, 0.1);
        refused("m", ema::update(&mut Tensor::zeros([2]), &grad, bad));
    }
    let x = Tensor::full([4, 3], 1.0);
    let c = Tensor::full([3], 1.0);
    for eps in [0.0, -0.0, f32::NAN, f32::INFINITY, 1e-40] {
        refused("eps", batch_norm::forward(&x, &c, &c, batch_norm::Stats::Batch { parts: 1 }, eps, None, false));
    }
    let (y, ..) =
        batch_norm::forward(&x, &c, &c, batch_norm::Stats::Batch { parts: 1 }, f32::MIN_POSITIVE, None, false).unwrap();
    assert_eq!(y.f32().unwrap(), [1.0; 12], "a channel of one value is beta");
}

#[test]
fn crops_and_sides_out_of_range_are_errors() {
    use tubelet::augment::{AugmentSpec, Crop, Draw, MotionKind, apply_motion, apply_rgb};
    let good = Draw::centre(&AugmentSpec::default(), 4, 4);
    let frame = [0u8; 48];
    let mut out = vec![0.0; 12];
    for big in EDGES {
        for crop in [
            Crop { y: big, x: 0, h: 4, w: 4 },
            Crop { y: 0, x: big, h: 4, w: 4 },
            Crop { y: 1, x: 0, h: big, w: 4 },
            Crop { y: 0, x: 1, h: 4, w: big },
        ] {
            let draw = Draw { crop, ..good.clone() };
            refused(&format!("{crop:?}"), apply_rgb(&[&frame[..]], 4, 4, &draw, 2, &mut out));
        }
        refused("side", apply_rgb(&[&frame[..]], 4, 4, &good, big, &mut out));
        refused("h", apply_rgb(&[&frame[..]], big, 4, &good, 2, &mut out));
        refused("w", apply_motion::<f32>(&[&[0.0; 16][..]], 1, MotionKind::Map, [4, big], &good, 2, &mut out));
    }
}
