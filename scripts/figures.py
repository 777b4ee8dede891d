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

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE = ROOT / "docs/figures.json"


def must_be_idle():
    """Ends the program where a measurement would not count: other work, or sources that no commit has."""
    if (load := os.getloadavg()[0]) > 0.5:
        sys.exit(f"--write: the load average is {load:.2f}; it must be below 0.5, so that nothing else runs")
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/figures.json"):
        sys.exit(f"--write: commit these changes first, since a figure names its commit:\n{changed}")


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
    places = [i for i, one in enumerate(figures) if one["name"] == name]
    if places:
        figures[places[0]] = figure
    else:
        figures.append(figure)
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
