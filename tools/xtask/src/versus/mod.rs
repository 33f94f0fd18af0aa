//! Our operations and a peer's on the same cases, by turns: `benches/versus.rs` and `benches/peers/versus.py` are two
//! processes that live as long as the comparison and answer one line after the other, so that whatever else the machine
//! does meets both alike.

mod options;
mod record;
mod side;

pub use options::Options;

use anyhow::{Context, Result, ensure};
use record::{Record, Row};
use serde_json::{Value, json};
use side::Side;
use std::path::Path;

/// A run longer than this is not repeated within a turn, in milliseconds.
const LONG: f64 = 150.0;

/// Runs the comparison, prints its table and writes what is asked for.
///
/// # Errors
/// When a side cannot be started or ends, when no case is left, when a file cannot be written.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let (mut peer, versions) = Side::peer(root, options)?; // first: it is missing sooner than ours is built
    let mut ours = Side::ours(root, options)?;
    let list = ours.ask(&json!({"do": "list"}))?;
    let all = list["cases"].as_array().context("our side lists no cases")?;
    let kept = |c: &&Value| options.keeps(c["name"].as_str().unwrap_or_default(), c["extra"] == true);
    let cases: Vec<&Value> = all.iter().filter(kept).collect();
    ensure!(!cases.is_empty(), "none of the {} cases has {:?} in its name", all.len(), options.only);
    let mut record = Record::new(options, &list, versions);
    record.print_head();
    // Neighbours with the same problem share the peer's runs: f32, and products of f32 formed otherwise.
    for group in cases.chunk_by(|a, b| a["problem"] == b["problem"]) {
        let mut sides = [&mut ours, &mut peer];
        for row in group_of(&mut sides, group, options)? {
            row.print();
            record.rows.push(row);
        }
        for side in sides {
            side.ask(&json!({"do": "forget"}))?;
        }
    }
    record.print_means();
    record.write(options)
}

/// Times the cases of one problem by turns, each side's best of all.
fn group_of([ours, peer]: &mut [&mut Side; 2], group: &[&Value], options: &Options) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = group.iter().map(|case| Row::new(case)).collect();
    let problem = &group[0]["problem"];
    let mut theirs = Row::default();
    for _ in 0..options.rounds {
        for row in &mut rows {
            let answer = ours.ask(&request(options, json!({"case": row.name}), row.ms))?;
            row.take(&answer);
        }
        if !problem.is_null() && theirs.error.is_none() {
            let answer = peer.ask(&request(options, json!({"problem": problem}), theirs.ms))?;
            theirs.take(&answer);
        }
    }
    if !problem.is_null() && theirs.error.is_none() {
        theirs.take(&peer.ask(&json!({"do": "check", "problem": problem}))?);
    }
    for row in &mut rows {
        let answer = ours.ask(&json!({"do": "check", "case": row.name}))?;
        row.extend(&answer);
        row.peer(&theirs);
    }
    Ok(rows)
}

/// What is asked of a side whose best run so far took `ms`.
fn request(options: &Options, mut what: Value, ms: f64) -> Value {
    what["do"] = "time".into();
    what["seconds"] = options.seconds.into();
    // One run after the other side's finds nothing of its own in a cache; a long one does not care.
    what["least"] = if ms.is_finite() && ms > LONG { 1 } else { 2 }.into();
    what["processor"] = options.processor_time.into();
    what
}
