//! How far the policy is from where it began, and what that costs.

use gptkit_config::{Check, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An estimate of the KL divergence from one sampled token, with d = ln π(token) − ln π_ref(token) (Schulman 2020,
/// "Approximating KL divergence").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Estimator {
    /// d: unbiased, sometimes negative (Ouyang et al. 2022, eq. 2).
    K1,
    /// d²/2: never negative, biased.
    K2,
    /// e⁻ᵈ − 1 + d: never negative, unbiased.
    K3,
}

impl Estimator {
    /// Of one token.
    pub fn of(self, log_prob: f32, reference: f32) -> f32 {
        let d = log_prob - reference;
        match self {
            Self::K1 => d,
            Self::K2 => d * d / 2.0,
            Self::K3 => (-d).exp() - 1.0 + d,
        }
    }
}

/// Adaptation of β to a target divergence (Ziegler et al. 2019, §2.2); TOML section `[reward.adaptive]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdaptiveKl {
    /// Target KL divergence in nats per answer.
    pub target: f64,
    /// Horizon of the adaptation, in episodes.
    pub horizon: f64,
}

impl AdaptiveKl {
    /// β after `episodes` whose mean divergence was `kl`: β·(1 + clip(kl/target − 1, ±0.2)·episodes/horizon).
    pub fn next(&self, kl_coef: f64, kl: f64, episodes: usize) -> f64 {
        let error = (kl / self.target - 1.0).clamp(-0.2, 0.2);
        kl_coef * (1.0 + error * episodes as f64 / self.horizon)
    }
}

impl Check for AdaptiveKl {
    fn check(&self, problems: &mut Problems) {
        for (key, x, usual) in [("target", self.target, "use 6"), ("horizon", self.horizon, "use 10000")] {
            problems.require(x > 0.0 && x.is_finite(), key, "must be positive", usual);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_testing::{assert_close, golden_cases, numbers};

    #[test]
    fn estimates_are_those_of_the_reference() {
        for case in golden_cases("ppo.json", "kl") {
            let (log_probs, reference) = (numbers(&case["log_probs"]), numbers(&case["reference"]));
            for (key, estimator) in [("k1", Estimator::K1), ("k2", Estimator::K2), ("k3", Estimator::K3)] {
                let found = log_probs.iter().zip(&reference).map(|(a, b)| estimator.of(*a as f32, *b as f32));
                assert_close(key, found.map(f64::from), &numbers(&case[key]), 2e-6);
            }
        }
    }

    #[test]
    fn the_controller_is_that_of_the_reference() {
        for case in golden_cases("ppo.json", "adaptive_kl") {
            let number = |key: &str| case[key].as_f64().unwrap();
            let controller = AdaptiveKl { target: number("target"), horizon: number("horizon") };
            let mut kl_coef = number("initial");
            for step in case["steps"].as_array().unwrap() {
                let (kl, episodes) = (step["kl"].as_f64().unwrap(), step["episodes"].as_u64().unwrap());
                kl_coef = controller.next(kl_coef, kl, episodes as usize);
                assert_close("β", [kl_coef], &[step["coef_after"].as_f64().unwrap()], 1e-12);
            }
        }
    }
}
