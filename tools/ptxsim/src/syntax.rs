//! The syntax tree of a file: the parser's output and the decoder's input.

use std::collections::HashMap;

use crate::types::Type;

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    /// Register, label or symbol.
    Word(String),
    Int(u64),
    Float(u64, bool),
    Vector(Vec<Arg>),
    /// `[base + offset]`
    Memory(Box<Arg>, i64),
    /// `[base, {coordinates}]`
    Tensor(Box<Arg>, Vec<Arg>),
    /// `d|p`
    Pair(Box<Arg>, Box<Arg>),
    /// `!p`
    Not(Box<Arg>),
}

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub line: u32,
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    pub args: Vec<Arg>,
    pub scope: usize,
}

/// A variable in memory: `.shared`, `.local`, `.global`, `.const`, `.param`.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub name: String,
    pub ty: Type,
    pub align: u64,
    /// Bytes; `None` for an array whose length is given at launch.
    pub bytes: Option<u64>,
    pub init: Vec<u8>,
    pub line: u32,
    /// Declared with `.extern`.
    pub external: bool,
}

/// A declaration of registers: `count` of them, or one.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    pub scope: usize,
    pub name: String,
    pub count: Option<u32>,
    pub ty: Type,
}

/// The body of an `.entry`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub name: String,
    pub line: u32,
    pub params: Vec<Variable>,
    /// For each scope, the scope around it.
    pub parents: Vec<usize>,
    pub registers: Vec<Registers>,
    pub shared: Vec<Variable>,
    pub local: Vec<Variable>,
    pub labels: HashMap<(usize, String), usize>,
    pub tables: HashMap<(usize, String), Vec<String>>,
    pub statements: Vec<Statement>,
    pub max_threads: Option<u32>,
    pub exact_threads: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub functions: Vec<Function>,
    pub shared: Vec<Variable>,
    pub global: Vec<Variable>,
    pub constant: Vec<Variable>,
    pub version: String,
    pub target: String,
}
