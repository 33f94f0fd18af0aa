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

/// `rounds` fused multiply-adds in each of [`SUMS`] registers, and how many numbers a register holds.
#[cfg(target_arch = "x86_64")]
mod chains {
    use super::SUMS;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn avx512(rounds: usize) -> f32 {
        let factor = _mm512_set1_ps(0.999);
        let mut sums = [factor; SUMS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, factor, factor));
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(rounds: usize) -> f32 {
        let factor = _mm256_set1_ps(0.999);
        let mut sums = [factor; SUMS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, factor, factor));
        }
        sums.iter().map(|&sum| _mm256_cvtss_f32(sum)).sum()
    }
}

/// Runs `rounds` of multiply-adds; how many numbers took part in each.
fn probe(rounds: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: detected.
            black_box(unsafe { chains::avx512(rounds) });
            return 16 * SUMS;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: detected.
            black_box(unsafe { chains::avx2(rounds) });
            return 8 * SUMS;
        }
    }
    let mut sums = [0.5f32; 4 * SUMS];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = *sum * 0.999 + 0.999);
    }
    black_box(sums);
    4 * SUMS
}

/// Operations per second of all threads together, the best of several tries.
fn peak() -> f64 {
    let rounds = 400_000;
    let run = || {
        let start = Instant::now();
        let numbers: usize = rayon::broadcast(|_| probe(black_box(rounds))).iter().sum();
        (2 * rounds * numbers) as f64 / start.elapsed().as_secs_f64()
    };
    (0..10).map(|_| run()).fold(0.0, f64::max)
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
