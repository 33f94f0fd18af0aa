//! Integer, logical and bit instructions compared with Rust's own, on edge cases and random values.

mod support;

use support::lanewise::*;

/// Checks `d = op(a, b, c)` for registers of the given widths.
fn check(text: &str, d: Kind, s: &[Kind], model: impl Fn(u64, u64, u64, u64) -> u64) {
    let cases = inputs(s);
    let got = run(text, d, s, &cases);
    for (c, g) in cases.iter().zip(got) {
        let want = d.cut(model(c[0], c[1], c[2], c[3]));
        assert_eq!(g, want, "{text}: {c:#x?}");
    }
}

#[test]
fn arithmetic_of_32_bits() {
    use Kind::*;
    check("add.s32 D, A, B;", W, &[W, W], |a, b, _, _| a.wrapping_add(b));
    check("sub.u32 D, A, B;", W, &[W, W], |a, b, _, _| a.wrapping_sub(b));
    check("mul.lo.s32 D, A, B;", W, &[W, W], |a, b, _, _| a.wrapping_mul(b));
    check("mul.hi.s32 D, A, B;", W, &[W, W], |a, b, _, _| ((a as i32 as i64 * b as i32 as i64) >> 32) as u64);
    check("mul.hi.u32 D, A, B;", W, &[W, W], |a, b, _, _| (a * b) >> 32);
    check("mad.lo.s32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| a.wrapping_mul(b).wrapping_add(c));
    check("mad.hi.u32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| ((a * b) >> 32).wrapping_add(c));
    check("mul.wide.s32 D, A, B;", X, &[W, W], |a, b, _, _| (a as i32 as i64 * b as i32 as i64) as u64);
    check("mul.wide.u32 D, A, B;", X, &[W, W], |a, b, _, _| a * b);
    check("mad.wide.s32 D, A, B, C;", X, &[W, W, X], |a, b, c, _| {
        ((a as i32 as i64 * b as i32 as i64) as u64).wrapping_add(c)
    });
    check("mad.wide.u32 D, A, B, C;", X, &[W, W, X], |a, b, c, _| (a * b).wrapping_add(c));
    check(
        "div.s32 D, A, B;",
        W,
        &[W, W],
        |a, b, _, _| {
            if b as i32 == 0 { !0 } else { (a as i32).wrapping_div(b as i32) as u64 }
        },
    );
    check("div.u32 D, A, B;", W, &[W, W], |a, b, _, _| a.checked_div(b).unwrap_or(!0));
    check(
        "rem.s32 D, A, B;",
        W,
        &[W, W],
        |a, b, _, _| if b as i32 == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u64 },
    );
    check("rem.u32 D, A, B;", W, &[W, W], |a, b, _, _| a.checked_rem(b).unwrap_or(a));
    check("min.s32 D, A, B;", W, &[W, W], |a, b, _, _| (a as i32).min(b as i32) as u64);
    check("max.s32 D, A, B;", W, &[W, W], |a, b, _, _| (a as i32).max(b as i32) as u64);
    check("min.u32 D, A, B;", W, &[W, W], |a, b, _, _| a.min(b));
    check("max.u32 D, A, B;", W, &[W, W], |a, b, _, _| a.max(b));
    check("neg.s32 D, A;", W, &[W], |a, _, _, _| a.wrapping_neg());
    check("abs.s32 D, A;", W, &[W], |a, _, _, _| (a as i32).wrapping_abs() as u64);
    check("sad.s32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| c + (a as i32).abs_diff(b as i32) as u64);
}

#[test]
fn arithmetic_of_64_and_16_bits() {
    use Kind::*;
    check("add.s64 D, A, B;", X, &[X, X], |a, b, _, _| a.wrapping_add(b));
    check("sub.s64 D, A, B;", X, &[X, X], |a, b, _, _| a.wrapping_sub(b));
    check("mul.lo.s64 D, A, B;", X, &[X, X], |a, b, _, _| a.wrapping_mul(b));
    check("mul.hi.u64 D, A, B;", X, &[X, X], |a, b, _, _| ((a as u128 * b as u128) >> 64) as u64);
    check("mul.hi.s64 D, A, B;", X, &[X, X], |a, b, _, _| ((a as i64 as i128 * b as i64 as i128) >> 64) as u64);
    check("mad.lo.s64 D, A, B, C;", X, &[X, X, X], |a, b, c, _| a.wrapping_mul(b).wrapping_add(c));
    check(
        "div.s64 D, A, B;",
        X,
        &[X, X],
        |a, b, _, _| if b == 0 { !0 } else { (a as i64).wrapping_div(b as i64) as u64 },
    );
    check("rem.u64 D, A, B;", X, &[X, X], |a, b, _, _| a.checked_rem(b).unwrap_or(a));
    check("min.s64 D, A, B;", X, &[X, X], |a, b, _, _| (a as i64).min(b as i64) as u64);
    check("max.u64 D, A, B;", X, &[X, X], |a, b, _, _| a.max(b));
    check("add.s16 D, A, B;", H, &[H, H], |a, b, _, _| a + b);
    check("mul.lo.u16 D, A, B;", H, &[H, H], |a, b, _, _| a * b);
    check("mul.wide.s16 D, A, B;", W, &[H, H], |a, b, _, _| (a as i16 as i32 * b as i16 as i32) as u64);
    check("mul.wide.u16 D, A, B;", W, &[H, H], |a, b, _, _| a * b);
    check("min.s16 D, A, B;", H, &[H, H], |a, b, _, _| (a as i16).min(b as i16) as u64);
    check("shr.s16 D, A, B;", H, &[H, W], |a, b, _, _| ((a as i16) >> b.min(15)) as u64);
    check("shl.b16 D, A, B;", H, &[H, W], |a, b, _, _| if b > 15 { 0 } else { a << b });
}

#[test]
fn logic_and_shifts() {
    use Kind::*;
    check("and.b32 D, A, B;", W, &[W, W], |a, b, _, _| a & b);
    check("or.b32 D, A, B;", W, &[W, W], |a, b, _, _| a | b);
    check("xor.b32 D, A, B;", W, &[W, W], |a, b, _, _| a ^ b);
    check("not.b32 D, A;", W, &[W], |a, _, _, _| !a);
    check("and.b64 D, A, B;", X, &[X, X], |a, b, _, _| a & b);
    check("or.b64 D, A, B;", X, &[X, X], |a, b, _, _| a | b);
    check("xor.b64 D, A, B;", X, &[X, X], |a, b, _, _| a ^ b);
    check("not.b64 D, A;", X, &[X], |a, _, _, _| !a);
    check("and.b16 D, A, B;", H, &[H, H], |a, b, _, _| a & b);
    check("shl.b32 D, A, B;", W, &[W, W], |a, b, _, _| if b > 31 { 0 } else { a << b });
    check("shl.b64 D, A, B;", X, &[X, W], |a, b, _, _| if b > 63 { 0 } else { a << b });
    check("shr.u32 D, A, B;", W, &[W, W], |a, b, _, _| if b > 31 { 0 } else { a >> b });
    check("shr.s32 D, A, B;", W, &[W, W], |a, b, _, _| ((a as i32) >> b.min(31)) as u64);
    check("shr.u64 D, A, B;", X, &[X, W], |a, b, _, _| if b > 63 { 0 } else { a >> b });
    check("shr.s64 D, A, B;", X, &[X, W], |a, b, _, _| ((a as i64) >> b.min(63)) as u64);
    check("shf.l.wrap.b32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| ((b << 32 | a) << (c & 31)) >> 32);
    check("shf.r.wrap.b32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| (b << 32 | a) >> (c & 31));
    check("shf.r.clamp.b32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| (b << 32 | a) >> c.min(32));
    check("lop3.b32 D, A, B, C, 0x96;", W, &[W, W, W], |a, b, c, _| a ^ b ^ c);
    check("lop3.b32 D, A, B, C, 0xca;", W, &[W, W, W], |a, b, c, _| (a & b) | (!a & c));
}

#[test]
fn bits() {
    use Kind::*;
    check("popc.b32 D, A;", W, &[W], |a, _, _, _| a.count_ones() as u64);
    check("popc.b64 D, A;", W, &[X], |a, _, _, _| a.count_ones() as u64);
    check("clz.b32 D, A;", W, &[W], |a, _, _, _| (a as u32).leading_zeros() as u64);
    check("clz.b64 D, A;", W, &[X], |a, _, _, _| a.leading_zeros() as u64);
    check("brev.b32 D, A;", W, &[W], |a, _, _, _| (a as u32).reverse_bits() as u64);
    check("brev.b64 D, A;", X, &[X], |a, _, _, _| a.reverse_bits());
    check("bfind.u32 D, A;", W, &[W], |a, _, _, _| if a == 0 { !0 } else { a.ilog2() as u64 });
    check("bfind.shiftamt.u32 D, A;", W, &[W], |a, _, _, _| if a == 0 { !0 } else { 31 - a.ilog2() as u64 });
    check("bfind.s32 D, A;", W, &[W], |a, _, _, _| {
        let a = a as i32;
        let v = if a < 0 { !a } else { a } as u32;
        v.checked_ilog2().map_or(!0, |b| b as u64)
    });
    let bfe = |v: u64, width: u32, pos: u64, len: u64, signed: bool| {
        let (pos, len) = ((pos & 255) as u32, (len & 255) as u32);
        // Sign-extended far beyond its width, so that fields may extend beyond it.
        let v = if signed && v >> (width - 1) & 1 == 1 { v as i128 | -1i128 << width } else { v as i128 };
        if len == 0 {
            return 0;
        }
        let len = len.min(100);
        let moved = v >> pos.min(120);
        let field = moved & ((1i128 << len) - 1);
        if signed && (v >> (pos + len - 1).min(126)) & 1 == 1 { (field | -1i128 << len) as u64 } else { field as u64 }
    };
    check("bfe.u32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| bfe(a, 32, b, c, false));
    check("bfe.s32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| bfe(a, 32, b, c, true));
    check("bfe.u64 D, A, B, C;", X, &[X, W, W], |a, b, c, _| bfe(a, 64, b, c, false));
    check("bfe.s64 D, A, B, C;", X, &[X, W, W], |a, b, c, _| bfe(a, 64, b, c, true));
    let bfi = |a: u64, b: u64, width: u32, pos: u64, len: u64| {
        (0..width as u64).fold(0, |r, i| {
            let (pos, len) = (pos & 255, len & 255);
            let bit = if i >= pos && i < pos + len { a >> (i - pos) } else { b >> i };
            r | (bit & 1) << i
        })
    };
    check("bfi.b32 D, A, B, C, E;", W, &[W, W, W, W], |a, b, c, e| bfi(a, b, 32, c, e));
    check("bfi.b64 D, A, B, C, E;", X, &[X, X, W, W], |a, b, c, e| bfi(a, b, 64, c, e));
    check("prmt.b32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| {
        let bytes = (b << 32 | a).to_le_bytes();
        (0..4).fold(0, |r, i| {
            let s = c >> (4 * i) & 15;
            let v = bytes[(s & 7) as usize];
            r | (if s & 8 == 0 { v } else { ((v as i8) >> 7) as u8 } as u64) << (8 * i)
        })
    });
    let bytes = |v: u64| (v as u32).to_le_bytes();
    check("dp4a.s32.s32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| {
        bytes(a).iter().zip(bytes(b)).fold(c as i32, |s, (x, y)| s.wrapping_add(*x as i8 as i32 * y as i8 as i32))
            as u64
    });
    check("dp4a.u32.u32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| {
        bytes(a).iter().zip(bytes(b)).fold(c as u32, |s, (x, y)| s.wrapping_add(*x as u32 * y as u32)) as u64
    });
}

#[test]
fn comparisons_and_choices() {
    use Kind::*;
    for (name, f) in [
        ("eq", u64::eq as fn(&u64, &u64) -> bool),
        ("ne", u64::ne),
        ("lt", u64::lt),
        ("le", u64::le),
        ("gt", u64::gt),
        ("ge", u64::ge),
    ] {
        check(&format!("setp.{name}.u32 D, A, B;"), P, &[W, W], |a, b, _, _| f(&a, &b) as u64);
        check(&format!("setp.{name}.u64 D, A, B;"), P, &[X, X], |a, b, _, _| f(&a, &b) as u64);
        // Signed order is unsigned order with the sign bit flipped.
        let turn = |v: u64, bits: u32| v ^ 1 << (bits - 1);
        check(&format!("setp.{name}.s32 D, A, B;"), P, &[W, W], |a, b, _, _| f(&turn(a, 32), &turn(b, 32)) as u64);
        check(&format!("setp.{name}.s64 D, A, B;"), P, &[X, X], |a, b, _, _| f(&turn(a, 64), &turn(b, 64)) as u64);
        check(&format!("setp.{name}.s16 D, A, B;"), P, &[H, H], |a, b, _, _| f(&turn(a, 16), &turn(b, 16)) as u64);
    }
    check("setp.lt.and.u32 D, A, B, C;", P, &[W, W, P], |a, b, c, _| (a < b && c == 1) as u64);
    check("setp.lt.or.u32 D|%p8, A, B, !C;", P, &[W, W, P], |a, b, c, _| (a < b || c == 0) as u64);
    check("setp.lt.xor.u32 %p8|D, A, B, C;", P, &[W, W, P], |a, b, c, _| ((a >= b) != (c == 1)) as u64);
    check("selp.b32 D, A, B, C;", W, &[W, W, P], |a, b, c, _| if c == 1 { a } else { b });
    check("selp.b64 D, A, B, C;", X, &[X, X, P], |a, b, c, _| if c == 1 { a } else { b });
    check("slct.u32.s32 D, A, B, C;", W, &[W, W, W], |a, b, c, _| if c as i32 >= 0 { a } else { b });
    check("and.pred D, A, B;", P, &[P, P], |a, b, _, _| a & b);
    check("or.pred D, A, B;", P, &[P, P], |a, b, _, _| a | b);
    check("xor.pred D, A, B;", P, &[P, P], |a, b, _, _| a ^ b);
    check("not.pred D, A;", P, &[P], |a, _, _, _| a ^ 1);
}

#[test]
fn moves_and_integer_conversions() {
    use Kind::*;
    check("mov.b64 D, {A, B};", X, &[W, W], |a, b, _, _| a | b << 32);
    check("mov.b32 D, {A, B};", W, &[H, H], |a, b, _, _| a | b << 16);
    check("mov.b32 {%h7, D}, A;", H, &[W], |a, _, _, _| a >> 16);
    check("mov.b32 {D, %h7}, A;", H, &[W], |a, _, _, _| a);
    check("mov.b64 {%r60, D}, A;", W, &[X], |a, _, _, _| a >> 32);
    check("cvt.u64.u32 D, A;", X, &[W], |a, _, _, _| a);
    check("cvt.s64.s32 D, A;", X, &[W], |a, _, _, _| a as i32 as u64);
    check("cvt.u32.u64 D, A;", W, &[X], |a, _, _, _| a);
    check("cvt.u32.u16 D, A;", W, &[H], |a, _, _, _| a);
    check("cvt.s32.s16 D, A;", W, &[H], |a, _, _, _| a as i16 as u64);
    check("cvt.s32.s8 D, A;", W, &[W], |a, _, _, _| a as i8 as u64);
    check("cvt.u16.u32 D, A;", H, &[W], |a, _, _, _| a);
    check("cvt.sat.u8.s32 D, A;", W, &[W], |a, _, _, _| (a as i32).clamp(0, 255) as u64);
    check("cvt.sat.s16.s32 D, A;", H, &[W], |a, _, _, _| (a as i32).clamp(-32768, 32767) as u64);
    check("cvt.s64.s16 D, A;", X, &[H], |a, _, _, _| a as i16 as u64);
}
