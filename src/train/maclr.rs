//! A MaCLR run: the settings in one plain struct, its presets, and the method's side of the [loop](super::pretrain).

use super::checkpoint::State;
use super::pretrain::{At, Method, Report};
use super::views::{ClipPair, ViewSpec};
use crate::augment::AugmentSpec;
use crate::error::{Error, Result};
use crate::flow::MotionInput;
use crate::nn::{Encoder, Net, Params, SmallR3d, Trunk};
use crate::ops::sgd::Sgd;
use crate::rng::{self, Purpose};
use crate::ssl::maclr::{Maclr, Pathways, Views};
use crate::ssl::pathway::{Pathway, check_queue};
use crate::ssl::queue::Queue;
use crate::tensor::Tensor;

/// Everything that defines a run but its data. Presets are starting points; every field may be changed.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The visual trunk.
    pub visual: Net,
    /// The motion trunk; its input channels follow the motion input.
    pub motion: Net,
    /// Hidden numbers of the projection heads.
    pub head_hidden: usize,
    /// Length of the codes.
    pub code: usize,
    /// Losses and momentum.
    pub method: Maclr,
    /// Keys a queue holds; `None` for as many whole batches as there are videos, at most [`Recipe::queue_cap`].
    pub queue: Option<usize>,
    /// The longest automatic queue.
    pub queue_cap: usize,
    /// Clips and their augmentation.
    pub views: ViewSpec,
    /// Passes over the videos.
    pub epochs: u64,
    /// Videos a step.
    pub batch: usize,
    /// Learning rate after the warm-up.
    pub lr: f32,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// The optimiser.
    pub sgd: Sgd,
    /// Uniform clips a video whose features are averaged for the probe.
    pub probe_clips: usize,
}

impl Recipe {
    /// For procedural videos and a first look: minutes on two cores.
    pub fn tiny() -> Recipe {
        let net = |in_channels| small_net(in_channels, vec![16, 32, 64]);
        Recipe {
            visual: net(3),
            motion: net(1),
            head_hidden: 128,
            code: 64,
            method: Maclr { momentum: 0.99, ..Maclr::default() },
            queue: None,
            queue_cap: 256,
            views: ViewSpec::small(),
            epochs: 20,
            batch: 32,
            lr: 0.1,
            warmup_epochs: 2.0,
            sgd: Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 },
            probe_clips: 3,
        }
    }

    /// For a few hundred real videos on two cores: minutes.
    pub fn small() -> Recipe {
        Recipe { epochs: 60, probe_clips: 4, ..Self::tiny() }
    }

    /// The paper's networks and sizes (`maclr.md` sections 2, 3, 9): for a machine that can.
    pub fn paper() -> Result<Recipe> {
        Ok(Recipe {
            visual: Net::cvrl_r3d50(),
            motion: Net::motion_r2d50(8)?,
            head_hidden: 2048,
            code: 128,
            method: Maclr { groups: 4, ..Maclr::default() },
            queue: None,
            queue_cap: 65536,
            views: ViewSpec::paper(),
            epochs: 200,
            batch: 64,
            lr: 0.1,
            warmup_epochs: 35.0,
            sgd: Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 },
            probe_clips: 10,
        })
    }

    /// The length of the queues for `videos` training videos.
    ///
    /// # Errors
    /// `Param` when [`Recipe::queue`] asks for more than there are videos.
    pub fn queue_length(&self, videos: usize) -> Result<usize> {
        match self.queue {
            Some(queue) => check_queue(queue, videos).map(|()| queue),
            None => Ok((videos.min(self.queue_cap) / self.batch).max(1) * self.batch),
        }
    }

    /// The two pathways at their start.
    ///
    /// # Errors
    /// As [`Recipe::queue_length`]; `Param` of impossible network sizes.
    pub fn pathways(&self, videos: usize, seed: u64) -> Result<Pathways> {
        let queue = self.queue_length(videos)?;
        let pathway = |net: &Net, which: u64| {
            let (encoder, params) = Encoder::new(net, self.head_hidden, self.code, seed ^ which << 32)?;
            Ok::<_, Error>(Pathway::new(encoder, params, Queue::new(queue, self.code)?))
        };
        let mut motion_net = self.motion.clone();
        motion_net.in_channels = self.views.motion.channels();
        let motion = self.method.uses_motion().then(|| pathway(&motion_net, 1)).transpose()?;
        Ok(Pathways { visual: pathway(&self.visual, 0)?, motion })
    }
}

fn small_net(in_channels: usize, widths: Vec<usize>) -> Net {
    let spec = SmallR3d { in_channels, widths, ..SmallR3d::default() };
    spec.net().expect("the preset's extents are valid; a test builds every preset")
}

/// A MaCLR run under way.
pub struct MaclrRun {
    method: Maclr,
    pathways: Pathways,
}

impl MaclrRun {
    /// The run's start.
    ///
    /// # Errors
    /// As [`Recipe::pathways`].
    pub fn new(recipe: &Recipe, videos: usize, seed: u64) -> Result<MaclrRun> {
        Ok(MaclrRun { method: recipe.method.clone(), pathways: recipe.pathways(videos, seed)? })
    }

    fn each(&mut self) -> impl Iterator<Item = (&'static str, &mut Pathway)> {
        [("visual", &mut self.pathways.visual)].into_iter().chain(self.pathways.motion.as_mut().map(|m| ("motion", m)))
    }
}

impl Method for MaclrRun {
    type Sample = ClipPair;

    fn name(&self) -> &'static str {
        "maclr"
    }

    fn step(&mut self, batch: Vec<ClipPair>, at: At, lr: f32, sgd: &Sgd) -> Result<Report> {
        let views = collate(&batch)?;
        let mut rng = rng::stream(at.seed, at.epoch, at.step, Purpose::KeyShuffle);
        let seen = self.method.step(&mut self.pathways, &views, &mut rng, lr, sgd)?;
        let mut parts = Vec::new();
        for t in &seen.terms {
            let [loss, accuracy] = match t.name {
                "vv" => ["loss_vv", "accuracy_vv"],
                "mm" => ["loss_mm", "accuracy_mm"],
                "vm" => ["loss_vm", "accuracy_vm"],
                _ => ["loss_mv", "accuracy_mv"],
            };
            parts.extend([(loss, t.loss), (accuracy, t.accuracy)]);
        }
        Ok(Report { loss: seen.loss, parts })
    }

    fn save(&self, state: &mut State) -> Result<()> {
        let pathways = [("visual", Some(&self.pathways.visual)), ("motion", self.pathways.motion.as_ref())];
        for (modality, pathway) in pathways {
            let Some(pathway) = pathway else { continue };
            for (network, params) in pathway.networks() {
                state.set_params(&format!("{modality}.{network}"), params)?;
            }
            let queue = pathway.queue();
            state.set_tensor(&format!("{modality}.queue"), queue.keys().clone());
            state.set_number(&format!("{modality}.queue.at"), queue.at() as f64);
            state.set_numbers(&format!("{modality}.queue.owners"), queue.owners());
        }
        Ok(())
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        for (modality, pathway) in self.each() {
            let (networks, queue) = pathway.networks_mut();
            for (network, params) in networks {
                state.params(&format!("{modality}.{network}"), params)?;
            }
            let at = state.number(&format!("{modality}.queue.at"))? as usize;
            let owners = state.numbers(&format!("{modality}.queue.owners"))?;
            *queue = Queue::restore(state.tensor(&format!("{modality}.queue"))?, owners, at)?;
        }
        Ok(())
    }

    fn kept(&self) -> (&Trunk, &Params) {
        (&self.pathways.visual.encoder().trunk, self.pathways.visual.query())
    }
}

/// Samples side by side as a batch.
fn collate(batch: &[ClipPair]) -> Result<Views> {
    let stack = |part: &dyn Fn(&ClipPair) -> Option<&crate::train::views::Part>| -> Result<Option<Tensor>> {
        let parts: Option<Vec<_>> = batch.iter().map(part).collect();
        let Some(parts) = parts.filter(|p| !p.is_empty()) else { return Ok(None) };
        let [t, h, w, c] = parts[0].dims;
        let data: Vec<f32> = parts.iter().flat_map(|p| p.data.iter().copied()).collect();
        Tensor::from_f32([parts.len(), t, h, w, c], &data).map(Some)
    };
    let rgb = |i: usize| stack(&|p: &ClipPair| Some(&p.rgb[i])).transpose().unwrap_or_else(|| Ok(Tensor::zeros([0])));
    let motion = |i: usize| stack(&|p: &ClipPair| p.motion.as_ref().map(|m| &m[i]));
    Ok(Views {
        rgb: [rgb(0)?, rgb(1)?],
        motion: motion(0)?.zip(motion(1)?).map(|(a, b)| [a, b]),
        owners: batch.iter().map(|p| p.video).collect(),
    })
}
