//! TensorBoard's event files. The crates that write them need a protocol compiler at build time or have been left alone
//! for years, and of the format a few fields are all it takes (tensorflow/core/util/event.proto, summary.proto).

use anyhow::{Context, Result};
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

    fn write(&mut self, step: u64, what: &[u8]) -> Result<()> {
        let record = record(&event(now().as_secs_f64(), step, what));
        self.file.write_all(&record).with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

fn event(wall_time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    [&[1 << 3 | 1][..], &wall_time.to_le_bytes(), &varint(2, step), what].concat()
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

    #[test]
    fn numbers_are_written_seven_bits_a_byte() {
        assert_eq!(base128(0), [0]);
        assert_eq!(base128(300), [0xac, 0x02]);
        assert_eq!(base128(u64::MAX).len(), 10);
    }
}
