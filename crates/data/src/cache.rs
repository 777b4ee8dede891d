//! The key of prepared text: two requests that are equal are answered by the same folder.

use crate::inputs::inputs;
use crate::progress::Progress;
use crate::shard::{CorpusRequest, TokenizerRequest};
use crate::source::{DataConfig, SourceLocation};
use crate::tokenizer::{Tokenizer, TokenizerConfig};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Returns the request for these sources, with the size and time of every file. Warns of files in the sources' folders that are not read.
///
/// # Errors
/// When a source cannot be looked at.
pub(crate) fn request(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    loaded: Option<&Tokenizer>,
    places: &[SourceLocation],
    progress: &dyn Progress,
) -> Result<CorpusRequest> {
    let files = |place: &SourceLocation| {
        let SourceLocation::Path(path) = place else { return Ok(Vec::new()) };
        let found = inputs(path, data.on_bad_record)?;
        found.notice(path).iter().for_each(|line| progress.warn(line));
        anyhow::Ok(found.files)
    };
    let sources = data.sources.iter().zip(places).map(|(s, place)| Ok((s.path.clone(), files(place)?)));
    Ok(CorpusRequest {
        sources: sources.collect::<Result<_>>()?,
        text_key: data.text_key.clone(),
        on_bad_record: data.on_bad_record,
        val_fraction: data.val_fraction,
        tokenizer: match loaded {
            Some(tokenizer) => TokenizerRequest::Loaded(tokenizer.fingerprint()?),
            None => TokenizerRequest::Trained(tokenizer.kind(), tokenizer.vocab_size),
        },
    })
}

/// Name of the folder for `request`, for instance `tinyshakespeare-3f9a0c12`: readable, and another for other sources or
/// tokenizers; a changed file keeps its folder.
pub(crate) fn folder_name(request: &CorpusRequest) -> String {
    let paths: Vec<&String> = request.sources.iter().map(|(path, _)| path).collect();
    let files: Vec<&PathBuf> = request.sources.iter().flat_map(|(_, inputs)| inputs.iter().map(|i| &i.path)).collect();
    let key = blake3::hash(
        format!(
            "{paths:?} {files:?} {:?} {} {} {:?}",
            request.tokenizer, request.text_key, request.val_fraction, request.on_bad_record
        )
        .as_bytes(),
    );
    let first = paths.first().map_or("", |p| p.as_str());
    let name = Path::new(first).file_name().unwrap_or_default().to_string_lossy();
    let stem: String = name
        .split(['.', ':'])
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == '-')
        .collect();
    format!("{}-{}", if stem.is_empty() || stem == "-" { "text" } else { &stem }, &key.to_hex()[..8])
}
