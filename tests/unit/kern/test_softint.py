"""Software interrupts: levels, order, once however often, on which CPU (paper §2.1, §3.3)."""

from errno import EINVAL, ENOMEM

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError
from netstack.kern.softint import softint_schedule
from netstack.kern.spl import splhigh, splx


def test_it_runs_after_the_hard_handler_on_the_same_cpu() -> None:
    engine = make(2)
    seen: list[tuple[str, int, int, object]] = []

    def soft(arg: str) -> None:
        cpu = current(engine)
        seen.append((arg, cpu.index, cpu.spl, cpu.context))

    si = engine.softints.establish("net", soft, "hello", name="wm0 rx")
    device = Device(engine, "dev", cpu=1, softint=si, work=30)
    device.then = lambda: seen.append(("hard", 1, current(engine).spl, "hard"))
    device.fire_at(0)
    engine.run()
    assert seen == [("hard", 1, 5, "hard"), ("hello", 1, 3, "soft")]
    assert si.runs == 1 and si.active == 0


def test_scheduled_many_times_it_runs_once() -> None:
    engine = make()
    runs: list[int] = []
    si = engine.softints.establish("net", lambda _: runs.append(1))

    def work() -> None:
        cpu = current(engine)
        s = splhigh(cpu)
        for _ in range(5):
            engine.softints.schedule(si)
        splx(cpu, s)

    engine.spawn(work)
    engine.run()
    assert runs == [1]


def test_scheduled_again_while_it_runs_it_runs_once_more() -> None:
    engine = make()
    depth: list[int] = []
    running = 0

    def soft(_: object) -> None:
        nonlocal running
        running += 1
        depth.append(running)
        if len(depth) < 3:
            engine.softints.schedule(si)
            engine.softints.schedule(si)
            engine.charge("work", 10)
        running -= 1

    si = engine.softints.establish("net", soft)
    engine.spawn(lambda: engine.softints.schedule(si))
    engine.run()
    assert depth == [1, 1, 1]  # never inside itself


def test_a_level_is_a_fifo_and_higher_levels_go_first() -> None:
    engine = make()
    order: list[str] = []

    def establish(level: str, name: str) -> object:
        return engine.softints.establish(level, order.append, name)

    sis = [
        establish(*row)
        for row in (("clock", "c1"), ("net", "n1"), ("net", "n2"), ("serial", "s"), ("bio", "b"))
    ]

    def work() -> None:
        cpu = current(engine)
        s = splhigh(cpu)
        for index in (2, 1, 0, 4, 3):
            engine.softints.schedule(sis[index])  # type: ignore[arg-type]
        splx(cpu, s)

    engine.spawn(work)
    engine.run()
    assert order == ["s", "n2", "n1", "b", "c1"]


def test_a_higher_level_preempts_a_lower_one_and_not_the_other_way() -> None:
    engine = make()
    order: list[str] = []

    def low(_: object) -> None:
        order.append("clock begins")
        engine.softints.schedule(high)
        order.append("clock ends")

    def net(_: object) -> None:
        order.append("net begins")
        engine.softints.schedule(other)
        order.append("net ends")

    lowest = engine.softints.establish("clock", low)
    high = engine.softints.establish("net", net)
    other = engine.softints.establish("bio", lambda _: order.append("bio"))
    engine.spawn(lambda: engine.softints.schedule(lowest))
    engine.run()
    assert order == ["clock begins", "net begins", "net ends", "bio", "clock ends"]


def test_a_thread_s_schedule_runs_before_it_returns() -> None:
    engine = make()
    order: list[str] = []
    si = engine.softints.establish("net", lambda _: order.append("soft"))

    def work() -> None:
        softint_schedule(si, current(engine))
        order.append("thread")

    engine.spawn(work)
    engine.run()
    assert order == ["soft", "thread"]


def test_another_cpu_can_be_asked() -> None:
    engine = make(3)
    seen: list[tuple[int, int]] = []
    si = engine.softints.establish(
        "net", lambda _: seen.append((current(engine).index, engine.now_ns()))
    )
    engine.at(100, lambda: engine.softints.schedule_cpu(si, 2))
    engine.run()
    assert seen == [(2, 150)]

    def work() -> None:
        engine.charge("work", 300)
        engine.softints.schedule_cpu(si, 1)
        engine.softints.schedule_cpu(si, 0)

    engine.spawn(work, cpu=0)
    engine.run()
    asked_ns = 150 + 500 + 300
    assert sorted(seen[1:]) == [(0, asked_ns + 50), (1, asked_ns + 50)]


def test_one_softint_may_run_on_all_cpus_at_once() -> None:
    engine = make(4)
    most = 0

    def soft(_: object) -> None:
        nonlocal most
        most = max(most, si.active)
        engine.charge("work", 1000)

    si = engine.softints.establish("net", soft)
    for cpu in range(4):
        engine.softints.schedule_cpu(si, cpu)
    engine.run()
    assert most == 4 and si.runs == 4
    assert engine.now_ns() == 1050


def test_without_a_cpu_schedule_is_an_error() -> None:
    engine = make()
    si = engine.softints.establish("net", lambda _: None)
    with pytest.raises(NetstackError) as caught:
        engine.softints.schedule(si)
    assert caught.value.errno == EINVAL and "schedule_cpu" in str(caught.value)


@pytest.mark.parametrize("level", ["network", 4, -1])
def test_an_unknown_level_is_an_error(level: str | int) -> None:
    with pytest.raises(NetstackError) as caught:
        make().softints.establish(level, lambda _: None)
    assert caught.value.errno == EINVAL


def test_handles_run_out_and_come_back() -> None:
    engine = make()
    made = []
    with pytest.raises(NetstackError) as caught:
        for _ in range(300):
            made.append(engine.softints.establish(0, lambda _: None))
    assert caught.value.errno == ENOMEM
    assert len(made) == 255 - 1  # one is the callouts'
    engine.softints.disestablish(made[7])
    engine.softints.establish(0, lambda _: None)


def test_disestablish_waits_for_a_run_under_way() -> None:
    engine = make(2)
    done: list[int] = []

    def soft(_: object) -> None:
        engine.charge("work", 5000)
        done.append(engine.now_ns())

    si = engine.softints.establish("net", soft)
    engine.softints.schedule_cpu(si, 1)
    engine.run(seconds=1e-6)
    assert si.active == 1 and not done
    engine.softints.disestablish(si)
    assert done == [5050] and si.active == 0
    engine.softints.schedule_cpu(si, 1)  # late comers are ignored
    engine.run()
    assert done == [5050]
    with pytest.raises(NetstackError) as caught:
        engine.softints.disestablish(si)
    assert caught.value.errno == EINVAL


def test_disestablish_from_a_handler_is_refused() -> None:
    engine = make()
    si = engine.softints.establish("net", lambda _: engine.softints.disestablish(si))
    engine.softints.schedule_cpu(si, 0)
    with pytest.raises(NetstackError, match="softint_establish: not from soft"):
        engine.run()


def test_a_softint_passes_a_switch_point() -> None:
    engine = make(2)
    si = engine.softints.establish("net", lambda _: engine.charge("work", 100))
    # CPU 1 never idles in between and yet the grace period ends, for softints count as switches.
    for when_ns in range(0, 1000, 100):
        engine.at(when_ns, lambda: engine.softints.schedule_cpu(si, 1))
    engine.run(seconds=2e-7)
    engine.psz.perform_begin()
    assert engine.psz.perform_poll() == 1  # CPU 0 idles
    engine.run()
    assert engine.psz.perform_poll() == 0
