//! Damaged checkpoints: every one is refused, and a run goes back to the newest that is whole.

use std::fs;
use std::path::Path;
use tubelet::nn::{Params, Role};
use tubelet::tensor::Tensor;
use tubelet::train::checkpoint::{Checkpoint, Checkpoints, State, newest_intact};
use tubelet::weights::{Matching, load_weights, save_weights};

use crate::training::checkpoint::{assert_same, error, folders, params, state};

/// The smallest checkpoint: its files are looked at byte for byte.
fn tiny(folder: &Path) -> (Checkpoint, Params) {
    let mut p = Params::new();
    p.push("a.weight", Tensor::from_f32([2, 3], &[1.0, -2.0, 0.5, 3.0, 0.25, 8.0]).unwrap(), Role::LinearWeight);
    p.push("n.running_var", Tensor::from_f32([2], &[0.5, 2.0]).unwrap(), Role::RunningVar);
    let mut s = State::default();
    s.tensors.insert("queue".into(), Tensor::from_f32([2, 2], &[1.0, -2.0, 0.5, 0.1]).unwrap());
    s.counters.insert("step".into(), 9);
    s.reals.insert("probe_before".into(), 0.25);
    s.texts.insert("method".into(), "maclr".into());
    (Checkpoints::open(folder, 3).unwrap().save(9, &[("q.", &p)], &s).unwrap(), p)
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (saved, p) = tiny(dir.path());
    let mut into = p.clone();
    saved.load(&mut [("q.", &mut into)]).unwrap();
    for file in [saved.weights(), saved.state()] {
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            for bit in [0, 3, 5, 7] {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                fs::write(&file, &damaged).unwrap();
                let message = error(saved.load(&mut [("q.", &mut into)]));
                assert!(message.contains(&*file.to_string_lossy()), "bit {bit} of {at}: {message}");
            }
        }
        fs::write(&file, &whole).unwrap();
    }
    assert_same(&into, &p);
}

#[test]
fn files_cut_at_any_byte_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (saved, mut p) = tiny(dir.path());
    for file in [saved.weights(), saved.state()] {
        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            let message = error(saved.load(&mut [("q.", &mut p)]));
            assert!(message.contains(&*file.to_string_lossy()), "{length} bytes: {message}");
        }
        fs::write(&file, &whole).unwrap();
    }
}

/// Who reads the weights of a run gets the newest whole checkpoint, and hears what is wrong with newer ones.
#[test]
fn readers_of_a_run_get_the_newest_whole_checkpoint_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(newest_intact(&dir.path().join("absent")).unwrap().is_none());
    assert!(newest_intact(dir.path()).unwrap().is_none());
    let (first, p) = tiny(dir.path());
    let second = Checkpoints::open(dir.path(), 3).unwrap().save(12, &[("q.", &p)], &State::default()).unwrap();
    assert_eq!(newest_intact(dir.path()).unwrap(), Some((second.clone(), Vec::new())));
    let spoil = |file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
    };
    spoil(&second.weights());
    let before = folders(dir.path());
    let (found, damaged) = newest_intact(dir.path()).unwrap().unwrap();
    assert_eq!((found, damaged.len()), (first.clone(), 1));
    assert!(damaged[0].contains("step-00000012"), "{damaged:?}");
    assert_eq!(folders(dir.path()), before);
    spoil(&first.state());
    assert!(error(newest_intact(dir.path())).contains("step-00000012"), "none is whole: the newest is named");
}

/// Weights alone, as another run takes them: by the checksum in the file itself.
#[test]
fn weights_on_their_own_have_their_checksum() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let mut p = params(1);
    save_weights(&file, &[("", &p)]).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, &bytes).unwrap();
    let message = error(load_weights(&file, &mut [("", &mut p)], &Matching::EXACT));
    assert!(message.contains("w.safetensors: the file is damaged"), "{message}");
    assert_same(&p, &params(1));
    let safe = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(safe.tensor("stem.0.weight").is_ok(), "other programs read the format as ever");
}

#[test]
fn a_renamed_folder_and_files_of_two_steps_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(dir.path(), 3).unwrap();
    let [one, two] = [1, 2].map(|step| store.save(step, &[("", &params(step))], &state(step)).unwrap());
    fs::rename(&two.folder, dir.path().join("step-00000007")).unwrap();
    let mut p = params(9);
    let message = error(store.latest().unwrap().unwrap().load(&mut [("", &mut p)]));
    assert!(message.contains("step-00000007") && message.contains("after step 2, not 7"), "{message}");
    fs::rename(dir.path().join("step-00000007"), &two.folder).unwrap();
    two.load(&mut [("", &mut p)]).unwrap();
    assert_same(&p, &params(2));
    // The weights of another step, and a state that no checkpoint has.
    fs::copy(one.weights(), two.weights()).unwrap();
    let message = error(two.load(&mut [("", &mut p)]));
    assert!(message.contains("not the weights that were saved with the state"), "{message}");
    state(1).save(&one.state()).unwrap();
    assert!(error(one.load(&mut [("", &mut p)])).contains("does not say its step"));
    assert_same(&p, &params(2));
}

#[test]
fn a_run_goes_on_from_the_newest_whole_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(dir.path(), 3).unwrap();
    let mut p = params(9);
    assert!(store.resume(&mut [("", &mut p)]).unwrap().is_none());
    let saved = [1, 2, 3].map(|step| store.save(step, &[("", &params(step))], &state(step)).unwrap());
    let whole = store.resume(&mut [("", &mut p)]).unwrap().unwrap();
    assert_eq!((whole.checkpoint.step, whole.damaged.len()), (3, 0));
    fs::remove_file(saved[2].weights()).unwrap();
    let bytes = fs::read(saved[1].state()).unwrap();
    fs::write(saved[1].state(), &bytes[..bytes.len() - 1]).unwrap();
    let back = store.resume(&mut [("", &mut p)]).unwrap().unwrap();
    assert_eq!((back.checkpoint.step, back.state.counter("step").unwrap()), (1, 1));
    assert_same(&p, &params(1));
    assert_eq!(back.damaged.len(), 2);
    assert!(back.damaged[0].contains("damaged-step-00000003"), "{:?}", back.damaged);
    assert!(back.damaged[1].contains("state.safetensors") && back.damaged[1].contains("cut"), "{:?}", back.damaged);
    assert_eq!(folders(dir.path()), ["damaged-step-00000002", "damaged-step-00000003", "step-00000001"]);
    // What was set aside neither counts nor is in the way.
    store.save(2, &[("", &params(2))], &state(2)).unwrap();
    assert_eq!(store.latest().unwrap().unwrap().step, 2);
    // With nothing to go back to, one sentence, and nothing is renamed.
    for step in [1, 2] {
        let file = dir.path().join(format!("step-{step:08}/weights.safetensors"));
        let mut bytes = fs::read(&file).unwrap();
        bytes[3000] ^= 4;
        fs::write(&file, bytes).unwrap();
    }
    let message = error(store.resume(&mut [("", &mut p)]));
    assert!(message.contains("step-00000002/weights.safetensors"), "{message}");
    assert!(message.contains("is damaged") && message.contains("no earlier checkpoint can be used"), "{message}");
    assert_eq!(folders(dir.path()).len(), 4);
}

#[test]
fn only_regular_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().is_ok_and(|s| s.success()));
    for path in [&fifo, Path::new("/dev/zero"), dir.path()] {
        let message = error(load_weights(path, &mut [("", &mut params(1))], &Matching::EXACT));
        assert!(message.contains("regular file"), "{message}");
        assert!(error(State::load(path)).contains("regular file"));
    }
}
