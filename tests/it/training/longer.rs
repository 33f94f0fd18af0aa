//! Runs whose number of epochs is changed on the way: the bits depend on when it was, and on nothing else.

use super::{maclr, mcl};
use crate::support::whole_run::{self, SEED, VIDEOS, checkpoint};
use std::path::Path;
use tubelet::error::Error;
use tubelet::tensor::Device;
use tubelet::train::maclr::MaclrRun;
use tubelet::train::mcl::MclRun;
use tubelet::train::pretrain::{Earlier, Outcome};
use tubelet::train::recipe::Training;
use tubelet::train::views::Loader;

type Ran = Result<(Outcome, Vec<f32>), Error>;

/// A run of MaCLR of three steps an epoch.
fn run(dir: &Path, epochs: u64, earlier: &[Earlier], after: Option<u64>) -> Ran {
    let recipe = maclr::recipe();
    let method = MaclrRun::new(&recipe, VIDEOS, SEED, &Device::Cpu)?;
    let training = Training { epochs, ..recipe.training };
    whole_run::changed(dir, &training, earlier, true, method, Loader::pair, after)
}

/// The same of MCL, whose order loss grows over the epochs.
fn run_mcl(dir: &Path, epochs: u64, earlier: &[Earlier], after: Option<u64>) -> Ran {
    let recipe = mcl::recipe().with_target()?;
    let method = MclRun::new(&recipe, VIDEOS, SEED, &Device::Cpu)?;
    let training = Training { epochs, ..recipe.training };
    whole_run::changed(dir, &training, earlier, true, method, Loader::quad, after)
}

/// A run of two epochs made one of three, and then one of four after its seventh step.
const TWICE: [Earlier; 2] = [Earlier { epochs: 2, until: 6 }, Earlier { epochs: 3, until: 7 }];

fn longer_and_stopped(run: impl Fn(&Path, u64, &[Earlier], Option<u64>) -> Ran) {
    let (whole, parts, new) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = |dir: &Path| {
        run(dir, 2, &[], None).unwrap();
        run(dir, 3, &TWICE[..1], Some(7)).unwrap_err();
    };
    first(whole.path());
    first(parts.path());
    let (done, losses) = run(whole.path(), 4, &TWICE, None).unwrap();
    assert_eq!((done.steps, done.trained), (12, 5));
    for after in [8, 10] {
        run(parts.path(), 4, &TWICE, Some(after)).unwrap_err();
    }
    let (again, rest) = run(parts.path(), 4, &TWICE, None).unwrap();
    assert_eq!(rest[..], losses[3..], "after stops at 8 and 10");
    assert!(checkpoint(whole.path()) == checkpoint(parts.path()), "checkpoints differ");
    assert_eq!((again.before, again.after), (done.before, done.after));
    // It is not the run that was to be that long from the beginning.
    let (_, from_start) = run(new.path(), 4, &[], None).unwrap();
    assert!(from_start[7..] != losses[..], "the learning rate of the first steps was another");
}

#[test]
fn a_longer_run_of_maclr_that_is_stopped_and_resumed_keeps_its_bits() {
    longer_and_stopped(run);
}

#[test]
fn a_longer_run_of_mcl_that_is_stopped_and_resumed_keeps_its_bits() {
    longer_and_stopped(run_mcl);
}

#[test]
fn a_longer_run_goes_back_before_its_change_and_keeps_its_bits() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [whole.path(), parts.path()] {
        run(dir, 2, &[], None).unwrap();
    }
    let file = parts.path().join("checkpoints/step-00000006/weights.safetensors");
    std::fs::write(&file, "damaged").unwrap();
    let (_, losses) = run(whole.path(), 3, &TWICE[..1], None).unwrap();
    let (_, rest) = run(parts.path(), 3, &TWICE[..1], None).unwrap();
    assert_eq!(rest[3..], losses[..], "the steps from 3 to 6 are those of the run of two epochs");
    // The checkpoint of step 6 was the last of a run there, and has its scores.
    let last = |dir: &Path| {
        checkpoint(dir).into_iter().filter(|(file, _)| file.starts_with("step-00000009")).collect::<Vec<_>>()
    };
    assert!(last(whole.path()) == last(parts.path()) && last(whole.path()).len() == 2, "checkpoints differ");
}

#[test]
fn a_run_ends_with_the_epochs_that_are_done_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 4, &[], Some(6)).unwrap_err();
    let earlier = [Earlier { epochs: 4, until: 6 }];
    let e = run(dir.path(), 1, &earlier, None).unwrap_err().to_string();
    assert!(e.contains("--epochs = 1") && e.contains("3 steps") && e.contains("has done 6"), "{e}");
    let (done, none) = run(dir.path(), 2, &earlier, None).unwrap();
    assert!(none.is_empty() && done.after.is_some() && done.after != done.before, "{done:?}");
}

#[test]
fn a_checkpoint_of_a_run_of_another_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 2, &[], None).unwrap();
    let e = run(dir.path(), 4, &[], None).unwrap_err().to_string();
    assert!(e.contains("step-00000006") && e.contains("of another run"), "{e}");
}
