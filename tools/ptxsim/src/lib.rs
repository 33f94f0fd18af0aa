//! Runs PTX on the CPU and faults on what a GPU would let pass.
//!
//! A [`Machine`] is a device with memory of its own. It loads the PTX that ships, unchanged, and launches its kernels: a warp
//! at a time, 32 lanes per decoded instruction, lanes free to diverge. It is meant for tests, so that whatever is wrong is a
//! [`Fault`] that names the kernel, the line, the block, the warp and the lane:
//!
//! * accesses outside the regions a launch was given, misaligned ones, and stores through regions given for reading;
//! * reads of memory never written, and addresses, branches and stored values that come from registers never written;
//! * races: between warps with no barrier between them, between blocks, between lanes of one store, and with `cp.async` that
//!   was not waited for (such copies land at their wait, never before);
//! * barriers and warp-wide instructions that not all threads reach which they name, deadlocks, and loops without end;
//! * outputs that were not filled.
//!
//! An opcode or modifier it does not know is a [`ParseError`] with its line, never skipped. Warps and blocks run in a chosen
//! [`Order`]; a right kernel gives the same bits in all of them. [`Counters`] say what a launch did: instructions, sectors of
//! global memory, conflicts of shared memory banks.
//!
//! Arithmetic is exact to the bit where PTX defines it. Approximate instructions are rounded correctly instead; [`accuracy`]
//! says how far a GPU may be from that.
//!
//! Not here: the asynchronous machinery of sm_90 (TMA, `mbarrier`, `wgmma`, clusters) and calls of functions. The former would
//! be a module beside `exec::copy`, with its barriers in shared memory and warps that wait for them in `exec::Block::run`.
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
mod counters;
mod decode;
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
mod types;

pub use counters::{CLASSES, Class, Counters};
pub use fault::{Fault, ParseError, Site};
pub use machine::{Access, Config, Launch, Machine, Order, Param, Region};
pub use module::{Entry, Module, ParamType};
pub use types::{Space, Type};
