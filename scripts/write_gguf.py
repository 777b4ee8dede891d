#!/usr/bin/env python3
"""Writes a GPT-2 folder as a GGUF file in bf16, which llama.cpp reads.

    pip install gguf safetensors
    python3 scripts/write_gguf.py DIR model.gguf

The weights must be f32, and the tokenizer GPT-2's byte-level BPE. Positions and one-dimensional tensors stay f32.
"""
import argparse, json, pathlib

import gguf
from safetensors.numpy import load_file

NAMES = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
LAYER_NAMES = {
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}
BF16 = gguf.GGMLQuantizationType.BF16


def renamed(name):
    """llama.cpp's name of a tensor, or none for the masks that old folders hold."""
    module, kind = name.removeprefix("transformer.").rsplit(".", 1)
    if module in NAMES:
        return f"{NAMES[module]}.{kind}"
    _, layer, module = module.split(".", 2)
    return f"blk.{layer}.{LAYER_NAMES[module]}.{kind}" if module in LAYER_NAMES else None


def add_tensors(writer, weights):
    for name, tensor in weights.items():
        to = renamed(name)
        if to is None:
            continue
        if tensor.ndim == 2 and to.startswith("blk."):
            tensor = tensor.T.copy()  # Hugging Face keeps GPT-2's matrices as [in, out]
        if tensor.ndim == 1 or to.startswith("position_embd"):
            writer.add_tensor(to, tensor)
        else:
            writer.add_tensor(to, gguf.quants.quantize(tensor, BF16), raw_dtype=BF16)


def add_tokenizer(writer, tokenizer, end):
    added = {one["id"]: one["content"] for one in tokenizer["added_tokens"]}
    tokens = {id: token for token, id in tokenizer["model"]["vocab"].items()} | added
    kinds = [gguf.TokenType.CONTROL if id in added else gguf.TokenType.NORMAL for id in sorted(tokens)]
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[id] for id in sorted(tokens)])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    config = json.loads((options.folder / "config.json").read_text())
    writer = gguf.GGUFWriter(options.out, "gpt2")
    writer.add_name(options.folder.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    add_tokenizer(writer, json.loads((options.folder / "tokenizer.json").read_text()), config["eos_token_id"])
    add_tensors(writer, load_file(options.folder / "model.safetensors"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
