//! How likely a text is: a window slides over it, and each token is predicted once, from as much before it as the window
//! holds or nearly so.

use crate::detokenize;
use crate::score::Model;
use crate::task::Detokenizer;
use anyhow::{Context, Result};
use data::prepare::read_text;
use data::progress::Silent;
use data::source::OnBadRecord;
use model::likelihood::{Question, answer};
use serde::Serialize;
use std::ops::ControlFlow;

/// Windows that are read together.
const TOGETHER: usize = 16;

/// How a text is read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Tokens of a window that are predicted; the others are there to predict them from. At most the model's context.
    pub stride: usize,
    /// What is undone first.
    pub detokenizer: Option<Detokenizer>,
    /// What becomes of bad records.
    pub on_bad_record: OnBadRecord,
}

/// What a window says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Window {
    /// Its number.
    pub n: u64,
    /// −Σ ln p, nats, over the tokens that it predicts.
    pub nats: f64,
    /// Those tokens.
    pub tokens: u64,
    /// What they spell.
    pub bytes: u64,
    /// Characters that begin in it.
    pub characters: u64,
    /// Tokens that the model read for it.
    #[serde(skip)]
    pub read: u64,
}

/// What is known of a text when all of it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Text {
    /// Words as the text was given, ends of lines among them where the task counts these.
    pub words: u64,
    /// Windows.
    pub n: u64,
}

/// Reads the text at `path`, documents one by one: a file of text, JSONL, a folder, or the world's stories. The first
/// token of a document is predicted from the token that ends a text. Windows are handed to `sink` in their order, those
/// from number `from` on; it may end the reading.
///
/// # Errors
/// When the text cannot be read, the model has no token that ends a text, or `sink` fails.
pub fn read(
    model: &Model,
    path: &str,
    how: Reading,
    from: u64,
    sink: &mut dyn FnMut(&[Window]) -> Result<ControlFlow<()>>,
) -> Result<Text> {
    let start =
        model.start().context("the model has no token that ends a text, from which the first could be predicted")?;
    let mut slider = Slider {
        model,
        stride: how.stride,
        start,
        tokens: vec![start],
        predicted: 1,
        n: 0,
        from,
        waiting: Vec::new(),
        text: Text::default(),
        sink,
    };
    let mut pending = String::new();
    let read = read_text(path, model.tokenizer, how.on_bad_record, &Silent, &mut |piece| {
        if piece.first {
            slider.begin();
        }
        match how.detokenizer {
            None => {
                slider.text.words += piece.text.split_whitespace().count() as u64;
                slider.push(&piece.text)?;
            }
            Some(detokenizer) => {
                pending += &piece.text;
                // Whole lines: what is undone looks no further.
                let end = if piece.last { Some(pending.len()) } else { end_of_lines(&pending) };
                if let Some(end) = end {
                    let rest = pending.split_off(end);
                    let (words, text) = match detokenizer {
                        Detokenizer::Wikitext => (detokenize::words(&pending), detokenize::wikitext(&pending)),
                        Detokenizer::Ptb => (detokenize::words(&pending), detokenize::penn_treebank(&pending)),
                    };
                    slider.text.words += words as u64;
                    slider.push(&text)?;
                    pending = rest;
                }
            }
        }
        if !piece.last {
            return Ok(());
        }
        // The last line of a document has an end, with a break or without.
        let open = how.detokenizer.is_some() && !piece.text.ends_with('\n');
        slider.text.words += u64::from(open);
        slider.end()
    });
    match read.and_then(|_| slider.score()) {
        Err(e) if !e.is::<Ended>() => Err(e),
        _ => Ok(Text { n: slider.n, ..slider.text }),
    }
}

/// Where the last line ends that may be taken by itself: before a line break with text before it in its line, which ends in
/// a word when the tokenization is undone, so that text has the same tokens in parts.
fn end_of_lines(text: &str) -> Option<usize> {
    let mut end = text.len();
    while let Some(at) = text[..end].rfind('\n') {
        let line = text[..at].rfind('\n').map_or(0, |before| before + 1);
        if !text[line..at].trim().is_empty() {
            return Some(at);
        }
        end = at;
    }
    None
}

/// Ends the reading.
#[derive(Debug)]
struct Ended;

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("enough text")
    }
}

impl std::error::Error for Ended {}

struct Slider<'a> {
    model: &'a Model<'a>,
    stride: usize,
    start: u32,
    /// The end of the document so far: what is to be predicted, and what it may be predicted from.
    tokens: Vec<u32>,
    /// How many of them need no prediction any more.
    predicted: usize,
    /// Number of the next window.
    n: u64,
    from: u64,
    waiting: Vec<(u64, Question)>,
    text: Text,
    sink: &'a mut dyn FnMut(&[Window]) -> Result<ControlFlow<()>>,
}

impl Slider<'_> {
    fn begin(&mut self) {
        self.tokens = vec![self.start];
        self.predicted = 1;
    }

    fn push(&mut self, text: &str) -> Result<()> {
        self.tokens.extend(self.model.tokenizer.encode_document(text)?);
        loop {
            let wanted = self.wanted();
            // One more must be there: the last window of a document is cut by its end.
            if self.tokens.len() <= self.predicted + wanted {
                return Ok(());
            }
            self.window(wanted)?;
        }
    }

    fn end(&mut self) -> Result<()> {
        while self.tokens.len() > self.predicted {
            self.window((self.tokens.len() - self.predicted).min(self.wanted()))?;
        }
        Ok(())
    }

    /// Tokens that the next window predicts: the first of a document as many as it reads.
    fn wanted(&self) -> usize {
        if self.predicted == 1 { self.model.gpt.config().context } else { self.stride }
    }

    /// Has the next `wanted` tokens predicted from as many before them as the window holds.
    fn window(&mut self, wanted: usize) -> Result<()> {
        let end = self.predicted + wanted;
        let begin = end.saturating_sub(self.model.gpt.config().context + 1);
        let question = Question {
            context: self.tokens[begin..self.predicted].to_vec(),
            continuations: vec![self.tokens[self.predicted..end].to_vec()],
        };
        // A next window reads at most a context from its end back.
        self.tokens.drain(..begin);
        self.predicted = end - begin;
        let n = self.n;
        self.n += 1;
        if n >= self.from {
            self.waiting.push((n, question));
        }
        if self.waiting.len() >= TOGETHER { self.score() } else { Ok(()) }
    }

    fn score(&mut self) -> Result<()> {
        let (numbers, questions): (Vec<u64>, Vec<Question>) = std::mem::take(&mut self.waiting).into_iter().unzip();
        if questions.is_empty() {
            return Ok(());
        }
        let answers = answer(self.model.gpt, &questions, false)?;
        let mut windows = Vec::with_capacity(questions.len());
        for ((n, question), found) in numbers.into_iter().zip(&questions).zip(&answers.found) {
            let tokens = &question.continuations[0];
            let bytes = self.model.tokenizer.decode_bytes(tokens)?;
            // Bytes that go on with a character begin with the bits 10.
            let characters = bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
            windows.push(Window {
                n,
                nats: -found[0].log_prob,
                tokens: tokens.len() as u64,
                bytes: bytes.len() as u64,
                characters: characters as u64,
                read: (question.context.len() + tokens.len() - 1) as u64,
            });
        }
        if (self.sink)(&windows)?.is_break() { Err(Ended.into()) } else { Ok(()) }
    }
}
