//! Strengths of models from comparisons of two answers each (Bradley and Terry 1952).

use crate::interval::Interval;
use crate::share::Z;
use gptkit_rng::Dice;
use serde::Serialize;

const N_RESAMPLES: u64 = 200;
/// Steps of the algorithm at most, and the change of all logarithms of odds at which it ends.
const MOST_STEPS: usize = 1_000;
const PRECISION: f64 = 1e-6;
/// Intervals of fewer points than this come from resamples that are all the same.
const LEAST_WIDTH: f64 = 0.01;
/// Mean of all strengths, as in chess.
const MEAN: f64 = 1_000.0;

/// The outcome of one comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairOutcome {
    /// Indices of the two that were compared.
    pub pair: [usize; 2],
    /// 1 when the first one won, 0.5 for a tie, 0 when it lost.
    pub score: f64,
}

/// A strength in Elo points: 400 points more are odds of 10 to 1, and the mean of all is 1000.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Strength {
    /// The estimate.
    pub value: f64,
    /// Lower end of the 95% interval.
    pub low: f64,
    /// Upper end of the 95% interval.
    pub high: f64,
}

/// The strength of each of `n`, with percentile intervals of a bootstrap over `clusters`: outcomes of one ranking depend on
/// each other.
///
/// Everyone also ties once with an opponent of mean strength: without this, whoever has won every comparison would have an
/// infinite strength. Where nothing varies from ranking to ranking, the interval is that of independent comparisons.
pub fn strengths(n: usize, clusters: &[Vec<PairOutcome>], seed: u64) -> Vec<Strength> {
    let resampled: Vec<Vec<f64>> = (0..N_RESAMPLES)
        .map(|resample| {
            let mut dice = Dice::for_evaluation(seed, "bradley-terry", resample);
            let drawn: Vec<&Vec<PairOutcome>> =
                clusters.iter().map(|_| &clusters[dice.below(clusters.len())]).collect();
            points(n, drawn.into_iter().flatten())
        })
        .collect();
    let estimates = points(n, clusters.iter().flatten());
    let of = |(i, &value): (usize, &f64)| {
        let Interval { low, high } = Interval::of(resampled.iter().map(|points| points[i]));
        if high - low < LEAST_WIDTH {
            let half = Z * standard_error(i, &estimates, clusters.iter().flatten());
            return Strength { value, low: value - half, high: value + half };
        }
        Strength { value, low, high }
    };
    estimates.iter().enumerate().map(of).collect()
}

/// Standard error of strength `i` for independent comparisons, from the second derivative of the likelihood.
fn standard_error<'a>(i: usize, points: &[f64], outcomes: impl Iterator<Item = &'a PairOutcome>) -> f64 {
    let information_against = |opponent: f64| {
        let expected = 1.0 / (1.0 + 10_f64.powf((opponent - points[i]) / 400.0));
        expected * (1.0 - expected)
    };
    let information = outcomes.map(|&PairOutcome { pair: [a, b], .. }| match (a == i, b == i) {
        (true, _) => information_against(points[b]),
        (_, true) => information_against(points[a]),
        _ => 0.0,
    });
    400.0 / std::f64::consts::LN_10 / (information.sum::<f64>() + information_against(MEAN)).sqrt()
}

/// Maximum likelihood by the algorithm of Hunter 2004 (eq. 3), in Elo points.
fn points<'a>(n: usize, outcomes: impl Iterator<Item = &'a PairOutcome>) -> Vec<f64> {
    let mut wins = vec![0.5; n]; // half a win, of the tie with the opponent of mean strength
    let mut met = vec![0.0; n * n];
    for &PairOutcome { pair: [a, b], score } in outcomes {
        wins[a] += score;
        wins[b] += 1.0 - score;
        met[a * n + b] += 1.0;
        met[b * n + a] += 1.0;
    }
    let mut odds = vec![1.0; n];
    for _ in 0..MOST_STEPS {
        let mut change: f64 = 0.0;
        for i in 0..n {
            let met_all: f64 = (0..n).map(|j| met[i * n + j] / (odds[i] + odds[j])).sum();
            let next = wins[i] / (met_all + 1.0 / (odds[i] + 1.0));
            change = change.max((next / odds[i]).ln().abs());
            odds[i] = next;
        }
        if change < PRECISION {
            break;
        }
    }
    let points: Vec<f64> = odds.iter().map(|odds| 400.0 * odds.log10()).collect();
    let mean = crate::mean(&points);
    points.iter().map(|points| points - mean + MEAN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(pair: [usize; 2], wins: usize, losses: usize) -> impl Iterator<Item = Vec<PairOutcome>> {
        let scores = [vec![1.0; wins], vec![0.0; losses]].concat();
        scores.into_iter().map(move |score| vec![PairOutcome { pair, score }])
    }

    /// Odds of 10 to 1 and of 10 to 1 again: 400 points each, but for the ties that are added.
    #[test]
    fn strengths_follow_the_odds() {
        let clusters: Vec<_> = outcomes([0, 1], 1_000, 100).chain(outcomes([2, 1], 100, 1_000)).collect();
        let found = strengths(3, &clusters, 1);
        for (strength, points) in found.iter().zip([1_400.0, 1_000.0, 600.0]) {
            assert!((strength.value - points).abs() < 3.0, "{found:?}");
            assert!(strength.low < points && points < strength.high && strength.high - strength.low < 120.0);
        }
    }

    /// The same as Wilson's interval of two ties, 10% to 90%.
    #[test]
    fn a_few_equal_outcomes_say_little() {
        let ties = vec![vec![PairOutcome { pair: [0, 1], score: 0.5 }]; 2];
        let found = strengths(2, &ties, 1);
        assert!((found[0].high - 1_393.0).abs() < 1.0 && (found[1].low - 607.0).abs() < 1.0, "{found:?}");
    }

    #[test]
    fn equals_are_equal_and_a_winner_of_all_has_a_finite_strength() {
        let even: Vec<_> = outcomes([0, 1], 20, 20).collect();
        assert!(strengths(2, &even, 1).iter().all(|one| (one.value - 1_000.0).abs() < 1e-3));
        let tied = [vec![PairOutcome { pair: [0, 1], score: 0.5 }]];
        assert!(strengths(2, &tied, 1).iter().all(|one| (one.value - 1_000.0).abs() < 1e-3));
        let all = strengths(2, &outcomes([0, 1], 5, 0).collect::<Vec<_>>(), 1);
        assert!(all[0].value > 1_100.0 && all[0].value < 1_600.0, "{all:?}");
        assert!(strengths(0, &[], 1).is_empty());
    }
}
