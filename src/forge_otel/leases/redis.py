"""Leases in Redis; each operation is one Lua script on keys of one hash slot, so that it also runs in a Cluster.

The fence is the server's clock in microseconds, or the last fence plus one if that is higher, so it also rises after
the last fence was evicted. A lease expires by its TTL. Renewing and committing only check that no higher fence was
granted: a holder that was suspended beyond the TTL continues if no other process took over, and else changes nothing.

Progress events are a stream with the ids `<fence>-<number>`; Redis itself rejects those of an older run.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Self

from forge_otel._internal.tasks import BackgroundTask
from forge_otel.errors import needs
from forge_otel.leases.notify import WakeupHub
from forge_otel.types import Event, Lease, LeaseHeld, WaitForChange

with needs("redis"):
    from redis.exceptions import RedisError

__all__ = ["RedisLeases"]

_logger = logging.getLogger(__name__)

_CHANNEL: Final = "forge:flights"
_FENCE_TTL_S: Final = 24 * 3600
_FAILURE_TTL_S: Final = 30
_EVENTS_TTL_S: Final = 600
_MAX_EVENTS: Final = 1000
_PAGE: Final = 200
_RESUBSCRIBE_PAUSE_S: Final = 0.5
_HEARTBEAT_S: Final = 5.0

# KEYS lease, fence, failure · ARGV token, ttl_ms, waited_ms, fence_ttl_ms, failure_ttl_ms
_ACQUIRE: Final = """
local remaining = redis.call('PTTL', KEYS[1])
if remaining > 0 then return {'held', remaining} end
local failure_ttl = redis.call('PTTL', KEYS[3])
if failure_ttl > 0 and ARGV[5] - failure_ttl <= tonumber(ARGV[3]) then return {'failed', redis.call('GET', KEYS[3])} end
local now = redis.call('TIME')
local fence = now[1] * 1000000 + now[2]
local newest = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
if newest >= fence then fence = newest + 1 end
local text = string.format('%.0f', fence)
redis.call('SET', KEYS[2], text, 'PX', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'lease', text}
"""
# KEYS lease, fence · ARGV token, ttl_ms, fence, fence_ttl_ms
_RENEW: Final = """
local newest = redis.call('GET', KEYS[2])
if newest and newest ~= ARGV[3] then return 0 end
if not newest and redis.call('EXISTS', KEYS[1]) == 1 and redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# KEYS fence, entry · ARGV fence, ttl_ms or 0, value
_COMMIT: Final = """
local newest = redis.call('GET', KEYS[1])
if newest and newest ~= ARGV[1] then return 0 end
if not newest and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if ARGV[2] == '0' then redis.call('SET', KEYS[2], ARGV[3]) else redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2]) end
return 1
"""
# KEYS lease, failure · ARGV token, failure or empty, failure_ttl_ms, channel, key
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
"""
# KEYS stream · ARGV length, ttl_ms, channel, key, then id and data of each event
_APPEND: Final = """
for i = 5, #ARGV, 2 do
  local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], ARGV[i], 'e', ARGV[i + 1])
  if type(added) == 'table' and added.err then
    if string.find(added.err, 'READONLY', 1, true) then return added end
    return 0
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""


class RedisLeases:
    """Leases on the entries of a `RedisStore`.

    Args:
        client: of redis-py, for one server, Sentinel or Cluster; it belongs to the store and is not closed.
        on_commit: called with the key of an entry that may have been written.
    """

    writes_store = True
    service = "redis"

    def __init__(self, client: Any, *, on_commit: Callable[[str], None] | None = None) -> None:
        self._client = client
        self._on_commit = on_commit
        self._wakeups = WakeupHub()
        self._subscription = BackgroundTask(self._subscribe, name="lease notifications")

    async def __aenter__(self) -> Self:
        self._subscription.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._subscription.stop()

    async def acquire(self, key: str, token: str, *, ttl_s: float, waited_s: float) -> Lease | LeaseHeld:
        """Acquire the lease, unless another process holds it or a generation failed in the last `waited_s`."""
        times = (_ms(ttl_s), _ms(waited_s), _ms(_FENCE_TTL_S), _ms(_FAILURE_TTL_S))
        keys = (_key("lease", key), _key("fence", key), _key("failure", key))
        status, value = await self._client.eval(_ACQUIRE, len(keys), *keys, token, *times)
        match status:
            case b"lease":
                return Lease(key=key, token=token, fence=int(value))
            case b"failed":
                return LeaseHeld(failure=value)
        return LeaseHeld(remaining_s=value / 1000)

    async def renew(self, lease: Lease, *, ttl_s: float) -> bool:
        """Extend the lease to `ttl_s` from now, even if it has expired; return whether no higher fence was granted."""
        keys = (_key("lease", lease.key), _key("fence", lease.key))
        arguments = (lease.token, _ms(ttl_s), lease.fence, _ms(_FENCE_TTL_S))
        return bool(await self._client.eval(_RENEW, len(keys), *keys, *arguments))

    async def commit(self, lease: Lease, value: bytes, *, ttl_s: float | None) -> bool:
        """Write the entry, unless a higher fence was granted."""
        keys = (_key("fence", lease.key), lease.key)
        ttl_ms = 0 if ttl_s is None else _ms(ttl_s)
        try:
            return bool(await self._client.eval(_COMMIT, len(keys), *keys, lease.fence, ttl_ms, value))
        finally:
            if self._on_commit is not None:
                self._on_commit(lease.key)

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Release the lease, leave `failure` for the waiters, and wake them."""
        keys = (_key("lease", lease.key), _key("failure", lease.key))
        arguments = (lease.token, failure or b"", _ms(_FAILURE_TTL_S), _CHANNEL, lease.key)
        await self._client.eval(_RELEASE, len(keys), *keys, *arguments)

    async def fetch(self, key: str, *, within_s: float) -> bytes | None:
        """Return None: `commit` writes the entry that the store reads."""
        del key, within_s
        return None

    async def append(self, key: str, events: Sequence[Event]) -> None:
        """Publish progress events to followers of `key`; events of a lower fence than the newest are dropped."""
        parts = [part for event in events for part in (f"{event.fence}-{event.number}", event.data)]
        await self._client.eval(_APPEND, 1, _key("events", key), _MAX_EVENTS, _ms(_EVENTS_TTL_S), _CHANNEL, key, *parts)

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return up to 200 events after that fence and number, in order."""
        found = await self._client.xrange(_key("events", key), min=f"({after[0]}-{after[1]}", count=_PAGE)
        return [_event(name, fields) for name, fields in found]

    def listen(self, key: str) -> AbstractContextManager[WaitForChange]:
        """Yield a function that waits for the next notification of `key`."""
        return self._wakeups.listen(key)

    async def _subscribe(self) -> None:
        while True:
            # Waiters poll as well, so a lost connection only delays them.
            with suppress(RedisError, OSError, TimeoutError):
                await self._receive()
            await asyncio.sleep(_RESUBSCRIBE_PAUSE_S)

    async def _receive(self) -> None:
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(_CHANNEL)
            # Notifications before the subscription are lost.
            self._wakeups.notify_all()
            # The store replaces its connections when their server is demoted.
            while not pubsub.connection.should_reconnect():
                message = await pubsub.get_message(timeout=_HEARTBEAT_S)
                if message is None:
                    await pubsub.ping()
                elif message["type"] == "message":
                    self._wakeups.notify(message["data"].decode("utf-8", "replace"))
        finally:
            with suppress(RedisError, OSError, TimeoutError):
                await pubsub.aclose()


def _key(kind: str, entry: str) -> str:
    """Return a key in the hash slot of the entry."""
    # The slot is that of the first {hash tag}, or of the whole key without one (Redis Cluster specification).
    _, brace, rest = entry.partition("{")
    tag = rest.partition("}")[0] if brace and "}" in rest else ""
    if not tag:
        return f"forge:flight:{kind}:{{{entry}}}"
    return f"forge:flight:{kind}:{{{tag}}}:{entry}"


def _event(name: bytes, fields: dict[bytes, bytes]) -> Event:
    fence, _, number = name.partition(b"-")
    return Event(int(fence), int(number), fields.get(b"e", b""))


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
