//! Accuracy without examples and over their number, as Brown et al. 2020 draw it in figure 1.2.

use super::{FigureMaker, NEUTRAL, ReportFigure, average, model, source};
use crate::config::Chapter;
use crate::measured::{InContextScores, SeedMeasurements, is_pattern};
use crate::summary::{GPT1, GPT2, GPT3, StoryModel};
use gptkit_plot::{Axis, LineChart, Look, Scale, Series};
use serde_json::{Value, json};

impl FigureMaker<'_> {
    /// Evaluations of all seeds.
    fn evaluations(&self) -> Vec<&InContextScores> {
        self.measured.seeds.iter().filter_map(|seed| seed.in_context.as_ref()).collect()
    }

    /// Perplexity of other stories over the number of weights.
    pub(super) fn zero_shot(&self) -> Option<ReportFigure> {
        let one = |model: StoryModel| {
            let n_params = self.average(|seed| Some(seed.runs.get(model.stage)?.n_params? as f64))?;
            Some((model, n_params, self.average(|seed| seed.perplexities.get(model.stage).copied())?))
        };
        let models: Vec<(StoryModel, f64, f64)> = [GPT1, GPT2, GPT3].into_iter().filter_map(one).collect();
        if models.len() < 2 {
            return None;
        }
        let falls = models.iter().zip(&models[1..]).all(|(smaller, larger)| larger.2 < smaller.2);
        let each: Vec<String> = models.iter().map(|(model, _, value)| format!("{} {value:.2}", model.name)).collect();
        let does = if falls { "falls with each larger model" } else { "does not fall with each larger model" };
        let line = Series {
            name: "all sizes".to_owned(),
            style: NEUTRAL,
            points: models.iter().map(|&(_, n_params, value)| (n_params, value)).collect(),
            ..Series::default()
        };
        let dot = |&(model, n_params, value): &(StoryModel, f64, f64)| Series {
            name: model.name.to_owned(),
            style: model.style,
            look: Look::Dots,
            points: vec![(n_params, value)],
            ..Series::default()
        };
        let chart = LineChart {
            label: "Perplexity of stories that no model was trained on, over the number of parameters".to_owned(),
            x: Axis { scale: Scale::LogAtPoints, ..Axis::linear("parameters") },
            y: Axis::linear("perplexity per word"),
            series: std::iter::once(line).chain(models.iter().map(dot)).collect(),
            ..LineChart::default()
        };
        let seeds = self.measured.seeds.iter().filter(|seed| !seed.perplexities.is_empty()).count();
        Some(ReportFigure {
            chapter: Chapter::Gpt2,
            title: "Zero-shot perplexity on other stories".to_owned(),
            caption: format!(
                "The perplexity {does}: {}. It is the number of equally likely words among which the model seems to \
                 choose.{}",
                each.join(", "),
                Self::mean_of(seeds)
            ),
            notes: Vec::new(),
            chart: chart.markup()?,
            source: source(
                self.measured,
                &["zero-shot"],
                &self.by_seed(|seed| Some(json!(seed.perplexities)).filter(|_| !seed.perplexities.is_empty())),
            ),
        })
    }

    /// Accuracy over the number of examples, one line per model, with the accuracy of fine-tuning on the task `tuned`
    /// and of chance. Nothing if no model is above chance.
    pub(super) fn over_shots(
        &self,
        title: &str,
        is: &dyn Fn(&str) -> bool,
        tuned: Option<&str>,
    ) -> Option<ReportFigure> {
        let tuned = tuned.map(|task| format!("{task}-gpt1"));
        let tuned = tuned.as_deref();
        let evaluations = self.evaluations();
        let first = evaluations.first()?;
        let shots = first.shots();
        let at = |name: &str, shots: usize| average(evaluations.iter().map(|one| Some(one.mean(is, name, shots)?.0)));
        let chance = first.cells.iter().find(|cell| is(&cell.task)).and_then(|cell| cell.chance);
        let above = |all: &&InContextScores| {
            let beats = |chance: f64| {
                let beyond = |cell: &&crate::measured::InContextCell| cell.value - chance > 2.0 * cell.standard_error;
                all.cells.iter().filter(|cell| is(&cell.task)).filter(beyond).count() > 1
            };
            chance.is_none_or(beats)
        };
        if !evaluations.iter().any(above) {
            return None;
        }
        let line = |name: &str| {
            let points =
                shots.iter().enumerate().filter_map(|(i, &shots)| Some((i as f64, at(name, shots)?))).collect();
            let (name, style) = model(name);
            Series { name, style, look: Look::Dots, points, ..Series::default() }
        };
        let level = |name: &str, value: f64| {
            let points = vec![(0.0, value)];
            Series { name: name.to_owned(), style: NEUTRAL, look: Look::Level, points, ..Series::default() }
        };
        let mut series: Vec<Series> = first.models.iter().map(|model| line(&model.name)).collect();
        let mut fine = None;
        if let Some(stage) = tuned {
            let of = |seed: &SeedMeasurements| Some(100.0 * seed.accuracies.get(stage)?.value);
            fine = average(self.measured.seeds.iter().filter(|seed| seed.in_context.is_some()).map(of));
            series.extend(fine.map(|value| level("fine-tuned", value)));
            series.extend(chance.map(|chance| level("chance", chance)));
        }
        let named = Scale::Named(shots.iter().map(usize::to_string).collect());
        let chart = LineChart {
            label: format!("{title}, one line per model"),
            x: Axis { scale: named, ..Axis::linear("examples in the prompt") },
            y: Axis::linear("right answers, %"),
            series,
            ..LineChart::default()
        };
        let stages: Vec<&str> = ["in-context"].into_iter().chain(tuned).collect();
        let largest = first.largest().and_then(|name| {
            let (zero, most) = (at(name, *shots.first()?)?, at(name, *shots.last()?)?);
            let does = if most > zero { "rises" } else { "does not rise" };
            let n = shots.last()?;
            Some(format!("{} {does} with examples: {zero:.1}% without examples, {most:.1}% with {n}.", model(name).0))
        });
        let dashed =
            fine.map(|value| format!(" The dashed line is the smallest model after fine-tuning: {value:.1}%."));
        Some(ReportFigure {
            chapter: Chapter::Gpt3,
            title: title.to_owned(),
            caption: format!(
                "{}{}{}",
                largest.unwrap_or_default(),
                dashed.unwrap_or_default(),
                Self::mean_of(evaluations.len())
            ),
            notes: Vec::new(),
            chart: chart.markup()?,
            source: source(self.measured, &stages, &self.cells(is, tuned, None)),
        })
    }

    /// Cells of the tasks for which `is` holds, of one number of examples or of all.
    fn cells(&self, is: &dyn Fn(&str) -> bool, tuned: Option<&str>, shots: Option<usize>) -> Value {
        // Means of several tasks need no figure for each: report.json has them.
        let is_mean = is("world-patterns:") && shots.is_none();
        self.by_seed(|seed| {
            let all = seed.in_context.as_ref()?;
            let cells: Vec<Value> = if is_mean {
                let cell = |name: &str, shots: usize| {
                    let (value, error) = all.mean(is_pattern, name, shots)?;
                    Some(json!(["all patterns", name, shots, value, error]))
                };
                let names = all.models.iter().map(|model| model.name.as_str());
                names.flat_map(|name| all.shots().into_iter().filter_map(move |shots| cell(name, shots))).collect()
            } else {
                let wanted = all.cells.iter().filter(|cell| is(&cell.task) && shots.is_none_or(|n| n == cell.shots));
                wanted.map(|c| json!([c.task, c.model, c.shots, c.value, c.standard_error])).collect()
            };
            let mut data = json!({
                "parameters": all.models.iter().map(|model| json!([model.name, model.n_params])).collect::<Vec<_>>(),
                "columns": ["task", "model", "examples", "percent", "standard error"],
                "cells": cells,
            });
            if let Some(stage) = tuned {
                data["fine-tuned"] = json!(seed.accuracies.get(stage));
            }
            Some(data)
        })
    }
}
