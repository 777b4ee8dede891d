//! Metrics of one or several runs as charts and as CSV. Runs that differ only in their seed are one curve: their mean, in a
//! band from the lowest to the highest value.

use crate::curves::{CurvePoint, Curves, VALIDATION};
use crate::metrics::{GOLD, KL, SCORE};
use anyhow::{Context, Result};
use gptkit_config::{Usage, nearest};
use gptkit_data::disk;
use gptkit_plot::scale::{is_drawn, thinned};
use gptkit_plot::{Axis, Extent, LineChart, Look, Names, Series, stacked};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Charts below each other.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPlot {
    charts: Vec<MetricChart>,
    /// Names and seeds of the runs that are drawn as one curve.
    bands: Vec<String>,
    /// Whether the horizontal axis counts iterations instead of tokens: all runs are runs of PPO.
    is_of_iterations: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct MetricChart {
    /// Name of the vertical axis.
    label: String,
    height: f64,
    from_zero: bool,
    curves: Vec<PlottedCurve>,
}

/// A metric of a run, or the mean of several runs.
#[derive(Debug, Clone, PartialEq)]
struct PlottedCurve {
    /// Name of the run, or what the names of several have in common.
    run: String,
    n_runs: usize,
    metric: String,
    /// Name in the legend; may be empty.
    name: String,
    style: usize,
    opacity: f64,
    look: Look,
    points: Vec<CurvePoint>,
    /// Lowest and highest value at each point; empty for one run.
    ranges: Vec<(f64, f64)>,
}

/// A chart that is drawn when no metric is named.
struct DefaultChart {
    label: &'static str,
    height: f64,
    from_zero: bool,
    /// Metrics, with their names in the legend and their looks.
    parts: &'static [(&'static str, &'static str, Look)],
}

/// Of stages that are trained on a loss.
const LOSSES: [DefaultChart; 2] = [
    DefaultChart {
        label: "loss (nats)",
        height: 430.0,
        from_zero: false,
        parts: &[("train_loss", "training", Look::Line), ("val_loss", "validation", Look::Points)],
    },
    DefaultChart {
        label: "learning rate",
        height: 210.0,
        from_zero: true,
        parts: &[("learning_rate", "", Look::Line)],
    },
];

/// Of PPO, whose loss is no measure of progress.
const REWARDS: [DefaultChart; 3] = [
    DefaultChart {
        label: "reward model's score",
        height: 300.0,
        from_zero: false,
        parts: &[(SCORE, "training prompts", Look::Line), ("val/objective/score", "held-out prompts", Look::Points)],
    },
    DefaultChart {
        label: "KL from the initial model (nats per answer)",
        height: 300.0,
        from_zero: true,
        parts: &[(KL, "training prompts", Look::Line), ("val/objective/kl", "held-out prompts", Look::Points)],
    },
    DefaultChart {
        label: "gold score",
        height: 300.0,
        from_zero: false,
        parts: &[(GOLD, "training prompts", Look::Line), ("val/objective/gold", "held-out prompts", Look::Points)],
    },
];

/// Height of the chart of a metric that was named.
const HEIGHT: f64 = 300.0;
/// Width of the picture, in its units.
const WIDTH: f64 = 900.0;
/// Opacity of the training loss, behind the validation loss.
const BEHIND: f64 = 0.6;

/// The curves of a run in its folder, the last file that it writes.
pub const CURVES: &str = "curves.svg";

/// Draws the curves of the run in `folder` into [`CURVES`].
///
/// # Errors
/// When its records cannot be read, or the file cannot be written.
pub fn draw(folder: &Path) -> Result<()> {
    let plot = MetricPlot::of_defaults(&[Curves::read(folder)?], false);
    disk::write(&folder.join(CURVES), plot.svg().as_bytes())
}

impl MetricPlot {
    /// What shows how `runs` went: losses and learning rate; of PPO the reward model's score, the KL divergence, and the gold
    /// score where it is known. `separate` draws runs that differ only in their seed as curves of their own.
    pub fn of_defaults(runs: &[Curves], separate: bool) -> Self {
        let groups = groups(runs, separate);
        let of_kind = |charts: &'static [DefaultChart], is_ppo: bool| {
            let groups: Vec<&RunGroup> = groups.iter().filter(|group| group.is_ppo() == is_ppo).collect();
            charts.iter().map(move |chart| chart.of(&groups, runs.len() > 1)).collect::<Vec<_>>()
        };
        let charts = [of_kind(&LOSSES, false), of_kind(&REWARDS, true)].concat();
        Self::new(charts.into_iter().filter(|chart| !chart.curves.is_empty()).collect(), &groups)
    }

    /// The metrics `names` of `runs`, a chart for each.
    ///
    /// # Errors
    /// When no run has one of them; the message has the names that are near, and all that exist.
    pub fn of_metrics(runs: &[Curves], names: &[String], separate: bool) -> Result<Self> {
        let groups = groups(runs, separate);
        let chart = |name: &String| -> Result<MetricChart> {
            let metric = resolve(name, runs)?;
            let curve = |group: &RunGroup| {
                let legend = if groups.len() > 1 || group.runs.len() > 1 { group.legend("") } else { String::new() };
                group.curve(&metric, legend, Look::Line)
            };
            let mut curves: Vec<PlottedCurve> = groups.iter().filter_map(curve).collect();
            for curve in curves.iter_mut().filter(|curve| curve.is_sparse()) {
                curve.look = Look::Dots;
            }
            Ok(MetricChart { label: metric, height: HEIGHT, from_zero: false, curves })
        };
        Ok(Self::new(names.iter().map(chart).collect::<Result<_>>()?, &groups))
    }

    fn new(charts: Vec<MetricChart>, groups: &[RunGroup]) -> Self {
        let bands = groups.iter().filter(|group| group.runs.len() > 1).map(RunGroup::describe).collect();
        Self { charts, bands, is_of_iterations: groups.iter().all(RunGroup::is_ppo) }
    }

    /// A line for each group of runs that is drawn as one curve.
    pub fn bands(&self) -> &[String] {
        &self.bands
    }

    /// The picture.
    pub fn svg(&self) -> String {
        let x = |point: &CurvePoint| (if self.is_of_iterations { point.step } else { point.tokens }) as f64;
        let points = self.charts.iter().flat_map(|chart| &chart.curves).flat_map(|curve| &curve.points);
        let last = points.map(x).fold(1.0, f64::max);
        let unit = if self.is_of_iterations { "iterations" } else { "tokens" };
        let charts: Vec<LineChart> = self
            .charts
            .iter()
            .map(|chart| LineChart {
                x: Axis { includes: vec![0.0, last], ..Axis::linear(unit) },
                y: Axis {
                    includes: if chart.from_zero { vec![0.0] } else { Vec::new() },
                    ..Axis::linear(chart.label.as_str())
                },
                series: chart.curves.iter().map(|curve| curve.series(&x)).collect(),
                names: Names::Legend,
                size: (WIDTH, chart.height),
                ..LineChart::default()
            })
            .collect();
        let labels: Vec<&str> = self.charts.iter().map(|chart| chart.label.as_str()).collect();
        stacked(&format!("{} over {unit}", labels.join(", ")), &charts)
    }

    /// The same as CSV: a row for each point. `runs` is the number of runs whose mean `value` is; `min` and `max` are empty
    /// for one run, and a value that is not finite is empty.
    ///
    /// # Errors
    /// Never with memory left.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["run", "runs", "metric", "step", "tokens", "value", "min", "max"])?;
        let number = |x: f64| if x.is_finite() { x.to_string() } else { String::new() };
        for curve in self.charts.iter().flat_map(|chart| &chart.curves) {
            for (i, point) in curve.points.iter().enumerate() {
                let (low, high) = curve.ranges.get(i).map_or((f64::NAN, f64::NAN), |range| *range);
                csv.write_record([
                    curve.run.as_str(),
                    &curve.n_runs.to_string(),
                    &curve.metric,
                    &point.step.to_string(),
                    &point.tokens.to_string(),
                    &number(point.value),
                    &number(low),
                    &number(high),
                ])?;
            }
        }
        csv.into_inner().context("the CSV cannot be completed")
    }
}

impl DefaultChart {
    fn of(&self, groups: &[&RunGroup], are_several: bool) -> MetricChart {
        let curve = |group: &&RunGroup, &(metric, part, look): &(&str, &str, Look)| {
            let name = if are_several { group.legend(part) } else { part.to_owned() };
            let look = if look == Look::Points && group.runs.len() > 1 { Look::Dots } else { look };
            let mut curve = group.curve(metric, name, look)?;
            curve.opacity = if metric == "train_loss" { BEHIND } else { 1.0 };
            Some(curve)
        };
        let curves = groups.iter().flat_map(|group| self.parts.iter().filter_map(move |part| curve(group, part)));
        MetricChart {
            label: self.label.to_owned(),
            height: self.height,
            from_zero: self.from_zero,
            curves: curves.collect(),
        }
    }
}

impl PlottedCurve {
    fn series(&self, x: &impl Fn(&CurvePoint) -> f64) -> Series {
        let extent = match self.ranges.is_empty() {
            true => Extent::None,
            false => {
                let band = self.points.iter().zip(&self.ranges).map(|(point, &(low, high))| (x(point), low, high));
                Extent::Band(thinned_band(&band.collect::<Vec<_>>()))
            }
        };
        Series {
            name: self.name.clone(),
            style: self.style,
            opacity: self.opacity,
            look: self.look,
            points: self.points.iter().map(|point| (x(point), point.value)).collect(),
            extent,
        }
    }

    /// Whether it has a value at few steps, as validations do.
    fn is_sparse(&self) -> bool {
        self.points.last().is_some_and(|last| (self.points.len() as u64) * 2 <= last.step)
    }
}

/// Both edges of `band` as lines are [thinned].
fn thinned_band(band: &[(f64, f64, f64)]) -> Vec<(f64, f64, f64)> {
    let sound: Vec<_> = band.iter().filter(|(_, low, high)| is_drawn(*low) && is_drawn(*high)).collect();
    let edge = |of: fn(&(f64, f64, f64)) -> f64| thinned(&sound.iter().map(|p| (p.0, of(p))).collect::<Vec<_>>());
    edge(|p| p.1).into_iter().zip(edge(|p| p.2)).map(|((x, low), (_, high))| (x, low, high)).collect()
}

/// Runs that are drawn as one curve.
struct RunGroup<'a> {
    name: String,
    style: usize,
    /// All differ in their seed alone.
    runs: Vec<&'a Curves>,
}

impl RunGroup<'_> {
    fn is_ppo(&self) -> bool {
        self.runs[0].is_ppo()
    }

    /// The name of its curve of `part` in a legend.
    fn legend(&self, part: &str) -> String {
        let seeds = match self.runs.len() {
            1 => String::new(),
            n => format!(" ({n} seeds: mean, min–max)"),
        };
        let part = if part.is_empty() { String::new() } else { format!(", {part}") };
        format!("{}{part}{seeds}", self.name)
    }

    fn describe(&self) -> String {
        let seeds: Vec<&str> = self.runs.iter().filter_map(|run| run.seed.as_deref()).collect();
        format!("{}: mean of seeds {}, in a band from the lowest to the highest value", self.name, seeds.join(", "))
    }

    /// Its curve of `metric`; none where no run has it. Of several runs, at the steps that all have recorded.
    fn curve(&self, metric: &str, name: String, look: Look) -> Option<PlottedCurve> {
        let all: Vec<&Vec<CurvePoint>> = self.runs.iter().filter_map(|run| run.metrics.get(metric)).collect();
        let (points, ranges) = match all.as_slice() {
            [] => return None,
            [one] => ((*one).clone(), Vec::new()),
            several => mean_and_range(several),
        };
        Some(PlottedCurve {
            run: self.name.clone(),
            n_runs: all.len(),
            metric: metric.to_owned(),
            name,
            style: self.style,
            opacity: 1.0,
            look,
            points,
            ranges,
        })
    }
}

/// The mean of several curves at the steps that all have, with the lowest and the highest value.
fn mean_and_range(curves: &[&Vec<CurvePoint>]) -> (Vec<CurvePoint>, Vec<(f64, f64)>) {
    let mut by_step: BTreeMap<u64, Vec<&CurvePoint>> = BTreeMap::new();
    for point in curves.iter().flat_map(|curve| curve.iter()) {
        by_step.entry(point.step).or_default().push(point);
    }
    let n = curves.len();
    let common = by_step.into_iter().filter(|(_, points)| points.len() == n);
    common
        .map(|(step, points)| {
            let values = || points.iter().map(|point| point.value);
            let tokens = points.iter().map(|point| point.tokens).sum::<u64>() / n as u64;
            let mean = CurvePoint { step, tokens, value: values().sum::<f64>() / n as f64 };
            (mean, (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max)))
        })
        .unzip()
}

/// `runs` in groups of those that differ only in their seed, in the order of the first of each.
fn groups(runs: &[Curves], separate: bool) -> Vec<RunGroup<'_>> {
    let mut groups: Vec<RunGroup> = Vec::new();
    for run in runs {
        let is_of = |group: &&mut RunGroup| group.runs.iter().all(|other| run.differs_in_seed_from(other));
        match groups.iter_mut().find(is_of).filter(|_| !separate) {
            Some(group) => group.runs.push(run),
            None => groups.push(RunGroup { name: String::new(), style: groups.len(), runs: vec![run] }),
        }
    }
    for group in &mut groups {
        group.name = group_name(&group.runs, runs);
    }
    groups
}

/// The name of a run, with its folder where another run of `all` has the same; of several runs, what their names have in common.
fn group_name(runs: &[&Curves], all: &[Curves]) -> String {
    let first = runs[0];
    if let [_] = runs {
        let is_shared = all.iter().filter(|run| run.name == first.name).count() > 1;
        return if is_shared { format!("{}/{}", first.parent, first.name) } else { first.name.clone() };
    }
    let is_common = |name: &&str| runs.iter().all(|run| run.name.starts_with(*name));
    let beginnings = (1..=first.name.len()).rev().filter_map(|n| first.name.get(..n));
    let common = beginnings.map(|name| name.trim_end_matches(['-', '_', '.'])).find(is_common).unwrap_or("");
    if common.is_empty() { first.name.clone() } else { common.to_owned() }
}

/// The metric of `runs` that `name` means: its whole name, TensorBoard's, or the last part of one alone.
fn resolve(name: &str, runs: &[Curves]) -> Result<String, Usage> {
    let known: BTreeSet<&str> = runs.iter().flat_map(|run| run.metrics.keys().map(String::as_str)).collect();
    let exact = match name {
        "loss/train" => "train_loss",
        "loss/val" => "val_loss",
        name => name,
    };
    if known.contains(exact) {
        return Ok(exact.to_owned());
    }
    let last = |metric: &&&str| metric.rsplit('/').next() == Some(name);
    let ends: Vec<&str> = known.iter().filter(last).copied().collect();
    let of_steps: Vec<&str> = ends.iter().filter(|metric| !metric.starts_with(VALIDATION)).copied().collect();
    if let [one] = if of_steps.is_empty() { ends.as_slice() } else { of_steps.as_slice() } {
        return Ok((*one).to_owned());
    }
    let mut near: Vec<&str> = known.iter().filter(|metric| metric.contains(name)).copied().collect();
    near.extend(nearest(name, known.iter().copied()).filter(|metric| !near.contains(metric)));
    let meant = if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(", ")) };
    let all = known.into_iter().collect::<Vec<_>>().join(", ");
    let what = match ends.len() {
        0 => format!("--metric {name}: no run has this metric"),
        _ => format!("--metric {name}: several metrics have this name"),
    };
    Err(Usage::new(what).hint(format!("{meant}metrics: {all}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(n: u64, value: impl Fn(f64) -> f64) -> Vec<CurvePoint> {
        (1..=n).map(|step| CurvePoint { step, tokens: step * 100, value: value(step as f64) }).collect()
    }

    fn curves(name: &str, n: u64) -> Curves {
        let val = points(n, |i| 4.1 / i.sqrt()).into_iter().step_by(10).collect();
        let metrics = [
            ("train_loss", points(n, |i| 4.0 / i.sqrt())),
            ("val_loss", val),
            ("learning_rate", points(n, |i| 1e-3 / i)),
        ];
        Curves {
            name: name.to_owned(),
            parent: "runs".to_owned(),
            metrics: metrics.map(|(name, points)| (name.to_owned(), points)).into(),
            ..Curves::default()
        }
    }

    fn ppo(name: &str, gold: bool) -> Curves {
        let names = [SCORE, KL, "val/objective/score", "train_loss", "learning_rate", "policy/loss", "value/loss"];
        let names = names.into_iter().chain(gold.then_some(GOLD));
        let metrics = names.map(|name| (name.to_owned(), points(40, |i| i / 10.0))).collect();
        Curves { name: name.to_owned(), metrics, ..Curves::default() }
    }

    fn of_seed(name: &str, seed: u64, train_loss: Vec<CurvePoint>) -> Curves {
        Curves {
            name: name.to_owned(),
            parent: format!("seed-{seed}"),
            metrics: BTreeMap::from([("train_loss".to_owned(), train_loss)]),
            settings: Some(BTreeMap::from([("train.lr".to_owned(), "0.1".to_owned())])),
            seed: Some(seed.to_string()),
        }
    }

    fn labels(plot: &MetricPlot) -> Vec<&str> {
        plot.charts.iter().map(|chart| chart.label.as_str()).collect()
    }

    #[test]
    fn several_runs_are_drawn_and_named() {
        let text = MetricPlot::of_defaults(&[curves("one", 40), curves("two", 5000)], false).svg();
        for word in ["one, training", "two, validation", "loss (nats)", "learning rate", "400k", "tokens"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(text.len() < 300_000, "{} bytes", text.len());
        let twins =
            MetricPlot::of_defaults(&[curves("one", 4), Curves { parent: "b".to_owned(), ..curves("one", 4) }], false);
        assert!(twins.svg().contains("runs/one, training") && twins.svg().contains("b/one, training"));
    }

    #[test]
    fn ppo_shows_score_kl_and_gold_over_iterations_and_no_loss() {
        let plot = MetricPlot::of_defaults(&[ppo("ppo", true)], false);
        assert_eq!(
            labels(&plot),
            ["reward model's score", "KL from the initial model (nats per answer)", "gold score"]
        );
        let text = plot.svg();
        assert!(text.contains(">iterations<") && !text.contains("loss") && text.contains("held-out prompts"));
        assert_eq!(labels(&MetricPlot::of_defaults(&[ppo("ppo", false)], false)).len(), 2, "gold is not known");
        let both = MetricPlot::of_defaults(&[ppo("ppo", false), curves("small", 40)], false);
        assert_eq!(labels(&both).len(), 4);
        let losses = &both.charts[0].curves;
        assert!(losses.iter().all(|curve| curve.run == "small"), "{losses:?}");
        assert!(both.svg().contains(">tokens<"));
    }

    #[test]
    fn a_metric_is_found_by_its_name_or_the_last_part_of_it() {
        let runs = [ppo("ppo", false)];
        let found = |name: &str| resolve(name, &runs).map_err(|error| error.to_string());
        assert_eq!(found("objective/score").unwrap(), SCORE);
        assert_eq!(found("score").unwrap(), SCORE, "before that of validations");
        assert_eq!(found("val/objective/score").unwrap(), "val/objective/score");
        assert_eq!(found("loss/train").unwrap(), "train_loss");
        let ambiguous = found("loss").unwrap_err();
        assert!(
            ambiguous.contains("several metrics") && ambiguous.contains("policy/loss, train_loss, value/loss"),
            "{ambiguous}"
        );
        let slip = found("learning_rat").unwrap_err();
        assert!(slip.contains("no run has this metric\n  hint: did you mean learning_rate? metrics: "), "{slip}");
        let none = found("nothing").unwrap_err();
        assert!(none.contains("hint: metrics: learning_rate, objective/kl"), "{none}");
        let plot = MetricPlot::of_metrics(&runs, &["kl".to_owned(), "learning_rate".to_owned()], false).unwrap();
        assert_eq!(labels(&plot), [KL, "learning_rate"]);
    }

    #[test]
    fn seeds_are_a_mean_in_a_band_at_their_common_steps() {
        let runs = [
            of_seed("small-1", 1, points(4, |i| i)),
            of_seed("small-2", 2, points(3, |i| 3.0 * i)),
            of_seed("small-3", 3, points(4, |i| 5.0 * i)),
        ];
        let plot = MetricPlot::of_defaults(&runs, false);
        let curve = &plot.charts[0].curves[0];
        assert_eq!((curve.run.as_str(), curve.n_runs, plot.charts[0].curves.len()), ("small", 3, 1));
        let values: Vec<f64> = curve.points.iter().map(|point| point.value).collect();
        assert_eq!(values, [3.0, 6.0, 9.0], "the fourth step is not in every run");
        assert_eq!(curve.ranges, [(1.0, 5.0), (2.0, 10.0), (3.0, 15.0)]);
        assert_eq!(plot.bands(), ["small: mean of seeds 1, 2, 3, in a band from the lowest to the highest value"]);
        let text = plot.svg();
        assert!(text.contains("small, training (3 seeds: mean, min–max)") && text.contains("class=\"band"), "{text}");
        let separate = MetricPlot::of_defaults(&runs, true);
        assert!(separate.charts[0].curves.len() == 3 && separate.bands().is_empty());
        let other = Curves { settings: Some(BTreeMap::new()), ..runs[1].clone() };
        assert_eq!(MetricPlot::of_defaults(&[runs[0].clone(), other], false).charts[0].curves.len(), 2);
        let same_name = [of_seed("ppo", 1, points(2, |i| i)), of_seed("ppo", 2, points(2, |i| i))];
        assert_eq!(MetricPlot::of_defaults(&same_name, false).charts[0].curves[0].run, "ppo");
    }

    #[test]
    fn csv_has_a_row_for_each_point() {
        let runs = [
            of_seed("a, b", 1, points(2, |i| i)),
            of_seed("a, b", 2, points(2, |i| if i > 1.0 { f64::NAN } else { 2.0 })),
        ];
        let csv = |separate| {
            let plot = MetricPlot::of_metrics(&runs, &["train_loss".to_owned()], separate).unwrap();
            String::from_utf8(plot.csv().unwrap()).unwrap()
        };
        let head = "run,runs,metric,step,tokens,value,min,max\n";
        assert_eq!(
            csv(false),
            format!("{head}\"a, b\",2,train_loss,1,100,1.5,1,2\n\"a, b\",2,train_loss,2,200,,2,2\n")
        );
        assert_eq!(
            csv(true).lines().skip(1).collect::<Vec<_>>(),
            [
                "\"seed-1/a, b\",1,train_loss,1,100,1,,",
                "\"seed-1/a, b\",1,train_loss,2,200,2,,",
                "\"seed-2/a, b\",1,train_loss,1,100,2,,",
                "\"seed-2/a, b\",1,train_loss,2,200,,,",
            ]
        );
    }

    #[test]
    fn a_run_of_one_step_or_of_no_number_is_drawn() {
        let mut odd = curves("odd", 1);
        let svg = |run: &Curves| MetricPlot::of_defaults(std::slice::from_ref(run), false).svg();
        assert!(svg(&odd).contains("<circle"), "a line through a point would not be seen");
        odd.metrics.insert("train_loss".to_owned(), points(2, |_| f64::NAN));
        assert!(!svg(&odd).contains("NaN"));
    }

    #[test]
    fn any_values_are_drawn_in_few_bytes() {
        let all = [0.0, 1.0 + f64::EPSILON, -3.5, 5e-324, 1e15 + 0.125, -1e30, f64::MAX, f64::INFINITY, f64::NAN];
        for a in all {
            for b in all {
                let odd = |seed| of_seed("odd", seed, points(3, |i| if i > 1.0 { a } else { b }));
                let text = MetricPlot::of_defaults(&[odd(1), odd(2)], false).svg();
                assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 40_000, "{a} {b}: {text}");
            }
        }
    }
}
