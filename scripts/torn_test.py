#!/usr/bin/env python3
"""Damages every file of every stage's run folder, then resumes and uses the run.

    python3 scripts/torn_test.py --gptkit target/release/gptkit

Each stage is killed after its second checkpoint. Every file of the folder that it left is cut to half, emptied, given one
flipped bit or a changed byte in the middle, and deleted, one at a time; the run is then resumed, and separately a finished run damaged in the
same way is used (sampled, scored, predicted). Each must either be refused in words (an error that names a file or folder, no
panic) or come to the same result as without the damage. A result that differs after a warning that names the file is counted
apart. Prints a Markdown table and the failures; exits with 1 if there are any. Written for Python 3.11 on Linux.
"""

import argparse
import collections
import pathlib
import subprocess
import shlex
import sys
import tempfile
import time

import tiny_stages
from tiny_stages import STAGES, differences, fresh, laboratory, last_words, must, run, use_input


def half(raw):
    return raw[: len(raw) // 2]


def emptied(_):
    return b""


def flipped(raw):
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1:] if raw else raw


def changed(raw):
    """An exponent's bit of a float in the middle, or a letter there."""
    middle = len(raw) // 2 // 4 * 4 + 3
    return raw[:middle] + bytes([raw[middle] ^ 0x40]) + raw[middle + 1:] if middle < len(raw) else raw


DAMAGES = {"cut to half": half, "emptied": emptied, "one bit flipped": flipped, "a byte changed": changed, "deleted": None}


def damage(path, how):
    if how is None:
        path.unlink()
    else:
        path.write_bytes(how(path.read_bytes()))


def half_run(binary, stage, case):
    """Runs the stage until its second checkpoint is there, and kills it."""
    process = subprocess.Popen([str(binary), *shlex.split(STAGES[stage][0])], cwd=case, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        done = [p for p in (case / "out/checkpoints").glob("step-*") if not p.name.endswith(("-tmp", "-old"))]
        if any(int(p.name.removeprefix("step-")) > 0 for p in done):
            process.kill()
        time.sleep(0.001)
    return process.wait() == -9


def refused(ran, name):
    """Whether the command failed in words that name the file or its folder, without a panic."""
    words = ran.stderr.decode(errors="replace")
    return ran.returncode in (1, 2) and "error:" in words and "panicked" not in words and "out" in words


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("events.out"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tiny_stages.binary_argument(parser)
    arguments = parser.parse_args()
    binary = arguments.gptkit.resolve()
    failures, shown, stages = [], 0, [s for s in arguments.stage or STAGES if STAGES[s][1] and STAGES[s][2]]
    print("| stage | then | cases | refused | the same | other, with a warning | wrong |\n" + "| --- " * 7 + "|")
    with tempfile.TemporaryDirectory(prefix="gptkit-torn-") as scratch:
        scratch = pathlib.Path(scratch)
        lab = scratch / "lab"
        laboratory(binary, lab)
        for stage in stages:
            words, resume, use = STAGES[stage]
            whole, begun, case = scratch / "whole", scratch / "begun", scratch / "case"
            # Both are made in the folder in which they are compared, because files tell their places.
            must(binary, words, fresh(lab, case))
            fresh(case, whole)
            while not half_run(binary, stage, fresh(lab, case)):
                pass
            fresh(case, begun)
            stdin = use_input(stage, lab)
            stdin = stdin.read_bytes() if stdin else b""
            expected = run(binary, use, whole, stdin).stdout
            for then, origin in (("resumed", begun), ("used", whole)):
                counts = collections.Counter()
                for path in files(origin / "out"):
                    name = path.relative_to(origin)
                    for what, how in DAMAGES.items():
                        if how is not None and how(path.read_bytes()) == path.read_bytes():
                            continue  # the file is empty
                        damage(fresh(origin, case) / name, how)
                        counts["cases"] += 1
                        try:
                            ran = run(binary, resume if then == "resumed" else use, case, b"" if then == "resumed" else stdin)
                        except subprocess.TimeoutExpired:
                            counts["wrong"] += 1
                            failures.append(f"wrong: {stage}, {name} {what}, {then}: no end within two minutes")
                            continue
                        if then == "resumed":
                            wrong = differences(case, whole) if ran.returncode == 0 else []
                        else:
                            wrong = [] if ran.stdout == expected else ["the output differs"]
                        warned = path.name in ran.stderr.decode(errors="replace")
                        if ran.returncode != 0:
                            kind = "refused" if refused(ran, name) else "wrong"
                            wrong = [f"exit code {ran.returncode}: {last_words(ran)[0]}"]
                        else:
                            kind = "warned" if wrong and warned else "wrong" if wrong else "same"
                        counts[kind] += 1
                        if kind == "wrong" or kind == "warned":
                            failures.append(f"{kind}: {stage}, {name} {what}, {then}: " + "; ".join(wrong))
                for failure in failures[shown:]:
                    print(failure[:400], file=sys.stderr, flush=True)
                shown = len(failures)
                row = [stage, then, *(counts[key] for key in ("cases", "refused", "same", "warned", "wrong"))]
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
    sys.exit(1 if any(failure.startswith("wrong") for failure in failures) else 0)


if __name__ == "__main__":
    main()
