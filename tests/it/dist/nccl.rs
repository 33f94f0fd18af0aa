//! Ranks on GPUs, with functions in NCCL's place that move bytes between simulated devices: they are as late as NCCL may be,
//! and write down each call.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tubelet::dist::nccl::{Code, IN_PROGRESS, Library, SUCCESS, UniqueId};
use tubelet::dist::{Collective, Nccl, Patience, sum, threads};
use tubelet::driver::Gpu;
use tubelet::error::Result;
use tubelet::tensor::{DType, Device, Tensor};

use crate::support::numbers::{bits, noise};
use crate::support::sim::Sim;
use ptxsim::Order;

/// `ncclRemoteError`.
const REMOTE_ERROR: Code = 6;

/// What one rank has sent to another, and that has not been received.
type Messages = VecDeque<Vec<u8>>;

/// What connects the ranks.
#[derive(Default)]
struct Network {
    /// Messages under way, by sender and receiver.
    mail: Mutex<BTreeMap<(usize, usize), Messages>>,
    /// The ranks that are connected.
    connected: Mutex<usize>,
    /// What the next question about a communicator is answered with.
    broken: Mutex<Option<Code>>,
    /// The calls of each rank.
    log: Mutex<BTreeMap<usize, Vec<String>>>,
}

impl Network {
    fn calls(&self, rank: usize) -> Vec<String> {
        self.log.lock().unwrap().get(&rank).cloned().unwrap_or_default()
    }
}

/// NCCL as one rank sees it.
struct Fake {
    rank: usize,
    size: usize,
    gpu: Gpu,
    network: Arc<Network>,
    /// Address, bytes and sender of what is to be received.
    expected: Mutex<Vec<(u64, usize, usize)>>,
    release: Code,
}

impl Fake {
    fn note(&self, call: String) {
        self.network.log.lock().unwrap().entry(self.rank).or_default().push(call);
    }

    fn post(&self, from: u64, bytes: usize, to: usize) {
        let mut message = vec![0; bytes];
        // SAFETY: the address is that of a live tensor of this many bytes.
        unsafe { self.gpu.raw_driver() }.download(from, &mut message).unwrap();
        self.network.mail.lock().unwrap().entry((self.rank, to)).or_default().push_back(message);
    }

    fn on(&self, stream: u64) -> &'static str {
        // SAFETY: only asks for a number.
        if stream == unsafe { self.gpu.raw_driver() }.stream() { "own stream" } else { "another stream" }
    }
}

impl Library for Fake {
    fn version(&self) -> Result<Code, Code> {
        Ok(self.release)
    }

    fn unique_id(&self) -> Result<UniqueId, Code> {
        self.note("id".into());
        Ok([7; 128])
    }

    fn init(&self, ranks: usize, id: &UniqueId, rank: usize) -> (u64, Code) {
        assert_eq!((ranks, *id, rank), (self.size, [7; 128], self.rank));
        self.note("init".into());
        *self.network.connected.lock().unwrap() += 1;
        (100 + rank as u64, IN_PROGRESS)
    }

    fn state(&self, comm: u64) -> Code {
        assert_eq!(comm, 100 + self.rank as u64);
        if let Some(code) = *self.network.broken.lock().unwrap() {
            return code;
        }
        let mut mail = self.network.mail.lock().unwrap();
        self.expected.lock().unwrap().retain(|(to, bytes, peer)| {
            let Some(message) = mail.get_mut(&(*peer, self.rank)).and_then(VecDeque::pop_front) else { return true };
            let bytes = message.len().min(*bytes);
            // SAFETY: the address is that of a live tensor of this many bytes.
            unsafe { self.gpu.raw_driver() }.upload(*to, &message[..bytes]).unwrap();
            false
        });
        let connected = *self.network.connected.lock().unwrap() == self.size;
        if connected && self.expected.lock().unwrap().is_empty() { SUCCESS } else { IN_PROGRESS }
    }

    fn group_start(&self) -> Code {
        self.note("group".into());
        SUCCESS
    }

    fn group_end(&self) -> Code {
        self.note("end".into());
        IN_PROGRESS
    }

    fn send(&self, from: u64, bytes: usize, peer: usize, _: u64, stream: u64) -> Code {
        self.note(format!("send {bytes} to {peer}, {}", self.on(stream)));
        self.post(from, bytes, peer);
        SUCCESS
    }

    fn receive(&self, to: u64, bytes: usize, peer: usize, _: u64, stream: u64) -> Code {
        self.note(format!("receive {bytes} from {peer}, {}", self.on(stream)));
        self.expected.lock().unwrap().push((to, bytes, peer));
        SUCCESS
    }

    fn all_gather(&self, from: u64, to: u64, bytes: usize, _: u64, stream: u64) -> Code {
        self.note(format!("gather {bytes}, {}", self.on(stream)));
        for peer in (0..self.size).filter(|peer| *peer != self.rank) {
            self.post(from, bytes, peer);
            self.expected.lock().unwrap().push((to + (peer * bytes) as u64, bytes, peer));
        }
        // SAFETY: both are addresses of live tensors of this many bytes.
        unsafe { self.gpu.raw_driver() }.copy(to + (self.rank * bytes) as u64, from, bytes).unwrap();
        IN_PROGRESS
    }

    fn finalize(&self, _: u64) -> Code {
        self.note("finalize".into());
        IN_PROGRESS
    }

    fn destroy(&self, _: u64) -> Code {
        self.note("destroy".into());
        SUCCESS
    }

    fn abort(&self, _: u64) -> Code {
        self.note("abort".into());
        SUCCESS
    }

    fn words(&self, code: Code) -> String {
        format!("code {code} in words")
    }
}

/// Runs `work` on a thread for each of `gpus`, connected by NCCL.
fn ranks<T: Send>(gpus: &[Gpu], work: impl Fn(Nccl, &Network) -> T + Sync) -> (Vec<Result<T>>, Arc<Network>) {
    connected(gpus, &[22_105; 4], work)
}

fn connected<T: Send>(
    gpus: &[Gpu],
    releases: &[Code],
    work: impl Fn(Nccl, &Network) -> T + Sync,
) -> (Vec<Result<T>>, Arc<Network>) {
    let network = Arc::new(Network::default());
    let size = gpus.len();
    let one = |base: threads::Thread| {
        let (rank, network) = (base.rank(), network.clone());
        let gpu = gpus[rank].clone();
        let expected = Mutex::default();
        let fake = Fake { rank, size, gpu, network: network.clone(), expected, release: releases[rank] };
        let patience = Patience { step: Duration::from_secs(20), ..Patience::default() };
        let nccl = Nccl::over(Box::new(fake), Arc::new(base), &gpus[rank], patience)?;
        Ok(work(nccl, &network))
    };
    let done = std::thread::scope(|scope| {
        let one = &one;
        let running: Vec<_> = threads::ranks(size).into_iter().map(|base| scope.spawn(move || one(base))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    (done, network)
}

fn simulated(size: usize) -> Vec<Gpu> {
    (0..size).map(|_| Sim::new(Order::Forward).gpu).collect()
}

/// What ranks exchange, as bits.
fn exchange(ranks: &dyn Collective, device: &Device) -> Vec<Vec<u32>> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let mut seen = Vec::new();
    for row in [0, 1, 8, 257] {
        for dtype in [DType::F32, DType::BF16] {
            let rows = noise(rank as u64, &[size, row]).cast(dtype).unwrap().to(device).unwrap();
            let part = noise(10 + rank as u64, &[row]).cast(dtype).unwrap().to(device).unwrap();
            seen.push(bits(&ranks.all_to_all(&rows).unwrap()));
            seen.push(bits(&ranks.all_gather(&part).unwrap()));
        }
    }
    let gradients = [noise(rank as u64, &[31, 7]), noise(rank as u64 + 5, &[1000])].map(|t| t.to(device).unwrap());
    for wire in [sum::Wire::F32, sum::Wire::Bf16] {
        seen.extend(sum::over_ranks(ranks, &gradients, wire).unwrap().iter().map(bits));
    }
    let notes = ranks.share(&vec![rank as u8; rank]).unwrap();
    assert_eq!(notes, (0..size).map(|rank| vec![rank as u8; rank]).collect::<Vec<_>>());
    seen
}

/// Ranks on `gpus` exchange what ranks that are threads do.
fn law(gpus: &[Gpu]) {
    let on_cpu: Vec<(Vec<Vec<u32>>, u64)> = std::thread::scope(|scope| {
        let one = |rank: threads::Thread| (exchange(&rank, &Device::Cpu), rank.sent());
        let running: Vec<_> =
            threads::ranks(gpus.len()).into_iter().map(|rank| scope.spawn(move || one(rank))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (done, network) = ranks(gpus, |ranks, _| {
        let seen = exchange(&ranks, &Device::Cuda(gpus[ranks.rank()].clone()));
        let e = ranks.all_gather(&Tensor::zeros([3])).unwrap_err().to_string();
        assert!(e.starts_with("all_gather: `part` must be on "), "{e}");
        ranks.finish();
        (seen, ranks.sent())
    });
    for (rank, (got, want)) in done.into_iter().zip(on_cpu).enumerate() {
        assert!(got.unwrap() == want, "rank {rank} of {}", gpus.len());
        let calls = network.calls(rank);
        assert!(!calls.iter().any(|call| call.contains("another stream") || call == "abort"), "{calls:?}");
        assert_eq!(calls[calls.len() - 2..], ["finalize", "destroy"]);
    }
}

#[test]
fn ranks_on_gpus_exchange_what_threads_do() {
    law(&simulated(2));
    law(&simulated(3));
}

#[test]
fn nccl_is_called_in_groups_on_the_tensors_stream() {
    let gpus = simulated(3);
    let (_, network) = ranks(&gpus, |ranks, _| {
        let device = Device::Cuda(gpus[ranks.rank()].clone());
        ranks.all_to_all(&Tensor::zeros([3, 5]).to(&device).unwrap()).unwrap();
        ranks.all_gather(&Tensor::zeros([2]).to(&device).unwrap()).unwrap();
        ranks.finish();
    });
    let own = "own stream";
    let want = [
        "init".to_owned(),
        "group".into(),
        format!("send 20 to 2, {own}"),
        format!("receive 20 from 2, {own}"),
        format!("send 20 to 0, {own}"),
        format!("receive 20 from 0, {own}"),
        "end".into(),
        format!("gather 8, {own}"),
        "finalize".into(),
        "destroy".into(),
    ];
    assert_eq!(network.calls(1), want);
    assert_eq!(network.calls(0)[..2], ["id", "init"]);
}

/// Waits until `rank` has made a call.
fn wait_for(network: &Network, rank: usize, call: &str) {
    let start = Instant::now();
    while !network.calls(rank).iter().any(|made| made == call) {
        assert!(start.elapsed() < Duration::from_secs(10), "rank {rank} does not {call}: {:?}", network.calls(rank));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_rank_that_ends_leaves_nobody_waiting() {
    let gpus = simulated(2);
    // The other waits in a call, or in its own work, of which NCCL's is a part.
    for waits_in_call in [true, false] {
        let (done, _) = ranks(&gpus, |ranks, network| {
            ranks.share(b"").unwrap(); // both are connected
            if ranks.rank() == 1 {
                return ranks.fail("the disk is full");
            }
            let row = Tensor::zeros([2, 4]).to(&Device::Cuda(gpus[0].clone())).unwrap();
            if !waits_in_call {
                wait_for(network, 0, "abort");
            }
            let said = ranks.all_to_all(&row).unwrap_err().to_string();
            assert_eq!(said, "rank 1 ended with an error: the disk is full");
            assert_eq!(ranks.check().unwrap_err().to_string(), said);
            assert_eq!(ranks.share(b"").unwrap_err().to_string(), said);
            wait_for(network, 0, "abort");
        });
        assert!(done.iter().all(Result::is_ok));
    }
}

#[test]
fn an_error_of_nccl_is_a_sentence() {
    let gpus = simulated(2);
    let (done, network) = ranks(&gpus, |ranks, network| {
        ranks.share(b"").unwrap();
        *network.broken.lock().unwrap() = Some(REMOTE_ERROR);
        let row = Tensor::zeros([2, 4]).to(&Device::Cuda(gpus[ranks.rank()].clone())).unwrap();
        ranks.all_to_all(&row).unwrap_err().to_string()
    });
    for (rank, said) in done.into_iter().enumerate() {
        let said = said.unwrap();
        assert!(said.starts_with("NCCL cannot ") && said.ends_with(": code 6 in words"), "{said}");
        assert!(network.calls(rank).contains(&"abort".to_owned()));
    }
}

#[test]
fn ranks_that_exchange_other_tensors_are_out_of_step() {
    let gpus = simulated(2);
    let (done, _) = ranks(&gpus, |ranks, _| {
        let part = Tensor::zeros([3 + ranks.rank()]).to(&Device::Cuda(gpus[ranks.rank()].clone())).unwrap();
        ranks.all_gather(&part).unwrap();
        let said = ranks.share(b"").unwrap_err().to_string();
        assert!(said.contains("is out of step: it has exchanged other tensors than rank"), "{said}");
    });
    assert!(done.iter().all(Result::is_ok));
}

#[test]
fn ranks_of_other_releases_are_refused() {
    let (done, _) = connected(&simulated(2), &[22_105, 21_805], |_, _| ());
    for said in done {
        let said = said.err().unwrap().to_string();
        assert!(said.starts_with("rank 0 has NCCL 2.21.5, and rank 1 NCCL 2.18.5"), "{said}");
    }
}

/// On a driver with two devices, whose streams have handles and do nothing until somebody waits.
pub fn on_a_driver() {
    let [first, second] = [0, 1].map(|ordinal| Gpu::cuda(ordinal).unwrap());
    law(&[first.clone(), second.clone()]);
    // A stream beside that of the connection has its own work.
    let gpus = [first.clone(), second];
    let (_, network) = ranks(&gpus, |ranks, _| {
        let gpu = &gpus[ranks.rank()];
        let fork = gpu.fork().unwrap();
        let part = noise(1, &[2]).to(&Device::Cuda(fork.clone())).unwrap();
        // What stands in NCCL's place moves bytes in the connection's stream, and NCCL in that of the tensor.
        fork.synchronize().unwrap();
        let all = ranks.all_gather(&part).unwrap();
        gpu.synchronize().unwrap();
        assert_eq!(bits(&all.part(0, [2]).unwrap()), bits(&part));
        ranks.finish();
    });
    assert!(network.calls(0).contains(&"gather 8, another stream".to_owned()), "{:?}", network.calls(0));
    let (done, _) = ranks(&[first.clone(), first], |_, _| ());
    for said in done {
        let said = said.err().unwrap().to_string();
        assert!(said.starts_with("ranks 0 and 1 are both on GPU 0000:01:00 of "), "{said}");
    }
}
