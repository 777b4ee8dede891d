//! Loading: `tokenizer.json`, and the published files of GPT-1 and GPT-2.

use super::Tokenizer;
use super::special::{END_OF_TEXT, add_end_of_text, special};
use crate::folder_tokens::{Class, FolderTokens};
use crate::pattern::limit_patterns;
use crate::quiet::quietly;
use crate::{adapter, disk, outline};
use anyhow::{Context, Result, anyhow, ensure};
use std::path::Path;
use std::str::FromStr;
use tokenizers::Tokenizer as Inner;
use tokenizers::decoders::bpe::BPEDecoder;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

impl Tokenizer {
    /// Reads the tokenizer at `path`: a GGUF file, a `tokenizer.json`, or a folder that has it, or GPT-2's files (`vocab.json` and
    /// `merges.txt`, or `encoder.json` and `vocab.bpe`), or GPT-1's (the same as GPT-2's first two where the folder says that
    /// it is GPT-1's, or `encoder_bpe_40000.json` and `vocab_40000.bpe`). Special tokens, their uses and chat templates are
    /// those of the files beside it, as transformers reads them.
    ///
    /// # Errors
    /// When no such file is there, or one is damaged.
    pub fn load(path: &Path) -> Result<Self> {
        if gptkit_gguf::is_gguf(path) {
            return Self::load_gguf(path);
        }
        let path = adapter::tokenizer_folder(path)?; // of adapters without a tokenizer, their base's
        let path = path.as_path();
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let tokens = FolderTokens::read(folder)?;
        let inner = read_vocabulary(path, folder, &tokens)?;
        with_tokens(inner, tokens).with_context(|| format!("cannot load the tokenizer in {}", path.display()))
    }
}

/// The tokenizer with the vocabulary `inner` and the special tokens and templates `tokens`.
pub(super) fn with_tokens(mut inner: Inner, tokens: FolderTokens) -> Result<Tokenizer> {
    quietly(|| tokens.add_to(&mut inner))?.and_then(|()| {
        inner.set_encode_special_tokens(tokens.split_special_tokens);
        Tokenizer::new(inner, tokens)
    })
}

/// The tokenizer that the text of a `tokenizer.json` describes.
pub(super) fn parse(text: &str) -> Result<Inner> {
    limit_patterns();
    outline::check(text)?;
    let read = quietly(|| Inner::from_str(text)).map_err(|panicked| anyhow!("it is damaged ({panicked})"))?;
    read.map_err(|e| anyhow!("{e}"))
}

fn read_json(path: &Path) -> Result<Inner> {
    ensure!(path.exists(), "{} does not exist", path.display());
    let text = disk::read_description(path)?;
    parse(&text).with_context(|| format!("{} is not a valid tokenizer file", path.display()))
}

/// The vocabulary at `path`, in the first of the forms that [`Tokenizer::load`] names.
fn read_vocabulary(path: &Path, folder: &Path, tokens: &FolderTokens) -> Result<Inner> {
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    let named = |vocab: &str, merges: &str| {
        let files = (folder.join(vocab), folder.join(merges));
        // A path that names one of the two files means both.
        let meant = path.is_dir() || path == files.0 || path == files.1;
        (meant && (files.0.exists() || files.1.exists())).then_some(files)
    };
    if path.is_dir() && file.exists() {
        return with_prefix_space(read_json(&file)?, tokens);
    }
    if let Some((vocab, merges)) = named("vocab.json", "merges.txt") {
        return if tokens.class == Class::Gpt1 { gpt1(&vocab, &merges) } else { gpt2(&vocab, &merges, tokens) };
    }
    if let Some((vocab, merges)) = named("encoder.json", "vocab.bpe") {
        return gpt2(&vocab, &merges, tokens);
    }
    if let Some((vocab, merges)) = named("encoder_bpe_40000.json", "vocab_40000.bpe") {
        return gpt1(&vocab, &merges);
    }
    ensure!(
        file.exists(),
        "{} contains no tokenizer: expected tokenizer.json, vocab.json with merges.txt, encoder.json with vocab.bpe, \
         or encoder_bpe_40000.json with vocab_40000.bpe",
        path.display()
    );
    with_prefix_space(read_json(&file)?, tokens)
}

/// The same, with a space before each text where the class of the folder's tokenizer decides it, and not its file.
fn with_prefix_space(mut inner: Inner, tokens: &FolderTokens) -> Result<Inner> {
    if let (Class::Gpt2, Some(PreTokenizerWrapper::ByteLevel(pre))) = (tokens.class, inner.get_pre_tokenizer()) {
        let pre = ByteLevel::new(tokens.add_prefix_space, pre.trim_offsets, pre.use_regex);
        inner.with_pre_tokenizer(Some(pre));
    }
    Ok(inner)
}

/// GPT-2's vocabulary and merges.
fn gpt2(vocab: &Path, merges: &Path, tokens: &FolderTokens) -> Result<Inner> {
    let mut inner = Inner::new(bpe(vocab, merges, |builder| builder)?);
    inner
        .with_pre_tokenizer(Some(ByteLevel::new(tokens.add_prefix_space, true, true)))
        .with_post_processor(Some(ByteLevel::new(true, false, true)))
        .with_decoder(Some(ByteLevelDecoder::default()));
    // Where a folder names its own end, another one would be an entry that its model has no row for.
    if inner.token_to_id(END_OF_TEXT).is_some() || !tokens.names_an_end() {
        add_end_of_text(&mut inner)?;
    }
    tokens.frame(&mut inner)?;
    Ok(inner)
}

/// GPT-1's vocabulary and merges: lower case, accents taken off, punctuation apart, words end in `</w>`.
fn gpt1(vocab: &Path, merges: &Path) -> Result<Inner> {
    let model =
        bpe(vocab, merges, |builder| builder.unk_token("<unk>".to_owned()).end_of_word_suffix("</w>".to_owned()))?;
    let mut inner = Inner::new(model);
    inner.with_normalizer(Some(BertNormalizer::default())).map_err(|e| anyhow!("{e}"))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer)).with_decoder(Some(BPEDecoder::new("</w>".to_owned())));
    inner.add_special_tokens([special("<unk>")]).map_err(|e| anyhow!("{e}"))?;
    Ok(inner)
}

fn bpe(
    vocab: &Path,
    merges: &Path,
    settings: impl FnOnce(tokenizers::models::bpe::BpeBuilder) -> tokenizers::models::bpe::BpeBuilder,
) -> Result<BPE> {
    for path in [vocab, merges] {
        ensure!(path.exists(), "{} does not exist; {} requires it", path.display(), vocab.display());
        disk::open(path)?;
    }
    let (vocab_text, merges_text) = (vocab.to_string_lossy(), merges.to_string_lossy());
    let checked = outline::check_vocabulary(&disk::read_description(vocab)?);
    let read = checked.and_then(|()| {
        let read = quietly(|| settings(BPE::from_file(&vocab_text, &merges_text)).build());
        read.map_err(|panicked| anyhow!("they are damaged ({panicked})"))?.map_err(|e| anyhow!("{e}"))
    });
    read.with_context(|| {
        format!("{} and {} are not a valid vocabulary with its merges", vocab.display(), merges.display())
    })
}
