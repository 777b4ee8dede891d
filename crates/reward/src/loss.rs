//! The loss of comparisons.

use anyhow::Result;
use candle_core::Tensor;
use gptkit_config::{Check, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Terms added to the paper's loss; TOML section `[loss]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LossConfig {
    /// Margin by which the better reward must exceed the worse, per rank between them (Touvron et al. 2023, eq. 2); 0 in the
    /// paper.
    pub margin: f64,
    /// Weight λ of the term λ · (r_w + r_l)², which keeps rewards near 0 (Eisenstein et al. 2023, §2); 0 in the paper.
    pub centering: f64,
}

impl Check for LossConfig {
    fn check(&self, problems: &mut Problems) {
        for (key, x, usual) in
            [("margin", self.margin, "use 0, or 0.3"), ("centering", self.centering, "use 0, or 0.01")]
        {
            problems.require(x >= 0.0 && x.is_finite(), key, "must be 0 or greater, and finite", usual);
        }
    }
}

/// Pairs of completions of which one is better, with what each counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pairs {
    /// Numbers of the better completions among all of a batch.
    winners: Vec<u32>,
    /// Those of the worse ones.
    losers: Vec<u32>,
    /// Places between them.
    gaps: Vec<f32>,
    /// Share of each in the loss.
    weights: Vec<f32>,
}

impl Pairs {
    /// The pairs of `groups`, given as the places of their completions, of a batch of `n_groups`: each group counts as
    /// much as any other, and within it each of its pairs, C(K, 2) where none is tied (Ouyang et al. 2022, eq. 1). Ties
    /// say nothing of which is better, and make no pair.
    pub fn of<'a>(groups: impl IntoIterator<Item = &'a [u32]>, n_groups: usize) -> Self {
        let (mut pairs, mut first) = (Self::default(), 0);
        for places in groups {
            let own: Vec<(usize, usize)> = gptkit_data::comparison::pairs(places).collect();
            for &(winner, loser) in &own {
                pairs.winners.push((first + winner) as u32);
                pairs.losers.push((first + loser) as u32);
                pairs.gaps.push((places[loser] - places[winner]) as f32);
                pairs.weights.push(1.0 / (own.len() * n_groups.max(1)) as f32);
            }
            first += places.len();
        }
        pairs
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.winners.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.winners.is_empty()
    }

    /// Σ weight·(−log σ(r_w − r_l − margin·gap) + centering·(r_w + r_l)²), nats. `rewards`: `[N]`, one a completion.
    /// Returns a scalar.
    ///
    /// # Errors
    /// When a pair's completion is not among them.
    pub fn loss(&self, rewards: &Tensor, config: &LossConfig) -> Result<Tensor> {
        let device = rewards.device();
        if self.is_empty() {
            return Ok((rewards.sum_all()? * 0.0)?);
        }
        let (n, pick) = (self.len(), |at: &[u32]| rewards.index_select(&Tensor::new(at, device)?, 0));
        let (winners, losers) = (pick(&self.winners)?, pick(&self.losers)?); // [pairs]
        let margins: Vec<f32> = self.gaps.iter().map(|gap| gap * config.margin as f32).collect();
        let ahead = ((&winners - &losers)? - Tensor::from_vec(margins, n, device)?)?;
        let mut losses = minus_log_sigmoid(&ahead)?;
        if config.centering != 0.0 {
            losses = (losses + ((winners + losers)?.sqr()? * config.centering)?)?;
        }
        Ok((losses * Tensor::new(self.weights.as_slice(), device)?)?.sum_all()?)
    }
}

/// −log σ(x) = log(1 + e^−x), whatever the size of `x`.
fn minus_log_sigmoid(x: &Tensor) -> Result<Tensor> {
    // The larger exponent is taken out, as a constant: the derivative is that of what is written, also at 0.
    let largest = x.neg()?.relu()?.detach();
    let sum = (largest.neg()?.exp()? + (x.neg()? - &largest)?.exp()?)?;
    Ok((sum.log()? + largest)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn rewards(values: &[f32]) -> Var {
        Var::new(values, &Device::Cpu).unwrap()
    }

    fn loss_and_gradient(values: &[f32], groups: &[&[u32]], config: &LossConfig) -> (f32, Vec<f32>) {
        let r = rewards(values);
        let loss = Pairs::of(groups.iter().copied(), groups.len()).loss(r.as_tensor(), config).unwrap();
        let gradient = loss.backward().unwrap().get(&r).map_or(vec![0.0; values.len()], |g| g.to_vec1().unwrap());
        (loss.to_scalar().unwrap(), gradient)
    }

    /// The paper's formula in f64, pair by pair, and its derivative: σ(x) − 1.
    fn by_hand(values: &[f32], groups: &[&[u32]], margin: f64, centering: f64) -> (f64, Vec<f64>) {
        let (mut loss, mut gradient, mut first) = (0.0, vec![0.0; values.len()], 0);
        for places in groups {
            let mut pairs = Vec::new();
            for i in 0..places.len() {
                for j in 0..places.len() {
                    if places[i] < places[j] {
                        pairs.push((first + i, first + j, f64::from(places[j] - places[i])));
                    }
                }
            }
            for &(w, l, gap) in &pairs {
                let (a, b) = (f64::from(values[w]), f64::from(values[l]));
                let x = a - b - margin * gap;
                let share = 1.0 / (pairs.len() * groups.len()) as f64;
                let sigmoid = 1.0 / (1.0 + (-x).exp());
                loss += share * (-sigmoid.ln() + centering * (a + b).powi(2));
                gradient[w] += share * (sigmoid - 1.0 + centering * 2.0 * (a + b));
                gradient[l] += share * (1.0 - sigmoid + centering * 2.0 * (a + b));
            }
            first += places.len();
        }
        (loss, gradient)
    }

    #[test]
    fn loss_and_gradient_are_the_formulas() {
        let values = [0.3, -1.2, 2.0, 2.0, 0.1, 5.0, -3.0, 0.0];
        let groups: [&[u32]; 3] = [&[2, 1, 3, 3], &[1, 1], &[2, 1]];
        for (margin, centering) in [(0.0, 0.0), (0.4, 0.0), (0.0, 0.02), (0.3, 0.01)] {
            let config = LossConfig { margin, centering };
            let (loss, gradient) = loss_and_gradient(&values, &groups, &config);
            let (want, wanted) = by_hand(&values, &groups, margin, centering);
            assert!((f64::from(loss) - want).abs() < 1e-6, "{loss}, by hand {want}");
            for (have, want) in gradient.iter().zip(&wanted) {
                assert!((f64::from(*have) - want).abs() < 1e-6, "{gradient:?}, by hand {wanted:?}");
            }
        }
    }

    #[test]
    fn rewards_that_are_equal_or_far_apart_have_sound_gradients() {
        for (values, want) in [([1.0, 1.0], [-0.5, 0.5]), ([200.0, -200.0], [0.0, 0.0]), ([-200.0, 200.0], [-1.0, 1.0])]
        {
            let (loss, gradient) = loss_and_gradient(&values, &[&[1, 2]], &LossConfig::default());
            assert!(loss.is_finite());
            assert_eq!(gradient, want, "{values:?}");
        }
        let (loss, _) = loss_and_gradient(&[0.0, 0.0], &[&[1, 2]], &LossConfig::default());
        assert!((loss - 2f32.ln()).abs() < 1e-6, "a coin: {loss}");
    }

    #[test]
    fn groups_of_ties_alone_have_no_loss() {
        let (loss, gradient) = loss_and_gradient(&[1.0, 2.0], &[&[1, 1]], &LossConfig::default());
        assert_eq!((loss, gradient), (0.0, vec![0.0, 0.0]));
    }
}
