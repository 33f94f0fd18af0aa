//! `cargo xtask profile`: where the time of a training step on the CPU goes. `benches/profile.rs` runs the steps and counts; this
//! checks the options, runs it, and prints a table.

use crate::versus::{described, machine};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The networks of `benches/versus/nets.rs`.
const NETS: [&str; 5] = ["r2plus1d_18", "slow_r50", "cvrl_r3d50", "p3d_a50", "r3d_18"];

const PRECISIONS: [&str; 5] = ["f32", "fma", "bf16x3", "bf16x6", "bf16"];

/// Options of `cargo xtask profile`.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The network.
    pub net: String,
    /// How it computes.
    pub precision: String,
    /// Clips per step.
    pub clips: usize,
    /// Steps, of which the fastest counts.
    pub steps: usize,
    /// Threads.
    pub threads: usize,
    /// Where to write the table's numbers.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Parses `NET [OPTION..]`.
    ///
    /// # Errors
    /// When the network is missing or unknown, or an option is unknown or its value invalid.
    pub fn parse(args: &[String]) -> Result<Self> {
        let names = NETS.join(", ");
        let Some((net, rest)) = args.split_first() else { bail!("profile needs NET, one of {names}") };
        ensure!(NETS.contains(&net.as_str()), "there is no network {net}; there are {names}");
        let mut options =
            Options { net: net.clone(), precision: "f32".into(), clips: 2, steps: 5, threads: 2, json: None };
        let mut args = rest.iter();
        while let Some(name) = args.next() {
            let mut value = || args.next().with_context(|| format!("{name} needs a value"));
            let number = |text: &String| match text.parse() {
                Ok(n) if (1..=1024).contains(&n) => Ok(n),
                _ => bail!("{name} is {text}; it must be a number from 1 to 1024"),
            };
            match name.as_str() {
                "--precision" => {
                    let precision = value()?;
                    let known = PRECISIONS.contains(&precision.as_str());
                    ensure!(known, "--precision is {precision}; it is one of {}", PRECISIONS.join(", "));
                    options.precision.clone_from(precision);
                }
                "--clips" => options.clips = number(value()?)?,
                "--steps" => options.steps = number(value()?)?,
                "--threads" => options.threads = number(value()?)?,
                "--json" => options.json = Some(value()?.into()),
                _ => bail!("profile has no option {name}"),
            }
        }
        Ok(options)
    }
}

/// Runs the steps, prints the table and writes the file that is requested.
///
/// # Errors
/// When the program does not build or fails, or the file cannot be written.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--quiet", "--bench", "profile", "--", &options.net, "--precision", &options.precision]);
    command.args(["--clips", &options.clips.to_string(), "--steps", &options.steps.to_string()]);
    command.env("RAYON_NUM_THREADS", options.threads.to_string()).current_dir(root);
    let out = command.stderr(std::process::Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(out.status.success(), "the steps failed");
    let text = String::from_utf8(out.stdout)?;
    let mut profile: Value = serde_json::from_str(text.trim()).with_context(|| format!("the steps say {text:?}"))?;
    profile["machine"] = machine(Path::new("/"));
    print!("{}", table(&profile));
    if let Some(path) = &options.json {
        profile["how"] = HOW.into();
        profile["total"] = Total::of(&profile).json();
        fs::write(path, format!("{profile:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What the numbers mean.
const HOW: &str = "cargo xtask profile. Bytes are counted from the extents of arrays, once for each time that a pass goes over \
    one; those of temporary arrays (packed filters; copies in another layout or type; normalised copies; partial sums) are in \
    `read` and `wrote`, and what was written of them in `temporary`. `cached` are copies that stay in a core's cache, which \
    are not in the others. FLOPs are those of convolutions, matrix products and InfoNCE. Times are of the fastest step; \
    `busy_ms` is the processor time of all threads. `columns` are the bytes of a step with every operation by itself (eager), \
    with statistics and sums of batch norm taken by convolutions (epi), and with normalisations and their gradients applied \
    where convolutions load (full), all with the weights' (weights)";

/// The sums of all rows.
struct Total {
    flops: f64,
    read: f64,
    wrote: f64,
    /// Filters, layout, normalised, sums.
    temporary: [f64; 4],
    cached: f64,
    tasks: f64,
    calls: f64,
    /// Of the step, including what is outside of all passes.
    ms: f64,
    passes_ms: f64,
    busy_ms: f64,
}

const TEMPORARY: [&str; 4] = ["filters", "layout", "normalised", "sums"];

impl Total {
    fn of(profile: &Value) -> Self {
        let rows: Vec<&Value> = profile["rows"].as_array().into_iter().flatten().collect();
        let sum = |of: &dyn Fn(&Value) -> f64| rows.iter().map(|row| of(row)).sum::<f64>();
        let field = |name: &'static str| sum(&move |row: &Value| number(&row[name]));
        Total {
            flops: field("flops"),
            read: field("read"),
            wrote: field("wrote"),
            temporary: TEMPORARY.map(|name| sum(&move |row: &Value| number(&row["temporary"][name]))),
            cached: field("cached"),
            tasks: field("tasks"),
            calls: field("calls"),
            ms: number(&profile["ms"]),
            passes_ms: field("ms"),
            busy_ms: field("busy_ms"),
        }
    }

    fn bytes(&self) -> f64 {
        self.read + self.wrote
    }

    fn json(&self) -> Value {
        json!({
            "flops": self.flops, "read": self.read, "wrote": self.wrote, "temporary": self.temporary.iter().sum::<f64>(),
            "cached": self.cached, "tasks": self.tasks, "calls": self.calls, "passes_ms": self.passes_ms,
            "busy_ms": self.busy_ms,
        })
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// A line of Markdown.
fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// The table, and what the bytes compare with.
fn table(profile: &Value) -> String {
    let total = Total::of(profile);
    let mut text = format!(
        "{} {}, {} clips of {}, {} threads, fastest of {} steps\n{}; probed {} GFLOP/s f32, copy {} GB/s\n\n",
        text_of(&profile["net"]),
        text_of(&profile["precision"]),
        profile["clips"],
        profile["clip"].as_array().into_iter().flatten().map(Value::to_string).collect::<Vec<_>>().join("x"),
        profile["threads"],
        profile["steps"],
        described(&profile["machine"]),
        profile["peaks"]["f32_gflops"],
        profile["peaks"]["copy_gb_per_s"],
    );
    let head = [
        "pass",
        "calls",
        "GFLOP",
        "read MB",
        "wrote MB",
        "filters MB",
        "layout MB",
        "normalised MB",
        "sums MB",
        "in cache MB",
        "tasks",
        "ms",
        "% of step",
        "GFLOP/s",
        "GB/s",
        "% busy",
    ];
    text += &line(&head.map(str::to_owned));
    text += &format!("|---|{}\n", "---:|".repeat(head.len() - 1));
    let threads = number(&profile["threads"]);
    let mut rows: Vec<&Value> = profile["rows"].as_array().into_iter().flatten().collect();
    rows.sort_by(|a, b| number(&b["ms"]).total_cmp(&number(&a["ms"])));
    for row in rows {
        let field = |name: &str| number(&row[name]);
        let temporary = TEMPORARY.map(|name| number(&row["temporary"][name]));
        let times = [field("ms"), field("busy_ms")];
        let bytes = [field("read"), field("wrote"), field("cached")];
        let counts = [field("calls"), field("flops"), field("tasks")];
        text += &line(&cells(text_of(&row["pass"]), counts, bytes, temporary, times, total.ms, threads));
    }
    let times = [total.passes_ms, total.busy_ms];
    let (bytes, counts) = ([total.read, total.wrote, total.cached], [total.calls, total.flops, total.tasks]);
    text += &line(&cells("all passes", counts, bytes, total.temporary, times, total.ms, threads));
    let _ =
        write!(text, "\nThe step takes {:.1} ms, {:.1} of it outside of passes.", total.ms, total.ms - total.passes_ms);
    let outside = number(&profile["outside_bytes"]);
    if outside > 0.0 {
        let _ = write!(
            text,
            " Tensors of {:.1} MB were made outside of passes: an operation does not count.",
            outside * 1e-6
        );
    }
    text.push('\n');
    let columns: Vec<(&str, f64)> =
        ["eager", "epi", "full"].into_iter().map(|name| (name, number(&profile["columns"][name]))).collect();
    for (name, bytes) in &columns {
        let _ = writeln!(text, "{name}: {:.2} GB; counted / {name} = {:.2}", bytes * 1e-9, total.bytes() / bytes);
    }
    let _ = writeln!(
        text,
        "counted: {:.2} GB, nearest to {} (weights and their update are {:.2} GB of each)",
        total.bytes() * 1e-9,
        nearest(total.bytes(), &columns),
        number(&profile["columns"]["weights"]) * 1e-9,
    );
    text
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The column whose ratio to `bytes` is nearest to 1.
fn nearest<'a>(bytes: f64, columns: &[(&'a str, f64)]) -> &'a str {
    let away = |of: &(&str, f64)| (bytes / of.1).ln().abs();
    columns.iter().min_by(|a, b| away(a).total_cmp(&away(b))).map_or("none", |(name, _)| name)
}

fn cells(
    name: &str,
    [calls, flops, tasks]: [f64; 3],
    [read, wrote, cached]: [f64; 3],
    temporary: [f64; 4],
    [ms, busy]: [f64; 2],
    step_ms: f64,
    threads: f64,
) -> Vec<String> {
    let some = |n: f64, digits: usize| if n > 0.0 && n.is_finite() { format!("{n:.digits$}") } else { String::new() };
    let mb = |bytes: f64| some(bytes * 1e-6, if bytes < 1e7 { 2 } else { 0 });
    let mut cells = vec![name.to_owned(), some(calls, 0), some(flops * 1e-9, 2), mb(read), mb(wrote)];
    cells.extend(temporary.map(mb));
    cells.extend([mb(cached), some(tasks, 0), format!("{ms:.2}"), some(100.0 * ms / step_ms, 1)]);
    cells.extend([
        some(flops * 1e-6 / ms, 0),
        some((read + wrote) * 1e-6 / ms, 1),
        some(100.0 * busy / (ms * threads), 0),
    ]);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_adds_up_and_names_the_nearest_column() {
        let row = |pass: &str, ms: f64, read: f64| {
            let temporary = json!({"filters": 1e6, "layout": 0, "normalised": 0, "sums": 0});
            json!({
                "pass": pass, "calls": 2, "flops": 4e9, "read": read, "wrote": 1e9, "temporary": temporary, "cached": 0,
                "tasks": 8, "ms": ms, "busy_ms": 1.5 * ms,
            })
        };
        let profile = json!({
            "net": "r3d_18", "precision": "f32", "clip": [16, 112, 112], "clips": 2, "threads": 2, "steps": 3, "ms": 110.0,
            "rows": [row("small", 20.0, 1e9), row("large", 80.0, 3e9)], "outside_bytes": 0, "machine": {},
            "columns": {"eager": 9e9, "epi": 5e9, "full": 4e9, "weights": 1e9},
        });
        let text = table(&profile);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is not in\n{text}"));
        assert!(at("| large | 2 | 4.00 | 3000 | 1000 | 1.00 |") < at("| small |"), "sorted by time");
        assert!(at("| 8 | 80.00 | 72.7 | 50 | 50.0 | 75 |") > 0);
        assert!(at("| all passes | 4 | 8.00 | 4000 | 2000 | 2.00 |") > at("| small |"));
        assert!(at("takes 110.0 ms, 10.0 of it outside") > 0);
        assert!(at("epi: 5.00 GB; counted / epi = 1.20") > 0);
        assert!(at("counted: 6.00 GB, nearest to epi (weights and their update are 1.00 GB") > 0);
        assert!(!text.contains("does not count"));
    }
}
