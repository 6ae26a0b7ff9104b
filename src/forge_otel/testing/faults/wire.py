"""A proxied connection: two sockets and the data between them, whose flow a subclass controls."""

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

# Buffered bytes of one direction above which its sender is paused.
_MAX_BUFFERED_BYTES: Final = 256 * 1024
# Closing then discards unsent data and sends RST instead of FIN.
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Flow:
    """Byte counts of one direction: received, and forwarded."""

    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(slots=True)
class Traffic:
    """Counts of a proxy since its creation.

    Args:
        connections: accepted connections.
        requests: HTTP requests to which the proxy itself responded.
        upstream: bytes from clients to the server.
        downstream: bytes from the server, or from the proxy in its place, to clients.
    """

    connections: int = 0
    requests: int = 0
    upstream: Flow = field(default_factory=Flow)
    downstream: Flow = field(default_factory=Flow)


# Callbacks of the event loop, not a task for each connection: a new fault applies at once to data that is already
# buffered, and thousands of connections end in one iteration of the loop.
class Pipe:
    """One direction of a connection, with a buffer of data that was not forwarded yet.

    Args:
        step: processes the oldest buffered bytes and returns the seconds until the next step; inf waits for `wake`.
        at_end: called, possibly repeatedly, when the sender has ended and the buffer is empty.
        counts: byte counts.
    """

    def __init__(self, step: Callable[[], float], at_end: Callable[[], None], counts: Flow) -> None:
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.is_paused = False
        self.has_ended = False
        self.sent_bytes = 0
        self._step = step
        self._at_end = at_end
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[tuple[float, bytes]] = deque()
        self._buffered_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False

    @property
    def can_send(self) -> bool:
        """Return whether the receiver is connected and accepts data."""
        return self.sink is not None and not self.is_paused

    def feed(self, data: bytes) -> None:
        """Buffer data of the sender."""
        self._counts.received_bytes += len(data)
        self._buffer.append((self._loop.time(), data))
        self._buffered_bytes += len(data)
        self.wake()

    def end(self) -> None:
        """Record that the sender has ended."""
        self.has_ended = True
        self.wake()

    def wake(self) -> None:
        """Process the buffer unless a timer is running."""
        if self._timer is None:
            self.flow()

    def flow(self) -> None:
        """Process the buffer now, and set a timer for the rest."""
        self._stop_timer()
        while self._buffer and not self._is_stopped:
            wait_s = self._step()
            if wait_s < math.inf and wait_s > 0:
                self._timer = self._loop.call_later(wait_s, self.flow)
            if wait_s > 0:
                break
        if self._is_stopped:
            return
        self._regulate()
        if self.has_ended and not self._buffer:
            self._at_end()

    def take(self, max_bytes: int | None = None) -> bytes:
        """Remove and return the oldest received chunk, or its first `max_bytes`."""
        received_s, data = self._buffer.popleft()
        taken = data[:max_bytes]
        if len(taken) < len(data):
            self._buffer.appendleft((received_s, data[len(taken) :]))
        self._buffered_bytes -= len(taken)
        return taken

    def write(self, data: bytes) -> None:
        """Send `data` to the receiver, ahead of the buffer."""
        if self.sink is not None:
            self.sink.write(data)
            self.sent_bytes += len(data)
            self._counts.sent_bytes += len(data)

    def send(self, max_bytes: int | None = None) -> float:
        """Forward the oldest bytes and return 0; return inf if the receiver accepts none now."""
        if not self.can_send:
            return math.inf
        self.write(self.take(max_bytes))
        return 0.0

    def send_after(self, latency_s: float) -> float:
        """Forward the oldest bytes when they are `latency_s` old; return the remaining seconds before that."""
        left_s = self._buffer[0][0] + latency_s - self._loop.time()
        return left_s if left_s > 0 else self.send()

    def stop(self) -> None:
        """Discard the buffer and forward no more data."""
        self._is_stopped = True
        self._stop_timer()
        self._buffer.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _regulate(self) -> None:
        if self.source is None:
            return
        # Back-pressure: under a fault that delays data, a fast sender would otherwise fill the memory.
        if self._buffered_bytes > _MAX_BUFFERED_BYTES:
            self.source.pause_reading()
        else:
            self.source.resume_reading()


class ProxiedConnection(ABC):
    """A client's connection and the one to the server behind it; a subclass decides which data is forwarded.

    Args:
        client: the accepted, non-blocking socket.
        server: host and port.
        traffic: counts of the proxy.
    """

    def __init__(self, client: socket.socket, server: tuple[str, int], traffic: Traffic) -> None:
        self.traffic = traffic
        self.requests = Pipe(self.pass_request, self.end_requests, traffic.upstream)
        self.answers = Pipe(self.pass_answer, self.end_answers, traffic.downstream)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all sockets are closed and all tasks have ended."""
        self._socket = client
        self._server = server
        self._is_closing = False
        self._is_connecting = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.Transport] = set()
        self._start(self._attach_client())

    @abstractmethod
    def pass_request(self) -> float:
        """Process the oldest bytes in `requests`; the `step` of its `Pipe`."""

    @abstractmethod
    def pass_answer(self) -> float:
        """Process the oldest bytes in `answers`; the `step` of its `Pipe`."""

    def end_requests(self) -> None:
        """Forward the end of the client's data."""
        if not self._is_connecting or self.answers.has_ended:
            self.close()
        elif self.requests.sink is not None:
            self.requests.sink.write_eof()

    def end_answers(self) -> None:
        """Forward the end of the server's data."""
        if self.requests.has_ended:
            self.close()
        elif self.answers.sink is not None:
            self.answers.sink.write_eof()

    def wake(self) -> None:
        """Process the buffers of both directions."""
        self.requests.wake()
        self.answers.wake()

    def connect_to_server(self) -> None:
        """Connect to the server once; the client is reset if that fails."""
        if not self._is_connecting and not self._is_closing:
            self._is_connecting = True
            self._start(self._attach_server())

    def close(self) -> None:
        """Close both connections after the written data is sent."""
        self._stop()
        for transport in self._transports:
            transport.close()

    def reset(self) -> None:
        """Close both connections at once, the client's with RST."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.abort()

    def abort(self) -> None:
        """Close both connections at once."""
        self._stop()
        for transport in self._transports:
            transport.abort()

    def connected(self, transport: asyncio.Transport) -> None:
        """Record that one of the two sockets is connected."""
        self._transports.add(transport)
        # The connection was closed while this socket was still being connected.
        if self._is_closing:
            transport.abort()
        else:
            self.wake()

    def disconnected(self, transport: asyncio.Transport | None, exc: Exception | None) -> None:
        """Record that one of the two sockets is closed, with its error."""
        if exc is not None:
            self.reset()
        # The client is gone, so the rest of the server's data has no receiver.
        elif transport is self.answers.sink:
            self.abort()
        if transport is not None:
            self._transports.discard(transport)
        self._finish_closing()

    def _stop(self) -> None:
        self._is_closing = True
        self.requests.stop()
        self.answers.stop()
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        # The event loop holds only weak references to its tasks.
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._finish_closing()

    def _finish_closing(self) -> None:
        if self._tasks or self._transports or self.closed.done():
            return
        # Without a transport of the event loop, no other code closes the socket.
        self._socket.close()
        self.closed.set_result(None)

    async def _attach_client(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            await loop.connect_accepted_socket(lambda: _SocketProtocol(self, self.requests, self.answers), self._socket)

    async def _attach_server(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _SocketProtocol(self, self.answers, self.requests), *self._server)
        except OSError:
            self.reset()


class _SocketProtocol(asyncio.Protocol):
    """Callbacks of one of the two sockets."""

    def __init__(self, connection: ProxiedConnection, incoming: Pipe, outgoing: Pipe) -> None:
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        socket_transport = cast("asyncio.Transport", transport)
        self._incoming.source = self._outgoing.sink = socket_transport
        self._connection.connected(socket_transport)

    def data_received(self, data: bytes) -> None:
        self._incoming.feed(data)

    def eof_received(self) -> bool:
        self._incoming.end()
        # True keeps the transport open for the other direction (asyncio.Protocol.eof_received).
        return True

    def pause_writing(self) -> None:
        self._outgoing.is_paused = True

    def resume_writing(self) -> None:
        self._outgoing.is_paused = False
        # Both directions: a response of the proxy itself is held up in `requests`.
        self._connection.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.disconnected(self._incoming.source, exc)
