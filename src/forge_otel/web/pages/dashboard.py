"""`/forge/`: the dashboard's static files, its login and the JSON API behind it."""

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from forge_otel._runtime.login_tickets import TICKET_TTL_S
from forge_otel._runtime.operations import Operations
from forge_otel.errors import BadRequest, NotFound, PayloadTooLarge
from forge_otel.outbox.recent import RecentRecords
from forge_otel.telemetry.recent_traces import RecentTraces
from forge_otel.types import Record
from forge_otel.web.pages.auth import COOKIE, AdminAuth, TooManyLogins
from forge_otel.web.pages.router import GET, ITEM, Page

__all__ = ["Dashboard"]

_STATIC: Final = Path(__file__).parent.parent / "static"
_MAX_LIMIT: Final = 200
_MAX_FORM_BYTES: Final = 4096
_MAX_OPERATOR_CHARS: Final = 128
_MESSAGE: Final = b"<!-- message -->"
_SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Dashboard:
    """The dashboard and its API, both behind the admin token.

    Args:
        auth: authenticates requests and logins.
        operations: figures, reports, breakers, purges and health.
        records: the last records of this process.
        traces: the last traces of this process.
    """

    def __init__(
        self, auth: AdminAuth, *, operations: Operations, records: RecentRecords, traces: RecentTraces
    ) -> None:
        self._auth = auth
        self._operations = operations
        self._records = records
        self._traces = traces
        self._files = {path.name: path.read_bytes() for path in _STATIC.iterdir()}

    def pages(self) -> list[Page]:
        """Return the pages, relative to the dashboard's folder."""
        return [
            Page("", self._folder),
            Page("/", self._index),
            *(Page(f"/{name}", self._script) for name in self._files if name.endswith(".js")),
            Page("/style.css", self._style),
            Page("/icon.svg", self._icon),
            Page("/login", self._login, (*GET, "POST")),
            Page("/logout", self._logout, ("POST",)),
            Page("/api/summary", self._summary),
            Page("/api/report", self._report),
            Page("/api/health", self._health),
            Page("/api/generations", self._generations),
            Page("/api/generations" + ITEM, self._generation),
            Page("/api/traces" + ITEM, self._trace),
            Page("/api/breakers", self._breakers),
            Page("/api/breakers" + ITEM, self._set_breaker, ("POST",)),
            Page("/api/tickets", self._ticket, ("POST",)),
            Page("/api/purge", self._purge, ("POST",)),
        ]

    async def _folder(self, request: Request) -> Response:
        self._auth.require_enabled()
        return RedirectResponse(f"{request.url.path}/", status_code=307, headers=_SECURITY_HEADERS)

    async def _index(self, request: Request) -> Response:
        self._auth.require_enabled()
        if not self._auth.is_authenticated(request):
            return RedirectResponse("login", status_code=303, headers=_SECURITY_HEADERS)
        return self._file("index.html", "text/html")

    async def _script(self, request: Request) -> Response:
        self._auth.require_admin(request)
        return self._file(_id(request), "text/javascript")

    async def _style(self, _request: Request) -> Response:
        # Public while the dashboard is on: the login page uses it.
        self._auth.require_enabled()
        return self._file("style.css", "text/css")

    async def _icon(self, _request: Request) -> Response:
        self._auth.require_enabled()
        return self._file("icon.svg", "image/svg+xml")

    async def _login(self, request: Request) -> Response:
        self._auth.require_enabled()
        try:
            if request.method == "POST":
                token = parse_qs(await _small_body(request)).get("token", [""])[0]
                is_valid = self._auth.log_in(token=token)
            elif request.method == "GET" and "ticket" in request.query_params:
                is_valid = self._auth.log_in(ticket=request.query_params["ticket"])
            else:
                return self._login_page()
        except TooManyLogins as exc:
            return self._login_page("Too many attempts. Wait a minute and try again.", exc.status)
        if not is_valid:
            return self._login_page(
                "Login failed: the token is wrong, or the link was already used or has expired.", 403
            )
        # Not a redirect: after a click on another site, browsers would not send the same-site cookie along.
        response = self._file("welcome.html", "text/html")
        self._auth.set_session_cookie(response, request, folder=request.url.path.removesuffix("/login"))
        return response

    async def _logout(self, request: Request) -> Response:
        self._auth.require_enabled()
        response = RedirectResponse("login", status_code=303, headers=_SECURITY_HEADERS)
        response.delete_cookie(COOKIE, path=request.url.path.removesuffix("/logout"), httponly=True, samesite="strict")
        return response

    async def _ticket(self, request: Request) -> Response:
        self._auth.require_admin(request)
        path = f"{request.url.path.removesuffix('/api/tickets')}/login?ticket={self._auth.tickets.issue()}"
        return _json({"path": path, "expires_in_s": TICKET_TTL_S})

    async def _summary(self, request: Request) -> Response:
        self._auth.require_admin(request)
        return _json(await self._operations.summary())

    async def _report(self, request: Request) -> Response:
        self._auth.require_admin(request)
        text, media_type = await self._operations.report(dict(request.query_params))
        # The HTML report has an inline style sheet and loads nothing.
        policy = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
        return Response(text, headers=_SECURITY_HEADERS | policy, media_type=media_type)

    async def _health(self, request: Request) -> Response:
        self._auth.require_admin(request)
        return _json(self._operations.health_report())

    async def _breakers(self, request: Request) -> Response:
        self._auth.require_admin(request)
        return _json(self._operations.breakers())

    async def _set_breaker(self, request: Request) -> Response:
        self._auth.require_admin(request)
        try:
            mode = orjson.loads(await _small_body(request))["mode"]
        except (ValueError, KeyError, TypeError) as exc:
            raise BadRequest('send the mode as JSON: {"mode": "forced_open"}') from exc
        self._operations.set_breaker(_id(request), str(mode))
        return _json(self._operations.breakers())

    async def _purge(self, request: Request) -> Response:
        self._auth.require_admin(request)
        try:
            options: Any = orjson.loads(await _small_body(request))
            by, value, who = (str(options.get(name, "")) for name in ("by", "value", "who"))
            is_dry_run = options.get("dry_run", False) is True
        except (ValueError, AttributeError) as exc:
            raise BadRequest('send JSON: {"by": "figma", "value": "…", "dry_run": true}') from exc
        return _json(
            await self._operations.purge(by, value, who=who[:_MAX_OPERATOR_CHARS] or "api", is_dry_run=is_dry_run)
        )

    async def _generations(self, request: Request) -> Response:
        self._auth.require_admin(request)
        limit = _limit(request.query_params.get("limit", "50"))
        return _json([_without_artifacts(record) for record in self._records.records(limit)])

    async def _generation(self, request: Request) -> Response:
        self._auth.require_admin(request)
        record = self._records.get(_id(request))
        if record is None:
            raise NotFound("this generation is not among the last ones of this process; look in the database")
        return _json(_without_artifacts(record))

    async def _trace(self, request: Request) -> Response:
        self._auth.require_admin(request)
        spans = self._traces.trace(_id(request))
        if not spans:
            raise NotFound("this trace is not among the last ones of this process; see your tracing backend")
        return _json(spans)

    def _login_page(self, message: str = "", status_code: int = 200) -> Response:
        content = self._files["login.html"].replace(_MESSAGE, message.encode())
        return Response(content, status_code=status_code, headers=_SECURITY_HEADERS, media_type="text/html")

    def _file(self, name: str, media_type: str) -> Response:
        return Response(self._files[name], headers=_SECURITY_HEADERS, media_type=media_type)


def _json(data: Any) -> Response:
    return Response(orjson.dumps(data, default=_to_json), headers=_SECURITY_HEADERS, media_type="application/json")


def _to_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _without_artifacts(record: Record) -> dict[str, Any]:
    """Return a record as a dictionary."""
    # Artifacts are the customer's code, and may be megabytes.
    return {item.name: getattr(record, item.name) for item in fields(record) if item.name != "artifacts"}


def _id(request: Request) -> str:
    return request.url.path.rpartition("/")[2]


def _limit(text: str) -> int:
    # isascii() because int() accepts other digits as well, and nine digits because long numbers are slow to parse.
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_LIMIT:
        return int(text)
    raise BadRequest(f"limit must be an integer from 1 to {_MAX_LIMIT}")


async def _small_body(request: Request) -> str:
    # Own limit, because the login form is public and the limit on request bodies covers only the application.
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise PayloadTooLarge(f"the form is larger than {_MAX_FORM_BYTES} bytes")
    return body.decode("utf-8", errors="replace")
