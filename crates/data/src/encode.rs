//! Documents → tokens in shard files: read once, tokenized in parallel and streaming.

use crate::inputs::{Inputs, inputs};
use crate::losses::Losses;
use crate::progress::{Progress, Unit};
use crate::remarks::Remarks;
use crate::shard::{ShardSegment, ShardSource, Writer, divide};
use crate::skipped::Skipped;
use crate::source::{DataConfig, OnBadRecord, SourceLocation, SyntheticText};
use crate::stitch::Stitcher;
use crate::synthetic::{SyntheticPatterns, SyntheticStories};
use crate::text::{CutPoint, TextPiece, TextReader};
use crate::tokenizer::train::{LONGEST_LEARNED_WORD, WordCounts};
use crate::tokenizer::{Tokenizer, TokenizerConfig, TokenizerKind};
use anyhow::{Result, anyhow, bail, ensure};
use rayon::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bytes of text that a byte-level tokenizer is trained on, over all sources.
const TRAINING_SAMPLE: u64 = 100_000_000;
/// Pieces tokenized together: with 64 KiB each, enough for some threads and little memory.
const PIECES: usize = 64;

/// Hands the documents of `path`, a source as [`crate::source::SourceConfig::path`] names it, to `sink`, in pieces that
/// [`Stitcher`] encodes with `tokenizer`. Where `sink` breaks, reading ends.
///
/// # Errors
/// When it is stdin or prepared text, cannot be read, holds a bad record unless these are left out, or `sink` fails.
pub fn read_text(
    path: &str,
    tokenizer: &Tokenizer,
    on_bad_record: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(TextPiece) -> Result<ControlFlow<()>>,
) -> Result<Skipped> {
    let place = SourceLocation::of(path).map_err(|what| anyhow!("{path}: {what}"))?;
    let data = DataConfig { on_bad_record, ..DataConfig::default() };
    let (skipped, _) =
        Texts::new(&data, Vec::new(), progress).read(&place, &format!("reading {path}"), tokenizer.cut(), sink)?;
    Ok(skipped)
}

/// The sources being read.
pub(crate) struct Texts<'a> {
    data: &'a DataConfig,
    places: Vec<SourceLocation>,
    progress: &'a dyn Progress,
    /// Warnings so far: text is read more than once, and they are given once.
    warned: Mutex<HashSet<String>>,
}

impl<'a> Texts<'a> {
    pub(crate) fn new(data: &'a DataConfig, places: Vec<SourceLocation>, progress: &'a dyn Progress) -> Self {
        Self { data, places, progress, warned: Mutex::default() }
    }

    fn warn(&self, remarks: &Remarks) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        remarks.lines().filter(|line| warned.insert(line.clone())).for_each(|line| self.progress.warn(&line));
    }

    /// A tokenizer learned from the text: characters from all of it, pairs from a sample of bounded size.
    pub(crate) fn train(&self, config: &TokenizerConfig) -> Result<Tokenizer> {
        match config.kind() {
            TokenizerKind::Char => {
                let mut characters = BTreeSet::new();
                for place in &self.places {
                    let _ = self.read(place, "characters", CutPoint::Anywhere, &mut |piece| {
                        characters.extend(piece.text.chars());
                        Ok(ControlFlow::Continue(()))
                    })?;
                }
                Tokenizer::of_characters(&characters)
            }
            TokenizerKind::Bpe => {
                let tokenizer = self.train_bpe(config.vocab_size)?;
                if let Some(asked) = config.vocab_size.filter(|&n| n > tokenizer.vocab_size()) {
                    self.progress.note(&format!(
                        "the text is too small for a vocabulary of {asked}; the tokenizer has {} entries",
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
                for place in &self.places {
                    let mut taken = 0;
                    let (_, flow) =
                        self.read(place, "reading text for the tokenizer", CutPoint::Words, &mut |piece| {
                            taken += piece.text.len() as u64;
                            Ok(if taken > share || send.send(piece.text).is_err() {
                                ControlFlow::Break(())
                            } else {
                                ControlFlow::Continue(())
                            })
                        })?;
                    if flow.is_break() {
                        self.progress.note(&format!(
                            "the tokenizer is trained on the first {} MB of {}",
                            share / 1_000_000,
                            name(place)
                        ));
                    }
                }
                drop(send);
                self.show_training(is_trained);
                Ok(())
            });
            let words = WordCounts::of(receive.into_iter());
            if words.has_long_words {
                self.progress.note(&format!(
                    "words longer than {LONGEST_LEARNED_WORD} characters are split when the tokenizer is trained"
                ));
            }
            let tokenizer = Tokenizer::train_bpe(vocab_size, words);
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
            task.get_or_insert_with(|| self.progress.task("training the tokenizer (seconds)", None, Unit::Items))
                .advance(1);
        }
    }

    /// Tokenizes every source into files in `folder`.
    pub(crate) fn tokenize(&self, tokenizer: &Tokenizer, folder: &Path) -> Result<Vec<ShardSource>> {
        if tokenizer.document_end().is_none() {
            self.progress.warn("this tokenizer has no end-of-text token, so documents are not separated");
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
                let (skipped, _) = std::thread::scope(|scope| {
                    let reader = scope.spawn(move || {
                        self.read(place, "tokenize", tokenizer.cut(), &mut |piece| {
                            // The receiver is gone when tokenizing failed, which is the error to report.
                            Ok(send.send(piece).map_or(ControlFlow::Break(()), ControlFlow::Continue))
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

    /// Reads all documents of a source, in pieces, until `sink` breaks; says whether it did.
    fn read(
        &self,
        place: &SourceLocation,
        label: &str,
        cut: CutPoint,
        sink: &mut dyn FnMut(TextPiece) -> Result<ControlFlow<()>>,
    ) -> Result<(Skipped, ControlFlow<()>)> {
        let mut reader = TextReader::new(self.data, cut, sink);
        let flow = self.read_place(place, label, &mut reader)?;
        // Of text that was not read to its end there is more to remark than was met.
        if flow.is_continue() {
            self.warn(&reader.remarks);
        }
        Ok((reader.skipped, flow))
    }

    fn read_place(&self, place: &SourceLocation, label: &str, reader: &mut TextReader) -> Result<ControlFlow<()>> {
        match place {
            &SourceLocation::World { told, count, seed } => {
                let (stories, patterns) = (SyntheticStories::new(seed), SyntheticPatterns::new(seed));
                let task = self.progress.task(label, Some(count), Unit::Items);
                for index in 0..count {
                    let (name, text) = match told {
                        SyntheticText::Stories => ("world", stories.story(index)),
                        SyntheticText::Patterns => ("world-patterns", patterns.document(index)),
                    };
                    if reader.document(Path::new(name), index + 1, &text)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    task.advance(1);
                }
            }
            SourceLocation::Path(path) => {
                let Inputs { files, unreadable, .. } = inputs(path, self.data.on_bad_record)?;
                for (file, what) in &unreadable {
                    reader.unreadable(file, what)?;
                }
                let total = files.iter().map(|input| input.size).sum();
                let task = self.progress.task(label, Some(total), Unit::Bytes);
                for input in &files {
                    if reader.file(&input.path, &|n| task.advance(n))?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            SourceLocation::Stdin(_) => bail!("stdin was already read"),
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn name(place: &SourceLocation) -> String {
    match place {
        SourceLocation::Path(path) => path.display().to_string(),
        SourceLocation::World { told: SyntheticText::Stories, .. } => "the embedded stories".to_owned(),
        SourceLocation::World { told: SyntheticText::Patterns, .. } => "the embedded patterns".to_owned(),
        SourceLocation::Stdin(_) => "stdin".to_owned(),
    }
}

fn joined<T>(thread: std::thread::Result<Result<T>>) -> Result<T> {
    thread.map_err(|_| anyhow!("the thread that reads the text failed"))?
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
                            "this tokenizer cannot encode a document in parts; encoding needs about 200 times the \
                             memory of the longest document",
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
pub(crate) fn hold_out(
    mut sources: Vec<ShardSource>,
    val_fraction: f64,
    progress: &dyn Progress,
) -> Result<Vec<ShardSource>> {
    let tokens = |segments: &[ShardSegment]| segments.iter().map(|s| s.tokens).sum::<u64>();
    let all_held_out: u64 = sources.iter().map(|s| tokens(&s.val)).sum();
    for source in &mut sources {
        let (train, val) = (tokens(&source.train), tokens(&source.val));
        ensure!(train + val > 0, "{} contains no documents", source.path);
        if val_fraction > 0.0 && (train == 0 || all_held_out == 0) {
            progress.note(&format!(
                "{} has too few documents to hold some out: the last {:.1}% of its tokens are the validation set",
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

/// Whether a token takes four bytes in a shard, not two.
pub(crate) fn wide(tokenizer: &Tokenizer) -> bool {
    tokenizer.vocab_size() > 1 << 16
}
