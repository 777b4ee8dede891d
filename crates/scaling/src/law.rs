//! One variable: L(X) = (X_c/X)^α (Kaplan et al. 2020, eq. 1.1 to 1.3), or with a part that no X takes away.

use super::descent::{Distance, LogLossPoint, PowerSum};
use super::noise::Noise;
use anyhow::{Result, ensure};
use gptkit_rng::Dice;
use gptkit_stats::Interval;
use gptkit_stats::moments::root_mean_square;

/// L(X) = E + (X_c/X)^α.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerLaw {
    /// E, nats per token; 0 in Kaplan's laws.
    pub irreducible: f64,
    /// Logarithm of X_c, in the unit of X.
    pub log_constant: f64,
    /// α.
    pub exponent: f64,
}

impl PowerLaw {
    /// Nats a token at `x`.
    pub fn loss(&self, x: f64) -> f64 {
        self.irreducible + (self.exponent * (self.log_constant - x.ln())).exp()
    }
}

/// How the points of a fit hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// Each point is from a separate run.
    OfManyRuns,
    /// They follow each other in one.
    OfOneRun,
}

/// How far a law is from the points, as a share of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitErrors {
    /// Root mean square at the points that it was fitted to.
    pub fitted: f64,
    /// The same at points that were left out of the fit in their turn.
    pub left_out: f64,
}

/// A law, and how sure it is.
#[derive(Debug, Clone, PartialEq)]
pub struct LawFit {
    /// The law that is used.
    pub law: PowerLaw,
    /// Errors of the law without an irreducible part.
    pub pure: FitErrors,
    /// Errors of the law with one, where there are points enough.
    pub with_irreducible: Option<FitErrors>,
    /// Laws of drawn points, each with what another run would be off by.
    drawn: Vec<(PowerLaw, f64)>,
}

/// Fewest points of a law with two numbers, and of one with three.
const FEWEST: (usize, usize) = (3, 5);
/// Points are left out in so many turns at most.
const TURNS: usize = 8;
const DRAWS: usize = 1000;
/// A third number must lower the error at points left out to this share.
const WORTH_IT: f64 = 0.5;

impl LawFit {
    /// Fits `points`, x and loss, in increasing order of x.
    ///
    /// # Errors
    /// When they are too few, no positive numbers, or all at the same x, or the loss does not fall.
    pub fn new(points: &[(f64, f64)], which: Dependence, seed: u64) -> Result<Self> {
        let n = points.len();
        ensure!(n >= FEWEST.0, "a law needs at least {} points, but there are {n}", FEWEST.0);
        let sound = |x: f64| x.is_finite() && x > 0.0;
        ensure!(points.iter().all(|p| sound(p.0) && sound(p.1)), "a point is not a positive number");
        let rows: Vec<LogLossPoint<1>> =
            points.iter().map(|p| LogLossPoint { x: [p.0.ln()], y: p.1.ln(), decayed: false }).collect();
        ensure!(rows.iter().any(|row| row.x != rows[0].x), "all points have the same x value");
        let law = straight(&rows);
        ensure!(law.exponent > 0.0, "the loss does not fall");
        let pure = FitErrors { fitted: off(&law, &rows), left_out: left_out(&rows, |rows| Ok(straight(rows)))? };
        let curved = if n >= FEWEST.1 { curved(&rows, None).ok() } else { None };
        let starts = |rows: &[LogLossPoint<1>]| curved_from_everywhere(rows);
        let with_irreducible = curved
            .map(|law| {
                Ok::<_, anyhow::Error>(FitErrors { fitted: off(&law, &rows), left_out: left_out(&rows, starts)? })
            })
            .transpose()
            .ok()
            .flatten();
        let worth_it = with_irreducible.is_some_and(|errors| errors.left_out < WORTH_IT * pure.left_out);
        let (law, n_params) = match curved {
            Some(curved) if worth_it => (curved, 3),
            _ => (law, 2),
        };
        let drawn = draw(&law, n_params, &rows, which, seed);
        Ok(Self { law, pure, with_irreducible, drawn })
    }

    /// Errors of the law that is used.
    pub fn errors(&self) -> FitErrors {
        match self.with_irreducible {
            Some(errors) if self.law.irreducible > 0.0 => errors,
            _ => self.pure,
        }
    }

    /// Where `value` of the law lies.
    pub fn interval(&self, value: impl Fn(&PowerLaw) -> f64) -> Interval {
        Interval::of(self.drawn.iter().map(|(law, _)| value(law)))
    }

    /// Where the loss of another run at `x` lies.
    pub fn prediction(&self, x: f64) -> Interval {
        Interval::of(self.drawn.iter().map(|(law, off)| law.loss(x) * off.exp()))
    }
}

/// Least squares in logarithms.
fn straight(rows: &[LogLossPoint<1>]) -> PowerLaw {
    let n = rows.len() as f64;
    let mean = |value: &dyn Fn(&LogLossPoint<1>) -> f64| rows.iter().map(value).sum::<f64>() / n;
    let (x, y) = (mean(&|row| row.x[0]), mean(&|row| row.y));
    let slope = mean(&|row| (row.x[0] - x) * (row.y - y)) / mean(&|row| (row.x[0] - x).powi(2));
    // ln L = α·(ln X_c − ln X)
    PowerLaw { irreducible: 0.0, log_constant: x - y / slope, exponent: -slope }
}

fn curved_from_everywhere(rows: &[LogLossPoint<1>]) -> Result<PowerLaw> {
    curved(rows, None)
}

/// The same with an irreducible part, beginning at `near` where something near is known.
fn curved(rows: &[LogLossPoint<1>], near: Option<&PowerLaw>) -> Result<PowerLaw> {
    let start = |law: &PowerLaw| PowerSum {
        floor: law.irreducible.ln(),
        powers: [(law.exponent * law.log_constant, law.exponent)],
        gain: 0.0,
    };
    let starts = near.map_or_else(|| PowerSum::starts(rows), |law| vec![start(law)]);
    let PowerSum { floor, powers: [(constant, exponent)], .. } = PowerSum::nearest(rows, Distance::Squares, &starts)?;
    Ok(PowerLaw { irreducible: floor.exp(), log_constant: constant / exponent, exponent })
}

/// What `law` is off by at each row, as a logarithm.
fn residuals(law: &PowerLaw, rows: &[LogLossPoint<1>]) -> Vec<f64> {
    rows.iter().map(|row| row.y - law.loss(row.x[0].exp()).ln()).collect()
}

fn off(law: &PowerLaw, rows: &[LogLossPoint<1>]) -> f64 {
    root_mean_square(&residuals(law, rows))
}

/// The error at rows that are left out, neighbors together.
fn left_out(rows: &[LogLossPoint<1>], fit: impl Fn(&[LogLossPoint<1>]) -> Result<PowerLaw>) -> Result<f64> {
    let mut found = Vec::new();
    for turn in rows.chunks(rows.len().div_ceil(TURNS)) {
        let rest: Vec<LogLossPoint<1>> = rows.iter().filter(|row| !turn.contains(row)).copied().collect();
        found.extend(residuals(&fit(&rest)?, turn));
    }
    Ok(root_mean_square(&found))
}

fn draw(
    law: &PowerLaw,
    n_params: usize,
    rows: &[LogLossPoint<1>],
    which: Dependence,
    seed: u64,
) -> Vec<(PowerLaw, f64)> {
    let residuals = residuals(law, rows);
    let runs = match which {
        Dependence::OfManyRuns => residuals.into_iter().map(|off| vec![off]).collect(),
        Dependence::OfOneRun => vec![residuals],
    };
    let (noise, mut dice) = (Noise::of(&runs, n_params), Dice::for_resampling(seed));
    let one = |_| {
        let (runs, another) = noise.draw(&mut dice);
        let again = rows.iter().zip(runs.iter().flatten());
        let again = again.map(|(row, off)| LogLossPoint { y: law.loss(row.x[0].exp()).ln() + off, ..*row });
        let again: Vec<LogLossPoint<1>> = again.collect();
        let found = if n_params == 2 { straight(&again) } else { curved(&again, Some(law)).ok()? };
        Some((found, another))
    };
    (0..DRAWS).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn measured(law: &PowerLaw, xs: &[f64], deviation: f64, dice: &mut Dice) -> Vec<(f64, f64)> {
        xs.iter().map(|&x| (x, law.loss(x) * (deviation * dice.normal()).exp())).collect()
    }

    fn spaced(from: f64, to: f64, n: usize) -> Vec<f64> {
        (0..n).map(|i| from * (to / from).powf(i as f64 / (n - 1) as f64)).collect()
    }

    /// Kaplan et al. 2020, eq. 1.1.
    const KAPLAN: PowerLaw = PowerLaw { irreducible: 0.0, log_constant: 32.108, exponent: 0.076 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_law_is_found_from_its_points(exponent in 0.03f64..0.6, log_constant in 5f64..35.0) {
            let law = PowerLaw { irreducible: 0.0, log_constant, exponent };
            let points: Vec<(f64, f64)> = spaced(1e4, 1e6, 5).iter().map(|&x| (x, law.loss(x))).collect();
            let found = LawFit::new(&points, Dependence::OfManyRuns, 1).unwrap();
            prop_assert!((found.law.exponent / exponent - 1.0).abs() < 1e-6, "{:?}", found.law);
            prop_assert!((found.law.log_constant / log_constant - 1.0).abs() < 1e-6, "{:?}", found.law);
            prop_assert_eq!(found.law.irreducible, 0.0);
        }

        #[test]
        fn so_is_one_with_an_irreducible_part(
            exponent in 0.2f64..0.8, reducible in 0.5f64..3.0, irreducible in 0.5f64..2.0, seed in 0u64..1000,
        ) {
            let log_constant = 1e4f64.ln() + reducible.ln() / exponent;
            let law = PowerLaw { irreducible, log_constant, exponent };
            let points = measured(&law, &spaced(1e4, 1e7, 30), 1e-3, &mut Dice::for_resampling(seed));
            let found = LawFit::new(&points, Dependence::OfOneRun, seed).unwrap();
            prop_assert!(found.law.irreducible > 0.0, "{:?}", found);
            for x in spaced(1e4, 1e7, 7) {
                prop_assert!((found.law.loss(x) / law.loss(x) - 1.0).abs() < 3e-3, "{x}: {:?}", found.law);
            }
        }
    }

    /// Three degrees of freedom: Student's t is 3.182, and the interval that of the textbook.
    #[test]
    fn the_interval_of_five_points_is_students() {
        let points = measured(&KAPLAN, &spaced(1e4, 1e6, 5), 0.01, &mut Dice::for_resampling(5));
        let fit = LawFit::new(&points, Dependence::OfManyRuns, 1).unwrap();
        let xs: Vec<f64> = points.iter().map(|p| p.0.ln()).collect();
        let mean = xs.iter().sum::<f64>() / 5.0;
        let spread: f64 = xs.iter().map(|x| (x - mean).powi(2)).sum();
        let square: f64 = points.iter().map(|p| (p.1 / fit.law.loss(p.0)).ln().powi(2)).sum();
        let half = 3.182 * (square / 3.0 / spread).sqrt();
        let interval = fit.interval(|law| law.exponent);
        assert!(((interval.high - interval.low) / (2.0 * half) - 1.0).abs() < 0.15, "{interval:?} ± {half}");
        assert!(((interval.high + interval.low) / 2.0 - fit.law.exponent).abs() < 0.3 * half);
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        let xs = spaced(1e4, 1e6, 5);
        let (mut exponents, mut predictions) = (0, 0);
        let n = 200;
        for seed in 0..n {
            let mut dice = Dice::for_resampling(1000 + seed);
            let points = measured(&KAPLAN, &xs, 0.01, &mut dice);
            let fit = LawFit::new(&points, Dependence::OfManyRuns, seed).unwrap();
            exponents += usize::from(fit.interval(|law| law.exponent).contains(KAPLAN.exponent));
            let held_out = measured(&KAPLAN, &[3e6], 0.01, &mut dice)[0].1;
            predictions += usize::from(fit.prediction(3e6).contains(held_out));
        }
        assert!((180..=199).contains(&exponents), "{exponents} of {n} exponents");
        assert!((180..=199).contains(&predictions), "{predictions} of {n} predictions");
    }

    #[test]
    fn points_that_are_off_together_say_less() {
        let xs = spaced(1e5, 3e6, 40);
        let mut dice = Dice::for_resampling(3);
        let mut held = 0;
        for seed in 0..60 {
            let mut off = 0.01 * dice.normal();
            let run: Vec<(f64, f64)> = xs
                .iter()
                .map(|&x| {
                    off = 0.8 * off + 0.006 * dice.normal();
                    (x, KAPLAN.loss(x) * off.exp())
                })
                .collect();
            let fit = LawFit::new(&run, Dependence::OfOneRun, seed).unwrap();
            held += usize::from(fit.interval(|law| law.exponent).contains(KAPLAN.exponent));
        }
        assert!(held >= 50, "{held} of 60");
    }

    #[test]
    fn a_bent_line_is_not_fitted_straight_and_both_errors_are_told() {
        let law = PowerLaw { irreducible: 1.5, log_constant: 1e4f64.ln() + 1.0, exponent: 0.5 };
        let points: Vec<(f64, f64)> = spaced(1e4, 1e7, 12).iter().map(|&x| (x, law.loss(x))).collect();
        let fit = LawFit::new(&points, Dependence::OfManyRuns, 1).unwrap();
        let errors = fit.with_irreducible.unwrap();
        assert!(fit.pure.fitted > 0.01 && errors.fitted < 1e-4 && fit.errors() == errors, "{fit:?}");
        assert!((fit.law.irreducible - 1.5).abs() < 1e-2, "{:?}", fit.law);
    }

    #[test]
    fn what_has_no_law_is_refused_in_words() {
        let said = |points: &[(f64, f64)]| LawFit::new(points, Dependence::OfManyRuns, 1).unwrap_err().to_string();
        assert_eq!(said(&[(1.0, 2.0), (2.0, 1.9)]), "a law needs at least 3 points, but there are 2");
        assert_eq!(said(&[(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)]), "a point is not a positive number");
        assert_eq!(said(&[(1.0, 2.0), (1.0, 1.9), (1.0, 1.8)]), "all points have the same x value");
        assert_eq!(said(&[(1.0, 2.0), (2.0, 2.1), (3.0, 2.2)]), "the loss does not fall");
    }
}
