//! What a dry run prints: the data, clips, steps and networks of a run, before anything is decoded.

use super::options::Options;
use super::output::{count, say};
use super::pretrain::Job;
use anyhow::Result;
use tubelet::nn::{Net, Trunk};
use tubelet::tensor::Device;
use tubelet::train::pretrain::steps_per_epoch;
use tubelet::video::{Dataset, Splits};

/// Maximum number of classes that are listed.
const LISTED: usize = 12;

/// Prints the plan of a run, of which `usable` training and test videos can be used as far as is known.
pub fn show<R>(options: &Options, device: &Device, job: &Job<R>, splits: &Splits, usable: [usize; 2]) -> Result<()> {
    let (training, views) = (job.training, &job.training.views);
    let [[frames, side, ..], [motion_frames, ..]] = views.dims();
    let [train, test] = usable;
    let path = options.videos.data.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default();
    let mut clips = format!("{} of each video; RGB: {frames} frames {} apart, {side}x{side}", job.clips, views.stride);
    if job.motion_clips {
        clips += &format!("; motion ({}): {motion_frames} frames over the same time", views.motion);
    }
    let (batch, epochs) = (training.batch, training.epochs);
    let per_epoch = steps_per_epoch(train, batch)?;
    let all = per_epoch.saturating_mul(epochs);
    let networks: Vec<String> = job.networks.iter().map(|(name, net)| format!("{name} {}", parameters(net))).collect();
    let on = match device {
        Device::Cuda(gpu) => format!("{} ({})", options.common.device_name(device), gpu.name()),
        _ => format!("cpu, {}", count(rayon::current_num_threads(), "thread", "threads")),
    };
    let out = options.common.out(job.example);
    let rows = [
        ("data", format!("{path}{}", splits.layout)),
        ("videos", format!("{train} for training, {test} for testing{}", unusable(splits, usable))),
        ("classes", classes(&splits.train, &splits.test)),
        ("clips", clips),
        (
            "steps",
            format!("{all}: {per_epoch} per epoch, of {batch} videos; {}", count(epochs as usize, "epoch", "epochs")),
        ),
        ("queue", format!("{} keys", training.queue_length(train, job.keys, job.masked)?)),
        ("networks", format!("million parameters, without heads: {}", networks.join(", "))),
        ("device", format!("{on}; precision {}", options.precision)),
        ("--out", out.display().to_string()),
        ("--cache", options.videos.cache.display().to_string()),
        (
            "settings",
            format!(
                "preset {}, and the options given; a run writes all of them to settings.json",
                options.preset().name()
            ),
        ),
    ];
    rows.iter().for_each(|(name, text)| say(format_args!("{name:<9} {text}")));
    Ok(())
}

/// How many videos of the lists cannot be used, if any.
fn unusable(splits: &Splits, [train, test]: [usize; 2]) -> String {
    match [splits.train.len() - train, splits.test.len() - test] {
        [0, 0] => String::new(),
        [a, b] => format!("; {a} and {b} more cannot be used"),
    }
}

/// The classes with their numbers of training and test videos.
pub fn classes(train: &Dataset, test: &Dataset) -> String {
    if !train.is_labelled() {
        return "none: the videos have no labels, and there is no probe and no 1-NN".to_owned();
    }
    let of = |data: &Dataset, label: usize| data.items.iter().filter(|item| item.label == Some(label)).count();
    let names = &train.classes;
    let listed: Vec<String> = names
        .iter()
        .enumerate()
        .take(LISTED)
        .map(|(label, name)| format!("{name} {}+{}", of(train, label), of(test, label)))
        .collect();
    let more = match names.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("{} (videos for training + testing): {}{more}", names.len(), listed.join(", "))
}

/// The parameters of a network, in millions.
fn parameters(net: &Net) -> String {
    format!("{:.2}", Trunk::with_params(net, 0).1.count() as f64 * 1e-6)
}
