#!/usr/bin/env python3
"""Compares the rewards of a model that `gptkit train-rm` made with those that transformers computes of its folder.

    target/release/gptkit world --comparisons --held-out --count 50 > comparisons.jsonl
    python3 scripts/check_reward.py runs/rm-small-1 --data comparisons.jsonl

For each completion: prompt and completion as the folder's chat template writes them, up to the sign that ends an answer,
read by AutoModelForSequenceClassification alone and in a padded batch. Rewards must agree within 1e-4. Records have
`prompt` and `completions`, or `prompt`, `chosen` and `rejected`. Only local files are read. Written against Python 3.11,
torch 2.11.0 and transformers 5.24.0.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-4
BATCH = 16


def rewards(gptkit, folder, data):
    """The records with what gptkit says of them."""
    command = [gptkit, "score", "--model", str(folder), "--data", str(data), "--dtype", "f32", "--device", "cpu"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"gptkit score failed: {ran.stderr.strip()}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def tokens(tokenizer, prompt, completion):
    """Ids up to the end of the answer: white space after it is the template's."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def scores(model, tokenizer, sequences, batch):
    """One reward a sequence, `batch` at a time, padded to the longest."""
    found = []
    for first in range(0, len(sequences), batch):
        some = sequences[first:first + batch]
        pad, longest = model.config.pad_token_id, max(map(len, some))
        ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids in some])
        found.extend(model(input_ids=ids, attention_mask=(ids != pad).long()).logits.squeeze(-1).tolist())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="a run of gptkit train-rm")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="comparisons as JSONL")
    parser.add_argument("--gptkit", default="target/release/gptkit", help="the binary")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    model = AutoModelForSequenceClassification.from_pretrained(args.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    assert model.config.num_labels == 1, f"{args.folder} has {model.config.num_labels} labels"
    ours, sequences = [], []
    for record in rewards(args.gptkit, args.folder, args.data):
        completions = record.get("completions") or [record["chosen"], record["rejected"]]
        ours.extend(record["rewards"])
        sequences.extend(tokens(tokenizer, record["prompt"], completion) for completion in completions)
    largest = 0.0
    for batch in (1, BATCH):
        theirs = scores(model, tokenizer, sequences, batch)
        far = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        largest = max(largest, far)
        print(f"{len(ours)} rewards, {batch} at a time: largest difference {far:.2e}")
    if largest > TOLERANCE:
        sys.exit(f"rewards differ by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
