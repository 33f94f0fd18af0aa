//! Writes the seeds of the corpus: small files written by this project, and lists and PTX from the repository.
//!
//! `cd tools/fuzz && cargo run --example seeds -- DIR` fills `DIR/<target>`. Names describe the contents.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tubelet::error::Result;
use tubelet::flow::maps::MapSpec;
use tubelet::flow::{Flow, Gray, flo};
use tubelet::nn::{HeadSpec, Net, P3d, SmallR3d};
use tubelet::tensor::Tensor;
use tubelet::train::checkpoint::State;
use tubelet::video::cache::Builder;
use tubelet::video::{Cache, CacheSpec, Decode, Ffmpeg, FlowSource, MotionSpec, ProceduralSpec, Splits};
use tubelet::weights::{Config, save_weights};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("usage: seeds DIR")?);
    for (name, _) in fuzz::TARGETS {
        fs::create_dir_all(root.join(name))?;
    }
    flow_files(&root.join("flo"))?;
    cache_files(&root)?;
    checkpoints(&root)?;
    configs(&root.join("config"))?;
    lists(&root.join("lists"))?;
    ptx(&root.join("ptx"))?;
    torch(&root.join("torch"))?;
    Ok(())
}

/// Small networks with each kind of head, and one with input.
fn configs(dir: &Path) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let small = SmallR3d { residual: true, convs: 2, ..SmallR3d::default() }.net()?;
    let p3d = P3d { width: 8, blocks: vec![1, 2], bottleneck: true, ..P3d::default() }.net()?;
    let head = HeadSpec { hidden: 6, code: 4, normalised: true };
    for (name, config) in [
        ("small", Config::new(&small, "a seed").classifier(3)),
        ("maclr", Config::new(&small, "a seed").maclr(head)),
        ("mcl", Config::new(&p3d, "a seed").mcl(HeadSpec { normalised: false, ..head })),
        ("motion", Config::new(&Net::motion_r2d50(16)?, "a seed")),
    ] {
        fs::write(dir.join(name), serde_json::to_vec(&config)?)?;
    }
    Ok(())
}

/// A number of each kind in a field of two pixels, and a field of one pixel.
fn flow_files(dir: &Path) -> Result<()> {
    let field = |h, w, u: &[f32]| Flow::new(h, w, u.to_vec(), u.iter().rev().copied().collect());
    flo::write(dir.join("two.flo"), &field(1, 2, &[0.5, -3.0])?)?;
    flo::write(dir.join("tall.flo"), &field(3, 1, &[f32::NAN, 1e10, f32::MIN_POSITIVE])?)
}

/// Videos of a few pixels, with and without flow, with and without maps.
fn cache_files(root: &Path) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let still = |a: &Gray| Flow::new(a.h(), a.w(), vec![0.25; a.h() * a.w()], vec![-2.0; a.h() * a.w()]);
    let flow = |pairs: &[(&Gray, &Gray)]| pairs.iter().map(|(a, _)| still(a)).collect();
    let (stop, temporary) = (AtomicBool::new(false), tempfile::tempdir()?);
    let spec = ProceduralSpec {
        classes: 2,
        videos_per_class: 1,
        test_per_class: 1,
        frames: 6,
        side: 16,
        ..ProceduralSpec::default()
    };
    let videos = Splits::procedural(&spec)?.train;
    let motion = MotionSpec { settings: "seeds".into(), source: FlowSource::TvL1, every: 2, gap: 1 };
    let maps = MapSpec { window: 4, ..MapSpec::new(2.0, None) };
    let decode = Decode { short_side: Some(8), ..Decode::default() };
    for (name, motion, maps) in
        [("frames", None, None), ("flow", Some(&motion), None), ("maps", Some(&motion), Some(maps))]
    {
        let with = Builder {
            ffmpeg: Ffmpeg::default(),
            flow: Some(&flow),
            pairs: 4,
            threads: 1,
            verify: true,
            stop: &stop,
            progress: &|_| {},
        };
        let dir = temporary.path().join(name);
        Cache::build(&dir, &videos, &CacheSpec { decode: decode.clone(), motion: motion.cloned(), maps }, &with)?;
        for (i, entry) in fs::read_dir(&dir)?.enumerate() {
            let path = entry?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("tbm") => fs::write(root.join(format!("maps/{name}{i}.tbm")), fs::read(&path)?)?,
                Some("tbv") => fs::write(root.join(format!("cache/{name}{i}.tbv")), fs::read(&path)?)?,
                // In one input, flow follows the frames of a video. They may be of different videos, as checksums are
                // recomputed.
                Some("tbf") => {
                    let frames = fs::read_dir(&dir)?
                        .find_map(|e| Some(e.ok()?.path()).filter(|p| p.extension().is_some_and(|e| e == "tbv")));
                    let frames = fs::read(frames.ok_or("flow without frames")?)?;
                    fs::write(root.join(format!("cache/{name}{i}.tbf")), [frames, fs::read(&path)?].concat())?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Weights and a state of a network of a few numbers; weights with the names of another program.
fn checkpoints(root: &Path) -> Result<()> {
    let network = fuzz::network();
    let weights = root.join("checkpoint");
    save_weights(&weights.join("own.safetensors"), &[("", &network)])?;
    save_weights(&weights.join("moco.safetensors"), &[("module.encoder_q.", &network), ("queue.", &network)])?;
    let mut image = tubelet::nn::Params::new();
    for (_, p) in network.iter().filter(|(_, p)| !p.name.contains("_t.")) {
        let dims = p.value.dims().to_vec();
        let value = if let [k, 1, h, w, c] = dims[..] { Tensor::full([k, c, h, w], 0.5) } else { p.value.clone() };
        let role = if value.dims().len() == 4 { tubelet::nn::Role::LinearWeight } else { p.role };
        image.push(p.name.clone(), value, role);
    }
    save_weights(&weights.join("image.safetensors"), &[("", &image)])?;
    let mut state = State::default();
    state.tensors.insert("queue".into(), Tensor::full([2, 3], -0.75));
    state.counters.insert("step".into(), 9);
    state.reals.insert("probe".into(), 0.1);
    state.texts.insert("method".into(), "maclr".into());
    state.put_params("key.", &network);
    state.save(&root.join("state/whole.safetensors"))?;
    State::default().save(&root.join("state/empty.safetensors"))
}

/// Lists as users write them.
fn lists(dir: &Path) -> io::Result<()> {
    let texts = [
        ("plain", "list\na/x.avi 0\na/y.avi 0\nb/v_B_g01_c01.mp4 1\nb/v_B_g02_c01.mp4 1\n"),
        ("header", "list\npath,label\na/x.avi,walk\na/y.avi,run\n"),
        ("quoted", "list\n\"c d/with blank.avi\",\"a, b\"\n\"e,f\",\"say \"\"x\"\"\"\na/x.avi,\"a, b\"\n"),
        ("comment", "list\n# a comment\n\na/x.avi\twalk\na/y.avi\twalk\n"),
        ("marks", "list\n\u{feff}a/x.avi 01\r\na/y.avi 1\r\n"),
        ("frames", "list\ne,f 12 3\na/x.avi 90 3\na/y.avi 90 4\n"),
        ("pair", "pair\na/x.avi 0\nb/v_B_g01_c01.mp4 1\n--\na/y.avi 0\nb/v_B_g02_c01.mp4 1\n"),
        ("leak", "pair\na/x.avi 0\na/x.avi 1\n--\na/x.avi 0\n"),
        ("absent", "list\na/x.avi 0\nnowhere.avi 0\n"),
        ("ucf101", "ucf101\n1 a\n2 b\n--\na/x.avi 1\nb/v_B_g01_c01.mp4 2\n--\na/y.avi\nb/v_B_g02_c01.mp4\n"),
        ("gap", "ucf101\n1 a\n3 b\n--\na/x.avi 1\n--\nb/v_B_g01_c01.mp4\n"),
        ("other", "ucf101\n1 a\n2 b\n--\na/x.avi 2\n--\nx/y.avi\n"),
    ];
    texts.iter().try_for_each(|(name, text)| fs::write(dir.join(name), text))
}

/// The files that PyTorch wrote for the tests, and their pickles alone.
fn torch(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/weights"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.extension().is_some_and(|e| e == "pth") {
            let bytes = fs::read(&path)?;
            fs::write(dir.join(name), &bytes)?;
            // A pickle begins with its protocol, and ends with a dot before the next record.
            let find = |what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
            if let (true, Some(begin), Some(end)) = (bytes.starts_with(b"PK"), find(b"\x80\x02}"), find(b".PK")) {
                fs::write(dir.join(name).with_extension("pkl"), &bytes[begin..=end])?;
            }
        }
    }
    Ok(())
}

/// The smaller kernels of the crate, one per file, and those of the simulator's own tests.
fn ptx(dir: &Path) -> io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["../../ptx", "../ptxsim/tests/fixtures"] {
        for entry in fs::read_dir(here.join(folder))? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "ptx") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let without_comments: Vec<&str> = text.lines().map(|l| l.split("//").next().unwrap_or(l)).collect();
            let text = without_comments.join("\n");
            let mut kernels = text.split(".visible .entry");
            let head = kernels.next().unwrap_or_default();
            for (i, kernel) in kernels.enumerate().filter(|(_, kernel)| kernel.len() < 9000) {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                fs::write(dir.join(format!("{stem}.{i}.ptx")), format!("{head}.visible .entry{kernel}"))?;
            }
        }
    }
    Ok(())
}
