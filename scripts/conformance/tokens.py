#!/usr/bin/env python3
"""Make the conformance rows of special tokens: folders whose files name them in the ways that folders of the hub do.

    python scripts/conformance/tokens.py tests/golden/conformance

Writes tokens.json and a folder a row. A row has what transformers' AutoTokenizer makes of the folder: the special tokens by
use, the tokens of texts, and the text and the tokens of a dialogue where the folder has a chat template.
"""
import argparse
import json
import os
import pathlib
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

TRAINING = ["What is a fox? It is a small animal. Who has the kite? Ben has it, and the miller has none."] * 4
TEXTS = ["It is a fox", " the kite", "<s>a</s>", "x <|user|> y<|bot|>", "a <pad><|endoftext|> b", "<img>fox<vid> it"]
MESSAGES = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "It is a fox."},
]
TEMPLATE = (
    "{{ bos_token }}{{ unk_token }}{{ sep_token }}{{ cls_token }}{{ mask_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "U: {{ m.content }}{{ pad_token }}{% else %} A: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
FAST = "PreTrainedTokenizerFast"
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
MODEL = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64, "vocab_size": 320}


def trained(special=(), plain=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[*special, *plain],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return json.loads(tokenizer.to_str())


def without_added(tokenizer, *names):
    """The same, where `names` are entries like others."""
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] not in names]
    return tokenizer


def token(content, **settings):
    return {"__type": "AddedToken", "content": content, "lstrip": False, "rstrip": False, "normalized": False,
            "single_word": False, "special": True, **settings}


def listed(content, **settings):
    return {key: value for key, value in token(content, **settings).items() if key != "__type"}


def changed(tokenizer, **parts):
    return {**tokenizer, **parts}


USUAL = ["<s>", "<pad>", "</s>", "<unk>"]
OWN = trained(USUAL)
GPT2 = trained(["<|endoftext|>"])
PLAIN = trained()


def slow(tokenizer, more=()):
    """vocab.json and merges.txt."""
    vocab = dict(tokenizer["model"]["vocab"])
    for entry in more:
        vocab[entry] = len(vocab)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in tokenizer["model"]["merges"]]
    return {"vocab.json": vocab, "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n"}


def gpt1():
    letters = "abcdefghijklmnopqrstuvwxyz.,?"
    entries = ["<unk>", *letters, *(letter + "</w>" for letter in letters), "is</w>", "it</w>", "fo", "fox</w>"]
    merges = ["i s</w>", "i t</w>", "f o", "fo x</w>"]
    return {
        "vocab.json": {entry: i for i, entry in enumerate(entries)},
        "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
        "tokenizer_config.json": {"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": "<unk>"},
        "config.json": {**MODEL, "model_type": "openai-gpt"},
    }


def framed(tokenizer):
    made = Tokenizer.from_str(json.dumps(tokenizer))
    bos = made.token_to_id("<s>")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)])
    return json.loads(made.to_str())


def config(**keys):
    return {"tokenizer_class": FAST, "chat_template": TEMPLATE, **keys}


ROWS = {
    "names": {"tokenizer.json": OWN, "tokenizer_config.json": config(**NAMES)},
    "names as objects": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(**{name: token(text) for name, text in NAMES.items()}),
    },
    "other uses": {
        "tokenizer.json": trained([*USUAL, "<sep>", "<cls>", "<mask>"]),
        "tokenizer_config.json": config(sep_token="<sep>", cls_token="<cls>", mask_token="<mask>", eos_token="</s>"),
    },
    "map alone": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(),
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False, "rstrip": False,
                                                                     "normalized": False, "single_word": False}},
    },
    "map over the configuration": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(eos_token="<pad>"),
        "special_tokens_map.json": {"eos_token": "</s>"},
    },
    "map beside a list of added tokens": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(eos_token="</s>", added_tokens_decoder={"0": listed("<s>"), "2": listed("</s>")}),
        "special_tokens_map.json": {"eos_token": "<pad>", "bos_token": "<s>"},
    },
    "additional tokens that the file lacks": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(**NAMES, additional_special_tokens=["<|user|>", "<|bot|>"]),
    },
    "extra tokens": {"tokenizer.json": OWN, "tokenizer_config.json": config(**NAMES, extra_special_tokens=["<|user|>"])},
    "extra tokens in the map": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(**NAMES),
        "special_tokens_map.json": {"additional_special_tokens": ["<|user|>", "<|bot|>"]},
    },
    "extra tokens by name": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(
            **NAMES, extra_special_tokens={"video_token": "<vid>"}, chat_template="{{ video_token }}{{ bos_token }}{% for m in messages %}{{ m.content }};{% endfor %}"
        ),
    },
    "tokens for images": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(**NAMES, image_token="<img>", chat_template="{{ image_token }}{% for m in messages %}{{ m.content }};{% endfor %}"),
    },
    "added tokens that take spaces": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(
            **NAMES,
            added_tokens_decoder={"300": listed("<|user|>", lstrip=True, rstrip=True), "301": listed("<|bot|>", rstrip=True)},
        ),
    },
    "added tokens that are words": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(
            **NAMES, added_tokens_decoder={"300": listed("kite", special=False, normalized=True, single_word=True)}
        ),
    },
    "a beginning that was an entry": {
        "tokenizer.json": without_added(trained(USUAL), "<s>", "</s>"),
        "tokenizer_config.json": config(bos_token="<s>", eos_token="</s>"),
    },
    "no end": {"tokenizer.json": OWN, "tokenizer_config.json": config(bos_token="<s>", eos_token=None)},
    "nothing named": {"tokenizer.json": OWN, "tokenizer_config.json": config()},
    "padding of the file": {
        "tokenizer.json": changed(OWN, padding={
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
            "pad_token": "<pad>"}),
        "tokenizer_config.json": config(eos_token="</s>"),
    },
    "truncation of the file": {
        "tokenizer.json": changed(OWN, truncation={
            "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
        "tokenizer_config.json": config(**NAMES),
    },
    "a beginning before texts": {"tokenizer.json": framed(OWN), "tokenizer_config.json": config(**NAMES)},
    "add_bos_token beside a file": {"tokenizer.json": OWN, "tokenizer_config.json": config(**NAMES, add_bos_token=True)},
    "special tokens as text": {"tokenizer.json": OWN, "tokenizer_config.json": config(**NAMES, split_special_tokens=True)},
    "gpt2 defaults": {
        "tokenizer.json": GPT2,
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "chat_template": TEMPLATE},
        "config.json": MODEL,
    },
    "gpt2 without a configuration": {"tokenizer.json": GPT2, "config.json": MODEL, "chat_template.jinja": TEMPLATE},
    "gpt2 space of the configuration": {
        "tokenizer.json": GPT2,
        "tokenizer_config.json": {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True},
        "config.json": MODEL,
    },
    "gpt2 space of the file": {
        "tokenizer.json": changed(GPT2, pre_tokenizer={**GPT2["pre_tokenizer"], "add_prefix_space": True}),
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"},
        "config.json": MODEL,
    },
    "space of the file": {
        "tokenizer.json": changed(GPT2, pre_tokenizer={**GPT2["pre_tokenizer"], "add_prefix_space": True}),
        "tokenizer_config.json": config(eos_token="<|endoftext|>"),
    },
    "slow gpt2": {**slow(PLAIN, ["<|endoftext|>"]), "config.json": MODEL},
    "slow gpt2 with a space": {
        **slow(PLAIN, ["<|endoftext|>"]),
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
        "config.json": MODEL,
    },
    "slow gpt2 with its own end": {
        **slow(PLAIN, ["<s>", "</s>", "<unk>", "<pad>"]),
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", **NAMES, "chat_template": TEMPLATE},
        "config.json": MODEL,
    },
    "slow gpt2 with added tokens": {
        **slow(PLAIN),
        "added_tokens.json": {"<|user|>": len(PLAIN["model"]["vocab"]), "<|bot|>": len(PLAIN["model"]["vocab"]) + 1,
                              "<pad>": len(PLAIN["model"]["vocab"]) + 2},
        "special_tokens_map.json": {"eos_token": "<|bot|>", "bos_token": "<|user|>", "pad_token": "<pad>",
                                    "unk_token": "<|user|>", "additional_special_tokens": ["<|user|>", "<|bot|>"]},
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|bot|>", "chat_template": TEMPLATE},
        "config.json": MODEL,
    },
    "slow gpt2 that begins texts": {
        **slow(PLAIN, ["<s>", "</s>"]),
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "<s>",
                                  "eos_token": "</s>", "unk_token": "<s>"},
        "config.json": MODEL,
    },
    "slow gpt1": gpt1(),
    "template in a file": {
        "tokenizer.json": OWN, "tokenizer_config.json": config(**NAMES), "chat_template.jinja": "{{ bos_token }}new{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    },
    "several templates": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(
            **{**NAMES, "chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": TEMPLATE}]}
        ),
    },
    "templates in a folder": {
        "tokenizer.json": OWN,
        "tokenizer_config.json": config(**NAMES),
        "chat_template.jinja": TEMPLATE,
        "additional_chat_templates/rag.jinja": "r{{ eos_token }}",
    },
}


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")


def row(name, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = {
        "name": name,
        "folder": folder.name,
        "special_tokens": tokenizer.special_tokens_map,
        "texts": [{"text": text, "ids": tokenizer(text).input_ids} for text in TEXTS],
    }
    if tokenizer.chat_template:
        made["rendered"] = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
        made["ids"] = list(tokenizer.apply_chat_template(MESSAGES, return_dict=True)["input_ids"])
        templates = tokenizer.chat_template
        made["templates"] = sorted(templates) if isinstance(templates, dict) else ["default"]
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    rows = []
    for name, files in ROWS.items():
        path = folder / "tokens" / name.replace(" ", "-").replace("_", "-")
        write(path, files)
        rows.append(row(name, path))
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    text = json.dumps({"made_with": versions, "messages": MESSAGES, "rows": rows}, indent=1, ensure_ascii=False)
    (folder / "tokens.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(rows)} rows")


if __name__ == "__main__":
    main()
