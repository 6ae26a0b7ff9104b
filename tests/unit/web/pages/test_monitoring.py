"""The metrics page and the health endpoints, and which callers may read them."""

import json

import pytest
from tests.unit.web.support import TOKEN, InMemoryForge, application_not_called, request

from forge_otel.web.middleware import ForgeMiddleware

LOCAL = ("127.0.0.1", 50000)
REMOTE = ("198.51.100.9", 50000)
BEARER = ("authorization", f"Bearer {TOKEN}")


def app_of(forge: InMemoryForge) -> ForgeMiddleware:
    return ForgeMiddleware(application_not_called, forge=forge)


@pytest.mark.parametrize(
    ("client", "headers", "settings", "status"),
    [
        (LOCAL, [], {}, 200),
        (("::1", 1), [], {}, 200),
        (("::ffff:127.0.0.1", 1), [], {}, 200),
        (("127.9.9.9", 1), [], {}, 200),
        (LOCAL, [("x-forwarded-for", "127.0.0.1")], {}, 401),
        (LOCAL, [("x-forwarded-host", "example.org")], {}, 401),
        (LOCAL, [("forwarded", "for=127.0.0.1")], {}, 401),
        (LOCAL, [("x-real-ip", "127.0.0.1")], {}, 401),
        (LOCAL, [("via", "1.1 proxy")], {}, 401),
        (LOCAL, [("x-forwarded-for", "1.2.3.4"), BEARER], {}, 200),
        (REMOTE, [], {}, 401),
        (REMOTE, [BEARER], {}, 200),
        (REMOTE, [("authorization", f"bearer {TOKEN}")], {}, 200),
        (REMOTE, [("authorization", f"Basic {TOKEN}")], {}, 401),
        (REMOTE, [("authorization", "Bearer wrong")], {}, 401),
        (REMOTE, [("authorization", "Bearer ")], {"admin_token": None}, 401),
        (REMOTE, [("authorization", "Bearer None")], {"admin_token": None}, 401),
        (REMOTE, [("x-forwarded-for", "127.0.0.1")], {}, 401),
        (REMOTE, [], {"open_metrics": True}, 200),
        (None, [], {}, 401),
        (("testclient", 1), [], {}, 401),
    ],
)
async def test_access_to_metrics(
    client: object, headers: list[tuple[str, str]], settings: dict[str, object], status: int
) -> None:
    """A direct loopback peer needs no token; other peers need it unless metrics are public."""
    forge = InMemoryForge(**{"admin_token": TOKEN, **settings})
    app = app_of(forge)
    for path in ("/metrics", "/metrics/"):
        exchange = await request(app, path, client=client, headers=headers)
        assert exchange.status == status
    assert forge.spans == []


async def test_metrics_allows_get_only() -> None:
    """A POST gets a 405 that names the allowed methods."""
    refused = await request(app_of(InMemoryForge()), "/metrics", client=LOCAL, method="POST")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_metrics_in_the_preferred_format() -> None:
    """The scraper's Accept header selects OpenMetrics or the Prometheus text format."""
    app = app_of(InMemoryForge())
    text = await request(app, "/metrics", client=LOCAL)
    assert text.headers["content-type"].startswith("text/plain; version=")
    open_metrics = [("accept", "application/openmetrics-text; version=1.0.0")]
    exchange = await request(app, "/metrics", client=LOCAL, headers=open_metrics)
    assert exchange.headers["content-type"].startswith("application/openmetrics-text")


async def test_probes() -> None:
    """A critical service whose breaker is open makes the service not ready, but still live."""
    forge = InMemoryForge(critical_services=("openai",))
    app = app_of(forge)
    assert (await request(app, "/livez")).body == b'{"status":"pass"}'
    assert (await request(app, "/readyz")).status == 200
    forge.guard("openai")
    forge.operations.set_breaker("openai", "forced_open")
    assert (await request(app, "/readyz")).status == 503
    assert (await request(app, "/livez")).status == 200


async def test_details_need_the_token() -> None:
    """Callers without the token see the status only, not which service is unavailable."""
    forge = InMemoryForge(admin_token=TOKEN)
    forge.guard("openai")
    forge.operations.set_breaker("openai", "forced_open")
    app = app_of(forge)
    public = await request(app, "/health")
    assert (public.status, json.loads(public.body)) == (200, {"status": "warn"})
    assert public.headers["content-type"] == "application/health+json"
    detailed = await request(app, "/health", headers=[BEARER])
    assert b"openai" in detailed.body


async def test_a_failed_health_check_is_a_503() -> None:
    """Load balancers read the status code."""
    forge = InMemoryForge(critical_services=("openai",))
    forge.guard("openai")
    forge.operations.set_breaker("openai", "forced_open")
    exchange = await request(app_of(forge), "/health")
    assert (exchange.status, json.loads(exchange.body)) == (503, {"status": "fail"})
