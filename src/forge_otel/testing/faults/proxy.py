"""A TCP proxy between a client and a real server that injects faults.

::

    async with FaultProxy("127.0.0.1", 6379) as proxy:
        client = redis.asyncio.from_url(proxy.url_for("redis://127.0.0.1:6379/0"))
        async with proxy.fault(Silent()):
            ...  # the client waits, on new and on open connections
        ...  # the server is reachable again at the same port

A fault affects open connections too; one whose data it discarded or replaced is reset when the fault ends.

The proxy listens on loopback only, runs in the event loop that entered it, and forwards TLS without terminating it.
"""

import asyncio
import logging
import math
import random
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final, Self
from urllib.parse import urlsplit

from forge_otel.errors import ConfigurationError, NotOpen
from forge_otel.testing.faults.http import CONTINUE, HttpAnswer, NotHttp, RequestReader
from forge_otel.testing.faults.kinds import (
    CutOff,
    Fault,
    Garbage,
    PassThrough,
    Refuse,
    Reset,
    Silent,
    Slow,
    Trickle,
)
from forge_otel.testing.faults.wire import Flow, Pipe, ProxiedConnection, Traffic

__all__ = [
    "CutOff",
    "Fault",
    "FaultProxy",
    "Flow",
    "Garbage",
    "HttpAnswer",
    "PassThrough",
    "Refuse",
    "Reset",
    "Silent",
    "Slow",
    "Traffic",
    "Trickle",
]

_logger = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 4096
_RETRY_ACCEPT_S: Final = 0.1
# No text protocol accepts a byte above 127 at the beginning of a response, so a client fails at the first one.
# The empty line is for clients that parse a response only when its head is complete.
_HIGH_BYTES: Final = bytes(range(128, 256)) * 2
_EMPTY_LINE: Final = b"\r\n\r\n"


class FaultProxy:
    """Forwards connections to a server, and injects one fault at a time.

    Args:
        host: host of the server.
        port: port of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self.traffic = Traffic()
        self._server = (host, port)
        self._fault: Fault = PassThrough()
        self._connections: set[_FaultyConnection] = set()
        # Keeps the port bound without listening, so that no other process gets it while connections are refused.
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        self._reserved = _bind(0)
        self.set(self._fault)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop_listening()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        connections = tuple(self._connections)
        for connection in connections:
            connection.abort()
        await _until_closed(connections)

    @property
    def port(self) -> int:
        """The port for clients; it does not change."""
        if self._reserved is None:
            raise NotOpen("the proxy is not open: enter it with `async with FaultProxy(...) as proxy:`")
        port: int = self._reserved.getsockname()[1]
        return port

    @property
    def current(self) -> Fault:
        """The current fault."""
        return self._fault

    @property
    def open_connections(self) -> int:
        """The number of open client connections."""
        return len(self._connections)

    def url_for(self, url: str) -> str:
        """Return the server's `url` with host and port of the proxy.

        Raises:
            ConfigurationError: the URL has no host.
        """
        parts = urlsplit(url)
        if not parts.hostname:
            raise ConfigurationError(["url_for needs a URL with a host, like redis://127.0.0.1:6379/0"])
        # From the right, because a password may contain an unescaped `@`.
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}{_LOOPBACK}:{self.port}").geturl()

    def set(self, fault: Fault) -> None:
        """Inject a fault until the next call; `PassThrough` ends it.

        Connections are reset in the next iteration of the event loop; `fault` waits for that.
        """
        self._change(fault)

    @asynccontextmanager
    async def fault(self, fault: Fault) -> AsyncIterator[None]:
        """Inject a fault inside the block, and restore the one before it afterwards."""
        before = self._fault
        try:
            await _until_closed(self._change(fault))
            yield
        finally:
            await _until_closed(self._change(before))

    def _change(self, fault: Fault) -> list["_FaultyConnection"]:
        """Apply a fault to all connections and return those that it resets."""
        self._fault = fault
        if self._reserved is None:
            return []
        if isinstance(fault, Refuse):
            self._stop_listening()
        elif self._listener is None:
            self._listen()
        return [connection for connection in tuple(self._connections) if not connection.switch(fault)]

    def _listen(self) -> None:
        self._listener = _bind(self.port)
        self._listener.listen(_BACKLOG)
        self._watch(self._listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _watch(self, listener: socket.socket) -> None:
        if listener is self._listener:
            # The default loop of Windows has no `add_reader`; the proxy needs a selector loop.
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            while True:
                client, _ = listener.accept()
                self._admit(client)
        except BlockingIOError:
            return
        except OSError as exc:
            # Probably out of file descriptors; an immediate retry would fail as well.
            _logger.warning("fault proxy cannot accept a connection: %s", exc)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_RETRY_ACCEPT_S, self._watch, listener)

    def _admit(self, client: socket.socket) -> None:
        client.setblocking(False)
        self.traffic.connections += 1
        connection = _FaultyConnection(client, self._server, self.traffic)
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        connection.begin(self._fault)


class _FaultyConnection(ProxiedConnection):
    """A connection through the proxy with the current fault."""

    def __init__(self, client: socket.socket, server: tuple[str, int], traffic: Traffic) -> None:
        super().__init__(client, server, traffic)
        self._fault: Fault = PassThrough()
        self._is_corrupted = False
        self._cut_at_bytes = 0
        self._random = random.Random(0)  # noqa: S311 - repeatable on purpose
        self._reader = RequestReader()

    def switch(self, fault: Fault) -> bool:
        """Apply a fault and return whether the connection stays open."""
        # A client must never receive a corrupted stream from a proxy without a fault: a connection whose data was
        # discarded or replaced, or whose request was read in part, is not handed back to the server.
        is_cut_short = not self._reader.is_between_requests and not isinstance(fault, HttpAnswer)
        if self._is_corrupted or is_cut_short or isinstance(fault, Refuse | Reset):
            self.reset()
            return False
        self.begin(fault)
        return True

    def begin(self, fault: Fault) -> None:
        """Apply a fault to a connection whose data is intact."""
        self._fault = fault
        if isinstance(fault, CutOff):
            self._cut_at_bytes = self.answers.sent_bytes + fault.after_bytes
        if isinstance(fault, Garbage):
            self._random.seed(fault.seed)
        # Under these the server must not even see a connection.
        if not isinstance(fault, Reset | Silent | HttpAnswer):
            self.connect_to_server()
        self.requests.flow()
        self.answers.flow()

    def pass_request(self) -> float:
        """Forward or discard the oldest bytes of the client."""
        match self._fault:
            case Silent():
                self._discard(self.requests)
            case Reset():
                self.reset()
            case HttpAnswer() as answer:
                return self._respond(answer)
            case Slow(request_s=latency_s):
                return self.requests.send_after(latency_s)
            case _:
                return self.requests.send()
        return 0.0

    def pass_answer(self) -> float:
        """Forward, replace or discard the oldest bytes of the server."""
        match self._fault:
            case Silent():
                self._discard(self.answers)
            case Slow(answer_s=latency_s):
                return self.answers.send_after(latency_s)
            case Trickle(chunk_bytes=size, interval_s=interval_s):
                return self.answers.send(size) or interval_s
            case Garbage():
                return self._corrupt()
            case CutOff():
                return self._cut()
            case _:
                return self.answers.send()
        return 0.0

    def end_requests(self) -> None:
        """Forward the end of the client's data; under `Silent`, close the connection of a client that gave up."""
        if isinstance(self._fault, Silent):
            self.close()
        else:
            super().end_requests()

    def end_answers(self) -> None:
        """Forward the end of the server's data, except under `Silent`."""
        if isinstance(self._fault, Silent):
            self._is_corrupted = True
        else:
            super().end_answers()

    def _discard(self, pipe: Pipe) -> None:
        self._is_corrupted = True
        pipe.take()

    def _corrupt(self) -> float:
        if not self.answers.can_send:
            return math.inf
        self._is_corrupted = True
        garbage = self._random.randbytes(len(self.answers.take()))
        self.answers.write(garbage.translate(_HIGH_BYTES) + _EMPTY_LINE)
        return 0.0

    def _cut(self) -> float:
        left_bytes = self._cut_at_bytes - self.answers.sent_bytes
        if left_bytes > 0 and (wait_s := self.answers.send(left_bytes)):
            return wait_s
        if self.answers.sent_bytes >= self._cut_at_bytes:
            self.close()
        return 0.0

    def _respond(self, answer: HttpAnswer) -> float:
        if not self.answers.can_send:
            return math.inf
        try:
            requests = self._reader.feed(self.requests.take())
        except NotHttp:
            self.reset()
            return 0.0
        # Complete requests only: a response before the end of an upload would cut it.
        for request in requests:
            self.traffic.requests += 1
            self.answers.write(answer.encode(request))
            if request.is_last:
                self.close()
                return 0.0
        if self._reader.wants_continue:
            self.answers.write(CONTINUE)
        return 0.0


async def _until_closed(connections: Collection[ProxiedConnection]) -> None:
    if connections:
        # Not gather: if it is cancelled, it cancels the futures of the connections.
        await asyncio.wait([connection.closed for connection in connections])


def _bind(port: int) -> socket.socket:
    """Bind a loopback port that this process has bound already, or a free one for 0."""
    # asyncio disables Nagle's algorithm for explicit TCP sockets only; it would delay data by up to 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setblocking(False)
        # A bound port without a listener is shared by the first option on Linux, by the second on the BSDs and macOS.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((_LOOPBACK, port))
    except BaseException:
        bound.close()
        raise
    return bound
