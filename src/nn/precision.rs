//! The precision in which a network computes.

use crate::ops::conv3d::Products;
use crate::tensor::DType;
use std::fmt;
use std::str::FromStr;

/// The data type of activations, and how convolutions compute products of f32 numbers. Parameters, their gradients,
/// statistics, sums and losses are f32 in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Precision {
    /// f32 throughout; convolutions with [`Products::F32`], as exact as f32 for numbers from 2⁻¹⁰² (2·10⁻³¹) on.
    #[default]
    F32,
    /// The same with [`Products::Fma`], over the full range of f32.
    Fma,
    /// Activations and the weights of convolutions and linear layers rounded to bf16.
    Bf16,
    /// Stored in f32; convolutions with [`Products::Bf16x3`].
    Bf16x3,
    /// Stored in f32; convolutions with [`Products::Bf16x6`], over the range of [`Precision::F32`].
    Bf16x6,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 5] =
        [Precision::F32, Precision::Fma, Precision::Bf16, Precision::Bf16x3, Precision::Bf16x6];

    /// The data type of activations.
    #[must_use]
    pub fn dtype(self) -> DType {
        if self == Precision::Bf16 { DType::BF16 } else { DType::F32 }
    }

    /// How convolutions compute products of f32 numbers.
    #[must_use]
    pub fn products(self) -> Products {
        match self {
            Precision::F32 | Precision::Bf16 => Products::F32,
            Precision::Fma => Products::Fma,
            Precision::Bf16x3 => Products::Bf16x3,
            Precision::Bf16x6 => Products::Bf16x6,
        }
    }

    /// `f32`, `fma`, `bf16`, `bf16x3` or `bf16x6`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Fma => "fma",
            Precision::Bf16 => "bf16",
            Precision::Bf16x3 => "bf16x3",
            Precision::Bf16x6 => "bf16x6",
        }
    }
}

impl From<DType> for Precision {
    fn from(dtype: DType) -> Precision {
        match dtype {
            DType::F32 => Precision::F32,
            DType::BF16 => Precision::Bf16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    /// # Errors
    /// One sentence with the valid names.
    fn from_str(name: &str) -> Result<Precision, String> {
        let names = || Precision::ALL.map(Precision::name).join(", ");
        Precision::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| format!("{name:?} is none of {}", names()))
    }
}
