//! Lists and verifies the cache of decoded videos, and removes files that nothing will use again.
//!
//! `cargo run --release --example cache -- list` needs no other options.

mod support;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::output::say;
use support::progress::Progress;
use support::stop::stop_flag;
use tubelet::error::ErrorKind;
use tubelet::video::cache::{self, Entry};

/// List, check or prune the cache of decoded videos.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    action: Action,
    /// The folder passed to other examples as --cache
    #[arg(long, global = true, value_name = "DIR", default_value = "runs/cache")]
    cache: PathBuf,
}

#[derive(Subcommand)]
enum Action {
    /// List number and size of files by kind and settings, and which are stale: their source is gone or has changed,
    /// they are of another version, or they are damaged
    List {
        /// List every file
        #[arg(long)]
        files: bool,
    },
    /// Verify the checksums of every file
    Verify,
    /// List the files that would be removed and their size: stale ones, and those selected by --matching
    Prune {
        /// Remove them
        #[arg(long)]
        yes: bool,
        /// Also those whose kind, settings or source, as printed by `list --files`, contain this text
        #[arg(long, value_name = "TEXT")]
        matching: Option<String>,
        /// All files of the cache
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    support::args::program(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let entries = cache::list(&args.cache).context("--cache")?;
    match &args.action {
        Action::List { files } => list(&entries, *files),
        Action::Verify => verify(&args.cache, &entries)?,
        Action::Prune { yes, matching, all } => {
            let asked = |e: &Entry| *all || matching.as_ref().is_some_and(|text| line(e).contains(text.as_str()));
            let chosen: Vec<Entry> = entries.iter().filter(|e| e.stale.is_some() || asked(e)).cloned().collect();
            list(&chosen, true);
            let (count, size) = (chosen.len(), megabytes(&chosen));
            if *yes && count > 0 {
                let stop = stop_flag()?;
                let mut told = None;
                cache::remove(&args.cache, &chosen, &stop, |holder| {
                    if told.as_ref() != Some(&holder) {
                        say(format_args!("waiting for {holder}, which is writing into the cache"));
                        told = Some(holder);
                    }
                })?;
                say(format_args!("removed {count} files, {size}"));
            } else {
                say(format_args!("{count} of {} files, {size}, would be removed; --yes removes them", entries.len()));
            }
        }
    }
    Ok(())
}

fn megabytes<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    let bytes: u64 = entries.into_iter().map(|e| e.bytes).sum();
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn kind(entry: &Entry) -> &'static str {
    entry.kind.map_or("unfinished", |kind| kind.name())
}

/// All known information about a file.
fn line(entry: &Entry) -> String {
    let mut line = format!("{} {}: {}", kind(entry), entry.path.display(), megabytes([entry]));
    for part in [&entry.source, &entry.settings] {
        if !part.is_empty() {
            line += &format!("; {part}");
        }
    }
    match &entry.stale {
        Some(why) => line + &format!("; stale: {why}"),
        None => line,
    }
}

fn list(entries: &[Entry], files: bool) {
    if files {
        entries.iter().for_each(|e| say(line(e)));
        return;
    }
    let mut groups: BTreeMap<(&str, &str), Vec<&Entry>> = BTreeMap::new();
    for e in entries.iter().filter(|e| e.stale.is_none()) {
        groups.entry((kind(e), e.settings.as_str())).or_default().push(e);
    }
    for ((kind, settings), group) in &groups {
        say(format_args!("{} files of {kind}, {}: {settings}", group.len(), megabytes(group.iter().copied())));
    }
    let stale: Vec<&Entry> = entries.iter().filter(|e| e.stale.is_some()).collect();
    say(format_args!("{} files, {}", entries.len(), megabytes(entries)));
    if !stale.is_empty() {
        say(format_args!(
            "{} of these, {}, are stale: `prune` says why and removes them",
            stale.len(),
            megabytes(stale)
        ));
    }
}

fn verify(dir: &Path, entries: &[Entry]) -> Result<()> {
    let (stop, bar) = (stop_flag()?, Progress::new("checking", "files", entries.len() as u64, 0));
    let (next, bad) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(e) = cache::verify(entry) {
                        bar.warn(&e.to_string());
                        bad.fetch_add(1, Ordering::Relaxed);
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish();
    let bad = bad.into_inner();
    if stop.load(Ordering::Relaxed) {
        let looked = next.into_inner().min(entries.len());
        let what = format!(
            "not all of the {} files were looked at, and {bad} of these {looked} cannot be used",
            entries.len()
        );
        return Err(tubelet::error::Error::from(ErrorKind::Stopped { path: dir.to_owned(), what }).into());
    }
    if bad > 0 {
        bail!("{bad} of {} files cannot be used; the next run that needs them makes them again", entries.len());
    }
    say(format_args!("{} files are whole, {}", entries.len(), megabytes(entries)));
    Ok(())
}
