//! Accuracy over demonstrations, as Brown et al. 2020 draw it in figure 1.2, and over size, as in figure 1.3.

use super::{CHANCE, FigureMaker, ReportFigure, average, model, source};
use crate::config::Chapter;
use crate::measured::{InContextScores, SeedMeasurements, is_pattern};
use gptkit_plot::{Axis, LineChart, Look, Scale, Series};
use serde_json::{Value, json};

impl FigureMaker<'_> {
    /// Evaluations of all seeds.
    fn evaluations(&self) -> Vec<&InContextScores> {
        self.measured.seeds.iter().filter_map(|seed| seed.in_context.as_ref()).collect()
    }

    /// Over demonstrations, a line a model; beside it what fine-tuning, as the stage `tuned` measured it, and chance give.
    pub(super) fn over_shots(
        &self,
        title: &str,
        is: &dyn Fn(&str) -> bool,
        tuned: Option<&str>,
    ) -> Option<ReportFigure> {
        let evaluations = self.evaluations();
        let first = evaluations.first()?;
        let shots = first.shots();
        let line = |name: &str| {
            let at = |shots: usize| average(evaluations.iter().map(|one| Some(one.mean(is, name, shots)?.0)));
            let points = shots.iter().enumerate().filter_map(|(i, &shots)| Some((i as f64, at(shots)?))).collect();
            let (name, style) = model(name);
            Series { name, style, look: Look::Dots, points, ..Series::default() }
        };
        let level = |name: &str, value: f64| {
            let points = vec![(0.0, value)];
            Series { name: name.to_owned(), style: CHANCE, look: Look::Level, points, ..Series::default() }
        };
        let mut series: Vec<Series> = first.models.iter().map(|model| line(&model.name)).collect();
        if let Some(stage) = tuned {
            // The figure on the evaluation's own instances, where there is one.
            let same = |one: &&InContextScores| one.finetuned.iter().find(|one| is(&one.task)).map(|one| one.value);
            let own = |seed: &SeedMeasurements| Some(100.0 * seed.accuracies.get(stage)?.value);
            let value = average(evaluations.iter().map(same))
                .or_else(|| average(self.measured.seeds.iter().filter(|seed| seed.in_context.is_some()).map(own)));
            series.extend(value.map(|value| level("fine-tuned", value)));
            let chance = first.cells.iter().find(|cell| is(&cell.task)).and_then(|cell| cell.chance);
            series.extend(chance.map(|chance| level("chance", chance)));
        }
        let named = Scale::Named(shots.iter().map(usize::to_string).collect());
        let chart = LineChart {
            label: format!("{title}, a line for each model"),
            x: Axis { scale: named, ..Axis::linear("examples in the context") },
            y: Axis::linear("accuracy, %"),
            series,
            ..LineChart::default()
        };
        let stages: Vec<&str> = ["in-context"].into_iter().chain(tuned).collect();
        let fine = if tuned.is_some() { " Dashed: GPT-1 fine-tuned, the smallest of them." } else { "" };
        Some(ReportFigure {
            chapter: Chapter::Gpt3,
            title: title.to_owned(),
            caption: format!("{}{fine}", Self::mean_of(evaluations.len())).trim().to_owned(),
            chart: chart.markup()?,
            source: source(self.measured, &stages, &self.cells(is, tuned)),
        })
    }

    pub(super) fn over_sizes(&self) -> Option<ReportFigure> {
        let evaluations = self.evaluations();
        let first = evaluations.first()?;
        let mut models: Vec<_> = first.models.iter().collect();
        models.sort_by_key(|model| model.n_params);
        let line = |(style, &shots): (usize, &usize)| {
            let at = |name: &str| average(evaluations.iter().map(|one| Some(one.mean(is_pattern, name, shots)?.0)));
            let points = models.iter().filter_map(|model| Some((model.n_params as f64, at(&model.name)?))).collect();
            Series { name: format!("{shots}-shot"), style, look: Look::Dots, points, ..Series::default() }
        };
        let chart = LineChart {
            label: "Patterns: accuracy by size, a line for each number of examples".to_owned(),
            x: Axis { scale: Scale::LogAtPoints, ..Axis::linear("parameters") },
            y: Axis::linear("accuracy, %"),
            series: first.shots().iter().enumerate().map(line).collect(),
            ..LineChart::default()
        };
        Some(ReportFigure {
            chapter: Chapter::Gpt3,
            title: "Patterns: accuracy by size".to_owned(),
            caption: format!("Mean over the pattern tasks.{}", Self::mean_of(evaluations.len())),
            chart: chart.markup()?,
            source: source(self.measured, &["in-context"], &self.cells(&is_pattern, None)),
        })
    }

    fn cells(&self, is: &dyn Fn(&str) -> bool, tuned: Option<&str>) -> Value {
        self.by_seed(|seed| {
            let all = seed.in_context.as_ref()?;
            let cells: Vec<Value> = all
                .cells
                .iter()
                .filter(|cell| is(&cell.task))
                .map(|c| json!([c.task, c.model, c.shots, c.value, c.standard_error]))
                .collect();
            let finetuned: Vec<_> = all.finetuned.iter().filter(|one| is(&one.task)).collect();
            let accuracy = tuned.and_then(|stage| seed.accuracies.get(stage));
            Some(json!({
                "parameters": all.models.iter().map(|model| json!([model.name, model.n_params])).collect::<Vec<_>>(),
                "columns": ["task", "model", "shots", "percent", "standard error"],
                "cells": cells,
                "fine-tuned, same instances": finetuned,
                "fine-tuned, own held-out records": accuracy,
            }))
        })
    }
}
