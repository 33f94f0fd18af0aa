//! Floating-point instructions for one lane: arithmetic in any rounding, comparisons and conversions.

use super::format::{self, BF16, F16, F32, bf16_value, f16_value, redirect, round_to, to_integral, two_sum};
use crate::types::{Round, Type};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatKind {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
    Rsqrt,
    Sin,
    Cos,
    Ex2,
    Lg2,
    Tanh,
    Min,
    Max,
    Neg,
    Abs,
    CopySign,
}

/// An arithmetic instruction on floating-point numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatOp {
    pub kind: FloatKind,
    pub ty: Type,
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    /// `min` and `max` propagate NaN.
    pub nan: bool,
}

const NAN32: u32 = 0x7fff_ffff;

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

impl FloatOp {
    pub fn eval(&self, a: u64, b: u64, c: u64) -> u64 {
        match self.ty {
            Type::F32 => self.single(a as u32, b as u32, c as u32) as u64,
            Type::F64 => self.double(f64::from_bits(a), f64::from_bits(b), f64::from_bits(c)).to_bits(),
            Type::F16x2 | Type::BF16x2 => {
                self.half(a & 0xffff, b & 0xffff, c & 0xffff)
                    | self.half(a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff) << 16
            }
            _ => self.half(a, b, c),
        }
    }

    fn single(&self, a: u32, b: u32, c: u32) -> u32 {
        use FloatKind::*;
        let f = |x: u32| {
            let x = f32::from_bits(x);
            if self.ftz { flush(x) } else { x }
        };
        let (x, y, z) = (f(a), f(b), f(c));
        let mut r = match self.kind {
            Neg => f32::from_bits(x.to_bits() ^ 1 << 31),
            Abs => x.abs(),
            CopySign => f32::from_bits(y.to_bits() & !(1 << 31) | x.to_bits() & 1 << 31),
            Min | Max => {
                f32::from_bits(self.extreme(x as f64, y as f64, |v| (v as f32).to_bits() as u64, NAN32 as u64) as u32)
            }
            _ => {
                let (v, tail) = self.exact(x as f64, y as f64, z as f64);
                if self.round == Round::Near && tail == 0.0 && !v.is_nan() {
                    v as f32
                } else {
                    f32::from_bits(round_to(v, tail, F32, self.round))
                }
            }
        };
        if self.ftz {
            r = flush(r);
        }
        if self.sat {
            // NaN becomes +0.
            r = if r > 0.0 { r.min(1.0) } else { 0.0 };
        }
        if self.relu {
            r = if r > 0.0 || r.is_nan() { r } else { 0.0 };
        }
        r.to_bits()
    }

    /// The result in f64, and the error of rounding to f64, for sources of at most 24 bits.
    fn exact(&self, x: f64, y: f64, z: f64) -> (f64, f64) {
        use FloatKind::*;
        let quotient = |a: f64, b: f64| {
            let q = a / b;
            let r = if q.is_finite() && q != 0.0 { (-q).mul_add(b, a) } else { 0.0 };
            (q, if r == 0.0 { 0.0 } else { r.signum() * b.signum() })
        };
        match self.kind {
            Add => self.sum(x, y),
            Sub => self.sum(x, -y),
            Mul => (x * y, 0.0),
            Fma => self.sum(x * y, z),
            Div => quotient(x, y),
            Rcp => quotient(1.0, x),
            Sqrt => {
                let q = x.sqrt();
                (q, if q > 0.0 && q.is_finite() { (-q).mul_add(q, x) } else { 0.0 })
            }
            Rsqrt => (1.0 / x.sqrt(), 0.0),
            Sin => (x.sin(), 0.0),
            Cos => (x.cos(), 0.0),
            Ex2 => (x.exp2(), 0.0),
            Lg2 => (x.log2(), 0.0),
            Tanh => (x.tanh(), 0.0),
            Min | Max | Neg | Abs | CopySign => unreachable!("computed on the bits"),
        }
    }

    fn sum(&self, a: f64, b: f64) -> (f64, f64) {
        let (s, t) = two_sum(a, b);
        // x - x is -0 when rounding down.
        let s = if s == 0.0 && self.round == Round::Down && (a != 0.0 || a.is_sign_positive() != b.is_sign_positive()) {
            -0.0
        } else {
            s
        };
        (s, t)
    }

    fn extreme(&self, x: f64, y: f64, bits: impl Fn(f64) -> u64, nan: u64) -> u64 {
        let max = self.kind == FloatKind::Max;
        match (x.is_nan(), y.is_nan()) {
            (true, true) => nan,
            (true, false) if self.nan => nan,
            (false, true) if self.nan => nan,
            (true, false) => bits(y),
            (false, true) => bits(x),
            // +0 is greater than -0.
            _ if x == y => bits(if x.is_sign_positive() == max { x } else { y }),
            _ => bits(if (x > y) == max { x } else { y }),
        }
    }

    fn double(&self, x: f64, y: f64, z: f64) -> f64 {
        use FloatKind::*;
        let r = match self.kind {
            Neg => -x,
            Abs => x.abs(),
            CopySign => y.copysign(x),
            Min | Max => f64::from_bits(self.extreme(x, y, f64::to_bits, 0x7fff_ffff_ffff_ffff)),
            Mul => {
                let p = x * y;
                redirect(p, x.mul_add(y, -p), self.round)
            }
            Fma => x.mul_add(y, z),
            _ => {
                let (v, tail) = self.exact(x, y, z);
                redirect(v, tail, self.round)
            }
        };
        // The f64 approximations have a result whose lower 32 bits are zero.
        let r = if self.ftz { f64::from_bits(r.to_bits() & !0xffff_ffff) } else { r };
        if r.is_nan() && !matches!(self.kind, Neg | Abs | CopySign) { f64::from_bits(0x7fff_ffff_ffff_ffff) } else { r }
    }

    fn half(&self, a: u64, b: u64, c: u64) -> u64 {
        use FloatKind::*;
        let (value, f): (fn(u64) -> f64, _) =
            if matches!(self.ty, Type::BF16 | Type::BF16x2) { (bf16_value, BF16) } else { (f16_value, F16) };
        let (x, y, z) = (value(a), value(b), value(c));
        let mut r = match self.kind {
            Neg => a ^ 0x8000,
            Abs => a & 0x7fff,
            Min | Max => self.extreme(x, y, |v| round_to(v, 0.0, f, Round::Near) as u64, 0x7fff),
            _ => {
                let (v, tail) = self.exact(x, y, z);
                round_to(v, tail, f, self.round) as u64
            }
        };
        let v = value(r);
        if self.sat {
            r = if v > 0.0 { round_to(v.min(1.0), 0.0, f, Round::Near) as u64 } else { 0 };
        }
        if self.relu && !(v > 0.0 || v.is_nan()) {
            r = 0;
        }
        r
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Number,
    Nan,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compare {
    pub relation: Relation,
    pub ty: Type,
    /// True if an operand is NaN.
    pub unordered: bool,
    pub ftz: bool,
}

impl Compare {
    pub fn eval(&self, a: u64, b: u64) -> bool {
        use std::cmp::Ordering::*;
        let order = match self.ty {
            t if t.float() => {
                let v = |x: u64| match t {
                    Type::F64 => f64::from_bits(x),
                    Type::F32 if self.ftz => flush(f32::from_bits(x as u32)) as f64,
                    Type::F32 => f32::from_bits(x as u32) as f64,
                    Type::BF16 => bf16_value(x),
                    _ => f16_value(x),
                };
                v(a).partial_cmp(&v(b))
            }
            Type::S64 => Some((a as i64).cmp(&(b as i64))),
            Type::S32 => Some((a as i32).cmp(&(b as i32))),
            Type::S16 => Some((a as i16).cmp(&(b as i16))),
            _ => Some(a.cmp(&b)),
        };
        match (self.relation, order) {
            (Relation::Number, o) => o.is_some(),
            (Relation::Nan, o) => o.is_none(),
            (_, None) => self.unordered,
            (Relation::Eq, Some(o)) => o == Equal,
            (Relation::Ne, Some(o)) => o != Equal,
            (Relation::Lt, Some(o)) => o == Less,
            (Relation::Le, Some(o)) => o != Greater,
            (Relation::Gt, Some(o)) => o == Greater,
            (Relation::Ge, Some(o)) => o != Less,
        }
    }
}

/// A conversion. `packed` takes two sources, the first for the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Convert {
    pub to: Type,
    pub from: Type,
    pub round: Round,
    /// Rounds to an integral value, also if the destination is a float.
    pub integral: bool,
    pub sat: bool,
    pub relu: bool,
    pub ftz: bool,
    pub packed: bool,
}

impl Convert {
    pub fn eval(&self, a: u64, b: u64) -> u64 {
        if self.packed {
            return self.one(a) << 16 | self.one(b);
        }
        self.one(a)
    }

    fn one(&self, a: u64) -> u64 {
        if !self.from.float() {
            let v: i128 = match self.from {
                Type::S8 => a as i8 as i128,
                Type::S16 => a as i16 as i128,
                Type::S32 => a as i32 as i128,
                Type::S64 => a as i64 as i128,
                Type::U8 | Type::B8 => a as u8 as i128,
                Type::U16 | Type::B16 => a as u16 as i128,
                Type::U32 | Type::B32 => a as u32 as i128,
                _ => a as i128,
            };
            return if self.to.float() { self.int_to_float(v) } else { self.int_to_int(v) };
        }
        let v = match self.from {
            Type::F64 => f64::from_bits(a),
            Type::F32 if self.ftz => flush(f32::from_bits(a as u32)) as f64,
            Type::F32 => f32::from_bits(a as u32) as f64,
            Type::BF16 => bf16_value(a),
            _ => f16_value(a),
        };
        if self.to.float() { self.float_to_float(v) } else { self.float_to_int(v) }
    }

    fn range(&self) -> (i128, i128) {
        let bits = self.to.bits();
        if self.to.signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
    }

    fn int_to_int(&self, v: i128) -> u64 {
        let (lo, hi) = self.range();
        let v = if self.sat { v.clamp(lo, hi) } else { v };
        // A signed value narrower than the register that holds it is sign-extended.
        match self.to {
            Type::S8 => v as i8 as u64,
            Type::S16 => v as i16 as u64,
            Type::S32 => v as i32 as u64,
            Type::U8 | Type::B8 => v as u8 as u64,
            Type::U16 | Type::B16 => v as u16 as u64,
            Type::U32 | Type::B32 => v as u32 as u64,
            _ => v as u64,
        }
    }

    fn int_to_float(&self, v: i128) -> u64 {
        // At most 64 bits: split so that both halves are exact in f64.
        let (hi, lo) = ((v >> 32 << 32) as f64, (v & 0xffff_ffff) as f64);
        let (s, t) = two_sum(hi, lo);
        match self.to {
            Type::F64 => redirect(s, t, self.round).to_bits(),
            Type::F32 => round_to(s, t, F32, self.round) as u64,
            Type::BF16 => round_to(s, t, BF16, self.round) as u64,
            _ => round_to(s, t, F16, self.round) as u64,
        }
    }

    fn float_to_int(&self, v: f64) -> u64 {
        let (lo, hi) = self.range();
        let bits = self.to.bits();
        if v.is_nan() {
            return if self.from == Type::F64 || bits == 64 { 1 << (bits - 1) } else { 0 };
        }
        let r = to_integral(v, self.round);
        let clamped = (r as i128).clamp(lo, hi);
        if self.to.signed() { clamped as i64 as u64 } else { clamped as u64 }
    }

    fn float_to_float(&self, v: f64) -> u64 {
        let mut v = if self.integral { to_integral(v, self.round) } else { v };
        if self.sat {
            v = if v > 0.0 { v.min(1.0) } else { 0.0 };
        }
        if self.relu && !(v > 0.0 || v.is_nan()) {
            v = 0.0;
        }
        let f = match self.to {
            Type::F64 => return if v.is_nan() { 0x7fff_ffff_ffff_ffff } else { v.to_bits() },
            Type::F32 => F32,
            Type::TF32 => return tf32(v, self.round),
            Type::BF16 | Type::BF16x2 => BF16,
            _ => F16,
        };
        let bits = format::round_to(v, 0.0, f, self.round);
        if self.ftz && self.to == Type::F32 { flush(f32::from_bits(bits)).to_bits() as u64 } else { bits as u64 }
    }
}

/// An f32 with the lowest 13 bits of its fraction rounded away.
fn tf32(v: f64, mode: Round) -> u64 {
    let x = v as f32;
    if x.is_nan() {
        return NAN32 as u64;
    }
    let b = x.to_bits();
    let rounded = match mode {
        Round::Zero => b,
        Round::Near => b.saturating_add(0xfff + (b >> 13 & 1)),
        _ => b.saturating_add(0x1000),
    };
    (if x.is_infinite() { b } else { rounded } & !0x1fff) as u64
}
