//! What was said in a chat, and how a model reads it.

use anyhow::{Result, bail};
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::form::DialogueForm;
use gptkit_data::tokenizer::Tokenizer;
use serde_json::json;

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
        form: &DialogueForm,
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
        let prompt = of.prompt(question, &DialogueForm::Plain, &tokenizer(), context, max_new_tokens)?;
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
}
