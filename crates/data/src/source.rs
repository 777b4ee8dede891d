//! Where text comes from: files, folders, JSONL, gzip and zstd of either, stdin, the embedded world.
//!
//! A plain text file is one document; a file of records has one a record, in one column. What a file is, its name says:
//! `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` and `.parquet` hold records, all else is text, with `.gz` or `.zst` after it
//! when compressed; stdin is text as `-`, records as `-.jsonl` and so on. Text is taken byte for byte, line ends included;
//! only a byte-order mark at its start is dropped, and UTF-16 is decoded.

use crate::disk;
use crate::encoding::{Encoding, Failed, Utf16};
use crate::record::Format;
use crate::remarks::Remarks;
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::{Check, Problems};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::UNIX_EPOCH;

/// What text a model is made from; TOML section `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataConfig {
    /// Where it comes from.
    pub sources: Vec<SourceConfig>,
    /// Column of the text in files of records. Where it is `text` and a file has none, its `content` is read.
    pub text_key: String,
    /// What becomes of invalid UTF-8, empty documents and malformed lines.
    pub on_bad_record: OnBadRecord,
    /// Share of the documents that are held out for validation.
    pub val_fraction: f64,
    /// Folder below which prepared text is kept.
    pub shards: PathBuf,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            sources: vec![SourceConfig { path: "world".to_owned(), weight: None }],
            text_key: "text".to_owned(),
            on_bad_record: OnBadRecord::Fail,
            val_fraction: 0.01,
            shards: PathBuf::from("shards"),
        }
    }
}

/// One source; an element of `data.sources`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceConfig {
    /// File, folder, `-` for stdin, `world`, `world:STORIES` or `world:STORIES:SEED`, `world-patterns` in the same three
    /// forms, or a folder that `prepare` wrote.
    pub path: String,
    /// Share of the windows that come from here, relative to the other weights, whatever its size (Brown et al. 2020,
    /// table 2.2); all sources have one, or none has and size decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

impl FromStr for SourceConfig {
    type Err = String;

    /// `PATH` or `PATH@WEIGHT`; an `@` before anything but a number is part of the path.
    fn from_str(text: &str) -> Result<Self, String> {
        let weighted = text.rsplit_once('@').and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?)));
        let (path, weight) = weighted.map_or((text, None), |(path, weight)| (path, Some(weight)));
        if path.is_empty() {
            return Err("no path".to_owned());
        }
        Ok(Self { path: path.to_owned(), weight })
    }
}

/// What becomes of a record that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRecord {
    /// The command ends, naming file and line.
    Fail,
    /// It is left out and counted.
    Skip,
}

impl FromStr for OnBadRecord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(Self::Fail),
            "skip" => Ok(Self::Skip),
            _ => Err("use fail or skip".to_owned()),
        }
    }
}

impl Check for DataConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(!self.sources.is_empty(), "sources", "is empty", "name a file, or path = \"world\"");
        problems.require(
            (0.0..=0.5).contains(&self.val_fraction),
            "val_fraction",
            "is not between 0 and 0.5",
            "use 0.01, or 0 for no validation",
        );
        problems.require(!self.text_key.is_empty(), "text_key", "is empty", "use \"text\"");
        let weights = self.sources.iter().filter(|s| s.weight.is_some()).count();
        problems.require(weights <= 500, "sources", "have more than 500 weights", "join the smaller ones");
        problems.require(
            weights == 0 || weights == self.sources.len(),
            "sources",
            "have weights in part",
            "give each a weight, or none",
        );
        for (i, source) in self.sources.iter().enumerate() {
            let key = |name: &str| format!("sources.{i}.{name}");
            let sound = source.weight.is_none_or(|w| w.is_finite() && w > 0.0);
            problems.require(sound, &key("weight"), "is not positive", "leave the source out instead");
            match SourceLocation::of(&source.path) {
                Err(what) => {
                    let name = source.path.split(':').next().unwrap_or_default();
                    problems.add(&key("path"), what, format!("write {name}:20000, or {name}:20000:SEED"));
                }
                Ok(SourceLocation::Path(path)) if !path.exists() => {
                    let way = "name a file or folder of text, - for stdin, or world";
                    problems.add(&key("path"), "does not exist", way);
                }
                Ok(_) => {}
            }
        }
        let stdin =
            self.sources.iter().filter(|s| matches!(SourceLocation::of(&s.path), Ok(SourceLocation::Stdin(_)))).count();
        problems.require(stdin < 2, "sources", "name stdin more than once", "it can be read once");
    }
}

/// What a source's path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceLocation {
    /// A file or folder.
    Path(PathBuf),
    /// Stdin, with the ending that says what it holds (`.jsonl` for instance, or nothing).
    Stdin(String),
    /// The embedded world.
    World {
        /// What is told of it.
        told: SyntheticText,
        /// How many documents.
        count: u64,
        /// The world's seed.
        seed: u64,
    },
}

/// What a document of the embedded world tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntheticText {
    /// A story: `world`.
    Stories,
    /// A pattern, by examples: `world-patterns`.
    Patterns,
}

impl SyntheticText {
    /// Documents where a path says nothing else: about 11 MB of stories, a third as much of patterns.
    fn usual(self) -> u64 {
        match self {
            SyntheticText::Stories => 10_000,
            SyntheticText::Patterns => 15_000,
        }
    }
}

impl SourceLocation {
    /// Reads a source's path.
    ///
    /// # Errors
    /// When it begins as one of the world's does and goes on otherwise.
    pub fn of(path: &str) -> Result<Self, String> {
        if let Some(ending) = path.strip_prefix('-').filter(|e| e.is_empty() || e.starts_with('.')) {
            return Ok(Self::Stdin(ending.to_owned()));
        }
        let mut parts = path.split(':');
        let told = match parts.next() {
            Some("world") => SyntheticText::Stories,
            Some("world-patterns") => SyntheticText::Patterns,
            _ => return Ok(Self::Path(PathBuf::from(path))),
        };
        let mut number = |default: u64| match parts.next() {
            Some(text) => text.parse::<u64>().map_err(|_| format!("\"{text}\" is not a number")),
            None => Ok(default),
        };
        let (count, seed) = (number(told.usual())?, number(1)?);
        if count == 0 || parts.next().is_some() {
            let what = if told == SyntheticText::Stories { "stories" } else { "documents" };
            return Err(format!("is not a number of {what}"));
        }
        Ok(Self::World { told, count, seed })
    }

    /// Reads the path of a source of records: of the world, that is `world` alone.
    ///
    /// # Errors
    /// As [`SourceLocation::of`], and when it is text of the world that no records come with.
    pub fn of_records(path: &str) -> Result<Self, String> {
        match Self::of(path)? {
            Self::World { told: SyntheticText::Patterns, .. } => {
                Err("is text to pretrain on, and has no records".to_owned())
            }
            place => Ok(place),
        }
    }
}

/// A file that is read, as it was when it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// The file.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970, as far as the file system knows.
    pub modified_ns: u128,
}

/// What a path stands for.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// In the order of their names.
    pub(crate) files: Vec<InputFile>,
    /// Visible files of other kinds in a folder, and how many hidden ones.
    pub(crate) left_out: Vec<PathBuf>,
    pub(crate) hidden: usize,
    /// Entries of a folder that cannot be read, each with what is wrong with it.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
}

/// The files that `path` stands for: itself, or those below it that hold text by their name. Hidden ones are left out. An
/// entry of a folder that cannot be read, a link to nothing for instance, is listed or an error, as `on_bad` says.
///
/// # Errors
/// When there is none, or one cannot be read.
pub(crate) fn inputs(path: &Path, on_bad: OnBadRecord) -> Result<Inputs> {
    let metadata = path.metadata().with_context(|| format!("{} cannot be read", path.display()))?;
    if !metadata.is_dir() {
        refuse_stream(path)?;
        return Ok(Inputs { files: vec![input(path.to_owned())?], ..Inputs::default() });
    }
    let (mut found, mut left_out, mut hidden, mut unreadable) = (Vec::new(), Vec::new(), 0, Vec::new());
    let mut bad = |entry: PathBuf, what: String| {
        ensure!(on_bad == OnBadRecord::Skip, "{what}; --on-bad-record skip leaves it out");
        unreadable.push((entry, what));
        Ok(())
    };
    let mut folders = vec![path.to_owned()];
    let mut visited = HashSet::new(); // a link may lead back to a folder above it
    while let Some(folder) = folders.pop() {
        if !visited.insert(folder.canonicalize().unwrap_or_else(|_| folder.clone())) {
            continue;
        }
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(e) if folder != path => {
                bad(folder.clone(), format!("folder {} cannot be read: {e}", folder.display()))?;
                continue;
            }
            Err(e) => return Err(e).with_context(|| format!("folder {} cannot be read", folder.display())),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("folder {} cannot be read", folder.display()))?.path();
            if entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
                hidden += 1;
                continue;
            }
            if entry.is_dir() {
                folders.push(entry);
            } else if FileForm::of(&entry).named && !is_special(&entry) {
                match input(entry.clone()).and_then(|input| readable(&entry).map(|()| input)) {
                    Ok(input) => found.push(input),
                    Err(e) => bad(entry, format!("{e:#}"))?,
                }
            } else {
                left_out.push(entry);
            }
        }
    }
    ensure!(
        !found.is_empty(),
        "{} holds no file named .txt, .text, .md, .jsonl, .ndjson, .csv or .tsv (or one of these with .gz or .zst), or \
         .parquet{}",
        path.display(),
        named(&left_out).map_or(String::new(), |names| format!("; it holds {names}"))
    );
    found.sort_by(|a, b| a.path.cmp(&b.path));
    left_out.sort();
    Ok(Inputs { files: found, left_out, hidden, unreadable })
}

impl Inputs {
    /// What is to be said of the files of `folder` that are not read, if there are any.
    pub(crate) fn notice(&self, folder: &Path) -> Option<String> {
        let names = named(&self.left_out)?;
        let are = if self.left_out.len() == 1 { " of another kind is" } else { "s of other kinds are" };
        let hidden = if self.hidden > 0 { format!(" ({} hidden, too)", self.hidden) } else { String::new() };
        let (folder, n) = (folder.display(), self.left_out.len());
        Some(format!("{folder}: {n} file{are} left out: {names}{hidden}; to read one, name it"))
    }
}

/// The names of some files, the first few of them; nothing when there is none.
fn named(files: &[PathBuf]) -> Option<String> {
    const SHOWN: usize = 5;
    let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<String> = files.iter().take(SHOWN).map(name).collect();
    let more = files.len() - names.len();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!files.is_empty()).then(|| names.join(", ") + &rest)
}

/// # Errors
/// When the file `path` cannot be opened.
fn readable(path: &Path) -> Result<()> {
    File::open(path).map(drop).with_context(|| format!("{} cannot be read", path.display()))
}

/// Whether `path` is neither a file nor a folder: a FIFO, a socket or a device, which cannot be read as often as text is.
fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// # Errors
/// When `path` is a FIFO or such: text is read more than once.
fn refuse_stream(path: &Path) -> Result<()> {
    ensure!(
        !is_special(path),
        "{} is {}; use a regular file or a folder, or read a stream from stdin: --data - (text), --data -.jsonl (records)",
        path.display(),
        path.metadata().map_or("not there", |metadata| disk::kind_of(&metadata))
    );
    Ok(())
}

fn input(path: PathBuf) -> Result<InputFile> {
    ensure!(path.to_str().is_some(), "the file name {} is not valid UTF-8; rename the file", path.display());
    let metadata = path.metadata().with_context(|| format!("{} cannot be read", path.display()))?;
    let modified = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    Ok(InputFile { path, size: metadata.len(), modified_ns: modified.map_or(0, |d| d.as_nanos()) })
}

/// What a file's name says it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileForm {
    /// How it holds records; if not, it is text.
    pub(crate) records: Option<Format>,
    /// Whether the name says so, rather than leaves it open, so that it is read where a folder is.
    named: bool,
    compression: Option<Compression>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

impl FileForm {
    /// The form that the name `path` says.
    pub fn of(path: &Path) -> Self {
        let (ending, compression) = ending(path);
        let records = Format::of(path);
        // A folder's .json files describe it more often than they hold its text.
        let named =
            records.is_some_and(|format| format != Format::Json) || matches!(ending.as_str(), "txt" | "text" | "md");
        Self { records, named, compression }
    }

    /// Whether the name says that it is text.
    pub(crate) fn is_text(self) -> bool {
        self.named && self.records.is_none()
    }
}

/// The ending of the name `path`, in small letters, and the compression that a further one says.
pub(crate) fn ending(path: &Path) -> (String, Option<Compression>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Some(Compression::Gzip)),
        Some((stem, "zst" | "zstd")) => (stem, Some(Compression::Zstd)),
        _ => (name.as_str(), None),
    };
    (stem.rsplit_once('.').map_or("", |(_, ending)| ending).to_owned(), compression)
}

/// A file that was opened for reading: decompressed as its name says, and UTF-16 decoded.
pub(crate) struct OpenedFile<'a> {
    input: Box<dyn BufRead + 'a>,
    encoding: Encoding,
}

impl<'a> OpenedFile<'a> {
    /// The text of the file `path`; what is to be said of its encoding is added to `remarks`.
    ///
    /// # Errors
    /// When it is no text: what it is, without its name.
    pub(crate) fn text(self, path: &Path, remarks: &mut Remarks) -> Result<Box<dyn BufRead + 'a>> {
        if let Encoding::NotText(kind) = self.encoding {
            bail!("it is {kind}");
        }
        if let Some(notice) = self.encoding.notice() {
            remarks.add(notice, path, 0);
        }
        Ok(self.input)
    }
}

/// Opens `path` for reading; `count` is told of bytes read from disk.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn open<'a>(path: &Path, count: &'a (dyn Fn(u64) + 'a)) -> Result<OpenedFile<'a>> {
    refuse_stream(path)?;
    let file = disk::open(path)?;
    decompressed(CountedRead { inner: file, count }, FileForm::of(path).compression)
}

/// What `raw` holds, decompressed and, if it is UTF-16, decoded.
pub(crate) fn decompressed<'a>(raw: impl Read + 'a, compression: Option<Compression>) -> Result<OpenedFile<'a>> {
    const BUFFER: usize = 1 << 18;
    let mut input: Box<dyn BufRead + 'a> = match compression {
        None => Box::new(BufReader::with_capacity(BUFFER, raw)),
        // Several members in a row are one text, as gzip itself reads them.
        Some(Compression::Gzip) => {
            let members = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, raw));
            Box::new(BufReader::with_capacity(BUFFER, members))
        }
        Some(Compression::Zstd) => Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::new(raw)?)),
    };
    let encoding = match input.fill_buf() {
        Ok(head) => Encoding::of(head),
        // It is said where the file is read.
        Err(e) => return Ok(OpenedFile { input: Box::new(Failed(e)), encoding: Encoding::Utf8 }),
    };
    if let Encoding::Utf16 { big_endian, .. } = encoding {
        input = Box::new(Utf16::new(input, big_endian));
    }
    Ok(OpenedFile { input, encoding })
}

struct CountedRead<'a, R> {
    inner: R,
    count: &'a (dyn Fn(u64) + 'a),
}

impl<R: Read> Read for CountedRead<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        (self.count)(n as u64);
        Ok(n)
    }
}

/// Copies stdin to `path`, so that it can be read more than once.
///
/// # Errors
/// When it cannot be read or written.
pub fn spool_stdin(path: &Path) -> Result<()> {
    let stdin = Path::new("/dev/stdin");
    if let Ok(metadata) = stdin.metadata()
        && disk::kind_of(&metadata).ends_with("device")
        && !std::io::stdin().is_terminal()
    {
        bail!("stdin is {}; redirect a file to it, or pipe a command into it", disk::kind_of(&metadata));
    }
    disk::write_with(path, |aside| {
        #[expect(clippy::disallowed_methods, reason = "the name is one aside")]
        let mut file = File::create(aside)?;
        let (mut stdin, mut bytes) = (std::io::stdin().lock(), vec![0; 1 << 16]);
        loop {
            match stdin.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(n) => file.write_all(&bytes[..n])?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("stdin cannot be read"),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_on_the_command_line_may_have_a_weight() {
        let parsed = |text: &str| text.parse::<SourceConfig>().map(|s| (s.path, s.weight));
        assert_eq!(parsed("a.txt"), Ok(("a.txt".to_owned(), None)));
        assert_eq!(parsed("a.txt@0.6"), Ok(("a.txt".to_owned(), Some(0.6))));
        assert_eq!(parsed("me@home/a.txt"), Ok(("me@home/a.txt".to_owned(), None)));
        assert!(parsed("@3").is_err());
    }

    #[test]
    fn the_world_and_stdin_are_known_by_their_names() {
        let world = |told, count, seed| Ok(SourceLocation::World { told, count, seed });
        assert_eq!(SourceLocation::of("world"), world(SyntheticText::Stories, 10_000, 1));
        assert_eq!(SourceLocation::of("world:50:9"), world(SyntheticText::Stories, 50, 9));
        assert_eq!(SourceLocation::of("world-patterns"), world(SyntheticText::Patterns, 15_000, 1));
        assert_eq!(SourceLocation::of("world-patterns:50:9"), world(SyntheticText::Patterns, 50, 9));
        assert_eq!(SourceLocation::of("world-tour"), Ok(SourceLocation::Path("world-tour".into())));
        assert_eq!(SourceLocation::of("./world"), Ok(SourceLocation::Path("./world".into())));
        assert_eq!(SourceLocation::of("-.jsonl.gz"), Ok(SourceLocation::Stdin(".jsonl.gz".to_owned())));
        assert_eq!(SourceLocation::of("-x"), Ok(SourceLocation::Path("-x".into())));
        for wrong in ["world:", "world:many", "world:0", "world:5:1:2", "world-patterns:0", "world-patterns:5:x"] {
            assert!(SourceLocation::of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns_are_no_records() {
        assert_eq!(SourceLocation::of_records("world:50"), SourceLocation::of("world:50"));
        assert_eq!(SourceLocation::of_records("a.jsonl"), SourceLocation::of("a.jsonl"));
        assert!(SourceLocation::of_records("world-patterns:50").unwrap_err().contains("no records"));
    }

    #[test]
    fn a_folder_gives_its_text_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("b")).unwrap();
        for name in ["z.txt", "b/a.jsonl.gz", ".hidden.txt", "image.png", "a.md.zst"] {
            crate::disk::write(&path.join(name), b"x").unwrap();
        }
        let found = inputs(path, OnBadRecord::Fail).unwrap();
        assert_eq!((&*found.left_out, found.hidden), (&[path.join("image.png")][..], 1));
        let said = found.notice(path).unwrap();
        assert!(
            said.ends_with(": 1 file of another kind is left out: image.png (1 hidden, too); to read one, name it")
        );
        let names: Vec<PathBuf> = found.files.into_iter().map(|i| i.path).collect();
        assert_eq!(names, ["a.md.zst", "b/a.jsonl.gz", "z.txt"].map(|n| path.join(n)));
    }

    #[test]
    fn a_folder_without_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(inputs(folder.path(), OnBadRecord::Skip).unwrap_err().to_string().contains("holds no file"));
        assert!(
            inputs(&folder.path().join("none"), OnBadRecord::Skip)
                .unwrap_err()
                .to_string()
                .contains("none cannot be read")
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_in_a_folder_is_refused_or_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        crate::disk::write(&path.join("a.txt"), b"x").unwrap();
        std::os::unix::fs::symlink("nowhere", path.join("b.txt")).unwrap();
        let said = format!("{:#}", inputs(path, OnBadRecord::Fail).unwrap_err());
        assert!(said.contains("b.txt cannot be read") && said.contains("--on-bad-record skip"), "{said}");
        let found = inputs(path, OnBadRecord::Skip).unwrap();
        assert_eq!((found.files.len(), found.unreadable.len()), (1, 1));
        assert_eq!(found.unreadable[0].0, path.join("b.txt"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_left_out_of_a_folder_and_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let fifo = path.join("a.txt");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(path.join("b.txt")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path.join("c.txt")).unwrap();
        crate::disk::write(&path.join("d.txt"), b"x").unwrap();
        let found = inputs(path, OnBadRecord::Fail).unwrap();
        assert_eq!((found.files.len(), found.left_out.len()), (1, 3));
        for (name, kind) in [("a.txt", "a FIFO"), ("b.txt", "a socket"), ("c.txt", "a character device")] {
            let said = format!("{:#}", inputs(&path.join(name), OnBadRecord::Fail).unwrap_err());
            assert!(said.contains(&format!("{name} is {kind}")) && said.contains("--data -"), "{said}");
            assert!(open(&path.join(name), &|_| ()).is_err(), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_not_utf_8_is_refused_before_anything_is_read() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"a\xff.txt");
        crate::disk::write(&folder.path().join(name), b"x").unwrap();
        let said = inputs(folder.path(), OnBadRecord::Fail).unwrap_err().to_string();
        assert!(said.contains("a\u{fffd}.txt is not valid UTF-8"), "{said}");
    }

    #[test]
    fn contradictions_are_problems() {
        let source = |path: &str, weight| SourceConfig { path: path.to_owned(), weight };
        let config = DataConfig {
            sources: vec![
                source("/", Some(-1.0)),
                source("-", None),
                source("-", None),
                source("world-patterns:x", None),
            ],
            val_fraction: 0.9,
            ..DataConfig::default()
        };
        let mut problems = Problems::default();
        config.check(&mut problems);
        let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["val_fraction", "sources", "sources.0.weight", "sources.3.path", "sources"]);
    }
}
