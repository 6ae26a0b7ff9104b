"""What guards tell: one frozen event a happening, one snapshot a guard, and whoever wants to know.

Successes are not told one by one, which would cost more than guarding them: `GuardState` counts them.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from forge_otel.resilience.breaker import Mode, State

if TYPE_CHECKING:
    from purgatory import Event

__all__ = ["EventKind", "GuardEvent", "GuardListener", "GuardListeners", "GuardState", "Hook"]

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

Hook = Callable[[str, Any, Any], None]
"""A purgatory listener, called with the service's name, purgatory's kind of event, and its event."""

_HOOK_KINDS: Final = {
    "CircuitBreakerCreated": "circuit_breaker_created",
    "ContextChanged": "state_changed",
    "CircuitBreakerFailed": "failed",
    "CircuitBreakerRecovered": "recovered",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardEvent:
    """Something that a guard did.

    Args:
        kind: what happened; `abandoned` is told when a call is given up, also by a caller who went away.
        service: the guard's name.
        error_type: the type of the error that led to it.
        previous, state: of the breaker, for `state_changed`.
        wait_s: the pause before the retry, or how long calls are refused.
        detail: of `attempt_failed` the verdict, of `rejected` who refused (`breaker` or `limit`), of
            `abandoned` why (`timed_out` or `cancelled`), of `fallback_used` which one, of `state_changed`
            `slow calls` where these opened the breaker.
    """

    kind: EventKind
    service: str
    error_type: str = ""
    previous: str = ""
    state: str = ""
    wait_s: float = 0.0
    detail: str = ""


class GuardListener(Protocol):
    """Is told what guards do, from inside the call: it must be quick. What it raises is logged and goes no further."""

    def __call__(self, event: GuardEvent, /) -> None:
        """Take note of `event`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """What a guard looks like at one moment; its counts are of attempts since the start.

    Args:
        rejects_for_s: seconds for which calls are refused.
        ignored: attempts that were cancelled or wrongly asked.
        abandoned: calls that were given up and have not ended yet.
        late_errors: calls that were given up and ended with an exception since.
        last_success_age_s: seconds, or None before the first success.
        attention: the type of an error that somebody has to look at; empty after the next success.
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
    """Calls every listener and hook; what one of them raises is logged and goes no further.

    Args:
        listeners: ours.
        hooks: purgatory's, for example `factory.listeners` of an `AsyncCircuitBreakerFactory`.
    """

    def __init__(self, listeners: Iterable[GuardListener] = (), *, hooks: Iterable[Hook] = ()) -> None:
        self._listeners = list(listeners)
        self.is_heard = bool(self._listeners)
        """Whether there is anybody to tell."""
        self._hooks = list(hooks)

    def add(self, listener: GuardListener) -> None:
        """Tell `listener` too, from now on."""
        self._listeners.append(listener)
        self.is_heard = True

    def tell(self, kind: EventKind, service: str, **facts: Any) -> None:
        """Tell the listeners.

        Args:
            kind, service, facts: the fields of the `GuardEvent`.
        """
        if not self.is_heard:
            return
        event = GuardEvent(kind=kind, service=service, **facts)
        for listener in self._listeners:
            _call(listener, event)

    def relay(self, message: "Event") -> None:
        """Hand one of purgatory's own events to its hooks."""
        kind = _HOOK_KINDS[type(message).__name__]
        for hook in self._hooks:
            _call(hook, getattr(message, "name", ""), kind, message)


def _call(listener: Callable[..., None], *args: Any) -> None:
    try:
        listener(*args)
    except Exception:
        _logger.exception("a listener of guards failed; the guarded call goes on")
