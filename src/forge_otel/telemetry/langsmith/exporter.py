"""Export of spans to LangSmith as runs, over OTLP.

Deliberate divergences from LangSmith's own `OtelSpanProcessor`: a parent that LangSmith never receives is cut or
skipped, errors get an exception event, hide and sampling variables are honoured, failed requests are retried or split,
and every span is counted. Runs wait on disk until LangSmith has accepted them and survive the process. A request that
timed out may arrive twice; LangSmith identifies a run by its span id.
"""

import logging
import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from forge_otel.telemetry.export.http import HttpTransport
from forge_otel.telemetry.export.otlp_body import encode, split
from forge_otel.telemetry.export.processor import ExportOptions, ExportProcessor
from forge_otel.telemetry.langsmith.names import LangSmithAttr
from forge_otel.telemetry.langsmith.runs import Price, as_run
from forge_otel.telemetry.langsmith.settings import LangSmithOptions, is_sampled
from forge_otel.telemetry.langsmith.tree import ResolvedSpan, RunFilter, RunTreeBuilder, default_run_filter

__all__ = ["LangSmithProcessor", "from_env"]

_logger = logging.getLogger(__name__)


class LangSmithProcessor(ExportProcessor):
    """Sends to LangSmith the spans that are runs.

    Args:
        options: destination and contents of runs.
        price: returns the cost of a model call in USD.
        run_filter: selects the spans that become runs.
        export: limits of the exporter.
        max_batch_size: spans in one request.
        max_age_s: seconds that a span waits for its parent to end.
    """

    def __init__(
        self,
        options: LangSmithOptions,
        *,
        price: Price = lambda _call: None,
        run_filter: RunFilter = default_run_filter,
        export: ExportOptions | None = None,
        # Fewer than for OTLP: runs carry contents, and LangSmith accepts about 20 MB in one request.
        max_batch_size: int = 200,
        max_age_s: float = 900.0,
    ) -> None:
        self.options: Final = options
        self._price = price
        self._run_filter = run_filter
        self._max_age_s = max_age_s
        self._tree = self._new_tree()
        super().__init__(
            encode, split, self._new_transport(), options=export or ExportOptions(), max_batch_size=max_batch_size
        )

    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        """Return, as runs, the spans whose parent run is known now."""
        now_s = time.monotonic()
        resolved: list[ResolvedSpan] = []
        for span in spans:
            # Before the tree: LangSmith's rate applies to whole traces, so no kept span has a discarded parent.
            if not self._is_sampled(span):
                self.accounting.mark_sampled_out(1)
                continue
            resolved += self._tree.add(span, now_s)
            if not self._tree.is_run(span):
                self.accounting.mark_dropped(1, "filtered")
        resolved += self._tree.expire(now_s, is_last=is_last)
        runs = [run for found in resolved if (run := self._as_run(found)) is not None]
        self.accounting.mark_dropped(len(resolved) - len(runs), "unreadable")
        return runs

    def reset_after_fork(self) -> None:
        """Discard held spans and the connection, which the parent process sends and uses."""
        self._tree = self._new_tree()
        self._transport = self._new_transport()

    def _new_tree(self) -> RunTreeBuilder:
        return RunTreeBuilder(self._run_filter, max_age_s=self._max_age_s)

    def _new_transport(self) -> HttpTransport:
        headers = {
            LangSmithAttr.API_KEY_HEADER: self.options.api_key,
            LangSmithAttr.PROJECT_HEADER: self.options.project,
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "User-Agent": f"forge-otel/{version('forge-otel')}",
        }
        return HttpTransport(self.options.traces_url, headers)

    def _is_sampled(self, span: ReadableSpan) -> bool:
        context = span.get_span_context()
        return context is None or is_sampled(context.trace_id, self.options.sampling_rate)

    def _as_run(self, resolved: ResolvedSpan) -> ReadableSpan | None:
        try:
            return as_run(resolved, self.options.hide, self._price)
        except Exception:
            # Fail closed: a span that could not be redacted is not sent.
            _logger.debug("span cannot be converted to a run", exc_info=True)
            return None


def from_env(price: Price, *, error_texts: bool, export: ExportOptions) -> LangSmithProcessor | None:
    """Return the processor that the environment configures, None if it configures none.

    Args:
        price: returns the cost of a model call in USD.
        error_texts: whether messages of exceptions may be sent.
        export: limits of the exporter.

    Raises:
        ConfigurationError: a `LANGSMITH_*` variable is invalid.
    """
    options = LangSmithOptions.from_env(os.environ, error_texts=error_texts)
    return None if options is None else LangSmithProcessor(options, price=price, export=export)
