//! MaCLR: contrast RGB clips with motion clips of the same video (Xiao, Tighe, Modolo, ECCV 2022; `maclr.md` section 4).
//!
//! With `q_v, q_m` the queries of the visual and the motion network for one clip of a video, `k_v, k_m` the keys for
//! another, and a queue of past keys for each modality, the loss has four InfoNCE terms:
//!
//! | term | query | positive | negatives |
//! |---|---|---|---|
//! | `vv` | `q_v` | `k_v` | visual queue |
//! | `mm` | `q_m` | `k_m` | motion queue |
//! | `vm` | `q_v` | `k_m` | motion queue |
//! | `mv` | `q_m` | `k_v` | visual queue |

use super::pathway::Pathway;
use crate::error::{Error, Result};
use crate::nn::ParamId;
use crate::ops::{self, infonce, sgd::Sgd};
use crate::tape::{Mode, Tape, Var};
use crate::tensor::{DType, Device, Tensor};
use rand::Rng;

/// Which motion clip is the positive of an RGB query, and the other way round. Either way there are four forward passes:
/// one key a modality serves the term within and the term across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossPositive {
    /// The other clip of the pair: both queries look at the first clip, both keys at the second.
    OtherClip,
    /// The clip of the same moment: the visual query and the motion key look at the first clip, the motion query and the
    /// visual key at the second. The terms within a modality still join two different clips.
    SameClip,
}

/// The method's settings. Defaults are those of the released code (`maclr.md` sections 2.3 and 4).
#[derive(Clone, Debug, PartialEq)]
pub struct Maclr {
    /// Weight of visual-visual.
    pub w_vv: f32,
    /// Weight of motion-motion.
    pub w_mm: f32,
    /// Weight of visual query against motion keys.
    pub w_vm: f32,
    /// Weight of motion query against visual keys.
    pub w_mv: f32,
    /// Temperature τ.
    pub temperature: f32,
    /// Momentum `m` of the key networks.
    pub momentum: f32,
    /// Parts of the batch with batch statistics of their own.
    pub groups: usize,
    /// Whether the key batch is permuted before its forward pass.
    pub shuffle_keys: bool,
    /// The positive of the cross-modal terms.
    pub cross_positive: CrossPositive,
    /// Whether both clips serve as query, each against the key of the other: twice the work, twice the signal.
    pub symmetric: bool,
    /// Whether earlier keys of a query's own video are left out of its negatives.
    pub mask_own: bool,
    /// Whether the keys of the batch's other videos are negatives too: they enter the queues before the losses, and each
    /// query's own is masked. Needs [`Maclr::mask_own`].
    pub in_batch: bool,
    /// Number type of activations.
    pub dtype: DType,
}

impl Default for Maclr {
    fn default() -> Self {
        Maclr {
            w_vv: 1.0,
            w_mm: 1.0,
            w_vm: 1.0,
            w_mv: 1.0,
            temperature: 0.1,
            momentum: 0.999,
            groups: 1,
            shuffle_keys: true,
            cross_positive: CrossPositive::OtherClip,
            symmetric: false,
            mask_own: true,
            in_batch: false,
            dtype: DType::F32,
        }
    }
}

/// A batch: two clips of each video.
#[derive(Clone)]
pub struct Views {
    /// RGB clips `n t h w c`, the first and the second of each video.
    pub rgb: [Tensor; 2],
    /// Motion clips `n t h w c` of the same two spans; not read when no term uses motion.
    pub motion: Option<[Tensor; 2]>,
    /// The videos' numbers, which own their keys in the queue.
    pub owners: Vec<u32>,
}

impl Views {
    /// The same clips on `device`.
    ///
    /// # Errors
    /// As [`Tensor::to`].
    pub fn to(&self, device: &Device) -> Result<Views> {
        let pair = |[a, b]: &[Tensor; 2]| Ok::<_, Error>([a.to(device)?, b.to(device)?]);
        Ok(Views {
            rgb: pair(&self.rgb)?,
            motion: self.motion.as_ref().map(pair).transpose()?,
            owners: self.owners.clone(),
        })
    }
}

/// What a step saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The weighted sum of the terms.
    pub loss: f32,
    /// Each term with weight above 0: its name, its loss, and how often its positive beat all negatives.
    pub terms: Vec<Term>,
}

/// One InfoNCE term of a step.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// `vv`, `mm`, `vm` or `mv`.
    pub name: &'static str,
    /// Its mean loss.
    pub loss: f32,
    /// Part of the queries whose positive beat every negative.
    pub accuracy: f32,
}

/// The two pathways in training. `motion` is `None` when no term uses it.
pub struct Pathways {
    /// RGB.
    pub visual: Pathway,
    /// Motion.
    pub motion: Option<Pathway>,
}

impl Maclr {
    /// Whether any term needs the motion pathway.
    pub fn uses_motion(&self) -> bool {
        self.w_mm != 0.0 || self.w_vm != 0.0 || self.w_mv != 0.0
    }

    /// One training step on `views`: key networks follow, keys, queries, losses against the queues as they are, gradient
    /// descent with rate `lr`, then the new keys enter the queues. `rng` permutes the key batch. A loss that is not
    /// finite leaves the weights untouched and is returned in the report.
    ///
    /// # Errors
    /// `Param` when a term needs motion and there is none, or the batch does not divide into `groups`; what the
    /// networks' operations return.
    pub fn step(&self, p: &mut Pathways, views: &Views, rng: &mut impl Rng, lr: f32, sgd: &Sgd) -> Result<Report> {
        p.visual.follow(self.momentum)?;
        if let Some(m) = &mut p.motion {
            m.follow(self.momentum)?;
        }
        // Sub-passes of the symmetric form share this step's key networks and queues.
        let directions: &[usize] = if self.symmetric { &[0, 1] } else { &[0] };
        let mut keys = Vec::new();
        for &a in directions {
            keys.push(self.keys(p, views, a, rng)?);
        }
        let in_batch = self.in_batch && self.mask_own;
        if in_batch {
            enqueue(p, &keys, &views.owners)?;
        }
        let tape = Tape::new();
        let (mut total, mut report): (Option<Var>, Report) = Default::default();
        let (mut visual_leaves, mut motion_leaves) = (Vec::new(), Vec::new());
        for (&a, keys) in directions.iter().zip(&keys) {
            let (q_v, leaves) = p.visual.queries(&tape, &views.rgb[a], self.groups, self.dtype)?;
            visual_leaves.push(leaves);
            let q_m = match (&mut p.motion, self.motion(views)?) {
                (Some(pathway), Some(motion)) => {
                    let x = &motion[self.motion_query(a)];
                    let (q_m, leaves) = pathway.queries(&tape, x, self.groups, self.dtype)?;
                    motion_leaves.push(leaves);
                    Some(q_m)
                }
                _ => None,
            };
            let part = 1.0 / directions.len() as f32;
            for (name, weight, loss) in self.terms(&tape, p, &q_v, q_m.as_ref(), keys, &views.owners)? {
                let weighted = ops::scale(&tape, &loss.loss, weight * part)?;
                total = Some(match total {
                    Some(sum) => ops::add(&tape, &sum, &weighted)?,
                    None => weighted,
                });
                report.add(name, loss.loss.value().item()? * part, loss.accuracy()? * part);
            }
        }
        let Some(total) = total else {
            return Err(Error::param("maclr", "weights", "0 0 0 0", "at least one term needs a weight above 0"));
        };
        report.loss = total.value().item()?;
        if !report.loss.is_finite() {
            return Ok(report);
        }
        let grads = gradients(&tape, &total, [&visual_leaves, &motion_leaves])?;
        drop((total, tape));
        let [visual, motion] = grads;
        p.visual.descend(&visual, lr, sgd)?;
        if let Some(pathway) = &mut p.motion {
            pathway.descend(&motion, lr, sgd)?;
        }
        if !in_batch {
            enqueue(p, &keys, &views.owners)?;
        }
        Ok(report)
    }

    fn motion<'a>(&self, views: &'a Views) -> Result<Option<&'a [Tensor; 2]>> {
        if !self.uses_motion() {
            return Ok(None);
        }
        match &views.motion {
            Some(m) => Ok(Some(m)),
            None => Err(Error::param("maclr", "motion", "absent", "a motion term has a weight above 0")),
        }
    }

    /// The clip at which the motion query looks when the visual query looks at clip `a`; the motion key looks at the
    /// other.
    fn motion_query(&self, a: usize) -> usize {
        match self.cross_positive {
            CrossPositive::OtherClip => a,
            CrossPositive::SameClip => 1 - a,
        }
    }

    /// The keys for the queries of clip `a`.
    fn keys(&self, p: &mut Pathways, views: &Views, a: usize, rng: &mut impl Rng) -> Result<Keys> {
        let mut one = |pathway: &mut Pathway, x: &Tensor| {
            pathway.keys(x, self.groups, self.shuffle_keys.then_some(&mut *rng), self.dtype)
        };
        let visual = one(&mut p.visual, &views.rgb[1 - a])?;
        let motion = match (&mut p.motion, self.motion(views)?) {
            (Some(pathway), Some(clips)) => Some(one(pathway, &clips[1 - self.motion_query(a)])?),
            _ => None,
        };
        Ok(Keys { visual, motion })
    }

    /// The terms with weight above 0.
    fn terms(
        &self,
        tape: &Tape,
        p: &Pathways,
        q_v: &Var,
        q_m: Option<&Var>,
        keys: &Keys,
        owners: &[u32],
    ) -> Result<Vec<(&'static str, f32, infonce::Loss)>> {
        // Nobody's number hides only the places that hold no key yet.
        let strangers = vec![infonce::Mask::NOBODY; owners.len()];
        let nce = |q: &Var, k: &Tensor, pathway: &Pathway| {
            let queue = pathway.queue();
            let rows = if self.mask_own { owners } else { &strangers };
            let mask = infonce::Mask { rows, keys: queue.owners() };
            ops::infonce_masked(tape, q, k, queue.keys(), Some(mask), self.temperature)
        };
        let mut terms = Vec::new();
        if self.w_vv != 0.0 {
            terms.push(("vv", self.w_vv, nce(q_v, &keys.visual, &p.visual)?));
        }
        if let (Some(q_m), Some(k_m), Some(motion)) = (q_m, &keys.motion, &p.motion) {
            if self.w_mm != 0.0 {
                terms.push(("mm", self.w_mm, nce(q_m, k_m, motion)?));
            }
            if self.w_vm != 0.0 {
                terms.push(("vm", self.w_vm, nce(q_v, k_m, motion)?));
            }
            if self.w_mv != 0.0 {
                terms.push(("mv", self.w_mv, nce(q_m, &keys.visual, &p.visual)?));
            }
        }
        Ok(terms)
    }
}

/// Keys of one direction.
struct Keys {
    visual: Tensor,
    motion: Option<Tensor>,
}

fn enqueue(p: &mut Pathways, keys: &[Keys], owners: &[u32]) -> Result<()> {
    for keys in keys {
        p.visual.enqueue(&keys.visual, owners)?;
        if let (Some(pathway), Some(k)) = (&mut p.motion, &keys.motion) {
            pathway.enqueue(k, owners)?;
        }
    }
    Ok(())
}

impl Report {
    fn add(&mut self, name: &'static str, loss: f32, accuracy: f32) {
        match self.terms.iter_mut().find(|t| t.name == name) {
            Some(t) => {
                t.loss += loss;
                t.accuracy += accuracy;
            }
            None => self.terms.push(Term { name, loss, accuracy }),
        }
    }
}

/// One backward walk for both networks; where a network ran twice (symmetric form), its gradients are added.
fn gradients(tape: &Tape, total: &Var, leaves: [&[Vec<(ParamId, Var)>]; 2]) -> Result<[Vec<(ParamId, Tensor)>; 2]> {
    let all: Vec<&Var> = leaves.iter().flat_map(|network| network.iter().flatten()).map(|(_, v)| v).collect();
    let mut grads = tape.grad(total, &all, Mode::Free)?.into_iter();
    let mut out = [Vec::new(), Vec::new()];
    for (network, out) in leaves.iter().zip(&mut out) {
        for run in network.iter() {
            for (i, (id, leaf)) in run.iter().enumerate() {
                let zero = || Tensor::zeros(leaf.shape());
                let g = grads.next().flatten().map_or_else(zero, |g| g.value().clone());
                match out.get_mut(i) {
                    Some((_, sum)) => *sum = ops::arith::apply(ops::arith::Arith::Add, sum, &g)?,
                    None => out.push((*id, g)),
                }
            }
        }
    }
    Ok(out)
}
