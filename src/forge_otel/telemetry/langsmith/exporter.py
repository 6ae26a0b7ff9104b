"""Spans as runs in LangSmith, over OTLP from a thread of our own.

Deliberate divergences from LangSmith's own `OtelSpanProcessor`: a parent that LangSmith will never see is cut or
stepped over, errors get an event, hide and sampling variables are honoured, what failed is retried or split, and every
span is counted. What LangSmith has not taken waits on disk, outlives the process and is sent again; a request that
timed out, or whose process died, may arrive twice, and LangSmith knows a run by its span id.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final, Unpack

from opentelemetry.sdk.trace import ReadableSpan

from forge_otel.telemetry.export.http import HttpTransport
from forge_otel.telemetry.export.otlp_body import encode, split
from forge_otel.telemetry.export.processor import Bounds, ExportProcessor
from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.export.spool import SpoolOptions
from forge_otel.telemetry.langsmith.names import LangSmithAttr
from forge_otel.telemetry.langsmith.runs import Price, as_run
from forge_otel.telemetry.langsmith.settings import LangSmithOptions, is_sampled
from forge_otel.telemetry.langsmith.tree import ResolvedSpan, RunFilter, RunTreeBuilder, default_run_filter

__all__ = ["LangSmithProcessor", "from_env"]

logger = logging.getLogger(__name__)


class LangSmithProcessor(ExportProcessor):
    """Sends the spans that are runs to LangSmith.

    Args:
        options: where to, and what of them.
        price: of a model call, in USD.
        keep: says which spans become runs.
        policy: how patient it is with LangSmith.
        spool: where runs wait until LangSmith has taken them.
        max_waiting: spans in memory above which new ones are dropped.
        max_batch: spans in one request.
        max_age_s: how long a span waits for its parent to end.
        shutdown_timeout_s: how long `shutdown` may take.
    """

    def __init__(
        self,
        options: LangSmithOptions,
        *,
        price: Price = lambda _call: None,
        keep: RunFilter = default_run_filter,
        policy: RetryPolicy | None = None,
        spool: SpoolOptions | None = None,
        max_waiting: int = 10_000,
        max_batch: int = 200,
        max_age_s: float = 900.0,
        shutdown_timeout_s: float = 4.0,
    ) -> None:
        self.options: Final = options
        self._price = price
        self._make_trees: Callable[[], RunTreeBuilder] = lambda: RunTreeBuilder(keep, max_age_s=max_age_s)
        self._trees = self._make_trees()
        self._http = HttpTransport(options.traces_url, _headers(options))
        super().__init__(
            encode,
            split,
            self._http,
            policy=policy,
            spool=spool,
            max_waiting=max_waiting,
            max_batch=max_batch,
            shutdown_timeout_s=shutdown_timeout_s,
        )

    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        """Return, as runs, the spans whose place in the tree is known now."""
        now_s = time.monotonic()
        released: list[ResolvedSpan] = []
        for span in spans:
            if not self._is_sampled(span):
                self.ledger.sampled_out(1)
                continue
            released += self._trees.add(span, now_s)
            if not self._trees.is_kept(span):
                self.ledger.dropped(1, "filtered")
        released += self._trees.expire(now_s, everything=is_last)
        runs = [run for release in released if (run := self._as_run(release)) is not None]
        self.ledger.dropped(len(released) - len(runs), "unreadable")
        return runs

    def forget(self) -> None:
        """Leave held spans and the open connection to the parent process."""
        self._trees = self._make_trees()
        self._http = self._post = HttpTransport(self.options.traces_url, _headers(self.options))

    def _is_sampled(self, span: ReadableSpan) -> bool:
        context = span.get_span_context()
        return context is None or is_sampled(context.trace_id, self.options.sampling_rate)

    def _as_run(self, release: ResolvedSpan) -> ReadableSpan | None:
        try:
            return as_run(release, self.options.hidden, self._price)
        except Exception:
            # Fail closed: what could not be redacted is not sent.
            logger.debug("A span could not be made a run", exc_info=True)
            return None


def from_env(price: Price, *, error_texts: bool, **options: Unpack[Bounds]) -> LangSmithProcessor | None:
    """Return a processor as the environment wants it, None where it wants none.

    Raises:
        ConfigurationError: a `LANGSMITH_*` variable cannot be used.
    """
    found = LangSmithOptions.from_env(os.environ, error_texts=error_texts)
    return None if found is None else LangSmithProcessor(found, price=price, **options)


def _headers(options: LangSmithOptions) -> dict[str, str]:
    return {
        LangSmithAttr.API_KEY_HEADER: options.api_key,
        LangSmithAttr.PROJECT_HEADER: options.project,
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "gzip",
        "User-Agent": f"forge-otel/{version('forge-otel')}",
    }
