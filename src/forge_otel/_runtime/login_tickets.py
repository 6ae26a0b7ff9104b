"""One-time secrets for links that open the dashboard without typing the admin token."""

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["TICKET_TTL_S", "LoginTickets"]

TICKET_TTL_S: Final = 600
_TICKET_BYTES: Final = 32
_MAX_TICKETS: Final = 32


class LoginTickets:
    """Issues and redeems login tickets; they are valid in this process only.

    Args:
        ttl_s: validity of a ticket, in seconds.
        clock: monotonic, in seconds.
    """

    def __init__(self, *, ttl_s: float = TICKET_TTL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._expires_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def issue(self) -> str:
        """Return a new ticket; the oldest one is dropped beyond 32."""
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        with self._lock:
            while len(self._expires_s) >= _MAX_TICKETS:
                del self._expires_s[next(iter(self._expires_s))]
            self._expires_s[ticket] = self._clock() + self._ttl_s
        return ticket

    def redeem(self, ticket: str) -> bool:
        """Invalidate `ticket` and return whether it was valid."""
        with self._lock:
            # Compared with every ticket in constant time, so that the duration reveals nothing about any of them.
            found = [issued for issued in self._expires_s if hmac.compare_digest(issued.encode(), ticket.encode())]
            return any(self._expires_s.pop(issued) > self._clock() for issued in found)
