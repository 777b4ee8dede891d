//! How sure a fit is: measurements are drawn again around it as far from it as the real ones are, and fitted again.
//!
//! Points of one run are not independent of each other: what a fit is off by at one of them it is off by at the next. The
//! drawn ones are as alike as the measured ones (an autoregression of first order). How large the noise is, few points
//! hardly know, so that its variance is drawn too; for a straight line through independent points the intervals are then
//! Student's.

use gptkit_rng::Dice;

/// What measurements are off by, as logarithms.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Noise {
    /// Standard deviation.
    deviation: f64,
    /// Correlation of neighbors in a run.
    likeness: f64,
    /// Degrees of freedom that the standard deviation was found with.
    freedom: usize,
    /// Points of each run.
    lengths: Vec<usize>,
}

/// Correlation beyond which runs would be one point each.
const MOST_ALIKE: f64 = 0.95;

impl Noise {
    /// From what a fit with `n_params` numbers is off by at the points of each run, in their order.
    pub(crate) fn of(runs: &[Vec<f64>], n_params: usize) -> Self {
        let lengths: Vec<usize> = runs.iter().map(Vec::len).collect();
        let square = |off: &f64| off * off;
        let n = lengths.iter().sum::<usize>() as f64;
        let whole: f64 = runs.iter().flatten().map(square).sum();
        let neighbors: f64 = runs.iter().flat_map(|run| run.windows(2)).map(|two| two[0] * two[1]).sum();
        let earlier: f64 =
            runs.iter().flat_map(|run| run.split_last().map_or(&[][..], |(_, rest)| rest)).map(square).sum();
        let likeness = if earlier > 0.0 { (neighbors / earlier).clamp(0.0, MOST_ALIKE) } else { 0.0 };
        // As many independent points would say as much of a mean.
        let worth = |&length: &usize| (length as f64 * (1.0 - likeness) / (1.0 + likeness)).max(1.0).min(length as f64);
        let worth: f64 = lengths.iter().map(worth).sum();
        let freedom = (worth - n_params as f64).floor().max(1.0);
        let deviation = (whole / n * (worth / freedom).max(1.0)).sqrt();
        Self { deviation, likeness, freedom: freedom as usize, lengths }
    }

    /// Draws errors for the same runs, and one for a separate run.
    pub(crate) fn draw(&self, dice: &mut Dice) -> (Vec<Vec<f64>>, f64) {
        let deviation = self.deviation * (self.freedom as f64 / dice.chi_squared(self.freedom)).sqrt();
        let fresh = (1.0 - self.likeness * self.likeness).sqrt();
        let runs = self.lengths.iter().map(|&length| {
            let mut last = dice.normal();
            let mut next = |i: usize| {
                if i > 0 {
                    last = self.likeness * last + fresh * dice.normal();
                }
                deviation * last
            };
            (0..length).map(&mut next).collect()
        });
        let runs = runs.collect();
        (runs, deviation * dice.normal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_noise_is_as_large_and_as_alike_as_the_measured() {
        let mut dice = Dice::for_resampling(1);
        let mut run = vec![dice.normal()];
        for i in 0..20_000 {
            run.push(0.8 * run[i] + 0.6 * dice.normal());
        }
        let noise = Noise::of(&[run], 2);
        assert!((noise.likeness - 0.8).abs() < 0.02 && (noise.deviation - 1.0).abs() < 0.05, "{noise:?}");
        let again = Noise::of(&noise.draw(&mut dice).0, 2);
        assert!((again.likeness - 0.8).abs() < 0.02 && (again.deviation - 1.0).abs() < 0.05, "{again:?}");
    }
}
