#!/usr/bin/env python3
"""Check that transformers reads the model folders that gptkit wrote, and finds in them the same model.

    python scripts/check_transformers.py [--gptkit PATH] [--made KIND]... [MODEL_DIR...]

For each folder:
  keys       from_pretrained reports no missing, unexpected or mismatched weights; of adapters (gptkit sft --lora-rank), PEFT
             finds all of them and nothing else
  tokenizer  AutoTokenizer and `gptkit tokenizer` give sample texts the same ids, and the ids the same text
  greedy     transformers' generate and `gptkit sample --temperature 0` choose the same tokens and stop alike
  log-probs  gptkit's log-probabilities, of the chosen tokens and of the likeliest at each place, are within 1e-4

A folder of GPT-3's kind (config.json has window_size) says gpt2, whose attention in transformers is dense in every
layer. The two agree while prompt and continuation fit the window, so only that far is compared.

With --made, the scripts of scripts/conformance make what other people make, with the versions that are installed, and the
checks of tests/conformance are done on it:
  adapters    of many kinds, with PEFT
  templates   of the usual families; the tokens of a dialogue in `gptkit inspect` and in apply_chat_template
  tokenizers  of ten kinds; AutoTokenizer and `gptkit tokenizer` give texts the same ids, and ids the same text
  weights     model folders as other people have them

Prints a verdict for each check and exits with 1 when any failed. Only local files are read.
Written against Python 3.11, torch 2.11.0, transformers 5.24.0, tokenizers 0.23.3 and peft 0.21.2.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4
NEW_TOKENS = 20
TOP = 5
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    " A space before,  two within, one after ",
    "First line\n\nThird line\n",
    "I'm sure they don't; we'll see, it's late",
    "In 1984, 3.5% of 1,000 items.",
    "\tif x:\r\n\t\treturn y",
    "Café, cafe\u0301, naïve, Straße",
    "日本語とカタカナ, Привет, مرحبا",
    "👋🏽 👩🏽\u200d💻 🎉",
]
PROMPTS = ["The ", "Once upon a time", "It is", "I don't know what", "a"]


class Report:
    """Prints a line a check, and remembers whether all passed."""

    def __init__(self):
        self.failed = 0
        self.passed = 0

    def line(self, good, check, text):
        self.passed += good
        self.failed += not good
        print(f"  {'pass' if good else 'FAIL'}  {check:<10} {text}")

    def note(self, check, text):
        print(f"  note  {check:<10} {text}")


class Gptkit:
    def __init__(self, binary):
        self.binary = binary

    def run(self, *args, stdin=b""):
        done = subprocess.run([self.binary, *map(str, args)], input=stdin, capture_output=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}")
        return done.stdout

    def encode(self, folder, text):
        return [int(i) for i in self.run("tokenizer", "encode", "--tokenizer", folder, stdin=text.encode()).split()]

    def decode(self, folder, ids):
        return self.run("tokenizer", "decode", "--raw", "--tokenizer", folder, stdin=" ".join(map(str, ids)).encode())

    def sample(self, folder, prompt, n):
        out = self.run("sample", "--model", folder, "--prompt", prompt, "--max-new-tokens", n, "--temperature", 0,
                       "--log-probs", TOP, "--json", "--dtype", "f32")
        lines = out.decode().splitlines()
        if len(lines) != 1:
            raise RuntimeError(f"{len(lines)} lines of output instead of one")
        return json.loads(lines[0])


def check_keys(folder, report):
    """The model, or nothing when it cannot be loaded. Adapters are loaded by PEFT onto their base."""
    if (folder / "adapter_config.json").exists():
        return check_adapter(folder, report)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True)
    except Exception as error:
        report.line(False, "keys", f"{type(error).__name__}: {error}")
        return None
    bad = {kind: sorted(map(str, found)) for kind, found in info.items() if found}
    report.line(not bad, "keys", json.dumps(bad) if bad else
                f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters, all found")
    return model.eval()


def check_adapter(folder, report):
    import peft
    from safetensors import safe_open

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            # It gives the base as many tokens as the folder's tokenizer has.
            model = peft.AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:
        report.line(False, "keys", f"{type(error).__name__}: {error}")
        return None
    with safe_open(folder / "adapter_model.safetensors", "pt") as stored:
        # The base's own table, and the tied output weights, are listed with the adapters.
        theirs = {name: tensor for name, tensor in peft.get_peft_model_state_dict(model).items()
                  if "base_layer" not in name and "lm_head" not in name}
        missing = sorted(set(stored.keys()) ^ set(theirs))
        differing = [name for name in set(stored.keys()) & set(theirs) if not stored.get_tensor(name).equal(theirs[name])]
    bad = [str(w.message) for w in said if "key" in str(w.message)] + missing + differing
    trained = sum(p.numel() for p in theirs.values())
    report.line(not bad, "keys", "; ".join(bad[:3]) if bad else
                f"peft {peft.__version__}, {trained:,} parameters of adapters, all found and the same")
    model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model.eval()


def check_tokenizer(folder, gptkit, texts, report):
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        report.line(False, "tokenizer", f"{type(error).__name__}: {error}")
        return None
    wrong, compared = [], 0
    for text in texts:
        theirs = tokenizer(text)["input_ids"]
        back = tokenizer.decode(theirs, clean_up_tokenization_spaces=False)
        try:
            ours = gptkit.encode(folder, text)
            our_back = gptkit.decode(folder, ours)
        except RuntimeError as error:
            # A vocabulary of characters has no token for others: gptkit says so, transformers drops them.
            if back != text and "is not among" in str(error):
                report.note("tokenizer", f"{text!r} not compared: {error}")
            else:
                wrong.append(f"{text!r}: {error}")
            continue
        compared += 1
        if ours != theirs:
            wrong.append(f"{text!r}: gptkit {ours}, transformers {theirs}")
        elif our_back != back.encode():
            wrong.append(f"{text!r} comes back as {our_back.decode(errors='replace')!r} from gptkit, "
                         f"as {back!r} from transformers")
    for line in wrong:
        report.line(False, "tokenizer", line)
    if not wrong:
        report.line(compared > 0, "tokenizer", f"{type(tokenizer).__name__}, {compared} texts alike")
    return tokenizer


def stop_tokens(model):
    end = model.generation_config.eos_token_id
    return [] if end is None else end if isinstance(end, list) else [end]


@torch.no_grad()
def generate(model, prompt, n):
    """The greedy continuation, and whether it ended with an end-of-text token (which is left out)."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, max_new_tokens=n,
                         pad_token_id=0)[0, len(prompt):].tolist()
    ended = bool(out) and out[-1] in stop_tokens(model)
    return (out[:-1] if ended else out), ended


@torch.no_grad()
def log_prob_rows(model, prompt, continuation):
    """One row of log-probabilities for each token of the continuation."""
    logits = model(torch.tensor([prompt + continuation])).logits[0]
    return logits[len(prompt) - 1:len(prompt) + len(continuation) - 1].double().log_softmax(-1)


def largest(numbers):
    """`max`, but NaN wins."""
    return max(numbers, key=lambda x: (x != x, x))


def largest_difference(rows, places):
    """Over the chosen tokens, the listed ones, and the k-th likeliest against the k-th listed."""
    found = [0.0]
    for row, place in zip(rows, places):
        for token in [place, *place["top"]]:
            found.append(abs(row[token["id"]].item() - token["log_prob"]))
        k = min(TOP, len(row))
        if len(place["top"]) != k:
            raise ValueError(f"{len(place['top'])} likeliest tokens are listed, not {k}")
        for best, token in zip(row.topk(k).values.tolist(), place["top"]):
            found.append(abs(best - token["log_prob"]))
    return largest(found)


def check_prompt(folder, gptkit, model, tokenizer, prompt, limit, report):
    """Greedy tokens and log-probabilities after one prompt; gives back the largest difference, if one was found."""
    ids = tokenizer(prompt)["input_ids"]
    n = min(NEW_TOKENS, limit - len(ids))
    if not ids or n < 1:
        report.note("greedy", f"{prompt!r} not compared: {len(ids)} tokens, {limit} fit")
        return None
    try:
        sample = gptkit.sample(folder, prompt, n)
    except RuntimeError as error:
        if "is not among" in str(error):
            report.note("greedy", f"{prompt!r} not compared: {error}")
        else:
            report.line(False, "greedy", f"{prompt!r}: {error}")
        return None
    if sample["prompt_tokens"] != ids:
        report.line(False, "greedy", f"{prompt!r}: gptkit read it as {sample['prompt_tokens']}, transformers as {ids}")
        return None
    ours, places = sample["tokens"], sample["log_probs"] if sample["tokens"] else []
    theirs, ended = generate(model, ids, n)
    rows = log_prob_rows(model, ids, ours)
    finish = "end_of_text" if ended else "length"
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    if ours != theirs:
        lead = rows[at].topk(2).values.diff().abs().item() if at < len(ours) else float("nan")
        report.line(False, "greedy", f"{prompt!r}: token {at} differs: gptkit {ours[at:at + 4]}, transformers "
                                     f"{theirs[at:at + 4]} (the best leads the next by {lead:.1e})")
    else:
        report.line(sample["finish"] == finish, "greedy",
                    f"{prompt!r}: {len(ours)} tokens alike, finish {sample['finish']!r} and {finish!r}")
    if [place["id"] for place in places] != ours:
        report.line(False, "log-probs", f"{prompt!r}: they are not of the tokens")
        return None
    try:
        far = largest_difference(rows, places)
    except ValueError as error:
        report.line(False, "log-probs", f"{prompt!r}: {error}")
        return None
    report.line(far <= TOLERANCE, "log-probs", f"{prompt!r}: largest difference {far:.1e} (at most {TOLERANCE:.0e})")
    return far


def check_folder(folder, gptkit, prompts, texts, report):
    print(folder)
    described = folder / "config.json"
    config = json.loads(described.read_text()) if described.exists() else {}  # adapters of PEFT have none
    model = check_keys(folder, report)
    tokenizer = check_tokenizer(folder, gptkit, texts, report)
    if model is None or tokenizer is None:
        return
    limit = model.config.n_positions
    window = config.get("window_size")
    if window is not None:
        limit = min(limit, window)
        report.note("window", f"GPT-3's kind with a window of {window}: compared for at most {limit} tokens in all, "
                              "where its banded layers and transformers' dense ones are the same")
    found = [check_prompt(folder, gptkit, model, tokenizer, prompt, limit, report) for prompt in prompts]
    found = [far for far in found if far is not None]
    if found:
        print(f"  largest difference of a log-probability: {largest(found):.1e}")
    else:
        report.line(False, "log-probs", "no prompt could be compared")


def check_made_tokenizers(gptkit, texts, report):
    """Tokenizers of ten kinds that gptkit did not make: ids of texts, and text of ids in any order."""
    import tokenizer_kinds

    for name in tokenizer_kinds.KINDS:
        print(name)
        made = tokenizer_kinds.MAKERS[name]()
        with tempfile.TemporaryDirectory() as folder:
            made.save(f"{folder}/tokenizer.json")
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
            for text in [*texts, *tokenizer_kinds.SENTENCES]:
                check_made_text(folder, gptkit, tokenizer, text, report)
            for ids in tokenizer_kinds.random_ids(made, name):
                theirs = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
                ours = gptkit.decode(folder, ids).decode(errors="replace")
                report.line(ours == theirs, "tokenizer", f"{ids[:6]}… is {ours!r}" + (
                    "" if ours == theirs else f" from gptkit, {theirs!r} from transformers"))


def check_made_text(folder, gptkit, tokenizer, text, report):
    theirs = tokenizer(text)["input_ids"]
    try:
        ours = gptkit.encode(folder, text)
    except RuntimeError as error:
        # A vocabulary of characters has no token for others: gptkit says so, transformers drops them.
        if "is not among" in str(error):
            report.note("tokenizer", f"{text!r} not compared: {error}")
        else:
            report.line(False, "tokenizer", f"{text!r}: {error}")
        return
    back = tokenizer.decode(theirs, clean_up_tokenization_spaces=False)
    our_back = gptkit.decode(folder, ours).decode(errors="replace")
    same = ours == theirs and our_back == back
    report.line(same, "tokenizer", f"{text!r}: {len(ours)} tokens alike" if same else
                f"{text!r}: gptkit {ours} and {our_back!r}, transformers {theirs} and {back!r}")


def check_made_models(kind, gptkit, report):
    """Makes the model folders of a kind of scripts/conformance, and compares gptkit with each."""
    import importlib
    import shutil

    made = importlib.import_module(kind).made
    described = {"adapters": "adapter_config.json", "weights": "config.json"}[kind]
    print(f"made {kind}")
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = pathlib.Path(out)
        for row in made(out / kind):
            folder = out / kind / row["name"]
            if "of" in row:
                shutil.copytree(folder.with_name(row["of"]), folder)
                config = {**json.loads((folder / described).read_text()), **row["set"]}
                (folder / described).write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
            if kind == "weights":
                shutil.copytree(out / kind / "tokenizer", folder, dirs_exist_ok=True)
            check_made_row(folder, gptkit, row, report)


def check_made_row(folder, gptkit, row, report):
    refused = row.get("refused")
    try:
        sample = gptkit.sample(folder, row.get("prompt", "a"), max(1, len(row.get("tokens", []))))
    except RuntimeError as error:
        report.line(refused is not None and refused in str(error), row["name"], str(error).splitlines()[0][:200])
        return
    if refused is not None or sample["tokens"] != row["tokens"]:
        report.line(False, row["name"], f"gptkit {sample['tokens']}, reference {row.get('tokens', refused)}")
        return
    far = largest([0.0, *(abs(place["log_prob"] - p) for place, p in zip(sample["log_probs"], row["log_probs"]))])
    report.line(far <= TOLERANCE, row["name"], f"{len(row['tokens'])} tokens alike, largest difference {far:.1e}")


def check_made(kind, gptkit, texts, report):
    """Makes what a script of scripts/conformance makes, and compares gptkit with each."""
    if kind == "tokenizers":
        check_made_tokenizers(gptkit, texts, report)
    elif kind == "templates":
        import templates

        templates.check(gptkit, report)
    else:
        check_made_models(kind, gptkit, report)


# Kinds that --made takes.
MADE = ["adapters", "templates", "tokenizers", "weights"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path, metavar="MODEL_DIR")
    parser.add_argument("--gptkit", default="target/release/gptkit", metavar="PATH", help="default: %(default)s")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="instead of the built-in ones (repeatable)")
    parser.add_argument("--text", action="append", metavar="TEXT", help="for the tokenizer, likewise (repeatable)")
    parser.add_argument("--made", action="append", choices=MADE, default=[], metavar="KIND",
                        help=f"make and check what other people make: {', '.join(MADE)} (repeatable)")
    args = parser.parse_args()
    if not args.folders and not args.made:
        parser.error("name a folder, or --made")
    sys.path.append(str(pathlib.Path(__file__).parent / "conformance"))
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    report = Report()
    for folder in args.folders:
        try:
            check_folder(folder, Gptkit(args.gptkit), args.prompt or PROMPTS, args.text or TEXTS, report)
        except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
            report.line(False, "folder", f"{type(error).__name__}: {error}")
    for kind in args.made:
        check_made(kind, Gptkit(args.gptkit), args.text or TEXTS, report)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(report.failed > 0)


if __name__ == "__main__":
    main()
