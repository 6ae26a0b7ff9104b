"""The fault matrix: what a service promises for each of its helpers and each way in which that may fail.

::

    cell = Cell(service="redis", fault="silent", made_by="answers never come", expected="…", added_p99_s=0.05, …)
    async with Load(ask_what_is_known) as known, Load(ask_something_new, rate_per_s=2) as fresh:
        outcome = await exercise([known, fresh], proxy.fault(Silent()), observe=look, has_recovered=is_well)
    assert not verdict(cell, outcome)

`render` makes a page of it.
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
"""What may be added to a request beyond its budget."""

# Answers of a load in health below which its 99th percentile says nothing.
_ENOUGH: Final = 20
# httpx's; what a request ends with that was on its way when the service died has other names.
_NOBODY_LISTENS: Final = "ConnectError"
_WORDS: Final = {"answered": "answered", "degraded": "answered without it", "refused": "refused clearly", "n/a": "n/a"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is promised for one helper that fails in one way.

    Args:
        service: the helper.
        fault: how it fails, in a word.
        made_by: how the test makes it fail.
        expected: what the caller sees, in a sentence; for `n/a` the reason why there is no such cell.
        restarts: whether the service itself is started again, and its absence, in which nobody accepts a connection, is
            not held against it.
        outcome: `answered` as ever, `degraded`: answered without the helper, `refused`: what needs the helper
            gets a clear error and everything else is answered, `n/a`: there is no such cell.
        max_error_rate: share of the requests that could be answered and were not must stay below it.
        added_p99_s: seconds that the fault may add to the 99th percentile of the answers; where some of the load needs
            the helper, to that load only, and nothing to the rest.
        refused_within_s: seconds after which a refusal must be there.
        recovery_s: seconds after the end of the fault within which all is as before, without a restart.
        signs: what an operator sees while the fault lasts, as `exercise` is told it by its `observe`.
        degraded: what the records of answers given meanwhile say under this name.

    Raises:
        ConfigurationError: a cell of refusals that does not say how soon.
    """

    service: str
    fault: str
    made_by: str = ""
    expected: str
    restarts: bool = False
    outcome: Literal["answered", "degraded", "refused", "n/a"] = "answered"
    max_error_rate: float = 0.01
    added_p99_s: float = 0.0
    refused_within_s: float | None = None
    recovery_s: float = 10.0
    signs: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.outcome == "refused") != (self.refused_within_s is not None):
            raise ConfigurationError(
                [f"{self.name}: refused_within_s belongs to the outcome 'refused', and only there"]
            )

    @property
    def name(self) -> str:
        """Of the cell, for test ids."""
        return f"{self.service}-{self.fault}".replace(" ", "_")


def violations(cell: Cell, outcome: ExerciseResult) -> tuple[str, ...]:
    """Say in what `outcome` is not what `cell` promises; empty where it is.

    Args:
        cell: the promise.
        outcome: what `exercise` found.
    """
    return (*_wrong_answers(cell, outcome), *_wrong_signs(cell, outcome), *timing_violations(cell, outcome))


def _wrong_answers(cell: Cell, outcome: ExerciseResult) -> list[str]:
    faults = []
    refusable = cell.service if cell.outcome == "refused" else ""
    told = tuple(answer for answer in (*outcome.failing, *outcome.recovering) if not _found_nobody(cell, answer))
    for name, answers in (("during the fault and the recovery", told), ("afterwards", outcome.recovered)):
        due = [answer for answer in answers if answers is outcome.recovered or refusable not in answer.needs]
        bad = [answer for answer in due if not answer.is_good]
        if not due or len(bad) >= cell.max_error_rate * len(due):
            faults.append(f"{name} {len(bad)} of {len(due)} requests were not answered: {_kinds(bad)}")
    refused = [answer for answer in told if refusable in answer.needs and not answer.is_good]
    if refusable and not any(answer in refused for answer in outcome.failing):
        faults.append("nothing was refused: did the fault reach the service?")
    if unclear := [answer for answer in refused if not answer.is_clear]:
        faults.append(f"{len(unclear)} of {len(refused)} refusals are no clear 503: {_kinds(unclear)}")
    return faults


def _found_nobody(cell: Cell, answer: RequestResult) -> bool:
    return cell.restarts and not answer.status and answer.code == _NOBODY_LISTENS


def timing_violations(cell: Cell, outcome: ExerciseResult) -> tuple[str, ...]:
    """Say which limits of time were missed; part of the `violations`.

    On a machine that does other things too, a cell that misses these alone deserves to be measured again.

    Args:
        cell: the promise.
        outcome: what `exercise` found.
    """
    faults = [*_slow_answers(cell, outcome), *_slow_refusals(cell, outcome)]
    if outcome.recovery_s is None or outcome.recovery_s > cell.recovery_s:
        faults.append(f"it recovered after {outcome.recovery_s} s, not within {cell.recovery_s} s")
    return tuple(faults)


def _slow_answers(cell: Cell, outcome: ExerciseResult) -> list[str]:
    faults = []
    needs = {answer.load: answer.needs for answer in outcome.failing}
    is_needed_by_some = any(cell.service in helpers for helpers in needs.values())
    for load, helpers in needs.items():
        is_needed = cell.service in helpers
        if is_needed and cell.outcome == "refused":
            continue
        # What does without the helper has nothing to wait for where the helper is what others wait for.
        budget_s = cell.added_p99_s if is_needed or not is_needed_by_some else 0.0
        added_s, limit_s = outcome.added_s(load), budget_s + TOLERANCE_S + outcome.noise_s(load)
        if added_s > limit_s and (is_needed or len(outcome.latencies_s(load, healthy=True)) >= _ENOUGH):
            faults.append(f"{added_s:.3f} s were added to the 99th percentile of {load}, more than {limit_s:.3f} s")
    return faults


def _slow_refusals(cell: Cell, outcome: ExerciseResult) -> list[str]:
    refused = [answer for answer in outcome.failing if cell.service in answer.needs]
    if cell.refused_within_s is None or not refused:
        return []
    slowest = max(refused, key=lambda answer: answer.latency_s)
    # The rest of the request takes what it takes in health.
    limit_s = cell.refused_within_s + TOLERANCE_S + percentile(outcome.latencies_s(slowest.load, healthy=True), 0.99)
    if slowest.latency_s <= limit_s:
        return []
    return [f"a refusal took {slowest.latency_s:.3f} s, more than {limit_s:.3f} s"]


def _wrong_signs(cell: Cell, outcome: ExerciseResult) -> list[str]:
    faults = [f"nobody could see: {sign}" for sign in cell.signs if sign not in outcome.signs]
    faults += [f"it still says: {sign}" for sign in cell.signs if sign in outcome.after.signs]
    faults += [f"no record says: {label}" for label in cell.degraded if label not in outcome.degraded]
    for seen in (*outcome.during, outcome.after):
        faults += [
            f"the books of {sink} do not balance: {tally}"
            for sink, tally in seen.tallies.items()
            if not tally.is_balanced
        ]
    return faults


def _kinds(answers: Collection[RequestResult]) -> str:
    return ", ".join(
        f"{count} x {status} {code}"
        for (status, code), count in Counter((a.status, a.code) for a in answers).most_common(5)
    )


def render(cells: Sequence[Cell], results: Mapping[str, Sequence[str] | None]) -> str:
    """Return the matrix as Markdown: a table of all cells, and for each helper what is done to it and what comes of it.

    Args:
        cells: in the order in which services and faults are to appear.
        results: name of the cell to its `violations`; a cell that is missing was not run.
    """
    services, faults = (
        list(dict.fromkeys(values)) for values in ((c.service for c in cells), (c.fault for c in cells))
    )
    by_place = {(cell.service, cell.fault): cell for cell in cells}
    lines = [_row("", *faults), _row(*["---"] * (len(faults) + 1))]
    for service in services:
        found = [by_place.get((service, fault)) for fault in faults]
        lines.append(_row(f"**{service}**", *("" if cell is None else _shown(cell, results) for cell in found)))
    for service in services:
        own = [cell for cell in cells if cell.service == service]
        lines += ["", f"## {service[:1].upper()}{service[1:]}", "", *_details(own)]
    return "\n".join(lines) + "\n"


def _details(cells: Sequence[Cell]) -> list[str]:
    lines = [
        _row("fault", "made by", "what the caller sees", "limits", "what the operator sees", "`degraded`"),
        _row(*["---"] * 6),
    ]
    lines += [
        _row(cell.fault, cell.made_by, cell.expected, _limits(cell), _code(cell.signs), _code(cell.degraded))
        for cell in cells
        if cell.outcome != "n/a"
    ]
    absent = [f"- {cell.fault}: there is no such cell. {cell.expected}" for cell in cells if cell.outcome == "n/a"]
    return [*lines, "", *absent] if absent else lines


def _shown(cell: Cell, results: Mapping[str, Sequence[str] | None]) -> str:
    if cell.outcome == "n/a":
        return "n/a"
    found = results.get(cell.name)
    mark = "not run" if found is None else "fails" if found else "passes"
    return f"{_WORDS[cell.outcome]}: {mark}"


def _limits(cell: Cell) -> str:
    absence = " beside its absence" if cell.restarts else ""
    limits = [f"errors < {cell.max_error_rate:.0%}{absence}", f"p99 + {cell.added_p99_s * 1000:.0f} ms"]
    if cell.refused_within_s is not None:
        limits.append(f"refused within {cell.refused_within_s:g} s")
    return ", ".join([*limits, f"well within {cell.recovery_s:g} s"])


def _code(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words) or "nothing"


def _row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"
