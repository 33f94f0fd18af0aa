//! Streams, events and graphs.

use super::{CONTEXT, CURRENT, code, give, in_stream, inside, outside_of_graphs};
use crate::device::{DEFAULT_STREAM, device};
use crate::work::{Event, Stream, Work};
use crate::{CAPTURE_UNSUPPORTED, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, NOT_READY};
use std::ffi::{c_int, c_uint};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(to: *mut usize, _flags: c_uint) -> c_int {
    inside("cuStreamCreate", |d| {
        let handle = d.handle();
        d.streams.insert(handle, Stream::default());
        unsafe { give(to, handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamDestroy_v2(stream: usize) -> c_int {
    inside("cuStreamDestroy_v2", |d| {
        // A driver lets the work go on; here it is done now.
        d.finish(stream)?;
        d.streams.remove(&stream).map(drop).ok_or(INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamSynchronize(stream: usize) -> c_int {
    outside_of_graphs("cuStreamSynchronize", |d| d.finish(stream))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetCtx(stream: usize, to: *mut usize) -> c_int {
    // The default stream belongs to the context that is current.
    let needs_current = stream == DEFAULT_STREAM;
    let current = CURRENT.get();
    let known = device().streams.contains_key(&stream);
    code(match (known, needs_current && current == 0) {
        (false, _) => Err(INVALID_HANDLE),
        (_, true) => Err(INVALID_CONTEXT),
        _ => unsafe { give(to, CONTEXT) },
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) -> c_int {
    in_stream("cuStreamWaitEvent", stream, |d| {
        d.event(event)?;
        d.submit(stream, Work::Wait(event))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamBeginCapture_v2(stream: usize, _mode: c_int) -> c_int {
    outside_of_graphs("cuStreamBeginCapture_v2", |d| {
        if stream == DEFAULT_STREAM {
            return Err(CAPTURE_UNSUPPORTED);
        }
        d.stream(stream)?.captured = Some(Vec::new());
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut usize) -> c_int {
    inside("cuStreamEndCapture", |d| {
        let work = d.stream(stream)?.captured.take().ok_or(INVALID_VALUE)?;
        let handle = d.handle();
        d.graphs.insert(handle, work);
        unsafe { give(graph, handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetCaptureInfo_v2(stream: usize, status: *mut c_int) -> c_int {
    inside("cuStreamGetCaptureInfo_v2", |d| {
        let captured = d.stream(stream)?.captured.is_some();
        unsafe { give(status, c_int::from(captured)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(to: *mut usize, graph: usize, _flags: u64) -> c_int {
    inside("cuGraphInstantiateWithFlags", |d| {
        let work = d.graphs.get(&graph).ok_or(INVALID_HANDLE)?.clone();
        let handle = d.handle();
        d.graphs.insert(handle, work);
        unsafe { give(to, handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(graph: usize, stream: usize) -> c_int {
    in_stream("cuGraphLaunch", stream, |d| {
        let work = d.graphs.get(&graph).ok_or(INVALID_HANDLE)?.clone();
        work.into_iter().try_for_each(|work| d.submit(stream, work))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(graph: usize) -> c_int {
    inside("cuGraphExecDestroy", |d| d.graphs.remove(&graph).map(drop).ok_or(INVALID_HANDLE))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: usize) -> c_int {
    inside("cuGraphDestroy", |d| d.graphs.remove(&graph).map(drop).ok_or(INVALID_HANDLE))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(to: *mut usize, _flags: c_uint) -> c_int {
    inside("cuEventCreate", |d| {
        let handle = d.handle();
        d.events.insert(handle, Event::default());
        unsafe { give(to, handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: usize) -> c_int {
    inside("cuEventDestroy_v2", |d| {
        let happens = d.event(event)?;
        happens.destroyed = true;
        if happens.pending.is_none() {
            d.events.remove(&event);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecord(event: usize, stream: usize) -> c_int {
    in_stream("cuEventRecord", stream, |d| {
        d.event(event)?;
        d.submit(stream, Work::Record(event))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventQuery(event: usize) -> c_int {
    inside("cuEventQuery", |d| if d.event(event)?.pending.is_some() { Err(NOT_READY) } else { Ok(()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventSynchronize(event: usize) -> c_int {
    inside("cuEventSynchronize", |d| {
        d.event(event)?;
        d.reach(event)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(to: *mut f32, from: usize, until: usize) -> c_int {
    inside("cuEventElapsedTime", |d| {
        if d.event(from)?.pending.is_some() || d.event(until)?.pending.is_some() {
            return Err(NOT_READY);
        }
        let instructions = d.event(until)?.at.saturating_sub(d.event(from)?.at);
        unsafe { give(to, (instructions as f64 * 1e-6) as f32) }
    })
}
