//! Curves over a shared axis, each named where it ends.

use super::{Chart, Element, LETTER, WIDTH, short, tenth, ticks};
use gptkit_train::curves::is_drawn;

/// How places on the horizontal axis are meant.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// As numbers.
    Linear,
    /// As numbers whose logarithms are drawn; named where points are.
    Log,
    /// Each whole number from 0 has this name.
    Named(Vec<String>),
}

/// How a curve looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A line.
    Line,
    /// A thin one in the background, without a name.
    Faint,
    /// A line with a dot at each point.
    Dots,
    /// A dashed line from side to side.
    Level,
}

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Which of the page's line styles it has: a color and a dash.
    pub style: usize,
    /// How it looks.
    pub look: Look,
    /// Places and values; of a level only the value of the first counts.
    pub points: Vec<(f64, f64)>,
}

/// Curves and their axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// What the chart shows, for those who do not see it.
    pub label: String,
    /// What is drawn to the right.
    pub x: String,
    /// How.
    pub scale: Scale,
    /// What is drawn upward.
    pub y: String,
    /// The curves.
    pub series: Vec<Series>,
}

const HEIGHT: f64 = 340.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = HEIGHT - 52.0;
/// Least distance of names below each other, and of those beside each other.
const LINE: f64 = 19.0;
const APART: f64 = 58.0;

/// From numbers to places.
struct Plane {
    x: (f64, f64),
    y: (f64, f64),
    right: f64,
}

impl Plane {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let across = (x - self.x.0) / (self.x.1 - self.x.0);
        let up = (y - self.y.0) / (self.y.1 - self.y.0);
        (LEFT + across * (self.right - LEFT), BOTTOM - up * (BOTTOM - TOP))
    }
}

/// The least and the greatest, with room for a line that is level.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let level = low.abs().max(high.abs()) * 1e-9;
    if high - low > level {
        return (low, high);
    }
    let room = (level * 1e6).max(0.5);
    (low - room, high + room)
}

impl Lines {
    /// Draws them; nothing when there is no point.
    pub fn draw(&self) -> Option<Chart> {
        let log = self.scale == Scale::Log;
        let along = |x: f64| if log { x.max(1.0).log10() } else { x };
        let is_point = |(x, y): &&(f64, f64)| is_drawn(*x) && is_drawn(*y);
        let series: Vec<(&Series, Vec<(f64, f64)>)> = self
            .series
            .iter()
            .map(|one| (one, one.points.iter().filter(is_point).map(|&(x, y)| (along(x), y)).collect::<Vec<_>>()))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        let all = || series.iter().flat_map(|(_, points)| points.iter());
        all().next()?;
        let placed = || series.iter().filter(|(one, _)| one.look != Look::Level).flat_map(|(_, points)| points.iter());
        let mut x = range(placed().map(|p| p.0));
        if let Scale::Named(names) = &self.scale {
            x = (-0.15, names.len() as f64 - 0.85);
        }
        let y = range(all().map(|p| p.1));
        let room = 0.04 * (y.1 - y.0);
        let named = || series.iter().filter(|(one, _)| one.look != Look::Faint);
        let longest = named().map(|(one, _)| one.name.chars().count()).max().unwrap_or(0) as f64;
        let right = WIDTH - (longest * LETTER + 16.0).clamp(24.0, 200.0);
        let plane = Plane { x, y: (y.0 - room, y.1 + room), right };
        let mut chart = Chart { label: self.label.clone(), height: HEIGHT, elements: Vec::new() };
        self.axes(&mut chart, &plane, placed().map(|p| p.0));
        // Names come last, so that no line crosses them.
        let mut names: Vec<((f64, f64), &Series)> = Vec::new();
        for (one, points) in &series {
            let places: Vec<(f64, f64)> = match one.look {
                Look::Level => [plane.x.0, plane.x.1].map(|x| plane.place((x, points[0].1))).to_vec(),
                _ => points.iter().map(|&point| plane.place(point)).collect(),
            };
            let looks = if one.look == Look::Faint { " faint" } else { "" };
            let dash = if one.look == Look::Level { " level" } else { "" };
            chart.path(format!("line s{}{looks}{dash}", one.style), &places);
            if one.look == Look::Dots || points.len() == 1 && one.look == Look::Line {
                let dot = |&(x, y): &(f64, f64)| Element::Dot {
                    class: format!("dot s{}", one.style),
                    x: tenth(x),
                    y: tenth(y),
                };
                chart.elements.extend(places.iter().map(dot));
            }
            if let (Some(&end), false) = (places.last(), one.look == Look::Faint) {
                names.push((end, one));
            }
        }
        names.sort_by(|a, b| a.0.1.total_cmp(&b.0.1));
        let wanted: Vec<f64> = names.iter().map(|(end, _)| end.1 + 5.0).collect();
        for (y, (end, one)) in apart(&wanted).into_iter().zip(names) {
            // From where a curve ends early.
            if end.0 < right - 24.0 {
                chart.path("leader", &[(end.0 + 7.0, end.1), (right + 5.0, y - 5.0)]);
            }
            chart.text(format!("name s{}", one.style), (right + 8.0, y), one.name.clone());
        }
        Some(chart)
    }

    fn axes(&self, chart: &mut Chart, plane: &Plane, places: impl Iterator<Item = f64>) {
        for y in ticks(plane.y.0, plane.y.1, 5) {
            let (_, at) = plane.place((plane.x.0, y));
            chart.path("grid", &[(LEFT, at), (plane.right, at)]);
            chart.text("tick end", (LEFT - 7.0, at + 5.5), short(y));
        }
        chart.path("axis", &[(LEFT, BOTTOM), (plane.right, BOTTOM)]);
        let mut at: Vec<(f64, String)> = match &self.scale {
            Scale::Linear => ticks(plane.x.0, plane.x.1, 4).into_iter().map(|x| (x, short(x))).collect(),
            Scale::Log => places.map(|x| (x, short(10f64.powf(x)))).collect(),
            Scale::Named(names) => names.iter().enumerate().map(|(i, name)| (i as f64, name.clone())).collect(),
        };
        at.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut before = f64::NEG_INFINITY;
        for (x, text) in at {
            let (x, _) = plane.place((x, plane.y.0));
            if x - before < APART && !matches!(self.scale, Scale::Named(_)) {
                continue;
            }
            before = x;
            chart.path("axis", &[(x, BOTTOM), (x, BOTTOM + 5.0)]);
            chart.text("tick middle", (x, BOTTOM + 22.0), text);
        }
        chart.text("tick", (4.0, 17.0), self.y.clone());
        chart.text("tick end", (plane.right, HEIGHT - 8.0), self.x.clone());
    }
}

/// Heights near `wanted`, which rise, no two nearer than a line of text, and inside the chart where there is room.
fn apart(wanted: &[f64]) -> Vec<f64> {
    let mut heights = wanted.to_vec();
    for i in 1..heights.len() {
        heights[i] = heights[i].max(heights[i - 1] + LINE);
    }
    let mut limit = BOTTOM + 5.0;
    for height in heights.iter_mut().rev() {
        *height = height.min(limit);
        limit = *height - LINE;
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(series: Vec<Series>, scale: Scale) -> Lines {
        Lines { label: "two".to_owned(), x: "tokens".to_owned(), scale, y: "loss".to_owned(), series }
    }

    fn series(name: &str, look: Look, points: &[(f64, f64)]) -> Series {
        Series { name: name.to_owned(), style: 1, look, points: points.to_vec() }
    }

    fn texts(chart: &Chart) -> Vec<(&str, f64, f64)> {
        let text = |element| match element {
            &Element::Text { ref text, x, y, .. } => Some((text.as_str(), x, y)),
            _ => None,
        };
        chart.elements.iter().filter_map(text).collect()
    }

    #[test]
    fn curves_are_named_and_names_do_not_touch() {
        let near = [("a", 1.0), ("b", 1.001), ("c", 1.002), ("faint", 1.0)];
        let look = |name| if name == "faint" { Look::Faint } else { Look::Line };
        let all = near.map(|(name, y)| series(name, look(name), &[(0.0, 3.0), (1e6, y)])).to_vec();
        let chart = lines(all, Scale::Linear).draw().unwrap();
        let names: Vec<f64> = texts(&chart).iter().filter(|t| ["a", "b", "c"].contains(&t.0)).map(|t| t.2).collect();
        assert_eq!(names.len(), 3);
        assert!(names.windows(2).all(|two| (two[0] - two[1]).abs() >= LINE - 0.1), "{names:?}");
        assert!(names.iter().all(|&y| y <= HEIGHT));
        assert!(!texts(&chart).iter().any(|t| t.0 == "faint"), "a curve in the background has no name");
        assert!(texts(&chart).iter().any(|t| t.0 == "500k") && texts(&chart).iter().any(|t| t.0 == "tokens"));
    }

    #[test]
    fn higher_values_are_drawn_higher() {
        let chart = lines(vec![series("a", Look::Line, &[(0.0, 1.0), (1.0, 2.0)])], Scale::Linear).draw().unwrap();
        let d = chart.elements.iter().find_map(|e| match e {
            Element::Path { class, d } if class.starts_with("line") => Some(d.clone()),
            _ => None,
        });
        let d = d.unwrap();
        let ys: Vec<f64> = d.split(['M', 'L']).skip(1).map(|p| p.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        assert!(ys[0] > ys[1] && ys.iter().all(|&y| (TOP..BOTTOM).contains(&y)), "{d}");
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        assert!(lines(vec![series("a", Look::Line, &[(0.0, f64::NAN)])], Scale::Linear).draw().is_none());
        assert!(lines(Vec::new(), Scale::Log).draw().is_none());
        let chart = lines(vec![series("a", Look::Dots, &[(742_272.0, 5.0)])], Scale::Log).draw().unwrap();
        assert!(texts(&chart).iter().any(|t| t.0 == "742k"));
        assert!(!format!("{chart:?}").contains("NaN"));
    }

    #[test]
    fn any_values_are_drawn_in_few_words() {
        let all = [0.0, 1.0, 1.0 + f64::EPSILON, -1e-300, 1e15, 1e15 + 0.125, 1e30, -1e30, 1e300, f64::MAX, f64::NAN];
        for a in all {
            for b in all {
                let points = [(a, b), (b, a), (1.0, a)];
                let looks = [Look::Line, Look::Dots, Look::Level].map(|look| series("a", look, &points)).to_vec();
                for scale in [Scale::Linear, Scale::Log, Scale::Named(vec!["x".to_owned()])] {
                    let Some(chart) = lines(looks.clone(), scale).draw() else { continue };
                    let text = format!("{chart:?}");
                    assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 9000, "{a} {b}: {text}");
                }
            }
        }
    }
}
