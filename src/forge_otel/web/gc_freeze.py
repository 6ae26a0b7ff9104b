"""Moves long-lived objects out of reach of CPython's garbage collector.

A full collection visits every object of the process, several times a minute under load. Modules, SDK models and price
tables are about 250,000 objects with all extras, which pause every request for 0.1 to 0.2 s.
"""

import asyncio
import gc
from typing import Final

__all__ = ["GcFreeze"]

# By then, modules imported by the first requests and clients created during startup exist as well.
_SECOND_FREEZE_S: Final = 3.0


class GcFreeze:
    """Freezes the objects of this process from `freeze` to `unfreeze`; later objects are collected as usual."""

    def __init__(self) -> None:
        self._second_freeze: asyncio.TimerHandle | None = None
        self._is_owner = False

    def freeze(self) -> None:
        """Freeze all present objects now and once more after 3 s."""
        self._is_owner = not gc.get_freeze_count()
        # Garbage that is frozen is never freed, so collect first; a full collection is cheap before the first request.
        gc.collect()
        gc.freeze()
        self._second_freeze = asyncio.get_running_loop().call_later(_SECOND_FREEZE_S, self._freeze_young)

    def unfreeze(self) -> None:
        """Make the objects collectable again, unless the application itself had frozen objects before."""
        if self._second_freeze is not None:
            self._second_freeze.cancel()
            self._second_freeze = None
            if self._is_owner:
                gc.unfreeze()

    @staticmethod
    def _freeze_young() -> None:
        # Requests are being served, so collect only the young generations.
        gc.collect(1)
        gc.freeze()
