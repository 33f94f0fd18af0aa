//! What stands on a trunk: a projection to unit codes, or a classifier.

use super::backbone::Trunk;
use super::build::Builder;
use super::nets::Net;
use super::norm::Norm;
use super::params::{ParamId, Params, Role};
use super::pass::Pass;
use crate::error::{Error, Result};
use crate::ops;
use crate::tape::Var;
use crate::tensor::DType;

/// Standard deviation of the first weights of linear layers (maclr.md 2.1).
const DEVIATION: f64 = 0.01;
/// Name of MaCLR's head.
const NAME: &str = "head.projection";

/// `x W' + b`.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    weight: ParamId,
    bias: ParamId,
}

impl Linear {
    /// From `i` to `o` numbers, weights drawn with standard deviation `deviation`.
    pub(super) fn new(b: &mut Builder, name: &str, i: usize, o: usize, deviation: f64) -> Self {
        Linear {
            weight: b.linear_weight(&format!("{name}.weight"), [o, i], deviation),
            bias: b.constant(&format!("{name}.bias"), o, 0.0, Role::Bias),
        }
    }

    pub(super) fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let (w, b) = (pass.var(self.weight)?, pass.var(self.bias)?);
        ops::linear(pass.tape(), x, &w, Some(&b))
    }
}

/// MaCLR's head (maclr.md 2.2): linear, ReLU, linear, each row to unit length; biases, no normalisation between. Small
/// networks trained from scratch do better with batch normalisation before the ReLU ([`ProjectionHead::normalised`]).
#[derive(Clone, Debug)]
pub struct ProjectionHead {
    hidden: Linear,
    norm: Option<Norm>,
    code: Linear,
}

impl ProjectionHead {
    /// From `features` over `hidden` to `code` numbers, with the names `head.projection.0` and `head.projection.2`.
    pub fn new(b: &mut Builder, features: usize, hidden: usize, code: usize) -> Self {
        Self::named(b, NAME, [features, hidden, code], [DEVIATION; 2], false)
    }

    /// The same with batch normalisation between the linear layer and the ReLU, as `head.projection.1`, and weights drawn
    /// with standard deviation `1 / √inputs`. Codes have unit length, so weights as small as MaCLR's make first steps as
    /// large: small networks then spend their first epochs with nearly equal codes.
    pub fn normalised(b: &mut Builder, features: usize, hidden: usize, code: usize) -> Self {
        Self::named(b, NAME, [features, hidden, code], [features, hidden].map(|i| (i as f64).powf(-0.5)), true)
    }

    /// `features`, `hidden` and `code` with the names `name.0`, `.1` (where `normalised`) and `.2`; the `deviations` of the
    /// first weights of the two linear layers.
    pub(super) fn named(
        b: &mut Builder,
        name: &str,
        [features, hidden, code]: [usize; 3],
        deviations: [f64; 2],
        normalised: bool,
    ) -> Self {
        ProjectionHead {
            hidden: Linear::new(b, &format!("{name}.0"), features, hidden, deviations[0]),
            norm: normalised.then(|| Norm::new(b, &format!("{name}.1"), hidden, 1.0)),
            code: Linear::new(b, &format!("{name}.2"), hidden, code, deviations[1]),
        }
    }

    /// Features `x[n c]` to unit codes `[n d]`, f32 in every precision.
    ///
    /// # Errors
    /// `Shape` when `x` has other columns than the head's features.
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let t = pass.tape();
        let hidden = self.hidden.forward(pass, x)?;
        let hidden = match &self.norm {
            Some(norm) => norm.forward(pass, &hidden, None, None, true)?.value(t)?,
            None => ops::relu(t, &hidden)?,
        };
        let code = self.code.forward(pass, &hidden)?;
        ops::l2_norm(t, &ops::cast(t, &code, DType::F32)?)
    }
}

/// A trunk with a projection head: one pathway of MaCLR, for queries and keys alike.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Clips to features.
    pub trunk: Trunk,
    /// Features to codes.
    pub head: ProjectionHead,
}

impl Encoder {
    /// The encoder and its first parameters, drawn from `seed`.
    ///
    /// # Errors
    /// `Param` when `hidden` or `code` is 0.
    pub fn new(net: &Net, hidden: usize, code: usize, seed: u64) -> Result<(Encoder, Params)> {
        Self::with_head(net, hidden, code, seed, ProjectionHead::new)
    }

    /// As [`Encoder::new`], with a [normalised](ProjectionHead::normalised) head.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn normalised(net: &Net, hidden: usize, code: usize, seed: u64) -> Result<(Encoder, Params)> {
        Self::with_head(net, hidden, code, seed, ProjectionHead::normalised)
    }

    fn with_head(
        net: &Net,
        hidden: usize,
        code: usize,
        seed: u64,
        head: impl Fn(&mut Builder, usize, usize, usize) -> ProjectionHead,
    ) -> Result<(Encoder, Params)> {
        if hidden == 0 || code == 0 {
            let value = format!("({hidden}, {code})");
            return Err(Error::param("projection head", "(hidden, code)", value, "both must be at least 1"));
        }
        let mut b = Builder::new(seed);
        let trunk = Trunk::new(net, &mut b);
        let head = head(&mut b, trunk.features_dim(), hidden, code);
        Ok((Encoder { trunk, head }, b.finish()))
    }

    /// Clips `x[n t h w c]` to unit codes `[n d]`.
    ///
    /// # Errors
    /// As [`Trunk::forward_map`].
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let features = self.trunk.forward(pass, x)?;
        self.head.forward(pass, &features)
    }
}

/// A trunk with a linear classifier.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// Clips to features.
    pub trunk: Trunk,
    linear: Linear,
}

impl Classifier {
    /// The classifier and its first parameters, drawn from `seed`.
    ///
    /// # Errors
    /// `Param` when `classes` is 0.
    pub fn new(net: &Net, classes: usize, seed: u64) -> Result<(Classifier, Params)> {
        if classes == 0 {
            return Err(Error::param("classifier", "classes", classes, "there must be at least 1"));
        }
        let mut b = Builder::new(seed);
        let trunk = Trunk::new(net, &mut b);
        let linear = Linear::new(&mut b, net.naming.classifier(), trunk.features_dim(), classes, DEVIATION);
        Ok((Classifier { trunk, linear }, b.finish()))
    }

    /// Clips `x[n t h w c]` to one number a class, `[n classes]`, f32 in every precision.
    ///
    /// # Errors
    /// As [`Trunk::forward_map`].
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let features = self.trunk.forward(pass, x)?;
        let logits = self.linear.forward(pass, &features)?;
        ops::cast(pass.tape(), &logits, DType::F32)
    }
}
