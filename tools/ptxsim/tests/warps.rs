//! Instructions in which lanes cooperate: shuffles, votes, matrices; and all forms of memory access.

mod support;

use ptxsim::*;
use support::*;

/// Runs a body that stores one word per lane.
fn lanes(body: &str) -> Vec<u32> {
    let all: Vec<Vec<u32>> = ORDERS
        .iter()
        .map(|&order| Run { order, ..warp() }.go(&[body, "st.global.u32 [%rd4], %r3;"].concat()).unwrap().0)
        .collect();
    assert!(all.iter().all(|v| *v == all[0]));
    all[0][..32].to_vec()
}

fn want(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn shuffles() {
    let start = "mul.lo.s32 %r5, %r1, 3; selp.u32 %r9, 1, 0, %p2;".replace("selp.u32 %r9, 1, 0, %p2;", "");
    let s = |op: &str| lanes(&[&start, op].concat());
    assert_eq!(s("shfl.sync.bfly.b32 %r3, %r5, 5, 31, -1;"), want(|l| 3 * (l ^ 5)));
    assert_eq!(s("shfl.sync.down.b32 %r3, %r5, 3, 31, -1;"), want(|l| 3 * if l + 3 < 32 { l + 3 } else { l }));
    assert_eq!(s("shfl.sync.up.b32 %r3, %r5, 3, 0, -1;"), want(|l| 3 * l.checked_sub(3).unwrap_or(l)));
    assert_eq!(s("shfl.sync.idx.b32 %r3, %r5, 7, 31, -1;"), want(|_| 21));
    assert_eq!(s("shfl.sync.idx.b32 %r3, %r5, %r5, 31, -1;"), want(|l| 3 * (3 * l % 32)));
    // Segments of 8 lanes: the mask of __shfl with a width is (32 - width) << 8 | 31.
    assert_eq!(s("shfl.sync.down.b32 %r3, %r5, 3, 6175, -1;"), want(|l| 3 * if l % 8 + 3 < 8 { l + 3 } else { l }));
    assert_eq!(s("shfl.sync.idx.b32 %r3, %r5, 2, 6175, -1;"), want(|l| 3 * (l / 8 * 8 + 2)));
    assert_eq!(s("shfl.sync.up.b32 %r3, %r5, 3, 6144, -1;"), want(|l| 3 * if l % 8 >= 3 { l - 3 } else { l }));
    assert_eq!(s("shfl.sync.down.b32 %r3|%p1, %r5, 4, 31, -1; selp.u32 %r3, 1, 0, %p1;"), want(|l| (l < 28) as u32));
}

#[test]
fn votes() {
    let s = |op: &str| lanes(&["setp.lt.u32 %p1, %r1, 5; and.b32 %r5, %r1, 3;", op].concat());
    assert_eq!(s("vote.sync.ballot.b32 %r3, %p1, -1;"), want(|_| 31));
    assert_eq!(s("vote.sync.ballot.b32 %r3, !%p1, -1;"), want(|_| !31));
    assert_eq!(s("vote.sync.any.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2;"), want(|_| 1));
    assert_eq!(s("vote.sync.all.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2;"), want(|_| 0));
    assert_eq!(s("vote.sync.uni.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2;"), want(|_| 0));
    assert_eq!(s("match.any.sync.b32 %r3, %r5, -1;"), want(|l| 0x1111_1111 << (l & 3)));
    assert_eq!(s("match.all.sync.b32 %r3|%p2, %r5, -1;"), want(|_| 0));
    assert_eq!(s("mov.u32 %r6, 4; match.all.sync.b32 %r3|%p2, %r6, -1;"), want(|_| !0));
    assert_eq!(s("redux.sync.add.u32 %r3, %r1, -1;"), want(|_| 31 * 16));
    assert_eq!(s("sub.s32 %r6, %r1, 9; redux.sync.min.s32 %r3, %r6, -1;"), want(|_| -9i32 as u32));
    assert_eq!(s("redux.sync.max.u32 %r3, %r5, -1;"), want(|_| 3));
    assert_eq!(s("redux.sync.xor.b32 %r3, %r1, -1;"), want(|_| 0));
    assert_eq!(s("mov.u32 %r3, 0; @%p1 activemask.b32 %r3;"), want(|l| if l < 5 { 31 } else { 0 }));
}

#[test]
fn special_registers() {
    assert_eq!(lanes("mov.u32 %r3, %laneid;"), want(|l| l));
    assert_eq!(lanes("mov.u32 %r3, %lanemask_lt;"), want(|l| (1 << l) - 1));
    assert_eq!(lanes("mov.u32 %r3, %lanemask_ge;"), want(|l| !((1 << l) - 1)));
    assert_eq!(lanes("mov.u32 %r3, %ntid.x;"), want(|_| 32));
    let body = "mov.u64 %rd6, %clock64; mov.u64 %rd7, %clock64; setp.gt.u64 %p1, %rd7, %rd6; selp.u32 %r3, 1, 0, %p1;";
    assert_eq!(lanes(body), want(|_| 1));
    let d = Device::text(
        &kernel(
            "mov.u32 %r3, %tid.y; mov.u32 %r4, %tid.z; mov.u32 %r5, %ctaid.y; mov.u32 %r6, %nctaid.z; mov.u32 %r7, %warpid;
            mad.lo.s32 %r8, %r3, 10, %r1; mad.lo.s32 %r8, %r4, 100, %r8; mad.lo.s32 %r8, %r5, 1000, %r8; mad.lo.s32 %r8, %r6, 10000, %r8;
            mov.u32 %r10, %ntid.x; mov.u32 %r11, %ntid.y; mad.lo.s32 %r12, %r4, %r11, %r3; mad.lo.s32 %r12, %r12, %r10, %r1;
            mul.lo.s32 %r13, %r5, 60; add.s32 %r12, %r12, %r13; mul.wide.u32 %rd6, %r12, 4; add.s64 %rd6, %rd2, %rd6; st.global.u32 [%rd6], %r8;",
        ),
        Order::Forward,
    );
    let (a, b) = (d.u32s(&[0]), d.empty(4 * 120));
    d.launch("k", [1, 2, 1], [5, 4, 3], 0, &[a.p(Access::Read), b.p(Access::Write), int(0)]).unwrap();
    let out = d.read_u32s(&b);
    for (i, v) in out.iter().enumerate() {
        let (t, y) = (i % 60, i / 60);
        assert_eq!(*v as usize, t % 5 + 10 * (t / 5 % 4) + 100 * (t / 20) + 1000 * y + 10000);
    }
}

#[test]
fn vectors_bytes_and_signs() {
    let body = "shl.b32 %r9, %r1, 4; cvt.u64.u32 %rd6, %r9; add.s64 %rd7, %rd1, %rd6; add.s64 %rd8, %rd2, %rd6;
        ld.global.nc.v4.u32 {%r3,%r4,%r5,%r6}, [%rd7]; st.global.v2.u32 [%rd8+8], {%r3,%r4}; st.global.v2.u32 [%rd8], {%r5,%r6};";
    let (out, _) = warp().go(body).unwrap();
    assert!((0..128).all(|i| out[i] == (i as u32 ^ 2)));
    let body = "mul.lo.s32 %r9, %r1, 5; mov.u32 %r10, s; add.s32 %r10, %r10, %r1; sub.s32 %r9, %r9, 90; st.shared.u8 [%r10], %r9; ld.shared.s8 %r3, [%r10];";
    assert_eq!(lanes(body), want(|l| (5 * l as i32 - 90) as i8 as u32));
    let body =
        "st.shared.v4.u8 [s], {%r2,%r2,%r2,%r2}; ld.shared.u16 %h1, [s]; cvt.u32.u16 %r3, %h1; add.u32 %r3, %r3, 1;";
    assert_eq!(lanes(body), want(|_| 1));
    // Narrower values can be loaded into 64-bit registers.
    let body = "ld.global.s32 %rd6, [%rd3]; neg.s64 %rd6, %rd6; st.global.u32 [%rd4], %rd6; ld.global.s16 %r4, [%rd4]; mov.u32 %r3, %r4;";
    assert_eq!(lanes(body), want(|l| (l as i32).wrapping_neg() as u32));
    // Local memory is private to each lane.
    let body = "st.local.u32 [l+8], %r1; ld.local.u16 %h1, [l+8]; cvt.u32.u16 %r3, %h1;";
    assert_eq!(lanes(body), want(|l| l));
}

#[test]
fn generic_addresses() {
    let body = "mov.u64 %rd6, s; cvta.shared.u64 %rd7, %rd6; shl.b32 %r9, %r1, 2; cvt.u64.u32 %rd8, %r9; add.s64 %rd7, %rd7, %rd8;
        st.u32 [%rd7], %r1; cvta.to.shared.u64 %rd9, %rd7; ld.shared.u32 %r4, [%rd9]; ld.u32 %r5, [%rd3]; add.u32 %r3, %r4, %r5;
        isspacep.shared %p1, %rd7; isspacep.global %p2, %rd3; and.pred %p1, %p1, %p2; @!%p1 trap;";
    assert_eq!(lanes(body), want(|l| 2 * l));
    let body = "mov.u64 %rd6, l; cvta.local.u64 %rd7, %rd6; st.u32 [%rd7+4], %r1; ld.local.u32 %r3, [l+4];";
    assert_eq!(lanes(body), want(|l| l));
}

#[test]
fn variables_of_a_module() {
    let text = kernel("ld.const.u32 %r3, [table+4]; ld.global.f32 %f1, [more+8]; cvt.rzi.u32.f32 %r4, %f1; mov.u64 %rd6, table; ld.const.u32 %r5, [%rd6];
        add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; st.global.u32 [%rd4], %r3;")
    .replace(
        ".visible .entry",
        ".const .align 4 .u32 table[2] = {30, 400};\n.global .align 4 .f32 more[3] = {0f3f800000, 0f00000000, 0f40e00000};\n.visible .entry",
    );
    let d = Device::text(&text, Order::Forward);
    let (a, b) = (d.u32s(&[0]), d.empty(128));
    d.launch("k", [1; 3], [32, 1, 1], 0, &[a.p(Access::Read), b.p(Access::Write), int(0)]).unwrap();
    assert_eq!(d.read_u32s(&b), vec![437; 32]);
}

#[test]
fn atomics() {
    let s = |op: &str| {
        lanes(
            &[
                "mov.u32 %r4, s; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [s], 100; bar.sync 0;",
                op,
                "bar.sync 0; ld.shared.u32 %r3, [s];",
            ]
            .concat(),
        )
    };
    assert_eq!(s("red.shared.add.u32 [s], %r1;"), want(|_| 100 + 496));
    assert_eq!(s("atom.shared.max.s32 %r5, [s], %r1;"), want(|_| 100));
    assert_eq!(s("atom.shared.min.u32 %r5, [%r4], %r1;"), want(|_| 0));
    assert_eq!(s("atom.shared.or.b32 %r5, [s], %r1;"), want(|_| 100 | 31));
    assert_eq!(s("atom.shared.and.b32 %r5, [s], 0xf0;"), want(|_| 96));
    assert_eq!(s("atom.shared.xor.b32 %r5, [s], 1;"), want(|_| 100));
    assert_eq!(s("atom.shared.inc.u32 %r5, [s], 3;"), want(|_| 3));
    assert_eq!(s("atom.shared.dec.u32 %r5, [s], 200;"), want(|_| 68));
    assert_eq!(s("atom.shared.cas.b32 %r5, [s], 100, 7;"), want(|_| 7));
    let (out, _) = warp().go("atom.global.add.u32 %r3, [%rd2], 1; bar.sync 0; shl.b32 %r4, %r3, 2; cvt.u64.u32 %rd6, %r4; add.s64 %rd7, %rd2, %rd6; st.global.u32 [%rd7+4], %r1;").unwrap();
    assert_eq!(out[0], 32);
    assert_eq!(out[1..33], want(|l| l));
    let body = "mov.f32 %f1, 0f3f000000; red.global.add.f32 [%rd2], %f1; mov.u64 %rd6, 5; atom.global.add.u64 %rd7, [%rd2+8], %rd6;
        mov.f64 %d1, 0d3ff8000000000000; atom.global.add.f64 %d2, [%rd2+16], %d1; atom.global.exch.b32 %r3, [%rd2+24], 9;";
    let (out, _) = warp().go(body).unwrap();
    assert_eq!((out[0], out[2], out[5], out[6]), (16f32.to_bits(), 160, (48f64.to_bits() >> 32) as u32, 9));
}

/// The bits of a small integer in a format.
#[derive(Clone, Copy)]
enum Format {
    Bf16,
    F16,
    Tf32,
}

impl Format {
    fn bits(self, v: i32) -> u32 {
        let f = v as f32;
        match self {
            Format::Bf16 => f.to_bits() >> 16,
            Format::Tf32 => f.to_bits(),
            // Numbers here are small integers: exact.
            Format::F16 if v == 0 => 0,
            Format::F16 => {
                (f.to_bits() >> 16 & 0x8000)
                    | ((((f.to_bits() >> 23) & 255) - 127 + 15) << 10)
                    | (f.to_bits() >> 13 & 1023)
            }
        }
    }
}

/// Matrix multiplication with the layouts of the PTX ISA, implemented lane by lane.
fn mma(op: &str, depth: usize, format: Format) {
    let mut rng = Rng(depth as u64);
    let mut small = |n: usize| -> Vec<i32> { (0..n).map(|_| (rng.next() % 17) as i32 - 8).collect() };
    let (a, b, c) = (small(16 * depth), small(depth * 8), small(16 * 8));
    let wide = matches!(format, Format::Tf32);
    // Per lane: registers of A, then of B, then of C.
    let mut words = vec![];
    let (na, nb) = if wide { (depth / 2, depth / 4) } else { (depth / 4, depth / 8) };
    for lane in 0..32 {
        let (group, t) = (lane / 4, lane % 4);
        for i in 0..na {
            let row = group + 8 * (i % 2);
            words.push(if wide {
                format.bits(a[row * depth + t + 4 * (i / 2)])
            } else {
                let k = 2 * t + 8 * (i / 2);
                format.bits(a[row * depth + k]) | format.bits(a[row * depth + k + 1]) << 16
            });
        }
        for i in 0..nb {
            words.push(if wide {
                format.bits(b[(t + 4 * i) * 8 + group])
            } else {
                let k = 2 * t + 8 * i;
                format.bits(b[k * 8 + group]) | format.bits(b[(k + 1) * 8 + group]) << 16
            });
        }
        for i in 0..4 {
            words.push((c[(group + 8 * (i / 2)) * 8 + 2 * t + i % 2] as f32).to_bits());
        }
    }
    let n = na + nb + 4;
    let list = |p: &str, from: usize, n: usize| {
        format!("{{{}}}", (from..from + n).map(|i| format!("{p}{i}")).collect::<Vec<_>>().join(","))
    };
    let loads: String = (0..na + nb).map(|i| format!("ld.global.u32 %r{}, [%rd6+{}];", 10 + i, 4 * i)).collect();
    let sums: String = (0..4).map(|i| format!("ld.global.f32 %f{}, [%rd6+{}];", 10 + i, 4 * (na + nb + i))).collect();
    let body = format!(
        "mul.lo.s32 %r3, %r1, {}; cvt.u64.u32 %rd6, %r3; add.s64 %rd6, %rd1, %rd6; {loads} {sums}
        {op} {}, {}, {}, {}; shl.b32 %r3, %r1, 4; cvt.u64.u32 %rd7, %r3; add.s64 %rd7, %rd2, %rd7; st.global.v4.f32 [%rd7], {};",
        4 * n,
        list("%f", 10, 4),
        list("%r", 10, na),
        list("%r", 10 + na, nb),
        list("%f", 10, 4),
        list("%f", 10, 4),
    );
    let d = Device::text(&kernel(&body), Order::Forward);
    let (pa, pb) = (d.u32s(&words), d.empty(512));
    let counters = d.launch("k", [1; 3], [32, 1, 1], 0, &[pa.p(Access::Read), pb.p(Access::Write), int(0)]).unwrap();
    assert_eq!(counters.tensor_instructions, 1);
    let out = d.read_f32s(&pb);
    for row in 0..16 {
        for column in 0..8 {
            let want = c[row * 8 + column] + (0..depth).map(|k| a[row * depth + k] * b[k * 8 + column]).sum::<i32>();
            let lane = row % 8 * 4 + column / 2;
            assert_eq!(out[lane * 4 + row / 8 * 2 + column % 2], want as f32, "{op} {row} {column}");
        }
    }
}

#[test]
fn tensor_cores() {
    mma("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, Format::Bf16);
    mma("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 8, Format::Bf16);
    mma("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, Format::F16);
    mma("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", 8, Format::F16);
    mma("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 8, Format::Tf32);
    mma("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", 4, Format::Tf32);
}

/// One plus four products of 1.5·2^-24: to the nearest, each adds 2^-23, the distance of f32 above 1; cut off behind one bit
/// more than those of f32, each adds 2^-24.
#[test]
fn tensor_cores_that_cut_off() {
    let body = "mov.f32 %f1, 0f3F800000; mov.u32 %r10, 0x3f80; mov.u32 %r11, 0x33c0; mov.u32 %r12, 0;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f2,%f3,%f4,%f5}, {%r10,%r10,%r10,%r10}, {%r11,%r12},
        {%f1,%f1,%f1,%f1}; st.global.f32 [%rd4], %f2;";
    let sum = |sums| {
        let machine = Machine::new(Config { sums, ..Config::default() });
        let module = machine.load(&kernel(body)).unwrap();
        let out = machine.alloc(128).unwrap();
        let region = |access| Param::Pointer(Region { ptr: out, bytes: 128, access });
        let null = Param::Pointer(Region { ptr: 0, bytes: 0, access: Access::Read });
        let params = [null, region(Access::Write), int(0)];
        machine.launch(
            &module,
            "k",
            &Launch { grid: [1; 3], block: [32, 1, 1], shared: 0, params: &params, extra: &[] },
        )?;
        let mut word = [0; 4];
        machine.read(out, &mut word)?;
        Ok::<f32, Fault>(f32::from_le_bytes(word))
    };
    assert_eq!(sum(Sums::Nearest).unwrap(), 1.0 + 4.0 * f32::EPSILON);
    assert_eq!(sum(Sums::Truncated).unwrap(), 1.0 + 2.0 * f32::EPSILON);
}

#[test]
fn matrices_through_shared_memory() {
    // f16 numbers 0 to 255 in four matrices of 8 rows of 16 bytes; lane 8 i + r holds the address of row r of matrix i.
    let fill = "shl.b32 %r4, %r1, 3; mov.u32 %r5, s; shl.b32 %r6, %r1, 4; add.s32 %r6, %r6, %r5;
        mad.lo.s32 %r7, %r1, 524296, 65536; add.s32 %r8, %r7, 131074; add.s32 %r9, %r8, 131074; add.s32 %r10, %r9, 131074;
        st.shared.v4.u32 [%r6], {%r7,%r8,%r9,%r10}; bar.sync 0;";
    for trans in [false, true] {
        for n in [1, 2, 4] {
            let regs = (0..n).map(|i| format!("%r{}", 20 + i)).collect::<Vec<_>>().join(",");
            let t = if trans { ".trans" } else { "" };
            for i in 0..n {
                let out = lanes(&format!(
                    "{fill} ldmatrix.sync.aligned.m8n8.x{n}{t}.shared.b16 {{{regs}}}, [%r6]; mov.u32 %r3, %r{};",
                    20 + i
                ));
                let half = |row: u32, column: u32| 64 * i + 8 * row + column;
                let w = want(|l| {
                    let (g, k) = (l / 4, l % 4 * 2);
                    if trans { half(k, g) | half(k + 1, g) << 16 } else { half(g, k) | half(g, k + 1) << 16 }
                });
                assert_eq!(out, w, "x{n}{t} matrix {i}");
            }
            // stmatrix inverts ldmatrix.
            let round = format!("{fill} ldmatrix.sync.aligned.m8n8.x{n}{t}.shared.b16 {{{regs}}}, [%r6]; stmatrix.sync.aligned.m8n8.x{n}{t}.shared.b16 [%r6+1024], {{{regs}}};
                bar.sync 0; mov.u32 %r3, 0; setp.lt.u32 %p1, %r1, {}; @%p1 ld.shared.u32 %r3, [%r6+1028];", 8 * n);
            let w = want(|l| if l < 8 * n { (8 * l + 2) | (8 * l + 3) << 16 } else { 0 });
            assert_eq!(lanes(&round), w);
        }
    }
}
