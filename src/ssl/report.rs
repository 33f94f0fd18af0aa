//! The report of a step: values stay on their device until all of them are read at once.

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
    /// The loss, then the parts.
    numbers: Tensor,
    parts: Vec<Part>,
}

impl Seen {
    /// The loss, and other tensors whose consecutive numbers have the meaning in `parts`.
    pub(super) fn new(loss: &Tensor, tensors: &[Tensor], parts: Vec<Part>) -> Result<Seen> {
        let all: Vec<&Tensor> = std::iter::once(loss).chain(tensors).collect();
        Ok(Seen { numbers: Tensor::collect(&all)?, parts })
    }

    /// The numbers of a report that was read already, for methods whose steps wait for it.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn of(report: &Report) -> Result<Seen> {
        let numbers: Vec<f32> = std::iter::once(report.loss).chain(report.parts.iter().map(|(_, v)| *v)).collect();
        let parts = report.parts.iter().map(|(name, _)| Part::Value(name, 1.0)).collect();
        Ok(Seen { numbers: Tensor::from_f32([numbers.len()], &numbers)?, parts })
    }

    /// Reads the numbers; synchronises with a GPU.
    ///
    /// # Errors
    /// On a GPU, `Driver`.
    pub fn read(&self) -> Result<Report> {
        let numbers = self.numbers.load()?;
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
