"""Metrics of background delivery: records to sinks, spans to exporters, scores to LangSmith."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import Instrument

__all__ = ["MEMORY_LABEL", "DeliveryMetrics"]

MEMORY_LABEL: Final = "outbox:memory"
"""In `degraded` of a generation whose caller got the answer before the journal had the record."""


class DeliveryMetrics:
    """Instruments of background delivery."""

    OUTBOX_PRODUCED: Final = Instrument(
        name="forge.outbox.produced",
        kind="observable_counter",
        unit="{record}",
        description="Records offered to the outbox for a sink.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_DELIVERED: Final = Instrument(
        name="forge.outbox.delivered",
        kind="observable_counter",
        unit="{record}",
        description="Records stored by a sink.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_DROPPED: Final = Instrument(
        name="forge.outbox.dropped",
        kind="observable_counter",
        unit="{record}",
        description="Records that will not be delivered to a sink, by reason.",
        attributes=(Attr.OUTBOX_SINK, Attr.REASON),
    )
    OUTBOX_UNJOURNALED: Final = Instrument(
        name="forge.outbox.unjournaled",
        kind="observable_counter",
        unit="{record}",
        description="Records whose callers got an answer before the journal on disk had the record.",
    )
    OUTBOX_WAITING: Final = Instrument(
        name="forge.outbox.waiting",
        kind="observable_gauge",
        unit="{record}",
        description="Records queued for a sink, on local disk or, while the disk fails or hangs, in memory.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_AGE: Final = Instrument(
        name="forge.outbox.age",
        kind="observable_gauge",
        unit="s",
        description="Age of the oldest record queued for a sink.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_DRAIN: Final = Instrument(
        name="forge.outbox.drain.time",
        kind="observable_gauge",
        unit="s",
        description="Estimated time to deliver the queued records at the current rate; absent without deliveries.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    DATABASE_EXPIRED: Final = Instrument(
        name="forge.database.expired",
        kind="observable_counter",
        unit="{row}",
        description="Rows older than FORGE_RETENTION_DAYS deleted by this process, by table.",
        attributes=(Attr.DATABASE_TABLE,),
    )
    DATABASE_SET_ASIDE: Final = Instrument(
        name="forge.database.set_aside",
        kind="observable_counter",
        unit="{file}",
        description="Damaged SQLite files that this process has renamed and replaced by a new file.",
    )
    ARCHIVE_EXPIRED: Final = Instrument(
        name="forge.archive.expired",
        kind="observable_counter",
        unit="{file}",
        description="Archived files older than FORGE_RETENTION_DAYS deleted by this process.",
    )
    EXPORT_PRODUCED: Final = Instrument(
        name="forge.export.produced",
        kind="observable_counter",
        unit="{span}",
        description="Spans offered to an exporter: waiting and settled ones.",
        attributes=(Attr.DESTINATION,),
    )
    EXPORT_SETTLED: Final = Instrument(
        name="forge.export.settled",
        kind="observable_counter",
        unit="{span}",
        description="Spans exported, sampled out or dropped by an exporter, dropped ones by reason.",
        attributes=(Attr.DESTINATION, Attr.OUTCOME, Attr.REASON),
    )
    EXPORT_WAITING: Final = Instrument(
        name="forge.export.waiting",
        kind="observable_gauge",
        unit="{span}",
        description="Spans queued for LangSmith or the OTLP endpoint.",
        attributes=(Attr.DESTINATION,),
    )
    EXPORT_SPOOL: Final = Instrument(
        name="forge.export.spool",
        kind="observable_gauge",
        unit="By",
        description="Size of the spans queued on local disk for LangSmith or the OTLP endpoint.",
        attributes=(Attr.DESTINATION,),
    )
    FEEDBACK_SETTLED: Final = Instrument(
        name="forge.feedback.settled",
        kind="observable_counter",
        unit="{score}",
        description="Scores of LangSmith runs sent or dropped, dropped ones by reason.",
        attributes=(Attr.OUTCOME, Attr.REASON),
    )
    FEEDBACK_WAITING: Final = Instrument(
        name="forge.feedback.waiting",
        kind="observable_gauge",
        unit="{score}",
        description="Scores queued for LangSmith.",
    )
    TRACES_DECIDED: Final = Instrument(
        name="forge.traces.decided",
        kind="observable_counter",
        unit="{trace}",
        description="Traces kept or sampled out by tail sampling, by reason; absent if every trace is kept.",
        attributes=(Attr.OUTCOME, Attr.REASON),
    )
    TRACES_WAITING: Final = Instrument(
        name="forge.traces.waiting",
        kind="observable_gauge",
        unit="By",
        description="Estimated size of the spans of traces that tail sampling has not decided.",
    )
