//! Shows what a file of weights holds, and takes a network out of it: files of PyTorch (`.pth`, `.pyth`, `.pt`) and safetensors.
//!
//! `cargo run --release --example weights -- inspect FILE`, then `import FILE --out DIR`. `export RUN --out DIR`
//! writes the network of a pre-training for other programs.

mod support;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use support::args::arch;
use support::output::{count, printable, say, warn};
use tubelet::nn::{ARCHES, Arch, Params, Trunk};
use tubelet::train::checkpoint::weights_of;
use tubelet::weights::{
    Config, ImageHead, Info, Loaded, Matching, NETWORKS, Source, Start, check_export, export, load_weights, names,
    read_networks,
};

/// The lines of a list that are shown without --all.
const SHOWN: usize = 20;

/// Look into files of weights of other programs, and turn them into files with this program's names.
///
/// The format is recognised by the content: safetensors, and what torch.save writes. Nothing in a file is executed: one that
/// holds more than tensors and plain containers is refused.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print format, networks and tensors of a file
    Inspect {
        /// The file
        file: PathBuf,
        /// Print every tensor
        #[arg(long)]
        all: bool,
    },
    /// Write a network to a folder as `export` does: its trunk, and its head where that is a projection as MaCLR's or MoCo's, or
    /// a linear classifier. Other heads, key networks and queues are listed and left out
    Import {
        /// The file
        file: PathBuf,
        /// The network that its weights are for; one of images is extended over time [default: that of the published network
        /// that the file is recognised as]
        #[arg(long, value_name = "NAME", value_parser = arch())]
        arch: Option<&'static Arch>,
        /// Folder for the network: new, empty, or of an earlier import or export, which is replaced
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// What stands before the network's names in the file, as `inspect` prints it: only needed where there are several
        #[arg(long, value_name = "PREFIX")]
        at: Option<String>,
        /// Leave its head out
        #[arg(long)]
        no_head: bool,
        /// Print every tensor that is left out
        #[arg(long)]
        all: bool,
    },
    /// Write the network of a run, by its newest intact checkpoint, for other programs: model.safetensors,
    /// config.json with every layer, model.py that builds it in plain PyTorch, and README.md
    Export {
        /// The folder of a pre-training, or of `finetune`
        run: PathBuf,
        /// Folder for the network: new, empty, or of an earlier import or export, which is replaced
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Which of its networks, by the prefix of its names in the weights [default: the only one, or encoder_q.]
        #[arg(long, value_name = "PREFIX")]
        network: Option<String>,
    },
}

fn main() -> ExitCode {
    support::args::program(|| match Args::parse().action {
        Action::Inspect { file, all } => inspect(&file, all),
        Action::Import { file, arch, out, at, no_head, all } => import(&file, arch, &out, at.as_deref(), !no_head, all),
        Action::Export { run, out, network } => write_out(&run, &out, network.as_deref()),
    })
}

/// Opens a file of weights. For a folder it says which of its files that would be.
fn open(file: &Path) -> Result<Source> {
    if file.is_dir() {
        let inside = weights_of(file)?;
        let export = if file.join(NETWORKS).is_file() { ", or `weights export` the run" } else { "" };
        bail!("{}: this is a folder; name its weights, {}{export}", file.display(), inside.display());
    }
    Ok(Source::open(file)?)
}

fn inspect(file: &Path, all: bool) -> Result<()> {
    let source = open(file)?;
    let tensors = source.tensors();
    say(format_args!("format: {}", source.format()));
    let networks = names::find(tensors);
    if networks.is_empty() {
        say("network: none is recognised");
    }
    for place in &networks {
        let numbers: usize = tensors.iter().filter(|(n, _)| n.starts_with(&place.prefix)).map(|(_, i)| i.numel()).sum();
        let kind = if place.image { "of images" } else { "of clips" };
        let average = if place.is_average() { ", the moving average of another" } else { "" };
        let naming = place.naming;
        let place_text = printable(place);
        say(format_args!(
            "network: {place_text}, {kind}, names of {naming}, {numbers} numbers with its heads{average}"
        ));
        if let Some(known) = place.published(tensors) {
            let in_file = |theirs: &str| tensors.contains_key(&format!("{}{theirs}.weight", place.prefix));
            for (theirs, ours) in known.heads.iter().filter(|(theirs, _)| in_file(theirs)) {
                say(format_args!("    its `{theirs}` is called `{ours}` here"));
            }
            say(format_args!("    as in {}; --arch {} (names from {})", known.name, known.arch, known.source));
        }
    }
    let numbers: usize = tensors.values().map(Info::numel).sum();
    say(format_args!("tensors: {}, {numbers} numbers", tensors.len()));
    list(tensors.iter().map(|(name, info)| format!("{:5} {name} {:?}", info.dtype, info.shape)), all);
    Ok(())
}

/// The network that `file` is recognised as, which is printed.
fn recognised(source: &Source, at: Option<&str>) -> Result<&'static Arch> {
    let known = names::recognise(source.tensors(), at);
    let Some((known, arch)) = known.and_then(|known| Some((known, Arch::by_name(known.arch)?))) else {
        let all: Vec<&str> = ARCHES.iter().map(|arch| arch.name).collect();
        let file = source.path().display();
        bail!("{file}: no published network is recognised in it: give --arch, one of {}", all.join(", "));
    };
    say(format_args!("recognised: {}; --arch {} is taken", known.name, arch.name));
    Ok(arch)
}

fn import(file: &Path, arch: Option<&'static Arch>, out: &Path, at: Option<&str>, head: bool, all: bool) -> Result<()> {
    check_export(out).context("--out")?;
    let source = open(file)?;
    let arch = arch.map_or_else(|| recognised(&source, at), Ok)?;
    let net = arch.net();
    let (_, trunk) = Trunk::with_params(&net, 0);
    let mut start = Start::find(source, &net, &trunk, ImageHead::Dropped, at)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut config = Config::new(&net, format!("Imported from {name}"));
    if head && let Some(head) = start.take_head(&net) {
        config = head.describe(config);
    }
    let mut params = config.params()?;
    let place = start.place();
    say(format_args!("{}, {} of the file; names of {}", arch.name, printable(place), place.naming));
    report(start.report(), all);
    config.input = start.input();
    match &config.input {
        Some(input) => say(format_args!("input, as the published network was trained: {input}")),
        None => warn(
            "it is not known which clips the network was trained with: without `input` in config.json an evaluation \
             takes clips of its own (docs/weights.md)",
        ),
    }
    start.fill(&mut params).with_context(|| format!("--arch {}", arch.name))?;
    write(out, &params, &config)
}

fn write_out(run: &Path, out: &Path, network: Option<&str>) -> Result<()> {
    check_export(out).context("--out")?;
    let described = run.join(NETWORKS);
    let networks = read_networks(&described)
        .with_context(|| format!("{} is not the folder of a run, or of one by an earlier version", run.display()))?;
    let sole = || networks.keys().next().filter(|_| networks.len() == 1).map_or("encoder_q.", String::as_str);
    let network = network.unwrap_or_else(sole);
    let Some(config) = networks.get(network) else {
        let known: Vec<&str> = networks.keys().map(String::as_str).collect();
        bail!("--network {network}: this run has {}", known.join(" and "));
    };
    let file = weights_of(run)?;
    let mut params = config.params()?;
    load_weights(&file, &mut [(network, &mut params)], &Matching { strip: &[], allow_extra: true })?;
    let name = if network.is_empty() { "the network" } else { network };
    say(format_args!("{name} of {}", file.display()));
    write(out, &params, config)
}

fn write(out: &Path, params: &Params, config: &Config) -> Result<()> {
    export(out, params, config).context("--out")?;
    let name = config.arch.as_deref().unwrap_or("a network without a name");
    say(format_args!("{}: {name}, {} parameters", out.display(), params.count()));
    Ok(())
}

/// Prints what was found in a file for a network.
fn report(found: &Loaded, all: bool) {
    let tensors = |n| count(n, "tensor", "tensors");
    say(format_args!("{} of the network found", tensors(found.copied.len())));
    if !found.made.is_empty() {
        say(format_args!("{} made: kernels over time that begin as identities", tensors(found.made.len())));
    }
    if !found.heads.is_empty() {
        say(format_args!("{} of its head found:", tensors(found.heads.len())));
        list(found.heads.iter(), all);
    }
    for (names, what) in [
        (&found.missing, "missing in the file"),
        (&found.other_shape, "of another shape"),
        (&found.left_over, "of the file left out"),
    ] {
        if !names.is_empty() {
            say(format_args!("{} {what}:", tensors(names.len())));
            list(names.iter(), all);
        }
    }
}

/// Prints indented lines, all or the first.
fn list(lines: impl ExactSizeIterator<Item = impl std::fmt::Display>, all: bool) {
    let hidden = if all { 0 } else { lines.len().saturating_sub(SHOWN) };
    let shown = lines.len() - hidden;
    lines.take(shown).for_each(|line| say(format_args!("    {}", printable(line))));
    if hidden > 0 {
        say(format_args!("    and {hidden} more (--all prints them)"));
    }
}
