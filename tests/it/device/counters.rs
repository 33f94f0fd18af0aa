//! What kernels do on real layers, counted by the simulator: instructions, sectors of global memory, bank conflicts. The
//! counts are committed (`tests/fixtures/counters.csv`), printed by `cargo xtask kernels`, and may not grow.
//!
//! `TUBELET_WRITE_COUNTERS=1 cargo test counters` writes them anew: a line for each kernel in a case, sorted. After a conflict in
//! a merge, take either side and write them anew.

#[path = "../../../benches/gpu/cases.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
pub mod cases;

use crate::support::sim::Sim;
use ptxsim::{Counters, Order};
use std::collections::BTreeMap;
use tubelet::ops::unary::{self, Unary};
use tubelet::ops::{arith, reduce, relu, sgd};
use tubelet::tensor::{DType, Tensor};

/// Cases of `benches/gpu`, at the tables' own batch.
const CHOSEN: &[&str] = &[
    "alignment/map_fwd/p3d-50/f32",
    "alignment/map_bwd/p3d-50/f32",
    "alignment/loss_bwd/p3d-50/f32",
    "conv3d/fprop/r21d-2s/bf16",
    "conv3d/dgrad/r21d-2s/bf16",
    "conv3d/wgrad/r21d-2s/bf16",
    "conv3d/fprop/r21d-2t/bf16",
    "conv3d/dgrad/r21d-2t/bf16",
    "conv3d/wgrad/r21d-2t/bf16",
    "conv3d/fprop/slow-2c/bf16",
    "conv3d/dgrad/slow-2c/bf16",
    "conv3d/wgrad/slow-2c/bf16",
    "conv3d/fprop/slow-3b-down/bf16",
    "conv3d/dgrad/slow-3b-down/bf16",
    "conv3d/fprop/slow-5b/bf16",
    "conv3d/wgrad/slow-5b/bf16",
    "conv3d/fprop/r21d-3t/f32",
    "batch_norm/fwd_relu/r21d-2s/bf16",
    "batch_norm/bwd_relu/r21d-2s/bf16",
    "batch_norm/fwd_relu/r21d-2s/f32",
    "l2_norm/fwd/codes/f32",
    "l2_norm/bwd/codes/f32",
    "infonce/fwd_bwd/paper-256/bf16",
    "pool3d/max_fwd/stem/bf16",
    "pool3d/max_bwd/stem/bf16",
];

/// Work that is counted though no peer is timed on it: its name, and what makes its inputs.
fn elementwise() -> Vec<(&'static str, cases::Make)> {
    fn make(dtype: DType, run: impl Fn(&Tensor) -> tubelet::error::Result<Tensor> + Copy + 'static) -> cases::Make {
        Box::new(move |device| {
            let x = cases::random([4096, 64], dtype, device, 1)?;
            Ok(Box::new(move || {
                let x = x.clone();
                Ok(Box::new(move || Ok(run(&x)?.device())))
            }))
        })
    }
    let sum = |to: [usize; 2]| move |x: &Tensor| reduce::sum_to_forward(x, to.into());
    let descent = |x: &Tensor| {
        let fresh = |dtype: DType| arith::scale_forward(x, 0.5)?.cast(dtype);
        let [mut w, mut v, mut key] = [fresh(DType::F32)?, fresh(DType::F32)?, fresh(DType::F32)?];
        let [mut half, mut key_half] = [fresh(DType::BF16)?, fresh(DType::BF16)?];
        let step = sgd::Update {
            w: sgd::Weights::Trained(&mut w),
            update: Some((x, &mut v, true)),
            key: Some(&mut key),
            half: Some(&mut half),
            key_half: Some(&mut key_half),
        };
        sgd::update_all(&sgd::Sgd::default(), sgd::Rate::Value(0.1), 0.99, None, &mut [step])?;
        Ok(w)
    };
    vec![
        ("unary/exp/256k/f32", make(DType::F32, |x| unary::forward(Unary::Exp, x))),
        ("unary/exp/256k/bf16", make(DType::BF16, |x| unary::forward(Unary::Exp, x))),
        ("relu/fwd/256k/bf16", make(DType::BF16, relu::forward)),
        ("relu/bwd/256k/bf16", make(DType::BF16, |x| relu::backward(x, x))),
        ("cast/narrow/256k/f32", make(DType::F32, |x| x.cast(DType::BF16))),
        ("cast/widen/256k/bf16", make(DType::BF16, |x| x.cast(DType::F32))),
        ("reduce/all/256k/f32", make(DType::F32, sum([1, 1]))),
        ("reduce/channels/256k/bf16", make(DType::BF16, sum([1, 64]))),
        ("reduce/rows/256k/bf16", make(DType::BF16, sum([4096, 1]))),
        ("sgd/all/256k/f32", make(DType::F32, descent)),
    ]
}

/// The committed counts, and the names of their columns.
pub const COMMITTED: &str = include_str!("../../fixtures/counters.csv");
const HEADER: &str = "kernel,case,warp_instructions,tensor_instructions,sectors,ideal_sectors,bytes,\
    shared_requests,bank_conflict_cycles";

/// What is kept of the counters of a kernel, in the order of [`HEADER`].
fn kept(c: &Counters) -> [u64; 7] {
    [
        c.warp_instructions,
        c.tensor_instructions,
        c.global_sectors_loaded + c.global_sectors_stored,
        c.ideal_sectors,
        c.global_bytes_loaded + c.global_bytes_stored,
        c.shared_requests,
        c.bank_conflict_cycles,
    ]
}

/// The counts over all launches of a kernel in a case, by `kernel,case`.
fn counted() -> BTreeMap<String, [u64; 7]> {
    let mut rows = BTreeMap::new();
    let chosen = cases::all(1).into_iter().filter(|c| CHOSEN.contains(&c.name.as_str())).map(|c| (c.name, c.make));
    for (case, make) in chosen.chain(elementwise().into_iter().map(|(name, make)| (name.into(), make))) {
        let sim = Sim::new(Order::Forward);
        let mut work = make(&sim.device()).unwrap();
        let timed = work().unwrap();
        let before = sim.machine.totals(); // of the inputs and, for a backward pass, of the forward pass
        timed().unwrap();
        for (kernel, all) in sim.machine.totals() {
            let old = before.get(&kernel).map_or([0; 7], kept);
            let mut counts = kept(&all);
            counts.iter_mut().zip(old).for_each(|(now, old)| *now -= old);
            if counts[0] > 0 {
                rows.insert(format!("{kernel},{case}"), counts);
            }
        }
    }
    rows
}

#[test]
fn kernels_do_no_more_than_was_committed() {
    let rows = counted();
    if std::env::var_os("TUBELET_WRITE_COUNTERS").is_some() {
        let line =
            |(name, counts): (&String, &[u64; 7])| format!("{name},{}\n", counts.map(|c| c.to_string()).join(","));
        let lines: String = rows.iter().map(line).collect();
        std::fs::write(crate::root().join("tests/fixtures/counters.csv"), format!("{HEADER}\n{lines}")).unwrap();
        return;
    }
    assert_eq!(COMMITTED.lines().next(), Some(HEADER));
    for (name, counts) in &rows {
        let [_, _, sectors, ideal, .., conflicts] = *counts;
        assert!(100 * sectors <= 115 * ideal, "{name}: {sectors} sectors, {ideal} would do");
        assert!(!name.starts_with("conv3d") || conflicts == 0, "{name}: {conflicts} cycles of bank conflicts");
        // A kernel that is new in a case replaces another one, which is worth writing anew but no fault.
        let Some(old) = COMMITTED.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(',')) else { continue };
        for ((column, old), now) in HEADER.split(',').skip(2).zip(old.split(',')).zip(counts) {
            let old: u64 = old.parse().unwrap();
            assert!(
                *now <= old + old / 50,
                "{name}: {column} {old} before, {now} now; if that is meant, TUBELET_WRITE_COUNTERS=1 cargo test counters"
            );
        }
    }
}
