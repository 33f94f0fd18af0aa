//! Batch norm compared with the speed of memory: `copy` in the same run is the cost of a pass over memory.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tubelet::ops::{self, batch_norm::Stats, batch_norm::cases::CASES};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Tensor};

/// Numbers of both signs, so that ReLU has an effect.
fn waves(shape: [usize; 2]) -> Tensor {
    let data: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_f32(shape, &data).unwrap()
}

fn batch_norm(c: &mut Criterion) {
    for case in CASES.iter().filter(|c| c.len() >= 100_000) {
        let p = case.rows;
        let shape = [p.parts * p.rows, p.c];
        let (gamma, beta) = (Tensor::full([p.c], 1.0), Tensor::full([p.c], 0.1));
        for dtype in [DType::F32, DType::BF16] {
            let (x, dy) = (waves(shape).cast(dtype).unwrap(), waves(shape).cast(dtype).unwrap());
            let width = if dtype == DType::F32 { 4 } else { 2 };
            let mut group = c.benchmark_group("batch_norm");
            let name = |pass: &str| format!("{pass}/{}/{}/cpu", case.name, dtype.name());

            group.throughput(Throughput::Bytes((case.bytes() / 4 * width) as u64));
            for (pass, residual, relu) in [("fwd", false, false), ("fwd_residual_relu", true, true)] {
                let t = Tape::no_grad();
                let [x, g, b] = [&x, &gamma, &beta].map(|v| Var::constant(v.clone()));
                group.bench_function(name(pass), |bench| {
                    bench.iter(|| {
                        let stats = Stats::Batch { parts: p.parts };
                        ops::batch_norm(&t, &x, &g, &b, stats, 1e-5, residual.then_some(&x), relu).unwrap()
                    });
                });
            }

            group.throughput(Throughput::Bytes((case.bytes_backward() / 4 * width) as u64));
            let t = Tape::new();
            let [xv, g, b] = [&x, &gamma, &beta].map(|v| t.leaf(v.clone()));
            let stats = Stats::Batch { parts: p.parts };
            group.bench_function(name("bwd_relu"), |bench| {
                bench.iter_batched(
                    || ops::batch_norm(&t, &xv, &g, &b, stats, 1e-5, None, true).unwrap().0,
                    |y| t.grad_from(&y, Var::constant(dy.clone()), &[&xv, &g, &b], Mode::Free).unwrap(),
                    criterion::BatchSize::PerIteration,
                );
            });

            // A copy reads and writes: two passes over memory.
            group.throughput(Throughput::Bytes((2 * case.len() * width) as u64));
            let from = vec![1u8; case.len() * width];
            let mut to = from.clone();
            group.bench_function(name("copy"), |bench| {
                bench.iter(|| {
                    use rayon::prelude::*;
                    to.par_chunks_mut(1 << 17).zip(from.par_chunks(1 << 17)).for_each(|(t, f)| t.copy_from_slice(f));
                    black_box(&mut to);
                });
            });
            group.finish();
        }
    }
}

criterion_group!(benches, batch_norm);
criterion_main!(benches);
