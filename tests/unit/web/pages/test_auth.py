"""The dashboard's door."""

import pytest
from tests.unit.web.support import TOKEN, SmallRuntime

from forge_otel.web.pages.auth import SESSION_LIFE_S, SessionSigner, Throttle, Tickets, TooManyLogins, login_link


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_ticket_opens_once() -> None:
    """The second use of a link finds it spent."""
    tickets = Tickets()
    ticket = tickets.make()
    assert len(ticket) >= 43
    assert tickets.redeem(ticket)
    assert not tickets.redeem(ticket)
    assert not tickets.redeem("made up")
    assert not tickets.redeem("")


def test_a_ticket_ends() -> None:
    """After ten minutes a link opens nothing."""
    clock = Clock()
    tickets = Tickets(clock=clock)
    ticket = tickets.make()
    clock.now_s += 600
    assert not tickets.redeem(ticket)


def test_tickets_are_bounded() -> None:
    """Making many forgets the oldest."""
    tickets = Tickets()
    made = [tickets.make() for _ in range(40)]
    assert not tickets.redeem(made[0])
    assert tickets.redeem(made[-1])


def test_links_of_one_forge() -> None:
    """A link is made for the forge whose dashboard it opens."""
    forge = SmallRuntime(admin_token=TOKEN)
    link = login_link(forge, base_url="http://127.0.0.1:8000/")
    assert link.startswith("http://127.0.0.1:8000/forge/login?ticket=")


def test_session_cookie() -> None:
    """A cookie is accepted with the same token until it ends, and not when anything of it was changed."""
    clock = Clock()
    signer = SessionSigner(TOKEN, clock=clock)
    value = signer.sign()
    assert TOKEN not in value
    assert SessionSigner(TOKEN, clock=clock).accepts(value)
    assert not SessionSigner("another-token-of-tests", clock=clock).accepts(value)
    end, rest = value.split(".", 1)
    assert not signer.accepts(f"{int(end) + 1}.{rest}")
    assert not signer.accepts("")
    assert not signer.accepts("..")
    assert not signer.accepts("é.é.é")
    clock.now_s += SESSION_LIFE_S
    assert not signer.accepts(value)


def test_throttle() -> None:
    """Ten failures within a minute close the door until the first of them is a minute old."""
    clock = Clock()
    throttle = Throttle(clock=clock)
    for _ in range(10):
        throttle.check()
        throttle.fail()
    clock.now_s += 20
    with pytest.raises(TooManyLogins) as caught:
        throttle.check()
    assert caught.value.retry_after_s == 40
    clock.now_s += 40
    throttle.check()
