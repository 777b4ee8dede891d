//! Predictions against truth.
//!
//! What GLUE reports of a task (Wang et al. 2019, table 1): accuracy, F1, Matthews and Pearson and Spearman correlation;
//! GPT-1's table 4 has the same columns. A score of no examples is NaN, never 0 or 1: nothing was measured.

use gptkit_data::text_table::aligned;
use gptkit_stats::mean;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// How often each label was predicted for each true one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion {
    labels: Vec<String>,
    /// Row: the true label; column: the predicted one.
    counts: Vec<Vec<u64>>,
}

/// What a label's predictions are worth; each from 0 to 1, and 0 where it would divide by 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LabelScores {
    /// Share of the predictions of this label that are true.
    pub precision: f64,
    /// Share of the examples of this label that were found.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Examples that have this label in truth.
    pub n_true: u64,
}

impl Confusion {
    /// Counts `predicted` against `truth`, both numbers of `labels`, one an example.
    ///
    /// # Panics
    /// When the lengths differ, or a number is of no label.
    pub fn new(labels: &[impl ToString], truth: &[usize], predicted: &[usize]) -> Self {
        assert_eq!(truth.len(), predicted.len(), "one prediction per example");
        let n = labels.len();
        let mut counts = vec![vec![0; n]; n];
        for (&t, &p) in truth.iter().zip(predicted) {
            assert!(t < n && p < n, "label {} of {n}", t.max(p));
            counts[t][p] += 1;
        }
        Self { labels: labels.iter().map(ToString::to_string).collect(), counts }
    }

    /// The same from what was counted before: by true and predicted label, both numbers of `labels`.
    ///
    /// # Panics
    /// When a number is of no label.
    pub fn of_counts(labels: &[impl ToString], counted: &BTreeMap<(usize, usize), u64>) -> Self {
        let mut confusion = Self::new(labels, &[], &[]);
        for (&(t, p), &n) in counted {
            assert!(t.max(p) < labels.len(), "label {} of {}", t.max(p), labels.len());
            confusion.counts[t][p] = n;
        }
        confusion
    }

    /// Names of the labels.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Examples of the label `truth` that were taken for `predicted`.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts[truth][predicted]
    }

    /// Examples.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Share of the examples whose label was found.
    pub fn accuracy(&self) -> f64 {
        self.correct() as f64 / self.total() as f64
    }

    /// Share of the likeliest label in truth: the accuracy of who always says that one.
    pub fn majority_share(&self) -> f64 {
        self.n_true().into_iter().max().unwrap_or(0) as f64 / self.total() as f64
    }

    /// Scores of each label, in their order.
    pub fn label_scores(&self) -> Vec<LabelScores> {
        let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
        let of_label = |(i, (n_true, n_predicted)): (usize, (u64, u64))| {
            let hits = self.counts[i][i];
            LabelScores {
                precision: share(hits, n_predicted),
                recall: share(hits, n_true),
                f1: share(2 * hits, n_true + n_predicted), // 2PR / (P + R)
                n_true,
            }
        };
        self.n_true().into_iter().zip(self.n_predicted()).enumerate().map(of_label).collect()
    }

    /// Mean F1 of the labels that are in truth or predictions, each counting the same.
    pub fn macro_f1(&self) -> f64 {
        let seen = self.label_scores().into_iter().zip(self.n_predicted());
        let f1: Vec<f64> = seen.filter(|(s, n_predicted)| s.n_true + n_predicted > 0).map(|(s, _)| s.f1).collect();
        mean(&f1)
    }

    /// Matthews correlation, from −1 to 1, for any number of labels (R_K of Gorodkin 2004, eq. 8; with two labels
    /// Matthews 1975). 0 where one label alone is in truth or predictions: they say nothing about each other.
    ///
    /// With s examples, c of them correct, t_k of label k in truth and p_k in predictions:
    /// (c·s − Σ t_k p_k) / √((s² − Σ t_k²) (s² − Σ p_k²)).
    pub fn matthews(&self) -> f64 {
        let (truth, predicted) = (self.n_true(), self.n_predicted());
        // In integers, so that what is 0 is exactly 0.
        let dot = |a: &[u64], b: &[u64]| a.iter().zip(b).map(|(&a, &b)| i128::from(a) * i128::from(b)).sum::<i128>();
        let (n, correct) = (i128::from(self.total()), i128::from(self.correct()));
        if n == 0 {
            return f64::NAN;
        }
        let of_truth = n * n - dot(&truth, &truth);
        let of_predictions = n * n - dot(&predicted, &predicted);
        if of_truth == 0 || of_predictions == 0 {
            return 0.0;
        }
        let together = correct * n - dot(&truth, &predicted);
        (together as f64 / ((of_truth as f64).sqrt() * (of_predictions as f64).sqrt())).clamp(-1.0, 1.0)
    }

    fn correct(&self) -> u64 {
        (0..self.labels.len()).map(|i| self.counts[i][i]).sum()
    }

    fn n_true(&self) -> Vec<u64> {
        self.counts.iter().map(|row| row.iter().sum()).collect()
    }

    fn n_predicted(&self) -> Vec<u64> {
        (0..self.labels.len()).map(|p| self.counts.iter().map(|row| row[p]).sum()).collect()
    }
}

/// A table: a row for each true label with what it was taken for and its recall, then each column's precision.
impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let scores = self.label_scores();
        let names: Vec<String> = self.labels.iter().map(|name| shortened(name)).collect();
        let mut rows = vec![[vec!["truth \\ predicted".to_owned()], names.clone(), vec!["recall".to_owned()]].concat()];
        for ((name, counts), score) in names.iter().zip(&self.counts).zip(&scores) {
            let counts = counts.iter().map(u64::to_string).collect();
            rows.push([vec![name.clone()], counts, vec![percent(score.recall)]].concat());
        }
        let precisions = scores.iter().map(|score| percent(score.precision)).collect();
        rows.push([vec!["precision".to_owned()], precisions, vec![percent(self.accuracy())]].concat());
        f.write_str(&aligned(&rows, 1))
    }
}

/// At most 16 characters of a label's name, so that a column stays a column.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 16;
    let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if name.chars().count() <= LONGEST {
        return name;
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// Mean of the squared differences.
///
/// # Panics
/// When the lengths differ.
pub fn mean_squared_error(truth: &[f64], predicted: &[f64]) -> f64 {
    assert_eq!(truth.len(), predicted.len(), "one prediction per example");
    let squares: Vec<f64> = truth.iter().zip(predicted).map(|(t, p)| (t - p).powi(2)).collect();
    mean(&squares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAN: f64 = f64::NAN;

    #[track_caller]
    fn assert_near(have: f64, want: f64) {
        assert!((have - want).abs() < 1e-12, "{have} is not {want}");
    }

    fn confusion(n: usize, truth: &[usize], predicted: &[usize]) -> Confusion {
        let labels: Vec<usize> = (0..n).collect();
        Confusion::new(&labels, truth, predicted)
    }

    /// Two labels by hand: of 10 examples 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
    #[test]
    fn two_labels_agree_with_the_definitions() {
        let truth = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0];
        let predicted = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0];
        let two = confusion(2, &truth, &predicted);
        assert_eq!((two.count(1, 1), two.count(0, 1), two.count(1, 0), two.count(0, 0)), (3, 1, 2, 4));
        assert_near(two.accuracy(), 0.7);
        assert_near(two.majority_share(), 0.5);
        let positive = two.label_scores()[1];
        assert_near(positive.precision, 3.0 / 4.0);
        assert_near(positive.recall, 3.0 / 5.0);
        assert_near(positive.f1, 2.0 * 0.75 * 0.6 / (0.75 + 0.6));
        // Matthews 1975: (TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN)).
        assert_near(two.matthews(), (3.0 * 4.0 - 1.0 * 2.0) / (4.0f64 * 5.0 * 5.0 * 6.0).sqrt());
    }

    /// Reference: scikit-learn 1.9.1, `precision_recall_fscore_support`, `f1_score(average="macro")`,
    /// `matthews_corrcoef`.
    #[test]
    fn three_labels_agree_with_the_reference() {
        let truth = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2];
        let predicted = [0, 0, 1, 2, 1, 1, 0, 2, 2, 1, 2, 0];
        let three = confusion(3, &truth, &predicted);
        assert_near(three.accuracy(), 0.583_333_333_333_333_4);
        let want = [
            (0.5, 0.5, 0.5, 4),
            (0.5, 0.666_666_666_666_666_6, 0.571_428_571_428_571_4, 3),
            (0.75, 0.6, 0.666_666_666_666_666_6, 5),
        ];
        for (have, (precision, recall, f1, n_true)) in three.label_scores().into_iter().zip(want) {
            assert_near(have.precision, precision);
            assert_near(have.recall, recall);
            assert_near(have.f1, f1);
            assert_eq!(have.n_true, n_true);
        }
        assert_near(three.macro_f1(), 0.579_365_079_365_079_4);
        assert_near(three.matthews(), 0.378_968_364_479_933_54);
    }

    /// Reference: scikit-learn 1.9.1; it takes the mean over labels that are in truth or predictions.
    #[test]
    fn labels_never_predicted_have_zeros_and_labels_never_seen_do_not_count() {
        let some = confusion(4, &[0, 0, 1, 1, 2, 2], &[0, 0, 0, 2, 2, 2]);
        let scores = some.label_scores();
        assert_eq!((scores[1].precision, scores[1].recall, scores[1].f1), (0.0, 0.0, 0.0));
        assert_eq!(scores[3], LabelScores { precision: 0.0, recall: 0.0, f1: 0.0, n_true: 0 });
        assert_near(some.macro_f1(), 0.533_333_333_333_333_3);
        assert_near(some.matthews(), 0.577_350_269_189_625_7);
    }

    /// Reference: scikit-learn 1.9.1.
    #[test]
    fn matthews_is_zero_where_one_label_says_nothing() {
        for (truth, predicted, matthews, f1) in [
            ([0, 0, 0], [0, 0, 0], 0.0, 1.0),
            ([0, 0, 1], [0, 0, 0], 0.0, 0.4),
            ([1, 1, 1], [0, 1, 0], 0.0, 0.25),
            ([0, 1, 0], [1, 0, 1], -1.0, 0.0),
        ] {
            let two = confusion(2, &truth, &predicted);
            assert_near(two.matthews(), matthews);
            assert_near(two.macro_f1(), f1);
        }
    }

    #[test]
    fn scores_of_nothing_are_no_numbers() {
        let none = confusion(2, &[], &[]);
        for score in [none.accuracy(), none.majority_share(), none.macro_f1(), none.matthews()] {
            assert!(score.is_nan(), "{score}");
        }
        assert!(mean_squared_error(&[], &[]).is_nan());
        assert!(mean_squared_error(&[NAN], &[0.0]).is_nan());
        assert!(none.to_string().contains("NaN%"), "{none}");
    }

    /// Reference: scikit-learn 1.9.1, `mean_squared_error`.
    #[test]
    fn the_mean_squared_error_agrees_with_the_reference() {
        let x = [3.0, 1.5, 4.0, 1.5, 5.0, 2.5, 0.0, 3.0];
        let y = [2.8, 1.0, 5.0, 2.0, 4.5, 2.0, 0.5, 2.0];
        assert_near(mean_squared_error(&x, &y), 0.41125);
    }

    #[test]
    #[should_panic(expected = "label 2 of 2")]
    fn a_number_of_no_label_is_refused() {
        confusion(2, &[0], &[2]);
    }

    #[test]
    fn the_table_has_rows_of_truth_and_columns_of_predictions() {
        let labels = ["yes", "no", "a label that has a long name"];
        let table = Confusion::new(&labels, &[0, 0, 0, 1, 2, 2], &[0, 0, 1, 1, 2, 0]).to_string();
        let want = "\
            truth \\ predicted    yes     no  a label that ha…  recall\n\
            yes                    2      1                 0   66.7%\n\
            no                     0      1                 0  100.0%\n\
            a label that ha…       1      0                 1   50.0%\n\
            precision          66.7%  50.0%            100.0%   66.7%\n";
        assert_eq!(table, want, "\n{table}");
    }

    /// Examples of up to four labels.
    fn examples() -> impl Strategy<Value = Vec<(usize, usize)>> {
        prop::collection::vec((0..4usize, 0..4usize), 1..40)
    }

    proptest! {
        #[test]
        fn the_names_of_labels_do_not_matter(examples in examples(), order in Just(vec![0, 1, 2, 3]).prop_shuffle()) {
            let (truth, predicted): (Vec<usize>, Vec<usize>) = examples.into_iter().unzip();
            let renamed = |labels: &[usize]| labels.iter().map(|&label| order[label]).collect::<Vec<_>>();
            let one = confusion(4, &truth, &predicted);
            let other = confusion(4, &renamed(&truth), &renamed(&predicted));
            for score in
                [Confusion::accuracy, Confusion::majority_share, Confusion::macro_f1, Confusion::matthews]
            {
                prop_assert!((score(&one) - score(&other)).abs() < 1e-12);
            }
        }

        #[test]
        fn scores_of_labels_keep_their_bounds(examples in examples()) {
            let (truth, predicted): (Vec<usize>, Vec<usize>) = examples.into_iter().unzip();
            let confusion = confusion(4, &truth, &predicted);
            prop_assert_eq!(confusion.total(), truth.len() as u64);
            for share in [confusion.accuracy(), confusion.majority_share(), confusion.macro_f1()] {
                prop_assert!((0.0..=1.0).contains(&share), "{}", share);
            }
            prop_assert!((-1.0..=1.0).contains(&confusion.matthews()));
            for (label, score) in confusion.label_scores().iter().enumerate() {
                let (low, high) = (score.precision.min(score.recall), score.precision.max(score.recall));
                prop_assert!(score.f1 >= low - 1e-12 && score.f1 <= high + 1e-12, "{} {:?}", label, score);
            }
        }

        #[test]
        fn what_is_all_right_has_every_score_at_its_best(truth in prop::collection::vec(0..4usize, 1..40)) {
            let confusion = confusion(4, &truth, &truth);
            prop_assert_eq!(confusion.accuracy(), 1.0);
            prop_assert_eq!(confusion.macro_f1(), 1.0);
            let one_label = truth.iter().all(|&label| label == truth[0]);
            let best = if one_label { 0.0 } else { 1.0 };
            prop_assert!((confusion.matthews() - best).abs() < 1e-12);
        }
    }
}
