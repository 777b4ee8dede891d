//! One table of stages and figures: what each generation and each step added.

use crate::measured::{InContextScores, SeedMeasurements, StoryMeasurements, is_pattern};
use gptkit_plot::FIXED_STYLE;

/// A model of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoryModel {
    /// The stage that trained it.
    pub stage: &'static str,
    /// Name in tables and charts.
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// Color and dash pattern, the same in every chart.
    pub style: usize,
}

const fn model(stage: &'static str, name: &'static str, what: &'static str, n: usize) -> StoryModel {
    StoryModel { stage, name, what, style: FIXED_STYLE + n }
}

/// The recurrent network.
pub const LSTM: StoryModel = model("lstm", "LSTM", "recurrent network", 0);
/// The Transformer of the LSTM's size, with GPT-2's layer norms.
pub const TRANSFORMER: StoryModel = model("transformer", "Transformer", "attention, same size as the LSTM", 11);
/// GPT-1.
pub const GPT1: StoryModel = model("gpt1", "GPT-1", "pretrained, then fine-tuned", 1);
/// The LSTM after the demonstrations that [`INSTRUCTED_GPT1`] learns from.
pub const INSTRUCTED_LSTM: StoryModel =
    model("sft-lstm", "LSTM, instructed", "the LSTM, fine-tuned on demonstrations", 0);
/// GPT-1 after a few demonstrations.
pub const INSTRUCTED_GPT1: StoryModel =
    model("sft-gpt1", "GPT-1, instructed", "GPT-1, fine-tuned on the same demonstrations", 1);
/// BERT.
pub const BERT: StoryModel = model("bert", "BERT", "bidirectional", 2);
/// GPT-2.
pub const GPT2: StoryModel = model("gpt2", "GPT-2", "larger", 3);
/// GPT-3.
pub const GPT3: StoryModel = model("gpt3", "GPT-3", "largest", 4);
/// Trained on demonstrations.
pub const SFT: StoryModel = model("sft", "SFT", "fine-tuned on demonstrations", 5);
/// The reward model.
pub const RM: StoryModel = model("rm", "reward model", "scores answers", 6);
/// PPO with pretraining text.
pub const PPO: StoryModel = model("ppo", "PPO", "trained with rewards", 7);
/// PPO without it.
pub const NO_PTX: StoryModel = model("ppo-no-ptx", "PPO, no text", "without pretraining text", 8);
/// The second round.
pub const PPO2: StoryModel = model("ppo-2", "2nd round", "with new comparisons", 9);
/// PPO pressed too far.
pub const PRESSED: StoryModel = model("ppo-pressed", "PPO, pressed", "trained further", 10);

/// Models that have a row, in their order. BERT writes no text and the reward model no answers: they have figures of their own.
pub const ROWS: [StoryModel; 12] =
    [LSTM, TRANSFORMER, GPT1, INSTRUCTED_LSTM, INSTRUCTED_GPT1, GPT2, GPT3, SFT, PPO, NO_PTX, PRESSED, PPO2];

/// Which of two values of a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher one.
    Higher,
    /// The lower one.
    Lower,
    /// Neither: it describes.
    Neither,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummaryFigure {
    /// Key, in the CSV too.
    pub key: &'static str,
    /// Head of the column.
    pub head: &'static str,
    /// Which value is better.
    pub better: Better,
    /// Digits after the point, and what follows the number.
    pub form: (usize, &'static str),
}

/// The columns, in their order.
pub const FIGURES: [SummaryFigure; 9] = [
    SummaryFigure { key: "parameters", head: "Parameters", better: Better::Neither, form: (0, "") },
    SummaryFigure { key: "text_loss", head: "Loss on text", better: Better::Lower, form: (3, "") },
    SummaryFigure { key: "few_shot", head: "Few-shot patterns", better: Better::Higher, form: (1, "%") },
    SummaryFigure { key: "right", head: "Right answers", better: Better::Higher, form: (1, "%") },
    SummaryFigure { key: "sampled", head: "Right when sampled", better: Better::Higher, form: (1, "%") },
    SummaryFigure { key: "courteous", head: "Courteous answers", better: Better::Neither, form: (1, "%") },
    SummaryFigure { key: "tokens", head: "Tokens per answer", better: Better::Neither, form: (1, "") },
    SummaryFigure { key: "gold", head: "Gold score", better: Better::Higher, form: (2, "") },
    SummaryFigure { key: "preferred", head: "Win rate over initial model", better: Better::Neither, form: (1, "%") },
];

/// Stage of the model that demonstrations start from, as the stage `sft` reads it.
pub fn base(seed: &SeedMeasurements) -> Option<StoryModel> {
    let sft = seed.stages.iter().find(|stage| stage.name == SFT.stage)?;
    [GPT3, GPT2, GPT1].into_iter().find(|model| sft.reads.iter().any(|name| name == model.stage))
}

/// The contest in which a model meets the model that it was trained from.
fn contest(model: StoryModel) -> Option<&'static str> {
    match model.stage {
        "sft" => Some("wins-sft"),
        "ppo" | "ppo-no-ptx" | "ppo-pressed" => Some("wins-ppo"),
        "ppo-2" => Some("wins-round-2"),
        _ => None,
    }
}

/// The figure `key` of `model` in `seed`.
pub fn value(seed: &SeedMeasurements, model: StoryModel, key: &str) -> Option<f64> {
    let grade = seed.grades.get(model.stage);
    let run = seed.runs.get(model.stage);
    match key {
        "parameters" => run?.n_params.map(|n| n as f64),
        "text_loss" => seed.excerpts.text_loss.get(model.stage).copied(),
        "few_shot" => few_shot(seed.in_context.as_ref()?, model.stage),
        "right" => grade.map(|grade| 100.0 * grade.followed.value),
        "sampled" => seed.sampled.get(model.stage).map(|grade| 100.0 * grade.followed.value),
        "courteous" => grade.map(|grade| 100.0 * grade.courteous),
        "tokens" => grade.map(|grade| grade.mean_tokens),
        "gold" => grade.and_then(|grade| grade.gold),
        "preferred" => Some(100.0 * seed.wins.get(contest(model)?)?.models.get(model.stage)?.value),
        _ => None,
    }
}

/// Mean over the patterns with the most examples, percent.
fn few_shot(scores: &InContextScores, stage: &str) -> Option<f64> {
    let most = scores.shots().last().copied().filter(|&shots| shots > 0)?;
    scores.mean(is_pattern, stage, most).map(|(value, _)| value)
}

/// Mean of the figure `key` of `model` over the seeds that have it.
pub fn mean(measured: &StoryMeasurements, model: StoryModel, key: &str) -> Option<f64> {
    let found: Vec<f64> =
        measured.seeds.iter().filter_map(|seed| value(seed, model, key)).filter(|x| x.is_finite()).collect();
    (!found.is_empty()).then(|| gptkit_stats::mean(&found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn figures_come_from_the_measurements_of_the_stage() {
        let measured = example::measured(2);
        assert_eq!(mean(&measured, GPT1, "parameters"), Some(700_000.0));
        let preferred = mean(&measured, SFT, "preferred").unwrap();
        assert!((preferred - 90.15).abs() < 1e-9, "the mean of 90.1 and 90.2: {preferred}");
        assert_eq!(mean(&measured, GPT1, "preferred"), None);
        // Patterns with 8 examples: 10 + 3 size + 3 (1 + size) √8.
        let few = value(&measured.seeds[0], GPT1, "few_shot").unwrap();
        assert!((few - (10.001 + 3.0 * 8f64.sqrt())).abs() < 1e-9, "{few}");
        assert_eq!(mean(&measured, PPO, "courteous"), Some(90.0));
        assert_eq!(mean(&measured, GPT2, "gold"), Some(0.4), "the base model is graded under its own name");
        assert_eq!(mean(&measured, GPT1, "unknown"), None);
    }

    #[test]
    fn measurements_that_a_seed_lacks_are_none() {
        let seed = SeedMeasurements::default();
        assert!(FIGURES.iter().all(|figure| ROWS.iter().all(|&row| value(&seed, row, figure.key).is_none())));
    }

    #[test]
    fn no_two_models_share_a_color() {
        // A model that learned from demonstrations in its place keeps its color.
        let instructed = [INSTRUCTED_LSTM.stage, INSTRUCTED_GPT1.stage];
        let rows = ROWS.iter().filter(|model| !instructed.contains(&model.stage));
        let mut styles: Vec<usize> = rows.chain([&BERT, &RM]).map(|model| model.style).collect();
        styles.sort_unstable();
        styles.dedup();
        assert_eq!(styles.len(), gptkit_plot::FIXED_STYLES);
    }
}
