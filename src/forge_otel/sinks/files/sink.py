"""The archive in a local folder: `file://./folder`, with the layout and the methods of the archive in S3.

Each file is written under a temporary name, flushed to disk and renamed, so that readers see the old content or the
new one, never a part. Folders are opened one at a time without following symbolic links, so that no name and no link
leads out of the root. A component is written by one process at a time.
"""

import asyncio
import contextlib
import os
import stat
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeVar
from urllib.parse import unquote, urlsplit

from forge_otel._internal.file_lock import lock
from forge_otel._internal.ids import new_id
from forge_otel._internal.periodic import Periodic
from forge_otel._internal.worker_thread import WorkerThread, resolving
from forge_otel.errors import NotFound, Rejected
from forge_otel.sinks.archive import AREAS, MANIFEST, ArchivedObject, Bundle, bundle_keys, check_key, folders
from forge_otel.sinks.files.access import (
    TEMPORARY,
    open_folder,
    read_file,
    remove_temporary,
    sorted_names,
    write_durably,
)
from forge_otel.sinks.files.retention import sweep
from forge_otel.types import Record

__all__ = ["FileArchive", "open_url"]

_LOCKS: Final = ".forge-locks"
_LOCK_COUNT: Final = 64
_PAGE: Final = 500
# Pause between batches of the retention, in which queued deliveries get the thread.
_SWEEP_PAUSE_S: Final = 0.05

T = TypeVar("T")


def open_url(url: str, *, retention_days: float | None = None) -> "FileArchive":
    """Return the archive at `file://./relative` or `file:///absolute`."""
    parts = urlsplit(url)
    host = "" if parts.netloc == "localhost" else parts.netloc
    # Absolute, because the service may change its working directory later.
    return FileArchive(Path(unquote(host + parts.path)).absolute(), retention_days=retention_days)


class FileArchive:
    """Archive below a folder.

    Args:
        root: created when the first artifact is stored.
        retention_days: days after its last write when a bundle is deleted; None keeps all bundles.
    """

    name = "archive"

    def __init__(self, root: Path, *, retention_days: float | None = None) -> None:
        self.root = root
        self._worker: WorkerThread[Callable[[], None]] | None = None
        self._retention_days = retention_days
        self.expired = {"files": 0}
        """Number of files that this process has deleted because of their age."""
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
        """Store the artifacts of the records; files with the same content are not written again.

        Raises:
            Rejected: a name is invalid, or a folder of the archive is a symbolic link.
            OSError: the disk rejects a write.
        """
        for record in records:
            if record.artifacts:
                await self._in_thread(partial(self._store, record))

    async def read(self, key: str) -> bytes:
        """Return the content stored under `key`.

        Raises:
            NotFound: the key is invalid or unused.
        """
        return await self._in_thread(partial(self._read, key))

    async def list(self, prefix: str = "") -> AsyncIterator[ArchivedObject]:
        """Iterate over the files whose keys begin with `prefix`, sorted by key."""
        found = self._walk(prefix)
        while page := await self._in_thread(lambda: list(islice(found, _PAGE))):
            for archived in page:
                yield archived

    async def delete(self, component_id: str) -> int:
        """Delete all files of a component; return their number.

        Raises:
            Rejected: the component id is invalid.
        """
        return await self._in_thread(partial(self._delete, component_id))

    async def expire(self, before: datetime) -> int:
        """Delete the bundles that were last written before `before`; do nothing while another process does it.

        Args:
            before: aware.

        Returns:
            The number of deleted files.

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
                self.expired["files"] += count
                await asyncio.sleep(_SWEEP_PAUSE_S)
        finally:
            # Closed in the thread, where it may still be running, to release its lock.
            self._started_worker().put(found.close)
        return total

    async def ping(self) -> None:
        """Create and remove an empty file.

        Raises:
            OSError: the folder is not writable.
        """
        await self._in_thread(self._probe)

    async def _expire_old(self) -> None:
        await self.expire(datetime.now(UTC) - timedelta(days=self._retention_days or 0))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._started_worker().put(resolving(work, result))
        return await result

    def _started_worker(self) -> WorkerThread[Callable[[], None]]:
        if self._worker is None:
            # A daemon thread, because a disk that hangs must not hold up the exit of the process.
            self._worker = WorkerThread("forge-archive", _run_all)
            self._worker.start()
        return self._worker

    # The methods below run in the thread.

    def _store(self, record: Record) -> None:
        bundle = Bundle.of(record)
        with self._locked(record.component_id):
            stored = self._stored_manifest(bundle)
            if bundle.is_outdated_by(stored):
                return
            for key, content in bundle.objects.items():
                self._write(key, content)
            if not bundle.has_contents_of(stored):
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
            if read_file(folder, name) == content:
                return
            temporary = f"{TEMPORARY}{new_id()}"
            try:
                write_durably(folder, temporary, content)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def _finish(self, bundle: Bundle) -> None:
        """Flush the renames to disk, and remove the partial files of a killed process."""
        for key in {check_key(key)[0]: key for key in (bundle.manifest_key, *bundle.objects)}.values():
            with self._folder(key, make=False) as folder:
                remove_temporary(folder)
                os.fsync(folder)

    def _read(self, key: str) -> bytes:
        *_, name = check_key(key)
        try:
            with self._folder(key, make=False) as folder:
                content = read_file(folder, name)
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

    def _delete(self, component_id: str, is_due: Callable[[], bool] = lambda: True) -> int:
        prefixes = folders(component_id)
        with self._locked(component_id):
            if not is_due():
                return 0
            keys = [found.key for prefix in prefixes for found in self._walk(prefix)]
            # The manifest first, so that readers do not take the remaining files for a complete bundle.
            keys.sort(key=lambda key: not key.endswith(f"/{MANIFEST}"))
            count = sum(self._remove(key) for key in keys)
            for prefix in prefixes:
                with contextlib.suppress(OSError):
                    (self.root / prefix).rmdir()
            return count

    def _walk(self, prefix: str) -> Iterator[ArchivedObject]:
        for area in AREAS:
            for folder in sorted_names(self.root / area):
                stem = f"{area}/{folder}/"
                if stem.startswith(prefix) or prefix.startswith(stem):
                    yield from self._files(stem, prefix)

    def _files(self, stem: str, prefix: str) -> Iterator[ArchivedObject]:
        for name in sorted_names(self.root / stem):
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
        """Open the folder of `key` segment by segment, so that a symbolic link on the path is an error."""
        area, component_id, _ = check_key(key)
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            # The root itself may be a symbolic link, because the operator has chosen it.
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, folder)
            for name in (area, component_id):
                folder = open_folder(folder, name, make=make)
                opened.callback(os.close, folder)
            yield folder

    def _locked(self, component_id: str) -> contextlib.AbstractContextManager[None]:
        # A fixed number of lock files, because a lock file can never be deleted safely.
        number = zlib.crc32(component_id.encode()) % _LOCK_COUNT
        return lock(self.root / _LOCKS / f"{number:02}")


def _run_all(jobs: Sequence[Callable[[], None]]) -> None:
    for job in jobs:
        job()
