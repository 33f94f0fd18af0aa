//! NCCL's functions, found when the program runs: nothing is linked.

use crate::dist::tcp::lost;
use crate::error::Result;
use libloading::Library as File;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

/// What a function of NCCL returns.
pub type Code = c_int;

/// `ncclSuccess`.
pub const SUCCESS: Code = 0;
/// `ncclInProgress`: a call of a communicator that does not block goes on.
pub const IN_PROGRESS: Code = 7;

/// `ncclUniqueId`: where the ranks of a communicator find each other.
pub type UniqueId = [u8; 128];

/// The oldest NCCL: communicators that do not block, and can be aborted while others wait for them (2.18).
pub const OLDEST: c_int = 21_800;

/// What ranks need of NCCL: its functions, whose communicators do not block, on addresses of device memory and streams. Lengths
/// are in bytes. Tests have another than [`Loaded`].
pub trait Library: Send + Sync {
    /// `ncclGetVersion`.
    fn version(&self) -> Result<c_int, Code>;

    /// `ncclGetUniqueId`.
    fn unique_id(&self) -> Result<UniqueId, Code>;

    /// `ncclCommInitRankConfig`: the communicator, and whether it is made already.
    fn init(&self, ranks: usize, id: &UniqueId, rank: usize) -> (u64, Code);

    /// `ncclCommGetAsyncError`.
    fn state(&self, comm: u64) -> Code;

    /// `ncclGroupStart`.
    fn group_start(&self) -> Code;

    /// `ncclGroupEnd`.
    fn group_end(&self) -> Code;

    /// `ncclSend`.
    fn send(&self, from: u64, bytes: usize, peer: usize, comm: u64, stream: u64) -> Code;

    /// `ncclRecv`.
    fn receive(&self, to: u64, bytes: usize, peer: usize, comm: u64, stream: u64) -> Code;

    /// `ncclAllGather`.
    fn all_gather(&self, from: u64, to: u64, bytes: usize, comm: u64, stream: u64) -> Code;

    /// `ncclCommFinalize`.
    fn finalize(&self, comm: u64) -> Code;

    /// `ncclCommDestroy`.
    fn destroy(&self, comm: u64) -> Code;

    /// `ncclCommAbort`.
    fn abort(&self, comm: u64) -> Code;

    /// What a code means, and what NCCL last said.
    fn words(&self, code: Code) -> String;
}

type Comm = *mut c_void;
type Stream = *mut c_void;

#[repr(C)]
struct Id(UniqueId);

/// `ncclConfig_t` as of NCCL 2.17; newer releases read as much as `size` says.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    /// Padding, in which a newer release has a setting.
    unused: c_int,
}

/// `NCCL_CONFIG_UNDEF_INT`: as NCCL likes.
const UNDEFINED: c_int = c_int::MIN;
/// `ncclUint8`.
const BYTES: c_int = 1;

/// Declares the table of functions, and how it is filled.
macro_rules! functions {
    ($($name:ident = $symbol:literal: fn($($of:ty),*) -> $result:ty;)*) => {
        /// NCCL's library.
        pub struct Loaded { $($name: unsafe extern "C" fn($($of),*) -> $result,)* }

        impl Loaded {
            fn find(file: &'static File) -> Result<Loaded, String> {
                // SAFETY: the symbols have these types since NCCL 2.14.
                unsafe {
                    Ok(Loaded { $($name: *file.get($symbol.as_bytes()).map_err(|_| format!("it lacks {}", $symbol))?,)* })
                }
            }
        }
    };
}

functions! {
    get_version = "ncclGetVersion": fn(*mut c_int) -> Code;
    get_unique_id = "ncclGetUniqueId": fn(*mut Id) -> Code;
    init_rank = "ncclCommInitRankConfig": fn(*mut Comm, c_int, Id, c_int, *mut Config) -> Code;
    async_error = "ncclCommGetAsyncError": fn(Comm, *mut Code) -> Code;
    start_group = "ncclGroupStart": fn() -> Code;
    end_group = "ncclGroupEnd": fn() -> Code;
    send_to = "ncclSend": fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> Code;
    receive_from = "ncclRecv": fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> Code;
    gather = "ncclAllGather": fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> Code;
    comm_finalize = "ncclCommFinalize": fn(Comm) -> Code;
    comm_destroy = "ncclCommDestroy": fn(Comm) -> Code;
    comm_abort = "ncclCommAbort": fn(Comm) -> Code;
    error_string = "ncclGetErrorString": fn(Code) -> *const c_char;
    last_error = "ncclGetLastError": fn(Comm) -> *const c_char;
}

impl Loaded {
    /// The library that `TUBELET_NCCL` names, or `libnccl.so.2`, or `libnccl.so`.
    ///
    /// # Errors
    /// `Peer` with what was tried.
    pub fn open() -> Result<Loaded> {
        Self::first(std::env::var("TUBELET_NCCL").ok().as_deref())
    }

    fn first(named: Option<&str>) -> Result<Loaded> {
        let mut tried = Vec::new();
        for name in named.into_iter().chain(["libnccl.so.2", "libnccl.so"]) {
            match Self::load(name) {
                Ok(library) => return Ok(library),
                Err(why) => tried.push(format!("{name} ({why})")),
            }
        }
        let how = "install NCCL 2.18 or newer, or name its file in TUBELET_NCCL";
        Err(lost(format!("ranks on GPUs need NCCL, and none was found: {}; {how}", tried.join(", "))))
    }

    fn load(name: &str) -> Result<Loaded, String> {
        // SAFETY: the initialisers of NCCL may run in any process that loads it.
        let file = unsafe { File::new(name) }.map_err(|e| e.to_string())?;
        // Never unloaded: NCCL has threads of its own.
        let library = Self::find(Box::leak(Box::new(file)))?;
        match library.version() {
            Ok(version) if version >= OLDEST => Ok(library),
            Ok(version) => Err(format!("it is of version {}, and 2.18 is needed", release(version))),
            Err(code) => Err(library.words(code)),
        }
    }
}

/// `2.21.5` of 22105.
pub fn release(version: c_int) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

fn text(words: *const c_char) -> String {
    if words.is_null() {
        return String::new();
    }
    // SAFETY: a C string of NCCL, which is valid until the next error of this thread.
    unsafe { CStr::from_ptr(words) }.to_string_lossy().trim().to_owned()
}

fn succeeded<T>(value: T, code: Code) -> Result<T, Code> {
    if code == SUCCESS { Ok(value) } else { Err(code) }
}

// SAFETY (of each call): the functions have these types; results go to locals; addresses are those of live tensors, and
// communicators and streams live, as `super::Nccl` sees to.
impl Library for Loaded {
    fn version(&self) -> Result<c_int, Code> {
        let mut version = 0;
        // SAFETY: as above.
        let code = unsafe { (self.get_version)(&mut version) };
        succeeded(version, code)
    }

    fn unique_id(&self) -> Result<UniqueId, Code> {
        let mut id = Id([0; 128]);
        // SAFETY: as above.
        let code = unsafe { (self.get_unique_id)(&mut id) };
        succeeded(id.0, code)
    }

    fn init(&self, ranks: usize, id: &UniqueId, rank: usize) -> (u64, Code) {
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 21_700,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: ptr::null(),
            split_share: UNDEFINED,
            unused: UNDEFINED,
        };
        let mut comm = ptr::null_mut();
        // SAFETY: as above; NCCL copies the settings before it returns.
        let code = unsafe { (self.init_rank)(&mut comm, ranks as c_int, Id(*id), rank as c_int, &mut config) };
        (comm as u64, code)
    }

    fn state(&self, comm: u64) -> Code {
        let mut state = SUCCESS;
        // SAFETY: as above.
        match unsafe { (self.async_error)(comm as Comm, &mut state) } {
            SUCCESS => state,
            code => code,
        }
    }

    fn group_start(&self) -> Code {
        // SAFETY: as above.
        unsafe { (self.start_group)() }
    }

    fn group_end(&self) -> Code {
        // SAFETY: as above.
        unsafe { (self.end_group)() }
    }

    fn send(&self, from: u64, bytes: usize, peer: usize, comm: u64, stream: u64) -> Code {
        // SAFETY: as above.
        unsafe { (self.send_to)(from as *const c_void, bytes, BYTES, peer as c_int, comm as Comm, stream as Stream) }
    }

    fn receive(&self, to: u64, bytes: usize, peer: usize, comm: u64, stream: u64) -> Code {
        // SAFETY: as above.
        unsafe { (self.receive_from)(to as *mut c_void, bytes, BYTES, peer as c_int, comm as Comm, stream as Stream) }
    }

    fn all_gather(&self, from: u64, to: u64, bytes: usize, comm: u64, stream: u64) -> Code {
        let (from, to) = (from as *const c_void, to as *mut c_void);
        // SAFETY: as above.
        unsafe { (self.gather)(from, to, bytes, BYTES, comm as Comm, stream as Stream) }
    }

    fn finalize(&self, comm: u64) -> Code {
        // SAFETY: as above.
        unsafe { (self.comm_finalize)(comm as Comm) }
    }

    fn destroy(&self, comm: u64) -> Code {
        // SAFETY: as above.
        unsafe { (self.comm_destroy)(comm as Comm) }
    }

    fn abort(&self, comm: u64) -> Code {
        // SAFETY: as above.
        unsafe { (self.comm_abort)(comm as Comm) }
    }

    fn words(&self, code: Code) -> String {
        // SAFETY: as above; without a communicator, NCCL tells the last error of the process.
        let (what, last) = unsafe { (text((self.error_string)(code)), text((self.last_error)(ptr::null_mut()))) };
        if last.is_empty() { format!("{what} (code {code})") } else { format!("{what} (code {code}): {last}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_is_named() {
        let Err(e) = Loaded::first(Some("/nowhere/libnccl.so")) else { return }; // a machine with NCCL
        let e = e.to_string();
        let names = ["/nowhere/libnccl.so (", "libnccl.so.2 (", "libnccl.so (", "TUBELET_NCCL"];
        assert!(names.iter().all(|name| e.contains(name)), "{e}");
    }

    #[test]
    fn a_library_that_is_not_nccl_is_refused() {
        let Err(why) = Loaded::load("libc.so.6") else { panic!("libc is no NCCL") };
        assert_eq!(why, "it lacks ncclGetVersion");
    }

    /// NCCL makes an id without a GPU, and says in words why it makes no communicator.
    #[test]
    fn nccl_itself_answers() {
        let Ok(name) = std::env::var("TUBELET_NCCL") else {
            eprintln!("TUBELET_NCCL names no library of NCCL, so none was asked");
            return;
        };
        let library = Loaded::load(&name).unwrap();
        let id = library.unique_id().unwrap();
        assert_ne!(id, [0; 128]);
        assert_eq!(library.group_start(), SUCCESS);
        assert_eq!(library.group_end(), SUCCESS);
        if crate::driver::Gpu::cuda(0).is_err() {
            let (comm, mut code) = library.init(1, &id, 0);
            while code == IN_PROGRESS {
                code = library.state(comm);
            }
            assert_ne!(code, SUCCESS, "there is no GPU");
            assert!(library.words(code).contains(&format!("(code {code})")), "{}", library.words(code));
        }
    }

    #[test]
    fn releases_are_written_as_nvidia_does() {
        assert_eq!([release(21_800), release(22_105)], ["2.18.0", "2.21.5"]);
    }
}
