"""How many requests of a day the caches answer, and how many of them wrongly.

::

    python -m componentforge.workload_measure --seeds 1 2 3

The day is lived through twice, by a service with its caches, and by one with none, the oracle, each with a stand-in
Figma and the offline model. What a wrong answer is stands in the workload's file, and was written down before anything
was measured.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from componentforge.app import create_app
from componentforge.cache_hooks import HOOKS
from componentforge.figma_server import StandInFigma
from componentforge.offline_llm.server import create_offline_llm
from componentforge.serving import serve
from componentforge.settings import ServiceSettings
from componentforge.workload import DAY, PATH, Edit, Order, Workload, load_workload, workload_of
from componentforge.workload_make import render
from forge_otel import Forge, Settings

__all__ = ["JUDGED", "Measured", "main", "measure"]

JUDGED = ("component.tsx", "stories.tsx", "tokens.json", "requirements.json")
"""The artifacts that have to be what the oracle answers, byte for byte."""

HITS = ("L1", "L2", "L3", "collapsed")
_PASSCODE = "the workload's passcode"
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Measured:
    """What came of a day.

    Args:
        sources: who answered, request by request.
        wrong: a sentence for each wrong answer.
        figma_calls: paths that were asked of Figma by the service with its caches, and how often.
    """

    sources: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    figma_calls: Mapping[str, int] = field(default_factory=dict)

    def hit_rate(self, layers: Sequence[str] = HITS, *, first: int | None = None) -> float:
        """Return the share of the first requests that these layers answered."""
        sources = self.sources[:first]
        return sum(source in layers for source in sources) / len(sources)


@asynccontextmanager
async def _service(forge: Forge, figma: StandInFigma) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve(create_offline_llm(time_scale=float("inf"), chunk_tokens=1_000)) as llm_url,
        serve(figma.app) as figma_url,
    ):
        environ = {"FIGMA_WEBHOOK_PASSCODE": _PASSCODE}
        settings = ServiceSettings.from_env(environ, offline_url=f"{llm_url}/v1", figma_url=figma_url)
        app = create_app(settings, forge)
        async with serve(app) as url, httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as http:
            yield http


async def measure(workload: Workload, folder: Path) -> Measured:
    """Live through a day with and without caches.

    Args:
        folder: for what the services write.
    """
    figma = StandInFigma()
    answers = await _live(workload, Forge(_settings(folder / "cached"), hooks=HOOKS), figma)
    right = await _live(workload, Forge(_settings(folder / "oracle"), layers=[]), StandInFigma())
    return Measured(
        sources=[answer["source"] for answer in answers],
        wrong=[
            fault
            for order, answer, oracle in zip(workload.orders(), answers, right, strict=True)
            for fault in _faults(order, answer, oracle)
        ],
        figma_calls=dict(figma.requests),
    )


async def _live(workload: Workload, forge: Forge, figma: StandInFigma) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    async with _service(forge, figma) as service:
        for step in workload.steps:
            if isinstance(step, Edit):
                design = workload.designs[step.design]
                figma.edit(design.figma_key, design.node_id, text=step.text, fill=step.fill)
                webhook = str(service.base_url.join("/figma/webhook"))
                await figma.announce(design.figma_key, url=webhook, passcode=_PASSCODE)
            else:
                answers += await asyncio.gather(*(_ask(service, workload, order) for order in step))
    return answers


def _settings(folder: Path) -> Settings:
    return Settings(archive_url=None, database_url=None, outbox_dir=str(folder / "outbox"))


async def _ask(service: httpx.AsyncClient, workload: Workload, order: Order) -> dict[str, Any]:
    answer = (await service.post("/generate", json=workload.body(order))).raise_for_status().json()
    return dict(answer)


def _faults(order: Order, answer: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    return [
        f"{order.design} in {order.theme}, {order.wish}: {name} from {answer['source']} is not what is generated"
        for name in JUDGED
        if answer["artifacts"].get(name) != right["artifacts"][name]
    ]


def _report(measured: Measured) -> dict[str, Any]:
    return {
        "generations": len(measured.sources),
        "combined_hit_rate": round(measured.hit_rate(first=DAY), 4),
        "l1_hit_rate_after_50": round(measured.hit_rate(("L1",), first=50), 4),
        "by_source": dict(Counter(measured.sources).most_common()),
        "wrong_answers": measured.wrong,
        "figma_calls": measured.figma_calls,
    }


def main() -> int:
    """Measure the published day, or others of its kind; 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description="Measure hit rates and wrong answers of workloads.")
    parser.add_argument("--file", type=Path, default=PATH, help="a workload file")
    parser.add_argument("--seeds", type=int, nargs="*", help="days of the same kind, in place of a file")
    asked = parser.parse_args()
    days = {f"seed {seed}": workload_of(render(seed), name=f"seed {seed}") for seed in asked.seeds or ()}
    days = days or {asked.file.name: load_workload(asked.file)}
    is_wrong = False
    for name, day in days.items():
        with tempfile.TemporaryDirectory() as folder:
            measured = asyncio.run(measure(day, Path(folder)))
        print(json.dumps({"workload": name} | _report(measured)), flush=True)
        is_wrong = is_wrong or bool(measured.wrong)
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
