//! Features of videos from a frozen network, for other programs: a NumPy array and a table of its rows.
//!
//! `cargo run --release --example extract_features -- --init runs/pretrain_maclr --data path/to/videos`.

mod support;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::Map;
use std::process::ExitCode;
use support::checks::of_option;
use support::evaluate::{Options, Task};
use support::output::say;
use support::protocol::{PoolOption, ProtocolOption, Sampling};
use support::table::Table;
use tubelet::eval::npy;
use tubelet::train::folder::AtomicFile;
use tubelet::video::{Dataset, Splits};

/// Write the features of videos, labelled or not, to features.npy ([n d] f32) and index.csv (row, file, label).
///
/// A row is the average over a video's views, or what --pool makes of them. Videos are read one after the other: memory
/// does not grow with their number. An interrupted run begins again with the decoded frames of the cache, and writes the same files.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    protocol: ProtocolOption,
    #[command(flatten)]
    pool: PoolOption,
    /// Which videos of a data set with a training and a test part (procedural clips have both); those of others are all
    /// taken
    #[arg(long, value_enum, default_value_t = Which::All)]
    part: Which,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Which {
    Train,
    Test,
    All,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Which::Train => "train",
            Which::Test => "test",
            Which::All => "all",
        }
    }
}

fn main() -> ExitCode {
    support::args::program(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let options = &args.options;
    let prepared = options.prepare(Sampling { pool: args.pool.pool, ..args.protocol.preset.protocol().sampling })?;
    let videos = &options.videos;
    let splits = match videos.input() {
        // Of one class as well: nothing is compared here.
        Some(input) => input.open().map_err(|e| of_option(e, videos.test.as_deref()))?,
        None => videos.splits(options.seed)?,
    };
    let (data, layout) = chosen(splits, args.part)?;
    let mut settings = Map::new();
    settings.insert("--part".into(), args.part.name().into());
    let task = Task { program: "extract_features", data: vec![data], layout, settings, plan: Vec::new() };
    let Some(mut run) = prepared.open(options, task)? else { return Ok(()) };
    let (n, d) = (run.parts[0].len(), run.row_len());
    let mut file = AtomicFile::create(&run.out.join("features.npy"))?;
    file.write(&npy::header(n, d))?;
    run.rows(0, &mut |_, row| {
        let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
        file.write(&bytes)
    })?;
    let mut index = Table::new(["row", "file", "label"]);
    for i in 0..n {
        let part = &run.parts[0];
        index.row([&i.to_string(), part.name(i), part.class(i)]);
    }
    index.write(&run.out.join("index.csv"))?;
    file.commit()?;
    let mut summary = run.summary();
    summary.set("features", n).set("dim", d);
    summary.finish(&run.out)
}

/// The part of a data set that is asked for.
fn chosen(splits: Splits, which: Which) -> Result<(Dataset, String)> {
    if !splits.train.is_labelled() {
        ensure!(which == Which::All, "--part: there is no training and test part, for the videos have no labels");
        say("the videos have no labels");
    }
    let Splits { train, test, layout } = splits;
    let data = match which {
        Which::Train => train,
        Which::Test => test,
        Which::All => {
            let mut all = train;
            all.items.extend(test.items);
            all.warnings.extend(test.warnings);
            all
        }
    };
    ensure!(!data.is_empty(), "--part: the data set has no such videos");
    Ok((data, layout))
}
