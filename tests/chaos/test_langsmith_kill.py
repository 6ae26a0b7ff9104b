"""Killed and terminated processes while LangSmith fails: every spooled span arrives once, in its tree.

Run as a program, this file is the service: it ends trees of spans and prints their names when all of them are on disk
or accepted by LangSmith.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Self

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from tests.unit.telemetry.bridge import eventually, fast_export, is_balanced

from forge_otel.telemetry.export.accounting import ExportStats
from forge_otel.telemetry.export.spool import SpoolOptions
from forge_otel.telemetry.langsmith.exporter import LangSmithProcessor
from forge_otel.telemetry.langsmith.settings import LangSmithOptions
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

RUN = {"forge.span.kind": "agent"}
TRANSIENT = [
    *(LangSmithFault(status=status, times=2) for status in (401, 408, 429, 500, 503)),
    LangSmithFault(status=429, retry_after_s=1, times=1),
    *(LangSmithFault(kind=kind, times=1) for kind in ("reset", "hang")),
]


def processor(url: str, folder: Path) -> LangSmithProcessor:
    """Return the exporter of the service, with its spool in `folder`."""
    options = LangSmithOptions(api_key="key", endpoint=url)
    export = fast_export(spool=SpoolOptions(directory=folder), shutdown_timeout_s=3.0)
    return LangSmithProcessor(options, export=export, max_batch_size=20)


def serve(url: str, folder: Path) -> None:
    """End trees of spans until killed, and print the names of those that survive a kill."""
    exporter = processor(url, folder)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(exporter)
    tracer = provider.get_tracer("service")
    count = 0
    while True:
        names = []
        for _ in range(random.randint(1, 10)):
            name = f"{os.getpid()}-{(count := count + 1)}"
            with tracer.start_as_current_span(name, attributes=RUN):
                for below in "abc":
                    tracer.start_span(f"{name}{below}", attributes=RUN).end()
            names += [name, *(f"{name}{below}" for below in "abc")]
        eventually(lambda: is_safe(exporter.stats()), timeout_s=30)
        assert is_balanced(exporter.stats())
        os.write(1, "".join(f"{name}\n" for name in names).encode())


def is_safe(stats: ExportStats) -> bool:
    """Return whether every waiting span is on disk."""
    return stats.waiting == stats.spooled


def killed(url: str, folder: Path, *, after_s: float, processes: int = 1) -> set[str]:
    """Run the service, kill it `after_s` seconds after its first line, and return the names that it printed."""
    command = [sys.executable, "-m", "tests.chaos.test_langsmith_kill", url, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    names: set[str] = set()
    for process in running:
        assert process.stdout is not None
        names.add(process.stdout.readline().decode().strip())
    time.sleep(after_s)
    for process in running:
        process.kill()
    for process in running:
        out, _ = process.communicate()
        names.update(line for line in out.decode().split("\n")[:-1])
    return names


def test_kill_9_loses_nothing_that_was_on_disk(tmp_path: Path) -> None:
    """Two processes are killed at random moments while LangSmith fails: every span arrives once, in its tree."""
    folder = tmp_path / "spool"
    names: set[str] = set()
    with LangSmithStandIn() as langsmith:
        for _ in range(3):
            for fault in random.sample(TRANSIENT, 4):
                langsmith.fail(fault)
            names |= killed(langsmith.url, folder, after_s=random.uniform(0.2, 1.0), processes=2)
        langsmith.recover()
        successor = processor(langsmith.url, folder)
        assert successor.force_flush(30_000)
        assert is_balanced(successor.stats())
        successor.shutdown()
        runs = Counter(run.name for run in langsmith.runs())
        assert names <= runs.keys()
        assert set(runs.values()) == {1}
        # No orphans: every span that arrived is shown as a run.
        assert len({span.span_id for span in langsmith.spans}) == sum(runs.values())
    assert list(folder.iterdir()) == []


def test_langsmith_is_unreachable_for_a_while(tmp_path: Path) -> None:
    """Its port is closed; the service is killed and started again before LangSmith is."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    names = killed(url, tmp_path, after_s=0.5)
    successor = processor(url, tmp_path)
    eventually(lambda: successor.stats().waiting >= len(names))
    assert successor.stats().last_error == "ConnectionRefusedError"
    with LangSmithStandIn(port=port) as langsmith:
        assert successor.force_flush(30_000)
        assert names <= {run.name for run in langsmith.runs()}
        assert Counter(span.span_id for span in langsmith.spans).most_common(1)[0][1] == 1
        successor.shutdown()
        assert is_balanced(successor.stats())


@pytest.mark.parametrize(
    "fault",
    [
        LangSmithFault(kind="hang"),
        LangSmithFault(),
        LangSmithFault(status=401),
        LangSmithFault(status=429, retry_after_s=60),
    ],
)
def test_sigterm_under_uvicorn_is_quick_and_keeps_waiting_runs(fault: LangSmithFault, tmp_path: Path) -> None:
    """The process ends within 5 s however LangSmith fails, and sends the runs after the next start."""
    with LangSmithStandIn(api_key="key") as langsmith:
        langsmith.fail_all(fault)
        with Service(langsmith.url, tmp_path) as service:
            for _ in range(5):
                service.get("/work")
            service.until_metric("forge_export_spool_bytes", above=0)
            assert service.terminate() < 5.0
        assert langsmith.spans == []
        langsmith.recover()
        with Service(langsmith.url, tmp_path) as service:
            eventually(lambda: len(langsmith.runs()) == 10)
            assert service.terminate() < 5.0
        assert Counter(run.name for run in langsmith.runs()) == {"GET /work": 5, "invoke_agent writer": 5}


class Service:
    """A FastAPI service under uvicorn."""

    def __init__(self, url: str, folder: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        # One client: creating a TLS context for each poll would slow the start of the service.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", limits=limits)
        environ = {
            "LANGSMITH_API_KEY": "key",
            "LANGSMITH_ENDPOINT": url,
            "FORGE_ARCHIVE_URL": "",
            "FORGE_DATABASE_URL": "",
            "FORGE_OUTBOX_DIR": "",
            "FORGE_TRACE_SPOOL_DIR": str(folder / "spool"),
        }
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "tests.chaos.traced_app:app",
            "--port",
            str(port),
            "--log-level",
            "error",
        ]
        self._process = subprocess.Popen(command, env=os.environ | environ)

    def __enter__(self) -> Self:
        try:
            eventually(self._is_up, timeout_s=30)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._client.close()

    def get(self, path: str) -> str:
        """Return the text at `path`."""
        response = self._client.get(path)
        response.raise_for_status()
        return response.text

    def until_metric(self, name: str, *, above: float) -> None:
        """Wait until a metric is above a value."""

        def is_above() -> bool:
            lines = self.get("/metrics").splitlines()
            return any(float(line.split()[-1]) > above for line in lines if line.startswith(name))

        eventually(is_above)

    def terminate(self) -> float:
        """Send SIGTERM and return after how many seconds the process ended."""
        started_s = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        return time.monotonic() - started_s

    def _is_up(self) -> bool:
        try:
            return self._client.get("/livez").status_code == 200
        except httpx.HTTPError:
            return False


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
