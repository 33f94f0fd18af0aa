//! What is fuzzed: each function reads bytes as one of the formats that come from outside, as a user of the library would.
//!
//! A file may be refused, with an error; it must never end the program, and what is accepted must be written as it was read.
//! `cargo xtask fuzz` calls these functions with bytes that libFuzzer makes up, `tests/it/cli/fuzz_corpus.rs` with the files of
//! `corpus/`. Seeds are written by `examples/seeds.rs`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tubelet::flow::flo;
use tubelet::nn::{Params, Role};
use tubelet::tensor::Tensor;
use tubelet::train::checkpoint::{ImageHead, Matching, State, inflate, load_weights, save_weights};
use tubelet::video::{Dataset, Splits, untrusted};

/// Reads bytes as a file of one format.
pub type Target = fn(&[u8]);

/// All targets by name. Each has a folder `corpus/<name>`.
pub const TARGETS: [(&str, Target); 7] = [
    ("cache", cache),
    ("checkpoint", checkpoint),
    ("flo", flo),
    ("lists", lists),
    ("maps", maps),
    ("ptx", ptx),
    ("state", state),
];

thread_local! {
    static HOME: TempDir = tempfile::tempdir().expect("a folder for temporary files");
}

/// Calls `read` with a folder of this thread in which `name` holds `bytes`.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    HOME.with(|home| {
        let path = home.path().join(name);
        fs::write(&path, bytes).expect("a temporary file");
        read(&path);
    });
}

/// Sets the checksums of a file of the cache to what they should be, and that of the numbers these were made of to `made_of`:
/// a fuzzer does not find them by chance, and what stands behind them would never be read. Gives that of the numbers.
fn mend(bytes: &mut [u8], made_of: u32) -> u32 {
    let begin = bytes.get(12..16).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    if !(72..=bytes.len()).contains(&begin) {
        return 0;
    }
    let sum = crc32fast::hash(&bytes[begin..]);
    for (at, value) in [(48, sum), (52, made_of), (64, 0)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let header = crc32fast::hash(&bytes[..begin]);
    bytes[64..68].copy_from_slice(&header.to_le_bytes());
    sum
}

/// The same for a safetensors file of this project: the eight digits of its checksum.
fn mended_digits(bytes: &[u8]) -> Vec<u8> {
    let (mut mended, mark) = (bytes.to_vec(), b"\"tubelet_crc32\":\"");
    let Some(at) = bytes.windows(mark.len()).position(|w| w == mark).map(|at| at + mark.len()) else { return mended };
    let Some(digits) = mended.get_mut(at..at + 8) else { return mended };
    digits.copy_from_slice(b"00000000");
    let sum = format!("{:08x}", crc32fast::hash(&mended));
    mended[at..at + 8].copy_from_slice(sum.as_bytes());
    mended
}

/// A video of the cache: the file of its frames, and the file of its flow from where a second `TBVFLOW` begins. Checksums are
/// set right in a second try: no reader goes on where they are wrong.
pub fn cache(bytes: &[u8]) {
    let split = bytes.windows(8).position(|w| w == b"TBVFLOW\n").unwrap_or(bytes.len());
    let (frames, flow) = bytes.split_at(split);
    let (mut mended, mut mended_flow) = (frames.to_vec(), flow.to_vec());
    let sum = mend(&mut mended, 0);
    mend(&mut mended_flow, sum);
    for (frames, flow) in [(frames, flow), (&mended, &mended_flow)] {
        with_file("video.tbv", frames, |path| {
            let flow_path = path.with_extension("tbf");
            fs::write(&flow_path, flow).expect("a temporary file");
            look_at(path, None);
            look_at(path, Some(&flow_path));
        });
    }
}

/// Everything a video of the cache is asked for.
fn look_at(frames: &Path, flow: Option<&Path>) {
    let Ok(view) = untrusted::view(frames, flow) else { return };
    let (h, w) = view.size();
    let pixels: usize = (0..view.len()).map(|t| view.frame(t).len()).sum();
    assert_eq!(pixels, view.len() * h * w * 3);
    for m in 0..view.fields() {
        let flow = view.flow_field(m);
        assert_eq!([flow.u().len(), flow.v().len()], [flow.h() * flow.w(); 2]);
    }
    for t in 0..view.len().min(8) {
        assert!(view.fields() == 0 || view.field_of(t) < view.fields());
    }
    view.clip(&[0, view.len() - 1], view.fps()).expect("frames that are there");
}

/// A file of maps and scores.
pub fn maps(bytes: &[u8]) {
    let mut mended = bytes.to_vec();
    mend(&mut mended, 0);
    for bytes in [bytes, &mended] {
        with_file("video.tbm", bytes, |path| {
            let Ok(maps) = untrusted::maps(path) else { return };
            for t in [0, 1, 100, usize::MAX / 2] {
                assert_eq!(maps.map(t).len(), maps.grid()[0] * maps.grid()[1]);
                maps.score(t);
            }
            assert_eq!(maps.mean(&[0, 3, 1000]).len(), maps.grid()[0] * maps.grid()[1]);
        });
    }
}

/// Middlebury's flow.
pub fn flo(bytes: &[u8]) {
    with_file("flow.flo", bytes, |path| {
        let Ok(flow) = flo::read(path) else { return };
        let again = path.with_file_name("again.flo");
        flo::write(&again, &flow).expect("what was read can be written");
        assert_eq!(fs::read(again).expect("what was written"), bytes);
    });
}

/// A network of a few numbers: with the names and roles of [`load_weights`]'s and [`inflate`]'s callers.
pub fn network() -> Params {
    let mut params = Params::new();
    params.push("conv1.weight", Tensor::full([2, 1, 3, 3, 2], 0.5), Role::ConvWeight);
    params.push("bn1.weight", Tensor::full([2], 1.0), Role::NormScale);
    params.push("bn1.bias", Tensor::full([2], 0.0), Role::NormShift);
    params.push("bn1.running_mean", Tensor::full([2], 0.0), Role::RunningMean);
    params.push("bn1.running_var", Tensor::full([2], 1.0), Role::RunningVar);
    params.push("layer1.0.conv2_t.weight", Tensor::full([2, 3, 1, 1, 2], 0.1), Role::ConvWeight);
    params
}

/// Weights: those of a checkpoint, those of another program, those of an image network.
pub fn checkpoint(bytes: &[u8]) {
    weights(bytes);
    weights(&mended_digits(bytes));
}

fn weights(bytes: &[u8]) {
    with_file("weights.safetensors", bytes, |path| {
        for matching in [Matching::EXACT, Matching::PYTORCH] {
            let mut params = network();
            if load_weights(path, &mut [("", &mut params)], &matching).is_ok() {
                let again = path.with_file_name("again.safetensors");
                save_weights(&again, &[("", &params)]).expect("what was read can be written");
                let mut second = network();
                load_weights(&again, &mut [("", &mut second)], &Matching::EXACT).expect("what was written");
                assert_eq!(params.batches.min(i64::MAX as u64), second.batches);
                assert_same(&params, &second);
            }
        }
        let _ = inflate(path, &mut network(), ImageHead::Dropped);
    });
}

fn assert_same(a: &Params, b: &Params) {
    for ((_, a), (_, b)) in a.iter().zip(b.iter()) {
        assert_eq!(a.value.load().expect("numbers"), b.value.load().expect("numbers"), "{}", a.name);
    }
}

/// The rest of a training run.
pub fn state(bytes: &[u8]) {
    rest(bytes);
    rest(&mended_digits(bytes));
}

fn rest(bytes: &[u8]) {
    with_file("state.safetensors", bytes, |path| {
        let Ok(state) = State::load(path) else { return };
        let _ = state.get_params("key.", &mut network());
        let again = path.with_file_name("again.safetensors");
        state.save(&again).expect("what was read can be written");
        let second = State::load(&again).expect("what was written");
        assert_eq!((&state.counters, &state.texts), (&second.counters, &second.texts));
        let bits = |s: &State| s.reals.iter().map(|(k, v)| (k.clone(), v.to_bits())).collect::<Vec<_>>();
        assert_eq!(bits(&state), bits(&second));
        assert!(state.tensors.keys().eq(second.tensors.keys()));
        for (name, tensor) in &state.tensors {
            let other = &second.tensors[name];
            assert_eq!((tensor.dims(), tensor.load().ok()), (other.dims(), other.load().ok()), "{name}");
        }
    });
}

/// Videos (of a byte each: lists are not concerned with what is in them) that the lists in the corpus name.
const VIDEOS: [&str; 6] =
    ["a/x.avi", "a/y.avi", "b/v_B_g01_c01.mp4", "b/v_B_g02_c01.mp4", "c d/with blank.avi", "e,f/1.png"];

/// The lists of a data set. The first line says which: `list` (of `path label`), `pair` (such a list for training and one
/// for testing) or `ucf101` (`classInd.txt`, `trainlist01.txt`, `testlist01.txt`); a line `--` stands between two.
pub fn lists(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|&b| b == b'\n') else { return };
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut rest = &bytes[end + 1..];
    while let Some(at) = rest.windows(4).position(|w| w == b"\n--\n") {
        parts.push(&rest[..=at]);
        rest = &rest[at + 4..];
    }
    parts.push(rest);
    let ucf101 = ["classInd.txt", "trainlist01.txt", "testlist01.txt"];
    let (folder, names): (&str, &[&str]) = match &bytes[..end] {
        b"list" => ("list", &["train.csv"]),
        b"pair" => ("pair", &["train.csv", "test.csv"]),
        b"ucf101" => ("ucf101", &ucf101),
        _ => return,
    };
    HOME.with(|home| {
        let folder = home.path().join(folder);
        if !folder.exists() {
            for video in VIDEOS {
                let path = folder.join(video);
                fs::create_dir_all(path.parent().expect("a class")).expect("a folder");
                fs::write(path, [7]).expect("a video");
            }
        }
        for (i, name) in names.iter().enumerate() {
            fs::write(folder.join(name), parts.get(i).copied().unwrap_or_default()).expect("a list");
        }
        let opened = match names {
            ["train.csv"] => Splits::open(&folder.join("train.csv"), None),
            ["train.csv", "test.csv"] => Splits::open(&folder.join("train.csv"), Some(&folder.join("test.csv"))),
            _ => Splits::open(&folder, None),
        };
        if let Ok(splits) = opened {
            assert!(!splits.train.is_empty());
            let labels = |set: &Dataset| set.items.iter().all(|item| item.label < set.classes.len());
            assert!(labels(&splits.train) && labels(&splits.test));
            assert_eq!(splits.train.classes, splits.test.classes);
        }
    });
}

/// PTX, as the simulator of the tests reads it.
pub fn ptx(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let machine = ptxsim::Machine::new(ptxsim::Config::default());
    if let Ok(module) = machine.load(text) {
        assert!(module.entries().iter().all(|e| module.entry(e.name()).is_some()));
    }
}
