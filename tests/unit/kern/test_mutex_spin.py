"""Spin mutexes: the SPL, nesting, and what may not be done under one (paper §3.1.1, Table 1)."""

from errno import EDEADLK

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError
from netstack.kern.condvar import CondVar
from netstack.kern.mutex import Mutex
from netstack.kern.spl import IPL, splx


def errno_of(call: object, *args: object) -> int | None:
    with pytest.raises(NetstackError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.errno


def test_the_spl_comes_back_at_the_outermost_release_in_whatever_order() -> None:
    engine = make()
    low, high = Mutex(engine, "low", IPL.VM), Mutex(engine, "high", IPL.HIGH)
    levels: list[tuple[int, int]] = []

    def work() -> None:
        cpu = current(engine)

        def note() -> None:
            levels.append((cpu.spl, cpu.mtx_count))

        low.enter()
        note()
        high.enter()
        note()
        low.exit()  # out of order: the level stays
        note()
        high.exit()
        note()
        low.enter()
        high.enter()
        high.exit()  # in order: the level stays, too, as on NetBSD
        note()
        low.exit()
        note()

    engine.spawn(work)
    engine.run()
    assert levels == [(5, 1), (7, 2), (7, 1), (0, 0), (7, 1), (0, 0)]


def test_a_spin_mutex_holds_its_handlers_off_its_cpu_only() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m", IPL.VM)
    order: list[str] = []

    def handler(name: str) -> None:
        order.append(f"{name} wants")
        with mutex:
            order.append(name)

    Device(engine, "here", cpu=0, then=lambda: handler("here")).fire_at(600)
    Device(engine, "there", cpu=1, then=lambda: handler("there")).fire_at(600)
    Device(engine, "above", cpu=0, ipl=IPL.SCHED, then=lambda: order.append("above")).fire_at(700)

    def work() -> None:
        with mutex:
            engine.charge("work", 5000)
            order.append("thread")

    engine.spawn(work)
    engine.run()
    assert order[:3] == ["there wants", "above", "thread"]
    assert sorted(order[3:]) == ["here", "here wants", "there"]
    assert mutex.contended == 1


def test_an_interrupt_above_the_level_that_wants_it_is_told_so() -> None:
    engine = make()
    mutex = Mutex(engine, "m", IPL.VM)

    def work() -> None:
        with mutex:
            engine.charge("work", 5000)

    Device(engine, "high", ipl=IPL.HIGH, then=mutex.enter).fire_at(600)
    engine.spawn(work, name="holder")
    with pytest.raises(NetstackError, match=r"mutex m.*high.*holds it already") as caught:
        engine.run()
    assert caught.value.errno == EDEADLK
    engine.run()
    assert not mutex.is_held and engine.cpus[0].mtx_count == 0 and engine.cpus[0].spl == 0


@pytest.mark.parametrize("how", ["sleep", "wait_until", "adaptive", "condvar of another"])
def test_nobody_sleeps_with_a_spin_mutex(how: str) -> None:
    engine = make(2)
    spin, other = Mutex(engine, "spin", IPL.VM), Mutex(engine, "other")
    cv = CondVar(engine, "cv")
    calls = {
        "sleep": lambda: engine.sleep(1e-6),
        "wait_until": lambda: engine.wait_until(lambda: False, "never"),
        "adaptive": other.enter,
        "condvar of another": lambda: cv.wait(other),
    }

    def holder() -> None:
        with other:
            engine.sleep(1e-4)

    def work() -> None:
        if how == "condvar of another":
            other.enter()
        with spin:
            assert errno_of(calls[how]) == EDEADLK
        done.append(how)

    done: list[str] = []
    if how == "adaptive":
        engine.spawn(holder, cpu=1)
        engine.run(seconds=1e-6)
    engine.spawn(work, cpu=0)
    engine.run()
    assert done == [how]


def test_try_enter_leaves_the_spl_alone_when_it_fails() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m", IPL.VM)
    got: list[tuple[bool, int]] = []

    def holder() -> None:
        with mutex:
            engine.charge("work", 5000)

    def tries() -> None:
        engine.charge("work", 1000)
        got.append((mutex.try_enter(), current(engine).spl))
        engine.charge("work", 9000)
        got.append((mutex.try_enter(), current(engine).spl))
        mutex.exit()

    engine.spawn(holder, cpu=0)
    engine.spawn(tries, cpu=1)
    engine.run()
    assert got == [(False, 0), (True, IPL.VM)]


def test_splx_inside_does_not_open_the_section() -> None:
    """What a spin mutex keeps is the SPL from before it, whatever the section did."""
    engine = make()
    mutex = Mutex(engine, "m", IPL.VM)

    def work() -> None:
        cpu = current(engine)
        cpu.spl = IPL.SOFTNET
        mutex.enter()
        mutex.exit()
        assert cpu.spl == IPL.SOFTNET
        splx(cpu, 0)

    engine.spawn(work)
    engine.run()
