//! The three passes over real layers, in multiply-adds counted twice per second, and as a share of what this machine's
//! arithmetic units do in the same process. `benches/peers/conv3d.py` runs the same table in PyTorch.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tubelet::ops::conv3d::{cases::LAYERS, dgrad, fprop, wgrad};
use tubelet::shape::Shape;
use tubelet::tensor::Tensor;

/// Independent sums: enough to keep two pipelines of four steps busy.
const SUMS: usize = 16;

/// `rounds` fused multiply-adds in each lane of each sum.
#[inline(always)]
fn chains(rounds: usize) -> f32 {
    let mut sums = [[0.5f32; 16]; SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            for v in sum {
                *v = v.mul_add(0.999, 0.999);
            }
        }
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_avx512(rounds: usize) -> f32 {
    chains(rounds)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_avx2(rounds: usize) -> f32 {
    chains(rounds)
}

fn probe(rounds: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: detected.
            return unsafe { chains_avx512(rounds) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: detected.
            return unsafe { chains_avx2(rounds) };
        }
    }
    chains(rounds)
}

/// Operations per second of all threads together, the best of several tries.
fn peak() -> f64 {
    let rounds = 400_000;
    let run = || {
        let start = Instant::now();
        rayon::broadcast(|_| black_box(probe(black_box(rounds))));
        start.elapsed().as_secs_f64()
    };
    let best = (0..10).map(|_| run()).fold(f64::MAX, f64::min);
    (2 * 16 * SUMS * rounds * rayon::current_num_threads()) as f64 / best
}

fn waves(shape: Shape) -> Tensor {
    let data: Vec<f32> = (0..shape.len()).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_f32(shape, &data).unwrap()
}

fn conv3d(c: &mut Criterion) {
    let peak = peak();
    println!("peak {:.0} GFLOP/s", peak * 1e-9);
    let mut group = c.benchmark_group("conv3d");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    for case in LAYERS {
        let p = case.problem();
        let g = p.geometry;
        let (x, w, dy) = (waves(p.x_shape()), waves(p.w_shape()), waves(p.y_shape()));
        group.throughput(Throughput::Elements(p.flops()));
        for pass in ["fprop", "dgrad", "wgrad"] {
            let mut best = Duration::MAX;
            group.bench_function(BenchmarkId::new(pass, format!("{}/f32/cpu", case.name)), |b| {
                b.iter_custom(|runs| {
                    let mut total = Duration::ZERO;
                    for _ in 0..runs {
                        let start = Instant::now();
                        black_box(match pass {
                            "fprop" => fprop(&x, &w, &g),
                            "dgrad" => dgrad(&dy, &w, p.x_shape(), &g),
                            _ => wgrad(&x, &dy, p.w_shape(), &g),
                        })
                        .unwrap();
                        let took = start.elapsed();
                        best = best.min(took);
                        total += took;
                    }
                    total
                });
            });
            if best < Duration::MAX {
                let rate = p.flops() as f64 / best.as_secs_f64();
                println!("    best {:.0} GFLOP/s, {:.0} % of peak", rate * 1e-9, 100.0 * rate / peak);
            }
        }
    }
}

criterion_group!(benches, conv3d);
criterion_main!(benches);
