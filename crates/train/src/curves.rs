//! Loss and learning rate over tokens as pictures.

use crate::metrics::{METRICS, records};
use anyhow::{Result, anyhow, ensure};
use gptkit_data::printable::printable_line;
use gptkit_plot::{Axis, LineChart, Look, Names, Series, stacked};
use std::path::Path;

/// What a run measured, as points over tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// The run's.
    pub name: String,
    /// Training loss, nats a token.
    pub train_loss: Vec<(f64, f64)>,
    /// Validation loss, nats a token.
    pub val_loss: Vec<(f64, f64)>,
    /// Learning rate.
    pub learning_rate: Vec<(f64, f64)>,
}

impl Curves {
    /// Reads what the run in `folder` recorded.
    ///
    /// # Errors
    /// When its `metrics.jsonl` cannot be read, or records no step.
    pub fn read(folder: &Path) -> Result<Self> {
        let recorded = records(folder)?;
        let absolute = folder.canonicalize()?;
        let name = printable_line(&absolute.file_name().unwrap_or_default().to_string_lossy()).into_owned();
        let mut curves = Self { name, train_loss: Vec::new(), val_loss: Vec::new(), learning_rate: Vec::new() };
        for record in recorded {
            let x = record.tokens as f64;
            curves.train_loss.push((x, record.train_loss));
            curves.val_loss.extend(record.val_loss.map(|loss| (x, loss)));
            curves.learning_rate.push((x, record.learning_rate));
        }
        ensure!(!curves.train_loss.is_empty(), "{} records no step yet", folder.join(METRICS).display());
        Ok(curves)
    }
}

/// Points that a curve is drawn with at most; each then is the mean of some.
const POINTS: usize = 600;

/// Means of `points` in equal groups, few enough to be drawn.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(POINTS).max(1);
    let mean = |group: &[(f64, f64)]| {
        let n = group.len() as f64;
        (group.iter().map(|p| p.0).sum::<f64>() / n, group.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(group).map(mean).filter(|p| is_drawn(p.1)).collect()
}

/// Values beyond these are no figures of a sound run, and sums of them overflow.
const LARGEST: f64 = 1e30;

/// The curves of a run in its folder, the last file that it writes.
pub const CURVES: &str = "curves.svg";

/// Draws the curves of the run in `folder` into [`CURVES`].
///
/// # Errors
/// When its records cannot be read, or the file cannot be written.
pub fn draw(folder: &Path) -> Result<()> {
    let svg = svg(&[Curves::read(folder)?])?;
    gptkit_data::disk::write(&folder.join(CURVES), svg.as_bytes())
}

/// Whether charts show `value`: numbers that are neither infinite nor near it.
pub fn is_drawn(value: f64) -> bool {
    value.abs() <= LARGEST
}

/// The ends of an axis on which all of `values` that are drawn lie, with a little room; 0 to 1 when there is none. They are
/// always far enough apart for the distance to count beside the values.
pub fn axis(values: impl Iterator<Item = f64>) -> Range<f64> {
    let drawn = values.filter(|value| is_drawn(*value));
    let (low, high) = drawn.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    if low > high {
        return 0.0..1.0;
    }
    let room = ((high - low) * 0.05).max(low.abs().max(high.abs()) * 1e-3).max(1e-12);
    low - room..high + room
}

/// A value beside an axis: with two decimals unless these would be many digits.
pub fn axis_label(value: f64) -> String {
    if value.abs() >= 1e6 { format!("{value:.1e}") } else { format!("{value:.2}") }
}

const SIZE: (u32, u32) = (900, 640);
/// Height of the panel of losses.
const LOSSES: u32 = 430;
/// Colors that differ in brightness too.
const COLORS: [RGBColor; 6] = [
    RGBColor(31, 95, 191),
    RGBColor(214, 72, 52),
    RGBColor(38, 140, 84),
    RGBColor(226, 154, 38),
    RGBColor(120, 70, 160),
    RGBColor(90, 90, 90),
];

/// The curves of several runs in one picture: losses above (validation as dots), learning rates below.
///
/// # Errors
/// When nothing can be drawn.
pub fn svg(runs: &[Curves]) -> Result<String> {
    let mut text = String::new();
    draw_curves(runs, &mut text).map_err(|e| anyhow!("the curves cannot be drawn: {e}"))?;
    Ok(text)
}

/// What drawing gives.
pub type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn draw_curves(runs: &[Curves], text: &mut String) -> Drawn<()> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (losses, rates) = area.split_vertically(LOSSES);
    let last = runs.iter().filter_map(|run| run.train_loss.last()).map(|p| p.0).fold(1.0, f64::max);
    let both = |run: &Curves| [thinned(&run.train_loss), run.val_loss.clone()].concat();
    let values = runs.iter().flat_map(both).map(|p| p.1);
    let mut chart = panel(&losses, "loss, nats a token", last, axis(values), |y| axis_label(*y))?;
    for (run, color) in runs.iter().zip(COLORS.iter().cycle()) {
        let label = |what: &str| if runs.len() == 1 { what.to_owned() } else { format!("{}, {what}", run.name) };
        chart
            .draw_series(LineSeries::new(thinned(&run.train_loss), color.mix(0.6)))?
            .label(label("training"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], color.mix(0.6)));
        if !run.val_loss.is_empty() {
            let dot = |&(x, y): &(f64, f64)| Circle::new((x, y), 3, color.filled());
            chart
                .draw_series(run.val_loss.iter().filter(|p| is_drawn(p.1)).map(dot))?
                .label(label("validation"))
                .legend(|(x, y)| Circle::new((x + 9, y), 3, color.filled()));
        }
    }
    labels(&mut chart, SeriesLabelPosition::UpperRight)?;
    let all_rates = runs.iter().flat_map(|run| thinned(&run.learning_rate)).chain([(0.0, 0.0)]);
    let mut chart = panel(&rates, "learning rate", last, axis(all_rates.map(|p| p.1)), |y| format!("{y:.1e}"))?;
    for (run, color) in runs.iter().zip(COLORS.iter().cycle()) {
        chart.draw_series(LineSeries::new(thinned(&run.learning_rate), color))?;
    }
    area.present()?;
    Ok(())
}

/// What each color of a chart stands for.
///
/// # Errors
/// When it cannot be drawn.
pub fn labels<'a, B: DrawingBackend + 'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, B, C>,
    position: SeriesLabelPosition,
) -> Drawn<()>
where
    B::ErrorType: 'static,
{
    let mut labels = chart.configure_series_labels();
    labels.position(position).background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3));
    labels.label_font(("sans-serif", 14)).draw().map_err(Into::into)
}

type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Axes: tokens from 0 to `last`, `y` named `what`.
fn panel<'a, 'b>(
    area: &'a DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    what: &str,
    last: f64,
    y: Range<f64>,
    y_label: impl Fn(&f64) -> String,
) -> Drawn<Panel<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..last, y)?;
    chart
        .configure_mesh()
        .x_desc("tokens")
        .y_desc(what)
        .x_label_formatter(&|&x| short(x))
        .y_label_formatter(&y_label)
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .draw()?;
    Ok(chart)
}

/// 1500000 → 1.5M.
fn short(n: f64) -> String {
    let (value, unit) = match n {
        n if n >= 1e9 => (n / 1e9, "B"),
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e3 => (n / 1e3, "k"),
        n => (n, ""),
    };
    let losses = runs.iter().enumerate().flat_map(|(style, run)| {
        let training = Series {
            name: name(run, "training"),
            style,
            opacity: 0.6,
            points: run.train_loss.clone(),
            ..Series::default()
        };
        let validation = Series {
            name: name(run, "validation"),
            style,
            look: Look::Points,
            points: run.val_loss.clone(),
            ..Series::default()
        };
        [training, validation]
    });
    let losses = LineChart {
        x: tokens(),
        y: Axis::linear("loss, nats a token"),
        series: losses.collect(),
        names: Names::Legend,
        size: (WIDTH, 430.0),
        ..LineChart::default()
    };
    let rates = runs.iter().enumerate().map(|(style, run)| Series {
        style,
        points: run.learning_rate.clone(),
        ..Series::default()
    });
    let rates = LineChart {
        x: tokens(),
        y: Axis { includes: vec![0.0], ..Axis::linear("learning rate") },
        series: rates.collect(),
        names: Names::Legend,
        size: (WIDTH, 210.0),
        ..LineChart::default()
    };
    stacked("loss and learning rate over tokens", &[losses, rates])
}

/// Width of the picture, in its units.
const WIDTH: f64 = 900.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn curves(name: &str, n: u64) -> Curves {
        let points = |f: fn(f64) -> f64| (1..=n).map(|i| (i as f64 * 100.0, f(i as f64))).collect::<Vec<_>>();
        Curves {
            name: name.to_owned(),
            train_loss: points(|i| 4.0 / i.sqrt()),
            val_loss: points(|i| 4.1 / i.sqrt()).into_iter().step_by(10).collect(),
            learning_rate: points(|i| 1e-3 / i),
        }
    }

    #[test]
    fn several_runs_are_drawn_and_named() {
        let text = svg(&[curves("one", 40), curves("two", 5000)]);
        for word in ["one, training", "two, validation", "loss, nats a token", "learning rate", "500k"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(text.len() < 300_000, "{} bytes", text.len());
    }

    #[test]
    fn a_run_of_one_step_or_of_no_number_is_drawn() {
        let mut odd = curves("odd", 1);
        assert!(svg(std::slice::from_ref(&odd)).contains("<circle"), "a line through a point would not be seen");
        odd.train_loss = vec![(100.0, f64::NAN), (200.0, f64::INFINITY)];
        odd.val_loss = vec![(100.0, f64::NAN)];
        assert!(!svg(&[odd]).contains("NaN"));
    }

    #[test]
    fn any_values_are_drawn_in_few_bytes() {
        let all = [0.0, 1.0 + f64::EPSILON, -3.5, 5e-324, 1e15 + 0.125, -1e30, f64::MAX, f64::INFINITY, f64::NAN];
        for a in all {
            for b in all {
                let points = vec![(100.0, a), (200.0, b), (1.8e19, a)];
                let odd = Curves {
                    name: "odd".to_owned(),
                    train_loss: points.clone(),
                    val_loss: points.clone(),
                    learning_rate: points,
                };
                let text = svg(&[odd]);
                assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 40_000, "{a} {b}: {text}");
            }
        }
    }
}
