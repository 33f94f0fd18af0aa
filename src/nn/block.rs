//! The block that all networks are made of: convolutions followed by normalisations, with or without a shortcut.

use super::build::Builder;
use super::conv::{Conv, ConvSpec};
use super::norm::Norm;
use super::params::{ParamId, Params};
use super::pass::{Mode, Pass};
use super::recompute::{self, Segment};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::ops::batch_norm::Moments;
use crate::ops::conv3d::Conv3d;
use crate::tape::Var;
use std::sync::Arc;

/// Names of a convolution and of its normalisation; `None` where the next convolution follows directly.
pub type Names = (String, Option<String>);

/// A convolution, then a normalisation (and what is fused into it). Where two convolutions share one normalisation, the
/// first is a step without one.
#[derive(Clone, Debug)]
pub struct ConvNorm {
    conv: Conv,
    norm: Option<Norm>,
}

impl ConvNorm {
    /// A step from `c` channels; `scale` is the initial scale of the normalisation.
    pub fn new(b: &mut Builder, names: &Names, c: usize, step: ConvSpec, scale: f32) -> Self {
        ConvNorm {
            conv: Conv::new(b, &names.0, c, step),
            norm: names.1.as_ref().map(|name| Norm::new(b, name, step.out, scale)),
        }
    }

    /// The convolution's name.
    pub(super) fn module<'p>(&self, params: &'p Params) -> &'p str {
        params[self.conv.weight()].module()
    }

    /// The extents of its convolution for `n` clips, where its input has extents `t h w`.
    pub(super) fn problem(&self, params: &Params, n: usize, from: [usize; 3]) -> Result<Conv3d> {
        self.conv.problem(params, n, from)
    }

    /// Its filters.
    pub(super) fn weight(&self) -> ParamId {
        self.conv.weight()
    }

    /// All parameters it reads.
    pub(super) fn ids(&self) -> impl Iterator<Item = ParamId> {
        [self.conv.weight()].into_iter().chain(self.norm.iter().flat_map(Norm::ids))
    }

    /// `norm(conv(x)) + residual`, then ReLU if `relu`; `x[n t h w c]` to `[n to ho wo k]`. Without a normalisation it is
    /// `conv(x)` alone.
    ///
    /// # Errors
    /// As [`Conv::forward`] and [`Norm::forward`].
    pub fn forward(&self, pass: &mut Pass, x: &Activation, residual: Option<&Var>, relu: bool) -> Result<Activation> {
        let (y, moments) = self.convolve(pass, x)?;
        match &self.norm {
            Some(norm) => norm.forward(pass, &y, moments, residual, relu),
            None => Ok((&y).into()),
        }
    }

    /// The convolution, with the moments of its result if a normalisation by batch statistics follows.
    fn convolve(&self, pass: &mut Pass, x: &Activation) -> Result<(Var, Option<Moments>)> {
        match (&self.norm, pass.mode()) {
            (Some(norm), Mode::Train { parts }) => {
                let near = pass.params()[norm.mean()].value.clone();
                self.conv.forward_with_moments(pass, x, &near, parts)
            }
            _ => Ok((self.conv.forward(pass, x)?, None)),
        }
    }
}

#[derive(Clone, Debug)]
enum Shortcut {
    None,
    Identity,
    /// A 1x1x1 convolution with the strides of the path, where channels or extents change.
    Projection(ConvNorm),
}

/// A path of [`ConvNorm`]s with ReLU after each; the shortcut, if there is one, is added before the last ReLU. Basic,
/// bottleneck and (2+1)D blocks differ only in their steps.
#[derive(Clone, Debug)]
pub struct Block {
    name: String,
    inside: Arc<Inside>,
}

#[derive(Debug)]
struct Inside {
    path: Vec<ConvNorm>,
    last: ConvNorm,
    shortcut: Shortcut,
}

impl Inside {
    /// Its convolutions, in the order of the forward pass.
    fn convs(&self) -> impl Iterator<Item = &ConvNorm> {
        let projection = match &self.shortcut {
            Shortcut::Projection(p) => Some(p),
            _ => None,
        };
        self.path.iter().chain(projection).chain([&self.last])
    }
}

impl Segment for Inside {
    fn run(&self, pass: &mut Pass, first: &Activation, last: &Activation) -> Result<Activation> {
        let mut y = first.clone();
        for step in &self.path {
            y = step.forward(pass, &y, None, true)?;
        }
        let tape = pass.tape();
        let residual = match &self.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(last.value(tape)?),
            Shortcut::Projection(p) => Some(p.forward(pass, last, None, false)?.value(tape)?),
        };
        // The next block reads it twice.
        self.last.forward(pass, &y, residual.as_ref(), true)?.stored(tape)
    }

    fn ids(&self) -> Vec<ParamId> {
        self.convs().flat_map(ConvNorm::ids).collect()
    }
}

/// The output of a module for one clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The module's name.
    pub module: String,
    /// Output extents `t h w`.
    pub extents: [usize; 3],
    /// Output channels.
    pub channels: usize,
}

impl Grid {
    /// The output of a convolution.
    pub(super) fn of(module: &str, problem: &Conv3d) -> Self {
        Grid { module: module.to_owned(), extents: problem.out(), channels: problem.k() }
    }
}

/// Modules in the order of the forward pass; convolutions with their extents.
pub(super) type Walk = Vec<(Grid, Option<Conv3d>)>;

/// Description of a block.
pub(super) struct BlockSpec {
    /// Its name.
    pub name: String,
    /// The path without its last step.
    pub path: Vec<(Names, ConvSpec)>,
    /// The last step of the path.
    pub last: (Names, ConvSpec),
    /// Names of the projection; `None` for a block without shortcut.
    pub shortcut: Option<Names>,
    /// Initial scale of the last normalisation: with 0 the block is initially its shortcut alone.
    pub last_scale: f32,
}

/// What is added to the result of a block's path.
pub(super) enum Bypass<'a> {
    None,
    Identity,
    /// A 1x1x1 convolution with a normalisation.
    Projection(&'a Names, ConvSpec),
}

impl BlockSpec {
    /// The shortcut of a block from `c` channels: its input, projected where channels or extents change.
    pub(super) fn bypass(&self, c: usize) -> Bypass<'_> {
        let BlockSpec { path, last: (_, last), .. } = self;
        let steps = path.iter().map(|(_, step)| step).chain([last]);
        let stride = steps.fold([1; 3], |s, step| [0, 1, 2].map(|a| s[a] * step.stride[a]));
        match &self.shortcut {
            None => Bypass::None,
            Some(_) if c == last.out && stride == [1; 3] => Bypass::Identity,
            Some(names) => Bypass::Projection(names, ConvSpec { out: last.out, kernel: [1; 3], stride }),
        }
    }
}

impl Block {
    /// A block from `c` channels, as described by `spec`.
    pub(super) fn new(b: &mut Builder, c: usize, spec: &BlockSpec) -> Self {
        let BlockSpec { path, last: (last_names, last), .. } = spec;
        let shortcut = match spec.bypass(c) {
            Bypass::None => Shortcut::None,
            Bypass::Identity => Shortcut::Identity,
            Bypass::Projection(names, step) => Shortcut::Projection(ConvNorm::new(b, names, c, step, 1.0)),
        };
        let mut c = c;
        let path = path
            .iter()
            .map(|(names, step)| ConvNorm::new(b, names, std::mem::replace(&mut c, step.out), *step, 1.0))
            .collect();
        let last = ConvNorm::new(b, last_names, c, *last, spec.last_scale);
        Block { name: spec.name.clone(), inside: Arc::new(Inside { path, last, shortcut }) }
    }

    /// `x[n t h w c]` to `[n to ho wo k]`, with the result computed and stored.
    ///
    /// # Errors
    /// As [`ConvNorm::forward`].
    pub fn forward(&self, pass: &mut Pass, x: &Activation) -> Result<Activation> {
        let inside = &self.inside;
        let y = if pass.recomputes(inside.convs().map(ConvNorm::weight)) {
            recompute::forward(inside, pass, x)
        } else {
            inside.run(pass, x, x)
        }?;
        pass.passed_block(&self.name, &y.value(pass.tape())?);
        Ok(y)
    }

    /// Names of the modules in it that can be tapped, in the order of the forward pass: its convolutions, then itself.
    pub(super) fn modules(&self, params: &Params) -> Vec<String> {
        let convs = self.inside.convs();
        convs.map(|c| c.module(params).to_owned()).chain([self.name.clone()]).collect()
    }

    /// Appends the modules in it that can be tapped to `list`, in the order of the forward pass: its convolutions, each
    /// with its extents for `n` clips, then itself. Takes the input's extents `t h w` and returns the output's.
    pub(super) fn walk(&self, params: &Params, n: usize, from: [usize; 3], list: &mut Walk) -> Result<[usize; 3]> {
        let mut put = |conv: &ConvNorm, from| {
            let problem = conv.problem(params, n, from)?;
            list.push((Grid::of(conv.module(params), &problem), Some(problem)));
            Ok::<_, Error>((problem.out(), problem.k()))
        };
        let mut at = from;
        for conv in &self.inside.path {
            at = put(conv, at)?.0;
        }
        if let Shortcut::Projection(conv) = &self.inside.shortcut {
            put(conv, from)?;
        }
        let (extents, channels) = put(&self.inside.last, at)?;
        list.push((Grid { module: self.name.clone(), extents, channels }, None));
        Ok(extents)
    }
}
