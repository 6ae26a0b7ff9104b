"""`/forge/`: the dashboard, which is three static files, and the JSON that it shows."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from forge_otel.errors import BadRequest, NotFound, PayloadTooLarge
from forge_otel.types import Record
from forge_otel.web.pages.auth import COOKIE, TICKET_LIFE_S, AdminAuth, TooManyLogins
from forge_otel.web.protocols import Runtime

__all__ = ["ONE", "Dashboard"]

ONE: Final = "/{id}"
"""Ends the path of a page that shows one thing; the last segment of the request's path is its id."""

Endpoint = Callable[[Request], Awaitable[Response]]

_STATIC: Final = Path(__file__).parent.parent / "static"
_GET: Final = ("GET", "HEAD")
_MAX_LIMIT: Final = 200
_MAX_FORM_BYTES: Final = 4096
_MAX_WHO_CHARS: Final = 128
_NOTE: Final = "<!-- note -->"
_SECURITY: Final = {
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
    """Shows what the forge knows, to whoever has the admin token.

    Args:
        forge: what is shown.
    """

    def __init__(self, forge: Runtime) -> None:
        self._forge = forge
        self._admin = AdminAuth(forge)
        self._files = {path.name: path.read_bytes() for path in _STATIC.iterdir()}

    def pages(self) -> list[tuple[str, Endpoint, tuple[str, ...]]]:
        """Return path, endpoint and methods of each page."""
        return [
            ("", self._folder, _GET),
            ("/", self._index, _GET),
            *((f"/{name}", self._script, _GET) for name in self._files if name.endswith(".js")),
            ("/style.css", self._style, _GET),
            ("/icon.svg", self._icon, _GET),
            ("/login", self._login, (*_GET, "POST")),
            ("/logout", self._logout, ("POST",)),
            ("/api/summary", self._summary, _GET),
            ("/api/report", self._report, _GET),
            ("/api/health", self._health, _GET),
            ("/api/generations", self._generations, _GET),
            ("/api/generations" + ONE, self._generation, _GET),
            ("/api/traces" + ONE, self._trace, _GET),
            ("/api/breakers", self._breakers, _GET),
            ("/api/breakers" + ONE, self._set_breaker, ("POST",)),
            ("/api/tickets", self._ticket, ("POST",)),
            ("/api/purge", self._purge, ("POST",)),
        ]

    async def _folder(self, request: Request) -> Response:
        self._admin.exists()
        return RedirectResponse(f"{request.url.path}/", status_code=307, headers=_SECURITY)

    async def _index(self, request: Request) -> Response:
        self._admin.exists()
        if not self._admin.admits(request):
            return RedirectResponse("login", status_code=303, headers=_SECURITY)
        return self._file("index.html", "text/html")

    async def _script(self, request: Request) -> Response:
        self._admin.require(request)
        return self._file(_id(request), "text/javascript")

    async def _style(self, _request: Request) -> Response:
        # The login page needs it too.
        self._admin.exists()
        return self._file("style.css", "text/css")

    async def _icon(self, _request: Request) -> Response:
        self._admin.exists()
        return self._file("icon.svg", "image/svg+xml")

    async def _login(self, request: Request) -> Response:
        self._admin.exists()
        try:
            if request.method == "POST":
                token = parse_qs(await _small_body(request)).get("token", [""])[0]
                is_good = self._admin.log_in(token=token)
            elif request.method == "GET" and "ticket" in request.query_params:
                is_good = self._admin.log_in(ticket=request.query_params["ticket"])
            else:
                return self._login_page()
        except TooManyLogins as exc:
            return self._login_page("Too many attempts. Wait a minute and try again.", exc.status)
        if not is_good:
            return self._login_page(
                "That did not open it: the token is wrong, or the link was used or is too old.", 403
            )
        # Not a redirect: after a click on another site, a strict cookie would not come along.
        response = self._file("welcome.html", "text/html")
        self._admin.set_cookie(response, request, folder=request.url.path.removesuffix("/login"))
        return response

    async def _logout(self, request: Request) -> Response:
        self._admin.exists()
        response = RedirectResponse("login", status_code=303, headers=_SECURITY)
        response.delete_cookie(COOKIE, path=request.url.path.removesuffix("/logout"), httponly=True, samesite="strict")
        return response

    async def _ticket(self, request: Request) -> Response:
        self._admin.require(request)
        path = f"{request.url.path.removesuffix('/api/tickets')}/login?ticket={self._admin.tickets.make()}"
        return _json({"path": path, "expires_in_s": TICKET_LIFE_S})

    async def _summary(self, request: Request) -> Response:
        self._admin.require(request)
        return _json(await self._forge.operations.summary())

    async def _report(self, request: Request) -> Response:
        self._admin.require(request)
        text, media_type = await self._forge.operations.report(dict(request.query_params))
        # Its own style, and nothing else.
        policy = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
        return Response(text, headers=_SECURITY | policy, media_type=media_type)

    async def _health(self, request: Request) -> Response:
        self._admin.require(request)
        return _json(self._forge.operations.health_report())

    async def _breakers(self, request: Request) -> Response:
        self._admin.require(request)
        return _json(self._forge.operations.breakers())

    async def _set_breaker(self, request: Request) -> Response:
        self._admin.require(request)
        try:
            mode = orjson.loads(await _small_body(request))["mode"]
        except (ValueError, KeyError, TypeError) as exc:
            raise BadRequest('send the mode as JSON: {"mode": "forced_open"}') from exc
        self._forge.operations.set_breaker(_id(request), str(mode))
        return _json(self._forge.operations.breakers())

    async def _purge(self, request: Request) -> Response:
        self._admin.require(request)
        try:
            asked: Any = orjson.loads(await _small_body(request))
            by, value, who = (str(asked.get(name, "")) for name in ("by", "value", "who"))
            is_dry_run = asked.get("dry_run", False) is True
        except (ValueError, AttributeError) as exc:
            raise BadRequest('send JSON: {"by": "figma", "value": "…", "dry_run": true}') from exc
        return _json(
            await self._forge.operations.purge(by, value, who=who[:_MAX_WHO_CHARS] or "api", is_dry_run=is_dry_run)
        )

    async def _generations(self, request: Request) -> Response:
        self._admin.require(request)
        limit = _limit(request.query_params.get("limit", "50"))
        return _json([_shown(record) for record in self._forge.recent.records(limit)])

    async def _generation(self, request: Request) -> Response:
        self._admin.require(request)
        record = self._forge.recent.get(_id(request))
        if record is None:
            raise NotFound("this generation is not among the last ones of this process; look in the database")
        return _json(_shown(record))

    async def _trace(self, request: Request) -> Response:
        self._admin.require(request)
        spans = self._forge.telemetry.recent_traces.trace(_id(request))
        if not spans:
            raise NotFound("this trace is not among the last ones of this process; look in your tracing backend")
        return _json(spans)

    def _login_page(self, note: str = "", status_code: int = 200) -> Response:
        content = self._files["login.html"].replace(_NOTE.encode(), note.encode())
        return Response(content, status_code=status_code, headers=_SECURITY, media_type="text/html")

    def _file(self, name: str, media_type: str) -> Response:
        return Response(self._files[name], headers=_SECURITY, media_type=media_type)


def _json(data: Any) -> Response:
    return Response(orjson.dumps(data, default=_plain), headers=_SECURITY, media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _shown(record: Record) -> dict[str, Any]:
    """Leave out the artifacts' contents: they are the customer's, and megabytes."""
    return {item.name: getattr(record, item.name) for item in fields(record) if item.name != "artifacts"}


def _id(request: Request) -> str:
    return request.url.path.rpartition("/")[2]


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_LIMIT:
        return int(text)
    raise BadRequest(f"limit must be a number from 1 to {_MAX_LIMIT}")


async def _small_body(request: Request) -> str:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise PayloadTooLarge(f"the form is larger than {_MAX_FORM_BYTES} bytes")
    return body.decode("utf-8", errors="replace")
