//! Dialogues → tokens that know whether they are trained on → windows of several of them.

use crate::sources::Sources;
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
    fn places(&self) -> Sources<'_> {
        Sources { sources: &self.sources, validation: &self.validation, val_fraction: self.val_fraction }
    }

    /// Whether dialogues are validated on.
    fn validates(&self) -> bool {
        let world = |source: &String| matches!(Place::of_records(source), Ok(Place::World { .. }));
        self.val_fraction > 0.0 || !self.validation.is_empty() || self.sources.iter().any(world)
    }
}

impl Check for DialogueConfig {
    fn check(&self, problems: &mut Problems) {
        self.places().check(Self::default().val_fraction, problems);
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
pub const FILES: [&str; 2] = ["train.examples", "val.examples"];

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
    let mut encoder = Encoder { config, template, tokenizer, context, counts: Counts::default() };
    let [train, val] = FILES.map(|name| folder.join(name));
    ExamplesWriter::write(&train, |train| {
        ExamplesWriter::write(&val, |val| {
            for source in &config.sources {
                read(source, config.on_bad_record, progress, &mut |n, messages, part| {
                    let held_out = config.places().holds_out(n, part);
                    encoder.add(messages, held_out, if held_out { val } else { train })
                })?;
            }
            for source in &config.validation {
                read(source, config.on_bad_record, progress, &mut |_, messages, _| encoder.add(messages, true, val))?;
            }
            Ok(())
        })
    })?;
    check(&encoder.counts, context)?;
    Ok(encoder.counts)
}

/// Writes dialogues as tokens, and counts.
struct Encoder<'a> {
    config: &'a DialogueConfig,
    template: &'a Template,
    tokenizer: &'a Tokenizer,
    context: usize,
    counts: Counts,
}

impl Encoder<'_> {
    /// Adds a dialogue to `file`, that of the training part unless it is `held_out`.
    fn add(&mut self, messages: &[Message], held_out: bool, file: &mut ExamplesWriter) -> Result<()> {
        let bad = |e: anyhow::Error| Bad::new(format!("{e:#}"));
        let tokens = encode(&self.template.segments(messages).map_err(bad)?, self.tokenizer).map_err(bad)?;
        let (context, counts) = (self.context, &mut self.counts);
        let ends = tokens.iter().rposition(|&(_, trained)| trained).is_some_and(|last| last < context);
        let learned = |trained: bool| trained || self.config.train_on_prompt;
        let mark = |&(id, trained): &(u32, bool)| if learned(trained) { id | TRAINED } else { id };
        let kept: Vec<u32> = tokens.iter().take(context).map(mark).collect();
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
        file.push(&kept)
    }
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
        "{train} {} left to learn from: give more records",
        if train == 1 { "dialogue is" } else { "dialogues are" }
    );
    ensure!(
        ends > 0,
        "no dialogue has its end learned, so that the model would never stop: each is cut at {context} tokens, or the chat \
         template has no sign after what the assistant says"
    );
    Ok(())
}

/// Takes a dialogue, its number in its source and, if it is one of the world's, the part that it is of.
pub type Sink<'a> = &'a mut dyn FnMut(u64, &[Message], Option<Part>) -> Result<()>;

/// Hands the dialogues of a source to `sink`, and says what it read.
///
/// # Errors
/// As [`read_dialogues`], and those of `sink`.
pub fn read(source: &str, on_bad: OnBadRecord, progress: &dyn Progress, sink: Sink) -> Result<()> {
    let place = Place::of_records(source).map_err(anyhow::Error::msg)?;
    if let Place::World { count: n, seed, .. } = place {
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
    let s = if n == 1 { "" } else { "s" };
    progress.note(&format!("{source}: {} dialogue{s}, read as {shape}", grouped(n)));
    if let (n @ 1.., Some(first)) = (skipped.total(), &skipped.first) {
        progress.warn(&format!("{n} records are left out; the first: {first}"));
    }
    Ok(())
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
                && (!split || !config.validates() || config.places().holds_out(number, part))
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use model::{Gpt, Input, Kind, ModelConfig, Params, Pass};
    use ops::Precision;
    use ops::check::assert_close;
    use proptest::prelude::*;
    use std::path::PathBuf;
    use train::objective::{LanguageModeling, Objective};

    const CONTEXT: usize = 12;
    const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

    fn model(kind: Kind) -> (Params, LanguageModeling) {
        let config = ModelConfig {
            kind,
            n_layer: 2,
            n_head: 2,
            d_model: 8,
            context: CONTEXT,
            vocab_size: 17,
            band: (kind == Kind::Gpt3).then_some(4),
            embedding_dropout: 0.0,
            attention_dropout: 0.0,
            residual_dropout: 0.0,
            layer_norm_eps: 1e-5,
        };
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let gpt = Gpt::new(&config, &params, Precision::F32).unwrap();
        (params, LanguageModeling(gpt))
    }

    /// Examples of lengths from 2 to the context, the last third of each learned.
    fn examples(n: u32) -> Vec<Vec<u32>> {
        let one = |i: u32| {
            let length = 2 + (i * 7) % (CONTEXT as u32 - 1);
            let token = |at: u32| ((i * 5 + at * 3) % 17) | if at * 3 >= length { TRAINED } else { 0 };
            (0..length).map(token).collect()
        };
        (0..n).map(one).collect()
    }

    fn file(examples: &[Vec<u32>]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.examples");
        ExamplesWriter::write(&path, |writer| examples.iter().try_for_each(|one| writer.push(one))).unwrap();
        (folder, path)
    }

    fn packed(examples: &[Vec<u32>], seed: u64) -> Packed {
        let (_folder, path) = file(examples);
        Packed::open(&path, CONTEXT, seed, None).unwrap()
    }

    /// All windows of the first epoch.
    fn epoch(examples: &[Vec<u32>], seed: u64) -> Batch {
        let mut packed = packed(examples, seed);
        let rows = packed.rows_per_epoch();
        packed.batch(0, rows as usize)
    }

    /// An example in a window of its own length, as no packing would have it.
    fn alone(example: &[u32]) -> Batch {
        let tokens = example.iter().map(|token| token & !TRAINED).collect();
        let target = |&token: &u32| if token & TRAINED != 0 { token & !TRAINED } else { IGNORE };
        Batch::windows(example.len(), tokens, example.iter().skip(1).map(target).chain([IGNORE]).collect())
    }

    fn counted(batch: &Batch) -> usize {
        batch.targets.iter().filter(|&&target| target != IGNORE).count()
    }

    /// Adds the gradients of `loss` to those of `params`; gives its value.
    fn learn(params: &Params, loss: &Tensor) -> f64 {
        params.collect(&mut loss.backward().unwrap()).unwrap();
        f64::from(loss.to_scalar::<f32>().unwrap())
    }

    fn gradients(params: &Params) -> Vec<(String, Tensor)> {
        params.iter().map(|(name, parameter)| (name.to_owned(), parameter.gradient().unwrap())).collect()
    }

    #[test]
    fn packed_examples_have_the_loss_and_gradients_of_the_same_one_by_one() {
        let examples = examples(23);
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let (params, objective) = model(kind);
            let batch = epoch(&examples, 3);
            assert!(batch.rows < examples.len() && batch.starts.iter().any(|starts| starts.len() > 2));
            let loss = learn(&params, &objective.loss(&batch, 0..batch.rows, TRAIN).unwrap());
            let together = gradients(&params);
            let total: usize = examples.iter().map(|one| counted(&alone(one))).sum();
            assert_eq!(counted(&batch), total);
            params.clear_gradients();
            let one_by_one = |one: &Vec<u32>| {
                let batch = alone(one);
                let tensor = |ids: &[u32]| Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
                let (input, targets) = (Input::windows(&tensor(&batch.tokens)).unwrap(), tensor(&batch.targets));
                let weight = counted(&batch) as f64 / total as f64;
                learn(&params, &objective.0.loss(&input, &targets, TRAIN, weight).unwrap())
            };
            let sum: f64 = examples.iter().map(one_by_one).sum();
            assert!((loss - sum).abs() < 1e-5, "{kind:?}: {loss} packed, {sum} one by one");
            for ((name, packed), (_, alone)) in together.iter().zip(gradients(&params)) {
                assert_close(&format!("{kind:?} {name}"), packed, &alone, 1e-5);
            }
        }
    }

    #[test]
    fn padding_contributes_nothing_and_no_example_sees_another() {
        let (_, objective) = model(Kind::Gpt2);
        let loss = |batch: &Batch| objective.loss(batch, 0..1, Pass::Eval).unwrap().to_scalar::<f32>().unwrap();
        // Two examples and padding in one window; only the second is learned.
        let two = vec![vec![1, 2, 3, 4], vec![5, 6 | TRAINED, 7 | TRAINED, 8 | TRAINED]];
        let batch = epoch(&two, 1);
        assert_eq!((batch.rows, batch.starts[0].as_slice()), (1, &[0, 4, 8][..]));
        let learned_first = batch.tokens[0] == 5;
        let whole = loss(&batch);
        for at in if learned_first { 4..12 } else { 0..4 } {
            let mut other = batch.clone();
            other.tokens[at] = 16;
            assert_eq!(loss(&other), whole, "token {at} is seen from another example");
        }
        let mut other = batch.clone();
        other.tokens[if learned_first { 1 } else { 5 }] = 16;
        assert!((loss(&other) - whole).abs() > 1e-4, "its own tokens count");
    }

    proptest! {
        #[test]
        fn rows_are_the_same_however_they_are_asked_for(n in 2u32..40, seed in 0u64..9, first in 0u64..50, rows in 1usize..9) {
            let examples = examples(n);
            let mut in_order = packed(&examples, seed);
            let mut all = Vec::new();
            for row in 0..first + rows as u64 {
                all.push(in_order.batch(row, 1));
            }
            let together = packed(&examples, seed).batch(first, rows);
            let tokens: Vec<u32> = all[first as usize..].iter().flat_map(|batch| batch.tokens.clone()).collect();
            prop_assert_eq!(together.tokens, tokens);
        }
    }

    #[test]
    fn every_epoch_has_every_example_once_in_another_order() {
        let examples = examples(30);
        let mut packed = packed(&examples, 5);
        let mut orders = Vec::new();
        for epoch in 0..3 {
            packed.turn_to(packed.firsts[epoch]);
            let mut order = packed.windows.concat();
            orders.push(order.clone());
            order.sort_unstable();
            assert_eq!(order, (0..30).collect::<Vec<_>>());
        }
        assert_ne!(orders[0], orders[1]);
    }

    #[test]
    fn data_from_which_nothing_is_learned_is_refused() {
        let sound = Counts { train: 5, ends: 5, ..Counts::default() };
        assert!(check(&sound, 64).is_ok());
        for (counts, says) in [
            (Counts { train: 1, ..sound.clone() }, "1 dialogue is left to learn from"),
            (Counts { train: 5, truncated: 5, ..sound.clone() }, "all 5 dialogues are longer than the window of 64"),
            (Counts { ends: 0, ..sound.clone() }, "no dialogue has its end learned"),
        ] {
            let message = check(&counts, 64).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
