#!/usr/bin/env python3
"""Compares what a model that `gptkit finetune` made says of records with what transformers makes of its folder.

    target/release/gptkit world --task entailment --held-out --count 50 > records.jsonl
    python3 scripts/check_classifier.py runs/finetune-small-1 --data records.jsonl

For each record: the inputs that the folder's tokenizer makes of its texts, read by AutoModelForSequenceClassification one
record at a time and in a padded batch. Probabilities, or the value, must agree within 1e-4. Only local files are read.
Written against Python 3.11, torch 2.11.0 and transformers 5.24.0.
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


def predictions(gptkit, folder, data):
    """The records with what gptkit says of them."""
    command = [gptkit, "predict", "--model", str(folder), "--data", str(data), "--dtype", "f32", "--device", "cpu"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"gptkit predict failed: {ran.stderr.strip()}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def inputs(record, task, columns):
    """The texts of each sequence: one, or two orders, or one a choice."""
    a, b = record[columns["text"]], record.get(columns.get("text_b"))
    if task == "multiple-choice":
        context = a if b is None else f"{a} {b}"
        names = columns["choices"]
        choices = record[names[0]] if len(names) == 1 else [record[name] for name in names]
        choices = choices if isinstance(choices, list) else choices["text"]
        return [(context, choice) for choice in choices]
    if b is None or task == "classification":
        return [(a,)]
    return [(a, b)] if task == "entailment" else [(a, b), (b, a)]


@torch.no_grad()
def logits(model, tokenizer, texts, batch):
    """A row of logits for each sequence, `batch` at a time, padded to the longest."""
    rows = []
    for first in range(0, len(texts), batch):
        some = texts[first:first + batch]
        encoded = [tokenizer(*pair)["input_ids"] for pair in some]
        padded = tokenizer.pad({"input_ids": encoded}, return_tensors="pt")
        rows.extend(model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits)
    return rows


def answer(rows, task, names):
    """What the logits of a record's sequences say, as gptkit writes it."""
    if task == "multiple-choice":
        return {str(i): p.item() for i, p in enumerate(torch.cat(list(rows)).double().softmax(0))}
    total = torch.stack(list(rows)).sum(0)
    if task == "regression":
        return {"value": total[0].item()}
    return {names[i]: p.item() for i, p in enumerate(total.double().softmax(0))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="MODEL_DIR")
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="JSONL", help="records to label")
    parser.add_argument("--gptkit", default="target/release/gptkit", metavar="PATH", help="default: %(default)s")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, loading = AutoModelForSequenceClassification.from_pretrained(args.folder, output_loading_info=True)
    wrong = {name: keys for name, keys in loading.items() if keys}
    if wrong:
        sys.exit(f"{args.folder}: weights do not fit {type(model).__name__}: {wrong}")
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    config = json.loads((args.folder / "config.json").read_text())
    task, columns, names = config["finetuning_task"], config["gptkit"]["columns"], model.config.id2label
    records = predictions(args.gptkit, args.folder, args.data)

    texts = [inputs(record, task, columns) for record in records]
    fits = [all(len(tokenizer(*pair)["input_ids"]) <= model.config.n_positions for pair in some) for some in texts]
    kept = [(record, some) for record, some, fit in zip(records, texts, fits) if fit]
    if len(kept) < len(records):
        print(f"{len(records) - len(kept)} records are longer than the window and not compared")
    if not kept:
        sys.exit("no record could be compared")
    flat = [pair for _, some in kept for pair in some]
    failed = False
    for what, batch in [("one by one", 1), (f"padded batches of {BATCH}", BATCH)]:
        rows, worst = iter(logits(model, tokenizer, flat, batch)), (0.0, None)
        for record, some in kept:
            theirs = answer([next(rows) for _ in some], task, names)
            ours = {"value": record["value"]} if task == "regression" else record["probabilities"]
            if ours.keys() != theirs.keys():
                sys.exit(f"{record}: transformers says {theirs}")
            far = max(abs(ours[name] - theirs[name]) for name in ours)
            if not far <= worst[0]:  # NaN too
                worst = (far, record)
        fine = worst[0] <= TOLERANCE
        failed |= not fine
        print(f"{'ok  ' if fine else 'FAIL'} {task}, {len(kept)} records, {type(model).__name__}, {what}: "
              f"largest difference {worst[0]:.1e} (at most {TOLERANCE:.0e})")
        if not fine:
            print(f"     {json.dumps(worst[1])}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
