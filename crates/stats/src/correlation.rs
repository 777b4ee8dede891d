//! Correlations, NaN where they are undefined.

use crate::moments::mean;
use std::cmp::Ordering;

/// Pearson correlation, from −1 to 1: covariance over the product of the standard deviations. NaN where it is
/// undefined: fewer than two pairs, values that are all the same, or one that is not finite.
///
/// # Panics
/// When the lengths differ.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "pairs");
    // Of equal values rounding can make unequal deviations.
    let undefined = |values: &[f64]| values.windows(2).all(|w| w[0] == w[1]) || !values.iter().all(|v| v.is_finite());
    if undefined(x) || undefined(y) {
        return f64::NAN;
    }
    let (x, y) = (unit_deviations(x), unit_deviations(y));
    x.iter().zip(&y).map(|(a, b)| a * b).sum::<f64>().clamp(-1.0, 1.0)
}

/// Spearman correlation: Pearson's of the ranks, equal values taking the mean of theirs. NaN where Pearson's is.
///
/// # Panics
/// When the lengths differ.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "pairs");
    if x.iter().chain(y).any(|v| v.is_nan()) {
        return f64::NAN;
    }
    pearson(&ranks(x), &ranks(y))
}

/// Deviations from the mean, as a vector of length 1. Divided by the largest first, so that no square overflows.
fn unit_deviations(values: &[f64]) -> Vec<f64> {
    let largest = |values: &[f64]| values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let by = largest(values);
    let scaled: Vec<f64> = values.iter().map(|v| v / by).collect();
    let middle = mean(&scaled);
    let off: Vec<f64> = scaled.iter().map(|v| v - middle).collect();
    let by = largest(&off);
    let off: Vec<f64> = off.iter().map(|v| v / by).collect();
    let length = off.iter().map(|v| v * v).sum::<f64>().sqrt();
    off.iter().map(|v| v / length).collect()
}

/// Place of each value in order, from 1; equal values have the mean of their places.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].partial_cmp(&values[b]).unwrap_or(Ordering::Equal)); // −0 equals 0; no NaN here
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean_place = first as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&i| ranks[i] = mean_place);
        first += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn assert_near(have: f64, want: f64) {
        assert!((have - want).abs() < 1e-12, "{have} is not {want}");
    }

    /// Reference: scipy 1.17.1, `pearsonr` and `spearmanr`.
    #[test]
    fn correlations_with_ties_agree_with_the_reference() {
        let x = [3.0, 1.5, 4.0, 1.5, 5.0, 2.5, 0.0, 3.0];
        let y = [2.8, 1.0, 5.0, 2.0, 4.5, 2.0, 0.5, 2.0];
        assert_near(pearson(&x, &y), 0.906_563_753_000_344_9);
        assert_near(spearman(&x, &y), 0.913_649_876_900_870_6);
    }

    #[test]
    fn equal_values_share_their_places() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
        assert_eq!(ranks(&[-0.0, 0.0]), [1.5, 1.5]);
    }

    #[test]
    fn undefined_correlations_are_nan() {
        for correlation in [pearson, spearman] {
            assert!(correlation(&[], &[]).is_nan());
            assert!(correlation(&[1.0], &[2.0]).is_nan());
            assert!(correlation(&[0.1, 0.1, 0.1], &[1.0, 2.0, 3.0]).is_nan(), "values that are all the same");
            assert!(correlation(&[1.0, f64::NAN, 3.0], &[1.0, 2.0, 3.0]).is_nan());
        }
        assert!(pearson(&[1.0, f64::INFINITY], &[1.0, 2.0]).is_nan());
        assert_near(spearman(&[1.0, f64::INFINITY], &[1.0, 2.0]), 1.0);
    }

    #[test]
    fn numbers_near_the_largest_do_not_overflow() {
        assert_near(pearson(&[1e300, -1e300, 0.0], &[1e-300, -1e-300, 0.0]), 1.0);
    }

    fn pairs() -> impl Strategy<Value = Vec<(f64, f64)>> {
        prop::collection::vec((-50..50i32, -50..50i32).prop_map(|(a, b)| (f64::from(a), f64::from(b))), 2..40)
    }

    proptest! {
        #[test]
        fn correlations_are_even_bounded_and_blind_to_scale(pairs in pairs(), scale in 0.1f64..9.0, shift in -9f64..9.0) {
            let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let moved: Vec<f64> = x.iter().map(|v| v * scale + shift).collect();
            let turned: Vec<f64> = x.iter().map(|v| -v).collect();
            for correlation in [pearson, spearman] {
                let r = correlation(&x, &y);
                if r.is_nan() {
                    let same = |v: &[f64]| v.iter().all(|a| a == &v[0]);
                    prop_assert!(same(&x) || same(&y));
                    continue;
                }
                prop_assert!((-1.0..=1.0).contains(&r));
                prop_assert!((correlation(&y, &x) - r).abs() < 1e-12);
                prop_assert!((correlation(&moved, &y) - r).abs() < 1e-9);
                prop_assert!((correlation(&turned, &y) + r).abs() < 1e-12);
            }
        }

        #[test]
        fn spearman_sees_order_alone(pairs in pairs()) {
            let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let bent: Vec<f64> = x.iter().map(|v| (v / 20.0).exp()).collect();
            let (straight, bent) = (spearman(&x, &y), spearman(&bent, &y));
            prop_assert!(straight.is_nan() && bent.is_nan() || (straight - bent).abs() < 1e-12);
        }
    }
}
