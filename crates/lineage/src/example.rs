//! A lineage that was never run, for tests: every shape is in it.

use crate::config::Chapter;
use crate::excerpt_data::{
    AnswersDuringPpo, ComparedAnswers, CompletedPrompt, DemonstrationAnswers, Excerpts, FewShotPrompts, LabeledExample,
    TextExcerpt,
};
use crate::measured::{
    Accuracy, AnswerGrades, AttentionMaps, EvaluatedModel, FeedbackMeasurements, HeadWeights, InContextCell,
    InContextScores, PpoIteration, RewardModelScores, SeedMeasurements, StageWinRates, StoryMeasurements,
    TracedFeedback, TrainingMeasurements, TurnSpeed,
};
use crate::stages::StageRecord;
use gptkit_stats::Share;
use std::collections::BTreeMap;

const STAGES: [(&str, Chapter); 51] = [
    ("tokenizer", Chapter::Rnn),
    ("lstm", Chapter::Rnn),
    ("transformer", Chapter::Transformer),
    ("speed", Chapter::Transformer),
    ("speed-batch", Chapter::Transformer),
    ("positions", Chapter::Transformer),
    ("attention", Chapter::Transformer),
    ("gpt1", Chapter::Gpt1),
    ("sft-lstm", Chapter::Gpt1),
    ("sft-gpt1", Chapter::Gpt1),
    ("instructed", Chapter::Gpt1),
    ("color-gpt1", Chapter::Gpt1),
    ("first-word-gpt1", Chapter::Gpt1),
    ("middle-word-gpt1", Chapter::Gpt1),
    ("first-word-predicted", Chapter::Gpt1),
    ("bert", Chapter::Bert),
    ("first-word-early-gpt1", Chapter::Bert),
    ("first-word-early-bert", Chapter::Bert),
    ("middle-word-early-gpt1", Chapter::Bert),
    ("middle-word-early-bert", Chapter::Bert),
    ("gpt2", Chapter::Gpt2),
    ("gpt3", Chapter::Gpt3),
    ("zero-shot", Chapter::Gpt2),
    ("in-context", Chapter::Gpt3),
    ("sft", Chapter::InstructGpt),
    ("rm", Chapter::InstructGpt),
    ("ppo", Chapter::InstructGpt),
    ("ppo-no-ptx", Chapter::InstructGpt),
    ("ppo-pressed", Chapter::InstructGpt),
    ("wins-sft", Chapter::InstructGpt),
    ("wins-ppo", Chapter::InstructGpt),
    ("wins-size", Chapter::InstructGpt),
    ("rm-2", Chapter::ChatGpt),
    ("ppo-2", Chapter::ChatGpt),
    ("wins-round-2", Chapter::ChatGpt),
    ("order-rm", Chapter::ChatGpt),
    ("order-rm-2", Chapter::ChatGpt),
    ("grades", Chapter::ChatGpt),
    ("feedback", Chapter::ChatGpt),
    ("exported", Chapter::ChatGpt),
    ("feedback-stats", Chapter::ChatGpt),
    ("trace", Chapter::ChatGpt),
    ("chat-lstm", Chapter::ChatGpt),
    ("chat-gpt1", Chapter::ChatGpt),
    ("chat-sft-lstm", Chapter::ChatGpt),
    ("chat-sft-gpt1", Chapter::ChatGpt),
    ("chat-gpt2", Chapter::ChatGpt),
    ("chat-gpt3", Chapter::ChatGpt),
    ("chat-sft", Chapter::ChatGpt),
    ("chat-ppo", Chapter::ChatGpt),
    ("chat-ppo-2", Chapter::ChatGpt),
];

/// Of `n` seeds, each a little different.
pub(crate) fn measured(n: u64) -> StoryMeasurements {
    let questions = vec!["Who has the kite?".to_owned(), "What is 1 < 2?".to_owned()];
    let right = vec!["ppo says Ben".to_owned(), "yes".to_owned()];
    StoryMeasurements { seeds: (1..=n).map(seed).collect(), questions, right, ..StoryMeasurements::default() }
}

/// That a stage took ten seconds.
pub(crate) fn stage_record(name: &str) -> StageRecord {
    StageRecord {
        name: name.to_owned(),
        chapter: Chapter::Gpt1,
        command: format!("gptkit do {name}"),
        reads: Vec::new(),
        leaves: name.into(),
        elapsed_s: 10.0,
        ended_at: 0.0,
        peak_bytes: Some(200_000_000),
        fingerprint: String::new(),
    }
}

fn seed(number: u64) -> SeedMeasurements {
    let shift = number as f64 * 1e-3;
    let stages = STAGES.map(|(name, chapter)| StageRecord {
        chapter,
        command: format!("gptkit do {name} --out 'seed-{number}/{name}'"),
        reads: if name == "sft" { vec!["gpt2".to_owned()] } else { Vec::new() },
        ..stage_record(name)
    });
    let pretrained = [
        ("lstm", 1.5, 1e4),
        ("transformer", 1.2, 2e4),
        ("gpt1", 1.3, 2e4),
        ("bert", 2.0, 2e4),
        ("gpt2", 1.2, 1e4),
        ("gpt3", 1.0, 5e3),
    ];
    let trained = [("sft", 0.9, 1e4), ("rm", 0.6, 5e3), ("rm-2", 0.5, 5e3)];
    let run = |(name, loss, speed): (&str, f64, f64)| (name.to_owned(), training(loss + shift, speed));
    let mut runs: BTreeMap<String, TrainingMeasurements> = pretrained.into_iter().chain(trained).map(run).collect();
    for (name, text) in [("ppo", 1.3), ("ppo-no-ptx", 1.6), ("ppo-pressed", 1.7), ("ppo-2", 1.4)] {
        runs.insert(name.to_owned(), ppo(text + shift));
    }
    let share = |value: f64| Share { value: value + shift, low: value - 0.05, high: value + 0.05, n: 300 };
    let wins = |models: &[(&str, f64)]| StageWinRates {
        judge: "gold".to_owned(),
        models: models.iter().map(|&(name, value)| (name.to_owned(), share(value))).collect(),
    };
    let named = |pairs: &[(&str, f64)]| {
        pairs.iter().map(|&(name, value)| (name.to_owned(), Accuracy { value, n: 300 })).collect::<BTreeMap<_, _>>()
    };
    let asked = crate::figures::ASKED.map(|(stage, _)| stage);
    SeedMeasurements {
        seed: number,
        stages: stages.to_vec(),
        runs,
        accuracies: named(&[
            ("color-gpt1", 0.98),
            ("first-word-gpt1", 0.97),
            ("middle-word-gpt1", 0.96),
            ("first-word-early-gpt1", 0.7),
            ("middle-word-early-gpt1", 0.6),
            ("first-word-early-bert", 0.95),
            ("middle-word-early-bert", 0.9),
        ]),
        reward_models: [("rm", 0.7), ("rm-2", 0.65)]
            .map(|(name, value)| (name.to_owned(), RewardModelScores { accuracy: share(value), by_length: 0.55 }))
            .into(),
        in_context: Some(in_context(shift)),
        wins: [
            ("wins-sft", wins(&[("sft", 0.9)])),
            ("wins-ppo", wins(&[("ppo", 0.7), ("ppo-no-ptx", 0.68)])),
            ("wins-size", wins(&[("ppo", 0.95)])),
            ("wins-round-2", wins(&[("ppo-2", 0.6)])),
        ]
        .map(|(name, wins)| (name.to_owned(), wins))
        .into(),
        answers: asked.map(|name| (name.to_owned(), vec![format!("{name} says Ben"), String::new()])).into(),
        attention: Some(AttentionMaps {
            tokens: ["You", " are", " good"].map(str::to_owned).to_vec(),
            heads: (0..4)
                .map(|i| HeadWeights {
                    layer: i / 2,
                    head: i % 2,
                    weights: (1..4).map(|n| vec![1.0 / n as f64; n]).collect(),
                })
                .collect(),
        }),
        grades: [
            ("gpt2", 0.1, 0.0),
            ("sft-lstm", 0.05, 0.4),
            ("sft-gpt1", 0.6, 0.4),
            ("sft", 0.8, 0.4),
            ("ppo", 0.85, 0.9),
            ("ppo-no-ptx", 0.84, 0.9),
            ("ppo-2", 0.9, 0.95),
        ]
        .map(|(model, value, courteous)| {
            let (by_kind, followed) = ([("answer".to_owned(), (40, 50))].into(), share(value));
            let gold = Some(4.0 * value);
            (model.to_owned(), AnswerGrades { followed, by_kind, courteous, mean_tokens: 9.0, gold })
        })
        .into(),
        sampled: [("gpt2", 0.0), ("sft", 0.7), ("ppo", 0.75), ("ppo-2", 0.76)]
            .map(|(model, value)| {
                let by_kind = [("answer".to_owned(), (40, 50))].into();
                let (followed, mean_tokens) = (share(value), 9.0);
                let gold = Some(4.0 * value);
                (model.to_owned(), AnswerGrades { followed, by_kind, courteous: 0.5, mean_tokens, gold })
            })
            .into(),
        speeds: [
            ("speed", [("transformer", 2e4), ("lstm", 1e4)]),
            ("speed-batch", [("transformer", 3e4), ("lstm", 4e4)]),
        ]
        .map(|(stage, models)| {
            let speed = |rate: f64| TurnSpeed { tokens_per_s: 1.5 * rate, tokens_per_cpu_s: rate + number as f64 };
            (stage.to_owned(), models.map(|(model, rate)| (model.to_owned(), speed(rate))).into())
        })
        .into(),
        positions: [
            ("lstm", [(0.0, 4.0), (8.0, 2.0), (64.0, 1.8)]),
            ("transformer", [(0.0, 4.2), (8.0, 2.1), (64.0, 1.2)]),
        ]
        .map(|(model, curve)| (model.to_owned(), curve.map(|(from, loss)| (from, loss + shift)).to_vec()))
        .into(),
        perplexities: [("gpt1", 2.6), ("gpt2", 2.4), ("gpt3", 2.3)]
            .map(|(model, value)| (model.to_owned(), value + shift))
            .into(),
        orders: [("order-rm", 0.3), ("order-rm-2", 0.8)].map(|(stage, value)| (stage.to_owned(), share(value))).into(),
        feedback: Some(FeedbackMeasurements {
            people: 8,
            answers: 9000,
            rankings: 1050,
            skipped: 20,
            corrections: 5,
            agreement: Some(share(0.7)),
        }),
        traced: Some(TracedFeedback { records: 1055, people: 8 }),
        excerpts: excerpts(),
    }
}

fn excerpts() -> Excerpts {
    let prompt = |shots: usize, accuracy: f64| CompletedPrompt {
        shots,
        prompt: format!("{}- red cat bell ->", "- blue cup owl -> blue\n".repeat(shots)),
        completion: " red".to_owned(),
        accept: vec!["red".to_owned()],
        is_right: true,
        accuracy: Some(accuracy),
    };
    let compared = |rewards| ComparedAnswers {
        prompt: "Who has the kite?".to_owned(),
        chosen: "Ben has it.".to_owned(),
        rejected: "Max has it.".to_owned(),
        rewards,
        gold: Some((3.0, 0.5)),
    };
    let during = || AnswersDuringPpo {
        prompt: "Who has the bell?".to_owned(),
        answers: vec![(0, "Ida has it.".to_owned()), (40, "Gladly! Ida has it.".to_owned())],
    };
    Excerpts {
        text: Some(TextExcerpt {
            source: "world:9:1".to_owned(),
            text: "Ben had a kite. He ran.".to_owned(),
            tokens: ["Ben", " had", " a", " kite", "."].map(str::to_owned).to_vec(),
        }),
        patterns: Some(TextExcerpt {
            source: "world-patterns:9:1".to_owned(),
            text: "- red cat bell -> red".to_owned(),
            tokens: Vec::new(),
        }),
        labeled: [("first-word-predicted", "cat")]
            .map(|(stage, prediction)| {
                let (input, output) = ("cat red bell".to_owned(), "red".to_owned());
                (stage.to_owned(), LabeledExample { input, output, prediction: prediction.to_owned() })
            })
            .into(),
        few_shot: Some(FewShotPrompts {
            task: "world-patterns:color".to_owned(),
            model: "gpt3".to_owned(),
            prompts: vec![prompt(0, 12.0), prompt(8, 61.0)],
        }),
        demonstrations: [(
            "sft".to_owned(),
            vec![DemonstrationAnswers {
                prompt: "What is 1 plus 1?".to_owned(),
                reference: "1 plus 1 is 2.".to_owned(),
                before: " the garden".to_owned(),
                after: "1 plus 1 is 3.".to_owned(),
            }],
        )]
        .into(),
        compared: [
            ("rm", None),
            ("exported", None),
            ("order-rm", Some((0.25, 0.75))),
            ("order-rm-2", Some((1.5, 0.5))),
        ]
        .map(|(stage, rewards)| (stage.to_owned(), compared(rewards)))
        .into(),
        during_ppo: [("ppo".to_owned(), during()), ("ppo-2".to_owned(), during())].into(),
        text_loss: [("lstm", 0.8), ("gpt1", 0.9), ("gpt2", 0.7), ("gpt3", 0.6), ("sft", 0.75), ("ppo", 0.78)]
            .map(|(stage, loss)| (stage.to_owned(), loss))
            .into(),
        text_loss_before: [("ppo", 0.75), ("ppo-no-ptx", 0.75)].map(|(stage, loss)| (stage.to_owned(), loss)).into(),
    }
}

fn training(loss: f64, tokens_per_s: f64) -> TrainingMeasurements {
    let curve = |n: u32| (1..=n).map(|i| (1e6 * f64::from(i) / f64::from(n), loss + 1.0 / f64::from(i))).collect();
    TrainingMeasurements {
        n_params: Some(700_000),
        tokens: 1_000_000,
        flops: Some(4.2e12),
        tokens_per_s,
        training: curve(100),
        validation: curve(10),
        best_validation: Some(loss + 0.1),
        chosen_by: Some("loss".to_owned()),
        ..TrainingMeasurements::default()
    }
}

/// The gold score rises, and falls in the last quarter.
fn ppo(text_loss: f64) -> TrainingMeasurements {
    let iteration = |step: u64| {
        let t = step as f64;
        let gold = if step <= 30 { t / 30.0 } else { 1.0 - (t - 30.0) / 10.0 };
        PpoIteration { step, kl: t / 10.0, proxy: t / 20.0, gold: Some(gold) }
    };
    TrainingMeasurements {
        n_params: Some(900_000),
        tokens: 200_000,
        iterations: (1..=40).map(iteration).collect(),
        text_loss: vec![(10.0, text_loss), (40.0, text_loss)],
        ..TrainingMeasurements::default()
    }
}

fn in_context(shift: f64) -> InContextScores {
    let models = [("gpt1", 700_000), ("gpt2", 900_000), ("gpt3", 2_900_000)];
    let mut cells = Vec::new();
    for task in ["world-patterns:color", "world-patterns:first-word", "world-patterns:middle-word"] {
        for (size, (model, _)) in models.iter().enumerate() {
            for shots in [0, 1, 4, 8] {
                let value = 10.0 + 3.0 * size as f64 + 3.0 * (1.0 + size as f64) * f64::from(shots).sqrt() + shift;
                let (task, model) = (task.to_owned(), (*model).to_owned());
                cells.push(InContextCell {
                    task,
                    model,
                    shots: shots as usize,
                    value,
                    standard_error: 1.0,
                    chance: Some(7.0),
                });
            }
        }
    }
    InContextScores {
        models: models.map(|(name, n_params)| EvaluatedModel { name: name.to_owned(), n_params }).to_vec(),
        cells,
    }
}
