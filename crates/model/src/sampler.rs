//! Logits → token.

use gptkit_config::{Check, Problems};
use gptkit_ops::exponentials;
use gptkit_rng::keyed::{Draw, Key, uniform};
use std::borrow::Cow;
use std::collections::HashMap;

/// How a token is chosen. The settings act in the order of the fields, as in `transformers` and vLLM.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Is added to the logits of these tokens. A token may be named once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides the logits of tokens seen before when positive, multiplies them when negative (Keskar et al. 2019,
    /// §4.1); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Is subtracted from the logit of a token for each time that the continuation has it; the prompt does not count
    /// (OpenAI's formula).
    pub frequency_penalty: f32,
    /// Is subtracted once from the logit of each token that the continuation has.
    pub presence_penalty: f32,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the `k` likeliest tokens (Fan et al. 2018).
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability (Holtzman et al. 2020).
    pub top_p: Option<f32>,
    /// Only tokens at least this share as likely as the likeliest.
    pub min_p: Option<f32>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            seed: 1,
        }
    }
}

impl Sampling {
    /// Whether logits change before the temperature divides them.
    pub fn adjusts(&self) -> bool {
        let penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty);
        penalties != (1.0, 0.0, 0.0) || !self.logit_bias.is_empty()
    }

    /// Whether only some tokens may be drawn.
    fn filters(&self) -> bool {
        self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some()
    }
}

impl Check for Sampling {
    fn check(&self, problems: &mut Problems) {
        let penalty = self.repetition_penalty;
        problems.require(
            penalty > 0.0 && penalty.is_finite(),
            "repetition-penalty",
            format!("{penalty} must be positive"),
            "use 1.1",
        );
        let penalties =
            [("frequency-penalty", self.frequency_penalty, 2.0), ("presence-penalty", self.presence_penalty, 2.0)];
        let biases = self.logit_bias.iter().map(|&(_, bias)| ("logit-bias", bias, 100.0));
        for (key, value, limit) in penalties.into_iter().chain(biases) {
            let range = format!("{value} must be from -{limit} to {limit}");
            problems.require(value.abs() <= limit, key, range, "0 changes nothing");
        }
        let t = self.temperature;
        problems.require(
            t >= 0.0 && t.is_finite(),
            "temperature",
            format!("{t} must be 0 or greater, and finite"),
            "0 is greedy decoding; 1 samples from the model's distribution",
        );
        problems.require(self.top_k != Some(0), "top-k", "0 must be positive", "omit it to use all tokens");
        for (key, p, usual) in [("top-p", self.top_p, "use 0.9"), ("min-p", self.min_p, "use 0.05")] {
            let p = p.unwrap_or(1.0);
            problems.require(p > 0.0 && p <= 1.0, key, format!("{p} must be above 0 and at most 1"), usual);
        }
    }
}

/// The log-probability that the model itself gives each token: before penalty, temperature and filters.
/// `logits`: `[V]`; so is the result, in nats.
pub fn log_probs(logits: &[f32]) -> Vec<f32> {
    let normalizer = Normalizer::of(logits);
    logits.iter().map(|&v| normalizer.log_prob(v)).collect()
}

/// What turns logits into log-probabilities.
#[derive(Debug, Clone, Copy)]
pub struct Normalizer {
    /// The largest logit.
    max: f32,
    /// ln Σ exp(logit − max).
    log_sum: f64,
}

impl Normalizer {
    /// The normalizer of `logits`, `[V]`.
    pub fn of(logits: &[f32]) -> Self {
        let max = largest(logits);
        Self { max, log_sum: WeightSums::of(logits, max, 1.0).total.ln() }
    }

    /// The log-probability of a token with this logit, nats.
    pub fn log_prob(&self, logit: f32) -> f32 {
        (f64::from(logit - self.max) - self.log_sum) as f32
    }
}

/// exp((logit − max) / temperature) of each logit.
fn weights(logits: &[f32], max: f32, temperature: f32) -> Vec<f64> {
    let mut weights = vec![0.0; logits.len()];
    exponentials(logits, max, temperature, &mut weights);
    weights
}

/// The sum of `weights`, in an order that depends on their number alone.
fn total(weights: &[f64]) -> f64 {
    let mut sums = LaneSums::default();
    sums.add(weights);
    sums.total()
}

/// Sums of each eighth number, side by side, as vectors add them; and the numbers after the last eight.
#[derive(Default)]
struct LaneSums {
    lanes: [f64; 8],
    rest: Vec<f64>,
}

impl LaneSums {
    /// Adds numbers, as many as a multiple of 8 but for the last ones.
    fn add(&mut self, numbers: &[f64]) {
        let (chunks, rest) = numbers.as_chunks::<8>();
        for chunk in chunks {
            self.lanes.iter_mut().zip(chunk).for_each(|(lane, number)| *lane += number);
        }
        self.rest.extend(rest);
    }

    fn total(&self) -> f64 {
        self.lanes.iter().chain(&self.rest).sum()
    }
}

fn largest(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// A token that is chosen: what its draw depends on besides the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenPosition {
    /// Number of the prompt that is continued.
    pub prompt: u32,
    /// Number of the continuation among those of the prompt.
    pub sample: u32,
    /// Number of the token in the continuation.
    pub position: u32,
}

/// A token that was chosen.
#[derive(Debug, Clone, Copy)]
pub struct ChosenToken {
    /// Its id.
    pub token: u32,
    /// The normalizer of the logits, where the draw has summed it already: at temperature 1 without penalty and filters.
    pub normalizer: Option<Normalizer>,
}

/// Chooses the token at `place` from its `logits` (`[V]`), after the tokens `seen`: the prompt, and the tokens of the
/// continuation before `place`.
pub fn choose(logits: &[f32], seen: &[u32], sampling: &Sampling, place: TokenPosition) -> ChosenToken {
    let continuation = &seen[seen.len().saturating_sub(place.position as usize)..];
    let adjusted = adjusted(logits, seen, continuation, sampling);
    let (logits, as_they_are) = (adjusted.as_ref(), matches!(adjusted, Cow::Borrowed(_)));
    if sampling.temperature == 0.0 {
        return ChosenToken { token: likeliest(logits), normalizer: None };
    }
    let (max, temperature) = (largest(logits), sampling.temperature);
    let TokenPosition { prompt, sample, position } = place;
    let key = Key { seed: sampling.seed, draw: Draw::Token { sample } };
    let drawn = uniform(key, (u64::from(prompt) << 32) | u64::from(position));
    if sampling.filters() {
        let weights = weights(logits, max, temperature);
        let all = total(&weights);
        if all.is_nan() {
            return ChosenToken { token: damaged(logits), normalizer: None };
        }
        let candidates = candidates(&weights, all, sampling);
        let weights: Vec<f64> = candidates.iter().map(|c| c.1).collect();
        let drawn = number_at(&weights, f64::from(drawn) * total(&weights));
        return ChosenToken { token: candidates.get(drawn).map_or(0, |c| c.0), normalizer: None };
    }
    let sums = WeightSums::of(logits, max, temperature);
    let token = sums.draw(logits, drawn) as u32;
    let own = as_they_are && temperature == 1.0;
    ChosenToken { token, normalizer: own.then(|| Normalizer { max, log_sum: sums.total.ln() }) }
}

/// Sums of the weights exp((logit − max) / temperature). The weights are computed part by part and not stored, because
/// writing a list of all of them to memory takes time.
struct WeightSums {
    max: f32,
    temperature: f32,
    /// The sum of each part of [`WeightSums::PART`] weights.
    parts: Vec<f64>,
    total: f64,
}

impl WeightSums {
    const PART: usize = 512;

    fn of(logits: &[f32], max: f32, temperature: f32) -> Self {
        let (mut weights, mut all) = ([0.0; Self::PART], LaneSums::default());
        let sum = |logits: &[f32]| {
            let weights = &mut weights[..logits.len()];
            exponentials(logits, max, temperature, weights);
            all.add(weights);
            total(weights)
        };
        let parts = logits.chunks(Self::PART).map(sum).collect();
        Self { max, temperature, parts, total: all.total() }
    }

    /// The number of the weight in which the share `drawn` of the total lies.
    fn draw(&self, logits: &[f32], drawn: f32) -> usize {
        let mut left = f64::from(drawn) * self.total;
        if left.is_nan() {
            return damaged(logits) as usize;
        }
        for (first, (logits, &sum)) in logits.chunks(Self::PART).zip(&self.parts).enumerate() {
            if left < sum {
                return first * Self::PART + number_at(&weights(logits, self.max, self.temperature), left);
            }
            left -= sum;
        }
        logits.len() - 1 // rounding left a crumb
    }
}

/// The number of the weight in which `left`, a part of their sum, lies.
fn number_at(weights: &[f64], mut left: f64) -> usize {
    let mut last = 0;
    for (i, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        left -= weight;
        last = i;
        if left < 0.0 {
            break;
        }
    }
    last // the last that has any, where rounding left a crumb
}

/// `logits` with bias and penalties, after the tokens `seen`, of which the last are the `continuation`.
fn adjusted<'a>(logits: &'a [f32], seen: &[u32], continuation: &[u32], sampling: &Sampling) -> Cow<'a, [f32]> {
    if !sampling.adjusts() {
        return Cow::Borrowed(logits);
    }
    let mut logits = logits.to_vec();
    for &(token, bias) in &sampling.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if sampling.repetition_penalty != 1.0 {
        let penalty = sampling.repetition_penalty;
        for token in counts(seen).into_keys() {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }
    if (sampling.frequency_penalty, sampling.presence_penalty) != (0.0, 0.0) {
        for (token, count) in counts(continuation) {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit -= count as f32 * sampling.frequency_penalty + sampling.presence_penalty;
            }
        }
    }
    Cow::Owned(logits)
}

/// How often each of `tokens` is there.
fn counts(tokens: &[u32]) -> HashMap<u32, u32> {
    let mut counts = HashMap::new();
    tokens.iter().for_each(|&token| *counts.entry(token).or_insert(0) += 1);
    counts
}

/// A token whose logit is no number, or infinite.
fn damaged(logits: &[f32]) -> u32 {
    logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY).unwrap_or(0) as u32
}

/// The first of the largest.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &v) in logits.iter().enumerate() {
        if v > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// The tokens that pass the filters, likeliest first, each with its weight. `weights`: of all tokens, relative to the
/// likeliest; `all`: their sum.
fn candidates(weights: &[f64], all: f64, sampling: &Sampling) -> Vec<(u32, f64)> {
    // Most tokens cannot be among them, and sorting is slow. Those below this weight together have less than the share that
    // top-p leaves out; those below the share of min-p are left out at the end.
    let least = match (sampling.top_k, sampling.top_p, sampling.min_p) {
        (None, Some(p), _) => (1.0 - f64::from(p)) * all / weights.len() as f64,
        (_, None, Some(p)) => f64::from(p),
        _ => 0.0,
    };
    let numbered = weights.iter().enumerate().filter(|(_, weight)| **weight >= least);
    let mut kept: Vec<(u32, f64)> = numbered.map(|(i, &weight)| (i as u32, weight)).collect();
    let likelier_first = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if let Some(k) = sampling.top_k.filter(|&k| k < kept.len()) {
        kept.select_nth_unstable_by(k, likelier_first);
        kept.truncate(k);
    }
    kept.sort_unstable_by(likelier_first);
    if let Some(p) = sampling.top_p {
        let all = if sampling.top_k.is_some() { kept.iter().map(|c| c.1).sum() } else { all };
        let enough = f64::from(p) * all;
        let mut sum = 0.0;
        // The token that reaches the share is the last that stays.
        let n = kept
            .iter()
            .take_while(|c| {
                let short = sum < enough;
                sum += c.1;
                short
            })
            .count();
        kept.truncate(n.max(1));
    }
    if let Some(p) = sampling.min_p {
        kept.retain(|c| c.1 >= f64::from(p)); // the likeliest has weight 1
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 0.0];

    fn kept(sampling: Sampling) -> Vec<u32> {
        let weights = LOGITS.map(|v| f64::from(v - 3.0).exp());
        candidates(&weights, total(&weights), &sampling).iter().map(|c| c.0).collect()
    }

    #[test]
    fn zero_temperature_takes_the_first_of_the_likeliest() {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        assert_eq!(choose(&LOGITS, &[], &greedy, TokenPosition::default()).token, 1);
        assert_eq!(choose(&[0.0, 2.0, 2.0], &[], &greedy, TokenPosition::default()).token, 1);
    }

    #[test]
    fn a_damaged_logit_is_what_is_chosen_so_that_it_is_found() {
        for damage in [f32::NAN, f32::INFINITY] {
            let mut logits = LOGITS;
            logits[3] = damage;
            for sampling in [
                Sampling::default(),
                Sampling { top_p: Some(0.9), ..Sampling::default() },
                Sampling { top_k: Some(2), ..Sampling::default() },
            ] {
                let chosen = choose(&logits, &[], &sampling, TokenPosition::default()).token;
                assert_eq!(chosen, 3, "{damage} {sampling:?}");
            }
        }
    }

    /// As if all tokens were sorted.
    #[test]
    fn filters_choose_the_same_among_many_tokens() {
        let weights: Vec<f64> = (0..5000u32).map(|i| f64::from(i.wrapping_mul(2_654_435_761) % 997) / 996.0).collect();
        let mut sorted: Vec<(u32, f64)> = (0..).zip(weights.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (top_k, top_p, min_p) in [
            (Some(7), None, None),
            (Some(9000), None, None),
            (None, Some(0.001), None),
            (None, Some(0.9), None),
            (None, Some(0.999), Some(0.3)),
            (None, None, Some(0.99)),
            (Some(100), Some(0.5), None),
            (Some(100), Some(0.5), Some(0.98)),
        ] {
            let mut expected = sorted.clone();
            expected.truncate(top_k.unwrap_or(expected.len()));
            if let Some(p) = top_p {
                let share = f64::from(p) * expected.iter().map(|c| c.1).sum::<f64>();
                let before = |n: usize| expected[..n].iter().map(|c| c.1).sum::<f64>();
                expected.truncate((1..expected.len()).find(|&n| before(n) >= share).unwrap_or(expected.len()));
            }
            expected.retain(|c| c.1 >= f64::from(min_p.unwrap_or(0.0)));
            let sampling = Sampling { top_k, top_p, min_p, ..Sampling::default() };
            let found = candidates(&weights, total(&weights), &sampling);
            assert!(found == expected, "{sampling:?}: {} of {}", found.len(), expected.len());
        }
    }

    #[test]
    fn filters_keep_what_they_are_defined_to() {
        assert_eq!(kept(Sampling { top_k: Some(2), ..Sampling::default() }), [1, 2]);
        // Probabilities .636 .234 .086 .032 .012: .636 is short of .7, with .234 it is not.
        assert_eq!(kept(Sampling { top_p: Some(0.7), ..Sampling::default() }), [1, 2]);
        assert_eq!(kept(Sampling { top_p: Some(0.6), ..Sampling::default() }), [1]);
        // e^-1 = .37 of the likeliest, e^-2 = .14
        assert_eq!(kept(Sampling { min_p: Some(0.2), ..Sampling::default() }), [1, 2]);
        assert_eq!(kept(Sampling { top_k: Some(4), min_p: Some(0.1), ..Sampling::default() }), [1, 2, 0]);
        let sampling = Sampling { top_k: Some(1), ..Sampling::default() };
        assert_eq!(choose(&LOGITS, &[], &sampling, TokenPosition::default()).token, 1);
    }

    /// To the last bit, so that a draw does not change what is reported of its token.
    #[test]
    fn a_draw_sums_the_normalizer_only_where_the_weights_are_the_models_own() {
        let chosen = |sampling: &Sampling| choose(&LOGITS, &[1], sampling, TokenPosition::default());
        let own = chosen(&Sampling::default()).normalizer.unwrap();
        let log_probs = log_probs(&LOGITS);
        LOGITS.iter().zip(log_probs).for_each(|(&logit, expected)| assert_eq!(own.log_prob(logit), expected));
        for other in [
            Sampling { temperature: 0.7, ..Sampling::default() },
            Sampling { temperature: 0.0, ..Sampling::default() },
            Sampling { repetition_penalty: 2.0, ..Sampling::default() },
            Sampling { logit_bias: vec![(0, 1.0)], ..Sampling::default() },
            Sampling { top_k: Some(3), ..Sampling::default() },
        ] {
            assert!(chosen(&other).normalizer.is_none(), "{other:?}");
        }
    }

    #[test]
    fn the_penalty_makes_seen_tokens_less_likely_whatever_their_sign() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(*adjusted(&LOGITS, &[1, 3, 3, 99], &[], &sampling), [1.0, 1.5, 2.0, -2.0, 0.0]);
    }

    /// OpenAI's formula: logit − count·frequency − (count > 0)·presence, over the tokens that were generated.
    #[test]
    fn frequency_and_presence_penalties_count_the_continuation_alone() {
        let sampling = Sampling { frequency_penalty: 0.5, presence_penalty: 0.25, ..Sampling::default() };
        let adjusted = adjusted(&LOGITS, &[0, 1, 3, 3], &[3, 3, 99], &sampling);
        assert_eq!(*adjusted, [1.0, 3.0, 2.0, -1.0 - 1.0 - 0.25, 0.0]);
        let greedy = Sampling { temperature: 0.0, presence_penalty: 2.0, ..Sampling::default() };
        let place = |position| TokenPosition { position, ..TokenPosition::default() };
        assert_eq!(choose(&LOGITS, &[1], &greedy, place(0)).token, 1, "it stands in the prompt");
        assert_eq!(choose(&LOGITS, &[1], &greedy, place(1)).token, 2, "it was generated");
    }

    #[test]
    fn a_bias_is_added_before_all_else() {
        let logit_bias = vec![(1, -100.0), (4, 2.5), (99, 1.0)];
        let sampling = Sampling { temperature: 0.0, repetition_penalty: 2.0, logit_bias, ..Sampling::default() };
        assert_eq!(*adjusted(&LOGITS, &[4], &[], &sampling), [1.0, -97.0, 2.0, -1.0, 1.25]);
        assert_eq!(choose(&LOGITS, &[], &sampling, TokenPosition::default()).token, 4);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampling = Sampling { temperature: 2.0, ..Sampling::default() };
        let n = 20_000;
        let mut counts = [0u32; 5];
        for position in 0..n {
            let place = TokenPosition { position, ..TokenPosition::default() };
            counts[choose(&LOGITS, &[], &sampling, place).token as usize] += 1;
        }
        let weights = LOGITS.map(|v| f64::from(v / 2.0).exp());
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let (share, expected) = (f64::from(*count) / f64::from(n), weight / total);
            assert!((share - expected).abs() < 0.014, "{share} of draws, expected {expected}"); // 4 standard errors
        }
    }

    #[test]
    fn prompts_samples_and_positions_draw_independently() {
        let drawn = |prompt, sample| {
            let place = |position| TokenPosition { prompt, sample, position };
            (0..50).map(|p| choose(&[0.0; 50], &[], &Sampling::default(), place(p)).token).collect::<Vec<_>>()
        };
        assert_ne!(drawn(0, 0), drawn(0, 1));
        assert_ne!(drawn(0, 0), drawn(1, 0));
        assert_ne!(drawn(0, 1), drawn(1, 0));
        assert!(drawn(0, 0).windows(2).any(|w| w[0] != w[1]));
    }

    #[test]
    fn log_probs_are_those_of_a_softmax() {
        let sum: f32 = log_probs(&LOGITS).iter().map(|l| l.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert!((log_probs(&[5.0, 5.0])[0] - 0.5f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn impossible_settings_are_problems() {
        let bad = Sampling {
            logit_bias: vec![(1, 101.0)],
            repetition_penalty: 0.0,
            frequency_penalty: -2.5,
            presence_penalty: f32::NAN,
            temperature: f32::NAN,
            top_k: Some(0),
            top_p: Some(0.0),
            min_p: Some(1.5),
            seed: 1,
        };
        let mut problems = Problems::default();
        bad.check(&mut problems);
        assert_eq!(problems.iter().count(), 8);
    }
}
