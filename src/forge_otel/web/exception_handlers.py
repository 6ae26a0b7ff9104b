"""The answers that frameworks give themselves, as problem+json: a wrong path, a body that is not JSON, a wrong field.

These never reach the middleware as exceptions, so this is for the application to choose: one line,
`install_problem_handlers(app)`. A handler that the application has chosen itself stays.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from forge_otel.web.problems import problem

__all__ = ["install_problem_handlers"]

_MAX_FAULTS: Final = 10
# Starlette's own details repeat the status; these say what to do.
_PLAIN: Final = {404: "nothing is served at this path", 405: "this path does not take this method"}


def install_problem_handlers(app: Starlette) -> None:
    """Let a Starlette or FastAPI application answer its own errors as problem+json (RFC 9457).

    A body that is not JSON is answered with 400, a wrong field with 422 and the names of the fields; what was sent is
    not repeated.

    Args:
        app: before it is started.
    """
    defaults: dict[type[Exception], Any] = {}
    handlers: dict[type[Exception], Any] = {HTTPException: _http_error}
    try:
        from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
        from fastapi.exceptions import RequestValidationError
    except ImportError:  # Starlette alone validates nothing
        pass
    else:
        defaults = {
            HTTPException: http_exception_handler,
            RequestValidationError: request_validation_exception_handler,
        }
        handlers[RequestValidationError] = _validation_error
    for kind, handler in handlers.items():
        present = app.exception_handlers.get(kind)
        if present is None or present is defaults.get(kind):
            app.add_exception_handler(kind, handler)


async def _http_error(_request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    if exc.status_code in {204, 304}:
        return Response(status_code=exc.status_code, headers=exc.headers)
    title = HTTPStatus(exc.status_code).phrase
    given: Any = exc.detail
    detail = _PLAIN.get(exc.status_code, title) if given == title else given
    return problem(
        status=exc.status_code,
        code=title.lower().replace(" ", "_").replace("-", "_"),
        title=title,
        detail=detail if isinstance(detail, str) else title,
        headers=exc.headers,
        # FastAPI lets a detail be any JSON; it is kept beside the sentence.
        members=None if isinstance(detail, str) else {"context": detail},
    )


async def _validation_error(_request: Request, exc: Exception) -> Response:
    found: Sequence[Mapping[str, Any]] = exc.errors() if hasattr(exc, "errors") else ()
    for fault in found:
        if fault["type"] == "json_invalid":
            reason = fault.get("ctx", {}).get("error", "")
            return problem(
                status=400,
                code="invalid_json",
                title="Invalid JSON",
                detail=f"the request body is not valid JSON: {reason} at character {fault['loc'][-1]}",
            )
    faults = [{"field": _field(fault["loc"]), "message": str(fault["msg"])} for fault in found[:_MAX_FAULTS]]
    sentences = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    return problem(
        status=422,
        code="invalid_request",
        title="Invalid request",
        detail=f"the request cannot be used: {sentences}",
        members={"errors": faults},
    )


def _field(location: Sequence[Any]) -> str:
    """Name a field as a caller would: without the `body` that stands before every field of one."""
    parts = [str(part)[:64] for part in location]
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] == "body" else parts) or "body"
