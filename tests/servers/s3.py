"""An S3 API over HTTP: moto's server. An emulator: it accepts wrong signatures and wrong checksums."""

import http.client
import importlib.util
import sys
from contextlib import closing
from pathlib import Path

from tests.servers.process import LOOPBACK, PROBE_S, Server, ServerMissing


class S3Server(Server):
    """moto in its own process. It keeps everything in memory: what a stop ends is gone."""

    name = "s3"

    def __init__(self) -> None:
        super().__init__()
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise ServerMissing("no S3 server: the PyPI package moto[server] is not installed")

    @property
    def url(self) -> str:
        """The endpoint URL."""
        return f"http://{self.address}"

    def command(self) -> list[str | Path]:
        """The same Python that runs the tests."""
        return [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.port)]

    def probe(self) -> bool:
        """List the buckets."""
        with closing(http.client.HTTPConnection(LOOPBACK, self.port, timeout=PROBE_S)) as connection:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.status == 200 and b"ListAllMyBucketsResult" in answer.read()
