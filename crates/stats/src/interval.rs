//! Percentile intervals.

use serde::{Deserialize, Serialize};

/// The middle 95% of drawn values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

impl Interval {
    /// The middle 95% of `values`; NaNs are left out, and both ends are NaN of no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().filter(|x| !x.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * values.len().saturating_sub(1) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            match (values.get(below), values.get(above)) {
                (Some(&a), Some(&b)) if a.is_finite() && b.is_finite() => a + (b - a) * place.fract(),
                (Some(&a), _) => a,
                _ => f64::NAN,
            }
        };
        Self { low: at(0.025), high: at(0.975) }
    }

    /// Whether `x` lies between the ends, both included.
    pub fn contains(&self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_leaves_out_as_much_on_either_side() {
        let interval = Interval::of((0..=1000).map(f64::from));
        assert_eq!(interval, Interval { low: 25.0, high: 975.0 });
        assert!(Interval::of([f64::NAN]).low.is_nan() && Interval::of([2.0]).contains(2.0));
    }
}
