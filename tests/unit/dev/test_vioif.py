"""The virtio network driver and its device: features, pairs, full rings, stop, link, faults (paper §3.2.1)."""

import struct
from collections.abc import Callable
from errno import EINVAL
from itertools import product
from time import monotonic, sleep
from typing import Any

import pytest
from frames import frame, serial_of, station

from netstack import NetstackError
from netstack.dev.vioif import RESETS_MAX
from netstack.dev.vioif_queues import RING_SLOTS
from netstack.hw import vioif as model
from netstack.hw.vioif_regs import HEADER_BYTES, NO_VECTOR, VIRTIO_NET_F, VirtioStatus
from netstack.net.ifnet import IFF

CLOCKS = ["virtual", "wall"]
DRIVERS = ["softint", "classic"]
BOTH = list(product(CLOCKS, DRIVERS))
A, B = station(1), station(2)


def burst(count: int, first: int = 0) -> list[bytes]:
    return [frame(B, A, serial) for serial in range(first, first + count)]


def bridged(machine: Any, **settings: Any) -> tuple[Any, Any, Any]:
    """Return a machine with two virtio interfaces in a bridge."""
    m = machine(**{"ncpu": 2, "mbufs": 8192, **settings})
    nics = [m.nic("vioif0"), m.nic("vioif1")]
    m.bridge("bridge0", nics)
    return m, *nics


def forwards(m: Any, a: Any, b: Any, count: int = 20, first: int = 0) -> None:
    """Fail unless frames from one wire come out at the other, in order."""
    a.wire.send(burst(count, first))
    m.run()
    assert [serial_of(each) for each in b.wire.recv()] == list(range(first, first + count))
    m.audit()


# Forwarding.


WITHOUT = [
    VIRTIO_NET_F.INDIRECT_DESC,
    VIRTIO_NET_F.EVENT_IDX,
    VIRTIO_NET_F.INDIRECT_DESC | VIRTIO_NET_F.EVENT_IDX,
    VIRTIO_NET_F.CTRL_VQ,
    VIRTIO_NET_F.MQ,
    VIRTIO_NET_F.STATUS,
]


@pytest.mark.parametrize("without", WITHOUT, ids=str)
@pytest.mark.parametrize("driver", DRIVERS)
def test_features_the_device_does_not_offer(
    machine: Any, monkeypatch: pytest.MonkeyPatch, without: VIRTIO_NET_F, driver: str
) -> None:
    monkeypatch.setattr(model.VioifModel.__init__, "__defaults__", (model.OFFERED & ~without, None))
    m, a, b = bridged(machine, frame=driver)
    assert not a.driver.features & without
    for first in range(0, 600, 200):
        forwards(m, a, b, 200, first)


def test_a_device_without_version_1_is_refused(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = model.OFFERED & ~VIRTIO_NET_F.VERSION_1
    monkeypatch.setattr(model.VioifModel.__init__, "__defaults__", (offered, None))
    m = machine()
    with pytest.raises(NetstackError, match="refuses the features"):
        m.nic("vioif0")
    assert m.interfaces == {}
    assert m.intrctl.list() == []


def test_indices_wrap_in_full_traffic(machine: Any) -> None:
    m, a, b = bridged(machine)
    for ring in (a.rx_queues[0], b.tx_queues[0]):
        assert ring.vq.layout.size == RING_SLOTS
    for first in range(0, 70_000, 5000):
        forwards(m, a, b, 5000, first)
    assert a.hw.rx_engines[0].received == 70_000 > 0xFFFF


# Interrupts.


def test_a_vector_for_configuration_and_one_for_each_queue(machine: Any) -> None:
    m = machine(ncpu=2)
    ifp = m.nic("vioif0", rx_queues=2, tx_queues=2)
    assert [(row.name, row.intrid) for row in m.intrctl.list()] == [
        ("vioif0 CONFIG", "msix0 vec 0"),
        ("vioif0 RX0", "msix0 vec 1"),
        ("vioif0 TX0", "msix0 vec 2"),
        ("vioif0 RX1", "msix0 vec 3"),
        ("vioif0 TX1", "msix0 vec 4"),
    ]
    hw = ifp.hw
    assert [hw.queue(i).vector for i in range(5)] == [1, 2, 3, 4, NO_VECTOR]
    m.destroy(ifp)
    assert m.intrctl.list() == []


@pytest.mark.parametrize(("clock", "driver", "intr"), list(product(CLOCKS, DRIVERS, ["intx", "msi"])))
def test_one_pair_on_the_line(machine: Any, clock: str, driver: str, intr: str) -> None:
    m = machine(ncpu=2, mbufs=8192, clock=clock, frame=driver)
    a = m.nic("vioif0", rx_queues=2, tx_queues=2, intr=intr)
    b = m.nic("vioif1", intr=intr)
    m.bridge("bridge0", [a, b])
    assert (a.driver.intr_type, len(a.rx_queues), a.driver.active_pairs) == ("intx", 1, 1)
    assert [row.name for row in m.intrctl.list()] == ["vioif0 INTX", "vioif1 INTX"]
    for first in range(0, 300, 100):
        forwards(m, a, b, 100, first)


def test_a_device_without_msix_uses_the_line(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.VioifModel.__init__, "__defaults__", (model.OFFERED, 0))
    m, a, b = bridged(machine)
    assert a.driver.intr_type == "intx"
    forwards(m, a, b)


def test_too_few_vectors_give_the_line(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.VioifModel.__init__, "__defaults__", (model.OFFERED, 3))
    m = machine(ncpu=2)
    assert m.nic("vioif0").driver.intr_type == "msix"
    assert m.nic("vioif1", rx_queues=2, tx_queues=2).driver.intr_type == "intx"


# Pairs.


@pytest.mark.parametrize("clock", CLOCKS)
def test_flows_spread_over_the_pairs_and_keep_their_order(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, mbufs=8192, clock=clock)
    a = m.nic("vioif0", rx_queues=2, tx_queues=2)
    b = m.nic("vioif1", rx_queues=2, tx_queues=2)
    m.bridge("bridge0", [a, b])
    assert a.driver.active_pairs == 2
    sent = [flow(f"10.0.0.{i % 16}", i) for i in range(320)]
    a.wire.send(sent)
    m.run()
    got = b.wire.recv()
    assert sorted(got) == sorted(sent)
    for host in range(16):
        mine = [each for each in sent if each[29] == host]
        assert [each for each in got if each[29] == host] == mine
    assert all(q.frames > 0 for q in a.rx_queues)
    assert all(engine.frames > 0 for engine in b.hw.tx_engines)
    m.audit()


def flow(source: str, serial: int) -> bytes:
    """Return a UDP frame of a host; hosts have a station each."""
    address = bytes(map(int, source.split(".")))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 46, serial, 0, 64, 17, 0)
    return B + station(100 + address[3]) + b"\x08\x00" + head + address + b"\x0a\x01\0\1" + serial.to_bytes(26, "big")


def test_one_pair_when_the_device_does_not_grant_more(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.VioifModel, "set_pairs", lambda *_: False)
    m = machine(ncpu=2, mbufs=8192)
    a, b = m.nic("vioif0", rx_queues=2, tx_queues=2), m.nic("vioif1")
    m.bridge("bridge0", [a, b])
    assert a.driver.active_pairs == 1
    assert a.hw.control.refused == 1
    forwards(m, a, b)


def test_no_more_pairs_than_cpus(machine: Any) -> None:
    assert len(machine(ncpu=1).nic("vioif0", rx_queues=4, tx_queues=4).rx_queues) == 1


@pytest.mark.parametrize("settings", [{"rx_queues": 2}, {"rx_queues": 9, "tx_queues": 9}, {"rate": 1e9}])
def test_a_nic_that_cannot_be(machine: Any, settings: dict[str, Any]) -> None:
    m = machine()
    with pytest.raises(NetstackError) as caught:
        m.nic("vioif0", **settings)
    assert caught.value.errno == EINVAL
    assert m.interfaces == {}


# Transmit: full rings.


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_full_ring_waits_in_the_queue_and_goes_on(machine: Any, clock: str, driver: str) -> None:
    m, a, b = bridged(machine, clock=clock, frame=driver)
    txqs = b.tx_queues
    forwards(m, a, b, 1)
    b.hw.pause(True)
    for first in range(1, 401, 100):
        a.wire.send(burst(100, first))
        m.run()
    (txq,) = txqs
    assert (txq.in_ring, txq.snd_len, txq.is_full) == (RING_SLOTS, 400 - RING_SLOTS, True)
    m.audit()
    b.hw.pause(False)
    m.run()
    assert [serial_of(each) for each in b.wire.recv()] == list(range(1, 401))
    assert not txq.is_full
    m.audit()


def test_what_the_queue_does_not_hold_is_dropped_by_name(machine: Any) -> None:
    m, a, b = bridged(machine)
    forwards(m, a, b, 1)
    b.hw.pause(True)
    for first in range(0, 800, 100):
        a.wire.send(burst(100, first))
        m.run()
    assert b.block.drops() == {"snd_full": 800 - 2 * RING_SLOTS}
    m.audit()
    m.destroy(b)
    assert b.block.drops()["stopped"] == 2 * RING_SLOTS
    m.audit()


# Start, stop, link.


@pytest.mark.parametrize(("clock", "driver"), BOTH)
def test_stop_in_the_middle_of_the_upcall(machine: Any, clock: str, driver: str) -> None:
    """The flag is looked at again after if_input: what was not yet handed up never is (paper §3.2.1)."""
    m = machine(ncpu=2, mbufs=8192, clock=clock, frame=driver, drain="one", path="stages")
    a = m.nic("vioif0")
    seen: list[bytes] = []
    stopper: list[Any] = []
    late: list[int] = []

    def taker(_ifp: Any, mv: Any, _cpu: Any) -> None:
        seen.extend(mv.frames())  # and leave them: dropped as "hook"
        if len(seen) == 5:
            stopper.append(m.spawn(stop, cpu=1))

    def stop() -> None:
        a.driver.stop()
        late.append(len(seen))

    a.if_input = taker
    a.wire.send(burst(300))
    m.run()
    assert stopper[0].is_done
    assert [len(seen)] == late
    assert 5 <= len(seen) < 300
    assert a.rx_queues[0].stopping
    m.audit()
    a.driver.init()
    m.run()
    lost = a.block.drops().get("stopped", 0)
    assert len(seen) + lost == 300  # those that waited on the cable come after all
    m.audit()


@pytest.mark.parametrize(("clock", "driver"), BOTH)
def test_stop_while_if_input_runs_ends_the_activation(machine: Any, clock: str, driver: str) -> None:
    """The RX mutex is free during the upcall, so stop gets it; the flag is seen on the way back (paper §3.2.1)."""
    m = machine(ncpu=2, mbufs=8192, clock=clock, frame=driver, drain=1000, path="stages")
    a = m.nic("vioif0")
    rxq, seen, was_held = a.rx_queues[0], [], []

    def taker(_ifp: Any, mv: Any, cpu: Any) -> None:
        seen.append(len(mv))
        was_held.append(rxq.lock.is_held and rxq.lock.owned)
        if len(seen) > 1:
            return
        m.spawn(a.driver.stop, cpu=1 - cpu.index)
        give_up = monotonic() + 20
        while not rxq.stopping and monotonic() < give_up:
            m.engine.charge("rx", 10)
            sleep(0)

    a.if_input = taker
    a.wire.send(burst(3 * RING_SLOTS))
    m.run()
    assert seen == [RING_SLOTS]
    assert was_held == [False]
    assert rxq.stopping
    assert a.block.drops() == {"hook": RING_SLOTS, "stopped": RING_SLOTS}
    assert a.hw.rx_engines[0].resting == RING_SLOTS
    m.audit()


@pytest.mark.parametrize("clock", CLOCKS)
def test_two_cpus_send_through_one_queue(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, mbufs=8192, clock=clock, drain=3)
    a, b, c = (m.nic(f"vioif{i}") for i in range(3))
    m.bridge("bridge0", [a, b, c])
    c.wire.send(frame(B, B))
    m.run()
    for nic in (a, b):
        nic.wire.recv()
    assert a.rx_queues[0].handle.cpu != b.rx_queues[0].handle.cpu
    c.wire.recv()
    for nic, source in ((a, A), (b, station(3))):
        nic.wire.send([frame(station(9), source, serial) for serial in range(300)])
    m.run()
    got = c.wire.recv()
    for source in (A, station(3)):
        assert [serial_of(each) for each in got if each[6:12] == source] == list(range(300))
    m.audit()


@pytest.mark.parametrize(("clock", "driver"), BOTH)
def test_stop_and_start_in_full_traffic(machine: Any, clock: str, driver: str) -> None:
    m, a, b = bridged(machine, clock=clock, frame=driver, drain=7)
    forwards(m, a, b, 1)

    def toggle() -> None:
        for nic in (a, b, a, b):
            nic.driver.stop()
            assert nic.rx_queues[0].vq.outstanding == 0
            assert nic.tx_queues[0].in_ring == nic.tx_queues[0].snd_len == 0
            nic.driver.init()

    for first in range(0, 1500, 300):
        a.wire.send(burst(300, first))
        m.spawn(toggle, cpu=1)
        m.run()
        m.audit()
        got = [serial_of(each) for each in b.wire.recv()]
        assert got == sorted(got)
    forwards(m, a, b, 50)


def test_destroy_in_full_traffic(machine: Any) -> None:
    m, a, b = bridged(machine)
    free = m.pool.free_count
    a.wire.send(burst(500))
    m.spawn(lambda: m.destroy(a), cpu=1)
    m.spawn(lambda: m.destroy(b), cpu=0)
    m.run()
    assert m.intrctl.list() == []
    assert m.pool.free_count == free
    m.audit()
    with pytest.raises(NetstackError):
        a.wire.send(burst(1))


@pytest.mark.parametrize("clock", CLOCKS)
def test_an_interrupt_moves_in_full_traffic(machine: Any, clock: str) -> None:
    m, a, b = bridged(machine, clock=clock, drain="one")
    a.wire.send(burst(400))

    def move() -> None:
        for cpu in (1, 0, 1):
            m.intrctl.affinity("vioif0 RX0", cpu)

    m.spawn(move, cpu=0)
    m.run()
    assert sorted(serial_of(each) for each in b.wire.recv()) == list(range(400))
    m.audit()


def test_running_follows_the_link(machine: Any) -> None:
    m, a, b = bridged(machine)
    a.hw.set_link(False)
    m.run()
    assert not a.flags & IFF.RUNNING
    a.wire.send(burst(3))
    assert a.hw.turned_away == 3
    a.hw.set_link(True)
    m.run()
    assert a.flags & IFF.RUNNING
    forwards(m, a, b)


def test_an_empty_pool_is_counted_and_the_ring_goes_on(machine: Any) -> None:
    m = machine(mbufs=600)
    a, hog = m.nic("vioif0"), []
    a.if_input = lambda _ifp, mv, _cpu: hog.append(len(mv))
    from netstack._fast.mbuf import MbufVec

    held = [MbufVec(m.pool, 0) for _ in range(4)]
    for mv in held:
        while len(mv) < 256 and mv.append(bytes(60)):
            pass
    a.wire.send(burst(20))
    m.run()
    assert a.block.drops()["no_mbuf"] > 0
    for mv in held:
        mv.clear()
    before = sum(hog)
    a.wire.send(burst(20))
    m.run()
    assert sum(hog) == before + 20
    m.audit()


def test_a_slot_that_raises_does_not_stop_the_queue(machine: Any) -> None:
    m = machine()
    a, calls = m.nic("vioif0", mac="02:00:00:00:00:01"), []

    def slot(_ifp: Any, mv: Any, _cpu: Any) -> None:
        calls.append(mv.frames())
        if len(calls) == 1:
            raise RuntimeError("the slot's own")

    a.if_input = slot
    a.wire.send(burst(5))
    with pytest.raises(RuntimeError, match="the slot's own"):
        m.run()
    a.wire.send(burst(5, 5))
    m.run()
    assert [serial_of(each) for frames in calls for each in frames] == list(range(10))


# A driver that breaks rules: the device contains it, says so, and our driver resets it.


def corrupt_head(vq: Any) -> None:
    for slot in range(vq.size):
        vq.memory.u16[vq.layout.avail_ring + slot] = 999


def corrupt_index(vq: Any) -> None:
    vq.memory.u16[vq.layout.avail_idx] = (vq._added + 5000) & 0xFFFF


def corrupt_descriptor(vq: Any) -> None:
    for index in range(vq.size):
        vq.memory.u64[(vq.layout.desc - vq.memory.base) // 8 + 2 * index] = 0xDEAD_0000


BROKEN: list[tuple[Callable[[Any], None], str]] = [
    (corrupt_head, "descriptor 999"),
    (corrupt_index, "ahead"),
    (corrupt_descriptor, "not mapped"),
]


@pytest.mark.parametrize(("corrupt", "words"), BROKEN)
@pytest.mark.parametrize("direction", ["rx", "tx"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_the_device_contains_a_broken_ring_and_the_driver_resets_it(
    machine: Any, clock: str, direction: str, corrupt: Callable[[Any], None], words: str
) -> None:
    m, a, b = bridged(machine, clock=clock)
    forwards(m, a, b, 5)
    hw, queue = a.hw, (a.rx_queues if direction == "rx" else a.tx_queues)[0]
    if direction == "tx":
        hw.pause(True)
        for serial in range(3):
            b.wire.send(frame(A, B, serial))
        m.run()
    corrupt(queue.vq)
    before, faults = hw.resets, hw.faults
    seen: list[str] = []
    reset = hw._reset
    hw._reset = lambda: (seen.append(hw.fault), reset())
    if direction == "rx":
        a.wire.send(burst(RING_SLOTS + 1))  # more than the good entries the device may have seen
    else:
        hw.pause(False)
    m.engine.wait_until(lambda: a.driver.resets == 1 and bool(a.flags & IFF.RUNNING), "the driver to reset it")
    m.run()
    assert hw.faults > faults
    assert words in seen[0]
    assert seen[0].startswith("vioif0 ")
    assert hw.resets > before
    assert a.driver.resets == 1
    assert not hw.status & VirtioStatus.NEEDS_RESET
    b.wire.recv()
    m.audit()
    forwards(m, a, b, 20)


def lie_head(vq: Any) -> None:
    at = vq.layout.used_ring + 2 * (vq._taken & vq.layout.mask)
    vq.memory.u32[at] = 77_777
    vq.memory.u16[vq.layout.used_idx] = (vq._taken + 1) & 0xFFFF


def lie_length(vq: Any) -> None:
    at = vq.layout.used_ring + 2 * (vq._taken & vq.layout.mask)
    vq.memory.u32[at] = next(iter(vq._out))
    vq.memory.u32[at + 1] = 1 << 31
    vq.memory.u16[vq.layout.used_idx] = (vq._taken + 1) & 0xFFFF


def lie_short(vq: Any) -> None:
    lie_length(vq)
    vq.memory.u32[vq.layout.used_ring + 2 * (vq._taken & vq.layout.mask) + 1] = HEADER_BYTES - 1


def lie_index(vq: Any) -> None:
    vq.memory.u16[vq.layout.used_idx] = (vq._taken + 3000) & 0xFFFF


@pytest.mark.parametrize("lie", [lie_head, lie_length, lie_short, lie_index])
@pytest.mark.parametrize(("clock", "driver"), BOTH)
def test_the_driver_resets_a_device_whose_used_ring_lies(
    machine: Any, clock: str, driver: str, lie: Callable[[Any], None]
) -> None:
    m = machine(ncpu=2, mbufs=8192, clock=clock, frame=driver)
    a, b = m.nic("vioif0"), m.nic("vioif1")
    m.bridge("bridge0", [a, b])
    free = m.pool.free_count
    lie(a.rx_queues[0].vq)
    a.hw.msix.sources[1].raise_()
    a.hw.msix.sources[1].enable()
    m.engine.wait_until(lambda: a.driver.resets == 1 and bool(a.flags & IFF.RUNNING), "the driver to reset it")
    m.run()
    assert a.driver.fault == ""
    assert not a.rx_queues[0].stopping
    assert m.pool.free_count == free
    a.wire.send(burst(20))
    m.run()
    assert [serial_of(each) for each in b.wire.recv()] == list(range(20))
    assert a.flags & IFF.RUNNING
    m.close()  # the lie of a frame that never was cannot add up


def test_a_device_that_goes_on_lying_stays_down_by_name(machine: Any) -> None:
    m, a, b = bridged(machine)
    for _ in range(RESETS_MAX + 1):
        assert a.driver.fault == ""
        lie_head(a.rx_queues[0].vq)
        a.hw.msix.sources[1].raise_()
        a.hw.msix.sources[1].enable()
        m.run()
    assert "vioif0 rx0" in a.driver.fault
    assert "77777" in a.driver.fault
    assert not a.flags & IFF.RUNNING
    a.wire.send(burst(3))
    m.run()
    assert b.wire.recv() == []
    a.driver.stop()
    a.driver.init()
    a.wire.send(burst(20))
    m.run()
    assert [serial_of(each) for each in b.wire.recv()] == list(range(20))
    m.close()  # the lies of frames that never were cannot add up


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("direction", ["rx", "tx"])
def test_what_comes_between_the_last_look_and_enabling_is_not_lost(
    machine: Any, direction: str, driver: str
) -> None:
    m, a, b = bridged(machine, frame=driver)
    vq = (a.rx_queues if direction == "rx" else b.tx_queues)[0].vq
    enable, late = vq.start_intr, [True]

    def start_intr() -> bool:
        if late.pop():
            late.append(False)
            if direction == "rx":
                a.wire.send(burst(1, 7))
            else:
                b.hw.pause(False)
        else:
            late.append(False)
        return enable()

    vq.start_intr = start_intr
    b.hw.pause(direction == "tx")
    a.wire.send(burst(7))
    m.run()
    assert late == [False]
    assert len(b.wire.recv()) == (8 if direction == "rx" else 7)
    assert b.tx_queues[0].in_ring == 0
    m.audit()


def test_spurious_interrupts_do_nothing(machine: Any) -> None:
    m, a, b = bridged(machine)
    for source in a.hw.msix.sources:
        source.raise_()
        source.enable()
    m.run()
    assert a.driver.resets == 0
    forwards(m, a, b)
