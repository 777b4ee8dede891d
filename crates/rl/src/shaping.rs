//! The reward of each token: what leaving the reference costs, and at the end the reward model's score (Ouyang et al. 2022,
//! eq. 2).

use crate::advantage::Whitening;
use crate::kl::{AdaptiveKl, Estimator};
use gptkit_config::{Check, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How to score an answer that was cut before its end. The reward model reads it with the chat template's end appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MissingEnd {
    /// Keep the score. InstructGPT names no rule.
    Ignored,
    /// Subtract `missing_end_value` from the score (TRL).
    Penalty,
    /// Replace the score with `missing_end_value` (Ziegler et al. 2019, §2.2; the code of Stiennon et al.).
    Fixed,
}

/// How rewards are computed; TOML section `[reward]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ShapingConfig {
    /// Coefficient β of the KL penalty, reward per nat; the initial one if it adapts.
    pub kl_coef: f64,
    /// Estimator of the KL divergence per token.
    pub kl: Estimator,
    /// Adaptation of β to a target divergence; β is constant when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveKl>,
    /// Factor that scores are multiplied by.
    pub scale: f64,
    /// Bound to which scores are clipped on both sides; no bound when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// How to score an answer that was cut before its end.
    pub missing_end: MissingEnd,
    /// Value that `missing_end` subtracts from the score, or sets.
    pub missing_end_value: f64,
    /// Normalization of the rewards over all tokens of an iteration.
    pub whitening: Whitening,
}

impl Default for ShapingConfig {
    fn default() -> Self {
        Self {
            kl_coef: 0.02,
            kl: Estimator::K1,
            adaptive: None,
            scale: 1.0,
            clip: None,
            missing_end: MissingEnd::Penalty,
            missing_end_value: 1.0,
            whitening: Whitening::None,
        }
    }
}

impl Check for ShapingConfig {
    fn check(&self, problems: &mut Problems) {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        problems.require(
            self.kl_coef >= 0.0 && self.kl_coef.is_finite(),
            "kl_coef",
            "must be 0 or greater, and finite",
            "use 0.02",
        );
        problems.require(positive(self.scale), "scale", "must be positive", "use 1");
        problems.require(self.clip.is_none_or(positive), "clip", "must be positive", "remove it for no limit");
        problems.require(self.missing_end_value.is_finite(), "missing_end_value", "must be finite", "use 1");
        let whitening = self.whitening != Whitening::Centered;
        problems.require(
            whitening,
            "whitening",
            "cannot be centered, because that would remove the mean reward",
            "use scaled or none",
        );
        if let Some(adaptive) = &self.adaptive {
            problems.section("adaptive", adaptive);
            problems.require(self.kl_coef > 0.0, "kl_coef", "must be positive with reward.adaptive", "use 0.15");
        }
    }
}

impl ShapingConfig {
    /// The score of an answer as it counts, from the reward model's.
    pub fn score(&self, score: f32, ended: bool) -> f32 {
        let score = f64::from(score) * self.scale;
        let score = self.clip.map_or(score, |clip| score.clamp(-clip, clip));
        let score = match self.missing_end {
            MissingEnd::Penalty if !ended => score - self.missing_end_value,
            MissingEnd::Fixed if !ended => self.missing_end_value,
            _ => score,
        };
        score as f32
    }

    /// Rewards of an answer's tokens, before whitening: −`kl_coef`·KL at each, the `score` on the last.
    pub fn rewards(&self, log_probs: &[f32], reference: &[f32], kl_coef: f64, score: f32) -> Vec<f32> {
        let cost =
            |(&log_prob, &reference): (&f32, &f32)| (-kl_coef * f64::from(self.kl.of(log_prob, reference))) as f32;
        let mut rewards: Vec<f32> = log_probs.iter().zip(reference).map(cost).collect();
        if let Some(last) = rewards.last_mut() {
            *last += score;
        }
        rewards
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_testing::{assert_close, golden_cases, narrow, numbers};
    use serde_json::json;

    /// With both rules for answers that never end.
    #[test]
    fn rewards_are_those_of_the_reference() {
        let mut rules = std::collections::BTreeSet::new();
        for case in golden_cases("ppo.json", "rewards") {
            let text = |key: &str| if case[key] == "none" { json!("ignored") } else { case[key].clone() };
            let config = ShapingConfig {
                kl: serde_json::from_value(text("kind")).unwrap(),
                clip: case["clip"].as_f64(),
                missing_end: serde_json::from_value(text("missing_end")).unwrap(),
                missing_end_value: case["missing_end_value"].as_f64().unwrap_or(0.0),
                ..ShapingConfig::default()
            };
            let ended = case["ended"].as_bool().unwrap();
            if !ended {
                rules.insert(format!("{:?}", config.missing_end));
            }
            let score = config.score(case["score"].as_f64().unwrap() as f32, ended);
            let (log_probs, reference) = (narrow(&case["log_probs"]), narrow(&case["reference"]));
            let found = config.rewards(&log_probs, &reference, case["kl_coef"].as_f64().unwrap(), score);
            assert_close("rewards", found.into_iter().map(f64::from), &numbers(&case["rewards"]), 2e-6);
        }
        assert!(rules.contains("Penalty") && rules.contains("Fixed"), "{rules:?}");
    }
}
