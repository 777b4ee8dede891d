//! Parquet files → records.

use crate::disk;
use crate::lines::not_utf8;
use crate::quiet::quietly;
use crate::record::{BadRecord, TakeRecord};
use anyhow::{Context, Result, anyhow};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::Value;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

/// Hands the rows of the Parquet file `path` to `take`, a row group after the other, until it breaks. Only the columns `wanted`
/// are read, if the file has one of them. `count` gets the number of bytes read.
///
/// # Errors
/// When the file cannot be read, and those of `take`.
pub(crate) fn read_parquet(path: &Path, wanted: &[&str], count: &dyn Fn(u64), take: TakeRecord) -> Result<()> {
    let damaged = || format!("{} cannot be read as a Parquet file", path.display());
    let file = disk::open(path)?;
    let mut bytes = file.metadata().with_context(damaged)?.len();
    let reader = caught(|| SerializedFileReader::new(file)).with_context(damaged)?;
    let columns = columns(&reader, wanted);
    let (mut first, mut line) = (0, 0);
    for index in 0..reader.num_row_groups() {
        let flow = match row_group(&reader, index, columns.clone(), &mut line, take)? {
            Ok(flow) => flow,
            Err(e) => take(line + 1, Err(BadRecord::new(format!("the rest of its row group cannot be read: {e:#}"))))?,
        };
        if flow.is_break() {
            return Ok(());
        }
        let group = reader.metadata().row_group(index);
        first += group.num_rows().max(0) as u64;
        line = first;
        let size = (group.compressed_size().max(0) as u64).min(bytes);
        bytes -= size;
        count(size);
    }
    count(bytes); // what is not in the groups
    Ok(())
}

/// Takes the rows of a group after row `line`, up to the first that cannot be read, of which it says why.
fn row_group(
    reader: &SerializedFileReader<File>,
    index: usize,
    columns: Option<Type>,
    line: &mut u64,
    take: TakeRecord,
) -> Result<Result<ControlFlow<()>>> {
    let group = match caught(|| reader.get_row_group(index)) {
        Ok(group) => group,
        Err(e) => return Ok(Err(e)),
    };
    let mut rows = match caught(|| group.get_row_iter(columns)) {
        Ok(rows) => rows,
        Err(e) => return Ok(Err(e)),
    };
    loop {
        let row = match caught(|| rows.next().transpose()) {
            Ok(None) => return Ok(Ok(ControlFlow::Continue(()))),
            Ok(Some(row)) => row,
            Err(e) => return Ok(Err(e)),
        };
        *line += 1;
        let fields = row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(name, field)?))).collect();
        if take(*line, fields)?.is_break() {
            return Ok(Ok(ControlFlow::Break(())));
        }
    }
}

/// The columns `wanted` of a Parquet file, if it has one of them; else all are read.
fn columns(reader: &SerializedFileReader<File>, wanted: &[&str]) -> Option<Type> {
    let schema = reader.metadata().file_metadata().schema();
    let fields: Vec<_> = schema.get_fields().iter().filter(|field| wanted.contains(&field.name())).cloned().collect();
    if fields.is_empty() {
        return None;
    }
    Type::group_type_builder(schema.name()).with_fields(fields).build().ok()
}

/// A field of a Parquet file. Bytes that are not said to be text are text nevertheless where they are UTF-8.
fn value(name: &str, field: &Field) -> Result<Value, BadRecord> {
    let Field::Bytes(bytes) = field else { return Ok(field.to_json_value()) };
    match std::str::from_utf8(bytes.data()) {
        Ok(text) => Ok(Value::from(text)),
        Err(e) => Err(BadRecord::not_utf8(format!("{} in the field \"{name}\"", not_utf8(&e)))),
    }
}

/// What `read` gives, where parquet's own reader does not fail, or panic, as it does on some damaged files.
fn caught<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let read = quietly(read).map_err(|_| anyhow!("it is damaged"))?;
    read.map_err(|e| anyhow!(e.to_string().chars().take(200).collect::<String>())) // it may quote the whole text
}
