#!/bin/sh
# Builds the wheel, installs it without extras into an empty environment, and runs what must work there.
set -eu
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
.venv/bin/python -m hatchling build --target wheel --directory "$scratch/wheel"
.venv/bin/python -m venv --without-pip "$scratch/bare"
UV_CACHE_DIR=.venv/.cache/uv .venv/bin/uv pip install --quiet --system-certs --python "$scratch/bare/bin/python" \
    --constraint constraints.txt "$scratch"/wheel/*.whl
cd "$scratch"
bare/bin/python -c 'import forge_otel'
bare/bin/forge-otel --help
