//! Labeled records → sequences between special tokens (Radford et al. 2018, §3.3) → batches.

use crate::columns::{Columns, Named, Truth};
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::examples::{Examples, ExamplesWriter, Records};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::record::{BadRecord, RecordPlace as At, Row};
use gptkit_data::rows::read_rows;
use gptkit_data::source::OnBadRecord;
use gptkit_data::sources::{Origin, Reading, Sources, SplitAssigner, Use};
use gptkit_data::synthetic::SyntheticLabeled;
use gptkit_data::task::TaskKind;
use gptkit_data::tokenizer::{FRAME, Tokenizer};
use gptkit_data::unused::Unused;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The labeled records; TOML section `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LabeledConfig {
    /// The task: classification, entailment, similarity, multiple-choice or regression.
    pub task: TaskKind,
    /// Files of records, or `world`, `world:N` or `world:N:SEED` for built-in tasks.
    pub sources: Vec<String>,
    /// Files of records for validation, which select the best weights. Without any, `val_fraction` of the records are held
    /// out.
    pub validation: Vec<String>,
    /// Share of the records held out for validation. `world` has its own validation part.
    pub val_fraction: f64,
    /// Files of test records for the best weights; the validation part when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// What to do with invalid records.
    pub on_bad_record: OnBadRecord,
    /// Columns to read; those with known names when left out.
    pub columns: Named,
}

impl Default for LabeledConfig {
    fn default() -> Self {
        Self {
            task: TaskKind::Classification,
            sources: vec!["world:4000".to_owned()],
            validation: Vec::new(),
            val_fraction: 0.1,
            test: Vec::new(),
            on_bad_record: OnBadRecord::Fail,
            columns: Named::default(),
        }
    }
}

impl LabeledConfig {
    fn places(&self) -> Sources<'_> {
        let Self { sources, validation, test, val_fraction, .. } = self;
        Sources { sources, validation, test, val_fraction: *val_fraction }
    }
}

impl Check for LabeledConfig {
    fn check(&self, problems: &mut Problems) {
        self.places().check(Self::default().val_fraction, problems);
    }
}

/// Puts texts between special tokens, within a window.
pub(crate) struct Framer<'a> {
    tokenizer: &'a Tokenizer,
    start: u32,
    delimiter: u32,
    extract: u32,
    context: usize,
}

impl<'a> Framer<'a> {
    /// For windows of `context` tokens of a vocabulary that has the special tokens.
    ///
    /// # Errors
    /// When it has not, or the window holds little besides them.
    pub(crate) fn new(tokenizer: &'a Tokenizer, context: usize) -> Result<Self> {
        let id = |token: &str| tokenizer.token_id(token).with_context(|| format!("the vocabulary lacks {token}"));
        ensure!(
            context >= 8,
            "a context of {context} tokens is too short for texts; use a model with a longer context"
        );
        let [start, delimiter, extract] = FRAME;
        let [start, delimiter, extract] = [id(start)?, id(delimiter)?, id(extract)?];
        Ok(Self { tokenizer, start, delimiter, extract, context })
    }

    /// Tokens of a text, or of two, and whether they were cut to fit: the longest part first, from its end.
    pub(crate) fn sequence(&self, first: &str, second: Option<&str>) -> Result<(Vec<u32>, bool), BadRecord> {
        let encode = |text: &str| self.tokenizer.encode_framed(text).map_err(|e| BadRecord::new(format!("{e:#}")));
        let (mut a, mut b) = (encode(first)?, second.map(encode).transpose()?);
        let room = self.context - 2 - usize::from(b.is_some());
        let lengths = kept(a.len(), b.as_ref().map_or(0, Vec::len), room);
        let cut = lengths.0 < a.len() || b.as_ref().is_some_and(|b| lengths.1 < b.len());
        a.truncate(lengths.0);
        let mut tokens = vec![self.start];
        tokens.append(&mut a);
        if let Some(b) = &mut b {
            b.truncate(lengths.1);
            tokens.push(self.delimiter);
            tokens.append(b);
        }
        tokens.push(self.extract);
        Ok((tokens, cut))
    }

    /// The sequences of a record, and whether one was cut.
    pub(crate) fn record(
        &self,
        task: TaskKind,
        columns: &Columns,
        row: &Row,
    ) -> Result<(Vec<Vec<u32>>, bool), BadRecord> {
        let framed = columns.sequences(task, row)?.into_iter().map(|(a, b)| self.sequence(&a, b.as_deref()));
        let (sequences, cut): (Vec<Vec<u32>>, Vec<bool>) = framed.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        Ok((sequences, cut.contains(&true)))
    }
}

/// Lengths of two parts that fit into `room` when the longer is cut first.
fn kept(a: usize, b: usize, room: usize) -> (usize, usize) {
    if a + b <= room {
        return (a, b);
    }
    let half = room / 2;
    match (a <= half, b <= half) {
        (true, _) => (a, room - a),
        (_, true) => (room - b, b),
        _ => (room - half, half),
    }
}

/// A record as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Number of the label or of the right choice, or the bits of an f32.
    pub(crate) truth: u32,
    /// One, or two orders, or one a choice.
    pub(crate) sequences: Vec<Vec<u32>>,
}

impl Example {
    /// As a list of numbers: truth, count and lengths of the sequences, tokens.
    fn numbers(&self) -> Vec<u32> {
        let mut numbers = vec![self.truth, self.sequences.len() as u32];
        numbers.extend(self.sequences.iter().map(|sequence| sequence.len() as u32));
        numbers.extend(self.sequences.iter().flatten());
        numbers
    }

    /// The opposite; nothing when the numbers are no example.
    fn of(numbers: &[u32]) -> Option<Self> {
        let [truth, n, rest @ ..] = numbers else { return None };
        let (lengths, mut tokens) = rest.split_at_checked(*n as usize)?;
        let mut sequences = Vec::with_capacity(lengths.len());
        for &length in lengths {
            let (sequence, after) = tokens.split_at_checked(length as usize)?;
            sequences.push(sequence.to_vec());
            tokens = after;
        }
        let whole = tokens.is_empty() && !sequences.is_empty() && sequences.iter().all(|s| !s.is_empty());
        whole.then_some(Self { truth: *truth, sequences })
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
}

/// What became of the records.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LabeledCounts {
    /// Learned, validated on and tested on.
    pub(crate) train: usize,
    pub(crate) val: usize,
    pub(crate) test: usize,
    /// Of those learned, by label or choice.
    pub(crate) balance: Vec<(String, u64)>,
    /// Smallest and largest number, and their mean, for regression.
    pub(crate) numbers: Option<(f64, f64, f64)>,
    /// Records of which a text was cut.
    pub(crate) truncated: usize,
    /// Sequences, their tokens, and those of the longest.
    pub(crate) sequences: u64,
    pub(crate) tokens: u64,
    pub(crate) longest: usize,
}

/// What the records turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Encoded {
    /// Names of the classes, in order; none for choices and numbers.
    pub(crate) labels: Vec<String>,
    /// Columns of the first source.
    pub(crate) columns: Columns,
    pub(crate) counts: LabeledCounts,
}

/// Files of the training, validation and test part below a run.
pub const FILES: [&str; 3] = ["train.examples", "val.examples", "test.examples"];

/// More classes than these are likelier texts or numbers.
const MOST_CLASSES: usize = 1000;

/// Encodes the records of `config` into the [`FILES`] below `folder`. Says what it read.
///
/// # Errors
/// When a record cannot be used, or there is nothing to learn from them.
pub(crate) fn encode_all(
    config: &LabeledConfig,
    framer: &Framer,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Encoded> {
    let mut encoder = LabeledEncoder {
        config,
        framer,
        labels: Vec::new(),
        numbers: HashMap::new(),
        values: (f64::INFINITY, f64::NEG_INFINITY, 0.0),
        columns: None,
        counts: LabeledCounts::default(),
    };
    // Labels have their numbers once all are known.
    let unsorted = FILES.map(|name| folder.join(format!("unsorted-{name}")));
    let [train, val, test] = &unsorted;
    let mut split = config.places().split();
    ExamplesWriter::write(train, |train| {
        ExamplesWriter::write(val, |val| {
            ExamplesWriter::write(test, |test| {
                for reading in config.places().readings()? {
                    encoder.read(&reading, &mut split, [&mut *train, &mut *val, &mut *test], progress)?;
                }
                Ok(())
            })
        })
    })?;
    split.warn(progress);
    let (encoded, order) = encoder.finish()?;
    for (from, to) in unsorted.iter().zip(FILES) {
        let examples = Examples::open(from)?;
        ExamplesWriter::write(&folder.join(to), |writer| {
            (0..examples.len()).try_for_each(|i| {
                let mut numbers = examples.get(i);
                if !order.is_empty() {
                    numbers[0] = order[numbers[0] as usize];
                }
                writer.push(&numbers)
            })
        })?;
        drop(examples);
        std::fs::remove_file(from).with_context(|| format!("{} cannot be removed", from.display()))?;
    }
    Ok(encoded)
}

/// A label, as far as it was met.
struct Label {
    name: String,
    trained: u64,
    /// Where validation met it first.
    validated: Option<At>,
}

struct LabeledEncoder<'a> {
    config: &'a LabeledConfig,
    framer: &'a Framer<'a>,
    /// In the order they were met.
    labels: Vec<Label>,
    numbers: HashMap<String, usize>,
    /// Smallest, largest and sum of the numbers that are learned.
    values: (f64, f64, f64),
    columns: Option<Columns>,
    counts: LabeledCounts,
}

impl LabeledEncoder<'_> {
    /// Reads records into the files of training, validation and test.
    fn read(
        &mut self,
        reading: &Reading,
        split: &mut SplitAssigner,
        mut files: [&mut ExamplesWriter; 3],
        progress: &dyn Progress,
    ) -> Result<()> {
        let (mut n, mut columns, mut unused) = (0, None, Unused::default());
        let skipped = rows(reading, self.config, progress, &mut |row| {
            let columns = match &columns {
                Some(columns) => columns,
                None => columns.insert(Columns::of_file(
                    self.config.task,
                    &self.config.columns,
                    &row,
                    true,
                    self.config.on_bad_record,
                )?),
            };
            self.one(&row, columns, (reading, &mut *split), &mut files)?;
            if reading.origin == Origin::File {
                unused.take(&row, &columns.names());
            }
            n += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        let Some(columns) = columns else {
            match skipped.first {
                Some(first) => bail!("{} contains no usable records; the first problem: {first}", reading.source),
                None => bail!("{} contains no records", reading.source),
            }
        };
        let Columns { text, text_b, choices, label } = &columns;
        let parts: Vec<&str> = [text].into_iter().chain(text_b).chain(choices).map(String::as_str).collect();
        let parts = format!("{} → {}", parts.join(" + "), label.as_deref().unwrap_or_default());
        progress.note(&match reading.origin {
            Origin::World { .. } => format!("{}, {parts}", reading.of_world("records")),
            Origin::File => format!("{}: {} records, {parts}", reading.source, grouped(n)),
        });
        unused.warn(&reading.source, progress);
        skipped.warn(progress);
        if reading.trains() {
            self.columns.get_or_insert(columns);
        }
        Ok(())
    }

    fn one(
        &mut self,
        row: &Row,
        columns: &Columns,
        (reading, split): (&Reading, &mut SplitAssigner),
        [train, val, test]: &mut [&mut ExamplesWriter; 3],
    ) -> Result<()> {
        let task = self.config.task;
        let truth = columns.truth(task, row)?;
        let truth = truth.ok_or_else(|| BadRecord::new("has no label"))?;
        let (sequences, cut) = self.framer.record(task, columns, row)?;
        let prompt = columns.prompt_key(task, row)?;
        let name = match &truth {
            Truth::Class(name) => name.clone(),
            Truth::Choice(n) => n.to_string(),
            Truth::Number(_) => String::new(),
        };
        // Where a share is held out, at least one record of each label is trained on.
        let known = self.numbers.get(&name).map(|&number| &self.labels[number]);
        let used = match known.is_some_and(|label| label.trained > 0) {
            true => split.of(reading, prompt),
            false => split.of_needed(reading, prompt),
        };
        let Some(used) = used else { return Ok(()) };
        let new = self.labels.len();
        let number = *self.numbers.entry(name.clone()).or_insert(new);
        if number == new {
            self.labels.push(Label { name, trained: 0, validated: None });
            ensure!(
                new < MOST_CLASSES,
                "the column \"{}\" has more than {MOST_CLASSES} labels; for numbers, use --task regression",
                columns.label.as_deref().unwrap_or_default()
            );
        }
        let label = &mut self.labels[number];
        let trains = used == Use::Train;
        if trains {
            label.trained += 1;
        } else {
            label.validated.get_or_insert_with(|| row.place.clone());
        }
        let truth = match truth {
            Truth::Class(_) => number as u32,
            Truth::Choice(n) => n as u32,
            Truth::Number(x) => {
                if trains {
                    self.values = (self.values.0.min(x), self.values.1.max(x), self.values.2 + x);
                }
                (x as f32).to_bits()
            }
        };
        let counts = &mut self.counts;
        let (file, count) = match used {
            Use::Train => (train, &mut counts.train),
            Use::Validate => (val, &mut counts.val),
            Use::Test => (test, &mut counts.test),
        };
        *count += 1;
        counts.truncated += usize::from(cut);
        counts.sequences += sequences.len() as u64;
        counts.tokens += sequences.iter().map(|sequence| sequence.len() as u64).sum::<u64>();
        counts.longest = sequences.iter().map(Vec::len).fold(counts.longest, usize::max);
        file.push(&Example { truth, sequences }.numbers())
    }

    /// What was found, and the number of each class by the order in which they were met.
    fn finish(mut self) -> Result<(Encoded, Vec<u32>)> {
        let Some(columns) = self.columns.take() else { bail!("there are no records to train on") };
        let n = self.counts.train;
        ensure!(
            n >= 2,
            "{n} training record{}; at least two are needed",
            if n == 1 { " is left" } else { "s are left" }
        );
        let task = self.config.task;
        let mut sorted: Vec<usize> = (0..self.labels.len()).collect();
        let name = |i: usize| &self.labels[i].name;
        let numeric = (0..self.labels.len()).all(|i| name(i).parse::<i64>().is_ok());
        sorted.sort_by(|&a, &b| match numeric {
            true => name(a).parse::<i64>().ok().cmp(&name(b).parse().ok()),
            false => name(a).cmp(name(b)),
        });
        let known: Vec<&Label> = sorted.iter().map(|&i| &self.labels[i]).collect();
        let is_class = !matches!(task, TaskKind::MultipleChoice | TaskKind::Regression);
        if is_class {
            let names: Vec<&str> = known.iter().filter(|l| l.trained > 0).map(|l| l.name.as_str()).collect();
            if let Some((unseen, Some(at))) =
                known.iter().find(|label| label.trained == 0).map(|label| (&label.name, &label.validated))
            {
                bail!(
                    "{at}: the label {unseen:?} does not occur in the training records, whose labels are {}",
                    names.join(", ")
                );
            }
            ensure!(
                names.len() >= 2,
                "all {n} training records have the label {:?}; at least two labels are needed",
                names.first().copied().unwrap_or_default()
            );
        }
        if task == TaskKind::Regression {
            let (least, most, sum) = self.values;
            ensure!(
                least < most,
                "all {n} training records have the number {least}; at least two different numbers are needed"
            );
            self.counts.numbers = Some((least, most, sum / n as f64));
        } else {
            self.counts.balance = known.iter().map(|label| (label.name.clone(), label.trained)).collect();
        }
        let mut order = vec![0; if is_class { sorted.len() } else { 0 }];
        if is_class {
            sorted.iter().enumerate().for_each(|(place, &met)| order[met] = place as u32);
        }
        let labels = if is_class { known.iter().map(|label| label.name.clone()).collect() } else { Vec::new() };
        Ok((Encoded { labels, columns, counts: self.counts }, order))
    }
}

/// Hands the records of `reading` to `sink`.
fn rows(
    reading: &Reading,
    config: &LabeledConfig,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Row) -> Result<ControlFlow<()>>,
) -> Result<gptkit_data::skipped::Skipped> {
    let Origin::World { seed, part, numbers } = &reading.origin else {
        return read_rows(Path::new(reading.source), config.on_bad_record, progress, sink);
    };
    let tasks = SyntheticLabeled::new(config.task, *seed, *part);
    for number in numbers.clone() {
        let place = At { file: PathBuf::from(reading.source), line: number + 1 };
        if sink(Row { place, fields: tasks.record(number)? })?.is_break() {
            break;
        }
    }
    Ok(gptkit_data::skipped::Skipped::default())
}

/// The examples of a part.
pub(crate) struct Labeled {
    pub(crate) records: Records<Example>,
    /// Sequences of the one that has most.
    pub(crate) most_sequences: usize,
    /// Tokens of all of them.
    n_tokens: u64,
}

impl Labeled {
    /// Those in the file `path`, in an order that `seed` draws.
    ///
    /// # Errors
    /// When the file is damaged.
    pub(crate) fn open(path: &Path, seed: u64) -> Result<Self> {
        let (mut most_sequences, mut n_tokens) = (1, 0);
        let records = Records::open(path, seed, Example::of, |example| {
            most_sequences = most_sequences.max(example.sequences.len());
            n_tokens += example.n_tokens() as u64;
        })?;
        Ok(Self { records, most_sequences, n_tokens })
    }

    /// Tokens of one, on average.
    pub(crate) fn mean_tokens(&self) -> usize {
        (self.n_tokens / self.records.len().max(1)).max(1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::progress::Silent;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, HashSet};

    #[test]
    fn the_longer_part_is_cut_first() {
        assert_eq!(kept(3, 4, 7), (3, 4));
        assert_eq!(kept(10, 2, 7), (5, 2));
        assert_eq!(kept(2, 10, 7), (2, 5));
        assert_eq!(kept(10, 10, 7), (4, 3));
        assert_eq!(kept(10, 0, 7), (7, 0));
    }

    /// Whatever the task, and whatever is read to learn, to validate and to test.
    #[test]
    fn no_text_is_in_two_parts() {
        let letters: BTreeSet<char> = (' '..='~').chain(['\n']).collect();
        let mut tokenizer = Tokenizer::of_characters(&letters).unwrap();
        tokenizer.add_special_tokens(&FRAME).unwrap();
        let framer = Framer::new(&tokenizer, 400).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let file = |name: &str, numbers: std::ops::Range<u32>| {
            let line = |n: u32| {
                let (a, b) = (format!("a{}", n % 30), format!("b{}", n % 7));
                let record = serde_json::json!({ "text": a, "premise": a, "hypothesis": b, "label": n % 2, "score": n,
                    "context": a, "choices": ["x", "y"] });
                record.to_string() + "\n"
            };
            gptkit_data::disk::write(Path::new(&path(name)), numbers.map(line).collect::<String>().as_bytes()).unwrap();
        };
        file("own.jsonl", 0..80);
        file("both.jsonl", 20..40);
        file("test.jsonl", 25..45);
        for task in TaskKind::ALL {
            let text = |file: &str| -> HashSet<Vec<u32>> {
                let examples = Labeled::open(&folder.path().join(file), 1).unwrap().records;
                let first = |i: u64| {
                    let mut sequences = examples.get(i).sequences;
                    let [_, delimiter, _] = FRAME.map(|token| tokenizer.token_id(token).unwrap());
                    sequences.sort(); // two texts in either order
                    let cut =
                        if task == TaskKind::Similarity || task == TaskKind::Regression { u32::MAX } else { delimiter };
                    sequences[0].iter().copied().take_while(|&token| token != cut).collect()
                };
                (0..examples.len()).map(first).collect()
            };
            for sources in [&["own.jsonl"][..], &["world:40"], &["own.jsonl", "world:40"]] {
                for validation in [&[][..], &["both.jsonl"], &["world:30"]] {
                    for test in [&[][..], &["test.jsonl"], &["world:30"]] {
                        // Files and the world name their labels and columns differently.
                        let is_world = |list: &[&str]| list.iter().any(|source| source.contains(':'));
                        let lists = [sources, validation, test];
                        let mixed =
                            lists.iter().any(|list| is_world(list)) && lists.concat().iter().any(|s| !s.contains(':'));
                        if mixed && task != TaskKind::MultipleChoice && task != TaskKind::Regression {
                            continue;
                        }
                        let named = |list: &[&str]| {
                            list.iter()
                                .map(|&n| if n.contains(':') { n.to_owned() } else { path(n) })
                                .collect::<Vec<_>>()
                        };
                        let [sources, validation, test] = lists.map(named);
                        let config = LabeledConfig {
                            task,
                            sources,
                            validation,
                            test,
                            val_fraction: 0.5,
                            ..LabeledConfig::default()
                        };
                        let counts = encode_all(&config, &framer, folder.path(), &Silent).unwrap().counts;
                        let what = format!("{task}: {lists:?}");
                        assert!(counts.train > 0 && counts.val > 0, "{what}");
                        assert_eq!(counts.test > 0, !lists[2].is_empty(), "{what}");
                        let [train, val, test] = FILES.map(text);
                        assert!(
                            train.is_disjoint(&val) && train.is_disjoint(&test) && val.is_disjoint(&test),
                            "{what}"
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_fits_and_no_more_is_cut_than_must(a in 0usize..20, b in 0usize..20, room in 1usize..30) {
            let (x, y) = kept(a, b, room);
            prop_assert!(x <= a && y <= b);
            prop_assert_eq!(x + y, room.min(a + b));
            // A part is cut only when it stays the longer one, but for one token.
            prop_assert!(x == a || x + 1 >= y);
            prop_assert!(y == b || y + 1 >= x);
        }

        #[test]
        fn examples_come_back(truth: u32, sequences in prop::collection::vec(prop::collection::vec(any::<u32>(), 1..9), 1..5)) {
            let example = Example { truth, sequences };
            let numbers = example.numbers();
            prop_assert_eq!(Example::of(&numbers), Some(example));
            prop_assert_eq!(Example::of(&numbers[..numbers.len() - 1]), None);
        }
    }
}
