//! Motion maps' device code in the simulator, against the definition.

use crate::support::close::assert_bounded;
use crate::support::numbers::{data, wide};
use crate::support::sim::{Sim, on_gpu};
use ptxsim::Order;
use tubelet::ops::motion_map::{self, cases::CASES, reference};
use tubelet::ops::reference::Bounded;
use tubelet::tensor::{DType, Device, Frames, Tensor};

/// Fields whose numbers are eighths, so that they are the same in both precisions.
fn fields(n: usize, h: usize, w: usize) -> Tensor {
    let eighths = |i: usize| ((i * 2654435761) % 163) as f32 / 8.0 - 10.0;
    let all: Vec<f32> = (0..n * 2 * h * w).map(eighths).collect();
    Tensor::from_f32([n, 2, h, w], &all).unwrap()
}

fn frames(count: usize, h: usize, w: usize) -> Vec<Vec<u8>> {
    (0..count).map(|t| (0..h * w * 3).map(|i| ((i * 31 + t * 97 + i * t % 11) % 256) as u8).collect()).collect()
}

fn joined(all: Vec<Bounded<f64>>) -> Bounded<f64> {
    let terms = all.iter().map(|b| b.terms).max().unwrap_or(1);
    let (value, magnitude) = all.into_iter().map(|b| (b.value, b.magnitude)).unzip::<_, _, Vec<_>, Vec<_>>();
    Bounded { value: value.concat(), magnitude: magnitude.concat(), terms }
}

#[test]
pub fn maps_of_flow_meet_the_definition_on_a_gpu() {
    let ragged = [(33, 65), (70, 130)];
    let sizes = CASES.iter().map(|c| (c.h, c.w)).filter(|(h, w)| h * w < 10_000).chain(ragged);
    for (h, w) in sizes {
        let flow = fields(2, h, w);
        let pixels = h * w;
        for clamp in [10.0f32, 3.0] {
            let edges = joined(
                wide(&data(&flow))
                    .chunks_exact(2 * pixels)
                    .map(|f| reference::flow_edges(&f[..pixels], &f[pixels..], h, w, f64::from(clamp)))
                    .collect(),
            );
            for dtype in [DType::F32, DType::BF16] {
                let what = format!("{h}x{w}, clamp {clamp}, {}", dtype.name());
                let got = on_gpu(|device| {
                    let flow = flow.to(device).unwrap();
                    let edges = motion_map::flow_edges_batch(&flow, clamp, dtype).unwrap();
                    let scaled = motion_map::scaled_flow_batch(&flow, clamp, dtype).unwrap();
                    assert_eq!((edges.dims(), scaled.dims()), (&[2, h, w, 1][..], &[2, h, w, 2][..]));
                    [data(&edges), data(&scaled)]
                });
                assert_bounded(&what, &got[0], &edges, dtype);
                // One division, rounded as on the CPU.
                let scaled = motion_map::scaled_flow_batch(&flow, clamp, dtype).unwrap();
                assert_eq!(got[1], data(&scaled), "{what}");
                let cpu = data(&motion_map::flow_edges_batch(&flow, clamp, dtype).unwrap());
                assert_bounded(&what, &cpu, &edges, dtype);
            }
        }
    }
}

#[test]
pub fn frame_differences_meet_the_definition_on_a_gpu() {
    for (count, h, w) in [(2, 1, 1), (3, 5, 7), (11, 6, 10), (9, 16, 20)] {
        let all = frames(count, h, w);
        let want = joined(all.windows(2).map(|f| reference::frame_difference(&f[0], &f[1])).collect());
        for dtype in [DType::F32, DType::BF16] {
            let got = on_gpu(|device| {
                let Device::Cuda(gpu) = device else { unreachable!() };
                let bytes: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
                let frames = Frames::upload(gpu, &bytes, h, w).unwrap();
                data(&motion_map::frame_differences(&frames, dtype).unwrap())
            });
            assert_bounded(&format!("{count} of {h}x{w}"), &got, &want, dtype);
        }
    }
}

/// Each map asks for at most a tenth more bytes than its argument and result have.
#[test]
fn maps_read_what_they_need_once() {
    let (h, w) = (128, 192);
    let sim = Sim::new(Order::Forward);
    let flow = fields(1, h, w).to(&sim.device()).unwrap();
    motion_map::flow_edges_batch(&flow, 10.0, DType::F32).unwrap();
    motion_map::scaled_flow_batch(&flow, 10.0, DType::BF16).unwrap();
    let all = frames(17, h / 4, w / 4);
    let bytes: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    let frames = Frames::upload(&sim.gpu, &bytes, h / 4, w / 4).unwrap();
    motion_map::frame_differences(&frames, DType::F32).unwrap();
    let (pixels, few) = ((h * w) as u64, (h * w / 16) as u64);
    let fewest = [
        ("motion_map_edges_f32", pixels * (8 + 4)),
        ("motion_map_flow_bf16", pixels * (8 + 4)),
        ("motion_map_difference_wide_f32", few * (17 * 3 + 16 * 4)),
    ];
    let totals = sim.machine.totals();
    for (name, fewest) in fewest {
        let c = &totals[name];
        let moved = c.global_bytes_loaded + c.global_bytes_stored;
        let sectors = c.global_sectors_loaded + c.global_sectors_stored;
        println!("{name}: {moved} bytes, fewest {fewest}, {sectors} sectors of {}", c.ideal_sectors);
        assert!(moved as f64 <= 1.1 * fewest as f64, "{name}: {moved} bytes, fewest {fewest}");
        assert_eq!(c.bank_conflict_cycles, 0, "{name}");
    }
}

/// A GPU's minimum of NaN and a number is the number: an unknown pixel must not become the strongest edge.
#[test]
pub fn unknown_flow_is_unknown_on_both_devices() {
    let (h, w) = (5, 7);
    let mut unknown = data(&fields(1, h, w));
    unknown[2 * w + 3] = f32::NAN;
    let flow = Tensor::from_f32([1, 2, h, w], &unknown).unwrap();
    let maps = |flow: &Tensor| {
        let edges = motion_map::flow_edges_batch(flow, 3.0, DType::F32).unwrap();
        let scaled = motion_map::scaled_flow_batch(flow, 3.0, DType::F32).unwrap();
        [data(&edges), data(&scaled)].map(|map| map.iter().map(|x| x.is_nan()).collect::<Vec<bool>>())
    };
    for [edges, scaled] in [maps(&flow), on_gpu(|device| maps(&flow.to(device).unwrap()))] {
        for (i, unknown) in edges.into_iter().enumerate() {
            let (dy, dx) = ((i / w).abs_diff(2), (i % w).abs_diff(3));
            // Both of Sobel's kernels have the weight 0 in the middle.
            assert_eq!(unknown, dy <= 1 && dx <= 1 && [dy, dx] != [0, 0], "pixel {i}");
        }
        assert!(scaled.into_iter().enumerate().all(|(i, unknown)| unknown == (i == 2 * (2 * w + 3))));
    }
}
