//! Augmentation of a clip on one thread, frames and motion, with everything enabled.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tubelet::augment::{AugmentSpec, Draw, MotionKind, apply_motion, apply_rgb};
use tubelet::rng::{Purpose, stream};

/// Name, RGB frames, motion maps, source `h w`, side of the result.
const CASES: [(&str, usize, usize, [usize; 2], usize); 2] =
    [("small", 8, 16, [128, 128], 64), ("paper", 8, 16, [256, 340], 224)];

fn augment(c: &mut Criterion) {
    let spec = AugmentSpec { jitter: 1.0, grey: 1.0, blur: 1.0, ..AugmentSpec::default() };
    for (name, t, t_motion, [h, w], side) in CASES {
        let draw = Draw::sample(&mut stream(0, 0, 0, Purpose::Test), &spec, h, w);
        let frame: Vec<u8> = (0..h * w * 3).map(|i| (i * 7) as u8).collect();
        let (frames, map) = (vec![frame.as_slice(); t], vec![0.5f32; h * w]);
        let planes = vec![map.as_slice(); t_motion];
        let mut out = vec![0.0; t.max(t_motion) * side * side * 3];
        let mut group = c.benchmark_group("augment");
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("rgb/{name}/f32/cpu"), |b| {
            let out = &mut out[..t * side * side * 3];
            b.iter(|| apply_rgb(black_box(&frames), h, w, &draw, side, out));
        });
        group.bench_function(format!("motion/{name}/f32/cpu"), |b| {
            let out = &mut out[..t_motion * side * side];
            b.iter(|| apply_motion(black_box(&planes), 1, MotionKind::Map, [h, w], &draw, side, out));
        });
    }
}

criterion_group!(benches, augment);
criterion_main!(benches);
