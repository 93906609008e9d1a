"""Passive references (paper §3.2.2 asks for them; NetBSD psref(9))."""

from errno import EBUSY, EDEADLK, EINVAL

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError
from netstack.kern.psref import Psref, PsrefClass, PsrefTarget


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
