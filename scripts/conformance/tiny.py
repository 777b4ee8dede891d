"""Random models of a few thousand parameters, a tokenizer of bytes, and what transformers computes with them."""
import json
import os
import pathlib
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

END = "<|endoftext|>"
PROMPT = "The fox ran"
NEW_TOKENS = 5


def tokenizer(folder, more=()):
    """Writes a byte-level tokenizer without merges: 256 bytes, the end of text, and `more` tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END, *more])
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(made.to_str()), ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}) + "\n")
    return made


def randomize(parameters, seed, scale=0.3):
    """Gives each parameter its own random values, large enough that every part of the model matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(parameters, key=lambda entry: entry[0]):
            values = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(values + 1 if name.endswith((".ln_1.weight", ".ln_2.weight", ".ln_f.weight")) else values)


def gpt2(seed=1, **config):
    """A random GPT-2."""
    usual = dict(vocab_size=257, n_positions=24, n_embd=8, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256)
    model = GPT2LMHeadModel(GPT2Config(**{**usual, **config}))
    randomize(model.named_parameters(), seed)
    return model.eval()


def gpt1(seed=1, **config):
    """A random GPT-1."""
    usual = dict(vocab_size=257, n_positions=24, n_embd=8, n_layer=2, n_head=2)
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**{**usual, **config}))
    randomize(model.named_parameters(), seed)
    return model.eval()


def write_rows(kind, made, modules):
    """The main program of a script: writes what `made` makes to the folder that the command line names."""
    out = pathlib.Path(sys.argv[1])
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows = made(out / kind)
    versions = {module.__name__: module.__version__ for module in modules}
    text = ",\n".join(json.dumps(row) for row in rows)
    (out / f"{kind}.json").write_text(f'{{"made_with": {json.dumps(versions)}, "rows": [\n{text}\n]}}\n')
    print(f"{len(rows)} rows")


@torch.no_grad()
def greedy(model, ids, n=NEW_TOKENS, end=256):
    """The likeliest continuation of `ids`, and the log-probability of each token."""
    tokens, log_probs = [], []
    for _ in range(n):
        row = model(torch.tensor([ids + tokens])).logits[0, -1].double().log_softmax(-1)
        best = int(row.argmax())
        if best == end:
            break
        tokens.append(best)
        log_probs.append(round(float(row[best]), 6))
    return tokens, log_probs
