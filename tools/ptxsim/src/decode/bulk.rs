//! `cp.async.bulk`: copies of whole boxes, columns and arrays.

use super::{Decoder, Mods, Result};
use crate::asynchronous::{Address, Async, Copy, Transfer};
use crate::counters::Class;
use crate::ins::{Ins, Slot};
use crate::parse::Arg;
use crate::types::Type;

impl Decoder<'_> {
    /// Decodes the rest of `cp.async.bulk`.
    pub(super) fn bulk(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        self.needs(m, false)?;
        if m.take("commit_group") {
            self.arity(args, 0..=0)?;
            Self::asynchronous(ins, Class::Sync, Async::Commit);
            return Ok(());
        }
        if m.take("wait_group") {
            m.take("read");
            let [Arg::Int(keep)] = args else { return m.fail("a number of groups is expected") };
            Self::asynchronous(ins, Class::Sync, Async::Complete { keep: *keep as u32 });
            return Ok(());
        }
        let mut args = args.to_vec();
        if m.take("L2::cache_hint") {
            let policy = args.pop().ok_or_else(|| self.error("a cache policy is missing"))?;
            self.src(&policy, Type::B64)?;
        }
        // The destination comes first.
        let order: Vec<bool> =
            m.rest().iter().filter_map(|w| shared(w).or((*w == "global").then_some(false))).collect();
        let (load, inside) = match order[..] {
            [true, false] => (true, false),
            [false, true] => (false, false),
            [true, true] => (true, true),
            _ => return m.fail("only copies to or from shared memory are simulated"),
        };
        m.drop_matching(|w| shared(w).is_some() || w == "global");
        let completes = m.one(&[("mbarrier::complete_tx::bytes", true), ("bulk_group", false)]);
        if completes != Some(load) {
            return m.fail("a load completes at an mbarrier, a store in a bulk group");
        }
        let mut multicast = None;
        if m.take("multicast::cluster") {
            let mask = args.pop().ok_or_else(|| self.error("a mask of blocks is missing"))?;
            multicast = Some(self.src(&mask, Type::U16)?);
        }
        let op = if m.take("tensor") {
            let op = Transfer { multicast, ..self.tensor(m, &args, load)? };
            if load { Async::LoadTensor(Box::new(op)) } else { Async::StoreTensor(Box::new(op)) }
        } else {
            self.arity(&args, if load { 4..=4 } else { 3..=3 })?;
            ins.b = self.src(&args[2], Type::U32)?;
            if load {
                let to = self.shared_address(&args[0])?;
                let from = if inside { self.shared_address(&args[1])? } else { self.plain(&args[1])? };
                let barrier = self.shared_address(&args[3])?;
                Async::LoadBulk(Box::new(Copy { to, from, shared: inside, barrier, multicast }))
            } else {
                Async::StoreBulk { to: self.plain(&args[0])?, from: self.shared_address(&args[1])? }
            }
        };
        Self::asynchronous(ins, Class::AsyncCopy, op);
        Ok(())
    }

    fn plain(&mut self, a: &Arg) -> Result<Address> {
        let (base, offset, _) = self.address(a)?;
        Ok(Address { base, offset })
    }

    fn tensor(&mut self, m: &mut Mods, args: &[Arg], load: bool) -> Result<Transfer> {
        self.needs(m, true)?;
        let rank = m.one(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]);
        let Some(rank) = rank else { return m.fail("a number of dimensions is expected") };
        let im2col = m.take("im2col");
        if !im2col {
            m.take("tile");
        }
        if im2col && (rank < 3 || !load) {
            return m.fail("im2col loads three dimensions or more");
        }
        self.arity(args, if load { 3 + usize::from(im2col)..=3 + usize::from(im2col) } else { 2..=2 })?;
        let (tensor, shared) = if load { (&args[1], &args[0]) } else { (&args[0], &args[1]) };
        let Arg::Tensor(map, at) = tensor else { return m.fail("`[map, {coordinates}]` is expected") };
        if at.len() != rank {
            return m.fail(format!("{} coordinates for {rank} dimensions", at.len()));
        }
        let coordinates = at.iter().map(|a| self.src(a, Type::S32)).collect::<Result<Vec<Slot>>>()?;
        let offsets = match (im2col, args.get(3)) {
            (true, Some(Arg::Vector(v))) if v.len() == rank - 2 => {
                Some(v.iter().map(|a| self.src(a, Type::U16)).collect::<Result<Vec<Slot>>>()?)
            }
            (true, _) => return m.fail("an offset per spatial dimension is expected"),
            (false, _) => None,
        };
        let shared = self.shared_address(shared)?;
        let barrier = if load { self.shared_address(&args[2])? } else { shared };
        Ok(Transfer { map: self.plain(map)?, coordinates, offsets, shared, barrier, multicast: None })
    }
}

/// Whether a modifier names shared memory.
fn shared(word: &str) -> Option<bool> {
    matches!(word, "shared::cta" | "shared::cluster").then_some(true)
}
