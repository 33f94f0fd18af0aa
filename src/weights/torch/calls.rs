//! What the functions and classes that a pickle names would make of their arguments.

use super::objects::{Dict, Global, Id, Value, View};
use super::pickle::{Machine, Step};

/// The most axes of a tensor, PyTorch's own limit.
const AXES: usize = 64;
/// The longest key of a storage.
const LONGEST_KEY: usize = 256;

impl Machine<'_> {
    /// Puts what `function` would return for `arguments` on the stack.
    pub(super) fn call(&mut self, function: Id, arguments: Id) -> Step<()> {
        let (Value::Global(global), Value::Tuple(arguments)) =
            (self.objects.get(function), self.objects.get(arguments))
        else {
            return Err("the pickle calls what is no function".into());
        };
        let (global, count) = (*global, arguments.len());
        let more = arguments.first().map_or(0, |id| match self.objects.get(*id) {
            Value::List(items) | Value::Tuple(items) => items.len(),
            Value::Dict(items, _) => items.len(),
            Value::Tensor(view) => view.shape.len(),
            _ => 0,
        });
        let arguments = arguments.clone();
        self.copies(count.saturating_add(more))?;
        let value = |i: usize| arguments.get(i).map(|id| self.objects.get(*id));
        let dict = |kind| match value(0) {
            None => Ok(Value::Dict(Vec::new(), kind)),
            Some(Value::Dict(items, _)) => Ok(Value::Dict(items.clone(), kind)),
            // Of pairs, as Python 2 writes them.
            Some(Value::List(pairs)) => {
                let pair = |id: &Id| match self.objects.get(*id) {
                    Value::List(pair) | Value::Tuple(pair) => <[Id; 2]>::try_from(pair.as_slice()).ok(),
                    _ => None,
                };
                let items: Option<Vec<_>> = pairs.iter().map(|id| pair(id).map(|[k, v]| (k, v))).collect();
                items
                    .map(|items| Value::Dict(items, kind))
                    .ok_or_else(|| "a dictionary is made of what is no pair".to_owned())
            }
            Some(_) => Err("a dictionary is made of what is none".into()),
        };
        let made = match global {
            Global::OrderedDict => dict(Dict::Ordered)?,
            Global::Counter => dict(Dict::Plain)?,
            Global::Namespace if arguments.is_empty() => Value::Dict(Vec::new(), Dict::Namespace),
            Global::Set | Global::Size => match value(0) {
                None => Value::Tuple(Vec::new()),
                Some(Value::List(items) | Value::Tuple(items)) => Value::Tuple(items.clone()),
                Some(_) => return Err("a set or a shape is made of what is no list".into()),
            },
            Global::Parameter => match value(0) {
                Some(Value::Tensor(view)) => Value::Tensor(view.clone()),
                _ => return Err("a parameter is made of what is no tensor".into()),
            },
            Global::Tensor => {
                let view = self.view(&arguments)?;
                self.copies(view.shape.len())?;
                Value::Tensor(view)
            }
            Global::NumpyType => Value::Global(Global::NumpyType),
            Global::Harmless => Value::Plain,
            Global::Namespace | Global::StorageOf(_) => {
                return Err("the pickle makes a storage or a namespace in an unknown way".into());
            }
        };
        self.push(made)
    }

    /// The tensor of the arguments storage, offset, extents, strides.
    fn view(&self, arguments: &[Id]) -> Step<View> {
        let value = |i: usize| arguments.get(i).map(|id: &Id| self.objects.get(*id));
        let (Some(&Value::Storage(storage, begin)), Some(&Value::Int(offset))) = (value(0), value(1)) else {
            return Err("a tensor has no storage, or no offset in it".into());
        };
        let numbers = |i: usize, what: &str| {
            let Some(Value::Tuple(items) | Value::List(items)) = value(i) else {
                return Err(format!("a tensor has no {what}"));
            };
            if items.len() > AXES {
                return Err(format!("a tensor has {} axes; at most {AXES} are read", items.len()));
            }
            let number = |id: &Id| match self.objects.get(*id) {
                Value::Int(n) => usize::try_from(*n).map_err(|_| format!("a tensor has {n} among its {what}")),
                _ => Err(format!("a tensor has something else than whole numbers as its {what}")),
            };
            items.iter().map(number).collect::<Step<Vec<usize>>>()
        };
        let (shape, strides) = (numbers(2, "extents")?, numbers(3, "strides")?);
        if shape.len() != strides.len() {
            return Err(format!("a tensor has {} extents and {} strides", shape.len(), strides.len()));
        }
        let offset = u64::try_from(offset).ok().and_then(|offset| begin.checked_add(offset));
        let offset = offset.ok_or("a tensor begins before its storage, or beyond any")?;
        Ok(View { storage, offset, shape, strides })
    }

    /// Gives the object on top of the stack its attributes.
    pub(super) fn build(&mut self, state: Id) -> Step<()> {
        let object = self.peek()?;
        let attributes = match self.objects.get(state) {
            Value::Dict(items, _) => items.clone(),
            _ => Vec::new(),
        };
        self.copies(attributes.len())?;
        match self.objects.get_mut(object) {
            Value::Dict(items, Dict::Namespace) => items.extend(attributes),
            Value::Dict(_, Dict::Ordered) | Value::Global(Global::NumpyType) => {}
            _ => return Err("the pickle sets attributes of an object that has none".into()),
        }
        Ok(())
    }

    /// Puts the storage that a persistent id describes on the stack.
    pub(super) fn storage(&mut self, id: Id) -> Step<()> {
        let Value::Tuple(parts) = self.objects.get(id) else {
            return Err("an object outside of the pickle is no storage".into());
        };
        let value = |i: usize| parts.get(i).map(|id: &Id| self.objects.get(*id));
        let is_storage = matches!(value(0), Some(Value::Text(kind)) if &**kind == "storage");
        if !is_storage {
            return Err(
                "it refers to something outside of it that is no storage: only weights are read, no whole modules"
                    .into(),
            );
        }
        let (Some(Value::Global(Global::StorageOf(dtype))), Some(Value::Text(key)), Some(Value::Int(numel))) =
            (value(1), value(2), value(4))
        else {
            return Err("a storage is not described by its type, key and length".into());
        };
        if key.len() > LONGEST_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("the key of a storage is no short word".into());
        }
        let numel = u64::try_from(*numel).map_err(|_| format!("the storage `{key}` has {numel} numbers"))?;
        // Old files have storages that are a part of another: its key, where it begins, its length.
        let begin = match value(5) {
            Some(Value::Tuple(part)) => match part.get(1).map(|id| self.objects.get(*id)) {
                Some(Value::Int(begin)) => u64::try_from(*begin).ok(),
                _ => None,
            },
            _ => Some(0),
        };
        let begin = begin.ok_or_else(|| format!("a part of the storage `{key}` has no beginning"))?;
        let (key, dtype) = (key.clone(), *dtype);
        let index = self.objects.put_storage(&key, dtype, numel)?;
        self.push(Value::Storage(index, begin))
    }
}
