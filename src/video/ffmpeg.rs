//! Video files, through the programs `ffprobe` and `ffmpeg` and a pipe: every codec they know, and nothing a decoder
//! may do takes this process down.
//!
//! **Time.** A decoded clip always has a constant rate: frame `i` is the one shown at `i / fps` seconds. Videos of
//! variable frame rate are resampled to the rate asked for, or to their average rate, by repeating and dropping
//! frames; videos of constant rate decoded at that rate come out frame by frame as they are.
//!
//! **Size.** Rotation metadata is obeyed; pixels are taken as square.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::pipe::{self, Failure};
use super::{Clip, Decode};
use crate::error::{Error, Result};

/// Where the two programs are and how patient to be with them.
#[derive(Debug, Clone)]
pub struct Ffmpeg {
    /// `ffmpeg`, looked up on the search path unless it is a path.
    pub program: PathBuf,
    /// `ffprobe`, likewise.
    pub probe: PathBuf,
    /// A program that writes nothing for this long is stopped.
    pub timeout: Duration,
}

impl Default for Ffmpeg {
    /// `ffmpeg` and `ffprobe` of the search path, 60 s.
    fn default() -> Self {
        Self { program: "ffmpeg".into(), probe: "ffprobe".into(), timeout: Duration::from_secs(60) }
    }
}

/// What a file says about its first video stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Height in pixels as shown, after rotation.
    pub h: usize,
    /// Width in pixels as shown, after rotation.
    pub w: usize,
    /// Average frames per second.
    pub fps: f64,
    /// Whether every frame is shown equally long.
    pub constant_rate: bool,
    /// Number of frames, where the container tells.
    pub frames: Option<usize>,
    /// Duration in seconds, where the container tells.
    pub seconds: Option<f64>,
    /// Average frames per second as a fraction, in the words of `ffprobe`.
    rate: String,
}

/// No side of a video is longer.
pub(super) const MAX_SIDE: usize = 16_384;
/// More frames per second than this is a mistake of the container.
const MAX_FPS: f64 = 1000.0;
/// `ffprobe` writes less than this about any one file.
const PROBE_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct ProbeText {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Container,
}

#[derive(Deserialize, Default)]
struct Container {
    duration: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    codec_type: Option<String>,
    width: Option<i64>,
    height: Option<i64>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    nb_frames: Option<String>,
    duration: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    tags: Tags,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Deserialize, Default)]
struct Disposition {
    #[serde(default)]
    attached_pic: i64,
}

#[derive(Deserialize, Default)]
struct Tags {
    rotate: Option<String>,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

impl Ffmpeg {
    /// Asks both programs for their version: the first line of `ffmpeg -version`.
    ///
    /// # Errors
    /// `Program` when one is absent, fails or hangs.
    pub fn version(&self) -> Result<String> {
        let mut first = String::new();
        for (name, program) in [("ffprobe", &self.probe), ("ffmpeg", &self.program)] {
            let output = self.run(name, Command::new(program).arg("-version"), PROBE_BYTES, Path::new("-version"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            first = text.lines().next().unwrap_or_default().to_owned();
        }
        Ok(first)
    }

    /// Reads a file's headers.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, `Data` when it is empty, no video, or audio only; `Program` when `ffprobe` is
    /// absent or hangs.
    pub fn probe(&self, path: &Path) -> Result<Probe> {
        let meta = std::fs::metadata(path).map_err(Error::io("read", path))?;
        if !meta.is_file() {
            return Err(Error::data(path, "this is not a file"));
        }
        if meta.len() == 0 {
            return Err(Error::data(path, "the file is empty"));
        }
        let mut command = Command::new(&self.probe);
        command.args(["-v", "error", "-protocol_whitelist", "file", "-of", "json", "-show_entries"]);
        command.arg(
            "stream=codec_type,width,height,avg_frame_rate,r_frame_rate,nb_frames,duration:\
             stream_disposition=attached_pic:stream_tags=rotate:stream_side_data=rotation:format=duration",
        );
        command.arg("-i").arg(file_url(path));
        let output = self.run("ffprobe", &mut command, PROBE_BYTES, path)?;
        if !output.status.success() {
            return Err(Error::data(path, format!("ffprobe finds no video in it: {}", reason(&output.stderr, path))));
        }
        let text: ProbeText = serde_json::from_slice(&output.stdout)
            .map_err(|e| Error::data(path, format!("ffprobe's answer about it is not understood: {e}")))?;
        let is = |s: &Stream, kind: &str| s.codec_type.as_deref() == Some(kind);
        match text.streams.iter().find(|s| is(s, "video") && s.disposition.attached_pic == 0) {
            Some(stream) => stream.probe(path, &text.format),
            None if text.streams.iter().any(|s| is(s, "audio")) => {
                Err(Error::data(path, "it holds sound but no moving picture"))
            }
            None => Err(Error::data(path, "it holds no video stream")),
        }
    }

    /// Decodes a file.
    ///
    /// # Errors
    /// Those of [`Ffmpeg::probe`]; `Data` also when no frame or less than nine tenths of what the container promises
    /// could be decoded, or when the clip would exceed [`Decode::max_bytes`]; `Program` when `ffmpeg` is absent, hangs
    /// or writes more than it was asked for.
    pub fn decode(&self, path: &Path, how: &Decode) -> Result<Clip> {
        how.check()?;
        let probe = self.probe(path)?;
        let (h, w) = how.size(probe.h, probe.w);
        let fps = how.fps.unwrap_or(probe.fps);
        let frame = how.frame_bytes(path, h, w)?;
        let most = how.max_frames.unwrap_or(usize::MAX).min(how.max_bytes / frame);
        let rate = how.fps.map_or(probe.rate.clone(), |fps| fps.to_string());
        let mut filter = String::new();
        if probe.constant_rate {
            // The N-th frame is shown at N / rate. Time stamps of packed B-frames in `.avi` files begin late, which
            // would repeat the first frame.
            filter += &format!("setpts=N/({}*TB),", probe.rate);
        }
        filter += &format!("fps={rate},scale={w}:{h}:flags=bicubic+accurate_rnd+full_chroma_int");
        let mut command = Command::new(&self.program);
        command.args(["-nostdin", "-v", "error", "-threads", "1", "-filter_threads", "1"]);
        command.args(["-protocol_whitelist", "file"]).arg("-i").arg(file_url(path));
        command.args(["-map", "0:V:0", "-an", "-sn", "-dn", "-vf", &filter]);
        // One frame more than fits is asked for, to tell a clip that is too large from one that just fits.
        let wanted = if how.max_frames == Some(most) { most } else { most + 1 };
        command.args(["-frames:v", &wanted.min(i32::MAX as usize).to_string()]);
        command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-threads", "1", "pipe:1"]);
        let output = self.run("ffmpeg", &mut command, wanted.saturating_mul(frame), path)?;
        let why = || reason(&output.stderr, path);
        let t = output.stdout.len() / frame;
        if t == 0 {
            return Err(Error::data(path, format!("no frame of it can be decoded: {}", why())));
        }
        if t > most {
            return Err(how.too_large(path, h, w));
        }
        if !output.status.success() || output.stdout.len() % frame != 0 {
            return Err(Error::data(path, format!("decoding stopped after {t} frames: {}", why())));
        }
        let promised = probe.seconds.map_or(0.0, |s| (s * fps).round()).min(wanted as f64);
        if ((t + 2) as f64) < 0.9 * promised {
            let what = format!("it is cut short or damaged: {t} of the {promised} frames it promises can be decoded");
            return Err(Error::data(path, what));
        }
        Clip::new(t, h, w, output.stdout, fps)
    }

    fn run(&self, name: &'static str, command: &mut Command, limit: usize, file: &Path) -> Result<pipe::Output> {
        // FFREPORT makes both programs write files of their own.
        command.env_remove("FFREPORT");
        let (file, timeout) = (file.display(), self.timeout.as_secs_f64());
        pipe::run(command, limit, self.timeout).map_err(|failure| {
            let what = match failure {
                Failure::Start(e) => format!(
                    "cannot be started ({e}), and video files need it; `apt-get install ffmpeg` brings ffmpeg and ffprobe"
                ),
                Failure::Silent => format!("wrote nothing for {timeout} s while reading {file} and was stopped"),
                Failure::Flood => {
                    format!("wrote more than the {limit} bytes that were asked for while reading {file} and was stopped")
                }
                Failure::Read(e) => format!("its output about {file} cannot be read: {e}"),
            };
            Error::program(name, what)
        })
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
        let rates = [&self.avg_frame_rate, &self.r_frame_rate].map(|r| r.as_deref().and_then(fraction));
        let [average, base] = rates.map(|r| r.filter(|(_, fps)| *fps > 0.0 && *fps <= MAX_FPS));
        let Some((rate, fps)) = average.clone().or(base.clone()) else {
            return Err(Error::data(path, "its frame rate is unknown"));
        };
        let frames = self.nb_frames.as_deref().and_then(|n| n.parse::<usize>().ok()).filter(|&n| n > 0);
        let seconds = [self.duration.as_deref(), container.duration.as_deref()]
            .into_iter()
            .flatten()
            .filter_map(|d| d.parse::<f64>().ok())
            .chain(frames.map(|n| n as f64 / fps))
            .filter(|s| s.is_finite() && *s > 0.0)
            .reduce(f64::min);
        let constant_rate = average.is_some() && average == base;
        Ok(Probe { h, w, fps, constant_rate, frames, seconds, rate })
    }
}

/// `30000/1001` and its value.
fn fraction(text: &str) -> Option<(String, f64)> {
    let (a, b) = text.split_once('/')?;
    let (a, b): (u32, u32) = (a.parse().ok()?, b.parse().ok()?);
    (b != 0).then(|| (text.to_owned(), f64::from(a) / f64::from(b)))
}

/// `file:<path>`, so that no name is taken for an option or an address.
fn file_url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}

/// The first complaint in a program's messages, without the file's name and without addresses in memory.
fn reason(stderr: &str, path: &Path) -> String {
    let name = path.display().to_string();
    let complaint = |line: &str| {
        let line = line.replace(&format!("file:{name}"), "").replace(&name, "");
        let line = line.rsplit_once("] ").map_or(line.as_str(), |(_, text)| text).trim_matches([':', ' ']).to_owned();
        (!line.is_empty()).then_some(line)
    };
    stderr.lines().find_map(complaint).unwrap_or_else(|| "it gave no reason".to_owned())
}
