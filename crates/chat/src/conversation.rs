//! The turns of a conversation, and the most recent of them that fit into a prompt.

use anyhow::{Result, bail};
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::form::DialogueForm;
use gptkit_data::tokenizer::Tokenizer;
use serde_json::json;
use std::ops::Range;

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Message of the user.
    pub question: String,
    /// Message of the assistant.
    pub answer: String,
}

/// System message and turns.
#[derive(Debug, Default)]
pub struct Conversation {
    /// The instructions that stand before all turns.
    pub system: Option<String>,
    /// Oldest first.
    pub turns: Vec<Turn>,
    /// The first turn that still goes into a prompt: a turn that was left out once stays out.
    first: usize,
}

/// Lengths in tokens that a prompt and its answer must keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PromptLimits {
    /// Of prompt and answer together.
    pub(crate) context: usize,
    /// The most tokens of an answer.
    pub(crate) max_new_tokens: usize,
}

/// The turns that fit, as tokens.
#[derive(Debug)]
pub(crate) struct FittedPrompt {
    pub(crate) tokens: Vec<u32>,
    /// Longest answer that fits.
    pub(crate) max_new_tokens: usize,
    /// Whether this is the first prompt that leaves out turns.
    pub(crate) forgets: bool,
}

impl Conversation {
    /// The prompt of `question` after the first `n_turns` turns. Leaves out the oldest of them until an answer of
    /// `limits.max_new_tokens` fits into the context too; where that is not enough, the answer is shorter.
    pub(crate) fn prompt(
        &mut self,
        n_turns: usize,
        question: &str,
        form: &DialogueForm,
        tokenizer: &Tokenizer,
        limits: PromptLimits,
    ) -> Result<FittedPrompt> {
        let PromptLimits { context, max_new_tokens } = limits;
        let mut first = self.first.min(n_turns);
        loop {
            let tokens = form.prompt(tokenizer, &self.messages(first..n_turns, Some(question)))?;
            let room = context.saturating_sub(tokens.len());
            let is_last = first == n_turns;
            if room >= max_new_tokens || is_last && room > 0 {
                let forgets = self.first == 0 && first > 0;
                self.first = first;
                return Ok(FittedPrompt { max_new_tokens: max_new_tokens.min(room), tokens, forgets });
            }
            if is_last {
                bail!(
                    "the message does not fit in the context window of {context} tokens: {}it takes {} tokens",
                    if self.system.is_some() { "with the system message " } else { "" },
                    tokens.len()
                );
            }
            first += 1;
        }
    }

    /// The messages of a prompt as [`Conversation::prompt`] makes it, without a limit of its length: a server knows that.
    pub(crate) fn prompt_messages(&self, n_turns: usize, question: &str) -> Vec<Message> {
        self.messages(self.first.min(n_turns)..n_turns, Some(question))
    }

    /// Leaves the oldest turn of those that go into a prompt out from now on. Returns whether there was one among the first
    /// `n_turns`.
    pub(crate) fn forget_oldest(&mut self, n_turns: usize) -> bool {
        let forgets = self.first < n_turns;
        self.first += usize::from(forgets);
        forgets
    }

    /// Removes all turns; the system message stays.
    pub fn reset(&mut self) {
        self.turns.clear();
        self.first = 0;
    }

    /// The system message, the turns in `range`, and the question without an answer.
    fn messages(&self, range: Range<usize>, question: Option<&str>) -> Vec<Message> {
        let message = |role, content: &str| Message::new(role, content);
        let system = self.system.iter().map(|text| message(Role::System, text));
        let turns = self.turns[range].iter();
        let turns = turns.flat_map(|t| [message(Role::User, &t.question), message(Role::Assistant, &t.answer)]);
        system.chain(turns).chain(question.map(|text| message(Role::User, text))).collect()
    }

    /// The whole conversation as a line of JSON that supervised fine-tuning reads, without a line break.
    pub fn record(&self) -> String {
        json!({ "messages": self.messages(0..self.turns.len(), None) }).to_string()
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
    ) -> Result<(String, FittedPrompt)> {
        let limits = PromptLimits { context, max_new_tokens };
        let n_turns = of.turns.len();
        let prompt = of.prompt(n_turns, question, &DialogueForm::Plain, &tokenizer(), limits)?;
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
