//! One modality of a momentum-contrast method: query encoder, key encoder (its exponential moving average), and a queue
//! of past keys (He et al. 2020, MoCo; `docs/papers/maclr.md` section 2.3).

use super::division::{BatchPart, Division};
use super::queue::Queue;
use super::step::Notes;
use crate::error::{Error, Result};
use crate::nn::{Codes, Encoder, MclEncoder, Mode, ParamId, Params, Pass, Precision, Trunk};
use crate::ops::{self, ema, sgd};
use crate::shape::Shape;
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Device, Integers, Tensor};
use rand::Rng;
use rand::seq::SliceRandom;
use std::collections::HashMap;
use std::ops::Range;

/// Velocities of `params`, all zero.
///
/// # Errors
/// None on the CPU; on a GPU `OutOfMemory` and `Driver`.
pub(super) fn still(params: &Params) -> Result<Params> {
    let mut velocity = params.clone();
    for (_, p) in velocity.iter_mut() {
        p.value = Tensor::zeros_on(&p.value.device(), p.value.shape())?;
    }
    Ok(velocity)
}

/// One step of stochastic gradient descent on those of `params` that have a gradient, with the rate in the scalar `lr`. If
/// `loss` is not finite nothing changes.
///
/// # Errors
/// `Shape` when a gradient does not have the shape of its weight.
pub(super) fn descend(
    params: &mut Params,
    velocity: &mut Params,
    grads: &[(ParamId, Tensor)],
    lr: &Tensor,
    loss: &Tensor,
    sgd: &sgd::Sgd,
) -> Result<()> {
    let grads: HashMap<ParamId, &Tensor> = grads.iter().map(|(id, grad)| (*id, grad)).collect();
    let mut steps = Vec::with_capacity(grads.len());
    for ((id, w), (_, v)) in params.iter_mut().zip(velocity.iter_mut()) {
        let Some(grad) = grads.get(&id) else { continue };
        let update = Some((*grad, &mut v.value, w.role.decays()));
        let w = sgd::Weights::Trained(&mut w.value);
        steps.push(sgd::Update { w, update, key: None, half: None, key_half: None });
    }
    sgd::update_all(sgd, sgd::Rate::In(lr), 1.0, Some(loss), &mut steps)
}

/// A permutation of the batch of all ranks, and its inverse.
pub struct Order {
    /// The rows of this rank's batch in the order of the key network, one list for each micro-batch; of several ranks, each is
    /// given its clips in this order.
    there: Vec<Integers>,
    back: Integers,
}

impl Order {
    /// A random permutation of the `n` rows of each rank's batch, on `device`.
    ///
    /// # Errors
    /// On a GPU `OutOfMemory` and `Driver`.
    pub fn shuffled(n: usize, rng: &mut impl Rng, device: &Device, division: &Division) -> Result<Order> {
        let there = permutation(n * division.ranks().size(), rng);
        let parts = division.micro_batches(n)?;
        let there_of = |part: &Range<usize>| Integers::new(there[part.clone()].to_vec()).to(device);
        // Of several ranks, each has its clips in this order already.
        let alone = division.ranks().size() == 1;
        let lists = if alone { parts.iter().map(there_of).collect::<Result<_>>()? } else { Vec::new() };
        Ok(Order { there: lists, back: Integers::new(inverse(&there)).to(device)? })
    }

    /// Draws another permutation of the same size into the same memory.
    ///
    /// # Errors
    /// `Shape` when `n` differs; on a GPU `Driver`.
    pub(crate) fn shuffle(&mut self, n: usize, rng: &mut impl Rng) -> Result<()> {
        let all = permutation(n, rng);
        let mut rest = &all[..];
        for list in &mut self.there {
            let (own, behind) = rest.split_at(list.len().min(rest.len()));
            list.set(own)?;
            rest = behind;
        }
        self.back.set(&inverse(&all))
    }
}

/// A random order of `n` rows: which row is in each place.
#[must_use]
pub fn permutation(n: usize, rng: &mut impl Rng) -> Vec<u32> {
    let mut there: Vec<u32> = (0..n as u32).collect();
    there.shuffle(rng);
    there
}

/// Its inverse: the place of each row.
fn inverse(there: &[u32]) -> Vec<u32> {
    let n = there.len();
    let mut back = vec![0; n];
    for (at, &from) in there.iter().enumerate() {
        back[from as usize] = at as u32;
    }
    back
}

/// Query codes, with what the loss or the optimiser needs from the tape.
pub struct Queries<C> {
    /// The codes, recorded.
    pub codes: C,
    /// Codes of time steps `[n·t d]`, recorded, if the encoder has a head for them.
    pub steps: Option<Var>,
    /// The output of the tapped module, if one was requested.
    pub tapped: Option<Var>,
    /// The leaves whose gradients train the network.
    pub leaves: Vec<(ParamId, Var)>,
}

/// Keys of MaCLR's encoder.
#[derive(Clone)]
pub struct ClipCodes {
    /// Codes of clips, `[n d]`.
    pub clips: Tensor,
    /// Codes of their time steps, `[n t·d]`, if the encoder has a head for them.
    pub steps: Option<Tensor>,
}

impl ClipCodes {
    /// Those of some rows.
    pub(super) fn rows(&self, rows: Range<usize>) -> Result<ClipCodes> {
        let steps = self.steps.as_ref().map(|steps| rows_of(steps, rows.clone())).transpose()?;
        Ok(ClipCodes { clips: rows_of(&self.clips, rows)?, steps })
    }
}

/// Keys of MCL's three heads, `[n d]` each.
pub struct KeyCodes {
    /// Codes of the head that is contrasted with other videos.
    pub inter: Tensor,
    /// Codes of the head that is contrasted within the video.
    pub intra: Tensor,
    /// Codes of the head that determines the order.
    pub order: Tensor,
}

impl KeyCodes {
    /// Those of some rows.
    pub(super) fn rows(&self, rows: Range<usize>) -> Result<KeyCodes> {
        let of = |codes: &Tensor| rows_of(codes, rows.clone());
        Ok(KeyCodes { inter: of(&self.inter)?, intra: of(&self.intra)?, order: of(&self.order)? })
    }
}

/// Query network, key network and queue of one modality, with the optimiser's velocity. `E` is the network structure.
pub struct Pathway<E = Encoder> {
    encoder: E,
    query: Params,
    key: Params,
    velocity: Params,
    queue: Queue,
    recompute: bool,
}

impl<E> Pathway<E> {
    /// A pathway whose key network is initialised as a copy of the query network, on the same device.
    ///
    /// # Errors
    /// None on the CPU; on a GPU `OutOfMemory` and `Driver`.
    pub fn new(encoder: E, query: Params, queue: Queue) -> Result<Pathway<E>> {
        let velocity = still(&query)?;
        Ok(Pathway { encoder, key: query.clone(), query, velocity, queue, recompute: false })
    }

    /// The same pathway; if `yes`, its queries use less memory and more time ([`Pass::recomputing`]).
    pub fn recomputing(mut self, yes: bool) -> Self {
        self.recompute = yes;
        self
    }

    /// The network structure.
    pub fn encoder(&self) -> &E {
        &self.encoder
    }

    /// Weights of the query network, which are kept after pre-training.
    pub fn query(&self) -> &Params {
        &self.query
    }

    /// Weights of the key network.
    pub fn key(&self) -> &Params {
        &self.key
    }

    /// The queue of past keys.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The query network's weights, for restoring.
    pub fn query_mut(&mut self) -> &mut Params {
        &mut self.query
    }

    /// State for a checkpoint, in addition to the query network and the queue: the key network, and the velocity.
    pub fn followers(&self) -> [(&'static str, &Params); 2] {
        [("encoder_k", &self.key), ("velocity", &self.velocity)]
    }

    /// The same state and the queue, for restoring.
    pub fn followers_mut(&mut self) -> ([(&'static str, &mut Params); 2], &mut Queue) {
        ([("encoder_k", &mut self.key), ("velocity", &mut self.velocity)], &mut self.queue)
    }

    /// Updates the key network: `key = m·key + (1 - m)·query` for weights; it keeps running statistics of its own.
    ///
    /// # Errors
    /// `Shape`, never in practice: both networks have the same structure.
    pub fn follow(&mut self, m: f32) -> Result<()> {
        let pairs = self.key.iter_mut().zip(self.query.iter()).filter(|(_, (_, q))| q.role.trains());
        ema::update_all(pairs.map(|((_, k), (_, q))| (&mut k.value, &q.value)), m)
    }

    /// One step of stochastic gradient descent on the query network, with the rate in the scalar `lr`. If `loss` is not
    /// finite nothing changes.
    ///
    /// # Errors
    /// `Shape` when a gradient does not have the shape of its weight.
    pub(crate) fn descend(
        &mut self,
        grads: &[(ParamId, Tensor)],
        lr: &Tensor,
        loss: &Tensor,
        sgd: &sgd::Sgd,
    ) -> Result<()> {
        descend(&mut self.query, &mut self.velocity, grads, lr, loss, sgd)
    }

    /// The host-side state after the steps so far.
    pub(crate) fn notes(&self) -> Notes {
        let (owners, at) = (self.queue.owners().to_vec(), self.queue.at());
        Notes { batches: [self.query.batches, self.key.batches], owners, at }
    }

    /// Restores that state.
    pub(crate) fn set_notes(&mut self, notes: Notes) {
        [self.query.batches, self.key.batches] = notes.batches;
        self.queue.rewind(notes.owners, notes.at);
    }

    /// Updates it for a replayed step: batches that query and key network saw, and how often keys of `owners` were
    /// enqueued.
    pub(crate) fn note_step(&mut self, [query, key]: [usize; 2], pushed: usize, owners: &[u32]) {
        self.query.batches += query as u64;
        self.key.batches += key as u64;
        (0..pushed).for_each(|_| self.queue.advance(owners));
    }

    /// The codes of all heads of the key network, of all ranks, in the original order of the batch: f32.
    #[allow(clippy::too_many_arguments, reason = "a pass of a network; each argument is a choice of its own")]
    fn codes<const HEADS: usize>(
        &mut self,
        x: &Tensor,
        groups: usize,
        shuffle: Option<&Order>,
        precision: Precision,
        division: &Division,
        tap: Option<&str>,
        forward: impl Fn(&E, &mut Pass, &Var) -> Result<[Var; HEADS]>,
    ) -> Result<[Tensor; HEADS]> {
        let (parts, n) = (division.parts(groups)?, x.dims().first().copied().unwrap_or(0));
        let mut codes = [const { Vec::new() }; HEADS];
        // The network would round clips that were permuted; rounded ones are half as many bytes to permute.
        let x = &if shuffle.is_some() { x.cast(precision.dtype())? } else { x.clone() };
        for (i, rows) in division.micro_batches(n)?.into_iter().enumerate() {
            // The clips in the order that the key network sees.
            let clips = match shuffle.and_then(|order| order.there.get(i)) {
                Some(list) => x.rows_by(list)?,
                None => rows_of(x, rows)?,
            };
            let tape = Tape::no_grad();
            let pass = Pass::new(&tape, &mut self.key, Mode::Train { parts }).with_precision(precision);
            let BatchPart { updating, peers } = division.part(i);
            let pass = pass.updating(updating).over_peers(peers);
            let mut pass = if let Some(module) = tap { pass.tapping(module) } else { pass };
            let of_heads = forward(&self.encoder, &mut pass, &Var::constant(clips))?;
            for (codes, code) in codes.iter_mut().zip(of_heads) {
                codes.push(code.value().cast(DType::F32)?);
            }
        }
        let mut all = Vec::with_capacity(HEADS);
        for codes in &codes {
            let codes = division.gather(codes)?;
            all.push(shuffle.map_or(Ok(codes.clone()), |order| codes.rows_by(&order.back))?);
        }
        Ok(all.try_into().unwrap_or_else(|_| unreachable!("one for each head")))
    }

    /// Enqueues new keys `n d`.
    ///
    /// # Errors
    /// `Shape` when `d` differs from the queue's.
    pub fn enqueue(&mut self, keys: &Tensor, owners: &Integers) -> Result<()> {
        self.queue.push(keys, owners)
    }
}

impl Pathway {
    /// Keys of the clips `x`, as constants, of all ranks. With `shuffle`, the batch is permuted before the network and
    /// back after it, so that the batch-statistics groups of a key differ from those of its query (MoCo's shuffled BN).
    ///
    /// # Errors
    /// Errors of the network's operations, and of the ranks.
    pub fn keys(
        &mut self,
        x: &Tensor,
        groups: usize,
        shuffle: Option<&Order>,
        precision: Precision,
        division: &Division,
    ) -> Result<ClipCodes> {
        let Some(module) = self.encoder.steps_module().map(str::to_owned) else {
            let forward = |encoder: &Encoder, pass: &mut Pass, x: &Var| Ok([encoder.forward(pass, x)?]);
            let [clips] = self.codes(x, groups, shuffle, precision, division, None, forward)?;
            return Ok(ClipCodes { clips, steps: None });
        };
        let forward = |encoder: &Encoder, pass: &mut Pass, x: &Var| {
            let (clips, steps) = (encoder.forward(pass, x)?, encoder.codes_of_steps(pass)?);
            // A row is a clip, so that what permutes and gathers clips does so with their steps.
            let n = clips.shape().dims()[0];
            let row = steps.shape().len() / n.max(1);
            Ok([clips, ops::reshape(pass.tape(), &steps, [n, row].into())?])
        };
        let [clips, steps] = self.codes(x, groups, shuffle, precision, division, Some(&module), forward)?;
        Ok(ClipCodes { clips, steps: Some(steps) })
    }

    /// Queries `n d` of the clips `x`, recorded on `tape`, with the output of the module `tap` ([`Trunk::modules`]) if
    /// one is named, and codes of time steps if the encoder has a head for them. [`Mode::Eval`] freezes the normalisations and
    /// still trains. `part` says what of the batch `x` is.
    ///
    /// # Errors
    /// `Param` when there is no module `tap`, or it is not the one that the head for time steps reads; errors of the network's
    /// operations.
    pub fn queries(
        &mut self,
        tape: &Tape,
        x: &Tensor,
        mode: Mode,
        precision: Precision,
        tap: Option<&str>,
        part: &BatchPart,
    ) -> Result<Queries<Var>> {
        let of_steps = self.encoder.steps_module();
        if let (Some(tap), Some(module)) = (tap, of_steps.filter(|module| tap != Some(module))) {
            let rule = format!("the head for time steps reads {module}, and one module of a pass can be read");
            return Err(Error::param("network", "module", tap, rule));
        }
        let pass = pass(&self.encoder.trunk, tape, &mut self.query, mode, tap.or(of_steps))?;
        let pass = pass.with_precision(precision).recomputing(self.recompute);
        let mut pass = pass.updating(part.updating).over_peers(part.peers.clone());
        let codes = self.encoder.forward(&mut pass, &Var::constant(x.clone()))?;
        let steps = of_steps.map(|_| self.encoder.codes_of_steps(&mut pass)).transpose()?;
        Ok(Queries { codes, steps, tapped: tap.and_then(|_| pass.tapped()), leaves: pass.leaves() })
    }
}

impl Pathway<MclEncoder> {
    /// Keys of the clips `x`, as constants; otherwise as for one head.
    ///
    /// # Errors
    /// Errors of the network's operations.
    pub fn keys(
        &mut self,
        x: &Tensor,
        groups: usize,
        shuffle: Option<&Order>,
        precision: Precision,
        division: &Division,
    ) -> Result<KeyCodes> {
        let forward = |encoder: &MclEncoder, pass: &mut Pass, x: &Var| {
            let Codes { inter, intra, order } = encoder.forward(pass, x)?;
            Ok([inter, intra, order])
        };
        let [inter, intra, order] = self.codes(x, groups, shuffle, precision, division, None, forward)?;
        Ok(KeyCodes { inter, intra, order })
    }

    /// Queries of the clips `x`, as for one head, and the result of `also` computed from them in the same pass (the
    /// logits of the order classifier), so that its parameters are among the leaves.
    ///
    /// # Errors
    /// `Param` when there is no module `tap`; errors of the network's operations and of `also`.
    #[allow(clippy::too_many_arguments, reason = "a pass of a network; each argument is a choice of its own")]
    pub fn queries<T>(
        &mut self,
        tape: &Tape,
        x: &Tensor,
        mode: Mode,
        precision: Precision,
        tap: Option<&str>,
        part: &BatchPart,
        also: impl FnOnce(&MclEncoder, &mut Pass, &Codes) -> Result<T>,
    ) -> Result<(Queries<Codes>, T)> {
        let pass = pass(&self.encoder.trunk, tape, &mut self.query, mode, tap)?;
        let pass = pass.with_precision(precision).recomputing(self.recompute);
        let mut pass = pass.updating(part.updating).over_peers(part.peers.clone());
        let codes = self.encoder.forward(&mut pass, &Var::constant(x.clone()))?;
        let more = also(&self.encoder, &mut pass, &codes)?;
        Ok((Queries { codes, steps: None, tapped: pass.tapped(), leaves: pass.leaves() }, more))
    }
}

/// Some neighbouring rows.
pub(super) fn rows_of(x: &Tensor, rows: Range<usize>) -> Result<Tensor> {
    match x.dims() {
        [n, ..] if rows == (0..*n) => Ok(x.clone()),
        [n, row @ ..] if rows.end <= *n => {
            let dims: Vec<usize> = [rows.len()].into_iter().chain(row.iter().copied()).collect();
            x.part(rows.start * row.iter().product::<usize>(), Shape::new(&dims))
        }
        _ => Err(Error::shape("micro-batch", "x", format!("at least {} rows", rows.end), x.shape())),
    }
}

/// A forward pass of a query network; a name that is not a module is refused before anything is computed.
fn pass<'a>(trunk: &Trunk, tape: &'a Tape, params: &'a mut Params, mode: Mode, tap: Option<&str>) -> Result<Pass<'a>> {
    let Some(module) = tap else { return Ok(Pass::new(tape, params, mode)) };
    trunk.check_module(params, module)?;
    Ok(Pass::new(tape, params, mode).tapping(module))
}
