//! NVRTC, NVIDIA's run-time compiler, through its C interface.

use anyhow::{Context, Result, bail, ensure};
use libloading::{Library, Symbol};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Fetch = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The loaded library.
pub struct Nvrtc(Library);

/// One translation unit. Names are those used by `#include` and in messages: no paths appear in the output.
pub struct Unit<'a> {
    pub name: &'a str,
    pub source: &'a str,
    /// Names and texts of the headers.
    pub headers: &'a [(String, String)],
    pub options: &'a [&'a str],
}

/// The output for a unit that compiled.
pub struct Compiled {
    pub ptx: String,
    /// Its warnings, if any.
    pub log: String,
}

impl Nvrtc {
    /// Loads the compiler from `path` and checks its version.
    pub fn load(path: &Path) -> Result<Nvrtc> {
        // SAFETY: loading runs the library's initialisers. The caller has compared its hash with the pinned one, and
        // the initialisers of that version have no requirements.
        let library = unsafe { Library::new(path) }.with_context(|| format!("cannot load {}", path.display()))?;
        let compiler = Nvrtc(library);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature is that of nvrtc.h, and both places outlive the call.
        let status = unsafe {
            let version: Symbol<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
                compiler.0.get(b"nvrtcVersion\0")?;
            version(&mut major, &mut minor)
        };
        ensure!(status == 0 && (major, minor) == (12, 4), "NVRTC says that it is {major}.{minor}, not 12.4");
        Ok(compiler)
    }

    /// Compiles one unit. If the source has errors, the error contains the compiler's log.
    pub fn compile(&self, unit: &Unit) -> Result<Compiled> {
        let text = |s: &str| CString::new(s).with_context(|| format!("{}: a zero byte in the source", unit.name));
        let (source, name) = (text(unit.source)?, text(unit.name)?);
        let headers = unit.headers.iter().map(|(_, t)| text(t)).collect::<Result<Vec<_>>>()?;
        let included = unit.headers.iter().map(|(n, _)| text(n)).collect::<Result<Vec<_>>>()?;
        let options = unit.options.iter().map(|o| text(o)).collect::<Result<Vec<_>>>()?;
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (header_texts, header_names, flags) = (pointers(&headers), pointers(&included), pointers(&options));

        let mut program = ptr::null_mut();
        // SAFETY: signatures are those of nvrtc.h. Every string and array outlives the call that reads it and has the
        // length passed, and `program` is written before any other function uses it.
        let status = unsafe {
            let create: Symbol<Create> = self.0.get(b"nvrtcCreateProgram\0")?;
            create(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                header_texts.len() as c_int,
                header_texts.as_ptr(),
                header_names.as_ptr(),
            )
        };
        ensure!(status == 0, "{}: nvrtcCreateProgram failed with {status}", unit.name);
        // SAFETY: as above; `program` is live until it is destroyed below.
        let status = unsafe {
            let compile: Symbol<Compile> = self.0.get(b"nvrtcCompileProgram\0")?;
            compile(program, flags.len() as c_int, flags.as_ptr())
        };
        let log = self.text(program, b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0")?;
        let ptx = if status == 0 { self.text(program, b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0")? } else { String::new() };
        // SAFETY: the program was created above, is destroyed once, and is not used again.
        unsafe {
            let destroy: Symbol<unsafe extern "C" fn(*mut Program) -> c_int> = self.0.get(b"nvrtcDestroyProgram\0")?;
            destroy(&mut program);
        }
        if status != 0 {
            bail!("{} does not compile:\n{}", unit.name, log.trim_end());
        }
        Ok(Compiled { ptx, log: log.trim().to_owned() })
    }

    /// A text of the program: queries its size, then its bytes, the last of which is the terminating zero.
    fn text(&self, program: Program, size: &[u8], fetch: &[u8]) -> Result<String> {
        let mut length = 0;
        // SAFETY: signatures are those of nvrtc.h; the program is live, and the buffer has the queried length.
        let (bytes, status) = unsafe {
            let size: Symbol<Size> = self.0.get(size)?;
            let fetch: Symbol<Fetch> = self.0.get(fetch)?;
            let first = size(program, &mut length);
            let mut bytes = vec![0_u8; length.max(1)];
            let second = fetch(program, bytes.as_mut_ptr().cast());
            (bytes, first | second)
        };
        ensure!(status == 0, "NVRTC failed with {status} when asked for a text");
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8(bytes[..end].to_vec())?)
    }
}
