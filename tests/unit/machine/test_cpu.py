"""Building CPUs, and the one reader of the kernel switch."""

from errno import EINVAL

import pytest

from netstack import Machine, NetstackError
from netstack._fast.intr import IntrController
from netstack._fast.mbuf import MbufPool
from netstack.machine.cpu import build_cpus, is_giant_locked


def test_cpus_share_what_they_should() -> None:
    pool = MbufPool(64, 4)
    controller = IntrController(4)
    parts = build_cpus(4, pool, "GENERIC", controller)
    assert [cpu.index for cpu in parts.cpus] == [0, 1, 2, 3]
    assert parts.controller is controller
    for cpu in parts.cpus:
        assert cpu.block.controller is controller
        assert cpu.block.softints is parts.softints and cpu.block.psz is parts.psz
        assert (cpu.spl, cpu.context, cpu.handler) == (0, None, "")


def test_only_generic_has_a_giant_lock() -> None:
    assert build_cpus(1, MbufPool(64, 1), "GENERIC").giant is not None
    assert build_cpus(1, MbufPool(64, 1), "NET_MPSAFE").giant is None
    assert is_giant_locked("GENERIC") and not is_giant_locked("NET_MPSAFE")


@pytest.mark.parametrize(("ncpu", "kernel"), [(0, "GENERIC"), (65, "GENERIC"), (1, "generic")])
def test_nonsense_is_refused(ncpu: int, kernel: str) -> None:
    with pytest.raises(NetstackError) as caught:
        build_cpus(ncpu, MbufPool(64, 1), kernel)
    assert caught.value.errno == EINVAL


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_run_goes_on_until_kernel_threads_are_done(clock: str) -> None:
    with Machine(ncpu=2, clock=clock) as m:
        done: list[str] = []

        def work() -> None:
            m.engine.sleep(0.15)
            done.append("worked")

        def runner() -> None:
            if clock == "wall":
                m.run()  # a thread that runs the machine does not wait for itself
            done.append("ran")

        m.spawn(work, cpu=1)
        m.spawn(runner, cpu=0)
        m.run()
        assert "worked" in done
        m.engine.wait_until(lambda: "ran" in done, "the thread that runs the machine")


def test_a_thread_that_cannot_go_on_does_not_keep_the_machine_running() -> None:
    with Machine(ncpu=2, clock="wall") as m:
        gate: list[int] = []
        lwp = m.spawn(lambda: m.engine.wait_until(lambda: bool(gate), "the test"))
        m.run()
        assert not lwp.is_done
        gate.append(1)
        m.engine.wait_until(lambda: lwp.is_done, "the thread")
