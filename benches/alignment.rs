//! Channel maps with their gradients, and alignment losses with both derivatives, over the problem table: the released
//! form, in which both arguments of the map are the same gradient.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::RngExt;
use std::hint::black_box;
use tubelet::ops::alignment::cases::{BATCH, CASES};
use tubelet::ops::alignment::{
    Cosines, backward, double_backward, forward, map_backward_f, map_backward_g, map_forward,
};
use tubelet::rng::{Purpose, stream};
use tubelet::shape::Shape;
use tubelet::tensor::Tensor;

fn noise(shape: impl Into<Shape>, which: u64) -> Tensor {
    let (shape, mut rng) = (shape.into(), stream(0, 0, which, Purpose::Test));
    let values: Vec<f32> = (0..shape.len()).map(|_| rng.random_range(0.0..1.0)).collect();
    Tensor::from_f32(shape, &values).expect("as many numbers as the shape has")
}

fn alignment(c: &mut Criterion) {
    let how = Cosines::default();
    for case in CASES.iter().chain([&BATCH]) {
        let (g, d) = (noise(case.x, 0), noise(case.map(), 1));
        let (y, u, one) = (noise(case.map(), 2), noise(case.map(), 3), Tensor::scalar(1.0));
        let mut group = c.benchmark_group("alignment");
        group.sample_size(10).throughput(Throughput::Bytes(case.bytes()));
        let name = |pass: &str| format!("{pass}/{}/f32/cpu", case.name);
        group.bench_function(name("map_fwd"), |b| b.iter(|| black_box(map_forward(&g, &g))));
        group.bench_function(name("map_bwd"), |b| {
            b.iter(|| black_box((map_backward_f(&g, &d), map_backward_g(&d, &g))))
        });
        group.bench_function(name("loss"), |b| b.iter(|| black_box(forward(&d, &y, &how))));
        group.bench_function(name("loss_bwd"), |b| b.iter(|| black_box(backward(&d, &y, &how, &one))));
        group.bench_function(name("loss_bwd2"), |b| b.iter(|| black_box(double_backward(&d, &y, &how, &one, &u))));
        group.finish();
    }
}

criterion_group!(benches, alignment);
criterion_main!(benches);
