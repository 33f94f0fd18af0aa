//! The calls of MPI that ranks need. None of them waits for another rank, but [`finalize`].

use crate::dist::tcp::lost;
use crate::error::Result;
use mpi::ffi;
use std::ffi::{c_char, c_int};

/// A group of all ranks, whose messages meet no others.
#[derive(Clone, Copy)]
pub(super) struct Comm(ffi::MPI_Comm);

// SAFETY: a handle; MPI is asked for support of calls from any thread, one at a time, and the callers hold a lock.
unsafe impl Send for Comm {}
// SAFETY: as above.
unsafe impl Sync for Comm {}

/// A communication under way, and the rank that it is with, if it is with one.
pub(super) struct Request {
    handle: ffi::MPI_Request,
    pub peer: Option<usize>,
}

/// Rows of memory: `bytes` at the start of every `stride` bytes.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub bytes: usize,
    pub stride: usize,
}

/// The error of a call that returned `code`.
fn check(action: &str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(()); // MPI_SUCCESS is 0 in every MPI
    }
    let mut text = [0; 1024]; // MPI_MAX_ERROR_STRING is 256 to 1024
    let mut length = 0;
    // SAFETY: the buffer is as long as any text of the supported libraries; the result goes to locals.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &mut length) };
    Err(lost(format!("MPI cannot {action}: {}", words(&text, length))))
}

fn words(text: &[c_char], length: c_int) -> String {
    let bytes: Vec<u8> = text.iter().take(length.max(0) as usize).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Starts MPI and returns two groups of all ranks.
pub(super) fn start() -> Result<[Comm; 2]> {
    let (mut running, mut provided) = (0, 0);
    // SAFETY (of this block): the results go to locals; no arguments are passed on; MPI is started before it is used.
    unsafe {
        check("be asked", ffi::MPI_Initialized(&mut running))?;
        if running != 0 {
            return Err(lost("MPI was started in this process before: ranks connect once".into()));
        }
        let wanted = ffi::RSMPI_THREAD_SERIALIZED;
        let (argc, argv) = (std::ptr::null_mut(), std::ptr::null_mut());
        check("start", ffi::MPI_Init_thread(argc, argv, wanted, &mut provided))?;
        if provided < wanted {
            let what = format!("this MPI ({}) takes calls from the main thread alone", library());
            return Err(lost(what + ": one is needed with MPI_THREAD_SERIALIZED"));
        }
        let mut comms = [Comm(ffi::RSMPI_COMM_WORLD); 2];
        for comm in &mut comms {
            check("form a group", ffi::MPI_Comm_dup(ffi::RSMPI_COMM_WORLD, &mut comm.0))?;
            // Without this, an error ends the process.
            check("form a group", ffi::MPI_Comm_set_errhandler(comm.0, ffi::RSMPI_ERRORS_RETURN))?;
        }
        Ok(comms)
    }
}

/// The name of the library, such as `Open MPI v4.1.4`.
pub(super) fn library() -> String {
    let mut text = [0; 8192]; // MPI_MAX_LIBRARY_VERSION_STRING is 256 to 8192
    let mut length = 0;
    // SAFETY: the buffer is as long as any text of the supported libraries.
    unsafe { ffi::MPI_Get_library_version(text.as_mut_ptr(), &mut length) };
    let text = words(&text, length);
    let first = text.split([',', '\n']).next().unwrap_or_default();
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Waits for all ranks to call it, and ends MPI.
pub(super) fn finalize() {
    // SAFETY: MPI was started, and no communication is under way.
    let _ = unsafe { ffi::MPI_Finalize() };
}

impl Comm {
    /// The number of this rank, and of all.
    pub(super) fn place(self) -> Result<(usize, usize)> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: the results go to locals.
        unsafe {
            check("tell the rank", ffi::MPI_Comm_rank(self.0, &mut rank))?;
            check("tell the number of ranks", ffi::MPI_Comm_size(self.0, &mut size))?;
        }
        Ok((rank as usize, size as usize))
    }

    /// Sends `bytes` to a rank. It is done when that rank has begun to receive them.
    ///
    /// # Safety
    /// `bytes` lives until the request is done.
    pub(super) unsafe fn send(self, bytes: &[u8], to: usize) -> Result<Request> {
        let mut handle = unsafe { ffi::RSMPI_REQUEST_NULL };
        let (at, count) = (bytes.as_ptr().cast(), bytes.len() as c_int);
        // SAFETY: the memory is that long, and lives until the request is done.
        let code = unsafe { ffi::MPI_Issend(at, count, ffi::RSMPI_UINT8_T, to as c_int, 0, self.0, &mut handle) };
        check("send", code).map(|()| Request { handle, peer: Some(to) })
    }

    /// Receives `bytes` from a rank.
    ///
    /// # Safety
    /// `bytes` lives, and is used by nobody else, until the request is done.
    pub(super) unsafe fn receive(self, bytes: &mut [u8], from: usize) -> Result<Request> {
        let mut handle = unsafe { ffi::RSMPI_REQUEST_NULL };
        let (at, count) = (bytes.as_mut_ptr().cast(), bytes.len() as c_int);
        // SAFETY: as `send`.
        let code = unsafe { ffi::MPI_Irecv(at, count, ffi::RSMPI_UINT8_T, from as c_int, 0, self.0, &mut handle) };
        check("receive", code).map(|()| Request { handle, peer: Some(from) })
    }

    /// Sends row `i` to rank `i`, and receives as many.
    ///
    /// # Safety
    /// Both have a row for each rank, and live, `to` used by nobody else, until the request is done.
    pub(super) unsafe fn all_to_all(self, from: *const u8, to: *mut u8, rows: Rows) -> Result<Request> {
        let mut handle = unsafe { ffi::RSMPI_REQUEST_NULL };
        let row = RowType::new(rows)?;
        // SAFETY: the memory is that long, and lives until the request is done; the type may be freed before.
        let code = unsafe { ffi::MPI_Ialltoall(from.cast(), 1, row.0, to.cast(), 1, row.0, self.0, &mut handle) };
        check("exchange", code).map(|()| Request { handle, peer: None })
    }

    /// Sends one row to all, and receives a row from each.
    ///
    /// # Safety
    /// As [`Comm::all_to_all`], with one row in `from`.
    pub(super) unsafe fn all_gather(self, from: *const u8, to: *mut u8, rows: Rows) -> Result<Request> {
        let mut handle = unsafe { ffi::RSMPI_REQUEST_NULL };
        let row = RowType::new(rows)?;
        // SAFETY: as `all_to_all`.
        let code = unsafe { ffi::MPI_Iallgather(from.cast(), 1, row.0, to.cast(), 1, row.0, self.0, &mut handle) };
        check("exchange", code).map(|()| Request { handle, peer: None })
    }

    /// A message of any rank, if there is one.
    pub(super) fn message(self) -> Result<Option<Vec<u8>>> {
        let (mut there, mut length) = (0, 0);
        // SAFETY (of this block): a status is plain numbers; the results go to locals; the message is received into memory
        // of its length.
        unsafe {
            let mut status: ffi::MPI_Status = std::mem::zeroed();
            let (any, tag) = (ffi::RSMPI_ANY_SOURCE, 0);
            check("look for messages", ffi::MPI_Iprobe(any, tag, self.0, &mut there, &mut status))?;
            if there == 0 {
                return Ok(None);
            }
            let byte = ffi::RSMPI_UINT8_T;
            check("look for messages", ffi::MPI_Get_count(&status, byte, &mut length))?;
            let mut text = vec![0_u8; length.max(0) as usize];
            let (at, from) = (text.as_mut_ptr().cast(), status.MPI_SOURCE);
            check("receive", ffi::MPI_Recv(at, length, byte, from, tag, self.0, &mut status))?;
            Ok(Some(text))
        }
    }

    /// Ends the processes of all ranks.
    pub(super) fn abort(self) {
        // SAFETY: MPI was started.
        let _ = unsafe { ffi::MPI_Abort(self.0, 1) };
    }
}

impl Request {
    /// Whether it is done. Communications progress while somebody asks.
    pub(super) fn done(&mut self) -> Result<bool> {
        let mut done = 0;
        // SAFETY: a status is plain numbers; the results go to locals; a request that is done becomes one that always is.
        let code = unsafe {
            let mut status: ffi::MPI_Status = std::mem::zeroed();
            ffi::MPI_Test(&mut self.handle, &mut done, &mut status)
        };
        check("exchange", code).map(|()| done != 0)
    }
}

/// A type of MPI whose elements are the rows: displacements are multiples of its extent, which has 64 bits.
struct RowType(ffi::MPI_Datatype);

impl RowType {
    fn new(rows: Rows) -> Result<RowType> {
        // SAFETY (of this block): the results go to locals, and each type is made before it is used.
        unsafe {
            let mut bytes = ffi::RSMPI_DATATYPE_NULL;
            let made = ffi::MPI_Type_contiguous(rows.bytes as c_int, ffi::RSMPI_UINT8_T, &mut bytes);
            check("describe a message", made)?;
            let bytes = RowType(bytes);
            let mut row = RowType(ffi::RSMPI_DATATYPE_NULL);
            let made = ffi::MPI_Type_create_resized(bytes.0, 0, rows.stride as ffi::MPI_Aint, &mut row.0);
            check("describe a message", made)?;
            check("describe a message", ffi::MPI_Type_commit(&mut row.0))?;
            Ok(row)
        }
    }
}

impl Drop for RowType {
    fn drop(&mut self) {
        // SAFETY: made by `new`; MPI keeps it for the communications that use it.
        unsafe {
            if self.0 != ffi::RSMPI_DATATYPE_NULL {
                ffi::MPI_Type_free(&mut self.0);
            }
        }
    }
}
