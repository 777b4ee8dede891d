//! Settings of a collection: the models, their decoding options and the prompts.

use crate::prompts::PromptSource;
use anyhow::{Result, bail};
use gptkit_data::split::Split;
use gptkit_model::sampler::Sampling;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Answers of one prompt that are ranked at once, at least and at most (Ouyang et al. 2022, §3.5, show 4 to 9).
pub const K: std::ops::RangeInclusive<usize> = 2..=9;

/// Which of two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one.
    A,
    /// The other.
    B,
}

impl Side {
    /// As the store calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// What the answers are made with; all of it decides what a collection is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Folder of the model that answers.
    pub a: PathBuf,
    /// Fingerprint of its weights.
    pub weights_of_a: String,
    /// Folder of the one that it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<PathBuf>,
    /// Fingerprint of its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_of_b: Option<String>,
    /// Answers of the one model to each prompt, where there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<usize>,
    /// File of prompts, or `world`, `world:N`, `world:N:SEED`.
    pub prompts: String,
    /// Only so many prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Ends of answers besides the models' own.
    #[serde(default)]
    pub stop: Vec<String>,
    /// How tokens are chosen.
    #[serde(flatten)]
    pub sampling: StoredSampling,
}

/// How tokens are chosen: [`Sampling`] as it is stored, with the numbers as a person writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "see Sampling")]
pub struct StoredSampling {
    pub temperature: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    pub repetition_penalty: f64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frequency_penalty: f64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub presence_penalty: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logit_bias: Vec<(u32, f64)>,
    pub seed: u64,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

impl From<Sampling> for StoredSampling {
    fn from(sampling: Sampling) -> Self {
        // The number of fewest digits that is the same f32.
        let short = |x: f32| x.to_string().parse().unwrap_or(f64::from(x));
        Self {
            temperature: short(sampling.temperature),
            top_k: sampling.top_k,
            top_p: sampling.top_p.map(short),
            min_p: sampling.min_p.map(short),
            repetition_penalty: short(sampling.repetition_penalty),
            frequency_penalty: short(sampling.frequency_penalty),
            presence_penalty: short(sampling.presence_penalty),
            logit_bias: sampling.logit_bias.iter().map(|&(token, bias)| (token, short(bias))).collect(),
            seed: sampling.seed,
        }
    }
}

impl From<&StoredSampling> for Sampling {
    fn from(stored: &StoredSampling) -> Self {
        Self {
            logit_bias: stored.logit_bias.iter().map(|&(token, bias)| (token, bias as f32)).collect(),
            repetition_penalty: stored.repetition_penalty as f32,
            frequency_penalty: stored.frequency_penalty as f32,
            presence_penalty: stored.presence_penalty as f32,
            temperature: stored.temperature as f32,
            top_k: stored.top_k,
            top_p: stored.top_p.map(|p| p as f32),
            min_p: stored.min_p.map(|p| p as f32),
            seed: stored.seed,
        }
    }
}

impl Settings {
    /// Answers to each prompt.
    pub fn n_answers(&self) -> usize {
        self.k.unwrap_or(2)
    }

    /// The side that answer `number` to a prompt is from.
    pub fn side(&self, number: u64) -> Side {
        if self.b.is_some() && number == 1 { Side::B } else { Side::A }
    }

    /// The models, each with where it lies.
    pub fn models(&self) -> Vec<(Side, &Path)> {
        let b = self.b.as_deref().map(|b| (Side::B, b));
        std::iter::once((Side::A, self.a.as_path())).chain(b).collect()
    }

    /// Which part of the embedded world's instructions the prompts are: models are compared on what is held out, and
    /// rankings, which are to be learned from, are of the training part.
    pub fn part(&self) -> Split {
        if self.k.is_some() { Split::Train } else { Split::HeldOut }
    }

    /// Where the prompts are from.
    pub fn prompts(&self) -> PromptSource<'_> {
        PromptSource { source: &self.prompts, count: self.count, part: self.part() }
    }

    /// Why all answers to a prompt would be the same, if they would.
    pub fn answers_are_alike(&self) -> Option<&'static str> {
        let greedy = self.sampling.temperature == 0.0 || self.sampling.top_k == Some(1);
        match (&self.weights_of_b, self.k) {
            (_, Some(_)) if greedy => Some("with --temperature 0 or --top-k 1, all K answers are identical"),
            (Some(b), None) if greedy && *b == self.weights_of_a => Some(
                "--a and --b are the same model, and with --temperature 0 or --top-k 1 their answers are identical",
            ),
            _ => None,
        }
    }

    /// The settings as the store keeps them.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    pub(crate) fn fields(&self) -> Result<Map<String, Value>> {
        match serde_json::to_value(self)? {
            Value::Object(fields) => Ok(fields),
            other => bail!("the settings must be a JSON object, not {other}"),
        }
    }

    /// What differs in `other`, a line each. Where a model lies makes no difference.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn differences(&self, other: &Self) -> Result<Vec<String>> {
        let (there, here) = (self.fields()?, other.fields()?);
        let names: Vec<&String> = there.keys().chain(here.keys().filter(|name| !there.contains_key(*name))).collect();
        let differs = |name: &&&String| !["a", "b"].contains(&name.as_str()) && there.get(**name) != here.get(**name);
        let shown = |value: Option<&Value>| match value {
            None => "not set".to_owned(),
            Some(Value::String(text)) => text.chars().take(60).collect(),
            Some(value) => value.to_string(),
        };
        let line = |name: &String| match name.strip_prefix("weights-of-") {
            Some(side) if there.contains_key(name) && here.contains_key(name) => {
                format!("--{side}: the weights differ")
            }
            Some(side) => format!(
                "--{side}: {} in the collection, {} in this command",
                shown(there.get(side)),
                shown(here.get(side))
            ),
            None => format!(
                "--{name}: {} in the collection, {} in this command",
                shown(there.get(name)),
                shown(here.get(name))
            ),
        };
        Ok(names.iter().filter(differs).map(|name| line(name)).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings(k: Option<usize>, prompts: &str) -> Settings {
        Settings {
            a: "runs/a".into(),
            weights_of_a: "1".to_owned(),
            b: k.is_none().then(|| "runs/b".into()),
            weights_of_b: k.is_none().then(|| "2".to_owned()),
            k,
            prompts: prompts.to_owned(),
            count: None,
            max_new_tokens: 16,
            stop: Vec::new(),
            sampling: Sampling { temperature: 0.7, ..Sampling::default() }.into(),
        }
    }

    #[test]
    fn settings_are_told_apart_by_their_names() {
        let there = settings(None, "p.txt");
        let elsewhere = Settings { a: "moved".into(), ..there.clone() };
        assert!(there.differences(&elsewhere).unwrap().is_empty());
        let mut here = Settings { weights_of_b: Some("3".to_owned()), count: Some(7), ..there.clone() };
        here.sampling.top_k = Some(40);
        assert_eq!(
            there.differences(&here).unwrap(),
            [
                "--b: the weights differ",
                "--count: not set in the collection, 7 in this command",
                "--top-k: not set in the collection, 40 in this command"
            ]
        );
        let k = there.differences(&settings(Some(4), "p.txt")).unwrap();
        assert!(k.contains(&"--k: not set in the collection, 4 in this command".to_owned()), "{k:?}");
    }

    #[test]
    fn answers_that_would_be_the_same_are_foreseen() {
        let greedy = |mut settings: Settings| {
            settings.sampling.temperature = 0.0;
            settings.answers_are_alike()
        };
        assert!(greedy(settings(Some(2), "world")).is_some());
        assert!(greedy(settings(None, "world")).is_none());
        assert!(greedy(Settings { weights_of_b: Some("1".to_owned()), ..settings(None, "world") }).is_some());
        assert!(settings(Some(2), "world").answers_are_alike().is_none());
    }
}
