//! What the papers found, held against what was measured.
//!
//! A shape is a list of comparisons, each of one figure that should be the larger with one that should be the smaller. Three
//! seeds decide: a comparison holds when the mean difference over seeds is larger than half its 95% interval, t·s/√n, where
//! s is the standard deviation of the difference over the n seeds and t Student's quantile (4.3 with three seeds). That
//! interval holds the sampling errors within the seeds too. A shape is reproduced when all of its comparisons hold. With
//! fewer seeds nothing is decided: they are consistent with the claim when every difference has the right sign.

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
    /// Perplexity.
    Perplexity,
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
    /// Half of its 95% interval over seeds; none of a single seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_interval: Option<f64>,
    /// By how much the figure that should be the larger may be the smaller on average, where that is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Whether it holds; of fewer than [`SEEDS`] seeds, whether they are consistent with it.
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
        let n = pairs.len();
        let mean = if n == 0 { 0.0 } else { gptkit_stats::mean(&differences) };
        let half_interval = (n > 1).then(|| {
            let error = (gptkit_stats::sample_variance(&differences) / n as f64).sqrt();
            gptkit_stats::student_t_975(n - 1) * error
        });
        let holds = match half_interval {
            Some(half) if n >= SEEDS => mean > half,
            _ => n > 0 && differences.iter().all(|&d| d > 0.0),
        };
        Self {
            what: what.to_owned(),
            more: more.to_owned(),
            less: less.to_owned(),
            unit,
            holds,
            pairs,
            mean,
            half_interval,
            margin: None,
        }
    }
}

impl FigureComparison {
    /// The same where the figure that should be the larger need not be: it holds when it is smaller by at most `margin` on
    /// average.
    pub fn or_within(self, margin: f64) -> Self {
        Self { holds: !self.pairs.is_empty() && self.mean >= -margin, margin: Some(margin), ..self }
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
    /// Too few seeds decide nothing; these agree with it.
    Consistent,
    /// Too few seeds decide nothing; at least one of these says the opposite.
    Contradicts,
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
        let all_hold = comparisons.iter().all(|comparison| comparison.holds);
        let verdict = match (n_seeds, all_hold) {
            (0, _) => ShapeVerdict::NotMeasured,
            (1..SEEDS, true) => ShapeVerdict::Consistent,
            (1..SEEDS, false) => ShapeVerdict::Contradicts,
            (_, true) => ShapeVerdict::Reproduced,
            (_, false) => ShapeVerdict::NotReproduced,
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
        let seeds = if self.n_seeds == 1 { "1 seed".to_owned() } else { format!("{} seeds", self.n_seeds) };
        match self.verdict {
            ShapeVerdict::Reproduced => "reproduced".to_owned(),
            ShapeVerdict::NotReproduced => "not reproduced".to_owned(),
            ShapeVerdict::Consistent => format!("{seeds}: consistent"),
            ShapeVerdict::Contradicts => {
                format!("{seeds}: {}", if self.n_seeds == 1 { "contradicts" } else { "contradict" })
            }
            ShapeVerdict::NotMeasured => "not measured".to_owned(),
        }
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

    fn compared(differences: &[f64]) -> FigureComparison {
        FigureComparison::new(&seeds(differences.len() as u64), "x", ["a", "b"], FigureUnit::Percent, |seed| {
            Some(FigurePair::of(1.0 + differences[seed.seed as usize - 1], 1.0))
        })
    }

    #[test]
    fn a_comparison_holds_beyond_the_interval_over_seeds() {
        // s = 1: half the interval is 4.303/√3 = 2.484.
        let three = compared(&[2.0, 3.0, 4.0]);
        assert!(three.holds && three.mean == 3.0);
        assert!((three.half_interval.unwrap() - 4.303 / 3f64.sqrt()).abs() < 1e-9);
        assert!(!compared(&[1.0, 2.0, 3.0]).holds, "mean 2, half the interval 2.48");
        assert!(!compared(&[0.0, 0.0, 0.0]).holds, "nothing is larger than itself");
        // More seeds, the same spread: 2.571/√6.
        assert!(compared(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]).holds);
    }

    #[test]
    fn equal_may_be_enough() {
        let but = |differences: &[f64]| compared(differences).or_within(0.5).holds;
        assert!(but(&[1.0, -3.0, 0.5]) && !but(&[1.0, -4.0, 1.0]) && but(&[-0.5]) && !but(&[-0.6]) && !but(&[]));
    }

    #[test]
    fn fewer_seeds_are_consistent_or_not() {
        assert!(compared(&[0.1]).holds && !compared(&[-0.1]).holds && compared(&[0.1]).half_interval.is_none());
        assert!(compared(&[0.1, 3.0]).holds && !compared(&[3.0, -0.1]).holds);
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
        let good = compared(&[2.0, 3.0, 4.0]);
        let bad = compared(&[1.0, -2.0, 3.0]);
        assert_eq!(shape(vec![good.clone()]).words(), "reproduced");
        assert_eq!(shape(vec![good.clone(), bad]).words(), "not reproduced");
        assert_eq!(shape(vec![compared(&[1.0])]).words(), "1 seed: consistent");
        assert_eq!(shape(vec![compared(&[-1.0])]).words(), "1 seed: contradicts");
        assert_eq!(shape(vec![compared(&[-1.0, 1.0])]).words(), "2 seeds: contradict");
        let none = shape(vec![good.clone(), compared(&[])]);
        assert_eq!((none.words().as_str(), none.note.as_deref()), ("not measured", Some("x was not run")));
        assert_eq!(shape(vec![good]).note, None);
    }
}
