"""Parent's side of the bulk load process: start, messages and end. `forge_otel.outbox.bulk_main` is the other side."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["BulkProcess"]

# The package's own `__init__` is bypassed: with its imports the process would need twice the memory and a second to
# start instead of a tenth. Secrets come through the pipe, because other users can read arguments and variables.
_BOOT: Final = """
import json, sys, types
options = json.loads(sys.stdin.buffer.readline())
sys.path[:] = options["path"]
package = sys.modules[options["package"]] = types.ModuleType(options["package"])
package.__path__ = options["folders"]
from forge_otel.outbox.bulk_main import main
main(options)
"""
_LABEL: Final = "forge-otel: outbox bulk load"
_INTERPRETERS: Final = ("python", "pypy")

Message = dict[str, Any]


class BulkProcess:
    """A new interpreter, never a fork of this one, that ends with this process.

    Args:
        connect: keyword arguments of `asyncpg.connect`.
    """

    def __init__(self, connect: Mapping[str, Any]) -> None:
        package = __name__.partition(".")[0]
        options = {
            "connect": dict(connect),
            "folders": list(sys.modules[package].__path__),
            "package": package,
            "parent": os.getpid(),
            "path": [str(folder) for folder in sys.path],
        }
        self._first = _line(options)
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False
        # A thread, because starting a process blocks, and its end must be awaited or it stays a zombie.
        self._thread = threading.Thread(target=self._follow, name="forge-bulk-load", daemon=True)

    def start(self) -> None:
        """Start the process in the background; a failure arrives as a message and the end."""
        self._thread.start()

    def send(self, message: Message) -> None:
        """Send a message; if the process is dead, `receive` returns None."""
        self._write(_line(message))

    async def receive(self, *, timeout_s: float) -> Message | None:
        """Return the next message of the process, or None after its end.

        Raises:
            TimeoutError: no message within `timeout_s`.
        """
        return await asyncio.wait_for(self._messages.get(), timeout_s)

    def kill(self) -> None:
        """Kill the process."""
        self._is_killed = True
        if self._process is not None:
            self._process.kill()

    # On the thread

    def _follow(self) -> None:
        try:
            self._watch()
        except (OSError, ValueError) as exc:
            self._post({"impossible": f"{type(exc).__name__}: {exc}"})
        self._post(None)

    def _watch(self) -> None:
        if getattr(sys, "frozen", False) or not Path(sys.executable).name.startswith(_INTERPRETERS):
            raise OSError(f"{sys.executable!r} is not a Python interpreter")
        with subprocess.Popen(  # noqa: S603 - this interpreter with constant arguments
            [sys.executable, "-I", "-c", _BOOT, _LABEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            self._process = process
            # `kill` may have run before the process was visible to it.
            if self._is_killed:
                process.kill()
            self._write(self._first)
            self._post({"started": process.pid})
            for line in process.stdout or ():
                self._post(json.loads(line))

    def _write(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, ValueError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def _post(self, message: Message | None) -> None:
        # The event loop may be closed before the process ends.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._messages.put_nowait, message)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
