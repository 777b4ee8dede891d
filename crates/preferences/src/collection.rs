//! A collection of comparisons: a folder with prompts, what models answered, and what was chosen.
//!
//! Answers are stored as they come and choices as they are made, so that whatever ends a sitting, the next goes on.

use crate::answering::{Answerer, Manner, form_of};
use crate::choices::{Answer, Choice, Item, Judge, Store};
use anyhow::{Context, Result, bail, ensure};
use gptkit_data::dialogue::Message;
use gptkit_data::dialogue::key;
use gptkit_data::disk;
use gptkit_data::form::DialogueForm;
use gptkit_data::progress::{Progress, Unit, grouped};
use gptkit_data::prompt::read_prompts;
use gptkit_data::record::BadRecord;
use gptkit_data::source::{OnBadRecord, SourceLocation};
use gptkit_data::split::Split;
use gptkit_data::synthetic::SyntheticInstructions;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::Gpt;
use gptkit_model::load::{ModelFolder, load_config};
use gptkit_model::sampler::Sampling;
use gptkit_train::interrupt::{Interrupt, Stop};
use gptkit_train::run::claim_numbered;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// File of the store below a collection's folder.
pub const STORE: &str = "comparisons.sqlite";
/// Answers that are stored together.
const STORED: usize = 64;

/// Which of two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one.
    A,
    /// The other.
    B,
}

impl Side {
    /// As the store calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// What the answers are made with; all of it decides what a collection is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Folder of the model that answers.
    pub a: PathBuf,
    /// Fingerprint of its weights.
    pub weights_of_a: String,
    /// Folder of the one that it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<PathBuf>,
    /// Fingerprint of its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_of_b: Option<String>,
    /// Answers of the one model to each prompt, where there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<usize>,
    /// File of prompts, or `world`, `world:N`, `world:N:SEED`.
    pub prompts: String,
    /// Only so many prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Ends of answers besides the models' own.
    #[serde(default)]
    pub stop: Vec<String>,
    /// How tokens are chosen.
    #[serde(flatten)]
    pub sampling: Tokens,
}

/// How tokens are chosen: [`Sampling`] as it is stored, with the numbers as a person writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "see Sampling")]
pub struct Tokens {
    pub temperature: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    pub repetition_penalty: f64,
    pub seed: u64,
}

impl From<Sampling> for Tokens {
    fn from(sampling: Sampling) -> Self {
        let Sampling { repetition_penalty, temperature, top_k, top_p, min_p, seed } = sampling;
        // The number of fewest digits that is the same f32.
        let short = |x: f32| x.to_string().parse().unwrap_or(f64::from(x));
        Self {
            temperature: short(temperature),
            top_k,
            top_p: top_p.map(short),
            min_p: min_p.map(short),
            repetition_penalty: short(repetition_penalty),
            seed,
        }
    }
}

impl From<&Tokens> for Sampling {
    fn from(tokens: &Tokens) -> Self {
        let Tokens { temperature, top_k, top_p, min_p, repetition_penalty, seed } = *tokens;
        Self {
            repetition_penalty: repetition_penalty as f32,
            temperature: temperature as f32,
            top_k,
            top_p: top_p.map(|p| p as f32),
            min_p: min_p.map(|p| p as f32),
            seed,
        }
    }
}

impl Settings {
    /// Answers to each prompt.
    pub fn n_answers(&self) -> usize {
        self.k.unwrap_or(2)
    }

    /// The models, each with where it lies.
    pub fn models(&self) -> Vec<(Side, &Path)> {
        let b = self.b.as_deref().map(|b| (Side::B, b));
        std::iter::once((Side::A, self.a.as_path())).chain(b).collect()
    }

    /// Which split of the embedded world's instructions the prompts are: models are compared on what is held out, and
    /// rankings, which are to be learned from, are of the training part.
    pub fn split(&self) -> Split {
        if self.k.is_some() { Split::Train } else { Split::HeldOut }
    }

    /// Where the prompts are from.
    pub fn prompts(&self) -> Prompts<'_> {
        Prompts { source: &self.prompts, count: self.count, split: self.split() }
    }

    /// Why all answers to a prompt would be the same, if they would.
    pub fn answers_are_alike(&self) -> Option<&'static str> {
        let greedy = self.sampling.temperature == 0.0 || self.sampling.top_k == Some(1);
        match (&self.weights_of_b, self.k) {
            (_, Some(_)) if greedy => Some("without chance (--temperature 0, --top-k 1) all K answers are the same"),
            (Some(b), None) if greedy && *b == self.weights_of_a => Some(
                "--a and --b are the same model, and without chance (--temperature 0, --top-k 1) so are its answers",
            ),
            _ => None,
        }
    }

    fn fields(&self) -> Result<Map<String, Value>> {
        match serde_json::to_value(self)? {
            Value::Object(fields) => Ok(fields),
            other => bail!("settings are {other}"),
        }
    }

    /// What differs in `other`, a line each. Where a model lies makes no difference.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn differences(&self, other: &Self) -> Result<Vec<String>> {
        let (there, here) = (self.fields()?, other.fields()?);
        let names: Vec<&String> = there.keys().chain(here.keys().filter(|name| !there.contains_key(*name))).collect();
        let differs = |name: &&&String| !["a", "b"].contains(&name.as_str()) && there.get(**name) != here.get(**name);
        let shown = |value: Option<&Value>| match value {
            None => "not set".to_owned(),
            Some(Value::String(text)) => text.chars().take(60).collect(),
            Some(value) => value.to_string(),
        };
        let line = |name: &String| match name.strip_prefix("weights-of-") {
            Some(side) if there.contains_key(name) && here.contains_key(name) => {
                format!("--{side}: the weights are others")
            }
            Some(side) => format!("--{side}: there {}, here {}", shown(there.get(side)), shown(here.get(side))),
            None => format!("--{name}: there {}, here {}", shown(there.get(name)), shown(here.get(name))),
        };
        Ok(names.iter().filter(differs).map(|name| line(name)).collect())
    }
}

/// Fingerprint of the weights in `folder`.
///
/// # Errors
/// When they cannot be read, or it holds none.
pub fn weights_of(folder: &Path) -> Result<String> {
    load_config(folder)?.must_write().with_context(|| folder.display().to_string())?;
    disk::fingerprint(folder, ".safetensors")
}

/// How a model reads a prompt.
struct PromptReader {
    tokenizer: Tokenizer,
    form: DialogueForm,
    context: usize,
}

impl PromptReader {
    fn of(folder: &Path) -> Result<Self> {
        let context = load_config(folder)?.context;
        let tokenizer = Tokenizer::load(folder)?;
        Ok(Self { form: form_of(folder, &tokenizer)?, tokenizer, context })
    }

    /// Whether there is room for an answer.
    fn takes(&self, prompt: &[Message]) -> Result<bool> {
        Ok(self.form.prompt(&self.tokenizer, prompt)?.len() < self.context)
    }
}

/// An open collection, which no other process writes meanwhile.
#[derive(Debug)]
pub struct Collection {
    /// Its folder.
    pub folder: PathBuf,
    /// What its answers are made with.
    pub settings: Settings,
    /// Its prompts.
    pub items: Vec<Item>,
    store: Store,
    _lock: File,
}

impl Collection {
    /// Opens the one in `folder`, if there is one.
    ///
    /// # Errors
    /// When it is damaged, or another process writes it.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(STORE);
        if !path.exists() {
            return Ok(None);
        }
        let lock = locked(folder)?;
        let store = Store::open(&path)?;
        if store.is_new()? {
            return Ok(None);
        }
        let settings = serde_json::from_value(Value::Object(store.settings()?))
            .with_context(|| format!("{} is damaged: its settings are not as a collection has them", path.display()))?;
        let items = store.items()?;
        let counted = items.iter().map(|item| item.number).eq(0..items.len() as u64);
        ensure!(counted && !items.is_empty(), "{} is damaged: prompts are missing", path.display());
        Ok(Some(Self { folder: folder.to_owned(), settings, items, store, _lock: lock }))
    }

    /// Begins one in `folder`, or in the first `comparisons/compare-1` that is free, with the prompts that all its models can
    /// read. Says what it left out.
    ///
    /// # Errors
    /// When the prompts cannot be read, there are none, a model does not answer, or `folder` cannot be written.
    pub fn begin(
        folder: Option<&Path>,
        settings: Settings,
        on_bad: OnBadRecord,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let models: Vec<&Path> = settings.models().into_iter().map(|(_, model)| model).collect();
        let items = settings.prompts().items(&models, on_bad, progress)?;
        let (folder, lock) = match folder {
            Some(folder) => {
                disk::create_dir(folder)?;
                (folder.to_owned(), locked(folder)?)
            }
            None => {
                let claim = claim_numbered(Path::new("comparisons"), "compare")?;
                (claim.folder().to_owned(), claim.keep()?)
            }
        };
        let mut store = Store::open(&folder.join(STORE))?;
        ensure!(store.is_new()?, "another process has begun a collection in {}", folder.display());
        store.begin(&settings.fields()?, &items)?;
        Ok(Self { folder, settings, items, store, _lock: lock })
    }

    /// Numbers of the prompts that the model of this side has not answered yet.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn unanswered(&self, side: Side) -> Result<Vec<u64>> {
        let mut n: HashMap<u64, usize> = HashMap::new();
        for answer in self.store.answers()?.iter().filter(|answer| answer.model == side.name()) {
            *n.entry(answer.item).or_default() += 1;
        }
        let wanted = self.settings.k.unwrap_or(1);
        let numbers = self.items.iter().map(|item| item.number);
        Ok(numbers.filter(|number| n.get(number).is_none_or(|&n| n < wanted)).collect())
    }

    /// Has the model of this side answer what it has not answered yet; `files` is what was read of its `folder`, and `gpt`
    /// it. Answers depend on settings, prompt and number alone, not on what was asked beside. Returns why it stopped before
    /// the end, if it did.
    ///
    /// # Errors
    /// When the model does not answer, or the store cannot be written.
    pub fn write_answers(
        &mut self,
        side: Side,
        folder: &Path,
        (files, gpt): (&ModelFolder, &Gpt),
        interrupt: &Interrupt,
        progress: &dyn Progress,
    ) -> Result<Option<Stop>> {
        let answerer = CompletionWriter::new(folder, files, gpt)?;
        let unanswered = self.unanswered(side)?;
        let n_samples = self.settings.k.unwrap_or(1);
        let task = progress.task(
            &format!("answers of {}", folder.display()),
            Some((self.items.len() * n_samples) as u64),
            Unit::Items,
        );
        task.resume_at(((self.items.len() - unanswered.len()) * n_samples) as u64);
        let manner = DecodingSettings {
            n_samples,
            max_new_tokens: self.settings.max_new_tokens,
            stop: self.settings.stop.clone(),
            log_probs: None,
            sampling: self.sampling(side),
        };
        let mut stop = None;
        for run in runs(&unanswered) {
            let items = &self.items[run[0] as usize..][..run.len()];
            let mut waiting = Vec::new();
            let store = &mut self.store;
            answerer.write(items, &manner, |item, sample, completion| {
                waiting.push(StoredAnswer {
                    item: item.number,
                    number: if side == Side::B { 1 } else { sample as u64 },
                    model: side.name().to_owned(),
                    text: completion.text.trim().to_owned(),
                    tokens: completion.tokens.len() as u64,
                    finish: serde_json::to_value(completion.finish)?.as_str().unwrap_or_default().to_owned(),
                });
                task.advance(1);
                stop = interrupt.reason(Duration::ZERO);
                if waiting.len() >= STORED || stop.is_some() {
                    store.add_answers(&std::mem::take(&mut waiting))?;
                }
                Ok(if stop.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            self.store.add_answers(&waiting)?;
            if stop.is_some() {
                break;
            }
        }
        Ok(stop)
    }

    /// The two sides draw for themselves, so that a model can be compared with itself.
    fn sampling(&self, side: Side) -> Sampling {
        let sampling = Sampling::from(&self.settings.sampling);
        let seed = sampling.seed.wrapping_add(u64::from(side == Side::B));
        Sampling { seed, ..sampling }
    }

    /// The answers to each prompt, in the order of the prompts.
    ///
    /// # Errors
    /// When some are missing, or the store is damaged.
    pub fn answers(&self) -> Result<Vec<Vec<StoredAnswer>>> {
        let mut by_item = vec![Vec::new(); self.items.len()];
        for answer in self.store.answers()? {
            let of = by_item.get_mut(answer.item as usize);
            of.with_context(|| format!("{} is damaged: it has answers to no prompt", self.folder.display()))?
                .push(answer);
        }
        let n = self.settings.n_answers();
        let whole = |answers: &Vec<StoredAnswer>| answers.iter().map(|answer| answer.number as usize).eq(0..n);
        ensure!(by_item.iter().all(whole), "{} is damaged: answers are missing", self.folder.display());
        Ok(by_item)
    }

    /// All choices, of whomever.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn choices(&self) -> Result<Vec<Judgment>> {
        let (n_items, n) = (self.items.len() as u64, self.settings.n_answers());
        let sound = |choice: &Judgment| {
            let of_all = |len: Option<usize>| len.is_none_or(|len| len == n);
            choice.item < n_items
                && of_all(choice.ranking.as_ref().map(Vec::len))
                && of_all(choice.scores.as_ref().map(Vec::len))
        };
        let choices = self.store.choices()?;
        ensure!(choices.iter().all(sound), "{} is damaged: choices do not fit the answers", self.folder.display());
        Ok(choices)
    }

    /// Numbers of the prompts on which `judge` has not said anything.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn unjudged(&self, judge: &Judge) -> Result<Vec<u64>> {
        let choices = self.store.choices()?;
        let judged: HashSet<u64> =
            choices.iter().filter(|choice| choice.judge == *judge).map(|choice| choice.item).collect();
        Ok(self.items.iter().map(|item| item.number).filter(|number| !judged.contains(number)).collect())
    }

    /// Keeps `choices`: they are on the disk when this returns.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn choose(&mut self, choices: &[Judgment]) -> Result<()> {
        self.store.add_choices(choices)
    }

    /// Takes back the last choice that `judge` was asked for, and says of which prompt.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn undo(&mut self, judge: &Judge) -> Result<Option<u64>> {
        self.store.undo(judge)
    }
}

fn locked(folder: &Path) -> Result<File> {
    let lock = disk::lock(folder)?;
    lock.with_context(|| format!("another process is at work in {}; wait for it, or end it", folder.display()))
}

/// Numbers that follow each other, together: their prompts are answered as if all were.
fn runs(numbers: &[u64]) -> impl Iterator<Item = &[u64]> {
    numbers.chunk_by(|a, b| a + 1 == *b)
}

/// Where prompts are from.
#[derive(Debug, Clone, Copy)]
pub struct Prompts<'a> {
    /// File, or `world`, `world:N`, `world:N:SEED`.
    pub source: &'a str,
    /// Only so many.
    pub count: Option<u64>,
    /// Split of the embedded world's instructions.
    pub split: Split,
}

impl Prompts<'_> {
    /// The embedded world's instructions, if the prompts are these.
    pub fn world(&self) -> Option<SyntheticInstructions> {
        match SourceLocation::of_records(self.source) {
            Ok(SourceLocation::World { seed, .. }) => Some(SyntheticInstructions::new(seed, self.split)),
            _ => None,
        }
    }

    /// Those that all of `models`, which are folders, can read, each once. Says what it left out.
    ///
    /// # Errors
    /// When they cannot be read, there are none, or a model does not answer.
    pub fn items(&self, models: &[&Path], on_bad: OnBadRecord, progress: &dyn Progress) -> Result<Vec<Item>> {
        let readers: Vec<PromptReader> = models.iter().map(|model| PromptReader::of(model)).collect::<Result<_>>()?;
        Gathering::new(*self, &readers).gather(on_bad, progress)
    }
}

/// Prompts while they are read.
struct Gathering<'a> {
    from: Prompts<'a>,
    readers: &'a [PromptReader],
    items: Vec<Item>,
    seen: HashSet<u64>,
    repeated: u64,
    too_long: u64,
}

impl<'a> Gathering<'a> {
    fn new(from: Prompts<'a>, readers: &'a [PromptReader]) -> Self {
        Self { from, readers, items: Vec::new(), seen: HashSet::new(), repeated: 0, too_long: 0 }
    }

    fn is_full(&self, most: u64) -> bool {
        self.items.len() as u64 >= self.from.count.unwrap_or(u64::MAX).min(most)
    }

    fn gather(mut self, on_bad: OnBadRecord, progress: &dyn Progress) -> Result<Vec<Item>> {
        let source = self.from.source;
        match SourceLocation::of_records(source).map_err(anyhow::Error::msg)? {
            SourceLocation::World { count, seed, .. } => {
                let most = if source == "world" { WORLD_PROMPTS } else { count };
                let instructions = SyntheticInstructions::new(seed, self.from.split);
                // Some come again, sums above all.
                for index in 0..most.saturating_mul(10) {
                    if self.is_full(most) {
                        break;
                    }
                    let prompt = instructions.instruction(index).prompt();
                    self.take(prompt, source.to_owned(), Some(index))?;
                }
            }
            _ => {
                let skipped = read_prompts(Path::new(source), on_bad, progress, &mut |prompt| {
                    if !self.is_full(u64::MAX) {
                        self.take(prompt.messages, prompt.place.to_string(), None)?;
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
                skipped.warn(progress);
            }
        }
        let (n, too_long) = (self.items.len() as u64, self.too_long);
        ensure!(
            n > 0,
            "no prompt of {source} leaves room for an answer in the window of {} tokens; give shorter ones",
            self.readers.iter().map(|reader| reader.context).min().unwrap_or(0)
        );
        let repeated = match self.repeated {
            0 => String::new(),
            n => format!(" · repeated, and asked once: {}", grouped(n)),
        };
        progress.note(&format!("{source}: {} prompts{repeated}", grouped(n)));
        if too_long > 0 {
            progress
                .warn(&format!("prompts that leave no room for an answer, and are left out: {}", grouped(too_long)));
        }
        Ok(self.items)
    }

    fn take(&mut self, prompt: Vec<Message>, place: String, world: Option<u64>) -> Result<()> {
        if !self.seen.insert(key(&prompt)) {
            self.repeated += 1;
            return Ok(());
        }
        for reader in self.readers {
            if !reader.takes(&prompt).map_err(|e| BadRecord::new(format!("{e:#}")))? {
                self.too_long += 1;
                return Ok(());
            }
        }
        self.items.push(Item { number: self.items.len() as u64, place, world, prompt });
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::choices::Judge;
    use gptkit_data::dialogue::Role;

    pub(crate) fn settings(k: Option<usize>, prompts: &str) -> Settings {
        Settings {
            a: "runs/a".into(),
            weights_of_a: "1".to_owned(),
            b: k.is_none().then(|| "runs/b".into()),
            weights_of_b: k.is_none().then(|| "2".to_owned()),
            k,
            prompts: prompts.to_owned(),
            count: None,
            max_new_tokens: 16,
            stop: Vec::new(),
            sampling: Sampling { temperature: 0.7, ..Sampling::default() }.into(),
        }
    }

    /// A collection in `folder` of these prompts and answers, the number of each the world's, if they are its.
    pub(crate) fn collected(folder: &Path, settings: Settings, all: &[(&str, &[&str])]) -> Collection {
        let is_world = settings.prompts().world().is_some();
        let item = |(number, (prompt, _)): (usize, &(&str, &[&str]))| Item {
            number: number as u64,
            place: format!("p.txt line {}", number + 1),
            world: is_world.then_some(number as u64),
            prompt: vec![Message::new(Role::User, *prompt)],
        };
        let mut store = Store::open(&folder.join(STORE)).unwrap();
        store.begin(&settings.fields().unwrap(), &all.iter().enumerate().map(item).collect::<Vec<_>>()).unwrap();
        let answers = all.iter().enumerate().flat_map(|(item, (_, texts))| {
            let side = |number| if settings.k.is_none() && number == 1 { Side::B } else { Side::A };
            texts.iter().enumerate().map(move |(number, text)| StoredAnswer {
                item: item as u64,
                number: number as u64,
                model: side(number).name().to_owned(),
                text: (*text).to_owned(),
                tokens: 1,
                finish: if text.ends_with('…') { "length" } else { "stop" }.to_owned(),
            })
        });
        let answers: Vec<StoredAnswer> = answers.collect();
        store.add_answers(&answers).unwrap();
        drop(store);
        Collection::open(folder).unwrap().unwrap()
    }

    #[test]
    fn a_collection_is_what_it_was_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let all: [(&str, &[&str]); 2] = [("q", &["x", "y"]), ("r", &["x", ""])];
        let mut collection = collected(folder.path(), settings(None, "p.txt"), &all);
        assert_eq!(collection.settings, settings(None, "p.txt"));
        assert!(Collection::open(folder.path()).unwrap_err().to_string().contains("another process is at work"));
        assert!(
            collection.unanswered(Side::A).unwrap().is_empty() && collection.unanswered(Side::B).unwrap().is_empty()
        );
        let judge = Judge { judge: "human".to_owned(), who: "ann".to_owned() };
        let choice = Judgment {
            item: 0,
            judge: judge.clone(),
            at: "2024-05-01T10:00:00Z".to_owned(),
            ranking: None,
            scores: None,
            shown: Some(vec![0, 1]),
            seconds: None,
        };
        collection.choose(&[choice]).unwrap();
        assert_eq!(collection.unjudged(&judge).unwrap(), [1]);
        assert_eq!(collection.unjudged(&Judge { who: "bob".to_owned(), ..judge.clone() }).unwrap(), [0, 1]);
        assert_eq!(collection.undo(&judge).unwrap(), Some(0));
        assert_eq!(collection.answers().unwrap()[1][1].text, "");
    }
}
