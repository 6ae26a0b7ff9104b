"""Cost of exporting a span to LangSmith: CPU time of the export thread, and latency added to requests.

``ratio`` is the CPU time of the export thread (redaction, mapping, encoding, compression, storing on disk) divided by
that of OpenTelemetry's own encoder with the same compression for the same spans, the work of any OTLP exporter.

``added_p99_ms``: a client in another process sends requests to an echo server on this process's event loop. Each
response takes some Python and some system calls that release the interpreter lock, like that of a web framework.
Meanwhile spans end in bursts and are spooled to disk, because LangSmith is unreachable. The latency without spans is
measured as well.
"""

import argparse
import asyncio
import gzip
import json
import statistics
import sys
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from forge_otel.telemetry.export.processor import ExportOptions
from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.export.spool import SpoolOptions
from forge_otel.telemetry.langsmith.exporter import LangSmithProcessor
from forge_otel.telemetry.langsmith.settings import LangSmithOptions

UNREACHABLE = "http://127.0.0.1:9"
AGENTS = ("token_extractor", "requirement_proposer", "pattern_retriever", "code_generator", "quality_validator")
IDENTITY = {"session.id": "s-1", "user.id": "u-1"}
CODE = "export const Button = ({ label }: Props) => <button className='x'>{label}</button>;\n" * 20
BATCH = 200
STEPS, STEP_LOOPS = 12, 2_000
CLIENT = """
import socket, sys, time
taken = []
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as server:
    until = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until:
        began = time.monotonic()
        server.sendall(b"x")
        server.recv(1)
        taken.append(time.monotonic() - began)
        time.sleep(0.005)
print(*taken)
"""


class Collected(SpanProcessor):
    """Collects ended spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Collect the span."""
        self.spans.append(span)


def generations(count: int) -> list[ReadableSpan]:
    """Return the spans of `count` generations by five agents, with contents on the root spans."""
    collected = Collected()
    provider = TracerProvider(resource=Resource.create({"service.name": "bench"}), shutdown_on_exit=False)
    provider.add_span_processor(collected)
    tracer = provider.get_tracer("forge_otel")
    workflow = {
        "forge.span.kind": "chain",
        "gen_ai.operation.name": "invoke_workflow",
        "forge.component.type": "button",
        "forge.input": json.dumps({"component_type": "button"}),
        "forge.output": json.dumps({"code": CODE}),
    }
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.usage.input_tokens": 800,
        "gen_ai.usage.output_tokens": 300,
    }
    for number in range(count):
        with tracer.start_as_current_span(
            "invoke_workflow generate", attributes=workflow | IDENTITY | {"forge.generation.id": str(number)}
        ):
            for name in AGENTS:
                agent = {"gen_ai.operation.name": "invoke_agent", "forge.span.kind": "agent", "gen_ai.agent.name": name}
                with (
                    tracer.start_as_current_span(f"invoke_agent {name}", attributes=agent | IDENTITY),
                    tracer.start_as_current_span("chat gpt-4o-mini", attributes=chat | IDENTITY),
                ):
                    pass
    return collected.spans


class Measured(LangSmithProcessor):
    """Measures the CPU time of its export thread."""

    def select(self, spans: Any, *, is_last: bool) -> Any:
        """Remember the export thread."""
        self.thread_id = threading.get_ident()
        return super().select(spans, is_last=is_last)

    @property
    def cpu_s(self) -> float:
        """CPU time of the thread in seconds."""
        return time.clock_gettime(time.pthread_getcpuclockid(self.thread_id))


def processor(folder: Path) -> Measured:
    """Return an exporter whose server is unreachable, so that every span is spooled."""
    return Measured(
        LangSmithOptions(api_key="key", endpoint=UNREACHABLE),
        price=lambda _call: Decimal("0.01"),
        export=ExportOptions(
            spool=SpoolOptions(directory=folder),
            retry=RetryPolicy(initial_backoff_s=30.0, max_backoff_s=30.0),
            max_queue_size=1_000_000,
        ),
    )


def wait_until_spooled(exporter: Measured, count: int) -> None:
    """Wait until `count` spans are on disk."""
    until_s = time.monotonic() + 60
    while exporter.stats().spooled < count:
        if time.monotonic() > until_s:
            raise SystemExit(f"only {exporter.stats().spooled} of {count} spans are on disk")
        time.sleep(0.02)


def cost(spans: list[ReadableSpan], rounds: int) -> tuple[float, float]:
    """Return the CPU time of a span in microseconds: of the plain encoder, and of ours."""
    plain, ours = [], []
    for _ in range(rounds):
        began = time.thread_time()
        for start in range(0, len(spans), BATCH):
            body = encode_spans(spans[start : start + BATCH]).SerializeToString()
            gzip.compress(body, compresslevel=3)
        plain.append(time.thread_time() - began)
        with tempfile.TemporaryDirectory() as folder:
            exporter = processor(Path(folder))
            for span in spans:
                exporter.on_end(span)
            wait_until_spooled(exporter, len(spans))
            # The whole work of the thread since its start, including a few polls.
            ours.append(exporter.cpu_s)
            exporter.shutdown()
    return min(plain) / len(spans) * 1e6, min(ours) / len(spans) * 1e6


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Respond to each byte after some work that releases the interpreter lock now and then."""
    while await reader.read(1):
        for _ in range(STEPS):
            sum(range(STEP_LOOPS))
            # A system call releases the interpreter lock.
            Path.cwd().stat()
        writer.write(b"y")
        await writer.drain()
    writer.close()


async def latencies_ms(port: int, seconds: float) -> list[float]:
    """Return the latencies of the client's requests in milliseconds."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(port), str(seconds), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await client.communicate()
    return [float(word) * 1000 for word in out.split()]


async def added_latency(spans: list[ReadableSpan], seconds: float, burst: int) -> dict[str, float]:
    """Measure the latency without and with spans that end meanwhile."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        exporter = processor(Path(folder))
        quiet = await latencies_ms(port, seconds)
        measuring = asyncio.create_task(latencies_ms(port, seconds))
        ended = 0
        while not measuring.done():
            for number in range(burst):
                exporter.on_end(spans[(ended + number) % len(spans)])
            ended += burst
            await asyncio.sleep(0.5)
        busy = await measuring
        await asyncio.to_thread(wait_until_spooled, exporter, ended)
        await asyncio.to_thread(exporter.shutdown)
    server.close()
    p99_quiet, p99_busy = (statistics.quantiles(taken, n=100)[98] for taken in (quiet, busy))
    return {
        "spans_per_s": burst * 2,
        "p50_ms": round(statistics.median(quiet), 2),
        "p99_ms_without_spans": round(p99_quiet, 2),
        "p99_ms_with_spans": round(p99_busy, 2),
        "added_p99_ms": round(p99_busy - p99_quiet, 2),
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of each of the two latency measurements")
    parser.add_argument("--burst", type=int, default=300, help="number of spans that end at once, twice a second")
    options = parser.parse_args()
    spans = generations(200)
    plain_us, ours_us = cost(spans, options.rounds)
    found = {
        "plain_otlp_us": round(plain_us, 1),
        "langsmith_us": round(ours_us, 1),
        "ratio": round(ours_us / plain_us, 2),
        **asyncio.run(added_latency(spans, options.seconds, options.burst)),
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<24}{value:10}")


if __name__ == "__main__":
    main()
