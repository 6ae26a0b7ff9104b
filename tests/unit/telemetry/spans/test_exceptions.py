"""Tests of exceptions on spans: event, attribute and status, and the text that is left out."""

import asyncio
import json

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import StatusCode

from forge_otel.telemetry.spans.exceptions import describe, mark_failed, qualified_name


def failed_span(error: BaseException | None, *, with_text: bool = False, with_description: bool = True) -> ReadableSpan:
    """Return an ended span that was marked failed with `error`."""
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    mark_failed(span, error, error_type="E", with_text=with_text, with_description=with_description)
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


def raised(error: Exception) -> BaseException:
    """Return `error` with a traceback."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_a_failed_span_has_event_attribute_and_status() -> None:
    """Back ends read different ones."""
    span = failed_span(raised(ValueError("prompt")))
    (event,) = span.events
    assert (event.name, dict(event.attributes or {})["exception.type"]) == ("exception", "ValueError")
    assert (span.attributes or {})["error.type"] == "E"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "E")


def test_messages_are_left_out_unless_contents_are_captured() -> None:
    """The stack frames are recorded always, the message of the exception only on request and without secrets."""
    error = raised(ValueError("prompt api_key=CANARY"))
    silent, verbose = (json.loads(failed_span(error, with_text=text).to_json()) for text in (False, True))
    assert "in raised" in silent["events"][0]["attributes"]["exception.stacktrace"]
    assert "prompt" not in json.dumps(silent)
    assert verbose["status"]["description"] == "E: prompt api_key=[redacted]"
    assert verbose["events"][0]["attributes"]["exception.message"] == "prompt api_key=[redacted]"
    assert "CANARY" not in json.dumps(verbose)


def test_a_failure_without_an_exception_has_no_event() -> None:
    """A 500 response is one; the HTTP conventions want no description."""
    span = failed_span(None, with_description=False)
    assert span.events == ()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)


def test_the_description_of_a_cancellation_is_its_type() -> None:
    """Its message is a note of the task that cancelled."""
    assert failed_span(asyncio.CancelledError("by user"), with_text=True).status.description == "E"


def test_the_name_of_an_exception_has_its_module_unless_built_in() -> None:
    """That is the form of `exception.type`."""
    assert qualified_name(ValueError()) == "ValueError"
    assert qualified_name(UnicodeError()) == "UnicodeError"
    assert qualified_name(pytest.UsageError()) == "pytest.UsageError"


def test_an_unreadable_message_is_replaced() -> None:
    """`__str__` may raise, or return text that cannot be encoded."""

    class OddError(Exception):
        def __str__(self) -> str:
            raise OSError

    assert describe(OddError()) == "its text could not be read"
    assert describe(ValueError("\ud800")) == "?"
