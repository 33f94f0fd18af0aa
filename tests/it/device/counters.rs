//! What kernels do on real layers, counted by the simulator: instructions, sectors of global memory, bank conflicts. The
//! counts are committed (`docs/counters`), shown in `docs/kernels.md`, and may not grow.
//!
//! `TUBELET_WRITE_COUNTERS=1 cargo test counters` writes them anew; `cargo xtask kernels` then renews the page.

#[path = "../../../benches/gpu/cases.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod cases;

use crate::support::sim::Sim;
use ptxsim::{Counters, Order};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
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
        let step = sgd::Step {
            w: sgd::Weights::Trained(&mut w),
            update: Some((x, &mut v, true)),
            key: Some(&mut key),
            half: Some(&mut half),
            key_half: Some(&mut key_half),
        };
        sgd::step_all(&sgd::Sgd::default(), sgd::Rate::Value(0.1), 0.99, None, &mut [step])?;
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

/// What is kept of the counters of an entry, over the launches of a case.
fn kept(c: &Counters) -> Value {
    json!({
        "warp_instructions": c.warp_instructions,
        "tensor_instructions": c.tensor_instructions,
        "sectors": c.global_sectors_loaded + c.global_sectors_stored,
        "ideal_sectors": c.ideal_sectors,
        "bytes": c.global_bytes_loaded + c.global_bytes_stored,
        "shared_requests": c.shared_requests,
        "bank_conflict_cycles": c.bank_conflict_cycles,
    })
}

/// The rows of every family: kernel, case, counters.
fn counted() -> BTreeMap<&'static str, Vec<Value>> {
    let kernels = tubelet::ops::kernels();
    let family = |entry: &str| kernels.iter().find(|k| k.entries.contains(&entry)).map(|k| k.module);
    let mut rows: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    let chosen = cases::all(1).into_iter().filter(|c| CHOSEN.contains(&c.name.as_str())).map(|c| (c.name, c.make));
    for (case, make) in chosen.chain(elementwise().into_iter().map(|(name, make)| (name.into(), make))) {
        let sim = Sim::new(Order::Forward);
        let mut work = make(&sim.device()).unwrap();
        let timed = work().unwrap();
        let before = sim.machine.totals(); // of the inputs and, for a backward pass, of the forward pass
        timed().unwrap();
        for (entry, all) in sim.machine.totals() {
            let c = without(&all, before.get(&entry));
            if c.warp_instructions > 0 {
                let family = family(&entry).unwrap_or_else(|| panic!("{entry} belongs to no module"));
                let row = json!({"kernel": entry, "case": case, "counters": kept(&c)});
                rows.entry(family).or_default().push(row);
            }
        }
    }
    rows
}

/// `all` less what was there before.
fn without(all: &Counters, before: Option<&Counters>) -> Counters {
    let Some(b) = before else { return all.clone() };
    Counters {
        warp_instructions: all.warp_instructions - b.warp_instructions,
        tensor_instructions: all.tensor_instructions - b.tensor_instructions,
        global_sectors_loaded: all.global_sectors_loaded - b.global_sectors_loaded,
        global_sectors_stored: all.global_sectors_stored - b.global_sectors_stored,
        global_bytes_loaded: all.global_bytes_loaded - b.global_bytes_loaded,
        global_bytes_stored: all.global_bytes_stored - b.global_bytes_stored,
        ideal_sectors: all.ideal_sectors - b.ideal_sectors,
        shared_requests: all.shared_requests - b.shared_requests,
        bank_conflict_cycles: all.bank_conflict_cycles - b.bank_conflict_cycles,
        ..all.clone()
    }
}

fn file(family: &str) -> PathBuf {
    crate::root().join(format!("docs/counters/{family}.json"))
}

#[test]
fn kernels_do_no_more_than_was_committed() {
    let rows = counted();
    if std::env::var_os("TUBELET_WRITE_COUNTERS").is_some() {
        for (family, rows) in &rows {
            std::fs::create_dir_all(file(family).parent().unwrap()).unwrap();
            let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
            std::fs::write(file(family), format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
        }
        return;
    }
    let count = |row: &Value, counter: &str| row["counters"][counter].as_u64().unwrap();
    for (family, rows) in &rows {
        for row in rows {
            let (sectors, ideal) = (count(row, "sectors"), count(row, "ideal_sectors"));
            assert!(100 * sectors <= 115 * ideal, "{row}: sectors in vain");
            assert!(!family.starts_with("conv3d") || count(row, "bank_conflict_cycles") == 0, "{row}: bank conflicts");
        }
        let text = std::fs::read_to_string(file(family)).unwrap_or_else(|_| "[]".into());
        let committed: Vec<Value> = serde_json::from_str(&text).unwrap();
        for row in rows {
            let same = |c: &&Value| c["kernel"] == row["kernel"] && c["case"] == row["case"];
            // A kernel that is new in a case replaces another one, which is worth writing anew but no fault.
            let Some(old) = committed.iter().find(same) else { continue };
            for counter in row["counters"].as_object().unwrap().keys() {
                let (now, old) = (count(row, counter), count(old, counter));
                let what = format!("{} in {}: {counter} {old} before, {now} now", row["kernel"], row["case"]);
                assert!(
                    now <= old + old / 50,
                    "{what}; if that is meant, TUBELET_WRITE_COUNTERS=1 cargo test counters"
                );
            }
        }
    }
}
