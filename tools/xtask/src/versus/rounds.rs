//! The times of a case, round by round, and what follows from them.

use serde_json::{Value, json};

/// Times in milliseconds, one for each round; infinite where a side failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    /// The least, infinite if there is none.
    pub fn best(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Rounded, for the record; null for a round that failed.
    pub fn json(&self) -> Value {
        self.0.iter().map(|ms| if ms.is_finite() { json!(rounded(*ms, 4)) } else { Value::Null }).collect()
    }
}

/// How many times as fast we are as the other side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    /// Of the best times of both.
    pub best: f64,
    /// Of the times of the same round: the median, the least and the greatest.
    pub median: f64,
    /// See `median`.
    pub least: f64,
    /// See `median`.
    pub greatest: f64,
}

impl Ratios {
    /// `None` if one side has no time.
    pub fn of(ours: &Rounds, theirs: &Rounds) -> Option<Self> {
        let sound = |ratio: &f64| ratio.is_finite() && *ratio > 0.0;
        let mut each: Vec<f64> = theirs.0.iter().zip(&ours.0).map(|(peer, ms)| peer / ms).filter(sound).collect();
        each.sort_by(f64::total_cmp);
        let (least, greatest) = (*each.first()?, *each.last()?);
        let middle = each.len() / 2;
        let median = if each.len() % 2 == 1 { each[middle] } else { 0.5 * (each[middle - 1] + each[middle]) };
        Some(Ratios { best: theirs.best() / ours.best(), median, least, greatest })
    }

    /// For the record.
    pub fn json(self) -> Value {
        let [median, least, greatest] = [self.median, self.least, self.greatest].map(|r| rounded(r, 3));
        json!({"median": median, "least": least, "greatest": greatest})
    }
}

/// `n` with this many digits after the point.
pub fn rounded(n: f64, digits: i32) -> f64 {
    (n * 10f64.powi(digits)).round() / 10f64.powi(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let (ours, theirs) = (Rounds(vec![2.0, 1.0, 4.0]), Rounds(vec![3.0, 2.0, 4.0]));
        let ratios = Ratios::of(&ours, &theirs).unwrap();
        assert_eq!(ratios, Ratios { best: 2.0, median: 1.5, least: 1.0, greatest: 2.0 });
        let even = Ratios::of(&Rounds(vec![1.0; 4]), &Rounds(vec![4.0, 1.0, 3.0, 2.0])).unwrap();
        assert_eq!((even.median, even.least, even.greatest), (2.5, 1.0, 4.0));
    }

    #[test]
    fn a_side_without_times_has_no_ratio() {
        assert_eq!(Ratios::of(&Rounds(vec![1.0]), &Rounds::default()), None);
        assert_eq!(Ratios::of(&Rounds(vec![1.0]), &Rounds(vec![f64::INFINITY])), None);
        assert_eq!(Rounds(vec![f64::INFINITY, 0.123_456]).json(), json!([null, 0.1235]));
    }
}
