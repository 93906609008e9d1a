"""KERNEL_LOCK and softnet_lock (paper §2.1, §2.2.1)."""

import pytest
from sim.rig import Device, current, make

from netstack.kern.kernel_lock import KernelLock
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
