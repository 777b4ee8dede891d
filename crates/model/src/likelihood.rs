//! How likely a model finds what could follow a text. What several continuations of one context have in common is read
//! once.

use crate::{Gpt, Input, Pass};
use anyhow::{Result, ensure};
use candle_core::{D, Tensor};
use gptkit_data::pack::like_lengths;

/// Tokens that a model reads at a time, but for a longer question alone.
const TOKENS_AT_A_TIME: usize = 2048;
/// Logits that are held at once where the likeliest tokens are asked for.
const LOGITS: usize = 1 << 25;

/// A context, and what could follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LikelihoodQuestion {
    /// At least one token.
    pub context: Vec<u32>,
    /// At least one, each of at least one token.
    pub continuations: Vec<Vec<u32>>,
}

/// What a model makes of a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContinuationLikelihood {
    /// Σ_t ln p(t), nats.
    pub log_prob: f64,
    /// Whether each of its tokens is the likeliest at its place; false where that was not asked.
    pub greedy: bool,
}

/// What was found of all continuations, and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Likelihoods {
    /// Of each question, in their order, each of its continuations.
    pub found: Vec<Vec<ContinuationLikelihood>>,
    /// Tokens that the model read.
    pub n_read: u64,
    /// Tokens that it would have read with each continuation by itself.
    pub n_alone: u64,
}

/// Answers all `questions`, in batches of like lengths; with `greedy`, it is also asked whether a continuation is what the
/// model itself would write.
///
/// # Errors
/// When a context or continuation is empty, both together are over the context by more than the last token, which nothing
/// follows, a token is not of the vocabulary, or a probability is no number.
pub fn answer(gpt: &Gpt, questions: &[LikelihoodQuestion], greedy: bool) -> Result<Likelihoods> {
    let shapes: Vec<QuestionLayout> = questions.iter().map(QuestionLayout::of).collect::<Result<_>>()?;
    let reads_branches = gpt.config().must_attend().is_ok();
    if !reads_branches && shapes.iter().any(|shape| shape.read.len() > 1) {
        return answer_one_by_one(gpt, questions, greedy);
    }
    let lengths: Vec<usize> = shapes.iter().map(QuestionLayout::n_tokens).collect();
    let mut found = vec![Vec::new(); questions.len()];
    for batch in like_lengths(&lengths, TOKENS_AT_A_TIME) {
        let input = match reads_branches {
            true => Input::branching(batch.iter().map(|&i| shapes[i].group()), gpt.device())?,
            false => Input::ragged(batch.iter().flat_map(|&i| &shapes[i].read).map(Vec::as_slice), gpt.device())?,
        };
        let hidden = gpt.hidden(&input, Pass::Eval)?.squeeze(0)?; // [tokens, D]
        let (mut rows, mut tokens, mut first) = (Vec::new(), Vec::new(), 0);
        for &i in &batch {
            shapes[i].targets(&questions[i], first, &mut rows, &mut tokens);
            first += lengths[i];
        }
        let states = hidden.index_select(&Tensor::new(rows, gpt.device())?, 0)?; // [N, D]
        let mut each = of_tokens(gpt, &states, &tokens, greedy)?.into_iter();
        for i in batch {
            found[i] = questions[i].continuations.iter().map(|tokens| sum(each.by_ref().take(tokens.len()))).collect();
        }
    }
    let numbers = found.iter().flatten().all(|one| one.log_prob.is_finite());
    ensure!(numbers, "the model's output is NaN or infinite; its weights are damaged or its training diverged");
    let n_alone =
        questions.iter().flat_map(|q| q.continuations.iter().map(|c| q.context.len() + c.len() - 1)).sum::<usize>();
    Ok(Likelihoods { found, n_read: lengths.iter().sum::<usize>() as u64, n_alone: n_alone as u64 })
}

/// [`answer()`] of a model without branching sequences: each continuation is a separate question.
fn answer_one_by_one(gpt: &Gpt, questions: &[LikelihoodQuestion], greedy: bool) -> Result<Likelihoods> {
    let alone = |question: &LikelihoodQuestion| -> Vec<LikelihoodQuestion> {
        let of = |tokens: &Vec<u32>| LikelihoodQuestion {
            context: question.context.clone(),
            continuations: vec![tokens.clone()],
        };
        question.continuations.iter().map(of).collect()
    };
    let all: Vec<LikelihoodQuestion> = questions.iter().flat_map(alone).collect();
    let answers = answer(gpt, &all, greedy)?;
    let mut each = answers.found.into_iter().flatten();
    let found = questions.iter().map(|question| each.by_ref().take(question.continuations.len()).collect()).collect();
    Ok(Likelihoods { found, ..answers })
}

fn sum(tokens: impl Iterator<Item = (f32, bool)>) -> ContinuationLikelihood {
    tokens.fold(ContinuationLikelihood { log_prob: 0.0, greedy: true }, |all, (log_prob, greedy)| {
        ContinuationLikelihood { log_prob: all.log_prob + f64::from(log_prob), greedy: all.greedy && greedy }
    })
}

/// The log-probability of each of `tokens` after its state of `[N, D]`, and whether it is the likeliest.
fn of_tokens(gpt: &Gpt, states: &Tensor, tokens: &[u32], greedy: bool) -> Result<Vec<(f32, bool)>> {
    if !greedy {
        let found: Vec<f32> = gpt.token_log_probs(states, tokens, 1.0, Pass::Eval)?.get(0)?.to_vec1()?;
        return Ok(found.into_iter().map(|log_prob| (log_prob, false)).collect());
    }
    let (mut found, most) = (Vec::with_capacity(tokens.len()), (LOGITS / gpt.config().vocab_size).max(1));
    for (n, tokens) in tokens.chunks(most).enumerate() {
        let logits = gpt.logits_of_hidden(&states.narrow(0, n * most, tokens.len())?)?; // [n, V]
        let chosen = logits.gather(&Tensor::new(tokens, gpt.device())?.unsqueeze(1)?, 1)?.squeeze(1)?;
        let log_probs: Vec<f32> = (chosen - logits.log_sum_exp(D::Minus1)?)?.to_vec1()?;
        let likeliest: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
        found.extend(log_probs.into_iter().zip(likeliest.iter().zip(tokens).map(|(a, b)| a == b)));
    }
    Ok(found)
}

/// A question as the model reads it: every continuation without its last token, which nothing follows, and what these
/// have in common once.
struct QuestionLayout {
    /// Tokens that all have in common, when there are branches; else 0, and one sequence.
    stem: usize,
    /// What is read: the stem with each branch, or the longest sequence, which the others are the beginning of.
    read: Vec<Vec<u32>>,
    /// The branch of each continuation, and where in the window it begins; nothing for one that the stem holds.
    starts: Vec<Option<usize>>,
}

impl QuestionLayout {
    fn of(question: &LikelihoodQuestion) -> Result<Self> {
        let LikelihoodQuestion { context, continuations } = question;
        ensure!(!context.is_empty(), "the context is empty; it needs at least one token");
        ensure!(
            !continuations.is_empty() && continuations.iter().all(|c| !c.is_empty()),
            "each continuation needs at least one token"
        );
        let read: Vec<Vec<u32>> =
            continuations.iter().map(|tokens| [context, &tokens[..tokens.len() - 1]].concat()).collect();
        let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let stem = read.iter().map(|other| common(&read[0], other)).min().unwrap_or(0);
        let mut end = stem;
        let start = |sequence: &Vec<u32>| {
            let branches = sequence.len() > stem;
            branches.then(|| (end, end += sequence.len() - stem).0)
        };
        let starts: Vec<Option<usize>> = read.iter().map(start).collect();
        let n_branches = starts.iter().flatten().count();
        let longest = read.iter().map(Vec::len).max().unwrap_or(0);
        let mut read = read;
        // One branch or none is a plain sequence, in which all have their places as in a stem.
        let (stem, starts) = if n_branches < 2 {
            read.retain(|sequence| sequence.len() == longest);
            read.truncate(1);
            (0, vec![None; starts.len()])
        } else {
            read.retain(|sequence| sequence.len() > stem);
            (stem, starts)
        };
        Ok(Self { stem, read, starts })
    }

    fn group(&self) -> (usize, &[Vec<u32>]) {
        (self.stem, &self.read)
    }

    fn n_tokens(&self) -> usize {
        self.stem + self.read.iter().map(|sequence| sequence.len() - self.stem).sum::<usize>()
    }

    /// Appends the tokens of all continuations to `tokens`, and to `rows` where in the window the one before each is;
    /// `first` is this question's first row.
    fn targets(&self, question: &LikelihoodQuestion, first: usize, rows: &mut Vec<u32>, tokens: &mut Vec<u32>) {
        for (continuation, start) in question.continuations.iter().zip(&self.starts) {
            let before = question.context.len() - 1;
            rows.extend((before..before + continuation.len()).map(|at| {
                let row = start.filter(|_| at >= self.stem).map_or(at, |start| start + at - self.stem);
                (first + row) as u32
            }));
            tokens.extend(continuation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use crate::sampler::log_probs;
    use crate::{Kind, ModelConfig, Params};
    use candle_core::Device;
    use gptkit_ops::Precision;
    use gptkit_ops::check::draw;
    use proptest::prelude::*;

    fn model(kind: Kind) -> Gpt {
        let config = ModelConfig { context: 24, d_model: 16, ..tiny(kind) };
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        for (n, (_, parameter)) in params.iter().filter(|(_, p)| p.var().rank() == 2).enumerate() {
            parameter.set(&(draw(n as u64, parameter.var().dims()) * 0.5).unwrap()).unwrap();
        }
        Gpt::new(&config, &params, Precision::F32).unwrap()
    }

    /// One fresh pass a token.
    fn alone(model: &Gpt, context: &[u32], continuation: &[u32]) -> ContinuationLikelihood {
        let mut all = ContinuationLikelihood { log_prob: 0.0, greedy: true };
        for n in 0..continuation.len() {
            let read = [context, &continuation[..n]].concat();
            let input = Input::ragged([&*read], &Device::Cpu).unwrap();
            let logits: Vec<f32> =
                model.next_logits(&input, &mut model.cache()).unwrap().squeeze(0).unwrap().to_vec1().unwrap();
            let likeliest = (0..17).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            all.log_prob += f64::from(log_probs(&logits)[continuation[n] as usize]);
            all.greedy &= likeliest == continuation[n] as usize;
        }
        all
    }

    fn agree(kind: Kind, questions: &[LikelihoodQuestion]) {
        let model = model(kind);
        for greedy in [false, true] {
            let answers = answer(&model, questions, greedy).unwrap();
            for (question, found) in questions.iter().zip(&answers.found) {
                assert_eq!(found.len(), question.continuations.len());
                for (continuation, found) in question.continuations.iter().zip(found) {
                    let expected = alone(&model, &question.context, continuation);
                    assert!((found.log_prob - expected.log_prob).abs() < 1e-4, "{kind:?}: {found:?}, {expected:?}");
                    assert_eq!(found.greedy, greedy && expected.greedy);
                }
            }
            assert!(answers.n_read <= answers.n_alone);
        }
    }

    #[test]
    fn continuations_that_begin_alike_are_answered_as_each_alone() {
        let question = |context: &[u32], continuations: &[&[u32]]| LikelihoodQuestion {
            context: context.to_vec(),
            continuations: continuations.iter().map(|c| c.to_vec()).collect(),
        };
        let questions = [
            question(&[1, 2, 3], &[&[4, 5], &[4, 6], &[7, 8, 9]]),
            question(&[1], &[&[2], &[3], &[4]]), // nothing but the context is read
            question(&[5, 6], &[&[7], &[7, 8], &[7, 8, 9, 10]]), // each is the beginning of the next
            question(&[5, 6], &[&[7, 8, 1], &[7], &[7, 8, 2], &[7, 9, 3, 4]]),
            question(&[9, 9], &[&[1, 2, 3], &[1, 2, 3]]),
            question(&(0..24).map(|i| i % 17).collect::<Vec<_>>(), &[&[3], &[16]]), // the window is full
        ];
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3, Kind::Lstm] {
            agree(kind, &questions);
        }
        let read = answer(&model(Kind::Gpt2), &questions[..2], false).unwrap();
        assert_eq!((read.n_read, read.n_alone), (3 + 1 + 1 + 2 + 1, 4 + 4 + 5 + 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_questions_are_answered_as_each_alone(
            questions in prop::collection::vec(
                (prop::collection::vec(0u32..17, 1..12), prop::collection::vec(prop::collection::vec(0u32..3, 1..8), 1..5)),
                1..6,
            ),
        ) {
            let question = |(context, continuations)| LikelihoodQuestion { context, continuations };
            agree(Kind::Gpt2, &questions.into_iter().map(question).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let model = model(Kind::Gpt2);
        let error = |context: Vec<u32>, continuations: Vec<Vec<u32>>| {
            answer(&model, &[LikelihoodQuestion { context, continuations }], false).unwrap_err().to_string()
        };
        assert!(error(vec![], vec![vec![1]]).contains("the context is empty"));
        assert!(error(vec![1], vec![vec![1], vec![]]).contains("needs at least one token"));
        assert!(error(vec![1], vec![]).contains("needs at least one token"));
        assert!(error(vec![1; 24], vec![vec![1, 2]]).contains("longer than the context of 24"));
        assert!(error(vec![17], vec![vec![1]]).contains("vocabulary"));
    }
}
