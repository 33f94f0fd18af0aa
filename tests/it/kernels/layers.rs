//! Primitives and plain layers: arithmetic, sums, functions, rectifier, matrix product, linear.

use crate::support::close::{assert_bounded, assert_gradient};
use crate::support::grad::{assert_adjoint, assert_keep_is_free, assert_same_on_any_threads, assert_second_order};
use crate::support::numbers::{data, integers, noise, wide};
use proptest::prelude::*;
use tubelet::ops::arith::{self, Arith};
use tubelet::ops::reference::Bounded;
use tubelet::ops::unary::{self, Unary};
use tubelet::ops::{self, linear, matmul, reduce, relu};
use tubelet::shape::Shape;
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Tensor};

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Values that went through one rounding, or a function good to a few.
fn rounded(value: Vec<f64>, terms: usize) -> Bounded<f64> {
    Bounded { magnitude: value.iter().map(|v| v.abs()).collect(), value, terms }
}

/// Numbers in 0.5..4.5, where every function is defined.
fn positive(seed: u64, shape: &[usize]) -> Tensor {
    let v: Vec<f32> = data(&noise(seed, shape)).iter().map(|v| v + 2.5).collect();
    Tensor::from_f32(Shape::new(shape), &v).unwrap()
}

#[test]
fn arithmetic_meets_its_definition_in_every_broadcast() {
    for case in arith::cases::CASES {
        for dtype in DTYPES {
            let (a, b) = (noise(1, case.a).cast(dtype).unwrap(), positive(2, case.b).cast(dtype).unwrap());
            for op in [Arith::Add, Arith::Sub, Arith::Mul, Arith::Div] {
                for (x, y) in [(&a, &b), (&b, &a)] {
                    let got = arith::forward(op, x, y).unwrap();
                    let want = arith::reference::apply(op, &wide(x), x.shape(), &wide(y), y.shape(), got.shape());
                    assert_bounded(case.name, &data(&got), &rounded(want, 1), dtype);
                }
            }
        }
    }
    let e = arith::forward(Arith::Add, &noise(1, &[2, 3]), &noise(1, &[2, 2])).unwrap_err();
    assert_eq!(e.to_string(), "add: `b` must be equal to [2 3] or 1 on every axis, but it is [2 2]");
    let e = arith::forward(Arith::Mul, &noise(1, &[2, 3]), &noise(1, &[3])).unwrap_err();
    assert_eq!(e.to_string(), "mul: `b` must be of the rank of a, [2 3], but it is [3]");
}

#[test]
fn arithmetic_gradients_have_gradients() {
    let inputs = [noise(1, &[3, 1, 4]), positive(2, &[1, 2, 4])];
    for op in [Arith::Mul, Arith::Div] {
        assert_second_order(
            op.name(),
            &inputs,
            |t, v| if op == Arith::Mul { ops::mul(t, &v[0], &v[1]) } else { ops::div(t, &v[0], &v[1]) },
            |v, dy| {
                let (mut da, mut db) = (vec![0.0; v[0].len()], vec![0.0; v[1].len()]);
                for (i, d) in dy.iter().enumerate() {
                    let (p, q) = (i / 8 * 4 + i % 4, i % 8); // in [3 1 4] and in [1 2 4], of [3 2 4]
                    let (a, b) = (v[0][p], v[1][q]);
                    let (sa, sb) = if op == Arith::Mul { (b, a) } else { (1.0 / b, -a / (b * b)) };
                    da[p] += d * sa;
                    db[q] += d * sb;
                }
                vec![da, db]
            },
        );
    }
}

#[test]
fn gradients_keep_the_number_type_of_their_inputs() {
    let inputs = [noise(1, &[4, 3]).cast(DType::BF16).unwrap(), positive(2, &[1, 3])];
    for f in [ops::add, ops::sub, ops::mul, ops::div] {
        let g = assert_keep_is_free("mixed types", &inputs, 1e-6, |t, v| f(t, &v[0], &v[1]));
        assert_eq!((g[0].dtype(), g[1].dtype()), (DType::BF16, DType::F32));
    }
    let inputs = [noise(1, &[4, 3]).cast(DType::BF16).unwrap(), noise(2, &[2, 3]), noise(3, &[2])];
    let g = assert_keep_is_free("linear", &inputs, 1e-6, |t, v| ops::linear(t, &v[0], &v[1], Some(&v[2])));
    assert_eq!([0, 1, 2].map(|i| g[i].dtype()), [DType::BF16, DType::F32, DType::F32]);
}

#[test]
fn sums_meet_their_definition_and_are_adjoint_to_repetition() {
    for case in reduce::cases::CASES {
        let (from, to) = (Shape::new(case.from), Shape::new(case.to));
        for dtype in DTYPES {
            let a = noise(1, case.from).cast(dtype).unwrap();
            let y = reduce::sum_to_forward(&a, to).unwrap();
            assert_bounded(case.name, &data(&y), &reduce::reference::sum_to(&wide(&a), from, to), dtype);
            let b = noise(2, case.to).cast(dtype).unwrap();
            let wide_again = reduce::broadcast_to_forward(&b, from).unwrap();
            assert_eq!(wide(&wide_again), reduce::reference::broadcast_to(&wide(&b), to, from), "{}", case.name);
        }
        let sum = |x: &Tensor| reduce::sum_to_forward(x, to);
        assert_adjoint(case.name, case.from, case.to, sum, |y| reduce::broadcast_to_forward(y, from));
    }
    let e = reduce::sum_to_forward(&noise(1, &[4, 3]), Shape::new(&[2, 3])).unwrap_err();
    assert_eq!(e.to_string(), "sum_to: `shape` must be [4 3] with some extents 1, but it is [2 3]");
}

#[test]
fn functions_and_their_slopes_are_right() {
    for f in [Unary::Exp, Unary::Ln, Unary::Sqrt, Unary::Recip] {
        for case in unary::cases::CASES {
            for dtype in DTYPES {
                let x = positive(1, &[case.len]).cast(dtype).unwrap();
                let want = rounded(unary::reference::apply(f, &wide(&x)), 2);
                assert_bounded(f.name(), &data(&unary::forward(f, &x).unwrap()), &want, dtype);
            }
        }
        let (x, dy) = (wide(&positive(2, &[9])), wide(&noise(3, &[9])));
        let dx = unary::reference::backward(f, &x, &dy);
        let loss = |x: &[f64]| unary::reference::apply(f, x).iter().zip(&dy).map(|(y, d)| y * d).sum();
        assert_gradient(f.name(), &x, &dx, 1e-6, |_| false, loss);
        let recorded = |t: &Tape, v: &[Var]| match f {
            Unary::Exp => ops::exp(t, &v[0]),
            Unary::Ln => ops::ln(t, &v[0]),
            Unary::Sqrt => ops::sqrt(t, &v[0]),
            Unary::Recip => ops::recip(t, &v[0]),
        };
        let gradient = |v: &[Vec<f64>], dy: &[f64]| vec![unary::reference::backward(f, &v[0], dy)];
        assert_second_order(f.name(), &[positive(4, &[9])], recorded, gradient);
        let got = assert_keep_is_free(f.name(), &[positive(4, &[9])], 1e-6, recorded);
        let want = rounded(unary::reference::backward(f, &wide(&positive(4, &[9])), &wide(&noise(99, &[9]))), 8);
        assert_bounded(f.name(), &data(&got[0]), &want, DType::F32);
    }
}

#[test]
fn the_rectifier_and_its_mask() {
    for case in relu::cases::CASES {
        for dtype in DTYPES {
            let (x, dy) = (integers(1, &[case.len]).cast(dtype).unwrap(), noise(2, &[case.len]).cast(dtype).unwrap());
            let y = relu::forward(&x).unwrap();
            assert_eq!(wide(&y), relu::reference::relu(&wide(&x)), "{}", case.name);
            let dx = relu::backward(&dy, &y).unwrap();
            assert_eq!(wide(&dx), relu::reference::backward(&wide(&y), &wide(&dy)), "{}", case.name);
        }
    }
    let odd = Tensor::from_f32([4], &[f32::NAN, -0.0, f32::INFINITY, f32::NEG_INFINITY]).unwrap();
    let y = data(&relu::forward(&odd).unwrap());
    assert!(y[0].is_nan());
    assert_eq!(y[1..], [0.0, f32::INFINITY, 0.0]);
    assert_second_order(
        "relu",
        &[noise(5, &[17])],
        |t, v| ops::mul(t, &v[0], &ops::relu(t, &v[0])?),
        |v, dy| {
            let y = relu::reference::relu(&v[0]);
            vec![y.iter().zip(dy).map(|(y, d)| 2.0 * y * d).collect()]
        },
    );
    let e = relu::backward(&noise(1, &[3]), &noise(1, &[2])).unwrap_err();
    assert_eq!(e.to_string(), "relu: `dy` must be [2], but it is [3]");
}

/// Shapes in which `a` and `b` are stored.
fn stored([m, k, n]: [usize; 3], ta: bool, tb: bool) -> ([usize; 2], [usize; 2]) {
    (if ta { [k, m] } else { [m, k] }, if tb { [n, k] } else { [k, n] })
}

fn check_product(what: &str, extents: [usize; 3], ta: bool, tb: bool) {
    let [m, _, n] = extents;
    let (sa, sb) = stored(extents, ta, tb);
    // Exact on integers, bounded on the rest.
    let (a, b) = (integers(1, &sa), integers(2, &sb));
    let y = matmul::forward(&a, &b, ta, tb).unwrap();
    assert_eq!(wide(&y), matmul::reference::apply(extents, &wide(&a), ta, &wide(&b), tb).value, "{what}");
    for dtype in DTYPES {
        let (a, b, dy) = (noise(1, &sa).cast(dtype).unwrap(), noise(2, &sb), noise(99, &[m, n]));
        let y = matmul::forward(&a, &b, ta, tb).unwrap();
        assert_bounded(what, &data(&y), &matmul::reference::apply(extents, &wide(&a), ta, &wide(&b), tb), dtype);
        let g = assert_keep_is_free(what, &[a.clone(), b.clone()], 1e-6, |t, v| ops::matmul(t, &v[0], &v[1], ta, tb));
        let (da, db) = matmul::reference::backward(extents, &wide(&a), ta, &wide(&b), tb, &wide(&dy));
        assert_bounded(what, &data(&g[0]), &da, dtype);
        assert_bounded(what, &data(&g[1]), &db, DType::F32);
    }
}

#[test]
fn matrix_products_meet_their_definition() {
    for c in matmul::cases::CASES.iter().filter(|c| c.flops() < 1_000_000) {
        check_product(c.name, c.extents, c.ta, c.tb);
    }
    let none = matmul::forward(&Tensor::zeros([3, 0]), &Tensor::zeros([0, 2]), false, false).unwrap();
    assert_eq!(data(&none), [0.0; 6]);
    let e = matmul::forward(&noise(1, &[2, 3]), &noise(1, &[4, 2]), false, false).unwrap_err();
    assert_eq!(e.to_string(), "matmul: `b` must be of 3 rows, the inner extent of a [2 3], but it is [4 2]");
    let e = matmul::forward(&noise(1, &[2, 3, 1]), &noise(1, &[4, 2]), false, false).unwrap_err();
    assert_eq!(e.to_string(), "matmul: `a` must be a matrix (two extents), but it is [2 3 1]");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn ragged_products_meet_their_definition(m in 1usize..40, k in 1usize..70, n in 1usize..40, ta: bool, tb: bool) {
        check_product("ragged", [m, k, n], ta, tb);
    }
}

#[test]
fn products_have_gradients_of_gradients() {
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        let extents = [3, 4, 2];
        let (sa, sb) = stored(extents, ta, tb);
        assert_second_order(
            &format!("transposed {ta} {tb}"),
            &[noise(1, &sa), noise(2, &sb)],
            |t, v| ops::matmul(t, &v[0], &v[1], ta, tb),
            |v, dy| {
                let (da, db) = matmul::reference::backward(extents, &v[0], ta, &v[1], tb, dy);
                vec![da.value, db.value]
            },
        );
    }
}

#[test]
fn linear_layers_meet_their_definition() {
    for case in linear::cases::CASES.iter().filter(|c| c.flops() < 1_000_000) {
        let [n, i, o] = case.extents;
        for dtype in DTYPES {
            let (x, w, b) = (noise(1, &[n, i]).cast(dtype).unwrap(), noise(2, &[o, i]), noise(3, &[o]));
            let y = linear::forward(&x, &w, Some(&b)).unwrap();
            let want = linear::reference::linear(case.extents, &wide(&x), &wide(&w), Some(&wide(&b)));
            assert_bounded(case.name, &data(&y), &want, dtype);
            let t = Tape::new();
            let [xv, wv, bv] = [&x, &w, &b].map(|v| t.leaf(v.clone()));
            let y = ops::linear(&t, &xv, &wv, Some(&bv)).unwrap();
            let dy = noise(4, &[n, o]).cast(dtype).unwrap();
            let g = t.grad_from(&y, Var::constant(dy.clone()), &[&xv, &wv, &bv], Mode::Free).unwrap();
            let want = linear::reference::backward(case.extents, &wide(&x), &wide(&w), &wide(&dy));
            for ((g, want), stored) in g.iter().zip(&want).zip([dtype, DType::F32, DType::F32]) {
                assert_bounded(case.name, &data(g.as_ref().unwrap().value()), want, stored);
            }
        }
    }
    let (x, w) = (noise(1, &[2, 3]), noise(1, &[4, 3]));
    let e = linear::forward(&x, &noise(1, &[4, 2]), None).unwrap_err();
    assert_eq!(e.to_string(), "linear: `w` must be o i with i = 3, but it is [4 2]");
    let e = linear::forward(&x, &w, Some(&noise(1, &[3]))).unwrap_err();
    assert_eq!(e.to_string(), "linear: `b` must be [4], one per output, but it is [3]");
}

#[test]
fn thread_count_changes_no_bit() {
    let (a, b) = (noise(1, &[150, 700]), noise(2, &[260, 700]));
    let (x, c) = (noise(3, &[3001, 40]), noise(4, &[1, 40]));
    assert_same_on_any_threads("primitives", || {
        vec![
            matmul::forward(&a, &b, false, true).unwrap(),
            reduce::sum_to_forward(&x, Shape::new(&[1, 40])).unwrap(),
            reduce::sum_to_forward(&x, Shape::new(&[1, 1])).unwrap(),
            arith::forward(Arith::Mul, &x, &c).unwrap(),
            unary::forward(Unary::Exp, &x).unwrap(),
        ]
    });
}
