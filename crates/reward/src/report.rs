//! What rewards are worth on comparisons that were held out.

use crate::group::Group;
use gptkit_stats::{Moments, Share};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// A prompt's completions as a reward model and labelers see them.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedPrompt {
    /// The place of each: 1 is the best, the same place a tie.
    pub places: Vec<u32>,
    /// What the model gives each.
    pub rewards: Vec<f32>,
    /// Tokens of each.
    pub lengths: Vec<usize>,
    /// What each is worth in truth, where it is known.
    pub gold: Option<Vec<f32>>,
}

impl RankedPrompt {
    /// `group` with the `rewards` of its completions, in their order.
    pub fn new(group: &Group, rewards: Vec<f32>) -> Self {
        Self {
            places: group.places.clone(),
            rewards,
            lengths: (0..group.len()).map(|i| group.length(i)).collect(),
            gold: group.gold.clone(),
        }
    }
}

/// Comparisons of one kind: how many completions the prompt has, how far their rewards are apart, how sure the model is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bin {
    /// From here.
    pub from: f64,
    /// Up to here; none when there is no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<f64>,
    /// Mean probability of the completion that the model prefers: σ of the difference of the rewards.
    pub predicted: f64,
    /// How often labelers prefer it.
    pub accuracy: Share,
}

/// What length alone does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LengthBias {
    /// R² of a line through rewards over tokens.
    pub explains: f64,
    /// The same with each prompt's mean taken out of both.
    pub explains_within_prompts: f64,
    /// How often the longer of two is preferred; equal ones count half.
    pub longer_wins: Share,
    /// Accuracy of who goes by length, longer or shorter, as was right more often in training.
    pub baseline: f64,
}

/// What a reward model is worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RewardReport {
    /// Prompts.
    pub n_prompts: u64,
    /// Mean loss, nats.
    pub loss: f64,
    /// How often the better completion of a pair has the higher reward; equal ones count half.
    pub accuracy: Share,
    /// The same by completions of the prompt.
    pub by_k: Vec<Bin>,
    /// The same by the difference of the rewards.
    pub by_gap: Vec<Bin>,
    /// Predicted probability against how often it is right.
    pub calibration: Vec<Bin>,
    /// Mean distance of the two, by pairs.
    pub calibration_error: f64,
    /// Rewards of those that are better than another of their prompt, each as often as it is.
    pub chosen: Moments,
    /// Rewards of those that are worse.
    pub rejected: Moments,
    /// What length alone does.
    pub length: LengthBias,
    /// Accuracy against the truth, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold_accuracy: Option<Share>,
    /// What the truth itself would reach against the labelers: nobody can do better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_ceiling: Option<Share>,
}

/// A pair for which labelers have a preference.
struct RankedPair {
    prompt: usize,
    k: usize,
    /// Reward of the better less that of the worse.
    ahead: f64,
}

impl RankedPair {
    fn hit(&self) -> f64 {
        hit(self.ahead)
    }

    /// Probability of the completion that the model prefers.
    fn sureness(&self) -> f64 {
        1.0 / (1.0 + (-self.ahead.abs()).exp())
    }
}

/// 1 when the difference is on the right side, a half for none.
fn hit(ahead: f64) -> f64 {
    if ahead > 0.0 { 1.0 } else { f64::from(u8::from(ahead == 0.0)) / 2.0 }
}

/// Pairs of each prompt by `value`: by how much the better one has more of it.
fn ahead<'a>(
    judged: &'a [RankedPrompt],
    value: impl Fn(&'a RankedPrompt, usize) -> f64 + Copy + 'a,
) -> impl Iterator<Item = (usize, f64)> + 'a {
    judged.iter().enumerate().flat_map(move |(prompt, one)| {
        gptkit_data::comparison::pairs(&one.places).map(move |(w, l)| (prompt, value(one, w) - value(one, l)))
    })
}

/// Hits and count by prompt.
fn clusters(pairs: impl Iterator<Item = (usize, f64)>) -> Vec<(f64, f64)> {
    let mut by_prompt: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (prompt, hit) in pairs {
        let (hits, n) = by_prompt.entry(prompt).or_default();
        (*hits, *n) = (*hits + hit, *n + 1.0);
    }
    by_prompt.into_values().collect()
}

/// How often the longer of two is preferred, of pairs given as places and tokens.
pub fn longer_wins<'a>(groups: impl Iterator<Item = (&'a [u32], &'a [usize])>) -> f64 {
    let (mut hits, mut n) = (0.0, 0.0);
    for (places, lengths) in groups {
        for (w, l) in gptkit_data::comparison::pairs(places) {
            hits += hit(lengths[w] as f64 - lengths[l] as f64);
            n += 1.0;
        }
    }
    hits / n
}

const GAPS: [f64; 5] = [0.0, 0.5, 1.0, 2.0, 4.0];
const SURENESS: [f64; 5] = [0.5, 0.6, 0.7, 0.8, 0.9];

impl RewardReport {
    /// From what was `judged`; `longer_won` is how often the longer of two was preferred in training. Nothing when no pair
    /// is told apart.
    pub fn of(judged: &[RankedPrompt], longer_won: f64) -> Option<Self> {
        let reward = |one: &RankedPrompt, i: usize| f64::from(one.rewards[i]);
        let pairs: Vec<RankedPair> = ahead(judged, reward)
            .map(|(prompt, ahead)| RankedPair { prompt, k: judged[prompt].places.len(), ahead })
            .collect();
        if pairs.is_empty() {
            return None;
        }
        let calibration = bins(&pairs, &SURENESS, RankedPair::sureness);
        let n = pairs.len() as f64;
        let off = |bin: &Bin| (bin.predicted - bin.accuracy.value).abs() * bin.accuracy.n as f64;
        let known = judged.iter().all(|one| one.gold.is_some());
        let gold = |one: &RankedPrompt, i: usize| f64::from(one.gold.as_ref().map_or(f32::NAN, |gold| gold[i]));
        let by_length = ahead(judged, |one, i| one.lengths[i] as f64).map(|(prompt, ahead)| (prompt, hit(ahead)));
        let longer_wins = Share::of(&clusters(by_length));
        let mut chosen = Vec::new();
        let mut rejected = Vec::new();
        for one in judged {
            for (w, l) in gptkit_data::comparison::pairs(&one.places) {
                chosen.push(reward(one, w));
                rejected.push(reward(one, l));
            }
        }
        Some(Self {
            n_prompts: judged.len() as u64,
            loss: mean_loss(judged),
            accuracy: Share::of(&clusters(pairs.iter().map(|pair| (pair.prompt, pair.hit())))),
            by_k: by_k(&pairs),
            by_gap: bins(&pairs, &GAPS, |pair| pair.ahead.abs()),
            calibration_error: calibration.iter().map(off).sum::<f64>() / n,
            calibration,
            chosen: Moments::of(chosen.iter().copied()),
            rejected: Moments::of(rejected.iter().copied()),
            length: LengthBias {
                explains: r_squared(&lengths_and_rewards(judged, false)),
                explains_within_prompts: r_squared(&lengths_and_rewards(judged, true)),
                longer_wins,
                baseline: if longer_won >= 0.5 { longer_wins.value } else { 1.0 - longer_wins.value },
            },
            gold_accuracy: known.then(|| gold_accuracy(judged)),
            noise_ceiling: known
                .then(|| Share::of(&clusters(ahead(judged, gold).map(|(prompt, ahead)| (prompt, hit(ahead)))))),
        })
    }

    /// The scores in a line.
    pub fn line(&self) -> String {
        let mut line = format!("accuracy {} of {} pairs", self.accuracy, self.accuracy.n);
        if let (Some(gold), Some(ceiling)) = (self.gold_accuracy, self.noise_ceiling) {
            line += &format!(
                " · agreement with the true ranking {gold} · best possible on these labels {:.1}%",
                100.0 * ceiling.value
            );
        }
        line += &format!(" · length baseline {:.1}%", 100.0 * self.length.baseline);
        line
    }
}

/// −log σ of each pair, averaged in each prompt and then over prompts, as in training.
fn mean_loss(judged: &[RankedPrompt]) -> f64 {
    let of = |one: &RankedPrompt| {
        let losses = gptkit_data::comparison::pairs(&one.places).map(|(w, l)| {
            let ahead = f64::from(one.rewards[w]) - f64::from(one.rewards[l]);
            (-ahead).max(0.0) + (-ahead.abs()).exp().ln_1p()
        });
        let (sum, n) = losses.fold((0.0, 0.0), |(sum, n), loss| (sum + loss, n + 1.0));
        (n > 0.0).then(|| sum / n)
    };
    let losses: Vec<f64> = judged.iter().filter_map(of).collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

fn bins(pairs: &[RankedPair], edges: &[f64], value: impl Fn(&RankedPair) -> f64) -> Vec<Bin> {
    let end = |i: usize| edges.get(i + 1).copied();
    let bin = |(i, &from): (usize, &f64)| {
        let within = |pair: &&RankedPair| value(pair) >= from && end(i).is_none_or(|to| value(pair) < to);
        let here: Vec<&RankedPair> = pairs.iter().filter(within).collect();
        let predicted = here.iter().map(|pair| pair.sureness()).sum::<f64>() / here.len() as f64;
        let accuracy = || Share::of(&clusters(here.iter().map(|pair| (pair.prompt, pair.hit()))));
        (!here.is_empty()).then(|| Bin { from, to: end(i), predicted, accuracy: accuracy() })
    };
    edges.iter().enumerate().filter_map(bin).collect()
}

fn by_k(pairs: &[RankedPair]) -> Vec<Bin> {
    let mut all: Vec<usize> = pairs.iter().map(|pair| pair.k).collect();
    all.sort_unstable();
    all.dedup();
    let edges: Vec<f64> = all.iter().map(|&k| k as f64).collect();
    bins(pairs, &edges, |pair| pair.k as f64).into_iter().map(|bin| Bin { to: None, ..bin }).collect()
}

/// How often rewards order two completions as the truth does, of all that the truth tells apart.
fn gold_accuracy(judged: &[RankedPrompt]) -> Share {
    let pairs = judged.iter().enumerate().flat_map(|(prompt, one)| {
        let gold = one.gold.as_deref().unwrap_or_default();
        let n = gold.len();
        (0..n)
            .flat_map(move |i| (0..n).filter(move |&j| gold[i] > gold[j]).map(move |j| (i, j)))
            .map(move |(i, j)| (prompt, hit(f64::from(one.rewards[i]) - f64::from(one.rewards[j]))))
    });
    Share::of(&clusters(pairs))
}

fn lengths_and_rewards(judged: &[RankedPrompt], within: bool) -> Vec<(f64, f64)> {
    let of = |one: &RankedPrompt| {
        let points: Vec<(f64, f64)> =
            one.lengths.iter().zip(&one.rewards).map(|(&n, &r)| (n as f64, f64::from(r))).collect();
        if !within {
            return points;
        }
        let x = Moments::of(points.iter().map(|p| p.0)).mean;
        let y = Moments::of(points.iter().map(|p| p.1)).mean;
        points.iter().map(|p| (p.0 - x, p.1 - y)).collect()
    };
    judged.iter().flat_map(of).collect()
}

/// The share of the variance of y that a line over x explains; 0 when one of them does not vary.
fn r_squared(points: &[(f64, f64)]) -> f64 {
    let x = Moments::of(points.iter().map(|p| p.0));
    let y = Moments::of(points.iter().map(|p| p.1));
    let together: f64 = points.iter().map(|p| (p.0 - x.mean) * (p.1 - y.mean)).sum::<f64>() / points.len() as f64;
    let both = x.std * y.std;
    if both > 0.0 { (together / both).powi(2) } else { 0.0 }
}

impl fmt::Display for RewardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |bin: &Bin, digits: usize| match bin.to {
            Some(to) => format!("{:.digits$} to {to:.digits$}", bin.from),
            None => format!("{:.digits$} or more", bin.from),
        };
        writeln!(f, "{:<24}{:>8}  {:<22}{:>10}", "", "pairs", "accuracy", "predicted")?;
        let mut row = |name: &str, bin: &Bin| {
            let Bin { predicted, accuracy, .. } = bin;
            writeln!(f, "{name:<24}{:>8}  {:<22}{:>9.1}%", accuracy.n, accuracy.to_string(), 100.0 * predicted)
        };
        for bin in &self.by_k {
            row(&format!("{} completions", bin.from), bin)?;
        }
        for bin in &self.by_gap {
            row(&format!("reward gap {}", range(bin, 1)), bin)?;
        }
        for bin in &self.calibration {
            row(&format!("probability {}", range(bin, 1)), bin)?;
        }
        let LengthBias { explains, explains_within_prompts, longer_wins, .. } = self.length;
        writeln!(
            f,
            "rewards: chosen {:.2} ± {:.2}, rejected {:.2} ± {:.2} · calibration error {:.1} points",
            self.chosen.mean,
            self.chosen.std,
            self.rejected.mean,
            self.rejected.std,
            100.0 * self.calibration_error
        )?;
        writeln!(
            f,
            "length explains {:.1}% of the reward variance ({:.1}% within prompts) · the longer completion is \
             preferred in {longer_wins}",
            100.0 * explains,
            100.0 * explains_within_prompts
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(places: &[u32], rewards: &[f32], lengths: &[usize], gold: Option<&[f32]>) -> RankedPrompt {
        RankedPrompt {
            places: places.to_vec(),
            rewards: rewards.to_vec(),
            lengths: lengths.to_vec(),
            gold: gold.map(<[f32]>::to_vec),
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    /// Three prompts: 2 of 3 pairs right, 1 of 1 right, 1 of 1 tied in the model.
    fn three() -> Vec<RankedPrompt> {
        vec![
            judged(&[1, 2, 3], &[2.0, 2.5, 0.0], &[5, 3, 1], Some(&[3.0, 2.0, 1.0])),
            judged(&[2, 1], &[0.0, 1.0], &[4, 4], Some(&[1.0, 0.0])),
            judged(&[1, 2, 2], &[1.0, 1.0, 0.2], &[1, 2, 1], Some(&[1.0, 1.0, 0.0])),
        ]
    }

    #[test]
    fn accuracy_counts_pairs_and_ties_of_the_model_half() {
        let report = RewardReport::of(&three(), 0.4).unwrap();
        // Pairs: (2.0, 2.5) wrong, (2.0, 0.0) right, (2.5, 0.0) right; right; tied, (1.0, 0.2) right.
        assert!(near(report.accuracy.value, 4.5 / 6.0), "{report:?}");
        assert_eq!((report.n_prompts, report.accuracy.n), (3, 6));
        assert_eq!(report.by_k.iter().map(|bin| (bin.from, bin.accuracy.n)).collect::<Vec<_>>(), [(2.0, 1), (3.0, 5)]);
        assert_eq!(report.by_gap.iter().map(|bin| bin.accuracy.n).collect::<Vec<_>>(), [1, 2, 1, 2]);
        // Longer: 3 of 3, a half, then shorter, a half.
        assert!(near(report.length.longer_wins.value, 4.0 / 6.0));
        assert!(near(report.length.baseline, 2.0 / 6.0), "training said that the shorter wins");
        // The truth: all three right of the labelers' first, none of the second, a half and right of the third.
        assert!(near(report.noise_ceiling.unwrap().value, 4.5 / 6.0));
        // Of the truth's six pairs: two of three, none, and both: the rewards 1.0 and 1.0 against 0.2.
        assert!(near(report.gold_accuracy.unwrap().value, 4.0 / 6.0), "{:?}", report.gold_accuracy);
    }

    #[test]
    fn bins_hold_what_the_model_says_beside_what_came_true() {
        // Two pairs that the model is sure of by σ(1), one of them right.
        let all = [judged(&[1, 2], &[1.0, 0.0], &[1, 1], None), judged(&[1, 2], &[0.0, 1.0], &[1, 1], None)];
        let report = RewardReport::of(&all, 0.5).unwrap();
        let [bin] = report.calibration.as_slice() else { panic!("{report:?}") };
        let sigma = 1.0 / (1.0 + (-1f64).exp());
        assert!(near(bin.predicted, sigma) && near(bin.accuracy.value, 0.5) && (bin.from, bin.to) == (0.7, Some(0.8)));
        assert!(near(report.calibration_error, sigma - 0.5));
        let loss = ((1.0 + (-1f64).exp()).ln() + (1.0 + 1f64.exp()).ln()) / 2.0;
        assert!(near(report.loss, loss), "{} {loss}", report.loss);
        assert!(near(report.chosen.mean, 0.5) && near(report.chosen.std, 0.5));
        assert_eq!((report.length.explains, report.gold_accuracy), (0.0, None));
    }

    #[test]
    fn length_explains_all_of_what_is_a_line_of_it() {
        let all: Vec<RankedPrompt> =
            (1..6).map(|i| judged(&[1, 2], &[i as f32, 2.0 * i as f32], &[i, 2 * i], None)).collect();
        let report = RewardReport::of(&all, 0.5).unwrap();
        assert!(near(report.length.explains, 1.0) && near(report.length.explains_within_prompts, 1.0));
    }

    #[test]
    fn nothing_told_apart_makes_no_report() {
        assert!(RewardReport::of(&[judged(&[1, 1], &[0.0, 1.0], &[1, 1], None)], 0.5).is_none());
        assert!(RewardReport::of(&[], 0.5).is_none());
    }
}
