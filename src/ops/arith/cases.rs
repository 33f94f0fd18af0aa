//! Pairs of shapes to broadcast.

/// One pair of shapes.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tests and benches.
    pub name: &'static str,
    /// Shape of `a`.
    pub a: &'static [usize],
    /// Shape of `b`, of the same rank.
    pub b: &'static [usize],
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Operations: one per element of the result.
    pub fn flops(&self) -> usize {
        self.a.iter().zip(self.b).map(|(a, b)| a.max(b)).product()
    }

    /// Bytes of f32 read and written once.
    pub fn bytes(&self) -> usize {
        4 * (self.a.iter().product::<usize>() + self.b.iter().product::<usize>() + self.flops())
    }
}

const fn case(name: &'static str, a: &'static [usize], b: &'static [usize], why: &'static str) -> Case {
    Case { name, a, b, why }
}

/// The shapes.
pub const CASES: &[Case] = &[
    case("scalars", &[], &[], "no axis at all"),
    case("equal", &[3, 5, 7], &[3, 5, 7], "one run"),
    case("chunks", &[2, 33, 1001], &[2, 33, 1001], "several tasks, the last short"),
    case("channels", &[7, 11, 13], &[1, 1, 13], "a factor per channel"),
    case("groups", &[3, 11, 13], &[3, 1, 13], "a factor per group and channel"),
    case("rows", &[37, 19], &[37, 1], "a factor per row"),
    case("outer", &[5, 1], &[1, 9], "each is repeated along the other"),
    case("one_left", &[1, 1, 1], &[4, 3, 5], "a single number first"),
    case("alternating", &[2, 1, 3, 1, 5], &[2, 4, 3, 2, 5], "nothing can be joined"),
];
