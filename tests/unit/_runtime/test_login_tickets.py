"""Login tickets open the dashboard once, for ten minutes."""

from forge_otel._runtime.login_tickets import LoginTickets


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_ticket_is_valid_once() -> None:
    """The second use of a ticket fails, and so does an invented one."""
    tickets = LoginTickets()
    ticket = tickets.issue()
    assert len(ticket) >= 43
    assert tickets.redeem(ticket)
    assert not tickets.redeem(ticket)
    assert not tickets.redeem("invented")
    assert not tickets.redeem("")


def test_a_ticket_expires() -> None:
    """After ten minutes a ticket is invalid."""
    clock = Clock()
    tickets = LoginTickets(clock=clock)
    ticket = tickets.issue()
    clock.now_s += 600
    assert not tickets.redeem(ticket)


def test_the_number_of_tickets_is_bounded() -> None:
    """Beyond 32 tickets the oldest becomes invalid."""
    tickets = LoginTickets()
    issued = [tickets.issue() for _ in range(40)]
    assert not tickets.redeem(issued[0])
    assert tickets.redeem(issued[-1])
