//! The example `pack` as users meet it, and a training run on what it made.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::programs::{data, example, refused, started, summary};
use crate::video::pack::content;

fn pack(dir: &Path, args: &[&str]) -> Option<Output> {
    Some(Command::new(example("pack")?).current_dir(dir).args(args).output().unwrap())
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn succeeds(dir: &Path, args: &[&str]) -> Option<String> {
    let out = pack(dir, args)?;
    assert!(out.status.success(), "{args:?}: {}", text(&out));
    Some(text(&out))
}

fn fails(dir: &Path, args: &[&str]) -> Option<String> {
    let out = pack(dir, args)?;
    let said = text(&out);
    assert!(!out.status.success() && said.contains("error: ") && !said.contains("panicked"), "{args:?}: {said}");
    Some(said)
}

const PACK: [&str; 8] = ["--data", "train.txt", "--test", "test.txt", "--group", "2", "--flow", "--threads"];

fn with<'a>(cache: &'a str, shard: &'a str) -> Vec<&'a str> {
    [&PACK[..], &["1", "--cache", cache, "--shard", shard]].concat()
}

#[test]
fn a_packed_folder_is_made_checked_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 24);
    let Some(said) = succeeds(d, &with("packed", "0/2")) else { return };
    assert!(said.contains("shard 0/2 is complete") && said.contains("a second and thread"), "{said}");
    let said = fails(d, &["--cache", "packed", "--merge"]).unwrap();
    assert!(said.contains("--cache packed: 1 shard of 2 is not complete") && said.contains("1/2"), "{said}");
    let said = refused(d, &["--cache", "packed"]).unwrap();
    assert!(said.contains("pack --merge"), "{said}");
    succeeds(d, &with("packed", "1/2")).unwrap();
    let said = succeeds(d, &["--cache", "packed", "--merge"]).unwrap();
    assert!(said.contains("merged: 8 videos in 4 tar files") && said.contains("0 without data"), "{said}");
    let said = succeeds(d, &["--cache", "packed", "--verify", "--data", "train.txt", "--test", "test.txt"]).unwrap();
    assert!(said.contains("whole: 8 videos in 4 tar files; 0 without data"), "{said}");
    // The same training from the packed folder, without the originals, as from the originals.
    let run = [
        "--preset",
        "small",
        "--batch",
        "2",
        "--side",
        "16",
        "--frames",
        "4",
        "--stride",
        "1",
        "--motion-frames",
        "4",
        "--no-flip",
        "--queue",
        "4",
    ];
    let from = [&run[..], &["--data", "train.txt", "--test", "test.txt", "--out", "a", "--cache", "cache"]].concat();
    let want = summary(&started("pretrain_maclr", d, &from).unwrap());
    let error = refused(d, &["--cache", "packed", "--data", "train.txt", "--out", "b"]).unwrap();
    assert!(error.contains("leave out --data"), "{error}");
    fs::remove_dir_all(d.join("videos")).unwrap();
    let from = [&run[..], &["--out", "b", "--cache", "packed"]].concat();
    let got = summary(&started("pretrain_maclr", d, &from).unwrap());
    for figure in ["loss_first", "loss_last", "probe_top1", "knn_top1", "videos_train", "videos_test"] {
        assert_eq!(got[figure], want[figure], "{figure}");
    }
    assert!(!got["loss_last"].is_null());
    // Training goes on without the videos of a damaged tar file, and says so.
    let tar = d.join("packed/000001-000.tar");
    let bytes = fs::read(&tar).unwrap();
    fs::write(&tar, &bytes[..bytes.len() - 1000]).unwrap();
    let said = fails(d, &["--cache", "packed", "--verify"]).unwrap();
    assert!(said.contains("000001-000.tar") && said.contains("damaged"), "{said}");
    let from = [&run[..], &["--out", "c", "--cache", "packed"]].concat();
    let said = text(&started("pretrain_maclr", d, &from).unwrap());
    assert!(said.contains("000001-000.tar: 2 videos are lost"), "{said}");
    let error =
        refused(d, &["--out", "d", "--cache", "packed", "--preset", "paper", "--batch", "2", "--bn-groups", "1"])
            .unwrap();
    assert!(error.contains("a short side of 80 pixels") && error.contains("256"), "{error}");
}

/// Killed ever later until it comes to its end; the second of two shards is killed as well.
#[test]
fn killed_shards_come_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 40);
    let Some(program) = example("pack") else { return };
    succeeds(d, &with("want", "0/1")).unwrap();
    succeeds(d, &["--cache", "want", "--merge"]).unwrap();
    let mut kills = 0;
    for shard in ["0/2", "1/2"] {
        for step in 1.. {
            let mut command = Command::new(&program);
            command.current_dir(d).args(with("killed", shard)).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(8 * step));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break;
            }
            child.kill().unwrap();
            kills += 1;
            if child.wait().unwrap().success() {
                break;
            }
        }
    }
    assert!(kills > 2, "killed {kills} times");
    succeeds(d, &["--cache", "killed", "--merge"]).unwrap();
    assert!(content(&d.join("killed")) == content(&d.join("want")));
}

#[test]
fn wrong_options_and_a_full_disk_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 12);
    // A folder with the files of other runs stays what it is.
    fs::create_dir(d.join("runs")).unwrap();
    fs::write(d.join("runs/0123456789abcdef.tbv"), "").unwrap();
    let Some(said) = fails(d, &with("runs", "0/1")) else { return };
    assert!(said.contains("the cache of other runs") && !d.join("runs/pack.json").exists(), "{said}");
    let Some(program) = example("pack") else { return };
    for (args, words) in [
        (&["--cache", "c"][..], "--shard"),
        (&["--cache", "c", "--shard", "0/1"], "--data"),
        (&["--cache", "c", "--merge", "--verify"], "cannot be used"),
        (&["--cache", "c", "--shard", "2/2", "--data", "train.txt"], "0/2 to 1/2"),
        (&["--cache", "c", "--merge", "--shard-bytes", "99999"], "--shard-bytes"),
        (&["--cache", "c", "--verify", "--device", "auto"], "--device"),
        (&["--cache", "c", "--shard", "0/1", "--data", "train.txt", "--device", "gpu"], "cuda:N"),
    ] {
        let out = pack(d, args).unwrap();
        assert!(out.status.code() == Some(2) && text(&out).contains(words), "{args:?}: {}", text(&out));
    }
    for (args, words) in [
        (&["--cache", "c", "--merge"][..], "--cache c"),
        (&["--cache", "c", "--verify"], "--cache c"),
        (&["--cache", "c", "--shard", "0/1", "--data", "absent.txt"], "--data"),
        (
            &["--cache", "c", "--shard", "0/1", "--data", "train.txt", "--shard-bytes", "9"],
            "--shard-bytes 9: it must be",
        ),
        (&["--cache", "c", "--shard", "0/1", "--data", "train.txt", "--group", "0"], "--group 0: it must be"),
        (&["--cache", "c", "--shard", "0/1", "--data", "train.txt", "--device", "cuda:0"], "--device: it is for flow"),
        (&["--cache", ".", "--verify"], "no packed folder is here"),
        (&["--cache", ".", "--merge"], "nothing was packed here"),
        (&["--cache", "train.txt", "--shard", "0/1", "--data", "train.txt"], "--cache train.txt"),
    ] {
        let said = fails(d, args).unwrap();
        assert!(said.contains(words), "{args:?}: {said}");
    }
    // A limit on the size of files, as a full disk: the tar file is named, and the same command goes on later.
    let mut limited = Command::new("bash");
    limited.current_dir(d).args(["-c", "ulimit -f 64; exec \"$0\" \"$@\""]).arg(&program).args(with("c", "0/1"));
    let out = limited.output().unwrap();
    let said = text(&out);
    assert!(!out.status.success() && said.contains("error: --cache c") && said.contains(".tar"), "{said}");
    let left: Vec<_> = fs::read_dir(d.join("c")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".json") && name != "pack.json"), "{left:?}");
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    succeeds(d, &with("c", "0/1")).unwrap();
    assert!(!content(&d.join("c")).keys().any(|name| name.ends_with(".tmp")));
    succeeds(d, &["--cache", "c", "--merge"]).unwrap();
}
