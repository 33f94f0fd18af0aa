//! Headers of a video file, read with `ffprobe`.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::pipe::Patience;
use super::programs::{collect, reason};
use crate::error::{Error, Result};
use crate::files;

/// What a file states about its first video stream. Nothing is checked against the frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Height in pixels as displayed, after rotation.
    pub h: usize,
    /// Width in pixels as displayed, after rotation.
    pub w: usize,
    /// Frames per second, if the container states it.
    pub fps: Option<f64>,
    /// Number of frames, if the container states it.
    pub frames: Option<usize>,
    /// Duration in seconds, if the container states it: of the stream, or else of the whole file.
    pub seconds: Option<f64>,
    /// All rates the container states, the average first.
    pub(super) rates: Vec<f64>,
    /// Whether the container is AVI.
    pub(super) avi: bool,
    /// Expected end of the stream, in seconds since the start of the file.
    pub(super) end: Option<f64>,
    /// Start and expected end of the file, in seconds of its own clock.
    pub(super) span: Option<[f64; 2]>,
}

/// Maximum side of a video.
pub(super) const MAX_SIDE: usize = 16_384;
/// Higher frame rates are errors of the container.
const MAX_FPS: f64 = 1000.0;
/// `ffprobe` prints less than this about the headers of any file.
pub(super) const PROBE_BYTES: usize = 1 << 20;
/// And less than this about its packets: some millions.
const PACKET_BYTES: usize = 256 << 20;

/// What `ffprobe` says of a file.
#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    pub streams: Vec<Stream>,
    #[serde(default)]
    pub format: Container,
}

#[derive(Deserialize, Default)]
pub(super) struct Container {
    pub format_name: Option<String>,
    pub start_time: Option<String>,
    pub duration: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Stream {
    pub codec_type: Option<String>,
    pub width: Option<i64>,
    pub height: Option<i64>,
    pub avg_frame_rate: Option<String>,
    pub r_frame_rate: Option<String>,
    pub nb_frames: Option<String>,
    pub start_time: Option<String>,
    pub duration: Option<String>,
    #[serde(default)]
    pub disposition: Disposition,
    #[serde(default)]
    pub tags: Tags,
    #[serde(default)]
    pub side_data_list: Vec<SideData>,
}

#[derive(Deserialize, Default)]
pub(super) struct Disposition {
    #[serde(default)]
    pub attached_pic: i64,
}

#[derive(Deserialize, Default)]
pub(super) struct Tags {
    pub rotate: Option<String>,
    #[serde(rename = "DURATION")]
    pub duration: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SideData {
    pub rotation: Option<f64>,
}

/// Refuses what is no file, or empty.
pub(super) fn check_file(path: &Path) -> Result<()> {
    match files::check_regular(path, "a video")?.len() {
        0 => Err(Error::data(path, "the file is empty")),
        _ => Ok(()),
    }
}

/// The error of a file in which no video was found, with what was said about it.
pub(super) fn no_video(path: &Path, said: &str) -> Error {
    Error::data(path, format!("no video is found in it: {}", reason(said, path)))
}

/// Reads a file's headers with the `ffprobe` at `program`.
pub(super) fn probe(program: &Path, path: &Path, patience: Patience) -> Result<Probe> {
    check_file(path)?;
    let mut command = Command::new(program);
    command.args(["-v", "error", "-protocol_whitelist", "file", "-of", "json", "-show_entries"]);
    command.arg(
        "stream=codec_type,width,height,avg_frame_rate,r_frame_rate,nb_frames,start_time,duration:\
         stream_disposition=attached_pic:stream_tags=rotate,DURATION:stream_side_data=rotation:\
         format=format_name,start_time,duration",
    );
    command.arg("-i").arg(file_url(path));
    let output = collect("ffprobe", &mut command, PROBE_BYTES, path, patience)?;
    if !output.status.success() {
        return Err(no_video(path, &output.stderr));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|e| Error::data(path, format!("ffprobe's answer about it is not understood: {e}")))?;
    answer.probe(path)
}

/// End of the last packet of any stream, in seconds of the file's clock. Nothing is decoded.
pub(super) fn last_packet(program: &Path, path: &Path, patience: Patience) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(["-v", "error", "-protocol_whitelist", "file", "-of", "compact=p=0:nk=0", "-show_entries"]);
    command.arg("packet=pts_time,dts_time,duration_time").arg("-i").arg(file_url(path));
    let output = collect("ffprobe", &mut command, PACKET_BYTES, path, patience)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let end = |line: &str| {
        let field = |name: &str| line.split('|').find_map(|f| number(f.strip_prefix(name)?.strip_prefix('=')));
        Some(field("pts_time").or(field("dts_time"))? + field("duration_time").unwrap_or(0.0))
    };
    Ok(text.lines().filter_map(end).fold(f64::NEG_INFINITY, f64::max))
}

impl Answer {
    /// What it says of the first video stream.
    pub(super) fn probe(&self, path: &Path) -> Result<Probe> {
        let is = |s: &Stream, kind: &str| s.codec_type.as_deref() == Some(kind);
        match self.streams.iter().find(|s| is(s, "video") && s.disposition.attached_pic == 0) {
            Some(stream) => stream.probe(path, &self.format),
            None if self.streams.iter().any(|s| is(s, "audio")) => {
                Err(Error::data(path, "it holds sound but no moving picture"))
            }
            None => Err(Error::data(path, "it holds no video stream")),
        }
    }
}

impl Stream {
    fn probe(&self, path: &Path, container: &Container) -> Result<Probe> {
        let side =
            |value: Option<i64>| value.and_then(|v| usize::try_from(v).ok()).filter(|v| (1..=MAX_SIDE).contains(v));
        let (Some(mut w), Some(mut h)) = (side(self.width), side(self.height)) else {
            let (w, h) = (self.width.unwrap_or(0), self.height.unwrap_or(0));
            return Err(Error::data(path, format!("its size, {w} x {h} pixels, is not 1 to {MAX_SIDE} a side")));
        };
        let tagged = self.tags.rotate.as_deref().and_then(|r| r.parse::<f64>().ok());
        let turned = self.side_data_list.iter().find_map(|s| s.rotation).or(tagged).unwrap_or(0.0);
        if (turned / 90.0).round() as i64 % 2 != 0 {
            (w, h) = (h, w);
        }
        let rates: Vec<f64> = [&self.avg_frame_rate, &self.r_frame_rate]
            .into_iter()
            .filter_map(|rate| fraction(rate.as_deref()?))
            .filter(|fps| *fps > 0.0 && *fps <= MAX_FPS)
            .collect();
        let frames = self.nb_frames.as_deref().and_then(|n| n.parse::<usize>().ok()).filter(|&n| n > 0);
        let seconds = |text: &Option<String>| number(text.as_deref()).filter(|s| *s > 0.0);
        let start = number(container.start_time.as_deref()).unwrap_or(0.0);
        let late = number(self.start_time.as_deref()).map_or(0.0, |s| s - start);
        // `ffprobe` derives the duration of an `.avi` from the file's size; its header states the number of frames.
        let format = container.format_name.as_deref().unwrap_or_default();
        let avi = format == "avi";
        let counted = frames.filter(|_| avi).and_then(|n| Some(n as f64 / rates.first()?));
        let own = counted.or(seconds(&self.duration));
        // Matroska's tag is the end of the stream, not its duration.
        let tagged = self.tags.duration.as_deref().and_then(clock_time).map(|end| end - start);
        // So is the header of these two.
        let from_zero = format.starts_with("matroska") || format == "asf";
        let whole = seconds(&container.duration).map(|s| if from_zero { s - start } else { s }).filter(|s| *s > 0.0);
        Ok(Probe {
            h,
            w,
            fps: rates.first().copied(),
            frames,
            seconds: own.or(tagged.map(|end| end - late)).or(whole),
            rates,
            avi,
            end: tagged.or(own.map(|s| s + late)).or(whole),
            span: whole.map(|s| [start, start + s]),
        })
    }
}

/// The value of `30000/1001`.
fn fraction(text: &str) -> Option<f64> {
    let (a, b) = text.split_once('/')?;
    let (a, b): (u32, u32) = (a.parse().ok()?, b.parse().ok()?);
    (b != 0).then(|| f64::from(a) / f64::from(b))
}

fn number(text: Option<&str>) -> Option<f64> {
    text?.parse().ok().filter(|n: &f64| n.is_finite())
}

/// The seconds of `00:01:04.023000000`.
fn clock_time(text: &str) -> Option<f64> {
    let parts: Option<Vec<f64>> = text.split(':').map(|part| number(Some(part))).collect();
    match parts?[..] {
        [h, m, s] => Some(3600.0 * h + 60.0 * m + s).filter(|s| *s > 0.0),
        _ => None,
    }
}

/// `file:<path>`, so that a name is not mistaken for an option or a URL.
pub(super) fn file_url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}
