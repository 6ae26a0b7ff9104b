"""Fallbacks for failed calls: cached data, another model, a simpler method, or a clear 503.

Fallbacks are the outermost policy. They run in order after the last attempt, outside of the failed call's deadline but
inside that of its caller. The label of the one that answers is recorded on the current generation (`degraded`). Errors
of the caller are raised, not hidden.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from forge_otel.context import current_generation
from forge_otel.errors import ServiceUnavailable
from forge_otel.resilience.retry import Verdict, classify

__all__ = ["Fallback", "first_answer", "is_outage", "unavailable"]

_RETRY_AFTER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """One alternative to a service.

    Args:
        label: its name on spans, records and the dashboard, for example `"figma:cached"`.
        answer: called with the error, followed by the arguments of the failed call; may be async. If it raises, the
            next fallback is called.
    """

    label: str
    answer: Callable[..., Any]


def is_outage(exc: Exception, verdict: Verdict) -> bool:
    """Return whether a fallback may answer: the service failed, or the call was rejected before it."""
    return isinstance(exc, ServiceUnavailable) or verdict.kind != "ignore"


async def first_answer(
    fallbacks: Sequence[Fallback], exc: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, Any]:
    """Call the fallbacks in order until one answers.

    Args:
        fallbacks: at least one.
        exc: the error of the call.
        args, kwargs: the arguments of the failed call.

    Returns:
        The label and the answer of the first fallback that answers; the label is recorded on the current generation.

    Raises:
        Exception: raised by the last fallback, with `exc` as its context.
    """
    *earlier, last = fallbacks
    for fallback in earlier:
        try:
            return fallback.label, await _call(fallback, exc, args, kwargs)
        except Exception:  # noqa: S112 - the next one is called; only the last error is raised
            continue
    return last.label, await _call(last, exc, args, kwargs)


async def _call(fallback: Fallback, exc: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    answer = fallback.answer(exc, *args, **kwargs)
    if inspect.isawaitable(answer):
        answer = await answer
    generation = current_generation.get()
    if generation is not None:
        generation.record_degraded(fallback.label)
    return answer


def unavailable(name: str, *, retry_after_s: float = _RETRY_AFTER_S) -> Fallback:
    """Return the last fallback: it raises a clear 503 in place of the client's own error.

    Args:
        name: name of the service.
        retry_after_s: `Retry-After` in seconds, if neither the service nor its breaker gives one.
    """

    def reject(exc: Exception, *_args: object, **_kwargs: object) -> NoReturn:
        requested_s = exc.retry_after_s if isinstance(exc, ServiceUnavailable) else classify(exc).retry_after_s
        wait_s = retry_after_s if requested_s is None else requested_s
        raise ServiceUnavailable(
            f"{name!r} is not available; try again in {wait_s:.0f} s", retry_after_s=wait_s
        ) from exc

    return Fallback(f"{name}:unavailable", reject)
