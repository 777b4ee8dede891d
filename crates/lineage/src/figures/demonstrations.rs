//! Accuracy without examples and over their number, as Brown et al. 2020 draw it in figure 1.2.

use super::{FigureMaker, NEUTRAL, ReportFigure, average, model, source};
use crate::config::Chapter;
use crate::measured::{InContextScores, SeedMeasurements, is_pattern};
use gptkit_plot::{Axis, LineChart, Look, Scale, Series, ShareBar, ShareBars};
use serde_json::{Value, json};

/// Points of percent that two models may differ by and be called level.
const LEVEL: f64 = 1.0;

impl FigureMaker<'_> {
    /// Evaluations of all seeds.
    fn evaluations(&self) -> Vec<&InContextScores> {
        self.measured.seeds.iter().filter_map(|seed| seed.in_context.as_ref()).collect()
    }

    /// Without examples, a bar for each model, smallest first.
    pub(super) fn zero_shot(&self) -> Option<ReportFigure> {
        let evaluations = self.evaluations();
        let mut models: Vec<_> = evaluations.first()?.models.iter().collect();
        models.sort_by_key(|model| model.n_params);
        let bar = |one: &&crate::measured::EvaluatedModel| {
            let (name, style) = model(&one.name);
            let seed = |all: &&InContextScores| {
                let (value, error) = all.mean(|_| true, &one.name, 0)?;
                Some((value, value - 1.96 * error, value + 1.96 * error))
            };
            ShareBar { name, style, seeds: evaluations.iter().filter_map(seed).collect() }
        };
        let bars: Vec<ShareBar> = models.iter().map(bar).collect();
        let value = |bar: &ShareBar| average(bar.seeds.iter().map(|seed| Some(seed.0)));
        let best = bars.iter().filter_map(|bar| Some((value(bar)?, bar))).max_by(|a, b| a.0.total_cmp(&b.0));
        let largest = bars.last().and_then(|bar| Some((value(bar)?, bar)));
        let says = best.zip(largest).map(|((best, bar), (value, largest))| match best - value {
            0.0 => format!("The largest model does best: {value:.1}%."),
            gap if gap < LEVEL => format!("{} and {} are level at {value:.1}%.", largest.name, bar.name),
            _ => format!("The best is {} with {best:.1}%; the largest model reaches {value:.1}%.", bar.name),
        });
        let label = "Zero-shot accuracy of each model, mean over all tasks".to_owned();
        Some(ReportFigure {
            chapter: Chapter::Gpt2,
            title: "Tasks without any example".to_owned(),
            caption: format!(
                "{} Mean over all tasks: the model gets the question alone and continues it. The line in each bar is the 95% \
                 interval of a seed.",
                says.unwrap_or_default()
            ),
            notes: Vec::new(),
            chart: ShareBars { label, bars, half: false }.markup()?,
            source: source(self.measured, &["in-context"], &self.cells(&|_| true, None, Some(0))),
        })
    }

    /// Over demonstrations, a line a model; beside it what fine-tuning, on the task `tuned`, and chance give.
    /// Nothing where no model rises above chance.
    pub(super) fn over_shots(
        &self,
        title: &str,
        is: &dyn Fn(&str) -> bool,
        tuned: Option<&str>,
    ) -> Option<ReportFigure> {
        let tuned = tuned.map(|task| self.tuned_stage(task));
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
            // The figure on the evaluation's own instances, where there is one.
            let same = |one: &&InContextScores| one.finetuned.iter().find(|one| is(&one.task)).map(|one| one.value);
            let own = |seed: &SeedMeasurements| Some(100.0 * seed.accuracies.get(stage)?.value);
            fine = average(evaluations.iter().map(same))
                .or_else(|| average(self.measured.seeds.iter().filter(|seed| seed.in_context.is_some()).map(own)));
            series.extend(fine.map(|value| level("fine-tuned", value)));
            series.extend(chance.map(|chance| level("chance", chance)));
        }
        let named = Scale::Named(shots.iter().map(usize::to_string).collect());
        let chart = LineChart {
            label: format!("{title}, a line for each model"),
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
            Some(format!("{} {does} with examples: {zero:.1}% without, {most:.1}% with {n}.", model(name).0))
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
                data["fine-tuned, same instances"] =
                    json!(all.finetuned.iter().filter(|one| is(&one.task)).collect::<Vec<_>>());
                data["fine-tuned, own held-out records"] = json!(seed.accuracies.get(stage));
            }
            Some(data)
        })
    }
}
