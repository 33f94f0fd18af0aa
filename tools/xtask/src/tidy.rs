//! Rules of the repository, checked: names that belong together match, files name others downwards only and in no circle,
//! every table of cases is used by a test, tolerances are derived in one place, files stay small.

use crate::arrows;
use crate::device::{Family, families, files as device_files};
use crate::source::{Source, entries, read};
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::Path;

/// Longest file, in lines.
const LONGEST: usize = 450;

/// The files of an operation's folder.
const FILES: [&str; 5] = ["mod.rs", "reference.rs", "cpu.rs", "grad.rs", "cases.rs"];

/// Operations that lack some of [`FILES`], and why. An entry that is no longer true is a problem too.
const WITHOUT: &[(&str, &[&str], &str)] = &[
    ("convert", &["reference.rs", "cpu.rs", "cases.rs"], "the work is `Tensor::cast` and `Tensor::reshape`"),
    ("conv_norm", &["reference.rs", "cpu.rs", "cases.rs"], "the work is that of `conv3d` and `batch_norm`"),
    ("linear", &["cpu.rs"], "a matrix product: it is built on `matmul`"),
    ("sgd", &["grad.rs"], "an update of weights is not differentiated"),
    ("ema", &["grad.rs"], "an update of weights is not differentiated"),
    ("tvl1", &["grad.rs"], "flow is computed from data, not learned"),
    ("motion_map", &["grad.rs"], "flow is computed from data, not learned"),
];

/// Benches that are not of one operation, and what they measure.
const OTHER_BENCHES: &[(&str, &str)] = &[
    ("augment", "clips to the input of a network"),
    ("decode", "video files through programs and within the process"),
    ("gpu", "every operation on a GPU"),
    ("model", "predicted training steps on a GPU, for `cargo xtask model`"),
    ("mcl_step", "what the alignment loss costs a training step"),
    ("profile", "where a training step's time goes, for `cargo xtask profile`"),
    ("pack", "the index of a packed folder of ten million videos"),
    ("scaling", "how the cost of a training step grows"),
    ("train_step", "whole training steps"),
    ("versus", "our side of `cargo xtask versus`"),
];

/// Families of kernels that are not of one operation, and what they do.
const OTHER_FAMILIES: &[(&str, &str)] = &[
    ("cast", "f32 to bf16 and back, launched by tensors"),
    ("rows", "rows of a tensor in another order"),
    ("queue", "keys into the ring of negatives"),
    ("augment", "clips to the input of a network"),
    ("augment_boxes", "their blur as PIL does it"),
    ("augment_over", "other clips behind them, and patches over them"),
    ("peaks", "what the hardware reaches: a copy, multiply-adds, matrix products"),
    ("peaks_sm90", "the same of Hopper: products of warpgroups, copies by TMA"),
    ("classes", "one kernel for each class of instruction, for comparing the simulator with hardware"),
];

/// Everything that is out of order under `root`, one line each.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let files = read(root, &["src", "tests", "benches", "examples", "tools"])?;
    let ops: Vec<String> =
        entries(root, "src/ops")?.into_iter().filter(|(_, folder)| *folder).map(|(name, _)| name).collect();
    let mut found = Vec::new();
    found.extend(operations(&files, &ops));
    found.extend(benches(root, &files, &ops)?);
    found.extend(tests(root, &files)?);
    found.extend(arrows::upwards(&files));
    found.extend(arrows::circles(&files));
    found.extend(tolerances(&files));
    found.extend(lengths(&files));
    found.extend(device_code(root, &ops)?);
    found.extend(leftovers(&files));
    Ok(found)
}

/// Each operation has its files, is listed in `ops/mod.rs`, and its table of cases is used by a test.
fn operations(files: &[Source], ops: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let list = files.iter().find(|f| f.path == "src/ops/mod.rs");
    let has = |path: &str| {
        // A file that outgrew its length is a folder of the same stem.
        let folder = format!("{}/mod.rs", path.trim_end_matches(".rs"));
        files.iter().any(|f| f.path == path || f.path == folder)
    };
    for op in ops {
        for file in FILES {
            let excused = WITHOUT.iter().any(|(o, files, _)| o == op && files.contains(&file));
            match (has(&format!("src/ops/{op}/{file}")), excused) {
                (false, false) => found.push(format!("src/ops/{op}: {file} is missing")),
                (true, true) => found.push(format!("src/ops/{op}/{file} exists, yet tidy excuses its absence")),
                _ => {}
            }
        }
        if !list.is_some_and(|l| l.mentions(&format!("pub mod {op};"))) {
            found.push(format!("src/ops/mod.rs does not list {op}"));
        }
        let tested = files.iter().filter(|f| f.under("tests/it")).any(|f| uses_cases(f, op));
        if has(&format!("src/ops/{op}/cases.rs")) && !tested {
            found.push(format!("src/ops/{op}/cases.rs is reached by no test in tests/it"));
        }
    }
    for (op, ..) in WITHOUT.iter().filter(|(op, ..)| !ops.iter().any(|o| o == op)) {
        found.push(format!("tidy excuses files that src/ops/{op} lacks, which does not exist"));
    }
    found
}

/// Whether a test names the table of `op`: `op::cases` or `op::{.. cases ..}`.
fn uses_cases(file: &Source, op: &str) -> bool {
    let code: String = file.all_code().flat_map(|(_, l)| l.chars().filter(|c| !c.is_whitespace())).collect();
    let direct = format!("{op}::cases");
    let group = format!("{op}::{{");
    code.contains(&direct)
        || code.split(&group).skip(1).any(|rest| rest.split(';').next().unwrap_or("").contains("cases"))
}

/// Each bench is named for an operation (or listed in [`OTHER_BENCHES`]) and registered in `benches/Cargo.toml`.
fn benches(root: &Path, files: &[Source], ops: &[String]) -> Result<Vec<String>> {
    let manifest = std::fs::read_to_string(root.join("benches/Cargo.toml"))?;
    let registered: BTreeSet<&str> = manifest
        .split("[[bench]]")
        .skip(1)
        .filter_map(|section| section.lines().find_map(|l| l.strip_prefix("name = ")))
        .map(|name| name.trim().trim_matches('"'))
        .collect();
    let stems: BTreeSet<&str> = files
        .iter()
        .filter_map(|f| f.path.strip_prefix("benches/")?.strip_suffix(".rs"))
        .filter(|stem| !stem.contains('/'))
        .collect();
    let known = |stem: &str| ops.iter().any(|op| op == stem) || OTHER_BENCHES.iter().any(|(b, _)| *b == stem);
    let mut found: Vec<String> = stems
        .iter()
        .filter(|stem| !known(stem))
        .map(|stem| format!("benches/{stem}.rs is named for no operation of src/ops"))
        .collect();
    for stem in stems.symmetric_difference(&registered) {
        found.push(format!("bench {stem}: the file and its [[bench]] section in benches/Cargo.toml do not match"));
    }
    Ok(found)
}

/// Each test module is listed, and each fixture has the script that made it.
fn tests(root: &Path, files: &[Source]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in files.iter().filter(|f| f.under("tests/it") && f.path != "tests/it/main.rs") {
        let path = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let (folder, stem) = path.rsplit_once('/').unwrap_or_default();
        let list = format!("{folder}/{}.rs", if folder == "tests/it" { "main" } else { "mod" });
        if !files.iter().any(|f| f.path == list && f.mentions(&format!("mod {stem};"))) {
            found.push(format!("{} is not listed in {list}", file.path));
        }
    }
    let makers: BTreeSet<String> = entries(root, "tests/fixtures/make")?.into_iter().map(|(name, _)| name).collect();
    for (name, _) in entries(root, "tests/fixtures")? {
        let Some(stem) = name.strip_suffix(".safetensors") else { continue };
        if !makers.contains(&format!("{stem}.py")) {
            found.push(format!("tests/fixtures/{name} has no tests/fixtures/make/{stem}.py"));
        }
    }
    Ok(found)
}

/// Tests compare floats through `tests/it/support/close.rs`: no comparison with a small literal, no machine epsilon elsewhere.
fn tolerances(files: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|f| f.under("tests/it") && f.path != "tests/it/support/close.rs") {
        for (number, line) in file.all_code().filter(|(_, l)| compares_with_small(l) || l.contains("EPSILON")) {
            found.push(format!(
                "{}:{number}: a tolerance belongs into tests/it/support/close.rs: {}",
                file.path,
                line.trim()
            ));
        }
    }
    found
}

/// Whether `<` or `>` is followed by a literal such as `1e-6` or `0.001`.
fn compares_with_small(line: &str) -> bool {
    line.match_indices(['<', '>']).any(|(at, _)| {
        let rest = line[at + 1..].trim_start_matches('=').trim_start();
        let end =
            rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | 'e' | '-' | '_'))).unwrap_or(rest.len());
        let literal = &rest[..end];
        literal.contains("e-") || literal.starts_with("0.00")
    })
}

fn lengths(files: &[Source]) -> Vec<String> {
    let long = files.iter().filter(|f| f.lines.len() > LONGEST);
    long.map(|f| format!("{} has {} lines, more than {LONGEST}", f.path, f.lines.len())).collect()
}

/// Each family of kernels is named for an operation (`op` or `op_part`; or listed in [`OTHER_FAMILIES`]), each
/// header is included by one, and the files are as short as the others.
fn device_code(root: &Path, ops: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut included = BTreeSet::new();
    for name in families(root)? {
        included.extend(Family::read(root, &name)?.headers.into_iter().map(|(header, _)| header));
        let part_of = |op: &String| name.strip_prefix(op.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('_'));
        if !ops.iter().any(part_of) && !OTHER_FAMILIES.iter().any(|(family, _)| *family == name) {
            found.push(format!("the family {name} in cuda/ is named for no operation of src/ops"));
        }
    }
    for file in device_files(root)? {
        if file.ends_with(".cuh") && !included.contains(&file) {
            found.push(format!("cuda/{file} is included by no kernel"));
        }
        let lines = std::fs::read_to_string(root.join("cuda").join(&file))?.lines().count();
        if lines > LONGEST {
            found.push(format!("cuda/{file} has {lines} lines, more than {LONGEST}"));
        }
    }
    Ok(found)
}

/// Nothing unfinished and no trace of debugging.
fn leftovers(files: &[Source]) -> Vec<String> {
    let words = ["todo", "unimplemented", "dbg"].map(|w| format!("{w}!("));
    let mut found = Vec::new();
    for file in files {
        for (number, _) in file.all_code().filter(|(_, l)| words.iter().any(|w| l.contains(w.as_str()))) {
            found.push(format!("{}:{number}: unfinished, or left from debugging", file.path));
        }
        if file.lines.iter().any(|l| l.trim() == "//! To come.") {
            found.push(format!("{} is still empty", file.path));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect() }
    }

    #[test]
    fn a_bare_tolerance_is_found() {
        for line in ["assert!(e < 1e-6);", "(a - b).abs() <= 2.5e-3", "if 0.001 > x && x >0.0001 {"] {
            assert!(compares_with_small(line), "{line}");
        }
        for line in ["assert_norm(\"x\", a, b, 1e-6)", "for i in 0..n { a < 10 }", "Vec<f32>", "p < 0.5"] {
            assert!(!compares_with_small(line), "{line}");
        }
    }

    #[test]
    fn a_table_is_found_however_it_is_imported() {
        let t = |text: &str| uses_cases(&file("tests/it/x.rs", text), "relu");
        assert!(t("use tubelet::ops::relu::cases::CASES;"));
        assert!(t("use tubelet::ops::relu::{self, cases};"));
        assert!(!t("use tubelet::ops::relu;\nuse tubelet::ops::add::cases;"));
    }
}
