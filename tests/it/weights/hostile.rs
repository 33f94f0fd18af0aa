//! Files that want to run something, to fill the memory, or lie about their sizes: one sentence each, and no panic.

use super::torch::fixture;
use crate::cli::fuzz_corpus::targets::archive;
use std::path::Path;
use tubelet::error::ErrorKind;
use tubelet::nn::nets::Naming;
use tubelet::nn::{Encoder, Net};
use tubelet::tensor::Tensor;
use tubelet::weights::{Dtype, ImageHead, Matching, Source, Start, load_weights, save_weights};

/// A PyTorch file of this pickle, with one storage of four numbers.
fn file(pickle: &[u8]) -> Vec<u8> {
    archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])])
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A whole number, at least one byte long.
fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

fn tuple(items: &[i64]) -> Vec<u8> {
    [&b"("[..], &items.iter().flat_map(|i| int(*i)).collect::<Vec<u8>>(), b"t"].concat()
}

/// The pickle of `{"w": tensor}`, a view of a storage of `numel` numbers.
fn tensor(numel: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let id =
        [&b"("[..], &text("storage"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), &int(numel), b"tQ"].concat();
    let view =
        [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &id, &int(offset), &tuple(shape), &tuple(strides)].concat();
    [&b"\x80\x02}"[..], &text("w"), &view, b"\x89}tRs."].concat()
}

/// The sentence with which a file of these bytes is refused; `None` if it is read.
fn refused(dir: &Path, bytes: &[u8]) -> Option<String> {
    let path = dir.join("file.pth");
    std::fs::write(&path, bytes).unwrap();
    let error = Source::open(&path).and_then(|mut source| {
        source.verify()?;
        let floats = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];
        let tensors = source.tensors().clone().into_iter().filter(|(_, info)| floats.contains(&info.dtype));
        tensors.map(|(name, _)| name).try_for_each(|name| source.f32(&name).map(drop))
    });
    let error = error.err()?;
    let sentence = error.to_string();
    assert!(matches!(error.kind(), ErrorKind::Format { .. } | ErrorKind::Data { .. }), "{error:?}");
    assert!(sentence.contains("file.pth") && !sentence.contains('\n') && sentence.len() < 600, "{sentence}");
    Some(sentence)
}

#[track_caller]
fn expect(dir: &Path, bytes: &[u8], words: &str) {
    let sentence = refused(dir, bytes).unwrap_or_else(|| panic!("it was read: {words}"));
    assert!(sentence.contains(words), "{words}: {sentence}");
}

#[test]
fn nothing_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let call = |name: &str| file(&[b"\x80\x02c", name.as_bytes(), b"\n", &text("touch x")[..], b"\x85R."].concat());
    expect(dir.path(), &call("os\nsystem"), "it wants to use `os.system`; only tensors and plain containers are read");
    for name in ["posix\nsystem", "builtins\neval", "torch.hub\nload", "torch\nload", "torch.storage\n_load_from_bytes"]
    {
        expect(dir.path(), &call(name), &format!("it wants to use `{}`", name.replace('\n', ".")));
    }
    // The same by the other instruction that names functions, and one whose name is not fit to print.
    let stacked = [b"\x80\x04", &text("os")[..], &text("system"), b"\x93."].concat();
    expect(dir.path(), &file(&stacked), "`os.system`");
    let long = [b"\x80\x02c\x1b[2J", "a".repeat(5000).as_bytes(), b"\nb\n."].concat();
    expect(dir.path(), &file(&long), "it wants to use `\\u{1b}[2Ja");
    // Attributes of what has none, and calls of what is no function.
    expect(dir.path(), &file(b"\x80\x02]}b."), "sets attributes");
    expect(dir.path(), &file(b"\x80\x02K\x01)R."), "calls what is no function");
    expect(dir.path(), &file(b"\x80\x02ctorch\nFloatStorage\n)R."), "in an unknown way");
}

#[test]
fn instructions_that_are_not_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (code, name) in [(b'i', "INST (0x69)"), (0x82, "EXT1 (0x82)"), (0x97, "NEXT_BUFFER (0x97)"), (0xff, "0xff")] {
        expect(dir.path(), &file(&[0x80, 2, code, b'.']), &format!("the pickle has the instruction {name}"));
    }
    expect(dir.path(), &file(b"\x80\x09."), "protocol 9");
    for (pickle, words) in [
        (&b"\x80\x02."[..], "takes more from its stack"),
        (b"\x80\x02(0.", "takes more from its stack"),
        (b"\x80\x02t.", "takes more from its stack"),
        (b"\x80\x02h\x05.", "asks for the object 5"),
        (b"\x80\x02K\x01K\x02a.", "appends to what is no list"),
        (b"\x80\x02]K\x01K\x02s.", "assigns items to what is no dictionary"),
        (b"\x80\x02}(K\x01u.", "keys without values"),
        (b"\x80\x02K\x01Q.", "is no storage"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "the pickle is cut"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "the pickle is cut"),
        (b"\x80\x02X\xff\xff\xff\x7f.", "the pickle is cut"),
        (b"\x80\x02\x8b\xff\xff\xff\xff.", "the pickle is cut"),
    ] {
        expect(dir.path(), &file(pickle), words);
    }
}

#[test]
fn sizes_are_checked_before_anything_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(refused(dir.path(), &file(&tensor(4, 0, &[2, 2], &[2, 1]))), None);
    let big = 1 << 60;
    for (pickle, words) in [
        (tensor(4, 0, &[big], &[1]), "more than the file has room for"),
        (tensor(4, 0, &[big, 16], &[0, 0]), "more than the file has room for"),
        (tensor(4, 0, &[1 << 40], &[0]), "more than the file has room for"),
        (tensor(4, 0, &[2, 2], &[big, 1]), "of a storage of 4 numbers"),
        (tensor(4, 0, &[2, 2], &[i64::MAX, i64::MAX]), "of a storage of 4 numbers"),
        (tensor(4, 3, &[2], &[1]), "at 3 of a storage of 4 numbers"),
        (tensor(4, i64::MAX, &[1], &[1]), "of a storage of 4 numbers"),
        (tensor(4, 5, &[0], &[1]), "of a storage of 4 numbers"),
        (tensor(4, -1, &[2], &[1]), "begins before its storage"),
        (tensor(4, 0, &[-2], &[1]), "has -2 among its extents"),
        (tensor(4, 3, &[2], &[-1]), "has -1 among its strides"),
        (tensor(4, 0, &[2, 2], &[1]), "2 extents and 1 strides"),
        (tensor(4, 0, &[1; 65], &[1; 65]), "65 axes"),
        (tensor(5, 0, &[2], &[1]), "the storage `0` has 5 numbers of type F32 in 16 bytes: too few"),
        (tensor(big, 0, &[2], &[1]), "too few"),
        (tensor(i64::MAX, 0, &[2], &[1]), "too few"),
        (tensor(-4, 0, &[2], &[1]), "the storage `0` has -4 numbers"),
    ] {
        expect(dir.path(), &file(&pickle), words);
    }
    expect(dir.path(), &archive(&[("a/data.pkl", &tensor(4, 0, &[4], &[1]))]), "the archive has no `a/data/0`");
}

#[test]
fn depth_and_sharing_have_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let n = 100_000;
    let nested = [b"\x80\x02", &vec![b']'; n][..], &vec![b'a'; n - 1], b"."].concat();
    expect(dir.path(), &file(&nested), "nested more than 64 deep");
    expect(dir.path(), &file(b"\x80\x02]q\x00h\x00a."), "nested more than 64 deep"); // a list in itself
    // Each list holds the one before twice: 2^60 paths.
    let mut doubled = b"\x80\x02]q\x00".to_vec();
    for i in 0..60u8 {
        doubled.extend([b']', b'q', i + 1, b'h', i, b'a', b'h', i, b'a']);
    }
    expect(dir.path(), &file(&[&doubled[..], b"."].concat()), "refer to each other too often");
    // A long list, copied by every call.
    let mut copied = b"\x80\x02c__builtin__\nset\nq\x00](".to_vec();
    copied.extend(vec![b'N'; n]);
    copied.extend(b"e\x85q\x01");
    copied.extend(b"h\x00h\x01R".repeat(1000));
    expect(dir.path(), &file(&[&copied[..], b"."].concat()), "remembers or copies more than any network needs");
    let marks = [b"\x80\x02", &vec![b'('; (4 << 20) + 1][..], b"N."].concat();
    expect(dir.path(), &file(&marks), "remembers or copies more than any network needs");
    let objects = [b"\x80\x02", &vec![b']'; 4 << 20][..], b"."].concat();
    expect(dir.path(), &file(&objects), "objects");
}

#[test]
fn archives_that_contradict_themselves_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pickle = tensor(4, 0, &[4], &[1]);
    let whole = file(&pickle);
    let twice = archive(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 16]), ("a/data/0", &[1; 16])]);
    expect(dir.path(), &twice, "the archive has two records `a/data/0`");
    let two = archive(&[("a/data.pkl", &pickle), ("b/data.pkl", &pickle)]);
    expect(dir.path(), &two, "two folders with a data.pkl");
    expect(dir.path(), &archive(&[("word/document.xml", b"x")]), "was not written by `torch.save`");
    expect(dir.path(), &archive(&[("a/data.pkl", &pickle), ("a/byteorder", b"big")]), "not little-endian");
    let list = whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    // In the list: the method, a flag, the lengths, the place; at the end: the number of records, the list's length and place.
    expect(dir.path(), &changed(list + 10, &[8]), "the record `a/data.pkl` is compressed");
    expect(dir.path(), &changed(list + 8, &[1]), "is encrypted");
    expect(dir.path(), &changed(list + 24, &[0xfe, 0xff, 0xff, 0xff]), "of 4294967294 bytes is not within the file");
    expect(dir.path(), &changed(list + 42, &[9]), "does not begin where the list says");
    expect(dir.path(), &changed(list + 42, &[0xff; 3]), "is not within the file");
    let end = whole.len() - 22;
    expect(dir.path(), &changed(end + 10, &[9]), "the list of the archive's records is damaged");
    expect(dir.path(), &changed(end + 12, &[0xff; 4]), "is not within the file");
    expect(dir.path(), &changed(end + 16, &[0xff; 4]), "is not within the file");
}

/// The same archive with every number in its field of 64 bits, as of a file of more than 4 GB.
fn wide(whole: &[u8]) -> Vec<u8> {
    let number = |at: usize| u64::from(u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()));
    let (end, mut at) = (whole.len() - 22, number(whole.len() - 6) as usize);
    let mut out = whole[..at].to_vec();
    let begin = out.len() as u64;
    while at < end {
        let name = &whole[at + 46..][..usize::from(whole[at + 28])];
        let mut entry = whole[at..at + 46].to_vec();
        let extra: Vec<u8> = [24, 20, 42].iter().flat_map(|field| number(at + field).to_le_bytes()).collect();
        for field in [20, 24, 42] {
            entry[field..field + 4].fill(0xff);
        }
        entry[30] = 28; // length of the extra field
        out.extend([&entry[..], name, &[1, 0, 24, 0], &extra].concat());
        at += 46 + name.len();
    }
    let (stop, count) = (out.len() as u64, u64::from(whole[end + 10]));
    out.extend([b"PK\x06\x06", &[0; 20][..]].concat());
    out.extend([count, count, stop - begin, begin].iter().flat_map(|v| v.to_le_bytes()));
    out.extend([b"PK\x06\x07", &[0; 4][..], &stop.to_le_bytes(), &[0; 4]].concat());
    out.extend([b"PK\x05\x06", &[0xff; 16][..], &[0; 2]].concat());
    out
}

#[test]
fn an_archive_with_wide_numbers_is_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.pth");
    let numbers: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let pickle = tensor(4, 1, &[3], &[1]);
    std::fs::write(&path, wide(&archive(&[("a/data.pkl", &pickle), ("a/data/0", &numbers)]))).unwrap();
    assert_eq!(Source::open(&path).unwrap().f32("w").unwrap(), [2.0, 3.0, 4.0]);
    let mut damaged = wide(&file(&pickle));
    let at = damaged.windows(4).position(|w| w == b"PK\x06\x06").unwrap();
    damaged[at + 40..at + 48].fill(0xff);
    expect(dir.path(), &damaged, "is not within the file");
}

/// Every beginning of the files, and every file with a byte changed: refused or read, never a panic. Each beginning is refused.
#[test]
fn files_cut_or_changed_at_any_byte_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["objects_old.pth", "objects_protocol4.pth", "objects_old_protocol4.pth", "no_sums.pth"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for length in 0..whole.len() {
            assert!(refused(dir.path(), &whole[..length]).is_some(), "{length} bytes of {name}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            let _ = refused(dir.path(), &changed);
        }
    }
}

/// A safetensors file of this header, with room for two numbers.
fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat()
}

#[test]
fn a_header_with_two_entries_of_one_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entry = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    assert_eq!(refused(dir.path(), &safetensors(&format!(r#"{{"w":{entry}}}"#))), None);
    for (twice, words) in [
        (format!(r#"{{"w":{entry},"w":{entry}}}"#), "two entries `w`"),
        (format!(r#"{{"w":{entry},"\u0077":{entry}}}"#), "two entries `w`"),
        (format!(r#"{{"\u001b":{entry},"\u001b":{entry}}}"#), r"two entries `\u{1b}`"),
        (format!(r#"{{"__metadata__":{{"a":"1","a":"2"}},"w":{entry}}}"#), "two entries `a`"),
        (format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},"w":{entry}}}"#), "two entries `__metadata__`"),
    ] {
        expect(dir.path(), &safetensors(&twice), words);
    }
}

#[test]
fn a_negative_variance_is_refused_wherever_it_becomes_a_parameter() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file.pth");
    let net = Net { naming: Naming::SlowFast { pathway: 0 }, ..Net::motion_r2d50(16).unwrap() };
    for name in ["s1.pathway0_stem.bn.running_var", "head.projection.1.running_var"] {
        let mut theirs = Encoder::normalised(&net, 6, 4, 1).unwrap().1;
        let id = theirs.find(name).unwrap();
        let shape = theirs[id].value.shape();
        theirs[id].value = Tensor::from_f32(shape, &vec![-0.5; shape.len()]).unwrap();
        save_weights(&file, &[("", &theirs)]).unwrap();
        let words = format!("file.pth: `{name}` holds the variance -0.5, and none is below 0");
        let mut ours = Encoder::normalised(&net, 6, 4, 2).unwrap().1;
        let error = load_weights(&file, &mut [("", &mut ours)], &Matching::EXACT).unwrap_err().to_string();
        assert!(error.ends_with(&words), "{error}");
        let mut start = Start::find(Source::open(&file).unwrap(), &net, &ours, ImageHead::Dropped, None).unwrap();
        assert!(start.take_head(&net).is_some());
        let error = start.fill(&mut ours).unwrap_err().to_string();
        assert!(error.ends_with(&words), "{error}");
    }
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = vec![0; 600];
    tar[257..262].copy_from_slice(b"ustar");
    expect(dir.path(), &tar, "a tar archive, as PyTorch wrote before 0.1.10");
    expect(dir.path(), b"\x80\x02}q\x00(X\x05\x00\x00\x00blobsq\x01}u.", "a pickle that `torch.save` did not write");
    let path = dir.path().join("text.pth");
    std::fs::write(&path, "weights of a network\n").unwrap();
    let error = load_weights(&path, &mut [], &Matching::EXACT).unwrap_err().to_string();
    assert!(error.contains("cut, or neither safetensors nor of PyTorch"), "{error}");
}
