//! Lines of a file of records, of bounded length.

use anyhow::{Context, Result};
use std::io::{BufRead, Read};
use std::ops::ControlFlow;
use std::path::Path;

/// Longest record: it is held in memory whole.
pub(crate) const LONGEST_RECORD: u64 = 1 << 26;
/// The byte-order mark of UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Takes the number of a line and its bytes, or what is wrong with it; says whether to go on.
pub(crate) type LineSink<'a> = &'a mut dyn FnMut(u64, Result<&[u8], String>) -> Result<ControlFlow<()>>;

/// Hands the lines of `input` that are not blank to `sink`, each with its number, or with what is wrong with it: it is too
/// long, or what it was compressed to is damaged, and all that follows with it. `path` is its name in messages. Returns what
/// `sink` said last.
///
/// # Errors
/// Those of `sink`, and when the file cannot be read.
pub(crate) fn lines(path: &Path, mut input: impl BufRead, sink: LineSink) -> Result<ControlFlow<()>> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let mut read = (&mut input).take(LONGEST_RECORD).read_until(b'\n', &mut bytes);
        let too_long = bytes.len() as u64 == LONGEST_RECORD && !bytes.ends_with(b"\n");
        if too_long {
            let long = "is longer than 64 MiB; put such a long text into a separate file";
            if sink(line, Err(long.to_owned()))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            read = read.and(input.skip_until(b'\n'));
        }
        match read {
            Ok(0) if !too_long => break,
            Ok(_) if too_long => continue,
            Ok(_) => {}
            Err(e) if is_damage(&e) => return sink(line, Err(unreadable(&e))),
            Err(e) => return Err(e).with_context(|| format!("{} line {line} cannot be read", path.display())),
        }
        // Files that were joined have a mark at the start of each.
        let record = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
        if !record.trim_ascii().is_empty() && sink(line, Ok(record))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Whether reading failed for what a file holds, as a damaged member of a gzip file does, not for the system.
pub(crate) fn is_damage(e: &std::io::Error) -> bool {
    e.raw_os_error().is_none()
}

/// Describes a file that is damaged from some place on.
pub(crate) fn unreadable(e: &std::io::Error) -> String {
    format!("the rest of this file cannot be read: {e}")
}

/// What is wrong with bytes that are no text.
pub(crate) fn not_utf8(e: &std::str::Utf8Error) -> String {
    format!("byte {} is not UTF-8", e.valid_up_to() + 1)
}
