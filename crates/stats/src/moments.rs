//! Mean, variance and standard errors.

use serde::Serialize;

/// Arithmetic mean; NaN of no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Population variance, Σ (x − x̄)² / n; NaN of no values.
pub fn variance(values: &[f64]) -> f64 {
    squared_deviations(values) / values.len() as f64
}

/// Unbiased variance, Σ (x − x̄)² / (n − 1); NaN of fewer than 2 values.
pub fn sample_variance(values: &[f64]) -> f64 {
    if values.len() < 2 { f64::NAN } else { squared_deviations(values) / (values.len() as f64 - 1.0) }
}

/// Mean of values that vary by chance, and its standard error √(s²/n) with the unbiased variance s². The error is NaN of
/// fewer than 2 values.
pub fn mean_with_error(values: &[f64]) -> (f64, f64) {
    (mean(values), (sample_variance(values) / values.len() as f64).sqrt())
}

/// Mean of independent estimates, given as value and standard error eᵢ, and its own standard error √(Σ eᵢ²) / n. NaN of
/// no estimates.
pub fn mean_of_estimates(estimates: impl IntoIterator<Item = (f64, f64)>) -> (f64, f64) {
    let (mut n, mut sum, mut variance) = (0.0, 0.0, 0.0);
    for (value, error) in estimates {
        (n, sum, variance) = (n + 1.0, sum + value, variance + error.powi(2));
    }
    (sum / n, variance.sqrt() / n)
}

/// Square root of the mean of the squares; NaN of no values.
pub fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
}

/// Σ (x − x̄)².
pub(crate) fn squared_deviations(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|x| (x - mean).powi(2)).sum()
}

/// Mean and standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moments {
    /// NaN of no values.
    pub mean: f64,
    /// Population standard deviation; NaN of no values.
    pub std: f64,
}

impl Moments {
    /// Mean and standard deviation of `values`, in two passes.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (n, sum) = values.clone().fold((0.0, 0.0), |(n, sum), x| (n + 1.0, sum + x));
        let mean = sum / n;
        Self { mean, std: (values.map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_follow_their_definitions() {
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!((mean(&values), variance(&values), sample_variance(&values)), (5.0, 4.0, 32.0 / 7.0));
        assert_eq!(Moments::of(values.into_iter()), Moments { mean: 5.0, std: 2.0 });
        assert_eq!(mean_with_error(&values), (5.0, (4.0f64 / 7.0).sqrt()));
        assert_eq!(root_mean_square(&[3.0, 4.0]), 12.5f64.sqrt());
    }

    #[test]
    fn errors_of_independent_estimates_add_as_squares() {
        assert_eq!(mean_of_estimates([(1.0, 3.0), (2.0, 4.0)]), (1.5, 2.5));
    }

    #[test]
    fn undefined_moments_are_nan() {
        for undefined in
            [mean(&[]), variance(&[]), sample_variance(&[1.0]), mean_with_error(&[1.0]).1, root_mean_square(&[])]
        {
            assert!(undefined.is_nan());
        }
        assert!(mean_of_estimates([]).0.is_nan() && Moments::of([].into_iter()).mean.is_nan());
        assert_eq!((mean(&[1.0]), variance(&[1.0])), (1.0, 0.0));
    }
}
