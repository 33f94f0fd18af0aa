//! The results: lines of a table, means of families, JSON.

use super::Options;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A case and its measurements.
pub struct Row {
    /// The case.
    pub name: String,
    /// This crate's best time, infinite before the first run.
    pub ms: f64,
    /// The error, if it failed.
    pub error: Option<String>,
    peer_ms: f64,
    what: String,
    floor_ms: f64,
    more: Map<String, Value>,
}

impl Default for Row {
    fn default() -> Self {
        let (ms, peer_ms) = (f64::INFINITY, f64::INFINITY);
        Row { name: String::new(), ms, peer_ms, error: None, what: String::new(), floor_ms: 0.0, more: Map::new() }
    }
}

impl Row {
    /// A row for a case listed by this crate's side.
    pub fn new(case: &Value) -> Self {
        Row {
            name: case["name"].as_str().unwrap_or_default().to_owned(),
            what: described(&case["problem"]),
            floor_ms: case["floor_ms"].as_f64().unwrap_or(0.0),
            ..Row::default()
        }
    }

    /// Keeps the minimum time and the first error.
    pub fn take(&mut self, answer: &Value) {
        let ms = answer["ms"].as_f64();
        if ms.is_none_or(|ms| ms < self.ms) {
            self.ms = self.ms.min(ms.unwrap_or(f64::INFINITY));
            self.extend(answer);
        }
        if let (None, Some(error)) = (&self.error, answer["error"].as_str()) {
            self.error = Some(error.to_owned());
        }
    }

    /// Keeps the other fields of an answer.
    pub fn extend(&mut self, answer: &Value) {
        for (key, value) in
            answer.as_object().into_iter().flatten().filter(|(k, _)| !["ms", "runs", "error"].contains(&&***k))
        {
            self.more.insert(key.clone(), value.clone());
        }
    }

    /// Adds the other side's times, and its other fields with the prefix `peer_`.
    pub fn peer(&mut self, theirs: &Row) {
        self.peer_ms = theirs.ms;
        for (key, value) in &theirs.more {
            self.more.insert(format!("peer_{key}"), value.clone());
        }
        if let (None, Some(error)) = (&self.error, &theirs.error) {
            self.error = Some(format!("peer: {error}"));
        }
    }

    fn ratio(&self) -> Option<f64> {
        let ratio = self.peer_ms / self.ms;
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }

    fn share(&self) -> Option<f64> {
        let share = self.floor_ms / self.ms;
        (share.is_finite() && share > 0.0).then_some(share)
    }

    /// Prints one line of the table.
    pub fn print(&self) {
        let cell = |n: f64, digits: usize| if n.is_finite() { format!("{n:.digits$}") } else { "-".into() };
        println!(
            "{:<72} {:<34} {:>9} {:>9} {:>6} {:>5}{}",
            self.name,
            self.what,
            cell(self.ms, 3),
            cell(self.peer_ms, 3),
            self.ratio().map_or("-".into(), |r| cell(r, 2)),
            self.share().map_or("-".into(), |s| cell(100.0 * s, 0)),
            self.more.iter().map(|(k, v)| format!("  {k} {}", plain(v))).collect::<String>()
                + &self.error.as_ref().map_or(String::new(), |e| format!("  {e}")),
        );
    }

    fn json(&self) -> Value {
        let rounded =
            |n: f64, digits: i32| n.is_finite().then(|| (n * 10f64.powi(digits)).round() / 10f64.powi(digits));
        let mut out = json!({
            "ours_ms": rounded(self.ms, 4), "peer_ms": rounded(self.peer_ms, 4),
            "ratio": self.ratio().and_then(|r| rounded(r, 3)),
            "share_of_bound": self.share().and_then(|s| rounded(s, 3)),
        });
        for (key, value) in &self.more {
            out[key] = value.clone();
        }
        if let Some(error) = &self.error {
            out["error"] = error.as_str().into();
        }
        out
    }

    /// The families in whose means it is included: its operation and data type, and the pass of a convolution.
    fn families(&self) -> Vec<String> {
        let parts: Vec<&str> = self.name.split('/').collect();
        let [op, pass, .., numbers, _] = parts[..] else { return vec![parts[0].to_owned()] };
        let mut families = vec![format!("{op}/{numbers}")];
        if op == "conv3d" {
            families.push(format!("{op}/{pass}/{numbers}"));
        }
        families
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Number(n) => n.as_f64().map_or(n.to_string(), |n| format!("{n:.3e}")),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// A convolution in a few letters; empty for other problems, whose names describe them.
fn described(problem: &Value) -> String {
    let list = |key: &str| -> Option<Vec<u64>> { problem[key].as_array()?.iter().map(Value::as_u64).collect() };
    let (Some(x), Some(kernel), Some(stride)) = (list("x"), list("kernel"), list("stride")) else {
        return String::new();
    };
    let [_, t, h, w, c] = x[..] else { return String::new() };
    let by = |l: &[u64]| l.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
    let strided = if stride.iter().any(|&s| s > 1) { format!("/{}", by(&stride)) } else { String::new() };
    format!("{t}x{h}x{w} {c}>{} {}{strided}", problem["k"], by(&kernel))
}

/// All rows, and the conditions of the measurement.
pub struct Record {
    /// The rows.
    pub rows: Vec<Row>,
    about: Value,
}

impl Record {
    /// An empty record; `list` is the description sent by this crate's side.
    pub fn new(options: &Options, list: &Value, versions: Value) -> Self {
        let clock = if options.processor_time { "processor" } else { "wall" };
        let about = json!({
            "how": format!(
                "cargo xtask versus, {} threads each, {} rounds by turns, best run of each side ({clock} time); ratio = \
                 peer_ms / ours_ms, above 1 we are faster; share_of_bound = the time that the probed peak of the \
                 arithmetic or of a copy through memory allows, whichever is longer, / ours_ms",
                options.threads, options.rounds
            ),
            "threads": list["threads"], "peaks": list["peaks"], "peers": versions,
        });
        Record { rows: Vec::new(), about }
    }

    /// Prints what is compared, and the table's head.
    pub fn print_head(&self) {
        println!("threads {}, peaks {}, peers {}", self.about["threads"], self.about["peaks"], self.about["peers"]);
        let head = ["case", "what", "ours ms", "peer ms", "ratio", "% of bound"];
        println!("{:<72} {:<34} {:>9} {:>9} {:>6} {:>5}", head[0], head[1], head[2], head[3], head[4], head[5]);
    }

    /// Prints geometric means and worst cases by family.
    pub fn print_means(&self) {
        println!("\n{:<28} {:>5} {:>8} {:>8}  worst case", "family", "cases", "geomean", "least");
        for (family, mean) in self.means() {
            let Mean { count, geomean, least, worst } = mean;
            println!("{family:<28} {count:>5} {geomean:>8.2} {least:>8.2}  {worst}");
        }
    }

    fn means(&self) -> BTreeMap<String, Mean> {
        let mut families: BTreeMap<String, Vec<(f64, &str)>> = BTreeMap::new();
        for row in &self.rows {
            let Some(ratio) = row.ratio() else { continue };
            for family in row.families() {
                families.entry(family).or_default().push((ratio, &row.name));
            }
        }
        families.into_iter().map(|(family, ratios)| (family, Mean::of(&ratios))).collect()
    }

    /// Writes the files that are requested.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, options: &Options) -> Result<()> {
        let cases: Map<String, Value> = self.rows.iter().map(|row| (row.name.clone(), row.json())).collect();
        let cases = Value::from(cases);
        if let Some(path) = &options.json {
            save(path, &cases)?;
        }
        if let Some(path) = &options.record {
            let mut record = self.about.clone();
            let mean = |m: Mean| json!({"cases": m.count, "geomean": m.geomean, "least": m.least, "worst": m.worst});
            record["means"] =
                self.means().into_iter().map(|(family, m)| (family, mean(m))).collect::<Map<_, _>>().into();
            record["cases"] = cases;
            save(path, &record)?;
        }
        Ok(())
    }
}

fn save(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, format!("{value:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

struct Mean {
    count: usize,
    geomean: f64,
    least: f64,
    worst: String,
}

impl Mean {
    fn of(ratios: &[(f64, &str)]) -> Self {
        let logs: f64 = ratios.iter().map(|(r, _)| r.ln()).sum();
        let (least, worst) = ratios.iter().copied().fold((f64::INFINITY, ""), |a, b| if b.0 < a.0 { b } else { a });
        let round = |n: f64| (1e3 * n).round() / 1e3;
        let geomean = round((logs / ratios.len().max(1) as f64).exp());
        Mean { count: ratios.len(), geomean, least: round(least), worst: worst.to_owned() }
    }
}
