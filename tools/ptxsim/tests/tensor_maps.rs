//! Copies of tensors: limits of maps, tiles and columns of any geometry against plain loops, and their faults.

mod support;

use ptxsim::{Access::*, *};
use support::*;

/// A kernel `k(map, out, n, c0..c4, o0..o2)` whose thread 0 loads a window of `n` bytes to shared memory, and whose threads copy it to
/// `out`.
fn loader(rank: usize, im2col: bool) -> String {
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
fn storer(rank: usize) -> String {
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

const START: &str = "setp.ne.u32 %p2, %r1, 0; shl.b32 %r5, %r1, 2; mov.u32 %r4, s; @%p2 bra WAITING;
    mbarrier.init.shared.b64 [bar], 1; fence.mbarrier_init.release.cluster;";
const WAIT: &str = "WAITING: bar.sync 0; TRY: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra TRY;";

fn hopper(body: &str) -> String {
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
struct Case {
    map: TensorMap,
    data: Vec<u8>,
    at: Vec<i32>,
    offsets: Vec<u16>,
}

impl Case {
    fn bytes(&self) -> usize {
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

    fn params(&self) -> Vec<Param<'static>> {
        let at = (0..5).map(|i| int(*self.at.get(i).unwrap_or(&0) as usize));
        let offsets = (0..3).map(|i| int(*self.offsets.get(i).unwrap_or(&0) as usize));
        at.chain(offsets).collect()
    }

    /// Loads the window, and undoes the permutation of shared memory.
    fn load(&self, order: Order) -> Result<(Vec<u8>, Counters), Fault> {
        let im2col = matches!(self.map.window, Window::Im2col { .. });
        let d = Device::hopper(&loader(self.map.extents.len(), im2col), order);
        let (tensor, out) = (d.bytes(&self.data), d.empty(self.bytes()));
        let map = d.machine.tensor_map(&TensorMap { address: tensor.ptr, ..self.map.clone() })?;
        let region = Region { ptr: tensor.ptr, bytes: tensor.bytes, access: Read };
        let mut params = vec![Param::TensorMap(&map, region), out.p(Write), int(self.bytes())];
        params.extend(self.params());
        let c = d.launch("k", [1; 3], [32, 1, 1], 0, &params)?;
        let out = d.read(&out);
        Ok(((0..out.len()).map(|i| out[permuted(i, self.map.swizzle)]).collect(), c))
    }
}

/// Where a byte of a window is in shared memory, after the tables in the CUDA programming guide: in a pattern of 128-byte
/// lines the column of a 16-byte chunk is exclusive-ored with the line.
fn permuted(i: usize, swizzle: Swizzle) -> usize {
    let (line, column, byte) = (i / 128, i / 16 % 8, i % 16);
    let with = match swizzle {
        Swizzle::None => 0,
        Swizzle::B32 => line % 2,
        Swizzle::B64 => line % 4,
        Swizzle::B128 => line % 8,
    };
    line * 128 + (column ^ with) * 16 + byte
}

fn random_bytes(r: &mut Rng, n: usize) -> Vec<u8> {
    (0..n).map(|_| r.next() as u8).collect()
}

fn pick(r: &mut Rng, from: i64, to: i64) -> i64 {
    from + (r.next() % (to - from + 1) as u64) as i64
}

const ELEMENTS: [Element; 5] = [Element::U8, Element::Bf16, Element::F32, Element::F64, Element::F16];

/// A random tensor in which rows may be padded, and a box that may lie outside it in part.
fn tile(r: &mut Rng) -> Case {
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
fn element(map: &TensorMap, data: &[u8], at: &[i64], byte: usize) -> u8 {
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
fn each(map: &TensorMap, at: &[i32], mut f: impl FnMut(&[i64])) {
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

#[test]
fn tiles_of_any_geometry() {
    let mut r = Rng(11);
    for k in 0..150 {
        let case = tile(&mut r);
        let mut want = vec![];
        let size = case.map.element.size() as usize;
        let mut inside = 0;
        each(&case.map, &case.at, |at| {
            inside += u64::from(at.iter().zip(&case.map.extents).all(|(c, e)| *c >= 0 && *c < *e as i64));
            want.extend((0..size).map(|b| element(&case.map, &case.data, at, b)));
        });
        let (got, c) = case.load(ORDERS[k % 3]).unwrap_or_else(|f| panic!("{:?} at {:?}: {f}", case.map, case.at));
        assert_eq!(got, want, "{:?} at {:?}", case.map, case.at);
        assert_eq!(c.bulk_bytes_loaded, inside * size as u64);
    }
}

#[test]
fn stores_leave_out_what_lies_outside() {
    let mut r = Rng(12);
    for k in 0..60 {
        let case = tile(&mut r);
        let d = Device::hopper(&storer(case.map.extents.len()), ORDERS[k % 3]);
        let source = random_bytes(&mut r, case.bytes());
        let mut permuted_source = vec![0; source.len()];
        source.iter().enumerate().for_each(|(i, v)| permuted_source[permuted(i, case.map.swizzle)] = *v);
        let (tensor, from) = (d.bytes(&case.data), d.bytes(&permuted_source));
        let map = d.machine.tensor_map(&TensorMap { address: tensor.ptr, ..case.map.clone() }).unwrap();
        let region = |access| Region { ptr: tensor.ptr, bytes: tensor.bytes, access };
        let mut params = vec![Param::TensorMap(&map, region(ReadWrite)), from.p(Read), int(source.len())];
        params.extend(case.params());
        let size = case.map.element.size() as usize;
        d.launch("k", [1; 3], [32, 1, 1], 0, &params).unwrap_or_else(|f| panic!("{:?}: {f}", case.map));
        let mut want = case.data.clone();
        let mut at_source = 0;
        each(&case.map, &case.at, |at| {
            if at.iter().zip(&case.map.extents).all(|(c, e)| *c >= 0 && *c < *e as i64) {
                let outer: usize = at[1..].iter().zip(&case.map.strides).map(|(c, s)| *c as usize * *s as usize).sum();
                let to = outer + at[0] as usize * size;
                want[to..to + size].copy_from_slice(&source[at_source..at_source + size]);
            }
            at_source += size;
        });
        assert_eq!(d.read(&tensor), want, "{:?} at {:?}", case.map, case.at);
        if want != case.data {
            params[0] = Param::TensorMap(&map, region(Read));
            let f = d.launch("k", [1; 3], [32, 1, 1], 0, &params).unwrap_err();
            assert!(matches!(f, Fault::ReadOnly(_)), "{f}");
        }
    }
}

/// A convolution's geometry in one spatial dimension.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: i64,
    taps: i64,
    stride: i64,
    padding: i64,
    dilation: i64,
}

impl Axis {
    fn reach(&self) -> i64 {
        (self.taps - 1) * self.dilation
    }

    fn output(&self) -> i64 {
        (self.input + 2 * self.padding - self.reach() - 1) / self.stride + 1
    }
}

#[test]
fn columns_are_the_taps_of_convolutions() {
    let mut r = Rng(13);
    for k in 0..60 {
        let spatial = pick(&mut r, 1, 3) as usize;
        let axes: Vec<Axis> = (0..spatial)
            .map(|_| {
                loop {
                    let a = Axis {
                        input: pick(&mut r, 1, 9),
                        taps: pick(&mut r, 1, 4),
                        stride: pick(&mut r, 1, 8),
                        padding: pick(&mut r, 0, 4),
                        dilation: pick(&mut r, 1, 3),
                    };
                    if a.input + 2 * a.padding > a.reach() {
                        break a;
                    }
                }
            })
            .collect();
        let (batch, channels, window) = (pick(&mut r, 1, 3), 8 * pick(&mut r, 1, 9), 64);
        let pixels = pick(&mut r, 1, 100);
        let mut extents = vec![channels as u64];
        extents.extend(axes.iter().map(|a| a.input as u64));
        extents.push(batch as u64);
        let mut strides = vec![2 * channels as u64];
        for e in &extents[1..=spatial] {
            strides.push(strides[strides.len() - 1] * e);
        }
        let mut steps = vec![1];
        steps.extend(axes.iter().map(|a| a.stride as u32));
        steps.push(1);
        let data = random_bytes(&mut r, 2 * extents.iter().product::<u64>() as usize);
        let map = TensorMap {
            element: Element::Bf16,
            address: 0,
            extents,
            strides,
            window: Window::Im2col {
                lower: axes.iter().map(|a| -a.padding as i32).collect(),
                upper: axes.iter().map(|a| (a.padding - a.reach()) as i32).collect(),
                channels: window,
                pixels: pixels as u32,
            },
            steps,
            swizzle: Swizzle::B128,
            fill: Fill::Zero,
        };
        // Any output pixel, any tap, any channel.
        let outputs: Vec<i64> = axes.iter().map(Axis::output).collect();
        let all = outputs.iter().product::<i64>() * batch;
        let first = pick(&mut r, 0, all - 1);
        let place = |pixel: i64| {
            let mut left = pixel;
            let mut at: Vec<i64> = outputs
                .iter()
                .map(|o| {
                    let c = left % o;
                    left /= o;
                    c
                })
                .collect();
            at.push(left);
            at
        };
        let taps: Vec<i64> = axes.iter().map(|a| pick(&mut r, 0, a.taps - 1)).collect();
        let channel = pick(&mut r, 0, channels / 8 - 1) * 8;
        let start = place(first);
        let mut at = vec![channel as i32];
        at.extend(axes.iter().zip(&start).map(|(a, c)| (c * a.stride - a.padding) as i32));
        at.push(start[spatial] as i32);
        let offsets = axes.iter().zip(&taps).map(|(a, t)| (t * a.dilation) as u16).collect();
        let case = Case { map, data, at, offsets };
        let mut want = vec![];
        for pixel in first..first + pixels {
            let out = place(pixel);
            for c in channel..channel + window as i64 {
                let mut at = vec![c];
                at.extend((0..spatial).map(|i| {
                    let a = axes[i];
                    out[i] * a.stride - a.padding + taps[i] * a.dilation
                }));
                at.push(out[spatial]);
                want.extend((0..2).map(|b| element(&case.map, &case.data, &at, b)));
            }
        }
        let (got, _) = case.load(ORDERS[k % 3]).unwrap_or_else(|f| panic!("{axes:?}: {f}"));
        assert_eq!(got, want, "{axes:?}, {taps:?}, pixel {first}");
    }
}

/// A small valid map of tiles, and one of im2col.
fn maps() -> [TensorMap; 2] {
    let tiled = TensorMap {
        element: Element::Bf16,
        address: 0x1000,
        extents: vec![64, 8, 8, 8, 2],
        strides: vec![128, 1024, 8192, 65536],
        window: Window::Tiled { extent: vec![64, 1, 2, 3, 1] },
        steps: vec![1; 5],
        swizzle: Swizzle::B128,
        fill: Fill::Zero,
    };
    let window = Window::Im2col { lower: vec![-16, 0, 1], upper: vec![15, 0, -1], channels: 64, pixels: 1024 };
    [tiled.clone(), TensorMap { window, ..tiled }]
}

#[test]
fn limits_of_maps() {
    let m = Machine::new(Config::default());
    let [tiled, im2col] = maps();
    m.tensor_map(&tiled).unwrap();
    m.tensor_map(&im2col).unwrap();
    let refused = |map: &TensorMap, change: &dyn Fn(&mut TensorMap), says: &str| {
        let mut map = map.clone();
        change(&mut map);
        let f = m.tensor_map(&map).expect_err(says);
        assert!(matches!(&f, Fault::TensorMap(m) if m.contains(says)), "{says}: {f}");
    };
    for map in [&tiled, &im2col] {
        refused(map, &|m| m.address += 8, "multiple of 16");
        refused(map, &|m| m.extents[2] = 0, "extent 0");
        refused(map, &|m| m.extents[0] = (1 << 32) + 1, "2^32");
        refused(map, &|m| m.strides[1] += 8, "multiple of 16");
        refused(map, &|m| m.strides[3] = 1 << 40, "2^40");
        refused(map, &|m| m.strides.truncate(3), "3 strides");
        refused(map, &|m| m.steps[4] = 0, "between 1 and 8");
        refused(map, &|m| m.steps[1] = 9, "between 1 and 8");
        refused(map, &|m| m.steps.truncate(2), "2 element strides");
        refused(map, &|m| m.swizzle = Swizzle::B64, "longer");
        refused(map, &|m| (m.element, m.fill) = (Element::U16, Fill::Nan), "NaN");
        refused(map, &|m| m.extents.push(1), "6 dimensions");
    }
    fn boxed(m: &mut TensorMap) -> &mut Vec<u32> {
        let Window::Tiled { extent } = &mut m.window else { unreachable!() };
        extent
    }
    refused(&tiled, &|m| boxed(m)[0] = 60, "multiple of 16");
    refused(&tiled, &|m| boxed(m)[1] = 257, "257");
    refused(&tiled, &|m| boxed(m)[1] = 0, "extent 0");
    refused(&tiled, &|m| boxed(m).truncate(4), "4 dimensions");
    let column = |change: &dyn Fn(&mut Vec<i32>, &mut Vec<i32>, &mut u32, &mut u32), says: &str| {
        refused(
            &im2col,
            &|m| {
                let Window::Im2col { lower, upper, channels, pixels } = &mut m.window else { unreachable!() };
                change(lower, upper, channels, pixels);
            },
            says,
        );
    };
    column(&|l, _, _, _| l[0] = -17, "lower corner");
    column(&|_, u, _, _| u[2] = 16, "upper corner");
    column(&|l, _, _, _| l.truncate(2), "lower corner has 2");
    column(&|_, _, c, _| *c = 257, "257 channels");
    column(&|_, _, c, _| *c = 4, "multiple of 16");
    column(&|_, _, _, p| *p = 1025, "1025 pixels");
    column(&|_, _, _, p| *p = 0, "0 pixels");
    // Fewer dimensions have wider corners.
    let fewer = |rank: usize, corner: i32| {
        let mut map = im2col.clone();
        map.extents.truncate(rank);
        map.strides.truncate(rank - 1);
        map.steps.truncate(rank);
        let (lower, upper) = (vec![-corner; rank - 2], vec![corner - 1; rank - 2]);
        map.window = Window::Im2col { lower, upper, channels: 64, pixels: 1 };
        map
    };
    m.tensor_map(&fewer(4, 128)).unwrap();
    m.tensor_map(&fewer(3, 32768)).unwrap();
    refused(&fewer(4, 129), &|_| {}, "lower corner");
    refused(&fewer(3, 32769), &|_| {}, "lower corner");
    refused(&im2col, &|m| (m.extents.truncate(2), m.strides.truncate(1), m.steps.truncate(2)).0, "3 to 5");
}

/// A case that is right.
fn plain() -> Case {
    let [tiled, _] = maps();
    let map = TensorMap {
        extents: vec![64, 4],
        strides: vec![128],
        steps: vec![1; 2],
        window: Window::Tiled { extent: vec![64, 2] },
        ..tiled
    };
    Case { data: vec![1; 512], map, at: vec![0, 1], offsets: vec![] }
}

#[test]
fn maps_that_are_wrong_in_a_launch() {
    let case = plain();
    let text = loader(2, false);
    let d = Device::hopper(&text, Order::Forward);
    let (tensor, out) = (d.bytes(&case.data), d.empty(256));
    let map = d.machine.tensor_map(&TensorMap { address: tensor.ptr, ..case.map.clone() }).unwrap();
    let region = Region { ptr: tensor.ptr, bytes: 512, access: Read };
    let go = |d: &Device, map: &[u8; 128], region: Region| {
        let mut params = vec![Param::TensorMap(map, region), out.p(Write), int(256)];
        params.extend(case.params());
        d.launch("k", [1; 3], [32, 1, 1], 0, &params).map(|_| ())
    };
    go(&d, &map, region).unwrap();
    let mut bad = map;
    bad[9] ^= 1;
    for (map, region) in [(&bad, region), (&map, Region { bytes: 511, ..region }), (&[0; 128], region)] {
        let f = go(&d, map, region).unwrap_err();
        assert!(matches!(f, Fault::Launch(_)), "{f}");
    }
    // The right map is a parameter, but the kernel takes its address elsewhere.
    let wrong = |from: &str, to: &str| {
        let d = Device::hopper(&text.replace(from, to), Order::Forward);
        let tensor = d.bytes(&case.data);
        let out = d.empty(256);
        let map = d.machine.tensor_map(&TensorMap { address: tensor.ptr, ..case.map.clone() }).unwrap();
        let region = Region { ptr: tensor.ptr, bytes: 512, access: Read };
        let mut params = vec![Param::TensorMap(&map, region), out.p(Write), int(256)];
        params.extend(case.params());
        d.launch("k", [1; 3], [32, 1, 1], 0, &params).unwrap_err()
    };
    let three = text.replace(".tensor.2d", ".tensor.3d").replace("{%c0, %c1}", "{%c0, %c1, %c2}");
    for (from, to) in [
        ("[%rd1, {%c0", "[%rd1+64, {%c0"),
        ("[%rd1, {%c0", "[%rd1+8, {%c0"),
        ("[%rd1, {%c0", "[%rd1+128, {%c0"),
        (&text, &three),
        (&text, &loader(3, true)),
    ] {
        let f = wrong(from, to);
        assert!(matches!(f, Fault::Illegal(_)), "{f}");
    }
    let f = wrong("[%r4], [%rd1", "[%r4+64], [%rd1");
    assert!(matches!(f, Fault::Misaligned(Space::Shared, _)), "{f}");
    let f = wrong("[%r4], [%rd1", "[%r4+40832], [%rd1");
    assert!(matches!(f, Fault::OutOfBounds(Space::Shared, _)), "{f}");
}

#[test]
fn columns_begin_inside_their_bounding_box() {
    let [_, im2col] = maps();
    let window = Window::Im2col { lower: vec![-1; 3], upper: vec![-1; 3], channels: 64, pixels: 9 };
    let map = TensorMap { window, ..im2col };
    let data = vec![1; 2 * 64 * 512 * 2];
    let case = |at: [i32; 3], offset: u16| {
        let at = vec![0, at[0], at[1], at[2], 0];
        Case { map: map.clone(), data: data.clone(), at, offsets: vec![offset, 0, 0] }
    };
    case([-1; 3], 31).load(Order::Forward).unwrap();
    case([6; 3], 0).load(Order::Forward).unwrap();
    for (at, offset) in [([-2, 0, 0], 0), ([0, 7, 0], 0), ([0, 0, 8], 0), ([0; 3], 32)] {
        let f = case(at, offset).load(Order::Forward).unwrap_err();
        assert!(matches!(f, Fault::Illegal(_)), "{f}");
    }
}
