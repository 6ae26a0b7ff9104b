"""Guard listeners receive events, and cannot fail a call."""

import pytest

from forge_otel.resilience.events import GuardEvent, GuardListeners


def test_the_error_of_a_listener_is_logged_and_suppressed(caplog: pytest.LogCaptureFixture) -> None:
    """purgatory raises it in place of the caller's error; here the next listener still gets the event."""

    def broken(event: GuardEvent) -> None:
        raise KeyError(event.kind)

    events: list[GuardEvent] = []
    GuardListeners([broken, events.append]).emit("slow", "svc")
    assert [(event.kind, event.service) for event in events] == [("slow", "svc")]
    assert "guard listener" in caplog.text


def test_a_listener_can_be_added_later() -> None:
    """It receives the events from then on."""
    listeners, events = GuardListeners(), list[GuardEvent]()
    listeners.emit("slow", "early")
    listeners.add(events.append)
    listeners.emit("retried", "svc", error_type="ConnectionError", wait_s=0.5)
    assert events == [GuardEvent(kind="retried", service="svc", error_type="ConnectionError", wait_s=0.5)]
