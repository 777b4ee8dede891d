//! A model and the conversation held with it.

use crate::conversation::{Conversation, PromptLimits, Turn};
use crate::server::{ModelServer, ServerAnswer, ServerRequest};
use anyhow::{Context, Result, bail};
use gptkit_data::form::DialogueForm;
use gptkit_model::Gpt;
use gptkit_model::generate::{Finish, GenerationOptions, GenerationRequest, PromptCache, generate_from};
use gptkit_model::load::ModelFolder;
use gptkit_model::sampler::Sampling;
use std::ops::ControlFlow;

/// How answers are generated.
#[derive(Debug, Clone)]
pub struct ChatConfig {
    /// Longest answer, in tokens; by default half of the model's context.
    pub max_new_tokens: Option<usize>,
    /// Texts that end an answer, in addition to those of the chat template.
    pub stop: Vec<String>,
    /// Its seed is the first answer's; each further answer takes the next one.
    pub sampling: Sampling,
}

/// A question with as much of the conversation as fits into the context.
#[derive(Debug)]
pub struct ChatPrompt {
    body: PromptBody,
    /// Whether this prompt is the first that leaves out the oldest turns.
    pub forgets: bool,
    question: String,
    /// Turns before the question.
    n_turns: usize,
}

/// The prompt in the form that the model takes.
#[derive(Debug)]
enum PromptBody {
    /// Tokens of the turns and the question, up to where the answer begins, and the longest answer that fits.
    Tokens(Vec<u32>, usize),
    /// The messages themselves, of which a server makes tokens.
    Messages,
}

/// A generated answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatAnswer {
    /// The text, without white space around it.
    pub text: String,
    /// Length in tokens.
    pub n_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// A model and the conversation held with it.
pub struct ChatSession {
    /// The turns so far, and the system message.
    pub conversation: Conversation,
    source: AnswerSource,
    stop: Vec<String>,
    max_new_tokens: Option<usize>,
    sampling: Sampling,
}

/// Where answers come from.
enum AnswerSource {
    Loaded(Box<LoadedModel>),
    Served(ModelServer),
}

/// A model in memory.
struct LoadedModel {
    model: Gpt,
    folder: ModelFolder,
    form: DialogueForm,
    end_tokens: Vec<u32>,
    /// Keys and values of the tokens that the model has read: of the next prompt only the rest is read.
    past: PromptCache,
}

impl ChatSession {
    /// A conversation without turns. Chat templates that ask for the date get today's.
    ///
    /// # Errors
    /// When the folder's chat template is damaged or has no answer in it.
    pub fn new(folder: ModelFolder, model: Gpt, config: ChatConfig) -> Result<Self> {
        let form = DialogueForm::of(&folder.tokenizer)?.with_today()?;
        let ChatConfig { max_new_tokens, stop, sampling } = config;
        let loaded = LoadedModel {
            end_tokens: folder.end_of_text.iter().copied().chain(form.end_of_turn()).collect(),
            past: PromptCache::new(&model),
            form,
            folder,
            model,
        };
        Ok(Self {
            conversation: Conversation::default(),
            stop: stop.into_iter().chain(loaded.form.stop().map(str::to_owned)).collect(),
            source: AnswerSource::Loaded(Box::new(loaded)),
            max_new_tokens,
            sampling,
        })
    }

    /// A conversation without turns with a model that `server` makes available.
    pub fn with_server(server: ModelServer, config: ChatConfig) -> Self {
        let ChatConfig { max_new_tokens, stop, sampling } = config;
        let (conversation, source) = (Conversation::default(), AnswerSource::Served(server));
        Self { conversation, source, stop, max_new_tokens, sampling }
    }

    /// Whether the model has a chat template; without one it continues a plain text of "User:" and "Assistant:" lines. A
    /// server refuses models without.
    pub fn has_template(&self) -> bool {
        match &self.source {
            AnswerSource::Loaded(loaded) => matches!(loaded.form, DialogueForm::Template { .. }),
            AnswerSource::Served(_) => true,
        }
    }

    /// The prompt of a new question.
    ///
    /// # Errors
    /// When the question does not fit into the context, or the chat template refuses the conversation.
    pub fn prompt(&mut self, question: &str) -> Result<ChatPrompt> {
        self.prompt_after(self.conversation.turns.len(), question.to_owned())
    }

    /// The prompt of the last question, whose answer will be replaced; none before the first.
    ///
    /// # Errors
    /// As [`ChatSession::prompt`].
    pub fn prompt_again(&mut self) -> Result<Option<ChatPrompt>> {
        let Some(last) = self.conversation.turns.last() else { return Ok(None) };
        let question = last.question.clone();
        self.prompt_after(self.conversation.turns.len() - 1, question).map(Some)
    }

    fn prompt_after(&mut self, n_turns: usize, question: String) -> Result<ChatPrompt> {
        let AnswerSource::Loaded(loaded) = &self.source else {
            return Ok(ChatPrompt { body: PromptBody::Messages, forgets: false, question, n_turns });
        };
        let context = loaded.folder.config.context;
        let limits = PromptLimits { context, max_new_tokens: self.max_new_tokens.unwrap_or((context / 2).max(1)) };
        let fitted = self.conversation.prompt(n_turns, &question, &loaded.form, &loaded.folder.tokenizer, limits)?;
        let body = PromptBody::Tokens(fitted.tokens, fitted.max_new_tokens);
        Ok(ChatPrompt { body, forgets: fitted.forgets, question, n_turns })
    }

    /// Generates the answer to `prompt` and adds it to the conversation. `on_text` gets the text as it is generated, and
    /// ends the answer by [`ControlFlow::Break`]; what was generated until then is kept.
    ///
    /// # Errors
    /// When the model's numbers are damaged, a server fails, or `on_text` fails; the conversation is then as it was.
    pub fn answer(
        &mut self,
        prompt: ChatPrompt,
        mut on_text: impl FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<ChatAnswer> {
        let sampling = self.sampling.clone();
        self.sampling.seed = self.sampling.seed.wrapping_add(1);
        let mut has_text = false;
        let on_text = |text: &str| {
            // The space before the first word belongs to the form, not to the answer.
            let text = if has_text { text } else { text.trim_start() };
            has_text |= !text.is_empty();
            on_text(text)
        };
        let ChatPrompt { body, question, n_turns, .. } = prompt;
        let answer = match (&mut self.source, body) {
            (AnswerSource::Loaded(loaded), PromptBody::Tokens(tokens, max_new_tokens)) => {
                let stop = self.stop.clone();
                let options = GenerationOptions { n_samples: 1, max_new_tokens, stop, log_probs: None, sampling };
                loaded.answer(GenerationRequest { prompt: tokens, options }, on_text)?
            }
            (AnswerSource::Served(server), _) => {
                let ask = ServedQuestion { question: &question, n_turns, max_new_tokens: self.max_new_tokens };
                ask.answer(server, &mut self.conversation, &self.stop, &sampling, on_text)?
            }
            (AnswerSource::Loaded(_), PromptBody::Messages) => bail!("the prompt belongs to another session"),
        };
        self.conversation.turns.truncate(n_turns);
        self.conversation.turns.push(Turn { question, answer: answer.text.clone() });
        Ok(answer)
    }
}

impl LoadedModel {
    fn answer(
        &mut self,
        request: GenerationRequest,
        mut on_text: impl FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<ChatAnswer> {
        let Self { model, folder, end_tokens, past, .. } = self;
        let completions = generate_from(past, model, &folder.tokenizer, end_tokens, &request, |_, text| on_text(text));
        let completion = completions?.pop().context("no answer was generated")?;
        let text = completion.text.trim().to_owned();
        Ok(ChatAnswer { text, n_tokens: completion.tokens.len(), finish: completion.finish })
    }
}

/// A question to a served model.
struct ServedQuestion<'a> {
    question: &'a str,
    n_turns: usize,
    max_new_tokens: Option<usize>,
}

impl ServedQuestion<'_> {
    /// Leaves out the oldest turns until the server finds that the rest fits.
    fn answer(
        &self,
        server: &ModelServer,
        conversation: &mut Conversation,
        stop: &[String],
        sampling: &Sampling,
        mut on_text: impl FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<ChatAnswer> {
        loop {
            let messages = conversation.prompt_messages(self.n_turns, self.question);
            let request = ServerRequest { messages: &messages, max_new_tokens: self.max_new_tokens, stop, sampling };
            match server.ask(&request, &mut on_text)? {
                ServerAnswer::Text(text, n_tokens, finish) => {
                    return Ok(ChatAnswer { text: text.trim().to_owned(), n_tokens, finish });
                }
                ServerAnswer::TooLong(_) if conversation.forget_oldest(self.n_turns) => {}
                ServerAnswer::TooLong(message) => bail!(message),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_data::tokenizer::Tokenizer;
    use gptkit_model::{ModelConfig, Params};
    use gptkit_ops::Precision;

    /// A model of drawn weights that knows printable ASCII and the line break.
    fn session(context: usize) -> ChatSession {
        let tokenizer = Tokenizer::of_characters(&(' '..='~').chain(['\n']).collect()).unwrap();
        let config: ModelConfig = serde_json::from_value(serde_json::json!({
            "kind": "gpt2", "n_layer": 1, "n_head": 1, "d_model": 8, "context": context, "vocab_size": tokenizer.vocab_size(),
        }))
        .unwrap();
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let model = Gpt::new(&config, &params, Precision::F32).unwrap();
        let folder = ModelFolder { config, params, tokenizer, end_of_text: Vec::new() };
        let config = ChatConfig { max_new_tokens: Some(5), stop: Vec::new(), sampling: Sampling::default() };
        ChatSession::new(folder, model, config).unwrap()
    }

    fn ask(session: &mut ChatSession, question: &str) -> ChatAnswer {
        let prompt = session.prompt(question).unwrap();
        session.answer(prompt, |_| Ok(ControlFlow::Continue(()))).unwrap()
    }

    #[test]
    fn another_answer_replaces_the_last_and_takes_the_next_seed() {
        let mut session = session(64);
        assert!(session.prompt_again().unwrap().is_none(), "nothing was asked yet");
        let first = ask(&mut session, "a");
        let prompt = session.prompt_again().unwrap().unwrap();
        let second = session.answer(prompt, |_| Ok(ControlFlow::Continue(()))).unwrap();
        let turns = &session.conversation.turns;
        assert_eq!((turns.len(), &*turns[0].question, &turns[0].answer), (1, "a", &second.text));
        assert_ne!(first.text, second.text);
    }

    #[test]
    fn a_failed_answer_leaves_the_conversation_as_it_was() {
        let mut session = session(64);
        ask(&mut session, "a");
        let before = session.conversation.turns.clone();
        let prompt = session.prompt_again().unwrap().unwrap();
        session.answer(prompt, |_| anyhow::bail!("the reader is gone")).unwrap_err();
        assert_eq!(session.conversation.turns, before);
    }

    #[test]
    fn an_answer_can_be_stopped_and_is_kept() {
        let mut session = session(64);
        let prompt = session.prompt("a").unwrap();
        let answer = session.answer(prompt, |_| Ok(ControlFlow::Break(()))).unwrap();
        assert_eq!((answer.finish, answer.n_tokens), (Finish::Interrupted, 1));
        assert_eq!(session.conversation.turns.len(), 1);
    }
}
