//! `cargo xtask` as a program: every command answers `--help`, and none begins to work on arguments it does not know.

use std::process::{Command, Output};

const COMMANDS: [&str; 13] = [
    "tidy",
    "ptx",
    "cubins",
    "kernels",
    "ablation",
    "versus",
    "versus-maclr",
    "profile",
    "model",
    "scaling",
    "bundle",
    "rehearse",
    "protocol",
];

fn xtask(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(args).output().unwrap()
}

#[test]
fn every_command_answers_help() {
    let page = String::from_utf8(xtask(&["--help"]).stdout).unwrap();
    assert!(page.starts_with("usage: cargo xtask"), "{page}");
    for command in COMMANDS {
        assert!(page.contains(&format!("\n  {command} ")), "{command} is not on the page");
        for args in [&[command, "--help"][..], &[command, "a", "-h"]] {
            let out = xtask(args);
            assert!(out.status.success() && out.stdout == page.as_bytes(), "{args:?}");
        }
    }
}

#[test]
fn what_no_command_knows_is_refused_in_one_sentence() {
    let unknown = COMMANDS.map(|command| vec![command, "--nope"]);
    let more = [
        vec!["nope"],
        vec!["tidy", "nope"],
        vec!["kernels", "nope"],
        vec!["ptx", "--check", "nope"],
        vec!["bundle", "a", "nope"],
        vec!["cubins", "a", "nope"],
        vec!["rehearse", "a", "nope"],
        vec!["ablation", "a", "b", "nope"],
        vec!["versus", "nope"],
        vec!["model", "--device", "nope"],
        vec!["scaling", "nope"],
        vec!["model", "--calibrate", "a", "b", "nope"],
        vec!["profile", "nope"],
        vec!["profile", "r3d_18", "--nope"],
        vec!["profile", "r3d_18", "--precision", "nope"],
        vec!["versus", "--drift", "nope"],
        vec!["versus-maclr", ".", "b", "--nope", "1"],
        vec!["versus-maclr", "nope", "b"],
        vec!["ablation", "a", "nope"],
        vec!["pack-trial", "a", "--nope", "1"],
        vec!["protocol", "a", "b", "--nope", "1"],
        vec!["protocol", "nope", "b"],
    ];
    for args in unknown.into_iter().chain(more) {
        let out = xtask(&args);
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        let sentence = errors.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(!out.status.success(), "{args:?}");
        assert!(sentence.contains("nope") || sentence.contains("needs DATA and "), "{args:?}: {errors}");
    }
    assert!(!xtask(&[]).status.success());
}
