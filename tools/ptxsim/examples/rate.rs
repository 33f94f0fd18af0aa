//! How many warp instructions the simulator executes per second: `cargo run --release -p ptxsim --example rate
//! [threads]`.

use ptxsim::{Access::*, *};
use std::time::Instant;

struct Bench {
    machine: Machine,
    total: (u64, f64),
}

impl Bench {
    fn memory(&self, bytes: usize, access: Access) -> Param<'static> {
        let ptr = self.machine.alloc(bytes as u64).expect("memory");
        if access != Write {
            // Floats between 1 and 2; as bf16 pairs, numbers near 1.
            let v: Vec<u8> = (0..bytes / 4).flat_map(|i| (0x3f80_3f80 + (i as u32 % 97)).to_le_bytes()).collect();
            self.machine.write(ptr, &v).expect("memory");
        }
        Param::Pointer(Region { ptr, bytes: bytes as u64, access })
    }

    fn run(&mut self, fixture: &str, entry: &str, grid: [u32; 3], block: [u32; 3], shared: u32, params: &[Param]) {
        let path = format!("{}/tests/fixtures/{fixture}.ptx", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("a fixture");
        let module = self.machine.load(&text).expect("PTX");
        if shared > 48 << 10 {
            self.machine.grant_shared(&module, entry, shared).expect("shared memory");
        }
        let start = Instant::now();
        let launch = Launch { grid, block, shared, params, extra: &[] };
        let c = self.machine.launch(&module, entry, &launch).unwrap_or_else(|f| panic!("{f}"));
        let s = start.elapsed().as_secs_f64();
        self.total.0 += c.warp_instructions;
        self.total.1 += s;
        let rate = c.warp_instructions as f64 / s / 1e6;
        println!("{entry:20} {:8.3} s {:12} warp instructions {rate:6.1} M/s", s, c.warp_instructions);
        if c.wgmma_products > 0 {
            println!("{:20} {:.1} GFLOP/s of wgmma", "", 2.0 * c.wgmma_products as f64 / s / 1e9);
        }
    }
}

fn int(v: u32) -> Param<'static> {
    Param::Bytes(Box::leak(Box::new(v.to_le_bytes())))
}

fn float(v: f32) -> Param<'static> {
    int(v.to_bits())
}

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |s| s.parse().expect("a number of threads"));
    let races = std::env::args().nth(2).is_none();
    let config = Config { threads, races, capability: (9, 0), ..Config::default() };
    let mut b = Bench { machine: Machine::new(config), total: (0, 0.0) };
    let (rows, c) = (256, 4096);
    let p = [b.memory(4 * rows * c, Read), b.memory(4 * rows * c, Write), int(c as u32)];
    b.run("softmax", "softmax_f32", [rows as u32, 1, 1], [256, 1, 1], 0, &p);
    let (n, c, d, h, k) = (1, 8, 8, 28, 16);
    let total = n * k * d * h * h;
    let p = [
        b.memory(4 * n * c * d * h * h, Read),
        b.memory(4 * k * c * 27, Read),
        b.memory(4 * k, Read),
        b.memory(4 * total, Write),
    ];
    let sizes = [n, c, d, h, h, k, 3, 3, 3, 1, 1, d, h, h].map(|v| int(v as u32));
    b.run("conv3d", "conv3d_f32", [total.div_ceil(256) as u32, 1, 1], [256, 1, 1], 0, &[&p[..], &sizes[..]].concat());
    let (w, h) = (320, 240);
    let mut p: Vec<Param> = (0..11).map(|i| b.memory(4 * w * h, if i < 8 { Read } else { ReadWrite })).collect();
    p.extend([int(w as u32), int(h as u32), float(0.045), float(0.3)]);
    b.run("tvl1", "tvl1_primal", [20, 15, 1], [16, 16, 1], 0, &p);
    let (m, n, k) = (512, 512, 512);
    let p = [b.memory(2 * m * k, Read), b.memory(2 * n * k, Read), b.memory(4 * m * n, Write)];
    let p = [&p[..], &[int(m as u32), int(n as u32), int(k as u32)]].concat();
    b.run("gemm_mma", "gemm_bf16_mma", [4, 4, 1], [256, 1, 1], 49152, &p);
    let map = |bench: &Bench, rows: u32, columns: u64, access: Access| {
        let Param::Pointer(region) = bench.memory(2 * m * columns as usize, access) else { unreachable!("a pointer") };
        let map = TensorMap {
            element: Element::Bf16,
            address: region.ptr,
            extents: vec![columns, m as u64],
            strides: vec![2 * columns],
            window: Window::Tiled { extent: vec![64, rows] },
            steps: vec![1, 1],
            swizzle: Swizzle::B128,
            fill: Fill::Zero,
        };
        Param::TensorMap(Box::leak(Box::new(bench.machine.tensor_map(&map).expect("a map"))), region)
    };
    let p = [map(&b, 128, k as u64, Read), map(&b, 64, k as u64, Read), map(&b, 64, n as u64, Write)];
    let p = [&p[..], &[int(m as u32), int(n as u32), int(k as u32)]].concat();
    b.run("gemm_tma", "gemm_tma", [16, 1, 1], [384, 1, 1], 90112, &p);
    println!("all: {:.1} M warp instructions per second on {threads} threads", b.total.0 as f64 / b.total.1 / 1e6);
}
