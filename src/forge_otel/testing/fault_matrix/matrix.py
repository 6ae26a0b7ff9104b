"""Fault matrix: the promises of a service for each dependency and each fault, and their check.

::

    cell = Cell(dependency="redis", fault="silent", injection="it never responds", expected="…", added_p99_s=0.05)
    async with Load(request_known) as known, Load(request_new, rate_per_s=2) as new:
        result = await exercise([known, new], proxy.fault(Silent()), observe=observe, has_recovered=has_recovered)
    assert not violations(cell, result)

`render` writes the matrix as a Markdown page.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from forge_otel.errors import ConfigurationError
from forge_otel.testing.fault_matrix.exercise import ExerciseResult
from forge_otel.testing.fault_matrix.load import RequestResult, percentile

__all__ = ["TOLERANCE_S", "Cell", "render", "timing_violations", "violations"]

TOLERANCE_S: Final = 0.01
"""Seconds by which a latency may exceed its limit."""

# With fewer healthy results the 99th percentile is a single value.
_MIN_HEALTHY_RESULTS: Final = 20
# httpx's exception for a closed port; a request that was in flight when the process died ends with another one.
_CLOSED_PORT: Final = "ConnectError"
_OUTCOMES: Final = {
    "answered": "answered",
    "degraded": "answered without it",
    "refused": "refused clearly",
    "n/a": "n/a",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The promise for one dependency that fails in one way.

    Args:
        dependency: the failing dependency.
        fault: short name of the fault.
        injection: how the test injects the fault, in a sentence.
        expected: what callers see, in a sentence; for `n/a` the reason.
        restarts_service: True if the fault restarts the service itself; its closed port is then no violation.
        outcome: `answered`: as without the fault; `degraded`: answered without the dependency; `refused`: requests
            that require the dependency get a clear error and all others are answered; `n/a`: the fault does not exist.
        max_error_rate: the fraction of failed requests, without refusals, must be below it.
        added_p99_s: seconds that the fault may add to the 99th percentile of latencies. If only some loads require
            the dependency, it applies to these, and 0 to the rest.
        refused_within_s: longest latency of a refusal in seconds.
        recovery_s: longest time from the end of the fault to the recovery in seconds.
        warnings: warnings that an operator sees during the fault.
        degraded: labels in the field `degraded` of the records that were written during the fault.

    Raises:
        ConfigurationError: `refused_within_s` is missing for the outcome `refused`, or given for another one.
    """

    dependency: str
    fault: str
    injection: str = ""
    expected: str
    restarts_service: bool = False
    outcome: Literal["answered", "degraded", "refused", "n/a"] = "answered"
    max_error_rate: float = 0.01
    added_p99_s: float = 0.0
    refused_within_s: float | None = None
    recovery_s: float = 10.0
    warnings: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.outcome == "refused") != (self.refused_within_s is not None):
            raise ConfigurationError([f"{self.name}: refused_within_s is required for the outcome 'refused' only"])

    @property
    def name(self) -> str:
        """The id of the cell, for tests."""
        return f"{self.dependency}-{self.fault}".replace(" ", "_")


def violations(cell: Cell, result: ExerciseResult) -> tuple[str, ...]:
    """Return a sentence for each way in which `result` breaks the promise of `cell`."""
    return (*_response_violations(cell, result), *_warning_violations(cell, result), *timing_violations(cell, result))


def _response_violations(cell: Cell, result: ExerciseResult) -> list[str]:
    found = []
    refusable = cell.dependency if cell.outcome == "refused" else ""
    affected = tuple(one for one in (*result.failing, *result.recovering) if not _met_closed_port(cell, one))
    for phase, results in (("during the fault and the recovery", affected), ("after the recovery", result.recovered)):
        due = [one for one in results if results is result.recovered or refusable not in one.requires]
        failed = [one for one in due if not one.is_success]
        if not due or len(failed) >= cell.max_error_rate * len(due):
            found.append(f"{phase} {len(failed)} of {len(due)} requests failed: {_kinds(failed)}")
    refused = [one for one in affected if refusable in one.requires and not one.is_success]
    if refusable and not any(one in refused for one in result.failing):
        # A fault that does not reach the service would pass every other check.
        found.append("no request was refused: check that the fault affects the service")
    if unclear := [one for one in refused if not one.is_clear_refusal]:
        found.append(f"{len(unclear)} of {len(refused)} refusals are not a clear 503: {_kinds(unclear)}")
    return found


def _met_closed_port(cell: Cell, result: RequestResult) -> bool:
    return cell.restarts_service and not result.status and result.code == _CLOSED_PORT


def timing_violations(cell: Cell, result: ExerciseResult) -> tuple[str, ...]:
    """Return the violated time limits; part of `violations`.

    On a shared machine, repeat a measurement that violates time limits only.
    """
    found = [*_slow_responses(cell, result), *_slow_refusals(cell, result)]
    if result.recovery_s is None:
        found.append(f"the service did not recover within {cell.recovery_s} s")
    elif result.recovery_s > cell.recovery_s:
        found.append(f"the service recovered after {result.recovery_s} s, the limit is {cell.recovery_s} s")
    return tuple(found)


def _slow_responses(cell: Cell, result: ExerciseResult) -> list[str]:
    found = []
    requires = {one.load: one.requires for one in result.failing}
    is_required_by_some = any(cell.dependency in dependencies for dependencies in requires.values())
    for load, dependencies in requires.items():
        is_required = cell.dependency in dependencies
        if is_required and cell.outcome == "refused":
            continue
        # A load that does without the dependency has no reason to wait if another load requires it.
        allowed_s = cell.added_p99_s if is_required or not is_required_by_some else 0.0
        added_s, limit_s = result.added_s(load), allowed_s + TOLERANCE_S + result.noise_s(load)
        is_measurable = is_required or len(result.latencies_s(load, healthy=True)) >= _MIN_HEALTHY_RESULTS
        if added_s > limit_s and is_measurable:
            found.append(
                f"the fault added {added_s:.3f} s to the 99th percentile of {load}, the limit is {limit_s:.3f} s"
            )
    return found


def _slow_refusals(cell: Cell, result: ExerciseResult) -> list[str]:
    refused = [one for one in result.failing if cell.dependency in one.requires]
    if cell.refused_within_s is None or not refused:
        return []
    slowest = max(refused, key=lambda one: one.latency_s)
    # The part of the request before the dependency takes as long as without the fault.
    limit_s = cell.refused_within_s + TOLERANCE_S + percentile(result.latencies_s(slowest.load, healthy=True), 0.99)
    if slowest.latency_s <= limit_s:
        return []
    return [f"a refusal took {slowest.latency_s:.3f} s, the limit is {limit_s:.3f} s"]


def _warning_violations(cell: Cell, result: ExerciseResult) -> list[str]:
    found = [f"the warning {name} was not shown" for name in cell.warnings if name not in result.warnings]
    found += [f"the warning {name} is still shown" for name in cell.warnings if name in result.after.warnings]
    found += [f"no record has the label {label}" for label in cell.degraded if label not in result.degraded]
    for view in (*result.during, result.after):
        found += [
            f"the counts of sink {sink} do not add up: {totals}"
            for sink, totals in view.sinks.items()
            if not totals.is_balanced
        ]
    return found


def _kinds(results: Collection[RequestResult]) -> str:
    return ", ".join(
        f"{count} x {status} {code}"
        for (status, code), count in Counter((one.status, one.code) for one in results).most_common(5)
    )


def render(cells: Sequence[Cell], results: Mapping[str, Sequence[str] | None]) -> str:
    """Return the matrix as Markdown: a table of all cells, and a section with the details of each dependency.

    Args:
        cells: in the order in which dependencies and faults appear.
        results: `violations` by name of the cell; a missing cell was not run.
    """
    dependencies, faults = (
        list(dict.fromkeys(values)) for values in ((c.dependency for c in cells), (c.fault for c in cells))
    )
    by_position = {(cell.dependency, cell.fault): cell for cell in cells}
    lines = [_row("", *faults), _row(*["---"] * (len(faults) + 1))]
    for dependency in dependencies:
        found = [by_position.get((dependency, fault)) for fault in faults]
        lines.append(_row(f"**{dependency}**", *("" if cell is None else _summary(cell, results) for cell in found)))
    for dependency in dependencies:
        own = [cell for cell in cells if cell.dependency == dependency]
        lines += ["", f"## {dependency[:1].upper()}{dependency[1:]}", "", *_details(own)]
    return "\n".join(lines) + "\n"


def _details(cells: Sequence[Cell]) -> list[str]:
    lines = [
        _row("fault", "injection", "what callers see", "limits", "warnings", "`degraded`"),
        _row(*["---"] * 6),
    ]
    lines += [
        _row(cell.fault, cell.injection, cell.expected, _limits(cell), _code(cell.warnings), _code(cell.degraded))
        for cell in cells
        if cell.outcome != "n/a"
    ]
    absent = [f"- {cell.fault}: not applicable. {cell.expected}" for cell in cells if cell.outcome == "n/a"]
    return [*lines, "", *absent] if absent else lines


def _summary(cell: Cell, results: Mapping[str, Sequence[str] | None]) -> str:
    if cell.outcome == "n/a":
        return "n/a"
    found = results.get(cell.name)
    mark = "not run" if found is None else "fails" if found else "passes"
    return f"{_OUTCOMES[cell.outcome]}: {mark}"


def _limits(cell: Cell) -> str:
    downtime = " without downtime" if cell.restarts_service else ""
    limits = [f"errors < {cell.max_error_rate:.0%}{downtime}", f"p99 + {cell.added_p99_s * 1000:.0f} ms"]
    if cell.refused_within_s is not None:
        limits.append(f"refused within {cell.refused_within_s:g} s")
    return ", ".join([*limits, f"recovers within {cell.recovery_s:g} s"])


def _code(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words) or "none"


def _row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"
