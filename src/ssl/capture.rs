//! A training step captured as a graph and replayed: one launch instead of some hundreds.

use super::division::Division;
use super::report::{Report, Seen};
pub(crate) use super::step::MethodStep;
use crate::driver::Graph;
use crate::error::{Error, Result};
use crate::ops::sgd::Sgd;
use crate::tensor::Device;
use rand::Rng;

/// A step on a GPU that is replayed on new inputs. It holds the networks' addresses, so the networks it was captured
/// with must not be restored, moved or replaced meanwhile; each call receives them to update their host-side state.
pub struct Captured<M: MethodStep> {
    method: M,
    graph: Graph,
    inputs: M::Inputs,
    seen: Seen,
}

impl<M: MethodStep> Captured<M> {
    /// Runs one step, and captures another. Run an ordinary step before, so that memory shared between the networks
    /// initially has been separated.
    ///
    /// # Errors
    /// Those of the method's step; `Device` when the networks are not on a GPU; `Param` when there are several ranks; `Driver` when
    /// something cannot be captured. After an error the networks may be half updated and must be restored.
    pub fn new(
        method: &M,
        p: &mut M::Networks,
        views: &M::Views,
        rng: &mut impl Rng,
        rates: M::Rates,
        sgd: &Sgd,
        division: &Division,
    ) -> Result<(Captured<M>, Report)> {
        let Device::Cuda(gpu) = M::device(p) else {
            return Err(Error::device("capture", "networks", "a GPU", Device::Cpu));
        };
        let size = division.ranks().size();
        if size > 1 {
            return Err(Error::param("capture", "ranks", size, "what several ranks exchange is not part of a graph"));
        }
        // Memory owned by the graph: the caller's views may be freed, and are not overwritten.
        let inputs = M::apart(method.inputs(p, views, rng, rates, division)?)?;
        // A real step. It loads every kernel and leaves the memory that capturing will request: neither is possible
        // while capturing. Its numbers are read now, since their memory is requested too.
        let report = method.run(p, &inputs, sgd)?.read()?;
        // Capturing does nothing on the GPU, but it updates the host-side state.
        let notes = M::notes(p);
        let mut seen = None;
        let graph = gpu.graph(|| {
            seen = Some(method.run(p, &inputs, sgd)?);
            Ok(())
        })?;
        M::set_notes(p, notes);
        let Some(seen) = seen else { unreachable!("the captured step ran") };
        Ok((Captured { method: method.clone(), graph, inputs, seen }, report))
    }

    /// The method's step, by replaying the graph: on views of the same shapes, and the same networks.
    ///
    /// # Errors
    /// Those of the method's step; `Shape` when the views have other shapes.
    pub fn step(
        &mut self,
        p: &mut M::Networks,
        views: &M::Views,
        rng: &mut impl Rng,
        rates: M::Rates,
    ) -> Result<Report> {
        self.start(p, views, rng, rates)?.read()
    }

    /// As [`Captured::step`], without waiting for the GPU: read the numbers before the next step, which overwrites them.
    ///
    /// # Errors
    /// As [`Captured::step`].
    pub fn start(
        &mut self,
        p: &mut M::Networks,
        views: &M::Views,
        rng: &mut impl Rng,
        rates: M::Rates,
    ) -> Result<Seen> {
        self.method.refill(&mut self.inputs, views, rng, rates)?;
        self.graph.replay()?;
        self.method.note_step(p, views);
        Ok(self.seen.clone())
    }

    /// Bytes that the graph keeps for its launches.
    pub fn bytes(&self) -> usize {
        self.graph.bytes()
    }
}
