//! Lines of what a model made of instances → figures with their standard errors.

use crate::bleu::{BleuCounts, ORDER};
use crate::task::{Metric, Normalization, Scoring, TaskConfig};
use anyhow::{Context, Result};
use gptkit_stats::bootstrap::{standard_error, standard_error_of_mean};
use gptkit_stats::mean;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Numbers that BLEU is made of.
const BLEU_NUMBERS: usize = 2 * ORDER + 2;

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    /// What was measured, its variant named.
    pub metric: String,
    /// It, in the unit of [`MetricValue::unit`].
    pub value: f64,
    /// Its bootstrap standard error over instances.
    pub standard_error: f64,
    /// `%`, or nothing.
    pub unit: String,
}

/// What was measured of all instances of one task by one model with so many demonstrations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskMeasurement {
    /// Its figures; the first stands for the task.
    pub figures: Vec<MetricValue>,
    /// Instances.
    pub n: u64,
    /// Mean of the demonstrations that were shown.
    pub shots: f64,
    /// Instances whose beginning was left out.
    pub cut: u64,
    /// Percent that guessing among the choices gives, where there are choices.
    pub chance: Option<f64>,
    /// Of each instance what the first figure is the mean of, where it is a mean.
    pub scores: Vec<f64>,
}

/// How a figure comes from columns.
#[derive(Debug, Clone, Copy)]
enum Statistic {
    /// The mean of a column.
    Mean(usize),
    /// e to the mean of a column.
    ExpMean(usize),
    /// e to the sum of a column over that of another, times a number.
    ExpRatio(usize, usize, f64),
    /// The sum of a column over that of another.
    Ratio(usize, usize),
    /// The same in bits.
    Bits(usize, usize),
    /// Corpus BLEU of the columns from this one on.
    Bleu(usize),
}

impl Statistic {
    fn of<'a>(self, rows: impl Iterator<Item = &'a [f64]> + Clone) -> f64 {
        let sum = |column: usize| rows.clone().map(|row| row[column]).sum::<f64>();
        let mean = |column| sum(column) / rows.clone().count() as f64;
        match self {
            Self::Mean(column) => mean(column),
            Self::ExpMean(column) => mean(column).exp(),
            Self::ExpRatio(a, b, per) => (per * sum(a) / sum(b)).exp(),
            Self::Ratio(a, b) => sum(a) / sum(b),
            Self::Bits(a, b) => sum(a) / sum(b) / std::f64::consts::LN_2,
            Self::Bleu(first) => {
                let mut all = [0.0; BLEU_NUMBERS];
                rows.for_each(|row| all.iter_mut().zip(&row[first..]).for_each(|(all, one)| *all += one));
                let count = |i: usize| all[i] as u64;
                BleuCounts {
                    matches: std::array::from_fn(count),
                    totals: std::array::from_fn(|i| count(ORDER + i)),
                    candidate_len: count(2 * ORDER),
                    reference_len: count(2 * ORDER + 1),
                }
                .score()
            }
        }
    }
}

/// Measures the instances in the file of lines `path`, those for which `keep` says so by their number. `words` is how many
/// words the tokens of a text were, for perplexity.
///
/// # Errors
/// When the file cannot be read or a line is damaged.
pub fn measure(
    path: &Path,
    task: &TaskConfig,
    words: Option<u64>,
    seed: u64,
    keep: &dyn Fn(u64) -> bool,
) -> Result<TaskMeasurement> {
    let (mut measured, rows) = read_instances(path, task, keep)?;
    if measured.n == 0 {
        return Ok(measured);
    }
    let figures = figures(task, words, &rows);
    if let Some((_, _, Statistic::Mean(column))) = figures.first() {
        measured.scores = rows.iter().map(|row| row[*column]).collect();
    }
    measured.figures = figures.into_iter().map(|figure| value(figure, &rows, seed)).collect();
    Ok(measured)
}

/// Counts the instances that `keep` accepts, and collects the numbers that their figures are made of, a row each.
fn read_instances(
    path: &Path,
    task: &TaskConfig,
    keep: &dyn Fn(u64) -> bool,
) -> Result<(TaskMeasurement, Vec<Vec<f64>>)> {
    let file = gptkit_data::disk::open(path)?;
    let (mut measured, mut rows, mut chances) = (TaskMeasurement::default(), Vec::new(), Vec::new());
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line: Value = serde_json::from_str(&line?).with_context(|| format!("{} line {}", path.display(), i + 1))?;
        if !keep(line["n"].as_u64().unwrap_or(0)) {
            continue;
        }
        rows.push(
            numbers(task, &line).with_context(|| format!("{} line {} is not an instance", path.display(), i + 1))?,
        );
        measured.n += 1;
        measured.shots += line["shots"].as_f64().unwrap_or(0.0);
        measured.cut += u64::from(line["cut"] == true);
        chances.extend(line["answers"].as_array().map(|answers| 100.0 / answers.len() as f64));
    }
    if measured.n > 0 {
        measured.shots /= measured.n as f64;
        measured.chance = (!chances.is_empty()).then(|| mean(&chances));
    }
    Ok((measured, rows))
}

/// Numbers of a window of text before those by position.
const TEXT_NUMBERS: usize = 4;
/// Ranges of positions: 0, 1, 2 to 3, 4 to 7 and so on, to the longest context.
const POSITION_RANGES: usize = 22;

/// Where in a row the numbers of the range stand that begins at position `from`; nothing where none does.
fn range_column(from: u64) -> Option<usize> {
    let range = from.checked_ilog2().map_or(0, |power| power as usize + 1);
    (range < POSITION_RANGES).then_some(TEXT_NUMBERS + 2 * range)
}

/// For instance `loss at positions 4 to 7`.
fn range_name(range: usize) -> String {
    match range {
        0 | 1 => format!("loss at position {range}"),
        _ => format!("loss at positions {} to {}", 1 << (range - 1), (1 << range) - 1),
    }
}

/// A figure over `rows`, with its standard error.
fn value((metric, unit, statistic): (String, &str, Statistic), rows: &[Vec<f64>], seed: u64) -> MetricValue {
    let standard_error = match statistic {
        Statistic::Mean(column) => standard_error_of_mean(&rows.iter().map(|row| row[column]).collect::<Vec<_>>()),
        _ => standard_error(rows.len(), seed, |drawn| statistic.of(drawn.iter().map(|&i| rows[i].as_slice()))),
    };
    MetricValue { metric, value: statistic.of(rows.iter().map(Vec::as_slice)), standard_error, unit: unit.to_owned() }
}

/// The numbers that figures are made of.
fn numbers(task: &TaskConfig, line: &Value) -> Option<Vec<f64>> {
    let share = |hit: bool| if hit { 100.0 } else { 0.0 };
    let number = |key: &str| line[key].as_f64();
    match task.scoring {
        Scoring::Choice => {
            let right = line["right"].as_u64()?;
            let hit = |by: Normalization| Some(share(line["chosen"][by.to_string()].as_u64()? == right));
            task.choice.as_ref()?.normalizations().map(hit).collect()
        }
        Scoring::Word => {
            let filtered = share(line["filtered_is_right"].as_bool()?);
            Some(vec![share(line["greedy"].as_bool()?), filtered, -number("log_prob")?])
        }
        Scoring::Perplexity => {
            let mut row: Vec<f64> =
                ["nats", "tokens", "bytes", "characters"].into_iter().map(number).collect::<Option<_>>()?;
            if task.text.is_some_and(|text| text.by_position) {
                row.resize(TEXT_NUMBERS + 2 * POSITION_RANGES, 0.0);
                for range in line["by_position"].as_array()? {
                    let column = range_column(range["from"].as_u64()?)?;
                    row[column] += range["nats"].as_f64()?;
                    row[column + 1] += range["tokens"].as_f64()?;
                }
            }
            Some(row)
        }
        Scoring::Generation => {
            let mut row = Vec::new();
            for metric in &task.generation.as_ref()?.metrics {
                match metric {
                    Metric::Exact => row.push(share(line["exact match"].as_bool()?)),
                    Metric::Number => row.push(share(line["exact match (number)"].as_bool()?)),
                    Metric::ExactMatch => row.push(share(line["exact match (normalized)"].as_bool()?)),
                    Metric::F1 => row.push(100.0 * number("F1")?),
                    Metric::Rouge => {
                        for name in ["ROUGE-1", "ROUGE-2", "ROUGE-L"] {
                            row.push(100.0 * number(name)?);
                        }
                    }
                    Metric::Bleu => {
                        let counts = serde_json::from_value::<BleuCounts>(line["BLEU"].clone()).ok()?;
                        let lengths = [counts.candidate_len, counts.reference_len];
                        row.extend([&counts.matches[..], &counts.totals, &lengths].concat().iter().map(|&n| n as f64));
                    }
                }
            }
            Some(row)
        }
    }
}

/// The figures of a task, in the order of their importance.
fn figures(task: &TaskConfig, words: Option<u64>, rows: &[Vec<f64>]) -> Vec<(String, &'static str, Statistic)> {
    let percent = |name: &str, column| (name.to_owned(), "%", Statistic::Mean(column));
    match task.scoring {
        Scoring::Choice => {
            let all = task.choice.iter().flat_map(|choice| choice.normalizations());
            all.enumerate().map(|(i, by)| percent(&format!("accuracy ({by})"), i)).collect()
        }
        Scoring::Word => vec![
            percent("accuracy", 0),
            percent("accuracy (stop-word filter)", 1),
            ("perplexity (last word)".to_owned(), "", Statistic::ExpMean(2)),
        ],
        Scoring::Perplexity => {
            let tokens: f64 = rows.iter().map(|row| row[1]).sum();
            let per_word = words
                .filter(|&n| n > 0)
                .map(|n| ("perplexity (per word)".to_owned(), "", Statistic::ExpRatio(0, 1, tokens / n as f64)));
            let rest = [
                ("perplexity (per token)".to_owned(), "", Statistic::ExpRatio(0, 1, 1.0)),
                ("bits per byte".to_owned(), "", Statistic::Bits(0, 2)),
                ("bits per character".to_owned(), "", Statistic::Bits(0, 3)),
            ];
            let ranges = (0..POSITION_RANGES).filter_map(|range| {
                let column = TEXT_NUMBERS + 2 * range;
                let is_there = rows.iter().any(|row| row.get(column + 1).is_some_and(|&tokens| tokens > 0.0));
                is_there.then(|| (range_name(range), "nats", Statistic::Ratio(column, column + 1)))
            });
            per_word.into_iter().chain(rest).chain(ranges).collect()
        }
        Scoring::Generation => {
            let (mut all, mut column) = (Vec::new(), 0);
            for metric in task.generation.iter().flat_map(|generation| &generation.metrics) {
                match metric {
                    Metric::Exact => all.push(percent("exact match", column)),
                    Metric::Number => all.push(percent("exact match (number)", column)),
                    Metric::ExactMatch => all.push(percent("exact match (normalized)", column)),
                    Metric::F1 => all.push(percent("F1", column)),
                    Metric::Rouge => {
                        for (i, name) in ["ROUGE-1", "ROUGE-2", "ROUGE-L"].into_iter().enumerate() {
                            all.push(percent(name, column + i));
                        }
                    }
                    Metric::Bleu => all.push(("BLEU".to_owned(), "", Statistic::Bleu(column))),
                }
                column += match metric {
                    Metric::Exact | Metric::Number | Metric::ExactMatch | Metric::F1 => 1,
                    Metric::Rouge => 3,
                    Metric::Bleu => BLEU_NUMBERS,
                };
            }
            all
        }
    }
}

/// The mean of `after` less that of `before`, of the same instances, and its standard error; nothing where they are not
/// as many.
pub fn difference(before: &[f64], after: &[f64]) -> Option<(f64, f64)> {
    let same = before.len() == after.len() && !before.is_empty();
    let gains: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    same.then(|| (mean(&gains), standard_error_of_mean(&gains)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn measured(task: &str, lines: &[Value], words: Option<u64>, keep: &dyn Fn(u64) -> bool) -> TaskMeasurement {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let text: String = lines.iter().map(|line| line.to_string() + "\n").collect();
        gptkit_data::disk::write(&path, text.as_bytes()).unwrap();
        measure(&path, &gptkit_config::load("a.toml", task, &[]).unwrap(), words, 1, keep).unwrap()
    }

    fn values(measured: &TaskMeasurement) -> Vec<(&str, f64)> {
        measured.figures.iter().map(|figure| (figure.metric.as_str(), figure.value)).collect()
    }

    #[test]
    fn choices_are_counted_in_every_normalization_the_main_one_first() {
        let task = "scoring = \"choice\"\nprompt = \"p\"\nanswer = \"a\"\n[choice]\nof = \"c\"\nright = \"r\"\nmain = \"per-byte\"\n";
        let line = |n: u64, right: u64, chosen: [u64; 4]| {
            json!({ "n": n, "shots": n, "cut": n == 0, "answers": ["a", "b"], "right": right,
                "chosen": { "sum": chosen[0], "per token": chosen[1], "per byte": chosen[2], "per character": chosen[2], "unconditional": chosen[3] } })
        };
        let lines =
            [line(0, 1, [1, 0, 1, 1]), line(1, 0, [0, 1, 0, 1]), line(2, 0, [1, 0, 0, 0]), line(3, 1, [0, 0, 0, 0])];
        let all = measured(task, &lines, None, &|_| true);
        let names = ["per byte", "sum", "per token", "per character", "unconditional"];
        let expected = names.map(|name| format!("accuracy ({name})"));
        let expected = expected.iter().map(String::as_str).zip([75.0, 50.0, 25.0, 75.0, 50.0]);
        assert_eq!(values(&all), expected.collect::<Vec<_>>());
        assert_eq!((all.n, all.shots, all.cut, all.chance), (4, 1.5, 1, Some(50.0)));
        assert_eq!(all.scores, [100.0, 100.0, 100.0, 0.0]);
        // √(p (1 − p) / n), of a bootstrap.
        assert!((all.figures[0].standard_error - 100.0 * (0.75 * 0.25 / 4.0_f64).sqrt()).abs() < 2.0);
        assert_eq!(values(&measured(task, &lines, None, &|n| n > 2))[0].1, 0.0, "those that are kept");
    }

    #[test]
    fn perplexity_is_of_all_the_text() {
        let task = "scoring = \"perplexity\"\n";
        let ln2 = std::f64::consts::LN_2;
        let line = |nats: f64, tokens: u64, bytes: u64| json!({ "n": 0, "nats": nats, "tokens": tokens, "bytes": bytes, "characters": bytes / 2 });
        let lines = [line(6.0 * ln2, 3, 8), line(2.0 * ln2, 1, 8)];
        let found = measured(task, &lines, Some(2), &|_| true);
        let expected = [
            ("perplexity (per word)", 16.0),
            ("perplexity (per token)", 4.0),
            ("bits per byte", 0.5),
            ("bits per character", 1.0),
        ];
        for ((name, value), (expected_name, expected)) in values(&found).into_iter().zip(expected) {
            assert_eq!(name, expected_name);
            assert!((value - expected).abs() < 1e-9, "{name}: {value}");
        }
        assert_eq!(values(&measured(task, &lines, None, &|_| true)).len(), 3);
    }

    #[test]
    fn loss_is_told_by_position() {
        let task = "scoring = \"perplexity\"\n[text]\nby_position = true\n";
        let range = |from: u64, nats: f64, tokens: u64| json!({ "from": from, "nats": nats, "tokens": tokens });
        let line = |ranges: &[Value]| json!({ "n": 0, "nats": 9.0, "tokens": 4, "bytes": 8, "characters": 8, "by_position": ranges });
        let lines = [
            line(&[range(0, 3.0, 1), range(1, 2.0, 1), range(4, 6.0, 3)]),
            line(&[range(0, 1.0, 1), range(4, 2.0, 1)]),
        ];
        let measured = measured(task, &lines, None, &|_| true);
        let found = values(&measured);
        let expected = [("loss at position 0", 2.0), ("loss at position 1", 2.0), ("loss at positions 4 to 7", 2.0)];
        assert_eq!(found[3..], expected);
    }

    #[test]
    fn last_words_are_counted_with_and_without_the_filter() {
        let task = "scoring = \"word\"\nprompt = \"p\"\nanswer = \"a\"\n";
        let line = |greedy: bool, filtered: bool, log_prob: f64| json!({ "n": 0, "greedy": greedy, "filtered_is_right": filtered, "log_prob": log_prob });
        let found = measured(task, &[line(true, true, -1.0), line(false, true, -3.0)], None, &|_| true);
        assert_eq!(values(&found)[..2], [("accuracy", 50.0), ("accuracy (stop-word filter)", 100.0)]);
        assert!((found.figures[2].value - 2f64.exp()).abs() < 1e-9);
    }

    #[test]
    fn a_difference_is_of_the_same_instances() {
        let (mean, error) = difference(&[0.0, 100.0, 0.0, 0.0], &[100.0, 100.0, 0.0, 100.0]).unwrap();
        assert_eq!(mean, 50.0);
        assert!((error - 25.0).abs() < 3.0, "{error}");
        assert_eq!(difference(&[0.0; 5], &[0.0; 5]), Some((0.0, 0.0)), "what never differs is certain");
        assert!(difference(&[0.0], &[1.0, 2.0]).is_none() && difference(&[], &[]).is_none());
    }
}
