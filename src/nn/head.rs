//! What follows a trunk: a projection to codes of unit length, or a classifier.

use super::backbone::{Trunk, steps};
use super::build::Builder;
use super::nets::Net;
use super::norm::Norm;
use super::params::{Param, ParamId, Params, Role};
use super::pass::Pass;
use crate::error::{Error, Result};
use crate::ops;
use crate::tape::Var;
use crate::tensor::{DType, Tensor};
use rand::{Rng, RngExt};

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

/// Description of a projection head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HeadSpec {
    /// Width of the hidden layer. The release uses the number of features.
    pub hidden: usize,
    /// Length of a code.
    pub code: usize,
    /// Whether there is batch norm before the ReLU, which networks with random initial weights need
    /// ([`ProjectionHead::normalised`]); the release has none.
    pub normalised: bool,
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

/// A trunk with a projection head: one pathway of MaCLR, for queries and for keys. It may have a second head for codes of
/// single time steps.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Clips to features.
    pub trunk: Trunk,
    /// Features to codes.
    pub head: ProjectionHead,
    steps: Option<StepHead>,
}

/// The head for time steps, and the module whose output it reads.
#[derive(Clone, Debug)]
struct StepHead {
    module: String,
    head: ProjectionHead,
    /// Into how many parts time is divided; all steps of the module's output if it is absent.
    parts: Option<usize>,
}

impl Encoder {
    /// Name of the head for time steps.
    pub const STEPS: &str = "head.steps";

    /// The encoder and its initial parameters, drawn from `seed`.
    ///
    /// # Errors
    /// `Param` when `hidden` or `code` is 0.
    pub fn new(net: &Net, hidden: usize, code: usize, seed: u64) -> Result<(Encoder, Params)> {
        Self::with_heads(net, HeadSpec { hidden, code, normalised: false }, None, seed)
    }

    /// As [`Encoder::new`], with a [normalised](ProjectionHead::normalised) head.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn normalised(net: &Net, hidden: usize, code: usize, seed: u64) -> Result<(Encoder, Params)> {
        Self::with_heads(net, HeadSpec { hidden, code, normalised: true }, None, seed)
    }

    /// As [`Encoder::new`], with a head for codes of time steps if `steps` describes one. It reads the output of the last block of
    /// the last stage but one, where more of time is left than at the top ([`Net::below_top`]).
    ///
    /// # Errors
    /// As [`Encoder::new`]; `Param` when there is to be a head for time steps and the network has no block.
    pub fn with_heads(net: &Net, head: HeadSpec, steps: Option<HeadSpec>, seed: u64) -> Result<(Encoder, Params)> {
        for spec in [Some(head), steps].into_iter().flatten() {
            let HeadSpec { hidden, code, .. } = spec;
            if hidden == 0 || code == 0 {
                let value = format!("({hidden}, {code})");
                return Err(Error::param("projection head", "(hidden, code)", value, "both must be at least 1"));
            }
        }
        let mut b = Builder::new(seed);
        let trunk = Trunk::new(net, &mut b);
        let new = |b: &mut Builder, name: &str, features: usize, spec: HeadSpec| {
            let HeadSpec { hidden, code, normalised } = spec;
            let start = |i: usize| Start::Normal(if normalised { (i as f64).powf(-0.5) } else { DEVIATION });
            ProjectionHead::named(b, name, [features, hidden, code], [features, hidden].map(start), normalised)
        };
        let head = new(&mut b, ProjectionHead::NAME, trunk.features_dim(), head);
        let steps = match steps {
            None => None,
            Some(spec) => {
                let (module, features) = net.below_top()?;
                Some(StepHead { module, head: new(&mut b, Self::STEPS, features, spec), parts: None })
            }
        };
        Ok((Encoder { trunk, head, steps }, b.finish()))
    }

    /// The same encoder with codes of `parts` equal parts of a clip's time instead of each step, if it has a head for them: for two
    /// networks whose outputs have different numbers of steps.
    #[must_use]
    pub fn dividing_time(mut self, parts: usize) -> Encoder {
        if let Some(steps) = &mut self.steps {
            steps.parts = Some(parts);
        }
        self
    }

    /// The module that the head for time steps reads, if there is one.
    #[must_use]
    pub fn steps_module(&self) -> Option<&str> {
        self.steps.as_ref().map(|steps| steps.module.as_str())
    }

    /// The number of time steps that the head for them has codes of, for clips of `t h w`; 0 if there is no such head.
    ///
    /// # Errors
    /// `Param` when a kernel does not fit.
    pub fn steps(&self, params: &Params, clip: [usize; 3]) -> Result<usize> {
        let Some(module) = self.steps_module() else { return Ok(0) };
        if let Some(parts) = self.steps.as_ref().and_then(|steps| steps.parts) {
            return Ok(parts);
        }
        let grids = self.trunk.grids(params, clip)?;
        Ok(grids.iter().find(|grid| grid.module == module).map_or(0, |grid| grid.extents[0]))
    }

    /// Clips `x[n t h w c]` to unit codes `[n d]`.
    ///
    /// # Errors
    /// As [`Trunk::forward_map`].
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let features = self.trunk.forward(pass, x)?;
        self.head.forward(pass, &features)
    }

    /// The unit codes `[n·t d]` of the time steps of the clips that went through `pass` last, those of a clip in the order of
    /// time. The pass must have [tapped](Pass::tapping) [`Encoder::steps_module`].
    ///
    /// # Errors
    /// `Param` without a head for time steps, when its module was not tapped, or when its time cannot be divided.
    pub fn codes_of_steps(&self, pass: &mut Pass) -> Result<Var> {
        let missing = |rule: &str| Error::param("encoder", "steps", "absent", rule);
        let of = self.steps.as_ref().ok_or_else(|| missing("the encoder has no head for time steps"))?;
        let map = pass.tapped().ok_or_else(|| missing("the pass must tap the module of the head for time steps"))?;
        let [_, t, ..] = map.shape().nthwc("encoder", "map")?;
        let rows = steps(pass, &map, of.parts.unwrap_or(t))?;
        of.head.forward(pass, &rows)
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

    /// Copies the weights and running statistics of `trunk` into the trunk of `params`, which belong to this classifier.
    ///
    /// # Errors
    /// `Param` unless `trunk` has the parameters of this classifier's trunk, in their order; nothing is changed then.
    pub fn start_from(params: &mut Params, trunk: &Params) -> Result<()> {
        let fits = |((_, to), (_, from)): ((_, &Param), (_, &Param))| {
            (to.role, to.value.shape()) == (from.role, from.value.shape())
        };
        // Behind the trunk there are the weight and the bias of the linear layer.
        if params.len() != trunk.len() + 2 || !params.iter().zip(trunk.iter()).all(fits) {
            return Err(Error::param("classifier", "trunk", trunk.len(), "these are the parameters of another trunk"));
        }
        for ((_, to), (_, from)) in params.iter_mut().zip(trunk.iter()) {
            to.value = from.value.clone();
        }
        params.batches = trunk.batches;
        Ok(())
    }

    /// Clips `x[n t h w c]` to one logit per class, `[n classes]`, f32 in every precision.
    ///
    /// # Errors
    /// As [`Trunk::forward_map`].
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let features = self.trunk.forward(pass, x)?;
        self.logits(pass, &features)
    }

    /// The last feature map `[n t h w c]` of clips ([`Trunk::forward_map`]) to logits `[n classes]`.
    ///
    /// # Errors
    /// As [`Classifier::logits`].
    pub fn logits_of_map(&self, pass: &mut Pass, map: &Var) -> Result<Var> {
        let features = ops::global_avg_pool(pass.tape(), map)?;
        self.logits(pass, &features)
    }

    /// Features `[n c]` to logits `[n classes]`, f32 in every precision.
    ///
    /// # Errors
    /// `Shape` when the features are not the trunk's.
    pub fn logits(&self, pass: &mut Pass, features: &Var) -> Result<Var> {
        let logits = self.linear.forward(pass, features)?;
        ops::cast(pass.tape(), &logits, DType::F32)
    }
}

/// Dropout (Srivastava et al. 2014): each of the features `[n c]` is 0 with probability `rate`, and the others are divided by
/// `1 - rate`, so that their expectation is unchanged. At a rate of 0 the features are returned.
///
/// # Errors
/// `Param` unless `rate` is from 0 on and below 1; on a GPU `OutOfMemory` and `Driver`.
pub fn dropout(pass: &Pass, features: &Var, rate: f32, rng: &mut impl Rng) -> Result<Var> {
    if !(0.0..1.0).contains(&rate) {
        return Err(Error::param("dropout", "rate", rate, "it must be from 0 on and below 1"));
    }
    if rate == 0.0 {
        return Ok(features.clone());
    }
    let mut one = || if rng.random::<f32>() < rate { 0.0 } else { 1.0 / (1.0 - rate) };
    let mask: Vec<f32> = (0..features.shape().len()).map(|_| one()).collect();
    let mask = Tensor::from_f32(features.shape(), &mask)?.to(&features.value().device())?;
    ops::mul(pass.tape(), features, &Var::constant(mask.cast(features.value().dtype())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Mode, SmallR3d};
    use crate::rng::{Purpose, stream};
    use crate::tape::Tape;

    #[test]
    fn dropout_zeroes_its_share_and_keeps_the_expectation_and_its_gradient_is_its_mask() {
        let (tape, mut params) = (Tape::new(), Params::new());
        let pass = Pass::new(&tape, &mut params, Mode::Eval);
        let x = tape.leaf(Tensor::full([100, 100], 2.0));
        let y = dropout(&pass, &x, 0.75, &mut stream(0, 0, 0, Purpose::Test)).unwrap();
        let values = y.value().load().unwrap().into_owned();
        let zeros = values.iter().filter(|v| **v == 0.0).count();
        assert!(values.iter().all(|v| [0.0, 8.0].contains(v)));
        // Of 10,000 draws 7,500 are expected, with a deviation of 43.
        assert!((7300..7700).contains(&zeros), "{zeros}");
        let sum = ops::sum_to(&tape, &y, crate::shape::Shape::from([1, 1])).unwrap();
        let grad = tape.grad(&sum, &[&x], crate::tape::Mode::Free).unwrap().remove(0).unwrap();
        assert!(grad.value().load().unwrap().iter().zip(&values).all(|(g, v)| *g == v / 2.0));
        let other = dropout(&pass, &x, 0.75, &mut stream(1, 0, 0, Purpose::Test)).unwrap();
        assert_ne!(other.value().load().unwrap()[..], values[..]);
        assert_eq!(
            dropout(&pass, &x, 0.0, &mut stream(0, 0, 0, Purpose::Test)).unwrap().value().load().unwrap()[0],
            2.0
        );
        for rate in [1.0, -0.1, f32::NAN] {
            assert!(dropout(&pass, &x, rate, &mut stream(0, 0, 0, Purpose::Test)).is_err());
        }
    }

    #[test]
    fn a_classifier_starts_from_its_own_trunk_and_no_other() {
        let net = SmallR3d::default().net().unwrap();
        let (_, trunk) = Trunk::with_params(&net, 3);
        let (_, mut params) = Classifier::new(&net, 5, 0).unwrap();
        Classifier::start_from(&mut params, &trunk).unwrap();
        let same = |(a, b): (&Param, &Param)| a.name == b.name && a.value.load().unwrap() == b.value.load().unwrap();
        assert!(trunk.iter().zip(params.iter()).all(|((_, a), (_, b))| same((a, b))));
        let other = Trunk::with_params(&SmallR3d { widths: vec![4; 3], ..SmallR3d::default() }.net().unwrap(), 0).1;
        assert!(Classifier::start_from(&mut params, &other).is_err());
        assert!(Classifier::start_from(&mut params.clone(), &params).is_err(), "a classifier is no trunk");
    }
}
