//! Pools compared with the speed of memory: `copy` in the same run is the cost of a pass over the input.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use std::hint::black_box;
use tubelet::ops::pool3d::{self, cases::CASES};
use tubelet::shape::Shape;
use tubelet::tensor::Tensor;

/// Numbers of both signs, unordered.
fn waves(shape: &[usize]) -> Tensor {
    let shape = Shape::new(shape);
    let data: Vec<f32> = (0..shape.len()).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_f32(shape, &data).unwrap()
}

fn pools(c: &mut Criterion) {
    for case in CASES.iter().filter(|c| c.flops() >= 1_000_000) {
        let x = waves(&case.x);
        let mut group = c.benchmark_group("pool3d");
        let name = |pass: &str| format!("{pass}/{}/f32/cpu", case.name);
        group.throughput(Throughput::Bytes(case.bytes() as u64));

        let (y, choice) = pool3d::max_forward(&x, case.kernel, &case.window).unwrap();
        group.bench_function(name("max_fwd"), |b| {
            b.iter(|| pool3d::max_forward(&x, case.kernel, &case.window).unwrap())
        });
        group.bench_function(name("max_bwd"), |b| b.iter(|| pool3d::max_backward(&y, &choice).unwrap()));
        group.bench_function(name("avg_fwd"), |b| {
            b.iter(|| pool3d::avg_forward(&x, case.kernel, &case.window).unwrap())
        });
        group.bench_function(name("avg_bwd"), |b| {
            b.iter(|| pool3d::avg_backward(&y, x.shape(), case.kernel, &case.window).unwrap());
        });
        group.bench_function(name("global_fwd"), |b| b.iter(|| pool3d::global_forward(&x).unwrap()));

        group.throughput(Throughput::Bytes(8 * x.shape().len() as u64));
        let from = x.f32().unwrap();
        let mut to = from.to_vec();
        group.bench_function(name("copy"), |b| {
            b.iter(|| {
                to.par_chunks_mut(1 << 15).zip(from.par_chunks(1 << 15)).for_each(|(t, f)| t.copy_from_slice(f));
                black_box(&mut to);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, pools);
criterion_main!(benches);
