#!/usr/bin/env bash
# Builds the wheel for this machine's architecture, with man pages and completions, into a folder. zig links it for glibc 2.17
# (manylinux2014). Needs Rust, a C compiler and Python.
#
#     scripts/wheel.sh [FOLDER, default target/wheels]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/wheels} tools=${CARGO_TARGET_DIR:-target}/tools
[[ -x $tools/bin/maturin ]] || python3 -m venv "$tools"
"$tools/bin/pip" install -q maturin==1.16.0 ziglang==0.17.1
PATH=$(realpath "$tools")/bin:$PATH
binary=${CARGO_TARGET_DIR:-target}/$(rustc -vV | sed -n 's/^host: //p')/release/gptkit
build() { maturin build --release --zig --compatibility manylinux2014 --out "$out"; }
rm -rf gptkit.data
build
# Nothing is compiled again: the second wheel takes the place of the first.
scripts/share.sh "$binary"
build
