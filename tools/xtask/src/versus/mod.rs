//! Compares this crate's operations with a peer's on the same cases, alternating between the two: `benches/versus.rs`
//! and `benches/peers/versus.py` are two processes that run as long as the comparison and answer requests line by line,
//! so that other load on the machine affects both equally. What the machine reaches is probed before and after each
//! case; a case during which that changed is repeated, and has no ratio if it always did.

mod machine;
mod options;
mod quiet;
mod record;
mod rounds;
mod side;

pub use machine::{described, machine};
pub use options::Options;

use anyhow::{Context, Result, ensure};
use quiet::{Attempt, Probe, until_quiet};
use record::{Record, Row};
use serde_json::{Value, json};
use side::Side;
use std::path::Path;

/// Maximum duration, in milliseconds, of a run that is repeated within a turn.
const LONG: f64 = 150.0;

/// Runs the comparison, prints its table and writes the files that are requested.
///
/// # Errors
/// When a side cannot be started or terminates, when no case is selected, when a file cannot be written.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    // First, so that a missing peer is reported early.
    let (mut peer, versions) = match &options.before {
        Some(binary) => (Side::before(binary, options)?, json!({"tubelet": "another commit (--before)"})),
        None if options.scirs2 => Side::scirs2(root)?,
        None => Side::peer(root, options)?,
    };
    let mut ours = Side::ours(root, options)?;
    let list = ours.ask(&json!({"do": "list"}))?;
    let all = list["cases"].as_array().context("our side lists no cases")?;
    let kept = |c: &&Value| {
        // That peer has optical flow alone.
        let has = !options.scirs2 || c["problem"]["op"] == "tvl1";
        has && options.keeps(c["name"].as_str().unwrap_or_default(), c["extra"] == true)
    };
    let cases: Vec<&Value> = all.iter().filter(kept).collect();
    ensure!(!cases.is_empty(), "none of the {} cases has {:?} in its name", all.len(), options.only);
    let mut record = Record::new(options, &list, versions, machine(Path::new("/")));
    record.print_head();
    // Adjacent cases with the same problem share the peer's runs: f32, and the other ways to compute products of f32.
    for group in cases.chunk_by(|a, b| options.before.is_none() && a["problem"] == b["problem"]) {
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

/// Times the cases of one problem, until the machine is the same before and afterwards.
fn group_of(sides: &mut [&mut Side; 2], group: &[&Value], options: &Options) -> Result<Vec<Row>> {
    // What a peer is asked for: a problem, or the case itself of another commit of this crate.
    let asked = match &options.before {
        Some(_) => json!({"case": group[0]["name"]}),
        None => json!({"problem": group[0]["problem"]}),
    };
    let known = asked.as_object().is_some_and(|a| a.values().all(|v| !v.is_null()));
    let asked = known.then_some(asked);
    let ((mut rows, mut theirs), conditions) = until_quiet(options.tries, 0.01 * options.drift, || {
        let before = probe(sides[0])?;
        let result = turns(sides, group, asked.as_ref(), options)?;
        Ok(Attempt { before, result, after: probe(sides[0])? })
    })?;
    let [ours, peer] = sides;
    if let (Some(mut check), None) = (asked, &theirs.error) {
        check["do"] = "check".into();
        theirs.checked(&peer.ask(&check)?);
    }
    for row in &mut rows {
        let answer = ours.ask(&json!({"do": "check", "case": row.name}))?;
        row.checked(&answer);
        row.peer(&theirs);
        row.conditions = Some(conditions.clone());
    }
    Ok(rows)
}

/// What the machine reaches now.
fn probe(ours: &mut Side) -> Result<Probe> {
    let answer = ours.ask(&json!({"do": "probe"}))?;
    Probe::of(&answer).with_context(|| format!("our side's probe of the machine is {answer}"))
}

/// All rounds, alternating between the sides; also returns what the peer did. It is not asked if there is nothing to
/// ask, nor again after an error.
fn turns(
    [ours, peer]: &mut [&mut Side; 2],
    group: &[&Value],
    asked: Option<&Value>,
    options: &Options,
) -> Result<(Vec<Row>, Row)> {
    let mut rows: Vec<Row> = group.iter().map(|case| Row::new(case)).collect();
    let mut theirs = Row::default();
    for _ in 0..options.rounds {
        for row in &mut rows {
            let answer = ours.ask(&request(options, json!({"case": row.name}), row.ms()))?;
            row.take(&answer);
        }
        if let (Some(asked), None) = (asked, &theirs.error) {
            theirs.take(&peer.ask(&request(options, asked.clone(), theirs.ms()))?);
        }
    }
    Ok((rows, theirs))
}

/// The request to a side whose best run so far took `ms`.
fn request(options: &Options, mut what: Value, ms: f64) -> Value {
    what["do"] = "time".into();
    what["seconds"] = options.seconds.into();
    // After the other side's turn, caches contain nothing of this side's, so a single short run would be slow; for a
    // long one it does not matter.
    what["least"] = if ms.is_finite() && ms > LONG { 1 } else { 2 }.into();
    what["processor"] = options.processor_time.into();
    what
}
