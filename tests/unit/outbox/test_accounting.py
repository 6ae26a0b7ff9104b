"""The books of the outbox always balance."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forge_otel._journal.index import Row, SegmentIndex
from forge_otel.outbox.accounting import DeliveryAccounting

SINKS = ("archive", "database")


class LedgerMachine(RuleBasedStateMachine):
    """Random histories of a accounting with two sinks and several segments."""

    def __init__(self) -> None:
        super().__init__()
        self.accounting = DeliveryAccounting(SINKS)
        self.indexes: list[SegmentIndex] = []
        self.queued = 0

    @rule(size=st.integers(1, 60))
    def offer(self, size: int) -> None:
        """A record comes in, and is queued if there is room."""
        self.queued += self.accounting.offer(size, limit_bytes=200)

    @rule()
    def refuse(self) -> None:
        """A record comes in too late."""
        self.accounting.drop_new("closed")

    @precondition(lambda self: self.queued)
    @rule()
    def drop_queued(self) -> None:
        """The writer finds no room."""
        self.queued -= 1
        self.accounting.drop_unstored("full", queued_bytes=0)

    @rule(held=st.integers(0, 5), served=st.integers(0, 5))
    def adopt(self, held: int, served: int) -> None:
        """A segment of a dead process is found, from which one sink has something already."""
        index = SegmentIndex([Row(seq, float(seq), 10) for seq in range(1, held + 1)], {"archive": min(served, held)})
        self.accounting.add_segment(index, first=True)
        self.indexes.append(index)

    @rule()
    def begin_segment(self) -> None:
        """A new segment is begun."""
        index = SegmentIndex()
        self.accounting.add_segment(index)
        self.indexes.append(index)

    @precondition(lambda self: self.queued and self.indexes)
    @rule(place=st.integers(0), data=st.data())
    def store(self, place: int, data: st.DataObject) -> None:
        """The writer stores some of the queue."""
        index = self.indexes[place % len(self.indexes)]
        count = data.draw(st.integers(1, self.queued))
        first = max(index.last_seq, *(index.cursor(sink) for sink in SINKS)) + 1
        self.accounting.store(index, [Row(first + n, 1.0, 10) for n in range(count)], queued_bytes=0)
        self.queued -= count

    @rule(sink=st.sampled_from(SINKS), data=st.data())
    def settle(self, sink: str, data: st.DataObject) -> None:
        """A sink is served with some records, one of them perhaps rejected or unreadable."""
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
    @rule(place=st.integers(0))
    def discard(self, place: int) -> None:
        """A segment turns out to be damaged; a sink that was at work on it reports later."""
        index = self.indexes.pop(place % len(self.indexes))
        self.accounting.remove_segment(index, "damaged")
        self.accounting.acknowledge("archive", index, index.last_seq, delivered=1, dropped={})

    @invariant()
    def balances(self) -> None:
        """Nothing is lost from the books, and nothing is in them twice."""
        for sink, count in self.accounting.counts().items():
            assert count.produced == count.delivered + count.waiting + sum(count.dropped.values())
            assert count.waiting == self.accounting.waiting(sink) >= self.queued
            assert min(count.delivered, count.waiting, *count.dropped.values(), 0) == 0
            assert (count.oldest_at_s is None) == (self.accounting.next_segment(sink) is None)

    @invariant()
    def forgets(self) -> None:
        """A segment holds nothing that every sink has."""
        for index in self.indexes:
            assert len(index) == max(index.waiting(sink) for sink in SINKS)
            assert index.size_bytes == 10 * len(index)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
