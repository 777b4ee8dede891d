#!/usr/bin/env python3
"""Check that gptkit eval and lm-evaluation-harness find the same in a model, one task of each kind; or time the two.

    python scripts/check_lm_eval.py [--gptkit PATH] [--tokenizer DIR] [--model DIR] [--serve]
    python scripts/check_lm_eval.py --time [--dtype f32|bf16] [--records FILE] [--write] …

The model is a GPT-2 of random weights, large enough that its scores differ, unless --model names a folder. Records are
those of gptkit's embedded world; the harness is given each prompt as gptkit's instances/ show it, at 0 and 3
demonstrations, as tasks of its own that read local files:
  choice      log-likelihoods of every answer within 1e-4; acc and acc_norm are accuracy (sum) and (per character)
  word        log-likelihood of the last word within 1e-4, the same verdict whether it is what the model writes
  generation  the same words written greedily, the same exact matches
  perplexity  log-likelihood of a text in disjoint windows (--stride of the context) within 1e-4 of itself, bits per byte

--serve: the harness asks `gptkit serve` by its model type local-completions, in place of transformers. Its tasks are the
same but for windows of a text.

--time: 2,000 records × 4 endings of HellaSwag's form at GPT-2 124M, random weights, seconds of both from a model folder
to the results; --records names the file (HellaSwag's), else the world's endings are taken. --write puts the seconds
into docs/figures.json; it needs --records.

--tokenizer: a folder with GPT-2's encoder.json and vocab.bpe; without it the harness reads the tokenizer of --model.
Prints a line for each check and exits with 1 when any failed. Only local files are read.
Written against Python 3.11, torch 2.11.0, transformers 5.24.0, lm_eval 0.4.13 and datasets 5.2.0.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="true", TQDM_DISABLE="1")
import figures
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from lm_eval.api.task import ConfigurableTask
from serving import Server
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

SIZES = {"tiny": (96, 3, 4, 256), "gpt2-small": (768, 12, 12, 1024)}
CHOICE = '''scoring = "choice"
prompt = "{{ context }}"
answer = " {{ choice }}"
[choice]
of = "choices"
right = "label"
main = "sum"
'''
HELLASWAG = '''scoring = "choice"
prompt = "{{ ctx or context }}"
answer = " {{ choice }}"
[choice]
of = "endings"
right = "label"
neutral = ""
main = "per-character"
'''
WORD = 'scoring = "word"\nprompt = "{{ text | before_last_word }}"\nanswer = " {{ text | last_word }}"\n'
GENERATION = '''scoring = "generation"
prompt = "Text: {{ text }}\\nFeeling:"
answer = " {{ label }}"
[generation]
accept = "label"
metrics = ["exact"]
stop = ["\\n"]
max_new_tokens = 8
'''


def make_model(folder, size, tokenizer):
    """A model folder of random weights."""
    torch.manual_seed(1)
    d, layers, heads, context = SIZES[size]
    tokens = AutoTokenizer.from_pretrained(tokenizer) if not (tokenizer / "encoder.json").exists() else gpt2(tokenizer)
    ends = tokens.convert_tokens_to_ids("<|endoftext|>")
    config = GPT2Config(vocab_size=len(tokens), n_embd=d, n_layer=layers, n_head=heads, n_positions=context,
                        initializer_range=0.02 if size == "gpt2-small" else 0.2, eos_token_id=ends, bos_token_id=ends)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokens.save_pretrained(folder)


def gpt2(folder):
    """GPT-2's tokenizer from its released files."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    inner = ByteLevelBPETokenizer(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    return PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, eos_token="<|endoftext|>",
                                   bos_token="<|endoftext|>", clean_up_tokenization_spaces=False)


def world(gptkit, *args):
    out = subprocess.run([gptkit, "world", *args], check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def harness(model, name, docs, folder, batch_size, **config):
    """lm-evaluation-harness's results and samples on `docs`, prompts given."""
    path = write(folder / f"{name}.harness.jsonl", docs)
    task = ConfigurableTask(config={
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test",
        "num_fewshot": 0, **config,
    })
    model.batch_size_per_gpu = batch_size
    done = simple_evaluate(model, tasks=[task], log_samples=True, bootstrap_iters=0, verbosity="ERROR",
                           task_manager=TaskManager(include_defaults=False))
    samples = sorted(done["samples"][name], key=lambda sample: sample["doc_id"])
    return done["results"][name], samples


class Checks:
    failed = False

    def say(self, name, good, detail):
        self.failed |= not good
        print(f"{'ok  ' if good else 'FAIL'}  {name:28} {detail}")


def check(args, folder):
    model_dir = args.model or folder / "model"
    if not args.model:
        make_model(model_dir, "tiny", args.tokenizer)
    records = {
        "choice": world(args.gptkit, "--task", "multiple-choice", "--held-out", "--count", "200"),
        "word": [{"text": " ".join(story["text"].split()[:60])} for story in world(args.gptkit, "--json", "--count", "120")],
        "generation": world(args.gptkit, "--task", "classification", "--held-out", "--count", "120"),
    }
    command = [args.gptkit, "eval", "--model", model_dir, "--shots", "0,3", "--dtype", "f32", "--out", folder / "eval"]
    for (name, task), toml in zip(records.items(), [CHOICE, WORD, GENERATION]):
        (folder / f"{name}.toml").write_text(toml)
        test = write(folder / f"{name}.jsonl", task)
        command += ["--task", f"{folder / name}.toml={test}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    context = json.loads((model_dir / "config.json").read_text())["n_positions"]
    texts = [story["text"] for story in world(args.gptkit, "--json", "--count", "12")]
    texts = ["\n".join(texts[:5]), *texts[5:]]
    path = write(folder / "text.jsonl", [{"text": text} for text in texts])
    subprocess.run([args.gptkit, "eval", "--model", model_dir, "--task", f"text={path}", "--stride", str(context),
                    "--dtype", "f32", "--out", folder / "text"], check=True, stdout=subprocess.DEVNULL)

    if args.serve:
        with Server(args.gptkit, "--model", f"checked={model_dir}", "--dtype", "f32", "--max-queue", "4096",
                    "--max-queue-tokens", "10000000") as server:
            model = LocalCompletionsAPI(base_url=f"{server.url}/v1/completions", model="checked", tokenizer=str(model_dir),
                                        tokenizer_backend="huggingface", tokenized_requests=True, max_length=context,
                                        num_concurrent=4)
            compare(model, records, folder, texts=None)
    hf = AutoModelForCausalLM.from_pretrained(model_dir).float().eval()
    model = HFLM(pretrained=hf, tokenizer=AutoTokenizer.from_pretrained(model_dir), batch_size=16, device="cpu")
    compare(model, records, folder, texts)


def compare(model, records, folder, texts):
    """Checks gptkit's results, below `folder`, against those of the harness with `model`; then ends the script."""
    checks = Checks()
    for shots in (0, 3):
        ours = {name: lines(next((folder / "eval/instances" / name).glob(f"*/{shots}-shot.jsonl"))) for name in records}
        found, samples = harness(
            model, "choice", [{**one, "choices": [a.strip() for a in one["answers"]]} for one in ours["choice"]], folder, 16,
            output_type="multiple_choice", doc_to_text="{{prompt}}", doc_to_target="right", doc_to_choice="choices",
            metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])
        theirs = [[float(resp[0]) for resp in sample["filtered_resps"]] for sample in samples]
        worst = max(abs(a - b) for one, other in zip(ours["choice"], theirs) for a, b in zip(one["log_probs"], other))
        acc = [sum(one["chosen"][by] == one["right"] for one in ours["choice"]) / len(theirs) for by in ("sum", "per character")]
        checks.say(f"choice, {shots}-shot", worst < 1e-4 and abs(acc[0] - found["acc,none"]) < 1e-9
                   and abs(acc[1] - found["acc_norm,none"]) < 1e-9,
                   f"{len(theirs)} records, largest difference {worst:.1e}, acc {acc[0]:.4f}, acc_norm {acc[1]:.4f}")

        found, samples = harness(
            model, "word", ours["word"], folder, 16, output_type="loglikelihood", doc_to_text="{{prompt}}",
            doc_to_target=" {{target}}", target_delimiter="", metric_list=[{"metric": "acc"}, {"metric": "perplexity"}])
        theirs = [(float(s["filtered_resps"][0][0]), str(s["filtered_resps"][0][1]) == "True") for s in samples]
        worst = max(abs(one["log_prob"] - other[0]) for one, other in zip(ours["word"], theirs))
        same = all(one["greedy"] == other[1] for one, other in zip(ours["word"], theirs))
        checks.say(f"word, {shots}-shot", worst < 1e-4 and same,
                   f"{len(theirs)} records, largest difference {worst:.1e}, acc {found['acc,none']:.4f}")

        found, samples = harness(
            model, "generation", ours["generation"], folder, 1, output_type="generate_until", doc_to_text="{{prompt}}",
            doc_to_target="{{accept[0]}}", metric_list=[{"metric": "exact_match"}],
            generation_kwargs={"until": ["\n"], "do_sample": False, "max_gen_toks": 8})
        same = sum(one["written"] == s["filtered_resps"][0] for one, s in zip(ours["generation"], samples))
        exact = sum(one["exact match"] for one in ours["generation"])
        checks.say(f"generation, {shots}-shot", same == len(samples), f"{same} of {len(samples)} texts alike, {exact} right")

    if texts is None:
        sys.exit(checks.failed)
    found, samples = harness(
        model, "text", [{"text": text} for text in texts], folder, 4, output_type="loglikelihood_rolling", doc_to_text="",
        doc_to_target="{{text}}", metric_list=[{"metric": "bits_per_byte"}])
    ours = lines(next((folder / "text/instances/text").glob("*/0-shot.jsonl")))
    nats = sum(one["nats"] for one in ours)
    theirs = -sum(float(s["filtered_resps"][0]) for s in samples)
    bits = nats / sum(one["bytes"] for one in ours) / 0.6931471805599453
    checks.say("perplexity", abs(nats / theirs - 1) < 1e-4 and abs(bits - found["bits_per_byte,none"]) < 1e-4,
               f"{len(texts)} texts, {nats:.3f} nats against {theirs:.3f}, {bits:.6f} bits a byte")
    sys.exit(checks.failed)


def compare_times(args, folder):
    model_dir = args.model or folder / "model"
    if not args.model:
        make_model(model_dir, "gpt2-small", args.tokenizer)
    test = args.records or write(
        folder / "choice.jsonl",
        [{"ctx": one["context"], "endings": one["choices"], "label": one["label"]}
         for one in world(args.gptkit, "--task", "multiple-choice", "--held-out", "--count", "2000")])
    # gptkit's own figures include the unconditional variant, which reads every ending twice; the harness has none.
    (folder / "same.toml").write_text(HELLASWAG)
    seconds = {}
    for name, what in [(f"{folder}/same.toml", "the harness's figures"), ("hellaswag", "all figures")]:
        out = folder / f"eval-{len(seconds)}"
        begun = time.perf_counter()
        done = subprocess.run([args.gptkit, "eval", "--model", model_dir, "--task", f"{name}={test}", "--limit", "2000",
                               "--dtype", args.dtype, "--out", out, "--json"], check=True, stdout=subprocess.PIPE)
        seconds[what] = time.perf_counter() - begun
        cost = json.loads(done.stdout)["cells"][0]["cost"]
        print(f"gptkit {args.dtype}, {what}: {seconds[what]:.1f} s, {cost['tokens_read']:,} tokens read, "
              f"{cost['tokens_alone']:,} without sharing", flush=True)
    docs = lines(next((folder / "eval-1/instances/hellaswag").glob("*/0-shot.jsonl")))
    docs = [{**one, "choices": [a.strip() for a in one["answers"]]} for one in docs]
    begun = time.perf_counter()
    dtype = {"f32": "float32", "bf16": "bfloat16"}[args.dtype]
    model = HFLM(pretrained=str(model_dir), dtype=dtype, batch_size=args.batch_size, device="cpu")
    found, _ = harness(model, "choice", docs, folder, args.batch_size, output_type="multiple_choice",
                       doc_to_text="{{prompt}}", doc_to_target="right", doc_to_choice="choices",
                       metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])
    theirs = time.perf_counter() - begun
    ratios = ", ".join(f"{theirs / ours:.1f} ({what})" for what, ours in seconds.items())
    print(f"lm-evaluation-harness {args.dtype}, batch {args.batch_size}: {theirs:.1f} s, acc {found['acc,none']:.4f}; "
          f"gptkit is so many times as fast: {ratios}")
    if args.write:
        task = f"evaluation of GPT-2 124M on 2,000 records of HellaSwag, {args.dtype}"
        figures.record(args.gptkit, __file__, f"eval-{args.dtype}", task, "s", seconds["the harness's figures"], theirs,
                       "lm-evaluation-harness", ["torch", "transformers", "lm_eval"])



def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--gptkit", default="target/release/gptkit")
    a.add_argument("--tokenizer", type=pathlib.Path, default=pathlib.Path("../shared/data/tokenizers/gpt2"))
    a.add_argument("--model", type=pathlib.Path)
    a.add_argument("--serve", action="store_true")
    a.add_argument("--time", action="store_true")
    a.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    a.add_argument("--records", type=pathlib.Path)
    a.add_argument("--batch-size", type=int, default=16)
    a.add_argument("--write", action="store_true")
    args = a.parse_args()
    if args.write:
        if not (args.time and args.records):
            a.error("--write needs --time and --records")
        figures.must_be_idle()
    args.gptkit = str(pathlib.Path(args.gptkit).resolve())
    with tempfile.TemporaryDirectory() as folder:
        (compare_times if args.time else check)(args, pathlib.Path(folder))


if __name__ == "__main__":
    main()
