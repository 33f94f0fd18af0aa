//! The pools on the tape. Each pass is linear once the positions are fixed, so the gradient of a pass is its adjoint,
//! and the gradient of the adjoint is the pass.

use super::{Choice, avg_backward, avg_forward, gather, global_backward, global_forward, max_backward, max_forward};
use crate::error::Result;
use crate::shape::{Shape, Window};
use crate::tape::{Op, Tape, Var};

/// The largest value of each window: `kernel` is `kt kh kw`, `x` is `n t h w c`.
///
/// # Errors
/// See [`Pool::new`](super::Pool::new).
pub fn max_pool(t: &Tape, x: &Var, kernel: [usize; 3], window: &Window) -> Result<Var> {
    let (y, choice) = max_forward(x.value(), kernel, window)?;
    Ok(t.record(y, &[x], || Gather(choice)))
}

/// Gathering the chosen positions, which is what a maximum pool is once they are fixed.
struct Gather(Choice);

impl Op for Gather {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let dx = max_backward(dy.value(), &self.0)?;
        Ok(vec![Some(t.record(dx, &[dy], || Unpool(self.0.clone())))])
    }
}

struct Unpool(Choice);

impl Op for Unpool {
    fn name(&self) -> &'static str {
        "unpool"
    }

    fn backward(&self, t: &Tape, g: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let y = gather(g.value(), &self.0)?;
        Ok(vec![Some(t.record(y, &[g], || Gather(self.0.clone())))])
    }
}

/// The extents and window of a mean pool.
#[derive(Clone, Copy)]
struct Means {
    x: Shape,
    kernel: [usize; 3],
    window: Window,
}

/// The mean of each window, padding counted as zeros: `kernel` is `kt kh kw`, `x` is `n t h w c`.
///
/// # Errors
/// See [`Pool::new`](super::Pool::new).
pub fn avg_pool(t: &Tape, x: &Var, kernel: [usize; 3], window: &Window) -> Result<Var> {
    let y = avg_forward(x.value(), kernel, window)?;
    Ok(t.record(y, &[x], || AvgPool(Means { x: x.shape(), kernel, window: *window })))
}

struct AvgPool(Means);

impl Op for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let means = self.0;
        let dx = avg_backward(dy.value(), means.x, means.kernel, &means.window)?;
        Ok(vec![Some(t.record(dx, &[dy], || AvgPoolBack(means)))])
    }
}

struct AvgPoolBack(Means);

impl Op for AvgPoolBack {
    fn name(&self) -> &'static str {
        "avg_pool_back"
    }

    fn backward(&self, t: &Tape, g: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(avg_pool(t, g, self.0.kernel, &self.0.window)?)])
    }
}

/// The mean over `t h w`: `n t h w c` to `n c`.
///
/// # Errors
/// `Shape`; see [`global_forward`].
pub fn global_avg_pool(t: &Tape, x: &Var) -> Result<Var> {
    let y = global_forward(x.value())?;
    Ok(t.record(y, &[x], || GlobalAvgPool { x: x.shape() }))
}

struct GlobalAvgPool {
    x: Shape,
}

impl Op for GlobalAvgPool {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let dx = global_backward(dy.value(), self.x)?;
        Ok(vec![Some(t.record(dx, &[dy], || GlobalAvgPoolBack))])
    }
}

struct GlobalAvgPoolBack;

impl Op for GlobalAvgPoolBack {
    fn name(&self) -> &'static str {
        "global_avg_pool_back"
    }

    fn backward(&self, t: &Tape, g: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(global_avg_pool(t, g)?)])
    }
}
