//! Texts that no compiler produces are refused with a line number.

use ptxsim::{Config, Machine};

const HEAD: &str = ".version 8.4\n.target sm_80\n.address_size 64\n";

fn refused(text: &str) -> String {
    let error = Machine::new(Config::default()).load(text).err();
    error.unwrap_or_else(|| panic!("this was accepted: {}", text.get(..200).unwrap_or(text))).to_string()
}

fn in_body(body: &str) -> String {
    refused(&format!("{HEAD}.visible .entry e() {{ .reg .b32 %r<4>; {body} ret; }}"))
}

#[test]
fn sizes_that_no_memory_holds_are_refused() {
    let huge = u64::MAX / 2;
    for text in [
        format!(".global .b64 x[{huge}];"),
        format!(".global .b8 x[{huge}][{huge}];"),
        ".global .b8 x[67108864]; .global .b8 y[1];".to_owned(),
        format!(".const .align {huge} .b8 x[4];"),
        ".global .align 3 .b8 x[4];".to_owned(),
        format!(".entry e(.param .b64 p[{huge}]) {{ ret; }}"),
        format!(".entry e(.param .align {huge} .b8 p[4]) {{ ret; }}"),
        format!(".entry e() {{ .shared .b64 s[{huge}]; ret; }}"),
        ".entry e() { .local .b8 a[67108864]; .local .b8 b[67108864]; ret; }".to_owned(),
        ".entry e() .maxntid 65536, 65536, 65536 { ret; }".to_owned(),
    ] {
        refused(&format!("{HEAD}{text}"));
    }
}

#[test]
fn registers_and_constants_fit_their_numbers() {
    for count in [u64::from(u32::MAX), 1 << 32, 65536, 65535] {
        in_body(&format!(".reg .b32 %x<{count}>;"));
    }
    // With the maximum number of registers there is no space for constants.
    let error = in_body(
        ".reg .b32 %x<65520>; mov.u32 %r1, 7; mov.u32 %r1, 8; mov.u32 %r1, 9; mov.u32 %r1, 10; mov.u32 %r1, 11; mov.u32 %r1, 12; mov.u32 %r1, 13; mov.u32 %r1, 14; mov.u32 %r1, 15; mov.u32 %r1, 16;",
    );
    assert!(error.contains("too many registers") || error.contains("65,000 registers"), "{error}");
}

#[test]
fn what_nests_without_end_is_refused() {
    for open in ["[", "{", "!"] {
        let error = in_body(&format!("mov.u32 %r1, {};", open.repeat(100_000)));
        assert!(error.contains("nest deeper"), "{error}");
    }
    let error = refused(&format!("{HEAD}.global .b8 x[] = {};", "{".repeat(100_000)));
    assert!(error.contains("nest deeper"), "{error}");
    let branches: String = (0..20_000).map(|i| format!("L{i}: @%p1 bra L{i};\n")).collect();
    let error = in_body(&format!(".reg .pred %p<2>; {branches}"));
    assert!(error.contains("branches"), "{error}");
}

#[test]
fn a_text_that_ends_in_the_middle_is_refused() {
    for body in [".loc 1 2 3", ".pragma", "@", "L:", "mov.u32 %r1, ", "/*", "\"", ".reg .b32 %x<", "{ {"] {
        refused(&format!("{HEAD}.visible .entry e() {{ {body}"));
    }
}
