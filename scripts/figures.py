"""The measurements that the README and docs/speed.md show: docs/figures.json.

A benchmark that is called with --write calls `must_be_idle` before it measures, and `record` for each of its cases.
Afterwards, `INSTA_UPDATE=always cargo test --workspace` fills the tables of the pages.
"""
import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE = ROOT / "docs/figures.json"


def must_be_idle():
    """Ends the program where a measurement would not count: sources that no commit has, or other work.

    The load average falls for some minutes after work has ended, so this waits for it.
    """
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/figures.json"):
        sys.exit(f"--write: commit these changes first, since a figure names its commit:\n{changed}")
    for _ in range(20):
        if (load := os.getloadavg()[0]) < 0.5:
            return
        print(f"waiting: the load average is {load:.2f}, and must be below 0.5", file=sys.stderr)
        time.sleep(15)
    sys.exit("--write: other work runs on this machine")


def record(gptkit, script, name, task, unit, ours, other, other_is, distributions, ours_gb=None, other_gb=None):
    """Writes a case: `unit` is tokens/s or s; `distributions` are the packages whose versions matter."""
    memory = {"gptkit_gb": digits(ours_gb), "other_gb": digits(other_gb)} if ours_gb and other_gb else {}
    figure = {
        "name": name, "task": task, "unit": unit, "gptkit": digits(ours), "other": digits(other), "other_is": other_is,
        **memory, "ratio": round(ours / other if unit == "tokens/s" else other / ours, 2),
        "cores": len(os.sched_getaffinity(0)), "processor": processor(gptkit), "commit": git("rev-parse", "--short", "HEAD"),
        "date": datetime.date.today().isoformat(), "versions": versions(distributions),
        "script": f"scripts/{pathlib.Path(script).name}",
    }
    figures = json.loads(FILE.read_text(encoding="utf-8"))
    names = [one["name"] for one in figures]
    if name in names:
        figures[names.index(name)] = figure
    else:  # behind the others of the script
        of_script = [i for i, one in enumerate(figures) if one["script"] == figure["script"]]
        figures.insert(of_script[-1] + 1 if of_script else len(figures), figure)
    FILE.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def digits(value):
    """Three digits or more, and no fraction of a hundred or more."""
    return round(value) if value >= 100 else float(f"{value:.3g}")


def processor(gptkit):
    """The processor's name, with the instructions that gptkit multiplies bf16 by."""
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    name = re.sub(r"\((R|TM)\)|\b(Processor|CPU)\b|@.*", "", model[1] if model else "unknown processor")
    info = subprocess.run([gptkit, "info"], capture_output=True, check=True, text=True).stdout
    products = re.search(r"bf16 products\s+([^;\n]*)", info)[1]
    return f"{' '.join(name.split())} with {products}"


def versions(distributions):
    names = {"torch": "PyTorch"}
    return ", ".join(f"{names.get(one, one)} {importlib.metadata.version(one).split('+')[0]}" for one in distributions)


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()
