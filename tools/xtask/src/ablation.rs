//! `cargo xtask ablation`: the contribution of each part of MCL. Runs every row of the table in `docs/experiments.md`
//! with the example programs, and makes the table from their summaries.

use crate::programs;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

const SEEDS: u64 = 3;

/// A row: its name, the example, its options.
type Row = (&'static str, &'static str, &'static [&'static str]);

const ROWS: [Row; 9] = [
    ("plain contrast", "pretrain_mcl", &["--motion-sampling", "off", "--motion-crop", "off", "--w-align", "0"]),
    ("+ motion-focused sampling", "pretrain_mcl", &["--motion-crop", "off", "--w-align", "0"]),
    ("+ motion-focused crops", "pretrain_mcl", &["--motion-sampling", "off", "--w-align", "0"]),
    (
        "+ alignment, released form",
        "pretrain_mcl",
        &[
            "--motion-sampling",
            "off",
            "--motion-crop",
            "off",
            "--align-form",
            "weight-gradient",
            "--align-detached",
            "off",
            "--align-centred",
            "off",
            "--target-norm",
            "raw",
            "--align-module",
            "layer4.0.conv2.0",
            "--w-align",
            "1",
            "--w-align-warmup",
            "2",
        ],
    ),
    (
        "+ alignment, Grad-CAM's form, λ 1",
        "pretrain_mcl",
        &[
            "--motion-sampling",
            "off",
            "--motion-crop",
            "off",
            "--align-form",
            "grad-cam",
            "--align-detached",
            "off",
            "--align-centred",
            "off",
            "--w-align",
            "1",
        ],
    ),
    ("+ alignment, the preset's form", "pretrain_mcl", &["--motion-sampling", "off", "--motion-crop", "off"]),
    ("MCL, all of it", "pretrain_mcl", &[]),
    ("MaCLR", "pretrain_maclr", &[]),
    (
        "MaCLR on MCL's clips and crops, with the alignment",
        "pretrain_maclr",
        &["--motion-sampling", "on", "--motion-crop", "on", "--w-align", "10"],
    ),
];

/// Fields of a summary that are kept in the record.
const KEPT: [&str; 15] = [
    "seed",
    "steps",
    "seconds",
    "probe_top1",
    "probe_top1_random_init",
    "knn_top1",
    "knn_top1_random_init",
    "loss_first",
    "loss_last",
    "alignment_first",
    "alignment_last",
    "overlap_random_init",
    "overlap",
    "overlap_correlation_random_init",
    "overlap_correlation",
];

/// A data set: its name, and the options that select it and 120 steps.
struct Set {
    name: &'static str,
    options: Vec<String>,
}

/// Runs all rows with output folders below `folder` (finished runs are not repeated, interrupted ones resumed), on
/// procedural clips and, if `gestures` is given, on that data set; writes `record.json` there and returns the tables as
/// Markdown.
pub fn run(root: &Path, folder: &Path, gestures: Option<&Path>) -> Result<String> {
    let programs = programs::folder(root, None)?;
    let owned = |options: &[&str]| options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>();
    let mut sets = vec![Set { name: "procedural", options: owned(&["--epochs", "20"]) }];
    if let Some(data) = gestures {
        let path = data.to_str().context("the path of the data is not UTF-8")?;
        let options = owned(&["--data", path, "--preset", "small", "--no-flip", "--epochs", "12"]);
        sets.insert(0, Set { name: "gestures", options });
    }
    let mut runs = Vec::new();
    for row in &ROWS {
        for set in &sets {
            for seed in 0..SEEDS {
                runs.push((row, set, summary(&programs, folder, row, set, seed)?));
            }
        }
    }
    let record: Vec<Value> = runs
        .iter()
        .map(|((row, example, options), set, summary)| {
            let mut line = json!({"row": row, "set": set.name, "command": format!("{example} {}", options.join(" "))});
            for name in KEPT.iter().filter(|name| summary.get(**name).is_some_and(|v| !v.is_null())) {
                line[*name] = summary[*name].clone();
            }
            line
        })
        .collect();
    fs::write(folder.join("record.json"), format!("{:#}\n", Value::from(record)))?;
    Ok(table(&sets, |row, set| {
        runs.iter().filter(|(r, s, _)| r.0 == row && s.name == set).map(|(.., summary)| summary).collect()
    }))
}

/// The summary of one run, which is started if there is none.
fn summary(programs: &Path, folder: &Path, (row, example, options): &Row, set: &Set, seed: u64) -> Result<Value> {
    let place = ROWS.iter().position(|(name, ..)| name == row).unwrap_or_default();
    let out = folder.join(format!("{}-{place}-{seed}", set.name));
    let file = out.join("summary.json");
    if !file.is_file() {
        println!("{row}, {}, seed {seed}", set.name);
        let program = programs.join(example);
        let done = Command::new(&program)
            .args(&set.options)
            .args(*options)
            .args(["--seed", &seed.to_string(), "--cache"])
            .args([&folder.join("cache"), Path::new("--out"), &out])
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{row}, {}, seed {seed}: {}", set.name, errors.trim());
    }
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))
}

fn table<'a>(sets: &[Set], of: impl Fn(&str, &str) -> Vec<&'a Value>) -> String {
    let numbers = |summaries: &[&Value], name: &str| -> Vec<f64> {
        summaries.iter().filter_map(|s| s.get(name)?.as_f64()).collect()
    };
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len().max(1) as f64;
    let cells = |summaries: &[&Value], probe: &str, knn: &str| {
        let probes = numbers(summaries, probe);
        let each: Vec<String> = probes.iter().map(|p| format!("{p:.3}")).collect();
        format!(" {} | **{:.3}** | {:.3} |", each.join(" "), mean(&probes), mean(&numbers(summaries, knn)))
    };
    let mut out = String::from("| |");
    for set in sets {
        let _ = write!(out, " {}: probe, seeds 0 1 2 | mean | 1-NN |", set.name);
    }
    let _ = write!(out, "\n|---|{}\n| random network |", "---|---|---|".repeat(sets.len()));
    for set in sets {
        out += &cells(&of(ROWS[0].0, set.name), "probe_top1_random_init", "knn_top1_random_init");
    }
    for (row, ..) in &ROWS {
        let _ = write!(out, "\n| {row} |");
        for set in sets {
            out += &cells(&of(row, set.name), "probe_top1", "knn_top1");
        }
    }
    out += "\n\n| | set | alignment loss, first to last epoch | cosine with the motion, before and after | correlation |\n";
    out += "|---|---|---|---|---|\n";
    for (row, ..) in &ROWS {
        for set in sets {
            let summaries = of(row, set.name);
            let pair = |a: &str, b: &str| {
                let [a, b] = [a, b].map(|name| mean(&numbers(&summaries, name)));
                format!("{a:.2} → {b:.2}")
            };
            if numbers(&summaries, "overlap").len() == summaries.len() {
                let loss = pair("alignment_first", "alignment_last");
                let cosine = pair("overlap_random_init", "overlap");
                let correlation = pair("overlap_correlation_random_init", "overlap_correlation");
                let _ = writeln!(out, "| {row} | {} | {loss} | {cosine} | {correlation} |", set.name);
            }
        }
    }
    out
}
