//! Helpers of this crate's tests.

use crate::progress::{Progress, ProgressTask, Silent, Unit};
use crate::tokenizer::Tokenizer;
use std::sync::Mutex;

/// The tokenizer `kind` of those that scripts/conformance/tokenizer_kinds.py made.
pub(crate) fn tokenizer(kind: &str) -> Tokenizer {
    Tokenizer::load(&gptkit_testing::golden_path("conformance/tokenizers").join(kind)).unwrap()
}

/// Keeps the warnings that it is told.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    warnings: Mutex<Vec<String>>,
}

impl Heard {
    /// All warnings so far.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap().clone()
    }
}

impl Progress for Heard {
    fn note(&self, _: &str) {}

    fn warn(&self, line: &str) {
        self.warnings.lock().unwrap().push(line.to_owned());
    }

    fn task(&self, label: &str, total: Option<u64>, unit: Unit) -> Box<dyn ProgressTask> {
        Silent.task(label, total, unit)
    }
}
