//! `cargo xtask protocol` with programs in the place of the examples that write what they are asked for at once.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use xtask::protocol::{Options, run};

/// Writes down its arguments, a summary, and predictions of the videos in `--test`: wrong ones of RGB only, right ones of others.
const PROGRAM: &str = r#"#!/bin/sh
case " $* " in *" --dry-run "*)
  case $* in *--nonsense*) echo "error: unexpected argument '--nonsense'" >&2; exit 2 ;; esac
  exit 0 ;;
esac
echo "${0##*/} $*" >> LOG
while [ $# -gt 0 ]; do
  case $1 in --out) out=$2 ;; --test) held=$2 ;; esac
  shift
done
case $out in */rgb-*) right=0 ;; *) right=1 ;; esac
mkdir -p "$out"
if [ -n "$held" ]; then
  echo file,class,predicted,right,group > "$out/predictions.csv"
  while IFS=, read -r file class; do echo "$file,$class,$class,$right,"; done < "$held" >> "$out/predictions.csv"
fi
echo '{"l2": 0.1, "seconds": 1}' > "$out/summary.json"
"#;

struct Place(PathBuf);

impl Place {
    /// Three training actors and two test actors with two tracks each, of two videos.
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("tubelet-protocol-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let mut lists = [String::new(), String::new()];
        for actor in 1..=5 {
            for class in ["hover", "land"] {
                fs::create_dir_all(dir.join("data/videos").join(class)).unwrap();
                for clip in 0..2 {
                    let name = format!("{class}/v_{class}_S{actor}_c0{clip}.mp4");
                    fs::write(dir.join("data/videos").join(&name), "").unwrap();
                    lists[usize::from(actor > 3)] += &format!("{name}\n");
                }
            }
        }
        fs::write(dir.join("data/trainlist01.txt"), &lists[0]).unwrap();
        fs::write(dir.join("data/testlist01.txt"), &lists[1]).unwrap();
        fs::create_dir_all(dir.join("programs")).unwrap();
        for name in ["pretrain_maclr", "pretrain_mcl", "linear_probe", "finetune"] {
            let path = dir.join("programs").join(name);
            fs::write(&path, PROGRAM.replace("LOG", dir.join("log").to_str().unwrap())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Place(dir)
    }

    fn run(&self, out: &str, more: &[&str]) -> anyhow::Result<Value> {
        let path = |name: &str| self.0.join(name).to_str().unwrap().to_owned();
        let mut args = vec![
            path("data"),
            path(out),
            "--programs".into(),
            path("programs"),
            "--record".into(),
            path("record.json"),
        ];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        run(Path::new(env!("CARGO_MANIFEST_DIR")), &Options::parse(&args)?)?;
        Ok(serde_json::from_str(&fs::read_to_string(self.0.join(out).join("protocol.json"))?)?)
    }

    /// The lines of what the programs were called with since the last time.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("log")).unwrap_or_default();
        let _ = fs::remove_file(self.0.join("log"));
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn actors_are_left_out_in_turn_and_the_test_actors_are_scored_once() {
    let place = Place::new("folds");
    let few = ["--methods", "maclr,rgb,random,supervised", "--seeds", "2"];
    let folds = place.run("a", &[&few[..], &["--folds-only"]].concat()).unwrap();
    let calls = place.calls();
    // Three folds: two pre-trainings and their probes, a probe of the random network, and training with labels.
    assert_eq!(calls.len(), 3 * (2 + 2 + 1 + 1), "{calls:?}");
    let of = |program: &str| calls.iter().filter(|call| call.starts_with(program)).collect::<Vec<_>>();
    assert!(
        of("pretrain").iter().all(|call| call.contains("/unlabelled.csv") && !call.contains("--test")),
        "{calls:?}"
    );
    assert!(calls.iter().all(|call| !call.contains("lists/test/")), "the test set is left alone");
    assert!(of("linear_probe").iter().all(|call| call.contains("--l2 0.003,") && call.contains("/actors.csv")));
    assert_eq!(of("linear_probe").iter().filter(|call| !call.contains("--init")).count(), 3);
    assert_eq!(folds["folds"], serde_json::json!(["S1", "S2", "S3"]));
    assert_eq!(
        (&folds["methods"]["maclr"]["folds"]["top1"], &folds["methods"]["rgb"]["folds"]["top1"]),
        (&1.0.into(), &0.0.into())
    );
    assert_eq!(folds["methods"]["maclr"]["trials_on_folds"], 1);
    assert!(folds["methods"]["maclr"]["test"].is_null());

    let all = place.run("a", &few).unwrap();
    let calls = place.calls();
    // Two seeds on the test actors alone: the folds are there.
    assert!(calls.len() == 2 * 6 && calls.iter().all(|call| call.contains("lists/test/")), "{calls:?}");
    let maclr = &all["methods"]["maclr"]["test"];
    assert_eq!((&maclr["mean_class"], &maclr["mean_class_above_rgb"]), (&1.0.into(), &1.0.into()));
    assert_eq!((&maclr["top1_seeds"], &maclr["scorings"]), (&serde_json::json!([1.0, 1.0]), &1.into()));
    assert_eq!(maclr["mean_class_above_rgb_over_actors"], serde_json::json!([1.0, 1.0]));
    assert_eq!(maclr["by_actor"], serde_json::json!({"S4": 1.0, "S5": 1.0}));
    assert!(place.0.join("a/protocol.svg").is_file());

    // Again in the same folder: nothing is run, and the figures are the same. Elsewhere it is refused before anything is run.
    let again = place.run("a", &few).unwrap();
    assert!(again["methods"] == all["methods"] && place.calls().is_empty());
    let e = place.run("b", &few).unwrap_err().to_string();
    assert!(e.contains("scored on the test set on 20") && e.contains("--again"), "{e}");
    assert!(place.run("a", &["--methods", "maclr", "--seeds", "3"]).is_err() && place.calls().is_empty());
    // Another recipe is another matter, and a second scoring that is asked for is counted.
    let other = place.run("b", &["--methods", "maclr", "--seeds", "1", "--with", "maclr=--epochs 9"]).unwrap();
    assert_eq!(other["methods"]["maclr"]["trials_on_folds"], 2);
    assert!(place.calls().iter().filter(|call| call.starts_with("pretrain")).all(|call| call.ends_with("--epochs 9")));
    let twice = place.run("c", &["--methods", "maclr", "--seeds", "1", "--folds", "0", "--again"]).unwrap();
    assert_eq!(twice["methods"]["maclr"]["test"]["scorings"], 2);
    fs::remove_dir_all(&place.0).unwrap();
}

/// What cannot be run is no trial, and nothing of others is overwritten.
#[test]
fn refusals_come_before_the_record() {
    let place = Place::new("refused");
    let refused = |out: &str, more: &[&str]| format!("{:#}", place.run(out, more).unwrap_err());
    let e = refused("a", &["--methods", "maclr", "--folds-only", "--with", "maclr=--nonsense 1"]);
    assert!(e.contains("--with maclr: pretrain_maclr refuses its options: error: unexpected argument"), "{e}");
    let e = refused("a", &["--methods", "maclr", "--folds-only", "--folds", "99"]);
    assert!(e.contains("--folds is 99, and there are 3 training actors"), "{e}");
    for (text, word) in [("hi", "not of this command"), (r#"{"set": "another"}"#, "of another set of videos")] {
        fs::create_dir_all(place.0.join("b")).unwrap();
        fs::write(place.0.join("b/protocol.json"), text).unwrap();
        let e = refused("b", &["--methods", "maclr", "--folds-only"]);
        assert!(e.contains("b/protocol.json") && e.contains(word), "{e}");
        assert_eq!(fs::read_to_string(place.0.join("b/protocol.json")).unwrap(), text);
    }
    assert!(place.calls().is_empty() && !place.0.join("record.json").exists());
    fs::remove_dir_all(&place.0).unwrap();
}

/// Screening: one pre-training of all training actors for each seed, whose features leave each actor out in turn.
#[test]
fn recipes_are_screened_with_one_pre_training_for_all_folds() {
    let place = Place::new("once");
    let options = ["--methods", "maclr,rgb,supervised", "--folds-only", "--once", "--fold-seeds", "2"];
    let all = place.run("a", &options).unwrap();
    let calls = place.calls();
    let of = |program: &str| calls.iter().filter(|call| call.starts_with(program)).collect::<Vec<_>>();
    // Two methods and two seeds; three folds of each, and of the network with labels, which has to leave actors out itself.
    assert_eq!((of("pretrain").len(), of("linear_probe").len(), of("finetune").len()), (4, 12, 6), "{calls:?}");
    assert!(of("pretrain").iter().all(|call| call.contains("lists/all/unlabelled.csv")), "{calls:?}");
    assert!(calls.iter().all(|call| !call.contains("lists/test/")), "the test set is left alone");
    for probe in of("linear_probe") {
        let seed = if probe.contains("--seed 1") { "all-1/train" } else { "all-0/train" };
        assert!(probe.contains(seed) && !probe.contains("lists/all"), "{probe}");
    }
    let folds = &all["methods"]["maclr"]["folds"];
    assert_eq!((&folds["top1"], &folds["top1_above_rgb"], &folds["videos"]), (&1.0.into(), &1.0.into(), &12.into()));
    assert_eq!((folds["each"].as_array().unwrap().len(), &folds["each"][3]["seed"]), (6, &1.into()));
    assert!(all["pre_trained_once"] == true && all["methods"]["maclr"]["trials_on_folds"] == 1);
    // The folds themselves are other runs.
    place.run("a", &["--methods", "maclr", "--folds-only"]).unwrap();
    assert_eq!(place.calls().len(), 6);
    let record = fs::read_to_string(place.0.join("record.json")).unwrap();
    assert!(
        record.contains("folds, pre-trained once") && record.contains("\"folds\"") && record.contains("\"out\": \"a (")
    );
    assert!(!record.contains(place.0.to_str().unwrap()), "no path of this machine");
    fs::remove_dir_all(&place.0).unwrap();
}
