#!/usr/bin/env python3
"""Speed of gptkit beside PyTorch's and transformers', by turns on one machine, as ratios.

    python3 scripts/bench.py [--gptkit target/release/gptkit] [--rounds 3] [--write] [--device cpu] [CASE ...]

Each round measures gptkit and then its rival; the ratio is that of the medians over the rounds, so that a machine that
is slow for a minute is so for both. With --device cuda, both run on the GPU, on batches that fill it, and the memory is
the GPU's. Without torch (or transformers, for generation) the rival is left out, with a message.
Nothing else should run meanwhile. --write puts the figures, with the fastest rival, into docs/figures.json.
"""
import argparse, contextlib, importlib.util, json, statistics, subprocess, sys, threading, time

import figures

# vocabulary, context, width, layers, heads; and as gptkit's settings
SHAPES = {
    "gpt2-small": (50257, 1024, 768, 12, 12),
    "shakespeare-char": (65, 256, 384, 6, 6),
    "tiny": (1024, 128, 192, 4, 4),
}
# name → kind, shape, batch, tokens of a window, dtype of gptkit; rivals' (dtype, compiled), of which the fastest counts
CASES = {
    "124m-train-bf16": ("train", "gpt2-small", 4, 1024, "bf16", [("bf16", True)]),
    "124m-train-f32": ("train", "gpt2-small", 4, 1024, "f32", [("f32", False)]),
    "char-train-bf16": ("train", "shakespeare-char", 12, 256, "bf16", [("bf16", True)]),
    "tiny-train": ("train", "tiny", 16, 128, "auto", [("f32", False), ("f32", True), ("bf16", False), ("bf16", True)]),
    "124m-decode-1": ("decode", "gpt2-small", 1, 1024, "bf16", [("f32", False), ("bf16", False)]),
    "124m-decode-16": ("decode", "gpt2-small", 16, 1024, "bf16", [("bf16", False)]),
}
# the same on a GPU
GPU_CASES = {
    "124m-train-bf16": ("train", "gpt2-small", 16, 1024, "bf16", [("bf16", True), ("bf16", False)]),
    "124m-train-f32": ("train", "gpt2-small", 8, 1024, "f32", [("f32", False)]),
    "char-train-bf16": ("train", "shakespeare-char", 64, 256, "bf16", [("bf16", True)]),
    "124m-decode-1": ("decode", "gpt2-small", 1, 1024, "bf16", [("bf16", False)]),
    "124m-decode-64": ("decode", "gpt2-small", 64, 1024, "bf16", [("bf16", False)]),
}
# what the README's table calls them
TASKS = {
    "124m-train-bf16": "GPT-2 124M, training on 4 × 1,024, bf16",
    "124m-train-f32": "GPT-2 124M, training on 4 × 1,024, f32",
    "char-train-bf16": "10 M parameters, training on 12 × 256, bf16",
    "tiny-train": "2 M parameters, training on 16 × 128",
    "124m-decode-1": "GPT-2 124M, generation, 1 sequence, bf16",
    "124m-decode-16": "GPT-2 124M, generation, 16 sequences, bf16",
}


class GpuMemory:
    """The most memory that was in use on the GPU, which must serve nobody else, while this was entered."""

    def __enter__(self):
        self.peak, self.is_over = 0, threading.Event()
        self.watch = threading.Thread(target=self.look)
        self.watch.start()
        return self

    def look(self):
        ask = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self.is_over.wait(0.2):
            self.peak = max(self.peak, int(subprocess.run(ask, capture_output=True, text=True).stdout) << 20)

    def __exit__(self, *_):
        self.is_over.set()
        self.watch.join()


def ours(gptkit, kind, shape, batch, seq, dtype, device):
    """gptkit's tokens a second and peak memory."""
    vocab, context, width, layers, heads = SHAPES[shape]
    sizes = {"vocab_size": vocab, "context": context, "d_model": width, "n_layer": layers, "n_head": heads}
    command = [gptkit, "bench", "--config", "gpt2-small", "--json", "--batch", str(batch), "--seq", str(seq)]
    command += ["--dtype", dtype, "--device", device, "--case", "train_step" if kind == "train" else "decode"]
    for key, value in sizes.items():
        command += ["--set", f"model.{key}={value}"]
    if device == "cuda":
        command += ["--set", f"train.micro_batch={batch}"]
    run = lambda: json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    if device == "cuda":
        with GpuMemory() as memory:
            rate = run()["tokens_per_s"]
        return rate, memory.peak
    line = run()
    return line["tokens_per_s"], line["peak_bytes"]


def train_rival(shape, batch, seq, dtype, compiled, device):
    """PyTorch's, the same work: forward, loss over the vocabulary, backward, clip to 1, fused AdamW."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(0)
    vocab, context, width, layers, heads = SHAPES[shape]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
            self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            rows, tokens, _ = x.shape
            parts = self.project(self.norms[0](x)).chunk(3, dim=2)
            q, k, v = (part.view(rows, tokens, heads, -1).transpose(1, 2) for part in parts)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
            x = x + self.merge(mixed.reshape(rows, tokens, width))
            return x + self.narrow(F.gelu(self.widen(self.norms[1](x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
            self.blocks, self.norm = nn.ModuleList(Block() for _ in range(layers)), nn.LayerNorm(width)
            for weights in self.parameters():
                if weights.dim() > 1:
                    nn.init.normal_(weights, std=0.02)

        def forward(self, ids, targets):
            x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            scores = F.linear(self.norm(x), self.tokens.weight)
            return F.cross_entropy(scores.flatten(0, 1).float(), targets.flatten())

    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model
    ids = torch.randint(0, vocab, (batch, seq + 1), device=device)
    seconds = []
    for _ in range(7 if device == "cpu" else 25):
        begun = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            loss = run(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return batch * seq / statistics.median(seconds[2 if device == "cpu" else 10:])


def decode_rival(shape, batch, dtype, device):
    """transformers' generate, greedy, 128 tokens after a prompt of 32, less the time that the prompt takes."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    vocab, context, width, layers, heads = SHAPES[shape]
    config = GPT2Config(vocab_size=vocab, n_positions=context, n_embd=width, n_layer=layers, n_head=heads)
    model = GPT2LMHeadModel(config).eval().to(device, torch.bfloat16 if dtype == "bf16" else torch.float32)
    ids = torch.randint(0, vocab, (batch, 32), device=device)

    def seconds(new):
        begun = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new,
                           do_sample=False, pad_token_id=0)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    seconds(8)
    return batch * 127 / statistics.median(seconds(128) - seconds(1) for _ in range(3))


def peak_bytes():
    """The most memory that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rival(kind, shape, batch, seq, dtype, compiled, device):
    """Tokens a second and peak memory, measured in a process of its own."""
    arguments = [kind, shape, batch, seq, dtype, int(compiled), device]
    command = [sys.executable, __file__, "--rival", *map(str, arguments)]
    with GpuMemory() if device == "cuda" else contextlib.nullcontext() as memory:
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        return None, run.stderr.strip().splitlines()[-1]
    rate, peak = json.loads(run.stdout.splitlines()[-1])
    return rate, memory.peak if memory else peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--gptkit", default="target/release/gptkit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the figures into docs/figures.json")
    parser.add_argument("--rival", nargs=7, help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if options.rival:
        kind, shape, batch, seq, dtype, compiled, device = options.rival
        rate = (train_rival(shape, int(batch), int(seq), dtype, compiled == "1", device) if kind == "train"
                else decode_rival(shape, int(batch), dtype, device))
        return print(json.dumps([rate, peak_bytes()]))
    cases = GPU_CASES if options.device == "cuda" else CASES
    if unknown := set(options.cases) - set(cases):
        sys.exit(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(cases)}")
    if options.write and options.device != "cpu":
        sys.exit("docs/figures.json holds figures of processors")
    if options.write:
        figures.must_be_idle()
    print(f"{'case':18}{'gptkit':>10}{'GB':>7}   {'rival':22}{'tokens/s':>10}{'GB':>7}{'ratio':>8}")
    for name in options.cases or cases:
        kind, shape, batch, seq, dtype, rivals = cases[name]
        needed = "torch" if kind == "train" else "transformers"
        there = importlib.util.find_spec(needed) is not None
        rates, theirs = [], {setting: [] for setting in rivals}
        for _ in range(options.rounds):
            rates.append(ours(options.gptkit, kind, shape, batch, seq, dtype, options.device))
            for setting in rivals if there else []:
                theirs[setting].append(rival(kind, shape, batch, seq, *setting, options.device))
        rate = statistics.median(rate for rate, _ in rates)
        begin = f"{name:18}{rate:10.1f}{max(peak for _, peak in rates) / 1e9:7.2f}   "
        if not there:
            print(f"{begin}{needed} is not installed")
            continue
        best = None
        for setting, measured in theirs.items():
            label = f"{needed} {setting[0]}{', compiled' if setting[1] else ''}"
            if failed := [why for rate, why in measured if rate is None]:
                print(f"{begin}{label:22}  failed: {failed[0]}")
                continue
            other = statistics.median(rate for rate, _ in measured)
            memory = max(peak for _, peak in measured) / 1e9
            best = max(best or (0,), (other, memory, label))
            print(f"{begin}{label:22}{other:10.1f}{memory:7.2f}{rate / other:8.2f}", flush=True)
        if options.write and best:
            other, memory, label = best
            figures.record(options.gptkit, __file__, name, TASKS[name], "tokens/s", rate, other, label.replace("torch", "PyTorch"),
                           ["torch", "transformers"], max(peak for _, peak in rates) / 1e9, memory)


if __name__ == "__main__":
    main()
