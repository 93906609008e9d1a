"""Read sections and grace periods under the rules of contexts (paper §3.1.3)."""

from errno import EDEADLK

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError
from netstack._fast.pserialize import STRATEGIES
from netstack.kern.pserialize import Pserialize
from netstack.kern.spl import IPL, splhigh, splx
from netstack.machine.virtual import VirtualEngine


def strategies() -> list[str]:
    return sorted(name for name in STRATEGIES if name != "membarrier")


def the(engine: VirtualEngine) -> Pserialize:
    assert isinstance(engine.pserialize, Pserialize)
    return engine.pserialize


def test_a_section_holds_off_softints() -> None:
    engine = make()
    order: list[str] = []
    si = engine.softints.establish("serial", lambda _: order.append("soft"))

    def work() -> None:
        cpu = current(engine)
        with the(engine).section(cpu):
            assert cpu.spl == IPL.SOFTSERIAL and engine.psz.in_section(0)
            engine.softints.schedule(si)
            order.append("reader")
        assert cpu.spl == IPL.NONE and not engine.psz.in_section(0)

    engine.spawn(work)
    engine.run()
    assert order == ["reader", "soft"]


def test_hard_handlers_read_only_under_splhigh() -> None:
    engine = make()
    seen: list[str] = []

    def hard() -> None:
        cpu = current(engine)
        try:
            the(engine).read_enter(cpu)
        except NetstackError as error:
            assert error.errno == EDEADLK
            seen.append("refused")
        s = splhigh(cpu)
        with the(engine).section(cpu):
            seen.append("read")
        splx(cpu, s)

    Device(engine, "dev", then=hard).fire()
    engine.run()
    assert seen == ["refused", "read"]


@pytest.mark.parametrize("strategy", strategies())
def test_perform_outlasts_every_section_that_was_open(strategy: str) -> None:
    engine = make(4, psz_strategy=strategy)
    current_object = ["old"]
    freed: list[str] = []
    used: list[tuple[str, bool]] = []

    def reader(_: object) -> None:
        cpu = current(engine)
        s = the(engine).read_enter(cpu)
        name = current_object[0]
        used.append((name, name in freed))
        the(engine).read_exit(cpu, s)
        engine.charge("work", 70)

    si = engine.softints.establish("net", reader)
    for cpu in range(1, 4):
        device = Device(engine, f"q{cpu}", cpu=cpu, softint=si)
        for when_ns in range(cpu, 20_000, 250):
            device.fire_at(when_ns)

    def writer() -> None:
        for version in range(5):
            engine.charge("work", 1000)
            old = current_object[0]
            current_object[0] = f"v{version}"
            the(engine).perform()
            freed.append(old)

    engine.spawn(writer)
    engine.run()
    assert len(freed) == 5 and {name for name, _ in used} >= {"old", "v1"}
    assert not any(was_freed for _, was_freed in used)


def test_idle_cpus_do_not_stall_it() -> None:
    engine = make(64)
    the(engine).perform()
    assert engine.now_ns() == 0 and engine.psz.performs == 1


def test_performers_take_turns() -> None:
    engine = make(3)
    order: list[str] = []

    def perform(name: str) -> None:
        engine.charge("work", 1)
        order.append(f"{name} begins")
        the(engine).perform()
        order.append(f"{name} ends")

    def busy() -> None:
        for _ in range(10):
            engine.charge("work", 1000)

    engine.spawn(busy, cpu=2)
    engine.spawn(lambda: perform("a"), cpu=0)
    engine.spawn(lambda: perform("b"), cpu=1)
    engine.run()
    assert sorted(order[:2]) == ["a begins", "b begins"]
    assert sorted(order[2:]) == ["a ends", "b ends"]
    assert engine.psz.performs == 2


@pytest.mark.parametrize("context", ["hard", "soft"])
def test_only_threads_perform(context: str) -> None:
    engine = make()
    if context == "hard":
        Device(engine, "dev", then=the(engine).perform).fire()
    else:
        si = engine.softints.establish("net", lambda _: the(engine).perform())
        engine.softints.schedule_cpu(si, 0)
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


def test_waiting_inside_a_section_is_refused() -> None:
    engine = make()

    def work() -> None:
        cpu = current(engine)
        s = the(engine).read_enter(cpu)
        try:
            engine.wait_until(lambda: False, "anything")
        finally:
            the(engine).read_exit(cpu, s)

    engine.spawn(work)
    with pytest.raises(NetstackError, match="read section") as caught:
        engine.run()
    assert caught.value.errno == EDEADLK
