"""The counters of the outbox balance after any history."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forge_otel._journal.index import Row, SegmentIndex
from forge_otel.outbox.accounting import DeliveryAccounting

SINKS = ("archive", "database")


class AccountingMachine(RuleBasedStateMachine):
    """Random histories with two sinks and several segments."""

    def __init__(self) -> None:
        super().__init__()
        self.accounting = DeliveryAccounting(SINKS)
        self.indexes: list[SegmentIndex] = []
        self.queued = 0

    @rule(size=st.integers(1, 60))
    def offer(self, size: int) -> None:
        """Offer a record, which is queued if there is room."""
        self.queued += self.accounting.offer(size, limit_bytes=200)

    @rule()
    def drop_new(self) -> None:
        """Drop a record that is offered after the end."""
        self.accounting.drop_new("closed")

    @precondition(lambda self: self.queued)
    @rule()
    def drop_unstored(self) -> None:
        """Drop a record for which the journal has no room."""
        self.queued -= 1
        self.accounting.drop_unstored("full", queued_bytes=0)

    @rule(stored=st.integers(0, 5), acknowledged=st.integers(0, 5))
    def adopt(self, stored: int, acknowledged: int) -> None:
        """Add the segment of a dead process, in which one sink has acknowledged some records."""
        rows = [Row(seq, float(seq), 10) for seq in range(1, stored + 1)]
        index = SegmentIndex(rows, {"archive": min(acknowledged, stored)})
        self.accounting.add_segment(index, first=True)
        self.indexes.append(index)

    @rule()
    def begin_segment(self) -> None:
        """Add an empty segment."""
        index = SegmentIndex()
        self.accounting.add_segment(index)
        self.indexes.append(index)

    @precondition(lambda self: self.queued and self.indexes)
    @rule(position=st.integers(0), data=st.data())
    def store(self, position: int, data: st.DataObject) -> None:
        """Store some of the queued records."""
        index = self.indexes[position % len(self.indexes)]
        count = data.draw(st.integers(1, self.queued))
        first = max(index.last_seq, *(index.cursor(sink) for sink in SINKS)) + 1
        self.accounting.store(index, [Row(first + n, 1.0, 10) for n in range(count)], queued_bytes=0)
        self.queued -= count

    @rule(sink=st.sampled_from(SINKS), data=st.data())
    def acknowledge(self, sink: str, data: st.DataObject) -> None:
        """Deliver some records to a sink, with some rejected and some damaged."""
        index = self.accounting.next_segment(sink)
        if index is None:
            return
        count = data.draw(st.integers(1, index.waiting(sink)))
        rejected = data.draw(st.integers(0, count))
        damaged = data.draw(st.integers(0, count - rejected))
        seq = index.last_seq - index.waiting(sink) + count
        self.accounting.acknowledge(
            sink, index, seq, delivered=count - rejected - damaged, dropped={"rejected": rejected} if rejected else {}
        )

    @precondition(lambda self: self.indexes)
    @rule(position=st.integers(0))
    def remove_segment(self, position: int) -> None:
        """Remove a damaged segment; a sink that was reading it acknowledges afterwards."""
        index = self.indexes.pop(position % len(self.indexes))
        self.accounting.remove_segment(index, "damaged")
        self.accounting.acknowledge("archive", index, index.last_seq, delivered=1, dropped={})

    @invariant()
    def balances(self) -> None:
        """Each record is in exactly one counter."""
        for sink, count in self.accounting.counts().items():
            assert count.produced == count.delivered + count.waiting + sum(count.dropped.values())
            assert count.waiting == self.accounting.waiting(sink) >= self.queued
            assert min(count.delivered, count.waiting, *count.dropped.values(), 0) == 0
            assert (count.oldest_at_s is None) == (self.accounting.next_segment(sink) is None)

    @invariant()
    def drops_acknowledged(self) -> None:
        """A segment has no record that every sink has acknowledged."""
        for index in self.indexes:
            assert len(index) == max(index.waiting(sink) for sink in SINKS)
            assert index.size_bytes == 10 * len(index)


TestAccounting = AccountingMachine.TestCase
TestAccounting.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
