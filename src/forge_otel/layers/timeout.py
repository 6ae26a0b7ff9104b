"""The layer that limits how long a full generation may take."""

import asyncio
from typing import Final

from forge_otel._internal.tasks import abandon
from forge_otel.errors import GenerationTimeout
from forge_otel.resilience.attempt_timeout import awaited
from forge_otel.resilience.deadline import deadline
from forge_otel.types import Call, CallNext, Reply

__all__ = ["TimeoutLayer"]

_CLEAN_UP_S: Final = 0.5


class TimeoutLayer:
    """The layer that limits how long a full generation may take; guards inside share the limit.

    Args:
        timeout_s: limit of the pipeline in seconds.
        clean_up_s: seconds that the caller waits for a cancelled pipeline to end; after that the pipeline is abandoned.
    """

    def __init__(self, timeout_s: float, *, clean_up_s: float = _CLEAN_UP_S) -> None:
        self._timeout_s = timeout_s
        self._clean_up_s = clean_up_s

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Return the reply of the layers inside.

        Raises:
            GenerationTimeout: the pipeline did not end in time and was cancelled.
        """
        # The deadline is later than the pipeline's own limit, so that the pipeline times out and not a guard inside it.
        with deadline(self._timeout_s + self._clean_up_s):
            # The task runs in a copy of this context: the pipeline sees the current span, generation and deadline.
            task = asyncio.create_task(awaited(call_next, call))
            try:
                await asyncio.wait([task], timeout=self._timeout_s)
                if task.done():
                    return task.result()
            finally:
                await self._stop(task)
        raise GenerationTimeout(
            f"the pipeline {call.pipeline!r} did not finish within {self._timeout_s:g} s and was cancelled; "
            "try again, or raise generation_timeout_s"
        )

    async def _stop(self, task: asyncio.Task[Reply]) -> None:
        if not task.done():
            abandon(task)
            await asyncio.wait([task], timeout=self._clean_up_s)
