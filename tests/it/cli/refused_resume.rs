//! A run is resumed with what it began with, or refused; what was refused leaves nothing behind. That a resumed run keeps its
//! bits is shown in `training/resume.rs`.

use crate::support::programs::{data, example, frames, refused, started, summary};
use std::fs;
use std::path::Path;
use std::process::Command;
use tubelet::flow::{Flow, flo};
use tubelet::weights::read_networks;

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
        assert!(e.contains("--out") && e.contains("--data, --test or --split names other videos"), "{e}");
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
    let lost = "--data or --test: videos/a1 could be read when this run began, and cannot be read now";
    assert!(
        e.contains(lost) && e.contains("make readable again") && e.contains("choose another --out than run"),
        "{e}"
    );
    fs::write(&frame, intact).unwrap();
    again();
}

/// What is trained is what `networks.json` says, and a run goes on with it alone.
#[test]
fn a_run_has_the_rgb_network_that_arch_names_and_goes_on_with_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let lists = ["--data", "train.txt", "--test", "test.txt", "--batch", "2", "--frames", "4", "--side", "16"];
    for program in ["pretrain_maclr", "pretrain_mcl"] {
        let with = |arch: &str| {
            let own = ["--out", program, "--probe-clips", "1", "--arch", arch];
            started(program, d, &[&lists[..], &own].concat())
        };
        let Some(done) = with("p3d_a18") else { return };
        summary(&done);
        let networks = read_networks(&d.join(program).join("networks.json")).unwrap();
        assert_eq!(networks["encoder_q."].arch.as_deref(), Some("p3d_a18"));
        let other = with("r3d_18").unwrap();
        let errors = String::from_utf8_lossy(&other.stderr).into_owned();
        assert!(!other.status.success() && errors.contains("--out") && errors.contains("begun with"), "{errors}");
    }
}

/// A video may be skipped because a program hung, and be read the next time.
#[test]
fn a_video_that_was_skipped_and_can_be_read_now_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    // One that stays unreadable, beside those of the lists.
    frames(&d.join("videos/b4"), 6);
    let list = fs::read_to_string(d.join("test.txt")).unwrap();
    fs::write(d.join("test.txt"), list + "videos/b4 b\n").unwrap();
    fs::write(d.join("videos/b4/001.png"), "no picture").unwrap();
    let frame = d.join("videos/a1/002.png");
    let intact = fs::read(&frame).unwrap();
    fs::write(&frame, vec![0; intact.len()]).unwrap(); // its size is a part of the data
    let Some(begun) = started("pretrain_maclr", d, &SMALL) else { return };
    summary(&begun);
    fs::write(&frame, intact).unwrap();
    let e = refused(d, &SMALL).unwrap();
    let found = "--data or --test: videos/a1 could not be read when this run began, and can be read now";
    assert!(e.contains(found) && !e.contains("videos/b4") && e.contains("choose another --out than run"), "{e}");
    assert!(!e.contains("make readable again"), "{e}");
}

/// Flow of one size looks alike from outside, and a folder may hold other flow than when the run began.
#[test]
fn a_run_resumes_with_its_own_flow_only() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let field = |u: f32| Flow::new(16, 16, vec![u; 256], vec![0.5; 256]).unwrap();
    for (folder, u) in [("A", 1.0), ("B", 2.0)] {
        for video in fs::read_dir(d.join("videos")).unwrap() {
            let home = d.join(folder).join("videos").join(video.unwrap().file_name());
            fs::create_dir_all(&home).unwrap();
            (0..5).for_each(|i| flo::write(home.join(format!("{i}.flo")), &field(u)).unwrap());
        }
    }
    let with = |flow: &'static str| [&SMALL[..], &["--flow-dir", flow]].concat();
    let Some(begun) = started("pretrain_maclr", d, &with("A")) else { return };
    summary(&begun);
    let goes_on = |flow| {
        let out = started("pretrain_maclr", d, &with(flow)).unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && said.contains("nothing was trained now"), "{said} {out:?}");
    };
    let refused = |args: &[&str]| {
        let e = refused(d, args).unwrap();
        let words =
            ["--out", "--flow-dir: this is not the flow that the run began with", "--flow-dir.train.hash: begun with"];
        assert!(words.iter().all(|word| e.contains(word)) && !e.contains("--data"), "{e}");
    };
    goes_on("A");
    refused(&with("B"));
    refused(&SMALL);
    // Another field, of the same size and by another name.
    let changed = d.join("A/videos/a1/2.flo");
    flo::write(&changed, &field(3.0)).unwrap();
    refused(&with("A"));
    flo::write(&changed, &field(1.0)).unwrap();
    fs::rename(d.join("A/videos/a1/4.flo"), d.join("A/videos/a1/9.flo")).unwrap();
    refused(&with("A"));
    fs::rename(d.join("A/videos/a1/9.flo"), d.join("A/videos/a1/4.flo")).unwrap();
    goes_on("A");
    // The same flow elsewhere.
    fs::rename(d.join("A"), d.join("C")).unwrap();
    goes_on("C");
}

/// No file may become longer than 4 KiB, as on a disk that is full: what a run draws before it starts cannot be written.
#[test]
fn a_run_whose_pictures_cannot_be_written_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    for program in ["pretrain_maclr", "pretrain_mcl"] {
        let args = [&SMALL[..8], &["--side", "16", "--out"]].concat();
        // Fills the cache.
        let Some(first) = started(program, d, &[&args[..], &["first"]].concat()) else { return };
        summary(&first);
        let mut limited = Command::new("bash");
        limited.current_dir(d).args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\""]);
        limited.arg(example(program).unwrap()).args(["--epochs", "1", "--threads", "2"]).args(&args).arg("second");
        let out = limited.output().unwrap();
        let e = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && e.contains(".png") && e.contains("File too large"), "{e}");
        assert!(!d.join("second").exists(), "{e}");
        fs::remove_dir_all(d.join("first")).unwrap();
    }
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
