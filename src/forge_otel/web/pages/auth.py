"""The dashboard's door: the admin token as bearer, a login form, and links that open once.

No token configured means that the dashboard does not exist. A login gives a cookie that is not the token but a
signature made with it, so that every process with the same token accepts it and it ends by itself.
"""

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import Response

from forge_otel.errors import ForgeError, NotFound, Unauthorized
from forge_otel.web.pages.access import bears_token, is_token
from forge_otel.web.protocols import Runtime

__all__ = ["AdminAuth", "SessionSigner", "Throttle", "Tickets", "TooManyLogins", "login_link"]

logger = logging.getLogger(__name__)

COOKIE: Final = "forge_session"
SESSION_LIFE_S: Final = 12 * 3600
TICKET_LIFE_S: Final = 600
_TICKET_BYTES: Final = 32
_MAX_TICKETS: Final = 32


class TooManyLogins(ForgeError):
    """Too many logins failed in this process; nobody can log in for a while, bearer tokens go on working."""

    status = 429
    code = "too_many_logins"
    title = "Too many logins"
    remedy = "Wait a minute and log in again, or use the admin token as a bearer token."


class Tickets:
    """Secrets that open the dashboard once, for links that a terminal prints. They live in this process only.

    Args:
        life_s: how long a ticket can be used.
        clock: monotonic, seconds.
    """

    def __init__(self, *, life_s: float = TICKET_LIFE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._life_s = life_s
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._lock = threading.Lock()

    def make(self) -> str:
        """Return a new ticket; the oldest of too many is forgotten."""
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        with self._lock:
            while len(self._ends) >= _MAX_TICKETS:
                del self._ends[next(iter(self._ends))]
            self._ends[ticket] = self._clock() + self._life_s
        return ticket

    def redeem(self, ticket: str) -> bool:
        """Use up `ticket`; whether it was good."""
        with self._lock:
            # Compared with each, so that the time says nothing about any.
            found = [known for known in self._ends if hmac.compare_digest(known.encode(), ticket.encode())]
            return any(self._ends.pop(known) > self._clock() for known in found)


class Throttle:
    """Counts failures and says when there were too many.

    Args:
        limit: failures within `window_s` seconds.
        clock: monotonic, seconds.
    """

    def __init__(self, *, limit: int = 10, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures: deque[float] = deque(maxlen=limit)
        self._window_s = window_s
        self._clock = clock

    def check(self) -> None:
        """Refuse while there were too many failures.

        Raises:
            TooManyLogins: with the time to wait.
        """
        if len(self._failures) < (self._failures.maxlen or 0):
            return
        wait_s = self._failures[0] + self._window_s - self._clock()
        if wait_s > 0:
            raise TooManyLogins("too many logins failed; wait a minute and try again", retry_after_s=wait_s)

    def fail(self) -> None:
        """Count one failure."""
        self._failures.append(self._clock())


class SessionSigner:
    """Makes and checks the values of the login cookie: `<end>.<nonce>.<signature>`.

    Args:
        token: the admin token, of which only a derived key is used.
        clock: wall clock, seconds, because a cookie outlives a process.
    """

    def __init__(self, token: str, *, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(token.encode(), b"forge-otel session cookie v1", "sha256")
        self._clock = clock

    def sign(self) -> str:
        """Return a new cookie value."""
        facts = f"{int(self._clock()) + SESSION_LIFE_S}.{secrets.token_urlsafe(12)}"
        return f"{facts}.{self._signature(facts)}"

    def accepts(self, value: str) -> bool:
        """Whether `value` was signed with the same token and has not ended."""
        facts, _, signature = value.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(facts).encode()):
            return False
        return int(facts.partition(".")[0]) > self._clock()

    def _signature(self, facts: str) -> str:
        return hmac.new(self._key, facts.encode(), hashlib.sha256).hexdigest()


class AdminAuth:
    """Lets in whoever has the token, its cookie, or a ticket.

    Args:
        forge: its settings hold the token.
    """

    def __init__(self, forge: Runtime) -> None:
        self._token = forge.settings.admin_token
        self._signer = None if self._token is None else SessionSigner(self._token)
        self._throttle = Throttle()
        self.tickets = _tickets_of(forge)
        self._has_warned = False

    def exists(self) -> None:
        """Hide everything where no token is configured.

        Raises:
            NotFound: there is no token, so there is no dashboard; the log says so once.
        """
        if self._token is not None:
            return
        if not self._has_warned:
            self._has_warned = True
            logger.warning("The dashboard is off because no admin token is set: set FORGE_ADMIN_TOKEN to open it")
        raise NotFound("nothing is served at this path")

    def admits(self, request: Request) -> bool:
        """Whether the request carries the token or a login cookie."""
        cookie = request.cookies.get(COOKIE)
        if cookie is not None and self._signer is not None and self._signer.accepts(cookie):
            return True
        return bears_token(request, self._token)

    def require(self, request: Request) -> None:
        """Let pass who may see the dashboard.

        Raises:
            NotFound: there is no dashboard.
            Unauthorized: the request carries neither token nor cookie.
        """
        self.exists()
        if not self.admits(request):
            raise Unauthorized("this needs the admin token: log in, or send Authorization: Bearer <FORGE_ADMIN_TOKEN>")

    def log_in(self, *, token: str = "", ticket: str = "") -> bool:
        """Check what somebody logs in with; a ticket is used up.

        Raises:
            TooManyLogins: too many attempts have failed.
        """
        self._throttle.check()
        is_good = self.tickets.redeem(ticket) if ticket else is_token(token, self._token)
        if not is_good:
            self._throttle.fail()
            logger.warning("A login to the dashboard failed")
        return is_good

    def set_cookie(self, response: Response, request: Request, *, folder: str) -> None:
        """Log the browser in: only for the dashboard's folder, out of reach of scripts and of other sites."""
        self.exists()
        if self._signer is not None:
            response.set_cookie(
                COOKIE,
                self._signer.sign(),
                max_age=SESSION_LIFE_S,
                path=folder,
                secure=request.url.scheme == "https",
                httponly=True,
                samesite="strict",
            )


def login_link(forge: Runtime, *, base_url: str, dashboard: str = "/forge") -> str:
    """Return a link that opens the dashboard once, within ten minutes, in this process.

    Args:
        forge: the running forge.
        base_url: where the service is reached, for example `http://127.0.0.1:8000`.
        dashboard: the dashboard's path, as in `Routes`.
    """
    return f"{base_url.rstrip('/')}{dashboard}/login?ticket={_tickets_of(forge).make()}"


# The command line makes tickets and the middleware takes them; what they share is the forge.
_tickets: WeakKeyDictionary[Runtime, Tickets] = WeakKeyDictionary()


def _tickets_of(forge: Runtime) -> Tickets:
    return _tickets.setdefault(forge, Tickets())
