//! Complete kernels, as compiled by NVRTC, compared with plain loops.

mod support;

use ptxsim::{Access::*, *};
use support::*;

#[test]
fn softmax() {
    let (rows, c) = (37, 300);
    let x = floats(1, rows * c, 10.0);
    for order in ORDERS {
        let d = Device::new("softmax", order);
        let (px, py) = (d.f32s(&x), d.empty(4 * x.len()));
        d.launch("softmax_f32", [rows as u32, 1, 1], [256, 1, 1], 0, &[px.p(Read), py.p(Write), int(c)]).unwrap();
        for (r, (x, y)) in x.chunks(c).zip(d.read_f32s(&py).chunks(c)).enumerate() {
            let m = x.iter().copied().fold(f32::MIN, f32::max) as f64;
            let z: f64 = x.iter().map(|v| (*v as f64 - m).exp()).sum();
            for (x, y) in x.iter().zip(y) {
                assert!(((*x as f64 - m).exp() / z - *y as f64).abs() < 1e-6, "row {r}");
            }
        }
    }
}

#[test]
fn histogram() {
    let x: Vec<u8> = floats(2, 100_003, 256.0).iter().map(|v| (*v + 128.0) as u8).collect();
    let mut want = vec![0u32; 256];
    x.iter().for_each(|v| want[*v as usize] += 1);
    for order in ORDERS {
        let d = Device::new("hist", order);
        let (px, ph) = (d.bytes(&x), d.bytes(&[0; 1024]));
        let n = (x.len() as u64).to_le_bytes();
        d.launch("hist256", [7, 1, 1], [256, 1, 1], 0, &[px.p(Read), ph.p(ReadWrite), Param::Bytes(&n)]).unwrap();
        assert_eq!(d.read_u32s(&ph), want);
    }
}

#[test]
fn gemm_on_tensor_cores() {
    let (m, n, k) = (256, 128, 192);
    let round = |v: &f32| f32::from_bits(v.to_bits() >> 16 << 16);
    let a: Vec<f32> = floats(3, m * k, 1.0).iter().map(round).collect();
    let b: Vec<f32> = floats(4, n * k, 1.0).iter().map(round).collect();
    let half = |v: &[f32]| -> Vec<u8> { v.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect() };
    for order in ORDERS {
        let d = Device::new("gemm_mma", order);
        let (pa, pb, pc) = (d.bytes(&half(&a)), d.bytes(&half(&b)), d.empty(4 * m * n));
        let params = [pa.p(Read), pb.p(Read), pc.p(Write), int(m), int(n), int(k)];
        let counters = d.launch("gemm_bf16_mma", [1, 2, 1], [256, 1, 1], 49152, &params).unwrap();
        assert_eq!(counters.bank_conflict_cycles, 0);
        assert!(counters.tensor_instructions as usize >= m * n * k / (16 * 8 * 16));
        let c = d.read_f32s(&pc);
        for i in 0..m {
            for j in 0..n {
                let want: f64 = (0..k).map(|q| a[i * k + q] as f64 * b[j * k + q] as f64).sum();
                assert!((want - c[i * n + j] as f64).abs() < 1e-4, "{i} {j}: {want} {}", c[i * n + j]);
            }
        }
    }
}

#[test]
fn every_fixture_loads() {
    for f in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).unwrap() {
        let path = f.unwrap().path();
        if path.extension().is_some_and(|e| e == "ptx") {
            let m = Machine::new(Config::default()).load(&std::fs::read_to_string(&path).unwrap());
            let m = m.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(!m.entries().is_empty());
        }
    }
}

/// Compares with a relative or absolute tolerance of `e`.
fn close(a: f64, b: f64, e: f64, what: &str) {
    assert!((a - b).abs() <= e * b.abs().max(1.0) || a == b || (a.is_nan() && b.is_nan()), "{what}: {a} {b}");
}

#[test]
fn wide_probe() {
    let n = 70;
    let d = Device::new("probe", Order::Reverse);
    let x = floats(9, n, 8.0);
    let (px, py) = (d.f32s(&x), d.empty(4 * 24 * n));
    d.launch("probe_math", [3, 1, 1], [32, 1, 1], 0, &[px.p(Read), py.p(Write), int(n)]).unwrap();
    for (v, o) in x.iter().map(|v| *v as f64).zip(d.read_f32s(&py).chunks(24)) {
        let a = v.abs();
        let want = [
            v.exp(),
            (a + 0.25).ln(),
            v.sin(),
            v.cos(),
            v.tanh(),
            a.sqrt(),
            1.0 / (a + 1.0).sqrt(),
            (a + 0.5).powf(1.7),
        ];
        let more = [
            f64::NAN,
            v.atan2(0.5),
            v.floor(),
            v.round_ties_even(),
            v % 0.75,
            v / 3.0,
            v.cbrt(),
            v.exp2(),
            v.exp(),
            (a + 0.25).ln(),
        ];
        let rest = [v.min(0.25), v.max(0.25), v / 3.0, a.ln_1p(), v + 0.1, v.round()];
        for (k, w) in want.iter().chain(&more).chain(&rest).enumerate().filter(|(k, _)| *k != 8) {
            close(o[k] as f64, *w, 2e-6, &format!("math {k} of {v}"));
        }
        assert!((o[8] as f64).abs() <= 1.0 && (o[8] < 0.0) == (v < 0.0), "erf");
    }
    let y: Vec<f64> = x.iter().map(|v| *v as f64 * 1.7).collect();
    let (px, py) = (d.bytes(&y.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()), d.empty(48 * n));
    d.launch("probe_double", [3, 1, 1], [32, 1, 1], 0, &[px.p(Read), py.p(Write), int(n)]).unwrap();
    for (v, o) in y.iter().zip(d.read_u64s(&py).chunks(6)) {
        let want = [v * v + 1.0, v / 3.0, v.abs().sqrt(), v.exp(), (v * 100.0).trunc(), v.round_ties_even()];
        for (k, w) in want.iter().enumerate() {
            close(f64::from_bits(o[k]), *w, 1e-14, &format!("double {k} of {v}"));
        }
    }
    let mut rng = Rng(4);
    let x: Vec<u32> = (0..n).map(|i| (rng.next() >> (i % 20)) as u32).collect();
    let (px, py) = (d.u32s(&x), d.empty(8 * 20 * n));
    d.launch("probe_bits", [3, 1, 1], [32, 1, 1], 0, &[px.p(Read), py.p(Write), int(n)]).unwrap();
    for (i, o) in d.read_u64s(&py).chunks(20).enumerate() {
        let (v, w) = (x[i], x[(i + 1) % n]);
        let q = (v as u64) << 32 | w as u64;
        let bytes = (((w as u64) << 32) | v as u64).to_le_bytes();
        let (sv, sw) = (v as i32, w as i32);
        let dot: i32 =
            v.to_le_bytes().iter().zip(w.to_le_bytes()).map(|(a, b)| *a as i8 as i32 * b as i8 as i32).sum::<i32>() + 7;
        let want = [
            (v.count_ones() + q.count_ones()) as u64,
            v.leading_zeros() as u64,
            q.leading_zeros() as u64,
            v.reverse_bits() as u64,
            if v == 0 { 0 } else { v.trailing_zeros() as u64 + 1 },
            u32::from_le_bytes([bytes[5], bytes[1], bytes[7], bytes[3]]) as u64,
            (v as u64 * w as u64) >> 32,
            ((q as u128 * (q.wrapping_add(1)) as u128) >> 64) as u64,
            ((((w as u64) << 32 | v as u64) << (w & 31)) >> 32) as u32 as u64,
            (v / (w | 1)) as u64,
            (v % (w | 1)) as u64,
            q / (v | 1) as u64,
            (q as i64 % (w | 1) as i64) as u64,
            dot as u64,
            (sv >> 3) as u64,
            v.wrapping_mul(w).wrapping_add(5) as u64,
            sv.abs_diff(sw).wrapping_add(3) as u64,
            sv.wrapping_abs() as u32 as u64,
            sv.min(sw) as u64,
            (v as u16 as i32 * 3) as u64,
        ];
        assert_eq!(o, want, "bits of {v:#x} {w:#x}");
    }
    let (py, pc) = (d.empty(40 * 64), d.bytes(&[0; 12]));
    d.launch("probe_warp", [1; 3], [64, 1, 1], 0, &[py.p(Write), pc.p(ReadWrite)]).unwrap();
    for (t, o) in d.read_u32s(&py).chunks(10).enumerate() {
        let l = t as u32 % 32;
        let ballot = (0..32).filter(|k| k % 3 == 0).fold(0, |m, k| m | 1u32 << k);
        let same = (0..32).filter(|k| k % 5 == l % 5).fold(0, |m, k| m | 1u32 << k);
        let moved = if l + 4 < 32 { l + 4 } else { l } + if l >= 2 { l - 2 } else { l } + (l ^ 9);
        assert_eq!(o, [ballot, 1, 1, same, 496, moved, 14, 1, 0, 992], "thread {t}");
    }
    assert_eq!(d.read_u32s(&pc), [63, 77, !0]);
    let pick: Vec<u32> = (0..8 * n).map(|_| (rng.next() & 255) as u32).collect();
    let (pp, py) = (d.u32s(&pick), d.empty(4 * n));
    d.launch("probe_local", [3, 1, 1], [32, 1, 1], 0, &[pp.p(Read), py.p(Write), int(n)]).unwrap();
    for (i, o) in d.read_f32s(&py).iter().enumerate() {
        let mut v: Vec<f32> = (0..16).map(|k| k as f32 * 0.5 + i as f32).collect();
        let mut s = 0.0;
        for p in &pick[8 * i..8 * i + 8] {
            v[(p & 15) as usize] += 1.0;
            s += v[(p >> 4) as usize];
        }
        assert_eq!(*o, s);
    }
    let x: Vec<u32> = (0..n as u32).map(|i| i % 12).collect();
    let (px, py) = (d.u32s(&x), d.empty(4 * n));
    d.launch("probe_switch", [3, 1, 1], [32, 1, 1], 0, &[px.p(Read), py.p(Write), int(n)]).unwrap();
    for (i, o) in d.read_u32s(&py).iter().enumerate() {
        let (i, v) = (i as i32, x[i] as i32);
        let all = [
            v * 7 + i,
            v - i * 3,
            i ^ 12345,
            i / 3,
            i % 7,
            i.count_ones() as i32,
            i * i,
            -i,
            i << 3,
            i >> 1,
            i | 64,
            -1,
        ];
        assert_eq!(*o as i32, all[v as usize], "{i}");
    }
}
