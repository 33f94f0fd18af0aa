//! Epilogues of convolutions on the CPU: the same as the separate operations.

use crate::support::close::{assert_bounded, assert_norm, assert_within, gamma};
use crate::support::grad::assert_same_on_any_threads;
use crate::support::numbers::{data, noise, wide};
use tubelet::ops::batch_norm::{self, Incoming, Moments, Norm, ReluMask, Stats};
use tubelet::ops::conv3d::cases::{Case, SMALL};
use tubelet::ops::conv3d::fusion::{self, Epilogue, GradEpilogue, Prologue};
use tubelet::ops::conv3d::{self, Conv3d, Geometry, Products, reference};
use tubelet::ops::reference::Bounded;
use tubelet::ops::{self, Activation, conv_norm};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Tensor};

/// Enough tiles of 2x2 results for all passes to take fewer products. Their errors are relative to the magnitudes in tiles
/// (`docs/math/conv3d.md`), which for noise are 7.1 times those of a result's own window: two of eight absolute values for each of
/// three products, squared. The bound here has 18 times their roundings, since sums are a ninth as long.
const TILED: Case = Case {
    name: "tiled",
    x: [2, 3, 16, 16, 24],
    k: 40,
    kernel: [3, 3, 3],
    geometry: Geometry::new(Window::same([3, 3, 3])),
    why: "fewer products",
};

fn cases() -> impl Iterator<Item = &'static Case> {
    SMALL.iter().chain([&TILED])
}

#[test]
fn fewer_products_are_taken_where_they_are_tested() {
    let p = TILED.problem();
    let [x, w, dy] = [(1, p.x_shape()), (2, p.w_shape()), (3, p.y_shape())].map(|(seed, s)| noise(seed, s.dims()));
    let all = |products| {
        let g = p.geometry().with(products);
        let [y, dx] = [conv3d::fprop(&x, &w, &g), conv3d::dgrad(&dy, &w, p.x_shape(), &g)].map(Result::unwrap);
        [y, dx, conv3d::wgrad(&x, &dy, p.w_shape(), &g).unwrap()].map(|t| data(&t))
    };
    for (fewer, fma) in all(Products::F32).iter().zip(&all(Products::Fma)) {
        assert!(fewer != fma, "other roundings");
        // Each is promised to be within 5e-7 of the exact results (`docs/cpu.md`).
        assert_norm("by fewer products", fewer, fma, 1e-6);
    }
}

/// Parts that divide `n`.
fn parts(n: usize) -> impl Iterator<Item = usize> {
    [1, 2, n].into_iter().filter(move |parts| n.is_multiple_of(*parts))
}

/// `[parts 2 c]` sums over rows `[parts rows c]` of the two terms that `of(part, channel, element)` gives, and their bounds:
/// f32 sums of at most all rows, with a few roundings of each term.
fn sums(parts: usize, c: usize, len: usize, of: impl Fn(usize, usize, usize) -> [f64; 2]) -> (Vec<f64>, Vec<f64>) {
    let (rows, mut value, mut off) = (len / c / parts, Vec::new(), Vec::new());
    let bound = 2.0 * gamma(rows + 8, DType::F32);
    for part in 0..parts {
        for which in 0..2 {
            for ch in 0..c {
                let terms = (0..rows).map(|r| of(part, ch, (part * rows + r) * c + ch)[which]);
                let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + f64::abs(t)));
                value.push(sum);
                off.push(bound * size);
            }
        }
    }
    (value, off)
}

/// `y` with its moments over `parts` parts.
fn with_moments(x: &Tensor, w: &Tensor, g: &Geometry, near: &Tensor, parts: usize) -> (Tensor, Moments) {
    let epilogue = Epilogue::Moments { parts, near };
    let (y, moments) = fusion::fprop(x, w, g, Prologue::None, epilogue).unwrap();
    (y, moments.expect("they were asked for"))
}

#[test]
fn moments_leave_with_the_result() {
    for case in cases() {
        let p = case.problem();
        let (x, w, near) = (noise(1, p.x_shape().dims()), noise(2, p.w_shape().dims()), noise(3, &[p.k()]));
        for parts in parts(p.n()) {
            let (y, moments) = with_moments(&x, &w, p.geometry(), &near, parts);
            let (shift, got) = moments.shifted().expect("f32 on the CPU is fused");
            let (y, near) = (wide(&y), wide(shift));
            // Deviations from a mean found on the way, then from the shift: terms of the size of both.
            let (want, mut off) = sums(parts, p.k(), y.len(), |_, ch, i| [y[i] - near[ch], (y[i] - near[ch]).powi(2)]);
            let (_, size) = sums(parts, p.k(), y.len(), |_, ch, i| {
                let size = y[i].abs() + near[ch].abs();
                [size, 4.0 * size * size]
            });
            off.iter_mut().zip(size).for_each(|(off, size)| *off += size);
            assert_within(&format!("{} in {parts} parts", case.name), &data(got), &want, &off);
        }
    }
}

#[test]
fn moments_of_bf16_are_those_of_the_rounded_result() {
    let (x, w) = (noise(1, &[2, 2, 5, 5, 19]).cast(DType::BF16).unwrap(), noise(2, &[33, 1, 1, 1, 19]));
    let (w, near, g) = (w.cast(DType::BF16).unwrap(), noise(3, &[33]), Geometry::new(Window::same([1; 3])));
    let (y, moments) = with_moments(&x, &w, &g, &near, 2);
    let ([ones, zeros], own_pass) = ([1.0, 0.0].map(|v| Tensor::full([33], v)), Moments::of(&y, 2).unwrap());
    let by = |moments| batch_norm::forward(&y, &ones, &zeros, Stats::Moments(moments), 1e-5, None, false).unwrap();
    let ((_, got, of_got), (_, want, of_want)) = (by(&moments), by(&own_pass));
    assert_norm("mean", &data(got.mean()), &data(want.mean()), 1e-5);
    assert_norm("inv_std", &data(got.inv_std()), &data(want.inv_std()), 1e-5);
    assert_norm("var", &data(&of_got.unwrap().var), &data(&of_want.unwrap().var), 1e-5);
}

/// The forms of [`ReluMask`].
#[derive(Clone, Copy, PartialEq)]
enum Mask {
    Off,
    Input,
    Result,
}

/// What came before a convolution: `relu(batch_norm(normed))`.
struct Before {
    relu: Tensor,
    normed: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    gamma: Tensor,
    beta: Tensor,
    so_far: Tensor,
}

impl Before {
    fn new(p: &Conv3d, parts: usize, dtype: DType) -> Before {
        let like_x = |seed| noise(seed, p.x_shape().dims()).cast(dtype).unwrap();
        let positive = |seed, dims: &[usize]| {
            let v: Vec<f32> = data(&noise(seed, dims)).iter().map(|v| v.abs() + 0.1).collect();
            Tensor::from_f32(Shape::new(dims), &v).unwrap()
        };
        Before {
            relu: like_x(11),
            normed: like_x(12),
            mean: noise(13, &[parts * p.c()]),
            inv_std: positive(14, &[parts * p.c()]),
            gamma: noise(15, &[p.c()]),
            beta: noise(16, &[p.c()]),
            so_far: like_x(17),
        }
    }

    fn norm(&self) -> Norm {
        Norm::new(&self.mean, &self.inv_std, &self.gamma, &self.beta).unwrap()
    }

    /// dgrad past it, and the sums.
    fn dgrad(&self, dy: &Tensor, w: &Tensor, g: &Geometry, mask: Mask, so_far: bool) -> (Tensor, Tensor) {
        let epilogue = GradEpilogue::NormRelu {
            x: &self.normed,
            norm: &self.norm(),
            relu: match mask {
                Mask::Off => ReluMask::None,
                Mask::Input => ReluMask::FromInput,
                Mask::Result => ReluMask::FromResult(&self.relu),
            },
            signs: None,
            add: so_far.then_some(&self.so_far),
        };
        match fusion::dgrad(dy, w, self.normed.shape(), g, epilogue).unwrap() {
            Incoming::PastRelu { dz, sums } => (dz, sums),
            Incoming::Result(_) => panic!("the CPU fuses it"),
        }
    }
}

#[test]
fn a_gradient_past_relu_is_that_of_the_separate_operations() {
    for case in cases() {
        let p = case.problem();
        for (dtype, mask, so_far) in [
            (DType::F32, Mask::Result, true),
            (DType::F32, Mask::Input, false),
            (DType::BF16, Mask::Input, true),
            (DType::F32, Mask::Off, true),
            (DType::BF16, Mask::Off, false),
        ] {
            let dy = noise(1, p.y_shape().dims()).cast(dtype).unwrap();
            let w = noise(2, p.w_shape().dims()).cast(dtype).unwrap();
            for parts in parts(p.n()) {
                let chain = Before::new(&p, parts, dtype);
                let what = format!("{} {} in {parts} parts", case.name, dtype.name());
                let (dz, got) = chain.dgrad(&dy, &w, p.geometry(), mask, so_far);
                let want = masked(&p, &chain, reference::dgrad(&p, &wide(&dy), &wide(&w)), mask, so_far, dtype);
                assert_bounded(&what, &data(&dz), &want, dtype);

                let (dz, normed, mean, inv_std) =
                    (wide(&dz), wide(&chain.normed), wide(&chain.mean), wide(&chain.inv_std));
                let hat = |part: usize, ch: usize, i: usize| {
                    (normed[i] - mean[part * p.c() + ch]) * inv_std[part * p.c() + ch]
                };
                let (want, mut off) = sums(parts, p.c(), dz.len(), |part, ch, i| [dz[i], dz[i] * hat(part, ch, i)]);
                // `normed - mean` is rounded as it is formed.
                let (_, more) = sums(parts, p.c(), dz.len(), |part, ch, i| {
                    let at = part * p.c() + ch;
                    [0.0, dz[i] * (normed[i].abs() + mean[at].abs()) * inv_std[at]]
                });
                off.iter_mut().zip(more).for_each(|(off, more)| *off += more);
                assert_within(&what, &data(&got), &want, &off);
            }
        }
    }
}

/// The gradient with what came before, where the rectifier lets it through.
fn masked(p: &Conv3d, chain: &Before, mut want: Bounded<f64>, mask: Mask, so_far: bool, dtype: DType) -> Bounded<f64> {
    let (relu, normed, more) = (wide(&chain.relu), data(&chain.normed), wide(&chain.so_far));
    let [mean, inv_std, gamma, beta] = [&chain.mean, &chain.inv_std, &chain.gamma, &chain.beta].map(data);
    let part = relu.len() / (mean.len() / p.c());
    for i in 0..relu.len() {
        let (ch, at) = (i % p.c(), i / part * p.c() + i % p.c());
        let on = match mask {
            Mask::Off => true,
            Mask::Input => (normed[i] - mean[at]) * (inv_std[at] * gamma[ch]) + beta[ch] > 0.0,
            Mask::Result => relu[i] > 0.0,
        };
        if so_far {
            // A gradient of bf16 is rounded before the other is added to it.
            let rounded = if dtype == DType::BF16 { dtype.unit_roundoff() * 1.01 * want.value[i].abs() } else { 0.0 };
            want.magnitude[i] += more[i].abs() + rounded / (2.0 * gamma_of(want.terms));
            want.value[i] += more[i];
        }
        if !on {
            (want.value[i], want.magnitude[i]) = (0.0, 0.0);
        }
    }
    want.terms += 1;
    want
}

fn gamma_of(terms: usize) -> f64 {
    gamma(terms.max(1), DType::F32)
}

/// Contributions of other paths alone: no batch norm comes before the convolution.
#[test]
fn a_gradient_with_those_of_other_paths_is_their_sum() {
    for case in cases() {
        let p = case.problem();
        for dtype in [DType::F32, DType::BF16] {
            let dy = noise(1, p.y_shape().dims()).cast(dtype).unwrap();
            let w = noise(2, p.w_shape().dims()).cast(dtype).unwrap();
            let before = Before::new(&p, 1, dtype);
            let epilogue = GradEpilogue::Add(&before.so_far);
            let got = match fusion::dgrad(&dy, &w, p.x_shape(), p.geometry(), epilogue).unwrap() {
                Incoming::Result(dx) => dx,
                Incoming::PastRelu { .. } => panic!("there is no ReLU"),
            };
            let want = masked(&p, &before, reference::dgrad(&p, &wide(&dy), &wide(&w)), Mask::Off, true, dtype);
            assert_bounded(&format!("{} {}", case.name, dtype.name()), &data(&got), &want, dtype);
        }
    }
}

#[test]
fn epilogues_do_not_depend_on_the_threads() {
    for (x, k, kernel, stride) in [
        ([2, 4, 20, 21, 20], 40, [1, 3, 3], [1; 3]),
        ([2, 5, 12, 13, 144], 64, [3, 1, 1], [1; 3]),
        ([4, 2, 14, 14, 40], 24, [1, 1, 1], [1, 2, 2]),
    ] {
        let g = Geometry::new(Window::same(kernel).strided(stride));
        let p = Conv3d::new("conv3d", x.into(), [k, kernel[0], kernel[1], kernel[2], x[4]].into(), &g).unwrap();
        let (xs, w, dy) = (noise(1, &x), noise(2, p.w_shape().dims()), noise(3, p.y_shape().dims()));
        let (near, chain) = (noise(4, &[k]), Before::new(&p, 2, DType::F32));
        assert_same_on_any_threads("fused convolutions", || {
            let (y, moments) = with_moments(&xs, &w, &g, &near, 2);
            let (dz, sums) = chain.dgrad(&dy, &w, &g, Mask::Input, true);
            let (shift, taken) = moments.shifted().expect("f32 on the CPU is fused");
            vec![y, shift.clone(), taken.clone(), dz, sums]
        });
    }
}

/// Two residual blocks with a projection, as networks have them: the first block's result goes three ways.
fn blocks(t: &Tape, x: &Var, v: &[Var]) -> (Var, Var) {
    let bn = |y: &(Var, Option<Moments>), i: usize, residual: Option<&Var>, relu: bool| {
        let stats = y.1.as_ref().map_or(Stats::Batch { parts: 2 }, Stats::Moments);
        Activation::batch_norm(t, &y.0, &v[i], &v[i + 1], stats, 1e-5, residual, relu).unwrap().0
    };
    let conv = |x: &Activation, i: usize, kernel, stride| {
        let g = Geometry::new(Window::same(kernel).strided(stride));
        let near = Tensor::zeros([v[i].shape().dims()[0]]);
        conv_norm(t, x, &v[i], &g, Epilogue::Moments { parts: 2, near: &near }).unwrap()
    };
    let value = |a: &Activation| a.value(t).unwrap();
    let a = bn(&conv(&x.into(), 0, [1, 3, 3], [1; 3]), 1, None, true).stored(t).unwrap();
    let b = bn(&conv(&a, 3, [3, 1, 1], [1; 3]), 4, Some(&value(&a)), true);
    let c = bn(&conv(&b, 6, [1; 3], [1; 3]), 7, None, true);
    let d = conv_norm(t, &b, &v[9], &Geometry::new(Window::same([1; 3])), Epilogue::None).unwrap();
    let d = bn(&d, 10, None, false);
    let e = bn(&conv(&c, 12, [1, 3, 3], [1; 3]), 13, Some(&value(&d)), true);
    (value(&b), ops::global_avg_pool(t, &value(&e)).unwrap())
}

fn weights(dtype: DType) -> Vec<Tensor> {
    let filters = [[16, 1, 3, 3, 5], [16, 3, 1, 1, 16], [24, 1, 1, 1, 16], [20, 1, 1, 1, 16], [20, 1, 3, 3, 24]];
    let layer = |(i, dims): (u64, [usize; 5])| {
        [noise(3 * i, &dims).cast(dtype).unwrap(), noise(3 * i + 1, &[dims[0]]), noise(3 * i + 2, &[dims[0]])]
    };
    (20..).zip(filters).flat_map(layer).collect()
}

/// Gradients of all weights, of `x`, and of a value in the middle where it is asked for.
fn gradients(dtype: DType, mode: Mode, middle: bool) -> Vec<Tensor> {
    let t = Tape::new();
    let x = t.leaf(noise(7, &[4, 3, 6, 5, 5]).cast(dtype).unwrap());
    let v: Vec<Var> = weights(dtype).into_iter().map(|w| t.leaf(w)).collect();
    let (b, y) = blocks(&t, &x, &v);
    let dy = Var::constant(noise(8, y.shape().dims()).cast(dtype).unwrap());
    let mut of: Vec<&Var> = v.iter().chain([&x]).collect();
    of.extend(middle.then_some(&b));
    t.grad_from(&y, dy, &of, mode).unwrap().into_iter().map(|g| g.unwrap().value().clone()).collect()
}

#[test]
fn fused_and_composed_networks_have_the_same_gradients() {
    // Under `Keep` every operation is a separate one. Bounds: some hundred roundings, amplified by five normalisations, and by
    // the cancelling of terms in the gradients of addends.
    for (dtype, rel) in [(DType::F32, 1e-4), (DType::BF16, 6e-2)] {
        let composed = gradients(dtype, Mode::Keep, true);
        for mode in [Mode::Free, Mode::Peek] {
            let fused = gradients(dtype, mode, false);
            for (i, (fused, composed)) in fused.iter().zip(&composed).enumerate() {
                assert_eq!(fused.dtype(), composed.dtype());
                assert_norm(&format!("{} {mode:?} {i}", dtype.name()), &data(fused), &data(composed), rel);
            }
        }
    }
}

#[test]
fn a_gradient_that_is_asked_for_is_not_past_the_rectifier() {
    let composed = gradients(DType::F32, Mode::Keep, true).pop().unwrap();
    let asked = gradients(DType::F32, Mode::Free, true).pop().unwrap();
    assert_norm("in the middle", &data(&asked), &data(&composed), 2e-5);
    assert!(data(&asked).iter().all(|v| *v != 0.0), "the rectifier's mask has zeros");
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let g = Geometry::new(Window::same([1; 3]));
    let p = Conv3d::new("conv3d", [2, 2, 3, 3, 4].into(), [8, 1, 1, 1, 4].into(), &g).unwrap();
    let (x, dy, w) = (noise(1, p.x_shape().dims()), noise(2, p.y_shape().dims()), noise(3, p.w_shape().dims()));
    let chain = Before::new(&p, 1, DType::F32);
    let (short, norm) = (noise(3, &[2, 2, 3, 2, 4]), chain.norm());
    let good = |relu, add| GradEpilogue::NormRelu { x: &chain.normed, norm: &norm, relu, signs: None, add };
    let three = Norm::new(&noise(4, &[12]), &noise(5, &[12]), &chain.gamma, &chain.beta).unwrap();
    let refused = [
        ("`add` must be [2 2 3 3 4]", GradEpilogue::Add(&short)),
        ("`add` must be [2 2 3 3 4]", good(ReluMask::FromInput, Some(&short))),
        ("`relu` must be [2 2 3 3 4]", good(ReluMask::FromResult(&short), None)),
        (
            "`x` must be",
            GradEpilogue::NormRelu { x: &short, norm: &norm, relu: ReluMask::FromInput, signs: None, add: None },
        ),
        (
            "parts = 3, but it must divide the batch of 2",
            GradEpilogue::NormRelu {
                x: &chain.normed,
                norm: &three,
                relu: ReluMask::FromInput,
                signs: None,
                add: None,
            },
        ),
    ];
    for (words, epilogue) in refused {
        let e = fusion::dgrad(&dy, &w, p.x_shape(), &g, epilogue).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    }
    // What has another number type is composed, not refused.
    let half = chain.normed.cast(DType::BF16).unwrap();
    let epilogue = GradEpilogue::NormRelu { x: &half, norm: &norm, relu: ReluMask::FromInput, signs: None, add: None };
    assert!(matches!(fusion::dgrad(&dy, &w, p.x_shape(), &g, epilogue).unwrap(), Incoming::Result(_)));
    let (near, wrong) = (noise(6, &[8]), noise(7, &[7]));
    for (words, epilogue) in [
        ("parts = 3, but it must divide the 2 samples", Epilogue::Moments { parts: 3, near: &near }),
        ("`near` must be [8], but it is [7]", Epilogue::Moments { parts: 1, near: &wrong }),
    ] {
        let e = fusion::fprop(&x, &w, &g, Prologue::None, epilogue).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    }
}
