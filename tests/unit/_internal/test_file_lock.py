"""Inter-process locks."""

import subprocess
import sys
from pathlib import Path

import pytest

from forge_otel._internal.file_lock import try_lock


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """A second attempt fails at once; after the release the lock is free."""
    lock = tmp_path / "folder" / "lock"
    with try_lock(lock) as first, try_lock(lock) as second:
        assert (first, second) == (True, False)
    with try_lock(lock) as third:
        assert third


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    """The operating system does."""
    lock = tmp_path / "lock"
    code = (
        "import sys, pathlib, forge_otel._internal.file_lock as a\n"
        "with a.try_lock(pathlib.Path(sys.argv[1])) as found:\n"
        "    print(found, flush=True)\n"
        "    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with try_lock(lock) as is_alone:
            assert not is_alone
        other.kill()
    with try_lock(lock) as is_alone:
        assert is_alone


def test_what_the_work_raises_is_raised(tmp_path: Path) -> None:
    """Also what looks like a lock that is taken."""
    with pytest.raises(BlockingIOError, match="of the work"), try_lock(tmp_path / "lock"):
        raise BlockingIOError("of the work")
