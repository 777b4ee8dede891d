//! JSON as other programs write it: a list of records, objects over several lines, NaN, and halves of surrogate pairs.

use crate::lines::{LONGEST_RECORD, LineSink, is_damage, unreadable};
use anyhow::{Context, Result};
use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::Path;

/// Parses `text` with `parse`. What Python's `json` reads and JSON forbids is read as well: `NaN`, `Infinity` and
/// `-Infinity` as null, and half of a surrogate pair, which is no character, as U+FFFD. Also returns whether there was such
/// a half.
///
/// # Errors
/// Those of `parse`.
pub(crate) fn lenient<T>(text: &str, parse: impl Fn(&str) -> serde_json::Result<T>) -> serde_json::Result<(T, bool)> {
    match parse(text) {
        Ok(value) => Ok((value, false)),
        Err(e) => match mended(text).map(|(mended, has_half)| (parse(&mended), has_half)) {
            Some((Ok(value), has_half)) => Ok((value, has_half)),
            // It is JSON, and holds something else than what is wanted.
            Some((Err(e), _)) if e.is_data() => Err(e),
            _ => Err(e),
        },
    }
}

/// `text` without what [`lenient`] replaces, and whether halves of surrogate pairs were among it; nothing when there is
/// nothing to replace.
fn mended(text: &str) -> Option<(String, bool)> {
    let (mut out, mut copied, mut has_half) = (String::new(), 0, false);
    let bytes = text.as_bytes();
    let (mut at, mut quoted) = (0, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (length, replacement) = match rest[0] {
            b'"' => {
                quoted = !quoted;
                (1, None)
            }
            b'\\' if quoted => escape(rest),
            b'N' | b'I' | b'-' if !quoted => not_finite(rest),
            _ => (1, None),
        };
        if let Some(replacement) = replacement {
            has_half |= quoted;
            out += &text[copied..at];
            out += replacement;
            copied = at + length;
        }
        at += length;
    }
    (copied > 0).then(|| (out + &text[copied..], has_half))
}

/// Bytes of the escape at the start of `rest`, and what takes its place when it is half of a surrogate pair.
fn escape(rest: &[u8]) -> (usize, Option<&'static str>) {
    let unit = |from: usize| {
        let digits = rest.get(from..from + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    match unit(0) {
        Some(0xD800..=0xDBFF) if matches!(unit(6), Some(0xDC00..=0xDFFF)) => (12, None),
        Some(0xD800..=0xDFFF) => (6, Some("\\ufffd")),
        _ => (rest.len().min(2), None),
    }
}

/// Length in bytes of the number at the start of `rest`, and its replacement when JSON has no such number.
fn not_finite(rest: &[u8]) -> (usize, Option<&'static str>) {
    let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word.as_bytes()));
    word.map_or((1, None), |word| (word.len(), Some("null")))
}

/// Whether `head`, the beginning of a file named as one record a line, shows that it is not: it is a list, or its first line
/// is no more than the brace that opens an object.
pub(crate) fn spans_lines(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    text.starts_with(b"[") || line.trim_ascii_end() == b"{"
}

/// Hands the values of `input` to `sink`, each with the line that it begins in: the elements of one list, or values that
/// follow each other, on lines of their own or not. `path` is its name in messages.
///
/// # Errors
/// Those of `sink`, and when the file cannot be read.
pub(crate) fn elements(path: &Path, mut input: impl BufRead, sink: LineSink) -> Result<ControlFlow<()>> {
    let mut scanner = Scanner::default();
    loop {
        let n = match input.fill_buf() {
            Ok([]) => return scanner.end(sink),
            Ok(bytes) => {
                for &byte in bytes {
                    if scanner.take(byte, sink)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                bytes.len()
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(e) if is_damage(&e) => return sink(scanner.line, Err(unreadable(&e))),
            Err(e) => {
                return Err(e).with_context(|| format!("{} line {} cannot be read", path.display(), scanner.line));
            }
        };
        input.consume(n);
    }
}

/// Where a list of all values is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    /// The list has not begun.
    None,
    Open,
    Closed,
}

/// Tells the values of a file apart, byte by byte.
struct Scanner {
    /// The line of the next byte.
    line: u64,
    list: List,
    value: Vec<u8>,
    /// The line in which it begins.
    first_line: u64,
    is_too_long: bool,
    /// Lists and objects that are open in it.
    depth: usize,
    is_quoted: bool,
    is_escaped: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            line: 1,
            list: List::None,
            value: Vec::new(),
            first_line: 1,
            is_too_long: false,
            depth: 0,
            is_quoted: false,
            is_escaped: false,
        }
    }
}

impl Scanner {
    fn take(&mut self, byte: u8, sink: LineSink) -> Result<ControlFlow<()>> {
        let line = self.line;
        self.line += u64::from(byte == b'\n');
        if self.value.is_empty() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' | 0xEF | 0xBB | 0xBF => {
                    return Ok(ControlFlow::Continue(()));
                }
                b'[' if self.list == List::None => {
                    self.list = List::Open;
                    return Ok(ControlFlow::Continue(()));
                }
                b']' if self.list == List::Open => {
                    self.list = List::Closed;
                    return Ok(ControlFlow::Continue(()));
                }
                _ => self.first_line = line,
            }
        }
        let ends_word = matches!(byte, b',' | b']' | b'\n');
        if self.depth == 0 && !self.is_quoted && !self.value.is_empty() && ends_word {
            let flow = self.give(sink)?; // a value without braces or brackets, which is no record
            if byte == b']' {
                self.list = List::Closed;
            }
            return Ok(flow);
        }
        self.push(byte);
        if self.is_quoted {
            self.is_quoted = self.is_escaped || byte != b'"';
            self.is_escaped = byte == b'\\' && !self.is_escaped;
            return Ok(ControlFlow::Continue(()));
        }
        match byte {
            b'"' => self.is_quoted = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return self.give(sink);
                }
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    fn push(&mut self, byte: u8) {
        if self.value.len() as u64 >= LONGEST_RECORD {
            self.is_too_long = true;
        } else {
            self.value.push(byte);
        }
    }

    fn give(&mut self, sink: LineSink) -> Result<ControlFlow<()>> {
        let value = match std::mem::take(&mut self.is_too_long) {
            true => Err("is longer than 64 MiB; write one record per line, or a list of records".to_owned()),
            false if self.list == List::Closed => Err("data after the end of the list of records".to_owned()),
            false => Ok(self.value.as_slice()),
        };
        let flow = sink(self.first_line, value)?;
        self.value.clear();
        Ok(flow)
    }

    fn end(mut self, sink: LineSink) -> Result<ControlFlow<()>> {
        if !self.value.is_empty() {
            return self.give(sink);
        }
        match self.list {
            List::Open => sink(self.line, Err("the list of records is not closed; the file may be cut off".to_owned())),
            List::None | List::Closed => Ok(ControlFlow::Continue(())),
        }
    }
}

/// Part of an error about a record without the column of the text, after the name of the column.
pub(crate) const NO_COLUMN: &str = "\" is missing; the record has ";

/// The error for a record that begins in `line` and is not valid JSON.
pub(crate) fn not_json(e: &serde_json::Error, line: u64) -> String {
    let text = e.to_string();
    let what = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
    // A missing column has no place in the record.
    if e.line() == 0 || e.is_data() && what.contains(NO_COLUMN) {
        return what.to_owned();
    }
    // serde counts the lines of the record alone.
    let place = match (e.line() as u64, e.column()) {
        (_, 0) => String::new(), // after a line break at the end
        (1, column) => format!(" (column {column})"),
        (own, column) => format!(" (line {} column {column})", line + own - 1),
    };
    let is_one_line = e.line() == 1 || (e.line() == 2 && e.column() == 0);
    in_plain_words(what, if is_one_line { "line" } else { "record" }) + &place
}

/// The message of serde_json about `part` (a line or a record) in plain words.
fn in_plain_words(what: &str, part: &str) -> String {
    match what {
        "EOF while parsing a value" => format!("the {part} ends where a value is expected"),
        "expected value" => "a value is expected".to_owned(),
        "expected ident" => "unknown word; use true, false, null or a string in quotes".to_owned(),
        "key must be a string" => "a key must be a string in quotes".to_owned(),
        "trailing characters" => "there is text after the end of the record".to_owned(),
        "trailing comma" => "there is a comma before the closing bracket".to_owned(),
        _ if what.starts_with("control character") => "a string contains an unescaped control character".to_owned(),
        _ => match what.strip_prefix("EOF while parsing ") {
            Some(inside) => format!("the {part} ends inside {inside}"),
            None => what.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn all(text: &str) -> Vec<(u64, Result<String, String>)> {
        let mut found = Vec::new();
        // A small buffer, so that values go over its end.
        let input = std::io::BufReader::with_capacity(7, text.as_bytes());
        let _ = elements(Path::new("f.json"), input, &mut |line, value| {
            found.push((line, value.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        found
    }

    fn good(line: u64, text: &str) -> (u64, Result<String, String>) {
        (line, Ok(text.to_owned()))
    }

    #[test]
    fn values_come_with_their_lines_whichever_way_they_are_laid_out() {
        let brackets = r#"{"a": "]}\"[{\\"}"#;
        for (text, expected) in [
            ("[]", vec![]),
            ("\u{feff}[\n {\"a\": 1},\n {\"a\":\n 2}\n]\n", vec![good(2, "{\"a\": 1}"), good(3, "{\"a\":\n 2}")]),
            ("{\"a\": 1}\n{\"a\": 2}\n", vec![good(1, "{\"a\": 1}"), good(2, "{\"a\": 2}")]),
            ("{\n\"a\": [1, {}]\n}\n{\n}", vec![good(1, "{\n\"a\": [1, {}]\n}"), good(4, "{\n}")]),
            (brackets, vec![good(1, brackets)]),
            ("[1, \"a,b\", [2]]", vec![good(1, "1"), good(1, "\"a,b\""), good(1, "[2]")]),
            (
                "[{}",
                vec![good(1, "{}"), (1, Err("the list of records is not closed; the file may be cut off".to_owned()))],
            ),
            ("[{}, {\"a", vec![good(1, "{}"), good(1, "{\"a")]),
            ("[{}]\n{}", vec![good(1, "{}"), (2, Err("data after the end of the list of records".to_owned()))]),
        ] {
            assert_eq!(all(text), expected, "{text}");
        }
    }

    #[test]
    fn a_list_or_a_lone_brace_spans_lines() {
        for text in ["[", "\n [{\"a\"", "{\n", "{\r\n \"a\"", "\u{feff}[\n"] {
            assert!(spans_lines(text.as_bytes()), "{text}");
        }
        for text in ["", "{\"a\": 1}\n", "{}", "x\n[\n"] {
            assert!(!spans_lines(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_python_reads_beyond_json_is_read() {
        let read = |text: &str| lenient(text, |text| serde_json::from_str::<Value>(text)).map_err(|e| e.to_string());
        for (text, expected, has_half) in [
            (r#"{"a": NaN, "b": -Infinity, "c": [Infinity]}"#, json!({"a": null, "b": null, "c": [null]}), false),
            (r#"{"a": "NaN \" -Infinity", "b": NaN}"#, json!({"a": "NaN \" -Infinity", "b": null}), false),
            (r#"["\ud83d\ude00", "\ud800", "x\udc00y"]"#, json!(["😀", "\u{fffd}", "x\u{fffd}y"]), true),
            (r#"["\ud800\u0041", "\\ud800"]"#, json!(["\u{fffd}A", "\\ud800"]), true),
        ] {
            assert_eq!(read(text), Ok((expected, has_half)), "{text}");
        }
        for text in ["{\"a\": Nan}", "{\"a\": \"\\ud8", "{NaN: 1}", "{\"a\": \"\\x\", \"b\": NaN}"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
