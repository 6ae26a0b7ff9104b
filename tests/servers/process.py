"""The life of a server process: start, readiness, pause, crash, restart, stop.

A server registers itself with the watchdog *before* it becomes the server: the shell that precedes it writes its own
process id into the watchdog's pipe (its standard input) and then turns into the server by `exec`. So there is no
moment at which a killed test process leaves an orphan, and `Popen.pid` is the server's own id.
"""

import asyncio
import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals
from typing import IO, ClassVar, Self

from tests.servers import watchdog

LOOPBACK = "127.0.0.1"
START_S = 30.0
STOP_S = 10.0
PROBE_S = 2.0
POLL_S = 0.01
NOBODY = 65534
REGISTERED = 'echo "+process $$ $1" >&0; shift; exec "$@" </dev/null'


class ServerMissing(Exception):
    """This machine has no such server; the message names the package that brings it."""


class ServerFailed(Exception):
    """The server did not start; the message ends with the tail of its log."""


class Server(ABC):
    """One server on a free loopback port, its data in a temporary folder that goes when it goes."""

    name: ClassVar[str]
    stop_signal: ClassVar[Signals] = SIGTERM
    user: int | None = None
    """The user id that the server runs as; None for that of the tests."""

    def __init__(self) -> None:
        self.port = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str | Path]:
        """Command line that serves `self.folder` on `self.port` in the foreground."""

    @abstractmethod
    def probe(self) -> bool:
        """One handshake in the server's own protocol; an OSError counts as "not yet"."""

    def prepare(self) -> None:
        """Make the folder and what the server wants to find in it; called once, before the first start."""
        self._folder = _temporary_folder(self.name, self.user)

    def clear(self) -> None:
        """Remove the folder, and what the server left elsewhere; called once, after the last stop."""
        shutil.rmtree(self.folder)
        tell_watchdog(f"-folder {self.folder}")
        self._folder = None

    @property
    def folder(self) -> Path:
        """Where data and log live."""
        if self._folder is None:
            raise RuntimeError(f"this {self.name} has not been started; use it as a context manager")
        return self._folder

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._running().pid

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self._start_on_free_port()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        if self._folder is not None:
            self.clear()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.__exit__)

    def start(self) -> None:
        """Start again after `stop` or `kill`: same port, same data."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                return self._start()
            except ServerFailed as error:
                # Connections and shared memory of the predecessor may take a moment to go.
                if "in use" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(10 * POLL_S)

    def restart(self) -> None:
        """Stop in order, then start with the same port and data."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Stop in order, paused or not; by force when it takes too long. Nothing happens if it is not running."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(self.stop_signal)
            self.resume()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._forget()

    def kill(self) -> None:
        """Crash: SIGKILL to the server and the processes it has started, its port and data stay for `start`."""
        family = self._family()
        for pid in family:
            watchdog.signal_all(pid, SIGKILL)
        self._running().wait()
        wait_until(lambda: not any(map(watchdog.is_running, family)), f"{self.name} to be gone", STOP_S)
        self._forget()

    def pause(self) -> None:
        """Freeze: connections are accepted by the kernel, nothing is answered."""
        _freeze(self.pid)  # first, so that it has no more children
        for pid in self._family()[1:]:
            _freeze(pid)

    def resume(self) -> None:
        """Go on after `pause`."""
        for pid in reversed(self._family()):
            watchdog.signal_all(pid, SIGCONT)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server wrote."""
        log = self.folder / "server.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def run(self, *command: str | Path) -> None:
        """Run a helper of the server (such as initdb) to its end, as the server's user and under the watchdog."""
        with self._log() as log:
            process = self._spawn(command, log)
            code = process.wait(START_S)
        tell_watchdog(f"-process {process.pid}")
        if code != 0:
            raise ServerFailed(f"{command[0]} ended with code {code}:\n{self.log_tail()}")

    def _start_on_free_port(self) -> None:
        """Start on a free port; try once more if another process takes it before the server binds it."""
        for _ in range(2):
            self.port = free_port()
            try:
                return self._start()
            except ServerFailed as error:
                if "in use" not in str(error):
                    raise
        self.port = free_port()
        return self._start()

    def _start(self) -> None:
        if self._process is not None:
            raise RuntimeError(f"this {self.name} is running already")
        with self._log() as log:
            log.truncate(0)
            self._process = self._spawn(self.command(), log)
        try:
            wait_until(self._is_ready, f"{self.name} on port {self.port}", START_S)
        except (ServerFailed, TimeoutError) as error:
            tail = self.log_tail()
            self.stop()
            raise ServerFailed(f"{error}; the end of its log:\n{tail}") from error

    def _is_ready(self) -> bool:
        code = self._running().poll()
        if code is not None:
            raise ServerFailed(f"{self.name} ended with code {code} instead of starting")
        try:
            return has_port(self.pid, self.port) and self.probe()
        except OSError:
            return False

    def _spawn(self, command: Sequence[str | Path], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", REGISTERED, "sh", str(int(self.stop_signal)), *command],
            stdin=_watchdog_pipe(),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LC_ALL": "C"},
            start_new_session=True,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )

    def _log(self) -> IO[bytes]:
        return (self.folder / "server.log").open("ab")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"this {self.name} is not running")
        return self._process

    def _family(self) -> list[int]:
        """The server, then its children, grandchildren …; nothing once its exit code was read."""
        if self._running().poll() is not None:
            return []
        parents = {int(path.name): watchdog.stat_fields(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
        family = [self.pid]
        for member in family:
            family.extend(pid for pid, fields in parents.items() if fields and int(fields[1]) == member)
        return family

    def _forget(self) -> None:
        tell_watchdog(f"-process {self.pid}")
        self._process = None


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def has_port(pid: int, port: int) -> bool:
    """Return whether this process listens on the port; another one there may speak the same protocol."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f"socket:[{line[9]}]" for line in sockets if line[1].endswith(f":{port:04X}") and line[3] == "0A"}
    return any(str(descriptor.readlink()) in listening for descriptor in Path(f"/proc/{pid}/fd").iterdir())


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Poll until the condition holds; TimeoutError names what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(POLL_S)


def is_open_to_all(path: Path) -> bool:
    """Return whether any user may reach this path through its parents."""
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.resolve().parents) if parent.is_dir())


def tell_watchdog(line: str) -> None:
    """Put a process or folder on the watchdog's list, or take it off."""
    os.write(_watchdog_pipe(), f"{line}\n".encode())


@cache
def _watchdog_pipe() -> int:
    """The pipe to the one watchdog of this test process, which starts with the first server."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", Path(watchdog.__file__)],
        stdin=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    )
    atexit.register(process.communicate)
    if process.stdin is None:
        raise RuntimeError("the watchdog has no pipe")
    return process.stdin.fileno()


def _temporary_folder(name: str, user: int | None) -> Path:
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    place = next((place for place in places if user is None or is_open_to_all(place)), places[0])
    folder = Path(tempfile.mkdtemp(prefix=f"forge-{name}-", dir=place)).resolve()
    tell_watchdog(f"+folder {folder}")
    if user is not None:
        os.chown(folder, user, user)
    return folder


def _freeze(pid: int) -> None:
    def is_frozen() -> bool:
        fields = watchdog.stat_fields(pid)
        return not fields or fields[0] in "TZX"

    watchdog.signal_all(pid, SIGSTOP)
    wait_until(is_frozen, f"process {pid} to pause", STOP_S)
