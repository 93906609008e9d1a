"""if_snd: a bounded FIFO that refuses what does not fit (paper §2.1; NetBSD ifqueue)."""

from collections import deque

import pytest
from frames import frame, serial_of, station
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netstack._fast.ifqueue import IfQueue
from netstack._fast.mbuf import MbufPool, MbufVec

LAST = 0xFFFFFFFF


def vector(pool: MbufPool, *serials: int) -> MbufVec:
    mv = MbufVec(pool, 0)
    for serial in serials:
        assert mv.append(frame(station(1), station(2), serial))
    return mv


def serials(mv: MbufVec) -> list[int]:
    return [serial_of(each) for each in mv.frames()]


@pytest.mark.parametrize("maxlen", [0, -1, 65536])
def test_lengths_out_of_range_are_refused(maxlen: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.65535"):
        IfQueue(MbufPool(8, 1), maxlen)


def test_first_in_first_out() -> None:
    pool = MbufPool(64, 1)
    queue = IfQueue(pool)
    assert queue.maxlen == 256
    assert queue.put(vector(pool, 1, 2)) == 2
    assert queue.put(vector(pool, 3)) == 1
    out = MbufVec(pool, 0)
    assert queue.get(out, 2) == 2
    assert queue.get(out, 5) == 1
    assert serials(out) == [1, 2, 3]
    assert (len(queue), queue.enqueued, queue.dropped) == (0, 3, 0)


def test_what_does_not_fit_stays_with_the_caller_in_order() -> None:
    pool = MbufPool(64, 1)
    queue = IfQueue(pool, 5)  # not a power of two
    mv = vector(pool, *range(8))
    assert queue.put(mv) == 5
    assert serials(mv) == [5, 6, 7]
    assert (len(queue), queue.enqueued, queue.dropped) == (5, 5, 3)
    assert queue.put(mv) == 0
    assert queue.dropped == 6
    out = MbufVec(pool, 0)
    queue.get(out)
    assert serials(out) == [0, 1, 2, 3, 4]


def test_get_is_bounded_by_the_room_in_the_vector_and_never_negative() -> None:
    pool = MbufPool(600, 1)
    queue = IfQueue(pool, 400)
    queue.put(vector(pool, *range(250)))
    queue.put(vector(pool, *range(250, 400)))
    mv = vector(pool, *[9999] * 200)
    assert queue.get(mv, -3) == 0
    assert queue.get(mv, 0) == 0
    assert queue.get(mv, 300) == 56
    assert serials(mv)[200:] == list(range(56))
    assert len(queue) == 344


def test_indices_wrap_at_32_bits() -> None:
    pool = MbufPool(64, 1)
    queue = IfQueue(pool, 6)
    queue.set_counters(LAST - 2)
    assert queue.put(vector(pool, *range(9))) == 6
    assert len(queue) == 6
    out = MbufVec(pool, 0)
    assert queue.get(out, 4) == 4
    assert queue.put(vector(pool, 10, 11, 12, 13, 14)) == 4
    queue.get(out)
    assert serials(out) == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13]


def test_counters_are_set_on_an_empty_queue_only() -> None:
    pool = MbufPool(8, 1)
    queue = IfQueue(pool)
    queue.put(vector(pool, 1))
    with pytest.raises(ValueError, match="not empty"):
        queue.set_counters(0)


def test_a_dead_queue_gives_its_frames_back() -> None:
    pool = MbufPool(64, 1)
    queue = IfQueue(pool)
    queue.put(vector(pool, 1, 2, 3))
    del queue
    assert pool.free_count == 64


class QueueMachine(RuleBasedStateMachine):
    """A queue that starts near the wrap against a deque."""

    @initialize(maxlen=st.integers(1, 70), head=st.integers(LAST - 40, LAST))
    def make(self, maxlen: int, head: int) -> None:
        self.pool = MbufPool(512, 1)
        self.queue = IfQueue(self.pool, maxlen)
        self.queue.set_counters(head)
        self.model: deque[int] = deque()
        self.next = 0
        self.dropped = 0

    @rule(count=st.integers(0, 40))
    def put(self, count: int) -> None:
        wanted = list(range(self.next, self.next + count))
        self.next += count
        mv = vector(self.pool, *wanted)
        room = self.queue.maxlen - len(self.model)
        assert self.queue.put(mv) == min(room, count)
        assert serials(mv) == wanted[room:]
        self.model.extend(wanted[:room])
        self.dropped += max(0, count - room)

    @rule(count=st.integers(0, 60))
    def get(self, count: int) -> None:
        mv = MbufVec(self.pool, 0)
        expected = [self.model.popleft() for _ in range(min(count, len(self.model)))]
        assert self.queue.get(mv, count) == len(expected)
        assert serials(mv) == expected

    @invariant()
    def lengths_agree(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.model)
            assert self.queue.enqueued + self.dropped == self.next
            assert self.queue.dropped == self.dropped
            assert self.pool.free_count == 512 - len(self.model)


QueueMachine.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=60, stateful_step_count=40
)
TestQueueMachine = QueueMachine.TestCase
