//! Accuracy over demonstrations, as Brown et al. 2020 draw it in figure 1.2, and over size, as in figure 1.3.

use crate::report::EvalReport;
use gptkit_data::printable::printable_line;
use gptkit_plot::scale::is_drawn;
use gptkit_plot::{Axis, Extent, LineChart, Look, Names, Scale, Series};
use gptkit_stats::mean_of_estimates;
use std::collections::BTreeSet;

/// The main metric over the number of few-shot examples, of one task or as the mean over all tasks with a metric in
/// percent: one line per model, with the results of fine-tuning and chance. Nothing if there is only one number of
/// examples.
pub fn over_shots(report: &EvalReport, task: Option<&str>) -> Option<String> {
    let shots: BTreeSet<usize> = report.cells.iter().map(|cell| cell.shots).collect();
    let tasks = tasks(report, task);
    if shots.len() < 2 || tasks.is_empty() {
        return None;
    }
    let mut lines: Vec<Series> = (0..report.request.models.len())
        .map(|model| {
            let at = |(at, &k): (usize, &usize)| Some((at as f64, mean(report, &tasks, model, k)?));
            line(&report.request.model_name(model), model, shots.iter().enumerate().filter_map(at))
        })
        .collect();
    if let Some(task) = task {
        for one in report.finetuned.iter().filter(|one| one.task == task) {
            lines.push(level(&format!("{}, fine-tuned", one.folder.display()), lines.len(), one.figure.value));
        }
        let chance = report.cells.iter().find(|cell| cell.task == task).and_then(|cell| cell.measured.chance);
        let style = lines.len();
        lines.extend(chance.map(|chance| level("chance", style, chance)));
    }
    let names = shots.iter().map(usize::to_string).collect();
    let x = Axis { scale: Scale::Named(names), ..Axis::linear("few-shot examples") };
    Some(chart(title(report, task), x, lines))
}

/// The main figure over the models' sizes: a line a number of demonstrations. Nothing when there is one size.
pub fn over_sizes(report: &EvalReport, task: Option<&str>) -> Option<String> {
    let sizes: BTreeSet<u64> = report.n_params.iter().copied().collect();
    let shots: BTreeSet<usize> = report.cells.iter().map(|cell| cell.shots).collect();
    let tasks = tasks(report, task);
    if sizes.len() < 2 || tasks.is_empty() {
        return None;
    }
    let mut order: Vec<usize> = (0..report.n_params.len()).collect();
    order.sort_by_key(|&model| report.n_params[model]);
    let of_shots = |(style, &k): (usize, &usize)| {
        let at = |&model: &usize| Some((report.n_params[model] as f64, mean(report, &tasks, model, k)?));
        line(&format!("{k}-shot"), style, order.iter().filter_map(at))
    };
    let x = Axis { scale: Scale::LogAtPoints, ..Axis::linear("parameters") };
    Some(chart(title(report, task), x, shots.iter().enumerate().map(of_shots).collect()))
}

/// Tasks whose main figure is a percentage of instances.
fn tasks<'a>(report: &'a EvalReport, task: Option<&'a str>) -> Vec<&'a str> {
    let in_percent = |name: &str| {
        let cell = report.cells.iter().find(|cell| cell.task == name);
        cell.and_then(|cell| cell.measured.figures.first()).is_some_and(|figure| figure.unit == "%")
    };
    let all = report.tasks().into_iter().filter(|name| task.is_none_or(|task| task == *name));
    all.filter(|name| in_percent(name)).collect()
}

fn title(report: &EvalReport, task: Option<&str>) -> String {
    let metric = |task: &str| {
        let cell = report.cells.iter().find(|cell| cell.task == task);
        cell.and_then(|cell| cell.measured.figures.first()).map_or(String::new(), |figure| figure.metric.clone())
    };
    match task {
        Some(task) => format!("{task}: {}, %", metric(task)),
        None => format!("mean of {} tasks, %", tasks(report, None).len()),
    }
}

/// Mean of the main figures of `tasks` and its standard error; nothing where one is missing.
fn mean(report: &EvalReport, tasks: &[&str], model: usize, shots: usize) -> Option<(f64, f64)> {
    let of_task = |task: &&str| {
        let figure = report.cell(task, model, shots)?.measured.figures.first()?;
        // The standard error of a single instance is NaN.
        Some((figure.value, if figure.standard_error.is_finite() { figure.standard_error } else { 0.0 }))
    };
    Some(mean_of_estimates(tasks.iter().map(of_task).collect::<Option<Vec<_>>>()?))
}

/// A line of percentages, each with its standard error, through dots with intervals of two standard errors.
fn line(name: &str, style: usize, points: impl Iterator<Item = (f64, (f64, f64))>) -> Series {
    let sound =
        |&(x, (value, error)): &(f64, (f64, f64))| (0.0..=100.0).contains(&value) && is_drawn(x) && is_drawn(error);
    let points: Vec<_> = points.filter(sound).collect();
    let interval = |&(x, (value, error)): &(f64, (f64, f64))| {
        (x, (value - 2.0 * error).clamp(0.0, 100.0), (value + 2.0 * error).clamp(0.0, 100.0))
    };
    Series {
        name: printable_line(name).into_owned(),
        style,
        look: Look::Dots,
        extent: Extent::Intervals(points.iter().map(interval).collect()),
        points: points.into_iter().map(|(x, (value, _))| (x, value)).collect(),
        ..Series::default()
    }
}

/// A percentage that does not depend on the place.
fn level(name: &str, style: usize, value: f64) -> Series {
    Series { look: Look::Level, extent: Extent::None, ..line(name, style, [(0.0, (value, 0.0))].into_iter()) }
}

fn chart(title: String, x: Axis, series: Vec<Series>) -> String {
    let title = printable_line(&title).into_owned();
    let (y, names, size) = (Axis::linear("%"), Names::Legend, (720.0, 480.0));
    LineChart { label: title.clone(), title, x, y, series, names, size }.svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_values_are_drawn_in_few_bytes() {
        let all = [0.0, 50.0, 100.0, -1e30, 1e30, 1e300, f64::MAX, f64::INFINITY, f64::NAN];
        for a in all {
            for b in all {
                for scale in [Scale::Named(vec!["0".to_owned(), "4".to_owned()]), Scale::LogAtPoints] {
                    let x = Axis { scale, ..Axis::linear("x") };
                    let series =
                        vec![line("a\x1b\nb", 0, [(0.0, (a, b)), (1.0, (b, a))].into_iter()), level("c", 1, a)];
                    let text = chart("a\x07".to_owned(), x, series);
                    let sound = !text.contains("NaN") && !text.contains("inf") && !text.contains(['\x1b', '\x07']);
                    assert!(sound && text.len() < 40_000, "{a} {b}: {text}");
                }
            }
        }
        assert!(chart("nothing".to_owned(), Axis::default(), Vec::new()).contains("nothing"));
    }
}
