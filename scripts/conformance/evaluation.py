#!/usr/bin/env python3
"""Make the fixtures of the conformance rows of kind `evaluation`: small models and what lm-evaluation-harness and
transformers compute with them.

    python scripts/conformance/evaluation.py tests/golden/conformance

Writes evaluation.json and evaluation/MODEL/. Log-likelihoods of answers, of whole texts (the sum over rolling windows) and
greedy answers are the harness's (HFLM), rewards are transformers'.
"""
import json
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import lm_eval
import tokenizers
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification,
                          GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel)

import tokenizer_kinds

CONTEXT = 24
CHAT = ("{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:{% else %} {{ m.content }}{{ eos_token }}"
        "{% endif %}{% endfor %}")
LONG = "The miller carried two sacks over the bridge, and the lamp in the tower burned all night. " * 3
TEXT = "The tide came in, went out, and came in again.\nThe boats rose and fell; nobody saw it.\n\nCafé, naïve: 3.50 ☃ 小さな村\n"

# name, tokenizer, tokenizer_config.json
MODELS = [
    ("bos-added", lambda: tokenizer_kinds.split_bytes(
        tokenizer_kinds.split(tokenizer_kinds.GPT4), prefix="<|begin_of_text|>"),
     {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}),
    ("bos-named", lambda: tokenizer_kinds.split_bytes(tokenizer_kinds.split(tokenizer_kinds.GPT4)),
     {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}),
    ("eos-only", tokenizer_kinds.byte_level, {"eos_token": "<|endoftext|>"}),
    ("bos-flag", tokenizer_kinds.metaspace_bytes,
     {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}),
    ("fallback", tokenizer_kinds.sentencepiece_bytes, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    ("words", tokenizer_kinds.gpt1, {"unk_token": "<unk>", "eos_token": "<unk>"}),
]

# name, model, context, answers
CHOICES = [
    ("empty context, bos", "bos-named", "", ["The fox", "A kite"]),
    ("empty context, bos that is also added", "bos-added", "", ["The lamp", " two boats"]),
    ("empty context, no bos", "eos-only", "", ["The fox", "A kite", "bread"]),
    ("empty context, byte fallback", "fallback", "", ["The fox", "☃"]),
    ("context that gets a bos", "bos-added", "The lamp in the tower", [" burned all night", " fell"]),
    ("context that gets no bos", "bos-named", "The lamp in the tower", [" burned all night", " fell"]),
    ("context that gets a bos by a flag", "bos-flag", "The lamp in the tower", [" burned all night", " fell"]),
    ("context that begins with bos", "bos-added", "<|begin_of_text|>The lamp", [" burned", " fell"]),
    ("context that ends in spaces", "eos-only", "The boats rose  ", ["and fell", "up"]),
    ("context that ends in a line break", "bos-added", "The boats rose\n", ["and fell", "up"]),
    ("context over the window", "eos-only", LONG, [" It was old", " The miller had a lamp and two sacks of bread"]),
    ("context over the window, with bos", "bos-added", LONG, [" old", " The miller had a lamp and two sacks of bread"]),
    ("context over the window by one token", "words", "the boats rose and fell with it " * 2, ["now", "and then again"]),
]
# name, model, context, tokens to write, stop strings
GENERATIONS = [
    ("greedy answer", "eos-only", "The lamp", 8, []),
    ("greedy answer after a bos", "bos-added", "The lamp", 8, []),
    ("greedy answer, context cut for it", "eos-only", LONG, 10, []),
    ("greedy answer of bytes", "fallback", "☃☃", 12, []),
]
TEXTS = [("text, no bos", "eos-only"), ("text, bos", "bos-named"), ("text, byte fallback", "fallback"), ("text, words", "words")]


def save(folder, tokenizer, config):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def spread(model, seed):
    """First values large enough that every answer has its own likelihood."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.4)
    return model.eval()


def language_model(folder, kind, size, ids):
    options = {"vocab_size": size, "n_positions": CONTEXT, "n_embd": 8, "n_layer": 1, "n_head": 2, **ids}
    made = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**options)) if kind == "words" else GPT2LMHeadModel(GPT2Config(**options))
    spread(made, 5).save_pretrained(folder)


def models(out):
    found = {}
    for name, maker, config in MODELS:
        tokenizer, folder = maker(), out / name
        save(folder, tokenizer, config)
        ids = {f"{use}_token_id": tokenizer.token_to_id(config[f"{use}_token"])
               for use in ("bos", "eos") if f"{use}_token" in config}
        language_model(folder, name, tokenizer.get_vocab_size(), {"bos_token_id": None, **ids})
        loaded = (GPT2LMHeadModel if name != "words" else OpenAIGPTLMHeadModel).from_pretrained(folder).eval()
        found[name] = HFLM(pretrained=loaded, tokenizer=AutoTokenizer.from_pretrained(folder), backend="causal",
                           batch_size=1, max_length=CONTEXT, device="cpu")
    return found


def instance(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def choice(model, context, answers):
    requests = [instance("loglikelihood", context, answer) for answer in answers]
    return [log_prob for log_prob, _ in model.loglikelihood(requests, disable_tqdm=True)]


def generation(model, context, n, stop):
    options = {"until": stop, "max_gen_toks": n, "do_sample": False, "temperature": 0.0}
    return model.generate_until([instance("generate_until", context, options)], disable_tqdm=True)[0]


def text(model):
    return -model.loglikelihood_rolling([instance("loglikelihood_rolling", TEXT)], disable_tqdm=True)[0]


REWARDS = [("reward, pad is the end token", "eos"), ("reward, own pad", "own"), ("reward, no pad", None)]
DIALOGUES = [("Who has the lamp?", "The miller has it."), ("Is it late?", "No."), ("What fell?", "The boats rose and fell with it.")]


def reward(out, which):
    """A reward model of another's making, and its reward of each dialogue, one at a time."""
    folder = out / f"reward-{which}".lower()
    tokenizer = tokenizer_kinds.byte_level()
    tokenizer.add_special_tokens(["<pad>"])
    pad = {"eos": "<|endoftext|>", "own": "<pad>", None: None}[which]
    config = {"eos_token": "<|endoftext|>", "chat_template": CHAT}
    save(folder, tokenizer, {**config, "pad_token": pad} if pad else config)
    end = tokenizer.token_to_id("<|endoftext|>")
    made = GPT2ForSequenceClassification(GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=48, n_embd=8, n_layer=1, n_head=2, bos_token_id=end,
        eos_token_id=end, pad_token_id=tokenizer.token_to_id(pad) if pad else None, num_labels=1))
    spread(made, 6).save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens, found = AutoTokenizer.from_pretrained(folder), []
    for prompt, answer in DIALOGUES:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        ids = tokens(tokens.apply_chat_template(messages, tokenize=False), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            found.append(model(input_ids=ids).logits.item())
    return {"model": folder.name, "dialogues": DIALOGUES, "rewards": found}


def main():
    out = pathlib.Path(sys.argv[1])
    harness = models(out / "evaluation")
    rows = [{"name": name, "kind": "choice", "model": model, "context": context, "answers": answers,
             "log_probs": choice(harness[model], context, answers)} for name, model, context, answers in CHOICES]
    rows += [{"name": name, "kind": "generation", "model": model, "context": context, "max_new_tokens": n, "stop": stop,
              "text": generation(harness[model], context, n, stop)} for name, model, context, n, stop in GENERATIONS]
    rows += [{"name": name, "kind": "text", "model": model, "text": TEXT, "nats": text(harness[model]),
              "bytes": len(TEXT.encode()), "characters": len(TEXT)} for name, model in TEXTS]
    rows += [{"name": name, "kind": "reward", **reward(out / "evaluation", which)} for name, which in REWARDS]
    for unused in (out / "evaluation").glob("*/generation_config.json"):
        unused.write_text(json.dumps({}) + "\n")
    made_with = {"lm_eval": lm_eval.__version__, "transformers": transformers.__version__,
                 "tokenizers": tokenizers.__version__, "torch": torch.__version__}
    fixture = {"made_with": made_with, "context": CONTEXT, "rows": rows}
    (out / "evaluation.json").write_text(json.dumps(fixture, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
