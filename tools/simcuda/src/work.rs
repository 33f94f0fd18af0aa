//! Streams and what was submitted to them.

use crate::device::Device;
use crate::{Answer, INVALID_HANDLE, LAUNCH_FAILED};
use ptxsim::{Access, Launch, Module, Param, Region};
use std::collections::VecDeque;
use std::sync::Arc;

/// Warp instructions that a launch counts for if it is not executed.
const TYPICAL: u64 = 10_000;

/// Work of a stream.
#[derive(Clone)]
pub enum Work {
    Launch(Kernel),
    Upload {
        to: u64,
        source: Source,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Clear {
        at: u64,
        byte: u8,
        bytes: usize,
    },
    Free(u64),
    /// The event happens.
    Record(usize),
    /// Later work waits for the event.
    Wait(usize),
}

/// Where an upload's bytes come from.
#[derive(Clone)]
pub enum Source {
    /// They were in pageable memory, and were read at once.
    Taken(Vec<u8>),
    /// They are in page-locked memory at this address, and are read when the work is done.
    PageLocked(usize),
}

/// A launch with its arguments as bytes.
#[derive(Clone)]
pub struct Kernel {
    pub module: Arc<Module>,
    pub entry: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub params: Vec<Vec<u8>>,
}

#[derive(Default)]
pub struct Stream {
    pub pending: VecDeque<Work>,
    /// Work submitted since capturing began.
    pub captured: Option<Vec<Work>>,
}

#[derive(Default)]
pub struct Event {
    /// The stream in which it is to happen, until it has.
    pub pending: Option<usize>,
    /// The clock when it happened.
    pub at: u64,
    /// Whether its handle is gone: it still happens, for streams that wait for it.
    pub destroyed: bool,
}

impl Device {
    /// Gives work to a stream, or to the graph that it is captured into.
    pub fn submit(&mut self, stream: usize, work: Work) -> Answer {
        let target = self.stream(stream)?;
        match &mut target.captured {
            Some(captured) => captured.push(work),
            None => {
                target.pending.push_back(work.clone());
                if let Work::Record(event) = work {
                    self.event(event)?.pending = Some(stream);
                }
            }
        }
        Ok(())
    }

    /// Does everything that was submitted to a stream.
    pub fn finish(&mut self, stream: usize) -> Answer {
        while let Some(work) = self.stream(stream)?.pending.pop_front() {
            self.perform(work)?;
        }
        Ok(())
    }

    /// Does what precedes an event in its stream.
    pub fn reach(&mut self, event: usize) -> Answer {
        while let Some(stream) = self.events.get(&event).and_then(|event| event.pending) {
            let next = self.stream(stream)?.pending.pop_front().ok_or(INVALID_HANDLE)?;
            self.perform(next)?;
        }
        Ok(())
    }

    fn perform(&mut self, work: Work) -> Answer {
        let moves = matches!(work, Work::Upload { .. } | Work::Copy { .. } | Work::Clear { .. });
        if !self.executes && moves {
            return Ok(());
        }
        let done = match work {
            Work::Launch(_) if !self.executes => {
                self.clock += TYPICAL;
                Ok(())
            }
            Work::Launch(kernel) => return self.launch(&kernel),
            Work::Upload { to, source: Source::Taken(bytes), .. } => self.machine.write(to, &bytes),
            Work::Upload { to, source: Source::PageLocked(from), bytes } => {
                // SAFETY: the span lies in page-locked memory of `cuMemHostAlloc`; freeing that waits for this work.
                let source = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
                self.machine.write(to, source)
            }
            Work::Copy { to, from, bytes } => self.machine.copy(to, from, bytes as u64),
            Work::Clear { at, byte, bytes } => self.machine.fill(at, byte, bytes as u64),
            Work::Free(at) => {
                let bytes = self.allocations.remove(&at).unwrap_or(0);
                self.left += bytes;
                if self.executes { self.machine.free(at) } else { Ok(()) }
            }
            Work::Record(event) => {
                let now = self.clock;
                if let Some(event) = self.events.get_mut(&event) {
                    (event.pending, event.at) = (None, now);
                }
                if self.events.get(&event).is_some_and(|event| event.destroyed) {
                    self.events.remove(&event);
                }
                Ok(())
            }
            Work::Wait(event) => return self.reach(event),
        };
        done.map_err(|fault| self.failed(&fault))
    }

    /// Notes a fault, after which every call fails.
    pub fn failed(&mut self, fault: &ptxsim::Fault) -> i32 {
        self.note(format_args!("fault: {fault}"));
        eprintln!("simcuda: {fault}");
        self.fault = Some(LAUNCH_FAILED);
        LAUNCH_FAILED
    }

    fn launch(&mut self, kernel: &Kernel) -> Answer {
        // The memory of a tensor, if a parameter is a tensor map.
        let mapped = |param: &[u8]| -> Option<Region> {
            let (ptr, bytes) = *self.tensor_maps.get(<&[u8; 128]>::try_from(param).ok()?)?;
            Some(Region { ptr, bytes, access: Access::Read })
        };
        let words = kernel.params.iter().filter(|p| mapped(p).is_none()).flat_map(|p| p.chunks_exact(8));
        let mut starts: Vec<u64> = Vec::new();
        for at in words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())) {
            // The end of an allocation is no part of it, but pointers to empty spans may lie there.
            let before = self.allocations.range(..=at).next_back();
            if let Some((start, _)) = before.filter(|(start, bytes)| at < **start + **bytes) {
                starts.push(*start);
            }
        }
        starts.sort_unstable();
        starts.dedup();
        // Tensors of maps are read only, and the rest of an allocation may be stored to.
        let mut tensors: Vec<Region> = kernel.params.iter().filter_map(|p| mapped(p)).collect();
        tensors.sort_unstable_by_key(|region| region.ptr);
        let mut reached = Vec::new();
        for start in starts {
            let (mut at, end) = (start, start + self.allocations[&start]);
            for tensor in tensors.iter().filter(|t| (start..end).contains(&t.ptr)) {
                reached.push((at, tensor.ptr));
                at = at.max(tensor.ptr + tensor.bytes);
            }
            reached.push((at, end));
        }
        let rest = reached.into_iter().filter(|(at, end)| at < end);
        let reached: Vec<Region> =
            rest.map(|(ptr, end)| Region { ptr, bytes: end - ptr, access: Access::ReadWrite }).collect();
        let params: Vec<Param> = kernel
            .params
            .iter()
            .map(|p| match (mapped(p), <&[u8; 128]>::try_from(&p[..])) {
                (Some(region), Ok(map)) => Param::TensorMap(map, region),
                _ => Param::Bytes(p),
            })
            .collect();
        let launch =
            Launch { grid: kernel.grid, block: kernel.block, shared: kernel.shared, params: &params, extra: &reached };
        match self.machine.launch(&kernel.module, &kernel.entry, &launch) {
            Ok(counters) => {
                self.clock += counters.warp_instructions;
                Ok(())
            }
            Err(fault) => Err(self.failed(&fault)),
        }
    }
}
