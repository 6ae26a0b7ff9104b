"""Authentication of the dashboard and the monitoring endpoints: admin token, login cookie and login tickets.

A login sets a cookie that is signed with a key derived from the admin token. Every process with the same token accepts
it, and it expires after 12 hours.
"""

import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from itsdangerous import BadSignature, TimestampSigner
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Scope

from forge_otel._runtime.login_tickets import LoginTickets
from forge_otel.errors import ForgeError, NotFound, Unauthorized

__all__ = [
    "AdminAuth",
    "LoginThrottle",
    "SessionSigner",
    "TooManyLogins",
    "has_bearer_token",
    "is_admin_token",
    "is_direct_loopback",
]

_logger = logging.getLogger(__name__)

COOKIE: Final = "forge_session"
SESSION_TTL_S: Final = 12 * 3600
_FORWARDING_HEADERS: Final = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"cf-connecting-ip", b"true-client-ip"}
)


def is_admin_token(candidate: str, token: str | None) -> bool:
    """Return whether `candidate` is the admin token, in constant time; never if no token is set."""
    if token is None:
        return False
    # Digests have equal lengths, so that the duration does not reveal the token's length either.
    return hmac.compare_digest(_digest(candidate), _digest(token))


def has_bearer_token(connection: HTTPConnection, token: str | None) -> bool:
    """Return whether the `Authorization` header has the admin token as bearer token (RFC 6750)."""
    scheme, _, candidate = connection.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and is_admin_token(candidate.strip(), token)


def is_direct_loopback(scope: Scope) -> bool:
    """Return whether the peer has a loopback address and no forwarding header names another client."""
    client = scope.get("client")
    # A Unix socket has no address; it usually belongs to a proxy, so it does not count as direct.
    if not client:
        return False
    if any(name.startswith(b"x-forwarded") or name in _FORWARDING_HEADERS for name, _ in scope["headers"]):
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class TooManyLogins(ForgeError):
    """Logins are blocked for a minute after too many failures; bearer tokens still work."""

    status = 429
    code = "too_many_logins"
    title = "Too many logins"
    remedy = "Wait a minute and log in again, or use the admin token as a bearer token."


class LoginThrottle:
    """Blocks logins after too many failures.

    Args:
        limit: failures within `window_s` seconds.
        window_s: length of the window, in seconds.
        clock: monotonic, in seconds.
    """

    def __init__(self, *, limit: int = 10, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures: deque[float] = deque(maxlen=limit)
        self._window_s = window_s
        self._clock = clock

    def check(self) -> None:
        """Raise an error while logins are blocked.

        Raises:
            TooManyLogins: with the remaining time as `retry_after_s`.
        """
        if len(self._failures) < (self._failures.maxlen or 0):
            return
        wait_s = self._failures[0] + self._window_s - self._clock()
        if wait_s > 0:
            raise TooManyLogins("too many logins failed; wait a minute and try again", retry_after_s=wait_s)

    def record_failure(self) -> None:
        """Count a failed login."""
        self._failures.append(self._clock())


class SessionSigner(TimestampSigner):
    """Signs and verifies values of the login cookie.

    Args:
        token: the admin token; the key is its HMAC, never the token itself.
        clock: wall clock in seconds, since cookies outlive processes.
    """

    def __init__(self, token: str, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(token, salt="forge-otel session", key_derivation="hmac", digest_method=hashlib.sha256)
        self._clock = clock

    def get_timestamp(self) -> int:
        """Return the present time, in whole seconds."""
        return int(self._clock())

    def issue(self) -> str:
        """Return a new cookie value."""
        return self.sign(secrets.token_urlsafe(12)).decode()

    def is_valid(self, cookie: str) -> bool:
        """Return whether `cookie` was signed with the same token and has not expired."""
        try:
            self.unsign(cookie, max_age=SESSION_TTL_S)
        except BadSignature:
            return False
        return True


class AdminAuth:
    """Authenticates requests by bearer token or login cookie, and logins by admin token or login ticket.

    Args:
        token: the admin token; None switches the dashboard off.
        tickets: login tickets of the runtime.
    """

    def __init__(self, token: str | None, tickets: LoginTickets) -> None:
        self._token = token
        self._signer = None if token is None else SessionSigner(token)
        self._throttle = LoginThrottle()
        self.tickets = tickets
        self._has_warned = False

    def require_enabled(self) -> None:
        """Raise an error if the dashboard is off; the first time, the log says why.

        Raises:
            NotFound: no admin token is set.
        """
        if self._token is not None:
            return
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("dashboard is off: no admin token is set; set FORGE_ADMIN_TOKEN to enable it")
        raise NotFound("nothing is served at this path")

    def is_authenticated(self, request: Request) -> bool:
        """Return whether the request has a valid bearer token or login cookie."""
        cookie = request.cookies.get(COOKIE)
        if cookie is not None and self._signer is not None and self._signer.is_valid(cookie):
            return True
        return has_bearer_token(request, self._token)

    def require_admin(self, request: Request) -> None:
        """Raise an error unless the request is authenticated.

        Raises:
            NotFound: the dashboard is off.
            Unauthorized: the request has neither token nor cookie.
        """
        self.require_enabled()
        if not self.is_authenticated(request):
            raise Unauthorized("the admin token is required: log in, or send Authorization: Bearer <FORGE_ADMIN_TOKEN>")

    def log_in(self, *, token: str = "", ticket: str = "") -> bool:
        """Return whether the credentials are valid; a ticket is used up.

        Raises:
            TooManyLogins: too many attempts have failed.
        """
        self._throttle.check()
        is_valid = self.tickets.redeem(ticket) if ticket else is_admin_token(token, self._token)
        if not is_valid:
            self._throttle.record_failure()
            _logger.warning("login to the dashboard failed")
        return is_valid

    def set_session_cookie(self, response: Response, request: Request, *, folder: str) -> None:
        """Set the login cookie, restricted to the dashboard's folder, HTTP only and same-site."""
        self.require_enabled()
        if self._signer is not None:
            response.set_cookie(
                COOKIE,
                self._signer.issue(),
                max_age=SESSION_TTL_S,
                path=folder,
                # Not always: a cookie for https only would lock out `forge-otel demo` on http://127.0.0.1.
                secure=request.url.scheme == "https",
                httponly=True,
                samesite="strict",
            )
