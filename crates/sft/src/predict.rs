//! Records → records with what a fine-tuned model says of them, streaming.

use crate::classifier::{Classifier, Report, Tally, greatest};
use crate::columns::{Columns, Named, Truth};
use crate::finetune::Labeling;
use crate::labeled::{Example, Framer};
use anyhow::{Context, Result};
use gptkit_data::pack::like_lengths;
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::record::{BadRecord, Row};
use gptkit_data::rows::read_rows;
use gptkit_data::source::OnBadRecord;
use gptkit_data::task::TaskKind;
use gptkit_data::unused::Unused;
use gptkit_model::load::ModelFolder;
use gptkit_model::{ClassHead, Gpt};
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::path::Path;

/// Records that are read before the first of them is written.
const READ_AHEAD: usize = 512;
/// Tokens that the model reads at a time, but for a longer record alone.
const TOKENS_AT_A_TIME: usize = 4096;

/// What came of a file of records.
#[derive(Debug)]
pub struct Predicted {
    /// Records.
    pub n: u64,
    /// Those of which a text was cut at the window's length.
    pub truncated: u64,
    /// What the predictions are worth, where records have labels.
    pub report: Option<Report>,
}

/// Reads the records of `path` as [`read_rows`] does, and hands each, with what the model in `folder` says of it, to
/// `sink` as a line of JSON, in their order. `files` is what was read of `folder`, and `gpt` its model.
///
/// # Errors
/// When the folder is none of a fine-tuned model, a record cannot be used, or `sink` fails.
pub fn predict(
    folder: &Path,
    mut files: ModelFolder,
    gpt: Gpt,
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Predicted> {
    let labeling = Labeling::load(folder)?;
    let head = ClassHead::load(&mut files.params, folder)?;
    let framer = Framer::new(&files.tokenizer, files.config.context);
    let framer = framer.with_context(|| format!("{} is not a classifier from `gptkit finetune`", folder.display()))?;
    let Labeling { task, labels, columns } = labeling;
    let classifier = Classifier { gpt, head, task, labels, most_sequences: 1, lm_coef: 0.0, dropout: 0.0 };
    let mut reader = Reader {
        framer: &framer,
        tally: Tally::new(task, &classifier.labels),
        classifier: &classifier,
        known: columns,
        columns: None,
        unused: Unused::default(),
        waiting: Vec::new(),
        predicted: Predicted { n: 0, truncated: 0, report: None },
        n_labeled: 0,
        n_unknown: 0,
        on_bad,
        progress,
        sink,
    };
    let skipped = read_rows(path, on_bad, progress, &mut |row| {
        reader.take(row)?;
        Ok(ControlFlow::Continue(()))
    })?;
    reader.write()?;
    reader.unused.warn(&path.display(), progress);
    skipped.warn(progress);
    if reader.n_unknown > 0 {
        progress.warn(&format!(
            "{} records have labels that the model does not know; they are not included in the scores",
            grouped(reader.n_unknown)
        ));
    }
    let Reader { mut predicted, tally, n_labeled, .. } = reader;
    predicted.report = (n_labeled > 0).then(|| tally.report());
    Ok(predicted)
}

/// A record that waits for its prediction.
struct Waiting {
    fields: Map<String, Value>,
    example: Example,
    labeled: bool,
}

struct Reader<'a> {
    framer: &'a Framer<'a>,
    classifier: &'a Classifier,
    /// Columns that the model was trained with.
    known: Columns,
    /// Those of the file, once its first record is there.
    columns: Option<Columns>,
    unused: Unused,
    waiting: Vec<Waiting>,
    tally: Tally<'a>,
    predicted: Predicted,
    n_labeled: u64,
    n_unknown: u64,
    on_bad: OnBadRecord,
    progress: &'a dyn Progress,
    sink: &'a mut dyn FnMut(&str) -> Result<()>,
}

impl Reader<'_> {
    fn take(&mut self, row: Row) -> Result<()> {
        let task = self.classifier.task;
        let columns = match &self.columns {
            Some(columns) => columns,
            None if self.known.fit(&row) => self.columns.insert(self.known.clone()),
            None => {
                let found = Columns::of_file(task, &Named::default(), &row, false, self.on_bad);
                if let Ok(found) = &found {
                    self.progress.warn(&format!(
                        "the model was trained on the columns {}; the file has none of them, so {} is used instead",
                        self.known.texts().join(", "),
                        found.texts().join(", ")
                    ));
                }
                self.columns.insert(found.map_err(|e| match e.downcast::<BadRecord>() {
                    Ok(bad) => bad.into(),
                    Err(e) => {
                        e.context(format!("the model was trained on the columns {}", self.known.texts().join(", ")))
                    }
                })?)
            }
        };
        let (sequences, cut) = self.framer.record(task, columns, &row)?;
        self.unused.take(&row, &columns.names());
        // A label that cannot be read is no reason not to predict it.
        let truth = columns.truth(task, &row).ok().flatten();
        let given = truth.is_some();
        let truth = truth.and_then(|truth| match truth {
            Truth::Class(name) => self.classifier.labels.iter().position(|label| *label == name).map(|i| i as u32),
            Truth::Choice(n) => Some(n as u32),
            Truth::Number(x) => Some((x as f32).to_bits()),
        });
        self.n_unknown += u64::from(given && truth.is_none());
        self.predicted.truncated += u64::from(cut);
        let example = Example { truth: truth.unwrap_or(0), sequences };
        self.waiting.push(Waiting { fields: row.fields, example, labeled: truth.is_some() });
        if self.waiting.len() >= READ_AHEAD { self.write() } else { Ok(()) }
    }

    /// Predicts all that wait, in batches of like lengths, and writes them.
    fn write(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut scores: Vec<Vec<f32>> = vec![Vec::new(); waiting.len()];
        let lengths: Vec<usize> = waiting.iter().map(|one| one.example.n_tokens()).collect();
        for batch in like_lengths(&lengths, TOKENS_AT_A_TIME) {
            let examples: Vec<Example> = batch.iter().map(|&i| waiting[i].example.clone()).collect();
            let (found, _) = self.classifier.judge(&examples)?;
            batch.iter().zip(found).for_each(|(&i, found)| scores[i] = found);
        }
        let mut lines = String::new();
        for (Waiting { mut fields, example, labeled }, mut scores) in waiting.into_iter().zip(scores) {
            if self.classifier.task == TaskKind::MultipleChoice {
                scores.truncate(example.sequences.len());
            }
            self.predicted.n += 1;
            if labeled {
                self.n_labeled += 1;
                self.tally.loss += self.loss(&example, &scores);
                self.tally.add(example.truth, &scores);
            }
            fields.extend(self.said(&scores));
            lines += &Value::Object(fields).to_string();
            lines.push('\n');
        }
        if lines.is_empty() { Ok(()) } else { (self.sink)(&lines) }
    }

    fn loss(&self, example: &Example, scores: &[f32]) -> f64 {
        if self.classifier.task == TaskKind::Regression {
            let off = f32::from_bits(example.truth) - scores.first().copied().unwrap_or(f32::NAN);
            return f64::from(off).powi(2);
        }
        probabilities(scores).get(example.truth as usize).map_or(f64::NAN, |p| -p.ln())
    }

    /// What is added to a record.
    fn said(&self, scores: &[f32]) -> Map<String, Value> {
        let mut said = Map::new();
        let best = greatest(scores);
        let name = |i: usize| self.classifier.labels.get(i).cloned().unwrap_or_else(|| i.to_string());
        match self.classifier.task {
            TaskKind::Regression => {
                said.insert("value".to_owned(), json!(scores.first()));
            }
            task => {
                let choice = task == TaskKind::MultipleChoice;
                said.insert("prediction".to_owned(), if choice { json!(best) } else { json!(name(best)) });
                let shares = probabilities(scores).into_iter().enumerate().map(|(i, p)| (name(i), json!(p))).collect();
                said.insert("probabilities".to_owned(), Value::Object(shares));
            }
        }
        said
    }
}

/// Softmax, in f64.
fn probabilities(scores: &[f32]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<f64> = scores.iter().map(|&score| f64::from(score - most).exp()).collect();
    let sum: f64 = parts.iter().sum();
    parts.iter().map(|part| part / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_whatever_the_scores() {
        for scores in [[0.0, 0.0], [1e4, -1e4], [-1e30, 0.0]] {
            let p = probabilities(&scores);
            assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{p:?}");
        }
        assert!((probabilities(&[2f32.ln(), 0.0])[0] - 2.0 / 3.0).abs() < 1e-7);
    }
}
