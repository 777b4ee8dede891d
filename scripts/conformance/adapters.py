#!/usr/bin/env python3
"""Make adapters with PEFT, and write what PEFT computes with them, for tests/conformance/adapters.rs.

    python scripts/conformance/adapters.py tests/golden/conformance

Writes adapters.json and a folder for each adapter beside those of their base models. A row either has the tokens and the
log-probabilities that PEFT gives, or a part of the message with which gptkit refuses the adapter after its
adapter_config.json was changed.

Written against Python 3.11, torch 2.11.0, transformers 5.24.0, tokenizers 0.23.3 and peft 0.21.2.
"""
import copy
import json
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny
import peft
import safetensors.torch
import tokenizers
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

BLOCK = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
REGEX = r".*\.h\.1\.(attn|mlp)\.c_proj"

# Name → the arguments of LoraConfig.
KINDS = {
    "plain": dict(target_modules=BLOCK),
    "default-targets": dict(),
    "suffix-targets": dict(target_modules=["c_attn", "c_proj"]),
    "full-names": dict(target_modules=["transformer.h.0.attn.c_attn", "h.1.mlp.c_fc"]),
    "regex-targets": dict(target_modules=REGEX),
    "regex-lookahead": dict(target_modules=r"^(?!.*\.mlp\.).*\.c_proj$"),
    "regex-named-group": dict(target_modules=r"transformer\.h\.(?P<layer>\d+)\.attn\.c_attn"),
    "all-linear": dict(target_modules="all-linear"),
    "exclude-names": dict(target_modules=["c_attn", "c_proj"], exclude_modules=["mlp.c_proj"]),
    "exclude-regex": dict(target_modules=["c_attn", "c_fc"], exclude_modules=r".*\.h\.0\..*"),
    "rslora": dict(target_modules=BLOCK, use_rslora=True),
    "alpha-pattern": dict(target_modules=BLOCK, alpha_pattern={"attn.c_attn": 32}),
    "rank-pattern": dict(target_modules=BLOCK, rank_pattern={r"h\.0\..*c_fc": 3, "c_proj": 1}),
    "first-pattern-wins": dict(target_modules=["c_proj"], alpha_pattern={"mlp.c_proj": 2, "c_proj": 20}),
    "rslora-with-patterns": dict(
        target_modules=BLOCK, use_rslora=True, rank_pattern={"c_attn": 4}, alpha_pattern={r"1\.mlp\.c_fc": 3}),
    "one-layer": dict(target_modules=BLOCK, layers_to_transform=[0], layers_pattern="h"),
    "one-layer-number": dict(target_modules=BLOCK, layers_to_transform=1),
    "layers-pattern-list": dict(target_modules=["c_fc"], layers_to_transform=[1], layers_pattern=["layers", "h"]),
    "dropout-and-gaussian": dict(target_modules=BLOCK, lora_dropout=0.5, init_lora_weights="gaussian"),
    "save-positions-and-norm": dict(target_modules=BLOCK, modules_to_save=["wpe", "ln_f"]),
    "save-tokens": dict(target_modules=BLOCK, modules_to_save=["wte"]),
    "save-output": dict(target_modules=BLOCK, modules_to_save=["lm_head"]),
    "save-tokens-and-output": dict(target_modules=BLOCK, modules_to_save=["wte", "lm_head"]),
    "save-mlp-of-a-layer": dict(target_modules=["c_attn", "c_fc"], modules_to_save=["h.0.mlp"]),
    "save-norms-of-all-layers": dict(target_modules=["c_attn"], modules_to_save=["ln_1", "ln_2"]),
    "bias-all": dict(target_modules=["c_attn"], bias="all"),
    "bias-lora-only": dict(target_modules=["c_attn", "c_fc"], bias="lora_only"),
    "lora-bias": dict(target_modules=BLOCK, lora_bias=True),
    "dora": dict(target_modules=BLOCK, use_dora=True),
    "tokens-list": dict(target_modules=["c_attn"], trainable_token_indices=[84, 5, 114]),
    "tokens-of-table": dict(target_modules=["c_attn"], trainable_token_indices={"wte": [70, 84]}),
    "tokens-of-both-tables": dict(target_modules=["c_attn"], trainable_token_indices={"wte": [70, 84], "lm_head": [70, 84]}),
    "rows-of-positions": dict(target_modules=["c_attn"], trainable_token_indices={"wpe": [0, 3, 12]}),
    "adapted-tokens": dict(target_modules=["c_attn", "wte"]),
    "adapted-positions": dict(target_modules=["c_attn", "wpe"]),
    "adapted-output": dict(target_modules=["c_attn", "lm_head"]),
    "dora-of-output": dict(target_modules=["c_attn", "lm_head"], use_dora=True),
}
# The same for other bases.
GPT1 = {
    "gpt1-suffix": dict(target_modules=["c_attn", "c_fc"]),
    "gpt1-save-tokens": dict(target_modules=["c_proj"], modules_to_save=["tokens_embed"]),
}
UNTIED = {
    "untied-plain": dict(target_modules=BLOCK),
    "untied-tokens": dict(target_modules=["c_attn"], trainable_token_indices={"wte": [70, 84]}),
    "untied-tokens-of-output": dict(target_modules=["c_attn"], trainable_token_indices={"wte": [70], "lm_head": [84, 100]}),
    "untied-adapted-output": dict(target_modules=["lm_head"]),
}
# Changes of an adapter's description, and what the message says.
REFUSED = [
    ("peft-type", "plain", {"peft_type": "LOHA"}, "peft_type is LOHA; only LORA is supported"),
    ("adalora", "plain", {"peft_type": "ADALORA"}, "peft_type is ADALORA"),
    ("classifier", "plain", {"task_type": "SEQ_CLS"}, "task_type is \"SEQ_CLS\""),
    ("pissa", "plain", {"init_lora_weights": "pissa"}, "init_lora_weights is \"pissa\""),
    ("olora", "plain", {"init_lora_weights": "olora"}, "init_lora_weights is \"olora\""),
    ("loftq", "plain", {"init_lora_weights": "loftq"}, "init_lora_weights is \"loftq\""),
    ("qalora", "plain", {"use_qalora": True}, "use_qalora is true, which is not supported"),
    ("bdlora", "plain", {"use_bdlora": {"nblocks": 2}}, "use_bdlora is {\"nblocks\":2}, which is not supported"),
    ("arrow", "plain", {"arrow_config": {"top_k": 2}}, "arrow_config is {\"top_k\":2}, which is not supported"),
    ("alora", "plain", {"alora_invocation_tokens": [3]}, "alora_invocation_tokens is [3], which is not supported"),
    ("kasa", "plain", {"kasa_config": {"beta": 1}}, "kasa_config is {\"beta\":1}, which is not supported"),
    ("replication", "plain", {"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is [[0,2],[1,2]], which"),
    ("parameters", "plain", {"target_parameters": ["wte.weight"]}, "target_parameters is [\"wte.weight\"], which"),
    ("megatron", "plain", {"megatron_config": {"a": 1}}, "megatron_config is {\"a\":1}, which is not supported"),
    ("later-key", "plain", {"use_mora": True}, "use_mora is true, which is not supported"),
    ("tied-adapters", "adapted-output", {"ensure_weight_tying": True}, "ensure_weight_tying is not supported with adapters of lm_head"),
    ("dora-of-embedding", "adapted-positions", {"use_dora": True, "target_modules": ["wpe"]},
     "use_dora is not supported for transformer.wpe"),
    ("bias-of-output", "adapted-output", {"lora_bias": True, "target_modules": ["lm_head"]},
     "lora_bias is not supported for lm_head"),
    ("layer-norm", "plain", {"target_modules": ["ln_1"]}, "transformer.h.0.ln_1, a type of layer that cannot have adapters"),
    ("no-module", "plain", {"target_modules": ["q_proj"]}, "target_modules matches no module"),
    ("no-expression", "plain", {"target_modules": "(c_attn"}, "\"(c_attn\" is not a valid regular expression"),
    ("expression-with-layers", "plain", {"target_modules": ".*c_attn", "layers_to_transform": [0]},
     "layers_to_transform and layers_pattern require target_modules to be a list"),
    ("other-rank", "plain", {"r": 3}, "adapter_config.json and the base model require [3, 8]"),
    ("fewer-targets", "plain", {"target_modules": ["c_attn"]}, "nor the base model: base_model.model.transformer.h.0."),
    ("fewer-layers", "plain", {"layers_to_transform": [1]}, "nor the base model: base_model.model.transformer.h.0."),
    ("unsaved", "plain", {"modules_to_save": ["ln_f"]}, "modules_to_save contains transformer.ln_f, but"),
    ("no-base", "plain", {"base_model_name_or_path": "somebody/absent"}, "names the base model \"somebody/absent\""),
    ("empty-base", "plain", {"base_model_name_or_path": None}, "names no base model"),
]


def describe(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=1) + "\n")


def trained(model, seed):
    """Gives everything that is trained random values."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tiny.randomize(named, seed)
    with torch.no_grad():
        for name, parameter in named:
            if "magnitude" in name:
                parameter.abs_()


def make(out, base, name, kind, seed):
    """Writes the adapter `name` to a folder in `out`; gives back what PEFT computes once it has read it again."""
    config = LoraConfig(**{"r": 2, "lora_alpha": 6, "task_type": "CAUSAL_LM", **kind})
    model = get_peft_model(copy.deepcopy(base), config)
    trained(model, seed)
    folder = out / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    described = json.loads((folder / "adapter_config.json").read_text())
    # PEFT writes sets in any order.
    describe(folder, **{key: sorted(names) for key, names in described.items() if key.endswith("_modules") and isinstance(names, list)})
    return read(folder, base)


def read(folder, base):
    return PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()


def row(name, model, ids, **more):
    tokens, log_probs = tiny.greedy(model, ids)
    return {"name": name, "prompt": tiny.PROMPT, "tokens": tokens, "log_probs": log_probs, **more}


def special_rows(out, base, ids):
    """Adapters that something was done to."""
    # A vocabulary that was enlarged: PEFT saves both tables.
    larger = copy.deepcopy(base)
    larger.resize_token_embeddings(260, mean_resizing=False)
    tiny.randomize([("wte", larger.transformer.wte.weight)], 7)
    larger.config.name_or_path = larger.name_or_path = str(out / "base")
    yield row("larger-vocabulary", make(out, larger, "larger-vocabulary", dict(target_modules=BLOCK), 50), ids)
    describe(out / "larger-vocabulary", base_model_name_or_path="../base")
    tiny.tokenizer(out / "larger-vocabulary", ["<|a|>", "<|b|>", "<|c|>"])
    # Names of the base that stand for a folder beside the adapter.
    for name, base_name in [("base-beside", "base"), ("hub-name", "somebody/base")]:
        shutil.copytree(out / "plain", out / name)
        describe(out / name, base_model_name_or_path=base_name)
        yield row(name, read(out / name, base), ids)
    # Tensors of one layer alone: PEFT leaves the other layer as it is.
    shutil.copytree(out / "plain", out / "absent-layer")
    path = out / "absent-layer" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({n: t for n, t in tensors.items() if ".h.1." in n}, path, {"format": "pt"})
    yield row("absent-layer", read(out / "absent-layer", base), ids)
    # Half precision.
    for name, dtype in [("half", torch.float16), ("bfloat16", torch.bfloat16)]:
        shutil.copytree(out / "rslora", out / name)
        path = out / name / "adapter_model.safetensors"
        halved = {n: t.to(dtype) for n, t in safetensors.torch.load_file(path).items()}
        safetensors.torch.save_file(halved, path, {"format": "pt"})
        yield row(name, read(out / name, base), ids)


def damaged_rows(out):
    """Files with a tensor too many or too few."""
    for name, change, message in [
        ("tensor-left-over", lambda t: t.update({"base_model.model.transformer.h.0.attn.c_attn.lora_C.weight": torch.ones(2)}),
         "nor the base model: base_model.model.transformer.h.0.attn.c_attn.lora_C.weight"),
        ("b-missing", lambda t: t.pop("base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"),
         "lacks base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"),
        ("nothing-there", lambda t: t.clear(), "contains no adapters for transformer.h.0.attn.c_attn"),
    ]:
        shutil.copytree(out / "default-targets", out / name)
        path = out / name / "adapter_model.safetensors"
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path, {"format": "pt"})
        yield {"name": name, "refused": message}
    shutil.copytree(out / "default-targets", out / "pickle")
    (out / "pickle" / "adapter_model.safetensors").unlink()
    (out / "pickle" / "adapter_model.bin").write_bytes(b"")
    yield {"name": "pickle", "refused": "adapter_model.bin is a pickle"}


def made(out):
    """Makes all bases and adapters in the folder `out`, and gives back the rows."""
    out = pathlib.Path(out)
    shutil.rmtree(out, ignore_errors=True)
    ids = tiny.tokenizer(out / "base").encode(tiny.PROMPT).ids
    bases = {
        "base": (tiny.gpt2(seed=1), KINDS),
        "gpt1": (tiny.gpt1(seed=2), GPT1),
        "untied": (tiny.gpt2(seed=3, tie_word_embeddings=False), UNTIED),
    }
    rows = []
    for base_name, (base, kinds) in bases.items():
        base.save_pretrained(out / base_name)
        tiny.tokenizer(out / base_name)
        base = type(base).from_pretrained(out / base_name).eval()
        for seed, (name, kind) in enumerate(kinds.items()):
            rows.append(row(name, make(out, base, name, kind, seed), ids, base=base_name))
            describe(out / name, base_model_name_or_path=f"../{base_name}")
        if base_name == "base":
            rows += special_rows(out, base, ids)
    for name, of, changes, message in REFUSED:
        rows.append({"name": name, "of": of, "set": changes, "refused": message})
    rows += damaged_rows(out)
    return rows


if __name__ == "__main__":
    tiny.write_rows("adapters", made, (torch, transformers, tokenizers, peft))
