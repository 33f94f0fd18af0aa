//! A training step. Once its inputs are on the device it does not synchronise with the host until its report is read.

use super::{Mcl, Network, Rates, Views};
use crate::cpu::in_pool;
use crate::error::{Error, Result};
use crate::nn::{Codes, Mode, ParamId, Pass};
use crate::ops::infonce::{Loss, Mask, Owners, infonce_terms};
use crate::ops::{self, sgd::Sgd};
use crate::shape::Shape;
use crate::ssl::alignment::Alignment;
use crate::ssl::division::Division;
use crate::ssl::objective::Objective;
use crate::ssl::over_batch::Sum;
use crate::ssl::pathway::{KeyCodes, Order, Queries, rows_of};
use crate::ssl::report::{Part, Report, Seen};
use crate::tape::{Tape, Var};
use crate::tensor::{Device, Integers, Tensor};
use rand::Rng;
use std::ops::Range;

/// Everything a step reads besides the network and its queue, on their device.
pub struct Inputs {
    pub(super) views: Views,
    /// For each micro-batch: whose keys are masked for each query, those of its own video, or none.
    pub(super) masked: Vec<Integers>,
    /// Owners of the keys of all ranks.
    pub(super) owners: Integers,
    /// Permutations of the key batches.
    pub(super) orders: Vec<Order>,
    /// The learning rate, a scalar.
    pub(super) lr: Tensor,
    /// The weights of the order loss and of the alignment loss, scalars.
    pub(super) weights: [Tensor; 2],
    /// Whether they are above 0; otherwise the loss is not computed.
    pub(super) wanted: [bool; 2],
    choice: Choice,
    /// How the batch is divided.
    pub(super) division: Division,
}

impl Inputs {
    /// Videos of this rank.
    fn rows(&self) -> usize {
        self.views.query.dims().first().copied().unwrap_or(0)
    }
}

/// Constants of a two-way classification, on the device of the network.
struct Choice {
    /// `[1 2]`: 0 1, a logit beside 0.
    beside: Tensor,
    /// `[2 1]`: 1 -1, the first logit minus the second.
    apart: Tensor,
    /// The correct class of each sample of a micro-batch: the first.
    right: Integers,
}

impl Choice {
    fn new(n: usize, device: &Device) -> Result<Choice> {
        Ok(Choice {
            beside: Tensor::from_f32([1, 2], &[0.0, 1.0])?.to(device)?,
            apart: Tensor::from_f32([2, 1], &[1.0, -1.0])?.to(device)?,
            right: Integers::new(vec![0; n]).to(device)?,
        })
    }

    /// Mean cross-entropy with the logit of the wrong class `z [n 1]` above the correct one's: `ln(1 + exp z)`.
    fn loss(&self, tape: &Tape, z: &Var) -> Result<Var> {
        let logits = ops::matmul(tape, z, &Var::constant(self.beside.clone()), false, false)?;
        ops::cross_entropy::cross_entropy_of(tape, &logits, &self.right)
    }
}

/// The gradients of one step, and the keys to enqueue after it.
pub struct Gradients {
    /// The loss, a scalar.
    pub loss: Tensor,
    /// Of the query network's parameters.
    pub grads: Vec<(ParamId, Tensor)>,
    /// The report.
    pub seen: Seen,
    keys: [KeyCodes; 3],
}

impl Mcl {
    /// One training step on `views`: update of the key network, keys, queries, the four losses against the queue as it
    /// is, gradient descent, then the new keys are enqueued. `rng` permutes the key batches. If the loss is not finite,
    /// the weights are unchanged and the loss is returned in the report. Everything runs on the device of the network.
    ///
    /// # Errors
    /// `Param` when no loss has a weight, when there is no motion to align with, when the network has no module to
    /// align, or the batch is not divisible by `groups`; `Shape` when the grid of the motion differs from the module's;
    /// errors of the network's operations.
    pub fn step(&self, p: &mut Network, views: &Views, rng: &mut impl Rng, rates: Rates, sgd: &Sgd) -> Result<Report> {
        self.step_of(p, views, rng, rates, sgd, &Division::default())
    }

    /// One training step as [`Mcl::step`], of a batch that is divided among ranks or micro-batches; all ranks call it. With several
    /// ranks, `views` are this rank's; if keys are shuffled, those of its key network are given in the order of that
    /// ([`Views::permuted`]). `rng` is in the same state on all ranks.
    ///
    /// # Errors
    /// Those of [`Mcl::step`]; `Param` when the batch or `groups` cannot be divided so; `Peer` when a rank has ended.
    pub fn step_of(
        &self,
        p: &mut Network,
        views: &Views,
        rng: &mut impl Rng,
        rates: Rates,
        sgd: &Sgd,
        division: &Division,
    ) -> Result<Report> {
        let inputs = self.inputs_of(p, views, rng, rates, division)?;
        self.run(p, &inputs, sgd)?.read()
    }

    /// The inputs of a step on `views`, moved to the device of the network.
    ///
    /// # Errors
    /// `Shape` when `order` is not `[n 1]`; `Param` when the keys of several ranks are not permuted as the step needs; on a GPU
    /// `OutOfMemory` and `Driver`.
    pub fn inputs(&self, p: &Network, views: &Views, rng: &mut impl Rng, rates: Rates) -> Result<Inputs> {
        self.inputs_of(p, views, rng, rates, &Division::default())
    }

    /// The same of a batch that is divided; all ranks call it.
    ///
    /// # Errors
    /// Those of `step_of`.
    pub fn inputs_of(
        &self,
        p: &Network,
        views: &Views,
        rng: &mut impl Rng,
        rates: Rates,
        division: &Division,
    ) -> Result<Inputs> {
        let device = p.query().device();
        let n = views.query.dims().first().copied().unwrap_or(0);
        if views.order.dims() != [n, 1] {
            return Err(Error::shape("mcl", "order", format!("[{n} 1]"), views.order.shape()));
        }
        let count = if self.shuffle_keys { views.keys.len() } else { 0 };
        let orders = (0..count).map(|_| Order::shuffled(n, rng, &device, division)).collect::<Result<_>>()?;
        let permuted = self.shuffle_keys && division.ranks().size() > 1;
        if views.permuted != permuted {
            let rule = "the clips of key networks are permuted where there are several ranks and shuffled keys, and only there";
            return Err(Error::param("mcl", "permuted", views.permuted, rule));
        }
        division.parts(self.groups)?;
        let own_owners = division.own_owners(views.owners.values(), n)?;
        let micro_batches = division.micro_batches(n)?;
        let masked = micro_batches.iter().map(|rows| {
            let nobody = || vec![Mask::NOBODY; rows.len()];
            let own = || own_owners[rows.clone()].to_vec();
            Integers::new(if self.mask_own { own() } else { nobody() }).to(&device)
        });
        let masked = masked.collect::<Result<_>>()?;
        let each = micro_batches.first().map_or(0, |rows| rows.len());
        let owners = Integers::new(views.owners.values().to_vec()).to(&device)?;
        let views = views.to(&device)?;
        let scalar = |x: f32| Tensor::scalar(x).to(&device);
        Ok(Inputs {
            views,
            masked,
            owners,
            orders,
            lr: scalar(rates.lr)?,
            weights: [scalar(rates.order)?, scalar(rates.alignment)?],
            wanted: rates.wanted(),
            choice: Choice::new(each, &device)?,
            division: division.clone(),
        })
    }

    /// Like [`Mcl::step`] on inputs that are on the device.
    ///
    /// # Errors
    /// Those of [`Mcl::step`].
    pub fn run(&self, p: &mut Network, inputs: &Inputs, sgd: &Sgd) -> Result<Seen> {
        match p.query().device() {
            Device::Cpu => in_pool(|| self.compute(p, inputs, sgd)),
            _ => self.compute(p, inputs, sgd),
        }
    }

    fn compute(&self, p: &mut Network, inputs: &Inputs, sgd: &Sgd) -> Result<Seen> {
        p.follow(self.momentum)?;
        let Gradients { loss, grads, seen, keys } = self.gradients(p, inputs)?;
        let _span = inputs.division.span("update");
        p.descend(&grads, &inputs.lr, &loss, sgd)?;
        if !self.keys_first() {
            enqueue(p, &keys, &inputs.owners)?;
        }
        Ok(seen)
    }

    fn keys_first(&self) -> bool {
        self.in_batch && self.mask_own
    }

    /// The losses and their gradients for the query network; its weights do not change. With [`Mcl::in_batch`] the keys
    /// have been enqueued afterwards.
    ///
    /// # Errors
    /// Those of [`Mcl::step`].
    pub fn gradients(&self, p: &mut Network, inputs: &Inputs) -> Result<Gradients> {
        let (views, division) = (&inputs.views, &inputs.division);
        let mut orders = inputs.orders.iter();
        let mut key = |x: &Tensor| p.keys(x, self.groups, orders.next(), self.precision, division);
        let [a, b, c] = &views.keys;
        let keys = {
            let _span = division.span("keys");
            [key(a)?, key(b)?, key(c)?]
        };
        if self.keys_first() {
            enqueue(p, &keys, &inputs.owners)?;
        }
        let mut sum = Sum::new(division);
        for (i, rows) in division.micro_batches(inputs.rows())?.into_iter().enumerate() {
            self.of_micro_batch(p, inputs, i, rows, &keys, &mut sum)?;
        }
        let (loss, [grads], seen) = sum.finish()?;
        Ok(Gradients { loss, grads, seen, keys })
    }

    /// Adds the gradients for micro-batch `i`, which has the `rows` of this rank's views.
    fn of_micro_batch(
        &self,
        p: &mut Network,
        inputs: &Inputs,
        i: usize,
        rows: Range<usize>,
        keys: &[KeyCodes; 3],
        sums: &mut Sum<1>,
    ) -> Result<()> {
        let (views, division) = (&inputs.views, &inputs.division);
        let own = division.own(inputs.rows()).start;
        let [a, b, c] = keys;
        let of = |k: &KeyCodes| k.rows(own + rows.start..own + rows.end);
        let keys = [of(a)?, of(b)?, of(c)?];
        let forward = division.span("forward");
        let tape = Tape::new();
        let [wants_order, wants_alignment] = inputs.wanted;
        let tap = self.alignment.tap().filter(|_| wants_alignment);
        let mode = if self.frozen_norm { Mode::Eval } else { Mode::Train { parts: division.parts(self.groups)? } };
        let [_, k2, k3] = &keys;
        let (x, part) = (rows_of(&views.query, rows.clone())?, division.part(i));
        let (queries, answers) = p.queries(&tape, &x, mode, self.precision, tap, &part, |encoder, pass, q| {
            wants_order.then(|| encoder.classify(pass, &q.order, &k2.order, &k3.order)).transpose()
        })?;
        let Queries { codes, tapped, leaves, .. } = queries;
        let mut sum = Objective::new(&tape);
        self.inter(&mut sum, p, &codes, &keys, &inputs.masked[i])?;
        self.intra(&mut sum, &codes, &keys, &inputs.choice)?;
        if let Some(logits) = answers {
            order(&mut sum, &logits, &rows_of(&views.order, rows.clone())?, inputs)?;
        }
        if wants_alignment {
            let of = &self.alignment;
            let target = views.target.as_ref().map(|t| rows_of(t, rows.clone())).transpose()?;
            let loss = of.loss(&tape, &codes.inter, &keys[0].inter, tapped.as_ref(), target.as_ref())?;
            let weighted = ops::mul(&tape, &loss.loss, &Var::constant(inputs.weights[1].clone()))?;
            sum.add(&weighted)?;
            sum.see([loss.loss.value().clone(), loss.stats], Alignment::parts(1.0));
        }
        drop((codes, tapped));
        let total = sums.see("mcl", sum)?;
        drop(forward);
        sums.backward(&tape, &total, [&[leaves]])
    }

    /// The map of gradients `[n t h w]` of the query clips for their similarity with `k1`, by the current networks with
    /// running statistics.
    ///
    /// # Errors
    /// `Param` when the alignment names no module of the network; errors of its operations.
    pub fn saliency(&self, p: &Network, views: &Views) -> Result<Tensor> {
        let (tape, none) = (Tape::new(), Tape::no_grad());
        let (mut query, mut key) = (p.query().clone(), p.key().clone());
        let encoder = p.encoder();
        encoder.trunk.check_module(&query, &self.alignment.module)?;
        let mut pass = Pass::new(&none, &mut key, Mode::Eval).with_precision(self.precision);
        let k = encoder.forward(&mut pass, &Var::constant(views.keys[0].clone()))?.inter;
        let mut pass =
            Pass::new(&tape, &mut query, Mode::Eval).with_precision(self.precision).tapping(&self.alignment.module);
        let q = encoder.forward(&mut pass, &Var::constant(views.query.clone()))?.inter;
        let Some(f) = pass.tapped() else {
            return Err(Error::param("alignment", "module", &self.alignment.module, "the network never reached it"));
        };
        Ok(self.alignment.map(&tape, &q, k.value(), &f)?.value().clone())
    }

    /// `q` against each of its keys and the queue: the mean of three InfoNCE losses, which share one pass over the
    /// queue.
    fn inter(
        &self,
        sum: &mut Objective,
        p: &Network,
        q: &Codes,
        keys: &[KeyCodes; 3],
        masked: &Integers,
    ) -> Result<()> {
        if self.w_inter == 0.0 {
            return Ok(());
        }
        let queue = p.queue();
        let owners = match (masked.memory(), queue.owners_there()) {
            (Some(rows), Some(keys)) => Owners::Device { rows, keys },
            _ => Owners::Host(Mask { rows: masked.values(), keys: queue.owners() }),
        };
        let pairs: Vec<(Var, Tensor)> = keys.iter().map(|k| (q.inter.clone(), k.inter.clone())).collect();
        let part = 1.0 / keys.len() as f32;
        for Loss { loss, stats } in infonce_terms(sum.tape, &pairs, queue.keys(), owners, self.temperature)? {
            sum.add(&ops::scale(sum.tape, &loss, self.w_inter * part)?)?;
            let parts = [Part::Value("loss_inter", part), Part::Silent, Part::Value("accuracy_inter", part)];
            sum.see([loss.value().clone(), stats], parts);
        }
        Ok(())
    }

    /// `q` nearer to its own clip `k1` than to the video's other clips: the mean of two two-way losses.
    fn intra(&self, sum: &mut Objective, q: &Codes, [k1, k2, k3]: &[KeyCodes; 3], choice: &Choice) -> Result<()> {
        if self.w_intra == 0.0 {
            return Ok(());
        }
        let n = q.intra.shape().dims()[0];
        for other in [k2, k3] {
            let apart = ops::arith::forward(ops::arith::Arith::Sub, &other.intra, &k1.intra)?;
            let wrong = ops::mul(sum.tape, &q.intra, &Var::constant(apart))?;
            let wrong = ops::sum_to(sum.tape, &wrong, Shape::new(&[n, 1]))?;
            let wrong = ops::scale(sum.tape, &wrong, 1.0 / self.temperature_intra)?;
            let loss = choice.loss(sum.tape, &wrong)?;
            sum.add(&ops::scale(sum.tape, &loss, self.w_intra * 0.5)?)?;
            sum.see(
                [loss.value().clone(), wrong.value().clone()],
                [Part::Value("loss_intra", 0.5), Part::Below("accuracy_intra", n, 0.5)],
            );
        }
        Ok(())
    }
}

/// The classifier's `logits [n 2]` against the order (`[n 1]`, ±1).
fn order(sum: &mut Objective, logits: &Var, order: &Tensor, inputs: &Inputs) -> Result<()> {
    let choice = &inputs.choice;
    // The second class is "first": the margin of the wrong logit is the first minus the second, negated if the query
    // comes last.
    let apart = ops::matmul(sum.tape, logits, &Var::constant(choice.apart.clone()), false, false)?;
    let wrong = ops::mul(sum.tape, &apart, &Var::constant(order.clone()))?;
    let loss = choice.loss(sum.tape, &wrong)?;
    sum.add(&ops::mul(sum.tape, &loss, &Var::constant(inputs.weights[0].clone()))?)?;
    let parts = [Part::Value("loss_order", 1.0), Part::Below("accuracy_order", order.dims()[0], 1.0)];
    sum.see([loss.value().clone(), wrong.value().clone()], parts);
    Ok(())
}

fn enqueue(p: &mut Network, keys: &[KeyCodes; 3], owners: &Integers) -> Result<()> {
    keys.iter().try_for_each(|k| p.enqueue(&k.inter, owners))
}
