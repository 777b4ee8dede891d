#!/usr/bin/env python3
"""Make the fixture of the conformance rows of kind `runs`: learning rates that transformers' schedules give, and settings
that a run does not come to, with the words that must be said before its first step.

    python scripts/conformance/runs.py tests/golden/conformance

gptkit's first step has the rate at its end, so that no step has the rate 0: within the warm-up its rates are those of
transformers one step later, and from there on the same.
"""
import json
import pathlib
import sys

import torch
import transformers
from transformers import optimization

STEPS, WARMUP, LR = 12, 4, 1e-3
COMMON = ["train.length=12 steps", "train.warmup=4 steps", "train.lr=1e-3"]


def rates(make):
    """The rate of each step: of the next one within the warm-up."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    schedule = make(optimizer)
    found = []
    for _ in range(STEPS + 1):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found[1:WARMUP + 1] + found[WARMUP:STEPS]


SCHEDULES = [
    ("constant after a warm-up", ["train.decay=\"constant\"", "train.min_lr=0"],
     lambda o: optimization.get_constant_schedule_with_warmup(o, WARMUP)),
    ("linear after a warm-up", ["train.decay=\"linear\"", "train.min_lr=0"],
     lambda o: optimization.get_linear_schedule_with_warmup(o, WARMUP, STEPS)),
    ("cosine after a warm-up", ["train.min_lr=0"], lambda o: optimization.get_cosine_schedule_with_warmup(o, WARMUP, STEPS)),
    ("cosine to a lowest rate", ["train.min_lr=1e-4"],
     lambda o: optimization.get_cosine_with_min_lr_schedule_with_warmup(o, WARMUP, STEPS, min_lr=1e-4)),
    ("stable, then linear", ["train.decay=\"linear\"", "train.min_lr=0", "train.decay_start=8 steps"],
     lambda o: optimization.get_wsd_schedule(o, num_warmup_steps=WARMUP, num_decay_steps=4, num_stable_steps=4,
                                             decay_type="linear")),
]
SHORT = ["train.length=5 steps", "train.warmup=0 steps"]
# name, settings, more arguments, words of a warning before the first step; a run without any has none
WARNINGS = [
    ("nothing to say", [*SHORT], [], []),
    ("warm-up longer than the run", ["train.length=5 steps", "train.warmup=100 steps"], [],
     ["train.warmup = \"100 steps\" is longer than the run", "never reaches train.lr"]),
    ("decay longer than the run", [*SHORT, "train.decay_end=50 steps"], [], ["train.decay_end = \"50 steps\" is after the end"]),
    ("decay after the run", [*SHORT, "train.decay_start=5 steps"], [], ["the learning rate does not decay"]),
    ("lowest rate of a constant one", [*SHORT, "train.decay=\"constant\"", "train.min_lr=1e-4"], [],
     ["train.min_lr = 1e-4 has no effect with train.decay = \"constant\""]),
    ("ramp longer than the run", [*SHORT, "train.batch_ramp_start=1", "train.batch_ramp=500 steps"], [],
     ["train.batch_ramp = \"500 steps\" is longer than the run", "never reaches train.batch_size = 2"]),
    ("validation never due", [*SHORT, "train.eval_every=500"], [], ["train.eval_every = 500 is longer than the run of 5 steps"]),
    ("validation part under a window", [*SHORT, "data.val_fraction=0.0005"], [], ["there is no validation loss for it"]),
    ("weight below a thousandth", [*SHORT], ["--data", "a.txt@1", "--data", "b.txt@0.0005"],
     ["b.txt has 0.050% of the weight but gets 0.1% of the windows"]),
]
# name, settings that are edited between stop and resume (before → after), words of the refusal or note, whether it goes on
EDITS = [
    ("batch size changed", [["batch_size = 2", "batch_size = 4"]], ["train.batch_size was 2 and is now 4"], False),
    ("learning rate changed", [["\nlr = 0.001", "\nlr = 0.002"]], ["train.lr was 0.001 and is now 0.002"], False),
    ("length changed under a cosine", [["12 steps", "18 steps"]],
     ["train.length was \"12 steps\" and is now \"18 steps\"", "train.decay_end was not set and is now \"12 steps\""], True),
    ("text changed", [], ["a.txt has changed since it was prepared"], True),
]


def main():
    rows = [{"name": name, "kind": "schedule", "set": [*COMMON, *more], "rates": rates(make)}
            for name, more, make in SCHEDULES]
    rows += [{"name": name, "kind": "warning", "set": settings, "arguments": arguments, "words": words}
             for name, settings, arguments, words in WARNINGS]
    rows += [{"name": name, "kind": "edit", "set": COMMON, "edits": edits, "words": words, "resumes": resumes}
             for name, edits, words, resumes in EDITS]
    fixture = {"made_with": {"transformers": transformers.__version__, "torch": torch.__version__}, "rows": rows}
    path = pathlib.Path(sys.argv[1]) / "runs.json"
    path.write_text(json.dumps(fixture, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
