//! Messages with a way out: what is wrong, and below it what to do.

use std::fmt::Display;

/// `what` is wrong, and `hint` in the next line says what to do.
pub fn with_hint(what: impl Display, hint: impl Display) -> String {
    format!("{what}\n  hint: {hint}")
}

/// A request that cannot be obeyed, found before anything was done. `gptkit` ends with exit code 2 for it, and with 1 for
/// every other error.
#[derive(Debug)]
pub struct Usage(String);

impl Usage {
    /// `what` is wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(self, hint: impl Display) -> Self {
        Self(with_hint(self.0, hint))
    }
}

impl Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_stands_in_a_line_of_its_own() {
        let error = Usage::new("--k 12: at most 9").hint("use 4");
        assert_eq!(error.to_string(), "--k 12: at most 9\n  hint: use 4");
    }
}
