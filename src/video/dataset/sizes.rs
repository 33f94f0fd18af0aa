//! Folders that are named for what is in them and how large it is, and not for a class or a video: `frames`, `rgb_240`.
//!
//! They are trees of all videos (`rgb_240/class/video`, see [`super::trees`]) or lie within the folder of each video
//! (`class/video/rgb_240`), and there may be one for each size.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use super::walk::{Tree, is_folder_of_frames};

/// Names of trees of video files.
const VIDEOS: [&str; 4] = ["video", "videos", "clip", "clips"];
/// Words for one thing, which a number behind them counts: `clip_2` is another clip, and `clips_240` are smaller ones.
const COUNTED: [&str; 5] = ["video", "clip", "img", "image", "frame"];
/// Words beside these, and beside names of folders of frames, that say how large they are: `frames_small`, `rgb_320x240`.
const SIZES: [&str; 22] = [
    "tiny",
    "small",
    "medium",
    "large",
    "big",
    "low",
    "high",
    "full",
    "half",
    "quarter",
    "res",
    "resolution",
    "lowres",
    "highres",
    "hires",
    "original",
    "orig",
    "resized",
    "scaled",
    "p",
    "px",
    "x",
];

/// Numbers from this one on are sizes: smaller ones count, as in `rgb_1` and `rgb_2`.
const LEAST_SIZE: u64 = 32;
/// More folders than this within one are no sizes of a video, but videos whose numbers begin high.
const MOST_SIZES: usize = 6;

/// Whether the name of a folder says that it holds videos or frames, and perhaps how large they are, and nothing else.
pub(super) fn is_no_class(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    let counts = name.contains(|c: char| c.is_ascii_digit());
    let is_of_videos = |word: &str| {
        (is_folder_of_frames(word.as_ref()) || VIDEOS.contains(&word)) && !(counts && COUNTED.contains(&word))
    };
    let mut words = name.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    words.clone().any(is_of_videos) && words.all(|word| is_of_videos(word) || SIZES.contains(&word))
}

/// Whether the numbers in a name are sizes in pixels, if there are any.
fn has_sizes(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let numbers = name.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    let mut numbers = numbers.map(|number| (number.starts_with('0'), number.parse::<u64>()));
    numbers.all(|(padded, number)| !padded && number.is_ok_and(|number| number >= LEAST_SIZE))
}

impl Tree {
    /// Folders of frames that [say what is in them](is_no_class), by the folder that they lie in, where their numbers are
    /// sizes.
    fn named_for_content(&self) -> BTreeMap<&Path, Vec<&Path>> {
        let mut within: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
        for folder in self.frames.iter().filter(|folder| folder.file_name().is_some_and(is_no_class)) {
            within.entry(folder.parent().unwrap_or(folder)).or_default().push(folder);
        }
        let are_sizes = |folder: &&Path| folder.file_name().is_some_and(has_sizes);
        within.retain(|_, folders| folders.len() <= MOST_SIZES && folders.iter().all(are_sizes));
        within
    }

    /// Folders of frames that are named for what is in them, one in the folder of each video: `class/video/rgb_240`.
    pub(super) fn inner(&self) -> HashSet<&Path> {
        self.named_for_content().into_values().filter(|folders| folders.len() == 1).flatten().collect()
    }

    /// Two folders with the frames of one video, such as those of two sizes (`video/rgb_80` and `video/rgb_240`), and how many
    /// more videos are there so.
    pub(super) fn same_within(&self) -> Option<([&Path; 2], usize)> {
        let within = self.named_for_content();
        let mut several = within.into_values().filter(|folders| folders.len() > 1);
        let first = several.next()?;
        Some(([first[0], first[1]], several.count()))
    }
}
