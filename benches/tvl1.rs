//! TV-L1 flow with default parameters: `pair` is one pair on one thread, `pair_rows` one pair with its rows shared
//! between all threads, `pairs` as many pairs as there are threads, one on each (divide by their number for the time
//! per pair). `RAYON_NUM_THREADS` sets the number; `cargo xtask versus --only tvl1` compares with OpenCV on the same
//! images.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tubelet::ops::tvl1::{self, Tvl1, Workspace, cases::CASES};

fn tvl1_flow(c: &mut Criterion) {
    let p = Tvl1::default();
    let threads = rayon::current_num_threads();
    let mut group = c.benchmark_group("tvl1");
    group.sample_size(10);
    for case in CASES.iter().filter(|c| c.h >= 64) {
        let (a, b) = case.pair();
        let name = |pass: &str| format!("{pass}/{}/f32/cpu", case.name);
        group.throughput(Throughput::Elements(1));
        let mut workspace = Workspace::new();
        group.bench_function(name("pair"), |bench| bench.iter(|| workspace.flow(&a, &b, &p).unwrap()));
        group.bench_function(name("pair_rows"), |bench| bench.iter(|| tvl1::flow(&a, &b, &p).unwrap()));
        group.throughput(Throughput::Elements(threads as u64));
        let pairs = vec![(&a, &b); threads];
        group.bench_function(name("pairs"), |bench| bench.iter(|| tvl1::flow_pairs(&pairs, &p).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, tvl1_flow);
criterion_main!(benches);
