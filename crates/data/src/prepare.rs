//! Documents → shards, once: tokenized in parallel and streaming, with memory that does not grow with the text.

use crate::disk;
use crate::progress::{Progress, Task, Unit};
use crate::shard::{Corpus, FORMAT, MANIFEST, Manifest, Request, Source, TokenizerRequest, Writer, divide};
use crate::source::{self, DataConfig, Form, Input, Place};
use crate::text::{Cut, Piece, Reader, Skipped};
use crate::tokenizer::{Tokenizer, TokenizerConfig, TokenizerKind};
use crate::world::World;
use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

/// Text ready for training.
#[derive(Debug)]
pub struct Prepared {
    /// Where it lies.
    pub folder: PathBuf,
    /// Its tokens.
    pub corpus: Corpus,
    /// What made them.
    pub tokenizer: Tokenizer,
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
        && Path::new(&only.path).join(MANIFEST).exists()
    {
        return open(Path::new(&only.path), tokenizer, progress);
    }
    source::must_exist(data)?;
    let places = data.sources.iter().map(|s| Place::of(&s.path).map_err(|e| anyhow!("{}: {e}", s.path)));
    let mut places = places.collect::<Result<Vec<Place>>>()?;
    let loaded = tokenizer.path.as_deref().map(Tokenizer::load).transpose()?;
    let request = request(data, tokenizer, loaded.as_ref(), &places)?;
    let folder = out.map_or_else(|| data.shards.join(folder_name(&request)), Path::to_owned);
    let reads_stdin = places.iter().any(|place| matches!(place, Place::Stdin(_)));
    if !reads_stdin && let Some(prepared) = reuse(&folder, &request, data, progress)? {
        return Ok(prepared);
    }
    refuse_foreign(&folder)?;

    let made = disk::aside(&folder);
    disk::fresh_dir(&made)?;
    let spooled = spool(&mut places, &made)?;
    let texts = Texts { data, places, progress };
    let tokenizer = match loaded {
        Some(tokenizer) => tokenizer,
        None => texts.train(tokenizer)?,
    };
    let sources = texts.tokenize(&tokenizer, &made)?;
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
    write_manifest(&made, &manifest)?;
    tokenizer.save(&made)?;
    disk::publish(&made, &folder)?;
    say(&folder, &manifest, progress);
    Ok(Prepared { corpus: Corpus::open(&folder, &manifest)?, folder, tokenizer })
}

/// Opens a prepared folder, whose tokenizer must be the one asked for, if one is.
fn open(folder: &Path, wanted: &TokenizerConfig, progress: &dyn Progress) -> Result<Prepared> {
    let manifest = Manifest::read(folder)?;
    let tokenizer = Tokenizer::load(folder)?;
    ensure!(
        tokenizer.fingerprint()? == manifest.tokenizer,
        "{} holds another tokenizer than its tokens were made with; run `gptkit prepare` again",
        folder.display()
    );
    if let Some(path) = &wanted.path {
        ensure!(
            Tokenizer::load(path)?.fingerprint()? == manifest.tokenizer,
            "{} was made with another tokenizer than {}; run `gptkit prepare` again with it",
            folder.display(),
            path.display()
        );
    }
    say(folder, &manifest, progress);
    Ok(Prepared { corpus: Corpus::open(folder, &manifest)?, folder: folder.to_owned(), tokenizer })
}

/// The folder as it is, when it was made from the same request; weights may differ, they cost nothing.
fn reuse(folder: &Path, request: &Request, data: &DataConfig, progress: &dyn Progress) -> Result<Option<Prepared>> {
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
    progress.note(&format!("text unchanged since it was prepared in {}", folder.display()));
    open(folder, &TokenizerConfig::default(), progress).map(Some)
}

/// A folder that holds something else is not overwritten.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let taken = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!taken || folder.join(MANIFEST).exists(), "{} is not empty and no prepared text; choose another", folder.display());
    Ok(())
}

fn request(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    loaded: Option<&Tokenizer>,
    places: &[Place],
) -> Result<Request> {
    let inputs = |place: &Place| match place {
        Place::Path(path) => source::inputs(path),
        Place::Stdin(_) | Place::World { .. } => Ok(Vec::new()),
    };
    let sources = data.sources.iter().zip(places).map(|(s, place)| Ok((s.path.clone(), inputs(place)?)));
    Ok(Request {
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
fn folder_name(request: &Request) -> String {
    let paths: Vec<&String> = request.sources.iter().map(|(path, _)| path).collect();
    let files: Vec<&PathBuf> = request.sources.iter().flat_map(|(_, inputs)| inputs.iter().map(|i| &i.path)).collect();
    let key = blake3::hash(format!("{paths:?} {files:?} {:?} {}", request.tokenizer, request.text_key).as_bytes());
    let first = paths.first().map_or("", |p| p.as_str());
    let name = Path::new(first).file_name().unwrap_or_default().to_string_lossy();
    let stem: String = name.split(['.', ':']).next().unwrap_or_default().chars().filter(|c| c.is_alphanumeric() || *c == '-').collect();
    format!("{}-{}", if stem.is_empty() || stem == "-" { "text" } else { &stem }, &key.to_hex()[..8])
}

/// Copies stdin into `folder`, since it can be read only once, and puts the copy in its place.
fn spool(places: &mut [Place], folder: &Path) -> Result<Option<PathBuf>> {
    for place in places {
        if let Place::Stdin(ending) = place {
            let path = folder.join(format!("stdin{ending}"));
            source::spool_stdin(&path)?;
            *place = Place::Path(path.clone());
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

fn say(folder: &Path, manifest: &Manifest, progress: &dyn Progress) {
    let tokens = |part: fn(&Source) -> &[crate::shard::Segment]| -> u64 {
        manifest.sources.iter().flat_map(part).map(|s| s.tokens).sum()
    };
    let documents: u64 = manifest.sources.iter().map(|s| s.documents).sum();
    let skipped: u64 = manifest.sources.iter().map(|s| s.skipped.total()).sum();
    let bytes: u64 = manifest.sources.iter().map(|s| s.bytes).sum();
    let (train, val) = (tokens(|s| &s.train), tokens(|s| &s.val));
    progress.note(&format!(
        "text {}: {documents} documents, {:.1} MB, {train} tokens to train on, {val} to validate, vocabulary {}",
        folder.display(),
        bytes as f64 / 1e6,
        manifest.vocab_size
    ));
    if skipped > 0 {
        progress.warn(&format!("{skipped} bad records were left out; manifest.json counts them by kind"));
    }
}

/// The sources being read.
struct Texts<'a> {
    data: &'a DataConfig,
    places: Vec<Place>,
    progress: &'a dyn Progress,
}

impl Texts<'_> {
    /// A tokenizer learned from the text: characters from all of it, pairs from a sample of bounded size.
    fn train(&self, config: &TokenizerConfig) -> Result<Tokenizer> {
        match config.kind() {
            TokenizerKind::Char => {
                let mut characters = BTreeSet::new();
                for place in &self.places {
                    self.read(place, "characters", Cut::Anywhere, &mut |piece| {
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
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                for place in &self.places {
                    let mut taken = 0;
                    let read = self.read(place, "sample", Cut::Words, &mut |piece| {
                        taken += piece.text.len() as u64;
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
                Ok(())
            });
            let tokenizer = Tokenizer::train_bpe(vocab_size, receive.into_iter());
            joined(reader.join())?;
            tokenizer
        })
    }

    /// Tokenizes every source into files in `folder`.
    fn tokenize(&self, tokenizer: &Tokenizer, folder: &Path) -> Result<Vec<Source>> {
        if tokenizer.document_end().is_none() {
            self.progress.warn("this tokenizer has no token that ends a text: documents follow each other unmarked");
        }
        let sources = self.data.sources.iter().zip(&self.places).enumerate();
        sources
            .map(|(i, (config, place))| {
                let mut parts = Parts {
                    tokenizer,
                    val_fraction: self.data.val_fraction,
                    train: Writer::new(folder, format!("{i}-train"), wide(tokenizer)),
                    val: Writer::new(folder, format!("{i}-val"), wide(tokenizer)),
                    held_out: false,
                    documents: 0,
                    bytes: 0,
                };
                let (send, receive) = sync_channel::<Piece>(2 * PIECES);
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
                Ok(Source {
                    path: config.path.clone(),
                    weight: config.weight,
                    documents: parts.documents,
                    bytes: parts.bytes,
                    skipped,
                    train: parts.train.segments,
                    val: parts.val.segments,
                })
            })
            .collect()
    }

    /// Reads all documents of a source, in pieces.
    fn read(
        &self,
        place: &Place,
        label: &str,
        cut: Cut,
        sink: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Skipped> {
        let mut reader = Reader::new(self.data, cut, sink);
        match place {
            Place::World { stories, seed } => {
                let world = World::new(*seed);
                let task = self.progress.task(label, Some(*stories), Unit::Items);
                for index in 0..*stories {
                    reader.document(Path::new("world"), index + 1, &world.story(index).text)?;
                    task.advance(1);
                }
            }
            Place::Path(path) => {
                let inputs = source::inputs(path)?;
                let total = inputs.iter().map(|input| input.size).sum();
                let task = self.progress.task(label, Some(total), Unit::Bytes);
                for input in &inputs {
                    read_file(&mut reader, input, &*task)?;
                }
            }
            Place::Stdin(_) => bail!("stdin was read already"),
        }
        Ok(reader.skipped)
    }
}

fn read_file(reader: &mut Reader, input: &Input, task: &dyn Task) -> Result<()> {
    let count = |n| task.advance(n);
    let file = source::open(&input.path, &count)?;
    if Form::of(&input.path).jsonl { reader.records(&input.path, file) } else { reader.text(&input.path, file) }
}

fn name(place: &Place) -> String {
    match place {
        Place::Path(path) => path.display().to_string(),
        Place::World { .. } => "the world".to_owned(),
        Place::Stdin(_) => "stdin".to_owned(),
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
struct Parts<'a> {
    tokenizer: &'a Tokenizer,
    val_fraction: f64,
    train: Writer,
    val: Writer,
    /// Whether the current document goes into the validation part.
    held_out: bool,
    documents: u64,
    bytes: u64,
}

impl Parts<'_> {
    /// Tokenizes what comes, many pieces at a time, and writes it in the order it came.
    fn take(&mut self, receive: Receiver<Piece>) -> Result<()> {
        loop {
            let pieces: Vec<Piece> = receive.iter().take(PIECES).collect();
            if pieces.is_empty() {
                return Ok(());
            }
            let encode = |piece: &Piece| self.tokenizer.encode_document(&piece.text);
            let tokens: Vec<Vec<u32>> = pieces.par_iter().map(encode).collect::<Result<_>>()?;
            for (piece, mut tokens) in pieces.iter().zip(tokens) {
                if piece.first {
                    self.held_out = is_held_out(&piece.text, self.val_fraction);
                    self.documents += 1;
                }
                if piece.last {
                    tokens.extend(self.tokenizer.document_end());
                }
                self.bytes += piece.text.len() as u64;
                let part = if self.held_out { &mut self.val } else { &mut self.train };
                part.write(&tokens)?;
            }
        }
    }
}

/// Whether a document is held out: by a hash of how it begins, so that it stays where it is when others come or go, and
/// its copies go with it.
fn is_held_out(beginning: &str, val_fraction: f64) -> bool {
    let hash = blake3::hash(beginning.as_bytes());
    let (head, _) = hash.as_bytes().as_chunks::<8>();
    (u64::from_le_bytes(head[0]) as f64) < val_fraction * 2f64.powi(64)
}

/// Where the division by documents leaves a part empty, as in a corpus of one book, the end of the tokens is held out.
fn hold_out(mut sources: Vec<Source>, val_fraction: f64, progress: &dyn Progress) -> Result<Vec<Source>> {
    let tokens = |segments: &[crate::shard::Segment]| segments.iter().map(|s| s.tokens).sum::<u64>();
    let train: u64 = sources.iter().map(|s| tokens(&s.train)).sum();
    let val: u64 = sources.iter().map(|s| tokens(&s.val)).sum();
    ensure!(train + val > 0, "the text has no documents");
    if val_fraction > 0.0 && (train == 0 || val == 0) {
        progress.note(&format!(
            "too few documents to hold some out: the last {:.1}% of the tokens are the validation part",
            100.0 * val_fraction
        ));
        for source in &mut sources {
            let all: Vec<_> = source.train.drain(..).chain(source.val.drain(..)).collect();
            let kept = (tokens(&all) as f64 * (1.0 - val_fraction)).round() as u64;
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
    source::must_exist(data)?;
    let places = data.sources.iter().map(|s| Place::of(&s.path).map_err(|e| anyhow!("{}: {e}", s.path)));
    let mut places = places.collect::<Result<Vec<Place>>>()?;
    let folder = std::env::temp_dir().join(format!("gptkit-{}", std::process::id()));
    disk::fresh_dir(&folder)?;
    let trained = spool(&mut places, &folder).and_then(|_| Texts { data, places, progress }.train(config));
    std::fs::remove_dir_all(&folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    trained
}
