#!/usr/bin/env python3
"""Print the token ids of a text file by the reference tokenizer, one a line, to compare with gptkit's.

    python scripts/token_ids.py --tokenizer gpt2 --files DIR FILE > reference.txt
    gptkit tokenizer encode --tokenizer DIR < FILE | tr ' ' '\\n' > ours.txt
    cmp reference.txt ours.txt

DIR holds the published files: encoder.json and vocab.bpe (gpt2), or encoder_bpe_40000.json and vocab_40000.bpe (gpt1).
The reference is transformers' class for each, and the whole file is one text. With --ordinary, text that looks like a
special token is plain text. With --cross-check (gpt2 only) the text also goes through tiktoken, built from the same two
files, and the ids must agree.

Used with Python 3.11, transformers 5.23.0, tokenizers 0.23.3 and tiktoken 0.14.0; needs no PyTorch.
"""
import argparse
import json
import pathlib
import sys

FILES = {"gpt2": ("encoder.json", "vocab.bpe"), "gpt1": ("encoder_bpe_40000.json", "vocab_40000.bpe")}
END_OF_TEXT = "<|endoftext|>"
# The pattern of GPT-2's own encoder.py.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def reference(which, files):
    from transformers import GPT2Tokenizer, OpenAIGPTTokenizer
    vocab, merges = (str(files / name) for name in FILES[which])
    return {"gpt2": GPT2Tokenizer, "gpt1": OpenAIGPTTokenizer}[which](vocab=vocab, merges=merges)


def letters_of_bytes():
    """GPT-2 writes a byte as one visible letter: itself where it is printable Latin-1, else the next from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def independent(files):
    """GPT-2 in tiktoken, which merges by rank and knows nothing of the merges file."""
    import tiktoken
    byte_of = letters_of_bytes()
    vocab = json.loads((files / "encoder.json").read_text(encoding="utf-8"))
    merges = (files / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    for rank, merge in enumerate(line for line in merges if line):
        assert vocab[merge.replace(" ", "")] == 256 + rank, f"merge {rank} ({merge}) and its id do not match"
    ranks = {bytes(byte_of[c] for c in token): i for token, i in vocab.items() if token != END_OF_TEXT}
    return tiktoken.Encoding(name="gpt2-files", pat_str=PATTERN, mergeable_ranks=ranks,
                             special_tokens={END_OF_TEXT: vocab[END_OF_TEXT]})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path, metavar="FILE", help="UTF-8 text")
    parser.add_argument("--tokenizer", choices=FILES, required=True)
    parser.add_argument("--files", type=pathlib.Path, metavar="DIR", required=True, help="the published files")
    parser.add_argument("--ordinary", action="store_true", help="read special tokens as plain text")
    parser.add_argument("--cross-check", action="store_true", help="compare with tiktoken, print no ids")
    args = parser.parse_args()
    if args.cross_check and args.tokenizer != "gpt2":
        parser.error("--cross-check needs --tokenizer gpt2: no second implementation of GPT-1's is known")
    text = args.file.read_bytes().decode("utf-8")  # as bytes: reading as text would change line ends
    ids = reference(args.tokenizer, args.files)(text, split_special_tokens=args.ordinary)["input_ids"]
    if not args.cross_check:
        sys.stdout.writelines(f"{i}\n" for i in ids)
        return
    encoding = independent(args.files)
    other = encoding.encode_ordinary(text) if args.ordinary else encoding.encode(text, allowed_special="all")
    if ids == other:
        print(f"agree: {len(ids)} tokens for {len(text.encode())} bytes")
        return
    at = next((i for i, (a, b) in enumerate(zip(ids, other)) if a != b), min(len(ids), len(other)))
    sys.exit(f"differ at token {at}: transformers {ids[at:at + 8]}, tiktoken {other[at:at + 8]}, "
             f"after {encoding.decode(ids[:at])[-40:]!r}")


if __name__ == "__main__":
    main()
