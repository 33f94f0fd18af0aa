//! P3D-A, MCL's network: an image ResNet whose 3x3 kernels are followed by kernels over time (`docs/papers/mcl.md`
//! section 2.1).

use super::conv::ConvSpec;
use super::nets::{Kind, Naming, Net, Pool, Stage};
use crate::error::{Error, Result};
use crate::shape::Window;

/// A P3D-A network of any width and depth, and the image network whose weights it can be inflated from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P3d {
    /// Channels of the stem and of the first stage, doubled by each stage after it: 64 in the published networks.
    pub width: usize,
    /// Blocks per stage; all stages but the first halve rows and columns.
    pub blocks: Vec<usize>,
    /// Whether blocks are bottlenecks, with four times the channels at their end, or basic blocks.
    pub bottleneck: bool,
    /// Frames that the stem combines into one: temporal extent and stride of its kernel. 4 in the published networks.
    pub stem_frames: usize,
    /// Spatial extent of the stem's kernel, odd; its stride is 2.
    pub stem_side: usize,
    /// Whether a 3x3 max pool of stride 2 follows the stem.
    pub pool: bool,
}

impl Default for P3d {
    /// [`Net::p3d_a50`].
    fn default() -> Self {
        P3d { width: 64, blocks: vec![3, 4, 6, 3], bottleneck: true, stem_frames: 4, stem_side: 7, pool: true }
    }
}

impl P3d {
    /// The network as a table.
    ///
    /// # Errors
    /// `Param` when a number is out of range.
    pub fn net(&self) -> Result<Net> {
        self.check()?;
        Ok(self.table([self.stem_frames; 2], 3, |inner| match inner {
            Some(inner) => Kind::PseudoBottleneck { inner },
            None => Kind::PseudoBasic,
        }))
    }

    /// The image network of this width and depth, as a network of clips whose kernels have temporal extent 1.
    /// [`crate::weights::inflate`] reads weights of this network. With the published numbers it is
    /// torchvision's `resnet50` or `resnet18`.
    ///
    /// # Errors
    /// As [`P3d::net`].
    pub fn image(&self) -> Result<Net> {
        self.check()?;
        Ok(self.table([1, 1], 1, |inner| match inner {
            Some(inner) => Kind::Bottleneck { inner },
            None => Kind::Whole { convs: 2, residual: true },
        }))
    }

    fn check(&self) -> Result<()> {
        let fail = |name, value: String, rule| Err(Error::param("p3d", name, value, rule));
        if self.width == 0 || self.stem_frames == 0 || self.blocks.contains(&0) || self.blocks.is_empty() {
            let value = format!("{:?}", (self.width, self.stem_frames, &self.blocks));
            return fail("(width, stem_frames, blocks)", value, "none of them may be 0, and there must be a stage");
        }
        if self.blocks.len() > 16 {
            return fail("blocks", format!("{:?}", self.blocks), "there may be at most 16 stages");
        }
        if self.stem_side.is_multiple_of(2) {
            return fail("stem_side", self.stem_side.to_string(), "it must be odd");
        }
        Ok(())
    }

    fn table(&self, [kt, st]: [usize; 2], temporal: usize, kind: impl Fn(Option<usize>) -> Kind) -> Net {
        let stage = |(i, &count): (usize, &usize)| {
            let width = self.width << i;
            Stage {
                kind: kind(self.bottleneck.then_some(width)),
                count,
                out: if self.bottleneck { 4 * width } else { width },
                temporal,
                stride: if i == 0 { [1; 3] } else { [1, 2, 2] },
            }
        };
        let side = self.stem_side;
        Net {
            naming: Naming::Image,
            in_channels: 3,
            stem: vec![ConvSpec { out: self.width, kernel: [kt, side, side], stride: [st, 2, 2] }],
            pool: self.pool.then(|| Pool { kernel: [1, 3, 3], window: Window::same([1, 3, 3]).strided([1, 2, 2]) }),
            stages: self.blocks.iter().enumerate().map(stage).collect(),
            zero_last_scale: false,
        }
    }
}

impl Net {
    /// MCL's network, P3D-A of 50 layers (`docs/papers/mcl.md` section 2.1): 27,308,672 parameters, 2048 features, a
    /// quarter of the clip's frames.
    #[must_use]
    pub fn p3d_a50() -> Net {
        P3d::default().net().expect("the published numbers are valid; a test builds it")
    }

    /// P3D-A of 18 layers: 512 features.
    #[must_use]
    pub fn p3d_a18() -> Net {
        let net = P3d { blocks: vec![2; 4], bottleneck: false, ..P3d::default() };
        net.net().expect("the published numbers are valid; a test builds it")
    }
}
