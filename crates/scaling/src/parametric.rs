//! Two variables: L(N, D) = E + A/N^α + B/D^β (Hoffmann et al. 2022, eq. 2), and what follows from it for a budget of
//! compute (eq. 4).

use super::descent::{Distance, LogLossPoint, PowerSum};
use super::noise::Noise;
use anyhow::{Result, ensure};
use gptkit_rng::Dice;
use gptkit_stats::Interval;
use gptkit_stats::moments::root_mean_square;

/// L(N, D) = E + A/N^α + B/D^β, at a learning rate that has fallen to its end where such losses were measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parametric {
    /// E, nats per token.
    pub irreducible: f64,
    /// Logarithm of A.
    pub log_a: f64,
    /// Logarithm of B.
    pub log_b: f64,
    /// α.
    pub alpha: f64,
    /// β.
    pub beta: f64,
    /// What the decay of the learning rate multiplied the loss with; 1 where it was not measured on its own.
    pub gain: f64,
}

/// Size and tokens that spend a budget best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimum {
    /// N.
    pub size: f64,
    /// D.
    pub tokens: f64,
}

impl Parametric {
    /// Nats a token of a model of `size` after `tokens`.
    pub fn loss(&self, size: f64, tokens: f64) -> f64 {
        self.irreducible + (self.log_a - self.alpha * size.ln()).exp() + (self.log_b - self.beta * tokens.ln()).exp()
    }

    /// The least loss with 6·N·D = `compute` (Hoffmann et al. 2022, eq. 4): N = G·(C/6)^a, D = G⁻¹·(C/6)^b.
    pub fn optimum(&self, compute: f64) -> Optimum {
        let Self { log_a, log_b, alpha, beta, .. } = *self;
        let log_g = ((alpha / beta).ln() + log_a - log_b) / (alpha + beta);
        let budget = (compute / 6.0).ln();
        let (a, b) = self.shares();
        Optimum { size: (log_g + a * budget).exp(), tokens: (b * budget - log_g).exp() }
    }

    /// How fast the best size and the best number of tokens grow with compute: a and b, which add up to 1.
    pub fn shares(&self) -> (f64, f64) {
        let sum = self.alpha + self.beta;
        (self.beta / sum, self.alpha / sum)
    }

    fn of(sum: &PowerSum<2>) -> Self {
        let [(a, alpha), (b, beta)] = sum.powers;
        let gain = sum.gain;
        Self { irreducible: (sum.floor + gain).exp(), log_a: a + gain, log_b: b + gain, alpha, beta, gain: gain.exp() }
    }
}

/// A measured loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredLoss {
    /// N.
    pub size: f64,
    /// D.
    pub tokens: f64,
    /// Nats a token.
    pub loss: f64,
    /// Whether the learning rate had fallen to its end.
    pub decayed: bool,
}

/// The law, and how sure it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ParametricFit {
    /// The law.
    pub law: Parametric,
    /// Root mean square of what it is off by, as a share of the loss.
    pub error: f64,
    /// Laws of drawn points, each with what another run would be off by.
    drawn: Vec<(Parametric, f64)>,
}

/// Fewest sizes, and fewest points: more than the law has numbers.
const FEWEST: (usize, usize) = (3, 8);
const DRAWS: usize = 200;
/// Huber's δ (Hoffmann et al. 2022, appendix D.3).
const DELTA: f64 = 1e-3;

impl ParametricFit {
    /// Fits the points of each run, in their order.
    ///
    /// # Errors
    /// When they are too few, no positive numbers, or of too few sizes, or the loss does not fall.
    pub fn new(runs: &[Vec<MeasuredLoss>], seed: u64) -> Result<Self> {
        let all = || runs.iter().flatten();
        let n = all().count();
        ensure!(n >= FEWEST.1, "the law L(N, D) needs at least {} points, but there are {n}", FEWEST.1);
        let sound = |x: f64| x.is_finite() && x > 0.0;
        ensure!(all().all(|p| [p.size, p.tokens, p.loss].into_iter().all(sound)), "a point is not a positive number");
        let n_different = |value: fn(&MeasuredLoss) -> f64| {
            let mut values: Vec<u64> = all().map(|p| value(p).to_bits()).collect();
            values.sort_unstable();
            values.dedup();
            values.len()
        };
        for (n, what) in [(n_different(|p| p.size), "sizes"), (n_different(|p| p.tokens), "numbers of tokens")] {
            ensure!(n >= FEWEST.0, "the law L(N, D) needs at least {} different {what}, but there are {n}", FEWEST.0);
        }
        let row =
            |p: &MeasuredLoss| LogLossPoint { x: [p.size.ln(), p.tokens.ln()], y: p.loss.ln(), decayed: p.decayed };
        let rows: Vec<LogLossPoint<2>> = all().map(row).collect();
        let sum = PowerSum::nearest(&rows, Distance::Huber(DELTA), &PowerSum::starts(&rows))?;
        let has_gain = rows.iter().any(|row| row.decayed != rows[0].decayed);
        let residual = |row: &LogLossPoint<2>| row.y - sum.log_loss(row.x, row.decayed);
        let residuals: Vec<Vec<f64>> = runs.iter().map(|run| run.iter().map(|p| residual(&row(p))).collect()).collect();
        let error = root_mean_square(&residuals.concat());
        let (noise, mut dice) = (Noise::of(&residuals, 5 + usize::from(has_gain)), Dice::for_resampling(seed));
        let one = |_| {
            let (off, another) = noise.draw(&mut dice);
            let again = rows.iter().zip(off.iter().flatten());
            let again: Vec<LogLossPoint<2>> =
                again.map(|(row, off)| LogLossPoint { y: sum.log_loss(row.x, row.decayed) + off, ..*row }).collect();
            let found = PowerSum::nearest(&again, Distance::Huber(DELTA), &[sum]).ok()?;
            Some((Parametric::of(&found), another))
        };
        let drawn: Vec<(Parametric, f64)> = (0..DRAWS).filter_map(one).collect();
        ensure!(2 * drawn.len() > DRAWS, "the losses are too noisy to separate the effects of size and tokens");
        Ok(Self { law: Parametric::of(&sum), error, drawn })
    }

    /// Where `value` of the law lies.
    pub fn interval(&self, value: impl Fn(&Parametric) -> f64) -> Interval {
        Interval::of(self.drawn.iter().map(|(law, _)| value(law)))
    }

    /// Where the loss of another run lies.
    pub fn prediction(&self, size: f64, tokens: f64) -> Interval {
        Interval::of(self.drawn.iter().map(|(law, off)| law.loss(size, tokens) * off.exp()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hoffmann et al. 2022, eq. 10.
    const CHINCHILLA: Parametric =
        Parametric { irreducible: 1.69, log_a: 6.0073, log_b: 6.0179, alpha: 0.34, beta: 0.28, gain: 1.0 };

    /// A family of five sizes over two orders of magnitude, a point twenty times a run, the last one decayed.
    fn family(law: &Parametric, gain: f64, deviation: f64, dice: &mut Dice) -> Vec<Vec<MeasuredLoss>> {
        let run = |i: i32| {
            let size = 1.5e4 * 3.2f64.powi(i);
            let point = |step: i32| {
                let (tokens, decayed) = (1.5e5 * f64::from(step), step == 20);
                let loss = law.loss(size, tokens) / if decayed { 1.0 } else { gain };
                MeasuredLoss { size, tokens, loss: loss * (deviation * dice.normal()).exp(), decayed }
            };
            (1..=20).map(point).collect()
        };
        (0..5).map(run).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn the_law_is_found_from_its_points(
            irreducible in 0.3f64..1.5, alpha in 0.2f64..0.6, beta in 0.2f64..0.6,
            a in 0.3f64..1.5, b in 0.3f64..1.5, gain in 0.9f64..1.0, seed in 0u64..1000,
        ) {
            let (log_a, log_b) = (a.ln() + alpha * 1.5e5f64.ln(), b.ln() + beta * 1e6f64.ln());
            let law = Parametric { irreducible, log_a, log_b, alpha, beta, gain };
            let fit = ParametricFit::new(&family(&law, gain, 2e-3, &mut Dice::for_resampling(seed)), seed).unwrap();
            prop_assert!((fit.law.gain - gain).abs() < 5e-3, "{:?}", fit.law);
            for (size, tokens) in [(1.5e4, 3e6), (1.5e5, 5e5), (1.5e6, 3e6), (4e6, 3e6)] {
                let (found, truth) = (fit.law.loss(size, tokens), law.loss(size, tokens));
                prop_assert!((found / truth - 1.0).abs() < 1e-2, "{size} {tokens}: {found} {truth}");
            }
            prop_assert!((0.5e-3..4e-3).contains(&fit.error), "{}", fit.error);
        }

        #[test]
        fn the_best_size_is_the_one_a_search_finds(
            alpha in 0.2f64..0.8, beta in 0.2f64..0.8, log_a in 1f64..8.0, log_b in 1f64..8.0, log_c in 25f64..60.0,
        ) {
            let law = Parametric { irreducible: 1.0, log_a, log_b, alpha, beta, gain: 1.0 };
            let compute = f64::exp(log_c);
            let best = law.optimum(compute);
            prop_assert!((6.0 * best.size * best.tokens / compute - 1.0).abs() < 1e-9);
            let least = law.loss(best.size, best.tokens);
            for i in -400..=400 {
                let size = best.size * (f64::from(i) / 100.0).exp();
                prop_assert!(law.loss(size, compute / 6.0 / size) >= least * (1.0 - 1e-12), "{i}");
            }
        }
    }

    /// Hoffmann et al. 2022, §3.4 and table 3: of the published numbers, a is 0.45 to 0.46 and b the rest.
    #[test]
    fn the_published_law_gives_the_published_shares() {
        let (a, b) = CHINCHILLA.shares();
        assert!((a - 0.452).abs() < 0.01 && (a + b - 1.0).abs() < 1e-12, "{a} {b}");
        assert!((CHINCHILLA.loss(70e9, 1.4e12) - 1.94).abs() < 0.01);
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        let truth = Parametric { gain: 0.97, ..CHINCHILLA };
        let (mut alphas, mut sizes, mut predictions) = (0, 0, 0);
        let n = 30;
        for seed in 0..n {
            let mut dice = Dice::for_resampling(500 + seed);
            let fit = ParametricFit::new(&family(&truth, truth.gain, 5e-3, &mut dice), seed).unwrap();
            alphas += u32::from(fit.interval(|law| law.alpha).contains(truth.alpha));
            sizes += u32::from(fit.interval(|law| law.optimum(1e14).size).contains(truth.optimum(1e14).size));
            let held_out = truth.loss(5e6, 3e6) * (5e-3 * dice.normal()).exp();
            predictions += u32::from(fit.prediction(5e6, 3e6).contains(held_out));
        }
        for held in [alphas, sizes, predictions] {
            assert!(held >= 24, "{alphas} {sizes} {predictions} of {n}");
        }
        assert!(alphas + sizes + predictions < 3 * n as u32, "intervals that hold everything are too wide");
    }

    #[test]
    fn one_point_far_off_changes_little() {
        let mut dice = Dice::for_resampling(9);
        let mut runs = family(&CHINCHILLA, 1.0, 1e-3, &mut dice);
        let before = ParametricFit::new(&runs, 1).unwrap().law.loss(5e6, 3e6);
        runs[2][5].loss *= 1.5;
        let after = ParametricFit::new(&runs, 1).unwrap().law.loss(5e6, 3e6);
        assert!((after / before - 1.0).abs() < 5e-3, "{before} {after}");
    }

    #[test]
    fn what_has_no_law_is_refused_in_words() {
        let runs = family(&CHINCHILLA, 1.0, 0.0, &mut Dice::for_resampling(1));
        let said = |runs: &[Vec<MeasuredLoss>]| ParametricFit::new(runs, 1).unwrap_err().to_string();
        assert_eq!(said(&[runs[0][..5].to_vec()]), "the law L(N, D) needs at least 8 points, but there are 5");
        assert_eq!(said(&runs[..2]), "the law L(N, D) needs at least 3 different sizes, but there are 2");
    }
}
