"""Priority levels: raising, restoring, and what an SPL holds off (paper §2.2.2)."""

from errno import EINVAL
from itertools import pairwise

import pytest
from sim.rig import Device, current, make
from unit.kern.kernrig import Actors

from netstack import NetstackError
from netstack.kern import spl
from netstack.kern.spl import IPL, makeiplcookie, splhigh, splnet, splraise, splraiseipl, splx


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
        ("splserial", IPL.HIGH),
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


def test_a_level_known_at_run_time_only() -> None:
    cpu = make().cpus[0]
    assert splraiseipl(cpu, makeiplcookie(IPL.SCHED)) == IPL.NONE and cpu.spl == IPL.SCHED
    assert splraiseipl(cpu, makeiplcookie(IPL.SOFTNET)) == IPL.SCHED and cpu.spl == IPL.SCHED
    with pytest.raises(NetstackError, match="IPL 8") as caught:
        makeiplcookie(8)
    assert caught.value.errno == EINVAL


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_what_was_held_off_comes_at_splx_highest_first_on_either_machine(clock: str) -> None:
    """A softint of the lowest level raises the SPL; all others become pending meanwhile."""
    with Actors(clock) as actors:
        engine = actors.engine
        order: list[str] = []
        sources = []
        softs = [
            engine.softints.establish(level, lambda _, level=level: order.append(level))
            for level in ("bio", "net", "serial")
        ]

        def low() -> None:
            cpu = engine.curcpu()
            s = splhigh(cpu)
            for si in softs:
                engine.softints.schedule(si)
            for source in sources:
                source.raise_()
            order.append("masked")
            splx(cpu, s)
            order.append("after")

        def note(name: str) -> None:
            if armed:
                order.append(name)

        armed = False
        for ipl in (IPL.VM, IPL.HIGH, IPL.SCHED):
            sources.append(actors.interrupt(ipl, lambda name=ipl.name: note(name), 0))
        actors.finish()
        armed = True
        actors.softint("clock", low, 0)
        actors.finish()
        actors.until(lambda: len(order) == 8)
        assert order == ["masked", "HIGH", "SCHED", "VM", "serial", "net", "bio", "after"]


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_a_partial_splx_lets_in_what_is_above_the_new_level_only(clock: str) -> None:
    with Actors(clock) as actors:
        engine = actors.engine
        order: list[str] = []
        softs = [
            engine.softints.establish(level, lambda _, level=level: order.append(level))
            for level in ("bio", "net", "serial")
        ]

        def low() -> None:
            cpu = engine.curcpu()
            s = splhigh(cpu)
            for si in softs:
                engine.softints.schedule(si)
            splx(cpu, IPL.SOFTNET)
            order.append("at softnet")
            assert splnet(cpu) == IPL.SOFTNET
            splx(cpu, s)
            order.append("after")

        actors.softint("clock", low, 0)
        actors.finish()
        actors.until(lambda: len(order) == 5)
        assert order == ["serial", "at softnet", "net", "bio", "after"]


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_priorities_of_softints_among_themselves(clock: str) -> None:
    """All pending at once: highest level first, each level in the order of scheduling."""
    with Actors(clock) as actors:
        engine = actors.engine
        order: list[str] = []
        names = ["clock1", "serial1", "net1", "net2", "bio1", "clock2", "serial2"]
        softs = {
            name: engine.softints.establish(name[:-1], lambda _, name=name: order.append(name))
            for name in names
        }

        def low() -> None:
            for name in names:
                engine.softints.schedule(softs[name])

        source = actors.interrupt(IPL.HIGH, low, 0)
        actors.until(lambda: len(order) == len(names))
        assert order == ["serial1", "serial2", "net1", "net2", "bio1", "clock1", "clock2"]
        source.disable()


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_an_interrupt_goes_before_softints_that_are_pending(clock: str) -> None:
    """A hard handler schedules a softint and another interrupt, which comes first."""
    with Actors(clock) as actors:
        engine = actors.engine
        order: list[str] = []
        si = engine.softints.establish("serial", lambda _: order.append("soft"))
        armed = False
        second = actors.interrupt(IPL.VM, lambda: order.append("second") if armed else None, 0)
        actors.finish()
        armed = True

        def first() -> None:
            engine.softints.schedule(si)
            second.raise_()
            order.append("first")

        actors.interrupt(IPL.VM, first, 0)
        actors.until(lambda: len(order) == 3)
        assert order == ["first", "second", "soft"]
