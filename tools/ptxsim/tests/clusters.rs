//! Clusters of blocks: their barrier, each other's shared memory and mbarriers, and copies to several blocks.

mod support;

use ptxsim::{Access::*, *};
use support::*;

/// A kernel `k(a, b)` for sm_90: `%rd1` and `%rd2` are `a` and `b`, `%r1` the thread, `%r2` the block's rank in the cluster, `%r3` that of
/// the next one; `%rd4` the thread's word in the block's 4096 bytes of `b`; `%p1` is true in thread 0; `s` are 4096 bytes of shared
/// memory, `%r4` is the thread's word there; `bar` are two mbarriers.
fn text(body: &str) -> String {
    format!(
        ".version 8.4\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b)\n{{
        .reg .pred %p<9>; .reg .b16 %h<4>; .reg .b32 %r<32>; .reg .b64 %rd<32>;
        .shared .align 128 .b8 s[4096]; .shared .align 8 .b64 bar[2];
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mov.u32 %r1, %tid.x; mov.u32 %r2, %cluster_ctarank;
        add.u32 %r3, %r2, 1; mov.u32 %r4, %cluster_nctarank; rem.u32 %r3, %r3, %r4;
        mov.u32 %r5, %ctaid.x; shl.b32 %r5, %r5, 12; shl.b32 %r6, %r1, 2; add.u32 %r5, %r5, %r6; cvt.u64.u32 %rd3, %r5;
        add.s64 %rd4, %rd2, %rd3; mov.u32 %r4, s; add.u32 %r4, %r4, %r6; setp.eq.u32 %p1, %r1, 0;
        {body} ret; }}\n"
    )
}

/// Runs clusters of `blocks` blocks, and returns what each block of the grid has stored in `b`.
fn on(order: Order, (grid, blocks): (u32, u32), body: &str) -> Result<Vec<Vec<u32>>, Fault> {
    let d = Device::hopper(&text(body), order);
    let a = d.u32s(&(0..1024).collect::<Vec<_>>());
    let b = d.bytes(&vec![0; 4096 * grid as usize]);
    let params = [a.p(Read), b.p(ReadWrite)];
    let l = Launch { grid: [grid, 1, 1], block: [64, 1, 1], shared: 0, params: &params, extra: &[] };
    d.machine.launch_cluster(&d.module, "k", &l, [blocks, 1, 1])?;
    Ok(d.read_u32s(&b).chunks(1024).map(<[u32]>::to_vec).collect())
}

/// The results in each order.
fn go(size: (u32, u32), body: &str) -> Vec<Vec<u32>> {
    let all = ORDERS.map(|o| on(o, size, body).unwrap_or_else(|f| panic!("{body}: {f}")));
    assert!(all.iter().all(|r| *r == all[0]), "the order changes the result");
    all[0].clone()
}

/// Fails unless a body has a fault of this kind in any order.
macro_rules! fault {
    ($size:expr, $body:expr, $kind:pat) => {{
        let body: String = $body.into();
        let faults = ORDERS.map(|o| on(o, $size, &body).err().unwrap_or_else(|| panic!("no fault in: {body}")));
        for f in &faults {
            assert!(matches!(f, $kind), "{body}: {f}");
        }
        faults[0].to_string()
    }};
}

const SYNC: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

#[test]
fn places() {
    let body = "mov.u32 %r7, %cluster_nctarank; mov.u32 %r8, %clusterid.x; mov.u32 %r9, %nclusterid.x; mov.u32 %r10, %cluster_ctaid.x;
        mov.u32 %r11, %cluster_nctaid.x; @%p1 st.global.v4.u32 [%rd4], {%r2, %r7, %r8, %r9}; @%p1 st.global.v2.u32 [%rd4+16], {%r10, %r11};";
    let out = go((6, 2), body);
    for (block, o) in out.iter().enumerate() {
        let b = block as u32;
        assert_eq!(o[..6], [b % 2, 2, b / 2, 3, b % 2, 2]);
    }
    // Ranks count x first, also in three dimensions.
    let d = Device::hopper(
        &text("mov.u32 %r7, %ctaid.y; mad.lo.u32 %r7, %r7, 4, %r2; mov.u32 %r8, %ctaid.x; mad.lo.u32 %r8, %r8, 2, 0; mov.u32 %r9, %ctaid.y;
            add.u32 %r8, %r8, %r9; mul.wide.u32 %rd5, %r8, 4; add.s64 %rd5, %rd2, %rd5; @%p1 st.global.u32 [%rd5], %r7;"),
        Order::Forward,
    );
    let (a, b) = (d.u32s(&[0]), d.empty(16 * 4));
    let params = [a.p(Read), b.p(Write)];
    let l = Launch { grid: [8, 2, 1], block: [32, 1, 1], shared: 0, params: &params, extra: &[] };
    d.machine.launch_cluster(&d.module, "k", &l, [2, 2, 1]).unwrap();
    let out = d.read_u32s(&b);
    for (i, v) in out.iter().enumerate() {
        let (x, y) = (i as u32 / 2, i as u32 % 2);
        assert_eq!(*v, 4 * y + x % 2 + 2 * y);
    }
}

/// Every block stores its words, and reads those of the next block.
fn exchange(generic: bool) -> String {
    let get = if generic {
        "mov.u64 %rd5, s; cvta.shared.u64 %rd5, %rd5; mapa.u64 %rd6, %rd5, %r3; cvt.u64.u32 %rd7, %r6; add.s64 %rd6, %rd6, %rd7; ld.u32 %r9, [%rd6];"
    } else {
        "mapa.shared::cluster.u32 %r8, %r4, %r3; ld.shared::cluster.u32 %r9, [%r8];"
    };
    format!(
        "mad.lo.u32 %r7, %r2, 100, %r1; st.shared.u32 [%r4], %r7; FIRST {SYNC} {get} st.global.u32 [%rd4], %r9; LAST {SYNC}"
    )
}

#[test]
fn blocks_read_each_other() {
    for generic in [false, true] {
        let body = exchange(generic);
        let right = body.replace("FIRST", "").replace("LAST", "");
        for blocks in [2, 4, 8] {
            let out = go((8, blocks), &right);
            for (block, o) in out.iter().enumerate() {
                let next = (block as u32 % blocks + 1) % blocks;
                assert!((0..64).all(|i| o[i as usize] == 100 * next + i), "{block} of {blocks}");
            }
        }
        // Without the first barrier the other block may not have begun, without the last one it may have ended.
        fault!(
            (4, 4),
            body.replace(&format!("FIRST {SYNC}"), "bar.sync 0;").replace("LAST", ""),
            Fault::Race(Space::Cluster, _)
        );
        fault!((4, 4), body.replace(&format!("LAST {SYNC}"), "").replace("FIRST", ""), Fault::InFlight(_));
        // Relaxed arrivals order nothing.
        fault!((2, 2), right.replacen("arrive.aligned", "arrive.relaxed.aligned", 1), Fault::Race(..));
        fault!(
            (2, 1),
            "mov.u32 %r3, 1; mapa.shared::cluster.u32 %r8, %r4, %r3;",
            Fault::OutOfBounds(Space::Cluster, _)
        );
    }
    let rank = go((4, 4), &format!("{SYNC} mapa.shared::cluster.u32 %r8, %r4, %r3; getctarank.shared::cluster.u32 %r9, %r8; getctarank.shared::cluster.u32 %r10, %r4;
        st.global.u32 [%rd4], %r9; st.global.u32 [%rd4+1024], %r10;"));
    for (b, o) in rank.iter().enumerate() {
        assert_eq!((o[5], o[256 + 5]), ((b as u32 + 1) % 4, b as u32));
    }
}

#[test]
fn blocks_store_to_each_other() {
    // Each block adds to a word of block 0, and stores into its own place there.
    let body = format!(
        "mov.u32 %r7, 0; @%p1 st.shared.u32 [s+2048], %r7; {SYNC} mov.u32 %r3, 0; mapa.shared::cluster.u32 %r8, %r4, %r3;
        setp.lt.u32 %p2, %r1, 4; shl.b32 %r9, %r2, 4; add.u32 %r9, %r8, %r9; @%p2 st.shared::cluster.u32 [%r9], %r2;
        mov.u32 %r10, s; mapa.shared::cluster.u32 %r10, %r10, %r3; red.shared::cluster.add.u32 [%r10+2048], 1; {SYNC}
        setp.ne.u32 %p3, %r2, 0; @%p3 bra END; setp.lt.u32 %p2, %r1, 16; @%p2 ld.shared.u32 %r11, [%r4]; @%p2 st.global.u32 [%rd4], %r11;
        ld.shared.u32 %r11, [s+2048]; @%p1 st.global.u32 [%rd4+1024], %r11; END:"
    );
    let out = go((4, 4), &body);
    assert!((0..16).all(|i| out[0][i] == i as u32 / 4));
    assert_eq!(out[0][256], 4 * 64);
    // Two blocks store to one place.
    fault!((4, 4), body.replace("shl.b32 %r9, %r2, 4;", "mov.u32 %r9, 0;"), Fault::Race(..));
    fault!(
        (2, 2),
        body.replace("st.shared::cluster.u32 [%r9]", "st.shared::cluster.u32 [%r9+2]"),
        Fault::Misaligned(Space::Cluster, _)
    );
    fault!(
        (2, 2),
        body.replace("st.shared::cluster.u32 [%r9]", "st.shared::cluster.u32 [%r9+8192]"),
        Fault::OutOfBounds(Space::Shared, _)
    );
}

#[test]
fn mbarriers_of_other_blocks() {
    // Block 0 waits until all warps of all blocks have stored their words to it.
    let body = format!(
        "@%p1 mbarrier.init.shared.b64 [bar], 8; {SYNC} mov.u32 %r3, 0; shl.b32 %r7, %r2, 8; add.u32 %r7, %r4, %r7; mapa.shared::cluster.u32 %r8, %r7, %r3;
        st.shared::cluster.u32 [%r8], %r2; and.b32 %r9, %r1, 31; setp.eq.u32 %p2, %r9, 0; mov.u32 %r10, bar; mapa.shared::cluster.u32 %r10, %r10, %r3;
        @%p2 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r10];
        setp.ne.u32 %p3, %r2, 0; @%p3 bra END; W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [bar], 0; @!%p4 bra W;
        ld.shared.u32 %r11, [%r4+256]; ld.shared.u32 %r12, [%r4+768]; add.s64 %rd4, %rd4, %rd3; st.global.v2.u32 [%rd4], {{%r11, %r12}}; END:"
    );
    let out = go((4, 4), &body);
    assert!((0..64).all(|i| out[0][2 * i..2 * i + 2] == [1, 3]));
    fault!(
        (4, 4),
        body.replace("W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [bar], 0; @!%p4 bra W;", ""),
        Fault::Race(..) | Fault::Uninitialised(..)
    );
    let f = fault!((4, 4), body.replace("[bar], 8", "[bar], 9"), Fault::Deadlock(_));
    assert!(f.contains("lacks 1 of 9 arrivals"), "{f}");
    // Other blocks' mbarriers cannot be waited for.
    fault!(
        (4, 4),
        body.replace("shared::cta.b64 %p4, [bar]", "shared::cta.b64 %p4, [%r10]").replace("mov.u32 %r3, 0;", ""),
        Fault::Illegal(_) | Fault::Deadlock(_) | Fault::Race(..)
    );
}

/// Block 0 copies words to all blocks, twice, the second time when all have read the first ones.
fn multicast() -> String {
    let copy = |from: u32| {
        format!(
            "@%p2 mov.u16 %h1, 0xf; @%p2 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [s], [%rd1+{from}], 256, [bar], %h1;"
        )
    };
    let expect = "@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256;";
    let wait =
        |l: &str, parity: u32| format!("{l}: mbarrier.try_wait.parity.shared.b64 %p4, [bar], {parity}; @!%p4 bra {l};");
    format!(
        "@%p1 mbarrier.init.shared.b64 [bar], 1; @%p1 mbarrier.init.shared.b64 [bar+8], 8; @%p1 fence.mbarrier_init.release.cluster; {SYNC}
        setp.eq.u32 %p3, %r2, 0; and.pred %p2, %p1, %p3; {expect} {} {} ld.shared.u32 %r7, [%r4]; st.global.u32 [%rd4], %r7; {expect}
        and.b32 %r9, %r1, 31; setp.eq.u32 %p5, %r9, 0; mov.u32 %r3, 0; mov.u32 %r10, bar; mapa.shared::cluster.u32 %r10, %r10, %r3;
        @%p5 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r10+8];
        @!%p2 bra SECOND; V: mbarrier.try_wait.parity.acquire.cluster.shared.b64 %p4, [bar+8], 0; @!%p4 bra V; {}
        SECOND: {} ld.shared.u32 %r7, [%r4]; st.global.u32 [%rd4+1024], %r7; LAST {SYNC}",
        copy(16),
        wait("W0", 0),
        copy(512),
        wait("W1", 1)
    )
}

#[test]
fn copies_to_several_blocks() {
    let body = multicast();
    let right = body.replace("LAST", "");
    for out in go((8, 4), &right) {
        assert!((0..64).all(|i| (out[i], out[256 + i]) == (i as u32 + 4, i as u32 + 128)));
    }
    let change = |from: &str, to: &str| {
        assert!(right.contains(from), "{from}");
        right.replace(from, to)
    };
    // Overwritten before all blocks have read, or read before it has come.
    let v = "V: mbarrier.try_wait.parity.acquire.cluster.shared.b64 %p4, [bar+8], 0; @!%p4 bra V;";
    fault!((4, 4), change(v, ""), Fault::Race(Space::Shared, _) | Fault::Deadlock(_));
    fault!(
        (4, 4),
        change("W1: mbarrier.try_wait.parity.shared.b64 %p4, [bar], 1; @!%p4 bra W1;", ""),
        Fault::Race(..) | Fault::InFlight(_)
    );
    fault!(
        (4, 4),
        change("@%p5 mbarrier.arrive.release", "setp.eq.and.u32 %p5, %r2, 0, %p5; @%p5 mbarrier.arrive.release"),
        Fault::Deadlock(_)
    );
    // To fewer blocks, to one that does not exist, to none; and no barrier at the end.
    fault!((4, 4), change("mov.u16 %h1, 0xf", "mov.u16 %h1, 7"), Fault::Deadlock(_));
    fault!((4, 4), change("mov.u16 %h1, 0xf", "mov.u16 %h1, 0x1f"), Fault::Illegal(_));
    fault!((4, 4), change("mov.u16 %h1, 0xf", "mov.u16 %h1, 0"), Fault::Illegal(_));
    fault!((4, 4), body.replace(&format!("LAST {SYNC}"), ""), Fault::InFlight(_));
}

#[test]
fn copies_between_blocks() {
    let body = format!(
        "@%p1 mbarrier.init.shared.b64 [bar], 1; @%p1 fence.mbarrier_init.release.cluster; st.shared.u32 [%r4], %r1; fence.proxy.async; {SYNC}
        @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256; mov.u32 %r7, s; mov.u32 %r8, bar; mapa.shared::cluster.u32 %r9, %r7, %r3; mapa.shared::cluster.u32 %r10, %r8, %r3;
        @%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r9+1024], [s], 256, [%r10];
        W: mbarrier.try_wait.parity.shared.b64 %p4, [bar], 0; @!%p4 bra W; ld.shared.u32 %r7, [%r4+1024]; st.global.u32 [%rd4], %r7; {SYNC}"
    );
    for out in go((4, 2), &body) {
        assert!((0..64).all(|i| out[i] == i as u32));
    }
    fault!((2, 2), body.replace("fence.proxy.async;", ""), Fault::Proxy(_));
    fault!((2, 2), body.replace("256, [%r10]", "256, [bar]"), Fault::Illegal(_));
}

#[test]
fn the_barrier_of_a_cluster() {
    let f = fault!(
        (2, 2),
        "setp.eq.u32 %p2, %r2, 0; @%p2 bra L; barrier.cluster.arrive; barrier.cluster.wait; bra END; L: bar.sync 1, 128; END:",
        Fault::Geometry(_) | Fault::Illegal(_)
    );
    assert!(f.contains("barrier 1"), "{f}");
    let f = fault!(
        (2, 2),
        "setp.lt.u32 %p2, %r1, 32; @!%p2 bra L; bar.sync 1, 64; L: barrier.cluster.arrive; barrier.cluster.wait;",
        Fault::Deadlock(_)
    );
    assert!(f.contains("barrier 1 has 32 of 64") && f.contains("the barrier of the cluster has 2 warps"), "{f}");
    // Warps that have left do not count.
    go((2, 2), &format!("setp.lt.u32 %p2, %r1, 32; @%p2 ret; {SYNC}"));
    fault!((2, 2), "barrier.cluster.wait;", Fault::Illegal(_));
    fault!((2, 2), "barrier.cluster.arrive; barrier.cluster.arrive;", Fault::Illegal(_));
    fault!((2, 2), "setp.lt.u32 %p2, %r1, 7; @%p2 barrier.cluster.arrive;", Fault::Divergence(_));
    // Memory that one block stores is seen by another one after the barrier: here global memory, by volatile accesses.
    let global = format!("{SYNC} griddepcontrol.wait; griddepcontrol.launch_dependents;");
    go((2, 2), &global);
}

#[test]
fn launches_of_clusters() {
    let launch = |text: &str, capability, grid, cluster| {
        let machine = Machine::new(Config { capability, ..Config::default() });
        let module = machine.load(text).unwrap_or_else(|e| panic!("{e}"));
        let d = Device { machine, module };
        let (a, b) = (d.bytes(&[0; 64]), d.bytes(&[0; 64]));
        let params = [a.p(Read), b.p(Read)];
        let l = Launch { grid, block: [32, 1, 1], shared: 0, params: &params, extra: &[] };
        match cluster {
            Some(c) => d.machine.launch_cluster(&d.module, "k", &l, c).map(|c| c.blocks),
            None => d.machine.launch(&d.module, "k", &l).map(|c| c.blocks),
        }
    };
    let plain = text("");
    assert_eq!(launch(&plain, (9, 0), [4, 2, 2], Some([2, 2, 2])).unwrap(), 16);
    for (grid, cluster) in
        [([4, 1, 1], [3, 1, 1]), ([16, 1, 1], [16, 1, 1]), ([4, 1, 1], [0, 1, 1]), ([4, 3, 1], [2, 2, 1])]
    {
        assert!(matches!(launch(&plain, (9, 0), grid, Some(cluster)), Err(Fault::Geometry(_))), "{grid:?} {cluster:?}");
    }
    let old = plain.replace("sm_90", "sm_80");
    assert!(matches!(launch(&old, (8, 0), [2, 1, 1], Some([2, 1, 1])), Err(Fault::Unsupported(_))));
    // The text can require a size.
    let required = plain.replace("\n{", "\n.explicitcluster\n.reqnctapercluster 2, 1, 1\n{");
    assert_eq!(launch(&required, (9, 0), [4, 1, 1], None).unwrap(), 4);
    assert_eq!(launch(&required, (9, 0), [4, 1, 1], Some([2, 1, 1])).unwrap(), 4);
    assert!(matches!(launch(&required, (9, 0), [4, 1, 1], Some([4, 1, 1])), Err(Fault::Geometry(_))));
    assert!(matches!(launch(&required, (9, 0), [3, 1, 1], None), Err(Fault::Geometry(_))));
}
