//! Gradients are exchanged while others are being computed, as a timeline shows; and how many bytes a step sends.

use super::law;
use crate::support::numbers::{bits, noise};
use crate::training::{maclr, mcl};
use serde_json::Value;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tubelet::dist::sum::{BUCKET, InOrder, Overlapped, Wire};
use tubelet::dist::{Collective, Ordered, Spans};
use tubelet::driver::Gpu;
use tubelet::nn::{Params, Role};
use tubelet::ssl::Division;
use tubelet::ssl::maclr::{CrossPositive, Maclr};
use tubelet::ssl::traffic::Traffic;
use tubelet::tensor::Device;
use tubelet::train::maclr::Recipe;
use tubelet::train::trace::Trace;

/// A backward pass that does not end before the first exchange has ended: where exchanges begin after it, a test fails.
struct Patient {
    trace: Arc<Trace>,
    exchanged: Mutex<bool>,
    changed: Condvar,
}

impl Spans for Patient {
    fn begin(&self, name: &str) {
        if name == "backward" {
            *self.exchanged.lock().unwrap() = false;
        }
        self.trace.begin(name);
    }

    fn end(&self, name: &str) {
        if name == "backward" {
            let exchanged = self.exchanged.lock().unwrap();
            let waited = self.changed.wait_timeout_while(exchanged, Duration::from_secs(60), |done| !*done).unwrap();
            assert!(!waited.1.timed_out(), "no exchange was made during the backward pass");
        }
        self.trace.end(name);
        if name == "exchange 0" {
            *self.exchanged.lock().unwrap() = true;
            self.changed.notify_all();
        }
    }
}

#[test]
fn a_timeline_shows_exchanges_within_the_backward_pass() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.json");
    law::on_ranks(2, |ranks| {
        let trace = Arc::new(Trace::new(&*ranks).unwrap());
        trace.record(true);
        let spans = Patient { trace: trace.clone(), exchanged: Mutex::new(false), changed: Condvar::new() };
        let division = Division::new(ranks.clone(), 1, Wire::F32).unwrap();
        let left = law::maclr_run(&maclr::method(), &division.with_bucket(100).with_spans(Arc::new(spans)));
        trace.record(false);
        trace.write(&*ranks, &file).unwrap();
        left
    });
    let trace: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |pid: usize, name: &str| -> Vec<[f64; 2]> {
        let of = |event: &&Value| event["pid"] == pid && event["name"] == name && event["ph"] == "X";
        let number = |event: &Value, key: &str| event[key].as_f64().unwrap();
        let all = events.iter().filter(of);
        all.map(|event| [number(event, "ts"), number(event, "ts") + number(event, "dur")]).collect()
    };
    for pid in [0, 1] {
        for part in ["keys", "forward", "backward", "wait for ranks", "update"] {
            assert_eq!(named(pid, part).len(), law::STEPS as usize, "{part}");
        }
        let (backward, exchanges) = (named(pid, "backward"), named(pid, "exchange 0"));
        assert_eq!(backward.len(), exchanges.len());
        for ([began, ended], [exchange, _]) in backward.into_iter().zip(exchanges) {
            assert!(exchange < ended && began < ended, "{exchange} is before {ended}");
        }
        let threads = |name: &str| {
            let of =
                |event: &&Value| event["name"] == "thread_name" && event["pid"] == pid && event["args"]["name"] == name;
            events.iter().filter(of).count()
        };
        assert_eq!([threads("exchange"), threads("compute")], [1, 1]);
    }
    assert!(events.iter().all(|event| event["name"] != "sample"), "nothing is loaded here");
}

/// On a driver with several streams: sums on GPUs are made on a stream of their own.
pub fn on_a_driver() {
    let tensor = |rank: usize, n: usize| noise((10 * rank + n) as u64, &[n]);
    let sizes = [40, 70, 5, 300, 1];
    for (size, wire) in [(2, Wire::F32), (3, Wire::Bf16)] {
        let mut here = InOrder::default();
        for rank in 0..size {
            sizes.iter().enumerate().for_each(|(i, &n)| here.add(i, tensor(rank, n), wire).unwrap());
        }
        let want: Vec<Vec<u32>> = (0..sizes.len()).map(|i| bits(&here.take(i, wire).unwrap().unwrap())).collect();
        let got = law::on_ranks(size, |ranks| {
            let gpu = Gpu::cuda(0).unwrap();
            let device = Device::Cuda(gpu.clone());
            let ranks = Ordered::new(ranks).unwrap();
            let of_sums = || -> Vec<Vec<u32>> {
                let mut sums = Overlapped::new(&ranks, wire, 100, None);
                for n in sizes {
                    sums.add(tensor(ranks.rank(), n).to(&device).unwrap()).unwrap();
                }
                let sums = sums.finish().unwrap();
                // Back on the stream of the computation, which waits for the other one.
                assert!(sums.iter().all(|sum| sum.device() == device));
                sums.iter().map(bits).collect()
            };
            // The second time the stream is there already.
            let first = of_sums();
            let beside = gpu.usage_of_all_streams();
            assert!(beside.held > gpu.usage().held, "the other stream has memory of its own");
            (first, of_sums())
        });
        assert!(got.iter().all(|(first, second)| *first == want && *second == want), "{size} ranks, {wire:?}");
    }
}

/// Numbers of each parameter that is trained.
fn trained(params: &Params) -> Vec<usize> {
    params.iter().filter(|(_, p)| p.role.trains()).map(|(_, p)| p.value.shape().len()).collect()
}

/// Checks what each of `size` ranks sends in the steps of `run`, which returns how many numbers a report has.
fn assert_sent(size: usize, traffic: Traffic, whole: bool, run: impl Fn(&Division) -> law::Left + Sync) {
    let sent = law::on_ranks(size, |ranks| {
        let division = Division::new(ranks.clone(), 1, traffic.wire).unwrap().with_whole_statistics(whole).unwrap();
        let left = run(&division);
        let (_, report) = left.iter().find(|(name, _)| name == "report 0").unwrap();
        (report.len(), ranks.sent())
    });
    let reported = sent[0].0;
    let each = Traffic { ranks: size, videos: law::BATCH / size, reported, bucket: BUCKET, ..traffic }.sent();
    assert!(each.keys > 0 && each.report > 4);
    // Once in a run, the ranks compare the order of their gradients.
    let want = law::STEPS * each.total() + 8 * (size as u64 - 1);
    assert_eq!(sent, vec![(reported, want); size]);
}

#[test]
fn steps_send_the_bytes_of_the_formula() {
    let nothing = Traffic {
        ranks: 1,
        videos: 0,
        codes: Vec::new(),
        trained: Vec::new(),
        wire: Wire::F32,
        bucket: 0,
        reported: 0,
        normalised: [0, 0],
    };
    let recipe = maclr::recipe();
    let p = recipe.pathways(law::VIDEOS, 1, &Device::Cpu).unwrap();
    let networks = [Some(&p.visual), p.motion.as_ref()].into_iter().flatten();
    let trained_maclr: Vec<usize> = networks.clone().flat_map(|network| trained(network.query())).collect();
    let scales = networks.flat_map(|network| network.query().iter().filter(|(_, p)| p.role == Role::NormScale));
    let channels: usize = scales.map(|(_, p)| p.value.shape().len()).sum();
    for (symmetric, wire, size) in [(false, Wire::F32, 2), (true, Wire::Bf16, 3)] {
        let method = Maclr { symmetric, ..maclr::method() };
        // A code of each network and direction.
        let codes = vec![recipe.code; if symmetric { 4 } else { 2 }];
        let traffic = Traffic { codes, trained: trained_maclr.clone(), wire, ..nothing.clone() };
        assert_sent(size, traffic.clone(), false, |division| law::maclr_run(&method, division));
        // Queries and keys have the statistics of all ranks; gradients are of the queries. Symmetric, all of it twice.
        let times = if symmetric { 2 } else { 1 };
        let traffic = Traffic { normalised: [2 * times * channels, times * channels], ..traffic };
        assert_sent(size, traffic, true, |division| law::maclr_run(&method, division));
    }
    // With terms between time steps, each network has two codes of steps beside that of the clip, and a head for them.
    let method = Maclr { w_steps: 0.5, cross_positive: CrossPositive::SameClip, ..maclr::method() };
    let with_steps = Recipe { method: method.clone(), ..maclr::recipe() };
    let p = with_steps.pathways(law::VIDEOS, 1, &Device::Cpu).unwrap();
    let networks = [Some(&p.visual), p.motion.as_ref()].into_iter().flatten();
    let with_heads: Vec<usize> = networks.flat_map(|network| trained(network.query())).collect();
    assert!(with_heads.len() > trained_maclr.len());
    let traffic = Traffic { codes: vec![3 * recipe.code; 2], trained: with_heads, ..nothing.clone() };
    assert_sent(2, traffic, false, |division| law::maclr_run(&method, division));
    let recipe = mcl::recipe();
    let network = recipe.network(law::VIDEOS, 1, &Device::Cpu).unwrap().0;
    // Codes of three heads for each of three keys.
    let traffic = Traffic { codes: vec![recipe.heads.code; 9], trained: trained(network.query()), ..nothing };
    assert_sent(3, traffic, false, |division| law::mcl_run(&recipe.method, division));
}
