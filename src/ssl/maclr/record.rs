//! A step recorded once and repeated: one launch instead of some hundreds.

use super::step::Inputs;
use super::{Maclr, Pathways, Views};
use crate::driver::Graph;
use crate::error::{Error, Result};
use crate::ops::sgd::Sgd;
use crate::ssl::pathway::Pathway;
use crate::ssl::report::{Report, Seen};
use crate::tensor::{Device, Tensor};
use rand::Rng;

/// A step on a GPU that repeats itself on new inputs. It holds the networks' addresses, so the [`Pathways`] it was recorded
/// with must not be restored, moved or replaced meanwhile; each call gets them to keep their counts.
pub struct Recorded {
    method: Maclr,
    graph: Graph,
    inputs: Inputs,
    seen: Seen,
}

impl Maclr {
    /// Takes a step, and records another. Take an ordinary one before, so that what the networks share at their start has
    /// been taken apart.
    ///
    /// # Errors
    /// As [`Maclr::step`]; `Device` when the networks are on no GPU; `Driver` when something cannot be recorded. After an
    /// error the pathways may hold half a step and must be restored.
    pub fn record(
        &self,
        p: &mut Pathways,
        views: &Views,
        rng: &mut impl Rng,
        lr: f32,
        sgd: &Sgd,
    ) -> Result<(Recorded, Report)> {
        let Device::Cuda(gpu) = p.visual.query().device() else {
            return Err(Error::device("record", "networks", "a GPU", Device::Cpu));
        };
        // Memory of the graph's own: the caller's views may go, and are not written over.
        let inputs = self.inputs(p, views, rng, lr)?.apart()?;
        // The step itself. It loads every kernel and leaves the memory that the recording will ask for: neither can be had
        // while recording.
        let report = self.run(p, &inputs, sgd)?.read()?;
        // The recording does nothing on the GPU, but it counts on the host.
        let notes = p.each().map(|pathway| pathway.notes()).collect::<Vec<_>>();
        let mut seen = None;
        let graph = gpu.graph(|| {
            seen = Some(self.run(p, &inputs, sgd)?);
            Ok(())
        })?;
        p.each().zip(notes).for_each(|(pathway, notes)| pathway.set_notes(notes));
        let Some(seen) = seen else { unreachable!("the recording ran") };
        Ok((Recorded { method: self.clone(), graph, inputs, seen }, report))
    }
}

impl Recorded {
    /// As [`Maclr::step`], by repeating the recording: on views of the same shapes, and the same pathways.
    ///
    /// # Errors
    /// As [`Maclr::step`]; `Shape` when the views have other shapes.
    pub fn step(&mut self, p: &mut Pathways, views: &Views, rng: &mut impl Rng, lr: f32) -> Result<Report> {
        self.method.refill(&mut self.inputs, views, rng, lr)?;
        self.graph.replay()?;
        let (directions, owners) = (self.method.directions().len(), views.owners.values());
        p.each().for_each(|pathway| pathway.note_step(directions, owners));
        self.seen.read()
    }

    /// Bytes that the recording keeps for its launches.
    pub fn bytes(&self) -> usize {
        self.graph.bytes()
    }
}

impl Pathways {
    fn each(&mut self) -> impl Iterator<Item = &mut Pathway> {
        [Some(&mut self.visual), self.motion.as_mut()].into_iter().flatten()
    }
}

impl Inputs {
    /// The same inputs in memory that nobody else holds.
    fn apart(mut self) -> Result<Inputs> {
        let Views { rgb, motion, targets, .. } = &mut self.views;
        for x in rgb.iter_mut().chain(motion.iter_mut().flatten()).chain(targets.iter_mut().flatten()) {
            *x = x.apart()?;
        }
        self.views.owners = self.views.owners.apart()?;
        self.masked = self.masked.apart()?;
        Ok(self)
    }
}

impl Maclr {
    /// New inputs in the places of the old ones; `rng` is asked as [`Maclr::inputs`] asks it.
    fn refill(&self, inputs: &mut Inputs, views: &Views, rng: &mut impl Rng, lr: f32) -> Result<()> {
        let put = |to: &[Tensor; 2], from: &[Tensor; 2]| -> Result<()> {
            to.iter().zip(from).try_for_each(|(to, from)| to.overwrite(from))
        };
        put(&inputs.views.rgb, &views.rgb)?;
        if let (Some(to), Some(from)) = (&inputs.views.motion, self.motion(views)?) {
            put(to, from)?;
        }
        if let (Some(to), Some(from)) = (&inputs.views.targets, &views.targets) {
            put(to, from)?;
        }
        let n = views.owners.len();
        for order in &mut inputs.orders {
            order.shuffle(n, rng)?;
        }
        inputs.views.owners.set(views.owners.values())?;
        if self.mask_own {
            inputs.masked.set(views.owners.values())?;
        }
        inputs.lr.overwrite(&Tensor::scalar(lr))
    }
}
