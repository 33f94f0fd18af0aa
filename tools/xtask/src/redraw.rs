//! `cargo xtask redraw`: a second draw of a data set with actors, from its videos: every actor mirrored, at a speed that varies,
//! in other colours and framed otherwise. Where a data set cannot be rendered again, this says whether the order of methods
//! depends on the looks and the timing of one drawing.

use crate::chaos::Draw;
use crate::protocol::Set;
use anyhow::{Context, Result, bail, ensure};
use std::f64::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Command-line options.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// Folder of the data set.
    pub data: PathBuf,
    /// Folder of the second draw.
    pub out: PathBuf,
    /// Seed of the looks.
    pub seed: u64,
}

impl Options {
    /// Parses `DATA OUT [--seed N]`.
    ///
    /// # Errors
    /// One sentence for an option that is unknown or lacks its value.
    pub fn parse(args: &[String]) -> Result<Options> {
        let [data, out, rest @ ..] = args else { bail!("redraw needs the folder of a data set and a folder to write") };
        ensure!(!data.starts_with('-') && !out.starts_with('-'), "redraw needs its two folders before its options");
        let seed = match rest {
            [] => 1,
            [name, value] if name == "--seed" => {
                value.parse().with_context(|| format!("--seed is a whole number, not {value}"))?
            }
            [name] if name == "--seed" => bail!("--seed needs a value"),
            [other, ..] => bail!("redraw has no option {other}"),
        };
        Ok(Options { data: data.into(), out: out.into(), seed })
    }
}

/// How a video is drawn again.
#[derive(Debug, PartialEq)]
struct Look {
    /// The frame shown at time `n` is the original's at `n + swing·(sin(2π(n/64 + phase)) - sin(2π·phase))`.
    swing: f64,
    phase: f64,
    /// Rotation of the hue in degrees, and factor of the saturation.
    hue: f64,
    saturation: f64,
    contrast: f64,
    brightness: f64,
    /// Whether light and dark are exchanged.
    negative: bool,
    /// The square that is kept: its share of the side, and where it lies, from 0 to 1.
    share: f64,
    at: [f64; 2],
}

impl Look {
    /// That of number `video`.
    fn drawn(seed: u64, video: u64) -> Look {
        let mut draw = Draw(seed << 32 ^ video);
        let mut between = |low: f64, high: f64| low + (high - low) * draw.below(1 << 20) as f64 / f64::from(1 << 20);
        Look {
            swing: between(2.0, 5.0),
            phase: between(0.0, 1.0),
            hue: between(60.0, 300.0),
            saturation: between(0.7, 1.6),
            contrast: between(0.8, 1.25),
            brightness: between(-0.08, 0.08),
            negative: between(0.0, 1.0) < 0.5,
            share: between(0.86, 1.0),
            at: [between(0.0, 1.0), between(0.0, 1.0)],
        }
    }

    /// The filters of ffmpeg.
    fn filters(&self) -> String {
        let Look { swing, phase, hue, saturation, contrast, brightness, share, at: [x, y], .. } = self;
        let start = (TAU * phase).sin();
        // Time is warped by moving each frame: a frame that lies earlier is shown earlier.
        let warp = format!("setpts=(N-{swing:.4}*(sin(2*PI*(N/64+{phase:.4}))-{start:.5}))/25/TB,fps=25");
        let negative = if self.negative { ",negate" } else { "" };
        format!(
            "hflip,{warp},tpad=stop_mode=clone:stop_duration=2,crop=iw*{share:.4}:ih*{share:.4}:(iw-ow)*{x:.4}:(ih-oh)*{y:.4},\
             scale=128:128:flags=bicubic,hue=h={hue:.2}:s={saturation:.3},eq=contrast={contrast:.3}:brightness={brightness:.3}{negative}"
        )
    }
}

/// Draws all videos of the data set again, with the same lists.
///
/// # Errors
/// When the data set cannot be read, the folder exists, or ffmpeg is missing or fails.
pub fn run(options: &Options) -> Result<()> {
    let set = Set::read(&options.data)?;
    ensure!(!options.out.exists(), "{} exists: choose another folder", options.out.display());
    // Renamed when it is complete.
    let part = options.out.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("{}", part.display()))?;
    }
    let all: Vec<_> = set.train.iter().chain(&set.test).collect();
    for (number, video) in all.iter().enumerate() {
        let to = part.join("videos").join(&video.name);
        fs::create_dir_all(to.parent().context("a video has a folder")?)?;
        draw_again(&video.path, &to, &Look::drawn(options.seed, number as u64))?;
        if (number + 1) % 100 == 0 || number + 1 == all.len() {
            println!("{} of {} videos", number + 1, all.len());
        }
    }
    for list in ["trainlist01.txt", "testlist01.txt", "classInd.txt"] {
        let from = options.data.join(list);
        if from.is_file() {
            fs::write(part.join(list), fs::read(&from)?)?;
        }
    }
    fs::rename(&part, &options.out).with_context(|| format!("{}", options.out.display()))
}

fn draw_again(from: &Path, to: &Path, look: &Look) -> Result<()> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-i"])
        .arg(from)
        .args(["-vf", &look.filters(), "-frames:v", "64", "-an", "-c:v", "libx264", "-crf", "23", "-threads", "1"])
        .args(["-pix_fmt", "yuv420p"])
        .arg(to)
        .stdin(Stdio::null())
        .output()
        .context("ffmpeg, which redraw needs, cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ffmpeg cannot draw {} again: {}", from.display(), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_depend_on_seed_and_video_and_time_never_runs_backwards() {
        let all: Vec<Look> = (0..50).map(|video| Look::drawn(1, video)).collect();
        for (i, look) in all.iter().enumerate() {
            assert_eq!(*look, Look::drawn(1, i as u64));
            assert!(!all[..i].contains(look) && *look != Look::drawn(2, i as u64));
            // The slope of the warp is 1 - swing·2π/64·cos(..).
            assert!(look.swing * TAU / 64.0 < 0.5 && (0.86..=1.0).contains(&look.share), "{look:?}");
        }
        let negatives = all.iter().filter(|look| look.negative).count();
        assert!((10..40).contains(&negatives), "{negatives}");
        assert!(all[0].filters().starts_with("hflip,setpts="));
    }

    #[test]
    fn options_are_refused_by_name() {
        let parse = |text: &str| Options::parse(&text.split_whitespace().map(String::from).collect::<Vec<_>>());
        assert_eq!(parse("a b --seed 3").unwrap(), Options { data: "a".into(), out: "b".into(), seed: 3 });
        assert_eq!(parse("a b").unwrap().seed, 1);
        for (text, word) in
            [("a", "folder"), ("a b --seed", "--seed"), ("a b --seed x", "--seed"), ("a b --sed 1", "--sed")]
        {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}
