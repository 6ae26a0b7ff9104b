"""Measure hit rate and wrong answers of the caches on a workload.

::

    python -m componentforge.workload_measure --seeds 1 2 3

The workload is sent to a service with caches and to one without, the oracle; each has its own stand-in Figma and
offline model. The workload file defines hit rate and wrong answer.
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
from componentforge.workload import DAY, PATH, Edit, Workload, WorkloadRequest, load_workload, parse_workload
from componentforge.workload_make import render
from forge_otel import Forge, Settings

__all__ = ["JUDGED", "Measurement", "main", "measure"]

JUDGED = ("component.tsx", "stories.tsx", "tokens.json", "requirements.json")
"""Artifacts that must equal the oracle's, byte for byte."""

HITS = ("L1", "L2", "L3", "collapsed")
_PASSCODE = "the workload's passcode"
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Measurement:
    """Result of one workload.

    Args:
        sources: source of each answer, in order.
        wrong: one sentence per wrong answer.
        figma_calls: path to number of Figma requests, from the service with caches.
    """

    sources: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    figma_calls: Mapping[str, int] = field(default_factory=dict)

    def hit_rate(self, layers: Sequence[str] = HITS, *, first: int | None = None) -> float:
        """Return the fraction (0 to 1) of requests that `layers` answered, among the `first` requests or all."""
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


async def measure(workload: Workload, folder: Path) -> Measurement:
    """Run a workload with and without caches and compare the answers.

    Args:
        workload: designs and requests.
        folder: scratch directory of the services.
    """
    figma = StandInFigma()
    answers = await _run(workload, Forge(_settings(folder / "cached"), hooks=HOOKS), figma)
    expected = await _run(workload, Forge(_settings(folder / "oracle"), layers=[]), StandInFigma())
    return Measurement(
        sources=[answer["source"] for answer in answers],
        wrong=[
            fault
            for request, answer, oracle in zip(workload.requests(), answers, expected, strict=True)
            for fault in _faults(request, answer, oracle)
        ],
        figma_calls=dict(figma.requests),
    )


async def _run(workload: Workload, forge: Forge, figma: StandInFigma) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    async with _service(forge, figma) as service:
        for step in workload.steps:
            if isinstance(step, Edit):
                design = workload.designs[step.design]
                figma.edit(design.figma_key, design.node_id, text=step.text, fill=step.fill)
                webhook = str(service.base_url.join("/figma/webhook"))
                await figma.announce(design.figma_key, url=webhook, passcode=_PASSCODE)
            else:
                answers += await asyncio.gather(*(_send(service, workload, request) for request in step))
    return answers


def _settings(folder: Path) -> Settings:
    return Settings(archive_url=None, database_url=None, outbox_dir=str(folder / "outbox"))


async def _send(service: httpx.AsyncClient, workload: Workload, request: WorkloadRequest) -> dict[str, Any]:
    answer = (await service.post("/generate", json=workload.body(request))).raise_for_status().json()
    return dict(answer)


def _faults(request: WorkloadRequest, answer: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    return [
        f"{request.design} in {request.theme}, {request.wish}: {name} from {answer['source']} differs from the oracle"
        for name in JUDGED
        if answer["artifacts"].get(name) != expected["artifacts"][name]
    ]


def _report(measurement: Measurement) -> dict[str, Any]:
    return {
        "generations": len(measurement.sources),
        "combined_hit_rate": round(measurement.hit_rate(first=DAY), 4),
        "l1_hit_rate_after_50": round(measurement.hit_rate(("L1",), first=50), 4),
        "by_source": dict(Counter(measurement.sources).most_common()),
        "wrong_answers": measurement.wrong,
        "figma_calls": measurement.figma_calls,
    }


def main() -> int:
    """Measure the published workload or generated ones, and return exit code 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description="Measure hit rates and wrong answers of workloads.")
    parser.add_argument("--file", type=Path, default=PATH, help="a workload file")
    parser.add_argument(
        "--seeds", type=int, nargs="*", help="measure workloads generated from these seeds instead of a file"
    )
    arguments = parser.parse_args()
    workloads = {f"seed {seed}": parse_workload(render(seed), name=f"seed {seed}") for seed in arguments.seeds or ()}
    workloads = workloads or {arguments.file.name: load_workload(arguments.file)}
    is_wrong = False
    for name, workload in workloads.items():
        with tempfile.TemporaryDirectory() as folder:
            measurement = asyncio.run(measure(workload, Path(folder)))
        print(json.dumps({"workload": name} | _report(measurement)), flush=True)
        is_wrong = is_wrong or bool(measurement.wrong)
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
