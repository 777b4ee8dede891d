//! Shares and their confidence intervals.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Standard error of a share of `n` independent trials, √(p (1 − p) / n).
pub fn standard_error_of_share(share: f64, n: u64) -> f64 {
    (share * (1.0 - share) / n as f64).sqrt()
}

/// Standard errors to either side of a normal's mean that hold 95%.
pub(crate) const Z: f64 = 1.96;

/// A share with its 95% confidence interval over clusters (prompts).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// From 0 to 1.
    pub value: f64,
    /// Lower end of the 95% interval.
    pub low: f64,
    /// Upper end of the 95% interval.
    pub high: f64,
    /// Number of trials (pairs, answers).
    pub n: u64,
}

impl Share {
    /// Standard error that the interval's width implies.
    pub fn standard_error(&self) -> f64 {
        (self.high - self.low) / (2.0 * Z)
    }

    /// The share of hits among all trials, from the hits and the trials of each cluster. Trials of one prompt are alike,
    /// so that the variance is that of a ratio of sums over clusters (Cochran 1977, §11.2). The interval is Wilson's
    /// (1927) for the number of independent trials that have this variance, or for the number of clusters where nothing
    /// varies.
    pub fn of(clusters: &[(f64, f64)]) -> Self {
        let (hits, n) = clusters.iter().fold((0.0, 0.0), |(hits, n), (h, m)| (hits + h, n + m));
        let value = hits / n;
        let m = clusters.len() as f64;
        let squares: f64 = clusters.iter().map(|(h, m)| (h - value * m).powi(2)).sum();
        let variance = squares * m / (m - 1.0).max(1.0) / (n * n);
        let independent = if variance > 0.0 { (value * (1.0 - value) / variance).min(n) } else { m };
        let middle = (value + Z * Z / (2.0 * independent)) / (1.0 + Z * Z / independent);
        let half = Z * (value * (1.0 - value) / independent + (Z / (2.0 * independent)).powi(2)).sqrt()
            / (1.0 + Z * Z / independent);
        Self { value, low: (middle - half).max(0.0), high: (middle + half).min(1.0), n: n as u64 }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |x: f64| 100.0 * x;
        write!(f, "{:.1}% [{:.1}, {:.1}]", percent(self.value), percent(self.low), percent(self.high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_of_one_cluster_say_less_than_of_many() {
        let alone = Share::of(&vec![(1.0, 1.0); 50].into_iter().chain(vec![(0.0, 1.0); 50]).collect::<Vec<_>>());
        // Wilson's interval for a half of 99.
        assert!((alone.low - 0.403_36).abs() < 1e-4 && (alone.high - 0.596_64).abs() < 1e-4, "{alone:?}");
        let none = Share::of(&[(0.0, 1.0); 4]);
        // Of none of four: z²/(n + z²).
        assert!(none.low == 0.0 && (none.high - 0.489_9).abs() < 1e-4, "{none:?}");
        let together = Share::of(&[(10.0, 10.0), (0.0, 10.0), (10.0, 10.0), (0.0, 10.0)]);
        assert!((together.value - 0.5).abs() < 1e-9 && together.high - together.low > 0.6, "{together:?}");
    }

    #[test]
    fn an_independent_share_has_the_binomial_error() {
        assert_eq!(standard_error_of_share(0.5, 100), 0.05);
    }
}
