//! The recorded operation: the backward pass goes through the convolution and, once all contributions to the gradient
//! have arrived, directly through the batch norm before it.

use crate::error::Result;
use crate::ops::batch_norm::{self, BatchNorm, BatchStatistics, Moments, ReluMask, Stats, Unformed};
use crate::ops::conv3d::fusion::{self, Epilogue, GradEpilogue, Prologue};
use crate::ops::conv3d::{self, Geometry, dgrad_recorded, wgrad_recorded};
use crate::ops::convert;
use crate::shape::Shape;
use crate::tape::{Op, Share, Tape, Var};
use crate::tensor::{DType, Tensor};
use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

/// The input of a convolution: a value, one that is still to be rounded, or the result of a batch norm with ReLU.
#[derive(Clone)]
pub struct Activation(Source);

#[derive(Clone)]
enum Source {
    Value(Var),
    /// f32 without a gradient, of which the value is in bf16.
    Unrounded(Var),
    /// The batch norm, and its result if that has been computed.
    Normed(Rc<BatchNorm>, Option<Var>),
}

impl From<&Var> for Activation {
    fn from(x: &Var) -> Self {
        Activation(Source::Value(x.clone()))
    }
}

impl Activation {
    /// The result of [`batch_norm`](batch_norm::batch_norm()) with its arguments, and the statistics of the whole
    /// batch. With ReLU and without a residual, on devices some of whose convolutions apply it in their prologue
    /// ([`crate::ops::conv3d::fusion`]), it is not computed here but left to the convolution that reads it.
    ///
    /// # Errors
    /// As [`batch_norm`](batch_norm::batch_norm()).
    #[allow(clippy::too_many_arguments, reason = "one fused layer; each argument is a part of its formula")]
    pub fn batch_norm(
        t: &Tape,
        x: &Var,
        gamma: &Var,
        beta: &Var,
        stats: Stats,
        eps: f32,
        residual: Option<&Var>,
        relu: bool,
    ) -> Result<(Activation, Option<BatchStatistics>)> {
        if relu && residual.is_none() && fusion::may_read_before_norm(x.value()) {
            let (layer, batch) = batch_norm::deferred(x, gamma, beta, stats, eps)?;
            return Ok((Activation(Source::Normed(layer, None)), batch));
        }
        let (layer, y, batch) = batch_norm::normalised(x, gamma, beta, stats, eps, residual, relu)?;
        let y = layer.record(t, y);
        Ok((Activation::of_layer(layer, y), batch))
    }

    /// `x` in `dtype`. Clips of f32 that are rounded to bf16 may be left to the convolution that reads them, which on
    /// some devices copies them to another form anyway.
    ///
    /// # Errors
    /// As [`convert::cast`].
    pub fn rounded(t: &Tape, x: &Var, dtype: DType) -> Result<Activation> {
        if dtype == DType::BF16 && !x.has_grad() && fusion::may_round(x.value()) {
            return Ok(Activation(Source::Unrounded(x.clone())));
        }
        Ok(Activation::from(&convert::cast(t, x, dtype)?))
    }

    /// The value. If it is not stored, it is computed on every call.
    ///
    /// # Errors
    /// On a GPU errors of its driver.
    pub fn value(&self, t: &Tape) -> Result<Var> {
        match &self.0 {
            Source::Value(y) | Source::Normed(_, Some(y)) => Ok(y.clone()),
            Source::Unrounded(x) => convert::cast(t, x, DType::BF16),
            Source::Normed(layer, None) => layer.apply(t),
        }
    }

    /// The same with its value computed and stored, for more than one reader.
    ///
    /// # Errors
    /// As [`Activation::value`].
    pub fn stored(self, t: &Tape) -> Result<Activation> {
        match self.0 {
            Source::Normed(layer, None) => {
                let y = layer.apply(t)?;
                Ok(Activation::of_layer(layer, y))
            }
            Source::Unrounded(x) => Ok(Activation::from(&convert::cast(t, &x, DType::BF16)?)),
            _ => Ok(self),
        }
    }

    /// The result `y` of `layer`, both on the tape.
    fn of_layer(layer: Rc<BatchNorm>, y: Var) -> Activation {
        // Without a gradient there is no backward pass, and holding the layer would keep its input alive.
        let relu = !matches!(layer.mask(), ReluMask::None);
        Activation(if relu && y.has_grad() { Source::Normed(layer, Some(y)) } else { Source::Value(y) })
    }

    /// The value's shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        match &self.0 {
            Source::Value(y) | Source::Unrounded(y) => y.shape(),
            Source::Normed(layer, _) => layer.x().shape(),
        }
    }
}

/// The convolution of `x [n t h w c]` with `w [k kt kh kw c/groups]`: `[n to ho wo k]`. Also returns the moments of the
/// result if `epilogue` requests them. The result of a batch norm that is not stored, and that the device does not compute
/// as it reads it, is stored for this convolution and its gradient.
///
/// # Errors
/// As [`fusion::fprop`].
pub fn conv_norm(
    t: &Tape,
    x: &Activation,
    w: &Var,
    g: &Geometry,
    epilogue: Epilogue,
) -> Result<(Var, Option<Moments>)> {
    let stored = match &x.0 {
        Source::Normed(layer, None) => {
            let operands = [layer.x().value(), w.value()];
            let reads = fusion::reads_before_norm(operands, g, layer.norm(), epilogue)?;
            if reads { None } else { Some(x.clone().stored(t)?) }
        }
        Source::Unrounded(x) => {
            if let Some((y, moments, packed)) = fusion::fprop_rounding([x.value(), w.value()], g, epilogue)? {
                return Ok((conv3d::recorded(t, y, x, w, g, Some(packed)), Some(moments)));
            }
            Some(Activation(Source::Unrounded(x.clone())).stored(t)?)
        }
        Source::Value(_) | Source::Normed(_, Some(_)) => None,
    };
    let (layer, value) = match &stored.as_ref().unwrap_or(x).0 {
        Source::Unrounded(_) => unreachable!("it was stored"),
        Source::Value(x) => {
            let keep = t.is_recording() && w.has_grad();
            let (y, moments, kept) = fusion::fprop_keeping(x.value(), w.value(), g, Prologue::None, epilogue, keep)?;
            return Ok((conv3d::recorded(t, y, x, w, g, kept), moments));
        }
        Source::Normed(layer, value) => (layer, value),
    };
    let (read, prologue) = match value {
        Some(value) => (value, Prologue::None),
        None => (layer.x(), Prologue::NormRelu(layer.norm())),
    };
    let (y, moments) = fusion::fprop(read.value(), w.value(), g, prologue, epilogue)?;
    let inputs = value.iter().chain([w]).map(Var::edge).chain(layer.inputs()).collect();
    let op =
        || ConvNorm { layer: layer.clone(), value: value.clone(), w: w.clone(), g: *g, unformed: RefCell::default() };
    Ok((t.record_on(y, inputs, op), moments))
}

/// Inputs: the batch norm's result if it is stored, the filters, and the inputs of the batch norm.
struct ConvNorm {
    layer: Rc<BatchNorm>,
    value: Option<Var>,
    w: Var,
    g: Geometry,
    /// What the incoming gradient is to be formed with.
    unformed: RefCell<Option<Unformed>>,
}

impl Op for ConvNorm {
    fn name(&self) -> &'static str {
        "conv_norm"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        self.backward_share(t, dy, needs, &mut [])
    }

    fn backward_share(&self, t: &Tape, dy: &Var, needs: &[bool], shares: &mut [Share]) -> Result<Vec<Option<Var>>> {
        match &self.value {
            None => self.of_deferred(t, dy, needs, shares),
            Some(y) => self.of_value(t, y, dy, needs, shares),
        }
    }

    fn takes(&self, of: &dyn Any) -> bool {
        let of = of.downcast_ref::<Unformed>();
        let of = of.filter(|of| fusion::forms_on_load(of, self.w.value(), self.layer.x().shape(), &self.g));
        of.is_some_and(|of| self.unformed.replace(Some(of.clone())).is_none())
    }
}

impl ConvNorm {
    /// The gradients where the batch norm's result is not stored: then this convolution is its only reader.
    fn of_deferred(&self, t: &Tape, dy: &Var, needs: &[bool], shares: &[Share]) -> Result<Vec<Option<Var>>> {
        let (&need_w, layer) = needs.split_first().expect("filters are an input");
        let (mut dw, mut grads) = (None, vec![None; layer.len()]);
        if !t.is_recording() {
            let mut whole = dy.value().clone();
            if layer.contains(&true) {
                (grads, whole) = self.through(dy.value(), None, layer, (shares.get(1), 0))?;
            } else if let Some(unformed) = self.unformed.take() {
                whole = unformed.form(dy.value())?;
            }
            if need_w {
                let (x, prologue) = (self.layer.x().value(), Prologue::NormRelu(self.layer.norm()));
                dw = Some(Var::constant(fusion::wgrad(x, &whole, self.w.shape(), &self.g, prologue)?));
            }
        } else {
            let y = self.layer.apply(t)?;
            if layer.contains(&true) {
                let dy = dgrad_recorded(t, dy, &self.w, y.shape(), &self.g)?;
                grads = self.layer.backward(t, &dy, layer)?;
            }
            if need_w {
                dw = Some(wgrad_recorded(t, &y, dy, self.w.shape(), &self.g)?);
            }
        }
        grads.insert(0, dw);
        Ok(grads)
    }

    /// The gradients where the batch norm's result `y` is stored, so that other operations may read it too. The last of
    /// them to run backward adds the contributions of the others and continues through the batch norm; the tape then
    /// finds nothing left to do at the batch norm itself.
    fn of_value(&self, t: &Tape, y: &Var, dy: &Var, needs: &[bool], shares: &mut [Share]) -> Result<Vec<Option<Var>>> {
        let mut grads = vec![None; needs.len()];
        let mut dy = dy.clone();
        match shares.split_first_mut() {
            Some((share, of_layer)) if share.last && needs[0] => {
                let so_far = share.so_far.take();
                // The batch norm itself follows, with nothing left to do.
                let of_x = (of_layer.get(1), 1);
                let (through, whole) = self.through(dy.value(), so_far.as_ref().map(Var::value), &needs[2..], of_x)?;
                grads[2..].clone_from_slice(&through);
                dy = if t.is_recording() { dy } else { Var::constant(whole) };
            }
            _ => {
                let (dx, whole) =
                    conv3d::dgrad_formed(t, &dy, self.unformed.take().as_ref(), &self.w, y.shape(), &self.g, needs[0])?;
                (grads[0], dy) = (dx, whole);
            }
        }
        if needs[1] {
            grads[1] = Some(wgrad_recorded(t, y, &dy, self.w.shape(), &self.g)?);
        }
        Ok(grads)
    }

    /// The gradients of the batch norm's inputs: dgrad, adding earlier contributions, and the backward pass of the
    /// batch norm. Also returns the gradient by this convolution's result, which may come in parts.
    fn through(
        &self,
        dy: &Tensor,
        so_far: Option<&Tensor>,
        needs: &[bool],
        (of_x, silent): (Option<&Share>, usize),
    ) -> Result<(Vec<Option<Var>>, Tensor)> {
        let x = self.layer.x().value();
        let (norm, relu, signs) = (self.layer.norm(), self.layer.mask(), self.layer.signs());
        let epilogue = GradEpilogue::NormRelu { x, norm, relu, signs, add: so_far };
        let unformed = self.unformed.take();
        let (dx, dy) = fusion::dgrad_formed(dy, unformed.as_ref(), self.w.value(), x.shape(), &self.g, epilogue)?;
        Ok((self.layer.backward_from(&dx, needs, of_x, silent)?, dy))
    }
}
