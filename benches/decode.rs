//! How fast videos are decoded on one thread: by the programs through a pipe, and with the feature `libav` within this process.
//! `peers/decode.py` measures other libraries on the same folder.
//!
//!     cargo bench -p tubelet-benches --features libav --bench decode -- FOLDER [STEP]
//!
//! Frames are resized to a short side of 80 pixels. With STEP, every STEP-th frame is taken. Rates are of all frames of the videos,
//! also those that are passed over, per second of processor time (with that of child processes) and of elapsed time.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Instant;
use tubelet::video::{Decode, Ffmpeg};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let Some(folder) = args.first() else {
        println!("decode needs a folder of videos");
        return Ok(());
    };
    let step: usize = args.get(1).map_or(Ok(1), |step| step.parse()).context("STEP is a number of frames")?;
    let mut videos: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    videos.sort();
    ensure!(!videos.is_empty() && step > 0, "{folder} has no videos, or the step is 0");
    // All videos have one rate, that of the first.
    let probe = |video: &PathBuf| Ffmpeg::default().probe(video);
    let rate = probe(&videos[0])?.fps.context("the first video states no rate")?;
    let how = Decode { short_side: Some(80), fps: (step > 1).then_some(rate / step as f64), ..Decode::default() };
    let frames: Result<Vec<usize>> = videos
        .iter()
        .map(|video| probe(video)?.frames.context("a video does not state its number of frames"))
        .collect();
    let frames: usize = frames?.into_iter().sum();
    let mut decoders = vec![("programs", Ffmpeg::programs())];
    if cfg!(feature = "libav") {
        decoders.push(("libraries", Ffmpeg::default()));
    }
    for (name, ffmpeg) in decoders {
        let (began, busy) = (Instant::now(), processor_seconds());
        for video in &videos {
            ffmpeg.decode(video, &how)?;
        }
        let (busy, elapsed) = (processor_seconds() - busy, began.elapsed().as_secs_f64());
        println!(
            "{name}: {frames} frames of {} videos, every {step}: {:.0} a second of processor time, {:.0} of elapsed time",
            videos.len(),
            frames as f64 / busy,
            frames as f64 / elapsed
        );
    }
    Ok(())
}

/// Processor time of this process and of its children that have ended.
fn processor_seconds() -> f64 {
    let of = |who| {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `getrusage` fills the structure, which is valid when all its bytes are zero.
        let usage = unsafe {
            libc::getrusage(who, usage.as_mut_ptr());
            usage.assume_init()
        };
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}
