//! Documents → shards, once: tokenized in parallel and streaming, with memory that does not grow with the text.

use crate::disk;
use crate::losses::Losses;
use crate::progress::{Progress, ProgressTask, Unit};
use crate::remarks::Remarks;
use crate::shard::{
    Corpus, CorpusRequest, FORMAT, MANIFEST, Manifest, ShardSegment, ShardSource, TokenizerRequest, Writer, divide,
};
use crate::source::{self, DataConfig, InputFile, Inputs, OnBadRecord, SourceLocation, SyntheticText};
use crate::stitch::Stitcher;
use crate::synthetic::{SyntheticPatterns, SyntheticStories};
use crate::text::{CutPoint, TextReader};
use crate::tokenizer::{LONGEST_LEARNED_WORD, Tokenizer, TokenizerConfig, TokenizerKind, in_short_words};
use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use crate::text::{Skipped, TextPiece};

/// Text ready for training.
#[derive(Debug)]
pub struct Prepared {
    /// Where it lies.
    pub folder: PathBuf,
    /// Its tokens.
    pub corpus: Arc<Corpus>,
    /// What made them.
    pub tokenizer: Tokenizer,
    /// [`Manifest::fingerprint`] of the folder.
    pub fingerprint: String,
}

/// Bytes of text that a byte-level tokenizer is trained on, over all sources.
const TRAINING_SAMPLE: u64 = 100_000_000;
/// Pieces tokenized together: with 64 KiB each, enough for some threads and little memory.
const PIECES: usize = 64;

/// Turns the text of `data` into token shards in `out`, or below `data.shards`; what is there already and still right is
/// used as it is. A source that is itself such a folder is opened.
///
/// # Errors
/// When text, tokenizer or folder cannot be used; nothing that was there is lost.
pub fn prepare(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    out: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Prepared> {
    if let [only] = &*data.sources
        && Manifest::is_in(Path::new(&only.path))
    {
        ensure!(out.is_none(), "{} is prepared already; leave out --out", only.path);
        return open(Path::new(&only.path), tokenizer, progress);
    }
    let mut places = places(data)?;
    let mut loaded = tokenizer.path.as_deref().map(Tokenizer::load).transpose()?;
    // Shards do not hold the uses of special tokens and the templates that a tokenizer's folder names.
    let with_loaded = |prepared: Prepared, loaded: Option<Tokenizer>| match loaded {
        Some(tokenizer) => Prepared { tokenizer, ..prepared },
        None => prepared,
    };
    let request = request(data, tokenizer, loaded.as_ref(), &places, progress)?;
    let folder = out.map_or_else(|| data.shards.join(folder_name(&request)), Path::to_owned);
    let reads_stdin = places.iter().any(|place| matches!(place, SourceLocation::Stdin(_)));
    if !reads_stdin && let Some(prepared) = reuse(&folder, &request, data, progress)? {
        return Ok(with_loaded(prepared, loaded.take()));
    }
    refuse_foreign(&folder)?;
    // Another process may prepare the same text at this moment: what it makes is taken.
    let _turn = match out {
        Some(_) => None,
        None => Some(turn(data, progress)?),
    };
    if !reads_stdin && let Some(prepared) = reuse(&folder, &request, data, progress)? {
        return Ok(with_loaded(prepared, loaded.take()));
    }

    let (manifest, tokenizer) = disk::folder_with(&folder, |made| {
        let spooled = spool(&mut places, made)?;
        let texts = Texts::new(data, places, progress);
        let tokenizer = match loaded {
            Some(tokenizer) => tokenizer,
            None => texts.train(tokenizer)?,
        };
        let sources = texts.tokenize(&tokenizer, made)?;
        if let Some(path) = spooled {
            std::fs::remove_file(path)?;
        }
        let manifest = Manifest {
            format: FORMAT,
            request,
            tokenizer: tokenizer.fingerprint()?,
            vocab_size: tokenizer.vocab_size() as u64,
            token_bytes: if wide(&tokenizer) { 4 } else { 2 },
            sources: hold_out(sources, data.val_fraction, progress)?,
        };
        write_manifest(made, &manifest)?;
        tokenizer.save(made)?;
        Ok((manifest, tokenizer))
    })?;
    say(&folder, "new", &manifest, progress);
    let fingerprint = manifest.fingerprint();
    Ok(Prepared { corpus: Arc::new(Corpus::open(&folder, &manifest)?), folder, tokenizer, fingerprint })
}

/// Waits until no other process prepares text in the same folder; nobody else does until the result is dropped.
fn turn(data: &DataConfig, progress: &dyn Progress) -> Result<File> {
    disk::create_dir(&data.shards)?;
    let mut waits = false;
    loop {
        if let Some(lock) = disk::lock(&data.shards)? {
            return Ok(lock);
        }
        if !waits {
            progress.note(&format!("waiting for another process that prepares text in {}", data.shards.display()));
        }
        waits = true;
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Where each source lies.
fn places(data: &DataConfig) -> Result<Vec<SourceLocation>> {
    if let Some(prepared) = data.sources.iter().find(|s| Manifest::is_in(Path::new(&s.path))) {
        bail!("{} is prepared text, which can only be the one source; name what it was made from", prepared.path);
    }
    data.sources.iter().map(|s| SourceLocation::of(&s.path).map_err(|e| anyhow!("{}: {e}", s.path))).collect()
}

/// Opens a prepared folder, whose tokenizer must be the one asked for, if one is.
fn open(folder: &Path, wanted: &TokenizerConfig, progress: &dyn Progress) -> Result<Prepared> {
    let manifest = Manifest::read(folder)?;
    let mut tokenizer = Tokenizer::load(folder)?;
    ensure!(
        tokenizer.fingerprint()? == manifest.tokenizer,
        "{} holds another tokenizer than its tokens were made with; run `gptkit prepare` again",
        folder.display()
    );
    if let Some(path) = &wanted.path {
        tokenizer = Tokenizer::load(path)?;
        ensure!(
            tokenizer.fingerprint()? == manifest.tokenizer,
            "{} was made with another tokenizer than {}; run `gptkit prepare` again with it",
            folder.display(),
            path.display()
        );
    }
    let corpus = Corpus::open(folder, &manifest)?;
    Corpus::verify(folder, &manifest, progress)?;
    say(folder, "unchanged", &manifest, progress);
    let fingerprint = manifest.fingerprint();
    Ok(Prepared { corpus: Arc::new(corpus), folder: folder.to_owned(), tokenizer, fingerprint })
}

/// The folder as it is, when it was made from the same request; weights may differ, they cost nothing.
fn reuse(
    folder: &Path,
    request: &CorpusRequest,
    data: &DataConfig,
    progress: &dyn Progress,
) -> Result<Option<Prepared>> {
    let Ok(mut manifest) = Manifest::read(folder) else { return Ok(None) };
    if &manifest.request != request {
        return Ok(None);
    }
    let weights: Vec<Option<f64>> = data.sources.iter().map(|s| s.weight).collect();
    if manifest.sources.iter().map(|s| s.weight).ne(weights.iter().copied()) {
        for (source, weight) in manifest.sources.iter_mut().zip(weights) {
            source.weight = weight;
        }
        write_manifest(folder, &manifest)?;
    }
    match open(folder, &TokenizerConfig::default(), progress) {
        Ok(prepared) => Ok(Some(prepared)),
        Err(e) => {
            progress.warn(&format!("{e:#}: it is made again"));
            Ok(None)
        }
    }
}

/// A folder that holds something else is not overwritten.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let taken = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !taken || Manifest::is_in(folder),
        "{} is not empty and no prepared text; choose another",
        folder.display()
    );
    Ok(())
}

/// Names the sources that the prepared text in `folder` was made from and that have changed since. Relative paths lead from
/// `from`. A source that is no longer there is not named.
///
/// # Errors
/// When `folder` holds no prepared text.
pub fn changed_since(folder: &Path, from: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, before) in Manifest::read(folder)?.request.sources {
        let Ok(SourceLocation::Path(place)) = SourceLocation::of(&path) else { continue };
        let Ok(now) = source::inputs(&from.join(place), OnBadRecord::Skip) else { continue };
        let absolute = |input: &InputFile| InputFile { path: from.join(&input.path), ..input.clone() };
        if before.iter().map(absolute).ne(now.files.iter().map(absolute)) {
            found.push(path);
        }
    }
    Ok(found)
}

fn request(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    loaded: Option<&Tokenizer>,
    places: &[SourceLocation],
    progress: &dyn Progress,
) -> Result<CorpusRequest> {
    let inputs = |place: &SourceLocation| {
        let SourceLocation::Path(path) = place else { return Ok(Vec::new()) };
        let found = source::inputs(path, data.on_bad_record)?;
        found.notice(path).iter().for_each(|line| progress.warn(line));
        anyhow::Ok(found.files)
    };
    let sources = data.sources.iter().zip(places).map(|(s, place)| Ok((s.path.clone(), inputs(place)?)));
    Ok(CorpusRequest {
        sources: sources.collect::<Result<_>>()?,
        text_key: data.text_key.clone(),
        on_bad_record: data.on_bad_record,
        val_fraction: data.val_fraction,
        tokenizer: match loaded {
            Some(tokenizer) => TokenizerRequest::Loaded(tokenizer.fingerprint()?),
            None => TokenizerRequest::Trained(tokenizer.kind(), tokenizer.vocab_size),
        },
    })
}

/// `tinyshakespeare-3f9a0c12`: readable, and another for other sources or tokenizers; a changed file keeps its folder.
fn folder_name(request: &CorpusRequest) -> String {
    let paths: Vec<&String> = request.sources.iter().map(|(path, _)| path).collect();
    let files: Vec<&PathBuf> = request.sources.iter().flat_map(|(_, inputs)| inputs.iter().map(|i| &i.path)).collect();
    let key = blake3::hash(
        format!(
            "{paths:?} {files:?} {:?} {} {} {:?}",
            request.tokenizer, request.text_key, request.val_fraction, request.on_bad_record
        )
        .as_bytes(),
    );
    let first = paths.first().map_or("", |p| p.as_str());
    let name = Path::new(first).file_name().unwrap_or_default().to_string_lossy();
    let stem: String = name
        .split(['.', ':'])
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == '-')
        .collect();
    format!("{}-{}", if stem.is_empty() || stem == "-" { "text" } else { &stem }, &key.to_hex()[..8])
}

/// Copies stdin into `folder`, since it can be read only once, and puts the copy in its place.
fn spool(places: &mut [SourceLocation], folder: &Path) -> Result<Option<PathBuf>> {
    for place in places {
        if let SourceLocation::Stdin(ending) = place {
            let path = folder.join(format!("stdin{ending}"));
            source::spool_stdin(&path)?;
            *place = SourceLocation::Path(path.clone());
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest)? + "\n";
    disk::write(&folder.join(MANIFEST), text.as_bytes())
}

fn wide(tokenizer: &Tokenizer) -> bool {
    tokenizer.vocab_size() > 1 << 16
}

fn say(folder: &Path, state: &str, manifest: &Manifest, progress: &dyn Progress) {
    let tokens = |part: fn(&ShardSource) -> &[ShardSegment]| -> u64 {
        manifest.sources.iter().flat_map(part).map(|s| s.tokens).sum()
    };
    let documents: u64 = manifest.sources.iter().map(|s| s.documents).sum();
    let skipped: u64 = manifest.sources.iter().map(|s| s.skipped.total()).sum();
    let bytes: u64 = manifest.sources.iter().map(|s| s.bytes).sum();
    let (train, val) = (tokens(|s| &s.train), tokens(|s| &s.val));
    progress.note(&format!(
        "text {} ({state}): {documents} documents, {:.1} MB, {train} tokens to train on, {val} to validate, vocabulary {}",
        folder.display(),
        bytes as f64 / 1e6,
        manifest.vocab_size
    ));
    if state != "new" {
        manifest.sources.iter().for_each(|source| source.losses.warn(&source.path, progress));
    }
    if skipped > 0 {
        let first = manifest.sources.iter().find_map(|s| s.skipped.first.as_deref()).unwrap_or_default();
        progress.warn(&format!(
            "{skipped} bad records were left out, the first: {first} (counts by kind in manifest.json)"
        ));
    }
}

/// Hands the documents of `path`, a source as [`crate::source::SourceConfig::path`] names it, to `sink`, in pieces that
/// [`Stitcher`] encodes with `tokenizer`.
///
/// # Errors
/// When it is stdin or prepared text, cannot be read, holds a bad record unless these are left out, or `sink` fails.
pub fn read_text(
    path: &str,
    tokenizer: &Tokenizer,
    on_bad_record: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(TextPiece) -> Result<()>,
) -> Result<Skipped> {
    let place = SourceLocation::of(path).map_err(|what| anyhow!("{path}: {what}"))?;
    let data = DataConfig { on_bad_record, ..DataConfig::default() };
    Texts::new(&data, Vec::new(), progress).read(&place, &format!("reading {path}"), tokenizer.cut(), sink)
}

/// The sources being read.
struct Texts<'a> {
    data: &'a DataConfig,
    places: Vec<SourceLocation>,
    progress: &'a dyn Progress,
    /// Warnings so far: text is read more than once, and they are given once.
    said: Mutex<HashSet<String>>,
}

impl<'a> Texts<'a> {
    fn new(data: &'a DataConfig, places: Vec<SourceLocation>, progress: &'a dyn Progress) -> Self {
        Self { data, places, progress, said: Mutex::default() }
    }

    fn warn(&self, remarks: &Remarks) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        remarks.lines().filter(|line| said.insert(line.clone())).for_each(|line| self.progress.warn(&line));
    }

    /// A tokenizer learned from the text: characters from all of it, pairs from a sample of bounded size.
    fn train(&self, config: &TokenizerConfig) -> Result<Tokenizer> {
        match config.kind() {
            TokenizerKind::Char => {
                let mut characters = BTreeSet::new();
                for place in &self.places {
                    self.read(place, "characters", CutPoint::Anywhere, &mut |piece| {
                        characters.extend(piece.text.chars());
                        Ok(())
                    })?;
                }
                Tokenizer::of_characters(&characters)
            }
            TokenizerKind::Bpe => {
                let tokenizer = self.train_bpe(config.vocab_size)?;
                if let Some(asked) = config.vocab_size.filter(|&n| n > tokenizer.vocab_size()) {
                    self.progress.note(&format!(
                        "the text has pairs for {} entries, fewer than the {asked} asked for",
                        tokenizer.vocab_size()
                    ));
                }
                Ok(tokenizer)
            }
        }
    }

    fn train_bpe(&self, vocab_size: Option<usize>) -> Result<Tokenizer> {
        let share = TRAINING_SAMPLE / self.places.len() as u64;
        let (send, receive) = sync_channel::<String>(PIECES);
        let is_trained = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let is_trained = &is_trained;
            let reader = scope.spawn(move || {
                let mut has_long_words = false;
                for place in &self.places {
                    let mut taken = 0;
                    let read = self.read(place, "read for the tokenizer", CutPoint::Words, &mut |piece| {
                        taken += piece.text.len() as u64;
                        has_long_words |= in_short_words(&piece.text).nth(1).is_some();
                        // An error ends the reading; it is told apart from a real one by its type.
                        if taken > share || send.send(piece.text).is_err() { Err(Enough.into()) } else { Ok(()) }
                    });
                    match read {
                        Err(e) if e.is::<Enough>() => self.progress.note(&format!(
                            "the tokenizer is trained on the first {} MB of {}",
                            share / 1_000_000,
                            name(place)
                        )),
                        other => {
                            other?;
                        }
                    }
                }
                drop(send);
                if has_long_words {
                    self.progress.note(&format!(
                        "words of more than {LONGEST_LEARNED_WORD} characters are cut for training the tokenizer"
                    ));
                }
                self.show_training(is_trained);
                Ok(())
            });
            let tokenizer = Tokenizer::train_bpe(vocab_size, receive.into_iter());
            is_trained.store(true, Ordering::Relaxed);
            reader.thread().unpark();
            joined(reader.join())?;
            tokenizer
        })
    }

    /// Shows that pairs are being merged, which the library does not report, until `is_trained`.
    fn show_training(&self, is_trained: &AtomicBool) {
        let mut task = None;
        loop {
            std::thread::park_timeout(Duration::from_secs(1));
            if is_trained.load(Ordering::Relaxed) {
                return;
            }
            task.get_or_insert_with(|| self.progress.task("training the tokenizer, seconds", None, Unit::Items))
                .advance(1);
        }
    }

    /// Tokenizes every source into files in `folder`.
    fn tokenize(&self, tokenizer: &Tokenizer, folder: &Path) -> Result<Vec<ShardSource>> {
        if tokenizer.document_end().is_none() {
            self.progress.warn("this tokenizer has no token that ends a text: documents follow each other unmarked");
        }
        let sources = self.data.sources.iter().zip(&self.places).enumerate();
        sources
            .map(|(i, (config, place))| {
                let mut parts = SplitWriters {
                    tokenizer,
                    val_fraction: self.data.val_fraction,
                    train: Writer::new(folder, format!("{i}-train"), wide(tokenizer)),
                    val: Writer::new(folder, format!("{i}-val"), wide(tokenizer)),
                    held_out: false,
                    documents: 0,
                    bytes: 0,
                    losses: Losses::default(),
                    progress: self.progress,
                };
                let (send, receive) = sync_channel::<TextPiece>(2 * PIECES);
                let skipped = std::thread::scope(|scope| {
                    let reader = scope.spawn(move || {
                        self.read(place, "tokenize", tokenizer.cut(), &mut |piece| {
                            // The receiver is gone when tokenizing failed, which is the error to be told.
                            send.send(piece).map_err(|_| Enough.into())
                        })
                    });
                    let tokenized = parts.take(receive);
                    let read = joined(reader.join());
                    tokenized.and(read)
                })?;
                parts.train.finish()?;
                parts.val.finish()?;
                parts.losses.check(&config.path, self.progress)?;
                Ok(ShardSource {
                    path: config.path.clone(),
                    weight: config.weight,
                    documents: parts.documents,
                    bytes: parts.bytes,
                    skipped,
                    losses: parts.losses,
                    digest: blake3::hash(
                        &[parts.train.hasher, parts.val.hasher].map(|h| *h.finalize().as_bytes()).concat(),
                    )
                    .to_hex()
                    .to_string(),
                    train: parts.train.segments,
                    val: parts.val.segments,
                })
            })
            .collect()
    }

    /// Reads all documents of a source, in pieces.
    fn read(
        &self,
        place: &SourceLocation,
        label: &str,
        cut: CutPoint,
        sink: &mut dyn FnMut(TextPiece) -> Result<()>,
    ) -> Result<Skipped> {
        let mut reader = TextReader::new(self.data, cut, sink);
        match place {
            &SourceLocation::World { told, count, seed } => {
                let (stories, patterns) = (SyntheticStories::new(seed), SyntheticPatterns::new(seed));
                let task = self.progress.task(label, Some(count), Unit::Items);
                for index in 0..count {
                    let (name, text) = match told {
                        SyntheticText::Stories => ("world", stories.story(index)),
                        SyntheticText::Patterns => ("world-patterns", patterns.document(index)),
                    };
                    reader.document(Path::new(name), index + 1, &text)?;
                    task.advance(1);
                }
            }
            SourceLocation::Path(path) => {
                let Inputs { files: inputs, unreadable, .. } = source::inputs(path, self.data.on_bad_record)?;
                for (file, what) in &unreadable {
                    reader.unreadable(file, what)?;
                }
                let total = inputs.iter().map(|input| input.size).sum();
                let task = self.progress.task(label, Some(total), Unit::Bytes);
                for input in &inputs {
                    read_file(&mut reader, input, &*task)?;
                }
            }
            SourceLocation::Stdin(_) => bail!("stdin was read already"),
        }
        self.warn(&reader.remarks);
        Ok(reader.skipped)
    }
}

fn read_file(reader: &mut TextReader, input: &InputFile, task: &dyn ProgressTask) -> Result<()> {
    reader.file(&input.path, &|n| task.advance(n))
}

fn name(place: &SourceLocation) -> String {
    match place {
        SourceLocation::Path(path) => path.display().to_string(),
        SourceLocation::World { told: SyntheticText::Stories, .. } => "the world".to_owned(),
        SourceLocation::World { told: SyntheticText::Patterns, .. } => "the world's patterns".to_owned(),
        SourceLocation::Stdin(_) => "stdin".to_owned(),
    }
}

/// Ends a reading that has given enough.
#[derive(Debug)]
struct Enough;

impl std::fmt::Display for Enough {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("enough was read")
    }
}

impl std::error::Error for Enough {}

fn joined<T>(thread: std::thread::Result<Result<T>>) -> Result<T> {
    thread.map_err(|_| anyhow!("the reading thread failed"))?
}

/// Training and validation part of one source while they are written.
struct SplitWriters<'a> {
    tokenizer: &'a Tokenizer,
    val_fraction: f64,
    train: Writer,
    val: Writer,
    /// Whether the current document goes into the validation part.
    held_out: bool,
    documents: u64,
    bytes: u64,
    losses: Losses,
    progress: &'a dyn Progress,
}

impl SplitWriters<'_> {
    /// Tokenizes what comes, many pieces at a time, and writes it in the order it came.
    fn take(&mut self, receive: Receiver<TextPiece>) -> Result<()> {
        let mut stitcher = (!self.tokenizer.cuts_surely()).then(|| Stitcher::new(self.tokenizer));
        let mut is_warned = false;
        loop {
            // Tokens with their places take more memory than tokens alone.
            let together = if stitcher.is_some() { PIECES / 2 } else { PIECES };
            let pieces: Vec<TextPiece> = receive.iter().take(together).collect();
            if pieces.is_empty() {
                return Ok(());
            }
            match &mut stitcher {
                None => self.take_pieces(pieces)?,
                Some(stitcher) => {
                    for part in stitcher.push(pieces)? {
                        self.losses.merge(&part.losses);
                        self.write(&part.text, part.first, part.last, part.ids)?;
                    }
                    if stitcher.longest() > LONG && !is_warned {
                        is_warned = true;
                        self.progress.warn(
                            "the tokens of this tokenizer depend on text far before them, so that a document is encoded as \
                             a whole: this takes memory of about 200 times the longest document",
                        );
                    }
                }
            }
        }
    }

    /// Tokenizes pieces that have their tokens by themselves.
    fn take_pieces(&mut self, pieces: Vec<TextPiece>) -> Result<()> {
        let encode = |piece: &TextPiece| self.tokenizer.encode_document(&piece.text);
        let tokens: Vec<Vec<u32>> = pieces.par_iter().map(encode).collect::<Result<_>>()?;
        for (piece, tokens) in pieces.iter().zip(tokens) {
            if self.tokenizer.may_lose() {
                self.losses.merge(&self.tokenizer.losses_in_document(&piece.text, &tokens)?);
            }
            self.write(&piece.text, piece.first, piece.last, tokens)?;
        }
        Ok(())
    }

    /// Writes the tokens of a part of a document.
    fn write(&mut self, text: &str, first: bool, last: bool, mut tokens: Vec<u32>) -> Result<()> {
        if first {
            self.held_out = is_held_out(text, self.val_fraction);
            self.documents += 1;
        }
        if last {
            tokens.extend(self.tokenizer.document_end());
        }
        self.bytes += text.len() as u64;
        let part = if self.held_out { &mut self.val } else { &mut self.train };
        part.write(&tokens)
    }
}

/// Bytes that are encoded as one only where a tokenizer allows no cut.
const LONG: usize = 1 << 21;

/// Bytes of a document that decide where it goes.
const BEGINNING: usize = 1024;

/// Whether a document is held out: by a hash of how it begins, so that it stays where it is when others come or go, and
/// its copies go with it.
fn is_held_out(text: &str, val_fraction: f64) -> bool {
    let bytes = text.as_bytes();
    let hash = blake3::hash(&bytes[..bytes.len().min(BEGINNING)]);
    let (head, _) = hash.as_bytes().as_chunks::<8>();
    (u64::from_le_bytes(head[0]) as f64) < val_fraction * 2f64.powi(64)
}

/// Where the division by documents leaves a part empty, as in a corpus of one book, the end of the tokens is held out.
fn hold_out(mut sources: Vec<ShardSource>, val_fraction: f64, progress: &dyn Progress) -> Result<Vec<ShardSource>> {
    let tokens = |segments: &[ShardSegment]| segments.iter().map(|s| s.tokens).sum::<u64>();
    let all_held_out: u64 = sources.iter().map(|s| tokens(&s.val)).sum();
    for source in &mut sources {
        let (train, val) = (tokens(&source.train), tokens(&source.val));
        ensure!(train + val > 0, "{} has no documents", source.path);
        if val_fraction > 0.0 && (train == 0 || all_held_out == 0) {
            progress.note(&format!(
                "{} has too few documents to hold some out: its last {:.1}% of tokens are for validation",
                source.path,
                100.0 * val_fraction
            ));
            let all: Vec<ShardSegment> = source.train.drain(..).chain(source.val.drain(..)).collect();
            let kept = ((train + val) as f64 * (1.0 - val_fraction)).round() as u64;
            (source.train, source.val) = divide(all, kept);
        }
    }
    Ok(sources)
}

/// Learns a tokenizer from the text of `data` alone.
///
/// # Errors
/// When the text cannot be used.
pub fn train_tokenizer(data: &DataConfig, config: &TokenizerConfig, progress: &dyn Progress) -> Result<Tokenizer> {
    let mut places = places(data)?;
    for place in &places {
        if let SourceLocation::Path(path) = place {
            source::inputs(path, data.on_bad_record)?.notice(path).iter().for_each(|line| progress.warn(line));
        }
    }
    let folder = tempfile::tempdir().context("no folder can be made for what stdin gives")?;
    spool(&mut places, folder.path())?;
    Texts::new(data, places, progress).train(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::source::{OnBadRecord, SourceConfig};
    use std::io::Write as _;

    /// A folder with twelve documents in `a.jsonl`, and what would prepare it.
    struct Scene {
        folder: tempfile::TempDir,
        data: DataConfig,
        tokenizer: TokenizerConfig,
    }

    fn document(i: usize) -> String {
        format!("Document {i} says: the cat sat on the mat.\nIt was {}.", "very ".repeat(i % 5) + "good")
    }

    fn records(n: std::ops::Range<usize>) -> String {
        n.map(|i| serde_json::json!({ "text": document(i) }).to_string() + "\n").collect()
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.jsonl");
            disk::write(&path, records(0..12).as_bytes()).unwrap();
            let trained = Tokenizer::train_bpe(Some(300), (0..12).map(document)).unwrap();
            let tokenizer = folder.path().join("tokenizer");
            disk::create_dir(&tokenizer).unwrap();
            trained.save(&tokenizer).unwrap();
            let source = SourceConfig { path: path.to_str().unwrap().to_owned(), weight: None };
            let data = DataConfig {
                sources: vec![source],
                val_fraction: 0.3,
                shards: folder.path().join("shards"),
                ..DataConfig::default()
            };
            Self { folder, data, tokenizer: TokenizerConfig::load_from(&tokenizer) }
        }

        fn with(&self, name: &str, bytes: &[u8]) -> DataConfig {
            let path = self.folder.path().join(name);
            disk::write(&path, bytes).unwrap();
            let source = SourceConfig { path: path.to_str().unwrap().to_owned(), weight: None };
            DataConfig { sources: vec![source], ..self.data.clone() }
        }

        fn prepare(&self, data: &DataConfig) -> Result<Prepared> {
            prepare(data, &self.tokenizer, None, &Silent)
        }
    }

    fn all(tokens: &crate::shard::ShardTokens) -> Vec<u32> {
        let mut out = Vec::new();
        tokens.read(0, tokens.len() as usize, &mut out);
        out
    }

    fn train(prepared: &Prepared) -> Vec<u32> {
        prepared.corpus.train.iter().flat_map(|part| all(&part.tokens)).collect()
    }

    fn held_out(prepared: &Prepared) -> Vec<u32> {
        prepared.corpus.val.iter().flat_map(|part| all(&part.tokens)).collect()
    }

    /// Documents of a part, without their ends.
    fn texts(prepared: &Prepared, tokens: &[u32]) -> Vec<String> {
        let end = prepared.tokenizer.end_of_text().unwrap();
        tokens.split_inclusive(|&t| t == end).map(|d| prepared.tokenizer.decode(&d[..d.len() - 1]).unwrap()).collect()
    }

    /// Another number for a file that was written again.
    fn identity(prepared: &Prepared) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&prepared.folder.join("0-train-000.bin").metadata().unwrap())
    }

    #[test]
    fn shards_hold_every_document_once_with_its_end() {
        let scene = Scene::new();
        let prepared = scene.prepare(&scene.data).unwrap();
        let val = held_out(&prepared);
        let mut found = texts(&prepared, &train(&prepared));
        assert!(!val.is_empty() && !found.is_empty());
        found.extend(texts(&prepared, &val));
        found.sort();
        let mut expected: Vec<String> = (0..12).map(document).collect();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn compressed_text_and_folders_give_the_same_tokens() {
        let scene = Scene::new();
        let plain = train(&scene.prepare(&scene.data).unwrap());
        let text = records(0..12);
        let (head, tail) = text.as_bytes().split_at(text.find("\n").unwrap() + 1);
        let mut gzip = Vec::new();
        for part in [head, tail] {
            // Two members, as `cat a.gz b.gz` makes them.
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            gzip.extend(encoder.finish().unwrap());
        }
        let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
        for (name, bytes) in [("b.jsonl.gz", gzip.as_slice()), ("c.jsonl.zst", &zst)] {
            assert_eq!(train(&scene.prepare(&scene.with(name, bytes)).unwrap()), plain, "{name}");
        }
    }

    #[test]
    fn unchanged_text_is_not_tokenized_again_and_changed_text_is() {
        let scene = Scene::new();
        let first = scene.prepare(&scene.data).unwrap();
        let file = identity(&first);
        let second = scene.prepare(&scene.data).unwrap();
        assert_eq!((&second.folder, identity(&second)), (&first.folder, file));
        scene.with("a.jsonl", records(0..13).as_bytes());
        let third = scene.prepare(&scene.data).unwrap();
        assert_eq!(third.folder, first.folder);
        assert_ne!(identity(&third), file);
        assert!(train(&third).len() + held_out(&third).len() > train(&first).len() + held_out(&first).len());
    }

    #[test]
    fn documents_stay_in_their_part_when_others_come_and_go() {
        let scene = Scene::new();
        let documents_held_out = |data: &DataConfig| {
            let prepared = scene.prepare(data).unwrap();
            texts(&prepared, &held_out(&prepared))
        };
        let few = documents_held_out(&scene.data);
        let reversed: String = records(0..40).lines().rev().map(|l| l.to_owned() + "\n").collect();
        let many = documents_held_out(&scene.with("b.jsonl", reversed.as_bytes()));
        assert!(few.iter().all(|d| many.contains(d)));
        assert!((0..12).map(document).filter(|d| many.contains(d)).count() == few.len());
        assert!(many.len() > few.len() && many.len() < 25);
    }

    #[test]
    fn one_long_document_is_divided_at_its_end() {
        let scene = Scene::new();
        let text: String = (0..4000).map(|i| document(i) + "\n").collect();
        let prepared = scene.prepare(&scene.with("book.txt", text.as_bytes())).unwrap();
        let tokens: Vec<u32> = train(&prepared).into_iter().chain(held_out(&prepared)).collect();
        // In pieces and in parallel, and yet the tokens of the whole.
        let mut whole = prepared.tokenizer.encode_document(&text).unwrap();
        whole.push(299);
        assert!(tokens == whole, "{} tokens, expected {}", tokens.len(), whole.len());
        let share = held_out(&prepared).len() as f64 / whole.len() as f64;
        assert!((share - 0.3).abs() < 0.001, "{share}");
    }

    #[test]
    fn tokens_are_the_same_on_any_number_of_threads() {
        let scene = Scene::new();
        let text: String = (0..3000).map(|i| document(i) + "\n").collect();
        let on = |threads: usize| {
            let data = DataConfig {
                shards: scene.folder.path().join(threads.to_string()),
                ..scene.with("b.txt", text.as_bytes())
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&scene.prepare(&data).unwrap()))
        };
        assert!(on(1) == on(3));
    }

    #[test]
    fn a_bad_record_ends_the_work_and_leaves_nothing_half_made() {
        let scene = Scene::new();
        let data = scene.with("bad.jsonl", b"{\"text\": \"fine\"}\n{\"text\": 3}\n");
        let message = format!("{:#}", scene.prepare(&data).unwrap_err());
        assert!(message.contains("bad.jsonl line 2: invalid type"), "{message}");
        assert!(!data.shards.exists() || data.shards.read_dir().unwrap().all(|e| !Manifest::is_in(&e.unwrap().path())));
        let skip = DataConfig { on_bad_record: OnBadRecord::Skip, val_fraction: 0.0, ..data };
        let prepared = scene.prepare(&skip).unwrap();
        assert_eq!(texts(&prepared, &train(&prepared)), ["fine"]);
        assert_eq!(Manifest::read(&prepared.folder).unwrap().sources[0].skipped.malformed, 1);
    }

    /// A dangling link, a truncated compressed file, bytes that are not UTF-8, a line that is not a record.
    #[cfg(unix)]
    #[test]
    fn everything_bad_in_a_folder_is_left_out_and_counted() {
        let scene = Scene::new();
        let text = scene.folder.path().join("text");
        disk::create_dir(&text).unwrap();
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let many = gzip(records(0..400).as_bytes());
        std::os::unix::fs::symlink("nowhere", text.join("a.txt")).unwrap();
        disk::write(
            &text.join("b.jsonl.gz"),
            &[gzip(records(0..3).as_bytes()), many[..many.len() / 2].to_vec()].concat(),
        )
        .unwrap();
        disk::write(&text.join("c.txt.gz"), &gzip(b"a text")[..20]).unwrap();
        disk::write(&text.join("d.jsonl"), b"{\"text\": \"\xff\"}\n[]\n{\"text\": \"fine\"}\n").unwrap();
        disk::write(&text.join("e.txt"), b"good\n\xff\n").unwrap();
        let data = DataConfig {
            sources: vec![SourceConfig { path: text.to_str().unwrap().to_owned(), weight: None }],
            on_bad_record: OnBadRecord::Skip,
            val_fraction: 0.0,
            ..scene.data.clone()
        };
        let prepared = scene.prepare(&data).unwrap();
        let found = texts(&prepared, &train(&prepared));
        assert_eq!(found[..3], (0..3).map(document).collect::<Vec<_>>());
        assert!(found.contains(&"fine".to_owned()) && found.contains(&"good\n".to_owned()), "{found:?}");
        let Skipped { invalid_utf8, malformed, first, .. } =
            Manifest::read(&prepared.folder).unwrap().sources[0].skipped.clone();
        assert_eq!((invalid_utf8, malformed), (2, 4), "{first:?}");
        let fail = DataConfig { on_bad_record: OnBadRecord::Fail, ..data };
        let message = format!("{:#}", scene.prepare(&fail).unwrap_err());
        assert!(message.contains("a.txt cannot be read") && message.contains("--on-bad-record skip"), "{message}");
    }

    #[test]
    fn a_damaged_folder_is_made_again_and_refused_when_named() {
        let scene = Scene::new();
        let prepared = scene.prepare(&scene.data).unwrap();
        let before = train(&prepared);
        let file = prepared.folder.join("0-train-000.bin");
        drop(prepared);
        let bytes = std::fs::read(&file).unwrap();
        disk::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let folder = file.parent().unwrap().to_str().unwrap().to_owned();
        let named = DataConfig { sources: vec![SourceConfig { path: folder, weight: None }], ..scene.data.clone() };
        let message = format!("{:#}", scene.prepare(&named).unwrap_err());
        assert!(message.contains("0-train-000.bin ends after"), "{message}");
        assert_eq!(train(&scene.prepare(&scene.data).unwrap()), before);
        assert_eq!(train(&scene.prepare(&named).unwrap()), before);
    }

    #[test]
    fn a_changed_token_is_noticed_wherever_it_lies() {
        let scene = Scene::new();
        let b = scene.with("b.txt", (0..300).map(document).collect::<String>().as_bytes());
        let mut data = scene.data.clone();
        data.sources.extend(b.sources.clone());
        let before = train(&scene.prepare(&data).unwrap());
        let folder = scene.prepare(&data).unwrap().folder;
        let name = folder.to_str().unwrap().to_owned();
        let named = DataConfig { sources: vec![SourceConfig { path: name, weight: None }], ..data.clone() };
        let files: Vec<PathBuf> = folder
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "bin"))
            .collect();
        assert!(files.len() >= 3, "{files:?}");
        for file in files {
            let mut bytes = std::fs::read(&file).unwrap();
            let last = bytes.len() - 2;
            bytes[last] ^= 1;
            disk::write(&file, &bytes).unwrap();
            let message = format!("{:#}", scene.prepare(&named).unwrap_err());
            assert!(message.contains("do not match their checksum"), "{}: {message}", file.display());
            assert_eq!(train(&scene.prepare(&data).unwrap()), before, "it was not made again");
        }
    }

    #[test]
    fn a_prepared_folder_of_another_tokenizer_is_refused() {
        let scene = Scene::new();
        let prepared = scene.prepare(&scene.data).unwrap();
        let folder = prepared.folder.to_str().unwrap().to_owned();
        let named = DataConfig { sources: vec![SourceConfig { path: folder, weight: None }], ..scene.data.clone() };
        let other = scene.folder.path().join("other");
        disk::create_dir(&other).unwrap();
        Tokenizer::train_bpe(Some(270), (0..3).map(document)).unwrap().save(&other).unwrap();
        let message = format!("{:#}", prepare(&named, &TokenizerConfig::load_from(&other), None, &Silent).unwrap_err());
        assert!(message.contains("made with another tokenizer"), "{message}");
    }

    #[test]
    fn somebody_elses_folder_is_not_overwritten() {
        let scene = Scene::new();
        let out = scene.folder.path().join("mine");
        disk::create_dir(&out).unwrap();
        disk::write(&out.join("manifest.json"), b"{\"name\": \"my app\"}").unwrap();
        let message = prepare(&scene.data, &scene.tokenizer, Some(&out), &Silent).unwrap_err().to_string();
        assert!(message.contains("not empty and no prepared text"), "{message}");
    }

    #[test]
    fn weights_make_parts_and_cost_no_new_tokens() {
        let scene = Scene::new();
        let b = scene.with("b.txt", b"another source, of one document and some words");
        let weighted = |a: f64| {
            let mut data = scene.data.clone();
            data.sources.extend(b.sources.clone());
            data.sources[0].weight = Some(a);
            data.sources[1].weight = Some(1.0);
            scene.prepare(&data).unwrap()
        };
        let first = weighted(3.0);
        let file = identity(&first);
        assert_eq!(first.corpus.train.iter().map(|p| p.weight).collect::<Vec<_>>(), [3.0, 1.0]);
        let second = weighted(5.0);
        assert_eq!(second.corpus.train[0].weight, 5.0);
        assert_eq!(identity(&second), file);
    }

    #[test]
    fn stories_and_patterns_of_the_world_are_sources_of_their_own() {
        let scene = Scene::new();
        let source = |path: &str, weight| SourceConfig { path: path.to_owned(), weight: Some(weight) };
        let of = |sources: Vec<SourceConfig>| {
            let data = DataConfig { sources, val_fraction: 0.0, ..scene.data.clone() };
            scene.prepare(&data).unwrap()
        };
        let both = of(vec![source("world:3", 0.7), source("world-patterns:4:2", 0.3)]);
        assert_eq!(both.corpus.train.iter().map(|part| part.weight).collect::<Vec<_>>(), [0.7, 0.3]);
        let of_part = |i: usize| texts(&both, &all(&both.corpus.train[i].tokens));
        let (stories, patterns) = (SyntheticStories::new(1), SyntheticPatterns::new(2));
        assert_eq!(of_part(0), (0..3).map(|index| stories.story(index)).collect::<Vec<_>>());
        assert_eq!(of_part(1), (0..4).map(|index| patterns.document(index)).collect::<Vec<_>>());
        let folders = ["world:4", "world-patterns:4", "world-patterns:5", "world-patterns:4:2"]
            .map(|path| of(vec![source(path, 1.0)]).folder);
        assert_eq!(folders.iter().collect::<BTreeSet<_>>().len(), 4, "{folders:?}");
    }

    #[test]
    fn a_tokenizer_of_characters_is_trained_on_all_of_the_text() {
        let scene = Scene::new();
        let config = TokenizerConfig { train: Some(TokenizerKind::Char), ..TokenizerConfig::default() };
        let prepared = prepare(&scene.with("b.txt", "abc\n日本 ☃".as_bytes()), &config, None, &Silent).unwrap();
        assert_eq!(prepared.tokenizer.vocab_size(), 9);
    }
}
