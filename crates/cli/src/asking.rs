//! Asking a person which answer is better: what is shown, and what may be typed.

use crate::stdin;
use crate::ui::Ui;
use anyhow::{Context, Result};
use console::{Key, Term, measure_text_width};
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::printable::printable;
use gptkit_feedback::choices::{Judge, StoredAnswer};
use gptkit_preferences::collection::Collection;
use gptkit_preferences::compare::{BlindQuestion, order};
use gptkit_train::interrupt::{Interrupt, Stop};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::collections::BTreeSet;
use std::io::{ErrorKind, IsTerminal};
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use textwrap::{Options, WordSplitter};

/// How the session of a judge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskingEnd {
    /// Every prompt was judged.
    All,
    /// The person quit.
    Left,
    /// A signal stopped the command.
    Stopped(Stop),
}

/// Asks `judge` about every prompt of `collection` that they have not judged, and keeps each choice as soon as it is made.
///
/// # Errors
/// When the terminal cannot be read, or a choice cannot be kept.
pub(crate) fn ask(collection: &mut Collection, judge: &Judge, interrupt: &Interrupt, ui: &Ui) -> Result<AskingEnd> {
    let answers = collection.answers()?;
    let seed = collection.settings.sampling.seed;
    let question = |number: u64| BlindQuestion::new(number, &answers[number as usize], seed);
    let (settled, open): (Vec<u64>, Vec<u64>) =
        collection.unjudged(judge)?.into_iter().partition(|&number| question(number).is_settled());
    if !settled.is_empty() {
        let choices: Vec<_> = settled.iter().map(|&number| question(number).settled(judge)).collect();
        collection.choose(&choices)?;
        ui.say(&format!("recorded as ties because all answers are identical: {}", settled.len()));
    }
    let mut open: BTreeSet<u64> = open.into_iter().collect();
    let n = collection.items.len();
    let ranks = collection.settings.k.is_some();
    let mut input = ChoiceInput::open(ranks)?;
    let (begun, mut asked) = (Instant::now(), 0_u32);
    while let Some(&number) = open.first() {
        let question = question(number);
        ui.say(&format!("\n{}", progress(n, open.len(), asked, begun.elapsed())));
        show(&collection.items[number as usize].prompt, &answers[number as usize], &question, ui);
        ui.say(&keys(ranks, question.shown.len()));
        let shown = Instant::now();
        loop {
            let places = match typed_choice(&mut input, ranks, question.shown.len(), interrupt, ui)? {
                ControlFlow::Break(end) => return Ok(end),
                ControlFlow::Continue(TypedChoice::Quit) => return Ok(AskingEnd::Left),
                ControlFlow::Continue(TypedChoice::Undo) => match collection.undo(judge)? {
                    Some(earlier) => {
                        ui.say("the last choice is undone");
                        open.insert(earlier);
                        break;
                    }
                    None => {
                        ui.say("there is nothing to undo");
                        continue;
                    }
                },
                ControlFlow::Continue(TypedChoice::Places(places)) => Some(places),
                ControlFlow::Continue(TypedChoice::Skip) => None,
            };
            input.echo(places.as_deref(), ui);
            collection.choose(&[question.chosen(judge, places.as_deref(), shown.elapsed().as_secs_f64())])?;
            open.remove(&number);
            asked += 1;
            break;
        }
    }
    Ok(AskingEnd::All)
}

/// Reads until a valid choice among `n` answers is typed, or the session ends.
fn typed_choice(
    input: &mut ChoiceInput,
    ranks: bool,
    n: usize,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<ControlFlow<AskingEnd, TypedChoice>> {
    loop {
        match input.reply(interrupt)? {
            Reply::Text(text) => match TypedChoice::parse(&text, ranks, n) {
                Ok(choice) => return Ok(ControlFlow::Continue(choice)),
                Err(why) => ui.say(&why),
            },
            Reply::End => return Ok(ControlFlow::Break(AskingEnd::Left)),
            Reply::Stop(stop) => return Ok(ControlFlow::Break(AskingEnd::Stopped(stop))),
        }
    }
}

fn progress(n: usize, left: usize, asked: u32, elapsed: Duration) -> String {
    let mut line = format!("{} of {n} · {left} left", n - left + 1);
    if asked > 0 {
        let each = elapsed.as_secs_f64() / f64::from(asked);
        let rest = Duration::from_secs((each * left as f64).ceil() as u64);
        line += &format!(" · {each:.0} s each, {} to go", humantime::format_duration(rest));
    }
    line
}

fn keys(ranks: bool, n: usize) -> String {
    let better = if ranks {
        let rest: String = (3..n).map(|i| format!(" {i}")).collect();
        let example = if n == 2 { "2 1".to_owned() } else { format!("{n} 1=2{rest}") };
        format!("numbers from best to worst, = for a tie, for example {example}")
    } else {
        "1 or 2: that answer is better · t: tie".to_owned()
    };
    format!("{better} · s: skip · u: undo the last · q: stop")
}

/// A reply that a person typed.
#[derive(Debug, PartialEq, Eq)]
enum TypedChoice {
    Places(Vec<u32>),
    Skip,
    Undo,
    Quit,
}

impl TypedChoice {
    fn parse(text: &str, ranks: bool, n: usize) -> Result<Self, String> {
        match text.trim().to_lowercase().as_str() {
            "s" => Ok(Self::Skip),
            "u" => Ok(Self::Undo),
            "q" => Ok(Self::Quit),
            order_of_all if ranks => order(order_of_all, n).map(Self::Places),
            "1" => Ok(Self::Places(vec![1, 2])),
            "2" => Ok(Self::Places(vec![2, 1])),
            "t" | "=" => Ok(Self::Places(vec![1, 1])),
            other => Err(format!("{other:?} is not a valid choice; {}", keys(false, n))),
        }
    }
}

/// Writes the dialogue and the answers, which are numbered in the order in which they are shown.
fn show(prompt: &[Message], answers: &[StoredAnswer], question: &BlindQuestion, ui: &Ui) {
    let width = Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns).max(20));
    let is_alone = matches!(prompt, [Message { role: Role::User, .. }]);
    ui.say("");
    for Message { role, content, .. } in prompt {
        let said = if is_alone { content.clone() } else { format!("{role}: {content}") };
        ui.say(&wrapped("  ", &said, width));
    }
    ui.say("");
    for (number, &answer) in (1..).zip(&question.shown) {
        let text = &answers[answer].text;
        ui.say(&wrapped(&format!("{number}  "), if text.is_empty() { "(nothing)" } else { text }, width));
    }
    ui.say("");
}

/// `text` in lines of at most `width` columns, `first` before it and as much space before the further lines.
fn wrapped(first: &str, text: &str, width: usize) -> String {
    let text = printable(&text.replace('\t', "    ")).into_owned(); // before its width is measured
    let indent = " ".repeat(measure_text_width(first));
    let options = Options::new(width.max(indent.len() + 8))
        .initial_indent(first)
        .subsequent_indent(&indent)
        .word_splitter(WordSplitter::NoHyphenation);
    let lines = textwrap::wrap(&text, options);
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

/// Where choices come from.
enum ChoiceInput {
    /// One key per choice.
    Keys(Term),
    /// One line per choice, in a terminal.
    Editor(Box<DefaultEditor>),
    /// One line per choice.
    Lines(Receiver<std::io::Result<String>>),
}

/// What was read.
enum Reply {
    Text(String),
    End,
    Stop(Stop),
}

/// How often signals are looked at while nothing comes.
const PATIENCE: Duration = Duration::from_millis(100);
/// Ctrl-C where a terminal hands it over as a key.
const CTRL_C: Reply = Reply::Stop(Stop::Signal(2));
const CTRL_D: char = '\u{4}';

impl ChoiceInput {
    fn open(ranks: bool) -> Result<Self> {
        let term = Term::stderr();
        if std::io::stdin().is_terminal() && term.is_term() {
            return Ok(match ranks {
                true => Self::Editor(Box::new(DefaultEditor::new().context("the terminal cannot be used")?)),
                false => Self::Keys(term),
            });
        }
        let (sender, lines) = mpsc::channel();
        // Apart, so that a signal need not wait for a line.
        std::thread::spawn(move || {
            let mut stdin = std::io::stdin().lock();
            while let Some(line) = stdin::line(&mut stdin).transpose() {
                let failed = line.is_err();
                if sender.send(line).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self::Lines(lines))
    }

    fn reply(&mut self, interrupt: &Interrupt) -> Result<Reply> {
        match self {
            Self::Keys(term) => loop {
                match term.read_key_raw() {
                    Ok(Key::Char(CTRL_D)) => return Ok(Reply::End),
                    Ok(Key::Char(c)) => return Ok(Reply::Text(c.to_string())),
                    Ok(Key::CtrlC) => return Ok(CTRL_C),
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(CTRL_C),
                    Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(Reply::End),
                    Err(e) => return Err(e).context("the terminal cannot be read"),
                }
                if let Some(stop) = interrupt.reason(Duration::ZERO) {
                    return Ok(Reply::Stop(stop));
                }
            },
            Self::Editor(editor) => match editor.readline("> ") {
                Ok(line) => Ok(Reply::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(CTRL_C),
                Err(ReadlineError::Eof) => Ok(Reply::End),
                Err(e) => Err(e).context("the terminal cannot be read"),
            },
            Self::Lines(lines) => loop {
                if let Some(stop) = interrupt.reason(Duration::ZERO) {
                    return Ok(Reply::Stop(stop));
                }
                match lines.recv_timeout(PATIENCE) {
                    Ok(line) => return Ok(Reply::Text(line.context("stdin cannot be read as text")?)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(Reply::End),
                }
            },
        }
    }

    /// Prints the choice that a key made.
    fn echo(&self, places: Option<&[u32]>, ui: &Ui) {
        if matches!(self, Self::Keys(_)) {
            ui.say(match places {
                Some([1, 2]) => "1 is better",
                Some([2, 1]) => "2 is better",
                Some(_) => "tie",
                None => "skipped",
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_meaning() {
        let pair = |text| TypedChoice::parse(text, false, 2);
        assert_eq!(pair("1"), Ok(TypedChoice::Places(vec![1, 2])));
        assert_eq!(pair(" 2 "), Ok(TypedChoice::Places(vec![2, 1])));
        assert_eq!(pair("T"), Ok(TypedChoice::Places(vec![1, 1])));
        assert_eq!(
            [pair("s"), pair("u"), pair("q")],
            [Ok(TypedChoice::Skip), Ok(TypedChoice::Undo), Ok(TypedChoice::Quit)]
        );
        assert_eq!(
            pair("3").unwrap_err(),
            "\"3\" is not a valid choice; 1 or 2: that answer is better · t: tie · s: skip · u: undo the last · q: stop"
        );
        assert_eq!(TypedChoice::parse("2 1=3", true, 3), Ok(TypedChoice::Places(vec![2, 1, 2])));
        assert_eq!(TypedChoice::parse("u", true, 3), Ok(TypedChoice::Undo));
        assert!(TypedChoice::parse("t", true, 3).unwrap_err().contains("is not a number"));
        assert_eq!(
            keys(true, 4),
            "numbers from best to worst, = for a tie, for example 4 1=2 3 · s: skip · u: undo the last · q: stop"
        );
    }

    #[test]
    fn text_is_wrapped_and_cannot_steer_the_terminal() {
        assert_eq!(wrapped("1  ", "one two three four", 12), "1  one two\n   three\n   four");
        assert_eq!(wrapped("1  ", "abcdefghijklmno", 12), "1  abcdefghi\n   jklmno");
        assert_eq!(wrapped("", "a\n\n\tb", 40), "a\n\n    b");
        assert_eq!(wrapped("", "\u{1b}[2Jred\r", 40), r"\x1b[2Jred\r");
        assert_eq!(wrapped("", "日本語日本語", 8), "日本語日\n本語");
        let long = wrapped("1  ", &"<script>\u{202e}👍".repeat(10_000), 80);
        assert!(long.lines().all(|line| measure_text_width(line) <= 80) && !long.contains('\u{202e}'));
    }

    #[test]
    fn progress_says_what_is_left() {
        assert_eq!(progress(20, 14, 0, Duration::ZERO), "7 of 20 · 14 left");
        assert_eq!(progress(20, 14, 2, Duration::from_secs(20)), "7 of 20 · 14 left · 10 s each, 2m 20s to go");
    }
}
