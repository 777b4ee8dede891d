//! Documents → shards, once: what is prepared already and still right is used as it is.

use crate::cache::{folder_name, request};
use crate::disk;
use crate::encode::{Texts, hold_out, wide};
use crate::inputs::{InputFile, inputs};
use crate::open::spool_stdin;
use crate::progress::Progress;
use crate::shard::{Corpus, CorpusRequest, FORMAT, MANIFEST, Manifest, ShardSegment, ShardSource};
use crate::source::{DataConfig, OnBadRecord, SourceLocation};
use crate::tokenizer::{Tokenizer, TokenizerConfig};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Text ready for training.
#[derive(Debug)]
pub struct Prepared {
    /// Where it lies.
    pub folder: PathBuf,
    /// Its tokens.
    pub corpus: Arc<Corpus>,
    /// What made them.
    pub tokenizer: Tokenizer,
    /// [`Manifest::fingerprint`] of the folder.
    pub fingerprint: String,
}

/// Turns the text of `data` into token shards in `out`, or below `data.shards`; what is there already and still right is
/// used as it is. A source that is itself such a folder is opened.
///
/// # Errors
/// When text, tokenizer or folder cannot be used; nothing that was there is lost.
pub fn prepare(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    out: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Prepared> {
    if let [only] = &*data.sources
        && Manifest::is_in(Path::new(&only.path))
    {
        ensure!(out.is_none(), "{} is already prepared; remove --out", only.path);
        return open(Path::new(&only.path), tokenizer, progress);
    }
    let mut places = places(data, progress)?;
    let mut loaded = tokenizer.path.as_deref().map(Tokenizer::load).transpose()?;
    // Shards do not hold the uses of special tokens and the templates that a tokenizer's folder names.
    let with_loaded = |prepared: Prepared, loaded: Option<Tokenizer>| match loaded {
        Some(tokenizer) => Prepared { tokenizer, ..prepared },
        None => prepared,
    };
    let request = request(data, tokenizer, loaded.as_ref(), &places, progress)?;
    let folder = out.map_or_else(|| data.shards.join(folder_name(&request)), Path::to_owned);
    // What stdin gives is known only once it is read.
    let reads_stdin = places.iter().any(|place| matches!(place, SourceLocation::Stdin(_)));
    let reused = || if reads_stdin { Ok(None) } else { reuse(&folder, &request, data, progress) };
    if let Some(prepared) = reused()? {
        return Ok(with_loaded(prepared, loaded.take()));
    }
    refuse_foreign(&folder)?;
    // Another process may be preparing the same text: wait, and use what it made.
    let _turn = match out {
        Some(_) => None,
        None => Some(turn(data, progress)?),
    };
    if let Some(prepared) = reused()? {
        return Ok(with_loaded(prepared, loaded.take()));
    }

    let (manifest, tokenizer) = disk::folder_with(&folder, |made| {
        let spooled = spool(&mut places, made)?;
        let texts = Texts::new(data, places, progress);
        let tokenizer = match loaded {
            Some(tokenizer) => tokenizer,
            None => texts.train(tokenizer)?,
        };
        let sources = texts.tokenize(&tokenizer, made)?;
        if let Some(path) = spooled {
            std::fs::remove_file(path)?;
        }
        let manifest = Manifest {
            format: FORMAT,
            request,
            tokenizer: tokenizer.fingerprint()?,
            vocab_size: tokenizer.vocab_size() as u64,
            token_bytes: if wide(&tokenizer) { 4 } else { 2 },
            sources: hold_out(sources, data.val_fraction, progress)?,
        };
        write_manifest(made, &manifest)?;
        tokenizer.save(made)?;
        Ok((manifest, tokenizer))
    })?;
    say(&folder, "new", &manifest, progress);
    let fingerprint = manifest.fingerprint();
    Ok(Prepared { corpus: Arc::new(Corpus::open(&folder, &manifest)?), folder, tokenizer, fingerprint })
}

/// Waits until no other process prepares text in the same folder; nobody else does until the result is dropped.
fn turn(data: &DataConfig, progress: &dyn Progress) -> Result<File> {
    disk::create_dir(&data.shards)?;
    let mut waits = false;
    loop {
        if let Some(lock) = disk::lock(&data.shards)? {
            return Ok(lock);
        }
        if !waits {
            progress.note(&format!("waiting for another process that is preparing text in {}", data.shards.display()));
        }
        waits = true;
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Where each source lies.
fn places(data: &DataConfig, progress: &dyn Progress) -> Result<Vec<SourceLocation>> {
    data.sources.iter().filter_map(|s| SourceLocation::shadowed(&s.path)).for_each(|line| progress.warn(&line));
    if let Some(prepared) = data.sources.iter().find(|s| Manifest::is_in(Path::new(&s.path))) {
        bail!(
            "{} is prepared text and cannot be combined with other sources; use the files that it was made from",
            prepared.path
        );
    }
    data.sources.iter().map(|s| SourceLocation::of(&s.path).map_err(|e| anyhow!("{}: {e}", s.path))).collect()
}

/// Opens a prepared folder, whose tokenizer must be the one asked for, if one is.
fn open(folder: &Path, wanted: &TokenizerConfig, progress: &dyn Progress) -> Result<Prepared> {
    let manifest = Manifest::read(folder)?;
    let mut tokenizer = Tokenizer::load(folder)?;
    ensure!(
        tokenizer.fingerprint()? == manifest.tokenizer,
        "{} contains a different tokenizer from the one that made its tokens; run `gptkit prepare` again",
        folder.display()
    );
    if let Some(path) = &wanted.path {
        tokenizer = Tokenizer::load(path)?;
        ensure!(
            tokenizer.fingerprint()? == manifest.tokenizer,
            "{} was made with a different tokenizer from {}; run `gptkit prepare` again with it",
            folder.display(),
            path.display()
        );
    }
    let corpus = Corpus::open(folder, &manifest)?;
    Corpus::verify(folder, &manifest, progress)?;
    say(folder, "unchanged", &manifest, progress);
    let fingerprint = manifest.fingerprint();
    Ok(Prepared { corpus: Arc::new(corpus), folder: folder.to_owned(), tokenizer, fingerprint })
}

/// The folder as it is, when it was made from the same request; weights may differ, they cost nothing.
fn reuse(
    folder: &Path,
    request: &CorpusRequest,
    data: &DataConfig,
    progress: &dyn Progress,
) -> Result<Option<Prepared>> {
    let Ok(mut manifest) = Manifest::read(folder) else { return Ok(None) };
    if &manifest.request != request {
        return Ok(None);
    }
    let weights: Vec<Option<f64>> = data.sources.iter().map(|s| s.weight).collect();
    if manifest.sources.iter().map(|s| s.weight).ne(weights.iter().copied()) {
        for (source, weight) in manifest.sources.iter_mut().zip(weights) {
            source.weight = weight;
        }
        write_manifest(folder, &manifest)?;
    }
    match open(folder, &TokenizerConfig::default(), progress) {
        Ok(prepared) => Ok(Some(prepared)),
        Err(e) => {
            progress.warn(&format!("{e:#}; the text is prepared again"));
            Ok(None)
        }
    }
}

/// A folder that holds something else is not overwritten.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let taken = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !taken || Manifest::is_in(folder),
        "{} is not empty and does not contain prepared text; choose another folder",
        folder.display()
    );
    Ok(())
}

/// Names the sources that the prepared text in `folder` was made from and that have changed since. Relative paths lead from
/// `from`. A source that is no longer there is not named.
///
/// # Errors
/// When `folder` holds no prepared text.
pub fn changed_since(folder: &Path, from: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, before) in Manifest::read(folder)?.request.sources {
        let Ok(SourceLocation::Path(place)) = SourceLocation::of(&path) else { continue };
        let Ok(now) = inputs(&from.join(place), OnBadRecord::Skip) else { continue };
        let absolute = |input: &InputFile| InputFile { path: from.join(&input.path), ..input.clone() };
        if before.iter().map(absolute).ne(now.files.iter().map(absolute)) {
            found.push(path);
        }
    }
    Ok(found)
}

fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<()> {
    disk::write_json(&folder.join(MANIFEST), manifest)
}

fn say(folder: &Path, state: &str, manifest: &Manifest, progress: &dyn Progress) {
    let tokens = |part: fn(&ShardSource) -> &[ShardSegment]| -> u64 {
        manifest.sources.iter().flat_map(part).map(|s| s.tokens).sum()
    };
    let documents: u64 = manifest.sources.iter().map(|s| s.documents).sum();
    let skipped: u64 = manifest.sources.iter().map(|s| s.skipped.total()).sum();
    let bytes: u64 = manifest.sources.iter().map(|s| s.bytes).sum();
    let (train, val) = (tokens(|s| &s.train), tokens(|s| &s.val));
    progress.note(&format!(
        "text {} ({state}): {documents} document{}, {:.1} MB, {train} training tokens, {val} validation tokens, \
         vocabulary {}",
        folder.display(),
        if documents == 1 { "" } else { "s" },
        bytes as f64 / 1e6,
        manifest.vocab_size
    ));
    if state != "new" {
        manifest.sources.iter().for_each(|source| source.losses.warn(&source.path, progress));
    }
    if skipped > 0 {
        let first = manifest.sources.iter().find_map(|s| s.skipped.first.as_deref()).unwrap_or_default();
        progress
            .warn(&format!("skipped {skipped} bad records; the first: {first} (manifest.json has the counts by type)"));
    }
}

/// Copies stdin into `folder`, since it can be read only once, and puts the copy in its place.
fn spool(places: &mut [SourceLocation], folder: &Path) -> Result<Option<PathBuf>> {
    for place in places {
        if let SourceLocation::Stdin(ending) = place {
            let path = folder.join(format!("stdin{ending}"));
            spool_stdin(&path)?;
            *place = SourceLocation::Path(path.clone());
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Learns a tokenizer from the text of `data` alone.
///
/// # Errors
/// When the text cannot be used.
pub fn train_tokenizer(data: &DataConfig, config: &TokenizerConfig, progress: &dyn Progress) -> Result<Tokenizer> {
    let mut places = places(data, progress)?;
    for place in &places {
        if let SourceLocation::Path(path) = place {
            inputs(path, data.on_bad_record)?.notice(path).iter().for_each(|line| progress.warn(line));
        }
    }
    let folder = tempfile::tempdir().context("cannot create a temporary folder for the text from stdin")?;
    spool(&mut places, folder.path())?;
    Texts::new(data, places, progress).train(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::skipped::Skipped;
    use crate::source::SourceConfig;
    use crate::synthetic::{SyntheticPatterns, SyntheticStories};
    use crate::tokenizer::TokenizerKind;
    use crate::tokenizer::train::WordCounts;
    use std::collections::BTreeSet;
    use std::io::Write as _;

    /// A folder with twelve documents in `a.jsonl`, and what would prepare it.
    struct Scene {
        folder: tempfile::TempDir,
        data: DataConfig,
        tokenizer: TokenizerConfig,
    }

    fn document(i: usize) -> String {
        format!("Document {i} says: the cat sat on the mat.\nIt was {}.", "very ".repeat(i % 5) + "good")
    }

    fn records(n: std::ops::Range<usize>) -> String {
        n.map(|i| serde_json::json!({ "text": document(i) }).to_string() + "\n").collect()
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.jsonl");
            disk::write(&path, records(0..12).as_bytes()).unwrap();
            let trained = Tokenizer::train_bpe(Some(300), WordCounts::of((0..12).map(document))).unwrap();
            let tokenizer = folder.path().join("tokenizer");
            disk::create_dir(&tokenizer).unwrap();
            trained.save(&tokenizer).unwrap();
            let source = SourceConfig { path: path.to_str().unwrap().to_owned(), weight: None };
            let data = DataConfig {
                sources: vec![source],
                val_fraction: 0.3,
                shards: folder.path().join("shards"),
                ..DataConfig::default()
            };
            Self { folder, data, tokenizer: TokenizerConfig::load_from(&tokenizer) }
        }

        fn with(&self, name: &str, bytes: &[u8]) -> DataConfig {
            let path = self.folder.path().join(name);
            disk::write(&path, bytes).unwrap();
            let source = SourceConfig { path: path.to_str().unwrap().to_owned(), weight: None };
            DataConfig { sources: vec![source], ..self.data.clone() }
        }

        fn prepare(&self, data: &DataConfig) -> Result<Prepared> {
            prepare(data, &self.tokenizer, None, &Silent)
        }
    }

    fn all(tokens: &crate::shard::ShardTokens) -> Vec<u32> {
        let mut out = Vec::new();
        tokens.read(0, tokens.len() as usize, &mut out);
        out
    }

    fn train(prepared: &Prepared) -> Vec<u32> {
        prepared.corpus.train.iter().flat_map(|part| all(&part.tokens)).collect()
    }

    fn held_out(prepared: &Prepared) -> Vec<u32> {
        prepared.corpus.val.iter().flat_map(|part| all(&part.tokens)).collect()
    }

    /// Documents of a part, without their ends.
    fn texts(prepared: &Prepared, tokens: &[u32]) -> Vec<String> {
        let end = prepared.tokenizer.end_of_text().unwrap();
        tokens.split_inclusive(|&t| t == end).map(|d| prepared.tokenizer.decode(&d[..d.len() - 1]).unwrap()).collect()
    }

    /// Another number for a file that was written again.
    fn identity(prepared: &Prepared) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&prepared.folder.join("0-train-000.bin").metadata().unwrap())
    }

    #[test]
    fn shards_hold_every_document_once_with_its_end() {
        let scene = Scene::new();
        let prepared = scene.prepare(&scene.data).unwrap();
        let val = held_out(&prepared);
        let mut found = texts(&prepared, &train(&prepared));
        assert!(!val.is_empty() && !found.is_empty());
        found.extend(texts(&prepared, &val));
        found.sort();
        let mut expected: Vec<String> = (0..12).map(document).collect();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn compressed_text_and_folders_give_the_same_tokens() {
        let scene = Scene::new();
        let plain = train(&scene.prepare(&scene.data).unwrap());
        let text = records(0..12);
        let (head, tail) = text.as_bytes().split_at(text.find("\n").unwrap() + 1);
        let mut gzip = Vec::new();
        for part in [head, tail] {
            // Two members, as `cat a.gz b.gz` makes them.
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            gzip.extend(encoder.finish().unwrap());
        }
        let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
        for (name, bytes) in [("b.jsonl.gz", gzip.as_slice()), ("c.jsonl.zst", &zst)] {
            assert_eq!(train(&scene.prepare(&scene.with(name, bytes)).unwrap()), plain, "{name}");
        }
    }

    #[test]
    fn unchanged_text_is_not_tokenized_again_and_changed_text_is() {
        let scene = Scene::new();
        let first = scene.prepare(&scene.data).unwrap();
        let file = identity(&first);
        let second = scene.prepare(&scene.data).unwrap();
        assert_eq!((&second.folder, identity(&second)), (&first.folder, file));
        scene.with("a.jsonl", records(0..13).as_bytes());
        let third = scene.prepare(&scene.data).unwrap();
        assert_eq!(third.folder, first.folder);
        assert_ne!(identity(&third), file);
        assert!(train(&third).len() + held_out(&third).len() > train(&first).len() + held_out(&first).len());
    }

    #[test]
    fn documents_stay_in_their_part_when_others_come_and_go() {
        let scene = Scene::new();
        let documents_held_out = |data: &DataConfig| {
            let prepared = scene.prepare(data).unwrap();
            texts(&prepared, &held_out(&prepared))
        };
        let few = documents_held_out(&scene.data);
        let reversed: String = records(0..40).lines().rev().map(|l| l.to_owned() + "\n").collect();
        let many = documents_held_out(&scene.with("b.jsonl", reversed.as_bytes()));
        assert!(few.iter().all(|d| many.contains(d)));
        assert!((0..12).map(document).filter(|d| many.contains(d)).count() == few.len());
        assert!(many.len() > few.len() && many.len() < 25);
    }

    #[test]
    fn one_long_document_is_divided_at_its_end() {
        let scene = Scene::new();
        let text: String = (0..4000).map(|i| document(i) + "\n").collect();
        let prepared = scene.prepare(&scene.with("book.txt", text.as_bytes())).unwrap();
        let tokens: Vec<u32> = train(&prepared).into_iter().chain(held_out(&prepared)).collect();
        // In pieces and in parallel, and yet the tokens of the whole.
        let mut whole = prepared.tokenizer.encode_document(&text).unwrap();
        whole.push(299);
        assert!(tokens == whole, "{} tokens, expected {}", tokens.len(), whole.len());
        let share = held_out(&prepared).len() as f64 / whole.len() as f64;
        assert!((share - 0.3).abs() < 0.001, "{share}");
    }

    #[test]
    fn tokens_are_the_same_on_any_number_of_threads() {
        let scene = Scene::new();
        let text: String = (0..3000).map(|i| document(i) + "\n").collect();
        let on = |threads: usize| {
            let data = DataConfig {
                shards: scene.folder.path().join(threads.to_string()),
                ..scene.with("b.txt", text.as_bytes())
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&scene.prepare(&data).unwrap()))
        };
        assert!(on(1) == on(3));
    }

    #[test]
    fn a_bad_record_ends_the_work_and_leaves_nothing_half_made() {
        let scene = Scene::new();
        let data = scene.with("bad.jsonl", b"{\"text\": \"fine\"}\n{\"text\": 3}\n");
        let message = format!("{:#}", scene.prepare(&data).unwrap_err());
        assert!(message.contains("bad.jsonl line 2: invalid type"), "{message}");
        assert!(!data.shards.exists() || data.shards.read_dir().unwrap().all(|e| !Manifest::is_in(&e.unwrap().path())));
        let skip = DataConfig { on_bad_record: OnBadRecord::Skip, val_fraction: 0.0, ..data };
        let prepared = scene.prepare(&skip).unwrap();
        assert_eq!(texts(&prepared, &train(&prepared)), ["fine"]);
        assert_eq!(Manifest::read(&prepared.folder).unwrap().sources[0].skipped.malformed, 1);
    }

    /// A dangling link, a truncated compressed file, bytes that are not UTF-8, a line that is not a record.
    #[cfg(unix)]
    #[test]
    fn everything_bad_in_a_folder_is_left_out_and_counted() {
        let scene = Scene::new();
        let text = scene.folder.path().join("text");
        disk::create_dir(&text).unwrap();
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let many = gzip(records(0..400).as_bytes());
        std::os::unix::fs::symlink("nowhere", text.join("a.txt")).unwrap();
        disk::write(
            &text.join("b.jsonl.gz"),
            &[gzip(records(0..3).as_bytes()), many[..many.len() / 2].to_vec()].concat(),
        )
        .unwrap();
        disk::write(&text.join("c.txt.gz"), &gzip(b"a text")[..20]).unwrap();
        disk::write(&text.join("d.jsonl"), b"{\"text\": \"\xff\"}\n[]\n{\"text\": \"fine\"}\n").unwrap();
        disk::write(&text.join("e.txt"), b"good\n\xff\n").unwrap();
        let data = DataConfig {
            sources: vec![SourceConfig { path: text.to_str().unwrap().to_owned(), weight: None }],
            on_bad_record: OnBadRecord::Skip,
            val_fraction: 0.0,
            ..scene.data.clone()
        };
        let prepared = scene.prepare(&data).unwrap();
        let found = texts(&prepared, &train(&prepared));
        assert_eq!(found[..3], (0..3).map(document).collect::<Vec<_>>());
        assert!(found.contains(&"fine".to_owned()) && found.contains(&"good\n".to_owned()), "{found:?}");
        let Skipped { invalid_utf8, malformed, first, .. } =
            Manifest::read(&prepared.folder).unwrap().sources[0].skipped.clone();
        assert_eq!((invalid_utf8, malformed), (2, 4), "{first:?}");
        let fail = DataConfig { on_bad_record: OnBadRecord::Fail, ..data };
        let message = format!("{:#}", scene.prepare(&fail).unwrap_err());
        assert!(message.contains("a.txt cannot be read") && message.contains("--on-bad-record skip"), "{message}");
    }

    #[test]
    fn a_damaged_folder_is_made_again_and_refused_when_named() {
        let scene = Scene::new();
        let prepared = scene.prepare(&scene.data).unwrap();
        let before = train(&prepared);
        let file = prepared.folder.join("0-train-000.bin");
        drop(prepared);
        let bytes = std::fs::read(&file).unwrap();
        disk::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let folder = file.parent().unwrap().to_str().unwrap().to_owned();
        let named = DataConfig { sources: vec![SourceConfig { path: folder, weight: None }], ..scene.data.clone() };
        let message = format!("{:#}", scene.prepare(&named).unwrap_err());
        assert!(message.contains("0-train-000.bin contains"), "{message}");
        assert_eq!(train(&scene.prepare(&scene.data).unwrap()), before);
        assert_eq!(train(&scene.prepare(&named).unwrap()), before);
    }

    #[test]
    fn a_changed_token_is_noticed_wherever_it_lies() {
        let scene = Scene::new();
        let b = scene.with("b.txt", (0..300).map(document).collect::<String>().as_bytes());
        let mut data = scene.data.clone();
        data.sources.extend(b.sources.clone());
        let before = train(&scene.prepare(&data).unwrap());
        let folder = scene.prepare(&data).unwrap().folder;
        let name = folder.to_str().unwrap().to_owned();
        let named = DataConfig { sources: vec![SourceConfig { path: name, weight: None }], ..data.clone() };
        let files: Vec<PathBuf> = folder
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "bin"))
            .collect();
        assert!(files.len() >= 3, "{files:?}");
        for file in files {
            let mut bytes = std::fs::read(&file).unwrap();
            let last = bytes.len() - 2;
            bytes[last] ^= 1;
            disk::write(&file, &bytes).unwrap();
            let message = format!("{:#}", scene.prepare(&named).unwrap_err());
            assert!(message.contains("do not match their checksum"), "{}: {message}", file.display());
            assert_eq!(train(&scene.prepare(&data).unwrap()), before, "it was not made again");
        }
    }

    #[test]
    fn a_prepared_folder_of_another_tokenizer_is_refused() {
        let scene = Scene::new();
        let prepared = scene.prepare(&scene.data).unwrap();
        let folder = prepared.folder.to_str().unwrap().to_owned();
        let named = DataConfig { sources: vec![SourceConfig { path: folder, weight: None }], ..scene.data.clone() };
        let other = scene.folder.path().join("other");
        disk::create_dir(&other).unwrap();
        Tokenizer::train_bpe(Some(270), WordCounts::of((0..3).map(document))).unwrap().save(&other).unwrap();
        let message = format!("{:#}", prepare(&named, &TokenizerConfig::load_from(&other), None, &Silent).unwrap_err());
        assert!(message.contains("made with a different tokenizer"), "{message}");
    }

    #[test]
    fn somebody_elses_folder_is_not_overwritten() {
        let scene = Scene::new();
        let out = scene.folder.path().join("mine");
        disk::create_dir(&out).unwrap();
        disk::write(&out.join("manifest.json"), b"{\"name\": \"my app\"}").unwrap();
        let message = prepare(&scene.data, &scene.tokenizer, Some(&out), &Silent).unwrap_err().to_string();
        assert!(message.contains("not empty and does not contain prepared text"), "{message}");
    }

    #[test]
    fn weights_make_parts_and_cost_no_new_tokens() {
        let scene = Scene::new();
        let b = scene.with("b.txt", b"another source, of one document and some words");
        let weighted = |a: f64| {
            let mut data = scene.data.clone();
            data.sources.extend(b.sources.clone());
            data.sources[0].weight = Some(a);
            data.sources[1].weight = Some(1.0);
            scene.prepare(&data).unwrap()
        };
        let first = weighted(3.0);
        let file = identity(&first);
        assert_eq!(first.corpus.train.iter().map(|p| p.weight).collect::<Vec<_>>(), [3.0, 1.0]);
        let second = weighted(5.0);
        assert_eq!(second.corpus.train[0].weight, 5.0);
        assert_eq!(identity(&second), file);
    }

    #[test]
    fn stories_and_patterns_of_the_world_are_sources_of_their_own() {
        let scene = Scene::new();
        let source = |path: &str, weight| SourceConfig { path: path.to_owned(), weight: Some(weight) };
        let of = |sources: Vec<SourceConfig>| {
            let data = DataConfig { sources, val_fraction: 0.0, ..scene.data.clone() };
            scene.prepare(&data).unwrap()
        };
        let both = of(vec![source("world:3", 0.7), source("world-patterns:4:2", 0.3)]);
        assert_eq!(both.corpus.train.iter().map(|part| part.weight).collect::<Vec<_>>(), [0.7, 0.3]);
        let of_part = |i: usize| texts(&both, &all(&both.corpus.train[i].tokens));
        let (stories, patterns) = (SyntheticStories::new(1), SyntheticPatterns::new(2));
        assert_eq!(of_part(0), (0..3).map(|index| stories.story(index)).collect::<Vec<_>>());
        assert_eq!(of_part(1), (0..4).map(|index| patterns.document(index)).collect::<Vec<_>>());
        let folders = ["world:4", "world-patterns:4", "world-patterns:5", "world-patterns:4:2"]
            .map(|path| of(vec![source(path, 1.0)]).folder);
        assert_eq!(folders.iter().collect::<BTreeSet<_>>().len(), 4, "{folders:?}");
    }

    #[test]
    fn a_tokenizer_of_characters_is_trained_on_all_of_the_text() {
        let scene = Scene::new();
        let config = TokenizerConfig { train: Some(TokenizerKind::Char), ..TokenizerConfig::default() };
        let prepared = prepare(&scene.with("b.txt", "abc\n日本 ☃".as_bytes()), &config, None, &Silent).unwrap();
        assert_eq!(prepared.tokenizer.vocab_size(), 9);
    }
}
