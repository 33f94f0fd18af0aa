//! The networks, as tables: a stem, an optional pool, and stages of equal blocks.

use super::block::{BlockSpec, Names};
use super::conv::ConvSpec;
use crate::error::{Error, Result};
use crate::shape::Window;

/// The kind of blocks in a stage, from `c` channels to the stage's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Kind {
    /// `[kt 1 1]` to `inner` channels, `[1 3 3]` with the stride, `[1 1 1]` to the stage's channels, and a shortcut.
    Bottleneck {
        /// Channels of the inner convolutions.
        inner: usize,
    },
    /// Two (2+1)D convolutions, each `[1 3 3]` then `[kt 1 1]`, and a shortcut. Their intermediate channels, `27 c k /
    /// (9 c + 3 k)`, give the first as many parameters as a 3x3x3 convolution; the second uses the same number.
    Factored,
    /// A bottleneck whose middle is factored: `[1 1 1]` to `inner` channels, then `[1 3 3]` with the spatial stride,
    /// directly followed by `[kt 1 1]` with the temporal stride, `[1 1 1]` to the stage's channels, and a shortcut
    /// (P3D-A, Qiu et al. 2017; `docs/papers/mcl.md` section 2.1).
    PseudoBottleneck {
        /// Channels of the inner convolutions.
        inner: usize,
    },
    /// Two such pairs, `[1 3 3]` directly followed by `[kt 1 1]`, and a shortcut: P3D-A of 18 layers.
    PseudoBasic,
    /// `convs` convolutions `[kt 3 3]`, the first with the stride, and optionally a shortcut.
    Whole {
        /// Convolutions per block, at least 1.
        convs: usize,
        /// Whether there is a shortcut.
        residual: bool,
    },
}

impl Kind {
    /// Whether the block's convolution `step` is followed directly by the next convolution, without a normalisation.
    fn bare(self, step: usize) -> bool {
        match self {
            Kind::PseudoBottleneck { .. } => step == 1,
            Kind::PseudoBasic => step.is_multiple_of(2),
            _ => false,
        }
    }
}

/// Equal blocks, the first of which has the stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Stage {
    /// Kind of its blocks.
    pub kind: Kind,
    /// Number of blocks.
    pub count: usize,
    /// Output channels.
    pub out: usize,
    /// Temporal extent `kt` of its kernels, odd.
    pub temporal: usize,
    /// Strides `t h w`.
    pub stride: [usize; 3],
}

/// Whose parameter names a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Naming {
    /// torchvision's video models: `stem.0`, `layer1.0.conv1.0.0`, `layer2.0.downsample.0`, `fc`.
    Torchvision,
    /// pytorchvideo: `blocks.0.conv`, `blocks.1.res_blocks.0.branch2.conv_a`, `blocks.5.proj`.
    PytorchVideo,
    /// SlowFast, on which MaCLR's code is based: `s1.pathway0_stem.conv`, `s2.pathway0_res0.branch2.a`,
    /// `s2.pathway0_res0.branch1_bn`, `head.projection`. MaCLR's motion network is pathway 1.
    SlowFast {
        /// 0 for RGB, 1 for motion.
        pathway: usize,
    },
    /// torchvision's image ResNets, and MCL's release, which appends `_t` to the second of two factors: `conv1`, `bn1`,
    /// `layer1.0.conv2`, `layer1.0.conv2_t`, `layer1.0.bn2`, `layer1.0.downsample.0`.
    Image,
}

impl Naming {
    fn stem(self, step: usize) -> Names {
        let (conv, norm) = match self {
            Naming::Torchvision => (format!("stem.{}", 3 * step), format!("stem.{}", 3 * step + 1)),
            Naming::PytorchVideo => ("blocks.0.conv".into(), "blocks.0.norm".into()),
            Naming::SlowFast { pathway } => {
                (format!("s1.pathway{pathway}_stem.conv"), format!("s1.pathway{pathway}_stem.bn"))
            }
            Naming::Image => (format!("conv{}", step + 1), format!("bn{}", step + 1)),
        };
        (conv, Some(norm))
    }

    fn step(self, kind: Kind, stage: usize, block: usize, step: usize) -> Names {
        let (conv, norm) = self.conv_and_norm(kind, stage, block, step);
        (conv, (!kind.bare(step)).then_some(norm))
    }

    fn conv_and_norm(self, kind: Kind, stage: usize, block: usize, step: usize) -> (String, String) {
        let letter = char::from(b'a' + (step % 26) as u8);
        match (self, kind) {
            (Naming::Torchvision, Kind::Factored) => {
                let conv = format!("layer{}.{block}.conv{}", stage + 1, step / 2 + 1);
                if step.is_multiple_of(2) {
                    (format!("{conv}.0.0"), format!("{conv}.0.1"))
                } else {
                    (format!("{conv}.0.3"), format!("{conv}.1"))
                }
            }
            (Naming::Torchvision, _) => {
                let conv = format!("layer{}.{block}.conv{}", stage + 1, step + 1);
                (format!("{conv}.0"), format!("{conv}.1"))
            }
            (Naming::PytorchVideo, _) => {
                let branch = format!("blocks.{}.res_blocks.{block}.branch2", stage + 1);
                (format!("{branch}.conv_{letter}"), format!("{branch}.norm_{letter}"))
            }
            (Naming::SlowFast { pathway }, _) => {
                let branch = format!("s{}.pathway{pathway}_res{block}.branch2.{letter}", stage + 2);
                (branch.clone(), branch + "_bn")
            }
            (Naming::Image, kind) => {
                let name = format!("layer{}.{block}", stage + 1);
                // Index of the normalisation, and whether this is the second of two convolutions before it.
                let (place, second) = match kind {
                    Kind::PseudoBottleneck { .. } => ([1, 2, 2, 3][step % 4], step == 2),
                    Kind::PseudoBasic => (step / 2 + 1, step % 2 == 1),
                    _ => (step + 1, false),
                };
                let suffix = if second { "_t" } else { "" };
                (format!("{name}.conv{place}{suffix}"), format!("{name}.bn{place}"))
            }
        }
    }

    fn shortcut(self, stage: usize, block: usize) -> Names {
        let (conv, norm) = match self {
            Naming::Torchvision | Naming::Image => {
                let name = format!("layer{}.{block}.downsample", stage + 1);
                (format!("{name}.0"), format!("{name}.1"))
            }
            Naming::PytorchVideo => {
                let name = format!("blocks.{}.res_blocks.{block}.branch1", stage + 1);
                (format!("{name}_conv"), format!("{name}_norm"))
            }
            Naming::SlowFast { pathway } => {
                let name = format!("s{}.pathway{pathway}_res{block}.branch1", stage + 2);
                (name.clone(), name + "_bn")
            }
        };
        (conv, Some(norm))
    }

    /// The name of a block.
    pub(super) fn block(self, stage: usize, block: usize) -> String {
        match self {
            Naming::Torchvision | Naming::Image => format!("layer{}.{block}", stage + 1),
            Naming::PytorchVideo => format!("blocks.{}.res_blocks.{block}", stage + 1),
            Naming::SlowFast { pathway } => format!("s{}.pathway{pathway}_res{block}", stage + 2),
        }
    }

    /// The name of the linear classifier.
    #[must_use]
    pub fn classifier(self) -> &'static str {
        match self {
            Naming::Torchvision | Naming::Image => "fc",
            Naming::PytorchVideo => "blocks.5.proj",
            Naming::SlowFast { .. } => "head.projection",
        }
    }
}

/// A max pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pool {
    /// Extents `kt kh kw`.
    pub kernel: [usize; 3],
    /// Stride, padding and dilation.
    pub window: Window,
}

/// A network up to its last feature map. Build a [`super::Trunk`] from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Net {
    /// Parameter names.
    pub naming: Naming,
    /// Channels of the input.
    pub in_channels: usize,
    /// Convolutions before the stages, each with normalisation and ReLU.
    pub stem: Vec<ConvSpec>,
    /// The pool after the stem.
    pub pool: Option<Pool>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// Whether the last normalisation of each block with a shortcut starts with scale 0 (`docs/papers/maclr.md` section
    /// 2.1), so that blocks are initially their shortcuts.
    pub zero_last_scale: bool,
}

impl Net {
    /// MaCLR's visual trunk, "dense_slow" = CVRL's R3D-50 (`docs/papers/maclr.md` section 2.1): 31,672,128 parameters,
    /// 2048 features.
    #[must_use]
    pub fn cvrl_r3d50() -> Net {
        Net { zero_last_scale: true, ..resnet50(Naming::SlowFast { pathway: 0 }, 1, [5, 2], [1, 1, 3, 3]) }
    }

    /// MaCLR's motion trunk, a ResNet-50 of 2D kernels and `1 / width_div` of the width (`docs/papers/maclr.md` section
    /// 3.2): at 8, 374,152 parameters and 256 features.
    ///
    /// # Errors
    /// `Param` unless `width_div` divides 64.
    pub fn motion_r2d50(width_div: usize) -> Result<Net> {
        Self::motion(width_div, [1, 2], [1; 4])
    }

    /// The 3D variant of [`Net::motion_r2d50`], with kernels of temporal extent 3, and 5 in the stem
    /// (`docs/papers/maclr.md` section 3.2, `video_flow_3d`): at 8, 514,152 parameters.
    ///
    /// # Errors
    /// As [`Net::motion_r2d50`].
    pub fn motion_r3d50(width_div: usize) -> Result<Net> {
        Self::motion(width_div, [5, 2], [3; 4])
    }

    fn motion(width_div: usize, stem: [usize; 2], temporal: [usize; 4]) -> Result<Net> {
        if width_div == 0 || 64 % width_div != 0 {
            return Err(Error::param("motion network", "width_div", width_div, "it must divide 64"));
        }
        let net = resnet50(Naming::SlowFast { pathway: 1 }, width_div, stem, temporal);
        Ok(Net { zero_last_scale: true, ..net })
    }

    /// pytorchvideo's `slow_r50`: 31,634,496 parameters, 32,454,096 with its classifier of 400 classes.
    #[must_use]
    pub fn slow_r50() -> Net {
        resnet50(Naming::PytorchVideo, 1, [1, 1], [1, 1, 3, 3])
    }

    /// torchvision's `r2plus1d_18`: 31,300,125 parameters, 31,505,325 with its classifier of 400 classes.
    #[must_use]
    pub fn r2plus1d_18() -> Net {
        let stem = vec![
            ConvSpec { out: 45, kernel: [1, 7, 7], stride: [1, 2, 2] },
            ConvSpec { out: 64, kernel: [3, 1, 1], stride: [1; 3] },
        ];
        resnet18(stem, Kind::Factored)
    }

    /// torchvision's `r3d_18`: 33,166,272 parameters, 33,371,472 with its classifier of 400 classes.
    #[must_use]
    pub fn r3d_18() -> Net {
        let stem = vec![ConvSpec { out: 64, kernel: [3, 7, 7], stride: [1, 2, 2] }];
        resnet18(stem, Kind::Whole { convs: 2, residual: true })
    }

    /// Channels of the last feature map.
    #[must_use]
    pub fn features(&self) -> usize {
        let stem = self.stem.last().map_or(self.in_channels, |s| s.out);
        self.stages.iter().rfind(|s| s.count > 0).map_or(stem, |s| s.out)
    }

    /// The stem's steps with their names.
    pub(super) fn named_stem(&self) -> impl Iterator<Item = (Names, ConvSpec)> {
        self.stem.iter().enumerate().map(|(i, step)| (self.naming.stem(i), *step))
    }

    /// The description of block `block` of stage `stage`, from `c` channels.
    pub(super) fn block(&self, stage: usize, block: usize, c: usize) -> BlockSpec {
        let Stage { kind, out, temporal: kt, stride, .. } = self.stages[stage];
        let stride = if block == 0 { stride } else { [1; 3] };
        let [st, sh, sw] = stride;
        let spatial = |out, s| ConvSpec { out, kernel: [1, 3, 3], stride: s };
        let temporal = |out, s| ConvSpec { out, kernel: [kt, 1, 1], stride: s };
        let (path, last) = match kind {
            Kind::Bottleneck { inner } => {
                // A temporal stride belongs to the kernel with a temporal extent, a spatial one to the kernel with a
                // spatial extent.
                let path = vec![temporal(inner, [st, 1, 1]), spatial(inner, [1, sh, sw])];
                (path, ConvSpec { out, kernel: [1; 3], stride: [1; 3] })
            }
            Kind::Factored => {
                let mid = 27 * c * out / (9 * c + 3 * out);
                let path = vec![spatial(mid, [1, sh, sw]), temporal(out, [st, 1, 1]), spatial(mid, [1; 3])];
                (path, temporal(out, [1; 3]))
            }
            Kind::PseudoBottleneck { inner } => {
                let one = ConvSpec { out: inner, kernel: [1; 3], stride: [1; 3] };
                let path = vec![one, spatial(inner, [1, sh, sw]), temporal(inner, [st, 1, 1])];
                (path, ConvSpec { out, kernel: [1; 3], stride: [1; 3] })
            }
            Kind::PseudoBasic => {
                let path = vec![spatial(out, [1, sh, sw]), temporal(out, [st, 1, 1]), spatial(out, [1; 3])];
                (path, temporal(out, [1; 3]))
            }
            Kind::Whole { convs, .. } => {
                let whole = |s| ConvSpec { out, kernel: [kt, 3, 3], stride: s };
                let mut path = vec![whole(stride)];
                path.resize(convs.max(1), whole([1; 3]));
                let last = path[path.len() - 1];
                path.pop();
                (path, last)
            }
        };
        let residual = !matches!(kind, Kind::Whole { residual: false, .. });
        let name = |i| self.naming.step(kind, stage, block, i);
        BlockSpec {
            name: self.naming.block(stage, block),
            last: (name(path.len()), last),
            path: path.into_iter().enumerate().map(|(i, step)| (name(i), step)).collect(),
            shortcut: residual.then(|| self.naming.shortcut(stage, block)),
            last_scale: if residual && self.zero_last_scale { 0.0 } else { 1.0 },
        }
    }
}

/// A ResNet-50; `stem` is the temporal extent and stride of its kernel.
fn resnet50(naming: Naming, width_div: usize, [kt, st]: [usize; 2], temporal: [usize; 4]) -> Net {
    let width = 64 / width_div;
    let stage = |i: usize, count| Stage {
        kind: Kind::Bottleneck { inner: width << i },
        count,
        out: (4 * width) << i,
        temporal: temporal[i],
        stride: if i == 0 { [1; 3] } else { [1, 2, 2] },
    };
    Net {
        naming,
        in_channels: 3,
        stem: vec![ConvSpec { out: width, kernel: [kt, 7, 7], stride: [st, 2, 2] }],
        pool: Some(Pool { kernel: [1, 3, 3], window: Window::same([1, 3, 3]).strided([1, 2, 2]) }),
        stages: vec![stage(0, 3), stage(1, 4), stage(2, 6), stage(3, 3)],
        zero_last_scale: false,
    }
}

fn resnet18(stem: Vec<ConvSpec>, kind: Kind) -> Net {
    let stage =
        |i: usize| Stage { kind, count: 2, out: 64 << i, temporal: 3, stride: if i == 0 { [1; 3] } else { [2; 3] } };
    Net {
        naming: Naming::Torchvision,
        in_channels: 3,
        stem,
        pool: None,
        stages: (0..4).map(stage).collect(),
        zero_last_scale: false,
    }
}

/// A small 3D network for CPUs, for RGB and motion: a stem, then stages of `[kt 3 3]` convolutions, each convolution
/// with normalisation and ReLU. Names are torchvision's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallR3d {
    /// Channels of the input: 3 for RGB, 1 or 3 for motion.
    pub in_channels: usize,
    /// Channels of each stage; the stem has as many as the first.
    pub widths: Vec<usize>,
    /// Blocks per stage; with 0 in the first, the stem takes its place.
    pub blocks: Vec<usize>,
    /// Convolutions per block.
    pub convs: usize,
    /// Whether blocks have shortcuts.
    pub residual: bool,
    /// Kernel `kt kh kw` of the stem, odd.
    pub stem_kernel: [usize; 3],
    /// Strides `t h w` of the stem.
    pub stem_stride: [usize; 3],
    /// Strides `t h w` of each stage.
    pub strides: Vec<[usize; 3]>,
    /// Temporal extent `kt` of each stage's kernels, odd; 1 makes the stage 2D.
    pub temporal: Vec<usize>,
}

impl Default for SmallR3d {
    /// Channels 16, 32, 64 on RGB, one 3x3x3 convolution per stage, all extents halved by every stage after the first.
    fn default() -> Self {
        SmallR3d {
            in_channels: 3,
            widths: vec![16, 32, 64],
            blocks: vec![1; 3],
            convs: 1,
            residual: false,
            stem_kernel: [3, 5, 5],
            stem_stride: [1, 2, 2],
            strides: vec![[1; 3], [2; 3], [2; 3]],
            temporal: vec![3; 3],
        }
    }
}

impl SmallR3d {
    /// The network as a table.
    ///
    /// # Errors
    /// `Param` when there is no stage, when the lists differ in length, or when a count or extent is out of range.
    pub fn net(&self) -> Result<Net> {
        let fail = |name, value: String, rule| Err(Error::param("small network", name, value, rule));
        let stages = self.widths.len();
        let lengths = [self.blocks.len(), self.strides.len(), self.temporal.len()];
        if stages == 0 || lengths != [stages; 3] {
            let value = format!("{:?}", self.widths);
            return fail("widths", value, "widths, blocks, strides and temporal need one entry for each stage");
        }
        if self.widths.contains(&0) || self.in_channels == 0 || self.convs == 0 {
            let value = format!("{:?}", (self.in_channels, &self.widths, self.convs));
            return fail("(in_channels, widths, convs)", value, "none of them may be 0");
        }
        if self.temporal.iter().chain(&self.stem_kernel).any(|k| k % 2 == 0) {
            let value = format!("{:?}", (self.stem_kernel, &self.temporal));
            return fail("(stem_kernel, temporal)", value, "kernels must have odd extents");
        }
        if self.strides.iter().chain([&self.stem_stride]).flatten().any(|&s| s == 0) {
            let value = format!("{:?}", (self.stem_stride, &self.strides));
            return fail("(stem_stride, strides)", value, "every stride must be at least 1");
        }
        let kind = Kind::Whole { convs: self.convs, residual: self.residual };
        let stage = |i: usize| Stage {
            kind,
            count: self.blocks[i],
            out: self.widths[i],
            temporal: self.temporal[i],
            stride: self.strides[i],
        };
        Ok(Net {
            naming: Naming::Torchvision,
            in_channels: self.in_channels,
            stem: vec![ConvSpec { out: self.widths[0], kernel: self.stem_kernel, stride: self.stem_stride }],
            pool: None,
            stages: (0..stages).map(stage).collect(),
            zero_last_scale: true,
        })
    }
}
