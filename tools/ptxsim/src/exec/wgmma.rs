//! `wgmma`: products that four warps issue together, and that are complete only after `wgmma.wait_group`.
//!
//! Each warp computes its sixteen rows when it issues the instruction. Until the product is waited for, its registers count as
//! never written, so that a use of them is found like one of an uninitialised register, and what it reads in shared memory
//! counts as being read by an agent of the warpgroup.

use std::collections::VecDeque;

use super::asynchronous::{GROUP, uniform, whole};
use super::control::Warp;
use super::load_store::trouble;
use super::products::{self, Columns, Rows};
use super::regs::Regs;
use super::wait::{Reason, Wait};
use super::{Block, Next, Result, site, unwritten};
use crate::asynchronous::{Async, Descriptor, Factor, Multiply};
use crate::fault::Fault;
use crate::ins::{Ins, Op, Slot};
use crate::module::Entry;
use crate::shared::clocks::WGMMA;

/// A product that a warp has issued and not waited for.
struct Pending {
    pc: u32,
    /// Its number in the warpgroup.
    number: u64,
    /// `None` until it is committed.
    group: Option<u32>,
}

/// The products of a warp in flight, and the registers that `wgmma.fence` covers.
#[derive(Default)]
pub(crate) struct Flight {
    pending: VecDeque<Pending>,
    committed: u32,
    /// Registers that any product of the kernel uses.
    fragments: Vec<u16>,
    /// For each register the products in flight that write, and that read it.
    writing: Vec<u16>,
    reading: Vec<u16>,
    fenced: bool,
    /// Values at the last fence or wait.
    clean: Vec<[u32; 32]>,
    clean_def: Vec<u32>,
}

impl Flight {
    pub fn new(e: &Entry) -> Flight {
        let n = if e.fragments.is_empty() { 0 } else { e.registers[1] };
        Flight {
            fragments: e.fragments.clone(),
            writing: vec![0; n],
            reading: vec![0; n],
            clean: vec![[0; 32]; n],
            clean_def: vec![0; n],
            ..Flight::default()
        }
    }

    pub fn reset(&mut self) {
        self.pending.clear();
        (self.committed, self.fenced) = (0, false);
        self.writing.fill(0);
        self.reading.fill(0);
    }

    pub fn pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The program counter of the oldest product in flight.
    pub fn first(&self) -> u32 {
        self.pending.front().map_or(0, |p| p.pc)
    }

    fn busy(&self, r: usize) -> bool {
        self.writing[r] + self.reading[r] > 0
    }

    fn remember(&mut self, r: usize, regs: &Regs) {
        self.clean[r] = regs.w[r];
        self.clean_def[r] = regs.wdef[r];
    }

    /// `wgmma.fence`: registers written before may be operands of products.
    pub fn fence(&mut self, regs: &Regs) {
        self.fenced = true;
        for k in 0..self.fragments.len() {
            let r = self.fragments[k] as usize;
            if !self.busy(r) {
                self.remember(r, regs);
            }
        }
    }

    pub fn commit(&mut self) {
        for p in self.pending.iter_mut().rev().take_while(|p| p.group.is_none()) {
            p.group = Some(self.committed);
        }
        self.committed += 1;
    }

    /// A register that was never written may be one of a product in flight.
    pub fn explain(&self, mut f: Box<Fault>) -> Box<Fault> {
        if let Fault::UninitialisedRegister(s) = &mut *f
            && self.pending()
        {
            s.detail += "; it was never written, or a wgmma in flight reads or writes it";
            return Box::new(Fault::InFlight(std::mem::take(s)));
        }
        f
    }
}

/// What all warps of a warpgroup must agree in.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Signature {
    pc: u32,
    a: Option<u64>,
    b: u64,
    add: bool,
}

/// A product that not all warps of the group have issued.
struct Open {
    signature: Signature,
    columns: Vec<Columns>,
    /// What was read of the second factor.
    stamps: Vec<u32>,
}

/// The products of a warpgroup.
#[derive(Default)]
pub(crate) struct Group {
    /// Products from number `first` on.
    open: VecDeque<Open>,
    first: u64,
    /// Memory for the next product.
    spare: Vec<Columns>,
    /// Products that each warp has issued.
    issued: [u64; GROUP as usize],
    /// For each product the latest time at which a warp issued it.
    times: Vec<u32>,
}

fn in_flight<T>(m: String) -> Result<T> {
    Err(Box::new(Fault::InFlight(site(0, None, m))))
}

impl Block<'_> {
    /// The agent of the products of a warp's group.
    fn products_agent(&self, w: &Warp) -> u32 {
        (self.rank as u32) << 6 | (WGMMA + w.id / GROUP)
    }

    /// `wgmma.mma_async`.
    pub(super) fn multiply(&mut self, w: &mut Warp, m: &Multiply, run: u32, pc: u32) -> Result<()> {
        whole(w, run)?;
        let (group, quarter) = ((w.id / GROUP) as usize, w.id % GROUP);
        if (group as u32 + 1) * GROUP * 32 > self.job.block.iter().product::<u32>() {
            let m = "the last warpgroup of the block is not whole";
            return Err(Box::new(Fault::Illegal(site(0, None, m))));
        }
        let a = match m.a {
            Factor::Shared(s) => Some(uniform(w, s, "it is a descriptor of wgmma")?),
            Factor::Registers(_) => None,
        };
        let b = uniform(w, m.b, "it is a descriptor of wgmma")?;
        let missing = !w.regs.def(m.add.0);
        if missing != 0 {
            return unwritten(missing, "it decides whether wgmma adds to its accumulators");
        }
        let p = w.regs.p[m.add.0.i as usize] ^ if m.add.1 { !0 } else { 0 };
        if p != 0 && p != !0 {
            let m = "lanes differ in whether wgmma adds to its accumulators";
            return Err(Box::new(Fault::Divergence(site(p.trailing_ones() as usize % 32, None, m))));
        }
        let add = p != 0;
        self.check_registers(w, m, add)?;
        let signature = Signature { pc, a, b, add };
        let number = self.asynchronous.groups[group].issued[quarter as usize];
        self.open(w, m, group, number, signature)?;
        let rows = self.first_factor(w, m, a);
        let g = &mut self.asynchronous.groups[group];
        let columns = &g.open[(number - g.first) as usize].columns;
        let negative = m.negative[0] != m.negative[1];
        products::accumulate(&mut w.regs, &m.d, add, rows, columns, negative, self.job.sums);
        let now = self.clocks.borrow().now();
        self.clocks.borrow_mut().tick();
        if g.times.len() as u64 == number {
            g.times.push(now);
        }
        g.times[number as usize] = g.times[number as usize].max(now);
        g.issued[quarter as usize] += 1;
        while g.issued.iter().all(|n| *n > g.first) {
            g.spare = g.open.pop_front().map_or(Vec::new(), |o| o.columns);
            g.first += 1;
        }
        for s in &m.d {
            w.flight.writing[s.i as usize] += 1;
            w.regs.wdef[s.i as usize] = 0;
        }
        if let Factor::Registers(a) = m.a {
            for s in a {
                w.flight.reading[s.i as usize] += 1;
                w.regs.wdef[s.i as usize] = 0;
            }
        }
        w.flight.pending.push_back(Pending { pc, number, group: None });
        self.counters.tensor_instructions += 1;
        self.counters.wgmma_products += 256 * m.columns as u64;
        Ok(())
    }

    /// Registers must be fenced, or in flight as accumulators of the same shape.
    fn check_registers(&self, w: &Warp, m: &Multiply, add: bool) -> Result<()> {
        let f = &w.flight;
        if !f.fenced {
            return in_flight("there was no wgmma.fence before this product".into());
        }
        let changed = |s: &Slot| {
            let r = s.i as usize;
            f.clean_def[r] != w.regs.wdef[r] || f.clean[r] != w.regs.w[r]
        };
        let code = &self.job.entry.code;
        let same = |p: &&Pending| match &code[p.pc as usize].op {
            Op::Async(op) => matches!(&**op, Async::Multiply(o) if o.d == m.d),
            _ => false,
        };
        let mut chained = None;
        for (k, s) in m.d.iter().enumerate() {
            let r = s.i as usize;
            if !f.busy(r) {
                if changed(s) {
                    return in_flight(format!("accumulator {k} was changed after the last wgmma.fence"));
                }
                let missing = !w.regs.wdef[r];
                if add && missing != 0 {
                    return unwritten(missing, "it is an accumulator of wgmma");
                }
                continue;
            }
            if !*chained.get_or_insert_with(|| f.pending.iter().any(|p| same(&p))) || f.reading[r] > 0 {
                return in_flight(format!("accumulator {k} is in use by a wgmma of another shape"));
            }
            if w.regs.wdef[r] != 0 {
                return in_flight(format!("accumulator {k} was written while a wgmma is in flight"));
            }
        }
        let Factor::Registers(a) = &m.a else { return Ok(()) };
        for (k, s) in a.iter().enumerate() {
            let r = s.i as usize;
            if f.writing[r] > 0 || m.d.contains(s) {
                return in_flight(format!("fragment {k} of A is an accumulator"));
            }
            if f.reading[r] > 0 && w.regs.wdef[r] != 0 {
                return in_flight(format!("fragment {k} of A was written while a wgmma is in flight"));
            }
            if f.reading[r] == 0 {
                if changed(s) {
                    return in_flight(format!("fragment {k} of A was changed after the last wgmma.fence"));
                }
                let missing = !w.regs.wdef[r];
                if missing != 0 {
                    return unwritten(missing, "it is a fragment of A of wgmma");
                }
            }
        }
        Ok(())
    }

    /// Checks and records that a product reads a factor; the two chunks of a row together, if they are next to each other.
    fn check_factor(
        &mut self,
        d: &Descriptor,
        rows: usize,
        transposed: bool,
        (warp, agent): (u32, u32),
        stamps: &mut Vec<u32>,
    ) -> Result<()> {
        let mut all = chunks(d, 0, rows, transposed).map(|c| c.0).peekable();
        while let Some(at) = all.next() {
            let pair = all.next_if(|next| next ^ at == 16).is_some();
            let (from, n) = if pair { (at & !16, 32) } else { (at, 16) };
            let read = self.shared.read_async(from, n, warp, agent, stamps);
            read.map_err(|t| trouble(t, 0, from, "wgmma reads"))?;
        }
        Ok(())
    }

    /// Both factors are checked, and the second one is read, by the first warp that issues a product; the other warps only check
    /// whether they may read what was stored there.
    fn open(&mut self, w: &Warp, m: &Multiply, group: usize, number: u64, signature: Signature) -> Result<()> {
        let agent = self.products_agent(w);
        let g = &self.asynchronous.groups[group];
        if let Some(open) = g.open.get((number - g.first) as usize) {
            if open.signature != signature {
                let line = self.job.entry.code[open.signature.pc as usize].line;
                let m = format!(
                    "another warp of the warpgroup has issued the wgmma of PTX line {line} as product {number}{}",
                    if open.signature.pc == signature.pc { ", with other operands" } else { "" }
                );
                return Err(Box::new(Fault::Divergence(site(0, None, m))));
            }
            for s in &open.stamps {
                let visible = self.clocks.borrow().visible(*s, w.agent);
                visible
                    .map_err(|t| trouble(t, 0, Descriptor::new(signature.b, self.job.swizzled).start, "wgmma reads"))?;
            }
            return Ok(());
        }
        let mut stamps = Vec::new();
        if let Some(a) = signature.a {
            self.check_factor(
                &Descriptor::new(a, self.job.swizzled),
                64,
                m.transposed[0],
                (w.agent, agent),
                &mut stamps,
            )?;
        }
        let second = Descriptor::new(signature.b, self.job.swizzled);
        self.check_factor(&second, m.columns, m.transposed[1], (w.agent, agent), &mut stamps)?;
        let mut columns = std::mem::take(&mut self.asynchronous.groups[group].spare);
        columns.resize(m.columns / 8, [[[0.0; 16]; 2]; 16]);
        for (j, to) in columns.iter_mut().enumerate() {
            let mut eight = [[0; 16]; 8];
            for (at, column, k) in chunks(&second, 8 * j as u64, 8, m.transposed[1]) {
                for (e, v) in products::chunk(self.shared.row(at)).enumerate() {
                    let (column, k) = if m.transposed[1] { (e, k) } else { (column, k + e) };
                    eight[column][k] = v;
                }
            }
            products::arrange(&eight, m.bf16, to);
        }
        stamps.sort_unstable();
        stamps.dedup();
        self.asynchronous.groups[group].open.push_back(Open { signature, columns, stamps });
        Ok(())
    }

    /// The sixteen rows of the first factor that a warp multiplies. They were checked when the product was opened.
    fn first_factor(&self, w: &Warp, m: &Multiply, descriptor: Option<u64>) -> Box<Rows> {
        let value = |v| products::value(m.bf16, v);
        let mut rows = [[0f32; 16]; 16];
        match (&m.a, descriptor.map(|bits| Descriptor::new(bits, self.job.swizzled))) {
            (Factor::Shared(_), Some(d)) => {
                let from = u64::from(w.id % GROUP) * 16;
                for (at, row, k) in chunks(&d, from, 16, m.transposed[0]) {
                    for (e, v) in products::chunk(self.shared.row(at)).enumerate() {
                        let (row, k) = if m.transposed[0] { (row + e, k) } else { (row, k + e) };
                        rows[row][k] = value(v);
                    }
                }
            }
            (Factor::Registers(a), _) => {
                for (i, s) in a.iter().enumerate() {
                    for (l, v) in w.regs.w[s.i as usize].iter().enumerate() {
                        let k = l % 4 * 2 + i / 2 * 8;
                        let row = &mut rows[l / 4 + i % 2 * 8];
                        (row[k], row[k + 1]) = (value(*v as u16), value((v >> 16) as u16));
                    }
                }
            }
            (Factor::Shared(_), None) => unreachable!("a factor in shared memory has a descriptor"),
        }
        Box::new(Rows::new(rows))
    }

    pub(super) fn issued_by_all(&self, warp: u32, number: u64) -> bool {
        self.asynchronous.groups[(warp / GROUP) as usize].issued.iter().all(|n| *n > number)
    }

    /// `wgmma.wait_group`: waits for all groups of products but the last `keep`, which needs all warps of the group.
    pub(super) fn wait_products(&mut self, w: &mut Warp, ins: &Ins, keep: u32, run: u32) -> Result<Next> {
        whole(w, run)?;
        let due = |p: &&Pending| p.group.is_some_and(|g| g + keep < w.flight.committed);
        let done = w.flight.pending.iter().take_while(due).count();
        let Some(last) = done.checked_sub(1).map(|i| w.flight.pending[i].number) else { return Ok(Next::Go) };
        if !self.issued_by_all(w.id, last) {
            w.wait = Some(Wait { reason: Reason::Products { number: last }, line: ins.line });
            return Ok(Next::Retry);
        }
        let time = self.asynchronous.groups[(w.id / GROUP) as usize].times[last as usize];
        let agent = self.products_agent(w);
        self.clocks.borrow_mut().observe(w.agent, agent, time);
        for _ in 0..done {
            let Some(p) = w.flight.pending.pop_front() else { break };
            let Op::Async(op) = &self.job.entry.code[p.pc as usize].op else { continue };
            let Async::Multiply(m) = &**op else { continue };
            for s in &m.d {
                w.flight.writing[s.i as usize] -= 1;
                release(w, s.i as usize)?;
            }
            if let Factor::Registers(a) = &m.a {
                for s in a {
                    w.flight.reading[s.i as usize] -= 1;
                    release(w, s.i as usize)?;
                }
            }
        }
        Ok(Next::Go)
    }
}

/// The 16-byte chunks of some rows of a matrix: the address, and the first element's row (from the first of them) and k.
fn chunks(
    d: &Descriptor,
    from: u64,
    rows: usize,
    transposed: bool,
) -> impl Iterator<Item = (u64, usize, usize)> + use<> {
    let d = *d;
    // Transposed, a chunk has eight rows of one k, and otherwise eight k of one row.
    let (outer, inner) = if transposed { (rows / 8, 16) } else { (rows, 2) };
    (0..outer).flat_map(move |i| {
        (0..inner).map(move |j| {
            if transposed {
                (d.chunk(from / 8 + i as u64, j as u64, true), 8 * i, j)
            } else {
                (d.chunk(from + i as u64, j as u64, false), i, 8 * j)
            }
        })
    })
}

/// Makes a register usable that no product in flight needs any more.
fn release(w: &mut Warp, r: usize) -> Result<()> {
    if w.flight.busy(r) {
        return Ok(());
    }
    if w.regs.wdef[r] != 0 {
        return in_flight("a register of a wgmma was written before this wait".into());
    }
    w.regs.wdef[r] = !0;
    w.flight.remember(r, &w.regs);
    Ok(())
}
