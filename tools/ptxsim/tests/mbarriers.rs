//! mbarriers, bulk copies of arrays, `setmaxnreg`, `elect`, and what a device or a target does not have.

mod support;

use ptxsim::{Access::*, *};
use support::*;

/// A kernel `k(a, b)` for sm_90a: `%rd1` and `%rd2` are `a` and `b`, `%r1` the thread, `s` are 4096 bytes of shared memory, `bar` two
/// mbarriers.
fn text(body: &str) -> String {
    format!(
        ".version 8.4\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b)\n{{
        .reg .pred %p<9>; .reg .b32 %r<32>; .reg .b64 %rd<32>;
        .shared .align 128 .b8 s[4096]; .shared .align 8 .b64 bar[2];
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3;
        setp.eq.u32 %p1, %r1, 0; setp.lt.u32 %p2, %r1, 32;
        {body} ret; }}\n"
    )
}

fn on(order: Order, threads: u32, body: &str) -> Result<Vec<u32>, Fault> {
    let d = Device::hopper(&text(body), order);
    let (a, b) = (d.u32s(&(0..1024).collect::<Vec<_>>()), d.bytes(&[0; 4096]));
    d.launch("k", [1; 3], [threads, 1, 1], 0, &[a.p(Read), b.p(ReadWrite)])?;
    Ok(d.read_u32s(&b))
}

fn go(threads: u32, body: &str) -> Vec<u32> {
    on(Order::Forward, threads, body).unwrap_or_else(|f| panic!("{body}: {f}"))
}

/// Fails unless a body has a fault of this kind in any order of the warps.
macro_rules! fault {
    ($threads:expr, $body:expr, $kind:pat) => {{
        let body: String = $body.into();
        let faults = ORDERS.map(|o| on(o, $threads, &body).err().unwrap_or_else(|| panic!("no fault in: {body}")));
        for f in &faults {
            assert!(matches!(f, $kind), "{body}: {f}");
        }
        faults[0].to_string()
    }};
}

/// Thread 0 initialises the first barrier, for all.
fn init(count: u32) -> String {
    format!("@%p1 mbarrier.init.shared.b64 [bar], {count}; @%p1 fence.mbarrier_init.release.cluster; bar.sync 0;")
}

fn wait(label: &str, parity: u32) -> String {
    format!("{label}: mbarrier.try_wait.parity.shared::cta.b64 %p8, [bar], {parity}; @!%p8 bra {label};")
}

#[test]
fn phases_order_what_comes_before_arrivals() {
    // Warp 0 stores, warp 1 reads; and back, in the next phase.
    let body = format!(
        "{} mov.u32 %r4, s; shl.b32 %r5, %r1, 2; and.b32 %r5, %r5, 127; add.s32 %r4, %r4, %r5;
        @!%p2 bra SECOND; st.shared.u32 [%r4], %r1; mbarrier.arrive.shared.b64 _, [bar]; {} ld.shared.u32 %r6, [%r4]; st.global.u32 [%rd4], %r6; bra END;
        SECOND: {} ld.shared.u32 %r6, [%r4]; add.s32 %r6, %r6, 100; st.shared.u32 [%r4], %r6; mbarrier.arrive.shared.b64 _, [bar];
        END:",
        init(32),
        wait("W0", 1),
        wait("W1", 0)
    );
    for order in ORDERS {
        let out = on(order, 64, &body).unwrap_or_else(|f| panic!("{f}"));
        assert!((0..32).all(|i| out[i] == i as u32 + 100));
    }
    // Without one of the waits, the arrivals or the right parity.
    fault!(64, body.replace(&wait("W1", 0), ""), Fault::Race(..) | Fault::Uninitialised(..));
    fault!(64, body.replace(&wait("W0", 1), ""), Fault::Race(..));
    fault!(
        64,
        body.replace(&wait("W1", 0), &wait("W1", 1)),
        Fault::Race(..) | Fault::Uninitialised(..) | Fault::Deadlock(_)
    );
    fault!(
        64,
        body.replace("; mbarrier.arrive.shared.b64 _, [bar]; W0", "; W0"),
        Fault::Race(..) | Fault::Uninitialised(..) | Fault::Deadlock(_)
    );
    // Relaxed waits order nothing.
    fault!(64, body.replace("try_wait.parity", "try_wait.parity.relaxed.cluster"), Fault::Race(..));
    fault!(64, body.replace("mbarrier.arrive.shared", "mbarrier.arrive.relaxed.cta.shared"), Fault::Race(..));
    // A wait without a loop may end too early.
    let f = on(Order::Reverse, 64, &body.replace("@!%p8 bra W1;", "")).unwrap_err();
    assert!(matches!(f, Fault::Race(..) | Fault::Uninitialised(..)), "{f}");
}

#[test]
fn states_counts_and_tests() {
    // The state of the last arrival ends a phase; a test of it before is false, afterwards true.
    let body = "@%p1 mbarrier.init.shared.b64 [bar], 3; bar.warp.sync -1;
        @!%p1 bra END; mbarrier.arrive.shared.b64 %rd5, [bar], 2; mbarrier.test_wait.shared.b64 %p3, [bar], %rd5;
        mbarrier.arrive.noComplete.release.cta.shared::cta.b64 %rd7, [bar+0], 0;
        mbarrier.arrive.shared.b64 %rd6, [bar]; mbarrier.test_wait.shared.b64 %p4, [bar], %rd6; mbarrier.try_wait.shared.b64 %p5, [bar], %rd5, 100;
        selp.u32 %r3, 1, 0, %p3; selp.u32 %r4, 1, 0, %p4; selp.u32 %r5, 1, 0, %p5; st.global.v2.u32 [%rd2], {%r3, %r4}; st.global.u32 [%rd2+8], %r5;
        mbarrier.inval.shared.b64 [bar]; mbarrier.init.shared.b64 [bar], 1; END:";
    assert_eq!(go(32, body)[..3], [0, 1, 1]);
    // An mbarrier that is new lets those pass who wait for the phase before its first one.
    go(32, &format!("{} {}", init(1), wait("W", 1)));
    // A state that is too old.
    let old = "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.shared.b64 %rd5, [bar]; mbarrier.arrive.shared.b64 _, [bar];
        mbarrier.test_wait.shared.b64 %p3, [bar], %rd5;";
    fault!(1, old, Fault::Mbarrier(_));
    // Generic addresses, and those of the cluster's own block.
    let generic = "mov.u64 %rd5, bar; cvta.shared.u64 %rd6, %rd5; mbarrier.init.b64 [%rd6], 1; mbarrier.arrive.b64 _, [%rd6]; mov.u32 %r3, bar;
        W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p8, [%r3], 0; @!%p8 bra W;";
    go(1, generic);
}

#[test]
fn wrong_uses() {
    let with = |what: &str| format!("@%p1 mbarrier.init.shared.b64 [bar], 2; bar.sync 0; @%p1 {what}");
    go(32, &with("mbarrier.arrive.shared.b64 _, [bar];"));
    fault!(32, with("mbarrier.init.shared.b64 [bar], 2;"), Fault::Mbarrier(_));
    fault!(32, with("mbarrier.arrive.shared.b64 _, [bar], 3;"), Fault::Mbarrier(_));
    fault!(32, with("mbarrier.arrive.noComplete.shared.b64 _, [bar], 2;"), Fault::Mbarrier(_));
    fault!(32, with("mbarrier.arrive.shared.b64 _, [bar+8];"), Fault::Mbarrier(_));
    fault!(32, with("mbarrier.inval.shared.b64 [bar+8];"), Fault::Mbarrier(_));
    fault!(32, with("mbarrier.arrive.shared.b64 _, [bar+4];"), Fault::Misaligned(Space::Shared, _));
    fault!(32, with("mbarrier.arrive.shared.b64 _, [bar+65536];"), Fault::OutOfBounds(Space::Shared, _));
    fault!(32, with("mbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 1048576;"), Fault::Mbarrier(_));
    fault!(32, "mbarrier.init.shared.b64 [s], 0;", Fault::Mbarrier(_));
    fault!(1, "mbarrier.init.shared.b64 [s], 1048576;", Fault::Mbarrier(_));
    fault!(1, "mbarrier.init.shared.b64 [s+12], 1;", Fault::Misaligned(Space::Shared, _));
    fault!(1, "mbarrier.init.shared.b64 [s+65536], 1;", Fault::OutOfBounds(Space::Shared, _));
    // Its memory is no ordinary memory.
    fault!(32, with("ld.shared.u32 %r3, [bar];"), Fault::Race(Space::Shared, _));
    fault!(32, with("st.shared.u32 [bar+4], %r1;"), Fault::Race(Space::Shared, _));
    go(32, &with("mbarrier.inval.shared.b64 [bar]; @%p1 st.shared.u32 [bar], %r1;"));
    // Initialised, but not for the other warp.
    let alone = "@%p1 mbarrier.init.shared.b64 [bar], 1; bar.warp.sync -1; setp.eq.u32 %p3, %r1, 32; @%p3 mbarrier.arrive.shared.b64 _, [bar];";
    fault!(64, alone, Fault::Race(..) | Fault::Mbarrier(_));
}

#[test]
fn atomic_operations_beside_mbarriers() {
    // All threads add to one word; who reads it must have met all of them.
    let body = format!(
        "mov.u32 %r3, 0; @%p1 st.shared.u32 [s], %r3; {} red.shared.add.u32 [s], 1; mbarrier.arrive.shared.b64 _, [bar]; {}
        @%p1 ld.shared.u32 %r4, [s]; @%p1 st.global.u32 [%rd4], %r4;",
        init(96),
        wait("W", 0)
    );
    assert_eq!(go(96, &body)[0], 96);
    fault!(96, body.replace(&wait("W", 0), ""), Fault::Race(Space::Shared, _));
    fault!(96, body.replace("red.shared.add.u32 [s], 1;", "st.shared.u32 [s], %r3;"), Fault::Race(Space::Shared, _));
}

#[test]
fn two_phases_pass_a_waiting_warp() {
    // Warp 1 waits while warp 0 arrives twice: the parity is what it was.
    let body = format!(
        "{} @%p2 bra FIRST; {} bra END; FIRST: bar.sync 1, 32; @%p1 mbarrier.arrive.shared.b64 _, [bar]; @%p1 mbarrier.arrive.shared.b64 _, [bar]; END:",
        init(1),
        wait("W", 0)
    );
    let f = on(Order::Reverse, 64, &body).unwrap_err();
    assert!(matches!(f, Fault::Mbarrier(_)), "{f}");
}

#[test]
fn deadlocks_name_what_is_missing() {
    let f = fault!(32, format!("{} {}", init(2), wait("W", 0)), Fault::Deadlock(_));
    assert!(f.contains("lacks 2 of 2 arrivals and 0 bytes"), "{f}");
    // Also where warps only test.
    let test = "T: mbarrier.test_wait.parity.shared.b64 %p8, [bar], 0; @!%p8 bra T;";
    let f = fault!(64, format!("{} {test}", init(1)), Fault::Deadlock(_));
    assert!(f.contains("lacks 1 of 1 arrivals"), "{f}");
    go(64, &format!("{} setp.eq.u32 %p3, %r1, 63; @%p3 mbarrier.arrive.shared.b64 _, [bar]; {test}", init(1)));
    let expects = "@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 48;";
    let f = fault!(
        64,
        format!("{} {expects} @%p2 bra L; bar.sync 3, 64; bra END; L: {} END:", init(1), wait("W", 0)),
        Fault::Deadlock(_)
    );
    assert!(f.contains("lacks 0 of 1 arrivals and 48 bytes") && f.contains("barrier 3 has 32 of 64 threads"), "{f}");
}

/// `n` bytes to `s` by thread 0, and a word of them for each thread.
fn bulk(n: u32) -> String {
    format!(
        "{} @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {n};
        @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%rd1+16], {n}, [bar];
        WAITED mov.u32 %r4, s; shl.b32 %r5, %r1, 2; add.s32 %r4, %r4, %r5; ld.shared.u32 %r6, [%r4]; st.global.u32 [%rd4], %r6;",
        init(1)
    )
}

#[test]
fn arrays() {
    let waited = bulk(256).replace("WAITED", &wait("W", 0));
    for order in ORDERS {
        let out = on(order, 64, &waited).unwrap_or_else(|f| panic!("{f}"));
        assert!((0..64).all(|i| out[i] == i as u32 + 4));
    }
    fault!(64, bulk(256).replace("WAITED", ""), Fault::Race(Space::Shared, _) | Fault::Uninitialised(Space::Shared, _));
    fault!(64, bulk(256).replace("WAITED", "bar.sync 0;"), Fault::Race(Space::Shared, _));
    fault!(64, bulk(240).replace("WAITED", &wait("W", 0)), Fault::Uninitialised(Space::Shared, _));
    // A block that ends before the copy does.
    let left = format!(
        "{} @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 16; @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%rd1], 16, [bar];",
        init(1)
    );
    fault!(32, &left, Fault::InFlight(_));
    go(32, &format!("{left} {}", wait("W", 0)));
    // Sizes, alignments, bounds, and a barrier that the async proxy does not see.
    let wrong = |from: &str, to: &str| {
        assert!(left.contains(from));
        format!("{} {}", left.replace(from, to), wait("W", 0))
    };
    fault!(32, wrong("[%rd1], 16,", "[%rd1], 8,"), Fault::Illegal(_));
    fault!(32, wrong("[%rd1], 16,", "[%rd1], 0,"), Fault::Illegal(_));
    fault!(32, wrong("[%rd1]", "[%rd1+8]"), Fault::Misaligned(Space::Global, _));
    fault!(32, wrong("[s]", "[s+8]"), Fault::Misaligned(Space::Shared, _));
    fault!(32, wrong("[s]", "[s+65536]"), Fault::OutOfBounds(Space::Shared, _));
    fault!(32, wrong("[%rd1]", "[%rd1+4096]"), Fault::OutOfBounds(Space::Global, _));
    fault!(32, wrong("16, [bar]", "16, [bar+8]"), Fault::Mbarrier(_));
    fault!(32, wrong("@%p1 fence.mbarrier_init.release.cluster;", ""), Fault::Proxy(_));
    go(32, &wrong("fence.mbarrier_init.release.cluster;", "fence.proxy.async.shared::cta;"));
    // A copy to where another one is under way, or where a warp still reads.
    let twice = "@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%rd1], 16, [bar];";
    fault!(32, format!("{left} {twice}"), Fault::Race(Space::Shared, _));
    let read = "mov.u32 %r4, s; setp.ge.u32 %p3, %r1, 32; @%p3 ld.shared.u32 %r6, [%r4];";
    let again = format!("@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 16; {twice} {}", wait("V", 1));
    // If the second warp comes too late, it misses the first phase.
    fault!(64, format!("{left} {} {read} {again}", wait("W", 0)), Fault::Race(Space::Shared, _) | Fault::Deadlock(_));
    go(64, &format!("{left} {} {read} bar.sync 0; {again}", wait("W", 0)));
}

#[test]
fn stores_of_arrays() {
    let fill = "mov.u32 %r4, s; shl.b32 %r5, %r1, 2; add.s32 %r4, %r4, %r5; st.shared.u32 [%r4], %r1;";
    let store = "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd2], [s], 256;";
    let done = "cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;";
    let fence = "fence.proxy.async.shared::cta;";
    for order in ORDERS {
        let out = on(order, 64, &[fill, fence, "bar.sync 0;", store, done].concat()).unwrap();
        assert!((0..64).all(|i| out[i] == i as u32));
    }
    fault!(64, [fill, "bar.sync 0;", store, done].concat(), Fault::Proxy(_));
    fault!(64, [fill, "bar.sync 0;", fence, store, done].concat(), Fault::Proxy(_));
    fault!(64, [fill, fence, store, done].concat(), Fault::Race(..) | Fault::Uninitialised(..));
    fault!(64, [fill, fence, "bar.sync 0;", store].concat(), Fault::InFlight(_));
    fault!(64, [fill, fence, "bar.sync 0;", store, "cp.async.bulk.wait_group 0;"].concat(), Fault::InFlight(_));
    // The source is overwritten, before and after the wait; by another warp only after a barrier.
    let again = "st.shared.u32 [%r4], %r2;".replace("%r2", "%r1");
    go(64, &[fill, fence, "bar.sync 0;", store, done, "bar.sync 0;", &again].concat());
    fault!(
        64,
        [fill, fence, "bar.sync 0;", store, "bar.sync 0;", &again, done].concat(),
        Fault::Race(Space::Shared, _)
    );
    fault!(64, [fill, fence, "bar.sync 0;", store, done, &again].concat(), Fault::Race(Space::Shared, _));
    let wrong = |to: &str| [fill, fence, "bar.sync 0;", &store.replace("[%rd2], [s], 256", to), done].concat();
    fault!(64, wrong("[%rd1], [s], 256"), Fault::ReadOnly(_));
    fault!(64, wrong("[%rd2], [s], 264"), Fault::Illegal(_));
    fault!(64, wrong("[%rd2+4], [s], 256"), Fault::Misaligned(Space::Global, _));
    fault!(64, wrong("[%rd2], [s+4], 192"), Fault::Misaligned(Space::Shared, _));
    fault!(64, wrong("[%rd2], [s], 272"), Fault::Uninitialised(Space::Shared, _));
    fault!(64, wrong("[%rd2+4000], [s], 256"), Fault::OutOfBounds(Space::Global, _));
}

#[test]
fn one_lane_is_elected() {
    let body =
        "elect.sync %r3|%p3, -1; selp.u32 %r4, 1, 0, %p3; st.global.u32 [%rd4], %r4; st.global.u32 [%rd4+256], %r3;";
    let out = go(64, body);
    for warp in out[..64].chunks(32) {
        assert_eq!(warp.iter().sum::<u32>(), 1);
        assert_eq!(warp[out[64] as usize], 1);
    }
    go(32, "elect.sync _|%p3, 0xffffffff;");
    fault!(32, "setp.lt.u32 %p3, %r1, 7; @%p3 elect.sync _|%p4, -1;", Fault::Divergence(_));
}

#[test]
fn registers_are_moved_between_warpgroups() {
    // 384 threads start with 168 registers: two groups can have 232 or 240 after the third has gone down to 40 or 24.
    let body = |down: u32, up: u32| {
        format!(
            "setp.lt.u32 %p3, %r1, 128; @%p3 bra L; setmaxnreg.inc.sync.aligned.u32 {up}; bra END; L: setmaxnreg.dec.sync.aligned.u32 {down}; END:"
        )
    };
    for order in ORDERS {
        on(order, 384, &body(40, 232)).unwrap_or_else(|f| panic!("{f}"));
        on(order, 384, &body(24, 240)).unwrap_or_else(|f| panic!("{f}"));
    }
    fault!(384, body(40, 240), Fault::Deadlock(_));
    fault!(384, body(24, 248), Fault::Deadlock(_));
    fault!(128, "setmaxnreg.dec.sync.aligned.u32 40; setmaxnreg.dec.sync.aligned.u32 64;", Fault::Illegal(_));
    fault!(384, "setmaxnreg.inc.sync.aligned.u32 160;", Fault::Illegal(_));
    // Not all warps of a group, not a whole group, not all lanes.
    fault!(128, "@%p2 bra END; setmaxnreg.dec.sync.aligned.u32 40; END:", Fault::Divergence(_));
    fault!(
        128,
        "@%p2 bra L; setmaxnreg.dec.sync.aligned.u32 40; bra END; L: setmaxnreg.dec.sync.aligned.u32 48; END:",
        Fault::Divergence(_)
    );
    fault!(64, "setmaxnreg.dec.sync.aligned.u32 40;", Fault::Illegal(_));
    fault!(128, "@%p1 setmaxnreg.dec.sync.aligned.u32 40;", Fault::Divergence(_));
}

#[test]
fn what_a_target_or_a_device_does_not_have() {
    let refused = |from: &str, to: &str, body: &str, says: &str| {
        let text = text(body).replace(from, to);
        let e = Machine::new(Config::default()).load(&text).expect_err(body);
        assert!(e.message.contains(says), "{body}: {e}");
    };
    for (body, needs) in [
        ("wgmma.fence.sync.aligned;", "sm_90a"),
        ("setmaxnreg.inc.sync.aligned.u32 232;", "sm_90a"),
        ("cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%rd1, {%r1}], [s];", "sm_90a"),
    ] {
        refused("sm_90a", "sm_90", body, needs);
        refused("sm_90a", "sm_80", body, "sm_90");
    }
    for body in [
        "fence.proxy.async;",
        "mbarrier.try_wait.parity.shared.b64 %p3, [bar], 0;",
        "cp.async.bulk.commit_group;",
        "elect.sync _|%p3, -1;",
    ] {
        refused("sm_90a", "sm_80", body, "sm_90");
        Machine::new(Config::default()).load(&text(body).replace("sm_90a", "sm_90")).unwrap_or_else(|e| panic!("{e}"));
    }
    for (body, says) in [
        ("setmaxnreg.inc.sync.aligned.u32 230;", "multiple of 8"),
        ("setmaxnreg.inc.sync.aligned.u32 16;", "24 to 256"),
        ("wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, 1, 1, 1, 0, 0;", "shape"),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%rd1, {%r1}], [bar];",
            "coordinates",
        ),
        ("cp.async.bulk.tensor.2d.shared::cluster.global.bulk_group [s], [%rd1, {%r1, %r1}], [bar];", "completes"),
        ("mbarrier.init.global.b64 [%rd1], 1;", "global"),
        ("fence.proxy.alias;", "not simulated"),
    ] {
        refused("", "", body, says);
    }
    // The device: sm_90a is for 9.0 alone, sm_90 and sm_80 for it and newer ones.
    let launch = |capability, target: &str| {
        let machine = Machine::new(Config { capability, ..Config::default() });
        let module = machine.load(&text("").replace("sm_90a", target)).unwrap();
        let d = Device { machine, module };
        let b = d.bytes(&[0; 64]);
        d.launch("k", [1; 3], [1, 1, 1], 0, &[b.p(Read), b.p(Read)]).map(|_| ())
    };
    for (capability, target, fits) in [
        ((9, 0), "sm_90a", true),
        ((8, 0), "sm_90a", false),
        ((10, 0), "sm_90a", false),
        ((8, 9), "sm_90", false),
        ((10, 0), "sm_90", true),
        ((9, 0), "sm_80", true),
    ] {
        match launch(capability, target) {
            Ok(()) => assert!(fits, "{capability:?} {target}"),
            Err(f) => assert!(!fits && matches!(f, Fault::Unsupported(_)), "{capability:?} {target}: {f}"),
        }
    }
}
