//! A run is resumed with what it began with, or refused; what was refused leaves nothing behind. That a resumed run keeps its
//! bits is shown in `training/resume.rs`.

use crate::support::programs::{data, refused, started, summary};
use std::fs;
use std::path::Path;

const SMALL: [&str; 14] = [
    "--data",
    "train.txt",
    "--test",
    "test.txt",
    "--batch",
    "2",
    "--frames",
    "2",
    "--motion-frames",
    "2",
    "--side",
    "16",
    "--out",
    "run",
];

fn replaced(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// As many videos as before, and yet others: each would have trained on with a queue of keys of other videos.
#[test]
fn a_run_resumes_with_its_own_videos_only() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let Some(begun) = started("pretrain_maclr", d, &SMALL) else { return };
    summary(&begun);
    let again = || {
        let out = started("pretrain_maclr", d, &SMALL).unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && said.contains("nothing was trained now"), "{said}");
    };
    again();
    let swapped = |list: &str, from: &str, to: &str| {
        replaced(&d.join(list), from, to);
        let e = refused(d, &SMALL).unwrap();
        let split = list.trim_end_matches(".txt");
        assert!(e.contains("--out") && e.contains("--data or --test names other videos"), "{e}");
        assert!(e.contains(&format!("videos.{split}.hash: begun with")), "{e}");
        replaced(&d.join(list), to, from);
    };
    swapped("train.txt", "a0 a\n", "a0 b\n");
    swapped("test.txt", "videos/b3 b\n", "videos/../videos/b3 b\n");
    // The same videos by another path.
    let mut moved = SMALL;
    fs::create_dir(d.join("lists")).unwrap();
    for list in ["train.txt", "test.txt"] {
        let text = fs::read_to_string(d.join(list)).unwrap();
        fs::write(d.join("lists").join(list), text).unwrap();
    }
    std::os::unix::fs::symlink(d.join("videos"), d.join("lists/videos")).unwrap();
    (moved[1], moved[3]) = ("./lists/train.txt", "lists/test.txt");
    let out = started("pretrain_maclr", d, &moved).unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("nothing was trained now"), "{out:?}");
    swapped("train.txt", "videos/a0 a\nvideos/a1 a\n", "videos/a1 a\nvideos/a0 a\n");
    again();

    // A frame that cannot be read any more: a run of the others would have been another one.
    let frame = d.join("videos/a1/002.png");
    let intact = fs::read(&frame).unwrap();
    fs::write(&frame, vec![0; intact.len()]).unwrap();
    let e = refused(d, &SMALL).unwrap();
    assert!(e.contains("videos.skipped: begun with none, now [\"videos/a1\"]") && e.contains("--data"), "{e}");
    fs::write(&frame, intact).unwrap();
    again();
}

#[test]
fn the_checkpoint_of_another_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let other = [&SMALL[..13], &["other", "--seed", "5"]].concat();
    let (Some(a), Some(b)) = (started("pretrain_maclr", d, &SMALL), started("pretrain_maclr", d, &other)) else {
        return;
    };
    assert_eq!((summary(&a)["seed"].as_u64(), summary(&b)["seed"].as_u64()), (Some(0), Some(5)));
    let step = "checkpoints/step-00000003";
    fs::remove_dir_all(d.join("run").join(step)).unwrap();
    fs::rename(d.join("other").join(step), d.join("run").join(step)).unwrap();
    let e = refused(d, &SMALL).unwrap();
    assert!(e.contains("step-00000003") && e.contains("checkpoint is of another run"), "{e}");
    // A folder without settings is not bound to the run that is refused.
    fs::remove_file(d.join("run/settings.json")).unwrap();
    fs::remove_file(d.join("run/sheet.png")).unwrap();
    let e = refused(d, &SMALL).unwrap();
    assert!(e.contains("checkpoint is of another run"), "{e}");
    assert!(["settings.json", "sheet.png", "lock"].iter().all(|file| !d.join("run").join(file).exists()));
}

#[test]
fn a_class_that_no_training_video_has_is_refused_before_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    replaced(&d.join("test.txt"), "videos/b3 b\n", "videos/b3 c\n");
    let Some(e) = refused(d, &SMALL) else { return };
    assert!(e.contains("--test") && e.contains("videos/b3 is of class c"), "{e}");
    assert!(!d.join("run").exists() && !d.join("runs").exists(), "{e}");
}

#[test]
fn a_run_that_is_refused_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    // All that only decoding shows: too few videos are left for the batch.
    fs::write(d.join("videos/a0/000.png"), "no picture").unwrap();
    let args = [&SMALL[..4], &["--batch", "6"], &SMALL[6..12], &["--out", "new/deep/run"]].concat();
    let Some(e) = refused(d, &args) else { return };
    assert!(e.contains("--batch = 6") && !d.join("new").exists(), "{e}");
    // What was there stays.
    fs::create_dir_all(d.join("mine")).unwrap();
    fs::write(d.join("mine/notes.txt"), "mine").unwrap();
    refused(d, &[&args[..13], &["mine"]].concat()).unwrap();
    assert_eq!(fs::read_dir(d.join("mine")).unwrap().count(), 1, "the notes, and no lock");
}
