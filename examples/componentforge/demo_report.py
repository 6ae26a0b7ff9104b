"""What the demo's run came to, counted three times: by the caller, by the database and by the metrics."""

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
    """The same figures, whoever counted them.

    Args:
        by_source: who answered, to how many.
        artifacts: files of the answered generations, each once.
    """

    generations: int
    errors: int
    by_source: Mapping[str, int]
    cost_usd: Decimal
    saved_usd: Decimal

    def differences(self, other: "Figures", name: str) -> list[str]:
        """Return a sentence for each figure that `other` has another value for; money is compared to the cent."""
        pairs: dict[str, tuple[Any, Any]] = {
            "generations": (self.generations, other.generations),
            "errors": (self.errors, other.errors),
            "hits by layer": (dict(self.by_source), dict(other.by_source)),
            "cost": (self.cost_usd.quantize(_CENT), other.cost_usd.quantize(_CENT)),
            "saved": (self.saved_usd.quantize(_CENT), other.saved_usd.quantize(_CENT)),
        }
        return [f"{what}: {ours} here, {theirs} in {name}" for what, (ours, theirs) in pairs.items() if ours != theirs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The figures of the run, and where they disagree.

    Args:
        full_s, cached_s: durations of the generations as recorded, ascending.
        bundles: folders in the archive.
        day_hit_rate: the combined hit rate of the day, as the workload's file defines it.
        sample_trace_id: of the first full generation, which no pattern can have helped with.
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
        """Whether everybody counted the same, and nothing failed."""
        return not self.differences and not self.figures.errors

    @classmethod
    async def of(cls, answers: Sequence[Mapping[str, Any]], *, database: Any, archive: Any, page: str) -> Self:
        """Compare what the caller got with what was recorded, counted and archived.

        Args:
            answers: the bodies of all responses, with their ``status`` and the ``number`` of the request.
            database: the open SQL sink.
            archive: the open archive.
            page: the metrics in Prometheus' text format.
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
    """Read every artifact back and compare it with the answer, byte for byte."""
    faults = []
    wanted: dict[str, str] = {}
    for answer in answered:
        for name, content in answer["artifacts"].items():
            room = "reports" if name == "quality-report.html" else "components"
            wanted[f"{room}/{answer['component_id']}/{name}"] = hashlib.sha256(content.encode()).hexdigest()
    for key, expected in wanted.items():
        if hashlib.sha256(await archive.read(key)).hexdigest() != expected:
            faults.append(f"{key}: the archive holds something else than was answered")
    return faults


def print_report(console: Console, audit: Audit, service: ServiceSettings, *, scale: float) -> None:
    """Print the table.

    Args:
        scale: how many times faster than a real model the offline one answers.
    """
    figures = audit.figures
    table = Table(title="What the workload came to", show_header=False, title_justify="left")
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
            f"{scale:g} (multiply by {scale:g} to compare), and its tokens are priced as gpt-4.1 lists them."
        )
    if audit.differences:
        for difference in audit.differences:
            console.print(f"[red]disagrees:[/] {difference}", markup=True)
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
