//! MCL's network: a trunk with three heads, and a classifier of the order of clips (`docs/papers/mcl.md` section 2.3).

use super::backbone::Trunk;
use super::build::Builder;
use super::head::{HeadSpec, Linear, ProjectionHead, Start};
use super::nets::Net;
use super::params::Params;
use super::pass::Pass;
use crate::error::{Error, Result};
use crate::ops;
use crate::shape::Shape;
use crate::tape::Var;
use crate::tensor::{DType, Tensor};

/// The three codes of each clip, rows of unit length, f32 in every precision.
#[derive(Clone)]
pub struct Codes {
    /// `[n d]`, contrasted with the clips of other videos.
    pub inter: Var,
    /// `[n d]`, contrasted with other clips of the same video.
    pub intra: Var,
    /// `[n d]`, from which the order of clips is predicted.
    pub order: Var,
}

/// A trunk with MCL's heads `inter`, `intra` and `order`, and the classifier that predicts from the order codes of
/// three clips whether the query came first. Parameters have the names of MCL's release, those of the trunk the names
/// of its [`Net`].
#[derive(Clone, Debug)]
pub struct MclEncoder {
    /// Clips to features.
    pub trunk: Trunk,
    inter: ProjectionHead,
    intra: ProjectionHead,
    order: ProjectionHead,
    classifier: Linear,
}

impl MclEncoder {
    /// Names of the heads `inter`, `intra` and `order`.
    pub const HEADS: [&str; 3] = ["nce_inter_head.head", "nce_intra_head.head", "order_head.head"];

    /// Name and classes of the order classifier: the query is after both keys, or before them. The release spells it
    /// this way.
    pub const ORDER: (&str, usize) = ("order_classfier.fc", 2);

    /// The encoder and its initial parameters, drawn from `seed`. Weights of linear layers are normal with standard
    /// deviation `1 / √(3 inputs)`, that of PyTorch's uniform initialisation, or `1 / √inputs` in normalised heads;
    /// biases are 0.
    ///
    /// # Errors
    /// `Param` when `hidden` or `code` is 0.
    pub fn new(net: &Net, heads: HeadSpec, seed: u64) -> Result<(MclEncoder, Params)> {
        let share = if heads.normalised { 1.0 } else { 3.0 };
        let normal = |share: f64, inputs: usize| Start::Normal((share * inputs as f64).powf(-0.5));
        Self::starting(net, heads, seed, |inputs| normal(share, inputs), |inputs| normal(3.0, inputs))
    }

    /// The same with linear layers that start as those of PyTorch and of the release: weights and biases uniform within
    /// `± 1 / √inputs`.
    ///
    /// # Errors
    /// As [`MclEncoder::new`].
    pub fn uniform(net: &Net, heads: HeadSpec, seed: u64) -> Result<(MclEncoder, Params)> {
        Self::starting(net, heads, seed, |_| Start::Uniform, |_| Start::Uniform)
    }

    /// With layers of the heads, and the classifier, that start as `of_heads` and `last` say for a number of inputs.
    fn starting(
        net: &Net,
        heads: HeadSpec,
        seed: u64,
        of_heads: impl Fn(usize) -> Start,
        last: impl Fn(usize) -> Start,
    ) -> Result<(MclEncoder, Params)> {
        let HeadSpec { hidden, code, normalised } = heads;
        if hidden == 0 || code == 0 {
            let value = format!("({hidden}, {code})");
            return Err(Error::param("mcl heads", "(hidden, code)", value, "both must be at least 1"));
        }
        let mut b = Builder::new(seed);
        let trunk = Trunk::new(net, &mut b);
        let features = trunk.features_dim();
        let starts = [features, hidden].map(of_heads);
        let mut head = |name| ProjectionHead::named(&mut b, name, [features, hidden, code], starts, normalised);
        let [inter, intra, order] = Self::HEADS.map(&mut head);
        let (name, orders) = Self::ORDER;
        let classifier = Linear::new(&mut b, name, 3 * code, orders, last(3 * code));
        Ok((MclEncoder { trunk, inter, intra, order, classifier }, b.finish()))
    }

    /// Clips `x[n t h w c]` to their codes.
    ///
    /// # Errors
    /// As [`Trunk::forward_map`].
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Codes> {
        let features = self.trunk.forward(pass, x)?;
        Ok(Codes {
            inter: self.inter.forward(pass, &features)?,
            intra: self.intra.forward(pass, &features)?,
            order: self.order.forward(pass, &features)?,
        })
    }

    /// Logits for the order of clips with these `[n d]` order codes: `[n 2]`, one per value of the order bit of
    /// `docs/papers/mcl.md` section 1.4 (0: the query after both keys, 1: before). The three codes are concatenated,
    /// scaled to unit length, and passed through a linear layer; keys are constants.
    ///
    /// # Errors
    /// `Shape` when the codes differ in shape, or do not have the heads' length.
    pub fn classify(&self, pass: &mut Pass, q_order: &Var, k2: &Tensor, k3: &Tensor) -> Result<Var> {
        let t = pass.tape();
        let [n, d] = q_order.shape().matrix("order classifier", "q_order")?;
        for (name, k) in [("k2", k2), ("k3", k3)] {
            if k.shape() != q_order.shape() {
                return Err(Error::shape("order classifier", name, q_order.shape(), k.shape()));
            }
        }
        let device = q_order.value().device();
        let number = |v: f32| Tensor::full_on(&device, [1], v);
        let (zero, one) = (number(0.0)?, number(1.0)?);
        let mut all: Option<Var> = None;
        let codes = [q_order.clone(), Var::constant(k2.clone()), Var::constant(k3.clone())];
        for (i, code) in codes.iter().enumerate() {
            // One at position `i` of three, assembled on the device of the codes, so that a recorded step uploads
            // nothing.
            let at: Vec<&Tensor> = (0..3).map(|j| if i == j { &one } else { &zero }).collect();
            let at = Var::constant(Tensor::collect(&at)?.reshape([1, 3, 1])?);
            let placed = ops::mul(t, &ops::reshape(t, code, Shape::from([n, 1, d]))?, &at)?;
            all = Some(match all {
                Some(sum) => ops::add(t, &sum, &placed)?,
                None => placed,
            });
        }
        let Some(all) = all else { unreachable!("three codes") };
        let side_by_side = ops::reshape(t, &all, Shape::from([n, 3 * d]))?;
        let unit = ops::cast(t, &ops::l2_norm(t, &side_by_side)?, pass.dtype())?;
        let logits = self.classifier.forward(pass, &unit)?;
        ops::cast(t, &logits, DType::F32)
    }
}
