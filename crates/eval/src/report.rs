//! What was measured, for people and programs: Markdown, JSON, and what demonstrations bring.

use crate::figures::{MetricValue, TaskMeasurement, difference};
use crate::request::EvalRequest;
use crate::run::EvalCell;
use crate::task::Published;
use gptkit_data::text_table;
use gptkit_data::text_table::Align::{Left, Right};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// Result of a fine-tuned model on the instances of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finetuned {
    /// The task, with its variant.
    pub task: String,
    /// The model's folder.
    pub folder: PathBuf,
    /// Its accuracy.
    pub figure: MetricValue,
    /// Instances.
    pub n: u64,
}

/// What demonstrations bring a model on a task: the difference to none on the same instances.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gain {
    /// The task, with its variant.
    pub task: String,
    /// Place of the model.
    pub model: usize,
    /// Number of few-shot examples that were requested.
    pub shots: usize,
    /// In the unit of the figure.
    pub gain: f64,
    /// Its standard error, over instances.
    pub standard_error: f64,
    /// What follows.
    pub verdict: GainVerdict,
}

/// Whether a difference is one: more than two standard errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GainVerdict {
    /// With demonstrations it is better.
    Helps,
    /// It is worse.
    Hurts,
    /// It cannot be told.
    NoDifference,
}

impl fmt::Display for GainVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Helps => "few-shot examples help",
            Self::Hurts => "few-shot examples hurt",
            Self::NoDifference => "no difference",
        })
    }
}

/// All that is reported.
#[derive(Debug)]
pub struct EvalReport<'a> {
    /// The request.
    pub request: &'a EvalRequest,
    /// Parameters of each model.
    pub n_params: Vec<u64>,
    /// What was measured.
    pub cells: &'a [EvalCell],
    /// Fine-tuned models.
    pub finetuned: &'a [Finetuned],
    /// Whether published results are shown.
    pub reference: bool,
}

impl EvalReport<'_> {
    /// Tasks in their order.
    pub fn tasks(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        self.cells.iter().map(|cell| cell.task.as_str()).filter(|task| seen.insert(*task)).collect()
    }

    /// The cell of a task, a model, and so many demonstrations.
    pub fn cell(&self, task: &str, model: usize, shots: usize) -> Option<&EvalCell> {
        self.cells.iter().find(|cell| cell.task == task && cell.model == model && cell.shots == shots)
    }

    /// What demonstrations bring, wherever there is a zero-shot figure to compare with.
    pub fn improves(&self) -> Vec<Gain> {
        let mut gains = Vec::new();
        for cell in self.cells.iter().filter(|cell| cell.shots > 0) {
            let Some(zero) = self.cell(&cell.task, cell.model, 0) else { continue };
            let found = difference(&zero.measured.scores, &cell.measured.scores);
            let Some((gain, standard_error)) = found else { continue };
            let verdict = match gain {
                gain if gain > 2.0 * standard_error => GainVerdict::Helps,
                gain if gain < -2.0 * standard_error => GainVerdict::Hurts,
                _ => GainVerdict::NoDifference,
            };
            gains.push(Gain {
                task: cell.task.clone(),
                model: cell.model,
                shots: cell.shots,
                gain,
                standard_error,
                verdict,
            });
        }
        gains
    }

    /// What papers report of `task`.
    pub fn published(&self, task: &str) -> Vec<&Published> {
        let Some(request) =
            self.request.tasks.iter().find(|request| request.full_name() == task).filter(|_| self.reference)
        else {
            return Vec::new();
        };
        let own = |one: &&Published| one.variant.is_empty() || one.variant == request.variant;
        request.config.published.iter().filter(own).collect()
    }

    /// All of it as one object.
    pub fn json(&self) -> Value {
        let measured = |measured: &TaskMeasurement| json!({ "n": measured.n, "shots_shown": measured.shots, "cut": measured.cut, "chance": measured.chance, "figures": measured.figures });
        let cell = |cell: &EvalCell| {
            json!({
                "task": cell.task,
                "model": self.request.model_name(cell.model),
                "shots": cell.shots,
                "measured": measured(&cell.measured),
                "clean": cell.clean.as_ref().map(measured),
                "cost": cell.cost,
                "instances": cell.path,
            })
        };
        let models = self.request.models.iter().zip(&self.n_params).enumerate().map(|(n, (folder, n_params))| {
            json!({ "name": self.request.model_name(n), "folder": folder, "n_params": n_params })
        });
        let published: Vec<Value> = self
            .tasks()
            .iter()
            .flat_map(|task| self.published(task).into_iter().map(move |one| json!({ "task": task, "published": one })))
            .collect();
        json!({
            "seed": self.request.seed,
            "limit": self.request.limit,
            "models": models.collect::<Vec<_>>(),
            "cells": self.cells.iter().map(cell).collect::<Vec<_>>(),
            "gains": self.improves(),
            "finetuned": self.finetuned,
            "published": published,
        })
    }

    /// Tables: of each task every figure, then what demonstrations bring.
    pub fn markdown(&self) -> String {
        let mut text = "# Evaluation\n\n".to_owned();
        text += "Values are given with bootstrap standard errors over instances.";
        text += &format!(" Few-shot examples are sampled with seed {}.\n", self.request.seed);
        for task in self.tasks() {
            text += &self.task_table(task);
        }
        let gains = self.improves();
        if !gains.is_empty() {
            text += "\n## Effect of few-shot examples\n\n";
            text += "Differences from the zero-shot score on the same instances; treat differences below two standard \
                     errors as noise.\n\n";
            let columns = [("task", Left), ("model", Left), ("examples", Right), ("gain", Right), ("", Left)];
            let row = |Gain { task, model, shots, gain, standard_error, verdict }: &Gain| {
                let gain = format!("{gain:+.1} ± {standard_error:.1}");
                vec![task.clone(), self.request.model_name(*model), shots.to_string(), gain, verdict.to_string()]
            };
            text += &text_table::markdown(&columns, gains.iter().map(row));
        }
        text
    }

    fn task_table(&self, task: &str) -> String {
        let own: Vec<&EvalCell> = self.cells.iter().filter(|cell| cell.task == task).collect();
        let request = self.request.tasks.iter().find(|request| request.full_name() == task);
        let shots: BTreeSet<usize> = own.iter().map(|cell| cell.shots).collect();
        let mut text = format!("\n## {task}\n\n");
        if let Some(description) = request.map(|r| &r.config.description).filter(|description| !description.is_empty())
        {
            text += &format!("{description}\n\n");
        }
        let Some(first) = own.first() else { return text };
        text += &format!("{} instances", first.measured.n);
        if first.cost.skipped > 0 {
            text += &format!(", {} records left out", first.cost.skipped);
        }
        text += ".\n\n";
        let mut rows: Vec<Vec<String>> = Vec::new();
        for model in 0..self.request.models.len() {
            rows.extend(self.model_rows(task, model, &own, &shots));
        }
        if let Some(chance) = first.measured.chance {
            rows.push(row("chance", "accuracy", shots.iter().map(|_| format!("{chance:.1}%"))));
        }
        for one in self.finetuned.iter().filter(|one| one.task == task) {
            let cells = shots.iter().enumerate().map(|(i, _)| if i == 0 { shown(&one.figure) } else { String::new() });
            rows.push(row(&format!("{}, fine-tuned", one.folder.display()), &one.figure.metric, cells));
        }
        let heads = shots.iter().map(|shots| (format!("{shots}-shot"), Right));
        let columns: Vec<_> =
            ["model", "metric"].map(|head| (head.to_owned(), Left)).into_iter().chain(heads).collect();
        text + &text_table::markdown(&columns, rows) + &self.published_table(task)
    }

    /// Rows of one model: every metric by number of demonstrations, then demonstrations that fit and cut instances.
    fn model_rows(&self, task: &str, model: usize, own: &[&EvalCell], shots: &BTreeSet<usize>) -> Vec<Vec<String>> {
        let of_model = |shots: &usize| self.cell(task, model, *shots);
        let by_shots = |value: &dyn Fn(&EvalCell) -> Option<String>| -> Vec<String> {
            shots.iter().map(|shots| of_model(shots).and_then(value).unwrap_or_else(|| "-".to_owned())).collect()
        };
        let name = self.request.model_name(model);
        let mut rows = Vec::new();
        for metric in own[0].measured.figures.iter().map(|figure| figure.metric.as_str()) {
            rows.push(row(&name, metric, by_shots(&|cell| cell.measured.figure(metric).map(shown))));
            if own.iter().any(|cell| cell.clean.is_some()) {
                let clean = |cell: &EvalCell| {
                    let clean = cell.clean.as_ref()?;
                    Some(format!("{} of {}", shown(clean.figure(metric)?), clean.n))
                };
                rows.push(row(&name, &format!("{metric}, clean part"), by_shots(&clean)));
            }
        }
        let fewer = |shots: &usize| of_model(shots).is_some_and(|cell| cell.measured.shots + 0.005 < *shots as f64);
        if shots.iter().any(fewer) {
            let fit = by_shots(&|cell| Some(format!("{:.1}", cell.measured.shots)));
            rows.push(row(&name, "few-shot examples that fit", fit));
        }
        if own.iter().any(|cell| cell.model == model && cell.measured.cut > 0) {
            let cut = by_shots(&|cell| Some(cell.measured.cut.to_string()));
            rows.push(row(&name, "longer than the context, truncated", cut));
        }
        rows
    }

    fn published_table(&self, task: &str) -> String {
        let published = self.published(task);
        if published.is_empty() {
            return String::new();
        }
        let columns = [("published", Left), ("metric", Left), ("examples", Left), ("score", Right), ("source", Left)];
        let row = |one: &Published| {
            let Published { model, metric, shots, value, source, .. } = one;
            vec![model.clone(), metric.clone(), shots.to_string(), value.to_string(), source.clone()]
        };
        "\n".to_owned() + &text_table::markdown(&columns, published.into_iter().map(row))
    }
}

/// A row of a task's table.
fn row(name: &str, metric: &str, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    [name.to_owned(), metric.to_owned()].into_iter().chain(cells).collect()
}

impl TaskMeasurement {
    /// The figure of this metric.
    pub fn figure(&self, metric: &str) -> Option<&MetricValue> {
        self.figures.iter().find(|figure| figure.metric == metric)
    }
}

/// `34.2% ± 1.1`
pub fn shown(figure: &MetricValue) -> String {
    let MetricValue { value, standard_error, unit, .. } = figure;
    // Bits per byte differ in the third digit.
    let digits = if unit == "%" {
        1
    } else if *value < 10.0 {
        3
    } else {
        2
    };
    // Of a single instance no error is known.
    let error = if standard_error.is_finite() { format!(" ± {standard_error:.digits$}") } else { String::new() };
    format!("{value:.digits$}{unit}{error}")
}
