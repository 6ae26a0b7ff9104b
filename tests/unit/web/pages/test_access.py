"""The token rules: who sees the metrics page, and who needs what elsewhere."""

import pytest
from starlette.requests import Request
from tests.unit.web.support import TOKEN, SmallRuntime, request, scope_of

from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.pages.access import bears_token, is_direct_loopback, is_token

LOCAL = ("127.0.0.1", 50000)
FAR = ("198.51.100.9", 50000)
BEARER = ("authorization", f"Bearer {TOKEN}")


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
        (FAR, [], {}, 401),
        (FAR, [BEARER], {}, 200),
        (FAR, [("authorization", f"bearer {TOKEN}")], {}, 200),
        (FAR, [("authorization", f"Basic {TOKEN}")], {}, 401),
        (FAR, [("authorization", "Bearer wrong")], {}, 401),
        (FAR, [("authorization", "Bearer ")], {"admin_token": None}, 401),
        (FAR, [("authorization", "Bearer None")], {"admin_token": None}, 401),
        (FAR, [("x-forwarded-for", "127.0.0.1")], {}, 401),
        (FAR, [], {"open_metrics": True}, 200),
        (None, [], {}, 401),
        (("testclient", 1), [], {}, 401),
    ],
)
async def test_metrics(
    client: object, headers: list[tuple[str, str]], settings: dict[str, object], status: int
) -> None:
    """A direct loopback peer needs no token; everybody else does, unless the page is open."""
    runtime = SmallRuntime(**{"admin_token": TOKEN, **settings})
    app = ForgeMiddleware(lambda *_: None, forge=runtime)  # type: ignore[arg-type, return-value]
    for path in ("/metrics", "/metrics/"):
        exchange = await request(app, path, client=client, headers=headers)
        assert exchange.status == status
    assert runtime.spans == []


async def test_metrics_takes_get_only() -> None:
    """A POST is refused, and the page is asked for what the scraper prefers."""
    app = ForgeMiddleware(lambda *_: None, forge=SmallRuntime())  # type: ignore[arg-type, return-value]
    refused = await request(app, "/metrics", client=LOCAL, method="POST")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    exchange = await request(app, "/metrics", client=LOCAL, headers=[("accept", "application/openmetrics-text")])
    assert exchange.body == b"accept=application/openmetrics-text"
    assert exchange.headers["content-type"] == "text/plain; version=0.0.4"


def test_helpers() -> None:
    """No token set means that no token fits."""
    assert is_token(TOKEN, TOKEN)
    assert not is_token("", None)
    assert not bears_token(Request(scope_of("/")), TOKEN)
    assert not is_direct_loopback(scope_of("/", client=("10.0.0.1", 1)))
