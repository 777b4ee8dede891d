//! A report as tables: in the terminal, and in Markdown.

use super::report::{Estimate, Law, OptimumEstimate, ParametricLaw, Prediction, ScalingReport, percent};
use gptkit_data::progress::grouped;
use gptkit_data::text_table::{self, Align, aligned};

/// Rows under a head; the first column is words, the others are numbers.
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        Self { head: head.iter().map(|&cell| cell.to_owned()).collect(), rows: rows.into_iter().collect() }
    }

    /// For a terminal.
    fn plain(&self) -> String {
        let rows: Vec<Vec<String>> = std::iter::once(&self.head).chain(&self.rows).cloned().collect();
        aligned(&rows, 1)
    }

    fn markdown(&self) -> String {
        let align = |i: usize| if i == 0 { Align::Left } else { Align::Right };
        let columns: Vec<(&String, Align)> = self.head.iter().enumerate().map(|(i, head)| (head, align(i))).collect();
        text_table::markdown(&columns, self.rows.iter().cloned())
    }
}

/// `scaling.md`.
pub(crate) fn markdown(report: &ScalingReport, description: &str) -> String {
    let title = if description.is_empty() { String::new() } else { format!("{description}.\n\n") };
    let mut text = format!("# Scaling laws of a family\n\n{title}");
    for (name, table) in tables(report) {
        text += &format!("## {name}\n\n{}\n", table.markdown());
    }
    text += "## Notes\n\n";
    report.remarks.iter().for_each(|remark| text += &format!("- {remark}\n"));
    text += "\n![loss over compute](loss-compute.svg)\n\n![loss over size](loss-size.svg)\n\n![loss over tokens](loss-tokens.svg)\n";
    text
}

/// The same for a terminal.
pub(crate) fn plain(report: &ScalingReport) -> String {
    let tables: Vec<String> = tables(report).iter().map(|(_, table)| table.plain()).collect();
    tables.join("\n")
}

fn tables(report: &ScalingReport) -> Vec<(&'static str, Table)> {
    let mut tables = vec![("Members", members(report)), ("Laws", laws(report))];
    if !report.predictions.is_empty() {
        tables.push(("Predictions from the fitted models", predictions(&report.predictions)));
    }
    if !report.optima.is_empty() {
        tables.push(("Optimal size and number of tokens for a compute budget", optima(&report.optima)));
    }
    tables
}

fn members(report: &ScalingReport) -> Table {
    let row = |member: &super::report::Member| {
        let name = if member.predict { format!("{} (held out)", member.name) } else { member.name.clone() };
        vec![
            name,
            grouped(member.size),
            grouped(member.n_params),
            grouped(member.tokens),
            format!("{:.2e}", member.compute),
            format!("{:.2e}", member.flops),
            format!("{:.1e}", member.lr),
            format!("{:.4}", member.loss),
            format!("{:.0}", member.elapsed_s),
        ]
    };
    let head = ["member", "N", "all weights", "D", "C", "work", "lr", "loss", "seconds"];
    Table::new(&head, report.members.iter().map(row))
}

fn laws(report: &ScalingReport) -> Table {
    let mut rows = Vec::new();
    for law in [&report.size_law, &report.token_law, &report.compute_law] {
        if let Some(law) = law.fitted() {
            rows.extend(law_rows(law));
        }
    }
    if let Some(law) = report.parametric.fitted() {
        rows.extend(parametric_rows(law));
    }
    Table::new(&["law", "number", "value", "95%", "published", "error", "held-out error"], rows)
}

fn law_rows(law: &Law) -> Vec<Vec<String>> {
    let x = law.variable;
    let form = match law.irreducible {
        Some(_) => format!("L({x}) = E + ({x}c/{x})^α"),
        None => format!("L({x}) = ({x}c/{x})^α"),
    };
    let mut rows = vec![
        vec![
            form,
            "α".to_owned(),
            format!("{:.4}", law.exponent.value),
            between(&law.exponent, |x| format!("{x:.4}")),
            format!("{:.3}", law.published_exponent),
            percent(law.error),
            percent(law.error_left_out),
        ],
        row(&format!("log₁₀ {x}c"), &law.log10_constant, |x| format!("{x:.2}"), ""),
    ];
    rows.extend(law.irreducible.map(|e| row("E", &e, |x| format!("{x:.3}"), "")));
    rows
}

fn parametric_rows(law: &ParametricLaw) -> Vec<Vec<String>> {
    let three = |x: f64| format!("{x:.3}");
    let mut first = row("α", &law.alpha, three, &format!("{:.2}", law.published[0]));
    first[0] = "L(N, D) = E + A/N^α + B/D^β".to_owned();
    first[5] = percent(law.error);
    let mut rows = vec![
        first,
        row("β", &law.beta, three, &format!("{:.2}", law.published[1])),
        row("E", &law.irreducible, three, "1.69"),
        row("A", &law.a, short, "406.4"),
        row("B", &law.b, short, "410.7"),
        row("N ∝ C^a: a", &law.size_share, three, "0.46"),
    ];
    rows.extend(law.decay_gain.map(|gain| row("decay ×", &gain, |x| format!("{x:.4}"), "")));
    rows
}

fn row(name: &str, estimate: &Estimate, number: impl Fn(f64) -> String, published: &str) -> Vec<String> {
    let value = number(estimate.value);
    let band = between(estimate, number);
    vec![String::new(), name.to_owned(), value, band, published.to_owned(), String::new(), String::new()]
}

fn predictions(predictions: &[Prediction]) -> Table {
    let row = |prediction: &Prediction| {
        let loss = |x: f64| format!("{x:.4}");
        let off = |estimate: &Estimate| match prediction.measured {
            Some(measured) => format!("{:+.2}%", 100.0 * (estimate.value / measured - 1.0)),
            None => "-".to_owned(),
        };
        let cells = |estimate: Option<&Estimate>| match estimate {
            Some(estimate) => [loss(estimate.value), between(estimate, loss), off(estimate)],
            None => ["-"; 3].map(str::to_owned),
        };
        let name = prediction.name.clone().unwrap_or_else(|| "twice the compute".to_owned());
        let measured = prediction.measured.map_or_else(|| "-".to_owned(), loss);
        let start = [name, grouped(prediction.size as u64), measured];
        start.into_iter().chain(cells(prediction.by_size.as_ref())).chain(cells(prediction.by_both.as_ref())).collect()
    };
    let head = ["member", "N", "loss", "by L(N)", "95%", "error", "by L(N, D)", "95%", "error"];
    Table::new(&head, predictions.iter().map(row))
}

fn optima(optima: &[OptimumEstimate]) -> Table {
    let row = |optimum: &OptimumEstimate| {
        let [size, tokens] = [optimum.size, optimum.tokens].map(|e| [short(e.value), between(&e, short)]);
        let ratio = optimum.tokens_per_parameter;
        vec![
            format!("{:.2e}", optimum.compute),
            format!("× {}", short(optimum.beyond)),
            size.join(" "),
            tokens.join(" "),
            format!("{} {}", short(ratio.value), between(&ratio, short)),
            format!("{:.3}", optimum.loss.value),
        ]
    };
    Table::new(&["C", "of the largest", "N", "D", "D/N", "loss"], optima.iter().map(row))
}

fn between(estimate: &Estimate, number: impl Fn(f64) -> String) -> String {
    format!("[{}, {}]", number(estimate.low), number(estimate.high))
}

/// Three digits that count, in the unit that people would use.
fn short(x: f64) -> String {
    let (value, unit) = match x.abs() {
        a if !a.is_finite() || a >= 1e15 => return format!("{x:.2e}"),
        a if a >= 1e12 => (x / 1e12, "T"),
        a if a >= 1e9 => (x / 1e9, "B"),
        a if a >= 1e6 => (x / 1e6, "M"),
        a if a >= 1e3 => (x / 1e3, "k"),
        _ => (x, ""),
    };
    let digits = match value.abs() {
        a if a >= 100.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 0.01 || a == 0.0 => 2,
        _ => return format!("{x:.1e}"),
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_at_a_glance() {
        assert_eq!([0.0, 0.004, 20.45, 147_200.0, 3.2e9].map(short), ["0.00", "4.0e-3", "20.4", "147k", "3.20B"]);
    }

    #[test]
    fn columns_stand_under_each_other() {
        let table = Table::new(&["law", "α"], [vec!["L(N)".to_owned(), "0.1".to_owned()]]);
        assert_eq!(table.plain(), "law     α\nL(N)  0.1\n");
        assert_eq!(table.markdown(), "| law | α |\n| --- | ---: |\n| L(N) | 0.1 |\n");
    }
}
