//! `cargo xtask protocol`: what a method is worth, by the protocol of `docs/protocol.md`. Actors are left out in turn, then
//! the frozen recipe is scored on the test actors, once.

mod figure;
mod options;
mod record;
mod runs;
mod scores;
mod set;

pub use options::Options;

use crate::programs;
use anyhow::{Context, Result, bail};
use options::{Method, PENALTIES};
use record::{Entry, Record, now};
use runs::{Place, Runs};
use scores::{Predictions, over_seeds};
use serde_json::{Map, Value, json};
pub(crate) use set::Set;
use std::fs;
use std::path::Path;

/// Runs everything that is not done yet, writes `protocol.json` and `protocol.svg` into the folder, and prints a table.
///
/// # Errors
/// When a recipe was scored on the test set before; when a program does not build or fails; when a file cannot be read or
/// written.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let set = Set::read(&options.data)?;
    expect_own(&options.out.join("protocol.json"), &set.hash())?;
    fs::create_dir_all(&options.out).with_context(|| format!("{}", options.out.display()))?;
    let out = options.out.canonicalize()?;
    let path = options.record.clone().unwrap_or_else(|| root.join("benches/record/protocol-scorings.json"));
    let mut record = Record::open(&path)?;
    let [date, commit] = now(root)?;
    let entry = |part: &str, method: &Method, seeds| Entry {
        set: set.hash(),
        part: part.to_owned(),
        method: method.name.to_owned(),
        recipe: method.recipe(),
        options: method.identity(),
        seeds,
        date: date.clone(),
        commit: commit.clone(),
        out: format!("{} ({})", out.file_name().unwrap_or_default().display(), set::short(&out.display().to_string())),
    };
    let of_folds = if options.once { "folds, pre-trained once" } else { "folds" };
    if !options.folds_only && !options.again {
        for method in &options.methods {
            record.first_time(&entry("test", method, options.seeds))?;
        }
    }
    let programs = programs::folder(root, options.programs.as_deref())?;
    let mut actors = set.actors()?;
    if let Some(folds) = options.folds.filter(|folds| *folds > actors.len()) {
        bail!("--folds is {folds}, and there are {} training actors", actors.len());
    }
    actors.truncate(options.folds.unwrap_or(actors.len()));
    let places: Vec<Place> = actors.into_iter().map(Place::Fold).collect();
    let mut runs = Runs::new(&out, &programs, &set, options.once);
    for method in &options.methods {
        (0..options.fold_seeds).for_each(|seed| places.iter().for_each(|place| runs.plan(method, place, seed)));
    }
    if !options.folds_only {
        for method in &options.methods {
            (0..options.seeds).for_each(|seed| runs.plan(method, &Place::Test, seed));
        }
    }
    // A recipe that its program refuses is no trial.
    options.methods.iter().try_for_each(|method| runs.check(method, places.first().unwrap_or(&Place::Test)))?;
    println!("{}", runs.progress());
    let mut folds = Vec::new();
    for method in &options.methods {
        if !places.is_empty() {
            record.add(entry(of_folds, method, options.fold_seeds))?;
        }
        let seeds = 0..options.fold_seeds;
        let mut of = |seed| places.iter().map(|place| runs.of(method, place, seed)).collect::<Result<Vec<_>>>();
        folds.push(seeds.map(&mut of).collect::<Result<Vec<_>>>()?);
    }
    let mut tests = Vec::new();
    if !options.folds_only {
        for method in &options.methods {
            // Before the first scoring: one that is interrupted counts, too.
            record.add(entry("test", method, options.seeds))?;
            tests.push((0..options.seeds).map(|seed| runs.of(method, &Place::Test, seed)).collect::<Result<Vec<_>>>()?);
        }
    }
    let rgb = options.methods.iter().position(|method| method.name == "rgb");
    let baselines = [
        rgb.and_then(|at| of_folds_together(folds.get(at)?).ok()),
        rgb.and_then(|at| Predictions::mean(&predictions(tests.get(at)?)).ok()),
    ];
    let mut methods = Map::new();
    for (i, method) in options.methods.iter().enumerate() {
        let mut about = json!({
            "program": method.program,
            "options": method.identity(),
            "recipe": method.recipe(),
            "trials_on_folds": record.trials(&set.hash(), method.name),
        });
        if let Some(found) = folds.get(i).filter(|_| !places.is_empty()) {
            about["folds"] = figures(&of_folds_together(found)?, baselines[0].as_ref())?;
            let of = |seed: usize, place: &Place, (summary, p): &(Value, Predictions)| {
                let ([top1, mean_class], actor, l2) = (p.accuracy(), place.name(), &summary["l2"]);
                json!({"actor": actor, "seed": seed, "videos": p.len(), "top1": top1, "mean_class": mean_class, "l2": l2})
            };
            let seeds = found.iter().enumerate();
            about["folds"]["each"] = seeds
                .flat_map(|(seed, found)| places.iter().zip(found).map(move |(place, one)| of(seed, place, one)))
                .collect();
        }
        if let Some(found) = tests.get(i) {
            let predictions = predictions(found);
            about["test"] = figures(&Predictions::mean(&predictions)?, baselines[1].as_ref())?;
            for (at, name) in ["top1", "mean_class"].into_iter().enumerate() {
                let values: Vec<f64> = predictions.iter().map(|p| p.accuracy()[at]).collect();
                let interval = over_seeds(&values).1;
                about["test"][format!("{name}_seeds")] = json!(values);
                about["test"][format!("{name}_over_seeds")] = json!(interval);
            }
            about["test"]["l2"] = found.iter().map(|(summary, _)| summary["l2"].clone()).collect();
            about["test"]["scorings"] = record.scorings(&entry("test", method, options.seeds)).into();
        }
        methods.insert(method.name.to_owned(), about);
    }
    let all = json!({
        "data": options.data.file_name().map(|name| name.to_string_lossy().into_owned()),
        "set": set.hash(),
        "videos": [set.train.len(), set.test.len()],
        "folds": places.iter().map(Place::name).collect::<Vec<_>>(),
        "fold_seeds": options.fold_seeds,
        "pre_trained_once": options.once,
        "seeds": options.seeds,
        "penalties": PENALTIES,
        "date": date,
        "commit": commit,
        "methods": methods,
    });
    fs::write(out.join("protocol.json"), format!("{all:#}\n"))?;
    fs::write(out.join("protocol.svg"), figure::draw(&all))?;
    print!("{}", figure::table(&all));
    Ok(())
}

/// Checks that a result that is there is one of this command for this set, and may be replaced.
fn expect_own(path: &Path, set: &str) -> Result<()> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
    let of = serde_json::from_str::<Value>(&text).ok().and_then(|all| Some(all["set"].as_str()?.to_owned()));
    match of {
        Some(of) if of == set => Ok(()),
        Some(_) => bail!("{} is of another set of videos: choose another folder", path.display()),
        None => bail!("{} is not of this command: choose another folder", path.display()),
    }
}

/// What networks scored, with the summaries of the programs that scored them.
type Scored = [(Value, Predictions)];

fn predictions(found: &Scored) -> Vec<Predictions> {
    found.iter().map(|(_, p)| p.clone()).collect()
}

/// The predictions of all folds, of all seeds: of each video the share of the seeds that are right.
fn of_folds_together(seeds: &[Vec<(Value, Predictions)>]) -> Result<Predictions> {
    Predictions::mean(&seeds.iter().map(|found| Predictions::together(predictions(found))).collect::<Vec<_>>())
}

/// The accuracies of predictions with their intervals over actors and tracks, and what they are above `rgb`.
fn figures(all: &Predictions, rgb: Option<&Predictions>) -> Result<Value> {
    let ([top1, mean_class], intervals) = (all.accuracy(), all.bootstrap(rgb)?);
    let mut figures = json!({
        "videos": all.len(),
        "top1": top1,
        "mean_class": mean_class,
        "top1_over_actors": intervals.top1,
        "mean_class_over_actors": intervals.mean_class,
        "by_actor": all.by_actor()?,
    });
    if let Some(rgb) = rgb {
        let [other, other_class] = rgb.accuracy();
        figures["top1_above_rgb"] = json!(top1 - other);
        figures["mean_class_above_rgb"] = json!(mean_class - other_class);
        figures["top1_above_rgb_over_actors"] = json!(intervals.top1_above);
        figures["mean_class_above_rgb_over_actors"] = json!(intervals.mean_class_above);
    }
    Ok(figures)
}
