//! The steps that are priced, run on the recording driver at full size. Nothing is computed, and clips exist on the
//! device alone.

use super::device::Device as Rates;
use super::floor::{self, Fusion};
use super::nets::nets;
use super::recorder::{self, Launch};
use tubelet::error::Result;
use tubelet::nn::{Classifier, Net, Precision};
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::maclr::{self, Maclr};
use tubelet::ssl::mcl::{self, Mcl, Rates as Weights};
use tubelet::ssl::supervised::{Learner, Supervised};
use tubelet::tensor::{Integers, Tensor};
use tubelet::train::recipe::Training;

/// Clips per step of the networks.
const BATCH: usize = 64;
/// Pairs per step of MaCLR.
const PAIRS: usize = 32;
/// Classes of the networks.
const CLASSES: usize = 400;

/// Networks that a step runs: each with its clip, its samples, and whether it is trained or only run forward.
type Runs = Vec<(Net, [usize; 3], usize, bool)>;

/// A training step.
pub struct Step {
    /// Its name in the contract: `train_step/slow_r50/b64/bf16`, `step/maclr`.
    pub name: String,
    /// What it processes per step, for rates.
    pub samples: usize,
    runs: Runs,
    record: Box<dyn Fn() -> Result<Vec<Launch>>>,
}

impl Step {
    /// What one step launches.
    ///
    /// # Errors
    /// Those of the step.
    pub fn launches(&self) -> Result<Vec<Launch>> {
        (self.record)()
    }

    /// Seconds of the best kernels with `fusion`.
    ///
    /// # Errors
    /// None in practice: the networks fit their clips.
    pub fn floor(&self, fusion: Fusion, device: &Rates) -> Result<f64> {
        let of = |(net, clip, n, trained): &(Net, _, _, _)| floor::seconds(net, *clip, fusion, *trained, *n, device);
        self.runs.iter().map(of).sum()
    }

    /// Bytes of the activations that the best kernels with `fusion` read and write.
    ///
    /// # Errors
    /// As [`Step::floor`].
    pub fn floor_bytes(&self, fusion: Fusion) -> Result<f64> {
        self.runs.iter().map(|(net, clip, n, trained)| floor::bytes(net, *clip, fusion, *trained, *n)).sum()
    }
}

/// Every step.
///
/// # Errors
/// When a preset is invalid.
pub fn all() -> Result<Vec<Step>> {
    let networks = nets().into_iter().map(|(name, net, clip)| network(name, net, clip, BATCH));
    Ok(networks.chain([maclr()?, mcl()?]).collect())
}

/// Forward, cross-entropy, backward and update of a network with a classifier.
pub fn network(name: &str, net: Net, clip: [usize; 3], clips: usize) -> Step {
    let runs = vec![(net.clone(), clip, clips, true)];
    let [t, h, w] = clip;
    let record = move || {
        let (device, log) = recorder::device();
        let (classifier, params) = Classifier::new(&net, CLASSES, 1)?;
        let mut learner = Learner::new(classifier, params.to(&device)?)?;
        let how = Supervised { dropout: 0.0, clip_norm: None, frozen: false, precision: Precision::Bf16 };
        let x = Tensor::zeros_on(&device, [clips, t, h, w, 3])?;
        let mut step = || {
            let labels = (0..clips as u32).collect();
            let mut rng = stream(1, 0, 0, Purpose::Dropout);
            let parts = std::iter::once(Ok((x.clone(), labels)));
            learner.step(&how, clips, parts, &mut rng, 0.01, &Sgd::default())
        };
        second(&log, &mut || step().map(drop))
    };
    Step { name: format!("train_step/{name}/b{clips}/bf16"), samples: clips, runs, record: Box::new(record) }
}

/// The launches of a second step: the first one separates what networks share.
fn second(log: &recorder::Log, step: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Launch>> {
    step()?;
    drop(log.take());
    step()?;
    Ok(log.take())
}

/// MaCLR's step with the paper's networks, as `benches/gpu/step.rs` times it.
fn maclr() -> Result<Step> {
    let recipe = tubelet::train::maclr::Recipe::paper()?;
    let [rgb, motion] = recipe.training.views.dims();
    let of = |[t, h, w, _]: [usize; 4]| [t, h, w];
    let (visual, moving) = (recipe.visual.clone(), recipe.motion_net());
    let nets = [(visual, of(rgb)), (moving, of(motion))];
    let both = nets.iter().flat_map(|(net, clip)| [true, false].map(|trained| (net.clone(), *clip, PAIRS, trained)));
    let runs = both.collect();
    let record = move || {
        let (device, log) = recorder::device();
        let queue = recipe.training.queue_cap;
        let method = Maclr { precision: Precision::Bf16, groups: 1, ..recipe.method.clone() };
        let training = Training { queue: Some(queue), ..recipe.training.clone() };
        let recipe = tubelet::train::maclr::Recipe { method: method.clone(), training, ..recipe.clone() };
        let mut pathways = recipe.pathways(queue, 1, &device)?;
        let clips = |[t, h, w, c]: [usize; 4]| Tensor::zeros_on(&device, [PAIRS, t, h, w, c]);
        let views = maclr::Views {
            rgb: [clips(rgb)?, clips(rgb)?],
            motion: Some([clips(motion)?, clips(motion)?]),
            targets: None,
            owners: (0..PAIRS as u32).collect(),
            key_clips: Vec::new(),
        };
        let sgd = recipe.training.sgd;
        let mut step = || {
            let mut rng = stream(1, 0, 0, Purpose::KeyShuffle);
            method.step(&mut pathways, &views, &mut rng, 0.01, &sgd).map(drop)
        };
        second(&log, &mut step)
    };
    Ok(Step { name: "step/maclr".to_owned(), samples: PAIRS, runs, record: Box::new(record) })
}

/// MCL's step with the release's network and settings for UCF101, in bf16.
fn mcl() -> Result<Step> {
    let recipe = tubelet::train::mcl::Recipe::paper();
    let n = recipe.training.batch;
    let [[t, h, w, c], _] = recipe.training.views.dims();
    let net = recipe.net.clone();
    let runs = [(n, true), (3 * n, false)].map(|(n, trained)| (net.clone(), [t, h, w], n, trained)).to_vec();
    let record = move || {
        let (device, log) = recorder::device();
        let method = Mcl { precision: Precision::Bf16, ..recipe.method.clone() };
        let (mut network, _) = recipe.network(recipe.training.queue_cap, 1, &device)?;
        let clips = || Tensor::zeros_on(&device, [n, t, h, w, c]);
        let target = recipe.grid()?.map(|[t, h, w]| Tensor::zeros_on(&device, [n, t, h, w])).transpose()?;
        let views = mcl::Views {
            query: clips()?,
            keys: [clips()?, clips()?, clips()?],
            target,
            order: Tensor::zeros_on(&device, [n, 1])?,
            owners: Integers::new((0..n as u32).collect()),
            permuted: false,
        };
        let rates = Weights { lr: 0.01, order: 1.0, alignment: method.alignment.weight };
        let mut step = || {
            let mut rng = stream(1, 0, 0, Purpose::KeyShuffle);
            method.step(&mut network, &views, &mut rng, rates, &recipe.training.sgd).map(drop)
        };
        second(&log, &mut step)
    };
    Ok(Step { name: "step/mcl".to_owned(), samples: n, runs, record: Box::new(record) })
}
