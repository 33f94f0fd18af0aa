//! Creation of a network's parameters, with their initial values.

use super::params::{ParamId, Params, Role};
use crate::rng::{self, Purpose};
use crate::shape::Shape;
use crate::tensor::Tensor;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use std::f64::consts::TAU;

/// Collects the parameters of a network while its structure is built.
///
/// Initial values (`docs/papers/maclr.md` section 2.1): convolutions Kaiming normal over fan-out, linear layers normal,
/// scales 1, biases and shifts 0. Each parameter is drawn from its own random stream, keyed by the seed and its index,
/// so that layers appended at the end change nothing before them.
pub struct Builder {
    params: Params,
    seed: u64,
}

impl Builder {
    /// A builder without parameters. Networks that should have different initial values need different seeds.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Builder { params: Params::new(), seed }
    }

    /// All parameters created.
    #[must_use]
    pub fn finish(self) -> Params {
        self.params
    }

    /// A filter `k kt kh kw c`: normal with variance `2 / (k kt kh kw)`, which preserves the magnitude of gradients
    /// under ReLU.
    ///
    /// # Panics
    /// When main memory has no space for it, as [`Tensor::zeros`]; so do the functions below.
    pub fn conv_weight(&mut self, name: &str, shape: [usize; 5]) -> ParamId {
        let fan_out: usize = shape[..4].iter().product();
        self.normal(name, shape.into(), (2.0 / fan_out as f64).sqrt(), Role::ConvWeight)
    }

    /// A matrix `o i`: normal with standard deviation `deviation`.
    pub fn linear_weight(&mut self, name: &str, shape: [usize; 2], deviation: f64) -> ParamId {
        self.normal(name, shape.into(), deviation, Role::LinearWeight)
    }

    /// `o` rows, of `i` numbers for `i` inputs, or biases for `i` inputs: uniform within `± 1 / √i`, as in PyTorch's
    /// `Linear`.
    pub(super) fn uniform(&mut self, name: &str, shape: Shape, i: usize, role: Role) -> ParamId {
        let bound = (i as f64).powf(-0.5);
        self.drawn(name, shape, role, |out, rng| {
            for o in out {
                *o = (bound * (2.0 * rng.random::<f64>() - 1.0)) as f32;
            }
        })
    }

    /// `channels` equal values.
    pub fn constant(&mut self, name: &str, channels: usize, value: f32, role: Role) -> ParamId {
        self.params.push(name, Tensor::full([channels], value), role)
    }

    fn normal(&mut self, name: &str, shape: Shape, deviation: f64, role: Role) -> ParamId {
        self.drawn(name, shape, role, |out, rng| {
            for pair in out.chunks_mut(2) {
                let (a, b) = normal_pair(rng);
                for (o, v) in pair.iter_mut().zip([a, b]) {
                    *o = (deviation * v) as f32;
                }
            }
        })
    }

    fn drawn(&mut self, name: &str, shape: Shape, role: Role, fill: impl Fn(&mut [f32], &mut ChaCha8Rng)) -> ParamId {
        let mut rng = rng::stream(self.seed, 0, self.params.len() as u64, Purpose::Init);
        let value = Tensor::build(shape, |out| fill(out, &mut rng)).unwrap_or_else(|e| panic!("{name}: {e}"));
        self.params.push(name, value, role)
    }
}

/// Two independent standard normal numbers (Box and Muller 1958).
fn normal_pair(rng: &mut impl Rng) -> (f64, f64) {
    // In (0, 1], so that the logarithm is finite.
    let mut uniform = || ((rng.next_u64() >> 11) + 1) as f64 * 2f64.powi(-53);
    let radius = (-2.0 * uniform().ln()).sqrt();
    let (sin, cos) = (TAU * uniform()).sin_cos();
    (radius * cos, radius * sin)
}
