//! Accuracy over demonstrations, as Brown et al. 2020 draw it in figure 1.2, and over size, as in figure 1.3.

use crate::report::EvalReport;
use anyhow::{Result, anyhow};
use gptkit_data::printable::printable_line;
use gptkit_stats::mean_of_estimates;
use gptkit_train::curves::{Drawn, is_drawn, labels};
use plotters::prelude::*;
use std::collections::BTreeSet;

const SIZE: (u32, u32) = (720, 480);
/// Colors that differ in brightness too.
const COLORS: [RGBColor; 6] = [
    RGBColor(31, 95, 191),
    RGBColor(226, 154, 38),
    RGBColor(120, 40, 110),
    RGBColor(60, 150, 90),
    RGBColor(190, 50, 50),
    RGBColor(90, 90, 90),
];

/// A line of a chart.
struct Line {
    name: String,
    /// Place and value, with what is above and below it.
    points: Vec<(f64, f64, f64)>,
    dashed: bool,
}

impl Line {
    /// With a name that stays on its line, without the points whose value is no percentage.
    fn drawn(&self) -> Self {
        let sound =
            |&&(x, value, error): &&(f64, f64, f64)| (0.0..=100.0).contains(&value) && is_drawn(x) && is_drawn(error);
        Self {
            name: printable_line(&self.name).into_owned(),
            points: self.points.iter().filter(sound).copied().collect(),
            dashed: self.dashed,
        }
    }
}

/// How places are written.
enum Axis {
    /// Whole places, each of so many demonstrations.
    Shots(Vec<usize>),
    /// Decimal logarithms of parameters.
    Size,
}

/// The main figure over demonstrations, of one task, or the mean over all that have one in percent: a line a model, and
/// beside them what fine-tuning and chance give. Nothing when there is one number of demonstrations.
///
/// # Errors
/// When nothing can be drawn.
pub fn over_shots(report: &EvalReport, task: Option<&str>) -> Result<Option<String>> {
    let shots: BTreeSet<usize> = report.cells.iter().map(|cell| cell.shots).collect();
    let tasks = tasks(report, task);
    if shots.len() < 2 || tasks.is_empty() {
        return Ok(None);
    }
    let mut lines: Vec<Line> = (0..report.request.models.len())
        .map(|model| Line {
            name: report.request.model_name(model),
            points: shots
                .iter()
                .enumerate()
                .filter_map(|(at, &k)| Some(point(at as f64, mean(report, &tasks, model, k)?)))
                .collect(),
            dashed: false,
        })
        .collect();
    let ends = [0.0, shots.len() as f64 - 1.0].into_iter();
    let level =
        |name: String, value: f64| Line { name, points: ends.clone().map(|x| (x, value, 0.0)).collect(), dashed: true };
    if let Some(task) = task {
        for one in report.finetuned.iter().filter(|one| one.task == task) {
            lines.push(level(format!("{}, fine-tuned", one.folder.display()), one.figure.value));
        }
        let chance = report.cells.iter().find(|cell| cell.task == task).and_then(|cell| cell.measured.chance);
        lines.extend(chance.map(|chance| level("chance".to_owned(), chance)));
    }
    draw(&lines, Axis::Shots(shots.into_iter().collect()), &title(report, task)).map(Some)
}

/// The main figure over the models' sizes: a line a number of demonstrations. Nothing when there is one size.
///
/// # Errors
/// When nothing can be drawn.
pub fn over_sizes(report: &EvalReport, task: Option<&str>) -> Result<Option<String>> {
    let sizes: BTreeSet<u64> = report.n_params.iter().copied().collect();
    let shots: BTreeSet<usize> = report.cells.iter().map(|cell| cell.shots).collect();
    let tasks = tasks(report, task);
    if sizes.len() < 2 || tasks.is_empty() {
        return Ok(None);
    }
    let mut order: Vec<usize> = (0..report.n_params.len()).collect();
    order.sort_by_key(|&model| report.n_params[model]);
    let line = |&k: &usize| Line {
        name: format!("{k}-shot"),
        points: order
            .iter()
            .filter_map(|&model| Some(point((report.n_params[model] as f64).log10(), mean(report, &tasks, model, k)?)))
            .collect(),
        dashed: false,
    };
    draw(&shots.iter().map(line).collect::<Vec<_>>(), Axis::Size, &title(report, task)).map(Some)
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

fn point(x: f64, (value, error): (f64, f64)) -> (f64, f64, f64) {
    (x, value, error)
}

fn draw(lines: &[Line], axis: Axis, title: &str) -> Result<String> {
    let mut text = String::new();
    drawn(lines, &axis, title, &mut text).map_err(|e| anyhow!("the chart cannot be drawn: {e}"))?;
    Ok(text)
}

fn drawn(lines: &[Line], axis: &Axis, title: &str, text: &mut String) -> Drawn<()> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let lines: Vec<Line> = lines.iter().map(Line::drawn).collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let bound = |of: &dyn Fn(&(f64, f64, f64)) -> f64, up: bool| {
        points().map(of).fold(if up { f64::NEG_INFINITY } else { f64::INFINITY }, if up { f64::max } else { f64::min })
    };
    let (left, right) =
        if points().next().is_none() { (0.0, 1.0) } else { (bound(&|p| p.0, false), bound(&|p| p.0, true)) };
    let (low, high) = (bound(&|p| p.1 - 2.0 * p.2, false).max(0.0), bound(&|p| p.1 + 2.0 * p.2, true).min(100.0));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 100.0) };
    let (wide, tall) = ((right - left).max(0.1) * 0.04, (high - low).max(1.0) * 0.06);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .caption(printable_line(title), ("sans-serif", 16))
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(left - wide..right + wide, low - tall..high + 4.0 * tall)?;
    let label = |x: &f64| match axis {
        Axis::Shots(shots) if x.fract() == 0.0 => shots.get(*x as usize).map_or(String::new(), usize::to_string),
        Axis::Shots(_) => String::new(),
        Axis::Size => short(10f64.powf(*x)),
    };
    let described = match axis {
        Axis::Shots(_) => "demonstrations",
        Axis::Size => "parameters",
    };
    chart
        .configure_mesh()
        .x_desc(described)
        .x_label_formatter(&label)
        .max_light_lines(0)
        .y_desc("%")
        .label_style(("sans-serif", 14))
        .draw()?;
    for (i, line) in lines.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        let along = line.points.iter().map(|&(x, y, _)| (x, y));
        if line.dashed {
            chart
                .draw_series(DashedLineSeries::new(along, 6, 4, color.stroke_width(2)))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.mix(0.6)));
            continue;
        }
        chart
            .draw_series(LineSeries::new(along.clone(), color.stroke_width(2)))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(along.map(|at| Circle::new(at, 4, color.filled())))?;
        let within = |y: f64| y.clamp(low - tall, high + tall);
        let bars = line.points.iter().map(|&(x, y, e)| [(x, within(y - 2.0 * e)), (x, within(y + 2.0 * e))]);
        let errors = bars.map(|bar| PathElement::new(bar, color));
        chart.draw_series(errors)?;
    }
    labels(&mut chart, SeriesLabelPosition::UpperLeft)?;
    area.present()?;
    Ok(())
}

/// 2.1M
fn short(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n => format!("{:.0}k", n / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_values_are_drawn_in_few_bytes() {
        let all = [0.0, 50.0, 100.0, -1e30, 1e30, 1e300, f64::MAX, f64::INFINITY, f64::NAN];
        for a in all {
            for b in all {
                let line = Line { name: "a\x1b\nb".to_owned(), points: vec![(0.0, a, b), (1.0, b, a)], dashed: false };
                for axis in [Axis::Shots(vec![0, 4]), Axis::Size] {
                    let text = draw(&[Line { dashed: true, ..line.drawn() }, line.drawn()], axis, "a\x07").unwrap();
                    let sound = !text.contains("NaN") && !text.contains("inf") && !text.contains(['\x1b', '\x07']);
                    assert!(sound && text.len() < 40_000, "{a} {b}: {text}");
                }
            }
        }
        assert!(draw(&[], Axis::Size, "nothing").is_ok());
    }
}
