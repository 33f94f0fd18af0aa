//! A hash of a data set, to recognise that a run resumes with the videos it began with.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::super::{flow_folder, folder, procedural};
use super::{Dataset, Source, fnv1a, fnv1a_on};
use crate::error::{Error, Result, unless_of_the_machine};
use crate::files;
use crate::video::procedural::{Happening, ProceduralSpec};

/// Limit on the bytes of a file of flow whose content is hashed: a gigabyte and the header.
const MAX_FIELD_BYTES: u64 = (1 << 30) + 12;

impl Source {
    /// The file in a folder of flow that says which video it is the flow of: [`Source::fingerprint`] in 16 hexadecimal
    /// digits.
    pub const FINGERPRINT_FILE: &str = "source";

    /// A hash of the size of the file in bytes (and of which part of it), or of the names and sizes of the frames, or of the number of the procedural
    /// video. A source that cannot be read counts as absent.
    ///
    /// # Errors
    /// Those [of the machine](Error::is_of_the_machine).
    pub fn fingerprint(&self) -> Result<u64> {
        let mut text = Vec::new();
        match self {
            Source::File(path) => text.extend(length(path)?.to_le_bytes()),
            Source::Part(path, [from, to]) => {
                [length(path)?, *from, *to].iter().for_each(|n| text.extend(n.to_le_bytes()));
            }
            Source::Folder(path) => {
                for frame in unless_of_the_machine(folder::frames(path))?.unwrap_or_default() {
                    name_and_length(&frame, &mut text)?;
                }
            }
            Source::Procedural(video) => text.extend(video.to_le_bytes()),
            Source::Packed(key) => text.extend(key.to_le_bytes()),
        }
        Ok(fnv1a(&text))
    }
}

impl Dataset {
    /// A hash of all videos in their order: name, class and its number if it has a label, and [`Source::fingerprint`]. It does not
    /// change when the data is moved as a whole or copied.
    ///
    /// # Errors
    /// Those [of the machine](Error::is_of_the_machine).
    pub fn fingerprint(&self) -> Result<u64> {
        let of = |item: &super::Item| {
            let source = item.source.fingerprint()?;
            let name: PathBuf = Path::new(&item.name).components().collect();
            let class = item.label.map(|label| format!("{}\0{label}", self.classes[label])).unwrap_or_default();
            let text = format!("{}\0{class}\0{source:x}", name.display());
            Ok(fnv1a(text.as_bytes()).to_le_bytes())
        };
        let videos: Vec<[u8; 8]> = self.items.par_iter().map(of).collect::<Result<_>>()?;
        let made = self.procedural.as_ref().map(|spec| {
            let ProceduralSpec { classes, videos_per_class, test_per_class, frames, side, fps, seed, happening } = spec;
            // As it was written before there were videos in which other things happen, so that old runs go on.
            let other = if *happening == Happening::Always { "" } else { happening.name() };
            format!(
                "ProceduralSpec {{ classes: {classes}, videos_per_class: {videos_per_class}, test_per_class: {test_per_class}, \
                 frames: {frames}, side: {side}, fps: {fps:?}, seed: {seed} }}, version {}{other}",
                procedural::VERSION
            )
        });
        Ok(fnv1a_on(&videos.concat(), fnv1a(made.unwrap_or_default().as_bytes())))
    }

    /// A hash of the flow of all videos below the folder `root`, in their order: the names and sizes of its files, the
    /// bytes of the field in the middle, and the video it says it is of ([`Source::FINGERPRINT_FILE`]). It does not change
    /// when the folder is moved as a whole or copied.
    ///
    /// # Errors
    /// Those [of the machine](Error::is_of_the_machine).
    pub fn flow_fingerprint(&self, root: &Path) -> Result<u64> {
        let of = |item: &super::Item| Ok(flow_fingerprint(root, &item.name)?.to_le_bytes());
        let videos: Vec<[u8; 8]> = self.items.par_iter().map(of).collect::<Result<_>>()?;
        Ok(fnv1a(&videos.concat()))
    }
}

/// A hash of the flow of the video called `name`. Flow that cannot be read counts as absent.
fn flow_fingerprint(root: &Path, name: &str) -> Result<u64> {
    let Some(dir) = unless_of_the_machine(flow_folder::find(root, name))? else { return Ok(0) };
    let Some(files) = unless_of_the_machine(flow_folder::Files::list(&dir))? else { return Ok(0) };
    let content = |path: &Path| {
        let bytes = files::read_bounded(path, MAX_FIELD_BYTES, "a file of flow");
        Ok::<u64, Error>(fnv1a(&unless_of_the_machine(bytes)?.unwrap_or_default()))
    };
    let mut text = Vec::new();
    for path in files.paths() {
        name_and_length(path, &mut text)?;
    }
    // Fields of one size have files of one size: what is in them tells them apart. One of them is read, for all may be
    // as long as the videos themselves.
    for path in files.field(files.len() / 2) {
        text.extend(content(path)?.to_le_bytes());
    }
    text.extend(content(&dir.join(Source::FINGERPRINT_FILE))?.to_le_bytes());
    Ok(fnv1a(&text))
}

/// Appends a file's name and its [`length`].
fn name_and_length(path: &Path, text: &mut Vec<u8>) -> Result<()> {
    text.extend(path.file_name().unwrap_or_default().as_encoded_bytes());
    text.extend(length(path)?.to_le_bytes());
    Ok(())
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
                Item { source: Source::File(path.clone()), label: Some(*label), name }
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
            let item = Item { source: Source::Folder(dir.path().to_owned()), label: Some(0), name: "v".to_owned() };
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
    #[test]
    fn flow_is_told_apart_by_its_files_and_a_field_not_by_place() {
        let dir = tempfile::tempdir().unwrap();
        let item = Item { source: Source::Procedural(0), label: Some(0), name: "class/v.mp4".to_owned() };
        let data = Dataset::new(Split::Train, vec!["class".to_owned()], vec![item]);
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        let of = |root: &Path| data.flow_fingerprint(root).unwrap();
        let mut seen = vec![of(&here)];
        fs::create_dir_all(here.join("class/v")).unwrap();
        for (name, bytes) in [
            ("0.flo", "one"),
            ("1.flo", "two"),
            ("1.flo", "2.0"),
            ("1.flo", "2.00"),
            ("2.flo", "last"),
            (Source::FINGERPRINT_FILE, "a video"),
            (Source::FINGERPRINT_FILE, "another"),
        ] {
            fs::write(here.join("class/v").join(name), bytes).unwrap();
            seen.push(of(&here));
        }
        fs::rename(&here, &there).unwrap();
        assert_eq!(Some(&of(&there)), seen.last(), "another folder");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 8);
    }
}
