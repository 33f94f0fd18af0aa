//! How a run launches its steps on a GPU: one operation after another, or as a captured graph.

use crate::error::Result;
use crate::ops::sgd::Sgd;
use crate::ssl::Division;
use crate::ssl::capture::{Captured, MethodStep};
use crate::ssl::report::Seen;
use crate::tensor::Device;
use rand::Rng;

/// How steps are launched.
pub(super) enum Graph<M: MethodStep> {
    /// One operation after another.
    Off,
    /// To be captured in the second step from now.
    Wanted {
        /// Steps taken since then.
        steps: u64,
    },
    /// Captured.
    Captured(Box<Captured<M>>),
}

impl<M: MethodStep> Graph<M> {
    /// To be captured, if `device` supports it.
    pub fn wanted(device: &Device) -> Self {
        if *device == Device::Cpu { Graph::Off } else { Graph::Wanted { steps: 0 } }
    }

    /// Discards a captured graph, whose device addresses are no longer valid.
    pub fn forget(&mut self) {
        if !matches!(self, Graph::Off) {
            *self = Graph::Wanted { steps: 0 };
        }
    }

    /// Starts one step of `method`. Read its numbers before the next one.
    #[allow(clippy::too_many_arguments, reason = "what the step of every method takes")]
    pub fn start(
        &mut self,
        method: &M,
        p: &mut M::Networks,
        views: &M::Views,
        rng: &mut impl Rng,
        rates: M::Rates,
        sgd: &Sgd,
        division: &Division,
    ) -> Result<Seen> {
        match self {
            Graph::Captured(step) => return step.start(p, views, rng, rates),
            Graph::Wanted { steps: 1 } => {
                let (step, report) = Captured::new(method, p, views, rng, rates, sgd, division)?;
                *self = Graph::Captured(Box::new(step));
                return Seen::of(&report);
            }
            Graph::Wanted { steps } => *steps += 1,
            Graph::Off => {}
        }
        let inputs = method.inputs(p, views, rng, rates, division)?;
        method.run(p, &inputs, sgd)
    }
}
