//! The execution order of diverged lanes: a rank per instruction.
//!
//! Lanes at the lowest rank run first, so that lanes that are further ahead wait where branches join. For this, every
//! join must have a higher rank than all paths that lead to it, and a loop's exit a higher rank than the loop: a weak
//! topological order of the control flow graph (F. Bourdoncle, "Efficient chaotic iteration strategies with widenings",
//! 1993). The order of the text usually is one, but compilers also move rarely executed blocks to the end.

use crate::ins::{Ins, Op};

/// A basic block: its instructions and its successors.
struct Node {
    first: usize,
    end: usize,
    next: Vec<usize>,
}

fn targets(op: &Op) -> &[u32] {
    match op {
        Op::Branch(t) => std::slice::from_ref(t),
        Op::BranchTable(t) => t,
        _ => &[],
    }
}

fn nodes(code: &[Ins]) -> Vec<Node> {
    let mut starts = vec![false; code.len() + 1];
    starts[0] = true;
    for (i, ins) in code.iter().enumerate() {
        for t in targets(&ins.op) {
            starts[*t as usize] = true;
        }
        if matches!(ins.op, Op::Branch(_) | Op::BranchTable(_) | Op::Exit | Op::Trap) {
            starts[i + 1] = true;
        }
    }
    let firsts: Vec<usize> = (0..code.len()).filter(|i| starts[*i]).collect();
    let find = |at: usize| firsts.binary_search(&at).ok();
    let node = |(k, &first): (usize, &usize)| {
        let end = firsts.get(k + 1).copied().unwrap_or(code.len());
        let last = &code[end - 1];
        let always = last.guard == 0;
        let mut next: Vec<usize> = targets(&last.op).iter().filter_map(|t| find(*t as usize)).collect();
        if !(always && matches!(last.op, Op::Branch(_) | Op::BranchTable(_) | Op::Exit | Op::Trap)) {
            next.extend(find(end));
        }
        // Of several successors the later one in the text is visited first, and so gets the highest rank.
        next.sort_unstable_by(|a, b| b.cmp(a));
        next.dedup();
        Node { first, end, next }
    };
    firsts.iter().enumerate().map(node).collect()
}

struct Order<'a> {
    nodes: &'a [Node],
    found: Vec<u32>,
    count: u32,
    stack: Vec<usize>,
}

const DONE: u32 = u32::MAX;

impl Order<'_> {
    /// Adds the blocks reachable from `v`, in reverse order.
    fn visit(&mut self, v: usize, out: &mut Vec<usize>) -> u32 {
        self.stack.push(v);
        self.count += 1;
        self.found[v] = self.count;
        let (mut head, mut cycle) = (self.count, false);
        for &w in &self.nodes[v].next {
            let least = if self.found[w] == 0 { self.visit(w, out) } else { self.found[w] };
            if least <= head {
                head = least;
                cycle = true;
            }
        }
        if head == self.found[v] {
            self.found[v] = DONE;
            let mut last = self.stack.pop().expect("v is there");
            if cycle {
                while last != v {
                    self.found[last] = 0;
                    last = self.stack.pop().expect("v is there");
                }
                for &w in &self.nodes[v].next {
                    if self.found[w] == 0 {
                        self.visit(w, out);
                    }
                }
            }
            out.push(v);
        }
        head
    }
}

/// Blocks are visited recursively, so their number is limited to protect the stack.
const MAX_BLOCKS: usize = 4096;

/// Assigns ranks to all instructions; false if there are too many blocks.
pub(super) fn rank(code: &mut [Ins]) -> bool {
    if code.is_empty() {
        return true;
    }
    let nodes = nodes(code);
    if nodes.len() > MAX_BLOCKS {
        return false;
    }
    let mut o = Order { nodes: &nodes, found: vec![0; nodes.len()], count: 0, stack: vec![] };
    let mut out = vec![];
    o.visit(0, &mut out);
    // Unreachable blocks come last.
    out.reverse();
    out.extend((0..nodes.len()).filter(|v| o.found[*v] == 0));
    let mut rank = 0;
    for n in out {
        for ins in &mut code[nodes[n].first..nodes[n].end] {
            ins.rank = rank;
            rank += 1;
        }
    }
    true
}
