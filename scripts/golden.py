#!/usr/bin/env python3
"""Make the small golden cases of tests/golden from the reference implementations.

    python scripts/golden.py tests/golden [--tokenizers DIR]

Writes, with Hugging Face transformers and PyTorch in float32 on the CPU and fixed seeds:

  gpt2-tiny/, gpt1-tiny/   a random model as save_pretrained writes it, and
    inputs.json            ids, loss, gradient norms before the clip, settings, a greedy continuation
    expected.safetensors   logits; grad.NAME, of the mean loss before any clip; step3.NAME, after three AdamW steps
  gpt2-reward-tiny/, gpt1-reward-tiny/  a random sequence-classification model with one label, and
    inputs.json            ids, padded, their lengths, and the rewards
  tokenizers.json          texts and the ids that the reference tokenizers of GPT-2 and GPT-1 give them
  made-with.json           versions, seeds, and how far float32 is from float64 in these cases

The tokenizers need the published files in DIR: gpt2/encoder.json, gpt2/vocab.bpe, gpt1/encoder_bpe_40000.json and
gpt1/vocab_40000.bpe. Without --tokenizers, tokenizers.json stays as it is.

The recorded results were made with Python 3.11, torch 2.11.0, transformers 5.24.0, tokenizers 0.23.3 and
safetensors 0.8.0. Another processor or version may change last digits; the ids must not change.
"""
import argparse
import copy
import json
import pathlib
import platform

import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers import (GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Tokenizer, OpenAIGPTConfig,
                          OpenAIGPTForSequenceClassification, OpenAIGPTLMHeadModel, OpenAIGPTTokenizer)

STEPS = 3
CLIP = 1.0
ADAMW = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
GREEDY = 16  # new tokens
SMALLEST_LEAD = 0.01  # of the best logit over the second: below it, greedy text would test rounding

# name, model, seed, rows and columns of ids; head sizes of 4 and 8, a full window and a part of one
MODELS = [
    ("gpt2-tiny", lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=61, n_positions=24, n_embd=16, n_layer=3, n_head=4, bos_token_id=60, eos_token_id=60)), 30, (3, 24)),
    ("gpt1-tiny", lambda: OpenAIGPTLMHeadModel(OpenAIGPTConfig(
        vocab_size=61, n_positions=24, n_embd=24, n_layer=2, n_head=3)), 7, (2, 21)),
]

# name, model, seed; three rows of different lengths
REWARD_MODELS = [
    ("gpt2-reward-tiny", lambda: GPT2ForSequenceClassification(GPT2Config(
        vocab_size=61, n_positions=24, n_embd=16, n_layer=3, n_head=4, bos_token_id=60, eos_token_id=60,
        num_labels=1, pad_token_id=60)), 11),
    ("gpt1-reward-tiny", lambda: OpenAIGPTForSequenceClassification(OpenAIGPTConfig(
        vocab_size=61, n_positions=24, n_embd=24, n_layer=2, n_head=3, num_labels=1, pad_token_id=60)), 12),
]

FAMILY = "\U0001F468\u200d\U0001F469\u200d\U0001F467"  # man, joiner, woman, joiner, girl
LONG = "".join(chr(97 + (i * i + 3 * i) % 26) for i in range(400))
TEXTS = {
    "empty": "",
    "one space": " ",
    "one letter": "a",
    "plain": "The quick brown fox jumps over the lazy dog.",
    "leading space": " The same words, after a space.",
    "trailing spaces": "three spaces follow   ",
    "trailing newline": "a line\n",
    "inner spaces": "one two  three   four    five",
    "many spaces": "x" + " " * 37 + "y",
    "several newlines": "first\n\nsecond\n\n\n\nfourth\n \n  \nend",
    "carriage returns": "dos\r\nlines\r\n\r\nold mac\rline",
    "tabs": "\tif x:\n\t\treturn\ty \t z",
    "control characters": "a\x00b\x01c\x07d\x1be\x7ff\x1cg\x85h",
    "contractions": "I'm sure they're here; you've said she'll, he'd, it's, don't, won't, O'Neill's, 'tis, y'all'd've",
    "contractions in capitals": "I'M SURE THEY'RE; DON'T, IT'S, WE'LL",
    "curly quotes": "“Don’t,” she said — ‘it’s late’ …",
    "numbers": "0 7 42 365 1024 65536 1234567890 3.14159 -2 1,000,000 1e-8 0x1F 50% 2nd ½ ² Ⅷ",
    "dates and sums": "On 2019-02-14 at 10:30, $1.50 + €2 = ? (12/4)",
    "punctuation": "?! ... --- ___ *** ((())) [a]{b} <c> \"d\" 'e' `f` ~g~ #h @i &j; a/b\\c|d^e",
    "markup": "<p class=\"x\">one &amp; two</p><!-- three -->",
    "code": "fn main() {\n    let x = vec![1, 2, 3];\n    println!(\"{:?}\", x);\n}\n",
    "address": "See https://example.org/a_b?c=d&e=f%20g#h or write to someone@example.org.",
    "capitals": "ALL CAPITALS, CamelCase, snake_case, kebab-case, iPhone",
    "accents composed": "Café naïve façade Ångström señor Zürich œuvre",
    "accents decomposed": "Cafe\u0301 nai\u0308ve fac\u0327ade A\u030angstro\u0308m sen\u0303or",
    "stacked marks": "z\u0301\u0323\u0310\u0334a\u0300\u0301lgo",
    "special casing": "İstanbul ıI Straße ẞ ΣΊΣΥΦΟΣ ǅ ﬁne Ⅻ",
    "emoji": "Nice 😀👍 work 🎉! ❤️ ☕",
    "emoji skin tones": "👋🏻 👋🏼 👋🏽 👋🏾 👋🏿",
    "emoji joined": f"{FAMILY} 👩🏽\u200d💻 🏳️\u200d🌈 🇯🇵🇧🇷 1️⃣",
    "Japanese": "吾輩は猫である。名前はまだ無い。カタカナ、ﾊﾝｶｸ、１２３。",
    "Chinese": "你好，世界！今天天气很好。",
    "Korean": "안녕하세요 세계 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "Russian": "Привет, мир! Съешь ещё этих мягких булок.",
    "Greek": "Καλημέρα κόσμε, ὦ ξεῖν᾽",
    "Arabic": "مرحبا بالعالم، ٣٤٥",
    "Hebrew": "שָׁלוֹם עולם",
    "Hindi": "नमस्ते दुनिया १२३",
    "Thai": "สวัสดีชาวโลก",
    "mixed scripts": "Tokyo東京2020г. naïveдаяαβγ한글abcעברית",
    "mathematics": "∀x∈ℝ: x²≥0, ∑ᵢ aᵢ ≠ ∞, 𝒜𝔅ℂ, a→b",
    "odd spaces": "a\u00a0b\u2003c\u3000d\u200be\ufefff\u2028g\u2029h\u202fi\u00adj",
    "private and replaced": "\ufffd \ue000 \uf04a \U0010ffff \U00020000",
    "end of text alone": "<|endoftext|>",
    "end of text inside": "one.<|endoftext|>Two <|endoftext|> three<|endoftext|>",
    "end of text nearly": "<|endoftext| >, <| endoftext|>, <|ENDOFTEXT|>, <|endoftext|",
    "unknown token": "a <unk> b<unk>c <UNK>",
    "end-of-word mark": "word</w> the</w> </w>",
    "byte-level letters": "Ġthe Ċ ĉ Ń",
    "very long word": LONG,
    "one letter repeated": "a" * 150 + " " + "Z" * 40,
}


def perturbed(model, seed):
    """Every parameter away from 0 and 1, biases and gains too, and attention far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.25)
    return model.eval()


def train(model, ids):
    """Loss and gradients at the start, gradient norms before the clip, weights after STEPS updates."""
    named = dict(model.named_parameters())
    groups = [{"params": [p for p in named.values() if p.dim() >= 2], "weight_decay": ADAMW["weight_decay"]},
              {"params": [p for p in named.values() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=tuple(ADAMW["betas"]), eps=ADAMW["eps"])
    tensors, norms = {}, []
    for step in range(STEPS):
        optimizer.zero_grad()
        result = model(ids, labels=ids)
        result.loss.backward()
        if step == 0:
            loss = result.loss.item()
            tensors["logits"] = result.logits.detach().clone()
            tensors |= {f"grad.{name}": p.grad.clone() for name, p in named.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
    tensors |= {f"step{STEPS}.{name}": p.detach().clone() for name, p in named.items()}
    return loss, norms, tensors


def greedy(model, prompt):
    """Prompt and continuation, and the smallest lead of a chosen logit over the next best."""
    ids, lead = list(prompt), float("inf")
    for _ in range(GREEDY):
        with torch.no_grad():
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        lead = min(lead, (best.values[0] - best.values[1]).item())
        ids.append(best.indices[0].item())
    return ids, lead


def rounding(tensors, exact, d_model):
    """Largest distance of the float32 results from float64, by kind.

    A bias on the keys moves every score of a query alike, so its gradient is zero but for rounding, and AdamW
    divides that rounding by its own size: those elements of step3 are noise and stand apart.
    """
    far = {"logits": 0.0, "grad": 0.0, "step3": 0.0, "step3 of key biases": 0.0}
    for name, t in tensors.items():
        distance = (t.double() - exact[name]).abs()
        kind = name.split(".")[0]
        if kind == "step3" and name.endswith("attn.c_attn.bias"):
            keys = distance[d_model:2 * d_model].max().item()
            far["step3 of key biases"] = max(far["step3 of key biases"], keys)
            distance[d_model:2 * d_model] = 0
        far[kind] = max(far[kind], distance.max().item())
    return far


def language_model(out, name, build, seed, shape):
    torch.manual_seed(seed)
    model = perturbed(build(), seed)
    folder = out / name
    model.save_pretrained(folder)
    vocab_size = model.config.vocab_size
    ids = torch.randint(0, vocab_size, shape, generator=torch.Generator().manual_seed(seed + 100))
    prompt = [i * 7 % vocab_size for i in range(1, 9)]
    text, lead = greedy(model, prompt)
    assert lead > SMALLEST_LEAD, f"{name}: a lead of {lead} is too small, take another seed"
    assert model.config.eos_token_id not in text, f"{name}: the text ends early, take another seed"
    exact = copy.deepcopy(model).double()
    loss, norms, tensors = train(model, ids)
    far = rounding(tensors, train(exact, ids)[2], model.config.n_embd)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    (folder / "inputs.json").write_text(json.dumps({
        "ids": ids.tolist(), "loss": loss, "grad_norms_before_clip": norms, "clip": CLIP, "adamw": ADAMW,
        "greedy_prompt": prompt, "greedy": text}) + "\n")
    return {"seed": seed, "smallest_lead_of_greedy": lead, "float32_from_float64": far}


def reward_model(out, name, build, seed):
    torch.manual_seed(seed)
    model = perturbed(build(), seed)
    model.save_pretrained(out / name)
    lengths, pad = [24, 17, 5], model.config.pad_token_id
    ids = torch.randint(0, pad, (3, 24), generator=torch.Generator().manual_seed(seed + 100))
    for row, n in enumerate(lengths):
        ids[row, n:] = pad
    with torch.no_grad():
        padded = model(ids, attention_mask=(ids != pad).long()).logits.squeeze(-1)
        alone = torch.cat([model(ids[i:i + 1, :n]).logits.flatten() for i, n in enumerate(lengths)])
    assert (padded - alone).abs().max() < 1e-5, f"{name}: padding changes the reward"
    (out / name / "inputs.json").write_text(json.dumps({
        "ids": ids.tolist(), "lengths": lengths, "rewards": padded.tolist()}) + "\n")
    return {"seed": seed}


def tokenizer_cases(out, files):
    """`NAME` is what a tokenizer call gives; `NAME_ordinary`, where it differs, reads special tokens as plain text."""
    reference = {
        "gpt2": GPT2Tokenizer(vocab=str(files / "gpt2/encoder.json"), merges=str(files / "gpt2/vocab.bpe")),
        "gpt1": OpenAIGPTTokenizer(vocab=str(files / "gpt1/encoder_bpe_40000.json"),
                                   merges=str(files / "gpt1/vocab_40000.bpe")),
    }
    cases = []
    for name, text in TEXTS.items():
        case = {"name": name, "text": text}
        for which, tokenizer in reference.items():
            case[which] = tokenizer(text)["input_ids"]
            ordinary = tokenizer(text, split_special_tokens=True)["input_ids"]
            if ordinary != case[which]:
                case[which + "_ordinary"] = ordinary
            decoded = tokenizer.decode(case[which])
            if decoded != text:
                case[which + "_decoded"] = decoded
        cases.append(case)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (out / "tokenizers.json").write_text(f"[\n{lines}\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, metavar="OUT", help="the folder to write, tests/golden")
    parser.add_argument("--tokenizers", type=pathlib.Path, metavar="DIR", help="the published tokenizer files")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    made = {"versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
                         "safetensors": safetensors.__version__},
            "threads": torch.get_num_threads()}
    for name, build, seed, shape in MODELS:
        made[name] = language_model(args.out, name, build, seed, shape)
    for name, build, seed in REWARD_MODELS:
        made[name] = reward_model(args.out, name, build, seed)
    if args.tokenizers:
        tokenizer_cases(args.out, args.tokenizers)
    (args.out / "made-with.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
