"""The count of requests in flight."""

from forge_otel.names import Attr
from forge_otel.telemetry.metrics.active_requests import ActiveRequests

GET = {Attr.HTTP_METHOD: "GET", Attr.URL_SCHEME: "http"}
POST = {Attr.HTTP_METHOD: "POST", Attr.URL_SCHEME: "https"}


def test_counts_by_method_and_scheme() -> None:
    """Each combination has a count of its own, which falls back to 0 instead of disappearing."""
    active = ActiveRequests()
    active.enter(("GET", "http"))
    active.enter(("GET", "http"))
    active.enter(("POST", "https"))
    assert active.observe() == [(2, GET), (1, POST)]
    active.leave(("GET", "http"))
    active.leave(("POST", "https"))
    assert active.observe() == [(1, GET), (0, POST)]
