//! The flow of many videos with graphs of batches that come again: on the driver library of `tools/simcuda`, which refuses what
//! any thread submits while a stream is captured, and whose log counts captures and replays.

use super::host;
use super::tvl1::{brief, pair};
use tubelet::driver::Gpu;
use tubelet::flow::Gray;
use tubelet::ops::tvl1::{self, Flows, Lanes, Tvl1};
use tubelet::tensor::Device;
use tubelet::video::Pack;
use tubelet::video::cache::Builder;
use tubelet::video::pack::{PackSpec, Shard, shard};

use crate::video::cache::builder;
use crate::video::pack::{merge, pack_spec, splits};

/// Captures and replays in a test of `inside`.
fn graphs(name: &str) -> [usize; 2] {
    let ran = host::tests(&["--exact", &format!("device::flows::inside::{name}"), "--ignored"], &[]);
    ["cuStreamBeginCapture", "cuGraphLaunch"].map(|call| ran.count(call))
}

#[test]
fn batches_that_come_again_are_recorded_and_have_the_same_bits() {
    assert_eq!(graphs("videos_of_six_sizes"), [4, 4]);
}

#[test]
fn threads_share_recorded_flows() {
    let [captures, replays] = graphs("two_threads");
    assert!(captures == 1 && replays >= 2, "{captures} captures and {replays} replays");
}

#[test]
fn flows_on_the_cpu_are_those_of_pairs() {
    let pairs = [(pair(20, 24, 0)), (pair(20, 24, 1))];
    let pairs: Vec<(&Gray, &Gray)> = pairs.iter().map(|(a, b)| (a, b)).collect();
    assert_eq!(Flows::new(&Device::Cpu, &brief()).of(&pairs).unwrap(), tvl1::flow_pairs(&pairs, &brief()).unwrap());
}

#[test]
fn a_packed_folder_is_made_by_two_streams_of_a_gpu() {
    let ran = host::tests(&["--exact", "device::flows::inside::packed", "--ignored"], &[]);
    assert!(ran.count("cuStreamCreate") >= 2 && ran.count("cuMemcpyDtoHAsync") > 0, "{}", ran.log);
}

#[test]
fn lanes_on_the_cpu_are_flows_of_pairs() {
    let pairs = [(pair(20, 24, 0)), (pair(20, 24, 1))];
    let pairs: Vec<(&Gray, &Gray)> = pairs.iter().map(|(a, b)| (a, b)).collect();
    let lanes = Lanes::new(&Device::Cpu, &brief()).unwrap();
    assert_eq!((lanes.of(&pairs).unwrap(), lanes.pairs()), (tvl1::flow_pairs(&pairs, &brief()).unwrap(), 1));
}

mod inside {
    use super::*;

    fn few() -> Tvl1 {
        Tvl1 { inner_iterations: 3, ..brief() }
    }

    /// A batch and a remainder.
    fn video(size: usize) -> Vec<(Gray, Gray)> {
        (0..tvl1::PAIRS + 2).map(|i| pair(5 + size, 7, 50 * size + i)).collect()
    }

    /// Of six sizes, four are recorded when they come a second time, and replayed when they come a third time.
    #[test]
    #[ignore = "run by batches_that_come_again_are_recorded_and_have_the_same_bits"]
    fn videos_of_six_sizes() {
        let (device, p) = (Device::Cuda(Gpu::cuda(0).unwrap()), few());
        let flows = Flows::new(&device, &p);
        let videos: Vec<Vec<(Gray, Gray)>> = (0..6).map(video).collect();
        for video in &videos {
            let pairs: Vec<(&Gray, &Gray)> = video.iter().map(|(a, b)| (a, b)).collect();
            let want = tvl1::flow_pairs_on(&device, &pairs, &p).unwrap();
            for round in 0..3 {
                assert!(flows.of(&pairs).unwrap() == want, "{} rows, round {round}", pairs[0].0.h());
            }
            let other = pair(20, 24, 0);
            assert!(flows.of(&[pairs[0], (&other.0, &other.1)]).unwrap_err().to_string().contains("all of"));
        }
    }

    #[test]
    #[ignore = "run by threads_share_recorded_flows"]
    fn two_threads() {
        let (device, p) = (Device::Cuda(Gpu::cuda(0).unwrap()), few());
        let video = |i: usize| (0..tvl1::PAIRS).map(|j| pair(6, 9, 50 * i + j)).collect::<Vec<(Gray, Gray)>>();
        let videos: Vec<Vec<(Gray, Gray)>> = (0..6).map(video).collect();
        let pairs: Vec<Vec<(&Gray, &Gray)>> = videos.iter().map(|v| v.iter().map(|(a, b)| (a, b)).collect()).collect();
        let want: Vec<_> = pairs.iter().map(|pairs| tvl1::flow_pairs_on(&device, pairs, &p).unwrap()).collect();
        let flows = Flows::new(&device, &p);
        std::thread::scope(|scope| {
            for first in [0, 1] {
                let (flows, pairs, want) = (&flows, &pairs, &want);
                scope.spawn(move || {
                    (first..6).step_by(2).for_each(|i| assert!(flows.of(&pairs[i]).unwrap() == want[i], "video {i}"));
                });
            }
        });
    }

    /// The flow of a packed folder that three threads made on two streams is that of `flow_pairs_on`, which meets the definition
    /// (`device::tvl1`), rounded to f16.
    #[test]
    #[ignore = "run by a_packed_folder_is_made_by_two_streams_of_a_gpu"]
    fn packed() {
        let dir = tempfile::tempdir().unwrap();
        let (device, p, splits) = (Device::Cuda(Gpu::cuda(0).unwrap()), few(), splits());
        let lanes = Lanes::new(&device, &p).unwrap();
        let flow = |pairs: &[(&Gray, &Gray)]| lanes.of(pairs);
        let with = Builder { flow: Some(&flow), pairs: 4, threads: 3, ..builder(&|_| {}) };
        let spec = PackSpec { gpu_flow: true, ..pack_spec() };
        let report = shard(dir.path(), &splits, &spec, Shard::new(0, 1).unwrap(), &with).unwrap();
        assert!(report.packed > 10 && report.gaps.is_empty(), "{report:?}");
        merge(dir.path()).unwrap();
        let (pack, motion) = (Pack::open(dir.path()).unwrap(), spec.cache.motion.unwrap());
        for i in 0..pack.index().len() {
            let view = pack.get(i).unwrap();
            let (h, w) = view.size();
            let grey = |t: usize| Gray::from_rgb(view.frame(t), h, w).unwrap();
            let starts = (0..view.fields()).map(|m| m * motion.every);
            let pairs: Vec<(Gray, Gray)> = starts.map(|t| (grey(t), grey(t + motion.gap))).collect();
            let pairs: Vec<(&Gray, &Gray)> = pairs.iter().map(|(a, b)| (a, b)).collect();
            assert_eq!(lanes.pairs(), tvl1::PAIRS);
            for (m, want) in tvl1::flow_pairs_on(&device, &pairs, &p).unwrap().iter().enumerate() {
                let got = view.flow_field(m);
                let rounded =
                    |plane: &[f32]| -> Vec<f32> { plane.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect() };
                assert!(got.u() == rounded(want.u()) && got.v() == rounded(want.v()), "video {i}, field {m}");
            }
        }
    }
}
