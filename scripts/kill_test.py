#!/usr/bin/env python3
"""Kills commands with SIGKILL and compares what they come to with the same commands left alone.

    python3 scripts/kill_test.py --gptkit target/release/gptkit

Each of twelve commands is killed ten times at random moments and up to ten times at chosen ones: strace ends the process
at the entry of a chosen `rename` (or `fsync`, of commands with few renames), so that the kill falls before the first
checkpoint, between two renames or after the last checkpoint exactly. The killed command is then given again, or with --resume where it has that (by turns), and every file
of the folder (weights, moments, metrics, outputs, and anything left over) is compared with that of an uninterrupted run.
Prints a Markdown table and the failures; exits with 1 if there are any. Needs strace. Written for Python 3.11 on Linux.
"""

import argparse
import collections
import pathlib
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time

import tiny_stages
from tiny_stages import STAGES, differences, fresh, laboratory, last_words, must, run

# System calls at whose entry a process is killed: the second only of commands that make few of the first.
CALLS = ("rename", "fsync")


def strace(binary, words, case, options, log="/dev/null"):
    command = ["strace", "-f", "-qq", "-o", str(log), *options, str(binary), *shlex.split(words)]
    return subprocess.run(command, cwd=case, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)


def calls_of(call, binary, words, case, log):
    """What is known of each `call` of an uninterrupted run, in order: those of one thread, because strace counts by
    thread."""
    ran = strace(binary, words, case, ["-y", "-e", f"trace={call}"], log)
    if ran.returncode != 0:
        sys.exit(f"gptkit {words}\n{ran.stderr.decode(errors='replace')}")
    lines = [line for line in log.read_text(errors="replace").splitlines() if f" {call}(" in line]
    [(thread, _)] = collections.Counter(line.split()[0] for line in lines).most_common(1)
    return [re.findall(r'["<]([^">]*)[">]', line)[-1] for line in lines if line.split()[0] == thread]


def aims(targets, count):
    """Numbers, from 1, of the calls at which to kill, and what each stands for."""
    found = {}
    steps = [n for n, target in enumerate(targets, 1) if re.search(r"step-\d+$", target)]
    wanted = [(1, "the first")]
    if steps:
        wanted += [(steps[0], "before the first checkpoint"), (steps[0] + 1, "after the first checkpoint"),
                   (steps[-1], "before the last checkpoint"), (steps[-1] + 1, "after the last checkpoint")]
    wanted += [(len(targets), "the last")]
    wanted += [(1 + i * len(targets) // count, "between two") for i in range(count)]
    wanted += [(n, "between two") for n in range(1, len(targets) + 1)]
    for number, what in wanted:
        if 1 <= number <= len(targets) and len(found) < count:
            found.setdefault(number, what)
    return sorted(found.items())


def again(binary, stage, case, turn):
    """Gives the killed command again, or resumes it."""
    words, resume, _ = STAGES[stage]
    if resume and turn % 2 and (case / "out").exists():  # before that there is nothing to resume
        words = resume
    return words, run(binary, words, case, timeout=300)


def kill_at_random(binary, words, case, seconds, draw):
    """True when the process was killed before it ended."""
    process = subprocess.Popen([str(binary), *shlex.split(words)], cwd=case, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(draw.uniform(0.02, 0.98) * seconds)
    process.kill()
    return process.wait() == -9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tiny_stages.binary_argument(parser)
    parser.add_argument("--kills", type=int, default=10, help="kills of each sort a command (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments (default: 1)")
    parser.add_argument("--keep", type=pathlib.Path, help="keep the folders of failures here")
    arguments = parser.parse_args()
    binary, draw = arguments.gptkit.resolve(), random.Random(arguments.seed)
    failures = []
    print("| command | random kills | the same | aimed kills | the same |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="gptkit-kill-") as scratch:
        scratch = pathlib.Path(scratch)
        lab = scratch / "lab"
        laboratory(binary, lab)
        for stage in arguments.stage or STAGES:
            words = STAGES[stage][0]
            whole, case = scratch / "whole", scratch / "case"
            moments = []
            for call in CALLS:
                if len(moments) < arguments.kills:
                    targets = calls_of(call, binary, words, fresh(lab, case), scratch / "calls")
                    some = aims(targets, arguments.kills - len(moments))
                    moments += [(call, n, f"{what} of {len(targets)} calls of {call}, {targets[n - 1]}") for n, what in some]
            begun = time.monotonic()
            must(binary, words, fresh(lab, case))
            seconds = time.monotonic() - begun
            fresh(case, whole)
            same = {"random": 0, "aimed": 0}
            made = {"random": 0, "aimed": 0}

            def judge(sort, turn, what):
                made[sort] += 1
                given, ran = again(binary, stage, case, turn)
                wrong = [f"exit code {ran.returncode}: {last_words(ran)[0]}"] if ran.returncode else []
                wrong += differences(case, whole)
                same[sort] += not wrong
                if wrong:
                    failures.append(f"{stage}, {what}, then `{given.split(' --')[0]} …`: " + "; ".join(wrong))
                    if arguments.keep:
                        fresh(case, arguments.keep / f"{stage}-{sort}-{turn}")

            turn = 0
            while made["random"] < arguments.kills and turn < 5 * arguments.kills:
                turn += 1
                if kill_at_random(binary, words, fresh(lab, case), seconds, draw):
                    judge("random", made["random"], f"random kill {turn}")
            for turn, (call, number, what) in enumerate(moments):
                inject = f"inject={call}:signal=KILL:when={number}"
                ran = strace(binary, words, fresh(lab, case), ["-e", f"trace={call}", "-e", inject])
                if ran.returncode == 0:
                    continue  # this run had fewer
                judge("aimed", turn, f"killed at number {number}, {what}")
            print(f"| {stage} | {made['random']} | {same['random']} | {made['aimed']} | {same['aimed']} |", flush=True)
    for failure in failures:
        print(failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
