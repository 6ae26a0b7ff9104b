#!/bin/sh
# Builds the programs that marked tests need and that no package brings, with Go, into .cache/tools; what is there in the
# wanted version is left alone. Put that folder on the PATH to use them.
set -eu
cd "$(dirname "$0")/.."

versitygw=v1.8.0

command -v go >/dev/null || { echo "no Go: the tests that need versitygw are skipped"; exit 0; }
tools=$PWD/.cache/tools
mkdir -p "$tools"
if ! go version -m "$tools/versitygw" 2>/dev/null | grep -q "versity/versitygw.$versitygw"; then
    echo "building versitygw $versitygw …"
    GOBIN=$tools go install "github.com/versity/versitygw/cmd/versitygw@$versitygw"
fi
