"""How processes agree on who generates: a lease with a fencing number, and what it leaves behind."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Event", "Lease", "LeaseHeld", "Leases", "Wakeup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to generate for a key, until it ends or somebody else has a higher fence.

    Args:
        key: of the cache entry that is being made.
        token: of this holder alone.
        fence: rises with every holder of the key.
    """

    key: str
    token: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHeld:
    """Why there is no lease now.

    Args:
        rest_s: how long the other holder's lease lasts if it is not renewed; 0 where nobody holds it.
        failure: what a generation left that failed since this caller began to wait.
    """

    rest_s: float = 0.0
    failure: bytes | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a running generation did.

    Args:
        fence: of the run.
        number: counts the run's events from 1.
        data: JSON.
    """

    fence: int
    number: int
    data: bytes


class Wakeup(Protocol):
    """Rings when something happened to a key; may ring too often, and is only a help beside looking again."""

    async def wait(self, timeout_s: float, /) -> None:
        """Return when it rings, or after `timeout_s`."""
        ...


class Leases(Protocol):
    """Where processes agree on who generates.

    `is_store` says whether `commit` writes the cache's own entry; otherwise the value is handed over by `fetch`.
    `service` names what is asked, for guards; None where that is this machine.
    """

    is_store: bool
    service: str

    async def claim(self, key: str, token: str, *, life_s: float, waited_s: float) -> Lease | LeaseHeld:
        """Take the lease for `token` if nobody holds it and no generation failed in the last `waited_s`."""
        ...

    async def renew(self, lease: Lease, *, life_s: float) -> bool:
        """Make the lease last `life_s` from now; whether it still is the newest."""
        ...

    async def commit(self, lease: Lease, value: bytes, *, ttl_s: float | None) -> bool:
        """Write the value of the lease's key, in one step with the check that no higher fence was given."""
        ...

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Give the lease back, and tell those who wait."""
        ...

    async def fetch(self, key: str, *, within_s: float) -> bytes | None:
        """Return what was committed in the last `within_s`; None where the store has it anyway."""
        ...

    async def append(self, key: str, events: Sequence[Event]) -> None:
        """Add to what followers of `key` see; events of a lower fence than the newest are dropped."""
        ...

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return up to some hundred events after that fence and number, in order."""
        ...

    def listen(self, key: str) -> AbstractContextManager[Wakeup]:
        """Have a bell ring for `key` inside the block."""
        ...
