//! Three kernels in a program of your own: a convolution, optical flow and InfoNCE, on your own cudarc stream if there
//! is a GPU, otherwise on the CPU. No toolkit, no framework, no build step.
//!
//! `cargo run --release --example embed_kernel`

mod support;

use anyhow::{Context, Result};
use clap::Parser;
use std::process::ExitCode;
use support::args::{Common, DeviceChoice, program};
use support::output::say_aside;
use support::summary::Summary;
use tubelet::ops::{conv3d, infonce, tvl1};
use tubelet::shape::Window;
use tubelet::tensor::Tensor;

/// A convolution, optical flow and InfoNCE on the caller's memory and stream.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
}

/// The part to copy: it runs on the device of its tensors, in order on their stream, without host synchronisation.
fn kernels(clip: &Tensor, filters: &Tensor, frames: [&Tensor; 2], codes: [&Tensor; 3]) -> Result<[Tensor; 3]> {
    // n t h w c with k kt kh kw c, stride 1 2 2, padded: n t h/2 w/2 k
    let y = conv3d::fprop(clip, filters, &Window::same([3, 3, 3]).strided([1, 2, 2]).into())?;
    // two stacks of grey images, n h w: n 2 h w, displacements to the right and down in pixels
    let flow = tvl1::flow_batch(frames[0], frames[1], &tvl1::Tvl1::default())?;
    // queries, their keys, and a queue of other keys, rows of unit length
    let [q, k, queue] = codes;
    let term = infonce::Term { q, k };
    let swept = infonce::sweep(&[term], queue, infonce::Owners::Unknown, 0.1, false)?.remove(0);
    Ok([y, flow, swept.loss])
}

/// Example data: a moving wave pattern, and unit codes.
struct Data {
    clip: Vec<f32>,
    filters: Vec<f32>,
    frames: [Vec<f32>; 2],
    codes: [Vec<f32>; 3],
}

const CLIP: [usize; 5] = [1, 8, 32, 32, 16];
const FILTERS: [usize; 5] = [32, 3, 3, 3, 16];
const FRAMES: [usize; 3] = [1, 48, 64];
const CODES: [[usize; 2]; 3] = [[4, 16], [4, 16], [256, 16]];

impl Data {
    fn new() -> Data {
        let wave = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by).sin()).collect::<Vec<f32>>();
        let frame = |shift: f32| {
            let pixel = |i: usize| {
                let (y, x) = ((i / FRAMES[2]) as f32, (i % FRAMES[2]) as f32 - shift);
                128.0 + 60.0 * (0.35 * x + 0.2 * y).sin() + 40.0 * (0.3 * y - 0.1 * x).cos()
            };
            (0..FRAMES.iter().product()).map(pixel).collect()
        };
        let circle = |[n, d]: [usize; 2], turn: f32| {
            let row = |i: usize| {
                let angle = i as f32 * 0.7 + turn;
                (0..d).map(move |j| [angle.cos(), angle.sin()].get(j).copied().unwrap_or(0.0))
            };
            (0..n).flat_map(row).collect()
        };
        Data {
            clip: wave(CLIP.iter().product(), 0.01),
            filters: wave(FILTERS.iter().product(), 0.03),
            frames: [frame(0.0), frame(1.0)],
            codes: [circle(CODES[0], 0.0), circle(CODES[1], 0.05), circle(CODES[2], 1.0)],
        }
    }
}

fn on_cpu(data: &Data) -> Result<[Vec<f32>; 3]> {
    let clip = Tensor::from_f32(CLIP, &data.clip)?;
    let filters = Tensor::from_f32(FILTERS, &data.filters)?;
    let [a, b] = [&data.frames[0], &data.frames[1]].map(|f| Tensor::from_f32(FRAMES, f));
    let [q, k, queue] = [0, 1, 2].map(|i| Tensor::from_f32(CODES[i], &data.codes[i]));
    let results = kernels(&clip, &filters, [&a?, &b?], [&q?, &k?, &queue?])?;
    Ok([results[0].f32()?.to_vec(), results[1].f32()?.to_vec(), results[2].f32()?.to_vec()])
}

/// On device `ordinal`, with memory and a stream created by cudarc.
#[cfg(feature = "cuda")]
fn on_cudarc(data: &Data, ordinal: usize) -> Result<[Vec<f32>; 3]> {
    use cudarc::driver::CudaContext;
    use std::sync::Arc;
    use tubelet::driver::Gpu;

    Gpu::count()?; // an error where there is no driver; cudarc would panic
    let stream = CudaContext::new(ordinal)?.new_stream()?;
    let gpu = Gpu::on_cudarc(&stream)?; // your stream: all work below is enqueued on it
    let share = |host: &[f32], shape: &[usize]| -> Result<Tensor> {
        let slice = Arc::new(stream.clone_htod(host)?); // your memory: the tensor shares it
        Ok(Tensor::share_cudarc(&gpu, &stream, &slice, tubelet::shape::Shape::new(shape))?)
    };
    let (clip, filters) = (share(&data.clip, &CLIP)?, share(&data.filters, &FILTERS)?);
    let (a, b) = (share(&data.frames[0], &FRAMES)?, share(&data.frames[1], &FRAMES)?);
    let [q, k, queue] = [0, 1, 2].map(|i| share(&data.codes[i], &CODES[i]));
    let results = kernels(&clip, &filters, [&a, &b], [&q?, &k?, &queue?])?;
    let back = |t: &Tensor| -> Result<Vec<f32>> {
        let mut slice = stream.alloc_zeros::<f32>(t.shape().len())?;
        t.copy_to_cudarc(&stream, &mut slice)?;
        Ok(stream.clone_dtoh(&slice)?)
    };
    Ok([back(&results[0])?, back(&results[1])?, back(&results[2])?])
}

#[cfg(not(feature = "cuda"))]
fn on_cudarc(_: &Data, ordinal: usize) -> Result<[Vec<f32>; 3]> {
    anyhow::bail!("tubelet was built without its feature `cuda`, which cuda:{ordinal} needs")
}

fn run(args: &Args) -> Result<()> {
    let data = Data::new();
    let cpu = on_cpu(&data)?;
    let (device, gpu) = match args.common.device {
        DeviceChoice::Cpu => ("cpu".to_owned(), None),
        DeviceChoice::Cuda(n) => (format!("cuda:{n}"), Some(on_cudarc(&data, n)?)),
        DeviceChoice::Auto => match on_cudarc(&data, 0) {
            Ok(results) => ("cuda:0".to_owned(), Some(results)),
            Err(reason) => {
                say_aside(format_args!("computing on the CPU: {reason}"));
                ("cpu".to_owned(), None)
            }
        },
    };
    let out = args.common.out("embed_kernel");
    std::fs::create_dir_all(&out).with_context(|| format!("--out {}", out.display()))?;
    let mut summary = Summary::default();
    let [y, flow, loss] = gpu.as_ref().unwrap_or(&cpu);
    summary.set("device", device).set("y_first", y[0]).set("loss", loss[0]);
    let right = &flow[..flow.len() / 2];
    summary.set("flow_right", right.iter().sum::<f32>() / right.len() as f32);
    if let Some(gpu) = &gpu {
        for (name, (a, b)) in ["y", "flow", "loss"].iter().zip(gpu.iter().zip(&cpu)) {
            let apart = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            summary.set(&format!("{name}_apart_from_cpu"), apart);
        }
    }
    summary.finish(&out)
}

fn main() -> ExitCode {
    program(|| run(&Args::parse()))
}
