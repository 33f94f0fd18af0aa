//! The convolution layer.

use super::build::Builder;
use super::params::{ParamId, Params};
use super::pass::Pass;
use crate::error::Result;
use crate::ops::batch_norm::Moments;
use crate::ops::conv3d::{Conv3d, Geometry, fusion::Epilogue};
use crate::ops::{Activation, conv_norm};
use crate::shape::Window;
use crate::tape::Var;
use crate::tensor::Tensor;

/// One convolution and its normalisation, as a row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConvSpec {
    /// Output channels.
    pub out: usize,
    /// Extents `kt kh kw`. Odd ones are padded to keep extents at stride 1; even ones are not padded.
    pub kernel: [usize; 3],
    /// Strides `t h w`.
    pub stride: [usize; 3],
}

impl ConvSpec {
    /// Zeros before and after each axis `t h w`: with stride 1 an odd kernel keeps the extents.
    #[must_use]
    pub fn pad(&self) -> [usize; 3] {
        self.kernel.map(|k| if k % 2 == 1 { k / 2 } else { 0 })
    }
}

/// A convolution without bias (a normalisation follows), padded so that with stride 1 an odd kernel keeps the extents.
/// On axes where the kernel is even, there is no padding.
#[derive(Clone, Debug)]
pub struct Conv {
    weight: ParamId,
    geometry: Geometry,
}

impl Conv {
    /// From `c` channels, with the parameter `name.weight`.
    pub fn new(b: &mut Builder, name: &str, c: usize, spec: ConvSpec) -> Self {
        let [kt, kh, kw] = spec.kernel;
        let weight = b.conv_weight(&format!("{name}.weight"), [spec.out, kt, kh, kw, c]);
        Conv { weight, geometry: Geometry::new(Window { stride: spec.stride, pad: spec.pad(), dilation: [1; 3] }) }
    }

    /// The filters, whose name is also the layer's ([`super::Param::module`]).
    #[must_use]
    pub fn weight(&self) -> ParamId {
        self.weight
    }

    /// The extents of the convolution for `n` clips, where its input has extents `t h w`.
    pub(super) fn problem(&self, params: &Params, n: usize, [t, h, w]: [usize; 3]) -> Result<Conv3d> {
        let filters = params[self.weight].value.shape();
        let [.., c] = filters.nthwc("conv3d", "w")?;
        Conv3d::new("conv3d", [n, t, h, w, c].into(), filters, &self.geometry)
    }

    /// `x[n t h w c]` to `[n to ho wo k]`.
    ///
    /// # Errors
    /// `Shape` or `Param` from [`conv_norm()`], when `x` has other channels or is smaller than the kernel.
    pub fn forward(&self, pass: &mut Pass, x: &Activation) -> Result<Var> {
        Ok(self.run(pass, x, Epilogue::None)?.0)
    }

    /// The same for a convolution that is followed by a normalisation with the running mean `near`: also returns the
    /// moments of the result, over each of `parts` parts of the batch.
    ///
    /// # Errors
    /// As [`Conv::forward`]; `Param` when the parts do not divide the batch.
    pub(crate) fn forward_with_moments(
        &self,
        pass: &mut Pass,
        x: &Activation,
        near: &Tensor,
        parts: usize,
    ) -> Result<(Var, Option<Moments>)> {
        self.run(pass, x, Epilogue::Moments { parts, near })
    }

    fn run(&self, pass: &mut Pass, x: &Activation, epilogue: Epilogue) -> Result<(Var, Option<Moments>)> {
        let (w, tape, g) = (pass.var(self.weight)?, pass.tape(), self.geometry.with(pass.products()));
        let (y, moments) = conv_norm(tape, x, &w, &g, epilogue)?;
        pass.passed_conv(self.weight, &y);
        Ok((y, moments))
    }
}
