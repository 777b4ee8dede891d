//! The table of stages and figures, for the page and as CSV.

use crate::measured::StoryMeasurements;
use crate::shape::PaperShape;
use crate::summary::{self, Better, FIGURES, ROWS, StoryModel, SummaryFigure};
use anyhow::Result;
use gptkit_plot::FIXED_STYLE;
use serde_json::{Value, json};

/// Rows and columns of which something was measured; the best value of a column is marked, whoever has it.
pub(super) fn summary(measured: &StoryMeasurements) -> Value {
    let has = |model: &StoryModel| measured.seeds.iter().any(|seed| seed.runs.contains_key(model.stage));
    let models: Vec<StoryModel> = ROWS.into_iter().filter(has).collect();
    let value = |model: &StoryModel, figure: &SummaryFigure| summary::mean(measured, *model, figure.key);
    let columns: Vec<&SummaryFigure> =
        FIGURES.iter().filter(|figure| models.iter().any(|model| value(model, figure).is_some())).collect();
    // Values that look the same share the mark.
    let shown = |x: f64, figure: &SummaryFigure| format!("{x:.*}", figure.form.0);
    let best = |figure: &SummaryFigure| {
        let all = models.iter().filter_map(|model| value(model, figure));
        let best = match figure.better {
            Better::Higher => all.max_by(f64::total_cmp),
            Better::Lower => all.min_by(f64::total_cmp),
            Better::Neither => None,
        };
        best.map(|best| shown(best, figure))
    };
    let cell = |model: &StoryModel, figure: &SummaryFigure| match value(model, figure) {
        None => Value::Null,
        Some(x) if figure.key == "parameters" => json!({ "text": gptkit_plot::scale::short(x), "best": false }),
        Some(x) => {
            let number = shown(x, figure);
            json!({ "best": best(figure) == Some(number.clone()), "text": super::signed(number) + figure.form.1 })
        }
    };
    let row = |model: &StoryModel| {
        json!({
            "name": model.name,
            "what": model.what,
            "style": model.style - FIXED_STYLE,
            "cells": columns.iter().map(|figure| cell(model, figure)).collect::<Vec<_>>(),
        })
    };
    json!({
        "columns": columns.iter().map(|figure| json!({ "key": figure.key, "head": figure.head })).collect::<Vec<_>>(),
        "rows": models.iter().map(row).collect::<Vec<_>>(),
    })
}

/// A row for each comparison of a claim and seed, and one for each figure, stage and seed.
///
/// # Errors
/// Never for a writer in memory.
pub(super) fn csv(measured: &StoryMeasurements, shapes: &[PaperShape]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "row",
        "name",
        "chapter",
        "figure",
        "seed",
        "unit",
        "of",
        "value",
        "against",
        "other_value",
        "standard_error",
        "verdict",
        "source",
    ])?;
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    for shape in shapes {
        let chapter = word(json!(shape.chapter));
        for comparison in &shape.comparisons {
            for (seed, pair) in &comparison.pairs {
                writer.write_record([
                    "claim",
                    &shape.name,
                    &chapter,
                    &comparison.what,
                    &seed.to_string(),
                    &word(json!(comparison.unit)),
                    &comparison.more,
                    &pair.more.to_string(),
                    &comparison.less,
                    &pair.less.to_string(),
                    &pair.error.map_or_else(String::new, |error| error.to_string()),
                    &shape.words(),
                    &shape.source,
                ])?;
            }
        }
        if shape.n_seeds == 0 {
            let blank = [""; 8];
            let mut row = vec!["claim", &shape.name, &chapter];
            row.extend(blank);
            let words = shape.words();
            row.extend([words.as_str(), shape.source.as_str()]);
            writer.write_record(row)?;
        }
    }
    for seed in &measured.seeds {
        for model in ROWS {
            let stage = seed.stages.iter().find(|stage| stage.name == model.stage);
            let chapter = stage.map_or_else(String::new, |stage| word(json!(stage.chapter)));
            for figure in FIGURES {
                let Some(value) = summary::value(seed, model, figure.key) else { continue };
                let (number, value) = (seed.seed.to_string(), value.to_string());
                let unit = if figure.form.1 == "%" { "percent" } else { "" };
                let row = ["figure", model.stage, &chapter, figure.key, &number, unit, model.name, &value];
                writer.write_record(row.into_iter().chain([""; 5]))?;
            }
        }
    }
    Ok(writer.into_inner()?)
}
