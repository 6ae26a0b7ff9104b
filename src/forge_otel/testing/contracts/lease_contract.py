"""Contract suite for leases: the behaviour that every implementation of `Leases` must have."""

import asyncio
from typing import Final

from forge_otel.types import Event, Lease, LeaseHeld, Leases

__all__ = ["LeasesContract"]

_TTL_S: Final = 30.0
_SHORT_TTL_S: Final = 0.1
_KEY: Final = "forge:l1:a"


class LeasesContract:
    """The behaviour of `Leases`; subclasses provide a fixture `leases` that is open and empty."""

    async def test_one_of_many_acquisitions_succeeds(self, leases: Leases) -> None:
        """Of 20 concurrent acquisitions one gets the lease, and 19 learn how long it is held."""
        results = await asyncio.gather(*(_acquire(leases, str(number)) for number in range(20)))
        held = [one for one in results if isinstance(one, LeaseHeld)]
        assert len(held) == 19
        assert all(0 < one.remaining_s <= _TTL_S and one.failure is None for one in held)

    async def test_keys_are_independent(self, leases: Leases) -> None:
        """A lease on one key does not affect another key, also with braces and spaces in their names."""
        # Braces choose the slot of a key in a Redis Cluster, and could place the keys of one lease on two servers.
        for key in ("a", "{a}", "a}b{c", "ü ", "x{tag}y"):
            assert isinstance(await _acquire(leases, "t", key=key), Lease)

    async def test_a_released_lease_can_be_acquired(self, leases: Leases) -> None:
        """The next holder has a higher fence."""
        first = await _lease(leases, "1")
        await leases.release(first)
        assert (await _lease(leases, "2")).fence > first.fence

    async def test_a_lease_expires_unless_it_is_renewed(self, leases: Leases) -> None:
        """A renewed lease stays held; an expired one can be acquired."""
        first = await _lease(leases, "1", ttl_s=_SHORT_TTL_S)
        assert await leases.renew(first, ttl_s=_TTL_S)
        await asyncio.sleep(2 * _SHORT_TTL_S)
        assert isinstance(await _acquire(leases, "2"), LeaseHeld)
        assert await leases.renew(first, ttl_s=_SHORT_TTL_S)
        assert (await _acquire_eventually(leases, "2")).fence > first.fence

    async def test_a_lease_is_released_by_its_holder_only(self, leases: Leases) -> None:
        """A holder whose lease has expired cannot release that of its successor."""
        first = await _lease(leases, "1", ttl_s=_SHORT_TTL_S)
        await _acquire_eventually(leases, "2")
        await leases.release(first, failure=b"late")
        assert await _acquire(leases, "3", waited_s=60) != LeaseHeld(failure=b"late")
        assert isinstance(await _acquire(leases, "3"), LeaseHeld)

    async def test_a_higher_fence_rejects_a_lower_one(self, leases: Leases) -> None:
        """A holder that was paused past its lease can neither renew nor commit; its successor can."""
        first = await _lease(leases, "1", ttl_s=_SHORT_TTL_S)
        second = await _acquire_eventually(leases, "2")
        assert not await leases.renew(first, ttl_s=_TTL_S)
        assert await leases.commit(second, b"second", ttl_s=None)
        assert not await leases.commit(first, b"first", ttl_s=None)
        await leases.release(second)
        assert not await leases.commit(first, b"first", ttl_s=None)

    async def test_an_expired_lease_without_successor_stays_valid(self, leases: Leases) -> None:
        """Its fence is still the highest, so its result can be committed."""
        first = await _lease(leases, "1", ttl_s=_SHORT_TTL_S)
        await asyncio.sleep(2 * _SHORT_TTL_S)
        assert await leases.commit(first, b"first", ttl_s=None)
        assert await leases.renew(first, ttl_s=_TTL_S)
        assert isinstance(await _acquire(leases, "2"), LeaseHeld)

    async def test_a_failure_is_reported_to_waiting_callers_only(self, leases: Leases) -> None:
        """A caller that waited before the failure gets it; a later one gets a new lease, which clears the failure."""
        await leases.release(await _lease(leases, "1"), failure=b"why")
        await asyncio.sleep(0.05)
        assert await _acquire(leases, "2", waited_s=10) == LeaseHeld(failure=b"why")
        assert isinstance(await _acquire(leases, "3", waited_s=0.001), Lease)

    async def test_followers_see_every_event_in_order(self, leases: Leases) -> None:
        """Events can be read from the beginning or after any event, in pages."""
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

    async def test_an_older_run_appends_no_events(self, leases: Leases) -> None:
        """Its events are ignored after a successor has appended one."""
        first = await _lease(leases, "1", ttl_s=_SHORT_TTL_S)
        await leases.append(_KEY, [Event(first.fence, 1, b"old")])
        second = await _acquire_eventually(leases, "2")
        await leases.append(_KEY, [Event(second.fence, 1, b"new")])
        await leases.append(_KEY, [Event(first.fence, 2, b"late")])
        assert [event.data for event in await leases.events(_KEY, (0, 0))] == [b"old", b"new"]

    async def test_a_listener_is_woken_by_a_release(self, leases: Leases) -> None:
        """It is woken long before its own timeout."""
        lease = await _lease(leases, "1")
        with leases.listen(_KEY) as wait:
            async with asyncio.timeout(5):
                waiting = asyncio.create_task(wait(60))
                await asyncio.sleep(0)
                await leases.release(lease)
                await waiting


async def _acquire(
    leases: Leases, token: str, *, key: str = _KEY, ttl_s: float = _TTL_S, waited_s: float = 0.001
) -> Lease | LeaseHeld:
    return await leases.acquire(key, token, ttl_s=ttl_s, waited_s=waited_s)


async def _lease(leases: Leases, token: str, *, ttl_s: float = _TTL_S) -> Lease:
    acquired = await _acquire(leases, token, ttl_s=ttl_s)
    assert isinstance(acquired, Lease)
    return acquired


async def _acquire_eventually(leases: Leases, token: str) -> Lease:
    """Try to acquire until the previous lease has expired."""
    async with asyncio.timeout(5):
        while not isinstance(acquired := await _acquire(leases, token), Lease):
            await asyncio.sleep(0.01)
    return acquired
