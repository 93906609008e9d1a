"""Passive references (paper §3.2.2 asks for them; NetBSD psref(9))."""

from errno import EBUSY, EDEADLK, EINVAL, ETIMEDOUT

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError
from netstack.kern.psref import Psref, PsrefClass, PsrefTarget
from netstack.kern.spl import IPL


def test_destroy_waits_for_the_last_holder() -> None:
    engine = make(3)
    klass = PsrefClass(engine, "member")
    target = PsrefTarget(klass, "wm0")
    order: list[str] = []

    def hold(seconds: float) -> None:
        with target.acquire():
            engine.sleep(seconds)
            order.append(f"released by CPU {current(engine).index}")

    engine.spawn(lambda: hold(2e-6), cpu=1)
    engine.spawn(lambda: hold(5e-6), cpu=2)
    engine.run(seconds=1e-6)
    assert target.count == 2
    target.destroy()
    order.append("destroyed")
    assert order == ["released by CPU 1", "released by CPU 2", "destroyed"]
    klass.destroy()


def test_a_reference_is_the_cpu_s() -> None:
    engine = make(2)
    target = PsrefTarget(PsrefClass(engine, "member"), "wm0")
    psrefs: list[Psref] = []

    def take() -> None:
        psrefs.append(target.acquire())
        assert target.is_held() and not target.is_held(engine.cpus[1])
        psrefs.append(psrefs[0].copy())

    engine.spawn(take, cpu=0)
    engine.run()
    assert target.count == 2
    engine.spawn(lambda: psrefs[0].release(), cpu=1)
    with pytest.raises(NetstackError, match="released on CPU 1") as caught:
        engine.run()
    assert caught.value.errno == EINVAL and target.count == 2


def test_a_double_release_is_told() -> None:
    engine = make()
    target = PsrefTarget(PsrefClass(engine, "member"), "wm0")
    psref = target.acquire()
    psref.release()
    with pytest.raises(NetstackError, match="released twice"):
        psref.release()


def test_what_is_being_destroyed_is_not_acquired() -> None:
    engine = make()
    target = PsrefTarget(PsrefClass(engine, "member"), "wm0")
    target.destroy()
    with pytest.raises(NetstackError) as caught:
        target.acquire()
    assert caught.value.errno == EINVAL
    with pytest.raises(NetstackError, match="destroyed already"):
        target.destroy()


def test_one_s_own_reference_is_a_deadlock() -> None:
    engine = make()
    target = PsrefTarget(PsrefClass(engine, "member"), "wm0")
    psref = target.acquire()
    with pytest.raises(NetstackError) as caught:
        target.destroy()
    assert caught.value.errno == EDEADLK and not target.is_draining
    psref.release()
    target.destroy()


def test_softints_acquire_and_hard_handlers_do_not() -> None:
    engine = make()
    target = PsrefTarget(PsrefClass(engine, "member"), "wm0")

    def use(_: object = None) -> None:
        with target.acquire():
            engine.charge("work", 5)

    si = engine.softints.establish("net", use)
    engine.softints.schedule_cpu(si, 0)
    engine.run()
    Device(engine, "dev", then=use).fire()
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


def test_a_class_with_targets_stays() -> None:
    engine = make()
    klass = PsrefClass(engine, "member")
    target = PsrefTarget(klass, "wm0")
    with pytest.raises(NetstackError) as caught:
        klass.destroy()
    assert caught.value.errno == EBUSY
    target.destroy()
    klass.destroy()


def test_a_timeout_names_the_holders_and_the_wait_can_go_on() -> None:
    engine = make(2)
    target = PsrefTarget(PsrefClass(engine, "member"), "wm0")

    def hold() -> None:
        with target.acquire():
            engine.sleep(1.0)

    engine.spawn(hold, cpu=1, name="slow holder")
    engine.run(seconds=1e-6)
    with pytest.raises(NetstackError, match="held by thread 'slow holder' on CPU 1") as caught:
        target.destroy(timeout_s=0.5)
    assert caught.value.errno == ETIMEDOUT and target.holders()
    with pytest.raises(NetstackError, match="being destroyed"):
        target.acquire()
    target.destroy()
    assert engine.now_ns() >= 1_000_000_000 and target.is_destroyed


def test_a_copy_may_be_taken_while_the_target_is_drained() -> None:
    engine = make(2)
    target = PsrefTarget(PsrefClass(engine, "member"), "wm0")
    order: list[str] = []

    def hold() -> None:
        first = target.acquire()
        engine.sleep(1e-3)
        assert target.is_draining
        second = first.copy()
        first.release()
        engine.sleep(1e-3)
        order.append("copy released")
        second.release()
        with pytest.raises(NetstackError, match="after its release"):
            second.copy()

    engine.spawn(hold, cpu=1)
    engine.run(seconds=1e-4)
    target.destroy()
    order.append("destroyed")
    assert order == ["copy released", "destroyed"]


def test_a_reference_is_the_thread_s() -> None:
    """Two threads of one CPU: who took it has to release it."""
    engine = make()
    target = PsrefTarget(PsrefClass(engine, "member"), "wm0")
    psrefs: list[Psref] = []

    def take() -> None:
        psrefs.append(target.acquire())
        engine.sleep(1e-3)
        psrefs[0].release()

    def steal() -> None:
        engine.sleep(1e-4)
        psrefs[0].release()

    engine.spawn(take, name="taker")
    engine.spawn(steal, name="thief")
    with pytest.raises(NetstackError, match=r"taken by thread 'taker'.*by thread 'thief'") as caught:
        engine.run()
    assert caught.value.errno == EINVAL
    engine.run()
    assert target.count == 0


@pytest.mark.parametrize("ipl", [IPL.SOFTNET, IPL.VM])
def test_a_class_for_hard_handlers_lets_them_in(ipl: int) -> None:
    engine = make()
    target = PsrefTarget(PsrefClass(engine, "member", ipl=ipl), "wm0")
    held: list[bool] = []

    def use() -> None:
        with target.acquire():
            held.append(target.is_held())

    Device(engine, "dev", ipl=IPL.VM, then=use).fire()
    if ipl == IPL.VM:
        engine.run()
        assert held == [True]
    else:
        with pytest.raises(NetstackError) as caught:
            engine.run()
        assert caught.value.errno == EDEADLK and not held
