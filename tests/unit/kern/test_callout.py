"""Callouts (NetBSD callout(9)): when they run, what stops them, and against a model."""

from errno import EBUSY, EDEADLK, EINVAL
from random import Random
from typing import Any

import pytest
from sim.rig import current, make

from netstack import NetstackError
from netstack.kern.callout import Callout
from netstack.kern.mutex import Mutex
from netstack.kern.spl import splhigh, splx


def test_a_callout_runs_in_softclock_on_its_cpu_at_its_time() -> None:
    engine = make(2)
    seen: list[tuple[object, int, object, int]] = []

    def call(arg: str) -> None:
        cpu = current(engine)
        seen.append((arg, cpu.index, cpu.context, engine.now_ns()))

    callout = Callout(engine, call, "x", cpu=1)
    callout.schedule(1.0)
    assert callout.is_pending
    engine.run()
    assert seen == [("x", 1, "soft", 1_000_000_055)] and not callout.is_pending


def test_stop_and_schedule_again() -> None:
    engine = make()
    seen: list[int] = []
    callout = Callout(engine, lambda _: seen.append(engine.now_ns()))
    callout.schedule(1.0)
    assert callout.stop() and not callout.stop()
    engine.run(seconds=2)
    assert not seen
    callout.schedule(1.0)
    callout.schedule(3.0)  # the first appointment is void
    engine.run()
    assert seen == [5_000_000_055]


def test_halt_waits_for_a_call_under_way() -> None:
    engine = make()
    done: list[int] = []

    def slow(_: object) -> None:
        engine.charge("work", 10_000)
        done.append(1)

    callout = Callout(engine, slow)
    callout.schedule(1e-6)
    engine.run(seconds=2e-6)
    assert not callout.halt() and done == [1]


def test_a_callout_that_is_not_mpsafe_has_kernel_lock() -> None:
    engine = make()
    seen: list[bool] = []
    for mpsafe in (True, False):
        Callout(engine, lambda _: seen.append(engine.kernel_lock.is_mine), mpsafe=mpsafe).schedule(
            0
        )
    engine.run()
    assert seen == [True, False] or seen == [False, True]
    assert not engine.kernel_lock.is_mine


def test_a_callout_re_arms_itself_in_the_background() -> None:
    engine = make()
    beats: list[int] = []

    def beat(_: object) -> None:
        beats.append(1)
        callout.schedule(1.0, background=True)

    callout = Callout(engine, beat)
    callout.schedule(1.0, background=True)
    engine.run()
    assert not beats
    engine.run(seconds=10.5)
    assert len(beats) == 10


def test_the_states_of_a_callout() -> None:
    engine = make()
    seen: list[tuple[bool, bool, bool, bool]] = []

    def states() -> tuple[bool, bool, bool, bool]:
        return callout.is_pending, callout.is_expired, callout.is_invoking, callout.is_active

    def call(_: object) -> None:
        seen.append(states())
        callout.ack()
        seen.append(states())

    callout = Callout(engine)
    with pytest.raises(NetstackError, match="setfunc"):
        callout.schedule(1.0)
    callout.setfunc(call)
    assert states() == (False, False, False, False)
    callout.schedule(1.0)
    assert states() == (True, False, False, True)
    engine.run()
    assert seen == [(False, True, True, True), (False, True, False, False)]
    assert states() == (False, True, False, False)
    callout.stop()
    assert states() == (False, False, False, False)
    done: list[object] = []
    callout.reset(1.0, done.append, "reset")
    engine.run()
    assert done == ["reset"] and callout.is_invoking  # nobody said ack


def test_a_callout_that_waits_for_its_cpu_can_still_be_stopped_or_moved() -> None:
    """Its time has come, but the CPU is at splhigh: an old turn must not make a new call early."""
    engine = make(2)
    calls: list[int] = []
    callout = Callout(engine, lambda _: calls.append(engine.now_ns()), cpu=1)

    def hold(then: object) -> None:
        cpu = current(engine)
        s = splhigh(cpu)
        engine.charge("work", 5000)
        assert callout.is_expired and callout.is_pending
        then()  # type: ignore[operator]
        splx(cpu, s)

    callout.schedule(1e-6)
    engine.spawn(lambda: hold(callout.stop), cpu=1)
    engine.run()
    assert calls == [] and not callout.is_expired
    start_ns = engine.now_ns()
    callout.schedule(1e-6)
    engine.spawn(lambda: hold(lambda: callout.schedule(1.0)), cpu=1)
    engine.run()
    assert len(calls) == 1 and calls[0] - start_ns > 1_000_000_000


def test_halt_from_the_function_is_a_stop_and_from_a_softint_an_error() -> None:
    engine = make()
    seen: list[bool] = []

    def call(_: object) -> None:
        callout.schedule(5.0)
        seen.append(callout.halt())

    callout = Callout(engine, call)
    callout.schedule(0)
    engine.run()
    assert seen == [True] and not callout.is_pending
    si = engine.softints.establish("net", lambda _: callout.halt())
    engine.softints.schedule_cpu(si, 0)
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


def test_halt_catches_a_call_that_schedules_itself_and_lets_the_interlock_go() -> None:
    engine = make(2)
    mutex = Mutex(engine, "interlock")
    log: list[str] = []

    def call(_: object) -> None:
        log.append("begin")
        engine.charge("work", 10_000)
        log.append(f"interlock free: {not mutex.is_held}")
        callout.schedule(1.0)

    callout = Callout(engine, call)

    def halter() -> None:
        engine.sleep(2e-6)
        with mutex:
            assert log == ["begin"] and not callout.halt(mutex)
            log.append(f"halted, mutex held: {mutex.is_held}")

    callout.schedule(1e-6)
    engine.spawn(halter, cpu=1)
    engine.run()
    assert log == ["begin", "interlock free: True", "halted, mutex held: True"]
    assert not callout.is_pending and not mutex.is_held


def test_only_a_halted_callout_is_destroyed() -> None:
    engine = make()
    callout = Callout(engine, print)
    callout.schedule(1.0)
    with pytest.raises(NetstackError, match="pending") as caught:
        callout.destroy()
    assert caught.value.errno == EBUSY
    callout.halt()
    callout.destroy()
    with pytest.raises(NetstackError, match="destroyed") as caught:
        callout.schedule(1.0)
    assert caught.value.errno == EINVAL


def test_a_failing_call_does_not_hold_up_the_others() -> None:
    engine = make()
    done: list[object] = []

    def fail(_: object) -> None:
        raise ValueError("bad call")

    for fn in (fail, done.append):
        Callout(engine, fn, "x").schedule(1e-6)
    with pytest.raises(ValueError, match="bad call"):
        engine.run()
    engine.run()
    assert done == ["x"]


def test_callouts_against_a_model(seed: int) -> None:
    """Random schedule, stop and time: each call at its last appointment, none after a stop."""
    rng = Random(seed)
    for _ in range(20):
        engine = make(2, seed=rng.getrandbits(16))
        calls: list[tuple[int, int]] = []
        due: dict[int, int] = {}
        callouts = [
            Callout(
                engine,
                lambda i: calls.append((i, engine.now_ns() // 1000)),  # noqa: B023
                i,
                cpu=i % 2,
            )
            for i in range(4)
        ]
        expected: list[tuple[int, int]] = []
        for _ in range(60):
            i = rng.randrange(4)
            now_us = engine.now_ns() // 1000
            action = rng.random()
            if action < 0.5:
                delay_us = rng.randrange(1, 40) * 10
                callouts[i].schedule(delay_us * 1e-6)
                due[i] = now_us + delay_us
            elif action < 0.7:
                assert callouts[i].stop() == (i in due)
                due.pop(i, None)
            else:
                engine.run(seconds=rng.randrange(1, 30) * 1e-5)
                now_us = engine.now_ns() // 1000
                over = sorted((when, j) for j, when in due.items() if when < now_us)
                expected += [(j, when) for when, j in over]
                for _, j in over:
                    del due[j]
        engine.run()
        expected += [(j, when) for when, j in sorted((when, j) for j, when in due.items())]
        assert sorted(calls) == sorted(expected)
        engine.close()


def test_on_the_wall_stop_halt_and_schedule_from_many_threads(machine: Any) -> None:
    """No call after halt has returned, whoever schedules it and wherever it runs."""
    m = machine(ncpu=2, clock="wall")
    m.engine.start()
    calls = [0]
    is_inside = [False]

    def call(_: object) -> None:
        is_inside[0] = True
        calls[0] += 1
        is_inside[0] = False
        callout.schedule(0)

    callout = Callout(m.engine, call, cpu=1)
    for _ in range(50):
        before = calls[0]
        callout.schedule(0)
        m.engine.wait_until(lambda before=before: calls[0] > before, "a call")
        callout.halt()
        after = calls[0]
        assert not is_inside[0] and not callout.is_pending
        m.engine.run(seconds=0.0005)
        assert calls[0] == after
    m.engine.stop()


def test_a_cpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(NetstackError) as caught:
        Callout(make(), print, cpu=9)
    assert caught.value.errno == EINVAL
