//! `wgmma`: every layout of its factors against plain products, and the rules about registers, fences and waits.

mod support;

use ptxsim::{Access::*, *};
use support::*;

/// A factor of 64 or `n` rows (or columns) by 16, as elements `[row][k]`.
type Matrix = Vec<[u16; 16]>;

/// How a factor is stored, and with which distances.
#[derive(Clone, Copy, Debug)]
struct Layout {
    swizzle: Swizzle,
    transposed: bool,
    leading: usize,
    stride: usize,
    /// Offset of the matrix, and the number of 128-byte lines by which the repetition of the pattern is shifted.
    start: usize,
    base: usize,
}

impl Layout {
    /// The address of an element: the canonical layouts of CUTLASS, in units of 16 bytes, then the swizzle.
    fn place(&self, row: usize, k: usize) -> usize {
        let wide = match self.swizzle {
            Swizzle::None => 1,
            Swizzle::B32 => 2,
            Swizzle::B64 => 4,
            Swizzle::B128 => 8,
        };
        let (lbo, sbo) = (self.leading / 16, self.stride / 16);
        let unit = match (self.transposed, wide) {
            // ((8, n), 2) : ((1, SBO), LBO) and ((8, n), 2) : ((wide, SBO), 1)
            (false, 1) => row % 8 + row / 8 * sbo + k / 8 * lbo,
            (false, _) => row % 8 * wide + row / 8 * sbo + k / 8,
            // ((1, n), (8, k)) : ((-, SBO), (1, LBO)) and ((wide, n), (8, k)) : ((1, LBO), (wide, SBO))
            (true, 1) => row / 8 * sbo + k % 8 + k / 8 * lbo,
            (true, _) => row / 8 % wide + row / 8 / wide * lbo + k % 8 * wide + k / 8 * sbo,
        };
        let at = self.start + 16 * unit + if self.transposed { row % 8 * 2 } else { k % 8 * 2 };
        // The pattern permutes chunks by the number of the 128-byte line.
        let line = at / 128 + 8 - self.base;
        at ^ (line % wide) << 4
    }

    fn descriptor(&self, at: usize) -> u64 {
        let kind = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        };
        let field = |v: usize| (v as u64 >> 4) & 0x3fff;
        field(at + self.start)
            | field(self.leading) << 16
            | field(self.stride) << 32
            | (self.base as u64) << 49
            | kind << 62
    }

    fn image(&self, m: &Matrix) -> Vec<u8> {
        let mut out = vec![0xee; FACTOR];
        for (row, k) in (0..m.len()).flat_map(|r| (0..16).map(move |k| (r, k))) {
            out[self.place(row, k)..][..2].copy_from_slice(&m[row][k].to_le_bytes());
        }
        out
    }
}

/// Bytes of shared memory per factor.
const FACTOR: usize = 20480;

/// A kernel `k(a, b, y, da, db, add)` that copies both factors to shared memory at 0 and `FACTOR`, and multiplies them. The
/// accumulators begin as 1.
fn text(n: usize, kind: &str, first: &str, negative: [i32; 2], transposed: &str) -> String {
    let list = |n: usize| (0..n).map(|i| format!("%f{i}")).collect::<Vec<_>>().join(", ");
    let [na, nb] = negative;
    let product = format!(
        "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{kind}.{kind} {{{}}}, {first}, %rd5, %p3, {na}, {nb}, {transposed};",
        list(n / 2)
    );
    let ones: String = (0..n / 2).map(|i| format!("mov.f32 %f{i}, 0f3f800000;\n")).collect();
    let store: String = (0..n / 2).map(|i| format!("st.global.f32 [%rd8+{}], %f{i};\n", 4 * i)).collect();
    frame(
        n,
        &format!(
            "{ones} wgmma.fence.sync.aligned; {product}
            wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; {store}"
        ),
    )
}

fn frame(n: usize, body: &str) -> String {
    format!(
        ".version 8.4\n.target sm_90a\n.address_size 64\n
        .visible .entry k(.param .u64 a, .param .u64 b, .param .u64 y, .param .u64 da, .param .u64 db, .param .u32 add)
        .maxntid 256, 1, 1\n{{
        .reg .pred %p<9>; .reg .b32 %r<64>; .reg .f32 %f<200>; .reg .b64 %rd<32>;
        .shared .align 1024 .b8 s[{}]; .shared .align 8 .b8 bar[8];
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [y]; ld.param.u64 %rd4, [da]; ld.param.u64 %rd5, [db];
        ld.param.u32 %r2, [add]; setp.ne.u32 %p3, %r2, 0; mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra READY;
        mbarrier.init.shared.b64 [bar], 1; fence.mbarrier_init.release.cluster;
        mbarrier.arrive.expect_tx.shared.b64 _, [bar], {};
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%rd1], {FACTOR}, [bar];
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s+{FACTOR}], [%rd2], {FACTOR}, [bar];
        READY: bar.sync 0; WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra WAIT;
        mul.wide.u32 %rd7, %r1, {}; add.s64 %rd8, %rd3, %rd7;
        {body} ret; }}\n",
        2 * FACTOR,
        2 * FACTOR,
        2 * n
    )
}

/// Factors in shared memory, in registers or both, and what is expected.
struct Product {
    n: usize,
    bf16: bool,
    a: Matrix,
    b: Matrix,
    layouts: [Layout; 2],
    negative: [i32; 2],
    add: bool,
    sums: Sums,
    swizzled: Swizzled,
}

fn matrix(seed: u64, rows: usize, bf16: bool) -> Matrix {
    let mut r = Rng(seed);
    let mut one = || {
        let v = (r.next() % 33) as f32 / 16.0 - 1.0;
        // Multiples of 1/16 up to 1: exact in both types, as are their sums in f32.
        if bf16 { (v.to_bits() >> 16) as u16 } else { half(v) }
    };
    (0..rows).map(|_| std::array::from_fn(|_| one())).collect()
}

/// A multiple of 1/16 up to 1 as f16.
fn half(v: f32) -> u16 {
    if v == 0.0 {
        return 0;
    }
    let bits = v.to_bits();
    let exponent = (bits >> 23 & 255) as i32 - 127 + 15;
    (bits >> 16 & 0x8000) as u16 | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16
}

fn value(v: u16, bf16: bool) -> f64 {
    if bf16 {
        return f64::from(f32::from_bits(u32::from(v) << 16));
    }
    let sign = if v >> 15 == 1 { -1.0 } else { 1.0 };
    if v & 0x7fff == 0 { 0.0 } else { sign * f64::from(1024 + (v & 0x3ff)) * 2f64.powi(i32::from(v >> 10 & 31) - 25) }
}

impl Product {
    fn new(n: usize, layouts: [Layout; 2]) -> Product {
        let (a, b) = (matrix(1, 64, true), matrix(2, n, true));
        Product {
            n,
            bf16: true,
            a,
            b,
            layouts,
            negative: [1, 1],
            add: true,
            sums: Sums::Nearest,
            swizzled: Swizzled::ByAddress,
        }
    }

    fn want(&self) -> Vec<Vec<f32>> {
        let sign = f64::from(self.negative[0] * self.negative[1]);
        let dot = |x: &[u16; 16], y: &[u16; 16]| {
            let terms = x.iter().zip(y).map(|(x, y)| value(*x, self.bf16) * value(*y, self.bf16));
            (sign * terms.sum::<f64>() + if self.add { 1.0 } else { 0.0 }) as f32
        };
        self.a.iter().map(|x| self.b.iter().map(|y| dot(x, y)).collect()).collect()
    }

    fn launch(&self, text: &str, images: [&[u8]; 2]) -> Result<Vec<Vec<f32>>, Fault> {
        let (sums, swizzled) = (self.sums, self.swizzled);
        let config = Config { capability: (9, 0), sums, swizzled, ..Config::default() };
        let machine = Machine::new(config);
        let module = machine.load(text).unwrap_or_else(|e| panic!("{e}"));
        let d = Device { machine, module };
        let (a, b, y) = (d.bytes(images[0]), d.bytes(images[1]), d.empty(128 * 2 * self.n));
        let [da, db] = [self.layouts[0].descriptor(0), self.layouts[1].descriptor(FACTOR)].map(u64::to_le_bytes);
        let params = [a.p(Read), b.p(Read), y.p(Write), Param::Bytes(&da), Param::Bytes(&db), int(self.add.into())];
        let c = d.launch("k", [1; 3], [128, 1, 1], 0, &params)?;
        assert_eq!(c.wgmma_products, 64 * self.n as u64 * 16);
        let fragments = d.read_f32s(&y);
        let mut out = vec![vec![0.0; self.n]; 64];
        for (thread, f) in fragments.chunks(self.n / 2).enumerate() {
            for (i, v) in f.iter().enumerate() {
                let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
                out[row][i / 4 * 8 + thread % 4 * 2 + i % 2] = *v;
            }
        }
        Ok(out)
    }

    /// With both factors in shared memory.
    fn shared(&self) -> Vec<Vec<f32>> {
        let t = self.layouts.map(|l| u8::from(l.transposed));
        let kind = if self.bf16 { "bf16" } else { "f16" };
        let text = text(self.n, kind, "%rd4", self.negative, &format!("{}, {}", t[0], t[1]));
        let images = [self.layouts[0].image(&self.a), self.layouts[1].image(&self.b)];
        self.launch(&text, [&images[0], &images[1]]).unwrap_or_else(|f| panic!("{f}"))
    }

    /// With the first factor in registers.
    fn registers(&self) -> Vec<Vec<f32>> {
        let kind = if self.bf16 { "bf16" } else { "f16" };
        let t = u8::from(self.layouts[1].transposed);
        let text = text(self.n, kind, "{%r10, %r11, %r12, %r13}", self.negative, &t.to_string()).replace(
            "wgmma.fence",
            "mul.wide.u32 %rd9, %r1, 16; add.s64 %rd9, %rd1, %rd9; ld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%rd9]; wgmma.fence",
        );
        let mut fragments = vec![];
        for thread in 0..128 {
            for i in 0..4 {
                let row = thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8;
                let k = thread % 4 * 2 + i / 2 * 8;
                fragments.extend([self.a[row][k], self.a[row][k + 1]]);
            }
        }
        let mut image = bytes(&fragments);
        image.resize(FACTOR, 0);
        self.launch(&text, [&image, &self.layouts[1].image(&self.b)]).unwrap_or_else(|f| panic!("{f}"))
    }
}

/// Layouts of up to 256 rows, dense and with distances of another size.
fn layouts(rows: usize) -> Vec<Layout> {
    let plain = Layout { swizzle: Swizzle::None, transposed: false, leading: 0, stride: 0, start: 0, base: 0 };
    let mut all = vec![];
    let (groups, pad) = (rows / 8, 128);
    // Without swizzle 8x8 blocks of 128 bytes, next to each other along k or along rows.
    for (leading, stride) in [(128, 256), (128 * groups, 128), (128 * groups + pad, 128)] {
        all.push(Layout { leading, stride, ..plain });
        all.push(Layout { leading, stride, transposed: true, start: 48, ..plain });
    }
    for (swizzle, span) in [(Swizzle::B32, 32), (Swizzle::B64, 64), (Swizzle::B128, 128)] {
        let l = Layout { swizzle, ..plain };
        all.push(Layout { stride: 8 * span, ..l });
        // The second and the last 16 of a row's elements, and a matrix that begins at another row.
        all.push(Layout { stride: 8 * span, start: span - 32, ..l });
        if rows <= 128 {
            all.push(Layout { stride: 8 * span, start: 3 * 128, ..l });
            // A pattern that begins at another line.
            all.push(Layout { stride: 8 * span, start: 3 * 128, base: 3, ..l });
        }
        // Transposed, rows of 16, 32 or 64 elements; several next to each other.
        let wide = span / 2;
        let along = rows.div_ceil(wide);
        all.push(Layout { transposed: true, leading: 16 * span, stride: 8 * span, ..l });
        all.push(Layout { transposed: true, leading: 8 * span, stride: 8 * span * along, ..l });
    }
    all
}

#[test]
fn every_layout_of_both_factors() {
    for n in [8, 24, 64, 136, 256] {
        let dense = Layout { swizzle: Swizzle::B128, transposed: false, leading: 16, stride: 1024, start: 0, base: 0 };
        for b in layouts(n) {
            let fits = (0..n).all(|r| b.place(r, 15) + 2 <= FACTOR) && (0..n).all(|r| b.place(r, 7) + 2 <= FACTOR);
            if !fits {
                continue;
            }
            let p = Product::new(n, [dense, b]);
            assert_eq!(p.shared(), p.want(), "n = {n}, B {b:?}");
            assert_eq!(p.registers(), p.want(), "n = {n}, B {b:?}, A in registers");
        }
    }
    let dense = Layout { swizzle: Swizzle::B64, transposed: false, leading: 16, stride: 512, start: 0, base: 0 };
    for a in layouts(64) {
        let p = Product::new(32, [a, dense]);
        assert_eq!(p.shared(), p.want(), "A {a:?}");
    }
}

/// What hardware may do with an operand that begins within a pattern: the rows of one that TMA wrote are then in disorder.
#[test]
fn a_swizzle_by_operand_is_another_one_within_a_pattern() {
    for transposed in [false, true] {
        let whole = Layout { swizzle: Swizzle::B128, transposed, leading: 1024, stride: 1024, start: 0, base: 0 };
        for start in [0, 1024, 128, 7 * 128] {
            let mut p = Product::new(64, [Layout { start, ..whole }, Layout { transposed: false, ..whole }]);
            assert_eq!(p.shared(), p.want(), "row {}", start / 128);
            p.swizzled = Swizzled::ByOperand;
            assert_eq!(p.shared() == p.want(), start % 1024 == 0, "row {}", start / 128);
        }
    }
}

#[test]
fn signs_types_and_sums() {
    let l = Layout { swizzle: Swizzle::B128, transposed: false, leading: 16, stride: 1024, start: 0, base: 0 };
    for (add, negative, bf16) in
        [(true, [1, -1], true), (false, [-1, -1], true), (false, [-1, 1], false), (true, [1, 1], false)]
    {
        for sums in [Sums::Nearest, Sums::Truncated] {
            let (a, b) = (matrix(5, 64, bf16), matrix(6, 48, bf16));
            let p = Product { a, b, bf16, add, negative, sums, ..Product::new(48, [l, l]) };
            assert_eq!(p.shared(), p.want(), "{add} {negative:?} {bf16} {sums:?}");
            assert_eq!(p.registers(), p.want(), "{add} {negative:?} {bf16} {sums:?}, A in registers");
        }
    }
    // One small product beside a large sum: rounded up, or cut off. 1 + 3·2^-25 is next to 1 + 2^-23.
    let mut p = Product::new(8, [l, l]);
    p.a.iter_mut().for_each(|r| *r = [0; 16]);
    p.b.iter_mut().for_each(|r| *r = [0; 16]);
    p.a[5][3] = (3f32.to_bits() >> 16) as u16;
    p.b[2][3] = ((1.0 / (1 << 25) as f32).to_bits() >> 16) as u16;
    assert_eq!(p.shared()[5][2], 1.0 + f32::EPSILON);
    p.sums = Sums::Truncated;
    assert_eq!(p.shared()[5][2], 1.0);
}

/// The fault of a body with `multiply` as a product of 8 columns with accumulators 0 to 3, or what it stores.
fn run(threads: u32, body: &str) -> Result<(), Fault> {
    let d = Device::hopper(&frame(8, body), Order::Forward);
    let (a, b, y) = (d.bytes(&[0; FACTOR]), d.bytes(&[0; FACTOR]), d.bytes(&[0; 256 * 16]));
    let l = Layout { swizzle: Swizzle::B128, transposed: false, leading: 16, stride: 1024, start: 0, base: 0 };
    let [da, db] = [l.descriptor(0), l.descriptor(FACTOR)].map(u64::to_le_bytes);
    let params = [a.p(Read), b.p(Read), y.p(ReadWrite), Param::Bytes(&da), Param::Bytes(&db), int(0)];
    d.launch("k", [1; 3], [threads, 1, 1], 0, &params).map(|_| ())
}

macro_rules! fault {
    ($threads:expr, $body:expr, $kind:pat) => {{
        let body: String = $body.into();
        let f = run($threads, &body).err().unwrap_or_else(|| panic!("no fault in: {body}"));
        assert!(matches!(f, $kind), "{body}: {f}");
    }};
}

fn product(d: usize, a: &str) -> String {
    format!(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f{d}, %f{}, %f{}, %f{}}}, {a}, %rd5, %p3, 1, 1, 0{};",
        d + 1,
        d + 2,
        d + 3,
        if a.starts_with('{') { "" } else { ", 0" }
    )
}

const FENCE: &str = "wgmma.fence.sync.aligned;";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
const STORE: &str = "st.global.f32 [%rd8], %f0;";

#[test]
fn registers_of_products_in_flight() {
    let p = product(0, "%rd4");
    let all = |parts: &[&str]| parts.concat();
    run(128, &all(&[FENCE, &p, &p, COMMIT, WAIT, STORE])).unwrap();
    run(128, &all(&[FENCE, &p, COMMIT, &p, COMMIT, WAIT, STORE])).unwrap();
    // Accumulators that nothing has touched since the wait need no other fence.
    run(128, &all(&[FENCE, &p, COMMIT, WAIT, &p, COMMIT, WAIT, STORE])).unwrap();
    fault!(128, all(&[&p, COMMIT, WAIT]), Fault::InFlight(_));
    fault!(128, all(&[FENCE, "mov.f32 %f2, 0f00000000;", &p, COMMIT, WAIT]), Fault::InFlight(_));
    fault!(128, all(&[FENCE, &p, COMMIT, WAIT, "mov.f32 %f2, 0f40000000;", &p, COMMIT, WAIT]), Fault::InFlight(_));
    // Read, copied or written before the wait, or never waited for.
    fault!(128, all(&[FENCE, &p, COMMIT, STORE, WAIT]), Fault::InFlight(_));
    fault!(128, all(&[FENCE, &p, COMMIT, "wgmma.wait_group.sync.aligned 1;", STORE, WAIT]), Fault::InFlight(_));
    fault!(128, all(&[FENCE, &p, WAIT, STORE]), Fault::InFlight(_));
    fault!(128, all(&[FENCE, &p, COMMIT, "mov.f32 %f3, 0f00000000;", WAIT]), Fault::InFlight(_));
    fault!(128, all(&[FENCE, &p, COMMIT, "mov.f32 %f3, 0f00000000;", &p, COMMIT, WAIT]), Fault::InFlight(_));
    fault!(128, all(&[FENCE, &p, COMMIT]), Fault::InFlight(_));
    // Other products may be in flight at the same time, but not with a part of the same accumulators.
    run(128, &all(&[FENCE, &p, COMMIT, &product(4, "%rd4"), COMMIT, "wgmma.wait_group.sync.aligned 1;", STORE, WAIT]))
        .unwrap();
    fault!(128, all(&[FENCE, &p, COMMIT, &product(2, "%rd4"), COMMIT, WAIT]), Fault::InFlight(_));
    // A in registers.
    let q = product(0, "{%r10, %r11, %r12, %r13}");
    let set = "mov.u32 %r10, 0; mov.u32 %r11, 0; mov.u32 %r12, 0; mov.u32 %r13, 0;";
    run(128, &all(&[set, FENCE, &q, &q, COMMIT, WAIT, set, FENCE, &q, COMMIT, WAIT])).unwrap();
    fault!(128, all(&[FENCE, set, &q, COMMIT, WAIT]), Fault::InFlight(_));
    fault!(128, all(&[FENCE, &q, COMMIT, WAIT]), Fault::UninitialisedRegister(_));
    fault!(128, all(&[set, FENCE, &q, COMMIT, "mov.u32 %r11, 0;", WAIT]), Fault::InFlight(_));
    fault!(128, all(&[set, FENCE, &q, COMMIT, "mov.u32 %r11, 5;", FENCE, &q, COMMIT, WAIT]), Fault::InFlight(_));
    fault!(128, all(&[set, FENCE, &q, COMMIT, "st.global.u32 [%rd8], %r11;", WAIT]), Fault::InFlight(_));
    // Accumulators that are added must have been written.
    let add = p.replace("%p3", "1");
    fault!(128, all(&[FENCE, &add, COMMIT, WAIT]), Fault::UninitialisedRegister(_));
}

#[test]
fn all_warps_of_a_warpgroup_take_part() {
    let p = product(0, "%rd4");
    let all = |parts: &[&str]| parts.concat();
    run(256, &all(&[FENCE, &p, COMMIT, WAIT, STORE])).unwrap();
    // The second warpgroup leaves it out, which is allowed; some warps or lanes of one do, which is not.
    let some = |n: u32, what: &str| format!("setp.ge.u32 %p1, %r1, {n}; @%p1 bra OUT; {what} OUT:");
    run(256, &some(128, &all(&[FENCE, &p, COMMIT, WAIT, STORE]))).unwrap();
    fault!(128, some(96, &all(&[FENCE, &p, COMMIT, WAIT])), Fault::Deadlock(_));
    fault!(128, some(120, &all(&[FENCE, &p, COMMIT, WAIT])), Fault::Divergence(_));
    fault!(192, all(&[FENCE, &p, COMMIT, WAIT]), Fault::Illegal(_));
    // Another product, or another descriptor, in some warps.
    let other = format!("{FENCE} setp.ge.u32 %p1, %r1, 64; @%p1 bra L; {p} bra M; L: {p} M: {COMMIT} {WAIT}");
    fault!(128, other, Fault::Divergence(_));
    let by_warp = "shr.u32 %r3, %r1, 5; cvt.u64.u32 %rd9, %r3; add.s64 %rd4, %rd4, %rd9;";
    fault!(128, all(&[by_warp, FENCE, &p, COMMIT, WAIT]), Fault::Divergence(_));
    let by_lane = "cvt.u64.u32 %rd9, %r1; add.s64 %rd5, %rd5, %rd9;";
    fault!(128, all(&[by_lane, FENCE, &p, COMMIT, WAIT]), Fault::Divergence(_));
    let lanes = "setp.lt.u32 %p3, %r1, 16;";
    fault!(128, all(&[lanes, FENCE, &p, COMMIT, WAIT]), Fault::Divergence(_));
}

#[test]
fn shared_memory_of_products_in_flight() {
    let p = product(0, "%rd4");
    let all = |parts: &[&str]| parts.concat();
    // A word that the product reads, and one that it does not read.
    let write = |at: usize| format!("setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [s+{at}], %r1;");
    let sync = "fence.proxy.async; bar.sync 0;";
    run(128, &all(&[&write(0), sync, FENCE, &p, COMMIT, WAIT, &write(0)])).unwrap();
    run(128, &all(&[FENCE, &p, COMMIT, &write(1024 * 8), WAIT])).unwrap();
    run(128, &all(&[&write(64), FENCE, &p, COMMIT, WAIT])).unwrap();
    fault!(128, all(&[FENCE, &p, COMMIT, &write(0), WAIT]), Fault::Race(Space::Shared, _));
    fault!(128, all(&[FENCE, &p, COMMIT, &write(FACTOR + 128), WAIT]), Fault::Race(Space::Shared, _));
    // Stored without a fence, with the fence too early or by others, or without a barrier.
    fault!(128, all(&[&write(0), "bar.sync 0;", FENCE, &p, COMMIT, WAIT]), Fault::Proxy(_));
    fault!(128, all(&["fence.proxy.async;", &write(0), "bar.sync 0;", FENCE, &p, COMMIT, WAIT]), Fault::Proxy(_));
    fault!(128, all(&[&write(0), "bar.sync 0;", "fence.proxy.async;", FENCE, &p, COMMIT, WAIT]), Fault::Proxy(_));
    fault!(128, all(&[&write(0), "fence.proxy.async;", FENCE, &p, COMMIT, WAIT]), Fault::Race(Space::Shared, _));
    // Beyond shared memory.
    let far = "mov.u64 %rd9, 0x3fff; or.b64 %rd5, %rd5, %rd9;";
    fault!(128, all(&[far, FENCE, &p, COMMIT, WAIT]), Fault::OutOfBounds(Space::Shared, _));
}
