//! What a model answers, before and after.

use crate::dialogues::{DialogueConfig, first_dialogues};
use anyhow::{Context, Result};
use gptkit_data::dialogue::Message;
use gptkit_data::disk;
use gptkit_data::progress::{Progress, ProgressTask, Unit};
use gptkit_data::split::Split;
use gptkit_data::synthetic::{InstructionKind, SyntheticInstruction, SyntheticInstructions};
use gptkit_data::template::{Template, encode};
use gptkit_data::text_table::{Align, markdown};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::Gpt;
use gptkit_model::generate::{GenerationOptions, LateEnds};
use gptkit_model::generate_batch::{BatchRequest, generate_batch};
use gptkit_model::sampler::Sampling;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// A model that answers.
pub struct Answerer<'a> {
    /// It.
    pub model: &'a Gpt,
    /// Its tokens.
    pub tokenizer: &'a Tokenizer,
    /// How dialogues are written.
    pub template: &'a Template,
    /// Tokens that end an answer.
    pub ends: &'a [u32],
}

impl Answerer<'_> {
    /// The likeliest answers to `dialogues`, of at most `most` tokens each, written together. An answer ends where the
    /// context does; of a dialogue that is over it, the last half of a context is read. `task` counts the answers.
    ///
    /// # Errors
    /// When the template refuses a dialogue, or the model's numbers are damaged.
    pub fn answer_all(&self, dialogues: &[Vec<Message>], most: usize, task: &dyn ProgressTask) -> Result<Vec<String>> {
        let requests = BatchRequest {
            prompts: dialogues.iter().map(|messages| self.prompt(messages)).collect::<Result<_>>()?,
            first_prompt: 0,
            late_ends: LateEnds::default(),
            max_rows: ROWS,
            options: GenerationOptions {
                n_samples: 1,
                max_new_tokens: most,
                stop: Vec::new(),
                log_probs: None,
                sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            },
        };
        let mut answers = vec![String::new(); dialogues.len()];
        generate_batch(self.model, self.tokenizer, self.ends, &requests, |prompt, _, completion| {
            answers[prompt] = completion.text;
            task.advance(1);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(answers)
    }

    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let tokens = encode(&self.template.prompt(messages)?, self.tokenizer)?;
        let mut ids: Vec<u32> = tokens.into_iter().map(|(id, _)| id).collect();
        let context = self.model.config().context;
        if ids.len() > context {
            ids.drain(..ids.len() - (context / 2).max(1));
        }
        Ok(ids)
    }

    /// How many of `n` held-out instructions of the embedded world it follows, and how many there are, by kind.
    ///
    /// # Errors
    /// As [`Answerer::answer_all`].
    pub fn grade_world(
        &self,
        seed: u64,
        n: u64,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<InstructionKind, (u32, u32)>> {
        let task = progress.task("grading", Some(n), Unit::Items);
        let held_out = SyntheticInstructions::new(seed, Split::HeldOut);
        let instructions: Vec<SyntheticInstruction> = (0..n).map(|index| held_out.instruction(index)).collect();
        let asked: Vec<_> = instructions.iter().map(SyntheticInstruction::prompt).collect();
        let mut right: BTreeMap<InstructionKind, (u32, u32)> = BTreeMap::new();
        for (instruction, reply) in instructions.iter().zip(self.answer_all(&asked, 64, &*task)?) {
            let (followed, all) = right.entry(instruction.kind()).or_default();
            *followed += u32::from(instruction.is_followed(&reply));
            *all += 1;
        }
        Ok(right)
    }
}

/// Answers written at once.
const ROWS: usize = 64;

/// A prompt of the fixed set, and its answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The dialogue so far.
    pub messages: Vec<Message>,
    /// What the data says.
    pub reference: String,
    /// What the model answered that training started from.
    pub before: String,
    /// What the trained model answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

const ANSWERS: &str = "answers.json";
const SHOWN: &str = "answers.md";
/// Prompts of the fixed set.
const PROMPTS: usize = 8;
/// Longest answer, in tokens.
const LONGEST: usize = 96;

/// Asks the model before it is trained, and keeps the answers in the run's `folder`.
///
/// # Errors
/// When the prompts cannot be read or answered, or the file not written.
pub(crate) fn ask_before(
    folder: &Path,
    config: &DialogueConfig,
    model: &Answerer,
    progress: &dyn Progress,
) -> Result<Vec<Asked>> {
    let (dialogues, references): (Vec<_>, Vec<_>) = first_dialogues(config, PROMPTS)?.into_iter().unzip();
    let task = progress.task("generating answers", Some(dialogues.len() as u64), Unit::Items);
    let answers = model.answer_all(&dialogues, LONGEST, &*task)?;
    let asked: Vec<Asked> = dialogues
        .into_iter()
        .zip(references)
        .zip(answers)
        .map(|((messages, reference), before)| Asked { messages, reference, before, after: None })
        .collect();
    write(folder, &asked)?;
    Ok(asked)
}

/// The first dialogue of the fixed set of the run in `folder`; none where the set is empty.
///
/// # Errors
/// When its answers cannot be read.
pub(crate) fn first_question(folder: &Path) -> Result<Option<Vec<Message>>> {
    Ok(read(folder)?.into_iter().next().map(|one| one.messages))
}

fn read(folder: &Path) -> Result<Vec<Asked>> {
    let path = folder.join(ANSWERS);
    serde_json::from_str(&disk::read_description(&path)?)
        .with_context(|| format!("{} is not as a run writes it", path.display()))
}

/// Asks the trained model the same.
///
/// # Errors
/// As [`ask_before`].
pub(crate) fn ask_after(folder: &Path, model: &Answerer, progress: &dyn Progress) -> Result<Vec<Asked>> {
    let mut asked = read(folder)?;
    let task = progress.task("asking", Some(asked.len() as u64), Unit::Items);
    let dialogues: Vec<_> = asked.iter().map(|one| one.messages.clone()).collect();
    let answers = model.answer_all(&dialogues, LONGEST, &*task)?;
    asked.iter_mut().zip(answers).for_each(|(one, answer)| one.after = Some(answer));
    write(folder, &asked)?;
    Ok(asked)
}

fn write(folder: &Path, asked: &[Asked]) -> Result<()> {
    disk::write_json(&folder.join(ANSWERS), asked)?;
    disk::write(&folder.join(SHOWN), table(asked).as_bytes())
}

/// Side by side, in Markdown.
fn table(asked: &[Asked]) -> String {
    let columns = ["prompt", "before", "after", "reference answer"].map(|head| (head, Align::Left));
    let row = |Asked { messages, reference, before, after }: &Asked| {
        let prompt: Vec<String> =
            messages.iter().map(|message| format!("**{}** {}", message.role, message.content)).collect();
        let after = after.as_deref().unwrap_or("…");
        vec![prompt.join("\n"), before.clone(), after.to_owned(), reference.clone()]
    };
    markdown(&columns, asked.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_data::dialogue::Role;
    use gptkit_data::progress::Silent;
    use gptkit_model::generate::{GenerationRequest, generate};
    use gptkit_model::{Kind, ModelConfig, Params, PositionInit};
    use gptkit_ops::Precision;

    #[test]
    fn answers_together_are_the_likeliest_ones_one_by_one() {
        let tokenizer = Tokenizer::of_characters(&(' '..='~').chain(['\n']).collect()).unwrap();
        let config = ModelConfig {
            kind: Kind::Gpt2,
            n_layer: 2,
            n_head: 2,
            d_model: 16,
            context: 160,
            vocab_size: tokenizer.vocab_size(),
            band: None,
            embedding_dropout: 0.0,
            attention_dropout: 0.0,
            residual_dropout: 0.0,
            layer_norm_eps: 1e-5,
            n_inner: None,
            tie_word_embeddings: true,
            init_std: Some(0.02),
            position_init: PositionInit::Random,
        };
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        for (name, parameter) in params.iter().filter(|(name, _)| name.contains(".c_") || name.contains("wpe")) {
            parameter.set(&(parameter.var().as_tensor() * 12.0).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let model = Gpt::new(&config, &params, Precision::F32).unwrap();
        let template = Template::default_for_chat();
        let user = |text: &str| Message::new(Role::User, text);
        let mut dialogues: Vec<Vec<Message>> =
            (0..9).map(|n: usize| vec![user(&"What now? ".repeat(1 + n * 5 % 8))]).collect();
        dialogues.push(vec![user("Hi"), Message::new(Role::Assistant, "Yes?"), user("No.")]);
        dialogues.push(vec![user(&"too long ".repeat(20))]);
        let answerer = Answerer { model: &model, tokenizer: &tokenizer, template: &template, ends: &[] };
        let free = answerer.answer_all(&dialogues, 24, &Silent).unwrap();
        // A letter that comes within answers, not in all of them.
        let missing = |c: &char| free.iter().filter(|answer| !answer.contains(*c)).count();
        let letter = free.concat().chars().find(|c| (1..free.len()).contains(&missing(c))).unwrap();
        let ends = tokenizer.encode(&letter.to_string()).unwrap();
        let answers = Answerer { ends: &ends, ..answerer }.answer_all(&dialogues, 24, &Silent).unwrap();
        for ((dialogue, answer), free) in dialogues.iter().zip(answers).zip(free) {
            assert_eq!(answer, free.split(letter).next().unwrap(), "the token ends it");
            let prompt = encode(&template.prompt(dialogue).unwrap(), &tokenizer).unwrap();
            let request = GenerationRequest {
                prompt: prompt.into_iter().map(|(id, _)| id).collect(),
                options: GenerationOptions {
                    n_samples: 1,
                    max_new_tokens: 24,
                    stop: Vec::new(),
                    log_probs: None,
                    sampling: Sampling { temperature: 0.0, ..Sampling::default() },
                },
            };
            let go_on = |_: usize, _: &str| Ok(ControlFlow::Continue(()));
            let alone = generate(&model, &tokenizer, &ends, &request, go_on).unwrap();
            assert_eq!(answer, alone[0].text, "{dialogue:?}");
        }
    }

    #[test]
    fn answers_stand_side_by_side_whatever_they_hold() {
        let asked = Asked {
            messages: vec![Message::new(Role::User, "a|b\nc")],
            reference: "r".to_owned(),
            before: "x\ny".to_owned(),
            after: None,
        };
        assert!(table(&[asked]).ends_with("| **user** a\\|b<br>c | x<br>y | … | r |\n"));
    }
}
