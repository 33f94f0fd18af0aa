//! A MaCLR run: its [recipe](Recipe), and the implementation of the [loop](super::pretrain)'s method.

mod recipe;

pub use recipe::Recipe;
pub(super) use recipe::small_net;

use super::batch::Feed;
use super::checkpoint::State;
use super::graph::Graph;
use super::owners::Owners;
use super::pathway;
use super::pretrain::{At, Method, Seen};
use super::share::{Clips, Share, key_rng};
use super::views::ClipPair;
use crate::dist::{Alone, Collective, Spans};
use crate::error::Result;
use crate::nn::{Params, Trunk};
use crate::ops::sgd::Sgd;
use crate::ssl::Division;
use crate::ssl::maclr::{Maclr, Pathways, Views};
use crate::tensor::{Device, Integers, Tensor};
use crate::weights::Loaded;
use std::sync::Arc;

/// A MaCLR run in progress.
pub struct MaclrRun {
    method: Maclr,
    pathways: Pathways,
    inflated: Option<Loaded>,
    device: Device,
    feed: Feed,
    graph: Graph<Maclr>,
    division: Division,
    owners: Owners,
    warmup_epochs: f64,
    /// Whether the last step had an alignment loss.
    aligned: Option<bool>,
}

impl MaclrRun {
    /// The run in its initial state on `device`.
    ///
    /// # Errors
    /// As [`Recipe::pathways`]; `Param` for a number outside its [limit](super::limits).
    pub fn new(recipe: &Recipe, videos: usize, seed: u64, device: &Device) -> Result<MaclrRun> {
        recipe.check_numbers()?;
        let (pathways, inflated) = recipe.start(videos, seed, device)?;
        let division = recipe.training.division(Arc::new(Alone), recipe.method.groups, None)?;
        let (method, feed, graph) = (recipe.method.clone(), Feed::new(device), Graph::Off);
        let owners = Owners::new(videos, recipe.training.batch);
        Ok(MaclrRun {
            method,
            pathways,
            inflated,
            device: device.clone(),
            feed,
            graph,
            division,
            owners,
            warmup_epochs: recipe.training.warmup_epochs,
            aligned: None,
        })
    }

    /// The same run as one of `ranks`, which share each step of `recipe`.
    ///
    /// # Errors
    /// As [`Training::division`](crate::train::recipe::Training::division).
    pub fn over(mut self, ranks: Arc<dyn Collective>, recipe: &Recipe) -> Result<MaclrRun> {
        self.division = recipe.training.division(ranks, recipe.method.groups, recipe.method.alignment.as_ref())?;
        Ok(self)
    }

    /// What the visual network loaded from [`Recipe::init`].
    #[must_use]
    pub fn inflated(&self) -> Option<&Loaded> {
        self.inflated.as_ref()
    }

    /// If `yes`, the same run with steps that need less memory and more time: blocks of the query networks run again in
    /// the backward pass ([`crate::nn::Pass::recomputing`]).
    #[must_use]
    pub fn recomputing(mut self, yes: bool) -> MaclrRun {
        self.pathways.visual = self.pathways.visual.recomputing(yes);
        self.pathways.motion = self.pathways.motion.map(|motion| motion.recomputing(yes));
        self
    }

    /// The same run with its step recorded as a graph after it has run once, and replayed from then on: the same bits,
    /// in one launch per step. It has no effect on the CPU.
    #[must_use]
    pub fn recorded(mut self) -> MaclrRun {
        self.graph = Graph::wanted(&self.device);
        self
    }
}

/// Prefixes of the networks' names in a weights file: for the visual network those of MaCLR's release.
const VISUAL: &str = "encoder_q.";
const MOTION: &str = "motion.encoder_q.";

impl Method for MaclrRun {
    type Sample = ClipPair;
    type Batch = Views;

    fn name(&self) -> &'static str {
        "maclr"
    }

    fn batch(&mut self, samples: Vec<ClipPair>) -> Result<Views> {
        collate(&samples, &self.share(), &self.feed)
    }

    fn share(&self) -> Share {
        if self.division.ranks().size() == 1 || !self.method.shuffle_keys {
            return Share::default();
        }
        let number = |(motion, i): (bool, usize)| if motion { ClipPair::MOTION[i] } else { ClipPair::RGB[i] };
        let [queries, keys] = self.method.passes().map(|passes| passes.into_iter().map(number).collect::<Vec<_>>());
        Share { own: Clips::of(queries.into_iter().chain([ClipPair::TARGET])), keys }
    }

    fn division(&self) -> Division {
        self.division.clone()
    }

    fn trace(&mut self, spans: Arc<dyn Spans>) {
        self.division = self.division.clone().with_spans(spans);
    }

    fn start(&mut self, views: &mut Views, at: At, lr: f32, sgd: &Sgd) -> Result<Seen> {
        self.owners.complete(&mut views.owners, at, self.division.ranks())?;
        *views = views.to(&self.device)?; // the stream of the networks waits for the copies
        let mut rng = key_rng(at.seed, at.epoch, at.step);
        let rates = self.method.rates(lr, at.epoch, at.epochs, self.warmup_epochs);
        let aligned = self.method.alignment_at(rates) != 0.0;
        if self.aligned.replace(aligned) != Some(aligned) {
            self.graph.forget(); // the recording has other losses
        }
        self.graph.start(&self.method, &mut self.pathways, views, &mut rng, rates, sgd, &self.division)
    }

    fn is_asynchronous(&self) -> bool {
        self.feed.is_asynchronous()
    }

    fn networks(&self) -> Vec<(&'static str, &Params)> {
        let Pathways { visual, motion } = &self.pathways;
        [(VISUAL, Some(visual)), (MOTION, motion.as_ref())]
            .into_iter()
            .filter_map(|(name, pathway)| Some((name, pathway?.query())))
            .collect()
    }

    fn networks_mut(&mut self) -> Vec<(&'static str, &mut Params)> {
        let Pathways { visual, motion } = &mut self.pathways;
        [(VISUAL, Some(visual)), (MOTION, motion.as_mut())]
            .into_iter()
            .filter_map(|(name, pathway)| Some((name, pathway?.query_mut())))
            .collect()
    }

    fn save(&self, state: &mut State) {
        let Pathways { visual, motion } = &self.pathways;
        for (name, pathway) in [("visual", Some(visual)), ("motion", motion.as_ref())] {
            let Some(pathway) = pathway else { continue };
            pathway::save(state, name, pathway);
        }
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.graph.forget();
        let Pathways { visual, motion } = &mut self.pathways;
        for (name, pathway) in [("visual", Some(visual)), ("motion", motion.as_mut())] {
            let Some(pathway) = pathway else { continue };
            pathway::restore(state, name, pathway)?;
        }
        Ok(())
    }

    fn kept(&self) -> (&Trunk, &Params) {
        (&self.pathways.visual.encoder().trunk, self.pathways.visual.query())
    }
}

/// Collates samples into a batch.
fn collate(samples: &[ClipPair], share: &Share, feed: &Feed) -> Result<Views> {
    let (own, keys) = share.split(samples);
    let clips = |x: Option<Tensor>| x.unwrap_or_else(|| Tensor::zeros([0]));
    let stack = |some: &[ClipPair], number: usize| feed.stack(some.iter().map(|p| p.clip(number)));
    // What nobody reads is not loaded.
    let of = |number: usize| if share.own.has(number) { stack(own, number) } else { Ok(None) };
    let [a, b] = ClipPair::RGB.map(of);
    let [c, d] = ClipPair::MOTION.map(of);
    let moves = own.iter().all(|p| p.motion.is_some());
    let motion = [clips(c?), clips(d?)];
    let target = |i: usize| feed.stack_maps(own.iter().map(|p| p.target.as_ref().map(|t| &t[i])));
    Ok(Views {
        rgb: [clips(a?), clips(b?)],
        motion: Some(motion).filter(|_| moves),
        targets: target(0)?.zip(target(1)?).map(|(a, b)| [a, b]),
        owners: Integers::new(own.iter().map(|p| p.video).collect()),
        key_clips: keys.map(|(number, some)| stack(some, number).map(clips)).collect::<Result<_>>()?,
    })
}
