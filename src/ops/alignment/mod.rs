//! MCL's alignment with motion (`docs/papers/mcl.md` section 3.4): the gradient map, and its cosine losses against a
//! target.
//!
//! ```text
//! map      m[n t h w] = Σ_c w[n t c] · f[n t h w c]        w[n t c] = mean over h w of g[n t h w c]
//! losses   L = 1/n Σ_n  a·(1 - S_st) + b·(1 - S_s) + c·(1 - S_t)
//!          S_st = Σ_t softmax_t(Σ_hw Y) · cos(P[t], Y[t])   S_s = cos(mean_t P, mean_t Y)   S_t = cos(Σ_hw P, Σ_hw Y)
//! ```
//! The map is bilinear and its adjoints are operations of the same kind, so three operations are closed under
//! differentiation, as those of a convolution are. The losses have a fused gradient and a fused derivative of it.
//! `docs/math/alignment.md` has the derivations.
//!
//! Everything is f32: gradients of a mean over positions are small, and their products smaller (a bf16 network casts
//! first). The losses are computed in f64, so that squares of tiny values do not underflow.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use grad::{Loss, channel_map, map_alignment};

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::{DType, Place, Tensor};

/// Vectors shorter than this are divided by it instead of by their length, as PyTorch's `F.normalize` does.
pub const EPS: f32 = 1e-12;

/// With [`Cosines::centred`], vectors whose deviation from their mean is shorter than this fraction of their length
/// count as flat: what is left of them is rounding error, and has no meaningful direction.
pub(crate) const FLAT: f64 = 1.0 / (1 << 20) as f64;

/// Weights of the three terms; 0 switches one off.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Terms {
    /// Weight of `1 - S_st`: a cosine per frame, the frames weighted by how much moves in them.
    pub spatio_temporal: f32,
    /// Weight of `1 - S_s`: the cosine of the mean maps.
    pub spatial: f32,
    /// Weight of `1 - S_t`: the cosine of the sums of the frames.
    pub temporal: f32,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { spatio_temporal: 1.0, spatial: 1.0, temporal: 1.0 }
    }
}

/// What the softmax over frames is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum TargetNorm {
    /// The sums of the target as they are, as the release does. They are in the hundreds, so one frame usually gets
    /// nearly all of the weight.
    Raw,
    /// The sums of the target divided by its mean over `t h w`: the weights do not depend on the target's unit.
    #[default]
    Mean,
}

/// How maps are compared with targets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Cosines {
    /// Weights of the terms.
    pub terms: Terms,
    /// What the softmax over frames is computed from.
    pub target_norm: TargetNorm,
    /// Whether each cosine is of vectors with their means subtracted (a correlation), so that a constant map gains
    /// nothing.
    pub centred: bool,
}

/// The largest weight: weighted sums, and their gradients, stay within the range of f32.
const MOST_WEIGHT: f32 = 1e9;

impl Cosines {
    /// Checks that the weights are in range.
    ///
    /// # Errors
    /// `Param` when a weight is not from 0 to 10⁹.
    pub fn check(&self) -> Result<()> {
        let Terms { spatio_temporal, spatial, temporal } = self.terms;
        for (name, weight) in [("spatio_temporal", spatio_temporal), ("spatial", spatial), ("temporal", temporal)] {
            if !(0.0..=MOST_WEIGHT).contains(&weight) {
                let rule = format!("a weight is at least 0 and at most {MOST_WEIGHT:e}");
                return Err(Error::param("map_alignment", name, weight, rule));
            }
        }
        Ok(())
    }
}

/// The map of `g` and `f`, both `n t h w c` of f32: `m[n t h w] = Σ_c w[n t c] f[n t h w c]`, where `w` is the mean of
/// `g` over `h w`. In MCL's released form `f = g`, the gradient of a similarity; in Grad-CAM `f` is the features.
///
/// # Errors
/// `Shape` when `g` is not a non-empty `n t h w c` or `f` has another shape; `DType` for types other than f32; `Device`
/// when they are on different devices.
pub fn map_forward(g: &Tensor, f: &Tensor) -> Result<Tensor> {
    let p = Map::new("g", g)?;
    p.expect("f", f, g.shape())?;
    match g.place(MAP, &[("f", f)])? {
        Place::Cpu => {
            let _pass = traffic::pass(MAP, || p.work([2, 0], [0, 1]));
            let (gs, fs) = (g.host()?, f.host()?);
            Tensor::build(p.cells(), |m| cpu::map::forward(&p, &gs, &fs, m))
        }
        Place::Gpu(gpu) => cuda::map_forward(gpu, &p, g, f),
    }
}

/// The gradient of [`map_forward`] by `f`, given `d`, the gradient by the map (`n t h w`): `w[n t c] d[n t h w]`, with the
/// weights of `g` (`n t h w c`).
///
/// # Errors
/// As [`map_forward`].
pub fn map_backward_f(g: &Tensor, d: &Tensor) -> Result<Tensor> {
    let p = Map::new("g", g)?;
    p.expect("d", d, p.cells())?;
    match g.place(MAP, &[("d", d)])? {
        Place::Cpu => {
            let _pass = traffic::pass("channel_map backward", || p.work([1, 1], [1, 0]));
            let (gs, ds) = (g.host()?, d.host()?);
            Tensor::build(g.shape(), |df| cpu::map::backward_f(&p, &gs, &ds, df))
        }
        Place::Gpu(gpu) => cuda::map_backward_f(gpu, &p, g, d),
    }
}

/// The gradient of [`map_forward`] by `g`, given `d`, the gradient by the map (`n t h w`): the mean over `h w` of `d f`, at
/// every position (`n t h w c`, as `f`).
///
/// # Errors
/// As [`map_forward`].
pub fn map_backward_g(d: &Tensor, f: &Tensor) -> Result<Tensor> {
    let p = Map::new("f", f)?;
    p.expect("d", d, p.cells())?;
    match f.place(MAP, &[("d", d)])? {
        Place::Cpu => {
            let _pass = traffic::pass("channel_map backward", || p.work([1, 1], [1, 0]));
            let (ds, fs) = (d.host()?, f.host()?);
            Tensor::build(f.shape(), |dg| cpu::map::backward_g(&p, &ds, &fs, dg))
        }
        Place::Gpu(gpu) => cuda::map_backward_g(gpu, &p, d, f),
    }
}

const MAP: &str = "channel_map";
const ALIGN: &str = "map_alignment";

/// The extents of a channel map.
#[derive(Clone, Copy, Debug)]
struct Map {
    /// `n t h w`
    dims: [usize; 4],
    /// Channels.
    c: usize,
}

impl Map {
    fn new(arg: &'static str, x: &Tensor) -> Result<Map> {
        let [n, t, h, w, c] = x.shape().nthwc(MAP, arg)?;
        x.expect(MAP, arg, DType::F32)?;
        if x.shape().is_empty() {
            return Err(Error::shape(MAP, arg, "n t h w c with elements", x.shape()));
        }
        Ok(Map { dims: [n, t, h, w], c })
    }

    fn cells(&self) -> Shape {
        Shape::from(self.dims)
    }

    /// Positions of a frame.
    fn area(&self) -> usize {
        self.dims[2] * self.dims[3]
    }

    /// A pass that reads and writes so many arrays of features and of maps, one task a frame.
    fn work(&self, read: [usize; 2], wrote: [usize; 2]) -> Work {
        let cells: usize = self.dims.iter().product();
        let [read, wrote] = [read, wrote].map(|[features, maps]| cells * (features * self.c + maps));
        Work { tasks: self.dims[0] * self.dims[1], ..Work::wide(read, wrote) }
    }

    fn expect(&self, arg: &'static str, x: &Tensor, shape: Shape) -> Result<()> {
        if x.shape() != shape {
            return Err(Error::shape(MAP, arg, shape, x.shape()));
        }
        x.expect(MAP, arg, DType::F32)
    }
}

/// The extents of maps: samples, frames, positions of a frame.
#[derive(Clone, Copy, Debug)]
struct Grid {
    n: usize,
    t: usize,
    area: usize,
}

impl Grid {
    /// A pass that reads and writes so many maps, one task a sample.
    fn work(&self, read: usize, wrote: usize) -> Work {
        let cells = self.n * self.t * self.area;
        Work { tasks: self.n, ..Work::wide(read * cells, wrote * cells) }
    }
}

/// The loss of maps `p` against targets `y`, both `n t h w` of f32: a scalar. Also `[4]`: the means over `n` of `1 -
/// S_st`, `1 - S_s`, `1 - S_t` without their weights, and of the plain cosine of `p` and `y` over all `t h w`.
///
/// A frame or sample of `y` without motion has cosine 0 and contributes no gradient.
///
/// # Errors
/// `Shape` when `p` is not a non-empty `n t h w` or `y` has another shape (on a GPU also for more than 448 frames);
/// `DType` for types other than f32; `Param`, see [`Cosines::check`]; `Device` when they are on different devices.
pub fn forward(p: &Tensor, y: &Tensor, how: &Cosines) -> Result<(Tensor, Tensor)> {
    let grid = grid(p, &[("y", y)], how)?;
    match p.place(ALIGN, &[("y", y)])? {
        Place::Cpu => {
            let _pass = traffic::pass(ALIGN, || grid.work(2, 0));
            let [loss, stats @ ..] = cpu::cosines::forward(&grid, &p.host()?, &y.host()?, how);
            Ok((Tensor::scalar(loss), Tensor::from_f32([4], &stats)?))
        }
        Place::Gpu(gpu) => cuda::forward(gpu, &grid, p, y, how),
    }
}

/// The gradient of [`forward`]'s loss by `p`, times the scalar `dy`: `n t h w`.
///
/// # Errors
/// As [`forward`], and `Shape` when `dy` is not a scalar.
pub fn backward(p: &Tensor, y: &Tensor, how: &Cosines, dy: &Tensor) -> Result<Tensor> {
    let grid = grid(p, &[("y", y)], how)?;
    one_number(dy)?;
    match p.place(ALIGN, &[("y", y), ("dy", dy)])? {
        Place::Cpu => {
            let _pass = traffic::pass("map_alignment backward", || grid.work(2, 1));
            let dy = dy.item()?;
            let (ps, ys) = (p.host()?, y.host()?);
            Tensor::build(p.shape(), |dp| cpu::cosines::backward(&grid, &ps, &ys, how, dy, dp))
        }
        Place::Gpu(gpu) => cuda::backward(gpu, &grid, p, y, how, dy),
    }
}

/// The derivative of [`backward`] by `p` along `u` (`n t h w`): the Hessian of the loss, which is symmetric, times `u`
/// and `dy`.
///
/// # Errors
/// As [`backward`].
pub fn double_backward(p: &Tensor, y: &Tensor, how: &Cosines, dy: &Tensor, u: &Tensor) -> Result<Tensor> {
    let grid = grid(p, &[("y", y), ("u", u)], how)?;
    one_number(dy)?;
    match p.place(ALIGN, &[("y", y), ("dy", dy), ("u", u)])? {
        Place::Cpu => {
            let _pass = traffic::pass("map_alignment backward", || grid.work(3, 1));
            let dy = dy.item()?;
            let (ps, ys, us) = (p.host()?, y.host()?, u.host()?);
            Tensor::build(p.shape(), |out| cpu::cosines::bwd2(&grid, &ps, &ys, how, dy, &us, out))
        }
        Place::Gpu(gpu) => cuda::double_backward(gpu, &grid, p, y, how, dy, u),
    }
}

fn grid(p: &Tensor, others: &[(&'static str, &Tensor)], how: &Cosines) -> Result<Grid> {
    how.check()?;
    let &[n, t, h, w] = p.dims() else { return Err(Error::shape(ALIGN, "p", "n t h w", p.shape())) };
    p.expect(ALIGN, "p", DType::F32)?;
    if p.shape().is_empty() {
        return Err(Error::shape(ALIGN, "p", "n t h w with elements", p.shape()));
    }
    for (arg, x) in others {
        if x.shape() != p.shape() {
            return Err(Error::shape(ALIGN, arg, p.shape(), x.shape()));
        }
        x.expect(ALIGN, arg, DType::F32)?;
    }
    Ok(Grid { n, t, area: h * w })
}

fn one_number(dy: &Tensor) -> Result<()> {
    if dy.shape().len() != 1 {
        return Err(Error::shape(ALIGN, "dy", "one number", dy.shape()));
    }
    dy.expect(ALIGN, "dy", DType::F32)
}
