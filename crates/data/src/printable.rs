//! Text from elsewhere (models, data, file names), made safe to show in a terminal.
//!
//! A control sequence can set a window's title, clear the screen or hide text, and a bidirectional override shows a name
//! backward. Such characters are written as escapes that can be read: `\x1b`, `\u{202e}`.

use std::borrow::Cow;

/// `text` without control characters; line breaks and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| controls(c) && !matches!(c, '\n' | '\t'), as_rust)
}

/// As [`printable`], on one line, for names, table cells and tokens: a line break is shown as `\n`, a tab as `\t`.
pub fn printable_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| controls(c) || matches!(c, '\u{2028}' | '\u{2029}'), as_rust)
}

/// JSON of the same meaning without control characters: JSON escapes those below U+0020 only. Line breaks between values
/// stay.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // Those below U+0080 but DEL never stand inside a string, where alone an escape may.
    escaped(json, |c| controls(c) && c >= '\x7f', |c| format!("\\u{:04x}", u32::from(c)))
}

/// C0, DEL and C1, and the characters that reorder what follows (Unicode TR 9, explicit formatting).
fn controls(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn as_rust(c: char) -> String {
    match c {
        '\n' | '\t' | '\r' => c.escape_default().collect(),
        c if c <= '\u{ff}' => format!("\\x{:02x}", u32::from(c)),
        c => c.escape_unicode().collect(),
    }
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) { out += &escape(c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_shown_and_all_else_stays() {
        assert_eq!(printable("\x1b]0;title\x07"), r"\x1b]0;title\x07");
        assert_eq!(printable("a\r\nb\tc\x00\x7f"), "a\\r\nb\tc\\x00\\x7f");
        assert_eq!(printable("\u{9b}2J \u{85}"), r"\x9b2J \x85");
        assert_eq!(printable("\u{202e}txt.exe \u{2066}x\u{2069}"), r"\u{202e}txt.exe \u{2066}x\u{2069}");
        assert!(matches!(printable("naïve 日本語 ␛ 👍\u{200d}\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_name_stays_on_its_line() {
        assert_eq!(printable_line("red\nnew\tline\r\u{2028}"), r"red\nnew\tline\r\u{2028}");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "a\u{9b}\u{7f}": "\x1b[2J\u{202e}\n日本" });
        let line = value.to_string() + "\n";
        let shown = printable_json(&line);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert!(shown.contains(r"\u009b\u007f") && !printable(&shown).contains(r"\x"), "{shown}");
    }

    proptest! {
        /// Text comes in pieces: a sequence that is split over two of them must not pass.
        #[test]
        fn pieces_are_shown_as_the_whole_is(a in "[\\x00-\\xff\u{202a}-\u{2069}]{0,9}", b in "[\\x00-\\xff]{0,9}") {
            let shown = printable(&a).into_owned() + &printable(&b);
            let whole = format!("{a}{b}");
            prop_assert_eq!(&shown, &printable(&whole));
            prop_assert!(!shown.chars().any(|c| controls(c) && !matches!(c, '\n' | '\t')));
        }
    }
}
