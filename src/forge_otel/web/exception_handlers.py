"""Exception handlers that turn the frameworks' own errors (404, 405, validation, …) into problem+json.

Frameworks answer these errors before the middleware sees an exception, so the application opts in with
`install_problem_handlers(app)`. Handlers that the application registered itself are kept.
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

_MAX_ERRORS: Final = 10
# Starlette's default details only repeat the status.
_DETAILS: Final = {404: "nothing is served at this path", 405: "this path does not accept this method"}


def install_problem_handlers(app: Starlette) -> None:
    """Make a Starlette or FastAPI application answer its own errors as problem+json (RFC 9457).

    A body that is not JSON gets a 400, invalid fields a 422 with their names; the response never repeats the input.

    Args:
        app: the application, before its first request.
    """
    defields: dict[type[Exception], Any] = {}
    handlers: dict[type[Exception], Any] = {HTTPException: _http_error}
    try:
        from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
        from fastapi.exceptions import RequestValidationError
    except ImportError:  # Starlette alone has no validation
        pass
    else:
        defields = {
            HTTPException: http_exception_handler,
            RequestValidationError: request_validation_exception_handler,
        }
        handlers[RequestValidationError] = _validation_error
    for kind, handler in handlers.items():
        existing = app.exception_handlers.get(kind)
        if existing is None or existing is defields.get(kind):
            app.add_exception_handler(kind, handler)


async def _http_error(_request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    if exc.status_code in {204, 304}:
        # HTTP allows no body here.
        return Response(status_code=exc.status_code, headers=exc.headers)
    title = HTTPStatus(exc.status_code).phrase
    detail: Any = exc.detail
    if detail == title:
        detail = _DETAILS.get(exc.status_code, title)
    return problem(
        status=exc.status_code,
        code=title.lower().replace(" ", "_").replace("-", "_"),
        title=title,
        detail=detail if isinstance(detail, str) else title,
        headers=exc.headers,
        # FastAPI allows any JSON as detail; it is kept in a member of its own.
        members=None if isinstance(detail, str) else {"context": detail},
    )


async def _validation_error(_request: Request, exc: Exception) -> Response:
    errors: Sequence[Mapping[str, Any]] = exc.errors() if hasattr(exc, "errors") else ()
    for error in errors:
        if error["type"] == "json_invalid":
            reason = error.get("ctx", {}).get("error", "")
            return problem(
                status=400,
                code="invalid_json",
                title="Invalid JSON",
                detail=f"the request body is not valid JSON: {reason} at character {error['loc'][-1]}",
            )
    fields = [{"field": _field(error["loc"]), "message": str(error["msg"])} for error in errors[:_MAX_ERRORS]]
    sentences = "; ".join(f"{field['field']}: {field['message']}" for field in fields)
    return problem(
        status=422,
        code="invalid_request",
        title="Invalid request",
        detail=f"the request is invalid: {sentences}",
        members={"errors": fields},
    )


def _field(location: Sequence[Any]) -> str:
    """Return the path of a field without FastAPI's leading `body`."""
    parts = [str(part)[:64] for part in location]
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] == "body" else parts) or "body"
