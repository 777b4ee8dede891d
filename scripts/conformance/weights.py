#!/usr/bin/env python3
"""Make model folders as other people have them, and write what transformers computes with them, for
tests/conformance/weights.rs.

    python scripts/conformance/weights.py tests/golden/conformance

Writes weights.json and a folder for each model; its tokenizer is that of the folder `tokenizer`. A row `of` another folder is
that one with keys of its config.json set, or removed where they are null. A row either has the tokens
and the log-probabilities that transformers gives, or a part of the message with which gptkit refuses the model. Where
transformers itself does not read a folder (names with a prefix, matrices of torch.nn.Linear), the row has what it computes
with the same weights in its own form.

Written against Python 3.11, torch 2.11.0, transformers 5.24.0, tokenizers 0.23.3 and safetensors 0.8.0.
"""
import json
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny
import safetensors.torch
import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM

LINEAR = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def write(folder, model, tensors, **config):
    """A folder with the configuration of `model`, changed, and with `tensors`."""
    folder.mkdir(parents=True)
    described = {**json.loads(model.config.to_json_string()), **config}
    described = {key: value for key, value in described.items() if key not in config or value is not None}
    (folder / "config.json").write_text(json.dumps(described, indent=1) + "\n")
    safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def tied(model):
    """The weights of `model` without its output layer's."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def both(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def other_output(model):
    """The weights of `model` with an output layer of its own."""
    tensors = both(model)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].flip(0) * 1.5
    return tensors


def turned(tensors):
    return {name: tensor.t() if name.endswith(LINEAR) else tensor for name, tensor in tensors.items()}


def wrapped(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_biases(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".bias")}


def with_masks(tensors):
    """The buffers that earlier versions of transformers saved."""
    mask = torch.ones(24, 24, dtype=torch.bool).tril().view(1, 1, 24, 24)
    masks = {f"transformer.h.{i}.attn.bias": mask.clone() for i in range(2)}
    return {**tensors, **masks, **{f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}}


def read(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def with_zero_biases(seed=1):
    model = tiny.gpt2(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
    return model


def reading(out):
    """Name, the folder's model, its tensors (none: those of "tied"), changes of its configuration, and the model that computes
    the right values: transformers' reading of the folder when there is none."""
    plain = tiny.gpt2()
    inner = tiny.gpt2(seed=4, n_inner=12)
    gpt1 = tiny.gpt1(seed=5)
    bare = with_zero_biases()
    halved = {name: tensor.half() for name, tensor in tied(plain).items()}
    brained = {name: tensor.bfloat16() for name, tensor in tied(plain).items()}
    only_output = {("lm_head.weight" if n == "transformer.wte.weight" else n): t for n, t in tied(plain).items()}
    only_output_1 = {("lm_head.weight" if n == "transformer.tokens_embed.weight" else n): t for n, t in tied(gpt1).items()}
    yield "tied", plain, tied(plain), {}, None
    yield "tied-and-stored-twice", plain, both(plain), {}, None
    yield "untied-but-equal", plain, both(plain), {"tie_word_embeddings": False}, None
    yield "output-alone", plain, only_output, {}, None
    yield "output-differs", plain, other_output(plain), {"tie_word_embeddings": None}, None
    yield "output-differs-though-tied", plain, other_output(plain), {"tie_word_embeddings": True}, None
    yield "untied", plain, other_output(plain), {"tie_word_embeddings": False}, None
    yield "narrow-mlp", inner, tied(inner), {}, None
    yield "mlp-of-usual-width", plain, None, {"n_inner": 32}, None
    yield "names-of-openai", plain, {n.removeprefix("transformer."): t for n, t in tied(plain).items()}, {}, None
    yield "compiled", plain, wrapped(tied(plain), "_orig_mod."), {}, plain
    yield "data-parallel", plain, wrapped(both(plain), "module."), {}, plain
    yield "compiled-and-parallel", plain, wrapped(tied(plain), "module._orig_mod."), {}, plain
    yield "trainer-module", plain, wrapped(tied(plain), "model."), {}, plain
    blocks = {n.replace(".h.0.", ".h.0._orig_mod.").replace(".h.1.", ".h.1._orig_mod."): t for n, t in tied(plain).items()}
    yield "compiled-blocks", plain, blocks, {}, plain
    yield "linear-layers", plain, turned(tied(plain)), {}, plain
    yield "linear-layers-narrow", inner, turned(tied(inner)), {}, inner
    yield "no-biases", bare, without_biases(tied(bare)), {"bias": False}, bare
    yield "nanogpt", bare, wrapped(turned(without_biases(both(bare))), "_orig_mod."), {"bias": False}, bare
    yield "old-masks", plain, with_masks(tied(plain)), {}, None
    yield "half", plain, halved, {}, None
    yield "bfloat16", plain, brained, {}, None
    yield "double", plain, {n: t.double() for n, t in tied(plain).items()}, {}, None
    yield "tanh-gelu", plain, None, {"activation_function": "gelu_pytorch_tanh"}, None
    yield "large-epsilon", plain, None, {"layer_norm_epsilon": 0.3}, None
    yield "upcast-attention", plain, None, {"reorder_and_upcast_attn": True}, None
    yield "old-names-of-keys", plain, None, {
        "n_embd": None, "hidden_size": 8, "n_layer": None, "num_hidden_layers": 2, "n_head": None,
        "num_attention_heads": 2, "n_positions": None, "max_position_embeddings": 24}, None
    yield "gpt1", gpt1, tied(gpt1), {}, None
    yield "gpt1-output-alone", gpt1, only_output_1, {}, None
    yield "gpt1-output-differs", gpt1, other_output(gpt1), {}, None
    yield "gpt1-linear-layers", gpt1, wrapped(turned(tied(gpt1)), "module."), {}, gpt1


def refused(out):
    """Name, model, its tensors (none: those of "tied"), changes of its configuration, and a part of the message."""
    plain = tiny.gpt2()
    tensors = tied(plain)
    first = "transformer.h.0.mlp.c_fc.weight"
    yield "no-biases-unsaid", plain, without_biases(tensors), {}, 'add "bias": false to its config.json'
    yield "output-missing", plain, None, {"tie_word_embeddings": False}, "lacks 1 of 29 weights: lm_head.weight"
    yield "more-layers", plain, None, {"n_layer": 3}, "lacks 12 of 40 weights: transformer.h.2.ln_1.weight"
    yield "fewer-layers", plain, None, {"n_layer": 1}, "12 weights that do not belong to the model in its config.json: transformer.h.1."
    yield "other-width", plain, None, {"n_inner": 16}, f"{first} has shape [8, 32], but the configuration requires [8, 16]"
    yield "other-vocabulary", plain, None, {"vocab_size": 256}, "wte.weight has shape [257, 8]"
    yield "other-names", plain, wrapped(tensors, "gpt."), {}, "lacks 28 of 28 weights: transformer.wte.weight"
    yield "two-layouts", plain, {**tensors, first: tensors[first].t()}, {}, f"and {first} as [out, in]"
    yield "left-over", plain, {**tensors, "transformer.h.0.attn.rotary.weight": torch.ones(2)}, {}, "attn.rotary.weight"
    yield "whole-numbers", plain, {**tensors, first: tensors[first].char()}, {}, f"{first} has the data type I8"
    yield "quantized", plain, None, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config: gptq"
    yield "exact-gelu", plain, None, {"activation_function": "gelu"}, 'the activation "gelu" is not supported'
    yield "relu", plain, None, {"activation_function": "relu"}, 'the activation "relu" is not supported'
    yield "unscaled-attention", plain, None, {"scale_attn_weights": False}, "scale_attn_weights = false is not supported"
    yield "scaled-by-layer", plain, None, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = true"
    yield "cross-attention", plain, None, {"add_cross_attention": True}, "add_cross_attention = true is not supported"
    yield "not-finite", plain, {**tensors, first: tensors[first] * float("nan")}, {}, f"{first} contains NaN or infinite values"


def in_parts(folder, absent=None, twice=False):
    """Divides the weights of `folder` into two files."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:14], "model-00002-of-00002.safetensors": names[14:]}
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index) + "\n")
    for file, names in parts.items():
        part = {name: tensors[name] for name in names}
        if twice and names[0] != sorted(tensors)[0]:
            part[sorted(tensors)[0]] = tensors[sorted(tensors)[0]] + 1
        if file != absent:
            safetensors.torch.save_file(part, folder / file, {"format": "pt"})


def of_tied(folder, config):
    """What a row says that has the folder "tied" with another configuration instead of a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    return {"of": "tied", "set": config}


def made(out):
    """Makes all folders in `out`, and gives back the rows."""
    out = pathlib.Path(out)
    shutil.rmtree(out, ignore_errors=True)
    ids = tiny.tokenizer(out / "tokenizer").encode(tiny.PROMPT).ids
    rows = []
    for name, model, tensors, config, right in reading(out):
        write(out / name, model, tensors or tied(model), **config)
        tokens, log_probs = tiny.greedy(right or read(out / name), ids)
        row = {"name": name, "prompt": tiny.PROMPT, "tokens": tokens, "log_probs": log_probs}
        rows.append(row if tensors else {**row, **of_tied(out / name, config)})
    shutil.copytree(out / "narrow-mlp", out / "in-parts")
    in_parts(out / "in-parts")
    tokens, log_probs = tiny.greedy(read(out / "in-parts"), ids)
    rows.append({"name": "in-parts", "prompt": tiny.PROMPT, "tokens": tokens, "log_probs": log_probs})
    for name, model, tensors, config, message in refused(out):
        if tensors:
            write(out / name, model, tensors, **config)
        rows.append({"name": name, "refused": message, **({} if tensors else of_tied(out / name, config))})
    for name, change, message in [
        ("part-missing", dict(absent="model-00002-of-00002.safetensors"), "of which 1 are missing: model-00002-of-00002"),
        ("two-values", dict(twice=True), "transformer.h.0.attn.c_attn.bias has different values in"),
    ]:
        shutil.copytree(out / "tied", out / name)
        in_parts(out / name, **change)
        rows.append({"name": name, "refused": message})
    for name, file, message in [
        ("pickle", "pytorch_model.bin", "AutoModelForCausalLM.from_pretrained("),
        ("pickle-of-nanogpt", "ckpt.pt", "gptkit does not read ckpt.pt"),
    ]:
        shutil.copytree(out / "tied", out / name)
        (out / name / "model.safetensors").rename(out / name / file)
        (out / name / file).write_bytes(b"")
        rows.append({"name": name, "refused": message})
    return rows


if __name__ == "__main__":
    tiny.write_rows("weights", made, (torch, transformers, tokenizers, safetensors))
