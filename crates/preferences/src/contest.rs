//! Several ways to answer against a reference model, on the same prompts: how often each is the better, what a reward model
//! makes of it, and how far it has gone from the reference (Ouyang et al. 2022, §4; Gao et al. 2022).

use crate::answering::{CompletionWriter, DecodingSettings};
use crate::compare::{AnswerRanks, AutomaticJudge};
use crate::win_rates::WinRate;
use anyhow::{Context, Result};
use gptkit_data::progress::{Progress, Unit};
use gptkit_data::synthetic::{InstructionKind, SyntheticInstructions, is_courteous};
use gptkit_feedback::choices::Item;
use gptkit_model::Gpt;
use gptkit_model::generate::{Completion, Finish, TokenLogProb};
use gptkit_model::likelihood::{LikelihoodQuestion, answer};
use gptkit_model::sampler::Sampling;
use gptkit_ranks::Ranks;
use gptkit_reward::model::Scorer;
use gptkit_stats::Share;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

/// Sequences that are read between two reports of progress.
const READ: usize = 128;

/// How answers to instructions of the embedded world follow these, as its grader finds, which knows the right answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstructionGrades {
    /// Share of the answers that are right; courtesy, case and punctuation do not count.
    pub followed: Share,
    /// The same for each kind of instruction: how many answers are right, and how many there are.
    pub by_kind: BTreeMap<InstructionKind, (u32, u32)>,
    /// Share of the answers that begin or end with a courtesy.
    pub courteous: f64,
}

/// A way to answer, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContestRow {
    /// What it is called.
    pub name: String,
    /// A is this way, B the reference.
    pub win_rate: WinRate,
    /// Prompts of which an answer is too long for the judge.
    pub skipped: u64,
    /// Mean of what the judge gives its answers, if it gives numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_score: Option<f64>,
    /// How far they follow the instructions, where the prompts are the embedded world's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grades: Option<InstructionGrades>,
    /// Mean of what the reward model gives them, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_reward: Option<f64>,
    /// Mean length, tokens; the sign that ends an answer is not counted.
    pub mean_tokens: f64,
    /// Share of answers that had an end before they were cut.
    pub ended: f64,
    /// KL(way, reference), nats an answer, where it can be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// No more than this, nats an answer, where only that can be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_bound: Option<f64>,
}

/// The most that choosing the best of `n` samples goes from what they are drawn from, nats: ln n − (n − 1)/n (Stiennon et
/// al. 2020, appendix G.3; a bound by Beirami et al. 2024).
pub fn best_of_bound(n: usize) -> f64 {
    let n = n as f64;
    n.ln() - (n - 1.0) / n
}

/// Whether tokens are drawn with the model's own probabilities, so that those tell how likely an answer was.
pub fn draws_as_the_model(sampling: &Sampling, stop: &[String]) -> bool {
    let Sampling { top_k, top_p, min_p, temperature, .. } = *sampling;
    let all = top_k.is_none() && top_p.is_none_or(|p| p == 1.0) && min_p.is_none();
    all && temperature == 1.0 && !sampling.adjusts() && stop.is_empty()
}

/// The reference's answers, and what others are measured by.
#[derive(Debug)]
pub struct Contest<'a> {
    /// The prompts, whose numbers count from 0.
    pub items: &'a [Item],
    /// The model that others are compared with.
    pub reference: CompletionWriter<'a>,
    /// Who judges.
    pub machine: AutomaticJudge<'a>,
    /// Knows the right answers, where the prompts are the embedded world's.
    pub world: Option<&'a SyntheticInstructions>,
    /// Gives every answer a reward beside what the judge says; reads as the models do.
    pub reward: Option<&'a Scorer>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Ends of answers besides the models' own.
    pub stop: Vec<String>,
    /// Those that share out prompts and answers.
    pub ranks: &'a Ranks,
    /// How tokens are chosen. What is compared draws by its seed, the reference that it is compared with by the next, as
    /// the two sides of a [collection](crate::collection::Collection) do.
    pub sampling: Sampling,
}

/// What the reference answers when others are compared with it, a text for each prompt.
#[derive(Debug)]
pub struct ReferenceAnswers(Vec<String>);

impl Contest<'_> {
    /// Has the reference write what others are compared with.
    ///
    /// # Errors
    /// As [`CompletionWriter::write`].
    pub fn opponent(&self, name: &str, progress: &dyn Progress) -> Result<ReferenceAnswers> {
        let sampling = Sampling { seed: self.sampling.seed.wrapping_add(1), ..self.sampling.clone() };
        let answers = self.write(&self.reference, &self.manner(1, None, sampling), name, progress)?;
        Ok(ReferenceAnswers(answers.into_iter().map(|answer| said(&answer).to_owned()).collect()))
    }

    /// Samples of the reference model against `opponent`: a single sample, which shows the effect of chance, and for
    /// each N of `best_of` the one of N samples with the highest reward.
    ///
    /// # Errors
    /// As [`Contest::model`], or when there is something to choose and no reward model.
    pub fn reference(
        &self,
        opponent: &ReferenceAnswers,
        best_of: &[usize],
        name: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<ContestRow>> {
        let most = best_of.iter().copied().max().unwrap_or(1);
        let manner = self.manner(most, None, self.sampling.clone());
        let pool = self.write(&self.reference, &manner, name, progress)?;
        let rewards = self.rewards(&self.reference, &pool, most, name, progress)?;
        let row = |name: String, n: usize| {
            let chosen = best(rewards.as_deref(), self.items.len(), most, n);
            let answers: Vec<&Completion> = chosen.iter().map(|&i| &pool[i]).collect();
            let rewards: Option<Vec<f32>> = rewards.as_ref().map(|all| chosen.iter().map(|&i| all[i]).collect());
            self.row(name, &answers, rewards.as_deref(), opponent, progress)
        };
        let itself = draws_as_the_model(&self.sampling, &self.stop).then_some(0.0);
        let mut rows = vec![ContestRow { kl: itself, ..row(format!("{name} (reference)"), 1)? }];
        for &n in best_of {
            self.reward.context("best of N needs a reward model, but none is given")?;
            rows.push(ContestRow { kl_bound: Some(best_of_bound(n)), ..row(format!("best of {n}"), n)? });
        }
        Ok(rows)
    }

    /// `model` against `opponent`.
    ///
    /// # Errors
    /// As [`CompletionWriter::write`], or when its answers cannot be judged or rewarded.
    pub fn model(
        &self,
        model: &CompletionWriter,
        opponent: &ReferenceAnswers,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<ContestRow> {
        let same_tokens =
            model.form.is_read_as(&self.reference.form) && model.tokenizer.agrees_with(self.reference.tokenizer);
        let with_kl = same_tokens && draws_as_the_model(&self.sampling, &self.stop);
        let manner = self.manner(1, with_kl.then_some(0), self.sampling.clone());
        let answers = self.write(model, &manner, name, progress)?;
        let kl = if with_kl { Some(self.kl(model, &answers, name, progress)?) } else { None };
        let rewards = self.rewards(model, &answers, 1, name, progress)?;
        let answers: Vec<&Completion> = answers.iter().collect();
        Ok(ContestRow { kl, ..self.row(name.to_owned(), &answers, rewards.as_deref(), opponent, progress)? })
    }

    fn manner(&self, n_samples: usize, log_probs: Option<usize>, sampling: Sampling) -> DecodingSettings {
        DecodingSettings {
            n_samples,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            log_probs,
            sampling,
        }
    }

    /// All answers to the first prompt, then all to the second.
    fn write(
        &self,
        by: &CompletionWriter,
        how: &DecodingSettings,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<Completion>> {
        let n_samples = how.n_samples;
        let write = |own: Range<usize>| -> Result<Vec<PromptAnswers>> {
            let n = own.len() * n_samples;
            let mut answers: Vec<Option<Completion>> = (0..n).map(|_| None).collect();
            let task = progress.task(&format!("answers of {name}"), Some(n as u64), Unit::Items);
            by.write(&self.items[own.clone()], how, |item, sample, completion| {
                answers[(item.number as usize - own.start) * n_samples + sample] = Some(completion);
                task.advance(1);
                Ok(ControlFlow::Continue(()))
            })?;
            let answers = answers.into_iter().collect::<Option<Vec<_>>>().context("an answer was not generated")?;
            Ok(answers.chunks(n_samples).map(PromptAnswers::new).collect())
        };
        let answers = self.ranks.share_records(self.items.len(), write)?;
        Ok(answers.into_iter().flat_map(PromptAnswers::into_answers).collect())
    }

    /// What the reward model gives each of `answers`, `of_each` to a prompt.
    fn rewards(
        &self,
        by: &CompletionWriter,
        answers: &[Completion],
        of_each: usize,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<Option<Vec<f32>>> {
        let Some(scorer) = self.reward else { return Ok(None) };
        let prompts: Vec<Vec<u32>> = self.items.iter().map(|item| by.prompt(&item.prompt)).collect::<Result<_>>()?;
        let with_prompt = answers.iter().enumerate().map(|(i, answer)| (prompts[i / of_each].as_slice(), answer));
        let sequences = scorer.sequences(with_prompt)?;
        let task = progress.task(&format!("rewards of {name}"), Some(sequences.len() as u64), Unit::Items);
        let mut rewards = Vec::with_capacity(sequences.len());
        for some in sequences.chunks(READ) {
            rewards.extend(self.ranks.share_parts(some.len(), |own| scorer.model.rewards(&some[own]))?);
            task.advance(some.len() as u64);
        }
        Ok(Some(rewards))
    }

    /// Mean over `answers` of Σ_t log π(t) − log π_ref(t), the sign that ends an answer among the tokens.
    fn kl(&self, model: &CompletionWriter, answers: &[Completion], name: &str, progress: &dyn Progress) -> Result<f64> {
        let task = progress.task(&format!("KL of {name}"), Some(answers.len() as u64), Unit::Items);
        let mut total = 0.0;
        for (items, answers) in self.items.chunks(READ).zip(answers.chunks(READ)) {
            let mut sequences = Vec::with_capacity(items.len());
            for (item, answer) in items.iter().zip(answers) {
                let drawn = || answer.log_probs.iter().chain(&answer.end);
                total += drawn().map(|token| f64::from(token.log_prob)).sum::<f64>();
                let mut tokens = model.prompt(&item.prompt)?;
                let prompt = tokens.len();
                tokens.extend(drawn().map(|token| token.id));
                sequences.push((prompt, tokens));
            }
            let of_reference = |own: Range<usize>| log_probs(self.reference.gpt, &sequences[own]);
            total -= self.ranks.share_parts(sequences.len(), of_reference)?.iter().sum::<f64>();
            task.advance(items.len() as u64);
        }
        Ok(total / answers.len() as f64)
    }

    /// Counts `answers`, one to each prompt.
    fn row(
        &self,
        name: String,
        answers: &[&Completion],
        rewards: Option<&[f32]>,
        opponent: &ReferenceAnswers,
        progress: &dyn Progress,
    ) -> Result<ContestRow> {
        let task = progress.task(&format!("judging {name}"), Some(answers.len() as u64), Unit::Items);
        let judged = self.ranks.share_records(answers.len(), |own| {
            let judge = |i: usize| {
                task.advance(1);
                self.machine.judge(&self.items[i], &[said(answers[i]), &opponent.0[i]])
            };
            own.map(judge).collect()
        })?;
        let grades = self.world.map(|world| grades(world, self.items, answers)).transpose()?;
        Ok(ContestRow { grades, ..count(name, answers, &judged, rewards) })
    }
}

/// Answers to one prompt, for other ranks.
#[derive(Serialize, Deserialize)]
struct PromptAnswers {
    answers: Vec<Completion>,
    /// The token that ends each, which is no part of a completion's JSON.
    ends: Vec<Option<TokenLogProb>>,
}

impl PromptAnswers {
    fn new(answers: &[Completion]) -> Self {
        Self { ends: answers.iter().map(|answer| answer.end.clone()).collect(), answers: answers.to_vec() }
    }

    fn into_answers(self) -> impl Iterator<Item = Completion> {
        self.answers.into_iter().zip(self.ends).map(|(answer, end)| Completion { end, ..answer })
    }
}

/// Of each prompt, the number of the answer that has the highest reward among its first `n` of `of_each`; the first of
/// equals, and without rewards the first of all.
fn best(rewards: Option<&[f32]>, n_prompts: usize, of_each: usize, n: usize) -> Vec<usize> {
    let best = |prompt: usize| {
        let first = prompt * of_each;
        let better = |best: usize, other: usize| match rewards {
            Some(rewards) if rewards[other] > rewards[best] => other,
            _ => best,
        };
        (first..first + n).fold(first, better)
    };
    (0..n_prompts).map(best).collect()
}

/// From the scores of `answers` and of the reference answers; nothing where the judge gives no score.
fn count(name: String, answers: &[&Completion], judged: &[Option<AnswerRanks>], rewards: Option<&[f32]>) -> ContestRow {
    let places: Vec<(u32, u32)> = judged.iter().flatten().map(|(places, _)| (places[0], places[1])).collect();
    let scores: Vec<f64> =
        judged.iter().flatten().filter_map(|(_, scores)| scores.as_ref().map(|scores| scores[0])).collect();
    let mean = |all: &[f64]| (!all.is_empty()).then(|| gptkit_stats::mean(all));
    let share = |n: usize| n as f64 / answers.len() as f64;
    ContestRow {
        name,
        win_rate: WinRate::of(&places),
        skipped: (judged.len() - places.len()) as u64,
        mean_score: mean(&scores),
        grades: None,
        mean_reward: rewards
            .and_then(|rewards| mean(&rewards.iter().map(|&reward| f64::from(reward)).collect::<Vec<_>>())),
        mean_tokens: share(answers.iter().map(|answer| answer.tokens.len()).sum()),
        ended: share(answers.iter().filter(|answer| answer.finish != Finish::Length).count()),
        kl: None,
        kl_bound: None,
    }
}

/// Grades `answers`, one to each of `items`.
fn grades(world: &SyntheticInstructions, items: &[Item], answers: &[&Completion]) -> Result<InstructionGrades> {
    let mut by_kind: BTreeMap<InstructionKind, (u32, u32)> = BTreeMap::new();
    let (mut hits, mut n_courteous) = (Vec::with_capacity(items.len()), 0);
    for (item, answer) in items.iter().zip(answers) {
        let instruction = world.instruction(item.number_in_world()?);
        let is_followed = instruction.is_followed(said(answer));
        let (right, all) = by_kind.entry(instruction.kind()).or_default();
        *right += u32::from(is_followed);
        *all += 1;
        hits.push((f64::from(u8::from(is_followed)), 1.0));
        n_courteous += usize::from(is_courteous(said(answer)));
    }
    let courteous = n_courteous as f64 / items.len() as f64;
    Ok(InstructionGrades { followed: Share::of(&hits), by_kind, courteous })
}

/// What is judged of an answer.
fn said(answer: &Completion) -> &str {
    answer.text.trim()
}

/// Σ_t log p(t), nats, of the tokens of each sequence after its first so many, which are at least one.
fn log_probs(gpt: &Gpt, sequences: &[(usize, Vec<u32>)]) -> Result<Vec<f64>> {
    let asked: Vec<usize> = (0..sequences.len()).filter(|&i| sequences[i].1.len() > sequences[i].0).collect();
    let question = |&i: &usize| {
        let (context, continuation) = sequences[i].1.split_at(sequences[i].0);
        LikelihoodQuestion { context: context.to_vec(), continuations: vec![continuation.to_vec()] }
    };
    let questions: Vec<LikelihoodQuestion> = asked.iter().map(question).collect();
    let mut sums = vec![0.0; sequences.len()];
    for (i, found) in asked.into_iter().zip(answer(gpt, &questions, false)?.found) {
        sums[i] = found[0].log_prob;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_model::{Input, Kind, ModelConfig, Params};
    use gptkit_ops::Precision;

    #[test]
    fn the_best_of_n_is_the_first_of_the_highest_reward_among_n() {
        let rewards = [0.0, 2.0, 2.0, 3.0, -1.0, -2.0, -1.0, -3.0];
        let of = |n| best(Some(&rewards), 2, 4, n);
        assert_eq!([of(1), of(2), of(3), of(4)], [[0, 4], [1, 4], [1, 4], [3, 4]]);
        assert_eq!(best(None, 2, 4, 1), [0, 4]);
    }

    /// The best of n has density n uⁿ⁻¹ where what it is drawn from has 1, over places u from the worst to the best.
    #[test]
    fn the_bound_is_the_kl_of_the_best_of_n() {
        for n in [1, 2, 4, 16, 100] {
            const CELLS: usize = 200_000;
            let density = |i: usize| n as f64 * ((i as f64 + 0.5) / CELLS as f64).powi(n - 1);
            let kl: f64 = (0..CELLS).map(|i| density(i) * density(i).max(1e-300).ln()).sum::<f64>() / CELLS as f64;
            assert!((best_of_bound(n as usize) - kl).abs() < 1e-5, "{n}: {kl}");
        }
    }

    #[test]
    fn kl_is_known_where_the_models_own_probabilities_draw() {
        let own = Sampling::default();
        assert!(draws_as_the_model(&own, &[]));
        assert!(draws_as_the_model(&Sampling { top_p: Some(1.0), seed: 7, ..own.clone() }, &[]));
        for other in [
            Sampling { temperature: 0.9, ..own.clone() },
            Sampling { top_k: Some(50), ..own.clone() },
            Sampling { top_p: Some(0.9), ..own.clone() },
            Sampling { min_p: Some(0.1), ..own.clone() },
            Sampling { repetition_penalty: 1.1, ..own.clone() },
            Sampling { presence_penalty: 0.5, ..own.clone() },
            Sampling { logit_bias: vec![(3, 1.0)], ..own.clone() },
        ] {
            assert!(!draws_as_the_model(&other, &[]), "{other:?}");
        }
        assert!(!draws_as_the_model(&own, &["\n".to_owned()]));
    }

    #[test]
    fn rows_count_what_is_judged() {
        let answer = |n: u32, finish: Finish| Completion {
            text: String::new(),
            tokens: (0..n).collect(),
            log_probs: Vec::new(),
            end: None,
            finish,
        };
        let answers = [
            answer(3, Finish::EndOfText),
            answer(8, Finish::Length),
            answer(0, Finish::EndOfText),
            answer(1, Finish::Stop),
        ];
        let answers: Vec<&Completion> = answers.iter().collect();
        let judged = [
            Some((vec![1, 2], Some(vec![4.0, 1.0]))),
            None,
            Some((vec![1, 1], Some(vec![2.0, 2.0]))),
            Some((vec![1, 2], Some(vec![0.0, -1.0]))),
        ];
        let row = count("a".to_owned(), &answers, &judged, Some(&[1.0, 2.0, 3.0, -4.0]));
        let rate = row.win_rate.a_over_b.unwrap();
        assert_eq!((row.win_rate.wins_of_a, row.win_rate.wins_of_b, row.win_rate.ties, row.skipped), (2, 0, 1, 1));
        assert_eq!((rate.value, rate.n), (2.5 / 3.0, 3));
        assert_eq!((row.mean_score, row.mean_reward), (Some(2.0), Some(0.5)));
        assert_eq!((row.mean_tokens, row.ended), (3.0, 0.75));
        let silent = [Some((vec![2, 1], None)), Some((vec![1, 2], None)), None, None];
        let row = count("b".to_owned(), &answers, &silent, None);
        assert_eq!((row.mean_score, row.mean_reward, row.skipped), (None, None, 2));
        assert!(count("c".to_owned(), &answers, &[None, None, None, None], None).win_rate.a_over_b.is_none());
    }

    #[test]
    fn log_probs_are_those_of_each_sequence_alone_token_by_token() {
        let text = serde_json::json!({
            "kind": Kind::Gpt2, "n_layer": 2, "n_head": 2, "d_model": 16, "context": 40, "vocab_size": 23, "init_std": 0.02,
        });
        let config: ModelConfig = serde_json::from_value(text).unwrap();
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        for (_, parameter) in params.iter().filter(|(_, p)| p.var().rank() == 2) {
            parameter.set(&(parameter.tensor(false) * 8.0).unwrap()).unwrap();
        }
        let gpt = Gpt::new(&config, &params, Precision::F32).unwrap();
        let tokens = |seed: u32, n: u32| (0..n).map(|i| (seed + 5 * i + i * i) % 23).collect::<Vec<u32>>();
        // The longest has a token more than the window, which is read no more. Of one, nothing is asked.
        let sequences = [(3, tokens(1, 9)), (1, tokens(2, 41)), (7, tokens(3, 7)), (6, tokens(4, 8))];
        let found = log_probs(&gpt, &sequences).unwrap();
        for ((prompt, tokens), found) in sequences.iter().zip(found) {
            let mut sum = 0.0;
            for n in *prompt..tokens.len() {
                let input = Input::ragged([&tokens[..n]], &Device::Cpu).unwrap();
                let logits: Vec<f32> =
                    gpt.next_logits(&input, &mut gpt.cache()).unwrap().squeeze(0).unwrap().to_vec1().unwrap();
                sum += f64::from(gptkit_model::sampler::log_probs(&logits)[tokens[n] as usize]);
            }
            assert!((found - sum).abs() < 1e-4, "{prompt} of {}: {found}, {sum}", tokens.len());
        }
    }
}
