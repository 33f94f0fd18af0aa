//! Whether the machine stayed the same while a case was timed, and what happens if it did not.

use anyhow::Result;
use serde_json::{Value, json};

/// What the machine reaches at one moment, measured by our side within some 25 ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// f32 operations per second, multiply-adds counted twice.
    pub f32: f64,
    /// Bytes per second read and written by a copy.
    pub copy: f64,
}

impl Probe {
    /// The probe in an answer of our side.
    pub fn of(answer: &Value) -> Option<Self> {
        let rate = |key: &str| answer[key].as_f64().filter(|rate| *rate > 0.0 && rate.is_finite());
        Some(Probe { f32: rate("f32")?, copy: rate("copy")? })
    }

    /// The larger change of the two rates between two moments, as a fraction of the smaller value.
    pub fn moved(self, other: Self) -> f64 {
        let change = |a: f64, b: f64| a.max(b) / a.min(b) - 1.0;
        change(self.f32, other.f32).max(change(self.copy, other.copy))
    }

    fn json(self) -> Value {
        let giga = |rate: f64| (rate * 1e-8).round() / 10.0;
        json!({"f32_gflops": giga(self.f32), "copy_gb_per_s": giga(self.copy)})
    }
}

/// An attempt at a case: its result between two probes.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt<T> {
    /// The machine before.
    pub before: Probe,
    /// The result.
    pub result: T,
    /// The machine afterwards.
    pub after: Probe,
}

/// The machine during the attempt that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// Attempts that were made.
    pub attempts: u32,
    /// The change of the probe in each of them, as a fraction.
    pub moved: Vec<f64>,
    /// The most that is accepted.
    pub limit: f64,
    probes: [Probe; 2],
}

impl Conditions {
    /// Whether the last attempt was undisturbed, so that its ratio may be printed.
    pub fn quiet(&self) -> bool {
        self.moved.last().is_some_and(|moved| *moved <= self.limit)
    }

    /// What is said in place of a ratio.
    pub fn complaint(&self) -> String {
        let percent: Vec<String> = self.moved.iter().map(|m| format!("{:.0}", 100.0 * m)).collect();
        format!("no ratio: the probe of the machine moved by {} %", percent.join(", "))
    }

    /// For the record.
    pub fn json(&self) -> Value {
        let percent: Vec<f64> = self.moved.iter().map(|m| (1e3 * m).round() / 10.0).collect();
        json!({"quiet": self.quiet(), "moved_percent": percent, "probes": self.probes.map(Probe::json)})
    }
}

/// Repeats `attempt` until both rates changed by at most `limit` (a fraction) during one, at most `tries` times; returns
/// the result of the last attempt, which is undisturbed unless none was.
///
/// # Errors
/// Those of `attempt`.
pub fn until_quiet<T>(
    tries: u32,
    limit: f64,
    mut attempt: impl FnMut() -> Result<Attempt<T>>,
) -> Result<(T, Conditions)> {
    let mut moved = Vec::new();
    loop {
        let Attempt { before, result, after } = attempt()?;
        moved.push(before.moved(after));
        let attempts = moved.len() as u32;
        let conditions = Conditions { attempts, moved: moved.clone(), limit, probes: [before, after] };
        if conditions.quiet() || attempts >= tries {
            return Ok((result, conditions));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(f32: f64, copy: f64) -> Probe {
        Probe { f32, copy }
    }

    /// Attempts whose probes are those of `script`; the result of each is its number.
    fn scripted(tries: u32, script: &[[Probe; 2]]) -> (u32, Conditions) {
        let (mut script, mut number) = (script.iter(), 0);
        until_quiet(tries, 0.1, || {
            let [before, after] = *script.next().expect("no attempt after an undisturbed one");
            number += 1;
            Ok(Attempt { before, result: number, after })
        })
        .unwrap()
    }

    #[test]
    fn an_undisturbed_attempt_is_the_last() {
        let (result, conditions) = scripted(3, &[[probe(100.0, 20.0), probe(95.0, 21.0)]]);
        assert_eq!((result, conditions.attempts, conditions.quiet()), (1, 1, true));
    }

    #[test]
    fn either_rate_in_either_direction_disturbs() {
        let quiet = [probe(100.0, 20.0); 2];
        for other in [probe(88.0, 20.0), probe(115.0, 20.0), probe(100.0, 17.0), probe(100.0, 24.0)] {
            let (result, conditions) = scripted(3, &[[probe(100.0, 20.0), other], quiet]);
            assert_eq!((result, conditions.attempts, conditions.quiet()), (2, 2, true), "{other:?}");
        }
    }

    #[test]
    fn what_was_never_quiet_says_so() {
        let loud = |after| [probe(100.0, 20.0), probe(after, 20.0)];
        let (result, conditions) = scripted(3, &[loud(50.0), loud(80.0), loud(70.0)]);
        assert_eq!((result, conditions.attempts, conditions.quiet()), (3, 3, false));
        assert_eq!(conditions.complaint(), "no ratio: the probe of the machine moved by 100, 25, 43 %");
        assert_eq!(conditions.json()["quiet"], false);
    }

    #[test]
    fn an_error_ends_the_attempts() {
        let failing = || -> Result<Attempt<()>> { anyhow::bail!("the peer has ended") };
        assert!(until_quiet(3, 0.1, failing).unwrap_err().to_string().contains("has ended"));
    }

    #[test]
    fn an_answer_without_rates_is_no_probe() {
        assert_eq!(Probe::of(&json!({"f32": 3e11, "copy": 2e10})), Some(probe(3e11, 2e10)));
        for answer in [json!({}), json!({"f32": 3e11}), json!({"f32": 0.0, "copy": 1.0}), json!({"error": "no"})] {
            assert_eq!(Probe::of(&answer), None, "{answer}");
        }
    }
}
