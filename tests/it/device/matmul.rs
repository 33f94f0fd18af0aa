//! Matrix products and affine layers on a GPU, against the definition.

use crate::support::close::{assert_bounded, assert_tensor_cores};
use crate::support::numbers::{bits, drawn, real, seeded, wide};
use crate::support::sim::{Sim, on_gpu, on_tensor_cores};
use ptxsim::Order;
use tubelet::ops::{linear, matmul};
use tubelet::shape::Shape;
use tubelet::tensor::{DType, Tensor};

fn reals(seed: u64, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    drawn(&mut seeded(seed), shape, real).cast(dtype).unwrap()
}

const TYPES: [(DType, DType, DType); 5] = {
    let (f, b) = (DType::F32, DType::BF16);
    [(f, f, f), (b, b, b), (b, b, f), (f, b, f), (b, f, b)]
};

#[test]
pub fn products() {
    let small = matmul::cases::CASES.iter().filter(|c| c.flops() < 1_000_000);
    let table = small.map(|c| (c.extents, c.ta, c.tb));
    let more = [(false, false), (false, true), (true, false), (true, true)].map(|(ta, tb)| ([40, 72, 50], ta, tb));
    for ([m, k, n], ta, tb) in table.chain(more) {
        for (at, bt, yt) in TYPES {
            let a = reals(1, if ta { [k, m] } else { [m, k] }, at);
            let b = reals(2, if tb { [n, k] } else { [k, n] }, bt);
            let want = matmul::reference::apply([m, k, n], &wide(&a), ta, &wide(&b), tb);
            let hold = if (at, bt) == (DType::BF16, DType::BF16) { assert_tensor_cores } else { assert_bounded };
            on_tensor_cores(|device| {
                let (a, b) = (a.to(device).unwrap(), b.to(device).unwrap());
                let y = matmul::forward_as(yt, &a, &b, ta, tb).unwrap();
                assert_eq!((y.dtype(), y.shape()), (yt, Shape::from([m, n])));
                hold(&format!("{m} {k} {n} {ta} {tb} {at:?} {bt:?}"), &y.load().unwrap(), &want, yt);
                bits(&y)
            });
        }
    }
}

#[test]
pub fn affine_layers() {
    for c in linear::cases::CASES.iter().filter(|c| c.flops() < 5_000_000) {
        let [n, i, o] = c.extents;
        for dtype in [DType::F32, DType::BF16] {
            let (x, w, b) = (reals(3, [n, i], dtype), reals(4, [o, i], dtype), reals(5, [o], DType::F32));
            let want = linear::reference::linear(c.extents, &wide(&x), &wide(&w), Some(&wide(&b)));
            let hold = if dtype == DType::BF16 { assert_tensor_cores } else { assert_bounded };
            on_tensor_cores(|device| {
                let [x, w, b] = [&x, &w, &b].map(|t| t.to(device).unwrap());
                let y = linear::forward(&x, &w, Some(&b)).unwrap();
                hold(c.name, &y.load().unwrap(), &want, dtype);
                bits(&y)
            });
        }
    }
}

/// Rows, inputs and outputs for which the plan takes each tile, with columns that fill no tile, and the kernel.
const TILES: [([usize; 3], DType, &str); 6] = [
    ([16960, 8, 45], DType::BF16, "conv3d_fprop_256x128_bf16"),
    ([8448, 8, 200], DType::BF16, "conv3d_fprop_128x128_bf16"),
    ([4288, 8, 70], DType::BF16, "conv3d_fprop_128x64_bf16"),
    ([200, 24, 203], DType::BF16, "conv3d_fprop_64x64_bf16"),
    ([140, 3, 70], DType::BF16, "conv3d_fprop_stem_bf16"),
    ([70, 9, 131], DType::F32, "conv3d_fprop_exact_f32"),
];

/// Every column gets its own bias, in each tile: biases of any two columns differ by more than the products' sum.
#[test]
pub fn a_bias_of_its_own_for_every_column() {
    for ([n, i, o], dtype, entry) in TILES {
        let (x, w) = (reals(6, [n, i], dtype), reals(7, [o, i], dtype));
        let bias: Vec<f32> = (0..o).map(|c| (2 * i * (c + 1)) as f32 * if c % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let bias = Tensor::from_f32([o], &bias).unwrap();
        let want = linear::reference::linear([n, i, o], &wide(&x), &wide(&w), Some(&wide(&bias)));
        let hold = if dtype == DType::BF16 { assert_tensor_cores } else { assert_bounded };
        let sim = Sim::new(Order::Forward);
        let [x, w, b] = [&x, &w, &bias].map(|t| t.to(&sim.device()).unwrap());
        let y = linear::forward(&x, &w, Some(&b)).unwrap();
        let launched: Vec<String> = sim.machine.totals().into_keys().filter(|name| name.contains("fprop")).collect();
        assert_eq!(launched, [entry], "{n} {i} {o}: the plan takes another tile");
        hold(entry, &y.load().unwrap(), &want, dtype);
    }
}

#[test]
fn products_of_nothing() {
    on_gpu(|device| {
        let empty = |shape: [usize; 2]| Tensor::zeros(shape).to(device).unwrap();
        let y = matmul::forward(&empty([3, 0]), &empty([0, 2]), false, false).unwrap();
        assert_eq!(wide(&y), [0.0; 6]);
        let b = Tensor::from_f32([2], &[1.0, 2.0]).unwrap().to(device).unwrap();
        let y = linear::forward(&empty([2, 0]), &empty([2, 0]), Some(&b)).unwrap();
        assert_eq!(wide(&y), [1.0, 2.0, 1.0, 2.0]);
        assert!(matmul::forward(&empty([0, 3]), &empty([3, 2]), false, false).unwrap().shape().is_empty());
    });
}
