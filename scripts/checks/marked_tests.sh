#!/bin/sh
# Runs the tests that need Prometheus, Chromium, the built collector or a strict S3 server. As root none may be skipped.
set -eu
cd "$(dirname "$0")/../.."

PATH="$PWD/.cache/tools:$PATH"
required=""
[ "$(id -u)" -ne 0 ] || required=1
FORGE_TEST_REQUIRE_TOOLS=$required timeout 900 \
    .venv/bin/python -m pytest -m "prometheus or chromium or collector or strict_s3"
