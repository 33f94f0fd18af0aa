//! Modules, their functions, and launches.
#![allow(clippy::too_many_arguments, reason = "the signatures of cuda.h")]

use super::{give, inside};
use crate::cubin;
use crate::device::{Function, grantable, setting};
use crate::work::{Kernel, Work};
use crate::{INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, JIT_COMPILER_NOT_FOUND, NOT_FOUND};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadDataEx(
    to: *mut usize,
    image: *const c_void,
    options: c_uint,
    names: *const c_int,
    values: *const *mut c_void,
) -> c_int {
    inside("cuModuleLoadDataEx", |d| {
        // SAFETY (of this block): the caller's image is a whole cubin, or a text that ends with a zero byte.
        let ptx = unsafe {
            if cubin::is_elf(image.cast()) {
                cubin::ptx_of(image.cast())?
            } else if setting("SIMCUDA_PTX_COMPILER", 1) == 0 {
                return Err(JIT_COMPILER_NOT_FOUND);
            } else {
                CStr::from_ptr(image.cast()).to_str().map_err(|_| INVALID_PTX)?.to_owned()
            }
        };
        match d.machine.load(&ptx) {
            Ok(module) => {
                let handle = d.handle();
                d.modules.insert(handle, module);
                unsafe { give(to, handle) }
            }
            Err(error) => {
                let mut log = format!("{error}\0").into_bytes();
                // The log's buffer is option 5, its size option 6.
                let find = |option| (0..options as usize).find(|i| unsafe { *names.add(*i) } == option);
                if let (Some(buffer), Some(size)) = (find(5), find(6)) {
                    log.truncate(unsafe { *values.add(size) } as usize);
                    unsafe { (*values.add(buffer)).cast::<u8>().copy_from_nonoverlapping(log.as_ptr(), log.len()) };
                }
                Err(INVALID_PTX)
            }
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleUnload(module: usize) -> c_int {
    inside("cuModuleUnload", |d| d.modules.remove(&module).map(drop).ok_or(INVALID_HANDLE))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(to: *mut usize, module: usize, name: *const c_char) -> c_int {
    inside("cuModuleGetFunction", |d| {
        let module = d.modules.get(&module).ok_or(INVALID_HANDLE)?.clone();
        // SAFETY: the caller's name ends with a zero byte.
        let entry = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| NOT_FOUND)?.to_owned();
        module.entry(&entry).ok_or(NOT_FOUND)?;
        let handle = d.handle();
        d.functions.insert(handle, Function { module, entry, granted: 48 << 10 });
        unsafe { give(to, handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) -> c_int {
    inside("cuFuncSetAttribute", |d| {
        // 8: the most dynamic shared memory.
        if attribute != 8 || !(0..=grantable() as c_int).contains(&value) {
            return Err(INVALID_VALUE);
        }
        let f = d.functions.get_mut(&function).ok_or(INVALID_HANDLE)?;
        f.granted = value as u32;
        d.machine.grant_shared(&f.module, &f.entry, f.granted).map_err(|_| INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: usize,
    arguments: *const *const c_void,
    _extra: *const *const c_void,
) -> c_int {
    inside("cuLaunchKernel", |d| {
        let f = d.functions.get(&function).ok_or(INVALID_HANDLE)?;
        let entry = f.module.entry(&f.entry).ok_or(INVALID_HANDLE)?;
        // Without a grant, static and dynamic memory have 48 KiB together; a grant is of dynamic memory.
        if shared > f.granted && shared + entry.static_shared() > 48 << 10 {
            return Err(INVALID_VALUE);
        }
        let read = |(i, size): (usize, u32)| {
            // SAFETY: the caller passes an address for each parameter, of as many bytes as the parameter has.
            unsafe { std::slice::from_raw_parts((*arguments.add(i)).cast::<u8>(), size as usize) }.to_vec()
        };
        let params = entry.params().iter().map(|p| p.size).enumerate().map(read).collect();
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let kernel = Kernel { module: f.module.clone(), entry: f.entry.clone(), grid, block, shared, params };
        d.note(format_args!("launch {} {grid:?} {block:?} {shared} in {stream:#x}", kernel.entry));
        d.submit(stream, Work::Launch(kernel))
    })
}
