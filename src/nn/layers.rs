//! A network spelled out layer by layer, with every name and padding, for programs that build it without this crate's
//! tables (`src/weights/model.py`).

use super::block::{Bypass, Names};
use super::conv::ConvSpec;
use super::nets::{Kind, Net, Pool, Stage};
use crate::error::{Error, Result};

/// A trunk as lists of layers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Layers {
    /// Convolutions before the pool, each followed by ReLU.
    pub stem: Vec<Layer>,
    /// The pool after the stem.
    pub pool: Option<Pool>,
    /// Residual blocks.
    pub blocks: Vec<BlockLayers>,
}

/// A convolution without bias and its normalisation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Layer {
    /// Name of the convolution.
    pub conv: String,
    /// Name of the batch norm, which ReLU follows; `None` where the next convolution follows directly.
    pub norm: Option<String>,
    /// Input channels.
    pub from: usize,
    /// Output channels.
    pub to: usize,
    /// Extents `kt kh kw`.
    pub kernel: [usize; 3],
    /// Strides `t h w`.
    pub stride: [usize; 3],
    /// Zeros before and after each axis.
    pub pad: [usize; 3],
}

/// A block: its path with ReLU between the layers, the shortcut added, then ReLU.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BlockLayers {
    /// Its name.
    pub name: String,
    /// The layers, in order.
    pub path: Vec<Layer>,
    /// What is added to the path's result.
    pub shortcut: Shortcut,
}

/// What is added to the result of a block's path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Shortcut {
    /// Nothing.
    None,
    /// The block's input.
    Identity,
    /// The block's input after this layer, without ReLU.
    Projection(Layer),
}

impl Layers {
    /// Numbers in all filters.
    fn parameters(&self) -> u128 {
        let shortcut = |block: &BlockLayers| match &block.shortcut {
            Shortcut::Projection(layer) => layer.parameters(),
            _ => 0,
        };
        let path = |block: &BlockLayers| block.path.iter().map(Layer::parameters).sum::<u128>() + shortcut(block);
        self.stem.iter().map(Layer::parameters).sum::<u128>() + self.blocks.iter().map(path).sum::<u128>()
    }
}

impl Layer {
    fn parameters(&self) -> u128 {
        [self.from, self.to].iter().chain(&self.kernel).map(|n| *n as u128).product()
    }

    fn new((conv, norm): &Names, from: usize, spec: ConvSpec) -> Layer {
        let ConvSpec { out, kernel, stride } = spec;
        Layer { conv: conv.clone(), norm: norm.clone(), from, to: out, kernel, stride, pad: spec.pad() }
    }
}

impl Net {
    /// The last block of the last stage but one, or of the only one: its name, and the channels of its output.
    ///
    /// # Errors
    /// `Param` when the network has no block.
    pub fn below_top(&self) -> Result<(String, usize)> {
        let mut stages = self.stages.iter().enumerate().rev().filter(|(_, stage)| stage.count > 0);
        let top = stages.next();
        let Some((at, stage)) = stages.next().or(top) else {
            return Err(Error::param("network", "stages", self.stages.len(), "it has no block"));
        };
        Ok((self.naming.block(at, stage.count - 1), stage.out))
    }

    /// Every layer of the trunk that [`super::Trunk::new`] builds from this table.
    #[must_use]
    pub fn layers(&self) -> Layers {
        let mut c = self.in_channels;
        let mut layer = |names: &Names, spec: ConvSpec| Layer::new(names, std::mem::replace(&mut c, spec.out), spec);
        let stem = self.named_stem().map(|(names, spec)| layer(&names, spec)).collect();
        let mut blocks = Vec::new();
        let all = self.stages.iter().enumerate().flat_map(|(s, stage)| (0..stage.count).map(move |b| (s, b)));
        for (stage, block) in all {
            let spec = self.block(stage, block, c);
            let shortcut = match spec.bypass(c) {
                Bypass::None => Shortcut::None,
                Bypass::Identity => Shortcut::Identity,
                Bypass::Projection(names, spec) => Shortcut::Projection(Layer::new(names, c, spec)),
            };
            let steps = spec.path.iter().chain([&spec.last]);
            let path = steps.map(|(names, spec)| Layer::new(names, std::mem::replace(&mut c, spec.out), *spec));
            blocks.push(BlockLayers { path: path.collect(), name: spec.name.clone(), shortcut });
        }
        Layers { stem, pool: self.pool, blocks }
    }
}

/// The most blocks or layers, channels, and taps or strides that a table read from a file may ask for.
const MOST: [(usize, &str); 3] = [(1 << 12, "layers"), (1 << 14, "channels"), (1 << 8, "taps or strides")];
/// The most parameters, 2 GB of them: the largest published network here has 33 million.
pub const MOST_PARAMETERS: u128 = 1 << 29;

impl Net {
    /// Checks a table that was read from a file: every extent is positive, and the whole network is of a size that can be
    /// built.
    ///
    /// # Errors
    /// `Param` naming what is wrong.
    pub fn check(&self) -> Result<()> {
        let within = |name, values: &[usize], [least, kind]: [usize; 2]| {
            let (most, what) = MOST[kind];
            match values.iter().find(|v| !(least..=most).contains(v)) {
                None => Ok(()),
                Some(v) => Err(Error::param("network", name, v, format!("it must be {least} to {most} {what}"))),
            }
        };
        within("in_channels", &[self.in_channels], [1, 1])?;
        within("stem", &[self.stem.len()], [0, 0])?;
        within("stages", &[self.stages.len()], [0, 0])?;
        if self.stem.is_empty() && self.stages.iter().all(|stage| stage.count == 0) {
            return Err(Error::param("network", "stem", "[]", "a network has at least one convolution"));
        }
        for spec in &self.stem {
            within("stem.out", &[spec.out], [1, 1])?;
            within("stem.kernel, stem.stride", &[spec.kernel, spec.stride].concat(), [1, 2])?;
        }
        for stage in &self.stages {
            within("stages.count", &[stage.count], [0, 0])?;
            within("stages.out", &[stage.out], [1, 1])?;
            within("stages.temporal, stages.stride", &[[stage.temporal; 3], stage.stride].concat(), [1, 2])?;
            match stage.kind {
                Kind::Bottleneck { inner } | Kind::PseudoBottleneck { inner } => within("inner", &[inner], [1, 1])?,
                Kind::Whole { convs, .. } => within("convs", &[convs], [1, 0])?,
                Kind::Factored | Kind::PseudoBasic => (),
            }
            if stage.temporal.is_multiple_of(2) {
                return Err(Error::param("network", "stages.temporal", stage.temporal, "it must be odd"));
            }
        }
        let layers = |stage: &Stage| stage.count * if let Kind::Whole { convs, .. } = stage.kind { convs } else { 4 };
        within("stages.count", &[self.stages.iter().map(layers).sum()], [0, 0])?;
        if let Some(Pool { kernel, window }) = &self.pool {
            within("pool", &[*kernel, window.stride, window.dilation].concat(), [1, 2])?;
            within("pool.pad", &window.pad, [0, 2])?;
        }
        let parameters = self.layers().parameters();
        if parameters > MOST_PARAMETERS {
            let rule = format!("at most {MOST_PARAMETERS} are allowed in a network from a file");
            return Err(Error::param("network", "the number of its parameters", parameters, rule));
        }
        Ok(())
    }
}
