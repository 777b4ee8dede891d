//! Dialogues → tokens that know whether they are trained on → batches of demonstrations, packed into windows.

use anyhow::{Context, Result, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::batch::{Batch, IGNORE, Windows};
use gptkit_data::dialogue::{AnswerUse, Message, opening_key};
use gptkit_data::examples::{Examples, ExamplesWriter};
use gptkit_data::pack::balance;
use gptkit_data::progress::{Progress, Silent};
use gptkit_data::record::BadRecord;
use gptkit_data::source::{OnBadRecord, SourceLocation};
use gptkit_data::sources::{Sources, Use, read_dialogues_of};
use gptkit_data::template::{Template, encode};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_rng::order::shuffled;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// The dialogues to learn; TOML section `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DialogueConfig {
    /// Files of records, or `world`, `world:N` or `world:N:SEED` for built-in instructions.
    pub sources: Vec<String>,
    /// Files of records for validation. Without any, `val_fraction` of the dialogues are held out.
    pub validation: Vec<String>,
    /// Share of the first prompts whose dialogues are held out for validation. `world` has its own validation part.
    pub val_fraction: f64,
    /// What to do with invalid records.
    pub on_bad_record: OnBadRecord,
    /// Whether the loss covers all messages instead of the assistant's alone.
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
        let Self { sources, validation, val_fraction, .. } = self;
        Sources { sources, validation, test: &[], val_fraction: *val_fraction }
    }

    /// Whether dialogues are validated on.
    fn validates(&self) -> bool {
        let world = |source: &String| SourceLocation::is_world(source);
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
pub struct DialogueCounts {
    /// Dialogues that are learned.
    pub train: usize,
    /// Dialogues that are validated on.
    pub val: usize,
    /// Dialogues that were cut at the window's length.
    pub truncated: usize,
    /// Those of them of which nothing to be learned was left.
    pub dropped: usize,
    /// Dialogues in which no message is to be learned, by the marks of their messages.
    pub unmarked: usize,
    /// Tokens of the training part whose prediction counts.
    pub trained_tokens: u64,
    /// Its other tokens.
    pub masked_tokens: u64,
    /// Dialogues whose last trained token is learned: where the assistant stops.
    pub ends: usize,
    /// Answers before the last that are not learned, because the template writes them in another way later.
    pub rewritten: usize,
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
) -> Result<DialogueCounts> {
    let mut encoder = DialogueEncoder { config, template, tokenizer, context, counts: DialogueCounts::default() };
    let mut split = config.places().split();
    let [train, val] = FILES.map(|name| folder.join(name));
    ExamplesWriter::write(&train, |train| {
        ExamplesWriter::write(&val, |val| {
            for reading in config.places().readings()? {
                read_dialogues_of(&reading, config.on_bad_record, progress, &mut |messages| {
                    match split.of(&reading, opening_key(messages)) {
                        None => {}
                        Some(Use::Train) => encoder.add(messages, false, train)?,
                        Some(Use::Validate | Use::Test) => encoder.add(messages, true, val)?,
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
            }
            Ok(())
        })
    })?;
    split.warn(progress);
    check(&encoder.counts, context)?;
    Ok(encoder.counts)
}

/// The error for marks in the data together with `train_on_prompt`.
const NOT_ALL: &str = "has answers marked as not trained on (for instance weight 0), but train_on_prompt trains on \
                       everything";

/// Writes dialogues as tokens, and counts.
struct DialogueEncoder<'a> {
    config: &'a DialogueConfig,
    template: &'a Template,
    tokenizer: &'a Tokenizer,
    context: usize,
    counts: DialogueCounts,
}

impl DialogueEncoder<'_> {
    /// Adds a dialogue to `file`, that of the training part unless it is `held_out`.
    fn add(&mut self, messages: &[Message], held_out: bool, file: &mut ExamplesWriter) -> Result<()> {
        let is_marked = messages.iter().any(|message| message.use_of == AnswerUse::Masked);
        if is_marked && self.config.train_on_prompt {
            return Err(BadRecord::new(NOT_ALL).into());
        }
        if is_marked && !messages.iter().any(Message::is_learned) {
            self.counts.unmarked += 1;
            return Ok(());
        }
        let bad = |e: anyhow::Error| BadRecord::new(format!("{e:#}"));
        let rendered = self.template.segments(messages).map_err(bad)?;
        let tokens = encode(&rendered.segments, self.tokenizer).map_err(bad)?;
        let (context, counts) = (self.context, &mut self.counts);
        counts.rewritten += rendered.rewritten;
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
fn check(counts: &DialogueCounts, context: usize) -> Result<()> {
    let DialogueCounts { train, truncated, dropped, unmarked, ends, .. } = *counts;
    let read = train + counts.val + dropped;
    ensure!(
        read == 0 || truncated < read,
        "all {read} dialogues are longer than the context of {context} tokens, so their answers would be cut off; use \
         a model with a longer context, or shorter dialogues"
    );
    ensure!(
        read > 0 || unmarked == 0,
        "none of the {unmarked} dialogues has a message to train on: all are marked as not trained on (for instance \
         weight 0)"
    );
    ensure!(
        train >= 2,
        "{train} training {} left; at least two are needed",
        if train == 1 { "dialogue is" } else { "dialogues are" }
    );
    ensure!(
        ends > 0,
        "no dialogue has an end that is trained on, so the model would never stop: every dialogue is cut at {context} \
         tokens, or the chat template has no end token after an answer"
    );
    Ok(())
}

/// The batches of a run: its demonstrations, in an order that the seed draws anew for each epoch, and pretraining text beside
/// them. A batch is a pure function of the seed and of the numbers of its demonstrations.
pub(crate) struct Demonstrations {
    examples: Examples,
    context: usize,
    seed: u64,
    text: Option<InterleavedText>,
}

/// Pretraining text that is mixed with the demonstrations.
struct InterleavedText {
    windows: Windows,
    /// Windows for so many demonstrations.
    n: u64,
    demonstrations: u64,
}

/// The examples of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemonstrationBatch {
    /// Demonstrations, several in a window; the windows are as long as the fullest of them.
    pub dialogues: Batch,
    /// Windows of pretraining text, where some is mixed in.
    pub text: Option<Batch>,
}

impl Demonstrations {
    /// The demonstrations in the file `path`, in windows of at most `context` tokens.
    ///
    /// # Errors
    /// When the file is damaged, or a demonstration does not fit the context.
    pub(crate) fn open(path: &Path, context: usize, seed: u64) -> Result<Self> {
        let examples = Examples::open(path)?;
        let lengths: Vec<usize> = (0..examples.len()).map(|i| examples.length(i)).collect();
        balance(&lengths, context).with_context(|| format!("in {}", path.display()))?;
        Ok(Self { examples, context, seed, text: None })
    }

    /// Adds so many windows of pretraining text to each batch of `batch_size` demonstrations that a `share` of the tokens
    /// that are read is text, and at least one.
    pub(crate) fn mix_in(&mut self, windows: Windows, share: f64, batch_size: usize) {
        let tokens = share / (1.0 - share) * (batch_size * self.mean_tokens()) as f64;
        let n = (tokens / self.context as f64).round().max(1.0) as u64;
        self.text = Some(InterleavedText { windows, n, demonstrations: batch_size as u64 });
    }

    /// The same for files of the same demonstrations.
    pub(crate) fn fingerprint(&self) -> String {
        format!("demonstrations-{}", self.examples.fingerprint())
    }

    /// The fingerprint of the records in earlier versions, which packed them into windows.
    pub(crate) fn packed_fingerprint(&self) -> String {
        self.examples.fingerprint()
    }

    /// Demonstrations.
    pub(crate) fn len(&self) -> u64 {
        self.examples.len() as u64
    }

    /// Tokens of a demonstration, on average.
    pub(crate) fn mean_tokens(&self) -> usize {
        let tokens: usize = (0..self.examples.len()).map(|i| self.examples.length(i)).sum();
        (tokens as f64 / self.examples.len().max(1) as f64).round().max(1.0) as usize
    }

    /// At most `most` demonstrations, evenly spread, in batches of `n`.
    pub(crate) fn all(&self, n: usize, most: usize) -> Vec<DemonstrationBatch> {
        let taken = self.len().min(most as u64);
        let numbers: Vec<u64> = (0..taken).map(|i| i * self.len() / taken.max(1)).collect();
        numbers.chunks(n.max(1)).map(|chunk| DemonstrationBatch { dialogues: self.packed(chunk), text: None }).collect()
    }

    /// The batch of demonstrations `first .. first + n` of the run.
    pub(crate) fn batch(&self, first: u64, n: usize) -> DemonstrationBatch {
        let numbers: Vec<u64> = (first..first + n as u64).map(|row| shuffled(row, self.len(), self.seed)).collect();
        let text = self.text.as_ref().map(|text| {
            let before = |row: u64| row * text.n / text.demonstrations;
            let windows = (before(first + n as u64) - before(first)).max(1); // on a batch ramp there may be none
            text.windows.batch(before(first), windows as usize)
        });
        DemonstrationBatch { dialogues: self.packed(&numbers), text }
    }

    /// The demonstrations of these numbers in windows.
    fn packed(&self, numbers: &[u64]) -> Batch {
        let all: Vec<Vec<u32>> = numbers.iter().map(|&number| self.examples.get(number as usize)).collect();
        let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
        let windows = match balance(&lengths, self.context) {
            Ok(windows) => windows,
            Err(e) => unreachable!("all demonstrations were looked at when the file was opened: {e}"),
        };
        let filled = |window: &Vec<usize>| window.iter().map(|&i| lengths[i]).sum::<usize>();
        let context = windows.iter().map(filled).max().unwrap_or(0);
        let mut batch =
            Batch { rows: windows.len(), context, tokens: Vec::new(), targets: Vec::new(), starts: Vec::new() };
        for window in windows {
            let begin = batch.tokens.len();
            let mut starts = Vec::with_capacity(window.len() + 1);
            for i in window {
                starts.push((batch.tokens.len() - begin) as u32);
                batch.tokens.extend(all[i].iter().map(|token| token & !TRAINED));
                let target = |&token: &u32| if token & TRAINED != 0 { token & !TRAINED } else { IGNORE };
                batch.targets.extend(all[i].iter().skip(1).map(target).chain([IGNORE]));
            }
            let filled = batch.tokens.len() - begin;
            if filled < context {
                starts.push(filled as u32); // padding is a sequence of its own
                batch.tokens.resize(begin + context, 0);
                batch.targets.resize(begin + context, IGNORE);
            }
            batch.starts.push(starts);
        }
        batch
    }
}

/// The first `n` dialogues that are validated on, or learned when none are: messages up to the last answer, and that.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn first_dialogues(config: &DialogueConfig, n: usize) -> Result<Vec<(Vec<Message>, String)>> {
    let mut found = Vec::new();
    let mut split = config.places().split();
    for reading in config.places().readings()? {
        read_dialogues_of(&reading, config.on_bad_record, &Silent, &mut |messages| {
            if found.len() == n {
                return Ok(ControlFlow::Break(()));
            }
            let used = split.of(&reading, opening_key(messages));
            if let Some((last, before)) = messages.split_last()
                && (used == Some(Use::Validate) || used.is_some() && !config.validates())
            {
                found.push((before.to_vec(), last.content.clone()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use gptkit_data::dialogue::Role;
    use gptkit_data::split::Split;
    use gptkit_data::synthetic::SyntheticInstructions;
    use gptkit_model::{Gpt, Input, Kind, ModelConfig, Params, Pass, PositionInit, WeightUpdate, Weights};
    use gptkit_ops::Precision;
    use gptkit_ops::check::assert_close;
    use gptkit_train::language_modeling::LanguageModeling;
    use gptkit_train::objective::Objective;
    use std::collections::HashSet;
    use std::path::PathBuf;

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
            n_inner: None,
            tie_word_embeddings: true,
            init_std: Some(0.02),
            position_init: PositionInit::Random,
        };
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let gpt = Gpt::new(&config, &params, Precision::F32).unwrap();
        (params, LanguageModeling { model: gpt })
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

    fn demonstrations(examples: &[Vec<u32>], seed: u64) -> Demonstrations {
        let (_folder, path) = file(examples);
        Demonstrations::open(&path, CONTEXT, seed).unwrap()
    }

    /// All demonstrations in one batch.
    fn epoch(examples: &[Vec<u32>], seed: u64) -> Batch {
        demonstrations(examples, seed).batch(0, examples.len()).dialogues
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

    /// Adds the gradients of `loss` to those of `update`; gives its value.
    fn learn(update: &mut WeightUpdate, loss: impl FnOnce() -> anyhow::Result<Tensor>) -> f64 {
        f64::from(update.backward(loss).unwrap().to_scalar::<f32>().unwrap())
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
            assert!(batch.rows < examples.len() && batch.starts.iter().any(|starts| starts.len() > 1));
            let mut weights = Weights::from(params.clone());
            let mut update = weights.begin_update();
            let loss = learn(&mut update, || Ok(objective.loss(&batch, 0..batch.rows, TRAIN)?.0));
            let together = gradients(&params);
            let total: usize = examples.iter().map(|one| counted(&alone(one))).sum();
            assert_eq!(counted(&batch), total);
            let mut update = weights.begin_update();
            let mut one_by_one = |one: &Vec<u32>| {
                let batch = alone(one);
                let tensor = |ids: &[u32]| Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
                let (input, targets) = (Input::windows(&tensor(&batch.tokens)).unwrap(), tensor(&batch.targets));
                let weight = counted(&batch) as f64 / total as f64;
                learn(&mut update, || Ok(objective.model.loss(&input, &targets, TRAIN, weight)?))
            };
            let sum: f64 = examples.iter().map(&mut one_by_one).sum();
            assert!((loss - sum).abs() < 1e-5, "{kind:?}: {loss} packed, {sum} one by one");
            for ((name, packed), (_, alone)) in together.iter().zip(gradients(&params)) {
                assert_close(&format!("{kind:?} {name}"), packed, &alone, 1e-5);
            }
        }
    }

    #[test]
    fn padding_contributes_nothing_and_no_example_sees_another() {
        let (_, objective) = model(Kind::Gpt2);
        let loss = |batch: &Batch| objective.loss(batch, 0..2, Pass::Eval).unwrap().0.to_scalar::<f32>().unwrap();
        // One window is full; the other has two examples, of which one is learned, and padding.
        let three = vec![vec![9; CONTEXT], vec![1, 2, 3, 4], vec![5, 6 | TRAINED, 7 | TRAINED, 8 | TRAINED]];
        let batch = epoch(&three, 1);
        assert_eq!((batch.rows, batch.starts[1].as_slice()), (2, &[0, 4, 8][..]));
        let learned_first = batch.tokens[CONTEXT] == 5;
        let whole = loss(&batch);
        for at in if learned_first { 4..12 } else { 0..4 } {
            let mut other = batch.clone();
            other.tokens[CONTEXT + at] = 16;
            assert_eq!(loss(&other), whole, "token {at} is seen from another example");
        }
        let mut other = batch.clone();
        other.tokens[CONTEXT + if learned_first { 1 } else { 5 }] = 16;
        assert!((loss(&other) - whole).abs() > 1e-4, "its own tokens count");
    }

    #[test]
    fn a_run_that_counted_windows_is_known() {
        let all = examples(5);
        let (_folder, path) = file(&all);
        let (earlier, demonstrations) = (Examples::open(&path).unwrap().fingerprint(), demonstrations(&all, 1));
        assert_eq!(demonstrations.packed_fingerprint(), earlier);
        assert_ne!(demonstrations.packed_fingerprint(), demonstrations.fingerprint());
    }

    #[test]
    fn every_epoch_has_every_demonstration_once_in_another_order() {
        let all = examples(30);
        let demonstrations = demonstrations(&all, 5);
        let of_batch = |first: u64| {
            let Batch { context, tokens, starts, .. } = demonstrations.batch(first, 10).dialogues;
            let mut found = Vec::new();
            for (window, starts) in tokens.chunks(context).zip(starts) {
                let ends = starts.iter().skip(1).copied().chain([context as u32]);
                let texts = starts.iter().zip(ends).map(|(&start, end)| window[start as usize..end as usize].to_vec());
                found.extend(texts.filter(|text| text.iter().any(|&token| token > 0))); // padding is zeros
            }
            found.sort();
            found
        };
        let mut all: Vec<Vec<u32>> = all.iter().map(|one| one.iter().map(|token| token & !TRAINED).collect()).collect();
        all.sort();
        let mut firsts = Vec::new();
        for epoch in 0..3 {
            let batches: Vec<Vec<Vec<u32>>> = (0..3).map(|i| of_batch(30 * epoch + 10 * i)).collect();
            assert!(batches.iter().all(|batch| batch.len() == 10), "a batch holds the demonstrations it is asked for");
            let mut found = batches.concat();
            found.sort();
            assert_eq!(found, all);
            firsts.push(batches[0].clone());
        }
        assert_ne!(firsts[0], firsts[1]);
    }

    /// The prompts in a file of demonstrations.
    fn prompts(path: &Path) -> HashSet<Vec<u32>> {
        let examples = Examples::open(path).unwrap();
        let prompt = |i: usize| examples.get(i).into_iter().take_while(|token| token & TRAINED == 0).collect();
        (0..examples.len()).map(prompt).collect()
    }

    /// Whatever is read to learn and to validate: files that share prompts, with several answers to each, and the world.
    #[test]
    fn no_prompt_is_trained_on_and_validated_on() {
        let letters = (' '..='~').chain(['\n']).collect();
        let mut tokenizer = Tokenizer::of_characters(&letters).unwrap();
        tokenizer.add_special_tokens(&Template::special_tokens()).unwrap();
        let template = Template::default_for_chat();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let held_out = |n: u64| SyntheticInstructions::new(1, Split::HeldOut).instruction(n).prompt().remove(0).content;
        let line =
            |prompt: String, n: u32| serde_json::json!({ "prompt": prompt, "completion": n.to_string() }).to_string();
        let own: Vec<String> = (0..80).map(|n| line(format!("p{}", n % 30), n)).collect();
        let both: Vec<String> = (20..40).map(|n| line(format!("p{n}"), n)).collect();
        let from_world: Vec<String> = (0..40).map(|n| line(held_out(n), n as u32)).chain(own.clone()).collect();
        for (name, lines) in [("own.jsonl", own), ("both.jsonl", both), ("world.jsonl", from_world)] {
            gptkit_data::disk::write(Path::new(&path(name)), lines.join("\n").as_bytes()).unwrap();
        }
        let known: HashSet<Vec<u32>> = (0..400)
            .map(|n| encode(&template.prompt(&[Message::new(Role::User, held_out(n))]).unwrap(), &tokenizer).unwrap())
            .map(|tokens| tokens.into_iter().map(|(id, _)| id).collect())
            .collect();
        for sources in [&["own.jsonl"][..], &["world:40"], &["own.jsonl", "world:40"], &["world.jsonl", "world:40"]] {
            for validation in [&[][..], &["both.jsonl"], &["world:30"], &["world:30", "both.jsonl"]] {
                let named = |list: &[&str]| {
                    list.iter().map(|&n| if n.contains(':') { n.to_owned() } else { path(n) }).collect::<Vec<_>>()
                };
                let config = DialogueConfig {
                    sources: named(sources),
                    validation: named(validation),
                    val_fraction: 0.2,
                    ..DialogueConfig::default()
                };
                encode_all(&config, &template, &tokenizer, 400, folder.path(), &Silent).unwrap();
                let [train, val] = FILES.map(|name| prompts(&folder.path().join(name)));
                let what = format!("{sources:?}, validated on {validation:?}");
                assert!(!train.is_empty() && !val.is_empty() && train.is_disjoint(&val), "{what}");
                if !sources.contains(&"world.jsonl") {
                    assert!(train.is_disjoint(&known), "{what}: the world's held-out part is trained on");
                }
                if validation == ["world:30"] {
                    assert!(val.is_subset(&known), "{what}: something else is validated on");
                }
            }
        }
    }

    #[test]
    fn data_from_which_nothing_is_learned_is_refused() {
        let sound = DialogueCounts { train: 5, ends: 5, ..DialogueCounts::default() };
        assert!(check(&sound, 64).is_ok());
        for (counts, says) in [
            (DialogueCounts { train: 1, ..sound.clone() }, "1 training dialogue is left"),
            (
                DialogueCounts { train: 0, unmarked: 3, ..sound.clone() },
                "none of the 3 dialogues has a message to train on",
            ),
            (
                DialogueCounts { train: 5, truncated: 5, ..sound.clone() },
                "all 5 dialogues are longer than the context of 64",
            ),
            (DialogueCounts { ends: 0, ..sound.clone() }, "no dialogue has an end that is trained on"),
        ] {
            let message = check(&counts, 64).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
