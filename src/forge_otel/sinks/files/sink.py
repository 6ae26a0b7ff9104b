"""The archive in a folder, for one machine: `file://./folder`, same layout and methods as on S3.

Each file is written beside its place, flushed to disk, and renamed, so that a reader sees the old content or the new
and never a part. Folders are opened one below the other without following symbolic links, so that no name and no link
leads out of the root. A component is written by one process at a time.
"""

import asyncio
import contextlib
import fcntl
import os
import stat
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import unquote, urlsplit

from forge_otel._internal.ids import new_id
from forge_otel._internal.periodic import Periodic
from forge_otel._internal.worker_thread import WorkerThread
from forge_otel.errors import NotFound, Rejected
from forge_otel.sinks.archive import MANIFEST, ROOMS, ArchivedObject, Bundle, bundle_keys, check_key, folders
from forge_otel.sinks.files.access import TEMPORARY, content_of, names, step, tidy, write_through
from forge_otel.sinks.files.retention import sweep
from forge_otel.types import Record

__all__ = ["FileArchive", "open_url"]

_LOCKS: Final = ".forge-locks"
_LOCK_COUNT: Final = 64
_PAGE: Final = 500
# Between a few bundles that are looked at, so that those that are to be stored get their turn.
_SWEEP_PAUSE_S: Final = 0.05

T = TypeVar("T")


def open_url(url: str, *, retention_days: float | None = None) -> "FileArchive":
    """Return the archive at `file://./relative` or `file:///absolute`."""
    parts = urlsplit(url)
    host = "" if parts.netloc == "localhost" else parts.netloc
    # Absolute now, because a service may change its working directory later.
    return FileArchive(Path(unquote(host + parts.path)).absolute(), retention_days=retention_days)


class FileArchive:
    """Stores artifacts below a folder.

    Args:
        root: made when the first artifact is stored.
        retention_days: how long a bundle is kept after it was last written; None keeps it for ever.
    """

    name = "archive"

    def __init__(self, root: Path, *, retention_days: float | None = None) -> None:
        self.root = root
        self._worker: WorkerThread[Callable[[], None]] | None = None
        self._retention_days = retention_days
        self.expired_files = 0
        """Files that this process has deleted because they were too old."""
        self._retention = Periodic(
            self._expire_old, name="forge-archive-retention", failing="old artifacts could not be deleted"
        )

    async def __aenter__(self) -> Self:
        if self._retention_days is not None:
            self._retention.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._retention.stop()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the artifacts of the records; those that are there already are left alone.

        Raises:
            Rejected: a name can never be stored, or a symbolic link is in the way.
            OSError: the disk does not take them now.
        """
        for record in records:
            if record.artifacts:
                await self._in_thread(partial(self._store, record))

    async def read(self, key: str) -> bytes:
        """Return the content stored under `key`.

        Raises:
            NotFound: there is none.
        """
        return await self._in_thread(partial(self._read, key))

    async def list(self, prefix: str = "") -> AsyncIterator[ArchivedObject]:
        """Go through what is stored under keys that begin with `prefix`, in their order."""
        found = self._walk(prefix)
        while page := await self._in_thread(lambda: list(islice(found, _PAGE))):
            for archived in page:
                yield archived

    async def delete(self, component_id: str) -> int:
        """Delete all that belongs to a component; return how many files that were.

        Raises:
            Rejected: the id cannot be one.
        """
        return await self._in_thread(partial(self._delete, component_id))

    async def expire(self, before: datetime) -> int:
        """Delete the bundles that were last written before a moment; nothing while another process is at it.

        Args:
            before: aware.

        Returns:
            How many files were deleted.

        Raises:
            OSError: the folder cannot be read or changed.
        """
        found = sweep(
            self.root, before_s=before.timestamp(), lock=self.root / _LOCKS / "retention", delete=self._delete
        )
        total = 0
        try:
            while (count := await self._in_thread(partial(next, found, None))) is not None:
                total += count
                self.expired_files += count
                await asyncio.sleep(_SWEEP_PAUSE_S)
        finally:
            # In the thread, where it may still be running; it holds a lock.
            self._started_worker().put(found.close)
        return total

    async def ping(self) -> None:
        """Write and remove an empty file.

        Raises:
            OSError: the folder cannot be written.
        """
        await self._in_thread(self._probe)

    async def _expire_old(self) -> None:
        await self.expire(datetime.now(UTC) - timedelta(days=self._retention_days or 0))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        self._started_worker().put(partial(_run, work, result, loop))
        return await result

    def _started_worker(self) -> WorkerThread[Callable[[], None]]:
        if self._worker is None:
            # A thread of our own: a folder that hangs must not keep the process from ending.
            self._worker = WorkerThread("forge-archive", _run_all)
            self._worker.start()
        return self._worker

    # What follows runs in a thread.

    def _store(self, record: Record) -> None:
        bundle = Bundle.of(record)
        with self._locked(record.component_id):
            stored = self._stored_manifest(bundle)
            if bundle.is_outdated_by(stored):
                return
            for key, content in bundle.objects.items():
                self._write(key, content)
            if not bundle.is_described_by(stored):
                self._write(bundle.manifest_key, bundle.manifest)
                for key in bundle_keys(record.component_id, stored) - set(bundle.objects):
                    self._remove(key)
                self._finish(bundle)

    def _stored_manifest(self, bundle: Bundle) -> bytes:
        try:
            return self._read(bundle.manifest_key)
        except NotFound:
            return b""

    def _write(self, key: str, content: bytes) -> None:
        *_, name = check_key(key)
        with self._folder(key, make=True) as folder:
            if content_of(folder, name) == content:
                return
            temporary = f"{TEMPORARY}{new_id()}"
            try:
                write_through(folder, temporary, content)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def _finish(self, bundle: Bundle) -> None:
        """Make the renames outlive a power cut, and remove what a killed process left half written."""
        for key in {check_key(key)[0]: key for key in (bundle.manifest_key, *bundle.objects)}.values():
            with self._folder(key, make=False) as folder:
                tidy(folder)
                os.fsync(folder)

    def _read(self, key: str) -> bytes:
        *_, name = check_key(key)
        try:
            with self._folder(key, make=False) as folder:
                content = content_of(folder, name)
        except (FileNotFoundError, Rejected):
            content = None
        if content is None:
            raise NotFound(f"nothing is archived under {key!r}")
        return content

    def _remove(self, key: str) -> int:
        *_, name = check_key(key)
        with contextlib.suppress(FileNotFoundError), self._folder(key, make=False) as folder:
            os.unlink(name, dir_fd=folder)
            return 1
        return 0

    def _delete(self, component_id: str, if_still: Callable[[], bool] = lambda: True) -> int:
        prefixes = folders(component_id)
        with self._locked(component_id):
            if not if_still():
                return 0
            keys = [found.key for prefix in prefixes for found in self._walk(prefix)]
            # The manifest first, so that no reader takes what is left for a whole bundle.
            keys.sort(key=lambda key: not key.endswith(f"/{MANIFEST}"))
            count = sum(self._remove(key) for key in keys)
            for prefix in prefixes:
                with contextlib.suppress(OSError):
                    (self.root / prefix).rmdir()
            return count

    def _walk(self, prefix: str) -> Iterator[ArchivedObject]:
        for room in ROOMS:
            for folder in names(self.root / room):
                stem = f"{room}/{folder}/"
                if stem.startswith(prefix) or prefix.startswith(stem):
                    yield from self._files(stem, prefix)

    def _files(self, stem: str, prefix: str) -> Iterator[ArchivedObject]:
        for name in names(self.root / stem):
            if name.startswith(TEMPORARY) or not (stem + name).startswith(prefix):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = (self.root / stem / name).lstat()
                if stat.S_ISREG(status.st_mode):
                    modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
                    yield ArchivedObject(stem + name, status.st_size, modified_at)

    def _probe(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        probe = self.root / f"{TEMPORARY}{new_id()}"
        probe.touch()
        probe.unlink()

    @contextlib.contextmanager
    def _folder(self, key: str, *, make: bool) -> Iterator[int]:
        """Open the folder of `key`, step by step, so that a symbolic link in the way is an error."""
        room, component_id, _ = check_key(key)
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            # The root itself may be a link: whoever runs the service chose it.
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, folder)
            for name in (room, component_id):
                folder = step(folder, name, make=make)
                opened.callback(os.close, folder)
            yield folder

    @contextlib.contextmanager
    def _locked(self, component_id: str) -> Iterator[None]:
        locks = self.root / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        number = zlib.crc32(component_id.encode()) % _LOCK_COUNT
        descriptor = os.open(locks / f"{number:02}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _run(work: Callable[[], T], result: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
    value: Any = None
    failure: BaseException | None = None
    try:
        value = work()
    except Exception as exc:
        failure = exc

    def tell() -> None:
        if not result.done():
            result.set_exception(failure) if failure is not None else result.set_result(value)

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(tell)


def _run_all(jobs: Sequence[Callable[[], None]]) -> None:
    for job in jobs:
        job()
