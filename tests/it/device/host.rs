//! The host side of a GPU: contexts, streams, uploads, events and graphs, on a driver library whose device is the simulator
//! (`tools/simcuda`). Each test runs in a process of its own, which finds that library as `libcuda.so`.

use std::path::Path;
use std::process::{Command, Output};
use tubelet::driver::Gpu;
use tubelet::error::ErrorKind;
use tubelet::ops::Workspace;
use tubelet::ops::arith;
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, raw};
use tubelet::shape::{Shape, Window};
use tubelet::tensor::{DType, Device, Tensor};

/// A process that finds the simulated driver, and what it did.
pub struct Ran {
    output: Output,
    /// The calls of the driver, one a line.
    pub log: String,
}

/// Runs `program` with `args`.
fn run(program: &Path, args: &[&str], settings: &[(&str, &str)]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let library = std::env::current_exe().unwrap().parent().unwrap().join("libsimcuda.so");
    std::fs::copy(&library, dir.path().join("libcuda.so")).expect("Cargo builds simcuda beside this test");
    let log = dir.path().join("log");
    let output = Command::new(program)
        .args(args)
        .env("LD_LIBRARY_PATH", dir.path())
        .env("SIMCUDA_LOG", &log)
        .envs(settings.iter().copied())
        .current_dir(dir.path())
        .output()
        .unwrap();
    Ran { output, log: std::fs::read_to_string(log).unwrap_or_default() }
}

/// Runs tests of this program on the simulated driver; they must pass, and there must be some.
pub fn tests(args: &[&str], settings: &[(&str, &str)]) -> Ran {
    let ran = run(&std::env::current_exe().unwrap(), args, settings);
    let said = String::from_utf8_lossy(&ran.output.stdout);
    let passed = ran.output.status.success() && !said.contains(" 0 passed");
    assert!(passed, "{said}{}", String::from_utf8_lossy(&ran.output.stderr));
    ran
}

/// Runs the test `inside::NAME`, which is ignored otherwise.
fn inside(name: &str, settings: &[(&str, &str)]) -> Ran {
    tests(&["--exact", &format!("device::host::inside::{name}"), "--ignored"], settings)
}

impl Ran {
    /// How often it made a call.
    pub fn count(&self, call: &str) -> usize {
        self.log.lines().filter(|line| line.starts_with(call)).count()
    }
}

#[test]
fn uploads_pass_through_page_locked_memory() {
    let ran = inside("what_is_uploaded_arrives", &[]);
    assert_eq!(ran.count("cuMemcpyHtoDAsync_v2 (pageable)"), 0);
    // Slots of the ring that eight tensors fill: 1, 1, 1, 1, 2, 6, 1 and 2.
    assert_eq!(ran.count("cuMemcpyHtoDAsync_v2 (page-locked)"), 15, "{}", ran.log);
}

#[test]
fn events_are_destroyed() {
    let ran = inside("events_are_made", &[]);
    assert!(ran.count("cuEventCreate") > 100, "{}", ran.log);
    assert_eq!(ran.count("cuEventCreate"), ran.count("cuEventDestroy_v2"));
}

#[test]
fn graphs_are_destroyed() {
    let ran = inside("a_recording", &[]);
    let made = ran.count("cuStreamEndCapture") + ran.count("cuGraphInstantiateWithFlags");
    assert_eq!((made, ran.count("cuGraphDestroy") + ran.count("cuGraphExecDestroy")), (4, 4), "{}", ran.log);
}

#[test]
fn the_default_stream_needs_a_context() {
    inside("the_default_stream", &[]);
}

#[test]
fn other_threads_stay_out_of_a_recording() {
    inside("a_recording", &[]);
}

#[test]
fn addresses_are_checked_before_anything_is_launched() {
    let ran = inside("wrong_addresses", &[]);
    assert_eq!(ran.count("cuLaunchKernel"), 0, "{}", ran.log);
}

#[test]
fn a_stream_of_cudarc_does_the_work_and_no_other() {
    inside("streams_of_cudarc", &[]);
}

#[test]
fn a_device_without_memory_is_one_sentence() {
    inside("too_little_memory", &[("SIMCUDA_MEMORY", "1048576")]);
}

#[test]
fn a_driver_without_compiler_is_one_sentence() {
    inside("no_compiler", &[("SIMCUDA_PTX_COMPILER", "0")]);
}

#[test]
fn an_old_device_is_one_sentence() {
    inside("an_old_device", &[("SIMCUDA_CAPABILITY", "7.5")]);
}

#[test]
fn streams_of_one_device_wait_for_each_other() {
    let ran = inside("streams_beside_each_other", &[]);
    assert_eq!(ran.count("cuStreamCreate"), ran.count("cuStreamDestroy_v2"), "{}", ran.log);
    assert_eq!(ran.count("cuEventCreate"), ran.count("cuEventDestroy_v2"), "{}", ran.log);
    assert_eq!(ran.count("cuModuleLoadDataEx"), 1, "all streams share what one has loaded: {}", ran.log);
}

#[test]
fn memory_of_another_stream_is_handed_out_after_its_use() {
    inside("memory_across_streams", &[]);
}

#[test]
fn streams_leave_each_other_the_memory_they_do_not_use() {
    inside("little_memory_and_two_streams", &[("SIMCUDA_MEMORY", "1048576")]);
}

#[test]
fn ranks_have_a_device_each() {
    let ran = inside("ranks_of_nccl", &[("SIMCUDA_DEVICES", "2")]);
    assert_eq!(ran.count("cuStreamCreate"), ran.count("cuStreamDestroy_v2"), "{}", ran.log);
}

#[test]
fn sums_over_ranks_have_a_stream_of_their_own() {
    let ran = inside("sums_over_ranks", &[]);
    assert!(ran.count("cuStreamWaitEvent") > 0, "{}", ran.log);
}

/// What a machine with a GPU runs first: tests of the device on device 0 of the driver.
#[test]
fn tests_of_the_device_pass_through_the_driver() {
    let ran = tests(&["device::tensors::", "--skip", "recording"], &[("TUBELET_TEST_DEVICE", "cuda:0")]);
    assert!(ran.count("cuLaunchKernel -> 0") > 100, "{}", ran.log);
}

#[test]
fn tensor_maps_pass_through_the_driver() {
    let settings = [("TUBELET_TEST_DEVICE", "cuda:0"), ("SIMCUDA_CAPABILITY", "9.0")];
    let ran = tests(&["--exact", "device::conv3d_sm90::every_tile_of_hopper"], &settings);
    assert!(ran.count("cuTensorMapEncodeIm2col") > 0 && ran.count("cuTensorMapEncodeTiled") > 0, "{}", ran.log);
}

#[test]
fn the_example_of_embedding_runs_on_the_driver() {
    let Some(program) = crate::support::programs::example("embed_kernel") else { return };
    let ran = run(&program, &["--device", "cuda:0"], &[]);
    assert!(ran.output.status.success(), "{}", String::from_utf8_lossy(&ran.output.stderr));
    assert!(ran.count("launch conv3d_") > 0 && ran.count("launch tvl1_") > 0 && ran.count("launch infonce_") > 0);
}

mod inside {
    use super::*;
    use tubelet::ops::arith::Arith;

    fn gpu() -> (Gpu, Device) {
        let gpu = Gpu::cuda(0).unwrap();
        (gpu.clone(), Device::Cuda(gpu))
    }

    fn sentence<T>(result: tubelet::error::Result<T>) -> String {
        result.err().expect("it is refused").to_string()
    }

    /// Sizes around the slots of the ring, and more than all of them hold. Sources are dropped before anybody waits.
    #[test]
    #[ignore = "run by uploads_pass_through_page_locked_memory"]
    fn what_is_uploaded_arrives() {
        let (_, device) = gpu();
        let slot = 1 << 20; // elements
        let sizes = [1, 1000, slot - 1, slot, slot + 1, 5 * slot + 3, 7, 2 * slot];
        let source = |i: usize, n: usize| (0..n).map(move |j| ((i * 31 + j) % 8191) as f32).collect::<Vec<f32>>();
        let there: Vec<Tensor> = (sizes.iter().enumerate())
            .map(|(i, n)| Tensor::from_f32([*n], &source(i, *n)).unwrap().to(&device).unwrap())
            .collect();
        for (i, (n, tensor)) in sizes.iter().zip(&there).enumerate() {
            assert!(tensor.load().unwrap()[..] == source(i, *n)[..], "{n} elements");
        }
    }

    #[test]
    #[ignore = "run by events_are_destroyed"]
    fn events_are_made() {
        let (gpu, device) = gpu();
        let x = Tensor::full([1000], 1.0).to(&device).unwrap();
        for _ in 0..60 {
            let start = gpu.record_event().unwrap();
            arith::scale_forward(&x, 2.0).unwrap();
            let end = gpu.record_event().unwrap();
            assert!(gpu.elapsed_ms(&start, &end).unwrap() > 0.0);
        }
        let (other, _) = self::gpu();
        let (here, there) = (gpu.record_event().unwrap(), other.record_event().unwrap());
        assert!(sentence(gpu.elapsed_ms(&here, &there)).contains("of another GPU"));
    }

    #[test]
    #[ignore = "run by ranks_have_a_device_each"]
    fn ranks_of_nccl() {
        crate::dist::nccl::on_a_driver();
    }

    #[test]
    #[ignore = "run by sums_over_ranks_have_a_stream_of_their_own"]
    fn sums_over_ranks() {
        crate::dist::overlap::on_a_driver();
    }

    #[test]
    #[ignore = "run by the_default_stream_needs_a_context"]
    fn the_default_stream() {
        // SAFETY: the default stream lives as long as its context.
        let on_default = || unsafe { Gpu::on_stream(std::ptr::null_mut()) };
        assert!(sentence(on_default()).contains("current on this thread, and none is"));
        let (_kept, _) = gpu(); // makes the primary context current
        let device = Device::Cuda(on_default().unwrap());
        let x = Tensor::full([3], 2.0).to(&device).unwrap();
        assert_eq!(arith::scale_forward(&x, 0.5).unwrap().load().unwrap()[..], [1.0; 3]);
    }

    #[test]
    #[ignore = "run by other_threads_stay_out_of_a_recording"]
    fn a_recording() {
        let (gpu, device) = gpu();
        let x = Tensor::full([64], 3.0).to(&device).unwrap();
        drop(arith::scale_forward(&x, 2.0).unwrap()); // loads the module, and leaves memory in the pool
        let mut y = None;
        let graph = gpu
            .graph(|| {
                let refused =
                    std::thread::scope(|s| s.spawn(|| sentence(arith::scale_forward(&x, 5.0))).join().unwrap());
                assert!(refused.contains("another thread is recording a graph"), "{refused}");
                assert!(sentence(gpu.synchronize()).contains("a graph is being recorded"));
                assert!(sentence(Tensor::full([9], 1.0).to(&device)).contains("a graph is being recorded"));
                y = Some(arith::scale_forward(&x, 2.0)?);
                Ok(())
            })
            .unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gpu.graph(|| panic!("on purpose"))));
        assert!(panicked.is_err() && gpu.synchronize().is_ok(), "the stream is not captured any more");
        graph.replay().unwrap();
        assert_eq!(y.unwrap().load().unwrap()[..], [6.0; 64]);
        assert_eq!(arith::scale_forward(&x, 5.0).unwrap().load().unwrap()[..], [15.0; 64]);
    }

    #[test]
    #[ignore = "run by addresses_are_checked_before_anything_is_launched"]
    fn wrong_addresses() {
        let (gpu, _) = gpu();
        let memory = gpu.alloc(1 << 16).unwrap();
        for at in [0, memory.ptr() + 4] {
            // SAFETY: nothing is done with the address.
            let refused = sentence(unsafe { Tensor::borrow_gpu(&gpu, at, DType::F32, [4]) });
            assert!(refused.contains("multiple of 16"), "{refused}");
        }
        // SAFETY: the memory is that long, and outlives the tensor.
        assert!(unsafe { Tensor::borrow_gpu(&gpu, memory.ptr() + 16, DType::F32, [4]) }.is_ok());
        let geometry = Geometry::new(Window::same([1, 1, 1]));
        let p = Conv3d::new("conv3d", Shape::from([1, 2, 2, 2, 8]), Shape::from([8, 1, 1, 1, 8]), &geometry).unwrap();
        let (a, b) = (memory.ptr(), memory.ptr() + 8);
        for [x, w, y] in [[0, a, a], [a, b, a], [a, a, b]] {
            // SAFETY: nothing is launched, since an address is refused.
            let refused = sentence(unsafe { raw::fprop(&gpu, &p, DType::BF16, x, w, y, Workspace::NONE) });
            assert!(refused.contains("multiple of 16"), "{refused}");
        }
        // dw of so many pixels is added up from parts, which need working space.
        let p = Conv3d::new("conv3d", [1, 8, 8, 8, 8].into(), [8, 1, 1, 1, 8].into(), &geometry).unwrap();
        let bytes = raw::workspace(&gpu, &p, Operator::Wgrad, DType::F32).unwrap();
        assert!(bytes > 0);
        for workspace in [Workspace { ptr: a, bytes: bytes - 1 }, Workspace { ptr: b, bytes }] {
            // SAFETY: nothing is launched, since the working space is refused.
            let refused = sentence(unsafe { raw::wgrad(&gpu, &p, DType::F32, a, a, a, workspace) });
            assert!(refused.contains("needs") || refused.contains("multiple of 256"), "{refused}");
        }
        crate::device::raw::refusals(&gpu, a);
        crate::device::raw_clips::refusals(&gpu, a);
    }

    #[test]
    #[ignore = "run by a_stream_of_cudarc_does_the_work_and_no_other"]
    fn streams_of_cudarc() {
        let context = cudarc::driver::CudaContext::new(0).unwrap();
        let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let gpu = Gpu::on_cudarc(&stream).unwrap();
        let slice = std::sync::Arc::new(stream.clone_htod(&[1.0f32, 2.0, 3.0]).unwrap());
        assert!(sentence(Tensor::share_cudarc(&gpu, &other, &slice, [3])).contains("the stream of the tensor's Gpu"));
        let elsewhere = std::sync::Arc::new(other.clone_htod(&[1.0f32, 2.0, 3.0]).unwrap());
        assert!(
            sentence(Tensor::share_cudarc(&gpu, &stream, &elsewhere, [3])).contains("the stream of the tensor's Gpu")
        );
        let x = Tensor::share_cudarc(&gpu, &stream, &slice, [3]).unwrap();
        let y = arith::forward(Arith::Add, &x, &x).unwrap();
        let mut back = stream.alloc_zeros::<f32>(3).unwrap();
        assert!(sentence(y.copy_to_cudarc(&other, &mut back)).contains("the stream of the tensor's Gpu"));
        y.copy_to_cudarc(&stream, &mut back).unwrap();
        assert_eq!(stream.clone_dtoh(&back).unwrap(), [2.0, 4.0, 6.0]);
    }

    #[test]
    #[ignore = "run by streams_of_one_device_wait_for_each_other"]
    fn streams_beside_each_other() {
        let (gpu, device) = gpu();
        let x = Tensor::full([1000], 3.0).to(&device).unwrap();
        let fork = gpu.fork().unwrap();
        // Nothing is executed until somebody waits, and then in an order that events alone determine.
        let there = x.share(&fork).unwrap();
        let y = arith::scale_forward(&there, 2.0).unwrap();
        let back = y.share(&gpu).unwrap();
        let z = arith::forward(Arith::Add, &back, &x).unwrap();
        assert_eq!((there.address(), z.load().unwrap()[999]), (x.address(), 9.0));

        assert!(sentence(arith::forward(Arith::Add, &y, &x)).contains("(stream 0x"), "of two streams");
        let other = Gpu::cuda(0).unwrap();
        assert!(sentence(x.share(&other)).contains("a stream of the tensor's GPU"));
        let event = other.record_event().unwrap();
        assert!(sentence(gpu.wait(&event)).contains("of another GPU"));

        // An event of the one and a wait of the other, and the time between events of both.
        let start = gpu.record_event().unwrap();
        let w = arith::scale_forward(&x, 7.0).unwrap();
        let done = gpu.record_event().unwrap();
        fork.wait(&done).unwrap();
        assert_eq!(w.share(&fork).unwrap().load().unwrap()[0], 21.0);
        assert!(fork.elapsed_ms(&start, &fork.record_event().unwrap()).unwrap() > 0.0);

        // A graph has work of its own stream alone.
        let mut recorded = None;
        let graph = gpu.graph(|| {
            assert!(sentence(x.share(&fork)).contains("part of a recorded graph"));
            assert!(sentence(y.share(&gpu)).contains("a graph is being recorded"));
            assert!(sentence(gpu.fork()).contains("a graph is being recorded"));
            recorded = Some(gpu.record_event()?);
            Ok(())
        });
        assert!(sentence(fork.wait(&recorded.unwrap())).contains("part of a recorded graph"));
        drop(graph.unwrap());

        // The fork of a fork is beside the first too, and a fork goes on without the first.
        let third = fork.fork().unwrap();
        assert!(third.is_beside(&gpu) && !third.is_beside(&other));
        drop((gpu, device, x, back, z, w, start, done));
        assert_eq!(arith::scale_forward(&y.share(&third).unwrap(), 0.5).unwrap().load().unwrap()[0], 3.0);
    }

    #[test]
    #[ignore = "run by memory_of_another_stream_is_handed_out_after_its_use"]
    fn memory_across_streams() {
        let (gpu, device) = gpu();
        let fork = gpu.fork().unwrap();
        let x = Tensor::full([1000], 1.0).to(&device).unwrap();
        let (at, there) = (x.address(), x.share(&fork).unwrap());
        let y = arith::scale_forward(&there, 2.0).unwrap(); // not executed yet
        drop((x, there));
        let other = Tensor::full([1000], 9.0).to(&device).unwrap();
        assert_eq!(other.address(), at, "the memory is handed out again");
        gpu.synchronize().unwrap(); // writes there, after the other stream has read
        assert_eq!(y.load().unwrap()[..], [2.0; 1000]);

        // A tensor that another stream shares is written in a copy, by either of them.
        let gradient = Tensor::full([1000], 1.0).to(&device).unwrap();
        let velocity = || Tensor::full([1000], 0.0).to(&device).unwrap();
        let step = tubelet::ops::sgd::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        let update = |w: &mut Tensor, grad: &Tensor, velocity: &mut Tensor| {
            tubelet::ops::sgd::update(&step, 1.0, w, grad, velocity, false).unwrap();
        };
        let mut w = other;
        let mut theirs = w.share(&fork).unwrap();
        update(&mut w, &gradient, &mut velocity());
        assert_eq!((w.load().unwrap()[0], theirs.load().unwrap()[0]), (8.0, 9.0));
        let (g, mut v) = (gradient.share(&fork).unwrap(), velocity().share(&fork).unwrap());
        let ours = w.share(&fork).unwrap();
        let shared = theirs.address();
        update(&mut theirs, &g, &mut v);
        assert_ne!(theirs.address(), shared, "written apart");
        assert_eq!((theirs.load().unwrap()[0], ours.load().unwrap()[0], w.load().unwrap()[0]), (8.0, 8.0, 8.0));
    }

    #[test]
    #[ignore = "run by streams_leave_each_other_the_memory_they_do_not_use"]
    fn little_memory_and_two_streams() {
        let (gpu, _) = gpu();
        let fork = gpu.fork().unwrap();
        drop(fork.alloc(800_000).unwrap());
        assert!(fork.usage().held > 0 && gpu.usage().held == 0);
        let memory = gpu.alloc(800_000).unwrap(); // there is no room for both
        assert!(fork.usage().held == 0 && fork.alloc(800_000).is_err(), "{memory:?}");
        drop(memory);
        assert!(fork.alloc(800_000).is_ok() && gpu.usage().held == 0);
    }

    #[test]
    #[ignore = "run by a_device_without_memory_is_one_sentence"]
    fn too_little_memory() {
        let (_, device) = gpu();
        let error = Tensor::full([1 << 20], 1.0).to(&device).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
        let x = Tensor::full([1000], 1.0).to(&device).unwrap(); // and the device goes on
        assert_eq!(x.load().unwrap()[..], [1.0; 1000]);
    }

    #[test]
    #[ignore = "run by a_driver_without_compiler_is_one_sentence"]
    fn no_compiler() {
        let (_, device) = gpu();
        let x = Tensor::full([8], 1.0).to(&device).unwrap();
        let refused = sentence(arith::scale_forward(&x, 2.0));
        assert!(refused.contains("libnvidia-ptxjitcompiler.so.1, is not on this machine"), "{refused}");
    }

    #[test]
    #[ignore = "run by an_old_device_is_one_sentence"]
    fn an_old_device() {
        assert!(sentence(Gpu::cuda(0)).contains("has compute capability 7.5, and 8.0 is needed"));
    }
}
