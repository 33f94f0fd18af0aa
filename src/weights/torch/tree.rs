//! The tensors of a tree of containers, each with its path as its name.

use super::objects::{Id, Objects, Value, View};
use crate::weights::Info;
use std::collections::BTreeMap;
use std::ops::Range;

/// The deepest nesting of containers. Objects may refer to themselves, so there must be an end.
const DEEPEST: usize = 64;
/// The most references followed: a few lists that hold each other twice are a tree without end.
const MOST: usize = 4 << 20;
/// The longest sum of names, and the longest part of one, in bytes.
const LONGEST: usize = 64 << 20;
const LONGEST_PART: usize = 1024;

/// All tensors below the root. `places` are those of the storages, `size` is that of the file in bytes.
pub(super) fn tensors(objects: &Objects, places: &[Range<u64>], size: u64) -> Result<BTreeMap<String, Info>, String> {
    let mut found = BTreeMap::new();
    let (mut steps, mut length) = (0, 0);
    let mut open = vec![(objects.root, String::new(), 0)];
    while let Some((id, path, depth)) = open.pop() {
        if depth > DEEPEST {
            return Err(format!("its containers are nested more than {DEEPEST} deep"));
        }
        let mut put = |id: Id, key: &str| {
            steps += 1;
            // Only what can lead to a tensor is followed.
            if matches!(objects.get(id), Value::List(_) | Value::Tuple(_) | Value::Dict(..) | Value::Tensor(_)) {
                if key.len() > LONGEST_PART || key.chars().any(char::is_control) {
                    return Err("the name of a tensor is too long, or holds control characters".to_owned());
                }
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                length += path.len();
                open.push((id, path, depth + 1));
            }
            match steps > MOST || length > LONGEST {
                true => Err("its containers refer to each other too often".to_owned()),
                false => Ok(()),
            }
        };
        match objects.get(id) {
            Value::List(items) | Value::Tuple(items) => {
                items.iter().enumerate().try_for_each(|(i, item)| put(*item, &i.to_string()))?;
            }
            Value::Dict(items, _) => items.iter().try_for_each(|(key, item)| match objects.get(*key) {
                Value::Text(key) => put(*item, key),
                Value::Int(key) => put(*item, &key.to_string()),
                _ => put(*item, "?"),
            })?,
            Value::Tensor(view) => {
                let name = if path.is_empty() { "tensor".to_owned() } else { path };
                let info = info(objects, view, places, size).map_err(|what| format!("`{name}` {what}"))?;
                if found.insert(name.clone(), info).is_some() {
                    return Err(format!("two tensors are called `{name}`"));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// A tensor, checked: it lies within its storage, and has no more elements than the file has bytes, which a stride of 0 would
/// allow.
fn info(objects: &Objects, view: &View, places: &[Range<u64>], size: u64) -> Result<Info, String> {
    let storage = &objects.storages()[view.storage];
    let shape = &view.shape;
    let numel = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n as u64 <= size);
    let numel = numel.ok_or_else(|| format!("has the extents {shape:?}, more than the file has room for"))?;
    let last = shape.iter().zip(&view.strides).try_fold(view.offset, |sum, (n, s)| {
        (n.saturating_sub(1) as u64).checked_mul(*s as u64).and_then(|far| sum.checked_add(far))
    });
    let inside = match numel {
        0 => view.offset <= storage.numel,
        _ => last.is_some_and(|last| last < storage.numel),
    };
    if !inside {
        let (strides, offset, numel) = (&view.strides, view.offset, storage.numel);
        return Err(format!(
            "has the extents {shape:?} with strides {strides:?} at {offset} of a storage of {numel} numbers"
        ));
    }
    // An axis of one element may have any stride.
    let mut step = 1;
    let row_major = shape.iter().zip(&view.strides).rev().all(|(n, s)| {
        let fits = *n == 1 || *s == step;
        step = step.saturating_mul(*n);
        fits
    });
    Ok(Info {
        dtype: storage.dtype,
        shape: shape.clone(),
        strides: (!row_major && numel > 0).then(|| view.strides.clone()),
        at: places[view.storage].start + view.offset * storage.dtype.bytes() as u64,
    })
}
