//! The machine, for a record: a ratio means little without the processor it was measured on.

use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// What Linux says of the processor, its caches, cores and threads, and of the limits of this process. `root` is `/`
/// outside of tests. What is not known is null or left out.
pub fn machine(root: &Path) -> Value {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned());
    let info = text("proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let cores = root.join("sys/devices/system/cpu");
    let mut siblings: Vec<String> = numbered(&cores, "cpu")
        .iter()
        .filter_map(|cpu| fs::read_to_string(cpu.join("topology/thread_siblings_list")).ok())
        .map(|list| list.trim().to_owned())
        .collect();
    let threads = info.lines().filter(|line| line.starts_with("processor")).count();
    siblings.sort();
    siblings.dedup();
    let allowed = text("proc/self/status").and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(line.trim().to_owned())
    });
    json!({
        "processor": field("model name"),
        "family_model_stepping": [field("cpu family"), field("model"), field("stepping")],
        "threads": threads,
        "cores": if siblings.is_empty() { Value::Null } else { siblings.len().into() },
        "siblings": siblings,
        "allowed": allowed,
        "caches": caches(&cores.join("cpu0/cache")),
        "cpu_quota": quota(root),
    })
}

/// The machine in a line.
pub fn described(machine: &Value) -> String {
    let say = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    let caches: Vec<String> = machine["caches"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, cache)| format!("{name} {}", say(&cache["size"])))
        .collect();
    let quota = machine["cpu_quota"].as_f64().map_or(String::new(), |quota| format!(", quota {quota} processors"));
    format!(
        "{}, {} threads on {} cores, {}{quota}",
        say(&machine["processor"]),
        say(&machine["threads"]),
        say(&machine["cores"]),
        if caches.is_empty() { "caches unknown".to_owned() } else { caches.join(" ") },
    )
}

/// The folders `<stem><number>` of `folder`.
fn numbered(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let is_numbered = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(stem));
        name.is_some_and(|rest| rest.parse::<u32>().is_ok())
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_numbered).collect();
    found.sort();
    found
}

/// Size and sharing threads of each cache of the first core: `L1d`, `L1i`, `L2`, `L3`.
fn caches(folder: &Path) -> Map<String, Value> {
    let mut caches = Map::new();
    for index in numbered(folder, "index") {
        let read = |name: &str| fs::read_to_string(index.join(name)).ok().map(|text| text.trim().to_owned());
        let (Some(level), Some(size)) = (read("level"), read("size")) else { continue };
        let kind = match read("type").as_deref() {
            Some("Data") => "d",
            Some("Instruction") => "i",
            _ => "",
        };
        caches.insert(format!("L{level}{kind}"), json!({"size": size, "shared_by": read("shared_cpu_list")}));
    }
    caches
}

/// Processors that the control groups of this process may use at a time, by version 2 (`cpu.max`) or 1
/// (`cpu.cfs_quota_us`); the least of the groups it is in. `None` without a limit.
fn quota(root: &Path) -> Option<f64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut least: Option<f64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let one = controllers.split(',').any(|c| c == "cpu");
        if !(one || controllers.is_empty()) {
            continue;
        }
        let mounts = if one { &["cpu", "cpu,cpuacct"][..] } else { &["", "unified"] };
        for mount in mounts {
            // Every group above limits too; within a container the path may be that of the host, and only the root exists.
            let top = root.join("sys/fs/cgroup").join(mount);
            for group in top.join(path.trim_start_matches('/')).ancestors().take_while(|group| group.starts_with(&top))
            {
                let here = if one { limit_1(group) } else { limit_2(group) };
                least = [least, here].into_iter().flatten().reduce(f64::min);
            }
        }
    }
    least
}

/// `cpu.max`: `QUOTA PERIOD` or `max PERIOD`.
fn limit_2(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace();
    let (quota, period): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// `cpu.cfs_quota_us`, which is -1 without a limit, and `cpu.cfs_period_us`.
fn limit_1(group: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<f64>().ok();
    let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}
