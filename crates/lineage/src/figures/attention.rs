//! Attention on a sentence, by the heads that do something.

use super::{FigureMaker, ReportFigure, source};
use crate::config::Chapter;
use crate::measured::{AttentionMaps, HeadWeights};
use gptkit_plot::{HeatMap, HeatMapPanel};
use serde_json::json;

/// Heads that are shown at most.
const SHOWN: usize = 4;
/// Share of the greatest possible entropy that a head must lack to be shown, unless none does.
const LEAST_FOCUS: f64 = 0.05;
/// Minimum excess over uniform attention for which a head is described.
const LEAST_EXCESS: f64 = 0.15;

/// How far a head is from an even spread: 1 − entropy / greatest entropy, mean over rows of two weights or more. 0 for an
/// even spread, 1 for a single token in each row.
fn focus(head: &HeadWeights) -> f64 {
    let row = |weights: &Vec<f64>| {
        let entropy: f64 = weights.iter().filter(|&&w| w > 0.0).map(|w| -w * w.ln()).sum();
        1.0 - entropy / (weights.len() as f64).ln()
    };
    let rows: Vec<f64> = head.weights.iter().filter(|weights| weights.len() > 1).map(row).collect();
    if rows.is_empty() { 0.0 } else { gptkit_stats::mean(&rows) }
}

/// The heads that are the farthest from an even spread, at most [`SHOWN`], in their order.
fn chosen(attention: &AttentionMaps) -> Vec<&HeadWeights> {
    let mut heads: Vec<(f64, &HeadWeights)> = attention.heads.iter().map(|head| (focus(head), head)).collect();
    heads.sort_by(|a, b| b.0.total_cmp(&a.0));
    let focused = heads.iter().take_while(|(focus, _)| *focus >= LEAST_FOCUS).count();
    let mut shown: Vec<&HeadWeights> = heads.into_iter().take(focused.clamp(1, SHOWN)).map(|(_, head)| head).collect();
    shown.sort_by_key(|head| (head.layer, head.head));
    shown
}

/// Describes a head from its weights: where it attends the most beyond an even spread.
fn what_it_does(head: &HeadWeights, tokens: &[String]) -> String {
    type Goal<'a> = (String, Box<dyn Fn(usize) -> Vec<usize> + 'a>);
    let equal = |a: &str, b: &str| a.trim().to_lowercase() == b.trim().to_lowercase();
    let mut goals: Vec<Goal> = vec![
        ("attends to the previous token".to_owned(), Box::new(|row| row.checked_sub(1).into_iter().collect())),
        ("attends to the first token".to_owned(), Box::new(|row| if row > 0 { vec![0] } else { Vec::new() })),
        ("attends to the token itself".to_owned(), Box::new(|row| vec![row])),
        (
            "attends to an earlier occurrence of the same token".to_owned(),
            Box::new(|row| (0..row).filter(|&column| equal(&tokens[column], &tokens[row])).collect()),
        ),
    ];
    // A single word that many rows attend to. The first token has its own goal.
    goals.extend((1..tokens.len().saturating_sub(1)).map(|column| {
        let name = format!("attends to “{}” from later tokens", tokens[column].trim());
        let of = move |row: usize| if row > column { vec![column] } else { Vec::new() };
        (name, Box::new(of) as Box<dyn Fn(usize) -> Vec<usize>>)
    }));
    let measured = |(name, of): &Goal| {
        let rows = head.weights.iter().enumerate().filter(|(row, weights)| weights.len() > 1 && *row < tokens.len());
        let found: Vec<(f64, f64)> = rows
            .filter_map(|(row, weights)| {
                let columns = of(row);
                let share: f64 = columns.iter().filter_map(|&column| weights.get(column)).sum();
                (!columns.is_empty()).then(|| (share, columns.len() as f64 / weights.len() as f64))
            })
            .collect();
        // Of one row nobody knows whether it is a habit.
        (found.len() > 1).then(|| {
            let mean = |part: fn(&(f64, f64)) -> f64| gptkit_stats::mean(&found.iter().map(part).collect::<Vec<_>>());
            (mean(|one| one.0), mean(|one| one.1), name.clone())
        })
    };
    let best = goals.iter().filter_map(measured).max_by(|a, b| (a.0 - a.1).total_cmp(&(b.0 - b.1)));
    match best {
        Some((share, even, name)) if share - even >= LEAST_EXCESS => {
            format!("{name}: {:.0}% of its attention ({:.0}% if attention were uniform)", 100.0 * share, 100.0 * even)
        }
        _ => "shows no clear pattern on this sentence".to_owned(),
    }
}

impl FigureMaker<'_> {
    pub(super) fn attention(&self) -> Option<ReportFigure> {
        let attention = self.measured.seeds.iter().find_map(|seed| seed.attention.as_ref())?;
        let (text, heads) = (attention.tokens.concat(), chosen(attention));
        let panel =
            |head: &&HeadWeights| HeatMapPanel { layer: head.layer, head: head.head, weights: head.weights.clone() };
        let map = HeatMap {
            label: format!("Attention weights of {} heads of GPT-1 for the text {text}", heads.len()),
            tokens: attention.tokens.clone(),
            panels: heads.iter().map(panel).collect(),
        };
        let note = |head: &&HeadWeights| {
            format!("Layer {} head {} {}.", head.layer, head.head, what_it_does(head, &attention.tokens))
        };
        Some(ReportFigure {
            chapter: Chapter::Transformer,
            title: format!("What each token of “{}” attends to", text.trim()),
            caption: format!(
                "GPT-1 has {} heads; {}. Each row is a token, and each column is a token that it can attend to: itself \
                 or an earlier one. A stronger color means a larger attention weight. Layers and heads are counted \
                 from 0.",
                attention.heads.len(),
                match heads.len() {
                    1 => "this one has the least uniform attention".to_owned(),
                    n => format!("these {n} have the least uniform attention"),
                }
            ),
            notes: heads.iter().map(note).collect(),
            chart: map.markup()?,
            source: source(self.measured, &["attention"], &json!({ "tokens": attention.tokens, "heads": heads })),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(number: usize, weight: impl Fn(usize, usize) -> f64) -> HeadWeights {
        let row = |row: usize| (0..=row).map(|column| weight(row, column)).collect();
        HeadWeights { layer: 0, head: number, weights: (0..5).map(row).collect() }
    }

    fn is(yes: bool) -> f64 {
        if yes { 1.0 } else { 0.0 }
    }

    #[test]
    fn the_least_even_heads_are_shown_in_their_order() {
        let even = |row: usize, _: usize| 1.0 / (row + 1) as f64;
        let first = |_: usize, column: usize| is(column == 0);
        let heads = vec![head(0, even), head(1, first), head(2, even), head(3, |row, column| is(row == column))];
        assert!(focus(&heads[0]).abs() < 1e-12 && (focus(&heads[1]) - 1.0).abs() < 1e-12);
        let attention = AttentionMaps { tokens: Vec::new(), heads };
        assert_eq!(chosen(&attention).iter().map(|head| head.head).collect::<Vec<_>>(), [1, 3]);
        let all_even = AttentionMaps { tokens: Vec::new(), heads: vec![head(0, even); 6] };
        assert_eq!(chosen(&all_even).len(), 1, "a page without a map would say nothing");
    }

    #[test]
    fn what_a_head_does_is_measured() {
        let tokens = ["a", " b", " c", " B", " c"].map(str::to_owned);
        let says = |weight: &dyn Fn(usize, usize) -> f64| what_it_does(&head(0, weight), &tokens);
        let before = says(&|row, column| is(column + 1 == row));
        assert!(before.starts_with("attends to the previous token: 100% of its attention"), "{before}");
        // 1/2, 1/3, 1/4 and 1/5.
        assert!(before.ends_with("(32% if attention were uniform)"), "{before}");
        assert!(says(&|_, column| is(column == 0)).starts_with("attends to the first token"));
        assert!(says(&|row, column| is(row == column)).starts_with("attends to the token itself"));
        let equal = says(&|row, column| if row < 3 { 1.0 / (row + 1) as f64 } else { is(column + 2 == row) });
        assert!(equal.starts_with("attends to an earlier occurrence of the same token: 100%"), "{equal}");
        let word = says(&|row, column| if row < 2 { 1.0 / (row + 1) as f64 } else { is(column == 1) });
        assert!(word.starts_with("attends to “b” from later tokens"), "{word}");
        assert_eq!(says(&|row, _| 1.0 / (row + 1) as f64), "shows no clear pattern on this sentence");
    }
}
