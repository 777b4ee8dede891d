//! How likely a text is: a window slides over it, and each token is predicted once, from as much before it as the window
//! holds or nearly so.

use crate::detokenize;
use crate::score::EvalModel;
use crate::task::Detokenizer;
use anyhow::{Context, Result};
use gptkit_data::encode::read_text;
use gptkit_data::losses::Losses;
use gptkit_data::progress::Silent;
use gptkit_data::source::OnBadRecord;
use gptkit_data::stitch::{EncodedPart, Stitcher};
use gptkit_data::text::TextPiece;
use gptkit_model::likelihood::{LikelihoodQuestion, answer};
use gptkit_ranks::Ranks;
use serde::Serialize;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Windows that are read together.
const TOGETHER: usize = 16;

/// How a text is read.
#[derive(Debug, Clone, Copy)]
pub struct WindowOptions {
    /// Tokens of a window that are predicted; the others are there to predict them from. At most the model's context.
    pub stride: usize,
    /// What is undone first.
    pub detokenizer: Option<Detokenizer>,
    /// Whether the loss of each range of positions is kept.
    pub by_position: bool,
    /// What becomes of bad records.
    pub on_bad_record: OnBadRecord,
}

/// A range of positions of a window: its first token is at position 0, and a range ends where the next one begins, at twice
/// its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PositionScore {
    /// Its first position; 0 is the token after the one that begins the text.
    pub from: u64,
    /// −Σ ln p, nats, over its tokens.
    pub nats: f64,
    /// Those tokens.
    pub tokens: u64,
}

/// How likely the model finds a window of the text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowScore {
    /// Its number.
    pub n: u64,
    /// −Σ ln p, nats, over the tokens that it predicts.
    pub nats: f64,
    /// Those tokens.
    pub tokens: u64,
    /// Bytes of the text that they stand for.
    pub bytes: u64,
    /// Characters of the text that they stand for.
    pub characters: u64,
    /// The same by position, if the task measures it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_position: Vec<PositionScore>,
    /// Tokens that the model read for it.
    #[serde(skip)]
    pub read: u64,
}

/// Where ranges of positions begin, up to `n`: 0, 1, 2, 4, 8 and so on.
fn beginnings(n: usize) -> Vec<usize> {
    std::iter::once(0).chain(std::iter::successors(Some(1), |at| Some(2 * at))).take_while(|&at| at < n).collect()
}

/// Scores of a window's ranges, from the log-likelihoods of the beginnings of what it predicts that end where a range does;
/// `first` is the position of the first token that it predicts.
fn by_position(first: usize, n: usize, log_probs: &[f64]) -> Vec<PositionScore> {
    let ends = ends(first, n);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let before = std::iter::once(0.0).chain(log_probs.iter().copied());
    let score = |(((start, end), before), after): (((usize, &usize), f64), &f64)| PositionScore {
        from: beginnings(first + start + 1).last().copied().unwrap_or(0) as u64,
        nats: before - after,
        tokens: (end - start) as u64,
    };
    starts.zip(&ends).zip(before).zip(log_probs).map(score).collect()
}

/// Where in `n` tokens from position `first` on ranges end; the last at `n`.
fn ends(first: usize, n: usize) -> Vec<usize> {
    let inside = beginnings(first + n).into_iter().filter(|&at| at > first).map(|at| at - first);
    inside.chain([n]).collect()
}

/// What is known of a text when all of it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextSummary {
    /// Words as the text was given, ends of lines among them where the task counts these.
    pub words: u64,
    /// Windows.
    pub n: u64,
    /// Characters that the vocabulary lacks.
    pub losses: Losses,
}

/// Reads the text at `path`, documents one by one: a file of text, JSONL, a folder, or the world's stories. The first
/// token of a document is predicted from the token that begins a text, else from the one that ends a text. Windows are handed
/// to `sink` in their order, those from number `from` on; it may end the reading. `ranks` share out the windows.
///
/// # Errors
/// When the text cannot be read, the model has no token that ends a text, or `sink` fails.
pub fn read(
    model: &EvalModel,
    path: &str,
    how: WindowOptions,
    from: u64,
    ranks: &Ranks,
    sink: &mut dyn FnMut(&[WindowScore]) -> Result<ControlFlow<()>>,
) -> Result<TextSummary> {
    let start =
        model.start().context("the model has no end-of-text token, which is needed to predict the first token")?;
    let mut slider = PerplexityWindow {
        model,
        stride: how.stride,
        by_position: how.by_position,
        start,
        stitcher: Stitcher::new(model.tokenizer),
        undone: VecDeque::new(),
        tokens: vec![start],
        sizes: vec![TextSize::default()],
        predicted: 1,
        n: 0,
        from,
        waiting: Vec::new(),
        text: TextSummary::default(),
        is_ended: false,
        ranks,
        sink,
    };
    let mut lines = PendingLines { text: String::new(), is_first: true };
    read_text(path, model.tokenizer, how.on_bad_record, &Silent, &mut |piece| {
        let Some(detokenizer) = how.detokenizer else {
            slider.text.words += piece.text.split_whitespace().count() as u64;
            return slider.push(piece, TextSize::default());
        };
        match lines.push(piece, detokenizer) {
            Some(Detokenized { piece, words, shortened }) => {
                slider.text.words += words;
                slider.push(piece, shortened)
            }
            None => Ok(ControlFlow::Continue(())),
        }
    })?;
    if !slider.is_ended {
        let _ = slider.score()?;
    }
    Ok(TextSummary { n: slider.n, ..slider.text })
}

/// Text of a document whose last line has not ended: what undoes a tokenization looks no further than a line.
struct PendingLines {
    text: String,
    /// Whether the document begins with it.
    is_first: bool,
}

/// Whole lines whose tokenization was undone.
struct Detokenized {
    piece: TextPiece,
    /// Words as the text was given.
    words: u64,
    /// By how much the text as it was given is longer.
    shortened: TextSize,
}

impl PendingLines {
    /// Adds `piece`; gives the lines that have ended, if there are any.
    fn push(&mut self, piece: TextPiece, detokenizer: Detokenizer) -> Option<Detokenized> {
        self.is_first |= piece.first;
        self.text += &piece.text;
        let end = if piece.last { self.text.len() } else { end_of_lines(&self.text)? };
        let rest = self.text.split_off(end);
        let given = std::mem::replace(&mut self.text, rest);
        let text = match detokenizer {
            Detokenizer::Wikitext => detokenize::wikitext(&given),
            Detokenizer::Ptb => detokenize::penn_treebank(&given),
        };
        // The last line of a document has an end, with a break or without.
        let last_end = piece.last && !piece.text.ends_with('\n');
        Some(Detokenized {
            words: detokenize::words(&given) as u64 + u64::from(last_end),
            shortened: TextSize::of(&given) - TextSize::of(&text),
            piece: TextPiece { text, first: std::mem::take(&mut self.is_first), last: piece.last },
        })
    }
}

/// Length of a text, or a difference of two.
#[derive(Debug, Clone, Copy, Default)]
struct TextSize {
    bytes: i64,
    characters: i64,
}

impl TextSize {
    fn of(text: &str) -> Self {
        Self { bytes: text.len() as i64, characters: text.chars().count() as i64 }
    }
}

impl std::ops::Add for TextSize {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, characters: self.characters + other.characters }
    }
}

impl std::ops::Sub for TextSize {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { bytes: self.bytes - other.bytes, characters: self.characters - other.characters }
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

struct PerplexityWindow<'a> {
    model: &'a EvalModel<'a>,
    stride: usize,
    by_position: bool,
    start: u32,
    stitcher: Stitcher<'a>,
    /// For each piece that is being encoded, by how much the text as it was given is longer.
    undone: VecDeque<TextSize>,
    /// The end of the document so far: what is to be predicted, and what it may be predicted from.
    tokens: Vec<u32>,
    /// For each of `tokens`, the text that it stands for.
    sizes: Vec<TextSize>,
    /// How many of them need no prediction any more.
    predicted: usize,
    /// Number of the next window.
    n: u64,
    from: u64,
    /// Windows that will be read together, each with the text that it predicts.
    waiting: Vec<(u64, LikelihoodQuestion, TextSize)>,
    text: TextSummary,
    /// Whether `sink` has ended the reading.
    is_ended: bool,
    ranks: &'a Ranks,
    sink: &'a mut dyn FnMut(&[WindowScore]) -> Result<ControlFlow<()>>,
}

impl PerplexityWindow<'_> {
    /// Takes the next piece of a document. The text as it was given, before its tokenization was undone, was longer by `more`.
    fn push(&mut self, piece: TextPiece, more: TextSize) -> Result<ControlFlow<()>> {
        self.undone.push_back(more);
        for part in self.stitcher.push(vec![piece])? {
            if self.take(part)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn take(&mut self, part: EncodedPart) -> Result<ControlFlow<()>> {
        if part.first {
            (self.tokens, self.sizes, self.predicted) = (vec![self.start], vec![TextSize::default()], 1);
        }
        self.text.losses.merge(&part.losses);
        let size =
            |(&bytes, &characters): (&u32, &u32)| TextSize { bytes: bytes.into(), characters: characters.into() };
        self.sizes.extend(part.bytes.iter().zip(&part.characters).map(size));
        self.tokens.extend(&part.ids);
        let more = self.undone.drain(..part.pieces).fold(TextSize::default(), |all, more| all + more);
        if let Some(last) = self.sizes.last_mut() {
            *last = *last + more;
        }
        loop {
            let wanted = self.wanted();
            // One more must be there: the last window of a document is cut by its end.
            if self.tokens.len() <= self.predicted + wanted {
                break;
            }
            if self.window(wanted)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if part.last { self.end() } else { Ok(ControlFlow::Continue(())) }
    }

    fn end(&mut self) -> Result<ControlFlow<()>> {
        while self.tokens.len() > self.predicted {
            if self.window((self.tokens.len() - self.predicted).min(self.wanted()))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tokens that the next window predicts: the first of a document as many as it reads.
    fn wanted(&self) -> usize {
        if self.predicted == 1 { self.model.gpt.config().context } else { self.stride }
    }

    /// Has the next `wanted` tokens predicted from as many before them as the window holds.
    fn window(&mut self, wanted: usize) -> Result<ControlFlow<()>> {
        let end = self.predicted + wanted;
        let begin = end.saturating_sub(self.model.gpt.config().context + 1);
        let (context, predicted) = (self.tokens[begin..self.predicted].to_vec(), &self.tokens[self.predicted..end]);
        let ends = if self.by_position { ends(context.len() - 1, wanted) } else { vec![wanted] };
        let continuations = ends.into_iter().map(|end| predicted[..end].to_vec()).collect();
        let question = LikelihoodQuestion { context, continuations };
        let size = self.sizes[self.predicted..end].iter().fold(TextSize::default(), |all, &one| all + one);
        // A next window reads at most a context from its end back.
        self.tokens.drain(..begin);
        self.sizes.drain(..begin);
        self.predicted = end - begin;
        let n = self.n;
        self.n += 1;
        if n >= self.from {
            self.waiting.push((n, question, size));
        }
        if self.waiting.len() >= TOGETHER { self.score() } else { Ok(ControlFlow::Continue(())) }
    }

    fn score(&mut self) -> Result<ControlFlow<()>> {
        let waiting = std::mem::take(&mut self.waiting);
        let questions: Vec<LikelihoodQuestion> = waiting.iter().map(|(_, question, _)| question.clone()).collect();
        if questions.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let log_probs = self.ranks.share_parts(questions.len(), |own| {
            let found = answer(self.model.gpt, &questions[own], false)?.found;
            Ok(found.iter().flatten().map(|found| found.log_prob).collect())
        })?;
        let mut log_probs = log_probs.into_iter();
        let window = |(n, question, size): (u64, LikelihoodQuestion, TextSize)| {
            let LikelihoodQuestion { context, continuations } = question;
            let tokens = continuations.last().map_or(0, Vec::len);
            let found: Vec<f64> = log_probs.by_ref().take(continuations.len()).collect();
            let by_position = match self.by_position {
                true => by_position(context.len() - 1, tokens, &found),
                false => Vec::new(),
            };
            WindowScore {
                n,
                nats: -found.last().unwrap_or(&0.0),
                tokens: tokens as u64,
                bytes: size.bytes.max(0) as u64,
                characters: size.characters.max(0) as u64,
                by_position,
                read: (context.len() + tokens - 1) as u64,
            }
        };
        let windows: Vec<WindowScore> = waiting.into_iter().map(window).collect();
        let flow = (self.sink)(&windows)?;
        self.is_ended = flow.is_break();
        Ok(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_positions_double() {
        assert_eq!(ends(0, 5), [1, 2, 4, 5]);
        assert_eq!(ends(0, 4), [1, 2, 4]);
        // Positions 3 to 8: one of 2 to 3, four of 4 to 7, and the first of 8 to 15.
        assert_eq!(ends(3, 6), [1, 5, 6]);
        let found = [-1.0, -5.5, -6.0];
        let range = |from, nats, tokens| PositionScore { from, nats, tokens };
        assert_eq!(by_position(3, 6, &found), [range(2, 1.0, 1), range(4, 4.5, 4), range(8, 0.5, 1)]);
    }
}
