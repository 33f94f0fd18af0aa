//! A warp-specialised matrix product with TMA, mbarriers and wgmma, as compiled by NVRTC: right for all sizes and orders, and each
//! of its mistakes is noticed.

mod support;

use ptxsim::{Access::*, *};
use support::*;

/// Entry, and the dynamic shared memory of its three stages and two tiles of results.
const ENTRY: &str = "gemm_tma";
const SHARED: u32 = 3 * (128 + 64) * 128 + 2 * 64 * 128;

fn text() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gemm_tma.ptx")).unwrap()
}

/// A row-major matrix, seen in boxes of `rows` rows of 64 elements.
fn map(p: &Memory, rows: u32, size: (usize, usize), swizzle: Swizzle) -> TensorMap {
    TensorMap {
        element: Element::Bf16,
        address: p.ptr,
        extents: vec![size.1 as u64, size.0 as u64],
        strides: vec![2 * size.1 as u64],
        window: Window::Tiled { extent: vec![64, rows] },
        steps: vec![1, 1],
        swizzle,
        fill: Fill::Zero,
    }
}

/// Runs the kernel on `blocks` blocks, and compares with a plain product.
fn run(ptx: &str, (m, n, k): (usize, usize, usize), blocks: u32, order: Order, swizzle: Swizzle) -> Result<(), Fault> {
    let d = Device::hopper(ptx, order);
    let (a, b) = (bf16s(3, m * k), bf16s(4, n * k));
    let (pa, pb, py) = (d.bytes(&bytes(&a)), d.bytes(&bytes(&b)), d.empty(2 * m * n));
    let maps =
        [map(&pa, 128, (m, k), swizzle), map(&pb, 64, (n, k), Swizzle::B128), map(&py, 64, (m, n), Swizzle::B128)];
    let maps = maps.map(|x| d.machine.tensor_map(&x).unwrap());
    let region = |p: &Memory, access| Region { ptr: p.ptr, bytes: p.bytes, access };
    let params = [
        Param::TensorMap(&maps[0], region(&pa, Read)),
        Param::TensorMap(&maps[1], region(&pb, Read)),
        Param::TensorMap(&maps[2], region(&py, Write)),
        int(m),
        int(n),
        int(k),
    ];
    d.machine.grant_shared(&d.module, ENTRY, SHARED)?;
    let c = d.launch(ENTRY, [blocks, 1, 1], [384, 1, 1], SHARED, &params)?;
    assert_eq!(c.bulk_bytes_stored, 2 * (m * n) as u64);
    assert_eq!(c.bank_conflict_cycles, 0);
    let y = d.read_u16s(&py);
    let value = |v: &u16| f32::from_bits(u32::from(*v) << 16);
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|q| value(&a[i * k + q]) as f64 * value(&b[j * k + q]) as f64);
            let (want, sum) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            // Half a unit of bf16, and one of f32 per addition.
            let error = want.abs() / 256.0 + sum * k as f64 / (1 << 24) as f64;
            let got = value(&y[i * n + j]) as f64;
            if (got - want).abs() > error {
                return Err(Fault::Host(format!("{i} {j}: {got} where {want} is expected")));
            }
        }
    }
    Ok(())
}

#[test]
fn any_size_in_any_order() {
    let text = text();
    for order in ORDERS {
        for (size, blocks) in
            [((128, 64, 64), 1), ((128, 64, 448), 1), ((200, 136, 328), 2), ((64, 8, 8), 1), ((1, 72, 200), 2)]
        {
            run(&text, size, blocks, order, Swizzle::B128).unwrap_or_else(|f| panic!("{size:?} {order:?}: {f}"));
        }
        // Several tiles per block.
        run(&text, (300, 200, 136), 2, order, Swizzle::B128).unwrap_or_else(|f| panic!("{f}"));
    }
}

/// The fault of a text in which something was changed, in any order of the warps.
fn mutant(from: &str, to: &str) -> Vec<Fault> {
    let text = text();
    assert!(text.contains(from), "{from}");
    let text = text.replace(from, to);
    let run = |order| {
        run(&text, (200, 72, 456), 1, order, Swizzle::B128).err().unwrap_or_else(|| panic!("no fault without {from}"))
    };
    ORDERS.map(run).into()
}

macro_rules! mutant {
    ($from:expr, $to:expr, $kind:pat) => {
        for f in mutant($from, $to) {
            println!("{f}");
            assert!(matches!(f, $kind), "{}: {f}", $from);
        }
    };
}

#[test]
fn every_mistake_is_noticed() {
    // Fences and waits.
    mutant!("fence.mbarrier_init.release.cluster;", "", Fault::Proxy(_));
    mutant!("fence.proxy.async.shared::cta;", "", Fault::Proxy(_));
    mutant!("wgmma.fence.sync.aligned;", "", Fault::InFlight(_));
    mutant!("wgmma.wait_group.sync.aligned 0;", "", Fault::InFlight(_) | Fault::Race(..));
    mutant!(
        "wgmma.wait_group.sync.aligned 0;",
        "wgmma.wait_group.sync.aligned 1;",
        Fault::InFlight(_) | Fault::Race(..)
    );
    mutant!("wgmma.commit_group.sync.aligned;", "", Fault::InFlight(_) | Fault::Race(..));
    // A stage is released before it was read.
    mutant!("wgmma.wait_group.sync.aligned 1;", "", Fault::Race(..));
    mutant!("wgmma.wait_group.sync.aligned 1;", "wgmma.wait_group.sync.aligned 2;", Fault::Race(..));
    mutant!("cp.async.bulk.wait_group.read 0;", "", Fault::Race(..) | Fault::InFlight(_));
    mutant!(
        "cp.async.bulk.wait_group.read 0;",
        "cp.async.bulk.wait_group.read 1;",
        Fault::Race(..) | Fault::InFlight(_)
    );
    mutant!("cp.async.bulk.commit_group;", "", Fault::Race(..) | Fault::InFlight(_));
    // Barriers.
    mutant!("bar.sync \t0;", "", Fault::Race(..) | Fault::Mbarrier(_));
    mutant!("bar.sync %r1, 128;", "", Fault::Race(..) | Fault::Proxy(_) | Fault::Uninitialised(..));
    mutant!("@!done bra again;", "", Fault::Race(..) | Fault::Uninitialised(..) | Fault::Mbarrier(_));
    let text = text();
    let arrivals: Vec<&str> = text.lines().filter(|l| l.contains("mbarrier.arrive.shared")).collect();
    assert_eq!(arrivals.len(), 2);
    for arrival in arrivals {
        mutant!(arrival, "", Fault::Deadlock(_));
    }
    // Wrong numbers of bytes and of arrivals, wrong parities.
    mutant!(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [",
        "mbarrier.expect_tx.shared::cta.b64 [",
        Fault::Deadlock(_)
    );
    let bytes = ((128 + 64) * 128).to_string();
    assert_eq!(text.matches(&bytes).count(), 1, "the number of expected bytes");
    for wrong in [-16, 16] {
        mutant!(&bytes, &((128 + 64) * 128 + wrong).to_string(), Fault::Deadlock(_));
    }
    // The barrier that says that the first stage is free.
    let init = text.lines().filter(|l| l.contains("mbarrier.init")).nth(1).unwrap();
    let with = |n: &str| format!("{} {n};", init.rsplit_once(' ').unwrap().0);
    mutant!(init, &with("1"), Fault::Mbarrier(_) | Fault::Race(..) | Fault::Deadlock(_));
    mutant!(init, &with("3"), Fault::Deadlock(_));
    // The first wait of each kind, with the other parity.
    let waits: Vec<&str> = text.lines().filter(|l| l.contains("try_wait")).collect();
    assert_eq!(waits.len(), 2);
    for wait in waits {
        let (head, parity) = wait.rsplit_once(' ').unwrap();
        let parity = parity.trim_end_matches(';');
        let other = format!(".reg .b32 other;\nxor.b32 other, {parity}, 1;\n{head} other;");
        mutant!(wait, &other, Fault::Deadlock(_) | Fault::Race(..) | Fault::Uninitialised(..) | Fault::Mbarrier(_));
    }
}

#[test]
fn a_wrong_layout_gives_wrong_results() {
    for order in ORDERS {
        let f = run(&text(), (128, 64, 128), 1, order, Swizzle::None).unwrap_err();
        assert!(matches!(f, Fault::Host(_)), "{f}");
    }
    let wrong = |from: &str, to: &str| {
        let text = text();
        assert!(text.contains(from), "{from}");
        run(&text.replace(from, to), (128, 64, 128), 1, Order::Forward, Swizzle::B128).unwrap_err()
    };
    // A swizzle of 64 bytes in the descriptors, and another stride.
    let bits = (1u64 << 62 | 64 << 32 | 1 << 16).to_string();
    for other in [2u64 << 62 | 64 << 32 | 1 << 16, 1 << 62 | 32 << 32 | 1 << 16] {
        assert!(matches!(wrong(&bits, &(other as i64).to_string()), Fault::Host(_)));
    }
}
