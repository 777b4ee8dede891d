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

/// The 97.5% quantile of Student's t distribution with `degrees` degrees of freedom: 12.7 with one, 4.30 with two, near
/// 1.96 with many. Up to 10 from the table of the distribution; beyond, by Cornish and Fisher's
/// expansion, to 0.003.
pub fn student_t_975(degrees: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    let z = 1.959_964_f64;
    match degrees {
        0 => f64::INFINITY,
        1..=10 => TABLE[degrees - 1],
        _ => {
            let n = degrees as f64;
            let first = (z.powi(3) + z) / (4.0 * n);
            let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n);
            z + first + second
        }
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

    #[test]
    fn students_quantiles_are_those_of_the_table() {
        for (degrees, expected) in [(1, 12.706), (2, 4.303), (10, 2.228), (11, 2.201), (20, 2.086), (120, 1.980)] {
            let found = student_t_975(degrees);
            assert!((found - expected).abs() < 3e-3, "{degrees}: {found}, not {expected}");
        }
        assert!(student_t_975(0).is_infinite());
    }
}
