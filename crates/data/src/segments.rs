//! A rendered dialogue in segments: what is trained, what is a message's own text; and the tokens of both.

use crate::message::{Message, Role};
use crate::tokenizer::Tokenizer;
use anyhow::Result;
use std::ops::Range;

/// Signs around what the assistant says, where a template marks it; for private use, so that no text has them.
pub(crate) const MARKS: [char; 2] = ['\u{F0000}', '\u{F0001}'];
/// The filter in whose place `{% generation %}` stands: transformers marks the assistant's words with it.
pub(crate) const GENERATION: &str = "generation";

/// `source` with a filter that marks its text in the place of `{% generation %}`.
pub(crate) fn with_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else { break }; // the sign of `{%}` is no end
        let (tag, after) = tag.split_at(end);
        out += before;
        out += &match tag[2..].trim_matches(|c: char| matches!(c, '-' | '+') || c.is_whitespace()) {
            "generation" => tag.replace("generation", &format!("filter {GENERATION}")),
            "endgeneration" => tag.replace("endgeneration", "endfilter"),
            _ => tag.to_owned(),
        };
        rest = after;
    }
    out + rest
}

/// A dialogue as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its parts, in order.
    pub segments: Vec<TemplateSegment>,
    /// Answers that are not trained on, because the template formats them differently when the dialogue continues.
    pub rewritten: usize,
}

/// A part of a rendered dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSegment {
    /// The part; not empty.
    pub text: String,
    /// Whether the assistant says it: its content and the sign that ends it.
    pub trained: bool,
    /// Whether it is a message's own text, in which special tokens' names are nothing but text:
    /// [`crate::tokenizer::Tokenizer::encode_document`] is for it, `encode` for all else.
    pub content: bool,
}

/// Tokens of `segments`, each with whether it is trained: those of the text as a whole, but for names of special tokens in
/// messages, which are nothing but text. A token is trained where any of its text is.
///
/// # Errors
/// When a character has no token in a vocabulary of characters.
pub fn encode(segments: &[TemplateSegment], tokenizer: &Tokenizer) -> Result<Vec<(u32, bool)>> {
    let whole: String = segments.iter().map(|segment| segment.text.as_str()).collect();
    let (trained, contents) =
        (ranges(segments, |segment| segment.trained), ranges(segments, |segment| segment.content));
    let tokens = tokenizer.encode_dialogue(&whole, &contents)?;
    let mut from = 0;
    let mut is_trained = |token: &Range<usize>| {
        // Tokens and ranges are both in order.
        while trained
            .get(from)
            .is_some_and(|range| range.end < token.start || range.end == token.start && !token.is_empty())
        {
            from += 1;
        }
        trained.get(from).is_some_and(|range| token.end > range.start)
    };
    Ok(tokens.into_iter().map(|(id, place)| (id, is_trained(&place))).collect())
}

/// Where in the text of `segments` those stand for which `chosen` holds; neighbors are one range.
fn ranges(segments: &[TemplateSegment], chosen: impl Fn(&TemplateSegment) -> bool) -> Vec<Range<usize>> {
    let mut at = 0;
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for segment in segments {
        let range = at..at + segment.text.len();
        at = range.end;
        match ranges.last_mut() {
            _ if !chosen(segment) => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    ranges
}

/// Where the marked parts that are to be learned stand in the text without marks; nothing where it cannot be told which of
/// them are.
pub(crate) fn learned_ranges(marked: &str, messages: &[Message]) -> Option<Vec<Range<usize>>> {
    let ranges = marked_ranges(marked)?;
    let answers = || messages.iter().filter(|message| message.role == Role::Assistant);
    if answers().all(Message::is_learned) {
        return Some(ranges);
    }
    let one_each = ranges.len() == answers().count();
    one_each
        .then(|| ranges.into_iter().zip(answers()).filter(|(_, answer)| answer.is_learned()).map(|(r, _)| r).collect())
}

/// Where the marked parts stand in the text without marks; nothing where marks stand in marks.
fn marked_ranges(marked: &str) -> Option<Vec<Range<usize>>> {
    let (mut ranges, mut start, mut at) = (Vec::new(), None, 0);
    for c in marked.chars() {
        match (c, start) {
            (c, None) if c == MARKS[0] => start = Some(at),
            (c, Some(start_at)) if c == MARKS[1] => {
                ranges.push(start_at..at);
                start = None;
            }
            (c, _) if MARKS.contains(&c) => return None,
            (c, _) => at += c.len_utf8(),
        }
    }
    start.is_none().then_some(ranges)
}

/// Finds in `whole` the contents that `held` has signs for.
pub(crate) fn matched(held: &str, sign: char, messages: &[Message], whole: &str) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut parts = held.split(sign); // text, index, text, index … text
    let mut at = 0;
    let mut literal = parts.next()?;
    at += whole.strip_prefix(literal).map(|_| literal.len())?;
    while let Some(index) = parts.next() {
        let content = &messages.get(index.parse::<usize>().ok()?)?.content;
        literal = parts.next()?;
        let rest = &whole[at..];
        let forms = [content, content.trim(), content.trim_end(), content.trim_start(), content.trim_matches('\n')];
        let form = forms.into_iter().find(|&form| {
            let after = rest.strip_prefix(form);
            after.is_some_and(|after| after.starts_with(literal))
        })?;
        found.push(at..at + form.len());
        at += form.len() + literal.len();
    }
    (at == whole.len()).then_some(found)
}

/// `text` in parts that are trained or not, content or not.
pub(crate) fn cut(text: &str, trained: &[Range<usize>], contents: &[Range<usize>]) -> Vec<TemplateSegment> {
    let mut ends: Vec<usize> = trained.iter().chain(contents).flat_map(|range| [range.start, range.end]).collect();
    ends.push(text.len());
    ends.sort_unstable();
    ends.dedup();
    let mut start = 0;
    let mut segments = Vec::new();
    for end in ends {
        if end > start {
            let within = |ranges: &[Range<usize>]| ranges.iter().any(|range| range.start <= start && end <= range.end);
            let (trained, content) = (within(trained), within(contents));
            segments.push(TemplateSegment { text: text[start..end].to_owned(), trained, content });
            start = end;
        }
    }
    segments
}
