//! Tensors that tests compute on, and their numbers.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::borrow::Cow;
use tubelet::rng::{Purpose, stream};
use tubelet::shape::Shape;
use tubelet::tensor::Tensor;

/// Numbers in -1..1, the same for the same `seed`.
pub fn reals(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = stream(seed, 0, 0, Purpose::Test);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// [`reals`] as `n d`.
pub fn matrix(n: usize, d: usize, seed: u64) -> Tensor {
    tensor(&[n, d], &reals(n * d, seed))
}

/// Numbers in -2..2, the same for the same `seed`: twice those of [`reals`].
pub fn noise(seed: u64, shape: &[usize]) -> Tensor {
    tensor(shape, &reals(Shape::new(shape).len(), seed).iter().map(|v| 2.0 * v).collect::<Vec<_>>())
}

/// Integers in -4..=4: sums of products of a few thousand of them are exact.
pub fn integers(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = stream(seed, 0, 0, Purpose::Test);
    let data: Vec<f32> = (0..Shape::new(shape).len()).map(|_| rng.random_range(-4i8..=4).into()).collect();
    tensor(shape, &data)
}

/// What draws one number after the other: [`integer`], [`real`].
pub type Draw = fn(&mut ChaCha8Rng) -> f32;

/// A generator for [`drawn`].
pub fn seeded(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Small integers, which bf16 holds: every sum of their products is exact in f32, in any order.
pub fn integer(r: &mut ChaCha8Rng) -> f32 {
    r.random_range(-4i32..=4) as f32
}

/// Numbers in -1..1.
pub fn real(r: &mut ChaCha8Rng) -> f32 {
    r.random_range(-1.0f32..1.0)
}

/// A tensor of the next numbers of `r`.
pub fn drawn(r: &mut ChaCha8Rng, shape: impl Into<Shape>, draw: Draw) -> Tensor {
    let shape = shape.into();
    let data: Vec<f32> = (0..shape.len()).map(|_| draw(r)).collect();
    Tensor::from_f32(shape, &data).unwrap()
}

pub fn tensor(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_f32(Shape::new(shape), data).unwrap()
}

/// The elements.
pub fn data(x: &Tensor) -> Vec<f32> {
    x.load().unwrap().into_owned()
}

/// The bits of the elements as f32.
pub fn bits(x: &Tensor) -> Vec<u32> {
    x.load().unwrap().iter().map(|v| v.to_bits()).collect()
}

/// What holds numbers: a tensor on any device, or numbers themselves.
pub trait Numbers {
    fn numbers(&self) -> Cow<'_, [f32]>;
}

impl Numbers for Tensor {
    fn numbers(&self) -> Cow<'_, [f32]> {
        self.load().unwrap()
    }
}

impl Numbers for [f32] {
    fn numbers(&self) -> Cow<'_, [f32]> {
        self.into()
    }
}

impl Numbers for Vec<f32> {
    fn numbers(&self) -> Cow<'_, [f32]> {
        self.into()
    }
}

/// The numbers in f64.
pub fn wide(x: &(impl Numbers + ?Sized)) -> Vec<f64> {
    x.numbers().iter().map(|&v| v.into()).collect()
}

/// `Σ a·b` in f64.
pub fn dot(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    wide(a).iter().zip(wide(b)).map(|(a, b)| a * b).sum()
}
