"""The layer that measures: duration, outcome and saving of each generation, by the layer that answered."""

import time
from collections.abc import Callable
from typing import Final

from forge_otel.names import Attr, Metric
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, CallNext, Reply, outcome_of

__all__ = ["MetricsLayer"]

_NO_LAYER: Final = "none"


class MetricsLayer:
    """Records the metrics of every generation.

    Args:
        instruments: receive the measurements.
        on_end: receives the exception of each generation, None for a success.
    """

    def __init__(self, instruments: Instruments, *, on_end: Callable[[BaseException | None], None]) -> None:
        self._instruments = instruments
        self._on_end = on_end

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call` and measure it, also when it fails or is cancelled."""
        started = time.perf_counter()
        self._instruments.add(Metric.GENERATION_ACTIVE, 1)
        reply: Reply | None = None
        failure: BaseException | None = None
        try:
            reply = await call_next(call)
            return reply
        except BaseException as exc:
            failure = exc
            raise
        finally:
            self._instruments.add(Metric.GENERATION_ACTIVE, -1)
            self._finish(call, reply, failure, time.perf_counter() - started)
            # Breaks the reference cycle of exception, traceback and this frame.
            del failure

    def _finish(self, call: Call, reply: Reply | None, failure: BaseException | None, duration_s: float) -> None:
        self._on_end(failure)
        outcome = "ok" if failure is None else outcome_of(failure)
        layer = _NO_LAYER if reply is None else reply.source
        component_type = call.request.component_type
        self._instruments.record(
            Metric.GENERATION_DURATION,
            duration_s,
            {Attr.COMPONENT_TYPE: component_type, Attr.CACHE_LAYER: layer, Attr.OUTCOME: outcome},
        )
        cache_outcome = "error" if reply is None else "hit" if reply.is_hit else "miss"
        self._instruments.add(Metric.CACHE_LOOKUPS, 1, {Attr.CACHE_OUTCOME: cache_outcome, Attr.CACHE_LAYER: layer})
        if reply is not None and reply.saved_usd:
            self._instruments.add(
                Metric.SAVED, float(reply.saved_usd), {Attr.CACHE_LAYER: layer, Attr.COMPONENT_TYPE: component_type}
            )
