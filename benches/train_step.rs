//! A complete training step of five networks: forward, cross-entropy, backward, SGD, in each precision. Throughput is
//! in clips. `cargo xtask versus --only train_step` compares the same steps with PyTorch's.

#[path = "versus/nets.rs"]
mod nets;
#[path = "versus/step.rs"]
mod step;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use step::Step;
use tubelet::nn::Precision;
use tubelet::tensor::{Tensor, memory};

const CLIPS: usize = 2;

fn train_step(c: &mut Criterion) {
    let mut group = c.benchmark_group("train_step");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(15));
    group.throughput(Throughput::Elements(CLIPS as u64));
    for (name, net, [t, h, w]) in nets::nets() {
        for precision in [Precision::F32, Precision::Bf16x3, Precision::Bf16] {
            let mut step = None;
            group.bench_function(format!("{name}/{CLIPS}x{t}x{h}x{w}/{precision}/cpu"), |bench| {
                let step = step.get_or_insert_with(|| {
                    let data: Vec<f32> = (0..CLIPS * t * h * w * 3).map(|i| (i as f32 * 0.7).sin()).collect();
                    let clips = Tensor::from_f32([CLIPS, t, h, w, 3], &data).unwrap();
                    Step::new(&net, clips, precision).unwrap()
                });
                bench.iter(|| step.run().unwrap());
            });
            // Not created if a filter excludes the case.
            if let Some(mut step) = step {
                memory::reset_peak();
                step.run().unwrap();
                let [peak, held] = [memory::usage().peak, memory::usage().held].map(|bytes| bytes as f64 / 1e6);
                println!("  memory: at most {peak:.0} MB in use by tensors, {held:.0} MB held");
            }
        }
    }
    group.finish();
}

criterion_group!(benches, train_step);
criterion_main!(benches);
