"""The generated pages are those that are checked in, and what they say is what happens."""

import re
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.parser import text_string_to_metric_families
from scripts import docs

from forge_otel import errors
from forge_otel.errors import CircuitOpen, ForgeError, NotFound, Overloaded
from forge_otel.names import CATALOG, Attr, Instrument
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry
from forge_otel.web.problems import problem_of

# Programs rely on these. A line may be added; changing or removing one breaks clients.
CODES = {
    "BadRequest": "bad_request",
    "BudgetExceeded": "budget_exceeded",
    "CircuitOpen": "circuit_open",
    "ConfigurationError": "configuration",
    "DamagedRecord": "damaged_record",
    "FetchInProgress": "fetch_in_progress",
    "ForgeError": "internal",
    "GenerationFailed": "generation_failed",
    "GenerationTimeout": "generation_timeout",
    "MissingExtra": "missing_extra",
    "NotFound": "not_found",
    "NotOpen": "not_open",
    "Overloaded": "overloaded",
    "PayloadTooLarge": "payload_too_large",
    "Refused": "archive_refused",
    "Rejected": "rejected",
    "ServiceTimeout": "service_timeout",
    "ServiceUnavailable": "service_unavailable",
    "TooManyLogins": "too_many_logins",
    "Unauthorized": "unauthorized",
}
KINDS = list(docs.error_classes())
OF_THE_TREE = [kind for kind in KINDS if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("path", docs.PAGES, ids=lambda path: path.name)
def test_the_page_is_the_one_that_the_code_makes(path: Path) -> None:
    """After a change of errors, names or settings: .venv/bin/python scripts/docs.py."""
    assert path.read_text(encoding="utf-8") == docs.PAGES[path](), f"run scripts/docs.py to write {path.name} anew"


def test_codes_are_stable() -> None:
    """No code of an error is ever renamed, and a new error is put on the list."""
    assert {kind.__name__: kind.code for kind in KINDS} == CODES


def test_codes_are_unique() -> None:
    """A code names one error, so no class inherits that of its parent."""
    assert [code for code, count in Counter(kind.code for kind in KINDS).items() if count > 1] == []


@pytest.mark.parametrize("kind", OF_THE_TREE, ids=lambda kind: kind.__name__)
def test_every_error_says_what_to_do(kind: type[ForgeError]) -> None:
    """One plain sentence of its own: it begins with a verb in capitals and ends with a full stop."""
    assert re.fullmatch(r"[A-Z][a-z]+ [^.]+\.", vars(kind)["remedy"].replace("retry_after_s", ""))
    assert len(kind.remedy) <= 100


def test_the_tree_of_the_module_is_the_real_one() -> None:
    """The docstring of errors.py draws every class with its status, below its parent."""
    tree = (errors.__doc__ or "").split("\n\n")[1]
    lines = re.findall(r"^((?:│   |    )*)([├└]── )?(\w+)(?: +(\d{3}))?", tree, re.MULTILINE)
    drawn = [(name, len(bars) // 4 + bool(branch), int(status or 500)) for bars, branch, name, status in lines]
    assert drawn == [(kind.__name__, kind.__mro__.index(ForgeError), kind.status) for kind in OF_THE_TREE]


@pytest.mark.parametrize(
    "kind", [kind for kind in OF_THE_TREE if docs.retry_after(kind)], ids=lambda kind: kind.__name__
)
def test_an_error_that_may_pass_takes_the_time_that_it_takes(kind: type[ForgeError]) -> None:
    """Where the catalog speaks of `retry_after_s`, the answer can carry it."""
    response = problem_of(kind("openai", retry_after_s=4.2))
    assert response.headers["retry-after"] == "5"
    assert b'"retry_after_s":4.2' in response.body


def test_the_catalog_knows_when_to_try_again() -> None:
    """A breaker always knows, a service may, and time does not bring back what does not exist."""
    assert [docs.retry_after(kind) for kind in (CircuitOpen, Overloaded, NotFound)] == ["always", "where known", ""]


def test_answers_stay_small() -> None:
    """The general advice is in the catalog only: the message says it for the case at hand."""
    assert NotFound.remedy.encode() not in problem_of(NotFound("nothing is archived under 'x'")).body


async def test_the_metrics_page_has_the_printed_names() -> None:
    """A scrape with every instrument recorded once shows exactly the names and labels of the docs."""
    found = await scraped_with_everything()
    wanted = {
        name: {docs.prometheus_label(attribute) for attribute in item.attributes}
        for item in CATALOG
        for name in docs.sample_names(item)
    }
    assert found == wanted


def test_a_unit_without_a_rule_is_refused() -> None:
    """The generator guesses no name."""
    with pytest.raises(ValueError, match="UNIT_SUFFIXES"):
        docs.prometheus_name(Instrument(name="a.b", kind="counter", unit="ms", description=""))


def test_our_own_attributes_have_a_meaning() -> None:
    """Attributes outside the conventions are explained."""
    _, conventional = docs.attributes()
    assert [name for name in conventional if name.startswith(("forge.", "cache.")) or "." not in name] == []
    assert set(docs.MEANINGS) <= {value for value in vars(Attr).values() if isinstance(value, str)}


def test_every_setting_is_described() -> None:
    """Each field of the settings is in the table with what it means."""
    rows = list(docs.settings())
    assert [row[0] for row in rows] == [f"`FORGE_{name.upper()}`" for name in Settings.__dataclass_fields__]
    assert all(meaning for _, _, meaning in rows)


@pytest.mark.parametrize("path", docs.PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Links within the repository name files that exist."""
    links = re.findall(r"\]\(([^)]+)\)", docs.PAGES[path]())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


async def scraped_with_everything() -> dict[str, set[str]]:
    """Sample names and their labels on the library's own page, `le` left out."""
    meters, tracers = MeterProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    telemetry = Telemetry(Settings(), tracer_provider=tracers, meter_provider=meters)
    telemetry.start()
    for item in CATALOG:
        point = dict.fromkeys(item.attributes, "x")
        if item.kind.startswith("observable"):
            telemetry.instruments.observe(item, partial(list, [(1, point)]))
        else:
            telemetry.instruments.record(item, 1, point)
    page, _ = await telemetry.prometheus.render()
    telemetry.shutdown()
    meters.shutdown()
    tracers.shutdown()
    families = text_string_to_metric_families(page.decode())
    samples = [sample for family in families if family.name != "target_info" for sample in family.samples]
    return {sample.name: set(sample.labels) - {"le"} for sample in samples}


DOCUMENTS = sorted(
    [*docs.ROOT.glob("*.md"), *(docs.ROOT / "docs").rglob("*.md"), *(docs.ROOT / "collector").rglob("*.md")]
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(docs.ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    """A link within the repository names a file or folder."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_the_architecture_page_names_files_that_exist() -> None:
    """Paths in backticks are relative to the package, to the repository, or to the folder named before them."""
    text = (docs.DOCS / "architecture.md").read_text(encoding="utf-8")
    roots = [docs.ROOT, docs.SOURCE / "forge_otel"]
    missing = []
    for line in text.splitlines():
        named = re.findall(r"`([\w/]+\.py)`", line)
        folders = [root / Path(name).parent for root in roots for name in named]
        missing += [name for name in named if not any((folder / name).exists() for folder in [*roots, *folders])]
    assert missing == []
