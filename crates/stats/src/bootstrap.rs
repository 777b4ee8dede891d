//! The bootstrap: how far a score would move with other instances of the same kind (Efron 1979).

use crate::moments::squared_deviations;
use gptkit_rng::Dice;

const N_RESAMPLES: u64 = 1_000;

/// Bootstrap estimate of the standard error of `statistic` (Efron and Tibshirani 1993, eq. 6.6): the standard deviation
/// of its values for `n` instances drawn from the `n` that there are, each as often as it is drawn.
///
/// `statistic` takes the indices of the drawn instances. NaN of fewer than 2 instances.
pub fn standard_error(n: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> f64 {
    if n < 2 {
        return f64::NAN;
    }
    let mut drawn = vec![0; n];
    let values: Vec<f64> = (0..N_RESAMPLES)
        .map(|resample| {
            let mut dice = Dice::for_evaluation(seed, "bootstrap", resample);
            drawn.iter_mut().for_each(|index| *index = dice.below(n));
            statistic(&drawn)
        })
        .collect();
    (squared_deviations(&values) / (N_RESAMPLES - 1) as f64).sqrt()
}

/// Limit of [`standard_error`] of a mean for many resamples, without drawing any: √(Σ (x − x̄)²) / n.
pub fn standard_error_of_mean(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::NAN;
    }
    squared_deviations(values).sqrt() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_of<'v>(values: &'v [f64]) -> impl Fn(&[usize]) -> f64 + 'v {
        |drawn| drawn.iter().map(|&i| values[i]).sum::<f64>() / drawn.len() as f64
    }

    /// Of a share p of n: √(p (1 − p) / n).
    #[test]
    fn a_mean_has_its_analytic_standard_error() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 5 == 0))).collect();
        let analytic = (0.2f64 * 0.8 / 400.0).sqrt();
        assert!((standard_error_of_mean(&values) - analytic).abs() < 1e-12);
        for seed in 0..5 {
            let drawn = standard_error(values.len(), seed, mean_of(&values));
            assert!((drawn / analytic - 1.0).abs() < 0.09, "{drawn}, {analytic}"); // 4 × 1/√(2 · 1000)
        }
    }

    /// Median of 1 to 2m − 1 drawn anew: its distribution is known (Efron 1979, §3).
    #[test]
    fn a_median_has_the_standard_error_of_its_distribution() {
        let choose = |n: i32, k: i32| (1..=k).fold(1.0, |c, i| c * f64::from(n - k + i) / f64::from(i));
        // P(median > k) = P(at most m − 1 = 2 of 5 draws are k or below).
        let above = |k: i32| -> f64 {
            let p = f64::from(k) / 5.0;
            (0..=2).map(|j| choose(5, j) * p.powi(j) * (1.0 - p).powi(5 - j)).sum()
        };
        let share = |k: i32| above(k - 1) - above(k);
        let variance: f64 = (1..=5).map(|k| share(k) * f64::from(k - 3).powi(2)).sum();
        let found = standard_error(5, 1, |drawn| {
            let mut drawn = drawn.to_vec();
            drawn.sort_unstable();
            drawn[2] as f64
        });
        assert!((found / variance.sqrt() - 1.0).abs() < 0.09, "{found}, {}", variance.sqrt());
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let values: Vec<f64> = (0..50).map(f64::from).collect();
        let of_seed = |seed| standard_error(values.len(), seed, mean_of(&values));
        assert_eq!(of_seed(1), of_seed(1));
        assert_ne!(of_seed(1), of_seed(2));
    }

    #[test]
    fn fewer_than_two_instances_have_no_standard_error() {
        for n in [0, 1] {
            assert!(standard_error(n, 1, |_| 1.0).is_nan());
            assert!(standard_error_of_mean(&vec![1.0; n]).is_nan());
        }
        assert_eq!(standard_error(9, 1, |_| 1.0), 0.0);
        assert!(standard_error(9, 1, |_| f64::NAN).is_nan());
    }
}
