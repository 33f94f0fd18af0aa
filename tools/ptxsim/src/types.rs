//! Types and state spaces of PTX.

/// A type of an instruction, a register or a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    B8,
    B16,
    B32,
    B64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
}

impl Type {
    /// The type named by a modifier such as `u32` (without the dot).
    pub fn parse(word: &str) -> Option<Type> {
        use Type::*;
        Some(match word {
            "pred" => Pred,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => BF16,
            "bf16x2" => BF16x2,
            "tf32" => TF32,
            "f32" => F32,
            "f64" => F64,
            _ => return None,
        })
    }

    /// Bytes of a value; 1 for a predicate.
    pub fn size(self) -> u32 {
        use Type::*;
        match self {
            Pred | U8 | S8 | B8 => 1,
            U16 | S16 | B16 | F16 | BF16 => 2,
            U32 | S32 | B32 | F16x2 | BF16x2 | TF32 | F32 => 4,
            U64 | S64 | B64 | F64 => 8,
        }
    }

    /// Bits of a value.
    pub fn bits(self) -> u32 {
        self.size() * 8
    }

    /// Whether values are two's complement integers.
    pub fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Whether values are floating-point numbers.
    pub fn float(self) -> bool {
        use Type::*;
        matches!(self, F16 | F16x2 | BF16 | BF16x2 | TF32 | F32 | F64)
    }
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Device memory, including `.const`.
    Global,
    /// Memory of a block.
    Shared,
    /// Memory of the blocks of a cluster.
    Cluster,
    /// Memory of a thread.
    Local,
    /// The parameters of a launch.
    Param,
    /// Determined by the address: shared, local and parameter memory have windows in the generic address space.
    Generic,
}

/// Start of the window of shared memory in the generic address space.
pub const SHARED_WINDOW: u64 = 1 << 60;
/// Start of the window of local memory in the generic address space.
pub const LOCAL_WINDOW: u64 = 2 << 60;
/// Start of the window of parameters in the generic address space.
pub const PARAM_WINDOW: u64 = 3 << 60;
/// The bits of a generic address that select its window.
pub const WINDOW_MASK: u64 = 0xf << 60;

/// Rounding of an instruction: nearest even, towards zero, down, up, nearest with ties away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Round {
    Near,
    Zero,
    Down,
    Up,
    Away,
}
