//! The tables of measurements in the README and docs/speed.md, generated from docs/figures.json, which the benchmarks of
//! `scripts/` write.

use super::pages::{assert_generated, root};
use gptkit_data::progress::grouped;
use serde::Deserialize;
use std::collections::BTreeSet;

/// A measurement of gptkit and of another implementation, as `scripts/figures.py` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    name: String,
    task: String,
    /// `tokens/s`, or `s`.
    unit: String,
    gptkit: f64,
    /// Peak memory in units of 10^9 bytes.
    gptkit_gb: Option<f64>,
    other: f64,
    other_gb: Option<f64>,
    /// Implementation, and its settings.
    other_is: String,
    /// How many times as fast gptkit is.
    ratio: f64,
    cores: u32,
    /// Not known of some older measurements.
    processor: Option<String>,
    commit: String,
    date: String,
    versions: String,
    script: String,
}

impl Figure {
    fn row(&self) -> String {
        let (ours, theirs) = (shown(self.gptkit, &self.unit), shown(self.other, &self.unit));
        let ours_gb = self.gptkit_gb.map_or(String::new(), |gb| format!(", {gb:.2} GB"));
        let theirs_gb = self.other_gb.map_or(String::new(), |gb| format!(", {gb:.2} GB"));
        let Self { task, ratio, other_is, .. } = self;
        format!("| {task} | {ours}{ours_gb} | {theirs}{theirs_gb} ({other_is}) | {ratio:?} |\n")
    }

    /// Where and of what.
    fn conditions(&self) -> String {
        let processor = self.processor.as_deref().unwrap_or("processor not recorded");
        let Self { cores, commit, date, versions, .. } = self;
        format!("{cores} cores, {processor}; gptkit at commit `{commit}` ({date}); {versions}")
    }
}

/// `1,339 tokens/s` or `8.7 s`.
fn shown(value: f64, unit: &str) -> String {
    let digits = if value.fract() == 0.0 { format!("{value:.0}") } else { value.to_string() };
    let (whole, fraction) = digits.split_once('.').map_or((digits.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let whole = grouped(whole.parse().unwrap());
    let fraction = fraction.map_or(String::new(), |fraction| format!(".{fraction}"));
    format!("{whole}{fraction} {unit}")
}

/// A table of `figures`, and under which conditions they were measured.
fn table(figures: &[&Figure]) -> String {
    let rows: String = figures.iter().map(|figure| figure.row()).collect();
    let conditions: BTreeSet<(&str, String)> =
        figures.iter().map(|figure| (figure.script.as_str(), figure.conditions())).collect();
    let conditions = match conditions.first() {
        Some((_, conditions)) if figures.iter().all(|figure| figure.conditions() == *conditions) => {
            format!("Measured in alternation on {conditions}.\n")
        }
        _ => {
            let each = conditions.iter().map(|(script, conditions)| format!("- `{script}`: {conditions}\n"));
            "Measured in alternation, by:\n\n".to_owned() + &each.collect::<String>()
        }
    };
    let conditions: Vec<String> = conditions.lines().map(wrapped).collect();
    format!("| | gptkit | other implementation | ratio |\n| --- | --- | --- | --- |\n{rows}\n{}", conditions.join("\n"))
}

/// `line` in lines of at most 120 characters; those of a list are indented.
fn wrapped(line: &str) -> String {
    let indent = if line.starts_with("- ") { "  " } else { "" };
    textwrap::fill(line, textwrap::Options::new(120).subsequent_indent(indent))
}

#[test]
fn the_tables_of_measurements_have_the_values_of_their_file() {
    let text = std::fs::read_to_string(root().join("docs/figures.json")).unwrap();
    let figures: Vec<Figure> = serde_json::from_str(&text).unwrap();
    for Figure { name, unit, gptkit, other, ratio, script, .. } in &figures {
        let expected = if unit == "tokens/s" { gptkit / other } else { other / gptkit };
        // Some of the values are rounded to two digits.
        assert!(
            (ratio / expected - 1.0).abs() < 0.03,
            "{name}: the ratio is {ratio}, that of its values {expected:.2}"
        );
        assert!(unit == "tokens/s" || unit == "s", "{name}: {unit}");
        assert!(root().join(script).is_file(), "{name}: {script} does not exist");
    }
    for of_script in figures.chunk_by(|a, b| a.script == b.script) {
        let (script, conditions) = (&of_script[0].script, of_script[0].conditions());
        let all_equal = of_script.iter().all(|figure| figure.conditions() == conditions);
        assert!(all_equal, "the figures of {script} are not of one machine, commit and day: measure all of them again");
    }
    let throughput: Vec<&Figure> = figures.iter().filter(|figure| figure.unit == "tokens/s").collect();
    assert!(throughput.len() >= 4, "{} figures in tokens/s", throughput.len());
    assert_generated("README.md", "speed", &table(&throughput));
    assert_generated("docs/speed.md", "comparison", &table(&figures.iter().collect::<Vec<_>>()));
}

#[test]
fn values_are_shown_with_a_comma_between_thousands() {
    let all = [1339.0, 12591.0, 65.0, 8.7, 1_000_000.0].map(|value| shown(value, "s"));
    assert_eq!(all, ["1,339 s", "12,591 s", "65 s", "8.7 s", "1,000,000 s"]);
}
