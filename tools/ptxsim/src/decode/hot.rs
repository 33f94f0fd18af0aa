//! Frequent instructions, for which there are vectorised loops.

use crate::ins::{File, Hot, Ins, Op, Slot};
use crate::lane::float::{Compare, Convert, FloatKind, FloatOp};
use crate::types::{Round, Type};

/// The vectorised form of an integer instruction.
pub(super) fn integer(root: &str, half: &str, ty: Type) -> Option<Hot> {
    use Type::*;
    Some(match (root, half, ty) {
        ("add", "", U32 | S32) => Hot::Add32,
        ("sub", "", U32 | S32) => Hot::Sub32,
        ("mul", "lo", U32 | S32) => Hot::Mul32,
        ("mad", "lo", U32 | S32) => Hot::Mad32,
        ("and", "", B32) => Hot::And32,
        ("or", "", B32) => Hot::Or32,
        ("xor", "", B32) => Hot::Xor32,
        ("not", "", B32) => Hot::Not32,
        ("neg", "", S32) => Hot::Neg32,
        ("shl", "", B32) => Hot::Shl32,
        ("shr", "", U32 | B32) => Hot::ShrU32,
        ("shr", "", S32) => Hot::ShrS32,
        ("min", "", S32) => Hot::MinS32,
        ("max", "", S32) => Hot::MaxS32,
        ("min", "", U32) => Hot::MinU32,
        ("max", "", U32) => Hot::MaxU32,
        ("mul", "hi", U32) => Hot::MulHiU32,
        ("bfe", "", U32) => Hot::Bfe32,
        ("add", "", U64 | S64) => Hot::Add64,
        ("sub", "", U64 | S64) => Hot::Sub64,
        ("and", "", B64) => Hot::And64,
        ("or", "", B64) => Hot::Or64,
        ("shl", "", B64) => Hot::Shl64,
        ("mul", "wide", S32) => Hot::MulWideS32,
        ("mul", "wide", U32) => Hot::MulWideU32,
        ("mad", "wide", S32) => Hot::MadWideS32,
        ("mad", "wide", U32) => Hot::MadWideU32,
        _ => return None,
    })
}

fn float(f: &FloatOp) -> Option<Hot> {
    use FloatKind::*;
    if f.ty != Type::F32 || f.round != Round::Near || f.ftz || f.sat || f.nan {
        return None;
    }
    Some(match f.kind {
        Add => Hot::FAdd,
        Sub => Hot::FSub,
        Mul => Hot::FMul,
        Fma => Hot::FFma,
        Div => Hot::FDiv,
        Rcp => Hot::FRcp,
        Sqrt => Hot::FSqrt,
        Min => Hot::FMin,
        Max => Hot::FMax,
        Neg => Hot::FNeg,
        Abs => Hot::FAbs,
        _ => return None,
    })
}

fn convert(c: &Convert, d: Slot, a: Slot) -> Option<Hot> {
    use Type::*;
    if c.sat || c.relu || c.ftz {
        return None;
    }
    Some(match (c.to, c.from) {
        (U64 | S64, U32) if a.bits == 32 => Hot::WidenU,
        (U64 | S64, S32) if a.bits == 32 => Hot::WidenS,
        (U32 | S32, U64 | S64) if d.bits == 32 => Hot::Narrow,
        (F32, S32) if c.round == Round::Near && a.bits == 32 => Hot::S32ToF32,
        (F32, U32) if c.round == Round::Near && a.bits == 32 => Hot::U32ToF32,
        (S32, F32) if d.bits == 32 => Hot::F32ToS32(c.round),
        (F32, F32) if c.integral => Hot::F32ToF32(c.round),
        (BF16, F32) if c.round == Round::Near && d.bits == 16 => Hot::F32ToBf16,
        (BF16x2, F32) if c.round == Round::Near => Hot::F32ToBf16x2,
        _ => return None,
    })
}

fn compare(c: &Compare) -> Option<Hot> {
    Some(match c.ty {
        Type::S32 => Hot::CompareS32(c.relation),
        Type::U32 | Type::B32 => Hot::CompareU32(c.relation),
        Type::S64 => Hot::CompareS64(c.relation),
        Type::U64 | Type::B64 => Hot::CompareU64(c.relation),
        Type::F32 if !c.ftz => Hot::CompareF32(c.relation, c.unordered),
        _ => return None,
    })
}

/// Replaces an instruction by its vectorised form, if it has one.
pub(super) fn heat(ins: &mut Ins) {
    let hot = match &ins.op {
        Op::Float(f) => float(f),
        Op::Convert(c) => convert(c, ins.d, ins.a),
        Op::Compare { cmp, combine: None, second: None, .. } => compare(cmp),
        Op::Select if ins.d.file == File::W => Some(Hot::Select32),
        Op::Pack(p) if p.len() == 2 && p[0].bits == 16 => {
            (ins.a, ins.b) = (p[0], p[1]);
            Some(Hot::Pack16)
        }
        Op::Unpack(p) if p.len() == 2 && p[0].bits == 16 => {
            (ins.d, ins.c) = (p[0], p[1]);
            Some(Hot::Unpack16)
        }
        _ => None,
    };
    if let Some(h) = hot {
        ins.op = Op::Hot(h);
    }
}
