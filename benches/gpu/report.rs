//! Combines the results that `run.sh` of a bundle wrote to a folder into one table and one record: times of this crate
//! and of the peer, and the results of the tests. Each part may be missing, which the record then says.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Reads the folder, prints the table and writes `record.json` into it.
pub fn write(folder: &Path) -> ExitCode {
    let record = record(folder);
    print_table(&record);
    let path = folder.join("record.json");
    match fs::write(&path, format!("{record:#}\n")) {
        Ok(()) => {
            println!("\nwritten: {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn record(folder: &Path) -> Value {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let parsed = |name: &str| read(name).and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let (ours, peer) = (parsed("ours.json").unwrap_or_default(), parsed("peer.json").unwrap_or_default());
    let milliseconds = |record: &Value| -> BTreeMap<String, Value> {
        let rows = record["cases"].as_array().cloned().unwrap_or_default();
        rows.into_iter().filter_map(|row| Some((row["name"].as_str()?.to_owned(), row))).collect()
    };
    let (mut our_rows, peer_rows) = (milliseconds(&ours), milliseconds(&peer));
    for (name, row) in &mut our_rows {
        let Some(theirs) = peer_rows.get(name) else { continue };
        row["peer_ms"] = theirs["ms"].clone();
        if let (Some(us), Some(them)) = (row["ms"].as_f64(), theirs["ms"].as_f64()) {
            row["ratio"] = json!((them / us * 1e3).round() / 1e3);
        }
    }
    let of_part = |part: String| {
        let mut outcome = outcome(&read(&format!("{part}.txt")).unwrap_or_default());
        outcome["finished"] = json!(folder.join(format!("{part}.passed")).exists());
        (part, outcome)
    };
    let tests: Map<String, Value> = parts(folder).into_iter().map(of_part).collect();
    json!({
        "machine": ours["device"],
        "compute_capability": ours["compute_capability"],
        "driver": read("driver.txt").map(|s| s.trim().to_owned()),
        "date": read("date.txt").map(|s| s.trim().to_owned()),
        "how": "run.sh of `cargo xtask bundle`; medians of runs timed with events, cold L2; ratio = peer / ours, above 1 we are faster",
        "peers": {"pytorch": peer["torch"], "cudnn": peer["cudnn"], "matmul_8192_bf16_tflops": peer["matmul_8192_bf16_tflops"]},
        "assumptions": ours["assumptions"],
        "peaks": ours["peaks"],
        "parts": tests,
        "modules": ours["modules"],
        "step_kernels": ours["step_kernels"],
        "instruction_classes": read("classes.txt").map(|text| class_lines(&text)),
        "training_run": parsed("training.json"),
        "geomean_ratio": geomeans(&our_rows),
        "cases": our_rows,
    })
}

/// The parts of the run that have begun: each has a log.
fn parts(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let logs = names.filter_map(|name| name.strip_suffix(".txt").map(str::to_owned));
    let mut parts: Vec<String> = logs.filter(|name| !["date", "driver", "table"].contains(&name.as_str())).collect();
    parts.sort();
    parts
}

/// The results of the test harness, over all its runs in a log.
fn outcome(log: &str) -> Value {
    let count = |line: &str, word: &str| -> u64 {
        let before = line.split(word).next().unwrap_or("");
        before.rsplit([' ', ';', '.']).find_map(|n| n.parse().ok()).unwrap_or(0)
    };
    let (mut passed, mut failed, mut runs) = (0, 0, 0);
    for line in log.lines().filter(|l| l.starts_with("test result:")) {
        (passed, failed, runs) = (passed + count(line, " passed"), failed + count(line, " failed"), runs + 1);
    }
    if runs == 0 {
        return json!({"ended": log.lines().last()});
    }
    let faults = log.lines().rfind(|l| l.contains("ERROR SUMMARY:"));
    json!({"passed": passed, "failed": failed, "failures": failures(log), "sanitizer": faults})
}

/// The tests that failed: their names follow each other, indented, after a line `failures:`.
fn failures(log: &str) -> Vec<&str> {
    let blocks = log.split("\nfailures:\n").skip(1);
    blocks.flat_map(|block| block.lines().map_while(|line| line.strip_prefix("    "))).collect()
}

/// The lines printed by the comparison of instruction classes.
fn class_lines(log: &str) -> Vec<String> {
    log.lines().filter_map(|l| l.split_once("class ")).map(|(_, rest)| rest.to_owned()).collect()
}

/// Geometric mean of the ratios, by operation, pass and data type.
fn geomeans(rows: &BTreeMap<String, Value>) -> Value {
    let mut sums: BTreeMap<String, (f64, u32)> = BTreeMap::new();
    for (name, row) in rows {
        let (Some(ratio), [op, pass, .., dtype]) = (row["ratio"].as_f64(), &name.split('/').collect::<Vec<_>>()[..])
        else {
            continue;
        };
        let sum = sums.entry(format!("{op}/{pass}/{dtype}")).or_default();
        *sum = (sum.0 + ratio.ln(), sum.1 + 1);
    }
    sums.into_iter().map(|(key, (sum, n))| (key, json!(((sum / f64::from(n)).exp() * 1e3).round() / 1e3))).collect()
}

fn print_table(record: &Value) {
    let text = |key: &str| record[key].as_str().unwrap_or("unknown").to_owned();
    let [machine, driver, date] = ["machine", "driver", "date"].map(text);
    println!("{machine}, compute capability {}, driver {driver}, {date}", record["compute_capability"]);
    println!("peaks {}", record["peaks"]);
    for (what, verdict) in record["assumptions"].as_object().into_iter().flatten() {
        match verdict {
            Value::Array(rows) => {
                rows.iter().for_each(|row| println!("  {what}: {}", row.as_str().unwrap_or_default()))
            }
            verdict => println!("{what}: {}", verdict.as_str().unwrap_or_default()),
        }
    }
    modules(record);
    for (part, outcome) in record["parts"].as_object().into_iter().flatten() {
        print_part(part, outcome);
    }
    println!("{:<44} {:>10} {:>10} {:>7} {:>7} {:>7}", "case", "ours ms", "peer ms", "ratio", "math %", "copy %");
    for (name, row) in record["cases"].as_object().into_iter().flatten() {
        if let Some(error) = row["error"].as_str() {
            println!("{name:<44} {error}");
            continue;
        }
        let figure = |key: &str, scale: f64, digits: usize| {
            row[key].as_f64().map_or("-".to_owned(), |n| format!("{:.digits$}", n * scale))
        };
        println!(
            "{name:<44} {:>10} {:>10} {:>7} {:>7} {:>7}",
            figure("ms", 1.0, 4),
            figure("peer_ms", 1.0, 4),
            figure("ratio", 1.0, 2),
            figure("share_of_arithmetic", 100.0, 0),
            figure("share_of_copy", 100.0, 0)
        );
    }
    for (step, kernels) in record["step_kernels"].as_object().into_iter().flatten() {
        dearest(step, kernels);
    }
    println!("geometric means, peer / ours: {}", record["geomean_ratio"]);
    println!("training run: {}", record["training_run"]);
}

/// Whether a part passed, with its tests, or else with the last line of its log.
fn print_part(part: &str, outcome: &Value) {
    let verdict = if outcome["finished"] == true { "passed" } else { "NOT PASSED" };
    let tests = outcome["passed"].as_u64().map(|n| format!("tests: {n} passed, {} failed", outcome["failed"]));
    let said = tests.or_else(|| outcome["ended"].as_str().map(str::to_owned)).unwrap_or_default();
    println!("{part}: {verdict}; {said}");
    for name in outcome["failures"].as_array().into_iter().flatten() {
        println!("  {}", name.as_str().unwrap_or_default());
    }
    if let Some(faults) = outcome["sanitizer"].as_str() {
        println!("  {faults}");
    }
}

/// How long the modules took to load, of each kind together, and those that the driver refused.
fn modules(record: &Value) {
    for (key, what) in [("cubin_ms", "modules loaded from cubins"), ("ptx_ms", "modules compiled by the driver")] {
        let all = record["modules"].as_object().into_iter().flatten();
        let found: Vec<_> = all.map(|(name, module)| (name, &module[key])).filter(|(_, m)| !m.is_null()).collect();
        let ms: Vec<f64> = found.iter().filter_map(|(_, ms)| ms.as_f64()).collect();
        if !found.is_empty() {
            println!("{what}: {} in {:.3} s", ms.len(), ms.iter().sum::<f64>() * 1e-3);
        }
        for (name, why) in found.iter().filter_map(|(name, why)| Some((name, why.as_str()?))) {
            println!("  {name}: {why}");
        }
    }
}

/// The kernels in which a step spends most of its time.
fn dearest(step: &str, kernels: &Value) {
    const SHOWN: usize = 12;
    let ms = |kernel: &Value| kernel["ms"].as_f64().unwrap_or(0.0);
    let mut all: Vec<(&String, &Value)> = kernels.as_object().into_iter().flatten().collect();
    all.sort_by(|a, b| ms(b.1).total_cmp(&ms(a.1)));
    let total: f64 = all.iter().map(|(_, kernel)| ms(kernel)).sum();
    println!("{step}: {} kernels, {total:.3} ms between events", all.len());
    for (name, kernel) in all.into_iter().take(SHOWN) {
        println!("  {name:<42} {:>5} {:>10.4} ms", kernel["launches"], ms(kernel));
    }
}
