//! Random operands.

use tubelet::shape::Shape;
use tubelet::tensor::Tensor;

/// Random numbers in -1..1, the same for the same `seed`.
pub fn noise(shape: impl Into<Shape>, seed: u64) -> Tensor {
    let shape = shape.into();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let data: Vec<f32> = std::iter::repeat_with(&mut next).take(shape.len()).collect();
    Tensor::from_f32(shape, &data).expect("as many numbers as the shape has")
}
