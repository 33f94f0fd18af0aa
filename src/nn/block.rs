//! The one block all networks are made of: convolutions each followed by a normalisation, with or without a shortcut.

use super::build::Builder;
use super::conv::Conv;
use super::norm::Norm;
use super::params::Params;
use super::pass::{Mode, Pass};
use crate::error::Result;
use crate::tape::Var;

/// One convolution and its normalisation, as a row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Output channels.
    pub out: usize,
    /// Extents `kt kh kw`, odd.
    pub kernel: [usize; 3],
    /// Strides `t h w`.
    pub stride: [usize; 3],
}

/// Names of a convolution and of its normalisation.
pub type Names = (String, String);

/// Convolution, then normalisation (and what is fused into it).
#[derive(Clone, Debug)]
pub struct ConvNorm {
    conv: Conv,
    norm: Norm,
}

impl ConvNorm {
    /// From `c` channels by `step`; `scale` is the first scale of the normalisation.
    pub fn new(b: &mut Builder, names: &Names, c: usize, step: Step, scale: f32) -> Self {
        ConvNorm {
            conv: Conv::new(b, &names.0, c, step.out, step.kernel, step.stride),
            norm: Norm::new(b, &names.1, step.out, scale),
        }
    }

    /// The convolution's name.
    pub(super) fn module<'p>(&self, params: &'p Params) -> &'p str {
        params[self.conv.weight()].module()
    }

    /// `norm(conv(x)) + residual`, then ReLU if `relu`; `x[n t h w c]` to `[n to ho wo k]`.
    ///
    /// # Errors
    /// As [`Conv::forward`] and [`Norm::forward`].
    pub fn forward(&self, pass: &mut Pass, x: &Var, residual: Option<&Var>, relu: bool) -> Result<Var> {
        let Mode::Train { groups } = pass.mode() else {
            let y = self.conv.forward(pass, x)?;
            return self.norm.forward(pass, &y, None, residual, relu);
        };
        let near = pass.params()[self.norm.mean()].value.clone();
        let (y, sums) = self.conv.forward_summed(pass, x, &near, groups)?;
        drop(near); // the running mean is about to be changed in place
        self.norm.forward(pass, &y, sums, residual, relu)
    }
}

#[derive(Clone, Debug)]
enum Shortcut {
    None,
    Identity,
    /// A 1x1x1 convolution with the strides of the path, where channels or extents change.
    Projection(ConvNorm),
}

/// A path of [`ConvNorm`]s with ReLU after each; before the last ReLU the shortcut, where there is one, is added.
/// Basic, bottleneck and (2+1)D blocks differ only in their steps.
#[derive(Clone, Debug)]
pub struct Block {
    name: String,
    path: Vec<ConvNorm>,
    last: ConvNorm,
    shortcut: Shortcut,
}

/// What a block is made from.
pub(super) struct Plan {
    /// Its name.
    pub name: String,
    /// The path but its last step.
    pub path: Vec<(Names, Step)>,
    /// The last step of the path.
    pub last: (Names, Step),
    /// Names of the projection; `None` for a block without shortcut.
    pub shortcut: Option<Names>,
    /// First scale of the last normalisation: 0 makes the block begin as its shortcut.
    pub last_scale: f32,
}

impl Block {
    /// From `c` channels by `plan`.
    pub(super) fn new(b: &mut Builder, c: usize, plan: &Plan) -> Self {
        let Plan { path, last: (last_names, last), .. } = plan;
        let steps = path.iter().map(|(_, step)| step).chain([last]);
        let stride = steps.fold([1; 3], |s, step| [0, 1, 2].map(|a| s[a] * step.stride[a]));
        let shortcut = match &plan.shortcut {
            None => Shortcut::None,
            Some(_) if c == last.out && stride == [1; 3] => Shortcut::Identity,
            Some(names) => {
                let step = Step { out: last.out, kernel: [1; 3], stride };
                Shortcut::Projection(ConvNorm::new(b, names, c, step, 1.0))
            }
        };
        let mut c = c;
        let path = path
            .iter()
            .map(|(names, step)| ConvNorm::new(b, names, std::mem::replace(&mut c, step.out), *step, 1.0))
            .collect();
        let last = ConvNorm::new(b, last_names, c, *last, plan.last_scale);
        Block { name: plan.name.clone(), path, last, shortcut }
    }

    /// `x[n t h w c]` to `[n to ho wo k]`.
    ///
    /// # Errors
    /// As [`ConvNorm::forward`].
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let mut y = x.clone();
        for step in &self.path {
            y = step.forward(pass, &y, None, true)?;
        }
        let y = match &self.shortcut {
            Shortcut::None => self.last.forward(pass, &y, None, true),
            Shortcut::Identity => self.last.forward(pass, &y, Some(x), true),
            Shortcut::Projection(p) => {
                let residual = p.forward(pass, x, None, false)?;
                self.last.forward(pass, &y, Some(&residual), true)
            }
        }?;
        pass.passed_block(&self.name, &y);
        Ok(y)
    }

    /// Names of what can be tapped in it, in the order of the forward pass: its convolutions, then itself.
    pub(super) fn modules(&self, params: &Params) -> Vec<String> {
        let projection = match &self.shortcut {
            Shortcut::Projection(p) => Some(p),
            _ => None,
        };
        let convs = self.path.iter().chain(projection).chain([&self.last]);
        convs.map(|c| c.module(params).to_owned()).chain([self.name.clone()]).collect()
    }
}
