"""On whose behalf and for which component, on every span, also in another process."""

import pytest
from opentelemetry import trace
from tests.unit.telemetry.recorder import Recorder, button_call

from forge_otel.context import Identity, bind_identity, current_call, extract, inject
from forge_otel.names import Attr

WHO = {Attr.USER_ID: "ann", Attr.SESSION_ID: "s1", Attr.TENANT: "acme", Attr.COMPONENT_TYPE: "button"}


def sent() -> dict[str, str]:
    """What a service sends along with a job while it generates a button for Ann."""
    carrier: dict[str, str] = {}
    token = current_call.set(button_call())
    with bind_identity(Identity(user_id="ann", session_id="s1", tenant="acme")):
        inject(carrier)
    current_call.reset(token)
    return carrier


def test_a_worker_knows_what_its_sender_knew(recorder: Recorder) -> None:
    """Its spans, also those of other instrumentations, carry all four; a third service gets them too."""
    with recorder.spans.span("sender"):
        carrier = sent()
        root = trace.get_current_span().get_span_context()
    with extract(carrier):
        onward: dict[str, str] = {}
        inject(onward)
        recorder.tracers.get_tracer("theirs").start_span("work").end()
    work = recorder.span("work")
    assert {name: (work.attributes or {}).get(name) for name in WHO} == WHO
    assert work.context.trace_id == root.trace_id
    assert onward == carrier
    recorder.tracers.get_tracer("theirs").start_span("after").end()
    assert set(WHO).isdisjoint(recorder.span("after").attributes or {})


@pytest.mark.parametrize("said", ["", "x" * 257])
def test_what_is_too_long_or_nothing_is_left_out(said: str, recorder: Recorder) -> None:
    """A header is data from outside."""
    with extract({"forge-component-type": said, "forge-user": said}):
        recorder.tracers.get_tracer("theirs").start_span("work").end()
    assert set(WHO).isdisjoint(recorder.span("work").attributes or {})
