#!/usr/bin/env python3
"""Make the fixtures of the conformance rows of kind `tokenizers`: tokenizers of many kinds, and what the library
`tokenizers` makes of texts and ids with them.

    python scripts/conformance/tokenizer_kinds.py tests/golden/conformance

Writes tokenizers.json and tokenizers/ROW/tokenizer.json (with tokenizer_config.json where a row needs one). Every tokenizer
is trained here on the sentences below. `scripts/check_transformers.py --made tokenizers` compares the same tokenizers with
transformers.
"""
import json
import pathlib
import random
import sys

import tokenizers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

SENTENCES = [
    "The miller carried two sacks of flour over the bridge before noon.",
    "Nobody knew why the lamp in the tower burned all night, but everybody saw it.",
    "\"Don't wait for me,\" she said; \"I'll be back in 15 minutes.\"",
    "It's the third of 1,204 letters, isn't it? They'd counted them twice!",
    "A naïve café owner sold crème brûlée for 3.50 a piece.",
    "Straße, Fußgänger, Übermut: words that end a list.",
    "    if rain > 0:\n        close(window)\n",
    "The tide came in, went out, and came in again; the boats rose and fell with it.",
    "Old maps show a road here that no one has walked for a hundred years.",
    "Привет, мир! Сегодня идёт дождь, и река поднялась.",
    "小さな村に古い橋がありました。",
    "When the bell rang they were already gone, and the bread was still warm.",
]
UNSEEN = [
    "",
    " ",
    "The lamp burned.",
    " leading and  double  spaces ",
    "two\nlines\n\nand a\ttab\r\n",
    "unknown: ☃ Ω 漢 👩🏽\u200d💻 é e\u0301",
    "MiXeD CaSe, 2024-05-17 and 1234567",
    "<s>[INST] text with names of tokens </s>",
    "snake_case and CamelCase.words?!...",
]
# Sentences of a document that is read in pieces; tests/conformance/tokenizers.rs joins them in the same way.
LONG = SENTENCES + ["words of one more line with nothing special in them", "x", "12 34 5678", "¿Qué? ¡Sí!", "☃☃ ☃"]
SEPARATORS = [" ", "\n", "\n\n", "  ", " ", ". "]
LONG_PARTS = 4500
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")


def long_text():
    state, parts = 7, []
    for _ in range(LONG_PARTS):
        state = (state * 1664525 + 1013904223) % 2**32
        parts.append(LONG[(state >> 16) % len(LONG)])
        parts.append(SEPARATORS[(state >> 8) % len(SEPARATORS)])
    return "".join(parts)


def fold(ids):
    """FNV-1a over the ids, for a list that is too long to be kept."""
    found = 0xCBF29CE484222325
    for one in ids:
        found = ((found ^ one) * 0x100000001B3) % 2**64
    return f"{found:016x}"


def bpe(size, *, special=("<unk>", "<s>", "</s>"), alphabet=(), **options):
    """A trainer of byte pairs and an untrained tokenizer for it."""
    trainer_options = {key: options.pop(key) for key in ("end_of_word_suffix",) if key in options}
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=list(alphabet),
                                  show_progress=False, **trainer_options)
    return Tokenizer(models.BPE(**options, **trainer_options)), trainer


def trained(tokenizer, trainer, texts=SENTENCES):
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_level(add_prefix_space=False):
    tokenizer, trainer = bpe(340, special=["<|endoftext|>"], alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return trained(tokenizer, trainer)


def split_bytes(*splits, normalizer=None, prefix=None):
    tokenizer, trainer = bpe(340, special=["<|begin_of_text|>", "<|end_of_text|>"],
                             alphabet=pre_tokenizers.ByteLevel.alphabet())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trained(tokenizer, trainer)
    if prefix:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{prefix} $A", special_tokens=[(prefix, tokenizer.token_to_id(prefix))])
    return tokenizer


def split(pattern, behavior="isolated"):
    return pre_tokenizers.Split(Regex(pattern), behavior)


def byte_names():
    return [f"<0x{byte:02X}>" for byte in range(256)]


def with_vocab(tokenizer, edit):
    """The same tokenizer with its description changed by `edit`."""
    description = json.loads(tokenizer.to_str())
    edit(description)
    return Tokenizer.from_str(json.dumps(description))


def fallback(tokenizer):
    """Gives a trained tokenizer of byte pairs the 256 bytes for what it lacks."""
    def edit(description):
        vocab = description["model"]["vocab"]
        for name in byte_names():
            vocab[name] = len(vocab)
        description["model"]["byte_fallback"] = True
    return with_vocab(tokenizer, edit)


def metaspace_bytes(scheme="always"):
    tokenizer, trainer = bpe(300, unk_token="<unk>", fuse_unk=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme), decoders.Fuse()])
    return fallback(trained(tokenizer, trainer, SENTENCES[:9]))


def sentencepiece_bytes():
    """Llama 2's form: the whole text is one word, and white space is a character of it."""
    tokenizer, trainer = bpe(300, unk_token="<unk>", fuse_unk=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained(tokenizer, trainer, ["▁" + text.replace(" ", "▁") for text in SENTENCES[:9]])
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    def drop_pre_tokenizer(description):
        description["pre_tokenizer"] = None
    return fallback(with_vocab(tokenizer, drop_pre_tokenizer))


def unigram(byte_fallback=False, whole=False):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=280, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
                                      show_progress=False)
    trained(tokenizer, trainer, SENTENCES[:9])
    if byte_fallback:
        def edit(description):
            description["model"]["vocab"] += [[name, -30.0] for name in byte_names()]
            description["model"]["byte_fallback"] = True
        tokenizer = with_vocab(tokenizer, edit)
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    if whole:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return tokenizer


def t5_form():
    """Unigram after white space is squeezed and characters are made compatible."""
    tokenizer = unigram()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False, right=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return tokenizer


def word_piece(lowercase=True, cleanup=True):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
                                        show_progress=False)
    trained(tokenizer, trainer, SENTENCES[:9])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")])
    return tokenizer


def word_level(pre_tokenizer, decoder=None):
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer
    if decoder:
        tokenizer.decoder = decoder
    return trained(tokenizer, trainers.WordLevelTrainer(special_tokens=["[UNK]", "</s>"], show_progress=False))


def ctc():
    letters = ["<pad>", "|", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(" ", "|")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.CTC(pad_token="<pad>", word_delimiter_token="|", cleanup=True)
    return tokenizer


def characters(fuse=True):
    letters = sorted(set("".join(SENTENCES[:9])))
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    if fuse:
        tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def gpt1():
    tokenizer, trainer = bpe(320, special=["<unk>"], unk_token="<unk>", end_of_word_suffix="</w>")
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return trained(tokenizer, trainer)


def normalized():
    tokenizer, trainer = bpe(300, unk_token="<unk>")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    return trained(tokenizer, trainer)


def digits_and_punctuation():
    tokenizer, trainer = bpe(300, unk_token="<unk>", fuse_unk=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()])
    return trained(tokenizer, trainer)


def scripts():
    tokenizer, trainer = bpe(300, unk_token="<unk>")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    return trained(tokenizer, trainer)


def dropping():
    """Byte pairs without a token for the unknown: the library leaves out what it has no token for."""
    tokenizer, trainer = bpe(260)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return trained(tokenizer, trainer, SENTENCES[:4])


def edited(tokenizer, **model):
    def edit(description):
        description["model"].update(model)
    return with_vocab(tokenizer, edit)


def limited():
    tokenizer = byte_level()
    tokenizer.enable_truncation(max_length=5)
    tokenizer.enable_padding(length=12, pad_token="<|endoftext|>")
    return tokenizer


def with_added():
    """Tokens that were added and are not special: they are found in documents too."""
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("the bridge", normalized=False), AddedToken("café", normalized=True),
                          AddedToken("night", rstrip=True), AddedToken("bread", lstrip=True, single_word=True), "Ü"])
    return tokenizer


def fixed_length():
    tokenizer, trainer = bpe(300)
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(5)
    tokenizer.decoder = decoders.Fuse()
    return trained(tokenizer, trainer)


def byte_normalizer():
    """Bytes made by the normalizer, as newer files have it."""
    tokenizer, trainer = bpe(340, special=["</s>"], alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.normalizer = normalizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = split("Ġ", "merged_with_next")
    return trained(tokenizer, trainer)


def late_replace():
    """A pattern of two characters is replaced after the tokens were joined."""
    tokenizer = sentencepiece_bytes()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "),
                                           decoders.Replace(Regex(" ([.,;])"), ".")])
    return tokenizer


# Rows: name → maker. The ten kinds that check_transformers.py compares come first.
MAKERS = {
    "byte-level": byte_level,
    "byte-level-prefix-space": lambda: byte_level(add_prefix_space=True),
    "split-bytes": lambda: split_bytes(split(GPT4), prefix="<|begin_of_text|>"),
    "metaspace-bytes": metaspace_bytes,
    "unigram": unigram,
    "word-piece": word_piece,
    "word-level": lambda: word_level(pre_tokenizers.Whitespace()),
    "characters": characters,
    "gpt1": gpt1,
    "normalized": normalized,
    "sentencepiece-bytes": sentencepiece_bytes,
    "split-bytes-nfc": lambda: split_bytes(split(GPT4), normalizer=normalizers.NFC()),
    "split-bytes-digits": lambda: split_bytes(
        split(r"[\r\n]"), split(r"\s?\p{L}+"), pre_tokenizers.Digits(individual_digits=True)),
    "metaspace-bytes-first": lambda: metaspace_bytes("first"),
    "metaspace-bytes-never": lambda: metaspace_bytes("never"),
    "unigram-bytes": lambda: unigram(byte_fallback=True),
    "unigram-whole": lambda: unigram(whole=True),
    "t5-form": t5_form,
    "word-piece-cased": lambda: word_piece(lowercase=False, cleanup=False),
    "word-level-no-split": lambda: word_level(pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(prefix="##")),
    "ctc": ctc,
    "characters-apart": lambda: characters(fuse=False),
    "digits-punctuation": digits_and_punctuation,
    "unicode-scripts": scripts,
    "dropping": dropping,
    "dropout": lambda: edited(byte_level(), dropout=0.5),
    "ignore-merges": lambda: edited(split_bytes(split(GPT4)), ignore_merges=True),
    "truncation-padding": limited,
    "added-tokens": with_added,
    "fixed-length": fixed_length,
    "byte-normalizer": byte_normalizer,
    "late-replace": late_replace,
}
KINDS = list(MAKERS)[:10]


def reference(tokenizer):
    """The same without what gptkit switches off: a file's dropout, truncation and padding are of a training of its own."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    return tokenizer


def random_ids(tokenizer, name):
    """Ids in any order, as an untrained model samples them: bytes that are no text among them."""
    draw, ids = random.Random(name), sorted(tokenizer.get_vocab().values())
    lists = [[draw.choice(ids) for _ in range(14)] for _ in range(4)]
    named = [tokenizer.token_to_id(byte) for byte in ("<0xE3>", "<0x81>", "<0x82>", "<0xFF>", "<0x41>")]
    if None not in named:
        plain = tokenizer.encode("The lamp", add_special_tokens=False).ids
        lists += [plain + named[:3] + plain, plain + named[:2] + plain, plain + named, named[3:4] + plain, named[:1]]
    return lists


def row(name, made):
    tokenizer = reference(made)
    encode = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in SENTENCES + UNSEEN]
    lists = [one["ids"] for one in encode if one["ids"]] + random_ids(tokenizer, name)
    # Documents hold no special tokens; the long text has none of their names in it.
    ids = tokenizer.encode(long_text(), add_special_tokens=False).ids
    return {
        "name": name,
        "encode": encode,
        "decode": [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False)} for ids in lists],
        "long": {"n": len(ids), "hash": fold(ids)},
    }


def make(folder):
    """Writes each tokenizer into a folder of its own and gives these by name."""
    made = {}
    for name, maker in MAKERS.items():
        tokenizer = maker()
        (folder / name).mkdir(parents=True, exist_ok=True)
        description = json.loads(tokenizer.to_str())
        text = json.dumps(description, ensure_ascii=False, separators=(",", ":"))
        (folder / name / "tokenizer.json").write_text(text + "\n")
        made[name] = tokenizer
    return made


def main():
    out = pathlib.Path(sys.argv[1])
    rows = [row(name, tokenizer) for name, tokenizer in make(out / "tokenizers").items()]
    fixture = {"made_with": {"tokenizers": tokenizers.__version__, "python": sys.version.split()[0]},
               "long": {"parts": LONG, "separators": SEPARATORS, "n": LONG_PARTS}, "rows": rows}
    (out / "tokenizers.json").write_text(json.dumps(fixture, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
