//! Counters of launches.

mod support;

use ptxsim::*;
use support::*;

fn count(body: &str) -> Counters {
    let before = warp().go("").unwrap().1;
    let mut c = warp().go(body).unwrap().1;
    c.warp_instructions -= before.warp_instructions;
    c
}

#[test]
fn instructions() {
    let c = count(
        "add.s32 %r3, %r1, 1; add.f32 %f1, 0f00000000, 0f00000000; @!%p1 bra L; L:".replace("@!%p1 ", "").as_str(),
    );
    assert_eq!((c.warp_instructions, c.of(Class::Float), c.of(Class::Control)), (3, 1, 2));
    assert_eq!((c.launches, c.blocks), (1, 1));
    // A diverged warp executes both sides of a branch.
    let both = "setp.lt.u32 %p1, %r1, 3; @%p1 bra A; mov.u32 %r3, 1; bra.uni B; A: mov.u32 %r3, 2; B:";
    assert_eq!(count(both).warp_instructions, 5);
    let d = Device::text(&kernel(""), Order::Forward);
    let p = d.u32s(&[0]).p(Access::Read);
    for _ in 0..3 {
        d.launch("k", [5, 1, 1], [64, 1, 1], 0, &[p, p, int(0)]).unwrap();
    }
    let t = &d.machine.totals()["k"];
    assert_eq!((t.launches, t.blocks, t.warp_instructions), (3, 15, 15 * 2 * 8));
}

#[test]
fn sectors() {
    let global = |c: &Counters| (c.global_requests, c.global_sectors_loaded, c.global_bytes_loaded, c.ideal_sectors);
    assert_eq!(global(&count("ld.global.u32 %r3, [%rd3];")), (1, 4, 128, 4));
    assert_eq!(global(&count("ld.global.u32 %r3, [%rd3+4];")), (1, 5, 128, 4));
    assert_eq!(global(&count("ld.global.u32 %r3, [%rd1];")), (1, 1, 4, 1));
    let strided = |s: u32| format!("mul.wide.u32 %rd6, %r1, {s}; add.s64 %rd6, %rd1, %rd6; ");
    assert_eq!(global(&count(&(strided(8) + "ld.global.u32 %r3, [%rd6];"))), (1, 8, 128, 4));
    assert_eq!(global(&count(&(strided(64) + "ld.global.u32 %r3, [%rd6];"))), (1, 32, 128, 4));
    assert_eq!(global(&count(&(strided(16) + "ld.global.v4.u32 {%r3,%r4,%r5,%r6}, [%rd6];"))), (1, 16, 512, 16));
    assert_eq!(global(&count(&(strided(1) + "ld.global.u8 %r3, [%rd6];"))), (1, 1, 32, 1));
    let c = count("st.global.u32 [%rd4], %r1; setp.lt.u32 %p1, %r1, 8; @%p1 st.global.u32 [%rd4], %r1;");
    assert_eq!((c.global_requests, c.global_sectors_stored, c.global_bytes_stored), (2, 5, 160));
    let c = count(
        &(strided(16)
            + "mov.u32 %r4, s; mad.lo.s32 %r4, %r1, 16, %r4; cp.async.cg.shared.global [%r4], [%rd6], 16; cp.async.wait_all;"),
    );
    assert_eq!(
        (global(&c), c.shared_requests, c.bank_conflict_cycles, c.of(Class::AsyncCopy)),
        ((1, 16, 512, 16), 1, 0, 1)
    );
}

#[test]
fn banks() {
    let shared = |stride: u32, what: &str| {
        let c = count(&format!("mov.u32 %r4, s; mad.lo.s32 %r4, %r1, {stride}, %r4; {what}"));
        (c.shared_requests, c.bank_conflict_cycles)
    };
    let word = "st.shared.u32 [%r4], %r2;";
    assert_eq!(shared(4, word), (1, 0));
    assert_eq!(shared(8, word), (1, 1));
    assert_eq!(shared(16, word), (1, 3));
    assert_eq!(shared(12, word), (1, 0));
    assert_eq!(shared(128 - 4, word), (1, 0));
    assert_eq!(shared(120, word), (1, 1));
    // All lanes in one bank.
    assert_eq!(shared(124 + 4, "setp.lt.u32 %p1, %r1, 16; @%p1 st.shared.u32 [%r4], %r2;"), (1, 15));
    // Lanes that access the same word share it.
    assert_eq!(shared(0, "st.shared.u32 [s], %r2; ld.shared.u32 %r5, [s];"), (2, 0));
    let v2 = "st.shared.v2.u32 [%r4], {%r2,%r2};";
    assert_eq!(shared(8, v2), (1, 0));
    assert_eq!(shared(16, v2), (1, 2));
    let v4 = "st.shared.v4.u32 [%r4], {%r2,%r2,%r2,%r2};";
    assert_eq!(shared(16, v4), (1, 0));
    assert_eq!(shared(32, v4), (1, 4));
    assert_eq!(shared(80, v4), (1, 0));
    // Rows of a matrix: 16 bytes apart, 128 bytes apart, and swizzled.
    let fill = "st.shared.v4.u32 [%r5], {%r2,%r2,%r2,%r2};";
    let matrix = |address: &str| {
        let body = format!("mov.u32 %r4, s; {address} add.s32 %r5, %r4, %r5;");
        let with =
            count(&format!("{body} {fill} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r20,%r21,%r22,%r23}}, [%r5];"));
        (with.bank_conflict_cycles - count(&format!("{body} {fill}")).bank_conflict_cycles, with.shared_requests)
    };
    assert_eq!(matrix("shl.b32 %r5, %r1, 4;"), (0, 5));
    assert_eq!(matrix("shl.b32 %r5, %r1, 7; and.b32 %r5, %r5, 4095;"), (28, 5));
    assert_eq!(matrix("and.b32 %r6, %r1, 7; shl.b32 %r6, %r6, 4; shl.b32 %r5, %r1, 7; xor.b32 %r5, %r5, %r6;"), (0, 5));
}
