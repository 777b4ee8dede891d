//! The clipped losses (Schulman et al. 2017, eq. 7; lm-human-preferences for the values), as numbers with their gradients.

use candle_core::{Result, Tensor};

/// Of the tokens of a part of a minibatch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loss {
    /// The part's share of the minibatch's loss.
    pub loss: f64,
    /// With respect to each number that was given.
    pub gradient: Vec<f32>,
    /// Tokens where the clipped term is the larger, so that nothing is learned.
    pub clipped: usize,
}

/// Σ max(−A·r, −A·clip(r, 1 ± `clip_range`)) / `n_tokens`, r = π/π_old: of `log_probs` with their `old` ones and `advantages`,
/// of a minibatch of `n_tokens`.
pub fn policy_loss(log_probs: &[f32], old: &[f32], advantages: &[f32], clip_range: f64, n_tokens: usize) -> Loss {
    let mut found = Loss::default();
    for ((&log_prob, &old), &advantage) in log_probs.iter().zip(old).zip(advantages) {
        let ratio = (f64::from(log_prob) - f64::from(old)).exp();
        let advantage = f64::from(advantage);
        let (plain, clipped) = (-advantage * ratio, -advantage * ratio.clamp(1.0 - clip_range, 1.0 + clip_range));
        found.loss += plain.max(clipped) / n_tokens as f64;
        found.clipped += usize::from(clipped > plain);
        // d r / d ln π = r.
        found.gradient.push(if clipped > plain { 0.0 } else { (plain / n_tokens as f64) as f32 });
    }
    found
}

/// ½ Σ max((v − R)², (v_clipped − R)²) / `n_tokens`, v_clipped = v_old + clip(v − v_old, ± `clip_range`): of `values` with
/// their `old` ones and `returns`. Without a range nothing is clipped.
pub fn value_loss(values: &[f32], old: &[f32], returns: &[f32], clip_range: Option<f64>, n_tokens: usize) -> Loss {
    let mut found = Loss::default();
    for ((&value, &old), &given) in values.iter().zip(old).zip(returns) {
        let (value, old, given) = (f64::from(value), f64::from(old), f64::from(given));
        let near = clip_range.map_or(value, |range| old + (value - old).clamp(-range, range));
        let (plain, clipped) = ((value - given).powi(2), (near - given).powi(2));
        found.loss += 0.5 * plain.max(clipped) / n_tokens as f64;
        found.clipped += usize::from(clipped > plain);
        found.gradient.push(if clipped > plain { 0.0 } else { ((value - given) / n_tokens as f64) as f32 });
    }
    found
}

/// A scalar of the value `loss.loss` that has the gradient `loss.gradient` with respect to `numbers`, `[N]`.
///
/// # Errors
/// When there are not as many.
pub(crate) fn differentiable(numbers: &Tensor, loss: &Loss) -> Result<Tensor> {
    let gradient = Tensor::from_slice(&loss.gradient, loss.gradient.len(), numbers.device())?;
    let linear = (numbers * gradient)?.sum_all()?;
    let value = f64::from(linear.to_scalar::<f32>()?);
    linear.affine(1.0, loss.loss - value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};
    use gptkit_testing::{assert_close, golden_cases, narrow, numbers};
    use serde_json::Value;

    fn check(found: &Loss, case: &Value) {
        assert_close("loss", [found.loss], &[case["loss"].as_f64().unwrap()], 1e-6);
        assert_close("gradient", found.gradient.iter().map(|&x| f64::from(x)), &numbers(&case["gradient"]), 1e-6);
        let share = found.clipped as f64 / found.gradient.len() as f64;
        assert_close("clip fraction", [share], &[case["clip_fraction"].as_f64().unwrap()], 1e-9);
    }

    #[test]
    fn the_policys_loss_is_that_of_the_reference() {
        let cases = golden_cases("ppo.json", "policy_loss");
        assert!(cases.iter().any(|case| case["clip_fraction"].as_f64().unwrap() > 0.0));
        for case in cases {
            let log_probs = narrow(&case["log_probs"]);
            let (old, advantages) = (narrow(&case["old_log_probs"]), narrow(&case["advantages"]));
            let clip_range = case["clip_range"].as_f64().unwrap();
            let found = policy_loss(&log_probs, &old, &advantages, clip_range, log_probs.len());
            check(&found, &case);
            // In parts it adds up.
            let cut = log_probs.len() / 2;
            let part = |range: std::ops::Range<usize>| {
                let (log_probs, old) = (&log_probs[range.clone()], &old[range.clone()]);
                policy_loss(log_probs, old, &advantages[range], clip_range, found.gradient.len())
            };
            assert_close("parts", [part(0..cut).loss + part(cut..log_probs.len()).loss], &[found.loss], 1e-12);
        }
    }

    #[test]
    fn the_values_loss_is_that_of_the_reference() {
        let cases = golden_cases("ppo.json", "value_loss");
        assert!(cases.iter().any(|case| case["clip_fraction"].as_f64().unwrap() > 0.0));
        for case in cases {
            let (values, old) = (narrow(&case["values"]), narrow(&case["old_values"]));
            let returns = narrow(&case["returns"]);
            check(&value_loss(&values, &old, &returns, case["clip_range"].as_f64(), values.len()), &case);
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (old, advantages) = ([-1.0f32, -2.0, -0.5, -3.0, -1.5], [1.0f32, -0.5, 0.3, -2.0, 0.7]);
        let at = [-0.9f32, -2.3, 0.2, -2.9, -2.5];
        let policy = |x: &[f32]| policy_loss(x, &old, &advantages, 0.2, 5);
        let value = |x: &[f32]| value_loss(x, &old, &advantages, Some(0.2), 5);
        for of in [&policy as &dyn Fn(&[f32]) -> Loss, &value] {
            for (i, gradient) in of(&at).gradient.into_iter().enumerate() {
                let moved = |by: f32| {
                    let mut at = at;
                    at[i] += by;
                    of(&at).loss
                };
                let measured = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                assert!((measured - f64::from(gradient)).abs() < 1e-3, "{i}: {gradient}, by differences {measured}");
            }
        }
    }

    #[test]
    fn a_loss_hands_its_gradient_on() {
        let numbers = Var::from_tensor(&Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap()).unwrap();
        let given = Loss { loss: 7.5, gradient: vec![0.5, -3.0], clipped: 0 };
        let loss = differentiable(numbers.as_tensor(), &given).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 7.5);
        let gradient = loss.backward().unwrap().get(&numbers).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(gradient, given.gradient);
    }
}
