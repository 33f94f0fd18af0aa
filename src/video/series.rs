//! Determines which images of a folder are the frames of the video.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Prefixes of words in the names of images that are stored beside frames but are none.
const BESIDE: [&str; 17] = [
    "flow",
    "optflow",
    "opticalflow",
    "mask",
    "matte",
    "alpha",
    "depth",
    "disp",
    "seg",
    "label",
    "annot",
    "normal",
    "salien",
    "thumb",
    "preview",
    "poster",
    "cover",
];
/// Letters for the two components of flow.
const COMPONENTS: [[&str; 2]; 2] = [["x", "y"], ["u", "v"]];
/// Words beside these in the names of folders: `optical_flow`, `depth_maps`.
const AROUND: [&str; 10] = ["optical", "tvl", "raft", "map", "maps", "image", "images", "img", "imgs", "frames"];
/// A series counts as the frames if it has this many times as many images as all others together.
const CLEARLY: usize = 10;

/// Images whose names differ only in their numbers: the name with `#` for each number, and the extension.
type Name = (String, String);

/// Of the `pictures` in `dir` those that are frames, in their order.
pub(super) fn frames(dir: &Path, pictures: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    if pictures.is_empty() {
        return Err(Error::data(dir, "there is no .jpg or .png frame in this folder"));
    }
    let mut all: BTreeMap<Name, Vec<PathBuf>> = BTreeMap::new();
    for path in pictures {
        all.entry(name_of(&path)).or_default().push(path);
    }
    let names: Vec<Name> = all.keys().cloned().collect();
    if names.iter().any(|name| !is_beside(name, &names)) {
        all.retain(|name, _| !is_beside(name, &names));
    }
    let total: usize = all.values().map(Vec::len).sum();
    let largest = all.iter().max_by_key(|(_, files)| files.len()).map(|(name, files)| (name.clone(), files.len()));
    match largest {
        Some((name, n)) if CLEARLY * (total - n) <= n => Ok(all.remove(&name).unwrap_or_default()),
        _ => {
            let list: Vec<String> =
                all.iter().take(4).map(|(name, files)| format!("{} ({} of them)", shown(name), files.len())).collect();
            let more = if all.len() > 4 { format!(" and {} more", all.len() - 4) } else { String::new() };
            let what = format!(
                "it holds several series of pictures, {}{more}, and nothing says which are the frames; a folder of frames \
                 holds one",
                list.join(", ")
            );
            Err(Error::data(dir, what))
        }
    }
}

/// `frame_0012.JPEG` is one of `frame_#.jpg`. Names without numbers are one series.
fn name_of(path: &Path) -> Name {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, extension) = (part(path.file_stem()), part(path.extension()));
    let extension = if extension == "jpeg" { "jpg".to_owned() } else { extension };
    let mut name = String::new();
    for c in stem.chars() {
        match c.is_ascii_digit() {
            true if name.ends_with('#') => {}
            true => name.push('#'),
            false => name.push(c),
        }
    }
    if !name.contains('#') && !words(&name).any(is_word_beside) {
        name.clear();
    }
    (name, extension)
}

/// Whether the name of an image folder only means flow, its components, masks, depth or thumbnails: `flow_x`, `y`.
pub(super) fn is_folder_beside(name: &str) -> bool {
    let name = name.to_lowercase();
    let is_component = |word: &str| COMPONENTS.as_flattened().contains(&word);
    is_component(&name)
        || words(&name).any(is_word_beside)
            && words(&name).all(|word| is_word_beside(word) || is_component(word) || AROUND.contains(&word))
}

/// Whether a picture shows flow by its name: `flow_00012.png`.
pub(super) fn is_of_flow(picture: &Path) -> bool {
    words(&name_of(picture).0).next().is_some_and(|word| word == "flow")
}

fn shown((name, extension): &Name) -> String {
    if name.is_empty() { format!("names without numbers, .{extension}") } else { format!("{name}.{extension}") }
}

fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty())
}

fn is_word_beside(word: &str) -> bool {
    BESIDE.iter().any(|beginning| word.starts_with(beginning))
}

/// Whether a series is known not to be frames, by its name or because the other component of flow is beside it.
fn is_beside(name: &Name, all: &[Name]) -> bool {
    let mut own = words(&name.0);
    if words(&name.0).any(is_word_beside) {
        return true;
    }
    let (Some(word), None) = (own.next(), own.next()) else { return false };
    let other = COMPONENTS.iter().find_map(|[a, b]| match word {
        w if w == *a => Some(*b),
        w if w == *b => Some(*a),
        _ => None,
    });
    other.is_some_and(|other| {
        all.iter().any(|(n, extension)| *n == name.0.replacen(word, other, 1) && *extension == name.1)
    })
}
