//! Memory of the device and page-locked memory, and copies.

use super::{give, in_stream, inside, outside_of_graphs};
use crate::device::{DEFAULT_STREAM, Device, device};
use crate::work::{Source, Work};
use crate::{Answer, CAPTURE_UNSUPPORTED, INVALID_VALUE, OUT_OF_MEMORY};
use std::alloc::Layout;
use std::ffi::{c_int, c_uint, c_void};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    inside("cuMemGetInfo_v2", |d| {
        let used: u64 = d.allocations.values().sum();
        unsafe { give(free, d.left as usize).and_then(|()| give(total, (d.left + used) as usize)) }
    })
}

fn alloc(d: &mut Device, to: *mut u64, bytes: usize) -> Answer {
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    d.left = d.left.checked_sub(bytes as u64).ok_or(OUT_OF_MEMORY)?;
    let at = d.allocate(bytes as u64).ok_or(OUT_OF_MEMORY)?;
    d.allocations.insert(at, bytes as u64);
    d.note(format_args!("allocated {bytes}"));
    unsafe { give(to, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(to: *mut u64, bytes: usize, stream: usize) -> c_int {
    outside_of_graphs("cuMemAllocAsync", |d| {
        d.stream(stream)?;
        alloc(d, to, bytes)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(to: *mut u64, bytes: usize) -> c_int {
    outside_of_graphs("cuMemAlloc_v2", |d| alloc(d, to, bytes))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeAsync(at: u64, stream: usize) -> c_int {
    inside("cuMemFreeAsync", |d| {
        d.allocations.get(&at).ok_or(INVALID_VALUE)?;
        d.submit(stream, Work::Free(at))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFree_v2(at: u64) -> c_int {
    outside_of_graphs("cuMemFree_v2", |d| {
        d.allocations.get(&at).ok_or(INVALID_VALUE)?;
        // It waits for the device.
        let streams: Vec<usize> = d.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| d.finish(stream))?;
        d.submit(DEFAULT_STREAM, Work::Free(at))?;
        d.finish(DEFAULT_STREAM)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(to: *mut usize, bytes: usize, _flags: c_uint) -> c_int {
    outside_of_graphs("cuMemHostAlloc", |d| {
        let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| INVALID_VALUE)?;
        // SAFETY: the layout is not empty.
        let at = unsafe { std::alloc::alloc_zeroed(layout) } as usize;
        if at == 0 {
            return Err(OUT_OF_MEMORY);
        }
        d.page_locked.insert(at, layout.size());
        unsafe { give(to, at) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeHost(at: usize) -> c_int {
    inside("cuMemFreeHost", |d| {
        // Work that reads it is done first.
        let streams: Vec<usize> = d.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| d.finish(stream))?;
        let bytes = d.page_locked.remove(&at).ok_or(INVALID_VALUE)?;
        let layout = Layout::from_size_align(bytes, 4096).map_err(|_| INVALID_VALUE)?;
        // SAFETY: it came from `cuMemHostAlloc` with this layout, and was not freed before.
        unsafe { std::alloc::dealloc(at as *mut u8, layout) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) -> c_int {
    let at = from as usize;
    let pinned = device().is_page_locked(at, bytes);
    let name = if pinned { "cuMemcpyHtoDAsync_v2 (page-locked)" } else { "cuMemcpyHtoDAsync_v2 (pageable)" };
    in_stream(name, stream, |d| {
        d.spans(to, bytes)?;
        let source = if pinned {
            Source::PageLocked(at)
        } else {
            if d.stream(stream)?.captured.is_some() {
                return Err(CAPTURE_UNSUPPORTED);
            }
            // SAFETY: the caller's source has that many bytes.
            Source::Taken(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec())
        };
        d.submit(stream, Work::Upload { to, source, bytes })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) -> c_int {
    outside_of_graphs(&format!("cuMemcpyDtoHAsync_v2 in {stream:#x}"), |d| {
        d.spans(from, bytes)?;
        d.finish(stream)?;
        // SAFETY: the caller's target has that many bytes.
        let target = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
        if !d.executes {
            target.fill(0);
            return Ok(());
        }
        d.machine.read(from, target).map_err(|fault| d.failed(&fault))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> c_int {
    in_stream("cuMemcpyDtoDAsync_v2", stream, |d| {
        d.spans(to, bytes)?;
        d.spans(from, bytes)?;
        d.submit(stream, Work::Copy { to, from, bytes })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(at: u64, byte: u8, bytes: usize, stream: usize) -> c_int {
    inside("cuMemsetD8Async", |d| {
        d.spans(at, bytes)?;
        d.submit(stream, Work::Clear { at, byte, bytes })
    })
}
