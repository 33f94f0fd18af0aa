//! Checkpoints: round trips, what is refused and how, and what a kill leaves.

use std::fs;
use std::path::{Path, PathBuf};
use tubelet::nn::{Encoder, Params, Role, SmallR3d};
use tubelet::shape::Shape;
use tubelet::tensor::Tensor;
use tubelet::train::checkpoint::{Checkpoints, State};
use tubelet::weights::{Matching, from_pytorch, load_weights, save_weights, to_pytorch};

pub fn params(seed: u64) -> Params {
    let net = SmallR3d { widths: vec![4, 6], blocks: vec![0, 1], ..two_stages() }.net().unwrap();
    let mut params = Encoder::new(&net, 8, 5, seed).unwrap().1;
    params.batches = seed + 7;
    params
}

fn two_stages() -> SmallR3d {
    SmallR3d { strides: vec![[1; 3], [2; 3]], temporal: vec![3, 3], ..SmallR3d::default() }
}

pub fn state(step: u64) -> State {
    let mut s = State::default();
    s.tensors
        .insert("queue".into(), Tensor::from_f32([2, 3], &[1.0, -2.0, 0.5, f32::MIN_POSITIVE, 3e38, 0.1]).unwrap());
    s.counters.insert("step".into(), step);
    s.counters.insert("large".into(), u64::MAX);
    s.reals.insert("lr".into(), 0.1f64.next_up());
    s.texts.insert("options".into(), "{\"a\": \"ü\"}".into());
    s.put_params("key.", &params(step));
    s
}

pub fn assert_same(a: &Params, b: &Params) {
    assert_eq!((a.len(), a.batches), (b.len(), b.batches));
    for ((_, a), (_, b)) in a.iter().zip(b.iter()) {
        assert_eq!((&a.name, a.value.shape()), (&b.name, b.value.shape()));
        assert_eq!(a.value.load().unwrap(), b.value.load().unwrap(), "{}", a.name);
    }
}

pub fn error<T>(r: tubelet::error::Result<T>) -> String {
    r.err().expect("an error").to_string()
}

/// Splits a safetensors file into header and data.
fn parts(file: &Path) -> (String, Vec<u8>) {
    let bytes = fs::read(file).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (String::from_utf8(bytes[8..8 + n].to_vec()).unwrap(), bytes[8 + n..].to_vec())
}

fn join(file: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    fs::write(file, bytes).unwrap();
}

#[test]
fn filters_are_transposed_and_back() {
    // k kt kh kw c = 2 1 1 2 3, numbered in our order.
    let shape = Shape::new(&[2, 1, 1, 2, 3]);
    let ours: Vec<f32> = (0..12).map(|v| v as f32).collect();
    let value = Tensor::from_f32(shape, &ours).unwrap();
    let (extents, theirs) = to_pytorch(Role::ConvWeight, &value).unwrap();
    assert_eq!(extents, [2, 3, 1, 1, 2]);
    assert_eq!(*theirs, [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
    assert_eq!(*from_pytorch(Role::ConvWeight, shape, &theirs).unwrap().load().unwrap(), *ours);
    assert!(from_pytorch(Role::ConvWeight, shape, &theirs[1..]).is_err());
}

#[test]
fn weights_and_state_come_back_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(dir.path().join("checkpoints"), 2).unwrap();
    assert_eq!(store.latest().unwrap(), None);
    let (q, m) = (params(1), params(2));
    let saved = store.save(12, &[("encoder_q.", &q), ("motion_q.", &m)], &state(12)).unwrap();
    assert_eq!(store.latest().unwrap(), Some(saved.clone()));

    let (mut q2, mut m2) = (params(3), params(4));
    let back = saved.load(&mut [("encoder_q.", &mut q2), ("motion_q.", &mut m2)]).unwrap();
    assert_same(&q, &q2);
    assert_same(&m, &m2);
    let want = state(12);
    assert_eq!((&back.counters, &back.texts), (&want.counters, &want.texts));
    assert_eq!(back.reals["lr"].to_bits(), want.reals["lr"].to_bits());
    assert_eq!(back.tensor("queue", [2, 3]).unwrap().load().unwrap(), want.tensors["queue"].load().unwrap());
    let mut key = params(9);
    back.get_params("key.", &mut key).unwrap();
    assert_same(&key, &params(12));

    assert!(error(back.tensor("queue", [3, 2])).contains("`queue` is [2 3] instead of [3 2]"));
    assert!(error(back.counter("epoch")).contains("the counter `epoch` is missing"));
}

/// Two runs that computed the same write the same files, byte for byte.
#[test]
fn files_depend_on_their_content_alone() {
    let dir = tempfile::tempdir().unwrap();
    let save = |name: &str| {
        let store = Checkpoints::open(dir.path().join(name), 1).unwrap();
        let c = store.save(3, &[("", &params(1))], &state(3)).unwrap();
        (fs::read(c.weights()).unwrap(), fs::read(c.state()).unwrap())
    };
    assert_eq!(save("a"), save("b"));
}

#[test]
fn pytorch_finds_what_it_expects() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    save_weights(&file, &[("", &params(1))]).unwrap();
    let bytes = fs::read(&file).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.tensor("stem.0.weight").unwrap().shape(), [4, 3, 3, 5, 5]);
    let tracked = read.tensor("stem.1.num_batches_tracked").unwrap();
    assert_eq!((tracked.shape(), tracked.dtype()), (&[][..], safetensors::Dtype::I64));
    assert_eq!(tracked.data(), 8i64.to_le_bytes());
}

#[test]
fn pytorch_prefixes_are_stripped() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let (q, k) = (params(1), params(2));
    save_weights(&file, &[("module.encoder_q.", &q), ("module.encoder_k.", &k)]).unwrap();
    let mut got = params(3);
    load_weights(&file, &mut [("", &mut got)], &Matching::PYTORCH).unwrap();
    assert_same(&got, &q);

    let both = Matching { strip: &["module.", "encoder_q.", "encoder_k."], allow_extra: true };
    assert!(error(load_weights(&file, &mut [("", &mut got)], &both)).contains("one name without their prefixes"));
}

#[test]
fn half_precision_and_absent_batch_counts_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let mut small = Params::new();
    small.push("a.weight", Tensor::zeros([2, 2]), Role::LinearWeight);
    small.push("n.running_var", Tensor::zeros([2]), Role::RunningVar);
    let header = r#"{"a.weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},
                     "n.running_var":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}}"#;
    let bf16: Vec<u8> = [1.0f32, -2.5, 0.5, 3.0].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let f16: Vec<u8> = [0.25f32, 4.0].iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    join(&file, header, &[bf16, f16].concat());
    load_weights(&file, &mut [("", &mut small)], &Matching::EXACT).unwrap();
    let values: Vec<f32> = small.iter().flat_map(|(_, p)| p.value.load().unwrap().into_owned()).collect();
    assert_eq!(values, [1.0, -2.5, 0.5, 3.0, 0.25, 4.0]);
}

#[test]
fn another_network_is_refused_and_nothing_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    save_weights(&file, &[("", &params(1))]).unwrap();
    let net = SmallR3d { widths: vec![4, 6], blocks: vec![0, 2], ..two_stages() }.net().unwrap();
    let mut other = Encoder::new(&net, 8, 4, 2).unwrap().1;
    let before = other.clone();
    let message = error(load_weights(&file, &mut [("", &mut other)], &Matching::EXACT));
    assert!(message.contains("these are the weights of another network"), "{message}");
    assert!(message.contains("5 missing (first `layer2.1.conv1.0.weight`)"), "{message}");
    assert!(
        message.contains("2 of another shape (first `head.projection.2.weight` is [5, 8] instead of [4, 8])"),
        "{message}"
    );
    assert_same(&other, &before);

    let message = error(load_weights(&file, &mut [("q.", &mut other)], &Matching::EXACT));
    assert!(message.contains("too many (first `"), "{message}");
}

#[test]
fn cut_and_hostile_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let mut p = params(1);
    save_weights(&file, &[("", &p)]).unwrap();
    let whole = fs::read(&file).unwrap();
    let mut load = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        error(load_weights(&file, &mut [("", &mut p)], &Matching::EXACT))
    };
    assert!(load(&[]).contains("the file is cut"));
    assert!(load(&whole[..5]).contains("the file is cut"));
    assert!(load(&whole[..100]).contains("a header of"));
    assert!(load(&whole[..whole.len() - 1]).contains("cut or damaged"));
    assert!(load(&[&whole[..], &[0]].concat()).contains("cut or damaged"));
    for length in [u64::MAX, 1 << 40, 99_000_000] {
        let hostile = [&length.to_le_bytes()[..], &whole[8..]].concat();
        assert!(load(&hostile).contains(&format!("a header of {length} bytes is announced")));
    }
    let mut text = whole.clone();
    text[8] = b'x';
    assert!(load(&text).contains("the safetensors header does not hold"));
    // Extents whose product overflows, and offsets outside of the file.
    for header in [
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}"#,
    ] {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
        assert!(load(&bytes).contains("does not hold"), "{header}");
    }
}

#[test]
fn values_that_are_not_finite_are_refused_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let mut bad = params(1);
    let id = bad.find("stem.1.bias").unwrap();
    bad[id].value.f32_mut().unwrap()[2] = f32::NAN;
    let message = error(save_weights(&file, &[("", &bad)]));
    assert!(message.contains("`stem.1.bias` holds NaN; nothing was written"), "{message}");
    assert!(!file.exists());

    // Another program's file: without a checksum.
    save_weights(&file, &[("", &params(1))]).unwrap();
    let (header, mut data) = parts(&file);
    let end = data.len();
    data[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    join(&file, &header.replace("tubelet_crc32", "other_program"), &data);
    let message = error(load_weights(&file, &mut [("", &mut params(2))], &Matching::EXACT));
    assert!(message.contains("holds inf at place"), "{message}");

    let mut state = state(1);
    state.reals.insert("loss".into(), f64::NAN);
    assert!(error(state.save(&file)).contains("`loss` is NaN"));
    // One that was written by a program that did not look, checksum and all.
    state.reals.insert("loss".into(), 0.125);
    state.save(&file).unwrap();
    let (header, data) = parts(&file);
    for number in ["NaN", "inf", "1e999", "x"] {
        assert_eq!(header.matches("0.125").count(), 1);
        write_summed(&file, &header.replace("0.125", number), &data);
        let message = error(State::load(&file));
        assert!(message.contains(&format!("`loss` is {number:?}")), "{message}");
    }
}

/// As [`join`], with the checksum that belongs to it.
fn write_summed(file: &Path, header: &str, data: &[u8]) {
    let at = header.find(r#""tubelet_crc32":""#).unwrap() + 17;
    let zeroed = format!("{}00000000{}", &header[..at], &header[at + 8..]);
    join(file, &zeroed, data);
    let sum = format!("{:08x}", crc32fast::hash(&fs::read(file).unwrap()));
    join(file, &format!("{}{sum}{}", &header[..at], &header[at + 8..]), data);
}

#[test]
fn states_of_newer_formats_and_other_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.safetensors");
    state(1).save(&file).unwrap();
    let (header, data) = parts(&file);
    for (format, age) in [(1, "an older"), (3, "a newer")] {
        join(&file, &header.replace(r#"\"format\":2"#, &format!(r#"\"format\":{format}"#)), &data);
        let message = error(State::load(&file));
        assert!(message.contains(&format!("the state has format {format}, and this program reads 2")), "{message}");
        assert!(message.contains(age), "{message}");
    }
    join(&file, &header.replace("tubelet_crc32", "tubelet_crc33"), &data);
    assert!(error(State::load(&file)).contains("lost its checksum"));
    save_weights(&file, &[("", &params(1))]).unwrap();
    assert!(error(State::load(&file)).contains("this is not the state of a training run"));
    assert!(error(State::load(&dir.path().join("absent"))).contains("cannot read"));
}

pub fn folders(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn only_the_newest_are_kept_and_a_step_may_be_saved_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(dir.path(), 2).unwrap();
    for step in [1, 2, 10, 9, 10] {
        store.save(step, &[("", &params(step))], &state(step)).unwrap();
    }
    assert_eq!(folders(dir.path()), ["step-00000009", "step-00000010"]);
    assert_eq!(store.latest().unwrap().unwrap().step, 10);
}

#[test]
fn what_is_kept_does_not_depend_on_where_a_run_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(dir.path(), 2).unwrap().every(3);
    for (step, kept) in [
        (3, &[3][..]),
        (6, &[3, 6]),
        (7, &[3, 6, 7]), // a stop: those that were due stay
        (8, &[3, 6, 8]), // another one takes its place
        (9, &[6, 9]),
        (11, &[6, 9, 11]),
        (12, &[9, 12]),
    ] {
        store.save(step, &[("", &params(step))], &state(step)).unwrap();
        let expected: Vec<String> = kept.iter().map(|step| format!("step-{step:08}")).collect();
        assert_eq!(folders(dir.path()), expected, "after step {step}");
    }
}

#[test]
fn a_failed_save_leaves_the_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(dir.path(), 2).unwrap();
    let good = store.save(1, &[("", &params(1))], &state(1)).unwrap();
    let mut bad = state(2);
    bad.reals.insert("loss".into(), f64::INFINITY);
    assert!(store.save(2, &[("", &params(2))], &bad).is_err());
    assert!(error(store.save(2, &[("", &params(1)), ("", &params(2))], &state(2))).contains("different prefixes"));
    assert_eq!(folders(dir.path()), ["step-00000001"]);
    assert_eq!(store.latest().unwrap(), Some(good));
}

/// Copies a folder, as it would be found after a kill.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Every state a kill can leave: after each system call of saving step 2, or saving step 1 again.
#[test]
fn a_kill_at_any_moment_leaves_a_whole_checkpoint() {
    let source = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(source.path(), 2).unwrap();
    let saved = |step| store.save(step, &[("", &params(step))], &state(step)).unwrap().folder;
    let (one, two) = (saved(1), saved(2));
    let half = source.path().join("half");
    fs::create_dir(&half).unwrap();
    fs::copy(two.join("weights.safetensors"), half.join("weights.safetensors")).unwrap();
    let empty = source.path().join("empty");
    fs::create_dir(&empty).unwrap();

    type Left<'a> = (&'a str, &'a [(&'a PathBuf, &'a str)], u64);
    let left: [Left; 6] = [
        ("folder made", &[(&one, "step-00000001"), (&empty, "writing-step-00000002")], 1),
        ("weights written", &[(&one, "step-00000001"), (&half, "writing-step-00000002")], 1),
        ("both written", &[(&one, "step-00000001"), (&two, "writing-step-00000002")], 1),
        ("old set aside", &[(&one, "step-00000001.replaced"), (&one, "writing-step-00000001")], 1),
        ("new in place", &[(&one, "step-00000001.replaced"), (&two, "step-00000002")], 2),
        ("old half removed", &[(&half, "removing-step-00000001"), (&two, "step-00000002")], 2),
    ];
    for (when, found, step) in left {
        let dir = tempfile::tempdir().unwrap();
        for (from, name) in found {
            copy(from, &dir.path().join(name));
        }
        let store = Checkpoints::open(dir.path(), 2).unwrap();
        let latest = store.latest().unwrap().expect(when);
        assert_eq!(latest.step, step, "{when}");
        let mut p = params(99);
        let state = latest.load(&mut [("", &mut p)]).unwrap();
        assert_same(&p, &params(step));
        assert_eq!(state.counter("step").unwrap(), step, "{when}");
        assert!(folders(dir.path()).iter().all(|n| n.starts_with("step-")), "{when}");
        store.save(3, &[("", &p)], &state).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 3, "{when}");
    }
}

/// The environment variable by which [`killed_savers_leave_whole_checkpoints`] turns its children into savers.
const SAVER: &str = "TUBELET_TEST_SAVER";

/// Not a test: saves one checkpoint after the other until it is killed.
#[test]
#[ignore = "run by killed_savers_leave_whole_checkpoints"]
fn saver() {
    let Ok(folder) = std::env::var(SAVER) else { return };
    let store = Checkpoints::open(folder, 2).unwrap();
    let begin = store.latest().unwrap().map_or(0, |c| c.step);
    for step in begin.. {
        store.save(step, &[("", &params(step))], &state(step)).unwrap(); // the step it began from once again
    }
}

#[test]
fn killed_savers_leave_whole_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest = 0;
    for kill in 0..12u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "training::checkpoint::saver", "--ignored"])
            .env(SAVER, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Until it is saving (a loaded machine may take its time to start it), then moments that fall differently into
        // a save of a few milliseconds.
        let begin = std::time::Instant::now();
        let before = folders(dir.path());
        while folders(dir.path()) == before && begin.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_micros(7_919 * kill % 23_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Checkpoints::open(dir.path(), 2).unwrap();
        let Some(latest) = store.latest().unwrap() else {
            assert_eq!(newest, 0, "checkpoints were lost");
            continue;
        };
        assert!(latest.step >= newest, "a later checkpoint was there: {newest}");
        newest = latest.step;
        let mut p = params(99);
        let state = latest.load(&mut [("", &mut p)]).unwrap();
        assert_same(&p, &params(newest));
        assert_eq!(state.counter("step").unwrap(), newest, "both files are of one step");
    }
}

#[test]
fn a_read_only_folder_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("occupied");
    fs::write(&file, "").unwrap();
    assert!(error(Checkpoints::open(&file, 1)).starts_with("cannot create"));
    assert!(error(save_weights(&file.join("w.safetensors"), &[("", &params(1))])).starts_with("cannot write"));
}
