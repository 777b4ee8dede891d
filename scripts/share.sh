#!/usr/bin/env bash
# Writes gptkit's man pages and completions to gptkit.data/, where wheels (maturin) and release archives (cargo-dist) take them.
#
#     scripts/share.sh BINARY
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
share=gptkit.data/data/share
rm -rf gptkit.data
mkdir -p $share/{man/man1,bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
"$binary" man --out $share/man/man1
"$binary" completions bash >$share/bash-completion/completions/gptkit
"$binary" completions zsh >$share/zsh/site-functions/_gptkit
"$binary" completions fish >$share/fish/vendor_completions.d/gptkit.fish
