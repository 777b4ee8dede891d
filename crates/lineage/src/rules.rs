//! The list of shapes: which figures decide whether a paper's finding is reproduced.

use crate::config::Chapter;
use crate::measured::{
    AnswerGrades, InContextScores, PpoIteration, RewardModelScores, SeedMeasurements, StoryMeasurements, is_pattern,
};
use crate::shape::{FigureComparison, FigurePair, FigureUnit, PaperShape};
use crate::summary::PRESSED;
use std::collections::BTreeMap;

/// Points of percent within which instructions count as followed as often: a standard error of 1,000 answers.
const AS_OFTEN: f64 = 1.0;

/// Patterns that GPT-1 is fine-tuned for, each by a stage `…-gpt1`.
const TUNED: [&str; 3] = ["color", "first-word", "middle-word"];
/// Those that all three networks are fine-tuned for with a third of its updates, by stages `…-early-MODEL`.
const EARLY: [&str; 2] = ["first-word", "middle-word"];

/// Every shape, chapter by chapter.
pub fn all(measured: &StoryMeasurements) -> Vec<PaperShape> {
    let mut shapes = recurrence(measured);
    shapes.extend([demonstrated(measured), fine_tuning(measured), both_sides(measured)]);
    shapes.extend(sizes(measured));
    shapes.extend(demonstrations(measured));
    shapes.extend(feedback(measured));
    shapes
}

/// Of `stages`, those that no seed has ended, in words.
fn missing(measured: &StoryMeasurements, stages: &[&str]) -> String {
    let ended = |name: &&&str| measured.seeds.iter().any(|seed| seed.stages.iter().any(|stage| stage.name == **name));
    let absent: Vec<&str> = stages.iter().filter(|name| !ended(name)).copied().collect();
    match absent.as_slice() {
        [] => "a measurement is missing".to_owned(),
        [one] => format!("{one} was not run"),
        several => format!("{} were not run", several.join(", ")),
    }
}

fn validation(seed: &SeedMeasurements, stage: &str) -> Option<f64> {
    seed.runs.get(stage)?.best_validation
}

/// The stage that measures the speed of training on one sequence at a time, and the one for a whole batch.
const SPEED: &str = "speed";
/// The least context in which the LSTM's and the transformer's gains from more of it are compared, tokens.
const FROM: f64 = 8.0;

/// Transformer against recurrence.
fn recurrence(measured: &StoryMeasurements) -> Vec<PaperShape> {
    let speed = FigureComparison::new(
        measured,
        "training on one sequence at a time, tokens per second of CPU time",
        ["transformer", "LSTM"],
        FigureUnit::Speed,
        |seed| {
            let of = |model: &str| Some(seed.speeds.get(SPEED)?.get(model)?.tokens_per_cpu_s);
            Some(FigurePair::of(of("transformer")?, of("lstm")?))
        },
    );
    let last = |seed: &SeedMeasurements, model: &str| Some(seed.positions.get(model)?.last()?.1);
    let end = FigureComparison::new(
        measured,
        "loss at the end of the context, nats per token",
        ["LSTM", "transformer"],
        FigureUnit::Nats,
        |seed| Some(FigurePair::of(last(seed, "lstm")?, last(seed, "transformer")?)),
    );
    let gain = FigureComparison::new(
        measured,
        &format!("loss at positions {FROM} to {} minus that at the end, nats per token", 2.0 * FROM - 1.0),
        ["transformer", "LSTM"],
        FigureUnit::Nats,
        |seed| {
            let of = |model: &str| {
                let early = seed.positions.get(model)?.iter().find(|(from, _)| *from == FROM)?.1;
                Some(early - last(seed, model)?)
            };
            Some(FigurePair::of(of("transformer")?, of("lstm")?))
        },
    );
    let shape = |name: &str, claim: &str, source: &str, comparison, stage: &str| {
        PaperShape::new((name, Chapter::Transformer, claim, source), comparison, missing(measured, &[stage]))
    };
    vec![
        shape(
            "speed",
            "At equal size, attention trains faster than recurrence on a sequence, because it computes all tokens in \
             parallel",
            "Vaswani et al. 2017, §1 and §4",
            vec![speed],
            SPEED,
        ),
        shape(
            "context",
            "The transformer still benefits from a longer context where the LSTM no longer does",
            "Kaplan et al. 2020, figure 7",
            vec![end, gain],
            "positions",
        ),
    ]
}

/// The transformer against an LSTM that learns from the same demonstrations.
fn demonstrated(measured: &StoryMeasurements) -> PaperShape {
    PaperShape::new(
        (
            "recurrence",
            Chapter::Gpt1,
            "Fine-tuned in the same way, a transformer is better than an LSTM",
            "Radford et al. 2018, §5",
        ),
        vec![followed(measured, MOST_LIKELY, ["sft-gpt1", "sft-lstm"], ["GPT-1", "LSTM"])],
        missing(measured, &["instructed"]),
    )
}

/// Mean accuracy in percent over the stages that `names`, with its error.
fn tuned_mean(seed: &SeedMeasurements, names: impl Iterator<Item = String>) -> Option<(f64, f64)> {
    let accuracy = |name: String| {
        let accuracy = seed.accuracies.get(&name)?;
        Some((100.0 * accuracy.value, 100.0 * accuracy.standard_error()))
    };
    let all: Vec<(f64, f64)> = names.map(accuracy).collect::<Option<_>>()?;
    Some(gptkit_stats::mean_of_estimates(all))
}

/// Reading one way against both.
fn both_sides(measured: &StoryMeasurements) -> PaperShape {
    let early = |seed: &SeedMeasurements, model: &str| {
        tuned_mean(seed, EARLY.iter().map(|task| format!("{task}-early-{model}")))
    };
    let sides = FigureComparison::new(
        measured,
        "mean of first and middle word, fine-tuned with few updates",
        ["BERT", "GPT-1"],
        FigureUnit::Percent,
        |seed| Some(FigurePair::with_errors(early(seed, "bert")?, early(seed, "gpt1")?)),
    );
    PaperShape::new(
        (
            "both-sides",
            Chapter::Bert,
            "After fine-tuning, a bidirectional model is better than a left-to-right model",
            "Devlin et al. 2019, table 1",
        ),
        vec![sides],
        missing(measured, &["first-word-early-bert", "middle-word-early-bert"]),
    )
}

/// What more weights bring.
fn sizes(measured: &StoryMeasurements) -> Vec<PaperShape> {
    let falls = |smaller: &str, larger: &str, names: [&str; 2]| {
        FigureComparison::new(measured, "validation loss, nats per token", names, FigureUnit::Nats, |seed| {
            Some(FigurePair::of(validation(seed, smaller)?, validation(seed, larger)?))
        })
    };
    let zero = |smaller: &str, larger: &str, names: [&str; 2]| {
        FigureComparison::new(measured, "perplexity per word of other stories", names, FigureUnit::Perplexity, |seed| {
            Some(FigurePair::of(*seed.perplexities.get(smaller)?, *seed.perplexities.get(larger)?))
        })
    };
    vec![
        PaperShape::new(
            ("loss-by-size", Chapter::Gpt2, "Validation loss falls with model size", "Radford et al. 2019, figure 4"),
            vec![falls("gpt1", "gpt2", ["GPT-1", "GPT-2"]), falls("gpt2", "gpt3", ["GPT-2", "GPT-3"])],
            missing(measured, &["gpt1", "gpt2", "gpt3"]),
        ),
        PaperShape::new(
            (
                "zero-shot-by-size",
                Chapter::Gpt2,
                "Larger models predict text from another source better, without training on it",
                "Radford et al. 2019, table 3",
            ),
            vec![zero("gpt1", "gpt2", ["GPT-1", "GPT-2"]), zero("gpt2", "gpt3", ["GPT-2", "GPT-3"])],
            missing(measured, &["zero-shot"]),
        ),
    ]
}

/// The most demonstrations that were shown.
fn most(all: &InContextScores) -> Option<usize> {
    all.shots().last().copied().filter(|&shots| shots > 0)
}

/// Examples in the context, and none.
fn demonstrations(measured: &StoryMeasurements) -> Vec<PaperShape> {
    let pattern = |all: &InContextScores, model: Option<&str>, shots: usize| all.mean(is_pattern, model?, shots);
    let few_zero = FigureComparison::new(
        measured,
        "mean of patterns, largest",
        ["few-shot", "zero-shot"],
        FigureUnit::Percent,
        |seed| {
            let all = seed.in_context.as_ref()?;
            Some(FigurePair::with_errors(pattern(all, all.largest(), most(all)?)?, pattern(all, all.largest(), 0)?))
        },
    );
    let by_size = FigureComparison::new(
        measured,
        "mean of patterns, few-shot",
        ["largest", "smallest"],
        FigureUnit::Percent,
        |seed| {
            let all = seed.in_context.as_ref()?;
            let of = |model| pattern(all, model, most(all)?);
            Some(FigurePair::with_errors(of(all.largest())?, of(all.smallest())?))
        },
    );
    let gains = FigureComparison::new(
        measured,
        "few-shot minus zero-shot",
        ["largest", "smallest"],
        FigureUnit::Points,
        |seed| {
            let all = seed.in_context.as_ref()?;
            let gain = |model| {
                let (few, zero) = (pattern(all, model, most(all)?)?, pattern(all, model, 0)?);
                Some((few.0 - zero.0, few.1.hypot(zero.1)))
            };
            Some(FigurePair::with_errors(gain(all.largest())?, gain(all.smallest())?))
        },
    );
    let shape = |name: &str, claim: &str, comparison: FigureComparison| {
        let about = (name, Chapter::Gpt3, claim, "Brown et al. 2020, figure 1.2");
        PaperShape::new(about, vec![comparison], missing(measured, &["in-context"]))
    };
    vec![
        shape("examples", "Few-shot examples help", few_zero),
        shape("few-shot-by-size", "With few-shot examples, larger models are better", by_size),
        shape("gain-by-size", "Larger models gain more from few-shot examples", gains),
    ]
}

/// Mean over the tasks of [`TUNED`] in percent, each with its error: fine-tuned, with the most demonstrations, and with none.
fn ways(seed: &SeedMeasurements) -> Option<[(f64, f64); 3]> {
    let all = seed.in_context.as_ref()?;
    let tuned = tuned_mean(seed, TUNED.iter().map(|task| format!("{task}-gpt1")))?;
    let is = |task: &str| TUNED.iter().any(|tuned| task == format!("world-patterns:{tuned}"));
    let shown = |shots: usize| all.mean(is, all.largest()?, shots);
    Some([tuned, shown(most(all)?)?, shown(0)?])
}

/// GPT-1's small model fine-tuned, against the largest one with examples and without.
fn fine_tuning(measured: &StoryMeasurements) -> PaperShape {
    let compared = |names: [&str; 2], more: usize, less: usize| {
        FigureComparison::new(measured, "mean of color, first and middle word", names, FigureUnit::Percent, |seed| {
            ways(seed).map(|ways| FigurePair::with_errors(ways[more], ways[less]))
        })
    };
    PaperShape::new(
        (
            "fine-tuning",
            Chapter::Gpt1,
            "A small fine-tuned model beats a larger few-shot model, and few-shot beats zero-shot",
            "Radford et al. 2018, §4; Brown et al. 2020, figure 3.8",
        ),
        vec![compared(["fine-tuned", "few-shot"], 0, 1), compared(["few-shot", "zero-shot"], 1, 2)],
        missing(measured, &["color-gpt1", "first-word-gpt1", "middle-word-gpt1", "in-context"]),
    )
}

/// Share of wins of `name` over `other` in percent, against a half.
fn wins(measured: &StoryMeasurements, stage: &str, model: &str, [name, other]: [&str; 2]) -> FigureComparison {
    FigureComparison::new(measured, &format!("wins over {other}"), [name, "half"], FigureUnit::Percent, |seed| {
        let share = seed.wins.get(stage)?.models.get(model)?;
        Some(FigurePair { more: 100.0 * share.value, less: 50.0, error: Some(100.0 * share.standard_error()) })
    })
}

/// Loss on held-out text after PPO without pretraining text, against that with it.
fn text_loss(measured: &StoryMeasurements) -> FigureComparison {
    let last = |seed: &SeedMeasurements, stage: &str| Some(seed.runs.get(stage)?.text_loss.last()?.1);
    FigureComparison::new(
        measured,
        "loss on held-out text at the end, nats per token",
        ["PPO without text", "PPO with text"],
        FigureUnit::Nats,
        |seed| Some(FigurePair::of(last(seed, "ppo-no-ptx")?, last(seed, "ppo")?)),
    )
}

/// Grades of answers by the model's stage: the most likely ones, or those that were sampled for the win rates.
type Graded = fn(&SeedMeasurements) -> &BTreeMap<String, AnswerGrades>;
const MOST_LIKELY: (&str, Graded) = ("instructions followed by the most likely answer", |seed| &seed.grades);
const SAMPLED: (&str, Graded) = ("instructions followed by the compared answers", |seed| &seed.sampled);

/// Share of held-out instructions that `name` follows, against `other`, both stages.
fn followed(
    measured: &StoryMeasurements,
    (what, graded): (&str, Graded),
    [name, other]: [&str; 2],
    names: [&str; 2],
) -> FigureComparison {
    FigureComparison::new(measured, what, names, FigureUnit::Percent, |seed| {
        let of = |model: &str| {
            let share = graded(seed).get(model)?.followed;
            Some((100.0 * share.value, 100.0 * share.standard_error()))
        };
        Some(FigurePair::with_errors(of(name)?, of(other)?))
    })
}

/// Accuracy of the reward model, against another way to judge.
fn reward_accuracy(measured: &StoryMeasurements, other: &str, of: fn(&RewardModelScores) -> f64) -> FigureComparison {
    let what = "accuracy on held-out comparisons";
    FigureComparison::new(measured, what, ["reward model", other], FigureUnit::Percent, |seed| {
        let rm = seed.reward_models.get("rm")?;
        let error = Some(100.0 * rm.accuracy.standard_error());
        Some(FigurePair { more: 100.0 * rm.accuracy.value, less: 100.0 * of(rm), error })
    })
}

/// Comparisons, the reward model, PPO, and the second round.
fn feedback(measured: &StoryMeasurements) -> Vec<PaperShape> {
    use Chapter::{ChatGpt, InstructGpt};
    let shape = |name: &str, chapter, claim: &str, source: &str, comparisons, stages: &[&str]| {
        PaperShape::new((name, chapter, claim, source), comparisons, missing(measured, stages))
    };
    let orders = FigureComparison::new(
        measured,
        "pairs of the first round's answers that are ranked as by their gold scores",
        ["second reward model", "first"],
        FigureUnit::Percent,
        |seed| {
            let of = |stage: &str| {
                let share = seed.orders.get(stage)?;
                Some((100.0 * share.value, 100.0 * share.standard_error()))
            };
            Some(FigurePair::with_errors(of("order-rm-2")?, of("order-rm")?))
        },
    );
    vec![
        shape(
            "reward-model",
            InstructGpt,
            "The reward model agrees with labelers more often than chance, and more often than choosing the longer \
             answer",
            "Ouyang et al. 2022, §4.1",
            vec![
                reward_accuracy(measured, "chance", |_| 0.5),
                reward_accuracy(measured, "length alone", |rm| rm.by_length),
            ],
            &["rm"],
        ),
        shape(
            "sft",
            InstructGpt,
            "Answers after supervised fine-tuning are preferred to the base model's",
            "Ouyang et al. 2022, figure 1",
            vec![
                wins(measured, "wins-sft", "sft", ["SFT", "the base model"]),
                followed(measured, SAMPLED, ["sft", "gpt2"], ["SFT", "the base model"]),
            ],
            &["wins-sft", "grades"],
        ),
        shape(
            "ppo",
            InstructGpt,
            "Answers after PPO are preferred to answers before PPO",
            "Ouyang et al. 2022, figure 1",
            vec![
                wins(measured, "wins-ppo", "ppo", ["PPO", "SFT"]),
                followed(measured, SAMPLED, ["ppo", "sft"], ["PPO", "SFT"]).or_within(AS_OFTEN),
            ],
            &["wins-ppo", "grades"],
        ),
        shape(
            "ptx",
            InstructGpt,
            "Mixing pretraining text into PPO reduces forgetting",
            "Ouyang et al. 2022, §4.2",
            vec![text_loss(measured)],
            &["ppo", "ppo-no-ptx"],
        ),
        shape(
            "small-over-large",
            InstructGpt,
            "A small model trained on comparisons is preferred to a larger model that was not",
            "Ouyang et al. 2022, §4.1",
            vec![wins(measured, "wins-size", "ppo", ["small PPO", "a larger base model"])],
            &["wins-size"],
        ),
        overoptimization(measured),
        shape(
            "second-round",
            ChatGpt,
            "A second round, with comparisons of the policy's answers, is preferred to the first",
            "OpenAI 2022; Ouyang et al. 2022, §3.1",
            vec![
                wins(measured, "wins-round-2", "ppo-2", ["second round", "the first"]),
                followed(measured, SAMPLED, ["ppo-2", "ppo"], ["second round", "the first"]).or_within(AS_OFTEN),
            ],
            &["wins-round-2", "grades"],
        ),
        shape(
            "fresh-comparisons",
            ChatGpt,
            "A reward model trained on a policy's answers ranks them better than one that was not",
            "Ouyang et al. 2022, §3.1; Bai et al. 2022, §4.5",
            vec![orders],
            &["order-rm", "order-rm-2"],
        ),
    ]
}

/// Mean and its standard error of `of` over iterations.
fn mean(iterations: &[PpoIteration], of: impl Fn(&PpoIteration) -> Option<f64>) -> Option<(f64, f64)> {
    let values: Vec<f64> = iterations.iter().map(of).collect::<Option<_>>()?;
    (values.len() > 1).then(|| gptkit_stats::mean_with_error(&values))
}

/// Quarters of a run of PPO, in order; nothing where they would be too short to have a mean.
fn quarters(seed: &SeedMeasurements) -> Option<Vec<&[PpoIteration]>> {
    let iterations = &seed.runs.get(PRESSED.stage)?.iterations;
    let quarter = iterations.len() / 4;
    (quarter >= 2).then(|| (0..4).map(|i| &iterations[i * quarter..][..quarter]).collect())
}

/// By the end the proxy still rises, and what it stands for has fallen from where it was best.
fn overoptimization(measured: &StoryMeasurements) -> PaperShape {
    let best = |seed: &SeedMeasurements| {
        let quarters = quarters(seed)?;
        let golds: Vec<(f64, f64)> = quarters.iter().map(|q| mean(q, |i| i.gold)).collect::<Option<_>>()?;
        let best = (0..3).max_by(|&a, &b| golds[a].0.total_cmp(&golds[b].0))?;
        let proxies: Vec<(f64, f64)> = quarters.iter().map(|q| mean(q, |i| Some(i.proxy))).collect::<Option<_>>()?;
        Some([(proxies[3], proxies[best]), (golds[best], golds[3])])
    };
    let compared = |what: &str, names: [&str; 2], at: usize| {
        FigureComparison::new(measured, what, names, FigureUnit::Reward, |seed| {
            let (more, less) = best(seed)?[at];
            Some(FigurePair::with_errors(more, less))
        })
    };
    let mut why = missing(measured, &[PRESSED.stage]);
    let iterations =
        || measured.seeds.iter().filter_map(|seed| seed.runs.get(PRESSED.stage)).flat_map(|run| &run.iterations);
    if iterations().next().is_some() {
        why = match iterations().all(|iteration| iteration.gold.is_none()) {
            true => "only the built-in world's instructions have a gold score".to_owned(),
            false => "PPO ran for too few iterations".to_owned(),
        };
    }
    PaperShape::new(
        (
            "overoptimization",
            Chapter::InstructGpt,
            "When PPO is trained far enough, the reward model's score still rises while the gold score falls",
            "Gao et al. 2023, figure 1",
        ),
        vec![
            compared("reward model's score", ["last quarter", "where gold was best"], 0),
            compared("gold score", ["best quarter before", "last quarter"], 1),
        ],
        why,
    )
}

#[cfg(test)]
mod tests;
