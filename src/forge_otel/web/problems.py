"""Error responses as `application/problem+json` (RFC 9457), with the trace id and without a stack trace."""

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson
from opentelemetry import trace
from starlette.responses import Response

from forge_otel.errors import ForgeError

__all__ = ["internal_error", "problem", "problem_of"]

_MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:problem:forge-otel:"


def problem(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> Response:
    """Return a problem response.

    Args:
        status: HTTP status.
        code: stable identifier for programs, the last part of `type`.
        title: summary of the kind of problem.
        detail: one sentence about this occurrence and its remedy.
        headers: headers of the response.
        members: extension members, JSON-ready.
    """
    context = trace.get_current_span().get_span_context()
    body = {
        "type": _TYPE + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        **({"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else {}),
        **(members or {}),
    }
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type=_MEDIA_TYPE)


def problem_of(exc: ForgeError) -> Response:
    """Return the problem response for a ForgeError."""
    headers: dict[str, str] = {}
    members: dict[str, Any] = {}
    if exc.retry_after_s is not None:
        members["retry_after_s"] = round(exc.retry_after_s, 3)
        # Whole seconds (RFC 9110); 0 would invite an immediate retry.
        headers["retry-after"] = str(max(1, math.ceil(exc.retry_after_s)))
    if exc.status == 401:
        # RFC 9110 requires a challenge in a 401.
        headers["www-authenticate"] = 'Bearer realm="forge-otel"'
    return problem(status=exc.status, code=exc.code, title=exc.title, detail=str(exc), headers=headers, members=members)


def internal_error() -> Response:
    """Return the response for an unexpected exception; details are only in the log and the trace."""
    return problem(
        status=500,
        code="internal",
        title="Internal error",
        detail="The service failed on this request. Its operator can find the reason by the trace id.",
    )
