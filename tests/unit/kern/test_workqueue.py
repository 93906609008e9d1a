"""Work queues on both machines (NetBSD workqueue(9)), and against a model."""

import threading
from collections import deque
from errno import EDEADLK, EINVAL, ENXIO
from random import Random
from typing import Any

import pytest
from sim.rig import Device, current, make

from netstack import Machine, NetstackError
from netstack.kern.spl import IPL
from netstack.kern.workqueue import Periodic, Workqueue

CLOCKS = ("virtual", "wall")


def refused(errno: int, fn: Any, *args: Any, **options: Any) -> str:
    """Return the message of the error that a call must raise."""
    with pytest.raises(NetstackError) as caught:
        fn(*args, **options)
    assert caught.value.errno == errno
    return str(caught.value)


@pytest.mark.parametrize("clock", CLOCKS)
def test_items_run_once_in_order_in_a_thread(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, clock=clock)
    seen: list[tuple[int, object]] = []

    def work(item: int) -> None:
        cpu = m.engine.curcpu()
        m.engine.sleep(1e-6)
        seen.append((item, "thread" if cpu is None else cpu.context))

    queue = Workqueue(m.engine, "wq", work)
    si = m.engine.softints.establish("net", queue.enqueue, 99)
    for item in range(5):
        assert queue.enqueue(item)
    queue.wait()
    m.engine.softints.schedule_cpu(si, 1)
    m.engine.wait_until(lambda: si.runs == 1, "the softint")
    queue.wait(99)
    assert seen == [(item, "thread") for item in (0, 1, 2, 3, 4, 99)]
    assert (queue.enqueued, queue.joined, queue.ran) == (6, 0, 6)
    queue.destroy()


@pytest.mark.parametrize("clock", CLOCKS)
def test_an_item_waits_at_most_once_and_may_come_back_from_its_own_call(
    machine: Any, clock: str
) -> None:
    m = machine(clock=clock)
    gate = threading.Event()
    began: list[str] = []

    def work(arg: str) -> None:
        began.append(arg)
        if len(began) == 1:
            m.engine.wait_until(gate.is_set, "the test")
        if len(began) == 3:
            assert queue.enqueue("item", "again")

    queue = Workqueue(m.engine, "wq", work)
    assert queue.enqueue("item", "first")
    m.engine.wait_until(lambda: bool(began), "the first call")
    assert not queue.is_pending("item")  # it runs: it may be enqueued again, once
    assert queue.enqueue("item", "second")
    assert not queue.enqueue("item", "never seen")
    assert queue.is_pending("item")
    assert queue.enqueue("other")
    gate.set()
    queue.wait()
    assert began == ["first", "second", "other", "again"]
    assert (queue.enqueued, queue.joined, queue.ran) == (4, 1, 4)


def test_a_queue_per_cpu_runs_where_it_was_asked_for() -> None:
    engine = make(4)
    seen: list[tuple[object, int]] = []
    queue = Workqueue(
        engine, "wq", lambda item: seen.append((item, current(engine).index)), percpu=True
    )
    queue.enqueue("three", cpu=3)
    queue.enqueue("nobody's")
    si = engine.softints.establish("net", lambda _: queue.enqueue("two"))
    engine.softints.schedule_cpu(si, 2)
    queue.wait()
    engine.run()
    assert sorted(seen) == [("nobody's", 0), ("three", 3), ("two", 2)]
    assert not queue.is_pending("two")
    assert "no CPU 4" in refused(EINVAL, queue.enqueue, "x", cpu=4)
    plain = Workqueue(engine, "plain", print)
    assert "percpu=True" in refused(EINVAL, plain.enqueue, "x", cpu=0)


def test_an_item_of_a_per_cpu_queue_waits_on_one_cpu_only() -> None:
    engine = make(2)
    seen: list[int] = []
    queue = Workqueue(engine, "wq", lambda _: seen.append(current(engine).index), percpu=True)
    assert queue.enqueue("item", cpu=1) and not queue.enqueue("item", cpu=0)
    queue.wait()
    assert seen == [1]


@pytest.mark.parametrize("clock", CLOCKS)
def test_not_mpsafe_means_under_kernel_lock(machine: Any, clock: str) -> None:
    m = machine(clock=clock)
    seen: list[bool] = []
    for mpsafe in (False, True):
        queue = Workqueue(
            m.engine, "wq", lambda _: seen.append(m.engine.kernel_lock.is_mine), mpsafe=mpsafe
        )
        queue.enqueue()
        queue.wait()
    assert seen == [True, False]


def test_enqueue_from_above_the_level_is_refused() -> None:
    engine = make()
    errors: list[str] = []
    low = Workqueue(engine, "low", print, ipl=IPL.SOFTNET)
    seen: list[object] = []
    high = Workqueue(engine, "high", seen.append)

    def hard() -> None:
        errors.append(refused(EDEADLK, low.enqueue))
        high.enqueue("from a hard handler")

    Device(engine, "dev", then=hard).fire()
    engine.run()
    assert len(errors) == 1 and "ipl=5" in errors[0]
    assert seen == ["from a hard handler"]


def test_who_may_not_wait() -> None:
    engine = make()
    errors: list[str] = []
    queue = Workqueue(engine, "wq", lambda _: errors.append(refused(EDEADLK, queue.wait)))
    queue.enqueue()
    queue.wait()
    assert "waits for itself" in errors[0]
    si = engine.softints.establish(
        "net", lambda _: errors.append(refused(EDEADLK, queue.wait)) or refused(EDEADLK, queue.destroy)
    )
    engine.softints.schedule_cpu(si, 0)
    engine.run()
    assert len(errors) == 2


@pytest.mark.parametrize("clock", CLOCKS)
def test_destroy_does_what_is_left_and_takes_no_more(machine: Any, clock: str) -> None:
    m = machine(clock=clock)
    seen: list[int] = []
    queue = Workqueue(m.engine, "wq", seen.append)
    for item in range(3):
        queue.enqueue(item)
    queue.destroy()
    assert seen == [0, 1, 2]
    assert "destroyed" in refused(ENXIO, queue.enqueue, 9)
    refused(EINVAL, queue.destroy)


def test_a_failing_call_comes_out_and_the_others_go_on() -> None:
    engine = make()
    done: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("bad item")
        done.append(item)

    queue = Workqueue(engine, "wq", work)
    for item in range(4):
        queue.enqueue(item)
    with pytest.raises(ValueError, match="bad item"):
        engine.run()
    engine.run()
    assert done == [0, 2, 3]
    queue.wait()


def test_waiting_for_work_that_wants_a_lock_of_the_waiter_is_an_order_error() -> None:
    """LOCKDEBUG knows the function of a queue as a node: no deadlock has to happen."""
    with Machine(ncpu=1, lockdebug=True) as m:
        from netstack.kern.mutex import Mutex

        mutex = Mutex(m.engine, "config")

        def work(_: object) -> None:
            with mutex:
                pass

        queue = Workqueue(m.engine, "wq", work)
        queue.enqueue()
        queue.wait()  # the order becomes known: the function takes the mutex
        with pytest.raises(NetstackError, match="wq"), mutex:
            queue.wait()


def test_a_queue_refuses_nonsense() -> None:
    engine = make()
    refused(EINVAL, Workqueue, engine, "wq", print, cpu=1)
    refused(EINVAL, Periodic, engine, 0, print)


def test_periodic_work_happens_on_time_and_stops() -> None:
    engine = make()
    beats: list[int] = []
    periodic = Periodic(engine, 0.5, lambda: beats.append(engine.now_ns()), "ageing")
    periodic.start()
    periodic.start()
    engine.run()
    assert not beats and engine.now_ns() == 0
    engine.run(seconds=2.25)
    assert [beat // 10**8 for beat in beats] == [5, 10, 15, 20]
    periodic.stop()
    engine.run(seconds=5)
    assert len(beats) == 4
    periodic.start()
    engine.run(seconds=0.6)
    assert len(beats) == 5


def test_against_a_model(seed: int) -> None:
    """Random items, arguments, CPUs and times; a sequential model says what must have run."""
    rng = Random(seed)
    for _ in range(30):
        ncpu = rng.randint(1, 4)
        engine = make(ncpu, seed=rng.getrandbits(16))
        ran: list[list[tuple[int, int]]] = [[] for _ in range(ncpu)]
        expected: list[list[tuple[int, int]]] = [[] for _ in range(ncpu)]
        waiting: list[deque[int]] = [deque() for _ in range(ncpu)]  # the model's queues
        serial = 0

        def work(arg: tuple[int, int], engine: Any = engine, ran: Any = ran, w: Any = waiting) -> None:
            index = current(engine).index
            assert w[index].popleft() == arg[0]
            engine.charge("work", 50 + arg[1] % 7)
            ran[index].append(arg)

        queue = Workqueue(engine, "wq", work, percpu=True)
        for _ in range(60):
            action = rng.random()
            if action < 0.7:
                item, cpu = rng.randrange(6), rng.randrange(ncpu)
                is_new = not any(item in each for each in waiting)
                assert queue.enqueue(item, (item, serial), cpu) == is_new
                if is_new:
                    waiting[cpu].append(item)
                    expected[cpu].append((item, serial))
                serial += 1
            elif action < 0.95:
                engine.run(seconds=rng.randrange(2000) * 1e-9)
            else:
                queue.wait(rng.randrange(6))
        queue.destroy()
        assert ran == expected
        assert queue.ran == queue.enqueued == sum(map(len, expected))
        engine.close()


@pytest.mark.parametrize("percpu", [False, True])
def test_many_threads_enqueue_on_the_wall(machine: Any, percpu: bool) -> None:
    m = machine(ncpu=2, clock="wall")
    counts = [0] * 8
    accepted = [0] * 8
    queue = Workqueue(m.engine, "wq", lambda item: count(item), percpu=percpu)
    lock = threading.Lock()

    def count(item: int) -> None:
        with lock:
            counts[item] += 1

    def produce(item: int) -> None:
        for i in range(300):
            if queue.enqueue(item, cpu=i % 2 if percpu else None):
                accepted[item] += 1

    threads = [threading.Thread(target=produce, args=(item,)) for item in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.destroy()
    assert counts == accepted and sum(accepted) + queue.joined == 2400
