//! What follows a trunk: a projection to codes of unit length, or a classifier.

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

/// Standard deviation of the initial weights of linear layers (`docs/papers/maclr.md` section 2.1).
const DEVIATION: f64 = 0.01;

/// How a linear layer starts.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// Weights normal with this standard deviation, biases 0.
    Normal(f64),
    /// Weights and biases uniform within `± 1 / √inputs`, as in PyTorch's `Linear`.
    Uniform,
}

/// `x W' + b`.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    weight: ParamId,
    bias: ParamId,
}

impl Linear {
    /// A layer from `i` to `o` numbers.
    pub(super) fn new(b: &mut Builder, name: &str, i: usize, o: usize, start: Start) -> Self {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        match start {
            Start::Normal(deviation) => Linear {
                weight: b.linear_weight(&weight, [o, i], deviation),
                bias: b.constant(&bias, o, 0.0, Role::Bias),
            },
            Start::Uniform => Linear {
                weight: b.uniform(&weight, [o, i].into(), i, Role::LinearWeight),
                bias: b.uniform(&bias, [o].into(), i, Role::Bias),
            },
        }
    }

    pub(super) fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let (w, b) = (pass.var(self.weight)?, pass.var(self.bias)?);
        ops::linear(pass.tape(), x, &w, Some(&b))
    }
}

/// MaCLR's head (`docs/papers/maclr.md` section 2.2): linear, ReLU, linear, then each row scaled to unit length; with
/// biases, without normalisation in between. Small networks trained from scratch do better with batch norm before the
/// ReLU ([`ProjectionHead::normalised`]).
#[derive(Clone, Debug)]
pub struct ProjectionHead {
    hidden: Linear,
    norm: Option<Norm>,
    code: Linear,
}

impl ProjectionHead {
    /// Name of MaCLR's head.
    pub const NAME: &str = "head.projection";

    /// A head from `features` by way of `hidden` to `code` numbers, with the names `head.projection.0` and
    /// `head.projection.2`.
    pub fn new(b: &mut Builder, features: usize, hidden: usize, code: usize) -> Self {
        Self::named(b, Self::NAME, [features, hidden, code], [Start::Normal(DEVIATION); 2], false)
    }

    /// The same with batch norm between the linear layer and the ReLU, as `head.projection.1`, and weights of standard
    /// deviation `1 / √inputs`. Codes have unit length, so the smaller MaCLR's weights are, the larger its first steps
    /// are in relation to them: small networks then spend their first epochs with nearly equal codes.
    pub fn normalised(b: &mut Builder, features: usize, hidden: usize, code: usize) -> Self {
        let starts = [features, hidden].map(|i| Start::Normal((i as f64).powf(-0.5)));
        Self::named(b, Self::NAME, [features, hidden, code], starts, true)
    }

    /// A head of `features`, `hidden` and `code` numbers with the names `name.0`, `.1` (if `normalised`) and `.2`;
    /// its two linear layers start as `starts` say.
    pub(super) fn named(
        b: &mut Builder,
        name: &str,
        [features, hidden, code]: [usize; 3],
        starts: [Start; 2],
        normalised: bool,
    ) -> Self {
        ProjectionHead {
            hidden: Linear::new(b, &format!("{name}.0"), features, hidden, starts[0]),
            norm: normalised.then(|| Norm::new(b, &format!("{name}.1"), hidden, 1.0)),
            code: Linear::new(b, &format!("{name}.2"), hidden, code, starts[1]),
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

/// A trunk with a projection head: one pathway of MaCLR, for queries and for keys.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Clips to features.
    pub trunk: Trunk,
    /// Features to codes.
    pub head: ProjectionHead,
}

impl Encoder {
    /// The encoder and its initial parameters, drawn from `seed`.
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
    /// The classifier and its initial parameters, drawn from `seed`.
    ///
    /// # Errors
    /// `Param` when `classes` is 0.
    pub fn new(net: &Net, classes: usize, seed: u64) -> Result<(Classifier, Params)> {
        if classes == 0 {
            return Err(Error::param("classifier", "classes", classes, "there must be at least 1"));
        }
        let mut b = Builder::new(seed);
        let trunk = Trunk::new(net, &mut b);
        let linear =
            Linear::new(&mut b, net.naming.classifier(), trunk.features_dim(), classes, Start::Normal(DEVIATION));
        Ok((Classifier { trunk, linear }, b.finish()))
    }

    /// Clips `x[n t h w c]` to one logit per class, `[n classes]`, f32 in every precision.
    ///
    /// # Errors
    /// As [`Trunk::forward_map`].
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let features = self.trunk.forward(pass, x)?;
        let logits = self.linear.forward(pass, &features)?;
        ops::cast(pass.tape(), &logits, DType::F32)
    }
}
