//! The benchmark of motion similarity: its videos, what is found by features of them, statistics of flow, and pictures.

use super::animation;
use super::progress::Progress;
use super::sheet::{self, Key, Legend, Sample, Strip};
use super::table::Table;
use anyhow::{Result, ensure};
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};
use rayon::prelude::*;
use std::path::Path;
use tubelet::augment::{Draw, apply_rgb};
use tubelet::eval::GoOn;
use tubelet::eval::scores::Scores;
use tubelet::eval::views::to_unit;
use tubelet::flow::{Flow, Gray};
use tubelet::ops::tvl1::{Tvl1, flow_pairs};
use tubelet::train::views::ViewSpec;
use tubelet::video::ClipSpec;
use tubelet::video::procedural::{Change, Role, SimilarVideo, SimilaritySpec};

/// Candidates of a query and a change: the distractors, and the match at last, so that a tie is not in its favour.
pub const CANDIDATES: usize = SimilaritySpec::DISTRACTORS + 1;
/// Pairs of frames whose flow the statistics are of, evenly spaced over the video.
const FIELDS: usize = 10;
/// Directions of a histogram.
const DIRECTIONS: usize = 8;
/// Slower motion than this, in pixels per frame, is noise of the flow.
const STILL: f32 = 0.2;
/// Frames on the sheet, and on the sheet that moves.
const SHOWN: usize = 8;
const MOMENTS: usize = 20;
/// Side of a picture on the sheet, and the width of the line around it.
const SIDE: u32 = 96;
const LINE: u32 = 3;
const QUERY: [u8; 3] = [60, 130, 250];
const RIGHT: [u8; 3] = [40, 170, 110];
const WRONG: [u8; 3] = [235, 60, 50];
const OTHER: [u8; 3] = [150, 156, 168];

/// The videos of all queries: for each query one of each role.
#[derive(Clone)]
pub struct Set {
    spec: SimilaritySpec,
    roles: Vec<Role>,
    queries: usize,
}

/// One query and one change.
#[derive(Clone, Copy, PartialEq)]
pub struct Row {
    pub query: usize,
    pub change: Change,
    /// Whether the camera pans.
    pub pans: bool,
}

impl Set {
    pub fn new(seed: u64, queries: usize) -> Result<Set> {
        ensure!(queries > 0, "there is no query");
        Ok(Set { spec: SimilaritySpec { seed, ..SimilaritySpec::default() }, roles: SimilaritySpec::roles(), queries })
    }

    /// Number of videos.
    pub fn videos(&self) -> usize {
        self.queries * self.roles.len()
    }

    /// The number of a query's video.
    pub fn number(&self, query: usize, role: Role) -> usize {
        query * self.roles.len() + self.roles.iter().position(|r| *r == role).unwrap_or(0)
    }

    /// Video number `video`.
    pub fn video(&self, video: usize) -> tubelet::Result<SimilarVideo> {
        self.spec.video(video / self.roles.len(), self.roles[video % self.roles.len()])
    }

    /// Every query with every change.
    pub fn rows(&self) -> Vec<Row> {
        let of = |query| Change::ALL.map(|change| Row { query, change, pans: SimilaritySpec::pans(query) });
        (0..self.queries).flat_map(of).collect()
    }

    /// The videos among which the match of a row is looked for, the match at last.
    pub fn candidates(&self, row: &Row) -> Vec<usize> {
        let all = (0..SimilaritySpec::DISTRACTORS).map(Role::Distractor).chain([Role::Match(row.change)]);
        all.map(|role| self.number(row.query, role)).collect()
    }

    /// Clip `i` of `n` evenly spaced ones of a video, for `[i, n]`: the middle square, as a network's input.
    pub fn view(&self, video: usize, [i, n]: [usize; 2], views: &ViewSpec) -> tubelet::Result<Vec<f32>> {
        let SimilaritySpec { frames: len, side, fps, .. } = self.spec;
        let video = self.video(video)?;
        let clip = ClipSpec { frames: views.frames, stride: views.stride as f64, fps: views.fps.unwrap_or(fps) };
        let start = clip.uniform(n, len, fps)[i];
        let frames: Vec<Vec<u8>> =
            clip.indices(start, len, fps, views.short)?.into_iter().map(|at| video.frame(at)).collect();
        let [dims, _] = views.dims();
        let mut data = vec![0.0; dims.iter().product()];
        let draw = Draw::centre(&views.augment, side, side);
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        apply_rgb(&frames, side, side, &draw, views.side, &mut data)?;
        Ok(data)
    }

    /// A histogram of the optical flow of every video: directions of what moves otherwise than the most of the picture does,
    /// which is the camera's motion, weighted by the speed; of unit length.
    pub fn flow_statistics(&self, go_on: GoOn) -> Result<Vec<Vec<f32>>> {
        let bar = Progress::new("histograms of flow", "videos", self.videos() as u64, 0);
        let rows = (0..self.videos())
            .into_par_iter()
            .map(|video| {
                go_on()?;
                let row = histogram(&self.flows(video)?);
                bar.inc(1);
                Ok(row)
            })
            .collect::<tubelet::Result<Vec<_>>>()?;
        bar.finish();
        Ok(rows)
    }

    /// The flow between some frames of a video and their successors.
    fn flows(&self, video: usize) -> tubelet::Result<Vec<Flow>> {
        let SimilaritySpec { frames, side, .. } = self.spec;
        let video = self.video(video)?;
        let grey = |i: usize| Gray::from_rgb(&video.frame(i), side, side);
        let at = |field: usize| (2 * field + 1) * (frames - 1) / (2 * FIELDS);
        let pairs = (0..FIELDS).map(|f| Ok([grey(at(f))?, grey(at(f) + 1)?])).collect::<tubelet::Result<Vec<_>>>()?;
        let pairs: Vec<(&Gray, &Gray)> = pairs.iter().map(|[a, b]| (a, b)).collect();
        flow_pairs(&pairs, &Tvl1::default())
    }
}

/// The histogram of some fields.
fn histogram(flows: &[Flow]) -> Vec<f32> {
    let mut bins = vec![0.0; DIRECTIONS];
    for flow in flows {
        let camera = [flow.u(), flow.v()].map(median);
        for (u, v) in flow.u().iter().zip(flow.v()) {
            let (u, v) = (u - camera[0], v - camera[1]);
            let (speed, turn) = (u.hypot(v), v.atan2(u) / std::f32::consts::TAU + 0.5);
            if speed > STILL {
                bins[(turn * DIRECTIONS as f32) as usize % DIRECTIONS] += speed;
            }
        }
    }
    to_unit(&mut bins);
    bins
}

/// The median of some numbers, of which there is at least one.
fn median(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    let middle = sorted.len() / 2;
    *sorted.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// What is found by features.
#[derive(Clone)]
pub struct Found {
    rows: Vec<Row>,
    scores: Scores,
    /// The similarity of each candidate of each row to its query.
    similarities: Vec<f64>,
}

impl Found {
    /// Compares each query with its candidates by the cosine of `features`, a row of unit length for each video of the set.
    pub fn new(set: &Set, features: &[Vec<f32>]) -> Result<Found> {
        let cosine = |a: usize, b: usize| -> f64 {
            features[a].iter().zip(&features[b]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        let rows = set.rows();
        let of = |row: &Row| {
            let query = set.number(row.query, Role::Query);
            set.candidates(row).into_iter().map(move |candidate| cosine(query, candidate)).collect::<Vec<_>>()
        };
        let similarities: Vec<f64> = rows.iter().flat_map(of).collect();
        let scores = Scores::new(&similarities, &vec![CANDIDATES - 1; rows.len()], CANDIDATES)?;
        Ok(Found { rows, scores, similarities })
    }

    /// Which candidate of each row is the most similar one.
    fn retrieved(&self) -> &[usize] {
        self.scores.predicted()
    }

    /// R@1 of some rows; NaN if there is none.
    pub fn recall(&self, of: impl Fn(&Row) -> bool) -> f64 {
        let some = || self.rows.iter().zip(self.retrieved()).filter(|(row, _)| of(row));
        some().filter(|(_, at)| **at == CANDIDATES - 1).count() as f64 / some().count() as f64
    }

    /// The 95 % interval of R@1 over all rows by the bootstrap, which draws queries.
    pub fn interval(&self) -> Result<[f64; 2]> {
        let queries: Vec<usize> = self.rows.iter().map(|row| row.query).collect();
        Ok(self.scores.interval(1, Some(&queries))?)
    }
}

/// A line for each query and change.
pub fn table(set: &Set, found: &Found) -> Table {
    let mut table = Table::new(["query", "change", "camera", "motion", "retrieved", "right", "match_rank"]);
    for (i, row) in found.rows.iter().enumerate() {
        let (candidates, at) = (set.candidates(row), found.retrieved()[i]);
        let motion = |video| set.video(video).map_or("", |video| video.motion());
        let similarities = &found.similarities[i * CANDIDATES..][..CANDIDATES];
        let rank = similarities.iter().filter(|s| **s >= similarities[CANDIDATES - 1]).count();
        table.row([
            &row.query.to_string(),
            row.change.name(),
            if row.pans { "pan" } else { "still" },
            motion(candidates[CANDIDATES - 1]),
            motion(candidates[at]),
            if at == CANDIDATES - 1 { "1" } else { "0" },
            &rank.to_string(),
        ]);
    }
    table
}

/// A frame with a line around it.
fn picture(video: &SimilarVideo, i: usize, side: usize, line: [u8; 3]) -> Result<RgbImage> {
    let frame = RgbImage::from_raw(side as u32, side as u32, video.frame(i));
    let frame = frame.ok_or_else(|| anyhow::anyhow!("a frame has not the size it says"))?;
    let mut large = resize(&frame, SIDE, SIDE, FilterType::CatmullRom);
    let edge = |v: u32| !(LINE..SIDE - LINE).contains(&v);
    for (x, y, pixel) in large.enumerate_pixels_mut() {
        if edge(x) || edge(y) {
            *pixel = Rgb(line);
        }
    }
    Ok(large)
}

/// One row of each change with a still camera and one with a camera that pans, of different motions where there are enough.
fn shown(found: &Found) -> Vec<usize> {
    let mut places = Vec::new();
    for (i, change) in Change::ALL.into_iter().enumerate() {
        for pans in [false, true] {
            let of: Vec<usize> = (0..found.rows.len())
                .filter(|&at| found.rows[at].change == change && found.rows[at].pans == pans)
                .collect();
            places.extend((!of.is_empty()).then(|| of[(2 * i + usize::from(pans)) % of.len()]));
        }
    }
    places
}

/// What is drawn of a row: its query, and candidates from the most similar one on.
struct Case {
    row: Row,
    query: SimilarVideo,
    /// Each with its place among the candidates, its similarity, and the colour of the line around it.
    nearest: Vec<(usize, f64, SimilarVideo, [u8; 3])>,
}

impl Case {
    fn new(set: &Set, found: &Found, at: usize) -> Result<Case> {
        let (row, candidates) = (found.rows[at], set.candidates(&found.rows[at]));
        let similarities = &found.similarities[at * CANDIDATES..][..CANDIDATES];
        let mut order: Vec<usize> = (0..CANDIDATES).collect();
        order.sort_by(|a, b| similarities[*b].total_cmp(&similarities[*a]));
        let of = |(rank, place): (usize, usize)| {
            let line = match (place == CANDIDATES - 1, rank == 0) {
                (true, _) => RIGHT,
                (false, true) => WRONG,
                (false, false) => OTHER,
            };
            Ok((place, similarities[place], set.video(candidates[place])?, line))
        };
        let nearest = order.into_iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
        Ok(Case { row, query: set.video(set.number(row.query, Role::Query))?, nearest })
    }

    fn title(&self) -> String {
        let camera = if self.row.pans { "the camera pans" } else { "still camera" };
        let rank = 1 + self.nearest.iter().position(|(place, ..)| *place == CANDIDATES - 1).unwrap_or(0);
        let change = self.row.change.name();
        let how = if rank == 1 { "found ✓".to_owned() } else { format!("is number {rank} ✗") };
        format!("{}, other {change}, {camera}: the match {how}", self.query.motion())
    }
}

fn legend(found: &Found, what: &str) -> Legend {
    let text = format!(
        "Queries, matches (the same motion in another look) and distractors (the same look in another motion): {what}. The match \
         is the most similar of {CANDIDATES} candidates for a share of {:.3} of all queries and changes.",
        found.recall(|_| true)
    );
    let of = |colour, meaning| Key { colour, outline: true, meaning };
    let key = vec![
        of(QUERY, "query"),
        of(RIGHT, "match"),
        of(WRONG, "retrieved instead of it"),
        of(OTHER, "other distractors"),
    ];
    Legend { text: vec![text], wheel: false, key }
}

/// Draws a sheet: query, match and the most similar distractor of some rows, over time from left to right.
pub fn draw(set: &Set, found: &Found, out: &Path) -> Result<()> {
    let SimilaritySpec { frames, side, .. } = set.spec;
    let mut samples = Vec::new();
    for at in shown(found) {
        let case = Case::new(set, found, at)?;
        let strip = |label: &str, video: &SimilarVideo, line| {
            let moments = (0..SHOWN).map(|i| picture(video, (2 * i + 1) * frames / (2 * SHOWN), side, line));
            Strip::pictures(label, moments.collect::<Result<Vec<_>>>()?)
        };
        let of = |(_, similarity, video, line): &(usize, f64, SimilarVideo, [u8; 3]), what: &str| {
            strip(&format!("{what}: {similarity:.3}"), video, *line)
        };
        let is_match = |(place, ..): &&(usize, f64, SimilarVideo, [u8; 3])| *place == CANDIDATES - 1;
        let mut strips = vec![strip("query", &case.query, QUERY)?];
        for one in case.nearest.iter().filter(is_match) {
            strips.push(of(one, "match")?);
        }
        let mut title = case.title();
        if let Some(one) = case.nearest.iter().find(|one| !is_match(one)) {
            strips.push(of(one, "distractor")?);
            title += &format!(", nearest distractor {}", one.2.motion());
        }
        samples.push(Sample { title, strips });
    }
    let what = "similarities of features beside them, time from left to right";
    sheet::draw(out, &legend(found, what), &samples)
}

/// Draws the same as a sheet that moves: the query, and the most similar candidates from left to right.
pub fn animate(set: &Set, found: &Found, out: &Path, go_on: GoOn) -> Result<()> {
    let SimilaritySpec { frames, side, .. } = set.spec;
    let cases = shown(found).into_iter().map(|at| Case::new(set, found, at)).collect::<Result<Vec<_>>>()?;
    let moment = |i: usize| {
        go_on()?;
        let of = |case: &Case| {
            let at = i * frames / MOMENTS;
            let (mut pictures, mut captions) = (vec![picture(&case.query, at, side, QUERY)?], vec!["query".to_owned()]);
            for (_, _, video, line) in case.nearest.iter().take(SHOWN - 1) {
                pictures.push(picture(video, at, side, *line)?);
                captions.push(video.motion().to_owned());
            }
            let strips = vec![Strip::pictures("nearest first", pictures)?.captioned(captions)?];
            Ok(Sample { title: case.title(), strips })
        };
        cases.iter().map(of).collect::<Result<Vec<_>>>()
    };
    let moments = (0..MOMENTS).map(moment).collect::<Result<Vec<_>>>()?;
    animation::draw(out, &legend(found, "the most similar candidates from left to right, moving"), &moments, go_on)
}
