//! The tokens of a document that is read in pieces, as the library gives them for the whole.
//!
//! Where a tokenizer surely splits a text is known of few kinds only. For the others each piece is encoded together with some
//! text of its neighbors, and two neighbors are joined in the middle of the longest stretch of equal tokens around their
//! border, far from the ends of what was encoded. Pieces without such a stretch are encoded as one.

use crate::losses::Losses;
use crate::text::TextPiece;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::encode::Spanned;
use anyhow::Result;
use rayon::prelude::*;

/// Bytes of each neighbor that a piece is encoded with.
const MARGIN: usize = 2048;
/// Fewest equal tokens in a row at which two neighbors are joined. They also make up half of the text that both have: where
/// tokens depend on all of the text before, short stretches are equal by chance.
const AGREED: usize = 8;

/// Tokens of a part of a document: of one piece, or of several that were encoded as one. Where it begins and ends may differ
/// from its pieces by [`MARGIN`] bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedPart {
    /// The pieces' text.
    pub text: String,
    /// How many pieces it is.
    pub pieces: usize,
    /// Whether the document begins with it.
    pub first: bool,
    /// Whether the document ends with it.
    pub last: bool,
    /// Tokens.
    pub ids: Vec<u32>,
    /// For each token, the bytes from the end of the one before to its own; all together are the document's.
    pub bytes: Vec<u32>,
    /// The same in characters.
    pub characters: Vec<u32>,
    /// Characters without a token.
    pub losses: Losses,
}

/// A piece, encoded with some text of its neighbors.
struct StitchWindow {
    piece: TextPiece,
    /// How many pieces it is.
    pieces: usize,
    /// The text that was encoded, and where in the document it begins.
    text: String,
    base: usize,
    /// Bytes of `text` before the piece.
    left: usize,
    /// Places are counted from the beginning of the document.
    tokens: Vec<Spanned>,
    /// First token that was not handed out.
    next: usize,
    /// Pieces that follow, and will be encoded as one with this.
    joined: Vec<TextPiece>,
}

/// Encodes documents that come piece by piece.
pub struct Stitcher<'a> {
    tokenizer: &'a Tokenizer,
    /// The last piece that came, while its right neighbor is missing.
    waiting: Option<TextPiece>,
    /// The text before it in the document.
    left: String,
    /// Where it begins in the document.
    at: usize,
    /// The window that is handed out when its right neighbor is known.
    open: Option<StitchWindow>,
    /// Bytes of the document whose tokens were handed out.
    covered: usize,
    /// The most bytes that were encoded as one.
    longest: usize,
}

impl<'a> Stitcher<'a> {
    /// Encodes with `tokenizer`.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, waiting: None, left: String::new(), at: 0, open: None, covered: 0, longest: 0 }
    }

    /// The most bytes so far that had to be encoded as one.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Takes the next pieces and gives the parts that are known with them.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_document`].
    pub fn push(&mut self, pieces: Vec<TextPiece>) -> Result<Vec<EncodedPart>> {
        let tokenizer = self.tokenizer;
        let windows: Vec<StitchWindow> = self.windows(pieces);
        let windows: Vec<StitchWindow> =
            windows.into_par_iter().map(|w| w.encoded(tokenizer)).collect::<Result<_>>()?;
        let mut parts = Vec::with_capacity(windows.len());
        for window in windows {
            self.join(window, &mut parts)?;
        }
        Ok(parts)
    }

    /// The windows of all pieces whose right neighbor is known.
    fn windows(&mut self, pieces: Vec<TextPiece>) -> Vec<StitchWindow> {
        let mut windows = Vec::with_capacity(pieces.len());
        for piece in pieces {
            if let Some(before) = self.waiting.take() {
                windows.push(self.window(before, head(&piece.text)));
            }
            if piece.first {
                self.left.clear();
                self.at = 0;
            }
            if piece.last {
                windows.push(self.window(piece, ""));
            } else {
                self.waiting = Some(piece);
            }
        }
        windows
    }

    fn window(&mut self, piece: TextPiece, right: &str) -> StitchWindow {
        let left = std::mem::take(&mut self.left);
        let text = [left.as_str(), &piece.text, right].concat();
        let base = self.at - left.len();
        self.at += piece.text.len();
        let so_far = &text[..left.len() + piece.text.len()];
        self.left = tail(so_far).to_owned();
        StitchWindow { piece, pieces: 1, text, base, left: left.len(), tokens: Vec::new(), next: 0, joined: Vec::new() }
    }

    /// Joins `window` to the one before it, which is handed out.
    fn join(&mut self, window: StitchWindow, parts: &mut Vec<EncodedPart>) -> Result<()> {
        self.longest = self.longest.max(window.piece.text.len());
        let last = window.piece.last;
        let window = match self.open.take() {
            Some(open) if !window.piece.first => {
                match open.joined.is_empty().then(|| agreement(&open, &window)).flatten() {
                    Some((end, next)) => {
                        parts.push(self.part(&open, end));
                        StitchWindow { next, ..window }
                    }
                    None => self.merge(open, window)?,
                }
            }
            _ => {
                self.covered = 0;
                window
            }
        };
        if last {
            parts.push(self.part(&window, window.tokens.len()));
        } else {
            self.open = Some(window);
        }
        Ok(())
    }

    /// Encodes both as one, once there is as much to add as `open` has, so that the work stays in proportion to the text.
    fn merge(&mut self, mut open: StitchWindow, window: StitchWindow) -> Result<StitchWindow> {
        let (last, right) = (window.piece.last, window.text[window.left + window.piece.text.len()..].to_owned());
        open.joined.push(window.piece);
        let more: usize = open.joined.iter().map(|piece| piece.text.len()).sum();
        if more < open.piece.text.len() && !last {
            return Ok(open);
        }
        let mut text = open.text;
        text.truncate(open.left + open.piece.text.len());
        let mut piece = TextPiece { last, ..open.piece };
        let pieces = open.pieces + open.joined.len();
        for joined in open.joined {
            text += &joined.text;
            piece.text += &joined.text;
        }
        text += &right;
        self.longest = self.longest.max(piece.text.len());
        let (base, left) = (open.base, open.left);
        let merged = StitchWindow { piece, pieces, text, base, left, tokens: Vec::new(), next: 0, joined: Vec::new() };
        let mut merged = merged.encoded(self.tokenizer)?;
        let begin = open.tokens.get(open.next).map_or(self.covered, |token| token.start);
        merged.next = merged.tokens.partition_point(|token| token.start < begin);
        Ok(merged)
    }

    /// Hands out the tokens of `window` up to number `end`.
    fn part(&mut self, window: &StitchWindow, end: usize) -> EncodedPart {
        let tokens = window.tokens.get(window.next..end).unwrap_or_default();
        let TextPiece { text, first, last } = &window.piece;
        let mut part = EncodedPart {
            text: text.clone(),
            pieces: window.pieces,
            first: *first,
            last: *last,
            ..EncodedPart::default()
        };
        let place = |at: usize| window.text.floor_char_boundary(at.saturating_sub(window.base));
        for token in tokens {
            let (from, to) = (place(self.covered), place(token.end.max(self.covered)));
            let (gap, own) = (place(token.start.max(self.covered)), place(token.start));
            let lost = self.tokenizer.lost_in(&window.text[from..gap], token.id, &window.text[own..to.max(own)]);
            let characters = window.text[from..to].chars().count();
            part.losses.add(lost, characters as u64);
            part.ids.push(token.id);
            part.bytes.push((to - from) as u32);
            part.characters.push(characters as u32);
            self.covered = window.base + to;
        }
        if *last {
            self.end(&window.text[place(self.covered)..], &mut part);
        }
        part
    }

    /// Counts what stands behind the last token of a document as that token's.
    fn end(&self, rest: &str, part: &mut EncodedPart) {
        let characters = rest.chars().count();
        part.losses.add(self.tokenizer.dropped_from(rest), characters as u64);
        if let (Some(bytes), Some(n)) = (part.bytes.last_mut(), part.characters.last_mut()) {
            *bytes += rest.len() as u32;
            *n += characters as u32;
        }
    }
}

impl StitchWindow {
    fn encoded(mut self, tokenizer: &Tokenizer) -> Result<Self> {
        self.tokens = tokenizer.encode_spans(&self.text)?;
        for token in &mut self.tokens {
            token.start += self.base;
            token.end += self.base;
        }
        Ok(self)
    }

    /// Where the window ends in the document.
    fn end(&self) -> usize {
        self.base + self.text.len()
    }
}

/// Tokens of `before` and `after` with the same place in the middle of the longest stretch of tokens that both have around
/// their border.
fn agreement(before: &StitchWindow, after: &StitchWindow) -> Option<(usize, usize)> {
    let (mut i, mut j) = (before.tokens.partition_point(|token| token.start < after.base), 0);
    let (mut run, mut best) = (0, (0, 0, 0));
    while let (Some(a), Some(b)) = (before.tokens.get(i), after.tokens.get(j)) {
        if a == b {
            (run, i, j) = (run + 1, i + 1, j + 1);
            if run > best.0 {
                best = (run, i, j);
            }
            continue;
        }
        run = 0;
        let (left, right) = ((a.end, a.start), (b.end, b.start));
        i += usize::from(left <= right);
        j += usize::from(right <= left);
        if b.start >= before.end() {
            break;
        }
    }
    let (run, i, j) = best;
    let back = run / 2;
    // A character's bytes may be several tokens, all with its place: they stay together.
    let is_border = |back: usize| before.tokens[i - back].start >= before.tokens[i - back - 1].end;
    let agreed = run >= AGREED && {
        let span = before.tokens[i - 1].end - before.tokens[i - run].start;
        2 * span >= before.end().min(after.end()) - after.base
    };
    let back = agreed.then(|| (1..=back).rev().find(|&back| is_border(back))).flatten()?;
    (i - back > before.next).then_some((i - back, j - back))
}

/// The last bytes of a text that a neighbor is encoded with.
fn tail(text: &str) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(MARGIN))..]
}

/// The first.
fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(MARGIN)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tokenizer;
    use proptest::prelude::*;

    /// Tokenizers of many kinds, made by scripts/conformance/tokenizer_kinds.py.
    const KINDS: [&str; 10] = [
        "byte-level-prefix-space",
        "split-bytes",
        "metaspace-bytes",
        "sentencepiece-bytes",
        "unigram",
        "unigram-whole",
        "t5-form",
        "word-piece",
        "added-tokens",
        "fixed-length",
    ];

    /// The parts of a document that comes in `pieces`.
    fn parts(tokenizer: &Tokenizer, pieces: &[&str]) -> Vec<EncodedPart> {
        let mut stitcher = Stitcher::new(tokenizer);
        let piece = |i: usize| TextPiece { text: pieces[i].to_owned(), first: i == 0, last: i + 1 == pieces.len() };
        (0..pieces.len()).flat_map(|i| stitcher.push(vec![piece(i)]).unwrap()).collect()
    }

    fn check(tokenizer: &Tokenizer, pieces: &[&str]) {
        let (parts, whole) = (parts(tokenizer, pieces), pieces.concat());
        let ids: Vec<u32> = parts.iter().flat_map(|part| part.ids.clone()).collect();
        assert!(ids == tokenizer.encode_document(&whole).unwrap(), "{tokenizer:?} {pieces:?}");
        let sum = |sizes: fn(&EncodedPart) -> &Vec<u32>| parts.iter().flat_map(|part| sizes(part).clone()).sum::<u32>();
        assert_eq!(sum(|part| &part.bytes) as usize, whole.len());
        assert_eq!(sum(|part| &part.characters) as usize, whole.chars().count());
        assert_eq!(parts.iter().map(|part| part.text.as_str()).collect::<String>(), whole);
        assert_eq!(parts.iter().map(|part| part.pieces).sum::<usize>(), pieces.len());
        assert!(parts.first().is_some_and(|part| part.first) && parts.last().is_some_and(|part| part.last));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn pieces_have_the_tokens_of_the_whole(
            kind in 0..KINDS.len(),
            words in prop::collection::vec("[a-zA-Z.,!']{1,9}|[0-9]{1,5}|\\PC{1,3}|the bridge|night |bread|Café", 700..1500),
            separators in prop::collection::vec("[ \n]{1,3}|\t|", 8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
        ) {
            let text: String = words.iter().zip(separators.iter().cycle()).map(|(word, gap)| word.clone() + gap).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(1 + cut.index(text.len() - 1))).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            check(&tokenizer(KINDS[kind]), &pieces);
        }
    }

    #[test]
    fn text_without_tokens_and_words_without_an_end_are_encoded_as_one() {
        let (spaces, word) = (" ".repeat(30_000), "ab".repeat(15_000));
        for kind in ["word-piece", "metaspace-bytes", "sentencepiece-bytes"] {
            let tokenizer = tokenizer(kind);
            for text in [&spaces, &word] {
                let whole = format!("One {text} two");
                let (head, tail) = whole.split_at(10_000);
                let (middle, tail) = tail.split_at(9_000);
                check(&tokenizer, &[head, middle, tail]);
            }
        }
    }

    #[test]
    fn what_the_vocabulary_lacks_is_counted_once() {
        let tokenizer = tokenizer("dropping");
        let text = "The lamp ☃ burned. ".repeat(400);
        let (head, tail) = text.split_at(text.find('☃').unwrap() + 3000);
        let mut losses = Losses::default();
        parts(&tokenizer, &[head, tail]).iter().for_each(|part| losses.merge(&part.losses));
        assert_eq!((losses.characters, losses.of, losses.example), (400, 400 * 19, Some('☃')));
        tokenizer.encode("☃ and ☃").unwrap();
        assert_eq!(tokenizer.take_losses().characters, 2);
        assert!(tokenizer.take_losses().is_none());
    }
}
