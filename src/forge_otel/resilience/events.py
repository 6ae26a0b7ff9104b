"""Events and state snapshots emitted by guards, and their listener registry.

Successes are counted in `GuardState` and emit no event: an event for each would cost more than the guard itself.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from forge_otel.resilience.breaker import Mode, State

__all__ = ["EventKind", "GuardEvent", "GuardListener", "GuardListeners", "GuardState"]

_logger = logging.getLogger(__name__)

EventKind = Literal[
    "attempt_failed",
    "retried",
    "rejected",
    "state_changed",
    "slow",
    "timed_out",
    "abandoned",
    "fallback_used",
    "budget_exhausted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardEvent:
    """One event of a guarded call.

    Args:
        kind: type of the event; `abandoned` is also emitted when the caller was cancelled.
        service: name of the guard.
        error_type: type of the causing error.
        previous, state: states of the breaker, for `state_changed`.
        wait_s: pause before the retry, or how long calls are rejected, in seconds.
        detail: of `attempt_failed` the verdict, of `rejected` the cause (`breaker` or `bulkhead`), of `abandoned` the
            reason (`timed_out` or `cancelled`), of `fallback_used` the label, of `state_changed` `slow calls` if these
            opened the breaker.
    """

    kind: EventKind
    service: str
    error_type: str = ""
    previous: str = ""
    state: str = ""
    wait_s: float = 0.0
    detail: str = ""


GuardListener = Callable[[GuardEvent], None]
"""Called inside the guarded call, so it must be quick; an exception is logged and suppressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """Snapshot of a guard; its counters are of attempts since the start.

    Args:
        state: the state that callers meet: `open` or `closed` while `mode` forces it.
        rejects_for_s: seconds for which calls are rejected.
        ignored: attempts that were cancelled, or failed by the caller's fault.
        abandoned: timed-out or cancelled calls that have not ended yet.
        late_errors: abandoned calls that ended with an exception.
        last_success_age_s: seconds since the last success, or None before the first one.
        attention: type of an error that needs an operator, such as a rejected key; empty after the next success.
    """

    name: str
    state: State
    mode: Mode
    rejects_for_s: float
    successes: int
    failures: int
    ignored: int
    rejected: int
    slow: int
    in_flight: int
    waiting: int
    abandoned: int
    late_errors: int
    last_success_age_s: float | None
    attention: str


class GuardListeners:
    """Registry of listeners; an exception of one of them is logged and suppressed.

    Args:
        listeners: the first listeners.
    """

    def __init__(self, listeners: Iterable[GuardListener] = ()) -> None:
        self._listeners = list(listeners)
        self.is_empty = not self._listeners

    def add(self, listener: GuardListener) -> None:
        """Register a listener for the events from now on."""
        self._listeners.append(listener)
        self.is_empty = False

    def emit(self, kind: EventKind, service: str, **facts: Any) -> None:
        """Call every listener.

        Args:
            kind, service, facts: fields of the `GuardEvent`.
        """
        if self.is_empty:
            return
        event = GuardEvent(kind=kind, service=service, **facts)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                _logger.exception("guard listener %r failed, the guarded call continues", listener)
