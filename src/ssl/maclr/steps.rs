//! The terms between time steps, after the local term of MSCL (Ni et al., ECCV 2022; `docs/papers/maclr.md` section 11).
//!
//! With `r_bi` the code of step `i` of the visual query of video `b`, `f_bi` the key of the motion network for the same moment:
//!
//! `L = -(1 / (n·t)) Σ_bi log [ exp(r_bi·f_bi / τ) / Σ_cj exp(r_bi·f_cj / τ) ]`
//!
//! over all videos `c` of the batch and all steps `j`: other moments are negatives, and so are other videos. The second term has
//! the roles of the networks exchanged. MSCL's further negatives, flow with its directions turned, have the same edges; here the
//! videos of the batch take their place, and positives and negatives are keys of the momentum networks.

use super::Maclr;
use super::keys::Keys;
use crate::error::{Error, Result};
use crate::nn::Encoder;
use crate::ops::infonce::{Loss, Mask, Owners, infonce_terms};
use crate::ssl::division::Division;
use crate::ssl::pathway::{ClipCodes, Pathway};
use crate::tape::{Tape, Var};
use crate::tensor::{Device, Integers, Tensor};
use std::ops::Range;

/// Numbers of steps, by which a query's positive is left out of the negatives.
pub(super) struct Numbers {
    /// Of each micro-batch.
    own: Vec<Integers>,
    /// Of all ranks.
    all: Integers,
    /// Steps of a clip.
    steps: usize,
}

impl Numbers {
    /// Those of `n` clips on this rank, each of as many steps as both networks have for clips of these extents `[n t h w c]`.
    pub fn new(
        [visual, motion]: [&Pathway; 2],
        [rgb, moving]: [&Tensor; 2],
        division: &Division,
        device: &Device,
    ) -> Result<Numbers> {
        let of = |pathway: &Pathway, x: &Tensor| {
            let [n, t, h, w, _] = x.shape().nthwc("maclr", "clips")?;
            let encoder: &Encoder = pathway.encoder();
            Ok::<_, Error>((n, encoder.steps(pathway.query(), [t, h, w])?))
        };
        let ((n, steps), (_, other)) = (of(visual, rgb)?, of(motion, moving)?);
        if steps != other || steps == 0 {
            let rule = format!("the visual network has codes of {steps} time steps, and the motion network of {other}");
            return Err(Error::param("maclr", "steps", steps, rule));
        }
        let number = |clips: Range<usize>| -> Vec<u32> {
            (clips.start * steps..clips.end * steps).map(|number| number as u32).collect()
        };
        let first = division.own(n).start;
        let parts = division.micro_batches(n)?.into_iter();
        let own = parts.map(|rows| Integers::new(number(first + rows.start..first + rows.end)).to(device));
        let all = Integers::new(number(0..n * division.ranks().size())).to(device)?;
        Ok(Numbers { own: own.collect::<Result<_>>()?, all, steps })
    }

    /// The same in memory of its own.
    pub fn apart(&self) -> Result<Numbers> {
        let own = self.own.iter().map(Integers::apart).collect::<Result<_>>()?;
        Ok(Numbers { own, all: self.all.apart()?, steps: self.steps })
    }
}

impl Maclr {
    /// The terms of micro-batch `i`, whose videos are `rows` among those of all ranks: visual steps against motion keys, and motion
    /// steps against visual keys.
    pub(super) fn step_terms(
        &self,
        tape: &Tape,
        [q_v, q_m]: [Option<&Var>; 2],
        keys: &Keys,
        (i, rows): (usize, Range<usize>),
        numbers: &Numbers,
    ) -> Result<[Loss; 2]> {
        let absent = || Error::param("maclr", "steps", "absent", "an encoder has no head for time steps");
        let motion = keys.motion.as_ref().ok_or_else(absent)?;
        let own = &numbers.own[i];
        let term = |q: Option<&Var>, keys: &ClipCodes| {
            let (q, of_rows) = (q.ok_or_else(absent)?, keys.rows(rows.clone())?);
            let flat = |codes: &Tensor| {
                let d = codes.shape().last() / numbers.steps;
                codes.reshape([codes.shape().len() / d.max(1), d])
            };
            let all = flat(keys.steps.as_ref().ok_or_else(absent)?)?;
            let positive = flat(of_rows.steps.as_ref().ok_or_else(absent)?)?;
            let owners = match (own.memory(), numbers.all.memory()) {
                (Some(rows), Some(keys)) => Owners::Device { rows, keys },
                _ => Owners::Host(Mask { rows: own.values(), keys: numbers.all.values() }),
            };
            Ok::<_, Error>(
                infonce_terms(tape, &[(q.clone(), positive)], &all, owners, self.steps_temperature)?.remove(0),
            )
        };
        Ok([term(q_v, motion)?, term(q_m, &keys.visual)?])
    }
}
