//! `gptkit chat`

use crate::data_args::shell;
use crate::device::ComputeArgs;
use crate::env;
use crate::sampling_args::SamplingArgs;
use crate::serve::ServeCommand;
use crate::stdin;
use crate::ui::{Ui, Usage, reader_is_gone, unusable};
use anyhow::{Context, Result};
use clap::Args;
use gptkit_chat::{ChatConfig, ChatPrompt, ChatSession, ModelServer};
use gptkit_data::disk;
use gptkit_model::generate::Finish;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Behavior, Config, Editor};
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Chat with a model
///
/// In a terminal, you can edit lines, recall earlier ones with the arrow keys and stop an answer with Ctrl-C. From a
/// pipe, each line is a message or a command, and only the answers go to stdout.
#[derive(Debug, Args)]
pub(crate) struct ChatCommand {
    /// Model folder: a run, or any GPT-2 or OpenAI-GPT model in Hugging Face format. Or the address of a server with
    /// OpenAI's API, such as `http://127.0.0.1:8000`
    #[arg(long, value_name = "DIR|URL")]
    model: PathBuf,
    /// Name of the model on the server [default: the first one that the server lists]
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// File with the key for the server; without it, OPENAI_API_KEY is used if it is set
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Maximum length of an answer, in tokens [default: half of the model's window]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// Print answers unchanged; by default, control characters are printed as escapes such as \x1b
    #[arg(long)]
    raw: bool,
    /// Chat on a web page: serve the model on a free port of this machine, and open the page in a browser
    #[arg(long, conflicts_with_all = ["model_name", "api_key_file", "max_new_tokens", "raw", "SamplingArgs"])]
    web: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

const HELP: &str = "\
/help         show this list
/reset        start a new conversation; the system message is kept
/system TEXT  set the system message; without TEXT, remove it
/save FILE    append the conversation to FILE as one JSONL record for `gptkit sft --data`
/retry        generate another answer to the last message
/quit         quit; Ctrl-D does the same
Each answer uses the next random seed. A line that ends in \\ continues on the next line.
To send a message that starts with /, type a space before it.";

impl ChatCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        if self.web {
            return ServeCommand::with_browser(&self.model, self.compute)?.run(ui);
        }
        let session = self.session(ui)?;
        if !session.has_template() {
            ui.say(&format!(
                "{} has no chat template, so it was not trained for dialogue; it continues a plain-text transcript of \
                 User and Assistant",
                self.model.display()
            ));
            ui.next(&format!("gptkit sft --init {}", shell(&self.model)));
        }
        let mut input = ChatInput::open()?;
        if input.is_terminal() {
            ui.say("/help lists the commands, Ctrl-D quits");
        }
        let interrupt = AnswerInterrupt::watch(!input.is_terminal())?;
        let mut chat = TerminalChat { ui, session, raw: self.raw, interrupt };
        while let Some(text) = input.message(ui)? {
            let done = ChatLine::parse(&text).and_then(|line| chat.obey(line));
            match done {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(e) if input.is_terminal() && !reader_is_gone(&e) => ui.error(&e),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A conversation with the model that is loaded, or served.
    fn session(&self, ui: &Ui) -> Result<ChatSession> {
        let max_new_tokens = self.max_new_tokens.map(|n| n as usize);
        let config =
            ChatConfig { max_new_tokens, stop: self.sampling.stop.clone(), sampling: self.sampling.checked()? };
        let text = self.model.to_string_lossy();
        if !text.starts_with("http://") && !text.starts_with("https://") {
            if self.model_name.is_some() || self.api_key_file.is_some() {
                let message = "--model-name and --api-key-file belong to a server; --model is a folder";
                return Err(Usage::new(message).into());
            }
            let (folder, model) = self.compute.load_writer(&self.model)?;
            return ChatSession::new(folder, model, config);
        }
        let key = match &self.api_key_file {
            Some(path) => disk::read_description(path).map_err(unusable)?.trim().to_owned(),
            None => env::api_key(),
        };
        let server = ModelServer::connect(&text, self.model_name.as_deref(), Some(key).filter(|key| !key.is_empty()))?;
        ui.say(&format!("chatting with {}", server.name()));
        Ok(ChatSession::with_server(server, config))
    }
}

/// A line that a person typed: a message, or a command.
#[derive(Debug, PartialEq, Eq)]
enum ChatLine<'a> {
    Message(&'a str),
    Nothing,
    Help,
    Reset,
    System(&'a str),
    Save(&'a Path),
    Retry,
    Quit,
}

impl<'a> ChatLine<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        if text.trim().is_empty() {
            return Ok(Self::Nothing);
        }
        let Some(command) = text.strip_prefix('/') else { return Ok(Self::Message(text.trim())) };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let line = match name {
            "system" => Self::System(rest),
            "save" if rest.is_empty() => {
                return Err(Usage::new("/save needs a file name, for example /save chat.jsonl").into());
            }
            "save" => Self::Save(Path::new(rest)),
            "help" => Self::Help,
            "reset" => Self::Reset,
            "retry" => Self::Retry,
            "quit" => Self::Quit,
            _ => return Err(Usage::new(format!("/{name} is not a command; /help lists the commands")).into()),
        };
        if !rest.is_empty() && !matches!(line, Self::System(_) | Self::Save(_)) {
            return Err(Usage::new(format!("/{name} does not take an argument")).into());
        }
        Ok(line)
    }
}

/// A conversation in the terminal or through a pipe.
struct TerminalChat<'a> {
    ui: &'a Ui,
    session: ChatSession,
    /// Whether answers are written byte for byte.
    raw: bool,
    interrupt: AnswerInterrupt,
}

impl TerminalChat<'_> {
    fn obey(&mut self, line: ChatLine) -> Result<ControlFlow<()>> {
        match line {
            ChatLine::Nothing => {}
            ChatLine::Message(text) => {
                let prompt = self.prompt(|session| session.prompt(text))?;
                self.answer(prompt)?;
            }
            ChatLine::Help => self.ui.say(HELP),
            ChatLine::Reset => {
                self.session.conversation.reset();
                self.ui.say("new conversation");
            }
            ChatLine::System(text) => {
                self.session.conversation.system = (!text.is_empty()).then(|| text.to_owned());
            }
            ChatLine::Save(path) => {
                if self.session.conversation.turns.is_empty() {
                    return Err(Usage::new("the conversation is empty, so there is nothing to save").into());
                }
                append_line(path, &self.session.conversation.record())?;
                self.ui.say(&format!("saved the conversation to {}", path.display()));
            }
            ChatLine::Retry => {
                let prompt = self.prompt(ChatSession::prompt_again)?;
                self.answer(prompt.ok_or_else(|| Usage::new("there is no answer to retry yet"))?)?;
            }
            ChatLine::Quit => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Ctrl-C ends the program meanwhile: the template of a downloaded model may take its time.
    fn prompt<T>(&mut self, make: impl FnOnce(&mut ChatSession) -> Result<T>) -> Result<T> {
        self.interrupt.ends_all(true);
        let prompt = make(&mut self.session);
        self.interrupt.end();
        prompt
    }

    /// Prints the answer to `prompt` on stdout while it is generated.
    fn answer(&mut self, prompt: ChatPrompt) -> Result<()> {
        let Self { ui, session, raw, interrupt } = self;
        if prompt.forgets {
            ui.say("the conversation is longer than the context window; the model no longer sees the oldest turns");
        }
        interrupt.begin();
        let answer = session.answer(prompt, |text| {
            ui.text(text, *raw)?;
            Ok(if interrupt.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        interrupt.end();
        ui.result("\n")?;
        let answer = answer?;
        match answer.finish {
            Finish::Interrupted => ui.say("stopped; the partial answer is kept, /retry generates another one"),
            Finish::Length => ui.say(&format!("the answer was cut off after {} tokens", answer.n_tokens)),
            Finish::EndOfText | Finish::Stop => {}
        }
        Ok(())
    }
}

/// Adds a line to a file that may be there.
fn append_line(path: &Path, line: &str) -> Result<()> {
    let mut file = disk::append(path)?;
    let mut add = || -> Result<()> {
        let mut line = format!("{line}\n");
        if file.metadata()?.len() > 0 {
            let (mut read, mut last) = (disk::open(path)?, [0]);
            read.seek(SeekFrom::End(-1))?;
            read.read_exact(&mut last)?;
            if last != *b"\n" {
                line.insert(0, '\n');
            }
        }
        file.write_all(line.as_bytes())?; // at once, so that a crash leaves no half a record
        Ok(file.sync_all()?)
    };
    add().with_context(|| format!("{} cannot be written", path.display()))
}

/// Where messages come from.
enum ChatInput {
    Terminal(Box<Editor<(), MemHistory>>),
    Pipe,
}

/// A line, or why there is none.
enum InputLine {
    Text(String),
    Cleared,
    End,
}

impl ChatInput {
    fn open() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        // The prompt goes to the terminal even when answers go to a file.
        let config = Config::builder().auto_add_history(true).behavior(Behavior::PreferTerm).build();
        let editor = Editor::with_history(config, MemHistory::new()).context("the terminal cannot be used")?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next message, of one or more lines; none at the end.
    fn message(&mut self, ui: &Ui) -> Result<Option<String>> {
        let (mut message, mut was_cleared) = (String::new(), false);
        loop {
            let prompt = if message.is_empty() { "> " } else { "… " };
            match self.line(prompt)? {
                InputLine::Text(line) => match line.strip_suffix('\\') {
                    Some(begun) => message += &format!("{begun}\n"),
                    None => return Ok(Some(message + &line)),
                },
                InputLine::Cleared if was_cleared => return Ok(None),
                InputLine::Cleared => {
                    message.clear();
                    was_cleared = true;
                    ui.say("/quit, Ctrl-D or another Ctrl-C quits");
                }
                InputLine::End if message.is_empty() => return Ok(None),
                InputLine::End => return Ok(Some(message)),
            }
        }
    }

    fn line(&mut self, prompt: &str) -> Result<InputLine> {
        match self {
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(InputLine::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(InputLine::Cleared),
                Err(ReadlineError::Eof) => Ok(InputLine::End),
                Err(e) => Err(e).context("the terminal cannot be read"),
            },
            Self::Pipe => {
                let line = stdin::line(&mut std::io::stdin().lock()).context("stdin cannot be read as text")?;
                Ok(line.map_or(InputLine::End, InputLine::Text))
            }
        }
    }
}

/// Ctrl-C while an answer is written stops the answer. Between answers it ends a program that reads from a pipe; a
/// terminal's line editor takes it for itself.
struct AnswerInterrupt {
    asked: Arc<AtomicBool>,
    ends_all: Arc<AtomicBool>,
    between_answers_ends: bool,
}

impl AnswerInterrupt {
    fn watch(between_answers_ends: bool) -> Result<Self> {
        let ends_all = Arc::new(AtomicBool::new(between_answers_ends));
        let interrupt = Self { asked: Arc::default(), ends_all, between_answers_ends };
        let register = || -> std::io::Result<()> {
            flag::register_conditional_default(SIGINT, Arc::clone(&interrupt.ends_all))?;
            flag::register(SIGINT, Arc::clone(&interrupt.asked))?;
            Ok(())
        };
        register().context("the signal handlers cannot be installed")?;
        Ok(interrupt)
    }

    fn begin(&self) {
        self.asked.store(false, Ordering::Relaxed);
        self.ends_all(false);
    }

    fn ends_all(&self, yes: bool) {
        self.ends_all.store(yes, Ordering::Relaxed);
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.ends_all(self.between_answers_ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        let parsed = |text| ChatLine::parse(text).unwrap();
        assert_eq!(parsed(" hello "), ChatLine::Message("hello"));
        assert_eq!(parsed(" /etc is a folder"), ChatLine::Message("/etc is a folder"));
        assert_eq!(parsed(" \n"), ChatLine::Nothing);
        assert_eq!(parsed("/system Be brief. "), ChatLine::System("Be brief."));
        assert_eq!(parsed("/system"), ChatLine::System(""));
        assert_eq!(parsed("/save my talk.jsonl"), ChatLine::Save(Path::new("my talk.jsonl")));
        assert_eq!(parsed("/quit "), ChatLine::Quit);
        for (text, says) in [
            ("/sav x", "/sav is not a command; /help lists the commands"),
            ("/save", "needs a file name"),
            ("/reset now", "/reset does not take an argument"),
            ("/", "/ is not a command"),
        ] {
            let error = ChatLine::parse(text).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_saved_record_is_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talks.jsonl");
        append_line(&path, "a").unwrap();
        append_line(&path, "b").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\n");
        gptkit_data::disk::write(&path, b"no line break").unwrap();
        append_line(&path, "c").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "no line break\nc\n");
    }
}
