"""What the code below a request may leave for its response.

The holder is mutable and travels in a ContextVar, so that a fact noted in a child task reaches the response all the
same. Nothing here needs HTTP: without a request, a note goes nowhere.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field

from opentelemetry.trace import Span

__all__ = ["RequestInfo", "current_request", "note_cache"]

# One member a generation; a request that runs more says so on its spans.
_MAX_MEMBERS = 10


@dataclass(slots=True)
class RequestInfo:
    """The request that is being answered.

    Args:
        span: its server span.
        cache_status: members of the ``Cache-Status`` header (RFC 9211).
    """

    span: Span
    cache_status: list[str] = field(default_factory=list)


current_request: ContextVar[RequestInfo | None] = ContextVar("forge_request", default=None)


def note_cache(source: str, *, is_stored: bool = False) -> None:
    """Say in the response's ``Cache-Status`` header who answered a generation.

    Args:
        source: ``"L1"`` … ``"L4"`` or ``"collapsed"``, as in `forge_otel.types.Reply`.
        is_stored: whether a fresh answer went into the cache.
    """
    request = current_request.get()
    if request is None or len(request.cache_status) == _MAX_MEMBERS:
        return
    if source == "collapsed":
        member = "forge; fwd=miss; collapsed"
    elif source == "L4":
        member = "forge; fwd=miss; stored" if is_stored else "forge; fwd=miss"
    else:
        member = f"forge; hit; detail={source}"
    request.cache_status.append(member)
