//! Automatic differentiation: a tape of named operations whose gradients are written in recorded operations.
//!
//! Because [`Op::backward`] is itself recorded under [`Mode::Keep`], a gradient has a gradient, to any order.
//! Under [`Mode::Free`] nothing new is recorded, and what each operation saved is dropped as the walk passes it.
//!
//! A [`Var`] is a value and, where gradients are wanted, the node it came from. A node holds what its operation saved
//! and the nodes of its inputs, never its own value: memory lives exactly as long as somebody will read it.
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
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

/// One recorded operation: what it saved, and how a gradient passes through it.
pub trait Op {
    /// The operation's name, for errors and listings.
    fn name(&self) -> &'static str;

    /// The gradients of its inputs given that of its output, written in recorded operations. `needs[i]` says whether
    /// input `i` wants one; for the others `None` is right and cheaper.
    ///
    /// # Errors
    /// `NoSecondOrder` from operations that cannot be differentiated again while `t` records.
    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>>;

    /// [`Op::backward`] for operations that can do more than pass a share of the gradient on: `shares[i]` says what is known
    /// of the gradient of input `i`.
    ///
    /// # Errors
    /// As [`Op::backward`].
    fn backward_share(&self, t: &Tape, dy: &Var, needs: &[bool], shares: &mut [Share]) -> Result<Vec<Option<Var>>> {
        let _ = shares;
        self.backward(t, dy, needs)
    }
}

/// The gradient of an operation's input, as the walk knows it when the operation adds its share.
#[derive(Default)]
pub struct Share {
    /// No other share follows, nobody asked for the gradient itself, and it is not recorded: only the operation that made
    /// the input will see it.
    pub last: bool,
    /// The sum of the shares that came before. Whoever takes it returns the sum with its own.
    pub so_far: Option<Var>,
}

/// What [`Tape::grad`] does with the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Use it up: saved tensors are dropped as the walk passes, and the gradients are constants.
    Free,
    /// Keep it, and record the gradients too, so that they can be differentiated.
    Keep,
    /// Leave it as it is: the gradients are constants, and the recording can be walked again.
    Peek,
}

struct Node {
    id: u64,
    shape: Shape,
    /// `None` for leaves, and for operations used up by [`Mode::Free`].
    op: RefCell<Option<Box<dyn Op>>>,
    /// Nodes of the inputs, `None` where an input is a constant. Leaves have none.
    inputs: Vec<Option<Rc<Node>>>,
}

/// A value, with its place on the tape where it has one.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<Rc<Node>>,
}

/// A value's place on the tape without the value: where an operation passes a gradient to.
#[derive(Clone)]
pub(crate) struct Edge(Option<Rc<Node>>);

impl Var {
    /// A value without gradient.
    pub fn constant(value: Tensor) -> Var {
        Var { value, node: None }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The value's shape.
    pub fn shape(&self) -> Shape {
        self.value.shape()
    }

    /// Whether gradients pass through it.
    pub fn has_grad(&self) -> bool {
        self.node.is_some()
    }

    /// Its place on the tape.
    pub(crate) fn edge(&self) -> Edge {
        Edge(self.node.clone())
    }

    /// The same value as a constant: gradients stop here.
    pub fn detach(&self) -> Var {
        Var::constant(self.value.clone())
    }
}

/// Records operations, or does not.
pub struct Tape {
    recording: Cell<bool>,
    next: Cell<u64>,
    add: Add,
}

/// A recorded addition of two values of one shape.
pub(crate) type Add = fn(&Tape, &Var, &Var) -> Result<Var>;

impl Tape {
    /// A tape that adds gradients by `add` where two paths meet.
    pub(crate) fn adding(add: Add, recording: bool) -> Self {
        Tape { recording: Cell::new(recording), next: Cell::new(0), add }
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

    fn node(&self, shape: Shape, op: Option<Box<dyn Op>>, inputs: Vec<Option<Rc<Node>>>) -> Rc<Node> {
        let id = self.next.get();
        self.next.set(id + 1);
        Rc::new(Node { id, shape, op: RefCell::new(op), inputs })
    }

    /// A value whose gradient will be asked for. On a tape that does not record it is a constant.
    pub fn leaf(&self, value: Tensor) -> Var {
        let node = self.is_recording().then(|| self.node(value.shape(), None, Vec::new()));
        Var { value, node }
    }

    /// Puts the result `value` of an operation on the tape. `op` is called, to save what the backward pass needs, only
    /// when the tape records and some input has a gradient.
    pub fn record<O: Op + 'static>(&self, value: Tensor, inputs: &[&Var], op: impl FnOnce() -> O) -> Var {
        self.record_on(value, inputs.iter().map(|v| v.edge()).collect(), op)
    }

    /// [`Tape::record`] where the inputs' values need not be at hand.
    pub(crate) fn record_on<O: Op + 'static>(&self, value: Tensor, inputs: Vec<Edge>, op: impl FnOnce() -> O) -> Var {
        if !self.is_recording() || inputs.iter().all(|v| v.0.is_none()) {
            return Var::constant(value);
        }
        let inputs = inputs.into_iter().map(|v| v.0).collect();
        let node = self.node(value.shape(), Some(Box::new(op())), inputs);
        Var { value, node: Some(node) }
    }

    /// The gradients of the scalar `y` for `xs`; `None` where `y` does not depend on one.
    ///
    /// # Errors
    /// `Shape` when `y` has more than one element; `Param` when part of the recording was used up by an earlier
    /// [`Mode::Free`]; whatever an operation's backward pass returns.
    pub fn grad(&self, y: &Var, xs: &[&Var], mode: Mode) -> Result<Vec<Option<Var>>> {
        if y.shape().len() != 1 {
            return Err(Error::shape("grad", "y", "one element", y.shape()));
        }
        self.grad_from(y, Var::constant(Tensor::full_on(&y.value().device(), y.shape(), 1.0)?), xs, mode)
    }

    /// Like [`Tape::grad`] for a `y` of any shape, given the gradient `dy` of something for `y`.
    ///
    /// # Errors
    /// As [`Tape::grad`], and `Shape` when `dy` has not the shape of `y`.
    pub fn grad_from(&self, y: &Var, dy: Var, xs: &[&Var], mode: Mode) -> Result<Vec<Option<Var>>> {
        self.grad_within(y, dy, xs, mode, true)
    }

    /// Like [`Tape::grad_from`] with the `xs` taken for independent of each other: what they were made of is not looked at.
    pub(crate) fn grad_between(&self, y: &Var, dy: Var, xs: &[&Var], mode: Mode) -> Result<Vec<Option<Var>>> {
        self.grad_within(y, dy, xs, mode, false)
    }

    fn grad_within(&self, y: &Var, dy: Var, xs: &[&Var], mode: Mode, beyond: bool) -> Result<Vec<Option<Var>>> {
        if dy.shape() != y.shape() {
            return Err(Error::shape("grad", "dy", y.shape(), dy.shape()));
        }
        let before = self.recording.replace(mode == Mode::Keep);
        let result = self.walk(y, dy, xs, mode, beyond);
        self.recording.set(before);
        result
    }

    fn walk(&self, y: &Var, dy: Var, xs: &[&Var], mode: Mode, beyond: bool) -> Result<Vec<Option<Var>>> {
        let Some(root) = &y.node else { return Ok(vec![None; xs.len()]) };
        let wanted: Vec<Option<u64>> = xs.iter().map(|v| v.node.as_ref().map(|n| n.id)).collect();
        let order = relevant(root, &wanted, beyond);
        let on_path: HashMap<u64, ()> = order.iter().map(|n| (n.id, ())).collect();
        let mut grads: HashMap<u64, Var> = HashMap::from([(root.id, dy)]);
        // How many shares of each node's gradient are still to come, if all operations pass one on.
        let mut to_come: HashMap<u64, usize> = HashMap::new();
        for input in order.iter().flat_map(|n| n.inputs.iter().flatten()) {
            *to_come.entry(input.id).or_default() += 1;
        }

        for node in order {
            let is_wanted = wanted.contains(&Some(node.id));
            if node.inputs.is_empty() || is_wanted && !beyond {
                continue; // a leaf, or as good as one: its gradient stays in the map
            }
            let Some(dy) = (if is_wanted { grads.get(&node.id).cloned() } else { grads.remove(&node.id) }) else {
                node.inputs.iter().flatten().for_each(|input| came(&mut to_come, input.id));
                if mode == Mode::Free {
                    node.op.take();
                }
                continue; // nothing flowed here, or an operation behind it has passed it on already
            };
            let needs: Vec<bool> =
                node.inputs.iter().map(|i| i.as_ref().is_some_and(|i| on_path.contains_key(&i.id))).collect();
            let share = |input: &Option<Rc<Node>>| {
                let Some(id) = input.as_ref().map(|i| i.id) else { return Share::default() };
                let last = to_come[&id] == 1 && mode != Mode::Keep && !wanted.contains(&Some(id));
                Share { last, so_far: if last { grads.remove(&id) } else { None } }
            };
            let mut shares: Vec<Share> = node.inputs.iter().map(share).collect();
            node.inputs.iter().flatten().for_each(|input| came(&mut to_come, input.id));
            let passed = if needs.contains(&true) {
                let op = node.op.borrow();
                let Some(op) = op.as_ref() else {
                    return Err(Error::param("grad", "y", "a freed graph", "Mode::Free uses a recording up once"));
                };
                op.backward_share(self, &dy, &needs, &mut shares)?
            } else {
                Vec::new()
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
                    // Where two paths meet, the tape adds: kernels overwrite, only the tape accumulates.
                    Some(have) => (self.add)(self, &have, &d)?,
                    None => d,
                };
                grads.insert(input.id, sum);
            }
        }
        Ok(wanted.iter().map(|id| id.and_then(|id| grads.get(&id).cloned())).collect())
    }
}

/// One share less of a node's gradient is to come.
fn came(to_come: &mut HashMap<u64, usize>, id: u64) {
    to_come.entry(id).and_modify(|n| *n -= 1);
}

/// The nodes on paths from `root` to a wanted node, latest first. Wanted nodes are passed through only to others `beyond`.
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
    all.sort_by_key(|n| n.id); // inputs come before what is made of them
    let mut leads: HashMap<u64, bool> = HashMap::new();
    all.retain(|n| {
        let hit = wanted.contains(&Some(n.id)) || n.inputs.iter().flatten().any(|i| leads.get(&i.id) == Some(&true));
        leads.insert(n.id, hit);
        hit
    });
    all.reverse();
    all
}
