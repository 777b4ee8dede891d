//! Text on stdin, which may be a stream without an end: no more is read than fits into memory.

use anyhow::{Context, Result, ensure};
use std::io::{self, BufRead, Error, ErrorKind, Read};

/// Bytes of a text.
const LONGEST: u64 = 64 << 20;
/// Bytes of a line.
const LONGEST_LINE: u64 = 1 << 20;

/// All of it.
///
/// # Errors
/// When it cannot be read or is longer than 64 MiB.
pub(crate) fn bytes() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(LONGEST + 1).read_to_end(&mut bytes).context("stdin cannot be read")?;
    ensure!(bytes.len() as u64 <= LONGEST, "stdin is longer than {} MiB", LONGEST >> 20);
    Ok(bytes)
}

/// All of it, as text.
///
/// # Errors
/// When it cannot be read, is not UTF-8 or is longer than 64 MiB.
pub(crate) fn text() -> Result<String> {
    String::from_utf8(bytes()?).context("stdin cannot be read as text")
}

/// The next line of `input` without its line break; nothing at the end.
///
/// # Errors
/// When it cannot be read, is not UTF-8 or is longer than 1 MiB.
pub(crate) fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let n = input.take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes)? as u64;
    if n > LONGEST_LINE {
        return Err(Error::new(ErrorKind::InvalidData, "a line is longer than 1 MiB"));
    }
    if n == 0 {
        return Ok(None);
    }
    let mut text = String::from_utf8(bytes).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
    if text.ends_with('\n') {
        text.pop();
    }
    if text.ends_with('\r') {
        text.pop();
    }
    // Some shells put a byte-order mark before what they pipe.
    Ok(Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_they_end_and_have_a_longest() {
        let mut input = &b"\xEF\xBB\xBFone\r\n\ntwo"[..];
        let lines: Vec<String> = std::iter::from_fn(|| line(&mut input).unwrap()).collect();
        assert_eq!(lines, ["one", "", "two"]);
        assert!(line(&mut &[0xff, b'\n'][..]).is_err());
        let endless = io::repeat(0);
        let said = line(&mut io::BufReader::new(endless)).unwrap_err().to_string();
        assert!(said.contains("longer than 1 MiB"), "{said}");
    }
}
