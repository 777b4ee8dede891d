"""Tiny models, the commands that write something, and the comparison of what two runs left behind.

`kill_test.py` and `torn_test.py` share this module. Everything runs in temporary folders with models of a few thousand
parameters, so that a command takes about a second.
"""

import json
import pathlib
import re
import shlex
import shutil
import sqlite3
import subprocess

TINY = "--set model.n_layer=2 --set model.n_head=2 --set model.d_model=16"
STEPS = "--set train.batch_size=4 --set train.warmup=0steps --set train.length=12steps --set train.eval_every=4"
FEW = "--set train.batch_size=4 --set train.warmup=0steps --set train.length=2steps"
PPO = ("--set policy.minibatches=2 --set rollout.max_new_tokens=6 --set train.eval_every=2 --set ptx.per_episode=1 "
       "--set train.eval_windows=4 --set train.batch_size=4 --set train.warmup=0steps --set train.length=6steps")

FAMILY = """
[family]
kind = "gpt2"
context = 16
sizes = [
  { name = "a", n_layer = 1, n_head = 1, d_model = 4 },
  { name = "b", n_layer = 1, n_head = 1, d_model = 8 },
  { name = "c", n_layer = 1, n_head = 2, d_model = 16 },
  { name = "d", n_layer = 1, n_head = 2, d_model = 32, predict = true },
]
[tokenizer]
train = "char"
[data]
sources = [{ path = "world:80" }]
val_fraction = 0.1
[train]
length = "40 steps"
batch_size = 8
lr = 4e-3
warmup = "4 steps"
decay = "linear"
decay_start = "30 steps"
eval_every = 10
eval_windows = 16
"""

# The command of each stage (its output is always `out`), how it resumes, and the command that uses its output.
STAGES = {
    "prepare": ("prepare --config char --data text.txt --out out", None, None),
    "tokenizer": ("tokenizer train --data text.txt --vocab-size 400 --out out", None, "tokenizer encode --tokenizer out"),
    "pretrain": (f"pretrain --config char {TINY} --set model.context=16 --data world:60 {STEPS} --out out",
                 "pretrain --resume out", "sample --model out --prompt Once --max-new-tokens 8"),
    "finetune": (f"finetune --init pre --task similarity --data world:60 {STEPS} --out out",
                 "finetune --resume out", "predict --model out"),
    "sft": (f"sft --init pre --data world:80 {STEPS} --out out", "sft --resume out",
            "sample --model out --prompt Once --max-new-tokens 8"),
    "train-rm": (f"train-rm --init chat --data world:60 {STEPS} --out out", "train-rm --resume out",
                 "score --model out --data comparisons.jsonl"),
    "dpo": (f"dpo --init chat --data world:60 {STEPS} --out out", "dpo --resume out",
            "sample --model out --prompt Once --max-new-tokens 8"),
    "ppo": (f"ppo --init chat --reward rm --prompts world:40 {PPO} --out out", "ppo --resume out",
            "sample --model out --prompt Once --max-new-tokens 8"),
    "eval": ("eval --model pre --task text=text.txt --task arithmetic:2d+ --shots 0,1 --limit 12 --out out",
             "eval --resume out", None),
    "compare": ("compare --a chat --b other --prompts world:8 --max-new-tokens 4 --judge gold --out out", None, None),
    "scaling": ("scaling --config family.toml --out out", "scaling --resume out", None),
    "merge": ("merge --model adapters --out out", None, "sample --model out --prompt Once --max-new-tokens 8"),
}

# Keys of records that tell times, memory, places or the work of one process, which differ between two equal runs.
VOLATILE = {"tokens_per_s", "elapsed_s", "seconds", "at", "time", "times", "written", "created", "peak_bytes", "started",
            "folder", "lock", "when", "tokens_read", "tokens_alone"}


def run(binary, words, folder, stdin=b"", timeout=120):
    """Runs `gptkit WORDS` in `folder`."""
    command = [str(binary), *shlex.split(words)]
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, timeout=timeout)


def must(binary, words, folder):
    ran = run(binary, words, folder)
    if ran.returncode != 0:
        raise SystemExit(f"gptkit {words}\n{ran.stderr.decode(errors='replace')}")
    return ran.stdout


def laboratory(binary, folder):
    """Makes the models and files that the commands of STAGES read."""
    folder.mkdir(parents=True)
    pre = f"pretrain {TINY} --set model.context=160 --set tokenizer.vocab_size=300 --data world:60 {FEW}"
    must(binary, f"{pre} --out pre", folder)
    must(binary, f"sft --init pre --data world:40 {FEW} --out chat", folder)
    must(binary, f"sft --init pre --data world:40 {FEW} --seed 2 --out other", folder)
    must(binary, f"sft --init pre --data world:40 {FEW} --set lora.rank=2 --out adapters", folder)
    must(binary, f"train-rm --init chat --data world:40 {FEW} --out rm", folder)
    (folder / "text.txt").write_bytes(must(binary, "world --stories 60", folder))
    (folder / "comparisons.jsonl").write_bytes(must(binary, "world --comparisons --count 5", folder))
    (folder / "records.jsonl").write_bytes(must(binary, "world --task similarity --count 5", folder))
    (folder / "family.toml").write_text(FAMILY)
    shutil.rmtree(folder / "shards", ignore_errors=True)


def fresh(lab, case):
    """A copy of the laboratory in `case`."""
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(lab, case, symlinks=True)
    return case


def use_input(stage, lab):
    """What the command that uses the stage's output reads from standard input."""
    return {"finetune": (lab / "records.jsonl"), "tokenizer": (lab / "text.txt")}.get(stage)


def timeless(value, case):
    if isinstance(value, dict):
        return {key: timeless(item, case) for key, item in value.items() if key not in VOLATILE and not key.startswith("time/")}
    if isinstance(value, list):
        return [timeless(item, case) for item in value]
    if isinstance(value, str):
        return value.replace(str(case), "CASE")
    return value


def database(path):
    """The rows of a SQLite file, without its columns of times."""
    rows = []
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as open_file:
        tables = open_file.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        for (table,) in tables:
            cursor = open_file.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor:
                rows.append((table, tuple((n, v) for n, v in zip(names, row) if n not in VOLATILE)))
    return sorted(map(repr, rows))


def contents(path, case):
    """What of a file must be the same after any interruption."""
    name = path.name
    raw = path.read_bytes()
    if name.startswith("events.out") or name == "lock" or name.endswith(".lock"):
        return b""
    if name.endswith((".sqlite", ".db")):
        return database(path)
    if name == "checksums.json":  # of files that are compared themselves
        return sorted(json.loads(raw))
    if name.endswith(".json"):
        return timeless(json.loads(raw), case)
    if name.endswith(".jsonl"):
        return [timeless(json.loads(line), case) for line in raw.splitlines()]
    if name == "scaling.md":  # the last column of its tables may be seconds
        return [line.rsplit("|", 2)[0] for line in raw.decode().splitlines()]
    if name.endswith((".toml", ".md", ".txt", ".html", ".svg", ".csv")):
        text = raw.decode().replace(str(case), "CASE")
        return re.sub(r"\d+(\.\d+)? (s|ms|min)\b", "TIME", text)
    return raw


def left_behind(case, made_in):
    """Every file of `case`, by name, with what must be the same; paths into `made_in` count as paths into `case`."""
    found = {}
    for path in sorted(case.rglob("*")):
        name = str(path.relative_to(case))
        if path.is_dir():
            found[name + "/"] = b""
            continue
        name = re.sub(r"events\.out.*", "events.out", name)
        try:
            found[name] = contents(path, made_in)
        except (ValueError, sqlite3.Error) as e:
            found[name] = f"unreadable: {e}"
    return found


def differences(case, whole):
    """Names of files that differ between two cases that were both made in the folder `case`, at most eight."""
    here, there = left_behind(case, case), left_behind(whole, case)
    names = [f"{name} is missing" for name in there if name not in here]
    names += [f"{name} was left over" for name in here if name not in there]
    names += [f"{name} differs{where(here[name], there[name])}" for name in here
              if name in there and here[name] != there[name]]
    return names[:8]


def where(one, other):
    """The place in JSON at which two values first differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        key = next(k for k in [*one, *other] if k not in one or k not in other or one[k] != other[k])
        return f" at {key}{where(one.get(key), other.get(key))}"
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f" in length, {len(one)} and {len(other)}"
        return next(f" at {n}{where(a, b)}" for n, (a, b) in enumerate(zip(one, other)) if a != b)
    return f": {one!r} and {other!r}" if isinstance(one, (int, float, str)) else ""


def last_words(ran):
    return ran.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["(nothing)"]


def binary_argument(parser):
    parser.add_argument("--gptkit", type=pathlib.Path, default=pathlib.Path("target/release/gptkit"),
                        help="the binary (default: target/release/gptkit)")
    parser.add_argument("--stage", action="append", choices=sorted(STAGES), help="only this command (repeatable)")
