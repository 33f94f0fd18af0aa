//! The objects a pickle describes, in one list: they refer to each other by their place in it. So they are built, shared and
//! dropped without recursion, however deeply they are nested.

use crate::weights::Dtype;
use std::collections::HashMap;

/// The longest name of a function that an error repeats, in characters.
const NAMED: usize = 80;
/// The most objects of one file.
const MOST: usize = 4 << 20;

/// An object, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u32);

/// The object that stands for all that is not looked at: None, numbers, bytes, types, devices.
pub(super) const PLAIN: Id = Id(0);

/// An object.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing that anything here asks for.
    Plain,
    Bool(bool),
    Int(i64),
    Text(Box<str>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>, Dict),
    /// A function or class.
    Global(Global),
    /// A storage, by its place in the list of storages, and the number of its first element that is meant.
    Storage(usize, u64),
    Tensor(View),
}

/// The kinds of dictionaries, which differ in what may be assigned to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dict {
    Plain,
    /// `OrderedDict`; a `state_dict` has the attribute `_metadata`, which nothing here needs.
    Ordered,
    /// `argparse.Namespace`, whose attributes are its items.
    Namespace,
}

/// Part of a storage as a tensor.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub storage: usize,
    pub offset: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The functions and classes that a file may name. None of them is run: what they would make is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    Counter,
    Set,
    Namespace,
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`.
    Tensor,
    /// `_rebuild_parameter`.
    Parameter,
    /// `torch.Size`.
    Size,
    /// `torch.device`, NumPy's scalars and their types, `_codecs.encode`: their results are not looked at.
    Harmless,
    /// `numpy.dtype`, the same, with a state.
    NumpyType,
    /// A class of storages, by the type of its numbers.
    StorageOf(Dtype),
}

impl Global {
    /// The function or class `module.name`.
    fn find(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("collections", "Counter") => Global::Counter,
            ("builtins" | "__builtin__", "set" | "frozenset") => Global::Set,
            ("argparse", "Namespace") => Global::Namespace,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Tensor,
            ("torch._utils", "_rebuild_parameter") => Global::Parameter,
            ("torch", "Size") => Global::Size,
            ("torch", "device") | ("_codecs", "encode") => Global::Harmless,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::Harmless,
            ("numpy", "dtype") => Global::NumpyType,
            ("torch" | "torch.storage" | "torch.cuda", storage) if storage.ends_with("Storage") => {
                Global::StorageOf(match storage.strip_suffix("Storage")? {
                    "Double" => Dtype::F64,
                    "Float" => Dtype::F32,
                    "Half" => Dtype::F16,
                    "BFloat16" => Dtype::BF16,
                    "Long" => Dtype::I64,
                    "Int" => Dtype::I32,
                    "Short" => Dtype::I16,
                    "Char" => Dtype::I8,
                    "Byte" | "Untyped" => Dtype::U8,
                    "Bool" => Dtype::Bool,
                    "ComplexFloat" => Dtype::C64,
                    "ComplexDouble" => Dtype::C128,
                    _ => return None,
                })
            }
            _ => return None,
        })
    }

    /// What stands for the function or class `module.name`.
    pub(super) fn value(module: &str, name: &str) -> Result<Value, String> {
        if Global::is_dtype(module, name) {
            return Ok(Value::Plain);
        }
        Global::find(module, name).map(Value::Global).ok_or_else(|| {
            let whole = module.escape_debug().chain(['.']).chain(name.escape_debug());
            let name: String = whole.take(NAMED).collect();
            format!(
                "it wants to use `{name}`; only tensors and plain containers are read (where it comes from, save the \
                 network's state_dict() alone)"
            )
        })
    }

    /// Whether `torch.name` is a type of numbers, which is a plain value.
    fn is_dtype(module: &str, name: &str) -> bool {
        const NAMES: [&str; 13] = [
            "float64",
            "float32",
            "float16",
            "bfloat16",
            "int64",
            "int32",
            "int16",
            "int8",
            "uint8",
            "bool",
            "complex64",
            "complex128",
            "strided",
        ];
        module == "torch" && NAMES.contains(&name)
    }
}

/// The numbers of one or several tensors.
#[derive(Debug)]
pub(super) struct Storage {
    pub key: Box<str>,
    pub dtype: Dtype,
    pub numel: u64,
}

impl Storage {
    /// Its length in bytes, unless no file can be so long.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.numel.checked_mul(self.dtype.bytes() as u64)
    }
}

/// All objects of a file.
pub(super) struct Objects {
    values: Vec<Value>,
    storages: Vec<Storage>,
    by_key: HashMap<Box<str>, usize>,
    /// The object that all others belong to.
    pub root: Id,
}

impl Objects {
    pub(super) fn new() -> Self {
        Objects { values: vec![Value::Plain], storages: Vec::new(), by_key: HashMap::new(), root: PLAIN }
    }

    pub(super) fn push(&mut self, value: Value) -> Result<Id, String> {
        if self.values.len() >= MOST {
            return Err(format!("the file describes more than {MOST} objects"));
        }
        self.values.push(value);
        Ok(Id((self.values.len() - 1) as u32))
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    pub(super) fn storages(&self) -> &[Storage] {
        &self.storages
    }

    /// The place of the storage `key` in the list.
    pub(super) fn storage(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// The place of a storage in the list, where it is put unless it is there.
    pub(super) fn put_storage(&mut self, key: &str, dtype: Dtype, numel: u64) -> Result<usize, String> {
        if let Some(index) = self.storage(key) {
            let storage = &self.storages[index];
            if (storage.dtype, storage.numel) != (dtype, numel) {
                return Err(format!("the storage `{key}` is described in two ways"));
            }
            return Ok(index);
        }
        self.storages.push(Storage { key: key.into(), dtype, numel });
        self.by_key.insert(key.into(), self.storages.len() - 1);
        Ok(self.storages.len() - 1)
    }
}
