//! A collection of comparisons: a folder with a store of feedback, to which it adds prompts, and the files that are made of it.
//!
//! Answers are stored as they come and choices as they are made, so that an interrupted run is resumed where it stopped. The
//! folder may be that of `gptkit serve --feedback`, while the server runs.

use crate::answering::{CompletionWriter, DecodingSettings, ModelNumbers};
use crate::settings::{Settings, Side, StoredSampling};
use anyhow::{Context, Result, ensure};
use gptkit_data::disk;
use gptkit_data::progress::{Progress, Unit};
use gptkit_data::source::OnBadRecord;
use gptkit_feedback::FeedbackStore;
use gptkit_feedback::choices::{Item, Judge, Judgment, StoredAnswer};
use gptkit_feedback::export::ExportKind;
use gptkit_feedback::records::{AnswerId, AnswerPlace, ModelIdentity, RecordId, RecordedAnswer};
use gptkit_feedback::store::{file_in, now};
use gptkit_model::Gpt;
use gptkit_model::generate::Completion;
use gptkit_model::load::ModelFolder;
use gptkit_model::sampler::Sampling;
use gptkit_train::interrupt::{Interrupt, Stop};
use gptkit_train::run::claim_numbered;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Answers that are stored together.
const STORED: usize = 64;

/// An open collection. No other process generates its answers or judges them meanwhile.
#[derive(Debug)]
pub struct Collection {
    /// Its folder.
    pub folder: PathBuf,
    /// What its answers are made with.
    pub settings: Settings,
    /// Its prompts.
    pub items: Vec<Item>,
    store: FeedbackStore,
    _lock: File,
}

impl Collection {
    /// Opens the one in `folder`, if there is one.
    ///
    /// # Errors
    /// When it is damaged, or another process writes it.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let path = file_in(folder)?;
        if !path.exists() {
            return Ok(None);
        }
        let lock = locked(folder)?;
        let store = FeedbackStore::open(folder)?;
        let settings = store.collection_settings()?;
        if settings.is_empty() {
            return Ok(None);
        }
        let settings = serde_json::from_value(Value::Object(settings))
            .with_context(|| format!("{} is damaged: its settings are not valid", path.display()))?;
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
        let mut store = FeedbackStore::create(&folder)?;
        let has_begun = store.begin_collection(&settings.fields()?, &items)?;
        ensure!(has_begun, "another process has started a collection in {}", folder.display());
        Ok(Self { folder, settings, items, store, _lock: lock })
    }

    /// Numbers of the prompts that the model of this side has not answered yet.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn unanswered(&self, side: Side) -> Result<Vec<u64>> {
        let mut n: HashMap<u64, usize> = HashMap::new();
        for answer in self.store.item_answers()?.iter().filter(|answer| self.settings.side(answer.number) == side) {
            *n.entry(answer.item).or_default() += 1;
        }
        let wanted = self.settings.k.unwrap_or(1);
        let numbers = self.items.iter().map(|item| item.number);
        Ok(numbers.filter(|number| n.get(number).is_none_or(|&n| n < wanted)).collect())
    }

    /// Generates the missing answers of the model of this side; `files` and `gpt` are its loaded `folder`, and `numbers` says
    /// how it computes: data type and instructions. Answers depend only on settings, prompt and number, not on the other
    /// prompts. Returns why it stopped before the end, if it did.
    ///
    /// # Errors
    /// When the model does not answer, or the store cannot be written.
    pub fn write_answers(
        &mut self,
        side: Side,
        folder: &Path,
        (files, gpt): (&ModelFolder, &Gpt),
        numbers: &ModelNumbers,
        interrupt: &Interrupt,
        progress: &dyn Progress,
    ) -> Result<Option<Stop>> {
        let writer = CompletionWriter::new(folder, files, gpt)?;
        let unanswered = self.unanswered(side)?;
        let n_samples = self.settings.k.unwrap_or(1);
        let task = progress.task(
            &format!("answers of {}", folder.display()),
            Some((self.items.len() * n_samples) as u64),
            Unit::Items,
        );
        task.resume_at(((self.items.len() - unanswered.len()) * n_samples) as u64);
        let decoding = DecodingSettings {
            n_samples,
            max_new_tokens: self.settings.max_new_tokens,
            stop: self.settings.stop.clone(),
            log_probs: Some(0),
            sampling: self.sampling(side),
        };
        let blank = self.blank(side, numbers.identity(folder, &files.tokenizer, &writer.form)?);
        let mut stop = None;
        for run in runs(&unanswered) {
            let items = &self.items[run[0] as usize..][..run.len()];
            let mut waiting = Vec::new();
            let store = &mut self.store;
            writer.write(items, &decoding, |item, sample, completion| {
                waiting.push(recorded(&blank, side, item, sample, completion)?);
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

    /// What the answers of a side have in common.
    fn blank(&self, side: Side, model: ModelIdentity) -> RecordedAnswer {
        RecordedAnswer {
            id: AnswerId { request: String::new(), choice: 0 },
            person: None,
            model,
            prompt: Vec::new(),
            sampling: json!(StoredSampling::from(self.sampling(side))),
            max_new_tokens: self.settings.max_new_tokens as u64,
            stop: self.settings.stop.clone(),
            text: String::new(),
            tokens: None,
            log_prob: None,
            finish: String::new(),
            place: None,
        }
    }

    /// The answers to each prompt, in the order of the prompts.
    ///
    /// # Errors
    /// When some are missing, or the store is damaged.
    pub fn answers(&self) -> Result<Vec<Vec<StoredAnswer>>> {
        let mut by_item = vec![Vec::new(); self.items.len()];
        for answer in self.store.item_answers()? {
            let of = by_item.get_mut(answer.item as usize);
            of.with_context(|| format!("{} is damaged: some answers have no prompt", self.folder.display()))?
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
        ensure!(
            choices.iter().all(sound),
            "{} is damaged: the choices do not match the answers",
            self.folder.display()
        );
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
        Ok(self.store.add_choices(choices)?)
    }

    /// Writes a file of comparisons by `judge`, and notes in the store which records are in it.
    ///
    /// # Errors
    /// When the file or the store cannot be written.
    pub(crate) fn write_export(&mut self, path: &Path, text: &str, judge: &str, records: &[RecordId]) -> Result<()> {
        self.store.write_export(ExportKind::Comparisons.name(), path, text, &json!({ "judge": judge }), records)
    }

    /// Takes the last choice back that was shown to `judge`, who is a person, and returns its prompt.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn undo(&mut self, judge: &Judge) -> Result<Option<u64>> {
        Ok(self.store.undo_choice(&judge.who, &now())?)
    }
}

/// Completion number `sample` of `side` for `item`, with all that it has in common with the others.
fn recorded(
    blank: &RecordedAnswer,
    side: Side,
    item: &Item,
    sample: usize,
    completion: Completion,
) -> Result<RecordedAnswer> {
    let log_prob = completion.log_probs.iter().map(|token| f64::from(token.log_prob)).sum();
    let number = if side == Side::B { 1 } else { sample as u64 };
    Ok(RecordedAnswer {
        id: AnswerId { request: format!("compare-{}-{}", side.name(), item.number), choice: sample as u64 },
        prompt: item.prompt.clone(),
        text: completion.text.trim().to_owned(),
        finish: serde_json::to_value(completion.finish)?.as_str().unwrap_or_default().to_owned(),
        tokens: Some(completion.tokens),
        log_prob: Some(log_prob),
        place: Some(AnswerPlace { item: item.number, number }),
        ..blank.clone()
    })
}

fn locked(folder: &Path) -> Result<File> {
    let lock = disk::lock(folder)?;
    lock.with_context(|| format!("another process is using {}; wait until it finishes, or stop it", folder.display()))
}

/// Numbers that follow each other, together: their prompts are answered as if all were.
fn runs(numbers: &[u64]) -> impl Iterator<Item = &[u64]> {
    numbers.chunk_by(|a, b| a + 1 == *b)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::settings::tests::settings;
    use gptkit_data::dialogue::{Message, Role};

    fn identity() -> ModelIdentity {
        ModelIdentity {
            name: "a".to_owned(),
            folder: "runs/a".to_owned(),
            weights: "w".to_owned(),
            tokenizer: "t".to_owned(),
            template: "c".to_owned(),
            fingerprint: "f".to_owned(),
            dtype: "f32".to_owned(),
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
        let mut store = FeedbackStore::create(folder).unwrap();
        let items: Vec<Item> = all.iter().enumerate().map(item).collect();
        assert!(store.begin_collection(&settings.fields().unwrap(), &items).unwrap());
        let answer = |item: &Item, number: usize, text: &str| RecordedAnswer {
            id: AnswerId { request: format!("compare-{}", item.number), choice: number as u64 },
            person: None,
            model: identity(),
            prompt: item.prompt.clone(),
            sampling: json!({ "seed": 1 }),
            max_new_tokens: 16,
            stop: Vec::new(),
            text: text.to_owned(),
            tokens: Some(vec![7]),
            log_prob: Some(-0.5),
            finish: if text.ends_with('…') { "length" } else { "stop" }.to_owned(),
            place: Some(AnswerPlace { item: item.number, number: number as u64 }),
        };
        for (item, (_, texts)) in items.iter().zip(all) {
            let answers: Vec<_> = texts.iter().enumerate().map(|(i, text)| answer(item, i, text)).collect();
            store.add_answers(&answers).unwrap();
        }
        drop(store);
        Collection::open(folder).unwrap().unwrap()
    }

    #[test]
    fn a_collection_is_what_it_was_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let all: [(&str, &[&str]); 2] = [("q", &["x", "y"]), ("r", &["x", ""])];
        let mut collection = collected(folder.path(), settings(None, "p.txt"), &all);
        assert_eq!(collection.settings, settings(None, "p.txt"));
        assert!(Collection::open(folder.path()).unwrap_err().to_string().contains("another process is using"));
        assert!(
            collection.unanswered(Side::A).unwrap().is_empty() && collection.unanswered(Side::B).unwrap().is_empty()
        );
        let judge = Judge { judge: "human".to_owned(), who: "ann".to_owned() };
        let choice = Judgment {
            record: None,
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
