//! Frequent instructions, for all lanes at once. Their results are also defined in `lane` and `decode::integer`; here
//! they are written in a form that the compiler vectorises.

use super::regs::Regs;
use crate::ins::{File, Hot, Ins};
use crate::lane::float::Relation;
use crate::types::Round;

/// Executes one instruction.
#[inline]
pub(super) fn run(r: &mut Regs, h: Hot, ins: &Ins, run: u32) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions, as was just checked.
        return unsafe { wide(r, h, ins, run) };
    }
    body(r, h, ins, run);
}

/// The same with 256-bit vectors and fused multiply-add, which otherwise is a function call.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt")]
fn wide(r: &mut Regs, h: Hot, ins: &Ins, run: u32) {
    body(r, h, ins, run);
}

/// Keeps the values of inactive lanes.
#[inline(always)]
fn blend<T: Copy>(d: &mut [T; 32], v: &[T; 32], run: u32) {
    if run == !0 {
        *d = *v;
    } else {
        for l in 0..32 {
            d[l] = if run >> l & 1 == 1 { v[l] } else { d[l] };
        }
    }
}

#[inline(always)]
fn put32(r: &mut Regs, ins: &Ins, run: u32, v: &[u32; 32], def: u32) {
    let d = ins.d.i as usize;
    blend(&mut r.w[d], v, run);
    r.wdef[d] = r.wdef[d] & !run | def & run;
}

#[inline(always)]
fn put64(r: &mut Regs, ins: &Ins, run: u32, v: &[u64; 32], def: u32) {
    let d = ins.d.i as usize;
    blend(&mut r.x[d], v, run);
    r.xdef[d] = r.xdef[d] & !run | def & run;
}

/// Replaces any NaN by the canonical one.
#[inline(always)]
fn canonical(v: f32) -> u32 {
    if v.is_nan() { 0x7fff_ffff } else { v.to_bits() }
}

#[inline(always)]
fn extreme(a: u32, b: u32, max: bool) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let zeros = if max { a & b } else { a | b };
    let ordered = if x == y {
        zeros
    } else if (x > y) == max {
        a
    } else {
        b
    };
    let one = if x.is_nan() { b } else { a };
    let both = if x.is_nan() && y.is_nan() { 0x7fff_ffff } else { one };
    if x.is_nan() || y.is_nan() { both } else { ordered }
}

#[inline(always)]
fn integral(v: f32, mode: Round) -> f32 {
    match mode {
        Round::Near | Round::Away => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}

/// Rounds to bfloat16.
#[inline(always)]
fn bf16(a: u32) -> u32 {
    let rounded = (a.wrapping_add(0x7fff + (a >> 16 & 1))) >> 16;
    if a << 1 > 0xff00_0000 { 0x7fff } else { rounded }
}

#[inline(always)]
fn compare<T: Copy + PartialOrd>(a: &[T; 32], b: &[T; 32], relation: Relation) -> u32 {
    #[inline(always)]
    fn bits<T: Copy>(a: &[T; 32], b: &[T; 32], f: impl Fn(T, T) -> bool) -> u32 {
        let mut m = [0u32; 32];
        for l in 0..32 {
            m[l] = u32::from(f(a[l], b[l])) << l;
        }
        m.iter().fold(0, |x, y| x | y)
    }
    match relation {
        Relation::Eq => bits(a, b, |x, y| x == y),
        // Not `!=`, which is true for NaNs.
        #[allow(clippy::double_comparisons)]
        Relation::Ne => bits(a, b, |x, y| x < y || x > y),
        Relation::Lt => bits(a, b, |x, y| x < y),
        Relation::Le => bits(a, b, |x, y| x <= y),
        Relation::Gt => bits(a, b, |x, y| x > y),
        Relation::Ge => bits(a, b, |x, y| x >= y),
        Relation::Number => bits(a, b, |x, y| x.partial_cmp(&y).is_some()),
        Relation::Nan => bits(a, b, |x, y| x.partial_cmp(&y).is_none()),
    }
}

#[inline(always)]
fn body(r: &mut Regs, h: Hot, ins: &Ins, run: u32) {
    let (a, b, c) = (ins.a.i as usize, ins.b.i as usize, ins.c.i as usize);
    // One, two or three sources of one width, and a result of one width.
    macro_rules! lanes {
        ($src:ident $def:ident, $put:ident $D:ty, |$x:ident| $e:expr) => {{
            let (p, def) = (&r.$src[a], r.$def[a]);
            let mut v: [$D; 32] = [0; 32];
            for l in 0..32 {
                let $x = p[l];
                v[l] = $e;
            }
            $put(r, ins, run, &v, def);
        }};
        ($src:ident $def:ident, $put:ident $D:ty, |$x:ident, $y:ident| $e:expr) => {{
            let (p, q, def) = (&r.$src[a], &r.$src[b], r.$def[a] & r.$def[b]);
            let mut v: [$D; 32] = [0; 32];
            for l in 0..32 {
                let ($x, $y) = (p[l], q[l]);
                v[l] = $e;
            }
            $put(r, ins, run, &v, def);
        }};
        ($src:ident $def:ident, $third:ident $tdef:ident, $put:ident $D:ty, |$x:ident, $y:ident, $z:ident| $e:expr) => {{
            let (p, q, s) = (&r.$src[a], &r.$src[b], &r.$third[c]);
            let def = r.$def[a] & r.$def[b] & r.$tdef[c];
            let mut v: [$D; 32] = [0; 32];
            for l in 0..32 {
                let ($x, $y, $z) = (p[l], q[l], s[l]);
                v[l] = $e;
            }
            $put(r, ins, run, &v, def);
        }};
    }
    macro_rules! w1 { (|$x:ident| $e:expr) => { lanes!(w wdef, put32 u32, |$x| $e) } }
    macro_rules! w2 { (|$x:ident, $y:ident| $e:expr) => { lanes!(w wdef, put32 u32, |$x, $y| $e) } }
    macro_rules! w3 { (|$x:ident, $y:ident, $z:ident| $e:expr) => { lanes!(w wdef, w wdef, put32 u32, |$x, $y, $z| $e) } }
    macro_rules! f1 {
        (|$x:ident| $e:expr) => {
            w1!(|$x| {
                let $x = f32::from_bits($x);
                canonical($e)
            })
        };
    }
    macro_rules! f2 {
        (|$x:ident, $y:ident| $e:expr) => {
            w2!(|$x, $y| {
                let ($x, $y) = (f32::from_bits($x), f32::from_bits($y));
                canonical($e)
            })
        };
    }
    macro_rules! x2 { (|$x:ident, $y:ident| $e:expr) => { lanes!(x xdef, put64 u64, |$x, $y| $e) } }
    match h {
        Hot::Mov32 => w1!(|x| x),
        Hot::Mov64 => lanes!(x xdef, put64 u64, |x| x),
        Hot::Add32 => w2!(|x, y| x.wrapping_add(y)),
        Hot::Sub32 => w2!(|x, y| x.wrapping_sub(y)),
        Hot::Mul32 => w2!(|x, y| x.wrapping_mul(y)),
        Hot::Mad32 => w3!(|x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Hot::And32 => w2!(|x, y| x & y),
        Hot::Or32 => w2!(|x, y| x | y),
        Hot::Xor32 => w2!(|x, y| x ^ y),
        Hot::Not32 => w1!(|x| !x),
        Hot::Neg32 => w1!(|x| x.wrapping_neg()),
        Hot::Shl32 => w2!(|x, y| if y > 31 { 0 } else { x << (y & 31) }),
        Hot::ShrU32 => w2!(|x, y| if y > 31 { 0 } else { x >> (y & 31) }),
        Hot::ShrS32 => w2!(|x, y| ((x as i32) >> y.min(31)) as u32),
        Hot::MinS32 => w2!(|x, y| (x as i32).min(y as i32) as u32),
        Hot::MaxS32 => w2!(|x, y| (x as i32).max(y as i32) as u32),
        Hot::MinU32 => w2!(|x, y| x.min(y)),
        Hot::MaxU32 => w2!(|x, y| x.max(y)),
        Hot::MulHiU32 => w2!(|x, y| ((x as u64 * y as u64) >> 32) as u32),
        Hot::Bfe32 => w3!(|x, y, z| {
            let (pos, len) = (y & 255, z & 255);
            let field = if pos > 31 { 0 } else { x >> (pos & 31) };
            if len > 31 { field } else { field & ((1 << (len & 31)) - 1) }
        }),
        Hot::Select32 => {
            let (p, pdef) = (r.p[c], r.pdef[c]);
            let def = pdef & (p & r.wdef[a] | !p & r.wdef[b]);
            let mut v = r.w[b];
            blend(&mut v, &r.w[a], p);
            put32(r, ins, run, &v, def);
        }
        Hot::Add64 => x2!(|x, y| x.wrapping_add(y)),
        Hot::Sub64 => x2!(|x, y| x.wrapping_sub(y)),
        Hot::And64 => x2!(|x, y| x & y),
        Hot::Or64 => x2!(|x, y| x | y),
        Hot::Shl64 => {
            let (p, q, def) = (&r.x[a], &r.w[b], r.xdef[a] & r.wdef[b]);
            let mut v = [0; 32];
            for l in 0..32 {
                v[l] = if q[l] > 63 { 0 } else { p[l] << (q[l] & 63) };
            }
            put64(r, ins, run, &v, def);
        }
        Hot::MulWideS32 => lanes!(w wdef, put64 u64, |x, y| (x as i32 as i64 * y as i32 as i64) as u64),
        Hot::MulWideU32 => lanes!(w wdef, put64 u64, |x, y| x as u64 * y as u64),
        Hot::MadWideS32 => {
            lanes!(w wdef, x xdef, put64 u64, |x, y, z| ((x as i32 as i64 * y as i32 as i64) as u64).wrapping_add(z))
        }
        Hot::MadWideU32 => lanes!(w wdef, x xdef, put64 u64, |x, y, z| (x as u64 * y as u64).wrapping_add(z)),
        Hot::WidenU => lanes!(w wdef, put64 u64, |x| x as u64),
        Hot::WidenS => lanes!(w wdef, put64 u64, |x| x as i32 as i64 as u64),
        Hot::Narrow => lanes!(x xdef, put32 u32, |x| x as u32),
        Hot::FAdd => f2!(|x, y| x + y),
        Hot::FSub => f2!(|x, y| x - y),
        Hot::FMul => f2!(|x, y| x * y),
        Hot::FFma => w3!(|x, y, z| canonical(f32::from_bits(x).mul_add(f32::from_bits(y), f32::from_bits(z)))),
        Hot::FDiv => f2!(|x, y| x / y),
        Hot::FRcp => f1!(|x| 1.0 / x),
        Hot::FSqrt => f1!(|x| x.sqrt()),
        Hot::FMin => w2!(|x, y| extreme(x, y, false)),
        Hot::FMax => w2!(|x, y| extreme(x, y, true)),
        Hot::FNeg => w1!(|x| x ^ 1 << 31),
        Hot::FAbs => w1!(|x| x & !(1 << 31)),
        Hot::S32ToF32 => w1!(|x| (x as i32 as f32).to_bits()),
        Hot::U32ToF32 => w1!(|x| (x as f32).to_bits()),
        Hot::F32ToS32(m) => w1!(|x| integral(f32::from_bits(x), m) as i32 as u32),
        Hot::F32ToF32(m) => w1!(|x| canonical(integral(f32::from_bits(x), m))),
        Hot::F32ToBf16 => w1!(|x| bf16(x)),
        Hot::F32ToBf16x2 => w2!(|x, y| bf16(x) << 16 | bf16(y)),
        Hot::Pack16 => w2!(|x, y| x | y << 16),
        Hot::Unpack16 => {
            let (v, def) = (r.w[a], r.wdef[a]);
            put32(r, ins, run, &v.map(|x| x & 0xffff), def);
            // The second destination is encoded in place of the third source.
            let high = Ins { d: ins.c, op: crate::ins::Op::Fence, ..*ins };
            put32(r, &high, run, &v.map(|x| x >> 16), def);
        }
        Hot::CompareS32(relation) => {
            let bits = compare(&r.w[a].map(|x| x as i32), &r.w[b].map(|x| x as i32), relation);
            r.put_pred(ins.d.i, run, bits, r.wdef[a] & r.wdef[b]);
        }
        Hot::CompareU32(relation) => {
            let bits = compare(&r.w[a], &r.w[b], relation);
            r.put_pred(ins.d.i, run, bits, r.wdef[a] & r.wdef[b]);
        }
        Hot::CompareS64(relation) => {
            let bits = compare(&r.x[a].map(|x| x as i64), &r.x[b].map(|x| x as i64), relation);
            r.put_pred(ins.d.i, run, bits, r.xdef[a] & r.xdef[b]);
        }
        Hot::CompareU64(relation) => {
            let bits = compare(&r.x[a], &r.x[b], relation);
            r.put_pred(ins.d.i, run, bits, r.xdef[a] & r.xdef[b]);
        }
        Hot::CompareF32(relation, unordered) => {
            let (x, y) = (r.w[a].map(f32::from_bits), r.w[b].map(f32::from_bits));
            let mut bits = compare(&x, &y, relation);
            if unordered {
                bits |= compare(&x, &y, Relation::Nan);
            }
            r.put_pred(ins.d.i, run, bits, r.wdef[a] & r.wdef[b]);
        }
    }
    debug_assert!(
        ins.d.file != File::P
            || matches!(
                h,
                Hot::CompareS32(_) | Hot::CompareU32(_) | Hot::CompareS64(_) | Hot::CompareU64(_) | Hot::CompareF32(..)
            )
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Class;
    use crate::exec::Mix;
    use crate::ins::{Op, Slot};

    /// Registers of random bits, of which any lane may be uninitialised.
    fn registers(mix: &mut Mix) -> Regs {
        let mut r = Regs::empty([8, 8, 8]);
        for i in 0..8 {
            (r.p[i], r.pdef[i]) = (mix.next() as u32, mix.next() as u32);
            (r.wdef[i], r.xdef[i]) = (mix.next() as u32, mix.next() as u32);
            for l in 0..32 {
                r.x[i][l] = mix.next();
                // Shift counts, floats of similar magnitude, and arbitrary values.
                r.w[i][l] = match mix.next() % 3 {
                    0 => mix.next() as u32 & 63,
                    1 => (mix.next() as i32 as f32 / 1e7).to_bits(),
                    _ => mix.next() as u32,
                };
            }
        }
        r
    }

    #[test]
    fn vectors_change_nothing_and_lanes_that_do_not_run_stay() {
        use Hot::*;
        let modes = [Round::Near, Round::Zero, Round::Down, Round::Up];
        let relations =
            [Relation::Eq, Relation::Ne, Relation::Lt, Relation::Le, Relation::Gt, Relation::Ge, Relation::Nan];
        let mut all = vec![
            Mov32,
            Add32,
            Sub32,
            Mul32,
            Mad32,
            And32,
            Or32,
            Xor32,
            Not32,
            Neg32,
            Shl32,
            ShrU32,
            ShrS32,
            MinS32,
            MaxS32,
            MinU32,
            MaxU32,
            MulHiU32,
            Bfe32,
            Select32,
            FAdd,
            FSub,
            FMul,
            FFma,
            FDiv,
            FRcp,
            FSqrt,
            FMin,
            FMax,
            FNeg,
            FAbs,
            S32ToF32,
            U32ToF32,
            F32ToBf16,
            F32ToBf16x2,
            Pack16,
            Unpack16,
            Narrow,
            Mov64,
            Add64,
            Sub64,
            And64,
            Or64,
            Shl64,
            MulWideS32,
            MulWideU32,
            MadWideS32,
            MadWideU32,
            WidenU,
            WidenS,
        ];
        all.extend(modes.iter().flat_map(|m| [F32ToS32(*m), F32ToF32(*m)]));
        all.extend(relations.iter().flat_map(|r| [CompareS32(*r), CompareU32(*r), CompareS64(*r), CompareU64(*r)]));
        all.extend(relations.iter().flat_map(|r| [CompareF32(*r, false), CompareF32(*r, true)]));
        let mut mix = Mix(1);
        for h in all {
            for round in 0..50 {
                let mask = if round == 0 { !0 } else { mix.next() as u32 };
                let slot = |file, i| Slot { file, bits: 32, i };
                let file = match h {
                    CompareS32(_) | CompareU32(_) | CompareS64(_) | CompareU64(_) | CompareF32(..) => File::P,
                    Mov64 | Add64 | Sub64 | And64 | Or64 | Shl64 | MulWideS32 | MulWideU32 | MadWideS32
                    | MadWideU32 | WidenU | WidenS => File::X,
                    _ => File::W,
                };
                let [a, b, c] = [2, 3, 4].map(|i| slot(File::W, i));
                let d = slot(file, if round % 2 == 0 { 5 } else { 2 });
                let (op, class) = (Op::Hot(h), Class::Move);
                let ins = Ins { op, guard: 0, negate: 0, d, a, b, c, e: Slot::NONE, class, line: 0, rank: 0 };
                let before = registers(&mut mix);
                let (mut one, mut other) = (before.clone(), before.clone());
                run(&mut one, h, &ins, mask);
                body(&mut other, h, &ins, mask);
                assert_eq!((&one.w, &one.x, &one.p), (&other.w, &other.x, &other.p), "{h:?}");
                assert_eq!((&one.wdef, &one.xdef, &one.pdef), (&other.wdef, &other.xdef, &other.pdef), "{h:?}");
                for i in 0..8 {
                    for l in (0..32).filter(|l| mask >> l & 1 == 0) {
                        assert_eq!((one.w[i][l], one.x[i][l]), (before.w[i][l], before.x[i][l]), "{h:?}");
                    }
                    assert_eq!((one.p[i] ^ before.p[i]) & !mask, 0, "{h:?}");
                }
            }
        }
    }
}
