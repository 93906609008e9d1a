"""Adaptive mutexes (paper §3.1.1)."""

from errno import EDEADLK, EPERM

import pytest
from sim.rig import make

from netstack import NetstackError
from netstack.kern.mutex import Mutex


def test_one_at_a_time_even_over_a_sleep() -> None:
    engine = make(3)
    mutex = Mutex(engine, "list")
    inside = 0
    entries: list[int] = []

    def work() -> None:
        nonlocal inside
        for _ in range(3):
            with mutex:
                inside += 1
                entries.append(inside)
                engine.sleep(1e-6)
                inside -= 1
            engine.charge("work", 10)

    for cpu in (0, 1, 2, 0):
        engine.spawn(work, cpu=cpu)
    engine.run()
    assert entries == [1] * 12 and not mutex.is_held


def test_an_interrupt_may_not_and_a_softint_may_only_if_it_is_free() -> None:
    engine = make()
    mutex = Mutex(engine, "list")
    got: list[str] = []

    def soft(_: object) -> None:
        try:
            mutex.enter()
            got.append("soft")
            mutex.exit()
        except NetstackError as error:
            assert error.errno == EDEADLK
            got.append("refused")

    si = engine.softints.establish("net", soft)
    engine.softints.schedule_cpu(si, 0)
    engine.run()

    def thread() -> None:
        with mutex:
            engine.softints.schedule(si)

    engine.spawn(thread)
    engine.run()
    assert got == ["soft", "refused"]


def test_it_is_not_reentrant_and_says_so_as_a_deadlock() -> None:
    engine = make()
    mutex = Mutex(engine, "list")
    with mutex:
        assert not mutex.try_enter()
        with pytest.raises(NetstackError, match="mutex list") as caught:
            mutex.enter()
    assert caught.value.errno == EDEADLK


def test_release_and_assert_need_a_holder() -> None:
    mutex = Mutex(make(), "list")
    with pytest.raises(NetstackError) as caught:
        mutex.exit()
    assert caught.value.errno == EPERM
    with pytest.raises(NetstackError, match="must be held"):
        mutex.assert_held()
    with mutex:
        mutex.assert_held()
