//! `cargo xtask sanitize`: runs tests under Miri, which checks every access of the code it interprets, and under the
//! address sanitizer, which checks the accesses of the vector kernels at nearly full speed.

use crate::nightly;
use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// Command-line options.
#[derive(Debug, PartialEq)]
pub struct Options {
    miri: bool,
    address: bool,
    /// Tests by substrings of their names; if empty, the default ones.
    filters: Vec<String>,
}

/// Unit tests that Miri skips: safe arithmetic over many thousands of numbers, which takes it minutes each (launch plans,
/// optimisers, clocks, ranges of settings, whole networks, optical flow, a curve, resampling, every bf16); those that need
/// exact powers and cosines, which Miri does not promise; and those that ask for what it does not have: named pipes, rights of
/// files, and a system that refuses memory.
const NOT_IN_MIRI: [&str; 20] = [
    "cuda::",
    "lbfgs::",
    "clock::",
    "limits::",
    "range::",
    "saliency::",
    "exp::",
    "views::",
    "tvl1::",
    "launch::",
    "metrics::",
    "scores::",
    "eval::sgd::",
    "head::",
    "only_regular_files",
    "what_the_system_refuses",
    "conversions_are_those",
    "schedule::",
    "second_holder",
    "what_cannot_be_written",
];

/// The tests of kernels on the CPU.
const KERNELS: &str = "kernels::";

impl Options {
    /// Parses `[miri|address] [TEST..]`.
    ///
    /// # Errors
    /// One sentence for an option, since there are none, or for tests without a tool.
    pub fn parse(args: &[String]) -> Result<Options> {
        if let Some(option) = args.iter().find(|a| a.starts_with('-')) {
            bail!("sanitize has no option {option}");
        }
        let (miri, address) = match args.first().map(String::as_str) {
            None => (true, true),
            Some("miri") => (true, false),
            Some("address") => (false, true),
            Some(other) => bail!("sanitize knows miri and address, not {other}"),
        };
        Ok(Options { miri, address, filters: args.iter().skip(1).cloned().collect() })
    }
}

/// Runs the tests; returns whether all passed.
///
/// # Errors
/// One sentence if a tool is missing.
pub fn run(root: &Path, options: &Options) -> Result<bool> {
    nightly::require("a sanitizer")?;
    let mut fine = true;
    if options.miri {
        ensure!(
            nightly::has(&["miri", "--version"]),
            "Miri is not there: `rustup component add --toolchain nightly miri rust-src` gets it"
        );
        fine &= passes(&mut miri(root, &options.filters))?;
    }
    if options.address {
        ensure!(
            cfg!(all(target_arch = "x86_64", target_os = "linux")),
            "the address sanitizer is set up for x86_64-unknown-linux-gnu alone"
        );
        fine &= passes(&mut address(root, &options.filters))?;
    }
    Ok(fine)
}

/// The library's unit tests, interpreted. Miri does not support CPUID, so kernels use their portable form.
fn miri(root: &Path, filters: &[String]) -> Command {
    let mut command = nightly::cargo(&["miri", "test", "--locked", "--package", "tubelet", "--lib"]);
    command.args(["--no-default-features", "--features", "train", "--target-dir", "target/miri", "--"]);
    command.args(filters).args(NOT_IN_MIRI.iter().flat_map(|name| ["--skip", name])).current_dir(root);
    command.env("TUBELET_ISA", "portable");
    // Tests access files; rayon's threads and memory in statics outlive the tests.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-tree-borrows -Zmiri-ignore-leaks");
    command
}

/// Tests of the CPU kernels with every access checked. Each buffer is a separate allocation, so that its bounds are
/// known.
fn address(root: &Path, filters: &[String]) -> Command {
    let mut command = nightly::cargo(&["test", "--locked", "--package", "tubelet-tests", "--test", "it"]);
    // With an explicit target, build scripts and macros are built without the sanitizer.
    command.args(["--target", "x86_64-unknown-linux-gnu", "--target-dir", "target/sanitize", "--"]);
    match filters {
        [] => command.arg(KERNELS),
        named => command.args(named),
    };
    command.args(["--skip", "device::"]).current_dir(root);
    command.env("RUSTFLAGS", "-Zsanitizer=address --cfg tubelet_sanitize");
    // Memory held by statics is not a leak. Tests of limits ask for more memory than there is, which must be an error.
    command.env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=1:allocator_may_return_null=1");
    command
}

fn passes(command: &mut Command) -> Result<bool> {
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    println!("{}", arguments.join(" "));
    Ok(command.status()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_chosen_and_mistakes_named() {
        let parse = |args: &[&str]| Options::parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        let chosen = |args: &[&str]| parse(args).map(|o| (o.miri, o.address, o.filters.len())).unwrap();
        assert_eq!(chosen(&[]), (true, true, 0));
        assert_eq!(chosen(&["miri", "arena"]), (true, false, 1));
        assert_eq!(chosen(&["address"]), (false, true, 0));
        for (args, words) in [(&["--all"][..], "no option --all"), (&["memory"], "not memory")] {
            let error = parse(args).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_folder_named_is_there() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        assert!(root.join("tests/it").join(KERNELS.trim_end_matches("::")).is_dir());
    }
}
