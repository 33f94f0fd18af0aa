//! Whole kernels, as NVRTC emits them, against plain loops.

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
