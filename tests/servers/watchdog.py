"""Ends the test servers of a test process that died without ending them, and removes their folders.

Runs as a process of its own, in its own session, and reads lines from a pipe that only the test process holds open.
The end of the pipe is the end of the test process, however it came: the kernel closes pipes also after `kill -9`.
(The other way, PR_SET_PDEATHSIG, fires when the *thread* that started the server ends, and needs a preexec function.)

    +process PID SIGNAL     a server has started; it stops by this signal
    -process PID            it has ended
    +folder PATH            remove this folder at the end
    -folder PATH            it is removed
"""

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL

PATIENCE_S = 5.0


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (state, parent, …); empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def is_running(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def born(pid: int) -> str:
    """Return the start time of a process in clock ticks, which differs when its pid is reused."""
    fields = stat_fields(pid)
    return fields[19] if fields else ""


def end(processes: dict[int, tuple[int, str]]) -> None:
    """Ask every process that is still the same one to stop, then insist."""
    mine = {pid: stop for pid, (stop, birth) in processes.items() if birth and born(pid) == birth}
    for pid, stop in mine.items():
        signal_all(pid, stop, SIGCONT)
    deadline = time.monotonic() + PATIENCE_S
    while any(map(is_running, mine)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in filter(is_running, mine):
        signal_all(pid, SIGKILL)


def signal_all(pid: int, *signals: int) -> None:
    """Send signals to a process that may have just ended."""
    with suppress(ProcessLookupError):
        for number in signals:
            os.kill(pid, number)


def main() -> None:
    """Keep the list until the pipe ends, then clear what is left on it."""
    processes: dict[int, tuple[int, str]] = {}
    folders: set[str] = set()
    for line in sys.stdin:
        what, _, value = line.rstrip("\n").partition(" ")
        if what == "+process":
            pid, stop = map(int, value.split())
            processes[pid] = (stop, born(pid))
        elif what == "-process":
            processes.pop(int(value), None)
        elif what == "+folder":
            folders.add(value)
        elif what == "-folder":
            folders.discard(value)
    end(processes)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
