//! `cargo xtask transfer`: what a pre-trained network is worth. Pre-trains with several methods and seeds, then evaluates
//! each network: linear probe, retrieval, and fine-tuning with all labels and with a part of them, beside a random network
//! and training from scratch. It makes a table and a figure from the summaries.

use crate::programs;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Command-line options.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Folder of caches and runs; interrupted runs are resumed, finished ones not repeated.
    pub folder: PathBuf,
    /// Videos with labels; `None` for procedural clips.
    pub data: Option<PathBuf>,
    /// Sources of the test videos (`--groups` of the evaluations).
    pub groups: Option<PathBuf>,
    /// Passes of the pre-trainings and of a fine-tuning with all labels. With a share of the labels there are as many
    /// more passes, so that the number of steps is about the same.
    pub epochs: [u64; 2],
    /// Seeds, from 0.
    pub seeds: u64,
    /// Programs that are built already.
    pub programs: Option<PathBuf>,
    /// Where to write the record and the figure.
    pub json: Option<PathBuf>,
    /// The figure: accuracy against the number of labels.
    pub svg: Option<PathBuf>,
}

impl Options {
    /// Parses the arguments after `transfer`.
    ///
    /// # Errors
    /// When the folder is missing, an option is unknown or its value invalid.
    pub fn parse(args: &[String]) -> Result<Self> {
        let [folder, rest @ ..] = args else { bail!("transfer needs DIR") };
        ensure!(!folder.starts_with('-'), "transfer needs DIR first");
        let (data, groups, programs, json, svg) = (None, None, None, None, None);
        let mut o = Options { folder: folder.into(), data, groups, epochs: [30, 15], seeds: 3, programs, json, svg };
        let mut rest = rest.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().with_context(|| format!("{name} needs a value"))?;
            let number = || match value.parse() {
                Ok(n) if (1..=1000).contains(&n) => Ok(n),
                _ => bail!("{name} is {value}; it must be a number from 1 to 1000"),
            };
            match name.as_str() {
                "--data" => o.data = Some(value.into()),
                "--groups" => o.groups = Some(value.into()),
                "--epochs" => o.epochs[0] = number()?,
                "--tune-epochs" => o.epochs[1] = number()?,
                "--seeds" => o.seeds = number()?,
                "--programs" => o.programs = Some(value.into()),
                "--json" => o.json = Some(value.into()),
                "--svg" => o.svg = Some(value.into()),
                _ => bail!("there is no option {name}"),
            }
        }
        Ok(o)
    }
}

/// A pre-training: its name, its program and its options.
type Method = (&'static str, &'static str, &'static [&'static str]);

const METHODS: [Method; 3] = [
    ("RGB only", "pretrain_maclr", &["--w-mm", "0", "--w-vm", "0", "--w-mv", "0"]),
    ("MaCLR", "pretrain_maclr", &[]),
    ("MCL", "pretrain_mcl", &[]),
];
/// The network without pre-training, evaluated as it is or trained from scratch.
const NONE: &str = "random network";
/// Shares of the labels.
const SHARES: [f64; 3] = [0.1, 0.333, 1.0];
const COLOURS: [(&str, &str); 4] =
    [(NONE, "#555555"), ("RGB only", "#b03a8c"), ("MaCLR", "#1f77b4"), ("MCL", "#e67e22")];

/// What was measured of a network of a seed: the summary of each evaluation by its name.
struct Row {
    name: &'static str,
    seed: u64,
    evaluations: Vec<(String, Value)>,
}

/// Runs everything and prints the table as Markdown.
///
/// # Errors
/// When a program does not build or fails; when a file cannot be written.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let programs = programs::folder(root, options.programs.as_deref())?;
    fs::create_dir_all(&options.folder)?;
    let mut rows = Vec::new();
    for seed in 0..options.seeds {
        let mut run = |name, args: Vec<String>| evaluation(&programs, options, seed, name, &args);
        for (name, program, more) in METHODS {
            let mut args = vec!["--epochs".to_owned(), options.epochs[0].to_string()];
            if options.data.is_some() {
                args.extend(["--preset", "small"].map(str::to_owned));
            }
            args.extend(more.iter().map(|o| (*o).to_owned()));
            run(Job { program, out: out(name, "pretrain", seed) }, args)?;
            rows.push(Row { name, seed, evaluations: evaluate(&mut run, name, seed, options, &[])? });
        }
        // The network of the methods, without what they learned.
        rows.push(Row { name: NONE, seed, evaluations: evaluate(&mut run, NONE, seed, options, &["--from-scratch"])? });
    }
    print!("{}", table(&rows));
    let record: Vec<Value> = rows.iter().map(|row| row.record()).collect();
    if let Some(path) = &options.json {
        fs::write(path, format!("{:#}\n", Value::from(record))).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &options.svg {
        fs::write(path, figure(&rows)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A program to run, and its output folder.
struct Job {
    program: &'static str,
    out: String,
}

/// The folder of what is done with a network.
fn out(name: &str, what: &str, seed: u64) -> String {
    format!("{}-{what}-{seed}", name.replace(' ', "-").to_lowercase())
}

/// Evaluates the network of a method, or with `scratch` its architecture with random weights.
fn evaluate(
    run: &mut impl FnMut(Job, Vec<String>) -> Result<Value>,
    name: &str,
    seed: u64,
    options: &Options,
    scratch: &[&str],
) -> Result<Vec<(String, Value)>> {
    let init = |of: &str| vec!["--init".to_owned(), out(of, "pretrain", seed)];
    let plain = if scratch.is_empty() { init(name) } else { Vec::new() };
    let mut all = Vec::new();
    for (what, program) in [("linear", "linear_probe"), ("retrieval", "retrieve")] {
        all.push((what.to_owned(), run(Job { program, out: out(name, what, seed) }, plain.clone())?));
    }
    for share in SHARES {
        let mut args = init(if scratch.is_empty() { name } else { METHODS[1].0 });
        args.extend(scratch.iter().map(|o| (*o).to_owned()));
        let epochs = (options.epochs[1] as f64 / share).round();
        args.extend(["--labels".into(), share.to_string(), "--epochs".into(), epochs.to_string()]);
        let what = format!("tune-{share}");
        all.push((what.clone(), run(Job { program: "finetune", out: out(name, &what, seed) }, args)?));
    }
    Ok(all)
}

/// Runs a program in the folder, and returns its summary.
fn evaluation(programs: &Path, options: &Options, seed: u64, job: Job, args: &[String]) -> Result<Value> {
    let mut command = Command::new(programs.join(job.program));
    command.current_dir(&options.folder).args(args).args(["--seed", &seed.to_string(), "--cache", "cache"]);
    command.args(["--out", &job.out]);
    if let Some(data) = &options.data {
        command.arg("--data").arg(data.canonicalize().context("--data")?);
        if job.program.starts_with("pretrain") || job.program == "finetune" {
            command.arg("--no-flip");
        }
    }
    if let Some(groups) = options.groups.as_ref().filter(|_| ["linear_probe", "finetune"].contains(&job.program)) {
        command.arg("--groups").arg(groups.canonicalize().context("--groups")?);
    }
    println!("{} --out {}", job.program, job.out);
    let output = command.output().with_context(|| job.program.to_owned())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} --out {}: {errors}", job.program, job.out);
    let line = fs::read_to_string(options.folder.join(&job.out).join("summary.json"))?;
    serde_json::from_str(&line).with_context(|| format!("{}/summary.json", job.out))
}

impl Row {
    fn figure(&self, evaluation: &str, name: &str) -> Option<f64> {
        self.evaluations.iter().find(|(what, _)| what == evaluation)?.1[name].as_f64()
    }

    fn record(&self) -> Value {
        let kept =
            ["top1", "top1_group_low", "top1_group_high", "mean_class", "r1", "r5", "steps", "seconds", "videos_train"];
        let of = |summary: &Value| {
            let fields = kept.iter().filter(|name| !summary[**name].is_null());
            fields.map(|name| ((*name).to_owned(), summary[*name].clone())).collect::<serde_json::Map<_, _>>()
        };
        let all: serde_json::Map<_, _> =
            self.evaluations.iter().map(|(what, summary)| (what.clone(), Value::from(of(summary)))).collect();
        json!({"network": self.name, "seed": self.seed, "evaluations": all})
    }
}

/// Mean over the seeds, with the least and the largest.
fn spread(rows: &[Row], name: &str, evaluation: &str, figure: &str) -> Option<[f64; 3]> {
    let all: Vec<f64> =
        rows.iter().filter(|row| row.name == name).filter_map(|row| row.figure(evaluation, figure)).collect();
    let (least, most) = all.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    (!all.is_empty()).then(|| [all.iter().sum::<f64>() / all.len() as f64, least, most])
}

/// The names of the networks, in the order of the table.
fn names() -> impl Iterator<Item = &'static str> {
    [NONE].into_iter().chain(METHODS.iter().map(|(name, ..)| *name))
}

/// The table: means over the seeds, least and largest.
fn table(rows: &[Row]) -> String {
    let columns = [("linear", "top1"), ("retrieval", "r1"), ("retrieval", "r5")].map(|(a, b)| (a.to_owned(), b));
    let columns: Vec<(String, &str)> =
        columns.into_iter().chain(SHARES.iter().map(|share| (format!("tune-{share}"), "top1"))).collect();
    let mut text = "\n| network | linear | R@1 (1-NN) | R@5 | trained, 1/10 of the labels | 1/3 | all |\n|---|---|---|---|---|---|---|\n".to_owned();
    for name in names() {
        let _ = write!(text, "| {name} |");
        for (evaluation, figure) in &columns {
            let _ = match spread(rows, name, evaluation, figure) {
                Some([mean, least, most]) => write!(text, " {mean:.3} ({least:.3} to {most:.3}) |"),
                None => write!(text, " |"),
            };
        }
        text += "\n";
    }
    text
}

/// Accuracy after training against the number of labels, one line a network; bars from the least to the largest seed.
fn figure(rows: &[Row]) -> String {
    let [w, h, left, top, bottom] = [640.0, 400.0, 60.0, 20.0, 60.0];
    let labels = |share: f64| {
        let of = rows.iter().find_map(|row| row.figure(&format!("tune-{share}"), "videos_train"));
        of.unwrap_or(1.0).max(1.0)
    };
    let (least, most) = (labels(SHARES[0]).ln(), labels(SHARES[2]).ln());
    let x = |share: f64| left + 30.0 + (w - left - 190.0) * (labels(share).ln() - least) / (most - least).max(1e-9);
    let y = |accuracy: f64| top + (h - top - bottom) * (1.0 - accuracy);
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"white\"/>\n"
    );
    for tenth in (0..=10).step_by(2) {
        let (at, value) = (y(f64::from(tenth) / 10.0), f64::from(tenth) / 10.0);
        let _ = writeln!(
            s,
            "<path d=\"M{left} {at}H{}\" stroke=\"#e0e3e7\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value:.1}</text>",
            w - 130.0,
            left - 8.0,
            at + 4.0
        );
    }
    for share in SHARES {
        let (at, n) = (x(share), labels(share));
        let _ = writeln!(s, "<text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{n}</text>", h - bottom + 20.0);
    }
    let middle = (left + w - 130.0) / 2.0;
    let _ =
        writeln!(s, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">labelled training videos</text>", h - 15.0);
    let _ = writeln!(
        s,
        "<text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">accuracy on test videos</text>",
        (top + h - bottom) / 2.0
    );
    // Labels of lines that end near each other are moved apart.
    let mut ends: Vec<(f64, &str, &str)> = Vec::new();
    for (place, name) in names().enumerate() {
        // Beside each other, so that no bar covers another.
        let aside = 5.0 * (place as f64 - 1.5);
        let colour = COLOURS.iter().find(|(of, _)| *of == name).map_or("black", |(_, colour)| colour);
        let points: Vec<(f64, [f64; 3])> = SHARES
            .iter()
            .filter_map(|share| Some((x(*share) + aside, spread(rows, name, &format!("tune-{share}"), "top1")?)))
            .collect();
        let line: Vec<String> = points.iter().map(|(x, [mean, ..])| format!("{x:.1} {:.1}", y(*mean))).collect();
        let _ = writeln!(s, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", line.join("L"));
        for (x, [mean, low, high]) in &points {
            let _ = writeln!(
                s,
                "<path d=\"M{x:.1} {:.1}V{:.1}\" stroke=\"{colour}\"/><circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
                y(*low),
                y(*high),
                y(*mean)
            );
        }
        if let Some((_, [mean, ..])) = points.last() {
            ends.push((y(*mean), name, colour));
        }
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut last = f64::MIN;
    for (at, name, colour) in ends {
        last = at.max(last + 16.0);
        let name = if name == NONE { "from scratch" } else { name };
        let _ = writeln!(s, "<text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>", w - 120.0, last + 4.0);
    }
    s + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_and_a_figure_hold_the_means_of_the_seeds() {
        let row = |name, seed, top1: f64| {
            let tune =
                |share: f64| (format!("tune-{share}"), json!({"top1": top1 * share, "videos_train": 100.0 * share}));
            let mut evaluations = vec![("linear".to_owned(), json!({"top1": top1}))];
            evaluations.extend(SHARES.map(tune));
            Row { name, seed, evaluations }
        };
        let rows = [row("MaCLR", 0, 0.5), row("MaCLR", 1, 0.7), row(NONE, 0, 0.25)];
        let text = table(&rows);
        assert!(
            text.contains("| MaCLR | 0.600 (0.500 to 0.700) |") && text.contains("| random network | 0.250 ("),
            "{text}"
        );
        let svg = figure(&rows);
        assert!(svg.contains(">from scratch</text>") && svg.matches("<circle").count() == 6, "{svg}");
        assert!(!svg.contains("NaN"));
        let all = |text: &str| Options::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(all("dir --seeds 2 --tune-epochs 4").unwrap().epochs, [30, 4]);
        assert!(all("--seeds 2").is_err() && all("dir --seeds 0").is_err() && all("dir --what 1").is_err());
    }
}
