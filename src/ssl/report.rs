//! The report of a step: values stay on their device until all of them are read at once.

use super::division::Division;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What a step reports: the loss and its named parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The loss that was minimised.
    pub loss: f32,
    /// Named parts, e.g. `("loss_vv", 3.1)`, in fixed order.
    pub parts: Vec<(&'static str, f32)>,
}

impl Report {
    /// The part called `name`.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<f32> {
        self.parts.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }
}

/// Meaning of consecutive numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// One number, times a factor. Parts with the same name are added.
    Value(&'static str, f32),
    /// One number that is not reported.
    Silent,
    /// This many numbers, of which the fraction below 0 is reported, times a factor.
    Below(&'static str, usize, f32),
}

/// The numbers of a step, on the device that computed them.
#[derive(Clone)]
pub struct Seen {
    /// Of each micro-batch: the loss, then the parts.
    numbers: Vec<Tensor>,
    parts: Vec<Part>,
    division: Division,
}

impl Seen {
    /// The loss, and other tensors whose consecutive numbers have the meaning in `parts`.
    pub(super) fn new(loss: &Tensor, tensors: &[Tensor], parts: Vec<Part>) -> Result<Seen> {
        let all: Vec<&Tensor> = std::iter::once(loss).chain(tensors).collect();
        Ok(Seen { numbers: vec![Tensor::collect(&all)?], parts, division: Division::default() })
    }

    /// The numbers of a report that was read already, for methods whose steps wait for it.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn of(report: &Report) -> Result<Seen> {
        let numbers: Vec<f32> = std::iter::once(report.loss).chain(report.parts.iter().map(|(_, v)| *v)).collect();
        let parts = report.parts.iter().map(|(name, _)| Part::Value(name, 1.0)).collect();
        let numbers = vec![Tensor::from_f32([numbers.len()], &numbers)?];
        Ok(Seen { numbers, parts, division: Division::default() })
    }

    /// Those of a batch from those of its micro-batches on this rank, of which there is at least one.
    pub(super) fn of_micro_batches(all: Vec<Seen>, division: &Division) -> Seen {
        let (mut numbers, mut parts) = (Vec::with_capacity(all.len()), Vec::new());
        for seen in all {
            numbers.extend(seen.numbers);
            parts = seen.parts;
        }
        Seen { numbers, parts, division: division.clone() }
    }

    /// Reads the numbers, and those of the other ranks: the means over all micro-batches. Synchronises with a GPU.
    ///
    /// # Errors
    /// On a GPU, `Driver`; `Peer` when another rank has ended.
    pub fn read(&self) -> Result<Report> {
        let own = self.numbers.iter().map(|numbers| self.report(numbers)).collect::<Result<Vec<_>>>()?;
        let values = own.iter().flat_map(|r| std::iter::once(r.loss).chain(r.parts.iter().map(|(_, value)| *value)));
        let note: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let all = self.division.share_report(&note)?;
        let Some(first) = own.into_iter().next() else { return Ok(Report::default()) };
        // Added in the order of the micro-batches.
        let each = 4 * (1 + first.parts.len());
        let mut sums = vec![0.0f32; each / 4];
        let mut count = 0;
        for one in all.iter().flat_map(|note| note.chunks_exact(each)) {
            count += 1;
            for (sum, bytes) in sums.iter_mut().zip(one.chunks_exact(4)) {
                *sum += f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        let mut means = sums.into_iter().map(|sum| sum / count as f32);
        let loss = means.next().unwrap_or_default();
        Ok(Report { loss, parts: first.parts.iter().map(|(name, _)| *name).zip(means).collect() })
    }

    /// The report of one micro-batch.
    fn report(&self, numbers: &Tensor) -> Result<Report> {
        let numbers = numbers.load()?;
        let mut rest = numbers.iter();
        let mut next =
            || rest.next().copied().ok_or_else(|| Error::param("report", "numbers", numbers.len(), "more are named"));
        let mut report = Report { loss: next()?, parts: Vec::new() };
        for part in &self.parts {
            let (name, value) = match *part {
                Part::Value(name, factor) => (name, next()? * factor),
                Part::Below(name, n, factor) => {
                    let mut below = 0;
                    for _ in 0..n {
                        below += usize::from(next()? < 0.0);
                    }
                    (name, factor * below as f32 / n as f32)
                }
                Part::Silent => {
                    next()?;
                    continue;
                }
            };
            match report.parts.iter_mut().find(|(n, _)| *n == name) {
                Some((_, sum)) => *sum += value,
                None => report.parts.push((name, value)),
            }
        }
        Ok(report)
    }
}
