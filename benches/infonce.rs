//! InfoNCE over the problem table: the loss alone, and the loss with its gradient (one pass over the queue).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::RngExt;
use std::hint::black_box;
use tubelet::error::Result;
use tubelet::ops::infonce::{cases::CASES, forward, forward_backward};
use tubelet::ops::l2_norm;
use tubelet::rng::{Purpose, stream};
use tubelet::tensor::Tensor;

fn codes(n: usize, d: usize, which: u64) -> Result<Tensor> {
    let mut rng = stream(0, 0, which, Purpose::Test);
    let values: Vec<f32> = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
    l2_norm::forward(&Tensor::from_f32([n, d], &values)?)
}

fn infonce(c: &mut Criterion) {
    for case in CASES {
        let (q, k) = (codes(case.n, case.d, 0).expect("a matrix"), codes(case.n, case.d, 1).expect("a matrix"));
        let queue = codes(case.m, case.d, 2).expect("a matrix");
        let mut group = c.benchmark_group("infonce");
        group.sample_size(10).throughput(Throughput::Elements(case.flops()));
        group.bench_function(format!("fwd/{}/f32/cpu", case.name), |b| {
            b.iter(|| black_box(forward(&q, &k, &queue, case.tau)))
        });
        group.bench_function(format!("fwd_bwd/{}/f32/cpu", case.name), |b| {
            b.iter(|| black_box(forward_backward(&q, &k, &queue, case.tau)))
        });
        group.finish();
    }
}

criterion_group!(benches, infonce);
criterion_main!(benches);
