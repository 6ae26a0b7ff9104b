"""The built collector: a service, its agent, the gateway and LangSmith."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from math import nan
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from scripts.collector import FILES, command
from tests.integration.collector_app import NUMBER
from tests.integration.collector_secrets import NUMBER_UNDER_KEY, SECRETS, SPARED, planted
from tests.integration.test_rules import PrometheusServer
from tests.servers import CollectorServer, Server, ServerFailed

from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

pytestmark = [pytest.mark.collector, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
MS = 1_000_000
PATIENCE_S = 60.0
# As shipped, but that the decision about a trace is not waited for in a test.
QUICK = {
    "GATEWAY_DECISION_WAIT": "3s",
    "GATEWAY_ROOT_WAIT": "1s",
    "GATEWAY_BASE_PERCENT": "100",
    "GATEWAY_SPAN_METRICS_INTERVAL": "1s",
}

trace_numbers = count(1)


class AppServer(Server):
    """The service of collector_app.py."""

    name = "collector-app"

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "shop", "PYTHONPATH": ROOT}

    def command(self) -> list[str | Path]:
        """Start the service."""
        variables = [f"{name}={value}" for name, value in self._variables.items()]
        program = [sys.executable, "-m", "uvicorn", "tests.integration.collector_app:app"]
        return ["/usr/bin/env", *variables, *program, "--log-level=warning", f"--port={self.port}"]

    def probe(self) -> bool:
        """Return whether the service responds."""
        return bool(self.ask("/livez", verb="GET"))

    def ask(self, path: str, *, verb: str = "POST", headers: dict[str, str] | None = None) -> str:
        """Send a request and return the response."""
        request = Request(f"http://{self.address}{path}", method=verb, headers=headers or {})
        with urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def books(self) -> Counter[str]:
        """Return the span counts of the service, from its metrics page."""
        page = self.ask("/metrics", verb="GET")
        found = re.findall(r'^forge_export_(\w+)\{forge_destination="otlp"(.*)\} (\S+)$', page, re.MULTILINE)
        books: Counter[str] = Counter()
        for name, labels, value in found:
            outcome = re.search(r'forge_outcome="(\w+)"', labels)
            books[outcome[1] if outcome else name.removesuffix("_total")] += int(float(value))
        return books


@pytest.fixture
def langsmith() -> Iterator[LangSmithStandIn]:
    """The destination of the traces."""
    with LangSmithStandIn(api_key="key") as server:
        yield server


@contextmanager
def gateway_to(langsmith: LangSmithStandIn, **variables: str) -> Iterator[CollectorServer]:
    """A gateway that sends to LangSmith."""
    own = {"LANGSMITH_ENDPOINT": langsmith.url, "LANGSMITH_API_KEY": "key", "LANGSMITH_PROJECT": "shop"}
    with CollectorServer("gateway", **{**QUICK, **own, **variables}) as gateway:
        yield gateway


@contextmanager
def agent_to(gateway: CollectorServer) -> Iterator[CollectorServer]:
    """An agent that sends to the gateway."""
    with CollectorServer("agent", GATEWAY_URL=gateway.url) as agent:
        yield agent


def post(server: CollectorServer, request: ExportTraceServiceRequest) -> None:
    """Post spans like an SDK."""
    headers = {"Content-Type": "application/x-protobuf"}
    with urlopen(Request(f"{server.url}/v1/traces", request.SerializeToString(), headers), timeout=10) as answer:
        assert answer.status == 200


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds; `what` names it in the error."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.1)


def numbers(langsmith: LangSmithStandIn) -> Counter[int]:
    """Return the numbers of the accepted spans, and how often each arrived."""
    found = ((item.key, item.value.int_value) for span in langsmith.spans for item in span.attributes)
    return Counter(value for key, value in found if key == NUMBER)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("destinations", ["", "[otlp_http/any]", "[otlp_http/langsmith, otlp_http/any]"])
def test_the_collector_finds_nothing_wrong_with_a_file(file: str, destinations: str) -> None:
    """The collector's own validation knows every setting of every component."""
    environ = {"PATH": "/usr/bin:/bin", **({"GATEWAY_DESTINATIONS": destinations} if destinations else {})}
    subprocess.run(command(file, verb="validate"), check=True, env=environ, timeout=60)


def test_no_collector_starts_without_the_redaction() -> None:
    """A missing redaction.yaml is an error at startup."""
    for file in FILES:
        whole = command(file, verb="validate")
        without = [part for part in whole if "redaction.yaml" not in str(part)]
        assert len(without) == len(whole) - 1
        assert subprocess.run(without, check=False, capture_output=True, timeout=60).returncode != 0


def test_ten_thousand_spans_survive_outages_and_a_kill(langsmith: LangSmithStandIn) -> None:
    """LangSmith fails, the gateway is frozen, and the agent is killed with spans on disk: every span arrives."""
    with gateway_to(langsmith) as gateway, agent_to(gateway) as agent, AppServer(agent.url) as app:

        def work(first: int, last: int) -> None:
            for start in range(first, last, 100):
                app.ask(f"/work?first={start}&count=100")

        work(0, 2_000)
        eventually(lambda: len(numbers(langsmith)) == 2_000, "the first spans")
        langsmith.fail(LangSmithFault(status=503, retry_after_s=1))
        work(2_000, 4_000)
        eventually(lambda: langsmith.outcomes["503"] > 1, "the gateway to be refused")
        gateway.pause()
        work(4_000, 6_000)
        eventually(lambda: app.books()["waiting"] == 0, "the agent to have everything")
        assert queued(agent) > 0
        agent.kill()
        work(6_000, 8_000)
        assert app.books()["waiting"] > 0
        gateway.resume()
        agent.start()
        work(8_000, 10_000)
        eventually(lambda: app.books()["waiting"] == 0, "the agent to have everything again")
        assert len(numbers(langsmith)) == 2_000
        langsmith.recover()
        books = app.books()
        assert (books["produced"], books["dropped"]) == (books["exported"], 0)
        eventually(lambda: len(numbers(langsmith)) == 10_000, f"10 000 spans, not {len(numbers(langsmith))}")
        eventually(lambda: len({span.span_id for span in langsmith.spans}) == books["exported"], "the rest")
        found = numbers(langsmith)
        assert set(found) == set(range(10_000))
        print(f"{books['exported']} spans, {found.total() - len(found)} of the 10 000 twice")


def test_the_agent_does_not_start_with_a_damaged_queue(langsmith: LangSmithStandIn) -> None:
    """It reports the damage; after the file is moved, new spans arrive."""
    with gateway_to(langsmith) as gateway, agent_to(gateway) as agent:
        post(agent, request_of(trace("before", failed=True)))
        eventually(lambda: len(langsmith.spans) == 1, "the first span")
        agent.kill()
        for file in agent.queue.iterdir():
            file.write_bytes(b"\xa5" * max(file.stat().st_size, 4096))
        with pytest.raises(ServerFailed, match="invalid database"):
            agent.start()
        agent.queue.rename(agent.folder / "aside")
        agent.start()
        post(agent, request_of(trace("after", failed=True)))
        eventually(lambda: {span.name for span in langsmith.spans} == {"before", "after"}, "the second span")


def test_secrets_are_redacted_and_token_counts_are_not(langsmith: LangSmithStandIn) -> None:
    """Secrets in every field of a span reach no destination, no file and no metric."""
    with (
        LangSmithStandIn() as elsewhere,
        gateway_to(
            langsmith,
            GATEWAY_DESTINATIONS="[otlp_http/langsmith, otlp_http/any]",
            GATEWAY_OTLP_URL=f"{elsewhere.url}/otel",
        ) as gateway,
        agent_to(gateway) as agent,
    ):
        gateway.pause()
        request = planted()
        wire = request.SerializeToString()
        # A number is on the wire in another form than as a text.
        assert [place for place, secret in SECRETS.items() if secret.encode() not in wire] == [NUMBER_UNDER_KEY]
        post(agent, request)
        eventually(lambda: any(path.stat().st_size for path in agent.queue.iterdir()), "the queue")
        on_disk = b"".join(path.read_bytes() for path in agent.queue.iterdir())
        gateway.resume()
        for destination in (langsmith, elsewhere):
            eventually(lambda server=destination: bool(server.spans), "the spans")
        eventually(lambda: "forge_spans_calls" in gateway.span_metrics(), "the metrics of the spans")
        counted = gateway.span_metrics()
        leaked = {
            place: where
            for place, secret in SECRETS.items()
            for where, holds in {
                "LangSmith": langsmith.has_received(secret),
                "elsewhere": elsewhere.has_received(secret),
                "disk": secret.encode() in on_disk,
                "metrics": secret in counted,
            }.items()
            if holds
        }
        assert len(SECRETS) >= 30
        assert leaked == {}
        of_all = [item.value for span in (*langsmith.spans, *elsewhere.spans) for item in span.attributes]
        assert int(SECRETS[NUMBER_UNDER_KEY]) not in {value.int_value for value in of_all}
        for server in (langsmith, elsewhere):
            (span,) = [span for span in server.spans if span.name == "chat gpt-4o"]
            values = {item.key: item.value for item in span.attributes}
            assert {name: str(values[name]).strip() for name in SPARED} == {
                name: str(value).strip() for name, value in SPARED.items()
            }


def trace(name: str, *, duration_ms: int = 5, event: str = "", failed: bool = False, **attributes: Any) -> Span:
    """Return a trace of one span."""
    number = next(trace_numbers)
    end_ns = time.time_ns()
    span = Span(
        trace_id=number.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        name=name,
        start_time_unix_nano=end_ns - duration_ms * MS,
        end_time_unix_nano=end_ns,
        status=Status(code=Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET),
    )
    for key, value in attributes.items():
        kept = span.attributes.add(key=key.replace("__", ".")).value
        if isinstance(value, float):
            kept.double_value = value
        else:
            kept.array_value.values.add(string_value=value)
    if event:
        span.events.add(name=event, time_unix_nano=end_ns)
    return span


def request_of(*spans: Span) -> ExportTraceServiceRequest:
    """Return a request with the spans of one service."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    resource.scope_spans.add().spans.extend(spans)
    return request


def test_important_traces_are_kept_and_every_span_is_counted(langsmith: LangSmithStandIn) -> None:
    """Errors, slow, expensive and fallback traces arrive; ordinary ones do not, but are in the span metrics."""
    kept = [
        trace("failed", failed=True),
        trace("slow", duration_ms=61_000),
        trace("expensive", forge__cost__usd=1.5),
        trace("expensive call", gen_ai__usage__cost__amount=1.0),
        trace("with fallback", event="forge.fallback"),
        trace("degraded", forge__degraded="redis:uncached"),
    ]
    plain = [trace("plain", duration_ms=59_000), trace("cheap", forge__cost__usd=0.42)]
    plain += [trace("plain") for _ in range(200)]
    with gateway_to(langsmith, GATEWAY_BASE_PERCENT="0") as gateway:
        post(gateway, request_of(*kept, *plain))
        eventually(lambda: len(langsmith.spans) >= len(kept), "the traces that are kept")
        eventually(lambda: decided(gateway) == len(kept) + len(plain), "a decision on every trace")
        assert Counter(span.name for span in langsmith.spans) == Counter(span.name for span in kept)
        eventually(lambda: calls(gateway).total() == len(kept) + len(plain), "the metrics of the spans")
        assert calls(gateway)["plain"] == 201


DECIDED = re.compile(r"^otelcol_processor_tail_sampling_global_count_traces_sampled\S* (\S+)$", re.MULTILINE)
QUEUED = re.compile(r'^otelcol_exporter_queue_size\{.*data_type="traces".*\} (\S+)$', re.MULTILINE)
CALLS = re.compile(r'^forge_spans_calls_total\{.*span_name="([^"]*)".*\} (\S+)', re.MULTILINE)
REFUSED = re.compile(r"^otelcol_receiver_refused_spans\S* (\S+)$", re.MULTILINE)


def queued(server: CollectorServer) -> float:
    """Return the size of the queue for the destination."""
    return sum(map(float, QUEUED.findall(server.metrics())))


def decided(gateway: CollectorServer) -> int:
    """Return the number of traces with a sampling decision."""
    return int(sum(map(float, DECIDED.findall(gateway.metrics()))))


def calls(gateway: CollectorServer) -> Counter[str]:
    """Return the counted spans by name."""
    found: Counter[str] = Counter()
    for name, value in CALLS.findall(gateway.span_metrics()):
        found[name] += int(float(value))
    return found


def refused(agent: CollectorServer) -> float:
    """Return the number of spans that the agent refused."""
    return sum(map(float, REFUSED.findall(agent.metrics())))


def test_context_and_attributes_survive(langsmith: LangSmithStandIn) -> None:
    """One tree below the caller's span: names, kinds, identity, and tokens and cost as numbers."""
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with gateway_to(langsmith) as gateway, agent_to(gateway) as agent, AppServer(agent.url) as app:
        app.ask("/write", headers={"traceparent": caller, "x-session-id": "s1", "x-user-id": "ada"})
        eventually(lambda: any(span.name == "invoke_agent writer" for span in langsmith.spans), "the agent's span")
        eventually(lambda: any(span.name == "POST /write" for span in langsmith.spans), "the server's span")
    spans = {span.name: span for span in langsmith.spans}
    assert {span.trace_id.hex() for span in langsmith.spans} == {"0af7651916cd43dd8448eb211c80319c"}
    assert spans["POST /write"].parent_span_id.hex() == "b7ad6b7169203331"
    assert spans["POST /write"].kind == Span.SPAN_KIND_SERVER
    (model,) = [span for span in langsmith.spans if span.parent_span_id == spans["invoke_agent writer"].span_id]
    values = {item.key: item.value for item in model.attributes}
    assert values["gen_ai.usage.input_tokens"].int_value == 1_200
    assert values["gen_ai.usage.output_tokens"].int_value == 340
    assert values["gen_ai.usage.cost.amount"].double_value > 0
    assert {values[name].string_value for name in ("session.id", "langsmith.metadata.thread_id")} == {"s1"}
    assert {values[name].string_value for name in ("user.id", "langsmith.metadata.user_id")} == {"ada"}
    kinds = {
        span.name: item.value.string_value
        for span in langsmith.spans
        for item in span.attributes
        if item.key == "langsmith.span.kind"
    }
    assert kinds["invoke_agent writer"] == "chain"
    assert kinds[model.name] == "llm"


def test_span_metrics_are_a_prometheus_page(langsmith: LangSmithStandIn) -> None:
    """Buckets in seconds up to the length of a generation, and exemplars with trace ids."""
    slow = trace("generate", duration_ms=100_000)
    samples: list[Any] = []

    def has_exemplar() -> bool:
        # Each is on the page until the next flush.
        post(gateway, request_of(slow))
        page = gateway.span_metrics(accept="application/openmetrics-text; version=1.0.0")
        families = {family.name: family for family in text_string_to_metric_families(page)}
        samples[:] = [] if (found := families.get("forge_spans_duration_seconds")) is None else found.samples
        return any(sample.exemplar for sample in samples)

    with gateway_to(langsmith) as gateway:
        eventually(has_exemplar, "an exemplar")
    buckets = {sample.labels["le"]: sample for sample in samples if sample.name.endswith("_bucket")}
    assert buckets["90.0"].value == 0 < buckets["120.0"].value == buckets["300.0"].value
    assert {sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar} == {slow.trace_id.hex()}


class GatewayPrometheus(PrometheusServer):
    """The shipped configuration with the gateway of a test as target."""

    def __init__(self, gateway: CollectorServer) -> None:
        super().__init__("127.0.0.1:1")
        self._targets = {"forge-spans": gateway.prometheus_port, "forge-collector": gateway.metrics_port}

    def prepare(self) -> None:
        """Replace the targets."""
        super().prepare()
        file = self.folder / "prometheus.yml"
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        for job in config["scrape_configs"]:
            if port := self._targets.get(job["job_name"]):
                job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        file.write_text(yaml.safe_dump(config), encoding="utf-8")

    def value(self, query: str) -> float:
        """Return the value of an expression; NaN without one."""
        with urlopen(f"http://{self.address}/api/v1/query?query={quote(query)}", timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else nan


@pytest.mark.prometheus
def test_prometheus_scrapes_the_gateway(langsmith: LangSmithStandIn) -> None:
    """The shipped configuration scrapes span metrics by service, and the gateway's own metrics."""
    with gateway_to(langsmith) as gateway, GatewayPrometheus(gateway) as prometheus:
        post(gateway, request_of(*(trace("generate", duration_ms=100_000) for _ in range(20))))
        slow = 'histogram_quantile(0.5, sum by (le) (forge_spans_duration_seconds_bucket{job="shop"}))'
        eventually(lambda: prometheus.value('sum(forge_spans_calls_total{job="shop"})') == 20, "the calls")
        assert 90 < prometheus.value(slow) <= 120
        eventually(
            lambda: prometheus.value('sum(otelcol_exporter_sent_spans{job="forge-collector"})') == 20, "the rest"
        )


def test_a_full_agent_refuses_and_loses_no_span(langsmith: LangSmithStandIn) -> None:
    """Above its limit it responds with a retryable status, and the service spools its spans."""
    with (
        gateway_to(langsmith) as gateway,
        CollectorServer("agent", GATEWAY_URL=gateway.url, AGENT_QUEUE_BYTES="300000") as agent,
        AppServer(agent.url) as app,
    ):
        gateway.pause()
        for first in range(0, 3_000, 100):
            app.ask(f"/work?first={first}&count=100")
        eventually(lambda: refused(agent) > 0, "a refusal")
        assert app.books()["dropped"] == 0
        gateway.resume()
        eventually(lambda: len(numbers(langsmith)) == 3_000, "3 000 spans")
        eventually(lambda: app.books()["waiting"] == 0, "the service to have nothing left")
