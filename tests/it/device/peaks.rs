//! The kernels that measure a GPU's peaks (`cuda/peaks.cu`) in the simulator: the copy copies, and the sums are those of the
//! multiply-adds that the bench counts.

use crate::support::close::{assert_within, gamma};
use crate::support::sim::Sim;
use ptxsim::Order;
use tubelet::driver::{Access, Arg, Gpu, Launch, Region, Spread};
use tubelet::tensor::DType;

const PTX: &str = include_str!("../../../ptx/peaks.sm_80.ptx");

/// Threads of a block.
const BLOCK: u32 = 256;

/// Runs an entry on `x` (where it reads any) and numbers; what it wrote, `words` long.
fn run(gpu: &Gpu, entry: &str, x: Option<&[u32]>, numbers: &[u32], words: usize, blocks: u32) -> Vec<u32> {
    // SAFETY: all addresses are those of memory allocated here.
    let driver = unsafe { gpu.raw_driver() };
    let function = driver.function(driver.load(PTX).unwrap(), entry, 0).unwrap();
    let (from, to) = (gpu.alloc(4 * x.map_or(1, <[u32]>::len)).unwrap(), gpu.alloc(4 * words).unwrap());
    let mut args = Vec::new();
    if let Some(x) = x {
        driver.upload(from.ptr(), bytemuck::cast_slice(x)).unwrap();
        args.push(Arg::Pointer(Region { ptr: from.ptr(), bytes: from.bytes(), access: Access::Read }));
    }
    args.push(Arg::Pointer(Region { ptr: to.ptr(), bytes: to.bytes(), access: Access::Write }));
    let numbers: Vec<[u8; 4]> = numbers.iter().map(|n| n.to_ne_bytes()).collect();
    args.extend(numbers.iter().map(|n| Arg::Value(n)));
    let launch = Launch { spread: Spread::line(blocks, BLOCK), args: &args, reached: &[] };
    // SAFETY: the arguments are those of the entry in cuda/peaks.cu, over memory of the lengths they name.
    unsafe { driver.launch(function, &launch) }.unwrap();
    let mut y = vec![0_u32; words];
    driver.download(to.ptr(), bytemuck::cast_slice_mut(&mut y)).unwrap();
    y
}

fn both_orders(run: impl Fn(&Sim) -> Vec<u32>) -> Vec<u32> {
    let (forward, reverse) = (run(&Sim::new(Order::Forward)), run(&Sim::new(Order::Reverse)));
    assert_eq!(forward, reverse);
    forward
}

#[test]
fn the_copy_copies() {
    let units = 4 * BLOCK + 77; // a second block, in part
    let x: Vec<u32> = (0..4 * units).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    assert_eq!(both_orders(|sim| run(&sim.gpu, "peaks_copy_f32", Some(&x), &[units], x.len(), 2)), x);
}

/// Every block reads everything once a round: the sums of its threads are that of all numbers, which are small integers.
#[test]
fn reads_are_as_many_as_counted() {
    let (units, rounds, blocks) = (8 * BLOCK, 3_u32, 3);
    let x: Vec<u32> = (0..4 * units).map(|i| ((i * 7 % 61) as f32).to_bits()).collect();
    let y = both_orders(|sim| run(&sim.gpu, "peaks_read_f32", Some(&x), &[units, rounds], 3 * BLOCK as usize, blocks));
    let all: f32 = x.iter().map(|bits| f32::from_bits(*bits)).sum();
    for block in y.chunks(BLOCK as usize) {
        assert_eq!(block.iter().map(|bits| f32::from_bits(*bits)).sum::<f32>(), rounds as f32 * all);
    }
}

#[test]
fn multiply_adds_are_as_many_as_counted() {
    let (threads, rounds) = (2 * BLOCK, 5_u32);
    let y = both_orders(|sim| run(&sim.gpu, "peaks_fma_f32", None, &[rounds], threads as usize, 2));
    let mut sums: Vec<f32> = (0..16).map(|k| (k as f32).mul_add(0.01, 1.0)).collect();
    for _ in 0..rounds {
        sums.iter_mut().for_each(|s| *s = s.mul_add(0.999, 0.001));
    }
    let want = sums.iter().fold(0.0, |a, s| a + s);
    assert_eq!(f32::from_bits(y[0]), want, "thread 0 of the first block");
    assert_eq!(y[0], y[BLOCK as usize], "thread 0 of the second");
}

/// The sums of a thread after one round, and of their magnitudes: four elements of the product of its warp's operands, in each
/// of the eight fragments. Operands and sums lie in the lanes as PTX says for `mma.m16n8k16`.
fn product(thread: u32) -> (f64, f64) {
    let half =
        |word: u32, odd: usize| f64::from(f32::from_bits(if odd == 1 { word & 0xffff_0000 } else { word << 16 }));
    let first = thread / 32 * 32;
    let a = |row: usize, k: usize| {
        let (lane, register) = (row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2);
        let mixed = (first + lane as u32).wrapping_mul(2_654_435_761).wrapping_add(register as u32 * 40_503);
        half(mixed & 0x007f_007f | 0xbf00_3f00, k % 2)
    };
    let b = |k: usize, column: usize| {
        let (lane, register) = (column * 4 + k % 8 / 2, k / 8);
        let mixed = (first + lane as u32).wrapping_mul(2_246_822_519).wrapping_add(register as u32 * 30_011);
        half(mixed & 0x007f_007f | 0x3f00_bf00, k % 2)
    };
    let lane = (thread % 32) as usize;
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (row, column) in [(0, 0), (0, 1), (8, 0), (8, 1)].map(|(r, c)| (lane / 4 + r, lane % 4 * 2 + c)) {
        for k in 0..16 {
            let term = 8.0 * a(row, k) * b(k, column);
            (sum, magnitude) = (sum + term, magnitude + term.abs());
        }
    }
    (sum, magnitude)
}

#[test]
fn products_are_as_many_as_counted() {
    let (warps, rounds) = (2 * BLOCK / 32, 3_u32);
    let sim = Sim::new(Order::Forward);
    run(&sim.gpu, "peaks_mma_bf16", None, &[1], 2 * BLOCK as usize, 2);
    let products = sim.machine.totals()["peaks_mma_bf16"].tensor_instructions;
    assert_eq!(products, u64::from(8 * warps), "eight a warp and round");
    let y = both_orders(|sim| run(&sim.gpu, "peaks_mma_bf16", None, &[rounds], 2 * BLOCK as usize, 2));
    let y: Vec<f32> = y.into_iter().map(f32::from_bits).collect();
    let times = f64::from(rounds);
    let (want, off): (Vec<f64>, Vec<f64>) = (0..2 * BLOCK)
        .map(|thread| product(thread % BLOCK))
        // Sixteen products a round, then four sums of each of eight fragments.
        .map(|(sum, magnitude)| (times * sum, gamma(16 * rounds as usize + 32, DType::F32) * times * magnitude))
        .unzip();
    assert_within("products", &y, &want, &off);
}
