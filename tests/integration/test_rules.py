"""The alert rules: they parse, name what exists, fire when they must and only then, and work on a real scrape."""

import asyncio
import itertools
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx
import promql_parser
import pytest
import yaml
from scripts.docs import prometheus_label, sample_names
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.servers import Server

from componentforge.serving import serve
from forge_otel import Forge, ForgeMiddleware, GenerationRequest, GenerationResult, Settings
from forge_otel.errors import ServiceUnavailable
from forge_otel.names import CATALOG, Metric
from forge_otel.resilience.fallback import Fallback

COLLECTOR = Path(__file__).parents[2] / "collector"
CONFIG = COLLECTOR / "prometheus.yml"
RULES = COLLECTOR / "rules" / "forge.rules.yml"
CASES = COLLECTOR / "rules" / "forge.rules.test.yml"
WAIT_S = 60.0

rules: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
alerts = [rule for rule in rules if "alert" in rule]
cases: list[dict[str, Any]] = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]

LABELS = {
    name: {"job", "instance", "le"} | {prometheus_label(attribute) for attribute in item.attributes}
    for item in CATALOG
    for name in sample_names(item)
} | {"up": {"job", "instance"}}

# Each change makes an alert worse in one way; one of its cases must notice.
MUTATIONS = {
    "ForgeErrorSpike": {
        "spike never": ("forge_errors_spike) == 1", "forge_errors_spike) == 2"),
        "spike always": ("forge_errors_spike) == 1", "forge_errors_spike) >= 0"),
    },
    "ForgeErrorRateHigh": {
        "one error is enough": ("failures:increase1h >= 3", "failures:increase1h >= 1"),
        "two errors are enough": ("failures:increase1h >= 3", "failures:increase1h >= 2"),
        "one in a hundred is too much": ("> 0.01", ">= 0.01"),
        "two in a hundred are fine": ("> 0.01", "> 0.02"),
        "no short window": ("job:http_server_failures:ratio5m > 0.01\n          and ", ""),
        "no long window": ("and job:http_server_failures:ratio1h > 0.01", ""),
        "first errors are not seen": ("_seconds_count offset 1h", "_seconds_count"),
        "callers who go away are failures": (', error_type!="client_disconnected"', ""),
        "answers that break off are fine": ("|client_disconnected", ".*"),
        "bad requests are failures": ("5..", "[45].."),
        "services of others are watched": ("and on (job) forge_build_info", ""),
    },
    "ForgeBreakerOpen": {
        "a probe resets the breaker": ('{forge_breaker_state="closed"}) == 0', '{forge_breaker_state="open"}) == 1'),
        "an idle breaker pages": ("increase(forge_breaker_calls_total[15m])", "forge_breaker_calls_total"),
        "a breaker pages at once": ("for: 1m", "for: 0m"),
    },
    "ForgeFallbackActive": {
        "the first use of a fallback is not seen": ("activations_total offset 10m", "activations_total"),
        "one use of a fallback is too much": ("for: 15m", "for: 5m"),
        "a fallback is only seen under load": ("_total[10m])\n          ) > 0\n", "_total[10m])\n          ) > 3\n"),
    },
    "ForgeOutboxBacklog": {
        "records that flow are a backlog": ("unless increase(forge_outbox_delivered_total[10m]) > 0", ""),
        "a thousand is too much": ("> 1000", ">= 1000"),
        "any number may wait": ("> 1000", "> 1001"),
        "a start is a backlog": ("for: 5m", "for: 0m"),
    },
    "ForgeRecordsDropped": {
        "the first drop is not seen": ("_dropped_total offset 15m", "_dropped_total"),
        "old drops are new": ("unless forge_outbox_dropped_total offset 15m", ""),
    },
    "ForgeGenerationSlow": {
        "one in twenty is too slow": ("p95_30m > 90", "p95_30m >= 90"),
        "two are enough to be slow": ('le="90.0"}\n          ) >= 3', 'le="90.0"}\n          ) >= 2'),
        "the first slow ones are not seen": ("_seconds_bucket offset 30m", "_seconds_bucket"),
        "caches are slow, too": ('{cache_layer="L4"}', ""),
    },
    "ForgeTargetDown": {
        "a failed scrape pages": ("for: 2m", "for: 0m"),
        "any target pages": ("and on (job) present_over_time(forge_build_info[1d])", ""),
    },
    "ForgeMetricsAbsent": {
        "a restart pages": ("(forge_build_info)\n        for: 5m", "(forge_build_info)\n        for: 1m"),
    },
}


def name_of(rule: dict[str, Any]) -> str:
    """What the rule is called."""
    name: str = rule.get("alert") or rule["record"]
    return name


def selectors(expression: str) -> Iterator[Any]:
    """Every vector selector of a PromQL expression."""
    found: list[Any] = []

    def collect(node: Any) -> bool:
        match node:
            case promql_parser.VectorSelector():
                found.append(node)
            case promql_parser.MatrixSelector():
                found.append(node.vector_selector)
        return True

    promql_parser.walk(promql_parser.parse(expression), collect)
    yield from found


@pytest.mark.parametrize("rule", rules, ids=name_of)
def test_an_expression_names_what_exists(rule: dict[str, Any]) -> None:
    """Every metric and every label in a matcher is in the catalog, or recorded by a rule before."""
    recorded = {earlier["record"] for earlier in rules[: rules.index(rule)] if "record" in earlier}
    for selector in selectors(rule["expr"]):
        assert selector.name in LABELS.keys() | recorded
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= LABELS.get(selector.name, {"job", "le"})


@pytest.mark.parametrize("rule", rules, ids=name_of)
def test_labels_are_kept_by_names_that_exist(rule: dict[str, Any]) -> None:
    """A misspelt label in `by (…)` or in a sentence would be empty, and nobody would say so."""
    known = set().union(*LABELS.values())
    text = yaml.safe_dump(rule)
    grouped = re.findall(r"(?:by|on|ignoring) \(([^)]*)\)", text)
    assert {label.strip() for labels in grouped for label in labels.split(",")} <= known
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= known


@pytest.mark.parametrize("alert", alerts, ids=name_of)
def test_an_alert_says_what_is_felt_and_what_to_do(alert: dict[str, Any]) -> None:
    """Severity, a summary of one line, and a description."""
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert len(alert["annotations"]["summary"]) < 120
    assert len(alert["annotations"]["description"]) > 200


@pytest.mark.parametrize("alert", alerts, ids=name_of)
def test_an_alert_has_cases_for_both(alert: dict[str, Any]) -> None:
    """One that must fire, and one in which it must never."""
    checks = [
        [check["exp_samples"] for check in case["promql_expr_test"] if f'"{alert["alert"]}"' in check["expr"]]
        for case in cases
    ]
    assert any(any(samples) for samples in checks)
    assert any(samples and not any(samples) for samples in checks)


def test_the_slow_limit_is_a_bound_of_the_buckets() -> None:
    """Else the quantile would be interpolated, and the series that the rule asks for would not exist."""
    bounds = {f'le="{bound}"' for bound in Metric.GENERATION_DURATION.bounds} | {'le="+Inf"'}
    assert set(re.findall(r'le="[^"]+"', RULES.read_text(encoding="utf-8"))) <= bounds


@pytest.mark.prometheus
@pytest.mark.parametrize(
    "command",
    [("check", "rules", RULES), ("check", "config", CONFIG), ("test", "rules", CASES)],
    ids=["check rules", "check config", "test rules"],
)
def test_promtool_is_content(command: tuple[str, str, Path]) -> None:
    """Rules and configuration are valid, and every case comes out as written."""
    answer = promtool(*command)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("alert", "mutation"), [(alert, mutation) for alert, mutations in MUTATIONS.items() for mutation in mutations]
)
def test_the_cases_notice_a_worse_rule(alert: str, mutation: str, tmp_path: Path) -> None:
    """A case of the alert fails when a threshold, a window or a filter is changed."""
    before, after = MUTATIONS[alert][mutation]
    text = RULES.read_text(encoding="utf-8")
    assert before in text
    (tmp_path / RULES.name).write_text(text.replace(before, after), encoding="utf-8")
    its_cases = [case for case in cases if case["name"].startswith(f"{alert} ")]
    document = {"rule_files": [RULES.name], "evaluation_interval": "1m", "tests": its_cases}
    (tmp_path / CASES.name).write_text(yaml.safe_dump(document), encoding="utf-8")
    assert promtool("check", "rules", tmp_path / RULES.name).returncode == 0
    answer = promtool("test", "rules", tmp_path / CASES.name)
    assert "FAILED" in answer.stdout + answer.stderr


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool to its end."""
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class PrometheusServer(Server):
    """The shipped configuration on another target, scraped and evaluated every second."""

    name = "prometheus"

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target

    def prepare(self) -> None:
        """Write the configuration."""
        super().prepare()
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES)]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [self._target]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def command(self) -> list[str | Path]:
        """The command line."""
        return [
            shutil.which("prometheus") or "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self.address}",
        ]

    def probe(self) -> bool:
        """Prometheus says when it is ready."""
        with urlopen(f"http://{self.address}/-/ready", timeout=1) as answer:
            return bool(answer.status == 200)


@pytest.mark.prometheus
async def test_the_rules_work_on_a_real_scrape(tmp_path: Path) -> None:
    """A real Prometheus scrapes a service whose model is away: every rule gives what it is for, on real labels."""
    async with (
        serving(tmp_path) as base_url,
        PrometheusServer(base_url.removeprefix("http://")) as prometheus,
        httpx.AsyncClient(base_url=f"http://{prometheus.address}/api/v1", trust_env=False) as api,
        load(base_url),
    ):
        await until(lambda: value_of(api, "up == 1"), "the first scrape")
        expected = {"ForgeErrorRateHigh", "ForgeBreakerOpen", "ForgeFallbackActive"}
        await until(lambda: has_active(api, expected), "alerts for what happens")
        for rule in rules:
            answer = (await api.get("/query", params={"query": rule["expr"]})).json()
            assert answer["status"] == "success", answer
            assert answer["data"]["result"] or "alert" in rule, name_of(rule)
        evaluated = [rule for group in (await fetch(api, "/rules"))["groups"] for rule in group["rules"]]
        active = (await fetch(api, "/alerts"))["alerts"]
    assert {rule["name"]: (rule["health"], rule.get("lastError")) for rule in evaluated} == {
        name_of(rule): ("ok", None) for rule in rules
    }
    assert {alert["labels"]["alertname"] for alert in active} == expected
    sentences = [sentence for alert in active for sentence in alert["annotations"].values()]
    assert [sentence for sentence in sentences if re.search(r"<no value>|<error|[{}]|%!| {2}", sentence)] == []


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[str]:
    """A service whose model is away: generations get a fallback's answer, one route fails."""
    forge = Forge(
        Settings(
            archive_url=f"file://{folder}/artifacts",
            database_url=f"sqlite+aiosqlite:///{folder}/forge.db",
            outbox_dir=f"{folder}/outbox",
        )
    )

    def canned(_exc: Exception) -> str:
        return "export const Button = () => <button />;"

    @forge.guard("openai").using(fallbacks=[Fallback("openai:canned", canned)])
    async def ask_model() -> str:
        raise ConnectionRefusedError

    @forge.generation
    async def pipeline(request: GenerationRequest) -> GenerationResult:
        return GenerationResult(code=await ask_model())

    async def generate(request: Request) -> Response:
        result = await pipeline(GenerationRequest(component_type="button", figma_key=request.path_params["key"]))
        return JSONResponse({"code": result.code})

    async def fail(request: Request) -> Response:
        raise ServiceUnavailable("nothing answers here")

    app = Starlette(routes=[Route("/generate/{key}", generate), Route("/fail", fail)])
    app.add_middleware(ForgeMiddleware, forge=forge)
    async with serve(app) as base_url:
        yield base_url


@asynccontextmanager
async def load(base_url: str) -> AsyncIterator[None]:
    """Requests from now to the end of the block, one generation for every failure."""
    stop = asyncio.Event()

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=base_url, timeout=30, trust_env=False) as client:
            for number in itertools.count():
                if stop.is_set():
                    return
                assert (await client.get(f"/generate/{number}")).status_code == 200
                assert (await client.get("/fail")).status_code == 503
                await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        stop.set()
        await asking


async def fetch(api: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    """The data of an answer of Prometheus."""
    return (await api.get(path, params=parameters)).raise_for_status().json()["data"]


async def value_of(api: httpx.AsyncClient, query: str) -> bool:
    """Whether a query gives anything now."""
    return bool((await fetch(api, "/query", query=query))["result"])


async def has_active(api: httpx.AsyncClient, names: set[str]) -> bool:
    """Whether exactly these alerts are pending or firing."""
    return {alert["labels"]["alertname"] for alert in (await fetch(api, "/alerts"))["alerts"]} == names


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for a condition; TimeoutError names it."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not await condition():
                await asyncio.sleep(0.1)
    except TimeoutError as exc:
        raise TimeoutError(f"waited {WAIT_S:g} s for {what}") from exc
