"""Exceptions on spans: type and stack frames always, messages only where contents are captured, without secrets."""

import asyncio
import traceback
from typing import Final

from opentelemetry.trace import Span, StatusCode

from forge_otel.names import Attr
from forge_otel.telemetry.redaction import scrub

__all__ = ["describe", "mark_failed", "qualified_name", "record_exception"]

MAX_MESSAGE_CHARS: Final = 2_000
MAX_STACK_CHARS: Final = 16_000
_MAX_DESCRIPTION_CHARS: Final = 256


def mark_failed(
    span: Span,
    error: BaseException | None = None,
    *,
    error_type: str,
    with_text: bool = False,
    with_description: bool = True,
) -> None:
    """Mark `span` as failed: `exception` event, `error.type` and error status.

    Args:
        error: the exception; None for a failure without one, such as a 500 response.
        error_type: value of `error.type`.
        with_text: whether the exception's message may be recorded.
        with_description: whether the status gets a description; the HTTP conventions leave it empty.
    """
    if not span.is_recording():
        return
    if error is not None:
        # LangSmith reads errors from the event, other back ends from the status.
        record_exception(span, error, with_text=with_text)
    span.set_attribute(Attr.ERROR_TYPE, error_type)
    description = _description(error, error_type, with_text=with_text) if with_description else None
    span.set_status(StatusCode.ERROR, description)


def record_exception(span: Span, error: BaseException, *, with_text: bool) -> None:
    """Add an `exception` event to `span`, without touching its status.

    Args:
        with_text: whether the exception's message may be recorded.
    """
    if not span.is_recording():
        return
    # Not the SDK's `record_exception`: it writes the messages of the exception and of its causes unconditionally, and
    # messages quote prompts, bodies and URLs with their credentials.
    span.add_event(
        "exception",
        {
            "exception.type": qualified_name(error),
            "exception.message": describe(error) if with_text else type(error).__qualname__,
            "exception.stacktrace": _stack(error, with_text=with_text),
        },
    )


def qualified_name(error: BaseException) -> str:
    """Return the class of `error` with its module, which is left out for built-in exceptions."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def describe(error: BaseException) -> str:
    """Return the message of `error`, truncated and without secrets; an error in its `__str__` is caught."""
    try:
        # Truncated before the search as well: a message may hold a whole file.
        text = scrub(str(error)[: 2 * MAX_MESSAGE_CHARS])
    except Exception:
        return "its text could not be read"
    return text[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()


def _description(error: BaseException | None, error_type: str, *, with_text: bool) -> str:
    # The message of a cancellation names its initiator and not a fault.
    if error is None or not with_text or isinstance(error, asyncio.CancelledError):
        return error_type
    message = describe(error)
    return f"{error_type}: {message}"[:_MAX_DESCRIPTION_CHARS] if message else error_type


def _stack(error: BaseException, *, with_text: bool) -> str:
    try:
        if with_text:
            text = scrub("".join(traceback.format_exception(error))[-2 * MAX_STACK_CHARS :])
        else:
            # Frames only: the last line of a full traceback is the message.
            text = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        return text[-MAX_STACK_CHARS:].encode("utf-8", "replace").decode()
    except Exception:
        return ""
