"""What can be said of the collector's files without a collector: every name is defined, and no promise is broken.

Whether a component knows its settings only the collector can say: tests/integration/test_collector.py asks it.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_otel.names import CATALOG, Attr
from forge_otel.settings import Settings

FOLDER = Path(__file__).parents[2] / "collector"
FILES = ("agent.yaml", "gateway.yaml")
KINDS = ("receivers", "processors", "exporters", "connectors", "extensions")
VARIABLE = re.compile(r"\$\{env:([A-Z_]+)(?::-([^}]*))?\}")


def text(file: str) -> str:
    """A file as it is."""
    return (FOLDER / file).read_text(encoding="utf-8")


def config(file: str) -> dict[str, Any]:
    """What the collector is started with: a file on top of the redaction, each variable with its default."""
    found: dict[str, Any] = yaml.safe_load(VARIABLE.sub(lambda variable: variable[2] or "", text(file)))
    shared = yaml.safe_load(text("redaction.yaml"))
    found["processors"] |= shared["processors"]
    return found


def pipelines(file: str) -> dict[str, dict[str, list[str]]]:
    """The pipelines by name."""
    found: dict[str, dict[str, list[str]]] = config(file)["service"]["pipelines"]
    return found


def built() -> Iterator[tuple[str, str, str]]:
    """Kind, type without underscores, and version of every component in the collector."""
    builder = yaml.safe_load(text("builder.yaml"))
    for kind in KINDS:
        for module in builder[kind]:
            path, version = module["gomod"].split()
            yield kind, path.rsplit("/", 1)[1].removesuffix(kind[:-1]), version


def used(file: str) -> set[tuple[str, str]]:
    """Kind and type without underscores of every component that a file defines."""
    found = config(file)
    return {(kind, name.partition("/")[0].replace("_", "")) for kind in KINDS for name in found.get(kind) or ()}


@pytest.mark.parametrize("file", FILES)
def test_every_name_in_a_pipeline_is_defined(file: str) -> None:
    """And everything that is defined is in a pipeline; a connector is at both ends of two."""
    found = config(file)
    connectors = set(found.get("connectors") or ())
    lines = pipelines(file).values()
    ends = {role: {name for line in lines for name in line.get(role, ())} for role in ("receivers", "exporters")}
    steps = {name for line in lines for name in line["processors"]}
    assert ends["receivers"] == set(found["receivers"]) | connectors
    # What GATEWAY_DESTINATIONS may name is defined, too.
    assert ends["exporters"] <= set(found["exporters"]) | connectors
    assert set(found["exporters"]) - ends["exporters"] <= {"otlp_http/any"}
    assert steps == set(found["processors"])
    assert set(found["service"]["extensions"]) == set(found["extensions"])


def test_the_collector_has_what_is_used_and_nothing_else() -> None:
    """A component costs build time and is one more that may be attacked."""
    assert set().union(*(used(file) for file in FILES)) == {(kind, name) for kind, name, _ in built()}


def test_the_collector_is_of_one_release() -> None:
    """Components are v0, providers v1 of the same release, and the builder is of the version of the components."""
    builder = yaml.safe_load(text("builder.yaml"))
    assert {version for _, _, version in built()} == {f"v{builder['dist']['version']}"}
    providers = {module["gomod"].split()[1] for module in builder["providers"]}
    assert len(providers) == 1
    assert min(providers).startswith("v1.")


@pytest.mark.parametrize("file", FILES)
def test_what_comes_in_is_limited_and_redacted_first(file: str) -> None:
    """Before it is in a queue, in a metric or on the wire."""
    for name, line in pipelines(file).items():
        if "otlp" in line["receivers"]:
            redacting = ["transform/redact", "redaction"] if name.startswith("traces") else ["redaction"]
            assert line["processors"] == ["memory_limiter", *redacting]


@pytest.mark.parametrize("file", FILES)
def test_no_queue_gives_up(file: str) -> None:
    """Each destination has a queue on disk, bounded in bytes, and is tried for ever."""
    found = config(file)
    queues = [settings for name, settings in found["exporters"].items() if name.startswith("otlp_http")]
    assert queues
    for settings in queues:
        assert settings["retry_on_failure"]["max_elapsed_time"] == "0s"
        queue = settings["sending_queue"]
        assert queue["storage"] in found["extensions"]
        assert (queue["sizer"], queue["batch"]["sizer"]) == ("bytes", "bytes")
        # LangSmith refuses larger requests, and what is refused is lost.
        assert queue["batch"]["max_size"] <= 4_000_000 < queue["queue_size"]


@pytest.mark.parametrize("file", FILES)
def test_every_variable_is_explained_and_has_a_default(file: str) -> None:
    """In the comment at the top; none is explained that is not there."""
    head = text(file).split("\nextensions:")[0]
    explained = set(re.findall(r"(?<![A-Z_])(?:AGENT|GATEWAY|LANGSMITH)_[A-Z_]+", head))
    assert explained == {name for name, _ in VARIABLE.findall(text(file))}
    assert text(file).count("${env:") == len(re.findall(r"\$\{env:[A-Z_]+:-", text(file)))


@pytest.mark.parametrize("file", FILES)
def test_nothing_listens_but_to_this_machine(file: str) -> None:
    """Whoever wants more says so."""
    listening = [default for name, default in VARIABLE.findall(text(file)) if re.match(r"[\w.]+:\d+$", default)]
    assert len(listening) >= 3
    assert all(address.startswith("127.0.0.1:") for address in listening)


def test_traces_are_decided_on_after_the_longest_generation() -> None:
    """And a restart of the agent in the middle is waited for, too."""
    sampling = config("gateway.yaml")["processors"]["tail_sampling"]
    assert int(sampling["decision_wait"].removesuffix("s")) >= Settings().generation_timeout_s + 30
    assert sampling["decision_cache"]["sampled_cache_size"] >= 10 * sampling["num_traces"]


def test_the_sampling_keeps_what_matters() -> None:
    """By the names that the library gives it."""
    policies = {policy["name"]: policy for policy in config("gateway.yaml")["processors"]["tail_sampling"]["policies"]}
    assert list(policies) == ["errors", "slow", "expensive", "fallback", "base"]
    asked = str(policies)
    for name in (Attr.COST_USD, Attr.GEN_AI_COST_USD, Attr.DEGRADED, Attr.FALLBACK):
        assert f'"{name}"' in asked


def test_the_metrics_see_what_is_not_kept() -> None:
    """They are made of every span, and the sampling comes behind them."""
    lines = pipelines("gateway.yaml")
    assert "tail_sampling" not in lines["traces"]["processors"]
    assert "span_metrics" in lines["traces"]["exporters"]
    assert lines["traces/sampled"]["receivers"] == ["forward/sampling"]
    assert "prometheus" in lines["metrics"]["exporters"]


def test_no_name_of_ours_looks_like_a_secret() -> None:
    """The patterns for keys spare every attribute of the library, token counts above all."""
    patterns = [re.compile(item) for item in config("agent.yaml")["processors"]["redaction"]["blocked_key_patterns"]]
    names = [value for name, value in vars(Attr).items() if not name.startswith("_")]
    names += [attribute for instrument in CATALOG for attribute in instrument.attributes]
    assert Attr.GEN_AI_INPUT_TOKENS in names
    assert [name for name in names if any(pattern.search(name) for pattern in patterns)] == []
    for secret in ("password", "http.request.header.authorization", "x-api-key", "figma.access_token", "token"):
        assert any(pattern.search(secret) for pattern in patterns)


def test_the_compose_file_mounts_what_is_there() -> None:
    """Only its structure is checked: no container is started."""
    services = yaml.safe_load(text("compose.yaml"))["services"]
    assert set(services) == {"agent", "gateway", "prometheus", "alertmanager"}
    volumes = yaml.safe_load(text("compose.yaml"))["volumes"]
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        for source, target, *_ in (volume.split(":") for volume in service["volumes"]):
            assert (FOLDER / source).exists() if source.startswith(".") else source in volumes
            named = target in str(service["command"]) or any(target in text(file) for file in FILES)
            assert named or target == "/etc/prometheus/rules"
    version = yaml.safe_load(text("builder.yaml"))["dist"]["version"]
    assert services["agent"]["image"] == services["gateway"]["image"]
    assert services["agent"]["image"].endswith(f":{version}")


def test_alerts_go_where_somebody_is() -> None:
    """Every severity of the rules has a receiver, and Alertmanager's own check agrees where it is installed."""
    found = yaml.safe_load(text("alertmanager.yml"))
    receivers = {receiver["name"] for receiver in found["receivers"]}
    routes = [found["route"], *found["route"]["routes"]]
    assert {route["receiver"] for route in routes} == receivers
    severities = set(re.findall(r"severity: (\w+)", text("rules/forge.rules.yml"))) - {"page"}
    assert severities == {"ticket"}
    assert 'severity="page"' in str(found["route"]["routes"])
    alerts = set(re.findall(r"alert: (\w+)", text("rules/forge.rules.yml")))
    assert set(re.findall(r'alertname!?="(\w+)"', text("alertmanager.yml"))) <= alerts
    if checker := shutil.which("amtool"):
        subprocess.run([checker, "check-config", FOLDER / "alertmanager.yml"], check=True, capture_output=True)
