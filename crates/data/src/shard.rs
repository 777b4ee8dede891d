//! Token files, with a manifest that says what they hold.
//!
//! A token file is raw little-endian u16 (u32 for vocabularies over 65,536), as `numpy.memmap` reads it. `manifest.json`
//! beside the files names, for each source, the segments that make its training and its validation part.

use crate::disk;
use crate::inputs::InputFile;
use crate::losses::Losses;
use crate::mapped::Mapped;
use crate::progress::{Progress, Unit};
use crate::skipped::Skipped;
use crate::source::OnBadRecord;
use crate::tokenizer::TokenizerKind;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// Grows when folders written before can no longer be read.
pub(crate) const FORMAT: u32 = 2;

/// What a prepared folder holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] when it was written.
    pub format: u32,
    /// What it was made from; a folder with an equal request need not be made again.
    pub request: CorpusRequest,
    /// [`crate::tokenizer::Tokenizer::fingerprint`] of the tokenizer in the same folder.
    pub tokenizer: String,
    /// Entries of that tokenizer: every token is below it.
    pub vocab_size: u64,
    /// Bytes of a token: 2 or 4.
    pub token_bytes: u64,
    /// One for each source, in the request's order.
    pub sources: Vec<ShardSource>,
}

/// What text was asked for, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CorpusRequest {
    /// Path of each source, and the files it stood for.
    pub sources: Vec<(String, Vec<InputFile>)>,
    /// Key of the text in JSONL records.
    pub text_key: String,
    /// What became of bad records.
    pub on_bad_record: OnBadRecord,
    /// Share held out.
    pub val_fraction: f64,
    /// The tokenizer.
    pub tokenizer: TokenizerRequest,
}

/// Which tokenizer was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerRequest {
    /// One that was there, by its fingerprint.
    Loaded(String),
    /// One trained on the text.
    Trained(TokenizerKind, Option<usize>),
}

/// A source as it was tokenized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardSource {
    /// Its path.
    pub path: String,
    /// Its share of the windows, if it was given one.
    pub weight: Option<f64>,
    /// Documents.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// Records left out.
    pub skipped: Skipped,
    /// Characters that the vocabulary lacks.
    #[serde(default, skip_serializing_if = "Losses::is_none")]
    pub losses: Losses,
    /// Training part.
    pub train: Vec<ShardSegment>,
    /// Validation part.
    pub val: Vec<ShardSegment>,
    /// BLAKE3 of the token files, in the order they were written.
    pub digest: String,
}

/// Tokens in a row in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSegment {
    /// Name of the file in the folder of the manifest.
    pub file: String,
    /// Number of the first token.
    pub first: u64,
    /// How many.
    pub tokens: u64,
}

impl Manifest {
    /// Whether `folder` is one that gptkit prepared, of whatever version.
    pub fn is_in(folder: &Path) -> bool {
        let text = disk::read_description(&folder.join(MANIFEST)).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        ["format", "request", "token_bytes"].iter().all(|key| json.get(key).is_some())
    }

    /// Reads the manifest of `folder`.
    ///
    /// # Errors
    /// When there is none, or it is damaged, or another version's.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let text = disk::read_description(&path)?;
        let manifest: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; run `gptkit prepare` again", path.display()))?;
        ensure!(
            manifest.format == FORMAT,
            "{} has format {}, but this gptkit reads format {FORMAT}; run `gptkit prepare` again",
            path.display(),
            manifest.format
        );
        Ok(manifest)
    }

    /// The same for folders whose tokens are the same, divided the same way.
    pub fn fingerprint(&self) -> String {
        let part = |segments: &[ShardSegment]| {
            let one = |s: &ShardSegment| {
                format!("Segment {{ file: {:?}, first: {}, tokens: {} }}", s.file, s.first, s.tokens)
            };
            segments.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let source =
            |s: &ShardSource| format!("({:?}, {:?}, [{}], [{}])", s.digest, s.weight, part(&s.train), part(&s.val));
        let sources = self.sources.iter().map(source).collect::<Vec<_>>().join(", ");
        let text = format!("{} {} [{sources}]", self.tokenizer, self.token_bytes); // runs that exist hold a hash of it
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// Tokens of all sources.
#[derive(Debug)]
pub struct Corpus {
    /// Training parts; one for all sources when they have no weights.
    pub train: Vec<MixtureShare>,
    /// Validation parts, as those for training.
    pub val: Vec<MixtureShare>,
}

/// A part of a mixture.
#[derive(Debug, Clone)]
pub struct MixtureShare {
    /// Path of its source, or of the first of several.
    pub name: String,
    /// Its share, relative to the others'.
    pub weight: f64,
    /// Its tokens.
    pub tokens: ShardTokens,
}

impl Corpus {
    /// Maps the files of `folder` into memory.
    ///
    /// # Errors
    /// When the manifest is damaged, or a file is missing or shorter than it says.
    pub fn open(folder: &Path, manifest: &Manifest) -> Result<Self> {
        ensure!(
            matches!(manifest.token_bytes, 2 | 4),
            "{} has tokens of {} bytes; only 2 and 4 are supported",
            folder.display(),
            manifest.token_bytes
        );
        let mut files = Files { folder: folder.to_owned(), wide: manifest.token_bytes == 4, maps: HashMap::new() };
        let (mut train, mut val): (Vec<MixtureShare>, Vec<MixtureShare>) = (Vec::new(), Vec::new());
        for source in &manifest.sources {
            for (parts, segments) in [(&mut train, &source.train), (&mut val, &source.val)] {
                let mut tokens = ShardTokens::default();
                for segment in segments {
                    tokens.push(files.part(segment)?);
                }
                match (source.weight, parts.first_mut()) {
                    (None, Some(all)) => tokens.parts.into_iter().for_each(|part| all.tokens.push(part)),
                    (weight, _) => {
                        parts.push(MixtureShare { name: source.path.clone(), weight: weight.unwrap_or(1.0), tokens })
                    }
                }
            }
        }
        Ok(Self { train, val })
    }

    /// Compares the token files of `folder` with the digests in its manifest.
    ///
    /// # Errors
    /// When a token has changed since the text was prepared, or a file cannot be read.
    pub fn verify(folder: &Path, manifest: &Manifest, progress: &dyn Progress) -> Result<()> {
        let mut paths: Vec<(&ShardSource, [Vec<PathBuf>; 2])> = Vec::new();
        let mut total = 0;
        for (i, source) in manifest.sources.iter().enumerate() {
            let files = ["train", "val"].map(|part| files_of(folder, source, &format!("{i}-{part}-")));
            for path in files.iter().flatten() {
                total += path.metadata().map_or(0, |metadata| metadata.len());
            }
            paths.push((source, files));
        }
        let task = (total > WORTH_A_WORD).then(|| progress.task("checking the text", Some(total), Unit::Bytes));
        for (source, files) in paths {
            let mut both = Vec::new();
            for files in files {
                let mut hasher = blake3::Hasher::new();
                for path in files {
                    for piece in map(&path)?.chunks(1 << 26) {
                        hasher.update_rayon(piece);
                        task.iter().for_each(|task| task.advance(piece.len() as u64));
                    }
                }
                both.extend_from_slice(hasher.finalize().as_bytes());
            }
            ensure!(
                blake3::hash(&both).to_hex().as_str() == source.digest,
                "the token files of {} in {} do not match their checksum; run `gptkit prepare` again",
                source.path,
                folder.display()
            );
        }
        Ok(())
    }

    /// Tokens of the training part.
    pub fn train_tokens(&self) -> u64 {
        self.train.iter().map(|part| part.tokens.len()).sum()
    }
}

/// Bytes whose reading takes seconds.
const WORTH_A_WORD: u64 = 4 << 30;

/// The files of `source` in `folder` whose names begin with `prefix`, in the order they were written.
fn files_of(folder: &Path, source: &ShardSource, prefix: &str) -> Vec<PathBuf> {
    let segments = source.train.iter().chain(&source.val);
    let mut names: Vec<&str> = segments.map(|s| s.file.as_str()).filter(|file| file.starts_with(prefix)).collect();
    names.sort_by_key(|name| (name.len(), *name)); // their numbers have three digits or more
    names.dedup();
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Files already mapped.
struct Files {
    folder: PathBuf,
    wide: bool,
    maps: HashMap<String, Arc<Mapped>>,
}

impl Files {
    fn part(&mut self, segment: &ShardSegment) -> Result<ShardPart> {
        let path = self.folder.join(&segment.file);
        ensure!(
            Path::new(&segment.file).file_name().is_some_and(|f| f == segment.file.as_str()),
            "{} refers to the file {}, which is not in the same folder",
            self.folder.join(MANIFEST).display(),
            segment.file
        );
        let map = match self.maps.get(&segment.file) {
            Some(map) => Arc::clone(map),
            None => {
                let map = Arc::new(map(&path)?);
                self.maps.insert(segment.file.clone(), Arc::clone(&map));
                map
            }
        };
        let have = map.len() as u64 / if self.wide { 4 } else { 2 };
        let want = segment.first.checked_add(segment.tokens);
        match want {
            Some(want) if want <= have => {}
            _ => bail!(
                "{} contains {have} of {} tokens; run `gptkit prepare` again",
                path.display(),
                want.map_or("too many".to_owned(), |n| n.to_string())
            ),
        }
        Ok(ShardPart { map, wide: self.wide, first: segment.first as usize, len: segment.tokens as usize })
    }
}

fn map(path: &Path) -> Result<Mapped> {
    Mapped::open(path).context("run `gptkit prepare` again")
}

/// A row of tokens over several files.
#[derive(Debug, Clone, Default)]
pub struct ShardTokens {
    parts: Vec<ShardPart>,
    /// Tokens up to the end of each part.
    ends: Vec<u64>,
}

#[derive(Debug, Clone)]
struct ShardPart {
    map: Arc<Mapped>,
    wide: bool,
    first: usize,
    len: usize,
}

impl ShardTokens {
    fn push(&mut self, part: ShardPart) {
        self.ends.push(self.len() + part.len as u64);
        self.parts.push(part);
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds tokens `start .. start + n` to `out`; after the last comes the first again.
    ///
    /// # Panics
    /// When there is none.
    pub fn read(&self, start: u64, n: usize, out: &mut Vec<u32>) {
        assert!(!self.is_empty(), "tokens are read from an empty part");
        let mut at = start % self.len();
        let mut left = n;
        while left > 0 {
            let index = self.ends.partition_point(|&end| end <= at);
            let part = &self.parts[index];
            let skip = part.len - (self.ends[index] - at) as usize;
            let take = left.min(part.len - skip);
            part.read(skip, take, out);
            left -= take;
            at = (at + take as u64) % self.len();
        }
    }
}

impl ShardPart {
    fn read(&self, skip: usize, take: usize, out: &mut Vec<u32>) {
        let start = self.first + skip;
        if self.wide {
            let (tokens, _) = self.map[4 * start..4 * (start + take)].as_chunks();
            out.extend(tokens.iter().map(|&t| u32::from_le_bytes(t)));
        } else {
            let (tokens, _) = self.map[2 * start..2 * (start + take)].as_chunks();
            out.extend(tokens.iter().map(|&t| u32::from(u16::from_le_bytes(t))));
        }
    }
}

/// Writes tokens into files of bounded size.
pub(crate) struct Writer {
    folder: PathBuf,
    name: String,
    wide: bool,
    file: Option<std::io::BufWriter<File>>,
    pub(crate) segments: Vec<ShardSegment>,
    /// Of all that was written.
    pub(crate) hasher: blake3::Hasher,
}

/// Tokens of a file at most: 200 MB of u16.
const FILE_TOKENS: u64 = 100_000_000;

impl Writer {
    pub(crate) fn new(folder: &Path, name: String, wide: bool) -> Self {
        let hasher = blake3::Hasher::new();
        Self { folder: folder.to_owned(), name, wide, file: None, segments: Vec::new(), hasher }
    }

    pub(crate) fn write(&mut self, tokens: &[u32]) -> Result<()> {
        use std::io::Write as _;
        if self.segments.last().is_none_or(|s| s.tokens >= FILE_TOKENS) {
            self.next_file()?;
        }
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.last_mut()) else {
            bail!("no token file is open");
        };
        let width = if self.wide { 4 } else { 2 };
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes().into_iter().take(width)).collect();
        self.hasher.update(&bytes);
        file.write_all(&bytes)
            .with_context(|| format!("{} cannot be written", self.folder.join(&segment.file).display()))?;
        segment.tokens += tokens.len() as u64;
        Ok(())
    }

    fn next_file(&mut self) -> Result<()> {
        self.finish()?;
        let file = format!("{}-{:03}.bin", self.name, self.segments.len());
        let path = self.folder.join(&file);
        #[expect(clippy::disallowed_methods, reason = "the folder is published as a whole")]
        let created = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        self.file = Some(std::io::BufWriter::with_capacity(1 << 18, created));
        self.segments.push(ShardSegment { file, first: 0, tokens: 0 });
        Ok(())
    }

    /// Writes what is still in memory.
    pub(crate) fn finish(&mut self) -> Result<()> {
        use std::io::Write as _;
        match self.file.take() {
            Some(mut file) => file.flush().with_context(|| format!("{} cannot be written", self.folder.display())),
            None => Ok(()),
        }
    }
}

/// Divides `segments` after the first `n` tokens.
pub(crate) fn divide(segments: Vec<ShardSegment>, n: u64) -> (Vec<ShardSegment>, Vec<ShardSegment>) {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let mut left = n;
    for segment in segments {
        let before = left.min(segment.tokens);
        left -= before;
        if before > 0 {
            head.push(ShardSegment { tokens: before, ..segment.clone() });
        }
        if before < segment.tokens {
            tail.push(ShardSegment { first: segment.first + before, tokens: segment.tokens - before, ..segment });
        }
    }
    (head, tail)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_stays_what_runs_have_stored() {
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "format": 2,
            "request": {
                "sources": [["world", []]],
                "text_key": "text",
                "on_bad_record": "fail",
                "val_fraction": 0.1,
                "tokenizer": { "trained": ["char", null] },
            },
            "tokenizer": "826ccd427312ef48",
            "vocab_size": 59,
            "token_bytes": 2,
            "sources": [{
                "path": "world",
                "weight": null,
                "documents": 10000,
                "bytes": 10_817_489,
                "skipped": { "first": null, "invalid_utf8": 0, "empty": 0, "malformed": 0 },
                "train": [{ "file": "0-train-000.bin", "first": 0, "tokens": 9_748_629 }],
                "val": [{ "file": "0-val-000.bin", "first": 0, "tokens": 1_078_860 }],
                "digest": "7238eedb63cbb252a051f43716f785394e6346f681d2d7aca5953af3da2d7e72",
            }],
        }))
        .unwrap();
        assert_eq!(manifest.fingerprint(), "364c9ba644f47e5d");
    }

    /// A corpus with parts of tokens 0, 1, 2 … of the given counts, and a validation part of `val` such tokens.
    pub(crate) fn corpus(parts: &[(u32, Option<f64>)], val: u32) -> Corpus {
        let folder = tempfile::tempdir().unwrap();
        let count = |name: &str, n: u32| {
            let mut writer = Writer::new(folder.path(), name.to_owned(), false);
            writer.write(&(0..n).collect::<Vec<_>>()).unwrap();
            writer.finish().unwrap();
            tokens(folder.path(), false, &writer.segments).unwrap()
        };
        let part = |(i, &(n, weight)): (usize, &(u32, Option<f64>))| MixtureShare {
            name: format!("source-{i}"),
            weight: weight.unwrap_or(1.0),
            tokens: count(&format!("{i}-train"), n),
        };
        let val = MixtureShare { name: "source-0".to_owned(), weight: 1.0, tokens: count("val", val) };
        // The maps outlive the files.
        Corpus { train: parts.iter().enumerate().map(part).collect(), val: vec![val] }
    }

    fn written(wide: bool) -> (tempfile::TempDir, Vec<ShardSegment>) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(folder.path(), "0-train".to_owned(), wide);
        writer.write(&(0..10).collect::<Vec<_>>()).unwrap();
        writer.finish().unwrap();
        let segments = writer.segments;
        (folder, segments)
    }

    fn tokens(folder: &Path, wide: bool, segments: &[ShardSegment]) -> Result<ShardTokens> {
        let mut files = Files { folder: folder.to_owned(), wide, maps: HashMap::new() };
        let mut tokens = ShardTokens::default();
        for segment in segments {
            tokens.push(files.part(segment)?);
        }
        Ok(tokens)
    }

    #[test]
    fn tokens_come_back_across_segments_and_round_the_end() {
        for wide in [false, true] {
            let (folder, segments) = written(wide);
            let (head, tail) = divide(segments, 4);
            let parts: Vec<ShardSegment> = tail.into_iter().chain(head).collect(); // 4..10, 0..4
            let tokens = tokens(folder.path(), wide, &parts).unwrap();
            let mut out = Vec::new();
            tokens.read(3, 9, &mut out);
            assert_eq!(out, [7, 8, 9, 0, 1, 2, 3, 4, 5]);
        }
    }

    #[test]
    fn a_file_shorter_than_the_manifest_says_is_refused() {
        let (folder, mut segments) = written(false);
        segments[0].tokens = 11;
        let message = tokens(folder.path(), false, &segments).unwrap_err().to_string();
        assert!(message.contains("0-train-000.bin contains 10 of 11 tokens; run `gptkit prepare` again"), "{message}");
        segments[0].first = u64::MAX;
        assert!(tokens(folder.path(), false, &segments).unwrap_err().to_string().contains("too many"));
    }

    #[test]
    fn a_manifest_cannot_lead_out_of_its_folder() {
        let (folder, mut segments) = written(false);
        segments[0].file = "../0-train-000.bin".to_owned();
        assert!(tokens(folder.path(), false, &segments).unwrap_err().to_string().contains("not in the same folder"));
    }
}
