"""A LangSmith bridge in front of the stand-in, on a tracer provider of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.langsmith.exporter import LangSmithProcessor
from forge_otel.telemetry.langsmith.settings import LangSmithOptions
from forge_otel.telemetry.spans.identity import IdentityProcessor
from forge_otel.testing.langsmith.server import LangSmithStandIn

IMPATIENT = RetryPolicy(attempt_timeout_s=0.3, first_wait_s=0.01, max_wait_s=0.05)


@dataclass(frozen=True)
class Bridge:
    """What a test needs of it."""

    processor: LangSmithProcessor
    langsmith: LangSmithStandIn
    tracer: Tracer

    def flush(self) -> None:
        """Wait until what has ended is settled, as far as it can be."""
        assert self.processor.force_flush(20_000)


@contextmanager
def bridge(
    *, server: LangSmithStandIn | None = None, options: dict[str, Any] | None = None, **more: Any
) -> Iterator[Bridge]:
    """Open a bridge that keeps every span called `run …`, or as `more` says."""
    with server or LangSmithStandIn() as langsmith:
        processor = LangSmithProcessor(
            LangSmithOptions(api_key="key", endpoint=langsmith.url, **(options or {})),
            **{"policy": IMPATIENT, "shutdown_timeout_s": 2.0, "price": lambda _call: Decimal("0.5"), **more},
        )
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(IdentityProcessor())
        provider.add_span_processor(processor)
        try:
            yield Bridge(processor, langsmith, provider.get_tracer("test"))
        finally:
            provider.shutdown()


def eventually(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Wait until `condition` holds; fail where it does not come to that."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.01)
