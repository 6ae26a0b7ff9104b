"""Probes say their status to everybody and the rest to whoever has the token."""

import json

from tests.unit.web.support import TOKEN, SmallRuntime, request

from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.pages.router import Routes

BEARER = ("authorization", f"Bearer {TOKEN}")


def app_of(runtime: SmallRuntime, routes: Routes | None = None) -> ForgeMiddleware:
    async def nothing(scope: object, receive: object, send: object) -> None:
        raise AssertionError("the application was asked")

    return ForgeMiddleware(nothing, forge=runtime, routes=routes or Routes())


async def test_probes() -> None:
    """Live is live; ready follows the forge."""
    runtime = SmallRuntime()
    app = app_of(runtime)
    assert (await request(app, "/livez")).body == b'{"status":"pass"}'
    assert (await request(app, "/readyz")).status == 200
    runtime.is_ready = False
    assert (await request(app, "/readyz")).status == 503
    assert (await request(app, "/livez")).status == 200


async def test_details_want_the_token() -> None:
    """Which resource is away is not for strangers."""
    runtime = SmallRuntime(admin_token=TOKEN)
    runtime.report = {"status": "warn", "checks": {"redis:responseTime": [{"status": "warn"}]}}
    app = app_of(runtime)
    stranger = await request(app, "/health")
    assert (stranger.status, json.loads(stranger.body)) == (200, {"status": "warn"})
    assert stranger.headers["content-type"] == "application/health+json"
    friend = await request(app, "/health", headers=[BEARER])
    assert json.loads(friend.body) == runtime.report


async def test_fail_is_503() -> None:
    """Load balancers read the status code."""
    runtime = SmallRuntime()
    runtime.report = {"status": "fail", "checks": {}}
    assert (await request(app_of(runtime), "/health")).status == 503


async def test_a_page_that_fails_says_so_plainly() -> None:
    """A fault of ours is a 500 without details, and in the log."""
    runtime = SmallRuntime()
    runtime.report = {}
    exchange = await request(app_of(runtime), "/health")
    assert exchange.status == 500
    assert exchange.headers["content-type"] == "application/problem+json"
