"""The collector that scripts/collector.py builds, as agent or as gateway."""

import http.client
from pathlib import Path
from typing import ClassVar, Literal

from scripts.collector import command
from tests.servers.process import LOOPBACK, PROBE_S, Server, free_port

__all__ = ["CollectorServer"]


class CollectorServer(Server):
    """One collector with a queue on disk, which survives `kill`.

    Args:
        role: which of the files it is started with.
        variables: of the file.
    """

    name: ClassVar[str] = "collector"

    def __init__(self, role: Literal["agent", "gateway"], **variables: str | int) -> None:
        super().__init__()
        self.role = role
        self.variables = variables
        self.prometheus_port = self.metrics_port = 0

    def prepare(self) -> None:
        """Choose the other ports, too."""
        super().prepare()
        self.prometheus_port, self.metrics_port = free_port(), free_port()

    @property
    def url(self) -> str:
        """Value for `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://{self.address}"

    @property
    def queue(self) -> Path:
        """The folder of the queue."""
        return self.folder / "queue"

    def command(self) -> list[str | Path]:
        """Listen on `port` for OTLP over HTTP, and elsewhere on any port."""
        mark = self.role.upper()
        own = {
            f"{mark}_HTTP": self.address,
            f"{mark}_GRPC": f"{LOOPBACK}:0",
            f"{mark}_HEALTH": f"{LOOPBACK}:0",
            f"{mark}_METRICS_PORT": self.metrics_port,
            f"{mark}_DIR": self.queue,
            "GATEWAY_PROMETHEUS": f"{LOOPBACK}:{self.prometheus_port}",
        }
        variables = [f"{name}={value}" for name, value in {**own, **self.variables}.items()]
        return ["/usr/bin/env", *variables, *command(f"{self.role}.yaml")]

    def probe(self) -> bool:
        """Return whether the receiver accepts an empty request."""
        return self._ask(self.port, "POST", "/v1/traces", b"{}")[0] == 200

    def metrics(self) -> str:
        """Its own metrics."""
        return self._ask(self.metrics_port, "GET", "/metrics")[1].decode()

    def span_metrics(self, *, accept: str = "text/plain") -> str:
        """Return the metrics that the gateway derives from spans."""
        return self._ask(self.prometheus_port, "GET", "/metrics", accept=accept)[1].decode()

    def _ask(
        self, port: int, verb: str, path: str, body: bytes | None = None, *, accept: str = "text/plain"
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PROBE_S)
        try:
            connection.request(verb, path, body, {"Content-Type": "application/json", "Accept": accept})
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as exc:
            raise ConnectionError(str(exc)) from exc
        finally:
            connection.close()
