//! Matrix products and affine layers on a GPU, against the definition.

use crate::support::close::assert_bounded;
use crate::support::numbers::{bits, drawn, real, seeded, wide};
use crate::support::sim::on_gpu;
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
            on_gpu(|device| {
                let (a, b) = (a.to(device).unwrap(), b.to(device).unwrap());
                let y = matmul::forward_as(yt, &a, &b, ta, tb).unwrap();
                assert_eq!((y.dtype(), y.shape()), (yt, Shape::from([m, n])));
                assert_bounded(&format!("{m} {k} {n} {ta} {tb} {at:?} {bt:?}"), &y.load().unwrap(), &want, yt);
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
            on_gpu(|device| {
                let [x, w, b] = [&x, &w, &b].map(|t| t.to(device).unwrap());
                let y = linear::forward(&x, &w, Some(&b)).unwrap();
                assert_bounded(c.name, &y.load().unwrap(), &want, dtype);
                bits(&y)
            });
        }
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
