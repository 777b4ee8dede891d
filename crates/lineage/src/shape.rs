//! What the papers found, held against what was measured.
//!
//! A shape is a list of comparisons, each of one figure that should be the larger with one that should be the smaller. A
//! comparison holds when, in every seed, it does, and the mean difference over seeds is more than two standard errors. With
//! n seeds, differences dᵢ and their sampling errors eᵢ (0 where none is known), that error is √(s²/n + Σeᵢ²/n²), s² being
//! the variance of the dᵢ over seeds, 0 of a single one. A shape is reproduced when all of its comparisons hold, and three
//! seeds decide: with fewer, the verdict says of how many it is.

use crate::config::Chapter;
use crate::measured::{SeedMeasurements, StoryMeasurements};
use serde::Serialize;

/// Seeds that decide.
pub const SEEDS: usize = 3;

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FigureUnit {
    /// Tokens a second.
    Speed,
    /// Nats.
    Nats,
    /// Percent, from 0 to 100.
    Percent,
    /// Percent, from −100 to 100.
    Points,
    /// Rewards.
    Reward,
}

/// Two figures of one seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FigurePair {
    /// What should be the larger.
    pub more: f64,
    /// What should be the smaller.
    pub less: f64,
    /// Sampling error of their difference, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

impl FigurePair {
    /// Figures of which no sampling error is known.
    pub fn of(more: f64, less: f64) -> Self {
        Self { more, less, error: None }
    }

    /// Figures with errors of their own, from independent samples.
    pub fn with_errors((more, its): (f64, f64), (less, others): (f64, f64)) -> Self {
        Self { more, less, error: Some(its.hypot(others)) }
    }
}

/// Two figures of every seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FigureComparison {
    /// The figure.
    pub what: String,
    /// Whose should be the larger.
    pub more: String,
    /// Whose should be the smaller.
    pub less: String,
    /// What it is counted in.
    pub unit: FigureUnit,
    /// What was measured, by seed.
    pub pairs: Vec<(u64, FigurePair)>,
    /// Mean difference over seeds.
    pub mean: f64,
    /// Its standard error; 0 where none can be known.
    pub standard_error: f64,
    /// Whether it holds.
    pub holds: bool,
}

impl FigureComparison {
    /// Of the figures that `of` finds; seeds where it finds none are left out.
    pub fn new(
        measured: &StoryMeasurements,
        what: &str,
        [more, less]: [&str; 2],
        unit: FigureUnit,
        of: impl Fn(&SeedMeasurements) -> Option<FigurePair>,
    ) -> Self {
        let pairs: Vec<(u64, FigurePair)> =
            measured.seeds.iter().filter_map(|seed| Some((seed.seed, of(seed)?))).collect();
        let differences: Vec<f64> = pairs.iter().map(|(_, pair)| pair.more - pair.less).collect();
        let n = pairs.len() as f64;
        let mean = if pairs.is_empty() { 0.0 } else { gptkit_stats::mean(&differences) };
        let between = if pairs.len() > 1 { gptkit_stats::sample_variance(&differences) / n } else { 0.0 };
        let within = pairs.iter().filter_map(|(_, pair)| pair.error).map(|e| e * e).sum::<f64>() / (n * n).max(1.0);
        let standard_error = (between + within).sqrt();
        Self {
            what: what.to_owned(),
            more: more.to_owned(),
            less: less.to_owned(),
            unit,
            holds: differences.iter().all(|&d| d > 0.0) && mean > 2.0 * standard_error,
            pairs,
            mean,
            standard_error,
        }
    }
}

/// Whether the shape is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapeVerdict {
    /// It is.
    Reproduced,
    /// It is not, or cannot be told from chance.
    NotReproduced,
    /// A figure is missing.
    NotMeasured,
}

/// What a paper found, and whether it is found here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PaperShape {
    /// A short name.
    pub name: String,
    /// Chapter of the report.
    pub chapter: Chapter,
    /// What should be seen.
    pub claim: String,
    /// Who found it.
    pub source: String,
    /// Comparisons, all of which should hold.
    pub comparisons: Vec<FigureComparison>,
    /// The outcome.
    pub verdict: ShapeVerdict,
    /// Seeds that it is of.
    pub n_seeds: usize,
    /// What else is to be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl PaperShape {
    /// From `comparisons`. Only seeds with figures for all of them count; `missing` says why there are none.
    pub fn new(
        (name, chapter, claim, source): (&str, Chapter, &str, &str),
        comparisons: Vec<FigureComparison>,
        missing: String,
    ) -> Self {
        let n_seeds = comparisons.iter().map(|comparison| comparison.pairs.len()).min().unwrap_or(0);
        let verdict = match n_seeds {
            0 => ShapeVerdict::NotMeasured,
            _ if comparisons.iter().all(|comparison| comparison.holds) => ShapeVerdict::Reproduced,
            _ => ShapeVerdict::NotReproduced,
        };
        Self {
            name: name.to_owned(),
            chapter,
            claim: claim.to_owned(),
            source: source.to_owned(),
            comparisons,
            verdict,
            n_seeds,
            note: (verdict == ShapeVerdict::NotMeasured && !missing.is_empty()).then_some(missing),
        }
    }

    /// The verdict in words.
    pub fn words(&self) -> String {
        let words = match self.verdict {
            ShapeVerdict::Reproduced => "reproduced",
            ShapeVerdict::NotReproduced => "not reproduced",
            ShapeVerdict::NotMeasured => return "not measured".to_owned(),
        };
        if self.n_seeds < SEEDS { format!("{words} ({} of {SEEDS} seeds)", self.n_seeds) } else { words.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds 1, 2, …
    fn seeds(n: u64) -> StoryMeasurements {
        let seeds = (1..=n).map(|seed| SeedMeasurements { seed, ..SeedMeasurements::default() }).collect();
        StoryMeasurements { seeds, ..StoryMeasurements::default() }
    }

    fn compared(differences: &[f64], error: Option<f64>) -> FigureComparison {
        FigureComparison::new(&seeds(differences.len() as u64), "x", ["a", "b"], FigureUnit::Percent, |seed| {
            Some(FigurePair { more: 1.0 + differences[seed.seed as usize - 1], less: 1.0, error })
        })
    }

    #[test]
    fn a_comparison_holds_in_every_seed_and_beyond_two_errors() {
        // s = 1, so that the error is 1/√3 = 0.577.
        let three = compared(&[1.0, 2.0, 3.0], None);
        assert!(three.holds && three.mean == 2.0 && (three.standard_error - 1.0 / 3f64.sqrt()).abs() < 1e-12);
        assert!(!compared(&[5.0, 5.0, -0.1], None).holds, "not in every seed");
        assert!(!compared(&[0.1, 0.2, 3.0], None).holds, "mean 1.1, error 0.95");
        // The same spread with a sampling error of 1.5 each: √(1/3 + 3·2.25/9) = 1.04.
        let noisy = compared(&[1.0, 2.0, 3.0], Some(1.5));
        assert!(!noisy.holds && (noisy.standard_error - (1.0f64 / 3.0 + 0.75).sqrt()).abs() < 1e-12);
        assert!(!compared(&[0.0, 0.0, 0.0], None).holds, "nothing is larger than itself");
    }

    #[test]
    fn a_single_seed_has_only_its_sampling_error() {
        assert!(compared(&[0.1], None).holds && !compared(&[-0.1], None).holds);
        assert!(compared(&[0.1], Some(0.04)).holds && !compared(&[0.1], Some(0.06)).holds);
    }

    #[test]
    fn errors_of_two_samples_add_up_in_squares() {
        assert_eq!(
            FigurePair::with_errors((5.0, 3.0), (1.0, 4.0)),
            FigurePair { more: 5.0, less: 1.0, error: Some(5.0) }
        );
    }

    #[test]
    fn all_comparisons_make_a_shape_and_seeds_are_counted() {
        let about = ("x", Chapter::Gpt2, "more is more", "somebody");
        let shape = |comparisons| PaperShape::new(about, comparisons, "x was not run".to_owned());
        let good = compared(&[1.0, 2.0, 3.0], None);
        let bad = compared(&[1.0, -2.0, 3.0], None);
        assert_eq!(shape(vec![good.clone()]).words(), "reproduced");
        assert_eq!(shape(vec![good.clone(), bad]).words(), "not reproduced");
        assert_eq!(shape(vec![compared(&[1.0], None)]).words(), "reproduced (1 of 3 seeds)");
        assert_eq!(shape(vec![compared(&[-1.0, 1.0], None)]).words(), "not reproduced (2 of 3 seeds)");
        let none = shape(vec![good.clone(), compared(&[], None)]);
        assert_eq!((none.words().as_str(), none.note.as_deref()), ("not measured", Some("x was not run")));
        assert_eq!(shape(vec![good]).note, None);
    }
}
