"""Leases in Redis: each step is one script on the keys of one slot, so that a Cluster can run it, too.

The fence is the server's clock in microseconds, or one more than the last fence where that is higher; so it rises also
after it was forgotten. A lease ends by itself; renewing and committing ask only whether a higher fence was given, so
that a holder who slept past the end of its lease goes on if nobody took over, and changes nothing if somebody did.

What followers see is a stream whose ids are `<fence>-<number>`: Redis itself refuses those of an older run.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Self

from forge_otel.errors import needs
from forge_otel.leases.notify import WakeupHub
from forge_otel.types import Event, Lease, LeaseHeld, Wakeup

with needs("redis"):
    from redis.exceptions import RedisError

__all__ = ["RedisLeases"]

_logger = logging.getLogger(__name__)

_CHANNEL: Final = "forge:flights"
_FENCE_LIFE_S: Final = 24 * 3600
_FAILURE_LIFE_S: Final = 30
_EVENT_LIFE_S: Final = 600
_MAX_EVENTS: Final = 1000
_PAGE: Final = 200
_BACK_OFF_S: Final = 0.5
_HEARTBEAT_S: Final = 5.0

# KEYS lease, fence, failure · ARGV token, life_ms, waited_ms, fence_life_ms, failure_life_ms
_CLAIM: Final = """
local rest = redis.call('PTTL', KEYS[1])
if rest > 0 then return {'held', rest} end
local left = redis.call('PTTL', KEYS[3])
if left > 0 and ARGV[5] - left <= tonumber(ARGV[3]) then return {'failed', redis.call('GET', KEYS[3])} end
local now = redis.call('TIME')
local fence = now[1] * 1000000 + now[2]
local newest = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
if newest >= fence then fence = newest + 1 end
local text = string.format('%.0f', fence)
redis.call('SET', KEYS[2], text, 'PX', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'lease', text}
"""
# KEYS lease, fence · ARGV token, life_ms, fence, fence_life_ms
_RENEW: Final = """
local newest = redis.call('GET', KEYS[2])
if newest and newest ~= ARGV[3] then return 0 end
if not newest and redis.call('EXISTS', KEYS[1]) == 1 and redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# KEYS fence, entry · ARGV fence, life_ms or 0, value
_COMMIT: Final = """
local newest = redis.call('GET', KEYS[1])
if newest and newest ~= ARGV[1] then return 0 end
if not newest and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if ARGV[2] == '0' then redis.call('SET', KEYS[2], ARGV[3]) else redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2]) end
return 1
"""
# KEYS lease, failure · ARGV token, failure or nothing, failure_life_ms, channel, key
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
"""
# KEYS stream · ARGV length, life_ms, channel, key, then id and data of each event
_APPEND: Final = """
for i = 5, #ARGV, 2 do
  local told = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], ARGV[i], 'e', ARGV[i + 1])
  if type(told) == 'table' and told.err then return 0 end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""


class RedisLeases:
    """Leases on the entries of a `RedisStore`.

    Args:
        client: of redis-py, for one server, Sentinel or Cluster; belongs to the store and stays open.
        on_commit: called with the key of an entry when one may have been written.
    """

    is_store = True
    service = "redis"

    def __init__(self, client: Any, *, on_commit: Callable[[str], None] | None = None) -> None:
        self._client = client
        self._on_commit = on_commit
        self._bells = WakeupHub()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # An empty context: the span of whoever opens this is not that of the messages.
        self._task = asyncio.create_task(self._hear(), name="flight bells", context=contextvars.Context())
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=_BACK_OFF_S)

    async def claim(self, key: str, token: str, *, life_s: float, waited_s: float) -> Lease | LeaseHeld:
        """Take the lease if nobody holds it and no generation failed in the last `waited_s`."""
        times = (_ms(life_s), _ms(waited_s), _ms(_FENCE_LIFE_S), _ms(_FAILURE_LIFE_S))
        keys = (_key("lease", key), _key("fence", key), _key("failure", key))
        what, value = await self._client.eval(_CLAIM, len(keys), *keys, token, *times)
        match what:
            case b"lease":
                return Lease(key=key, token=token, fence=int(value))
            case b"failed":
                return LeaseHeld(failure=value)
        return LeaseHeld(rest_s=value / 1000)

    async def renew(self, lease: Lease, *, life_s: float) -> bool:
        """Make the lease last `life_s` from now, also if it had ended; whether it still is the newest."""
        keys = (_key("lease", lease.key), _key("fence", lease.key))
        rest = (lease.token, _ms(life_s), lease.fence, _ms(_FENCE_LIFE_S))
        return bool(await self._client.eval(_RENEW, len(keys), *keys, *rest))

    async def commit(self, lease: Lease, value: bytes, *, ttl_s: float | None) -> bool:
        """Write the entry, unless a higher fence was given."""
        keys = (_key("fence", lease.key), lease.key)
        life_ms = 0 if ttl_s is None else _ms(ttl_s)
        try:
            return bool(await self._client.eval(_COMMIT, len(keys), *keys, lease.fence, life_ms, value))
        finally:
            if self._on_commit is not None:
                self._on_commit(lease.key)

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Give the lease back, and tell those who wait."""
        keys = (_key("lease", lease.key), _key("failure", lease.key))
        rest = (lease.token, failure or b"", _ms(_FAILURE_LIFE_S), _CHANNEL, lease.key)
        await self._client.eval(_RELEASE, len(keys), *keys, *rest)

    async def fetch(self, key: str, *, within_s: float) -> bytes | None:
        """Return nothing: `commit` writes what the store reads."""
        del key, within_s
        return None

    async def append(self, key: str, events: Sequence[Event]) -> None:
        """Add to what followers of `key` see; events of a lower fence than the newest are dropped."""
        told = [part for event in events for part in (f"{event.fence}-{event.number}", event.data)]
        await self._client.eval(_APPEND, 1, _key("events", key), _MAX_EVENTS, _ms(_EVENT_LIFE_S), _CHANNEL, key, *told)

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return up to 200 events after that fence and number, in order."""
        found = await self._client.xrange(_key("events", key), min=f"({after[0]}-{after[1]}", count=_PAGE)
        return [_event(name, fields) for name, fields in found]

    def listen(self, key: str) -> AbstractContextManager[Wakeup]:
        """Have a bell ring for `key` inside the block."""
        return self._bells.listen(key)

    async def _hear(self) -> None:
        while True:
            with suppress(RedisError, OSError, TimeoutError):
                await self._hear_until_it_breaks()
            await asyncio.sleep(_BACK_OFF_S)

    async def _hear_until_it_breaks(self) -> None:
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(_CHANNEL)
            # What was told before is not told again.
            self._bells.ring_all()
            while True:
                message = await pubsub.get_message(timeout=_HEARTBEAT_S)
                if message is None:
                    await pubsub.ping()
                elif message["type"] == "message":
                    self._bells.ring(message["data"].decode("utf-8", "replace"))
        finally:
            with suppress(RedisError, OSError, TimeoutError):
                await pubsub.aclose()


def _key(kind: str, entry: str) -> str:
    """Name a key that is in the slot of the entry's own: what is in its first braces decides, or all where none are."""
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
