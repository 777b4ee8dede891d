//! How a model reads a dialogue: by its chat template, or as plain text where it brings none.

use crate::message::{Message, Role};
use crate::template::{Template, encode};
use crate::tokenizer::Tokenizer;
use anyhow::Result;

/// How messages become tokens.
#[derive(Debug)]
pub enum DialogueForm {
    /// As the model was trained to read them.
    Template {
        /// The model's own.
        template: Box<Template>,
        /// Token that ends an answer, if the template has one.
        end_of_turn: Option<u32>,
    },
    /// As plain text with the names of the speakers, for a model without a chat template.
    Plain,
}

impl DialogueForm {
    /// That of the model whose tokenizer this is.
    ///
    /// # Errors
    /// When its template is damaged, or has no answer in it.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        Ok(match Template::of(tokenizer)? {
            Some(template) => {
                let end_of_turn = template.end_token(tokenizer)?;
                Self::Template { template: Box::new(template), end_of_turn }
            }
            None => Self::Plain,
        })
    }

    /// The same, whose template sees today's date.
    ///
    /// # Errors
    /// When `SOURCE_DATE_EPOCH` is set and is not a valid time.
    pub fn with_today(self) -> Result<Self> {
        Ok(match self {
            Self::Template { template, end_of_turn } => {
                Self::Template { template: Box::new(template.with_today()?), end_of_turn }
            }
            Self::Plain => Self::Plain,
        })
    }

    /// The token that ends an answer, if the form has one.
    pub fn end_of_turn(&self) -> Option<u32> {
        match self {
            Self::Template { end_of_turn, .. } => *end_of_turn,
            Self::Plain => None,
        }
    }

    /// The text that ends an answer, if the form has one.
    pub fn stop(&self) -> Option<&'static str> {
        matches!(self, Self::Plain).then_some("\nUser:")
    }

    /// The same for forms that make the same text of every dialogue.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Template { template, .. } => blake3::hash(template.source().as_bytes()).to_hex()[..16].to_owned(),
            Self::Plain => "plain".to_owned(),
        }
    }

    /// Whether `other` makes the same tokens of every dialogue, with the same tokenizer.
    pub fn is_read_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Template { template: a, .. }, Self::Template { template: b, .. }) => a.source() == b.source(),
            (Self::Plain, Self::Plain) => true,
            _ => false,
        }
    }

    /// Tokens of `messages` up to where the answer to the last begins.
    ///
    /// # Errors
    /// When the template refuses the messages, or a character has no token.
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
        match self {
            Self::Template { template, .. } => {
                let tokens = encode(&template.prompt(messages)?, tokenizer)?;
                Ok(tokens.into_iter().map(|(id, _)| id).collect())
            }
            Self::Plain => tokenizer.encode_document(&plain(messages)),
        }
    }
}

fn plain(messages: &[Message]) -> String {
    let line = |message: &Message| match message.role {
        Role::System => format!("{}\n\n", message.content),
        Role::User => format!("User: {}\n", message.content),
        Role::Assistant => format!("Assistant: {}\n", message.content),
    };
    messages.iter().map(line).collect::<String>() + "Assistant:"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_ends_where_its_template_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let characters = (' '..='~').chain(['\n']).collect();
        Tokenizer::of_characters(&characters).unwrap().save(folder.path()).unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let added = json["added_tokens"].as_array_mut().unwrap();
        for (token, id) in
            ["<|user|>", "<|assistant|>", "<|end|>"].into_iter().zip(added[0]["id"].as_u64().unwrap() + 1..)
        {
            let mut entry = added[0].clone();
            (entry["id"], entry["content"]) = (json!(id), json!(token));
            added.push(entry);
        }
        let end = added[3]["id"].as_u64().unwrap() as u32;
        crate::disk::write(&path, json.to_string().as_bytes()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(DialogueForm::of(&tokenizer).unwrap().end_of_turn(), None, "a model without a template");
        let template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|assistant|>\n{% endif %}";
        crate::disk::write(&folder.path().join("chat_template.jinja"), template.as_bytes()).unwrap();
        assert_eq!(DialogueForm::of(&Tokenizer::load(folder.path()).unwrap()).unwrap().end_of_turn(), Some(end));
    }
}
