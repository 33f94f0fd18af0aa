//! The key of a cache file: its source and settings, stored in the file as JSON and hashed into the file's name.
//! Changed inputs lead to other names, and a key is enough to check whether its source is unchanged.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::packed::{Kind, Named};
use super::procedural::Happening;
use super::{
    CacheSpec, Dataset, Decode, FlowSource, Item, MotionSpec, Source, content, flow_folder, folder, packed, procedural,
};
use crate::error::{Error, Result};
use crate::files::fnv1a;
use crate::flow::maps::MapSpec;

/// Everything a file of frames depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FramesKey {
    format: u32,
    pub source: SourceKey,
    short_side: Option<usize>,
    fps: Option<f64>,
    max_frames: Option<usize>,
}

/// Everything a file of flow depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FlowKey {
    pub frames: FramesKey,
    pub flow: FlowFrom,
    every: usize,
    gap: usize,
}

/// Everything a file of maps depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MapsKey {
    pub flow: FlowKey,
    maps: String,
}

/// The state of a video's source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum SourceKey {
    File {
        path: Name,
        bytes: u64,
        changed: u64,
    },
    Part {
        path: Name,
        bytes: u64,
        changed: u64,
        from: u64,
        to: u64,
    },
    Folder {
        path: Name,
        files: Files,
        fps: f64,
    },
    Procedural {
        version: u32,
        video: usize,
        classes: usize,
        frames: usize,
        side: usize,
        fps: f64,
        seed: u64,
        /// Absent where the objects move all the time, as before there were other videos.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        happening: Option<String>,
    },
    /// A file by its content, wherever it is ([`content::of_file`]), or the part of it between these milliseconds.
    Content {
        bytes: u64,
        hash: u64,
        part: Option<[u64; 2]>,
    },
    /// A folder of frames by their names and contents.
    FolderContent {
        files: Files,
        fps: f64,
    },
}

/// Source of flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum FlowFrom {
    Computed(String),
    Folder { path: Name, files: Files },
}

/// The number of files and a hash of their names, sizes and modification times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Files {
    count: usize,
    hash: u64,
}

/// A path, which need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

/// The keys of a video's files.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub frames: Named,
    pub flow: Option<Named>,
    pub maps: Option<Named>,
}

impl Keys {
    /// The key of the file of `kind`, if there is one.
    pub(super) fn get(&self, kind: Kind) -> Option<&Named> {
        match kind {
            Kind::Frames => Some(&self.frames),
            Kind::Flow => self.flow.as_ref(),
            Kind::Maps => self.maps.as_ref(),
        }
    }

    /// The keys of the files that `spec` wants of `item`.
    pub(super) fn of(item: &Item, data: &Dataset, spec: &CacheSpec) -> Result<Keys> {
        Keys::of_source(SourceKey::of(&item.source, data, spec.decode.folder_fps)?, item, spec)
    }

    /// The same with the source's content in place of its path and time.
    pub(super) fn by_content(item: &Item, data: &Dataset, spec: &CacheSpec) -> Result<Keys> {
        Keys::of_source(SourceKey::by_content(&item.source, data, spec.decode.folder_fps)?, item, spec)
    }

    fn of_source(source: SourceKey, item: &Item, spec: &CacheSpec) -> Result<Keys> {
        let Decode { short_side, fps, max_frames, .. } = spec.decode;
        let frames = FramesKey { format: packed::VERSION, source, short_side, fps, max_frames };
        let mut keys = Keys { frames: named(&frames)?, flow: None, maps: None };
        let Some(MotionSpec { settings, source, every, gap }) = &spec.motion else { return Ok(keys) };
        let flow = match source {
            FlowSource::TvL1 => FlowFrom::Computed(settings.clone()),
            FlowSource::Folder(root) => FlowFrom::folder(&flow_folder::find(root, &item.name)?)?,
        };
        let flow = FlowKey { frames, flow, every: *every, gap: *gap };
        keys.flow = Some(named(&flow)?);
        if let Some(spec) = &spec.maps {
            keys.maps = Some(named(&MapsKey { flow, maps: settings_of(spec) })?);
        }
        Ok(keys)
    }
}

/// All settings of maps, as text.
fn settings_of(spec: &MapSpec) -> String {
    let MapSpec { window, grid: [rows, cols], border, span, fps } = spec;
    let rate = fps.map_or("the video's own rate".to_owned(), |fps| format!("{fps} a second"));
    format!("window {window}, grid {rows} x {cols}, border {border}, span {span} frames at {rate}")
}

pub(super) fn named(key: &impl Serialize) -> Result<Named> {
    let text = serde_json::to_vec(key).map_err(|e| Error::param("cache", "key", "not JSON", e))?;
    if text.len() > packed::MAX_KEY {
        let rule = format!("paths and settings may take {} bytes", packed::MAX_KEY);
        return Err(Error::param("cache", "key", format!("{} bytes", text.len()), rule));
    }
    Ok(Named { hash: fnv1a(&text), text })
}

/// Parses a key stored in a file.
pub(super) fn parse<K: DeserializeOwned>(text: &[u8]) -> Option<K> {
    serde_json::from_slice(text).ok()
}

impl SourceKey {
    fn of(source: &Source, data: &Dataset, folder_fps: f64) -> Result<SourceKey> {
        match source {
            Source::File(path) => SourceKey::file(path),
            Source::Part(path, [from, to]) => SourceKey::part(path, *from, *to),
            Source::Folder(path) => SourceKey::folder(path, folder_fps),
            Source::Procedural(video) => {
                let spec = data.procedural.clone().unwrap_or_default();
                let procedural::ProceduralSpec { classes, frames, side, fps, seed, happening, .. } = spec;
                let happening = (happening != Happening::Always).then(|| happening.name().to_owned());
                let (version, video) = (procedural::VERSION, *video);
                Ok(SourceKey::Procedural { version, video, classes, frames, side, fps, seed, happening })
            }
            Source::Packed(_) => {
                Err(Error::param("cache", "source", "packed", "a packed video is in its packed folder"))
            }
        }
    }

    /// The key of `source` by its content, which stays the same under another path and after a copy.
    pub(super) fn by_content(source: &Source, data: &Dataset, folder_fps: f64) -> Result<SourceKey> {
        let of = |path: &Path, part| {
            let (bytes, hash) = content::of_file(path)?;
            Ok(SourceKey::Content { bytes, hash, part })
        };
        match source {
            Source::File(path) => of(path, None),
            Source::Part(path, part) => of(path, Some(*part)),
            Source::Folder(path) => {
                let frames = folder::frames(path)?;
                let hash = content::of_files(&frames)?;
                Ok(SourceKey::FolderContent { files: Files { count: frames.len(), hash }, fps: folder_fps })
            }
            Source::Procedural(_) | Source::Packed(_) => SourceKey::of(source, data, folder_fps),
        }
    }

    fn file(path: &Path) -> Result<SourceKey> {
        let path = whole(path)?;
        let meta = fs::metadata(&path).map_err(Error::io("read", &path))?;
        Ok(SourceKey::File { bytes: meta.len(), changed: changed(&meta), path: path.into() })
    }

    fn part(path: &Path, from: u64, to: u64) -> Result<SourceKey> {
        let path = whole(path)?;
        let meta = fs::metadata(&path).map_err(Error::io("read", &path))?;
        Ok(SourceKey::Part { bytes: meta.len(), changed: changed(&meta), path: path.into(), from, to })
    }

    fn folder(path: &Path, fps: f64) -> Result<SourceKey> {
        let files = Files::of(&folder::frames(path)?)?;
        Ok(SourceKey::Folder { path: whole(path)?.into(), files, fps })
    }

    /// Why nothing made from this source will be used again; `None` if it may be.
    pub(super) fn stale(&self) -> Option<String> {
        let now = match self {
            SourceKey::File { path, .. } => SourceKey::file(&path.path()),
            SourceKey::Part { path, from, to, .. } => SourceKey::part(&path.path(), *from, *to),
            SourceKey::Folder { path, fps, .. } => SourceKey::folder(&path.path(), *fps),
            // Where it is now is not known.
            SourceKey::Content { .. } | SourceKey::FolderContent { .. } => return None,
            SourceKey::Procedural { version, .. } if *version == procedural::VERSION => return None,
            SourceKey::Procedural { .. } => return Some("another version of this program made its source".into()),
        };
        differs(now.map(|now| now == *self), "its source")
    }
}

impl FlowFrom {
    fn folder(dir: &Path) -> Result<FlowFrom> {
        let paths: Vec<PathBuf> = flow_folder::Files::list(dir)?.paths().cloned().collect();
        Ok(FlowFrom::Folder { path: whole(dir)?.into(), files: Files::of(&paths)? })
    }

    /// Like [`SourceKey::stale`].
    pub(super) fn stale(&self) -> Option<String> {
        let FlowFrom::Folder { path, .. } = self else { return None };
        differs(FlowFrom::folder(&path.path()).map(|now| now == *self), "the folder its flow came from")
    }
}

fn differs(same: Result<bool>, what: &str) -> Option<String> {
    match same {
        Ok(true) => None,
        Ok(false) => Some(format!("{what} has changed")),
        // It is not known, and what is stale may be removed.
        Err(e) if e.is_of_the_machine() => None,
        Err(e) => Some(format!("{what} cannot be read: {e}")),
    }
}

impl Files {
    fn of(files: &[PathBuf]) -> Result<Files> {
        let mut text = Vec::new();
        for file in files {
            let meta = fs::metadata(file).map_err(Error::io("read", file))?;
            text.extend(file.file_name().unwrap_or_default().as_encoded_bytes());
            text.extend(format!("/{}/{}/", meta.len(), changed(&meta)).as_bytes());
        }
        Ok(Files { count: files.len(), hash: fnv1a(&text) })
    }
}

impl Name {
    fn path(&self) -> PathBuf {
        match self {
            Name::Text(text) => PathBuf::from(text),
            Name::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes.clone())),
        }
    }
}

impl From<PathBuf> for Name {
    fn from(path: PathBuf) -> Name {
        match path.to_str() {
            Some(text) => Name::Text(text.to_owned()),
            None => Name::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl std::fmt::Display for SourceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SourceKey::File { path, .. } | SourceKey::Folder { path, .. } => write!(f, "{}", path.path().display()),
            SourceKey::Part { path, from, to, .. } => {
                write!(f, "{} from {from} to {to} ms", path.path().display())
            }
            SourceKey::Content { bytes, hash, .. } => write!(f, "a file of {bytes} bytes with the hash {hash:016x}"),
            SourceKey::FolderContent { files, .. } => {
                write!(f, "a folder of {} frames with the hash {:016x}", files.count, files.hash)
            }
            SourceKey::Procedural { video, classes, seed, .. } => {
                write!(f, "procedural video {video} ({classes} classes, seed {seed})")
            }
        }
    }
}

/// The settings, without the source.
impl std::fmt::Display for FramesKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.short_side {
            Some(side) => write!(f, "short side {side}")?,
            None => write!(f, "full size")?,
        }
        if let SourceKey::Folder { fps, .. } | SourceKey::FolderContent { fps, .. } = &self.source {
            write!(f, ", taken at {fps} a second")?;
        }
        if let Some(fps) = self.fps {
            write!(f, ", {fps} frames a second")?;
        }
        if let Some(max) = self.max_frames {
            write!(f, ", at most {max} frames")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; flow every {} frames to the {} later, ", self.frames, self.every, self.gap)?;
        match &self.flow {
            FlowFrom::Computed(settings) => f.write_str(&in_words(settings)),
            FlowFrom::Folder { path, .. } => {
                // The folder of one video: its parent is common to the videos of a data set.
                let path = path.path();
                write!(f, "from {}", path.parent().unwrap_or(&path).display())
            }
        }
    }
}

/// Settings of a computation as people read them. What a key holds is the `Debug` text of a structure, `Name { a: 1, b_c: 2 }`,
/// which must stay as it is, for it names files.
fn in_words(settings: &str) -> String {
    let parts = settings.split_once('{').zip(settings.trim_end().strip_suffix('}'));
    let Some(((name, _), body)) = parts else { return settings.to_owned() };
    let body = &body[name.len() + 1..];
    let name = if name.trim() == "Tvl1" { "TV-L1" } else { name.trim() };
    let fields: Vec<String> = body
        .split(',')
        .filter_map(|field| field.split_once(':'))
        .map(|(field, value)| format!("{} {}", field.trim().replace('_', " "), value.trim()))
        .collect();
    if fields.is_empty() { name.to_owned() } else { format!("{name} with {}", fields.join(", ")) }
}

impl std::fmt::Display for MapsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.flow, self.maps)
    }
}

fn whole(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(Error::io("read", path))
}

/// Nanoseconds between 1970 and the last modification; 64 bits last until the year 2554.
fn changed(meta: &fs::Metadata) -> u64 {
    let time = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::in_words;
    use crate::ops::tvl1::Tvl1;

    #[test]
    fn settings_are_told_in_words() {
        let said = in_words(&format!("{:?}", Tvl1::default()));
        assert!(said.starts_with("TV-L1 with tau 0.25, lambda 0.15, ") && said.contains("scale step 0.8"), "{said}");
        assert!(!said.contains(['{', '}', ':', '_']), "{said}");
        for other in ["by hand", "a: 1, b: 2", "", "}", "{", "} {", "é{ü: 1}"] {
            let _ = in_words(other); // whatever a key holds is shown
        }
        assert_eq!((in_words("by hand"), in_words("Rest { }")), ("by hand".to_owned(), "Rest".to_owned()));
    }
}
