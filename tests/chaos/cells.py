"""What is promised for every helper of today and every fault: the source of docs/faults.md and of test_fault_matrix.py.

The model is away for at most `OPENAI_TOTAL_S` seconds in these tests before a caller is refused, and an open breaker
sends a probe after one; both are a minute or more as shipped.
"""

from typing import Final

from forge_otel.testing.matrix import Cell

__all__ = ["CELLS", "DEFECTS"]

REFUSED_S: Final = 2.0
REDIS_BUDGET_S: Final = 0.05
DISK_BUDGET_S: Final = 1.0
BURST_S: Final = 0.1

CELLS: Final = (
    Cell(
        service="OpenAI",
        fault="refused",
        made_by="nobody listens at its port",
        expected="Known components come from the cache as ever; new ones get a 503 that says when to try again.",
        outcome="refused",
        refused_within_s=REFUSED_S,
        signs=("openai:breaker",),
    ),
    Cell(
        service="OpenAI",
        fault="silent",
        made_by="connections are accepted and nothing is ever answered",
        expected="Known components come from the cache as ever; new ones get a 503 when the deadline is over, and at "
        "once while the breaker is open.",
        outcome="refused",
        refused_within_s=REFUSED_S,
        signs=("openai:breaker",),
    ),
    Cell(
        service="OpenAI",
        fault="slow",
        made_by="every answer comes 0.5 s late, ten times as long as it takes",
        expected="Everything is answered; new components take as much longer as the model does.",
        added_p99_s=1.5,
    ),
    Cell(
        service="OpenAI",
        fault="garbage",
        made_by="random bytes come back in place of answers",
        expected="Known components come from the cache as ever; new ones get a 503 that says when to try again.",
        outcome="refused",
        refused_within_s=REFUSED_S,
        signs=("openai:breaker",),
    ),
    Cell(
        service="OpenAI",
        fault="auth error",
        made_by="every request is answered with 401",
        expected="The key is not tried again; new components get a 503, and health names the rejected key.",
        outcome="refused",
        refused_within_s=REFUSED_S,
        signs=("openai:breaker",),
    ),
    Cell(
        service="OpenAI",
        fault="full",
        made_by="every request is answered with 429 and Retry-After: 30",
        expected="New components get a 503 that passes on what the model asked for; the model is left alone.",
        outcome="refused",
        refused_within_s=REFUSED_S,
        signs=("openai:breaker",),
    ),
    Cell(
        service="OpenAI",
        fault="restart mid-write",
        made_by="every connection breaks in the middle of the answer",
        expected="A half answer is never taken for a whole one: new components get a 503.",
        outcome="refused",
        refused_within_s=REFUSED_S,
    ),
    Cell(
        service="OpenAI",
        fault="clock jump",
        made_by="the service's wall clock jumps an hour ahead, then two hours back",
        expected="Nothing: deadlines and breakers go by the monotonic clock.",
    ),
    Cell(
        service="Redis",
        fault="refused",
        made_by="nobody listens at its port",
        expected="Everything is generated anew.",
        outcome="degraded",
        added_p99_s=REDIS_BUDGET_S,
        signs=("redis:breaker",),
        degraded=("redis:uncached",),
    ),
    Cell(
        service="Redis",
        fault="silent",
        made_by="connections are accepted and nothing is ever answered",
        expected="Everything is generated anew; until the breaker opens, each request waits 50 ms for the cache.",
        outcome="degraded",
        added_p99_s=REDIS_BUDGET_S,
        signs=("redis:breaker",),
        degraded=("redis:uncached",),
    ),
    Cell(
        service="Redis",
        fault="slow",
        made_by="every answer comes 30 ms late, which is within its budget of 50 ms",
        expected="Everything is answered, as much later as the cache is; new components are looked up and kept, "
        "and so wait for it twice.",
        added_p99_s=2 * REDIS_BUDGET_S,
    ),
    Cell(
        service="Redis",
        fault="garbage",
        made_by="random bytes come back in place of answers",
        expected="Everything is generated anew; garbage is never taken for an answer.",
        outcome="degraded",
        added_p99_s=REDIS_BUDGET_S,
        signs=("redis:breaker",),
        degraded=("redis:uncached",),
    ),
    Cell(
        service="Redis",
        fault="auth error",
        made_by="it wants a password that the service does not have",
        expected="Everything is generated anew.",
        outcome="degraded",
        added_p99_s=REDIS_BUDGET_S,
        signs=("redis:breaker",),
        degraded=("redis:uncached",),
    ),
    Cell(
        service="Redis",
        fault="full",
        made_by="it has no memory left and may not evict",
        expected="Known components come from the cache as ever; new ones are answered and not kept.",
        added_p99_s=REDIS_BUDGET_S,
        degraded=("redis:uncached",),
    ),
    Cell(
        service="Redis",
        fault="restart mid-write",
        made_by="it is killed under load and started again",
        expected="Everything is generated anew until it is back; then what it has kept is used again.",
        outcome="degraded",
        added_p99_s=REDIS_BUDGET_S,
        signs=("redis:breaker",),
        degraded=("redis:uncached",),
    ),
    Cell(
        service="Redis",
        fault="clock jump",
        made_by="the service's wall clock jumps an hour ahead, then two hours back",
        expected="Nothing: entries expire in Redis, and an age is never negative.",
    ),
    Cell(
        service="SQLite",
        fault="refused",
        made_by="the service starts where the database's folder cannot be made; later it can",
        expected="Nothing: records wait in the outbox.",
        signs=("database:waiting",),
        degraded=("database:outbox",),
        recovery_s=15,
    ),
    Cell(
        service="SQLite",
        fault="silent",
        made_by="another process holds the lock for writing",
        expected="Nothing: records wait in the outbox.",
        recovery_s=15,
    ),
    Cell(
        service="SQLite",
        fault="slow",
        made_by="another process holds the lock for writing in bursts of 0.1 s",
        expected="Nothing: records are stored in larger batches.",
    ),
    Cell(
        service="SQLite",
        fault="garbage",
        made_by="the file is overwritten with random bytes while the service runs",
        expected="Nothing: the damaged file is set aside, and a new one takes what waits.",
        recovery_s=15,
    ),
    Cell(
        service="SQLite",
        fault="auth error",
        made_by="the service starts where it may not write the database; later it may",
        expected="Nothing: records wait in the outbox.",
        signs=("database:waiting",),
        degraded=("database:outbox",),
        recovery_s=15,
    ),
    Cell(
        service="SQLite",
        fault="full",
        made_by="SQLite finds no room for another page",
        expected="Nothing: records wait in the outbox.",
        signs=("database:waiting",),
        degraded=("database:outbox",),
        recovery_s=15,
    ),
    Cell(
        service="SQLite",
        fault="restart mid-write",
        made_by="the service is killed under load and started again",
        expected="Requests in flight fail with the process; what was answered is stored, each generation once.",
        restarts=True,
        max_error_rate=0.1,
        added_p99_s=REFUSED_S,
    ),
    Cell(
        service="SQLite",
        fault="clock jump",
        made_by="the service's wall clock jumps an hour ahead, then two hours back",
        expected="Nothing: rows carry the time that the service believed in, and none is refused for it.",
    ),
    Cell(
        service="outbox disk",
        fault="refused",
        made_by="the service starts where the journal's folder cannot be made; later it can",
        expected="Nothing: records wait in memory, and a crash would lose them.",
        signs=("outbox:journal",),
        degraded=("outbox:memory",),
    ),
    Cell(
        service="outbox disk",
        fault="silent",
        made_by="another process holds the journal's lock",
        expected="Everything is answered; until the disk is given up after 5 s, each answer waits for it, at most 1 s.",
        added_p99_s=DISK_BUDGET_S,
    ),
    Cell(
        service="outbox disk",
        fault="slow",
        made_by="another process holds the journal's lock in bursts of 0.1 s",
        expected="Everything is answered; an answer waits until its record is on disk.",
        added_p99_s=2 * BURST_S,
    ),
    Cell(
        service="outbox disk",
        fault="garbage",
        made_by="the journal is overwritten with random bytes while the service runs",
        expected="Nothing: the damaged journal is set aside, what waited only there is counted as damaged.",
    ),
    Cell(
        service="outbox disk",
        fault="auth error",
        made_by="the service starts where it may not write the journal; later it may",
        expected="Nothing: records wait in memory, and a crash would lose them.",
        signs=("outbox:journal",),
        degraded=("outbox:memory",),
    ),
    Cell(
        service="outbox disk",
        fault="full",
        made_by="no file of the service can grow: journal, database and archive are on one disk",
        expected="Nothing: records wait in memory until there is room.",
        signs=("outbox:journal",),
        degraded=("outbox:memory",),
        recovery_s=15,
    ),
    Cell(
        service="outbox disk",
        fault="restart mid-write",
        made_by="the service is killed while the database takes nothing, and started again",
        expected="Requests in flight fail with the process; what was answered is in the journal and is delivered.",
        restarts=True,
        max_error_rate=0.1,
        added_p99_s=REFUSED_S,
        recovery_s=15,
    ),
    Cell(
        service="outbox disk",
        fault="clock jump",
        made_by="the service's wall clock jumps an hour ahead, then two hours back",
        expected="Nothing: records are delivered in the order of their numbers, not of their times.",
    ),
)
"""Every cell, service by service."""

DEFECTS: Final[dict[str, str]] = {}
"""Promises that are not kept yet; each is a test that is expected to fail, and says so when it no longer does."""
