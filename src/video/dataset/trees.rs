//! Trees of folders side by side that hold the same videos: `rgb/class/video` and `masks/class/video`, or
//! `videos/class/video.mp4` and `frames/class/video`.
//!
//! Two trees are of the same videos if at least half of the names in either are in the other: frames may have been extracted
//! of some videos only. A name is the path below the
//! tree. It has a class in it, two components at least: what lies directly in a folder is often numbered alike in all
//! classes. One component is enough beside a tree that is called `frames`, `rgb_240`, `videos` and so on, for that is no
//! class.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::sizes::is_no_class;
use super::walk::{Tree, is_folder_of_frames, is_named_beside};

/// A video in one of the trees that it lies in.
struct Place<'a> {
    /// Index among the videos.
    video: usize,
    tree: &'a Path,
    /// The folder that holds the tree, and the video's path below the tree.
    name: (&'a Path, &'a Path),
}

impl Place<'_> {
    /// Whether another tree with a video of this name holds this video.
    fn is_telling(&self) -> bool {
        self.name.1.components().count() > 1 || self.tree.file_name().is_some_and(is_no_class)
    }

    fn is_beside(&self) -> bool {
        self.tree.file_name().is_some_and(is_named_beside)
    }
}

/// All trees below `dir` that each of `videos` lies in.
fn places<'a>(videos: &'a [PathBuf], dir: &'a Path) -> Vec<Place<'a>> {
    let of = |(video, path): (usize, &'a PathBuf)| {
        let trees = path.ancestors().skip(1).take_while(move |tree| *tree != dir && tree.starts_with(dir));
        trees.filter_map(move |tree| Some(Place { video, tree, name: (tree.parent()?, path.strip_prefix(tree).ok()?) }))
    };
    videos.iter().enumerate().flat_map(of).collect()
}

/// Those of `places` in trees of which at least half is `shared`.
fn of_shared_trees<'a, 'b>(places: &'b [Place<'a>], shared: impl Fn(&Place) -> bool) -> Vec<&'b Place<'a>> {
    let mut count: BTreeMap<&Path, (usize, usize)> = BTreeMap::new();
    for place in places {
        let (total, found) = count.entry(place.tree).or_default();
        (*total, *found) = (*total + 1, *found + usize::from(shared(place)));
    }
    let is_shared = |tree: &Path| count.get(tree).is_some_and(|(total, found)| 2 * found >= *total);
    places.iter().filter(|place| is_shared(place.tree)).collect()
}

/// The names of those of `places` that another tree may be compared by.
fn names_of<'a>(places: Vec<&Place<'a>>) -> HashSet<(&'a Path, &'a Path)> {
    places.into_iter().filter(|place| place.is_telling()).map(|place| place.name).collect()
}

/// A folder of frames, or of flow, without the last folders below `dir` that only say what is in them: `video/rgb`, and
/// `inner` ones.
fn video_of(folder: &Path, dir: &Path, inner: &HashSet<&Path>) -> PathBuf {
    let is_named = |name: &std::ffi::OsStr| is_folder_of_frames(name) || is_named_beside(name);
    let says_what = |folder: &Path| inner.contains(folder) || folder.file_name().is_some_and(is_named);
    let named = folder.ancestors().find(|folder| *folder == dir || folder.parent() == Some(dir) || !says_what(folder));
    named.unwrap_or(folder).to_owned()
}

impl Tree {
    /// Names of all files, then of all folders of frames.
    fn names(&self, dir: &Path) -> Vec<PathBuf> {
        let (inner, files) = (self.inner(), self.files.iter().map(|file| file.with_extension("")));
        files.chain(self.frames.iter().map(|folder| video_of(folder, dir, &inner))).collect()
    }

    /// Removes trees that are named as flow, masks or depth and lie beside a tree of the same videos, and returns them.
    pub(super) fn leave_trees_beside(&mut self, dir: &Path) -> Vec<PathBuf> {
        let names = self.names(dir);
        let (beside, plain_places): (Vec<Place>, Vec<Place>) =
            places(&names, dir).into_iter().partition(Place::is_beside);
        let plain: HashMap<(&Path, &Path), bool> = plain_places.iter().fold(HashMap::new(), |mut plain, place| {
            *plain.entry(place.name).or_default() |= place.is_telling();
            plain
        });
        let beside_names: HashSet<(&Path, &Path)> = beside.iter().map(|place| place.name).collect();
        let in_plain = names_of(of_shared_trees(&plain_places, |place| beside_names.contains(&place.name)));
        let mut left = of_shared_trees(&beside, |place| plain.get(&place.name) == Some(&true));
        left.extend(beside.iter().filter(|place| in_plain.contains(&place.name)));
        let trees: HashSet<PathBuf> = left.iter().map(|place| place.tree.to_owned()).collect();
        let outside = |path: &PathBuf| !path.ancestors().any(|above| trees.contains(above));
        self.files.retain(outside);
        self.frames.retain(outside);
        let mut trees: Vec<PathBuf> = trees.into_iter().collect();
        trees.sort();
        trees
    }

    /// Two trees below `dir` that hold the same videos, such as frames in two sizes, and the name of the first of them.
    pub(super) fn same_twice(&self, dir: &Path) -> Option<([PathBuf; 2], PathBuf)> {
        let names = self.names(dir);
        let mut places = places(&names, dir);
        places.retain(|place| place.tree.file_name().is_some_and(is_no_class));
        let mut trees: BTreeMap<(&Path, &Path), BTreeSet<&Path>> = BTreeMap::new();
        for place in &places {
            trees.entry(place.name).or_default().insert(place.tree);
        }
        let others = |place: &Place| trees[&place.name].iter().copied().find(|tree| *tree != place.tree);
        let shared = of_shared_trees(&places, |place| others(place).is_some());
        let found = shared.into_iter().find_map(|place| Some((place, others(place)?)));
        found.map(|(place, other)| ([place.tree.to_owned(), other.to_owned()], place.name.1.to_owned()))
    }

    /// Removes files of videos whose frames are in a folder of the same name, beside the file or in a tree beside that
    /// of the file, and returns them.
    pub(super) fn leave_decoded(&mut self, dir: &Path) -> Vec<PathBuf> {
        let (files, names) = (self.files.len(), self.names(dir));
        let folders: HashSet<&PathBuf> = names[files..].iter().collect();
        let mut decoded: HashSet<usize> = (0..files).filter(|&i| folders.contains(&names[i])).collect();
        let (of_files, of_frames): (Vec<Place>, Vec<Place>) =
            places(&names, dir).into_iter().partition(|place| place.video < files);
        let frames: HashSet<(&Path, &Path)> =
            of_frames.iter().filter(|place| place.is_telling()).map(|place| place.name).collect();
        let shared = |place: &Place| frames.contains(&place.name);
        decoded.extend(of_shared_trees(&of_files, shared).into_iter().filter(|p| shared(p)).map(|place| place.video));
        let of_files_names: HashSet<(&Path, &Path)> = of_files.iter().map(|place| place.name).collect();
        let extracted = names_of(of_shared_trees(&of_frames, |place| of_files_names.contains(&place.name)));
        decoded.extend(of_files.iter().filter(|place| extracted.contains(&place.name)).map(|place| place.video));
        let all = std::mem::take(&mut self.files).into_iter().enumerate();
        let (left, kept): (Vec<_>, Vec<_>) = all.partition(|(i, _)| decoded.contains(i));
        self.files = kept.into_iter().map(|(_, file)| file).collect();
        left.into_iter().map(|(_, file)| file).collect()
    }
}
