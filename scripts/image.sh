#!/usr/bin/env bash
# Builds the container image from a binary of gptkit for Linux.
#
#     scripts/image.sh BINARY NAME [OPTION…]
#
# The options go to the builder: docker, or what BUILDER names, for instance BUILDER="buildah build --format docker".
set -euo pipefail
binary=$(realpath "$1") name=$2
cd "$(dirname "$0")/.."
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
install -m 755 "$binary" "$context/gptkit"
cp LICENSE-MIT LICENSE-APACHE "$context"
${BUILDER:-docker build} "${@:3}" -t "$name" -f Containerfile "$context"
