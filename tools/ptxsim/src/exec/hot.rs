//! Frequent instructions, all lanes at once.

use super::regs::Regs;
use crate::ins::{Hot, Ins};

/// Executes one.
pub(super) fn run(r: &mut Regs, h: Hot, ins: &Ins, run: u32) {
    match h {
        Hot::Mov32 | Hot::Mov64 => {
            let (v, def) = (r.fetch(ins.a), r.def(ins.a));
            r.put(ins.d, run, &v, def);
        }
    }
}
