//! Barriers in shared memory, proxy fences, and what else orders asynchronous operations.

use super::{Decoder, Mods, Result};
use crate::asynchronous::{Address, Async};
use crate::counters::Class;
use crate::ins::{Constant, File, Ins, Op, Slot};
use crate::parse::Arg;
use crate::types::{Space, Type};

impl Decoder<'_> {
    /// An address in shared memory.
    pub(super) fn shared_address(&mut self, a: &Arg) -> Result<Address> {
        let (base, offset, symbol) = self.address(a)?;
        if symbol.is_some_and(|s| s != Space::Shared) {
            return Err(self.error("the symbol does not lie in shared memory"));
        }
        Ok(Address { base, offset })
    }

    /// Fails unless the text is for sm_90 (with `a`: for sm_90a).
    pub(super) fn needs(&self, m: &Mods, a: bool) -> Result<()> {
        let target = self.target;
        let digits = target.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let new = digits.parse::<u32>().is_ok_and(|n| n >= 90);
        match (a, target == "sm_90a") {
            (true, false) => m.fail(format!("the target is {target}, and this needs sm_90a")),
            (false, false) if !new => m.fail(format!("the target is {target}, and this needs sm_90")),
            _ => Ok(()),
        }
    }

    /// Consumes a state space of shared memory.
    pub(super) fn in_shared(m: &mut Mods) -> bool {
        m.one(&[("shared", ()), ("shared::cta", ()), ("shared::cluster", ())]).is_some()
    }

    pub(super) fn number(&mut self, v: u64) -> Slot {
        self.constant(File::W, 32, Constant::Value(v))
    }

    pub(super) fn asynchronous(ins: &mut Ins, class: Class, op: Async) {
        ins.op = Op::Async(Box::new(op));
        ins.class = class;
    }

    /// Decodes these instructions; false for all others.
    pub(super) fn order(&mut self, root: &str, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<bool> {
        let op = match root {
            "mbarrier" => self.mbarrier(m, args, ins)?,
            "fence" if m.take("proxy") => {
                self.needs(m, false)?;
                self.arity(args, 0..=0)?;
                if !m.take("async") {
                    return m.fail("not simulated");
                }
                m.one(&[("global", ()), ("shared::cta", ()), ("shared::cluster", ())]);
                Async::Fence
            }
            "fence" if m.take("mbarrier_init") => {
                self.needs(m, false)?;
                self.arity(args, 0..=0)?;
                if !(m.take("release") && m.take("cluster")) {
                    return m.fail("`.release.cluster` is expected");
                }
                Async::FenceInit
            }
            "elect" => {
                self.needs(m, false)?;
                self.arity(args, 2..=2)?;
                let (Arg::Pair(d, p), true) = (&args[0], m.take("sync")) else {
                    return m.fail("`.sync d|p, mask` is expected");
                };
                ins.d = self.dst(d, Type::B32)?;
                ins.a = self.src(&args[1], Type::B32)?;
                Async::Elect { p: self.dst(p, Type::Pred)? }
            }
            "setmaxnreg" => {
                self.needs(m, true)?;
                let increase = m.one(&[("inc", true), ("dec", false)]);
                let plain = m.take("sync") & m.take("aligned") & m.take("u32");
                let ([Arg::Int(count)], Some(increase), true) = (args, increase, plain) else {
                    return m.fail("`.inc` or `.dec`, `.sync.aligned.u32` and a number are expected");
                };
                if !(24..=256).contains(count) || count % 8 != 0 {
                    return m.fail(format!("{count} is not a multiple of 8 from 24 to 256"));
                }
                Async::Registers { count: *count as u32, increase }
            }
            "prefetch" if m.take("tensormap") => {
                self.needs(m, false)?;
                self.arity(args, 1..=1)?;
                m.one(&[("param", ()), ("const", ())]);
                let (base, offset, _) = self.address(&args[0])?;
                Async::Prefetch { map: Address { base, offset } }
            }
            "mapa" | "getctarank" => {
                self.needs(m, false)?;
                let rank_of = root == "getctarank";
                let shared = m.take("shared::cluster");
                let ty = m.ty()?;
                if !matches!((ty, shared), (Type::U32, true) | (Type::U64, false)) {
                    return m.fail("`.shared::cluster.u32` or `.u64` is expected");
                }
                self.arity(args, if rank_of { 2..=2 } else { 3..=3 })?;
                ins.d = self.dst(&args[0], if rank_of { Type::U32 } else { ty })?;
                ins.a = self.src(&args[1], ty)?;
                if !rank_of {
                    ins.b = self.src(&args[2], Type::U32)?;
                }
                Async::MapAddress { rank_of }
            }
            "griddepcontrol" => {
                self.needs(m, false)?;
                self.arity(args, 0..=0)?;
                // Launches follow one another, so there is nothing to wait for.
                if m.one(&[("wait", ()), ("launch_dependents", ())]).is_none() {
                    return m.fail("`.wait` or `.launch_dependents` is expected");
                }
                ins.class = Class::Sync;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        Self::asynchronous(ins, Class::Sync, op);
        Ok(true)
    }

    /// The rest of `barrier.cluster`.
    pub(super) fn cluster_barrier(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        self.needs(m, false)?;
        self.arity(args, 0..=0)?;
        m.take("aligned");
        let op = match m.one(&[("arrive", true), ("wait", false)]) {
            Some(true) => Async::ArriveCluster { relaxed: m.take("relaxed") },
            Some(false) => Async::WaitCluster,
            None => return m.fail("`.arrive` or `.wait` is expected"),
        };
        m.one(&[("release", ()), ("acquire", ())]);
        Self::asynchronous(ins, Class::Sync, op);
        Ok(())
    }

    fn mbarrier(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<Async> {
        Self::in_shared(m);
        let relaxed = m.take("relaxed");
        m.one(&[("acquire", ()), ("release", ())]);
        m.one(&[("cta", ()), ("cluster", ())]);
        if !m.take("b64") && !m.rest().contains(&"expect_tx") {
            return m.fail("type b64 is expected");
        }
        if m.take("init") {
            self.arity(args, 2..=2)?;
            ins.b = self.src(&args[1], Type::U32)?;
            return Ok(Async::Init { at: self.shared_address(&args[0])? });
        }
        if m.take("inval") {
            self.arity(args, 1..=1)?;
            return Ok(Async::Invalidate { at: self.shared_address(&args[0])? });
        }
        let wait = m.one(&[("test_wait", false), ("try_wait", true)]);
        if let Some(suspend) = wait {
            if suspend {
                self.needs(m, false)?;
            }
            let parity = m.take("parity");
            self.arity(args, if suspend { 3..=4 } else { 3..=3 })?;
            ins.d = self.dst(&args[0], Type::Pred)?;
            ins.b = self.src(&args[2], if parity { Type::U32 } else { Type::U64 })?;
            let at = self.shared_address(&args[1])?;
            return Ok(Async::Wait { at, parity, suspend, acquire: !relaxed });
        }
        let complete = !m.take("noComplete");
        let (arrive, expect) = (m.take("arrive"), m.take("expect_tx"));
        ins.b = self.number(1);
        ins.c = self.number(0);
        if arrive {
            self.arity(args, 2..=3)?;
            ins.d = self.dst(&args[0], Type::B64)?;
            let at = self.shared_address(&args[1])?;
            match (expect, args.get(2)) {
                (true, Some(bytes)) => ins.c = self.src(bytes, Type::U32)?,
                (false, Some(count)) => ins.b = self.src(count, Type::U32)?,
                (false, None) if complete => {}
                _ => return m.fail("an operand is missing"),
            }
            if expect {
                self.needs(m, false)?;
            }
            return Ok(Async::Arrive { at, complete, relaxed });
        }
        if expect {
            self.needs(m, false)?;
            m.take("b64");
            self.arity(args, 2..=2)?;
            ins.c = self.src(&args[1], Type::U32)?;
            return Ok(Async::Expect { at: self.shared_address(&args[0])? });
        }
        m.fail("not simulated")
    }
}
