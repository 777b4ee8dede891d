//! TensorBoard's event files. The crates that write them need a protocol compiler at build time or have been left alone
//! for years, and of the format a few fields are all it takes (tensorflow/core/util/event.proto, summary.proto, tensor.proto;
//! for hyperparameters tensorboard/plugins/hparams/api.proto and plugin_data.proto, and google/protobuf/struct.proto).
//!
//! Each run writes its hyperparameters as the start of a session. It writes no experiment, which would name the columns of
//! all runs in a log folder: TensorBoard makes one from the sessions, with the hyperparameters and metrics of every run.

use anyhow::{Context, Result};
use gptkit_config::differences;
use gptkit_data::disk;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The event file of one process. TensorBoard reads all files of a folder as one run.
#[derive(Debug)]
pub(crate) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in `folder`. What older ones say of steps after `step` no longer counts.
    pub(crate) fn create(folder: &Path, step: u64) -> Result<Self> {
        // TensorBoard knows its files by the first words, and orders them by name.
        let name = format!("events.out.tfevents.{:010}.gptkit.{}", now().as_secs(), std::process::id());
        let path = folder.join(name);
        let mut events = Self { file: disk::append(&path)?, path };
        events.write(0, &bytes(3, b"brain.Event:2"))?;
        let session_start = varint(1, 1);
        events.write(step + 1, &bytes(7, &session_start))?;
        Ok(events)
    }

    /// Adds what was measured at `step`.
    pub(crate) fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        self.write(step, &summary(values))
    }

    /// Adds a text at `step`, which TensorBoard shows as it is.
    pub(crate) fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        self.write(step, &text_summary(tag, text))
    }

    /// Adds the settings `config` of the run, TOML: as a text, and as hyperparameters.
    pub(crate) fn settings(&mut self, step: u64, config: &str) -> Result<()> {
        self.text(step, "config", config)?;
        let start = session_start(&hyperparameters(config)?, now().as_secs_f64());
        self.write(step, &plugin_summary("_hparams_/session_start_info", &start))
    }

    /// Adds that the run has ended well.
    pub(crate) fn finished(&mut self) -> Result<()> {
        let end = session_end(now().as_secs_f64());
        self.write(0, &plugin_summary("_hparams_/session_end_info", &end))
    }

    fn write(&mut self, step: u64, what: &[u8]) -> Result<()> {
        let record = record(&event(now().as_secs_f64(), step, what));
        self.file.write_all(&record).with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

fn event(wall_time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    [&[1 << 3 | 1][..], &wall_time.to_le_bytes(), &varint(2, step), what].concat()
}

/// Data types of tensors and of summaries.
const DT_FLOAT: u64 = 1;
const DT_STRING: u64 = 7;
const DATA_CLASS_TENSOR: u64 = 2;

/// A summary with one text, which the text plugin shows. It reads Markdown, in which indented lines stay as they are.
fn text_summary(tag: &str, text: &str) -> Vec<u8> {
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    let tensor = [varint(1, DT_STRING), bytes(2, b""), bytes(8, indented.as_bytes())].concat();
    let metadata = [bytes(1, &bytes(1, b"text")), varint(4, DATA_CLASS_TENSOR)].concat();
    bytes(5, &bytes(1, &[bytes(1, tag.as_bytes()), bytes(8, &tensor), bytes(9, &metadata)].concat()))
}

/// A summary with `data` for the hyperparameter plugin, and the empty tensor that TensorBoard's own writer adds.
fn plugin_summary(tag: &str, data: &[u8]) -> Vec<u8> {
    let one_empty_dimension = bytes(2, b"");
    let tensor = [varint(1, DT_FLOAT), bytes(2, &one_empty_dimension)].concat();
    let metadata = bytes(1, &[bytes(1, b"hparams"), bytes(2, data)].concat());
    bytes(5, &bytes(1, &[bytes(1, tag.as_bytes()), bytes(8, &tensor), bytes(9, &metadata)].concat()))
}

/// The value of a hyperparameter.
#[derive(Debug, Clone, PartialEq)]
enum HyperparameterValue {
    Number(f64),
    Text(String),
    Switch(bool),
}

/// Every key of the settings `config`, TOML, but for the description; lists are texts.
fn hyperparameters(config: &str) -> Result<Vec<(String, HyperparameterValue)>> {
    let value = |text: String| match (text.parse::<f64>(), text.parse::<bool>()) {
        (Ok(number), _) => HyperparameterValue::Number(number),
        (_, Ok(switch)) => HyperparameterValue::Switch(switch),
        _ => HyperparameterValue::Text(text.trim_matches('"').to_owned()),
    };
    let all = differences("", config)?.into_iter().filter(|setting| setting.key != "description");
    Ok(all.filter_map(|setting| Some((setting.key, value(setting.now?)))).collect())
}

/// Plugin data of version 0 with the start of a session.
fn session_start(hyperparameters: &[(String, HyperparameterValue)], time: f64) -> Vec<u8> {
    let entry = |(name, value): &(String, HyperparameterValue)| {
        let value = match value {
            HyperparameterValue::Number(x) => double(2, *x),
            HyperparameterValue::Text(text) => bytes(3, text.as_bytes()),
            HyperparameterValue::Switch(switch) => varint(4, u64::from(*switch)),
        };
        bytes(1, &[bytes(1, name.as_bytes()), bytes(2, &value)].concat())
    };
    let start = [hyperparameters.iter().flat_map(entry).collect(), double(5, time)].concat();
    bytes(3, &start)
}

/// Plugin data of version 0 with a session's end, status 1: success.
fn session_end(time: f64) -> Vec<u8> {
    bytes(4, &[varint(1, 1), double(2, time)].concat())
}

fn summary(values: &[(&str, f64)]) -> Vec<u8> {
    let value = |(tag, value): &(&str, f64)| {
        let simple_value = [&[2 << 3 | 5][..], &(*value as f32).to_le_bytes()].concat();
        bytes(1, &[bytes(1, tag.as_bytes()), simple_value].concat())
    };
    bytes(5, &values.iter().flat_map(value).collect::<Vec<u8>>())
}

/// A TFRecord: length and content, each followed by its checksum.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), content, &checksum(content)].concat()
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Field `number` of a message, of the kind that holds a whole number.
fn varint(number: u8, value: u64) -> Vec<u8> {
    [&[number << 3][..], &base128(value)].concat()
}

/// Field `number` of a message, of the kind that holds eight bytes.
fn double(number: u8, value: f64) -> Vec<u8> {
    [&[number << 3 | 1][..], &value.to_le_bytes()].concat()
}

/// Field `number` of a message, of the kind that holds bytes.
fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &base128(value.len() as u64), value].concat()
}

/// Seven bits a byte, lowest first.
fn base128(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// The CRC of a TFRecord, turned and shifted so that a record within a record keeps its own.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_is_written_as_tensorboard_writes_it() {
        // By tensorboard 2.21's RecordWriter, from its Event message with these values.
        const REFERENCE: [u8; 47] = [
            31, 0, 0, 0, 0, 0, 0, 0, 81, 75, 68, 24, 9, 0, 0, 0, 0, 0, 0, 224, 63, 16, 172, 2, 42, 17, 10, 15, 10, 8,
            108, 111, 115, 115, 47, 118, 97, 108, 21, 0, 0, 192, 63, 149, 60, 5, 20,
        ];
        assert_eq!(record(&event(0.5, 300, &summary(&[("loss/val", 1.5)]))), REFERENCE);
    }

    /// References: tensorboard 2.21, from its messages with these values (scripts/check_tensorboard.py).
    #[test]
    fn texts_and_hyperparameters_are_written_as_tensorboard_writes_them() {
        const TEXT: &[u8] = &[
            9, 0, 0, 0, 0, 0, 0, 224, 63, 16, 172, 2, 42, 51, 10, 49, 10, 9, 115, 97, 109, 112, 108, 101, 115, 47, 49,
            66, 24, 8, 7, 18, 0, 66, 18, 32, 32, 32, 32, 79, 110, 99, 101, 10, 32, 32, 32, 32, 109, 111, 114, 101, 10,
            74, 10, 10, 6, 10, 4, 116, 101, 120, 116, 32, 2,
        ];
        assert_eq!(event(0.5, 300, &text_summary("samples/1", "Once\nmore")), TEXT);
        const START: &[u8] = &[
            10, 81, 10, 28, 95, 104, 112, 97, 114, 97, 109, 115, 95, 47, 115, 101, 115, 115, 105, 111, 110, 95, 115,
            116, 97, 114, 116, 95, 105, 110, 102, 111, 66, 6, 8, 1, 18, 2, 18, 0, 74, 41, 10, 39, 10, 7, 104, 112, 97,
            114, 97, 109, 115, 18, 28, 26, 26, 10, 15, 10, 2, 108, 114, 18, 9, 17, 0, 0, 0, 0, 0, 0, 208, 63, 41, 0, 0,
            0, 0, 0, 0, 248, 63,
        ];
        let start = session_start(&[("lr".to_owned(), HyperparameterValue::Number(0.25))], 1.5);
        assert_eq!(plugin_summary("_hparams_/session_start_info", &start), bytes(5, START));
        let of = |value| session_start(&[("k".to_owned(), value)], 1.5);
        const END: &[u8] = &[41, 0, 0, 0, 0, 0, 0, 248, 63];
        let text = of(HyperparameterValue::Text("cosine".to_owned()));
        const COSINE: &[u8] = &[26, 24, 10, 13, 10, 1, 107, 18, 8, 26, 6, 99, 111, 115, 105, 110, 101];
        assert_eq!(text, [COSINE, END].concat());
        let switch = of(HyperparameterValue::Switch(true));
        assert_eq!(switch, [&[26, 18, 10, 7, 10, 1, 107, 18, 2, 32, 1][..], END].concat());
        assert_eq!(session_end(1.5), [34, 11, 8, 1, 17, 0, 0, 0, 0, 0, 0, 248, 63]);
    }

    #[test]
    fn every_setting_is_a_hyperparameter_of_its_type() {
        let config = "description = \"small\"\nseed = 3\n[model]\nkind = \"gpt2\"\ntied = true\n[data]\nsources = [\"a\"]\n[train]\nlr = 1e-3\nlength = \"2 steps\"\n";
        let found = hyperparameters(config).unwrap();
        let text = |text: &str| HyperparameterValue::Text(text.to_owned());
        let expected = [
            ("data.sources", text("[\"a\"]")),
            ("model.kind", text("gpt2")),
            ("model.tied", HyperparameterValue::Switch(true)),
            ("seed", HyperparameterValue::Number(3.0)),
            ("train.length", text("2 steps")),
            ("train.lr", HyperparameterValue::Number(0.001)),
        ];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn numbers_are_written_seven_bits_a_byte() {
        assert_eq!(base128(0), [0]);
        assert_eq!(base128(300), [0xac, 0x02]);
        assert_eq!(base128(u64::MAX).len(), 10);
    }
}
