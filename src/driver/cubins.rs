//! A folder of cubins: modules that `cargo xtask cubins DIR` assembled, so that the driver does not have to compile their PTX.
//!
//! `DIR/<module>.<architecture>.cubin` is a file of ptxas. `DIR/<architecture>.txt` has a line for each of them: module, length,
//! hash of the file and hash of the PTX, both by [`files::fnv1a`].

use crate::error::{Error, Result};
use crate::files;
use std::path::{Path, PathBuf};

/// Most bytes of a list, and of a cubin.
const LONGEST_LIST: u64 = 1 << 20;
const LONGEST_CUBIN: u64 = 64 << 20;

/// The architecture whose cubins a device of this compute capability takes, of those that `cargo xtask cubins` writes: `sm_80`,
/// `sm_86`, `sm_89`, `sm_90a`, `sm_100`, `sm_120`. `None` where the driver has to compile PTX.
///
/// A cubin runs on devices of its own major version, and of its minor version or a later one. Two rules of NVIDIA's limit this:
/// it does not hold between other devices and Tegra (8.7, 8.8, 10.1, 11.0), and `sm_90a` is for 9.0 alone.
#[must_use]
pub fn architecture(compute_capability: (u32, u32)) -> Option<&'static str> {
    match compute_capability {
        (8, 0..=5) => Some("sm_80"),
        (8, 6) => Some("sm_86"),
        (8, 9) => Some("sm_89"),
        (9, 0) => Some("sm_90a"),
        (10, 0 | 2..) => Some("sm_100"),
        (12, _) => Some("sm_120"),
        _ => None,
    }
}

/// The cubins of a folder for one device.
pub(super) struct Cubins {
    folder: PathBuf,
    /// Empty where the folder has none for the device.
    lines: Vec<Line>,
    architecture: &'static str,
}

/// What the list says of a cubin.
struct Line {
    module: String,
    bytes: u64,
    hash: u64,
    ptx: u64,
}

/// Parses `module bytes hash hash`, the hashes in hexadecimal.
fn parse(line: &str) -> Option<Line> {
    let mut words = line.split_ascii_whitespace();
    let module = words.next()?.to_owned();
    let bytes = words.next()?.parse().ok()?;
    let [hash, ptx] = [words.next()?, words.next()?].map(|word| u64::from_str_radix(word, 16).ok());
    words.next().is_none().then_some(Line { module, bytes, hash: hash?, ptx: ptx? })
}

impl Cubins {
    /// Those in `folder` for a device of this compute capability: none where the folder has no list of its architecture.
    ///
    /// # Errors
    /// `Io`, `Data` when there is no such folder, or its list cannot be read; `Format` when it is no such list.
    pub fn open(folder: &Path, compute_capability: (u32, u32)) -> Result<Cubins> {
        if !std::fs::metadata(folder).map_err(Error::io("read", folder))?.is_dir() {
            return Err(Error::data(folder, "cubins lie in a folder, and this is none"));
        }
        let mut cubins = Cubins { folder: folder.to_owned(), lines: Vec::new(), architecture: "" };
        let Some(architecture) = architecture(compute_capability) else { return Ok(cubins) };
        let list = folder.join(format!("{architecture}.txt"));
        if !list.try_exists().map_err(Error::io("read", &list))? {
            return Ok(cubins);
        }
        let bytes = files::read_bounded(&list, LONGEST_LIST, "a list of cubins")?;
        cubins.architecture = architecture;
        for (i, line) in String::from_utf8_lossy(&bytes).lines().enumerate().filter(|(_, l)| !l.starts_with('#')) {
            let wrong = || Error::content(&list, format!("line {} is not `module bytes hash hash`: {line}", i + 1));
            cubins.lines.push(parse(line).ok_or_else(wrong)?);
        }
        Ok(cubins)
    }

    /// The cubin of a module and its file, if the list has it.
    ///
    /// # Errors
    /// `Format` with the file's name when it was made of other PTX than `ptx`, or is not the file that the list describes; `Io`.
    pub fn of(&self, module: &str, ptx: &str) -> Result<Option<(PathBuf, Vec<u8>)>> {
        let Some(line) = self.lines.iter().find(|line| line.module == module) else { return Ok(None) };
        let file = self.folder.join(format!("{module}.{}.cubin", self.architecture));
        let ours = files::fnv1a(ptx.as_bytes());
        if line.ptx != ours {
            let theirs = line.ptx;
            let what = format!(
                "it was made of other PTX than this program has ({theirs:016x}, not {ours:016x}); run `cargo xtask cubins` of \
                 the same sources"
            );
            return Err(Error::content(file, what));
        }
        let bytes = files::read_bounded(&file, LONGEST_CUBIN, "a cubin")?;
        let (length, hash) = (bytes.len() as u64, files::fnv1a(&bytes));
        if (length, hash) != (line.bytes, line.hash) {
            let (wanted, bytes) = (line.hash, line.bytes);
            let what = format!(
                "it is not the file of its list: {length} bytes with the hash {hash:016x}, not {bytes} with {wanted:016x}"
            );
            return Err(Error::content(file, what));
        }
        Ok(Some((file, bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cubins_are_those_of_the_major_version_and_no_later_minor_one() {
        let cases = [
            ((7, 5), None),
            ((8, 0), Some("sm_80")),
            ((8, 6), Some("sm_86")),
            ((8, 7), None), // Tegra
            ((8, 8), None),
            ((8, 9), Some("sm_89")),
            ((9, 0), Some("sm_90a")),
            ((9, 1), None), // `a`: no other device
            ((10, 0), Some("sm_100")),
            ((10, 1), None), // Tegra
            ((10, 3), Some("sm_100")),
            ((11, 0), None),
            ((12, 0), Some("sm_120")),
            ((12, 1), Some("sm_120")),
            ((13, 0), None),
        ];
        for (capability, wanted) in cases {
            assert_eq!(architecture(capability), wanted, "{capability:?}");
        }
        // No other rule than NVIDIA's: the same major version, and no later minor one.
        for (major, minor) in (0..20).flat_map(|major| (0..10).map(move |minor| (major, minor))) {
            if let Some(name) = architecture((major, minor)) {
                let number: u32 = name["sm_".len()..].trim_end_matches('a').parse().unwrap();
                assert!(number / 10 == major && number % 10 <= minor, "{name} for {major}.{minor}");
            }
        }
    }

    #[test]
    fn a_list_that_is_none_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let open = |capability| Cubins::open(dir.path(), capability).map(|cubins| cubins.lines.len());
        assert_eq!(open((9, 0)).unwrap(), 0, "the folder has none for the device");
        std::fs::write(dir.path().join("sm_90a.txt"), "# by ptxas\nrelu 5 0a 0b\n").unwrap();
        assert_eq!((open((9, 0)).unwrap(), open((8, 0)).unwrap(), open((8, 7)).unwrap()), (1, 0, 0));
        for line in ["relu", "relu five 0a 0b", "relu 5 0a 0b 0c", "relu 5 0a 0x"] {
            std::fs::write(dir.path().join("sm_90a.txt"), format!("# by ptxas\n{line}\n")).unwrap();
            let said = open((9, 0)).unwrap_err().to_string();
            assert!(said.contains("sm_90a.txt") && said.contains("line 2"), "{said}");
        }
        for (path, words) in [(dir.path().join("none"), "No such file"), (dir.path().join("sm_90a.txt"), "a folder")] {
            let said = Cubins::open(&path, (8, 0)).err().unwrap().to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_cubin_is_taken_if_it_is_that_of_the_list_and_of_the_ptx() {
        let dir = tempfile::tempdir().unwrap();
        let (ptx, code) = (".version 8.4", b"code of relu");
        let line = format!("relu {} {:016x} {:016x}\n", code.len(), files::fnv1a(code), files::fnv1a(ptx.as_bytes()));
        std::fs::write(dir.path().join("sm_86.txt"), line).unwrap();
        let cubins = Cubins::open(dir.path(), (8, 6)).unwrap();
        let file = dir.path().join("relu.sm_86.cubin");
        let refused = |ptx| cubins.of("relu", ptx).unwrap_err().to_string();
        assert!(refused(ptx).contains("relu.sm_86.cubin"), "the list names a file that is not there");
        std::fs::write(&file, code).unwrap();
        assert_eq!(cubins.of("relu", ptx).unwrap(), Some((file.clone(), code.to_vec())));
        assert_eq!(cubins.of("sgd", ptx).unwrap(), None);
        let said = refused(".version 8.5");
        assert!(said.contains("relu.sm_86.cubin") && said.contains("other PTX"), "{said}");
        for damaged in [&code[1..], b"code of sgd.", b"code of relu, and more"] {
            std::fs::write(&file, damaged).unwrap();
            let said = refused(ptx);
            assert!(said.contains("relu.sm_86.cubin") && said.contains("not the file of its list"), "{said}");
        }
    }
}
