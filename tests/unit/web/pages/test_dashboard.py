"""The dashboard and its API, as seen by a browser and by a script."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.unit.web.support import TOKEN, Exchange, InMemoryForge, application_not_called, request

from forge_otel.types import Cost, Record, Step, Usage
from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.pages.router import Routes

BEARER = ("authorization", f"Bearer {TOKEN}")
FORM = ("content-type", "application/x-www-form-urlencoded")


def app_of(forge: InMemoryForge, **options: Any) -> ForgeMiddleware:
    return ForgeMiddleware(application_not_called, forge=forge, **options)


def record(number: int = 1) -> Record:
    return Record(
        id=f"0198-{number}",
        created_at=datetime(2026, 5, 1, 12, 0, number, tzinfo=UTC),
        duration_s=61.5,
        outcome="ok",
        pipeline="generate",
        pipeline_version="1",
        component_type="button",
        component_id="button-1",
        key="a" * 64,
        source="L4",
        cost_usd=Decimal("0.4213"),
        costs=(Cost(api="openai", model="gpt", usage=Usage(output=7), amount_usd=Decimal("0.4213")),),
        steps=(Step(name="tokens", kind="agent", started_s=0.0, duration_s=1.0),),
        misses=MappingProxyType({"L1": "cold"}),
        artifacts={"component.tsx": "the customer's code", "logo.png": b"\xff"},
        artifact_refs={"component.tsx": "components/button-1/component.tsx"},
    )


def cookie_of(exchange: Exchange) -> tuple[str, str]:
    return ("cookie", exchange.headers["set-cookie"].partition(";")[0])


async def log_in(app: ForgeMiddleware, token: str = TOKEN) -> Exchange:
    return await request(app, "/forge/login", method="POST", body=[f"token={token}".encode()], headers=[FORM])


async def test_without_a_token_there_is_no_dashboard(caplog: pytest.LogCaptureFixture) -> None:
    """Every path of it is a 404, and one log line says why."""
    app = app_of(InMemoryForge())
    for path in ("/forge", "/forge/", "/forge/login", "/forge/style.css", "/forge/api/summary", "/forge/api/traces/1"):
        assert (await request(app, path)).status == 404, path
    assert (await log_in(app)).status == 404
    assert caplog.text.count("FORGE_ADMIN_TOKEN") == 1


async def test_without_login() -> None:
    """A browser is redirected to the login page; API and script files respond with a 401."""
    app = app_of(InMemoryForge(admin_token=TOKEN))
    page = await request(app, "/forge/")
    assert (page.status, page.headers["location"]) == (303, "login")
    for path in ("/forge/api/summary", "/forge/api/generations", "/forge/api/generations/1", "/forge/app.js"):
        exchange = await request(app, path, client=("127.0.0.1", 1))
        assert exchange.status == 401, path
        assert json.loads(exchange.body)["code"] == "unauthorized"
    assert (await request(app, "/forge/api/tickets", method="POST")).status == 401


async def test_login_form() -> None:
    """The token logs in; the cookie is not the token, HTTP only, same-site and restricted to the folder."""
    app = app_of(InMemoryForge(admin_token=TOKEN))
    form = await request(app, "/forge/login")
    assert b'type="password"' in form.body
    welcome = await log_in(app)
    assert welcome.status == 200
    cookie = welcome.headers["set-cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/forge"} <= {part.strip() for part in cookie.split(";")}
    page = await request(app, "/forge/", headers=[cookie_of(welcome)])
    assert b"<title>forge" in page.body


async def test_login_over_https_behind_a_prefix() -> None:
    """Over TLS the cookie is secure, and its path includes the prefix."""
    app = app_of(InMemoryForge(admin_token=TOKEN), routes=Routes(dashboard="/ops"))
    welcome = await request(
        app, "/pre/ops/login", root_path="/pre", scheme="https", method="POST", body=[f"token={TOKEN}".encode()]
    )
    assert "Secure" in welcome.headers["set-cookie"]
    assert "Path=/pre/ops;" in welcome.headers["set-cookie"]


async def test_failed_logins_are_throttled() -> None:
    """Ten failures block the form, even for the right token; bearer tokens still work."""
    app = app_of(InMemoryForge(admin_token=TOKEN))
    for _ in range(10):
        assert (await log_in(app, "wrong")).status == 403
    assert (await log_in(app)).status == 429
    assert (await request(app, "/forge/api/summary", headers=[BEARER])).status == 200


async def test_a_login_link_is_valid_once() -> None:
    """The first GET of a login link logs in; a HEAD request does not use the ticket."""
    forge = InMemoryForge(admin_token=TOKEN)
    app = app_of(forge)
    path = forge.operations.login_link(base_url="")
    await request(app, path, method="HEAD")
    welcome = await request(app, path)
    assert (await request(app, "/forge/", headers=[cookie_of(welcome)])).status == 200
    again = await request(app, path)
    assert again.status == 403
    assert "set-cookie" not in again.headers


async def test_tickets_by_api() -> None:
    """A script with the token can create a login link for a browser."""
    app = app_of(InMemoryForge(admin_token=TOKEN))
    made = json.loads((await request(app, "/forge/api/tickets", method="POST", headers=[BEARER])).body)
    assert made["expires_in_s"] == 600
    assert (await request(app, made["path"])).status == 200


async def test_logout() -> None:
    """Logging out deletes the cookie."""
    exchange = await request(app_of(InMemoryForge(admin_token=TOKEN)), "/forge/logout", method="POST")
    assert (exchange.status, exchange.headers["location"]) == (303, "login")
    assert "Max-Age=0" in exchange.headers["set-cookie"]


async def test_security_headers() -> None:
    """Pages run no foreign or inline script, are never cached and cannot be framed."""
    app = app_of(InMemoryForge(admin_token=TOKEN))
    for path in ("/forge/", "/forge/app.js", "/forge/style.css", "/forge/login", "/forge/api/summary"):
        headers = (await request(app, path, headers=[BEARER])).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


async def test_folder_without_slash() -> None:
    """The folder redirects to the page, with the root path."""
    app = app_of(InMemoryForge(admin_token=TOKEN))
    assert (await request(app, "/pre/forge", root_path="/pre")).headers["location"] == "/pre/forge/"


async def test_generations() -> None:
    """Records are listed newest first, with money as strings and without artifacts."""
    forge = InMemoryForge(admin_token=TOKEN)
    await forge.recent.deliver([record(1), record(2)])
    app = app_of(forge)
    exchange = await request(app, "/forge/api/generations?limit=1", headers=[BEARER])
    assert b"the customer's code" not in exchange.body
    [shown] = json.loads(exchange.body)
    assert (shown["id"], shown["cost_usd"], shown["misses"]) == ("0198-2", "0.4213", {"L1": "cold"})
    assert shown["costs"][0]["usage"]["output"] == 7
    one = await request(app, "/forge/api/generations/0198-1", headers=[BEARER])
    assert json.loads(one.body)["created_at"] == "2026-05-01T12:00:01+00:00"
    assert (await request(app, "/forge/api/generations/none", headers=[BEARER])).status == 404


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "", "1e3", "٣", "9" * 50])
async def test_limits(limit: str) -> None:
    """A page size out of range is a 400 that names the range."""
    app = app_of(InMemoryForge(admin_token=TOKEN))
    exchange = await request(app, f"/forge/api/generations?limit={limit}", headers=[BEARER])
    assert exchange.status == 400


async def test_traces() -> None:
    """A recent trace is returned span by span; an unknown one is a 404 that says where to look."""

    async def page(_request: Request) -> Response:
        return PlainTextResponse("hello")

    forge = InMemoryForge(admin_token=TOKEN)
    app = Starlette(routes=[Route("/", page)])
    app.add_middleware(ForgeMiddleware, forge=forge)
    trace_id = (await request(app)).headers["x-trace-id"]
    exchange = await request(app, f"/forge/api/traces/{trace_id}", headers=[BEARER])
    [span] = json.loads(exchange.body)
    assert (span["name"], span["kind"], span["parent_id"]) == ("GET /", "server", "")
    unknown = await request(app, "/forge/api/traces/cd", headers=[BEARER])
    assert (unknown.status, "tracing backend" in json.loads(unknown.body)["detail"]) == (404, True)


async def test_summary_and_health() -> None:
    """Both are JSON: figures with money as strings, and the health report with its checks."""
    forge = InMemoryForge(admin_token=TOKEN)
    await forge.recent.deliver([record(1)])
    app = app_of(forge)
    summary = json.loads((await request(app, "/forge/api/summary", headers=[BEARER])).body)
    assert (summary["generations"], summary["cost_usd"], summary["scope"]) == (1, "0.4213", "process")
    health = json.loads((await request(app, "/forge/api/health", headers=[BEARER])).body)
    assert health == forge.operations.health_report()


async def test_breakers() -> None:
    """A POST sets the mode of a breaker and returns the new states; a body without a mode is a 400."""
    forge = InMemoryForge(admin_token=TOKEN)
    forge.guard("openai")
    app = app_of(forge)
    path = "/forge/api/breakers/openai"
    forced = await request(app, path, method="POST", body=[b'{"mode": "forced_open"}'], headers=[BEARER])
    modes = {breaker["name"]: breaker["mode"] for breaker in json.loads(forced.body)}
    assert modes["openai"] == "forced_open"
    assert (await request(app, "/forge/api/breakers", headers=[BEARER])).body == forced.body
    for body in (b"", b"[]", b"{}", b'{"mode": "ajar"}'):
        assert (await request(app, path, method="POST", body=[body], headers=[BEARER])).status == 400


async def test_purge() -> None:
    """A purge needs to say by which property entries are selected."""
    forge = InMemoryForge(admin_token=TOKEN)
    app = app_of(forge)
    body = b'{"by": "figma", "value": "aBcD", "who": "ann", "dry_run": true}'
    purged = await request(app, "/forge/api/purge", method="POST", body=[body], headers=[BEARER])
    assert purged.status == 200
    for body in (b"", b"[]", b'{"by": "colour", "value": "x"}'):
        assert (await request(app, "/forge/api/purge", method="POST", body=[body], headers=[BEARER])).status == 400


async def test_a_large_form_is_rejected() -> None:
    """A login form over 4 kB is a 413."""
    app = app_of(InMemoryForge(admin_token=TOKEN))
    assert (await log_in(app, "x" * 5000)).status == 413


def test_static_files_are_small_and_self_contained() -> None:
    """The files are small, load nothing from other sites and contain no inline code."""
    from forge_otel.web.pages import dashboard

    files = list((dashboard._STATIC).iterdir())
    assert sum(path.stat().st_size for path in files) < 60_000
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name
        assert "innerHTML" not in text, path.name
        assert " style=" not in text, path.name
        assert "onclick" not in text, path.name
