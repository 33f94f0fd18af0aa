//! A training step. Once its inputs are on the device it does not synchronise with the host until its report is read.

use super::keys::Keys;
use super::steps::Numbers;
use super::{CrossPositive, Maclr, Pathways, Rates, Views};
use crate::cpu::in_pool;
use crate::error::{Error, Result};
use crate::nn::Mode;
use crate::ops::infonce::{Loss, Mask, Owners};
use crate::ops::{self, sgd::Sgd};
use crate::ssl::alignment::Alignment;
use crate::ssl::division::Division;
use crate::ssl::objective::Objective;
use crate::ssl::over_batch::Sum;
use crate::ssl::pathway::{Order, Pathway, rows_of};
use crate::ssl::report::{Part, Report, Seen};
use crate::tape::{Tape, Var};
use crate::tensor::{Device, Integers, Tensor};
use rand::Rng;
use std::ops::Range;

/// Everything a step reads besides the networks and queues, on their device.
pub struct Inputs {
    pub(super) views: Views,
    /// For each micro-batch: whose keys are masked for each query, those of its own video, or none.
    pub(super) masked: Vec<Integers>,
    /// Owners of the keys of all ranks.
    pub(super) owners: Integers,
    /// Permutations of the key batches, one direction after the other, the visual one first.
    pub(super) orders: Vec<Order>,
    /// The learning rate, a scalar.
    pub(super) lr: Tensor,
    /// The weight of the alignment loss, a scalar; `None` if this is not computed.
    pub(super) alignment: Option<Tensor>,
    /// How the batch is divided.
    pub(super) division: Division,
    /// Numbers of time steps, if terms between them are computed.
    pub(super) steps: Option<Numbers>,
}

impl Inputs {
    /// Videos of this rank.
    fn rows(&self) -> usize {
        self.views.rgb[0].dims().first().copied().unwrap_or(0)
    }
}

impl Maclr {
    /// One training step on `views`: update of the key networks, keys, queries, losses against the queues as they are,
    /// gradient descent at `rates`, then the new keys are enqueued. `rng` permutes the key batch. If the loss is
    /// not finite, the weights are unchanged and the loss is returned in the report. Everything runs on the device of
    /// the networks.
    ///
    /// # Errors
    /// `Param` when a term needs motion and there is none, or the batch is not divisible by `groups`; errors of the
    /// networks' operations.
    pub fn step(
        &self,
        p: &mut Pathways,
        views: &Views,
        rng: &mut impl Rng,
        rates: impl Into<Rates>,
        sgd: &Sgd,
    ) -> Result<Report> {
        self.step_of(p, views, rng, rates, sgd, &Division::default())
    }

    /// One training step as [`Maclr::step`], of a batch that is divided among ranks or micro-batches; all ranks call it. With
    /// several ranks, `views` are this rank's, and [`Views::key_clips`] the clips of its key networks. `rng` is in the same state on
    /// all ranks.
    ///
    /// # Errors
    /// Those of [`Maclr::step`]; `Param` when the batch or `groups` cannot be divided so; `Peer` when a rank has ended.
    pub fn step_of(
        &self,
        p: &mut Pathways,
        views: &Views,
        rng: &mut impl Rng,
        rates: impl Into<Rates>,
        sgd: &Sgd,
        division: &Division,
    ) -> Result<Report> {
        let inputs = self.inputs_of(p, views, rng, rates, division)?;
        self.run(p, &inputs, sgd)?.read()
    }

    /// The inputs of a step on `views`, moved to the device of the networks.
    ///
    /// # Errors
    /// `Param` when a term needs motion and there is none, or clips of key networks are missing; on a GPU `OutOfMemory` and
    /// `Driver`.
    pub fn inputs(&self, p: &Pathways, views: &Views, rng: &mut impl Rng, rates: impl Into<Rates>) -> Result<Inputs> {
        self.inputs_of(p, views, rng, rates, &Division::default())
    }

    /// The same of a batch that is divided; all ranks call it.
    ///
    /// # Errors
    /// Those of `step_of`.
    pub fn inputs_of(
        &self,
        p: &Pathways,
        views: &Views,
        rng: &mut impl Rng,
        rates: impl Into<Rates>,
        division: &Division,
    ) -> Result<Inputs> {
        let rates = rates.into();
        let device = p.visual.query().device();
        let networks = 1 + usize::from(p.motion.is_some() && self.motion(views)?.is_some());
        let n = views.rgb[0].dims().first().copied().unwrap_or(0);
        let passes = networks * self.directions().len();
        let count = if self.shuffle_keys { passes } else { 0 };
        let orders = (0..count).map(|_| Order::shuffled(n, rng, &device, division)).collect::<Result<_>>()?;
        if division.ranks().size() > 1 && count > 0 && views.key_clips.len() != count {
            let rule = format!("with several ranks and shuffled keys, each of {count} passes has clips of its own");
            return Err(Error::param("maclr", "key_clips", views.key_clips.len(), rule));
        }
        division.parts(self.groups)?;
        let own_owners = division.own_owners(views.owners.values(), n)?;
        let masked = division.micro_batches(n)?.into_iter().map(|rows| {
            let nobody = || vec![Mask::NOBODY; rows.len()];
            let own = || own_owners[rows.clone()].to_vec();
            Integers::new(if self.mask_own { own() } else { nobody() }).to(&device)
        });
        let masked = masked.collect::<Result<_>>()?;
        let lr = Tensor::scalar(rates.lr).to(&device)?;
        let weight = self.alignment_at(rates);
        let alignment = (weight != 0.0).then(|| Tensor::scalar(weight).to(&device)).transpose()?;
        let owners = Integers::new(views.owners.values().to_vec()).to(&device)?;
        let steps = match (&p.motion, self.motion(views)?) {
            (Some(motion), Some(clips)) if self.w_steps != 0.0 => {
                self.check_steps()?;
                let of_query = [&views.rgb[0], &clips[self.motion_query(0)]];
                Some(Numbers::new([&p.visual, motion], of_query, division, &device)?)
            }
            _ => None,
        };
        let views = views.to(&device)?;
        Ok(Inputs { views, masked, owners, orders, lr, alignment, division: division.clone(), steps })
    }

    /// The clips used as queries; each is one pass of the step.
    pub(super) fn directions(&self) -> &'static [usize] {
        if self.symmetric { &[0, 1] } else { &[0] }
    }

    /// The clips of the queries and of the keys of a step, in the order of its passes: of each whether it is a motion clip, and
    /// which of the two.
    #[must_use]
    pub fn passes(&self) -> [Vec<(bool, usize)>; 2] {
        let mut passes = [Vec::new(), Vec::new()];
        for &a in self.directions() {
            let motion = self.uses_motion().then(|| (true, self.motion_query(a)));
            for query in [Some((false, a)), motion].into_iter().flatten() {
                passes[0].push(query);
                passes[1].push((query.0, 1 - query.1));
            }
        }
        passes
    }

    /// Like [`Maclr::step`] on inputs that are on the device. There are no uploads and no host synchronisation.
    ///
    /// # Errors
    /// Those of [`Maclr::step`].
    pub fn run(&self, p: &mut Pathways, inputs: &Inputs, sgd: &Sgd) -> Result<Seen> {
        match p.visual.query().device() {
            Device::Cpu => in_pool(|| self.compute(p, inputs, sgd)),
            _ => self.compute(p, inputs, sgd),
        }
    }

    fn compute(&self, p: &mut Pathways, inputs: &Inputs, sgd: &Sgd) -> Result<Seen> {
        p.visual.follow(self.momentum)?;
        if let Some(m) = &mut p.motion {
            m.follow(self.momentum)?;
        }
        // The passes of the symmetric form share the key networks and queues of this step.
        let (mut keys, mut orders) = (Vec::new(), inputs.orders.iter().enumerate());
        {
            let _span = inputs.division.span("keys");
            for &a in self.directions() {
                keys.push(self.keys(p, inputs, a, &mut orders)?);
            }
        }
        let in_batch = self.in_batch && self.mask_own;
        if in_batch {
            enqueue(p, &keys, &inputs.owners)?;
        }
        let n = inputs.rows();
        let mut sum = Sum::new(&inputs.division);
        for (i, rows) in inputs.division.micro_batches(n)?.into_iter().enumerate() {
            self.gradients(p, inputs, i, rows, &keys, &mut sum)?;
        }
        let (loss, [visual, motion], seen) = sum.finish()?;
        let _span = inputs.division.span("update");
        p.visual.descend(&visual, &inputs.lr, &loss, sgd)?;
        if let Some(pathway) = &mut p.motion {
            pathway.descend(&motion, &inputs.lr, &loss, sgd)?;
        }
        if !in_batch {
            enqueue(p, &keys, &inputs.owners)?;
        }
        Ok(seen)
    }

    /// Adds the gradients of both networks for micro-batch `i`, which has the `rows` of this rank's views.
    fn gradients(
        &self,
        p: &mut Pathways,
        inputs: &Inputs,
        i: usize,
        rows: Range<usize>,
        keys: &[Keys],
        sums: &mut Sum<2>,
    ) -> Result<()> {
        let (views, division, directions) = (&inputs.views, &inputs.division, self.directions());
        let own = division.own(inputs.rows()).start;
        let in_all = own + rows.start..own + rows.end;
        let forward = division.span("forward");
        let tape = Tape::new();
        let mut sum = Objective::new(&tape);
        let (mut visual_leaves, mut motion_leaves) = (Vec::new(), Vec::new());
        let (mode, part_of) = (Mode::Train { parts: division.parts(self.groups)? }, division.part(i));
        let alignment = self.alignment.as_ref().zip(inputs.alignment.as_ref());
        let tap = alignment.and_then(|(of, _)| of.tap());
        for (&a, all) in directions.iter().zip(keys) {
            let keys = all.rows(in_all.clone())?;
            let x = rows_of(&views.rgb[a], rows.clone())?;
            let visual = p.visual.queries(&tape, &x, mode, self.precision, tap, &part_of)?;
            let q_v = visual.codes;
            visual_leaves.push(visual.leaves);
            let mut motion_steps = None;
            let q_m = match (&mut p.motion, self.motion(views)?) {
                (Some(pathway), Some(motion)) => {
                    let x = rows_of(&motion[self.motion_query(a)], rows.clone())?;
                    let queries = pathway.queries(&tape, &x, mode, self.precision, None, &part_of)?;
                    motion_leaves.push(queries.leaves);
                    motion_steps = queries.steps;
                    Some(queries.codes)
                }
                _ => None,
            };
            let part = 1.0 / directions.len() as f32;
            for (name, weight, loss) in self.terms(&tape, p, &q_v, q_m.as_ref(), &keys, &inputs.masked[i])? {
                sum.add(&ops::scale(&tape, &loss.loss, weight * part)?)?;
                // An InfoNCE term's numbers: the loss, the probability of the positive (not reported), the accuracy.
                let [of_loss, of_accuracy] = names(name);
                let parts = [Part::Value(of_loss, part), Part::Silent, Part::Value(of_accuracy, part)];
                sum.see([loss.loss.value().clone(), loss.stats], parts);
            }
            if let Some(numbers) = &inputs.steps {
                let queries = [visual.steps.as_ref(), motion_steps.as_ref()];
                let losses = self.step_terms(&tape, queries, all, (i, in_all.clone()), numbers)?;
                for (name, loss) in ["steps_vm", "steps_mv"].into_iter().zip(losses) {
                    sum.add(&ops::scale(&tape, &loss.loss, self.w_steps * part)?)?;
                    let [of_loss, of_accuracy] = names(name);
                    let parts = [Part::Value(of_loss, part), Part::Silent, Part::Value(of_accuracy, part)];
                    sum.see([loss.loss.value().clone(), loss.stats], parts);
                }
            }
            if let Some((of, weight)) = alignment {
                let same = keys.motion.as_ref().filter(|_| self.cross_positive == CrossPositive::SameClip);
                let target = views.targets.as_ref().map(|t| rows_of(&t[a], rows.clone())).transpose()?;
                let k = &same.unwrap_or(&keys.visual).clips;
                let loss = of.loss(&tape, &q_v, k, visual.tapped.as_ref(), target.as_ref())?;
                let weighted = ops::mul(&tape, &loss.loss, &Var::constant(weight.clone()))?;
                sum.add(&ops::scale(&tape, &weighted, part)?)?;
                sum.see([loss.loss.value().clone(), loss.stats], Alignment::parts(part));
            }
        }
        let total = sums.see("maclr", sum)?;
        drop(forward);
        sums.backward(&tape, &total, [&visual_leaves, &motion_leaves])
    }

    /// The keys for queries of clip `a`, of all ranks.
    fn keys<'a>(
        &self,
        p: &mut Pathways,
        inputs: &Inputs,
        a: usize,
        orders: &mut impl Iterator<Item = (usize, &'a Order)>,
    ) -> Result<Keys> {
        let (views, division) = (&inputs.views, &inputs.division);
        let mut one = |pathway: &mut Pathway, x: &Tensor| {
            let order = orders.next();
            let clips = order.and_then(|(i, _)| views.key_clips.get(i)).unwrap_or(x);
            pathway.keys(clips, self.groups, order.map(|(_, order)| order), self.precision, division)
        };
        let visual = one(&mut p.visual, &views.rgb[1 - a])?;
        let motion = match (&mut p.motion, self.motion(views)?) {
            (Some(pathway), Some(clips)) => Some(one(pathway, &clips[1 - self.motion_query(a)])?),
            _ => None,
        };
        Ok(Keys { visual, motion })
    }

    /// The terms with weight above 0. Terms with the same queue share one pass over it.
    fn terms(
        &self,
        tape: &Tape,
        p: &Pathways,
        q_v: &Var,
        q_m: Option<&Var>,
        keys: &Keys,
        masked: &Integers,
    ) -> Result<Vec<(&'static str, f32, Loss)>> {
        let (mut visual, mut motion) = (vec![("vv", self.w_vv, q_v, &keys.visual.clips)], Vec::new());
        if let (Some(q_m), Some(k_m)) = (q_m, keys.motion.as_ref().map(|k| &k.clips)) {
            visual.push(("mv", self.w_mv, q_m, &keys.visual.clips));
            motion.extend([("mm", self.w_mm, q_m, k_m), ("vm", self.w_vm, q_v, k_m)]);
        }
        let mut found = Vec::new();
        for (pathway, mut terms) in [(Some(&p.visual), visual), (p.motion.as_ref(), motion)] {
            terms.retain(|(_, weight, ..)| *weight != 0.0);
            let Some(pathway) = pathway.filter(|_| !terms.is_empty()) else { continue };
            let queue = pathway.queue();
            let owners = match (masked.memory(), queue.owners_there()) {
                (Some(rows), Some(keys)) => Owners::Device { rows, keys },
                _ => Owners::Host(Mask { rows: masked.values(), keys: queue.owners() }),
            };
            let pairs: Vec<(Var, Tensor)> = terms.iter().map(|(_, _, q, k)| ((*q).clone(), (*k).clone())).collect();
            let losses = ops::infonce::infonce_terms(tape, &pairs, queue.keys(), owners, self.temperature)?;
            found.extend(terms.iter().zip(losses).map(|((name, weight, ..), loss)| (*name, *weight, loss)));
        }
        // Terms within a modality before cross-modal ones, as in the paper.
        let place = |name: &str| ["vv", "mm", "vm", "mv"].iter().position(|n| *n == name);
        found.sort_by_key(|(name, ..)| place(name));
        Ok(found)
    }
}

fn enqueue(p: &mut Pathways, keys: &[Keys], owners: &Integers) -> Result<()> {
    for keys in keys {
        p.visual.enqueue(&keys.visual.clips, owners)?;
        if let (Some(pathway), Some(k)) = (&mut p.motion, &keys.motion) {
            pathway.enqueue(&k.clips, owners)?;
        }
    }
    Ok(())
}

/// Report entries of a term: loss and accuracy.
fn names(term: &str) -> [&'static str; 2] {
    match term {
        "vv" => ["loss_vv", "accuracy_vv"],
        "mm" => ["loss_mm", "accuracy_mm"],
        "vm" => ["loss_vm", "accuracy_vm"],
        "steps_vm" => ["loss_steps_vm", "accuracy_steps_vm"],
        "steps_mv" => ["loss_steps_mv", "accuracy_steps_mv"],
        _ => ["loss_mv", "accuracy_mv"],
    }
}
