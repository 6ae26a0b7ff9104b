"""CPU time of the key of a 50 kB token set, compared with ``json.dumps(sort_keys=True)`` and SHA-256.

    .venv/bin/python benchmarks/bench_key.py [--json]

*repeated*: an equal token set was digested before, as with most requests of a team. *first*: it was not.
"""

import argparse
import copy
import gc
import hashlib
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from forge_otel.keys import digest

BOUND = 0.25
SIZE_BYTES = 50_000


def token_set(seed: int) -> dict[str, Any]:
    """Return a token file like those of design tools: colours, dimensions, numbers, names."""
    rng, tokens, size = random.Random(seed), {}, 0
    while size < SIZE_BYTES:
        name = f"group-{rng.randrange(10**6)}"
        tokens[name] = {
            "brand": {"value": f"#{rng.randrange(2**24):06X}", "type": "color"},
            "space": {"value": f"{rng.randrange(64)}px", "type": "dimension"},
            "weight": {"value": rng.randrange(1, 10) * 100, "type": "fontWeight", "opacity": rng.randrange(100) / 100},
        }
        size += len(json.dumps(tokens[name])) + len(name) + 6
    return tokens


def baseline(value: Any) -> str:
    """The baseline: sorted JSON and SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def microseconds(function: Callable[[Any], str], values: list[Any]) -> float:
    """Return the median CPU time of one call."""
    taken = []
    for value in values:
        started = time.perf_counter_ns()
        function(value)
        taken.append(time.perf_counter_ns() - started)
    return statistics.median(taken) / 1000


def run(rounds: int) -> dict[str, Any]:
    """Measure every contender on the same values in one run."""
    first = [token_set(seed) for seed in range(rounds)]
    repeated = [copy.deepcopy(first[0]) for _ in range(rounds)]
    if digest(first[0]) != digest(dict(reversed(repeated[0].items()))):
        raise SystemExit("equal token sets have different digests")
    gc.disable()
    found = {
        "json.dumps + sha256": microseconds(baseline, first),
        "first": microseconds(digest, first[1:]),
        "repeated": microseconds(digest, repeated),
    }
    ratios = {name: round(found[name] / found["json.dumps + sha256"], 3) for name in ("first", "repeated")}
    return {
        "us": {name: round(value, 1) for name, value in found.items()},
        "ratio": ratios,
        "holds": {"repeated": ratios["repeated"] <= BOUND},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    found = run(options.rounds)
    print(json.dumps(found, indent=2) if options.json else found)


if __name__ == "__main__":
    main()
