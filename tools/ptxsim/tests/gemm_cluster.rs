//! A matrix product by clusters of two blocks that load for each other, as compiled by NVRTC, and its mistakes.

mod support;

use ptxsim::{Access::*, *};
use support::*;

const ENTRY: &str = "gemm_cluster";
const SHARED: u32 = 2 * (64 + 64) * 128;

fn text() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gemm_cluster.ptx")).unwrap()
}

/// A row-major matrix, seen in boxes of `rows` rows of 64 elements.
fn map(p: &Memory, rows: u32, size: (usize, usize)) -> TensorMap {
    TensorMap {
        element: Element::Bf16,
        address: p.ptr,
        extents: vec![size.1 as u64, size.0 as u64],
        strides: vec![2 * size.1 as u64],
        window: Window::Tiled { extent: vec![64, rows] },
        steps: vec![1, 1],
        swizzle: Swizzle::B128,
        fill: Fill::Zero,
    }
}

/// Runs the kernel, and compares with a plain product.
fn run(ptx: &str, (m, n, k): (usize, usize, usize), order: Order) -> Result<(), Fault> {
    let d = Device::hopper(ptx, order);
    let (a, b) = (bf16s(3, m * k), bf16s(4, n * k));
    let (pa, pb, py) = (d.bytes(&bytes(&a)), d.bytes(&bytes(&b)), d.empty(4 * m * n));
    let maps = [map(&pa, 64, (m, k)), map(&pb, 32, (n, k))].map(|x| d.machine.tensor_map(&x).unwrap());
    let region = |p: &Memory| Region { ptr: p.ptr, bytes: p.bytes, access: Read };
    let params = [
        Param::TensorMap(&maps[0], region(&pa)),
        Param::TensorMap(&maps[1], region(&pb)),
        py.p(Write),
        int(m),
        int(n),
        int(k),
    ];
    let grid = [n.div_ceil(64) as u32, m.div_ceil(128) as u32 * 2, 1];
    let c = d.launch(ENTRY, grid, [160, 1, 1], SHARED, &params)?;
    // Half of what the blocks would load alone, of b.
    let inside = |rows: usize, tile: usize| (rows.div_ceil(tile) * tile).min(rows);
    let of_a = inside(m, 64) * n.div_ceil(64);
    let of_b = inside(n, 64) * m.div_ceil(128);
    assert_eq!(c.bulk_bytes_loaded as usize, 2 * k * (of_a + of_b));
    let y = d.read_f32s(&py);
    let value = |v: &u16| f64::from(f32::from_bits(u32::from(*v) << 16));
    for (i, row) in y.chunks(n).enumerate() {
        for (j, got) in row.iter().enumerate() {
            let terms = (0..k).map(|q| value(&a[i * k + q]) * value(&b[j * k + q]));
            let (want, sum) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            // A unit of f32 per addition.
            if (f64::from(*got) - want).abs() > sum * k as f64 / f64::from(1 << 24) {
                return Err(Fault::Host(format!("{i} {j}: {got} where {want} is expected")));
            }
        }
    }
    Ok(())
}

#[test]
fn any_size_in_any_order() {
    for order in ORDERS {
        for size in [(128, 64, 64), (128, 64, 448), (200, 136, 328), (8, 8, 8), (300, 72, 200)] {
            run(&text(), size, order).unwrap_or_else(|f| panic!("{size:?} {order:?}: {f}"));
        }
    }
}

#[test]
fn every_mistake_is_noticed() {
    let text = text();
    let mutant = |from: &str, to: &str, kind: &dyn Fn(&Fault) -> bool| {
        assert!(text.contains(from), "{from}");
        for order in ORDERS {
            let f = run(&text.replacen(from, to, 1), (128, 64, 456), order);
            let f = f.err().unwrap_or_else(|| panic!("no fault without {from}"));
            assert!(kind(&f), "{from}: {f}");
        }
    };
    let first = "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;";
    assert_eq!(text.matches(first).count(), 2);
    mutant(first, "bar.sync 0;", &|f| matches!(f, Fault::Race(Space::Cluster, _)));
    mutant(first, "barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;", &|f| {
        matches!(f, Fault::Race(..))
    });
    // The last one: another block may still arrive at an mbarrier of a block that has left.
    let (head, tail) = text.rsplit_once(first).unwrap();
    let last = format!("{head}{tail}");
    for order in ORDERS {
        let f = run(&last, (128, 64, 456), order).unwrap_err();
        assert!(matches!(f, Fault::InFlight(_)), "{f}");
    }
    let arrive = text.lines().find(|l| l.contains("mbarrier.arrive.release.cluster")).unwrap();
    mutant(arrive, "", &|f| matches!(f, Fault::Deadlock(_)));
    let own = arrive.replace("%r80", "%r81");
    assert_ne!(own, arrive);
    mutant(arrive, &own, &|f| matches!(f, Fault::Mbarrier(_) | Fault::Race(..) | Fault::Deadlock(_)));
    let both = text.lines().find(|l| l.contains("mov.u16") && l.trim_end().ends_with(" 3;")).unwrap();
    for mask in ["1", "2"] {
        mutant(both, &both.replace(" 3;", &format!(" {mask};")), &|f| matches!(f, Fault::Deadlock(_)));
    }
    mutant("fence.mbarrier_init.release.cluster;", "", &|f| matches!(f, Fault::Proxy(_)));
    mutant("wgmma.wait_group.sync.aligned 0;", "", &|f| matches!(f, Fault::Race(..) | Fault::InFlight(_)));
    let wait = "@!done bra again;";
    mutant(wait, "", &|f| matches!(f, Fault::Race(..) | Fault::Deadlock(_) | Fault::Uninitialised(..)));
}
