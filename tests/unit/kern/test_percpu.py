"""A value for each CPU (NetBSD percpu(9))."""

import threading
from errno import EBUSY, EINVAL, EPERM
from typing import Any

import pytest
from sim.rig import current, make

from netstack import NetstackError
from netstack.kern.percpu import Percpu


def test_each_cpu_has_its_own_and_control_threads_share_one() -> None:
    engine = make(3)
    hits = Percpu(engine, lambda: [0], name="hits")

    def work(times: int) -> None:
        for _ in range(times):
            with hits.ref() as mine:
                mine[0] += 1
            engine.charge("work", 10)

    for cpu in range(3):
        engine.spawn(lambda times=cpu + 1: work(times), cpu=cpu)  # type: ignore[misc]
    engine.run()
    work(7)
    seen: list[tuple[int, int]] = []
    hits.foreach(lambda value, index: seen.append((index, value[0])))
    assert seen == [(0, 1), (1, 2), (2, 3), (-1, 7)]
    assert sum(value[0] for value in hits.values()) == 13


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_foreach_xcall_runs_on_every_cpu(machine: Any, clock: str) -> None:
    m = machine(ncpu=3, clock=clock)
    hits = Percpu(m.engine, lambda: [0])
    where: list[tuple[int, int]] = []

    def reset(value: list[int], index: int) -> None:
        value[0] = -index
        where.append((m.engine.curcpu().index, index))

    hits.foreach_xcall(reset)
    assert sorted(where) == [(0, 0), (1, 1), (2, 2)]
    assert [value[0] for value in hits.values()] == [0, -1, -2, 0]


def test_free_takes_everything_back_unless_a_reference_is_out() -> None:
    engine = make(2)
    gone: list[int] = []
    serial = iter(range(10))
    values = Percpu(engine, lambda: next(serial), gone.append)
    assert values.getref() == 2
    with pytest.raises(NetstackError, match="references are out on CPU") as caught:
        values.free()
    assert caught.value.errno == EBUSY and not gone
    values.putref()
    values.free()
    assert gone == [0, 1, 2]
    for fn in (values.getref, values.free, values.values):
        with pytest.raises(NetstackError, match="was freed") as caught:
            fn()
        assert caught.value.errno == EINVAL


def test_references_nest_and_do_not_go_below_nothing() -> None:
    engine = make(2)
    values = Percpu(engine, lambda: [0])

    def work() -> None:
        assert values.getref() is values.getref()
        values.putref()
        values.putref()
        with pytest.raises(NetstackError, match="without getref") as caught:
            values.putref()
        assert caught.value.errno == EPERM
        assert current(engine).index == 1

    engine.spawn(work, cpu=1)
    engine.run()
    values.getref()
    values.putref()
    with pytest.raises(NetstackError, match="a control thread"):
        values.putref()


def test_control_threads_take_turns(machine: Any) -> None:
    m = machine(clock="wall")
    hits = Percpu(m.engine, lambda: [0])

    def churn() -> None:
        for _ in range(1000):
            with hits.ref() as mine:
                before = mine[0]
                mine[0] = before + 1

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hits.values()[-1] == [4000]
    hits.free()
