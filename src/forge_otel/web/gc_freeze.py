"""Keeps the garbage collector away from what is there as long as the process is.

Every few seconds of work CPython's full collection goes through all objects of the process, and nobody is answered
meanwhile. Modules, models of SDKs and price tables are a quarter of a million of them with all extras: 0.1 to 0.2 s.
"""

import asyncio
import gc
from typing import Final

__all__ = ["GcFreeze"]

# What the first requests import, and the clients that are made beside the start, are there by then.
_SECOND_LOOK_S: Final = 3.0


class GcFreeze:
    """The objects of this process, out of the collector's sight from `freeze` to `thaw`.

    Freezing does not free what is garbage at that moment, hence the collection before it: the whole one while nobody
    is served yet, and one of the young at the second look. Everything that comes later is collected as ever.
    """

    def __init__(self) -> None:
        self._later: asyncio.TimerHandle | None = None
        self._is_ours = False

    def freeze(self) -> None:
        """Freeze what is there now, and in a few seconds what came with the first requests."""
        self._is_ours = not gc.get_freeze_count()
        gc.collect()
        gc.freeze()
        self._later = asyncio.get_running_loop().call_later(_SECOND_LOOK_S, self._freeze_rest)

    def thaw(self) -> None:
        """Let everything be collected again, unless somebody else had frozen some of it before."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
            if self._is_ours:
                gc.unfreeze()

    @staticmethod
    def _freeze_rest() -> None:
        gc.collect(1)
        gc.freeze()
