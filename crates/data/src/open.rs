//! Opening files of text: decompressed, and decoded from UTF-16.

use crate::disk;
use crate::encoding::{Encoding, Failed, Utf16};
use crate::file_form::{Compression, FileForm};
use crate::inputs::refuse_stream;
use crate::remarks::Remarks;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;

/// A file that was opened for reading: decompressed as its name says, and UTF-16 decoded.
pub(crate) struct OpenedFile<'a> {
    input: Box<dyn BufRead + 'a>,
    encoding: Encoding,
}

impl<'a> OpenedFile<'a> {
    /// The text of the file `path`; notes about its encoding are added to `remarks`.
    ///
    /// # Errors
    /// When it is no text: what it is, without its name.
    pub(crate) fn text(self, path: &Path, remarks: &mut Remarks) -> Result<Box<dyn BufRead + 'a>> {
        if let Encoding::NotText(kind) = self.encoding {
            bail!("it is {kind}");
        }
        if let Some(notice) = self.encoding.notice() {
            remarks.add(notice, path, 0);
        }
        Ok(self.input)
    }
}

/// Opens `path` for reading; `count` receives the number of bytes read from disk.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn open<'a>(path: &Path, count: &'a (dyn Fn(u64) + 'a)) -> Result<OpenedFile<'a>> {
    refuse_stream(path)?;
    let file = disk::open(path)?;
    decompressed(CountedRead { inner: file, count }, FileForm::of(path).compression)
}

/// What `raw` holds, decompressed and, if it is UTF-16, decoded.
pub(crate) fn decompressed<'a>(raw: impl Read + 'a, compression: Option<Compression>) -> Result<OpenedFile<'a>> {
    const BUFFER: usize = 1 << 18;
    let mut input: Box<dyn BufRead + 'a> = match compression {
        None => Box::new(BufReader::with_capacity(BUFFER, raw)),
        // Several members in a row are one text, as gzip itself reads them.
        Some(Compression::Gzip) => {
            let members = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, raw));
            Box::new(BufReader::with_capacity(BUFFER, members))
        }
        Some(Compression::Zstd) => Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::new(raw)?)),
    };
    let encoding = match input.fill_buf() {
        Ok(head) => Encoding::of(head),
        // It is said where the file is read.
        Err(e) => return Ok(OpenedFile { input: Box::new(Failed(e)), encoding: Encoding::Utf8 }),
    };
    if let Encoding::Utf16 { big_endian, .. } = encoding {
        input = Box::new(Utf16::new(input, big_endian));
    }
    Ok(OpenedFile { input, encoding })
}

struct CountedRead<'a, R> {
    inner: R,
    count: &'a (dyn Fn(u64) + 'a),
}

impl<R: Read> Read for CountedRead<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        (self.count)(n as u64);
        Ok(n)
    }
}

/// Copies stdin to `path`, so that it can be read more than once.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn spool_stdin(path: &Path) -> Result<()> {
    let stdin = Path::new("/dev/stdin");
    if let Ok(metadata) = stdin.metadata()
        && disk::kind_of(&metadata).ends_with("device")
        && !std::io::stdin().is_terminal()
    {
        bail!("stdin is {}; redirect a file to it, or pipe a command into it", disk::kind_of(&metadata));
    }
    disk::write_with(path, |aside| {
        #[expect(clippy::disallowed_methods, reason = "the name is one aside")]
        let mut file = File::create(aside)?;
        let (mut stdin, mut bytes) = (std::io::stdin().lock(), vec![0; 1 << 16]);
        loop {
            match stdin.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(n) => file.write_all(&bytes[..n])?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("stdin cannot be read"),
            }
        }
    })
}
