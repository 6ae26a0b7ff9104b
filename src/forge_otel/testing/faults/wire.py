"""Two sockets and what flows between them, under the control of whoever says what may pass.

All of it runs in callbacks of the event loop, not in a task a connection: so a change of mind takes effect at once on
bytes that already wait, and thousands of connections end in one turn of the loop.
"""

import asyncio
import math
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, cast

__all__ = ["Flow", "Pipe", "ProxiedConnection", "Traffic"]

# What one direction of a connection holds before its sender is made to wait.
_MAX_HELD_BYTES: Final = 256 * 1024
# Closing then drops what is unsent and sends RST in place of FIN.
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Flow:
    """Bytes that came in one direction, and those that were passed on."""

    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(slots=True)
class Traffic:
    """What a proxy has seen since it was made.

    Args:
        connections: accepted from clients.
        requests: HTTP requests that the proxy answered by itself.
        upstream: from the clients to the server.
        downstream: from the server, or the proxy in its place, to the clients.
    """

    connections: int = 0
    requests: int = 0
    upstream: Flow = field(default_factory=Flow)
    downstream: Flow = field(default_factory=Flow)


class Pipe:
    """One direction of a connection: the bytes that have come and may not go on yet.

    Args:
        step: deals with the oldest bytes held; returns seconds to wait before the next step, inf: until it is woken.
        at_end: called when the sender has ended and nothing is held, more than once.
        counted: where bytes are counted.
    """

    def __init__(self, step: Callable[[], float], at_end: Callable[[], None], counted: Flow) -> None:
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.is_choked = False
        self.has_ended = False
        self.sent_bytes = 0
        self._step = step
        self._at_end = at_end
        self._counted = counted
        self._loop = asyncio.get_running_loop()
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False

    @property
    def can_send(self) -> bool:
        """Whether there is a receiver that keeps up."""
        return self.sink is not None and not self.is_choked

    def feed(self, data: bytes) -> None:
        """Take what the sender has sent."""
        self._counted.received_bytes += len(data)
        self._held.append((self._loop.time(), data))
        self._held_bytes += len(data)
        self.wake()

    def end(self) -> None:
        """Take note that the sender will send no more."""
        self.has_ended = True
        self.wake()

    def wake(self) -> None:
        """Let pass what may pass now, unless the time for that is set already."""
        if self._timer is None:
            self.flow()

    def flow(self) -> None:
        """Let pass what may pass now, and see to it that the rest does when its time comes."""
        self._stop_timer()
        while self._held and not self._is_stopped:
            wait_s = self._step()
            if wait_s < math.inf and wait_s > 0:
                self._timer = self._loop.call_later(wait_s, self.flow)
            if wait_s > 0:
                break
        if self._is_stopped:
            return
        self._regulate()
        if self.has_ended and not self._held:
            self._at_end()

    def take(self, max_bytes: int | None = None) -> bytes:
        """Remove and return the oldest bytes, as they came or the first `max_bytes` of them."""
        came_s, data = self._held.popleft()
        taken = data[:max_bytes]
        if len(taken) < len(data):
            self._held.appendleft((came_s, data[len(taken) :]))
        self._held_bytes -= len(taken)
        return taken

    def write(self, data: bytes) -> None:
        """Send `data` to the receiver, whatever is held."""
        if self.sink is not None:
            self.sink.write(data)
            self.sent_bytes += len(data)
            self._counted.sent_bytes += len(data)

    def send(self, max_bytes: int | None = None) -> float:
        """Pass the oldest bytes on; return 0, or inf where nobody takes them now."""
        if not self.can_send:
            return math.inf
        self.write(self.take(max_bytes))
        return 0.0

    def send_after(self, latency_s: float) -> float:
        """The same when the oldest bytes are `latency_s` old; until then return how many seconds are left."""
        left_s = self._held[0][0] + latency_s - self._loop.time()
        return left_s if left_s > 0 else self.send()

    def stop(self) -> None:
        """Drop what is held and let nothing pass any more."""
        self._is_stopped = True
        self._stop_timer()
        self._held.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _regulate(self) -> None:
        if self.source is None:
            return
        if self._held_bytes > _MAX_HELD_BYTES:
            self.source.pause_reading()
        else:
            self.source.resume_reading()


class ProxiedConnection(ABC):
    """A client's connection and the one to the server behind it; a subclass says what passes.

    Args:
        client: the accepted socket, not blocking.
        server: host and port.
        traffic: where it is counted.
    """

    def __init__(self, client: socket.socket, server: tuple[str, int], traffic: Traffic) -> None:
        self.traffic = traffic
        self.requests = Pipe(self.pass_request, self.end_requests, traffic.upstream)
        self.answers = Pipe(self.pass_answer, self.end_answers, traffic.downstream)
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when nothing of the link is left: no task, no socket."""
        self._socket = client
        self._server = server
        self._is_over = False
        self._is_reaching = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.Transport] = set()
        self._start(self._adopt())

    @abstractmethod
    def pass_request(self) -> float:
        """Deal with the oldest bytes in `requests`; see `Pipe`."""

    @abstractmethod
    def pass_answer(self) -> float:
        """Deal with the oldest bytes in `answers`; see `Pipe`."""

    def end_requests(self) -> None:
        """Pass on that the client will send no more."""
        if not self._is_reaching or self.answers.has_ended:
            self.close()
        elif self.requests.sink is not None:
            self.requests.sink.write_eof()

    def end_answers(self) -> None:
        """Pass on that the server will send no more."""
        if self.requests.has_ended:
            self.close()
        elif self.answers.sink is not None:
            self.answers.sink.write_eof()

    def wake(self) -> None:
        """Let pass what may pass now, both ways."""
        self.requests.wake()
        self.answers.wake()

    def reach_server(self) -> None:
        """Connect to the server, if that was not begun before; the client is reset where it cannot be reached."""
        if not self._is_reaching and not self._is_over:
            self._is_reaching = True
            self._start(self._connect())

    def close(self) -> None:
        """End both connections as soon as what was written is sent."""
        self._stop()
        for transport in self._transports:
            transport.close()

    def reset(self) -> None:
        """End both connections at once, the client's by RST."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.abort()

    def abort(self) -> None:
        """End both connections at once."""
        self._stop()
        for transport in self._transports:
            transport.abort()

    def joined(self, transport: asyncio.Transport) -> None:
        """Take note that one of the two sockets is ready."""
        self._transports.add(transport)
        if self._is_over:
            transport.abort()
        else:
            self.wake()

    def left(self, transport: asyncio.Transport | None, exc: Exception | None) -> None:
        """Take note that one of the two sockets is closed, by an error where there is one."""
        if exc is not None:
            self.reset()
        elif transport is self.answers.sink:
            self.abort()
        if transport is not None:
            self._transports.discard(transport)
        self._settle()

    def _stop(self) -> None:
        self._is_over = True
        self.requests.stop()
        self.answers.stop()
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._settle()

    def _settle(self) -> None:
        if self._tasks or self._transports or self.gone.done():
            return
        # Nobody else closes it where the link was ended before the event loop had adopted it.
        self._socket.close()
        self.gone.set_result(None)

    async def _adopt(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            await loop.connect_accepted_socket(lambda: _End(self, self.requests, self.answers), self._socket)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _End(self, self.answers, self.requests), *self._server)
        except OSError:
            self.reset()


class _End(asyncio.Protocol):
    """One of the two sockets of a link."""

    def __init__(self, link: ProxiedConnection, incoming: Pipe, outgoing: Pipe) -> None:
        self._link = link
        self._incoming = incoming
        self._outgoing = outgoing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        socket_transport = cast("asyncio.Transport", transport)
        self._incoming.source = self._outgoing.sink = socket_transport
        self._link.joined(socket_transport)

    def data_received(self, data: bytes) -> None:
        self._incoming.feed(data)

    def eof_received(self) -> bool:
        self._incoming.end()
        return True

    def pause_writing(self) -> None:
        self._outgoing.is_choked = True

    def resume_writing(self) -> None:
        self._outgoing.is_choked = False
        # Both ways: an answer of the proxy's own is held up in the requests.
        self._link.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.left(self._incoming.source, exc)
