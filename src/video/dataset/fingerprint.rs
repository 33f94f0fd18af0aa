//! A hash of a data set, to recognise that a run resumes with the videos it began with.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::super::{folder, procedural};
use super::{Dataset, Source, fnv1a, fnv1a_on};
use crate::error::{Error, Result, unless_of_the_machine};

impl Source {
    /// The file in a folder of flow that says which video it is the flow of: [`Source::fingerprint`] in 16 hexadecimal
    /// digits.
    pub const FINGERPRINT_FILE: &str = "source";

    /// A hash of the size of the file in bytes, or of the names and sizes of the frames, or of the number of the procedural
    /// video. A source that cannot be read counts as absent.
    ///
    /// # Errors
    /// Those [of the machine](Error::is_of_the_machine).
    pub fn fingerprint(&self) -> Result<u64> {
        let mut text = Vec::new();
        match self {
            Source::File(path) => text.extend(length(path)?.to_le_bytes()),
            Source::Folder(path) => {
                for frame in unless_of_the_machine(folder::frames(path))?.unwrap_or_default() {
                    text.extend(frame.file_name().unwrap_or_default().as_encoded_bytes());
                    text.extend(length(&frame)?.to_le_bytes());
                }
            }
            Source::Procedural(video) => text.extend(video.to_le_bytes()),
        }
        Ok(fnv1a(&text))
    }
}

impl Dataset {
    /// A hash of all videos in their order: name, class, number of the class, and [`Source::fingerprint`]. It does not
    /// change when the data is moved as a whole or copied.
    ///
    /// # Errors
    /// Those [of the machine](Error::is_of_the_machine).
    pub fn fingerprint(&self) -> Result<u64> {
        let of = |item: &super::Item| {
            let (class, source) = (&self.classes[item.label], item.source.fingerprint()?);
            let name: PathBuf = Path::new(&item.name).components().collect();
            let text = format!("{}\0{class}\0{}\0{source:x}", name.display(), item.label);
            Ok(fnv1a(text.as_bytes()).to_le_bytes())
        };
        let videos: Vec<[u8; 8]> = self.items.par_iter().map(of).collect::<Result<_>>()?;
        let made = self.procedural.as_ref().map(|spec| format!("{spec:?}, version {}", procedural::VERSION));
        Ok(fnv1a_on(&videos.concat(), fnv1a(made.unwrap_or_default().as_bytes())))
    }
}

/// Bytes of a file; `u64::MAX` if it cannot be read.
fn length(path: &Path) -> Result<u64> {
    let metadata = unless_of_the_machine(fs::metadata(path).map_err(Error::io("read", path)))?;
    Ok(metadata.map_or(u64::MAX, |m| m.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::{Item, Split};

    #[test]
    fn videos_are_told_apart_by_name_class_size_and_order_not_by_place() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |dir: &Path, name: &str, bytes: &[u8]| {
            fs::write(dir.join(name), bytes).unwrap();
            dir.join(name)
        };
        let data = |paths: &[(PathBuf, usize)], classes: &[&str]| {
            let item = |(path, label): &(PathBuf, usize)| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                Item { source: Source::File(path.clone()), label: *label, name }
            };
            let classes = classes.iter().map(|c| (*c).to_owned()).collect();
            Dataset::new(Split::Train, classes, paths.iter().map(item).collect()).fingerprint().unwrap()
        };
        let (x, y) = (put(a.path(), "x.mp4", b"1234"), put(a.path(), "y.mp4", b"56"));
        let begun = data(&[(x.clone(), 0), (y.clone(), 1)], &["jump", "run"]);
        let copied = [(put(b.path(), "x.mp4", b"1234"), 0), (put(b.path(), "y.mp4", b"56"), 1)];
        assert_eq!(data(&copied, &["jump", "run"]), begun, "another folder");

        let others = [
            ("another order", data(&[(y.clone(), 1), (x.clone(), 0)], &["jump", "run"])),
            ("another label", data(&[(x.clone(), 0), (y.clone(), 0)], &["jump", "run"])),
            ("another class", data(&[(x.clone(), 0), (y.clone(), 1)], &["jump", "walk"])),
            ("a video less", data(&[(x.clone(), 0)], &["jump", "run"])),
            ("another name", data(&[(x, 0), (put(a.path(), "z.mp4", b"56"), 1)], &["jump", "run"])),
            ("another size", data(&[(copied[0].0.clone(), 0), (put(b.path(), "y.mp4", b"567"), 1)], &["jump", "run"])),
        ];
        for (what, other) in others {
            assert_ne!(other, begun, "{what}");
        }
    }

    #[test]
    fn frames_in_a_folder_count_by_their_names_and_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let of = || {
            let item = Item { source: Source::Folder(dir.path().to_owned()), label: 0, name: "v".to_owned() };
            Dataset::new(Split::Train, vec!["a".to_owned()], vec![item]).fingerprint().unwrap()
        };
        let mut seen = vec![of()];
        for (name, bytes) in [("0.png", "1"), ("1.png", "2"), ("1.png", "23")] {
            fs::write(dir.path().join(name), bytes).unwrap();
            seen.push(of());
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }
}
