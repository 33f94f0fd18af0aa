//! Learning rate over a run: linear warm-up, then half a cosine (`docs/papers/maclr.md` section 5; Loshchilov & Hutter
//! 2017), or steps.
//!
//! ```
//! use tubelet::train::schedule::Schedule;
//! let lr = Schedule { base: 0.1, warmup_from: 0.0, warmup: 10, steps: 110, floor: 0.0, ..Schedule::default() };
//! assert_eq!([0, 5, 10, 60].map(|step| lr.at(step)), [0.0, 0.05, 0.1, 0.05]);
//! ```

/// Learning rate as a function of the optimiser step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    /// The rate where the cosine begins.
    pub base: f32,
    /// The rate at step 0, if there is a warm-up.
    pub warmup_from: f32,
    /// Steps of linear warm-up; 0 for none.
    pub warmup: u64,
    /// Number of steps of the run, including the warm-up.
    pub steps: u64,
    /// The rate at the end.
    pub floor: f32,
    /// Whether the cosine spans the warm-up too: the warm-up then ends on the value that the cosine has there, below
    /// `base` (SlowFast's schedule, on which MaCLR's release is based). Otherwise it begins after the warm-up.
    pub whole_cosine: bool,
    /// Instead of a cosine: the steps from which on the rate is a tenth, and a hundredth, of `base`.
    pub drops: Option<[u64; 2]>,
}

impl Schedule {
    /// The rate for `step`, counted from 0.
    #[must_use]
    pub fn at(&self, step: u64) -> f32 {
        if step < self.warmup {
            let part = step as f64 / self.warmup as f64;
            let end = if self.whole_cosine { self.cosine(self.warmup) as f32 } else { self.base };
            return (f64::from(self.warmup_from) + part * f64::from(end - self.warmup_from)) as f32;
        }
        match self.drops {
            Some(drops) => self.base * 0.1f32.powi(drops.into_iter().filter(|at| step >= *at).count() as i32),
            None => self.cosine(step) as f32,
        }
    }

    /// The cosine at `step`.
    fn cosine(&self, step: u64) -> f64 {
        let start = if self.whole_cosine { 0 } else { self.warmup };
        let rest = self.steps.saturating_sub(start).max(1);
        let part = ((step - start) as f64 / rest as f64).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * part).cos());
        f64::from(self.floor) + cosine * f64::from(self.base - self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_the_floor() {
        let s = Schedule { base: 0.1, warmup_from: 0.001, warmup: 10, steps: 110, floor: 0.0, ..Schedule::default() };
        assert_eq!(s.at(0), 0.001);
        assert_eq!(s.at(10), 0.1);
        assert_eq!(s.at(60), 0.05);
        assert_eq!(s.at(110), 0.0);
        assert!((0..10).all(|i| s.at(i) < s.at(i + 1)));
        assert!((10..110).all(|i| s.at(i) > s.at(i + 1)));
    }

    #[test]
    fn without_warm_up_starts_at_the_base() {
        let s = Schedule { base: 0.1, warmup_from: 0.0, warmup: 0, steps: 10, floor: 1e-6, ..Schedule::default() };
        assert_eq!(s.at(0), 0.1);
        assert_eq!(s.at(10), 1e-6);
    }

    #[test]
    fn steps_drop_to_a_tenth_and_a_hundredth() {
        let s = Schedule { base: 1.0, steps: 20, warmup: 2, drops: Some([10, 15]), ..Schedule::default() };
        assert_eq!(
            [0, 1, 2, 9, 10, 14, 15, 19].map(|i| s.at(i)),
            [0.0, 0.5, 1.0, 1.0, 0.1, 0.1, 0.1f32.powi(2), 0.1f32.powi(2)]
        );
    }

    /// The schedule of MaCLR's release at a base of 0.1: its cosine is at 0.0926 when a warm-up of 35 of 200 epochs ends.
    #[test]
    fn a_warm_up_within_the_cosine_ends_on_it() {
        let s = Schedule {
            base: 0.1,
            warmup_from: 0.001,
            warmup: 350,
            steps: 2000,
            floor: 0.0,
            whole_cosine: true,
            drops: None,
        };
        assert_eq!(s.at(0), 0.001);
        assert!((s.at(350) - 0.0926).abs() < 5e-5, "{}", s.at(350));
        assert!((s.at(349) - s.at(350)).abs() < 3e-4, "no jump");
        assert_eq!(s.at(1000), 0.05);
        assert_eq!(s.at(2000), 0.0);
    }
}
