//! A convolution of tubelet in a program that uses the GPU through `cust`: with its context, memory and stream. tubelet
//! does not depend on cust; only a raw stream and device addresses are passed.
//!
//! cust links `libcuda`, so this runs only where a driver is installed. Build it with `cargo build --release` there;
//! `DOCS_RS=1 cargo check` checks it anywhere.

use anyhow::{Context, Result};
use cust::memory::CopyDestination;
use cust::prelude::{DeviceBuffer, Stream, StreamFlags};
use tubelet::driver::Gpu;
use tubelet::ops::Workspace;
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, fprop, raw};
use tubelet::shape::Window;
use tubelet::tensor::{DType, Tensor};

fn main() -> Result<()> {
    println!("{} devices", Gpu::count()?); // one sentence where there is none
    let _context = cust::quick_init().context("cust cannot start")?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;

    // One clip of 4 frames of 16 x 16 with 8 channels, and 16 filters of 3 x 3 x 3.
    let geometry = Geometry::new(Window::same([3, 3, 3]));
    let (x_shape, w_shape) = ([1, 4, 16, 16, 8], [16, 3, 3, 3, 8]);
    let problem = Conv3d::new("conv3d", x_shape.into(), w_shape.into(), &geometry)?;
    let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let (clip, filters) = (wave(problem.x_shape().len()), wave(problem.w_shape().len()));

    let (x, w) = (DeviceBuffer::from_slice(&clip)?, DeviceBuffer::from_slice(&filters)?);
    let y = DeviceBuffer::<f32>::zeroed(problem.y_shape().len())?;

    // SAFETY: the stream outlives `gpu`; it belongs to the primary context, which cust and tubelet share.
    let gpu = unsafe { Gpu::on_stream(stream.as_inner().cast()) }?;
    let bytes = raw::workspace(&gpu, &problem, Operator::Fprop, DType::F32)?;
    let space = DeviceBuffer::<u8>::zeroed(bytes.max(1))?;
    // SAFETY: the buffers have the lengths of the problem, and are synchronised before they are dropped.
    unsafe {
        let [x, w, y] = [&x, &w, &y].map(|buffer| buffer.as_device_ptr().as_raw());
        let workspace = Workspace { ptr: space.as_device_ptr().as_raw(), bytes };
        raw::fprop(&gpu, &problem, DType::F32, x, w, y, workspace)?;
    }
    stream.synchronize()?;

    let mut got = vec![0.0; y.len()];
    y.copy_to(&mut got)?;
    let want = fprop(&Tensor::from_f32(x_shape, &clip)?, &Tensor::from_f32(w_shape, &filters)?, &geometry)?;
    let apart = got.iter().zip(want.f32()?).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    println!("conv3d on {}: {} numbers, at most {apart:e} from the CPU's", gpu.name(), got.len());
    Ok(())
}
