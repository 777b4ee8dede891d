//! What the stages of each seed have left, as data: all that the report says is in [`StoryMeasurements`], and `report.json` holds it.
//!
//! A stage that has not ended has no entry anywhere, so that what was not run is told from what gave nothing.

use crate::excerpt_data::Excerpts;
use crate::stages::StageRecord;
use gptkit_stats::{Share, mean_of_estimates};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StoryMeasurements {
    /// The measurements of each seed, in the order of the command line.
    pub seeds: Vec<SeedMeasurements>,
    /// The user's own data, which replaces that of the built-in world.
    pub own: Vec<OwnDataNote>,
    /// The questions to every model.
    pub questions: Vec<String>,
    /// Stages that no seed has ended.
    pub not_run: Vec<String>,
    /// For each question, words that a right answer contains; empty where nobody says.
    pub right: Vec<String>,
}

/// Data of the user's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnDataNote {
    /// What it is: text, instructions or comparisons.
    pub name: String,
    /// The file.
    pub path: String,
}

/// What the stages of one seed left; maps are by the stage's name.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SeedMeasurements {
    /// The seed.
    pub seed: u64,
    /// Stages that have ended, in their order.
    pub stages: Vec<StageRecord>,
    /// Stages that trained a model.
    pub runs: BTreeMap<String, TrainingMeasurements>,
    /// Accuracy of classifiers on texts that were held out.
    pub accuracies: BTreeMap<String, Accuracy>,
    /// What reward models are worth.
    pub reward_models: BTreeMap<String, RewardModelScores>,
    /// Tasks with and without demonstrations.
    pub in_context: Option<InContextScores>,
    /// Answers compared with a reference model's.
    pub wins: BTreeMap<String, StageWinRates>,
    /// The answers of each stage to the questions.
    pub answers: BTreeMap<String, Vec<String>>,
    /// What each token of a text attends to.
    pub attention: Option<AttentionMaps>,
    /// How the most likely answers follow held-out instructions, by the model's stage.
    pub grades: BTreeMap<String, AnswerGrades>,
    /// The same of the answers that were sampled for win rates.
    pub sampled: BTreeMap<String, AnswerGrades>,
    /// Training speeds of two models, measured alternately, by stage and then by the model's stage.
    pub speeds: BTreeMap<String, BTreeMap<String, TurnSpeed>>,
    /// Loss at ranges of positions in the context, by the model's stage: the first position of each range, and nats per
    /// token.
    pub positions: BTreeMap<String, Curve>,
    /// Perplexity, a word, of text that no model was trained on, by the model's stage.
    pub perplexities: BTreeMap<String, f64>,
    /// How well reward models order the answers of a policy, by stage.
    pub orders: BTreeMap<String, Share>,
    /// What people did at a server.
    pub feedback: Option<FeedbackMeasurements>,
    /// Exported feedback that a reward model was trained on.
    pub traced: Option<TracedFeedback>,
    /// Pieces of real data.
    pub excerpts: Excerpts,
}

/// What people did at a server, as `gptkit feedback stats` counts it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeedbackMeasurements {
    /// People who ranked answers.
    pub people: u64,
    /// Answers of the model.
    pub answers: u64,
    /// Rankings.
    pub rankings: u64,
    /// Tasks that were skipped.
    pub skipped: u64,
    /// Corrections, which are the demonstrations of this stage.
    pub corrections: u64,
    /// How often two people order the same two answers in the same way.
    pub agreement: Option<Share>,
}

/// Exported records among the training files of a run, recognized by the hashes of the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TracedFeedback {
    /// Records.
    pub records: u64,
    /// People whose records they are.
    pub people: u64,
}

/// Answers to held-out instructions of the embedded world.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerGrades {
    /// Share that is right.
    pub followed: Share,
    /// By kind of instruction, how many are right, and of how many.
    pub by_kind: BTreeMap<String, (u32, u32)>,
    /// Share that begins or ends with a courtesy.
    pub courteous: f64,
    /// Mean length in tokens.
    pub mean_tokens: f64,
    /// Mean of what the hidden scorer gives, where it judged.
    pub gold: Option<f64>,
}

/// How fast a model trains beside another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TurnSpeed {
    /// Tokens a second, by the clock.
    pub tokens_per_s: f64,
    /// Tokens a second of processor time, which other processes do not change.
    pub tokens_per_cpu_s: f64,
}

/// A curve: places and values.
pub type Curve = Vec<(f64, f64)>;

/// A stage that trained a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TrainingMeasurements {
    /// Weights.
    pub n_params: Option<u64>,
    /// Tokens in all updates.
    pub tokens: u64,
    /// Floating-point operations of all updates, where the stage does nothing but train on its tokens.
    pub flops: Option<f64>,
    /// Speed of the update in the middle.
    pub tokens_per_s: f64,
    /// Training loss over tokens: before the first update, and then the mean of each hundredth of the run; empty where it is
    /// no loss of a text.
    pub training: Curve,
    /// Validation loss over tokens.
    pub validation: Curve,
    /// Validation loss of the weights that were kept, as `gptkit runs` gives it. It need not be the lowest of the run where a
    /// score chooses the weights.
    pub best_validation: Option<f64>,
    /// What the weights were chosen by: `loss`, or the name of a score.
    pub chosen_by: Option<String>,
    /// Iterations of PPO.
    pub iterations: Vec<PpoIteration>,
    /// Loss on text that was held out, over iterations of PPO, by the weights that are kept.
    pub text_loss: Curve,
}

/// An iteration of PPO: means over its answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PpoIteration {
    /// Its number.
    pub step: u64,
    /// KL from the model it began with, nats an answer.
    pub kl: f64,
    /// What the reward model gives: the proxy.
    pub proxy: f64,
    /// What the embedded world's hidden scorer gives, where it knows the instructions.
    pub gold: Option<f64>,
}

/// A share of texts that were labeled right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// From 0 to 1.
    pub value: f64,
    /// Of how many.
    pub n: u64,
}

impl Accuracy {
    /// Standard error of a share of independent texts.
    pub fn standard_error(&self) -> f64 {
        gptkit_stats::standard_error_of_share(self.value, self.n)
    }
}

/// What a reward model is worth on comparisons that were held out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RewardModelScores {
    /// How often it prefers what labelers do.
    pub accuracy: Share,
    /// How often who goes by length does.
    pub by_length: f64,
}

/// `results.json` of an evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct InContextScores {
    /// Models in the order in which they were evaluated.
    pub models: Vec<EvaluatedModel>,
    /// Main figures.
    pub cells: Vec<InContextCell>,
}

/// A model of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluatedModel {
    /// Its folder's name.
    pub name: String,
    /// Weights.
    pub n_params: u64,
}

/// The main figure of a task, a model, and a number of demonstrations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InContextCell {
    /// The task, with its variant.
    pub task: String,
    /// The model's name.
    pub model: String,
    /// Demonstrations.
    pub shots: usize,
    /// Percent.
    pub value: f64,
    /// Its standard error over instances; 0 where none is known.
    pub standard_error: f64,
    /// Percent that guessing gives, where there are choices.
    pub chance: Option<f64>,
}

/// What `win-rates --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageWinRates {
    /// Who judged: `gold`, `labeler` or the folder of a reward model.
    pub judge: String,
    /// Models against the reference, by the names of their folders.
    pub models: BTreeMap<String, Share>,
}

/// What `attention --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AttentionMaps {
    /// Tokens of the text.
    pub tokens: Vec<String>,
    /// By layer, then by head.
    pub heads: Vec<HeadWeights>,
}

/// The weights of one head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadWeights {
    /// From 0.
    pub layer: usize,
    /// From 0.
    pub head: usize,
    /// A row a token, with one weight for each token up to itself.
    pub weights: Vec<Vec<f64>>,
}

impl InContextScores {
    /// Mean of the main figures of all tasks for which `is` holds, and its standard error; nothing where one is missing.
    pub fn mean(&self, is: impl Fn(&str) -> bool, model: &str, shots: usize) -> Option<(f64, f64)> {
        let mut tasks: Vec<&str> = self.cells.iter().map(|cell| cell.task.as_str()).filter(|task| is(task)).collect();
        tasks.sort_unstable();
        tasks.dedup();
        let of_task = |task: &&str| {
            let cell = self.cells.iter().find(|c| c.task == *task && c.model == model && c.shots == shots)?;
            Some((cell.value, cell.standard_error))
        };
        let found = tasks.iter().map(of_task).collect::<Option<Vec<_>>>()?;
        (!found.is_empty()).then(|| mean_of_estimates(found))
    }

    /// The one with the fewest weights.
    pub fn smallest(&self) -> Option<&str> {
        self.models.iter().min_by_key(|model| model.n_params).map(|model| model.name.as_str())
    }

    /// The one with the most.
    pub fn largest(&self) -> Option<&str> {
        self.models.iter().max_by_key(|model| model.n_params).map(|model| model.name.as_str())
    }

    /// Numbers of demonstrations, in order.
    pub fn shots(&self) -> Vec<usize> {
        let mut shots: Vec<usize> = self.cells.iter().map(|cell| cell.shots).collect();
        shots.sort_unstable();
        shots.dedup();
        shots
    }
}

/// Whether `task` is one of the world's patterns, which only demonstrations explain.
pub fn is_pattern(task: &str) -> bool {
    task.starts_with("world-patterns:")
}
