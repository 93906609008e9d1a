"""The compiled loop: one handler at a time, then as a thread of its own (paper §2.3.2, §3.3, §5.4)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from frames import frame, serial_of, station
from unit.fast.rig import Nic, Rig, own_mac

from netstack._fast import chain, kernels
from netstack._fast.ifnet import FLAG_LISTEN
from netstack._fast.intr import IntrSource
from netstack._fast.mbuf import MbufVec
from netstack._fast.wire import HwRxQueue

A, B = station(1), station(2)
NET, SERIAL = 2, 3
DEADLINE_S = 20.0


def burst(count: int, dst: bytes = B, first: int = 0) -> list[bytes]:
    return [frame(dst, A, serial) for serial in range(first, first + count)]


def softint_of(rig: Rig, nic: Nic, kind: str = "rx", level: int = NET) -> int:
    queue = nic.txq if kind == "tx" else nic.rxq
    handle = rig.softints.add(level, True, kind, queue)
    if kind == "rx":
        nic.rxq.softint = handle
    return handle


def sent(nic: Nic) -> list[int]:
    return [serial_of(each) for each in nic.cable_out.take()]


@contextmanager
def running(rig: Rig, cpu: int = 0) -> Iterator[None]:
    """Run the loop of a CPU in a thread of its own."""
    block = rig.cpus[cpu]
    chain.stop(block, False)
    thread = threading.Thread(target=chain.run, args=(block, 0), daemon=True)
    thread.start()
    try:
        yield
    finally:
        chain.stop(block, True)
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "the loop does not come back"


def eventually(condition: Callable[[], object]) -> None:
    """Wait for another thread's work; the deadline is for a test that fails."""
    tick = threading.Event()
    for _ in range(round(DEADLINE_S / 0.001)):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError("it did not happen")


# One handler.


def test_the_level_and_its_explore_twin() -> None:
    from netstack._fast import chain_explore, kernels_explore

    assert (chain.LEVEL, chain.IS_EXPLORE) == (kernels.LEVEL, False)
    assert chain_explore.LEVEL == kernels_explore.LEVEL == "explore"
    assert chain_explore.IS_EXPLORE and kernels_explore.IS_EXPLORE
    assert chain.CHECKED == kernels.CHECKED == chain_explore.CHECKED


def test_a_receive_softint_forwards_and_enables_the_interrupt() -> None:
    rig = Rig(2)
    nic, out = rig.nics
    handle = softint_of(rig, nic)
    nic.arrive(burst(10))
    assert chain.softint_run(rig.cpu, handle)
    assert sent(out) == list(range(10))
    assert (nic.source.enabled, nic.source.masked, nic.source.pending) == (False, True, True)
    assert not rig.cpu.softint_is_pending(NET)
    assert not rig.psz.in_section(0)
    assert (rig.cpu.counters["softints"], rig.in_use) == (1, 0)


@pytest.mark.parametrize(("limit", "runs"), [(1, 10), (3, 4), (4, 3), (10, 1), (11, 1), (1000, 1)])
def test_at_its_limit_the_softint_asks_to_run_again(limit: int, runs: int) -> None:
    rig = Rig(2)
    nic, out = rig.nics
    nic.rxq.limit = limit
    handle = softint_of(rig, nic)
    nic.arrive(burst(10))
    rig.cpu.softint_schedule(handle)
    count = 0
    while (taken := rig.cpu.softint_next(NET)) >= 0:
        assert taken == handle
        assert not (nic.source.enabled or nic.source.pending)
        chain.softint_run(rig.cpu, taken)
        count += 1
    assert (count, sent(out)) == (runs, list(range(10)))
    assert nic.source.pending, "the frames' own cause is sent when the driver enables"


def test_a_limit_beyond_a_vector_takes_several() -> None:
    rig = Rig(2, slots=1024, tx_slots=1024, nmbufs=8192)
    nic, out = rig.nics
    nic.rxq.limit = 700
    handle = softint_of(rig, nic)
    nic.arrive(burst(1000))
    chain.softint_run(rig.cpu, handle)
    assert len(sent(out)) == 700
    assert nic.ifp.counters()["rx_vectors"] == 3


def test_a_stopping_queue_is_left_alone_and_stays_disabled() -> None:
    rig = Rig(2)
    nic = rig.nics[0]
    handle = softint_of(rig, nic)
    nic.arrive(burst(3))
    nic.rxq.stopping = True
    chain.softint_run(rig.cpu, handle)
    assert (nic.rxq.ready, nic.source.enabled, nic.source.pending) == (3, False, False)


def test_python_handlers_are_not_the_chains() -> None:
    rig = Rig(1)
    handle = rig.softints.add(NET, True, "python")
    assert not chain.softint_run(rig.cpu, handle)
    rig.cpu.bind(4, "python")
    assert not chain.hardint_run(rig.cpu, 4)
    assert rig.cpu.counters["hardints"] == 0
    with pytest.raises(IndexError, match="no softint handle"):
        chain.softint_run(rig.cpu, handle + 1)
    with pytest.raises(IndexError, match="no interrupt slot"):
        chain.hardint_run(rig.cpu, 256)


def test_the_softint_frames_hard_handler_only_schedules() -> None:
    rig = Rig(2)
    nic, out = rig.nics
    handle = softint_of(rig, nic)
    rig.cpu.bind(7, "softdrv", nic.rxq, handle)
    nic.arrive(burst(2))
    assert chain.hardint_run(rig.cpu, 7)
    assert (rig.cpu.count(7), nic.rxq.ready, sent(out)) == (1, 2, [])
    assert rig.cpu.softint_next(NET) == handle


def test_the_classic_frames_hard_handler_drains_and_a_softint_forwards() -> None:
    rig = Rig(2)
    nic, out = rig.nics
    bridge = rig.softints.add(NET, True, "bridge")
    rig.cpu.fwdq_softint = bridge
    nic.rxq.limit = 1 << 30
    rig.cpu.bind(7, "classic", nic.rxq)
    nic.arrive(burst(10))
    assert chain.hardint_run(rig.cpu, 7)
    assert (rig.cpu.fwdq_len, sent(out)) == (10, [])
    assert nic.source.pending, "enabled again at the end"
    assert rig.cpu.softint_next(NET) == bridge
    chain.softint_run(rig.cpu, bridge)
    assert (rig.cpu.fwdq_len, sent(out), rig.in_use) == (0, list(range(10)), 0)


def test_a_classic_handler_at_its_limit_comes_again_by_interrupt() -> None:
    rig = Rig(2)
    nic = rig.nics[0]
    nic.rxq.limit = 3
    rig.cpu.bind(7, "classic", nic.rxq)
    nic.source.route(0, 7)
    nic.source.unmask()
    nic.arrive(burst(7))
    nic.source.enable()
    interrupts = 0
    while rig.cpu.intr_next() == 7:
        interrupts += 1
        chain.hardint_run(rig.cpu, 7)
    assert (interrupts, rig.cpu.fwdq_len, nic.source.enabled) == (3, 7, True)


def test_a_transmit_softint_takes_back_and_restarts() -> None:
    rig = Rig(1, tx_slots=8, bridged=False)
    nic = rig.nics[0]
    source = IntrSource(rig.controller)
    nic.txq.set_intr(source)
    handle = softint_of(rig, nic, "tx")
    nic.hwtx.enabled = False
    kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(12)))
    nic.hwtx.enabled = True
    nic.hwtx.run(0)
    chain.softint_run(rig.cpu, handle)
    assert (sent(nic), nic.txq.snd_len, source.enabled) == (list(range(12)), 0, True)


def test_slots_in_python_get_their_frames_by_the_punt_ring() -> None:
    rig = Rig(2)
    nic, out = rig.nics
    handle = softint_of(rig, nic)
    nic.ifp.table = "punt"
    nic.arrive([b"", *burst(2)])
    chain.softint_run(rig.cpu, handle)
    mv = MbufVec(rig.pool, 0)
    assert (rig.cpu.punt_take(mv), mv.rcvif) == ("input", 1)
    assert mv.frames() == [b"", *burst(2)], "unparsed: the hook sees all"
    mv.clear()
    nic.ifp.table = "bridge"
    out.ifp.tx_hook = True
    assert out.ifp.tx_hook
    nic.arrive(burst(3))
    chain.softint_run(rig.cpu, handle)
    assert (rig.cpu.punt_take(mv), mv.rcvif) == ("transmit", 2)
    assert (mv.frames(), sent(out)) == (burst(3), [])
    assert kernels.if_transmit(rig.cpu, out.ifp, mv) == 3
    assert sent(out) == [0, 1, 2], "the hook itself passes frames on"
    with pytest.raises(ValueError, match="no stage table"):
        nic.ifp.table = "layer 3"


def test_an_interface_in_no_bridge_keeps_what_is_for_it() -> None:
    rig = Rig(1, bridged=False)
    nic = rig.nics[0]
    nic.ifp.flags |= FLAG_LISTEN
    handle = softint_of(rig, nic)
    nic.arrive([*burst(2), *burst(1, own_mac(1), 9)])
    chain.softint_run(rig.cpu, handle)
    assert rig.cpu.punt_len == 1
    assert nic.ifp.drops() == {"not_for_us": 2}


def test_on_a_generic_kernel_handlers_take_the_giant_lock() -> None:
    rig = Rig(2, giant=True)
    nic = rig.nics[0]
    assert rig.giant is not None
    handle = softint_of(rig, nic)
    rig.cpu.bind(7, "classic", nic.rxq)
    nic.arrive(burst(2))
    chain.softint_run(rig.cpu, handle)
    chain.hardint_run(rig.cpu, 7)
    assert (rig.giant.acquired, rig.giant.held) == (2, False)


# A thread.


def test_the_loop_forwards_sleeps_and_wakes_by_itself(rig_fds: Callable[[Rig], None]) -> None:
    rig = Rig(2)
    nic, out = rig.nics
    rig_fds(rig)
    handle = softint_of(rig, nic)
    rig.cpu.bind(7, "softdrv", nic.rxq, handle)
    nic.source.route(0, 7)
    nic.source.unmask()
    nic.source.enable()
    with running(rig):
        for lap in range(5):
            eventually(lambda: rig.cpu.is_idle)
            nic.arrive(burst(20, first=20 * lap))
            eventually(lambda lap=lap: out.cable_out.passed == 20 * (lap + 1))
    assert sent(out) == list(range(100))
    assert rig.cpu.counters["idles"] > 0
    assert rig.cpu.count(7) == nic.source.raised > 0


def test_python_work_is_left_for_python_and_only_once(rig_fds: Callable[[Rig], None]) -> None:
    rig = Rig(1)
    rig_fds(rig)
    handles = [rig.softints.add(level, True, "python") for level in (NET, SERIAL)]
    with running(rig):
        for handle in (*handles, handles[0]):
            rig.cpu.softint_post_remote(handle)
        rig.controller.post(0, 9)
        eventually(lambda: rig.cpu.counters["python"])
        chain.pause(rig.cpu)
        taken = [rig.cpu.python_softint() for _ in range(3)]
        vectors = rig.cpu.python_vectors()
        chain.resume(rig.cpu)
    assert taken == [handles[1], handles[0], -1], "highest level first"
    assert vectors == [9]
    assert rig.cpu.python_vectors() == []


def test_a_paused_cpu_does_nothing(rig_fds: Callable[[Rig], None]) -> None:
    rig = Rig(2)
    nic, out = rig.nics
    rig_fds(rig)
    handle = softint_of(rig, nic)
    with running(rig):
        chain.pause(rig.cpu)
        loops = rig.cpu.counters["loops"]
        nic.arrive(burst(5))
        rig.cpu.softint_post_remote(handle)
        assert (rig.cpu.counters["loops"], out.cable_out.passed) == (loops, 0)
        chain.resume(rig.cpu)
        eventually(lambda: out.cable_out.passed == 5)


def test_watch_lists_and_generator_lists_end(rig_fds: Callable[[Rig], None]) -> None:
    rig = Rig(1)
    source = IntrSource(rig.controller)
    for fd in range(64):
        chain.watch(rig.cpu, 1000 + fd, source)
    with pytest.raises(OverflowError, match="64 descriptors"):
        chain.watch(rig.cpu, 2000, source)
    chain.unwatch(rig.cpu, 1007)
    chain.watch(rig.cpu, 2000, source)
    engine: HwRxQueue = rig.nics[0].hwrx
    chain.drive(rig.cpu, [engine] * 64)
    with pytest.raises(OverflowError, match="64 receive engines"):
        chain.drive(rig.cpu, [engine] * 65)
    chain.drive(rig.cpu, [])
