//! Many prompts → continuations, in a batch whose places never stay empty: where a row has its end, the next one begins
//! (Yu et al. 2022, Orca, §3.1). No padding: each row is as long as it is.

use crate::continuation::{Completion, Continuation, DecodingOptions, GenerationOptions, LateEnds};
use crate::generate::check;
use crate::gpt::Gpt;
use crate::input::Input;
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_ops::{Cache, with_score_rows};
use rayon::prelude::*;
use std::ops::ControlFlow;

/// Prompts, and how their continuations are written.
#[derive(Debug, Clone)]
pub struct BatchRequest {
    /// Tokens to continue; at least one each.
    pub prompts: Vec<Vec<u32>>,
    /// Number of the first prompt; the draws of a prompt depend on its number.
    pub first_prompt: u32,
    /// Tokens that end a continuation, but not at once.
    pub late_ends: LateEnds,
    /// Continuations that are written at once; their content does not depend on it.
    pub max_rows: usize,
    /// How continuations are written; they also end where the context does.
    pub options: GenerationOptions,
}

/// Continues all prompts of `request`. `on_done` is given each continuation as soon as it has its end, with the place of
/// its prompt in the list and its number among those of the prompt; it ends the writing of the others by
/// [`ControlFlow::Break`].
///
/// Prompt number 0 is continued as [`crate::generate::generate`] would, but that no window slides: prompt and continuation
/// together are at most as long as the context.
///
/// # Errors
/// When a prompt is empty, over the context or has a token that the model has not, the model's numbers are damaged, or
/// `on_done` fails.
pub fn generate_batch(
    model: &Gpt,
    tokenizer: &Tokenizer,
    end_of_text: &[u32],
    request: &BatchRequest,
    mut on_done: impl FnMut(usize, usize, Completion) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let BatchRequest { prompts, first_prompt, late_ends, max_rows, options } = request;
    let n_samples = options.n_samples;
    let context = model.config().context;
    ensure!(*max_rows > 0, "the number of rows must be positive");
    for (n, prompt) in prompts.iter().enumerate() {
        check(prompt, model).with_context(|| format!("prompt {n} cannot be continued"))?;
        ensure!(prompt.len() <= context, "prompt {n} has {} tokens, more than the context of {context}", prompt.len());
    }
    let decoding = DecodingOptions { tokenizer, end_of_text, late_ends, options };
    let full = |row: &Continuation| row.n_new() >= options.max_new_tokens || row.tokens().len() >= context;
    // The last token chosen is the one that `cache` does not hold.
    let (mut rows, mut cache) = (Vec::<ActiveRow>::new(), model.cache());
    let (mut next, all) = (0, prompts.len() * n_samples);
    let mut prefilled = PrefilledPrompts { first: 0, logits: Vec::new(), cache: model.cache() };
    loop {
        while next < all && rows.len() < *max_rows {
            let free = *max_rows - rows.len();
            if next / n_samples >= prefilled.end() {
                prefilled = PrefilledPrompts::new(model, prompts, next / n_samples, free.div_ceil(n_samples))?;
            }
            let mut begun = Vec::new();
            let end = all.min(next + free).min(prefilled.end() * n_samples);
            for number in next..end {
                let (prompt, sample) = (number / n_samples, number % n_samples);
                let mut row =
                    Continuation::new(tokenizer, options, &prompts[prompt], (*first_prompt as usize + prompt, sample));
                if !full(&row) {
                    row.push_token(&prefilled.logits[prompt - prefilled.first], &decoding)?;
                }
                if row.finish().is_none() && !full(&row) {
                    begun.push((prompt - prefilled.first) as u32);
                    rows.push(ActiveRow { prompt, sample, row });
                } else if on_done(prompt, sample, row.completion()?)?.is_break() {
                    return Ok(());
                }
            }
            next = end;
            cache.append(prefilled.cache.copies(&begun)?)?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        let newest: Vec<u32> = rows.iter().filter_map(|ActiveRow { row, .. }| row.tokens().last().copied()).collect();
        let newest = Input::windows(&Tensor::from_vec(newest, (rows.len(), 1), model.device())?)?;
        let n_rows = rows.len();
        with_score_rows(&model.next_logits(&newest, &mut cache)?, |logits| {
            rows.par_iter_mut().zip(logits).try_for_each(|(one, logits)| one.row.push_token(logits, &decoding))
        })??;
        let (mut left, mut going) = (Vec::with_capacity(n_rows), Vec::with_capacity(n_rows));
        for (n, one) in rows.into_iter().enumerate() {
            if one.row.finish().is_none() && !full(&one.row) {
                left.push(n as u32);
                going.push(one);
            } else if on_done(one.prompt, one.sample, one.row.completion()?)?.is_break() {
                return Ok(());
            }
        }
        if left.len() < n_rows {
            cache.keep(&left)?;
        }
        rows = going;
    }
}

/// A continuation while it is written: sample number `sample` of the prompt at place `prompt`.
struct ActiveRow<'a> {
    prompt: usize,
    sample: usize,
    row: Continuation<'a>,
}

/// Prompts that have been read, whose samples can begin.
struct PrefilledPrompts {
    /// Place of the first.
    first: usize,
    /// Of the token after each, `[V]`.
    logits: Vec<Vec<f32>>,
    cache: Cache,
}

impl PrefilledPrompts {
    /// Reads at most `most` of `prompts`, from place `first` on, of at most a context of tokens together.
    fn new(model: &Gpt, prompts: &[Vec<u32>], first: usize, most: usize) -> Result<Self> {
        let mut tokens = 0;
        let fits = |prompt: &&Vec<u32>| {
            tokens += prompt.len();
            tokens <= model.config().context
        };
        let taken: Vec<&[u32]> = prompts[first..].iter().take(most).take_while(fits).map(Vec::as_slice).collect();
        let mut cache = model.cache();
        let logits = model.next_logits(&Input::ragged(taken, model.device())?, &mut cache)?.to_vec2()?;
        Ok(Self { first, logits, cache })
    }

    /// The place after the last.
    fn end(&self) -> usize {
        self.first + self.logits.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use crate::generate::{Finish, GenerationRequest, generate};
    use crate::layout::embedding_names;
    use crate::sampler::{Sampling, log_probs};
    use crate::{Kind, ModelConfig, Params, Pass};
    use candle_core::Device;
    use gptkit_ops::Precision;
    use gptkit_ops::check::draw;
    use std::collections::{BTreeMap, BTreeSet};

    const CONTEXT: usize = 24;
    const KINDS: [Kind; 3] = [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3];

    fn tokenizer() -> Tokenizer {
        Tokenizer::of_characters(&('a'..='p').collect()).unwrap()
    }

    fn params(kind: Kind) -> (ModelConfig, Params) {
        let config = ModelConfig { context: CONTEXT, d_model: 16, ..tiny(kind) };
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        (config, params)
    }

    /// A model whose likeliest token depends on all that it reads.
    fn model(kind: Kind) -> Gpt {
        let (config, params) = params(kind);
        let (tokens, _) = embedding_names(kind);
        for (n, (name, parameter)) in params.iter().filter(|(_, p)| p.var().rank() == 2).enumerate() {
            let drawn = draw(n as u64, parameter.var().dims());
            // Tokens of equal length, so that none is the likeliest everywhere.
            let values = if name == tokens { drawn.sign().unwrap() * 0.5 } else { drawn * 0.2 };
            parameter.set(&values.unwrap()).unwrap();
        }
        Gpt::new(&config, &params, Precision::F32).unwrap()
    }

    /// Nine of 1 to 14 tokens.
    fn prompts() -> Vec<Vec<u32>> {
        (0..9).map(|n: u32| (0..1 + n * 5 % 14).map(|i| (n * 7 + i * (n + 3)) % 16).collect()).collect()
    }

    fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    fn requests(prompts: Vec<Vec<u32>>, n_samples: usize, sampling: Sampling) -> BatchRequest {
        BatchRequest {
            prompts,
            first_prompt: 0,
            late_ends: LateEnds::default(),
            max_rows: 4,
            options: GenerationOptions { n_samples, max_new_tokens: 9, stop: Vec::new(), log_probs: Some(2), sampling },
        }
    }

    type Completions = BTreeMap<(usize, usize), Completion>;

    fn all(model: &Gpt, end_of_text: &[u32], requests: &BatchRequest) -> Completions {
        let mut all = BTreeMap::new();
        generate_batch(model, &tokenizer(), end_of_text, requests, |prompt, sample, completion| {
            assert!(all.insert((prompt, sample), completion).is_none(), "{prompt}, {sample} is given twice");
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(all.len(), requests.prompts.len() * requests.options.n_samples);
        all
    }

    /// The samples of one prompt, by themselves.
    fn alone(model: &Gpt, end_of_text: &[u32], requests: &BatchRequest, prompt: &[u32]) -> Vec<Completion> {
        let request = GenerationRequest { prompt: prompt.to_vec(), options: requests.options.clone() };
        generate(model, &tokenizer(), end_of_text, &request, |_, _| Ok(ControlFlow::Continue(()))).unwrap()
    }

    /// From its place on, the token ends the continuation; before, and to the last token, it is one like any other.
    #[test]
    fn late_ends_end_from_their_length_on_and_other_ends_at_once() {
        let model = model(Kind::Gpt2);
        let plain = all(&model, &[], &requests(prompts(), 1, greedy()));
        let first_use = |one: &Completion, at: usize| !one.tokens[..at].contains(&one.tokens[at]);
        let (&(prompt, _), one) = plain.iter().find(|(_, one)| first_use(one, 3)).unwrap();
        let end = one.tokens[3];
        let ended = |ends: &[u32], after: usize| {
            let late_ends = LateEnds { tokens: vec![end], after };
            let requests = BatchRequest { late_ends, ..requests(prompts(), 1, greedy()) };
            all(&model, ends, &requests).remove(&(prompt, 0)).unwrap()
        };
        for after in [0, 3] {
            let found = ended(&[], after);
            assert_eq!((found.tokens.as_slice(), found.finish), (&one.tokens[..3], Finish::EndOfText));
            assert_eq!(found.end.unwrap().id, end);
        }
        assert_eq!(ended(&[], 9).tokens, one.tokens);
        assert_eq!(ended(&[end], 9).tokens, one.tokens[..3]);
    }

    #[test]
    fn prompts_together_are_continued_as_one_by_one() {
        for kind in KINDS {
            let model = model(kind);
            let mut requests = requests(prompts(), 1, greedy());
            let alone: Vec<_> = prompts().iter().map(|p| alone(&model, &[], &requests, p).remove(0)).collect();
            let texts: BTreeSet<_> = alone.iter().map(|one| &one.text).collect();
            assert!(texts.len() > 6, "{kind:?}: a model that always says the same proves nothing: {texts:?}");
            for max_rows in [1, 2, 5] {
                requests.max_rows = max_rows;
                for ((prompt, _), completion) in all(&model, &[], &requests) {
                    assert_eq!(completion, alone[prompt]);
                }
            }
        }
    }

    #[test]
    fn log_probs_are_those_of_a_fresh_pass_at_each_place() {
        for kind in KINDS {
            let model = model(kind);
            let ends = [3, 8, 12, 15];
            let mut ended = 0;
            let mut requests = requests(prompts(), 3, Sampling::default());
            requests.options.log_probs = Some(0);
            for ((prompt, _), completion) in all(&model, &ends, &requests) {
                let prompt = &requests.prompts[prompt];
                let tokens = [&prompt[..], &completion.tokens].concat();
                let input = Input::ragged([&*tokens], &Device::Cpu).unwrap();
                let logits = model.logits(&input, Pass::Eval).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
                let said: Vec<_> = completion.log_probs.iter().chain(&completion.end).collect();
                let ids: Vec<u32> = said.iter().map(|one| one.id).collect();
                assert_eq!(completion.log_probs.len(), completion.tokens.len());
                assert_eq!(ids[..completion.tokens.len()], completion.tokens);
                assert_eq!(completion.end.is_some(), completion.finish == Finish::EndOfText);
                assert!(completion.end.iter().all(|end| ends.contains(&end.id)));
                ended += usize::from(completion.end.is_some());
                for (one, logits) in said.iter().zip(&logits[prompt.len() - 1..]) {
                    assert!((one.log_prob - log_probs(logits)[one.id as usize]).abs() < 1e-5, "{kind:?}: {one:?}");
                }
            }
            assert!((1..27).contains(&ended), "{kind:?}: {ended} of 27 have an end");
        }
    }

    #[test]
    fn what_is_drawn_depends_on_the_prompts_number_alone() {
        let model = model(Kind::Gpt2);
        let mut requests = requests(prompts(), 3, Sampling::default());
        let together = all(&model, &[], &requests);
        for max_rows in [1, 2, 5, 64] {
            requests.max_rows = max_rows;
            all(&model, &[], &requests).iter().zip(&together).for_each(|(a, b)| assert_eq!(a, b));
        }
        for (number, prompt) in prompts().into_iter().enumerate() {
            let requests =
                BatchRequest { prompts: vec![prompt], first_prompt: number as u32, max_rows: 2, ..requests.clone() };
            for ((_, sample), completion) in all(&model, &[], &requests) {
                assert_eq!(&completion, &together[&(number, sample)]);
            }
        }
        for (sample, completion) in alone(&model, &[], &requests, &requests.prompts[0]).iter().enumerate() {
            assert_eq!(completion, &together[&(0, sample)]);
        }
        let same = vec![vec![1, 2]; 4];
        let drawn = all(&model, &[], &BatchRequest { prompts: same, ..requests });
        let texts: BTreeSet<_> = drawn.values().map(|one| &one.text).collect();
        assert_eq!(texts.len(), 12, "each prompt and sample draws for itself");
    }

    #[test]
    fn rows_end_by_themselves_within_a_batch() {
        for kind in KINDS {
            let model = model(kind);
            let mut requests = requests(prompts(), 1, greedy());
            let free = all(&model, &[], &requests);
            // The token that fewest say is an end; what one says that is without it is a stop string.
            let with = |token: &u32| free.values().filter(|one| one.tokens.contains(token)).count();
            let end = (0..16).filter(|token| with(token) > 0).min_by_key(with).unwrap();
            let other = free.values().find(|one| !one.tokens.contains(&end)).unwrap();
            let (ends, stop) = ([end], other.text[5..8].to_owned());
            requests.options.stop = vec!["never".to_owned(), stop];
            let ended = all(&model, &ends, &requests);
            let finishes: Vec<Finish> = ended.values().map(|one| one.finish).collect();
            for finish in [Finish::EndOfText, Finish::Stop, Finish::Length] {
                assert!(finishes.contains(&finish), "{kind:?}: {finishes:?}");
            }
            for ((prompt, _), completion) in &ended {
                assert_eq!(completion, &alone(&model, &ends, &requests, &requests.prompts[*prompt])[0]);
            }
        }
    }

    #[test]
    fn a_continuation_ends_where_the_context_does() {
        for kind in KINDS {
            let model = model(kind);
            let long = |n: usize| (0..n as u32).map(|i| i % 16).collect::<Vec<_>>();
            let lens = [CONTEXT - 3, 2, CONTEXT, CONTEXT - 1, 20];
            let requests = requests(lens.map(long).to_vec(), 2, Sampling::default());
            for ((prompt, _), completion) in all(&model, &[], &requests) {
                let room = [3, 9, 0, 1, 4][prompt];
                assert_eq!((completion.tokens.len(), completion.finish), (room, Finish::Length), "{kind:?} {prompt}");
            }
        }
        let mut none = requests(prompts(), 2, greedy());
        none.options.max_new_tokens = 0;
        assert!(all(&model(Kind::Gpt1), &[], &none).values().all(|one| one.tokens.is_empty()));
        none.options.n_samples = 0;
        assert!(all(&model(Kind::Gpt1), &[], &none).is_empty());
    }

    #[test]
    fn prompts_that_cannot_be_continued_are_named() {
        let model = model(Kind::Gpt2);
        let error = |bad: Vec<u32>| {
            let requests = requests(vec![vec![1], vec![2, 3], bad], 1, greedy());
            let go_on = |_: usize, _: usize, _: Completion| Ok(ControlFlow::Continue(()));
            format!("{:#}", generate_batch(&model, &tokenizer(), &[], &requests, go_on).unwrap_err())
        };
        assert_eq!(error(vec![1; 25]), "prompt 2 has 25 tokens, more than the context of 24");
        assert!(error(Vec::new()).starts_with("prompt 2 cannot be continued: the prompt is empty"));
        assert!(error(vec![17]).ends_with("token 17 of the prompt is outside the vocabulary of 17"));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let (config, params) = params(Kind::Gpt2);
        let ln_f = params.get("transformer.ln_f.bias").unwrap();
        ln_f.set(&(ln_f.var().as_tensor() * f64::NAN).unwrap()).unwrap();
        let model = Gpt::new(&config, &params, Precision::F32).unwrap();
        let go_on = |_: usize, _: usize, _: Completion| Ok(ControlFlow::Continue(()));
        let error = generate_batch(&model, &tokenizer(), &[], &requests(prompts(), 1, greedy()), go_on).unwrap_err();
        assert!(error.to_string().contains("is NaN or infinite"), "{error}");
    }

    #[test]
    fn who_gets_the_continuations_may_end_it() {
        let (model, mut n) = (model(Kind::Gpt2), 0);
        let count = |_: usize, _: usize, _: Completion| {
            n += 1;
            Ok(if n == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        generate_batch(&model, &tokenizer(), &[], &requests(prompts(), 2, greedy()), count).unwrap();
        assert_eq!(n, 3);
    }
}
