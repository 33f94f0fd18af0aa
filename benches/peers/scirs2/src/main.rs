//! The side of `cargo xtask versus --scirs2` that is not ours: optical flow of the crate scirs2-vision, answering one JSON line
//! after the other, as `benches/peers/versus.py` does. The first line printed says which version answers.
//!
//! The crate has three forms of TV-L1, which solve the problem with unequal accuracy. The one whose end-point error on the images of
//! the request is least is timed; the answer to `check` has the errors and times of the others.

mod forms;
mod images;

use forms::{FORMS, Solve};
use images::Pair;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::thread;
use std::time::Instant;

fn main() {
    let mut out = std::io::stdout().lock();
    let mut say = |answer: &Value| writeln!(out, "{answer}").and_then(|()| out.flush()).is_ok();
    say(&json!({"version": "0.6.5"}));
    let mut problem: Option<Problem> = None;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = serde_json::from_str(&line)
            .map_err(|e| e.to_string())
            .and_then(|request| answered(&request, &mut problem))
            .unwrap_or_else(|error| json!({"error": error}));
        if !say(&answer) {
            return;
        }
    }
}

/// What is timed: the most accurate form on the images of a request.
struct Problem {
    asked: Value,
    pair: Pair,
    pairs: usize,
    solve: Solve,
    /// For `check`.
    about: Value,
}

fn answered(request: &Value, problem: &mut Option<Problem>) -> Result<Value, String> {
    if request["do"] == "forget" {
        *problem = None;
        return Ok(json!({}));
    }
    if problem.as_ref().is_none_or(|p| p.asked != request["problem"]) {
        *problem = Some(Problem::new(&request["problem"])?);
    }
    let Some(problem) = problem else { return Err("there is no problem".to_owned()) };
    match request["do"].as_str() {
        Some("time") => problem.time(request),
        Some("check") => Ok(problem.about.clone()),
        _ => Err(format!("no such request: {request}")),
    }
}

impl Problem {
    fn new(asked: &Value) -> Result<Self, String> {
        let size = |key: &str| asked[key].as_u64().map(|n| n as usize).ok_or(format!("{key} is missing in {asked}"));
        let (pair, pairs) = (Pair::new(size("h")?, size("w")?), size("pairs")?);
        let mut tried = Vec::new();
        for (name, solve) in FORMS {
            let begin = Instant::now();
            let (u, v) = solve(&pair)?;
            tried.push((pair.end_point_error(&u, &v), name, solve, 1e3 * begin.elapsed().as_secs_f64()));
        }
        // A form that diverges gives no number, and comes last.
        tried.sort_by(|a, b| a.0.is_nan().cmp(&b.0.is_nan()).then(a.0.total_cmp(&b.0)));
        let (error, form, solve, _) = tried[0];
        let others: Vec<String> =
            tried[1..].iter().map(|(error, name, _, ms)| format!("{name} {error:.3} pixels in {ms:.0} ms")).collect();
        let still = vec![0.0; pair.numbers[0].len()];
        let about = json!({
            "form": form, "end_point_error": error, "other_forms": others.join(", "),
            "error_without_motion": pair.end_point_error(&still, &still),
        });
        Ok(Problem { asked: asked.clone(), pair, pairs, solve, about })
    }

    /// Several pairs each on a thread of their own; a single one on one, as the crate has no other way.
    fn time(&self, request: &Value) -> Result<Value, String> {
        let (seconds, least) = (request["seconds"].as_f64().unwrap_or(0.1), request["least"].as_u64().unwrap_or(2));
        let (begin, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
        while runs < least.max(1) || begin.elapsed().as_secs_f64() < seconds {
            let start = Instant::now();
            thread::scope(|scope| {
                let others: Vec<_> =
                    (1..self.pairs).map(|_| scope.spawn(|| (self.solve)(&self.pair).map(drop))).collect();
                let first = (self.solve)(&self.pair).map(drop);
                let all = others.into_iter().map(|other| other.join().unwrap_or(Err("it panics".to_owned())));
                all.fold(first, Result::and)
            })?;
            best = best.min(start.elapsed().as_secs_f64());
            runs += 1;
        }
        Ok(json!({"ms": 1e3 * best, "runs": runs}))
    }
}
