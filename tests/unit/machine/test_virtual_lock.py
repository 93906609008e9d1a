"""Locks in virtual time: order, waiting time, who owns."""

import threading
from errno import EDEADLK, EPERM

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError


def test_waiters_come_first_come_first_served() -> None:
    engine = make(4)
    lock = engine.new_lock("test")
    order: list[tuple[int, int]] = []

    def work(delay: int) -> None:
        engine.charge("work", delay)
        lock.enter()
        order.append((current(engine).index, engine.now_ns()))
        engine.charge("work", 1000)
        lock.exit()

    for cpu, delay in ((0, 10), (1, 40), (2, 20), (3, 30)):
        engine.spawn(lambda delay=delay: work(delay), cpu=cpu)
    engine.run()
    # 500 the switch; a handoff costs 20.
    assert order == [(0, 510), (2, 1530), (3, 2550), (1, 3570)]
    assert (lock.acquired, lock.contended, lock.depth) == (4, 3, 0)
    assert lock.waited_ns == (1510 - 520) + (2530 - 530) + (3550 - 540)


def test_it_nests_on_its_cpu() -> None:
    engine = make()
    lock = engine.new_lock("test")

    def work() -> None:
        lock.enter()
        lock.enter()
        assert lock.depth == 2 and lock.is_mine
        lock.exit()
        assert lock.is_mine
        lock.exit()
        assert not lock.is_mine

    engine.spawn(work)
    engine.run()
    assert (lock.acquired, lock.contended) == (2, 0)


def test_only_the_holder_releases() -> None:
    lock = make().new_lock("test")
    with pytest.raises(NetstackError) as caught:
        lock.exit()
    assert caught.value.errno == EPERM


def test_a_spinner_takes_interrupts_and_then_the_lock() -> None:
    engine = make(2)
    lock = engine.new_lock("test")
    order: list[tuple[str, int]] = []

    def hold() -> None:
        lock.enter()
        engine.charge("work", 5000)
        lock.exit()

    def want() -> None:
        engine.charge("work", 100)
        lock.enter()
        order.append(("lock", engine.now_ns()))
        lock.exit()

    device = Device(engine, "dev", cpu=1, work=50)
    device.then = lambda: order.append(("interrupt", engine.now_ns()))
    engine.spawn(hold, cpu=0)
    engine.spawn(want, cpu=1)
    device.fire_at(2000)
    engine.run()
    assert order == [("interrupt", 2150), ("lock", 5520)]


def test_a_handler_on_a_spinning_cpu_may_want_the_same_lock() -> None:
    engine = make(3)
    lock = engine.new_lock("test")
    order: list[tuple[str, int]] = []

    def use(name: str, amount: int) -> None:
        lock.enter()
        order.append((name, current(engine).index))
        engine.charge("work", amount)
        lock.exit()

    engine.spawn(lambda: use("first", 5000), cpu=0)
    engine.at(600, lambda: engine.spawn(lambda: use("outer", 10), cpu=1))
    Device(engine, "dev", cpu=1, then=lambda: use("nested", 10)).fire_at(2000)
    engine.at(2500, lambda: engine.spawn(lambda: use("last", 10), cpu=2))
    engine.run()
    # CPU 1 queued once, before CPU 2; the interrupt finishes before what it interrupted.
    assert order == [("first", 0), ("nested", 1), ("outer", 1), ("last", 2)]
    assert lock.depth == 0


def test_a_holder_that_never_comes_back_is_named() -> None:
    engine = make(2)
    lock = engine.new_lock("big")
    lock.enter()  # the main program
    engine.spawn(lock.enter, cpu=1, name="victim")
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK
    assert "victim" in str(caught.value) and "big" in str(caught.value)
    assert "control thread" in str(caught.value)
    lock.exit()
    engine.run()
    assert lock.depth == 1


def test_the_main_program_waits_for_a_cpu() -> None:
    engine = make()
    lock = engine.new_lock("test")

    def hold() -> None:
        lock.enter()
        engine.charge("work", 1_000_000)
        engine.charge("work", 1_000_000)
        lock.exit()

    engine.spawn(hold)
    engine.run(seconds=1e-3)
    assert lock.depth == 1 and not lock.is_mine
    lock.enter()
    assert lock.is_mine and engine.now_ns() >= 2_000_000
    assert lock.release_all() == 1 and lock.release_all() == 0


def test_control_operations_take_turns_over_waiting() -> None:
    engine = make(2)
    order: list[str] = []

    def control(name: str) -> None:
        with engine.control_lock(), engine.control_lock():
            order.append(f"{name} begins")
            engine.sleep(1e-6)
            order.append(f"{name} ends")

    engine.spawn(lambda: control("a"), cpu=0)
    engine.spawn(lambda: control("b"), cpu=1)
    with engine.control_lock():
        engine.run()
        assert not order
    engine.run()
    assert [line[2:] for line in order] == ["begins", "ends"] * 2


def test_another_os_thread_waits_for_a_control_operation() -> None:
    engine = make()
    order: list[str] = []

    def elsewhere() -> None:
        with engine.control_lock():
            order.append("other thread")

    thread = threading.Thread(target=elsewhere)
    with engine.control_lock():
        thread.start()
        thread.join(0.05)
        order.append("main program")
    thread.join()
    assert order == ["main program", "other thread"]
