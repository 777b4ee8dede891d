//! A family in three pictures, both axes logarithmic (Kaplan et al. 2020, fig. 1): loss over compute, size and tokens.

use super::report::{FitResult, Law, LossPoint, Member, ScalingReport};
use gptkit_plot::scale::short;
use gptkit_plot::{Axis, Extent, LineChart, Look, Names, Scale, Series};
use std::ops::Range;

/// Points that a law's line is drawn with.
const STEPS: usize = 60;
/// Values that are drawn: positive, as logarithms need, and neither infinite nor near it.
const DRAWN: Range<f64> = 1e-30..1e30;
/// Numbers of colors of the style sheet.
const MEMBER: usize = 0;
const LAW: usize = 1;
const HELD_OUT: usize = 4;
const FRONTIER: usize = 5;

/// Name and text of each picture.
pub(crate) fn all(report: &ScalingReport) -> [(&'static str, String); 3] {
    let along = |x: fn(&LossPoint) -> f64| {
        move |member: &Member| -> Vec<(f64, f64)> { member.points.iter().map(|point| (x(point), point.loss)).collect() }
    };
    let compute = LawPicture {
        x: "compute 6·N·D, FLOPs",
        curve: &along(|point| point.compute),
        law: &report.compute_law,
        form: "L(C)",
        frontier: &report.frontier,
        beyond: 1.0,
    };
    let tokens = LawPicture {
        x: "tokens",
        curve: &along(|point| point.tokens as f64),
        law: &report.token_law,
        form: "L(D)",
        frontier: &[],
        beyond: 1.0,
    };
    let size = LawPicture {
        x: "parameters without embeddings",
        curve: &|member| vec![(member.size as f64, member.loss)],
        law: &report.size_law,
        form: "L(N)",
        frontier: &[],
        beyond: 2.0,
    };
    [
        ("loss-compute.svg", compute.draw(&report.members)),
        ("loss-size.svg", size.draw(&report.members)),
        ("loss-tokens.svg", tokens.draw(&report.members)),
    ]
}

struct LawPicture<'a> {
    /// Name of the horizontal axis.
    x: &'a str,
    /// The points of a member, of which the last is its end.
    curve: &'a dyn Fn(&Member) -> Vec<(f64, f64)>,
    law: &'a FitResult<Law>,
    form: &'a str,
    /// The points that the law was fitted to, where they are not a member's.
    frontier: &'a [(f64, f64)],
    /// How far the law is drawn, as a multiple of the largest x.
    beyond: f64,
}

impl LawPicture<'_> {
    fn draw(&self, members: &[Member]) -> String {
        let drawn = |p: &(f64, f64)| DRAWN.contains(&p.0) && DRAWN.contains(&p.1);
        let curves: Vec<Vec<(f64, f64)>> =
            members.iter().map(|member| (self.curve)(member).into_iter().filter(drawn).collect()).collect();
        let mut series = Vec::new();
        if let Some(law) = self.law.fitted() {
            series.push(self.law_line(law, &curves));
        }
        for ((member, curve), opacity) in members.iter().zip(&curves).zip(opacities(members)) {
            series.extend(member_series(member, curve, opacity));
        }
        series.push(Series {
            name: "fitted frontier".to_owned(),
            style: FRONTIER,
            look: Look::Points,
            points: self.frontier.iter().copied().filter(drawn).collect(),
            ..Series::default()
        });
        let log = |name: &str| Axis { scale: Scale::Log, ..Axis::linear(name) };
        let chart = LineChart {
            label: format!("validation loss over {} with a power-law fit", self.x),
            x: log(self.x),
            y: log("validation loss, nats per token"),
            series,
            names: Names::Legend,
            size: (900.0, 600.0),
            ..LineChart::default()
        };
        chart.svg()
    }

    /// The law with the band of its 95% intervals, from below the points to beyond them, where it has losses like theirs.
    fn law_line(&self, law: &Law, curves: &[Vec<(f64, f64)>]) -> Series {
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)))
        };
        let (first, last) = ends(&mut curves.iter().flatten().map(|p| p.0));
        let (lowest, highest) = ends(&mut curves.iter().flatten().map(|p| p.1));
        let x = first.max(law.range[0] * 0.5)..last * self.beyond;
        let lowest = lowest.min(law.band(x.end).value);
        let at = |i: usize| x.start * (x.end / x.start).powf(i as f64 / STEPS as f64);
        let bands = (0..=STEPS).map(at).map(|x| (x, law.band(x)));
        let bands: Vec<_> = bands.filter(|(_, band)| (lowest..=highest).contains(&band.value)).collect();
        let exponent = &law.exponent;
        Series {
            name: format!("{}, α = {:.3} [{:.3}, {:.3}]", self.form, exponent.value, exponent.low, exponent.high),
            style: LAW,
            points: bands.iter().map(|(x, band)| (*x, band.value)).collect(),
            extent: Extent::Band(bands.iter().map(|(x, band)| (*x, band.low, band.high)).collect()),
            ..Series::default()
        }
    }
}

/// A member's losses as a line, and its end as a dot with its name.
fn member_series(member: &Member, curve: &[(f64, f64)], opacity: f64) -> [Series; 2] {
    let style = if member.predict { HELD_OUT } else { MEMBER };
    let held_out = if member.predict { ", held out" } else { "" };
    let line = Series { style, opacity, ..Series::default() };
    let end = Series {
        name: format!("{}: {} parameters{held_out}", member.name, short(member.size as f64)),
        look: Look::Points,
        points: curve.last().copied().into_iter().collect(),
        ..line.clone()
    };
    [Series { points: if curve.len() > 1 { curve.to_vec() } else { Vec::new() }, ..line }, end]
}

/// From the smallest member to the largest, darker and darker.
fn opacities(members: &[Member]) -> impl Iterator<Item = f64> {
    const LIGHTEST: f64 = 0.35;
    let mut sizes: Vec<u64> = members.iter().map(|member| member.size).collect();
    sizes.sort_unstable();
    members.iter().map(move |member| {
        let rank = sizes.iter().position(|&size| size == member.size).unwrap_or(0);
        let share = rank as f64 / sizes.len().saturating_sub(1).max(1) as f64;
        if member.predict { 1.0 } else { LIGHTEST + (1.0 - LIGHTEST) * share }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::family;
    use crate::report::tests::members;

    #[test]
    fn members_and_law_are_drawn_and_named() {
        let sizes = serde_json::json!([{ "name": "a", "n_layer": 1, "n_head": 1, "d_model": 8 }]);
        let report = ScalingReport::new(members(2e-3), &family(sizes), None);
        for (name, svg) in all(&report) {
            for word in ["s6: 3.95M parameters, held out", "validation loss, nats per token", ", α = 0."] {
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
        assert!(all(&report).iter().all(|(_, svg)| svg.contains("validation loss")));
    }

    #[test]
    fn any_losses_are_drawn_in_few_bytes() {
        let sizes = serde_json::json!([{ "name": "a", "n_layer": 1, "n_head": 1, "d_model": 8 }]);
        let losses =
            [0.0, -1.0, 2.0, 2.0 + f64::EPSILON, 5e-324, 1e-30, 1e29, 1e300, f64::MAX, f64::INFINITY, f64::NAN];
        // Each with its neighbor: a report fits laws, which takes a while.
        for (a, b) in losses.into_iter().zip(losses.into_iter().cycle().skip(1)) {
            let mut members = members(1e-3);
            for (i, member) in members.iter_mut().enumerate() {
                member.loss = if i.is_multiple_of(2) { a } else { b };
                let loss = member.loss;
                member.points.iter_mut().for_each(|point| point.loss = loss);
            }
            for (name, svg) in all(&ScalingReport::new(members, &family(sizes.clone()), None)) {
                let sound = !svg.contains("NaN") && !svg.contains("inf") && svg.len() < 300_000;
                assert!(sound, "{name}, {a} {b}: {} bytes", svg.len());
            }
        }
    }
}
