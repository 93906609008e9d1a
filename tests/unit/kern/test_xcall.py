"""Cross-calls on both machines (NetBSD xcall(9))."""

from errno import EDEADLK, EINVAL, ETIMEDOUT
from typing import Any

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError
from netstack.kern.spl import IPL, splhigh, splx
from netstack.kern.xcall import (
    XC_HIGHPRI,
    XC_LOWPRI,
    xc_barrier,
    xc_broadcast,
    xc_unicast,
    xc_wait,
)

LEVELS = ("clock", "bio", "net", XC_HIGHPRI)


@pytest.mark.parametrize("level", [XC_LOWPRI, *LEVELS])
def test_every_cpu_runs_it_once_in_its_context(level: str) -> None:
    engine = make(4)
    seen: list[tuple[int, object, int]] = []

    def call(what: str, number: int) -> None:
        assert (what, number) == ("args", 2)
        cpu = current(engine)
        seen.append((cpu.index, cpu.context, cpu.spl))

    xc_wait(engine, xc_broadcast(engine, call, "args", 2, level=level))
    spl = IPL.NONE if level == XC_LOWPRI else LEVELS.index(level) + 1
    context = "thread" if level == XC_LOWPRI else "soft"
    assert sorted(seen) == [(index, context, spl) for index in range(4)]
    seen.clear()
    xc_wait(engine, xc_unicast(engine, 2, call, "args", 2, level=level))
    assert seen == [(2, context, spl)]
    assert (engine.xcalls.broadcasts, engine.xcalls.unicasts) == (1, 1)


@pytest.mark.parametrize("level", [XC_LOWPRI, XC_HIGHPRI])
def test_on_the_wall(machine: Any, level: str) -> None:
    m = machine(ncpu=3, clock="wall")
    seen: list[int | None] = []

    def call() -> None:
        cpu = m.engine.curcpu()
        seen.append(None if cpu is None else cpu.index)

    for _ in range(5):
        xc_wait(m.engine, xc_broadcast(m.engine, call, level=level))
    if level == XC_LOWPRI:  # threads are on no CPU there
        assert seen == [None] * 15
    else:
        assert all(seen.count(index) == 5 for index in range(3)) and len(seen) == 15


@pytest.mark.parametrize("level", [XC_LOWPRI, XC_HIGHPRI])
def test_calls_to_a_cpu_keep_their_order(level: str) -> None:
    engine = make(2)
    seen: list[int] = []
    calls = [xc_unicast(engine, 1, seen.append, i, level=level) for i in range(5)]
    assert not any(call.is_done for call in calls)
    xc_wait(engine, calls[-1])
    assert seen == [0, 1, 2, 3, 4] and all(call.is_done for call in calls)


def test_low_priority_may_wait_and_high_priority_may_not() -> None:
    engine = make(2)
    xc_wait(engine, xc_broadcast(engine, engine.sleep, 1e-3))
    assert engine.now_ns() >= 1_000_000
    with pytest.raises(NetstackError) as caught:
        xc_wait(engine, xc_broadcast(engine, engine.sleep, 1e-3, level="net"))
    assert caught.value.errno == EDEADLK


def test_an_error_comes_out_of_the_wait_and_the_other_cpus_have_run_it() -> None:
    engine = make(3)
    ran: list[int] = []

    def call() -> None:
        ran.append(current(engine).index)
        if current(engine).index == 1:
            raise ValueError("not here")

    with pytest.raises(ValueError, match="not here") as caught:
        xc_wait(engine, xc_broadcast(engine, call, level=XC_HIGHPRI))
    assert sorted(ran) == [0, 1, 2]
    assert any("CPU 1" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("level", [XC_LOWPRI, XC_HIGHPRI])
def test_a_barrier_outlasts_handlers_that_were_under_way(level: str) -> None:
    """The handler runs when the barrier begins; later ones need not be over."""
    engine = make(3)
    log: list[str] = []

    def handler(_: object) -> None:
        log.append("begin")
        engine.charge("work", 100_000)
        log.append("end")

    si = engine.softints.establish("serial", handler)
    engine.softints.schedule_cpu(si, 2)
    engine.run(seconds=1e-6)
    assert log == ["begin"]
    xc_barrier(engine, level)
    assert log == ["begin", "end"]


def test_a_high_call_waits_for_the_spl_and_a_stuck_cpu_is_named() -> None:
    engine = make(2)
    seen: list[int] = []

    def work() -> None:
        cpu = current(engine)
        s = splhigh(cpu)
        engine.charge("work", 1_000_000)
        seen.append(1)
        splx(cpu, s)

    engine.spawn(work, cpu=1)
    engine.run(seconds=1e-6)
    call = xc_broadcast(engine, seen.append, 2, level=XC_HIGHPRI)
    with pytest.raises(NetstackError, match=r"CPUs left: \[1\]") as caught:
        xc_wait(engine, call, timeout_s=1e-4)
    assert caught.value.errno == ETIMEDOUT
    xc_wait(engine, call)
    assert seen == [2, 1, 2]


def test_who_may_not_call() -> None:
    engine = make()
    errnos: list[object] = []

    def attempt(_: object = None) -> None:
        for fn in (lambda: xc_broadcast(engine, print), lambda: xc_barrier(engine)):
            with pytest.raises(NetstackError) as caught:
                fn()
            errnos.append(caught.value.errno)

    engine.softints.schedule_cpu(engine.softints.establish("net", attempt), 0)
    Device(engine, "dev", then=attempt).fire()
    engine.run()
    assert errnos == [EDEADLK] * 4


def test_nonsense_is_refused() -> None:
    engine = make(2)
    for fn in (
        lambda: xc_unicast(engine, 2, print),
        lambda: xc_broadcast(engine, print, level="high"),
    ):
        with pytest.raises(NetstackError) as caught:
            fn()
        assert caught.value.errno == EINVAL
