"""Writes docs/errors.md and docs/metrics.md from the code: run it after a change of errors, names or settings.

    .venv/bin/python scripts/docs.py

tests/test_docs.py fails while a page that is checked in differs from what this would write.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path

from forge_otel import errors
from forge_otel.errors import ForgeError
from forge_otel.names import CATALOG, Attr, Instrument
from forge_otel.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
DOCS = ROOT / "docs"

NOTICE = "<!-- Written by scripts/docs.py. Do not edit: change the code, then run the script. -->"
ERRORS_INTRO = """\
The errors of forge-otel are subclasses of `ForgeError`. Raised inside a request, an error becomes an
`application/problem+json` response ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)): `status`, `title` and `code`
as in the table, `type` is `urn:problem:forge-otel:<code>`, `detail` describes the case and the recommended action, and
`trace_id` identifies the trace and the log lines. A `code` never changes its meaning; programs should compare it and
not the text.

*What to do* is the class attribute `remedy`. It is not part of the response, whose `detail` is about the case at hand.
If the time is known, the response has `retry_after_s`, and the header `Retry-After` in whole seconds."""
ERRORS_OUTRO = """\
## Responses without a class

| code | HTTP status | sent by |
|---|---|---|
| `internal` | 500 | the middleware with `handle_errors=True`, for any other exception of the application |
| `method_not_allowed` | 405 | our own routes, and `install_problem_handlers` |
| `invalid_json` | 400 | `install_problem_handlers`: the body is not JSON; `detail` has the position |
| `invalid_request` | 422 | `install_problem_handlers`: fields are wrong; `errors` lists them |
| the status phrase, as in `conflict` | its own | `install_problem_handlers`: any other `HTTPException` |"""
METRICS_INTRO = """\
All instruments are recorded with the OpenTelemetry SDK under the scope `forge_otel`. On `/metrics` they have the names
of the second column; labels are the attributes with `_` for each `.`. A histogram `x` consists of `x_bucket`, `x_sum`
and `x_count`. A series begins with its first point, so that an alert on a counter must also match a new series, as
those in [collector/rules/forge.rules.yml](../collector/rules/forge.rules.yml) do."""
ATTRIBUTES_INTRO = """\
Attributes of our spans and metrics; those that metrics have are listed with their label."""
CONVENTIONS_INTRO = """\
These attributes are defined by the conventions:
[HTTP and general](https://opentelemetry.io/docs/specs/semconv/),
[GenAI](https://github.com/open-telemetry/semantic-conventions-genai)."""
SETTINGS_INTRO = """\
Each variable `FORGE_X` is the field `x` of `Settings`. An empty value switches an optional feature off, lists are
separated by commas, and prices are JSON: `{"model": {"input_usd": "2.5", "output_usd": "10"}}`, USD per million tokens.
`OTEL_*` and `LANGSMITH_*` variables keep the meaning that OpenTelemetry and LangSmith give them."""

MEANINGS: Mapping[str, str] = {
    Attr.COMPONENT_TYPE: "type of the generated component; on metrics the 21st and later ones become `_other`",
    Attr.COMPONENT_ID: "id of the component that the artifacts belong to",
    Attr.GENERATION_ID: "id of the generation, as in the database",
    Attr.GENERATION_ORIGIN: "id of the generation that filled the cache entry of a hit",
    Attr.GENERATION_KEY: "cache key, a SHA-256",
    Attr.PIPELINE_VERSION: "version of the pipeline",
    Attr.OUTCOME: "outcome: of a generation `ok`, `error`, `timeout`, `cancelled`; of a guarded call `success`, "
    "`failure`, `ignored`, `rejected`; of a retry `retried`, `exhausted`",
    Attr.DEGRADED: "fallbacks used, as `<service>:<fallback>`",
    Attr.COST_USD: "cost of the generation, USD",
    Attr.SAVED_USD: "recorded cost of the generation that a cache hit replaced, USD",
    Attr.CACHE_AGE_S: "seconds since the cached response was last validated",
    Attr.FIGMA_FILE: "key of a Figma file; on metrics the 51st and later ones become `_other`",
    Attr.FIGMA_EVENT: "type of a Figma webhook event, as named by Figma",
    Attr.BUDGET_SCOPE: "scope of the decisive limit: `all`, `tenant`, `user`, `session`",
    Attr.SPAN_KIND: "type of the span: `agent`, `tool`, `step` …",
    Attr.STEP_NAME: "name of the step",
    Attr.INPUT_SIZE: "estimated size of the arguments, bytes",
    Attr.OUTPUT_SIZE: "estimated size of the result or of the yielded chunks, bytes",
    Attr.CHUNKS: "number of chunks that a generator yielded",
    Attr.FIRST_CHUNK_S: "seconds to the first chunk of a generator",
    Attr.INPUT: "the arguments as JSON, redacted; only with `FORGE_CAPTURE_CONTENT=1`",
    Attr.OUTPUT: "the result as JSON, redacted; only with `FORGE_CAPTURE_CONTENT=1`",
    Attr.SAMPLING_REASON: "on the root span of a request or job, the reason for keeping its trace: `error`, "
    "`fallback`, `expensive`, `slow`, `rate`, `upstream` (the caller keeps it), `trace` (another part of it is kept); "
    "absent if every trace is kept",
    Attr.CACHE_SIMILARITY: "cosine similarity between the request and the one whose result L2 returned",
    Attr.PATTERN_ID: "id of the pattern that L3 looked up",
    Attr.CACHE_LAYER: "layer that answered: `L1` … for a cache, `L4` for the pipeline, `none` for a failure",
    Attr.CACHE_RESULT: "result of a lookup in one layer: `hit`, `miss`, `error`",
    Attr.CACHE_OUTCOME: "result of a generation over all layers: `hit`, `miss`, `error`",
    Attr.CACHE_OPERATION: "operation of the store: `get`, `set` …",
    Attr.CACHE_MISS_REASON: "reason of a miss: `cold`, `content`, `tokens`, `requirements`, `pattern`, "
    "`version`, `epoch` (invalidated), `expired`, `evicted`, `not_serialisable` and "
    "`too_large` (the earlier answer was not stored), `corrupt`, `backend_down` … ; "
    "on spans the name is followed by `.` and the layer",
    Attr.CACHE_STORE_SKIPPED: "reason why a result was not stored in the cache",
    Attr.FLIGHT_SCOPE: "process of the generation that a call waited for: `process` (this one), `other_process`",
    Attr.TENANT: "tenant, set by the application",
    Attr.GEN_AI_COST_USD: "cost of a model call, USD; absent if the price is unknown",
    Attr.TOKEN_TYPE: "disjoint type of billed tokens",
    Attr.BREAKER_NAME: "name of the guarded service",
    Attr.BREAKER_STATE: "`closed`, `open`, `half_open`",
    Attr.FALLBACK: "name of the fallback",
    Attr.BREAKER_FROM: "previous state of the breaker",
    Attr.BREAKER_TO: "new state of the breaker",
    Attr.DATABASE_TABLE: "database table: `generations`, `costs`, `cache_stats`, `rollups`",
    Attr.DESTINATION: "destination of spans: `langsmith` or `otlp`",
    Attr.TASK_NAME: "background task, for example `forge-outbox-database`",
    Attr.OUTBOX_SINK: "sink of records: `archive`, `database`, `recent` …",
    Attr.REASON: "reason: of a dropped record `full`, `rejected`, `damaged`, `disk`, `shutdown`, `closed`; "
    "of a changed metric `exponential`, `type_conflict`, `bounds_conflict`",
    Attr.VERSION: "version of forge-otel",
}
"""Meanings of our own attributes; the conventions describe all others."""

UNIT_SUFFIXES = {"s": "_seconds", "By": "_bytes", "{token}/s": "_per_second"}


def main() -> None:
    """Write every page."""
    for path, make in PAGES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(make(), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


def errors_page() -> str:
    """Return the catalog of errors."""
    header = ("code", "HTTP status", "title", "what it means", "what to do", "`retry_after_s`")
    kinds = list(error_classes())
    rows = [
        (f"`{kind.code}`", str(kind.status), kind.title, meaning_of(kind), remedy_of(kind), retry_after(kind))
        for kind in kinds
    ]
    tree = "\n".join(drawn(ForgeError))
    return page("Errors", ERRORS_INTRO, table(header, rows), f"## The tree\n\n```text\n{tree}\n```", ERRORS_OUTRO)


def metrics_page() -> str:
    """The metrics, attributes and environment variables."""
    metrics = table(
        ("OpenTelemetry name", "Prometheus name", "kind", "unit", "attributes", "description"),
        [
            (
                f"`{item.name}`",
                f"`{prometheus_name(item)}`",
                item.kind.replace("_", " "),
                f"`{item.unit}`" if item.unit else "",
                ", ".join(f"`{name}`" for name in item.attributes),
                item.description,
            )
            for item in CATALOG
        ],
    )
    buckets = table(
        ("histogram", "upper bounds of its buckets"),
        [(f"`{item.name}`", ", ".join(f"{bound:.12g}" for bound in item.bounds)) for item in CATALOG if item.bounds],
    )
    ours, conventional = attributes()
    return page(
        "Metrics, attributes and settings",
        f"## Metrics\n\n{METRICS_INTRO}",
        metrics,
        "### Buckets",
        buckets,
        f"## Attributes\n\n{ATTRIBUTES_INTRO}",
        table(("attribute", "label", "meaning"), [(f"`{name}`", label(name), MEANINGS[name]) for name in ours]),
        f"### Of the OpenTelemetry conventions\n\n{CONVENTIONS_INTRO}",
        table(("attribute", "label"), [(f"`{name}`", label(name)) for name in conventional]),
        f"## Environment variables\n\n{SETTINGS_INTRO}",
        table(("variable", "default", "meaning"), settings()),
    )


PAGES: Mapping[Path, Callable[[], str]] = {DOCS / "errors.md": errors_page, DOCS / "metrics.md": metrics_page}


def error_classes(root: type[ForgeError] = ForgeError) -> Iterator[type[ForgeError]]:
    """`root` and every class of the library below it, depth first."""
    yield root
    for child in children(root):
        yield from error_classes(child)


def children(kind: type[ForgeError]) -> list[type[ForgeError]]:
    """The classes of the library right below `kind`: those of errors.py as they stand there, then others by name."""
    import_errors()
    found = [child for child in kind.__subclasses__() if child.__module__.split(".")[0] == "forge_otel"]
    own = [child for child in found if child.__module__ == errors.__name__]
    return own + sorted(set(found) - set(own), key=lambda child: (child.__module__, child.__name__))


@functools.cache
def import_errors() -> None:
    """Import the modules that define errors outside of errors.py, so that the tree knows of them."""
    names = "|".join(name for name in errors.__all__ if name != "needs")
    for path in sorted(SOURCE.rglob("*.py")):
        if re.search(rf"^class \w+\((?:[^)]*\W)?(?:{names})\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def meaning_of(kind: type[ForgeError]) -> str:
    """The first paragraph of the docstring, as Markdown."""
    return as_markdown((inspect.getdoc(kind) or "").split("\n\n")[0])


def remedy_of(kind: type[ForgeError]) -> str:
    """Return the remedy of a class; one inherited from its parent would not fit."""
    return kind.remedy if "remedy" in vars(kind) else "Do what the message says."


def retry_after(kind: type[ForgeError]) -> str:
    """Return when the error has `retry_after_s`."""
    parameter = inspect.signature(kind).parameters.get("retry_after_s")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        return "always"
    return "where known" if kind.status in {429, 503} else ""


def drawn(kind: type[ForgeError], before: str = "") -> Iterator[str]:
    """The lines of the tree below and with `kind`."""
    if not before:
        yield kind.__name__
    below = children(kind)
    for child in below:
        is_last = child is below[-1]
        status = "" if child.status == ForgeError.status else f"  {child.status}"
        elsewhere = "" if child.__module__ == errors.__name__ else f"  ({child.__module__})"
        yield f"{before}{'└──' if is_last else '├──'} {child.__name__}{status}{elsewhere}"
        yield from drawn(child, before + ("    " if is_last else "│   "))


def prometheus_name(item: Instrument) -> str:
    """The name on the metrics page, by the rules of opentelemetry-exporter-prometheus; a histogram's without suffix."""
    unit = UNIT_SUFFIXES.get(item.unit, "")
    if not unit and item.unit and not re.fullmatch(r"\{.*\}", item.unit):
        raise ValueError(f"{item.name} has the unit {item.unit!r}; add it to UNIT_SUFFIXES")
    name = re.sub(r"[^a-zA-Z0-9:]+", "_", item.name)
    is_counter = item.kind in {"counter", "observable_counter"}
    return name.removesuffix(unit) + unit + ("_total" if is_counter else "")


def sample_names(item: Instrument) -> tuple[str, ...]:
    """Every name that the samples of an instrument have on the metrics page."""
    name = prometheus_name(item)
    return tuple(name + end for end in ("_bucket", "_sum", "_count")) if item.kind == "histogram" else (name,)


def prometheus_label(attribute: str) -> str:
    """The label that an attribute becomes."""
    return re.sub(r"[^a-zA-Z0-9]+", "_", attribute)


def label(attribute: str) -> str:
    """The label of an attribute that metrics have, else nothing."""
    is_on_metrics = any(attribute in item.attributes for item in CATALOG)
    return f"`{prometheus_label(attribute)}`" if is_on_metrics else ""


def attributes() -> tuple[list[str], list[str]]:
    """The attributes that some module uses: those of our own, and those of the conventions."""
    users = (path for path in SOURCE.rglob("*.py") if path.parent.name != "names")
    code = "\n".join(path.read_text(encoding="utf-8") for path in users)
    used = set(re.findall(r"\bAttr\.([A-Z_]+)\b", code))
    names = [value for key, value in vars(Attr).items() if key in used]
    own = [name for name in names if name in MEANINGS]
    return own, [name for name in names if name not in MEANINGS]


def settings() -> Iterator[tuple[str, str, str]]:
    """Variable, default and meaning of every setting."""
    described = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", inspect.getdoc(Settings) or "", re.MULTILINE)
    meanings = {name: as_markdown(text) for name, text in described}
    for item in fields(Settings):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        # None in code is an empty variable in the environment.
        meaning = re.sub(r"\bNone\b", "empty", meanings[item.name]).rstrip(".")
        yield f"`{PREFIX}{item.name.upper()}`", shown(item.name, default), meaning


def shown(name: str, default: object) -> str:
    """A default as one would write it in the environment."""
    if isinstance(default, bool):
        return f"`{int(default)}`"
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, int) and name.endswith("_bytes"):
        return f"`{default}` ({default / 2**20:g} MiB)"
    return f"`{default}`"


def as_markdown(text: str) -> str:
    """A paragraph of a docstring on one line."""
    return " ".join(text.split()).replace("``", "`")


def page(title: str, *blocks: str) -> str:
    """A page in Markdown."""
    return "\n\n".join([NOTICE, f"# {title}", *blocks]) + "\n"


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
