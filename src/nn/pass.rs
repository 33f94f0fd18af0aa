//! One use of a network: with which tape, parameters, mode and precision.

use super::params::{ParamId, Params, Role};
use super::precision::Precision;
use crate::error::Result;
use crate::ops::{batch_norm::Peers, conv3d::Products, convert};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Which statistics normalisations use, and whether parameters have gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those of the batch, divided into `parts` equal contiguous parts; running statistics are updated.
    Train {
        /// Parts of the batch with statistics of their own; 1 is ordinary batch norm.
        parts: usize,
    },
    /// The running statistics.
    Eval,
    /// The running statistics, and the parameters are constants: a frozen trunk under a probe.
    Frozen,
}

/// One use of a network's [`Params`] on a tape. Each parameter becomes one leaf however often a layer runs, so several
/// inputs may go through one pass, and their gradients are added.
///
/// Drop the pass and its leaves before updating the weights: a value that is still shared is copied by the update.
pub struct Pass<'a> {
    tape: &'a Tape,
    params: &'a mut Params,
    mode: Mode,
    precision: Precision,
    vars: Vec<Option<Use>>,
    /// In bf16, the rounded weights that have not been used yet, by index: all are rounded together when the first is
    /// used, which takes one launch on a GPU.
    rounded: Vec<Option<Tensor>>,
    tap: Option<Tap>,
    recompute: bool,
    /// Whether another run updates the running statistics: this one repeats it, or computes another part of its batch.
    again: bool,
    /// With whom the batch is shared.
    peers: Option<Arc<dyn Peers>>,
}

/// The module whose output is requested.
struct Tap {
    module: String,
    output: Option<Var>,
}

/// A parameter in use.
struct Use {
    leaf: Var,
    /// The leaf in the data type of the pass.
    value: Var,
}

impl<'a> Pass<'a> {
    /// A pass in f32.
    pub fn new(tape: &'a Tape, params: &'a mut Params, mode: Mode) -> Self {
        let vars = params.iter().map(|_| None).collect();
        let (precision, rounded) = (Precision::F32, Vec::new());
        Pass { tape, params, mode, precision, vars, rounded, tap: None, recompute: false, again: false, peers: None }
    }

    /// The same pass computing in `precision` (or a data type). In bf16, activations and the weights of convolutions
    /// and linear layers are rounded; scales, shifts, biases, statistics, sums, and the gradients of all parameters
    /// stay f32.
    pub fn with_precision(mut self, precision: impl Into<Precision>) -> Self {
        self.precision = precision.into();
        self
    }

    /// If `yes`, the same pass with less memory: blocks keep only their input and run again in the backward pass. What
    /// is computed inside a block has the same bits, and running statistics are updated once; gradients between blocks
    /// differ by roundings. Blocks with a [tapped](Pass::tapping) convolution are not recomputed.
    ///
    /// ```
    /// use tubelet::nn::{Encoder, Mode, Pass, SmallR3d};
    /// use tubelet::tape::{self, Tape, Var};
    /// use tubelet::{ops, shape::Shape, tensor::Tensor};
    /// let (encoder, mut params) = Encoder::new(&SmallR3d::default().net()?, 64, 32, 7)?;
    /// let (tape, clips) = (Tape::new(), Var::constant(Tensor::full([2, 8, 32, 32, 3], 0.5)));
    /// let mut pass = Pass::new(&tape, &mut params, Mode::Train { parts: 1 }).recomputing(true);
    /// let codes = encoder.forward(&mut pass, &clips)?;
    /// let loss = ops::sum_to(&tape, &codes, Shape::from([1, 1]))?;
    /// let leaves = pass.leaves();
    /// let grads = tape.grad(&loss, &leaves.iter().map(|(_, v)| v).collect::<Vec<_>>(), tape::Mode::Free)?;
    /// assert!(grads.iter().all(Option::is_some));
    /// # Ok::<(), tubelet::error::Error>(())
    /// ```
    #[must_use]
    pub fn recomputing(mut self, yes: bool) -> Self {
        self.recompute = yes;
        self
    }

    /// If not `yes`, the same pass without an update of the running statistics: of a batch that is computed in several
    /// passes, one of them updates these.
    #[must_use]
    pub fn updating(mut self, yes: bool) -> Self {
        self.again = !yes;
        self
    }

    /// The same pass over a part of a batch that `peers` share: in training mode, its statistics are those of all of them. All of
    /// them make the same passes.
    #[must_use]
    pub fn over_peers(mut self, peers: Option<Arc<dyn Peers>>) -> Self {
        self.peers = peers;
        self
    }

    /// With whom the batch is shared.
    pub(super) fn peers(&self) -> Option<Arc<dyn Peers>> {
        self.peers.clone()
    }

    /// A second run of a part: parameters are the variables `used`, and running statistics are not updated.
    pub(super) fn again(
        tape: &'a Tape,
        params: &'a mut Params,
        mode: Mode,
        precision: Precision,
        used: impl Iterator<Item = (ParamId, Var)>,
    ) -> Self {
        let mut pass = Pass { precision, again: true, ..Pass::new(tape, params, mode) };
        for (id, value) in used {
            pass.vars[id.index()] = Some(Use { leaf: value.clone(), value });
        }
        pass
    }

    /// Whether a part of the network with the convolutions of these filters is to be run again in the backward pass.
    pub(super) fn recomputes(&self, mut weights: impl Iterator<Item = ParamId>) -> bool {
        let tapped = |id: ParamId| self.tap.as_ref().is_some_and(|tap| self.params[id].module() == tap.module);
        self.recompute && self.tape.is_recording() && self.mode != Mode::Frozen && !weights.any(tapped)
    }

    /// The same pass, keeping the output of `module`: one of [`super::Trunk::modules`]. For any other name nothing is
    /// kept.
    #[must_use]
    pub fn tapping(mut self, module: &str) -> Self {
        self.tap = Some(Tap { module: module.to_owned(), output: None });
        self
    }

    /// The output of the [tapped](Pass::tapping) module: the same variable that the next module reads, so it has a
    /// gradient if the tape records. `None` before the module has run; after several inputs, the output for the last.
    #[must_use]
    pub fn tapped(&self) -> Option<Var> {
        self.tap.as_ref()?.output.clone()
    }

    /// The tape.
    #[must_use]
    pub fn tape(&self) -> &'a Tape {
        self.tape
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The data type of activations.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.precision.dtype()
    }

    /// The precision.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How its convolutions compute products of f32 numbers.
    #[must_use]
    pub fn products(&self) -> Products {
        self.precision.products()
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &Params {
        self.params
    }

    /// A parameter as a leaf of the tape (or a constant, depending on the mode and the tape), with weights rounded to
    /// the data type of the pass.
    ///
    /// # Errors
    /// As [`crate::tensor::Tensor::cast`].
    pub fn var(&mut self, id: ParamId) -> Result<Var> {
        if let Some(used) = &self.vars[id.index()] {
            return Ok(used.value.clone());
        }
        let param = &self.params[id];
        let constant = self.mode == Mode::Frozen || !param.role.trains();
        let value = param.value.clone();
        let leaf = if constant { Var::constant(value) } else { self.tape.leaf(value) };
        let value = match param.role {
            Role::ConvWeight | Role::LinearWeight if self.dtype() == DType::BF16 => {
                let rounded = self.rounded(id)?;
                convert::converted(self.tape, &leaf, rounded)
            }
            _ => leaf.clone(),
        };
        self.vars[id.index()] = Some(Use { leaf, value: value.clone() });
        Ok(value)
    }

    /// A weight in bf16.
    fn rounded(&mut self, id: ParamId) -> Result<Tensor> {
        if self.rounded.is_empty() {
            let weights =
                || self.params.iter().filter(|(_, p)| matches!(p.role, Role::ConvWeight | Role::LinearWeight));
            let halves = convert::round_all(&weights().map(|(_, p)| &p.value).collect::<Vec<_>>())?;
            let mut rounded = vec![None; self.params.len()];
            weights().zip(halves).for_each(|((id, _), half)| rounded[id.index()] = Some(half));
            self.rounded = rounded;
        }
        Ok(self.rounded[id.index()].take().expect("a weight is used once, and kept in `vars`"))
    }

    /// The parameters used so far that have a gradient, in order: the variables for [`Tape::grad`].
    #[must_use]
    pub fn leaves(&self) -> Vec<(ParamId, Var)> {
        let used = self.params.iter().zip(&self.vars).filter_map(|((id, _), var)| Some((id, &var.as_ref()?.leaf)));
        used.filter(|(_, leaf)| leaf.has_grad()).map(|(id, leaf)| (id, leaf.clone())).collect()
    }

    /// Keeps `y` if the convolution with these filters is tapped.
    pub(super) fn passed_conv(&mut self, weight: ParamId, y: &Var) {
        if self.tap.as_ref().is_some_and(|tap| self.params[weight].module() == tap.module) {
            self.passed(y);
        }
    }

    /// Keeps `y` if the block of this name is tapped.
    pub(super) fn passed_block(&mut self, name: &str, y: &Var) {
        if self.tap.as_ref().is_some_and(|tap| name == tap.module) {
            self.passed(y);
        }
    }

    fn passed(&mut self, y: &Var) {
        if let Some(tap) = &mut self.tap {
            tap.output = Some(y.clone());
        }
    }

    /// Counts one batch, in training mode.
    pub(super) fn count_batch(&mut self) {
        if let (Mode::Train { .. }, false) = (self.mode, self.again) {
            self.params.batches += 1;
        }
    }

    /// Two running statistics, unless this run repeats one that has already updated them.
    pub(super) fn running(&mut self, ids: [ParamId; 2]) -> Option<[&mut Tensor; 2]> {
        if self.again { None } else { Some(self.params.two_mut(ids)) }
    }
}
