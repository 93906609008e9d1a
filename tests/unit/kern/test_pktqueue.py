"""Packet queues on both machines (NetBSD pktqueue(9))."""

from collections import deque
from errno import EBUSY, EDEADLK, EINVAL
from random import Random
from typing import Any

import pytest
from sim.rig import make

from netstack import NetstackError
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack.kern.pktqueue import PktQueue
from netstack.machine.api import Cpu


def frame(number: int) -> bytes:
    return number.to_bytes(4, "big") * 15


def vector(pool: MbufPool, numbers: Any, cpu: int, rcvif: int = 1) -> MbufVec:
    mv = MbufVec(pool, cpu)
    mv.rcvif = rcvif
    for number in numbers:
        assert mv.append(frame(number))
    return mv


class Sink:
    """A handler that notes what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[int, int, list[int]]] = []  # CPU, interface, numbers

    def __call__(self, mv: MbufVec, cpu: Cpu) -> None:
        numbers = [int.from_bytes(each[:4], "big") for each in mv.frames()]
        self.got.append((cpu.index, mv.rcvif, numbers))
        mv.clear()


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_the_hash_names_the_cpu_and_order_is_kept(machine: Any, clock: str) -> None:
    m = machine(ncpu=3, clock=clock, mbufs=512)
    sink = Sink()
    queue = PktQueue(m.engine, m.pool, sink)
    for hash in range(5):
        numbers = range(10 * hash, 10 * hash + 4)
        assert queue.enqueue(vector(m.pool, numbers, 3, rcvif=1 + hash), hash)
    queue.barrier()
    by_cpu = {cpu: [(i, ns) for c, i, ns in sink.got if c == cpu] for cpu in range(3)}
    assert by_cpu[2] == [(3, [20, 21, 22, 23])]
    assert by_cpu[0] == [(1, [0, 1, 2, 3]), (4, [30, 31, 32, 33])]  # interfaces apart
    assert by_cpu[1] == [(2, [10, 11, 12, 13]), (5, [40, 41, 42, 43])]
    assert queue.stats() == {
        "items": 0, "maxlen": 256, "enqueued": 20, "dequeued": 20, "drops": 0,
    }
    queue.destroy()


def test_a_full_queue_takes_what_fits_and_the_caller_frees_the_rest() -> None:
    engine = make(2)
    pool = MbufPool(64, 2)
    queue = PktQueue(engine, pool, Sink(), maxlen=5)
    mv = vector(pool, range(8), 2)
    assert not queue.enqueue(mv, 1)
    assert [each[3] for each in mv.frames()] == [5, 6, 7]
    assert not queue.enqueue(mv, 1) and queue.enqueue(mv, 0)  # the other CPU's has room
    assert queue.stats() == {"items": 8, "maxlen": 5, "enqueued": 8, "dequeued": 0, "drops": 6}
    with pytest.raises(NetstackError, match="flush it") as caught:
        queue.destroy()
    assert caught.value.errno == EBUSY
    assert queue.flush() == 8 and pool.free_count == 64
    assert queue.stats()["items"] == 0 and queue.stats()["dequeued"] == 8
    queue.destroy()
    with pytest.raises(NetstackError, match="destroyed") as caught:
        queue.enqueue(vector(pool, [1], 2))
    assert caught.value.errno == EINVAL


def test_from_a_softint_to_another_cpu() -> None:
    engine = make(2)
    pool = MbufPool(64, 2)
    sink = Sink()
    queue = PktQueue(engine, pool, sink)
    si = engine.softints.establish("net", lambda _: queue.enqueue(vector(pool, [1, 2], 0), hash=1))
    engine.softints.schedule_cpu(si, 0)
    engine.run()
    assert sink.got == [(1, 1, [1, 2])]
    assert pool.free_count == 64


def test_the_barrier_waits_for_the_handler_to_come_back() -> None:
    engine = make(2)
    pool = MbufPool(64, 2)
    log: list[str] = []

    def handler(mv: MbufVec, cpu: Cpu) -> None:
        log.append("begin")
        engine.charge("work", 100_000)
        log.append("end")
        mv.clear()

    queue = PktQueue(engine, pool, handler)
    queue.enqueue(vector(pool, [1], 2), hash=1)
    engine.run(seconds=1e-6)
    assert log == ["begin"] and queue.stats()["items"] == 0  # in the handler's hands
    queue.barrier()
    assert log == ["begin", "end"]
    queue.barrier()  # nothing there: nothing to wait for
    assert log == ["begin", "end"]


def test_a_failing_handler_loses_its_own_vector_only() -> None:
    engine = make()
    pool = MbufPool(64, 1)
    got: list[int] = []

    def handler(mv: MbufVec, cpu: Cpu) -> None:
        got.append(mv.rcvif)
        if mv.rcvif == 1:
            raise ValueError("bad vector")

    queue = PktQueue(engine, pool, handler)
    for rcvif in (1, 2):
        queue.enqueue(vector(pool, range(3), 1, rcvif))
    with pytest.raises(ValueError, match="bad vector"):
        engine.run()
    engine.run()
    assert got == [1, 2] and pool.free_count == 64


@pytest.mark.parametrize("maxlen", [0, 65536, -1])
def test_lengths_out_of_range(maxlen: int) -> None:
    engine = make()
    pool = MbufPool(8, 1)
    queue = PktQueue(engine, pool, Sink())
    for fn in (lambda: PktQueue(engine, pool, Sink(), maxlen=maxlen), lambda: queue.set_maxlen(maxlen)):
        with pytest.raises(NetstackError) as caught:
            fn()
        assert caught.value.errno == EINVAL
    assert queue.maxlen == 256


def test_only_threads_wait_for_it() -> None:
    engine = make()
    queue = PktQueue(engine, MbufPool(8, 1), Sink())
    errnos: list[object] = []

    def attempt(_: object) -> None:
        for fn in (queue.barrier, queue.flush, queue.destroy, lambda: queue.set_maxlen(5)):
            with pytest.raises(NetstackError) as caught:
                fn()
            errnos.append(caught.value.errno)

    engine.softints.schedule_cpu(engine.softints.establish("net", attempt), 0)
    engine.run()
    assert errnos == [EDEADLK] * 4


def test_against_a_model(seed: int) -> None:
    """Random vectors, hashes, lengths and times: nothing lost, doubled or out of order."""
    rng = Random(seed)
    for _ in range(12):
        ncpu = rng.randint(1, 4)
        engine = make(ncpu, seed=rng.getrandbits(16))
        pool = MbufPool(2048, ncpu)
        model: list[deque[int]] = [deque() for _ in range(ncpu)]

        def handler(mv: MbufVec, cpu: Cpu, engine: Any = engine, model: Any = model) -> None:
            for each in mv.frames():
                assert model[cpu.index].popleft() == int.from_bytes(each[:4], "big")
            engine.charge("work", 100 * len(mv))
            mv.clear()

        maxlen = rng.randint(1, 20)
        queue = PktQueue(engine, pool, handler, maxlen=maxlen)
        serial = drops = 0
        for _ in range(80):
            action = rng.random()
            if action < 0.65:
                count, hash = rng.randint(1, 12), rng.randrange(100)
                index = hash % ncpu
                mv = vector(pool, range(serial, serial + count), ncpu, rng.randint(1, 2))
                held = len(queue._percpu[index].queue)  # the handler may have taken some already
                queue.enqueue(mv, hash)
                assert len(mv) == max(0, held + count - maxlen)
                model[index] += range(serial, serial + count - len(mv))
                drops += mv.clear()
                serial += count
            elif action < 0.85:
                engine.run(seconds=rng.randrange(3000) * 1e-9)
            elif action < 0.9:
                maxlen = rng.randint(1, 20)
                queue.set_maxlen(maxlen)
            elif action < 0.95:
                queue.barrier()
                assert not any(model)
            else:
                assert queue.flush() >= 0
                for each in model:
                    each.clear()
        queue.barrier()
        assert not any(model)
        stats = queue.stats()
        assert stats["drops"] == drops and stats["enqueued"] == stats["dequeued"] == serial - drops
        queue.destroy()
        assert pool.free_count == 2048
        engine.close()


def test_lengths_change_under_traffic_on_the_wall(machine: Any) -> None:
    """Softints of one CPU send to the other while the length changes: order and count hold."""
    m = machine(ncpu=2, clock="wall", mbufs=1024)
    got: list[int] = []

    def handler(mv: MbufVec, cpu: Cpu) -> None:
        assert cpu.index == 1
        got.extend(int.from_bytes(each[:4], "big") for each in mv.frames())

    queue = PktQueue(m.engine, m.pool, handler, maxlen=64)
    sent = [0]

    def produce(_: object) -> None:
        mv = vector(m.pool, range(sent[0], sent[0] + 8), 0)
        queue.enqueue(mv, hash=1)
        sent[0] += 8 - len(mv)  # what did not fit is sent again
        mv.clear()
        if sent[0] < 4000:
            m.engine.softints.schedule(si)

    si = m.engine.softints.establish("net", produce)
    m.engine.softints.schedule_cpu(si, 0)
    m.engine.start()
    try:
        lengths = Random(5)
        while sent[0] < 4000:
            queue.set_maxlen(lengths.randint(1, 100))
    finally:
        m.engine.stop()
    queue.barrier()
    assert got == list(range(sent[0]))
    queue.destroy()
