#!/usr/bin/env python3
"""Check that llama.cpp and transformers run what `gptkit export` writes as gptkit runs the model.

    python scripts/check_gguf.py --llama DIR [--gptkit PATH] [--data FILE] MODEL_DIR...

DIR has llama.cpp's library; where it is empty, the library is built there from the source of the Python package
llama-cpp-python (needs a C++ compiler, cmake and ninja: pip install scikit-build-core cmake ninja).

For each model, it is exported as f32, f16, q8_0 and q4_k_m, and for each file:
  tokens      llama.cpp gives 200 lines the same ids as `gptkit tokenizer encode`
  logits      of f32: within 1e-3 of those of transformers for the folder, where llama.cpp's GELU on the CPU, a table of f16
              values, is computed in f32 (that library is built again for it); the usual difference is printed too
  greedy      llama.cpp and `gptkit sample --temperature 0` choose the same 64 tokens; of files with quantized weights, which
              llama.cpp multiplies with activations of 8 bits, only the number of prompts that agree is reported
  chat        llama.cpp's chat completion of temperature 0 is the answer of `gptkit chat --temperature 0`
  perplexity  on FILE: of q8_0 within 0.5% of f32, of q4_k_m within 5%
  last        generation up to the last position of the file does not abort
  reader      transformers reads the f32 file: logits within 1e-5 of the folder's
  import      `gptkit import` of the f32 file has the same tensors as the folder

A GPT-3 is exported with --context of its band. Prints a verdict for each check and exits with 1 when any failed.
Written against Python 3.11, torch 2.11.0, transformers 5.24.0, gguf 0.19.0 and llama-cpp-python 0.3.36.
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

SETTINGS = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_CURL=OFF",
            "-DLLAMA_BUILD_UI=OFF"]
FORMATS = ["f32", "f16", "q8_0", "q4_k_m"]
NEW_TOKENS = 64
PROMPTS = ["The ", "Once upon a time", "It is", "She went to the", "a"]
QUESTIONS = ["What is 3 plus 4?", "Tell me a short story.", "Who are you?"]
PIECES = [
    "The quick brown fox", " jumps  over", "\tthe lazy dog.", "I'm sure they don't", "we'll see, it's late", "3.5% of 1,000",
    "Café naïve Straße", "cafe\u0301", "日本語とカタカナ", "Привет, мир!", "مرحبا", "👋🏽 👩🏽\u200d💻", "x\u00a0y\u3000z", "<|end|>", "<|user|>hello",
    "a    b", "snake_case(x != y)", "'S 'LL 're", "½ ² ⅷ ١٢٣", "...!!! ???", "line\n\n two", "   ", "ﬁ™①", "0000000000",
]
LINES = [f"{a} {b}{c}" for i, a in enumerate(PIECES) for b, c in [(PIECES[(5 * i + k) % len(PIECES)], PIECES[(7 * i + k) % len(PIECES)])
                                                                for k in range(9)]][:200]


class Report:
    """Prints a line for each check, and counts those that failed."""

    def __init__(self):
        self.passed = self.failed = 0

    def line(self, good, check, text):
        self.passed += good
        self.failed += not good
        print(f"  {'pass' if good else 'FAIL'}  {check:<10} {text}", flush=True)

    def note(self, check, text):
        print(f"  note  {check:<10} {text}", flush=True)


def run(*args, stdin=""):
    done = subprocess.run([*map(str, args)], input=stdin.encode(), capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}")
    return done.stdout.decode()


def build(folder):
    """Builds llama.cpp in `folder`. Returns the folders of the Python package, of the library, and of the exact library."""
    package = next(folder.glob("llama_cpp_python-*/llama_cpp"), None)
    if package is None:
        folder.mkdir(parents=True, exist_ok=True)
        run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", folder,
            "llama-cpp-python")
        with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        package = next(folder.glob("llama_cpp_python-*/llama_cpp"))
    library = folder / "b" / "bin"
    if not (library / "libllama.so").exists():
        print("building llama.cpp, which takes some minutes", flush=True)
        source = package.parent / "vendor" / "llama.cpp"
        run("cmake", "-S", source, "-B", folder / "b", "-G", "Ninja", *SETTINGS)
        run("ninja", "-C", folder / "b", "llama")
    # llama.cpp's GELU on the CPU is a table of f16 values. The library for the CPU is built again without it.
    exact = folder / "exact"
    if not (exact / "b" / "bin" / "libggml-cpu.so").exists():
        print("building llama.cpp's library for the CPU with GELU in f32", flush=True)
        shutil.copytree(package.parent / "vendor" / "llama.cpp", exact / "src", dirs_exist_ok=True)
        header = exact / "src" / "ggml" / "src" / "ggml-cpu" / "vec.h"
        header.write_text(header.read_text().replace("#define GGML_GELU_FP16\n", ""))
        run("cmake", "-S", exact / "src", "-B", exact / "b", "-G", "Ninja", *SETTINGS)
        run("ninja", "-C", exact / "b", "ggml-cpu")
    return package.parent, library, exact / "b" / "bin"


def worker(task):
    """Runs llama.cpp, which may abort, in a process of its own: answers `task` as JSON."""
    import numpy as np
    import llama_cpp
    from llama_cpp import Llama

    def model(context):
        return Llama(task["file"], n_ctx=context, logits_all=True, n_gpu_layers=0, verbose=False, flash_attn=False,
                     type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, n_batch=256)

    def logits(llm, tokens):
        llm.reset()
        llm.eval(tokens)
        return np.array(llm.scores[:len(tokens)], dtype=np.float32)

    def nll(llm, tokens):
        rows = logits(llm, tokens[:-1]).astype(np.float64)
        rows -= rows.max(-1, keepdims=True)
        log_probs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
        return -log_probs[np.arange(len(tokens) - 1), tokens[1:]].sum()

    def greedy(llm, tokens, n, ends):
        out = []
        rows = logits(llm, tokens)
        for _ in range(n):
            token = int(rows[-1].argmax())
            if token in ends:
                break
            out.append(token)
            llm.eval([token])
            rows = llm.scores[:llm.n_tokens]
        return out

    def chat(llm, question):
        llm.reset()
        answer = llm.create_chat_completion([{"role": "user", "content": question}], temperature=0, max_tokens=task["chat_tokens"])
        return answer["choices"][0]["message"]["content"]

    llm = model(task["context"])
    if task.get("only_logits"):
        return json.dump(logits(llm, task["sequence"]).tolist(), sys.stdout)
    found = {
        "tokens": [llm.tokenize(line.encode(), add_bos=False, special=True) for line in task["lines"]],
        "logits": logits(llm, task["sequence"]).tolist(),
        "greedy": [greedy(llm, tokens, n, task["ends"]) for tokens, n in task["prompts"]],
        "chat": [chat(llm, question) for question in task["questions"]],
        "nll": sum(nll(llm, window) for window in task["windows"]),
    }
    del llm
    whole = model(task["positions"])
    whole.eval(task["sequence"][:1])
    while whole.n_tokens < task["positions"]:
        whole.eval([int(whole.scores[whole.n_tokens - 1].argmax())])
    found["last"] = whole.n_tokens
    json.dump(found, sys.stdout)


class Model:
    """A model folder, and what gptkit and transformers make of it."""

    def __init__(self, folder, gptkit, data):
        import torch
        from transformers import AutoModelForCausalLM

        self.folder, self.gptkit = folder, gptkit
        self.config = json.loads((folder / "config.json").read_text())
        self.context = min(self.config["n_positions"], self.config.get("window_size") or math.inf)
        self.band = self.config.get("window_size")
        ends = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
        self.ends = ends if isinstance(ends, list) else [ends]
        self.chats = "chat_template" in json.loads((folder / "tokenizer_config.json").read_text())
        self.torch = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.lines = []
        self.ids = []
        for line in LINES:
            try:
                self.ids.append(self.encode(line))
                self.lines.append(line)
            except RuntimeError:  # a character tokenizer: the line without characters that it lacks
                known = "".join(c for c in line if self.knows(c))
                self.ids.append(self.encode(known) if known else [])
                self.lines.append(known)
        text = self.encode("".join(c for c in data if self.knows(c)))
        self.windows = [text[i:i + self.context] for i in range(0, min(len(text), 20 * self.context), self.context)]
        self.windows = [window for window in self.windows if len(window) > 1]
        self.sequence = self.windows[0][:self.context]

    known = None

    def knows(self, c):
        """Whether the character has a token; in other tokenizers than those of characters, all have."""
        if self.known is None:
            vocabulary = json.loads((self.folder / "tokenizer.json").read_text())["model"]["vocab"]
            is_char = all(len(token) == 1 for token in vocabulary)
            self.known = set(vocabulary) if is_char else "all"
        return self.known == "all" or c in self.known

    def encode(self, text):
        return [int(i) for i in run(self.gptkit, "tokenizer", "encode", "--tokenizer", self.folder, stdin=text).split()]

    def sample(self, model, prompt, n):
        out = run(self.gptkit, "sample", "--model", model, "--prompt", prompt, "--max-new-tokens", n, "--temperature", 0, "--json",
                  "--dtype", "f32")
        return json.loads(out.splitlines()[0])

    def chat(self, model, question, n):
        return run(self.gptkit, "chat", "--model", model, "--temperature", 0, "--max-new-tokens", n, "--dtype", "f32",
                   stdin=question + "\n").strip()

    def logits(self, model, tokens):
        import torch

        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].numpy()


def check_model(model, package, library, exact, out, report):
    import numpy as np

    base = None
    prompts = ["".join(c for c in prompt if model.knows(c)) for prompt in PROMPTS]
    for kind in FORMATS:
        file = out / f"{model.folder.name}-{kind}.gguf"
        cut = ["--context", model.context] if model.band and model.band < model.config["n_positions"] else []
        run(model.gptkit, "export", "--model", model.folder, "--format", "gguf", "--quantize", kind, "--out", file, *cut)
        samples = [model.sample(file, prompt, min(NEW_TOKENS, model.context - 16)) for prompt in prompts]
        chat_tokens = max(8, model.context // 2)
        questions = ["".join(c for c in question if model.knows(c)) for question in QUESTIONS] if model.chats else []
        task = {
            "file": str(file), "context": model.context, "lines": model.lines, "sequence": model.sequence, "ends": model.ends,
            "prompts": [(one["prompt_tokens"], min(NEW_TOKENS, model.context - 16)) for one in samples],
            "questions": questions, "chat_tokens": chat_tokens, "windows": model.windows,
            "positions": -(-model.context // 256) * 256,
        }
        environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(library),
                       "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}

        def worker_with(task, **more):
            return subprocess.run([sys.executable, __file__, "--worker"], input=json.dumps(task).encode(), capture_output=True,
                                  env={**environment, **more})

        done = worker_with(task)
        if done.returncode != 0:
            report.line(False, kind, f"llama.cpp ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
            continue
        found = json.loads(done.stdout)
        wrong = [(line, ours, theirs) for line, ours, theirs in zip(model.lines, model.ids, found["tokens"]) if ours != theirs]
        report.line(not wrong, f"{kind} tokens", f"{len(model.lines) - len(wrong)} of {len(model.lines)} lines" +
                    (f"; {wrong[0]}" if wrong else ""))
        if kind == "f32":
            logits = model.logits(model.torch, model.sequence)
            precise = json.loads(worker_with({**task, "only_logits": True}, LD_LIBRARY_PATH=str(exact)).stdout)
            far, usual = np.abs(np.array(precise) - logits).max(), np.abs(np.array(found["logits"]) - logits)
            report.line(far <= 1e-3, f"{kind} logits", f"{len(model.sequence)} positions: at most {far:.1e} from transformers; with "
                        f"llama.cpp's GELU of f16 values {usual.max():.1e} at most, {usual.mean():.1e} on average")
        same = [one["tokens"] == theirs for one, theirs in zip(samples, found["greedy"])]
        told = f"{sum(same)} of {len(same)} prompts have the same {sum(len(one['tokens']) for one in samples)} tokens"
        if kind in ("f32", "f16"):
            report.line(all(same), f"{kind} greedy", told)
        else:
            report.note(f"{kind} greedy", told)
        answers = [model.chat(file, question, chat_tokens) for question in questions]
        alike = [ours == theirs.strip() for ours, theirs in zip(answers, found["chat"])]
        if alike:
            differing = [(a, b) for a, b in zip(answers, found["chat"]) if a != b.strip()]
            text = f"{sum(alike)} of {len(alike)} answers are the same" + (f"; {differing[0]}" if differing else f", such as {answers[0]!r}")
            if kind in ("f32", "f16"):
                report.line(all(alike), f"{kind} chat", text)
            else:
                report.note(f"{kind} chat", text)
        perplexity = math.exp(found["nll"] / sum(len(window) - 1 for window in model.windows))
        base = base or perplexity
        off = perplexity / base - 1
        most = {"f32": 0, "f16": 0.005, "q8_0": 0.005, "q4_k_m": 0.05}[kind]
        report.line(abs(off) <= most, f"{kind} perpl.", f"{perplexity:.4f}, {100 * off:+.2f}% from f32")
        report.line(found["last"] == task["positions"], f"{kind} last", f"{found['last']} positions were read without an abort")
    check_reader(model, out / f"{model.folder.name}-f32.gguf", out, report)


def check_reader(model, file, out, report):
    import numpy as np
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model.folder)
    config.n_positions = -(-model.context // 256) * 256
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, config=config, dtype=torch.float32).eval()
    far = np.abs(model.logits(read, model.sequence) - model.logits(model.torch, model.sequence)).max()
    report.line(far <= 1e-5, "reader", f"transformers' logits of the f32 file differ by {far:.1e}")
    imported = out / f"{model.folder.name}-imported"
    run(model.gptkit, "import", file, "--out", imported)
    ours, theirs = load_file(model.folder / "model.safetensors"), load_file(imported / "model.safetensors")
    equal = [name for name, tensor in theirs.items() if ours[name][:len(tensor)].equal(tensor)]
    report.line(len(equal) == len(theirs) == len(ours), "import", f"{len(equal)} of {len(ours)} tensors are the same")
    report.line([model.encode(line) for line in model.lines[:5]] == model.ids[:5] and all(
        run(model.gptkit, "tokenizer", "encode", "--tokenizer", folder, stdin=model.lines[0]) ==
        run(model.gptkit, "tokenizer", "encode", "--tokenizer", model.folder, stdin=model.lines[0])
        for folder in [file, imported]), "import", "the tokenizer gives the same ids")


def main():
    if sys.argv[1:] == ["--worker"]:
        return worker(json.load(sys.stdin))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path, metavar="MODEL_DIR")
    parser.add_argument("--llama", required=True, type=pathlib.Path, metavar="DIR", help="folder with llama.cpp's library")
    parser.add_argument("--gptkit", default="gptkit", metavar="PATH", help="the binary")
    parser.add_argument("--data", type=pathlib.Path, metavar="FILE", help="text for the perplexity; stories when left out")
    options = parser.parse_args()
    package, library, exact = build(options.llama.absolute())
    data = options.data.read_text() if options.data else run(options.gptkit, "world", "--seed", "977", "--count", "300")
    report = Report()
    with tempfile.TemporaryDirectory() as out:
        for folder in options.models:
            print(folder, flush=True)
            check_model(Model(folder, options.gptkit, data), package, library, exact, pathlib.Path(out), report)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
