"""An exception on a span: its kind and where it was raised always, what it says on request and without secrets.

What an exception says quotes what could not be read: prompts, bodies, URLs with their credentials. OpenTelemetry's own
`record_exception` writes all of it, with the texts of its causes.
"""

import traceback
from typing import Final

from opentelemetry.trace import Span

from forge_otel.telemetry.redaction import scrub

__all__ = ["describe", "record_failure"]

MAX_MESSAGE_CHARS: Final = 2_000
MAX_STACK_CHARS: Final = 16_000


def record_failure(span: Span, error: BaseException, *, with_text: bool) -> None:
    """Add the event that LangSmith and others read an error from.

    Args:
        with_text: whether contents may be recorded.
    """
    if not span.is_recording():
        return
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.add_event(
        "exception",
        {
            "exception.type": name,
            "exception.message": describe(error) if with_text else kind.__qualname__,
            "exception.stacktrace": _stack(error, with_text=with_text),
        },
    )


def describe(error: BaseException) -> str:
    """Return what `error` says, cut and without secrets; it may raise while it is asked."""
    try:
        # Cut before the search too: an exception may hold a whole file.
        text = scrub(str(error)[: 2 * MAX_MESSAGE_CHARS])
    except Exception:
        return "its text could not be read"
    return text[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()


def _stack(error: BaseException, *, with_text: bool) -> str:
    try:
        if with_text:
            text = scrub("".join(traceback.format_exception(error))[-2 * MAX_STACK_CHARS :])
        else:
            text = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        return text[-MAX_STACK_CHARS:].encode("utf-8", "replace").decode()
    except Exception:
        return ""
