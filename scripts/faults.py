"""Writes docs/faults.md from tests/chaos/cells.py: run it after a change of what is promised.

    .venv/bin/python scripts/faults.py

The page says of a cell that it passes because CI runs every cell: one that fails there, its limits of time aside, is a
failed build, one that is known to fail is listed in `DEFECTS`, and tests/chaos/test_fault_page.py fails while the page
differs from the cells.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "faults.md"

NOTICE = "<!-- Written by scripts/faults.py. Do not edit: change tests/chaos/cells.py, then run the script. -->"
INTRODUCTION = """\
# What happens when something fails

Each helper of a service fails here in each way that makes sense, while the example service runs under uvicorn and gets
21 requests a second: 18 for components that it knows and 3 for new ones; `tests/chaos/test_fault_matrix.py` does it.
The model, Redis and PostgreSQL fail behind a `FaultProxy`, the rest fails for real: files are locked, overwritten, made
read-only or kept from growing, processes are killed, and the clock is set.

In every cell, besides what it says:

- at any moment `produced = delivered + waiting + dropped` holds on `/metrics` for every sink;
- every generation that was answered is in the database in the end, or counted as dropped;
- all is well again without a restart: the cache answers, new components are generated, nothing warns any more.

**Limits** are told against the same service in health, in the same run. *p99 + 50 ms* means: the 99th percentile is at
most 50 ms above that in health, plus 10 ms, plus what lies between median and 99th percentile in health. It is meant
for requests that need the helper where some do and some do not: to the others, nothing may be added. Where the cache is
gone, the comparison is with the service generating as much while the cache is well. The service has answered and
refused before it is measured, and runs with `FORGE_FREEZE_HEAP=1`: without it, CPython's full garbage collections add
0.1 to 0.2 s to the slowest answers every few seconds, in health as much as in an outage. A cell that misses nothing but
a limit of time is measured once more. CI, whose machine does other things too, judges everything but the limits of
time; `make test ARGS="-m faults"` judges those as well.

**In the tests** a model's answer is given up after 1 s and its caller refused after 2 s, and an open breaker sends a
probe after 1 s. As shipped, these are 60 s, 120 s and 60 s.

## The matrix
"""
OWN = """\
## For your own service

`forge_otel.testing` has all that it takes; nothing in it knows the example.

```python
from forge_otel.testing.fault_matrix.exercise import OperatorView, exercise
from forge_otel.testing.faults.proxy import FaultProxy, Silent
from forge_otel.testing.fault_matrix.load import Load
from forge_otel.testing.fault_matrix.matrix import Cell, violations

CELL = Cell(service="search", fault="silent", expected="answers come without suggestions", added_p99_s=0.5)


async def check(client, host, port, start_service):
    async with FaultProxy(host, port) as proxy:
        await start_service(search_url=f"http://127.0.0.1:{proxy.port}")

        async def ask(number):
            return await client.get(f"/suggest?q={number}")

        async def observe():
            return OperatorView()

        async def has_recovered():
            return (await ask(0)).status_code == 200

        async with Load(ask, name="suggest", rate_per_s=20) as load:
            result = await exercise([load], proxy.fault(Silent()), observe=observe, has_recovered=has_recovered)
    return violations(CELL, result)
```

`violations` says in whole sentences what is not as promised; `render` makes this page's tables of your own cells.
"""


def page() -> str:
    """Return what docs/faults.md has to be."""
    from tests.chaos.cells import CELLS, DEFECTS

    from forge_otel.testing.fault_matrix.matrix import render

    results = {cell.name: [DEFECTS[cell.name]] if cell.name in DEFECTS else [] for cell in CELLS}
    return "\n".join([NOTICE, "", INTRODUCTION, render(CELLS, results), *_defects(DEFECTS), OWN])


def _defects(defects: Mapping[str, str]) -> list[str]:
    if not defects:
        return []
    return ["## Promises that are not kept yet", "", *(f"- {name}: {why}." for name, why in defects.items()), ""]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
