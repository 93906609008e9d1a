"""Mutexes, spin and adaptive (paper §3.1.1, Table 1)."""

import random
from errno import EBUSY, EDEADLK, EINVAL, EPERM, ETIMEDOUT

import pytest
from sim.rig import Device, current, make
from unit.kern.kernrig import Actors

from netstack import NetstackError
from netstack.kern.mutex import Mutex
from netstack.kern.softint import LEVELS
from netstack.kern.spl import IPL


def errno_of(call: object, *args: object) -> int | None:
    with pytest.raises(NetstackError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.errno


# --- which kind


@pytest.mark.parametrize(
    ("ipl", "is_spin"),
    [
        (IPL.NONE, False),
        (IPL.SOFTCLOCK, False),
        (IPL.SOFTBIO, False),
        (IPL.SOFTNET, False),
        (IPL.SOFTSERIAL, False),
        (IPL.VM, True),
        (IPL.NET, True),
        (IPL.SCHED, True),
        (IPL.HIGH, True),
    ],
)
def test_the_level_decides_the_kind(ipl: IPL, is_spin: bool) -> None:
    engine = make()
    mutex = Mutex(engine, "m", ipl)
    levels: list[int] = []

    def work() -> None:
        with mutex:
            levels.append(current(engine).spl)
        levels.append(current(engine).spl)

    engine.spawn(work)
    engine.run()
    assert mutex.is_spin is is_spin
    assert levels == [int(ipl) if is_spin else 0, 0]


# --- both kinds


@pytest.mark.parametrize("ipl", [IPL.NONE, IPL.NET])
def test_not_reentrant_in_any_build(ipl: IPL) -> None:
    engine = make()
    mutex = Mutex(engine, "list", ipl)
    with mutex:
        assert not mutex.try_enter()
        with pytest.raises(NetstackError, match=r"list.*control") as caught:
            mutex.enter()
        assert mutex.owned
    assert caught.value.errno == EDEADLK and not mutex.is_held

    def work() -> None:
        with mutex:
            assert errno_of(mutex.enter) == EDEADLK
            assert mutex.owned
        assert current(engine).spl == 0 and current(engine).mtx_count == 0

    engine.spawn(work)
    engine.run()
    assert not mutex.is_held


@pytest.mark.parametrize("ipl", [IPL.NONE, IPL.NET])
def test_release_and_assert_need_the_owner(ipl: IPL) -> None:
    engine = make(2)
    mutex = Mutex(engine, "list", ipl)
    assert errno_of(mutex.exit) == EPERM
    assert errno_of(mutex.assert_held) == EDEADLK
    with mutex:
        mutex.assert_held()

        def other() -> None:
            assert mutex.is_held and not mutex.owned
            assert errno_of(mutex.exit) == EPERM
            assert errno_of(mutex.assert_held) == EDEADLK
            seen.append(mutex.holder)

        seen: list[str] = []
        engine.spawn(other, cpu=1)
        engine.run()
        assert len(seen) == 1 and "control" in seen[0]
    assert mutex.holder == "nobody"


@pytest.mark.parametrize("ipl", [IPL.NONE, IPL.NET])
def test_destroyed_while_held_is_busy_and_used_after_is_invalid(ipl: IPL) -> None:
    mutex = Mutex(make(), "list", ipl)
    with mutex:
        assert errno_of(mutex.destroy) == EBUSY
    mutex.destroy()
    for call in (mutex.enter, mutex.try_enter, mutex.destroy):
        assert errno_of(call) == EINVAL


@pytest.mark.parametrize("clock", ["virtual", "wall"])
@pytest.mark.parametrize("ipl", [IPL.NONE, IPL.SOFTNET, IPL.NET, IPL.HIGH])
def test_one_at_a_time_with_every_kind_of_caller(clock: str, ipl: IPL, seed: int) -> None:
    """Threads and softints on each CPU, and hard handlers where the mutex lets them in."""
    with Actors(clock, ncpu=3, seed=seed) as actors:
        mutex = Mutex(actors.engine, "m", ipl)
        inside: list[str] = []
        most = 0
        rounds = 30

        def section(who: str) -> None:
            nonlocal most
            with mutex:
                inside.append(who)
                most = max(most, len(inside))
                actors.work(300)
                inside.remove(who)
            actors.work(100)

        for cpu in range(3):
            actors.thread(lambda who=f"thread {cpu}": [section(who) for _ in range(rounds)], cpu)
            actors.softint("net", lambda who=f"soft {cpu}": section(who), cpu, rounds)
            if mutex.is_spin:
                actors.interrupt(IPL.VM, lambda who=f"hard {cpu}": section(who), cpu, rounds)
        total = actors.finish()
        assert most == 1 and not inside and not mutex.is_held
        assert total == 3 * (rounds * (3 if mutex.is_spin else 2))
        assert all(cpu.spl == 0 and cpu.mtx_count == 0 for cpu in actors.engine.cpus)


# --- adaptive


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


def switches(engine: object, name: str) -> int:
    """How often a thread got its CPU."""
    return sum(each.handler == name for each in engine.activations)  # type: ignore[attr-defined]


def test_it_spins_while_the_owner_runs_and_sleeps_while_it_does_not() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m")
    got: list[int] = []

    def owner(is_asleep: bool) -> None:
        with mutex:
            if is_asleep:
                engine.sleep(20e-6)
            else:
                engine.charge("work", 20_000)

    def wants() -> None:
        engine.charge("work", 500)
        with mutex:
            got.append(engine.now_ns())

    engine.spawn(lambda: owner(False), cpu=0, name="owner")
    engine.spawn(wants, cpu=1, name="spinner")
    engine.run()
    assert switches(engine, "spinner") == 1  # never left its CPU
    assert got == [500 + 10 + 20_000 + 20]  # switch, lock, work; the handoff of a line

    engine.spawn(lambda: owner(True), cpu=0, name="owner")
    engine.spawn(wants, cpu=1, name="sleeper")
    engine.run()
    assert switches(engine, "sleeper") == 2


def test_it_stops_spinning_when_the_owner_goes_to_sleep() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m")

    def owner() -> None:
        with mutex:
            engine.charge("work", 5000)
            engine.sleep(50e-6)

    def wants() -> None:
        engine.charge("work", 500)
        mutex.enter()
        mutex.exit()

    def neighbour() -> None:
        ran_at.append(engine.now_ns())

    ran_at: list[int] = []
    engine.spawn(owner, cpu=0)
    engine.spawn(wants, cpu=1, name="wants")
    engine.spawn(neighbour, cpu=1)  # gets the CPU when the spinner sleeps
    engine.run()
    assert switches(engine, "wants") == 2
    assert 5000 < ran_at[0] < 50_000


def test_it_does_not_spin_for_an_owner_pinned_under_a_softint() -> None:
    engine = make(2)
    mutex = Mutex(engine, "m")
    si = engine.softints.establish("net", lambda _: engine.charge("work", 30_000), name="long")

    def owner() -> None:
        with mutex:
            engine.softints.schedule(si)

    def wants() -> None:
        engine.charge("work", 2000)
        mutex.enter()
        mutex.exit()

    engine.spawn(owner, cpu=0)
    engine.spawn(wants, cpu=1, name="wants")
    engine.run()
    assert switches(engine, "wants") == 2


def test_kernel_lock_and_a_mutex_do_not_deadlock() -> None:
    """CPU 0: mutex, then KERNEL_LOCK.  CPU 1: KERNEL_LOCK, then mutex, whose owner runs: it spins."""
    engine = make(2, "GENERIC")
    mutex = Mutex(engine, "m")
    done: list[str] = []

    def first() -> None:
        with mutex:
            engine.charge("work", 3000)
            engine.kernel_lock.enter()  # held by the other, which waits for the mutex
            done.append("first")
            engine.kernel_lock.exit()

    def second() -> None:
        engine.kernel_lock.enter()
        engine.charge("work", 1000)
        with mutex:
            done.append("second")
        engine.kernel_lock.exit()

    engine.spawn(first, cpu=0)
    engine.spawn(second, cpu=1, name="second")
    engine.run()
    assert done == ["first", "second"]
    assert switches(engine, "second") == 2  # it spun first, gave up, and slept without KERNEL_LOCK


def test_without_giving_up_that_is_a_deadlock() -> None:
    """The test above can fail: with an adaptive mutex that spins for any running owner it does."""
    engine = make(2, "GENERIC")

    class Stubborn(Mutex):
        def _may_spin(self) -> bool:
            return self._owner is None or self._owner.is_running

    mutex = Stubborn(engine, "m")

    def first() -> None:
        with mutex:
            engine.charge("work", 3000)
            engine.kernel_lock.enter()
            engine.kernel_lock.exit()

    def second() -> None:
        engine.kernel_lock.enter()
        engine.charge("work", 1000)
        mutex.enter()

    engine.spawn(first, cpu=0)
    engine.spawn(second, cpu=1)
    with pytest.raises(NetstackError, match="nothing runs") as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


def test_a_sleeper_has_given_up_kernel_lock_and_gets_it_back_to_its_depth() -> None:
    engine = make(2, "GENERIC")
    mutex = Mutex(engine, "m")
    lock = engine.kernel_lock
    seen: list[object] = []

    def owner() -> None:
        with mutex:
            engine.sleep(50e-6)

    def wants() -> None:
        engine.charge("work", 1000)
        lock.enter()
        lock.enter()
        mutex.enter()
        seen.append(("back", lock.lock.depth))  # type: ignore[attr-defined]
        mutex.exit()
        lock.exit()
        lock.exit()

    def other() -> None:
        engine.sleep(20e-6)
        lock.enter()
        seen.append(("other", lock.lock.depth))  # type: ignore[attr-defined]
        lock.exit()

    engine.spawn(owner, cpu=0)
    engine.spawn(wants, cpu=1)
    engine.spawn(other, cpu=0)
    engine.run()
    assert seen == [("other", 1), ("back", 2)]


def test_a_circle_of_owners_is_named_and_not_waited_for() -> None:
    engine = make(3)
    locks = [Mutex(engine, name) for name in ("a", "b", "c")]
    errors: list[str] = []

    def work(i: int) -> None:
        with locks[i]:
            engine.sleep(5e-6)
            try:
                with locks[(i + 1) % 3]:
                    pass
            except NetstackError as error:
                assert error.errno == EDEADLK
                errors.append(str(error))

    for i in range(3):
        engine.spawn(lambda i=i: work(i), cpu=i, name=f"t{i}")
    engine.run()
    assert len(errors) == 1
    assert all(word in errors[0] for word in ("mutex", "t0", "t1", "t2")) or "held by" in errors[0]
    assert not any(lock.is_held for lock in locks)


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_a_wait_with_a_limit_ends_and_names_the_owner(clock: str) -> None:
    with Actors(clock, ncpu=2) as actors:
        mutex = Mutex(actors.engine, "m")
        mutex.enter()
        errors: list[NetstackError] = []

        def wants() -> None:
            with pytest.raises(NetstackError, match="mutex m, held by") as caught:
                mutex.enter(timeout_s=0.01)
            errors.append(caught.value)

        actors.thread(wants, 1)
        actors.until(lambda: bool(errors))
        assert errors[0].errno == ETIMEDOUT
        mutex.exit()
        mutex.enter()  # the one that gave up left nothing behind
        mutex.exit()


def test_the_control_program_waits_for_a_thread_and_hears_of_a_deadlock() -> None:
    engine = make()
    mutex = Mutex(engine, "m")

    def owner(seconds: float) -> None:
        mutex.enter()
        engine.sleep(seconds)
        if seconds < 1:
            mutex.exit()

    engine.spawn(lambda: owner(1e-3))
    engine.run(seconds=1e-4)
    with mutex:
        assert engine.now_ns() >= 1_000_000
    engine.spawn(lambda: owner(1.0), name="forgets")
    engine.run(seconds=1e-4)
    with pytest.raises(NetstackError, match="mutex m, held by forgets") as caught:
        mutex.enter()
    assert caught.value.errno == EDEADLK


@pytest.mark.parametrize("level", LEVELS)
def test_an_interrupt_may_not_take_an_adaptive_one_and_a_softint_may(level: str) -> None:
    engine = make()
    mutex = Mutex(engine, "list")
    got: list[str] = []

    def soft(_: object) -> None:
        with mutex:
            got.append("soft")

    si = engine.softints.establish(level, soft)
    engine.softints.schedule_cpu(si, 0)
    engine.run()
    assert got == ["soft"]
    Device(engine, "dev", then=mutex.enter).fire_at(engine.now_ns() + 10)
    with pytest.raises(NetstackError, match=r"mutex \(adaptive\): not from hard") as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


# --- wakeups


def test_no_wakeup_is_lost_under_random_schedules(seed: int) -> None:
    """Every thread gets its turns, whatever the lengths of sections and pauses."""
    for round_seed in range(seed, seed + 40):
        draw = random.Random(round_seed)
        engine = make(4, seed=round_seed)
        mutex = Mutex(engine, "m")
        done: list[int] = []

        def work(who: int, engine=engine, mutex=mutex, done=done, draw=draw) -> None:  # type: ignore[no-untyped-def]
            for _ in range(6):
                with mutex:
                    kind = draw.randrange(3)
                    if kind == 0:
                        engine.sleep(draw.randrange(1, 3000) * 1e-9)
                    elif kind == 1:
                        engine.charge("work", draw.randrange(1, 2000))
                engine.charge("work", draw.randrange(1, 500))
            done.append(who)

        for who in range(8):
            engine.spawn(lambda who=who, work=work: work(who), cpu=who % 4)
        engine.run()
        assert sorted(done) == list(range(8)), f"seed {round_seed}"
