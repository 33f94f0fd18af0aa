//! A data set whose videos are of actors: its frozen lists, and lists that leave one actor out.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// A video.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    /// Its file.
    pub path: PathBuf,
    /// Its name in the lists.
    pub name: String,
    /// Its class.
    pub class: String,
}

impl Video {
    /// Who is seen.
    ///
    /// # Errors
    /// As [`actor`].
    pub fn actor(&self) -> Result<String> {
        Ok(actor(&self.name)?.to_owned())
    }
}

/// The actor of a video by its name, `v_<class>_<actor>_c<number>.mp4`.
///
/// # Errors
/// When the name has no such parts.
pub fn actor(name: &str) -> Result<&str> {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let parts: Vec<&str> = stem.rsplitn(3, '_').collect();
    match parts[..] {
        [number, actor, class] if number.starts_with('c') && !actor.is_empty() && !class.is_empty() => Ok(actor),
        _ => bail!("{name}: a name is v_<class>_<actor>_c<number>, as in v_hover_S3_c01.mp4"),
    }
}

/// The videos of one joint track, or one recording: those whose names differ in the number at the end alone.
#[must_use]
pub fn track(name: &str) -> &str {
    name.rsplit_once("_c").map_or(name, |(track, _)| track)
}

/// Training and test videos.
#[derive(Clone, Debug)]
pub struct Set {
    /// Of the actors that everything is chosen with.
    pub train: Vec<Video>,
    /// Of other actors.
    pub test: Vec<Video>,
}

impl Set {
    /// Reads `trainlist01.txt` and `testlist01.txt` in `root`; videos lie there or in `videos`.
    ///
    /// # Errors
    /// When a list cannot be read, a video is missing, a name tells no actor, or an actor is in both lists.
    pub fn read(root: &Path) -> Result<Set> {
        let root = root.canonicalize().with_context(|| format!("{}", root.display()))?;
        let list = |file: &str| -> Result<Vec<Video>> {
            let path = root.join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| video(&root, line)).collect()
        };
        let set = Set { train: list("trainlist01.txt")?, test: list("testlist01.txt")? };
        let [train, test] = [&set.train, &set.test].map(|videos| actors(videos));
        let (train, test) = (train?, test?);
        ensure!(train.len() > 2, "the training videos are of {} actors, and three are needed", train.len());
        ensure!(!test.is_empty(), "there is no test video");
        if let Some(both) = train.iter().find(|name| test.contains(name)) {
            bail!("{both} is an actor of training and of test videos");
        }
        Ok(set)
    }

    /// The actors of the training videos.
    ///
    /// # Errors
    /// When a name tells none.
    pub fn actors(&self) -> Result<Vec<String>> {
        actors(&self.train)
    }

    /// A hash of the names and classes of both lists.
    #[must_use]
    pub fn hash(&self) -> String {
        let part = |videos: &[Video]| videos.iter().map(|v| format!("{} {}\n", v.name, v.class)).collect::<String>();
        short(&format!("{}\n{}", part(&self.train), part(&self.test)))
    }

    /// Training videos of all actors but `left`, and those of that actor; with `None` all of them, and the test videos.
    ///
    /// # Errors
    /// When a name tells no actor.
    pub fn parts(&self, left: Option<&str>) -> Result<[Vec<Video>; 2]> {
        let Some(left) = left else { return Ok([self.train.clone(), self.test.clone()]) };
        let (mut held, mut rest) = (Vec::new(), Vec::new());
        for video in &self.train {
            if video.actor()? == left { held.push(video.clone()) } else { rest.push(video.clone()) }
        }
        Ok([rest, held])
    }
}

/// The first 16 digits of a hash.
#[must_use]
pub fn short(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The video of a line, `class/name` or `class/name label`.
fn video(root: &Path, line: &str) -> Result<Video> {
    let name = line.rsplit_once(' ').filter(|(_, label)| label.parse::<u32>().is_ok()).map_or(line, |(name, _)| name);
    let (class, _) = name.split_once('/').with_context(|| format!("{name}: a line is class/name"))?;
    let places = [root.join("videos").join(name), root.join(name)];
    let path = places.into_iter().find(|path| path.exists()).with_context(|| format!("there is no video {name}"))?;
    actor(name)?;
    Ok(Video { path, name: name.to_owned(), class: class.to_owned() })
}

/// The actors of some videos.
fn actors(videos: &[Video]) -> Result<Vec<String>> {
    let all: BTreeSet<String> = videos.iter().map(Video::actor).collect::<Result<_>>()?;
    Ok(all.into_iter().collect())
}

/// The lists of one place: with labels for the classifiers, and without for pre-training, which then scores nothing.
pub struct Lists {
    /// Training videos with labels.
    pub train: PathBuf,
    /// Held-out videos with labels.
    pub held: PathBuf,
    /// Training videos alone.
    pub plain: PathBuf,
    /// The actor of each video.
    pub actors: PathBuf,
}

impl Lists {
    /// Writes them into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written or a path is not UTF-8.
    pub fn write(folder: &Path, [train, held]: &[Vec<Video>; 2]) -> Result<Lists> {
        fs::create_dir_all(folder)?;
        let at = |name: &str| folder.join(name);
        let lists = Lists {
            train: at("train.csv"),
            held: at("held.csv"),
            plain: at("unlabelled.csv"),
            actors: at("actors.csv"),
        };
        let path = |video: &Video| -> Result<String> {
            Ok(field(video.path.to_str().with_context(|| format!("{}: it is not UTF-8", video.path.display()))?))
        };
        let labelled = |videos: &[Video]| -> Result<String> {
            videos.iter().map(|v| Ok(format!("{},{}\n", path(v)?, field(&v.class)))).collect()
        };
        put(&lists.train, &labelled(train)?)?;
        put(&lists.held, &labelled(held)?)?;
        put(&lists.plain, &train.iter().map(|v| Ok(path(v)? + "\n")).collect::<Result<String>>()?)?;
        let of = |v: &Video| Ok(format!("{},{}\n", path(v)?, field(&v.actor()?)));
        put(&lists.actors, &train.iter().chain(held).map(of).collect::<Result<String>>()?)?;
        Ok(lists)
    }
}

/// Writes a file unless it has this text already.
fn put(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A field of a list, quoted where it holds what could separate fields.
fn field(text: &str) -> String {
    let plain = !text.contains([',', '"', ';', ' ', '\t']);
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_is_left_out_and_nobody_is_on_both_sides() {
        let dir = std::env::temp_dir().join(format!("tubelet-protocol-set-{}", std::process::id()));
        let (mut train, mut test) = (String::new(), String::new());
        for class in ["hover", "move ahead"] {
            fs::create_dir_all(dir.join("videos").join(class)).unwrap();
            for (i, actor) in ["S1", "S2", "S3", "S9"].into_iter().enumerate() {
                let name = format!("{class}/v_{}_{actor}_c00.mp4", class.replace(' ', "_"));
                fs::write(dir.join("videos").join(&name), "").unwrap();
                let line = if i < 3 { format!("{name} 1\n") } else { format!("{name}\n") };
                (if i < 3 { &mut train } else { &mut test }).push_str(&line);
            }
        }
        fs::write(dir.join("trainlist01.txt"), &train).unwrap();
        fs::write(dir.join("testlist01.txt"), &test).unwrap();
        let set = Set::read(&dir).unwrap();
        assert_eq!(set.actors().unwrap(), ["S1", "S2", "S3"]);
        assert_eq!(set.train[3].class, "move ahead");
        let [rest, held] = set.parts(Some("S2")).unwrap();
        assert_eq!((rest.len(), held.len()), (4, 2));
        assert!(held.iter().all(|v| v.actor().unwrap() == "S2") && rest.iter().all(|v| v.actor().unwrap() != "S2"));
        assert_eq!(set.parts(None).unwrap()[1], set.test);
        let lists = Lists::write(&dir.join("lists"), &[rest, held]).unwrap();
        let text = fs::read_to_string(&lists.train).unwrap();
        assert!(
            text.lines().count() == 4 && text.contains(".mp4,hover\n") && text.contains("\",\"move ahead\"\n"),
            "{text}"
        );
        assert!(!fs::read_to_string(&lists.plain).unwrap().contains(",hover"), "pre-training sees no label");
        assert_eq!(fs::read_to_string(&lists.actors).unwrap().lines().filter(|l| l.ends_with(",S2")).count(), 2);
        fs::write(dir.join("testlist01.txt"), test.replace("S9", "S1")).unwrap();
        assert!(Set::read(&dir).unwrap_err().to_string().contains("S1 is an actor of training and of test videos"));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((actor("a/v_all_clear_S11_c02.mp4").unwrap(), track("v_hover_S3_c01.mp4")), ("S11", "v_hover_S3"));
        assert!(actor("v_hover.mp4").is_err());
    }
}
