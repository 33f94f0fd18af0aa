//! For each fault a kernel that has it, and a similar one that is correct.

mod support;

use ptxsim::{Access::*, *};
use support::*;

/// Fails unless the fault is of this kind.
macro_rules! fault {
    ($run:expr, $body:expr, $kind:pat) => {{
        let f = $run.fault($body);
        assert!(matches!(f, $kind), "{f}");
        f
    }};
}

const LOAD: &str = "ld.global.u32 %r3, [%rd3]; st.global.u32 [%rd4], %r3;";

#[test]
fn out_of_bounds() {
    warp().go(LOAD).unwrap();
    let f = fault!(warp(), "ld.global.u32 %r3, [%rd3+4000];", Fault::OutOfBounds(Space::Global, _));
    let site = f.site().unwrap();
    assert_eq!((site.lane, site.warp, site.block), (24, 0, [0; 3]));
    assert!(site.line > 0 && site.entry == "k", "{f}");
    fault!(warp(), "st.global.u32 [%rd4+-4], %r1;", Fault::OutOfBounds(Space::Global, _));
    fault!(warp(), "st.shared.u32 [s+4096], %r1;", Fault::OutOfBounds(Space::Shared, _));
    fault!(warp(), "st.local.u32 [l+64], %r1;", Fault::OutOfBounds(Space::Local, _));
    // The region is the limit, not its larger allocation.
    let d = Device::text(&kernel(LOAD), Order::Forward);
    let (a, b) = (d.bytes(&[0; 256]), d.bytes(&[0; 256]));
    let part = Param::Pointer(Region { ptr: a.ptr, bytes: 64, access: Read });
    let f = d.launch("k", [1; 3], [32, 1, 1], 0, &[part, b.p(ReadWrite), int(0)]).unwrap_err();
    assert!(matches!(f, Fault::OutOfBounds(..)), "{f}");
}

#[test]
fn misaligned() {
    fault!(warp(), "ld.global.u32 %r3, [%rd1+2];", Fault::Misaligned(Space::Global, _));
    fault!(warp(), "ld.global.v4.u32 {%r3,%r4,%r5,%r6}, [%rd1+8];", Fault::Misaligned(Space::Global, _));
    fault!(warp(), "st.shared.u32 [s+1], %r1;", Fault::Misaligned(Space::Shared, _));
    fault!(warp(), "cp.async.cg.shared.global [s+8], [%rd1], 16;", Fault::Misaligned(Space::Shared, _));
    fault!(warp(), "cp.async.cg.shared.global [s], [%rd1+8], 16;", Fault::Misaligned(Space::Global, _));
}

#[test]
fn uninitialised_memory() {
    let d = Device::text(&kernel(LOAD), Order::Forward);
    let (a, b) = (d.empty(256), d.bytes(&[0; 256]));
    d.machine.write(a.ptr, &[1; 124]).unwrap();
    let f = d.launch("k", [1; 3], [32, 1, 1], 0, &[a.p(Read), b.p(ReadWrite), int(0)]).unwrap_err();
    assert!(matches!(&f, Fault::Uninitialised(Space::Global, s) if s.lane == 31), "{f}");
    // Regions for writing and scratch regions become uninitialised.
    let c = d.bytes(&[0; 256]);
    for access in [Write, Scratch] {
        let f = d.launch("k", [1; 3], [16, 1, 1], 0, &[b.p(access), c.p(ReadWrite), int(0)]).unwrap_err();
        assert!(matches!(f, Fault::Uninitialised(..)), "{f}");
    }
    fault!(warp(), "ld.shared.u32 %r3, [s];", Fault::Uninitialised(Space::Shared, _));
    fault!(warp(), "red.shared.add.u32 [s], 1;", Fault::Uninitialised(Space::Shared, _));
    assert!(matches!(d.machine.read(d.empty(4).ptr, &mut [0; 4]), Err(Fault::Uninitialised(..))));
}

#[test]
fn uninitialised_registers() {
    let bad = [
        "st.global.u32 [%rd4], %r9;",
        "add.s32 %r3, %r1, %r9; st.global.u32 [%rd4], %r3;",
        "ld.global.u32 %r3, [%rd9];",
        "setp.eq.s32 %p1, %r9, 0; @%p1 bra L; L:",
        "setp.eq.s32 %p1, %r1, 0; @%p1 mov.u32 %r3, 1; st.global.u32 [%rd4], %r3;",
        "shfl.sync.bfly.b32 %r3, %r1, %r9, 31, -1;",
        "st.local.u32 [l], %r9; ld.local.u32 %r3, [l]; st.shared.u32 [s], %r3;",
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r1}, {%r9}, {%f1,%f2,%f3,%f4};",
    ];
    for body in bad {
        fault!(warp(), body, Fault::UninitialisedRegister(_));
    }
    // Moving uninitialised values is no fault, nor is selecting the other operand.
    let body = "add.s32 %r3, %r9, 1; setp.ge.s32 %p1, %r1, 0; selp.b32 %r4, %r1, %r3, %p1; st.global.u32 [%rd4], %r4;
        setp.eq.s32 %p2, %r9, 0; setp.lt.s32 %p3, %r1, 0; and.pred %p4, %p2, %p3; @%p4 bra L; L:";
    warp().go(body).unwrap();
}

#[test]
fn read_only() {
    fault!(warp(), "st.global.u32 [%rd3], %r1;", Fault::ReadOnly(_));
    fault!(warp(), "red.global.add.u32 [%rd1], 1;", Fault::ReadOnly(_));
}

#[test]
fn races_in_shared_memory() {
    let put = "mov.u32 %r4, s; shl.b32 %r5, %r1, 2; add.s32 %r6, %r4, %r5; st.shared.u32 [%r6], %r1;";
    let get = "xor.b32 %r7, %r5, 128; add.s32 %r7, %r7, %r4; ld.shared.u32 %r8, [%r7]; st.global.u32 [%rd4], %r8;";
    let again = "st.shared.u32 [%r6], %r8;";
    let bar = "bar.sync 0;";
    let right = [put, bar, get, bar, again].concat();
    for order in ORDERS {
        let run = Run { order, ..block(64) };
        let (out, _) = run.go(&right).unwrap();
        assert!((0..64).all(|i| out[i] == i as u32 ^ 32));
        // Without the second barrier a word may be overwritten before the other warp has read it.
        fault!(run, &[put, bar, get, again].concat(), Fault::Race(Space::Shared, _));
        // Two warps write the same word.
        let one = "mov.u32 %r3, 5; setp.eq.u32 %p1, %r1, 0; setp.eq.u32 %p2, %r1, 32; or.pred %p1, %p1, %p2; @%p1 st.shared.u32 [s], %r3;";
        fault!(run, one, Fault::Race(Space::Shared, _));
    }
    // Without the first barrier the word may not have been written yet.
    for order in [Order::Forward, Order::Reverse] {
        let f = Run { order, ..block(64) }.fault(&[put, get].concat());
        assert!(matches!(f, Fault::Race(..) | Fault::Uninitialised(..)), "{f}");
    }
    // Within a warp, no barrier is needed.
    warp()
        .go(&[put, "xor.b32 %r7, %r5, 64; add.s32 %r7, %r7, %r4; ld.shared.u32 %r8, [%r7];", again].concat())
        .unwrap();
}

#[test]
fn named_barriers_order_the_warps_they_name() {
    // Warps 0 and 1 exchange data through barrier 1, in which warps 2 and 3 do not take part.
    let body = "setp.gt.u32 %p1, %r1, 63; @%p1 bra DONE; mov.u32 %r4, s; shl.b32 %r5, %r1, 2; add.s32 %r6, %r4, %r5;
        st.shared.u32 [%r6], %r1; BAR xor.b32 %r7, %r5, 128; add.s32 %r7, %r7, %r4; ld.shared.u32 %r8, [%r7]; DONE:";
    block(128).go(&body.replace("BAR", "bar.sync 1, 64;")).unwrap();
    let f = block(128).fault(&body.replace("BAR", ""));
    assert!(matches!(f, Fault::Race(..) | Fault::Uninitialised(..)), "{f}");
}

#[test]
fn races_between_lanes() {
    fault!(warp(), "st.shared.u32 [s], %r1;", Fault::Race(Space::Shared, _));
    fault!(warp(), "st.global.u32 [%rd2], %r1;", Fault::Race(Space::Global, _));
    // The same value from all lanes is not a race.
    warp().go("st.shared.u32 [s], %r2; st.global.u32 [%rd2], %r2;").unwrap();
}

#[test]
fn races_between_blocks() {
    let run = Run { grid: 4, ..warp() };
    for order in ORDERS {
        let run = Run { order, grid: 4, ..warp() };
        // Even with equal values: the result does not depend on the order, but two blocks writing is a mistake.
        fault!(run, "st.global.u32 [%rd4], %r2;", Fault::Race(Space::Global, _));
    }
    // One block reads what another one writes.
    let body = "mov.u32 %r3, %ctaid.x; shl.b32 %r4, %r3, 7; cvt.u64.u32 %rd6, %r4; add.s64 %rd7, %rd4, %rd6;
        st.global.u32 [%rd7], %r1; ld.global.u32 %r5, [FROM];";
    fault!(run, &body.replace("FROM", "%rd4"), Fault::Race(Space::Global, _));
    run.go(&body.replace("FROM", "%rd7")).unwrap();
    // A region may begin between words; adjacent writes of different blocks do not race.
    let d = Device::text(
        &kernel(
            "mov.u32 %r3, %ctaid.x; mul.wide.u32 %rd6, %r3, 4; add.s64 %rd7, %rd2, %rd6; st.global.u32 [%rd7+2], %r3;",
        ),
        Order::Forward,
    );
    let (a, b) = (d.u32s(&[0]), d.empty(64));
    let part = Param::Pointer(Region { ptr: b.ptr + 2, bytes: 34, access: ReadWrite });
    d.launch("k", [8, 1, 1], [1, 1, 1], 0, &[a.p(Read), part, int(0)]).unwrap();
    // Atomics do not race with each other.
    let (out, _) = run.go("red.global.add.u32 [%rd4], 1;").unwrap();
    assert_eq!(out[..32], [4; 32]);
}

#[test]
fn divergent_barriers() {
    let some = "setp.lt.u32 %p1, %r1, 7; @%p1 bra L; bar.sync 0; L:";
    fault!(warp(), some, Fault::Divergence(_));
    fault!(warp(), "setp.lt.u32 %p1, %r1, 7; @%p1 bar.sync 0;", Fault::Divergence(_));
    fault!(block(64), "setp.lt.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0;", Fault::Divergence(_));
    fault!(warp(), "setp.lt.u32 %p1, %r1, 5; @%p1 ret; bar.sync 0;", Fault::Divergence(_));
    // Lanes that reconverge first are allowed, and so is an incomplete last warp.
    block(40).go("setp.lt.u32 %p1, %r1, 7; @%p1 bra L; mov.u32 %r3, 1; L: bar.sync 0;").unwrap();
}

#[test]
fn lanes_that_are_named_take_part() {
    fault!(warp(), "setp.lt.u32 %p1, %r1, 7; @%p1 shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;", Fault::Divergence(_));
    fault!(warp(), "shfl.sync.bfly.b32 %r3, %r1, 1, 31, 0x0000ffff;", Fault::Divergence(_));
    fault!(block(40), "vote.sync.ballot.b32 %r3, 1, -1;", Fault::Divergence(_));
    fault!(block(16), "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r3}, [s];", Fault::Divergence(_));
    fault!(warp(), "bar.warp.sync 1;", Fault::Divergence(_));
}

#[test]
fn deadlock() {
    let body = "setp.lt.u32 %p1, %r1, 32; @%p1 bra L; bar.sync 1; bra.uni M; L: bar.sync 2; M:";
    fault!(block(64), body, Fault::Deadlock(_));
}

#[test]
fn runaway() {
    let machine = Machine::new(Config { max_instructions: 1 << 20, ..Config::default() });
    let m = machine.load(&kernel("L: bra L;")).unwrap();
    let null = Param::Pointer(Region { ptr: 0, bytes: 0, access: Read });
    let params = [null, null, int(0)];
    let l = Launch { grid: [1; 3], block: [32, 1, 1], shared: 0, params: &params, extra: &[] };
    assert!(matches!(machine.launch(&m, "k", &l), Err(Fault::Runaway(_))));
}

#[test]
fn trap() {
    fault!(warp(), "setp.eq.u32 %p1, %r1, 3; @%p1 trap;", Fault::Trap(_));
}

#[test]
fn outputs_must_be_filled() {
    let run = Run { b: Write, out: 32, ..warp() };
    run.go("st.global.u32 [%rd4], %r1;").unwrap();
    let f = fault!(run, "setp.ne.u32 %p1, %r1, 9; @%p1 st.global.u32 [%rd4], %r1;", Fault::NotWritten(_));
    assert!(f.to_string().contains("byte 36 of 128"), "{f}");
}

#[test]
fn bad_launches() {
    let d = Device::text(&kernel("").replace("\n{", "\n.maxntid 64, 1, 1\n{"), Order::Forward);
    let p = d.bytes(&[0; 4]).p(Read);
    let bad = |grid, block, shared, params: &[Param]| {
        let f = d.launch("k", grid, block, shared, params).unwrap_err();
        assert!(matches!(f, Fault::Launch(_)), "{f}");
    };
    bad([1; 3], [32, 1, 1], 0, &[p, p]);
    bad([1; 3], [32, 1, 1], 0, &[p, p, p]);
    bad([1; 3], [32, 1, 1], 0, &[p, p, Param::Bytes(&[0; 8])]);
    // Memory that is written may not be passed twice; memory that is only read may.
    let q = d.bytes(&[0; 64]);
    bad([1; 3], [32, 1, 1], 0, &[q.p(Read), q.p(ReadWrite), int(0)]);
    let tail = Param::Pointer(Region { ptr: q.ptr + 60, bytes: 4, access: Write });
    bad([1; 3], [32, 1, 1], 0, &[q.p(Scratch), tail, int(0)]);
    assert!(matches!(d.launch("other", [1; 3], [1; 3], 0, &[]), Err(Fault::Launch(_))));
    d.launch("k", [1; 3], [64, 1, 1], 0, &[p, p, int(0)]).unwrap();
}

#[test]
fn the_host_too() {
    let m = Machine::new(Config::default());
    let p = m.alloc(100).unwrap();
    assert_eq!(p % 256, 0);
    assert!(matches!(m.write(p + 99, &[0; 2]), Err(Fault::OutOfBounds(..))));
    assert!(matches!(m.write(p - 1, &[0; 2]), Err(Fault::OutOfBounds(..))));
    assert!(matches!(m.free(p + 1), Err(Fault::Host(_))));
    m.fill(p, 7, 50).unwrap();
    m.copy(p + 40, p, 40).unwrap();
    let mut v = [0; 80];
    m.read(p, &mut v).unwrap();
    assert_eq!(v, [7; 80]);
    m.copy(p, p + 60, 40).unwrap();
    assert!(matches!(m.read(p, &mut v), Err(Fault::Uninitialised(..))), "a copy carries what is not there");
    m.forget(p, 100).unwrap();
    assert!(m.read(p, &mut v[..1]).is_err());
    m.free(p).unwrap();
    assert!(matches!(m.write(p, &[0]), Err(Fault::OutOfBounds(..))));
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let start =
        "shl.b32 %r4, %r1, 4; mov.u32 %r5, s; add.s32 %r5, %r5, %r4; cvt.u64.u32 %rd6, %r4; add.s64 %rd7, %rd1, %rd6;
        cp.async.cg.shared.global [%r5], [%rd7], 16; cp.async.commit_group;
        cp.async.ca.shared.global [%r5+512], [%rd7+512], 8; cp.async.commit_group;";
    let one = "ld.shared.u32 %r6, [%r5+4]; st.global.u32 [%rd4], %r6;";
    let two = "ld.shared.u32 %r6, [%r5+512]; st.global.u32 [%rd4], %r6;";
    let (out, _) = warp().go(&[start, "cp.async.wait_group 1;", one].concat()).unwrap();
    assert_eq!(out[..3], [1, 5, 9]);
    let (out, _) = warp().go(&[start, "cp.async.wait_group 0;", two].concat()).unwrap();
    assert_eq!(out[..3], [128, 132, 136]);
    fault!(warp(), &[start, one].concat(), Fault::Uninitialised(Space::Shared, _));
    fault!(warp(), &[start, "cp.async.wait_group 1;", two].concat(), Fault::Uninitialised(Space::Shared, _));
    fault!(warp(), &[start, "cp.async.wait_group 2;", one].concat(), Fault::Uninitialised(Space::Shared, _));
    fault!(warp(), &[start, "st.shared.u32 [%r5], %r1;"].concat(), Fault::Race(Space::Shared, _));
    // A copy that is not committed is waited for only by `wait_all`.
    let loose = start.rsplit_once("cp.async.commit_group;").unwrap().0;
    fault!(warp(), &[loose, "cp.async.wait_group 0;", two].concat(), Fault::Uninitialised(Space::Shared, _));
    warp().go(&[loose, "cp.async.wait_all;", two].concat()).unwrap();
    // Other warps need a barrier after the wait.
    let other = "xor.b32 %r5, %r5, 512; ld.shared.u32 %r6, [%r5];";
    let mine = start.rsplit_once("cp.async.ca").unwrap().0;
    block(64).go(&[mine, "cp.async.wait_group 0; bar.sync 0;", other].concat()).unwrap();
    for order in ORDERS {
        let f = Run { order, ..block(64) }.fault(&[mine, "bar.sync 0; cp.async.wait_group 0;", other].concat());
        assert!(matches!(f, Fault::Race(..) | Fault::Uninitialised(..)), "{f}");
    }
    // Bytes that are not read become zero.
    let part = "mov.u32 %r7, 8; cp.async.cg.shared.global [s], [%rd1+16], 16, %r7; cp.async.wait_all; ld.shared.v4.u32 {%r3,%r4,%r5,%r6}, [s];
        st.global.v4.u32 [%rd2], {%r3,%r4,%r5,%r6};";
    assert_eq!(block(1).go(part).unwrap().0[..4], [4, 5, 0, 0]);
    // If no bytes are read, the address is not accessed.
    block(1).go("mov.u32 %r7, 0; mov.u64 %rd6, 0; cp.async.cg.shared.global [s], [%rd6], 16, %r7;").unwrap();
}

#[test]
fn what_is_not_known_is_refused_with_its_line() {
    let bad = [
        ("frobnicate.b32 %r1, %r2;", "unknown opcode"),
        ("add.frob.s32 %r1, %r1, %r2;", "frob"),
        ("add.s32 %r1, %r1;", "operands"),
        ("add.s32 %r1, %r1, %rd1;", "bits"),
        ("add.s32 %r1, %r99, %r1;", "%r99"),
        ("add.f32 %f1, %f1, %p1;", "bits"),
        ("bra NOWHERE;", "NOWHERE"),
        ("ld.global.u32 %h1, [%rd1];", "bits"),
        ("ld.global.v2.u32 %r3, [%rd1];", "operands"),
        ("st.global.u32 [s], %r1;", "state space"),
        ("sin.f32 %f1, %f2;", "modifiers"),
        ("cvt.s32.f32 %r1, %f1;", "modifiers"),
        ("fma.f32 %f1, %f1, %f1, %f1;", "modifiers"),
        ("wgmma.fence.sync.aligned;", "sm_90a"),
        (
            "mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r1}, {%r1}, {%f1,%f2,%f3,%f4};",
            "row",
        ),
        ("cp.async.cg.shared.global [s], [%rd1], 8;", "size"),
        ("call foo;", "unknown opcode"),
    ];
    for (body, says) in bad {
        let e = Machine::new(Config::default()).load(&kernel(&format!("\n{body}"))).expect_err(body);
        assert!(e.message.contains(says), "{body}: {e}");
        assert_eq!(e.line, 11, "{body}: {e}");
    }
    assert!(Machine::new(Config::default()).load(".version 8.4 .target sm_80 .func f() { ret; }").is_err());
}
