//! What is wrong with a template.

use minijinja::{Error, ErrorKind};

/// A mistake in a template, or a failure while it runs, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The problem, in words.
    pub what: String,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// The byte in the source, where it is known.
    pub offset: Option<usize>,
    /// Whether a variable or field was missing.
    pub undefined: bool,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, line: Option<usize>) -> Self {
        Self { what: what.into(), line, offset: None, undefined: false }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.kind() == ErrorKind::OutOfFuel {
            let what = "the template needs too much computation or writes too much text";
            return Self::new(what, error.line());
        }
        let mut what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        // A macro's error lies within that of its call.
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            what = format!("{what}: {inner}");
            source = inner.source();
        }
        Self {
            what: shortened(&what),
            line: error.line(),
            offset: error.range().map(|range| range.start),
            undefined: error.kind() == ErrorKind::UndefinedError,
        }
    }
}

/// An error may quote all that the template made.
fn shortened(what: &str) -> String {
    const LONGEST: usize = 1000;
    match what.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &what[..end]),
        None => what.to_owned(),
    }
}
