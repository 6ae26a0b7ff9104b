"""CPU time of a decorated async call, compared with the same span, attributes and metrics written by hand.

By hand: a span with 6 attributes, among them the sizes of input and output, a counter and a histogram, through the
OpenTelemetry API. Decorated: `@agent`, which sets 6 attributes and records a histogram, whose count is the number of
calls, with every span processor of a Forge (identity, model calls, recent traces) and the metrics page. Both have the
same sampler, page and exporter. Each call is a separate trace, the worst case for the recent traces.

The decorator's points are recorded at the next collection. Hence there is a scrape after each round, and
`ratio_with_scrape` includes the time of the scrapes on both sides.

Rounds are interleaved, so that load of the machine affects all contenders; a ratio is the median of the ratios of the
rounds. The spans and points of each contender are counted to prove its work. `least` is the floor of the public API:
one span with its attributes at the start, plain attach and detach, and one histogram point.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from prometheus_client.parser import text_string_to_metric_families

from forge_otel.settings import Settings
from forge_otel.telemetry.metrics.prometheus import PrometheusPage
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.spans.decorators import Spans

Contender = Callable[[dict[str, Any]], Awaitable[str]]
PAYLOAD = {"component": "button", "tokens": {"color.primary": "#0055ff", "radius": 4}, "states": ["hover", "focus"]}


class Counting(SpanProcessor):
    """An exporter that only counts."""

    def __init__(self) -> None:
        self.ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Count the span."""
        self.ended += 1


class Side:
    """One contender with separate providers and a metrics page."""

    def __init__(self, sampler: Sampler) -> None:
        self.seen = Counting()
        self.page = PrometheusPage()
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(self.seen)
        self.meters = MeterProvider(shutdown_on_exit=False)
        self.call: Contender = bare

    async def points(self) -> int:
        """Return the count of the histogram on the metrics page."""
        body, _ = await self.page.render()
        families = text_string_to_metric_families(body.decode())
        samples = [sample for family in families for sample in family.samples]
        return sum(int(sample.value) for sample in samples if sample.name.endswith("duration_seconds_count"))


async def bare(payload: dict[str, Any]) -> str:
    """Do the work without instrumentation."""
    return "export const Button = () => <button/>;"


def by_hand(sampler: Sampler) -> Side:
    """Instrument as in the OpenTelemetry documentation."""
    side = Side(sampler)
    side.meters.add_metric_reader(side.page.reader())
    tracer = side.tracers.get_tracer("hand")
    meter = side.meters.get_meter("hand")
    calls = meter.create_counter("agent.calls")
    durations = meter.create_histogram("agent.duration", "s")

    async def call(payload: dict[str, Any]) -> str:
        started = time.monotonic()
        with tracer.start_as_current_span("invoke_agent token_extractor") as span:
            span.set_attribute("gen_ai.operation.name", "invoke_agent")
            span.set_attribute("gen_ai.agent.name", "token_extractor")
            span.set_attribute("forge.span.kind", "agent")
            span.set_attribute("app.stage", "extract")
            span.set_attribute("forge.input.size", len(json.dumps(payload)))
            result = await bare(payload)
            span.set_attribute("forge.output.size", len(result))
            labels = {"gen_ai.agent.name": "token_extractor", "forge.span.kind": "agent"}
            calls.add(1, labels)
            durations.record(time.monotonic() - started, labels)
        return result

    side.call = call
    return side


def least(sampler: Sampler) -> Side:
    """Instrument with the fewest and fastest calls of the public API."""
    side = Side(sampler)
    side.meters.add_metric_reader(side.page.reader())
    tracer = side.tracers.get_tracer("least")
    durations = side.meters.get_meter("least").create_histogram("agent.duration", "s")
    fixed = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "token_extractor",
        "forge.span.kind": "agent",
        "app.stage": "extract",
        "forge.input.size": 100,
    }
    labels = {"gen_ai.agent.name": "token_extractor", "forge.span.kind": "agent"}

    async def call(payload: dict[str, Any]) -> str:
        started = time.monotonic()
        span = tracer.start_span("invoke_agent token_extractor", attributes=fixed)
        token = otel_context.attach(trace.set_span_in_context(span))
        result = await bare(payload)
        span.set_attribute("forge.output.size", len(result))
        durations.record(time.monotonic() - started, labels)
        span.end()
        otel_context.detach(token)
        return result

    side.call = call
    return side


def decorated(sampler: Sampler) -> Side:
    """Instrument with the decorator."""
    side = Side(sampler)
    telemetry = Telemetry(Settings(), tracer_provider=side.tracers, meter_provider=side.meters)
    telemetry.start()
    side.page = telemetry.prometheus
    spans = Spans(lambda: telemetry.span_recorder)
    side.call = spans.agent("token_extractor", attributes={"app.stage": "extract"})(bare)
    return side


async def run(call: Contender, calls: int) -> float:
    """Return the CPU time of one call in microseconds."""
    started = time.process_time()
    for _ in range(calls):
        await call(PAYLOAD)
    return (time.process_time() - started) / calls * 1e6


async def measure(rounds: int, calls: int) -> dict[str, Any]:
    """Run the contenders in interleaved rounds and return the figures."""
    sides = {
        "by hand": by_hand(ALWAYS_ON),
        "least": least(ALWAYS_ON),
        "decorated": decorated(ALWAYS_ON),
        "by hand, sampled out": by_hand(ALWAYS_OFF),
        "decorated, sampled out": decorated(ALWAYS_OFF),
    }
    closed = Spans(lambda: None).agent(bare)
    contenders: dict[str, Contender] = {"bare": bare, "decorated, no forge": closed}
    contenders |= {name: side.call for name, side in sides.items()}
    for call in contenders.values():
        await run(call, calls // 4)
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    scrapes: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in contenders.items():
            taken[name].append(await run(call, calls))
            if name in sides:
                scrapes[name].append(await scrape(sides[name], calls))
    expected = rounds * calls + calls // 4
    for name, side in sides.items():
        wanted = 0 if "sampled out" in name else expected
        points = await side.points()
        if (side.seen.ended, points) != (wanted, expected):
            raise SystemExit(f"{name} has not recorded every call: {side.seen.ended} spans, {points} points")
    return figures(taken, scrapes)


async def scrape(side: Side, calls: int) -> float:
    """Return the CPU time of a scrape in microseconds per call before it."""
    started = time.process_time()
    await side.page.render()
    return (time.process_time() - started) / calls * 1e6


def figures(taken: dict[str, list[float]], scrapes: dict[str, list[float]]) -> dict[str, Any]:
    """Return the medians of the added times and of the ratios within a round."""
    added = {
        name: [value - bare_us for value, bare_us in zip(values, taken["bare"], strict=True)]
        for name, values in taken.items()
    }

    with_scrape = {name: [a + b for a, b in zip(added[name], scrapes[name], strict=True)] for name in scrapes}

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(added[one], added[other], strict=True))

    return {
        "added_us": {name: round(statistics.median(values), 2) for name, values in added.items()},
        "ratio": round(ratio("decorated", "by hand"), 3),
        "ratio_of_least": round(ratio("least", "by hand"), 3),
        "ratio_with_scrape": round(
            statistics.median(a / b for a, b in zip(with_scrape["decorated"], with_scrape["by hand"], strict=True)),
            3,
        ),
        "ratio_sampled_out": round(ratio("decorated, sampled out", "by hand, sampled out"), 3),
        "bound": 0.6,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1000, help="calls of each contender in a round")
    options = parser.parse_args()
    found = asyncio.run(measure(options.rounds, options.calls))
    if options.json:
        print(json.dumps(found))
        return
    for name, microseconds in found["added_us"].items():
        print(f"{name:<26}{microseconds:9.2f} µs added")
    print(f"decorated / by hand: {found['ratio']} (bound {found['bound']}, floor {found['ratio_of_least']})")
    print(f"the same with scrapes: {found['ratio_with_scrape']}")
    print(f"the same sampled out: {found['ratio_sampled_out']}")


if __name__ == "__main__":
    main()
