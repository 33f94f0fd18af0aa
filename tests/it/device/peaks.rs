//! The kernels that measure a GPU's peaks (`cuda/peaks.cu`) in the simulator: the copy copies, and the sums are those of the
//! multiply-adds that the bench counts.

use crate::support::sim::Sim;
use ptxsim::Order;
use tubelet::driver::{Access, Arg, Gpu, Launch, Region, Spread};

const PTX: &str = include_str!("../../../ptx/peaks.sm_80.ptx");

/// Threads of a block.
const BLOCK: u32 = 256;

/// Runs an entry on `x` (where it reads any) and a number; what it wrote, `words` long.
fn run(gpu: &Gpu, entry: &str, x: Option<&[u32]>, number: u32, words: usize, blocks: u32) -> Vec<u32> {
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
    let number = number.to_ne_bytes();
    args.push(Arg::Value(&number));
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
    assert_eq!(both_orders(|sim| run(&sim.gpu, "peaks_copy_f32", Some(&x), units, x.len(), 2)), x);
}

#[test]
fn multiply_adds_are_as_many_as_counted() {
    let (threads, rounds) = (2 * BLOCK, 5_u32);
    let y = both_orders(|sim| run(&sim.gpu, "peaks_fma_f32", None, rounds, threads as usize, 2));
    let mut sums: Vec<f32> = (0..16).map(|k| (k as f32).mul_add(0.01, 1.0)).collect();
    for _ in 0..rounds {
        sums.iter_mut().for_each(|s| *s = s.mul_add(0.999, 0.001));
    }
    let want = sums.iter().fold(0.0, |a, s| a + s);
    assert_eq!(f32::from_bits(y[0]), want, "thread 0 of the first block");
    assert_eq!(y[0], y[BLOCK as usize], "thread 0 of the second");
}

#[test]
fn products_are_as_many_as_counted() {
    let (warps, rounds) = (2 * BLOCK / 32, 3_u32);
    let sim = Sim::new(Order::Forward);
    let once = run(&sim.gpu, "peaks_mma_bf16", None, 1, 2 * BLOCK as usize, 2);
    let products = sim.machine.totals()["peaks_mma_bf16"].tensor_instructions;
    assert_eq!(products, u64::from(8 * warps), "eight a warp and round");
    let y = both_orders(|sim| run(&sim.gpu, "peaks_mma_bf16", None, rounds, 2 * BLOCK as usize, 2));
    assert_eq!(once.len(), y.len());
    assert!(y.iter().all(|w| f32::from_bits(*w).is_finite()));
}
