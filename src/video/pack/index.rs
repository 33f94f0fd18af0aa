//! The index of a packed folder, `index.tbi`: which entry of which tar file each video is. It is mapped, and records are read
//! where they are: opening it takes no memory for each video.
//!
//! | offset | type | content |
//! |---|---|---|
//! | 0 | 8 bytes | `TBINDEX` and a newline |
//! | 8 | u32 | format version |
//! | 12 | u32 | bytes of the JSON text, padded to a multiple of 64 |
//! | 16 | u64 | number of videos |
//! | 24 | u64 | number of tar files |
//! | 32 | u64 | bytes of all names |
//! | 40 | u32 | CRC-32 of everything after the header |
//! | 44 | u32 | CRC-32 of the header, with zeros here |
//! | 64 | JSON | settings, classes, and videos without data; then zeros |
//! | | 16 bytes each | tar files: group, part (u32), bytes (u64) |
//! | | 64 bytes each | videos: see `Record` |
//! | | UTF-8 | names, one after the other |

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::plan::{FORMAT, Plan};
use super::volume::{Gap, Packed, next};
use crate::error::{Error, Result};
use crate::files;

const MAGIC: &[u8; 8] = b"TBINDEX\n";
const HEADER: usize = 64;
/// In place of a label or a tar file that is not there.
const NONE: u32 = u32::MAX;

/// A video in the index.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Record {
    /// Hash of the key of its frames.
    key: u64,
    /// Where its file of frames begins in its tar file; the flow follows.
    offset: u64,
    /// Bytes of the file of frames.
    frames_bytes: u64,
    /// Bytes of the file of flow; 0 for none.
    flow_bytes: u64,
    /// Where its name ends; it begins where the one before ends.
    name_end: u64,
    /// Frames per second.
    fps: f64,
    /// Number of frames.
    frames: u32,
    label: u32,
    /// Which tar file.
    volume: u32,
    zero: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct VolumeRecord {
    group: u32,
    part: u32,
    bytes: u64,
}

/// The JSON text of the index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub plan: Plan,
    pub gaps: Vec<Gap>,
}

/// The index of a packed folder.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    map: Mmap,
    pub(super) settings: Settings,
    volumes: Range<usize>,
    records: Range<usize>,
    names: Range<usize>,
}

/// A video in the index, which has data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// Hash of the key of its frames: of their content and the settings.
    pub key: u64,
    /// Number of the tar file.
    pub volume: usize,
    /// Offset and bytes of its file of frames in that.
    pub frames: [u64; 2],
    /// Offset and bytes of its file of flow.
    pub flow: Option<[u64; 2]>,
    /// Number of frames, and frames per second.
    pub length: (usize, f64),
}

/// Builds the bytes of an index in the order of the videos.
#[derive(Default)]
pub(super) struct Draft {
    volumes: Vec<VolumeRecord>,
    records: Vec<Record>,
    names: Vec<u8>,
}

impl Draft {
    /// Begins the videos of a tar file.
    pub(super) fn volume(&mut self, group: u64, part: u64, bytes: u64) {
        self.volumes.push(VolumeRecord { group: group as u32, part: part as u32, bytes });
    }

    fn push(&mut self, name: &str, label: Option<u64>, record: Record) {
        self.names.extend(name.as_bytes());
        let label = label.and_then(|label| u32::try_from(label).ok()).unwrap_or(NONE);
        self.records.push(Record { label, name_end: self.names.len() as u64, ..record });
    }

    /// The next video, in the tar file begun last.
    pub(super) fn video(&mut self, video: &Packed) {
        let record = Record {
            key: u64::from_str_radix(&video.key, 16).unwrap_or_default(),
            offset: video.tbv[0],
            frames_bytes: video.tbv[1],
            flow_bytes: video.tbf.map_or(0, |[_, bytes, _]| bytes),
            fps: video.fps,
            frames: video.frames as u32,
            volume: self.volumes.len() as u32 - 1,
            ..Record::zeroed()
        };
        self.push(&video.name, video.label, record);
    }

    /// The next video, which has no data.
    pub(super) fn gap(&mut self, gap: &Gap) {
        self.push(&gap.name, gap.label, Record { volume: NONE, ..Record::zeroed() });
    }

    /// The parts of the file: header, and what follows it.
    pub(super) fn parts(&self, settings: &Settings) -> Result<[Vec<u8>; 2]> {
        let mut text = serde_json::to_vec(settings).map_err(|e| Error::param("pack", "index", "not JSON", e))?;
        text.resize(text.len().next_multiple_of(HEADER), 0);
        let length = u32::try_from(text.len());
        let length = length.map_err(|_| Error::param("pack", "gaps", settings.gaps.len(), "there are too many"))?;
        let mut sum = crc32fast::Hasher::new();
        self.tail(&text).iter().for_each(|part| sum.update(part));
        let mut header = vec![0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &FORMAT.to_le_bytes());
        put(12, &length.to_le_bytes());
        let numbers = [self.records.len(), self.volumes.len(), self.names.len()];
        numbers.iter().enumerate().for_each(|(i, n)| put(16 + 8 * i, &(*n as u64).to_le_bytes()));
        put(40, &sum.finalize().to_le_bytes());
        let own = crc32fast::hash(&header);
        header[44..48].copy_from_slice(&own.to_le_bytes());
        Ok([header, text])
    }

    /// What follows the header, with the JSON text.
    pub(super) fn tail<'a>(&'a self, text: &'a [u8]) -> [&'a [u8]; 4] {
        [text, bytemuck::cast_slice(&self.volumes), bytemuck::cast_slice(&self.records), &self.names]
    }
}

impl Index {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join("index.tbi")
    }

    /// Opens the index at `path` and compares it with its checksum.
    ///
    /// # Errors
    /// `Io` when it cannot be read, `Format` when it is damaged or of another version.
    pub fn open(path: &Path) -> Result<Index> {
        let (mut file, length) = files::open_regular(path, "the index of a packed folder")?;
        let bad = |at: u64, what: &str| Error::format(path, at, what);
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(|_| bad(0, "this is no index of a packed folder"))?;
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        if &header[..8] != MAGIC {
            return Err(bad(0, "this is no index of a packed folder"));
        }
        if u32_at(8) != FORMAT {
            let what = format!("this index has format {}, this program reads {FORMAT}", u32_at(8));
            return Err(bad(8, &what));
        }
        let mut without = header;
        without[44..48].fill(0);
        if crc32fast::hash(&without) != u32_at(44) {
            return Err(bad(44, "the header of this index is damaged"));
        }
        let [videos, volumes, names] = [16, 24, 32].map(u64_at);
        let text_end = HEADER as u64 + u64::from(u32_at(12));
        let ends = || {
            let volumes_end = text_end.checked_add(volumes.checked_mul(size_of::<VolumeRecord>() as u64)?)?;
            let records_end = volumes_end.checked_add(videos.checked_mul(size_of::<Record>() as u64)?)?;
            let ends = [text_end, volumes_end, records_end, records_end.checked_add(names)?];
            (text_end.is_multiple_of(64) && ends[3] == length).then_some(ends.map(|n| n as usize))
        };
        let ends = ends().ok_or_else(|| bad(12, "the sizes in the header of this index do not fit its length"))?;
        if sum_after(&mut file).map_err(Error::io("read", path))? != u32_at(40) {
            return Err(bad(40, "this index is damaged: make it again with --merge"));
        }
        // SAFETY: an index appears complete by a rename and is never modified; replacing it leaves this mapping intact.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let text = &map[HEADER..ends[0]];
        let text = &text[..text.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1)];
        let settings: Settings = serde_json::from_slice(text).map_err(|e| Error::content(path, e))?;
        if settings.plan.videos != videos || settings.plan.train > videos {
            return Err(bad(16, "the numbers of videos in this index do not fit"));
        }
        let [text, volumes, records, names] = ends;
        let (volumes, records, names) = (text..volumes, volumes..records, records..names);
        Ok(Index { path: path.to_owned(), map, settings, volumes, records, names })
    }

    /// Number of videos, those without data included.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.settings.plan.videos
    }

    /// Always false: a packed folder has at least one video.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn records(&self) -> &[Record] {
        // Aligned: the mapping starts at a page, and all that precedes the records has a multiple of 16 bytes.
        bytemuck::cast_slice(&self.map[self.records.clone()])
    }

    fn record(&self, i: u64) -> Result<&Record> {
        let record = usize::try_from(i).ok().and_then(|i| self.records().get(i));
        record.ok_or_else(|| Error::param("pack", "video", i, format!("the index has {} videos", self.len())))
    }

    /// Where video `i` is; `None` if it has no data.
    ///
    /// # Errors
    /// `Param` when there is no such video; `Format` when the index contradicts itself.
    pub fn entry(&self, i: u64) -> Result<Option<Entry>> {
        let r = self.record(i)?;
        if r.volume == NONE {
            return Ok(None);
        }
        let flow = next(r.offset, r.frames_bytes);
        let possible = (r.volume as usize) < self.volumes() && r.fps.is_finite() && r.fps > 0.0;
        let (Some(flow), true) = (flow, possible) else {
            return Err(Error::content(&self.path, format!("what it says of video {i} cannot be")));
        };
        Ok(Some(Entry {
            key: r.key,
            volume: r.volume as usize,
            frames: [r.offset, r.frames_bytes],
            flow: (r.flow_bytes > 0).then_some([flow, r.flow_bytes]),
            length: (r.frames as usize, r.fps),
        }))
    }

    /// The name of video `i`.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub fn name(&self, i: u64) -> Result<&str> {
        let end = self.record(i)?.name_end;
        let begin = if i == 0 { 0 } else { self.record(i - 1)?.name_end };
        let bytes = self.map[self.names.clone()].get(begin as usize..end as usize);
        let name = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        name.ok_or_else(|| Error::content(&self.path, format!("it has no name of video {i}")))
    }

    /// Reads all names and labels.
    pub(super) fn check_names(&self) -> Result<()> {
        for i in 0..self.len() {
            self.name(i)?;
            self.label(i)?;
        }
        let (end, bytes) = (self.records().last().map_or(0, |record| record.name_end), self.names.len());
        if end == bytes as u64 {
            return Ok(());
        }
        Err(Error::content(&self.path, format!("its names end after {end} bytes, and it has {bytes} of names")))
    }

    /// The label of video `i`: an index of its class.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub fn label(&self, i: u64) -> Result<Option<usize>> {
        let label = self.record(i)?.label;
        match self.settings.plan.classes.len() {
            _ if label == NONE => Ok(None),
            classes if (label as usize) < classes => Ok(Some(label as usize)),
            _ => Err(Error::content(&self.path, format!("it has no class {label}, which video {i} has"))),
        }
    }

    fn volume_records(&self) -> &[VolumeRecord] {
        bytemuck::cast_slice(&self.map[self.volumes.clone()])
    }

    /// Number of tar files.
    #[must_use]
    pub fn volumes(&self) -> usize {
        self.volume_records().len()
    }

    /// Group, part and bytes of tar file `i`, which must be one of an [`Entry`].
    pub(super) fn volume(&self, i: usize) -> [u64; 3] {
        self.volume_records().get(i).map_or([0; 3], |v| [v.group.into(), v.part.into(), v.bytes])
    }
}

/// The checksum of a file from its present position on. It is read in pieces instead of being mapped, so that it does not count
/// as memory of this process.
fn sum_after(file: &mut File) -> std::io::Result<u32> {
    let (mut sum, mut piece) = (crc32fast::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => sum.update(&piece[..n]),
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(sum.finalize())
}
