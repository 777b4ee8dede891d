//! Stands in for `data::dialogue` and `data::template` until they are there: the same names, one fixed form.

use anyhow::Result;
use data::tokenizer::Tokenizer;
use serde::Serialize;
use std::path::Path;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Says how to answer.
    System,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

/// One turn of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Message {
    /// Who says it.
    pub(crate) role: Role,
    /// What is said.
    pub(crate) content: String,
}

/// How messages are written for a model.
#[derive(Debug)]
pub(crate) struct Template;

impl Template {
    /// The template of a model's folder, if it has one.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>> {
        Ok(folder.join("chat_template.jinja").exists().then_some(Self))
    }

    fn render(messages: &[Message], add_generation_prompt: bool) -> String {
        let role = |role| match role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let mut text: String =
            messages.iter().map(|m| format!("<|{}|>\n{}<|end|>\n", role(m.role), m.content)).collect();
        if add_generation_prompt {
            text += "<|assistant|>\n";
        }
        text
    }
}

/// Tokens of `messages`, and of the beginning of an answer.
pub(crate) fn encode_dialogue(
    _template: &Template,
    tokenizer: &Tokenizer,
    messages: &[Message],
    add_generation_prompt: bool,
) -> Result<Vec<u32>> {
    tokenizer.encode(&Template::render(messages, add_generation_prompt))
}
