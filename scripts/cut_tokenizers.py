#!/usr/bin/env python3
"""Cut the published vocabularies of GPT-1 and GPT-2 to what the golden texts need.

    python scripts/cut_tokenizers.py TOKENIZERS tests/golden/tokenizers.json tests/golden/tokenizers

TOKENIZERS is a folder with gpt2/encoder.json, gpt2/vocab.bpe, gpt1/encoder_bpe_40000.json and gpt1/vocab_40000.bpe. Written are
the same four files, with the same ids, of these entries alone: every token of one character, every token that a golden
text has, and every merge that one of these tokens is made by, in the published order. Byte-pair encoding applies to a
text the known merge that comes first. All merges that the whole vocabulary applies to the golden texts are kept, in their
order, so that these texts get the published ids; other texts may get others.
"""
import json
import pathlib
import sys

FILES = {"gpt2": ("encoder.json", "vocab.bpe"), "gpt1": ("encoder_bpe_40000.json", "vocab_40000.bpe")}
END_OF_WORD = "</w>"  # a part of GPT-1's last character


def characters(token, name):
    """The tokens of one character that `token` is made of."""
    if name == "gpt1" and token.endswith(END_OF_WORD):
        token = token[: -len(END_OF_WORD)]
        return list(token[:-1]) + [token[-1:] + END_OF_WORD]
    return list(token)


def merges_of(token, name, rank):
    """The merges that lead to `token`, and all tokens on the way."""
    parts, merges, tokens = characters(token, name), set(), set()
    tokens.update(parts)
    while len(parts) > 1:
        best = min(zip(parts, parts[1:]), key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        merges.add(best)
        tokens.add("".join(best))
        at, merged = 0, []
        while at < len(parts):
            if tuple(parts[at : at + 2]) == best:
                merged.append("".join(best))
                at += 2
            else:
                merged.append(parts[at])
                at += 1
        parts = merged
    return merges, tokens


def main():
    source, golden, target = map(pathlib.Path, sys.argv[1:])
    cases = json.loads(golden.read_text(encoding="utf-8"))
    for name, (vocab_file, merges_file) in FILES.items():
        vocab = json.loads((source / name / vocab_file).read_text(encoding="utf-8"))
        head, *lines = (source / name / merges_file).read_text(encoding="utf-8").rstrip("\n").split("\n")
        order = [tuple(line.split(" ")) for line in lines]
        rank = {pair: place for place, pair in enumerate(order)}
        token_of = {number: token for token, number in vocab.items()}
        kept = {token for token in vocab if len(characters(token, name)) <= 1}
        # The last entry decides the size; of GPT-1's it ends a document, of GPT-2's a text.
        kept |= {token_of[max(token_of)], "<unk>", "<|endoftext|>"} & vocab.keys()
        merges = set()
        for case in cases:
            for number in case[name] + case.get(f"{name}_ordinary", []):
                own, tokens = merges_of(token_of[number], name, rank)
                merges |= own
                kept |= {token_of[number]} | (tokens & vocab.keys())
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        entries = {token: number for token, number in sorted(vocab.items(), key=lambda entry: entry[1]) if token in kept}
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
        (folder / vocab_file).write_text(text + "\n", encoding="utf-8")
        lines = [head] + [" ".join(pair) for pair in order if pair in merges]
        (folder / merges_file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(entries)} entries, {len(merges)} merges")


if __name__ == "__main__":
    main()
