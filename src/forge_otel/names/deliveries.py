"""What is delivered behind the caller's back: records and spans."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import Instrument

__all__ = ["DeliveryMetrics"]


class DeliveryMetrics:
    """What is delivered behind the caller's back: records and spans."""

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
        description="Records that a sink has stored.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_DROPPED: Final = Instrument(
        name="forge.outbox.dropped",
        kind="observable_counter",
        unit="{record}",
        description="Records that a sink will never see, by reason.",
        attributes=(Attr.OUTBOX_SINK, Attr.REASON),
    )
    OUTBOX_WAITING: Final = Instrument(
        name="forge.outbox.waiting",
        kind="observable_gauge",
        unit="{record}",
        description="Records on local disk that a sink has not stored yet.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_AGE: Final = Instrument(
        name="forge.outbox.age",
        kind="observable_gauge",
        unit="s",
        description="How long the record has waited that has waited longest for a sink.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_DRAIN: Final = Instrument(
        name="forge.outbox.drain.time",
        kind="observable_gauge",
        unit="s",
        description="In which time all that waits is delivered at the present pace; absent without one.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    DATABASE_EXPIRED: Final = Instrument(
        name="forge.database.expired",
        kind="observable_counter",
        unit="{row}",
        description="Rows that this process has deleted because they were older than FORGE_RETENTION_DAYS, by table.",
        attributes=(Attr.DATABASE_TABLE,),
    )
    DATABASE_SET_ASIDE: Final = Instrument(
        name="forge.database.set_aside",
        kind="observable_counter",
        unit="{file}",
        description="Damaged SQLite files that this process has renamed to go on with a new one.",
    )
    ARCHIVE_EXPIRED: Final = Instrument(
        name="forge.archive.expired",
        kind="observable_counter",
        unit="{file}",
        description="Archived files that this process has deleted because they were older than FORGE_RETENTION_DAYS.",
    )
    EXPORT_PRODUCED: Final = Instrument(
        name="forge.export.produced",
        kind="observable_counter",
        unit="{span}",
        description="Spans offered to the exporter of a destination: those waiting and those settled.",
        attributes=(Attr.DESTINATION,),
    )
    EXPORT_SETTLED: Final = Instrument(
        name="forge.export.settled",
        kind="observable_counter",
        unit="{span}",
        description="Spans that were exported, sampled_out or dropped, the last by reason.",
        attributes=(Attr.DESTINATION, Attr.OUTCOME, Attr.REASON),
    )
    EXPORT_WAITING: Final = Instrument(
        name="forge.export.waiting",
        kind="observable_gauge",
        unit="{span}",
        description="Spans that LangSmith, or the OTLP endpoint, has not taken yet.",
        attributes=(Attr.DESTINATION,),
    )
    EXPORT_SPOOL: Final = Instrument(
        name="forge.export.spool",
        kind="observable_gauge",
        unit="By",
        description="Size of the spans that wait on local disk for LangSmith, or for the OTLP endpoint.",
        attributes=(Attr.DESTINATION,),
    )
    FEEDBACK_SETTLED: Final = Instrument(
        name="forge.feedback.settled",
        kind="observable_counter",
        unit="{score}",
        description="Scores for runs in LangSmith that were sent or dropped, the latter by reason.",
        attributes=(Attr.OUTCOME, Attr.REASON),
    )
    FEEDBACK_WAITING: Final = Instrument(
        name="forge.feedback.waiting",
        kind="observable_gauge",
        unit="{score}",
        description="Scores that LangSmith has not taken yet.",
    )
    TRACES_DECIDED: Final = Instrument(
        name="forge.traces.decided",
        kind="observable_counter",
        unit="{trace}",
        description="Traces by whether they were kept or sampled_out, and why; only where not all are kept.",
        attributes=(Attr.OUTCOME, Attr.REASON),
    )
    TRACES_WAITING: Final = Instrument(
        name="forge.traces.waiting",
        kind="observable_gauge",
        unit="By",
        description="Estimated size of the spans whose trace is not decided yet.",
    )
