//! The reward of each token: what leaving the reference costs, and at the end the reward model's score (Ouyang et al. 2022,
//! eq. 2).

use crate::advantage::Whitening;
use crate::kl::{AdaptiveKl, Estimator};
use gptkit_config::{Check, Problems};
use serde::{Deserialize, Serialize};

/// What becomes of the score of an answer that was cut before its end. The reward model reads it with the chat template's end
/// appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingEnd {
    /// It counts as it is. InstructGPT names no rule.
    Ignored,
    /// `missing_end_value` is taken away from it (TRL).
    Penalty,
    /// It is `missing_end_value` instead (Ziegler et al. 2019, §2.2; Stiennon et al.'s code).
    Fixed,
}

/// TOML section `[reward]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShapingConfig {
    /// β, what a nat of divergence costs; the first, where it adapts.
    pub kl_coef: f64,
    /// How the divergence of a token is estimated.
    pub kl: Estimator,
    /// Whether β follows the divergence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveKl>,
    /// What scores are multiplied with.
    pub scale: f64,
    /// Scores beyond ± this are cut to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// What becomes of the score of an answer without its end.
    pub missing_end: MissingEnd,
    /// What `missing_end` takes away, or sets.
    pub missing_end_value: f64,
    /// What tokens' rewards become, over all tokens of an iteration.
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
            "is negative or not finite",
            "use 0.02",
        );
        problems.require(positive(self.scale), "scale", "is not positive", "use 1");
        problems.require(self.clip.is_none_or(positive), "clip", "is not positive", "leave it out for no limit");
        problems.require(self.missing_end_value.is_finite(), "missing_end_value", "is not finite", "use 1");
        let whitening = self.whitening != Whitening::Centered;
        problems.require(whitening, "whitening", "would take the rewards' mean away", "use scaled or none");
        if let Some(adaptive) = &self.adaptive {
            problems.section("adaptive", adaptive);
            problems.require(self.kl_coef > 0.0, "kl_coef", "is 0, and nothing to adapt", "use 0.15");
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
