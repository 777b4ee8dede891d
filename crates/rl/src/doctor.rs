//! What must hold while PPO runs, in plain words: what is wrong, why it may be, what helps.
//!
//! Nearly all that goes wrong with PPO on language models shows in a few figures long before answers are read. Limits
//! without a source are common practice.

use anyhow::{Result, bail};
use gptkit_config::{Check, Problems};
use gptkit_data::progress::Progress;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What becomes of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFinding {
    /// Warn once for as long as it lasts.
    Warn,
    /// Save the run and stop.
    Stop,
    /// Nothing.
    Ignore,
}

/// Checks of the health of the run; TOML section `[doctor]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DoctorConfig {
    /// What to do when a check fails.
    pub on_finding: OnFinding,
    /// Number of consecutive iterations for which a noisy figure must be bad.
    pub patience: u32,
    /// KL divergence from the reference, in nats per answer, above which a check fails.
    pub max_kl: f64,
}

impl Default for DoctorConfig {
    fn default() -> Self {
        Self { on_finding: OnFinding::Warn, patience: 3, max_kl: 50.0 }
    }
}

impl Check for DoctorConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.patience > 0, "patience", "must be positive", "use 3");
        problems.require(self.max_kl > 0.0, "max_kl", "must be positive", "use 50");
    }
}

/// What the doctor looks at after an iteration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthMetrics {
    /// Mean of π/π_old over the tokens of the first minibatch, before any update.
    pub first_ratio: f64,
    /// Mean distance of the tokens' log-probabilities during sampling from those of a pass over the whole answer;
    /// nothing where temperature makes them two things.
    #[serde(rename = "spoken_off")]
    pub sampling_error: Option<f64>,
    /// Mean over the answers of Σ ln π − ln π_ref.
    pub kl: f64,
    /// Standard error of that mean.
    pub kl_error: f64,
    /// Share of the answers that have their end.
    pub end_rate: f64,
    /// Share of tokens whose clipped loss was the larger.
    pub clip_fraction: f64,
    /// ½·mean (Δ ln π)² of the last update.
    pub approx_kl: f64,
    /// 1 − var(returns − values)/var(returns).
    pub explained_variance: f64,
    /// Mean over tokens, nats.
    pub entropy: f64,
    /// Mean of the scores.
    pub score: f64,
    /// Mean tokens of an answer.
    pub length: f64,
    /// Correlation of score and length over the answers.
    pub score_length: f64,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In a word.
    pub name: &'static str,
    /// With the figure.
    pub what: String,
    /// Why it may be.
    pub cause: &'static str,
    /// What helps.
    pub cure: &'static str,
}

/// How far log-probabilities of two passes over the same tokens may be apart: products in f32 and in bf16.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Of a mean ratio from 1.
    pub ratio: f64,
    /// Of the mean distance of a log-probability.
    pub log_prob: f64,
}

impl Tolerance {
    /// Of products that read 32-bit numbers, or 16-bit ones.
    pub fn of(is_bf16: bool) -> Self {
        if is_bf16 { Self { ratio: 2e-2, log_prob: 5e-2 } } else { Self { ratio: 1e-3, log_prob: 1e-3 } }
    }
}

/// Watches a run; part of its state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Doctor {
    /// Of the first iteration.
    first: Option<HealthMetrics>,
    /// Iterations in a row with each finding.
    lasting: BTreeMap<String, u32>,
    n_iterations: u32,
}

impl Doctor {
    /// Examines an iteration and returns the findings that are new.
    pub fn examine(&mut self, now: &HealthMetrics, config: &DoctorConfig, tolerance: Tolerance) -> Vec<Finding> {
        let first = *self.first.get_or_insert(*now);
        self.n_iterations += 1;
        let seen = Examined { now, first: &first, config, tolerance, n_iterations: self.n_iterations };
        let mut findings = Vec::new();
        for HealthCheck { name, is_bad, at_once, what, cause, cure } in CHECKS {
            let lasting = self.lasting.entry((*name).to_owned()).or_default();
            *lasting = if is_bad(&seen) { *lasting + 1 } else { 0 };
            let enough = if *at_once { 1 } else { config.patience };
            if *lasting == enough {
                findings.push(Finding { name, what: what(&seen), cause, cure });
            }
        }
        findings
    }
}

/// What a check reads.
struct Examined<'a> {
    now: &'a HealthMetrics,
    /// Of the first iteration.
    first: &'a HealthMetrics,
    config: &'a DoctorConfig,
    tolerance: Tolerance,
    n_iterations: u32,
}

/// A property that must hold after each iteration.
struct HealthCheck {
    name: &'static str,
    is_bad: fn(&Examined) -> bool,
    /// Whether one iteration is enough for a finding; else it takes `doctor.patience` in a row.
    at_once: bool,
    /// The finding, with its figures.
    what: fn(&Examined) -> String,
    cause: &'static str,
    cure: &'static str,
}

const CHECKS: &[HealthCheck] = &[
    HealthCheck {
        name: "ratio",
        is_bad: |e| (e.now.first_ratio - 1.0).abs() > e.tolerance.ratio || e.now.first_ratio.is_nan(),
        at_once: true,
        what: |e| format!("probability ratio before the first update is {:.4}, expected 1", e.now.first_ratio),
        cause: "two passes over the same tokens differ: dropout, positions, a different temperature, or damaged weights",
        cure: "this is a bug or a hardware error: try --device cpu --dtype f32, and report it",
    },
    HealthCheck {
        name: "sampler",
        is_bad: |e| e.now.sampling_error.is_some_and(|off| off > e.tolerance.log_prob || off.is_nan()),
        at_once: true,
        what: |e| {
            let off = e.now.sampling_error.unwrap_or(f64::NAN);
            format!(
                "log-probabilities during sampling differ by {off:.4} nats from those of one pass over the complete \
                 answers"
            )
        },
        cause: "the sampler and the trained policy differ in positions, end tokens or precision",
        cure: "use --dtype f32; if the finding persists, report it",
    },
    HealthCheck {
        name: "negative KL",
        is_bad: |e| e.now.kl < -2.0 * e.now.kl_error - 1e-3,
        at_once: false,
        what: |e| {
            format!(
                "the KL estimate has been negative for {} iterations; it is now {:.3} nats per answer",
                e.config.patience, e.now.kl
            )
        },
        cause: "the mean cannot be negative for samples of the policy: the reference model uses other tokens or \
                another temperature",
        cure: "use an --init model with the tokenizer and chat template of the reward model",
    },
    HealthCheck {
        name: "far from the reference",
        is_bad: |e| e.now.kl > e.config.max_kl,
        at_once: true,
        what: |e| {
            format!(
                "the KL divergence from the reference model is {:.1} nats per answer; above {:.0}, scores are rarely \
                 reliable",
                e.now.kl, e.config.max_kl
            )
        },
        cause: "the reward model is over-optimized (Gao et al. 2022)",
        cure: "raise reward.kl_coef, set reward.adaptive.target, lower train.lr, or train for fewer steps",
    },
    HealthCheck {
        name: "no ends",
        is_bad: |e| e.now.end_rate < 0.5 && e.now.end_rate < e.first.end_rate - 0.1 || e.now.end_rate < 0.1,
        at_once: false,
        what: |e| {
            let [now, first] = [e.now, e.first].map(|health| 100.0 * health.end_rate);
            format!("{now:.0}% of the answers end with an end token; at the start it was {first:.0}%")
        },
        cause: "the reward model prefers long or truncated answers, or answers need more tokens",
        cure: "set reward.missing_end = \"fixed\" or raise reward.missing_end_value; or raise rollout.max_new_tokens",
    },
    HealthCheck {
        name: "clipping",
        is_bad: |e| e.now.clip_fraction > 0.3,
        at_once: false,
        what: |e| format!("{:.0}% of the tokens are clipped", 100.0 * e.now.clip_fraction),
        cause: "updates are too large for policy.clip_range",
        cure: "lower train.lr or policy.epochs, or raise train.batch_size",
    },
    HealthCheck {
        name: "large updates",
        is_bad: |e| e.now.approx_kl > 0.2,
        at_once: true,
        what: |e| {
            format!(
                "one iteration changed the policy by {:.3} (half the mean squared change of a log-probability)",
                e.now.approx_kl
            )
        },
        cause: "the learning rate is too high, or Adam's first steps are too large (see train.eps_placement)",
        cure: "lower train.lr, add train.warmup, or set policy.max_approx_kl = 0.05",
    },
    HealthCheck {
        name: "values",
        is_bad: |e| e.n_iterations > 10 && e.now.explained_variance < 0.0,
        at_once: false,
        what: |e| {
            format!(
                "the explained variance of the values is {:.2}, worse than predicting the mean return",
                e.now.explained_variance
            )
        },
        cause: "the value network learns too slowly",
        cure: "raise value.lr or value.warmup_epochs, set value.init = \"reward\", or widen value.clip_range",
    },
    HealthCheck {
        name: "entropy",
        is_bad: |e| e.now.entropy < 0.2 * e.first.entropy,
        at_once: false,
        what: |e| {
            format!(
                "entropy fell from {:.3} to {:.3} nats per token: the answers become alike",
                e.first.entropy, e.now.entropy
            )
        },
        cause: "the policy has collapsed to a few answers",
        cure: "raise reward.kl_coef or lower train.lr; look at answers.md",
    },
    HealthCheck {
        name: "length",
        is_bad: |e| {
            let longer = e.now.length > 1.5 * e.first.length && e.now.score > e.first.score;
            longer && e.now.score_length > 0.7
        },
        at_once: false,
        what: |e| {
            format!(
                "the score rises with length: answers grew from {:.0} to {:.0} tokens, with a correlation of {:.2}",
                e.first.length, e.now.length, e.now.score_length
            )
        },
        cause: "the reward model favors long answers",
        cure: "see \"length explains\" in its report; add comparisons in which the shorter answer is better, or lower \
               rollout.max_new_tokens",
    },
];

/// Says what was found after iteration `step`, or ends the run.
///
/// # Errors
/// When it ends the run.
pub(crate) fn act(found: &[Finding], step: u64, config: &DoctorConfig, progress: &dyn Progress) -> Result<()> {
    let say = |finding: &Finding| {
        format!("iteration {step}: {}\n  cause: {}\n  fix: {}", finding.what, finding.cause, finding.cure)
    };
    match config.on_finding {
        OnFinding::Ignore => {}
        OnFinding::Warn => found.iter().for_each(|finding| progress.warn(&say(finding))),
        OnFinding::Stop => {
            if let Some(finding) = found.first() {
                bail!("{}\n  doctor.on_finding = \"stop\" ended the run here; its state is saved", say(finding));
            }
        }
    }
    Ok(())
}

/// 1 − var(`returns` − `values`)/var(`returns`); 0 when these do not vary.
pub(crate) fn explained_variance(values: &[f32], returns: &[f32]) -> f64 {
    let variance = |numbers: &mut dyn Iterator<Item = f64>| {
        let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for x in numbers {
            (n, sum, squares) = (n + 1.0, sum + x, squares + x * x);
        }
        squares / n - (sum / n) * (sum / n)
    };
    let whole = variance(&mut returns.iter().map(|&r| f64::from(r)));
    let left = variance(&mut returns.iter().zip(values).map(|(&r, &v)| f64::from(r) - f64::from(v)));
    if whole > 1e-12 { 1.0 - left / whole } else { 0.0 }
}

/// Pearson correlation of scores and lengths; 0 where it is undefined, so that metrics stay numbers.
pub(crate) fn score_length_correlation(scores: &[f64], lengths: &[f64]) -> f64 {
    let correlation = gptkit_stats::pearson(scores, lengths);
    if correlation.is_nan() { 0.0 } else { correlation }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> HealthMetrics {
        HealthMetrics {
            first_ratio: 1.0,
            sampling_error: Some(1e-6),
            kl: 2.0,
            kl_error: 0.1,
            end_rate: 0.98,
            clip_fraction: 0.05,
            approx_kl: 0.01,
            explained_variance: 0.5,
            entropy: 0.8,
            score: 0.1,
            length: 20.0,
            score_length: 0.1,
        }
    }

    /// The findings for iterations with these metrics, after twelve healthy ones.
    fn said(signs: impl Fn(&mut HealthMetrics), n: usize) -> Vec<Vec<&'static str>> {
        let (mut doctor, config, tolerance) = (Doctor::default(), DoctorConfig::default(), Tolerance::of(false));
        for _ in 0..12 {
            assert_eq!(doctor.examine(&well(), &config, tolerance), []);
        }
        let mut bad = well();
        signs(&mut bad);
        let names = |found: Vec<Finding>| found.iter().map(|finding| finding.name).collect();
        (0..n).map(|_| names(doctor.examine(&bad, &config, tolerance))).collect()
    }

    #[test]
    fn each_illness_is_found_and_said_once() {
        for (name, makes) in [
            ("ratio", (|s| s.first_ratio = 1.01) as fn(&mut HealthMetrics)),
            ("ratio", |s| s.first_ratio = f64::NAN),
            ("sampler", |s| s.sampling_error = Some(0.1)),
            ("far from the reference", |s| s.kl = 51.0),
            ("large updates", |s| s.approx_kl = 0.3),
        ] {
            assert_eq!(said(makes, 3), [vec![name], vec![], vec![]], "at once");
        }
        for (name, makes) in [
            ("negative KL", (|s| s.kl = -0.5) as fn(&mut HealthMetrics)),
            ("no ends", |s| s.end_rate = 0.3),
            ("clipping", |s| s.clip_fraction = 0.4),
            ("values", |s| s.explained_variance = -0.1),
            ("entropy", |s| s.entropy = 0.1),
            ("length", |s| (s.length, s.score, s.score_length) = (40.0, 0.9, 0.8)),
        ] {
            assert_eq!(said(makes, 5), [vec![], vec![], vec![name], vec![], vec![]], "when it lasts");
        }
        assert_eq!(said(|s| (s.length, s.score) = (40.0, 0.9), 4).concat(), [""; 0], "long is not ill");
    }

    #[test]
    fn what_wavers_is_no_finding() {
        let (mut doctor, config) = (Doctor::default(), DoctorConfig::default());
        for i in 0..20 {
            let signs = HealthMetrics { kl: if i % 3 == 2 { 0.1 } else { -0.5 }, ..well() };
            assert_eq!(doctor.examine(&signs, &config, Tolerance::of(false)), [], "{i}");
        }
    }

    #[test]
    fn figures_are_what_they_are_defined_to_be() {
        assert_eq!(explained_variance(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), 1.0);
        assert!(explained_variance(&[2.0, 2.0, 2.0], &[1.0, 2.0, 3.0]).abs() < 1e-6);
        assert!(explained_variance(&[3.0, 2.0, 1.0], &[1.0, 2.0, 3.0]) < -2.0);
        assert_eq!(explained_variance(&[1.0, 5.0], &[2.0, 2.0]), 0.0);
        assert!((score_length_correlation(&[1.0, 2.0, 4.0], &[2.0, 4.0, 8.0]) - 1.0).abs() < 1e-9);
        assert!((score_length_correlation(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]) - 0.5).abs() < 1e-9);
        assert_eq!(score_length_correlation(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    }
}
