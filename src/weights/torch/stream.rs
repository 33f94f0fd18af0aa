//! The format before PyTorch 1.6: a magic number, a version, facts about the machine, the object and the keys of its storages, five
//! pickles one after the other; then the storages.

use super::objects::{Objects, Value};
use super::{Fault, pickle};

/// PyTorch's magic number, with which such a file begins, and the end of its pickle.
const MAGIC: [u8; 13] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// The longest beginning of a pickle before its first object: its protocol and the length of its frame.
const BEFORE: usize = 11;

/// The version of the format.
const VERSION: i64 = 1001;

/// Where the pickle of the magic number ends, if a file begins with it.
pub(super) fn magic(bytes: &[u8]) -> Option<usize> {
    let begin = (0..=BEFORE).find(|at| bytes.get(*at..).is_some_and(|rest| rest.starts_with(&MAGIC)))?;
    (bytes[0] == 0x80).then_some(begin + MAGIC.len())
}

/// The objects, the keys of the storages in their order, and where these begin.
pub(super) fn read(bytes: &[u8]) -> Result<(Objects, Vec<String>, u64), Fault> {
    let mut at = magic(bytes).unwrap_or(0);
    let mut next = || {
        let begin = at;
        let (objects, length) = pickle::read(bytes.get(begin..).unwrap_or_default(), begin as u64)?;
        at += length;
        Ok((objects, at as u64))
    };
    let (version, end) = next()?;
    if !matches!(version.get(version.root), Value::Int(VERSION)) {
        return Err(Fault { at: end, what: format!("the file is not of version {VERSION} of PyTorch's older format") });
    }
    let (machine, end) = next()?;
    let Value::Dict(facts, _) = machine.get(machine.root) else {
        return Err(Fault { at: end, what: "the facts about its machine are missing".into() });
    };
    let little = facts.iter().find(|(key, _)| matches!(machine.get(*key), Value::Text(t) if &**t == "little_endian"));
    if !little.is_some_and(|(_, value)| matches!(machine.get(*value), Value::Bool(true))) {
        return Err(Fault {
            at: end,
            what: "its numbers are not little-endian: it comes from another kind of machine".into(),
        });
    }
    let (objects, _) = next()?;
    let (list, end) = next()?;
    let keys = match list.get(list.root) {
        Value::List(keys) => keys.iter().map(|key| match list.get(*key) {
            Value::Text(key) => Some(key.to_string()),
            _ => None,
        }),
        _ => return Err(Fault { at: end, what: "the list of its storages is missing".into() }),
    };
    let keys: Option<Vec<String>> = keys.collect();
    Ok((objects, keys.ok_or_else(|| Fault { at: end, what: "the key of a storage is no text".into() })?, end))
}
