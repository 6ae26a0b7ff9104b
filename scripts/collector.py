"""Builds the collector of collector/builder.yaml with Go, and validates the files that it is started with.

    .venv/bin/python scripts/collector.py [--validate]

The program is kept in .cache/collector, in a folder named for builder.yaml and Go, so that it is built once.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["FILES", "build", "command", "main", "program"]

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "collector"
BUILDER = FOLDER / "builder.yaml"
CACHE = ROOT / ".cache" / "collector"
OCB = "go.opentelemetry.io/collector/cmd/builder"
FILES = ("agent.yaml", "gateway.yaml")


@cache
def program() -> Path:
    """Return where the program is, or will be."""
    go = subprocess.run(["go", "version"], check=True, capture_output=True, text=True).stdout
    key = hashlib.sha256(BUILDER.read_bytes() + go.encode()).hexdigest()[:16]
    return CACHE / key / "forge-collector"


def build() -> None:
    """Build the program unless it exists."""
    if program().exists():
        return
    program().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="building-") as folder:
        # Renamed when it is complete: another process may look for it, or build it, at the same time.
        _build_in(Path(folder)).replace(program())


def _build_in(folder: Path) -> Path:
    version = re.search(r"^  version: (\S+)$", BUILDER.read_text(encoding="utf-8"), re.MULTILINE)
    if version is None:
        raise SystemExit(f"{BUILDER} names no version")
    environ = os.environ | {"GOBIN": str(folder)}
    polite = ["nice", "-n", "5"] if shutil.which("nice") else []
    subprocess.run([*polite, "go", "install", f"{OCB}@v{version[1]}"], check=True, cwd=folder, env=environ)
    subprocess.run([*polite, str(folder / "builder"), f"--config={BUILDER}"], check=True, cwd=folder, env=environ)
    return folder / "build" / "forge-collector"


def command(file: str, *, verb: str = "") -> list[str | Path]:
    """Return the command line that serves, or validates, one of `FILES`."""
    return [program(), *([verb] if verb else []), f"--config={FOLDER / 'redaction.yaml'}", f"--config={FOLDER / file}"]


def main(arguments: list[str]) -> int:
    """Build the program, print its path, and validate the configurations with `--validate`."""
    if shutil.which("go") is None:
        print("no Go: the collector is not built, and its tests are skipped")
        return 0
    build()
    print(program())
    # Every value of a variable that changes which components there are.
    both = os.environ | {"GATEWAY_DESTINATIONS": "[otlp_http/langsmith, otlp_http/any]"}
    for file in FILES if "--validate" in arguments else ():
        for environ in (os.environ, both):
            subprocess.run(command(file, verb="validate"), check=True, env=environ)
        print(f"{file} is valid")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
