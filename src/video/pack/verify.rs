//! Comparing a packed folder with its checksums, and with the originals.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::key::Keys;
use super::super::packed::Kind;
use super::super::{Split, Splits, workers};
use super::plan::{Plan, items};
use super::volume::entry_name;
use super::{Pack, PackSpec, Verify};
use crate::error::{Error, Result};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name of the video, or of the file in the folder.
    pub of: String,
    /// What is wrong with it.
    pub what: String,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Videos whose data was read.
    pub videos: u64,
    /// Tar files.
    pub volumes: usize,
    /// Videos that were packed without data.
    pub gaps: usize,
    /// All damage.
    pub damage: Vec<Damage>,
}

/// Reads all data of the packed folder and compares it with its checksums, and the headers of all tar entries with the index, of
/// which every name is read.
///
/// # Errors
/// `Stopped` when the flag was set; errors of the machine.
pub fn verify(pack: &Pack, with: Verify<'_>) -> Result<Verified> {
    let all = 0..pack.range(Split::Test).end;
    let looked = pack.look(all.clone(), Some(with))?;
    let gaps = pack.index().settings.gaps.len();
    let mut verified = Verified { volumes: pack.index().volumes(), gaps, ..Verified::default() };
    if let Err(e) = pack.index().check_names() {
        verified.damage.push(Damage { of: "index.tbi".into(), what: e.to_string() });
    }
    // The videos of each tar file.
    let mut volumes = vec![Vec::new(); verified.volumes];
    for (i, why) in all.zip(looked.why_not) {
        let Some(entry) = pack.index().entry(i)? else { continue };
        volumes[entry.volume].push(i);
        match why {
            None => verified.videos += 1,
            Some(what) => {
                let of = pack.name(i).map_or_else(|_| format!("video {i}"), str::to_owned);
                verified.damage.push(Damage { of, what });
            }
        }
    }
    for (volume, videos) in volumes.into_iter().enumerate() {
        let path = pack.tar(volume);
        if let Err(e) = entries(pack, &path, &videos) {
            if e.is_of_the_machine() {
                return Err(e);
            }
            let of = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            verified.damage.push(Damage { of, what: e.to_string() });
        }
    }
    Ok(verified)
}

/// Compares the entries of a tar file with what the index says of it.
fn entries(pack: &Pack, path: &Path, videos: &[u64]) -> Result<()> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let bad = |what: String| Error::content(path, what);
    let of_tar = |e: std::io::Error| bad(format!("it is no whole tar file: {e}"));
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut found = archive.entries_with_seek().map_err(of_tar)?;
    for &i in videos {
        let Some(entry) = pack.index().entry(i)? else { continue };
        for (kind, place) in [(Kind::Frames, Some(entry.frames)), (Kind::Flow, entry.flow)] {
            let Some([offset, bytes]) = place else { continue };
            let name = entry_name(i, kind);
            let header = found.next().ok_or_else(|| bad(format!("it has no entry {name}")))?.map_err(of_tar)?;
            let same = header.path_bytes() == name.as_bytes();
            if !same || [header.raw_file_position(), header.size()] != [offset, bytes] {
                return Err(bad(format!("its entry {name} is not where the index says")));
            }
        }
    }
    match found.next() {
        None => Ok(()),
        Some(Err(e)) => Err(of_tar(e)),
        Some(Ok(_)) => Err(bad("it has more entries than the index says".into())),
    }
}

/// Compares the originals `splits` with the hashes of their contents in the packed folder, and names those that have changed
/// or are gone.
///
/// # Errors
/// `Data` when `splits` has other videos than the packed folder; `Stopped` when the flag was set; errors of the machine.
pub fn originals(pack: &Pack, splits: &Splits, with: Verify<'_>) -> Result<Vec<Damage>> {
    let plan = &pack.index().settings.plan;
    let gpu_flow = plan.flow.as_ref().is_some_and(|flow| flow.gpu);
    let spec = PackSpec { cache: plan.cache(), shard_bytes: plan.shard_bytes, group: plan.group, gpu_flow };
    if Plan::new(splits, &spec)? != *plan {
        return Err(Error::data(pack.dir(), "it was packed of other videos than these"));
    }
    let (items, compared): (Vec<_>, _) = (items(splits).collect(), AtomicU64::new(0));
    let results = workers::each(with.threads, items.len(), with.stop, pack.dir(), |i| {
        (with.progress)(compared.fetch_add(1, Ordering::Relaxed) + 1);
        let Some(entry) = pack.index().entry(i as u64)? else { return Ok(None) };
        Ok(match Keys::by_content(items[i], &splits.train, &spec.cache) {
            Ok(keys) if keys.frames.hash == entry.key => None,
            Ok(_) => Some("its content is not what was packed".to_owned()),
            Err(e) if e.is_of_the_machine() => return Err(e),
            Err(e) => Some(e.to_string()),
        })
    })?;
    let mut damage = Vec::new();
    for (item, found) in items.into_iter().zip(results) {
        match found.transpose()? {
            None => return Err(Error::stopped(pack.dir(), "not all originals were compared")),
            Some(None) => {}
            Some(Some(what)) => damage.push(Damage { of: item.name.clone(), what }),
        }
    }
    Ok(damage)
}
