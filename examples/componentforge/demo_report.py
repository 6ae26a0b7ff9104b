"""The demo's closing table, and the comparison of the caller's figures with database, metrics and archive."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from componentforge.settings import ServiceSettings
from componentforge.workload import DAY

__all__ = ["Audit", "print_report"]

_CENT = Decimal("0.01")
_LAYERS = ("L1", "L2", "L3", "collapsed", "L4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one run, as counted by one source: the caller, the database or the metrics."""

    generations: int
    errors: int
    by_source: Mapping[str, int]
    cost_usd: Decimal
    saved_usd: Decimal

    def differences(self, other: "Figures", name: str) -> list[str]:
        """Return a sentence for each figure that differs in `other`; money is compared to the cent."""
        pairs: dict[str, tuple[Any, Any]] = {
            "generations": (self.generations, other.generations),
            "errors": (self.errors, other.errors),
            "hits by layer": (dict(self.by_source), dict(other.by_source)),
            "cost": (self.cost_usd.quantize(_CENT), other.cost_usd.quantize(_CENT)),
            "saved": (self.saved_usd.quantize(_CENT), other.saved_usd.quantize(_CENT)),
        }
        return [
            f"{figure}: {ours} at the caller, {theirs} in {name}"
            for figure, (ours, theirs) in pairs.items()
            if ours != theirs
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Figures of the run, and their differences between the sources.

    Args:
        figures: as counted by the caller.
        full_s, cached_s: recorded durations of full and cached generations in seconds, ascending.
        bundles: number of component folders in the archive.
        day_hit_rate: combined hit rate of the day, as defined in the workload file.
        sample_trace_id: trace of the first full generation.
        differences: one sentence per difference.
    """

    figures: Figures
    full_s: Sequence[float]
    cached_s: Sequence[float]
    bundles: int
    day_hit_rate: float
    sample_trace_id: str
    differences: Sequence[str]

    @property
    def agrees(self) -> bool:
        """Return whether all sources have the same figures and no request failed."""
        return not self.differences and not self.figures.errors

    @classmethod
    async def of(cls, answers: Sequence[Mapping[str, Any]], *, database: Any, archive: Any, page: str) -> Self:
        """Compare the caller's responses with database, metrics and archive.

        Args:
            answers: response bodies, each with its ``status`` and the ``number`` of its request.
            database: the open SQL sink.
            archive: the open archive.
            page: the metrics page in Prometheus text format.
        """
        answered = [answer for answer in answers if answer["status"] == 200]
        seen = Figures(
            generations=len(answers),
            errors=len(answers) - len(answered),
            by_source=Counter(answer["source"] for answer in answered),
            cost_usd=sum((Decimal(answer["cost_usd"]) for answer in answered), Decimal(0)),
            saved_usd=sum((Decimal(answer["saved_usd"]) for answer in answered), Decimal(0)),
        )
        rows = await _rows(database)
        recorded = _recorded(rows)
        differences = seen.differences(recorded, "the database")
        differences += seen.differences(_counted(page), "the metrics")
        differences += await _archived(answered, archive)
        bundles = {answer["component_id"] for answer in answered}
        full = [answer for answer in answered if answer["source"] == "L4"]
        return cls(
            figures=seen,
            full_s=sorted(row["duration_s"] for row in rows if row["source"] == "L4"),
            cached_s=sorted(row["duration_s"] for row in rows if row["source"] in {"L1", "L2", "L3"}),
            bundles=len(bundles),
            day_hit_rate=_hit_rate([answer for answer in answered if answer["number"] < DAY]),
            sample_trace_id=full[0]["trace_id"] if full else "",
            differences=differences,
        )


def _hit_rate(answered: Sequence[Mapping[str, Any]]) -> float:
    hits = [answer for answer in answered if answer["source"] != "L4"]
    return len(hits) / max(1, len(answered))


async def _rows(database: Any) -> list[dict[str, Any]]:
    query = text("SELECT id, source, outcome, duration_s, cost_nano_usd, saved_nano_usd FROM generations")
    async with database.engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]


def _recorded(rows: Sequence[Mapping[str, Any]]) -> Figures:
    return Figures(
        generations=len(rows),
        errors=sum(row["outcome"] != "ok" for row in rows),
        by_source=Counter(row["source"] for row in rows if row["outcome"] == "ok"),
        cost_usd=Decimal(sum(row["cost_nano_usd"] for row in rows)).scaleb(-9),
        saved_usd=Decimal(sum(row["saved_nano_usd"] for row in rows)).scaleb(-9),
    )


def _counted(page: str) -> Figures:
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def total(name: str, **labels: str) -> float:
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    layers = {sample.labels["cache_layer"] for sample in samples if sample.name == "forge_cache_lookups_total"}
    by_source = {layer: int(total("forge_cache_lookups_total", cache_layer=layer)) for layer in layers - {"none"}}
    return Figures(
        generations=int(total("forge_cache_lookups_total")),
        errors=int(total("forge_cache_lookups_total", cache_outcome="error")),
        by_source=by_source,
        cost_usd=Decimal(repr(total("forge_genai_cost_usd_total"))),
        saved_usd=Decimal(repr(total("forge_genai_cost_saved_usd_total"))),
    )


async def _archived(answered: Iterable[Mapping[str, Any]], archive: Any) -> list[str]:
    """Compare every archived artifact with the response by SHA-256, and return a sentence per difference."""
    differences = []
    expected_digests: dict[str, str] = {}
    for answer in answered:
        for name, content in answer["artifacts"].items():
            folder = "reports" if name == "quality-report.html" else "components"
            expected_digests[f"{folder}/{answer['component_id']}/{name}"] = hashlib.sha256(content.encode()).hexdigest()
    for key, expected in expected_digests.items():
        if hashlib.sha256(await archive.read(key)).hexdigest() != expected:
            differences.append(f"{key}: the archived content differs from the response")
    return differences


def print_report(console: Console, audit: Audit, service: ServiceSettings, *, scale: float) -> None:
    """Print the closing table.

    Args:
        console: the terminal.
        audit: figures and differences.
        service: tells whether the offline model ran.
        scale: speed-up of the offline model compared with a real one.
    """
    figures = audit.figures
    table = Table(title="Result of the workload", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("generations", f"{figures.generations}")
    for layer in _LAYERS:
        if count := figures.by_source.get(layer, 0):
            share = count / figures.generations
            table.add_row(f"  {_describe(layer)}", f"{count}  ({share:.0%})")
    table.add_row(f"combined hit rate of the first {DAY}", f"{audit.day_hit_rate:.0%}")
    table.add_row("full generation p50 / p95", _pair(audit.full_s))
    table.add_row("cached p50 / p95", _pair(audit.cached_s))
    table.add_row("cost", f"${figures.cost_usd.quantize(_CENT)}")
    table.add_row("saved", f"${figures.saved_usd.quantize(_CENT)}")
    table.add_row("errors", f"{figures.errors}")
    table.add_row("artifact folders", f"{audit.bundles}")
    console.print()
    console.print(table)
    if service.is_offline:
        console.print(
            f"[yellow]Offline model:[/] no language model ran. Its latencies are those of a real one divided by "
            f"{scale:g} (multiply by {scale:g} to compare), and its tokens are priced at the list price of gpt-4.1."
        )
    if audit.differences:
        for difference in audit.differences:
            console.print(f"[red]difference:[/] {difference}", markup=True)
    else:
        console.print("[green]The caller, the database, /metrics and the artifact folder agree.[/]")


def _describe(layer: str) -> str:
    names = {"L1": "L1 exact", "L2": "L2 semantic", "L3": "L3 pattern", "L4": "L4 full generation"}
    return names.get(layer, layer)


def _pair(ordered_s: Sequence[float]) -> str:
    if not ordered_s:
        return "-"
    p50, p95 = (ordered_s[max(1, math.ceil(share * len(ordered_s))) - 1] for share in (0.50, 0.95))
    return f"{_duration(p50)} / {_duration(p95)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
