"""Callouts, work queues, periodic work."""

from errno import EDEADLK, EINVAL

import pytest
from sim.rig import current, make

from netstack import NetstackError
from netstack.kern.callout import Callout, Periodic, Workqueue


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


def test_work_runs_in_a_thread_in_order_and_may_wait() -> None:
    engine = make()
    seen: list[tuple[int, object]] = []

    def work(item: int) -> None:
        engine.sleep(1e-6)
        seen.append((item, current(engine).context))

    queue = Workqueue(engine, "wq", work)
    si = engine.softints.establish("net", queue.enqueue, 2)
    queue.enqueue(1)
    engine.softints.schedule_cpu(si, 0)
    engine.at(20_000, lambda: queue.enqueue(3))
    engine.run()
    assert seen == [(1, "thread"), (2, "thread"), (3, "thread")]


def test_wait_for_a_queue() -> None:
    engine = make()
    done: list[int] = []
    queue = Workqueue(engine, "wq", done.append)
    for item in range(3):
        queue.enqueue(item)
    queue.wait()
    assert done == [0, 1, 2]
    si = engine.softints.establish("net", lambda _: queue.wait())
    engine.softints.schedule_cpu(si, 0)
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


def test_work_that_fails_does_not_block_the_queue() -> None:
    engine = make()
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            raise ValueError("bad item")
        done.append(item)

    queue = Workqueue(engine, "wq", work)
    queue.enqueue(0)
    with pytest.raises(ValueError, match="bad item"):
        engine.run()
    queue.enqueue(1)
    engine.run()
    assert done == [1]


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


@pytest.mark.parametrize(
    "make_it", [lambda e: Periodic(e, 0, print), lambda e: Callout(e, print, cpu=9)]
)
def test_nonsense_is_refused(make_it: object) -> None:
    with pytest.raises(NetstackError) as caught:
        make_it(make())  # type: ignore[operator]
    assert caught.value.errno == EINVAL
