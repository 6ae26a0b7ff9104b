#!/bin/sh
# Installs Chromium, Prometheus and its alertmanager from Debian, which marked tests need. Without root they are skipped.
set -eu

has_all() {
    for program in "$@"; do
        command -v "$program" >/dev/null || return 1
    done
}

if has_all chromium prometheus promtool prometheus-alertmanager; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "not root: tests that need Chromium or Prometheus are skipped"
    exit 0
fi
# Debian starts the services that it installs, unless this file forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
timeout 300 apt-get update --quiet=2
timeout 600 apt-get install --quiet=2 --yes --no-install-recommends chromium prometheus prometheus-alertmanager \
    >"$log" 2>&1 || { tail -n 20 "$log"; exit 1; }
rm -f "$log"
