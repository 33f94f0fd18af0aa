//! One video of the cache as a file: frames and flow, packed, read by mapping it into memory.
//!
//! Little-endian throughout:
//!
//! | offset | type | content |
//! |---|---|---|
//! | 0 | 8 bytes | `TBVIDEO\n` |
//! | 8 | u32 | version of the format |
//! | 12 | u32 | length of the header in bytes, a multiple of 64: where the frames begin |
//! | 16 | u32 x 3 | frames: t, h, w |
//! | 28 | u32 x 3 | flow: number of fields, h, w (all 0 without flow) |
//! | 40 | f64 | frames per second |
//! | 48 | u32 x 2 | flow from every k-th frame, to the frame this many later |
//! | 56 | u64 x 2 | checksums of the frames and of the flow |
//! | 72 | u64 | hash of the key |
//! | 80 | u64 | checksum of the header, this field taken as 0 |
//! | 88 | u32 | length of the key, the text that says what the file was made of and how |
//! | 92 | bytes | the key, then zeros |
//! | header length | u8 | frames, `t h w 3`, then zeros up to a multiple of 64 |
//! | | f16 | flow, for each field the plane of u (`h w`), then of v, pixels over the gap |

use std::fs::File;
use std::io::Write;
use std::path::Path;

use half::f16;
use memmap2::Mmap;

use super::Clip;
use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::flow::maps::{Fields, MapSpec, Maps};
use crate::ops::motion_map::widened;

const _: () =
    assert!(cfg!(target_endian = "little"), "cache files are mapped as they are and hold little-endian numbers");

const MAGIC: &[u8; 8] = b"TBVIDEO\n";
pub(super) const VERSION: u32 = 1;
const FIXED: usize = 92;
/// Keys hold a path and some settings.
pub(super) const MAX_KEY: usize = 64 << 10;

/// Flow fields of a video, before they are packed.
pub(super) struct Motion {
    pub every: usize,
    pub gap: usize,
    pub h: usize,
    pub w: usize,
    /// For each field u then v.
    pub planes: Vec<f16>,
}

/// A mapped video of the cache. Pixels and flow are slices of the map: nothing is copied, and no file stays open.
#[derive(Debug)]
pub struct View {
    map: Mmap,
    head: Head,
}

#[derive(Debug, Clone, PartialEq)]
struct Head {
    t: usize,
    h: usize,
    w: usize,
    fields: usize,
    flow_h: usize,
    flow_w: usize,
    fps: f64,
    every: usize,
    gap: usize,
    frames_sum: u64,
    flow_sum: u64,
    key_hash: u64,
    frames_at: usize,
    flow_at: usize,
}

impl View {
    /// Number of frames.
    pub fn len(&self) -> usize {
        self.head.t
    }

    /// Never: a video has a frame.
    pub fn is_empty(&self) -> bool {
        self.head.t == 0
    }

    /// Height and width of the frames.
    pub fn size(&self) -> (usize, usize) {
        (self.head.h, self.head.w)
    }

    /// Frames per second.
    pub fn fps(&self) -> f64 {
        self.head.fps
    }

    /// Pixels of frame `t`, `h w 3`, 8-bit RGB. Panics where `t >= len()`, as slices do.
    pub fn frame(&self, t: usize) -> &[u8] {
        assert!(t < self.head.t, "frame {t} of {}", self.head.t);
        let n = self.head.h * self.head.w * 3;
        &self.map[self.head.frames_at + t * n..][..n]
    }

    /// The frames `indices` as a clip of `fps`.
    ///
    /// # Errors
    /// `Param` when an index is out of range; those of [`Clip::new`].
    pub fn clip(&self, indices: &[usize], fps: f64) -> Result<Clip> {
        if let Some(&i) = indices.iter().find(|&&i| i >= self.head.t) {
            return Err(Error::param("view", "indices", i, format!("the video has {} frames", self.head.t)));
        }
        let mut rgb = Vec::with_capacity(indices.len() * self.head.h * self.head.w * 3);
        indices.iter().for_each(|&i| rgb.extend_from_slice(self.frame(i)));
        Clip::new(indices.len(), self.head.h, self.head.w, rgb, fps)
    }

    /// Number of flow fields; 0 in a cache without flow.
    pub fn fields(&self) -> usize {
        self.head.fields
    }

    /// Height and width of the flow fields.
    pub fn flow_size(&self) -> (usize, usize) {
        (self.head.flow_h, self.head.flow_w)
    }

    /// The field that starts nearest to frame `t`. There must be one.
    pub fn field_of(&self, t: usize) -> usize {
        ((t + self.head.every / 2) / self.head.every).min(self.head.fields.saturating_sub(1))
    }

    /// Frame that field `m` starts from, and the one it leads to.
    pub fn field_frames(&self, m: usize) -> (usize, usize) {
        (m * self.head.every, m * self.head.every + self.head.gap)
    }

    /// Displacements u and v of field `m`, each `h w`, in pixels over the gap. Panics where `m >= fields()`.
    pub fn flow(&self, m: usize) -> (&[f16], &[f16]) {
        assert!(m < self.head.fields, "flow field {m} of {}", self.head.fields);
        let n = self.head.flow_h * self.head.flow_w;
        // Aligned: the map begins at a page and both offsets are even.
        let field: &[f16] = bytemuck::cast_slice(&self.map[self.head.flow_at + m * n * 4..][..n * 4]);
        field.split_at(n)
    }

    /// Field `m` in f32.
    pub fn flow_field(&self, m: usize) -> Flow {
        let (u, v) = self.flow(m);
        let Head { flow_h, flow_w, .. } = self.head;
        Flow::new(flow_h, flow_w, widened(u), widened(v)).expect("planes of `flow_h flow_w`")
    }

    /// Maps and scores, made of the flow.
    ///
    /// # Errors
    /// Those of [`Maps::new`]: there must be flow.
    pub fn maps(&self, spec: &MapSpec) -> Result<Maps> {
        let field = |m: usize| <[&[f16]; 2]>::from(self.flow(m));
        let Head { fields: count, flow_h, flow_w, every, fps, .. } = self.head;
        Maps::new(spec, &Fields { count, size: [flow_h, flow_w], every, fps, field: &field })
    }

    /// Maps `path` after checking its header and all sizes against its length. `key_hash` is what it must be made of;
    /// with `verify` the checksums of all pixels are checked too.
    pub(super) fn open(path: &Path, key_hash: u64, key: Option<&[u8]>, verify: bool) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: cache files appear complete under their name by a rename and are never written in place after it;
        // replacing one gives its name to another file and leaves this map as it is.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let head = Head::parse(&map).map_err(|(offset, what)| Error::format(path, offset, what))?;
        let stale = key.is_some_and(|key| map.get(FIXED..FIXED + key.len()) != Some(key));
        if head.key_hash != key_hash || stale {
            return Err(Error::format(path, 72, "this cache file was made of something else"));
        }
        if verify {
            let frames = &map[head.frames_at..][..head.t * head.h * head.w * 3];
            if sum(frames) != head.frames_sum || sum(&map[head.flow_at..]) != head.flow_sum {
                return Err(Error::format(path, head.frames_at as u64, "the pixels of this cache file are damaged"));
            }
        }
        Ok(Self { map, head })
    }
}

impl Head {
    /// Reads and checks a header. Nothing in it is believed before the lengths add up to that of the file.
    fn parse(bytes: &[u8]) -> Result<Self, (u64, String)> {
        let bad = |offset: u64, what: &str| Err((offset, what.to_owned()));
        if bytes.len() < FIXED || &bytes[..8] != MAGIC {
            return bad(0, "this is no cache file");
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let size_at = |at: usize| u32_at(at) as usize;
        if u32_at(8) != VERSION {
            return Err((8, format!("this cache file has format {}, this program reads {VERSION}", u32_at(8))));
        }
        let (length, key) = (size_at(12), size_at(88));
        if key > MAX_KEY || length != header_length(FIXED, key) || length > bytes.len() {
            return bad(12, "the lengths in the header of this cache file do not fit");
        }
        if header_sum(&bytes[..length], 80) != u64_at(80) {
            return bad(80, "the header of this cache file is damaged");
        }
        let [t, h, w, fields, flow_h, flow_w] = std::array::from_fn(|i| size_at(16 + 4 * i));
        let product = |parts: &[usize]| parts.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let layout = || -> Option<(usize, usize)> {
            let flow_at = length.checked_add(product(&[t, h, w, 3])?)?.checked_next_multiple_of(64)?;
            Some((flow_at, flow_at.checked_add(product(&[fields, flow_h, flow_w, 4])?)?))
        };
        let fps = f64::from_bits(u64_at(40));
        let every = size_at(48);
        match layout() {
            Some((flow_at, end))
                if end == bytes.len() && t * h * w > 0 && every > 0 && fps.is_finite() && fps > 0.0 =>
            {
                let [frames_sum, flow_sum, key_hash] = [u64_at(56), u64_at(64), u64_at(72)];
                let (gap, frames_at) = (size_at(52), length);
                Ok(Self {
                    t,
                    h,
                    w,
                    fields,
                    flow_h,
                    flow_w,
                    fps,
                    every,
                    gap,
                    frames_sum,
                    flow_sum,
                    key_hash,
                    frames_at,
                    flow_at,
                })
            }
            _ => bad(16, "the sizes in the header of this cache file do not fit its length"),
        }
    }
}

/// Length of a header of `fixed` bytes and a key.
pub(super) fn header_length(fixed: usize, key: usize) -> usize {
    (fixed + key).next_multiple_of(64)
}

/// Checksum of a header with its own field, at `field`, taken as 0.
pub(super) fn header_sum(header: &[u8], field: usize) -> u64 {
    let mut copy = header.to_vec();
    copy[field..field + 8].fill(0);
    sum(&copy)
}

/// Writes a video to `file`, the whole of it, and waits until it is on the disk.
pub(super) fn write(file: &mut File, key: &[u8], key_hash: u64, clip: &Clip, motion: &Motion) -> std::io::Result<()> {
    let small = |n: usize| u32::try_from(n).map_err(|_| std::io::Error::other("too large for a cache file"));
    let planes: &[u8] = bytemuck::cast_slice(&motion.planes);
    let fields = motion.planes.len() / (2 * motion.h * motion.w).max(1);
    if key.len() > MAX_KEY {
        return Err(std::io::Error::other("the settings are too long for a cache file"));
    }
    let mut header = vec![0u8; header_length(FIXED, key.len())];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(12, &small(header_length(FIXED, key.len()))?.to_le_bytes());
    let (flow_h, flow_w) = if fields == 0 { (0, 0) } else { (motion.h, motion.w) };
    for (i, n) in [clip.t, clip.h, clip.w, fields, flow_h, flow_w].into_iter().enumerate() {
        put(16 + 4 * i, &small(n)?.to_le_bytes());
    }
    put(40, &clip.fps.to_le_bytes());
    put(48, &small(motion.every)?.to_le_bytes());
    put(52, &small(motion.gap)?.to_le_bytes());
    put(56, &sum(&clip.rgb).to_le_bytes());
    put(64, &sum(planes).to_le_bytes());
    put(72, &key_hash.to_le_bytes());
    put(88, &small(key.len())?.to_le_bytes());
    put(FIXED, key);
    let checksum = header_sum(&header, 80);
    header[80..88].copy_from_slice(&checksum.to_le_bytes());
    let padding = (header.len() + clip.rgb.len()).next_multiple_of(64) - header.len() - clip.rgb.len();
    for part in [&header[..], &clip.rgb, &[0u8; 64][..padding], planes] {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// Checksum over words of 8 bytes in four lanes; any change within one word changes it.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |lane: u64, word: u64| ((lane ^ word).wrapping_mul(ODD)).rotate_left(29);
    let word = |b: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| b.get(i).copied().unwrap_or(0)));
    let mut lanes = [1u64, 2, 3, 4];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, b) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = step(*lane, word(b));
        }
    }
    let tail = blocks.remainder().chunks(8).fold(bytes.len() as u64, |s, b| step(s, word(b)));
    lanes.into_iter().fold(tail, step)
}
