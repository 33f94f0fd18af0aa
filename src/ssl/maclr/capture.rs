//! MaCLR's step in a form that can be captured.

use super::step::Inputs;
use super::steps::Numbers;
use super::{Maclr, Pathways, Rates, Views};
use crate::error::{Error, Result};
use crate::ops::sgd::Sgd;
use crate::ssl::division::Division;
use crate::ssl::pathway::Pathway;
use crate::ssl::report::Seen;
use crate::ssl::step::{MethodStep, Notes, overwrite};
use crate::tensor::{Device, Tensor};
use rand::Rng;

impl MethodStep for Maclr {
    type Networks = Pathways;
    type Views = Views;
    type Rates = Rates;
    type Inputs = Inputs;

    fn inputs(
        &self,
        p: &Pathways,
        views: &Views,
        rng: &mut impl Rng,
        rates: Rates,
        division: &Division,
    ) -> Result<Inputs> {
        self.inputs_of(p, views, rng, rates, division)
    }

    fn run(&self, p: &mut Pathways, inputs: &Inputs, sgd: &Sgd) -> Result<Seen> {
        self.run(p, inputs, sgd)
    }

    fn apart(mut inputs: Inputs) -> Result<Inputs> {
        let Views { rgb, motion, targets, owners, key_clips: _ } = &mut inputs.views;
        for x in rgb.iter_mut().chain(motion.iter_mut().flatten()).chain(targets.iter_mut().flatten()) {
            *x = x.apart()?;
        }
        *owners = owners.apart()?;
        inputs.owners = inputs.owners.apart()?;
        for masked in &mut inputs.masked {
            *masked = masked.apart()?;
        }
        inputs.steps = inputs.steps.as_ref().map(Numbers::apart).transpose()?;
        Ok(inputs)
    }

    fn refill(&self, inputs: &mut Inputs, views: &Views, rng: &mut impl Rng, rates: Rates) -> Result<()> {
        let weight = self.alignment_at(rates);
        if inputs.alignment.is_none() && weight != 0.0 {
            let rule = "the step was captured without that loss; capture it again";
            return Err(Error::param("maclr", "alignment", "a weight above 0", rule));
        }
        overwrite(&inputs.views.rgb, &views.rgb)?;
        if let (Some(to), Some(from)) = (&inputs.views.motion, self.motion(views)?) {
            overwrite(to, from)?;
        }
        if let (Some(to), Some(from)) = (&inputs.views.targets, &views.targets) {
            overwrite(to, from)?;
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
        if let Some(alignment) = &inputs.alignment {
            alignment.overwrite(&Tensor::scalar(weight))?;
        }
        inputs.lr.overwrite(&Tensor::scalar(rates.lr))
    }

    fn device(p: &Pathways) -> Device {
        p.visual.query().device()
    }

    fn notes(p: &Pathways) -> Vec<Notes> {
        [Some(&p.visual), p.motion.as_ref()].into_iter().flatten().map(Pathway::notes).collect()
    }

    fn set_notes(p: &mut Pathways, notes: Vec<Notes>) {
        p.each().zip(notes).for_each(|(pathway, notes)| pathway.set_notes(notes));
    }

    fn note_step(&self, p: &mut Pathways, views: &Views) {
        let passes = self.directions().len();
        p.each().for_each(|pathway| pathway.note_step([passes; 2], passes, views.owners.values()));
    }
}

impl Pathways {
    fn each(&mut self) -> impl Iterator<Item = &mut Pathway> {
        [Some(&mut self.visual), self.motion.as_mut()].into_iter().flatten()
    }
}
