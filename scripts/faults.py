"""Writes docs/faults.md from tests/chaos/cells.py. Run it after a change of the promises.

    .venv/bin/python scripts/faults.py

The page marks a cell as passing because CI runs every cell: a violation fails the build, except of a time limit. A cell
in `DEFECTS` is marked as failing. tests/chaos/test_fault_page.py fails while the page differs from the cells.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "faults.md"

NOTICE = "<!-- Written by scripts/faults.py. Do not edit: change tests/chaos/cells.py, then run the script. -->"
INTRODUCTION = """\
# Fault matrix

Each dependency of a service is made to fail in each applicable way while the example service runs under uvicorn with a
load of 21 requests per second: 18 for known components and 3 for new ones (`tests/chaos/test_fault_matrix.py`). The
model, Redis, PostgreSQL and the other network services fail behind a `FaultProxy`. Local faults are real: files are
locked, overwritten, made read-only or kept from growing, processes are killed, and the clock is changed.

In addition to its own promise, every cell checks:

- `produced = delivered + waiting + dropped` holds at any moment on `/metrics` for every sink;
- every answered generation is in the database in the end, or counted as dropped;
- the service recovers without a restart: the cache is used, new components are generated, and no check warns.

**Limits** are relative to the same service without the fault, in the same run. *p99 + 50 ms* means that the 99th
percentile exceeds that without the fault by at most 50 ms, plus 10 ms tolerance, plus the difference between median and
99th percentile without the fault. If only some requests require the dependency, the limit applies to these, and nothing
may be added to the rest. If the cache fails, the comparison is with the service generating as much while the cache
works. The service is warmed up with successful and refused requests before the measurement, and runs with
`FORGE_FREEZE_HEAP=1`: without it, full garbage collections of CPython add 0.1 to 0.2 s to the slowest responses every
few seconds, with or without a fault. A cell that violates only time limits is measured once more. CI runs on a shared
machine and checks everything but the time limits; `make test ARGS="-m faults"` checks these as well.

**Settings of the tests**: a model call times out after 1 s, its caller is refused after 2 s, and an open breaker sends
a probe after 1 s. The defaults are 60 s, 120 s and 60 s.

## The matrix
"""
OWN = """\
## For your own service

`forge_otel.testing` contains all parts; none depends on the example service.

```python
from forge_otel.testing.fault_matrix.exercise import OperatorView, exercise
from forge_otel.testing.faults.proxy import FaultProxy, Silent
from forge_otel.testing.fault_matrix.load import Load
from forge_otel.testing.fault_matrix.matrix import Cell, violations

CELL = Cell(dependency="search", fault="silent", expected="responses come without suggestions", added_p99_s=0.5)


async def check(client, host, port, start_service):
    async with FaultProxy(host, port) as proxy:
        await start_service(search_url=f"http://127.0.0.1:{proxy.port}")

        async def suggest(number):
            return await client.get(f"/suggest?q={number}")

        async def observe():
            return OperatorView()

        async def has_recovered():
            return (await suggest(0)).status_code == 200

        async with Load(suggest, name="suggest", rate_per_s=20) as load:
            result = await exercise([load], proxy.fault(Silent()), observe=observe, has_recovered=has_recovered)
    return violations(CELL, result)
```

`violations` returns a sentence for each violated promise; `render` writes the tables of this page for your own cells.
"""


def page() -> str:
    """Return the contents of docs/faults.md."""
    from tests.chaos.cells import CELLS, DEFECTS

    from forge_otel.testing.fault_matrix.matrix import render

    results = {cell.name: [DEFECTS[cell.name]] if cell.name in DEFECTS else [] for cell in CELLS}
    return "\n".join([NOTICE, "", INTRODUCTION, render(CELLS, results), *_defects(DEFECTS), OWN])


def _defects(defects: Mapping[str, str]) -> list[str]:
    if not defects:
        return []
    return ["## Violated promises", "", *(f"- {name}: {why}." for name, why in defects.items()), ""]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
