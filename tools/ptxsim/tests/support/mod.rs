//! A device with a fixture loaded, and input data.
#![allow(dead_code)]

pub mod lanewise;
pub mod tensor;

use ptxsim::*;
use std::sync::Arc;

pub const ORDERS: [Order; 3] = [Order::Forward, Order::Reverse, Order::Shuffled(7)];

/// Numbers in (-scale / 2, scale / 2).
pub fn floats(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let mut r = Rng(seed);
    (0..n).map(|_| ((r.next() >> 40) as f32 / (1 << 24) as f32 - 0.5) * scale).collect()
}

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Random bf16 numbers between -1 and 1.
pub fn bf16s(seed: u64, n: usize) -> Vec<u16> {
    floats(seed, n, 2.0).iter().map(|v| (v.to_bits() >> 16) as u16).collect()
}

/// The bytes of 16-bit values.
pub fn bytes(v: &[u16]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub struct Memory {
    pub ptr: u64,
    pub bytes: u64,
}

impl Memory {
    pub fn p(&self, access: Access) -> Param<'static> {
        Param::Pointer(Region { ptr: self.ptr, bytes: self.bytes, access })
    }
}

pub struct Device {
    pub machine: Machine,
    pub module: Arc<Module>,
}

impl Device {
    /// A device with a fixture loaded.
    pub fn new(fixture: &str, order: Order) -> Device {
        let path = format!("{}/tests/fixtures/{fixture}.ptx", env!("CARGO_MANIFEST_DIR"));
        Device::text(&std::fs::read_to_string(path).unwrap(), order)
    }

    /// A device with a text loaded.
    pub fn text(ptx: &str, order: Order) -> Device {
        let machine = Machine::new(Config { order, threads: 2, max_instructions: 1 << 32, ..Config::default() });
        let module = machine.load(ptx).unwrap_or_else(|e| panic!("{e}"));
        Device { machine, module }
    }

    /// A device of compute capability 9.0 with a text loaded.
    pub fn hopper(ptx: &str, order: Order) -> Device {
        let capability = (9, 0);
        let machine =
            Machine::new(Config { order, threads: 2, max_instructions: 1 << 24, capability, ..Config::default() });
        let module = machine.load(ptx).unwrap_or_else(|e| panic!("{e}"));
        Device { machine, module }
    }

    pub fn bytes(&self, b: &[u8]) -> Memory {
        let m = self.empty(b.len());
        self.machine.write(m.ptr, b).unwrap();
        m
    }

    pub fn f32s(&self, v: &[f32]) -> Memory {
        self.bytes(&v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn u32s(&self, v: &[u32]) -> Memory {
        self.bytes(&v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn empty(&self, n: usize) -> Memory {
        Memory { ptr: self.machine.alloc(n as u64).unwrap(), bytes: n as u64 }
    }

    pub fn read_u16s(&self, m: &Memory) -> Vec<u16> {
        self.read(m).chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    }

    pub fn read(&self, m: &Memory) -> Vec<u8> {
        let mut v = vec![0; m.bytes as usize];
        self.machine.read(m.ptr, &mut v).unwrap();
        v
    }

    pub fn read_u32s(&self, m: &Memory) -> Vec<u32> {
        self.read(m).chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    pub fn read_u64s(&self, m: &Memory) -> Vec<u64> {
        self.read(m).chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
    }

    pub fn read_f32s(&self, m: &Memory) -> Vec<f32> {
        self.read_u32s(m).into_iter().map(f32::from_bits).collect()
    }

    pub fn launch(
        &self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &[Param],
    ) -> Result<Counters, Fault> {
        self.machine.launch(&self.module, entry, &Launch { grid, block, shared, params, extra: &[] })
    }
}

/// A 32-bit integer parameter.
pub fn int(v: usize) -> Param<'static> {
    Param::Bytes(Box::leak(Box::new((v as u32).to_le_bytes())))
}

/// A kernel `k(a, b, n)` around some instructions. `%rd1` and `%rd2` are `a` and `b`, `%r1` the thread, `%rd3` and `%rd4` the
/// thread's words of 4 bytes in `a` and `b`, `%r2` is `n`; `s` are 4096 bytes of shared memory and `l` 64 of local memory.
pub fn kernel(body: &str) -> String {
    format!(
        ".version 8.4\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n)\n{{
        .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<64>; .reg .f32 %f<64>; .reg .b64 %rd<32>; .reg .f64 %d<9>;
        .shared .align 16 .b8 s[4096]; .local .align 16 .b8 l[64];
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u32 %r2, [n]; mov.u32 %r1, %tid.x;
        mul.wide.u32 %rd5, %r1, 4; add.s64 %rd3, %rd1, %rd5; add.s64 %rd4, %rd2, %rd5;
        {body}
        ret; }}\n"
    )
}

/// Runs a [`kernel`] with 1024 words of input in `a`, and returns the contents of `b`.
pub struct Run {
    pub grid: u32,
    pub block: u32,
    pub n: u32,
    pub order: Order,
    pub a: Access,
    pub b: Access,
    /// Words of `b`.
    pub out: usize,
}

impl Default for Run {
    fn default() -> Run {
        Run { grid: 1, block: 32, n: 0, order: Order::Forward, a: Access::Read, b: Access::ReadWrite, out: 1024 }
    }
}

impl Run {
    pub fn go(&self, body: &str) -> Result<(Vec<u32>, Counters), Fault> {
        let d = Device::text(&kernel(body), self.order);
        let a = d.u32s(&(0..1024).collect::<Vec<_>>());
        let b = d.bytes(&vec![0; 4 * self.out]);
        let params = [a.p(self.a), b.p(self.b), int(self.n as usize)];
        let c = d.launch("k", [self.grid, 1, 1], [self.block, 1, 1], 0, &params)?;
        Ok((d.read_u32s(&b), c))
    }

    /// The fault that is expected.
    pub fn fault(&self, body: &str) -> Fault {
        match self.go(body) {
            Ok(_) => panic!("no fault in: {body}"),
            Err(f) => f,
        }
    }
}

/// One block of one warp.
pub fn warp() -> Run {
    Run::default()
}

/// One block of `block` threads.
pub fn block(block: u32) -> Run {
    Run { block, ..Run::default() }
}
