"""`forge-otel outbox`: list, retry and export the journaled records and dead letters of this machine."""

import asyncio
import json
import os
import sys
from argparse import Namespace
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forge_otel.errors import ConfigurationError, ServiceUnavailable
from forge_otel.settings import Settings

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the `outbox` command."""
    outbox = commands.add_parser("outbox", help="list, retry or export the records in the folder FORGE_OUTBOX_DIR")
    actions = outbox.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show the journals and the dead letters")
    listing.set_defaults(command=_list)
    retry = actions.add_parser("retry", help="requeue dead letters, and deliver the records of dead processes")
    retry.add_argument("--sink", help="only dead letters of this sink, for example database")
    retry.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="(default: %(default)s)")
    retry.set_defaults(command=_retry)
    export = actions.add_parser("export", help="write records as JSON lines, artifacts included")
    export.add_argument("--letters", action="store_true", help="export the dead letters instead of the waiting records")
    export.set_defaults(command=_export)


def _list(_arguments: Namespace) -> int:
    from forge_otel.outbox.inspect import dead_letters, journals

    directory = _directory(Settings.from_env(os.environ))
    print(f"{'journal':46} {'owner':8} {'records':>8} {'KiB':>8} {'oldest':>9}  waiting")
    for found in journals(directory):
        owner = {True: "alive", False: "none", None: "unknown"}[found.is_owned]
        by_sink = ", ".join(f"{sink} {count}" for sink, count in found.waiting.items())
        size = f"{found.records:8} {found.size_bytes / 1024:8.0f} {found.oldest_age_s:7.0f} s"
        print(f"{found.path.name:46} {owner:8} {size}  {found.trouble or by_sink or 'not delivered yet'}")
    reasons = Counter((letter.sink, letter.reason.partition("\n")[0][:100]) for letter in dead_letters(directory))
    for (sink, reason), count in reasons.most_common():
        print(f"{count} dead letters of {sink}: {reason}")
    return 0


def _retry(arguments: Namespace) -> int:
    from forge_otel._runtime import components
    from forge_otel.outbox.inspect import dead_letters, requeue
    from forge_otel.outbox.outbox import name_of

    settings = Settings.from_env(os.environ)
    directory = _directory(settings)
    sinks = components.build(settings).sinks
    names = [name_of(sink) for sink in sinks]
    chosen = [letter for letter in dead_letters(directory) if arguments.sink in {None, letter.sink}]
    count = requeue(directory, chosen, sinks=names)
    print(f"{count} dead letters requeued")
    return asyncio.run(_deliver(settings, sinks, directory, timeout_s=arguments.timeout))


async def _deliver(settings: Settings, sinks: list[Any], directory: Path, *, timeout_s: float) -> int:
    from forge_otel._runtime import options
    from forge_otel.outbox.outbox import Outbox

    outbox = Outbox(sinks, options.outbox(settings, directory, shutdown_timeout_s=settings.shutdown_timeout_s))
    async with outbox:
        is_done = await outbox.drain(timeout_s=timeout_s)
        found = outbox.stats().sinks
    for name, sink in found.items():
        dropped = f", {sum(sink.dropped.values())} rejected again or lost" if sink.dropped else ""
        print(f"{name}: {sink.delivered} delivered, {sink.waiting} waiting{dropped}")
    if not is_done:
        reasons = "; ".join(f"{name}: {sink.last_error}" for name, sink in found.items() if sink.last_error)
        raise ServiceUnavailable(f"not everything was delivered within {timeout_s:g} s; {reasons or 'try again'}")
    return int(any(sink.dropped for sink in found.values()))


def _export(arguments: Namespace) -> int:
    from forge_otel.outbox.inspect import dead_letters, waiting

    directory = _directory(Settings.from_env(os.environ))
    if arguments.letters:
        lines = (
            {
                "sink": letter.sink,
                "refused_at": _time(letter.at_s),
                "reason": letter.reason,
                "record": _plain(letter.body),
            }
            for letter in dead_letters(directory)
        )
        return _write(lines)
    return _write(_plain(body) for body in waiting(directory))


def _write(lines: Iterator[dict[str, Any]]) -> int:
    for line in lines:
        sys.stdout.write(json.dumps(line, default=str) + "\n")
    return 0


def _plain(body: bytes) -> dict[str, Any]:
    from forge_otel.outbox.codec import DamagedRecord, decode

    try:
        record = asdict(decode(body))
    except DamagedRecord as exc:
        return {"damaged": str(exc), "b64": b64encode(body).decode()}
    record["artifacts"] = {
        name: content if isinstance(content, str) else {"b64": b64encode(content).decode()}
        for name, content in record["artifacts"].items()
    }
    return record


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def _directory(settings: Settings) -> Path:
    if settings.outbox_dir is None:
        raise ConfigurationError(["FORGE_OUTBOX_DIR is empty, so no record is stored on disk"])
    directory = Path(settings.outbox_dir)
    if not directory.is_dir():
        raise ConfigurationError([f"there is no folder {directory}; set FORGE_OUTBOX_DIR to the folder of the service"])
    return directory
