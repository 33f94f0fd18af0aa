//! The three passes of the distinct convolutions of five networks and of the layers of the small ones, in each
//! precision: operations per second (a multiply-add counts as two), and the fraction of the peak that is measured in
//! the same process. `cargo xtask versus --only conv3d` compares the same layers with PyTorch.

#[path = "versus/clock.rs"]
mod clock;
#[path = "versus/layers.rs"]
mod layers;
#[path = "versus/nets.rs"]
mod nets;
#[path = "versus/peaks.rs"]
mod peaks;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tubelet::nn::Precision;
use tubelet::ops::conv3d::{Conv3d, cases::LAYERS, dgrad, fprop, wgrad};
use tubelet::shape::Shape;
use tubelet::tensor::Tensor;

fn waves(shape: Shape, precision: Precision) -> Tensor {
    let data: Vec<f32> = (0..shape.len()).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_f32(shape, &data).and_then(|t| t.cast(precision.dtype())).unwrap()
}

/// Name, problem, and the passes that training needs.
fn layers() -> Vec<(String, Conv3d, &'static [&'static str])> {
    const PASSES: &[&str] = &["fprop", "wgrad", "dgrad"];
    let networks = layers::distinct(&layers::convolutions()).into_iter().map(|l| {
        let name = format!("{}-in-{}-places", l.name, l.places);
        (name, l.problem, if l.stem { &PASSES[..2] } else { PASSES })
    });
    let small = LAYERS.iter().filter(|c| c.name.starts_with("small")).map(|c| (c.name.to_owned(), c.problem(), PASSES));
    networks.chain(small).collect()
}

fn conv3d(c: &mut Criterion) {
    let peaks = peaks::Peaks::probe(clock::Clock::new(false));
    println!(
        "peak of f32 {:.0} GFLOP/s, of bf16 {:.0}, copy {:.1} GB/s",
        peaks.f32 * 1e-9,
        peaks.bf16 * 1e-9,
        peaks.copy * 1e-9
    );
    let mut group = c.benchmark_group("conv3d");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    for (name, p, passes) in layers() {
        group.throughput(Throughput::Elements(p.flops()));
        for precision in [Precision::F32, Precision::Bf16x3, Precision::Bf16] {
            let g = p.geometry().with(precision.products());
            let products = if precision == Precision::Bf16x3 { 3.0 } else { 1.0 };
            let peak = if precision == Precision::F32 { peaks.f32 } else { peaks.bf16 / products };
            let mut operands = None;
            for &pass in passes {
                let mut best = Duration::MAX;
                group.bench_function(BenchmarkId::new(pass, format!("{name}/{precision}/cpu")), |b| {
                    let [x, w, dy] = operands.get_or_insert_with(|| {
                        [p.x_shape(), p.w_shape(), p.y_shape()].map(|shape| waves(shape, precision))
                    });
                    b.iter_custom(|runs| {
                        let mut total = Duration::ZERO;
                        for _ in 0..runs {
                            let start = Instant::now();
                            black_box(match pass {
                                "fprop" => fprop(x, w, &g),
                                "dgrad" => dgrad(dy, w, p.x_shape(), &g),
                                _ => wgrad(x, dy, p.w_shape(), &g),
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
}

criterion_group!(benches, conv3d);
criterion_main!(benches);
