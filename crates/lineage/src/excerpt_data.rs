//! Pieces of real data that the report shows, as data.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Examples of one seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Excerpts {
    /// The beginning of the text that models are pretrained on.
    pub text: Option<TextExcerpt>,
    /// The beginning of the documents of patterns.
    pub patterns: Option<TextExcerpt>,
    /// The first held-out record of each stage that labels records.
    pub labeled: BTreeMap<String, LabeledExample>,
    /// One prompt without examples and with the most examples.
    pub few_shot: Option<FewShotPrompts>,
    /// Answers before and after learning from demonstrations, by stage.
    pub demonstrations: BTreeMap<String, Vec<DemonstrationAnswers>>,
    /// Two answers of which a labeler chose one, by stage.
    pub compared: BTreeMap<String, ComparedAnswers>,
    /// Greedy answers to one prompt during PPO, by stage.
    pub during_ppo: BTreeMap<String, AnswersDuringPpo>,
    /// Loss on the held-out part of the pretraining text alone, nats per token, by stage.
    pub text_loss: BTreeMap<String, f64>,
    /// The same of the model that a stage of PPO started from, by the stage of PPO.
    pub text_loss_before: BTreeMap<String, f64>,
}

/// The beginning of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextExcerpt {
    /// Path of the text, as stages name it.
    pub source: String,
    /// At most 420 characters.
    pub text: String,
    /// Tokens of its first line; empty where the tokenizer is absent.
    pub tokens: Vec<String>,
}

/// A record and the label that a model gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabeledExample {
    /// The text.
    pub input: String,
    /// The right label.
    pub output: String,
    /// The model's label.
    pub prediction: String,
}

/// The completions of one question without examples and with them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FewShotPrompts {
    /// The task, with its variant.
    pub task: String,
    /// The model.
    pub model: String,
    /// Without examples first.
    pub prompts: Vec<CompletedPrompt>,
}

/// A prompt and its completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletedPrompt {
    /// Examples in the prompt.
    pub shots: usize,
    /// The prompt.
    pub prompt: String,
    /// The completion.
    pub completion: String,
    /// Right answers.
    pub accept: Vec<String>,
    /// Whether the completion is one of them.
    pub is_right: bool,
    /// Right answers over all instances of this cell, percent.
    pub accuracy: Option<f64>,
}

/// A prompt, answered before and after training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemonstrationAnswers {
    /// The question.
    pub prompt: String,
    /// The demonstration.
    pub reference: String,
    /// The answer of the model that training started from.
    pub before: String,
    /// The answer of the trained model.
    pub after: String,
}

/// Two answers to a prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedAnswers {
    /// The question.
    pub prompt: String,
    /// The answer that the labeler preferred.
    pub chosen: String,
    /// The other.
    pub rejected: String,
    /// The rewards of the two, where a stage has scored them.
    pub rewards: Option<(f64, f64)>,
    /// The gold scores of the two, by the hidden scorer of the embedded world.
    pub gold: Option<(f64, f64)>,
}

/// Answers to one prompt as training goes on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswersDuringPpo {
    /// The question.
    pub prompt: String,
    /// Iterations and answers; neighbors differ.
    pub answers: Vec<(u64, String)>,
}
