"""Starts the process of `forge_otel.outbox.bulk_main`, and talks to it."""

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

__all__ = ["DrainProcess"]

# What it needs of the package is a few rooms. With all that the package itself imports it would be twice as large, and
# take a second to start instead of a tenth. Secrets come through the pipe: arguments and variables are seen by others.
_BOOT: Final = """
import json, sys, types
options = json.loads(sys.stdin.buffer.readline())
sys.path[:] = options["path"]
package = sys.modules[options["package"]] = types.ModuleType(options["package"])
package.__path__ = options["folders"]
from forge_otel.outbox.bulk_main import main
main(options)
"""
_LABEL: Final = "forge-otel: drains the outbox"
_INTERPRETERS: Final = ("python", "pypy")
_END_PATIENCE_S: Final = 1.0

Message = dict[str, Any]


class DrainProcess:
    """A new interpreter, never a fork of this one, that ends when this process does.

    Args:
        connect: what `asyncpg.connect` is given.
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
        self._ended = asyncio.Event()
        # Starting a process takes a while, and waiting for its end would leave a zombie where nobody does.
        self._thread = threading.Thread(target=self._follow, name="forge-drain", daemon=True)

    def start(self) -> None:
        """Begin to start it; where that fails, it has ended."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Its number, None before it has one."""
        return None if self._process is None else self._process.pid

    def ask(self, message: Message) -> None:
        """Send a message; one that does not arrive is answered with the end."""
        self._ask(_line(message))

    async def answer(self, *, timeout_s: float) -> Message | None:
        """Return its next message, None when it has ended.

        Raises:
            TimeoutError: there is none in time.
        """
        return await asyncio.wait_for(self._messages.get(), timeout_s)

    def kill(self) -> None:
        """End it, at whatever it is."""
        self._is_killed = True
        if self._process is not None:
            self._process.kill()

    async def ended(self) -> None:
        """Wait for its end, but not long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _END_PATIENCE_S)

    # On the thread

    def _follow(self) -> None:
        try:
            self._watch()
        except (OSError, ValueError) as exc:
            self._post({"impossible": f"{type(exc).__name__}: {exc}"})
        self._post(None)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)

    def _watch(self) -> None:
        if getattr(sys, "frozen", False) or not Path(sys.executable).name.startswith(_INTERPRETERS):
            raise OSError(f"{sys.executable!r} is no Python that could be started")
        with subprocess.Popen(  # noqa: S603 - this interpreter, with words of ours
            [sys.executable, "-I", "-c", _BOOT, _LABEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            self._process = process
            # Either this thread sees that it is not wanted any more, or `kill` sees the process.
            if self._is_killed:
                process.kill()
            self._ask(self._first)
            self._post({"started": process.pid})
            for line in process.stdout or ():
                self._post(json.loads(line))

    def _ask(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, ValueError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def _post(self, message: Message | None) -> None:
        # The loop is closed already where the process outlived it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._messages.put_nowait, message)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
