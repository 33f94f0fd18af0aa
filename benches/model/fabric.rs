//! What exchanges between GPUs take. Each number is from a data sheet, from NCCL's own model, or assumed; none was measured.

use super::device::Device;
use tubelet::dist::sum::Wire;

/// GPUs of a node, which NVLink connects.
const NODE: usize = 8;
/// Bytes per second that a GPU sends by NVLink: 0.8 [assumed] of the 450 GB/s of each direction [data sheet: 900 GB/s both].
const NVLINK: f64 = 0.8 * 450e9;
/// Bytes per second that a GPU sends to other nodes: 0.9 [assumed] of 400 Gb/s [data sheet of the adapter].
const NETWORK: f64 = 0.9 * 50e9;
/// A protocol of NCCL for rings, with the latencies of its model (`src/graph/tuning.cc`, `baseLat` and `hwLat`), in seconds, and
/// the share of the bandwidth that is left for data.
struct Protocol {
    start: f64,
    by_nvlink: f64,
    by_network: f64,
    share: f64,
}
const PROTOCOLS: [Protocol; 2] = [
    Protocol { start: 3.6e-6, by_nvlink: 0.47e-6, by_network: 2.7e-6, share: 0.25 }, // LL
    Protocol { start: 8.4e-6, by_nvlink: 3.4e-6, by_network: 9.6e-6, share: 1.0 },   // Simple
];
/// Seconds that a message to one more rank takes in an all-to-all [assumed].
const MESSAGE: f64 = 1e-6;
/// Seconds of a note to one more rank, and of its answer, by TCP on the host: a few system calls each [assumed].
const NOTE: f64 = 10e-6;

/// The connections of so many GPUs.
#[derive(Clone, Copy)]
pub struct Fabric(pub usize);

impl Fabric {
    /// Seconds until everybody has `bytes` from each rank.
    pub fn all_gather(self, bytes: f64) -> f64 {
        let Fabric(ranks) = self;
        let nodes = ranks.div_ceil(NODE);
        let of = |p: &Protocol| {
            // A ring visits the GPUs of a node one after another, then the next node. Each byte enters a node once.
            let hops = p.start + (ranks - nodes) as f64 * p.by_nvlink + (nodes - 1) as f64 * p.by_network;
            let inside = bytes * (ranks - 1) as f64 / NVLINK;
            let outside = bytes * (nodes - 1) as f64 / NETWORK;
            hops + inside.max(outside) / p.share
        };
        PROTOCOLS.iter().map(of).fold(f64::INFINITY, f64::min)
    }

    /// Seconds until everybody has the `bytes` that each rank has for it.
    pub fn all_to_all(self, bytes: f64) -> f64 {
        let Fabric(ranks) = self;
        let inside = ranks.min(NODE) - 1;
        let outside = ranks - 1 - inside;
        let data = (bytes * inside as f64 / NVLINK).max(bytes * outside as f64 / NETWORK);
        PROTOCOLS[1].start + (ranks - 1) as f64 * MESSAGE + data
    }

    /// Seconds of a note to all.
    pub fn note(self) -> f64 {
        (self.0 - 1) as f64 * NOTE
    }

    /// Seconds of the sums of a bucket of f32 numbers: both exchanges, and the passes over memory that fill and empty it.
    pub fn sums(self, numbers: f64, wire: Wire, device: &Device) -> f64 {
        let each = numbers * wire.dtype().size() as f64 / self.0 as f64;
        // Packed and unpacked, read and written; the sum reads a row of each rank.
        let passes = 5.0 * 4.0 * numbers / device.hbm + 5.0 * (device.gap + device.latency);
        self.all_to_all(each) + self.all_gather(each) + passes
    }
}
