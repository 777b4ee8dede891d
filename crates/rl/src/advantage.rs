//! Rewards and values → how much better each token was than expected.

use gptkit_config::{Check, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Normalization of numbers before they are used; TOML values `none`, `centered`, `scaled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Whitening {
    /// No normalization.
    None,
    /// Mean 0 and variance 1, usual for advantages.
    Centered,
    /// Variance 1 with an unchanged mean, for rewards, whose sign matters (lm-human-preferences, `shift_mean=False`).
    Scaled,
}

impl Whitening {
    /// `numbers` with the variance of all of them, biased as TensorFlow's moments are, as 1: (x − mean)/√(var + 1e-8).
    pub fn apply(self, numbers: &mut [f32]) {
        if self == Self::None || numbers.is_empty() {
            return;
        }
        let n = numbers.len() as f64;
        let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = numbers.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let back = if self == Self::Scaled { mean } else { 0.0 };
        let scale = 1.0 / (variance + 1e-8).sqrt();
        numbers.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) * scale + back) as f32);
    }

    /// The same over the numbers of all of `lists`.
    pub(crate) fn apply_to_all(self, lists: &mut [&mut Vec<f32>]) {
        let mut all: Vec<f32> = lists.iter().flat_map(|list| list.iter().copied()).collect();
        self.apply(&mut all);
        let mut all = all.into_iter();
        lists.iter_mut().for_each(|list| list.iter_mut().zip(all.by_ref()).for_each(|(x, new)| *x = new));
    }
}

/// Generalized advantage estimation (Schulman et al. 2016, eq. 16); TOML section `[advantage]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdvantageConfig {
    /// Discount γ per token; 1 means no discount.
    pub gamma: f64,
    /// λ of the estimator, from 0 (trust the values) to 1 (rewards alone).
    pub lambda: f64,
    /// Normalization of the advantages over all tokens of an iteration.
    pub whitening: Whitening,
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self { gamma: 1.0, lambda: 0.95, whitening: Whitening::Centered }
    }
}

impl Check for AdvantageConfig {
    fn check(&self, problems: &mut Problems) {
        for (key, x, usual) in [("gamma", self.gamma, "use 1"), ("lambda", self.lambda, "use 0.95")] {
            problems.require((0.0..=1.0).contains(&x), key, "must be between 0 and 1", usual);
        }
    }
}

impl AdvantageConfig {
    /// Advantages and returns of one answer's tokens, before whitening. `rewards` and `values`: one for each token; after the
    /// last there is nothing more to expect.
    pub fn estimate(&self, rewards: &[f32], values: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut advantages = vec![0.0; rewards.len()];
        let (mut next_value, mut next_advantage) = (0.0, 0.0);
        for t in (0..rewards.len()).rev() {
            let value = f64::from(values[t]);
            let surprise = f64::from(rewards[t]) + self.gamma * next_value - value;
            next_advantage = surprise + self.gamma * self.lambda * next_advantage;
            (advantages[t], next_value) = (next_advantage as f32, value);
        }
        let returns = advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect();
        (advantages, returns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_testing::{assert_close, golden_cases, narrow, numbers};

    #[test]
    fn estimates_are_those_of_the_reference() {
        let cases = golden_cases("ppo.json", "gae");
        assert!(cases.len() >= 8);
        for case in cases {
            let number = |key: &str| case[key].as_f64().unwrap();
            let config = AdvantageConfig { gamma: number("gamma"), lambda: number("lambda"), ..Default::default() };
            let (advantages, returns) = config.estimate(&narrow(&case["rewards"]), &narrow(&case["values"]));
            assert_close("advantages", advantages.into_iter().map(f64::from), &numbers(&case["advantages"]), 1e-5);
            assert_close("returns", returns.into_iter().map(f64::from), &numbers(&case["returns"]), 1e-5);
        }
    }

    #[test]
    fn both_kinds_of_whitening_are_those_of_the_reference() {
        let mut seen = 0;
        for case in golden_cases("ppo.json", "whitening").into_iter().filter(|case| case["unbiased"] == false) {
            let kind: Whitening = serde_json::from_value(case["kind"].clone()).unwrap();
            let mut found = narrow(&case["values"]);
            kind.apply(&mut found);
            assert_close("whitened", found.into_iter().map(f64::from), &numbers(&case["whitened"]), 1e-5);
            seen += 1;
        }
        assert!(seen >= 4);
        let mut lists = [vec![1.0, 2.0], vec![4.0]];
        let mut all = vec![1.0, 2.0, 4.0];
        Whitening::Scaled.apply_to_all(&mut lists.iter_mut().collect::<Vec<_>>());
        Whitening::Scaled.apply(&mut all);
        assert_eq!(lists.concat(), all);
    }
}
