//! Training on a GPU: the clips of the next step go there by a stream of their own while a step is computed. On the driver
//! library of `tools/simcuda`, which executes work only when somebody waits for it; its log has the order of the calls.

use super::host;
use crate::support::numbers::noise;
use crate::support::whole_run::{SEED, VIDEOS, checkpoint, loaders};
use crate::training::{maclr, mcl, mcl_graph};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tubelet::augment::apply_rgb;
use tubelet::driver::Gpu;
use tubelet::error::Result;
use tubelet::nn::{Params, Trunk};
use tubelet::ops::sgd::Sgd;
use tubelet::tensor::Device;
use tubelet::train::checkpoint::State;
use tubelet::train::folder::Folder;
use tubelet::train::maclr::MaclrRun;
use tubelet::train::mcl::MclRun;
use tubelet::train::pretrain::{At, Load, Method, Observer, Report, Scores, Seen, Settings, pretrain};
use tubelet::train::recipe::Training;
use tubelet::train::views::{ClipPair, Loader, Part};

const STEPS: usize = 4;

/// The order of the calls of the first run in a log, one letter for consecutive calls of a kind: `u` an upload by the stream that
/// copies, `w` that stream waits for the stream that computes, `c` the latter waits for the former, `k` it is given kernels,
/// `r` the host waits for a report.
fn calls(log: &str) -> String {
    let stream = |line: &str, call: &str| -> Option<String> {
        line.starts_with(call).then(|| line.split(" in ").nth(1)?.split(' ').next().map(str::to_owned))?
    };
    // The first wait is that of a stream which was just made.
    let copies = log.lines().find_map(|line| stream(line, "cuStreamWaitEvent")).expect("there are two streams");
    let mut before = log.lines().take_while(|line| !line.starts_with("cuStreamWaitEvent"));
    let computes =
        before.by_ref().filter_map(|line| stream(line, "cuEventRecord")).last().expect("it waits for an event");
    let kinds = [
        ('u', "cuMemcpyHtoDAsync_v2", &copies),
        ('w', "cuStreamWaitEvent", &copies),
        ('c', "cuStreamWaitEvent", &computes),
        ('k', "launch", &computes),
        ('k', "cuGraphLaunch", &computes),
        ('r', "cuMemcpyDtoHAsync_v2", &computes),
    ];
    let letter =
        |line| kinds.iter().find(|(_, call, by)| stream(line, call).as_ref() == Some(*by)).map(|(kind, ..)| *kind);
    let mut all: Vec<char> = log.lines().filter_map(letter).collect();
    all.dedup();
    all.into_iter().collect()
}

/// Runs a test of this file's `inside`, which trains twice, and looks at the calls of the first run.
fn is_fed(name: &str) {
    let ran = host::tests(&["--exact", &format!("device::feed::inside::{name}"), "--ignored"], &[]);
    let calls = calls(&ran.log);
    // The kernels of a step, then the upload for the next, then the report; and the stream that copies waits for nothing between.
    let mut steps = vec!["cku rw"; STEPS - 1];
    steps.push("ck rw");
    if name.ends_with("graph") {
        steps[1] = "ckrk u w"; // the report of this step is read before the graph is recorded
    }
    let want = format!("wu{}", steps.concat().replace(' ', ""));
    assert!(calls.starts_with(&want), "{calls} instead of {want}");
    let launches = |entry: &str| ran.log.lines().filter(|line| line.starts_with(&format!("launch {entry}_"))).count();
    // A launch for each of two or four tensors of RGB clips a step: all videos are of one size. Where one of a tensor's clips is
    // over another video's background, there is a launch for the backgrounds as well.
    let (clips, behind) = (if name.contains("mcl") { 4 } else { 2 }, launches("augment_background"));
    assert_eq!(launches("augment_rgb"), if name.contains("frames") { 2 * clips * STEPS + behind } else { 0 });
    assert_eq!(behind > 0, name.contains("backgrounds"));
    // Two runs, whose first two steps are not replayed.
    assert_eq!(ran.count("cuGraphLaunch"), if name.ends_with("graph") { 2 * (STEPS - 2) } else { 0 });
    assert_eq!(ran.count("cuMemcpyHtoDAsync_v2 (pageable)"), 0);
}

#[test]
fn maclr_is_fed_while_it_computes() {
    is_fed("maclr");
}

#[test]
fn maclr_as_a_graph_is_fed_while_it_computes() {
    is_fed("maclr_as_a_graph");
}

#[test]
fn mcl_is_fed_while_it_computes() {
    is_fed("mcl");
}

#[test]
fn mcl_as_a_graph_is_fed_while_it_computes() {
    is_fed("mcl_as_a_graph");
}

#[test]
fn maclr_is_fed_with_frames() {
    is_fed("maclr_of_frames");
}

#[test]
fn maclr_is_fed_with_frames_over_backgrounds() {
    is_fed("maclr_of_frames_over_backgrounds");
}

#[test]
fn mcl_is_fed_with_frames() {
    is_fed("mcl_of_frames_as_a_graph");
}

/// What is left to a GPU is what the CPU would have made the clips of.
#[test]
fn clips_are_left_to_a_gpu_with_all_they_are_made_of() {
    let (dir, recipe) = (tempfile::tempdir().unwrap(), maclr::recipe());
    let ([cpu, _], _) = loaders(dir.path(), &recipe.training, true).unwrap();
    let gpu = Loader { on_gpu: true, ..cpu.clone() };
    for video in 0..4 {
        let (made, left) = (cpu.pair(1, video).unwrap(), gpu.pair(1, video).unwrap());
        for (made, left) in made.rgb.iter().zip(&left.rgb) {
            let raw = &left.raw.as_ref().unwrap().clip;
            let ([h, w], mut out) = (raw.size, vec![0.0; made.data.len()]);
            let frames: Vec<&[u8]> = raw.frames.chunks_exact(h * w * 3).collect();
            apply_rgb(&frames, h, w, &raw.draw, left.dims[1], &mut out).unwrap();
            assert!(left.data.is_empty() && left.dims == made.dims && out == made.data, "video {video}");
        }
        assert_eq!(left.motion.unwrap()[1].data, made.motion.unwrap()[1].data);
        // Views for evaluation are made here.
        assert_eq!(gpu.uniform(video, 1).unwrap()[0].data, cpu.uniform(video, 1).unwrap()[0].data);
    }
    let mut run = MaclrRun::new(&recipe, VIDEOS, 1, &Device::Cpu).unwrap();
    let refused = run.batch(vec![gpu.pair(0, 0).unwrap()]).err().expect("networks on the CPU");
    assert!(refused.to_string().contains("made there"), "{refused}");
}

/// A method whose batches are prepared between its steps.
struct Plain<M>(M);

impl<M: Method> Method for Plain<M> {
    type Sample = M::Sample;
    type Batch = M::Batch;

    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn batch(&mut self, samples: Vec<M::Sample>) -> Result<M::Batch> {
        self.0.batch(samples)
    }
    fn start(&mut self, batch: &mut M::Batch, at: At, lr: f32, sgd: &Sgd) -> Result<Seen> {
        self.0.start(batch, at, lr, sgd)
    }
    fn networks(&self) -> Vec<(&'static str, &Params)> {
        self.0.networks()
    }
    fn networks_mut(&mut self) -> Vec<(&'static str, &mut Params)> {
        self.0.networks_mut()
    }
    fn save(&self, state: &mut State) {
        self.0.save(state);
    }
    fn restore(&mut self, state: &State) -> Result<()> {
        self.0.restore(state)
    }
    fn kept(&self) -> (&Trunk, &Params) {
        self.0.kept()
    }
}

#[derive(Default)]
struct Losses(Vec<u32>);

impl Observer for Losses {
    fn step(&mut self, _: At, _: u64, report: &Report, _: f64) {
        self.0.push(report.loss.to_bits());
    }
    fn scores(&mut self, _: u64, _: Scores) {}
    fn epoch(&mut self, _: u64) {}
}

/// A run of four steps: its losses, and the files of its checkpoint.
fn train<M: Method>(
    mut method: M,
    training: &Training,
    sample: impl Fn(u64, usize) -> M::Sample + Send + Sync + 'static,
) -> (Vec<u32>, BTreeMap<PathBuf, Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        run: "a test".to_owned(),
        seed: SEED,
        epochs: 1,
        batch: VIDEOS / STEPS,
        schedule: training.schedule(STEPS as u64),
        earlier: Vec::new(),
        sgd: training.sgd,
        workers: 2,
        probe_every: 0,
        trace: None,
    };
    let load: Arc<Load<M::Sample>> = Arc::new(move |epoch, video, _| Ok(sample(epoch, video)));
    let (folder, mut losses) = (Folder::open(dir.path()).unwrap(), Losses::default());
    let stop = AtomicBool::new(false);
    pretrain(&mut method, load, VIDEOS, None, &folder, &settings, &stop, &mut losses).unwrap();
    assert_eq!(losses.0.len(), STEPS);
    (losses.0, checkpoint(dir.path()))
}

/// A video's clips in an epoch.
fn pair(epoch: u64, video: usize) -> ClipPair {
    let part = |dims: [usize; 4], seed: u64| {
        let data = noise(seed + 10 * video as u64 + 1000 * epoch, &dims).load().unwrap().into_owned();
        Part::new(dims, data)
    };
    let (rgb, motion) = ([4, 16, 16, 3], [8, 16, 16, 1]);
    ClipPair {
        video: video as u32,
        starts: [0.0; 2],
        rgb: [part(rgb, 1), part(rgb, 2)],
        motion: Some([part(motion, 3), part(motion, 4)]),
        target: None,
    }
}

mod inside {
    use super::*;

    fn device() -> Device {
        Device::Cuda(Gpu::cuda(0).unwrap())
    }

    fn same_bits_of_maclr(graph: bool) {
        let recipe = maclr::recipe();
        let run = || {
            let run = MaclrRun::new(&recipe, VIDEOS, 1, &device()).unwrap();
            if graph { run.recorded() } else { run }
        };
        assert!(train(run(), &recipe.training, pair) == train(Plain(run()), &recipe.training, pair));
    }

    fn same_bits_of_mcl(graph: bool) {
        let recipe = mcl::recipe();
        let run = || {
            let run = MclRun::new(&recipe, VIDEOS, 1, &device()).unwrap();
            if graph { run.recorded() } else { run }
        };
        let sample = |epoch, video| mcl_graph::sample(video as u32, epoch);
        assert!(train(run(), &recipe.training, sample) == train(Plain(run()), &recipe.training, sample));
    }

    /// Two runs whose frames go to the GPU, with clips over other videos' backgrounds by this probability.
    fn same_bits_of_frames(background_swap: f32) {
        let (dir, mut recipe) = (tempfile::tempdir().unwrap(), maclr::recipe());
        recipe.training.views.background_swap = background_swap;
        let ([loader, _], _) = loaders(dir.path(), &recipe.training, true).unwrap();
        let loader = Loader { on_gpu: true, ..loader };
        let run = || MaclrRun::new(&recipe, VIDEOS, 1, &device()).unwrap();
        let sample = |loader: &Loader| {
            let loader = loader.clone();
            move |epoch, video| loader.pair(epoch, video).unwrap()
        };
        let fed = train(run(), &recipe.training, sample(&loader));
        assert!(fed == train(Plain(run()), &recipe.training, sample(&loader)));
    }

    #[test]
    #[ignore = "run by maclr_is_fed_with_frames"]
    fn maclr_of_frames() {
        same_bits_of_frames(0.0);
    }

    #[test]
    #[ignore = "run by maclr_is_fed_with_frames_over_backgrounds"]
    fn maclr_of_frames_over_backgrounds() {
        same_bits_of_frames(0.5);
    }

    #[test]
    #[ignore = "run by mcl_is_fed_with_frames"]
    fn mcl_of_frames_as_a_graph() {
        let (dir, recipe) = (tempfile::tempdir().unwrap(), mcl::recipe().with_target().unwrap());
        let ([loader, _], _) = loaders(dir.path(), &recipe.training, true).unwrap();
        let loader = Loader { on_gpu: true, ..loader };
        let run = || MclRun::new(&recipe, VIDEOS, 1, &device()).unwrap().recorded();
        let sample = |loader: &Loader| {
            let loader = loader.clone();
            move |epoch, video| loader.quad(epoch, video).unwrap()
        };
        let fed = train(run(), &recipe.training, sample(&loader));
        assert!(fed == train(Plain(run()), &recipe.training, sample(&loader)));
    }

    #[test]
    #[ignore = "run by maclr_is_fed_while_it_computes"]
    fn maclr() {
        same_bits_of_maclr(false);
    }

    #[test]
    #[ignore = "run by maclr_as_a_graph_is_fed_while_it_computes"]
    fn maclr_as_a_graph() {
        same_bits_of_maclr(true);
    }

    #[test]
    #[ignore = "run by mcl_is_fed_while_it_computes"]
    fn mcl() {
        same_bits_of_mcl(false);
    }

    #[test]
    #[ignore = "run by mcl_as_a_graph_is_fed_while_it_computes"]
    fn mcl_as_a_graph() {
        same_bits_of_mcl(true);
    }
}
