#!/usr/bin/env bash
# Takes the README's picture, docs/report.png: the section of a lineage's report that puts the same questions to every
# generation.
#
#   scripts/readme_picture.sh [runs/lineage/report.html]
#
# Needs Chromium (or Chrome) and python3. Pillow, which crops the picture and reduces its colors, is installed into
# target/picture.
set -euo pipefail
report=$(realpath "${1:-runs/lineage/report.html}")
[[ -f $report ]] || { echo "$report does not exist; run gptkit lineage first" >&2; exit 1; }
cd "$(dirname "$0")/.."
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
  { echo "no Chromium or Chrome is on the path" >&2; exit 1; }
python=target/picture/bin/python
[[ -x $python ]] || { python3 -m venv target/picture && $python -m pip install -q pillow==13.0.0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A copy of the report without the other sections.
python3 - "$report" "$folder/section.html" <<'PYTHON'
import pathlib, sys

report, section = map(pathlib.Path, sys.argv[1:])
text = report.read_text(encoding="utf-8")
for needed in ("</head>", '<section aria-labelledby="questions">'):
    if needed not in text:
        sys.exit(f"{report} has no {needed}")
style = """<style>
body { display: block; padding: 1.5rem; }
header, nav, details, main > :not([aria-labelledby=questions]) { display: none !important; }
p { max-width: none !important; }
h2 { margin: 0 0 1rem !important; padding: 0 !important; border: 0 !important; }
</style>"""
section.write_text(text.replace("</head>", style + "</head>", 1), encoding="utf-8")
PYTHON
"$browser" --headless --no-sandbox --hide-scrollbars --force-device-scale-factor=1.4 --window-size=1300,2000 \
  --screenshot="$folder/section.png" "file://$folder/section.html" 2>"$folder/log" || { cat "$folder/log" >&2; exit 1; }
"$python" - "$folder/section.png" docs/report.png <<'PYTHON'
import os, sys
from PIL import Image, ImageChops

taken, written = sys.argv[1:]
picture = Image.open(taken).convert("RGB")
paper = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
left, top, right, bottom = ImageChops.difference(picture, paper).getbbox()
picture = picture.crop((0, 0, picture.width, bottom + top))  # as much room below as above
picture = picture.quantize(96, method=Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
picture.save(written, optimize=True)
size = os.path.getsize(written)
print(f"{written}: {picture.width} × {picture.height}, {size / 1000:.0f} kB")
if size > 200_000:
    sys.exit("larger than 200 kB: take fewer colors, or a smaller window")
PYTHON
