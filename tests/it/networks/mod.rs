//! Networks: sizes, names, parity with PyTorch, weights from elsewhere.

pub mod image_weights;
pub mod mcl;
pub mod p3d;
pub mod r3d;
