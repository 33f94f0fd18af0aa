//! A simulator that executes PTX on the CPU and detects errors that a GPU would not report.
//!
//! A [`Machine`] is a device with its own memory. It loads the PTX that is shipped, unchanged, and launches its
//! kernels: a warp at a time, 32 lanes per decoded instruction, with divergence. It is made for tests, so every error
//! is a [`Fault`] that names the kernel, the line, the block, the warp and the lane:
//!
//! * accesses outside the regions of a launch, misaligned accesses, and stores to read-only regions;
//! * reads of memory that was never written, and addresses, branches and stored values that come from registers that were
//!   never written;
//! * races: between warps without a barrier between them, between blocks, between lanes of one store, and with a `cp.async`
//!   that was not waited for (such copies become visible at their wait, never before);
//! * on sm_90: uses of what TMA or `wgmma` reads or writes before their mbarrier or group was waited for, stores that the async
//!   proxy does not see for want of a proxy fence, registers of a `wgmma` in flight, wrong uses of mbarriers, blocks of a
//!   cluster that touch each other before one has begun or after it may have ended;
//! * barriers and warp-wide instructions that not all of their participating threads reach, deadlocks, and endless loops;
//! * outputs that were not filled;
//! * launches that a driver refuses: grids and blocks, shared memory that was not granted, registers, sizes of parameters.
//!
//! An opcode or modifier that is not supported is a [`ParseError`] with its line, and never skipped. Warps and blocks
//! run in a given [`Order`]; a correct kernel gives the same bits in all of them. [`Counters`] report what a launch
//! did: instructions, sectors of global memory, bank conflicts of shared memory.
//!
//! Arithmetic is bit-exact where PTX defines it. Approximate instructions are correctly rounded instead; [`accuracy`]
//! says by how much a GPU may differ. PTX leaves open how tensor cores add; [`Sums`] has two ways.
//!
//! Asynchronous instructions of sm_90 do their work at once; *who* may use the result is decided by clocks (`shared::exact`).
//! So most mistakes are found in any order of the warps. Not found are: accumulators that were only read, or overwritten with the
//! value that they had, between a `wgmma` and the next one without `wgmma.fence`; and global memory that a launch stores
//! and then loads by TMA without a proxy fence. A tensor map is opaque ([`Machine::tensor_map`]); NVIDIA's is not documented.
//!
//! Not supported are function calls, `wgmma` with other types than bf16 and f16 and sums in f32, im2col stores, reductions by
//! bulk copies, `st.async`, multimem, and windows of tensors whose rows are shorter than their swizzle.
//!
//! ```
//! use ptxsim::*;
//! let ptx = ".version 8.4\n.target sm_80\n.address_size 64\n.visible .entry one(.param .u64 p) {
//!   .reg .b32 %r<2>; .reg .b64 %rd<3>;
//!   ld.param.u64 %rd1, [p]; cvta.to.global.u64 %rd2, %rd1;
//!   mov.u32 %r1, 7; st.global.u32 [%rd2], %r1; ret;
//! }";
//! let machine = Machine::new(Config::default());
//! let module = machine.load(ptx)?;
//! let out = machine.alloc(4)?;
//! let params = [Param::Pointer(Region { ptr: out, bytes: 4, access: Access::Write })];
//! machine.launch(&module, "one", &Launch { grid: [1; 3], block: [1; 3], shared: 0, params: &params, extra: &[] })?;
//! let mut value = [0; 4];
//! machine.read(out, &mut value)?;
//! assert_eq!(u32::from_le_bytes(value), 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod accuracy;
mod asynchronous;
mod counters;
mod decode;
mod device;
mod exec;
mod fault;
mod ins;
mod lane;
mod lex;
mod machine;
mod memory;
mod module;
mod parse;
mod requests;
mod shared;
mod syntax;
pub mod tensor_map;
mod types;

pub use counters::{CLASSES, Class, Counters};
pub use fault::{Fault, ParseError, Site};
pub use machine::{Access, Config, Launch, Machine, Order, Param, Region, Sums, Swizzled};
pub use module::{Entry, Module, ParamType};
pub use tensor_map::{Element, Fill, Swizzle, TensorMap, Window};
pub use types::{Space, Type};
