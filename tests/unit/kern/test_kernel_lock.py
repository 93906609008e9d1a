"""KERNEL_LOCK and softnet_lock (paper §2.1, §2.2.1)."""

from collections.abc import Callable
from errno import EPERM
from typing import Any

import pytest
from sim.rig import Device, current, make
from unit.kern.kernrig import Actors

from netstack import Machine, NetstackError
from netstack.kern.kernel_lock import KernelLock
from netstack.kern.mutex import Mutex
from netstack.machine.virtual import VirtualEngine


def big(engine: VirtualEngine) -> KernelLock:
    lock = engine.kernel_lock
    assert isinstance(lock, KernelLock)
    return lock


def test_it_nests_in_any_context() -> None:
    engine = make(kernel="GENERIC")
    depths: list[tuple[object, int]] = []

    def note(_: object = None) -> None:
        lock = big(engine)
        lock.enter()
        depths.append((current(engine).context, lock.lock.depth))
        engine.charge("work", 500)
        lock.exit()

    si = engine.softints.establish("net", note)
    Device(engine, "dev", then=note, softint=si).fire_at(600)
    engine.spawn(note)
    engine.run()
    # The interrupt and its softint came while the thread held the lock on this CPU.
    assert depths == [("thread", 1), ("hard", 3), ("soft", 3)]
    assert big(engine).lock.depth == 0 and big(engine).lock.contended == 0


@pytest.mark.parametrize(("kernel", "most"), [("GENERIC", 1), ("NET_MPSAFE", 4)])
def test_generic_runs_handlers_on_one_cpu_at_a_time(kernel: str, most: int) -> None:
    engine = make(4, kernel)
    inside = [0] * 4
    seen = 0

    def work(_: object = None) -> None:
        nonlocal seen
        index = current(engine).index
        inside[index] += 1  # a hard handler may nest on a softint of its CPU
        seen = max(seen, sum(depth > 0 for depth in inside))
        engine.charge("work", 100)
        inside[index] -= 1

    si = engine.softints.establish("net", work)
    for cpu in range(4):
        device = Device(engine, f"q{cpu}", cpu=cpu, softint=si, then=work)
        for when_ns in range(0, 2000, 500):
            device.fire_at(when_ns)
    engine.run()
    assert seen == most
    stats = big(engine).stats()["KERNEL_LOCK"]
    assert (stats["acquired"] > 0) == (kernel == "GENERIC")
    assert (stats["contended"] > 0) == (stats["waited_ns"] > 0) == (kernel == "GENERIC")


def test_a_handler_that_is_not_mpsafe_is_locked_on_any_kernel() -> None:
    engine = make(2)
    lock = big(engine)
    held: list[tuple[str, bool, bool]] = []

    def note(name: str) -> None:
        held.append((name, lock.is_mine, lock.softnet_lock.is_mine))

    for level, mpsafe in (("net", True), ("net", False), ("bio", False)):
        name = f"{level} {mpsafe}"
        si = engine.softints.establish(level, note, name, mpsafe=mpsafe)
        engine.softints.schedule_cpu(si, 0)
    engine.run()
    assert sorted(held) == [
        ("bio False", True, False),
        ("net False", True, True),
        ("net True", False, False),
    ]


def test_softints_of_level_net_hold_softnet_lock_on_generic() -> None:
    engine = make(kernel="GENERIC")
    lock = big(engine)
    held: list[bool] = []
    si = engine.softints.establish("net", lambda _: held.append(lock.softnet_lock.is_mine))
    engine.softints.schedule_cpu(si, 0)
    engine.run()
    assert held == [True] and not lock.is_mine


def test_it_is_released_over_sleep_and_retaken_to_its_depth() -> None:
    engine = make(2, "GENERIC")
    lock = big(engine)
    order: list[tuple[str, int]] = []
    items: list[int] = []

    def sleeper() -> None:
        lock.enter()
        lock.enter()
        lock.enter()
        order.append(("before", lock.lock.depth))
        engine.wait_until(lambda: bool(items), "an item")
        order.append(("after", lock.lock.depth))
        for _ in range(3):
            lock.exit()

    def waker() -> None:
        engine.charge("work", 2000)
        lock.enter()
        order.append(("other", lock.lock.depth))
        items.append(1)
        engine.charge("work", 5000)
        order.append(("other leaves", lock.lock.depth))
        lock.exit()

    engine.spawn(sleeper, cpu=0)
    engine.spawn(waker, cpu=1)
    engine.run()
    assert order == [("before", 3), ("other", 1), ("other leaves", 1), ("after", 3)]
    assert lock.lock.depth == 0


def test_it_comes_back_after_a_wait_that_failed() -> None:
    engine = make(kernel="GENERIC")
    lock = big(engine)
    lock.enter()
    with pytest.raises(OSError, match="never"):
        engine.wait_until(lambda: False, "never")
    assert lock.is_mine
    lock.exit()


def test_held_is_both_locks_on_generic_and_nothing_on_mpsafe() -> None:
    for kernel, is_held in (("GENERIC", True), ("NET_MPSAFE", False)):
        engine = make(kernel=kernel)
        lock = big(engine)
        with lock.held():
            assert lock.is_mine is is_held and lock.softnet_lock.is_mine is is_held
        assert not lock.is_mine and not lock.softnet_lock.is_mine


def test_a_thread_with_softnet_lock_keeps_net_softints_off_its_cpu() -> None:
    engine = make()
    lock = big(engine)
    order: list[str] = []
    si = engine.softints.establish("net", lambda _: order.append("soft"), mpsafe=False)

    def work() -> None:
        s = lock.softnet_enter()
        engine.softints.schedule(si)
        engine.charge("work", 1000)
        order.append("thread")
        lock.softnet_exit(s)

    engine.spawn(work)
    engine.run()
    assert order == ["thread", "soft"]


@pytest.mark.parametrize("clock", ["virtual", "wall"])
@pytest.mark.parametrize("kernel", ["GENERIC", "NET_MPSAFE"])
def test_only_who_holds_it_releases_it(clock: str, kernel: str) -> None:
    with Actors(clock, kernel=kernel) as actors:
        lock = actors.engine.kernel_lock
        with pytest.raises(NetstackError) as caught:
            lock.exit()
        assert caught.value.errno == EPERM


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_a_thread_that_sleeps_gives_up_every_level_on_either_machine(clock: str) -> None:
    with Actors(clock, ncpu=2, kernel="GENERIC") as actors:
        engine = actors.engine
        lock = engine.kernel_lock
        seen: list[tuple[str, int]] = []

        def sleeper() -> None:
            for _ in range(3):
                lock.enter()
            engine.wait_until(lambda: ("other", 1) in seen, "the other", 60.0)
            seen.append(("back", lock.lock.depth))
            for _ in range(3):
                lock.exit()

        def other() -> None:
            lock.enter()
            seen.append(("other", lock.lock.depth))
            lock.exit()

        actors.thread(sleeper, 0)
        actors.thread(other, 1)
        actors.finish()
        assert seen == [("other", 1), ("back", 3)] and lock.lock.depth == 0


@pytest.mark.parametrize("big_lock", ["KERNEL_LOCK", "softnet_lock"])
@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_against_a_mutex_in_the_other_order_nobody_hangs(clock: str, big_lock: str) -> None:
    """Half take the mutex first, half the big lock; both spin, and that alone would never end."""
    with Actors(clock, ncpu=4, kernel="GENERIC") as actors:
        engine = actors.engine
        lock = engine.kernel_lock
        mutex = Mutex(engine, "m")
        rounds = 20
        inside = 0

        def take() -> int:
            if big_lock == "softnet_lock":
                return int(lock.softnet_enter())
            lock.enter()
            return 0

        def drop(s: int) -> None:
            if big_lock == "softnet_lock":
                lock.softnet_exit(s)
            else:
                lock.exit()

        def mutex_first() -> None:
            nonlocal inside
            with mutex:
                actors.work(700)
                s = take()
                inside += 1
                assert inside == 1
                actors.work(300)
                inside -= 1
                drop(s)

        def mutex_last() -> None:
            nonlocal inside
            s = take()
            actors.work(500)
            with mutex:
                inside += 1
                assert inside == 1
                actors.work(300)
                inside -= 1
            drop(s)

        for cpu in range(4):
            fn = mutex_first if cpu % 2 else mutex_last
            actors.thread(lambda fn=fn: [fn() for _ in range(rounds)], cpu)
        assert actors.finish() == 4 * rounds
        assert not mutex.is_held and lock.lock.depth == lock.softnet_lock.depth == 0


def test_wrap_is_kernel_lock_around_what_is_not_mpsafe() -> None:
    lock = big(make())

    def driver(text: str, times: int = 1) -> tuple[str, bool]:
        return text * times, lock.is_mine

    assert lock.wrap(driver, True) is driver
    assert lock.wrap(driver, False)("x", times=2) == ("xx", True)
    assert not lock.is_mine

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        lock.wrap(fails, False)()
    assert not lock.is_mine


# --- under traffic


def frame_of(i: int) -> bytes:
    return bytes.fromhex("02000000bb0102000000aa01") + b"\x08\x00" + bytes([i & 0xFF]) * 46


def forwarded(
    machine: Callable[..., Any], count: int = 200, prepare: Callable[[Machine], object] | None = None, **settings: Any
) -> Machine:
    """Send frames through a bridge in a machine at work; return the machine."""
    m: Machine = machine(ncpu=2, **settings)
    wm0, wm1 = m.nic("wm0"), m.nic("wm1")
    m.bridge("bridge0", members=[wm0, wm1])
    if prepare is not None:
        prepare(m)
    for i in range(0, count, 10):
        wm0.wire.send([frame_of(i + k) for k in range(10)])
        m.run()
    assert len(wm1.wire.recv()) == count
    return m


PATHS = [("virtual", "stages"), ("virtual", "compiled"), ("wall", "stages"), ("wall", "compiled")]


@pytest.mark.parametrize("frame", ["softint", "classic"])
@pytest.mark.parametrize(("clock", "path"), PATHS)
def test_generic_really_runs_under_it_and_mpsafe_really_does_not(
    machine: Callable[..., Any], clock: str, path: str, frame: str
) -> None:
    taken = {}
    for kernel in ("GENERIC", "NET_MPSAFE"):
        m = forwarded(machine, clock=clock, path=path, frame=frame, kernel=kernel)
        stats = m.engine.kernel_lock.stats()  # type: ignore[attr-defined]
        taken[kernel] = stats["KERNEL_LOCK"]["acquired"]
        if kernel == "NET_MPSAFE":
            assert stats["softnet_lock"]["acquired"] == 0
    assert taken["NET_MPSAFE"] == 0
    assert taken["GENERIC"] >= 20  # at least once for each burst


@pytest.mark.parametrize(("clock", "path"), PATHS)
def test_a_driver_that_is_not_mpsafe_transmits_under_it_on_mpsafe_too(
    machine: Callable[..., Any], clock: str, path: str
) -> None:
    held: list[bool] = []

    def prepare(m: Machine) -> None:
        wm1 = m.interfaces["wm1"]
        own = wm1.if_transmit

        def transmit(ifp: Any, mv: Any, cpu: Any) -> None:
            held.append(m.engine.kernel_lock.is_mine)
            own(ifp, mv, cpu)

        wm1.set_transmit(transmit, mpsafe=False)

    m = forwarded(machine, prepare=prepare, clock=clock, path=path, kernel="NET_MPSAFE")
    assert held and all(held)
    stats = m.engine.kernel_lock.stats()  # type: ignore[attr-defined]
    assert stats["KERNEL_LOCK"]["acquired"] == len(held)
