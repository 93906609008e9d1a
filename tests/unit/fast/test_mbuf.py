"""Mbufs: content, chains, conservation, magazines and their depot (paper §2.1)."""

import signal
import subprocess
import sys
from array import array

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netstack._fast.ifqueue import IfQueue
from netstack._fast.kernels import CHECKED
from netstack._fast.mbuf import BURST_MAX, DATA_BYTES, STRIDE_BYTES, MbufPool, MbufVec

ENOUGH = 100


def vector(pool: MbufPool, cpu: int, *frames: bytes) -> MbufVec:
    mv = MbufVec(pool, cpu)
    for each in frames:
        assert mv.append(each)
    return mv


def move(pool: MbufPool, source: MbufVec, target: MbufVec) -> None:
    """Move frames between vectors of different CPUs, as a send queue does."""
    queue = IfQueue(pool, 256)
    assert queue.put(source) == queue.get(target) or len(source)


def mbufs_of(nbytes: int) -> int:
    return max(1, -(-nbytes // DATA_BYTES))


def test_stride_is_an_odd_number_of_cache_lines() -> None:
    assert STRIDE_BYTES % 64 == 0 and STRIDE_BYTES // 64 % 2 == 1
    assert DATA_BYTES < STRIDE_BYTES
    assert BURST_MAX == 256


@pytest.mark.parametrize(("nmbufs", "ncpu"), [(0, 1), (-1, 1), ((1 << 24) + 1, 1), (8, 0), (8, 65)])
def test_pool_sizes_out_of_range_are_refused(nmbufs: int, ncpu: int) -> None:
    with pytest.raises(ValueError, match="must be 1"):
        MbufPool(nmbufs, ncpu)


@pytest.mark.parametrize("cpu", [-1, 3])
def test_a_vector_needs_a_cpu_of_its_pool(cpu: int) -> None:
    pool = MbufPool(8, 2)
    with pytest.raises(IndexError, match="no CPU"):
        MbufVec(pool, cpu)
    with pytest.raises(IndexError, match="no CPU"):
        pool.cached(cpu)


def test_any_buffer_is_taken_and_copied() -> None:
    pool = MbufPool(ENOUGH, 1)
    mv = MbufVec(pool, 0)
    changing = bytearray(b"abcd")
    assert mv.append(changing)
    changing[:] = b"xxxx"
    words = array("H", [1, 2, 3])
    assert mv.append(memoryview(b"0123456789")[2:5])
    assert mv.append(words)
    assert mv.append(np.arange(4, dtype=np.uint8))
    assert mv.append(b"")
    assert mv.frames() == [b"abcd", b"234", words.tobytes(), bytes(range(4)), b""]
    assert mv.lengths() == [4, 3, 6, 4, 0]


@pytest.mark.parametrize("bad", [memoryview(b"0123")[::2], "text", 5, None])
def test_what_is_no_contiguous_buffer_is_refused_and_takes_nothing(bad: object) -> None:
    pool = MbufPool(ENOUGH, 1)
    mv = MbufVec(pool, 0)
    with pytest.raises((TypeError, BufferError, ValueError)):
        mv.append(bad)  # type: ignore[arg-type]
    assert (len(mv), pool.free_count) == (0, ENOUGH)


@pytest.mark.parametrize("nbytes", [0, 1, 60, DATA_BYTES, DATA_BYTES + 1, 2 * DATA_BYTES, 65535])
def test_a_long_frame_is_a_chain(nbytes: int) -> None:
    pool = MbufPool(ENOUGH, 1)
    content = bytes(i * 7 & 0xFF for i in range(nbytes))
    mv = vector(pool, 0, content)
    assert mv.frames() == [content]
    assert pool.free_count == ENOUGH - mbufs_of(nbytes)
    assert mv.clear() == 1
    assert pool.free_count == ENOUGH


def test_a_full_vector_refuses_and_takes_nothing() -> None:
    pool = MbufPool(300, 1)
    mv = vector(pool, 0, *[b"x"] * BURST_MAX)
    with pytest.raises(ValueError, match="256"):
        mv.append(b"one too many")
    assert pool.free_count == 300 - BURST_MAX


def test_an_empty_pool_says_no_and_counts() -> None:
    pool = MbufPool(4, 1)
    mv = vector(pool, 0, b"1", b"2", b"3")
    assert not mv.append(bytes(DATA_BYTES + 1))  # one mbuf is left, two are needed
    assert pool.free_count == 1  # and the first of them was given back
    assert mv.append(b"4")
    assert not mv.append(b"5")
    assert pool.failures == 2
    assert mv.frames() == [b"1", b"2", b"3", b"4"]


def test_mbufs_go_to_the_magazine_of_the_cpu_that_frees() -> None:
    pool = MbufPool(1200, 2)
    mv = vector(pool, 0, *[b"x"] * 50)
    target = MbufVec(pool, 1)
    before = pool.cached(1)
    move(pool, mv, target)
    assert (len(mv), len(target)) == (0, 50)
    assert target.clear() == 50
    assert pool.cached(1) == before + 50
    assert pool.free_count == 1200


def test_a_cpu_that_only_frees_does_not_hoard() -> None:
    pool = MbufPool(1200, 2)
    for _ in range(100):  # each mbuf several times around
        mv = vector(pool, 0, *[b"x"] * 200)
        target = MbufVec(pool, 1)
        move(pool, mv, target)
        target.clear()
    assert pool.failures == 0
    assert pool.free_count == 1200
    assert pool.cached(1) <= 1200 // 2, "most of the pool sits with a CPU that does not need it"


def test_a_dead_vector_gives_its_frames_back() -> None:
    pool = MbufPool(ENOUGH, 1)
    mv = vector(pool, 0, b"x", bytes(5000))
    assert pool.free_count == ENOUGH - 4
    del mv
    assert pool.free_count == ENOUGH


def test_receive_interface_and_queue_are_16_bits() -> None:
    mv = MbufVec(MbufPool(8, 1), 0)
    mv.rcvif, mv.queue = 65535, 7
    assert (mv.rcvif, mv.queue, mv.cpu) == (65535, 7, 0)
    with pytest.raises(OverflowError):
        mv.rcvif = 65536


class PoolMachine(RuleBasedStateMachine):
    """Vectors of two CPUs and of control threads against lists of bytes."""

    @initialize(nmbufs=st.integers(1, 400))
    def make(self, nmbufs: int) -> None:
        self.pool = MbufPool(nmbufs, 2)
        self.vectors = [MbufVec(self.pool, i % 3) for i in range(6)]
        self.model: list[list[bytes]] = [[] for _ in self.vectors]

    @rule(at=st.integers(0, 5), nbytes=st.integers(0, 7000), fill=st.integers(0, 255))
    def append(self, at: int, nbytes: int, fill: int) -> None:
        self.append_one(at, nbytes, fill)

    def append_one(self, at: int, nbytes: int, fill: int) -> None:
        if len(self.model[at]) == BURST_MAX:
            return
        content = bytes([fill]) * nbytes
        mv = self.vectors[at]
        others = sum(self.pool.cached(cpu) for cpu in range(3) if cpu != mv.cpu)
        usable = self.pool.free_count - others
        done = mv.append(content)
        assert done == (usable >= mbufs_of(nbytes))
        if done:
            self.model[at].append(content)

    @rule(at=st.integers(0, 5), count=st.integers(1, 120))
    def burst(self, at: int, count: int) -> None:
        for i in range(count):
            self.append_one(at, 60, i)

    @rule(at=st.integers(0, 5))
    def clear(self, at: int) -> None:
        assert self.vectors[at].clear() == len(self.model[at])
        self.model[at] = []

    @rule(giver=st.integers(0, 5), taker=st.integers(0, 5))
    def move(self, giver: int, taker: int) -> None:
        if giver == taker:
            return
        queue = IfQueue(self.pool, 512)
        queue.put(self.vectors[giver])
        taken = queue.get(self.vectors[taker])
        self.model[taker] += self.model[giver][:taken]
        left = self.model[giver][taken:]
        assert queue.get(self.vectors[giver]) == len(left)
        self.model[giver] = left

    @rule(at=st.integers(0, 5))
    def renew(self, at: int) -> None:
        self.vectors[at] = MbufVec(self.pool, self.vectors[at].cpu)
        self.model[at] = []

    @invariant()
    def content_and_count_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        used = 0
        for mv, frames in zip(self.vectors, self.model, strict=True):
            assert mv.frames() == frames
            used += sum(mbufs_of(len(each)) for each in frames)
        assert self.pool.free_count + used == self.pool.nmbufs


PoolMachine.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=40, stateful_step_count=30
)
TestPoolMachine = PoolMachine.TestCase


# A stale holder: the ring's descriptor still says where an mbuf is that the pool has back.
STALE = """
import ctypes
from netstack._fast.ifnet import IfnetBlock
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.queue import RxQueue

pool = MbufPool(64, 1)
rxq = RxQueue(IfnetBlock(1, bytes(5) + b"x"), pool, 0, 8)
rxq.fill()
frame = ctypes.c_uint64.from_address(rxq.ring.address).value
rxq.drain()
print(ctypes.string_at(frame, 14).hex())
if {offset} is not None:
    ctypes.memset(frame + {offset}, 1, 1)
vec = MbufVec(pool, 1)
while vec.append(b"x"):
    pass
print(len(vec))
"""


@pytest.mark.skipif(not CHECKED, reason="only the checked build looks: NETSTACK_CHECKED=1")
@pytest.mark.parametrize("offset", [0, 2061, -50], ids=["first byte", "last byte", "next mbuf"])
def test_an_mbuf_written_after_it_was_freed_stops_the_program(offset: int) -> None:
    program = [sys.executable, "-P", "-c", STALE.format(offset=offset)]
    outcome = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert outcome.returncode == -signal.SIGABRT
    assert "mbuf written after it was freed" in outcome.stderr


@pytest.mark.skipif(not CHECKED, reason="only the checked build poisons: NETSTACK_CHECKED=1")
def test_who_reads_a_freed_mbuf_sees_nonsense() -> None:
    program = [sys.executable, "-P", "-c", STALE.format(offset=None)]
    outcome = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    assert outcome.stdout.split() == ["5e" * 14, "64"]
