"""A LangSmith exporter in front of the stand-in server, on a tracer provider of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from forge_otel.telemetry.export.accounting import ExportStats
from forge_otel.telemetry.export.processor import ExportOptions
from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.langsmith.exporter import LangSmithProcessor
from forge_otel.telemetry.langsmith.settings import LangSmithOptions
from forge_otel.telemetry.spans.identity import IdentityProcessor
from forge_otel.testing.langsmith.server import LangSmithStandIn

FAST_RETRY: Final = RetryPolicy(attempt_timeout_s=0.3, initial_backoff_s=0.01, max_backoff_s=0.05)


def fast_export(**changes: Any) -> ExportOptions:
    """Return export options with short time limits."""
    return ExportOptions(**{"retry": FAST_RETRY, "shutdown_timeout_s": 2.0, **changes})


def is_balanced(stats: ExportStats) -> bool:
    """Return whether every produced span is in exactly one of the other counts."""
    return stats.produced == stats.exported + stats.waiting + stats.sampled_out + sum(stats.dropped.values())


@dataclass(frozen=True)
class Bridge:
    """The exporter, the server and a tracer whose spans are exported."""

    processor: LangSmithProcessor
    langsmith: LangSmithStandIn
    tracer: Tracer

    def flush(self) -> None:
        """Wait until every ended span is exported or dropped."""
        assert self.processor.force_flush(20_000)

    @property
    def is_balanced(self) -> bool:
        """Return whether the span counts add up."""
        return is_balanced(self.processor.stats())


@contextmanager
def bridge(
    *,
    server: LangSmithStandIn | None = None,
    options: dict[str, Any] | None = None,
    export: ExportOptions | None = None,
    **more: Any,
) -> Iterator[Bridge]:
    """Run a stand-in server and an exporter to it.

    Args:
        server: not started; None takes one without an API key.
        options: further fields of `LangSmithOptions`.
        export: None takes `fast_export()`.
        more: further arguments of `LangSmithProcessor`.
    """
    with server or LangSmithStandIn() as langsmith:
        processor = LangSmithProcessor(
            LangSmithOptions(api_key="key", endpoint=langsmith.url, **(options or {})),
            export=export or fast_export(),
            **{"price": lambda _call: Decimal("0.5"), **more},
        )
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(IdentityProcessor())
        provider.add_span_processor(processor)
        try:
            yield Bridge(processor, langsmith, provider.get_tracer("test"))
        finally:
            provider.shutdown()


def eventually(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Wait until `condition` holds; fail after `timeout_s` seconds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"the condition did not hold within {timeout_s} s"
        time.sleep(0.01)
