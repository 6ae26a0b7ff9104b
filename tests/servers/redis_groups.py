"""Redis servers that belong together: a cluster of three masters, and a master with its replica under Sentinels."""

import random
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.servers.process import LOOPBACK, POLL_S, START_S, ServerFailed
from tests.servers.redis import RedisServer

MASTERS = 3
SLOTS = 16384
MASTER_NAME = "mymaster"
# Longer than a busy machine delays a server, so that load causes no fail-over.
DOWN_AFTER_MS = 4000


def ask(server: RedisServer, *words: str | int) -> bytes:
    """Send one command and return what comes back at once."""
    with socket.create_connection((LOOPBACK, server.port), timeout=2) as connection:
        connection.sendall((" ".join(map(str, words)) + "\r\n").encode())
        return connection.recv(65536)


class ClusterNodeServer(RedisServer):
    """One node. Its bus is 10 000 ports above its port, so both lie below those that systems give away."""

    name = "redis-node"

    def command(self) -> list[str | Path]:
        """A node answers for its own slots."""
        return [*super().command(), "--cluster-enabled", "yes", "--cluster-node-timeout", "15000"]

    def _start_on_free_port(self) -> None:
        last: ServerFailed | None = None
        for _ in range(20):
            self.port = random.randrange(12_000, 22_000)
            try:
                return self._start()
            except ServerFailed as error:
                last = error
        raise ServerFailed("no pair of ports is free") from last


class RedisClusterServers:
    """Three masters on loopback, each with its own third of the slots."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes = [ClusterNodeServer() for _ in range(MASTERS)]

    def __enter__(self) -> Self:
        with self._stack as stack:
            for node in self.nodes:
                stack.enter_context(node)
            for index, node in enumerate(self.nodes):
                first, last = index * SLOTS // MASTERS, (index + 1) * SLOTS // MASTERS
                ask(node, "CLUSTER ADDSLOTS", *range(first, last))
                ask(node, "CLUSTER MEET", LOOPBACK, self.nodes[0].port)
            self._stack = stack.pop_all()
        _wait(lambda: all(b"cluster_state:ok" in ask(node, "CLUSTER INFO") for node in self.nodes), "the cluster")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Where clients connect: two of the three."""
        return "redis+cluster://" + ",".join(node.address for node in self.nodes[:2])


class ReplicaServer(RedisServer):
    """Follows a master."""

    name = "redis-replica"

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self._master = master

    def command(self) -> list[str | Path]:
        """As a master's, and whom it follows."""
        return [*super().command(), "--replicaof", LOOPBACK, str(self._master.port)]


class SentinelServer(RedisServer):
    """Watches one master; alone it is its own quorum."""

    name = "redis-sentinel"

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self._master = master

    def command(self) -> list[str | Path]:
        """A Sentinel wants a file that it can write to."""
        configuration = self.folder / "sentinel.conf"
        lines = [
            f"sentinel monitor {MASTER_NAME} {LOOPBACK} {self._master.port} 1",
            f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER_NAME} 3000",
        ]
        configuration.write_text("\n".join(lines) + "\n", encoding="ascii")
        options = ["--sentinel", "--bind", LOOPBACK, "--port", str(self.port), "--dir", str(self.folder)]
        return [self._binary, configuration, *options]


class RedisSentinelServers:
    """A master, its replica and a Sentinel."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.master = RedisServer()
        self.replica = ReplicaServer(self.master)
        self.sentinel = SentinelServer(self.master)

    def __enter__(self) -> Self:
        with self._stack as stack:
            for server in (self.master, self.replica, self.sentinel):
                stack.enter_context(server)
            self._stack = stack.pop_all()
        _wait(lambda: b"slave0:" in ask(self.master, "INFO replication"), "the replica")
        _wait(
            lambda: str(self.replica.port).encode() in ask(self.sentinel, "SENTINEL replicas", MASTER_NAME),
            "the Sentinel",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Where clients ask for the master."""
        return f"redis+sentinel://{self.sentinel.address}/{MASTER_NAME}/0"


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            raise ServerFailed(f"{what} did not form within {START_S:g} s")
        time.sleep(POLL_S)
