//! One tar file of a packed folder, and the JSON file that describes it.
//!
//! `000012-003.tar` is the fourth tar file of group 12. Entries are called by the position of their video in the data set:
//! `000000790.tbv` has its frames, `000000790.tbf`, which follows immediately, its flow. Times and owners are zero, so the same
//! videos give the same bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::packed::{self, Content, Kind, Named};
use super::plan::{FORMAT, MAX_JSON, temporary, write_whole};
use crate::error::{Error, Result};
use crate::files;

/// Size of a block of a tar file, and of the header of an entry.
pub(super) const BLOCK: u64 = 512;
/// The blocks at the end of a tar file.
const END: u64 = 2 * BLOCK;
/// In place of the checksum while it is computed.
const NO_SUM: &str = "\"sum\":\"00000000\"";

/// The description of a tar file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Volume {
    /// CRC-32 of the file's text, with zeros here.
    sum: String,
    format: u32,
    /// [`super::plan::Plan::id`].
    plan: String,
    pub group: u64,
    pub part: u64,
    /// The videos from `first` on and before `end` are here, or are gaps.
    pub first: u64,
    pub end: u64,
    /// Whether the group ends here.
    pub last: bool,
    /// Bytes of the tar file.
    pub bytes: u64,
    pub videos: Vec<Packed>,
    pub gaps: Vec<Gap>,
}

/// A video in a tar file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Packed {
    /// Position in the data set.
    pub at: u64,
    pub name: String,
    pub label: Option<u64>,
    /// Hash of the key of its frames, 16 hexadecimal digits.
    pub key: String,
    /// Number of frames, and frames per second.
    pub frames: u64,
    pub fps: f64,
    /// Offset, bytes and checksum of the file of frames.
    pub tbv: [u64; 3],
    /// The same of the flow.
    pub tbf: Option<[u64; 3]>,
}

/// A video without data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Position in the data set, training videos first.
    pub at: u64,
    /// Name of the video.
    pub name: String,
    /// Index of its class.
    pub label: Option<u64>,
    /// Why it has no data.
    pub why: String,
}

/// Name of a tar file without its extension.
pub(super) fn stem(group: u64, part: u64) -> String {
    format!("{group:06}-{part:03}")
}

pub(super) fn tar_of(dir: &Path, group: u64, part: u64) -> PathBuf {
    dir.join(stem(group, part) + ".tar")
}

fn json_of(dir: &Path, group: u64, part: u64) -> PathBuf {
    dir.join(stem(group, part) + ".json")
}

/// Removes a tar file and its description. Returns whether one of them was there.
pub(super) fn remove_volume(dir: &Path, group: u64, part: u64) -> std::io::Result<bool> {
    let mut there = false;
    // The description first: it says that the tar file is complete.
    for path in [json_of(dir, group, part), tar_of(dir, group, part)] {
        match fs::remove_file(path) {
            Ok(()) => there = true,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(there)
}

/// Name of the entry with the `kind` of data of the video at `position`.
pub(super) fn entry_name(position: u64, kind: Kind) -> String {
    format!("{position:09}.{}", kind.extension())
}

/// Offset of the next entry's data after `bytes` of data at `offset`.
pub(super) fn next(offset: u64, bytes: u64) -> Option<u64> {
    offset.checked_add(bytes)?.checked_next_multiple_of(BLOCK)?.checked_add(BLOCK)
}

impl Volume {
    fn text(&self) -> Result<String> {
        let text = serde_json::to_string(&Volume { sum: "00000000".into(), ..self.clone() });
        text.map_err(|e| Error::param("pack", "description", "not JSON", e))
    }

    /// Reads the description of a tar file and checks its tar file's length. All numbers in it fit each other afterwards.
    ///
    /// # Errors
    /// `Io` of the kind `NotFound` when it is not there; `Format` when it is damaged, or of another packed folder.
    pub(super) fn read(dir: &Path, plan: &str, group: u64, part: u64) -> Result<Volume> {
        let path = json_of(dir, group, part);
        let bytes = files::read_bounded(&path, MAX_JSON, "the description of a tar file")?;
        let volume: Volume = serde_json::from_slice(&bytes).map_err(|e| Error::content(&path, e))?;
        let text = volume.text()?;
        if format!("{:08x}", crc32fast::hash(text.as_bytes())) != volume.sum {
            return Err(Error::content(&path, "this description of a tar file is damaged"));
        }
        if volume.format != FORMAT || volume.plan != plan || [volume.group, volume.part] != [group, part] {
            return Err(Error::content(&path, "this describes a tar file of another packed folder"));
        }
        if !volume.fits() {
            return Err(Error::content(&path, "the numbers in this description of a tar file do not fit"));
        }
        let tar = tar_of(dir, group, part);
        let length = files::check_regular(&tar, "a packed file")?.len();
        if length != volume.bytes {
            return Err(Error::content(&tar, format!("it has {length} bytes, and should have {}", volume.bytes)));
        }
        Ok(volume)
    }

    /// Whether the entries follow each other as in a tar file of this size, and each video is there once.
    fn fits(&self) -> bool {
        let count = (self.videos.len() + self.gaps.len()) as u64;
        if self.end.checked_sub(self.first) != Some(count) {
            return false;
        }
        let (mut at, mut gaps) = (self.first, self.gaps.iter().map(|gap| gap.at).peekable());
        let mut offset = Some(BLOCK);
        for video in &self.videos {
            while gaps.next_if_eq(&at).is_some() {
                at += 1;
            }
            for [begin, bytes, _] in [Some(video.tbv), video.tbf].into_iter().flatten() {
                if offset != Some(begin) {
                    return false;
                }
                offset = next(begin, bytes);
            }
            if video.at != at || u64::from_str_radix(&video.key, 16).is_err() || video.tbv[1] == 0 {
                return false;
            }
            at += 1;
        }
        while gaps.next_if_eq(&at).is_some() {
            at += 1;
        }
        let end = offset.and_then(|offset| (offset - BLOCK).checked_add(END));
        at == self.end && gaps.next().is_none() && end == Some(self.bytes)
    }
}

/// A tar file being written.
pub(super) struct Writer<'a> {
    dir: &'a Path,
    path: PathBuf,
    tar: tar::Builder<BufWriter<File>>,
    volume: Volume,
    /// Offset of the next entry's data.
    offset: u64,
}

impl<'a> Writer<'a> {
    /// Begins a tar file with the video at position `first`.
    pub(super) fn create(dir: &'a Path, plan: &str, [group, part]: [u64; 2], first: u64) -> Result<Writer<'a>> {
        let path = tar_of(dir, group, part);
        let file = File::create(temporary(&path)).map_err(Error::io("create", &path))?;
        let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
        tar.mode(tar::HeaderMode::Deterministic);
        let volume = Volume {
            sum: String::new(),
            format: FORMAT,
            plan: plan.to_owned(),
            group,
            part,
            first,
            end: first,
            last: false,
            bytes: 0,
            videos: Vec::new(),
            gaps: Vec::new(),
        };
        Ok(Writer { dir, path, tar, volume, offset: BLOCK })
    }

    /// Bytes of the tar file if it ended after files of these lengths.
    pub(super) fn bytes_with(&self, lengths: impl IntoIterator<Item = u64>) -> u64 {
        let end = lengths.into_iter().fold(self.offset, |at, n| next(at, n).unwrap_or(u64::MAX - END));
        end - BLOCK + END
    }

    /// Whether there is no video in it.
    pub(super) fn is_empty(&self) -> bool {
        self.volume.videos.is_empty()
    }

    /// Appends a file of the cache: its header and its data. Returns its offset, bytes and checksum.
    fn append(&mut self, position: u64, kind: Kind, [head, data]: [&[u8]; 2], sum: u32) -> Result<[u64; 3]> {
        let (begin, bytes) = (self.offset, (head.len() + data.len()) as u64);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        let named = header.set_path(entry_name(position, kind));
        header.set_cksum();
        let written = named.and_then(|()| self.tar.append(&header, head.chain(data)));
        written.map_err(Error::io("write", &self.path))?;
        let too_long = || Error::data(&self.path, "it became too long");
        self.offset = next(begin, bytes).ok_or_else(too_long)?;
        Ok([begin, bytes, sum.into()])
    }

    /// Appends the next video.
    pub(super) fn video(&mut self, name: &str, label: Option<u64>, files: &[Entry<'_>]) -> Result<()> {
        let at = self.volume.end;
        let mut places = Vec::new();
        for entry in files {
            places.push(self.append(at, entry.kind, [&entry.head, entry.content.numbers], entry.sum)?);
        }
        let [Some(frames), flow] = [files.first(), files.get(1)] else { return Ok(()) };
        self.volume.videos.push(Packed {
            at,
            name: name.to_owned(),
            label,
            key: format!("{:016x}", frames.key.hash),
            frames: frames.content.extents[0] as u64,
            fps: frames.content.fps,
            tbv: places[0],
            tbf: flow.map(|_| places[1]),
        });
        self.volume.end += 1;
        Ok(())
    }

    /// Notes that the next video has no data.
    pub(super) fn gap(&mut self, name: &str, label: Option<u64>, why: String) {
        self.volume.gaps.push(Gap { at: self.volume.end, name: name.to_owned(), label, why });
        self.volume.end += 1;
    }

    /// Completes the tar file, then its description. `last` says whether the group ends here.
    pub(super) fn finish(self, last: bool) -> Result<Volume> {
        let bytes = self.bytes_with([]);
        let Writer { dir, path, tar, mut volume, .. } = self;
        let temporary = temporary(&path);
        let written = tar
            .into_inner()
            .and_then(|mut buffer| buffer.flush().and_then(|()| buffer.get_ref().sync_all()))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(Error::io("write", &path))?;
        (volume.last, volume.bytes) = (last, bytes);
        let text = volume.text()?;
        volume.sum = format!("{:08x}", crc32fast::hash(text.as_bytes()));
        let text = text.replacen(NO_SUM, &format!("\"sum\":\"{}\"", volume.sum), 1);
        write_whole(&json_of(dir, volume.group, volume.part), text.as_bytes())?;
        // The directory entries must be on disk, too.
        File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("sync", dir))?;
        Ok(volume)
    }
}

/// A file of the cache, to be appended.
pub(super) struct Entry<'a> {
    kind: Kind,
    key: &'a Named,
    content: Content<'a>,
    head: Vec<u8>,
    pub sum: u32,
}

impl<'a> Entry<'a> {
    pub(super) fn new(kind: Kind, key: &'a Named, content: Content<'a>) -> std::io::Result<Entry<'a>> {
        let (head, sum) = packed::header(kind, key, &content)?;
        Ok(Entry { kind, key, content, head, sum })
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        (self.head.len() + self.content.numbers.len()) as u64
    }
}
