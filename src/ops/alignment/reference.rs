//! The definitions: plain loops.

use super::{Cosines, EPS, FLAT, TargetNorm};
use crate::ops::reference::Bounded;
use num_traits::{Float, NumCast, ToPrimitive};

fn number<F: Float>(v: impl ToPrimitive) -> F {
    <F as NumCast>::from(v).unwrap_or_else(F::nan)
}

/// Collects one element after another.
struct Gather<F>(Bounded<F>);

impl<F: Float> Gather<F> {
    fn new(terms: usize) -> Self {
        Gather(Bounded { value: Vec::new(), magnitude: Vec::new(), terms })
    }

    fn push(&mut self, parts: impl Iterator<Item = F>, share: F) {
        let (value, magnitude) = parts.fold((F::zero(), F::zero()), |(v, m), p| (v + p, m + p.abs()));
        self.0.value.push(value * share);
        self.0.magnitude.push(magnitude * share);
    }
}

/// The channel map of `g` and `f`, `rows` frames of `area` positions and `c` channels each: `rows area`.
pub fn map<F: Float>([rows, area, c]: [usize; 3], g: &[F], f: &[F]) -> Bounded<F> {
    let mut m = Gather::new(area + c + 3);
    let share = F::one() / number(area as f64);
    for (r, q) in (0..rows).flat_map(|r| (0..area).map(move |q| (r, q))) {
        let at = |q: usize, k: usize| (r * area + q) * c + k;
        m.push((0..area).flat_map(|o| (0..c).map(move |k| g[at(o, k)] * f[at(q, k)])), share);
    }
    m.0
}

/// The gradient of [`map`] by `f`, given `d`, the gradient by the map (`rows area`): `rows area c`.
pub fn map_backward_f<F: Float>([rows, area, c]: [usize; 3], g: &[F], d: &[F]) -> Bounded<F> {
    let mut df = Gather::new(area + 3);
    let share = F::one() / number(area as f64);
    for (i, k) in (0..rows * area).flat_map(|i| (0..c).map(move |k| (i, k))) {
        df.push((0..area).map(|o| g[(i / area * area + o) * c + k] * d[i]), share);
    }
    df.0
}

/// The gradient of [`map`] by `g`, given `d`, the gradient by the map (`rows area`): `rows area c`.
pub fn map_backward_g<F: Float>([rows, area, c]: [usize; 3], d: &[F], f: &[F]) -> Bounded<F> {
    let mut dg = Gather::new(area + 3);
    let share = F::one() / number(area as f64);
    for (i, k) in (0..rows * area).flat_map(|i| (0..c).map(move |k| (i, k))) {
        dg.push((0..area).map(|o| d[i / area * area + o] * f[(i / area * area + o) * c + k]), share);
    }
    dg.0
}

/// One cosine of the loss of one sample: its weight, and for each element of its vector the elements of the map whose
/// sum, times `share`, it is.
struct Term<F> {
    weight: F,
    parts: Vec<Vec<usize>>,
    share: F,
}

impl<F: Float> Term<F> {
    /// The term's vector formed from `x`, with its mean subtracted where `centred`; zeros where that is flat.
    fn vector(&self, x: &[F], centred: bool) -> Vec<F> {
        let v: Vec<F> = self.parts.iter().map(|of| of.iter().fold(F::zero(), |s, &i| s + x[i]) * self.share).collect();
        if !centred {
            return v;
        }
        let mean = v.iter().fold(F::zero(), |s, &x| s + x) / number(v.len() as f64);
        let d: Vec<F> = v.iter().map(|&x| x - mean).collect();
        if length(&d) <= number::<F>(FLAT) * length(&v) { vec![F::zero(); d.len()] } else { d }
    }
}

fn dot<F: Float>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).fold(F::zero(), |s, (&a, &b)| s + a * b)
}

fn length<F: Float>(a: &[F]) -> F {
    dot(a, a).sqrt()
}

/// `a / max(‖a‖, ε)`
fn unit<F: Float>(a: &[F]) -> Vec<F> {
    let by = length(a).max(number(EPS));
    a.iter().map(|&v| v / by).collect()
}

/// The weights of the frames.
fn attention<F: Float>(y: &[F], t: usize, norm: TargetNorm) -> Vec<F> {
    let area = y.len() / t;
    let mean = y.iter().fold(F::zero(), |s, &v| s + v) / number(y.len() as f64);
    let by = if norm == TargetNorm::Mean && mean > F::zero() { mean } else { F::one() };
    let sums: Vec<F> = y.chunks_exact(area).map(|y| y.iter().fold(F::zero(), |s, &v| s + v) / by).collect();
    let top = sums.iter().fold(F::neg_infinity(), |a, &b| a.max(b));
    let all = sums.iter().fold(F::zero(), |a, &s| a + (s - top).exp());
    sums.iter().map(|&s| (s - top).exp() / all).collect()
}

/// The cosines of one sample's loss; the last is the plain cosine, which has no weight.
fn terms<F: Float>(t: usize, y: &[F], how: &Cosines) -> [Vec<Term<F>>; 4] {
    let area = y.len() / t;
    let weight = |w: f32| number::<F>(w);
    let frame = |f: usize| (0..area).map(move |i| f * area + i);
    let frames = attention(y, t, how.target_norm).into_iter().enumerate().map(|(f, a)| Term {
        weight: a * weight(how.terms.spatio_temporal),
        parts: frame(f).map(|i| vec![i]).collect(),
        share: F::one(),
    });
    let spatial = Term {
        weight: weight(how.terms.spatial),
        parts: (0..area).map(|i| (0..t).map(|f| f * area + i).collect()).collect(),
        share: F::one() / number(t as f64),
    };
    let temporal = Term {
        weight: weight(how.terms.temporal),
        parts: (0..t).map(|f| frame(f).collect()).collect(),
        share: F::one(),
    };
    let all = Term { weight: F::zero(), parts: (0..y.len()).map(|i| vec![i]).collect(), share: F::one() };
    [frames.collect(), vec![spatial], vec![temporal], vec![all]]
}

/// The loss of maps `p` against targets `y`, both `n t area`, then the means of `1 - S_st`, `1 - S_s`, `1 - S_t` and of
/// the plain cosine.
pub fn align<F: Float>([n, t, area]: [usize; 3], p: &[F], y: &[F], how: &Cosines) -> Bounded<F> {
    let (mut value, mut magnitude) = (vec![F::zero(); 5], vec![F::zero(); 5]);
    let two = number::<F>(2.0);
    for (p, y) in p.chunks_exact(t * area).zip(y.chunks_exact(t * area)) {
        let frames = attention(y, t, how.target_norm);
        for (i, group) in terms(t, y, how).iter().enumerate() {
            let mut cosine = F::zero();
            for (f, term) in group.iter().enumerate() {
                let centred = how.centred && i < 3;
                let (a, b) = (unit(&term.vector(p, centred)), unit(&term.vector(y, centred)));
                let one = dot(&a, &b);
                value[0] = value[0] + term.weight * (F::one() - one);
                magnitude[0] = magnitude[0] + term.weight * two;
                cosine = cosine + one * if i == 0 { frames[f] } else { F::one() };
            }
            value[i + 1] = value[i + 1] + if i < 3 { F::one() - cosine } else { cosine };
            magnitude[i + 1] = magnitude[i + 1] + two;
        }
    }
    let mean = |v: Vec<F>| v.into_iter().map(|v| v / number(n as f64)).collect();
    Bounded { value: mean(value), magnitude: mean(magnitude), terms: 8 }
}

/// For every term of every sample, distributes the derivatives by the elements of its vector (values and magnitudes) to
/// the elements of the map.
fn spread<F: Float>(
    [n, t, area]: [usize; 3],
    y: &[F],
    how: &Cosines,
    dy: F,
    slopes: impl Fn(&Term<F>, usize) -> Vec<[F; 2]>,
) -> Bounded<F> {
    let (mut value, mut magnitude) = (vec![F::zero(); n * t * area], vec![F::zero(); n * t * area]);
    for (s, y) in y.chunks_exact(t * area).enumerate() {
        for term in terms(t, y, how).iter().take(3).flatten() {
            let scale = -dy * term.weight * term.share / number(n as f64);
            for (of, [v, m]) in term.parts.iter().zip(slopes(term, s)) {
                for i in of {
                    let i = s * t * area + i;
                    value[i] = value[i] + scale * v;
                    magnitude[i] = magnitude[i] + scale.abs() * m;
                }
            }
        }
    }
    Bounded { value, magnitude, terms: 8 }
}

/// `∂cos/∂a` for unit `b`: `(b - cos·a^) / ‖a‖`, or `b / ε` where `a` is shorter than ε; each with the sum of its
/// terms' magnitudes.
fn slope<F: Float>(a: &[F], b: &[F]) -> Vec<[F; 2]> {
    let (norm, eps) = (length(a), number::<F>(EPS));
    let (hat, by) = (unit(a), norm.max(eps));
    let cos = if norm > eps { dot(&hat, b) } else { F::zero() };
    let of = |(&a, &b): (&F, &F)| [(b - cos * a) / by, (b.abs() + (cos * a).abs()) / by];
    hat.iter().zip(b).map(of).collect()
}

/// The gradient of [`align`]'s loss by `p`, times `dy`.
pub fn align_grad<F: Float>(dims: [usize; 3], p: &[F], y: &[F], how: &Cosines, dy: F) -> Bounded<F> {
    let size = dims[1] * dims[2];
    let of = |x: &[F], s: usize| x[s * size..(s + 1) * size].to_vec();
    spread(dims, y, how, dy, |term, s| {
        let a = term.vector(&of(p, s), how.centred);
        // A zero vector is merely too short to have a direction (its slope is `b / ε`); one that was zeroed because it
        // is flat has no gradient.
        if how.centred && length(&a) == F::zero() {
            return vec![[F::zero(); 2]; a.len()];
        }
        slope(&a, &unit(&term.vector(&of(y, s), how.centred)))
    })
}

/// The derivative of [`align_grad`] by `p` along `u`.
pub fn align_hvp<F: Float>(dims: [usize; 3], p: &[F], y: &[F], how: &Cosines, dy: F, u: &[F]) -> Bounded<F> {
    let size = dims[1] * dims[2];
    let of = |x: &[F], s: usize| x[s * size..(s + 1) * size].to_vec();
    spread(dims, y, how, dy, |term, s| {
        let a = term.vector(&of(p, s), how.centred);
        let norm = length(&a);
        if norm <= number(EPS) {
            return vec![[F::zero(); 2]; a.len()];
        }
        let b = unit(&term.vector(&of(y, s), how.centred));
        let u = term.vector(&of(u, s), false);
        let mean = u.iter().fold(F::zero(), |s, &x| s + x) / number(u.len() as f64);
        let u: Vec<F> = u.iter().map(|&x| if how.centred { x - mean } else { x }).collect();
        let (hat, g) = (unit(&a), slope(&a, &b));
        let cos = dot(&hat, &b);
        let (along, along_size) = (dot(&hat, &u), hat.iter().zip(&u).fold(F::zero(), |s, (&a, &u)| s + (a * u).abs()));
        let (change, change_size) =
            g.iter().zip(&u).fold((F::zero(), F::zero()), |(s, m), (g, &u)| (s + g[0] * u, m + g[1] * u.abs()));
        let each = hat.iter().zip(&g).zip(&u);
        each.map(|((&a, g), &u)| {
            let value = a * change + g[0] * along + cos * (u - a * along) / norm;
            let size = a.abs() * change_size + g[1] * along_size + cos.abs() * (u.abs() + a.abs() * along_size) / norm;
            [-value / norm, size / norm]
        })
        .collect()
    })
}
