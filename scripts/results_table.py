"""Writes the table of claims in docs/lineage.md from the report.json of `gptkit lineage`.

    python3 scripts/results_table.py runs/lineage/report.json
"""

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "lineage.md"


def shown(value, unit):
    """A value as the page shows it."""
    match unit:
        case "percent":
            return f"{value:.1f}%"
        case "points":
            return f"{value:+.1f}"
        case "speed":
            return f"{value / 1000:.1f}k"
        case "nats":
            return f"{value:.3f}"
        case _:
            return f"{value:.2f}"


def comparison(one):
    """`transformer 18.6k, LSTM 14.3k (difference 4.4k ± 3.1k)`"""
    unit, pairs = one["unit"], [pair for _, pair in one["pairs"]]
    mean = lambda side: sum(pair[side] for pair in pairs) / len(pairs)
    interval = shown(one["half_interval"], unit).lstrip("+")
    return (
        f"{one['what']}: {one['more']} {shown(mean('more'), unit)}, {one['less']} {shown(mean('less'), unit)}"
        f" (difference {shown(one['mean'], unit)} ± {interval})"
    )


def main():
    report = json.loads(Path(sys.argv[1]).read_text())
    claims = report["shapes"]
    rows = ["| claim of the paper | mean of the seeds, with the 95% interval of the difference | result |", "| --- | --- | --- |"]
    for claim in claims:
        figures = "; ".join(comparison(one) for one in claim["comparisons"])
        rows.append(f"| {claim['claim']} ({claim['source']}) | {figures} | {claim['verdict']} |")
    table = "\n".join(["<!-- story -->", *rows, "<!-- /story -->"])
    page = PAGE.read_text()
    new, n = re.subn(r"<!-- story -->.*?<!-- /story -->", lambda _: table, page, flags=re.S)
    assert n == 1, "docs/lineage.md has no part between <!-- story --> and <!-- /story -->"
    PAGE.write_text(new)
    print(f"{len(claims)} claims, {claims[0]['n_seeds']} seeds")


main()
