//! The report's figures: a chart each, the commands that made it, and its data.
//!
//! - [`demonstrations`] examples in the context, and size
//! - [`feedback`]       rewards, KL, win rates

mod demonstrations;
mod feedback;

use crate::config::Chapter;
use crate::measured::{Curve, HeadWeights, SeedMeasurements, StoryMeasurements, is_pattern};
use crate::pretty::pretty;
use gptkit_plot::{Axis, HeatMap, HeatMapPanel, LineChart, Look, Series, ShareBar, ShareBars};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportFigure {
    /// Its chapter.
    pub chapter: Chapter,
    /// What it shows, in a line.
    pub title: String,
    /// How it is to be read; may be empty.
    pub caption: String,
    /// The picture: an SVG element.
    pub chart: String,
    /// Where it comes from.
    pub source: FigureSource,
}

/// Where a figure or a table comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FigureSource {
    /// Commands that made it, of the first seed.
    pub commands: Vec<String>,
    /// What it shows, as JSON.
    pub data: String,
}

/// A stage as figures name it: the stage, its name, its style.
type StageCurve = (&'static str, &'static str, usize);

const GPT1: StageCurve = ("gpt1", "GPT-1", 0);
const GPT2: StageCurve = ("gpt2", "GPT-2", 1);
const GPT3: StageCurve = ("gpt3", "GPT-3", 2);
const LSTM: StageCurve = ("lstm", "LSTM", 3);
const BERT: StageCurve = ("bert", "BERT", 4);
const PPO: StageCurve = ("ppo", "PPO", 0);
const NO_PTX: StageCurve = ("ppo-no-ptx", "without text", 3);
/// Style of what is no model.
const CHANCE: usize = 5;

/// What stages that are asked are called, in the order of the generations.
pub const ASKED: [(&str, &str); 6] = [
    ("chat-gpt1", "GPT-1"),
    ("chat-gpt2", "GPT-2"),
    ("chat-gpt3", "GPT-3"),
    ("chat-sft", "SFT"),
    ("chat-ppo", "PPO"),
    ("chat-ppo-2", "PPO, second round"),
];

/// Name and style of the model of an evaluation.
fn model(name: &str) -> (String, usize) {
    let known = [GPT1, GPT2, GPT3].into_iter().find(|known| known.0 == name);
    known.map_or((name.to_owned(), CHANCE), |(_, name, style)| (name.to_owned(), style))
}

/// All figures that there is something for, chapter by chapter.
pub fn all(measured: &StoryMeasurements) -> Vec<ReportFigure> {
    use Chapter::{ChatGpt, Gpt1, Gpt2, InstructGpt, Transformer};
    let from = FigureMaker { measured };
    let mut figures = vec![
        from.losses(Transformer, "Loss of the LSTM and of GPT-1", "nats a token", &[LSTM, GPT1]),
        from.attention(),
        from.losses(Gpt1, "Loss of BERT", "nats a masked token", &[BERT]),
        from.accuracies(),
        from.losses(Gpt2, "Loss of three sizes", "nats a token", &[GPT1, GPT2, GPT3]),
        from.over_shots("Patterns: accuracy by examples", &is_pattern, None),
        from.over_sizes(),
        from.over_shots("Color: accuracy by examples", &|task| task == "world-patterns:color", Some("color-predicted")),
        from.over_shots(
            "First word: accuracy by examples",
            &|task| task == "world-patterns:first-word",
            Some("first-word-predicted"),
        ),
        from.over_shots("Endings: accuracy by examples", &|task| task == "world-endings", Some("endings-gpt1")),
        from.losses(InstructGpt, "Loss of learning from demonstrations", "nats a token", &[("sft", "SFT", 0)]),
        from.losses(InstructGpt, "Loss of the reward model", "nats a pair", &[("rm", "reward model", 0)]),
        from.reward_by_kl(InstructGpt, "Reward against KL", &[PPO, NO_PTX]),
        from.gold_and_proxy(),
        from.text_loss(),
        from.wins(
            InstructGpt,
            "Win rates of the first round",
            &[
                ("wins-sft", "sft", "SFT over base"),
                ("wins-ppo", "ppo", "PPO over SFT"),
                ("wins-ppo", "ppo-no-ptx", "PPO without text over SFT"),
                ("wins-size", "ppo", "small PPO over larger base"),
            ],
        ),
        from.losses(ChatGpt, "Loss of the second reward model", "nats a pair", &[("rm-2", "reward model", 0)]),
        from.reward_by_kl(ChatGpt, "Reward against KL in the second round", &[("ppo-2", "PPO", 0)]),
        from.wins(ChatGpt, "Win rate of the second round", &[("wins-round-2", "ppo-2", "second round over first")]),
    ];
    figures.sort_by_key(|figure| figure.as_ref().map(|figure| figure.chapter));
    figures.into_iter().flatten().collect()
}

/// Commands of `stages` in the first seed that ended them, and `data`.
pub fn source(measured: &StoryMeasurements, stages: &[&str], data: &Value) -> FigureSource {
    let command = |name: &&str| {
        measured
            .seeds
            .iter()
            .flat_map(|seed| &seed.stages)
            .find(|stage| stage.name == **name)
            .map(|s| s.command.clone())
    };
    FigureSource { commands: stages.iter().filter_map(command).collect(), data: pretty(&rounded(data)) }
}

/// Five digits of every number that is not whole: what a chart shows, in a page of bearable size.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(x) if x.is_f64() => {
            let x = x.as_f64().unwrap_or(f64::NAN);
            let shown = format!("{x:.4e}").parse().unwrap_or(x);
            if shown == f64::trunc(shown) && f64::abs(shown) < 1e15 { json!(shown as i64) } else { json!(shown) }
        }
        Value::Array(all) => all.iter().map(rounded).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), rounded(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// The mean of curves of the same places; of others, the first.
fn mean(curves: &[&Curve]) -> Curve {
    let Some(first) = curves.first() else { return Curve::new() };
    let places = |curve: &Curve| curve.iter().map(|point| point.0).collect::<Vec<f64>>();
    if curves.iter().any(|curve| places(curve) != places(first)) {
        return (*first).clone();
    }
    let value = |i: usize| curves.iter().map(|curve| curve[i].1).sum::<f64>() / curves.len() as f64;
    first.iter().enumerate().map(|(i, point)| (point.0, value(i))).collect()
}

struct FigureMaker<'a> {
    measured: &'a StoryMeasurements,
}

impl FigureMaker<'_> {
    /// What `of` finds in each seed, by its number.
    fn by_seed(&self, of: impl Fn(&SeedMeasurements) -> Option<Value>) -> Value {
        let seeds = self.measured.seeds.iter().filter_map(|seed| Some((format!("seed {}", seed.seed), of(seed)?)));
        seeds.collect::<Map<_, _>>().into()
    }

    /// `Mean of 3 seeds.`, if it is one of `n`.
    fn mean_of(n: usize) -> String {
        if n > 1 { format!(" Mean of {n} seeds.") } else { String::new() }
    }

    fn losses(&self, chapter: Chapter, title: &str, unit: &str, stages: &[StageCurve]) -> Option<ReportFigure> {
        let mut series = Vec::new();
        let mut n = 0;
        for &(stage, name, style) in stages {
            let runs: Vec<_> = self.measured.seeds.iter().filter_map(|seed| seed.runs.get(stage)).collect();
            n = n.max(runs.len());
            let of = |look, curves: Vec<&Curve>| Series {
                name: name.to_owned(),
                style,
                look,
                points: mean(&curves),
                ..Series::default()
            };
            series.push(of(Look::Faint, runs.iter().map(|run| &run.training).collect()));
            series.push(of(Look::Line, runs.iter().map(|run| &run.validation).collect()));
        }
        let names: Vec<&str> = stages.iter().map(|stage| stage.0).collect();
        let chart = LineChart {
            label: format!("{title}, {unit}, over tokens"),
            x: Axis::linear("tokens"),
            y: Axis::linear(unit),
            series,
            ..LineChart::default()
        };
        let data = self.by_seed(|seed| {
            let run = |name: &&str| {
                let run = seed.runs.get(*name)?;
                Some(((*name).to_owned(), json!({ "training": run.training, "validation": run.validation })))
            };
            let runs: Map<_, _> = names.iter().filter_map(run).collect();
            (!runs.is_empty()).then(|| runs.into())
        });
        Some(ReportFigure {
            chapter,
            title: title.to_owned(),
            caption: format!("Thin: training, smoothed. Thick: text that was held out.{}", Self::mean_of(n)),
            chart: chart.markup()?,
            source: source(self.measured, &names, &data),
        })
    }

    fn attention(&self) -> Option<ReportFigure> {
        let attention = self.measured.seeds.iter().find_map(|seed| seed.attention.as_ref())?;
        let text = attention.tokens.concat();
        let panel =
            |head: &HeadWeights| HeatMapPanel { layer: head.layer, head: head.head, weights: head.weights.clone() };
        let map = HeatMap {
            label: format!("Attention weights by layer and head for the text {text}"),
            tokens: attention.tokens.clone(),
            panels: attention.heads.iter().map(panel).collect(),
        };
        Some(ReportFigure {
            chapter: Chapter::Transformer,
            title: format!("What each token of “{}” attends to", text.trim()),
            caption: "A panel for each layer and head, counted from 0. Each row is a token that looks at itself and those before it, the darker the more."
                .to_owned(),
            chart: map.markup()?,
            source: source(self.measured, &["attention"], &json!(attention)),
        })
    }

    fn accuracies(&self) -> Option<ReportFigure> {
        const STAGES: [(&str, &str, usize); 4] = [
            ("endings-gpt1", "endings, GPT-1", 0),
            ("endings-bert", "endings, BERT", 4),
            ("color-predicted", "color, GPT-1", 0),
            ("first-word-predicted", "first word, GPT-1", 0),
        ];
        let bar = |(stage, name, style): (&str, &str, usize)| {
            let seed = |seed: &SeedMeasurements| {
                let one = seed.accuracies.get(stage)?;
                let (value, error) = (100.0 * one.value, 196.0 * one.standard_error());
                Some((value, value - error, value + error))
            };
            ShareBar { name: name.to_owned(), style, seeds: self.measured.seeds.iter().filter_map(seed).collect() }
        };
        let label = "Accuracy of fine-tuned models on texts that were held out".to_owned();
        let chart = ShareBars { label, bars: STAGES.map(bar).to_vec(), half: false }.markup()?;
        Some(ReportFigure {
            chapter: Chapter::Gpt1,
            title: "Accuracy after fine-tuning".to_owned(),
            caption: "Lines in the bars: 95% intervals, one for each seed.".to_owned(),
            chart,
            source: source(
                self.measured,
                &[
                    "endings-gpt1",
                    "endings-bert",
                    "color-gpt1",
                    "color-predicted",
                    "first-word-gpt1",
                    "first-word-predicted",
                ],
                &self.by_seed(|seed| Some(json!(seed.accuracies)).filter(|_| !seed.accuracies.is_empty())),
            ),
        })
    }
}

/// The mean of what there is; nothing where there is nothing.
fn average(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.flatten().collect();
    (!values.is_empty()).then(|| gptkit_stats::mean(&values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_the_same_places_are_averaged() {
        let (a, b) = (vec![(1.0, 2.0), (2.0, 4.0)], vec![(1.0, 4.0), (2.0, 8.0)]);
        assert_eq!(mean(&[&a, &b]), [(1.0, 3.0), (2.0, 6.0)]);
        assert_eq!(mean(&[&a, &vec![(1.0, 4.0), (3.0, 8.0)]]), a);
        assert!(mean(&[]).is_empty());
    }

    #[test]
    fn numbers_keep_five_digits() {
        assert_eq!(rounded(&json!([1.234_567_8, 1_843_200.0, 0.1, 7, null])), json!([1.2346, 1_843_200, 0.1, 7, null]));
    }
}
