//! Tables: CSV and TSV → records.

use crate::lines::{LONGEST_RECORD, is_damage, not_utf8, unreadable};
use crate::record::{BadRecord, RecordPlace, TakeRecord, shortened};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::io::{BufRead, Read};
use std::path::Path;

/// Reads a header and the records under it from `input`, and hands them to `take` until it breaks; `file` is its name in
/// messages.
///
/// # Errors
/// When the table cannot be read or its header is not sound, and those of `take`.
pub(crate) fn read_table(
    file: &Path,
    input: impl BufRead,
    delimiter: u8,
    quotes: bool,
    take: TakeRecord,
) -> Result<()> {
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
            Err(csv::ErrorKind::Io(e)) if is_damage(&e) => {
                return take(next_line + unread_lines, Err(BadRecord::new(unreadable(&e)))).map(|_| ());
            }
            Err(csv::ErrorKind::Io(e)) => {
                let place = RecordPlace { file: file.to_owned(), line: next_line + unread_lines };
                return Err(e).with_context(|| format!("{place} cannot be read"));
            }
            Err(e) => bail!("{} line {} cannot be read: {e:?}", file.display(), next_line + unread_lines),
        }
        let breaks = record.iter().flatten().filter(|&&b| b == b'\n').count() as u64;
        let end = reader.position().line();
        let line = end.saturating_sub(breaks + 1).max(next_line) + unread_lines;
        next_line = end;
        let cut = cuts.borrow().front().filter(|cut: &&CutRecord| cut.end == end).map(|cut| cut.lines);
        if let Some(lines) = cut {
            cuts.borrow_mut().pop_front();
            unread_lines += lines;
            ensure!(header.is_some(), "{}: the header is longer than 64 MiB", file.display());
            if take(line, Err(BadRecord::new("is longer than 64 MiB; is a quotation mark missing?")))?.is_break() {
                return Ok(());
            }
            continue;
        }
        if record.len() == 1 && record.get(0).is_some_and(|field| matches!(field, b"" | b"\r")) {
            continue;
        }
        match &header {
            Some(header) => {
                let fields = header.fields(&record, breaks > 0);
                if take(line, fields)?.is_break() {
                    return Ok(());
                }
            }
            None => {
                let context = || format!("{}", file.display());
                header = Some(Header::of(&record, delimiter).with_context(context)?);
            }
        }
    }
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
                "the header contains {:?} twice; the first line of a table must have the column names",
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
            let hint = if broken { "; is a quotation mark missing?" } else { "" };
            return Err(BadRecord::new(format!(
                "has {} fields, but the header has {}{hint}",
                record.len(),
                self.names.len()
            )));
        }
        let text = |(name, field): (&String, &[u8])| match std::str::from_utf8(field) {
            Ok(text) => Ok((name.clone(), Value::from(text))),
            Err(e) => Err(BadRecord::not_utf8(format!("{} in the field \"{name}\"", not_utf8(&e)))),
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
        ('\t', "its fields are separated by tabs; rename it to end in .tsv"),
        (',', "its fields are separated by commas; rename it to end in .csv"),
    ];
    match ways.into_iter().find(|(sign, _)| *sign as u8 != delimiter && name.contains(*sign)) {
        Some((_, way)) => bail!("the header is a single column, {:?}: {way}", shortened(name)),
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
