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
        Ok(self.division.share_reports(&[self.own()?], 0.0)?.0.pop().unwrap_or_default())
    }

    /// Reads the numbers of this rank: their sums over its micro-batches, in this order. Synchronises with a GPU.
    ///
    /// # Errors
    /// On a GPU, `Driver`.
    pub fn own(&self) -> Result<Report> {
        let mut sum = Report::default();
        for numbers in &self.numbers {
            let next = self.report(numbers)?;
            sum.loss += next.loss;
            sum.parts.resize(next.parts.len(), ("", 0.0));
            for ((name, sum), (of, value)) in sum.parts.iter_mut().zip(next.parts) {
                (*name, *sum) = (of, *sum + value);
            }
        }
        Ok(sum)
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

impl Division {
    /// The reports of several steps, of all ranks: the means over all micro-batches, from the [sums](Seen::own) of this rank. Ranks also
    /// tell each other whether they were asked to stop, and a number of seconds, of which the largest is returned.
    ///
    /// # Errors
    /// `Peer` when another rank has ended.
    pub fn share_reports(&self, own: &[Report], seconds: f32) -> Result<(Vec<Report>, f32)> {
        let values = own.iter().flat_map(|r| std::iter::once(r.loss).chain(r.parts.iter().map(|(_, value)| *value)));
        let note: Vec<u8> = std::iter::once(seconds).chain(values).flat_map(f32::to_le_bytes).collect();
        let all = self.share_note(&note)?;
        let mut all: Vec<_> = all.iter().map(|note| note.chunks_exact(4).map(number)).collect();
        let seconds = all.iter_mut().filter_map(Iterator::next).fold(seconds, f32::max);
        // Added in the order of the ranks.
        let mut mean = || all.iter_mut().filter_map(Iterator::next).fold(0.0, |sum, v| sum + v) / self.count() as f32;
        let mean_of =
            |own: &Report| Report { loss: mean(), parts: own.parts.iter().map(|(name, _)| (*name, mean())).collect() };
        Ok((own.iter().map(mean_of).collect(), seconds))
    }
}

fn number(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::sum::Wire;
    use crate::dist::{Alone, threads};
    use std::sync::Arc;

    fn seen(numbers: &[f32], division: &Division) -> Seen {
        let of = |&loss: &f32| Seen::of(&Report { loss, parts: vec![("accuracy", 1.0 / loss)] }).unwrap();
        Seen::of_micro_batches(numbers.iter().map(of).collect(), division)
    }

    /// Ranks may tell each other of several steps at once: the same bits, and those of one process that takes their place.
    #[test]
    fn reports_of_several_steps_are_those_of_each() {
        let steps = [[0.1f32, 0.2, 0.3], [1e8, 1.0, -1e8]];
        let alone = Division::new(Arc::new(Alone), 3, Wire::F32).unwrap();
        let want = steps.map(|step| seen(&step, &alone).read().unwrap());
        assert_eq!(want[0].loss, (0.1 + 0.2 + 0.3) / 3.0);
        let running: Vec<_> = threads::ranks(3)
            .into_iter()
            .enumerate()
            .map(|(rank, of)| {
                std::thread::spawn(move || {
                    let division = Division::new(Arc::new(of), 1, Wire::F32).unwrap();
                    let own = steps.map(|step| seen(&step[rank..=rank], &division));
                    let each = own.each_ref().map(|seen| seen.read().unwrap());
                    assert!(!division.stops());
                    if rank == 2 {
                        division.ask_to_stop();
                    }
                    let sums = own.map(|seen| seen.own().unwrap());
                    let (all, slowest) = division.share_reports(&sums, rank as f32).unwrap();
                    (each, all, slowest, division.stops())
                })
            })
            .collect();
        for rank in running {
            let (each, all, slowest, stops) = rank.join().unwrap();
            assert!(each == want && all == want && slowest == 2.0 && stops);
        }
    }
}
