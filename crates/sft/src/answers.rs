//! What a model answers, before and after.

use crate::dialogues::{DialogueConfig, first_dialogues};
use anyhow::{Context, Result};
use data::dialogue::{Message, Role};
use data::disk;
use data::progress::{Progress, Unit};
use data::template::{Template, encode};
use data::tokenizer::Tokenizer;
use data::world::{InstructionKind, Instructions, Part};
use model::Gpt;
use model::generate::{Request, generate};
use model::sampler::Sampling;
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
    /// The likeliest answer to `messages`, of at most `most` tokens.
    ///
    /// # Errors
    /// When the template refuses them, or the model's numbers are damaged.
    pub fn answer(&self, messages: &[Message], most: usize) -> Result<String> {
        let prompt = encode(&self.template.prompt(messages)?, self.tokenizer)?;
        let request = Request {
            prompt: prompt.into_iter().map(|(id, _)| id).collect(),
            n_samples: 1,
            max_new_tokens: most,
            stop: Vec::new(),
            log_probs: None,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        };
        let on_text = |_: usize, _: &str| Ok(ControlFlow::Continue(()));
        let completions = generate(self.model, self.tokenizer, self.ends, &request, on_text)?;
        Ok(completions.into_iter().next().map(|completion| completion.text).unwrap_or_default())
    }

    /// How many of `n` held-out instructions of the embedded world it follows, and how many there are, by kind.
    ///
    /// # Errors
    /// As [`Answerer::answer`].
    pub fn grade_world(
        &self,
        seed: u64,
        n: u64,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<InstructionKind, (u32, u32)>> {
        let task = progress.task("grading", Some(n), Unit::Items);
        let instructions = Instructions::new(seed, Part::HeldOut);
        let mut right: BTreeMap<InstructionKind, (u32, u32)> = BTreeMap::new();
        for index in 0..n {
            let instruction = instructions.instruction(index);
            let asked = [Message::new(Role::User, instruction.prompt.clone())];
            let reply = self.answer(&asked, 64)?;
            let (followed, all) = right.entry(instruction.kind).or_default();
            *followed += u32::from(instruction.grade(&reply));
            *all += 1;
            task.advance(1);
        }
        Ok(right)
    }
}

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
) -> Result<()> {
    let task = progress.task("asking", Some(PROMPTS as u64), Unit::Items);
    let ask = |(messages, reference): (Vec<Message>, String)| {
        let before = model.answer(&messages, LONGEST)?;
        task.advance(1);
        Ok(Asked { messages, reference, before, after: None })
    };
    let asked: Vec<Asked> = first_dialogues(config, PROMPTS)?.into_iter().map(ask).collect::<Result<_>>()?;
    write(folder, &asked)
}

/// Asks the trained model the same.
///
/// # Errors
/// As [`ask_before`].
pub(crate) fn ask_after(folder: &Path, model: &Answerer, progress: &dyn Progress) -> Result<Vec<Asked>> {
    let path = folder.join(ANSWERS);
    let mut asked: Vec<Asked> = serde_json::from_str(&disk::read_description(&path)?)
        .with_context(|| format!("{} is not as a run writes it", path.display()))?;
    let task = progress.task("asking", Some(asked.len() as u64), Unit::Items);
    for one in &mut asked {
        one.after = Some(model.answer(&one.messages, LONGEST)?);
        task.advance(1);
    }
    write(folder, &asked)?;
    Ok(asked)
}

fn write(folder: &Path, asked: &[Asked]) -> Result<()> {
    disk::write(&folder.join(ANSWERS), (serde_json::to_string_pretty(asked)? + "\n").as_bytes())?;
    disk::write(&folder.join(SHOWN), table(asked).as_bytes())
}

/// Side by side, in Markdown.
fn table(asked: &[Asked]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', "<br>");
    let mut out = "| prompt | before | after | the data's answer |\n| --- | --- | --- | --- |\n".to_owned();
    for Asked { messages, reference, before, after } in asked {
        let prompt: Vec<String> =
            messages.iter().map(|message| format!("**{}** {}", message.role, cell(&message.content))).collect();
        let after = after.as_deref().unwrap_or("…");
        out += &format!("| {} | {} | {} | {} |\n", prompt.join("<br>"), cell(before), cell(after), cell(reference));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

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
