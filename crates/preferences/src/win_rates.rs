//! What was chosen, counted: win rates, places of a ranking, and how far two judges agree.

use gptkit_data::comparison::pairs;
use gptkit_feedback::choices::{Judge, Judgment};
use gptkit_stats::Share;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// How often one model's answer is the better.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WinRate {
    /// Prompts on which A's is.
    pub wins_of_a: u64,
    /// Prompts on which B's is.
    pub wins_of_b: u64,
    /// Prompts on which none is.
    pub ties: u64,
    /// How often A's is the better of two; ties count half. None when nothing was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a_over_b: Option<Share>,
    /// The same, counted from the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b_over_a: Option<Share>,
    /// How often the answer that was shown first was preferred, if people judged: near one half if the order has no
    /// influence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shown_first: Option<Share>,
}

/// What became of the rankings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RankingCounts {
    /// Prompts whose answers were ranked.
    pub groups: u64,
    /// Pairs of answers of which one is better.
    pub pairs: u64,
    /// Pairs that are tied.
    pub ties: u64,
}

/// What a judge said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeSummary {
    /// Who.
    #[serde(flatten)]
    pub judge: Judge,
    /// Prompts on which the judge said something, if only that it cannot be said.
    pub judged: u64,
    /// Those that were skipped, or that the judge cannot read.
    pub skipped: u64,
    /// Prompts whose answers are all identical, so that no person judged them.
    pub alike: u64,
    /// Of two models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub win_rate: Option<WinRate>,
    /// Of one model's answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rankings: Option<RankingCounts>,
    /// Mean of what the judge gives, if it gives numbers: A's and B's answers, or those of one model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_scores: Option<Vec<f64>>,
    /// Mean of what it gives the best and the worst of each prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_and_worst: Option<[f64; 2]>,
    /// Median seconds per choice, if people judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_seconds: Option<f64>,
}

impl JudgeSummary {
    /// From the choices of one judge; `are_two_models` tells A and B from answers of one model, and `alike` a prompt whose
    /// answers are all the same.
    pub fn of(judge: &Judge, choices: &[&Judgment], are_two_models: bool, alike: impl Fn(u64) -> bool) -> Self {
        let rankings: Vec<&[u32]> = choices.iter().filter_map(|choice| choice.ranking.as_deref()).collect();
        let scores: Vec<&[f64]> = choices.iter().filter_map(|choice| choice.scores.as_deref()).collect();
        let mut seconds: Vec<f64> = choices.iter().filter_map(|choice| choice.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let mean = |value: &dyn Fn(&[f64]) -> f64| scores.iter().map(|s| value(s)).sum::<f64>() / scores.len() as f64;
        let mean_scores = || match are_two_models {
            true => vec![mean(&|s| s[0]), mean(&|s| s[1])],
            false => vec![mean(&|s| s.iter().sum::<f64>() / s.len() as f64)],
        };
        let best = |s: &[f64]| s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let worst = |s: &[f64]| s.iter().copied().fold(f64::INFINITY, f64::min);
        Self {
            judge: judge.clone(),
            judged: choices.len() as u64,
            skipped: (choices.len() - rankings.len()) as u64,
            alike: choices.iter().filter(|choice| alike(choice.item)).count() as u64,
            win_rate: are_two_models.then(|| win_rate(choices)),
            rankings: (!are_two_models).then(|| count(&rankings)),
            mean_scores: (!scores.is_empty()).then(mean_scores),
            best_and_worst: (!scores.is_empty() && !are_two_models).then(|| [mean(&best), mean(&worst)]),
            median_seconds: seconds.get(seconds.len() / 2).copied(),
        }
    }
}

/// Counted from one side: 1 for a better place than the other's, a half for the same.
fn hit(own: u32, other: u32) -> f64 {
    if own < other { 1.0 } else { f64::from(u8::from(own == other)) / 2.0 }
}

fn share(hits: impl Iterator<Item = f64>) -> Option<Share> {
    let clusters: Vec<(f64, f64)> = hits.map(|hit| (hit, 1.0)).collect();
    (!clusters.is_empty()).then(|| Share::of(&clusters))
}

fn win_rate(choices: &[&Judgment]) -> WinRate {
    let both = |choice: &&&Judgment| match choice.ranking.as_deref() {
        Some(&[a, b]) => Some((a, b)),
        _ => None,
    };
    let judged: Vec<(u32, u32)> = choices.iter().filter_map(|choice| both(&choice)).collect();
    let first = |choice: &&Judgment| {
        let (a, b) = both(&choice)?;
        match choice.shown.as_deref()?.first()? {
            0 => Some(hit(a, b)),
            _ => Some(hit(b, a)),
        }
    };
    WinRate { shown_first: share(choices.iter().filter_map(first)), ..WinRate::of(&judged) }
}

impl WinRate {
    /// From the places of A's and B's answer to each prompt.
    pub fn of(judged: &[(u32, u32)]) -> Self {
        let n = |holds: fn(u32, u32) -> bool| judged.iter().filter(|&&(a, b)| holds(a, b)).count() as u64;
        Self {
            wins_of_a: n(|a, b| a < b),
            wins_of_b: n(|a, b| b < a),
            ties: n(|a, b| a == b),
            a_over_b: share(judged.iter().map(|&(a, b)| hit(a, b))),
            b_over_a: share(judged.iter().map(|&(a, b)| hit(b, a))),
            shown_first: None,
        }
    }
}

fn count(rankings: &[&[u32]]) -> RankingCounts {
    let told_apart = |places: &&[u32]| pairs(places).count() as u64;
    let all = |places: &&[u32]| (places.len() * places.len().saturating_sub(1) / 2) as u64;
    let pairs = rankings.iter().map(told_apart).sum();
    RankingCounts { groups: rankings.len() as u64, pairs, ties: rankings.iter().map(all).sum::<u64>() - pairs }
}

/// How far two judges agree (Ouyang et al. 2022, §3.4: 72.6% for trained labelers).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// The two.
    pub judges: [Judge; 2],
    /// Prompts that both judged.
    pub prompts: u64,
    /// How often they put two answers into the same order, of those that both told apart. None when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreed: Option<Share>,
    /// Pairs of answers that one of them told apart and the other did not.
    pub one_tied: u64,
    /// Pairs that none of them told apart.
    pub both_tied: u64,
}

/// Of all pairs of judges that have judged the same prompts; a pair of answers that say the same, as `alike` tells of a
/// prompt and two numbers, counts for nothing.
pub fn agreements(choices: &[Judgment], alike: impl Fn(u64, usize, usize) -> bool) -> Vec<Agreement> {
    let judges: BTreeSet<&Judge> = choices.iter().map(|choice| &choice.judge).collect();
    let of = |judge: &Judge| -> BTreeMap<u64, &[u32]> {
        let own = choices.iter().filter(|choice| choice.judge == *judge);
        own.filter_map(|choice| Some((choice.item, choice.ranking.as_deref()?))).collect()
    };
    let rankings: Vec<(&Judge, BTreeMap<u64, &[u32]>)> = judges.into_iter().map(|judge| (judge, of(judge))).collect();
    let mut found = Vec::new();
    for (i, (one, its)) in rankings.iter().enumerate() {
        for (other, others) in &rankings[i + 1..] {
            let (mut prompts, mut one_tied, mut both_tied) = (0, 0, 0);
            let mut clusters = Vec::new();
            for (&item, places) in its {
                let Some(theirs) = others.get(&item) else { continue };
                prompts += 1;
                let (mut agreed, mut n) = (0.0, 0.0);
                for a in 0..places.len() {
                    for b in (a + 1..places.len()).filter(|&b| !alike(item, a, b)) {
                        match (places[a].cmp(&places[b]), theirs[a].cmp(&theirs[b])) {
                            (x, y) if x.is_eq() && y.is_eq() => both_tied += 1,
                            (x, y) if x.is_eq() || y.is_eq() => one_tied += 1,
                            (x, y) => (agreed, n) = (agreed + f64::from(u8::from(x == y)), n + 1.0),
                        }
                    }
                }
                if n > 0.0 {
                    clusters.push((agreed, n));
                }
            }
            if prompts > 0 {
                let agreed = (!clusters.is_empty()).then(|| Share::of(&clusters));
                let judges = [(*one).clone(), (*other).clone()];
                found.push(Agreement { judges, prompts, agreed, one_tied, both_tied });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(who: &str) -> Judge {
        Judge { judge: "human".to_owned(), who: who.to_owned() }
    }

    fn choice(item: u64, who: &str, ranking: Option<&[u32]>) -> Judgment {
        let ranking = ranking.map(<[u32]>::to_vec);
        let at = "2024-05-01T10:00:00Z".to_owned();
        let (record, shown, seconds) = (None, Some(vec![1, 0]), Some(2.0));
        Judgment { record, item, judge: judge(who), at, ranking, scores: None, shown, seconds }
    }

    /// Five of eight to A, two to B, one tie: (5 + 0.5) / 8.
    #[test]
    fn a_win_rate_counts_ties_half_and_adds_up_from_both_sides() {
        let rankings: [&[u32]; 8] = [&[1, 2], &[1, 2], &[1, 2], &[1, 2], &[1, 2], &[2, 1], &[2, 1], &[1, 1]];
        let mut choices: Vec<Judgment> =
            rankings.iter().enumerate().map(|(i, places)| choice(i as u64, "ann", Some(places))).collect();
        choices.push(choice(8, "ann", None));
        let all: Vec<&Judgment> = choices.iter().collect();
        let verdict = JudgeSummary::of(&judge("ann"), &all, true, |item| item == 7);
        assert_eq!((verdict.judged, verdict.skipped, verdict.alike), (9, 1, 1));
        let rate = verdict.win_rate.unwrap();
        assert_eq!((rate.wins_of_a, rate.wins_of_b, rate.ties), (5, 2, 1));
        let (a, b) = (rate.a_over_b.unwrap(), rate.b_over_a.unwrap());
        assert_eq!((a.value, b.value), (5.5 / 8.0, 2.5 / 8.0));
        assert!((a.low + b.high - 1.0).abs() < 1e-12 && (a.high + b.low - 1.0).abs() < 1e-12);
        // The variance of the mean of 1×5, 0.5, 0×2 is that of n independent choices, at most 8, for whom Wilson's interval is.
        let squares = 5.0 * 0.3125_f64.powi(2) + 0.1875_f64.powi(2) + 2.0 * 0.6875_f64.powi(2);
        let n = (0.6875_f64 * 0.3125 / (squares / 7.0 / 8.0)).min(8.0);
        let z2_n = 1.96_f64.powi(2) / n;
        let low = (0.6875 + z2_n / 2.0 - (0.6875 * 0.3125 * z2_n + z2_n.powi(2) / 4.0).sqrt()) / (1.0 + z2_n);
        assert!((a.low - low).abs() < 1e-12, "{a}, by hand {low}");
        // B's was always shown first.
        assert_eq!(rate.shown_first.unwrap().value, 2.5 / 8.0);
        assert!(verdict.rankings.is_none() && verdict.mean_scores.is_none());
        assert_eq!(verdict.median_seconds, Some(2.0));
        let none = JudgeSummary::of(&judge("ann"), &[], true, |_| false);
        assert_eq!(none.win_rate.unwrap().a_over_b, None);
    }

    #[test]
    fn rankings_are_counted_in_pairs_and_scores_in_means() {
        let scored = |item, places: &[u32], scores: &[f64]| Judgment {
            scores: Some(scores.to_vec()),
            ..choice(item, "ann", Some(places))
        };
        let choices = [scored(0, &[1, 2, 2], &[3.0, 0.0, 0.0]), scored(1, &[3, 2, 1], &[-1.0, 0.0, 4.0])];
        let verdict = JudgeSummary::of(&judge("ann"), &choices.iter().collect::<Vec<_>>(), false, |_| false);
        assert_eq!(verdict.rankings, Some(RankingCounts { groups: 2, pairs: 5, ties: 1 }));
        assert_eq!(verdict.mean_scores, Some(vec![1.0]));
        assert_eq!(verdict.best_and_worst, Some([3.5, -0.5]));
    }

    /// By hand. Prompt 0: 1 < 2 < 3 and 1 < 3 < 2, two of three pairs the same way. Prompt 1: opposite. Prompt 2: a tie of
    /// one. Prompt 3: a tie of both, and a pair that says the same. Prompt 4: skipped by one.
    #[test]
    fn agreement_is_that_of_pairs_that_both_told_apart() {
        let choices = [
            choice(0, "ann", Some(&[1, 2, 3])),
            choice(0, "bob", Some(&[1, 3, 2])),
            choice(1, "ann", Some(&[1, 2])),
            choice(1, "bob", Some(&[2, 1])),
            choice(2, "ann", Some(&[1, 2])),
            choice(2, "bob", Some(&[1, 1])),
            choice(3, "ann", Some(&[1, 1, 1])),
            choice(3, "bob", Some(&[1, 1, 1])),
            choice(4, "ann", Some(&[1, 2])),
            choice(4, "bob", None),
            choice(9, "cleo", Some(&[1, 2])),
        ];
        let found = agreements(&choices, |item, a, b| item == 3 && (a, b) != (0, 1));
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(one.judges, [judge("ann"), judge("bob")]);
        assert_eq!((one.prompts, one.one_tied, one.both_tied), (4, 1, 1));
        let agreed = one.agreed.unwrap();
        assert_eq!((agreed.value, agreed.n), (2.0 / 4.0, 4));
    }
}
