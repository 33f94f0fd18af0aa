//! Combinations of axes to sum over.

/// One sum.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tests and benches.
    pub name: &'static str,
    /// Shape of the input.
    pub from: &'static [usize],
    /// Shape of the sums.
    pub to: &'static [usize],
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Additions.
    pub fn flops(&self) -> usize {
        self.from.iter().product()
    }

    /// Bytes of f32 read and written once.
    pub fn bytes(&self) -> usize {
        4 * (self.from.iter().product::<usize>() + self.to.iter().product::<usize>())
    }
}

const fn case(name: &'static str, from: &'static [usize], to: &'static [usize], why: &'static str) -> Case {
    Case { name, from, to, why }
}

/// Rows that are added in order: how many, and how long.
pub const IN_ORDER: &[(&str, usize, usize)] = &[
    ("one", 1, 40),              // nothing to add
    ("empty", 3, 0),             // nothing at all
    ("two", 2, 64),              // two ranks
    ("ragged", 3, 1001),         // not a multiple of sixteen bytes
    ("quarters", 5, 1004),       // of f32's, and not of bf16's
    ("tasks", 8, (1 << 16) + 8), // several tasks and blocks, the last short
    ("many", 67, 24),            // more rows than are loaded at a time
];

/// The shapes.
pub const CASES: &[Case] = &[
    case("all", &[3, 5, 7], &[1, 1, 1], "one sum"),
    case("all_long", &[2, 33, 1001], &[1, 1, 1], "one sum of several tasks"),
    case("leading", &[11, 5, 13], &[1, 1, 13], "per channel"),
    case("leading_long", &[3001, 23], &[1, 23], "per channel, several tasks"),
    case("middle", &[3, 11, 13], &[3, 1, 13], "per group and channel"),
    case("trailing", &[37, 19], &[37, 1], "per row"),
    case("apart", &[4, 3, 5, 2], &[1, 3, 1, 2], "axes that are not neighbours"),
    case("unit", &[4, 1, 5], &[1, 1, 5], "an axis of extent 1 among them"),
];
