//! What every reference returns: values, and a bound on the error of computing them in floating point.

/// Values with what their error bound is computed from.
///
/// A sum of `terms` terms computed in any order, each term a product of rounded inputs, differs from the exact one by at
/// most `γ·magnitude` with `γ = terms·u / (1 - terms·u)`, where `u` is the unit roundoff and `magnitude` the sum of the
/// terms' absolute values (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1).
#[derive(Clone, Debug)]
pub struct Bounded<F> {
    /// The values.
    pub value: Vec<F>,
    /// For each value, the sum of the absolute values of its terms.
    pub magnitude: Vec<F>,
    /// The largest number of roundings in the computation of any value.
    pub terms: usize,
}
