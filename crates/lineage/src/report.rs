//! One page that tells the story, with nothing to be loaded from elsewhere; beside it the same as JSON.

use crate::config::{Chapter, LineageConfig};
use crate::figures::{self, ASKED, FigureSource};
use crate::measured::{InContextScores, SeedMeasurements, StoryMeasurements, TrainingMeasurements, is_pattern};
use crate::reading;
use crate::rules;
use crate::shape::{self, FigureUnit};
use anyhow::{Context, Result};
use gptkit_data::disk;
use gptkit_data::format::{duration, measured_bytes};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// What [`write()`] wrote.
#[derive(Debug)]
pub struct WrittenReport {
    /// The page.
    pub page: PathBuf,
    /// What it says of the papers' shapes.
    pub shapes: Vec<shape::PaperShape>,
}

/// Writes `report.html` and `report.json` into `out`, from what the stages of `config` have left there for `seeds`; `own`
/// names data of the user's own and its files.
///
/// # Errors
/// When something that a finished stage left cannot be read, or a file cannot be written.
pub fn write(config: &LineageConfig, out: &Path, seeds: &[u64], own: &[(&str, String)]) -> Result<WrittenReport> {
    let measured = reading::read(config, out, seeds, own)?;
    let shapes = rules::all(&measured);
    let all = json!({ "shapes": shapes, "measured": measured });
    disk::write(&out.join("report.json"), (serde_json::to_string(&all)? + "\n").as_bytes())?;
    let page = out.join("report.html");
    disk::write(&page, render(&measured)?.as_bytes())?;
    Ok(WrittenReport { page, shapes })
}

/// Chapters in their order: what they are called.
const CHAPTERS: [(Chapter, &str, &str); 6] = [
    (Chapter::Transformer, "Transformer", "2017"),
    (Chapter::Gpt1, "GPT-1", "2018"),
    (Chapter::Gpt2, "GPT-2", "2019"),
    (Chapter::Gpt3, "GPT-3", "2020"),
    (Chapter::InstructGpt, "InstructGPT", "2022"),
    (Chapter::ChatGpt, "ChatGPT", "2022"),
];

/// The page.
///
/// # Errors
/// When a template cannot be filled, which is a mistake in it.
pub fn render(measured: &StoryMeasurements) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    for (name, text) in [
        ("report.html", include_str!("report.html")),
        ("parts.html", include_str!("parts.html")),
        ("chapters.html", include_str!("chapters.html")),
    ] {
        environment.add_template(name, text)?;
    }
    environment.add_filter("fixed", |x: f64, digits: usize| signed(format!("{x:.digits$}")));
    environment.add_filter("grouped", |x: f64| gptkit_data::progress::grouped(x.round() as u64));
    environment.add_filter("short", gptkit_plot::scale::short);
    environment.add_filter("duration", duration);
    environment.add_filter("bytes", measured_bytes);
    environment.add_filter("scientific", scientific);
    environment.add_filter("unit", |x: f64, unit: &str| in_unit(x, unit));
    let page = environment.get_template("report.html")?.render(context! {
        style => minijinja::Value::from_safe_string([include_str!("report.css"), gptkit_plot::STYLE_SHEET].concat()),
        m => minijinja::Value::from(Serde(measured)),
        f => minijinja::Value::from(Serde(facts(measured))),
        chapters => minijinja::Value::from(Serde(chapters(measured))),
        costs => minijinja::Value::from(Serde(costs(measured))),
        answers => minijinja::Value::from(Serde(answers(measured))),
        decisive => shape::SEEDS,
    });
    page.context("the report cannot be written")
}

/// Of each chapter its names, figures and shapes.
fn chapters(measured: &StoryMeasurements) -> Value {
    let (figures, shapes) = (figures::all(measured), rules::all(measured));
    let chapter = |&(chapter, name, year): &(Chapter, &str, &str)| {
        let shape = |shape: &shape::PaperShape| {
            let mut value = json!(shape);
            value["words"] = json!(shape.words());
            value
        };
        json!({
            "id": chapter,
            "name": name,
            "year": year,
            "figures": figures.iter().filter(|figure| figure.chapter == chapter).collect::<Vec<_>>(),
            "shapes": shapes.iter().filter(|shape| shape.chapter == chapter).map(shape).collect::<Vec<_>>(),
        })
    };
    CHAPTERS.iter().map(chapter).collect()
}

/// The mean of what `of` finds in seeds; nothing where it finds nothing.
fn mean(measured: &StoryMeasurements, of: impl Fn(&SeedMeasurements) -> Option<f64>) -> Option<f64> {
    let found: Vec<f64> = measured.seeds.iter().filter_map(of).filter(|x| x.is_finite()).collect();
    (!found.is_empty()).then(|| gptkit_stats::mean(&found))
}

/// What sentences mention: means over seeds, null or absent where nothing was measured.
fn facts(measured: &StoryMeasurements) -> Value {
    let runs = |of: fn(&TrainingMeasurements) -> Option<f64>| {
        let names = measured.seeds.iter().flat_map(|seed| seed.runs.keys());
        let value = |name: &String| Some((name.clone(), json!(mean(measured, |seed| of(seed.runs.get(name)?))?)));
        names.filter_map(value).collect::<Map<_, _>>()
    };
    let evaluated =
        |of: &dyn Fn(&InContextScores) -> Option<f64>| mean(measured, |seed| of(seed.in_context.as_ref()?));
    let most = |all: &InContextScores| all.shots().last().copied();
    let pattern = |model: fn(&InContextScores) -> Option<&str>, few: bool| {
        evaluated(&|all| Some(all.mean(is_pattern, model(all)?, if few { most(all)? } else { 0 })?.0))
    };
    let wins =
        |stage: &str, model: &str| mean(measured, |seed| Some(100.0 * seed.wins.get(stage)?.models.get(model)?.value));
    let accuracy = |stage: &str| mean(measured, |seed| Some(100.0 * seed.accuracies.get(stage)?.value));
    let reward = |stage: &str| mean(measured, |seed| Some(100.0 * seed.reward_models.get(stage)?.accuracy.value));
    let stages = || measured.seeds.iter().flat_map(|seed| &seed.stages);
    let judges = measured.seeds.iter().flat_map(|seed| seed.wins.values()).map(|wins| wins.judge.as_str());
    json!({
        "elapsed_s": stages().map(|stage| stage.elapsed_s).sum::<f64>(),
        "peak_bytes": stages().filter_map(|stage| stage.peak_bytes).max(),
        "n_stages": stages().count(),
        "loss": runs(|run| run.best_validation),
        "speed": runs(|run| Some(run.tokens_per_s)),
        "params": runs(|run| run.n_params.map(|n| n as f64)),
        "tokens": runs(|run| Some(run.tokens as f64)),
        "text_loss": runs(|run| run.text_loss.last().map(|point| point.1)),
        "kl": runs(|run| run.iterations.last().map(|last| last.kl)),
        "endings": { "gpt1": accuracy("endings-gpt1"), "bert": accuracy("endings-bert") },
        "color": accuracy("color-predicted"),
        "first_word": accuracy("first-word-predicted"),
        "shots": measured.seeds.iter().find_map(|seed| seed.in_context.as_ref().and_then(most)),
        "few": { "largest": pattern(InContextScores::largest, true), "smallest": pattern(InContextScores::smallest, true) },
        "zero": { "largest": pattern(InContextScores::largest, false), "smallest": pattern(InContextScores::smallest, false) },
        "reward": { "rm": reward("rm"), "rm_2": reward("rm-2") },
        "by_length": mean(measured, |seed| Some(100.0 * seed.reward_models.get("rm")?.by_length)),
        "wins": {
            "sft": wins("wins-sft", "sft"),
            "ppo": wins("wins-ppo", "ppo"),
            "no_ptx": wins("wins-ppo", "ppo-no-ptx"),
            "size": wins("wins-size", "ppo"),
            "round_2": wins("wins-round-2", "ppo-2"),
        },
        // Neither the hidden scorer nor the labelers of the embedded world.
        "judged_by_model": judges.clone().any(|judge| judge != "gold" && !judge.starts_with("labeler")),
        "judged": judges.count() > 0,
    })
}

/// A row a stage, in the order of the first seed that ended it: means over seeds.
fn costs(measured: &StoryMeasurements) -> Value {
    let mut names: Vec<(Chapter, &str)> = Vec::new();
    for stage in measured.seeds.iter().flat_map(|seed| &seed.stages) {
        if !names.iter().any(|(_, name)| *name == stage.name) {
            names.push((stage.chapter, &stage.name));
        }
    }
    let row = |(_, name): &(Chapter, &str)| {
        let stage = |seed: &'_ SeedMeasurements| seed.stages.iter().position(|stage| stage.name == *name);
        let of =
            |value: &dyn Fn(&SeedMeasurements, usize) -> Option<f64>| mean(measured, |seed| value(seed, stage(seed)?));
        json!({
            "name": name,
            "elapsed_s": of(&|seed, at| Some(seed.stages[at].elapsed_s)),
            "peak_bytes": of(&|seed, at| seed.stages[at].peak_bytes.map(|bytes| bytes as f64)),
            "tokens": mean(measured, |seed| Some(seed.runs.get(*name)?.tokens as f64)),
            "flops": mean(measured, |seed| seed.runs.get(*name)?.flops),
        })
    };
    let rows: Vec<Value> = names.iter().map(row).collect();
    let commands: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
    json!({ "source": figures::source(measured, &commands, &json!(rows)), "rows": rows })
}

/// Each question, and what each generation of the first seed that was asked said.
fn answers(measured: &StoryMeasurements) -> Value {
    let asked = measured.seeds.iter().find(|seed| !seed.answers.is_empty());
    let Some(seed) = asked else { return json!({ "questions": [], "source": FigureSource::default() }) };
    let said = |n: usize| -> Vec<Value> {
        let one = |(stage, name): (&str, &str)| Some(json!([name, seed.answers.get(stage)?.get(n)?]));
        ASKED.into_iter().filter_map(one).collect()
    };
    let question = |(n, question): (usize, &String)| json!({ "question": question, "said": said(n) });
    let questions: Vec<Value> = measured.questions.iter().enumerate().map(question).collect();
    let data: Map<_, _> =
        measured.seeds.iter().map(|seed| (format!("seed {}", seed.seed), json!(seed.answers))).collect();
    let stages: Vec<&str> = ASKED.iter().map(|asked| asked.0).collect();
    let data = json!({ "questions": measured.questions, "answers": data });
    json!({ "seed": seed.seed, "questions": questions, "source": figures::source(measured, &stages, &data) })
}

/// A minus that is as long as a plus.
fn signed(text: String) -> String {
    text.replacen('-', "−", 1)
}

/// `1.2 × 10¹³`.
fn scientific(x: f64) -> String {
    let power = x.abs().max(1.0).log10().floor();
    let raised = |c: char| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(c as usize - '0' as usize).unwrap_or(c);
    format!("{:.1} × 10{}", x / 10f64.powf(power), format!("{power:.0}").chars().map(raised).collect::<String>())
}

fn in_unit(x: f64, unit: &str) -> String {
    let unit: FigureUnit = match unit {
        "speed" => FigureUnit::Speed,
        "nats" => FigureUnit::Nats,
        "points" => FigureUnit::Points,
        "reward" => FigureUnit::Reward,
        _ => FigureUnit::Percent,
    };
    signed(match unit {
        FigureUnit::Speed => short_speed(x),
        FigureUnit::Nats => format!("{x:.3}"),
        FigureUnit::Percent => format!("{x:.1}%"),
        FigureUnit::Points => format!("{x:+.1}"),
        FigureUnit::Reward => format!("{x:.2}"),
    })
}

fn short_speed(x: f64) -> String {
    let grouped = gptkit_data::progress::grouped(x.abs().round() as u64);
    if x < 0.0 { format!("-{grouped}") } else { grouped }
}

#[cfg(test)]
mod tests;
