//! Lines, points, intervals, bands and histograms over a shared axis.

use crate::PAGE_WIDTH;
use crate::scale::{axis, is_drawn, labels, log_ticks, short, span, thinned, ticks};
use crate::svg::{BOLD_LETTER, Drawing, LETTER, color};
use std::ops::RangeInclusive;

/// How the values of an axis are placed.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Scale {
    /// In proportion.
    #[default]
    Linear,
    /// In proportion to their logarithms. Values that are not positive are left out.
    Log,
    /// As [`Scale::Log`], with ticks where points are rather than at round numbers; for the horizontal axis.
    LogAtPoints,
    /// Whole numbers from 0, each with this name; for the horizontal axis.
    Named(Vec<String>),
}

/// An axis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Axis {
    /// The quantity and its unit.
    pub name: String,
    /// How values are placed.
    pub scale: Scale,
    /// Values that the axis shows whatever the series are.
    pub includes: Vec<f64>,
}

impl Axis {
    /// A linear axis with the ends that the series need.
    pub fn linear(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// How the points of a series are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Look {
    /// A line.
    #[default]
    Line,
    /// A thin line in the background, without a name in [`Names::AtEnds`].
    Faint,
    /// A line with a dot at each point.
    Dots,
    /// Dots alone.
    Points,
    /// A dashed line from side to side at the value of the first point, whose place does not count.
    Level,
    /// The columns of a histogram: each point is a column's left edge and height; all are as wide as this.
    Columns(f64),
}

/// What stands around the points of a series: place, low and high of each.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Extent {
    /// Nothing.
    #[default]
    None,
    /// A vertical line from low to high.
    Intervals(Vec<(f64, f64, f64)>),
    /// The area from low to high, cut where it leaves the axes.
    Band(Vec<(f64, f64, f64)>),
}

/// A series of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name; may be empty, and then no legend has it.
    pub name: String,
    /// Number of a color and dash pattern of the style sheet.
    pub style: usize,
    /// Opacity from 0 to 1.
    pub opacity: f64,
    /// How points are drawn.
    pub look: Look,
    /// Places and values. Those that are not [drawn](is_drawn) are left out.
    pub points: Vec<(f64, f64)>,
    /// What stands around the points.
    pub extent: Extent,
}

impl Default for Series {
    fn default() -> Self {
        let (name, points) = (String::new(), Vec::new());
        Self { name, style: 0, opacity: 1.0, look: Look::Line, points, extent: Extent::None }
    }
}

/// Where the names of series stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// Right of the last point of each, one below the other: for few series with short names.
    #[default]
    AtEnds,
    /// Above the axes, each beside a sample of its look.
    Legend,
}

/// A chart of series.
#[derive(Debug, Clone, PartialEq)]
pub struct LineChart {
    /// What the chart shows, for those who do not see it.
    pub label: String,
    /// Title above the chart; may be empty.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series, from back to front.
    pub series: Vec<Series>,
    /// Where their names stand.
    pub names: Names,
    /// Width and height in units, without title and legend.
    pub size: (f64, f64),
}

impl Default for LineChart {
    /// An empty chart for a page.
    fn default() -> Self {
        let (label, title) = (String::new(), String::new());
        let size = (PAGE_WIDTH, 340.0);
        Self { label, title, x: Axis::default(), y: Axis::default(), series: Vec::new(), names: Names::AtEnds, size }
    }
}

/// Height of the name of the vertical axis, above the plane, and of names and ticks of the horizontal one below.
const TOP: f64 = 34.0;
const BELOW: f64 = 52.0;
/// Distance of lines of text, and minimum distance of neighboring ticks.
const LINE: f64 = 19.0;
const TICKS_APART: f64 = 58.0;
/// Height of a row of the legend, length of a sample in it, and room between entries.
const LEGEND_ROW: f64 = 23.0;
const SAMPLE: f64 = 24.0;
const LEGEND_GAP: f64 = 18.0;
/// Room below the legend.
const LEGEND_BELOW: f64 = 8.0;
const DOT: f64 = 4.0;
/// Decimal logarithm of the least value that a logarithmic axis shows.
const LOWEST_LOG: f64 = -30.0;

/// From values, on the scales of the axes, to places in the drawing.
struct Plane {
    x: RangeInclusive<f64>,
    y: RangeInclusive<f64>,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Plane {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let share = |value: f64, ends: &RangeInclusive<f64>| (value - ends.start()) / (ends.end() - ends.start());
        (
            self.left + share(x, &self.x) * (self.right - self.left),
            self.bottom - share(y, &self.y) * (self.bottom - self.top),
        )
    }

    /// An interval, cut where it leaves the vertical axis.
    fn interval(&self, (x, low, high): (f64, f64, f64)) -> [(f64, f64); 2] {
        [low, high].map(|y| self.place((x, y.clamp(*self.y.start(), *self.y.end()))))
    }
}

/// A series on the scales of the axes, without what is not drawn.
struct Scaled<'a> {
    series: &'a Series,
    points: Vec<(f64, f64)>,
    extent: Vec<(f64, f64, f64)>,
}

/// `value` on `scale`; `None` where it is not drawn.
fn on_scale(scale: &Scale, value: f64) -> Option<f64> {
    match scale {
        Scale::Linear | Scale::Named(_) => Some(value).filter(|value| is_drawn(*value)),
        Scale::Log | Scale::LogAtPoints => {
            (is_drawn(value) && value > 0.0).then(|| value.log10()).filter(|log| *log >= LOWEST_LOG)
        }
    }
}

impl LineChart {
    /// The chart as a file.
    pub fn svg(&self) -> String {
        self.draw().file(&self.label)
    }

    /// The chart as an element of a page; `None` when no point is drawn.
    pub fn markup(&self) -> Option<String> {
        self.scaled().iter().any(|one| !one.points.is_empty()).then(|| self.draw().markup(&self.label))
    }

    fn scaled(&self) -> Vec<Scaled<'_>> {
        let scaled = |series: &'_ Series| {
            let at = |&(x, y): &(f64, f64)| Some((on_scale(&self.x.scale, x)?, on_scale(&self.y.scale, y)?));
            let around = |&(x, low, high): &(f64, f64, f64)| {
                // A band may reach to 0, which a logarithm lacks; it is cut at the axis.
                let is_band = matches!(series.extent, Extent::Band(_));
                let low = on_scale(&self.y.scale, low).or((is_band && low <= 0.0).then_some(LOWEST_LOG))?;
                Some((on_scale(&self.x.scale, x)?, low, on_scale(&self.y.scale, high)?))
            };
            let points = match series.look {
                Look::Line | Look::Faint => thinned(&series.points).iter().filter_map(at).collect(),
                _ => series.points.iter().filter_map(at).collect(),
            };
            let extent = match &series.extent {
                Extent::None => Vec::new(),
                Extent::Intervals(all) | Extent::Band(all) => all.iter().filter_map(around).collect(),
            };
            (points, extent)
        };
        let all = self.series.iter().map(|series| (series, scaled(series)));
        all.map(|(series, (points, extent))| Scaled { series, points, extent }).collect()
    }

    fn draw(&self) -> Drawing {
        let all: Vec<Scaled> = self.scaled().into_iter().filter(|one| !one.points.is_empty()).collect();
        let mut drawing = Drawing::new(self.size.0);
        if !self.title.is_empty() {
            drawing.text("title", (4.0, LINE), &self.title);
            drawing.height += LINE + 8.0;
        }
        if self.names == Names::Legend {
            self.legend(&mut drawing, &all);
        }
        let plane = self.plane(&all, drawing.height);
        drawing.height += self.size.1;
        self.axes(&mut drawing, &plane, &all);
        let mut ends: Vec<((f64, f64), &Series)> = Vec::new();
        for one in &all {
            draw_series(&mut drawing, &plane, one);
            let end = match one.series.look {
                Look::Level => Some((plane.right, plane.place((*plane.x.end(), one.points[0].1)).1)),
                Look::Faint => None,
                _ => one.points.last().map(|&point| plane.place(point)),
            };
            ends.extend(end.filter(|_| !one.series.name.is_empty()).map(|end| (end, one.series)));
        }
        // Names come last, so that no line crosses them.
        if self.names == Names::AtEnds {
            names_at_ends(&mut drawing, &plane, ends);
        }
        drawing
    }

    /// Axes that hold all series, below `above`.
    fn plane(&self, all: &[Scaled], above: f64) -> Plane {
        let (width, height) = self.size;
        let includes = |axis: &Axis| {
            let all = axis.includes.iter().filter_map(|&value| on_scale(&axis.scale, value));
            all.collect::<Vec<f64>>().into_iter()
        };
        let placed = || all.iter().filter(|one| one.series.look != Look::Level);
        let wide = |look: Look| if let Look::Columns(width) = look { width } else { 0.0 };
        let xs = placed().flat_map(|one| one.points.iter().flat_map(|p| [p.0, p.0 + wide(one.series.look)]));
        let ys = all.iter().flat_map(|one| one.points.iter().map(|p| p.1));
        let intervals = all.iter().filter(|one| matches!(one.series.extent, Extent::Intervals(_)));
        let reaches = intervals.flat_map(|one| one.extent.iter().flat_map(|&(_, low, high)| [low, high]));
        let x = match &self.x.scale {
            Scale::Named(names) => -0.15..=(names.len() as f64 - 0.85).max(0.15),
            _ => span(xs.chain(includes(&self.x))),
        };
        let y = axis(ys.chain(reaches).chain(includes(&self.y)));
        let named = all.iter().filter(|one| one.series.look != Look::Faint);
        let longest = named.map(|one| one.series.name.chars().count()).max().unwrap_or(0) as f64;
        let beside = match self.names {
            Names::AtEnds => (longest * BOLD_LETTER + 16.0).clamp(24.0, 200.0),
            Names::Legend => 24.0,
        };
        let widest = self.y_ticks(&y).iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0) as f64;
        Plane {
            x,
            y,
            left: (widest * LETTER + 14.0).max(56.0),
            right: width - beside,
            top: above + TOP,
            bottom: above + height - BELOW,
        }
    }

    fn y_ticks(&self, y: &RangeInclusive<f64>) -> Vec<(f64, String)> {
        match self.y.scale {
            Scale::Log | Scale::LogAtPoints => log_labels(y),
            _ => {
                let at = ticks(*y.start(), *y.end(), 5);
                at.iter().copied().zip(labels(&at)).collect()
            }
        }
    }

    fn x_ticks(&self, x: &RangeInclusive<f64>, all: &[Scaled]) -> Vec<(f64, String)> {
        match &self.x.scale {
            Scale::Linear => {
                let at = ticks(*x.start(), *x.end(), 4);
                at.iter().copied().zip(labels(&at)).collect()
            }
            Scale::Log => log_labels(x),
            Scale::LogAtPoints => {
                let placed = all.iter().filter(|one| one.series.look != Look::Level);
                let mut at: Vec<f64> = placed.flat_map(|one| one.points.iter().map(|p| p.0)).collect();
                at.sort_by(f64::total_cmp);
                at.into_iter().map(|x| (x, short(10f64.powf(x)))).collect()
            }
            Scale::Named(names) => names.iter().enumerate().map(|(i, name)| (i as f64, name.clone())).collect(),
        }
    }

    fn axes(&self, drawing: &mut Drawing, plane: &Plane, all: &[Scaled]) {
        let Plane { left, right, top, bottom, .. } = *plane;
        let mut below = f64::INFINITY;
        for (y, label) in self.y_ticks(&plane.y) {
            let (_, at) = plane.place((*plane.x.start(), y));
            // On a logarithmic axis ticks come nearer and nearer.
            if below - at < LINE {
                continue;
            }
            below = at;
            drawing.path("grid", &[(left, at), (right, at)]);
            drawing.text("tick end", (left - 7.0, at + 5.5), &label);
        }
        drawing.path("axis", &[(left, bottom), (right, bottom)]);
        let mut before = f64::NEG_INFINITY;
        for (x, label) in self.x_ticks(&plane.x, all) {
            let (x, _) = plane.place((x, *plane.y.start()));
            if x - before < TICKS_APART && !matches!(self.x.scale, Scale::Named(_)) {
                continue;
            }
            before = x;
            drawing.path("axis", &[(x, bottom), (x, bottom + 5.0)]);
            drawing.text("tick middle", (x, bottom + 22.0), &label);
        }
        drawing.text("tick", (4.0, top - 17.0), &self.y.name);
        drawing.text("tick end", (right, bottom + BELOW - 8.0), &self.x.name);
    }

    /// Rows of samples and names, below what is drawn.
    fn legend(&self, drawing: &mut Drawing, all: &[Scaled]) {
        let (mut x, mut y) = (4.0, drawing.height + LEGEND_ROW);
        for Scaled { series, .. } in all.iter().filter(|one| !one.series.name.is_empty()) {
            let wide = SAMPLE + 8.0 + series.name.chars().count() as f64 * LETTER + LEGEND_GAP;
            if x > 4.0 && x + wide > self.size.0 {
                (x, y) = (4.0, y + LEGEND_ROW);
            }
            let (middle, color) = (y - 6.0, color(series.style));
            match series.look {
                Look::Columns(_) => drawing.rect(&format!("bar {color}"), (x, y - 13.0), (SAMPLE, 14.0)),
                Look::Points => {
                    drawing.dot(&format!("dot {color}"), series.opacity, DOT, (x + SAMPLE / 2.0, middle));
                }
                look => {
                    let line = [(x, middle), (x + SAMPLE, middle)];
                    drawing.faded_path(&line_class(look, &color), series.opacity, &line);
                    if look == Look::Dots {
                        drawing.dot(&format!("dot {color}"), series.opacity, DOT, (x + SAMPLE / 2.0, middle));
                    }
                }
            }
            drawing.text("tick", (x + SAMPLE + 8.0, y), &series.name);
            x += wide;
            drawing.height = y + LEGEND_BELOW;
        }
    }
}

fn log_labels(ends: &RangeInclusive<f64>) -> Vec<(f64, String)> {
    let all = log_ticks(10f64.powf(*ends.start()), 10f64.powf(*ends.end()));
    let label = |x: f64| if (1e-2..1.0).contains(&x) { format!("{x}") } else { short_or_power(x) };
    all.into_iter().map(|x| (x.log10(), label(x))).collect()
}

fn short_or_power(x: f64) -> String {
    if x < 1e-2 { format!("{x:e}").replace('-', "−") } else { short(x) }
}

fn line_class(look: Look, color: &str) -> String {
    let look = match look {
        Look::Faint => " faint",
        Look::Level => " level",
        _ => "",
    };
    format!("line {color}{look}")
}

fn draw_series(drawing: &mut Drawing, plane: &Plane, one: &Scaled) {
    let Scaled { series, points, extent } = one;
    let Series { look, opacity, .. } = **series;
    let color = color(series.style);
    match series.extent {
        Extent::None => {}
        Extent::Intervals(_) => {
            for &interval in extent {
                drawing.faded_path(&format!("whisker {color}"), opacity, &plane.interval(interval));
            }
        }
        Extent::Band(_) => {
            let ends: Vec<[(f64, f64); 2]> = extent.iter().map(|&interval| plane.interval(interval)).collect();
            let outline = ends.iter().map(|ends| ends[0]).chain(ends.iter().rev().map(|ends| ends[1]));
            drawing.area(&format!("band {color}"), &outline.collect::<Vec<_>>());
        }
    }
    let places: Vec<(f64, f64)> = match look {
        Look::Level => [*plane.x.start(), *plane.x.end()].map(|x| plane.place((x, points[0].1))).to_vec(),
        _ => points.iter().map(|&point| plane.place(point)).collect(),
    };
    match look {
        Look::Columns(width) => {
            let floor = plane.place((*plane.x.start(), 0.0)).1.min(plane.bottom);
            for (&(x, height), &(left, top)) in points.iter().zip(&places).filter(|((_, height), _)| *height > 0.0) {
                let right = plane.place((x + width, height)).0;
                drawing.rect(&format!("bar {color}"), (left, top), (right - left, floor - top));
            }
        }
        Look::Points => {}
        _ => drawing.faded_path(&line_class(look, &color), opacity, &places),
    }
    // A line through a single point would not be seen.
    if matches!(look, Look::Dots | Look::Points) || points.len() == 1 && look == Look::Line {
        places.iter().for_each(|&place| drawing.dot(&format!("dot {color}"), opacity, DOT, place));
    }
}

/// Names right of where series end.
fn names_at_ends(drawing: &mut Drawing, plane: &Plane, mut ends: Vec<((f64, f64), &Series)>) {
    ends.sort_by(|a, b| a.0.1.total_cmp(&b.0.1));
    let wanted: Vec<f64> = ends.iter().map(|(end, _)| end.1 + 5.0).collect();
    for (y, (end, series)) in apart(&wanted, plane.bottom + 5.0).into_iter().zip(ends) {
        // From where a series ends early.
        if end.0 < plane.right - 24.0 {
            drawing.path("leader", &[(end.0 + 7.0, end.1), (plane.right + 5.0, y - 5.0)]);
        }
        drawing.text(&format!("name {}", color(series.style)), (plane.right + 8.0, y), &series.name);
    }
}

/// Heights near `wanted`, which rise, no two nearer than a line of text, and above `lowest` where there is room.
fn apart(wanted: &[f64], lowest: f64) -> Vec<f64> {
    let mut heights = wanted.to_vec();
    for i in 1..heights.len() {
        heights[i] = heights[i].max(heights[i - 1] + LINE);
    }
    let mut limit = lowest;
    for height in heights.iter_mut().rev() {
        *height = height.min(limit);
        limit = *height - LINE;
    }
    heights
}

/// Charts below each other in one file; `label` says what they show.
pub fn stacked(label: &str, charts: &[LineChart]) -> String {
    let mut drawing = Drawing::new(0.0);
    charts.iter().for_each(|chart| drawing.append(&chart.draw()));
    drawing.file(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::tests::VALUES;

    fn chart(series: Vec<Series>, scale: Scale) -> LineChart {
        let x = Axis { scale, ..Axis::linear("tokens") };
        LineChart { x, y: Axis::linear("loss"), series, ..LineChart::default() }
    }

    fn series(name: &str, look: Look, points: &[(f64, f64)]) -> Series {
        Series { name: name.to_owned(), style: 1, look, points: points.to_vec(), ..Series::default() }
    }

    /// Text, x and y of each `<text>`.
    fn texts(svg: &str) -> Vec<(String, f64, f64)> {
        let number = |element: &str, name: &str| -> f64 {
            let rest = element.split_once(&format!(" {name}=\"")).unwrap().1;
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        let elements = svg.lines().filter(|line| line.starts_with("<text"));
        elements
            .map(|line| {
                let (tag, text) = line.split_once('>').unwrap();
                (text.trim_end_matches("</text>").to_owned(), number(tag, "x"), number(tag, "y"))
            })
            .collect()
    }

    #[test]
    fn series_are_named_and_names_do_not_touch() {
        let near = [("a", 1.0), ("b", 1.001), ("c", 1.002), ("faint", 1.0)];
        let look = |name| if name == "faint" { Look::Faint } else { Look::Line };
        let all = near.map(|(name, y)| series(name, look(name), &[(0.0, 3.0), (1e6, y)])).to_vec();
        let chart = chart(all, Scale::Linear);
        let texts = texts(&chart.markup().unwrap());
        let names: Vec<f64> =
            texts.iter().filter(|text| ["a", "b", "c"].contains(&text.0.as_str())).map(|text| text.2).collect();
        assert_eq!(names.len(), 3);
        assert!(names.windows(2).all(|two| (two[0] - two[1]).abs() >= LINE - 0.1), "{names:?}");
        assert!(names.iter().all(|&y| y <= chart.size.1));
        let has = |word: &str| texts.iter().any(|text| text.0 == word);
        assert!(!has("faint"), "a line in the background has no name");
        assert!(has("500k") && has("tokens") && has("loss"), "{texts:?}");
    }

    #[test]
    fn a_legend_wraps_and_lengthens_the_chart() {
        let all: Vec<Series> =
            (0..9).map(|i| series(&format!("a run with a long name {i}"), Look::Dots, &[(0.0, 1.0)])).collect();
        let one = LineChart { names: Names::Legend, ..chart(all[..1].to_vec(), Scale::Linear) };
        let many = LineChart { names: Names::Legend, ..chart(all, Scale::Linear) };
        assert_eq!(one.draw().height, one.size.1 + LEGEND_ROW + LEGEND_BELOW);
        assert!(many.draw().height > many.size.1 + 4.0 * LEGEND_ROW);
        assert!(texts(&many.svg()).iter().all(|&(_, x, y)| x < many.size.0 && y < many.draw().height));
    }

    #[test]
    fn higher_values_are_drawn_higher() {
        for scale in [Scale::Linear, Scale::Log] {
            let mut chart = chart(vec![series("a", Look::Line, &[(1.0, 1.0), (2.0, 20.0)])], Scale::Linear);
            chart.y.scale = scale;
            let svg = chart.svg();
            let line = svg.lines().find(|line| line.contains("class=\"line")).unwrap();
            let d = line.split_once(" d=\"").unwrap().1.trim_end_matches("\"/>");
            let ys: Vec<f64> =
                d.split(['M', 'L']).skip(1).map(|p| p.split(' ').nth(1).unwrap().parse().unwrap()).collect();
            assert!(ys[0] > ys[1] && ys.iter().all(|y| (TOP..chart.size.1 - BELOW).contains(y)), "{d}");
        }
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        assert!(chart(vec![series("a", Look::Line, &[(0.0, f64::NAN)])], Scale::Linear).markup().is_none());
        assert!(chart(Vec::new(), Scale::Log).markup().is_none());
        let chart = chart(vec![series("a", Look::Dots, &[(742_272.0, 5.0)])], Scale::LogAtPoints);
        assert!(texts(&chart.markup().unwrap()).iter().any(|text| text.0 == "742k"));
    }

    #[test]
    fn columns_stand_on_zero() {
        let columns = series("share", Look::Columns(0.5), &[(0.0, 0.25), (0.5, 0.0), (1.0, 0.75)]);
        let mut chart = chart(vec![columns], Scale::Linear);
        chart.y.includes = vec![0.0];
        assert_eq!(chart.svg().matches("<rect class=\"bar").count(), 2, "an empty column is not drawn");
    }

    #[test]
    fn intervals_widen_the_axis_and_bands_are_cut() {
        let points = [(1.0, 1.0), (2.0, 1.0)];
        let around = vec![(1.0, -9.0, 9.0), (2.0, -9.0, 9.0)];
        let with = |extent: Extent| chart(vec![Series { extent, ..series("a", Look::Line, &points) }], Scale::Linear);
        let plane = |chart: &LineChart| chart.plane(&chart.scaled(), 0.0).y;
        assert!(plane(&with(Extent::Intervals(around.clone()))).contains(&-9.0));
        let band = with(Extent::Band(around));
        assert!(!plane(&band).contains(&-9.0) && band.svg().contains("class=\"band s1\""));
    }

    #[test]
    fn any_values_are_drawn_in_few_bytes() {
        for a in VALUES {
            for b in VALUES {
                let points = [(a, b), (b, a), (1.0, a)];
                let mut all = [Look::Line, Look::Dots, Look::Points, Look::Level, Look::Columns(0.1)]
                    .map(|look| series("a", look, &points));
                all[0].extent = Extent::Band(vec![(a, b, a), (b, a, b)]);
                all[1].extent = Extent::Intervals(vec![(a, b, a), (b, a, b)]);
                for scale in [Scale::Linear, Scale::Log, Scale::LogAtPoints, Scale::Named(vec!["x".to_owned()])] {
                    for y in [Scale::Linear, Scale::Log] {
                        let mut chart = chart(all.to_vec(), scale.clone());
                        chart.y.scale = y;
                        let svg = chart.svg();
                        let sound = !svg.contains("NaN") && !svg.contains("inf") && svg.len() < 30_000;
                        assert!(sound, "{a} {b}: {svg}");
                    }
                }
            }
        }
    }
}
