//! Sums of powers, L = e^floor + Σ_j exp(c_j − s_j·x_j), found from log losses by L-BFGS from many starts
//! (Hoffmann et al. 2022, §3.3 and appendix D.3).

use anyhow::{Context, Result};
use argmin::core::{CostFunction, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;

/// A measured loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogLossPoint<const K: usize> {
    /// Logarithm of each variable.
    pub(crate) x: [f64; K],
    /// Logarithm of the loss.
    pub(crate) y: f64,
    /// Whether the learning rate had fallen to its end.
    pub(crate) decayed: bool,
}

/// A sum of `K` powers and a floor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PowerSum<const K: usize> {
    /// Logarithm of the floor.
    pub(crate) floor: f64,
    /// Logarithm of each power's value where its variable is 1, and how fast it falls.
    pub(crate) powers: [(f64, f64); K],
    /// Logarithm of what the decay of the learning rate multiplies the loss with.
    pub(crate) gain: f64,
}

/// Which distance is made small.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Distance {
    /// The sum of squares.
    Squares,
    /// Huber's, with this δ: linear beyond it, so that points far away have little say.
    Huber(f64),
}

impl<const K: usize> PowerSum<K> {
    /// The logarithm of the loss at `x`.
    pub(crate) fn log_loss(&self, x: [f64; K], decayed: bool) -> f64 {
        self.shares(x).2 + if decayed { self.gain } else { 0.0 }
    }

    /// What share of the loss the floor and each power are, and the loss's logarithm before any decay.
    fn shares(&self, x: [f64; K]) -> (f64, [f64; K], f64) {
        let parts: [f64; K] = std::array::from_fn(|j| self.powers[j].0 - self.powers[j].1 * x[j]);
        let largest = parts.iter().copied().fold(self.floor, f64::max);
        let (floor, parts) = ((self.floor - largest).exp(), parts.map(|part| (part - largest).exp()));
        let sum = floor + parts.iter().sum::<f64>();
        (floor / sum, parts.map(|part| part / sum), largest + sum.ln())
    }

    /// The same sum, of variables that are `by` smaller in their logarithms.
    fn moved(mut self, by: [f64; K]) -> Self {
        self.powers.iter_mut().zip(by).for_each(|((constant, speed), by)| *constant -= *speed * by);
        self
    }

    fn numbers(&self, with_gain: bool) -> Vec<f64> {
        let powers = self.powers.iter().flat_map(|&(constant, speed)| [constant, speed]);
        std::iter::once(self.floor).chain(powers).chain(with_gain.then_some(self.gain)).collect()
    }

    fn of(numbers: &[f64]) -> Self {
        Self {
            floor: numbers[0],
            powers: std::array::from_fn(|j| (numbers[1 + 2 * j], numbers[2 + 2 * j])),
            gain: numbers.get(1 + 2 * K).copied().unwrap_or(0.0),
        }
    }

    /// The sum nearest to `rows`, from each of `starts`.
    ///
    /// # Errors
    /// When no start leads to powers that fall, and no faster than any loss does.
    pub(crate) fn nearest(rows: &[LogLossPoint<K>], distance: Distance, starts: &[Self]) -> Result<Self> {
        let n = rows.len() as f64;
        let center: [f64; K] = std::array::from_fn(|j| rows.iter().map(|row| row.x[j]).sum::<f64>() / n);
        let centered =
            |row: &LogLossPoint<K>| LogLossPoint { x: std::array::from_fn(|j| row.x[j] - center[j]), ..*row };
        let problem = FitProblem { rows: rows.iter().map(centered).collect(), distance, with_gain: has_both(rows) };
        let back = center.map(|x| -x);
        let found = starts.iter().filter_map(|start| problem.descend(&start.moved(center)));
        let is_law = |sum: &Self| sum.powers.iter().all(|power| power.1 > 0.0 && power.1 < FASTEST);
        let falling = found.filter(|(sum, cost)| cost.is_finite() && is_law(sum));
        let best = falling.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(sum, _)| sum.moved(back));
        best.context("the loss does not fall with every variable, as a power law requires")
    }

    /// Starts over a grid: how much of the loss is floor, what each power has of the rest, how fast they fall.
    pub(crate) fn starts(rows: &[LogLossPoint<K>]) -> Vec<Self> {
        let n = rows.len() as f64;
        let loss = rows.iter().map(|row| row.y).sum::<f64>() / n;
        let center: [f64; K] = std::array::from_fn(|j| rows.iter().map(|row| row.x[j]).sum::<f64>() / n);
        let shares: &[f64] = if K == 1 { &[1.0] } else { &[0.2, 0.5, 0.8] };
        let speeds: [f64; 3] = [0.1, 0.3, 0.7];
        let mut starts = Vec::new();
        for floor in [0.1f64, 0.4, 0.7] {
            for &share in shares {
                for which in 0..speeds.len().pow(K as u32) {
                    let power = |j: usize| {
                        let part = if j == 0 { share } else { 1.0 - share };
                        let speed = speeds[which / speeds.len().pow(j as u32) % speeds.len()];
                        (loss + ((1.0 - floor) * part).ln() + speed * center[j], speed)
                    };
                    starts.push(Self { floor: loss + floor.ln(), powers: std::array::from_fn(power), gain: 0.0 });
                }
            }
        }
        starts
    }
}

/// Whether what the decay does can be told from the rest.
fn has_both<const K: usize>(rows: &[LogLossPoint<K>]) -> bool {
    rows.iter().any(|row| row.decayed) && rows.iter().any(|row| !row.decayed)
}

/// How far a sum is from rows whose variables have mean 0.
struct FitProblem<const K: usize> {
    rows: Vec<LogLossPoint<K>>,
    distance: Distance,
    with_gain: bool,
}

/// What a log loss is off by where a distance of 1 begins: makes gradients neither large nor small.
const UNIT: f64 = 0.05;
const STEPS: u64 = 400;
const MEMORY: usize = 7;
/// An exponent beyond it is a cliff and no power: published ones are below 1.
const FASTEST: f64 = 3.0;

impl<const K: usize> FitProblem<K> {
    /// Down from `start`, and how far it is there; nothing when the way leads nowhere.
    fn descend(&self, start: &PowerSum<K>) -> Option<(PowerSum<K>, f64)> {
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), MEMORY);
        let solver = solver.with_tolerance_grad(1e-8).and_then(|solver| solver.with_tolerance_cost(1e-13)).ok()?;
        let start = start.numbers(self.with_gain);
        let result = Executor::new(self, solver).configure(|state| state.param(start).max_iters(STEPS)).run().ok()?;
        let best = result.state().get_best_param()?;
        Some((PowerSum::of(best), result.state().get_best_cost()))
    }

    /// How far `numbers` are from the rows, and the gradient of that.
    fn measure(&self, numbers: &[f64]) -> (f64, Vec<f64>) {
        let sum = PowerSum::<K>::of(numbers);
        let (mut cost, mut gradient) = (0.0, vec![0.0; numbers.len()]);
        for row in &self.rows {
            let (floor, powers, log_loss) = sum.shares(row.x);
            let decayed = self.with_gain && row.decayed;
            let off = (log_loss + if decayed { sum.gain } else { 0.0 } - row.y) / UNIT;
            let (far, slope) = match self.distance {
                Distance::Squares => (off * off / 2.0, off),
                Distance::Huber(delta) => {
                    let delta = delta / UNIT;
                    let clamped = off.clamp(-delta, delta);
                    (clamped * (off - clamped / 2.0), clamped)
                }
            };
            cost += far;
            let slope = slope / UNIT;
            gradient[0] += slope * floor;
            for (j, share) in powers.iter().enumerate() {
                gradient[1 + 2 * j] += slope * share;
                gradient[2 + 2 * j] -= slope * share * row.x[j];
            }
            if decayed {
                gradient[1 + 2 * K] += slope;
            }
        }
        let n = self.rows.len() as f64;
        gradient.iter_mut().for_each(|g| *g /= n);
        (cost / n, gradient)
    }
}

impl<const K: usize> CostFunction for &FitProblem<K> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, numbers: &Vec<f64>) -> Result<f64> {
        Ok(self.measure(numbers).0)
    }
}

impl<const K: usize> Gradient for &FitProblem<K> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, numbers: &Vec<f64>) -> Result<Vec<f64>> {
        Ok(self.measure(numbers).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_distance() {
        let row = |a: f64, b: f64, y: f64, decayed| LogLossPoint { x: [a, b], y, decayed };
        let rows = vec![row(0.3, -1.0, 0.9, false), row(-2.0, 0.4, 1.4, true), row(1.1, 2.0, 0.2, false)];
        for distance in [Distance::Squares, Distance::Huber(0.2)] {
            let problem = FitProblem { rows: rows.clone(), distance, with_gain: true };
            let at = vec![0.1, -0.4, 0.3, 0.2, 0.6, -0.05];
            let (_, gradient) = problem.measure(&at);
            for i in 0..at.len() {
                let moved = |by: f64| {
                    let mut at = at.clone();
                    at[i] += by;
                    problem.measure(&at).0
                };
                let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((slope - gradient[i]).abs() < 1e-5 * slope.abs().max(1.0), "{i}: {slope} {}", gradient[i]);
            }
        }
    }
}
