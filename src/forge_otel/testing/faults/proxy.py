"""A TCP proxy that stands between a client and a real server, and fails in the way a test asks for.

::

    async with FaultProxy("127.0.0.1", 6379) as proxy:
        client = redis.asyncio.from_url(proxy.url_for("redis://127.0.0.1:6379/0"))
        async with proxy.fault(Silent()):
            ...  # the client waits, on new connections and on those that it has
        ...  # and is served again at the same port

A fault acts on open connections too. One in whose bytes it has left a hole, because it swallowed or replaced some, is
reset when the fault ends: a client is never given a stream that is wrong in the middle by a proxy that is well again.

The proxy listens on loopback only, lives in the event loop that entered it (one with `add_reader`: any but Windows'
default), and passes TLS through but does not speak it.
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

logger = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 4096
_ACCEPT_AGAIN_S: Final = 0.1
# No text protocol takes a byte above 127 for the beginning of an answer, so a client notices garbage at the first one;
# the empty line is for those that look at an answer only when its head is complete.
_HIGH_BYTES: Final = bytes(range(128, 256)) * 2
_EMPTY_LINE: Final = b"\r\n\r\n"


class FaultProxy:
    """Listens on a loopback port of its own, and passes everything to a server until it is told to fail.

    Args:
        host: the server's.
        port: the server's.
    """

    def __init__(self, host: str, port: int) -> None:
        self.traffic = Traffic()
        self._server = (host, port)
        self._fault: Fault = PassThrough()
        self._links: set[_FaultyLink] = set()
        # Holds the port without listening, so that nobody else can get it while connections are refused.
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
        links = tuple(self._links)
        for link in links:
            link.abort()
        await _until_gone(links)

    @property
    def port(self) -> int:
        """The port that clients connect to; it stays the same through all faults."""
        if self._reserved is None:
            raise NotOpen("the proxy has no port yet: enter it with `async with FaultProxy(...) as proxy:`")
        port: int = self._reserved.getsockname()[1]
        return port

    @property
    def current(self) -> Fault:
        """The fault in force."""
        return self._fault

    @property
    def open_connections(self) -> int:
        """Clients that are connected now."""
        return len(self._links)

    def url_for(self, url: str) -> str:
        """Return `url`, of the server, with the proxy's host and port in it.

        Raises:
            ConfigurationError: there is no host in it that could be replaced.
        """
        parts = urlsplit(url)
        if not parts.hostname:
            raise ConfigurationError(["url_for needs a URL with a host, like redis://127.0.0.1:6379/0"])
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}{_LOOPBACK}:{self.port}").geturl()

    def set(self, fault: Fault) -> None:
        """Fail like this from now on, on open connections too; with `PassThrough`, no more.

        What has to be reset is reset in the next turn of the event loop; `fault` waits for that.
        """
        self._change(fault)

    @asynccontextmanager
    async def fault(self, fault: Fault) -> AsyncIterator[None]:
        """Fail like this inside the block, and then as before."""
        before = self._fault
        try:
            await _until_gone(self._change(fault))
            yield
        finally:
            await _until_gone(self._change(before))

    def _change(self, fault: Fault) -> list["_FaultyLink"]:
        """Switch everything over and return the connections that did not survive it."""
        self._fault = fault
        if self._reserved is None:
            return []
        if isinstance(fault, Refuse):
            self._stop_listening()
        elif self._listener is None:
            self._listen()
        return [link for link in tuple(self._links) if not link.switch(fault)]

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
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            while True:
                client, _ = listener.accept()
                self._admit(client)
        except BlockingIOError:
            return
        except OSError as exc:
            # Most likely out of file descriptors; asked again at once it would say the same.
            logger.warning("The fault proxy cannot accept a connection: %s", exc)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_ACCEPT_AGAIN_S, self._watch, listener)

    def _admit(self, client: socket.socket) -> None:
        client.setblocking(False)
        self.traffic.connections += 1
        link = _FaultyLink(client, self._server, self.traffic)
        self._links.add(link)
        link.gone.add_done_callback(lambda _: self._links.discard(link))
        link.begin(self._fault)


class _FaultyLink(ProxiedConnection):
    """A connection through the proxy, under the fault in force."""

    def __init__(self, client: socket.socket, server: tuple[str, int], traffic: Traffic) -> None:
        super().__init__(client, server, traffic)
        self._fault: Fault = PassThrough()
        self._has_hole = False
        self._cut_at_bytes = 0
        self._random = random.Random(0)  # noqa: S311 - made to be repeatable
        self._reader = RequestReader()

    def switch(self, fault: Fault) -> bool:
        """Behave like this from now on; return False where that is the end of the connection."""
        is_cut_short = not self._reader.is_between_requests and not isinstance(fault, HttpAnswer)
        if self._has_hole or is_cut_short or isinstance(fault, Refuse | Reset):
            self.reset()
            return False
        self.begin(fault)
        return True

    def begin(self, fault: Fault) -> None:
        """Behave like this from now on, where nothing has been spoilt yet."""
        self._fault = fault
        if isinstance(fault, CutOff):
            self._cut_at_bytes = self.answers.sent_bytes + fault.after_bytes
        if isinstance(fault, Garbage):
            self._random.seed(fault.seed)
        if not isinstance(fault, Reset | Silent | HttpAnswer):
            self.reach_server()
        self.requests.flow()
        self.answers.flow()

    def pass_request(self) -> float:
        """Deal with the oldest bytes of the client."""
        match self._fault:
            case Silent():
                self._swallow(self.requests)
            case Reset():
                self.reset()
            case HttpAnswer() as answer:
                return self._answer(answer)
            case Slow(request_s=latency_s):
                return self.requests.send_after(latency_s)
            case _:
                return self.requests.send()
        return 0.0

    def pass_answer(self) -> float:
        """Deal with the oldest bytes of the server."""
        match self._fault:
            case Silent():
                self._swallow(self.answers)
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
        """Pass on that the client will send no more; in the silence it has given up, and its socket is let go."""
        if isinstance(self._fault, Silent):
            self.close()
        else:
            super().end_requests()

    def end_answers(self) -> None:
        """Pass on that the server will send no more, but not through the silence."""
        if isinstance(self._fault, Silent):
            self._has_hole = True
        else:
            super().end_answers()

    def _swallow(self, lane: Pipe) -> None:
        self._has_hole = True
        lane.take()

    def _corrupt(self) -> float:
        if not self.answers.can_send:
            return math.inf
        self._has_hole = True
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

    def _answer(self, answer: HttpAnswer) -> float:
        if not self.answers.can_send:
            return math.inf
        try:
            requests = self._reader.feed(self.requests.take())
        except NotHttp:
            self.reset()
            return 0.0
        for request in requests:
            self.traffic.requests += 1
            self.answers.write(answer.encode(request))
            if request.is_last:
                self.close()
                return 0.0
        if self._reader.wants_continue:
            self.answers.write(CONTINUE)
        return 0.0


async def _until_gone(links: Collection[ProxiedConnection]) -> None:
    if links:
        # Not gather: cancelled, it would cancel what the links themselves wait for.
        await asyncio.wait([link.gone for link in links])


def _bind(port: int) -> socket.socket:
    """Bind a loopback port that is already ours, or for 0 a free one."""
    # Said to be TCP, or asyncio leaves Nagle's algorithm on, and what passes comes up to 40 ms late.
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setblocking(False)
        # Linux shares a port on which nobody listens by the first of these, the BSDs and macOS by the second.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((_LOOPBACK, port))
    except BaseException:
        found.close()
        raise
    return found
