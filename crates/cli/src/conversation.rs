//! What was said in a chat, and how a model reads it.

use anyhow::{Result, bail};
use data::dialogue::{Message, Role};
use data::template::{Template, encode};
use data::tokenizer::Tokenizer;
use serde_json::json;
use std::path::Path;

/// How messages become tokens.
#[derive(Debug)]
pub(crate) enum Form {
    /// As the model was trained to read them.
    Template {
        /// The model's own.
        template: Box<Template>,
        /// Token that ends an answer, if the template has one.
        end_of_turn: Option<u32>,
    },
    /// As a text that a plain language model may have seen the like of.
    Plain,
}

impl Form {
    /// That of the model in `folder`.
    pub(crate) fn of(folder: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        Ok(match Template::load(folder)? {
            Some(template) => {
                let end_of_turn = template.end_token(tokenizer)?;
                Self::Template { template: Box::new(template), end_of_turn }
            }
            None => Self::Plain,
        })
    }

    /// The token that ends an answer, if the form has one.
    pub(crate) fn end_of_turn(&self) -> Option<u32> {
        match self {
            Self::Template { end_of_turn, .. } => *end_of_turn,
            Self::Plain => None,
        }
    }

    /// The text that ends an answer, if the form has one.
    pub(crate) fn stop(&self) -> Option<&'static str> {
        matches!(self, Self::Plain).then_some("\nUser:")
    }

    /// Tokens of `messages` up to where the answer to the last begins.
    fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
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

/// A question and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) question: String,
    pub(crate) answer: String,
}

/// What was said so far.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) system: Option<String>,
    pub(crate) turns: Vec<Turn>,
    /// The first turn that the model still reads.
    first: usize,
}

/// What a model is given to answer.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    /// Longest answer for which there is room.
    pub(crate) max_new_tokens: usize,
    /// Whether the model has just begun to read less than all.
    pub(crate) forgets: bool,
}

impl Conversation {
    /// Leaves out the oldest turns until `question` and an answer of `max_new_tokens` fit into `context`; where that is
    /// not enough, the answer has what room there is.
    pub(crate) fn prompt(
        &mut self,
        question: &str,
        form: &Form,
        tokenizer: &Tokenizer,
        context: usize,
        max_new_tokens: usize,
    ) -> Result<Prompt> {
        let mut first = self.first.min(self.turns.len());
        loop {
            let tokens = form.prompt(tokenizer, &self.messages(first, Some(question)))?;
            let room = context.saturating_sub(tokens.len());
            let last = first == self.turns.len();
            if room >= max_new_tokens || last && room > 0 {
                let forgets = self.first == 0 && first > 0;
                self.first = first;
                return Ok(Prompt { max_new_tokens: max_new_tokens.min(room), tokens, forgets });
            }
            if last {
                bail!(
                    "the message does not fit into the model's window of {context} tokens: {}it takes {}",
                    if self.system.is_some() { "with the system message " } else { "" },
                    tokens.len()
                );
            }
            first += 1;
        }
    }

    /// Forgets all but the system message.
    pub(crate) fn reset(&mut self) {
        self.turns.clear();
        self.first = 0;
    }

    /// The system message, the turns from `first` on, and the question that is open.
    fn messages(&self, first: usize, question: Option<&str>) -> Vec<Message> {
        let message = |role, content: &str| Message::new(role, content);
        let system = self.system.iter().map(|text| message(Role::System, text));
        let turns = self.turns[first..].iter();
        let turns = turns.flat_map(|t| [message(Role::User, &t.question), message(Role::Assistant, &t.answer)]);
        system.chain(turns).chain(question.map(|text| message(Role::User, text))).collect()
    }

    /// All of it as a record that fine-tuning reads.
    pub(crate) fn record(&self) -> String {
        json!({ "messages": self.messages(0, None) }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::of_characters(&(' '..='~').chain(['\n']).collect()).unwrap()
    }

    fn conversation() -> Conversation {
        let turn = |n: usize| Turn { question: format!("q{n}"), answer: format!("a{n}") };
        Conversation { system: Some("be kind".to_owned()), turns: (0..4).map(turn).collect(), first: 0 }
    }

    fn prompt(
        of: &mut Conversation,
        question: &str,
        context: usize,
        max_new_tokens: usize,
    ) -> Result<(String, Prompt)> {
        let prompt = of.prompt(question, &Form::Plain, &tokenizer(), context, max_new_tokens)?;
        Ok((tokenizer().decode(&prompt.tokens).unwrap(), prompt))
    }

    #[test]
    fn the_oldest_turns_go_first_and_the_system_message_stays() {
        let turn = "User: q0\nAssistant: a0\n".len();
        let all = "be kind\n\n".len() + 4 * turn + "User: q4\nAssistant:".len();
        let mut conversation = conversation();
        let (text, whole) = prompt(&mut conversation, "q4", all + 10, 10).unwrap();
        assert!(text.starts_with("be kind\n\nUser: q0\nAssistant: a0\nUser: q1\n"), "{text}");
        assert!(text.ends_with("Assistant: a3\nUser: q4\nAssistant:") && !whole.forgets, "{text}");
        let (text, part) = prompt(&mut conversation, "q4", all + 10, 11).unwrap();
        assert!(text.starts_with("be kind\n\nUser: q1\n") && part.forgets, "{text}");
        let (text, less) = prompt(&mut conversation, "q4", all - turn, 10).unwrap();
        assert!(text.starts_with("be kind\n\nUser: q2\n") && !less.forgets, "it is said once\n{text}");
        let (text, _) = prompt(&mut conversation, "q4", 10 * all, 10).unwrap();
        assert!(text.starts_with("be kind\n\nUser: q2\n"), "what was forgotten stays so\n{text}");
        assert!(conversation.record().contains(r#"{"role":"user","content":"q0"}"#), "but is saved");
    }

    #[test]
    fn an_answer_has_the_room_that_is_left_and_needs_some() {
        let alone = "be kind\n\nUser: q4\nAssistant:".len();
        let (text, prompted) = prompt(&mut conversation(), "q4", alone + 3, 100).unwrap();
        assert_eq!((text.len(), prompted.max_new_tokens), (alone, 3));
        let mut conversation = conversation();
        let error = prompt(&mut conversation, "q4", alone, 100).unwrap_err().to_string();
        let says = format!("window of {alone} tokens: with the system message it takes {alone}");
        assert!(error.contains(&says), "{error}");
        let (text, _) = prompt(&mut conversation, "q4", 10 * alone, 10).unwrap();
        assert!(text.contains("q0"), "a message that was refused made nothing forgotten\n{text}");
    }

    #[test]
    fn an_answer_ends_where_its_template_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        tokenizer().save(folder.path()).unwrap();
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
        data::disk::write(&path, json.to_string().as_bytes()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(Form::of(folder.path(), &tokenizer).unwrap().end_of_turn(), None, "a model without a template");
        let template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|assistant|>\n{% endif %}";
        data::disk::write(&folder.path().join("chat_template.jinja"), template.as_bytes()).unwrap();
        assert_eq!(Form::of(folder.path(), &tokenizer).unwrap().end_of_turn(), Some(end));
    }
}
