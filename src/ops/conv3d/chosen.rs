//! The three passes with an instruction set, or a tile of the GPU, that the caller chooses: for tests.

#[cfg(any(test, feature = "testing"))]
use super::Operator;
use super::fusion::{Epilogue, Prologue};
use super::{Conv3d, Geometry, check_dy, cpu, cuda};
use crate::cpu::Isa;
#[cfg(any(test, feature = "testing"))]
use crate::error::Error;
use crate::error::Result;
#[cfg(any(test, feature = "testing"))]
use crate::ops::batch_norm::{Norm, Signs, Unformed};
use crate::shape::Shape;
use crate::tensor::{Place, Tensor};

/// [`fprop`] with a given instruction set, so that a test can run every path that its machine supports.
pub fn fprop_with(isa: Isa, x: &Tensor, w: &Tensor, g: &Geometry) -> Result<Tensor> {
    let p = Conv3d::new("conv3d", x.shape(), w.shape(), g)?;
    match x.place("conv3d", &[("w", w)])? {
        Place::Cpu => Ok(cpu::fprop(isa, &p, [x, w], Prologue::None, Epilogue::None)?.0),
        Place::Gpu(gpu) => cuda::fprop(gpu, &p, x, w, None),
    }
}

/// [`dgrad`] with a given instruction set.
pub fn dgrad_with(isa: Isa, dy: &Tensor, w: &Tensor, x_shape: Shape, g: &Geometry) -> Result<Tensor> {
    let p = Conv3d::new("conv3d dgrad", x_shape, w.shape(), g)?;
    check_dy("conv3d dgrad", &p, dy)?;
    match dy.place("conv3d dgrad", &[("w", w)])? {
        Place::Cpu => cpu::dgrad(isa, &p, [dy, w]),
        Place::Gpu(gpu) => cuda::dgrad(gpu, &p, dy, w),
    }
}

/// [`wgrad`] with a given instruction set.
pub fn wgrad_with(isa: Isa, x: &Tensor, dy: &Tensor, w_shape: Shape, g: &Geometry) -> Result<Tensor> {
    let p = Conv3d::new("conv3d wgrad", x.shape(), w_shape, g)?;
    check_dy("conv3d wgrad", &p, dy)?;
    match x.place("conv3d wgrad", &[("dy", dy)])? {
        Place::Cpu => cpu::wgrad(isa, &p, x, Prologue::None, dy),
        Place::Gpu(gpu) => cuda::wgrad(gpu, &p, x, None, dy),
    }
}

/// The number of tiles among which a pass of `p` on bf16 tensors chooses on `gpu`.
///
/// # Errors
/// `Param` when a GPU does not take the problem.
#[cfg(any(test, feature = "testing"))]
pub fn tiles(gpu: &crate::driver::Gpu, p: &Conv3d, pass: Operator) -> Result<usize> {
    let (on, mut count) = (cuda::Generation::of(gpu), 0);
    while cuda::Plan::with_tile(p, pass, crate::tensor::DType::BF16, on, count, None)?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// A pass of `p` on a GPU with a given tile, so that a test can run each tile on small problems. `None` if there is no
/// such tile, and on the CPU. `inputs` are those of the pass, of one data type.
///
/// # Errors
/// `DType` or `Shape` when the inputs are not those of the pass; on a GPU also errors of its driver.
#[cfg(any(test, feature = "testing"))]
pub fn on_tile(p: &Conv3d, pass: Operator, tile: usize, inputs: [&Tensor; 2]) -> Result<Option<Tensor>> {
    on_tile_with(p, pass, tile, inputs, None)
}

/// The same of fprop or wgrad with normalisation and ReLU of `x` in the pass; `None` also where the tile has no such kernel.
///
/// # Errors
/// As [`on_tile`].
#[cfg(any(test, feature = "testing"))]
pub fn on_tile_normed(
    p: &Conv3d,
    pass: Operator,
    tile: usize,
    inputs: [&Tensor; 2],
    norm: &Norm,
) -> Result<Option<Tensor>> {
    on_tile_with(p, pass, tile, inputs, Some(norm))
}

#[cfg(any(test, feature = "testing"))]
fn on_tile_with(
    p: &Conv3d,
    pass: Operator,
    tile: usize,
    inputs: [&Tensor; 2],
    norm: Option<&Norm>,
) -> Result<Option<Tensor>> {
    let shapes = match pass {
        Operator::Fprop => [p.x_shape(), p.w_shape()],
        Operator::Dgrad => [p.y_shape(), p.w_shape()],
        Operator::Wgrad => [p.x_shape(), p.y_shape()],
    };
    for (input, shape) in inputs.iter().zip(shapes) {
        input.expect("conv3d", "inputs", inputs[0].dtype())?;
        if input.shape() != shape {
            return Err(Error::shape("conv3d", "inputs", shape, input.shape()));
        }
    }
    match inputs[0].place("conv3d", &[("inputs", inputs[1])])? {
        Place::Cpu => Ok(None),
        Place::Gpu(gpu) => cuda::on_tile(gpu, p, pass, tile, inputs, norm),
    }
}

/// dgrad of bf16 with a given tile between two batch norms: of `dy`, or of the gradient that the norm `of` (its input, the norm, and
/// the slopes `[parts 2 k]`) has if `dy` is that of its result, with the epilogue for the norm `to` (its input, ReLU's signs, what
/// is added, and the norm). Returns `dx`, the sums of the epilogue, and the gradient that was formed. `None` where the tile has no
/// such kernel.
///
/// # Errors
/// Those of a GPU's driver.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::type_complexity, reason = "tuples are what tests have")]
pub fn on_tile_between(
    p: &Conv3d,
    tile: usize,
    [dy, w]: [&Tensor; 2],
    of: Option<(&Tensor, &Norm, &Tensor)>,
    to: Option<(&Tensor, Option<&Signs>, Option<&Tensor>, &Norm)>,
) -> Result<Option<(Tensor, Option<Tensor>, Option<Tensor>)>> {
    let Place::Gpu(gpu) = dy.place("conv3d", &[("w", w)])? else { return Ok(None) };
    let parts = of.map_or(1, |of| of.1.parts());
    let groups = to.map_or(parts, |to| to.3.parts());
    let on = cuda::Generation::of(gpu);
    let plan = cuda::Plan::with_tile(p, Operator::Dgrad, dy.dtype(), on, tile, Some(groups))?;
    let plan = plan.and_then(|plan| if of.is_some() { plan.forming(p, parts) } else { Some(plan) });
    let Some(plan) = plan else { return Ok(None) };
    cuda::dgrad_on(gpu, p, plan, [dy, w], of.map(unformed).as_ref(), to).map(Some)
}

/// The gradient that [`on_tile_between`] forms, in a pass of its own.
///
/// # Errors
/// `Device` on the CPU; those of a GPU's driver.
#[cfg(any(test, feature = "testing"))]
pub fn formed_apart(dy: &Tensor, of: (&Tensor, &Norm, &Tensor)) -> Result<Tensor> {
    unformed(of).form(dy)
}

#[cfg(any(test, feature = "testing"))]
fn unformed((x, norm, slopes): (&Tensor, &Norm, &Tensor)) -> Unformed {
    Unformed { x: x.clone(), norm: norm.clone(), slopes: slopes.clone() }
}
