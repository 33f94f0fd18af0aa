//! Retrieval by frozen features: for each test video the nearest training videos, by the cosine of their features.
//!
//! `cargo run --release --example retrieve -- --init runs/pretrain_maclr` evaluates the default run.

mod support;

use anyhow::Result;
use clap::Parser;
use image::imageops::{FilterType, crop_imm, resize};
use image::{Rgb, RgbImage};
use serde_json::Map;
use std::process::ExitCode;
use support::animation;
use support::evaluate::{Options, Task};
use support::evaluation::{Evaluation, Part, go_on};
use support::output::say;
use support::protocol::{PoolOption, ProtocolOption, Sampling};
use support::sheet::{self, Key, Legend, Sample, Strip};
use support::table::Table;
use tubelet::eval::retrieval::{Retrieved, retrieve};

/// The numbers of nearest videos of which one is to be of the query's class.
const RANKS: [usize; 5] = [1, 5, 10, 20, 50];
/// Nearest videos of a query in the table and on the sheet.
const SHOWN: usize = 6;
/// Side of a picture on the sheet, and the width of the line around it.
const SIDE: u32 = 96;
const LINE: u32 = 4;
/// Frames of the sheet that moves.
const MOMENTS: usize = 12;
const QUERY: [u8; 3] = [60, 130, 250];
const RIGHT: [u8; 3] = [40, 170, 110];
const WRONG: [u8; 3] = [235, 60, 50];

/// Find, for each test video, the nearest training videos by the features of a frozen network.
///
/// R@k is the share of test videos with at least one video of their class among the k nearest. An interrupted
/// evaluation begins again with the decoded frames of the cache, and gives the same figures.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    protocol: ProtocolOption,
    #[command(flatten)]
    pool: PoolOption,
}

fn main() -> ExitCode {
    support::args::program(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let options = &args.options;
    let prepared = options.prepare(Sampling { pool: args.pool.pool, ..args.protocol.preset.protocol().sampling })?;
    let splits = options.videos.labelled(options.seed)?;
    let parts = vec![splits.train, splits.test];
    let task = Task { program: "retrieve", data: parts, layout: splits.layout, settings: Map::new(), plan: Vec::new() };
    let Some(mut run) = prepared.open(options, task)? else { return Ok(()) };
    let (gallery, queries) = (run.features(0)?, run.features(1)?);
    let found = retrieve(&gallery, &queries, RANKS[RANKS.len() - 1])?;
    nearest(&run, &found).write(&run.out.join("nearest.csv"))?;
    draw(&run, &found)?;
    let mut summary = run.summary();
    summary.set("videos_train", gallery.len()).set("videos_test", queries.len());
    for k in RANKS {
        summary.set(&format!("r{k}"), found.recall(k));
    }
    let ([r1, r5], elsewhere) = (["r1", "r5"].map(|name| summary.shown(name)), run.elsewhere());
    say(format_args!("R@1 {r1}, R@5 {r5}{elsewhere}; files in {}", run.out.display()));
    summary.finish(&run.out)
}

/// The nearest training videos of each test video.
fn nearest(run: &Evaluation, found: &Retrieved) -> Table {
    let (gallery, queries) = (&run.parts[0], &run.parts[1]);
    let mut table = Table::new(["query", "query_class", "rank", "file", "class", "right"]);
    for (q, near) in found.nearest.iter().enumerate() {
        for (rank, &i) in near.iter().take(SHOWN).enumerate() {
            let (asked, class) = (queries.class(q), gallery.class(i));
            let right = if asked == class { "1" } else { "0" };
            table.row([queries.name(q), asked, &(rank + 1).to_string(), gallery.name(i), class, right]);
        }
    }
    table
}

/// The frame of a video at moment `i` of `n` spread over it, for `[i, n]`: its middle square, with a line around it.
fn picture(part: &Part, video: usize, [i, n]: [usize; 2], line: [u8; 3]) -> Result<RgbImage> {
    let view = part.loader.cache.get(part.place(video))?;
    let (h, w) = view.size();
    let (h, w) = (u32::try_from(h)?, u32::try_from(w)?);
    let frame = RgbImage::from_raw(w, h, view.frame((2 * i + 1) * view.len() / (2 * n)).to_vec());
    let frame = frame.ok_or_else(|| anyhow::anyhow!("a frame of {} has not the size it says", part.name(video)))?;
    let side = h.min(w);
    let square = crop_imm(&frame, (w - side) / 2, (h - side) / 2, side, side).to_image();
    let mut small = resize(&square, SIDE, SIDE, FilterType::Triangle);
    let edge = |v: u32| !(LINE..SIDE - LINE).contains(&v);
    for (x, y, pixel) in small.enumerate_pixels_mut() {
        if edge(x) || edge(y) {
            *pixel = Rgb(line);
        }
    }
    Ok(small)
}

/// Some test videos of as many classes as possible, each with its nearest training videos, at one moment.
fn samples(run: &Evaluation, found: &Retrieved, moment: [usize; 2]) -> Result<Vec<Sample>> {
    let (gallery, queries) = (&run.parts[0], &run.parts[1]);
    let mut samples = Vec::new();
    for q in sheet::spread(&queries.labels(), sheet::ROWS) {
        let (mut frames, mut captions) = (vec![picture(queries, q, moment, QUERY)?], vec!["query".to_owned()]);
        for &i in found.nearest[q].iter().take(SHOWN) {
            let right = gallery.class(i) == queries.class(q);
            frames.push(picture(gallery, i, moment, if right { RIGHT } else { WRONG })?);
            captions.push(format!("{} {}", if right { "✓" } else { "✗" }, gallery.class(i)));
        }
        let (name, class) = (queries.name(q), queries.class(q));
        let title = if name.contains(class) { name.to_owned() } else { format!("{class}: {name}") };
        let strip = Strip::pictures("nearest first", frames)?.captioned(captions)?;
        samples.push(Sample { title, strips: vec![strip] });
    }
    Ok(samples)
}

/// Draws them: a still sheet of the middle frames, and one that moves.
fn draw(run: &Evaluation, found: &Retrieved) -> Result<()> {
    let still = samples(run, found, [0, 1])?;
    let legend = |which: &str| {
        let text = format!(
            "{} of {} test videos and their nearest training videos, by the cosine of features: {which}. R@1 of all is \
             {:.3}.",
            still.len(),
            run.parts[1].len(),
            found.recall(1)
        );
        let of = |colour, meaning| Key { colour, outline: true, meaning };
        let key = vec![of(QUERY, "the test video"), of(RIGHT, "of its class (✓)"), of(WRONG, "of another class (✗)")];
        Legend { text: vec![text], wheel: false, key }
    };
    sheet::draw(&run.out.join("retrieval.png"), &legend("the middle frame of each"), &still)?;
    let go_on = go_on(run.stop.clone(), &run.out);
    let moment = |i| go_on().map_err(Into::into).and_then(|()| samples(run, found, [i, MOMENTS]));
    let moments = (0..MOMENTS).map(moment).collect::<Result<Vec<_>>>()?;
    let which = format!("{MOMENTS} frames of each, from its start to its end");
    animation::draw(&run.out.join("retrieval.apng"), &legend(&which), &moments, &go_on)
}
