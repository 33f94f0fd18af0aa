//! Searches a folder for video files, folders of frames, and lists.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata, ReadDir};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::dataset::Source;
use super::super::list;
use super::super::series::{is_folder_beside, is_of_flow};
use crate::error::{Error, Result, unless_of_the_machine};

/// Limit on files and folders of a tree. Kinetics as frames has some 70 million.
const MAX_ENTRIES: usize = 1 << 28;

/// Names of the folder of frames within a video's folder, beside others with flow or sound.
const FRAMES: [&str; 12] =
    ["rgb", "img", "imgs", "image", "images", "frame", "frames", "jpg", "jpeg", "png", "color", "colour"];

/// Files in the output folder of this project's programs. A folder with two of them is one, and its pictures are no
/// frames.
const OUTPUT: [&str; 7] =
    ["lock", "settings.json", "summary.json", "metrics.jsonl", "curves.png", "sheet.png", "focus.png"];

/// Identity of a file or folder, independent of its names: device and inode.
pub(super) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Content of a folder, sorted by path.
#[derive(Default)]
pub(super) struct Tree {
    /// Video files.
    pub files: Vec<PathBuf>,
    /// Folders that contain images and no video files.
    pub frames: Vec<PathBuf>,
    /// Files that are lists of a split, by their names.
    pub lists: Vec<PathBuf>,
    /// What was skipped.
    pub warnings: Vec<String>,
}

/// Searches the tree below `dir`. Each folder is entered once, however many links lead to it, and under its own name if
/// it has one below `dir`. Names that start with a dot are ignored. A folder below `dir` that cannot be read is left out.
pub(super) fn walk(dir: &Path) -> Result<Tree> {
    let mut walk = Walk::default();
    walk.below(dir.to_owned(), true)?;
    // Real folders first, so that links to them lead to nothing new.
    while !walk.links.is_empty() {
        let mut links = std::mem::take(&mut walk.links);
        links.sort();
        for link in links {
            walk.below(link, false)?;
        }
    }
    let Walk { mut tree, mut odd, .. } = walk;
    [&mut tree.files, &mut tree.frames, &mut tree.lists].into_iter().for_each(|paths| paths.sort());
    odd.beside.extend(tree.leave_beside());
    odd.beside.extend(tree.leave_trees_beside(dir));
    odd.pictures.extend(tree.leave_above(dir));
    tree.warnings = odd.warnings();
    Ok(tree)
}

impl Tree {
    /// Removes folders of flow, masks or depth from the folders of frames, if the frames they belong to are in the
    /// parent folder or in a sibling, and returns them.
    fn leave_beside(&mut self) -> Vec<PathBuf> {
        let named_so = |folder: &Path| folder.file_name().is_some_and(is_named_beside);
        // Parent folders, and those that contain a folder of frames.
        let with_frames: HashSet<PathBuf> = (self.frames.iter().filter(|folder| !named_so(folder)))
            .flat_map(|folder| [Some(folder.as_path()), folder.parent()])
            .flatten()
            .map(Path::to_owned)
            .collect();
        let is_beside = |folder: &PathBuf| named_so(folder) && folder.parent().is_some_and(|p| with_frames.contains(p));
        let (beside, frames) = std::mem::take(&mut self.frames).into_iter().partition(is_beside);
        self.frames = frames;
        beside
    }
}

/// Whether the name of a folder says that it holds frames.
pub(super) fn is_folder_of_frames(name: &OsStr) -> bool {
    name.to_str().is_some_and(|n| FRAMES.contains(&&*n.to_lowercase()))
}

/// Whether the name of a folder says that it holds flow, masks or depth.
pub(super) fn is_named_beside(name: &OsStr) -> bool {
    name.to_str().is_some_and(is_folder_beside)
}

impl Tree {
    /// Removes folders below `dir` with images that are above two videos or more, and returns them: a poster among
    /// class folders is not a frame of a video.
    fn leave_above(&mut self, dir: &Path) -> Vec<PathBuf> {
        let mut below: HashMap<&Path, usize> = self.frames.iter().map(|folder| (folder.as_path(), 0)).collect();
        for path in self.files.iter().chain(&self.frames) {
            for above in path.ancestors().skip(1) {
                if let Some(n) = below.get_mut(above) {
                    *n += 1;
                }
            }
        }
        let above = below.into_iter().filter(|(folder, n)| *n > 1 && *folder != dir);
        let above: HashSet<PathBuf> = above.map(|(folder, _)| folder.to_owned()).collect();
        self.frames.retain(|folder| !above.contains(folder));
        let mut above: Vec<PathBuf> = above.into_iter().collect();
        above.sort();
        above
    }

    /// Uses each video once that is there as a file and as a folder of frames: its frames, which need no decoder.
    pub(super) fn use_frames(&mut self, dir: &Path) {
        let left = self.leave_decoded(dir);
        self.warnings.extend(say(left, "is left out: its frames are in a folder of the same name, and are used"));
    }

    /// All videos, each with the path that names it: its own, or for frames in `class/video/frames` (or `rgb_240`, …), below
    /// `dir`, the folder `class/video`.
    pub(super) fn videos(self, dir: &Path) -> Vec<(Source, PathBuf)> {
        let inner = self.inner();
        let named = |folder: &PathBuf| {
            let inner = inner.contains(folder.as_path());
            let video = folder.parent().filter(|video| inner && *video != dir && video.parent() != Some(dir));
            video.unwrap_or(folder).to_owned()
        };
        let files = self.files.iter().map(|path| (Source::File(path.clone()), path.clone()));
        let frames = self.frames.iter().map(|folder| (Source::Folder(folder.clone()), named(folder)));
        files.chain(frames).collect()
    }
}

#[derive(Default)]
struct Walk {
    entered: HashSet<(u64, u64)>,
    /// Links to folders not yet entered.
    links: Vec<PathBuf>,
    entries: usize,
    odd: Odd,
    tree: Tree,
}

/// What was skipped: how often, and the first by name.
#[derive(Default)]
struct Odd {
    again: Vec<PathBuf>,
    irregular: Vec<PathBuf>,
    pictures: Vec<PathBuf>,
    beside: Vec<PathBuf>,
    output: Vec<PathBuf>,
    unreadable: Vec<PathBuf>,
}

impl Walk {
    /// Reads the folder `top` and all below it. Unless `top` is the whole data set, it may be left out as they may.
    fn below(&mut self, top: PathBuf, whole: bool) -> Result<()> {
        let mut folders = vec![top.clone()];
        while let Some(folder) = folders.pop() {
            match entries(&folder) {
                Err(e) if whole && folder == top => return Err(e),
                read => self.take(folder, read, &mut folders)?,
            }
        }
        Ok(())
    }

    /// Takes in what was `read` of a folder, and adds those in it to `folders`. A folder that cannot be read is left out
    /// like a video that cannot be read, unless the machine failed.
    fn take(&mut self, folder: PathBuf, read: Result<Folder>, folders: &mut Vec<PathBuf>) -> Result<()> {
        let Some((identity, entries)) = unless_of_the_machine(read)? else {
            self.odd.unreadable.push(folder);
            return Ok(());
        };
        if !self.entered.insert(identity) {
            self.odd.again.push(folder);
            return Ok(());
        }
        let (mut pictures, before) = (false, self.tree.files.len());
        // What else is in a folder with pictures: those of this project's programs are no frames.
        let (mut of_output, mut fields, mut other_pictures) = (0, false, false);
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &folder))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Error::data(folder, format!("there are more than {MAX_ENTRIES} files in this tree")));
            }
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(Error::io("read", &folder))?;
            of_output += usize::from(OUTPUT.iter().any(|file| name.as_os_str() == *file));
            // There may be millions of frames: only links are resolved to see what they are.
            let name = Path::new(&name);
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_symlink() && entry.path().is_dir() {
                self.links.push(entry.path());
            } else if list::is_video(name) {
                let regular = kind.is_file() || (kind.is_symlink() && entry.path().is_file());
                (if regular { &mut self.tree.files } else { &mut self.odd.irregular }).push(entry.path());
            } else if list::is_frame(name) {
                pictures = true;
                other_pictures = other_pictures || !is_of_flow(name);
            } else if is_field(name) {
                fields = true;
            } else if looks_like_split(name) {
                self.tree.lists.push(entry.path());
            }
        }
        if pictures {
            let kind = if of_output > 1 {
                &mut self.odd.output
            } else if fields && !other_pictures {
                &mut self.odd.beside
            } else if self.tree.files.len() > before {
                &mut self.odd.pictures
            } else {
                &mut self.tree.frames
            };
            kind.push(folder);
        }
        Ok(())
    }
}

/// The [`identity`] of a folder, and what is in it.
type Folder = ((u64, u64), ReadDir);

/// Opens a folder.
fn entries(folder: &Path) -> Result<Folder> {
    let metadata = fs::metadata(folder).map_err(Error::io("read", folder))?;
    Ok((identity(&metadata), fs::read_dir(folder).map_err(Error::io("read", folder))?))
}

/// Says `what` of the first of `paths`, and how many more there are.
fn say(mut paths: Vec<PathBuf>, what: &str) -> Option<String> {
    paths.sort();
    let first = paths.first()?.display();
    Some(match paths.len() {
        1 => format!("{first} {what}"),
        n => format!("{first} {what}; so it is with {} more", n - 1),
    })
}

impl Odd {
    fn warnings(self) -> Vec<String> {
        let all = [
            say(self.again, "leads to a folder that was read under another name, and is left out"),
            say(self.unreadable, "is a folder that cannot be read, and is left out"),
            say(self.irregular, "is no regular file or a link to nothing, and is left out"),
            say(self.beside, "is a folder of flow, masks or depth beside frames by its name, and is no video"),
            say(self.output, "is the output folder of a run, and its pictures are not taken for a video's frames"),
            say(self.pictures, "holds pictures beside videos, and they are not taken for a video's frames"),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Whether a file is a flow field by its name.
fn is_field(name: &Path) -> bool {
    name.extension().is_some_and(|e| e.eq_ignore_ascii_case("flo"))
}

/// Whether a file may be a list of a split: `trainlist01.txt`, `val.csv`, `ucf101_train_split_1_videos.txt`.
pub(super) fn looks_like_split(name: &Path) -> bool {
    const KINDS: [&str; 5] = ["txt", "csv", "tsv", "lst", "json"];
    const WORDS: [&str; 12] = [
        "train",
        "training",
        "trainlist",
        "test",
        "testing",
        "testlist",
        "val",
        "valid",
        "validation",
        "vallist",
        "split",
        "splits",
    ];
    let (Some(stem), Some(kind)) =
        (name.file_stem().and_then(|s| s.to_str()), name.extension().and_then(|e| e.to_str()))
    else {
        return false;
    };
    let stem = stem.to_lowercase();
    KINDS.iter().any(|k| k.eq_ignore_ascii_case(kind))
        && stem.split(|c: char| !c.is_alphabetic()).any(|word| WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Permissions do not hold for the super-user, who may run the tests: here they are refused by hand.
    #[test]
    fn a_folder_that_may_not_be_read_is_left_out_and_named_and_a_broken_disk_ends_the_walk() {
        let refused = |code: i32| Err(Error::io("read", "data/a")(std::io::Error::from_raw_os_error(code)));
        let mut walk = Walk::default();
        for folder in ["data/a", "data/b"] {
            walk.take(folder.into(), refused(libc::EACCES), &mut Vec::new()).unwrap();
        }
        let told = std::mem::take(&mut walk.odd).warnings();
        assert_eq!(told, ["data/a is a folder that cannot be read, and is left out; so it is with 1 more"]);
        assert!(walk.take("data/a".into(), refused(libc::EIO), &mut Vec::new()).unwrap_err().is_of_the_machine());
    }
}
