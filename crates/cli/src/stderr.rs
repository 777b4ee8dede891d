//! Lines and events on stderr.

use gptkit_data::printable::printable;
use gptkit_lineage::event::ProgressEvent;
use std::io::{self, Write};

/// Writes a line to stderr without control sequences; errors are ignored.
pub(crate) fn write_line(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(line));
}

/// Sends an event to the gptkit that runs this process. When that one is gone, the process ends: what is saved can be resumed.
pub(crate) fn send(event: &ProgressEvent) {
    let line = serde_json::json!(event).to_string();
    if writeln!(io::stderr().lock(), "{line}").is_err() {
        std::process::exit(1);
    }
}
