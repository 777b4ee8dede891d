//! What a family says: points, laws, predictions, the best size for a budget.

use super::config::{ScalingConfig, non_embedding};
use super::family::TrainedMember;
use super::law::{Dependence, FitErrors, LawFit};
use super::parametric::{MeasuredLoss, ParametricFit};
use super::points::{contested, frontier};
use anyhow::{Context, Result};
use gptkit_stats::Interval;
use gptkit_train::plan::Flops;
use serde::{Serialize, Serializer};

/// All that was found; `scaling.json`.
#[derive(Debug, Clone, Serialize)]
pub struct ScalingReport {
    /// The models, in the order in which they were trained.
    pub members: Vec<Member>,
    /// L(N), over the last losses.
    pub size_law: FitResult<Law>,
    /// L(D), along the run of the largest member that is fitted.
    pub token_law: FitResult<Law>,
    /// L(C), along the frontier.
    pub compute_law: FitResult<Law>,
    /// The points of that frontier: compute and loss.
    pub frontier: Vec<(f64, f64)>,
    /// L(N, D).
    pub parametric: FitResult<ParametricLaw>,
    /// Losses that were not fitted, as the laws have them.
    pub predictions: Vec<Prediction>,
    /// The best sizes for some budgets.
    pub optima: Vec<OptimumEstimate>,
    /// What must be known to read the rest.
    pub remarks: Vec<String>,
}

/// A fit, or why there is none.
#[derive(Debug, Clone)]
pub enum FitResult<T> {
    /// The fit.
    Fitted(T),
    /// Why there is none.
    Refused(String),
}

impl<T> FitResult<T> {
    fn of(result: Result<T>) -> Self {
        result.map_or_else(|e| Self::Refused(format!("{e:#}")), Self::Fitted)
    }

    /// The fit, if there is one.
    pub fn fitted(&self) -> Option<&T> {
        match self {
            Self::Fitted(fit) => Some(fit),
            Self::Refused(_) => None,
        }
    }
}

impl<T: Serialize> Serialize for FitResult<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fitted(fit) => fit.serialize(serializer),
            Self::Refused(why) => serializer.collect_map([("refused", why)]),
        }
    }
}

/// A trained model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Member {
    /// Its name, which is its folder's.
    pub name: String,
    /// Weights without embeddings: N.
    pub size: u64,
    /// All weights.
    pub n_params: u64,
    /// Whether it was left out of the fits.
    pub predict: bool,
    /// Highest learning rate.
    pub lr: f64,
    /// Tokens of the whole run: D.
    pub tokens: u64,
    /// C = 6·N·D.
    pub compute: f64,
    /// Operations as `gptkit plan` counts them, with the head and attention.
    pub flops: f64,
    /// Validation loss at the end, nats per token.
    pub loss: f64,
    /// Whether its learning rate had fallen by then.
    pub decayed: bool,
    /// Seconds of training.
    pub elapsed_s: f64,
    /// Validation losses along the run.
    pub points: Vec<LossPoint>,
}

/// A validation loss along a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LossPoint {
    /// Tokens until then.
    pub tokens: u64,
    /// 6·N·D.
    pub compute: f64,
    /// Nats a token.
    pub loss: f64,
    /// Whether laws are fitted to it: the rate is at its highest, and the start is over.
    pub fitted: bool,
}

/// A number, and where 95 of 100 lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    fn new(value: f64, interval: Interval) -> Self {
        Self { value, low: interval.low, high: interval.high }
    }

    /// Whether `x` lies in the interval.
    pub fn contains(&self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }
}

/// L(X) = E + (X_c/X)^α.
#[derive(Debug, Clone, Serialize)]
pub struct Law {
    /// N, D or C.
    pub variable: &'static str,
    /// Points that it was fitted to.
    pub n_points: usize,
    /// α.
    pub exponent: Estimate,
    /// Kaplan's α (Kaplan et al. 2020, eq. 1.1 to 1.3); that of compute is for batches of the best size.
    pub published_exponent: f64,
    /// Logarithm of X_c to base 10.
    pub log10_constant: Estimate,
    /// E, where the law with one is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub irreducible: Option<Estimate>,
    /// Root mean square of what it is off by, as a share of the loss.
    pub error: f64,
    /// The same at points that were left out in their turn.
    pub error_left_out: f64,
    /// These two of (X_c/X)^α alone.
    pub pure_errors: [f64; 2],
    /// These two with E, where there are points enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub irreducible_errors: Option<[f64; 2]>,
    /// Smallest and largest X of the points.
    pub range: [f64; 2],
    #[serde(skip)]
    fit: LawFit,
}

impl Law {
    fn new(
        variable: &'static str,
        published: f64,
        points: &[(f64, f64)],
        which: Dependence,
        seed: u64,
    ) -> Result<Self> {
        let fit = LawFit::new(points, which, seed)?;
        let errors = |errors: FitErrors| [errors.fitted, errors.left_out];
        let [error, error_left_out] = errors(fit.errors());
        let estimate = |value: fn(&super::law::PowerLaw) -> f64| Estimate::new(value(&fit.law), fit.interval(value));
        Ok(Self {
            variable,
            n_points: points.len(),
            exponent: estimate(|law| law.exponent),
            published_exponent: published,
            log10_constant: estimate(|law| law.log_constant / std::f64::consts::LN_10),
            irreducible: (fit.law.irreducible > 0.0).then(|| estimate(|law| law.irreducible)),
            error,
            error_left_out,
            pure_errors: errors(fit.pure),
            irreducible_errors: fit.with_irreducible.map(errors),
            range: [points[0].0, points[points.len() - 1].0],
            fit,
        })
    }

    /// The loss at `x` and the band about it.
    pub fn band(&self, x: f64) -> Estimate {
        Estimate::new(self.fit.law.loss(x), self.fit.interval(|law| law.loss(x)))
    }

    /// The loss of another run at `x`.
    fn prediction(&self, x: f64) -> Estimate {
        Estimate::new(self.fit.law.loss(x), self.fit.prediction(x))
    }
}

/// L(N, D) = E + A/N^α + B/D^β.
#[derive(Debug, Clone, Serialize)]
pub struct ParametricLaw {
    /// Points that it was fitted to.
    pub n_points: usize,
    /// E.
    pub irreducible: Estimate,
    /// A.
    pub a: Estimate,
    /// B.
    pub b: Estimate,
    /// α.
    pub alpha: Estimate,
    /// β.
    pub beta: Estimate,
    /// α and β of Hoffmann et al. 2022, appendix D.3.
    pub published: [f64; 2],
    /// How fast the best size grows with compute: β/(α + β).
    pub size_share: Estimate,
    /// What the decay of the learning rate multiplies the loss with, where that could be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_gain: Option<Estimate>,
    /// Root mean square of what it is off by, as a share of the loss.
    pub error: f64,
    #[serde(skip)]
    fit: ParametricFit,
}

/// A loss that was not fitted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The member, or nothing for a size that has not been trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// N.
    pub size: f64,
    /// D.
    pub tokens: f64,
    /// Its loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// What L(N) makes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_size: Option<Estimate>,
    /// What L(N, D) makes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_both: Option<Estimate>,
}

/// The best size for a budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OptimumEstimate {
    /// C.
    pub compute: f64,
    /// N.
    pub size: Estimate,
    /// D.
    pub tokens: Estimate,
    /// D/N.
    pub tokens_per_parameter: Estimate,
    /// Loss there.
    pub loss: Estimate,
    /// How many times the most that was measured.
    pub beyond: f64,
}

/// A rate this near to the highest is the highest.
const AT_ITS_HIGHEST: f64 = 1.0 - 1e-9;

impl Member {
    pub(crate) fn of(trained: &TrainedMember, fit_from: f64) -> Result<Self> {
        let TrainedMember { size: told, config, records, elapsed_s } = trained;
        let size = non_embedding(&config.model);
        let last = records.last().context("the run has no metrics")?;
        let highest = |lr: f64| lr >= config.train.lr * AT_ITS_HIGHEST;
        let compute = |tokens: u64| 6.0 * size as f64 * tokens as f64;
        let points = records.iter().filter_map(|record| {
            let begun = record.tokens as f64 >= fit_from * last.tokens as f64;
            let fitted = begun && highest(record.learning_rate);
            let point = |loss| LossPoint { tokens: record.tokens, compute: compute(record.tokens), loss, fitted };
            record.val_loss.map(point)
        });
        Ok(Self {
            name: told.name.clone(),
            size,
            n_params: config.model.n_params(),
            predict: told.predict,
            lr: config.train.lr,
            tokens: last.tokens,
            compute: compute(last.tokens),
            flops: Flops::of(&config.model, &config.train).total() * last.tokens as f64,
            loss: last.val_loss.context("the run has no validation loss at its end")?,
            decayed: !highest(last.learning_rate),
            elapsed_s: *elapsed_s,
            points: points.collect(),
        })
    }

    /// What laws of tokens and compute are fitted to.
    fn fitted(&self) -> impl Iterator<Item = &LossPoint> {
        self.points.iter().filter(|point| point.fitted)
    }

    /// For L(N, D): those, and the end.
    fn measured(&self) -> Vec<MeasuredLoss> {
        let size = self.size as f64;
        let along = self.fitted().filter(|point| point.tokens < self.tokens);
        let along = along.map(|p| MeasuredLoss { size, tokens: p.tokens as f64, loss: p.loss, decayed: false });
        let end = MeasuredLoss { size, tokens: self.tokens as f64, loss: self.loss, decayed: self.decayed };
        along.chain([end]).collect()
    }
}

impl ScalingReport {
    /// Fits the laws to `members` of a family of `config`. The best size is told for `budget`, if there is one, besides what
    /// the largest member took and ten times as much.
    pub(crate) fn new(members: Vec<Member>, config: &ScalingConfig, budget: Option<f64>) -> Self {
        let seed = config.seed;
        let mut fitted: Vec<&Member> = members.iter().filter(|member| !member.predict).collect();
        fitted.sort_by_key(|member| member.size);
        let last: Vec<(f64, f64)> = fitted.iter().map(|member| (member.size as f64, member.loss)).collect();
        let size_law = FitResult::of(Law::new("N", 0.076, &last, Dependence::OfManyRuns, seed));
        let largest = fitted.last().into_iter().flat_map(|member| member.fitted());
        let largest: Vec<(f64, f64)> = largest.map(|point| (point.tokens as f64, point.loss)).collect();
        let token_law = FitResult::of(Law::new("D", 0.095, &largest, Dependence::OfOneRun, seed));
        let frontier = fitted_frontier(&fitted);
        let compute_law = FitResult::of(Law::new("C", 0.050, &frontier, Dependence::OfOneRun, seed));
        let runs: Vec<Vec<MeasuredLoss>> = fitted.iter().map(|member| member.measured()).collect();
        let parametric = FitResult::of(ParametricLaw::new(&runs, seed));
        let mut report = Self {
            size_law,
            token_law,
            compute_law,
            frontier,
            parametric,
            predictions: Vec::new(),
            optima: Vec::new(),
            remarks: Vec::new(),
            members,
        };
        report.predictions = report.predicted();
        let most = report.members.iter().map(|member| member.compute).fold(0.0, f64::max);
        let budgets = [Some(most), Some(10.0 * most), budget];
        report.optima = budgets.iter().flatten().filter_map(|&budget| report.optimum(budget, most)).collect();
        report.remarks = report.remark();
        report
    }

    fn predicted(&self) -> Vec<Prediction> {
        let one = |name: Option<&str>, size: f64, tokens: f64, measured| Prediction {
            name: name.map(str::to_owned),
            size,
            tokens,
            measured,
            by_size: self.size_law.fitted().map(|law| law.prediction(size)),
            by_both: self.parametric.fitted().map(|law| law.prediction(size, tokens)),
        };
        let held_out = self.members.iter().filter(|member| member.predict);
        let held_out = held_out.map(|m| one(Some(&m.name), m.size as f64, m.tokens as f64, Some(m.loss)));
        // At equal tokens, twice the size is twice the compute.
        let largest = self.members.iter().max_by_key(|member| member.size);
        let next = largest.map(|member| one(None, 2.0 * member.size as f64, member.tokens as f64, None));
        held_out.chain(next).collect()
    }

    fn optimum(&self, compute: f64, most: f64) -> Option<OptimumEstimate> {
        let ParametricLaw { fit, .. } = self.parametric.fitted()?;
        let estimate =
            |value: &dyn Fn(&super::parametric::Parametric) -> f64| Estimate::new(value(&fit.law), fit.interval(value));
        Some(OptimumEstimate {
            compute,
            size: estimate(&|law| law.optimum(compute).size),
            tokens: estimate(&|law| law.optimum(compute).tokens),
            tokens_per_parameter: estimate(&|law| law.optimum(compute).tokens / law.optimum(compute).size),
            loss: estimate(&|law| law.loss(law.optimum(compute).size, law.optimum(compute).tokens)),
            beyond: compute / most,
        })
    }

    fn remark(&self) -> Vec<String> {
        let mut remarks = vec![
            "N is the number of parameters without embeddings (Kaplan et al. 2020, §2.1), D the number of tokens, and \
             C = 6·N·D. Work is the number of FLOPs that gptkit plan counts, including the output head and attention."
                .to_owned(),
        ];
        if self.members.iter().any(|member| member.decayed) {
            remarks.push(
                "L(N) is fitted to losses at the end of training, after the learning-rate decay. L(D) and L(C) are \
                 fitted to losses during training, before the decay; these are higher than the losses of runs that end \
                 there. L(N, D) uses both and estimates the effect of the decay."
                    .to_owned(),
            );
        }
        remarks.push(
            "The 95% intervals are computed from the scatter around the fit. They do not cover other seeds, better \
             learning rates, or a law that bends outside the measured range."
                .to_owned(),
        );
        remarks.extend(self.law_remarks());
        remarks.extend(self.held_out_remarks());
        if self.optima.iter().any(|optimum| optimum.beyond > 10.0) {
            remarks.push(
                "A compute budget of over ten times the largest measured one is far outside the range of the fit."
                    .to_owned(),
            );
        }
        remarks.push(
            "The published exponents were measured on web text, with larger vocabularies and with models up to a \
             thousand times as large; the exponents here can differ from them."
                .to_owned(),
        );
        remarks
    }
}

impl ScalingReport {
    /// How well each law fits, or why there is none.
    fn law_remarks(&self) -> Vec<String> {
        let laws = [("L(N)", &self.size_law), ("L(D)", &self.token_law), ("L(C)", &self.compute_law)];
        let words = |(name, law): (&str, &FitResult<Law>)| match law {
            FitResult::Fitted(law) => law.words(name),
            FitResult::Refused(why) => format!("{name} is not fitted: {why}."),
        };
        let both = match &self.parametric {
            FitResult::Fitted(law) => format!("L(N, D) has an error of {}.", percent(law.error)),
            FitResult::Refused(why) => format!("L(N, D) is not fitted: {why}."),
        };
        laws.into_iter().map(words).chain([both]).collect()
    }

    /// How far the laws are off at the members that were held out.
    fn held_out_remarks(&self) -> Vec<String> {
        let held_out = self.predictions.iter().filter_map(|p| Some((p, p.name.as_ref()?, p.measured?)));
        let mut remarks = Vec::new();
        for (prediction, name, measured) in held_out {
            for (law, estimate) in [("L(N)", prediction.by_size), ("L(N, D)", prediction.by_both)] {
                remarks.extend(estimate.map(|estimate| {
                    let place = if estimate.contains(measured) { "within" } else { "outside" };
                    let off = percent((estimate.value / measured - 1.0).abs());
                    format!("{name}: the prediction of {law} is off by {off}; the loss is {place} the 95% interval.")
                }));
            }
        }
        remarks
    }
}

/// Points of the frontier of all members where at least two compete.
fn fitted_frontier(fitted: &[&Member]) -> Vec<(f64, f64)> {
    let runs: Vec<Vec<(f64, f64)>> =
        fitted.iter().map(|member| member.fitted().map(|point| (point.compute, point.loss)).collect()).collect();
    let all = frontier(&runs.concat());
    match contested(&runs) {
        Some((low, high)) => all.into_iter().filter(|point| (low..=high).contains(&point.0)).collect(),
        None => all,
    }
}

impl Law {
    /// How good it is.
    fn words(&self, name: &str) -> String {
        let Self { variable, pure_errors, irreducible_errors, .. } = self;
        let errors = |[fitted, left_out]: [f64; 2]| {
            format!("an error of {} at fitted points and {} at held-out points", percent(fitted), percent(left_out))
        };
        match (&self.irreducible, irreducible_errors) {
            (Some(_), Some(with)) => format!(
                "{name} includes an irreducible loss, because ({variable}c/{variable})^α alone fits badly: it has {}; \
                 alone, {}.",
                errors(*with),
                errors(*pure_errors)
            ),
            (_, Some(with)) => {
                format!(
                    "{name} has {}; an irreducible loss does not improve it enough, with {}.",
                    errors(*pure_errors),
                    errors(*with)
                )
            }
            _ => format!("{name} has {}.", errors(*pure_errors)),
        }
    }
}

impl ParametricLaw {
    fn new(runs: &[Vec<MeasuredLoss>], seed: u64) -> Result<Self> {
        let fit = ParametricFit::new(runs, seed)?;
        let estimate =
            |value: fn(&super::parametric::Parametric) -> f64| Estimate::new(value(&fit.law), fit.interval(value));
        let has_gain = runs.iter().flatten().any(|p| p.decayed) && runs.iter().flatten().any(|p| !p.decayed);
        Ok(Self {
            n_points: runs.iter().map(Vec::len).sum(),
            irreducible: estimate(|law| law.irreducible),
            a: estimate(|law| law.log_a.exp()),
            b: estimate(|law| law.log_b.exp()),
            alpha: estimate(|law| law.alpha),
            beta: estimate(|law| law.beta),
            published: [0.34, 0.28],
            size_share: estimate(|law| law.shares().0),
            decay_gain: has_gain.then(|| estimate(|law| law.gain)),
            error: fit.error,
            fit,
        })
    }

    fn prediction(&self, size: f64, tokens: f64) -> Estimate {
        Estimate::new(self.fit.law.loss(size, tokens), self.fit.prediction(size, tokens))
    }
}

/// 0.0123 → 1.2%.
pub(crate) fn percent(share: f64) -> String {
    let digits = if share.abs() < 0.001 { 3 } else { 2 };
    format!("{:.digits$}%", 100.0 * share)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::tests::family;
    use crate::parametric::Parametric;
    use gptkit_rng::Dice;

    const TRUTH: Parametric =
        Parametric { irreducible: 0.5, log_a: 3.3, log_b: 5.5, alpha: 0.3, beta: 0.42, gain: 0.95 };

    /// Six sizes, the largest held out, twenty-five losses of a run each; the rate falls in the last fifth.
    pub(crate) fn members(deviation: f64) -> Vec<Member> {
        let mut dice = Dice::for_resampling(7);
        let mut member = |i: usize, size: u64| {
            let compute = |tokens: u64| 6.0 * size as f64 * tokens as f64;
            let mut point = |step: u64| {
                let tokens = 120_000 * step;
                let fall = (step as f64 - 20.0).max(0.0) / 5.0;
                let loss = TRUTH.loss(size as f64, tokens as f64) * TRUTH.gain.powf(fall - 1.0);
                let loss = loss * (deviation * dice.normal()).exp();
                LossPoint { tokens, compute: compute(tokens), loss, fitted: (2..=20).contains(&step) }
            };
            let points: Vec<LossPoint> = (1..=25).map(&mut point).collect();
            let last = points[24];
            Member {
                name: format!("s{}", i + 1),
                size,
                n_params: 2 * size,
                predict: i == 5,
                lr: 1e-3,
                tokens: last.tokens,
                compute: last.compute,
                flops: 1.5 * last.compute,
                loss: last.loss,
                decayed: true,
                elapsed_s: 1.0,
                points,
            }
        };
        let sizes = [14_496, 56_640, 150_080, 447_552, 1_496_352, 3_949_312];
        sizes.into_iter().enumerate().map(|(i, size)| member(i, size)).collect()
    }

    fn found(deviation: f64) -> ScalingReport {
        let sizes = serde_json::json!([{ "name": "a", "n_layer": 1, "n_head": 1, "d_model": 8 }]);
        ScalingReport::new(members(deviation), &family(sizes), Some(1e18))
    }

    #[test]
    fn the_held_out_size_is_predicted_and_the_best_sizes_are_the_laws() {
        let report = found(2e-3);
        let [held_out, next] = &report.predictions[..] else { panic!("{:?}", report.predictions) };
        let (measured, both) = (held_out.measured.unwrap(), held_out.by_both.unwrap());
        assert!(both.contains(measured) && (both.value / measured - 1.0).abs() < 0.01, "{held_out:?}");
        assert!((held_out.by_size.unwrap().value / measured - 1.0).abs() < 0.03, "{held_out:?}");
        assert!(next.size == 2.0 * 3_949_312.0 && next.measured.is_none(), "{next:?}");
        let law = report.parametric.fitted().unwrap();
        assert!((law.decay_gain.unwrap().value - TRUTH.gain).abs() < 5e-3, "{law:?}");
        let budgets: Vec<f64> = report.optima.iter().map(|optimum| optimum.compute).collect();
        assert_eq!(budgets, [report.members[5].compute, 10.0 * report.members[5].compute, 1e18]);
        let truth = TRUTH.optimum(budgets[0]).size;
        assert!(report.optima[0].size.contains(truth), "{:?} {truth}", report.optima[0]);
        for says in
            ["over ten times", "s6: the prediction of L(N, D) is off by 0.", "the loss is within the 95% interval"]
        {
            assert!(report.remarks.iter().any(|remark| remark.contains(says)), "{says}: {:?}", report.remarks);
        }
    }

    #[test]
    fn laws_are_fitted_to_losses_of_one_kind() {
        let report = found(0.0);
        assert_eq!(report.size_law.fitted().unwrap().n_points, 5);
        assert_eq!(report.token_law.fitted().unwrap().n_points, 19);
        assert_eq!(report.parametric.fitted().unwrap().n_points, 5 * 20);
        // Nothing of the held-out member, whose losses are the lowest of all.
        let lowest = report.members[4].fitted().map(|p| p.loss).fold(f64::INFINITY, f64::min);
        assert!(report.frontier.iter().all(|p| p.1 >= lowest));
    }

    #[test]
    fn a_law_that_cannot_be_fitted_is_said_and_the_others_stand() {
        let mut members = members(1e-3);
        members.iter_mut().flat_map(|member| &mut member.points).for_each(|point| point.fitted = false);
        let sizes = serde_json::json!([{ "name": "a", "n_layer": 1, "n_head": 1, "d_model": 8 }]);
        let report = ScalingReport::new(members, &family(sizes), None);
        assert!(report.size_law.fitted().is_some() && report.token_law.fitted().is_none());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["token_law"]["refused"], "a law needs at least 3 points, but there are 0");
        assert!(report.remarks.iter().any(|remark| remark.starts_with("L(D) is not fitted: ")));
    }
}
