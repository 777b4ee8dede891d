//! A family in three pictures, both axes logarithmic (Kaplan et al. 2020, fig. 1): loss over compute, size and tokens.

use super::report::{Estimate, FitResult, Law, Member, ScalingReport};
use anyhow::{Result, anyhow};
use gptkit_train::curves::{Drawn, labels};
use plotters::coord::combinators::{BindKeyPoints, LogCoord, WithKeyPoints};
use plotters::prelude::*;
use std::ops::Range;

const SIZE: (u32, u32) = (900, 600);
/// From the smallest member to the largest, darker and darker.
const LIGHT: (f64, f64, f64) = (158.0, 202.0, 225.0);
const DARK: (f64, f64, f64) = (8.0, 48.0, 107.0);
const HELD_OUT: RGBColor = RGBColor(214, 72, 52);
const LAW: RGBColor = RGBColor(226, 154, 38);
/// Points that a law's line is drawn with.
const STEPS: usize = 60;
/// Values that are drawn: positive, as logarithms need, and neither infinite nor near it.
const SOUND: Range<f64> = 1e-30..1e30;

/// Name and text of each picture.
///
/// # Errors
/// When one cannot be drawn.
pub(crate) fn all(report: &ScalingReport) -> Result<[(&'static str, String); 3]> {
    let along = |x: fn(&super::report::LossPoint) -> f64| {
        move |member: &Member| -> Vec<(f64, f64)> { member.points.iter().map(|point| (x(point), point.loss)).collect() }
    };
    let compute = Picture {
        what: "compute 6·N·D, operations",
        curve: &along(|point| point.compute),
        law: &report.compute_law,
        form: "L(C)",
        frontier: &report.frontier,
        to: 1.0,
    };
    let tokens = Picture {
        what: "tokens",
        curve: &along(|point| point.tokens as f64),
        law: &report.token_law,
        form: "L(D)",
        frontier: &[],
        to: 1.0,
    };
    let size = Picture {
        what: "parameters without embeddings",
        curve: &|member| vec![(member.size as f64, member.loss)],
        law: &report.size_law,
        form: "L(N)",
        frontier: &[],
        to: 2.0,
    };
    let draw = |picture: &Picture| -> Result<String> {
        let mut text = String::new();
        picture.draw(&report.members, &mut text).map_err(|e| anyhow!("the laws cannot be drawn: {e}"))?;
        Ok(text)
    };
    Ok([("loss-compute.svg", draw(&compute)?), ("loss-size.svg", draw(&size)?), ("loss-tokens.svg", draw(&tokens)?)])
}

struct Picture<'a> {
    /// Name of the horizontal axis.
    what: &'a str,
    /// What is drawn of a member; its last point is its end.
    curve: &'a dyn Fn(&Member) -> Vec<(f64, f64)>,
    law: &'a FitResult<Law>,
    form: &'a str,
    /// The points that the law was fitted to, where they are not a member's.
    frontier: &'a [(f64, f64)],
    /// How far the law is drawn, as a multiple of the largest x.
    to: f64,
}

impl Picture<'_> {
    fn draw(&self, members: &[Member], text: &mut String) -> Drawn<()> {
        let sound = |p: &(f64, f64)| SOUND.contains(&p.0) && SOUND.contains(&p.1);
        let curves: Vec<Vec<(f64, f64)>> =
            members.iter().map(|member| (self.curve)(member).into_iter().filter(sound).collect()).collect();
        let x = range(curves.iter().flatten().map(|p| p.0), self.to);
        let end = self.law.fitted().map(|law| law.band(x.end).value).filter(|y| SOUND.contains(y));
        let y = range(curves.iter().flatten().map(|p| p.1).chain(end), 1.0);
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(logarithmic(x.clone()), logarithmic(y.clone()))?;
        chart
            .configure_mesh()
            .x_desc(self.what)
            .y_desc("validation loss, nats a token")
            .x_label_formatter(&|&x| short(x))
            .y_label_formatter(&|&y| if (1e-3..1e6).contains(&y) { format!("{y}") } else { format!("{y:e}") })
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .label_style(("sans-serif", 13))
            .axis_desc_style(("sans-serif", 14))
            .draw()?;
        if let Some(law) = self.law.fitted() {
            let line = line(law, x.start.max(law.range[0] * 0.5)..x.end, &y);
            let band: Vec<(f64, f64)> = line
                .iter()
                .map(|(x, band)| (*x, band.low.clamp(y.start, y.end)))
                .chain(line.iter().rev().map(|(x, band)| (*x, band.high.clamp(y.start, y.end))))
                .collect();
            if band.iter().all(|p| p.1.is_finite()) {
                chart.draw_series([Polygon::new(band, LAW.mix(0.25).filled())])?;
            }
            chart
                .draw_series(LineSeries::new(line.iter().map(|(x, band)| (*x, band.value)), LAW.stroke_width(2)))?
                .label(format!(
                    "{}, α = {:.3} [{:.3}, {:.3}]",
                    self.form, law.exponent.value, law.exponent.low, law.exponent.high
                ))
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], LAW.stroke_width(2)));
        }
        for ((member, curve), color) in members.iter().zip(&curves).zip(colors(members)) {
            if curve.len() > 1 {
                chart.draw_series(LineSeries::new(curve.iter().copied(), color.mix(0.8)))?;
            }
            let held_out = if member.predict { ", held out" } else { "" };
            let end = curve.last().map(|&p| Circle::new(p, 5, color.filled()));
            chart
                .draw_series(end)?
                .label(format!("{}: {} parameters{held_out}", member.name, short(member.size as f64)))
                .legend(move |(x, y)| Circle::new((x + 9, y), 4, color.filled()));
        }
        if !self.frontier.is_empty() {
            chart
                .draw_series(self.frontier.iter().filter(|p| sound(p)).map(|&p| Circle::new(p, 3, BLACK.mix(0.7))))?
                .label("frontier that is fitted")
                .legend(|(x, y)| Circle::new((x + 9, y), 3, BLACK.mix(0.7)));
        }
        labels(&mut chart, SeriesLabelPosition::UpperRight)?;
        area.present()?;
        Ok(())
    }
}

/// The law over `x`, where its value lies within `y`.
fn line(law: &Law, x: Range<f64>, y: &Range<f64>) -> Vec<(f64, Estimate)> {
    let at = |i: usize| x.start * (x.end / x.start).powf(i as f64 / STEPS as f64);
    let points = (0..=STEPS).map(at).map(|x| (x, law.band(x)));
    points.filter(|(_, band)| y.contains(&band.value)).collect()
}

/// All of `values`, with a little room, at the upper end `more` times as far.
fn range(values: impl Iterator<Item = f64>, more: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 1.0..10.0; // nothing to show
    }
    let room = (high / low).powf(0.05).max(1.02);
    low / room..high * more * room
}

/// An axis with labels at numbers that are easy to read.
fn logarithmic(range: Range<f64>) -> WithKeyPoints<LogCoord<f64>> {
    let points = key_points(&range);
    range.log_scale().with_key_points(points)
}

/// Powers of ten; between them also 2 and 5, or more, where there are few.
fn key_points(range: &Range<f64>) -> Vec<f64> {
    let of = |steps: &[f64]| -> Vec<f64> {
        let decades = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
        let all = decades.flat_map(|decade| steps.iter().map(move |step| (step * 10f64.powi(decade), decade)));
        // 1.2 × 10⁰ and such are written as they are read.
        let all = all.map(|(x, decade)| {
            let scale = 10f64.powi(2 - decade.min(2));
            (x * scale).round() / scale
        });
        all.filter(|x| range.contains(x)).collect()
    };
    let fine: [f64; 13] = [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.5];
    let choices = [&[1.0][..], &[1.0, 2.0, 5.0], &fine];
    choices.iter().map(|steps| of(steps)).find(|points| points.len() >= 4).unwrap_or_else(|| of(&fine))
}

fn colors(members: &[Member]) -> Vec<RGBColor> {
    let mut sizes: Vec<u64> = members.iter().map(|member| member.size).collect();
    sizes.sort_unstable();
    let color = |member: &Member| {
        if member.predict {
            return HELD_OUT;
        }
        let rank = sizes.iter().position(|&size| size == member.size).unwrap_or(0);
        let share = rank as f64 / sizes.len().saturating_sub(1).max(1) as f64;
        let mix = |light: f64, dark: f64| (light + (dark - light) * share) as u8;
        RGBColor(mix(LIGHT.0, DARK.0), mix(LIGHT.1, DARK.1), mix(LIGHT.2, DARK.2))
    };
    members.iter().map(color).collect()
}

/// Three digits that count, 1500000 → 1.5M; beyond 10¹⁵ as 3e15.
fn short(n: f64) -> String {
    let (value, unit) = match n {
        n if n >= 1e15 => return format!("{n:.0e}"),
        n if n >= 1e12 => (n / 1e12, "T"),
        n if n >= 1e9 => (n / 1e9, "B"),
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e3 => (n / 1e3, "k"),
        n => (n, ""),
    };
    let digits = if value >= 100.0 { 0 } else { 1 + usize::from(value < 10.0) };
    let text = format!("{value:.digits$}");
    let text = if digits == 0 { &text } else { text.trim_end_matches('0').trim_end_matches('.') };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::family;
    use crate::report::tests::members;

    #[test]
    fn counts_are_short() {
        assert_eq!([14_496.0, 150_080.0, 1.5e6, 1e5, 20.0].map(short), ["14.5k", "150k", "1.5M", "100k", "20"]);
    }

    #[test]
    fn members_and_law_are_drawn_and_named() {
        let sizes = serde_json::json!([{ "name": "a", "n_layer": 1, "n_head": 1, "d_model": 8 }]);
        let report = ScalingReport::new(members(2e-3), &family(sizes), None);
        for (name, svg) in all(&report).unwrap() {
            for word in ["s6: 3.95M parameters, held out", "validation loss, nats a token", ", α = 0."] {
                assert!(svg.contains(word), "{name}: {word}");
            }
            assert!(!svg.contains("NaN") && svg.len() < 300_000, "{name}");
        }
    }

    #[test]
    fn a_family_without_losses_is_drawn() {
        let sizes = serde_json::json!([{ "name": "a", "n_layer": 1, "n_head": 1, "d_model": 8 }]);
        let mut members = members(0.0);
        members.iter_mut().for_each(|member| {
            member.points.clear();
            member.loss = f64::NAN;
        });
        let report = ScalingReport::new(members, &family(sizes), None);
        assert!(report.size_law.fitted().is_none());
        all(&report).unwrap();
    }

    #[test]
    fn any_losses_are_drawn_in_few_bytes() {
        let sizes = serde_json::json!([{ "name": "a", "n_layer": 1, "n_head": 1, "d_model": 8 }]);
        let all = [0.0, -1.0, 2.0, 2.0 + f64::EPSILON, 5e-324, 1e-30, 1e29, 1e300, f64::MAX, f64::INFINITY, f64::NAN];
        // Each with its neighbor: a report fits laws, which takes a while.
        for (a, b) in all.into_iter().zip(all.into_iter().cycle().skip(1)) {
            let mut members = members(1e-3);
            for (i, member) in members.iter_mut().enumerate() {
                member.loss = if i.is_multiple_of(2) { a } else { b };
                let loss = member.loss;
                member.points.iter_mut().for_each(|point| point.loss = loss);
            }
            for (name, svg) in all_of(&ScalingReport::new(members, &family(sizes.clone()), None)) {
                let sound = !svg.contains("NaN") && !svg.contains("inf") && svg.len() < 300_000;
                assert!(sound, "{name}, {a} {b}: {} bytes", svg.len());
            }
        }
    }

    fn all_of(report: &ScalingReport) -> [(&'static str, String); 3] {
        all(report).unwrap()
    }

    #[test]
    fn axes_have_some_labels_and_not_too_many() {
        for range in [0.9..3.0, 1.9..4.2, 1e9..3e13, 1.2e4..9e6, 1e5..3e6, 2.0..2.2] {
            let points = key_points(&range);
            assert!(
                (1..=12).contains(&points.len()) && points.iter().all(|x| range.contains(x)),
                "{range:?}: {points:?}"
            );
        }
        assert_eq!(key_points(&(0.9..3.0)), [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5]);
        assert_eq!(key_points(&(5e9..2e13)), [1e10, 1e11, 1e12, 1e13]);
    }
}
