//! The harness gradients are checked with.

use rand::RngExt;
use tubelet::rng::{Purpose, stream};
use tubelet::shape::Shape;
use tubelet::tensor::Tensor;

/// Numbers in -2..2, the same for the same `seed`.
pub fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let shape = Shape::new(shape);
    let mut rng = stream(seed, 0, 0, Purpose::Test);
    let data: Vec<f32> = (0..shape.len()).map(|_| rng.random_range(-2.0..2.0)).collect();
    Tensor::from_f32(shape, &data).unwrap()
}
