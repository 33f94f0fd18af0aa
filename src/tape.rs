//! Automatic differentiation: a tape of named operations whose gradients are themselves composed of recorded
//! operations.
//!
//! Because [`Op::backward`] is itself recorded under [`Mode::Keep`], gradients can be differentiated to any order.
//! Under [`Mode::Free`] nothing new is recorded, and what each operation saved is dropped as soon as the backward pass
//! has used it.
//!
//! A [`Var`] is a value and, if it has a gradient, the node of the operation that computed it. A node holds what its
//! operation saved and the nodes of its inputs, but not its own value: memory is held only as long as something will
//! read it. A value may be used on several tapes: gradients follow the nodes, whatever tape recorded them.
//!
//! ```
//! use tubelet::{ops, tape::{Mode, Tape}, tensor::Tensor};
//! let t = Tape::new();
//! let x = t.leaf(Tensor::scalar(3.0));
//! let y = ops::mul(&t, &x, &ops::mul(&t, &x, &x)?)?;                   // x³
//! let dy = t.grad(&y, &[&x], Mode::Keep)?.remove(0).unwrap();          // 3x²
//! let ddy = t.grad(&dy, &[&x], Mode::Free)?.remove(0).unwrap();        // 6x
//! assert_eq!((dy.value().item()?, ddy.value().item()?), (27.0, 18.0));
//! # Ok::<(), tubelet::error::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::Tensor;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

/// One recorded operation: what it saved, and its backward pass.
pub trait Op {
    /// The operation's name, for errors and listings.
    fn name(&self) -> &'static str;

    /// The gradients by its inputs given that by its output, composed of recorded operations. `needs[i]` says whether
    /// that by input `i` is needed; for the others `None` is correct and cheaper.
    ///
    /// # Errors
    /// `NoSecondOrder` from operations that cannot be differentiated again while `t` records.
    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>>;

    /// [`Op::backward`] for operations that can do more than return their contribution to a gradient: `shares[i]` says
    /// what is known of the gradient by input `i`.
    ///
    /// # Errors
    /// As [`Op::backward`].
    fn backward_share(&self, t: &Tape, dy: &Var, needs: &[bool], shares: &mut [Share]) -> Result<Vec<Option<Var>>> {
        let _ = shares;
        self.backward(t, dy, needs)
    }

    /// Offers the gradient by the output in parts: `of` is what the tensor that the next call of the backward pass receives in
    /// its place is to be combined with. Returns whether the operation does so, and has kept a copy. See `Share::hand`.
    fn takes(&self, of: &dyn Any) -> bool {
        let _ = of;
        false
    }
}

/// The state of the gradient by an operation's input, when the operation contributes its share.
#[derive(Default)]
pub struct Share {
    /// No other share follows, the gradient itself was not requested, and it is not recorded: only the operation that
    /// computed the input will read it.
    pub last: bool,
    /// The sum of the shares so far. An operation that takes it returns the sum including its own share.
    pub so_far: Option<Var>,
    /// Where there is no share yet, and the gradient is neither requested nor recorded: the input's node, and how many
    /// operations have not contributed yet, this one included.
    first: Option<(Rc<Node>, usize)>,
}

impl Share {
    /// Offers this share in parts to the operation that computed the input ([`Op::takes`]), if it is the whole gradient: when
    /// no others have contributed, and only `silent` others follow, of which the caller knows that they contribute nothing.
    pub(crate) fn hand(&self, silent: usize, of: &dyn Any) -> bool {
        let Some((node, to_come)) = &self.first else { return false };
        *to_come == 1 + silent && node.op.borrow().as_ref().is_some_and(|op| op.takes(of))
    }
}

/// What [`Tape::grad`] does with the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Consume it: saved tensors are dropped as the backward pass uses them, and the gradients are constants.
    Free,
    /// Keep it, and record the gradients too, so that they can be differentiated.
    Keep,
    /// Keep it: the gradients are constants, and the recording can be used again.
    Peek,
}

struct Node {
    /// Unique among all nodes of this thread, and greater than the ids of its inputs. Nodes cannot leave their thread, so
    /// values of several tapes can be mixed.
    id: u64,
    shape: Shape,
    /// `None` for leaves, and for operations consumed by [`Mode::Free`].
    op: RefCell<Option<Box<dyn Op>>>,
    /// Nodes of the inputs, `None` for constants. Leaves have no inputs.
    inputs: Vec<Option<Rc<Node>>>,
}

thread_local! {
    static NEXT_ID: Cell<u64> = const { Cell::new(0) };
}

impl Drop for Node {
    /// Drops the nodes that only this one leads to with a loop: a long chain of operations would overflow the stack if
    /// each node dropped its inputs.
    fn drop(&mut self) {
        let mut inputs = std::mem::take(&mut self.inputs);
        // What an operation saved may hold its inputs, too. It goes first, while `inputs` keeps their nodes alive.
        drop(self.op.take());
        while let Some(input) = inputs.pop() {
            if let Some(mut node) = input.and_then(Rc::into_inner) {
                inputs.append(&mut node.inputs);
                drop(node.op.take());
            }
        }
    }
}

/// A value, with its node on the tape if it has a gradient.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<Rc<Node>>,
}

/// A value's node without the value: the target of a gradient.
#[derive(Clone)]
pub(crate) struct Edge(Option<Rc<Node>>);

impl Var {
    /// A value without a gradient.
    #[must_use]
    pub fn constant(value: Tensor) -> Var {
        Var { value, node: None }
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The value's shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.value.shape()
    }

    /// Whether it has a gradient.
    #[must_use]
    pub fn has_grad(&self) -> bool {
        self.node.is_some()
    }

    /// Its node on the tape.
    pub(crate) fn edge(&self) -> Edge {
        Edge(self.node.clone())
    }

    /// The same value as a constant, at which gradients stop.
    #[must_use]
    pub fn detach(&self) -> Var {
        Var::constant(self.value.clone())
    }
}

/// Records operations, or only computes them.
pub struct Tape {
    recording: Cell<bool>,
    add: Add,
}

/// A recorded addition of two values of the same shape.
pub(crate) type Add = fn(&Tape, &Var, &Var) -> Result<Var>;

impl Tape {
    /// A tape that uses `add` to add up the gradients of several paths.
    pub(crate) fn adding(add: Add, recording: bool) -> Self {
        Tape { recording: Cell::new(recording), add }
    }

    /// Whether operations are being recorded.
    pub fn is_recording(&self) -> bool {
        self.recording.get()
    }

    /// Runs `f` without recording what it computes.
    pub(crate) fn unrecorded<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.recording.replace(false);
        let result = f();
        self.recording.set(before);
        result
    }

    fn node(shape: Shape, op: Option<Box<dyn Op>>, inputs: Vec<Option<Rc<Node>>>) -> Rc<Node> {
        let id = NEXT_ID.replace(NEXT_ID.get() + 1);
        Rc::new(Node { id, shape, op: RefCell::new(op), inputs })
    }

    /// A value whose gradient can be requested. On a tape that does not record it is a constant.
    pub fn leaf(&self, value: Tensor) -> Var {
        let node = self.is_recording().then(|| Self::node(value.shape(), None, Vec::new()));
        Var { value, node }
    }

    /// Records the result `value` of an operation. `op` is called, to save what the backward pass needs, only if the
    /// tape records and some input has a gradient.
    pub fn record<O: Op + 'static>(&self, value: Tensor, inputs: &[&Var], op: impl FnOnce() -> O) -> Var {
        self.record_on(value, inputs.iter().map(|v| v.edge()).collect(), op)
    }

    /// [`Tape::record`] for inputs whose values need not be available.
    pub(crate) fn record_on<O: Op + 'static>(&self, value: Tensor, inputs: Vec<Edge>, op: impl FnOnce() -> O) -> Var {
        if !self.is_recording() || inputs.iter().all(|v| v.0.is_none()) {
            return Var::constant(value);
        }
        let inputs = inputs.into_iter().map(|v| v.0).collect();
        let node = Self::node(value.shape(), Some(Box::new(op())), inputs);
        Var { value, node: Some(node) }
    }

    /// The gradients of the scalar `y` by `xs`; `None` for those that `y` does not depend on.
    ///
    /// # Errors
    /// `Shape` when `y` has more than one element; `Param` when part of the recording was consumed by an earlier
    /// [`Mode::Free`]; errors of the operations' backward passes.
    pub fn grad(&self, y: &Var, xs: &[&Var], mode: Mode) -> Result<Vec<Option<Var>>> {
        self.grad_from(y, Self::seed(y)?, xs, mode)
    }

    /// Like [`Tape::grad`] for a `y` of any shape, given `dy`, the gradient of something by `y`.
    ///
    /// # Errors
    /// As [`Tape::grad`], and `Shape` when `dy` does not have the shape of `y`.
    pub fn grad_from(&self, y: &Var, dy: Var, xs: &[&Var], mode: Mode) -> Result<Vec<Option<Var>>> {
        self.grad_within(y, dy, xs, mode, true)
    }

    /// Like [`Tape::grad_from`] with the `xs` treated as independent: gradients are not propagated through one `x` to
    /// another.
    pub(crate) fn grad_between(&self, y: &Var, dy: Var, xs: &[&Var], mode: Mode) -> Result<Vec<Option<Var>>> {
        self.grad_within(y, dy, xs, mode, false)
    }

    /// Like [`Tape::grad`] with [`Mode::Free`], for a caller that has work to do with some gradients while others are computed:
    /// `done(i, gradient)` is called once for each of `xs`, as soon as nothing more will be added to its gradient. The order
    /// depends on nothing but the recording.
    ///
    /// # Errors
    /// As [`Tape::grad`], and those of `done`, which end the pass.
    pub(crate) fn grad_each(&self, y: &Var, xs: &[&Var], done: Done) -> Result<()> {
        let dy = Self::seed(y)?;
        let before = self.recording.replace(false);
        let result = self.walk(y, dy, xs, Mode::Free, true, done);
        self.recording.set(before);
        result
    }

    /// The gradient of the scalar `y` by itself.
    fn seed(y: &Var) -> Result<Var> {
        if y.shape().len() != 1 {
            return Err(Error::shape("grad", "y", "one element", y.shape()));
        }
        Ok(Var::constant(Tensor::full_on(&y.value().device(), y.shape(), 1.0)?))
    }

    fn grad_within(&self, y: &Var, dy: Var, xs: &[&Var], mode: Mode, beyond: bool) -> Result<Vec<Option<Var>>> {
        if dy.shape() != y.shape() {
            return Err(Error::shape("grad", "dy", y.shape(), dy.shape()));
        }
        let mut found = vec![None; xs.len()];
        let before = self.recording.replace(mode == Mode::Keep);
        let result = self.walk(y, dy, xs, mode, beyond, &mut |i, grad| {
            found[i] = grad;
            Ok(())
        });
        self.recording.set(before);
        result.map(|()| found)
    }

    fn walk(&self, y: &Var, dy: Var, xs: &[&Var], mode: Mode, beyond: bool, done: Done) -> Result<()> {
        let ids: Vec<Option<u64>> = xs.iter().map(|v| v.node.as_ref().map(|n| n.id)).collect();
        let is_wanted = |id: u64| ids.contains(&Some(id));
        let mut wanted = Wanted { all: ids.iter().map(|id| (*id, false)).collect(), done };
        let Some(root) = &y.node else { return wanted.rest() };
        let order = relevant(root, &ids, beyond);
        let on_path: HashMap<u64, ()> = order.iter().map(|n| (n.id, ())).collect();
        let mut grads: HashMap<u64, Var> = HashMap::from([(root.id, dy)]);
        // How many shares of each node's gradient are still to come, if every operation returns one.
        let mut to_come: HashMap<u64, usize> = HashMap::new();
        for input in order.iter().flat_map(|n| n.inputs.iter().flatten()) {
            *to_come.entry(input.id).or_default() += 1;
        }
        wanted.complete(root.id, &grads)?;

        for node in order {
            let is_target = is_wanted(node.id);
            if node.inputs.is_empty() || is_target && !beyond {
                continue; // a leaf, or treated as one
            }
            let dy = if is_target { grads.get(&node.id).cloned() } else { grads.remove(&node.id) };
            let needs: Vec<bool> =
                node.inputs.iter().map(|i| i.as_ref().is_some_and(|i| on_path.contains_key(&i.id))).collect();
            let share = |input: &Option<Rc<Node>>| {
                let Some(id) = input.as_ref().map(|i| i.id) else { return Share::default() };
                let last = to_come[&id] == 1 && mode != Mode::Keep && !is_wanted(id);
                let alone = mode == Mode::Free && !is_wanted(id) && !grads.contains_key(&id);
                let first = input.clone().filter(|_| alone).map(|node| (node, to_come[&id]));
                Share { last, so_far: if last { grads.remove(&id) } else { None }, first }
            };
            // Without `dy` no gradient reached it, or an operation after it has already propagated it.
            let mut shares: Vec<Share> =
                if dy.is_some() { node.inputs.iter().map(share).collect() } else { Vec::new() };
            node.inputs.iter().flatten().for_each(|input| came(&mut to_come, input.id));
            let passed = match &dy {
                Some(dy) if needs.contains(&true) => {
                    let op = node.op.borrow();
                    let Some(op) = op.as_ref() else {
                        return Err(Error::param("grad", "y", "a freed graph", "Mode::Free uses a recording up once"));
                    };
                    op.backward_share(self, dy, &needs, &mut shares)?
                }
                _ => Vec::new(),
            };
            if mode == Mode::Free {
                node.op.take();
            }
            for (input, so_far) in node.inputs.iter().zip(shares) {
                if let (Some(input), Some(so_far)) = (input, so_far.so_far) {
                    grads.insert(input.id, so_far); // not taken
                }
            }
            for (input, d) in node.inputs.iter().zip(passed) {
                let (Some(input), Some(d)) = (input, d) else { continue };
                if !on_path.contains_key(&input.id) {
                    continue;
                }
                debug_assert_eq!(input.shape, d.shape(), "gradient shape");
                let sum = match grads.remove(&input.id) {
                    // Where several paths meet, the tape adds: kernels overwrite, only the tape accumulates.
                    Some(have) => (self.add)(self, &have, &d)?,
                    None => d,
                };
                grads.insert(input.id, sum);
            }
            for input in node.inputs.iter().flatten().filter(|input| to_come[&input.id] == 0) {
                wanted.complete(input.id, &grads)?;
                if input.inputs.is_empty() {
                    grads.remove(&input.id); // nobody reads a leaf's gradient any more
                }
            }
        }
        wanted.rest()
    }
}

/// Receives the number of a variable and its gradient, `None` where there is none.
pub(crate) type Done<'a> = &'a mut dyn FnMut(usize, Option<Var>) -> Result<()>;

/// The variables whose gradients are wanted.
struct Wanted<'a> {
    /// Their nodes, and whether their gradients were reported.
    all: Vec<(Option<u64>, bool)>,
    done: Done<'a>,
}

impl Wanted<'_> {
    /// Reports the gradient of node `id`, to which nothing more will be added.
    fn complete(&mut self, id: u64, grads: &HashMap<u64, Var>) -> Result<()> {
        for (i, (_, reported)) in self.all.iter_mut().enumerate().filter(|(_, one)| **one == (Some(id), false)) {
            *reported = true;
            (self.done)(i, grads.get(&id).cloned())?;
        }
        Ok(())
    }

    /// Reports those that no gradient reaches.
    fn rest(&mut self) -> Result<()> {
        let mut left = self.all.iter().enumerate().filter(|(_, (_, reported))| !reported);
        left.try_for_each(|(i, _)| (self.done)(i, None))
    }
}

/// Counts down the shares of a node's gradient that are still to come.
fn came(to_come: &mut HashMap<u64, usize>, id: u64) {
    to_come.entry(id).and_modify(|n| *n -= 1);
}

/// The nodes on paths from `root` to a wanted node, latest first. Wanted nodes are passed through to others only if
/// `beyond`.
fn relevant(root: &Rc<Node>, wanted: &[Option<u64>], beyond: bool) -> Vec<Rc<Node>> {
    let mut seen: HashMap<u64, Rc<Node>> = HashMap::new();
    let mut stack = vec![root.clone()];
    while let Some(node) = stack.pop() {
        if let Entry::Vacant(place) = seen.entry(node.id) {
            if beyond || !wanted.contains(&Some(node.id)) {
                stack.extend(node.inputs.iter().flatten().cloned());
            }
            place.insert(node);
        }
    }
    let mut all: Vec<Rc<Node>> = seen.into_values().collect();
    all.sort_by_key(|n| n.id); // inputs come before the results computed from them
    let mut leads: HashMap<u64, bool> = HashMap::new();
    all.retain(|n| {
        let hit = wanted.contains(&Some(n.id)) || n.inputs.iter().flatten().any(|i| leads.get(&i.id) == Some(&true));
        leads.insert(n.id, hit);
        hit
    });
    all.reverse();
    all
}
