//! Floating-point instructions compared with the host's arithmetic and, in directed rounding modes, with exact sums.

mod support;

use support::lanewise::*;

const NAN: u64 = 0x7fff_ffff;

fn f(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

fn bits(v: f32) -> u64 {
    if v.is_nan() { NAN } else { v.to_bits() as u64 }
}

fn d(v: u64) -> f64 {
    f64::from_bits(v)
}

fn dbits(v: f64) -> u64 {
    if v.is_nan() { 0x7fff_ffff_ffff_ffff } else { v.to_bits() }
}

fn check(text: &str, to: Kind, s: &[Kind], model: impl Fn(u64, u64, u64) -> u64) {
    let cases = inputs(s);
    for (c, g) in cases.iter().zip(run(text, to, s, &cases)) {
        let want = to.cut(model(c[0], c[1], c[2]));
        assert_eq!(g, want, "{text}: {c:#x?} gives {g:#x}, not {want:#x}");
    }
}

#[test]
fn nearest_even_is_the_machine_s() {
    use Kind::*;
    check("add.f32 D, A, B;", F, &[F, F], |a, b, _| bits(f(a) + f(b)));
    check("add.rn.f32 D, A, B;", F, &[F, F], |a, b, _| bits(f(a) + f(b)));
    check("sub.f32 D, A, B;", F, &[F, F], |a, b, _| bits(f(a) - f(b)));
    check("mul.f32 D, A, B;", F, &[F, F], |a, b, _| bits(f(a) * f(b)));
    check("fma.rn.f32 D, A, B, C;", F, &[F, F, F], |a, b, c| bits(f(a).mul_add(f(b), f(c))));
    check("div.rn.f32 D, A, B;", F, &[F, F], |a, b, _| bits(f(a) / f(b)));
    check("rcp.rn.f32 D, A;", F, &[F], |a, _, _| bits(1.0 / f(a)));
    check("sqrt.rn.f32 D, A;", F, &[F], |a, _, _| bits(f(a).sqrt()));
    check("neg.f32 D, A;", F, &[F], |a, _, _| a ^ 1 << 31);
    check("abs.f32 D, A;", F, &[F], |a, _, _| a & !(1 << 31));
    check("add.f64 D, A, B;", D, &[D, D], |a, b, _| dbits(d(a) + d(b)));
    check("mul.f64 D, A, B;", D, &[D, D], |a, b, _| dbits(d(a) * d(b)));
    check("fma.rn.f64 D, A, B, C;", D, &[D, D, D], |a, b, c| dbits(d(a).mul_add(d(b), d(c))));
    check("div.rn.f64 D, A, B;", D, &[D, D], |a, b, _| dbits(d(a) / d(b)));
    check("sqrt.rn.f64 D, A;", D, &[D], |a, _, _| dbits(d(a).sqrt()));
    // The scalar path must agree with the vectorised one.
    let flush = |v: u64| if f(v).is_subnormal() { v & 1 << 31 } else { v };
    check("add.ftz.f32 D, A, B;", F, &[F, F], |a, b, _| flush(bits(f(flush(a)) + f(flush(b)))));
    check("fma.rn.ftz.f32 D, A, B, C;", F, &[F, F, F], |a, b, c| {
        flush(bits(f(flush(a)).mul_add(f(flush(b)), f(flush(c)))))
    });
    check("div.rn.ftz.f32 D, A, B;", F, &[F, F], |a, b, _| flush(bits(f(flush(a)) / f(flush(b)))));
    check("add.sat.f32 D, A, B;", F, &[F, F], |a, b, _| {
        let v = f(a) + f(b);
        (if v > 0.0 { v.min(1.0) } else { 0.0 }).to_bits() as u64
    });
}

/// The f32 on one side of an exact sum `s + t`, where `t` is far below the last place of the f64 `s`.
fn directed(s: f64, t: f64, mode: &str) -> f32 {
    if !s.is_finite() {
        return s as f32;
    }
    let beyond = |r: f32| (r as f64).partial_cmp(&s).unwrap().then(0f64.partial_cmp(&t).unwrap());
    let near = s as f32;
    let (mut down, mut up) = (near, near);
    while beyond(down).is_gt() {
        down = down.next_down();
    }
    while beyond(up).is_lt() {
        up = up.next_up();
    }
    match mode {
        "rm" => down,
        "rp" => up,
        _ if s > 0.0 || s == 0.0 && t > 0.0 => {
            if s > 0.0 {
                down
            } else {
                up
            }
        }
        _ => up,
    }
}

fn sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    if !s.is_finite() {
        return (s, 0.0);
    }
    let z = s - a;
    (s, (a - (s - z)) + (b - z))
}

#[test]
fn directed_roundings() {
    use Kind::*;
    for mode in ["rz", "rm", "rp"] {
        // An exact sum of zero has a sign that depends on the rounding mode.
        let zero = |v: f32, exact: f64, sign: bool| if exact == 0.0 { if sign { -0.0 } else { 0.0 } } else { v };
        let both = |x: f64, y: f64| {
            x.is_sign_negative() && y.is_sign_negative()
                || mode == "rm" && (x.is_sign_negative() || y.is_sign_negative())
        };
        check(&format!("add.{mode}.f32 D, A, B;"), F, &[F, F], |a, b, _| {
            let (x, y) = (f(a) as f64, f(b) as f64);
            let (s, t) = sum(x, y);
            bits(zero(directed(s, t, mode), s, both(x, y)))
        });
        check(&format!("mul.{mode}.f32 D, A, B;"), F, &[F, F], |a, b, _| {
            let p = f(a) as f64 * f(b) as f64;
            bits(zero(directed(p, 0.0, mode), p, p.is_sign_negative()))
        });
        check(&format!("fma.{mode}.f32 D, A, B, C;"), F, &[F, F, F], |a, b, c| {
            let p = f(a) as f64 * f(b) as f64;
            let (s, t) = sum(p, f(c) as f64);
            bits(zero(directed(s, t, mode), s, both(p, f(c) as f64)))
        });
        check(&format!("cvt.{mode}.f32.f64 D, A;"), F, &[D], |a, _, _| {
            bits(zero(directed(d(a), 0.0, mode), d(a), d(a).is_sign_negative()))
        });
        check(&format!("div.{mode}.f32 D, A, B;"), F, &[F, F], |a, b, _| {
            let q = f(a) as f64 / f(b) as f64;
            let r = if q.is_finite() { (-q).mul_add(f(b) as f64, f(a) as f64) } else { 0.0 };
            bits(zero(
                directed(q, if r == 0.0 || r.is_nan() { 0.0 } else { r.signum() * f(b).signum() as f64 }, mode),
                q,
                q.is_sign_negative(),
            ))
        });
    }
    check("add.rm.f64 D, A, B;", D, &[D, D], |a, b, _| {
        let (s, t) = sum(d(a), d(b));
        let negative = d(a).is_sign_negative() || d(b).is_sign_negative();
        dbits(if s == 0.0 {
            if negative { -0.0 } else { 0.0 }
        } else if t < 0.0 {
            s.next_down()
        } else {
            s
        })
    });
}

#[test]
fn extremes() {
    use Kind::*;
    let order =
        |v: f32| if v.is_sign_negative() { -1 - (v.to_bits() & 0x7fff_ffff) as i64 } else { v.to_bits() as i64 };
    let pick = move |a: u64, b: u64, max: bool| match (f(a).is_nan(), f(b).is_nan()) {
        (true, true) => NAN,
        (true, false) => b,
        (false, true) => a,
        _ => {
            if (order(f(a)) > order(f(b))) == max {
                a
            } else {
                b
            }
        }
    };
    check("min.f32 D, A, B;", F, &[F, F], |a, b, _| pick(a, b, false));
    check("max.f32 D, A, B;", F, &[F, F], |a, b, _| pick(a, b, true));
    check(
        "max.NaN.f32 D, A, B;",
        F,
        &[F, F],
        |a, b, _| if f(a).is_nan() || f(b).is_nan() { NAN } else { pick(a, b, true) },
    );
    check("min.f64 D, A, B;", D, &[D, D], |a, b, _| match (d(a).is_nan(), d(b).is_nan()) {
        (true, true) => dbits(f64::NAN),
        (true, _) => b,
        (_, true) => a,
        _ if d(a) == d(b) => a | b,
        _ => {
            if d(a) < d(b) {
                a
            } else {
                b
            }
        }
    });
}

#[test]
fn comparisons() {
    use Kind::*;
    type Test = fn(f32, f32) -> bool;
    let plain: [(&str, Test); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for (name, test) in plain {
        check(&format!("setp.{name}.f32 D, A, B;"), P, &[F, F], |a, b, _| test(f(a), f(b)) as u64);
        check(&format!("setp.{name}u.f32 D, A, B;"), P, &[F, F], |a, b, _| {
            (test(f(a), f(b)) || f(a).is_nan() || f(b).is_nan()) as u64
        });
    }
    check("setp.num.f32 D, A, B;", P, &[F, F], |a, b, _| !(f(a).is_nan() || f(b).is_nan()) as u64);
    check("setp.nan.f32 D, A, B;", P, &[F, F], |a, b, _| (f(a).is_nan() || f(b).is_nan()) as u64);
    check("setp.lt.f64 D, A, B;", P, &[D, D], |a, b, _| (d(a) < d(b)) as u64);
    check("setp.gtu.f64 D, A, B;", P, &[D, D], |a, b, _| (d(a) > d(b) || d(a).is_nan() || d(b).is_nan()) as u64);
}

#[test]
fn conversions() {
    use Kind::*;
    check("cvt.rn.f32.s32 D, A;", F, &[W], |a, _, _| bits(a as i32 as f32));
    check("cvt.rn.f32.u32 D, A;", F, &[W], |a, _, _| bits(a as u32 as f32));
    check("cvt.rn.f32.u16 D, A;", F, &[H], |a, _, _| bits(a as f32));
    check("cvt.rn.f32.s64 D, A;", F, &[X], |a, _, _| bits(a as i64 as f32));
    check("cvt.rn.f32.u64 D, A;", F, &[X], |a, _, _| bits(a as f32));
    check("cvt.rn.f64.s64 D, A;", D, &[X], |a, _, _| dbits(a as i64 as f64));
    check("cvt.rn.f64.u32 D, A;", D, &[W], |a, _, _| dbits(a as u32 as f64));
    check("cvt.f64.f32 D, A;", D, &[F], |a, _, _| dbits(f(a) as f64));
    check("cvt.rn.f32.f64 D, A;", F, &[D], |a, _, _| bits(d(a) as f32));
    check("cvt.rzi.s32.f32 D, A;", W, &[F], |a, _, _| f(a) as i32 as u64);
    check("cvt.rni.s32.f32 D, A;", W, &[F], |a, _, _| f(a).round_ties_even() as i32 as u64);
    check("cvt.rmi.s32.f32 D, A;", W, &[F], |a, _, _| f(a).floor() as i32 as u64);
    check("cvt.rpi.s32.f32 D, A;", W, &[F], |a, _, _| f(a).ceil() as i32 as u64);
    check("cvt.rzi.u32.f32 D, A;", W, &[F], |a, _, _| f(a) as u32 as u64);
    check("cvt.rzi.u8.f32 D, A;", W, &[F], |a, _, _| f(a) as u8 as u64);
    check("cvt.rzi.s64.f64 D, A;", X, &[D], |a, _, _| if d(a).is_nan() { 1 << 63 } else { d(a) as i64 as u64 });
    check("cvt.rzi.s32.f64 D, A;", W, &[D], |a, _, _| if d(a).is_nan() { 1 << 31 } else { d(a) as i32 as u64 });
    check("cvt.rni.f32.f32 D, A;", F, &[F], |a, _, _| bits(f(a).round_ties_even()));
    check("cvt.rmi.f32.f32 D, A;", F, &[F], |a, _, _| bits(f(a).floor()));
    check("cvt.rzi.f32.f32 D, A;", F, &[F], |a, _, _| bits(f(a).trunc()));
    check("cvt.sat.f32.f32 D, A;", F, &[F], |a, _, _| (if f(a) > 0.0 { f(a).min(1.0) } else { 0.0 }).to_bits() as u64);
}

/// bf16 by its definition: the nearest value, or the even one of two that are equally near.
fn bf16(v: f32) -> u64 {
    if v.is_nan() {
        return 0x7fff;
    }
    let down = v.to_bits() >> 16;
    let rest = v.to_bits() & 0xffff;
    (down + u32::from(rest > 0x8000 || rest == 0x8000 && down & 1 == 1)) as u64
}

#[test]
fn halves() {
    use Kind::*;
    check("cvt.rn.bf16.f32 D, A;", H, &[F], |a, _, _| bf16(f(a)));
    check("cvt.rz.bf16.f32 D, A;", H, &[F], |a, _, _| if f(a).is_nan() { 0x7fff } else { a >> 16 });
    check("cvt.rn.relu.bf16.f32 D, A;", H, &[F], |a, _, _| if f(a) > 0.0 || f(a).is_nan() { bf16(f(a)) } else { 0 });
    check("cvt.rn.bf16x2.f32 D, A, B;", W, &[F, F], |a, b, _| bf16(f(a)) << 16 | bf16(f(b)));
    check("cvt.rna.tf32.f32 D, A;", W, &[F], |a, _, _| {
        if f(a).is_nan() {
            NAN
        } else if f(a).is_infinite() {
            a
        } else {
            (a + 0x1000) & !0x1fff
        }
    });
    let value = |b: u64| f(b << 16);
    let fused = |x: f32, y: f32, z: f32| {
        let (v, tail) = sum(x as f64 * y as f64, z as f64);
        // By way of f32 with a sticky last bit, so that rounding to bf16 is the only rounding.
        let near = v as f32;
        if !near.is_finite() || near as f64 == v && tail == 0.0 {
            return bf16(near);
        }
        let beyond = near.abs() as f64 > v.abs() || near as f64 == v && (tail < 0.0) == (v > 0.0);
        bf16(f32::from_bits((near.to_bits() - u32::from(beyond)) | 1))
    };
    check("fma.rn.bf16x2 D, A, B, C;", W, &[W, W, W], |a, b, c| {
        let one = |s: u32| fused(value(a >> s & 0xffff), value(b >> s & 0xffff), value(c >> s & 0xffff));
        one(0) | one(16) << 16
    });
    // Every f16, in both directions.
    check("cvt.f32.f16 D, A;", F, &[H], |a, _, _| {
        let (e, m) = (a >> 10 & 31, (a & 1023) as f32);
        let v = match e {
            0 => m * 2f32.powi(-24),
            31 => {
                if m == 0.0 {
                    f32::INFINITY
                } else {
                    f32::NAN
                }
            }
            _ => (1024.0 + m) * 2f32.powi(e as i32 - 25),
        };
        bits(if a >> 15 == 1 { -v } else { v })
    });
    check("{ .reg .f32 t; cvt.f32.f16 t, A; cvt.rn.f16.f32 D, t; }", H, &[H], |a, _, _| {
        if a & 0x7fff > 0x7c00 { 0x7fff } else { a }
    });
}

#[test]
fn approximations_are_rounded_correctly() {
    use Kind::*;
    check("ex2.approx.f32 D, A;", F, &[F], |a, _, _| bits((f(a) as f64).exp2() as f32));
    check("ex2.approx.ftz.f32 D, A;", F, &[F], |a, _, _| {
        let x = if f(a).is_subnormal() { 0.0 } else { f(a) as f64 };
        let v = x.exp2() as f32;
        bits(if v.is_subnormal() { 0.0 } else { v })
    });
    check("lg2.approx.f32 D, A;", F, &[F], |a, _, _| bits((f(a) as f64).log2() as f32));
    check("sin.approx.f32 D, A;", F, &[F], |a, _, _| bits((f(a) as f64).sin() as f32));
    check("cos.approx.f32 D, A;", F, &[F], |a, _, _| bits((f(a) as f64).cos() as f32));
    check("tanh.approx.f32 D, A;", F, &[F], |a, _, _| bits((f(a) as f64).tanh() as f32));
    check("rsqrt.approx.f32 D, A;", F, &[F], |a, _, _| bits((1.0 / (f(a) as f64).sqrt()) as f32));
    check("rcp.approx.ftz.f32 D, A;", F, &[F], |a, _, _| {
        let v = 1.0 / if f(a).is_subnormal() { 0f32.copysign(f(a)) } else { f(a) };
        bits(if v.is_subnormal() { 0f32.copysign(v) } else { v })
    });
    check("div.approx.f32 D, A, B;", F, &[F, F], |a, b, _| bits(f(a) / f(b)));
    check("sqrt.approx.f32 D, A;", F, &[F], |a, _, _| bits(f(a).sqrt()));
    check("rcp.approx.ftz.f64 D, A;", D, &[D], |a, _, _| {
        let v = 1.0 / d(a);
        dbits(f64::from_bits(v.to_bits() & !0xffff_ffff)) & if v.is_nan() { !0 } else { !0xffff_ffff }
    });
    for op in ["ex2.approx.ftz.f32", "rsqrt.approx.f32", "tanh.approx.f32"] {
        let a = ptxsim::accuracy::accuracy(op).unwrap();
        assert!(a.relative > 0.0 && a.relative < 1e-3, "{op}");
    }
    assert!(ptxsim::accuracy::accuracy("add.f32").is_none());
}
