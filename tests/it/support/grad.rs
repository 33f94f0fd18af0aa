//! What gradients, adjoints and determinism are checked with.

use super::close::{assert_gradient, assert_norm};
use super::numbers::{data, dot, integers, noise, wide};
use tubelet::error::Result;
use tubelet::ops;
use tubelet::shape::Shape;
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::Tensor;

/// Asserts `⟨A x, y⟩ = ⟨x, Aᵀ y⟩` exactly, on small integers.
#[track_caller]
pub fn assert_adjoint(
    what: &str,
    x: &[usize],
    y: &[usize],
    forward: impl Fn(&Tensor) -> Result<Tensor>,
    backward: impl Fn(&Tensor) -> Result<Tensor>,
) {
    let (x, y) = (integers(1, x), integers(2, y));
    assert_eq!(dot(&forward(&x).unwrap(), &y), dot(&x, &backward(&y).unwrap()), "{what}: ⟨Ax, y⟩ and ⟨x, Aᵀy⟩");
}

/// Asserts that `f` gives the same bits on one, two and three threads.
#[track_caller]
pub fn assert_same_on_any_threads(what: &str, f: impl Fn() -> Vec<Tensor> + Sync) {
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&f);
    let bits = |v: Vec<Tensor>| -> Vec<u32> { v.iter().flat_map(data).map(f32::to_bits).collect() };
    let one = bits(on(1));
    for threads in [2, 3] {
        assert_eq!(bits(on(threads)), one, "{what}: {threads} threads give other bits than one");
    }
}

/// Bits of `f` in pools of one, two and three threads: all equal.
pub fn same_on_any_pool<T: PartialEq + std::fmt::Debug + Send>(f: impl Fn() -> T + Sync) {
    let run = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&f);
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

fn leaves(t: &Tape, inputs: &[Tensor]) -> Vec<Var> {
    inputs.iter().map(|x| t.leaf(x.clone())).collect()
}

/// Asserts that the gradients of all `inputs` under `Keep` and `Free` agree to `rel`, and returns those of `Free`.
#[track_caller]
pub fn assert_keep_is_free(
    what: &str,
    inputs: &[Tensor],
    rel: f64,
    f: impl Fn(&Tape, &[Var]) -> Result<Var>,
) -> Vec<Tensor> {
    let t = Tape::new();
    let vars = leaves(&t, inputs);
    let y = f(&t, &vars).unwrap();
    let dy = Var::constant(noise(99, y.shape().dims()));
    let of: Vec<&Var> = vars.iter().collect();
    let keep = t.grad_from(&y, dy.clone(), &of, Mode::Keep).unwrap();
    let free = t.grad_from(&y, dy, &of, Mode::Free).unwrap();
    let pairs = keep.iter().zip(&free).enumerate();
    pairs
        .map(|(i, (k, f))| {
            let (k, f) = (k.as_ref().unwrap().value(), f.as_ref().unwrap().value());
            assert_eq!(k.dtype(), f.dtype(), "{what}: number type of gradient {i}");
            assert_norm(&format!("{what}: gradient {i}"), &data(k), &data(f), rel);
            f.clone()
        })
        .collect()
}

/// Asserts that the gradient of `s = Σ ⟨v, ∇f⟩` (with `f = Σ ⟨dy, y⟩`) equals f64 differences of `s`, to 1e-5, where
/// `gradient(inputs, dy)` is `∇f` in f64, one vector per input.
#[track_caller]
pub fn assert_second_order(
    what: &str,
    inputs: &[Tensor],
    f: impl Fn(&Tape, &[Var]) -> Result<Var>,
    gradient: impl Fn(&[Vec<f64>], &[f64]) -> Vec<Vec<f64>>,
) {
    let t = Tape::new();
    let vars = leaves(&t, inputs);
    let of: Vec<&Var> = vars.iter().collect();
    let y = f(&t, &vars).unwrap();
    let dy = noise(98, y.shape().dims());
    let first = t.grad_from(&y, Var::constant(dy.clone()), &of, Mode::Keep).unwrap();
    let along: Vec<Tensor> = inputs.iter().zip(50..).map(|(x, seed)| noise(seed, x.dims())).collect();
    let mut s = Var::constant(Tensor::scalar(0.0));
    for (d, v) in first.iter().zip(&along) {
        let Some(d) = d else { continue };
        let product = ops::mul(&t, d, &Var::constant(v.clone())).unwrap();
        let ones = Shape::new(&vec![1; product.shape().rank()]);
        let sum = ops::reshape(&t, &ops::sum_to(&t, &product, ones).unwrap(), Shape::new(&[])).unwrap();
        s = ops::add(&t, &s, &sum).unwrap();
    }
    let second = t.grad(&s, &of, Mode::Free).unwrap();

    let (start, dy): (Vec<Vec<f64>>, _) = (inputs.iter().map(wide).collect(), wide(&dy));
    let along: Vec<Vec<f64>> = along.iter().map(wide).collect();
    for (i, x) in start.iter().enumerate() {
        let got = second[i].as_ref().map_or(vec![0.0; x.len()], |g| wide(g.value()));
        assert_gradient(
            &format!("{what}: second order, input {i}"),
            x,
            &got,
            1e-5,
            |_| false,
            |x| {
                let mut at = start.clone();
                at[i] = x.to_vec();
                let gradients = gradient(&at, &dy);
                gradients.iter().zip(&along).flat_map(|(g, v)| g.iter().zip(v)).map(|(g, v)| g * v).sum()
            },
        );
    }
}
