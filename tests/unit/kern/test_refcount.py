"""Reference counts with a drain (paper §3.2.2)."""

import threading
from errno import EDEADLK, EINVAL, ETIMEDOUT
from typing import Any

import pytest
from sim.rig import Device, make

from netstack import NetstackError
from netstack.kern.refcount import Refcount


def test_drain_waits_for_the_last_reference_whoever_gives_it_back() -> None:
    engine = make(3)
    refs = Refcount(engine, "wm0")
    order: list[str] = []

    def hold(seconds: float) -> None:
        refs.hold()
        engine.sleep(seconds)
        order.append("released")
        refs.release()

    engine.spawn(lambda: hold(1e-3), cpu=1)
    refs.hold()  # taken here, given back by a thread of another CPU

    def give_back() -> None:
        engine.sleep(2e-3)
        order.append("released")
        refs.release()

    engine.spawn(give_back, cpu=2)
    engine.run(seconds=1e-6)
    assert refs.count == 2
    refs.drain()
    order.append("drained")
    assert order == ["released", "released", "drained"]
    with pytest.raises(NetstackError, match="destroyed") as caught:
        refs.hold()
    assert caught.value.errno == EINVAL


def test_who_holds_may_hold_again_while_it_drains() -> None:
    engine = make()
    refs = Refcount(engine, "wm0")

    def work() -> None:
        with refs:
            engine.sleep(1e-3)
            with refs:
                engine.sleep(1e-3)

    engine.spawn(work)
    engine.run(seconds=1e-6)
    refs.drain()
    assert refs.count == 0 and engine.now_ns() >= 2_000_000


def test_errors() -> None:
    engine = make()
    refs = Refcount(engine, "wm0")
    with pytest.raises(NetstackError, match="more often") as caught:
        refs.release()
    assert caught.value.errno == EINVAL
    refs.hold()
    engine.spawn(lambda: engine.sleep(5.0))
    with pytest.raises(NetstackError, match=r"wm0 \(1 are out\)") as caught:
        refs.drain(timeout_s=1.0)
    assert caught.value.errno == ETIMEDOUT
    refs.release()
    refs.drain()


@pytest.mark.parametrize("context", ["hard", "soft"])
def test_only_threads_drain(context: str) -> None:
    engine = make()
    refs = Refcount(engine, "wm0")
    if context == "hard":
        Device(engine, "dev", then=refs.drain).fire()
    else:
        engine.softints.schedule_cpu(
            engine.softints.establish("net", lambda _: refs.drain()), 0
        )
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


def test_no_count_is_lost_between_threads(machine: Any) -> None:
    m = machine(clock="wall")
    refs = Refcount(m.engine, "wm0")
    refs.hold()

    def churn() -> None:
        for _ in range(2000):
            refs.hold()
            refs.release()

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refs.count == 1
    refs.release()
    refs.drain()
