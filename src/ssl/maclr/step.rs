//! A training step. Once its inputs are on the device it does not synchronise with the host until its report is read.

use super::{CrossPositive, Maclr, Pathways, Views};
use crate::cpu::in_pool;
use crate::error::Result;
use crate::nn::Mode;
use crate::ops::infonce::{Loss, Mask, Owners};
use crate::ops::{self, sgd::Sgd};
use crate::ssl::alignment::Alignment;
use crate::ssl::objective::{Objective, gradients};
use crate::ssl::pathway::{Order, Pathway};
use crate::ssl::report::{Part, Report, Seen};
use crate::tape::{Tape, Var};
use crate::tensor::{Device, Integers, Tensor};
use rand::Rng;

/// Everything a step reads besides the networks and queues, on their device.
pub struct Inputs {
    pub(super) views: Views,
    /// Whose keys are masked for each query: those of its own video, or none.
    pub(super) masked: Integers,
    /// Permutations of the key batches, one direction after the other, the visual one first.
    pub(super) orders: Vec<Order>,
    /// The learning rate, a scalar.
    pub(super) lr: Tensor,
}

impl Maclr {
    /// One training step on `views`: update of the key networks, keys, queries, losses against the queues as they are,
    /// gradient descent with rate `lr`, then the new keys are enqueued. `rng` permutes the key batch. If the loss is
    /// not finite, the weights are unchanged and the loss is returned in the report. Everything runs on the device of
    /// the networks.
    ///
    /// # Errors
    /// `Param` when a term needs motion and there is none, or the batch is not divisible by `groups`; errors of the
    /// networks' operations.
    pub fn step(&self, p: &mut Pathways, views: &Views, rng: &mut impl Rng, lr: f32, sgd: &Sgd) -> Result<Report> {
        let inputs = self.inputs(p, views, rng, lr)?;
        self.run(p, &inputs, sgd)?.read()
    }

    /// The inputs of a step on `views`, moved to the device of the networks.
    ///
    /// # Errors
    /// `Param` when a term needs motion and there is none; on a GPU `OutOfMemory` and `Driver`.
    pub fn inputs(&self, p: &Pathways, views: &Views, rng: &mut impl Rng, lr: f32) -> Result<Inputs> {
        let device = p.visual.query().device();
        let networks = 1 + usize::from(p.motion.is_some() && self.motion(views)?.is_some());
        let n = views.rgb[0].dims().first().copied().unwrap_or(0);
        let count = if self.shuffle_keys { networks * self.directions().len() } else { 0 };
        let orders = (0..count).map(|_| Order::shuffled(n, rng, &device)).collect::<Result<_>>()?;
        let views = views.to(&device)?;
        let nobody = || Integers::new(vec![Mask::NOBODY; views.owners.len()]).to(&device);
        let masked = if self.mask_own { views.owners.clone() } else { nobody()? };
        let lr = Tensor::scalar(lr).to(&device)?;
        Ok(Inputs { views, masked, orders, lr })
    }

    /// The clips used as queries; each is one pass of the step.
    pub(super) fn directions(&self) -> &'static [usize] {
        if self.symmetric { &[0, 1] } else { &[0] }
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
        let directions = self.directions();
        let (mut keys, mut orders) = (Vec::new(), inputs.orders.iter());
        for &a in directions {
            keys.push(self.keys(p, &inputs.views, a, &mut orders)?);
        }
        let in_batch = self.in_batch && self.mask_own;
        if in_batch {
            enqueue(p, &keys, &inputs.views.owners)?;
        }
        let tape = Tape::new();
        let mut sum = Objective::new(&tape);
        let (mut visual_leaves, mut motion_leaves) = (Vec::new(), Vec::new());
        let mode = Mode::Train { parts: self.groups };
        let alignment = self.alignment.as_ref().filter(|of| of.weight != 0.0);
        let tap = alignment.and_then(|of| of.tap());
        for (&a, keys) in directions.iter().zip(&keys) {
            let visual = p.visual.queries(&tape, &inputs.views.rgb[a], mode, self.precision, tap)?;
            let q_v = visual.codes;
            visual_leaves.push(visual.leaves);
            let q_m = match (&mut p.motion, self.motion(&inputs.views)?) {
                (Some(pathway), Some(motion)) => {
                    let x = &motion[self.motion_query(a)];
                    let queries = pathway.queries(&tape, x, mode, self.precision, None)?;
                    motion_leaves.push(queries.leaves);
                    Some(queries.codes)
                }
                _ => None,
            };
            let part = 1.0 / directions.len() as f32;
            for (name, weight, loss) in self.terms(&tape, p, &q_v, q_m.as_ref(), keys, &inputs.masked)? {
                sum.add(&ops::scale(&tape, &loss.loss, weight * part)?)?;
                // An InfoNCE term's numbers: the loss, the probability of the positive (not reported), the accuracy.
                let [of_loss, of_accuracy] = names(name);
                let parts = [Part::Value(of_loss, part), Part::Silent, Part::Value(of_accuracy, part)];
                sum.see([loss.loss.value().clone(), loss.stats], parts);
            }
            if let Some(of) = alignment {
                let same = keys.motion.as_ref().filter(|_| self.cross_positive == CrossPositive::SameClip);
                let (k, target) = (same.unwrap_or(&keys.visual), inputs.views.targets.as_ref().map(|t| &t[a]));
                let loss = of.loss(&tape, &q_v, k, visual.tapped.as_ref(), target)?;
                sum.add(&ops::scale(&tape, &loss.loss, of.weight * part)?)?;
                sum.see([loss.loss.value().clone(), loss.stats], Alignment::parts(part));
            }
        }
        let (total, seen) = sum.finish("maclr")?;
        let grads = gradients(&tape, &total, [&visual_leaves, &motion_leaves])?;
        drop((visual_leaves, motion_leaves, tape));
        let [visual, motion] = grads;
        p.visual.descend(&visual, &inputs.lr, total.value(), sgd)?;
        if let Some(pathway) = &mut p.motion {
            pathway.descend(&motion, &inputs.lr, total.value(), sgd)?;
        }
        if !in_batch {
            enqueue(p, &keys, &inputs.views.owners)?;
        }
        Ok(seen)
    }

    /// The keys for queries of clip `a`.
    fn keys<'a>(
        &self,
        p: &mut Pathways,
        views: &Views,
        a: usize,
        orders: &mut impl Iterator<Item = &'a Order>,
    ) -> Result<Keys> {
        let mut one = |pathway: &mut Pathway, x: &Tensor| pathway.keys(x, self.groups, orders.next(), self.precision);
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
        let (mut visual, mut motion) = (vec![("vv", self.w_vv, q_v, &keys.visual)], Vec::new());
        if let (Some(q_m), Some(k_m)) = (q_m, &keys.motion) {
            visual.push(("mv", self.w_mv, q_m, &keys.visual));
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

/// Keys of one direction.
struct Keys {
    visual: Tensor,
    motion: Option<Tensor>,
}

fn enqueue(p: &mut Pathways, keys: &[Keys], owners: &Integers) -> Result<()> {
    for keys in keys {
        p.visual.enqueue(&keys.visual, owners)?;
        if let (Some(pathway), Some(k)) = (&mut p.motion, &keys.motion) {
            pathway.enqueue(k, owners)?;
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
        _ => ["loss_mv", "accuracy_mv"],
    }
}
