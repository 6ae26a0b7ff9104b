"""Who may see what: the admin token, and who needs none for the metrics page. Every comparison takes constant time."""

import hashlib
import hmac
import ipaddress
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import Scope

__all__ = ["bears_token", "is_direct_loopback", "is_token"]

_FORWARDING: Final = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"cf-connecting-ip", b"true-client-ip"}
)


def is_token(given: str, token: str | None) -> bool:
    """Whether `given` is the admin token; never where none is set."""
    if token is None:
        return False
    # Digests have one length, so that not even the token's length can be measured.
    return hmac.compare_digest(_digest(given), _digest(token))


def bears_token(connection: HTTPConnection, token: str | None) -> bool:
    """Whether the `Authorization` header carries the admin token as a bearer token (RFC 6750)."""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and is_token(given.strip(), token)


def is_direct_loopback(scope: Scope) -> bool:
    """Whether the request comes from this machine, and no proxy says that it passes on somebody else's.

    A Unix socket has no address and is usually a proxy's, so that it counts as foreign.
    """
    client = scope.get("client")
    if not client:
        return False
    if any(name.startswith(b"x-forwarded") or name in _FORWARDING for name, _ in scope["headers"]):
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
