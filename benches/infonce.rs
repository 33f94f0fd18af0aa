//! InfoNCE over the problem table: the loss alone, and the loss with its gradient (one sweep over the queue).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tubelet::ops::infonce::{cases::CASES, forward, forward_backward};
use tubelet::ssl::queue::Queue;

fn infonce(c: &mut Criterion) {
    for case in CASES {
        let codes = |rows: usize, which: u64| Queue::random(rows, case.d, 0, which).map(|q| q.keys().clone());
        let (Ok(q), Ok(k), Ok(queue)) = (codes(case.n, 0), codes(case.n, 1), codes(case.m, 2)) else { continue };
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
