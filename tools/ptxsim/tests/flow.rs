//! Divergence and reconvergence.

mod support;

use ptxsim::*;
use support::*;

/// Stores the active mask where lanes should have reconverged.
const TOGETHER: &str = "activemask.b32 %r20; st.global.u32 [%rd4], %r20;";

fn together(body: &str) -> Counters {
    let mut last = None;
    for order in ORDERS {
        let (out, c) = Run { order, ..warp() }.go(body).unwrap();
        assert_eq!(out[..32], [!0; 32], "{body}");
        last = Some(c);
    }
    last.unwrap()
}

#[test]
fn branches_join() {
    let split = "and.b32 %r3, %r1, 1; setp.eq.s32 %p1, %r3, 0;";
    together(&[split, "@%p1 bra A; mov.u32 %r4, 1; bra.uni B; A: mov.u32 %r4, 2; B:", TOGETHER].concat());
    // The rarely executed side is after the end and jumps back.
    together(&[split, "@%p1 bra A; B:", TOGETHER, "ret; A: mov.u32 %r4, 2; bra.uni B;"].concat());
    // Nested, with the rarely executed sides one after another.
    let body = "and.b32 %r5, %r1, 2; setp.eq.s32 %p2, %r5, 0; @%p1 bra A; B: mov.u32 %r6, 1; bra.uni C;
        A: @%p2 bra D; mov.u32 %r6, 2; E: bra.uni C; D: mov.u32 %r6, 3; bra.uni E; C:";
    together(&[split, body, TOGETHER].concat());
}

#[test]
fn loops_end_together() {
    // Lane i iterates i times.
    let body = "mov.u32 %r3, 0; L: setp.ge.u32 %p1, %r3, %r1; @%p1 bra M; add.s32 %r3, %r3, 1; bra.uni L; M:";
    let c = together(&[body, TOGETHER].concat());
    assert!(c.warp_instructions < 32 * 5 + 20, "lanes do not go round alone");
    // The exit is before the loop in the text.
    let body = "mov.u32 %r3, 0; bra.uni L; M:";
    let tail = "ret; L: setp.ge.u32 %p1, %r3, %r1; @%p1 bra M; add.s32 %r3, %r3, 1; bra.uni L;";
    together(&[body, TOGETHER, tail].concat());
    // Inner loops of different lengths, and an exit from both.
    let body = "mov.u32 %r3, 0; mov.u32 %r4, 0;
        O: mov.u32 %r5, 0;
        I: setp.ge.u32 %p1, %r5, %r1; @%p1 bra X; add.s32 %r4, %r4, 1; add.s32 %r5, %r5, 1; setp.gt.u32 %p2, %r4, 40; @%p2 bra Y; bra.uni I;
        X: add.s32 %r3, %r3, 1; setp.lt.u32 %p3, %r3, 3; @%p3 bra O; Y:";
    together(&[body, TOGETHER].concat());
}

#[test]
fn lanes_that_leave_do_not_hold_the_others() {
    let body =
        "setp.lt.u32 %p1, %r1, 9; @%p1 bra A; bra.uni B; A: setp.lt.u32 %p2, %r1, 4; @%p2 ret; B: activemask.b32 %r20;
        st.global.u32 [%rd4], %r20;";
    let (out, _) = warp().go(body).unwrap();
    assert_eq!(out[..4], [0; 4]);
    assert_eq!(out[4..32], [!0 << 4; 28]);
}

#[test]
fn tables_of_branches() {
    let body = "and.b32 %r3, %r1, 3; T: .branchtargets A, B, C, D; brx.idx %r3, T; A: mov.u32 %r4, 10; bra.uni E;
        B: mov.u32 %r4, 11; bra.uni E; C: mov.u32 %r4, 12; bra.uni E; D: mov.u32 %r4, 13; E: st.global.u32 [%rd2], %r2; ";
    together(&[body, TOGETHER].concat());
    let (out, _) = warp().go(&[body, "st.global.u32 [%rd4], %r4;"].concat()).unwrap();
    assert!((0..32).all(|i| out[i] == 10 + i as u32 % 4));
    let f = warp().fault("T: .branchtargets A; brx.idx %r1, T; A:");
    assert!(matches!(f, Fault::Illegal(_)), "{f}");
}

#[test]
fn guards_choose_lanes() {
    let body = "and.b32 %r3, %r1, 1; setp.eq.s32 %p1, %r3, 0; mov.u32 %r4, 5; @%p1 mov.u32 %r4, 6; @!%p1 add.s32 %r4, %r4, %r1; st.global.u32 [%rd4], %r4;";
    let (out, _) = warp().go(body).unwrap();
    assert!((0..32).all(|i| out[i as usize] == if i % 2 == 0 { 6 } else { 5 + i }));
}

#[test]
fn barriers_reduce() {
    let body = "setp.lt.u32 %p1, %r1, 40; bar.red.popc.u32 %r3, 0, %p1; bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 0, !%p1;
        selp.u32 %r4, 100, 0, %p2; selp.u32 %r5, 1000, 0, %p3; add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; st.global.u32 [%rd4], %r3;";
    for order in ORDERS {
        let (out, _) = Run { order, ..block(96) }.go(body).unwrap();
        assert_eq!(out[..96], [1040; 96]);
        let (out, _) = Run { order, ..block(40) }.go(body).unwrap();
        assert_eq!(out[..40], [140; 40]);
    }
}

#[test]
fn scopes_have_labels_and_registers_of_their_own() {
    let one =
        "{ .reg .b32 t; setp.gt.u32 %p1, %r1, 3; mov.u32 t, 1; @%p1 bra L; mov.u32 t, 2; L: add.u32 %r3, %r3, t; }";
    let body = ["mov.u32 %r3, 0;", one, one, "st.global.u32 [%rd4], %r3;"].concat();
    let (out, _) = warp().go(&body).unwrap();
    assert!((0..32).all(|i| out[i] == if i > 3 { 2 } else { 4 }));
}
