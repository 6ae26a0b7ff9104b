#!/bin/sh
# Runs the demo and a first test in a clean clone with an empty home. Root steps down to an unprivileged user, who has
# nothing but the clone.
set -eu
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
mkdir "$scratch/home"
# The space in the name finds unquoted paths.
git clone --quiet --no-hardlinks . "$scratch/a clone"

unprivileged() {
    if [ "$(id -u)" -eq 0 ]; then
        chown -R 65534:65534 "$scratch"
        setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$scratch/home" "$@"
    else
        HOME="$scratch/home" "$@"
    fi
}

unprivileged timeout 300 make -C "$scratch/a clone" demo ONCE=1
unprivileged timeout 300 make -C "$scratch/a clone" test ARGS="tests/test_servers.py --quiet"
