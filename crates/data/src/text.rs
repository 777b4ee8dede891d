//! Bytes → documents, in pieces of bounded size, with the place of everything that is wrong.

use crate::file_form::{FileForm, Format};
use crate::json::{NO_COLUMN, elements, lenient, not_json, spans_lines};
use crate::lines::{BYTE_ORDER_MARK, is_damage, lines, not_utf8, unreadable};
use crate::open::open;
use crate::record::{BadRecord, Row};
use crate::remarks::{HALVES, NULS, Remarks};
use crate::rows::read_file;
use crate::skipped::{Skipped, SkippedCount};
use crate::source::DataConfig;
use anyhow::{Context, Result};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::io::{BufRead, Read};
use std::ops::ControlFlow;
use std::path::Path;

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextPiece {
    /// UTF-8, not empty unless the document is.
    pub text: String,
    /// Whether the document begins with it.
    pub first: bool,
    /// Whether the document ends with it.
    pub last: bool,
}

/// Where a document is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutPoint {
    /// Between a character that is no white space and a space or line break.
    Words,
    /// Between any two characters.
    Anywhere,
}

/// Bytes before which a document is cut, at the last place that allows it.
const PIECE: usize = 1 << 16;
/// A document that allows no cut for so long (a "word" of 1 MiB) is cut all the same.
const LONGEST_PIECE: usize = 1 << 20;
/// Bytes of a text file looked at together when no line ends.
const SEGMENT: u64 = 1 << 20;
/// Cuts what it reads into documents and pieces, and hands them to `sink` in order, until it breaks.
pub(crate) struct TextReader<'a> {
    config: &'a DataConfig,
    cut: CutPoint,
    sink: &'a mut dyn FnMut(TextPiece) -> Result<ControlFlow<()>>,
    pub(crate) skipped: Skipped,
    pub(crate) remarks: Remarks,
    /// Where the text of the current file is, once its first record was read.
    column: Option<String>,
    /// The part of the current document not handed over yet.
    pending: String,
    /// Bytes of it known to hold no place for a cut, so that none is looked at twice.
    scanned: usize,
    begun: bool,
}

impl<'a> TextReader<'a> {
    pub(crate) fn new(
        config: &'a DataConfig,
        cut: CutPoint,
        sink: &'a mut dyn FnMut(TextPiece) -> Result<ControlFlow<()>>,
    ) -> Self {
        Self {
            config,
            cut,
            sink,
            skipped: Skipped::default(),
            remarks: Remarks::default(),
            column: None,
            pending: String::new(),
            scanned: 0,
            begun: false,
        }
    }

    /// Reads the file `path` as its name says: as one document, or as records, each of which has one. `count` is told of its
    /// bytes.
    pub(crate) fn file(&mut self, path: &Path, count: &dyn Fn(u64)) -> Result<ControlFlow<()>> {
        self.column = None;
        let format = FileForm::of(path).records;
        if let Some(format @ (Format::Csv | Format::Tsv | Format::Parquet)) = format {
            return self.table(path, format, count);
        }
        let input = match open(path, count)?.text(path, &mut self.remarks) {
            Ok(input) => input,
            Err(e) => {
                self.unreadable(path, &e.to_string())?;
                return Ok(ControlFlow::Continue(()));
            }
        };
        match format {
            None => self.text(path, input),
            Some(format) => self.records(path, format, input),
        }
    }

    /// Reads a table, each record's text as one document.
    fn table(&mut self, path: &Path, format: Format, count: &dyn Fn(u64)) -> Result<ControlFlow<()>> {
        let (key, on_bad) = (self.config.text_key.as_str(), self.config.on_bad_record);
        let (mut column, mut remarks) = (None, Remarks::default());
        let mut flow = ControlFlow::Continue(());
        let skipped = read_file(path, format, &[key, INSTEAD], on_bad, count, &mut remarks, &mut |row| {
            let column = match column {
                Some(column) => column,
                None => *column.insert(column_of(&row, key)?),
            };
            let text = row.text(column)?;
            if text.trim().is_empty() {
                return Err(BadRecord::empty("the document is empty").into());
            }
            flow = self.document(path, row.place.line, text)?;
            Ok(flow)
        })?;
        self.skipped.append(skipped);
        self.remarks.append(remarks);
        Ok(flow)
    }

    /// Reads a text file as one document; `path` is its name in messages.
    pub(crate) fn text(&mut self, path: &Path, mut input: Box<dyn BufRead + '_>) -> Result<ControlFlow<()>> {
        let mut bytes = Vec::new();
        // The line that is read, and how many of its bytes came before `bytes`.
        let (mut line, mut before) = (1, 0);
        loop {
            let read = match (&mut input).take(SEGMENT).read_until(b'\n', &mut bytes) {
                Err(e) if is_damage(&e) => {
                    self.bad(path, line, &unreadable(&e), |skipped| &mut skipped.malformed)?;
                    // What was read before is a document.
                    return if self.begun || !self.pending.trim().is_empty() {
                        self.end(path, 1)
                    } else {
                        Ok(ControlFlow::Continue(()))
                    };
                }
                read => read.with_context(|| format!("{} line {line} cannot be read", path.display()))?,
            };
            if read == 0 && bytes.is_empty() {
                break;
            }
            if line == 1 && before == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
                bytes.drain(..BYTE_ORDER_MARK.len());
                before += BYTE_ORDER_MARK.len();
            }
            self.count_nuls(path, &bytes[bytes.len() - read.min(bytes.len())..]);
            let ends = bytes.ends_with(b"\n") || (read as u64) < SEGMENT;
            match std::str::from_utf8(&bytes) {
                Ok(text) => {
                    self.pending.push_str(text);
                    before += bytes.len();
                    bytes.clear();
                }
                // A character that goes on in the next segment.
                Err(e) if e.error_len().is_none() && !ends => {
                    let tail = bytes.split_off(e.valid_up_to());
                    self.pending.push_str(&String::from_utf8_lossy(&bytes));
                    before += bytes.len();
                    bytes = tail;
                }
                Err(e) => {
                    let what = format!("byte {} is not UTF-8", before + e.valid_up_to() + 1);
                    self.bad(path, line, &what, |skipped| &mut skipped.invalid_utf8)?;
                    before += bytes.len();
                    bytes.clear();
                }
            }
            if ends {
                (line, before) = (line + 1, 0);
            }
            if self.hand_over()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.end(path, 1)
    }

    /// Reads JSON, each record's text as one document.
    fn records(&mut self, path: &Path, format: Format, mut input: impl BufRead) -> Result<ControlFlow<()>> {
        // A failure to read is said where it is met below.
        if format == Format::Json || input.fill_buf().is_ok_and(spans_lines) {
            elements(path, input, &mut |line, record| self.record(path, line, record))
        } else {
            lines(path, input, &mut |line, record| self.record(path, line, record))
        }
    }

    fn record(&mut self, path: &Path, line: u64, record: Result<&[u8], String>) -> Result<ControlFlow<()>> {
        let record = match record.map(std::str::from_utf8) {
            Ok(Ok(record)) => record,
            Ok(Err(e)) => {
                self.bad(path, line, &not_utf8(&e), |skipped| &mut skipped.invalid_utf8)?;
                return Ok(ControlFlow::Continue(()));
            }
            Err(what) => {
                self.bad(path, line, &what, |skipped| &mut skipped.malformed)?;
                return Ok(ControlFlow::Continue(()));
            }
        };
        let key = self.column.as_deref().unwrap_or(&self.config.text_key);
        let instead = (self.column.is_none() && key == TEXT).then_some(INSTEAD);
        let parsed = lenient(record, |record| {
            let mut json = serde_json::Deserializer::from_str(record);
            let text = TextOf { key, instead }.deserialize(&mut json);
            text.and_then(|text| json.end().map(|()| text))
        });
        match parsed {
            Ok(((text, is_instead), has_half)) => {
                if self.column.is_none() {
                    self.column = Some(if is_instead { INSTEAD.to_owned() } else { key.to_owned() });
                }
                if has_half {
                    self.remarks.add(HALVES, path, 1);
                }
                self.document(path, line, &text)
            }
            Err(e) => {
                self.bad(path, line, &not_json(&e, line), |skipped| &mut skipped.malformed)?;
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    fn count_nuls(&mut self, path: &Path, bytes: &[u8]) {
        let n = bytes.iter().filter(|&&byte| byte == 0).count();
        if n > 0 {
            self.remarks.add(NULS, path, n as u64);
        }
    }

    /// Takes a whole document that stands at `line` of `path`.
    pub(crate) fn document(&mut self, path: &Path, line: u64, text: &str) -> Result<ControlFlow<()>> {
        self.count_nuls(path, text.as_bytes());
        self.pending.push_str(text);
        if self.hand_over()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.end(path, line)
    }

    /// Counts a file that cannot be read.
    pub(crate) fn unreadable(&mut self, path: &Path, what: &str) -> Result<()> {
        self.skipped.leave_out(self.config.on_bad_record, &path.display(), what, |skipped| &mut skipped.malformed)
    }

    /// Hands over what has become long enough.
    fn hand_over(&mut self) -> Result<ControlFlow<()>> {
        let mut from = 0;
        while self.pending.len() - from >= PIECE {
            let rest = &self.pending[from..];
            let Some(at) = self.cut.place(rest, self.scanned) else {
                self.scanned = rest.len();
                break;
            };
            let flow = (self.sink)(TextPiece { text: rest[..at].to_owned(), first: !self.begun, last: false })?;
            if flow.is_break() {
                return Ok(flow);
            }
            (self.begun, self.scanned) = (true, 0);
            from += at;
        }
        self.pending.drain(..from);
        Ok(ControlFlow::Continue(()))
    }

    fn end(&mut self, path: &Path, line: u64) -> Result<ControlFlow<()>> {
        let (text, begun) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.begun));
        self.scanned = 0;
        if !begun && text.trim().is_empty() {
            self.bad(path, line, "the document is empty", |skipped| &mut skipped.empty)?;
            return Ok(ControlFlow::Continue(()));
        }
        (self.sink)(TextPiece { text, first: !begun, last: true })
    }

    fn bad(&mut self, path: &Path, line: u64, what: &str, kind: SkippedCount) -> Result<()> {
        let place = format!("{} line {line}", path.display());
        self.skipped.leave_out(self.config.on_bad_record, &place, what, kind)
    }
}

impl CutPoint {
    /// Where to cut `text`, whose first `scanned` bytes hold no such place: before [`PIECE`] if it can be, further on if
    /// it must.
    fn place(self, text: &str, scanned: usize) -> Option<usize> {
        match self {
            Self::Anywhere => Some(text.floor_char_boundary(PIECE)),
            Self::Words => {
                let before = |i: usize| text[..i].chars().next_back();
                let cut = |&i: &usize| {
                    matches!(text.as_bytes()[i], b' ' | b'\n')
                        && before(i).is_some_and(|c| !c.is_whitespace() && !c.is_control())
                };
                let near = if scanned < PIECE { (1..PIECE).rev().find(cut) } else { None };
                let far = || (scanned.max(PIECE)..text.len()).find(cut);
                let forced = || (text.len() >= LONGEST_PIECE).then(|| text.floor_char_boundary(LONGEST_PIECE));
                near.or_else(far).filter(|&at| at <= LONGEST_PIECE).or_else(forced)
            }
        }
    }
}

/// The usual column of the text, and the one that is read where a file lacks it.
const TEXT: &str = "text";
const INSTEAD: &str = "content";

/// The error for a record that has the columns `others` and lacks `key`.
fn no_column(key: &str, others: &str) -> String {
    format!("\"{key}{NO_COLUMN}{others}; use --text-column to choose the column of the text")
}

/// The column of the text in a table whose first record is `row`.
fn column_of<'a>(row: &Row, key: &'a str) -> Result<&'a str, BadRecord> {
    let has = |name: &str| row.fields.contains_key(name);
    match key {
        key if has(key) => Ok(key),
        TEXT if has(INSTEAD) => Ok(INSTEAD),
        key => Err(BadRecord::new(no_column(key, &row.keys()))),
    }
}

/// The string under one key of a JSON object, or where it has none under another; all else is passed over without being
/// built. Also says whether it is the other.
struct TextOf<'a> {
    key: &'a str,
    instead: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for TextOf<'_> {
    type Value = (String, bool);

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TextOf<'_> {
    type Value = (String, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with text in \"{}\"", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        const SHOWN: usize = 20;
        let (mut text, mut instead) = (None, None);
        let mut others = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == self.key {
                text = Some((map.next_value::<String>()?, false));
                continue;
            }
            if self.instead == Some(key.as_str()) {
                if let Value::String(value) = map.next_value()? {
                    instead = Some((value, true));
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            others.push(key);
        }
        others.truncate(SHOWN);
        text.or(instead).ok_or_else(|| A::Error::custom(no_column(self.key, &others.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::OnBadRecord;
    use proptest::prelude::*;

    fn read(config: &DataConfig, cut: CutPoint, bytes: &[u8], jsonl: bool) -> (Result<()>, Vec<TextPiece>, Skipped) {
        let mut pieces = Vec::new();
        let mut sink = |piece| {
            pieces.push(piece);
            Ok(ControlFlow::Continue(()))
        };
        let mut reader = TextReader::new(config, cut, &mut sink);
        let input = Box::new(std::io::BufReader::with_capacity(100, bytes));
        let path = Path::new("f");
        let result = if jsonl { reader.records(path, Format::Jsonl, input) } else { reader.text(path, input) };
        let skipped = reader.skipped;
        (result.map(|_| ()), pieces, skipped)
    }

    fn documents(pieces: &[TextPiece]) -> Vec<String> {
        let mut all = Vec::new();
        for piece in pieces {
            assert_eq!(piece.first, pieces.first() == Some(piece) || piece.first, "only a first piece begins");
            if piece.first {
                all.push(String::new());
            }
            all.last_mut().unwrap().push_str(&piece.text);
        }
        all
    }

    fn skip() -> DataConfig {
        DataConfig { on_bad_record: OnBadRecord::Skip, ..DataConfig::default() }
    }

    fn fails(bytes: &[u8], jsonl: bool) -> String {
        format!("{:#}", read(&DataConfig::default(), CutPoint::Words, bytes, jsonl).0.unwrap_err())
    }

    #[test]
    fn a_text_file_is_one_document_byte_for_byte() {
        let text = "\u{feff}one\r\n\r\ntwo é\n";
        let (result, pieces, _) = read(&DataConfig::default(), CutPoint::Words, text.as_bytes(), false);
        result.unwrap();
        assert_eq!(documents(&pieces), ["one\r\n\r\ntwo é\n"]);
    }

    #[test]
    fn a_record_is_a_document_and_blank_lines_are_none() {
        let text = "{\"text\": \"one\\n\", \"id\": [1]}\n\n{\"id\": 2, \"text\": \"two\"}";
        let (result, pieces, _) = read(&DataConfig::default(), CutPoint::Words, text.as_bytes(), true);
        result.unwrap();
        assert_eq!(documents(&pieces), ["one\n", "two"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (bytes, jsonl, expected) in [
            (b"ok\nno \xff\n".as_slice(), false, "f line 2: byte 4 is not UTF-8"),
            (b"ok\nno \xe3\x81", false, "f line 2: byte 4 is not UTF-8"),
            (b"  \n \n", false, "f line 1: the document is empty"),
            (b"", false, "f line 1: the document is empty"),
            (b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n", true, "f line 2: byte 11 is not UTF-8"),
            (b"{\"text\": \"a\"}\n{\"text\": \"b\"\n", true, "f line 2: the line ends inside an object"),
            (b"{\"text\": \"a\"} x", true, "f line 1: there is text after the end of the record (column 15)"),
            (
                b"{\"title\": \"a\", \"id\": 1}",
                true,
                "\"text\" is missing; the record has title, id; use --text-column to choose the column of the text",
            ),
            (b"{\"text\": 7}", true, "f line 1: invalid type: integer `7`, expected a string"),
            (b"[1]", true, "expected an object with text in \"text\""),
            (b"{\"content\": \"a\"}\n{\"text\": \"b\"}", true, "f line 2: \"content\" is missing; the record has text"),
            (b"\n{\"text\": \"\"}", true, "f line 2: the document is empty"),
        ] {
            let message = fails(bytes, jsonl);
            assert!(message.contains(expected), "{message}\nexpected {expected}");
            assert!(message.contains("--on-bad-record skip"), "{message}");
        }
    }

    #[test]
    fn skipped_records_are_counted_by_kind_and_the_rest_is_read() {
        let text = b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\nnonsense\n{\"text\": \" \"}\n{}\n{\"text\": \"b\"}\n";
        let (result, pieces, skipped) = read(&skip(), CutPoint::Words, text, true);
        result.unwrap();
        assert_eq!(documents(&pieces), ["a", "b"]);
        let first = skipped.first.clone().unwrap();
        assert!(first.contains("line 2"), "{first}");
        assert_eq!(skipped, Skipped { first: Some(first), invalid_utf8: 1, empty: 1, malformed: 2 });
        let (result, pieces, skipped) = read(&skip(), CutPoint::Words, b"one\ntw\xff\nthree\n", false);
        result.unwrap();
        assert_eq!(documents(&pieces), ["one\nthree\n"]);
        assert_eq!(skipped.total(), 1);
    }

    #[test]
    fn a_long_document_comes_in_pieces_cut_before_white_space() {
        let text = "word word2 é, ... \n".repeat(40_000);
        let (result, pieces, _) = read(&DataConfig::default(), CutPoint::Words, text.as_bytes(), false);
        result.unwrap();
        assert!(pieces.len() > 10);
        assert_eq!(documents(&pieces), [text]);
        for pair in pieces.windows(2) {
            assert!(pair[0].text.len() <= PIECE && !pair[0].last);
            assert!(!pair[0].text.ends_with(char::is_whitespace));
            assert!(pair[1].text.starts_with([' ', '\n']) && !pair[1].first);
        }
        assert!(pieces.last().unwrap().last);
    }

    #[test]
    fn text_of_any_script_is_cut() {
        let text = "\u{43a}\u{43e}\u{442} \u{3001}\n".repeat(100_000);
        let (_, pieces, _) = read(&DataConfig::default(), CutPoint::Words, text.as_bytes(), false);
        assert!(pieces.iter().all(|piece| piece.text.len() <= PIECE));
        assert_eq!(documents(&pieces), [text]);
    }

    #[test]
    fn characters_are_whole_where_no_line_ends() {
        let text = "日本".repeat(400_000); // 2.4 MB without a line break or a space
        let (result, pieces, _) = read(&DataConfig::default(), CutPoint::Words, text.as_bytes(), false);
        result.unwrap();
        assert_eq!(documents(&pieces), [text.as_str()]);
        let (_, pieces, _) = read(&DataConfig::default(), CutPoint::Anywhere, text.as_bytes(), false);
        assert!(pieces.len() > 30);
        assert_eq!(documents(&pieces), [text.as_str()]);
    }

    proptest! {
        #[test]
        fn any_text_survives_being_read(text in "\\PC{0,40}(\n\\PC{0,20}){0,3}") {
            prop_assume!(!text.trim().is_empty() && !text.starts_with('\u{feff}'));
            let (result, pieces, _) = read(&DataConfig::default(), CutPoint::Words, text.as_bytes(), false);
            prop_assert!(result.is_ok());
            prop_assert_eq!(documents(&pieces), [text]);
        }
    }
}
