#!/usr/bin/env python3
"""Make the fixtures of text for pretraining, in the files that other programs write.

    python scripts/conformance/text.py tests/golden/conformance

Writes text.json. A row is a file or a folder, and what is right for it:
  documents  the documents that are trained on, as Python's json and csv, pandas or pyarrow reads them
  prompt     the text that `sample --prompt-file` goes on from
  refused    words of the error where the file cannot be used
  warns      words of a warning that must be given; null where none may be
"""
import csv
import gzip
import io
import json
import pathlib
import sys

import pandas
import pyarrow
import pyarrow.parquet

TEXTS = ["Once there was a fox.\nIt was red.", 'Ben said "no", and left.', "Mia é ran; 日本."]
ROWS = []


def coded(content):
    return {"hex": content.hex()} if isinstance(content, bytes) else {"text": content}


def add(name, files, column=None, source=None, **right):
    """A row of `files`, a dictionary of names and contents, the first of which is read unless `source` is named."""
    source = source or next(iter(files))
    right.setdefault("warns", None)
    row = {"name": name, "source": source, "column": column}
    ROWS.append(row | {"files": [{"path": path} | coded(content) for path, content in files.items()]} | right)


def parquet(columns, **options):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file, **options)
    return file.getvalue()


def tables():
    frame = {"id": [1, 2, 3], "text": TEXTS, "score": [0.5, float("nan"), 2.0]}
    for compression in ["none", "snappy", "zstd"]:
        content = parquet(frame, compression=compression, row_group_size=2)
        assert pyarrow.parquet.read_table(io.BytesIO(content))["text"].to_pylist() == TEXTS
        add(f"Parquet, {compression}", {"in.parquet": content}, documents=TEXTS)
    add("Parquet with bytes that are text", {"in.parquet": parquet({"text": [text.encode() for text in TEXTS]})}, documents=TEXTS)
    add("Parquet with another column", {"in.parquet": parquet({"url": ["a"] * 3, "body": TEXTS})}, "body", documents=TEXTS)
    add("Parquet with content", {"in.parquet": parquet({"url": ["a"] * 3, "content": TEXTS})}, documents=TEXTS)
    add("Parquet without text", {"in.parquet": parquet({"url": ["a"], "body": ["b"]})},
        refused='"text" is missing; the record has url, body; use --text-column to choose the column')
    table = pandas.DataFrame(frame).to_csv(index=False)
    assert [row["text"] for row in csv.DictReader(io.StringIO(table))] == TEXTS
    add("CSV", {"in.csv": table}, documents=TEXTS)
    add("CSV with another column", {"in.csv": pandas.DataFrame({"body": TEXTS}).to_csv()}, "body", documents=TEXTS)
    add("CSV, gzip", {"in.csv.gz": gzip.compress(table.encode(), mtime=0)}, documents=TEXTS)
    add("CSV without text", {"in.csv": "a,b\n1,2\n"}, refused='"text" is missing; the record has a, b')
    add("CSV between semicolons", {"in.csv": "id;text\n1;a fox\n"}, refused='separated by ";"')
    lines = "id\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(TEXTS[1:]))
    add("TSV", {"in.tsv": lines}, documents=TEXTS[1:])


def json_files():
    records = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    add("JSONL", {"in.jsonl": lines}, documents=TEXTS)
    add("JSONL with another column", {"in.jsonl": lines.replace('"text"', '"body"')}, "body", documents=TEXTS)
    add("JSONL with content", {"in.jsonl": lines.replace('"text"', '"content"')}, documents=TEXTS)
    add("a list", {"in.json": json.dumps(records, indent=2)}, documents=TEXTS)
    add("a list named as lines", {"in.jsonl": json.dumps(records)}, documents=TEXTS)
    add("JSON without records", {"in.json": '{"version": 1, "name": "fox"}'}, refused='"text" is missing; the record has version, name')
    add("a list of texts", {"in.json": json.dumps(TEXTS)}, refused="expected an object with text in")
    number = '{"text": "a fox", "score": NaN}\n{"text": "a mill", "score": -Infinity}\n'
    assert [json.loads(line)["text"] for line in number.splitlines()] == ["a fox", "a mill"]
    add("NaN in a field that is not read", {"in.jsonl": number}, documents=["a fox", "a mill"])
    add("half of a surrogate pair", {"in.jsonl": '{"text": "a \\udc00 fox"}\n'}, documents=["a \ufffd fox"], warns="surrogate pair")
    add("NaN as text", {"in.jsonl": '{"text": NaN}\n'}, refused="in.jsonl line 1: invalid type: null, expected a string")


def encodings():
    text = "Once there was a fox. It was red.\nBen é left.\n"
    for name, encoding, bom in [("low byte first", "utf-16-le", "\ufeff"), ("high byte first", "utf-16-be", "\ufeff"),
                                ("low byte first, without a mark", "utf-16-le", ""),
                                ("high byte first, without a mark", "utf-16-be", "")]:
        content = (bom + text).encode(encoding)
        assert content.decode("utf-16" if bom else encoding) == text
        add(f"UTF-16, {name}", {"in.txt": content}, documents=[text], warns="UTF-16")
    add("UTF-16 records", {"in.jsonl": json.dumps({"text": text}).encode("utf-16")}, documents=[text], warns="UTF-16")
    add("UTF-32", {"in.txt": text.encode("utf-32")}, refused="iconv -f UTF-32 -t UTF-8")
    add("a byte-order mark, and Windows' line ends", {"in.txt": ("\ufeff" + text.replace("\n", "\r\n")).encode()},
        documents=[text.replace("\n", "\r\n")])
    add("NUL bytes", {"in.txt": "a fox\0 and \0\0 a mill\n"}, documents=["a fox\0 and \0\0 a mill\n"], warns="NUL bytes")
    add("NUL bytes in every sixth place", {"in.txt": "a fox\0" * 50}, documents=["a fox\0" * 50], warns="NUL bytes")
    cyrillic = "Жила была лиса в лесу — и ёж.\n"
    add("UTF-16 of other letters, without a mark", {"in.txt": cyrillic.encode("utf-16-le")}, documents=[cyrillic], warns="UTF-16")
    add("an empty file", {"in.txt": ""}, refused="the document is empty")


def folders():
    png = b"\x89PNG\r\n\x1a\n" + bytes(20)
    add("a folder with other files", {
        "f/a.txt": TEXTS[0], "f/b.parquet": parquet({"text": TEXTS[1:]}), "f/.hidden.txt": "no", "f/c.png": png, "f/d.zip": b"PK\x03\x04",
        "f/info.json": "{}"}, source="f", documents=TEXTS,
        warns="3 files of other types are ignored: c.png, d.zip, info.json (and 1 hidden)")
    add("a folder of images", {"f/c.png": png}, source="f", refused="it contains c.png")
    for name, content, what in [
        ("a PNG image", png, "is a PNG image"), ("a PDF document", b"%PDF-1.7\n", "is a PDF document"),
        ("a docx document", b"PK\x03\x04\x14\0", "is a ZIP archive"),
        ("gzip without the ending", gzip.compress(b"a fox", mtime=0), "rename it to end in .gz"),
        ("Parquet without the ending", parquet({"text": TEXTS}), "rename it to end in .parquet"),
    ]:
        add(f"{name}, named as text", {"in.txt": content}, refused=what)


def prompts():
    for name, content, prompt in [
        ("a line break", b"Once there\n", "Once there"), ("Windows' line break", b"Once there\r\n", "Once there"),
        ("two line breaks", b"Once there\r\n\r\n", "Once there\r\n"), ("no line break", b"Once there", "Once there"),
        ("a byte-order mark", b"\xef\xbb\xbfOnce there\r\n", "Once there"),
        ("UTF-16", "Once there\r\n".encode("utf-16"), "Once there"),
    ]:
        add(f"prompt file with {name}", {"in.txt": content}, prompt=prompt)


if __name__ == "__main__":
    tables()
    json_files()
    encodings()
    folders()
    prompts()
    assert len({row["name"] for row in ROWS}) == len(ROWS)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"python": sys.version.split()[0], "pyarrow": pyarrow.__version__, "pandas": pandas.__version__}
    text = json.dumps({"made_with": versions, "rows": ROWS}, ensure_ascii=True, indent=1)
    (folder / "text.json").write_text(text + "\n")
    print(f"text: {len(ROWS)} rows, made with {versions}")
