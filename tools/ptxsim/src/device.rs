//! What a device of a compute capability launches, and what it refuses before a block runs.
//!
//! The numbers are those of the table of compute capabilities in the CUDA C++ Programming Guide and of the PTX ISA.

use crate::fault::Fault;
use crate::machine::{Config, Launch, Param, Region};
use crate::module::{Entry, Module};
use crate::tensor_map::TensorMap;
use std::sync::atomic::Ordering::Relaxed;

/// Maximum threads per block, and blocks of a grid in y and z.
const MAX_THREADS: u32 = 1024;
const MAX_DEPTH: u32 = 64;
const MAX_ROWS: u32 = 65535;
/// Shared memory of a block, static and dynamic, without `cuFuncSetAttribute`. Static memory alone is never more.
pub(crate) const SHARED_BY_DEFAULT: u32 = 48 << 10;
/// Bytes of parameters that every driver passes.
const PARAMETERS_BY_DEFAULT: u32 = 4096;
/// Bytes of parameters from PTX ISA 8.1 (CUDA 12.1, driver 530) and sm_70 on.
const MAX_PARAMETERS: u32 = 32764;
/// Registers of each of the four partitions of a multiprocessor, among which the warps of a block are dealt out, and the unit
/// in which a warp is given them.
const REGISTERS: u32 = 16384;
const PARTITIONS: u32 = 4;
const REGISTER_UNIT: u32 = 256;
/// Registers per thread that can be addressed, rounded up to a multiple of 8.
const MAX_REGISTERS: u32 = 256;

/// Shared memory that a block may be granted, in bytes.
fn most_shared((major, minor): (u32, u32)) -> u32 {
    let kilobytes = match (major, minor) {
        (8, 0 | 7) => 163,
        (8, _) | (12, _) => 99,
        _ => 227,
    };
    kilobytes << 10
}

/// Bytes of parameters that an entry may have in a module of this `.version` and `.target`.
pub(crate) fn most_parameters(version: &str, target: &str) -> u32 {
    let number = |text: &str| text.parse().unwrap_or(0);
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    match (number(major), number(minor)) >= (8, 1) && architecture(target).0 >= 70 {
        true => MAX_PARAMETERS,
        false => PARAMETERS_BY_DEFAULT,
    }
}

/// `cuFuncSetAttribute` with `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(crate) fn grant(config: &Config, e: &Entry, bytes: u32) -> Result<(), Fault> {
    let (total, most) = (e.static_shared as u64 + bytes as u64, most_shared(config.capability));
    if total > most as u64 {
        let (major, minor) = config.capability;
        return Err(Fault::SharedMemory(format!(
            "{}: {total} bytes of shared memory are asked for where a block has at most {most} on compute capability {major}.{minor}",
            e.name
        )));
    }
    e.granted.store(bytes, Relaxed);
    Ok(())
}

/// Refuses a launch as the driver would.
pub(crate) fn check(config: &Config, m: &Module, e: &Entry, l: &Launch) -> Result<(), Fault> {
    target(config, m, e)?;
    geometry(e, l)?;
    shared(e, l)?;
    registers(config, e, l)?;
    overlaps(e, l)
}

/// The number of a target such as `sm_90a`, and whether it is for that architecture alone.
fn architecture(target: &str) -> (u32, bool) {
    let digits = target.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_alphabetic());
    (digits.parse().unwrap_or(0), target.ends_with('a'))
}

fn target(config: &Config, m: &Module, e: &Entry) -> Result<(), Fault> {
    let (needs, alone) = architecture(m.target());
    let (major, minor) = config.capability;
    let has = 10 * major + minor;
    if has < needs || (alone && has != needs) {
        let m =
            format!("{} is compiled for {}, and the device has compute capability {major}.{minor}", e.name, m.target());
        return Err(Fault::Unsupported(m));
    }
    Ok(())
}

/// Maximum blocks of a cluster that every device with clusters runs.
const MAX_CLUSTER: u32 = 8;

/// Fails unless the device runs clusters of this size, and the grid consists of them.
pub(crate) fn clusters(config: &Config, e: &Entry, l: &Launch, cluster: [u32; 3]) -> Result<(), Fault> {
    let bad = |m: String| Err(Fault::Geometry(format!("{}: {m}", e.name)));
    let all = cluster.iter().map(|&c| c as u64).product::<u64>();
    if all == 0 || all > MAX_CLUSTER.into() {
        return bad(format!("clusters of {cluster:?} blocks where 1 to {MAX_CLUSTER} are allowed"));
    }
    if e.cluster.is_some_and(|c| c != cluster) {
        return bad(format!("clusters of {cluster:?} blocks where {:?} are required", e.cluster));
    }
    if l.grid.iter().zip(cluster).any(|(g, c)| g % c != 0) {
        return bad(format!("a grid of {:?} blocks in clusters of {cluster:?}", l.grid));
    }
    if all > 1 && config.capability < (9, 0) {
        let (major, minor) = config.capability;
        let m = format!("{}: clusters of blocks, on compute capability {major}.{minor}", e.name);
        return Err(Fault::Unsupported(m));
    }
    Ok(())
}

/// Registers that each thread of a launch starts with: as reported, or as many as fit.
pub(crate) fn registers_per_thread(config: &Config, e: &Entry, l: &Launch) -> u32 {
    let warps = e.max_threads().unwrap_or(l.block.iter().product()).div_ceil(32);
    let most = PARTITIONS * REGISTERS / (warps.max(1) * 32) / 8 * 8;
    config.registers.get(&e.name).map_or(most.min(MAX_REGISTERS), |r| r.next_multiple_of(8))
}

fn geometry(e: &Entry, l: &Launch) -> Result<(), Fault> {
    let bad = |m: String| Err(Fault::Geometry(format!("{}: {m}", e.name)));
    let [x, y, z] = l.grid;
    if l.grid.contains(&0) || x > i32::MAX as u32 || y > MAX_ROWS || z > MAX_ROWS {
        return bad(format!(
            "a grid of {:?} blocks where each number is at least 1 and at most [{}, {MAX_ROWS}, {MAX_ROWS}]",
            l.grid,
            i32::MAX
        ));
    }
    let threads = l.block.iter().map(|&b| b as u64).product::<u64>();
    let most = e.max_threads().unwrap_or(MAX_THREADS).min(MAX_THREADS);
    if threads == 0 || threads > most as u64 {
        return bad(format!("blocks of {:?} threads where at least 1 and at most {most} are allowed", l.block));
    }
    if l.block[2] > MAX_DEPTH {
        return bad(format!("blocks of {:?} threads where z is at most {MAX_DEPTH}", l.block));
    }
    if e.exact_threads.is_some_and(|t| t != l.block) {
        return bad(format!("blocks of {:?} threads where {:?} are required", l.block, e.exact_threads));
    }
    Ok(())
}

fn shared(e: &Entry, l: &Launch) -> Result<(), Fault> {
    let allowed = e.granted.load(Relaxed).max(SHARED_BY_DEFAULT - e.static_shared);
    if l.shared > allowed {
        return Err(Fault::SharedMemory(format!(
            "{}: {} bytes of dynamic shared memory, besides {} static ones, where the function was granted {allowed}",
            e.name, l.shared, e.static_shared
        )));
    }
    Ok(())
}

fn registers(config: &Config, e: &Entry, l: &Launch) -> Result<(), Fault> {
    let Some(&registers) = config.registers.get(&e.name) else { return Ok(()) };
    let warps = l.block.iter().product::<u32>().div_ceil(32);
    let of_warp = (registers * 32).next_multiple_of(REGISTER_UNIT);
    if warps.div_ceil(PARTITIONS) * of_warp > REGISTERS {
        return Err(Fault::Registers(format!(
            "{}: {warps} warps of {registers} registers a thread do not fit into {PARTITIONS} times {REGISTERS} registers",
            e.name
        )));
    }
    Ok(())
}

/// Memory that is stored to must not be passed a second time: kernels assume that their pointers do not alias, and the
/// result of such a launch would depend on the order.
fn overlaps(e: &Entry, l: &Launch) -> Result<(), Fault> {
    let pointers = l.params.iter().filter_map(Param::region);
    let all: Vec<&Region> = pointers.chain(l.extra).filter(|r| r.bytes > 0).collect();
    for a in all.iter().filter(|r| r.access != crate::Access::Read) {
        let meets = |b: &&&Region| a.ptr < b.ptr + b.bytes && b.ptr < a.ptr + a.bytes && a != *b;
        if let Some(b) = all.iter().find(meets) {
            let m = format!(
                "{}: {:?} memory at {:#x} overlaps {:?} memory at {:#x}",
                e.name, a.access, a.ptr, b.access, b.ptr
            );
            return Err(Fault::Launch(m));
        }
    }
    Ok(())
}

/// Fails unless the tensor of a map lies in a region.
fn tensor(map: &[u8; 128], region: &Region) -> Result<(), String> {
    let Some(map) = TensorMap::decode(map) else { return Err("is no tensor map".into()) };
    let (end, last) = (map.address.checked_add(map.bytes()), region.ptr + region.bytes);
    if map.address < region.ptr || end.is_none_or(|e| e > last) {
        return Err(format!(
            "is a map of {} bytes at {:#x}, which are not in its region of {} bytes at {:#x}",
            map.bytes(),
            map.address,
            region.bytes,
            region.ptr
        ));
    }
    Ok(())
}

/// The bytes of all parameters, checked against the signature.
pub(crate) fn pack(e: &Entry, params: &[Param]) -> Result<Vec<u8>, Fault> {
    let bad = |m: String| Err(Fault::Launch(format!("{}: {m}", e.name)));
    if params.len() != e.params.len() {
        return bad(format!("{} parameters where the entry has {}", params.len(), e.params.len()));
    }
    let size = e.params.last().map_or(0, |p| p.offset + p.size);
    let mut out = vec![0; size as usize];
    for (i, (p, t)) in params.iter().zip(&e.params).enumerate() {
        let pointer;
        let bytes = match p {
            Param::Pointer(r) => {
                pointer = r.ptr.to_le_bytes();
                if t.size != 8 || t.ty.float() || t.array {
                    return bad(format!(
                        "parameter {i} is a pointer where the entry has {:?} of {} bytes",
                        t.ty, t.size
                    ));
                }
                &pointer[..]
            }
            Param::Bytes(b) => b,
            Param::TensorMap(map, region) => {
                tensor(map, region).map_err(|m| Fault::Launch(format!("{}: parameter {i} {m}", e.name)))?;
                if t.size == 128 && t.align < 64 {
                    return bad(format!("parameter {i} is a tensor map and aligned to {} bytes, not 64", t.align));
                }
                &map[..]
            }
        };
        if bytes.len() != t.size as usize {
            return bad(format!("parameter {i} has {} bytes where the entry has {}", bytes.len(), t.size));
        }
        out[t.offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    Ok(out)
}
