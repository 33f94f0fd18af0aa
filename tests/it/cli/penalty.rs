//! `linear_probe --l2 A,B,..`: the penalty is chosen on training videos, by sources that are left out.

use crate::support::programs::{data, example, summary};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn program(dir: &Path, args: &str) -> Option<Output> {
    let mut command = Command::new(example("linear_probe")?);
    let lists = "--data train.txt --test test.txt --frames 2 --stride 1 --side 16";
    Some(command.current_dir(dir).args(lists.split(' ')).args(args.split_whitespace()).output().unwrap())
}

#[test]
fn one_of_several_penalties_is_chosen_without_the_test_videos() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let groups = |of: &dyn Fn(usize) -> usize, test: &str| {
        let train =
            ["a", "b"].map(|class| (0..3).map(|i| format!("videos/{class}{i},S{}\n", of(i))).collect::<String>());
        fs::write(d.join("groups.csv"), train.concat() + test).unwrap();
    };
    let both = "videos/a3,S9\nvideos/b3,S9\n";
    groups(&|i| i, both);
    let Some(out) = program(d, "--l2 1000,0.001,0.03 --groups groups.csv --out one") else { return };
    let line = summary(&out);
    let l2 = line["l2"].as_f64().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!([1000.0, 0.001, 0.03].contains(&l2) && text.contains(&format!("; {l2} is taken")), "{text}");
    // The figures are those of that penalty alone, and the labels of the test videos do not matter for the choice.
    let alone = summary(&program(d, &format!("--l2 {l2} --groups groups.csv --out two")).unwrap());
    assert_eq!((&alone["top1"], &alone["l2"]), (&line["top1"], &line["l2"]));
    fs::write(d.join("test.txt"), "videos/a3 b\nvideos/b3 a\n").unwrap();
    let other = summary(&program(d, "--l2 1000,0.001,0.03 --groups groups.csv --out three").unwrap());
    assert_eq!(other["l2"], line["l2"]);
    let refused = |args: &str| {
        let out = program(d, args).unwrap();
        assert!(!out.status.success() && !d.join("four").exists());
        String::from_utf8_lossy(&out.stderr).lines().rfind(|line| line.starts_with("error: ")).unwrap().to_owned()
    };
    assert!(refused("--l2 1,2 --out four").contains("--groups"), "the sources of training videos are not known");
    // Other sources choose another penalty: that is another evaluation.
    groups(&|i| i / 2, both);
    let out = program(d, "--l2 1000,0.001,0.03 --groups groups.csv --out one").unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("--groups"), "{said}");
    groups(&|_| 0, both);
    assert!(refused("--l2 1,2 --groups groups.csv --out four").contains("of one source"));
    let by_class = ["a", "b"].map(|class| (0..3).map(|i| format!("videos/{class}{i},S{class}\n")).collect::<String>());
    fs::write(d.join("groups.csv"), by_class.concat() + both).unwrap();
    assert!(refused("--l2 1,2 --groups groups.csv --out four").contains("no class of the training videos is of two"));
    assert!(refused("--l2 1,nan --groups groups.csv --out four").contains("--l2"));
    groups(&|i| i, "");
    assert!(refused("--l2 1,2 --groups groups.csv --out four").contains("no line of the test video videos/a3"));
}
