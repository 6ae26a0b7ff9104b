"""Values from callers are truncated and redacted before they are recorded."""

import pytest
from tests.unit.web.support import scope_of

from forge_otel.names import Attr
from forge_otel.web.request.attributes import read_headers, redact_query, request_attributes


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("page=2&size=10", "page=2&size=10"),
        ("token=SECRET&page=2", "token=REDACTED&page=2"),
        ("%74oken=SECRET", "%74oken=REDACTED"),
        ("X-Amz-Signature=SECRET", "X-Amz-Signature=REDACTED"),
        ("api_key=SECRET&apiKey=SECRET", "api_key=REDACTED&apiKey=REDACTED"),
        ("code=SECRET&state=1", "code=REDACTED&state=1"),
        ("password=", "password="),
        ("author=ann", "author=ann"),
        ("flag", "flag"),
        ("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "REDACTED"),
    ],
)
def test_query(query: str, shown: str) -> None:
    """Values whose names look like secrets are replaced; other parts are unchanged."""
    assert redact_query(query) == shown


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("example.org", ("example.org", 80)),
        ("example.org:8443", ("example.org", 8443)),
        ("[::1]:9000", ("::1", 9000)),
        ("[broken", (None, None)),
        ("example.org:99999999", (None, None)),
    ],
)
def test_server_address(host: str, expected: tuple[str | None, int | None]) -> None:
    """The address comes from the Host header; a malformed header is ignored."""
    found = request_attributes(scope_of("/"), {b"host": host.encode()})
    assert (found.get(Attr.SERVER_ADDRESS), found.get(Attr.SERVER_PORT)) == expected


def test_long_values_are_truncated() -> None:
    """Headers, path and method are limited to 2048 characters."""
    found = request_attributes(scope_of("/" + "a" * 9000, method="X" * 9000), {b"user-agent": b"u" * 9000})
    assert max(len(str(value)) for value in found.values()) <= 2048


def test_repeated_baggage_is_joined() -> None:
    """Several baggage headers are read as one list (RFC 9110)."""
    facts = read_headers([(b"baggage", b"a=1"), (b"baggage", b"b=2")], frozenset({b"baggage"}))
    assert facts.carrier == {"baggage": ["a=1", "b=2"]}
