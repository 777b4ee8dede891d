//! A language model with a scalar output instead of the unembedding: tokens → rewards.

use crate::group::{Group, GroupEncoder};
use crate::reading::SharedPrompts;
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use gptkit_data::dialogue::Message;
use gptkit_data::pack::like_lengths;
use gptkit_data::template::Template;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::generate::{Completion, Finish};
use gptkit_model::load::ModelFolder;
use gptkit_model::{ClassHead, Gpt, HeadDescription, Pass};
use std::path::Path;

/// Tokens that the model reads at a time, but for a longer sequence alone.
const TOKENS_AT_A_TIME: usize = 4096;

/// A model that rewards: the head reads the last layer at a sequence's last token (Ouyang et al. 2022, §3.5).
#[derive(Debug)]
pub struct RewardModel {
    /// The language model below the head.
    pub gpt: Gpt,
    /// Its one score.
    pub head: ClassHead,
}

impl RewardModel {
    /// The rewards of all sequences of `groups`, `[N]`, as part of a graph when `pass` trains. What a group's sequences
    /// share is read once, where that saves work.
    ///
    /// # Errors
    /// When a token is not of the vocabulary, or a sequence over the context.
    pub fn of_groups(&self, groups: &[Group], pass: Pass) -> Result<Tensor> {
        let groups: Vec<&Group> = groups.iter().collect();
        let reading = SharedPrompts::of(&groups, &self.gpt)?;
        let sequences = groups.iter().flat_map(|group| &group.sequences).enumerate();
        let ends: Vec<u32> = sequences.map(|(i, sequence)| reading.row(i, sequence.len() - 1)).collect();
        let hidden = self.gpt.hidden(&reading.input, pass.of_part())?.squeeze(0)?; // [tokens, D]
        let states = hidden.index_select(&Tensor::new(ends, self.gpt.device())?, 0)?; // [N, D]
        Ok(self.head.forward(&states, 1, 0.0, pass)?.squeeze(1)?)
    }

    /// The reward of each of `sequences`.
    ///
    /// # Errors
    /// As [`RewardModel::of_groups`], and when a reward is no number.
    pub fn rewards(&self, sequences: &[Vec<u32>]) -> Result<Vec<f32>> {
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let mut rewards = vec![0.0; sequences.len()];
        for batch in like_lengths(&lengths, TOKENS_AT_A_TIME) {
            let group =
                |&i: &usize| Group { sequences: vec![sequences[i].clone()], prompt: 0, places: vec![1], gold: None };
            let groups: Vec<Group> = batch.iter().map(group).collect();
            let found: Vec<f32> = self.of_groups(&groups, Pass::Eval)?.to_vec1()?;
            batch.iter().zip(found).for_each(|(&i, reward)| rewards[i] = reward);
        }
        ensure!(
            rewards.iter().all(|reward| reward.is_finite()),
            "the output of the reward model is NaN or infinite; its weights are damaged or its training diverged"
        );
        Ok(rewards)
    }
}

/// A reward model that reads text: a folder that `train-rm` made.
#[derive(Debug)]
pub struct Scorer {
    /// The model.
    pub model: RewardModel,
    /// How it reads dialogues.
    pub encoder: GroupEncoder,
    /// What `config.json` names for padding: the reward is read at the last other token.
    pad: Option<u32>,
}

/// What became of a prompt's completions.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRewards {
    /// The reward of each.
    pub rewards: Vec<f32>,
    /// Whether the prompt's oldest turns were left out.
    pub cut: bool,
}

impl Scorer {
    /// The reward model in `folder`; `files` is what was read of it, and `gpt` its model.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(folder: &Path, mut files: ModelFolder, gpt: Gpt) -> Result<Self> {
        let description = HeadDescription::load_reward(folder)?.with_context(|| {
            format!(
                "{} is not a reward model; train one with `gptkit train-rm`, or use the folder of its run",
                folder.display()
            )
        })?;
        let head = ClassHead::load(&mut files.params, folder)?;
        let template = Template::required(&files.tokenizer, folder)?;
        let ModelFolder { tokenizer, config, .. } = files;
        let encoder = GroupEncoder { tokenizer, template, context: config.context };
        Ok(Self { model: RewardModel { gpt, head }, encoder, pad: description.pad })
    }

    /// Whether it reads dialogues as a model does that has this `tokenizer` and `template`, so that it can judge that
    /// model's tokens as they are.
    pub fn reads_as(&self, tokenizer: &Tokenizer, template: &Template) -> bool {
        self.encoder.template.source() == template.source() && self.encoder.tokenizer.agrees_with(tokenizer)
    }

    /// Each completion after its prompt, as a model wrote it that this [reads as](Scorer::reads_as); the sign that ended it
    /// is read where the window has room.
    ///
    /// # Errors
    /// When the template has no end of an answer.
    pub fn sequences<'a>(&self, all: impl Iterator<Item = (&'a [u32], &'a Completion)>) -> Result<Vec<Vec<u32>>> {
        let end = self.encoder.template.end_token(&self.encoder.tokenizer)?;
        let sequence = |(prompt, completion): (&[u32], &Completion)| {
            let mut tokens = [prompt, &completion.tokens].concat();
            let ended = completion.finish == Finish::EndOfText && tokens.len() < self.encoder.context;
            tokens.extend(end.filter(|_| ended));
            self.without_padding(tokens)
        };
        Ok(all.map(sequence).collect())
    }

    /// The rewards of `completions` of `prompt`; nothing when one of them does not fit the window.
    ///
    /// # Errors
    /// When the template refuses the messages, or as [`RewardModel::rewards`].
    pub fn score(&self, prompt: &[Message], completions: &[Vec<Message>]) -> Result<Option<GroupRewards>> {
        let Some(fitted) = self.encoder.group(prompt, completions)? else { return Ok(None) };
        let sequences: Vec<Vec<u32>> = fitted.sequences.into_iter().map(|s| self.without_padding(s)).collect();
        Ok(Some(GroupRewards { rewards: self.model.rewards(&sequences)?, cut: fitted.cut }))
    }

    /// `sequence` up to where transformers reads its reward: the last token that is not the one for padding, even where that
    /// one also ends an answer.
    pub(crate) fn without_padding(&self, mut sequence: Vec<u32>) -> Vec<u32> {
        let n = sequence.iter().rposition(|&token| Some(token) != self.pad).map_or(1, |last| last + 1);
        sequence.truncate(n);
        sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{LossConfig, Pairs};
    use candle_core::Device;
    use gptkit_model::{Kind, ModelConfig, Params, Weights};
    use gptkit_ops::Precision;

    fn model(kind: Kind) -> (RewardModel, Params) {
        let text = serde_json::json!({
            "kind": kind, "n_layer": 2, "n_head": 2, "d_model": 16, "context": 40, "vocab_size": 23, "init_std": 0.02,
        });
        let config: ModelConfig = serde_json::from_value(text).unwrap();
        let mut params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let head = ClassHead::init_reward(&mut params, 16, 1).unwrap();
        // Larger than first values are, so that differences can be measured.
        for (name, parameter) in params.iter() {
            if name.ends_with("weight") && parameter.var().rank() == 2 {
                parameter.set(&(parameter.tensor(false) * 4.0).unwrap()).unwrap();
            }
        }
        (RewardModel { gpt: Gpt::new(&config, &params, Precision::F32).unwrap(), head }, params)
    }

    /// K completions of uneven lengths after `shared` tokens.
    fn group(k: u32, shared: u32, places: Vec<u32>) -> Group {
        let tokens = |from: u32, n: u32| (0..n).map(move |t| (from * 5 + t * 3 + t * t) % 23).collect::<Vec<u32>>();
        let sequences =
            (0..k).map(|i| [tokens(0, shared), vec![i % 23], tokens(i, 1 + (3 * i) % 9)].concat()).collect();
        Group { sequences, prompt: shared as usize, places, gold: None }
    }

    const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

    fn gradients(params: &Params, loss: &Tensor) -> Vec<(String, Tensor)> {
        Weights::from(params.clone()).begin_update().backward(|| anyhow::Ok(loss.clone())).unwrap();
        params.iter().map(|(name, p)| (name.to_owned(), p.gradient().unwrap())).collect()
    }

    fn largest(x: &Tensor) -> f64 {
        f64::from(x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap())
    }

    /// The loss of a group, each completion run once, is that of its pairs one by one, each with both of its sequences run
    /// for it; so are the gradients.
    #[test]
    fn a_group_has_the_loss_and_gradients_of_its_pairs_one_by_one() {
        let mut rankings: Vec<Vec<u32>> = (2..=9).map(|k| (1..=k).rev().collect()).collect();
        rankings.extend([vec![1, 2, 2], vec![2, 1, 1, 3, 2], vec![1, 1, 1, 2], vec![3, 2, 2, 1, 1, 3, 4, 4, 5]]);
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            for (places, shared) in rankings.iter().zip([9, 0, 1, 20].into_iter().cycle()) {
                let (model, params) = model(kind);
                let group = group(places.len() as u32, shared, places.clone());
                let config = LossConfig::default();
                let rewards = model.of_groups(std::slice::from_ref(&group), TRAIN).unwrap();
                let loss = Pairs::of([places.as_slice()], 1).loss(&rewards, &config).unwrap();
                let together = gradients(&params, &loss);

                let pairs: Vec<(usize, usize)> = group.pairs().collect();
                let one = |&(winner, loser): &(usize, usize)| {
                    let sequences = [group.sequences[winner].clone(), group.sequences[loser].clone()];
                    // Alone and end to end: nothing is shared.
                    let alone = |sequence: &Vec<u32>| Group {
                        sequences: vec![sequence.clone()],
                        prompt: 0,
                        places: vec![1],
                        gold: None,
                    };
                    let both: Vec<Group> = sequences.iter().map(alone).collect();
                    let rewards = model.of_groups(&both, TRAIN).unwrap();
                    Pairs::of([&[1, 2][..]], 1).loss(&rewards, &config).unwrap()
                };
                let losses: Vec<Tensor> = pairs.iter().map(one).collect();
                let mean = (Tensor::stack(&losses, 0).unwrap().sum_all().unwrap() / pairs.len() as f64).unwrap();
                let off = largest(&(&loss - &mean).unwrap());
                assert!(off <= 1e-6 * largest(&mean).max(1.0), "{kind:?} {places:?}: the loss is off by {off}");
                // To a millionth of the largest gradient: sums of f32 in another order.
                let one_by_one = gradients(&params, &mean);
                let most = one_by_one.iter().map(|(_, gradient)| largest(gradient)).fold(0.0, f64::max);
                for ((name, have), (_, want)) in together.iter().zip(&one_by_one) {
                    let off = largest(&(have - want).unwrap());
                    assert!(off <= 1e-6 * most, "{kind:?} {places:?} {name}: off by {off} of {most}");
                }
            }
        }
    }

    #[test]
    fn rewards_do_not_depend_on_what_is_read_beside() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let (model, _) = model(kind);
            let groups = [group(4, 9, vec![1, 2, 3, 4]), group(2, 0, vec![1, 2]), group(3, 25, vec![1, 1, 2])];
            let together: Vec<f32> = model.of_groups(&groups, Pass::Eval).unwrap().to_vec1().unwrap();
            let all: Vec<Vec<u32>> = groups.iter().flat_map(|group| group.sequences.clone()).collect();
            let sorted = model.rewards(&all).unwrap();
            for (i, sequence) in all.iter().enumerate() {
                let alone = model.rewards(std::slice::from_ref(sequence)).unwrap()[0];
                assert!((together[i] - alone).abs() < 1e-5 && (sorted[i] - alone).abs() < 1e-5, "{kind:?} {i}");
            }
            assert!(together.iter().any(|reward| (reward - together[0]).abs() > 1e-2), "{together:?}");
        }
    }

    #[test]
    fn damaged_weights_give_no_reward() {
        let (model, params) = model(Kind::Gpt2);
        let (_, weight) = params.iter().last().unwrap();
        weight.set(&(weight.tensor(false) * f64::NAN).unwrap()).unwrap();
        assert!(model.rewards(&[vec![1, 2]]).unwrap_err().to_string().contains("NaN or infinite"));
    }
}
