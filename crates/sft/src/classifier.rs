//! A language model with a head, what it is trained for, and what its predictions are worth.
//!
//! The head reads the last layer at the token that ends a sequence; the loss is L3 = L2 + λ·L1, the task's and the language
//! model's on the same inputs (Radford et al. 2018, eq. 3 to 5), averaged as the paper's code averages them.

use crate::labeled::Example;
use crate::scores::{Confusion, mean_squared_error};
use anyhow::{Context, Result, ensure};
use candle_core::{D, Tensor};
use gptkit_data::task::TaskKind;
use gptkit_model::{ClassHead, Gpt, Input, Pass};
use gptkit_ops::cross_entropy;
use gptkit_stats::{pearson, spearman};
use gptkit_train::language_modeling::check_tokens;
use gptkit_train::objective::{Objective, Validate, Validation};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// A model that labels.
#[derive(Debug)]
pub struct Classifier {
    pub(crate) gpt: Gpt,
    pub(crate) head: ClassHead,
    pub(crate) task: TaskKind,
    /// Names of the classes; none for choices and numbers.
    pub(crate) labels: Vec<String>,
    /// Most sequences of an example in training: choices, or orders of two texts.
    pub(crate) most_sequences: usize,
    /// λ, weight of the language model's loss.
    pub(crate) lm_coef: f64,
    /// Probability of dropping an element of what the head reads.
    pub(crate) dropout: f64,
}

/// Added to the score of a choice that an example does not have.
const ABSENT: f32 = -1e30;

impl Classifier {
    /// Scores per sequence: one for each class, or one.
    pub(crate) fn n_out(&self) -> usize {
        match self.task {
            TaskKind::MultipleChoice | TaskKind::Regression => 1,
            _ => self.labels.len(),
        }
    }

    /// Scores of `examples` (`[N, labels]`, `[N, choices]` or `[N, 1]`), from the last layer's output `hidden` for their
    /// sequences.
    fn scores(&self, hidden: &Tensor, input: &Input, examples: &[Example], pass: Pass) -> Result<Tensor> {
        let d = self.gpt.config().d_model;
        let hidden = hidden.reshape(((), d))?; // [tokens, D]
        let mut ends = input.sequences.iter().map(|sequence| sequence.end as u32 - 1);
        let n = examples.len();
        if self.task != TaskKind::MultipleChoice {
            let orders = examples.first().map_or(1, |example| example.sequences.len());
            ensure!(
                examples.iter().all(|e| e.sequences.len() == orders),
                "examples with one text and with two are mixed"
            );
            let ends = Tensor::from_iter(ends, hidden.device())?; // [N · orders]
            let states = hidden.index_select(&ends, 0)?.reshape((n, orders, d))?.sum(1)?; // [N, D]
            return Ok(self.head.forward(&states, n, self.dropout, pass)?);
        }
        // A row has as many places as the longest: those without a choice read the first one's, and count for nothing.
        let k = examples.iter().map(|e| e.sequences.len()).max().unwrap_or(1).max(self.most_sequences);
        let (mut at, mut absent) = (Vec::with_capacity(n * k), Vec::with_capacity(n * k));
        for example in examples {
            let own: Vec<u32> = ends.by_ref().take(example.sequences.len()).collect();
            at.extend((0..k).map(|i| own.get(i).or(own.first()).copied().unwrap_or(0)));
            absent.extend((0..k).map(|i| if i < own.len() { 0.0 } else { ABSENT }));
        }
        let at = Tensor::from_vec(at, n * k, hidden.device())?;
        let states = hidden.index_select(&at, 0)?; // [N · k, D]
        let scores = self.head.forward(&states, n, self.dropout, pass)?.reshape((n, k))?;
        Ok((scores + Tensor::from_vec(absent, (n, k), hidden.device())?)?)
    }

    /// The mean loss of the task over `examples`, from their scores: cross-entropy, or the squared error.
    fn task_loss(&self, scores: &Tensor, examples: &[Example]) -> Result<Tensor> {
        let truths = examples.iter().map(|example| example.truth);
        if self.task == TaskKind::Regression {
            let truths = Tensor::from_iter(truths.map(f32::from_bits), scores.device())?;
            return Ok((scores.squeeze(D::Minus1)? - truths)?.sqr()?.mean_all()?);
        }
        Ok(cross_entropy(scores, &Tensor::from_iter(truths, scores.device())?)?)
    }

    fn input(&self, examples: &[Example]) -> Result<Input> {
        let sequences = || examples.iter().flat_map(|example| &example.sequences);
        sequences().try_for_each(|sequence| check_tokens(sequence, &self.gpt))?;
        Ok(Input::ragged(sequences().map(Vec::as_slice), self.gpt.device())?)
    }

    /// The scores of each example, without dropout, and their mean loss.
    pub(crate) fn judge(&self, examples: &[Example]) -> Result<(Vec<Vec<f32>>, f64)> {
        let input = self.input(examples)?;
        let hidden = self.gpt.hidden(&input, Pass::Eval)?;
        let scores = self.scores(&hidden, &input, examples, Pass::Eval)?;
        let loss = self.task_loss(&scores, examples)?.to_scalar::<f32>()?;
        Ok((scores.to_vec2()?, f64::from(loss)))
    }

    /// What the predictions for `batches` are worth.
    pub(crate) fn measure<'a>(&self, batches: impl IntoIterator<Item = &'a [Example]>) -> Result<Report> {
        let mut tally = Tally::new(self.task, &self.labels);
        for batch in batches {
            let (scores, loss) = self.judge(batch)?;
            tally.add_batch(batch, loss, scores.iter().map(Vec::as_slice));
        }
        Ok(tally.report())
    }
}

/// The place of the greatest number.
pub(crate) fn greatest(scores: &[f32]) -> usize {
    scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map_or(0, |(i, _)| i)
}

impl Objective for Classifier {
    type Batch = Vec<Example>;
    type Metrics = ();

    fn rows(&self, batch: &Vec<Example>) -> usize {
        batch.len()
    }

    fn loss(&self, batch: &Vec<Example>, rows: Range<usize>, pass: Pass) -> Result<(Tensor, ())> {
        let examples = &batch[rows];
        let input = self.input(examples)?;
        let hidden = self.gpt.hidden(&input, pass.of_part())?; // [1, tokens, D]
        let scores = self.scores(&hidden, &input, examples, pass)?;
        let share = examples.len() as f64 / batch.len() as f64;
        let loss = (self.task_loss(&scores, examples)? * share)?;
        if self.lm_coef == 0.0 {
            return Ok((loss, ()));
        }
        // As GPT-1's code has it: the mean over the tokens of each sequence, then over the sequences.
        let n_sequences: usize = batch.iter().map(|example| example.sequences.len()).sum();
        let (mut at, mut rows, mut tokens, mut weights) = (0, Vec::<u32>::new(), Vec::new(), Vec::new());
        for sequence in examples.iter().flat_map(|example| &example.sequences) {
            let predicted = sequence.len() - 1;
            rows.extend((at..at + predicted).map(|row| row as u32));
            tokens.extend(&sequence[1..]);
            weights.resize(rows.len(), (-self.lm_coef / (predicted.max(1) * n_sequences) as f64) as f32);
            at += sequence.len();
        }
        let states = hidden.squeeze(0)?.index_select(&Tensor::new(rows, hidden.device())?, 0)?; // [N, D]
        let log_probs = self.gpt.token_log_probs(&states, &tokens, 1.0, pass)?.get(0)?; // [N]
        let weights = Tensor::new(weights, log_probs.device())?;
        Ok(((loss + (log_probs * weights)?.sum_all()?)?, ()))
    }
}

impl Validate for Classifier {
    fn n_tokens(&self, batch: &Vec<Example>) -> u64 {
        batch.iter().map(|example| example.n_tokens() as u64).sum()
    }

    /// The mean loss, and the scores of each example.
    fn outputs(&self, batch: &Vec<Example>) -> Result<Vec<f32>> {
        let (scores, loss) = self.judge(batch)?;
        Ok(std::iter::once(loss as f32).chain(scores.into_iter().flatten()).collect())
    }

    fn conclude(&self, batches: &[Vec<Example>], outputs: &[Vec<f32>]) -> Result<Validation> {
        let mut tally = Tally::new(self.task, &self.labels);
        for (batch, outputs) in batches.iter().zip(outputs) {
            let (loss, scores) = outputs.split_first().context("a batch has no loss")?;
            let scores = scores.chunks_exact((scores.len() / batch.len().max(1)).max(1));
            tally.add_batch(batch, f64::from(*loss), scores);
        }
        let report = tally.report();
        let (chosen_by, criterion) = (Some(report.chosen_by()), report.criterion());
        Ok(Validation { loss: Some(report.loss), scores: report.scores, chosen_by, criterion })
    }
}

/// Predictions against truth, as they come.
pub(crate) struct Tally<'a> {
    task: TaskKind,
    labels: &'a [String],
    /// How often each was predicted for each true one.
    counts: BTreeMap<(usize, usize), u64>,
    /// Numbers, true and predicted.
    truths: Vec<f64>,
    predictions: Vec<f64>,
    choices: usize,
    n: u64,
    /// Sum over the examples.
    pub(crate) loss: f64,
}

/// What predictions are worth.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Examples.
    pub n: u64,
    /// The task's mean loss: cross-entropy in nats, or the squared error.
    pub loss: f64,
    /// Scores by name.
    pub scores: BTreeMap<String, f64>,
    /// Accuracy of who always says the likeliest label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority_share: Option<f64>,
    /// What was taken for what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Confusion>,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(task: TaskKind, labels: &'a [String]) -> Self {
        let (counts, truths, predictions) = Default::default();
        Self { task, labels, counts, truths, predictions, choices: 0, n: 0, loss: 0.0 }
    }

    /// Adds examples with their mean `loss` and the scores of each.
    fn add_batch<'b>(&mut self, batch: &[Example], loss: f64, scores: impl Iterator<Item = &'b [f32]>) {
        self.loss += loss * batch.len() as f64;
        batch.iter().zip(scores).for_each(|(example, scores)| self.add(example.truth, scores));
    }

    pub(crate) fn add(&mut self, truth: u32, scores: &[f32]) {
        self.n += 1;
        if self.task == TaskKind::Regression {
            self.truths.push(f64::from(f32::from_bits(truth)));
            self.predictions.push(scores.first().copied().map_or(f64::NAN, f64::from));
            return;
        }
        self.choices = self.choices.max(scores.len());
        *self.counts.entry((truth as usize, greatest(scores))).or_default() += 1;
    }

    pub(crate) fn report(self) -> Report {
        let loss = self.loss / self.n as f64;
        let (scores, confusion) = match self.task {
            TaskKind::Regression => {
                let (x, y) = (&self.truths, &self.predictions);
                let correlation = [("pearson", pearson(x, y)), ("spearman", spearman(x, y))];
                (Vec::from_iter(correlation.into_iter().chain([("mse", mean_squared_error(x, y))])), None)
            }
            task => {
                let positions: Vec<String> = (0..self.choices).map(|i| i.to_string()).collect();
                let labels = if task == TaskKind::MultipleChoice { &positions } else { self.labels };
                let confusion = Confusion::of_counts(labels, &self.counts);
                let (f1, matthews) = (confusion.macro_f1(), confusion.matthews());
                let scores = vec![("accuracy", confusion.accuracy()), ("macro_f1", f1), ("matthews", matthews)];
                (scores, Some(confusion))
            }
        };
        Report {
            n: self.n,
            loss,
            // JSON has no NaN: a score that is undefined is left out.
            scores: scores.into_iter().filter(|(_, x)| x.is_finite()).map(|(name, x)| (name.to_owned(), x)).collect(),
            majority_share: confusion.as_ref().map(Confusion::majority_share).filter(|x| x.is_finite()),
            confusion,
        }
    }
}

impl Report {
    /// The lower, the better: −accuracy, or minus the mean of the correlations; the loss decides between equals.
    fn chosen_by(&self) -> f64 {
        let score = |name: &str| self.scores.get(name).copied();
        // An undefined correlation is worse than any other.
        let correlation = || Some((score("pearson")? + score("spearman")?) / 2.0);
        let good = score("accuracy").or_else(correlation).unwrap_or(-1.0);
        -good + 1e-9 * self.loss.min(1e3)
    }

    /// The name of the score behind [`Report::chosen_by`].
    fn criterion(&self) -> &'static str {
        if self.scores.contains_key("accuracy") { "accuracy" } else { "correlation" }
    }

    /// The scores in a line.
    pub fn line(&self) -> String {
        let score = |(name, x): (&String, &f64)| match &**name {
            "accuracy" => format!("accuracy {:.1}%", 100.0 * x),
            _ => format!("{} {x:.3}", name.replace('_', " ")),
        };
        let majority = self.majority_share.map(|share| format!("most frequent label {:.1}%", 100.0 * share));
        self.scores.iter().map(score).chain(majority).collect::<Vec<_>>().join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_model::{Kind, ModelConfig, Params, Weights};
    use gptkit_ops::Precision;
    use gptkit_ops::check::assert_close;

    fn shape(kind: Kind) -> ModelConfig {
        let text = serde_json::json!({
            "kind": kind, "n_layer": 2, "n_head": 2, "d_model": 8, "context": 12, "vocab_size": 17, "init_std": 0.02,
        });
        serde_json::from_value(text).unwrap()
    }

    fn classifier(task: TaskKind, lm_coef: f64, dropout: f64) -> (Classifier, Params) {
        let kind = if task == TaskKind::Similarity { Kind::Gpt1 } else { Kind::Gpt2 };
        let config = shape(kind);
        let mut params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let n_out = if matches!(task, TaskKind::MultipleChoice | TaskKind::Regression) { 1 } else { 3 };
        let head = ClassHead::init(&mut params, n_out, 8, 1).unwrap();
        // Larger than first values are, so that differences can be measured.
        for (name, parameter) in params.iter() {
            if name.ends_with("weight") && parameter.var().rank() == 2 {
                parameter.set(&(parameter.tensor(false) * 10.0).unwrap()).unwrap();
            }
        }
        let gpt = Gpt::new(&config, &params, Precision::F32).unwrap();
        let labels = ["a", "b", "c"].map(str::to_owned).to_vec();
        (Classifier { gpt, head, task, labels, most_sequences: 3, lm_coef, dropout }, params)
    }

    /// Examples of uneven lengths; choices in uneven numbers too.
    fn examples(task: TaskKind) -> Vec<Example> {
        let sequence = |i: u32, n: u32| (0..n).map(|t| (t * 5 + i * 3 + t * t) % 17).collect::<Vec<u32>>();
        let orders = |i: u32| match task {
            TaskKind::Similarity => 2,
            TaskKind::MultipleChoice => 2 + i % 2,
            _ => 1,
        };
        let truth = |i: u32| if task == TaskKind::Regression { (i as f32 * 0.7 - 1.0).to_bits() } else { i % 2 };
        (0..5)
            .map(|i| Example {
                truth: truth(i),
                sequences: (0..orders(i)).map(|k| sequence(i + 7 * k, 3 + (2 * i + k) % 9)).collect(),
            })
            .collect()
    }

    const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

    fn value(loss: Result<(Tensor, ())>) -> f32 {
        loss.unwrap().0.to_scalar::<f32>().unwrap()
    }

    #[test]
    fn parts_of_a_batch_add_up_to_its_loss_and_end_to_end_equals_one_by_one() {
        for task in TaskKind::ALL {
            let (model, _) = classifier(task, 0.5, 0.3);
            let batch = examples(task);
            for micro in [1, 2] {
                let whole = value(model.loss(&batch, 0..5, TRAIN));
                let part = |first: usize| {
                    let pass = Pass::Train { seed: 1, first_row: first as u64, recompute: false };
                    value(model.loss(&batch, first..(first + micro).min(5), pass))
                };
                let parts: f32 = (0..5).step_by(micro).map(part).sum();
                assert!((whole - parts).abs() < 1e-5 * whole.abs(), "{task}: {whole}, in parts {parts}");
            }
            let (together, _) = model.judge(&batch).unwrap();
            for (example, scores) in batch.iter().zip(together) {
                let (alone, _) = model.judge(std::slice::from_ref(example)).unwrap();
                assert!(scores.iter().zip(&alone[0]).all(|(a, b)| (a - b).abs() <= 1e-5), "{task}");
            }
        }
    }

    #[test]
    fn the_loss_is_the_tasks_and_a_share_of_the_language_models() {
        for task in TaskKind::ALL {
            let batch = examples(task);
            let [none, half] = [0.0, 0.5].map(|coef| classifier(task, coef, 0.0).0);
            let task_loss = value(none.loss(&batch, 0..5, Pass::Eval));
            assert!((f64::from(task_loss) - none.judge(&batch).unwrap().1).abs() < 1e-6);
            // L1: the mean over sequences of each one's mean.
            let (mut sum, mut n) = (0.0, 0.0);
            for sequence in batch.iter().flat_map(|example| &example.sequences) {
                let (tokens, targets) = (&sequence[..sequence.len() - 1], &sequence[1..]);
                let tensor = |ids: &[u32]| Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
                let input = Input::windows(&tensor(tokens)).unwrap();
                sum += half.gpt.loss(&input, &tensor(targets), Pass::Eval, 1.0).unwrap().to_scalar::<f32>().unwrap();
                n += 1.0;
            }
            let both = value(half.loss(&batch, 0..5, Pass::Eval));
            assert!((both - (task_loss + 0.5 * sum / n)).abs() < 1e-4, "{task}: {both}, {task_loss}, {}", sum / n);
        }
    }

    /// For the number of each parameter that has the largest gradient.
    #[test]
    fn the_loss_has_the_gradient_of_finite_differences() {
        for task in TaskKind::ALL {
            let (model, params) = classifier(task, 0.5, 0.2);
            let batch = examples(task);
            let loss = || model.loss(&batch, 0..5, TRAIN).unwrap().0;
            Weights::from(params.clone()).begin_update().backward(|| anyhow::Ok(loss())).unwrap();
            for (name, parameter) in params.iter() {
                let gradient = parameter.gradient().unwrap_or_else(|| panic!("{task}: no gradient reaches {name}"));
                let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
                let (at, largest) = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
                let values: Vec<f32> = parameter.tensor(false).flatten_all().unwrap().to_vec1().unwrap();
                let moved = |by: f32| {
                    let mut values = values.clone();
                    values[at] += by;
                    parameter.set(&Tensor::from_vec(values, parameter.var().shape(), &Device::Cpu).unwrap()).unwrap();
                    loss().to_scalar::<f32>().unwrap()
                };
                let measured = (moved(5e-3) - moved(-5e-3)) / 1e-2;
                moved(0.0);
                assert!(
                    (measured - largest).abs() < 0.03 * largest.abs() + 1e-3,
                    "{task} {name}: {measured} by differences, {largest}"
                );
            }
        }
    }

    /// From the definition: the last layer at a sequence's last token, times the head, added over the orders.
    #[test]
    fn the_head_reads_the_token_that_ends_a_sequence() {
        for task in TaskKind::ALL {
            let (model, params) = classifier(task, 0.5, 0.0);
            let weight = params.get("score.weight").unwrap().tensor(false);
            let (scores, _) = model.judge(&examples(task)).unwrap();
            for (example, scores) in examples(task).iter().zip(scores) {
                let rows: Vec<Vec<f32>> = example
                    .sequences
                    .iter()
                    .map(|sequence| {
                        let input = Input::ragged([&**sequence], &Device::Cpu).unwrap();
                        let hidden = model.gpt.hidden(&input, Pass::Eval).unwrap().squeeze(0).unwrap();
                        let last = hidden.narrow(0, sequence.len() - 1, 1).unwrap();
                        last.matmul(&weight.t().unwrap()).unwrap().squeeze(0).unwrap().to_vec1().unwrap()
                    })
                    .collect();
                let expected: Vec<f32> = match task {
                    TaskKind::MultipleChoice => rows.concat(),
                    _ => (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i]).sum()).collect(),
                };
                for (have, want) in scores.iter().zip(&expected) {
                    assert!((have - want).abs() < 1e-5, "{task}: {scores:?}, expected {expected:?}");
                }
                assert!(scores[expected.len()..].iter().all(|&absent| absent < -1e29), "{task}: {scores:?}");
            }
        }
    }

    #[test]
    fn two_orders_are_one_whichever_comes_first() {
        let (model, _) = classifier(TaskKind::Similarity, 0.5, 0.0);
        let batch = examples(TaskKind::Similarity);
        let turned: Vec<Example> = batch
            .iter()
            .map(|e| Example { truth: e.truth, sequences: e.sequences.iter().rev().cloned().collect() })
            .collect();
        let scores = |batch: &[Example]| Tensor::new(model.judge(batch).unwrap().0, &Device::Cpu).unwrap();
        assert_close("scores", &scores(&turned), &scores(&batch), 1e-5);
    }

    #[test]
    fn the_best_is_the_most_accurate_then_the_lowest_loss() {
        let report = |accuracy: f64, loss: f64| Report {
            n: 1,
            loss,
            scores: BTreeMap::from([("accuracy".to_owned(), accuracy)]),
            majority_share: None,
            confusion: None,
        };
        assert!(report(0.9, 5.0).chosen_by() < report(0.8, 0.1).chosen_by());
        assert!(report(0.9, 0.1).chosen_by() < report(0.9, 0.2).chosen_by());
        let undefined = Report { scores: BTreeMap::new(), ..report(0.0, 1.0) };
        assert!(undefined.chosen_by().is_finite() && undefined.chosen_by() >= 1.0);
    }
}
