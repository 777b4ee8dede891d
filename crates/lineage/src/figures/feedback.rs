//! What learning from comparisons does: rewards over KL, text that is forgotten, win rates.

use super::{FigureMaker, NO_PTX, PPO, ReportFigure, StageCurve, mean, source};
use crate::config::Chapter;
use crate::measured::{Curve, PpoIteration, SeedMeasurements};
use gptkit_plot::{Axis, LineChart, Look, Series, ShareBar, ShareBars};
use gptkit_stats::Share;
use serde_json::{Map, Value, json};

/// Points that a curve over KL has: enough for a shape, few enough that draws average out.
const MEANS: usize = 12;

/// Over iterations, means over seeds of `of`, then over equal groups.
fn over_iterations(seeds: &[&[PpoIteration]], of: impl Fn(&PpoIteration) -> Option<(f64, f64)>) -> Curve {
    let n = seeds.iter().map(|seed| seed.len()).min().unwrap_or(0);
    let at = |i: usize| seeds.iter().map(|seed| of(&seed[i])).collect::<Option<Curve>>();
    let Some(points) = (0..n).map(at).collect::<Option<Vec<Curve>>>() else { return Curve::new() };
    let group = n.div_ceil(MEANS).max(1);
    let mean = |group: &[Curve]| {
        let n = group.iter().map(Vec::len).sum::<usize>().max(1) as f64;
        let sum = |part: fn(&(f64, f64)) -> f64| group.iter().flatten().map(part).sum::<f64>() / n;
        (sum(|p| p.0), sum(|p| p.1))
    };
    points.chunks(group).map(mean).collect()
}

impl FigureMaker<'_> {
    /// Iterations of a stage in every seed that ran it.
    fn iterations(&self, stage: &str) -> Vec<&[PpoIteration]> {
        let run = |seed: &'_ SeedMeasurements| seed.runs.contains_key(stage);
        let seeds = self.measured.seeds.iter().filter(|seed| run(seed));
        seeds.filter_map(|seed| seed.runs.get(stage)).map(|run| run.iterations.as_slice()).collect()
    }

    fn iterations_data(&self, stages: &[&str]) -> Value {
        self.by_seed(|seed| {
            let stage = |name: &&str| {
                let rows = seed.runs.get(*name)?.iterations.iter().map(|i| json!([i.step, i.kl, i.proxy, i.gold]));
                Some((
                    (*name).to_owned(),
                    json!({ "columns": ["iteration", "KL", "reward", "gold"], "rows": rows.collect::<Vec<_>>() }),
                ))
            };
            let found: Map<_, _> = stages.iter().filter_map(stage).collect();
            (!found.is_empty()).then(|| found.into())
        })
    }

    pub(super) fn reward_by_kl(&self, chapter: Chapter, title: &str, stages: &[StageCurve]) -> Option<ReportFigure> {
        let series = stages.iter().map(|&(stage, name, style)| Series {
            name: name.to_owned(),
            style,
            look: Look::Dots,
            points: over_iterations(&self.iterations(stage), |i| Some((i.kl, i.proxy))),
            ..Series::default()
        });
        self.by_kl(chapter, title, "reward model's score", series.collect(), stages)
    }

    pub(super) fn gold_and_proxy(&self) -> Option<ReportFigure> {
        let mut series = Vec::new();
        for (stage, short, shift) in [(PPO, "", 0), (NO_PTX, ", no text", 1)] {
            let iterations = self.iterations(stage.0);
            let proxy = over_iterations(&iterations, |i| Some((i.kl, i.proxy)));
            let gold = over_iterations(&iterations, |i| Some((i.kl, i.gold?)));
            if gold.is_empty() {
                continue;
            }
            for (name, points, style) in [("proxy", proxy, shift), ("gold", gold, 2 + shift)] {
                let first = points[0].1;
                let points = points.iter().map(|&(kl, score)| (kl, score - first)).collect();
                let name = format!("{name}{short}");
                series.push(Series { name, style, look: Look::Dots, points, ..Series::default() });
            }
        }
        self.by_kl(Chapter::InstructGpt, "Gold against proxy", "change since the beginning", series, &[PPO, NO_PTX])
    }

    fn by_kl(
        &self,
        chapter: Chapter,
        title: &str,
        y: &str,
        series: Vec<Series>,
        stages: &[StageCurve],
    ) -> Option<ReportFigure> {
        let names: Vec<&str> = stages.iter().map(|stage| stage.0).collect();
        let n = names.iter().map(|name| self.iterations(name).len()).max().unwrap_or(0);
        let label = format!("{title}: {y}, over KL");
        let (x, y) = (Axis::linear("KL from the start, nats an answer"), Axis::linear(y));
        let chart = LineChart { label, x, y, series, ..LineChart::default() }.markup()?;
        Some(ReportFigure {
            chapter,
            title: title.to_owned(),
            caption: format!("Each dot is the mean of some iterations, in their order.{}", Self::mean_of(n)),
            chart,
            source: source(self.measured, &names, &self.iterations_data(&names)),
        })
    }

    pub(super) fn text_loss(&self) -> Option<ReportFigure> {
        let curves = |stage: &str| {
            let runs = self.measured.seeds.iter().filter_map(|seed| seed.runs.get(stage));
            runs.map(|run| &run.text_loss).collect::<Vec<&Curve>>()
        };
        let series = [("ppo", "with text", 0), ("ppo-no-ptx", "without text", 3)].map(|(stage, name, style)| Series {
            name: name.to_owned(),
            style,
            look: Look::Dots,
            points: mean(&curves(stage)),
            ..Series::default()
        });
        let chart = LineChart {
            label: "Loss on held-out text during PPO, with pretraining text and without, over iterations".to_owned(),
            x: Axis::linear("iterations of PPO"),
            y: Axis::linear("loss on held-out text, nats a token"),
            series: series.to_vec(),
            ..LineChart::default()
        }
        .markup()?;
        let data = self.by_seed(|seed| {
            let of = |stage: &str| seed.runs.get(stage).map(|run| &run.text_loss);
            Some(json!({ "ppo": of("ppo"), "ppo-no-ptx": of("ppo-no-ptx") }))
        });
        Some(ReportFigure {
            chapter: Chapter::InstructGpt,
            title: "What PPO forgets".to_owned(),
            caption: Self::mean_of(curves("ppo").len().max(curves("ppo-no-ptx").len())).trim().to_owned(),
            chart,
            source: source(self.measured, &["ppo", "ppo-no-ptx"], &data),
        })
    }

    pub(super) fn wins(&self, chapter: Chapter, title: &str, rates: &[(&str, &str, &str)]) -> Option<ReportFigure> {
        let bar = |&(stage, model, name): &(&str, &str, &str)| {
            let seed = |seed: &SeedMeasurements| {
                let Share { value, low, high, .. } = *seed.wins.get(stage)?.models.get(model)?;
                Some((100.0 * value, 100.0 * low, 100.0 * high))
            };
            ShareBar { name: name.to_owned(), style: 0, seeds: self.measured.seeds.iter().filter_map(seed).collect() }
        };
        let label = format!("{title}: how often an answer is preferred");
        let chart = ShareBars { label, bars: rates.iter().map(bar).collect(), half: true }.markup()?;
        let mut stages: Vec<&str> = rates.iter().map(|rate| rate.0).collect();
        stages.dedup();
        let data = self.by_seed(|seed| {
            let of = |stage: &&str| Some(((*stage).to_owned(), json!(seed.wins.get(*stage)?)));
            let found: Map<_, _> = stages.iter().filter_map(of).collect();
            (!found.is_empty()).then(|| found.into())
        });
        Some(ReportFigure {
            chapter,
            title: title.to_owned(),
            caption:
                "Ties count half. Lines in the bars: 95% intervals, one for each seed. At 50% there is no difference."
                    .to_owned(),
            chart,
            source: source(self.measured, &stages, &data),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterations_are_averaged_over_seeds_and_neighbors() {
        let seed = |shift: f64| -> Vec<PpoIteration> {
            (0..24).map(|i| PpoIteration { step: i, kl: i as f64, proxy: shift + i as f64, gold: None }).collect()
        };
        let (a, b) = (seed(0.0), seed(2.0));
        let points = over_iterations(&[&a, &b], |i| Some((i.kl, i.proxy)));
        assert_eq!((points.len(), points[0], points[11]), (12, (0.5, 1.5), (22.5, 23.5)));
        assert!(over_iterations(&[&a], |i| Some((i.kl, i.gold?))).is_empty());
    }
}
