//! What kernels do on real layers, counted by the simulator: instructions, sectors of global memory, bank conflicts. The
//! counts are committed (`docs/counters`), shown in `docs/kernels.md`, and may not grow.
//!
//! `TUBELET_WRITE_COUNTERS=1 cargo test counters` writes them anew; `cargo xtask kernels` then renews the page.

#[path = "../../benches/gpu/cases.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod cases;

use crate::sim::Sim;
use ptxsim::{Counters, Order};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Cases of `benches/gpu`, at the tables' own batch.
const CHOSEN: &[&str] = &[
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
];

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
    for case in cases::all(1).iter().filter(|c| CHOSEN.contains(&c.name.as_str())) {
        let sim = Sim::new(Order::Forward);
        let mut work = (case.make)(&sim.device()).unwrap();
        let timed = work().unwrap();
        let before = sim.machine.totals(); // of the inputs and, for a backward pass, of the forward pass
        timed().unwrap();
        for (entry, all) in sim.machine.totals() {
            let c = without(&all, before.get(&entry));
            if c.warp_instructions > 0 {
                let family = family(&entry).unwrap_or_else(|| panic!("{entry} belongs to no module"));
                let row = json!({"kernel": entry, "case": case.name, "counters": kept(&c)});
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
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/counters/{family}.json"))
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
