//! What learning from comparisons does: right answers and courtesy, rewards, text that is forgotten, win rates.

use super::{FigureMaker, NEUTRAL, ReportFigure, average, source};
use crate::config::Chapter;
use crate::measured::{AnswerGrades, Curve, PpoIteration, SeedMeasurements};
use crate::summary::{self, NO_PTX, PPO, PPO2, PRESSED, RM, SFT, StoryModel};
use gptkit_plot::{Axis, LineChart, Look, Series, ShareBar, ShareBars};
use gptkit_stats::Share;
use serde_json::{Map, Value, json};

/// Points that a curve over iterations has after the first: enough for a shape, few enough that chance averages out.
const MEANS: usize = 12;

/// Means over seeds of `of`: the first iteration, whose answers are of the model before any update, and then equal groups.
fn over_iterations(seeds: &[&[PpoIteration]], of: impl Fn(&PpoIteration) -> Option<(f64, f64)>) -> Curve {
    let n = seeds.iter().map(|seed| seed.len()).min().unwrap_or(0);
    let at = |i: usize| seeds.iter().map(|seed| of(&seed[i])).collect::<Option<Curve>>();
    let Some(points) = (0..n).map(at).collect::<Option<Vec<Curve>>>() else { return Curve::new() };
    let group = n.saturating_sub(1).div_ceil(MEANS).max(1);
    let mean = |group: &[Curve]| {
        let n = group.iter().map(Vec::len).sum::<usize>().max(1) as f64;
        let sum = |part: fn(&(f64, f64)) -> f64| group.iter().flatten().map(part).sum::<f64>() / n;
        (sum(|p| p.0), sum(|p| p.1))
    };
    let Some((first, rest)) = points.split_first() else { return Curve::new() };
    std::iter::once(mean(std::slice::from_ref(first))).chain(rest.chunks(group).map(mean)).collect()
}

/// `over_iterations` by the number of updates that the model had: its iteration less one.
fn by_updates(seeds: &[&[PpoIteration]], of: fn(&PpoIteration) -> Option<f64>) -> Curve {
    over_iterations(seeds, |i| Some((i.step.saturating_sub(1) as f64, of(i)?)))
}

fn dots(model: StoryModel, points: Curve) -> Series {
    Series { name: model.name.to_owned(), style: model.style, look: Look::Dots, points, ..Series::default() }
}

/// `rises from 1.0 to 2.0`.
fn changes(points: &Curve) -> Option<String> {
    let (first, last) = (points.first()?.1, points.last()?.1);
    let does = if last > first { "rises" } else { "falls" };
    // With a minus that is as long as a plus.
    Some(format!("{does} from {first:.2} to {last:.2}").replace('-', "−"))
}

const PREFERRED: &str = "the first model of the pair is preferred";

/// Combines the win rates of seeds, given as value and interval in percent: the mean with its interval, seeds being
/// independent, against a half.
fn outcome(seeds: &[(f64, f64, f64)]) -> &'static str {
    let n = seeds.len().max(1) as f64;
    let mean = seeds.iter().map(|seed| seed.0).sum::<f64>() / n;
    let half = seeds.iter().map(|seed| ((seed.2 - seed.1) / 2.0).powi(2)).sum::<f64>().sqrt() / n;
    match mean - 50.0 {
        lead if lead > half => PREFERRED,
        lead if lead < -half => "the second model of the pair is preferred",
        _ => "the interval includes 50%, so neither is clearly preferred",
    }
}

impl FigureMaker<'_> {
    /// Figures of InstructGPT and ChatGPT, in their order.
    pub(super) fn feedback(&self) -> Vec<Option<ReportFigure>> {
        use Chapter::{ChatGpt, InstructGpt};
        vec![
            self.agreement(),
            self.grades("Right answers", |grade| 100.0 * grade.followed.value, |grade| Some(grade.followed)),
            self.grades("Courteous answers", |grade| 100.0 * grade.courteous, |_| None),
            self.wins(
                InstructGpt,
                "Whose answers are preferred?",
                &[
                    ("wins-sft", SFT, "SFT over the base model"),
                    ("wins-ppo", PPO, "PPO over SFT"),
                    ("wins-ppo", NO_PTX, "PPO without text over SFT"),
                    ("wins-size", PPO, "small PPO over larger base"),
                ],
            ),
            self.gold_and_proxy(),
            self.text_loss(),
            self.orders(),
            self.rounds(),
            self.wins(ChatGpt, "Does the second round win?", &[("wins-round-2", PPO2, "second round over first")]),
        ]
    }

    /// Iterations of a stage in every seed that ran it.
    fn iterations(&self, stage: &str) -> Vec<&[PpoIteration]> {
        let runs = self.measured.seeds.iter().filter_map(|seed| seed.runs.get(stage));
        runs.map(|run| run.iterations.as_slice()).filter(|iterations| !iterations.is_empty()).collect()
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

    /// How often the reward model and the length of an answer agree with labelers.
    fn agreement(&self) -> Option<ReportFigure> {
        let percent = |share: Share| (100.0 * share.value, 100.0 * share.low, 100.0 * share.high);
        let rm = |seed: &SeedMeasurements| Some(percent(seed.reward_models.get("rm")?.accuracy));
        let length = |seed: &SeedMeasurements| {
            let value = 100.0 * seed.reward_models.get("rm")?.by_length;
            Some((value, value, value))
        };
        let bar =
            |name: &str, style: usize, seeds: Vec<(f64, f64, f64)>| ShareBar { name: name.to_owned(), style, seeds };
        let seeds = || self.measured.seeds.iter();
        let bars = vec![
            bar("the reward model", RM.style, seeds().filter_map(rm).collect()),
            bar("“the longer answer is better”", NEUTRAL, seeds().filter_map(length).collect()),
        ];
        let value = self.average(|seed| rm(seed).map(|rm| rm.0))?;
        let by_length = self.average(|seed| length(seed).map(|length| length.0))?;
        let says = match value > by_length.max(50.0) {
            true => "It is more accurate than guessing and than choosing the longer answer.",
            false => "It is not more accurate than guessing or than choosing the longer answer.",
        };
        let label = "How often the reward model and the length of answers agree with labelers".to_owned();
        Some(ReportFigure {
            chapter: Chapter::InstructGpt,
            title: "How often does the reward model agree with labelers?".to_owned(),
            caption: format!(
                "In {value:.1}% of held-out pairs the reward model prefers the answer that the labeler preferred. \
                 {says} The dashed line is the accuracy of guessing. Labelers also disagree with each other, so 100% \
                 cannot be reached."
            ),
            notes: Vec::new(),
            chart: ShareBars { label, bars, half: true }.markup()?,
            source: source(self.measured, &["rm"], &self.by_seed(|seed| Some(json!(seed.reward_models.get("rm")?)))),
        })
    }

    /// A bar for each model whose answers were graded.
    fn grades(
        &self,
        title: &str,
        value: fn(&AnswerGrades) -> f64,
        interval: fn(&AnswerGrades) -> Option<Share>,
    ) -> Option<ReportFigure> {
        let base = self.measured.seeds.iter().find_map(summary::base);
        let models = base.into_iter().chain([SFT, PPO, NO_PTX, PRESSED, PPO2]);
        let bar = |model: StoryModel| {
            let seed = |grade: &AnswerGrades| match interval(grade) {
                Some(share) => (100.0 * share.value, 100.0 * share.low, 100.0 * share.high),
                None => (value(grade), value(grade), value(grade)),
            };
            let grades = self.measured.seeds.iter().filter_map(|seed| seed.grades.get(model.stage));
            let seeds: Vec<_> = grades.map(seed).collect();
            ShareBar { name: model.name.to_owned(), style: model.style, seeds }
        };
        let bars: Vec<ShareBar> = models.map(bar).filter(|bar| !bar.seeds.is_empty()).collect();
        let mean = |name: &str| {
            let bar = bars.iter().find(|bar| bar.name == name)?;
            average(bar.seeds.iter().map(|seed| Some(seed.0)))
        };
        let says = mean(SFT.name).zip(mean(PPO.name)).map(|(sft, ppo)| {
            let does = if ppo > sft { "raises" } else { "lowers" };
            format!("PPO {does} the share from {sft:.1}% to {ppo:.1}%. ")
        });
        let what = match title.starts_with("Right") {
            true => "An answer is right if the built-in world's grader finds what the instruction asked for.",
            false => "An answer is courteous if it begins or ends with a courtesy, whether or not it is right.",
        };
        let label = format!("{title} of each model to held-out instructions");
        Some(ReportFigure {
            chapter: Chapter::InstructGpt,
            title: title.to_owned(),
            caption: format!("{}{what}", says.unwrap_or_default()),
            notes: Vec::new(),
            chart: ShareBars { label, bars, half: false }.markup()?,
            source: source(
                self.measured,
                &self.stages_named("grade"),
                &self.by_seed(|seed| {
                    let grade = |(name, one): (&String, &AnswerGrades)| (name.clone(), json!(value(one)));
                    Some(seed.grades.iter().map(grade).collect::<Map<_, _>>().into())
                        .filter(|_| !seed.grades.is_empty())
                }),
            ),
        })
    }

    /// The reward model's score and the gold score of the run that was pressed, or else of PPO.
    fn gold_and_proxy(&self) -> Option<ReportFigure> {
        let pressed = !self.iterations(PRESSED.stage).is_empty();
        let model = if pressed { PRESSED } else { PPO };
        let iterations = self.iterations(model.stage);
        let proxy = over_iterations(&iterations, |i| Some((i.kl, i.proxy)));
        let gold = over_iterations(&iterations, |i| Some((i.kl, i.gold?)));
        if gold.len() < 4 {
            return None;
        }
        let best = gold.iter().map(|p| p.1).max_by(f64::total_cmp)?;
        let last = gold.last()?.1;
        let says = match last < best {
            true => format!("The gold score is highest at {best:.2} and ends at {last:.2}"),
            false => format!("The gold score is highest at the end, at {last:.2}"),
        };
        // The two have different zeros.
        let change = |points: &Curve| {
            let first = points.first().map_or(0.0, |point| point.1);
            points.iter().map(|&(kl, score)| (kl, score - first)).collect::<Curve>()
        };
        let series = vec![
            Series { name: "reward".to_owned(), ..dots(RM, change(&proxy)) },
            Series {
                name: "gold".to_owned(),
                style: NEUTRAL,
                look: Look::Dots,
                points: change(&gold),
                ..Series::default()
            },
        ];
        let label = "Change of the reward and the gold score over the KL divergence from the initial model".to_owned();
        let chart = LineChart {
            label,
            x: Axis::linear("KL from the initial model, nats per answer"),
            y: Axis::linear("change in score"),
            series,
            ..LineChart::default()
        };
        let run = if pressed { "a run of PPO that was trained further than the others" } else { "the run of PPO" };
        Some(ReportFigure {
            chapter: Chapter::InstructGpt,
            title: "Reward and gold score during PPO".to_owned(),
            caption: format!(
                "The figure shows {run}. The reward model's score {}. {says}. Where the two curves diverge, the policy \
                 has found answers that the reward model overrates. The first dot is the initial model; each further \
                 dot is the mean of several iterations.{}",
                changes(&proxy)?,
                Self::mean_of(iterations.len())
            ),
            notes: Vec::new(),
            chart: chart.markup()?,
            source: source(self.measured, &[model.stage], &self.iterations_data(&[model.stage])),
        })
    }

    fn text_loss(&self) -> Option<ReportFigure> {
        let curve = |model: StoryModel| {
            let of = |seed: &SeedMeasurements| {
                let run = seed.runs.get(model.stage)?;
                let before = seed.excerpts.text_loss_before.get(model.stage).map(|&loss| (0.0, loss));
                let from = before.into_iter().filter(|_| run.text_loss.first().is_none_or(|first| first.0 > 0.0));
                Some(from.chain(run.text_loss.iter().copied()).collect::<Curve>())
            };
            let curves: Vec<Curve> = self.measured.seeds.iter().filter_map(of).collect();
            super::mean(&curves.iter().collect::<Vec<_>>())
        };
        let (with, without) = (curve(PPO), curve(NO_PTX));
        if with.len() < 2 || without.len() < 2 {
            return None;
        }
        let (kept, lost) = (with.last()?.1, without.last()?.1);
        let start = with.first().filter(|point| point.0 == 0.0).map(|point| point.1);
        let starts = start.map(|start| format!("Both start at {start:.3} nats. ")).unwrap_or_default();
        let says = match lost > kept {
            true => "The run without pretraining text has forgotten more.",
            false => "The run without pretraining text has not forgotten more.",
        };
        let series = vec![dots(PPO, with), dots(NO_PTX, without)];
        let chart = LineChart {
            label: "Loss on held-out stories during PPO, with and without pretraining text, over iterations".to_owned(),
            x: Axis { includes: vec![0.0], ..Axis::linear("iterations of PPO") },
            y: Axis::linear("loss on held-out stories, nats per token"),
            series,
            ..LineChart::default()
        };
        let data = self.by_seed(|seed| {
            let of = |stage: &str| seed.runs.get(stage).map(|run| &run.text_loss);
            let before = &seed.excerpts.text_loss_before;
            Some(json!({ "before": before, "ppo": of("ppo"), "ppo-no-ptx": of("ppo-no-ptx") }))
        });
        let n = self.iterations(PPO.stage).len();
        Some(ReportFigure {
            chapter: Chapter::InstructGpt,
            title: "What PPO forgets".to_owned(),
            caption: format!(
                "{starts}With pretraining text mixed in, the loss on held-out stories ends at {kept:.3}; without, at {lost:.3}. \
                 {says}{}",
                Self::mean_of(n)
            ),
            notes: Vec::new(),
            chart: chart.markup()?,
            source: source(self.measured, &["ppo", "ppo-no-ptx"], &data),
        })
    }

    /// How well the reward models of both rounds order the answers of the policy after the first.
    fn orders(&self) -> Option<ReportFigure> {
        let bar = |(stage, name): (&str, &str)| {
            let seed = |seed: &SeedMeasurements| {
                let Share { value, low, high, .. } = *seed.orders.get(stage)?;
                Some((100.0 * value, 100.0 * low, 100.0 * high))
            };
            let seeds = self.measured.seeds.iter().filter_map(seed).collect();
            ShareBar { name: name.to_owned(), style: RM.style, seeds }
        };
        let bars = [("order-rm", "first reward model"), ("order-rm-2", "second reward model")].map(bar);
        let value = |bar: &ShareBar| average(bar.seeds.iter().map(|seed| Some(seed.0)));
        let (first, second) = (value(&bars[0])?, value(&bars[1])?);
        let says = match second > first {
            true => "The second, which was trained on such answers, is better.",
            false => "The second is not better, although it was trained on such answers.",
        };
        let label = "How often each reward model ranks two answers of the policy as their gold scores do".to_owned();
        Some(ReportFigure {
            chapter: Chapter::ChatGpt,
            title: "Why a second round needs new comparisons".to_owned(),
            caption: format!(
                "From two answers of the policy after the first round, the first reward model selects the one with the \
                 higher gold score in {first:.1}% of pairs, the second reward model in {second:.1}%. {says} The dashed \
                 line is the accuracy of guessing."
            ),
            notes: Vec::new(),
            chart: ShareBars { label, bars: bars.to_vec(), half: true }.markup()?,
            source: source(
                self.measured,
                &["order-rm", "order-rm-2"],
                &self.by_seed(|seed| Some(json!(seed.orders)).filter(|_| !seed.orders.is_empty())),
            ),
        })
    }

    /// The gold score in both rounds.
    fn rounds(&self) -> Option<ReportFigure> {
        let curve = |model: StoryModel| by_updates(&self.iterations(model.stage), |i| i.gold);
        let (first, second) = (curve(PPO), curve(PPO2));
        if first.len() < 4 || second.len() < 4 {
            return None;
        }
        let caption = format!(
            "In the first round the gold score {}, in the second it {}. The gold score is the true quality of the \
             answers, which the built-in world can compute; it is not used in training. The first dot is the initial \
             model; each further dot is the mean of several iterations.{}",
            changes(&first)?,
            changes(&second)?,
            Self::mean_of(self.iterations(PPO2.stage).len())
        );
        let named = |model: StoryModel, name: &str, points| Series { name: name.to_owned(), ..dots(model, points) };
        let chart = LineChart {
            label: "Gold score over iterations of PPO in the first and second round".to_owned(),
            x: Axis::linear("iterations of PPO"),
            y: Axis::linear("gold score"),
            series: vec![named(PPO, "1st round", first), named(PPO2, "2nd round", second)],
            ..LineChart::default()
        };
        Some(ReportFigure {
            chapter: Chapter::ChatGpt,
            title: "Two rounds of feedback".to_owned(),
            caption,
            notes: Vec::new(),
            chart: chart.markup()?,
            source: source(self.measured, &["ppo", "ppo-2"], &self.iterations_data(&["ppo", "ppo-2"])),
        })
    }

    fn wins(&self, chapter: Chapter, title: &str, rates: &[(&str, StoryModel, &str)]) -> Option<ReportFigure> {
        let bar = |&(stage, model, name): &(&str, StoryModel, &str)| {
            let seed = |seed: &SeedMeasurements| {
                let Share { value, low, high, .. } = *seed.wins.get(stage)?.models.get(model.stage)?;
                Some((100.0 * value, 100.0 * low, 100.0 * high))
            };
            let seeds = self.measured.seeds.iter().filter_map(seed).collect();
            ShareBar { name: name.to_owned(), style: model.style, seeds }
        };
        let bars: Vec<ShareBar> = rates.iter().map(bar).filter(|bar| !bar.seeds.is_empty()).collect();
        let says = match bars.iter().map(|bar| format!("{}: {}.", bar.name, outcome(&bar.seeds))).collect::<Vec<_>>() {
            all if all.len() == 1 => {
                let says = outcome(&bars[0].seeds);
                format!("{}{}.", says[..1].to_uppercase(), &says[1..])
            }
            _ if bars.iter().all(|bar| outcome(&bar.seeds) == PREFERRED) => {
                "Every bar is above the dashed line: the first model of each pair is preferred.".to_owned()
            }
            all => all.join(" "),
        };
        let mut stages: Vec<&str> = rates.iter().map(|rate| rate.0).collect();
        stages.dedup();
        let data = self.by_seed(|seed| {
            let of = |stage: &&str| Some(((*stage).to_owned(), json!(seed.wins.get(*stage)?)));
            let found: Map<_, _> = stages.iter().filter_map(of).collect();
            (!found.is_empty()).then(|| found.into())
        });
        let label = format!("{title} Share of prompts on which an answer is preferred");
        Some(ReportFigure {
            chapter,
            title: title.to_owned(),
            caption: format!(
                "{says} Two models answer the same held-out prompts, and a judge picks the better answer; a tie counts \
                 as half a win. The dashed line at 50% means no difference. The line in each bar is the 95% interval \
                 of a seed."
            ),
            notes: Vec::new(),
            chart: ShareBars { label, bars, half: true }.markup()?,
            source: source(self.measured, &stages, &data),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_win_needs_its_interval() {
        assert_eq!(outcome(&[(72.0, 66.0, 77.0)]), PREFERRED);
        assert!(outcome(&[(51.0, 45.0, 57.0)]).starts_with("the interval includes 50%"));
        assert_eq!(outcome(&[(40.0, 35.0, 45.0)]), "the second model of the pair is preferred");
        // Three seeds: 53 ± 6/√3 = 3.5, and 54.
        assert!(outcome(&[(53.0, 47.0, 59.0); 3]).starts_with("the interval includes 50%"));
        assert_eq!(outcome(&[(54.0, 48.0, 60.0); 3]), PREFERRED);
    }

    #[test]
    fn iterations_are_averaged_over_seeds_and_neighbors_after_the_first() {
        let seed = |shift: f64| -> Vec<PpoIteration> {
            (0..25).map(|i| PpoIteration { step: i, kl: i as f64, proxy: shift + i as f64, gold: None }).collect()
        };
        let (a, b) = (seed(0.0), seed(2.0));
        let points = over_iterations(&[&a, &b], |i| Some((i.kl, i.proxy)));
        assert_eq!((points.len(), points[0], points[12]), (13, (0.0, 1.0), (23.5, 24.5)));
        assert!(over_iterations(&[&a], |i| Some((i.kl, i.gold?))).is_empty());
        assert_eq!(changes(&points).as_deref(), Some("rises from 1.00 to 24.50"));
    }
}
