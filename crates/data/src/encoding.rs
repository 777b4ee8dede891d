//! Detects the encoding of a file from its first bytes: UTF-8, UTF-16 (which is decoded), or no text at all.

use std::io::{BufRead, Error, Read};

/// The encoding of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// UTF-8, as far as the first bytes show.
    Utf8,
    /// Text in units of 16 bits.
    Utf16 {
        /// Whether the high byte of each comes first.
        big_endian: bool,
        /// Whether a byte-order mark says so.
        marked: bool,
    },
    /// Something else, which has this name.
    NotText(&'static str),
}

impl Encoding {
    /// The encoding of a file that begins with `head`.
    pub(crate) fn of(head: &[u8]) -> Self {
        if head.starts_with(b"\xFF\xFE\0\0") || head.starts_with(b"\0\0\xFE\xFF") {
            return Self::NotText("UTF-32 text; convert it: iconv -f UTF-32 -t UTF-8");
        }
        if let Some(name) = other_kind(head) {
            return Self::NotText(name);
        }
        match head {
            [0xFF, 0xFE, ..] => Self::Utf16 { big_endian: false, marked: true },
            [0xFE, 0xFF, ..] => Self::Utf16 { big_endian: true, marked: true },
            _ => match is_utf16(head) {
                Some(big_endian) => Self::Utf16 { big_endian, marked: false },
                None => Self::Utf8,
            },
        }
    }

    /// A warning for files of this encoding, if there is one.
    pub(crate) fn notice(self) -> Option<&'static str> {
        match self {
            Self::Utf16 { marked: true, .. } => Some("the text is UTF-16 and is decoded as such"),
            Self::Utf16 { marked: false, .. } => {
                Some("every second byte is NUL, so the file is decoded as UTF-16 (it has no byte-order mark)")
            }
            Self::Utf8 | Self::NotText(_) => None,
        }
    }
}

/// Whether `head` is UTF-16 without a byte-order mark; if so, whether the high byte of each unit comes first. It is when every
/// second byte is a high byte of letters, which are control characters in UTF-8, some of them are zero, as those of spaces
/// are, and none of the others is.
fn is_utf16(head: &[u8]) -> Option<bool> {
    const LOOKED_AT: usize = 1 << 12;
    let head = &head[..head.len().min(LOOKED_AT) & !1];
    let count = |first: usize, is: fn(&u8) -> bool| head.iter().skip(first).step_by(2).filter(|byte| is(byte)).count();
    let zeros = |first| count(first, |byte| *byte == 0);
    let are_high = |first| {
        let (n, other) = (zeros(first), count(first, |byte| *byte >= b' '));
        n >= 2 && n * 40 >= head.len() && other * 40 <= head.len()
    };
    match (zeros(0), zeros(1)) {
        (0, _) if are_high(1) => Some(false),
        (_, 0) if are_high(0) => Some(true),
        _ => None,
    }
}

/// The kind of a file that is no text and begins with `head`.
fn other_kind(head: &[u8]) -> Option<&'static str> {
    const KINDS: &[(&[u8], &str)] = &[
        (b"\x89PNG\r\n", "a PNG image"),
        (b"\xFF\xD8\xFF", "a JPEG image"),
        (b"GIF87a", "a GIF image"),
        (b"GIF89a", "a GIF image"),
        (b"%PDF-", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive, or a document in ZIP format (docx, xlsx, epub)"),
        (b"PK\x05\x06", "an empty ZIP archive"),
        (b"\x1F\x8B\x08", "compressed with gzip; rename it to end in .gz"),
        (b"\x28\xB5\x2F\xFD", "compressed with zstd; rename it to end in .zst"),
        (b"BZh91AY&SY", "compressed with bzip2; decompress it with bunzip2"),
        (b"\xFD7zXZ\0", "compressed with xz; decompress it with unxz"),
        (b"7z\xBC\xAF\x27\x1C", "a 7z archive"),
        (b"Rar!\x1A\x07", "a RAR archive"),
        (b"\xD0\xCF\x11\xE0\xA1\xB1", "a Microsoft Office document"),
        (b"{\\rtf1", "an RTF document"),
        (b"\x7FELF", "a program"),
        (b"MZ\x90\0", "a program"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"ARROW1\0\0", "an Arrow file; save it as Parquet"),
        (b"GGUF\x02\0\0\0", "a GGUF model"),
        (b"GGUF\x03\0\0\0", "a GGUF model"),
        (b"\x80\x02}q", "a Python pickle"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\x80\x05\x95", "a Python pickle"),
        (b"OggS\0", "an Ogg recording"),
        (b"fLaC\0", "a FLAC recording"),
        (b"ID3\x03", "an MP3 recording"),
        (b"ID3\x04", "an MP3 recording"),
    ];
    let at = |from: usize, sign: &[u8]| head.get(from..).is_some_and(|rest| rest.starts_with(sign));
    let known = KINDS.iter().find(|(sign, _)| at(0, sign)).map(|(_, name)| *name);
    known.or_else(|| {
        Some(match head {
            _ if at(0, b"PAR1") && head.get(4).is_some_and(|byte| byte.is_ascii_control()) => {
                "a Parquet file; rename it to end in .parquet"
            }
            _ if at(0, b"RIFF") && (at(8, b"WAVE") || at(8, b"AVI ")) => "a recording",
            _ if at(0, b"RIFF") && at(8, b"WEBP") => "a WebP image",
            _ if at(4, b"ftyp") => "a video",
            _ if at(257, b"ustar") => "a tar archive; unpack it and pass the folder",
            _ => return None,
        })
    })
}

/// A reader that begins with a failure to read, and has nothing else.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Error);

impl Failed {
    fn again<T>(&self) -> std::io::Result<T> {
        Err(self
            .0
            .raw_os_error()
            .map_or_else(|| Error::new(self.0.kind(), self.0.to_string()), Error::from_raw_os_error))
    }
}

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        self.again()
    }
}

impl BufRead for Failed {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.again()
    }

    fn consume(&mut self, _: usize) {}
}

/// Reads UTF-16 as UTF-8. What is no character, half of a surrogate pair for instance, becomes a byte that is not UTF-8, so
/// that it is reported with its line as in any other file.
#[derive(Debug)]
pub(crate) struct Utf16<R> {
    inner: R,
    big_endian: bool,
    /// The first half of a surrogate pair whose second half is still to be read.
    high: Option<u16>,
    /// The first byte of a unit whose second byte is still to be read.
    byte: Option<u8>,
    /// What was decoded, and how much of it was read.
    text: Vec<u8>,
    at: usize,
}

/// No byte of UTF-8.
const NOT_UTF8: u8 = 0xFF;

impl<R: BufRead> Utf16<R> {
    /// `inner` in this order of bytes, with a byte-order mark or without.
    pub(crate) fn new(inner: R, big_endian: bool) -> Self {
        Self { inner, big_endian, high: None, byte: None, text: Vec::new(), at: 0 }
    }

    fn unit(&mut self, unit: u16) {
        if let Some(high) = self.high.take() {
            match char::decode_utf16([high, unit]).next() {
                Some(Ok(character)) => return self.character(character),
                _ => self.text.push(NOT_UTF8),
            }
        }
        match char::from_u32(u32::from(unit)) {
            Some(character) => self.character(character),
            None if unit < 0xDC00 => self.high = Some(unit),
            None => self.text.push(NOT_UTF8),
        }
    }

    fn character(&mut self, character: char) {
        self.text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// Decodes the next part.
    fn decode(&mut self) -> std::io::Result<()> {
        self.text.clear();
        self.at = 0;
        while self.text.is_empty() {
            let bytes = self.inner.fill_buf()?.to_vec();
            if bytes.is_empty() {
                let is_cut = self.high.take().is_some() | self.byte.take().is_some();
                self.text.extend(is_cut.then_some(NOT_UTF8));
                return Ok(());
            }
            for &byte in &bytes {
                match self.byte.take() {
                    None => self.byte = Some(byte),
                    Some(first) if self.big_endian => self.unit(u16::from_be_bytes([first, byte])),
                    Some(first) => self.unit(u16::from_le_bytes([first, byte])),
                }
            }
            self.inner.consume(bytes.len());
        }
        Ok(())
    }
}

impl<R: BufRead> BufRead for Utf16<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.at == self.text.len() {
            self.decode()?;
        }
        Ok(&self.text[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl<R: BufRead> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.fill_buf()?;
        let n = bytes.len().min(buffer.len());
        buffer[..n].copy_from_slice(&bytes[..n]);
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utf16(text: &str, big_endian: bool) -> Vec<u8> {
        let bytes = |unit: u16| if big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() };
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn decoded(bytes: &[u8], big_endian: bool) -> Vec<u8> {
        let mut text = Vec::new();
        let inner = std::io::BufReader::with_capacity(3, bytes);
        Utf16::new(inner, big_endian).read_to_end(&mut text).unwrap();
        text
    }

    #[test]
    fn encodings_are_told_by_the_first_bytes() {
        let unmarked = |big_endian| Encoding::Utf16 { big_endian, marked: false };
        for big_endian in [false, true] {
            let marked = Encoding::Utf16 { big_endian, marked: true };
            assert_eq!(Encoding::of(&utf16("\u{feff}ab", big_endian)), marked);
            assert_eq!(Encoding::of(&utf16("Once there was", big_endian)), unmarked(big_endian));
            assert_eq!(
                Encoding::of(&utf16("Жила была лиса. Она жила в лесу, а там ёж.", big_endian)),
                unmarked(big_endian)
            );
        }
        for text in [
            "",
            "a",
            "Once there was a fox.",
            "a\0b",
            "a\0bcdefghi",
            "日本語",
            "BZh is text",
            "PAR1 is text",
            "ID3 is text",
        ] {
            assert_eq!(Encoding::of(text.as_bytes()), Encoding::Utf8, "{text}");
        }
        for (head, name) in [
            (b"\x89PNG\r\n\x1a\n".as_slice(), "a PNG image"),
            (b"PK\x03\x04\x14\0", "a ZIP archive"),
            (b"%PDF-1.7", "a PDF"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"PAR1\x15\x04", "a Parquet file"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
            (&[&[b'a'; 257][..], b"ustar"].concat(), "a tar archive"),
        ] {
            assert!(matches!(Encoding::of(head), Encoding::NotText(found) if found.contains(name)), "{name}");
        }
    }

    #[test]
    fn what_is_no_character_is_not_utf_8() {
        assert_eq!(decoded(b"a\0\0\xD8b\0", false), b"a\xFFb");
        assert_eq!(decoded(b"a\0\0\xDCb\0", false), b"a\xFFb");
        assert_eq!(decoded(b"a\0\0\xD8", false), b"a\xFF");
        assert_eq!(decoded(b"a\0b", false), b"a\xFF");
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "\\PC{0,20}", big_endian: bool) {
            prop_assert_eq!(decoded(&utf16(&text, big_endian), big_endian), text.into_bytes());
        }
    }
}
