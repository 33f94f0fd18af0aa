//! An interpreter of pickles, protocols 2 to 5, as far as `torch.save` uses them.
//!
//! A pickle is a program for a machine with a stack, and its instructions can call any function of Python. Here nothing is
//! called: the functions a file may name are listed in [`Global`], and what they would return is put in their place. Any other
//! name, and any other instruction, ends the reading. Memory grows at most with the length of the pickle, and no step recurses.

use super::Fault;
use super::objects::{Dict, Global, Id, Objects, PLAIN, Value};
use std::collections::HashMap;

/// The most entries of the memo, marks, and references copied from one object to another: what is remembered once can be
/// copied by every later instruction, so that a short pickle could fill any memory.
const MOST: usize = 4 << 20;

/// Interprets the pickle at the start of `bytes`, which begin at `offset` in the file. Returns the objects and the pickle's length.
pub(super) fn read(bytes: &[u8], offset: u64) -> Result<(Objects, usize), Fault> {
    let (objects, memo) = (Objects::new(), HashMap::new());
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo, copied: 0, objects };
    loop {
        let begin = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => {
                machine.objects.root = root;
                return Ok((machine.objects, machine.at));
            }
            Err(what) => return Err(Fault { at: offset + begin as u64, what }),
        }
    }
}

pub(super) type Step<T> = Result<T, String>;

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// References copied so far.
    copied: usize,
    pub(super) objects: Objects,
}

impl<'a> Machine<'a> {
    /// Executes one instruction; the object when it was the last one.
    fn step(&mut self) -> Step<Option<Id>> {
        let code = self.take(1)?[0];
        match code {
            b'.' => return self.pop().map(Some),
            0x80 => match self.take(1)?[0] {
                2..=5 => {}
                other => return Err(format!("the pickle has protocol {other}; 2 to 5 are read")),
            },
            0x95 => {
                let length = self.length::<8>()?;
                if length > self.bytes.len() - self.at {
                    return Err(cut());
                }
            }
            b'N' => self.stack.push(PLAIN),
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => self.int::<1>()?,
            b'M' => self.int::<2>()?,
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let length = self.length::<1>()?;
                self.long(length)?;
            }
            0x8b => {
                let length = self.length::<4>()?;
                self.long(length)?;
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(PLAIN);
            }
            b'U' | 0x8c => self.text::<1>()?,
            b'T' | b'X' => self.text::<4>()?,
            0x8d => self.text::<8>()?,
            b'C' => self.blob::<1>()?,
            b'B' => self.blob::<4>()?,
            0x8e | 0x96 => self.blob::<8>()?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new(), Dict::Plain))?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x8f => self.push(Value::List(Vec::new()))?, // a set: nothing here depends on which it is
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let items = self.top(count)?;
                self.push(Value::Tuple(items))?;
            }
            b'(' if self.marks.len() < MOST => self.marks.push(self.stack.len()),
            b'(' => return Err(too_many()),
            b't' | 0x91 => {
                let items = self.above_mark()?;
                self.push(Value::Tuple(items))?;
            }
            b'a' => {
                let item = self.top(1)?;
                self.append(item)?;
            }
            b'e' | 0x90 => {
                let items = self.above_mark()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.top(2)?;
                self.assign(&items)?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.assign(&items)?;
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.above_mark()?),
            b'2' => {
                let top = self.peek()?;
                self.stack.push(top);
            }
            b'q' => {
                let place = self.length::<1>()?;
                self.remember(place as u32)?;
            }
            b'r' => {
                let place = self.length::<4>()?;
                self.remember(place as u32)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let place = self.length::<1>()?;
                self.recall(place as u32)?;
            }
            b'j' => {
                let place = self.length::<4>()?;
                self.recall(place as u32)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Global::value(module, name)?)?;
            }
            0x93 => {
                let names = self.top(2)?;
                let [module, name] = [names[0], names[1]].map(|id| self.objects.get(id));
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err("the name of a function is no text".into());
                };
                let value = Global::value(module, name)?;
                self.push(value)?;
            }
            b'R' | 0x81 => {
                let both = self.top(2)?;
                self.call(both[0], both[1])?;
            }
            b'b' => {
                let state = self.pop()?;
                self.build(state)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?;
            }
            other => return Err(format!("the pickle has the instruction {}, which is not read", named(other))),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).ok_or_else(cut)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| cut())
    }

    /// An unsigned number of `N` bytes.
    fn length<const N: usize>(&mut self) -> Step<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| cut())
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or_else(cut)?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "the name of a function is no text".into())
    }

    pub(super) fn push(&mut self, value: Value) -> Step<()> {
        let id = self.objects.push(value)?;
        self.stack.push(id);
        Ok(())
    }

    fn int<const N: usize>(&mut self) -> Step<()> {
        let value = self.length::<N>()? as i64;
        self.push(Value::Int(value))
    }

    /// A whole number of any length, in two's complement. One that does not fit is none that anything here asks for.
    fn long(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        if length > 8 {
            self.stack.push(PLAIN);
            return Ok(());
        }
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..length].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text<const N: usize>(&mut self) -> Step<()> {
        let length = self.length::<N>()?;
        let text = String::from_utf8_lossy(self.take(length)?); // strings of Python 2 may be any bytes
        self.push(Value::Text(text.into()))
    }

    fn blob<const N: usize>(&mut self) -> Step<()> {
        let length = self.length::<N>()?;
        self.take(length)?;
        self.stack.push(PLAIN);
        Ok(())
    }

    /// Objects on the stack above the last mark.
    fn height(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn peek(&self) -> Step<Id> {
        self.stack.last().copied().filter(|_| self.height() > 0).ok_or_else(empty)
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.peek()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&mut self, count: usize) -> Step<Vec<Id>> {
        if self.height() < count {
            return Err(empty());
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn above_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(empty)?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Id>) -> Step<()> {
        let list = self.peek()?;
        match self.objects.get_mut(list) {
            Value::List(list) => list.extend(items),
            _ => return Err("the pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn assign(&mut self, items: &[Id]) -> Step<()> {
        let dict = self.peek()?;
        match self.objects.get_mut(dict) {
            Value::Dict(dict, _) if items.len().is_multiple_of(2) => {
                dict.extend(items.as_chunks().0.iter().map(|[key, value]| (*key, *value)));
            }
            _ => return Err("the pickle assigns items to what is no dictionary, or keys without values".into()),
        }
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Step<()> {
        let top = self.peek()?;
        self.memo.insert(place, top);
        if self.memo.len() > MOST { Err(too_many()) } else { Ok(()) }
    }

    fn recall(&mut self, place: u32) -> Step<()> {
        let id = self.memo.get(&place).copied();
        self.stack.push(id.ok_or_else(|| format!("the pickle asks for the object {place}, which it has not made"))?);
        Ok(())
    }

    /// Counts references that are copied.
    pub(super) fn copies(&mut self, count: usize) -> Step<()> {
        self.copied = self.copied.saturating_add(count);
        if self.copied > MOST { Err(too_many()) } else { Ok(()) }
    }
}

fn too_many() -> String {
    "the pickle remembers or copies more than any network needs".into()
}

fn cut() -> String {
    "the pickle is cut: it ends before its last instruction".into()
}

fn empty() -> String {
    "the pickle takes more from its stack than is there".into()
}

/// The name of an instruction that is not read.
fn named(code: u8) -> String {
    let known = match code {
        b'P' => "PERSID",
        b'I' => "INT",
        b'L' => "LONG",
        b'F' => "FLOAT",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'l' => "LIST",
        b'p' => "PUT",
        b'g' => "GET",
        b'i' => "INST",
        b'o' => "OBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x92 => "NEWOBJ_EX",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return format!("0x{code:02x}"),
    };
    format!("{known} (0x{code:02x})")
}
