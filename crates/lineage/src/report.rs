//! The report: one HTML page without external resources, and the same data as JSON and CSV.
//!
//! [`table`] makes the table of stages and figures, and the CSV.

use crate::config::{Chapter, LineageConfig, Questions};
use crate::excerpt_data::Excerpts;
use crate::figures::{self, ASKED, FigureSource};
use crate::measured::{
    FeedbackMeasurements, InContextScores, SeedMeasurements, StoryMeasurements, TracedFeedback, TrainingMeasurements,
    is_pattern,
};
use crate::reading;
use crate::rules;
use crate::shape::{self, FigureUnit};
use crate::summary;
use crate::together::took;
use anyhow::{Context, Result};
use gptkit_data::disk;
use gptkit_data::format::{duration, measured_bytes};
use gptkit_plot::FIXED_STYLE;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What [`write()`] wrote.
#[derive(Debug)]
pub struct WrittenReport {
    /// The page.
    pub page: PathBuf,
    /// The verdicts on the papers' claims.
    pub shapes: Vec<shape::PaperShape>,
    /// The questions that the first seed's models answered right, by the stage that asked.
    pub answered: BTreeMap<String, Vec<String>>,
}

/// Writes `report.html`, `report.json` and `report.csv` into `out`, from what the stages of `config` have left there for
/// `seeds`; `own` names data of the user's own and its files.
///
/// # Errors
/// When something that a finished stage left cannot be read, or a file cannot be written.
pub fn write(config: &LineageConfig, out: &Path, seeds: &[u64], own: &[(&str, String)]) -> Result<WrittenReport> {
    let measured = reading::read(config, out, seeds, own)?;
    let shapes = rules::all(&measured);
    let all = json!({ "shapes": shapes, "measured": measured });
    disk::write(&out.join("report.json"), (serde_json::to_string(&all)? + "\n").as_bytes())?;
    disk::write(&out.join("report.csv"), &table::csv(&measured, &shapes)?)?;
    let page = out.join("report.html");
    disk::write(&page, render(&measured)?.as_bytes())?;
    Ok(WrittenReport { page, shapes, answered: answered(&measured) })
}

/// The questions that each stage of the first seed answered right.
fn answered(measured: &StoryMeasurements) -> BTreeMap<String, Vec<String>> {
    let right = |answers: &[String]| {
        let known = measured.questions.iter().zip(&measured.right).zip(answers);
        let right = known.filter(|((_, words), answer)| Questions::is_right(words, answer));
        right.map(|((question, _), _)| question.clone()).collect()
    };
    let stages = measured.seeds.first().into_iter().flat_map(|seed| &seed.answers);
    stages.map(|(stage, answers)| (stage.clone(), right(answers))).collect()
}

/// Chapters in their order: what they are called, and the year of their idea.
const CHAPTERS: [(Chapter, &str, &str); 8] = [
    (Chapter::Rnn, "Recurrent networks", "before 2017"),
    (Chapter::Transformer, "Transformer", "2017"),
    (Chapter::Gpt1, "GPT-1", "2018"),
    (Chapter::Bert, "BERT", "2018"),
    (Chapter::Gpt2, "GPT-2", "2019"),
    (Chapter::Gpt3, "GPT-3", "2020"),
    (Chapter::InstructGpt, "InstructGPT", "2022"),
    (Chapter::ChatGpt, "ChatGPT", "2022"),
];

/// Addresses of the papers that claims name.
const PAPERS: [(&str, &str); 12] = [
    ("Hochreiter and Schmidhuber 1997", "https://doi.org/10.1162/neco.1997.9.8.1735"),
    ("Vaswani et al. 2017", "https://arxiv.org/abs/1706.03762"),
    (
        "Radford et al. 2018",
        "https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf",
    ),
    ("Devlin et al. 2019", "https://arxiv.org/abs/1810.04805"),
    (
        "Radford et al. 2019",
        "https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
    ),
    ("Brown et al. 2020", "https://arxiv.org/abs/2005.14165"),
    ("Kaplan et al. 2020", "https://arxiv.org/abs/2001.08361"),
    ("Ouyang et al. 2022", "https://arxiv.org/abs/2203.02155"),
    ("Bai et al. 2022", "https://arxiv.org/abs/2204.05862"),
    ("Gao et al. 2022", "https://arxiv.org/abs/2210.10760"),
    ("Gao et al. 2023", "https://arxiv.org/abs/2210.10760"),
    ("OpenAI 2022", "https://openai.com/index/chatgpt/"),
];

/// The papers of `source`, each with its address where it is known, and the section.
fn papers(source: &str) -> Value {
    let paper = |one: &str| {
        let known = PAPERS.iter().find(|(name, _)| one.starts_with(name));
        let (name, section) = known.map_or((one, ""), |(name, _)| one.split_at(name.len()));
        json!({ "name": name, "section": section, "url": known.map(|(_, url)| url) })
    };
    source.split("; ").map(paper).collect()
}

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
        ("diagrams.html", include_str!("diagrams.html")),
        ("examples.html", include_str!("examples.html")),
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
    environment.add_filter("exp", f64::exp);
    environment.add_filter("words", |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let page = environment.get_template("report.html")?.render(context! {
        style => minijinja::Value::from_safe_string([include_str!("report.css"), gptkit_plot::STYLE_SHEET].concat()),
        m => minijinja::Value::from(Serde(measured)),
        f => minijinja::Value::from(Serde(facts(measured))),
        x => minijinja::Value::from(Serde(examples(measured))),
        chapters => minijinja::Value::from(Serde(chapters(measured))),
        costs => minijinja::Value::from(Serde(costs(measured))),
        answers => minijinja::Value::from(Serde(answers(measured))),
        summary => minijinja::Value::from(Serde(table::summary(measured))),
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
            value["papers"] = papers(&shape.source);
            for (comparison, value) in
                shape.comparisons.iter().zip(value["comparisons"].as_array_mut().into_iter().flatten())
            {
                value["winner"] = json!(winner(comparison));
            }
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

/// Which side of a comparison is better, regardless of the expectation: the lower one for losses, the higher one for a
/// gain, which is the difference of two losses. Nothing if the two are equal.
fn winner(comparison: &shape::FigureComparison) -> Option<&'static str> {
    let is_gain = comparison.what.contains(" minus that ");
    let lower_is_better = matches!(comparison.unit, FigureUnit::Nats | FigureUnit::Perplexity) && !is_gain;
    match comparison.mean.partial_cmp(&0.0)? {
        _ if comparison.pairs.is_empty() => None,
        std::cmp::Ordering::Equal => None,
        order => Some(if (order == std::cmp::Ordering::Greater) != lower_is_better { "more" } else { "less" }),
    }
}

/// Pieces of real data: of each kind that of the first seed that has it.
fn examples(measured: &StoryMeasurements) -> Value {
    let mut all = json!(Excerpts::default());
    for seed in measured.seeds.iter().rev() {
        let Value::Object(found) = json!(seed.excerpts) else { continue };
        let has = |value: &Value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty());
        found.into_iter().filter(|(_, value)| has(value)).for_each(|(name, value)| all[name] = value);
    }
    all["compared"] = compared(measured);
    all
}

/// A pair of answers for each chapter that has comparisons, with the rewards of every model that has scored it.
fn compared(measured: &StoryMeasurements) -> Value {
    let mut chapters: Map<String, Value> = Map::new();
    for seed in &measured.seeds {
        for (name, pair) in &seed.excerpts.compared {
            let Some(stage) = seed.stages.iter().find(|stage| stage.name == *name) else { continue };
            let Value::String(chapter) = json!(stage.chapter) else { continue };
            let shown = chapters.entry(chapter).or_insert_with(|| json!({ "pair": pair, "rewards": [] }));
            let Some(rewards) = pair.rewards else { continue };
            // A pair that no model has scored gives way to one that has rewards.
            let same = ["prompt", "chosen", "rejected"].iter().all(|key| shown["pair"][key] == json!(pair)[key]);
            if !same && shown["rewards"] == json!([]) {
                *shown = json!({ "pair": pair, "rewards": [] });
            } else if !same {
                continue;
            }
            let model = if name.ends_with("-2") { "2nd reward model" } else { "Reward model" };
            if let Some(all) = shown["rewards"].as_array_mut().filter(|all| all.iter().all(|one| one["model"] != model))
            {
                all.push(json!({ "model": model, "values": rewards, "agrees": rewards.0 > rewards.1 }));
            }
        }
    }
    chapters.into()
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
    let perplexity = |stage: &str| mean(measured, |seed| seed.perplexities.get(stage).copied());
    let reward = |stage: &str| mean(measured, |seed| Some(100.0 * seed.reward_models.get(stage)?.accuracy.value));
    let graded = |key: &str| {
        let value =
            |model: &summary::StoryModel| Some((model.stage.to_owned(), json!(summary::mean(measured, *model, key)?)));
        summary::ROWS.iter().filter_map(value).collect::<Map<_, _>>()
    };
    let stages = || measured.seeds.iter().flat_map(|seed| &seed.stages);
    let judges = measured.seeds.iter().flat_map(|seed| seed.wins.values()).map(|wins| wins.judge.as_str());
    let together = took(stages());
    json!({
        "base": measured.seeds.iter().find_map(summary::base).map(|model| model.name),
        "before_ppo": mean(measured, |seed| seed.excerpts.text_loss_before.get("ppo").copied()),
        "cpu_speed": json!({
            "lstm": mean(measured, |seed| Some(seed.speeds.get("speed")?.get("lstm")?.tokens_per_cpu_s)),
            "transformer": mean(measured, |seed| Some(seed.speeds.get("speed")?.get("transformer")?.tokens_per_cpu_s)),
        }),
        "verdicts": rules::all(measured).iter().map(|shape| (shape.name.clone(), json!(shape.verdict))).collect::<Map<_, _>>(),
        "right": graded("right"),
        "sampled": graded("sampled"),
        "courteous": graded("courteous"),
        "elapsed_s": together.elapsed_s,
        "peak_bytes": together.peak_bytes,
        "n_stages": stages().count(),
        "loss": runs(|run| run.best_validation),
        "params": runs(|run| run.n_params.map(|n| n as f64)),
        "tokens": runs(|run| Some(run.tokens as f64)),
        "text_loss": runs(|run| run.text_loss.last().map(|point| point.1)),
        "tuned": { "color": accuracy("color-gpt1"), "first": accuracy("first-word-gpt1"), "middle": accuracy("middle-word-gpt1") },
        "early": {
            "gpt1": [accuracy("first-word-early-gpt1"), accuracy("middle-word-early-gpt1")],
            "bert": [accuracy("first-word-early-bert"), accuracy("middle-word-early-bert")],
        },
        "perplexity": {
            "gpt1": perplexity("gpt1"),
            "gpt2": perplexity("gpt2"),
            "gpt3": perplexity("gpt3"),
        },
        "shots": measured.seeds.iter().find_map(|seed| seed.in_context.as_ref().and_then(most)),
        "few": { "largest": pattern(InContextScores::largest, true), "smallest": pattern(InContextScores::smallest, true) },
        "zero": { "largest": pattern(InContextScores::largest, false), "smallest": pattern(InContextScores::smallest, false) },
        "reward": { "rm": reward("rm"), "rm_2": reward("rm-2") },
        "wins": {
            "sft": wins("wins-sft", "sft"),
            "ppo": wins("wins-ppo", "ppo"),
            "no_ptx": wins("wins-ppo", "ppo-no-ptx"),
            "size": wins("wins-size", "ppo"),
            "round_2": wins("wins-round-2", "ppo-2"),
        },
        "feedback": feedback(measured),
        // Neither the hidden scorer nor the labelers of the embedded world.
        "judged_by_model": judges.clone().any(|judge| judge != "gold" && !judge.starts_with("labeler")),
        "judged": judges.count() > 0,
    })
}

/// What people did at the server, and what came of it; null where it was not run.
fn feedback(measured: &StoryMeasurements) -> Value {
    let of = |value: fn(&FeedbackMeasurements) -> Option<f64>| mean(measured, |seed| value(seed.feedback.as_ref()?));
    let traced = |value: fn(&TracedFeedback) -> u64| mean(measured, |seed| Some(value(seed.traced.as_ref()?) as f64));
    let Some(people) = of(|all| Some(all.people as f64)) else { return Value::Null };
    json!({
        "people": people,
        "answers": of(|all| Some(all.answers as f64)),
        "rankings": of(|all| Some(all.rankings as f64)),
        "skipped": of(|all| Some(all.skipped as f64)),
        "corrections": of(|all| Some(all.corrections as f64)),
        "agreement": of(|all| Some(100.0 * all.agreement?.value)),
        "traced": traced(|traced| traced.records),
        "traced_people": traced(|traced| traced.people),
    })
}

/// Chapters with a row a stage, in the order of the first seed that ended it: means over seeds.
fn costs(measured: &StoryMeasurements) -> Value {
    let mut names: Vec<(Chapter, &str)> = Vec::new();
    for stage in measured.seeds.iter().flat_map(|seed| &seed.stages) {
        if !names.iter().any(|(_, name)| *name == stage.name) {
            names.push((stage.chapter, &stage.name));
        }
    }
    let row = |name: &str| {
        let stage = |seed: &'_ SeedMeasurements| seed.stages.iter().position(|stage| stage.name == name);
        let of =
            |value: &dyn Fn(&SeedMeasurements, usize) -> Option<f64>| mean(measured, |seed| value(seed, stage(seed)?));
        json!({
            "name": name,
            "elapsed_s": of(&|seed, at| Some(seed.stages[at].elapsed_s)),
            "peak_bytes": of(&|seed, at| seed.stages[at].peak_bytes.map(|bytes| bytes as f64)),
            "tokens": mean(measured, |seed| Some(seed.runs.get(name)?.tokens as f64)),
            "flops": mean(measured, |seed| seed.runs.get(name)?.flops),
        })
    };
    let group = |&(chapter, name, _): &(Chapter, &str, &str)| {
        let rows: Vec<Value> = names.iter().filter(|one| one.0 == chapter).map(|one| row(one.1)).collect();
        // Stages that take no time worth a row.
        let (shown, short): (Vec<Value>, Vec<Value>) = rows
            .into_iter()
            .partition(|row| row["elapsed_s"].as_f64().is_none_or(|s| s >= SHORT) || !row["tokens"].is_null());
        let total = |key: &str| shown.iter().chain(&short).filter_map(|row| row[key].as_f64()).sum::<f64>();
        let most = shown.iter().chain(&short).filter_map(|row| row["peak_bytes"].as_f64()).reduce(f64::max);
        let names = |rows: &[Value]| rows.iter().map(|row| row["name"].clone()).collect::<Vec<_>>();
        json!({
            "name": name, "rows": shown, "short": names(&short), "elapsed_s": total("elapsed_s"), "peak_bytes": most,
            "tokens": total("tokens"), "flops": total("flops"),
            "n": shown.len() + short.len(),
        })
    };
    let groups: Vec<Value> = CHAPTERS.iter().map(group).filter(|group| group["n"] != 0).collect();
    let commands: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
    json!({ "commands": figures::source(measured, &commands, &Value::Null).commands, "groups": groups })
}

/// Seconds below which a stage has no row of its own in the costs.
const SHORT: f64 = 0.5;

/// Each question with the answers of each generation, for the first seed that has answers.
fn answers(measured: &StoryMeasurements) -> Value {
    let asked = measured.seeds.iter().find(|seed| !seed.answers.is_empty());
    let Some(seed) = asked else { return json!({ "questions": [], "source": FigureSource::default() }) };
    let right = |n: usize, answer: &str| measured.right.get(n).map(|words| Questions::is_right(words, answer));
    let given = |n: usize| -> Vec<Value> {
        let one = |(stage, model): (&str, summary::StoryModel)| {
            let answer = seed.answers.get(stage)?.get(n)?;
            Some(
                json!({ "name": model.name, "style": model.style - FIXED_STYLE, "text": answer, "right": right(n, answer) }),
            )
        };
        // Stages of a story of the user's own may have other names.
        let other = |name: &&String| !ASKED.iter().any(|(stage, _)| stage == name);
        let others = seed.answers.keys().filter(other).filter_map(|name| {
            let answer = seed.answers[name].get(n)?;
            Some(json!({ "name": name, "style": null, "text": answer, "right": right(n, answer) }))
        });
        ASKED.into_iter().filter_map(one).chain(others).collect()
    };
    let question = |(n, question): (usize, &String)| json!({ "question": question, "answers": given(n) });
    let questions: Vec<Value> = measured.questions.iter().enumerate().map(question).collect();
    let data: Map<_, _> =
        measured.seeds.iter().map(|seed| (format!("seed {}", seed.seed), json!(seed.answers))).collect();
    let stages: Vec<&str> = ASKED.iter().map(|asked| asked.0).collect();
    let data = json!({ "questions": measured.questions, "right answers contain": measured.right, "answers": data });
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
        "perplexity" => FigureUnit::Perplexity,
        "points" => FigureUnit::Points,
        "reward" => FigureUnit::Reward,
        _ => FigureUnit::Percent,
    };
    signed(match unit {
        FigureUnit::Speed => short_speed(x),
        FigureUnit::Nats | FigureUnit::Perplexity => format!("{x:.3}"),
        FigureUnit::Percent => format!("{x:.1}%"),
        FigureUnit::Points => format!("{x:+.1}"),
        FigureUnit::Reward => format!("{x:.2}"),
    })
}

fn short_speed(x: f64) -> String {
    let grouped = gptkit_data::progress::grouped(x.abs().round() as u64);
    if x < 0.0 { format!("-{grouped}") } else { grouped }
}

mod table;
#[cfg(test)]
mod tests;
