//! Records from files: JSON, JSONL, CSV, TSV and Parquet → rows that know their file and line.
//!
//! The ending of a file's name gives its format: `.jsonl` or `.ndjson` has an object a line; `.json` a list of objects, or objects one
//! after the other, and so has a `.jsonl` that begins like that; `.csv` a header and fields that may be quoted (RFC 4180);
//! `.tsv` a header and fields between tabs, in which a quote is a quote, as in GLUE's files; each of them may end in `.gz` or
//! `.zst`. `.parquet` is read a row group after the other. Fields of CSV and TSV are text.

use crate::disk;
use crate::json::{elements, lenient, spans_lines};
use crate::progress::{Progress, Unit};
use crate::quiet::quietly;
use crate::remarks::{HALVES, Remarks};
use crate::source::{self, OnBadRecord, OpenedFile};
use crate::text::{self, LONGEST_RECORD, SkippedCount};
use anyhow::{Context, Result, anyhow, bail, ensure};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

pub use crate::text::Skipped;

/// Where a record stands.
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
    what: String,
    kind: SkippedCount,
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

    /// The same, said of a part of the record.
    pub(crate) fn within(mut self, part: &str) -> Self {
        self.what = format!("{part}: {}", self.what);
        self
    }

    /// A record with these `fields`, which has no `key`.
    pub(crate) fn lacking(key: &str, fields: &Map<String, Value>) -> Self {
        Self::new(format!("no \"{key}\"; the record has {}", names(fields)))
    }

    fn not_utf8(what: impl Into<String>) -> Self {
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
            other => Err(wrong_type(key, other, "text")),
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
            other => Err(wrong_type(key, other, "text or a whole number")),
        }
    }

    /// The number under `key`, which text may stand for, as in CSV.
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
fn shortened(text: &str) -> String {
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

/// What a value is, in words.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// How a file holds records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Jsonl,
    Csv,
    Tsv,
    Parquet,
}

impl Format {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let (ending, compression) = source::ending(path);
        match ending.as_str() {
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "parquet" if compression.is_none() => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Files of records, for messages.
const ACCEPTED: &str = "use .jsonl, .json, .csv or .tsv (also with .gz or .zst after it), or .parquet";

/// Hands the records of the file `path` (or of stdin: `-.jsonl`, `-.csv`, `-.tsv`) to `sink`, one at a time. One that
/// cannot be read, or that `sink` calls [`BadRecord`], is left out and counted, or ends the reading, as `on_bad` says.
///
/// # Errors
/// When the file cannot be read or its name does not say what it holds, at a bad record unless these are left out, and
/// with any other error of `sink`.
pub fn read_rows(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<Skipped> {
    let piped = match source::SourceLocation::of(&path.to_string_lossy()) {
        Ok(source::SourceLocation::Stdin(ending)) => Some(PathBuf::from(format!("stdin{ending}"))),
        _ => None,
    };
    let name = piped.as_deref().unwrap_or(path);
    ensure!(piped.is_some() || !path.is_dir(), "{} is a folder; name one file of records: {ACCEPTED}", path.display());
    let Some(format) = Format::of(name) else {
        bail!("{} does not say by its name how it holds records: {ACCEPTED}", name.display());
    };
    ensure!(piped.is_none() || format != Format::Parquet, "a parquet file cannot be read from stdin; name the file");
    let total = if piped.is_some() { None } else { path.metadata().ok().map(|m| m.len()) };
    let task = progress.task(&format!("reading {}", name.display()), total, Unit::Bytes);
    let count = |n| task.advance(n);
    let mut remarks = Remarks::default();
    let skipped = match piped {
        Some(_) => {
            let opened = source::decompressed(std::io::stdin().lock(), source::ending(name).1)?;
            RecordReader::new(name, on_bad, &mut remarks, sink).read(format, opened)?
        }
        None => read_file(path, format, &[], on_bad, &count, &mut remarks, sink)?,
    };
    drop(task);
    remarks.warn(progress);
    Ok(skipped)
}

/// Reads the records of a file in the given `format`. `count` gets the number of bytes read, and warnings are added to
/// `remarks`. Where the format allows it, only the columns `wanted` are read, if the file has one of them.
pub(crate) fn read_file(
    path: &Path,
    format: Format,
    wanted: &[&str],
    on_bad: OnBadRecord,
    count: &dyn Fn(u64),
    remarks: &mut Remarks,
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<Skipped> {
    let reader = RecordReader::new(path, on_bad, remarks, sink);
    match format {
        Format::Parquet => reader.parquet(wanted, count),
        _ => reader.read(format, source::open(path, count)?),
    }
}

/// Hands the lines of `input` that are not blank to `sink`, each with its place; `path` is its name. One that cannot be read,
/// or that `sink` calls [`BadRecord`], is left out and counted, or ends the reading, as `on_bad` says.
///
/// # Errors
/// As [`read_rows`].
pub(crate) fn read_lines(
    path: &Path,
    on_bad: OnBadRecord,
    input: impl BufRead,
    sink: &mut dyn FnMut(RecordPlace, &str) -> Result<()>,
) -> Result<Skipped> {
    let mut skipped = Skipped::default();
    text::lines(path, input, &mut |line, bytes| {
        let place = RecordPlace { file: path.to_owned(), line };
        let text = bytes.map_err(BadRecord::new).and_then(utf8);
        match text.map_err(anyhow::Error::from).and_then(|text| sink(place.clone(), text)) {
            Ok(()) => Ok(()),
            Err(e) => {
                let bad = e.downcast::<BadRecord>()?;
                skipped.leave_out(on_bad, &place, &bad.what, bad.kind)
            }
        }
    })?;
    Ok(skipped)
}

struct RecordReader<'a> {
    file: &'a Path,
    on_bad: OnBadRecord,
    remarks: &'a mut Remarks,
    sink: &'a mut dyn FnMut(Row) -> Result<()>,
    skipped: Skipped,
}

impl<'a> RecordReader<'a> {
    fn new(
        file: &'a Path,
        on_bad: OnBadRecord,
        remarks: &'a mut Remarks,
        sink: &'a mut dyn FnMut(Row) -> Result<()>,
    ) -> Self {
        Self { file, on_bad, remarks, sink, skipped: Skipped::default() }
    }

    fn take(&mut self, line: u64, fields: Result<Map<String, Value>, BadRecord>) -> Result<()> {
        let place = RecordPlace { file: self.file.to_owned(), line };
        let bad = match fields {
            Ok(fields) => match (self.sink)(Row { place: place.clone(), fields }) {
                Ok(()) => return Ok(()),
                Err(e) => e.downcast::<BadRecord>()?,
            },
            Err(bad) => bad,
        };
        self.skipped.leave_out(self.on_bad, &place, &bad.what, bad.kind)
    }

    /// Reads all but Parquet.
    fn read(mut self, format: Format, opened: OpenedFile) -> Result<Skipped> {
        let input = opened.text(self.file, self.remarks).with_context(|| self.file.display().to_string())?;
        match format {
            Format::Csv => self.table(input, b',', true)?,
            Format::Tsv => self.table(input, b'\t', false)?,
            Format::Jsonl | Format::Json | Format::Parquet => self.json(format, input)?,
        }
        Ok(self.skipped)
    }

    fn json(&mut self, format: Format, mut input: impl BufRead) -> Result<()> {
        let file = self.file;
        // A failure to read is said where it is met below.
        if format == Format::Jsonl && !input.fill_buf().is_ok_and(spans_lines) {
            return text::lines(file, input, &mut |line, bytes| self.object(line, bytes));
        }
        // Until there is a second object, a first that is in no list may be a whole file around its records.
        let mut is_alone = input.fill_buf().is_ok_and(|head| !head.trim_ascii_start().starts_with(b"["));
        let mut first: Option<(u64, Vec<u8>)> = None;
        elements(file, input, &mut |line, bytes| {
            if let Some((line, bytes)) = first.take() {
                self.object(line, Ok(&bytes))?;
            }
            match bytes {
                Ok(bytes) if std::mem::take(&mut is_alone) => first = Some((line, bytes.to_vec())),
                bytes => self.object(line, bytes)?,
            }
            Ok(())
        })?;
        let Some((line, bytes)) = first else { return Ok(()) };
        refuse_wrapped(file, &bytes)?;
        self.object(line, Ok(&bytes))
    }

    fn object(&mut self, line: u64, bytes: Result<&[u8], String>) -> Result<()> {
        let fields = bytes.map_err(BadRecord::new).and_then(|bytes| {
            let (fields, has_half) = lenient(utf8(bytes)?, |text| serde_json::from_str(text)).map_err(|e| {
                BadRecord::new(
                    text::not_json(&e, line).replace("expected a map", "expected an object with named fields"),
                )
            })?;
            if has_half {
                self.remarks.add(HALVES, self.file, 1);
            }
            Ok(fields)
        });
        self.take(line, fields)
    }

    /// Reads a header and the records under it.
    fn table(&mut self, input: impl BufRead, delimiter: u8, quotes: bool) -> Result<()> {
        let cuts = RefCell::new(VecDeque::new());
        // The last record ends as all others do; where that is one line break too many, it is a blank line.
        let input = Bounded::new(input.chain(b"\n".as_slice()), delimiter, quotes, &cuts);
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .quoting(quotes)
            .has_headers(false)
            .flexible(true) // the count of fields is looked at here
            .terminator(csv::Terminator::Any(b'\n')) // with another, the library's line numbers are not the file's
            .from_reader(input);
        let mut record = csv::ByteRecord::new();
        let mut header: Option<Header> = None;
        // The next line of what the library reads, and lines of records that were too long for it to read.
        let (mut next_line, mut unread_lines) = (1, 0);
        loop {
            match reader.read_byte_record(&mut record).map_err(csv::Error::into_kind) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(csv::ErrorKind::Io(e)) if text::is_damage(&e) => {
                    return self.take(next_line + unread_lines, Err(BadRecord::new(text::unreadable(&e))));
                }
                Err(csv::ErrorKind::Io(e)) => {
                    let place = RecordPlace { file: self.file.to_owned(), line: next_line + unread_lines };
                    return Err(e).with_context(|| format!("{place} cannot be read"));
                }
                Err(e) => bail!("{} line {} cannot be read: {e:?}", self.file.display(), next_line + unread_lines),
            }
            let breaks = record.iter().flatten().filter(|&&b| b == b'\n').count() as u64;
            let end = reader.position().line();
            let line = end.saturating_sub(breaks + 1).max(next_line) + unread_lines;
            next_line = end;
            let cut = cuts.borrow().front().filter(|cut: &&CutRecord| cut.end == end).map(|cut| cut.lines);
            if let Some(lines) = cut {
                cuts.borrow_mut().pop_front();
                unread_lines += lines;
                ensure!(header.is_some(), "{}: the header is longer than 64 MiB", self.file.display());
                self.take(line, Err(BadRecord::new("is longer than 64 MiB; is a quote not closed?")))?;
                continue;
            }
            if record.len() == 1 && record.get(0).is_some_and(|field| matches!(field, b"" | b"\r")) {
                continue;
            }
            match &header {
                Some(header) => {
                    let fields = header.fields(&record, breaks > 0);
                    self.take(line, fields)?;
                }
                None => {
                    let context = || format!("{}", self.file.display());
                    header = Some(Header::of(&record, delimiter).with_context(context)?);
                }
            }
        }
    }

    fn parquet(mut self, wanted: &[&str], count: &dyn Fn(u64)) -> Result<Skipped> {
        let path = self.file;
        let damaged = || format!("{} is not a parquet file that can be read here", path.display());
        let file = disk::open(path)?;
        let mut bytes = file.metadata().with_context(damaged)?.len();
        let reader = caught(|| SerializedFileReader::new(file)).with_context(damaged)?;
        let columns = columns(&reader, wanted);
        let (mut first, mut line) = (0, 0);
        for index in 0..reader.num_row_groups() {
            if let Err(e) = self.row_group(&reader, index, columns.clone(), &mut line)? {
                self.take(line + 1, Err(BadRecord::new(format!("the rest of its row group cannot be read: {e:#}"))))?;
            }
            let group = reader.metadata().row_group(index);
            first += group.num_rows().max(0) as u64;
            line = first;
            let size = (group.compressed_size().max(0) as u64).min(bytes);
            bytes -= size;
            count(size);
        }
        count(bytes); // what is not in the groups
        Ok(self.skipped)
    }

    /// Takes the rows of a group after row `line`, up to the first that cannot be read, of which it says why.
    fn row_group(
        &mut self,
        reader: &SerializedFileReader<File>,
        index: usize,
        columns: Option<Type>,
        line: &mut u64,
    ) -> Result<Result<()>> {
        let group = match caught(|| reader.get_row_group(index)) {
            Ok(group) => group,
            Err(e) => return Ok(Err(e)),
        };
        let mut rows = match caught(|| group.get_row_iter(columns)) {
            Ok(rows) => rows,
            Err(e) => return Ok(Err(e)),
        };
        loop {
            let row = match caught(|| rows.next().transpose()) {
                Ok(None) => return Ok(Ok(())),
                Ok(Some(row)) => row,
                Err(e) => return Ok(Err(e)),
            };
            *line += 1;
            let fields = row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(name, field)?))).collect();
            self.take(*line, fields)?;
        }
    }
}

/// The columns `wanted` of a Parquet file, if it has one of them; else all are read.
fn columns(reader: &SerializedFileReader<File>, wanted: &[&str]) -> Option<Type> {
    let schema = reader.metadata().file_metadata().schema();
    let fields: Vec<_> = schema.get_fields().iter().filter(|field| wanted.contains(&field.name())).cloned().collect();
    if fields.is_empty() {
        return None;
    }
    Type::group_type_builder(schema.name()).with_fields(fields).build().ok()
}

/// A field of a Parquet file. Bytes that are not said to be text are text nevertheless where they are UTF-8.
fn value(name: &str, field: &Field) -> Result<Value, BadRecord> {
    let Field::Bytes(bytes) = field else { return Ok(field.to_json_value()) };
    match std::str::from_utf8(bytes.data()) {
        Ok(text) => Ok(Value::from(text)),
        Err(e) => Err(BadRecord::not_utf8(format!("{} in the field \"{name}\"", text::not_utf8(&e)))),
    }
}

/// Refuses a file that is one object around the records, as `datasets` reads it with a `field`.
///
/// # Errors
/// When `bytes`, the only value of the file, are that.
fn refuse_wrapped(file: &Path, bytes: &[u8]) -> Result<()> {
    const WRAPPERS: [&str; 9] =
        ["data", "train", "test", "validation", "examples", "rows", "records", "items", "samples"];
    let Ok(Value::Object(fields)) = serde_json::from_slice(bytes) else { return Ok(()) };
    let is_list = |name: &&str| fields.get(*name).is_some_and(|list| list.get(0).is_some_and(Value::is_object));
    match WRAPPERS.into_iter().find(is_list) {
        Some(name) => bail!(
            "{0} is one object, in which \"{name}\" lists the records; gptkit reads the list alone: jq -c '.{name}[]' {0} > \
             records.jsonl",
            file.display()
        ),
        None => Ok(()),
    }
}

/// What `read` gives, where parquet's own reader does not fail, or panic, as it does on some damaged files.
fn caught<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let read = quietly(read).map_err(|_| anyhow!("it is damaged"))?;
    read.map_err(|e| anyhow!(e.to_string().chars().take(200).collect::<String>())) // it may quote the whole text
}

fn utf8(bytes: &[u8]) -> Result<&str, BadRecord> {
    std::str::from_utf8(bytes).map_err(|e| BadRecord::not_utf8(text::not_utf8(&e)))
}

/// The first line of a table.
struct Header {
    names: Vec<String>,
    /// Whether lines end as Windows ends them.
    carriage_returns: bool,
}

impl Header {
    fn of(record: &csv::ByteRecord, delimiter: u8) -> Result<Self> {
        let (mut names, mut known) = (Vec::new(), HashSet::new());
        let carriage_returns = record.iter().next_back().is_some_and(|field| field.ends_with(b"\r"));
        for field in fields(record, carriage_returns) {
            let name = std::str::from_utf8(field).context("the header is not UTF-8")?;
            ensure!(
                known.insert(name),
                "the header names {:?} twice; a table begins with its columns' names",
                shortened(name)
            );
            names.push(name.to_owned());
        }
        if let [only] = &*names {
            refuse_other_delimiters(only, delimiter)?;
        }
        Ok(Self { names, carriage_returns })
    }

    fn fields(&self, record: &csv::ByteRecord, broken: bool) -> Result<Map<String, Value>, BadRecord> {
        if record.len() != self.names.len() {
            let hint = if broken { "; is a quote not closed?" } else { "" };
            return Err(BadRecord::new(format!("has {} fields, the header {}{hint}", record.len(), self.names.len())));
        }
        let text = |(name, field): (&String, &[u8])| match std::str::from_utf8(field) {
            Ok(text) => Ok((name.clone(), Value::from(text))),
            Err(e) => Err(BadRecord::not_utf8(format!("{} in the field \"{name}\"", text::not_utf8(&e)))),
        };
        self.names.iter().zip(fields(record, self.carriage_returns)).map(text).collect()
    }
}

/// Refuses a header of one column that is several between other signs.
fn refuse_other_delimiters(name: &str, delimiter: u8) -> Result<()> {
    let ways = [
        (
            ';',
            "its fields are separated by \";\"; save it with commas (Python: pandas.read_csv(..., sep=\";\").to_csv(...))",
        ),
        ('\t', "its fields are separated by tabs; give it a name that ends in .tsv"),
        (',', "its fields are separated by commas; give it a name that ends in .csv"),
    ];
    match ways.into_iter().find(|(sign, _)| *sign as u8 != delimiter && name.contains(*sign)) {
        Some((_, way)) => bail!("the header is one column, {:?}: {way}", shortened(name)),
        None => Ok(()),
    }
}

/// The fields of a record, the last without the carriage return of a line's end.
fn fields(record: &csv::ByteRecord, carriage_returns: bool) -> impl Iterator<Item = &[u8]> {
    record.iter().enumerate().map(move |(i, field)| {
        let last = carriage_returns && i + 1 == record.len();
        if last { field.strip_suffix(b"\r").unwrap_or(field) } else { field }
    })
}

/// A table in which no record is longer than [`LONGEST_RECORD`]: of one that is, the rest is left out up to its end, so that
/// it does not fill the memory, and the next record is read as it is.
struct Bounded<'a, R> {
    inner: R,
    delimiter: u8,
    quotes: bool,
    at: At,
    /// Bytes of the record so far.
    len: u64,
    /// Line breaks that were handed over, and line breaks of this record that were not.
    given_lines: u64,
    unread_lines: u64,
    cuts: &'a RefCell<VecDeque<CutRecord>>,
}

/// A record of which the rest was left out.
struct CutRecord {
    /// Line after it, of those that were handed over.
    end: u64,
    /// Line breaks in what was left out.
    lines: u64,
}

/// Where in a record a byte is (RFC 4180).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    FieldStart,
    Field,
    Quoted,
    /// After a quote in a quoted field, which ends the field or is the first of two.
    Quote,
}

impl At {
    /// Where the next byte is after `byte`.
    fn after(self, byte: u8, delimiter: u8, quotes: bool) -> Self {
        match (self, byte) {
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) => Self::Quoted,
            (Self::Quote, b'"') => Self::Quoted,
            (Self::FieldStart, b'"') if quotes => Self::Quoted,
            (_, byte) if byte == delimiter || byte == b'\n' => Self::FieldStart,
            _ => Self::Field,
        }
    }
}

impl<'a, R: BufRead> Bounded<'a, R> {
    fn new(inner: R, delimiter: u8, quotes: bool, cuts: &'a RefCell<VecDeque<CutRecord>>) -> Self {
        Self { inner, delimiter, quotes, at: At::FieldStart, len: 0, given_lines: 0, unread_lines: 0, cuts }
    }
}

impl<R: BufRead> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // Where a record is cut, all of it may have to be passed over before there is a byte to give.
        loop {
            let Self { inner, delimiter, quotes, at, len, given_lines, unread_lines, cuts } = self;
            let bytes = inner.fill_buf()?;
            let is_end = bytes.is_empty();
            let (mut n, mut used) = (0, 0);
            for &byte in bytes {
                if n + 2 > buffer.len() {
                    break;
                }
                used += 1;
                let was_quoted = *at == At::Quoted;
                *at = at.after(byte, *delimiter, *quotes);
                let ends = byte == b'\n' && !was_quoted;
                *len += 1;
                let too_long = *len > LONGEST_RECORD;
                if too_long && !ends {
                    if *len == LONGEST_RECORD + 1 && was_quoted {
                        buffer[n] = b'"'; // closes the field
                        n += 1;
                    }
                    *unread_lines += u64::from(byte == b'\n');
                    continue;
                }
                buffer[n] = byte;
                n += 1;
                *given_lines += u64::from(byte == b'\n');
                if ends {
                    if too_long {
                        cuts.borrow_mut().push_back(CutRecord { end: *given_lines + 1, lines: *unread_lines });
                    }
                    (*len, *unread_lines) = (0, 0);
                }
            }
            inner.consume(used);
            if is_end && self.len > LONGEST_RECORD {
                self.cuts.borrow_mut().push_back(CutRecord { end: self.given_lines + 1, lines: self.unread_lines });
                self.len = 0;
            }
            if n > 0 || is_end {
                return Ok(n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{ProgressTask, Silent};
    use proptest::prelude::*;
    use serde_json::json;
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The lines and fields of a file of this name and these bytes.
    fn read(name: &str, bytes: &[u8], on_bad: OnBadRecord) -> Result<(Vec<(u64, Value)>, Skipped)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        crate::disk::write(&path, bytes).unwrap();
        let mut rows = Vec::new();
        let skipped = read_rows(&path, on_bad, &Silent, &mut |row| {
            rows.push((row.place.line, Value::Object(row.fields)));
            Ok(())
        })?;
        Ok((rows, skipped))
    }

    fn good(name: &str, text: &str) -> Vec<(u64, Value)> {
        read(name, text.as_bytes(), OnBadRecord::Fail).unwrap().0
    }

    fn fails(name: &str, bytes: &[u8]) -> String {
        format!("{:#}", read(name, bytes, OnBadRecord::Fail).unwrap_err())
    }

    fn row(fields: Value) -> Row {
        let Value::Object(fields) = fields else { panic!("{fields} is no object") };
        Row { place: RecordPlace { file: "f.jsonl".into(), line: 3 }, fields }
    }

    #[test]
    fn a_table_of_many_columns_is_read_and_shown_in_short() {
        let names: Vec<String> = (0..200_000).map(|i| format!("c{i}")).collect();
        let rows = good("a.csv", &format!("{}\n{}\n", names.join(","), names.join(",")));
        let Value::Object(fields) = rows[0].1.clone() else { panic!("no object") };
        assert_eq!((rows.len(), fields.len()), (1, 200_000));
        let row = Row { place: RecordPlace { file: "a.csv".into(), line: 2 }, fields };
        let message = row.text("x").unwrap_err().to_string();
        assert!(message.ends_with("c18, c19 and 199980 more") && message.len() < 200, "{message}");
    }

    #[test]
    fn objects_come_with_their_lines() {
        let rows = good("f.jsonl", "\u{feff}{\"b\": 1, \"a\": null}\n\n{\"t\": [\"é\"]}");
        assert_eq!(rows, [(1, json!({"b": 1, "a": null})), (3, json!({"t": ["é"]}))]);
    }

    #[test]
    fn a_list_of_objects_is_read_whatever_it_is_called() {
        let expected = [(2, json!({"a": 1, "b": [{"c": "]"}]})), (4, json!({"a": 2}))];
        for name in ["f.json", "f.jsonl", "f.ndjson"] {
            for text in [
                "[\n{\"a\": 1, \"b\": [{\"c\": \"]\"}]},\n\n{\"a\": 2}]\n",
                "\n{\"a\": 1, \"b\": [{\"c\": \"]\"}]}\n\n{\"a\": 2}",
            ] {
                assert_eq!(good(name, text), expected, "{name}: {text}");
            }
            let pretty = good(name, "{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n");
            assert_eq!(pretty, [(1, json!({"a": 1})), (4, json!({"a": 2}))], "{name}");
        }
        assert_eq!(good("f.json", "[]"), []);
    }

    #[test]
    fn what_python_writes_beyond_json_is_read_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl");
        let text = "{\"a\": \"x\", \"b\": NaN}\n{\"a\": \"\\ud800\"}\n{\"a\": \"\\ud83d\\ude00\"}\n";
        crate::disk::write(&path, text.as_bytes()).unwrap();
        let (heard, mut rows) = (crate::testing::Heard::default(), Vec::new());
        read_rows(&path, OnBadRecord::Fail, &heard, &mut |row| {
            rows.push(Value::Object(row.fields));
            Ok(())
        })
        .unwrap();
        assert_eq!(rows, [json!({"a": "x", "b": null}), json!({"a": "\u{fffd}"}), json!({"a": "😀"})]);
        let [said] = &heard.warnings()[..] else { panic!() };
        assert!(said.ends_with(
            "f.jsonl: half of a surrogate pair, which is no character, read as U+FFFD; records that have it: 1"
        ));
    }

    #[test]
    fn utf_16_is_read_whatever_holds_the_records() {
        let table = "\u{feff}a\tb\n1\té\n";
        let lines = "\u{feff}{\"a\": \"1\"}\n\u{feff}{\"a\": \"é\"}\n";
        for (name, text, rows) in [("f.tsv", table, 1), ("f.jsonl", lines, 2), ("f.json", "[{\"a\": \"é\"}]", 1)] {
            for order in [u16::to_le_bytes, u16::to_be_bytes] {
                let bytes: Vec<u8> = text.encode_utf16().flat_map(order).collect();
                let (found, _) = read(name, &bytes, OnBadRecord::Fail).unwrap();
                assert_eq!(found, good(name, text), "{name}");
                assert_eq!(found.len(), rows, "{name}");
            }
        }
    }

    #[test]
    fn fields_of_csv_are_text_with_the_line_of_their_record() {
        let text = "\u{feff}id,text\n1,plain\n2,\"a \"\"b\"\",\nc\"\n\n3,é";
        let expected = [
            (2, json!({"id": "1", "text": "plain"})),
            (3, json!({"id": "2", "text": "a \"b\",\nc"})),
            (6, json!({"id": "3", "text": "é"})),
        ];
        assert_eq!(good("f.csv", text), expected);
        assert_eq!(good("f.csv", &format!("{text}\n")), expected);
        let windows = good("f.csv", &text.replace('\n', "\r\n"));
        assert_eq!(windows[1], (3, json!({"id": "2", "text": "a \"b\",\r\nc"})));
        assert_eq!((windows[0].clone(), windows[2].clone()), (expected[0].clone(), expected[2].clone()));
    }

    #[test]
    fn quotes_in_tsv_are_text() {
        let rows = good("f.tsv", "s\tlabel\n\"so it goes\t1\nno \" here\t0\n");
        assert_eq!(
            rows,
            [(2, json!({"s": "\"so it goes", "label": "1"})), (3, json!({"s": "no \" here", "label": "0"}))]
        );
    }

    proptest! {
        #[test]
        fn any_table_comes_back(table in prop::collection::vec(prop::collection::vec("[a\",\n é]{0,6}", 2), 0..6)) {
            let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
            let mut text = "x,y\n".to_owned();
            let mut expected = Vec::new();
            for fields in &table {
                expected.push((text.matches('\n').count() as u64 + 1, json!({"x": fields[0], "y": fields[1]})));
                text += &format!("{},{}\n", quoted(&fields[0]), quoted(&fields[1]));
            }
            prop_assert_eq!(good("f.csv", &text), expected);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (name, bytes, expected) in [
            ("f.jsonl", b"{\"a\": 1}\n{\"a\": \n".as_slice(), "f.jsonl line 2: EOF while parsing a value"),
            ("f.jsonl", b"\n[1]", "f.jsonl line 2: invalid type: integer `1`, expected an object with named fields"),
            ("f.jsonl", b"{\"a\": 1}\n[1]", "f.jsonl line 2: invalid type: sequence, expected an object with named"),
            ("f.json", b"[{\"a\": 1},\n{\"a\":\n1 2}]", "f.json line 2: expected `,` or `}` at line 3 column 3"),
            ("f.json", b"[{\"a\": 1},\n{\"a\": 2}", "f.json line 2: the list of records does not end: the file is cut"),
            ("f.ndjson", b"{\"a\": \"\xff\"}", "f.ndjson line 1: byte 8 is not UTF-8"),
            ("f.csv", b"a,b\n1,2\n\n1,2,3\n", "f.csv line 4: has 3 fields, the header 2"),
            ("f.csv", b"a,b\r\n\r\n1\r\n", "f.csv line 3: has 1 fields, the header 2"),
            ("f.csv", b"a,b\n\"1\n3,4\n", "f.csv line 2: has 1 fields, the header 2; is a quote not closed?"),
            ("f.csv", b"a,b\n1,2\n1,x\xff\n", "f.csv line 3: byte 2 is not UTF-8 in the field \"b\""),
            ("f.tsv", b"a\tb\n1\n", "f.tsv line 2: has 1 fields, the header 2"),
        ] {
            let message = fails(name, bytes);
            assert!(message.contains(expected), "{message}\nexpected {expected}");
            assert!(message.contains("--on-bad-record skip"), "{message}");
        }
        for (name, bytes, expected) in [
            ("f.csv", b"a,b,a\n1,2,3\n".as_slice(), "f.csv: the header names \"a\" twice"),
            ("f.csv", b"a,\xff\n1,2\n", "f.csv: the header is not UTF-8"),
            ("f.xml", b"[]", "f.xml does not say by its name how it holds records: use .jsonl, .json, .csv or .tsv"),
            ("f.csv", b"a;b\n1;2\n", "f.csv: the header is one column, \"a;b\": its fields are separated by \";\""),
            ("f.csv", b"a\tb\n1\t2\n", "give it a name that ends in .tsv"),
            ("f.tsv", b"a,b\n1,2\n", "give it a name that ends in .csv"),
            ("f.jsonl", b"PK\x03\x04 and so on", "f.jsonl: it is a ZIP archive"),
            (
                "f.json",
                b"{\"version\": 1, \"data\": [{\"a\": 1}]}",
                "in which \"data\" lists the records; gptkit reads the list",
            ),
            ("f.parquet.gz", b"", "does not say by its name"),
            ("f.parquet", b"PAR1 no more", "f.parquet is not a parquet file"),
        ] {
            let message = fails(name, bytes);
            assert!(message.contains(expected), "{message}\nexpected {expected}");
        }
        let folder = tempfile::tempdir().unwrap();
        let error =
            |path: &Path| format!("{:#}", read_rows(path, OnBadRecord::Fail, &Silent, &mut |_| Ok(())).unwrap_err());
        assert!(error(folder.path()).contains("is a folder; name one file of records"));
        assert!(error(&folder.path().join("none.csv")).contains("none.csv cannot be read"));
        assert!(error(Path::new("-.parquet")).contains("cannot be read from stdin"));
        assert!(error(Path::new("-.txt")).contains("stdin.txt does not say"));
    }

    #[test]
    fn skipped_records_are_counted_by_kind_and_the_rest_is_read() {
        let bytes = b"a,b\n1,2\n1\nx,\xff\n3,4\n";
        let (rows, skipped) = read("f.csv", bytes, OnBadRecord::Skip).unwrap();
        assert_eq!(rows, [(2, json!({"a": "1", "b": "2"})), (5, json!({"a": "3", "b": "4"}))]);
        assert_eq!((skipped.malformed, skipped.invalid_utf8, skipped.empty), (1, 1, 0));
        assert!(skipped.first.unwrap().ends_with("f.csv line 3: has 1 fields, the header 2"));
    }

    #[test]
    fn a_sink_may_call_a_record_bad_and_other_errors_of_it_end_the_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl");
        crate::disk::write(&path, b"{\"a\": \"x\"}\n{\"b\": 1}\n{\"a\": \" \"}\n").unwrap();
        let mut seen = 0;
        let mut sink = |row: Row| -> Result<()> {
            if row.text("a")?.trim().is_empty() {
                return Err(BadRecord::empty("\"a\" is empty").into());
            }
            seen += 1;
            Ok(())
        };
        let skipped = read_rows(&path, OnBadRecord::Skip, &Silent, &mut sink).unwrap();
        assert_eq!((skipped.malformed, skipped.empty), (1, 1));
        let message = read_rows(&path, OnBadRecord::Fail, &Silent, &mut sink).unwrap_err().to_string();
        assert!(message.contains("f.jsonl line 2: no \"a\"; the record has b; --on-bad-record skip"), "{message}");
        assert_eq!(seen, 2);
        let full = read_rows(&path, OnBadRecord::Skip, &Silent, &mut |_| bail!("the disk is full"));
        assert_eq!(full.unwrap_err().to_string(), "the disk is full");
    }

    #[test]
    fn a_record_without_end_does_not_fill_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.csv.zst");
        crate::disk::write_with(&path, |aside| {
            let mut writer = zstd::Encoder::new(File::options().create(true).append(true).open(aside)?, 1)?;
            writer.write_all(b"a,b\n1,2\n\"")?;
            for _ in 0..80 {
                writer.write_all(&vec![b'x'; 1 << 20])?;
            }
            writer.finish()?;
            Ok(())
        })
        .unwrap();
        let message = format!("{:#}", read_rows(&path, OnBadRecord::Fail, &Silent, &mut |_| Ok(())).unwrap_err());
        assert!(message.contains("f.csv.zst line 3: is longer than 64 MiB; is a quote not closed?"), "{message}");
        let skipped = read_rows(&path, OnBadRecord::Skip, &Silent, &mut |_| Ok(())).unwrap();
        assert_eq!(skipped.malformed, 1);
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// The contents of a file before a damaged member, in every kind of file.
    #[test]
    fn a_damaged_member_is_left_out_with_what_follows_it() {
        for (name, header, line) in
            [("f.jsonl.gz", "", "{\"a\": \"1\"}\n"), ("f.csv.gz", "a\n", "1\n"), ("f.tsv.gz", "a\n", "1\n")]
        {
            let mut second = gzip(line.repeat(500).as_bytes());
            let middle = second.len() / 2;
            second[middle] ^= 0xff;
            let damaged = [gzip((header.to_owned() + &line.repeat(3)).as_bytes()), second].concat();
            let message = fails(name, &damaged);
            assert!(message.contains("cannot be read") && message.contains("--on-bad-record skip"), "{message}");
            let (rows, skipped) = read(name, &damaged, OnBadRecord::Skip).unwrap();
            assert!(rows.len() >= 3 && skipped.malformed == 1, "{name}: {} rows, {skipped:?}", rows.len());
        }
    }

    #[test]
    fn a_record_that_is_too_long_is_left_out_and_the_next_is_read() {
        let long = "x".repeat((LONGEST_RECORD as usize) + 5);
        for (name, text, expected) in [
            ("f.jsonl", format!("{{\"a\": \"1\"}}\n{{\"a\": \"{long}\"}}\n{{\"a\": \"2\"}}\n"), [1, 3]),
            ("f.csv", format!("a\n1\n\"{long}\n\"\"\n\"\n2\n"), [2, 6]),
            ("f.tsv", format!("a\n1\n\"{long}\n2\n"), [2, 4]),
        ] {
            let (rows, skipped) = read(name, text.as_bytes(), OnBadRecord::Skip).unwrap();
            let expected: Vec<(u64, Value)> =
                expected.into_iter().zip(["1", "2"]).map(|(line, a)| (line, json!({ "a": a }))).collect();
            assert_eq!(rows, expected, "{name}");
            assert_eq!(skipped.malformed, 1, "{name}");
            assert!(skipped.first.unwrap().contains("longer than 64 MiB"), "{name}");
        }
    }

    /// Counts what a task is told.
    #[derive(Default)]
    struct Counting {
        total: AtomicU64,
        done: Arc<AtomicU64>,
    }

    impl Progress for Counting {
        fn note(&self, _: &str) {}
        fn warn(&self, _: &str) {}
        fn task(&self, _: &str, total: Option<u64>, unit: Unit) -> Box<dyn ProgressTask> {
            assert_eq!(unit, Unit::Bytes);
            self.total.store(total.unwrap(), Ordering::Relaxed);
            Box::new(Told(Arc::clone(&self.done)))
        }
    }

    struct Told(Arc<AtomicU64>);

    impl ProgressTask for Told {
        fn resume_at(&self, _: u64) {}
        fn advance(&self, n: u64) {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
        fn show(&self, _: &str) {}
    }

    #[test]
    fn progress_is_told_of_all_bytes() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/records/chat-zstd.parquet");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&b"{\"a\": 1}\n".repeat(1000)).unwrap();
        crate::disk::write(&path, &encoder.finish().unwrap()).unwrap();
        for (path, n) in [(path, 1000), (golden, 3)] {
            let (progress, mut rows) = (Counting::default(), 0);
            let mut count = |_| {
                rows += 1;
                Ok(())
            };
            read_rows(&path, OnBadRecord::Fail, &progress, &mut count).unwrap();
            let (total, done) = (progress.total.into_inner(), progress.done.load(Ordering::Relaxed));
            assert!(total > 0 && total == done, "{}: {done} of {total}", path.display());
            assert_eq!(rows, n);
        }
    }

    /// Reference: pyarrow's writer, by scripts/golden_chat.py; two row groups.
    #[test]
    fn parquet_of_the_usual_compressions_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/records");
        for compression in ["none", "snappy", "zstd", "gzip"] {
            let path = folder.join(format!("chat-{compression}.parquet"));
            let mut rows = Vec::new();
            read_rows(&path, OnBadRecord::Fail, &Silent, &mut |row| {
                rows.push((row.place.to_string(), Value::Object(row.fields)));
                Ok(())
            })
            .unwrap();
            let said = |role: &str, content: &str| json!({"role": role, "content": content});
            let first = [said("user", "Hi é"), said("assistant", "Hello.\nYou?")];
            let second = [said("system", "Be brief."), said("user", "2+2?"), said("assistant", "4")];
            let third = [said("user", "Go"), said("assistant", "Gone")];
            let place = |n: u64| format!("{} row {n}", path.display());
            assert_eq!(
                rows,
                [
                    (place(1), json!({"messages": first, "score": 1.5, "id": 7, "note": null})),
                    (place(2), json!({"messages": second, "score": -2.0, "id": 8, "note": "x"})),
                    (place(3), json!({"messages": third, "score": 0.0, "id": -9, "note": ""})),
                ],
                "{compression}"
            );
        }
    }

    #[test]
    fn a_cut_parquet_file_is_refused() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/records/chat-zstd.parquet");
        let bytes = std::fs::read(golden).unwrap();
        for n in [0, 4, bytes.len() / 2, bytes.len() - 1] {
            assert!(fails("f.parquet", &bytes[..n]).contains("f.parquet is not a parquet file that can be read here"));
        }
    }

    /// Parquet's reader panics on these.
    #[test]
    fn a_damaged_parquet_file_ends_in_an_error() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/records/chat-none.parquet");
        let bytes = std::fs::read(golden).unwrap();
        let expected = "f.parquet row 1: the rest of its row group cannot be read: it is damaged";
        for at in [100, 1082] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let message = fails("f.parquet", &bytes);
            assert!(message.contains(expected), "{message}");
        }
        // The second of two row groups is whole.
        let mut damaged = bytes.clone();
        damaged[100] ^= 1;
        let (rows, skipped) = read("f.parquet", &damaged, OnBadRecord::Skip).unwrap();
        assert_eq!((rows.iter().map(|(line, _)| *line).collect::<Vec<_>>(), skipped.malformed), (vec![3], 1));
    }

    #[test]
    fn fields_of_another_type_are_named() {
        let row = row(json!({"s": "x", "n": 2, "f": 0.5, "b": true, "l": [], "z": null, "d": " 1.5 "}));
        assert_eq!((row.text("s").unwrap(), row.optional_text("z").unwrap()), ("x", None));
        assert_eq!(row.optional_text("none").unwrap(), None);
        assert_eq!(["s", "n", "b"].map(|key| row.label(key).unwrap()), ["x", "2", "true"]);
        assert_eq!(["n", "f", "d"].map(|key| row.number(key).unwrap()), [2.0, 0.5, 1.5]);
        for (found, expected) in [
            (row.text("t").map(str::to_owned), "no \"t\"; the record has s, n, f, b, l, z, d"),
            (row.text("n").map(str::to_owned), "\"n\" is a number, not text"),
            (row.optional_text("l").map(|_| String::new()), "\"l\" is a list, not text"),
            (row.label("f"), "\"f\" is a number, not text or a whole number"),
            (row.number("s").map(|n| n.to_string()), "\"s\" is \"x\", not a number"),
            (row.number("z").map(|n| n.to_string()), "\"z\" is null (or NaN), not a number"),
        ] {
            assert_eq!(found.unwrap_err().to_string(), expected);
        }
    }
}
