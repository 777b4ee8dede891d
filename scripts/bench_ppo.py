#!/usr/bin/env python3
"""Seconds of one PPO iteration in PyTorch with transformers' GPT-2, and of gptkit's beside it.

    python3 scripts/bench_ppo.py --dtype bf16 [--gptkit target/release/gptkit]

Four networks of GPT-2's size: policy, frozen reference, value network, reward model. An iteration is
  rollout    a batch of prompts → answers of one length by `generate` with its cache, temperature 1, no filter
  scoring    log-probabilities of policy and reference, values, rewards; −β KL at every token, GAE, whitening
  optimize   clipped policy and value losses, norms clipped, AdamW for both networks, epochs × minibatches times
The rival is as good as its users make it: logits at answers alone (`logits_to_keep`), fused AdamW, no dropout, no
padding, no graph where nothing is learned. Weights are drawn, unless --model names a folder. gptkit's scoring includes
the forward passes of its first update, which are not run again in its optimization.

--dtype: f32; bf16 has all weights and AdamW's moments in bfloat16 (`.to`); mixed keeps the two networks that learn in
float32 under `autocast`, with the frozen two, and a copy of the policy that writes, in bfloat16. Prints a JSON line
for each iteration after the first, and one of the medians. Nothing else should run meanwhile.

The figures on record were made with torch 2.11.0 and transformers 5.24.0.
"""
import argparse
import copy
import json
import statistics
import subprocess
import time

import figures
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

KL_COEF, GAMMA, LAMBDA, CLIP, VALUE_COEF = 0.05, 1.0, 0.95, 0.2, 0.1


class Scalar(nn.Module):
    """A language model's body with one number at every token: `[B, T]` ids → `[B, T]`."""

    def __init__(self, body):
        super().__init__()
        self.body, self.head = body, nn.Linear(body.config.n_embd, 1)

    def forward(self, ids):
        return self.head(self.body(ids, use_cache=False).last_hidden_state).squeeze(-1)


def whitened(x):
    return (x - x.mean()) * torch.rsqrt(x.var() + 1e-8)


def advantages_of(rewards, values):
    """GAE, `[B, R]` each; nothing follows the last token."""
    following, total, found = torch.zeros_like(values[:, 0]), 0.0, []
    for t in reversed(range(rewards.shape[1])):
        total = rewards[:, t] + GAMMA * following - values[:, t] + GAMMA * LAMBDA * total
        following = values[:, t]
        found.append(total)
    return torch.stack(found[::-1], 1)


class Ppo:
    def __init__(self, o):
        self.o = o
        weights = torch.bfloat16 if o.dtype == "bf16" else torch.float32
        frozen = torch.float32 if o.dtype == "f32" else torch.bfloat16
        torch.manual_seed(o.seed)
        of_folder = {"attn_implementation": "sdpa", "dtype": torch.float32}

        def network(kind):
            made = kind.from_pretrained(o.model, **of_folder) if o.model else kind(GPT2Config())
            return made.eval()  # no dropout

        self.policy = network(GPT2LMHeadModel).to(weights)
        self.policy.generation_config.eos_token_id = None  # every answer has all its tokens
        self.reference = copy.deepcopy(self.policy).to(frozen).requires_grad_(False)
        self.value = Scalar(network(GPT2Model)).to(weights)
        self.reward = Scalar(network(GPT2Model)).to(frozen).requires_grad_(False)
        self.writer = copy.deepcopy(self.policy).to(frozen) if o.dtype == "mixed" else self.policy
        self.learning = [self.policy, self.value]
        self.optimizers = [torch.optim.AdamW(net.parameters(), lr=1e-6, eps=1e-5, weight_decay=0.0, fused=True)
                           for net in self.learning]
        self.forward_policy, self.forward_value = self.policy, self.value
        if o.compile:
            self.forward_policy, self.forward_value = torch.compile(self.policy), torch.compile(self.value)
        self.vocab = self.policy.config.vocab_size

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.o.dtype == "mixed")

    def log_probs(self, model, ids):
        """Of the answers' tokens, `[B, R]` in f32."""
        n = self.o.answer
        logits = model(ids, logits_to_keep=n + 1, use_cache=False).logits[:, :-1]
        return -F.cross_entropy(logits.float().flatten(0, 1), ids[:, -n:].flatten(), reduction="none").view(-1, n)

    def values(self, model, ids):
        """Before each token of the answers, `[B, R]` in f32."""
        return model(ids)[:, -self.o.answer - 1:-1].float()

    @torch.inference_mode()
    def rollout(self, prompts):
        if self.writer is not self.policy:
            for to, of in zip(self.writer.parameters(), self.policy.parameters()):
                to.copy_(of)
        ids = self.writer.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=self.o.answer,
                                   do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0)
        assert ids.shape[1] == self.o.prompt + self.o.answer, ids.shape
        return ids

    @torch.no_grad()
    def score(self, ids):
        with self.autocast():
            old, values = self.log_probs(self.forward_policy, ids), self.values(self.forward_value, ids)
        rewards = -KL_COEF * (old - self.log_probs(self.reference, ids))
        rewards[:, -1] += self.reward(ids)[:, -1].float()
        advantages = advantages_of(rewards, values)
        return old, values, whitened(advantages), advantages + values

    def optimize(self, ids, old, values, advantages, returns):
        for _ in range(self.o.epochs):
            for rows in torch.randperm(len(ids)).chunk(self.o.minibatches):
                batch = ids[rows]
                with self.autocast():
                    log_probs, v = self.log_probs(self.forward_policy, batch), self.values(self.forward_value, batch)
                ratio, a, r = (log_probs - old[rows]).exp(), advantages[rows], returns[rows]
                policy = torch.max(-a * ratio, -a * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                near = values[rows] + (v - values[rows]).clamp(-CLIP, CLIP)
                value = 0.5 * torch.max((v - r) ** 2, (near - r) ** 2).mean()
                (policy + VALUE_COEF * value).backward()
                for net, optimizer in zip(self.learning, self.optimizers):
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

    def iteration(self):
        """Seconds of each part."""
        prompts = torch.randint(0, self.vocab, (self.o.batch, self.o.prompt))
        at = [time.perf_counter()]
        ids = self.rollout(prompts).clone()
        at.append(time.perf_counter())
        scored = self.score(ids)
        at.append(time.perf_counter())
        self.optimize(ids, *scored)
        at.append(time.perf_counter())
        parts = dict(zip(("rollout_s", "scoring_s", "optimize_s"), (b - a for a, b in zip(at, at[1:]))))
        return parts | {"total_s": at[-1] - at[0]}


def rounded(seconds):
    return {name: round(value, 3) for name, value in seconds.items()}


def ours(o):
    """gptkit's seconds of an iteration and its parts, in the middle of five."""
    command = [o.gptkit, "bench", "--config", "gpt2-small", "--case", "ppo", "--batch", str(o.batch), "--json",
               "--dtype", "f32" if o.dtype == "f32" else "bf16"]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    names = {"ppo_rollout": "rollout_s", "ppo_scoring": "scoring_s", "ppo_optimization": "optimize_s",
             "ppo_iteration": "total_s"}
    return {names[line["case"]]: line["ms"] / 1e3 for line in map(json.loads, lines) if line["case"] in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", help="a GPT-2 folder; without it, GPT-2 124M with drawn weights")
    parser.add_argument("--dtype", choices=["f32", "bf16", "mixed"], default="bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the two networks that learn")
    parser.add_argument("--batch", type=int, default=16, help="episodes of an iteration")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=48, help="tokens of an answer")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--minibatches", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gptkit", metavar="BINARY", help="measure this one too, and give the ratio")
    parser.add_argument("--write", action="store_true", help="put the figure into docs/figures.json; needs --gptkit")
    o = parser.parse_args()
    if o.write:
        if not o.gptkit:
            parser.error("--write needs --gptkit")
        figures.must_be_idle()
    torch.set_num_threads(o.threads)
    transformers.utils.logging.set_verbosity_error()
    ppo, all_seconds = Ppo(o), []
    what = {"what": "transformers", "torch": torch.__version__, "transformers": transformers.__version__,
            "dtype": o.dtype, "compile": o.compile, "batch": o.batch, "epochs": o.epochs, "minibatches": o.minibatches}
    for number in range(o.iterations + 1):
        seconds = ppo.iteration()
        if number > 0:
            all_seconds.append(seconds)
            print(json.dumps({"iteration": number, **rounded(seconds)}), flush=True)
    medians = {name: statistics.median(one[name] for one in all_seconds) for name in all_seconds[0]}
    print(json.dumps({**what, **rounded(medians)}), flush=True)
    if o.gptkit:
        own = ours(o)
        ratios = {name: round(medians[name] / own[name], 2) for name in own}
        print(json.dumps({"what": "gptkit", **rounded(own), "times_as_fast": ratios}))
        if o.write:
            task = f"PPO iteration of GPT-2 124M, {o.batch} episodes of {o.prompt} + {o.answer} tokens, {o.dtype}"
            figures.record(o.gptkit, __file__, f"ppo-{o.dtype}", task, "s", own["total_s"], medians["total_s"],
                           "transformers, compiled" if o.compile else "transformers", ["torch", "transformers"])


if __name__ == "__main__":
    main()
