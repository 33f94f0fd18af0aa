//! Kernels that copy a window of a tensor, and plain loops that say which bytes it has.

use super::*;
use ptxsim::Access::{Read, Write};

/// A kernel `k(map, out, n, c0..c4, o0..o2)` whose thread 0 loads a window of `n` bytes to shared memory, and whose threads copy it to
/// `out`.
pub fn loader(rank: usize, im2col: bool) -> String {
    let list = |name: &str, n: usize| (0..n).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ");
    let (mode, offsets) =
        if im2col { (".im2col", format!(", {{{}}}", list("h", rank - 2))) } else { (".tile", String::new()) };
    let coordinates = list("c", rank);
    hopper(&format!(
        "{START}
        mbarrier.arrive.expect_tx.shared.b64 _, [bar], %r2;
        cp.async.bulk.tensor.{rank}d.shared::cluster.global{mode}.mbarrier::complete_tx::bytes [%r4], [%rd1, {{{coordinates}}}], [bar]{offsets};
        {WAIT}
        L: setp.ge.u32 %p1, %r5, %r2; @%p1 bra DONE;
        add.s32 %r6, %r4, %r5; ld.shared.u32 %r7, [%r6]; cvt.u64.u32 %rd3, %r5; add.s64 %rd4, %rd2, %rd3;
        st.global.u32 [%rd4], %r7; add.s32 %r5, %r5, 128; bra L; DONE:"
    ))
}

/// The same in the other direction: the window is filled from `out`.
pub fn storer(rank: usize) -> String {
    let coordinates = (0..rank).map(|i| format!("%c{i}")).collect::<Vec<_>>().join(", ");
    hopper(&format!(
        "{START}
        L: setp.ge.u32 %p1, %r5, %r2; @%p1 bra M;
        add.s32 %r6, %r4, %r5; cvt.u64.u32 %rd3, %r5; add.s64 %rd4, %rd2, %rd3;
        ld.global.u32 %r7, [%rd4]; st.shared.u32 [%r6], %r7; add.s32 %r5, %r5, 128; bra L;
        M: fence.proxy.async.shared::cta; bar.warp.sync -1; @%p2 bra DONE;
        cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [%rd1, {{{coordinates}}}], [%r4];
        cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; DONE:"
    ))
}

pub const START: &str = "setp.ne.u32 %p2, %r1, 0; shl.b32 %r5, %r1, 2; mov.u32 %r4, s; @%p2 bra WAITING;
    mbarrier.init.shared.b64 [bar], 1; fence.mbarrier_init.release.cluster;";
pub const WAIT: &str = "WAITING: bar.sync 0; TRY: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra TRY;";

pub fn hopper(body: &str) -> String {
    // Thread 0 alone initialises, so `WAITING` is where the others come from `START`.
    let label = if body.contains("WAITING: ") { "" } else { "WAITING: bar.sync 0;" };
    let body = match label {
        "" => body.to_owned(),
        label => body
            .replace("fence.mbarrier_init.release.cluster;", &format!("fence.mbarrier_init.release.cluster; {label}")),
    };
    let int = |n: &str| format!(".param .u32 {n}");
    let params: Vec<String> =
        (0..5).map(|i| int(&format!("c{i}"))).chain((0..3).map(|i| int(&format!("o{i}")))).collect();
    let loads: String = (0..5).map(|i| format!("ld.param.u32 %c{i}, [c{i}];")).collect();
    let offsets: String = (0..3).map(|i| format!("ld.param.u16 %h{i}, [o{i}];")).collect();
    format!(
        ".version 8.4\n.target sm_90a\n.address_size 64\n
        .visible .entry k(.param .align 64 .b8 map[128], .param .u64 out, .param .u32 n, {})\n{{
        .reg .pred %p<9>; .reg .b16 %h<4>; .reg .b32 %r<64>; .reg .b32 %c<5>; .reg .b64 %rd<32>;
        .shared .align 1024 .b8 s[40960]; .shared .align 8 .b8 bar[8];
        mov.b64 %rd9, map; cvta.param.u64 %rd1, %rd9; ld.param.u64 %rd2, [out]; ld.param.u32 %r2, [n]; mov.u32 %r1, %tid.x;
        {loads} {offsets} {body} ret; }}\n",
        params.join(", ")
    )
}

/// A tensor of random bytes, and how a window of it is loaded.
pub struct Case {
    pub map: TensorMap,
    pub data: Vec<u8>,
    pub at: Vec<i32>,
    pub offsets: Vec<u16>,
}

impl Case {
    pub fn bytes(&self) -> usize {
        let inner = |n: u32| n as usize * self.map.element.size() as usize;
        match &self.map.window {
            Window::Tiled { extent } => {
                inner(extent[0])
                    * extent
                        .iter()
                        .zip(&self.map.steps)
                        .skip(1)
                        .map(|(e, s)| e.div_ceil(*s) as usize)
                        .product::<usize>()
            }
            Window::Im2col { channels, pixels, .. } => inner(*channels) * *pixels as usize,
        }
    }

    pub fn params(&self) -> Vec<Param<'static>> {
        let at = (0..5).map(|i| int(*self.at.get(i).unwrap_or(&0) as usize));
        let offsets = (0..3).map(|i| int(*self.offsets.get(i).unwrap_or(&0) as usize));
        at.chain(offsets).collect()
    }

    /// Loads the window, and undoes the permutation of shared memory.
    pub fn load(&self, order: Order) -> Result<(Vec<u8>, Counters), Fault> {
        self.load_as(self.bytes(), order)
    }

    /// The same, if the window had so many bytes.
    pub fn load_as(&self, bytes: usize, order: Order) -> Result<(Vec<u8>, Counters), Fault> {
        let im2col = matches!(self.map.window, Window::Im2col { .. });
        let d = Device::hopper(&loader(self.map.extents.len(), im2col), order);
        let (tensor, out) = (d.bytes(&self.data), d.empty(bytes));
        let map = d.machine.tensor_map(&TensorMap { address: tensor.ptr, ..self.map.clone() })?;
        let region = Region { ptr: tensor.ptr, bytes: tensor.bytes, access: Read };
        let mut params = vec![Param::TensorMap(&map, region), out.p(Write), int(bytes)];
        params.extend(self.params());
        let c = d.launch("k", [1; 3], [32, 1, 1], 0, &params)?;
        let out = d.read(&out);
        Ok(((0..out.len()).map(|i| out[permuted(i, self.map.swizzle)]).collect(), c))
    }
}

/// Where a byte of a window is in shared memory, after the tables in the CUDA programming guide: in a pattern of 128-byte
/// lines the column of a 16-byte chunk is exclusive-ored with the line.
pub fn permuted(i: usize, swizzle: Swizzle) -> usize {
    let (line, column, byte) = (i / 128, i / 16 % 8, i % 16);
    let with = match swizzle {
        Swizzle::None => 0,
        Swizzle::B32 => line % 2,
        Swizzle::B64 => line % 4,
        Swizzle::B128 => line % 8,
    };
    line * 128 + (column ^ with) * 16 + byte
}

pub fn random_bytes(r: &mut Rng, n: usize) -> Vec<u8> {
    (0..n).map(|_| r.next() as u8).collect()
}

pub fn pick(r: &mut Rng, from: i64, to: i64) -> i64 {
    from + (r.next() % (to - from + 1) as u64) as i64
}

pub const ELEMENTS: [Element; 5] = [Element::U8, Element::Bf16, Element::F32, Element::F64, Element::F16];

/// A random tensor in which rows may be padded, and a box that may lie outside it in part.
pub fn tile(r: &mut Rng) -> Case {
    let rank = pick(r, 1, 5) as usize;
    let element = ELEMENTS[pick(r, 0, 4) as usize];
    let size = element.size();
    let swizzle = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][pick(r, 0, 3) as usize];
    let row = match swizzle {
        Swizzle::None => 16 * pick(r, 1, 6) as u64,
        Swizzle::B32 => 32,
        Swizzle::B64 => 64,
        Swizzle::B128 => 128,
    };
    let mut extent = vec![(row / size) as u32];
    let mut steps = vec![pick(r, 1, 8) as u32];
    let mut extents = vec![pick(r, 1, 90) as u64];
    let mut strides = vec![];
    let mut pitch = (extents[0] * size).next_multiple_of(16);
    for _ in 1..rank {
        strides.push(pitch + 16 * pick(r, 0, 1) as u64);
        extents.push(pick(r, 1, 5) as u64);
        pitch = strides[strides.len() - 1] * extents[extents.len() - 1];
        extent.push(pick(r, 1, 6) as u32);
        steps.push(pick(r, 1, 8) as u32);
    }
    // Sometimes inside, sometimes around the edges.
    let at = (0..rank).map(|i| pick(r, -(extent[i] as i64), extents[i] as i64) as i32).collect();
    let fill = if size > 1 && pick(r, 0, 1) == 1 { Fill::Nan } else { Fill::Zero };
    let map =
        TensorMap { element, address: 0, extents, strides, window: Window::Tiled { extent }, steps, swizzle, fill };
    Case { data: random_bytes(r, pitch as usize), map, at, offsets: vec![] }
}

/// The byte of an element, or of what fills the outside.
pub fn element(map: &TensorMap, data: &[u8], at: &[i64], byte: usize) -> u8 {
    let size = map.element.size() as usize;
    if at.iter().zip(&map.extents).any(|(c, e)| *c < 0 || *c >= *e as i64) {
        return match map.fill {
            Fill::Zero => 0,
            Fill::Nan if byte == size - 1 => 0x7f,
            Fill::Nan => 0xff,
        };
    }
    let outer: usize = at[1..].iter().zip(&map.strides).map(|(c, s)| *c as usize * *s as usize).sum();
    data[outer + at[0] as usize * size + byte]
}

/// Calls `f` with the coordinates of all elements of a box, in the order of shared memory.
pub fn each(map: &TensorMap, at: &[i32], mut f: impl FnMut(&[i64])) {
    let Window::Tiled { extent } = &map.window else { unreachable!() };
    let step = |i: usize| if i == 0 { 1 } else { map.steps[i] };
    let counts: Vec<u64> = (0..extent.len()).map(|i| extent[i].div_ceil(step(i)) as u64).collect();
    for n in 0..counts.iter().product() {
        let mut left = n;
        let position: Vec<i64> = (0..counts.len())
            .map(|i| {
                let k = left % counts[i];
                left /= counts[i];
                at[i] as i64 + k as i64 * step(i) as i64
            })
            .collect();
        f(&position);
    }
}
