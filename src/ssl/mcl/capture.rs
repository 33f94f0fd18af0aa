//! MCL's step in a form that can be captured.

use super::step::Inputs;
use super::{Mcl, Network, Rates, Views};
use crate::error::{Error, Result};
use crate::ops::sgd::Sgd;
use crate::ssl::division::Division;
use crate::ssl::report::Seen;
use crate::ssl::step::{MethodStep, Notes, overwrite};
use crate::tensor::{Device, Tensor};
use rand::Rng;

impl MethodStep for Mcl {
    type Networks = Network;
    type Views = Views;
    type Rates = Rates;
    type Inputs = Inputs;

    fn inputs(
        &self,
        p: &Network,
        views: &Views,
        rng: &mut impl Rng,
        rates: Rates,
        division: &Division,
    ) -> Result<Inputs> {
        self.inputs_of(p, views, rng, rates, division)
    }

    fn run(&self, p: &mut Network, inputs: &Inputs, sgd: &Sgd) -> Result<Seen> {
        self.run(p, inputs, sgd)
    }

    fn apart(mut inputs: Inputs) -> Result<Inputs> {
        let Views { query, keys, target, order, owners, permuted: _ } = &mut inputs.views;
        for x in [query, order].into_iter().chain(keys).chain(target) {
            *x = x.apart()?;
        }
        *owners = owners.apart()?;
        inputs.owners = inputs.owners.apart()?;
        for masked in &mut inputs.masked {
            *masked = masked.apart()?;
        }
        Ok(inputs)
    }

    /// A loss that was off when the step was captured is not in the graph.
    fn refill(&self, inputs: &mut Inputs, views: &Views, rng: &mut impl Rng, rates: Rates) -> Result<()> {
        let wanted = rates.wanted();
        if let Some(i) = (0..wanted.len()).find(|&i| wanted[i] && !inputs.wanted[i]) {
            let rule = "the step was captured without that loss; capture it again";
            return Err(Error::param("mcl", ["order", "alignment"][i], "a weight above 0", rule));
        }
        inputs.views.query.overwrite(&views.query)?;
        overwrite(&inputs.views.keys, &views.keys)?;
        inputs.views.order.overwrite(&views.order)?;
        if let (Some(to), Some(from)) = (&inputs.views.target, &views.target) {
            to.overwrite(from)?;
        }
        let n = views.owners.len();
        for order in &mut inputs.orders {
            order.shuffle(n, rng)?;
        }
        inputs.views.owners.set(views.owners.values())?;
        inputs.owners.set(views.owners.values())?;
        if self.mask_own {
            for (masked, rows) in inputs.masked.iter_mut().zip(inputs.division.micro_batches(n)?) {
                masked.set(&views.owners.values()[rows])?;
            }
        }
        inputs.lr.overwrite(&Tensor::scalar(rates.lr))?;
        let [order, alignment] = &inputs.weights;
        order.overwrite(&Tensor::scalar(rates.order))?;
        alignment.overwrite(&Tensor::scalar(rates.alignment))
    }

    fn device(p: &Network) -> Device {
        p.query().device()
    }

    fn notes(p: &Network) -> Vec<Notes> {
        vec![p.notes()]
    }

    fn set_notes(p: &mut Network, notes: Vec<Notes>) {
        notes.into_iter().for_each(|notes| p.set_notes(notes));
    }

    fn note_step(&self, p: &mut Network, views: &Views) {
        let keys = views.keys.len();
        p.note_step([usize::from(!self.frozen_norm), keys], keys, views.owners.values());
    }
}
