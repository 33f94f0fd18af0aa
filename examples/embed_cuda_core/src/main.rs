//! A convolution of tubelet in a program that uses the GPU through `cuda-core`, NVIDIA's own Rust bindings: with its context,
//! memory and stream. tubelet does not depend on cuda-core; only a raw stream and device addresses are passed.
//!
//! `cuda-core` generates its declarations from the headers of a CUDA toolkit, 13.0 or newer, with libclang: set
//! `CUDA_TOOLKIT_PATH`, and `CUDARC_CUDA_VERSION=12040` for tubelet. Neither is needed to run the program.

use anyhow::{Context as _, Result, ensure};
use cuda_core::{Context, DeviceBuffer};
use tubelet::driver::Gpu;
use tubelet::ops::Workspace;
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, fprop, raw};
use tubelet::shape::Window;
use tubelet::tensor::{DType, Tensor};

fn main() -> Result<()> {
    println!("{} devices", Gpu::count()?); // one sentence where there is none
    let context = Context::new(0).context("cuda-core cannot start")?;
    let stream = context.new_stream()?;

    // One clip of 4 frames of 16 x 16 with 8 channels, and 16 filters of 3 x 3 x 3.
    let geometry = Geometry::new(Window::same([3, 3, 3]));
    let (x_shape, w_shape) = ([1, 4, 16, 16, 8], [16, 3, 3, 3, 8]);
    let problem = Conv3d::new("conv3d", x_shape.into(), w_shape.into(), &geometry)?;
    let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let (clip, filters) = (wave(problem.x_shape().len()), wave(problem.w_shape().len()));

    let (x, w) = (DeviceBuffer::from_host(&stream, &clip)?, DeviceBuffer::from_host(&stream, &filters)?);
    let y = DeviceBuffer::<f32>::zeroed(&stream, problem.y_shape().len())?;

    // SAFETY: the stream outlives `gpu`; it belongs to the primary context, which cuda-core and tubelet share.
    let gpu = unsafe { Gpu::on_stream(stream.cu_stream().cast()) }?;
    let bytes = raw::workspace(&gpu, &problem, Operator::Fprop, DType::F32)?;
    let space = DeviceBuffer::<u8>::zeroed(&stream, bytes.max(1))?;
    // SAFETY: the buffers have the lengths of the problem, and are synchronised before they are dropped.
    unsafe {
        let [x, w, y] = [&x, &w, &y].map(DeviceBuffer::cu_deviceptr);
        let workspace = Workspace { ptr: space.cu_deviceptr(), bytes };
        raw::fprop(&gpu, &problem, DType::F32, x, w, y, workspace)?;
    }
    let got = y.to_host_vec(&stream)?; // waits for the stream

    let want = fprop(&Tensor::from_f32(x_shape, &clip)?, &Tensor::from_f32(w_shape, &filters)?, &geometry)?;
    let apart = got.iter().zip(want.f32()?).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    println!("conv3d on {}: {} numbers, at most {apart:e} from the CPU's", gpu.name(), got.len());
    // Each number is a sum of this many products of at most 1: either sum is off by as many roundings of it at most.
    let terms = (w_shape[1..].iter().product::<usize>()) as f32;
    ensure!(apart <= terms * terms * f32::EPSILON, "that is more than rounding explains");
    Ok(())
}
