//! A network from clips to features.

use super::block::{Block, ConvNorm, Grid, Walk};
use super::build::Builder;
use super::nets::{Net, Pool};
use super::params::{ParamId, Params};
use super::pass::Pass;
use super::recompute::{self, Segment};
use crate::error::{Error, Result};
use crate::ops::{self, Activation, conv3d::Conv3d};
use crate::tape::Var;
use std::sync::Arc;

/// Stem, pool and stages of a [`Net`].
#[derive(Clone, Debug)]
pub struct Trunk {
    stem: Arc<Stem>,
    blocks: Vec<Block>,
    in_channels: usize,
    features: usize,
}

/// The convolutions and the pool before the blocks.
#[derive(Debug)]
struct Stem {
    convs: Vec<ConvNorm>,
    pool: Option<Pool>,
}

impl Segment for Stem {
    fn run(&self, pass: &mut Pass, first: &Activation, _: &Activation) -> Result<Activation> {
        let mut x = first.clone();
        for step in &self.convs {
            x = step.forward(pass, &x, None, true)?;
        }
        let x = x.stored(pass.tape())?;
        match &self.pool {
            Some(Pool { kernel, window }) => {
                let tape = pass.tape();
                Ok((&ops::max_pool(tape, &x.value(tape)?, *kernel, window)?).into())
            }
            None => Ok(x),
        }
    }

    fn ids(&self) -> Vec<ParamId> {
        self.convs.iter().flat_map(ConvNorm::ids).collect()
    }
}

impl Trunk {
    /// Builds the network described by the table `net`.
    pub fn new(net: &Net, b: &mut Builder) -> Self {
        let mut c = net.in_channels;
        let mut stem = Vec::new();
        for (names, step) in net.named_stem() {
            stem.push(ConvNorm::new(b, &names, c, step, 1.0));
            c = step.out;
        }
        let mut blocks = Vec::new();
        for (s, stage) in net.stages.iter().enumerate() {
            for i in 0..stage.count {
                blocks.push(Block::new(b, c, &net.block(s, i, c)));
                c = stage.out;
            }
        }
        let stem = Arc::new(Stem { convs: stem, pool: net.pool });
        Trunk { stem, blocks, in_channels: net.in_channels, features: c }
    }

    /// The network described by `net` alone, without a head, and its initial parameters, drawn from `seed`.
    #[must_use]
    pub fn with_params(net: &Net, seed: u64) -> (Trunk, Params) {
        let mut builder = Builder::new(seed);
        let trunk = Trunk::new(net, &mut builder);
        (trunk, builder.finish())
    }

    /// Number of its features.
    #[must_use]
    pub fn features_dim(&self) -> usize {
        self.features
    }

    /// The modules that a pass can [tap](Pass::tapping), in the order of the forward pass: convolutions (their output
    /// before the normalisation) and blocks (their output after the last ReLU). `params` are any that this trunk was
    /// built with.
    #[must_use]
    pub fn modules(&self, params: &Params) -> Vec<String> {
        let stem = self.stem.convs.iter().map(|c| c.module(params).to_owned());
        stem.chain(self.blocks.iter().flat_map(|b| b.modules(params))).collect()
    }

    /// The same with the extents that they compute for a clip of `t h w`, without running anything. The last one is the
    /// last feature map.
    ///
    /// # Errors
    /// `Param` when a kernel does not fit.
    pub fn grids(&self, params: &Params, clip: [usize; 3]) -> Result<Vec<Grid>> {
        Ok(self.walk(params, 1, clip)?.into_iter().map(|(grid, _)| grid).collect())
    }

    /// Of those its blocks alone: maps after a ReLU, with no value below 0.
    ///
    /// # Errors
    /// As [`Trunk::grids`].
    pub fn blocks(&self, params: &Params, clip: [usize; 3]) -> Result<Vec<Grid>> {
        let list = self.walk(params, 1, clip)?;
        Ok(list.into_iter().filter(|(_, problem)| problem.is_none()).map(|(grid, _)| grid).collect())
    }

    /// Its convolutions in the order of the forward pass, with their names and extents for `n` clips of `t h w`,
    /// without running anything. Benches take their layers from here.
    ///
    /// # Errors
    /// As [`Trunk::grids`].
    pub fn convolutions(&self, params: &Params, n: usize, clip: [usize; 3]) -> Result<Vec<(String, Conv3d)>> {
        let list = self.walk(params, n, clip)?;
        Ok(list.into_iter().filter_map(|(grid, problem)| Some((grid.module, problem?))).collect())
    }

    fn walk(&self, params: &Params, n: usize, clip: [usize; 3]) -> Result<Walk> {
        let (mut at, mut list) = (clip, Walk::new());
        for conv in &self.stem.convs {
            let problem = conv.problem(params, n, at)?;
            list.push((Grid::of(conv.module(params), &problem), Some(problem)));
            at = problem.out();
        }
        if let Some(Pool { kernel, window }) = &self.stem.pool {
            at = window.out("max_pool", at, *kernel)?;
        }
        for block in &self.blocks {
            at = block.walk(params, n, at, &mut list)?;
        }
        Ok(list)
    }

    /// Checks that `name` is one of [`Trunk::modules`].
    ///
    /// # Errors
    /// `Param` with the last of those names if it is not.
    pub fn check_module(&self, params: &Params, name: &str) -> Result<()> {
        let modules = self.modules(params);
        if modules.iter().any(|m| m == name) {
            return Ok(());
        }
        let last = modules[modules.len().saturating_sub(4)..].join(", ");
        let rule = format!("the network has no such module; of its {} modules the last are {last}", modules.len());
        Err(Error::param("network", "module", name, rule))
    }

    /// The last feature map `[n to ho wo c]` of clips `x[n t h w c]`. Clips of another data type are rounded to that of
    /// the pass.
    ///
    /// # Errors
    /// `Shape` when the clips do not have the network's channels; `Param` when they are too small for a kernel, or the
    /// parts of the pass do not divide their number.
    pub fn forward_map(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let [_, t, _, _, c] = x.shape().nthwc("network", "x")?;
        if c != self.in_channels {
            let hint = if t == self.in_channels { ", channels last (these look like n c t h w)" } else { "" };
            return Err(Error::shape("network", "x", format!("[n t h w {}]{hint}", self.in_channels), x.shape()));
        }
        pass.count_batch();
        let x = Activation::rounded(pass.tape(), x, pass.dtype())?;
        let mut y = if !self.stem.convs.is_empty() && pass.recomputes(self.stem.convs.iter().map(ConvNorm::weight)) {
            recompute::forward(&self.stem, pass, &x)
        } else {
            self.stem.run(pass, &x, &x)
        }?;
        for block in &self.blocks {
            y = block.forward(pass, &y)?;
        }
        y.value(pass.tape())
    }

    /// The features `[n c]` of clips `x[n t h w c]`, in the data type of the pass: the last map averaged over `t h w`.
    ///
    /// # Errors
    /// As [`Trunk::forward_map`].
    pub fn forward(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let map = self.forward_map(pass, x)?;
        ops::global_avg_pool(pass.tape(), &map)
    }

    /// A code for each time step `[n to c]` of clips `x[n t h w c]`, in the data type of the pass: the last map averaged over
    /// `h w`.
    ///
    /// # Errors
    /// As [`Trunk::forward_map`].
    pub fn forward_steps(&self, pass: &mut Pass, x: &Var) -> Result<Var> {
        let map = self.forward_map(pass, x)?;
        let [n, t, ..] = map.shape().nthwc("network", "map")?;
        let rows = steps(pass, &map, t)?;
        let c = rows.shape().last();
        ops::reshape(pass.tape(), &rows, [n, t, c].into())
    }
}

/// A map `[n t h w c]` averaged over `h w` and over each of `s` equal parts of its time: `[n·s c]`.
pub(super) fn steps(pass: &Pass, map: &Var, s: usize) -> Result<Var> {
    let [n, t, h, w, c] = map.shape().nthwc("network", "map")?;
    if s == 0 || !t.is_multiple_of(s) {
        return Err(Error::param("network", "steps", s, format!("it must divide the {t} time steps of the map")));
    }
    let parts = ops::reshape(pass.tape(), map, [n * s, t / s, h, w, c].into())?;
    ops::global_avg_pool(pass.tape(), &parts)
}
