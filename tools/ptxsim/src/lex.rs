//! From text to tokens.

use crate::ParseError;

/// A token and its line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub line: u32,
    pub kind: Kind,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A name, an opcode with its modifiers, a directive or a register.
    Word(String),
    /// An integer literal.
    Int(u64),
    /// A floating-point literal: its bits and whether it is an f64.
    Float(u64, bool),
    /// A literal in quotation marks.
    Text(String),
    /// Any other character.
    Mark(char),
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// All tokens of a file.
pub(crate) fn lex(src: &str) -> Result<Vec<Token>, ParseError> {
    let b = src.as_bytes();
    let (mut i, mut line) = (0, 1u32);
    let mut out = Vec::new();
    while i < b.len() {
        let c = b[i];
        if c == b'\n' {
            line += 1;
            i += 1;
        } else if c.is_ascii_whitespace() {
            i += 1;
        } else if b[i..].starts_with(b"//") {
            while i < b.len() && b[i] != b'\n' {
                i += 1;
            }
        } else if b[i..].starts_with(b"/*") {
            let start = line;
            i += 2;
            while !b[i..].starts_with(b"*/") {
                if i >= b.len() {
                    return Err(ParseError::new(start, "a comment does not end"));
                }
                line += u32::from(b[i] == b'\n');
                i += 1;
            }
            i += 2;
        } else if c == b'"' {
            let start = i + 1;
            i += 1;
            while i < b.len() && b[i] != b'"' {
                line += u32::from(b[i] == b'\n');
                i += 1;
            }
            out.push(Token { line, kind: Kind::Text(src[start..i.min(b.len())].to_string()) });
            i += 1;
        } else if is_word(c) {
            let start = i;
            // `::` joins components of a modifier (`shared::cta`, `L2::128B`); a single colon ends a label.
            while i < b.len()
                && (is_word(b[i]) || (b[i..].starts_with(b"::") && b.get(i + 2).is_some_and(|&x| is_word(x))))
            {
                i += if b[i] == b':' { 2 } else { 1 };
            }
            out.push(Token { line, kind: word(&src[start..i], line)? });
        } else {
            if !c.is_ascii() {
                return Err(ParseError::new(line, "a character outside ASCII"));
            }
            out.push(Token { line, kind: Kind::Mark(c as char) });
            i += 1;
        }
    }
    Ok(out)
}

/// A word that starts with a digit is a number.
fn word(w: &str, line: u32) -> Result<Kind, ParseError> {
    let bad = || ParseError::new(line, format!("`{w}` is not a number"));
    if !w.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(Kind::Word(w.to_string()));
    }
    let lower = w.to_ascii_lowercase();
    if let Some(h) = lower.strip_prefix("0f") {
        return Ok(Kind::Float(u32::from_str_radix(h, 16).map_err(|_| bad())? as u64, false));
    }
    if let Some(h) = lower.strip_prefix("0d") {
        return Ok(Kind::Float(u64::from_str_radix(h, 16).map_err(|_| bad())?, true));
    }
    let digits = lower.trim_end_matches('u');
    let value = if let Some(h) = digits.strip_prefix("0x") {
        u64::from_str_radix(h, 16)
    } else if let Some(h) = digits.strip_prefix("0b") {
        u64::from_str_radix(h, 2)
    } else if digits.contains('.') || digits.contains('e') {
        return Ok(Kind::Float(digits.parse::<f64>().map_err(|_| bad())?.to_bits(), true));
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    // A register count such as `71` is a number; a name like `8x8x4` only occurs after a dot.
    value.map(Kind::Int).map_err(|_| bad())
}
