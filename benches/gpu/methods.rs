//! The steps of MaCLR and MCL on inputs that are on the device: launch by launch, and as a graph.

use super::cases::{Case, Work, random};
use serde_json::json;
use tubelet::error::{ErrorKind, Result};
use tubelet::nn::Precision;
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::maclr::{self, Maclr};
use tubelet::ssl::mcl::{self, Mcl};
use tubelet::tensor::{DType, Device, Integers, Tensor};
use tubelet::train::recipe::Training;

/// Pairs of clips per step of MaCLR, as in `step.rs`.
const PAIRS: usize = 32;

/// One step: launches, without uploads and without waiting.
pub type Run = Box<dyn FnMut() -> Result<()>>;

/// A method's step in bf16.
#[derive(Clone, Copy)]
pub struct Method {
    /// Its name in records.
    pub name: &'static str,
    make: fn(&Device) -> Result<Run>,
}

/// Both, with the networks and the settings of the papers.
pub const METHODS: [Method; 2] =
    [Method { name: "step/maclr/bf16", make: maclr }, Method { name: "step/mcl/bf16", make: mcl }];

fn maclr(device: &Device) -> Result<Run> {
    let recipe = tubelet::train::maclr::Recipe::paper()?;
    let queue = recipe.training.queue_cap;
    let method = Maclr { precision: Precision::Bf16, groups: 1, ..recipe.method.clone() };
    let training = Training { queue: Some(queue), ..recipe.training.clone() };
    let recipe = tubelet::train::maclr::Recipe { method: method.clone(), training, ..recipe };
    let mut pathways = recipe.pathways(queue, 1, device)?;
    let [rgb, motion] = recipe.training.views.dims();
    let clips = |[t, h, w, c]: [usize; 4], seed| random([PAIRS, t, h, w, c], DType::F32, device, seed);
    let views = maclr::Views {
        rgb: [clips(rgb, 1)?, clips(rgb, 2)?],
        motion: Some([clips(motion, 3)?, clips(motion, 4)?]),
        targets: None,
        owners: (0..PAIRS as u32).collect(),
        key_clips: Vec::new(),
    };
    let inputs = method.inputs(&pathways, &views, &mut stream(1, 0, 0, Purpose::KeyShuffle), 0.01)?;
    let sgd: Sgd = recipe.training.sgd;
    Ok(Box::new(move || method.run(&mut pathways, &inputs, &sgd).map(drop)))
}

fn mcl(device: &Device) -> Result<Run> {
    let recipe = tubelet::train::mcl::Recipe::paper();
    let n = recipe.training.batch;
    let [[t, h, w, c], _] = recipe.training.views.dims();
    let method = Mcl { precision: Precision::Bf16, ..recipe.method.clone() };
    let (mut network, _) = recipe.network(recipe.training.queue_cap, 1, device)?;
    let clips = |seed| random([n, t, h, w, c], DType::F32, device, seed);
    let target = recipe.grid()?.map(|[t, h, w]| random([n, t, h, w], DType::F32, device, 5)).transpose()?;
    let order: Vec<f32> = (0..n).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let views = mcl::Views {
        query: clips(1)?,
        keys: [clips(2)?, clips(3)?, clips(4)?],
        target,
        order: Tensor::from_f32([n, 1], &order)?.to(device)?,
        owners: Integers::new((0..n as u32).collect()),
        permuted: false,
    };
    let rates = mcl::Rates { lr: 0.01, order: 1.0, alignment: method.alignment.weight };
    let inputs = method.inputs(&network, &views, &mut stream(1, 0, 0, Purpose::KeyShuffle), rates)?;
    let sgd: Sgd = recipe.training.sgd;
    Ok(Box::new(move || method.run(&mut network, &inputs, &sgd).map(drop)))
}

impl Method {
    /// Its step on a device.
    pub fn run(&self, device: &Device) -> Result<Run> {
        (self.make)(device)
    }

    fn case(&self, name: String, make: impl Fn(&Device) -> Result<Work> + 'static) -> Case {
        let problem = json!({"op": self.name});
        Case { name, dtype: DType::BF16, problem, flops: 0, bytes: 0, make: Box::new(make) }
    }

    /// Launch by launch.
    pub fn eager(self) -> Case {
        self.case(self.name.into(), move |device| {
            let (run, device) = (std::rc::Rc::new(std::cell::RefCell::new(self.run(device)?)), device.clone());
            Ok(Box::new(move || {
                let (run, device) = (run.clone(), device.clone());
                Ok(Box::new(move || run.borrow_mut()().map(|()| device)))
            }))
        })
    }

    /// As a graph, recorded after two ordinary steps.
    pub fn graph(self) -> Case {
        self.case(format!("{}/graph", self.name), move |device| {
            let (mut run, device) = (self.run(device)?, device.clone());
            run()?;
            run()?;
            let graph = match &device {
                Device::Cuda(gpu) => std::rc::Rc::new((gpu.graph(&mut run)?, run)),
                _ => {
                    let what = "only a GPU has them".into();
                    return Err(ErrorKind::Driver { action: "record a graph", what }.into());
                }
            };
            Ok(Box::new(move || {
                let (graph, device) = (graph.clone(), device.clone());
                Ok(Box::new(move || graph.0.replay().map(|()| device)))
            }))
        })
    }
}
