"""Softints that block on locks, fast and slow, on both machines (paper §2.1; NetBSD softint(9))."""

from errno import EBUSY, EINVAL, ENXIO
from typing import Literal

import pytest
from sim.rig import current, make
from unit.kern.kernrig import PATIENCE_S, Actors

from netstack import NetstackError
from netstack.kern.mutex import Mutex
from netstack.kern.spl import IPL, splraise, splx

# --- handlers that block on a lock (the thread below is pinned, and goes on)


def test_a_handler_that_blocks_lets_the_pinned_thread_go_on() -> None:
    engine = make()
    mutex = Mutex(engine, "m")
    order: list[str] = []

    def soft(_: object) -> None:
        order.append("soft wants")
        with mutex:
            order.append("soft has")

    si = engine.softints.establish("net", soft, name="blocker")

    def thread() -> None:
        with mutex:
            engine.softints.schedule(si)
            order.append("thread goes on")
            cpu = current(engine)
            assert (cpu.spl, cpu.context, cpu.handler) == (0, "thread", "below")
        order.append("thread after")

    engine.spawn(thread, name="below")
    engine.run()
    # The release gives the softint the CPU back at once: it goes before the thread.
    assert order == ["soft wants", "thread goes on", "soft has", "thread after"]
    assert (si.runs, si.blocks, engine.cpus[0].soft_blocks) == (1, 1, [0, 0, 1, 0])
    assert engine.cpus[0].soft_blocked == 0 and engine.cpus[0].spl == 0


def test_while_a_handler_is_blocked_its_level_waits_and_others_run() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m")
    order: list[str] = []

    def blocks(_: object) -> None:
        order.append("net blocks")
        with mutex:
            order.append("net has")

    blocker = engine.softints.establish("net", blocks)
    others = {
        level: engine.softints.establish(level, lambda _, level=level: order.append(level))
        for level in ("clock", "net", "serial")
    }

    def holder() -> None:
        with mutex:
            engine.sleep(50e-6)

    def schedules() -> None:
        engine.sleep(5e-6)
        engine.softints.schedule(blocker)
        for si in others.values():
            engine.softints.schedule(si)
        engine.softints.schedule_cpu(others["net"], 1)  # another CPU: not held up
        engine.charge("work", 1000)
        order.append("thread")

    engine.spawn(holder, cpu=1)
    engine.spawn(schedules, cpu=0)
    engine.run()
    assert order[0] == "net blocks"
    assert sorted(order[1:5]) == ["clock", "net", "serial", "thread"]
    assert order[5:] == ["net has", "net"]


def test_a_woken_handler_waits_for_the_spl() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m")
    order: list[str] = []

    def blocks(_: object) -> None:
        with mutex:
            order.append("soft")

    si = engine.softints.establish("net", blocks)

    def holder() -> None:
        with mutex:
            engine.sleep(10e-6)
        order.append("released")

    def thread() -> None:
        cpu = current(engine)
        engine.sleep(2e-6)
        engine.softints.schedule(si)
        s = splraise(cpu, IPL.SOFTNET)
        engine.charge("work", 40_000)
        order.append("masked")
        splx(cpu, s)
        order.append("after")

    engine.spawn(holder, cpu=1)
    engine.spawn(thread, cpu=0)
    engine.run()
    assert order == ["released", "masked", "soft", "after"]


def test_handlers_of_several_levels_block_and_finish_on_their_own() -> None:
    engine = make(2)
    locks = {level: Mutex(engine, level) for level in ("clock", "net", "serial")}
    order: list[str] = []

    def blocks(level: str) -> None:
        with locks[level]:
            order.append(level)
            assert current(engine).handler == level

    def holder() -> None:
        for lock in locks.values():
            lock.enter()
        engine.sleep(20e-6)
        for level in ("net", "clock", "serial"):
            locks[level].exit()
            engine.sleep(20e-6)

    softs = [engine.softints.establish(level, blocks, level, name=level) for level in locks]
    engine.spawn(holder, cpu=1)
    engine.run(seconds=5e-6)
    for si in softs:
        engine.softints.schedule_cpu(si, 0)
    engine.run()
    assert order == ["net", "clock", "serial"]
    assert engine.cpus[0].soft_blocks == [1, 0, 1, 1]


def test_a_blocked_handler_gives_up_its_own_holds_of_kernel_lock_only() -> None:
    engine = make(2, "GENERIC")
    mutex = Mutex(engine, "m")
    lock = engine.kernel_lock
    depths: list[tuple[str, int]] = []

    def note(who: str) -> None:
        depths.append((who, lock.lock.depth))  # type: ignore[attr-defined]

    def blocks(_: object) -> None:  # not at level net: under KERNEL_LOCK alone
        note("soft")
        with mutex:
            note("soft again")

    si = engine.softints.establish("bio", blocks)

    def thread() -> None:
        lock.enter()
        lock.enter()
        with mutex:
            engine.softints.schedule(si)
            note("thread")
            assert lock.is_mine
        lock.exit()
        lock.exit()

    engine.spawn(thread)
    engine.run()
    assert depths == [("soft", 3), ("thread", 2), ("soft again", 3)]
    assert lock.lock.depth == 0  # type: ignore[attr-defined]


def test_a_handler_may_not_wait_for_a_condition() -> None:
    engine = make()
    si = engine.softints.establish(
        "net", lambda _: engine.wait_until(lambda: False, "a condition"), name="sleeper"
    )
    engine.softints.schedule_cpu(si, 0)
    with pytest.raises(NetstackError, match=r"sleeper.*a condition"):
        engine.run()


def test_disestablish_waits_for_a_blocked_handler() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m")
    done: list[int] = []

    def blocks(_: object) -> None:
        with mutex:
            done.append(engine.now_ns())

    def holder() -> None:
        with mutex:
            engine.sleep(30e-6)

    si = engine.softints.establish("net", blocks)
    engine.spawn(holder, cpu=1)
    engine.run(seconds=2e-6)
    engine.softints.schedule_cpu(si, 0)
    engine.run(seconds=2e-6)
    assert si.active == 1 and engine.cpus[0].soft_blocked
    engine.softints.disestablish(si)
    assert len(done) == 1 and done[0] > 30_000


def test_a_machine_with_a_blocked_handler_can_be_closed() -> None:
    engine = make()
    mutex = Mutex(engine, "m")
    mutex.enter()
    unwound: list[str] = []

    def blocks(_: object) -> None:
        try:
            mutex.enter()
        finally:
            unwound.append("yes")

    engine.softints.schedule_cpu(engine.softints.establish("net", blocks), 0)
    engine.run()
    engine.close()
    assert unwound == ["yes"]


def test_a_grace_period_does_not_wait_for_a_blocked_handler() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m")
    mutex.enter()
    si = engine.softints.establish("net", lambda _: mutex.enter())
    engine.softints.schedule_cpu(si, 0)
    engine.run()
    engine.pserialize.perform()
    assert engine.cpus[0].soft_blocked


# --- slow softints


def run_variant(variant: Literal["fast", "slow"]) -> tuple[list[str], int]:
    engine = make()
    engine.softints.variant = variant
    order: list[str] = []
    sis = [
        engine.softints.establish(level, lambda _, level=level: order.append(level))
        for level in ("clock", "serial", "net")
    ]

    def thread() -> None:
        for si in sis:
            engine.softints.schedule(si)
        engine.charge("work", 5000)
        order.append("thread")
        engine.sleep(20e-6)
        order.append("thread again")

    engine.spawn(thread)
    engine.run()
    return order, max(each.time_ns for each in engine.activations if each.context == "soft")


def test_slow_softints_wait_for_the_thread_and_cost_a_switch() -> None:
    order, last_ns = run_variant("fast")
    assert order == ["clock", "serial", "net", "thread", "thread again"]
    assert last_ns == 500 + 2 * 50  # the thread's switch, and two dispatches before the last
    order, last_ns = run_variant("slow")
    assert order == ["thread", "serial", "net", "clock", "thread again"]
    assert last_ns == 500 + 5000 + 2 * 500  # full switches


def test_a_variant_is_chosen_before_softints_run() -> None:
    engine = make()
    with pytest.raises(NetstackError) as caught:
        engine.softints.variant = "medium"
    assert caught.value.errno == EINVAL
    si = engine.softints.establish("net", lambda _: None)
    engine.softints.schedule_cpu(si, 0)
    engine.run()
    with pytest.raises(NetstackError) as caught:
        engine.softints.variant = "slow"
    assert caught.value.errno == EBUSY and engine.softints.variant == "fast"


def test_slow_softints_may_block_too() -> None:
    engine = make(2)
    engine.softints.variant = "slow"
    mutex = Mutex(engine, "m")
    order: list[str] = []

    def blocks(_: object) -> None:
        with mutex:
            order.append("soft")

    def holder() -> None:
        with mutex:
            engine.sleep(20e-6)
            order.append("holder")

    si = engine.softints.establish("net", blocks)
    engine.spawn(holder, cpu=1)
    engine.run(seconds=2e-6)
    engine.softints.schedule_cpu(si, 0)
    engine.run()
    assert order == ["holder", "soft"] and si.blocks == 1


# --- the wall machine


def test_on_the_wall_machine_a_blocked_handler_gives_its_cpu_back() -> None:
    with Actors("wall", ncpu=1) as actors:
        engine = actors.engine
        mutex = Mutex(engine, "m")
        order: list[str] = []
        release = False

        def holder() -> None:
            with mutex:
                order.append("held")
                engine.wait_until(lambda: release, "the test", PATIENCE_S)
                order.append("released")

        def blocks(_: object) -> None:
            order.append("net blocks")
            with mutex:
                cpu = engine.curcpu()
                assert (cpu.index, cpu.context, cpu.handler) == (0, "soft", "blocker")
                order.append("net has")

        blocker = engine.softints.establish("net", blocks, name="blocker")
        same = engine.softints.establish("net", lambda _: order.append("net"))
        lower = engine.softints.establish("clock", lambda _: order.append("clock"))
        actors.thread(holder)
        actors.until(lambda: "held" in order)
        engine.softints.schedule_cpu(blocker, 0)
        actors.until(lambda: bool(engine.cpus[0].soft_blocked))
        engine.softints.schedule_cpu(same, 0)
        engine.softints.schedule_cpu(lower, 0)
        actors.interrupt(IPL.VM, lambda: order.append("hard"), 0)
        actors.until(lambda: {"clock", "hard"} <= set(order))
        assert "net" not in order  # its level waits
        engine.run()  # at rest with a blocked handler
        assert blocker.active == 1
        release = True
        actors.until(lambda: "net" in order)
        assert order[-3:] == ["released", "net has", "net"]
        assert (blocker.blocks, engine.cpus[0].soft_blocked) == (1, 0)


def test_on_the_wall_machine_a_blocked_handler_is_ended_by_close() -> None:
    actors = Actors("wall", ncpu=1)
    mutex = Mutex(actors.engine, "m")
    mutex.enter()
    seen: list[int | None] = []

    def blocks(_: object) -> None:
        try:
            mutex.enter()
        except NetstackError as error:
            seen.append(error.errno)

    si = actors.engine.softints.establish("net", blocks)
    actors.engine.softints.schedule_cpu(si, 0)
    actors.until(lambda: bool(actors.engine.cpus[0].soft_blocked))
    actors.engine.close()
    assert seen == [ENXIO]


def test_the_wall_machine_has_no_choice_of_variants() -> None:
    with Actors("wall") as actors, pytest.raises(NetstackError) as caught:
        actors.engine.softints.variant = "slow"
    assert caught.value.errno == EINVAL
