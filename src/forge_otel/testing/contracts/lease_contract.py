"""What every kind of leases must do, as a suite; see `forge_otel.testing.contracts.store_contract`."""

import asyncio
from typing import Final

from forge_otel.types import Event, Lease, LeaseHeld, Leases

__all__ = ["LeasesContract"]

_LIFE_S: Final = 30.0
_SHORT_S: Final = 0.1
_KEY: Final = "forge:l1:a"


class LeasesContract:
    """The behaviour of `Leases`; subclass it and give a fixture named `leases` that is open and empty."""

    async def test_one_of_many_gets_the_lease(self, leases: Leases) -> None:
        """Of many who claim at once one holds it, and all others are told for how long."""
        told = await asyncio.gather(*(_claim(leases, str(number)) for number in range(20)))
        held = [one for one in told if isinstance(one, LeaseHeld)]
        assert len(held) == 19
        assert all(0 < one.remaining_s <= _LIFE_S and one.failure is None for one in held)

    async def test_keys_are_apart(self, leases: Leases) -> None:
        """A lease on one key, whatever is in its name, is none on another."""
        for key in ("a", "{a}", "a}b{c", "ü ", "x{tag}y"):
            assert isinstance(await _claim(leases, "t", key=key), Lease)

    async def test_a_lease_that_was_given_back_is_free(self, leases: Leases) -> None:
        """The next holder has a higher fence."""
        first = await _lease(leases, "1")
        await leases.release(first)
        assert (await _lease(leases, "2")).fence > first.fence

    async def test_a_lease_ends_unless_it_is_renewed(self, leases: Leases) -> None:
        """Renewed it lasts, and without a sign of life somebody else gets it."""
        first = await _lease(leases, "1", ttl_s=_SHORT_S)
        assert await leases.renew(first, ttl_s=_LIFE_S)
        await asyncio.sleep(2 * _SHORT_S)
        assert isinstance(await _claim(leases, "2"), LeaseHeld)
        assert await leases.renew(first, ttl_s=_SHORT_S)
        assert (await _taken(leases, "2")).fence > first.fence

    async def test_nobody_gives_back_the_lease_of_another(self, leases: Leases) -> None:
        """Neither a holder whose lease has ended, nor one who only has the key."""
        first = await _lease(leases, "1", ttl_s=_SHORT_S)
        await _taken(leases, "2")
        await leases.release(first, failure=b"late")
        assert await _claim(leases, "3", waited_s=60) != LeaseHeld(failure=b"late")
        assert isinstance(await _claim(leases, "3"), LeaseHeld)

    async def test_a_higher_fence_refuses_the_lower_one(self, leases: Leases) -> None:
        """Whoever slept past the end of the lease can neither renew nor write, the new holder can."""
        first = await _lease(leases, "1", ttl_s=_SHORT_S)
        second = await _taken(leases, "2")
        assert not await leases.renew(first, ttl_s=_LIFE_S)
        assert await leases.commit(second, b"second", ttl_s=None)
        assert not await leases.commit(first, b"first", ttl_s=None)
        await leases.release(second)
        assert not await leases.commit(first, b"first", ttl_s=None)

    async def test_an_ended_lease_goes_on_if_nobody_came(self, leases: Leases) -> None:
        """The fence is still the newest, so that nothing of worth is thrown away."""
        first = await _lease(leases, "1", ttl_s=_SHORT_S)
        await asyncio.sleep(2 * _SHORT_S)
        assert await leases.commit(first, b"first", ttl_s=None)
        assert await leases.renew(first, ttl_s=_LIFE_S)
        assert isinstance(await _claim(leases, "2"), LeaseHeld)

    async def test_a_failure_is_for_those_who_waited(self, leases: Leases) -> None:
        """Whoever came before it is told; whoever comes later begins anew, which ends it for all."""
        await leases.release(await _lease(leases, "1"), failure=b"why")
        await asyncio.sleep(0.05)
        assert await _claim(leases, "2", waited_s=10) == LeaseHeld(failure=b"why")
        assert isinstance(await _claim(leases, "3", waited_s=0.001), Lease)

    async def test_followers_see_every_event_in_order(self, leases: Leases) -> None:
        """From the beginning, or after any event, however many there are."""
        lease = await _lease(leases, "1")
        events = [Event(lease.fence, number, b"%d" % number) for number in range(1, 301)]
        await leases.append(_KEY, events[:150])
        await leases.append(_KEY, events[150:])
        found = await leases.events(_KEY, (0, 0))
        while page := await leases.events(_KEY, (found[-1].fence, found[-1].number)):
            found += page
        assert found == events
        assert await leases.events(_KEY, (lease.fence, 299)) == events[299:]
        assert await leases.events("forge:l1:other", (0, 0)) == []

    async def test_an_older_run_tells_no_more(self, leases: Leases) -> None:
        """After another has taken over and begun to tell."""
        first = await _lease(leases, "1", ttl_s=_SHORT_S)
        await leases.append(_KEY, [Event(first.fence, 1, b"old")])
        second = await _taken(leases, "2")
        await leases.append(_KEY, [Event(second.fence, 1, b"new")])
        await leases.append(_KEY, [Event(first.fence, 2, b"late")])
        assert [event.data for event in await leases.events(_KEY, (0, 0))] == [b"old", b"new"]

    async def test_who_waits_is_woken(self, leases: Leases) -> None:
        """Long before it would look again by itself."""
        lease = await _lease(leases, "1")
        with leases.listen(_KEY) as wait:
            async with asyncio.timeout(5):
                waiting = asyncio.create_task(wait(60))
                await asyncio.sleep(0)
                await leases.release(lease)
                await waiting


async def _claim(
    leases: Leases, token: str, *, key: str = _KEY, ttl_s: float = _LIFE_S, waited_s: float = 0.001
) -> Lease | LeaseHeld:
    return await leases.acquire(key, token, ttl_s=ttl_s, waited_s=waited_s)


async def _lease(leases: Leases, token: str, *, ttl_s: float = _LIFE_S) -> Lease:
    claimed = await _claim(leases, token, ttl_s=ttl_s)
    assert isinstance(claimed, Lease)
    return claimed


async def _taken(leases: Leases, token: str) -> Lease:
    """Claim until the lease of the one before has ended."""
    async with asyncio.timeout(5):
        while not isinstance(claimed := await _claim(leases, token), Lease):
            await asyncio.sleep(0.01)
    return claimed
