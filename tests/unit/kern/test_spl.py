"""Priority levels: raising, restoring, and what an SPL holds off (paper §2.2.2)."""

from itertools import pairwise

import pytest
from sim.rig import Device, current, make

from netstack.kern import spl
from netstack.kern.spl import IPL, splhigh, splnet, splraise, splx


def test_levels_are_in_the_paper_s_order() -> None:
    order = [
        IPL.NONE,
        IPL.SOFTCLOCK,
        IPL.SOFTBIO,
        IPL.SOFTNET,
        IPL.SOFTSERIAL,
        IPL.VM,
        IPL.SCHED,
        IPL.HIGH,
    ]
    assert all(low < high for low, high in pairwise(order))
    assert IPL.NET is IPL.VM and IPL.SERIAL is IPL.HIGH


def test_raising_never_lowers() -> None:
    cpu = make().cpus[0]
    assert splhigh(cpu) == IPL.NONE and cpu.spl == IPL.HIGH
    assert splnet(cpu) == IPL.HIGH and cpu.spl == IPL.HIGH
    assert splraise(cpu, IPL.NONE) == IPL.HIGH and cpu.spl == IPL.HIGH


def test_splx_does_not_raise() -> None:
    cpu = make().cpus[0]
    splx(cpu, IPL.HIGH)
    assert cpu.spl == IPL.NONE


@pytest.mark.parametrize(
    ("name", "ipl"),
    [
        ("splsoftclock", IPL.SOFTCLOCK),
        ("splsoftbio", IPL.SOFTBIO),
        ("splsoftnet", IPL.SOFTNET),
        ("splsoftserial", IPL.SOFTSERIAL),
        ("splvm", IPL.VM),
        ("splnet", IPL.VM),
        ("splsched", IPL.SCHED),
        ("splhigh", IPL.HIGH),
    ],
)
def test_each_raise_has_its_level(name: str, ipl: IPL) -> None:
    cpu = make().cpus[0]
    assert getattr(spl, name)(cpu) == IPL.NONE
    assert cpu.spl == ipl


def test_an_interrupt_at_or_below_the_spl_waits_for_splx() -> None:
    engine = make()
    order: list[str] = []
    low = Device(engine, "low", ipl=IPL.VM, then=lambda: order.append("low"))
    middle = Device(engine, "middle", ipl=IPL.SCHED, then=lambda: order.append("middle"))
    high = Device(engine, "high", ipl=IPL.HIGH, then=lambda: order.append("high"))
    si = engine.softints.establish("serial", lambda _: order.append("soft"))

    def work() -> None:
        cpu = current(engine)
        s = splraise(cpu, IPL.SCHED)
        engine.softints.schedule(si)
        engine.charge("work", 1000)
        assert order == ["high"]  # the one above the SPL came at once
        order.append("splx")
        splx(cpu, s)
        order.append("after")

    engine.spawn(work)
    for device in (low, middle, high):
        device.fire_at(600)
    engine.run()
    assert order == ["high", "splx", "middle", "low", "soft", "after"]


def test_everything_pending_comes_at_splx_highest_first() -> None:
    engine = make()
    order: list[str] = []
    for ipl in (IPL.VM, IPL.HIGH, IPL.SCHED):
        name = ipl.name
        Device(engine, name, ipl=ipl, then=lambda name=name: order.append(name)).fire_at(600)
    softs = [
        engine.softints.establish(level, lambda _, level=level: order.append(level))
        for level in ("clock", "net", "bio", "serial")
    ]

    def work() -> None:
        cpu = current(engine)
        s = splhigh(cpu)
        for si in softs:
            engine.softints.schedule(si)
        engine.charge("work", 1000)
        assert not order
        splx(cpu, s)

    engine.spawn(work)
    engine.run()
    assert order == ["HIGH", "SCHED", "VM", "serial", "net", "bio", "clock"]


def test_an_spl_says_nothing_to_other_cpus() -> None:
    engine = make(2)
    device = Device(engine, "dev", cpu=1)
    device.fire_at(600)

    def work() -> None:
        cpu = current(engine)
        s = splhigh(cpu)
        engine.charge("work", 1000)
        assert device.log == [(700, 1)]
        splx(cpu, s)

    engine.spawn(work)
    engine.run()


def test_a_handler_runs_at_its_level_and_a_higher_one_nests() -> None:
    engine = make()
    levels: list[tuple[str, int]] = []

    def note(name: str, amount: int) -> None:
        levels.append((name, current(engine).spl))
        engine.charge("work", amount)
        levels.append((name, current(engine).spl))

    Device(engine, "low", ipl=IPL.VM, then=lambda: note("low", 1000)).fire_at(0)
    Device(engine, "same", ipl=IPL.VM, then=lambda: note("same", 10)).fire_at(200)
    Device(engine, "high", ipl=IPL.SCHED, then=lambda: note("high", 10)).fire_at(300)
    engine.run()
    assert levels == [("low", 5), ("high", 6), ("high", 6), ("low", 5), ("same", 5), ("same", 5)]
    assert engine.cpus[0].spl == IPL.NONE
