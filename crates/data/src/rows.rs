//! Files of records: JSON, JSONL, CSV, TSV and Parquet → rows that know their file and line.
//!
//! The ending of a file's name gives its format: `.jsonl` or `.ndjson` has an object a line; `.json` a list of objects, or objects one
//! after the other, and so has a `.jsonl` that begins like that; `.csv` a header and fields that may be quoted (RFC 4180);
//! `.tsv` a header and fields between tabs, in which a quote is a quote, as in GLUE's files; each of them may end in `.gz` or
//! `.zst`. `.parquet` is read a row group after the other. Fields of CSV and TSV are text.

use crate::file_form::{Format, ending};
use crate::json::{elements, lenient, not_json, spans_lines};
use crate::lines::{lines, not_utf8};
use crate::open::{OpenedFile, decompressed, open};
use crate::parquet_rows::read_parquet;
use crate::progress::{Progress, Unit};
use crate::record::{BadRecord, RecordPlace, Row};
use crate::remarks::{HALVES, Remarks};
use crate::skipped::Skipped;
use crate::source::{OnBadRecord, SourceLocation};
use crate::table::read_table;
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::Usage;
use serde_json::{Map, Value};
use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Files of records, for messages.
const ACCEPTED: &str = "use .jsonl, .json, .csv or .tsv (optionally followed by .gz or .zst), or .parquet";

/// Hands the records of the file `path` (or of stdin: `-.jsonl`, `-.csv`, `-.tsv`) to `sink`, one at a time. One that
/// cannot be read, or that `sink` calls [`BadRecord`], is left out and counted, or ends the reading, as `on_bad` says. Where
/// `sink` breaks, reading ends.
///
/// # Errors
/// When the file cannot be read or its name does not say what it holds, at a bad record unless these are left out, and
/// with any other error of `sink`.
pub fn read_rows(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Row) -> Result<ControlFlow<()>>,
) -> Result<Skipped> {
    let piped = match SourceLocation::of(&path.to_string_lossy()) {
        Ok(SourceLocation::Stdin(ending)) => Some(PathBuf::from(format!("stdin{ending}"))),
        _ => None,
    };
    let name = piped.as_deref().unwrap_or(path);
    ensure!(piped.is_some() || !path.is_dir(), "{} is a folder; pass a file of records: {ACCEPTED}", path.display());
    let Some(format) = Format::of(name) else {
        return Err(Usage::new(format!("{} has an unknown file type: {ACCEPTED}", name.display())).into());
    };
    ensure!(piped.is_none() || format != Format::Parquet, "a Parquet file cannot be read from stdin; pass its path");
    let total = if piped.is_some() { None } else { path.metadata().ok().map(|m| m.len()) };
    let task = progress.task(&format!("reading {}", name.display()), total, Unit::Bytes);
    let count = |n| task.advance(n);
    let mut remarks = Remarks::default();
    let skipped = match piped {
        Some(_) => {
            let opened = decompressed(std::io::stdin().lock(), ending(name).1)?;
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
    sink: &mut dyn FnMut(Row) -> Result<ControlFlow<()>>,
) -> Result<Skipped> {
    let mut reader = RecordReader::new(path, on_bad, remarks, sink);
    match format {
        Format::Parquet => {
            read_parquet(path, wanted, count, &mut |row, fields| reader.take(row, fields))?;
            Ok(reader.skipped)
        }
        _ => reader.read(format, open(path, count)?),
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
    sink: &mut dyn FnMut(RecordPlace, &str) -> Result<ControlFlow<()>>,
) -> Result<Skipped> {
    let mut skipped = Skipped::default();
    let _ = lines(path, input, &mut |line, bytes| {
        let place = RecordPlace { file: path.to_owned(), line };
        let text = bytes.map_err(BadRecord::new).and_then(utf8);
        match text.map_err(anyhow::Error::from).and_then(|text| sink(place.clone(), text)) {
            Ok(flow) => Ok(flow),
            Err(e) => {
                let bad = e.downcast::<BadRecord>()?;
                skipped.leave_out(on_bad, &place, &bad.what, bad.kind)?;
                Ok(ControlFlow::Continue(()))
            }
        }
    })?;
    Ok(skipped)
}

struct RecordReader<'a> {
    file: &'a Path,
    on_bad: OnBadRecord,
    remarks: &'a mut Remarks,
    sink: &'a mut dyn FnMut(Row) -> Result<ControlFlow<()>>,
    skipped: Skipped,
}

impl<'a> RecordReader<'a> {
    fn new(
        file: &'a Path,
        on_bad: OnBadRecord,
        remarks: &'a mut Remarks,
        sink: &'a mut dyn FnMut(Row) -> Result<ControlFlow<()>>,
    ) -> Self {
        Self { file, on_bad, remarks, sink, skipped: Skipped::default() }
    }

    fn take(&mut self, line: u64, fields: Result<Map<String, Value>, BadRecord>) -> Result<ControlFlow<()>> {
        let place = RecordPlace { file: self.file.to_owned(), line };
        let bad = match fields {
            Ok(fields) => match (self.sink)(Row { place: place.clone(), fields }) {
                Ok(flow) => return Ok(flow),
                Err(e) => e.downcast::<BadRecord>()?,
            },
            Err(bad) => bad,
        };
        self.skipped.leave_out(self.on_bad, &place, &bad.what, bad.kind)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Reads all but Parquet.
    fn read(mut self, format: Format, opened: OpenedFile) -> Result<Skipped> {
        let input = opened.text(self.file, self.remarks).with_context(|| self.file.display().to_string())?;
        let file = self.file;
        match format {
            Format::Csv => read_table(file, input, b',', true, &mut |line, fields| self.take(line, fields))?,
            Format::Tsv => read_table(file, input, b'\t', false, &mut |line, fields| self.take(line, fields))?,
            Format::Jsonl | Format::Json | Format::Parquet => {
                let _ = self.json(format, input)?;
            }
        }
        Ok(self.skipped)
    }

    fn json(&mut self, format: Format, mut input: impl BufRead) -> Result<ControlFlow<()>> {
        let file = self.file;
        // A failure to read is said where it is met below.
        if format == Format::Jsonl && !input.fill_buf().is_ok_and(spans_lines) {
            return lines(file, input, &mut |line, bytes| self.object(line, bytes));
        }
        // Until there is a second object, a first that is in no list may be a whole file around its records.
        let mut is_alone = input.fill_buf().is_ok_and(|head| !head.trim_ascii_start().starts_with(b"["));
        let mut first: Option<(u64, Vec<u8>)> = None;
        let flow = elements(file, input, &mut |line, bytes| {
            if let Some((line, bytes)) = first.take()
                && self.object(line, Ok(&bytes))?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
            match bytes {
                Ok(bytes) if std::mem::take(&mut is_alone) => {
                    first = Some((line, bytes.to_vec()));
                    Ok(ControlFlow::Continue(()))
                }
                bytes => self.object(line, bytes),
            }
        })?;
        let Some((line, bytes)) = first else { return Ok(flow) };
        refuse_wrapped(file, &bytes)?;
        self.object(line, Ok(&bytes))
    }

    fn object(&mut self, line: u64, bytes: Result<&[u8], String>) -> Result<ControlFlow<()>> {
        let fields = bytes.map_err(BadRecord::new).and_then(|bytes| {
            let (fields, has_half) = lenient(utf8(bytes)?, |text| serde_json::from_str(text)).map_err(|e| {
                BadRecord::new(not_json(&e, line).replace("expected a map", "expected an object with named fields"))
            })?;
            if has_half {
                self.remarks.add(HALVES, self.file, 1);
            }
            Ok(fields)
        });
        self.take(line, fields)
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
            "{0} is one object with the records in \"{name}\"; extract the list: jq -c '.{name}[]' {0} > records.jsonl",
            file.display()
        ),
        None => Ok(()),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, BadRecord> {
    std::str::from_utf8(bytes).map_err(|e| BadRecord::not_utf8(not_utf8(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::LONGEST_RECORD;
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
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((rows, skipped))
    }

    fn good(name: &str, text: &str) -> Vec<(u64, Value)> {
        read(name, text.as_bytes(), OnBadRecord::Fail).unwrap().0
    }

    fn fails(name: &str, bytes: &[u8]) -> String {
        format!("{:#}", read(name, bytes, OnBadRecord::Fail).unwrap_err())
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
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(rows, [json!({"a": "x", "b": null}), json!({"a": "\u{fffd}"}), json!({"a": "😀"})]);
        let [said] = &heard.warnings()[..] else { panic!() };
        assert!(
            said.ends_with("f.jsonl: number of records with half of a surrogate pair, which is replaced by U+FFFD: 1")
        );
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
            (
                "f.jsonl",
                b"{\"a\": 1}\n{\"a\": \n".as_slice(),
                "f.jsonl line 2: the line ends where a value is expected",
            ),
            ("f.jsonl", b"\n[1]", "f.jsonl line 2: invalid type: integer `1`, expected an object with named fields"),
            ("f.jsonl", b"{\"a\": 1}\n[1]", "f.jsonl line 2: invalid type: sequence, expected an object with named"),
            ("f.json", b"[{\"a\": 1},\n{\"a\":\n1 2}]", "f.json line 2: expected `,` or `}` (line 3 column 3)"),
            (
                "f.json",
                b"[{\"a\": 1},\n{\"a\": 2}",
                "f.json line 2: the list of records is not closed; the file may be cut off",
            ),
            ("f.ndjson", b"{\"a\": \"\xff\"}", "f.ndjson line 1: byte 8 is not UTF-8"),
            ("f.csv", b"a,b\n1,2\n\n1,2,3\n", "f.csv line 4: has 3 fields, but the header has 2"),
            ("f.csv", b"a,b\r\n\r\n1\r\n", "f.csv line 3: has 1 fields, but the header has 2"),
            (
                "f.csv",
                b"a,b\n\"1\n3,4\n",
                "f.csv line 2: has 1 fields, but the header has 2; is a quotation mark missing?",
            ),
            ("f.csv", b"a,b\n1,2\n1,x\xff\n", "f.csv line 3: byte 2 is not UTF-8 in the field \"b\""),
            ("f.tsv", b"a\tb\n1\n", "f.tsv line 2: has 1 fields, but the header has 2"),
        ] {
            let message = fails(name, bytes);
            assert!(message.contains(expected), "{message}\nexpected {expected}");
            assert!(message.contains("--on-bad-record skip"), "{message}");
        }
        for (name, bytes, expected) in [
            ("f.csv", b"a,b,a\n1,2,3\n".as_slice(), "f.csv: the header contains \"a\" twice"),
            ("f.csv", b"a,\xff\n1,2\n", "f.csv: the header is not UTF-8"),
            ("f.xml", b"[]", "f.xml has an unknown file type: use .jsonl, .json, .csv or .tsv"),
            (
                "f.csv",
                b"a;b\n1;2\n",
                "f.csv: the header is a single column, \"a;b\": its fields are separated by \";\"",
            ),
            ("f.csv", b"a\tb\n1\t2\n", "rename it to end in .tsv"),
            ("f.tsv", b"a,b\n1,2\n", "rename it to end in .csv"),
            ("f.jsonl", b"PK\x03\x04 and so on", "f.jsonl: it is a ZIP archive"),
            ("f.json", b"{\"version\": 1, \"data\": [{\"a\": 1}]}", "with the records in \"data\"; extract the list"),
            ("f.parquet.gz", b"", "has an unknown file type"),
            ("f.parquet", b"PAR1 no more", "f.parquet cannot be read as a Parquet file"),
        ] {
            let message = fails(name, bytes);
            assert!(message.contains(expected), "{message}\nexpected {expected}");
        }
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| {
            format!(
                "{:#}",
                read_rows(path, OnBadRecord::Fail, &Silent, &mut |_| Ok(ControlFlow::Continue(()))).unwrap_err()
            )
        };
        assert!(error(folder.path()).contains("is a folder; pass a file of records"));
        assert!(error(&folder.path().join("none.csv")).contains("none.csv cannot be read"));
        assert!(error(Path::new("-.parquet")).contains("cannot be read from stdin"));
        assert!(error(Path::new("-.txt")).contains("stdin.txt has an unknown file type"));
    }

    #[test]
    fn skipped_records_are_counted_by_kind_and_the_rest_is_read() {
        let bytes = b"a,b\n1,2\n1\nx,\xff\n3,4\n";
        let (rows, skipped) = read("f.csv", bytes, OnBadRecord::Skip).unwrap();
        assert_eq!(rows, [(2, json!({"a": "1", "b": "2"})), (5, json!({"a": "3", "b": "4"}))]);
        assert_eq!((skipped.malformed, skipped.invalid_utf8, skipped.empty), (1, 1, 0));
        assert!(skipped.first.unwrap().ends_with("f.csv line 3: has 1 fields, but the header has 2"));
    }

    #[test]
    fn a_sink_may_call_a_record_bad_and_other_errors_of_it_end_the_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl");
        crate::disk::write(&path, b"{\"a\": \"x\"}\n{\"b\": 1}\n{\"a\": \" \"}\n").unwrap();
        let mut seen = 0;
        let mut sink = |row: Row| -> Result<ControlFlow<()>> {
            if row.text("a")?.trim().is_empty() {
                return Err(BadRecord::empty("\"a\" is empty").into());
            }
            seen += 1;
            Ok(ControlFlow::Continue(()))
        };
        let skipped = read_rows(&path, OnBadRecord::Skip, &Silent, &mut sink).unwrap();
        assert_eq!((skipped.malformed, skipped.empty), (1, 1));
        let message = read_rows(&path, OnBadRecord::Fail, &Silent, &mut sink).unwrap_err().to_string();
        assert!(
            message.contains("f.jsonl line 2: \"a\" is missing; the record has b; use --on-bad-record skip"),
            "{message}"
        );
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
        let message = format!(
            "{:#}",
            read_rows(&path, OnBadRecord::Fail, &Silent, &mut |_| Ok(ControlFlow::Continue(()))).unwrap_err()
        );
        assert!(message.contains("f.csv.zst line 3: is longer than 64 MiB; is a quotation mark missing?"), "{message}");
        let skipped = read_rows(&path, OnBadRecord::Skip, &Silent, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
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
        let golden = gptkit_testing::golden_path("records/chat-zstd.parquet");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&b"{\"a\": 1}\n".repeat(1000)).unwrap();
        crate::disk::write(&path, &encoder.finish().unwrap()).unwrap();
        for (path, n) in [(path, 1000), (golden, 3)] {
            let (progress, mut rows) = (Counting::default(), 0);
            let mut count = |_| {
                rows += 1;
                Ok(ControlFlow::Continue(()))
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
        let folder = gptkit_testing::golden_path("records");
        for compression in ["none", "snappy", "zstd", "gzip"] {
            let path = folder.join(format!("chat-{compression}.parquet"));
            let mut rows = Vec::new();
            read_rows(&path, OnBadRecord::Fail, &Silent, &mut |row| {
                rows.push((row.place.to_string(), Value::Object(row.fields)));
                Ok(ControlFlow::Continue(()))
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
        let golden = gptkit_testing::golden_path("records/chat-zstd.parquet");
        let bytes = std::fs::read(golden).unwrap();
        for n in [0, 4, bytes.len() / 2, bytes.len() - 1] {
            assert!(fails("f.parquet", &bytes[..n]).contains("f.parquet cannot be read as a Parquet file"));
        }
    }

    /// Parquet's reader panics on these.
    #[test]
    fn a_damaged_parquet_file_ends_in_an_error() {
        let golden = gptkit_testing::golden_path("records/chat-none.parquet");
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
}
