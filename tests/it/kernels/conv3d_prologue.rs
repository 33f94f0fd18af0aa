//! Prologues of convolutions, normalisation and ReLU of what they read: the bits of the separate operations.

use crate::support::grad::assert_same_on_any_threads;
use crate::support::numbers::{data, noise};
use tubelet::ops::batch_norm::{Norm, Stats, batch_norm};
use tubelet::ops::conv3d::cases::SMALL;
use tubelet::ops::conv3d::fusion::{self, Epilogue, Prologue};
use tubelet::ops::conv3d::{self, Conv3d, Geometry, Products, conv3d};
use tubelet::ops::{self, Activation, conv_norm};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Tensor};

/// A norm's arrays for so many parts of the samples.
struct Arrays([Tensor; 4]);

impl Arrays {
    fn new(p: &Conv3d, parts: usize) -> Self {
        let inv_std: Vec<f32> = data(&noise(14, &[parts * p.c()])).iter().map(|v| v.abs() + 0.1).collect();
        let inv_std = Tensor::from_f32([parts * p.c()], &inv_std).unwrap();
        Arrays([noise(13, &[parts * p.c()]), inv_std, noise(15, &[p.c()]), noise(16, &[p.c()])])
    }

    fn norm(&self) -> Norm {
        let [mean, inv_std, gamma, beta] = &self.0;
        Norm::new(mean, inv_std, gamma, beta).unwrap()
    }

    /// What it makes of `x`, in the type of `x`.
    fn apply(&self, p: &Conv3d, x: &Tensor) -> Tensor {
        let [mean, inv_std, gamma, beta] = [0, 1, 2, 3].map(|i| data(&self.0[i]));
        let part = p.x_shape().len() / (mean.len() / p.c());
        let one = |(i, v): (usize, &f32)| {
            let (ch, at) = (i % p.c(), i / part * p.c() + i % p.c());
            let z = (v - mean[at]) * (inv_std[at] * gamma[ch]) + beta[ch];
            if z <= 0.0 { 0.0 } else { z } // not a number stays so
        };
        let y: Vec<f32> = data(x).iter().enumerate().map(one).collect();
        Tensor::from_f32(x.shape(), &y).unwrap().cast(x.dtype()).unwrap()
    }
}

/// Number types and ways to form products.
const FORMS: [(DType, Products); 5] = [
    (DType::F32, Products::F32),
    (DType::F32, Products::Fma),
    (DType::F32, Products::Bf16x3),
    (DType::F32, Products::Bf16x6),
    (DType::BF16, Products::F32),
];

fn assert_same(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()), "{what}");
    let (got, want) = (data(got), data(want));
    let differs = (0..got.len()).find(|&i| got[i] != want[i] && !(got[i].is_nan() && want[i].is_nan()));
    assert!(differs.is_none(), "{what}: at {differs:?} of {}: {:?}", got.len(), differs.map(|i| (got[i], want[i])));
}

fn fprop_normed(x: &Tensor, norm: &Norm, w: &Tensor, g: &Geometry) -> Tensor {
    fusion::fprop(x, w, g, Prologue::NormRelu(norm), Epilogue::None).unwrap().0
}

fn wgrad_normed(x: &Tensor, norm: &Norm, dy: &Tensor, w_shape: Shape, g: &Geometry) -> Tensor {
    fusion::wgrad(x, dy, w_shape, g, Prologue::NormRelu(norm)).unwrap()
}

#[test]
fn a_normalised_input_has_the_bits_of_the_separate_operations() {
    for (i, case) in SMALL.iter().enumerate() {
        let p = case.problem();
        for (dtype, products) in FORMS {
            let g = p.geometry().with(products);
            let mut x = noise(1, p.x_shape().dims());
            if i % 3 == 0 {
                let mut v = data(&x);
                *v.last_mut().unwrap() = f32::NAN;
                x = Tensor::from_f32(x.shape(), &v).unwrap();
            }
            let [x, w] = [x, noise(2, p.w_shape().dims())].map(|t| t.cast(dtype).unwrap());
            let dy = noise(3, p.y_shape().dims()).cast(dtype).unwrap();
            for parts in [1, p.n()] {
                let what = format!("{} {} {products:?} in {parts} parts", case.name, dtype.name());
                let arrays = Arrays::new(&p, parts);
                let applied = arrays.apply(&p, &x);
                let y = fprop_normed(&x, &arrays.norm(), &w, &g);
                assert_same(&what, &y, &conv3d::fprop(&applied, &w, &g).unwrap());
                let dw = wgrad_normed(&x, &arrays.norm(), &dy, p.w_shape(), &g);
                assert_same(&what, &dw, &conv3d::wgrad(&applied, &dy, p.w_shape(), &g).unwrap());
            }
        }
    }
}

#[test]
fn normalised_convolutions_do_not_depend_on_the_threads() {
    for (x, k, kernel) in [([2, 4, 20, 21, 20], 40, [1, 3, 3]), ([2, 5, 12, 13, 144], 64, [3, 1, 1])] {
        let g = Geometry::new(Window::same(kernel)).with(Products::Bf16x3);
        let p = Conv3d::new("conv3d", x.into(), [k, kernel[0], kernel[1], kernel[2], x[4]].into(), &g).unwrap();
        let (xs, w, dy) = (noise(1, &x), noise(2, p.w_shape().dims()), noise(3, p.y_shape().dims()));
        let arrays = Arrays::new(&p, 2);
        assert_same_on_any_threads("normalised convolutions", || {
            let y = fprop_normed(&xs, &arrays.norm(), &w, &g);
            let dw = wgrad_normed(&xs, &arrays.norm(), &dy, p.w_shape(), &g);
            vec![y, dw]
        });
    }
}

/// What a recording of a layer and a convolution of its result gives: the result, moments, gradients of `x`, `gamma`, `beta` and
/// `w`, and of their squares' sum where gradients are recorded.
fn recorded(defer: bool, (dtype, products): (DType, Products), stats: usize, mode: Mode) -> Vec<Tensor> {
    let t = Tape::new();
    let leaf = |seed, dims: &[usize], dtype| t.leaf(noise(seed, dims).cast(dtype).unwrap());
    let x = leaf(1, &[4, 3, 7, 6, 20], dtype);
    let [gamma, beta] = [2, 3].map(|seed| leaf(seed, &[20], DType::F32));
    let w = leaf(4, &[24, 3, 3, 3, 20], dtype);
    let g = Geometry::new(Window::same([3; 3])).with(products);
    let (mean, var) = (noise(5, &[20]), Tensor::full([20], 0.3));
    let stats = match stats {
        0 => Stats::Fixed { mean: &mean, var: &var },
        groups => Stats::Batch { parts: groups },
    };
    let (z, moments) = Activation::batch_norm(&t, &x, &gamma, &beta, stats, 1e-5, None, true).unwrap();
    let z = if defer { z } else { z.stored(&t).unwrap() };
    let near = Tensor::zeros([24]);
    let (y, _) = conv_norm(&t, &z, &w, &g, Epilogue::Moments { parts: 2, near: &near }).unwrap();
    let dy = Var::constant(noise(6, y.shape().dims()).cast(dtype).unwrap());
    let of = [&x, &gamma, &beta, &w];
    let grads: Vec<Var> = t.grad_from(&y, dy, &of, mode).unwrap().into_iter().map(Option::unwrap).collect();
    let mut all = vec![y.value().clone()];
    all.extend(moments.into_iter().flat_map(|m| [m.mean, m.var]));
    all.extend(grads.iter().map(|g| g.value().clone()));
    if mode == Mode::Keep {
        let square = |v: &Var| {
            let v = ops::cast(&t, v, DType::F32).unwrap();
            let all = ops::sum_to(&t, &ops::mul(&t, &v, &v).unwrap(), Shape::new(&vec![1; v.shape().rank()])).unwrap();
            ops::reshape(&t, &all, Shape::from([1])).unwrap()
        };
        let sum = grads.iter().map(square).reduce(|a, b| ops::add(&t, &a, &b).unwrap()).unwrap();
        all.extend(t.grad(&sum, &of, Mode::Free).unwrap().into_iter().map(|g| g.unwrap().value().clone()));
    }
    all
}

#[test]
fn a_normalisation_that_is_not_stored_has_the_same_gradients_to_the_second_order() {
    for form in FORMS {
        for (stats, mode) in [(0, Mode::Free), (1, Mode::Free), (2, Mode::Peek), (2, Mode::Keep), (0, Mode::Keep)] {
            let what = format!("{form:?} {stats} {mode:?}");
            let (got, want) = (recorded(true, form, stats, mode), recorded(false, form, stats, mode));
            assert_eq!(got.len(), want.len(), "{what}");
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_same(&format!("{what} {i}"), got, want);
            }
        }
    }
}

#[test]
fn a_scale_that_is_not_f32_gives_the_same() {
    let t = Tape::no_grad();
    let [x, w] = [noise(1, &[2, 2, 5, 5, 16]), noise(2, &[8, 1, 3, 3, 16])].map(Var::constant);
    let [gamma, beta] = [3, 4].map(|seed| Var::constant(noise(seed, &[16]).cast(DType::BF16).unwrap()));
    let (stats, g) = (Stats::Batch { parts: 1 }, Geometry::new(Window::same([1, 3, 3])).with(Products::Bf16x3));
    let (deferred, _) = Activation::batch_norm(&t, &x, &gamma, &beta, stats, 1e-5, None, true).unwrap();
    let (y, _) = conv_norm(&t, &deferred, &w, &g, Epilogue::None).unwrap();
    let (z, _) = batch_norm(&t, &x, &gamma, &beta, stats, 1e-5, None, true).unwrap();
    assert_same("bf16 scale", y.value(), conv3d(&t, &z, &w, &g).unwrap().value());
}

#[test]
fn a_frozen_filter_or_layer_gets_no_gradient() {
    let t = Tape::new();
    let (x, ones, zeros) = (noise(1, &[2, 2, 5, 5, 16]), Tensor::full([16], 1.0), Tensor::zeros([16]));
    let g = Geometry::new(Window::same([1, 3, 3])).with(Products::Bf16x3);
    let w = noise(2, &[16, 1, 3, 3, 16]);
    for layer_trains in [false, true] {
        let var = |v: &Tensor, trains: bool| if trains { t.leaf(v.clone()) } else { Var::constant(v.clone()) };
        let [x, gamma, beta] = [&x, &ones, &zeros].map(|v| var(v, layer_trains));
        let w = var(&w, !layer_trains);
        let stats = Stats::Batch { parts: 1 };
        let (layer, _) = Activation::batch_norm(&t, &x, &gamma, &beta, stats, 1e-5, None, true).unwrap();
        let (y, moments) = conv_norm(&t, &layer, &w, &g, Epilogue::None).unwrap();
        assert!(moments.is_none());
        let dy = Var::constant(noise(3, y.shape().dims()));
        let grads = t.grad_from(&y, dy, &[&x, &gamma, &beta, &w], Mode::Free).unwrap();
        let given: Vec<bool> = grads.iter().map(Option::is_some).collect();
        assert_eq!(given, [layer_trains, layer_trains, layer_trains, !layer_trains]);
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let g = Geometry::new(Window::same([1; 3]));
    let p = Conv3d::new("conv3d", [2, 2, 3, 3, 4].into(), [8, 1, 1, 1, 4].into(), &g).unwrap();
    let (x, w, dy) = (noise(1, p.x_shape().dims()), noise(2, p.w_shape().dims()), noise(3, p.y_shape().dims()));
    let (good, long, wrong) = (Arrays::new(&p, 2), noise(4, &[12]), noise(5, &[5]));
    let [mean, inv_std, gamma, beta] = &good.0;
    for (arg, norm) in [
        ("inv_std", Norm::new(mean, &long, gamma, beta)),
        ("mean", Norm::new(&wrong, &wrong, gamma, beta)),
        ("mean", Norm::new(mean, inv_std, &wrong, &wrong)),
        ("beta", Norm::new(mean, inv_std, gamma, &wrong)),
        ("gamma", Norm::new(mean, inv_std, &gamma.cast(DType::BF16).unwrap(), beta)),
    ] {
        let e = norm.expect_err(arg).to_string();
        assert!(e.contains(&format!("`{arg}`")), "{e}");
    }
    let three = Norm::new(&long, &long, gamma, beta).unwrap(); // three parts of two samples
    let five = Norm::new(&wrong, &wrong, &wrong, &wrong).unwrap();
    for (words, norm) in [("parts = 3", three), ("`x` must be [n .. 5]", five)] {
        let prologue = Prologue::NormRelu(&norm);
        for e in [
            fusion::fprop(&x, &w, &g, prologue, Epilogue::None).err(),
            fusion::wgrad(&x, &dy, p.w_shape(), &g, prologue).err(),
        ] {
            let e = e.expect(words).to_string();
            assert!(e.contains(words), "{e}");
        }
    }
    let e = fusion::wgrad(&x, &x, p.w_shape(), &g, Prologue::NormRelu(&good.norm())).unwrap_err();
    assert!(e.to_string().contains("`dy`"), "{e}");
}
