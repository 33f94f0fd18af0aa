//! The results: lines of a table, means of families, JSON.

use super::quiet::Conditions;
use super::rounds::{Ratios, Rounds, rounded};
use super::{Options, described};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A case and its measurements.
#[derive(Default)]
pub struct Row {
    /// The case.
    pub name: String,
    /// The error, if it failed.
    pub error: Option<String>,
    /// The machine meanwhile.
    pub conditions: Option<Conditions>,
    ours: Rounds,
    theirs: Rounds,
    what: String,
    floor_ms: f64,
    more: Map<String, Value>,
}

impl Row {
    /// A row for a case listed by this crate's side.
    pub fn new(case: &Value) -> Self {
        Row {
            name: case["name"].as_str().unwrap_or_default().to_owned(),
            what: described_convolution(&case["problem"]),
            floor_ms: case["floor_ms"].as_f64().unwrap_or(0.0),
            ..Row::default()
        }
    }

    /// This side's best time in milliseconds, infinite before the first round.
    pub fn ms(&self) -> f64 {
        self.ours.best()
    }

    /// Adds the time of a round; keeps the other fields of the best one, and the first error.
    pub fn take(&mut self, answer: &Value) {
        let ms = answer["ms"].as_f64().unwrap_or(f64::INFINITY);
        if ms < self.ms() {
            self.extend(answer);
        }
        self.ours.0.push(ms);
        self.note_error(answer);
    }

    /// Keeps what else a side says of its result.
    pub fn checked(&mut self, answer: &Value) {
        self.extend(answer);
        self.note_error(answer);
    }

    fn note_error(&mut self, answer: &Value) {
        if let (None, Some(error)) = (&self.error, answer["error"].as_str()) {
            self.error = Some(error.to_owned());
        }
    }

    fn extend(&mut self, answer: &Value) {
        for (key, value) in
            answer.as_object().into_iter().flatten().filter(|(k, _)| !["ms", "runs", "error"].contains(&&***k))
        {
            self.more.insert(key.clone(), value.clone());
        }
    }

    /// Adds the other side's times, and its other fields with the prefix `peer_`.
    pub fn peer(&mut self, theirs: &Row) {
        self.theirs = theirs.ours.clone();
        for (key, value) in &theirs.more {
            self.more.insert(format!("peer_{key}"), value.clone());
        }
        if let (None, Some(error)) = (&self.error, &theirs.error) {
            self.error = Some(format!("peer: {error}"));
        }
    }

    /// Whether it has times of both sides, but was disturbed in every attempt.
    fn left_out(&self) -> bool {
        self.conditions.as_ref().is_some_and(|c| !c.quiet()) && Ratios::of(&self.ours, &self.theirs).is_some()
    }

    /// None as well if the machine was disturbed.
    fn ratios(&self) -> Option<Ratios> {
        if self.left_out() { None } else { Ratios::of(&self.ours, &self.theirs) }
    }

    fn share(&self) -> Option<f64> {
        let share = self.floor_ms / self.ms();
        (share.is_finite() && share > 0.0).then_some(share)
    }

    /// Prints one line of the table.
    pub fn print(&self) {
        println!("{}", self.line());
    }

    fn line(&self) -> String {
        let cell = |n: f64, digits: usize| if n.is_finite() { format!("{n:.digits$}") } else { "-".into() };
        let ratios = self.ratios();
        let ratio = |of: fn(Ratios) -> f64| ratios.map_or("-".into(), |r| cell(of(r), 2));
        let complaint = self.conditions.as_ref().filter(|_| self.left_out()).map(Conditions::complaint);
        let mut line = format!(
            "{:<72} {:<34} {:>9} {:>9} {:>6} {:>6} {:>6} {:>6} {:>5}",
            self.name,
            self.what,
            cell(self.ms(), 3),
            cell(self.theirs.best(), 3),
            ratio(|r| r.best),
            ratio(|r| r.median),
            ratio(|r| r.least),
            ratio(|r| r.greatest),
            self.share().map_or("-".into(), |s| cell(100.0 * s, 0)),
        );
        line.extend(self.more.iter().map(|(k, v)| format!("  {k} {}", plain(v))));
        line.extend(complaint.iter().chain(&self.error).map(|text| format!("  {text}")));
        line
    }

    fn json(&self) -> Value {
        let finite = |n: f64| n.is_finite().then(|| rounded(n, 4));
        let mut out = json!({
            "ours_ms": finite(self.ms()), "peer_ms": finite(self.theirs.best()),
            "ratio": self.ratios().map(|r| rounded(r.best, 3)),
            "ratio_of_rounds": self.ratios().map(Ratios::json),
            "rounds_ms": {"ours": self.ours.json(), "peer": self.theirs.json()},
            "machine": self.conditions.as_ref().map(Conditions::json),
            "share_of_bound": self.share().map(|s| rounded(s, 3)),
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
fn described_convolution(problem: &Value) -> String {
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
    pub fn new(options: &Options, list: &Value, versions: Value, machine: Value) -> Self {
        let clock = if options.processor_time { "processor" } else { "wall" };
        let about = json!({
            "how": format!(
                "cargo xtask versus, {} threads each, {} rounds by turns, best run of each side ({clock} time); ratio = \
                 peer_ms / ours_ms, above 1 we are faster; ratio_of_rounds = of the times of the same round; \
                 share_of_bound = the time that the probed peak of the arithmetic or of a copy through memory allows, \
                 whichever is longer, / ours_ms. A case is repeated, up to {} times, while the probe before and after it \
                 differ by more than {} %, and has no ratio if they always do",
                options.threads, options.rounds, options.tries, options.drift
            ),
            "machine": machine,
            "threads": list["threads"], "peaks": list["peaks"], "peers": versions,
        });
        Record { rows: Vec::new(), about }
    }

    /// Prints what is compared, and the table's head.
    pub fn print_head(&self) {
        println!("{}", described(&self.about["machine"]));
        println!("threads {}, peaks {}, peers {}", self.about["threads"], self.about["peaks"], self.about["peers"]);
        println!(
            "{:<72} {:<34} {:>9} {:>9} {:>6} {:>6} {:>6} {:>6} % of bound",
            "case", "what", "ours ms", "peer ms", "ratio", "median", "least", "most"
        );
    }

    /// Prints geometric means and worst cases by family.
    pub fn print_means(&self) {
        println!("\n{:<28} {:>5} {:>8} {:>8}  worst case", "family", "cases", "geomean", "least");
        for (family, mean) in self.means() {
            let Mean { count, geomean, least, worst } = mean;
            println!("{family:<28} {count:>5} {geomean:>8.2} {least:>8.2}  {worst}");
        }
        if let Some(sentence) = self.disturbed() {
            println!("{sentence}");
        }
    }

    /// How many rows the means lack.
    fn disturbed(&self) -> Option<String> {
        let (out, all) = (self.left_out(), self.rows.len());
        (out > 0).then(|| format!("{out} of {all} cases are left out: the machine changed during every attempt"))
    }

    fn left_out(&self) -> usize {
        self.rows.iter().filter(|row| row.left_out()).count()
    }

    fn means(&self) -> BTreeMap<String, Mean> {
        let mut families: BTreeMap<String, Vec<(f64, &str)>> = BTreeMap::new();
        for row in &self.rows {
            let Some(ratios) = row.ratios() else { continue };
            for family in row.families() {
                families.entry(family).or_default().push((ratios.best, &row.name));
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
            record["left_out"] = self.left_out().into();
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

#[cfg(test)]
mod tests {
    use super::super::quiet::{Attempt, Probe, until_quiet};
    use super::*;

    /// A row whose sides took these milliseconds, during which the machine's f32 rate fell by `slower`.
    fn row(name: &str, ours: &[f64], theirs: &[f64], slower: f64) -> Row {
        let mut row = Row::new(&json!({"name": name, "floor_ms": 0.5}));
        let mut peer = Row::default();
        ours.iter().for_each(|ms| row.take(&json!({"ms": ms, "runs": 2})));
        theirs.iter().for_each(|ms| peer.take(&json!({"ms": ms, "form": format!("form {ms}")})));
        row.peer(&peer);
        let [before, after] = [1.0, 1.0 / (1.0 + slower)].map(|f32| Probe { f32, copy: 1.0 });
        let ((), conditions) = until_quiet(3, 0.1, || Ok(Attempt { before, result: (), after })).unwrap();
        row.conditions = Some(conditions);
        row
    }

    #[test]
    fn a_row_has_its_rounds_their_median_and_their_spread() {
        let row = row("conv3d/fprop/net/layer/f32/cpu", &[1.25, 1.0, 2.0], &[2.5, 3.0, 2.0], 0.0);
        let json = row.json();
        assert_eq!(json["ours_ms"], 1.0);
        assert_eq!(json["ratio"], 2.0); // of the best times
        assert_eq!(json["ratio_of_rounds"], json!({"median": 2.0, "least": 1.0, "greatest": 3.0}));
        assert_eq!(json["rounds_ms"], json!({"ours": [1.25, 1.0, 2.0], "peer": [2.5, 3.0, 2.0]}));
        assert_eq!((&json["share_of_bound"], &json["peer_form"]), (&json!(0.5), &json!("form 2")));
        assert_eq!(json["machine"]["moved_percent"], json!([0.0]));
        let line = row.line();
        assert!(line.contains("   2.00   2.00   1.00   3.00    50"), "{line}");
    }

    #[test]
    fn a_row_that_was_always_disturbed_has_no_ratio_and_is_counted() {
        let about = json!({"threads": 2});
        let mut record = Record::new(&Options::default(), &about, json!({}), json!({"processor": "a fake"}));
        record.rows.push(row("conv3d/fprop/net/one/f32/cpu", &[1.0], &[2.0], 0.05));
        assert_eq!(record.disturbed(), None);
        record.rows.push(row("conv3d/fprop/net/two/f32/cpu", &[1.0], &[9.0], 0.2));
        let json = record.rows[1].json();
        assert_eq!((&json["ratio"], &json["ratio_of_rounds"]), (&Value::Null, &Value::Null));
        assert_eq!(json["machine"]["quiet"], false);
        let line = record.rows[1].line();
        assert!(line.contains("no ratio: the probe of the machine moved by 20, 20, 20 %"), "{line}");
        let means = record.means();
        assert_eq!((means["conv3d/f32"].count, means["conv3d/f32"].geomean), (1, 2.0));
        let sentence = record.disturbed().unwrap();
        assert!(sentence.starts_with("1 of 2 cases are left out"), "{sentence}");
        // A case without a peer has no ratio anyway.
        record.rows.push(row("update/alone/f32/cpu", &[1.0], &[], 0.2));
        assert_eq!(record.left_out(), 1);
    }

    #[test]
    fn the_first_error_stays() {
        let mut row = Row::new(&json!({"name": "tvl1/3x3/cpu"}));
        row.take(&json!({"error": "no memory"}));
        row.checked(&json!({"error": "later"}));
        assert_eq!(row.error.as_deref(), Some("no memory"));
        assert_eq!(row.json()["rounds_ms"]["ours"], json!([null]));
        assert!(row.line().ends_with("no memory"));
    }
}
