"""Authentication: admin token, login cookie, loopback peers and the throttle of failed logins."""

import pytest
from starlette.requests import Request
from tests.unit.web.support import TOKEN, scope_of

from forge_otel.web.pages.auth import (
    SESSION_TTL_S,
    LoginThrottle,
    SessionSigner,
    TooManyLogins,
    has_bearer_token,
    is_admin_token,
    is_direct_loopback,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_780_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_token_no_candidate_is_valid() -> None:
    """The empty string is not the token of a service without one."""
    assert is_admin_token(TOKEN, TOKEN)
    assert not is_admin_token("", None)
    assert not has_bearer_token(Request(scope_of("/")), TOKEN)


def test_a_private_address_is_not_loopback() -> None:
    """A peer in the same network needs the token."""
    assert is_direct_loopback(scope_of("/", client=("127.0.0.1", 1)))
    assert not is_direct_loopback(scope_of("/", client=("10.0.0.1", 1)))


def test_session_cookie() -> None:
    """A cookie is valid for signers with the same token only, and does not contain the token."""
    clock = Clock()
    cookie = SessionSigner(TOKEN, clock=clock).issue()
    assert TOKEN not in cookie
    assert SessionSigner(TOKEN, clock=clock).is_valid(cookie)
    assert not SessionSigner("another-token-of-tests", clock=clock).is_valid(cookie)


def test_session_cookie_expires() -> None:
    """A cookie is invalid after 12 hours, and if it was issued in the future."""
    clock = Clock()
    signer = SessionSigner(TOKEN, clock=clock)
    cookie = signer.issue()
    clock.now_s += SESSION_TTL_S
    assert signer.is_valid(cookie)
    clock.now_s += 1
    assert not signer.is_valid(cookie)
    clock.now_s -= SESSION_TTL_S + 10
    assert not signer.is_valid(cookie)


def test_a_modified_session_cookie_is_invalid() -> None:
    """Every part of a cookie is covered by its signature."""
    signer = SessionSigner(TOKEN)
    nonce, timestamp, signature = signer.issue().split(".")
    later = "z" + timestamp[1:]
    for forged in (f"{nonce}.{later}.{signature}", f"x{nonce}.{timestamp}.{signature}", f"{nonce}.{timestamp}."):
        assert not signer.is_valid(forged)
    for malformed in ("", "..", "é.é.é", nonce):
        assert not signer.is_valid(malformed)


def test_throttle() -> None:
    """Ten failures within a minute block logins until the first failure is a minute old."""
    clock = Clock()
    throttle = LoginThrottle(clock=clock)
    for _ in range(10):
        throttle.check()
        throttle.record_failure()
    clock.now_s += 20
    with pytest.raises(TooManyLogins) as caught:
        throttle.check()
    assert caught.value.retry_after_s == 40
    clock.now_s += 40
    throttle.check()
