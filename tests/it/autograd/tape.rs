//! The tape: a chain differentiated twice, sums where paths meet, and when memory is let go.

use crate::support::close::assert_near;
use crate::support::grad::{assert_keep_is_free, assert_second_order};
use crate::support::numbers::{data, dot, noise, wide};
use std::rc::Rc;
use tubelet::error::{ErrorKind, Result};
use tubelet::ops::batch_norm::Stats;
use tubelet::ops::batch_norm::reference::{Layer, Rows};
use tubelet::ops::pool3d::Pool;
use tubelet::ops::{self, batch_norm, l2_norm, linear, pool3d};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{Mode, Op, Tape, Var};
use tubelet::tensor::Tensor;

const X: [usize; 5] = [4, 2, 3, 3, 3];
const KERNEL: [usize; 3] = [2, 2, 2];
const EPS: f32 = 1e-5;
const OUT: usize = 5;

/// x, gamma, beta, w, b of [`chain`].
fn chain_inputs() -> [Tensor; 5] {
    [noise(1, &X), noise(2, &[3]), noise(3, &[3]), noise(4, &[OUT, 3]), noise(5, &[OUT])]
}

/// The tail of a network: normalise, rectify, pool, project, scale to unit length.
fn chain(t: &Tape, v: &[Var]) -> Result<Var> {
    let (h, _) = ops::batch_norm(t, &v[0], &v[1], &v[2], Stats::Batch { parts: 2 }, EPS, None, true)?;
    let h = ops::global_avg_pool(t, &ops::avg_pool(t, &h, KERNEL, &Window::UNIT)?)?;
    ops::l2_norm(t, &ops::linear(t, &h, &v[3], Some(&v[4]))?)
}

/// The gradients of [`chain`] for `dy`, in f64, from the definitions.
fn chain_gradient(v: &[Vec<f64>], dy: &[f64]) -> Vec<Vec<f64>> {
    let [n, .., c] = X;
    let layer = Layer {
        rows: Rows { parts: 2, rows: X.iter().product::<usize>() / c / 2, c },
        gamma: &v[1],
        beta: &v[2],
        fixed: None,
        eps: f64::from(EPS),
    };
    let h = batch_norm::reference::forward(&layer, &v[0], None, true).y.value;
    let pool = Pool::new("pool", Shape::from(X), KERNEL, &Window::UNIT).unwrap();
    let p = pool3d::reference::avg(&pool, &h).value;
    let places = pool.out.iter().product();
    let q = pool3d::reference::global(n, places, c, &p).value;
    let z = linear::reference::linear([n, c, OUT], &q, &v[3], Some(&v[4])).value;

    let dz = l2_norm::reference::backward(&z, dy, OUT).value;
    let [dq, dw, db] = linear::reference::backward([n, c, OUT], &q, &v[3], &dz);
    let dp = pool3d::reference::global_back(places, c, &dq.value);
    let dh = pool3d::reference::avg_back(&pool, &dp).value;
    let d = batch_norm::reference::backward(&layer, &v[0], Some(&h), &dh);
    vec![d.dx.value, d.dgamma.value, d.dbeta.value, dw.value, db.value]
}

#[test]
fn a_chain_is_differentiated_once() {
    let inputs = chain_inputs();
    let got = assert_keep_is_free("chain", &inputs, 1e-5, chain);
    let want = chain_gradient(&inputs.each_ref().map(wide), &wide(&noise(99, &[X[0], OUT])));
    for (g, w) in got.iter().zip(want) {
        let w: Vec<f32> = w.iter().map(|v| *v as f32).collect();
        crate::support::close::assert_norm("chain", &data(g), &w, 1e-5);
    }
}

#[test]
fn a_chain_is_differentiated_twice() {
    assert_second_order("chain", &chain_inputs(), chain, chain_gradient);
}

#[test]
fn gradients_add_where_paths_meet() {
    // y = x·x + x·c + x, all through the same leaf.
    let (x, c) = (noise(1, &[7]), noise(2, &[7]));
    let t = Tape::new();
    let (xv, cv) = (t.leaf(x.clone()), Var::constant(c.clone()));
    let square = ops::mul(&t, &xv, &xv).unwrap();
    let y = ops::add(&t, &square, &ops::mul(&t, &xv, &cv).unwrap()).unwrap();
    let y = ops::add(&t, &y, &xv).unwrap();
    let dy = Tensor::full([7], 1.0);
    // Also for a node inside: x·x is both an answer and on the way to x.
    let g = t.grad_from(&y, Var::constant(dy), &[&xv, &square, &cv], Mode::Free).unwrap();
    let want: Vec<f32> = data(&x).iter().zip(data(&c)).map(|(x, c)| 2.0 * x + c + 1.0).collect();
    crate::support::close::assert_norm("sum of paths", &data(g[0].as_ref().unwrap().value()), &want, 1e-6);
    assert_eq!(data(g[1].as_ref().unwrap().value()), [1.0; 7]);
    assert!(g[2].is_none(), "a constant has no gradient");
}

#[test]
fn a_detached_value_stops_gradients() {
    let t = Tape::new();
    let x = t.leaf(Tensor::scalar(3.0));
    let y = ops::mul(&t, &x, &x.detach()).unwrap();
    assert!(!x.detach().has_grad());
    assert_eq!(t.grad(&y, &[&x], Mode::Free).unwrap()[0].as_ref().unwrap().value().item().unwrap(), 3.0);
}

#[test]
fn a_recording_is_used_up_once() {
    let t = Tape::new();
    let x = t.leaf(noise(1, &[1]));
    let y = ops::mul(&t, &x, &x).unwrap();
    t.grad(&y, &[&x], Mode::Keep).unwrap();
    t.grad(&y, &[&x], Mode::Free).unwrap();
    let e = t.grad(&y, &[&x], Mode::Free).err().unwrap();
    assert!(matches!(e.kind(), ErrorKind::Param { .. }));
    assert_eq!(e.to_string(), "grad: y = a freed graph, but Mode::Free uses a recording up once");
}

/// What MCL does with constant channel weights: the gradient for a value in the middle, and then everything else.
#[test]
fn a_recording_that_is_peeked_at_stays_and_gives_constants() {
    let inputs = chain_inputs();
    let run = |peek: bool| {
        let t = Tape::new();
        let leaves = inputs.clone().map(|x| t.leaf(x));
        let y = chain(&t, &leaves).unwrap();
        let dy = Var::constant(noise(99, y.shape().dims()));
        let peeked = peek.then(|| t.grad_from(&y, dy.clone(), &[&leaves[0]], Mode::Peek).unwrap().remove(0).unwrap());
        assert!(t.is_recording());
        let all: Vec<&Var> = leaves.iter().collect();
        let grads: Vec<Var> = t.grad_from(&y, dy, &all, Mode::Free).unwrap().into_iter().flatten().collect();
        if let Some(g) = peeked {
            assert!(!g.has_grad(), "it is a constant");
            assert_eq!(data(g.value()), data(grads[0].value()), "the fused passes of both walks are the same");
        }
        grads.iter().map(|g| data(g.value())).collect::<Vec<_>>()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn gradients_of_many_numbers_need_their_own() {
    let t = Tape::new();
    let x = t.leaf(noise(1, &[3]));
    let y = ops::scale(&t, &x, 2.0).unwrap();
    let e = t.grad(&y, &[&x], Mode::Free).err().unwrap();
    assert_eq!(e.to_string(), "grad: `y` must be one element, but it is [3]");
    let e = t.grad_from(&y, Var::constant(noise(1, &[2])), &[&x], Mode::Free).err().unwrap();
    assert_eq!(e.to_string(), "grad: `dy` must be [3], but it is [2]");
    assert!(t.is_recording(), "an error leaves the tape as it was");
}

/// The identity, holding something whose life can be watched.
struct Holds(#[allow(dead_code, reason = "only its life matters")] Rc<()>);

impl Op for Holds {
    fn name(&self) -> &'static str {
        "holds"
    }

    fn backward(&self, _: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(dy.clone())])
    }
}

#[test]
fn what_is_saved_lives_as_long_as_somebody_may_read_it() {
    let watched = Rc::new(());
    let hold = |t: &Tape, x: &Var| t.record(x.value().clone(), &[x], || Holds(watched.clone()));
    let t = Tape::new();
    let x = t.leaf(noise(1, &[1]));

    let y = hold(&t, &hold(&t, &x));
    assert_eq!(Rc::strong_count(&watched), 3);
    t.grad(&y, &[&x], Mode::Keep).unwrap();
    assert_eq!(Rc::strong_count(&watched), 3, "Keep keeps");
    t.grad(&y, &[&x], Mode::Free).unwrap();
    assert_eq!(Rc::strong_count(&watched), 1, "Free frees what it passes, though y is still there");

    let y = hold(&t, &hold(&t, &x));
    drop(y);
    assert_eq!(Rc::strong_count(&watched), 1, "a result nobody holds takes its recording along");

    let constant = hold(&t, &Var::constant(noise(1, &[1])));
    assert!(!constant.has_grad());
    let quiet = Tape::no_grad();
    let y = hold(&quiet, &quiet.leaf(noise(1, &[1])));
    assert!(!y.has_grad() && !quiet.is_recording());
    assert_eq!(Rc::strong_count(&watched), 1, "nothing is saved where no gradient can be asked for");
}

#[test]
fn a_tape_that_does_not_record_gives_the_same_values() {
    let inputs = chain_inputs();
    let value = |t: Tape| {
        let v: Vec<Var> = inputs.iter().map(|x| t.leaf(x.clone())).collect();
        chain(&t, &v).unwrap()
    };
    let (with, without) = (value(Tape::new()), value(Tape::no_grad()));
    assert!(with.has_grad() && !without.has_grad());
    assert_eq!(data(with.value()), data(without.value()));
    assert_near("four rows of unit length", dot(with.value(), with.value()), X[0] as f64, 1e-6);
}

/// Ids of nodes were counted for each tape, so that values of two tapes were taken for one another.
#[test]
fn values_of_two_tapes_can_be_mixed() {
    let (s, t) = (Tape::new(), Tape::new());
    let of = |t: &Tape, x: f32| t.leaf(Tensor::scalar(x));
    let (a, b) = (of(&s, 2.0), of(&t, 5.0));
    let square = ops::mul(&s, &a, &a).unwrap(); // recorded on one
    let y = ops::mul(&t, &square, &b).unwrap(); // a²b, recorded on the other
    let numbers =
        |d: Vec<Option<Var>>| -> Vec<f32> { d.iter().map(|d| d.as_ref().unwrap().value().item().unwrap()).collect() };
    assert_eq!(numbers(s.grad(&y, &[&a, &b], Mode::Keep).unwrap()), [20.0, 4.0]);
    assert_eq!(numbers(t.grad(&y, &[&b, &a], Mode::Free).unwrap()), [4.0, 20.0]);
}

/// A recording that no gradient was taken of is dropped by a loop; each node dropping its inputs took a stack frame for
/// each operation.
#[test]
fn a_long_recording_is_dropped_without_a_deep_stack() {
    let t = Tape::new();
    let x = t.leaf(noise(1, &[1]));
    let watched = Rc::new(());
    let mut y = x.clone();
    for _ in 0..300_000 {
        // The operation saves its input, as most do.
        let saved = (y.clone(), watched.clone());
        y = t.record(y.value().clone(), &[&y], move || Saves(saved));
    }
    assert_eq!(Rc::strong_count(&watched), 300_001);
    drop(y);
    assert_eq!(Rc::strong_count(&watched), 1);
}

struct Saves(#[allow(dead_code, reason = "held to be dropped")] (Var, Rc<()>));

impl Op for Saves {
    fn name(&self) -> &'static str {
        "saves"
    }

    fn backward(&self, _: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(dy.clone())])
    }
}
