#!/bin/sh
# Builds into .cache/tools the programs that marked tests need and that no package brings; needs Go. A program that is
# there in the wanted version is kept.
set -eu
cd "$(dirname "$0")/../.."

versitygw=v1.8.0

command -v go >/dev/null || { echo "no Go: the tests that need versitygw are skipped"; exit 0; }
tools=$PWD/.cache/tools
mkdir -p "$tools"
if ! go version -m "$tools/versitygw" 2>/dev/null | grep -q "versity/versitygw.$versitygw"; then
    echo "building versitygw $versitygw …"
    GOBIN=$tools timeout 900 go install "github.com/versity/versitygw/cmd/versitygw@$versitygw"
fi
