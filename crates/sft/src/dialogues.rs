//! Dialogues → tokens that know whether they are trained on → windows of several of them.

use ::config::{Check, Problems};
use anyhow::{Context, Result, bail, ensure};
use data::batch::{Batch, IGNORE, Windows};
use data::dialogue::{Message, Role, read_dialogues};
use data::examples::{Examples, ExamplesWriter};
use data::pack::pack;
use data::progress::{Progress, Silent, grouped};
use data::record::Bad;
use data::source::{OnBadRecord, Place};
use data::template::{Template, encode};
use data::tokenizer::Tokenizer;
use data::world::{Instructions, Part};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// The instructions; TOML section `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DialogueConfig {
    /// Files of records, or `world`, `world:N`, `world:N:SEED` for those of the embedded world.
    pub sources: Vec<String>,
    /// Files of records to validate on; a share of the sources' when there is none.
    pub validation: Vec<String>,
    /// That share. The world has instructions of its own for it.
    pub val_fraction: f64,
    /// What becomes of records that are no sound dialogue.
    pub on_bad_record: OnBadRecord,
    /// Whether what the assistant does not say is learned too.
    pub train_on_prompt: bool,
}

impl Default for DialogueConfig {
    fn default() -> Self {
        Self {
            sources: vec!["world".to_owned()],
            validation: Vec::new(),
            val_fraction: 0.05,
            on_bad_record: OnBadRecord::Fail,
            train_on_prompt: false,
        }
    }
}

impl DialogueConfig {
    /// Whether dialogue `n` of a source is for validation: the world says itself, of a file every so many-eth is.
    fn holds_out(&self, n: u64, part: Option<Part>) -> bool {
        let every = if self.val_fraction > 0.0 { (1.0 / self.val_fraction).round() as u64 } else { u64::MAX };
        let held_out = part.map_or(n % every == every - 1, |part| part == Part::HeldOut);
        self.validation.is_empty() && held_out
    }

    /// Whether dialogues are validated on.
    fn validates(&self) -> bool {
        let world = |source: &String| matches!(Place::of(source), Ok(Place::World { .. }));
        self.val_fraction > 0.0 || !self.validation.is_empty() || self.sources.iter().any(world)
    }
}

impl Check for DialogueConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(!self.sources.is_empty(), "sources", "is empty", "name a file of records, or world");
        problems.require(
            (0.0..=0.5).contains(&self.val_fraction),
            "val_fraction",
            "is not between 0 and 0.5",
            "use 0.05, or 0 for no validation",
        );
        for (key, paths) in [("sources", &self.sources), ("validation", &self.validation)] {
            for (i, path) in paths.iter().enumerate() {
                let key = format!("{key}.{i}");
                match Place::of(path) {
                    Err(what) => problems.add(&key, what, "write world:4000, or world:4000:SEED"),
                    Ok(Place::Path(path)) if !path.exists() => {
                        problems.add(
                            &key,
                            "does not exist",
                            "name a file of records (.jsonl, .csv, .parquet), or world",
                        );
                    }
                    Ok(_) => {}
                }
            }
        }
    }
}

/// What became of the dialogues' tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Dialogues that are learned.
    pub train: usize,
    /// Dialogues that are validated on.
    pub val: usize,
    /// Dialogues that were cut at the window's length.
    pub truncated: usize,
    /// Those of them of which nothing to be learned was left.
    pub dropped: usize,
    /// Tokens of the training part whose prediction counts.
    pub trained_tokens: u64,
    /// Its other tokens.
    pub masked_tokens: u64,
    /// Dialogues whose last trained token is learned: where the assistant stops.
    pub ends: usize,
}

/// A bit above all tokens: the prediction of this token counts.
const TRAINED: u32 = 1 << 31;

/// File of the training part below a run, and of the validation part.
pub(crate) const FILES: [&str; 2] = ["train.examples", "val.examples"];

/// Encodes the dialogues of `config` into the two [`FILES`] below `folder`, cut at `context` tokens. Says what it read.
///
/// # Errors
/// When a record cannot be read or rendered, or there is nothing to learn from them.
pub(crate) fn encode_all(
    config: &DialogueConfig,
    template: &Template,
    tokenizer: &Tokenizer,
    context: usize,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Counts> {
    let mut counts = Counts::default();
    let [train, val] = FILES.map(|name| folder.join(name));
    ExamplesWriter::write(&train, |train| {
        ExamplesWriter::write(&val, |val| {
            let mut add = |messages: &[Message], held_out: bool| -> Result<()> {
                let writer = if held_out { &mut *val } else { &mut *train };
                one(config, template, tokenizer, context, messages, held_out, writer, &mut counts)
            };
            for source in &config.sources {
                let mut sort = |n, messages: &[Message], part| add(messages, config.holds_out(n, part));
                read(source, config.on_bad_record, progress, &mut sort)?;
            }
            for source in &config.validation {
                read(source, config.on_bad_record, progress, &mut |_, messages, _| add(messages, true))?;
            }
            Ok(())
        })
    })?;
    check(&counts, context)?;
    Ok(counts)
}

/// Refuses data from which nothing sensible is learned.
fn check(counts: &Counts, context: usize) -> Result<()> {
    let Counts { train, truncated, dropped, ends, .. } = *counts;
    let read = train + counts.val + dropped;
    ensure!(
        read == 0 || truncated < read,
        "all {read} dialogues are longer than the window of {context} tokens: what they answer would be cut off; give a model \
         with a longer context, or shorter dialogues"
    );
    ensure!(
        train >= 2,
        "{train} dialogue{} to learn from: give more records",
        if train == 1 { " is left" } else { "s are left" }
    );
    ensure!(
        ends > 0,
        "no dialogue has its end learned, so that the model would never stop: each is cut at {context} tokens, or the chat \
         template has no sign after what the assistant says"
    );
    Ok(())
}

/// Hands the dialogues of a source to `sink`, with their number in it and, for the world's, the part they are of.
fn read(
    source: &str,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(u64, &[Message], Option<Part>) -> Result<()>,
) -> Result<()> {
    let place = Place::of(source).map_err(anyhow::Error::msg)?;
    if let Place::World { stories: n, seed } = place {
        for (part, n) in [(Part::Train, n), (Part::HeldOut, (n / 10).clamp(20, 400))] {
            let instructions = Instructions::new(seed, part);
            for index in 0..n {
                let instruction = instructions.instruction(index);
                let messages =
                    [Message::new(Role::User, instruction.prompt), Message::new(Role::Assistant, instruction.answer)];
                sink(index, &messages, Some(part))?;
            }
        }
        progress.note(&format!("{source}: {} instructions of the embedded world", grouped(n)));
        return Ok(());
    }
    let mut n = 0;
    let (shape, skipped) = read_dialogues(Path::new(source), on_bad, progress, &mut |dialogue| {
        sink(n, &dialogue.messages, None)?;
        n += 1;
        Ok(())
    })?;
    progress.note(&format!("{source}: {} dialogues, read as {shape}", grouped(n)));
    if let (n @ 1.., Some(first)) = (skipped.total(), &skipped.first) {
        progress.warn(&format!("{n} records are left out; the first: {first}"));
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "it is one step of a loop")]
fn one(
    config: &DialogueConfig,
    template: &Template,
    tokenizer: &Tokenizer,
    context: usize,
    messages: &[Message],
    held_out: bool,
    writer: &mut ExamplesWriter,
    counts: &mut Counts,
) -> Result<()> {
    let segments = template.segments(messages).map_err(|e| Bad::new(format!("{e:#}")))?;
    let tokens = encode(&segments, tokenizer).map_err(|e| Bad::new(format!("{e:#}")))?;
    let ends = tokens.iter().rposition(|&(_, trained)| trained).is_some_and(|last| last < context);
    let learned = |trained: bool| trained || config.train_on_prompt;
    let kept: Vec<u32> =
        tokens.iter().take(context).map(|&(id, trained)| if learned(trained) { id | TRAINED } else { id }).collect();
    counts.truncated += usize::from(tokens.len() > context);
    // The first token has none before it that could predict it.
    let trained = kept.iter().skip(1).filter(|&&token| token & TRAINED != 0).count();
    if trained == 0 {
        counts.dropped += 1;
        return Ok(());
    }
    if held_out {
        counts.val += 1;
    } else {
        counts.train += 1;
        counts.trained_tokens += trained as u64;
        counts.masked_tokens += (kept.len() - trained) as u64;
        counts.ends += usize::from(ends);
    }
    writer.push(&kept)
}

/// The dialogues of a run, packed into windows: row `n` of the run is a pure function of the seed and `n`.
pub(crate) struct Packed {
    examples: Examples,
    lengths: Vec<usize>,
    context: usize,
    seed: u64,
    /// Pretraining text, and its share of the rows.
    text: Option<(Arc<Windows>, f64)>,
    /// First row of each epoch that was packed, and of the next.
    firsts: Vec<u64>,
    /// The windows of the newest of these.
    windows: Vec<Vec<usize>>,
}

impl Packed {
    /// Windows of `context` tokens of the dialogues in the file `path`, and a share of others of pretraining text.
    ///
    /// # Errors
    /// When the file is damaged, or its dialogues do not fit.
    pub(crate) fn open(path: &Path, context: usize, seed: u64, text: Option<(Arc<Windows>, f64)>) -> Result<Self> {
        let examples = Examples::open(path)?;
        let lengths: Vec<usize> = (0..examples.len()).map(|i| examples.length(i)).collect();
        let windows = pack(&lengths, context, seed, 0).with_context(|| format!("in {}", path.display()))?;
        let firsts = vec![0, windows.len() as u64];
        Ok(Self { examples, lengths, context, seed, text, firsts, windows })
    }

    /// The same for files of the same dialogues.
    pub(crate) fn fingerprint(&self) -> String {
        self.examples.fingerprint()
    }

    /// Rows after which every dialogue was seen once, as the first epoch packs them; later ones differ by a few.
    pub(crate) fn rows_per_epoch(&self) -> u64 {
        let dialogues = self.firsts[1];
        match &self.text {
            Some((_, share)) => (dialogues as f64 / (1.0 - share)).ceil() as u64,
            None => dialogues,
        }
    }

    /// Tokens of the first epoch's windows that stand for nothing.
    pub(crate) fn padding(&self) -> u64 {
        self.firsts[1] * self.context as u64 - self.lengths.iter().map(|&n| n as u64).sum::<u64>()
    }

    /// All rows of the first epoch in batches of at most `rows`; at most `most` rows, evenly spread.
    pub(crate) fn all(mut self, rows: usize, most: usize) -> Vec<Batch> {
        let n = self.firsts[1];
        let taken = n.min(most as u64);
        let numbers: Vec<u64> = (0..taken).map(|i| i * n / taken.max(1)).collect();
        numbers.chunks(rows.max(1)).map(|chunk| self.rows(chunk.iter().copied())).collect()
    }

    /// Rows `first .. first + rows` of the run.
    pub(crate) fn batch(&mut self, first: u64, rows: usize) -> Batch {
        self.rows(first..first + rows as u64)
    }

    fn rows(&mut self, rows: impl Iterator<Item = u64>) -> Batch {
        let mut batch =
            Batch { rows: 0, context: self.context, tokens: Vec::new(), targets: Vec::new(), starts: Vec::new() };
        for row in rows {
            batch.rows += 1;
            let texts_before = |row: u64, share: f64| (row as f64 * share).floor() as u64;
            match &self.text {
                Some((windows, share)) if texts_before(row + 1, *share) > texts_before(row, *share) => {
                    let text = windows.batch(texts_before(row, *share), 1);
                    batch.tokens.extend(text.tokens);
                    batch.targets.extend(text.targets);
                    batch.starts.push(vec![0]);
                }
                Some((_, share)) => {
                    let row = row - texts_before(row, *share);
                    self.add(row, &mut batch);
                }
                None => self.add(row, &mut batch),
            }
        }
        batch
    }

    /// Adds the window number `row` of those of dialogues.
    fn add(&mut self, row: u64, batch: &mut Batch) {
        self.turn_to(row);
        let first = self.firsts[self.firsts.len() - 2];
        let mut starts = Vec::new();
        let begin = batch.tokens.len();
        for &example in &self.windows[(row - first) as usize] {
            starts.push((batch.tokens.len() - begin) as u32);
            let tokens = self.examples.get(example);
            batch.tokens.extend(tokens.iter().map(|token| token & !TRAINED));
            let target = |&token: &u32| if token & TRAINED != 0 { token & !TRAINED } else { IGNORE };
            batch.targets.extend(tokens.iter().skip(1).map(target).chain([IGNORE]));
        }
        let filled = batch.tokens.len() - begin;
        if filled < self.context {
            starts.push(filled as u32); // padding, which is nobody's past
            batch.tokens.resize(begin + self.context, 0);
            batch.targets.resize(begin + self.context, IGNORE);
        }
        batch.starts.push(starts);
    }

    /// Packs epochs until `row` is one of the newest. Rows are asked for in their order, but for a validation's, whose are
    /// all of the first.
    fn turn_to(&mut self, row: u64) {
        while row >= self.firsts[self.firsts.len() - 1] {
            let epoch = self.firsts.len() as u64 - 1;
            match pack(&self.lengths, self.context, self.seed, epoch) {
                Ok(windows) => self.windows = windows,
                Err(e) => unreachable!("what was packed once is packed again: {e}"),
            }
            self.firsts.push(self.firsts[epoch as usize] + self.windows.len() as u64);
        }
    }
}

/// The first `n` dialogues that are validated on, or learned when none are: messages up to the last answer, and that.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn first_dialogues(config: &DialogueConfig, n: usize) -> Result<Vec<(Vec<Message>, String)>> {
    let mut found = Vec::new();
    let split = config.validation.is_empty();
    for source in if split { &config.sources } else { &config.validation } {
        let result = read(source, config.on_bad_record, &Silent, &mut |number, messages, part| {
            if found.len() == n {
                bail!(Enough);
            }
            if let Some((last, before)) = messages.split_last()
                && (!split || !config.validates() || config.holds_out(number, part))
            {
                found.push((before.to_vec(), last.content.clone()));
            }
            Ok(())
        });
        match result {
            Err(e) if !e.is::<Enough>() => return Err(e),
            _ => {}
        }
    }
    Ok(found)
}

/// Ends a reading early.
#[derive(Debug, thiserror::Error)]
#[error("enough was read")]
struct Enough;
