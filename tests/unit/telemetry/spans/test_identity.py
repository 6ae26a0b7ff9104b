"""Tests of user, session, tenant and component type on every span, also in another process."""

import pytest
from opentelemetry import trace
from tests.unit.telemetry.recorder import Recorder, button_call

from forge_otel.context import Identity, bind_identity, current_call, extract, inject
from forge_otel.names import Attr

IDENTITY = {Attr.USER_ID: "ann", Attr.SESSION_ID: "s1", Attr.TENANT: "acme", Attr.COMPONENT_TYPE: "button"}


def sent_headers() -> dict[str, str]:
    """Return the headers of a job that a service sends while it generates a button for the user `ann`."""
    carrier: dict[str, str] = {}
    token = current_call.set(button_call())
    with bind_identity(Identity(user_id="ann", session_id="s1", tenant="acme")):
        inject(carrier)
    current_call.reset(token)
    return carrier


def test_a_worker_has_the_identity_of_the_sender(recorder: Recorder) -> None:
    """Spans of other instrumentations have it too, and a further service receives it."""
    with recorder.spans.span("sender"):
        carrier = sent_headers()
        root = trace.get_current_span().get_span_context()
    with extract(carrier):
        onward: dict[str, str] = {}
        inject(onward)
        recorder.tracers.get_tracer("theirs").start_span("work").end()
    work = recorder.span("work")
    assert {name: (work.attributes or {}).get(name) for name in IDENTITY} == IDENTITY
    assert work.context.trace_id == root.trace_id
    assert onward == carrier
    recorder.tracers.get_tracer("theirs").start_span("after").end()
    assert set(IDENTITY).isdisjoint(recorder.span("after").attributes or {})


@pytest.mark.parametrize("value", ["", "x" * 257])
def test_empty_and_long_headers_are_ignored(value: str, recorder: Recorder) -> None:
    """Headers are untrusted input."""
    with extract({"forge-component-type": value, "forge-user": value}):
        recorder.tracers.get_tracer("theirs").start_span("work").end()
    assert set(IDENTITY).isdisjoint(recorder.span("work").attributes or {})


def test_identity_and_component_type_are_on_every_span(recorder: Recorder) -> None:
    """Also on spans of other instrumentations."""
    token = current_call.set(button_call())
    try:
        with bind_identity(Identity(user_id="u", session_id="s", tenant="t")):
            recorder.tracers.get_tracer("httpx").start_span("GET").end()
    finally:
        current_call.reset(token)
    wanted = {Attr.USER_ID: "u", Attr.SESSION_ID: "s", Attr.TENANT: "t", Attr.COMPONENT_TYPE: "button"}
    assert dict(recorder.span("GET").attributes or {}) == wanted
