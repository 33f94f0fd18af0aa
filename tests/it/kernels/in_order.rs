//! Rows added one after another: against the definition, and to the bit against as many additions of tensors.

use crate::support::close::assert_bounded;
use crate::support::grad::assert_same_on_any_threads;
use crate::support::numbers::{bits, data, noise, wide};
use crate::support::sim::{Sim, on_gpu};
use proptest::prelude::*;
use ptxsim::Order;
use tubelet::ops::arith::{self, Arith};
use tubelet::ops::reduce::{self, cases};
use tubelet::tensor::{DType, Device, Tensor};

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Numbers from 1e-4 to 1e4, so that the order of additions decides the bits.
fn numbers(rows: usize, n: usize) -> Tensor {
    let scale = |i: usize| 10f32.powi((i * 7919 % 9) as i32 - 4);
    let numbers: Vec<f32> = data(&noise(3, &[rows, n])).iter().enumerate().map(|(i, v)| v * scale(i)).collect();
    Tensor::from_f32([rows, n], &numbers).unwrap()
}

/// The sums of every pair of types.
fn added(device: &Device, what: &str, rows: usize, n: usize) -> Vec<Vec<u32>> {
    let mut seen = Vec::new();
    for from in DTYPES {
        let x = numbers(rows, n).cast(from).unwrap();
        let definition = reduce::reference::in_order(&wide(&x), rows);
        let full = x.cast(DType::F32).unwrap();
        let step = |sum: Tensor, row: usize| arith::forward(Arith::Add, &sum, &full.rows(&[row]).unwrap()).unwrap();
        let alone = (1..rows).fold(full.rows(&[0]).unwrap(), step);
        for to in DTYPES {
            let y = reduce::in_order(&x.to(device).unwrap(), to).unwrap();
            assert_eq!((y.dims(), y.dtype()), (&[n][..], to), "{what}");
            assert_bounded(what, &data(&y), &definition, to);
            assert_eq!(bits(&y), bits(&alone.cast(to).unwrap()), "{what}: {} to {}", from.name(), to.name());
            seen.push(bits(&y));
        }
    }
    seen
}

#[test]
fn rows_are_added_one_after_another() {
    for (what, rows, n) in cases::IN_ORDER {
        added(&Device::Cpu, what, *rows, *n);
    }
    for dims in [&[][..], &[0, 4]] {
        let e = reduce::in_order(&Tensor::zeros(tubelet::shape::Shape::new(dims)), DType::F32).unwrap_err();
        assert!(e.to_string().starts_with("in_order: `x` must be rows, at least one"), "{e}");
    }
    let x = numbers(5, 100_003);
    assert_same_on_any_threads("in_order", || vec![reduce::in_order(&x, DType::F32).unwrap()]);
}

#[test]
pub fn rows_are_added_one_after_another_on_a_device() {
    on_gpu(|device| cases::IN_ORDER.iter().map(|(what, rows, n)| added(device, what, *rows, *n)).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_rows_are_added_in_order(rows in 1usize..12, n in 0usize..3000, seed in 0u64..1000) {
        added(&Device::Cpu, "any", rows, n);
        added(&Sim::new(Order::Shuffled(seed)).device(), "any on a device", rows, n);
    }
}
