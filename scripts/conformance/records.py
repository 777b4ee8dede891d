#!/usr/bin/env python3
"""Make the fixtures of records in the forms that other programs write them.

    python scripts/conformance/records.py tests/golden/conformance

Writes records.json. A row is a file of records (as text, or as bytes in hexadecimal), and what is right for it:
  fields        the records as Python's json, csv or pyarrow reads them, where gptkit must read the same
  dialogues     what `sft` is to learn: role, content, and whether it is learned; by the rules below
  comparisons   what `train-rm` and `dpo` are to learn: prompt, completions, places
  prompts       what `ppo` and `compare` are to ask
  refused       words of the error where the records cannot be used
  warns         words of a warning that must be given

Rules, each as the program that defines the form has it: of `prompt` and `completion` the completion alone is learned (TRL); answers
in `history` are learned (LLaMA-Factory); a message of weight 0 is only read (OpenAI); text parts of a content are joined with
nothing between them (vision templates of transformers); the beginning that chosen and rejected share is the prompt (TRL).
"""
import csv
import io
import json
import pathlib
import sys

import pyarrow
import pyarrow.parquet

Q, A, B = "What is a fox?", "A small red animal.", "A large blue bird."
S = "Talk like a miller."
ROWS = []


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def said(*turns):
    """Messages as gptkit is to read them: `u`, `a` (learned), `r` (an answer that is only read), `s`."""
    roles = {"u": "user", "a": "assistant", "r": "assistant", "s": "system"}
    return [[roles[who], text, who == "a"] for who, text in turns]


def add(name, content, file="in.jsonl", **right):
    row = {"name": name, "file": file}
    if isinstance(content, bytes):
        row["hex"] = content.hex()
    else:
        row["text"] = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) + "\n"
    ROWS.append(row | right)


def dialogue(name, record, *turns, **more):
    add(name, record, dialogues=[said(*turns)], **more)


PLAIN = (("u", Q), ("a", A))
RULED = (("s", S), ("u", Q), ("a", A))


def dialogues():
    for column in ["system", "system_prompt", "system_message"]:
        dialogue(f"{column} beside conversations", {column: S, "conversations": [
            {"from": "human", "value": Q}, {"from": "gpt", "value": A}]}, *RULED)
    dialogue("system beside messages that have it too", {"system": S, "messages": [system(S), user(Q), assistant(A)]}, *RULED)
    add("system beside messages that have another", {"system": S, "messages": [system("Sing."), user(Q), assistant(A)]},
        refused="differs from the system message")
    dialogue("system beside instruction and output", {"instruction": Q, "input": "", "output": A, "system": S}, *RULED)
    dialogue("system beside prompt and completion", {"system": S, "prompt": Q, "completion": A}, *RULED)
    dialogue("system_prompt, question, response", {"id": "1", "system_prompt": S, "question": Q, "response": A}, *RULED)
    dialogue("an empty system column", {"system": "", "instruction": Q, "output": A}, *PLAIN)
    history = [["Hello", "Hi there"], ["Who?", "Me."]]
    dialogue("history of pairs", {"instruction": Q, "input": "", "output": A, "history": history},
             ("u", "Hello"), ("a", "Hi there"), ("u", "Who?"), ("a", "Me."), *PLAIN)
    dialogue("system and history", {"instruction": Q, "input": "", "output": A, "system": S, "history": history[:1]},
             ("s", S), ("u", "Hello"), ("a", "Hi there"), *PLAIN)
    add("history that is text", {"instruction": Q, "output": A, "history": "Hello"}, refused='"history" is a string')
    dialogue("instruction, context, response", {"instruction": Q, "context": "It is a tale.", "response": A, "category": "qa"},
             ("u", Q + "\n\nIt is a tale."), ("a", A))
    dialogue("prompt and completion as messages", {"prompt": [user(Q)], "completion": [assistant(A)]}, *PLAIN)
    dialogue("earlier answers of a prompt are not learned",
             {"prompt": [system(S), user("Hello"), assistant("Hi"), user(Q)], "completion": [assistant(A)]},
             ("s", S), ("u", "Hello"), ("r", "Hi"), *PLAIN)
    dialogue("a completion that repeats the prompt", {"prompt": [user(Q)], "completion": [user(Q), assistant(A)]}, *PLAIN)
    dialogue("weight 0", {"messages": [user(Q), assistant("WRONG", weight=0), user("Again?"), assistant(A, weight=1)]},
             ("u", Q), ("r", "WRONG"), ("u", "Again?"), ("a", A))
    dialogue("train false", {"conversations": [
        {"from": "human", "value": Q}, {"from": "gpt", "value": "WRONG", "train": False},
        {"from": "human", "value": "Again?"}, {"from": "gpt", "value": A, "train": True}]},
        ("u", Q), ("r", "WRONG"), ("u", "Again?"), ("a", A))
    add("weight between 0 and 1", {"messages": [user(Q), assistant(A, weight=0.5)]}, refused='"weight" is 0.5')
    add("a mask without a meaning", {"messages": [user(Q), assistant(A, mask=1)]}, refused='has "mask", which is not supported')
    dialogue("a mark on the user's message", {"messages": [user(Q) | {"train": True}, assistant(A)]}, *PLAIN,
             warns='"messages: train" (1 record)')
    part = lambda text: {"type": "text", "text": text}
    dialogue("content as parts", {"messages": [
        {"role": "user", "content": [part("What is "), part("a fox?")]}, {"role": "assistant", "content": [part(A)]}]}, *PLAIN)
    add("an image among the parts", {"messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, part(Q)]}, assistant(A)]},
        refused='has the type "image_url"; only text parts')
    for one, other in [("human", "gpt"), ("prompter", "assistant"), ("user", "chatgpt"), ("user", "bing"), ("user", "bard"),
                       ("user", "model"), ("Human", "Bot")]:
        dialogue(f"roles {one} and {other}", {"conversations": [{"from": one, "value": Q}, {"from": other, "value": A}]}, *PLAIN)
    dialogue("role developer", {"messages": [{"role": "developer", "content": S}, user(Q), assistant(A)]}, *RULED)
    dialogue("speaker and text", {"dialogue": [{"speaker": "user", "text": Q}, {"speaker": "assistant", "text": A}]}, *PLAIN)
    dialogue("pairs in a list", {"conversation": [{"system": S, "input": Q, "output": A}, {"input": "Who?", "output": "Me."}]},
             *RULED, ("u", "Who?"), ("a", "Me."))
    dialogue("contents with parts", {"contents": [
        {"role": "user", "parts": [{"text": Q}]}, {"role": "model", "parts": [{"text": A}]}]}, *PLAIN)
    add("a tool's message", {"messages": [user(Q), {"role": "tool", "content": "4"}, assistant(A)]}, refused='has the role "tool"')
    add("tool calls", {"messages": [user(Q), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        refused='has "tool_calls"')
    dialogue("tools beside messages", {"messages": [user(Q), assistant(A)], "tools": [{"name": "f"}]}, *PLAIN,
             warns='ignored fields that may matter: "tools" (1 record)')
    dialogue("images beside messages", {"messages": [user(Q), assistant(A)], "images": ["a.png"], "id": 3}, *PLAIN,
             warns='"images" (1 record)')
    add("an undesirable completion", {"prompt": Q, "completion": A, "label": False}, refused='"label" is false')


def layouts():
    """The same records, laid out in all ways."""
    records = [{"instruction": Q, "input": "", "output": A}, {"instruction": "Who?", "input": "", "output": "Me."}]
    right = {"fields": records, "dialogues": [said(*PLAIN), said(("u", "Who?"), ("a", "Me."))]}
    lines = "".join(json.dumps(record) + "\n" for record in records)
    for name, file, text in [
        ("a list", "in.json", json.dumps(records)),
        ("a list, indented", "in.json", json.dumps(records, indent=2)),
        ("a list named as lines", "in.jsonl", json.dumps(records, indent=1)),
        ("lines named as a list", "in.json", lines),
        ("objects over several lines", "in.jsonl", "\n".join(json.dumps(record, indent=2) for record in records)),
        ("Windows' line ends", "in.jsonl", lines.replace("\n", "\r\n")),
    ]:
        loaded = json.loads(text) if text.startswith("[") else None
        assert loaded in (None, records)
        add(name, text, file, **right)
    add("a byte-order mark on each line", "".join("\ufeff" + line for line in lines.splitlines(True)).encode(), **right)
    for name, encoding in [("UTF-16 with a mark", "utf-16"), ("UTF-16, low byte first", "utf-16-le"),
                           ("UTF-16, high byte first", "utf-16-be")]:
        add(name, lines.encode(encoding), warns="UTF-16", **right)
    table = io.StringIO()
    writer = csv.DictWriter(table, ["instruction", "input", "output"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(records)
    assert list(csv.DictReader(io.StringIO(table.getvalue()))) == records
    add("CSV with a byte-order mark", table.getvalue().encode("utf-8-sig"), "in.csv", **right)
    tabs = "\t".join(["instruction", "input", "output"]) + "\r\n" + "".join(
        "\t".join(record.values()) + "\r\n" for record in records)
    add("a spreadsheet's tabs in UTF-16", tabs.encode("utf-16"), "in.tsv", warns="UTF-16", **right)
    add("CSV between semicolons", table.getvalue().replace(",", ";"), "in.csv", refused='separated by ";"')
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), file, compression="snappy")
    assert pyarrow.parquet.read_table(io.BytesIO(file.getvalue())).to_pylist() == records
    add("Parquet", file.getvalue(), "in.parquet", **right)
    add("an object around the list", {"version": 1, "data": records}, "in.json", refused="jq -c '.data[]'")
    numbers = '{"prompt": "%s", "completion": "%s", "score": NaN, "low": -Infinity}\n' % (Q, A)
    assert json.loads(numbers)["score"] != json.loads(numbers)["score"]
    add("NaN in a field that is not read", numbers, dialogues=[said(*PLAIN)])
    add("NaN in a field that is read", '{"prompt": "%s", "completion": NaN}\n' % Q, refused="completion is null")
    half = '{"prompt": "%s", "completion": "A \\ud83d\\ude00 \\ud800 fox"}\n' % Q
    text = json.loads(half)["completion"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    add("half of a surrogate pair", half, dialogues=[said(("u", Q), ("a", text))], warns="surrogate pair")


def comparisons():
    def comparison(name, record, prompt, completions=(A, B), places=(1, 2), **more):
        right = [{"prompt": said(*prompt), "completions": [said(("a", text)) for text in completions], "places": list(places)}]
        add(name, record, comparisons=right, prompts=[said(*prompt)], **more)

    ask, ruled = [("u", Q)], [("s", S), ("u", Q)]
    whole = lambda answer: [user(Q), assistant(answer)]
    talk = lambda answer: f"\n\nHuman: {Q}\n\nAssistant: {answer}"
    comparison("system, question, chosen, rejected", {"system": S, "question": Q, "chosen": A, "rejected": B}, ruled)
    comparison("instruction, input, chosen, rejected", {"instruction": Q, "input": "Be brief.", "chosen": A, "rejected": B},
               [("u", Q + "\n\nBe brief.")])
    comparison("prompt, and whole conversations", {
        "prompt": Q, "prompt_id": "0", "chosen": whole(A), "rejected": whole(B), "score_chosen": 7.0, "score_rejected": 3.0}, ask)
    comparison("scores that say the opposite", {
        "prompt": Q, "chosen": whole(A), "rejected": whole(B), "score_chosen": 3.0, "score_rejected": 3.0}, ask,
        warns="the score of chosen is not higher than the score of rejected (1 record)")
    comparison("a system message in the conversations", {
        "prompt": Q, "chosen": [system(S)] + whole(A), "rejected": [system(S)] + whole(B)}, ruled)
    comparison("prompt and answers as messages", {
        "prompt": [user(Q)], "chosen": [assistant(A)], "rejected": [assistant(B)]}, ask)
    comparison("conversations, chosen and rejected as one message", {
        "conversations": [{"from": "human", "value": Q}], "chosen": {"from": "gpt", "value": A},
        "rejected": {"from": "gpt", "value": B}}, ask)
    comparison("transcripts that repeat the prompt", {
        "prompt": f"\n\nHuman: {Q}\n\nAssistant:", "chosen": talk(A), "rejected": talk(B)}, ask)
    comparison("transcripts alone", {"chosen": talk(A), "rejected": talk(B)}, ask)
    comparison("chosen and rejected that are the same", {"prompt": Q, "chosen": A, "rejected": A}, ask, [A], [1])
    for labels, places in [(1, (1, 2)), (0, (2, 1))]:
        comparison(f"a choice between A and B, labels {labels}", {
            "post_id": "x", "history": Q, "human_ref_A": A, "human_ref_B": B, "labels": labels, "score_A": 5}, ask, (A, B), places)
    add("another prompt than the conversations have", {"prompt": "Who?", "chosen": whole(A), "rejected": whole(B)},
        comparisons=[], refused="do not begin with the prompt")
    add("KTO's form", {"prompt": Q, "completion": A, "label": True}, comparisons=[], refused="(KTO) are not supported")


if __name__ == "__main__":
    dialogues()
    layouts()
    comparisons()
    assert len({row["name"] for row in ROWS}) == len(ROWS)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"python": sys.version.split()[0], "pyarrow": pyarrow.__version__}
    text = json.dumps({"made_with": versions, "rows": ROWS}, ensure_ascii=True, indent=1)
    (folder / "records.json").write_text(text + "\n")
    print(f"records: {len(ROWS)} rows, made with {versions}")
