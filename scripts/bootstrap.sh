#!/bin/sh
# Finds a Python >= 3.11 (or takes $PYTHON) and lets it prepare .venv. A candidate must run: version managers leave
# stand-ins on the PATH for versions that are not there.
here=${0%/*}

prepare_with() {
    candidate=$1
    shift
    if "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$candidate" -E "$here/bootstrap.py" "$@"
    fi
}

if [ -n "${PYTHON:-}" ]; then
    prepare_with "$PYTHON" "$@"
    echo "PYTHON=$PYTHON does not run, or is older than 3.11: name another one, or leave PYTHON out." >&2
    exit 1
fi
for python in python3 python3.13 python3.12 python3.11 python3.14; do
    prepare_with "$python" "$@"
done
echo "forge-otel needs Python 3.11 or newer and found none: apt-get install python3 python3-venv, or make PYTHON=/path/to/python3." >&2
exit 1
