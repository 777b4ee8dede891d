//! The report's figures: a chart each, what to see in it, the commands that made it, and its data.
//!
//! - [`attention`]      heads that do something
//! - [`demonstrations`] examples in the context, and size
//! - [`feedback`]       rewards, KL, win rates

mod attention;
mod demonstrations;
mod feedback;

use crate::config::Chapter;
use crate::measured::{Curve, SeedMeasurements, StoryMeasurements, is_pattern};
use crate::pretty::pretty;
use crate::summary::{self, BERT, GPT1, GPT2, GPT3, INSTRUCTED_GPT1, INSTRUCTED_LSTM, LSTM, StoryModel, TRANSFORMER};
use gptkit_plot::{Axis, LineChart, Look, Scale, Series, ShareBar, ShareBars};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportFigure {
    /// Its chapter.
    pub chapter: Chapter,
    /// What it shows, in a line.
    pub title: String,
    /// What to see, and how to read it.
    pub caption: String,
    /// Notes on its parts, one each; may be empty.
    pub notes: Vec<String>,
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

/// Style of what is no model.
const NEUTRAL: usize = 5;

/// The models that answer the questions, by stage, in the order of the generations.
pub const ASKED: [(&str, StoryModel); 9] = [
    ("chat-lstm", LSTM),
    ("chat-gpt1", GPT1),
    ("chat-sft-lstm", INSTRUCTED_LSTM),
    ("chat-sft-gpt1", INSTRUCTED_GPT1),
    ("chat-gpt2", GPT2),
    ("chat-gpt3", GPT3),
    ("chat-sft", summary::SFT),
    ("chat-ppo", summary::PPO),
    ("chat-ppo-2", summary::PPO2),
];

/// Name and style of the model of an evaluation.
fn model(name: &str) -> (String, usize) {
    let known = summary::ROWS.into_iter().find(|known| known.stage == name);
    known.map_or((name.to_owned(), NEUTRAL), |known| (known.name.to_owned(), known.style))
}

/// Points that a curve has in the data below a chart.
const POINTS: usize = 40;

/// All figures that there is something to see in, chapter by chapter.
pub fn all(measured: &StoryMeasurements) -> Vec<ReportFigure> {
    use Chapter::{Bert, Gpt2, Rnn, Transformer};
    let from = FigureMaker { measured };
    let mut figures = vec![
        from.losses(Rnn, "The LSTM learns to predict the next token", "nats per token", &[LSTM]),
        from.losses(
            Transformer,
            "An LSTM and a Transformer trained on the same text",
            "nats per token",
            &[LSTM, TRANSFORMER],
        ),
        from.positions(),
        from.attention(),
        from.instructed(),
        from.fine_tuned(),
        from.losses(Bert, "BERT learns to fill in masked tokens", "nats per masked token", &[BERT]),
        from.both_sides(),
        from.losses(Gpt2, "Three sizes of the same architecture", "nats per token", &[GPT1, GPT2, GPT3]),
        from.zero_shot(),
        from.over_shots("All patterns: right answers by number of few-shot examples", &is_pattern, None),
        from.over_shots(
            "Name the color: right answers by number of few-shot examples",
            &|task| task == "world-patterns:color",
            Some("color"),
        ),
        from.over_shots(
            "Name the first word: right answers by number of few-shot examples",
            &|task| task == "world-patterns:first-word",
            Some("first-word"),
        ),
    ];
    figures.extend(from.feedback());
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

/// Four digits of every number that is not whole: what a chart shows, in a page of bearable size.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(x) if x.is_f64() => {
            let x = x.as_f64().unwrap_or(f64::NAN);
            let shown = format!("{x:.3e}").parse().unwrap_or(x);
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

/// Every so many points of a long curve, with the first and the last.
fn thinned(curve: &Curve) -> Curve {
    let every = curve.len().div_ceil(POINTS).max(1);
    let last = curve.len().saturating_sub(1);
    curve.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, point)| *point).collect()
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

    /// ` Mean of 3 seeds.`, if it is one of `n`.
    fn mean_of(n: usize) -> String {
        if n > 1 { format!(" Mean of {n} seeds.") } else { String::new() }
    }

    /// Stages whose names begin with `name`, in the first seed that has any.
    fn stages_named(&self, name: &str) -> Vec<&str> {
        let of = |seed: &'_ SeedMeasurements| seed.stages.iter().any(|stage| stage.name.starts_with(name));
        let seed = self.measured.seeds.iter().find(|seed| of(seed));
        let stages = seed.into_iter().flat_map(|seed| &seed.stages);
        stages.map(|stage| stage.name.as_str()).filter(|stage| stage.starts_with(name)).collect()
    }

    /// The mean over seeds of what `of` finds.
    fn average(&self, of: impl Fn(&SeedMeasurements) -> Option<f64>) -> Option<f64> {
        average(self.measured.seeds.iter().map(of))
    }

    fn losses(&self, chapter: Chapter, title: &str, unit: &str, models: &[StoryModel]) -> Option<ReportFigure> {
        let mut series = Vec::new();
        let mut n = 0;
        let mut ends: Vec<(&str, f64, f64)> = Vec::new();
        for &StoryModel { stage, name, style, .. } in models {
            let runs: Vec<_> = self.measured.seeds.iter().filter_map(|seed| seed.runs.get(stage)).collect();
            n = n.max(runs.len());
            let of = |look, points: Curve| Series { name: name.to_owned(), style, look, points, ..Series::default() };
            let training = mean(&runs.iter().map(|run| &run.training).collect::<Vec<_>>());
            let validation = mean(&runs.iter().map(|run| &run.validation).collect::<Vec<_>>());
            let best = average(runs.iter().map(|run| run.best_validation));
            ends.extend(training.first().zip(best).map(|(first, best)| (name, first.1, best)));
            series.push(of(Look::Faint, training));
            series.push(of(Look::Line, validation));
        }
        if series.iter().all(|series| series.points.len() < 3) {
            return None;
        }
        let stages: Vec<&str> = models.iter().map(|model| model.stage).collect();
        let chart = LineChart {
            label: format!("{title}: loss in {unit} over tokens read"),
            x: Axis::linear("tokens read"),
            y: Axis { scale: Scale::Log, ..Axis::linear(format!("loss, {unit}")) },
            series,
            ..LineChart::default()
        };
        let data = self.by_seed(|seed| {
            let run = |stage: &&str| {
                let run = seed.runs.get(*stage)?;
                let data = json!({ "training": thinned(&run.training), "validation": thinned(&run.validation) });
                Some(((*stage).to_owned(), data))
            };
            let runs: Map<_, _> = stages.iter().filter_map(run).collect();
            (!runs.is_empty()).then(|| runs.into())
        });
        Some(ReportFigure {
            chapter,
            title: title.to_owned(),
            caption: format!(
                "{} Thin lines show the training loss, starting before the first update; thick lines show the loss on \
                 held-out text. The vertical axis is logarithmic, to show differences near the end.{}",
                what_losses_say(&ends),
                Self::mean_of(n)
            ),
            notes: Vec::new(),
            chart: chart.markup()?,
            source: source(self.measured, &stages, &data),
        })
    }

    /// Loss by position in the context.
    fn positions(&self) -> Option<ReportFigure> {
        let of = |seed: &'_ SeedMeasurements, model: &StoryModel| seed.positions.contains_key(model.stage);
        let curve = |model: &StoryModel| {
            let seeds = self.measured.seeds.iter().filter(|seed| of(seed, model));
            mean(&seeds.filter_map(|seed| seed.positions.get(model.stage)).collect::<Vec<_>>())
        };
        let models: Vec<(StoryModel, Curve)> = [LSTM, TRANSFORMER].iter().map(|model| (*model, curve(model))).collect();
        if models.iter().any(|(_, curve)| curve.len() < 3) {
            return None;
        }
        let gap = |at: fn(&Curve) -> Option<&(f64, f64)>| Some(at(&models[0].1)?.1 - at(&models[1].1)?.1);
        let (early, late) = (gap(|curve| curve.first())?, gap(|curve| curve.last())?);
        let lead = |gap: f64| {
            let ahead = if gap > 0.0 { "the Transformer" } else { "the LSTM" };
            format!("{ahead} is ahead by {:.3} nats", gap.abs())
        };
        let says = format!(
            "At the start of the context {}; at the end {}. If a model uses distant words, its loss is lower late in \
             the context than early.",
            lead(early),
            lead(late)
        );
        let series = models.iter().map(|(model, points)| Series {
            name: model.name.to_owned(),
            style: model.style,
            look: Look::Dots,
            points: points.iter().map(|&(position, loss)| (position + 1.0, loss)).collect(),
            ..Series::default()
        });
        let chart = LineChart {
            label: "Loss on held-out text by position in the context, for the LSTM and for the Transformer".to_owned(),
            x: Axis { scale: Scale::Log, ..Axis::linear("position of the token in the context") },
            y: Axis::linear("loss, nats per token"),
            series: series.collect(),
            ..LineChart::default()
        };
        let n = self.measured.seeds.iter().filter(|seed| of(seed, &TRANSFORMER)).count();
        Some(ReportFigure {
            chapter: Chapter::Transformer,
            title: "Which model uses distant words?".to_owned(),
            caption: says + &Self::mean_of(n),
            notes: Vec::new(),
            chart: chart.markup()?,
            source: source(
                self.measured,
                &self.stages_named("position"),
                &self.by_seed(|seed| Some(json!(seed.positions)).filter(|_| !seed.positions.is_empty())),
            ),
        })
    }

    /// Value, low and high in percent of the accuracy of `stage`, by seed.
    fn accuracies(&self, stage: &str) -> Vec<(f64, f64, f64)> {
        let seed = |seed: &SeedMeasurements| {
            let one = seed.accuracies.get(stage)?;
            let (value, error) = (100.0 * one.value, 196.0 * one.standard_error());
            Some((value, value - error, value + error))
        };
        self.measured.seeds.iter().filter_map(seed).collect()
    }

    /// Instructions that the LSTM and GPT-1 follow after the same demonstrations.
    fn instructed(&self) -> Option<ReportFigure> {
        let models = [INSTRUCTED_LSTM, INSTRUCTED_GPT1];
        let share = |model: StoryModel| {
            let seed = |seed: &SeedMeasurements| {
                let followed = seed.grades.get(model.stage)?.followed;
                Some((100.0 * followed.value, 100.0 * followed.low, 100.0 * followed.high))
            };
            self.measured.seeds.iter().filter_map(seed).collect::<Vec<_>>()
        };
        let bars =
            models.map(|model| ShareBar { name: model.name.to_owned(), style: model.style, seeds: share(model) });
        if bars.iter().any(|bar| bar.seeds.is_empty()) {
            return None;
        }
        let [lstm, gpt1] =
            bars.each_ref().map(|bar| gptkit_stats::mean(&bar.seeds.iter().map(|seed| seed.0).collect::<Vec<_>>()));
        let why = match gpt1 > lstm {
            true => " To answer, a model has to retrieve words from the instruction, which attention makes possible.",
            false => "",
        };
        let data = self.by_seed(|seed| {
            let of = |model: StoryModel| Some((model.stage.to_owned(), json!(seed.grades.get(model.stage)?.followed)));
            let found: Map<_, _> = models.into_iter().filter_map(of).collect();
            (!found.is_empty()).then(|| found.into())
        });
        Some(ReportFigure {
            chapter: Chapter::Gpt1,
            title: "The LSTM and GPT-1 fine-tuned on the same demonstrations".to_owned(),
            caption: format!(
                "After training on the same demonstrations, the LSTM follows {lstm:.1}% of held-out instructions and \
                 GPT-1 {gpt1:.1}%.{why} The line in each bar is the 95% interval of a seed."
            ),
            notes: Vec::new(),
            chart: ShareBars {
                label: "Held-out instructions followed by the LSTM and by GPT-1 after the same demonstrations"
                    .to_owned(),
                bars: bars.to_vec(),
                half: false,
            }
            .markup()?,
            source: source(self.measured, &["sft-lstm", "sft-gpt1", "instructed"], &data),
        })
    }

    /// A bar for each stage of `tasks` and `models` that was measured, and the stages.
    fn tuned_bars(&self, tasks: &[(&str, &str)], models: &[StoryModel], between: &str) -> (Vec<ShareBar>, Vec<String>) {
        let mut stages = Vec::new();
        let mut bars = Vec::new();
        for (task, what) in tasks {
            for model in models {
                let stage = format!("{task}{between}-{}", model.stage);
                let seeds = self.accuracies(&stage);
                if !seeds.is_empty() {
                    bars.push(ShareBar { name: format!("{what}: {}", model.name), style: model.style, seeds });
                    stages.push(stage);
                }
            }
        }
        (bars, stages)
    }

    /// The fine-tuned GPT-1 on each task.
    fn fine_tuned(&self) -> Option<ReportFigure> {
        let tasks = [
            ("color", "name the color"),
            ("first-word", "name the first word"),
            ("middle-word", "name the middle word"),
        ];
        let (bars, stages) = self.tuned_bars(&tasks, &[GPT1], "");
        let names: Vec<&str> = stages.iter().map(String::as_str).collect();
        let label = "Accuracy of GPT-1 on held-out records after fine-tuning".to_owned();
        Some(ReportFigure {
            chapter: Chapter::Gpt1,
            title: "One pretrained model, several tasks".to_owned(),
            caption:
                "Right answers on held-out records; the model is fine-tuned separately for each task. The line in each \
                 bar is the 95% interval of a seed."
                    .to_owned(),
            notes: Vec::new(),
            chart: ShareBars { label, bars, half: false }.markup()?,
            source: source(self.measured, &names, &self.accuracy_data(&names)),
        })
    }

    /// All three networks after a third of those updates.
    fn both_sides(&self) -> Option<ReportFigure> {
        let tasks = [("first-word", "first word"), ("middle-word", "middle word")];
        let (bars, stages) = self.tuned_bars(&tasks, &[LSTM, GPT1, BERT], "-early");
        let mean = |model: StoryModel| {
            let of = |(task, _): &(&str, &str)| {
                let stage = format!("{task}-early-{}", model.stage);
                self.average(|seed| Some(100.0 * seed.accuracies.get(&stage)?.value))
            };
            Some(gptkit_stats::mean(&tasks.iter().map(of).collect::<Option<Vec<f64>>>()?))
        };
        let (gpt1, bert) = (mean(GPT1)?, mean(BERT)?);
        let says = match bert > gpt1 {
            true => format!("BERT is ahead of GPT-1: {bert:.1}% against {gpt1:.1}% right answers on average."),
            false => format!("BERT is not ahead here: GPT-1 is {:.1} percentage points better.", gpt1 - bert),
        };
        let names: Vec<&str> = stages.iter().map(String::as_str).collect();
        let label = "Accuracy of the LSTM, GPT-1 and BERT after the same few updates".to_owned();
        Some(ReportFigure {
            chapter: Chapter::Bert,
            title: "Unidirectional and bidirectional models with few updates".to_owned(),
            caption: format!(
                "{says} All models were fine-tuned on the same records, with a third of the updates of GPT-1 above. \
                 The line in each bar is the 95% interval of a seed."
            ),
            notes: Vec::new(),
            chart: ShareBars { label, bars, half: false }.markup()?,
            source: source(self.measured, &names, &self.accuracy_data(&names)),
        })
    }

    fn accuracy_data(&self, stages: &[&str]) -> Value {
        self.by_seed(|seed| {
            let of = |stage: &&str| Some(((*stage).to_owned(), json!(seed.accuracies.get(*stage)?)));
            let found: Map<_, _> = stages.iter().filter_map(of).collect();
            (!found.is_empty()).then(|| found.into())
        })
    }
}

/// What models' losses begin and end with.
fn what_losses_say(ends: &[(&str, f64, f64)]) -> String {
    let one = |(name, first, best): &(&str, f64, f64)| format!("{name} from {first:.2} to {best:.3}");
    let lowest = ends.iter().min_by(|a, b| a.2.total_cmp(&b.2));
    let all = ends.iter().map(one).collect::<Vec<_>>().join(", ");
    let does = if ends.iter().all(|(_, first, best)| best < first) { "falls" } else { "does not always fall" };
    match (ends.len(), lowest) {
        (0, _) | (_, None) => String::new(),
        (1, _) => format!("The loss {does}: {all} nats. The lower it is, the less the text surprises the model."),
        (_, Some(lowest)) => format!("The loss {does}: {all} nats. The lowest is {}.", lowest.0),
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
    fn a_long_curve_keeps_its_ends() {
        let curve: Curve = (0..101).map(|i| (f64::from(i), 0.0)).collect();
        let thin = thinned(&curve);
        assert!(thin.len() <= POINTS + 1 && thin[0].0 == 0.0 && thin.last().unwrap().0 == 100.0, "{}", thin.len());
        assert_eq!(thinned(&curve[..3].to_vec()), curve[..3]);
    }

    #[test]
    fn numbers_keep_four_digits() {
        assert_eq!(rounded(&json!([1.234_567_8, 1_843_200.0, 0.1, 7, null])), json!([1.235, 1_843_000, 0.1, 7, null]));
    }

    #[test]
    fn the_caption_names_the_model_with_the_lowest_loss() {
        let says = what_losses_say(&[("A", 6.9, 1.2), ("B", 6.8, 1.1)]);
        assert_eq!(says, "The loss falls: A from 6.90 to 1.200, B from 6.80 to 1.100 nats. The lowest is B.");
        assert!(what_losses_say(&[("A", 6.9, 1.2), ("B", 6.8, 1.3)]).ends_with("The lowest is A."));
    }
}
