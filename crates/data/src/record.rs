//! A record as it was read: its fields, its file and line, and the errors that it may have.

use crate::file_form::Format;
use crate::skipped::SkippedCount;
use serde_json::{Map, Value};
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// The file and line of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPlace {
    /// The file.
    pub file: PathBuf,
    /// Its line, or in Parquet its row, from 1.
    pub line: u64,
}

impl fmt::Display for RecordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if matches!(Format::of(&self.file), Some(Format::Parquet)) { "row" } else { "line" };
        write!(f, "{} {unit} {}", self.file.display(), self.line)
    }
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it stands.
    pub place: RecordPlace,
    /// Its fields, in the file's order.
    pub fields: Map<String, Value>,
}

/// What is wrong with one record. A sink that returns it has the record left out, or the reading ended, as the user
/// said.
#[derive(Debug)]
pub struct BadRecord {
    pub(crate) what: String,
    pub(crate) kind: SkippedCount,
}

impl BadRecord {
    /// A record that is not what it should be: `what` is wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), kind: |skipped| &mut skipped.malformed }
    }

    /// A record whose text is nothing but white space.
    pub fn empty(what: impl Into<String>) -> Self {
        Self { what: what.into(), kind: |skipped| &mut skipped.empty }
    }

    /// The same error, attributed to a part of the record.
    pub(crate) fn within(mut self, part: &str) -> Self {
        self.what = format!("{part}: {}", self.what);
        self
    }

    /// A record with these `fields`, which has no `key`.
    pub(crate) fn lacking(key: &str, fields: &Map<String, Value>) -> Self {
        Self::new(format!("\"{key}\" is missing; the record has {}", names(fields)))
    }

    pub(crate) fn not_utf8(what: impl Into<String>) -> Self {
        Self { what: what.into(), kind: |skipped| &mut skipped.invalid_utf8 }
    }
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for BadRecord {}

impl Row {
    /// The text under `key`.
    ///
    /// # Errors
    /// When there is no such field, or it is no text.
    pub fn text(&self, key: &str) -> Result<&str, BadRecord> {
        match self.field(key)? {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(key, other, "a string")),
        }
    }

    /// The text under `key`; nothing when there is no such field, or it is null.
    ///
    /// # Errors
    /// When it is no text.
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>, BadRecord> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.text(key).map(Some),
        }
    }

    /// The name of a class under `key`: text, a whole number, true or false.
    ///
    /// # Errors
    /// When there is no such field, or it is none of these.
    pub fn label(&self, key: &str) -> Result<String, BadRecord> {
        match self.field(key)? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(n) if !n.is_f64() => Ok(n.to_string()),
            Value::Bool(b) => Ok(b.to_string()),
            other => Err(wrong_type(key, other, "a string or a whole number")),
        }
    }

    /// The number under `key`, which may be written as a string, as in CSV.
    ///
    /// # Errors
    /// When there is no such field, or it is no finite number.
    pub fn number(&self, key: &str) -> Result<f64, BadRecord> {
        let value = self.field(key)?;
        let number = match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        number.filter(|n| n.is_finite()).ok_or_else(|| wrong_type(key, value, "a number"))
    }

    fn field(&self, key: &str) -> Result<&Value, BadRecord> {
        self.fields.get(key).ok_or_else(|| self.lacks(key))
    }

    /// The error for a record that has no `key`.
    pub(crate) fn lacks(&self, key: &str) -> BadRecord {
        BadRecord::lacking(key, &self.fields)
    }

    /// The names of its fields, to be shown.
    pub fn keys(&self) -> String {
        names(&self.fields)
    }
}

/// The names of `fields`, to be shown.
pub(crate) fn names(fields: &Map<String, Value>) -> String {
    const SHOWN: usize = 20;
    if fields.is_empty() {
        return "nothing".to_owned();
    }
    let shown: Vec<String> = fields.keys().take(SHOWN).map(|key| shortened(key)).collect();
    match fields.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The beginning of a name or a text, for messages.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn wrong_type(key: &str, value: &Value, expected: &str) -> BadRecord {
    let shown = match value {
        Value::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        Value::Null => "null (or NaN)".to_owned(), // which is read as null
        other => kind_of(other).to_owned(),
    };
    BadRecord::new(format!("\"{key}\" is {shown}, not {expected}"))
}

/// The name of a value's type, for messages.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Takes the fields of the record in a line (or row) of a file, or what is wrong with it; says whether to go on.
pub(crate) type TakeRecord<'a> =
    &'a mut dyn FnMut(u64, Result<Map<String, Value>, BadRecord>) -> anyhow::Result<ControlFlow<()>>;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(fields: Value) -> Row {
        let Value::Object(fields) = fields else { panic!("{fields} is no object") };
        Row { place: RecordPlace { file: "f.jsonl".into(), line: 3 }, fields }
    }

    #[test]
    fn fields_of_another_type_are_named() {
        let row = row(json!({"s": "x", "n": 2, "f": 0.5, "b": true, "l": [], "z": null, "d": " 1.5 "}));
        assert_eq!((row.text("s").unwrap(), row.optional_text("z").unwrap()), ("x", None));
        assert_eq!(row.optional_text("none").unwrap(), None);
        assert_eq!(["s", "n", "b"].map(|key| row.label(key).unwrap()), ["x", "2", "true"]);
        assert_eq!(["n", "f", "d"].map(|key| row.number(key).unwrap()), [2.0, 0.5, 1.5]);
        for (found, expected) in [
            (row.text("t").map(str::to_owned), "\"t\" is missing; the record has s, n, f, b, l, z, d"),
            (row.text("n").map(str::to_owned), "\"n\" is a number, not a string"),
            (row.optional_text("l").map(|_| String::new()), "\"l\" is a list, not a string"),
            (row.label("f"), "\"f\" is a number, not a string or a whole number"),
            (row.number("s").map(|n| n.to_string()), "\"s\" is \"x\", not a number"),
            (row.number("z").map(|n| n.to_string()), "\"z\" is null (or NaN), not a number"),
        ] {
            assert_eq!(found.unwrap_err().to_string(), expected);
        }
    }
}
