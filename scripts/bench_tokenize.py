#!/usr/bin/env python3
"""Speed of gptkit's tokenizing beside tiktoken's and tokenizers', by turns on one machine, as ratios; ids are compared.

    python3 scripts/bench_tokenize.py --files DIR --text FILE [--gptkit target/release/gptkit] [--rounds 3]

DIR holds GPT-2's published files, encoder.json and vocab.bpe; FILE is UTF-8 text, best of 30 MB or more. Three cases:

    file       the text as one document in one file
    documents  the same text, cut at empty lines, as records of a JSONL file
    train      a byte-level vocabulary of 8,192 tokens learned from the text

gptkit's time is that of the whole command `prepare`: start, reading, tokenizing, writing the shards (for `train`: learning
the vocabulary, then all of that). The rivals' is that of their function alone, on text in memory, on all cores; tiktoken
has one thread for one text, and is also given the text in as many parts as there are cores.
Nothing else should run meanwhile.
"""
import argparse, array, json, os, pathlib, statistics, subprocess, sys, tempfile, time

from token_ids import END_OF_TEXT, independent

VOCABULARY = 8192


def gptkit_ids(out):
    """All ids in the shards of `out`, in the order of the text."""
    manifest = json.loads((out / "manifest.json").read_text())
    ids = array.array("H" if manifest["token_bytes"] == 2 else "I")
    for path in sorted(out.glob("*.bin")):
        ids.frombytes(path.read_bytes())
    return ids


def prepare(gptkit, data, out, *settings):
    """Seconds that `gptkit prepare` takes."""
    command = [gptkit, "prepare", "--data", data, "--out", out, "--set", "data.val_fraction=0", *settings]
    begun = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return time.perf_counter() - begun


def seconds(work):
    """Seconds that `work` takes, and its result."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def train_rival(texts):
    """Learns the vocabulary with tokenizers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def parts(text, number):
    """`text` in about equal parts, cut before a line break that follows a letter, where GPT-2's pattern cuts as well."""
    cuts = [0]
    for part in range(1, number):
        at = len(text) * part // number
        while at < len(text) and not (text[at] == "\n" and text[at - 1].isalpha()):
            at += 1
        cuts.append(at)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=pathlib.Path, required=True, help="folder of encoder.json and vocab.bpe")
    parser.add_argument("--text", type=pathlib.Path, required=True, help="UTF-8 text")
    parser.add_argument("--gptkit", default="target/release/gptkit")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from tokenizers import Tokenizer, models, pre_tokenizers

    cores = len(os.sched_getaffinity(0))
    text = options.text.read_bytes().decode("utf-8")
    documents = [document for document in text.split("\n\n") if document.strip()]
    size = len(text.encode())
    tiktoken = independent(options.files)
    vocab = json.loads((options.files / "encoder.json").read_text(encoding="utf-8"))
    lines = (options.files / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    library = Tokenizer(models.BPE(vocab, [tuple(line.split(" ")) for line in lines if line]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    end = vocab[END_OF_TEXT]

    def by_library(texts):
        return [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "text.txt").write_bytes(text.encode())
        with open(folder / "documents.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents)
        cases = {
            "file": [("tiktoken, one text", lambda: [tiktoken.encode_ordinary(text)]),
                     (f"tiktoken, {cores} parts",
                      lambda: tiktoken.encode_ordinary_batch(parts(text, cores), num_threads=cores))],
            "documents": [("tiktoken", lambda: tiktoken.encode_ordinary_batch(documents, num_threads=cores)),
                          ("tokenizers, fast", lambda: by_library(documents))],
            "train": [("tokenizers", lambda: train_rival(parts(text, 64 * cores)))],
        }
        print(f"{size / 1e6:.1f} MB of text, {len(documents)} documents, {cores} cores, {options.rounds} rounds")
        print(f"{'case':12}{'gptkit MB/s':>12}   {'rival':20}{'MB/s':>8}{'ratio':>8}   ids")
        for case, rivals in cases.items():
            data = folder / ("documents.jsonl" if case == "documents" else "text.txt")
            settings = ["--set", f"tokenizer.vocab_size={VOCABULARY}"] if case == "train" else ["--tokenizer", options.files]
            times, theirs, results = [], {label: [] for label, _ in rivals}, {}
            for turn in range(options.rounds):
                out = folder / f"{case}-{turn}"
                times.append(prepare(options.gptkit, data, out, *settings))
                for label, work in rivals:
                    taken, results[label] = seconds(work)
                    theirs[label].append(taken)
            for label, measured in theirs.items():
                if case == "train":
                    ours = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))["model"]
                    other = json.loads(results[label].to_str())["model"]
                    same = ours["vocab"] == other["vocab"] and ours["merges"] == other["merges"]
                else:
                    # One text has one end, in however many parts it was given to the rival.
                    expected = array.array("H")
                    for ids in results[label]:
                        expected.extend(ids)
                        if case == "documents":
                            expected.append(end)
                    if case == "file":
                        expected.append(end)
                    same = gptkit_ids(out) == expected
                rate, other = (size / statistics.median(taken) / 1e6 for taken in (times, measured))
                print(f"{case:12}{rate:12.1f}   {label:20}{other:8.1f}{rate / other:8.2f}   "
                      f"{'the same' if same else 'DIFFERENT'}", flush=True)
                if not same:
                    sys.exit("gptkit's ids or merges are not the rival's")


if __name__ == "__main__":
    main()
